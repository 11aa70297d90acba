//! A memtable: the image of one WAL file in memory, and per partition a sorted index of its batches.
//!
//! The bytes are the sync groups themselves, as written; the index says which group and where in it. Offsets only
//! grow, so an index is a plain array and "put" a push; lookups guess the place from the offset, which is right at
//! once when batches are alike, and search outwards from there when they are not.
//!
//! Among thousands of partitions each put is a trip to memory. So batches line up as they arrive and are put thousands at a
//! time, when the line is long or somebody looks: then the trips overlap, and a partition's second batch finds its index at
//! hand.
//!
//! Consumers at the tail read from here, a flush writes from here, recovery rebuilds it.

use std::{hint::black_box, ops::Range};

use runtime::{Block, Frozen, Runtime};
use rustc_hash::FxHashMap;
use wire::record::Batch;

use crate::{
    PartitionId,
    found::Last,
    group::{self, EntryKind},
    index::{
        key_hash::{KeyHash, KeyHasher},
        time_index::DECOMPRESSED_BYTES_MAX,
    },
    synced::Lsn,
};

/// Indexes of so many partitions are brought from memory together before any is added to: trips that overlap cost little
/// more than one.
const RUNS_TOGETHER: usize = 16;

/// Batches that wait to be put are told apart by so many low bits of their partitions' numbers, which are mostly given out
/// in a row.
const ORDER_BITS: u32 = 11;

/// Putting fewer than this in order costs more than it saves.
const ORDERED_MIN: usize = 64;

/// So many batches line up at most: what they take stays in a processor's cache.
const ARRIVED_MAX: usize = 16 << 10;

/// Where a batch lies, and what a reader wants to know before touching it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Offset of its first record.
    pub base_offset: u64,
    /// Its largest record timestamp, in milliseconds since 1970.
    pub timestamp_max: i64,
    /// Offsets it takes, at least 1.
    pub offset_count: u32,
    /// Which group of the memtable holds it.
    pub group: u32,
    /// Where it starts in that group.
    pub position: u32,
    /// Its length in bytes.
    pub bytes: u32,
}

impl Slot {
    /// The offset behind its last record.
    pub fn next_offset(&self) -> u64 {
        self.base_offset + u64::from(self.offset_count)
    }

    fn end(&self) -> usize {
        (self.position + self.bytes) as usize
    }
}

/// The batches of one partition, ascending.
#[derive(Default)]
pub struct PartitionIndex {
    slots: Vec<Slot>,
    batch_bytes: u64,
    /// Of a partition that was asked for a key.
    keys: Option<Box<Keys>>,
}

/// Where the last record of each key is, as far as anyone asked.
#[derive(Default)]
struct Keys {
    /// Slots from here on are not learned yet.
    learned: usize,
    /// The upper half of a key's hash to the slot of its last record. Two keys may share it.
    slots: FxHashMap<u64, u32>,
}

impl Keys {
    fn memory_bytes(&self) -> usize {
        self.slots.capacity() * BYTES_PER_KEY
    }
}

/// Memory of an entry of [`Keys`].
const BYTES_PER_KEY: usize = 17;

impl PartitionIndex {
    /// Adds a batch behind the others.
    ///
    /// # Panics
    /// If its offsets do not lie behind theirs.
    #[inline]
    pub fn put(&mut self, slot: Slot) {
        if let Some(last) = self.slots.last() {
            assert!(last.next_offset() <= slot.base_offset, "{slot:?} put behind {last:?}");
        }
        self.batch_bytes += u64::from(slot.bytes);
        self.slots.push(slot);
    }

    /// The batch that contains `offset`, or else the first one behind it.
    #[inline]
    pub fn get(&self, offset: u64) -> Option<&Slot> {
        self.slots.get(self.locate(offset))
    }

    /// All batches, ascending.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The batches that end behind `offset`.
    pub fn slots_from(&self, offset: u64) -> &[Slot] {
        &self.slots[self.locate(offset)..]
    }

