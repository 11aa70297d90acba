//! What workers note for the history checker, and its verdict.
//!
//! Producers and consumers run in one process, so a record's value also finds the time at which it was, or should have been,
//! sent: that is how the latency from end to end is measured, without a byte of it on the wire.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
};

use history::{Class, Harm, Level, Moment, Observations, Payload, Reader, Report, Value, Writer, WriterId};
use rustc_hash::FxHashMap;
use serde::Serialize;
use streambus::Durability;

/// What tells a record of this run, and when it was sent.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) payload: Payload,
    sent: SentTimes,
}

/// When records were sent that no consumer has read yet, by writer. Only kept where consumers run beside producers.
#[derive(Debug, Default)]
struct SentTimes(FxHashMap<WriterId, Mutex<VecDeque<SentAt>>>);

#[derive(Clone, Copy, Debug)]
struct SentAt {
    first: Value,
    count: u64,
    at_ns: u64,
}

/// What a producer knows of its records, by partition.
#[derive(Debug)]
pub(crate) struct SentNotes {
    /// Nothing where nothing is verified.
    writers: Option<Vec<Writer>>,
    /// The offsets behind the last acknowledged records.
    ends: Vec<u64>,
}

/// What a consumer saw of its partitions.
#[derive(Debug)]
pub(crate) struct ReadNotes(Vec<Option<Reader>>);

/// Records that lie one behind the other in a partition and were sent so by one writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) first: Value,
    pub(crate) count: u64,
}

/// The verdict, in numbers of records.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    /// Acknowledged.
    pub(crate) acked: u64,
    /// Acknowledged, and read back unchanged at the offset of the acknowledgement.
    pub(crate) read: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) corrupt: u64,
    /// Sent, and neither acknowledged nor refused.
    pub(crate) unknown: u64,
    /// Acknowledged from memory, and lost in a stop that the broker told of.
    pub(crate) declared_lost: u64,
    /// The first violations of each class.
    pub(crate) examples: Vec<String>,
}

impl Proof {
    /// Of a run of so many producers and partitions. `timed`: whether consumers run beside the producers.
    pub(crate) fn new(run: u64, record_size: usize, producers: usize, partitions: u32, timed: bool) -> Self {
        let writers = (0..producers).flat_map(|producer| (0..partitions).map(move |partition| (producer, partition)));
        let queue = |(producer, partition)| (writer_id(producer, partition, partitions), Mutex::default());
        let sent = if timed { writers.map(queue).collect() } else { FxHashMap::default() };
        Self { payload: Payload::new(run, record_size), sent: SentTimes(sent) }
    }

    /// Records from `first` on are sent, or should have been, at `at_ns`.
    pub(crate) fn sent(&self, first: Value, count: u64, at_ns: u64) {
        let Some(mut queue) = self.sent.queue(first) else { return };
        match queue.back_mut() {
            Some(last) if last.at_ns == at_ns && last.first.plus(last.count) == first => last.count += count,
            _ => queue.push_back(SentAt { first, count, at_ns }),
        }
    }

    /// Tells when the records of a stretch were sent, once: time and number of records.
    pub(crate) fn take_sent(&self, stretch: Stretch, mut visit: impl FnMut(u64, u64)) {
        let Some(mut queue) = self.sent.queue(stretch.first) else { return };
        let (start, end) = (stretch.first, stretch.first.plus(stretch.count));
        while let Some(front) = queue.front_mut() {
            let front_end = front.first.plus(front.count);
            if front.first >= end {
                break;
            }
            let overlap = front_end.min(end).to_u64().saturating_sub(front.first.max(start).to_u64());
            if overlap > 0 {
                visit(front.at_ns, overlap);
            }
            if front_end > end {
                front.count = front_end.to_u64() - end.to_u64();
                front.first = end;
                break;
            }
            queue.pop_front();
        }
    }

    /// Reads the records of a batch into stretches, and notes what is no record of this run.
    pub(crate) fn read<'a>(
        &self,
        reader: &mut Reader,
        records: impl Iterator<Item = (u64, &'a [u8])>,
        now: Moment,
        mut visit: impl FnMut(Stretch),
    ) {
        let mut open: Option<Stretch> = None;
        let mut close = |reader: &mut Reader, open: Option<Stretch>| {
            if let Some(stretch) = open {
                reader.delivered(stretch.offset, stretch.first, stretch.count, now);
                visit(stretch);
            }
        };
        for (offset, value) in records {
            match self.payload.read(value) {
                Ok(value) => match &mut open {
                    Some(stretch) if stretch.continues(offset, value) => stretch.count += 1,
                    _ => close(reader, open.replace(Stretch { offset, first: value, count: 1 })),
                },
                Err(_) => {
                    close(reader, open.take());
                    reader.corrupt(offset);
                }
            }
        }
        close(reader, open);
    }
}

