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
use wire::record::BatchHeader;

use crate::codec::{DecodeError, Reader, put_count};

/// Batches remembered of each producer, and so what it may have in flight.
pub const BATCHES_PER_PRODUCER: usize = 5;

/// A producer that has been silent for this long is forgotten, unless set otherwise.
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

impl Sequence {
    /// What this header says.
    #[inline]
    pub(crate) fn of(header: &BatchHeader) -> Self {
        Self {
            producer_id: header.producer.id,
            epoch: header.producer.epoch,
            base_sequence: header.producer.base_sequence,
            record_count: header.last_offset_delta + 1,
        }
    }
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
    /// By rising id. Ids are given out rising, so a new one goes to the end; and most partitions have one producer or a few,
    /// which a hash table takes more memory for than they do.
    by_id: Vec<Producer>,
    producers_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    id: i64,
    epoch: i16,
    /// A ring: `len` batches, the newest in front of `next`.
    batches: [Batch; BATCHES_PER_PRODUCER],
    next: u8,
    len: u8,
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
        Self { by_id: Vec::new(), producers_max }
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The base offset of the last batch of a producer; `None` if nothing is remembered of it.
    pub fn last_offset(&self, producer_id: i64) -> Option<u64> {
        self.get(producer_id)?.last().map(|batch| batch.base_offset)
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
        match self.get(producer_id) {
            Some(producer) => producer.check(batch),
            None if self.by_id.len() < self.producers_max => Ok(Verdict::Append),
            None => Err(SequenceError::TooManyProducers { producers: self.by_id.len() }),
        }
    }

    /// Remembers a batch that was appended at `base_offset` in group `lsn`. Replay calls it for each batch in the
    /// order of the log, without a check.
    #[inline]
    pub fn record(&mut self, batch: &Sequence, base_offset: u64, lsn: u64, now: Instant) {
        let place = self.place(batch.producer_id).unwrap_or_else(|place| {
            if self.by_id.is_empty() {
                // Most partitions have this one and no other, and room for more would cost several times as much.
                self.by_id.reserve_exact(1);
            }
            self.by_id.insert(place, Producer::new(batch.producer_id, batch.epoch, now));
            place
        });
        let producer = &mut self.by_id[place];
        if producer.epoch != batch.epoch {
            (producer.epoch, producer.len) = (batch.epoch, 0);
        }
        let Sequence { base_sequence, record_count, .. } = *batch;
        producer.push(Batch { base_sequence, record_count, base_offset, lsn });
        producer.last_used = now;
    }

    /// Forgets who has been silent for `idle_max` and, if that makes no room for another, the longest silent of
    /// those beyond [`IDLE_MIN`], an eighth of all at a time. Answers whether there is room.
    pub fn make_room(&mut self, now: Instant, idle_max: Duration) -> bool {
        self.expire(now, idle_max);
        if self.by_id.len() >= self.producers_max {
            let mut silent_since: Vec<_> = self.by_id.iter().map(|producer| producer.last_used).collect();
            silent_since.sort_unstable();
            let eighth = silent_since.get(self.producers_max / 8).map_or(Duration::ZERO, |&since| now.since(since));
            self.expire(now, eighth.max(IDLE_MIN));
        }
        self.by_id.len() < self.producers_max
    }

    /// Forgets who has been silent for `idle`.
    pub fn expire(&mut self, now: Instant, idle: Duration) {
        self.by_id.retain(|producer| now.since(producer.last_used) < idle);
        if self.by_id.len() < self.by_id.capacity() / 4 {
            self.by_id.shrink_to_fit();
        }
    }

    /// Forgets the batches that end behind `next_offset`: the partition was truncated there.
    pub fn truncate(&mut self, next_offset: u64) {
        self.by_id.retain_mut(|producer| {
            let gone = producer.batches().filter(|batch| batch.next_offset() > next_offset).count();
            producer.pop(gone);
            // One whose batches are all gone may have older ones in the log, so any sequence may be next.
            gone == 0 || producer.len > 0
        });
    }

    /// Lets each producer go on with any sequence, once, in its epoch or a later one: what it sent last was lost in a
    /// crash that the partition's level allows.
    pub fn accept_any_sequence(&mut self) {
        self.by_id.iter_mut().for_each(|producer| producer.len = 0);
    }

