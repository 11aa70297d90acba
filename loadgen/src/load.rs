//! A run from start to end: workers are made, the clock starts, producers send, consumers read to the end of what was sent,
//! and all notes are judged.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use history::{Reader, Writer};
use tokio::runtime::Builder;

use crate::{
    failure::Failure,
    machine::BrokerThreads,
    raw,
    run::{Meter, Run, Tally},
    scenario::Scenario,
    verify::{ReadNotes, SentNotes, Verdict},
    worker,
};

/// How often workers are looked at, and how often progress is told.
const LOOK: Duration = Duration::from_millis(10);
const PROGRESS_NS: u64 = 1_000_000_000;

/// What a producer comes back with.
pub(crate) struct Produced {
    writers: Vec<Writer>,
    /// The offset behind the last acknowledged record, by partition.
    ends: Vec<u64>,
    tally: Tally,
}

/// What a consumer comes back with.
pub(crate) struct Consumed {
    readers: Vec<Reader>,
    tally: Tally,
}

impl Produced {
    pub(crate) fn new(notes: SentNotes, meter: Meter) -> Self {
        let (writers, ends) = notes.into_parts();
        Self { writers, ends, tally: meter.tally }
    }
}

impl Consumed {
    pub(crate) fn new(notes: ReadNotes, meter: Meter) -> Self {
        Self { readers: notes.into_readers(), tally: meter.tally }
    }
}

/// What a run comes to.
pub(crate) struct Outcome {
    pub(crate) produced: Tally,
    pub(crate) consumed: Tally,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) cpu_ns: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
}

/// How a worker says that it can begin, or why not.
pub(crate) struct Ready(Sender<Result<(), Failure>>);

impl Ready {
    pub(crate) fn tell(&self) {
        // Nobody listens any more when another worker has failed.
        let _ = self.0.send(Ok(()));
    }
}

/// Drives the run. `broker` are the broker's threads, where it is on this machine.
pub(crate) fn drive(run: &Arc<Run>, broker: Option<&BrokerThreads>) -> Result<Outcome, Failure> {
    let scenario = &run.scenario;
    let (ready, readiness) = mpsc::channel();
    let consumers = start_consumers(run, scenario.consumers, &ready, true);
    let producers: Vec<_> = (0..scenario.producers).map(|index| start_producer(run, index, &ready)).collect();
    drop(ready);
    wait_for_all(&readiness, consumers.len() + producers.len())?;
    run.start();
    if scenario.consume_only {
        run.end_reading_at(ends(run, &[])?);
    }

    let mut watch = Watch::new(run, broker);
    let produced = join(run, &mut watch, producers)?;
    let mut verdict = None;
    let consumed = match &run.proof {
        None => join(run, &mut watch, consumers)?,
        Some(_) => {
            run.end_reading_at(ends(run, &produced)?);
            let mut consumed = join(run, &mut watch, consumers)?;
            if scenario.consumers == 0 {
                consumed = read_back(run, &mut watch)?;
            }
            consumed
        }
    };
    watch.close();
    let (mut outcome, mut writers, mut readers) = (Outcome::new(&watch), Vec::new(), Vec::new());
    for part in produced {
        outcome.produced.absorb(&part.tally);
        writers.extend(part.writers);
    }
    for part in consumed {
        outcome.consumed.absorb(&part.tally);
        readers.extend(part.readers);
    }
    if run.proof.is_some() {
        verdict = Some(Verdict::of(writers, readers, run.topic.durability));
    }
    Ok(Outcome { verdict, ..outcome })
}

impl Outcome {
    fn new(watch: &Watch<'_>) -> Self {
        let cpu_ns = watch.cpu_after_ns.zip(watch.cpu_before_ns).map(|(after, before)| after.saturating_sub(before));
        Self { produced: Tally::new(), consumed: Tally::new(), verdict: None, cpu_ns, rss_bytes: watch.rss_bytes }
    }
}

type Worker<T> = JoinHandle<Result<T, Failure>>;

