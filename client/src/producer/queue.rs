//! The batches of one partition on their way to the broker: pure, time as an argument.
//!
//! ```text
//!  oldest                                       newest
//!  [ on the wire | on the wire | waiting | waiting ]  <- push
//!    acknowledged, in order      sent when the window has room
//! ```
//!
//! A batch that fails in a way that can be mended stays where it is, with its bytes and sequence numbers, and nothing of the
//! partition is sent until nothing of it is on the wire; then sending starts again at the oldest. So a retry never overtakes,
//! and the broker knows every repeat by its numbers.
//!
//! The hard idea is the gap. A batch given up for lost or refused for good leaves numbers behind that the broker will never
//! see, or has seen without our knowing. The batches after it tell: if one is taken, there is no gap; if the oldest is refused
//! as out of order, nothing after the gap is written, and all of it is numbered anew under the next producer epoch. The first
//! batch of that epoch shuts out for ever whatever of the older one is still on its way.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use wire::{
    ErrorCode,
    record::{Batch, BatchBuilder, Codec, Producer, position},
};

use super::delivery::{Ack, BatchOutcome, Decide};
use crate::{error::Error, retry::Backoff};

/// How a producer numbers the batches of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbering {
    /// Not at all: a repeat cannot be told from a new batch.
    None,
    /// By producer id, epoch and sequence.
    Idempotent { id: i64, epoch: i16 },
}

/// What became of one attempt to write a batch.
#[derive(Debug, Clone)]
pub(crate) enum Attempt {
    /// Written, perhaps by an earlier attempt.
    Acked(Ack),
    /// Refused by the broker.
    Refused { code: ErrorCode, error: Error },
    /// No answer: written or not.
    Unanswered(Error),
    /// It never left.
    NotSent(Error),
}

/// A batch whose fate is decided, to be told to its records.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) decide: Decide,
    pub(crate) outcome: Outcome,
    pub(crate) record_count: u32,
    /// What it counted for in the producer's buffer.
    pub(crate) buffer_bytes: usize,
}

/// The fate of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Acked(Ack),
    Failed(Error),
    /// The delivery timeout passed, the last attempt having failed like this.
    TimedOut {
        maybe_written: bool,
        reason: Option<Arc<str>>,
    },
    /// It may have been written, and asking again might write it twice.
    Unknown {
        reason: Arc<str>,
    },
}

/// A batch to be sent: which, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) number: u64,
    pub(crate) bytes: Bytes,
}

/// What the queue needs from outside after an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// The broker does not know or lead the partition: ask where it is.
    Metadata,
}

/// A record batch that is not yet full, closed by [`Queue::push`].
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) decide: Decide,
    pub(crate) outcome: BatchOutcome,
    pub(crate) buffer_bytes: usize,
    pub(crate) deadline: Instant,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    bytes: Bytes,
    record_count: u32,
    on_wire: bool,
    /// An attempt was made that nobody answered.
    maybe_written: bool,
    failure: Option<Arc<str>>,
    open: Open,
}

/// The batches of one partition, in order.
#[derive(Debug)]
pub(crate) struct Queue {
    numbering: Numbering,
    sequence_next: i32,
    number_next: u64,
    batches: VecDeque<Pending>,
    /// How many of `batches`, from the front, are on the wire.
    sent: usize,
    /// Attempts without a result; more than `sent` when a batch was given up meanwhile.
    on_wire: usize,
    /// An attempt failed: nothing is sent until none is on the wire.
    recovering: bool,
    /// Nothing is sent until then.
    paused_until: Option<Instant>,
    backoff: Backoff,
    /// The youngest batch that was given up, while it may have left a gap in the numbers.
    gap: Option<u64>,
    renumber: bool,
    /// The broker has taken a batch of these numbers, and has not gone away since: it knows where they continue.
    established: bool,
    /// The partition takes nothing more from this producer.
    failed: Option<Error>,
}

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

