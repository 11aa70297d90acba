//! What the benches share: inputs from one seed, a shard to run on, directories to write to, and how a figure is shown
//! beside the one to reach and the one to leave behind.
//!
//! The one hard idea: most operations here take a few nanoseconds, and many wear out what they work on (an index grows,
//! a block fills). So they are timed in [`rounds`] of [`ENTRIES`], each on a fresh subject that is made outside the
//! measurement.
#![forbid(unsafe_code)]

mod shard;

use std::time::{Duration, Instant};

use criterion::BenchmarkId;
use wire::record::{BatchBuilder, Producer};

pub use shard::Shard;

/// Entries in whatever is looked up or filled: the size that the figures of [`id`] speak of.
pub const ENTRIES: usize = 4096;

/// Partitions that entries are spread over, where there are partitions.
pub const PARTITIONS: u64 = 64;

/// The seed of every input.
pub const SEED: u64 = 0x5eed;

/// A bench's name with its goal, and with what the Go implementation that StreamBus replaces takes for the same, both in
/// nanoseconds: criterion prints the name in front of what it measured.
pub fn id(name: &str, goal_ns: u64, go_ns: u64) -> BenchmarkId {
    BenchmarkId::from_parameter(format!("{name} (goal {goal_ns} ns, Go {go_ns} ns)"))
}

/// Times `iterations` calls of `operation`, which is told the number of the call within its round.
pub fn rounds<S>(
    iterations: u64,
    mut subject: impl FnMut() -> S,
    mut operation: impl FnMut(&mut S, usize),
) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let calls = left.min(ENTRIES as u64);
        let mut fresh = subject();
        let start = Instant::now();
        for call in 0..calls as usize {
            operation(&mut fresh, call);
        }
        elapsed += start.elapsed();
        left -= calls;
    }
    elapsed
}

/// [`ENTRIES`] numbers below `limit`, uniformly random.
pub fn random_below(limit: u64) -> Vec<u64> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    (0..ENTRIES).map(|_| rng.u64(..limit)).collect()
}

/// A batch of `records` records of `value_bytes` random bytes each.
pub fn batch(records: usize, value_bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut builder = BatchBuilder::new(64 << 20);
    let mut value = vec![0; value_bytes];
    for record in 0..records {
        rng.fill(&mut value);
        builder.append(record as i64, None, Some(&value), &[]).expect("it is not too large");
    }
    builder.build(Producer::NONE).to_vec()
}

/// A directory of its own, on the disk that the build is on, gone when dropped.
///
/// # Panics
/// If it cannot be made.
pub fn directory() -> tempfile::TempDir {
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target).expect("the build's directory can be made");
    tempfile::Builder::new().prefix("bench-").tempdir_in(target).expect("the build's directory can be written to")
}