impl SentTimes {
    fn queue(&self, value: Value) -> Option<MutexGuard<'_, VecDeque<SentAt>>> {
        self.0.get(&value.writer()).map(|queue| queue.lock().expect("a panic ends the process"))
    }
}

impl Stretch {
    #[inline]
    fn continues(&self, offset: u64, value: Value) -> bool {
        offset == self.offset + self.count && value == self.first.plus(self.count)
    }
}

impl SentNotes {
    /// Of one producer.
    pub(crate) fn new(verifies: bool, producer: usize, partitions: u32) -> Self {
        let writer = |partition| Writer::new(writer_id(producer, partition, partitions), partition.into());
        let writers = verifies.then(|| (0..partitions).map(writer).collect());
        Self { writers, ends: vec![0; partitions as usize] }
    }

    /// The values of the next records to be sent to a partition.
    #[inline]
    pub(crate) fn send(&mut self, partition: u32, count: u64) -> Value {
        match &mut self.writers {
            Some(writers) => writers[partition as usize].send(count),
            None => Value::from_u64(0),
        }
    }

    #[inline]
    pub(crate) fn acked(&mut self, partition: u32, first: Value, count: u64, offset: u64, now: Moment) {
        if let Some(writers) = &mut self.writers {
            writers[partition as usize].acked(first, count, offset, now);
            let end = &mut self.ends[partition as usize];
            *end = offset.saturating_add(count).max(*end);
        }
    }

    /// They are certainly not stored.
    pub(crate) fn refused(&mut self, partition: u32, first: Value, count: u64) {
        if let Some(writers) = &mut self.writers {
            writers[partition as usize].refused(first, count);
        }
    }

    /// The notes, and by partition the offset behind the last acknowledged record.
    pub(crate) fn into_parts(self) -> (Vec<Writer>, Vec<u64>) {
        (self.writers.unwrap_or_default(), self.ends)
    }
}

impl ReadNotes {
    /// Of a consumer of these partitions, which begins at the offset of each in `starts`.
    pub(crate) fn new(partitions: &[u32], starts: &[u64]) -> Self {
        let mut readers: Vec<_> = starts.iter().map(|_| None).collect();
        for &partition in partitions {
            readers[partition as usize] = Some(Reader::new(partition.into(), starts[partition as usize]));
        }
        Self(readers)
    }

    /// The notes on one of its partitions.
    pub(crate) fn reader(&mut self, partition: u32) -> &mut Reader {
        self.0[partition as usize].as_mut().expect("a consumer is given records of its partitions")
    }

    /// Where it stands.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (u32, u64)> {
        let readers = self.0.iter().flatten();
        readers.map(|reader| (reader.partition() as u32, reader.position()))
    }

    pub(crate) fn into_readers(self) -> Vec<Reader> {
        self.0.into_iter().flatten().collect()
    }
}

impl Verdict {
    /// Puts all notes together.
    pub(crate) fn of(writers: Vec<Writer>, readers: Vec<Reader>, durability: Durability) -> Self {
        let level = match durability {
            Durability::Memory => Level::Memory,
            Durability::Durable => Level::Durable,
        };
        let mut observations = Observations::new();
        for writer in writers {
            observations.set_level(writer.partition(), level);
            observations.add_writer(writer);
        }
        for reader in readers {
            observations.add_reader(reader);
        }
        Self::from(&observations.check())
    }

    /// Whether a promise was broken.
    pub(crate) fn is_violated(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupt > 0
    }
}

impl From<&Report> for Verdict {
    fn from(report: &Report) -> Self {
        let totals = report.totals();
        let examples =
            |class: Class| report.examples(class).iter().map(move |seen| format!("{}: {seen}", class.name()));
        Self {
            acked: totals.acked,
            read: totals.verified,
            lost: report.harmed(Harm::Lost),
            duplicated: report.harmed(Harm::Duplicated),
            reordered: report.harmed(Harm::Reordered),
            corrupt: report.harmed(Harm::Corrupt),
            unknown: totals.unknown,
            declared_lost: totals.declared_lost,
            examples: Class::ALL.into_iter().flat_map(examples).collect(),
        }
    }
}

