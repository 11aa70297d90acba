//! Copies a log and the metadata, also while a broker works on them, and brings them back.
//!
//! A log at work flushes what it took and then deletes no segment for a while ([`crate::Log::flush`],
//! [`crate::Log::hold_segments`]). Whatever its manifest says from then on, at any edit, names files that never change and
//! are there: they and the manifest up to that edit are the copy, and the WAL is not needed. The hard idea: the hold only
//! makes copying succeed, nothing rests on it. Should it end too early, a segment is missing and there is no backup.
//!
//! A [`Store`] is a directory of such copies. Each file keeps the generation, the number of the backup, that copied it; a
//! copy of a segment that is there already is as good as a new one. The generation's list of files, which is the caller's
//! to write and to read, is what makes a backup of them.

mod copy;
mod log;
mod store;

use std::{io, path::PathBuf};

use crate::{inspect::Finding, manifest, segment::SegmentError};
pub use log::{JournalCopy, LogCopy, Source};
pub use store::{CopiedFile, Store, restore_file, verify_file};

/// Why there is no backup, or no copy from one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest makes no sense. A damaged log is not backed up over a good backup.
    #[error(transparent)]
    Manifest(#[from] manifest::OpenError),
    /// There is no journal where one has to be.
    #[error("{} has no complete {prefix} file: there is nothing to back up", dir.display())]
    NoJournal {
        /// The directory.
        dir: PathBuf,
        /// What its files begin with.
        prefix: &'static str,
    },
    /// A journal does not prove itself.
    #[error("the {prefix} files in {} do not hold; streambus log verify tells where, once the broker is stopped", dir.display())]
    DamagedJournal {
        /// The directory.
        dir: PathBuf,
        /// What its files begin with.
        prefix: &'static str,
    },
    /// The broker works on another log.
    #[error(
        "{} is not the log that the broker works on; give its data directory, and with --brokers its address",
        dir.display()
    )]
    OtherLog {
        /// The directory.
        dir: PathBuf,
    },
    /// A segment cannot be opened, or is gone.
    #[error("a segment was not copied: {0}")]
    Segment(#[from] SegmentError),
    /// A segment does not prove itself. A damaged log is not backed up as if it were sound.
    #[error("a segment is damaged, and was not copied: {0}")]
    DamagedSegment(Finding),
    /// A copy is not what was copied.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The copy.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl BackupError {
    fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether a file was not there any more: the hold has ended, and another attempt may succeed.
    pub fn is_missing_file(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Segment(error) => error.is_missing_file(),
            _ => false,
        }
    }
}
