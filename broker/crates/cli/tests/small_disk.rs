//! A disk of its own that is full: ext4 on a loop device, filled by the broker and by a neighbour.
//!
//! Needs root and loop devices, so a plain `cargo test` leaves it out; `.ci/run small_disk` runs it, and
//! `cargo test -p streambus-cli --test small_disk -- --nocapture`.

mod support;

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use streambus::{Client, Error, ProducerRecord};
use support::{PATIENCE, Served, run, scratch, serve};
use tempfile::TempDir;

/// Room on the disk, file system included.
const DISK_BYTES: u64 = 192 << 20;
const RECORD_BYTES: usize = 100 << 10;
/// How soon a broker sees that space came or went.
const RESUMES_WITHIN: Duration = Duration::from_secs(10);
const FLAGS: [&str; 2] = ["--disk-reserve-bytes", "8MiB"];

/// A mounted file system in a file, gone when dropped.
struct Disk {
    _home: TempDir,
    mount: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let home = scratch();
        let (image, mount) = (home.path().join("disk.ext4"), home.path().join("mount"));
        File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
        fs::create_dir(&mount).unwrap();
        let disk = Self { _home: home, mount };
        // No share kept for root: what is free for others is free for this test.
        system("mkfs.ext4", &["-q", "-m", "0", image.to_str().unwrap()]);
        system("mount", &["-o", "loop", image.to_str().unwrap(), disk.mount.to_str().unwrap()]);
        disk
    }

    fn data(&self) -> PathBuf {
        self.mount.join("data")
    }

    fn free_bytes(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.mount).unwrap();
        space.f_bavail * space.f_frsize
    }

    /// A neighbour writes until nothing is left.
    fn fill(&self) -> PathBuf {
        let path = self.mount.join("neighbour");
        let mut file = File::create(&path).unwrap();
        for bytes in [1 << 20, 4096] {
            while file.write_all(&vec![7; bytes]).is_ok() {}
        }
        let _ = file.sync_all();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
    }
}

fn system(command: &str, args: &[&str]) {
    let output = Command::new(command).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn metric(broker: &Served, name: &str) -> u64 {
    let mut stream = TcpStream::connect(broker.ready["admin_listen"].as_str().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: it\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("streambus_{name}{{shard=\"0\"}} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Waits until the broker refuses records, or takes them again; how long that took.
fn wait_until_full(broker: &Served, full: bool) -> Duration {
    let started = Instant::now();
    while (metric(broker, "disk_full") == 1) != full {
        assert!(started.elapsed() < RESUMES_WITHIN, "disk_full is not {full} after {RESUMES_WITHIN:?}");
        thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}

/// Record `number`, all of whose bytes say so.
fn record(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(RECORD_BYTES / 8)
}

/// Produces records from `first` on until one is refused; how many there are then.
fn produce(broker: &Served, topic: &str, first: u64, most: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(broker.address()).await.unwrap();
        let timeout = Duration::from_secs(2);
        let producer = client.producer().topic(topic).delivery_timeout(timeout).build().await.unwrap();
        for number in first..first + most {
            let value = record(number);
            let sent = producer.send(ProducerRecord::value(&value)).await.unwrap().await;
            match sent {
                Ok(delivery) => assert_eq!(delivery.offset, number),
                Err(Error::DeliveryTimeout { reason, .. }) => {
                    assert!(reason.contains("disk is full"), "{reason}");
                    return number;
                }
                Err(error) => panic!("{error}"),
            }
        }
        first + most
    })
}

/// Reads a topic back; how many records there are, each of them right.
fn consume(broker: &Served, topic: &str) -> u64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(broker.address()).await.unwrap();
        let end = client.admin().describe_topic(topic).await.unwrap().partitions[0].high_watermark;
        let mut consumer = client.consumer().topic(topic).build().await.unwrap();
        for number in 0..end {
            let found = consumer.recv().await.unwrap();
            assert_eq!(found.offset, number);
            assert!(found.value.as_deref() == Some(&record(number)[..]), "record {number} is not what was sent");
        }
        end
    })
}

