//! StreamBus on glommio: the production [`::runtime::Runtime`], one pinned executor per core.
//!
//! ```text
//!   main ── prepare_process() ── run_shards(placement, …) ─┬─ thread shard-0: executor ── GlommioRuntime ── your future
//!                                                          ├─ thread shard-1: …
//!                                                          └─ thread watchdog: wakes an executor that sleeps on work
//! ```
//!
//! glommio 0.9.0 has traps, and this crate is where they are stepped around: executors that park with runnable tasks
//! ([`watchdog`]), the first direct open of a thread that may select busy polling (`probe`), opens and sizes that go
//! by path (`file`), reads that return bytes behind the end (`file`), accepted sockets that leak (`net`). Nothing
//! outside this crate names glommio, and nothing but this crate and its siblings holds `unsafe`.
//!
//! ```no_run
//! use runtime::Runtime;
//! use runtime_glommio::{Options, Placement, allowed_cores, prepare_process, run_shards};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let signals = prepare_process()?;
//! let shards = run_shards(Placement::Cores(allowed_cores()?), Options::default(), move |runtime, shard| {
//!     let signals = signals.clone();
//!     async move {
//!         if shard == 0 {
//!             signals.receive().await;
//!         }
//!         runtime.now()
//!     }
//! })?;
//! println!("the shards ended at {:?}", shards.join());
//! # Ok(())
//! # }
//! ```

mod allocator;
mod block;
mod clock;
mod dir;
mod file;
mod memory;
mod net;
mod pool;
mod prefetch;
mod probe;
mod process;
mod progress;
mod runtime;
mod shards;
mod shrink;
mod start;
mod task;
pub mod watchdog;

pub use crate::{
    allocator::Allocator,
    block::{Block, Frozen},
    dir::DirLock,
    file::File,
    memory::memory_bytes,
    net::{Listener, Socket, Stream},
    pool::BlockStats,
    process::{Signal, Signals, prepare_process},
    runtime::GlommioRuntime,
    shards::{Options, Placement, ShardThreads, allowed_cores, run_shards},
    start::{StartError, check_machine},
    task::Task,
};

/// Capacity of a standard block.
pub const BLOCK_BYTES: usize = 1 << 20;