    /// What they had appended up to group `lsn`, as bytes: together with a replay of the groups behind it, that is
    /// the present state.
    pub fn encode(&self, lsn: u64) -> Vec<u8> {
        let told = self.by_id.iter().filter(|producer| producer.is_older(lsn));
        let mut out = vec![VERSION];
        put_count(&mut out, told.clone().count());
        told.for_each(|producer| producer.encode(lsn, &mut out));
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
        let mut id_last = None;
        let producer = |reader: &mut Reader<'_>| {
            let producer = Producer::decode(reader, now)?;
            match id_last.replace(producer.id) {
                Some(last) if last >= producer.id => Err(reader.malformed("order of producers", Producer::BYTES_MIN)),
                _ => Ok(producer),
            }
        };
        let mut by_id: Vec<_> = reader.list("count of producers", Producer::BYTES_MIN, producer)?;
        by_id.shrink_to_fit();
        reader.finish()?;
        Ok(Self { by_id, producers_max })
    }

    #[inline]
    fn get(&self, id: i64) -> Option<&Producer> {
        self.place(id).ok().map(|place| &self.by_id[place])
    }

    /// Where a producer is, or else belongs.
    #[inline]
    fn place(&self, id: i64) -> Result<usize, usize> {
        self.by_id.binary_search_by_key(&id, |producer| producer.id)
    }
}

impl Producer {
    /// Length in bytes of one without batches.
    const BYTES_MIN: usize = 11;

    fn new(id: i64, epoch: i16, now: Instant) -> Self {
        Self { id, epoch, batches: [Batch::default(); BATCHES_PER_PRODUCER], next: 0, len: 0, last_used: now }
    }

    /// The batches, oldest first.
    fn batches(&self) -> impl Iterator<Item = &Batch> + Clone {
        let oldest = usize::from(self.next) + BATCHES_PER_PRODUCER - usize::from(self.len);
        (oldest..oldest + usize::from(self.len)).map(|index| &self.batches[index % BATCHES_PER_PRODUCER])
    }

    #[inline]
    fn last(&self) -> Option<&Batch> {
        let newest = (usize::from(self.next) + BATCHES_PER_PRODUCER - 1) % BATCHES_PER_PRODUCER;
        (self.len > 0).then(|| &self.batches[newest])
    }

    #[inline]
    fn check(&self, batch: &Sequence) -> Result<Verdict, SequenceError> {
        let Sequence { producer_id, epoch, base_sequence, record_count } = *batch;
        if epoch < self.epoch {
            return Err(SequenceError::StaleEpoch { producer_id, current: self.epoch, found: epoch });
        }
        let expected = match self.last() {
            _ if epoch > self.epoch => 0,
            None => return Ok(Verdict::Append),
            Some(last) => last.next_sequence(),
        };
        if base_sequence == expected {
            return Ok(Verdict::Append);
        }
        let same = |known: &&Batch| known.base_sequence == base_sequence && known.record_count == record_count;
        match self.batches().find(same) {
            Some(known) if epoch == self.epoch => {
                Ok(Verdict::Duplicate { base_offset: known.base_offset, lsn: known.lsn })
            }
            _ => Err(SequenceError::OutOfOrder { producer_id, expected, found: base_sequence }),
        }
    }

    #[inline]
    fn push(&mut self, batch: Batch) {
        self.batches[usize::from(self.next)] = batch;
        self.next = (self.next + 1) % BATCHES_PER_PRODUCER as u8;
        self.len = (self.len + 1).min(BATCHES_PER_PRODUCER as u8);
    }

    /// Takes the newest `count` batches away.
    fn pop(&mut self, count: usize) {
        self.next = (self.next + BATCHES_PER_PRODUCER as u8 - count as u8) % BATCHES_PER_PRODUCER as u8;
        self.len -= count as u8;
    }

    /// Whether there is something to tell of it up to group `lsn`. One that began later comes back by replay.
    fn is_older(&self, lsn: u64) -> bool {
        self.batches().next().is_none_or(|oldest| oldest.lsn <= lsn)
    }

