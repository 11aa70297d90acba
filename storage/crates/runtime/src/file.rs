//! Files under direct I/O: no page cache, aligned writes, and an explicit word for "durable".

use crate::Frozen;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and for writes that are durable on completion ([`File::write_durable`]).
    Durable,
    /// A new file, for reading and for writes that are durable on completion. Fails if the name exists.
    CreateDurable,
    /// A new file, for reading and for plain writes followed by [`File::sync`]. Fails if the name exists.
    CreateNew,
}

/// An open file. Clones share it; the last drop closes it.
#[expect(clippy::len_without_is_empty, reason = "asking a file whether it is empty costs as much as its length")]
pub trait File: Clone + 'static {
    /// The memory it reads into and writes from.
    type Frozen: Frozen;

    /// Reads exactly `len` bytes at `position`; neither needs to be aligned.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before `position + len`.
    async fn read(&self, position: u64, len: usize) -> std::io::Result<Self::Frozen>;

    /// Writes all of `bytes` at `position`; once it returns, they survive a power cut. `bytes` must start at the
    /// start of its block; position and length must be multiples of [`crate::BLOCK_ALIGNMENT`]. Only for files
    /// opened with [`OpenMode::Durable`] or [`OpenMode::CreateDurable`].
    ///
    /// # Errors
    /// Any: then nothing may be assumed of these bytes, and the file must not be written again.
    async fn write_durable(&self, bytes: Self::Frozen, position: u64) -> std::io::Result<()>;

    /// Writes all of `bytes` at `position`, aligned as in [`Self::write_durable`]. Durable after [`Self::sync`].
    /// Only for files opened with [`OpenMode::CreateNew`].
    async fn write(&self, bytes: Self::Frozen, position: u64) -> std::io::Result<()>;

    /// Makes durable every write that completed before this call, and the file's length.
    async fn sync(&self) -> std::io::Result<()>;

    /// Reserves space up to `len` bytes and makes that the file's length. What was never written reads as zeros.
    async fn allocate(&self, len: u64) -> std::io::Result<()>;

    /// Length of the file in bytes.
    async fn len(&self) -> std::io::Result<u64>;
}

/// A file found by [`crate::Runtime::list_dir`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Its name within the directory.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes this process may still use.
    pub free_bytes: u64,
}
