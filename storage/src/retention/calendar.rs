//! The time to count age from.
//!
//! The hard idea: deletion by age is the one thing that believes the wall clock, which may jump, and what was deleted
//! cannot be brought back. So a clock that is more than an hour ahead of where it should be is believed only after an hour
//! in which it went on from there. At the start, where it should be is the newest timestamp stored, if there is one.

use std::time::Duration;

use runtime::{Instant, sabotage::planted};

/// A clock ahead by more than this is not believed at once.
const JUMP_MS_MIN: i64 = 60 * 60 * 1000;
/// How long it has to go on from there to be believed.
const DOUBT: Duration = Duration::from_secs(60 * 60);

/// Tells the time to count age from, or that it is better not to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calendar {
    /// The wall clock at the zero of the monotonic one, as far as it is believed.
    believed_ms: i64,
    /// Since when it has been ahead of that, and by how much.
    doubted: Option<(Instant, i64)>,
}

/// What the calendar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Today {
    /// Age counts from here, in milliseconds since 1970.
    Ms(i64),
    /// The wall clock has just jumped forwards, by so many milliseconds: nothing goes by age for an hour.
    Jumped(i64),
    /// The hour is not over.
    Doubted,
}

impl Calendar {
    /// A calendar by which it was `newest_ms` a moment ago.
    pub(crate) fn new(newest_ms: i64, now: Instant) -> Self {
        Self { believed_ms: at_zero(now, newest_ms), doubted: None }
    }

    /// Looks at both clocks.
    pub(crate) fn look(&mut self, now: Instant, wall_ms: i64) -> Today {
        let seen = at_zero(now, wall_ms);
        let ahead = |of: i64| seen.saturating_sub(of) > JUMP_MS_MIN;
        let believed = self.believed_ms;
        if !ahead(believed) || planted("believe the clock") {
            self.doubted = None;
            self.believed_ms = believed.min(seen);
            return Today::Ms(wall_ms);
        }
        match self.doubted {
            Some((since, doubted)) if !ahead(doubted) => {
                if now.since(since) < DOUBT {
                    return Today::Doubted;
                }
                *self = Self { believed_ms: seen, doubted: None };
                Today::Ms(wall_ms)
            }
            _ => {
                self.doubted = Some((now, seen));
                Today::Jumped(seen - believed)
            }
        }
    }
}

/// What the wall clock would have shown when the monotonic one was at zero.
fn at_zero(now: Instant, wall_ms: i64) -> i64 {
    wall_ms.saturating_sub(i64::try_from(now.as_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1000;
    const NOW_MS: i64 = 1_700_000_000_000;

    fn at(minutes: u64) -> Instant {
        Instant::from_nanos(minutes * 60_000_000_000)
    }

    /// What a calendar says when it is looked at after so many minutes, with the wall clock so many minutes on.
    #[track_caller]
    fn check(newest_minutes: i64, looks: &[(u64, i64)], expected: &[Option<i64>]) {
        let ms = |minutes: i64| NOW_MS + minutes * 60_000;
        let mut calendar = Calendar::new(ms(newest_minutes), at(0));
        let mut said = Vec::new();
        for &(minutes, wall_minutes) in looks {
            said.push(match calendar.look(at(minutes), ms(wall_minutes)) {
                Today::Ms(today) => {
                    assert_eq!(today, ms(wall_minutes));
                    None
                }
                Today::Jumped(by_ms) => Some(by_ms / HOUR_MS),
                Today::Doubted => Some(0),
            });
        }
        assert_eq!(said, expected);
    }

    #[test]
    fn a_clock_that_goes_on_is_believed() {
        check(0, &[(0, 0), (5, 5), (10, 11), (600, 590)], &[None; 4]);
        check(0, &[(0, 30), (5, 35)], &[None; 2]);
        check(1_000_000, &[(0, 0), (5, 5)], &[None; 2]);
    }

    #[test]
    fn a_jump_forwards_is_believed_after_an_hour() {
        check(
            0,
            &[(0, 0), (5, 1445), (10, 1450), (64, 1504), (65, 1505), (70, 1510)],
            &[None, Some(24), Some(0), Some(0), None, None],
        );
    }

    #[test]
    fn a_clock_far_ahead_of_what_is_stored_is_doubted_at_the_start() {
        check(0, &[(0, 24 * 60), (59, 25 * 60 - 1), (60, 25 * 60)], &[Some(24), Some(0), None]);
    }

    #[test]
    fn many_small_jumps_are_one_large_one() {
        check(0, &[(0, 0), (5, 35), (10, 65), (15, 95)], &[None, None, None, Some(1)]);
    }

    #[test]
    fn every_jump_begins_an_hour_of_its_own() {
        check(0, &[(0, 0), (5, 125), (60, 300), (66, 306), (120, 360)], &[None, Some(2), Some(4), Some(0), None]);
    }

    #[test]
    fn a_jump_back_ends_the_doubt_and_the_way_forwards_is_doubted_again() {
        check(0, &[(0, 0), (5, 125), (10, 10), (70, 70)], &[None, Some(2), None, None]);
        check(0, &[(0, 0), (5, -600), (10, 10)], &[None, None, Some(10)]);
    }
}