    fn encode(&self, lsn: u64, out: &mut Vec<u8>) {
        let known = self.batches().filter(|batch| batch.lsn <= lsn);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(known.clone().count() as u8);
        for batch in known {
            out.extend_from_slice(&batch.base_sequence.to_le_bytes());
            out.extend_from_slice(&batch.record_count.to_le_bytes());
            out.extend_from_slice(&batch.base_offset.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>, now: Instant) -> Result<Self, DecodeError> {
        let id = reader.i64("producer id")?;
        let mut producer = Self::new(id, reader.u16("producer epoch")?.cast_signed(), now);
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
        Ok(producer)
    }
}

impl Batch {
    /// The sequence behind its last one.
    fn next_sequence(&self) -> i32 {
        // Of 2^31 numbers, so in unsigned arithmetic the sum cannot overflow and the mask wraps it.
        ((self.base_sequence as u32).wrapping_add(self.record_count as u32) & i32::MAX as u32) as i32
    }

    /// The offset behind its last record.
    fn next_offset(&self) -> u64 {
        self.base_offset.saturating_add(u64::from(self.record_count.max(1).cast_unsigned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Instant = Instant::from_nanos(0);

    fn sequence(epoch: i16, base_sequence: i32, record_count: i32) -> Sequence {
        Sequence { producer_id: 7, epoch, base_sequence, record_count }
    }

    /// Producer 7 after batches of ten in epoch 1, batch `n` at offset `100 * n` in group `n`, counted from 1.
    fn after(batches: i32) -> Producers {
        let mut producers = Producers::new(10);
        for n in 1..=batches {
            producers.record(&sequence(1, 10 * (n - 1), 10), 100 * n as u64, n as u64, START);
        }
        producers
    }

    fn check(producers: &Producers, batch: Sequence, expected: Result<Verdict, SequenceError>) {
        assert_eq!(producers.check(&batch), expected, "{batch:?}");
    }

    fn out_of_order(expected: i32, found: i32) -> Result<Verdict, SequenceError> {
        Err(SequenceError::OutOfOrder { producer_id: 7, expected, found })
    }

    #[test]
    fn a_batch_follows_the_last_one() {
        check(&after(7), sequence(1, 70, 3), Ok(Verdict::Append));
        check(&after(7), sequence(1, 71, 3), out_of_order(70, 71));
        check(&after(7), sequence(1, 0, 3), out_of_order(70, 0));
    }

    #[test]
    fn the_last_five_are_recognised_and_wait_for_the_same_sync() {
        for n in 3..=7 {
            let expected = Verdict::Duplicate { base_offset: 100 * n, lsn: n };
            check(&after(7), sequence(1, 10 * (n as i32 - 1), 10), Ok(expected));
        }
        check(&after(7), sequence(1, 10, 10), out_of_order(70, 10));
        check(&after(7), sequence(1, 60, 9), out_of_order(70, 60));
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_ends_the_older() {
        check(&after(2), sequence(2, 0, 10), Ok(Verdict::Append));
        check(&after(2), sequence(2, 20, 10), out_of_order(0, 20));
        check(&after(2), sequence(2, 10, 10), out_of_order(0, 10));
        let mut producers = after(2);
        producers.record(&sequence(2, 0, 10), 300, 3, START);
        let stale = Err(SequenceError::StaleEpoch { producer_id: 7, current: 2, found: 1 });
        check(&producers, sequence(1, 20, 10), stale);
        check(&producers, sequence(1, 10, 10), stale);
        check(&producers, sequence(2, 0, 10), Ok(Verdict::Duplicate { base_offset: 300, lsn: 3 }));
        check(&producers, sequence(2, 10, 1), Ok(Verdict::Append));
    }

    #[test]
    fn producers_are_told_apart_by_whatever_ids_they_have() {
        let mut producers = Producers::new(10);
        let of = |producer_id, base_sequence| Sequence { producer_id, ..sequence(0, base_sequence, 1) };
        for (offset, (id, base_sequence)) in [(5, 0), (3, 0), (9, 0), (3, 1), (-1, 0), (5, 1)].into_iter().enumerate() {
            assert_eq!(producers.check(&of(id, base_sequence)), Ok(Verdict::Append));
            producers.record(&of(id, base_sequence), offset as u64, offset as u64, START);
        }
        let bytes = producers.encode(u64::MAX);
        let decoded = Producers::decode(&bytes, 10, START).unwrap();
        for (id, offset) in [(-1, 4), (3, 3), (5, 5), (9, 2)] {
            assert_eq!((producers.last_offset(id), decoded.last_offset(id)), (Some(offset), Some(offset)));
        }
        assert_eq!((producers.last_offset(4), decoded.encode(u64::MAX)), (None, bytes));
    }

    #[test]
    fn producers_out_of_order_are_no_producers() {
        let mut producers = Producers::new(10);
        for producer_id in [1, 2] {
            producers.record(&Sequence { producer_id, ..sequence(0, 0, 1) }, 0, 0, START);
        }
        let mut bytes = producers.encode(u64::MAX);
        let (first, second) = bytes[5..].split_at_mut(27);
        first.swap_with_slice(second);
        assert!(Producers::decode(&bytes, 10, START).is_err());
        // The same one twice.
        bytes.copy_within(5..32, 32);
        assert!(Producers::decode(&bytes, 10, START).is_err());
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let mut producers = Producers::new(1);
        producers.record(&sequence(0, i32::MAX - 9, 10), 0, 1, START);
        check(&producers, sequence(0, 0, 1), Ok(Verdict::Append));
        producers.record(&sequence(0, i32::MAX - 1, 5), 0, 1, START);
        check(&producers, sequence(0, 3, 1), Ok(Verdict::Append));
        producers.record(&sequence(0, i32::MAX, i32::MAX), 0, 1, START);
        check(&producers, sequence(0, i32::MAX - 1, 1), Ok(Verdict::Append));
    }

    #[test]
    fn nonsense_is_refused() {
        for (base_sequence, record_count) in [(-1, 1), (i32::MIN, 1), (0, 0), (0, -1)] {
            let invalid = SequenceError::Invalid { producer_id: 7, base_sequence, record_count };
            check(&after(0), sequence(0, base_sequence, record_count), Err(invalid));
        }
    }

    #[test]
    fn a_stranger_starts_anywhere() {
        check(&after(0), sequence(3, 500, 1), Ok(Verdict::Append));
        let mut lost = after(3);
        lost.accept_any_sequence();
        check(&lost, sequence(1, 500, 1), Ok(Verdict::Append));
        check(&lost, sequence(2, 500, 1), out_of_order(0, 500));
        check(&lost, sequence(0, 30, 1), Err(SequenceError::StaleEpoch { producer_id: 7, current: 1, found: 0 }));
        lost.record(&sequence(1, 500, 1), 9, 9, START);
        check(&lost, sequence(1, 502, 1), out_of_order(501, 502));
    }

    #[test]
    fn a_truncation_takes_batches_back() {
        let mut producers = after(5);
        producers.truncate(405);
        check(&producers, sequence(1, 30, 10), Ok(Verdict::Append));
        check(&producers, sequence(1, 20, 10), Ok(Verdict::Duplicate { base_offset: 300, lsn: 3 }));
        producers.truncate(100);
        assert!(producers.is_empty());
    }

    #[test]
    fn room_is_made_from_the_longest_silent() {
        let at = |seconds| START + Duration::from_secs(seconds);
        let mut producers = Producers::new(16);
        for id in 0..16 {
            let batch = Sequence { producer_id: id, ..sequence(0, 0, 1) };
            assert_eq!(producers.check(&batch), Ok(Verdict::Append));
            producers.record(&batch, 0, 1, at(id as u64));
        }
        let stranger = Sequence { producer_id: 99, ..sequence(0, 0, 1) };
        assert_eq!(producers.check(&stranger), Err(SequenceError::TooManyProducers { producers: 16 }));
        assert!(!producers.make_room(at(10 * 60 - 1), IDLE_MAX), "a client may still retry");
        assert!(producers.make_room(at(10 * 60 + 30), IDLE_MAX));
        assert_eq!(producers.len(), 13);
        assert!(producers.by_id.iter().all(|producer| producer.id > 2));
        assert_eq!(producers.check(&stranger), Ok(Verdict::Append));
        producers.make_room(at(24 * 60 * 60 + 14), IDLE_MAX);
        assert_eq!(producers.len(), 1);
    }

    #[test]
    fn the_layout_is_as_specified() {
        let mut producers = Producers::new(10);
        producers.record(&Sequence { producer_id: 258, epoch: 3, base_sequence: 4, record_count: 5 }, 6, 1, START);
        let expected = [1, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 1, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(producers.encode(u64::MAX), expected);
        let mut six = expected.to_vec();
        six[15] = 6;
        six.extend_from_slice(&expected[16..].repeat(5));
        assert!(Producers::decode(&six, 10, START).is_err(), "five are remembered, never six");
    }

    /// Batches as a log might hold them, whatever their order.
    fn batches() -> impl Strategy<Value = Vec<Sequence>> {
        let sequence = (0i64..4, 0i16..3, prop_oneof![0..50i32, Just(i32::MAX)], 1..20i32);
        let sequence = sequence.prop_map(|(producer_id, epoch, base_sequence, record_count)| Sequence {
            producer_id,
            epoch,
            base_sequence,
            record_count,
        });
        prop::collection::vec(sequence, 0..60)
    }

    fn record_all(producers: &mut Producers, batches: &[Sequence], first_lsn: u64) {
        for (batch, lsn) in batches.iter().zip(first_lsn..) {
            producers.record(batch, lsn * 10, lsn, START);
        }
    }

    proptest! {
        #[test]
        fn a_snapshot_and_the_groups_behind_it_are_the_state(batches in batches(), flushed in 0usize..60) {
            let flushed = flushed.min(batches.len());
            let mut whole = Producers::new(10);
            record_all(&mut whole, &batches, 1);
            let mut recovered = Producers::decode(&whole.encode(flushed as u64), 10, START).expect("our own bytes");
            record_all(&mut recovered, &batches[flushed..], 1 + flushed as u64);
            prop_assert_eq!(recovered.encode(u64::MAX), whole.encode(u64::MAX));
        }

        /// The definition, at length: with the batches of a producer's present epoch in a list.
        #[test]
        fn verdicts_are_those_of_the_whole_history(batches in batches(), follows in prop::collection::vec(any::<bool>(), 60)) {
            let mut producers = Producers::new(10);
            let mut log: Vec<(Sequence, u64)> = Vec::new();
            for (mut batch, follows) in batches.into_iter().zip(follows) {
                let own = || log.iter().filter(|(known, _)| known.producer_id == batch.producer_id);
                let epoch = own().map(|(known, _)| known.epoch).max();
                let lived: Vec<_> = own().filter(|(known, _)| Some(known.epoch) == epoch).copied().collect();
                let next = lived.last().map(|(last, _)| ((last.base_sequence as i64 + last.record_count as i64) % (1 << 31)) as i32);
                if let Some(next) = next.filter(|_| follows) {
                    batch = Sequence { epoch: epoch.expect("there is a last one"), base_sequence: next, ..batch };
                }
                let expected = match epoch {
                    None => Some(Verdict::Append),
                    Some(epoch) if batch.epoch < epoch => None,
                    Some(epoch) if batch.epoch > epoch => (batch.base_sequence == 0).then_some(Verdict::Append),
                    Some(_) if Some(batch.base_sequence) == next => Some(Verdict::Append),
                    Some(_) => lived.iter().rev().take(5).rev().find(|(known, _)| *known == batch).map(|&(_, base_offset)| {
                        Verdict::Duplicate { base_offset, lsn: base_offset / 10 }
                    }),
                };
                prop_assert_eq!(producers.check(&batch).ok(), expected);
                if expected == Some(Verdict::Append) {
                    let lsn = log.len() as u64 + 1;
                    producers.record(&batch, lsn * 10, lsn, START);
                    log.push((batch, lsn * 10));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0u32..4) {
            let _ = Producers::decode(&bytes, 10, START);
            if bytes.len() > 5 {
                bytes[0] = VERSION;
                bytes[1..5].copy_from_slice(&count.to_le_bytes());
            }
            if let Ok(producers) = Producers::decode(&bytes, 10, START) {
                let again = producers.encode(u64::MAX);
                prop_assert_eq!(Producers::decode(&again, 10, START).expect("our own bytes").encode(u64::MAX), again);
            }
        }
    }
}
