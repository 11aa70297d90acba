//! How fast a merge may go: as fast as the disk allows while nobody else wants it, and slower while somebody does.
//!
//! While records come in, a merge goes a little faster than they do and no more: it is done before the next one is due, and
//! whatever it does sooner than that the foreground pays for, in the disk's queue and on its core.
//!
//! The one hard idea: whether a merge is in the way shows in one place, the sync groups. When they wait for each other, or
//! take longer than they did before the merge began, the rate is halved; when they do not, it grows again. It never falls
//! so low that segments pile up for good: each merge that waits behind this one doubles the least rate.

use std::{cell::Cell, time::Duration};

use runtime::{Instant, Runtime};

use super::merge::MergeError;

/// Bytes a second that a merge starts with.
const RATE_START: u64 = 128 << 20;
/// Slower than this and merges would never end. Twice as much for each merge that waits.
const RATE_MIN: u64 = 16 << 20;
/// Faster than this is as fast as it goes.
const RATE_MAX: u64 = 2 << 30;
/// While records come in it may go this fast at least, if it is in nobody's way.
const RATE_BESIDE: u64 = 64 << 20;
/// How long records are counted to tell how fast they come.
const WINDOW: Duration = Duration::from_millis(100);

/// What the foreground is doing.
pub(crate) trait Foreground {
    /// Whether the log is closing, and the merge had better end.
    fn is_closing(&self) -> bool;

    /// Whether sync groups have to wait.
    fn is_waiting(&self) -> bool;

    /// How many merges wait behind this one.
    fn backlog(&self) -> usize;

    /// Bytes of batches appended so far.
    fn appended_bytes(&self) -> u64;

    /// How long a sync group takes at present to reach the disk; zero while none does.
    fn sync_time(&self) -> Duration;
}

/// The rate of one merge.
pub(crate) struct Pace<R: Runtime> {
    rt: R,
    foreground: Box<dyn Foreground>,
    /// How long a sync group took when the merge began.
    sync_time_before: Duration,
    bytes_per_s: Cell<u64>,
    /// When the window began, and how much had been appended by then.
    window: Cell<(Instant, u64)>,
    /// Bytes appended in a second, by the window before; zero before the first.
    appended_per_s: Cell<u64>,
}

impl<R: Runtime> Pace<R> {
    pub(crate) fn new(rt: &R, foreground: Box<dyn Foreground>) -> Self {
        Self {
            rt: rt.clone(),
            sync_time_before: foreground.sync_time(),
            bytes_per_s: Cell::new(RATE_START),
            window: Cell::new((rt.now(), foreground.appended_bytes())),
            appended_per_s: Cell::new(0),
            foreground,
        }
    }

    /// Waits until `bytes` more may be moved.
    ///
    /// # Errors
    /// [`MergeError::Closing`].
    pub(crate) async fn take(&self, bytes: u64) -> Result<(), MergeError> {
        if self.foreground.is_closing() {
            return Err(MergeError::Closing);
        }
        let before = self.sync_time_before;
        let is_slowed = !before.is_zero() && self.foreground.sync_time() > before * 2;
        let is_in_the_way = self.foreground.is_waiting() || is_slowed;
        let rate = self.bytes_per_s.get();
        let doublings = self.foreground.backlog().min((RATE_MAX / RATE_MIN).ilog2() as usize);
        let rate_min = RATE_MIN << doublings;
        let rate_max = self.enough().saturating_mul(1 << doublings).clamp(rate_min, RATE_MAX);
        let rate = if is_in_the_way { rate / 2 } else { rate + rate / 4 }.clamp(rate_min, rate_max);
        self.bytes_per_s.set(rate);
        self.rt.sleep(Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate)).await;
        Ok(())
    }
}

