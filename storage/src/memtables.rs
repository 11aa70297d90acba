//! The memtables of a log, oldest to newest: flushed ones kept as tail cache, sealed ones waiting for their flush, and the
//! active one that groups go to.

use std::{collections::VecDeque, ops::Range, rc::Rc};

use runtime::{Instant, Runtime, sabotage::planted};

use crate::{
    PartitionId,
    found::Last,
    index::key_hash::{KeyHash, KeyHasher},
    memtable::{Memtable, Slot, Taken},
    synced::Lsn,
    wal::files::WalFile,
};

/// See the module.
pub(crate) struct Memtables<R: Runtime> {
    clean: VecDeque<Memtable<R>>,
    sealed: VecDeque<Sealed<R>>,
    /// Memory of the sealed ones, which does not change any more.
    sealed_bytes: usize,
    active: Memtable<R>,
    /// One that was given up, emptied: the next active one.
    spare: Memtable<R>,
    active_file: Rc<WalFile<R>>,
    memory_bytes_max: usize,
    files_max: usize,
    short_of_files: bool,
}

/// A memtable that takes no more groups, and the WAL file whose image it is.
pub(crate) struct Sealed<R: Runtime> {
    pub(crate) memtable: Memtable<R>,
    pub(crate) file: Rc<WalFile<R>>,
    pub(crate) sealed_at: Instant,
}

impl<R: Runtime> Memtables<R> {
    pub(crate) fn new(
        sealed: VecDeque<Sealed<R>>,
        active_file: Rc<WalFile<R>>,
        memory_bytes_max: usize,
        files_max: usize,
    ) -> Self {
        Self {
            clean: VecDeque::new(),
            sealed_bytes: sealed.iter().map(|sealed| sealed.memtable.memory_bytes()).sum(),
            sealed,
            active: Memtable::default(),
            spare: Memtable::default(),
            active_file,
            memory_bytes_max,
            files_max,
            short_of_files: false,
        }
    }

    pub(crate) fn active_mut(&mut self) -> &mut Memtable<R> {
        &mut self.active
    }

    pub(crate) fn active_is_empty(&self) -> bool {
        self.active.group_count() == 0
    }

    pub(crate) fn active_file(&self) -> Rc<WalFile<R>> {
        self.active_file.clone()
    }

    /// Whether the active memtable takes a group of this many bytes.
    pub(crate) fn takes(&self, group_bytes: u64) -> bool {
        let file = &self.active_file;
        let fits = file.position.get() + group_bytes <= file.bytes;
        let has_memory = self.active.memory_bytes() < self.memory_bytes_max / 4;
        fits && (has_memory || self.active.group_count() == 0)
    }

    /// Seals the active memtable; the next one is the image of `file`.
    pub(crate) fn roll(&mut self, file: Rc<WalFile<R>>, now: Instant) {
        self.active.settle();
        let next = std::mem::take(&mut self.spare);
        let memtable = std::mem::replace(&mut self.active, next);
        let file = std::mem::replace(&mut self.active_file, file);
        self.sealed_bytes += memtable.memory_bytes();
        self.sealed.push_back(Sealed { memtable, file, sealed_at: now });
        self.shed();
    }

    /// The writer waits for a file, or does not any more.
    pub(crate) fn set_short_of_files(&mut self, short: bool) {
        self.short_of_files = short;
    }

    /// The memtable to flush next.
    pub(crate) fn oldest_sealed(&self) -> Option<&Sealed<R>> {
        self.sealed.front()
    }

    /// Whether any memtable behind the one to flush next has batches of a partition.
    pub(crate) fn holds_behind_oldest(&self, partition: PartitionId) -> bool {
        let behind = self.sealed.iter().skip(1).map(|sealed| &sealed.memtable);
        behind
            .chain(std::iter::once(&self.active))
            .any(|memtable| memtable.partition(partition).is_some_and(|index| !index.slots().is_empty()))
    }

    /// The last group of the memtable to flush next.
    pub(crate) fn first_unflushed_lsn(&self) -> Option<Lsn> {
        self.sealed.front().map(|sealed| sealed.memtable.last_lsn())
    }

    /// Whether all groups up to `lsn` are in sealed memtables, or flushed.
    pub(crate) fn sealed_hold(&self, lsn: Lsn) -> bool {
        self.sealed.back().is_some_and(|sealed| sealed.memtable.last_lsn() >= lsn)
    }

    /// Whether the oldest sealed memtable has to go, time aside.
    pub(crate) fn presses(&self) -> bool {
        !self.sealed.is_empty()
            && (self.short_of_files
                || self.sealed.len() * 2 >= self.files_max
                || self.sealed_bytes * 2 >= self.memory_bytes_max
                || self.unflushed_bytes() >= self.memory_bytes_max)
    }

    /// The oldest sealed memtable was flushed: it stays as tail cache, and its file is free.
    pub(crate) fn flushed(&mut self) -> Rc<WalFile<R>> {
        let Sealed { memtable, file, .. } = self.sealed.pop_front().expect("a flush ends what it began with");
        self.sealed_bytes -= memtable.memory_bytes();
        self.clean.push_back(memtable);
        self.shed();
        file
    }

