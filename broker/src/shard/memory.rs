//! How the logs of one shard share its memory.
//!
//! Memory is divided by shard, however many logs a shard runs. Its own log takes all new partitions and those that move
//! there; a spare one only serves what it still has until that has moved. So the shard's own log keeps three quarters, and
//! the spare ones share the rest. The lengths of WAL files stay those of the whole share, for they bound the largest
//! batch, which must not shrink because there are fewer cores. What a drained log had comes back at the next start.

use storage::LogOptions;

/// The least that a log is opened with, in bytes: that of `storage`.
const MEMTABLE_BYTES_MIN: usize = 64 << 10;

/// The options of a shard's own log, and those of each of its `spare` ones, out of what it may use for all of them. The
/// node has so many logs in all, which all refuse appends at the same mark.
pub(super) fn split(whole: &LogOptions, spare: usize, logs_of_node: u32) -> (LogOptions, LogOptions) {
    let whole = &LogOptions { disk_logs: logs_of_node, ..whole.clone() };
    if spare == 0 {
        return (whole.clone(), whole.clone());
    }
    let wal_bytes = whole.wal_bytes();
    let part = |memtable_bytes: usize, cache_bytes| LogOptions {
        memtable_bytes: memtable_bytes.max(MEMTABLE_BYTES_MIN),
        cache_bytes,
        wal_bytes: Some(wal_bytes),
        ..whole.clone()
    };
    let (memtable_quarter, cache_quarter) = (whole.memtable_bytes / 4, whole.cache_bytes / 4);
    let own = part(whole.memtable_bytes - memtable_quarter, whole.cache_bytes - cache_quarter);
    let mut each = part(memtable_quarter / spare, cache_quarter / spare);
    each.disk_reserve_bytes += u64::from(logs_of_node) * own.disk_bytes().saturating_sub(each.disk_bytes());
    (own, each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_logs_together_use_what_one_would() {
        let whole = LogOptions { memtable_bytes: 512 << 20, cache_bytes: 256 << 20, ..LogOptions::default() };
        for spare in 1..20 {
            let (own, each) = split(&whole, spare, 4 + spare as u32);
            assert!(own.memtable_bytes + spare * each.memtable_bytes <= whole.memtable_bytes);
            assert!(own.cache_bytes + spare * each.cache_bytes <= whole.cache_bytes);
            assert_eq!(own.memtable_bytes, 384 << 20);
            assert_eq!((own.wal_bytes(), each.wal_bytes()), (512 << 20, 512 << 20));
            let reserve = |log: &LogOptions| log.disk_reserve_bytes + u64::from(log.disk_logs) * log.disk_bytes();
            assert_eq!(reserve(&own), reserve(&each));
        }
        let (own, _) = split(&whole, 0, 1);
        assert_eq!((own.memtable_bytes, own.cache_bytes), (whole.memtable_bytes, whole.cache_bytes));
    }
}
