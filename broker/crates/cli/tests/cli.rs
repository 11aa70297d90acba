//! The real binary, end to end: a broker is served, topics are made, records go in and come out, also after a kill and a
//! restart, and every refusal has its exit code and its next step.

mod support;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    time::Instant,
};

use rustix::process::Signal;
use serde_json::Value;
use support::{PATIENCE, Served, expect_failure, finish, run, scratch, streambus};

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("record {number}\n")).collect()
}

#[test]
fn records_go_in_and_come_out() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    let created = broker.ok(&["topic", "create", "orders", "-p", "2"], "");
    assert_eq!(created, "topic orders created: 2 partitions, durable\n");
    assert_eq!(broker.ok(&["produce", "orders", "-p", "1"], &lines(0..100)), "");

    let all = lines(0..100);
    assert_eq!(broker.ok(&["consume", "orders"], ""), all);
    assert_eq!(broker.ok(&["consume", "orders", "-p", "0"], ""), "");
    assert_eq!(broker.ok(&["consume", "orders", "-p", "1", "-o", "97"], ""), lines(97..100));
    assert_eq!(broker.ok(&["consume", "orders", "-n", "3"], ""), lines(0..3));
    assert_eq!(broker.ok(&["consume", "orders", "-o", "end"], ""), "");
    assert_eq!(broker.ok(&["consume", "orders", "-o", "@0"], ""), all);
    assert_eq!(broker.ok(&["consume", "orders", "--follow", "-n", "100"], ""), all);
}

#[test]
fn compressed_records_come_out_as_they_went_in() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        broker.ok(&["topic", "create", codec], "");
        broker.ok(&["produce", codec, "-z", codec], &lines(0..2_000));
        assert_eq!(broker.ok(&["consume", codec], ""), lines(0..2_000), "{codec}");
        assert_eq!(broker.ok(&["consume", codec, "-o", "1995"], ""), lines(1_995..2_000), "{codec}");
    }
    broker.fails(&["produce", "none", "-z", "rar"], 2, &["possible values: none, gzip, snappy, lz4, zstd"]);
}

#[test]
fn the_last_value_of_a_key_is_got() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "users", "-p", "3", "--set", "cleanup.policy=compact"], "");
    let written: String = (0..300).map(|number| format!("user-{}:seen {number}\n", number % 100)).collect();
    let told = json_lines(&broker.ok(&["produce", "users", "-k", ":", "-z", "lz4", "-o", "json"], &written));
    assert_eq!(broker.ok(&["get", "users", "user-42"], ""), "seen 242\n");
    let found = &json_lines(&broker.ok(&["get", "users", "user-42", "-o", "json"], ""))[0];
    assert_eq!((&found["key"], &found["value"]), (&"user-42".into(), &"seen 242".into()));
    assert_eq!((&found["partition"], &found["offset"]), (&told[242]["partition"], &told[242]["offset"]));
    broker.fails(&["get", "users", "nobody"], 3, &["users", "nobody"]);
    broker.fails(&["get", "nowhere", "user-42"], 3, &["nowhere"]);
    broker.ok(&["topic", "create", "plain"], "");
    broker.fails(&["get", "plain", "user-42"], 2, &["NotCompacted", "cleanup.policy"]);

    assert_eq!(broker.end(Signal::TERM), Some(0));
    let broker = Served::start(dir.path());
    assert_eq!(broker.ok(&["get", "users", "user-99"], ""), "seen 299\n", "from a segment");
}

