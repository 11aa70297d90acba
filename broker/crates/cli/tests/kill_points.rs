//! The real binary dies at every named place, again and again, under load; the history checker judges what the clients
//! were told.
//!
//! The places stand in the code as `die_at("…")`: where one write is done and the next, which belongs to it, is not. A
//! round visits each once, at its first, second or third passing. `cargo test` does three deaths, one round: `
//! STREAMBUS_KILLS=19 cargo test -p streambus-cli --test kill_points -- --nocapture`; the campaign: `STREAMBUS_KILLS=500`.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use history::{Faults, Verdict};
use rustix::process::Signal;
use streambus::{Client, NewTopic};
use support::{
    Served,
    load::{Load, wait_until},
    scratch,
};

const KILLS_DEFAULT: u64 = 3;

/// Every place, in an order in which each leaves what the next one needs: a merge that was cut short is tried again at
/// once.
const PLACES: [&str; 19] = [
    "tail cut",
    "topic created",
    "flush intended",
    "log opened",
    "group written",
    "memtable sealed",
    "segments written",
    "flush noted",
    "WAL file released",
    "snapshot written",
    "snapshot named",
    "snapshot alone",
    "topic deleted",
    "partition dropped",
    "partition forgotten",
    "partitions erased",
    "merge intended",
    "merged",
    "merge noted",
];

/// Passed only by a clean stop.
const AT_THE_END: &str = "all flushed";

#[test]
fn nothing_acknowledged_is_lost_wherever_the_broker_dies() {
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
    // A start has nothing to cut where nothing was written.
    load.go_on().await;
    let churn = tokio::spawn(churn(load.client.clone()));
    let mut faults = Faults::new();
    let mut deaths: BTreeMap<&str, u64> = BTreeMap::new();
    for kill in 0..kills {
        let place = PLACES[(kill % PLACES.len() as u64) as usize];
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        faults.schedule(place);
        broker.end(Signal::KILL);
        // A start passes some places only once.
        let time = if place.starts_with("snapshot") || place == "group written" { 1 + (seed >> 33) % 3 } else { 1 };
        let mut dying = Served::start_dying(&dir, &address, &format!("{place}#{time}"));
        wait_until(&format!("the broker dies at {place:?}"), || dying.has_died()).await;
        faults.fire(place, load.now());
        *deaths.entry(place).or_default() += 1;
        broker = Served::start_at(&dir, &address, &[]);
        load.go_on().await;
    }
    broker = die_at_the_end(broker, &dir, &address).await;
    churn.abort();
    let report = load.end(faults).await;
    println!("{} kills at {} named places\n{deaths:?}\n{report}", kills + 1, deaths.len() + 1);
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
    assert_eq!(broker.end(Signal::TERM), Some(0), "the last stop is clean");
}

/// Stops cleanly, almost.
async fn die_at_the_end(broker: Served, dir: &Path, address: &str) -> Served {
    broker.end(Signal::KILL);
    let mut dying = Served::start_dying(dir, address, AT_THE_END);
    let deadline = Instant::now() + Duration::from_secs(60);
    while Client::connect(address).await.is_err() {
        assert!(Instant::now() < deadline, "it does not serve");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    dying.signal(Signal::TERM);
    wait_until("the broker dies at its end", || dying.has_died()).await;
    Served::start_at(dir, address, &[])
}

/// Creates and deletes topics without end; whoever dies meanwhile is asked again.
async fn churn(client: Client) {
    for number in 0u64.. {
        let name = format!("churn-{}", number % 8);
        let _ = client.admin().create_topic(NewTopic::new(&name).partitions(2)).await;
        let _ = client.admin().delete_topic(&name).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn every_place_in_the_code_is_visited() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).expect("the workspace");
    let mut found = BTreeSet::new();
    for dir in ["storage/src", "broker/src"] {
        collect(&root.join(dir), &mut found);
    }
    let visited: BTreeSet<String> = PLACES.iter().chain([&AT_THE_END]).map(|place| place.to_string()).collect();
    assert_eq!(found, visited);
}

/// The names of all places in the sources below `dir`.
fn collect(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in
        std::fs::read_dir(dir).expect("sources are there").map(|entry| entry.expect("they can be listed").path())
    {
        if entry.is_dir() {
            collect(&entry, found);
        } else {
            let text = std::fs::read_to_string(&entry).expect("sources are UTF-8");
            let places =
                text.split("die_at(\"").skip(1).map(|rest| rest.split('"').next().unwrap_or_default().to_owned());
            found.extend(places);
        }
    }
}
