//! The watchdog: a shard that sleeps on work is woken.

use std::{
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use runtime::{Block as _, File as _, OpenMode, Runtime as _};
use runtime_glommio::{GlommioRuntime, Options, Placement, run_shards};

use crate::{PATIENCE, scratch};

/// It has a few dozen stalls, of up to 2 ms with a watchdog and of 15 s each without one: six minutes and more.
const STALLS_PATIENCE: Duration = Duration::from_secs(180);
const WRITES: u64 = 4_000;
const WAKES: u64 = 60_000;

/// A short preempt timer makes executors park with runnable tasks many times a second. Left alone, one wakes up at
/// its next timer, 15 s later: a few dozen times that is far beyond the patience of this test.
#[test]
fn all_work_ends_although_executors_park_on_it() {
    let (ended_sender, ended) = flume::unbounded();
    let (wake, woken) = flume::bounded::<flume::Sender<()>>(1);
    let options = Options { preempt_timer: Duration::from_micros(50), ..Options::default() };
    let shards = run_shards(Placement::Anywhere(1), options, move |runtime, _| {
        let (ended, woken) = (ended_sender.clone(), woken.clone());
        async move {
            let answering = runtime.spawn(async move {
                while let Ok(reply) = woken.recv_async().await {
                    reply.send(()).unwrap();
                }
            });
            write_all(&runtime).await;
            answering.await;
            ended.send(()).unwrap();
        }
    })
    .unwrap();
    let waking = thread::spawn(move || {
        for _ in 0..WAKES {
            let (reply, replied) = flume::bounded(1);
            wake.send(reply).unwrap();
            replied.recv().unwrap();
        }
    });
    ended.recv_timeout(STALLS_PATIENCE).expect("the shard parked on work and no one woke it");
    waking.join().unwrap();
    let stats = shards.watchdog();
    shards.join();
    println!("pokes: {} sent, {} needed", stats.pokes_sent(), stats.pokes_needed());
}

async fn write_all(runtime: &GlommioRuntime) {
    let scratch = scratch();
    let file = runtime.open(&scratch.path().join("file"), OpenMode::CreateDurable).await.unwrap();
    file.allocate(1 << 20).await.unwrap();
    let bytes = runtime.block(1).freeze(4096);
    for write in 0..WRITES {
        file.write_durable(bytes.clone(), write % 256 * 4096).await.unwrap();
    }
}

const CHILD: &str = "ADAPTER_TEST_CHILD";

/// Run by [`a_silent_shard_ends_the_process`] in a process of its own; by itself it does nothing.
#[test]
fn child_with_a_silent_shard() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let options = Options { silence_max: Duration::from_millis(300), ..Options::default() };
    let shards = run_shards(Placement::Anywhere(1), options, |_, _| async { thread::sleep(PATIENCE) });
    shards.unwrap().join();
}

#[test]
fn a_silent_shard_ends_the_process() {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "watchdog::child_with_a_silent_shard", "--nocapture"]).env(CHILD, "1");
    let output = child.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("shard 0 has not answered its watchdog for 300ms"), "{said}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(libc::SIGABRT));
}

/// Shards that only compute between their pauses are not silent, and several are watched at once.
#[test]
fn shards_that_pause_are_not_silent() {
    let options = Options { silence_max: Duration::from_millis(300), ..Options::default() };
    let turns = Mutex::new(0);
    let shards = run_shards(Placement::Anywhere(2), options, move |runtime, shard| {
        *turns.lock().unwrap() += 1;
        async move {
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(20));
                runtime.sleep(Duration::ZERO).await;
            }
            shard
        }
    });
    assert_eq!(shards.unwrap().join(), [0, 1]);
}
