//! The adapter on this machine's kernel, disk and loopback network.

mod blocks;
mod dirs;
mod files;
mod net;
mod shards;
mod watchdog;

use std::future::Future;

use runtime_glommio::{GlommioRuntime, Options, Placement, run_shards};
use tempfile::TempDir;

/// Runs `test` on one unpinned shard and returns its output.
fn on_shard<T: Send + 'static, Run: Future<Output = T> + 'static>(
    test: impl Fn(GlommioRuntime) -> Run + Send + Sync + 'static,
) -> T {
    let shards = run_shards(Placement::Anywhere(1), Options::default(), move |runtime, _| test(runtime)).unwrap();
    shards.join().pop().unwrap()
}

/// A directory on the disk that holds the build, removed when dropped: the system's own may be in memory.
fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
