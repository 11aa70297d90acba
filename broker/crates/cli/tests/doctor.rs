//! Damage to what is stored, as an operator meets it: the broker names it and serves all else, `doctor` lists it and has
//! its loss accepted, and consumers are told what is lost.

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::Value;
use support::{Served, expect_failure, run, scratch};

/// What the record to be damaged says.
const VICTIM: &str = "a record that rots on the disk";

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

/// Flips a byte of the victim wherever it is stored.
fn rot(dir: &Path, extension: &str) {
    let mut rotten = 0;
    for path in files(dir, extension) {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(VICTIM.len()).position(|window| window == VICTIM.as_bytes()) {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            rotten += 1;
        }
    }
    assert_eq!(rotten, 1, "the record is in one {extension} file");
}

/// A broker with two partitions, the victim in the middle of partition 1.
fn broker_with_victim(dir: &Path) -> Served {
    let broker = Served::start(dir);
    broker.ok(&["topic", "create", "orders", "-p", "2"], "");
    for (partition, record) in [("1", "before\n"), ("0", "zero\n"), ("1", VICTIM), ("0", "one\n"), ("1", "behind\n")] {
        broker.ok(&["produce", "orders", "-p", partition], record);
    }
    broker
}

fn partition(broker: &Served, number: usize) -> Value {
    let described: Value =
        serde_json::from_str(&broker.ok(&["topic", "describe", "orders", "-o", "json"], "")).unwrap();
    described["partitions"][number].clone()
}

fn metrics(broker: &Served) -> String {
    let mut stream = TcpStream::connect(broker.ready["admin_listen"].as_str().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: it\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn damage_is_named_and_its_loss_accepted() {
    let dir = scratch();
    assert_eq!(broker_with_victim(dir.path()).end(Signal::KILL), None);
    rot(dir.path(), "wal");

    let broker = Served::start(dir.path());
    let damaged = partition(&broker, 1);
    assert_eq!((&damaged["error"], &damaged["refused_from"]), (&"PartitionRefused".into(), &1.into()), "{damaged}");
    assert_eq!(partition(&broker, 0)["error"], Value::Null);
    assert!(broker.ok(&["topic", "describe", "orders"], "").contains("damaged from 1 on"));
    let text = metrics(&broker);
    for line in [
        "streambus_partitions_refused{shard=\"0\"} 1",
        "streambus_partition_refused_from{shard=\"0\",topic=\"orders\",partition=\"1\"} 1",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }

    // The other partition serves, and so does this one in front of the damage.
    broker.ok(&["produce", "orders", "-p", "0"], "two\n");
    assert_eq!(broker.ok(&["consume", "orders", "-p", "0"], ""), "zero\none\ntwo\n");
    let produce = ["produce", "orders", "-p", "1"];
    expect_failure(&produce, &broker.run(&produce, "more\n"), 4, &["damaged"]);

    let listed = broker.run(&["doctor"], "");
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.contains("orders") && text.contains("DAMAGED FROM"), "{text}");
    assert!(String::from_utf8_lossy(&listed.stderr).contains("--accept-loss orders/1"), "{listed:?}");

    let accept = ["doctor", "--accept-loss", "orders/1"];
    broker.fails(&accept, 2, &["--yes"]);
    broker.fails(&["doctor", "--accept-loss", "orders/0", "--yes"], 4, &["orders/0 is not damaged"]);
    broker.fails(&["doctor", "--accept-loss", "orders/7", "--yes"], 3, &["no partition 7"]);
    assert_eq!(broker.ok(&[&accept[..], &["--dry-run"]].concat(), ""), "would give up offsets 1 to 2 of orders/1\n");
    assert_eq!(partition(&broker, 1)["error"], "PartitionRefused", "a dry run changes nothing");
    let accepted = broker.ok(&[&accept[..], &["--yes"]].concat(), "");
    assert_eq!(accepted, "gave up offsets 1 to 2 of orders/1\n");

    // It serves at once, and consumers hear of what is lost.
    broker.ok(&["produce", "orders", "-p", "1"], "after the loss\n");
    check_after_loss(&broker, "before\nafter the loss\n");
    assert_eq!(broker.end(Signal::KILL), None);
    let broker = Served::start(dir.path());
    check_after_loss(&broker, "before\nafter the loss\n");
    assert_eq!(broker.end(Signal::TERM), Some(0));
    let broker = Served::start(dir.path());
    check_after_loss(&broker, "before\nafter the loss\n");
    assert!(metrics(&broker).contains("streambus_partitions_refused{shard=\"0\"} 0"));
    assert_eq!(broker.ok(&["doctor"], ""), "no damage is known\n");
}

fn check_after_loss(broker: &Served, records: &str) {
    let consumed = broker.run(&["consume", "orders", "-p", "1"], "");
    assert_eq!(String::from_utf8_lossy(&consumed.stdout), records);
    let told = String::from_utf8_lossy(&consumed.stderr);
    assert!(told.contains("lost") && told.contains('1') && told.contains('3'), "{told}");
}

/// What a start found is in the manifest, for whoever looks without a broker.
#[test]
fn a_stopped_directory_tells_what_is_refused() {
    let dir = scratch();
    assert_eq!(broker_with_victim(dir.path()).end(Signal::KILL), None);
    rot(dir.path(), "wal");
    let broker = Served::start(dir.path());
    let path = dir.path().to_str().unwrap();
    let busy = run(&["doctor", path, "-o", "json"], "");
    assert!(String::from_utf8_lossy(&busy.stdout).contains("held by a running broker"), "{busy:?}");
    assert_eq!(broker.end(Signal::TERM), Some(0));

    let looked = run(&["doctor", path, "-o", "json"], "");
    assert_eq!(looked.status.code(), Some(1), "{looked:?}");
    let report: Value = serde_json::from_slice(&looked.stdout).unwrap();
    assert_eq!(report["refused"], serde_json::json!([{ "topic": "orders", "partition": 1, "refused_from": 1 }]));
    let passed = |what: &str| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["what"] == what);
        found.unwrap_or_else(|| panic!("no {what} in {report}"))["passed"] == true
    };
    assert!(passed("io_uring") && passed("direct I/O"), "{report}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left behind: LOCK, meta, shard-000");
}

