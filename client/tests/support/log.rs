//! A partition's log in memory, with the producer state that `PROTOCOL.md` describes.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use wire::{
    ErrorCode,
    api::fetch::Lost,
    record::{Batch, Producer, patch_base_offset},
};

#[derive(Debug, Default)]
pub struct Log {
    pub start: u64,
    pub next: u64,
    pub batches: Vec<Placed>,
    pub lost: Option<Lost>,
    producers: BTreeMap<i64, Known>,
}

#[derive(Debug, Clone)]
pub struct Placed {
    pub base: u64,
    pub next: u64,
    pub max_timestamp_ms: i64,
    pub bytes: Bytes,
}

#[derive(Debug)]
struct Known {
    epoch: i16,
    last: VecDeque<(i32, i32, u64)>,
}

impl Log {
    /// Appends a batch, or finds it; its base offset.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, ErrorCode> {
        let batch = Batch::parse_one(bytes).map_err(|_| ErrorCode::CorruptBatch)?;
        batch.verify_for_produce().map_err(|error| ErrorCode::from(&error))?;
        let (producer, last_sequence) = (batch.producer(), batch.last_sequence());
        if producer.is_idempotent()
            && let Some(known) = self.producers.get_mut(&producer.id)
            && let Some(base) = known.check(producer, last_sequence)?
        {
            return Ok(base);
        }
        let base = self.next;
        let mut bytes = BytesMut::from(bytes);
        patch_base_offset(&mut bytes, base);
        self.next += batch.offset_count();
        let max_timestamp_ms = batch.max_timestamp_ms();
        self.batches.push(Placed { base, next: self.next, max_timestamp_ms, bytes: bytes.freeze() });
        if producer.is_idempotent() {
            self.remember(producer, last_sequence, base);
        }
        Ok(base)
    }

    /// Batches from `offset` on, at most `bytes_max` of them unless the first is larger; and the loss in front of them. A loss
    /// behind them ends the answer.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Result<(Vec<Bytes>, Option<Lost>), ErrorCode> {
        if offset < self.start || offset > self.next {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let lost = self.lost.filter(|lost| lost.from <= offset && offset < lost.to);
        let end = self.lost.filter(|lost| offset < lost.from).map_or(u64::MAX, |lost| lost.from);
        let mut room = bytes_max;
        let mut found = Vec::new();
        for placed in self.batches.iter().filter(|placed| placed.next > offset && placed.base < end) {
            if placed.bytes.len() > room && !found.is_empty() {
                break;
            }
            room = room.saturating_sub(placed.bytes.len());
            found.push(placed.bytes.clone());
        }
        Ok((found, lost))
    }

    /// The offset of the first record at or after a time, to the batch.
    pub fn at(&self, timestamp_ms: i64) -> u64 {
        self.batches.iter().find(|placed| placed.max_timestamp_ms >= timestamp_ms).map_or(self.next, |placed| {
            let batch = Batch::parse_one(&placed.bytes).unwrap();
            let mut records = batch.records().unwrap().map(Result::unwrap);
            records.find(|record| record.timestamp_ms >= timestamp_ms).unwrap().offset
        })
    }

    /// Forgets every producer, as a broker may.
    pub fn forget_producers(&mut self) {
        self.producers.clear();
    }

    /// An unclean stop of a `memory` topic: these offsets are gone.
    pub fn lose(&mut self, from: u64, to: u64) {
        self.batches.retain(|placed| placed.next <= from);
        self.next = to;
        self.lost = Some(Lost { from, to });
        self.producers.values_mut().for_each(|known| known.last.clear());
    }

    fn remember(&mut self, producer: Producer, last_sequence: i32, base: u64) {
        let known = self.producers.entry(producer.id).or_insert(Known { epoch: producer.epoch, last: VecDeque::new() });
        if known.epoch != producer.epoch {
            (known.epoch, known.last) = (producer.epoch, VecDeque::new());
        }
        known.last.push_back((producer.base_sequence, last_sequence, base));
        if known.last.len() > 5 {
            known.last.pop_front();
        }
    }
}

impl Known {
    /// The offset of a batch that is there already; an error for one that does not follow.
    fn check(&self, producer: Producer, last_sequence: i32) -> Result<Option<u64>, ErrorCode> {
        if producer.epoch < self.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        let expected = match self.last.back() {
            _ if producer.epoch > self.epoch => 0,
            None => return Ok(None),
            Some((_, last, _)) => Producer { base_sequence: *last, ..producer }.sequence_after(1),
        };
        if producer.base_sequence == expected {
            return Ok(None);
        }
        let same = |(base, last, _): &&(i32, i32, u64)| *base == producer.base_sequence && *last == last_sequence;
        let known = self.last.iter().find(same).filter(|_| producer.epoch == self.epoch);
        known.map(|(_, _, offset)| Some(*offset)).ok_or(ErrorCode::OutOfOrderSequence)
    }
}