    /// Bytes of those.
    pub fn batch_bytes_from(&self, offset: u64) -> u64 {
        match self.locate(offset) {
            0 => self.batch_bytes,
            first => self.slots[first..].iter().map(|slot| u64::from(slot.bytes)).sum(),
        }
    }

    /// Bytes of all its batches.
    pub fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }

    fn key_bytes(&self) -> usize {
        self.keys.as_ref().map_or(0, |keys| keys.memory_bytes())
    }

    /// Index of the first slot that ends behind `offset`; the number of slots if there is none.
    fn locate(&self, offset: u64) -> usize {
        let (Some(first), Some(last)) = (self.slots.first(), self.slots.last()) else { return 0 };
        if offset <= first.base_offset {
            return 0;
        }
        if offset >= last.base_offset {
            return self.slots.len() - usize::from(offset < last.next_offset());
        }
        let (reach, span) = (offset - first.base_offset, last.base_offset - first.base_offset);
        let last_slot = self.slots.len() - 1;
        // Where the product is too large the guess is a bad one, and no more than that.
        let guess = reach.saturating_mul(last_slot as u64) / span;
        self.search_from(last_slot.min(guess as usize), offset)
    }

    /// Searches outwards from `guess` in doubling steps, then inwards.
    fn search_from(&self, guess: usize, offset: u64) -> usize {
        let ends_behind = |index: usize| self.slots[index].next_offset() > offset;
        let mut step = 1;
        let (mut low, mut high) = if ends_behind(guess) {
            let mut high = guess;
            loop {
                match high.checked_sub(step) {
                    Some(lower) if ends_behind(lower) => high = lower,
                    lower => break (lower.map_or(0, |lower| lower + 1), high),
                }
                step *= 2;
            }
        } else {
            let mut low = guess;
            loop {
                match low + step {
                    higher if higher < self.slots.len() && !ends_behind(higher) => low = higher,
                    higher => break (low + 1, higher.min(self.slots.len())),
                }
                step *= 2;
            }
        };
        while low < high {
            let middle = low.midpoint(high);
            if ends_behind(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// Forgets its batches, and keeps about as much memory as they needed.
    fn clear(&mut self) {
        if self.slots.capacity() > 4 * self.slots.len() {
            self.slots.shrink_to(2 * self.slots.len());
        }
        self.slots.clear();
        self.batch_bytes = 0;
        self.keys = None;
    }

    /// Drops batches that reach to `next_offset` or beyond: whole ones, for a batch is never cut.
    fn cut(&mut self, next_offset: u64) {
        self.keys = None;
        while let Some(slot) = self.slots.pop_if(|slot| slot.next_offset() > next_offset) {
            self.batch_bytes -= u64::from(slot.bytes);
        }
    }
}

/// What a read took from a memtable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the slices.
    pub bytes: usize,
    /// The offset behind the last batch taken.
    pub next_offset: u64,
    /// Whether the next batch was left behind: whatever comes after it must not be taken.
    pub is_over: bool,
}

/// See the module.
pub struct Memtable<R: Runtime> {
    groups: Vec<R::Frozen>,
    partitions: FxHashMap<PartitionId, PartitionIndex>,
    /// Batches that are in no index yet, in the order of their groups.
    arrived: Vec<(PartitionId, Slot)>,
    /// The order in which those are put, while they are.
    order: Vec<u32>,
    packing: Option<R::Block>,
    memory_bytes: usize,
    key_bytes: usize,
    batch_bytes: u64,
    last_lsn: Lsn,
}

impl<R: Runtime> Default for Memtable<R> {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            partitions: FxHashMap::default(),
            arrived: Vec::new(),
            order: Vec::new(),
            packing: None,
            memory_bytes: 0,
            key_bytes: 0,
            batch_bytes: 0,
            last_lsn: 0,
        }
    }
}

