//! An append-only log of opaque edits, each durable before its append returns: what lies under the manifest and under
//! the metadata log.
//!
//! ```text
//!   manifest-<sequence>-<salt>.log
//!   ┌──────────┬────────┬─────────┬────────┬──────────────┬────────┬──────────┐
//!   │ snapshot │ marker │ edits   │ marker │ edits        │ marker │ zeros …  │   each box one sync group
//!   └──────────┴────────┴─────────┴────────┴──────────────┴────────┴──────────┘
//! ```
//!
//! The one hard idea: a file is written by one process only, and nothing in it is written twice. Opening only reads;
//! before its first append a process begins a file of its own with a snapshot, and it begins another whenever the
//! file has grown long. So a torn tail is replaced, never overwritten, and a write that a killed process left behind
//! in the kernel hits a file that is no longer looked at. The marker behind each group witnesses that the group was
//! synced: damage below a valid group is corruption, damage above the last one is a torn tail.

mod name;
mod recover;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use runtime::{File, OpenMode, Runtime};

use crate::{
    PartitionId,
    group::{self, DIRECTORY_ENTRY_BYTES, Entry, EntryKind, GROUP_ALIGNMENT, HEADER_BYTES, Stamp},
};
use name::FileName;

/// Files grow in steps of this many bytes.
const ALLOCATION_STEP_BYTES: u64 = 256 << 10;

/// A file is replaced when it has grown to four times what its snapshot takes, but not below this many bytes.
const REPLACE_BYTES_MIN: u64 = 1 << 20;

/// Edits and snapshots larger than this many bytes are bugs of the caller.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// A journal in one directory, which it may share with other files: its own are told by their prefix.
///
/// Its methods take it exclusively, so edits have one order. An append that is dropped half way is as if the process
/// had been killed: its edits may be there or not, and [`Self::replace`] is due.
pub struct Journal<R: Runtime> {
    runtime: R,
    dir: PathBuf,
    prefix: &'static str,
    log_id: u128,
    sequence: u64,
    lsn: u64,
    edit_next: u64,
    target: Option<Target<R::File>>,
    failure: Option<WriteError>,
}

/// What a journal held when it was opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The owner's state when the file was begun.
    pub snapshot: Vec<u8>,
    /// The edits since, in order.
    pub edits: Vec<Vec<u8>>,
}

/// The file that edits go to.
struct Target<F> {
    file: F,
    path: PathBuf,
    salt: u64,
    /// Where the next group goes.
    position: u64,
    allocated: u64,
    replace_at: u64,
}

/// Why a journal could not be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk or the file system refused: try again once it does not.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was once synced is damaged: restore it from a backup.
    #[error("{path} is damaged at byte {position}: {problem}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the damage starts, in bytes.
        position: u64,
        /// What is wrong there.
        problem: String,
    },
    /// Written by a later version: start that one.
    #[error("{path} was written by a later version of this program, at byte {position}: {problem}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Where the unknown starts, in bytes.
        position: u64,
        /// What is unknown.
        problem: String,
    },
}

