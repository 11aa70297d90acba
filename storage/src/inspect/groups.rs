//! Walks the sync groups of one file, whatever its state, with one window of it in memory.

use std::path::Path;

use runtime::{File, Frozen, OpenMode, Runtime};

use super::InspectError;
use crate::group::{self, GROUP_ALIGNMENT, Group, GroupError, HEADER_BYTES, Header};

/// What lies at a place of a file.
pub(crate) enum Step<F> {
    /// A group whose header and lists hold, with its padding.
    Group { position: u64, bytes: F },
    /// What was a group of this use of the file, or cannot be read.
    Damaged { position: u64, lsn: Option<u64>, problem: String },
    /// The file ends.
    End,
}

/// See the module.
pub(crate) struct Walk<'a, R: Runtime> {
    rt: &'a R,
    file: R::File,
    len: u64,
    log_id: u128,
    salt: u64,
    position: u64,
    window: Option<(u64, R::Frozen)>,
}

impl<'a, R: Runtime> Walk<'a, R> {
    /// Starts at the front of a file whose present use has `salt`.
    pub(crate) async fn open(rt: &'a R, path: &Path, log_id: u128, salt: u64) -> Result<Self, InspectError> {
        let file = rt.open(path, OpenMode::Read).await.map_err(InspectError::io(path))?;
        let len = file.len().await.map_err(InspectError::io(path))?;
        Ok(Self { rt, file, len, log_id, salt, position: 0, window: None })
    }

    /// As [`Self::open`], of the log that the first group claims to be of; its checksum tells whether it is.
    pub(crate) async fn open_unlisted(rt: &'a R, path: &Path, salt: u64) -> Result<Self, InspectError> {
        let mut walk = Self::open(rt, path, 0, salt).await?;
        if walk.len > 0 {
            let first = walk.bytes(0, HEADER_BYTES as u64).await.map_err(InspectError::io(path))?;
            walk.log_id = group::claimed_log_id(&first).unwrap_or_default();
        }
        Ok(walk)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn log_id(&self) -> u128 {
        self.log_id
    }

    /// Goes on at `position`, where a group was found before.
    pub(crate) fn seek(&mut self, position: u64) {
        self.position = position.min(self.len);
    }

    /// The next group, or the next place where one was; what never was one is passed over.
    pub(crate) async fn next(&mut self) -> Step<R::Frozen> {
        let mut pages = 0_u32;
        while self.len - self.position >= HEADER_BYTES as u64 {
            let position = self.position;
            match self.look(position).await {
                Some(Step::Group { position, bytes }) => {
                    self.position = (position + bytes.len() as u64).min(self.len);
                    return Step::Group { position, bytes };
                }
                found => {
                    self.position = (position + GROUP_ALIGNMENT as u64).min(self.len);
                    if let Some(found) = found {
                        return found;
                    }
                }
            }
            pages += 1;
            if pages.is_multiple_of(1024) {
                self.rt.sleep(std::time::Duration::ZERO).await;
            }
        }
        Step::End
    }

    async fn look(&mut self, position: u64) -> Option<Step<R::Frozen>> {
        let damaged = |lsn, problem: String| Some(Step::Damaged { position, lsn, problem });
        let head = match self.bytes(position, GROUP_ALIGNMENT as u64).await {
            Ok(head) => head,
            Err(error) => return damaged(None, format!("cannot be read: {error}")),
        };
        let header = match Header::parse(&head, self.log_id, self.salt) {
            Ok(header) => header,
            Err(GroupError::Absent) if !group::is_altered_header(&head, self.log_id, self.salt) => return None,
            Err(GroupError::Absent) => return damaged(None, "the group's header is damaged".to_owned()),
            Err(error) => return damaged(None, error.to_string()),
        };
        let lsn = Some(header.stamp.lsn);
        if header.padded_bytes() as u64 > self.len - position {
            return damaged(lsn, "the file ends within the group".to_owned());
        }
        let bytes = match self.bytes(position, header.padded_bytes() as u64).await {
            Ok(bytes) => bytes,
            Err(error) => return damaged(lsn, format!("cannot be read: {error}")),
        };
        match Group::parse(&bytes, self.log_id, self.salt) {
            Ok(_) => Some(Step::Group { position, bytes }),
            Err(error) => damaged(lsn, error.to_string()),
        }
    }

    /// `len` bytes from `position` on, fewer at the end of the file.
    async fn bytes(&mut self, position: u64, len: u64) -> std::io::Result<R::Frozen> {
        let len = len.min(self.len - position);
        if let Some((start, window)) = &self.window
            && *start <= position
            && position + len <= start + window.len() as u64
        {
            let at = (position - start) as usize;
            return Ok(window.slice(at..at + len as usize));
        }
        let window_bytes = len.max(self.rt.block_bytes() as u64).min(self.len - position);
        self.window = None;
        match self.file.read(position, window_bytes as usize).await {
            Ok(window) => {
                let bytes = window.slice(0..len as usize);
                self.window = Some((position, window));
                Ok(bytes)
            }
            // An unreadable sector spoils what lies there, and nothing else of the window.
            Err(_) => self.file.read(position, len as usize).await,
        }
    }
}
