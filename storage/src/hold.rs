//! Keeps the files of segments that nothing needs any more, for as long as somebody copies them.
//!
//! The manifest lists such segments until their files are gone, so a hold is nothing but a deletion put off: a crash or a
//! stop ends it, and the next start deletes what it kept. So does a disk that is full.

use std::{cell::Cell, rc::Rc, time::Duration};

use runtime::{Instant, Notify, Runtime, sabotage::planted};

use crate::{
    disk_space::{LOOK_EVERY, first},
    error::LogFailed,
    log::Shared,
};

/// Until when deletions are put off.
#[derive(Default)]
pub(crate) struct Hold {
    until: Cell<Option<Instant>>,
    taken: Notify,
}

impl Hold {
    /// Puts deletions off until then at least.
    pub(crate) fn take(&self, until: Instant) {
        self.until.set(self.until.get().max(Some(until)));
        self.taken.wake();
    }

    /// Whether deletions are put off.
    pub(crate) fn is_taken(&self) -> bool {
        self.until.get().is_some() && !planted("delete what is held")
    }

    /// Waits until deletions are put off.
    async fn taken(&self) {
        self.taken.until(|| self.until.get().map(drop)).await;
    }
}

/// Ends holds when their time is over or the disk is full, and deletes what they kept, until the log is closed.
pub(crate) async fn run<R: Runtime>(shared: Rc<Shared<R>>) -> Result<(), LogFailed> {
    let (wal, hold) = (&shared.wal, &shared.hold);
    loop {
        first(wal.ended(), hold.taken()).await;
        let ends = || wal.is_closing() || wal.failure().is_some();
        if ends() {
            return Ok(());
        }
        let left = hold.until.get().map_or(Duration::ZERO, |until| until.since(shared.rt.now()));
        if left > Duration::ZERO && shared.space.full().is_none() {
            first(wal.ended(), shared.rt.sleep(left.min(LOOK_EVERY))).await;
            continue;
        }
        let _alone = shared.maintenance.lock().await;
        hold.until.set(None);
        if ends() {
            return Ok(());
        }
        shared.delete_obsolete().await?;
    }
}
