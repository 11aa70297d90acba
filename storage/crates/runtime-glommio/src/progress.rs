//! What a shard lets the watchdog see: how far it got, what it waits for, and how to wake it.
//!
//! A shard writes its counters with plain loads and stores; it is their only writer. They cost a nanosecond an
//! operation, and a system call only when the watchdog is in its slow sleep.

use std::{
    future::{Future, poll_fn},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Poll, Waker},
    thread::Thread,
};

use crate::watchdog::Stats;

/// No poke is under way that could prove to have been needed.
const NO_POKE: u64 = u64::MAX;

/// One shard's counters, apart from other shards' by two cache lines.
#[repr(align(128))]
pub(crate) struct Progress {
    /// Operations that ended.
    steps: AtomicU64,
    /// Operations under way that end without help from outside: disk and blocking threads.
    pending: AtomicU64,
    /// Turns of the task that pokes wake.
    answers: AtomicU64,
    for_watchdog: ForWatchdog,
}

#[repr(align(128))]
struct ForWatchdog {
    /// Wakes the answering task. A waker rather than a channel: it reaches a parked executor even if the task has
    /// been made runnable before.
    waker: Mutex<Option<Waker>>,
    /// The steps of a quiet shard when it was poked.
    steps_when_poked: AtomicU64,
    alarm: Arc<Alarm>,
    stats: Arc<Stats>,
}

/// Gets the watchdog out of its slow sleep.
#[derive(Default)]
pub(crate) struct Alarm {
    slow: AtomicBool,
    watchdog: OnceLock<Thread>,
}

/// An operation under way, until dropped.
pub(crate) struct Work<'a>(&'a Progress);

/// What the watchdog sees of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) steps: u64,
    pub(crate) pending: bool,
    pub(crate) answers: u64,
}

impl Progress {
    pub(crate) fn new(alarm: Arc<Alarm>, stats: Arc<Stats>) -> Self {
        Self {
            steps: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            for_watchdog: ForWatchdog {
                waker: Mutex::new(None),
                steps_when_poked: AtomicU64::new(NO_POKE),
                alarm,
                stats,
            },
        }
    }

    /// Something ended that was waited for outside: a read of a socket.
    pub(crate) fn step(&self) {
        self.steps.store(self.steps.load(Relaxed) + 1, Relaxed);
        self.for_watchdog.alarm.ring();
    }

    /// Something begins that ends by itself.
    pub(crate) fn work(&self) -> Work<'_> {
        self.pending.store(self.pending.load(Relaxed) + 1, Relaxed);
        self.for_watchdog.alarm.ring();
        Work(self)
    }

    /// Whether an operation is under way that ends by itself.
    pub(crate) fn has_work(&self) -> bool {
        self.pending.load(Relaxed) > 0
    }

    /// Answers pokes for as long as the shard lives.
    pub(crate) fn answer(self: Arc<Self>) -> impl Future<Output = ()> {
        poll_fn(move |context| {
            self.answers.store(self.answers.load(Relaxed) + 1, Relaxed);
            let steps_when_poked = self.for_watchdog.steps_when_poked.swap(NO_POKE, Relaxed);
            if steps_when_poked != NO_POKE && steps_when_poked != self.steps.load(Relaxed) {
                self.for_watchdog.stats.count_needed();
            }
            self.waker().get_or_insert_with(|| context.waker().clone());
            Poll::Pending
        })
    }

    /// The shard ends: from now on it is not poked. On the shard's own thread, which alone may drop its waker.
    pub(crate) fn retire(&self) {
        self.waker().take();
    }

    pub(crate) fn sample(&self) -> Sample {
        Sample { steps: self.steps.load(Relaxed), pending: self.has_work(), answers: self.answers.load(Relaxed) }
    }

    /// Wakes the shard, from the watchdog. `quiet` holds the steps of one that made no progress since the last look.
    /// Returns whether there is a shard to wake.
    pub(crate) fn poke(&self, quiet: Option<u64>) -> bool {
        let waker = self.waker();
        let Some(waker) = waker.as_ref() else { return false };
        self.for_watchdog.steps_when_poked.store(quiet.unwrap_or(NO_POKE), Relaxed);
        self.for_watchdog.stats.count_sent();
        waker.wake_by_ref();
        true
    }

    fn waker(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.for_watchdog.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.pending.store(self.0.pending.load(Relaxed) - 1, Relaxed);
        self.0.step();
    }
}

impl Alarm {
    /// The calling thread is the watchdog.
    pub(crate) fn attach(&self) {
        self.watchdog.get_or_init(std::thread::current);
    }

    /// Whether the next operation of any shard is to wake the watchdog.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Relaxed);
    }

    fn ring(&self) {
        // A step that just misses the flag is found by the slow look.
        if self.slow.load(Relaxed)
            && self.slow.swap(false, Relaxed)
            && let Some(watchdog) = self.watchdog.get()
        {
            watchdog.unpark();
        }
    }
}
