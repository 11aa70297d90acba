//! Files under direct I/O, on glommio's `DmaFile`.
//!
//! Files are opened by the standard library first, which gives plain errors and follows no symbolic link, and then by
//! glommio through `/proc`, because its own open looks the path up three times and panics if it is gone by the third.
//! Reads are aligned here and their length checked, because glommio's unaligned read returns bytes that do not exist
//! near the end of a file. Each operation runs in a task of its own: dropping the future that waits for it neither
//! frees memory that the kernel is reading nor cancels anything, and polling it often does not wear it out, as it would
//! glommio's own (each poll of a pending operation keeps a waker, the 32,768th panics).

use std::{
    fs::OpenOptions,
    io,
    ops::Range,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    rc::Rc,
};

use ::runtime::{BLOCK_ALIGNMENT, Block as _, OpenMode};
use glommio::{
    GlommioError,
    io::{DmaFile, ReadResult},
};

use crate::{
    block::Frozen,
    dir, probe,
    runtime::Shard,
    shrink::{FileId, InUse},
    task::{self, Task},
};

/// Larger single reads hang some kernels.
const READ_BYTES_MAX: usize = 512 << 10;
const ALIGNMENT: u64 = BLOCK_ALIGNMENT as u64;

/// An open file. Clones share it; the last drop closes it.
#[derive(Clone)]
pub struct File {
    open: Rc<Open>,
}

struct Open {
    dma: DmaFile,
    mode: OpenMode,
    shard: Rc<Shard>,
    _in_use: InUse,
}

impl File {
    pub(crate) async fn open(shard: &Rc<Shard>, path: &Path, mode: OpenMode) -> io::Result<Self> {
        let wanted = path.to_owned();
        let (file, id) = shard.blocking(move || find(&wanted, mode)).await?;
        // At once: whoever removes it from now on sees that it is open.
        let in_use = InUse::new(shard, id);
        shard.probe(id.0, dir::parent(path)).await?;

        let mut options = glommio::io::OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        if matches!(mode, OpenMode::Durable | OpenMode::CreateDurable) {
            options.custom_flags(libc::O_DSYNC);
        }
        let opened = options.dma_open(probe::lasting_path(&file)).await;
        let dma = opened.map_err(os_error).map_err(|error| refused(error, path))?;
        Ok(Self { open: Rc::new(Open { dma, mode, shard: Rc::clone(shard), _in_use: in_use }) })
    }
}

impl ::runtime::File for File {
    type Frozen = Frozen;

    async fn read(&self, position: u64, len: usize) -> io::Result<Frozen> {
        let end = position.checked_add(len as u64).filter(|&end| end <= i64::MAX as u64);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        let start = position - position % ALIGNMENT;
        let span = (end - start).next_multiple_of(ALIGNMENT);
        if span <= READ_BYTES_MAX as u64 {
            let read = self.open.read_span(start, span as usize).await?;
            let skipped = (position - start) as usize;
            if read.len() >= skipped + len {
                return Ok(Frozen::from_read(read, skipped..skipped + len));
            }
        }
        self.open.gather(position..end).await
    }

    async fn write_durable(&self, bytes: Frozen, position: u64) -> io::Result<()> {
        let mode = self.open.mode;
        assert!(matches!(mode, OpenMode::Durable | OpenMode::CreateDurable), "a durable write to a file of {mode:?}");
        self.write_all(bytes, position).await
    }

    async fn write(&self, bytes: Frozen, position: u64) -> io::Result<()> {
        let mode = self.open.mode;
        assert!(mode == OpenMode::CreateNew, "a plain write to a file of {mode:?}");
        self.write_all(bytes, position).await
    }

    async fn sync(&self) -> io::Result<()> {
        self.open.submit(async |open| open.dma.fdatasync().await).await
    }

    async fn allocate(&self, len: u64) -> io::Result<()> {
        if len > 0 {
            match self.open.submit(async move |open| open.dma.pre_allocate(len, false).await).await {
                // A file system that cannot reserve space: the length is all it can have.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                other => other?,
            }
        }
        if self.open.len()? != len {
            self.open.submit(async move |open| open.dma.truncate(len).await).await?;
        }
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        self.open.len()
    }
}

impl File {
    async fn write_all(&self, bytes: Frozen, position: u64) -> io::Result<()> {
        let len = bytes.len();
        assert!(len.is_multiple_of(BLOCK_ALIGNMENT), "a write of {len} bytes");
        assert!(position.is_multiple_of(ALIGNMENT), "a write at {position}");
        if len == 0 {
            return Ok(());
        }
        let loan = self.open.own_block(bytes).lend().unwrap_or_else(|_| panic!("a write from inside a block"));
        let written = self.open.submit(async move |open| {
            let written = open.dma.write_rc_at(loan.dma(), position).await;
            loan.returned();
            written
        });
        match written.await? {
            written if written == len => Ok(()),
            written => Err(short_write(written, len, position)),
        }
    }
}

