//! Compaction: the many segments that flushes leave become few.
//!
//! [`strategy`] decides, purely; [`merge`] carries it out, step by step. What it costs is known beforehand: a byte that was
//! flushed into a shared segment is rewritten once, one that was flushed into a large segment of its own is not.

pub mod merge;
pub mod strategy;
pub(crate) mod worker;

use crate::segment::PlanLimits;

/// What compaction goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// So many flush outputs are merged at once. Default 16.
    pub merge_inputs: usize,
    /// Who gets a segment of its own, and how large shared ones grow; as for a flush.
    pub limits: PlanLimits,
    /// A merge reads at most this many bytes, or one batch, before others get a turn. Default 512 KiB.
    pub read_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { merge_inputs: 16, limits: PlanLimits::default(), read_bytes_max: 512 << 10 }
    }
}
