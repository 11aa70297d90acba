//! The producer's core against a broker and a network that do their worst, in virtual time, judged by the history checker.
//!
//! Requests are carried out in order on a connection; connections are cut at any time, and what was under way on them is lost
//! or arrives late, behind newer requests; brokers refuse, forget producers, and take longer than the delivery timeout.

#[path = "../../tests/support/log.rs"]
#[allow(dead_code, unreachable_pub, reason = "the fake broker of the integration tests uses the rest")]
mod log;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use history::{Class, Faults, Harm, Moment, Observations, Reader, Report, Value, Verdict, Writer, WriterId};
use proptest::prelude::*;
use wire::{
    Durability, ErrorCode,
    record::{Batch, Codec, Producer},
};

use self::log::Log;
use super::{
    accumulator::{Accumulator, Limits, Outgoing},
    delivery::{Ack, Delivery},
    partitioner::Partitioner,
    queue::{Attempt, Numbering, Outcome},
    record::ProducerRecord,
};
use crate::error::Error;

const PARTITIONS: u32 = 2;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Records are sent to a partition.
    Append { partition: u32, records: u8 },
    /// The broker carries out the oldest request it has not carried out.
    Carry,
    /// It refuses that request, having done nothing.
    Refuse,
    /// It carries it out and says that it may not have.
    TimeOut,
    /// The oldest answer arrives.
    Answer,
    /// The connection ends; the first requests under way that were not carried out arrive late, the rest never.
    Cut { late: u8 },
    /// The oldest late request arrives, behind whatever came over newer connections.
    ArriveLate,
    /// The broker forgets its producers.
    Forget,
    /// Time passes.
    Pass { ms: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PARTITIONS, 1..4u8).prop_map(|(partition, records)| Step::Append { partition, records }),
        8 => Just(Step::Carry),
        8 => Just(Step::Answer),
        1 => Just(Step::Refuse),
        1 => Just(Step::TimeOut),
        1 => (0..4u8).prop_map(|late| Step::Cut { late }),
        2 => Just(Step::ArriveLate),
        3 => (0..100u16).prop_map(|ms| Step::Pass { ms }),
        1 => (3_000..6_000u16).prop_map(|ms| Step::Pass { ms }),
    ]
}

struct World {
    accumulator: Accumulator,
    logs: Vec<Log>,
    start: Instant,
    now: Instant,
    /// On the connection, in order; carried out when the attempts are there.
    wire: VecDeque<(Outgoing, Option<Vec<Attempt>>)>,
    late: VecDeque<Outgoing>,
    writers: Vec<Writer>,
    /// Records whose fate is not noted yet.
    open: Vec<(u32, Value, Delivery)>,
    faults: Faults,
    /// Batches of an epoch that is not the first.
    epochs: u64,
    /// Records refused for good, which no honest broker gives a reason for.
    given_up: u64,
}

impl World {
    fn new() -> Self {
        let limits = Limits {
            batch_bytes_max: 128,
            linger: Duration::ZERO,
            in_flight_max: 5,
            delivery_timeout: DELIVERY_TIMEOUT,
        };
        let numbering = Numbering::Idempotent { id: 1, epoch: 0 };
        let partitioner = Partitioner::new(PARTITIONS, 0, 128);
        let now = Instant::now();
        Self {
            accumulator: Accumulator::new(limits, numbering, Codec::None, partitioner, &[0; PARTITIONS as usize]),
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            start: now,
            now,
            wire: VecDeque::new(),
            late: VecDeque::new(),
            writers: (0..PARTITIONS).map(|number| Writer::new(WriterId::new(number), number.into())).collect(),
            open: Vec::new(),
            faults: Faults::new(),
            epochs: 0,
            given_up: 0,
        }
    }

