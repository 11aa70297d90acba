//! What a partition remembers of its idempotent producers: enough to answer a repeated batch with the offset it got
//! the first time, and to refuse one that does not follow.
//!
//! The one hard idea: the last five batches of each producer, five being what a producer may have in flight. A batch
//! equal to one of them is a duplicate, whatever came after it; anything else has to follow the last one. Each carries
//! the LSN of its group, because the answer to a duplicate is an ack, and has to wait for the same sync.
//!
//! Pure: whoever calls says what time it is.

use std::time::Duration;

use runtime::Instant;
use rustc_hash::FxHashMap;

use crate::codec::{DecodeError, Reader, put_count};

/// Batches remembered of each producer, and so what it may have in flight.
pub const BATCHES_PER_PRODUCER: usize = 5;

/// A producer that has been silent for this long is forgotten.
pub const IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Where room is needed, a producer that has been silent for this long may be forgotten: no client retries a batch
/// for as long as that.
pub const IDLE_MIN: Duration = Duration::from_secs(10 * 60);

/// Version of the snapshot's encoding.
const VERSION: u8 = 1;

/// What a batch says of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Who sent it, at least 0.
    pub producer_id: i64,
    /// Which of that producer's lives.
    pub epoch: i16,
    /// Number of its first record in that life.
    pub base_sequence: i32,
    /// Records in it, at least 1. Numbers go on at 0 after `i32::MAX`.
    pub record_count: i32,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Append it, then [`Producers::record`] it.
    Append,
    /// It is in the log already: answer with that, and append nothing.
    Duplicate {
        /// The offset it got.
        base_offset: u64,
        /// The group whose sync its ack has to wait for; 0 when that is long past.
        lsn: u64,
    },
}

/// Why a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// The batch makes no sense: a bug of its producer.
    #[error("producer {producer_id} sent base sequence {base_sequence} with {record_count} records")]
    Invalid {
        /// Who sent it.
        producer_id: i64,
        /// What it sent.
        base_sequence: i32,
        /// What it sent.
        record_count: i32,
    },
    /// A newer life of the producer has taken over; this one must end.
    #[error("producer {producer_id} is in epoch {current}, the batch is of epoch {found}")]
    StaleEpoch {
        /// Who sent it.
        producer_id: i64,
        /// The newest epoch known.
        current: i16,
        /// The batch's.
        found: i16,
    },
    /// A batch between is missing, or this one is a repetition of one too old to be remembered.
    #[error("producer {producer_id} sent sequence {found}, {expected} is next")]
    OutOfOrder {
        /// Who sent it.
        producer_id: i64,
        /// The only base sequence that would follow.
        expected: i32,
        /// The batch's.
        found: i32,
    },
    /// The partition has too many producers to remember another one: try again later, or use fewer.
    #[error("the partition remembers {producers} producers and can take no more")]
    TooManyProducers {
        /// How many there are.
        producers: usize,
    },
}

/// The idempotent producers of one partition.
#[derive(Clone, Debug)]
pub struct Producers {
    by_id: FxHashMap<i64, Box<Producer>>,
    producers_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    /// How many of `batches` count.
    len: u8,
    /// Oldest first.
    batches: [Batch; BATCHES_PER_PRODUCER],
    last_used: Instant,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Batch {
    base_sequence: i32,
    record_count: i32,
    base_offset: u64,
    lsn: u64,
}

impl Producers {
    /// Nobody yet, and at most `producers_max`.
    pub fn new(producers_max: usize) -> Self {
        Self { by_id: FxHashMap::default(), producers_max }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What to do with a batch.
    ///
    /// # Errors
    /// [`SequenceError`]; after [`SequenceError::TooManyProducers`], [`Self::make_room`] may help.
    #[inline]
    pub fn check(&self, batch: &Sequence) -> Result<Verdict, SequenceError> {
        let Sequence { producer_id, base_sequence, record_count, .. } = *batch;
        if base_sequence < 0 || record_count < 1 {
            return Err(SequenceError::Invalid { producer_id, base_sequence, record_count });
        }
        match self.by_id.get(&producer_id) {
            Some(producer) => producer.check(batch),
            None if self.by_id.len() < self.producers_max => Ok(Verdict::Append),
            None => Err(SequenceError::TooManyProducers { producers: self.by_id.len() }),
        }
    }

    /// Remembers a batch that was appended at `base_offset` in group `lsn`. Replay calls it for each batch in the
    /// order of the log, without a check.
    #[inline]
    pub fn record(&mut self, batch: &Sequence, base_offset: u64, lsn: u64, now: Instant) {
        let producer = self.by_id.entry(batch.producer_id).or_insert_with(|| Box::new(Producer::new(batch.epoch, now)));
        if producer.epoch != batch.epoch {
            (producer.epoch, producer.len) = (batch.epoch, 0);
        }
        let Sequence { base_sequence, record_count, .. } = *batch;
        producer.push(Batch { base_sequence, record_count, base_offset, lsn });
        producer.last_used = now;
    }

    /// Forgets who has been silent for [`IDLE_MAX`] and, if that makes no room for another, the longest silent of
    /// those beyond [`IDLE_MIN`], an eighth of all at a time. Answers whether there is room.
    pub fn make_room(&mut self, now: Instant) -> bool {
        self.expire(now, IDLE_MAX);
        if self.by_id.len() >= self.producers_max {
            let mut silent_since: Vec<_> = self.by_id.values().map(|producer| producer.last_used).collect();
            silent_since.sort_unstable();
            let eighth = silent_since.get(self.producers_max / 8).map_or(Duration::ZERO, |&since| now.since(since));
            self.expire(now, eighth.max(IDLE_MIN));
        }
        self.by_id.len() < self.producers_max
    }

    /// Forgets who has been silent for `idle`.
    pub fn expire(&mut self, now: Instant, idle: Duration) {
        self.by_id.retain(|_, producer| now.since(producer.last_used) < idle);
        if self.by_id.len() < self.by_id.capacity() / 4 {
            self.by_id.shrink_to_fit();
        }
    }

    /// Forgets the batches from `next_offset` on: the partition was truncated there.
    pub fn truncate(&mut self, next_offset: u64) {
        self.by_id.retain(|_, producer| {
            let kept = producer.batches().iter().filter(|batch| batch.base_offset < next_offset).count();
            let whole = kept == producer.batches().len();
            producer.len = kept as u8;
            // One whose batches are all gone may have older ones in the log, so any sequence may be next.
            whole || kept > 0
        });
    }

    /// Lets each producer go on with any sequence, once, in its epoch or a later one: what it sent last was lost in a
    /// crash that the partition's level allows.
    pub fn accept_any_sequence(&mut self) {
        self.by_id.values_mut().for_each(|producer| producer.len = 0);
    }

    /// What they had appended up to group `lsn`, as bytes: together with a replay of the groups behind it, that is
    /// the present state.
    pub fn encode(&self, lsn: u64) -> Vec<u8> {
        let mut ids: Vec<_> =
            self.by_id.iter().filter(|(_, producer)| producer.is_older(lsn)).map(|(&id, _)| id).collect();
        ids.sort_unstable();
        let mut out = vec![VERSION];
        put_count(&mut out, ids.len());
        for id in ids {
            self.by_id[&id].encode(id, lsn, &mut out);
        }
        out
    }

    /// Reads what [`Self::encode`] wrote. Silence counts from `now`; the batches' groups are long synced. More than
    /// `producers_max` are kept if they are there: forgetting them is the caller's choice.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8], producers_max: usize, now: Instant) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        reader.number("version of the producers", VERSION)?;
        let count = reader.count("count of producers", Producer::BYTES_MIN)?;
        let by_id = (0..count).map(|_| Producer::decode(&mut reader, now)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { by_id, producers_max })
    }
}

impl Producer {
    /// Length in bytes of one without batches.
    const BYTES_MIN: usize = 11;

