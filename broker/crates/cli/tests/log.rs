//! The real binary looks into what a broker left behind, and never writes there.

mod support;

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use support::{Served, contents, expect_failure, lines, ok, run, scratch};

#[test]
fn a_stopped_directory_is_looked_into_and_never_written() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    let dir = data.to_str().unwrap();
    let broker = Served::start(&data);
    broker.ok(&["topic", "create", "orders", "-p", "2"], "");
    broker.ok(&["produce", "orders", "-p", "1"], &lines(0..100));
    for args in [&["log", "verify", dir][..], &["log", "inspect", dir]] {
        expect_failure(args, &run(args, ""), 4, &["held by a broker"]);
    }
    assert_eq!(broker.end(Signal::KILL), None);
    let before = contents(&data);

    let verified: Value = serde_json::from_str(&ok(&["log", "verify", dir, "-o", "json"])).unwrap();
    assert_eq!(verified["sound"], true, "{verified}");
    assert!(verified["groups"].as_u64() > Some(0));
    assert!(ok(&["log", "verify", dir]).contains("all that was written is there"));
    let seen: Value = serde_json::from_str(&ok(&["log", "inspect", dir, "-o", "json"])).unwrap();
    let partitions = seen["logs"][0]["partitions"].as_array().unwrap();
    let found = partitions.iter().find(|partition| partition["name"] == "orders/1").expect("it has records");
    assert_eq!((found["log_start"].as_u64(), found["log_end"].as_u64()), (Some(0), Some(100)));
    let text = ok(&["log", "inspect", dir]);
    assert!(text.contains("orders/1") && text.contains("not stopped cleanly"), "{text}");

    let records = ok(&[
        "log", "dump", dir, "--topic", "orders", "-p", "1", "--show", "records", "-o", "json", "--from", "10", "--to",
        "20",
    ]);
    let values: Vec<Value> = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let values: Vec<_> =
        values.iter().filter(|line| line["record"].is_u64()).map(|line| line["value"].clone()).collect();
    let expected: Vec<Value> = lines(10..20).lines().map(Into::into).collect();
    assert_eq!(values, expected);
    for (file, words) in
        [(".wal", &["group 1", "batch 0"][..]), ("manifest-", &["edit", "says Open"]), ("meta-", &["CreateTopic"])]
    {
        let path = before
            .keys()
            .filter(|path| path.contains(file))
            .max_by_key(|path| before[*path].iter().filter(|b| **b != 0).count());
        let text = ok(&["log", "dump", path.unwrap(), "--show", "entries"]);
        let text = text + &ok(&["log", "dump", path.unwrap()]);
        assert!(words.iter().all(|word| text.contains(word)), "{file}: {text}");
    }
    assert!(contents(&data) == before, "looking writes nothing");

    // Damage in the middle of what was synced.
    let wal = before.iter().filter(|(path, _)| path.ends_with(".wal"));
    let (wal, bytes) = wal.max_by_key(|(_, bytes)| bytes.iter().filter(|byte| **byte != 0).count()).unwrap();
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    fs::write(wal, &damaged).unwrap();
    let output = run(&["log", "verify", dir], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains(wal) && told.contains("damage:") && told.contains("at byte 0"), "{told}");

    let missing = scratch.path().join("missing");
    let args = ["log", "verify", missing.to_str().unwrap()];
    expect_failure(&args, &run(&args, ""), 3, &["missing"]);
}
