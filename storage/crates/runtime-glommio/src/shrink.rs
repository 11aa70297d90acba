//! Gives the space of large files that were removed back to the disk little by little.
//!
//! The one hard idea: on a file system mounted with `discard` the disk is told what was freed, and nobody else's write gets
//! through while it works on that. The segments of one merge, a gigabyte freed at once, held every sync group up for 0.3 s. So
//! a large file loses its name at once, as whoever removes it expects, and then its end, a few megabytes at a time.
//!
//! A file that somebody still reads stays whole until that is over: nobody may see it shrink. One that has another name stays
//! whole for good, since it goes on under that.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    rc::{Rc, Weak},
    thread,
    time::Duration,
};

use crate::{runtime::Shard, task};

/// Smaller files go at once.
const LARGE_BYTES: u64 = 8 << 20;
/// So much goes at a time, at least.
const STEP_BYTES_MIN: u64 = 4 << 20;
/// A step takes at least this part of all that waits: the more there is the faster it goes, so that space which nobody can use
/// does not pile up.
const STEP_PART: u64 = 256;
/// Between two steps.
const PAUSE: Duration = Duration::from_millis(4);

/// Which file: its device and its number there.
pub(crate) type FileId = (u64, u64);

/// The files of a shard that were removed and still take space.
#[derive(Default)]
pub(crate) struct Shrinking {
    /// How often each file is open.
    open: RefCell<BTreeMap<FileId, usize>>,
    waiting: RefCell<VecDeque<Removed>>,
    is_running: Cell<bool>,
    closed: Cell<bool>,
}

/// A file without a name.
pub(crate) struct Removed {
    file: fs::File,
    id: FileId,
    bytes: u64,
}

/// Keeps a file from shrinking as long as it lives.
pub(crate) struct InUse {
    shard: Rc<Shard>,
    id: FileId,
}

impl InUse {
    pub(crate) fn new(shard: &Rc<Shard>, id: FileId) -> Self {
        *shard.shrinking.open.borrow_mut().entry(id).or_default() += 1;
        Self { shard: Rc::clone(shard), id }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut open = self.shard.shrinking.open.borrow_mut();
        if let Entry::Occupied(mut entry) = open.entry(self.id) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Takes the name of a file; answers the file itself if it is a large one.
pub(crate) fn remove(path: &Path) -> io::Result<Option<Removed>> {
    let metadata = fs::symlink_metadata(path)?;
    let is_large = metadata.is_file() && metadata.len() >= LARGE_BYTES;
    // Who may remove it may not be who may write it: then it goes at once.
    let file =
        is_large.then(|| OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()).flatten();
    fs::remove_file(path)?;
    Ok(file.map(|file| Removed { file, id: (metadata.dev(), metadata.ino()), bytes: metadata.len() }))
}

impl Removed {
    fn shrink(&mut self, bytes: u64) -> io::Result<()> {
        if self.file.metadata()?.nlink() > 0 {
            return Err(io::Error::other("the file has another name"));
        }
        self.file.set_len(bytes)?;
        self.bytes = bytes;
        // Else it would be freed together with what comes after it.
        self.file.sync_data()
    }
}

impl Shrinking {
    /// Shrinks a file behind those that wait.
    pub(crate) fn take(shard: &Rc<Shard>, removed: Removed) {
        let own = &shard.shrinking;
        own.waiting.borrow_mut().push_back(removed);
        if !own.is_running.replace(true) {
            task::foreground(run(Rc::downgrade(shard)));
        }
    }

    /// Lets go of all that waits; the system frees it, at once and on a thread of its own: of a deleted topic it may be so much
    /// that whoever does that is busy for many seconds, and the shard still has to answer its watchdog.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.free_waiting();
    }

    fn free_waiting(&self) {
        let waiting = self.waiting.take();
        if !waiting.is_empty() {
            // Without a thread it is done here, when the closure is dropped.
            let _ = thread::Builder::new().name("freeing".to_owned()).spawn(move || drop(waiting));
        }
    }

    /// The file whose turn it is, with its length after the next step: the first that nobody has open.
    fn next(&self) -> Option<(Removed, u64)> {
        let open = self.open.borrow();
        let mut waiting = self.waiting.borrow_mut();
        let all: u64 = waiting.iter().map(|removed| removed.bytes).sum();
        let place = waiting.iter().position(|removed| !open.contains_key(&removed.id))?;
        let removed = waiting.remove(place)?;
        let left = removed.bytes.saturating_sub(STEP_BYTES_MIN.max(all / STEP_PART));
        Some((removed, left))
    }
}

/// Takes steps until nothing waits, or the shard has ended.
async fn run(shard: Weak<Shard>) {
    while let Some(own) = shard.upgrade() {
        if own.shrinking.waiting.borrow().is_empty() {
            own.shrinking.is_running.set(false);
            return;
        }
        if let Some((mut removed, left)) = own.shrinking.next() {
            let shrunk = own.blocking(move || removed.shrink(left).map(|()| removed));
            // What cannot be shrunk goes at once, with the last that has it open.
            if let Ok(removed) = shrunk.await
                && left > 0
            {
                own.shrinking.waiting.borrow_mut().push_front(removed);
            }
            if own.shrinking.closed.get() {
                own.shrinking.free_waiting();
                return;
            }
        }
        drop(own);
        glommio::timer::sleep(PAUSE).await;
    }
}
