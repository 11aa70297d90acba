//! `kill -9` under load, again and again, and the history checker over everything the clients were told.
//!
//! `cargo test` does three cycles. The campaign: `STREAMBUS_KILLS=100 cargo test --release -p streambus-cli --test
//! kill_loop -- --nocapture`. A third of the kills wait until a flush is running, a third hit the recovery of the one
//! before. A cycle ends only when at least 1,000 records were newly acknowledged.

mod support;

use std::time::{Duration, Instant};

use history::{Faults, Verdict};
use rustix::process::Signal;
use support::{
    Served,
    load::{Load, wait_until},
    scratch,
};

const KILLS_DEFAULT: u64 = 3;

#[test]
fn nothing_acknowledged_is_lost_across_kills() {
    let kills = std::env::var("STREAMBUS_KILLS").map_or(KILLS_DEFAULT, |text| text.parse().expect("a number"));
    let seed = std::env::var("STREAMBUS_SEED").map_or(1, |text| text.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    runtime.block_on(campaign(kills, seed));
}

async fn campaign(kills: u64, mut seed: u64) {
    let home = scratch();
    let dir = home.path().join("data");
    let mut broker = Served::start(&dir);
    let address = broker.address().to_owned();
    let load = Load::begin(&address, seed).await;
    let mut faults = Faults::new();
    let mut restarts = Vec::new();
    for kill in 0..kills {
        load.go_on().await;
        let kind = ["kill under load", "kill during flush", "kill during recovery"][(kill % 3) as usize];
        if kind == "kill during flush" {
            wait_until("a flush runs", || is_flushing(&dir)).await;
        } else {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            tokio::time::sleep(Duration::from_micros(seed >> 49)).await;
        }
        faults.schedule(kind);
        assert_eq!(broker.end(Signal::KILL), None, "killed, not ended");
        faults.fire(kind, load.now());
        if kind == "kill during recovery" {
            Served::kill_while_starting(&dir, &address, Duration::from_micros(seed % 12_000));
        }
        let started = Instant::now();
        broker = Served::start_at(&dir, &address, &[]);
        restarts.push(started.elapsed());
    }
    let report = load.end(faults).await;
    restarts.sort();
    let median = restarts.get(restarts.len() / 2).copied().unwrap_or_default();
    println!("{kills} kills, restart p50 {median:?}, max {:?}\n{report}", restarts.last());
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
    assert_eq!(broker.end(Signal::TERM), Some(0), "the last stop is clean");
}

/// Whether segments are being written: an intent's file is there that the last look did not see finished.
fn is_flushing(dir: &std::path::Path) -> bool {
    let Ok(shards) = std::fs::read_dir(dir) else { return false };
    shards.flatten().any(|shard| {
        let segments = shard.path().join("segments");
        let newest = |entry: std::fs::DirEntry| entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        std::fs::read_dir(segments)
            .is_ok_and(|files| files.flatten().filter_map(newest).any(|age| age < Duration::from_millis(20)))
    })
}
