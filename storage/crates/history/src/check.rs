//! Puts all notes of a run together and judges them, class by class.

use std::{collections::BTreeMap, ops::Range};

use rustc_hash::FxHashMap;

use crate::{
    Class, Faults, Reader, Report, Value, Writer, WriterId,
    ranges::Ranges,
    span::{Axis, Span, disjoint, pair_by_value},
};

/// What a partition promises about its acknowledged records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Acknowledged is on disk: nothing acknowledged is ever lost.
    #[default]
    Durable,
    /// Acknowledged is in memory: a crash may lose records, but the broker says which offsets it lost.
    Memory,
}

/// The notes of all actors of one run.
#[derive(Debug, Default)]
pub struct Observations {
    partitions: BTreeMap<u64, Partition>,
    sent: FxHashMap<WriterId, Sent>,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Partition {
    level: Level,
    writers: Vec<Writer>,
    readers: Vec<Reader>,
}

/// What a writer can have put into the log.
#[derive(Clone, Copy, Debug)]
struct Sent {
    partition: u64,
    records: u64,
}

impl Observations {
    /// Nothing observed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what a partition promises; [`Level::Durable`] where nobody says.
    pub fn set_level(&mut self, partition: u64, level: Level) {
        self.partitions.entry(partition).or_default().level = level;
    }

    /// Adds a writer's notes.
    ///
    /// # Panics
    /// When there is a writer of that id already: the run itself is wrong.
    pub fn add_writer(&mut self, writer: Writer) {
        let sent = Sent { partition: writer.partition(), records: writer.sent() };
        let earlier = self.sent.insert(writer.id(), sent);
        assert!(earlier.is_none(), "two writers are called {}", writer.id());
        self.partitions.entry(writer.partition()).or_default().writers.push(writer);
    }

    /// Adds a reader's notes.
    pub fn add_reader(&mut self, reader: Reader) {
        self.partitions.entry(reader.partition()).or_default().readers.push(reader);
    }

    /// Says which faults the run planned and had.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Judges the run.
    pub fn check(self) -> Report {
        let mut report = Report::default();
        for (&number, partition) in &self.partitions {
            Check { number, partition, sent: &self.sent, report: &mut report }.run();
        }
        let actors = || self.partitions.values();
        let acked = actors().flat_map(|partition| &partition.writers).filter_map(|writer| writer.last_ok);
        let delivered = actors().flat_map(|partition| &partition.readers).filter_map(|reader| reader.last_ok);
        report.finish(&self.faults, acked.chain(delivered).max());
        report
    }
}

/// The check of one partition. Classes that need several actors work on spans; `delivered` and `acked` are by value.
struct Check<'a> {
    number: u64,
    partition: &'a Partition,
    sent: &'a FxHashMap<WriterId, Sent>,
    report: &'a mut Report,
}

