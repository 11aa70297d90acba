//! What a partition is kept by: the settings of its topic, as numbers. They may change while it is served.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use wire::{Durability, record::Codec};

/// So many different settings are compared with those of a partition that is adopted.
const COMPARED_MAX: usize = 32;

/// Settings of a partition. The default keeps everything for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionSettings {
    /// What an ack means. Fixed for the partition's life.
    pub durability: Durability,
    /// The largest batch taken, in bytes; the log's own limit holds all the same.
    pub batch_bytes_max: usize,
    /// How records go.
    pub cleanup: Cleanup,
    /// Records older than this, in milliseconds by their own timestamps, may go; `None` keeps them whatever their age.
    pub retention_ms: Option<u64>,
    /// Batches beyond so many bytes may go, the oldest first; `None` keeps them whatever their size.
    pub retention_bytes: Option<u64>,
    /// How long a tombstone stays for readers to see after everything older under its key went, in milliseconds.
    pub delete_retention_ms: u64,
    /// A record younger than this, in milliseconds, is not compacted away.
    pub compaction_lag_ms_min: u64,
    /// A record older than this, in milliseconds, is compacted however little else there is; `None` for no such haste.
    pub compaction_lag_ms_max: Option<u64>,
    /// Compaction waits until so many thousandths of the bytes were not compacted yet.
    pub dirty_permille_min: u16,
    /// What merges compress batches with that came uncompressed; [`Codec::None`] leaves them as they came.
    pub compression: Codec,
}

/// How records of a partition go: by age and size, by key, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Retention moves the log start.
    pub delete: bool,
    /// Of the records of a key only the last one stays.
    pub compact: bool,
}

impl Default for PartitionSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Durable,
            batch_bytes_max: usize::MAX,
            cleanup: Cleanup { delete: true, compact: false },
            retention_ms: None,
            retention_bytes: None,
            delete_retention_ms: 24 * 60 * 60 * 1000,
            compaction_lag_ms_min: 0,
            compaction_lag_ms_max: None,
            dirty_permille_min: 500,
            compression: Codec::None,
        }
    }
}

/// A partition of this level that keeps everything.
impl From<Durability> for PartitionSettings {
    fn from(durability: Durability) -> Self {
        Self { durability, ..Self::default() }
    }
}

/// Settings that partitions were given lately. Those of a topic are the same, and so are those of most topics: they are kept
/// once.
#[derive(Default)]
pub(crate) struct KnownSettings(RefCell<VecDeque<Rc<PartitionSettings>>>);

impl KnownSettings {
    /// The same settings, shared with others that have them.
    pub(crate) fn share(&self, settings: PartitionSettings) -> Rc<PartitionSettings> {
        let mut known = self.0.borrow_mut();
        if let Some(same) = known.iter().find(|known| ***known == settings) {
            return Rc::clone(same);
        }
        known.truncate(COMPARED_MAX - 1);
        let settings = Rc::new(settings);
        known.push_front(Rc::clone(&settings));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_lag(compaction_lag_ms_min: u64) -> PartitionSettings {
        PartitionSettings { compaction_lag_ms_min, ..PartitionSettings::default() }
    }

    #[test]
    fn equal_settings_are_kept_once_and_not_too_many_are_compared() {
        let known = KnownSettings::default();
        let first = known.share(of_lag(0));
        assert!(Rc::ptr_eq(&first, &known.share(of_lag(0))));
        for lag in 1..=COMPARED_MAX as u64 {
            assert_eq!(known.share(of_lag(lag)).compaction_lag_ms_min, lag);
        }
        assert_eq!(known.0.borrow().len(), COMPARED_MAX);
        let again = known.share(of_lag(0));
        assert!(!Rc::ptr_eq(&first, &again) && again == first, "it was pushed out, and is the same all the same");
    }
}
