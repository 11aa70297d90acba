//! Wakes executors that sleep on work, and ends a process in which one is silent.
//!
//! glommio 0.9.0 takes "preempted before running anything" for "nothing to run" and parks, although tasks are
//! runnable; any event from outside gets it out again. So a thread of its own looks at every shard: each 2 ms while
//! one had work within the last second, else each 100 ms, so that an idle broker stays idle. It pokes a shard
//!
//! - that has operations under way and made no progress since the last look,
//! - on the first look after it fell quiet, because a stall begins with an event that made tasks runnable,
//! - every 100 ms whatever its counters say, because an event may have come before any counter moved.
//!
//! A shard that answers no poke for five seconds is stuck for good, and then a restart is better than what its
//! clients see.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use runtime::Instant;

use crate::{
    clock,
    progress::{Alarm, Progress, Sample},
};

const FAST_PERIOD: Duration = Duration::from_millis(2);
const SLOW_PERIOD: Duration = Duration::from_millis(100);
/// Time without work after which the looks become slow.
const WORK_MEMORY: Duration = Duration::from_secs(1);
/// A look this late says that the whole process was stopped, so the shards had no chance to answer.
const LATE: Duration = Duration::from_millis(500);

/// Counters of all shards' watchdog, for metrics.
#[derive(Debug, Default)]
pub struct Stats {
    sent: AtomicU64,
    needed: AtomicU64,
}

impl Stats {
    /// Times a shard was woken.
    pub fn pokes_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Pokes upon which a quiet shard had progress to make: each is a stall cut short. An operation that happened to
    /// end within the microseconds of a poke counts too.
    pub fn pokes_needed(&self) -> u64 {
        self.needed.load(Relaxed)
    }

    pub(crate) fn count_sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_needed(&self) {
        self.needed.fetch_add(1, Relaxed);
    }
}

/// The watchdog's thread, until dropped.
pub(crate) struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches `shards`. One that is silent for `silence_max` ends the process.
    pub(crate) fn start(shards: Vec<Arc<Progress>>, alarm: Arc<Alarm>, silence_max: Duration) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch_until(&stopped, &shards, &alarm, silence_max))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn watch_until(stop: &AtomicBool, shards: &[Arc<Progress>], alarm: &Alarm, silence_max: Duration) {
    alarm.attach();
    let mut looked_at = clock::now();
    let mut poked_all_at = looked_at;
    let mut watches: Vec<Watch> = shards.iter().map(|_| Watch::new(looked_at)).collect();
    let mut period = FAST_PERIOD;
    while !stop.load(Relaxed) {
        alarm.set_slow(period == SLOW_PERIOD);
        thread::park_timeout(period);
        let now = clock::now();
        if now.since(looked_at) > period + LATE {
            watches.iter_mut().for_each(Watch::forgive);
        }
        looked_at = now;

        let poke_all = now.since(poked_all_at) >= SLOW_PERIOD;
        if poke_all {
            poked_all_at = now;
        }
        for (shard, (progress, watch)) in shards.iter().zip(&mut watches).enumerate() {
            match watch.look(progress.sample(), poke_all, silence_max, now) {
                Verdict::Rest => {}
                Verdict::Poke { quiet } => {
                    if !progress.poke(quiet) {
                        watch.forgive();
                    }
                }
                Verdict::Silent => end_process(shard, silence_max),
            }
        }
        period = if watches.iter().any(|watch| watch.has_work(now)) { FAST_PERIOD } else { SLOW_PERIOD };
    }
}

fn end_process(shard: usize, silence: Duration) -> ! {
    eprintln!(
        "streambus: shard {shard} has not answered its watchdog for {silence:?}; the process ends here, and recovers \
         at its next start"
    );
    std::process::abort()
}

/// What the watchdog remembers of one shard. No clock, no thread: [`Watch::look`] decides.
struct Watch {
    seen: Sample,
    /// Whether it made progress between the last two looks.
    moved: bool,
    worked_at: Instant,
    /// The first poke that it has not answered.
    unanswered_since: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Rest,
    /// Wake it. `quiet` holds its steps if it made no progress since the last look.
    Poke {
        quiet: Option<u64>,
    },
    Silent,
}

impl Watch {
    fn new(now: Instant) -> Self {
        let seen = Sample { steps: 0, pending: false, answers: 0 };
        Self { seen, moved: false, worked_at: now, unanswered_since: None }
    }