/// Why an edit was not appended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk is full. Nothing changed; try again once there is room.
    #[error("no space left for {path}")]
    NoSpace {
        /// The file that was to grow.
        path: PathBuf,
    },
    /// A write failed, so nobody knows what the file holds. The journal takes nothing more, and the process must end:
    /// the next one recovers what was acknowledged.
    #[error("writing {path} failed, this process must end: {source}")]
    Failed {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl<R: Runtime> Journal<R> {
    /// Reads the journal whose files in `dir` start with `prefix`; `None` when there is none, which is no permission
    /// to take everything else for garbage. What was found is synced, so it may be acted upon. Writes nothing.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(runtime: R, dir: PathBuf, prefix: &'static str) -> Result<(Self, Option<Recovered>), OpenError> {
        let found = recover::recover(&runtime, &dir, prefix).await?;
        let fresh_id = u128::from(runtime.random_u64()) << 64 | u128::from(runtime.random_u64());
        let journal = Self {
            runtime,
            dir,
            prefix,
            log_id: found.content.as_ref().map_or(fresh_id, |content| content.log_id),
            sequence: found.sequence_max,
            lsn: found.content.as_ref().map_or(0, |content| content.lsn),
            edit_next: found.content.as_ref().map_or(1, |content| content.edit_next),
            target: None,
            failure: None,
        };
        Ok((journal, found.content.map(|content| content.recovered)))
    }

    /// Random bits drawn when the journal was created, which all its groups carry.
    pub fn log_id(&self) -> u128 {
        self.log_id
    }

    /// Number of the last edit, counted from 1 over the journal's whole life; 0 before the first.
    pub fn edits(&self) -> u64 {
        self.edit_next - 1
    }

    /// Whether [`Self::replace`] has to come before the next append: always after opening, and when the file has
    /// grown long.
    pub fn is_replace_due(&self) -> bool {
        self.target.as_ref().is_none_or(|target| target.position >= target.replace_at)
    }

    /// Begins a new file with a snapshot of everything appended so far, and removes the older ones. What was
    /// recovered stays valid until the new file is durable.
    ///
    /// # Errors
    /// [`WriteError`].
    ///
    /// # Panics
    /// If the snapshot is larger than [`PAYLOAD_BYTES_MAX`].
    pub async fn replace(&mut self, snapshot: &[u8]) -> Result<(), WriteError> {
        self.check_usable()?;
        let name = FileName { sequence: self.sequence + 1, salt: self.runtime.random_u64(), complete: false };
        let path = self.dir.join(name.with_prefix(self.prefix));
        let target = match self.create(name, &path, snapshot.len()).await {
            Ok(target) => target,
            Err(error) => return Err(self.no_room(path, error)),
        };
        let result = self.publish(target, name, snapshot).await;
        result.map_err(|error| self.fail(path, error))
    }

    /// Makes room for a group of `edits` edits of `payload_bytes` in all, so that appending it will not find the
    /// disk full: for owners that must know before they change their state.
    ///
    /// # Errors
    /// [`WriteError`].
    ///
    /// # Panics
    /// If [`Self::replace`] is due since opening.
    pub async fn reserve(&mut self, payload_bytes: usize, edits: usize) -> Result<(), WriteError> {
        self.check_usable()?;
        let target = self.target.as_mut().expect("a journal is replaced before it is appended to");
        if let Err(error) = target.grow(group_bytes(payload_bytes, edits)).await {
            let path = target.path.clone();
            return Err(self.no_room(path, error));
        }
        Ok(())
    }

    /// Appends edits as one group, all or none. Once it returns they survive a power cut, and later damage to them
    /// cannot be mistaken for a torn tail.
    ///
    /// # Errors
    /// [`WriteError`].
    ///
    /// # Panics
    /// If [`Self::replace`] is due since opening, if there is no edit, or if they are larger than
    /// [`PAYLOAD_BYTES_MAX`].
    pub async fn append(&mut self, edits: &[impl AsRef<[u8]>]) -> Result<(), WriteError> {
        assert!(!edits.is_empty(), "a group holds at least one edit");
        self.reserve(edits.iter().map(|edit| edit.as_ref().len()).sum(), edits.len()).await?;
        let entries: Vec<_> =
            edits.iter().zip(self.edit_next..).map(|(edit, number)| (edit_entry(number), edit.as_ref())).collect();
        // Out of its place while the write is under way: should this future be dropped, a new file has to be begun.
        let mut target = self.target.take().expect("reserve asked for it");
        if let Err(error) = self.write_witnessed(&mut target, &entries).await {
            return Err(self.fail(target.path, error));
        }
        self.target = Some(target);
        self.edit_next += edits.len() as u64;
        Ok(())
    }

    /// Creates a file with room for its snapshot. Nothing is written yet: should it fail, the file may stay behind,
    /// for the next replacement to remove.
    async fn create(&self, name: FileName, path: &Path, snapshot_bytes: usize) -> io::Result<Target<R::File>> {
        self.runtime.create_dir_all(&self.dir).await?;
        let file = self.runtime.open(path, OpenMode::CreateDurable).await?;
        let mut target =
            Target { file, path: path.to_path_buf(), salt: name.salt, position: 0, allocated: 0, replace_at: 0 };
        target.grow(group_bytes(snapshot_bytes, 1)).await?;
        Ok(target)
    }

    /// Makes a created file the journal's: content first, then its name, then the end of the older ones.
    async fn publish(&mut self, mut target: Target<R::File>, name: FileName, snapshot: &[u8]) -> io::Result<()> {
        self.write_witnessed(&mut target, &[(snapshot_entry(self.edit_next), snapshot)]).await?;
        target.file.sync().await?;
        let complete = FileName { complete: true, ..name };
        let path = self.dir.join(complete.with_prefix(self.prefix));
        self.runtime.rename(&target.path, &path).await?;
        self.runtime.sync_dir(&self.dir).await?;
        self.remove_all_but(complete).await?;
        target.replace_at = (4 * target.position).max(REPLACE_BYTES_MIN);
        target.path = path;
        self.sequence = name.sequence;
        self.target = Some(target);
        Ok(())
    }

    /// Nothing is appended before this is done: as long as an older file exists, the newer one says no more than it.
    async fn remove_all_but(&self, kept: FileName) -> io::Result<()> {
        let mut removed = false;
        for entry in self.runtime.list_dir(&self.dir).await? {
            if FileName::parse(&entry.name, self.prefix).is_some_and(|name| name != kept) {
                self.runtime.remove_file(&self.dir.join(&entry.name)).await?;
                removed = true;
            }
        }
        if removed { self.runtime.sync_dir(&self.dir).await } else { Ok(()) }
    }

    /// Writes a group and, once it is synced, the marker that says so.
    async fn write_witnessed(&mut self, target: &mut Target<R::File>, entries: &[(Entry, &[u8])]) -> io::Result<()> {
        let group = self.seal(target.salt, entries);
        target.write(group).await?;
        let marker = self.seal(target.salt, &[(entry(EntryKind::Marker, 0, 0), &[])]);
        target.write(marker).await
    }

    /// Builds the next group.
    fn seal(&mut self, salt: u64, entries: &[(Entry, &[u8])]) -> R::Frozen {
        let payload_bytes = entries.iter().map(|(_, payload)| payload.len()).sum();
        let mut group = group::Builder::new(self.runtime.block(group_bytes(payload_bytes, entries.len())));
        for (entry, payload) in entries {
            group.push(*entry, payload);
        }
        let stamp = Stamp { log_id: self.log_id, salt, lsn: self.lsn + 1, previous_lsn: self.lsn };
        self.lsn += 1;
        group.seal(stamp, &[]).bytes
    }

    fn check_usable(&self) -> Result<(), WriteError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// A full disk is an answer while nothing was written; any other failure is the journal's last.
    fn no_room(&mut self, path: PathBuf, error: io::Error) -> WriteError {
        match error.kind() {
            io::ErrorKind::StorageFull => WriteError::NoSpace { path },
            _ => self.fail(path, error),
        }
    }

    fn fail(&mut self, path: PathBuf, error: io::Error) -> WriteError {
        self.failure.insert(WriteError::Failed { path, source: Arc::new(error) }).clone()
    }
}