impl Queue {
    pub(crate) fn new(numbering: Numbering) -> Self {
        Self {
            numbering,
            sequence_next: 0,
            number_next: 0,
            batches: VecDeque::new(),
            sent: 0,
            on_wire: 0,
            recovering: false,
            paused_until: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST),
            gap: None,
            renumber: false,
            established: false,
            failed: None,
        }
    }

    /// Why the partition takes no more records, if so.
    pub(crate) fn failed(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Closes a batch, compressed with `codec`, and puts it in line.
    pub(crate) fn push(&mut self, builder: &mut BatchBuilder, codec: Codec, open: Open) {
        let record_count = builder.record_count() as u32;
        let producer = self.take_numbers(record_count);
        let bytes = match codec {
            Codec::None => builder.build(producer),
            codec => builder.build_compressed(producer, codec),
        };
        let number = self.number_next;
        self.number_next += 1;
        let (on_wire, maybe_written, failure) = (false, false, None);
        self.batches.push_back(Pending { number, bytes, record_count, on_wire, maybe_written, failure, open });
    }

    /// Whether a batch waits in line.
    pub(crate) fn has_waiting(&self) -> bool {
        self.sent < self.batches.len()
    }

    /// Bytes of the batch that waits first, if one waits.
    pub(crate) fn waiting_bytes(&self) -> Option<usize> {
        self.batches.get(self.sent).map(|batch| batch.bytes.len())
    }

    /// The outcomes of all batches in line.
    pub(crate) fn outcomes(&self) -> impl Iterator<Item = BatchOutcome> {
        self.batches.iter().map(|batch| batch.open.outcome.clone())
    }

    /// How the last attempt failed that is still to be repeated.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.batches.iter().rev().find_map(|batch| batch.failure.clone())
    }

    /// Whether one more batch may go on the wire now, of at most `in_flight_max`.
    pub(crate) fn may_send(&self, in_flight_max: usize, now: Instant) -> bool {
        !self.recovering && self.paused_until.is_none_or(|until| until <= now) && self.has_room(in_flight_max)
    }

    fn has_room(&self, in_flight_max: usize) -> bool {
        if self.numbering == Numbering::None {
            return self.on_wire < in_flight_max;
        }
        // A broker that does not know a producer, or lost its memory in a crash, takes its numbers wherever they start: so one
        // batch goes ahead alone, and the others follow once it is known to have arrived.
        let window = if self.established { in_flight_max } else { 1 };
        // It remembers a producer's last batches: the oldest that is undecided has to stay among them, whatever was acknowledged
        // behind it, or a repeat of it would not be known.
        let next = self.batches.get(self.sent).map_or(self.number_next, |batch| batch.number);
        let oldest = self.batches.front().map_or(next, |batch| batch.number);
        self.on_wire < window && next - oldest < in_flight_max as u64
    }

    /// Puts the next waiting batch on the wire.
    ///
    /// # Panics
    /// When none waits.
    pub(crate) fn send(&mut self) -> Sending {
        let batch = &mut self.batches[self.sent];
        assert!(!batch.on_wire, "batches go on the wire in order");
        batch.on_wire = true;
        self.sent += 1;
        self.on_wire += 1;
        Sending { number: batch.number, bytes: batch.bytes.clone() }
    }

    /// Takes the result of an attempt.
    pub(crate) fn complete(&mut self, number: u64, attempt: Attempt, now: Instant, decided: &mut Vec<Decided>) -> Need {
        self.on_wire -= 1;
        let mut need = Need::Nothing;
        // A batch that was given up meanwhile is not found.
        if let Ok(index) = self.batches.binary_search_by_key(&number, |batch| batch.number) {
            self.batches[index].on_wire = false;
            self.sent -= 1;
            need = self.judge(index, attempt, now, decided);
        }
        if self.recovering && self.on_wire == 0 {
            self.recovering = false;
            if std::mem::take(&mut self.renumber) {
                self.number_anew(decided);
            }
        }
        need
    }

    /// Gives up every batch whose time is over.
    pub(crate) fn expire(&mut self, now: Instant, decided: &mut Vec<Decided>) {
        while self.batches.front().is_some_and(|batch| batch.open.deadline <= now) {
            let maybe_written = self.batches[0].on_wire || self.batches[0].maybe_written;
            let reason = self.batches[0].failure.clone();
            self.give_up(0, Outcome::TimedOut { maybe_written, reason }, decided);
        }
    }

    /// Fails every batch, whatever its state, and takes no more.
    pub(crate) fn fail(&mut self, error: &Error, decided: &mut Vec<Decided>) {
        self.failed = Some(error.clone());
        while !self.batches.is_empty() {
            let written = self.batches[0].on_wire || self.batches[0].maybe_written;
            let outcome = match written {
                true => Outcome::Unknown { reason: error.to_string().into() },
                false => Outcome::Failed(error.clone()),
            };
            self.give_up(0, outcome, decided);
        }
    }

    /// The partition is led elsewhere from now on: nothing goes there before all that went elsewhere is settled.
    pub(crate) fn moved(&mut self) {
        self.recovering |= self.on_wire > 0;
    }

    /// When something changes by time alone.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let deadline = self.batches.front().map(|batch| batch.open.deadline);
        deadline.into_iter().chain(self.paused_until).min()
    }

    /// Time passed: a pause may be over.
    pub(crate) fn handle_time(&mut self, now: Instant) {
        self.paused_until = self.paused_until.filter(|&until| until > now);
    }

    fn judge(&mut self, index: usize, attempt: Attempt, now: Instant, decided: &mut Vec<Decided>) -> Need {
        match attempt {
            Attempt::Acked(ack) => self.acked(index, ack, decided),
            Attempt::NotSent(error) => self.retry(index, &error, None),
            Attempt::Unanswered(error) => self.unanswered(index, &error, now, decided),
            Attempt::Refused { code, error } => return self.refused(index, code, error, now, decided),
        }
        Need::Nothing
    }

    fn acked(&mut self, index: usize, ack: Ack, decided: &mut Vec<Decided>) {
        let batch = self.take(index);
        self.established = true;
        self.backoff.reset();
        self.gap = self.gap.filter(|&gap| gap > batch.number);
        decided.push(batch.decided(Outcome::Acked(ack)));
    }

    fn unanswered(&mut self, index: usize, error: &Error, now: Instant, decided: &mut Vec<Decided>) {
        self.batches[index].maybe_written = true;
        self.established = false;
        match self.numbering {
            Numbering::Idempotent { .. } => self.retry(index, error, Some(now)),
            Numbering::None => self.give_up(index, Outcome::Unknown { reason: error.to_string().into() }, decided),
        }
    }

    fn refused(
        &mut self,
        index: usize,
        code: ErrorCode,
        error: Error,
        now: Instant,
        decided: &mut Vec<Decided>,
    ) -> Need {
        match code {
            ErrorCode::TimedOut => self.unanswered(index, &error, now, decided),
            ErrorCode::OutOfOrderSequence if self.numbering != Numbering::None => {
                self.out_of_order(index, &error, decided)
            }
            ErrorCode::InvalidProducerEpoch => self.fail(&error, decided),
            ErrorCode::NotLeader | ErrorCode::UnknownPartition => {
                self.retry(index, &error, Some(now));
                return Need::Metadata;
            }
            code if code.is_retriable() => self.retry(index, &error, Some(now)),
            // The batch itself is at fault, and only it.
            ErrorCode::TooLarge | ErrorCode::InvalidRecord => self.give_up(index, Outcome::Failed(error), decided),
            _ => self.fail_waiting(&error, decided),
        }
        Need::Nothing
    }

    /// A batch behind another that is not written is always out of order. The oldest is so only behind a gap; anywhere else
    /// the broker and this producer disagree on what is written, which no retry mends.
    fn out_of_order(&mut self, index: usize, error: &Error, decided: &mut Vec<Decided>) {
        if index > 0 {
            self.retry(index, error, None);
        } else if self.gap.is_some() {
            self.retry(index, error, None);
            self.renumber = true;
        } else {
            self.fail(error, decided);
        }
    }

    /// Leaves the batch in line; with a time, the next attempt waits for the backoff from then.
    fn retry(&mut self, index: usize, error: &Error, now: Option<Instant>) {
        self.batches[index].failure = Some(error.to_string().into());
        if let Some(now) = now
            && self.paused_until.is_none_or(|until| until <= now)
        {
            self.paused_until = Some(now + self.backoff.next());
        }
        self.recovering = true;
    }

    /// Fails what is not on the wire; the rest has its own answers to come. Later records may be taken again.
    fn fail_waiting(&mut self, error: &Error, decided: &mut Vec<Decided>) {
        for index in (0..self.batches.len()).rev().filter(|&index| !self.batches[index].on_wire).collect::<Vec<_>>() {
            let outcome = match self.batches[index].maybe_written {
                true => Outcome::Unknown { reason: error.to_string().into() },
                false => Outcome::Failed(error.clone()),
            };
            self.give_up(index, outcome, decided);
        }
    }

    fn give_up(&mut self, index: usize, outcome: Outcome, decided: &mut Vec<Decided>) {
        let batch = self.take(index);
        self.gap = self.gap.max(Some(batch.number));
        decided.push(batch.decided(outcome));
    }

    fn take(&mut self, index: usize) -> Pending {
        let batch = self.batches.remove(index).expect("the batch was just found");
        self.sent -= usize::from(batch.on_wire);
        batch
    }

    /// Numbers every batch anew, from 0, under the next epoch. None of them is written: see the top of the file. But one that
    /// left on a connection since lost may still arrive, under its old number, before the new epoch does: it is given up.
    fn number_anew(&mut self, decided: &mut Vec<Decided>) {
        let Numbering::Idempotent { epoch, .. } = &mut self.numbering else {
            unreachable!("only numbered batches are out of order");
        };
        let Some(next) = epoch.checked_add(1) else {
            let failure = self.batches[0].failure.clone().unwrap_or_default();
            let reason = format!("{failure}; the producer's epochs are used up, make a new producer").into();
            self.fail(&Error::OutcomeUnknown { operation: "produce".into(), reason }, decided);
            return;
        };
        *epoch = next;
        while let Some(index) = self.batches.iter().position(|batch| batch.maybe_written) {
            let reason = self.batches[index].failure.clone().unwrap_or_default();
            self.give_up(index, Outcome::Unknown { reason }, decided);
        }
        (self.sequence_next, self.established, self.gap) = (0, false, None);
        for index in 0..self.batches.len() {
            let producer = self.take_numbers(self.batches[index].record_count);
            let batch = &mut self.batches[index];
            batch.bytes = with_producer(&batch.bytes, producer);
        }
    }

    fn take_numbers(&mut self, record_count: u32) -> Producer {
        let Numbering::Idempotent { id, epoch } = self.numbering else {
            return Producer::NONE;
        };
        let producer = Producer { id, epoch, base_sequence: self.sequence_next };
        self.sequence_next = producer.sequence_after(record_count as i32);
        producer
    }
}