#[test]
fn a_broker_fills_its_disk() {
    let disk = Disk::new();
    let broker = Served::start_with(&disk.data(), &FLAGS);
    broker.ok(&["topic", "create", "large"], "");
    broker.ok(&["topic", "create", "kept"], "");
    let mut kept = produce(&broker, "kept", 0, 20);
    let large = produce(&broker, "large", 0, 10_000);
    assert_eq!(metric(&broker, "disk_full"), 1);
    assert!(large > 200, "{large} records of {RECORD_BYTES} bytes filled the disk");

    // Everything but produce goes on, again and again.
    let free = disk.free_bytes();
    assert!(free >= 8 << 20, "{free} bytes are left of the reserve");
    assert_eq!((consume(&broker, "large"), consume(&broker, "kept")), (large, kept));
    broker.ok(&["topic", "create", "more"], "");
    broker.ok(&["topic", "delete", "more", "--yes"], "");
    assert_eq!(metric(&broker, "disk_full"), 1, "it stays full by itself");

    // So does a start after a kill.
    assert_eq!(broker.end(Signal::KILL), None);
    let broker = Served::start_with(&disk.data(), &FLAGS);
    assert_eq!((consume(&broker, "large"), consume(&broker, "kept")), (large, kept));
    wait_until_full_after_a_record(&broker, &mut kept);

    // Deletion makes room, and records are taken again by themselves.
    broker.ok(&["topic", "delete", "large", "--yes"], "");
    let resumed = wait_until_full(&broker, false);
    kept = produce(&broker, "kept", kept, 10);
    assert_eq!(consume(&broker, "kept"), kept);
    assert_eq!(broker.end(Signal::TERM), Some(0));
    let broker = Served::start_with(&disk.data(), &FLAGS);
    assert_eq!(consume(&broker, "kept"), kept);
    println!("{} acknowledged records verified, 0 lost; resumed {resumed:?} after a deletion", large + kept);
}

/// A broker that just started looks at the disk when it has work.
fn wait_until_full_after_a_record(broker: &Served, kept: &mut u64) {
    *kept = produce(broker, "kept", *kept, 1);
    wait_until_full(broker, true);
}

#[test]
fn a_neighbour_fills_the_disk() {
    let disk = Disk::new();
    let broker = Served::start_with(&disk.data(), &FLAGS);
    broker.ok(&["topic", "create", "orders"], "");
    let mut stored = produce(&broker, "orders", 0, 100);
    let neighbour = disk.fill();
    assert!(disk.free_bytes() < 4096);
    stored = produce(&broker, "orders", stored, 10_000);
    assert_eq!(metric(&broker, "disk_full"), 1);
    assert_eq!(consume(&broker, "orders"), stored);

    // It lives through that, and resumes by itself.
    fs::remove_file(&neighbour).unwrap();
    let resumed = wait_until_full(&broker, false);
    stored = produce(&broker, "orders", stored, 100);

    // Ended on a full disk, it starts, or says in one line what to free; then it has everything.
    let neighbour = disk.fill();
    stored = produce(&broker, "orders", stored, 10_000);
    assert_eq!(broker.end(Signal::KILL), None);
    let data = disk.data();
    let args = [&serve(&data, "127.0.0.1:0")[..], &["--admin-listen", "off"], &FLAGS].concat();
    let refused = run(&args, "");
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    let told = message.lines().filter(|line| line.contains("free at least")).count();
    assert_eq!(told, 1, "{message}");
    fs::remove_file(&neighbour).unwrap();
    let broker = Served::start_with(&disk.data(), &FLAGS);
    assert_eq!(consume(&broker, "orders"), stored);
    stored = produce(&broker, "orders", stored, 10);
    assert_eq!(consume(&broker, "orders"), stored);
    println!("{stored} acknowledged records verified, 0 lost; resumed {resumed:?} after the neighbour left");
}
