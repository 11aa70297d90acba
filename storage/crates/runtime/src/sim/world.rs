//! What all nodes of a simulation share and every choice goes through: seed, time, tasks, trace.

use std::{cell::RefCell, time::Duration};

use super::{
    Crash, NodeId,
    clock::Clock,
    completion::completion,
    executor::Executor,
    rng::Rng,
    trace::{Event, Trace},
};

/// How much later than asked for a timer may fire.
const TIMER_LATE_NS_MAX: u64 = 16_384;
/// How much time running a task once may take, a power of two.
const RUN_NS_MAX: u64 = 2_048;

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: Rng,
    pub(super) clock: Clock,
    pub(super) executor: Executor,
    pub(super) trace: Trace,
    /// Nodes whose disk reached the step at which it is to fail, see [`super::disk::Disk::crash_at_step`].
    pub(super) crashes_due: RefCell<Vec<(NodeId, Crash)>>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: Rng::new(seed),
            clock: Clock::default(),
            executor: Executor::default(),
            trace: Trace::new(),
            crashes_due: RefCell::default(),
        }
    }

    /// One event, or else one task, or else a jump to the next event; false if nothing can ever happen.
    pub(super) fn step(&self) -> bool {
        if self.clock.fire_due() {
            return true;
        }
        match self.executor.next(|ready| self.rng.below(ready as u64) as usize) {
            Some(task) => {
                self.clock.advance(self.rng.next_u64() % RUN_NS_MAX);
                self.trace.record(Event::Run { task, now_ns: self.clock.now_ns() });
                self.executor.run(task);
                true
            }
            None => self.clock.fire_next(),
        }
    }

    /// Lets `action` happen `delay_ns` from now.
    pub(super) fn schedule(&self, delay_ns: u64, action: impl FnOnce() + 'static) {
        self.clock.schedule(self.clock.now_ns() + delay_ns, action);
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        let (completer, completion) = completion();
        let duration_ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2);
        self.schedule(duration_ns + 1 + self.rng.below(TIMER_LATE_NS_MAX), move || completer.complete(()));
        completion.await;
    }
}
