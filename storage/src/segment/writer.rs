//! Writes a segment front to back: batches in, a file that proves itself out.
//!
//! The one hard idea: every byte is touched once. A batch is copied into the block that goes to the disk, and the
//! checksum of each 64 KiB is taken while they are still in the cache; blocks are on their way to the disk while the next one
//! fills.

use std::{
    collections::VecDeque,
    io, mem,
    path::{Path, PathBuf},
};

use runtime::{BLOCK_ALIGNMENT, Block, File, OpenMode, Runtime, sabotage::planted};
use wire::record::Batches;

use super::{
    Location, SegmentId, SegmentMeta,
    checksum::{BlockChecksums, Seal},
    error::WriteError,
    file_name,
    footer::encode_key_entry,
    footer_builder::{FooterBuilder, Indexed},
    format::{HEADER_BYTES, Identity, encode_header},
    key_builder::KeyTables,
};
use crate::{PartitionId, index::key_index::Table};

/// So much of a segment is on its way to the disk at a time, unless somebody waits for it: what comes behind it in the disk's queue,
/// a sync group above all, waits for that long.
const WRITE_BYTES: usize = 256 << 10;

/// A segment is synced whenever this many bytes of it are not, so that the disk never has much to catch up with.
const UNSYNCED_BYTES_MAX: u64 = 4 << 20;

/// A segment being written. Dropped unfinished it leaves a file that is no segment, for the caller to remove.
pub struct SegmentWriter<R: Runtime> {
    identity: Identity,
    file: Output<R>,
    footer: FooterBuilder,
    keys: KeyTables,
}

/// The key tables of a segment hold this many keys at most; while it is written, each takes 48 bytes of memory.
const KEYS_MAX: usize = 1 << 20;

impl<R: Runtime> SegmentWriter<R> {
    /// Creates the file of segment `id` in `dir`, the directory of the log's segments. Every segment of the log has
    /// another id; `level` is 0 for the output of a flush and 1 for that of a merge.
    ///
    /// # Errors
    /// [`WriteError::Io`], also when the file exists.
    pub async fn create(rt: &R, dir: &Path, id: SegmentId, log_id: u128, level: u8) -> Result<Self, WriteError> {
        let identity = Identity { log_id, id, level };
        let mut file = Output::create(rt, dir.join(file_name(id)), identity.seal()).await?;
        file.append(&encode_header(&identity)).await?;
        Ok(Self { identity, file, footer: FooterBuilder::default(), keys: KeyTables::new(log_id, KEYS_MAX) })
    }

    /// Somebody waits for this segment: from now on whole blocks are written, so many at a time.
    pub(crate) fn hurry(&mut self, writes_max: usize) {
        self.file.write_bytes = self.file.block.len();
        self.file.writes_max = writes_max;
    }

    /// Gives `partition`, whose batches come next, a key table: what is pushed of it from now on can be found by key.
    pub async fn index_keys(&mut self, partition: PartitionId) {
        let rt = self.file.rt.clone();
        self.keys.turn_to(Some(partition), &rt).await;
    }

    /// Adds whole consecutive batches of one partition, behind all that was added before: partitions ascend, so do the
    /// offsets of each.
    ///
    /// # Errors
    /// Any: then the segment is lost, and the caller removes its file.
    pub async fn push(&mut self, partition: PartitionId, batches: &[u8]) -> Result<(), WriteError> {
        if self.try_push(partition, batches)? {
            return Ok(());
        }
        let position = self.file.end();
        self.file.append(batches).await?;
        self.index(partition, batches, position)
    }

    /// The same without ever waiting; `false`, and nothing was added, if the block at hand has no room for them.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn try_push(&mut self, partition: PartitionId, batches: &[u8]) -> Result<bool, WriteError> {
        if batches.len() >= self.file.room() {
            return Ok(false);
        }
        let position = self.file.end();
        self.file.fill(batches);
        self.index(partition, batches, position)?;
        Ok(true)
    }

    /// Notes where batches are that were just copied: a copy brings them into the cache faster than a walk from header to
    /// header would.
    fn index(&mut self, partition: PartitionId, batches: &[u8], position: u64) -> Result<(), WriteError> {
        let mut at = 0;
        for batch in Batches::new(batches) {
            let batch = batch.map_err(|source| WriteError::Batch { file: self.file.name(), at, source })?;
            self.footer
                .add(partition, Indexed::of(&batch), position + at as u64)
                .map_err(|source| WriteError::Disorder { file: self.file.name(), source })?;
            at += batch.bytes().len();
        }
        // A walk of its own, which most partitions do without. None of them is malformed, as was just seen.
        let mut keyed = Batches::new(batches).flatten();
        while self.keys.wants(partition)
            && let Some(batch) = keyed.next()
        {
            self.keys.add(&batch);
        }
        Ok(())
    }

    /// Bytes of batches added so far.
    pub fn batch_bytes(&self) -> u64 {
        self.file.end() - HEADER_BYTES
    }

    /// Writes the footer and syncs the file. The file's name is not durable yet: the caller syncs the directory, once for
    /// all segments of a flush or merge, before the manifest names them.
    ///
    /// # Errors
    /// As [`Self::push`].
    ///
    /// # Panics
    /// If nothing was pushed: there is no empty segment.
    pub async fn finish(mut self) -> Result<SegmentMeta, WriteError> {
        assert!(!self.footer.is_empty(), "a segment holds at least one batch");
        let batch_bytes = self.batch_bytes();
        let key_tables = self.write_key_tables().await?;
        self.file.pad().await?;
        let checksums = self.file.take_checksums();
        let footer = self.footer.finish(&self.identity, batch_bytes, self.file.end(), &checksums, &key_tables);
        self.file.append(footer.bytes()).await?;
        self.file.finish().await?;
        Ok(footer.meta(Location::Local))
    }

    /// Writes the key tables behind the batches. Answers what the footer says of them.
    async fn write_key_tables(&mut self) -> Result<Vec<u8>, WriteError> {
        let rt = self.file.rt.clone();
        self.keys.turn_to(None, &rt).await;
        let mut entries = Vec::new();
        for table in self.keys.take() {
            let place = Table::new(self.file.end(), table.keys).expect("the table is in memory");
            encode_key_entry(&mut entries, table.partition, &place);
            self.file.append(&table.bytes).await?;
        }
        Ok(entries)
    }
}

