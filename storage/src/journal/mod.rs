//! An append-only log of opaque edits, each durable before its append returns: what lies under the manifest and under
//! the metadata log.
//!
//! ```text
//!   manifest-<sequence>-<salt>.log
//!   ┌──────────────────┬───────┬────────┬───────┬────────┬─────────┐
//!   │ snapshot + edits │ edits │ marker │ edits │ marker │ zeros … │   each box one sync group
//!   └──────────────────┴───────┴────────┴───────┴────────┴─────────┘
//! ```
//!
//! The one hard idea: a file is written by one process only, and nothing in it is written twice. Opening only reads;
//! with its first append a process begins a file of its own, snapshot first, and it begins another whenever the file
//! has grown long. So a torn tail is replaced, never overwritten, and a write that a killed process left behind in the
//! kernel hits a file that is no longer looked at. The marker behind each group witnesses that the group was synced:
//! damage below a valid group is corruption, damage above the last one is a torn tail. The first group needs none,
//! because a file gets its name when that group is durable.

mod name;
mod recover;

use std::{io, path::PathBuf, sync::Arc};

use runtime::{File, OpenMode, Runtime, sabotage::die_at};

use crate::{
    PartitionId,
    error::Reason,
    group::{self, DIRECTORY_ENTRY_BYTES, Entry, EntryKind, GROUP_ALIGNMENT, HEADER_BYTES, Stamp},
};
pub(crate) use name::FileName;

/// A group of edits, or a snapshot and edits, larger than this many bytes is a bug of the caller.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Whether a file of this name is of the journal with this prefix.
pub(crate) fn is_file_name(name: &str, prefix: &str) -> bool {
    FileName::parse(name, prefix).is_some()
}

/// A journal in one directory, which it may share with other files: its own are told by their prefix.
///
/// Appending takes it exclusively, so edits have one order. An append that is dropped half way is as if the process had
/// been killed: the next one begins a new file.
pub struct Journal<R: Runtime> {
    runtime: R,
    dir: PathBuf,
    prefix: &'static str,
    log_id: u128,
    /// Highest of all its files.
    sequence: u64,
    lsn: u64,
    edit_next: u64,
    /// Every file of the journal that is in the directory.
    names: Vec<FileName>,
    /// Where edits go; none before the first append.
    target: Option<Target<R::File>>,
    failure: Option<WriteError>,
}

/// What a journal held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// At this length the file is replaced.
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

impl OpenError {
    /// Whether the file system had no room: even reading may want some.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.is_disk_full())
    }
}

impl WriteError {
    /// Whether the file system had no room.
    pub fn is_disk_full(&self) -> bool {
        Reason::is_disk_full(self)
    }
}

impl<R: Runtime> Journal<R> {
    /// Reads the journal whose files in `dir` start with `prefix`; `None` when there is none, which is no permission
    /// to take everything else for garbage. Writes nothing. What was found must not be acted upon before the first
    /// append: until then a power cut may take back what a killed process wrote last.
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
            sequence: found.names.iter().map(|name| name.sequence).max().unwrap_or(0),
            lsn: found.content.as_ref().map_or(0, |content| content.lsn),
            edit_next: found.content.as_ref().map_or(1, |content| content.edit_next),
            names: found.names,
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

    /// Appends edits as one group, all or none. Once it returns they survive a power cut, and later damage to them
    /// cannot be mistaken for a torn tail. When a new file is begun, `snapshot` is asked for what all edits before
    /// these amount to.
    ///
    /// # Errors
    /// [`WriteError`].
    ///
    /// # Panics
    /// If there is no edit, or they are larger than [`PAYLOAD_BYTES_MAX`], the snapshot included if there is one.
    pub async fn append(
        &mut self,
        edits: &[impl AsRef<[u8]>],
        snapshot: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), WriteError> {
        assert!(!edits.is_empty(), "a group holds at least one edit");
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let entries = edits.iter().zip(self.edit_next..).map(|(edit, number)| (edit_entry(number), edit.as_ref()));
        // Out of its place while a write is under way: should this future be dropped, a new file has to be begun.
        let target = match self.target.take() {
            Some(target) if target.position < target.replace_at => {
                self.extend(target, &entries.collect::<Vec<_>>()).await?
            }
            _ => {
                let snapshot = snapshot();
                let first = (snapshot_entry(self.edit_next), &snapshot[..]);
                self.begin(&std::iter::once(first).chain(entries).collect::<Vec<_>>()).await?
            }
        };
        self.target = Some(target);
        self.edit_next += edits.len() as u64;
        Ok(())
    }