    fn moment(&self) -> Moment {
        Moment((self.now - self.start).as_nanos() as u64)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append { partition, records } => (0..records).for_each(|_| self.append(partition)),
            Step::Carry => self.carry(|_, attempt| attempt),
            Step::TimeOut => {
                self.faults.fire("timed out", self.moment());
                self.carry(|_, _| refused(ErrorCode::TimedOut));
            }
            Step::Refuse => {
                self.faults.fire("busy", self.moment());
                if let Some((outgoing, attempts)) = self.wire.iter_mut().find(|(_, attempts)| attempts.is_none()) {
                    *attempts = Some(vec![refused(ErrorCode::Busy); outgoing.batches.len()]);
                }
            }
            Step::Answer => self.answer(),
            Step::Cut { late } => self.cut(late),
            Step::ArriveLate => self.arrive_late(),
            Step::Forget => self.logs.iter_mut().for_each(Log::forget_producers),
            Step::Pass { ms } => self.now += Duration::from_millis(ms.into()),
        }
        self.turn();
    }

    fn append(&mut self, partition: u32) {
        let value = self.writers[partition as usize].send(1);
        let bytes = value.to_u64().to_le_bytes();
        let record = ProducerRecord::value(&bytes).partition(partition);
        match self.accumulator.append(&record, 0, 1, || self.now) {
            Ok(delivery) => self.open.push((partition, value, delivery)),
            Err(_) => self.writers[partition as usize].refused(value, 1),
        }
    }

    fn carry(&mut self, answer: impl Fn(u32, Attempt) -> Attempt) {
        let Some(place) = self.wire.iter().position(|(_, attempts)| attempts.is_none()) else { return };
        let attempts = carry_out(&mut self.logs, &self.wire[place].0, &mut self.epochs);
        let partitions = self.wire[place].0.ticket.batches.iter().map(|&(partition, _)| partition);
        let attempts = partitions.zip(attempts).map(|(partition, attempt)| answer(partition, attempt)).collect();
        self.wire[place].1 = Some(attempts);
    }

    fn answer(&mut self) {
        if let Some((outgoing, Some(attempts))) = self.wire.pop_front_if(|(_, attempts)| attempts.is_some()) {
            self.accumulator.complete(&outgoing.ticket, attempts, self.now);
        }
    }

    fn cut(&mut self, late: u8) {
        self.faults.fire("cut", self.moment());
        let mut late = late;
        for (outgoing, attempts) in std::mem::take(&mut self.wire) {
            let error = Error::Disconnected { address: "a".into(), reason: "cut".into() };
            let unanswered = vec![Attempt::Unanswered(error); outgoing.batches.len()];
            self.accumulator.complete(&outgoing.ticket, unanswered, self.now);
            if attempts.is_none() && late > 0 {
                late -= 1;
                self.late.push_back(outgoing);
            }
        }
    }

    fn arrive_late(&mut self) {
        if let Some(outgoing) = self.late.pop_front() {
            self.faults.fire("arrived late", self.moment());
            carry_out(&mut self.logs, &outgoing, &mut self.epochs);
        }
    }

    /// What the producer does by itself after anything happened.
    fn turn(&mut self) {
        self.accumulator.handle_time(self.now);
        while let Some(outgoing) = self.accumulator.poll_request(self.now) {
            self.wire.push_back((outgoing, None));
        }
        let now = self.moment();
        let decided = self.accumulator.take_decided();
        if decided.is_empty() {
            return;
        }
        for (partition, decided) in decided {
            let result = match decided.outcome {
                Outcome::Acked(Ack { base_offset, durability, synced }) => {
                    Ok(super::Delivered { partition, offset: base_offset, durability, synced })
                }
                Outcome::TimedOut { maybe_written: false, .. } => Err(Error::BufferFull),
                Outcome::TimedOut { .. } | Outcome::Unknown { .. } => Err(Error::AllStopped),
                Outcome::Failed(_) => {
                    self.given_up += u64::from(decided.record_count);
                    Err(Error::BufferFull)
                }
            };
            decided.decide.send(result).unwrap();
        }
        self.open.retain(|(partition, value, delivery)| {
            let writer = &mut self.writers[*partition as usize];
            match delivery.clone().now_or_never() {
                None => return true,
                Some(Ok(delivered)) => writer.acked(*value, 1, delivered.offset, now),
                Some(Err(Error::BufferFull)) => writer.refused(*value, 1),
                Some(Err(_)) => {}
            }
            false
        });
    }

    /// No more faults: everything is decided, what was late arrives, and one more record of each partition gets through.
    fn settle(&mut self) {
        self.drain();
        while !self.late.is_empty() {
            self.arrive_late();
        }
        (0..PARTITIONS).for_each(|partition| self.append(partition));
        self.drain();
    }

    fn drain(&mut self) {
        for _ in 0..1_000 {
            self.turn();
            self.carry(|_, attempt| attempt);
            self.answer();
            self.now += Duration::from_millis(10);
        }
        assert_eq!((self.open.len(), self.accumulator.records()), (0, 0), "everything is decided in the end");
    }

    fn check(self) -> Report {
        let mut run = Observations::new();
        let now = self.moment();
        for (number, log) in (0..).zip(&self.logs) {
            let mut reader = Reader::new(number, 0);
            for placed in &log.batches {
                for record in Batch::parse_one(&placed.bytes).unwrap().records().unwrap() {
                    let record = record.unwrap();
                    let value = u64::from_le_bytes(record.value.unwrap().try_into().unwrap());
                    reader.delivered(record.offset, Value::from_u64(value), 1, now);
                }
            }
            run.add_reader(reader);
        }
        self.writers.into_iter().for_each(|writer| run.add_writer(writer));
        run.set_faults(self.faults);
        run.check()
    }
}

