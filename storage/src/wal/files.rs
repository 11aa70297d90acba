//! The WAL's files: a few of one size, written out once with zeros, used over and over under new names.
//!
//! A name is `<sequence>-<salt>.wal`, both in 16 hex digits. Each use of a file has its own salt, and the name is durable
//! before the first group is written, so recovery always knows which groups in a file are of its present use. One file is
//! kept ready, renamed and synced, ahead of need: a roll costs nothing.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use runtime::{File, Notify, OpenMode, Runtime, sabotage::planted};

use crate::{
    disk_space::{DiskSpace, Purpose},
    error::LogFailed,
};

/// Bytes of a new log's first file that are written out before it serves; the rest follows while it does.
const PREWRITTEN_AT_START_BYTES: u64 = 1 << 20;
/// Zeros go out in steps of this many bytes, so that no group waits long behind one.
const PREWRITE_STEP_BYTES: u64 = 256 << 10;
/// Zeros stay this far ahead of the groups. Where groups come too close, they go into unwritten space instead.
const PREWRITE_DISTANCE_BYTES: u64 = 2 << 20;
/// With so many files a log can go on, whatever the disk has: one is flushed while the other is written.
const FILES_MIN: usize = 2;
/// Between two steps, so that pre-writing takes a small part of the disk.
const PREWRITE_PAUSE: Duration = Duration::from_millis(1);

/// One WAL file in its present use.
pub(crate) struct WalFile<R: Runtime> {
    pub(crate) file: R::File,
    pub(crate) path: PathBuf,
    pub(crate) salt: u64,
    /// Its length in bytes, all of it allocated.
    pub(crate) bytes: u64,
    /// Groups go here next.
    pub(crate) position: Cell<u64>,
    /// From here on the space is allocated but was never written.
    written_to: Cell<u64>,
    /// Zeros under way to the disk: a group must not meet them there.
    zeroing: RefCell<Option<Range<u64>>>,
    zeroed: Notify,
}

impl<R: Runtime> WalFile<R> {
    pub(crate) fn new(file: R::File, path: PathBuf, salt: u64, bytes: u64, written_to: u64) -> Self {
        Self {
            file,
            path,
            salt,
            bytes,
            position: Cell::new(0),
            written_to: Cell::new(written_to),
            zeroing: RefCell::new(None),
            zeroed: Notify::default(),
        }
    }

    /// Waits until no zeros are on their way into `range`. Practically never: they keep their distance.
    pub(crate) async fn clear_of_zeros(&self, range: Range<u64>) {
        self.zeroed
            .until(|| {
                let zeroing = self.zeroing.borrow();
                let meets = zeroing.as_ref().is_some_and(|zeros| zeros.start < range.end && range.start < zeros.end);
                (!meets).then_some(())
            })
            .await;
    }

    /// The next stretch to write out, or `None` when all of it was written or groups are too close behind.
    fn next_zeros(&self) -> Option<Range<u64>> {
        let start = self.written_to.get().max(match self.position.get() {
            0 => 0,
            position => position.next_multiple_of(PREWRITE_STEP_BYTES) + PREWRITE_DISTANCE_BYTES,
        });
        (start < self.bytes).then(|| start..(start + PREWRITE_STEP_BYTES).min(self.bytes))
    }

    async fn write_zeros(&self, rt: &R, range: Range<u64>) -> Result<(), LogFailed> {
        *self.zeroing.borrow_mut() = Some(range.clone());
        let len = (range.end - range.start) as usize;
        let mut block = rt.block(len);
        block[..len].fill(0);
        let written = self.file.write_durable(runtime::Block::freeze(block, len), range.start).await;
        *self.zeroing.borrow_mut() = None;
        self.zeroed.wake();
        self.written_to.set(range.end);
        written.map_err(|error| LogFailed::new("writing zeros to", &self.path, error))
    }
}

/// All WAL files of a log but those that memtables hold.
pub(crate) struct Files<R: Runtime> {
    rt: R,
    dir: PathBuf,
    file_bytes: u64,
    files_max: usize,
    space: Rc<DiskSpace>,
    state: RefCell<State<R>>,
    changed: Notify,
}

struct State<R: Runtime> {
    free: Vec<Rc<WalFile<R>>>,
    ready: Option<Rc<WalFile<R>>>,
    /// The file in use and the one ready, still to be written out.
    unwritten: Vec<Rc<WalFile<R>>>,
    sequence: u64,
    count: usize,
    /// The file system had no room for another one.
    refused: bool,
    /// The writer waits for one.
    taking: bool,
    /// The log is closing: nobody waits for room any more.
    stopping: bool,
    closing: bool,
}