impl Check<'_> {
    fn run(&mut self) {
        self.readers_order();
        let delivered = self.delivered();
        let acked: Vec<Span> = self.partition.writers.iter().flat_map(|writer| &writer.acked).copied().collect();
        self.one_value_per_offset(&delivered, &acked);
        let delivered = self.one_offset_per_value(delivered);
        let acked = self.one_ack_per_value(acked);
        self.fate_of_acked(&acked, &delivered);
        self.fate_of_refused(&acked, &delivered);
        self.send_order(acked, delivered);
    }

    /// nonmonotonic-poll, poll-skip and high watermark regression: each reader by itself.
    fn readers_order(&mut self) {
        for reader in &self.partition.readers {
            for jump in &reader.jumps {
                let (class, count) = match jump.got.checked_sub(jump.expected) {
                    Some(skipped) => (Class::PollSkip, skipped),
                    None => (Class::NonmonotonicPoll, 1),
                };
                self.report.violation(class, self.number, count, || {
                    format!("a reader at offset {} was given offset {}", jump.expected, jump.got)
                });
            }
            for regression in &reader.regressions {
                self.report.violation(Class::HighWatermarkRegression, self.number, 1, || {
                    format!("a reader saw {}, then {}", regression.before, regression.after)
                });
            }
            for offset in &reader.corrupt {
                self.report.violation(Class::Corrupt, self.number, 1, || format!("damaged bytes at offset {offset}"));
            }
        }
    }

    /// Everything delivered that was ever sent to this partition; the rest is corruption.
    fn delivered(&mut self) -> Vec<Span> {
        let mut known = Vec::new();
        for span in self.partition.readers.iter().flat_map(|reader| &reader.delivered) {
            self.report.totals.delivered += span.count;
            let sent = match self.sent.get(&span.value.writer()) {
                Some(sent) if sent.partition == self.number => sent.records,
                _ => 0,
            };
            let count = sent.saturating_sub(span.value.sequence()).min(span.count);
            if count > 0 {
                known.push(Span { count, ..*span });
            }
            if count < span.count {
                self.report.violation(Class::Corrupt, self.number, span.count - count, || {
                    let value = span.value.plus(count);
                    format!("value {value} at offset {}, which nobody sent here", span.offset.saturating_add(count))
                });
            }
        }
        known
    }

    /// offset-reuse.
    fn one_value_per_offset(&mut self, delivered: &[Span], acked: &[Span]) {
        let (number, report) = (self.number, &mut *self.report);
        disjoint([delivered, acked].concat(), Axis::Offset, |left, right| {
            report.violation(Class::OffsetReuse, number, left.count, || {
                format!("offset {} holds value {} and value {}", left.offset, left.value, right.value)
            });
        });
    }

    /// duplicate.
    fn one_offset_per_value(&mut self, delivered: Vec<Span>) -> Vec<Span> {
        let (number, report) = (self.number, &mut *self.report);
        disjoint(delivered, Axis::Value, |left, right| {
            report.violation(Class::Duplicate, number, left.count, || {
                format!("value {} was delivered at offsets {} and {}", left.value, left.offset, right.offset)
            });
        })
    }

    /// inconsistent-offset, between two acks of one value.
    fn one_ack_per_value(&mut self, acked: Vec<Span>) -> Vec<Span> {
        let (number, report) = (self.number, &mut *self.report);
        disjoint(acked, Axis::Value, |left, right| {
            report.violation(Class::InconsistentOffset, number, left.count, || {
                format!("value {} was acknowledged at offsets {} and {}", left.value, left.offset, right.offset)
            });
        })
    }

    /// What became of each acknowledged value: verified, inconsistent-offset, lost-write or unseen.
    fn fate_of_acked(&mut self, acked: &[Span], delivered: &[Span]) {
        let readers = || self.partition.readers.iter();
        let lost: Ranges = readers().flat_map(|reader| reader.lost.iter().cloned()).collect();
        let passed: Ranges = readers().flat_map(Reader::passed).collect();
        pair_by_value(acked, delivered, |acked, delivered| {
            self.report.totals.acked += acked.count;
            match delivered {
                Some(delivered) if delivered.offset == acked.offset => self.report.totals.verified += acked.count,
                Some(delivered) => {
                    self.report.violation(Class::InconsistentOffset, self.number, acked.count, || {
                        let (at, found) = (acked.offset, delivered.offset);
                        format!("value {} was acknowledged at offset {at}, delivered at {found}", acked.value)
                    });
                }
                None => lost.split(acked.offset..acked.end_offset(), |piece, declared| {
                    if declared && self.partition.level == Level::Memory {
                        self.report.totals.declared_lost += piece.end - piece.start;
                    } else {
                        passed.split(piece, |piece, passed| self.missing(acked, piece, passed));
                    }
                }),
            }
        });
    }

    /// lost-write where a reader has passed, unseen where none has.
    fn missing(&mut self, acked: Span, offsets: Range<u64>, passed: bool) {
        let class = if passed { Class::LostWrite } else { Class::Unseen };
        self.report.violation(class, self.number, offsets.end - offsets.start, || {
            let value = acked.value.plus(offsets.start - acked.offset);
            format!("value {value}, acknowledged at offset {}, was never delivered", offsets.start)
        });
    }

    /// refused-read; and how many sends stayed unknown.
    fn fate_of_refused(&mut self, acked: &[Span], delivered: &[Span]) {
        let writers = || self.partition.writers.iter();
        let refused: Ranges = writers().flat_map(|writer| writer.refused.iter().cloned()).collect();
        for span in delivered {
            refused.split(span.value.to_u64()..span.value.plus(span.count).to_u64(), |piece, inside| {
                if inside {
                    self.report.violation(Class::RefusedRead, self.number, piece.end - piece.start, || {
                        format!("value {} was refused, then delivered", Value::from_u64(piece.start))
                    });
                }
            });
        }
        let answered: Ranges = writers()
            .flat_map(|writer| writer.refused.iter().cloned())
            .chain(acked.iter().map(|span| span.value.to_u64()..span.value.plus(span.count).to_u64()))
            .collect();
        let sent: u64 = writers().map(Writer::sent).sum();
        self.report.totals.refused += refused.len();
        self.report.totals.unknown += sent - answered.len();
    }

    /// nonmonotonic-send: along each writer's values, offsets must rise, whether known from acks or from deliveries.
    fn send_order(&mut self, acked: Vec<Span>, delivered: Vec<Span>) {
        // Disagreements are reported by now.
        let known = disjoint([delivered, acked].concat(), Axis::Value, |_, _| ());
        for pair in known.windows(2) {
            let [earlier, later] = pair else { unreachable!("windows of two") };
            if earlier.value.writer() == later.value.writer() && later.offset < earlier.end_offset() {
                self.report.violation(Class::NonmonotonicSend, self.number, later.count, || {
                    let (first, second) = (earlier.value.plus(earlier.count - 1), later.value);
                    format!(
                        "value {first} is at offset {}, value {second}, sent later, at {}",
                        earlier.end_offset() - 1,
                        later.offset
                    )
                });
            }
        }
    }
}
