//! Writes sync groups, one at a time, and tells everyone how far the log is on stable storage.

use std::{rc::Rc, time::Duration};

use runtime::{
    File, Runtime,
    sabotage::{die_at, planted},
};

use super::{
    Wal,
    queue::{Pending, Touched},
};
use crate::{
    error::LogFailed,
    group::{Entry, EntryKind, Stamp, Tail},
    synced::Lsn,
};

/// The last group before a pause gets its witness this long after it.
const MARKER_DELAY: Duration = Duration::from_millis(5);

impl<R: Runtime> Wal<R> {
    /// Writes groups until the log is closed and the queue empty, or a write fails.
    pub(crate) async fn run_writer(self: Rc<Self>, mut lsn_previous: Lsn) -> Result<(), LogFailed> {
        loop {
            let next = self
                .queued
                .until(|| {
                    let taken = self.queue.borrow_mut().take(lsn_previous);
                    match taken {
                        Some(taken) => Some(Some(taken)),
                        None => (self.closing.get() || self.failed.borrow().is_some()).then_some(None),
                    }
                })
                .await;
            let Some((pending, tails, previous)) = next else { return Ok(()) };
            lsn_previous = pending.lsn;
            self.write_group(pending, &tails, previous).await?;
        }
    }

    /// Writes a marker whenever the log falls silent behind group `marked`, so that the last group has a witness too:
    /// damage to a group below a valid one is told from a torn tail.
    pub(crate) async fn run_marker(self: Rc<Self>, mut marked: Lsn) {
        let ends = || self.closing.get() || self.failed.borrow().is_some();
        loop {
            let last = self.queued.until(|| {
                let last = self.lsn_last();
                (last > marked || ends()).then_some(last)
            });
            let last = last.await;
            if ends() {
                return;
            }
            self.rt.sleep(MARKER_DELAY).await;
            if ends() {
                return;
            }
            let silent = self.lsn_last() == last && self.queue.borrow().is_empty();
            if silent && !planted("no witness") {
                marked = self.push_marker();
            }
        }
    }

    fn push_marker(&self) -> Lsn {
        let marker = Entry {
            kind: EntryKind::Marker,
            partition: crate::PartitionId(0),
            leader_epoch: 0,
            base_offset: 0,
            next_offset: 0,
        };
        let nobody = Rc::new(crate::partition::State::new(marker.partition));
        self.push(&nobody, marker, &[], |_| ())
    }

    async fn write_group(&self, pending: Pending<R>, tails: &[Tail], lsn_previous: Lsn) -> Result<(), LogFailed> {
        let bytes = pending.group.padded_bytes(tails.len()) as u64;
        self.roll_unless_fits(bytes).await?;
        let file = self.memtables.borrow().active_file();
        let position = file.position.get();
        file.position.set(position + bytes);

        let Pending { group, lsn, touched, shows_early, reserved, .. } = pending;
        let stamp = Stamp { log_id: self.log_id, salt: file.salt, lsn, previous_lsn: lsn_previous };
        let group = group.seal(stamp, tails);
        let entries_end = group.entries_end as usize;
        let number = self.memtables.borrow_mut().active_mut().put_group(lsn, &group);
        if shows_early {
            touched.iter().for_each(|Touched { state, next_offset }| state.submitted_to(*next_offset));
        }

        file.clear_of_zeros(position..position + bytes).await;
        if planted("ack before sync") {
            self.synced.set(lsn);
            self.wake_acks();
        }
        let spare = planted("retry after a write error").then(|| group.bytes.clone());
        let started = self.rt.now();
        self.writes.note(started);
        let mut written = file.file.write_durable(group.bytes, position).await;
        if let (Err(_), Some(bytes)) = (&written, spare) {
            written = file.file.write_durable(bytes, position).await;
        }
        let took = self.rt.now().since(started);
        self.sync_time.set((self.sync_time.get() * 7 + took) / 8);
        die_at("group written");
        written.map_err(|error| LogFailed::new("writing a sync group to", &file.path, error))?;
        if let Some(failed) = self.failure() {
            // Zeros for the same file, or whatever else the log cannot do without: from then on nothing is acknowledged.
            return Err(failed);
        }

        self.memtables.borrow_mut().active_mut().pack(number, entries_end, || self.rt.block(0));
        self.synced.set(lsn);
        reserved.iter().for_each(|Touched { state, next_offset }| state.reserved_to(*next_offset));
        touched.iter().for_each(|Touched { state, next_offset }| state.synced_to(*next_offset));
        self.counters.groups.set(self.counters.groups.get() + 1);
        self.counters.group_bytes.set(self.counters.group_bytes.get() + bytes);
        self.wake_acks();
        self.room.wake();
        self.flushable.wake();
        Ok(())
    }

    /// Has the writer seal the active memtable, and go on in the next file, before it writes another group; there will be one.
    pub(crate) fn seal(&self) {
        self.sealing.set(true);
        self.push_marker();
    }

    /// Seals the active memtable and goes on in the next file when the group does not fit this one, the memtable has its
    /// share of memory, or somebody wants it.
    async fn roll_unless_fits(&self, bytes: u64) -> Result<(), LogFailed> {
        let goes_on = {
            let memtables = self.memtables.borrow();
            let seals = self.sealing.replace(false) && !memtables.active_is_empty();
            memtables.takes(bytes) && !seals
        };
        if goes_on {
            return Ok(());
        }
        self.roll().await
    }

    /// Seals the active memtable and goes on in the next file. Only the writer does, and a clean stop after it.
    pub(crate) async fn roll(&self) -> Result<(), LogFailed> {
        self.memtables.borrow_mut().set_short_of_files(true);
        self.flushable.wake();
        let Some(file) = self.files.take_ready().await else {
            return Err(self.failure().expect("files are closed before the writer ends only by a failure"));
        };
        let mut memtables = self.memtables.borrow_mut();
        memtables.set_short_of_files(false);
        memtables.roll(file, self.rt.now());
        drop(memtables);
        die_at("memtable sealed");
        self.flushable.wake();
        Ok(())
    }
}
