//! How long to wait before trying again: exponential, with jitter, bounded.
//!
//! The hard idea is the jitter: clients that failed together must not come back together, so each waits for a random part
//! of the step ("equal jitter": at least half of it, so that a retry never follows at once).

use std::time::Duration;

/// The waits between the attempts of one thing.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    /// Steps of `first`, twice that, and so on up to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self::with_rng(first, longest, fastrand::Rng::new())
    }

    fn with_rng(first: Duration, longest: Duration, rng: fastrand::Rng) -> Self {
        Self { first, longest, failures: 0, rng }
    }

    /// How long to wait after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + 0.5 * self.rng.f64())
    }

    /// It worked: the next failure starts anew.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(seed: u64) -> Backoff {
        let rng = fastrand::Rng::with_seed(seed);
        Backoff::with_rng(Duration::from_millis(50), Duration::from_secs(1), rng)
    }

    #[test]
    fn each_wait_lies_in_the_upper_half_of_its_step() {
        for seed in 0..100 {
            let mut backoff = backoff(seed);
            for step_ms in [50, 100, 200, 400, 800, 1000, 1000, 1000] {
                let wait = backoff.next();
                let step = Duration::from_millis(step_ms);
                assert!(step / 2 <= wait && wait <= step, "{wait:?} of {step:?}");
            }
        }
    }

    #[test]
    fn two_clients_do_not_wait_alike() {
        let (mut one, mut other) = (backoff(1), backoff(2));
        assert!((0..5).any(|_| one.next() != other.next()));
    }

    #[test]
    fn success_starts_anew() {
        let mut backoff = backoff(1);
        for _ in 0..10_000 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(50));
    }
}
