//! One thread that fills its window, then waits for answers.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use history::{Moment, Value};
use wire::{ErrorCode, api::produce::Response, frame::ResponseError};

use super::{
    connection::Connection,
    frames::{Frames, Shape, Stamp},
};
use crate::{
    failure::Failure,
    load::{Produced, Ready},
    pacer::{Pacer, sharpen_sleep},
    run::{Counters, Meter, Run},
    verify::SentNotes,
};

const RECONNECT_PAUSE_FIRST: Duration = Duration::from_millis(5);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(200);

/// Sends until the run's last window ends, and waits for what is under way.
pub(crate) fn produce(run: &Arc<Run>, index: usize, ready: &Ready) -> Result<Produced, Failure> {
    let mut producer = RawProducer::connect(run, index)?;
    ready.tell();
    run.wait_for_start();
    sharpen_sleep();
    for window in run.windows() {
        thread::sleep(Duration::from_nanos(window.start.saturating_sub(run.now_ns())));
        let rate = run.scenario.rate.map(|rate| rate / run.scenario.batch_records as f64);
        let pacer = rate.map(|rate| Pacer::one_of(window.start, rate, index, run.scenario.producers));
        producer.send_until(window.end, pacer)?;
    }
    Ok(Produced::new(producer.notes, producer.meter))
}

struct RawProducer<'a> {
    run: &'a Run,
    connection: Connection,
    shard: u16,
    /// The partitions it sends to, in turn, each with its number.
    partitions: Vec<u32>,
    turn: usize,
    frames: Frames,
    in_flight_max: usize,
    /// What has no answer, by correlation id from `correlation_first` on; answered ones in between are `None`.
    pending: VecDeque<Option<Pending>>,
    correlation_first: u32,
    unanswered: usize,
    random: fastrand::Rng,
    notes: SentNotes,
    meter: Meter,
}

#[derive(Clone, Copy)]
struct Pending {
    partition: u32,
    first: Value,
    at_ns: u64,
}

/// What there is to do next.
enum Step {
    /// Send so many batches.
    Send(usize),
    /// Wait for answers, at most until this time if there is one.
    Receive(Option<u64>),
    /// The window is over and everything answered.
    Done,
}

