//! Looks into the directory of a stopped log, sound or damaged, and never writes.
//!
//! - [`verify_log`], [`verify_journal`]: every checksum, and what fits together; damage is named by file and position;
//! - [`survey()`]: what there is: files, segments, partitions and their offsets;
//! - [`dump_file`], [`dump_partition`]: groups, entries and batches as they lie.
//!
//! The one hard idea: recovery decides, these only tell. They read the same bytes with code of their own where recovery
//! would stop, so that what they say of a damaged log is a second opinion. What recovery counts as a torn tail is a
//! [`Severity::Note`] here, and damage that recovery would refuse is [`Severity::Damage`].

mod dump;
pub(crate) mod groups;
mod journal;
mod segment;
mod survey;
mod verify;
pub(crate) mod wal;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{journal as log_journal, manifest};
pub use dump::{Item, dump_file, dump_partition};
pub use journal::verify_journal;
pub(crate) use segment::verify_segment;
pub use survey::{PartitionSurvey, SegmentFate, SegmentFile, Survey, WalFileSurvey, survey};
pub use verify::verify_log;

/// Something worth telling of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or directory.
    pub file: PathBuf,
    /// Where in it, in bytes, if it is about one place.
    pub position: Option<u64>,
    /// What is wrong there.
    pub problem: String,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing that was acknowledged is touched: a torn tail, a file that nobody knows.
    Note,
    /// What was written is not what is there.
    Damage,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sync groups that hold.
    pub groups: u64,
    /// Entries of groups that hold.
    pub entries: u64,
    /// Batches whose CRC holds.
    pub batches: u64,
    /// Segments whose footer holds.
    pub segments: u64,
    /// Blocks of segments that hold.
    pub blocks: u64,
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
}

/// Why nothing can be told of a directory or file.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no manifest, and so no log.
    #[error("{} holds no log: it has no manifest", dir.display())]
    NoLog {
        /// The directory.
        dir: PathBuf,
    },
    /// The manifest cannot be read, and nothing makes sense without it.
    #[error(transparent)]
    Manifest(#[from] manifest::OpenError),
    /// The file is none of a log's, by its name or by its first bytes.
    #[error("{} is no file of a log: {problem}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What shows it.
        problem: String,
    },
}

impl Verified {
    /// Whether everything that was written is there.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Note)
    }

    /// Adds what was found elsewhere.
    pub fn absorb(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.groups += other.groups;
        self.entries += other.entries;
        self.batches += other.batches;
        self.segments += other.segments;
        self.blocks += other.blocks;
        self.findings.extend(other.findings);
    }

    fn damage(&mut self, file: &Path, position: Option<u64>, problem: impl ToString) {
        self.find(Severity::Damage, file, position, problem.to_string());
    }

    fn note(&mut self, file: &Path, position: Option<u64>, problem: impl ToString) {
        self.find(Severity::Note, file, position, problem.to_string());
    }

    fn find(&mut self, severity: Severity, file: &Path, position: Option<u64>, problem: String) {
        self.findings.push(Finding { severity, file: file.to_owned(), position, problem });
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(position) = self.position {
            write!(f, " at byte {position}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl InspectError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether there is nothing of that name.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NoLog { .. } => true,
            Self::Manifest(manifest::OpenError::Journal(log_journal::OpenError::Io { source, .. })) => {
                source.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        }
    }
}