impl<R: Runtime> Files<R> {
    /// Takes over what recovery found: files that hold nothing needed (`free`), and `held` more that memtables hold.
    pub(crate) fn new(
        rt: R,
        dir: PathBuf,
        file_bytes: u64,
        files_max: usize,
        space: Rc<DiskSpace>,
        found: Found<R>,
    ) -> Self {
        let count = found.free.len() + found.held;
        let state = State {
            free: found.free.into_iter().map(Rc::new).collect(),
            ready: None,
            unwritten: Vec::new(),
            sequence: found.sequence_next,
            count,
            refused: false,
            taking: false,
            stopping: false,
            closing: false,
        };
        Self { rt, dir, file_bytes, files_max, space, state: RefCell::new(state), changed: Notify::default() }
    }

    /// The first file of this run, made on the spot.
    pub(crate) async fn first(&self) -> Result<Rc<WalFile<R>>, LogFailed> {
        let free = self.state.borrow_mut().free.pop();
        match free {
            Some(file) => self.renew(file).await,
            None => {
                // Even when as many as may be are held by memtables: a surplus one is removed when it comes back.
                self.state.borrow_mut().count += 1;
                let file = self.create().await?;
                let range = 0..PREWRITTEN_AT_START_BYTES.min(file.bytes);
                file.write_zeros(&self.rt, range).await?;
                Ok(file)
            }
        }
    }

    /// The next file, ready to be written. Waits when all are in use until a flush gives one back; `None` once closed.
    pub(crate) async fn take_ready(&self) -> Option<Rc<WalFile<R>>> {
        self.state.borrow_mut().taking = true;
        self.changed.wake();
        let taken = self.changed.until(|| match &mut *self.state.borrow_mut() {
            State { closing: true, .. } => Some(None),
            state => state.ready.take().map(Some),
        });
        let taken = taken.await;
        self.state.borrow_mut().taking = false;
        let file = taken?;
        self.changed.wake();
        Some(file)
    }

    /// Takes back a file whose groups nobody needs any more.
    pub(crate) async fn release(&self, file: Rc<WalFile<R>>) -> Result<(), LogFailed> {
        let surplus = {
            let mut state = self.state.borrow_mut();
            let surplus = state.count > self.files_max || file.bytes != self.file_bytes;
            if surplus {
                state.count -= 1;
            } else {
                state.free.push(file.clone());
            }
            surplus
        };
        if surplus {
            let removed = self.rt.remove_file(&file.path).await;
            removed.map_err(|error| LogFailed::new("removing", &file.path, error))?;
        }
        self.changed.wake();
        Ok(())
    }

    /// Lets whoever waits for a file, or for room to make one, look again.
    pub(crate) fn look_again(&self) {
        self.state.borrow_mut().refused = false;
        self.changed.wake();
    }

    /// From now on the log fails where the writer would wait for room for another file.
    pub(crate) fn stop_waiting(&self) {
        self.state.borrow_mut().stopping = true;
        self.changed.wake();
    }

