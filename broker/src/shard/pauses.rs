//! Partitions that take no appends for a moment, because they are about to live in another log.
//!
//! Whoever has batches for one of them waits here, before it looks where the partition is: then it finds it where it went.
//! A pause lasts for a few syncs; who cannot wait for so long is told Busy, and nothing of it was done.

use std::cell::RefCell;

use futures_lite::future;
use runtime::{Instant, Notify, Runtime};
use rustc_hash::FxHashSet;
use wire::PartitionId;

/// See the module.
#[derive(Default)]
pub(crate) struct Pauses {
    paused: RefCell<FxHashSet<PartitionId>>,
    resumed: Notify,
}

impl Pauses {
    /// Whether every partition takes appends.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.paused.borrow().is_empty()
    }

    /// Whether appends to this partition have to wait.
    #[inline]
    pub(crate) fn holds(&self, partition: PartitionId) -> bool {
        let paused = self.paused.borrow();
        !paused.is_empty() && paused.contains(&partition)
    }

    /// Appends to this partition wait from now on.
    pub(crate) fn pause(&self, partition: PartitionId) {
        self.paused.borrow_mut().insert(partition);
    }

    /// They go on.
    pub(crate) fn resume(&self, partition: PartitionId) {
        if self.paused.borrow_mut().remove(&partition) {
            self.resumed.wake();
        }
    }

    /// All go on but these.
    pub(crate) fn resume_unless(&self, stays: impl Fn(PartitionId) -> bool) {
        if !self.is_empty() {
            self.paused.borrow_mut().retain(|&partition| stays(partition));
            self.resumed.wake();
        }
    }

    /// Waits until none of these partitions is paused; false when `until` comes first.
    pub(crate) async fn over<R: Runtime>(
        &self,
        rt: &R,
        partitions: impl Iterator<Item = PartitionId> + Clone,
        until: Instant,
    ) -> bool {
        if self.is_empty() {
            return true;
        }
        let resumed = self.resumed.until(|| {
            let paused = self.paused.borrow();
            (!partitions.clone().any(|partition| paused.contains(&partition))).then_some(true)
        });
        let too_late = async {
            rt.sleep(until.since(rt.now())).await;
            false
        };
        future::or(resumed, too_late).await
    }
}
