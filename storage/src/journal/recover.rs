//! Reads a journal without changing it.
//!
//! | found at the first place that holds no valid group | above it                | verdict                      |
//! |-----------------------------------------------------|-------------------------|------------------------------|
//! | anything                                            | a valid group           | corrupt: it was once synced  |
//! | zeros, damage                                       | nothing valid           | the end, or a torn tail      |
//! | a version or an entry kind of the future            | anything                | unsupported                  |
//! | the file's first group                              | anything                | corrupt: it was complete     |
//!
//! The hard idea: whatever is wrong with the newest file, an older one is as good while it exists, because nothing that
//! only the newer says is acknowledged before the older is gone for certain.

use std::{
    io,
    path::{Path, PathBuf},
};

use runtime::{File, Frozen, OpenMode, Runtime};

use super::{OpenError, Recovered, name::FileName};
use crate::group::{self, Entry, EntryKind, GROUP_ALIGNMENT, Group, GroupError, Header};

/// Files are read in steps of this many bytes.
const WINDOW_BYTES: u64 = 1 << 20;

/// What a directory holds of a journal.
pub(super) struct Found {
    /// All its files, complete or not.
    pub(super) names: Vec<FileName>,
    /// What the newest usable file holds.
    pub(super) content: Option<Content>,
}

/// What one file holds.
pub(super) struct Content {
    pub(super) log_id: u128,
    /// LSN of the last valid group.
    pub(super) lsn: u64,
    /// Number of the next edit.
    pub(super) edit_next: u64,
    pub(super) recovered: Recovered,
}