#[test]
fn json_says_it_all() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    let args = ["topic", "create", "events", "--set", "streambus.durability=memory", "-o", "json"];
    let created = json_lines(&broker.ok(&args, ""));
    assert_eq!((&created[0]["name"], &created[0]["durability"]), (&"events".into(), &"memory".into()));

    let told = json_lines(&broker.ok(&["produce", "events", "-k", ":", "-o", "json"], "a:1\nb:2\nno key\n"));
    assert_eq!(told.iter().map(|told| told["offset"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(told[0]["durability"], "memory");

    let records = json_lines(&broker.ok(&["consume", "events", "-o", "start", "-o", "json"], ""));
    let pairs: Vec<_> = records.iter().map(|record| (&record["key"], &record["value"])).collect();
    assert_eq!(pairs, [(&"a".into(), &"1".into()), (&"b".into(), &"2".into()), (&Value::Null, &"no key".into())]);
    assert!(records[0]["timestamp_ms"].as_i64().unwrap() > 1_700_000_000_000);

    let listed = json_lines(&broker.ok(&["topic", "list", "-o", "json"], ""));
    assert_eq!(listed[0][0]["partitions"], 1);
    let described = json_lines(&broker.ok(&["topic", "describe", "events", "-o", "json"], ""));
    assert_eq!(described[0]["partitions"][0]["high_watermark"], 3);
    assert_eq!(described[0]["settings"]["streambus.durability"], "memory");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders", "-p", "3"], "");
    broker.ok(&["produce", "orders", "-p", "2"], &lines(0..1_000));
    assert_eq!(broker.end(Signal::KILL), None, "killed, not ended");

    let broker = Served::start(dir.path());
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(0..1_000));
    broker.ok(&["produce", "orders", "-p", "2"], &lines(1_000..1_100));
    assert_eq!(broker.end(Signal::TERM), Some(0), "a clean stop");

    let broker = Served::start(dir.path());
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(0..1_100));
    assert_eq!(broker.end(Signal::INT), Some(0), "Ctrl-C stops as cleanly");
}

#[test]
fn tables_are_for_people() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    assert_eq!(broker.ok(&["topic", "list"], ""), "NAME  DURABILITY  PARTITIONS\n");
    broker.ok(&["topic", "create", "orders", "-p", "12"], "");
    broker.ok(&["topic", "create", "a", "--set", "streambus.durability=memory"], "");
    let expected = "NAME    DURABILITY  PARTITIONS\na       memory               1\norders  durable             12\n";
    assert_eq!(broker.ok(&["topic", "list"], ""), expected);
    let described = broker.ok(&["topic", "describe", "orders"], "");
    assert!(described.contains("durability  durable") && described.contains("PARTITION  STATE"), "{described}");
    assert_eq!(described.lines().filter(|line| line.contains("  ok  ")).count(), 12, "{described}");
}

#[test]
fn a_topic_is_deleted_only_when_someone_said_so() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders"], "");
    broker.ok(&["produce", "orders"], "one\n");
    broker.fails(&["topic", "delete", "orders"], 2, &["--yes"]);
    let would = broker.ok(&["topic", "delete", "orders", "--dry-run"], "");
    assert_eq!(would, "would delete topic orders: 1 partitions, 1 records\n");
    assert_eq!(broker.ok(&["consume", "orders"], ""), "one\n");
    broker.ok(&["topic", "delete", "orders", "--yes"], "");
    broker.fails(&["consume", "orders"], 3, &["no topic \"orders\"", "streambus topic create orders"]);
}

#[test]
fn settings_change_while_a_topic_is_served() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders"], "");
    broker.ok(&["produce", "orders"], "short enough before\n");
    let altered = broker.ok(&["topic", "alter", "orders", "--set", "max.message.bytes=80"], "");
    assert!(altered.contains("setting     max.message.bytes=80\n"), "{altered}");
    let produce = ["produce", "orders"];
    expect_failure(&produce, &broker.run(&produce, "a record that is too long by now\n"), 2, &["80"]);
    broker.ok(&["topic", "alter", "orders", "--unset", "max.message.bytes"], "");
    broker.ok(&["produce", "orders"], "short enough again\n");
    broker.fails(&["topic", "alter", "orders"], 2, &["--set"]);
    broker.fails(&["topic", "alter", "other", "--unset", "max.message.bytes"], 3, &["other"]);
    broker.fails(&["topic", "alter", "orders", "--set", "max.message.byte=1"], 2, &["did you mean max.message.bytes?"]);
    broker.fails(
        &["topic", "alter", "orders", "--set", "streambus.durability=memory"],
        2,
        &["fixed when a topic is created"],
    );
}

