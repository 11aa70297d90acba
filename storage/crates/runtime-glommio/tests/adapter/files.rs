//! Files: what is written is read, and what the seam promises about durability holds.

use std::{
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use futures_lite::future;
use runtime::{Block as _, File as _, Frozen as _, OpenMode, Runtime};
use runtime_glommio::{BLOCK_BYTES, File, Frozen, GlommioRuntime};

use crate::{on_shard, scratch};

/// `len` bytes that tell their position and `seed` apart.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|position| ((position / 7 + position % 251 + 31 * seed) % 255) as u8).collect()
}

fn filled(runtime: &GlommioRuntime, bytes: &[u8]) -> Frozen {
    let mut block = runtime.block(bytes.len());
    block[..bytes.len()].copy_from_slice(bytes);
    block.freeze(bytes.len())
}

async fn create(runtime: &GlommioRuntime, directory: &Path) -> File {
    runtime.open(&directory.join("file"), OpenMode::CreateDurable).await.unwrap()
}

#[test]
fn reads_back_any_range_of_what_was_written() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = create(&runtime, scratch.path()).await;
        let bytes = pattern(0, 3 * BLOCK_BYTES);
        for (part, position) in bytes.chunks(BLOCK_BYTES).zip((0..).step_by(BLOCK_BYTES)) {
            file.write_durable(filled(&runtime, part), position).await.unwrap();
        }
        assert_eq!(file.len().await.unwrap(), bytes.len() as u64);
        let ranges = [
            0..0,
            0..1,
            4095..4097,
            5000..9000,
            0..512 << 10,
            1..(512 << 10) + 1,
            100..BLOCK_BYTES + 200,
            4097..2 * BLOCK_BYTES - 1,
            bytes.len() - 1..bytes.len(),
            0..bytes.len(),
        ];
        for range in ranges {
            let read = file.read(range.start as u64, range.len()).await.unwrap();
            assert!(*read == bytes[range.clone()], "bytes {range:?}");
            assert!(read.block_capacity() >= range.len());
        }
        assert_eq!(std::fs::read(scratch.path().join("file")).unwrap(), bytes);
    });
}

#[test]
fn a_read_beyond_the_end_is_an_error_and_allocates_nothing() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        std::fs::write(scratch.path().join("odd"), pattern(0, 5000)).unwrap();
        let file = runtime.open(&scratch.path().join("odd"), OpenMode::Read).await.unwrap();
        assert_eq!(*file.read(4999, 1).await.unwrap(), pattern(0, 5000)[4999..]);
        for (position, len) in [(4999, 2), (4999, 100), (5000, 1), (1 << 40, 1), (0, usize::MAX >> 2)] {
            let error = file.read(position, len).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{len} bytes at {position}");
        }
        for (position, len) in [(u64::MAX, 1), (1, usize::MAX), (i64::MAX as u64, 1)] {
            let error = file.read(position, len).await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{len} bytes at {position}");
        }
    });
}

#[test]
fn a_written_prefix_gives_its_whole_block_back() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = create(&runtime, scratch.path()).await;
        for round in 0..20 {
            let mut block = runtime.block(1);
            let bytes = pattern(round, 8192);
            block[..8192].copy_from_slice(&bytes);
            let prefix = block.split_frozen(8192);
            let write = file.write_durable(prefix.clone(), 4096);
            block.fill(0xee);
            write.await.unwrap();
            assert_eq!(*prefix, bytes);
            assert_eq!(*file.read(4096, 8192).await.unwrap(), bytes);
            drop((prefix, block));
            assert_eq!((runtime.block_stats().in_use, runtime.block_stats().idle), (0, 1));
            assert_eq!(runtime.block(1).len(), BLOCK_BYTES);
        }
    });
}

#[test]
fn a_write_that_no_one_waits_for_keeps_its_block() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = runtime.open(&scratch.path().join("file"), OpenMode::CreateNew).await.unwrap();
        for round in 0..50 {
            let bytes = pattern(round, BLOCK_BYTES);
            let mut write = Box::pin(file.write(filled(&runtime, &bytes), 0));
            assert!(future::poll_once(&mut write).await.is_none(), "the kernel has it now");
            drop(write);
            // Whatever the pool gives out now is overwritten while the kernel still reads from the first.
            let mut poisoned: Vec<_> = (0..3).map(|_| runtime.block(1)).collect();
            poisoned.iter_mut().for_each(|block| block.fill(0xff));
            while runtime.block_stats().in_use > poisoned.len() {
                runtime.sleep(Duration::ZERO).await;
            }
            assert!(*file.read(0, BLOCK_BYTES).await.unwrap() == bytes, "round {round}");
        }
    });
}

