//! The open-loop schedule: when each send is due, whatever became of those before.
//!
//! The hard idea: a send's time is computed from its number and never from the send before it, so a broker that stalls delays
//! what is sent, but not what is owed; latency counts from the time that was owed ("coordinated omission" otherwise).

use std::{
    num::NonZeroU64,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::run::Run;

const NS_PER_S: f64 = 1e9;

/// How long a sleep goes at most before the sleeper looks whether the run was stopped.
const LOOK_NS: u64 = 50_000_000;

/// When sends are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacer {
    start_ns: u64,
    interval_ns: f64,
    sent: u64,
}

impl Pacer {
    /// Sends from `start_ns` on, at this rate.
    ///
    /// # Panics
    /// When the rate is not above 0.
    pub(crate) fn new(start_ns: u64, sends_per_s: f64) -> Self {
        assert!(sends_per_s > 0.0, "a rate of {sends_per_s} never sends");
        Self { start_ns, interval_ns: NS_PER_S / sends_per_s, sent: 0 }
    }

    /// One of several that share a rate: their sends alternate.
    pub(crate) fn one_of(start_ns: u64, sends_per_s: f64, index: usize, count: usize) -> Self {
        let mut pacer = Self::new(start_ns, sends_per_s / count as f64);
        pacer.start_ns += (pacer.interval_ns * index as f64 / count as f64) as u64;
        pacer
    }

    /// When the next send is due.
    pub(crate) fn due_ns(&self) -> u64 {
        self.start_ns + (self.sent as f64 * self.interval_ns) as u64
    }

    /// The next send is under way.
    pub(crate) fn advance(&mut self) {
        self.sent += 1;
    }
}

/// Sleeps for tasks: a thread of its own that says, send by send, when one is due, because a tokio timer counts in
/// milliseconds.
#[derive(Debug)]
pub(crate) struct Ticker {
    due: Arc<Semaphore>,
    thread: JoinHandle<()>,
}

impl Ticker {
    /// Ticks for every send before `end_ns`.
    pub(crate) fn start(run: &Arc<Run>, mut pacer: Pacer, end_ns: u64) -> Self {
        let due = Arc::new(Semaphore::new(0));
        let (run, ticks) = (Arc::clone(run), Arc::clone(&due));
        let tick = move || {
            sharpen_sleep();
            while pacer.due_ns() < end_ns && !run.is_stopped() {
                let now_ns = run.now_ns();
                let mut owed = 0;
                while pacer.due_ns() <= now_ns && pacer.due_ns() < end_ns {
                    pacer.advance();
                    owed += 1;
                }
                ticks.add_permits(owed);
                let wait_ns = pacer.due_ns().min(end_ns).saturating_sub(run.now_ns());
                thread::sleep(Duration::from_nanos(wait_ns.min(LOOK_NS)));
            }
            if run.is_stopped() {
                ticks.close();
            }
        };
        let thread = thread::Builder::new().name("ticker".into()).spawn(tick).expect("a thread can be started");
        Self { due, thread }
    }

    /// Waits for the next send to be due, of which there must be one more; `false` when the run was stopped.
    pub(crate) async fn tick(&self) -> bool {
        match self.due.acquire().await {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the next send is due already; then it counts as taken.
    pub(crate) fn try_tick(&self) -> bool {
        self.due.try_acquire().map(|permit| permit.forget()).is_ok()
    }

    /// Waits for the thread, which has nothing more to do.
    pub(crate) fn join(self) {
        self.thread.join().expect("a panic ends the process");
    }
}

/// Lets this thread's sleeps end when they should, and not up to 50 us later.
pub(crate) fn sharpen_sleep() {
    // Without it sleeps are longer; that shows in the latencies and is no failure.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_are_due_by_their_number() {
        let mut pacer = Pacer::new(1_000, 3.0);
        let mut dues = Vec::new();
        for _ in 0..7 {
            dues.push(pacer.due_ns());
            pacer.advance();
        }
        assert_eq!(dues[0], 1_000);
        assert_eq!((dues[3], dues[6]), (1_000_001_000, 2_000_001_000), "thirds of a second add up without drift");
    }

    #[test]
    fn those_who_share_a_rate_alternate() {
        let mut dues: Vec<u64> = Vec::new();
        for index in 0..4 {
            let mut pacer = Pacer::one_of(0, 1_000.0, index, 4);
            for _ in 0..10 {
                dues.push(pacer.due_ns());
                pacer.advance();
            }
        }
        dues.sort_unstable();
        let expected: Vec<u64> = (0..40).map(|index| index * 1_000_000).collect();
        assert_eq!(dues, expected);
    }

    #[test]
    #[should_panic(expected = "never sends")]
    fn a_rate_of_nothing_is_our_own_bug() {
        Pacer::new(0, 0.0);
    }
}