impl Open {
    /// Starts an operation in a task of its own and lets the watchdog know.
    fn submit<T: 'static>(
        self: &Rc<Self>,
        operation: impl AsyncFnOnce(&Self) -> Result<T, GlommioError<()>> + 'static,
    ) -> Task<io::Result<T>> {
        let open = Rc::clone(self);
        task::at_once(async move {
            let _work = open.shard.progress.work();
            operation(&open).await.map_err(os_error)
        })
    }

    fn read_span(self: &Rc<Self>, start: u64, len: usize) -> Task<io::Result<ReadResult>> {
        self.submit(async move |open| open.dma.read_at_aligned(start, len).await)
    }

    /// Reads what one operation cannot, or did not: in several, two at a time, into one block.
    async fn gather(self: &Rc<Self>, wanted: Range<u64>) -> io::Result<Frozen> {
        let file_len = self.len()?;
        if wanted.end > file_len {
            return Err(ends_early(file_len, &wanted));
        }
        let len = (wanted.end - wanted.start) as usize;
        let mut block = self.shard.pool.take(len);
        let mut filled = 0;
        let mut ahead: Option<(u64, Task<_>)> = None;
        while filled < len {
            let position = wanted.start + filled as u64;
            let start = position - position % ALIGNMENT;
            let next = start + READ_BYTES_MAX as u64;
            // After a short read the one ahead starts too far on.
            let started = ahead.take().filter(|&(expected, _)| expected == start);
            let read = started.map_or_else(|| self.read_span(start, span_at(start, &wanted)), |(_, read)| read);
            ahead = (next < wanted.end).then(|| (next, self.read_span(next, span_at(next, &wanted))));
            let read = read.await?;
            let fresh = read.get((position - start) as usize..).unwrap_or_default();
            if fresh.is_empty() {
                return Err(ends_early(position, &wanted));
            }
            let count = fresh.len().min(len - filled);
            block[filled..filled + count].copy_from_slice(&fresh[..count]);
            filled += count;
        }
        Ok(block.freeze(len))
    }

    /// The bytes themselves if a block holds them, else a copy in one: what a read returned cannot be written.
    fn own_block(&self, bytes: Frozen) -> Frozen {
        if bytes.is_block() {
            return bytes;
        }
        let mut block = self.shard.pool.take(bytes.len());
        block[..bytes.len()].copy_from_slice(&bytes);
        block.freeze(bytes.len())
    }

    fn len(&self) -> io::Result<u64> {
        // SAFETY: the descriptor stays open for as long as `self.dma`.
        let descriptor = unsafe { BorrowedFd::borrow_raw(self.dma.as_raw_fd()) };
        let stat = rustix::fs::fstat(descriptor)?;
        Ok(u64::try_from(stat.st_size).expect("a length is not negative"))
    }
}

/// The error of the system call, which glommio wraps in a text of its own.
pub(crate) fn os_error(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::EnhancedIoError { source, .. } => source,
        other => other.into(),
    }
}

/// Opens or creates `path`, and says which file that is.
fn find(path: &Path, mode: OpenMode) -> io::Result<(std::fs::File, FileId)> {
    let mut options = OpenOptions::new();
    options.read(true).write(mode != OpenMode::Read).custom_flags(libc::O_NOFOLLOW).mode(0o600);
    options.create_new(matches!(mode, OpenMode::CreateDurable | OpenMode::CreateNew));
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}

/// Length of the aligned read at `start` on the way to the end of `wanted`.
fn span_at(start: u64, wanted: &Range<u64>) -> usize {
    (wanted.end - start).next_multiple_of(ALIGNMENT).min(READ_BYTES_MAX as u64) as usize
}

fn refused(error: io::Error, path: &Path) -> io::Error {
    if error.kind() != io::ErrorKind::InvalidInput {
        return error;
    }
    let path = path.display();
    io::Error::new(io::ErrorKind::Unsupported, format!("{path}: the file system refuses direct I/O (O_DIRECT)"))
}

fn ends_early(end: u64, wanted: &Range<u64>) -> io::Error {
    let Range { start, end: wanted } = wanted;
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends at {end}, bytes {start} to {wanted} wanted"))
}

fn short_write(written: usize, len: usize, position: u64) -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, format!("{written} of {len} bytes written at {position}"))
}