impl<F: File> Target<F> {
    /// Reserves room for a group of `bytes` and its marker.
    async fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let end = self.position + (bytes + GROUP_ALIGNMENT) as u64;
        if end > self.allocated {
            let allocated = end.next_multiple_of(ALLOCATION_STEP_BYTES);
            self.file.allocate(allocated).await?;
            self.allocated = allocated;
        }
        Ok(())
    }

    async fn write(&mut self, group: F::Frozen) -> io::Result<()> {
        let len = group.len() as u64;
        self.file.write_durable(group, self.position).await?;
        self.position += len;
        Ok(())
    }
}

/// Length of a group of edits, padded.
fn group_bytes(payload_bytes: usize, edits: usize) -> usize {
    assert!(payload_bytes <= PAYLOAD_BYTES_MAX, "{payload_bytes} bytes in one group, at most {PAYLOAD_BYTES_MAX}");
    (HEADER_BYTES + payload_bytes + edits * DIRECTORY_ENTRY_BYTES).next_multiple_of(GROUP_ALIGNMENT)
}

/// Edit `number`, counted from 1.
fn edit_entry(number: u64) -> Entry {
    entry(EntryKind::Edit, number, number + 1)
}

/// What is not an edit's number: 0, up to the number of the next one.
fn snapshot_entry(edit_next: u64) -> Entry {
    entry(EntryKind::Edit, 0, edit_next)
}

fn entry(kind: EntryKind, base_offset: u64, next_offset: u64) -> Entry {
    Entry { kind, partition: PartitionId::default(), leader_epoch: 0, base_offset, next_offset }
}
