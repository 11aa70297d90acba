//! Shards: started, pinned, woken, ended.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    panic,
    rc::Rc,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use futures_lite::future;
use runtime::{File as _, OpenMode, Runtime as _, mesh};
use runtime_glommio::{GlommioRuntime, Options, Placement, StartError, allowed_cores, run_shards};

use crate::{on_shard, scratch};

#[test]
fn each_shard_runs_on_its_core_under_its_name() {
    let cores = allowed_cores().unwrap();
    let shards = run_shards(Placement::Cores(cores.clone()), Options::default(), |runtime, shard| async move {
        assert_eq!(runtime.shard(), shard);
        let name = std::thread::current().name().map(str::to_owned);
        (name, allowed_cores().unwrap())
    });
    let expected: Vec<_> =
        (0..).zip(&cores).map(|(shard, &core)| (Some(format!("shard-{shard}")), vec![core])).collect();
    assert_eq!(shards.unwrap().join(), expected);
}

#[test]
fn refuses_cores_it_cannot_have() {
    let start = |placement| run_shards(placement, Options::default(), |_, _| async {}).err().unwrap();
    assert!(matches!(start(Placement::Cores(vec![])), StartError::NoCores));
    for core in [1000, usize::MAX] {
        assert!(matches!(start(Placement::Cores(vec![core])), StartError::CoreNotAllowed { core: c, .. } if c == core));
    }
}

#[test]
fn shards_answer_each_other() {
    const ROUNDS: u64 = 2_000;
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| mesh::inbox(8)).unzip();
    let inboxes = Mutex::new(inboxes.into_iter().map(Some).collect::<Vec<_>>());
    let shards = run_shards(Placement::Anywhere(2), Options::default(), move |_, shard| {
        let inbox = inboxes.lock().unwrap()[shard].take().unwrap();
        let other = senders[1 - shard].clone();
        async move {
            if shard == 0 {
                assert!(other.try_send(0).is_ok());
            }
            let mut last = 0;
            while last < ROUNDS {
                last = inbox.receive().await.unwrap();
                // The last message finds the other shard ended.
                let _ = other.try_send(last + 1);
            }
            last
        }
    });
    assert_eq!(shards.unwrap().join(), [ROUNDS + 1, ROUNDS]);
}

#[test]
fn a_task_starts_after_the_call_and_outlives_its_handle() {
    on_shard(async |runtime: GlommioRuntime| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let note = |text| {
            let log = Rc::clone(&log);
            async move { log.borrow_mut().push(text) }
        };
        let borrowed = log.borrow_mut();
        drop(runtime.spawn(note("dropped")));
        let task = runtime.spawn(note("awaited"));
        let background = runtime.spawn_background(note("background"));
        drop(borrowed);
        task.await;
        background.await;
        assert_eq!(*log.borrow(), ["dropped", "awaited", "background"]);
    });
}

#[test]
fn a_task_resolves_to_its_output() {
    on_shard(async |runtime: GlommioRuntime| {
        let sleeper = runtime.clone();
        let mut task = runtime.spawn(async move {
            sleeper.sleep(Duration::from_millis(2)).await;
            7
        });
        assert_eq!(future::poll_once(&mut task).await, None);
        assert_eq!(task.await, 7);
    });
}

/// Yielding alone would not look at timers before the preempt timer says so, a hundred milliseconds and a million
/// turns later.
#[test]
fn a_busy_task_that_sleeps_lets_a_timer_through() {
    on_shard(async |runtime: GlommioRuntime| {
        let timer = runtime.clone();
        let mut rung = runtime.spawn(async move { timer.sleep(Duration::from_millis(1)).await });
        let mut turns = 0;
        while future::poll_once(&mut rung).await.is_none() {
            runtime.sleep(Duration::ZERO).await;
            turns += 1;
        }
        assert!(turns < 5_000, "{turns} turns");
    });
}

#[test]
fn clocks_go_on_and_random_bits_differ() {
    on_shard(async |runtime: GlommioRuntime| {
        let before = runtime.now();
        runtime.sleep(Duration::from_millis(1)).await;
        assert!(runtime.now().since(before) >= Duration::from_millis(1));
        assert!(runtime.wall_clock_ms() > 1_700_000_000_000);
        let words: BTreeSet<_> = (0..1000).map(|_| runtime.random_u64()).collect();
        assert_eq!(words.len(), 1000);
    });
}

/// glommio's blocking threads panic over an answer that nobody takes any more, which ends a process that is stopping.
#[test]
fn a_shard_that_ends_leaves_its_blocking_threads_nothing_to_do() {
    static ORPHANED: AtomicUsize = AtomicUsize::new(0);
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(|text| text.contains("failed to send response")) {
            ORPHANED.fetch_add(1, Relaxed);
        }
        report(panic);
    }));
    // A pool that runs dry has blocks made ahead.
    on_shard(|runtime| async move {
        let blocks: Vec<_> = (0..4).map(|_| runtime.block(0)).collect();
        runtime.sleep(Duration::ZERO).await;
        drop(blocks);
    });
    // A large file that was removed is shrunk step by step.
    on_shard(|runtime| async move {
        let dir = scratch();
        let path = dir.path().join("large");
        let file = runtime.open(&path, OpenMode::CreateNew).await.unwrap();
        file.allocate(256 << 20).await.unwrap();
        drop(file);
        runtime.remove_file(&path).await.unwrap();
        runtime.sleep(Duration::from_millis(1)).await;
    });
    // The threads are on their own by now.
    thread::sleep(Duration::from_millis(300));
    assert_eq!(ORPHANED.load(Relaxed), 0);
}
