//! Room on the disk: appends are refused while less is free than what was promised already may need.
//!
//! The one hard idea: what an append costs comes due later. Its sync group goes into a WAL file that was allocated whole,
//! so no ack ever waits for the file system to find room; the segment that its memtable becomes, and the journals' edits,
//! still have to. So appends stop while there is room for all of that, and for one more WAL file at the next start. What
//! frees space (truncation, retention, deletion) writes a few pages of WAL and manifest, and goes on.
//!
//! The reserve is kept by looking, not by holding: a neighbour may take it. Then a flush that finds no room is put off,
//! its batches being safe in the WAL, and done when there is some again; an edit of the manifest that finds none waits, and
//! with it whoever asked for it: nothing of it was written, and nobody was told.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use runtime::{Notify, Runtime};

use crate::{
    error::AppendError,
    log::{LogOptions, Shared},
};

/// How often a log at work, or one that waits for space, looks how much is free.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Blocks that the journals of a log may need: the rest of a file, and the next one beside it.
const JOURNAL_BLOCKS: u64 = 8;

/// What a log knows of the space it may use.
pub(crate) struct DiskSpace {
    /// Appends are refused while less is free.
    reserve_bytes: u64,
    /// What this log's share of that is.
    own_bytes: u64,
    /// Memory for memtables.
    memtable_bytes: u64,
    /// Logs that share the file system.
    logs: u64,
    journal_bytes: u64,
    free_bytes: Cell<u64>,
    is_full: Cell<bool>,
    /// What was last said of it.
    said_full: Cell<bool>,
    /// What each purpose waits for; 0 if it does not.
    wanted_bytes: [Cell<u64>; Purpose::ALL.len()],
    /// Somebody began to wait for space: from now on it has to be looked at, however quiet the log is.
    wanted: Notify,
    /// Somebody looked, or nobody will any more.
    pub(crate) looked: Notify,
}

/// What space is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Another WAL file.
    File,
    /// Segments for a memtable.
    Flush,
    /// Segments for other segments.
    Merge,
    /// An edit of the manifest.
    Edit,
}

impl Purpose {
    const ALL: [Self; 4] = [Self::File, Self::Flush, Self::Merge, Self::Edit];
}

/// Why a log may not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{free_bytes} bytes are free, {wanted_bytes} are needed")]
pub(crate) struct Lacking {
    /// Bytes that are free.
    pub(crate) free_bytes: u64,
    /// Bytes that should be.
    pub(crate) wanted_bytes: u64,
}

impl DiskSpace {
    /// Not looked at yet: for as long as nobody did, there is room.
    pub(crate) fn new(options: &LogOptions, block_bytes: usize) -> Self {
        let journal_bytes = JOURNAL_BLOCKS * block_bytes as u64;
        let own_bytes = options.disk_bytes() + journal_bytes;
        let logs = u64::from(options.disk_logs.max(1));
        Self {
            reserve_bytes: logs * own_bytes + options.disk_reserve_bytes,
            own_bytes,
            memtable_bytes: options.memtable_bytes as u64,
            logs,
            journal_bytes,
            free_bytes: Cell::new(u64::MAX),
            is_full: Cell::new(false),
            said_full: Cell::new(false),
            wanted_bytes: Default::default(),
            wanted: Notify::default(),
            looked: Notify::default(),
        }
    }

    /// Whether appends are refused, and why.
    #[inline]
    pub(crate) fn full(&self) -> Option<Lacking> {
        self.is_full.get().then(|| Lacking { free_bytes: self.free_bytes.get(), wanted_bytes: self.resumes_at_bytes() })
    }

    /// Whether another append may be taken.
    #[inline]
    pub(crate) fn check_append(&self) -> Result<(), AppendError> {
        match self.full() {
            None => Ok(()),
            Some(Lacking { free_bytes, wanted_bytes }) => Err(AppendError::DiskFull { free_bytes, wanted_bytes }),
        }
    }

