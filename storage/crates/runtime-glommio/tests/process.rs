//! What shows only in a process of its own: signals and limits. This program runs itself once per case.

use std::{
    env,
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use runtime_glommio::{Options, Placement, prepare_process, run_shards};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

const CASE: &str = "ADAPTER_PROCESS_CASE";

fn main() {
    match env::var(CASE).as_deref() {
        Ok("signals") => tell_signals(),
        Ok("locked memory") => tell_why_no_shard_starts(),
        Ok(other) => panic!("no case {other}"),
        Err(_) => {
            signals_become_messages();
            a_low_limit_is_named();
        }
    }
}

fn signals_become_messages() {
    let (mut child, mut lines) = start("signals");
    let mut line = || lines.next().map(Result::unwrap);
    assert_eq!(line().as_deref(), Some("ready"));
    for (signal, expected) in [(Signal::TERM, "Terminate"), (Signal::INT, "Interrupt"), (Signal::INT, "Interrupt")] {
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(line().as_deref(), Some(expected));
    }
    assert_eq!(line(), None);
    assert!(child.wait().unwrap().success());
    println!("signals become messages ... ok");
}

fn tell_signals() {
    let signals = prepare_process().unwrap();
    end_anyway();
    for resource in [Resource::Memlock, Resource::Nofile] {
        let limit = getrlimit(resource);
        assert_eq!(limit.current, limit.maximum);
    }
    // A shard inherits the mask, so that its thread does not take the signal.
    let shards = run_shards(Placement::Anywhere(1), Options::default(), move |_, _| {
        let signals = signals.clone();
        async move {
            say("ready");
            for _ in 0..3 {
                say(&format!("{:?}", signals.receive().await));
            }
        }
    });
    shards.unwrap().join();
}

fn a_low_limit_is_named() {
    let (mut child, lines) = start("locked memory");
    let said: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(said, ["too little memory may be locked: 65536 bytes, at least 524288 needed (ulimit -l)"]);
    assert!(child.wait().unwrap().success());
    println!("a low limit is named ... ok");
}

fn tell_why_no_shard_starts() {
    end_anyway();
    setrlimit(Resource::Memlock, Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) }).unwrap();
    let refused = run_shards(Placement::Anywhere(1), Options::default(), |_, _| async {}).err().unwrap();
    say(&refused.to_string());
}

fn start(case: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(env::current_exe().unwrap());
    let mut child = command.env(CASE, case).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

/// Bounds a child's life: by its parent's, and by a minute.
fn end_anyway() {
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    thread::spawn(|| {
        thread::sleep(Duration::from_mins(1));
        std::process::exit(1);
    });
}
