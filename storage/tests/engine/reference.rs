//! What a log may hold after what happened to it: the reference that the crash-state explorer and the model-based test
//! compare the engine with.
//!
//! It knows nothing of WAL, memtables and segments. Of each partition it knows which batch was given which offset, below
//! which offset nothing may ever be missing, and below which offset nothing may ever be bound to other bytes.

use std::{
    collections::BTreeMap,
    ops::{Deref, Range},
};

use runtime::sim::SimRuntime;
use storage::{Durability, Log, PartitionId};
use wire::record::{BatchBuilder, Batches, Producer};

/// Every partition that was ever created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reference(BTreeMap<u64, Partition>);

/// One partition, as its clients know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Partition {
    is_memory: bool,
    /// What was appended and not truncated, by base offset, with what lies below `start`.
    batches: BTreeMap<u64, Vec<Record>>,
    /// Records below were deleted.
    start: u64,
    /// Nothing below may be missing: it was acknowledged after a sync, or served by a recovery.
    synced: u64,
    /// No offset below may be given to another record: someone heard of it.
    told: u64,
    /// Offsets that an unclean stop lost, as recovery told it.
    lost: Vec<Range<u64>>,
    under_way: Option<Change>,
    is_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) value: u64,
    pub(crate) timestamp_ms: i64,
}

/// A change that was asked for and not answered: a crash may leave it done or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Change {
    Truncate(u64),
    Delete(u64),
    Drop,
}