/// The broker reads what it cannot prove from nobody's segment: the rest of the partition is served.
#[test]
fn damage_in_a_segment_refuses_what_it_holds_and_skips_nothing() {
    let dir = scratch();
    assert_eq!(broker_with_victim(dir.path()).end(Signal::TERM), Some(0));
    rot(dir.path(), "seg");
    let broker = Served::start(dir.path());
    let consumed = broker.run(&["consume", "orders", "-p", "1"], "");
    assert_eq!(consumed.status.code(), Some(4), "{consumed:?}");
    let printed = String::from_utf8_lossy(&consumed.stdout);
    assert!(!printed.contains("behind"), "something was skipped: {printed}");
    broker.ok(&["produce", "orders", "-p", "0"], "two\n");
    assert_eq!(broker.ok(&["consume", "orders", "-p", "0", "-o", "2"], ""), "two\n");
    // The partition takes records all the while; what the read met is named everywhere.
    broker.ok(&["produce", "orders", "-p", "1"], "after\n");
    let damaged = partition(&broker, 1);
    assert_eq!((&damaged["error"], &damaged["damaged_from"]), (&Value::Null, &0.into()), "{damaged}");
    assert!(broker.ok(&["topic", "describe", "orders"], "").contains("damaged at 0"));
    let text = metrics(&broker);
    for line in [
        "streambus_partitions_damaged{shard=\"0\"} 1",
        "streambus_partition_damaged_from{shard=\"0\",topic=\"orders\",partition=\"1\"} 0",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    let listed = broker.run(&["doctor"], "");
    assert_eq!(listed.status.code(), Some(1), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("serves the rest"), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stderr).contains("--accept-loss orders/1"), "{listed:?}");
}

/// Both partitions share the damaged block: each gives up what it has there, and then the block is gone.
#[test]
fn the_loss_of_what_a_damaged_segment_held_is_accepted() {
    let dir = scratch();
    assert_eq!(broker_with_victim(dir.path()).end(Signal::TERM), Some(0));
    rot(dir.path(), "seg");
    let broker = Served::start(dir.path());
    let accept = ["doctor", "--accept-loss", "orders/1", "--accept-loss", "orders/0"];
    let both = "offsets 0 to 2 of orders/1; offsets 0 to 1 of orders/0";
    assert_eq!(broker.ok(&[&accept[..], &["--dry-run"]].concat(), ""), format!("would give up {both}\n"));
    let looked: Value =
        serde_json::from_str(&broker.ok(&[&accept[..], &["--dry-run", "-o", "json"]].concat(), "")).unwrap();
    assert_eq!(looked[0]["lost"], serde_json::json!([{ "from": 0, "to": 3 }]), "{looked}");
    assert_eq!(looked[0]["damaged_segments"].as_array().map(Vec::len), Some(1), "{looked}");
    broker.fails(&accept, 2, &["--yes"]);
    let accepted = broker.ok(&[&accept[..], &["--yes"]].concat(), "");
    assert_eq!(accepted, "gave up offsets 0 to 2 of orders/1\ngave up offsets 0 to 1 of orders/0\n");
    broker.fails(&[&accept[..], &["--yes"]].concat(), 4, &["orders/1 is not damaged"]);
    broker.ok(&["produce", "orders", "-p", "1"], "after\n");
    check_after_loss(&broker, "after\n");
    assert_eq!(broker.end(Signal::KILL), None);

    let broker = Served::start(dir.path());
    check_after_loss(&broker, "after\n");
    assert_eq!(broker.ok(&["doctor"], ""), "no damage is known\n");
    assert_eq!(broker.end(Signal::TERM), Some(0));
    let verified = run(&["log", "verify", dir.path().to_str().unwrap()], "");
    assert_eq!(verified.status.code(), Some(0), "the damage is gone: {verified:?}");
}

#[test]
fn a_place_is_checked_before_anybody_is_asked() {
    let output = run(&["doctor", "--accept-loss", "orders"], "");
    expect_failure(&["doctor"], &output, 2, &["TOPIC/PARTITION"]);
}
