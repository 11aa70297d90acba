//! The adapter on this machine's kernel, disk and loopback network.

mod blocks;
mod dirs;
mod files;
mod net;
mod poison;
mod removal;
mod shards;
mod watchdog;

use std::{future::Future, time::Duration};

use runtime_glommio::{GlommioRuntime, Options, Placement, run_shards};
use tempfile::TempDir;

/// No test takes this long; one that hangs is to fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `test` on one unpinned shard.
fn on_shard<Run: Future<Output = ()> + 'static>(test: impl Fn(GlommioRuntime) -> Run + Send + Sync + 'static) {
    let (ended_sender, ended) = flume::bounded(1);
    let shards = run_shards(Placement::Anywhere(1), Options::default(), move |runtime, _| {
        let (run, ended) = (test(runtime), ended_sender.clone());
        async move {
            run.await;
            ended.send(()).expect("the test waits");
        }
    })
    .unwrap();
    // A shard that panicked has let go of its sender, and says so when joined.
    assert_ne!(ended.recv_timeout(PATIENCE), Err(flume::RecvTimeoutError::Timeout), "the shard hangs");
    shards.join();
}

/// A directory on the disk that holds the build, removed when dropped: the system's own may be in memory.
fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