fn start_producer(run: &Arc<Run>, index: usize, ready: &Sender<Result<(), Failure>>) -> Worker<Produced> {
    let produce = if run.scenario.raw { raw::produce } else { worker::produce };
    let run = Arc::clone(run);
    start(format!("producer-{index}"), ready, move |ready| produce(&run, index, ready))
}

fn start_consumers(
    run: &Arc<Run>,
    count: usize,
    ready: &Sender<Result<(), Failure>>,
    beside_producers: bool,
) -> Vec<Worker<Consumed>> {
    let consume = if run.scenario.raw { raw::consume } else { worker::consume };
    let shards: Vec<_> = run.topic.partitions.iter().map(|partition| partition.shard).collect();
    let start_one = |(index, partitions): (usize, Vec<u32>)| {
        let run = Arc::clone(run);
        // Of several readers of a partition the first takes the time.
        let is_timed = beside_producers && index < shards.len();
        start(format!("consumer-{index}"), ready, move |ready| consume(&run, &partitions, ready, is_timed))
    };
    deal(&shards, count).into_iter().enumerate().map(start_one).collect()
}

fn start<T: Send + 'static>(
    name: String,
    ready: &Sender<Result<(), Failure>>,
    work: impl FnOnce(&Ready) -> Result<T, Failure> + Send + 'static,
) -> Worker<T> {
    let ready = Ready(ready.clone());
    let body = move || {
        let result = work(&ready);
        if let Err(failure) = &result {
            // Too late for the start, the failure is found when the worker is joined.
            let _ = ready.0.send(Err(failure.clone()));
        }
        result
    };
    thread::Builder::new().name(name).spawn(body).expect("a thread can be started")
}

/// Deals partitions, given by their shards, to consumers: neighbours on a shard stay together, and where there are more
/// consumers than partitions some partitions have several readers.
fn deal(shards: &[u16], consumers: usize) -> Vec<Vec<u32>> {
    let mut partitions: Vec<u32> = (0..shards.len() as u32).collect();
    partitions.sort_by_key(|&partition| shards[partition as usize]);
    let hand = |consumer: usize| {
        if consumers > partitions.len() {
            return vec![partitions[consumer % partitions.len()]];
        }
        let (from, to) = (consumer * partitions.len() / consumers, (consumer + 1) * partitions.len() / consumers);
        partitions[from..to].to_vec()
    };
    (0..consumers).map(hand).collect()
}

fn wait_for_all(readiness: &Receiver<Result<(), Failure>>, count: usize) -> Result<(), Failure> {
    (0..count).try_for_each(|_| readiness.recv().expect("every worker tells something"))
}

/// Waits for workers, and tells progress.
fn join<T>(run: &Run, watch: &mut Watch<'_>, workers: Vec<Worker<T>>) -> Result<Vec<T>, Failure> {
    let mut done = Vec::with_capacity(workers.len());
    for worker in workers {
        while !worker.is_finished() {
            watch.look(run);
            thread::sleep(LOOK);
        }
        watch.look(run);
        done.push(worker.join().expect("a panic ends the process")?);
    }
    Ok(done)
}

/// Reads everything back, after a load without consumers.
fn read_back(run: &Arc<Run>, watch: &mut Watch<'_>) -> Result<Vec<Consumed>, Failure> {
    let (ready, readiness) = mpsc::channel();
    let count = run.scenario.producers.min(run.topic.partitions.len());
    let consumers = start_consumers(run, count, &ready, false);
    wait_for_all(&readiness, count)?;
    join(run, watch, consumers)
}

/// Where reading ends: behind all that was acknowledged, and behind what can be read, where more was written.
fn ends(run: &Run, produced: &[Produced]) -> Result<Vec<u64>, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime of one thread can be made");
    let mut ends = runtime.block_on(run.topic.ends(run.patience()))?;
    for acked in produced {
        for (end, acked) in ends.iter_mut().zip(&acked.ends) {
            *end = acked.max(end).to_owned();
        }
    }
    Ok(ends)
}

