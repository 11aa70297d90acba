//! What all workers of a run share: its clock, its windows, and what they count.
//!
//! A run has one clock, which starts when every worker is ready. Producers send in windows: the warm-up, then, after a pause
//! to settle, the time that is measured. Consumers read from the start to the end of all that was sent.

use std::{
    fmt::Display,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use history::Moment;

use crate::{interrupt::Interrupt, latency::Latencies, scenario::Scenario, topic::Topic, verify::Proof};

/// A consumer that is given nothing for so long, after the last send, has been given all there will be. It is longer than
/// a broker takes to restart.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// One run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    pub(crate) topic: Topic,
    /// Tells records of this run from others; nothing in a run without verification.
    pub(crate) proof: Option<Proof>,
    pub(crate) counters: Counters,
    started: OnceLock<Instant>,
    interrupt: Arc<Interrupt>,
    ends: OnceLock<Ends>,
}

/// Where reading ends; known once nothing more is sent.
#[derive(Debug)]
struct Ends {
    known_ns: u64,
    by_partition: Vec<u64>,
}

/// What happened so far, for whoever watches.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) acked: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) errors: AtomicU64,
    first_error: OnceLock<String>,
}

/// What one worker measures: it counts what happened within the measured window, and times what began there.
#[derive(Debug)]
pub(crate) struct Meter {
    window: Range<u64>,
    pub(crate) tally: Tally,
}

/// What workers of one kind measured.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) records: u64,
    /// Of these records, where they are of different lengths.
    pub(crate) bytes: u64,
    /// When the last of them were counted.
    pub(crate) last_ns: u64,
    pub(crate) errors: u64,
    pub(crate) latencies: Latencies,
}

impl Run {
    pub(crate) fn new(scenario: Scenario, topic: Topic, proof: Option<Proof>, interrupt: Arc<Interrupt>) -> Self {
        let (started, ends) = (OnceLock::new(), OnceLock::new());
        Self { scenario, topic, proof, counters: Counters::default(), started, interrupt, ends }
    }

    /// Starts the clock.
    pub(crate) fn start(&self) {
        self.started.set(Instant::now()).expect("a run starts once");
    }

    /// Waits until the clock starts.
    pub(crate) fn wait_for_start(&self) {
        self.started.wait();
    }

    /// Nanoseconds since the start.
    #[inline]
    pub(crate) fn now_ns(&self) -> u64 {
        self.started.get().expect("workers wait for the start").elapsed().as_nanos() as u64
    }

    #[inline]
    pub(crate) fn now(&self) -> Moment {
        Moment(self.now_ns())
    }

    /// Whether to end early.
    #[inline]
    pub(crate) fn is_stopped(&self) -> bool {
        self.interrupt.is_stopped()
    }

    /// When producers send, in nanoseconds since the start: one window, or two with a pause between them.
    pub(crate) fn windows(&self) -> Vec<Range<u64>> {
        let (warm_up, measured) = (ns(self.scenario.warm_up), self.measured());
        match warm_up == measured.start {
            true => std::iter::once(0..measured.end).collect(),
            false => vec![0..warm_up, measured],
        }
    }

    /// What counts, in nanoseconds since the start.
    pub(crate) fn measured(&self) -> Range<u64> {
        let start = ns(self.scenario.warm_up + self.scenario.settle);
        start..start + ns(self.scenario.duration)
    }

    /// Nothing more is sent; whoever reads may stop at these offsets.
    pub(crate) fn end_reading_at(&self, by_partition: Vec<u64>) {
        self.ends.set(Ends { known_ns: self.now_ns(), by_partition }).expect("a run ends once");
    }

    /// Whether a consumer is done that stands at these offsets of its partitions, and was last given something at `last_ns`.
    pub(crate) fn is_read(&self, mut positions: impl Iterator<Item = (u32, u64)>, last_ns: u64) -> bool {
        let now_ns = self.now_ns();
        if self.proof.is_none() {
            let is_over = now_ns >= self.measured().end || self.is_stopped();
            if is_over || !self.scenario.consume_only {
                return is_over;
            }
        }
        let Some(ends) = self.ends.get() else { return false };
        let is_silent = now_ns.saturating_sub(last_ns.max(ends.known_ns)) > ns(SILENCE_MAX);
        is_silent || positions.all(|(partition, position)| position >= ends.by_partition[partition as usize])
    }

    /// How long acknowledgements may be missing after the last send.
    pub(crate) fn patience(&self) -> Duration {
        SILENCE_MAX
    }

    pub(crate) fn meter(&self) -> Meter {
        Meter { window: self.measured(), tally: Tally::new() }
    }
}

impl Meter {
    /// Records were acknowledged, or delivered, at this time.
    #[inline]
    pub(crate) fn count(&mut self, now_ns: u64, records: u64) {
        if self.window.contains(&now_ns) {
            self.tally.records += records;
            self.tally.last_ns = now_ns;
        }
    }

    /// Records of so many bytes were delivered at this time.
    #[inline]
    pub(crate) fn count_bytes(&mut self, now_ns: u64, bytes: u64) {
        if self.window.contains(&now_ns) {
            self.tally.bytes += bytes;
        }
    }

    /// They had been sent, or should have been, at this time.
    #[inline]
    pub(crate) fn time(&mut self, sent_ns: u64, now_ns: u64, records: u64) {
        if self.window.contains(&sent_ns) {
            self.tally.latencies.record(now_ns.saturating_sub(sent_ns), records);
        }
    }

    /// Records failed at this time.
    pub(crate) fn fail(&mut self, now_ns: u64, records: u64) {
        if self.window.contains(&now_ns) {
            self.tally.errors += records;
        }
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { records: 0, bytes: 0, last_ns: 0, errors: 0, latencies: Latencies::new() }
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.last_ns = self.last_ns.max(other.last_ns);
        self.errors += other.errors;
        self.latencies.absorb(&other.latencies);
    }
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, records: u64) {
        counter.fetch_add(records, Relaxed);
    }

    /// Records failed; the first reason is kept.
    pub(crate) fn fail(&self, records: u64, why: impl Display) {
        Self::add(&self.errors, records);
        self.first_error.get_or_init(|| why.to_string());
    }

    pub(crate) fn first_error(&self) -> Option<&str> {
        self.first_error.get().map(String::as_str)
    }
}

fn ns(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