impl<R: Runtime> Memtable<R> {
    /// Adds a group; its batches are found after [`Self::settle`]. Returns its number for [`Self::pack`].
    pub(crate) fn put_group(&mut self, lsn: Lsn, group: &group::Sealed<R::Frozen>) -> usize {
        let number = self.add_group(lsn, group.bytes.clone());
        for (index, entry) in group.entries.iter().enumerate() {
            if entry.kind == EntryKind::Batch {
                self.arrived.push((entry.partition, slot_of(&group.bytes, group.range(index), number)));
            }
        }
        if self.arrived.len() >= ARRIVED_MAX {
            self.settle();
        }
        number
    }

    /// Puts what has arrived into the indexes, a partition's batches one after the other.
    pub(crate) fn settle(&mut self) {
        let (mut arrived, mut order) = (std::mem::take(&mut self.arrived), std::mem::take(&mut self.order));
        order_by_partition(&arrived, &mut order);
        let at = |&index: &u32| &arrived[index as usize];
        let mut runs = order.chunk_by(|one, next| at(one).0 == at(next).0);
        let mut together = [&order[..0]; RUNS_TOGETHER];
        loop {
            let taken = together.iter_mut().zip(&mut runs).map(|(place, run)| *place = run).count();
            if taken == 0 {
                break;
            }
            let together = &together[..taken];
            let ends = together.iter().map(|run| self.end(at(&run[0]).0));
            black_box(ends.fold(0, |all, end| all ^ end));
            together.iter().for_each(|run| self.prefetch(at(&run[0]).0));
            for run in together {
                let index = self.partitions.entry(at(&run[0]).0).or_default();
                for (_, slot) in run.iter().map(at) {
                    self.batch_bytes += u64::from(slot.bytes);
                    index.put(*slot);
                }
            }
        }
        arrived.clear();
        (self.arrived, self.order) = (arrived, order);
    }

    /// The offset behind a partition's last batch.
    fn end(&self, partition: PartitionId) -> u64 {
        self.partitions.get(&partition).and_then(|index| index.slots.last()).map_or(0, Slot::next_offset)
    }

    /// Asks for the memory that its next batch takes.
    fn prefetch(&mut self, partition: PartitionId) {
        if let Some(index) = self.partitions.get_mut(&partition)
            && let Some(next) = index.slots.spare_capacity_mut().first()
        {
            R::prefetch(next);
        }
    }

    /// Adds a group's bytes without indexing anything. Returns its number.
    pub fn add_group(&mut self, lsn: Lsn, bytes: R::Frozen) -> usize {
        assert!(lsn > self.last_lsn, "groups come in order");
        self.last_lsn = lsn;
        self.memory_bytes += bytes.block_capacity();
        self.groups.push(bytes);
        self.groups.len() - 1
    }

    /// Indexes one batch of a group that was added.
    #[inline]
    pub fn put(&mut self, partition: PartitionId, slot: Slot) {
        self.batch_bytes += u64::from(slot.bytes);
        self.partitions.entry(partition).or_default().put(slot);
    }

    /// Moves a small group into a block it shares with others. A group that fills at least half of its block, or is
    /// too large for a shared one, keeps it.
    ///
    /// Positions within the group stay as they are, so the index needs no change. `entries_end` is where its last
    /// entry ends: what lies behind serves only recovery.
    pub(crate) fn pack(&mut self, number: usize, entries_end: usize, take_block: impl FnOnce() -> R::Block) {
        let group = &self.groups[number];
        let own_capacity = group.block_capacity();
        if group.len() * 2 >= own_capacity {
            return;
        }
        if self.packing.as_ref().is_none_or(|block| block.len() < entries_end) {
            let block = take_block();
            self.memory_bytes += block.len();
            self.packing = Some(block);
        }
        let block = self.packing.as_mut().expect("just put there");
        block[..entries_end].copy_from_slice(&group[..entries_end]);
        self.groups[number] = block.split_frozen(entries_end);
        self.memory_bytes -= own_capacity;
    }

    /// The batch of `partition` that contains `offset`, or else the first one behind it.
    pub fn get(&self, partition: PartitionId, offset: u64) -> Option<&Slot> {
        self.partitions.get(&partition)?.get(offset)
    }