    /// Free bytes when somebody last looked; `None` before.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        Some(self.free_bytes.get()).filter(|&free| free < u64::MAX)
    }

    /// Appends are refused while less is free.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Whether another WAL file of `bytes` may be made, where there are enough to go on with.
    pub(crate) fn check_file(&self, bytes: u64) -> Result<(), Lacking> {
        self.check(Purpose::File, self.reserve_bytes + bytes)
    }

    /// Whether a flush may write segments of `bytes`.
    pub(crate) fn check_flush(&self, bytes: u64) -> Result<(), Lacking> {
        self.check(Purpose::Flush, bytes / 4 * 5 + self.journal_bytes)
    }

    /// Whether a merge may write `written` bytes before `freed` come back, where memtables hold so much. One that gains much
    /// may go into the reserve: after a deletion on a full disk nothing else makes room. While appends are refused, no more
    /// than what is in memtables has to go to segments.
    pub(crate) fn check_merge(&self, written: u64, freed: u64, memtable_bytes: u64) -> Result<(), Lacking> {
        let gains = written <= freed / 2;
        let spare = if self.is_full.get() { self.memtable_bytes.saturating_sub(memtable_bytes) } else { 0 };
        let wanted = match gains {
            true => written + self.own_bytes - spare / 4 * 5,
            false => self.logs * written + self.reserve_bytes,
        };
        self.check(Purpose::Merge, wanted)
    }

    /// Notes that the file system had no room for `bytes`, whatever was seen before: appends are refused at once, for they
    /// might have to wait for a WAL file.
    pub(crate) fn was_refused(&self, purpose: Purpose, bytes: u64) -> Lacking {
        let free_bytes = self.free_bytes.get().min(bytes);
        self.note(free_bytes);
        let wanted_bytes = bytes / 4 * 5 + self.journal_bytes;
        self.wanted_bytes[purpose as usize].set(wanted_bytes);
        self.wanted.wake();
        Lacking { free_bytes, wanted_bytes }
    }

    /// Nobody waits for that any more.
    pub(crate) fn wants_no_more(&self, purpose: Purpose) {
        self.wanted_bytes[purpose as usize].set(0);
    }

    /// Whether this was refused, and there is not enough for it yet.
    pub(crate) fn is_short_for(&self, purpose: Purpose) -> bool {
        self.wanted_bytes[purpose as usize].get() > self.free_bytes.get()
    }

    fn is_short(&self) -> bool {
        Purpose::ALL.into_iter().any(|purpose| self.is_short_for(purpose))
    }

    fn check(&self, purpose: Purpose, wanted_bytes: u64) -> Result<(), Lacking> {
        let free_bytes = self.free_bytes.get();
        if free_bytes >= wanted_bytes {
            self.wants_no_more(purpose);
            return Ok(());
        }
        self.wanted_bytes[purpose as usize].set(wanted_bytes);
        self.wanted.wake();
        Err(Lacking { free_bytes, wanted_bytes })
    }

    /// Once full, a disk has to be a little emptier than that before it is not.
    fn resumes_at_bytes(&self) -> u64 {
        self.reserve_bytes + self.reserve_bytes / 16
    }

    /// Takes note of what is free, and with it of whether appends are refused.
    fn note(&self, free_bytes: u64) {
        self.free_bytes.set(free_bytes);
        let limit_bytes = if self.is_full.get() { self.resumes_at_bytes() } else { self.reserve_bytes };
        let is_full = free_bytes < limit_bytes;
        if !self.is_full.replace(is_full) && is_full {
            self.wanted.wake();
        }
    }

    /// Whether appends are refused, if that is news.
    fn news(&self) -> Option<bool> {
        let is_full = self.is_full.get();
        (self.said_full.replace(is_full) != is_full).then_some(is_full)
    }
}

/// Looks how much is free while the log is at work or waits for space, until it is closed.
pub(crate) async fn watch<R: Runtime>(shared: Rc<Shared<R>>) {
    let (wal, space) = (&shared.wal, &shared.space);
    let ends = || wal.is_closing() || wal.failure().is_some();
    let mut lsn_seen = None;
    loop {
        let looks = || ends() || space.full().is_some() || space.is_short() || lsn_seen != Some(wal.lsn_last());
        // A put-off flush of a log at rest queues nothing, and a record that is refused neither.
        first(wal.queued.until(|| looks().then_some(())), space.wanted.until(|| looks().then_some(()))).await;
        if ends() {
            space.looked.wake();
            return;
        }
        lsn_seen = Some(wal.lsn_last());
        look(&shared).await;
        first(wal.ended(), shared.rt.sleep(LOOK_EVERY)).await;
    }
}

/// Waits for whichever of the two comes first.
pub(crate) async fn first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let mut one = pin!(one);
    let mut other = pin!(other);
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Pending => other.as_mut().poll(context),
        ready => ready,
    })
    .await
}

