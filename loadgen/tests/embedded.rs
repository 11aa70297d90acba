//! The real binary against the broker it embeds: exit codes, the JSON that scripts read, and that nothing is left behind.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long a run of some hundred milliseconds may take on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(120);

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable")
}

fn start(dir: &Path, flags: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--memory", "128MiB", "--dir", dir.to_str().unwrap()])
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built")
}

fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("not done after {PATIENCE:?}: {:?}", child.wait_with_output().unwrap());
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Runs with these flags, and checks that what was acknowledged was read, and that the directory is gone.
fn check_verified(flags: &[&str]) -> Value {
    let scratch = scratch();
    let dir: PathBuf = scratch.path().join("demo");
    let short = ["--duration", "300ms", "--warm-up", "100ms", "--json", "-"];
    let report = json(&finish(start(&dir, &[&short[..], flags].concat())));
    let count = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}"));
    assert!(count("/verify/acked") >= 100, "{report}");
    assert_eq!(count("/verify/acked"), count("/verify/read"), "{report}");
    for harm in ["lost", "duplicated", "reordered", "corrupt", "unknown"] {
        assert_eq!(report["verify"][harm], 0, "{report}");
    }
    assert!(!dir.exists(), "the directory is removed");
    report
}

#[test]
fn the_sdk_sends_and_everything_is_read_back() {
    let report = check_verified(&["--producers", "2", "--consumers", "2", "--batch-records", "100"]);
    assert_eq!(report["produce"]["errors"], 0);
    assert!(report["end_to_end"]["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["limits"]["t_sync_us"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn raw_batches_are_read_back_by_raw_consumers() {
    let report = check_verified(&["--raw", "--producers", "2", "--keys", "50", "--record-size", "600"]);
    assert!(report["end_to_end"]["latency_us"]["max"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn without_consumers_records_are_read_back_after_the_load() {
    let report = check_verified(&["--raw", "--consumers", "0", "--settle", "50ms", "--durability", "memory"]);
    assert_eq!(report["durability"], "memory");
    assert_eq!(report["end_to_end"]["latency_us"], Value::Null);
}

#[test]
fn a_schedule_is_kept() {
    let report = check_verified(&["--rate", "2000", "--partitions", "3"]);
    let records = report["produce"]["records"].as_u64().unwrap();
    assert!(records <= 700, "{records} records are more than were due");
    check_verified(&["--raw", "--rate", "2000", "--batch-records", "10"]);
}

#[test]
fn text_is_for_people_and_a_file_may_have_the_json() {
    let scratch = scratch();
    let file = scratch.path().join("report.json");
    let flags = ["--duration", "200ms", "--warm-up", "0s", "--no-verify", "--json", file.to_str().unwrap()];
    let output = finish(start(&scratch.path().join("demo"), &flags));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("produce [durable]") && text.contains("not verified"), "{text}");
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(report["verify"], Value::Null);
}

#[test]
fn what_cannot_be_is_refused_with_a_code_and_a_next_step() {
    let scratch = scratch();
    let check = |flags: &[&str], code: i32, words: &str| {
        let output = finish(
            Command::new(env!("CARGO_BIN_EXE_loadgen"))
                .args(flags)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {stderr}");
        assert!(stderr.contains(words), "{flags:?}: {stderr}");
    };
    check(&["--record-size", "3"], 2, "at least 16 bytes");
    check(&["--brokers", "127.0.0.1:1"], 5, "127.0.0.1:1");
    std::fs::write(scratch.path().join("theirs"), "precious").unwrap();
    check(&["--dir", scratch.path().to_str().unwrap()], 4, "choose another --dir");
}

#[test]
fn a_signal_ends_the_load_and_what_was_sent_is_still_checked() {
    let scratch = scratch();
    let dir = scratch.path().join("demo");
    let child = start(&dir, &["--duration", "10min", "--json", "-"]);
    let deadline = Instant::now() + PATIENCE;
    while !dir.join("data").exists() {
        assert!(Instant::now() < deadline, "the broker never started");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["verify"]["acked"], report["verify"]["read"]);
    assert!(!dir.exists(), "the directory is removed");
}