impl Pending {
    fn decided(self, outcome: Outcome) -> Decided {
        let Open { decide, buffer_bytes, .. } = self.open;
        Decided { decide, outcome, record_count: self.record_count, buffer_bytes }
    }
}

/// A copy of a batch of ours with other numbers, and the CRC that goes with them.
fn with_producer(bytes: &[u8], producer: Producer) -> Bytes {
    let mut copy = BytesMut::from(bytes);
    let Producer { id, epoch, base_sequence } = producer;
    copy[position::PRODUCER_ID..position::PRODUCER_EPOCH].copy_from_slice(&id.to_be_bytes());
    copy[position::PRODUCER_EPOCH..position::BASE_SEQUENCE].copy_from_slice(&epoch.to_be_bytes());
    copy[position::BASE_SEQUENCE..position::RECORD_COUNT].copy_from_slice(&base_sequence.to_be_bytes());
    let crc = crc32c::crc32c(&copy[position::ATTRIBUTES..]);
    copy[position::CRC..position::ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
    debug_assert!(Batch::parse_one(&copy).is_ok_and(|batch| batch.verify_for_produce().is_ok()));
    copy.freeze()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{super::delivery::outcome, *};

    const TIMEOUT: Duration = Duration::from_secs(10);
    const NUMBERED: Numbering = Numbering::Idempotent { id: 7, epoch: 0 };

    struct Line {
        queue: Queue,
        builder: BatchBuilder,
        now: Instant,
        decided: Vec<Decided>,
    }

    impl Line {
        /// A line in which `batches` of two records wait.
        fn new(numbering: Numbering, batches: usize) -> Self {
            let (queue, builder) = (Queue::new(numbering), BatchBuilder::new(4096));
            let mut line = Self { queue, builder, now: Instant::now(), decided: Vec::new() };
            (0..batches).for_each(|_| line.push());
            line
        }

        /// The same, the first batch being acknowledged already.
        fn established(batches: usize) -> Self {
            let mut line = Self::new(NUMBERED, batches + 1);
            assert_eq!(line.send().len(), 1);
            line.complete(0, acked(0));
            line.decided.clear();
            line
        }

        fn push(&mut self) {
            let (decide, outcome) = outcome();
            (0..2).for_each(|_| self.builder.append(0, None, Some(b"v"), &[]).unwrap());
            let open = Open { decide, outcome, buffer_bytes: 2, deadline: self.now + TIMEOUT };
            self.queue.push(&mut self.builder, Codec::None, open);
        }

        fn send(&mut self) -> Vec<Sending> {
            let mut sent = Vec::new();
            while self.queue.has_waiting() && self.queue.may_send(5, self.now) {
                sent.push(self.queue.send());
            }
            sent
        }

        fn complete(&mut self, number: u64, attempt: Attempt) -> Need {
            self.queue.complete(number, attempt, self.now, &mut self.decided)
        }

        /// Lets every pause pass.
        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.queue.handle_time(self.now);
            self.queue.expire(self.now, &mut self.decided);
        }

        fn outcomes(&mut self) -> Vec<String> {
            self.decided.drain(..).map(|decided| format!("{:?}", decided.outcome)).collect()
        }
    }

    fn acked(base_offset: u64) -> Attempt {
        Attempt::Acked(Ack { base_offset, durability: wire::Durability::Durable, synced: true })
    }

    fn refused(code: ErrorCode) -> Attempt {
        Attempt::Refused { code, error: Error::refused("produce", &"a".into(), code, "") }
    }

    fn unanswered() -> Attempt {
        Attempt::Unanswered(Error::Disconnected { address: "a".into(), reason: "cut".into() })
    }

    fn numbers(sent: &[Sending]) -> Vec<(i16, i32)> {
        let producer = |sending: &Sending| Batch::parse_one(&sending.bytes).unwrap().producer();
        sent.iter().map(|sending| (producer(sending).epoch, producer(sending).base_sequence)).collect()
    }

    #[test]
    fn the_first_batch_goes_ahead_alone_then_the_window_opens() {
        let mut line = Line::new(NUMBERED, 8);
        assert_eq!(numbers(&line.send()), [(0, 0)]);
        line.complete(0, acked(0));
        assert_eq!(numbers(&line.send()), [(0, 2), (0, 4), (0, 6), (0, 8), (0, 10)]);
        line.complete(1, acked(2));
        assert_eq!(numbers(&line.send()), [(0, 12)]);
    }

    #[test]
    fn a_retry_waits_for_all_that_is_on_the_wire_and_then_goes_in_order_as_it_was() {
        let mut line = Line::established(3);
        let first = line.send();
        line.complete(1, refused(ErrorCode::Busy));
        line.complete(2, refused(ErrorCode::OutOfOrderSequence));
        line.pass(Duration::from_secs(1));
        assert_eq!(line.send(), [], "one is still on the wire");
        line.complete(3, refused(ErrorCode::OutOfOrderSequence));
        assert_eq!(line.send(), first);
        assert!(line.decided.is_empty());
    }

    #[test]
    fn a_refusal_is_followed_by_a_pause() {
        let mut line = Line::established(1);
        line.send();
        line.complete(1, refused(ErrorCode::StorageFull));
        assert_eq!(line.send(), []);
        let until = line.queue.wake_at().unwrap();
        assert!(until > line.now && until <= line.now + RETRY_FIRST);
        line.pass(until - line.now);
        assert_eq!(line.send().len(), 1);
    }

    #[test]
    fn a_move_asks_for_metadata() {
        let mut line = Line::established(1);
        line.send();
        assert_eq!(line.complete(1, refused(ErrorCode::NotLeader)), Need::Metadata);
    }

    #[test]
    fn after_a_lost_connection_one_goes_ahead_again() {
        let mut line = Line::established(3);
        let first = line.send();
        for number in 1..=3 {
            line.complete(number, unanswered());
        }
        line.pass(Duration::from_secs(1));
        assert_eq!(line.send(), first[..1]);
    }

    #[test]
    fn what_is_undecided_stays_among_the_batches_that_the_broker_remembers() {
        let mut line = Line::established(6);
        assert_eq!(line.send().len(), 5);
        line.complete(1, refused(ErrorCode::TimedOut));
        for number in 2..=5 {
            line.complete(number, acked(number * 2));
        }
        line.pass(Duration::from_secs(1));
        assert_eq!(numbers(&line.send()), [(0, 2)], "the sixth would push the first out");
        line.complete(1, acked(2));
        assert_eq!(numbers(&line.send()), [(0, 12)]);
    }

    #[test]
    fn without_numbers_an_unanswered_batch_is_not_sent_again() {
        let mut line = Line::new(Numbering::None, 2);
        assert_eq!(line.send().len(), 2);
        line.complete(0, unanswered());
        line.complete(1, refused(ErrorCode::TimedOut));
        assert!(line.outcomes().iter().all(|outcome| outcome.starts_with("Unknown")));
        assert_eq!(line.send(), []);
    }

    #[test]
    fn time_tells_what_is_certainly_not_written_from_what_may_be() {
        let mut line = Line::established(3);
        line.send();
        line.complete(1, refused(ErrorCode::Busy));
        line.complete(2, unanswered());
        line.pass(TIMEOUT);
        let outcomes = line.outcomes();
        assert!(outcomes[0].contains("maybe_written: false") && outcomes[0].contains("Busy"), "{}", outcomes[0]);
        assert!(outcomes[1].contains("maybe_written: true") && outcomes[1].contains("cut"), "{}", outcomes[1]);
        assert!(outcomes[2].contains("maybe_written: true"), "still on the wire: {}", outcomes[2]);
        line.complete(3, acked(9));
        assert!(line.outcomes().is_empty(), "an answer that comes too late is dropped");
    }

    /// Batch 1 is given up without an answer; batch 2 waits behind it.
    fn gap() -> Line {
        let mut line = Line::established(1);
        line.send();
        line.complete(1, unanswered());
        line.pass(TIMEOUT);
        line.push();
        assert_eq!(line.outcomes().len(), 1);
        line
    }

    #[test]
    fn a_batch_taken_behind_a_lost_one_shows_that_there_is_no_gap() {
        let mut line = gap();
        assert_eq!(numbers(&line.send()), [(0, 4)]);
        line.complete(2, acked(4));
        line.push();
        assert_eq!(numbers(&line.send()), [(0, 6)]);
        line.complete(3, refused(ErrorCode::OutOfOrderSequence));
        assert!(line.queue.failed().is_some(), "no gap explains this one");
    }

    #[test]
    fn a_gap_is_closed_by_a_new_epoch() {
        let mut line = gap();
        line.push();
        assert_eq!(numbers(&line.send()), [(0, 4)]);
        line.complete(2, refused(ErrorCode::OutOfOrderSequence));
        let sent = line.send();
        assert_eq!(numbers(&sent), [(1, 0)]);
        Batch::parse_one(&sent[0].bytes).unwrap().verify_for_produce().unwrap();
        line.complete(2, acked(2));
        line.push();
        assert_eq!(numbers(&line.send()), [(1, 2), (1, 4)]);
    }

    #[test]
    fn a_batch_that_may_still_arrive_is_not_given_a_second_number() {
        let mut line = gap();
        line.send();
        line.complete(2, unanswered());
        line.push();
        line.pass(Duration::from_secs(1));
        line.send();
        line.complete(2, refused(ErrorCode::OutOfOrderSequence));
        assert!(line.outcomes()[0].starts_with("Unknown"));
        assert_eq!(numbers(&line.send()), [(1, 0)]);
    }

    #[test]
    fn only_the_batch_at_fault_fails() {
        let mut line = Line::established(2);
        line.send();
        line.complete(1, refused(ErrorCode::TooLarge));
        line.complete(2, refused(ErrorCode::OutOfOrderSequence));
        assert_eq!(line.outcomes().len(), 1);
        assert_eq!(numbers(&line.send()), [(1, 0)]);
    }

    #[test]
    fn a_producer_that_was_taken_over_ends() {
        let mut line = Line::established(2);
        line.send();
        line.complete(1, refused(ErrorCode::InvalidProducerEpoch));
        let outcomes = line.outcomes();
        assert!(outcomes[0].starts_with("Failed") && outcomes[1].starts_with("Unknown"), "{outcomes:?}");
        assert!(line.queue.failed().is_some());
    }

    #[test]
    fn a_refused_partition_fails_what_waits_and_takes_records_later() {
        let mut line = Line::established(1);
        line.send();
        line.push();
        line.complete(1, refused(ErrorCode::PartitionRefused));
        assert_eq!(line.outcomes().len(), 2);
        assert!(line.queue.failed().is_none());
    }

    #[test]
    fn used_up_epochs_end_the_partition_instead_of_wrapping() {
        let mut line = gap();
        line.queue.numbering = Numbering::Idempotent { id: 7, epoch: i16::MAX };
        line.send();
        line.complete(2, refused(ErrorCode::OutOfOrderSequence));
        assert!(line.queue.failed().is_some());
    }

    #[test]
    fn a_dropped_line_leaves_no_delivery_waiting() {
        let mut line = Line::established(1);
        let outcome = line.queue.outcomes().next().unwrap();
        line.queue.fail(&Error::BufferFull, &mut line.decided);
        drop(line);
        assert!(outcome.now_or_never().is_some());
    }
}