/// Looks how much is free, and lets those who wait for space look again.
pub(crate) async fn look<R: Runtime>(shared: &Shared<R>) {
    let space = &shared.space;
    let free_bytes = match shared.rt.space(&shared.dir).await {
        Ok(found) => found.free_bytes,
        Err(error) => return tracing::warn!("cannot tell how much space {} has: {error}", shared.dir.display()),
    };
    let was_short = space.is_short();
    let dir = shared.dir.display();
    space.note(free_bytes);
    match space.news() {
        Some(true) => {
            tracing::error!(
                "the disk of {dir} is full up to its reserve: {free_bytes} bytes are free, {} are kept; records are \
                 refused until {} are",
                space.reserve_bytes(),
                space.resumes_at_bytes(),
            );
            // Who waits for memory would wait for a flush that may not come.
            shared.wal.room.wake();
        }
        Some(false) => tracing::info!("the disk of {dir} has room again: {free_bytes} bytes are free"),
        None => {}
    }
    if was_short {
        shared.wal.flushable.wake();
        shared.mergeable.wake();
        shared.wal.files.look_again();
        space.looked.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_BYTES: usize = 1 << 20;

    fn space(logs: u32, reserve_bytes: u64) -> DiskSpace {
        let options = LogOptions { disk_logs: logs, disk_reserve_bytes: reserve_bytes, ..LogOptions::default() };
        DiskSpace::new(&options, BLOCK_BYTES)
    }

    #[test]
    fn the_reserve_holds_every_memtable_of_every_log_and_what_is_set() {
        let own = (512 << 20) / 4 * 5 + 2 * (64 << 20) + (8 << 20);
        assert_eq!(space(1, 0).reserve_bytes(), own);
        assert_eq!(space(3, 1000).reserve_bytes(), 3 * own + 1000);
    }

    #[test]
    fn it_is_full_below_the_reserve_and_has_room_a_little_above() {
        let space = space(1, 0);
        let reserve = space.reserve_bytes();
        assert_eq!((space.full(), space.free_bytes()), (None, None));
        let noted = |free_bytes| {
            space.note(free_bytes);
            (space.full().map(|lacking| lacking.free_bytes), space.news())
        };
        assert_eq!(noted(reserve), (None, None));
        assert_eq!(noted(reserve - 1), (Some(reserve - 1), Some(true)));
        assert_eq!(noted(reserve), (Some(reserve), None));
        assert_eq!(noted(reserve + reserve / 16), (None, Some(false)));
    }

    #[test]
    fn a_flush_uses_the_reserve_and_a_merge_only_where_it_gains() {
        let space = space(2, 0);
        space.note(space.reserve_bytes() - 1);
        assert!(space.check_flush(64 << 20).is_ok());
        assert!(!space.is_short());
        assert!(space.check_merge(64 << 20, 64 << 20, 0).is_err());
        assert!(space.is_short_for(Purpose::Merge) && !space.is_short_for(Purpose::Flush));
        assert!(space.check_merge(32 << 20, 64 << 20, 0).is_ok());
        space.note(space.reserve_bytes() + (64 << 20));
        assert!(space.check_merge(64 << 20, 64 << 20, 0).is_err(), "the other log may merge as well");
        space.note(space.reserve_bytes() + (128 << 20));
        assert!(space.check_merge(64 << 20, 64 << 20, 0).is_ok());
        assert!(!space.is_short());
    }

    #[test]
    fn on_a_full_disk_a_merge_that_gains_leaves_what_memtables_still_need() {
        let space = space(1, 0);
        let due = 2 * (64 << 20) + (8 << 20) + (96 << 20) / 4 * 5;
        space.note(due + (16 << 20));
        assert!(space.full().is_some());
        assert!(space.check_merge(16 << 20, 64 << 20, 96 << 20).is_ok());
        assert!(space.check_merge(16 << 20, 64 << 20, 97 << 20).is_err());
        assert!(space.check_merge(17 << 20, 64 << 20, 96 << 20).is_err());
        assert!(space.check_merge(16 << 20, 16 << 20, 96 << 20).is_err(), "it gains nothing");
    }

    #[test]
    fn what_was_refused_waits_until_there_is_enough() {
        let space = space(1, 0);
        space.note(1 << 30);
        let lacking = space.was_refused(Purpose::Flush, 4 << 20);
        assert_eq!(lacking, Lacking { free_bytes: 4 << 20, wanted_bytes: 13 << 20 });
        assert!(space.is_short_for(Purpose::Flush));
        assert!(space.full().is_some(), "who appends does not wait to be told");
        space.note((13 << 20) - 1);
        assert!(space.check_flush(4 << 20).is_err());
        space.note(13 << 20);
        assert!(space.check_flush(4 << 20).is_ok());
        assert!(!space.is_short());
    }
}