    /// Lets the background tasks end.
    pub(crate) fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.changed.wake();
    }

    /// Keeps one file ready until closed.
    pub(crate) async fn run_preparer(self: Rc<Self>) -> Result<(), LogFailed> {
        loop {
            let may_create =
                |count| count < FILES_MIN || count < self.files_max && self.space.check_file(self.file_bytes).is_ok();
            let next = self.changed.until(|| self.state.borrow_mut().next_preparation(may_create)).await;
            let file = match next {
                Preparation::Renew(file) => self.renew(file).await?,
                Preparation::Create => {
                    self.state.borrow_mut().count += 1;
                    match self.create().await {
                        Err(failed) if failed.is_disk_full() && !self.state.borrow().has_to_end() => {
                            self.put_off_creation();
                            continue;
                        }
                        created => created?,
                    }
                }
                Preparation::End => return Ok(()),
            };
            self.state.borrow_mut().ready = Some(file);
            self.changed.wake();
        }
    }

    /// Writes out files that are in use or ready until closed.
    pub(crate) async fn run_prewriter(self: Rc<Self>) -> Result<(), LogFailed> {
        loop {
            let next = self
                .changed
                .until(|| match &mut *self.state.borrow_mut() {
                    State { closing: true, .. } => Some(None),
                    state => state.unwritten.first().cloned().map(Some),
                })
                .await;
            let Some(file) = next else { return Ok(()) };
            match file.next_zeros() {
                Some(range) => file.write_zeros(&self.rt, range).await?,
                None => self.state.borrow_mut().unwritten.retain(|other| !Rc::ptr_eq(other, &file)),
            }
            self.rt.sleep(PREWRITE_PAUSE).await;
        }
    }

    /// Gives a file a new salt, and with it an empty content.
    async fn renew(&self, old: Rc<WalFile<R>>) -> Result<Rc<WalFile<R>>, LogFailed> {
        self.state.borrow_mut().unwritten.retain(|other| !Rc::ptr_eq(other, &old));
        old.clear_of_zeros(0..old.bytes).await;
        let (path, salt) = self.next_name();
        let renamed = self.rt.rename(&old.path, &path).await;
        renamed.map_err(|error| LogFailed::new("renaming", &old.path, error))?;
        self.sync_dir().await?;
        let new = Rc::new(WalFile::new(old.file.clone(), path, salt, old.bytes, old.written_to.get()));
        if new.written_to.get() < new.bytes {
            self.state.borrow_mut().unwritten.push(new.clone());
        }
        Ok(new)
    }

    /// Nothing was written to a file for which there was no room, so another may be made later.
    fn put_off_creation(&self) {
        self.space.was_refused(Purpose::File, self.file_bytes);
        let mut state = self.state.borrow_mut();
        state.count -= 1;
        state.refused = true;
    }

    async fn create(&self) -> Result<Rc<WalFile<R>>, LogFailed> {
        let (path, salt) = self.next_name();
        let failed = |error| LogFailed::new("creating", &path, error);
        let file = self.rt.open(&path, OpenMode::CreateDurable).await.map_err(failed)?;
        let allocated = match file.allocate(self.file_bytes).await {
            Ok(()) => file.sync().await,
            refused => refused,
        };
        if let Err(error) = allocated {
            let failed = failed(error);
            if failed.is_disk_full() {
                let removed = self.rt.remove_file(&path).await;
                removed.map_err(|error| LogFailed::new("removing", &path, error))?;
            }
            return Err(failed);
        }
        self.sync_dir().await?;
        let file = Rc::new(WalFile::new(file, path, salt, self.file_bytes, 0));
        self.state.borrow_mut().unwritten.push(file.clone());
        Ok(file)
    }

    fn next_name(&self) -> (PathBuf, u64) {
        let mut state = self.state.borrow_mut();
        let salt = if planted("no salt") { 0 } else { self.rt.random_u64() };
        let sequence = state.sequence;
        state.sequence += 1;
        (self.dir.join(file_name(sequence, salt)), salt)
    }

    async fn sync_dir(&self) -> Result<(), LogFailed> {
        if planted("no directory sync") {
            return Ok(());
        }
        self.rt.sync_dir(&self.dir).await.map_err(|error| LogFailed::new("syncing", &self.dir, error))
    }
}

/// What recovery leaves to [`Files`].
pub(crate) struct Found<R: Runtime> {
    pub(crate) free: Vec<WalFile<R>>,
    pub(crate) held: usize,
    pub(crate) sequence_next: u64,
}

enum Preparation<R: Runtime> {
    Renew(Rc<WalFile<R>>),
    Create,
    End,
}

impl<R: Runtime> State<R> {
    /// Whether a file that cannot be made ends the log.
    fn has_to_end(&self) -> bool {
        self.stopping && self.taking
    }

    fn next_preparation(&mut self, may_create: impl Fn(usize) -> bool) -> Option<Preparation<R>> {
        if self.closing {
            return Some(Preparation::End);
        }
        if self.ready.is_some() {
            return None;
        }
        if let Some(file) = self.free.pop() {
            return Some(Preparation::Renew(file));
        }
        ((!self.refused || self.has_to_end()) && may_create(self.count)).then_some(Preparation::Create)
    }
}

/// The name of a WAL file.
pub(crate) fn file_name(sequence: u64, salt: u64) -> String {
    format!("{sequence:016x}-{salt:016x}.wal")
}

/// Sequence and salt from the name of a WAL file; `None` for any other name.
pub(crate) fn parse_file_name(name: &str) -> Option<(u64, u64)> {
    let (sequence, salt) = name.strip_suffix(".wal")?.split_once('-')?;
    let number = |digits: &str| (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    Some((number(sequence)?, number(salt)?))
}

/// The WAL's directory within the log's.
pub(crate) fn directory(log_dir: &Path) -> PathBuf {
    log_dir.join("wal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        assert_eq!(parse_file_name(&file_name(7, u64::MAX)), Some((7, u64::MAX)));
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in
            ["LOCK", "7-8.wal", "0000000000000007-0000000000000008.tmp", "000000000000000g-0000000000000008.wal"]
        {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }
}