    /// Writes a group behind the last one and, once it is synced, the marker that says so.
    async fn extend(
        &mut self,
        mut target: Target<R::File>,
        entries: &[(Entry, &[u8])],
    ) -> Result<Target<R::File>, WriteError> {
        // Room first: what is sealed has to be written, for the next group names it.
        let bytes = group_bytes(entries) + GROUP_ALIGNMENT;
        if let Err(error) = target.grow(bytes as u64, self.growth_bytes()).await {
            return Err(self.no_room(target.path, error));
        }
        let written = async {
            let group = self.seal(target.salt, entries);
            target.write(group).await?;
            let marker = self.seal(target.salt, &[(entry(EntryKind::Marker, 0, 0), &[])]);
            target.write(marker).await
        };
        match written.await {
            Ok(()) => Ok(target),
            Err(error) => Err(self.fail(target.path, error)),
        }
    }

    /// Begins a new file with a group.
    async fn begin(&mut self, entries: &[(Entry, &[u8])]) -> Result<Target<R::File>, WriteError> {
        let name = FileName { sequence: self.sequence + 1, salt: self.runtime.random_u64(), complete: false };
        let path = self.path(name);
        let group = self.seal(name.salt, entries);
        let target = match self.create(name, group.len() as u64).await {
            Ok(target) => target,
            Err(error) => return Err(self.no_room(path, error)),
        };
        let published = self.publish(target, name, group).await;
        published.map_err(|error| self.fail(path, error))
    }

    /// Creates a file with room for `bytes`. Nothing is written yet: should it fail, the next file begun removes it.
    async fn create(&mut self, name: FileName, bytes: u64) -> io::Result<Target<R::File>> {
        if self.names.is_empty() {
            self.runtime.create_dir_all(&self.dir).await?;
        }
        let path = self.path(name);
        let file = self.runtime.open(&path, OpenMode::CreateDurable).await?;
        self.sequence = name.sequence;
        self.names.push(name);
        let mut target = Target { file, path, salt: name.salt, position: 0, allocated: 0, replace_at: 0 };
        target.grow(bytes, self.growth_bytes()).await?;
        Ok(target)
    }

    /// Makes a created file the journal's: content first, then its name, then the end of all others. Only then are its
    /// edits acknowledged: as long as an older file exists, it says all that was.
    async fn publish(
        &mut self,
        mut target: Target<R::File>,
        name: FileName,
        group: R::Frozen,
    ) -> io::Result<Target<R::File>> {
        target.write(group).await?;
        let complete = FileName { complete: true, ..name };
        let path = self.path(complete);
        die_at("snapshot written");
        self.runtime.rename(&target.path, &path).await?;
        self.runtime.sync_dir(&self.dir).await?;
        die_at("snapshot named");
        self.names.retain(|older| *older != name);
        for older in &self.names {
            self.runtime.remove_file(&self.path(*older)).await?;
        }
        if !self.names.is_empty() {
            self.runtime.sync_dir(&self.dir).await?;
        }
        die_at("snapshot alone");
        self.names = vec![complete];
        target.replace_at = (4 * target.position).max(self.runtime.block_bytes() as u64);
        target.path = path;
        Ok(target)
    }

    /// Builds the next group.
    fn seal(&mut self, salt: u64, entries: &[(Entry, &[u8])]) -> R::Frozen {
        let mut group = group::Builder::new(self.runtime.block(group_bytes(entries)));
        for (entry, payload) in entries {
            group.push(*entry, payload);
        }
        let stamp = Stamp { log_id: self.log_id, salt, lsn: self.lsn + 1, previous_lsn: self.lsn };
        self.lsn += 1;
        group.seal(stamp, &[]).bytes
    }

    fn path(&self, name: FileName) -> PathBuf {
        self.dir.join(name.with_prefix(self.prefix))
    }

    /// Files grow in steps of this many bytes.
    fn growth_bytes(&self) -> u64 {
        (self.runtime.block_bytes() as u64 / 4).next_multiple_of(GROUP_ALIGNMENT as u64)
    }

    /// A full disk is an answer while nothing was written; any other failure is the journal's last.
    fn no_room(&mut self, path: PathBuf, error: io::Error) -> WriteError {
        if error.is_disk_full() { WriteError::NoSpace { path } } else { self.fail(path, error) }
    }

    fn fail(&mut self, path: PathBuf, error: io::Error) -> WriteError {
        self.failure.insert(WriteError::Failed { path, source: Arc::new(error) }).clone()
    }
}

impl<F: File> Target<F> {
    /// Reserves room for `bytes` more, and up to a multiple of `step_bytes`.
    async fn grow(&mut self, bytes: u64, step_bytes: u64) -> io::Result<()> {
        let end = self.position + bytes;
        if end > self.allocated {
            let allocated = end.next_multiple_of(step_bytes);
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

/// Length of a group, padded.
fn group_bytes(entries: &[(Entry, &[u8])]) -> usize {
    let payload_bytes: usize = entries.iter().map(|(_, payload)| payload.len()).sum();
    assert!(payload_bytes <= PAYLOAD_BYTES_MAX, "{payload_bytes} bytes in one group, at most {PAYLOAD_BYTES_MAX}");
    (HEADER_BYTES + payload_bytes + entries.len() * DIRECTORY_ENTRY_BYTES).next_multiple_of(GROUP_ALIGNMENT)
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