#[test]
fn records_are_deleted_only_when_someone_said_so() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders", "-p", "2"], "");
    broker.ok(&["produce", "orders", "-p", "1"], &lines(0..10));
    let trim = ["topic", "trim", "orders", "-p", "1"];
    let with = |more: &[&'static str]| [&trim[..], more].concat();
    broker.fails(&with(&["--before", "4"]), 2, &["--yes"]);
    let would = broker.ok(&with(&["--before", "4", "--dry-run"]), "");
    assert_eq!(would, "would delete 4 records of orders/1, those before offset 4\n");
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(0..10));
    broker.ok(&with(&["--before", "4", "--yes"]), "");
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(4..10));
    assert_eq!(broker.end(Signal::KILL), None, "killed, not ended");

    let broker = Served::start(dir.path());
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(4..10));
    let told = json_lines(&broker.ok(&with(&["--before", "end", "--yes", "-o", "json"]), ""));
    assert_eq!((&told[0]["log_start_offset"], &told[0]["deleted"]), (&10.into(), &6.into()));
    assert_eq!(broker.ok(&["consume", "orders"], ""), "");
    broker.ok(&["produce", "orders", "-p", "1"], &lines(10..12));
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(10..12));
    broker.fails(&with(&["--before", "13", "--yes"]), 2, &["offsets 10 to 12"]);
    broker.fails(&["topic", "trim", "orders", "-p", "2", "--before", "0"], 3, &["partitions 0 to 1"]);
    broker.fails(&["topic", "trim", "other", "-p", "0", "--before", "end"], 3, &["topic create other"]);
}

#[test]
fn what_is_too_old_goes() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders", "--set", "retention.ms=1"], "");
    broker.ok(&["topic", "create", "kept"], "");
    for topic in ["orders", "kept"] {
        broker.ok(&["produce", topic], &lines(0..10));
    }
    // Which flushes everything: what is not in segments stays.
    assert_eq!(broker.end(Signal::TERM), Some(0), "a clean stop");
    let broker = Served::start_with(dir.path(), &["--retention-check-every", "100ms"]);
    let deadline = Instant::now() + PATIENCE;
    let described = || json_lines(&broker.ok(&["topic", "describe", "orders", "-o", "json"], "")).remove(0);
    // Not by reading: a consumer that retention overtakes is told so.
    while described()["partitions"][0]["log_start_offset"] != 10 {
        assert!(Instant::now() < deadline, "nothing was deleted");
    }
    assert_eq!(described()["settings"]["retention.ms"], "1");
    assert_eq!(broker.ok(&["consume", "orders"], ""), "");
    assert_eq!(broker.ok(&["consume", "kept"], ""), lines(0..10));
}

#[test]
fn what_lies_in_segments_is_compressed_and_comes_out_as_it_went_in() {
    const SETTING: &str = "streambus.segment.compression";
    // Enough for a segment of its own, in one file of the log.
    let memory = ["--memory", "128MiB"];
    let line = |number: u32| format!("{number} {}\n", "the same words again and again ".repeat(32));
    let dir = scratch();
    let broker = Served::start_with(dir.path(), &memory);
    let zstd = format!("{SETTING}=zstd");
    broker.ok(&["topic", "create", "logs", "--set", &zstd], "");
    let refused = ["topic", "alter", "logs", "--set", "streambus.segment.compression=brotli"];
    broker.fails(&refused, 2, &[SETTING, "brotli", "none or lz4 or zstd"]);
    let described = || json_lines(&broker.ok(&["topic", "describe", "logs", "-o", "json"], "")).remove(0);
    assert_eq!(described()["settings"][SETTING], "zstd");
    assert!(broker.ok(&["topic", "describe", "logs"], "").contains(&zstd));
    let all: String = (0..12_000).map(line).collect();
    broker.ok(&["produce", "logs"], &all);
    assert_eq!(broker.end(Signal::TERM), Some(0), "a clean stop, which flushes everything");

    let broker = Served::start_with(dir.path(), &memory);
    let deadline = Instant::now() + PATIENCE;
    while segment_bytes(dir.path()) > all.len() as u64 / 8 {
        assert!(Instant::now() < deadline, "{} bytes of segments", segment_bytes(dir.path()));
    }
    assert_eq!(broker.ok(&["consume", "logs"], ""), all);
    assert_eq!(broker.ok(&["consume", "logs", "-o", "11999"], ""), line(11_999));
    assert_eq!(broker.end(Signal::TERM), Some(0));
    let verified = run(&["log", "verify", dir.path().to_str().unwrap()], "");
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
}