    fn look(&mut self, sample: Sample, poke_all: bool, silence_max: Duration, now: Instant) -> Verdict {
        let moved = sample.steps != self.seen.steps;
        let moved_before = std::mem::replace(&mut self.moved, moved);
        if sample.answers != self.seen.answers {
            self.unanswered_since = None;
        }
        self.seen = sample;
        if moved || sample.pending || self.unanswered_since.is_some() {
            self.worked_at = now;
        }
        if self.unanswered_since.is_some_and(|since| now.since(since) >= silence_max) {
            return Verdict::Silent;
        }
        let stalled = !moved && (sample.pending || moved_before || self.unanswered_since.is_some());
        if !poke_all && !stalled {
            return Verdict::Rest;
        }
        self.unanswered_since.get_or_insert(now);
        Verdict::Poke { quiet: (!moved).then_some(sample.steps) }
    }

    fn has_work(&self, now: Instant) -> bool {
        now.since(self.worked_at) < WORK_MEMORY
    }

    /// It could not answer, or there is no one to do so.
    fn forgive(&mut self) {
        self.unanswered_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(5);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// Looks every 2 ms at samples of (steps, pending, answers), and says when it poked.
    fn pokes(samples: &[(u64, bool, u64)]) -> Vec<bool> {
        let mut watch = Watch::new(at(0));
        let looks = samples.iter().zip(1..);
        looks
            .map(|(&(steps, pending, answers), look)| {
                let sample = Sample { steps, pending, answers };
                watch.look(sample, false, MAX, at(2 * look)) != Verdict::Rest
            })
            .collect()
    }

    #[test]
    fn a_shard_at_rest_or_at_work_is_left_alone() {
        assert_eq!(pokes(&[(0, false, 0), (0, false, 0)]), [false, false]);
        assert_eq!(pokes(&[(1, true, 0), (2, true, 0), (3, true, 0)]), [false, false, false]);
    }

    #[test]
    fn pending_work_without_progress_is_poked_at_every_look() {
        assert_eq!(pokes(&[(1, true, 0), (1, true, 0), (1, true, 1), (2, true, 2)]), [false, true, true, false]);
    }

    #[test]
    fn a_shard_that_falls_quiet_is_poked_once() {
        assert_eq!(pokes(&[(1, false, 0), (1, false, 0), (1, false, 1), (1, false, 1)]), [false, true, false, false]);
    }

    #[test]
    fn an_unanswered_poke_is_repeated() {
        assert_eq!(pokes(&[(1, false, 0), (1, false, 0), (1, false, 0)]), [false, true, true]);
    }

    #[test]
    fn the_slow_look_pokes_whatever_the_counters_say() {
        let mut watch = Watch::new(at(0));
        let sample = Sample { steps: 0, pending: false, answers: 0 };
        assert_eq!(watch.look(sample, true, MAX, at(100)), Verdict::Poke { quiet: Some(0) });
        let sample = Sample { steps: 1, pending: false, answers: 1 };
        assert_eq!(watch.look(sample, true, MAX, at(200)), Verdict::Poke { quiet: None });
    }

    #[test]
    fn silence_is_counted_from_the_first_unanswered_poke_and_forgiven() {
        let sample = Sample { steps: 0, pending: true, answers: 0 };
        let mut watch = Watch::new(at(0));
        assert_ne!(watch.look(sample, false, MAX, at(1_000)), Verdict::Silent);
        assert_ne!(watch.look(sample, false, MAX, at(5_999)), Verdict::Silent);
        assert_eq!(watch.look(sample, false, MAX, at(6_000)), Verdict::Silent);

        watch.forgive();
        assert_ne!(watch.look(sample, false, MAX, at(60_000)), Verdict::Silent);
        let answered = Sample { answers: 1, ..sample };
        assert_ne!(watch.look(answered, false, MAX, at(65_000)), Verdict::Silent);
    }

    #[test]
    fn work_is_remembered_for_a_second() {
        let mut watch = Watch::new(at(0));
        watch.look(Sample { steps: 1, pending: false, answers: 0 }, false, MAX, at(500));
        assert!(watch.has_work(at(1_499)));
        assert!(!watch.has_work(at(1_500)));
    }
}