    /// Memory that only a flush gives back.
    pub(crate) fn unflushed_bytes(&self) -> usize {
        self.sealed_bytes + self.active.memory_bytes()
    }

    /// Bytes of a partition's batches that only a flush brings into segments.
    pub(crate) fn unflushed_batch_bytes(&self, partition: PartitionId) -> u64 {
        let sealed = self.sealed.iter().map(|sealed| &sealed.memtable);
        let indexes = sealed.chain(std::iter::once(&self.active)).filter_map(|memtable| memtable.partition(partition));
        indexes.map(|index| index.batch_bytes()).sum()
    }

    /// Memory of all memtables.
    pub(crate) fn memory_bytes(&self) -> usize {
        let clean: usize = self.clean.iter().map(Memtable::memory_bytes).sum();
        clean + self.unflushed_bytes() + self.all().map(Memtable::key_bytes).sum::<usize>()
    }

    /// The batch of `partition` that contains `offset`, or the first one behind it.
    pub(crate) fn get(&mut self, partition: PartitionId, offset: u64) -> Option<&Slot> {
        self.settled().find_map(|memtable| memtable.get(partition, offset))
    }

    /// The first offset of `partition` in any memtable: what lies below is in segments.
    pub(crate) fn first_offset(&mut self, partition: PartitionId) -> Option<u64> {
        self.get(partition, 0).map(|slot| slot.base_offset)
    }

    /// Reads on through the memtables, as [`Memtable::read`].
    pub(crate) fn read(
        &mut self,
        partition: PartitionId,
        offset: u64,
        end_offset: u64,
        bytes_max: usize,
        slices: &mut Vec<<R::Block as runtime::Block>::Frozen>,
    ) -> Option<Taken> {
        let mut taken = None;
        let skipped = usize::from(planted("skip a memtable") && !self.sealed.is_empty());
        for memtable in self.settled().skip(skipped) {
            let from = taken.map_or(offset, |taken: Taken| taken.next_offset);
            taken = memtable.read(partition, from, end_offset, bytes_max, taken, slices);
            if taken.is_some_and(|taken| taken.is_over) {
                break;
            }
        }
        taken
    }

    /// The first batch of `partition` from `offset` on whose largest timestamp is at least `timestamp_ms`, with its bytes.
    pub(crate) fn find_timestamp(&mut self, partition: PartitionId, offset: u64, timestamp_ms: i64) -> Option<Vec<u8>> {
        self.settled().find_map(|memtable| {
            let slots = memtable.partition(partition)?.slots();
            let slot = slots.iter().find(|slot| slot.next_offset() > offset && slot.timestamp_max >= timestamp_ms)?;
            Some(memtable.batch(slot).to_vec())
        })
    }

    /// Learns keys of `partition`, see [`Memtable::learn_keys`]. Answers whether all below `end_offset` are.
    pub(crate) fn learn_keys(
        &mut self,
        partition: PartitionId,
        end_offset: u64,
        hasher: &KeyHasher,
        records_max: usize,
    ) -> bool {
        let mut records_left = records_max;
        self.active.settle();
        self.all_mut().all(|memtable| memtable.learn_keys(partition, end_offset, hasher, &mut records_left))
    }

    /// The last record of a key whose batches were learned.
    pub(crate) fn last_of_key(
        &self,
        partition: PartitionId,
        offsets: &Range<u64>,
        key: &[u8],
        hash: KeyHash,
    ) -> Option<Last> {
        let memtables: Vec<_> = self.all().collect();
        memtables.iter().rev().find_map(|memtable| memtable.last_of_key(partition, offsets, key, hash))
    }

    /// Drops what reaches beyond `next_offset` of a partition.
    pub(crate) fn truncate(&mut self, partition: PartitionId, next_offset: u64) {
        self.active.settle();
        self.all_mut().for_each(|memtable| memtable.truncate(partition, next_offset));
    }

    /// Forgets a partition.
    pub(crate) fn remove(&mut self, partition: PartitionId) {
        self.active.settle();
        self.all_mut().for_each(|memtable| memtable.remove(partition));
    }

    /// All of them, with everything that arrived in their indexes. Only the active one takes batches.
    fn settled(&mut self) -> impl Iterator<Item = &Memtable<R>> {
        self.active.settle();
        self.all()
    }

    fn all(&self) -> impl Iterator<Item = &Memtable<R>> {
        let sealed = self.sealed.iter().map(|sealed| &sealed.memtable);
        self.clean.iter().chain(sealed).chain(std::iter::once(&self.active))
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Memtable<R>> {
        let sealed = self.sealed.iter_mut().map(|sealed| &mut sealed.memtable);
        self.clean.iter_mut().chain(sealed).chain(std::iter::once(&mut self.active))
    }

    /// Gives up tail cache, oldest first, until all memtables together keep to their share with room for the next one.
    fn shed(&mut self) {
        let limit = self.memory_bytes_max - self.memory_bytes_max / 4;
        while self.memory_bytes() > limit
            && let Some(mut memtable) = self.clean.pop_front()
        {
            memtable.clear();
            self.spare = memtable;
        }
    }
}