/// What a reader sees of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Offset and value.
    pub(crate) records: Vec<(u64, u64)>,
    pub(crate) lost: Vec<Range<u64>>,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Reference {
    pub(crate) fn create(&mut self, id: u64, durability: Durability) {
        let is_memory = durability == Durability::Memory;
        let partition = Partition {
            is_memory,
            batches: BTreeMap::new(),
            start: 0,
            synced: 0,
            told: 0,
            lost: Vec::new(),
            under_way: None,
            is_gone: false,
        };
        assert!(self.0.insert(id, partition).is_none(), "numbers of partitions are never used twice");
    }

    pub(crate) fn partition(&self, id: u64) -> &Partition {
        &self.0[&id]
    }

    pub(crate) fn partition_mut(&mut self, id: u64) -> &mut Partition {
        self.0.get_mut(&id).expect("it was created")
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = (u64, &Partition)> {
        self.0.iter().map(|(&id, partition)| (id, partition))
    }

    /// What a recovery found, all of it.
    pub(crate) fn check(&self, seen: &BTreeMap<u64, Seen>) -> Result<(), String> {
        self.partitions().try_for_each(|(id, partition)| {
            partition.check(&seen[&id]).map_err(|problem| format!("partition {id}: {problem}\n{partition:?}"))
        })
    }

    /// From now on, what a recovery found is what there is.
    pub(crate) fn recovered(&mut self, seen: &BTreeMap<u64, Seen>) {
        self.0.iter_mut().for_each(|(id, partition)| partition.recovered(&seen[id]));
    }
}

impl Partition {
    pub(crate) fn durability(&self) -> Durability {
        if self.is_memory { Durability::Memory } else { Durability::Durable }
    }

    /// Whether it takes appends: neither deleted nor on its way there.
    pub(crate) fn is_serving(&self) -> bool {
        !self.is_gone && self.under_way.is_none()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// The next offset to be given out, as far as is known.
    pub(crate) fn end(&self) -> u64 {
        let batches = self.batches.last_key_value().map_or(0, |(base, records)| base + records.len() as u64);
        self.lost.iter().map(|lost| lost.end).fold(batches.max(self.start), u64::max)
    }

    /// Offset and content of every record that is not deleted, in order.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, Record)> {
        self.records_from(self.start)
    }

    fn records_from(&self, start: u64) -> impl Iterator<Item = (u64, Record)> {
        let all = self.batches.iter().flat_map(|(&base, records)| (base..).zip(records.iter().copied()));
        all.filter(move |(offset, _)| *offset >= start)
    }

    /// Whether a batch was appended there and not truncated since, deleted or not.
    pub(crate) fn has_batch(&self, base_offset: u64) -> bool {
        self.batches.contains_key(&base_offset)
    }

    /// Where a truncation to `offset` cuts: a batch goes whole, and nothing ends before it starts.
    pub(crate) fn boundary(&self, offset: u64) -> u64 {
        let around = self.batches.range(..=offset).next_back();
        let around = around.filter(|(base, records)| offset < *base + records.len() as u64);
        around.map_or(offset, |(&base, _)| base).max(self.start)
    }

    pub(crate) fn appended(&mut self, base_offset: u64, records: Vec<Record>) {
        self.batches.insert(base_offset, records);
    }

    /// Everything below `offset` was acknowledged after a sync.
    pub(crate) fn synced_to(&mut self, offset: u64) {
        self.synced = self.synced.max(offset);
        self.told_to(offset);
    }

    /// Someone may have heard of every offset below this one.
    pub(crate) fn told_to(&mut self, offset: u64) {
        self.told = self.told.max(offset);
    }

    pub(crate) fn truncating(&mut self, offset: u64) {
        self.under_way = Some(Change::Truncate(self.boundary(offset)));
    }

    pub(crate) fn truncated(&mut self) {
        let Some(Change::Truncate(end)) = self.under_way.take() else { panic!("no truncation is under way") };
        self.batches.retain(|&base, records| base + records.len() as u64 <= end);
        self.lost.retain_mut(|lost| {
            lost.end = lost.end.min(end);
            !lost.is_empty()
        });
        (self.synced, self.told) = (end, end);
    }

    /// Nobody is to see what lies below `offset` any more.
    pub(crate) fn deleting(&mut self, offset: u64) {
        self.under_way = Some(Change::Delete(offset));
    }

    pub(crate) fn deleted(&mut self) {
        let Some(Change::Delete(offset)) = self.under_way.take() else { panic!("no deletion is under way") };
        self.start = self.start.max(offset);
        self.told_to(offset);
    }

    pub(crate) fn dropping(&mut self) {
        self.under_way = Some(Change::Drop);
    }

    pub(crate) fn dropped(&mut self) {
        self.under_way = None;
        self.is_gone = true;
        self.batches.clear();
    }

    /// Whether a reader may see this.
    pub(crate) fn check(&self, seen: &Seen) -> Result<(), String> {
        let is_empty = seen.records.is_empty() && seen.end == 0;
        if self.is_gone || (self.under_way == Some(Change::Drop) && is_empty) {
            return if is_empty { Ok(()) } else { Err(format!("deleted, and seen again: {seen:?}")) };
        }
        if seen.start != self.start && self.under_way != Some(Change::Delete(seen.start)) {
            return Err(format!("it starts at {}, and {} was told", seen.start, self.start));
        }
        let appended = self.records_from(seen.start).map(|(offset, record)| (offset, record.value));
        let appended: BTreeMap<u64, u64> = appended.collect();
        let (synced, told) = match self.under_way {
            Some(Change::Truncate(end)) => (self.synced.min(end), self.told.min(end)),
            _ => (self.synced, self.told),
        };
        let mut next = seen.start;
        for &(offset, value) in &seen.records {
            if appended.get(&offset) != Some(&value) {
                return Err(format!("offset {offset} holds {value}, appended was {:?}", appended.get(&offset)));
            }
            self.check_gap(next..offset, seen)?;
            next = offset + 1;
        }
        self.check_gap(next..seen.end, seen)?;
        let mut records = seen.records.iter().map(|(offset, _)| *offset).peekable();
        for &offset in appended.keys().take_while(|&&offset| offset < synced) {
            while records.next_if(|&other| other < offset).is_some() {}
            if records.peek() != Some(&offset) {
                return Err(format!(
                    "offset {offset} is missing, everything below {synced} was acknowledged: {seen:?}"
                ));
            }
        }
        match seen.end >= told {
            true => Ok(()),
            false => Err(format!("it ends at {}, and offsets below {told} were told", seen.end)),
        }
    }

    /// Offsets without records are lost, and only the weaker level may lose any.
    fn check_gap(&self, gap: Range<u64>, seen: &Seen) -> Result<(), String> {
        let is_told = |offset: u64| self.is_memory && seen.lost.iter().any(|lost| lost.contains(&offset));
        match gap.clone().find(|&offset| !is_told(offset)) {
            None => Ok(()),
            Some(offset) => Err(format!("offset {offset} is neither served nor lost: {seen:?}")),
        }
    }

    fn recovered(&mut self, seen: &Seen) {
        let is_there = |offset: u64| seen.records.binary_search_by_key(&offset, |(seen, _)| *seen).is_ok();
        let is_deleted = |base: u64, records: &Vec<Record>| base + records.len() as u64 <= seen.start;
        self.batches.retain(|&base, records| is_deleted(base, records) || is_there(base.max(seen.start)));
        self.start = seen.start;
        (self.synced, self.told) = (seen.end, seen.end);
        self.lost.clone_from(&seen.lost);
        self.is_gone |= self.under_way.take() == Some(Change::Drop) && seen.end == 0;
    }
}

/// Why a partition was not read to its end.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The log says that it cannot: fine where something is damaged.
    Refused(String),
    /// It answered with something that is no answer.
    Wrong(String),
}

