//! What can go wrong with a segment, by what was being done.

use std::{io, path::Path};

use thiserror::Error;
use wire::record::BatchError;

use super::{footer_builder::Disorder, format::FormatError};

/// A segment could not be read, or does not prove itself. Nothing was served from the bytes in question, and reading
/// again gives the same answer unless it is [`SegmentError::Io`].
#[derive(Debug, Error)]
pub enum SegmentError {
    /// The file system refused.
    #[error("cannot read {bytes} bytes at {position} of {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// Where, in bytes from its start.
        position: u64,
        /// How many bytes were wanted.
        bytes: u64,
        /// What the system says.
        source: io::Error,
    },
    /// The file was cut or has grown since it was finished.
    #[error("{file} has {found} bytes, {expected} expected")]
    Length {
        /// The file.
        file: String,
        /// What the manifest says, or the least that a segment has.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// Damage, another segment's bytes, or a later version's.
    #[error("{file}: {source}")]
    Format {
        /// The file.
        file: String,
        /// What is wrong, and where.
        source: FormatError,
    },
    /// A batch makes no sense although the checksum over it holds: it was written that way.
    #[error("{file} at {position}: {source}")]
    Batch {
        /// The file.
        file: String,
        /// Where the batch starts, in bytes from the start of the file.
        position: u64,
        /// What is wrong with it.
        source: BatchError,
    },
}

impl SegmentError {
    /// Whether there is no such file: a merge may have replaced the segment.
    pub(crate) fn is_missing_file(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the file is at fault, so that reading again gives nothing else, and neither does another program.
    pub(crate) fn is_damage(&self) -> bool {
        /// Linux's EIO.
        const BAD_SECTOR: i32 = 5;
        match self {
            Self::Io { source, .. } => {
                let is_short = matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof);
                is_short || source.raw_os_error() == Some(BAD_SECTOR)
            }
            // A later program reads it.
            Self::Format {
                source: FormatError::UnknownVersion { .. } | FormatError::UnknownSection { .. }, ..
            } => false,
            Self::Length { .. } | Self::Format { .. } | Self::Batch { .. } => true,
        }
    }

    pub(crate) fn io(file: &Path, position: u64, bytes: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { file: file.display().to_string(), position, bytes, source }
    }

    pub(crate) fn format(file: &Path) -> impl FnOnce(FormatError) -> Self {
        move |source| Self::Format { file: file.display().to_string(), source }
    }

    pub(crate) fn batch(file: &Path, position: u64, source: BatchError) -> Self {
        Self::Batch { file: file.display().to_string(), position, source }
    }
}

/// A segment could not be written. Its file is no segment and is the caller's to remove; nothing refers to it.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The file system refused.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// What the system says.
        source: io::Error,
    },
    /// What was given is no run of whole batches.
    #[error("cannot write to {file}: {source}")]
    Batch {
        /// The file.
        file: String,
        /// Where the batch starts, in bytes from the start of what was given.
        at: usize,
        /// What is wrong.
        source: BatchError,
    },
    /// What was given is out of order.
    #[error("cannot write to {file}: {source}")]
    Disorder {
        /// The file.
        file: String,
        /// What is wrong.
        source: Disorder,
    },
}

impl WriteError {
    pub(super) fn io(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, file: file.display().to_string(), source }
    }

    /// The same of someone who was given `passed` bytes more, in front.
    pub(crate) fn behind(self, passed: usize) -> Self {
        match self {
            Self::Batch { file, at, source } => Self::Batch { file, at: at + passed, source },
            error => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(source: io::Error) -> SegmentError {
        SegmentError::io(Path::new("it"), 0, 1)(source)
    }

    /// What is damage may be given up for good: what another look or a later program could read is none.
    #[test]
    fn what_may_pass_is_no_damage() {
        for kind in [io::ErrorKind::NotFound, io::ErrorKind::UnexpectedEof] {
            assert!(io(kind.into()).is_damage(), "{kind}");
        }
        let [io_error, too_many_files, no_memory] = [5, 24, 12].map(io::Error::from_raw_os_error);
        assert!(io(io_error).is_damage());
        assert!(!io(too_many_files).is_damage());
        assert!(!io(no_memory).is_damage());
        assert!(!io(io::ErrorKind::PermissionDenied.into()).is_damage());
        let format = |source| SegmentError::format(Path::new("it"))(source);
        assert!(!format(FormatError::UnknownVersion { version: 9 }).is_damage());
        assert!(!format(FormatError::UnknownSection { kind: 99 }).is_damage());
        assert!(format(FormatError::Inconsistent { what: "it", position: 0 }).is_damage());
    }
}