    /// The index of one partition, if it has batches here.
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionIndex> {
        self.partitions.get(&partition)
    }

    /// The partitions that have batches here, ascending.
    pub fn partitions(&self) -> Vec<PartitionId> {
        let mut partitions: Vec<_> =
            self.partitions.iter().filter(|(_, index)| !index.slots.is_empty()).map(|(&id, _)| id).collect();
        partitions.sort_unstable();
        partitions
    }

    /// Appends to `slices` the batches of `partition` from the one that contains `offset` (or the first behind it),
    /// those that end at or below `end_offset`, up to `bytes_max` bytes but at least one. Neighbours share a slice.
    ///
    /// Goes on from what was `taken` before, which counts towards `bytes_max`.
    pub fn read(
        &self,
        partition: PartitionId,
        offset: u64,
        end_offset: u64,
        bytes_max: usize,
        mut taken: Option<Taken>,
        slices: &mut Vec<R::Frozen>,
    ) -> Option<Taken> {
        let Some(index) = self.partitions.get(&partition) else { return taken };
        let mut run: Option<(u32, Range<usize>)> = None;
        for slot in &index.slots[index.locate(offset)..] {
            let bytes = taken.map_or(0, |taken| taken.bytes) + slot.bytes as usize;
            if slot.next_offset() > end_offset || (taken.is_some() && bytes > bytes_max) {
                taken = taken.map(|taken| Taken { is_over: true, ..taken });
                break;
            }
            taken = Some(Taken { bytes, next_offset: slot.next_offset(), is_over: false });
            match &mut run {
                Some((group, range)) if *group == slot.group && range.end == slot.position as usize => {
                    range.end = slot.end();
                }
                _ => {
                    slices.extend(run.take().map(|run| self.slice(run)));
                    run = Some((slot.group, slot.position as usize..slot.end()));
                }
            }
        }
        slices.extend(run.map(|run| self.slice(run)));
        taken
    }

    /// The bytes of one batch.
    pub fn batch(&self, slot: &Slot) -> &[u8] {
        &self.groups[slot.group as usize][slot.position as usize..slot.end()]
    }

    /// The same as a handle to them.
    pub(crate) fn frozen(&self, slot: &Slot) -> R::Frozen {
        self.slice((slot.group, slot.position as usize..slot.end()))
    }