    fn new(epoch: i16, now: Instant) -> Self {
        Self { epoch, len: 0, batches: [Batch::default(); BATCHES_PER_PRODUCER], last_used: now }
    }

    fn batches(&self) -> &[Batch] {
        &self.batches[..usize::from(self.len)]
    }

    #[inline]
    fn check(&self, batch: &Sequence) -> Result<Verdict, SequenceError> {
        let Sequence { producer_id, epoch, base_sequence, record_count } = *batch;
        if epoch < self.epoch {
            return Err(SequenceError::StaleEpoch { producer_id, current: self.epoch, found: epoch });
        }
        let expected = match self.batches() {
            _ if epoch > self.epoch => 0,
            [] => return Ok(Verdict::Append),
            [.., last] => last.next_sequence(),
        };
        if base_sequence == expected {
            return Ok(Verdict::Append);
        }
        let same = |known: &&Batch| known.base_sequence == base_sequence && known.record_count == record_count;
        match self.batches().iter().find(same) {
            Some(known) if epoch == self.epoch => {
                Ok(Verdict::Duplicate { base_offset: known.base_offset, lsn: known.lsn })
            }
            _ => Err(SequenceError::OutOfOrder { producer_id, expected, found: base_sequence }),
        }
    }

    #[inline]
    fn push(&mut self, batch: Batch) {
        if usize::from(self.len) == BATCHES_PER_PRODUCER {
            self.batches.copy_within(1.., 0);
            self.len -= 1;
        }
        self.batches[usize::from(self.len)] = batch;
        self.len += 1;
    }

    /// Whether there is something to tell of it up to group `lsn`. One that began later comes back by replay.
    fn is_older(&self, lsn: u64) -> bool {
        self.batches().first().is_none_or(|oldest| oldest.lsn <= lsn)
    }

    fn encode(&self, id: i64, lsn: u64, out: &mut Vec<u8>) {
        let known = self.batches().iter().filter(|batch| batch.lsn <= lsn);
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(known.clone().count() as u8);
        for batch in known {
            out.extend_from_slice(&batch.base_sequence.to_le_bytes());
            out.extend_from_slice(&batch.record_count.to_le_bytes());
            out.extend_from_slice(&batch.base_offset.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>, now: Instant) -> Result<(i64, Box<Self>), DecodeError> {
        let id = reader.i64("producer id")?;
        let mut producer = Self::new(reader.u16("producer epoch")?.cast_signed(), now);
        let count = reader.u8("count of batches")?;
        if usize::from(count) > BATCHES_PER_PRODUCER {
            return Err(reader.malformed("count of batches", 1));
        }
        for _ in 0..count {
            let (base_sequence, record_count) = (reader.i32("base sequence")?, reader.i32("record count")?);
            if base_sequence < 0 || record_count < 1 {
                return Err(reader.malformed("sequence", 8));
            }
            producer.push(Batch { base_sequence, record_count, base_offset: reader.u64("base offset")?, lsn: 0 });
        }
        Ok((id, Box::new(producer)))
    }
}

impl Batch {
    /// The sequence behind its last one.
    fn next_sequence(&self) -> i32 {
        // Of 2^31 numbers, so in unsigned arithmetic the sum cannot overflow and the mask wraps it.
        ((self.base_sequence as u32).wrapping_add(self.record_count as u32) & i32::MAX as u32) as i32
    }
}
