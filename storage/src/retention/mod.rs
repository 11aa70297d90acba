//! Where a partition starts once what is too old or too much is gone. Pure: sizes and times in, an offset out.
//!
//! What goes, goes in whole pieces, the oldest first: a piece is what one segment holds of the partition. The first piece
//! that has to stay keeps everything behind it, however old, for a log has no holes. What is not in segments yet is never
//! offered, and so always stays. Age is counted from the largest timestamp of a piece's records, as their producers set
//! them; records without a time have no age.
//!
//! - [`calendar`]: the time to count age from; [`worker`]: the task that carries it all out.

pub(crate) mod calendar;
pub(crate) mod worker;

use runtime::sabotage::planted;

use crate::settings::PartitionSettings;

/// What one segment holds of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The offset behind its last record.
    pub(crate) next_offset: u64,
    /// Bytes of its batches.
    pub(crate) bytes: u64,
    /// Its largest record timestamp, in milliseconds since 1970; negative for none.
    pub(crate) timestamp_max: i64,
}

/// One partition on its way to a new log start: pieces are offered oldest first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trim {
    log_start: u64,
    /// Bytes that there are too many.
    excess_bytes: u64,
    /// What is older may go; `None` when age does not count.
    expired_before_ms: Option<i64>,
    is_over: bool,
}

impl Trim {
    /// A partition that starts at `log_start` and has `bytes` bytes in all. `now_ms` is the time to count age from, or
    /// `None` when nobody knows.
    pub(crate) fn new(settings: &PartitionSettings, log_start: u64, bytes: u64, now_ms: Option<i64>) -> Self {
        let excess_bytes = settings.retention_bytes.map_or(0, |bytes_max| bytes.saturating_sub(bytes_max));
        let age_ms_max = settings.retention_ms.map(|age_ms| i64::try_from(age_ms).unwrap_or(i64::MAX));
        let expired_before_ms = age_ms_max.zip(now_ms).map(|(age_ms, now_ms)| now_ms.saturating_sub(age_ms));
        Self { log_start, excess_bytes, expired_before_ms, is_over: !settings.cleanup.delete }
    }

    /// Whether nothing more can go, so that further pieces need not be offered.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over || (self.excess_bytes == 0 && self.expired_before_ms.is_none())
    }

    /// Offers the next piece.
    pub(crate) fn offer(&mut self, piece: &Piece) {
        if self.is_over() || piece.next_offset <= self.log_start {
            return;
        }
        let is_expired = self.expired_before_ms.is_some_and(|before_ms| (0..before_ms).contains(&piece.timestamp_max));
        // A piece goes only if what is left is still as much as was asked for.
        let is_excess = piece.bytes > 0 && (self.excess_bytes >= piece.bytes || planted("retain too little"));
        if is_expired || is_excess {
            self.excess_bytes = self.excess_bytes.saturating_sub(piece.bytes);
            self.log_start = piece.next_offset;
        } else {
            self.is_over = true;
        }
    }

    /// Whether a piece may go that was not looked at, of which only this is known: it is no older than `oldest_ms`.
    pub(crate) fn may_take(&self, oldest_ms: Option<i64>) -> bool {
        let is_old = |before_ms: i64| oldest_ms.is_none_or(|oldest_ms| oldest_ms < before_ms);
        !self.is_over() && (self.excess_bytes > 0 || self.expired_before_ms.is_some_and(is_old))
    }

    /// A piece cannot be looked at: it stays, and so does everything behind it.
    pub(crate) fn stop(&mut self) {
        self.is_over = true;
    }

    /// Where the partition may start.
    pub(crate) fn log_start(&self) -> u64 {
        self.log_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    /// Pieces of ten records and 100 bytes each, one a day.
    fn pieces(days: &[i64]) -> Vec<Piece> {
        let piece = |(number, &day): (u64, &i64)| Piece {
            next_offset: number * 10 + 10,
            bytes: 100,
            timestamp_max: day.saturating_mul(DAY_MS as i64),
        };
        (0..).zip(days).map(piece).collect()
    }

    #[track_caller]
    fn check(settings: PartitionSettings, days: &[i64], today: Option<i64>, expected: u64) {
        let pieces = pieces(days);
        let bytes = pieces.iter().map(|piece| piece.bytes).sum();
        let mut trim = Trim::new(&settings, 0, bytes, today.map(|day| day * DAY_MS as i64));
        pieces.iter().for_each(|piece| trim.offer(piece));
        assert_eq!(trim.log_start(), expected);
    }

    fn days(days: u64) -> PartitionSettings {
        PartitionSettings { retention_ms: Some(days * DAY_MS), ..PartitionSettings::default() }
    }

    fn bytes(bytes: u64) -> PartitionSettings {
        PartitionSettings { retention_bytes: Some(bytes), ..PartitionSettings::default() }
    }

    #[test]
    fn without_a_limit_everything_stays() {
        check(PartitionSettings::default(), &[1, 2, 3], Some(1_000_000), 0);
    }

    #[test]
    fn age_is_that_of_a_pieces_youngest_record() {
        check(days(7), &[1, 2, 3], Some(8), 0);
        check(days(7), &[1, 2, 3], Some(9), 10);
        check(days(7), &[1, 2, 3], Some(11), 30);
        check(days(7), &[1, 2, 3], None, 0);
        check(days(0), &[1, 2, 3], Some(3), 20);
        check(days(u64::MAX / DAY_MS), &[1], Some(1), 0);
    }

    #[test]
    fn nothing_behind_a_piece_that_stays_goes() {
        check(days(7), &[1, 9, 2], Some(10), 10);
        check(bytes(0), &[1, 1, 1], None, 30);
    }

    #[test]
    fn what_is_left_is_never_less_than_was_asked_for() {
        check(bytes(300), &[1, 1, 1], None, 0);
        check(bytes(299), &[1, 1, 1], None, 0);
        check(bytes(200), &[1, 1, 1], None, 10);
        check(bytes(101), &[1, 1, 1], None, 10);
        check(bytes(100), &[1, 1, 1], None, 20);
    }

    #[test]
    fn either_limit_is_enough() {
        let both = PartitionSettings { retention_bytes: Some(200), ..days(7) };
        check(both, &[1, 2, 9], Some(10), 20);
        check(both, &[5, 6, 9], Some(10), 10);
        check(both, &[5, 6, 9], None, 10);
    }

    #[test]
    fn a_record_without_a_time_has_no_age() {
        check(days(7), &[-1, 1], Some(100), 0);
        check(days(7), &[i64::MIN], Some(100), 0);
    }

    #[test]
    fn only_deletion_deletes() {
        let cleanup = crate::Cleanup { delete: false, compact: true };
        check(PartitionSettings { cleanup, ..days(1) }, &[1, 2, 3], Some(100), 0);
    }

    #[test]
    fn what_is_gone_does_not_count_and_what_is_unknown_stops() {
        let mut trim = Trim::new(&days(1), 15, 0, Some(100 * DAY_MS as i64));
        let pieces = pieces(&[99, 1, 1]);
        pieces[..2].iter().for_each(|piece| trim.offer(piece));
        assert_eq!(trim.log_start(), 20);
        trim.stop();
        trim.offer(&pieces[2]);
        assert_eq!(trim.log_start(), 20);
    }
}