impl<R: Runtime> Pace<R> {
    /// Bytes a second with which the merge is done before the next one is due.
    fn enough(&self) -> u64 {
        let (began, appended_before) = self.window.get();
        let (now, appended) = (self.rt.now(), self.foreground.appended_bytes());
        let passed = now.since(began);
        if passed >= WINDOW {
            let bytes = u128::from(appended.saturating_sub(appended_before));
            self.appended_per_s.set((bytes * 1_000_000_000 / passed.as_nanos()) as u64);
            self.window.set((now, appended));
        }
        match self.appended_per_s.get() {
            0 => RATE_MAX,
            appended => (appended + appended / 4).max(RATE_BESIDE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use runtime::sim::{SimRuntime, block_on};

    use super::*;

    #[derive(Default)]
    struct Fake {
        closing: Cell<bool>,
        waiting: Cell<bool>,
        backlog: Cell<usize>,
        appended_bytes: Cell<u64>,
        sync_time: Cell<Duration>,
    }

    impl Foreground for Rc<Fake> {
        fn is_closing(&self) -> bool {
            self.closing.get()
        }

        fn is_waiting(&self) -> bool {
            self.waiting.get()
        }

        fn backlog(&self) -> usize {
            self.backlog.get()
        }

        fn appended_bytes(&self) -> u64 {
            self.appended_bytes.get()
        }

        fn sync_time(&self) -> Duration {
            self.sync_time.get()
        }
    }

    #[test]
    fn a_merge_yields_to_whoever_waits_and_speeds_up_again() {
        block_on(1, async |rt: SimRuntime| {
            let fake = Rc::new(Fake::default());
            fake.sync_time.set(Duration::from_micros(100));
            let pace = Pace::new(&rt, Box::new(fake.clone()));
            let rates = async |takes| {
                for _ in 0..takes {
                    pace.take(1 << 20).await.unwrap();
                }
                pace.bytes_per_s.get()
            };
            assert_eq!(rates(100).await, RATE_MAX);
            fake.waiting.set(true);
            assert_eq!(rates(1).await, RATE_MAX / 2);
            assert_eq!(rates(100).await, RATE_MIN);
            let before = rt.now();
            pace.take(16 << 20).await.unwrap();
            assert!(rt.now().since(before) >= Duration::from_secs(1));
            fake.waiting.set(false);
            assert!(rates(1).await > RATE_MIN);
            fake.sync_time.set(Duration::from_micros(201));
            assert_eq!(rates(100).await, RATE_MIN, "groups take longer than before");
            fake.backlog.set(2);
            assert_eq!(rates(1).await, 4 * RATE_MIN, "two merges wait");
            fake.backlog.set(1000);
            assert_eq!(rates(1).await, RATE_MAX);
            fake.closing.set(true);
            assert!(matches!(pace.take(1).await, Err(MergeError::Closing)));
        });
    }

    #[test]
    fn a_merge_goes_little_faster_than_records_come() {
        block_on(1, async |rt: SimRuntime| {
            let fake = Rc::new(Fake::default());
            let pace = Pace::new(&rt, Box::new(fake.clone()));
            let rate = async |appended_per_s: u64| {
                for _ in 0..40 {
                    fake.appended_bytes.set(fake.appended_bytes.get() + appended_per_s / 10);
                    rt.sleep(WINDOW).await;
                    // Too little to take time itself.
                    pace.take(1).await.unwrap();
                }
                pace.bytes_per_s.get()
            };
            let is_about = |rate: u64, expected: u64| rate.abs_diff(expected) < expected / 100;
            assert_eq!(rate(0).await, RATE_MAX);
            assert!(is_about(rate(200 << 20).await, 250 << 20));
            assert!(is_about(rate(1 << 20).await, RATE_BESIDE));
            fake.backlog.set(1);
            assert!(is_about(rate(200 << 20).await, 500 << 20), "another merge waits");
            fake.backlog.set(100);
            assert_eq!(rate(200 << 20).await, RATE_MAX);
            fake.backlog.set(0);
            assert_eq!(rate(0).await, RATE_MAX, "nobody appends any more");
        });
    }
}