/// What the segments of all logs take.
fn segment_bytes(dir: &Path) -> u64 {
    // One that is being deleted may be gone by now.
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let bytes = entries.filter_map(|entry| {
        let (path, metadata) = (entry.path(), entry.metadata().ok()?);
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        Some(if metadata.is_dir() { segment_bytes(&path) } else { u64::from(is_segment) * metadata.len() })
    });
    bytes.sum()
}

#[test]
fn refusals_have_codes_and_a_next_step() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders"], "");
    broker.fails(&["topic", "create", "orders"], 4, &["orders", broker.address()]);
    broker.fails(&["topic", "create", "bad name"], 2, &["bad name"]);
    broker.fails(&["topic", "create", "other", "--set", "no.such=1"], 2, &["no.such"]);
    broker.fails(&["topic", "create", "other", "--set", "nonsense"], 2, &["KEY=VALUE"]);
    broker.fails(&["topic", "describe", "other"], 3, &["topic create other"]);
    broker.fails(&["produce", "other"], 3, &["topic create other"]);
    broker.fails(&["consume", "orders", "-p", "7"], 3, &["partitions 0 to 0"]);
    broker.fails(&["consume", "orders", "-o", "soon"], 2, &["@milliseconds"]);

    let output = broker.run(&["topic", "describe", "other", "-o", "json"], "");
    let failure: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(failure["code"], "not_found");
    assert!(failure["hint"].as_str().unwrap().contains("topic create other"), "{failure}");
}

#[test]
fn nobody_there_is_unavailable() {
    let args = ["topic", "list", "--brokers", "127.0.0.1:1"];
    expect_failure(&args, &run(&args, ""), 5, &["127.0.0.1:1", "streambus serve"]);
}

#[test]
fn where_brokers_are_may_come_from_the_environment() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    let output =
        streambus(&["topic", "list", "-o", "json"]).env("STREAMBUS_BROKERS", broker.address()).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "[]\n");
}

#[test]
fn a_closed_output_is_no_failure() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders"], "");
    broker.ok(&["produce", "orders"], &lines(0..20_000));
    let mut child = streambus(&["consume", "orders", "--brokers", broker.address()]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "record 0\n");
    let output = finish(child);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_broker_that_cannot_serve_says_why() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    let fails = |args: &[&str], code: i32, words: &[&str]| {
        let other = scratch();
        let dir = other.path().to_str().unwrap();
        let args =
            [&["serve", "--dir", dir, "--admin-listen", "off", "--cores", "0", "--memory", "64MiB"], args].concat();
        expect_failure(&args, &run(&args, ""), code, words);
    };
    fails(&["--listen", broker.address()], 1, &[broker.address()]);
    fails(&["--listen", "0.0.0.0:0"], 2, &["insecure"]);
    fails(&["--log-level", "loud"], 2, &["loud", "--log-level"]);
    fails(&["--config", "/no/such/file"], 2, &["/no/such/file"]);

    let in_use = dir.path().to_str().unwrap();
    let args = ["serve", "--dir", in_use, "--listen", "127.0.0.1:0", "--admin-listen", "off", "--cores", "0"];
    expect_failure(&args, &run(&args, ""), 1, &[in_use]);
}

#[test]
fn settings_come_from_flags_environment_and_file() {
    let dir = scratch();
    let file = dir.path().join("streambus.toml");
    std::fs::write(&file, "memory = \"128 MiB\"\nnode = 3\n").unwrap();
    let args = ["serve", "--config", file.to_str().unwrap()];
    expect_failure(&args, &run(&args, ""), 2, &["node", "streambus.toml:2"]);

    std::fs::write(&file, "memory = \"128 MiB\"\n[node]\nid = 3\n").unwrap();
    let data = dir.path().join("data");
    let broker = Served::start_with(&data, &["--config", file.to_str().unwrap()]);
    assert_eq!(broker.ready["memory_bytes"], 64 << 20, "the flag wins over the file");
    assert_eq!(broker.ready["cores"][0], 0);
    assert!(broker.ready["ready_ms"].as_f64().unwrap() > 0.0);

    let output = streambus(&["serve"]).env("STREAMBUS_LOG_LEVEL", "loud").output().unwrap();
    expect_failure(&["serve"], &output, 2, &["loud", "STREAMBUS_LOG_LEVEL"]);
}
