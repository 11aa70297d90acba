//! Copies bytes into a new file, a block at a time, with the checksum of all of them.

use std::path::{Path, PathBuf};

use runtime::{Block as _, File, OpenMode, Runtime};

use super::BackupError;
use crate::group::GROUP_ALIGNMENT;

/// A file that is being written front to back.
pub(super) struct Target<R: Runtime> {
    rt: R,
    path: PathBuf,
    file: R::File,
    block: R::Block,
    used: usize,
    position: u64,
    crc: u32,
}

impl<R: Runtime> Target<R> {
    /// Creates the file, in place of what a backup that was cut short may have left.
    pub(super) async fn create(rt: &R, path: PathBuf) -> Result<Self, BackupError> {
        match rt.remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BackupError::io("replace", &path)(error));
            }
            _ => {}
        }
        let file = rt.open(&path, OpenMode::CreateNew).await.map_err(BackupError::io("create", &path))?;
        Ok(Self { rt: rt.clone(), path, file, block: rt.block(0), used: 0, position: 0, crc: 0 })
    }

    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.rt.block_bytes() - self.used));
            self.block[self.used..self.used + now.len()].copy_from_slice(now);
            self.used += now.len();
            if self.used == self.rt.block_bytes() {
                self.write_block().await?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Makes it durable. Returns length and checksum.
    ///
    /// # Panics
    /// If the length is no multiple of a page: all that is copied has such a length.
    pub(super) async fn finish(mut self) -> Result<(u64, u32), BackupError> {
        if self.used > 0 {
            self.write_block().await?;
        }
        self.file.sync().await.map_err(BackupError::io("sync", &self.path))?;
        Ok((self.position, self.crc))
    }

    async fn write_block(&mut self) -> Result<(), BackupError> {
        assert!(self.used.is_multiple_of(GROUP_ALIGNMENT), "files of a log end at a page");
        let block = std::mem::replace(&mut self.block, self.rt.block(0));
        let written = self.file.write(block.freeze(self.used), self.position).await;
        written.map_err(BackupError::io("write", &self.path))?;
        self.position += self.used as u64;
        self.used = 0;
        Ok(())
    }
}

/// Copies all of `from`. Returns length and checksum.
pub(super) async fn copy_file<R: Runtime>(rt: &R, from: &Path, to: PathBuf) -> Result<(u64, u32), BackupError> {
    let source = Source::open(rt, from).await?;
    let mut target = Target::create(rt, to).await?;
    let mut position = 0;
    while let Some(bytes) = source.next(position).await? {
        position += bytes.len() as u64;
        target.write(&bytes).await?;
    }
    target.finish().await
}

/// Reads all of a file. Returns length and checksum.
pub(super) async fn read_file<R: Runtime>(rt: &R, path: &Path) -> Result<(u64, u32), BackupError> {
    let source = Source::open(rt, path).await?;
    let (mut position, mut crc) = (0, 0);
    while let Some(bytes) = source.next(position).await? {
        position += bytes.len() as u64;
        crc = crc32c::crc32c_append(crc, &bytes);
    }
    Ok((position, crc))
}

/// A file that is being read front to back.
struct Source<'a, R: Runtime> {
    rt: &'a R,
    path: &'a Path,
    file: R::File,
    len: u64,
}

impl<'a, R: Runtime> Source<'a, R> {
    async fn open(rt: &'a R, path: &'a Path) -> Result<Self, BackupError> {
        let file = rt.open(path, OpenMode::Read).await.map_err(BackupError::io("open", path))?;
        let len = file.len().await.map_err(BackupError::io("read", path))?;
        Ok(Self { rt, path, file, len })
    }

    /// The block at `position`; `None` at the end.
    async fn next(&self, position: u64) -> Result<Option<R::Frozen>, BackupError> {
        let step = (self.rt.block_bytes() as u64).min(self.len - position) as usize;
        if step == 0 {
            return Ok(None);
        }
        let read = self.file.read(position, step).await;
        read.map(Some).map_err(BackupError::io("read", self.path))
    }
}
