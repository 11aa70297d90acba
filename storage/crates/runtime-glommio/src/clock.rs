//! The machine's two clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use ::runtime::Instant;
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, the same on all threads.
pub(crate) fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither part is ever negative on this clock.
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Milliseconds since 1970 UTC; negative before that.
pub(crate) fn wall_clock_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}