/// Whoever looks at a run from outside: tells its progress, and what the broker uses while it is measured.
struct Watch<'a> {
    broker: Option<&'a BrokerThreads>,
    measured: std::ops::Range<u64>,
    cpu_before_ns: Option<u64>,
    cpu_after_ns: Option<u64>,
    rss_bytes: Option<u64>,
    told_ns: u64,
    told: [u64; 2],
    is_terminal: bool,
}

impl<'a> Watch<'a> {
    fn new(run: &Run, broker: Option<&'a BrokerThreads>) -> Self {
        Self {
            broker,
            measured: run.measured(),
            cpu_before_ns: None,
            cpu_after_ns: None,
            rss_bytes: None,
            told_ns: 0,
            told: [0; 2],
            is_terminal: io::stderr().is_terminal(),
        }
    }

    fn look(&mut self, run: &Run) {
        let now_ns = run.now_ns();
        if now_ns >= self.measured.start && self.cpu_before_ns.is_none() {
            self.cpu_before_ns = self.broker.and_then(BrokerThreads::cpu_ns);
        }
        if now_ns >= self.measured.end {
            self.take_usage();
        }
        if now_ns >= self.told_ns + PROGRESS_NS {
            self.tell(run, now_ns);
        }
    }

    /// What the broker used until now, once.
    fn take_usage(&mut self) {
        if self.cpu_after_ns.is_none() {
            self.cpu_after_ns = self.broker.and_then(BrokerThreads::cpu_ns);
            self.rss_bytes = self.broker.and_then(BrokerThreads::rss_bytes);
        }
    }

    fn tell(&mut self, run: &Run, now_ns: u64) {
        let counters = &run.counters;
        let counts = [counters.acked.load(Relaxed), counters.read.load(Relaxed)];
        let passed_s = (now_ns - self.told_ns) as f64 / 1e9;
        let [acked, read] = [0, 1].map(|index| (counts[index] - self.told[index]) as f64 / passed_s);
        let line = progress(&run.scenario, now_ns, [acked, read], counters.errors.load(Relaxed));
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
            let _ = io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
        (self.told_ns, self.told) = (now_ns, counts);
    }

    /// Leaves the progress line, and what was to be measured up to an end that came earlier.
    fn close(&mut self) {
        self.take_usage();
        if self.is_terminal && self.told_ns > 0 {
            eprint!("\r\x1b[K");
        }
    }
}

/// One line: where the run is, and what happened in the last second.
fn progress(scenario: &Scenario, now_ns: u64, [acked, read]: [f64; 2], errors: u64) -> String {
    let now = Duration::from_nanos(now_ns);
    let (warm_up, measured) = (scenario.warm_up, scenario.warm_up + scenario.settle);
    let phase = match now {
        now if now < warm_up => "warm-up",
        now if now < measured => "settle",
        now if now < measured + scenario.duration => "measure",
        _ => "read the rest",
    };
    let errors = if errors > 0 { format!("  {errors} errors") } else { String::new() };
    format!("{:>5.0} s  {phase:<13}  {acked:>12.0} acked/s  {read:>12.0} read/s{errors}", now.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn partitions_are_dealt_once_each_and_by_shard() {
        assert_eq!(deal(&[0, 1, 0, 1], 2), [vec![0, 2], vec![1, 3]]);
        assert_eq!(deal(&[0, 0, 0], 2), [vec![0], vec![1, 2]]);
        assert_eq!(deal(&[0, 0], 3), [vec![0], vec![1], vec![0]]);
        assert_eq!(deal(&[0, 0], 0), [[0; 0]; 0]);
    }

    #[test]
    fn progress_names_the_phase() {
        let scenario = Scenario::parse_from(["loadgen", "--warm-up", "2s", "--settle", "1s", "--duration", "5s"]);
        let check = |now_s: u64, phase: &str| {
            let line = progress(&scenario, now_s * 1_000_000_000, [10.0, 9.0], 3);
            assert!(line.contains(phase) && line.contains("3 errors"), "{line}");
        };
        check(1, "warm-up");
        check(2, "settle");
        check(7, "measure");
        check(8, "read the rest");
    }
}