/// A caller that waits for several things at once polls each of them whenever one moves.
#[test]
fn polling_a_pending_operation_does_not_wear_it_out() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = create(&runtime, scratch.path()).await;
        file.write_durable(filled(&runtime, &[9; 4096]), 0).await.unwrap();
        let mut read = Box::pin(file.read(0, 4096));
        let mut sync = Box::pin(file.sync());
        let mut list = Box::pin(runtime.list_dir(scratch.path()));
        for _ in 0..40_000 {
            assert!(future::poll_once(&mut read).await.is_none());
            assert!(future::poll_once(&mut sync).await.is_none());
            assert!(future::poll_once(&mut list).await.is_none());
        }
        assert_eq!(*read.await.unwrap(), [9; 4096]);
        sync.await.unwrap();
        assert_eq!(list.await.unwrap().len(), 1);
    });
}

#[test]
fn what_was_read_can_be_written() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let source = create(&runtime, scratch.path()).await;
        let bytes = pattern(3, 8192);
        source.write_durable(filled(&runtime, &bytes), 0).await.unwrap();
        let copy = runtime.open(&scratch.path().join("copy"), OpenMode::CreateNew).await.unwrap();
        copy.write(source.read(0, 8192).await.unwrap(), 0).await.unwrap();
        copy.sync().await.unwrap();
        assert_eq!(std::fs::read(scratch.path().join("copy")).unwrap(), bytes);
    });
}

#[test]
fn allocation_sets_the_length_and_reads_as_zeros() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = create(&runtime, scratch.path()).await;
        for len in [1 << 20, 3 << 20, 8192, 0] {
            file.allocate(len).await.unwrap();
            assert_eq!(file.len().await.unwrap(), len);
            assert!(std::fs::metadata(scratch.path().join("file")).unwrap().blocks() * 512 >= len);
        }
        file.allocate(8192).await.unwrap();
        file.write_durable(filled(&runtime, &[1; 4096]), 0).await.unwrap();
        assert_eq!(*file.read(4095, 2).await.unwrap(), [1, 0]);
    });
}

#[test]
fn opens_what_the_mode_says_and_nothing_else() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let path = scratch.path().join("file");
        let failure = async |path: &Path, mode| runtime.open(path, mode).await.err().map(|error| error.kind());
        assert_eq!(failure(&path, OpenMode::Read).await, Some(ErrorKind::NotFound));
        assert_eq!(failure(&path, OpenMode::Durable).await, Some(ErrorKind::NotFound));
        assert_eq!(failure(&path, OpenMode::CreateDurable).await, None);
        assert_eq!(failure(&path, OpenMode::CreateDurable).await, Some(ErrorKind::AlreadyExists));
        assert_eq!(failure(&path, OpenMode::CreateNew).await, Some(ErrorKind::AlreadyExists));
        assert_eq!(failure(&path, OpenMode::Durable).await, None);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        std::os::unix::fs::symlink(&path, scratch.path().join("link")).unwrap();
        let followed = runtime.open(&scratch.path().join("link"), OpenMode::Read).await.err().unwrap();
        assert_eq!(followed.raw_os_error(), Some(libc::ELOOP));
        assert_eq!(runtime.list_dir(scratch.path()).await.unwrap().len(), 1, "a probe left no name");
    });
}

#[test]
fn a_file_outlives_its_name() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = create(&runtime, scratch.path()).await;
        file.write_durable(filled(&runtime, &[7; 4096]), 0).await.unwrap();
        std::fs::write(scratch.path().join("other"), "longer than a block".repeat(1000)).unwrap();
        std::fs::rename(scratch.path().join("other"), scratch.path().join("file")).unwrap();
        assert_eq!(file.len().await.unwrap(), 4096);
        assert_eq!(*file.read(0, 4096).await.unwrap(), [7; 4096]);
    });
}

/// The first direct open of this thread creates an empty file, which alone would select the polling ring.
#[test]
fn a_device_without_polling_is_not_polled() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let file = create(&runtime, scratch.path()).await;
        file.write_durable(filled(&runtime, &[1; 4096]), 0).await.unwrap();
        if !polls(scratch.path()) {
            let stats = glommio::executor().io_stats();
            assert_eq!(stats.poll_ring.file_writes(), (0, 0));
            assert_eq!(stats.main_ring.file_writes(), (1, 4096));
        }
    });
}

fn polls(directory: &Path) -> bool {
    let device = std::fs::metadata(directory).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let setting = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/queue/io_poll"));
    setting.is_ok_and(|setting| setting.trim() != "0")
}
