//! Whether the log is being written to: large reads then leave room for its writes at the disk.
//!
//! A disk does what it was asked for first: a sync that comes behind 2 MiB of reads waits for all of them.

use std::{cell::Cell, time::Duration};

use runtime::Instant;

/// A log counts as written to for so long.
const RECENT: Duration = Duration::from_secs(1);

/// When the log was written to last.
#[derive(Debug, Default)]
pub struct Writes {
    last: Cell<Option<Instant>>,
}

impl Writes {
    /// It is written to now.
    pub fn note(&self, now: Instant) {
        self.last.set(Some(now));
    }

    /// Whether it was within the last second.
    pub fn are_recent(&self, now: Instant) -> bool {
        self.last.get().is_some_and(|last| now.since(last) < RECENT)
    }
}