/// Each producer is a writer of its own on each partition.
fn writer_id(producer: usize, partition: u32, partitions: u32) -> WriterId {
    WriterId::new(producer as u32 * partitions + partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment(7);

    fn proof() -> Proof {
        Proof::new(1, 100, 2, 2, true)
    }

    fn record(proof: &Proof, value: Value) -> Vec<u8> {
        let mut record = vec![0; 100];
        proof.payload.write(value, &mut record);
        record
    }

    /// Sends ten records to partition 1, and reads back the ones that `shape` makes of them.
    fn verdict(shape: impl FnOnce(&mut Vec<(u64, Vec<u8>)>)) -> Verdict {
        let proof = proof();
        let mut sent = SentNotes::new(true, 1, 2);
        let first = sent.send(1, 10);
        sent.acked(1, first, 10, 0, NOW);
        let mut records: Vec<_> = (0..10).map(|index| (index, record(&proof, first.plus(index)))).collect();
        shape(&mut records);
        let mut read = ReadNotes::new(&[1], &[0, 0]);
        let records = records.iter().map(|(offset, record)| (*offset, record.as_slice()));
        proof.read(read.reader(1), records, NOW, |_| ());
        let (writers, ends) = sent.into_parts();
        assert_eq!(ends, [0, 10]);
        Verdict::of(writers, read.into_readers(), Durability::Durable)
    }

    #[test]
    fn what_was_acknowledged_and_read_is_verified() {
        let verdict = verdict(|_| ());
        assert_eq!((verdict.acked, verdict.read, verdict.is_violated()), (10, 10, false));
    }

    #[test]
    fn every_harm_is_a_violation() {
        let lost = verdict(|records| drop(records.remove(4)));
        assert!(lost.is_violated() && lost.lost > 0, "{lost:?}");
        let unseen = verdict(|records| records.truncate(9));
        assert_eq!((unseen.lost, unseen.read), (1, 9));
        let duplicated = verdict(|records| {
            let again = records[9].1.clone();
            records.push((10, again));
        });
        assert_eq!((duplicated.duplicated, duplicated.is_violated()), (1, true));
        let reordered = verdict(|records| {
            let earlier = records[3].1.clone();
            records[3].1 = std::mem::replace(&mut records[4].1, earlier);
        });
        assert!(reordered.is_violated() && reordered.reordered > 0, "{reordered:?}");
        let corrupt = verdict(|records| records[3].1[50] ^= 1);
        assert!(corrupt.is_violated() && corrupt.corrupt == 1, "{corrupt:?}");
        assert!(corrupt.examples[0].contains("offset 3"), "{:?}", corrupt.examples);
    }

    #[test]
    fn what_nobody_answered_is_unknown_and_no_violation() {
        let mut sent = SentNotes::new(true, 0, 1);
        sent.send(0, 5);
        let refused = sent.send(0, 2);
        sent.refused(0, refused, 2);
        let verdict = Verdict::of(sent.into_parts().0, vec![], Durability::Durable);
        assert_eq!((verdict.unknown, verdict.acked, verdict.is_violated()), (5, 0, false));
    }

    #[test]
    fn a_record_finds_the_time_at_which_it_was_sent() {
        let proof = proof();
        let value = |sequence| Value::new(writer_id(0, 1, 2), sequence);
        proof.sent(value(0), 10, 100);
        proof.sent(value(10), 1, 200);
        proof.sent(value(11), 9, 300);
        let take = |first, count| {
            let mut found = Vec::new();
            let stretch = Stretch { offset: 0, first: value(first), count };
            proof.take_sent(stretch, |at_ns, records| found.push((at_ns, records)));
            found
        };
        assert_eq!(take(0, 4), [(100, 4)]);
        // 4 and 5 never arrive: what is passed is forgotten.
        assert_eq!(take(6, 7), [(100, 4), (200, 1), (300, 2)]);
        assert_eq!(take(13, 100), [(300, 7)]);
        assert_eq!(take(20, 1), []);
    }

    #[test]
    fn without_verification_nothing_is_kept() {
        let mut sent = SentNotes::new(false, 0, 4);
        assert_eq!(sent.send(3, 10), Value::from_u64(0));
        sent.acked(3, Value::from_u64(0), 10, 0, NOW);
        assert!(sent.into_parts().0.is_empty());
    }
}