/// A new file that grows by whole blocks.
struct Output<R: Runtime> {
    rt: R,
    path: PathBuf,
    file: R::File,
    /// What is not on its way yet: the first `filled` bytes, which belong at `position` of the file.
    block: R::Block,
    filled: usize,
    /// So much is written at a time, if the block is large enough.
    write_bytes: usize,
    /// So many writes are under way at a time.
    writes_max: usize,
    position: u64,
    /// Those of all before `checksummed` in the block; the rest follows when 64 KiB are complete.
    checksums: BlockChecksums,
    checksummed: usize,
    /// Under way, the oldest first.
    writes: VecDeque<R::Task<io::Result<()>>>,
    /// Under way beside them: for the disk's sake, it proves nothing.
    syncing: Option<R::Task<io::Result<()>>>,
    unsynced_bytes: u64,
}

impl<R: Runtime> Output<R> {
    async fn create(rt: &R, path: PathBuf, seal: Seal) -> Result<Self, WriteError> {
        let file = rt.open(&path, OpenMode::CreateNew).await.map_err(WriteError::io("create", &path))?;
        Ok(Self {
            rt: rt.clone(),
            path,
            file,
            block: rt.block(0),
            filled: 0,
            write_bytes: WRITE_BYTES,
            writes_max: 1,
            position: 0,
            checksums: BlockChecksums::new(seal),
            checksummed: 0,
            writes: VecDeque::new(),
            syncing: None,
            unsynced_bytes: 0,
        })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Where the next byte goes, from the start of the file.
    fn end(&self) -> u64 {
        self.position + self.filled as u64
    }

    /// How much the block at hand takes before it is written.
    fn room(&self) -> usize {
        let full = self.filled.next_multiple_of(self.write_bytes).max(self.write_bytes);
        full.min(self.block.len()) - self.filled
    }

    async fn append(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(self.room()));
            self.fill(head);
            if self.room() == 0 {
                self.write_block().await?;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Copies into the block at hand, which has room for it.
    fn fill(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let until_checksum = self.checksums.room() - (self.filled - self.checksummed);
            let (head, rest) = bytes.split_at(bytes.len().min(until_checksum));
            self.block[self.filled..self.filled + head.len()].copy_from_slice(head);
            self.filled += head.len();
            if head.len() == until_checksum {
                self.update_checksums();
            }
            bytes = rest;
        }
    }

    /// Adds zeros up to a whole page.
    async fn pad(&mut self) -> Result<(), WriteError> {
        let padding = self.end().next_multiple_of(BLOCK_ALIGNMENT as u64) - self.end();
        self.append(&[0; BLOCK_ALIGNMENT][..padding as usize]).await
    }

    /// The checksums of all blocks so far, the last one short as it may be.
    fn take_checksums(&mut self) -> Vec<u8> {
        self.update_checksums();
        self.checksums.take()
    }

    /// Writes what is left, whole pages as it must be, and syncs.
    async fn finish(mut self) -> Result<(), WriteError> {
        self.settle_to(0).await?;
        self.settle_sync().await?;
        if self.filled > 0 {
            let bytes = self.block.freeze(self.filled);
            self.file.write(bytes, self.position).await.map_err(WriteError::io("write", &self.path))?;
        }
        if planted("flush edit before segment sync") {
            return Ok(());
        }
        self.file.sync().await.map_err(WriteError::io("sync", &self.path))
    }

    fn update_checksums(&mut self) {
        self.checksums.update(&self.block[self.checksummed..self.filled]);
        self.checksummed = self.filled;
    }

    /// Sends the full block on its way, once there is room for it among those before it, and goes on with another.
    async fn write_block(&mut self) -> Result<(), WriteError> {
        self.update_checksums();
        self.settle_to(self.writes_max - 1).await?;
        let bytes = mem::replace(&mut self.block, self.rt.block(0)).freeze(self.filled);
        let (file, position) = (self.file.clone(), self.position);
        self.position += self.filled as u64;
        self.unsynced_bytes += self.filled as u64;
        (self.filled, self.checksummed) = (0, 0);
        self.writes.push_back(self.rt.spawn_background(async move { file.write(bytes, position).await }));
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.settle_sync().await?;
            self.unsynced_bytes = 0;
            let file = self.file.clone();
            self.syncing = Some(self.rt.spawn_background(async move { file.sync().await }));
        }
        Ok(())
    }

    /// Waits until so many writes are left under way.
    async fn settle_to(&mut self, left: usize) -> Result<(), WriteError> {
        while self.writes.len() > left
            && let Some(write) = self.writes.pop_front()
        {
            write.await.map_err(WriteError::io("write", &self.path))?;
        }
        Ok(())
    }

    async fn settle_sync(&mut self) -> Result<(), WriteError> {
        match self.syncing.take() {
            Some(syncing) => syncing.await.map_err(WriteError::io("sync", &self.path)),
            None => Ok(()),
        }
    }
}