impl<'a> RawProducer<'a> {
    fn connect(run: &'a Run, index: usize) -> Result<Self, Failure> {
        let (scenario, topic) = (&run.scenario, &run.topic);
        let mut shards: Vec<_> = topic.partitions.iter().map(|partition| partition.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let shard = shards[index % shards.len()];
        let is_used =
            |number: &u32| topic.partitions[*number as usize].shard == shard && has_keys(scenario.keys, *number);
        let partitions: Vec<_> = (0..topic.partition_count()).filter(is_used).collect();
        if partitions.is_empty() {
            return Err(Failure::usage(format!("--keys {}: no key falls to shard {shard}; give more", scenario.keys)));
        }
        let connection = Connection::open(&topic.brokers, shard).map_err(|error| {
            Failure::unavailable(format!("cannot connect to {}: {error}; is a broker running there?", topic.brokers))
        })?;
        let in_flight_max = scenario.in_flight.min(connection.in_flight_max);
        let shape = Shape {
            payload: run.proof.as_ref().map(|proof| &proof.payload),
            record_size: scenario.record_size,
            batch_records: scenario.batch_records,
            is_keyed: scenario.keys > 0,
            batch_bytes_max: connection.batch_bytes_max,
            frame_bytes_max: connection.frame_bytes_max,
        };
        let frames = Frames::new(&shape, in_flight_max).map_err(|error| {
            Failure::usage(format!("the broker takes no such batch: {error}; lower --batch-records or --record-size"))
        })?;
        Ok(Self {
            run,
            connection,
            shard,
            turn: index % partitions.len(),
            partitions,
            frames,
            in_flight_max,
            pending: VecDeque::new(),
            correlation_first: 1,
            unanswered: 0,
            random: fastrand::Rng::with_seed(index as u64),
            notes: SentNotes::new(run.proof.is_some(), index, topic.partition_count()),
            meter: run.meter(),
        })
    }

    /// Sends until `end_ns`, with a pacer when batches are due and else when the window has room; then waits for answers.
    fn send_until(&mut self, end_ns: u64, mut pacer: Option<Pacer>) -> Result<(), Failure> {
        loop {
            let done = match self.next_step(end_ns, pacer) {
                Step::Send(count) => self.send(count, &mut pacer),
                Step::Receive(until_ns) => self.receive(until_ns)?,
                Step::Done => return Ok(()),
            };
            if let Err(error) = done
                && !self.reconnect(end_ns, &error)
            {
                return Ok(());
            }
        }
    }

    fn next_step(&self, end_ns: u64, pacer: Option<Pacer>) -> Step {
        let now_ns = self.run.now_ns();
        if now_ns >= end_ns || self.run.is_stopped() {
            return if self.unanswered > 0 { Step::Receive(None) } else { Step::Done };
        }
        let room = (self.in_flight_max - self.unanswered).min(self.frames.len());
        let Some(mut pacer) = pacer else {
            return if room > 0 { Step::Send(room) } else { Step::Receive(None) };
        };
        if room == 0 {
            return Step::Receive(None);
        }
        let mut due = 0;
        while due < room && pacer.due_ns() <= now_ns {
            pacer.advance();
            due += 1;
        }
        if due > 0 { Step::Send(due) } else { Step::Receive(Some(pacer.due_ns().min(end_ns))) }
    }

    fn send(&mut self, count: usize, pacer: &mut Option<Pacer>) -> io::Result<()> {
        let (records, run) = (self.run.scenario.batch_records as u64, self.run);
        let now_ns = run.now_ns();
        let timestamp_ms = wall_clock_ms();
        for index in 0..count {
            let at_ns = pacer.as_mut().map_or(now_ns, |pacer| {
                let due_ns = pacer.due_ns();
                pacer.advance();
                due_ns
            });
            let partition = self.partitions[self.turn];
            self.turn = (self.turn + 1) % self.partitions.len();
            let first = self.notes.send(partition, records);
            let stamp = Stamp {
                correlation: self.correlation_first.wrapping_add(self.pending.len() as u32),
                partition: run.topic.partitions[partition as usize].id,
                values: run.proof.as_ref().map(|proof| (&proof.payload, first)),
                timestamp_ms,
            };
            // The keys of a partition are those that leave its number when divided by the number of partitions.
            let (keys, partitions) = (run.scenario.keys, run.topic.partition_count());
            let of_partition = keys.saturating_sub(partition).div_ceil(partitions);
            self.frames.stamp(index, &stamp, || partition + self.random.u32(..of_partition) * partitions);
            if let Some(proof) = &run.proof {
                proof.sent(first, records, at_ns);
            }
            self.pending.push_back(Some(Pending { partition, first, at_ns }));
        }
        self.unanswered += count;
        self.connection.send(self.frames.bytes(count))
    }

    /// Takes the answers that are there, and waits for one, at most until `until_ns`.
    fn receive(&mut self, until_ns: Option<u64>) -> Result<io::Result<()>, Failure> {
        if let Some(until_ns) = until_ns {
            let at_most = Duration::from_nanos(until_ns.saturating_sub(self.run.now_ns()));
            match self.connection.wait(at_most) {
                Ok(true) => {}
                Ok(false) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
        if let Err(error) = self.connection.receive() {
            return Ok(Err(error));
        }
        let now = self.run.now();
        let mut answers = Answers { run: self.run, notes: &mut self.notes, meter: &mut self.meter, acked: 0 };
        let took = loop {
            let frame = match self.connection.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let index = frame.header.correlation.wrapping_sub(self.correlation_first) as usize;
            let Some(pending) = self.pending.get_mut(index).and_then(Option::take) else {
                break Err(io::Error::other("an answer to no request of ours"));
            };
            self.unanswered -= 1;
            answers.take(pending, frame.message::<Response<'_>>(), now)?;
        };
        Counters::add(&self.run.counters.acked, answers.acked);
        while let Some(None) = self.pending.front() {
            self.pending.pop_front();
            self.correlation_first = self.correlation_first.wrapping_add(1);
        }
        Ok(took)
    }

    /// Connects anew, as often as it takes; `false` when there is nothing more to send.
    fn reconnect(&mut self, end_ns: u64, why: &io::Error) -> bool {
        let lost = self.unanswered as u64 * self.run.scenario.batch_records as u64;
        self.meter.fail(self.run.now_ns(), lost);
        self.run.counters.fail(lost, why);
        self.correlation_first = self.correlation_first.wrapping_add(self.pending.len() as u32);
        self.pending.clear();
        self.unanswered = 0;
        let mut pause = RECONNECT_PAUSE_FIRST;
        while self.run.now_ns() < end_ns && !self.run.is_stopped() {
            if let Ok(connection) = Connection::open(&self.run.topic.brokers, self.shard) {
                self.connection = connection;
                return true;
            }
            thread::sleep(pause);
            pause = (2 * pause).min(RECONNECT_PAUSE_MAX);
        }
        false
    }
}

/// Where answers go.
struct Answers<'a> {
    run: &'a Run,
    notes: &'a mut SentNotes,
    meter: &'a mut Meter,
    acked: u64,
}

impl Answers<'_> {
    /// A refusal that time does not mend ends the run.
    fn take(
        &mut self,
        pending: Pending,
        response: Result<Response<'_>, ResponseError>,
        now: Moment,
    ) -> Result<(), Failure> {
        let Pending { partition, first, at_ns } = pending;
        let records = self.run.scenario.batch_records as u64;
        let (code, reason) = match &response {
            Ok(response) => match response.results.iter().next() {
                Some(result) if !result.error.is_error() => {
                    self.notes.acked(partition, first, records, result.base_offset, now);
                    self.meter.count(now.0, records);
                    self.meter.time(at_ns, now.0, records);
                    self.acked += records;
                    return Ok(());
                }
                Some(result) => (result.error, result.reason),
                None => return Err(Failure::new("a produce answer without a result: the broker breaks the protocol")),
            },
            Err(ResponseError::Refused { error, reason }) => (*error, reason.as_str()),
            Err(malformed) => return Err(Failure::new(malformed.to_string())),
        };
        if !code.is_retriable() {
            return Err(Failure::new(format!("produce to partition {partition} refused: {code}: {reason}")));
        }
        if code != ErrorCode::TimedOut {
            self.notes.refused(partition, first, records);
        }
        self.meter.fail(now.0, records);
        self.run.counters.fail(records, format_args!("{code}: {reason}"));
        Ok(())
    }
}

/// Whether a partition has any of so many keys; without keys each is used.
fn has_keys(keys: u32, partition: u32) -> bool {
    keys == 0 || partition < keys
}

fn wall_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
