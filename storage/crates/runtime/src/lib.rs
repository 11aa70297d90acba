//! The one seam between StreamBus and the machine.
//!
//! Storage and broker are written once, over [`Runtime`]: memory blocks, files, directories, sockets, clock,
//! timers, tasks and randomness. Production is `runtime-glommio`; tests run on [`sim`], in which many shards of
//! many nodes share one thread and every choice comes from one seed.
//!
//! Everything is owned in and owned out, because completion I/O holds on to memory until the kernel is done with
//! it. Futures are not `Send`: a shard never shares them. What crosses shards goes through [`mesh`].
#![forbid(unsafe_code)]
#![allow(async_fn_in_trait, reason = "futures stay on their shard, so no `Send` bound is wanted")]

mod block;
mod file;
pub mod mesh;
mod net;
mod notify;
pub mod sabotage;
pub mod sim;
mod time;

use std::{future::Future, path::Path, time::Duration};

pub use block::{BLOCK_ALIGNMENT, Block, Frozen};
pub use file::{DirEntry, File, OpenMode, Space};
pub use net::{Listener, Stream};
pub use notify::{Held, Lock, Notify};
pub use time::Instant;

/// What one shard may ask of the machine. A clone is another handle to the same shard.
pub trait Runtime: Clone + 'static {
    /// Exclusive memory, see [`Block`].
    type Block: Block<Frozen = Self::Frozen>;
    /// Shared, read-only memory, see [`Frozen`].
    type Frozen: Frozen;
    /// An open file, see [`File`].
    type File: File<Frozen = Self::Frozen>;
    /// Holds a directory against a second process until it is dropped.
    type DirLock: 'static;
    /// A bound TCP port, see [`Listener`].
    type Listener: Listener<Socket = Self::Socket>;
    /// A TCP connection that belongs to no shard, on its way to one.
    type Socket: Send + 'static;
    /// A TCP connection of this shard, see [`Stream`].
    type Stream: Stream<Socket = Self::Socket>;
    /// A spawned task: resolves to its output; dropping it lets the task run on.
    type Task<T: 'static>: Future<Output = T> + Unpin + 'static;

    /// Time that never goes back. Its origin has no meaning beyond this process.
    fn now(&self) -> Instant;

    /// The wall clock, in milliseconds since 1970 UTC. It may jump; no safety property may depend on it.
    fn wall_clock_ms(&self) -> i64;

    /// Random bits: from the operating system in production, from the seed in the simulator.
    fn random_u64(&self) -> u64;

    /// Asks for the memory of a value that is about to be read, as far as the processor does not see that by itself. Nothing
    /// waits for it: who asks early enough, for many values in a row, finds all of them at hand. A hint without any effect
    /// that a program sees.
    #[inline(always)]
    fn prefetch<T: ?Sized>(_value: &T) {}

    /// Waits for at least `duration`. `sleep(Duration::ZERO)` still lets the shard look at its sockets and disks,
    /// and so is what a long computation calls every 200 us.
    async fn sleep(&self, duration: Duration);

    /// Starts a task on this shard, at foreground priority.
    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Self::Task<T>;

    /// Starts a task on this shard that yields to foreground work (flush, merge, pre-writing).
    fn spawn_background<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Self::Task<T>;

    /// Capacity in bytes of a standard block: 1 MiB in production, smaller in simulations of small logs.
    fn block_bytes(&self) -> usize;

    /// Takes a block of [`Self::block_bytes`] from the shard's pool, or a block of its own if `len_min` is larger.
    /// The content is whatever was there before.
    fn block(&self, len_min: usize) -> Self::Block;

    /// Opens or creates a file. A created file is durable only after [`Self::sync_dir`] of its directory.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` (with [`OpenMode::CreateNew`]) and whatever the system reports.
    async fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Self::File>;

    /// Lists the plain files of a directory, `LOCK` among them, in no particular order.
    async fn list_dir(&self, path: &Path) -> std::io::Result<Vec<DirEntry>>;

    /// Lists their names alone, which spares a look at each file: there may be thousands.
    async fn list_names(&self, path: &Path) -> std::io::Result<Vec<String>>;

    /// Creates a directory and its missing parents, durably.
    async fn create_dir_all(&self, path: &Path) -> std::io::Result<()>;

    /// Renames a file, replacing what has the new name. Durable after [`Self::sync_dir`] of its directory, and of the
    /// other one if it moves.
    async fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()>;

    /// Removes a file. Durable after [`Self::sync_dir`] of its directory.
    async fn remove_file(&self, path: &Path) -> std::io::Result<()>;

    /// Removes an empty directory, durably.
    ///
    /// # Errors
    /// `DirectoryNotEmpty`, `NotFound` and whatever the system reports.
    async fn remove_dir(&self, path: &Path) -> std::io::Result<()>;

    /// Makes creations, renames and removals in a directory durable.
    async fn sync_dir(&self, path: &Path) -> std::io::Result<()>;

    /// Locks a directory for this process, by a file `LOCK` in it.
    ///
    /// # Errors
    /// `WouldBlock` when another process (or another log of this one) holds it.
    async fn lock_dir(&self, path: &Path) -> std::io::Result<Self::DirLock>;

    /// Total and free bytes of the file system that holds `path`.
    async fn space(&self, path: &Path) -> std::io::Result<Space>;

    /// Binds a TCP port and listens on it. Port 0 picks a free one.
    async fn listen(&self, address: std::net::SocketAddr) -> std::io::Result<Self::Listener>;

    /// Opens a TCP connection.
    async fn connect(&self, address: std::net::SocketAddr) -> std::io::Result<Self::Stream>;

    /// Makes a connection that arrived from elsewhere one of this shard's.
    fn adopt(&self, socket: Self::Socket) -> std::io::Result<Self::Stream>;
}
