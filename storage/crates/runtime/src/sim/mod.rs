//! The seeded simulator: shards of many nodes on one thread, with disks that tear, links that break and time that is
//! only a number.
//!
//! Everything that could go one way or another, which task runs next, how long a write takes, what a power cut leaves,
//! is drawn from one seed, so a failure found once can be looked at as often as needed:
//!
//! ```
//! use runtime::{Block as _, File as _, OpenMode, Runtime as _};
//! use runtime::sim::{Crash, Simulation, seeds};
//!
//! for seed in seeds(10) {
//!     let simulation = Simulation::new(seed);
//!     let node = simulation.add_node();
//!     // Loses power at some step; what was acknowledged by then has to survive.
//!     simulation.disk(node).crash_at_step(1 + seed, Crash::PowerCut);
//!     let acknowledged = simulation.block_on(node, async |runtime| {
//!         runtime.create_dir_all("log".as_ref()).await.unwrap();
//!         let file = runtime.open("log/wal".as_ref(), OpenMode::CreateDurable).await.unwrap();
//!         runtime.sync_dir("log".as_ref()).await.unwrap();
//!         let mut block = runtime.block(4096);
//!         block[..4096].fill(7);
//!         file.write_durable(block.freeze(4096), 0).await.unwrap();
//!     });
//!     simulation.crash(node, Crash::PowerCut);
//!     if acknowledged.is_ok() {
//!         assert_eq!(simulation.disk(node).read("log/wal"), Some(vec![7; 4096]));
//!     }
//! }
//! ```
//!
//! # Replaying a seed
//!
//! A failing test prints its seed. `STREAMBUS_SEED=42 cargo test -p storage name_of_the_test` runs that one alone, in
//! every test that takes its seeds from [`seeds`]; with `STREAMBUS_TRACE=1` it prints each step. [`Simulation::trace_hash`]
//! is a hash of all steps: equal hashes, equal runs, in any process on any machine.
//!
//! # The parts
//!
//! - [`disk`]: what survives what; the storage model stands at its top;
//! - [`network`]: delays, cuts, resets;
//! - [`SimRuntime`]: the seam over both, one a shard;
//! - [`Simulation`]: nodes, their crashes, and the loop that drives all.
//!
//! Deliberately absent: threads, real time, and CPU cost (running a task once takes at most 2 us of virtual time).

mod clock;
mod completion;
pub mod disk;
mod executor;
mod memory;
pub mod network;
mod node;
mod rng;
mod runtime;
mod simulation;
mod trace;
mod world;

pub use self::{
    executor::Task,
    memory::{Block, Frozen},
    node::NodeId,
    rng::Rng,
    runtime::{DirLock, SimRuntime},
    simulation::{Options, RunError, Simulation, block_on, seeds},
};

/// How a node stops without warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Crash {
    /// The machine loses power: what is not durable may be lost, see [`disk`].
    PowerCut,
    /// The process dies, the machine lives on: what completed stays.
    Kill,
}
