//! The real binary: a broker that is served, and commands run against it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod load;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a machine with other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn streambus(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streambus"));
    command.args(args).env_remove("STREAMBUS_BROKERS").env_remove("STREAMBUS_CONFIG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command with this standard input.
pub(crate) fn run(args: &[&str], input: &str) -> Output {
    let mut child = streambus(args).spawn().expect("the binary was built");
    // A command that fails early does not read all of it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    finish(child)
}

/// Runs a command that needs no broker and succeeds; returns what it printed.
pub(crate) fn ok(args: &[&str]) -> String {
    let output = run(args, "");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Lines of different lengths, each with its number.
pub(crate) fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("record {number} {}\n", "x".repeat(number as usize % 300))).collect()
}

/// Every file below a directory, and what is in it.
pub(crate) fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    found
}

pub(crate) fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    // Read while it runs: who waits for its output to be taken does not end.
    let (stdout, stderr) = (drained(child.stdout.take()), drained(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    match status {
        Some(status) => Output { status, stdout, stderr },
        None => panic!("not done after {PATIENCE:?}: {}", String::from_utf8_lossy(&stderr)),
    }
}

fn drained(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.map(|mut pipe| pipe.read_to_end(&mut bytes).unwrap());
        bytes
    })
}

/// A directory of its own below the target directory.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable")
}

/// A small broker on one core.
pub(crate) fn serve<'a>(dir: &'a Path, listen: &'a str) -> [&'a str; 9] {
    let dir = dir.to_str().expect("the target directory is UTF-8");
    ["serve", "--dir", dir, "--listen", listen, "--cores", "0", "--memory", "64MiB"]
}

/// A broker that was served, killed when dropped.
pub(crate) struct Served {
    child: Child,
    pub(crate) ready: Value,
}

impl Served {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    pub(crate) fn start_with(dir: &Path, flags: &[&str]) -> Self {
        Self::start_at(dir, "127.0.0.1:0", flags)
    }

    /// Starts one that listens here, and waits until it serves.
    pub(crate) fn start_at(dir: &Path, listen: &str, flags: &[&str]) -> Self {
        let serve = serve(dir, listen);
        // Its memory stands last, and may be given only once.
        let serve = if flags.contains(&"--memory") { &serve[..serve.len() - 2] } else { &serve[..] };
        let fixed = [serve, &["--admin-listen", "127.0.0.1:0", "-o", "json"], flags].concat();
        let mut child = streambus(&fixed).stderr(Stdio::inherit()).spawn().expect("the binary was built");
        let (sender, ready) = mpsc::channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            sender.send(line)
        });
        let mut served = Self { child, ready: Value::Null };
        let line = ready.recv_timeout(PATIENCE).expect("a broker says that it is ready");
        served.ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: not ready: {line:?}"));
        served
    }

    /// Starts one and kills it so much later, ready or not.
    pub(crate) fn kill_while_starting(dir: &Path, listen: &str, delay: Duration) {
        let args = [&serve(dir, listen)[..], &["--admin-listen", "off"]].concat();
        let mut child = streambus(&args).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        thread::sleep(delay);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts one that is to die at a named place, see `runtime::sabotage`; it may do so before it serves.
    pub(crate) fn start_dying(dir: &Path, listen: &str, place: &str) -> Self {
        let args = [&serve(dir, listen)[..], &["--admin-listen", "off"]].concat();
        let mut command = streambus(&args);
        command.env("STREAMBUS_DIE_AT", place).stdout(Stdio::null()).stderr(Stdio::inherit());
        Self { child: command.spawn().expect("the binary was built"), ready: Value::Null }
    }

    /// Whether it has aborted; any other end is a panic of the test.
    pub(crate) fn has_died(&mut self) -> bool {
        let Some(status) = self.child.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "it ended otherwise: {status}");
        true
    }

    /// Asks it to stop.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn address(&self) -> &str {
        self.ready["listen"].as_str().unwrap()
    }

    /// Memory that it takes of the machine now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// Runs a client command against it.
    pub(crate) fn run(&self, args: &[&str], input: &str) -> Output {
        run(&[args, &["--brokers", self.address()]].concat(), input)
    }

    /// Runs a client command that succeeds; returns what it printed.
    pub(crate) fn ok(&self, args: &[&str], input: &str) -> String {
        let output = self.run(args, input);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a client command that fails so.
    pub(crate) fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        expect_failure(args, &self.run(args, ""), code, words);
    }

    /// Sends a signal, and waits for the exit code.
    pub(crate) fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "not ended {PATIENCE:?} after {signal:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn expect_failure(args: &[&str], output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no {word:?} in {stderr}");
    }
    assert!(output.stdout.is_empty(), "{args:?}: messages belong on standard error: {output:?}");
}