    /// Empties it for the next WAL file. The indexes of partitions that had batches keep their memory: the next ones will
    /// mostly be theirs, and growing a thousand indexes from nothing costs more than filling them.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
        self.arrived.clear();
        self.packing = None;
        self.partitions.retain(|_, index| !index.slots.is_empty());
        self.partitions.values_mut().for_each(PartitionIndex::clear);
        (self.memory_bytes, self.key_bytes, self.batch_bytes, self.last_lsn) = (0, 0, 0, 0);
    }

    /// Learns the keys of batches of `partition` that end at or below `end_offset`, about `records_left` records of them.
    /// Answers whether all are learned.
    pub(crate) fn learn_keys(
        &mut self,
        partition: PartitionId,
        end_offset: u64,
        hasher: &KeyHasher,
        records_left: &mut usize,
    ) -> bool {
        let Some(index) = self.partitions.get_mut(&partition) else { return true };
        let visible = index.slots.partition_point(|slot| slot.next_offset() <= end_offset);
        if visible == 0 {
            return true;
        }
        let mut keys = index.keys.take().unwrap_or_default();
        let memory_bytes = keys.memory_bytes();
        let mut buffer = Vec::new();
        while keys.learned < visible && *records_left > 0 {
            let slot = index.slots[keys.learned];
            let bytes = &self.groups[slot.group as usize][slot.position as usize..slot.end()];
            let batch = Batch::parse_one(bytes).expect("the index points at whole batches");
            // Of records that do not come out nobody reads any, by key or otherwise.
            let records = batch.records_decompressed(DECOMPRESSED_BYTES_MAX, &mut buffer);
            for key in records.into_iter().flatten().map_while(Result::ok).filter_map(|record| record.key) {
                keys.slots.insert(hasher.hash(key).high, keys.learned as u32);
            }
            keys.learned += 1;
            *records_left = records_left.saturating_sub(slot.offset_count as usize);
        }
        self.key_bytes = self.key_bytes + keys.memory_bytes() - memory_bytes;
        let is_done = keys.learned >= visible;
        index.keys = Some(keys);
        is_done
    }

    /// The last record of a key whose batches were learned.
    pub(crate) fn last_of_key(
        &self,
        partition: PartitionId,
        offsets: &Range<u64>,
        key: &[u8],
        hash: KeyHash,
    ) -> Option<Last> {
        let index = self.partitions.get(&partition)?;
        let keys = index.keys.as_ref()?;
        let last = *keys.slots.get(&hash.high)? as usize;
        let in_slot = |slot: &Slot| {
            let batch = Batch::parse_one(self.batch(slot)).expect("the index points at whole batches");
            Last::in_batch(&batch, key, offsets.start).ok().flatten()
        };
        // The first one looked at has it, unless another key has the same hash.
        let reaches = |slot: &&Slot| slot.next_offset() > offsets.start;
        index.slots[..=last].iter().rev().take_while(reaches).find_map(in_slot)
    }

    /// Drops what reaches to `next_offset` of a partition or beyond it.
    pub fn truncate(&mut self, partition: PartitionId, next_offset: u64) {
        if let Some(index) = self.partitions.get_mut(&partition) {
            self.key_bytes -= index.key_bytes();
            let before = index.batch_bytes;
            index.cut(next_offset);
            self.batch_bytes -= before - index.batch_bytes;
        }
    }

    /// Forgets a partition.
    pub fn remove(&mut self, partition: PartitionId) {
        if let Some(index) = self.partitions.remove(&partition) {
            self.batch_bytes -= index.batch_bytes;
            self.key_bytes -= index.key_bytes();
        }
    }

    /// The last group's LSN; 0 while there is none.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Bytes of all indexed batches.
    pub fn batch_bytes(&self) -> u64 {
        self.batch_bytes
    }

    /// Bytes of the blocks it keeps alive.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Memory of the keys it learned, in bytes.
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Number of groups.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    fn slice(&self, (group, range): (u32, Range<usize>)) -> R::Frozen {
        self.groups[group as usize].slice(range)
    }
}

/// Fills `order` with the places of all that `arrived`: those of one partition together, as far as the low bits of its number
/// tell, and in the order in which they came.
fn order_by_partition(arrived: &[(PartitionId, Slot)], order: &mut Vec<u32>) {
    let count = u32::try_from(arrived.len()).expect("the line is kept short");
    order.clear();
    order.extend(0..count);
    if arrived.len() < ORDERED_MIN {
        return;
    }
    let class = |partition: PartitionId| (partition.0 % (1 << ORDER_BITS)) as usize;
    let mut starts = [0_u32; 1 << ORDER_BITS];
    arrived.iter().for_each(|(partition, _)| starts[class(*partition)] += 1);
    let mut start = 0;
    for class in &mut starts {
        start += std::mem::replace(class, start);
    }
    for (place, (partition, _)) in (0..count).zip(arrived) {
        let next = &mut starts[class(*partition)];
        order[*next as usize] = place;
        *next += 1;
    }
}

