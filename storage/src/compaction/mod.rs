//! Compaction: the many segments that flushes leave become few.
//!
//! [`strategy`] decides, purely; [`merge`] carries it out, step by step, at a pace that leaves the foreground alone. What
//! it costs is known beforehand: a byte that was flushed into a shared segment is rewritten once, one that was flushed into a
//! large segment of its own is not.
//!
//! Where a topic asks for it, what a merge writes is compressed on the way ([`compress`]).
//!
//! Partitions with `cleanup.policy=compact` have rounds on top of that: [`dirt`] decides when, [`by_key`] what becomes of a
//! batch, `round` carries it out.

pub mod by_key;
pub mod compress;
pub(crate) mod dead;
pub mod dirt;
mod keyed_segments;
pub mod merge;
mod pace;
mod policy;
mod round;
pub mod strategy;
pub(crate) mod worker;

use std::time::Duration;

use crate::segment::PlanLimits;

/// What compaction goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// So many flush outputs are merged at once. Default 16.
    pub merge_inputs: usize,
    /// Who gets a segment of its own, and how large shared ones grow; as for a flush.
    pub limits: PlanLimits,
    /// A merge reads at most this many bytes, or one batch, before others get a turn: sync groups wait in the
    /// disk for what it is doing. Default 128 KiB.
    pub read_bytes_max: usize,
    /// Memory for the keys of one round of compaction by key; more keys take several rounds. Default 32 MiB.
    pub key_bytes_max: usize,
    /// How often to look whether records have become old enough to be compacted. Default 15 s.
    pub look_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            merge_inputs: 16,
            limits: PlanLimits::default(),
            read_bytes_max: 128 << 10,
            key_bytes_max: 32 << 20,
            look_every: Duration::from_secs(15),
        }
    }
}