impl From<Trouble> for String {
    fn from(trouble: Trouble) -> Self {
        let (Trouble::Refused(problem) | Trouble::Wrong(problem)) = trouble;
        problem
    }
}

/// Reads all that consumers may see of a partition.
pub(crate) async fn look(log: &Log<SimRuntime>, id: u64, durability: Durability) -> Result<Seen, Trouble> {
    let partition = log.adopt(PartitionId(id), durability);
    if let Some(from) = partition.refused_from() {
        return Err(Trouble::Refused(format!("partition {id} is refused from offset {from} on")));
    }
    let offsets = partition.offsets();
    let (start, end) = (offsets.log_start, offsets.high_watermark);
    let mut seen = Seen { start, end, ..Seen::default() };
    let mut next = start;
    while next < end {
        let batches = partition.read(next, 3000).await;
        let batches = batches.map_err(|error| Trouble::Refused(format!("partition {id} at {next}: {error}")))?;
        let (records, lost) = decode(next, &batches)
            .map_err(|problem| Trouble::Wrong(format!("partition {id} at {next}, {offsets:?}: {problem}")))?;
        seen.records.extend(records);
        seen.lost.extend(lost);
        next = batches.next_offset;
    }
    Ok(seen)
}

/// Offset and value of records, and what is told to be lost.
type Decoded = (Vec<(u64, u64)>, Option<Range<u64>>);

/// What one read from `offset` on answered.
pub(crate) fn decode<F: Deref<Target = [u8]>>(
    offset: u64,
    batches: &storage::partition::Batches<F>,
) -> Result<Decoded, String> {
    if batches.next_offset <= offset {
        return Err(format!("a read below the high watermark leads to {}", batches.next_offset));
    }
    let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
    let mut records = Vec::new();
    for batch in Batches::new(&bytes) {
        let batch = batch.map_err(|error| error.to_string())?;
        batch.verify_stored().map_err(|error| error.to_string())?;
        for record in batch.records().map_err(|error| error.to_string())? {
            let record = record.map_err(|error| error.to_string())?;
            let value = record.value.and_then(|value| value[..8].try_into().ok()).ok_or("a record without value")?;
            records.push((record.offset, u64::from_le_bytes(value)));
        }
    }
    // A batch is served whole: what lies before the offset is skipped, as every client does.
    records.retain(|(served, _)| *served >= offset);
    Ok((records, batches.lost.clone()))
}

/// A batch of these records, each padded to `record_bytes` with bytes that no other record has.
pub(crate) fn encode(records: &[Record], record_bytes: usize, producer: Producer) -> Vec<u8> {
    let mut builder = BatchBuilder::new(1 << 20);
    for record in records {
        let mut bytes = record.value.to_le_bytes().to_vec();
        bytes.resize(record_bytes.max(8), record.value as u8);
        builder.append(record.timestamp_ms, None, Some(&bytes), &[]).expect("small records fit");
    }
    builder.build(producer).to_vec()
}