/// The slot of a batch that lies at `range` of the group `bytes`, of which its writer or recovery has made sure that it
/// holds one.
#[inline]
pub(crate) fn slot_of(bytes: &[u8], range: Range<usize>, group: usize) -> Slot {
    let head = bytes[range.clone()].first_chunk().expect("a batch entry holds a batch header");
    let header = wire::record::BatchHeader::decode(head);
    Slot {
        base_offset: header.base_offset,
        timestamp_max: header.max_timestamp_ms,
        offset_count: header.last_offset_delta as u32 + 1,
        group: group as u32,
        position: range.start as u32,
        bytes: range.len() as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(base_offset: u64, offset_count: u32) -> Slot {
        Slot { base_offset, offset_count, timestamp_max: 0, group: 0, position: 0, bytes: 100 }
    }

    fn index(slots: impl IntoIterator<Item = Slot>) -> PartitionIndex {
        let mut index = PartitionIndex::default();
        slots.into_iter().for_each(|slot| index.put(slot));
        index
    }

    /// What `locate` must find, the slow way.
    fn scan(index: &PartitionIndex, offset: u64) -> Option<&Slot> {
        index.slots.iter().find(|slot| slot.next_offset() > offset)
    }

    fn check_every_offset(index: &PartitionIndex) {
        let end = index.slots.last().map_or(0, Slot::next_offset);
        for offset in 0..end + 3 {
            assert_eq!(index.get(offset), scan(index, offset), "offset {offset}");
        }
    }

    #[test]
    fn finds_batches_of_equal_size() {
        check_every_offset(&index((0..100).map(|batch| slot(batch * 10, 10))));
    }

    #[test]
    fn finds_batches_of_any_size_and_across_gaps() {
        let mut base = 5;
        check_every_offset(&index((0..200u64).map(|batch| {
            let count = 1 + (batch * batch % 37) as u32;
            let slot = slot(base, count);
            base += u64::from(count) + batch % 3 * 40;
            slot
        })));
    }

    #[test]
    fn finds_batches_that_lie_too_far_apart_for_a_good_guess() {
        let index = index((0..64).map(|batch| slot(batch << 57, 10)));
        for batch in 0..64 {
            assert_eq!(index.get((batch << 57) + 5).map(|slot| slot.base_offset), Some(batch << 57));
        }
    }

    #[test]
    fn finds_nothing_in_an_empty_index_and_behind_the_end() {
        assert_eq!(index([]).get(0), None);
        assert_eq!(index([slot(0, 5)]).get(5), None);
    }

    #[test]
    fn cut_drops_whole_batches() {
        let mut index = index((0..10).map(|batch| slot(batch * 10, 10)));
        index.cut(35);
        assert_eq!(index.slots.last().map(Slot::next_offset), Some(30));
        assert_eq!(index.batch_bytes(), 300);
    }

    #[test]
    fn a_cleared_index_is_empty_and_keeps_its_memory() {
        let mut index = index((0..100).map(|batch| slot(batch * 10, 10)));
        index.clear();
        assert_eq!((index.get(0), index.batch_bytes()), (None, 0));
        assert!((100..400).contains(&index.slots.capacity()));
        index.put(slot(3, 1));
        assert_eq!(index.get(0).map(|slot| slot.base_offset), Some(3));
    }

    /// However many there are, and however far apart their numbers.
    #[test]
    fn order_keeps_a_partition_together_and_what_came_first_first() {
        for (count, partitions, apart) in [(10, 3, 1), (5000, 700, 1), (5000, 50, 1 << ORDER_BITS), (3000, 1, 7)] {
            let partition = |place: u32| PartitionId(u64::from(place * place % partitions * apart));
            let arrived: Vec<_> = (0..count).map(|place| (partition(place), slot(u64::from(place), 1))).collect();
            let mut order = vec![7];
            order_by_partition(&arrived, &mut order);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..count), "every place once");
            for id in (0..partitions).map(|id| PartitionId(u64::from(id * apart))) {
                let mine: Vec<_> = order.iter().filter(|&&place| partition(place) == id).collect();
                assert!(mine.is_sorted(), "partition {}", id.0);
            }
            let runs = order.chunk_by(|&one, &next| partition(one) == partition(next)).count();
            if apart == 1 && count > 10 {
                assert!(runs <= partitions as usize, "{runs} runs of {partitions} partitions");
            }
        }
    }

    #[test]
    #[should_panic(expected = "put behind")]
    fn offsets_never_go_back() {
        index([slot(10, 5), slot(14, 1)]);
    }
}