fn carry_out(logs: &mut [Log], outgoing: &Outgoing, epochs: &mut u64) -> Vec<Attempt> {
    let batches = outgoing.ticket.batches.iter().zip(&outgoing.batches);
    let carry = |(&(partition, _), bytes): (&(u32, u64), &bytes::Bytes)| {
        let Producer { epoch, .. } = Batch::parse_one(bytes).unwrap().producer();
        *epochs += u64::from(epoch > 0);
        match logs[partition as usize].append(bytes) {
            Ok(base_offset) => Attempt::Acked(Ack { base_offset, durability: Durability::Durable, synced: true }),
            Err(code) => refused(code),
        }
    };
    batches.map(carry).collect()
}

fn refused(code: ErrorCode) -> Attempt {
    Attempt::Refused { code, error: Error::refused("produce", &"a".into(), code, "") }
}

/// What a run came to.
struct Outcomes {
    report: Report,
    epochs: u64,
    given_up: u64,
}

fn run(steps: &[Step]) -> Outcomes {
    let mut world = World::new();
    steps.iter().for_each(|&step| world.step(step));
    world.settle();
    let (epochs, given_up) = (world.epochs, world.given_up);
    Outcomes { report: world.check(), epochs, given_up }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_records_are_there_once_in_order_whatever_happens(steps in prop::collection::vec(step(), 1..300)) {
        let Outcomes { report, given_up, .. } = run(&steps);
        prop_assert!(report.verdict() != Verdict::Violated, "{report}");
        prop_assert_eq!(given_up, 0);
    }
}

/// The campaign: many runs whose faults all came, with enough acknowledged for the verdict to count.
#[test]
fn a_campaign_of_seeds_loses_doubles_and_reorders_nothing() {
    let mut campaign = Report::default();
    let (mut epochs, mut given_up) = (0, 0);
    for seed in 0..200 {
        let outcomes = run(&random_steps(seed));
        assert!(outcomes.report.verdict() != Verdict::Violated, "seed {seed}: {}", outcomes.report);
        campaign.absorb(outcomes.report);
        epochs += outcomes.epochs;
        given_up += outcomes.given_up;
    }
    assert_eq!(campaign.verdict(), Verdict::Pass, "{campaign}");
    assert_eq!([Harm::Lost, Harm::Duplicated, Harm::Reordered].map(|harm| campaign.harmed(harm)), [0; 3]);
    assert_eq!(given_up, 0);
    assert!(epochs > 100, "gaps were closed by a new epoch in {epochs} batches");
}

/// A broker that forgets who wrote what cannot tell a repeat: the checker must see it, or it sees nothing.
#[test]
fn a_broker_without_memory_is_found_out() {
    let duplicates = |seed| {
        let mut steps = random_steps(seed);
        steps.iter_mut().step_by(3).for_each(|step| *step = Step::Forget);
        run(&steps).report.count(Class::Duplicate)
    };
    assert!((0..50).map(duplicates).sum::<u64>() > 0);
}

fn random_steps(seed: u64) -> Vec<Step> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..600).map(|_| random_step(&mut rng)).collect()
}

fn random_step(rng: &mut fastrand::Rng) -> Step {
    match rng.u8(..40) {
        0..8 => Step::Append { partition: rng.u32(..PARTITIONS), records: rng.u8(1..4) },
        8..18 => Step::Carry,
        18..28 => Step::Answer,
        28..30 => Step::Refuse,
        30 => Step::TimeOut,
        31 => Step::Cut { late: rng.u8(..4) },
        32..34 => Step::ArriveLate,
        34..39 => Step::Pass { ms: rng.u16(..100) },
        _ => Step::Pass { ms: rng.u16(3_000..6_000) },
    }
}