/// Finds and reads the newest usable file.
pub(super) async fn recover<R: Runtime>(runtime: &R, dir: &Path, prefix: &str) -> Result<Found, OpenError> {
    let names = list(runtime, dir, prefix).await?;
    let mut complete: Vec<_> = names.iter().filter(|name| name.complete).copied().collect();
    complete.sort_unstable();
    let mut damage = None;
    while let Some(name) = complete.pop() {
        let path = dir.join(name.with_prefix(prefix));
        match read_file(runtime, &path, name.salt).await {
            Ok(content) => {
                if let Some(damage) = damage {
                    tracing::warn!("{damage}; {} says all that was acknowledged and is used instead", path.display());
                }
                return Ok(Found { names, content: Some(content) });
            }
            Err(error @ OpenError::Corrupt { .. }) => damage = damage.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    damage.map_or(Ok(Found { names, content: None }), Err)
}

async fn list<R: Runtime>(runtime: &R, dir: &Path, prefix: &str) -> Result<Vec<FileName>, OpenError> {
    match runtime.list_dir(dir).await {
        Ok(entries) => Ok(entries.iter().filter_map(|entry| FileName::parse(&entry.name, prefix)).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(OpenError::Io { path: dir.to_path_buf(), source }),
    }
}

async fn read_file<R: Runtime>(runtime: &R, path: &Path, salt: u64) -> Result<Content, OpenError> {
    let io_error = |source| OpenError::Io { path: path.to_path_buf(), source };
    let file = runtime.open(path, OpenMode::Read).await.map_err(io_error)?;
    let len = file.len().await.map_err(io_error)?;
    Reader { file, path, len, salt, log_id: 0, window: None }.read_to_end().await
}

/// Reads the groups of one file.
struct Reader<'a, F: File> {
    file: F,
    path: &'a Path,
    len: u64,
    salt: u64,
    log_id: u128,
    /// Bytes read ahead, and where they start.
    window: Option<(u64, F::Frozen)>,
}

impl<F: File> Reader<'_, F> {
    async fn read_to_end(&mut self) -> Result<Content, OpenError> {
        if self.len == 0 {
            return Err(self.corrupt(0, "the file is empty"));
        }
        let head = self.bytes(0, GROUP_ALIGNMENT as u64).await?;
        self.log_id = group::claimed_log_id(&head).unwrap_or_default();
        let first = self.group_at(0).await?.map_err(|error| self.corrupt(0, error))?;
        let mut content = self.decode_first(&self.parse(&first))?;
        let mut position = first.len() as u64;
        while position < self.len {
            match self.group_at(position).await? {
                Ok(bytes) => {
                    self.decode_next(position, &self.parse(&bytes), &mut content)?;
                    position += bytes.len() as u64;
                }
                Err(damage) => {
                    self.check_nothing_above(position, damage).await?;
                    break;
                }
            }
        }
        Ok(content)
    }

    /// The bytes of the valid group at `position`, with its padding, or why there is none.
    async fn group_at(&mut self, position: u64) -> Result<Result<F::Frozen, GroupError>, OpenError> {
        let head = self.bytes(position, GROUP_ALIGNMENT as u64).await?;
        let header = match Header::parse(&head, self.log_id, self.salt) {
            Ok(header) => header,
            Err(error) => return self.damage(position, error),
        };
        if header.padded_bytes() as u64 > self.len - position {
            return Ok(Err(GroupError::Damaged));
        }
        let bytes = self.bytes(position, header.padded_bytes() as u64).await?;
        let proven = Group::parse(&bytes, self.log_id, self.salt)
            .and_then(|group| (0..header.entry_count).try_for_each(|index| group.entry(index).map(drop)));
        match proven {
            Ok(()) => Ok(Ok(bytes)),
            Err(error) => self.damage(position, error),
        }
    }

    fn damage<T>(&self, position: u64, error: GroupError) -> Result<Result<T, GroupError>, OpenError> {
        match error {
            GroupError::UnknownVersion { .. } | GroupError::UnknownKind { .. } => {
                Err(OpenError::Unsupported { path: self.path.to_path_buf(), position, problem: error.to_string() })
            }
            _ => Ok(Err(error)),
        }
    }

    /// A valid group above damage proves that the damaged one was synced.
    async fn check_nothing_above(&mut self, damaged: u64, damage: GroupError) -> Result<(), OpenError> {
        let mut position = damaged + GROUP_ALIGNMENT as u64;
        while position < self.len {
            if self.group_at(position).await?.is_ok() {
                return Err(self.corrupt(damaged, format_args!("{damage}, but one follows at byte {position}")));
            }
            position += GROUP_ALIGNMENT as u64;
        }
        Ok(())
    }

    fn parse<'b>(&self, bytes: &'b [u8]) -> Group<'b> {
        Group::parse(bytes, self.log_id, self.salt).expect("group_at proved it")
    }

    fn decode_first(&self, group: &Group<'_>) -> Result<Content, OpenError> {
        let entries = entries(group);
        let Some(((Entry { kind: EntryKind::Edit, base_offset: 0, next_offset, .. }, snapshot), edits)) =
            entries.split_first()
        else {
            return Err(self.corrupt(0, "a snapshot was expected"));
        };
        let mut content = Content {
            log_id: self.log_id,
            lsn: group.header.stamp.lsn,
            edit_next: *next_offset,
            recovered: Recovered { snapshot: snapshot.to_vec(), edits: Vec::new() },
        };
        self.decode_edits(0, edits, &mut content)?;
        Ok(content)
    }

    fn decode_next(&self, position: u64, group: &Group<'_>, content: &mut Content) -> Result<(), OpenError> {
        let stamp = group.header.stamp;
        if stamp.previous_lsn != content.lsn {
            let problem =
                format!("group {} follows group {}, {} was expected", stamp.lsn, content.lsn, stamp.previous_lsn);
            return Err(self.corrupt(position, problem));
        }
        content.lsn = stamp.lsn;
        self.decode_edits(position, &entries(group), content)
    }

    fn decode_edits(&self, position: u64, entries: &[(Entry, &[u8])], content: &mut Content) -> Result<(), OpenError> {
        for (entry, payload) in entries {
            match entry.kind {
                EntryKind::Marker => {}
                EntryKind::Edit
                    if entry.base_offset == content.edit_next
                        && entry.next_offset.checked_sub(1) == Some(content.edit_next) =>
                {
                    content.edit_next = entry.next_offset;
                    content.recovered.edits.push(payload.to_vec());
                }
                kind => {
                    let problem =
                        format!("edit {} was expected, found {kind:?} {}", content.edit_next, entry.base_offset);
                    return Err(self.corrupt(position, problem));
                }
            }
        }
        Ok(())
    }

    fn corrupt(&self, position: u64, problem: impl ToString) -> OpenError {
        OpenError::Corrupt { path: self.path.to_path_buf(), position, problem: problem.to_string() }
    }

    /// `len` bytes from `position` on, fewer at the end of the file.
    async fn bytes(&mut self, position: u64, len: u64) -> Result<F::Frozen, OpenError> {
        let len = len.min(self.len - position);
        if let Some((start, window)) = &self.window
            && *start <= position
            && position + len <= start + window.len() as u64
        {
            let at = (position - start) as usize;
            return Ok(window.slice(at..at + len as usize));
        }
        let window_bytes = len.max(WINDOW_BYTES).min(self.len - position);
        let window = self.file.read(position, window_bytes as usize).await;
        let window = window.map_err(|source| OpenError::Io { path: PathBuf::from(self.path), source })?;
        let bytes = window.slice(0..len as usize);
        self.window = Some((position, window));
        Ok(bytes)
    }
}

fn entries<'a>(group: &Group<'a>) -> Vec<(Entry, &'a [u8])> {
    (0..group.header.entry_count).map(|index| group.entry(index).expect("group_at proved it")).collect()
}
