//! The real binary: backups of a broker under load, restored and served, and what is refused.

mod support;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use streambus::{Client, NewTopic, OffsetAt, ProducerRecord, SeekTo, State};
use support::{Served, contents, expect_failure, lines, load::wait_until, ok, run, scratch, streambus};

/// Partitions of the topic under load.
const PARTITIONS: u32 = 4;
const RECORD_BYTES: usize = 2000;
/// Records of each partition from one backup to the next.
const STEP: u64 = 1500;

/// What the record at this offset of a partition says.
fn record(partition: u32, offset: u64) -> Vec<u8> {
    let mut value = format!("{partition}/{offset} ").into_bytes();
    value.resize(RECORD_BYTES, offset as u8);
    value
}

/// Writers to each partition, and somebody who creates topics and deletes them.
struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<[AtomicU64; PARTITIONS as usize]>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn begin(address: &str) -> Self {
        let client = Client::connect(address).await.unwrap();
        client.admin().create_topic(NewTopic::new("orders").partitions(PARTITIONS)).await.unwrap();
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU64::new(0) }; 4]));
        let mut tasks = vec![tokio::spawn(come_and_go(client.clone(), Arc::clone(&stop)))];
        for partition in 0..PARTITIONS {
            tasks.push(tokio::spawn(write(client.clone(), partition, Arc::clone(&acked), Arc::clone(&stop))));
        }
        Self { stop, acked, tasks }
    }

    fn acked(&self) -> Vec<u64> {
        self.acked.iter().map(|acked| acked.load(Ordering::SeqCst)).collect()
    }

    async fn go_on(&self) {
        let wanted: Vec<_> = self.acked().iter().map(|acked| acked + STEP).collect();
        wait_until("records are taken", || self.acked().iter().zip(&wanted).all(|(acked, wanted)| acked >= wanted))
            .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn write(client: Client, partition: u32, acked: Arc<[AtomicU64; 4]>, stop: Arc<AtomicBool>) {
    let producer = client.producer().topic("orders").build().await.unwrap();
    let mut next = 0;
    while !stop.load(Ordering::SeqCst) {
        let mut deliveries = Vec::new();
        for offset in next..next + 50 {
            let value = record(partition, offset);
            deliveries.push(producer.send(ProducerRecord::value(&value).partition(partition)).await.unwrap());
        }
        for delivery in deliveries {
            assert_eq!(delivery.await.unwrap().offset, next);
            next += 1;
            acked[partition as usize].store(next, Ordering::SeqCst);
        }
    }
}

async fn come_and_go(client: Client, stop: Arc<AtomicBool>) {
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let name = format!("short-lived-{number}");
        client.admin().create_topic(NewTopic::new(&name)).await.unwrap();
        let producer = client.producer().topic(&name).build().await.unwrap();
        producer.send(ProducerRecord::value("gone soon")).await.unwrap().await.unwrap();
        producer.close().await.unwrap();
        client.admin().delete_topic(&name).await.unwrap();
    }
}

/// Reads a partition from its start, and checks every record. Answers how many there are.
async fn read(client: &Client, partition: u32) -> u64 {
    let end = client.admin().list_offsets("orders", OffsetAt::Latest).await.unwrap()[partition as usize];
    let builder = client.consumer().partitions("orders", [partition]).start(SeekTo::Offset(0));
    let mut consumer = builder.build().await.unwrap();
    let mut next = 0;
    while next < end {
        for found in consumer.recv_batch().await.unwrap().records() {
            assert_eq!(found.offset, next);
            assert!(found.value == Some(&record(partition, next)[..]), "record {next} of partition {partition}");
            next += 1;
        }
    }
    next
}

#[test]
fn backups_under_load_hold_everything_that_was_acknowledged_when_they_began() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(backups_under_load());
}

async fn backups_under_load() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (data, store) = (at("data"), at("store"));
    let broker = Served::start(data.as_ref());
    let address = broker.address().to_owned();
    let load = Load::begin(&address).await;
    let create = ["backup", "create", "--dir", &data, &store, "--brokers", &address, "-o", "json"];
    let mut began_with = Vec::new();
    for number in 1..=3_u64 {
        load.go_on().await;
        began_with.push(load.acked());
        let made: Value = serde_json::from_str(&ok(&create)).unwrap();
        println!("{made}, begun with {:?}, ended with {:?}", began_with.last(), load.acked());
        assert_eq!(made["backup"], number);
        let (bytes, copied_bytes) = (made["bytes"].as_u64().unwrap(), made["copied_bytes"].as_u64().unwrap());
        assert!(copied_bytes > 0 && (number == 1) == (copied_bytes == bytes), "the first copies all: {made}");
        if number == 2 {
            // One that is killed leaves those before it as they are, and the next one goes on.
            load.go_on().await;
            let mut cut_short = 0;
            for delay_ms in [20, 60, 150] {
                let mut killed = streambus(&create).spawn().unwrap();
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                cut_short += u32::from(killed.try_wait().unwrap().is_none());
                killed.kill().unwrap();
                killed.wait().unwrap();
            }
            assert!(cut_short > 0, "a backup takes longer than that");
            ok(&["backup", "verify", &store]);
            let whole: Vec<Value> = serde_json::from_str(&ok(&["backup", "list", &store, "-o", "json"])).unwrap();
            // A backup may have been finished all the same.
            let last = whole.last().unwrap()["backup"].as_u64().unwrap();
            for backup in 3..=last {
                fs::remove_file(format!("{store}/backup-{backup:08}.json")).unwrap();
            }
        }
    }
    load.end().await;
    assert_eq!(broker.end(Signal::KILL), None);
    let verified = ok(&["backup", "verify", &store]);
    assert!(verified.contains("in 3 backups"), "{verified}");

    for (number, began_with) in (1..).zip(began_with) {
        let restored = at(&format!("restored-{number}"));
        let told = ok(&["backup", "restore", &store, "--dir", &restored, "--backup", &number.to_string()]);
        assert!(told.contains("all checksums hold"), "{told}");
        let broker = Served::start(restored.as_ref());
        let client = Client::connect(broker.address()).await.unwrap();
        assert_eq!(client.admin().health().await.unwrap().state, State::Serving, "nothing in it is unknown");
        for (partition, began_with) in (0..).zip(began_with) {
            let found = read(&client, partition).await;
            assert!(found >= began_with, "{found} of {began_with} records in partition {partition}");
        }
        broker.ok(&["produce", "orders"], "and on\n");
        assert_eq!(broker.end(Signal::TERM), Some(0));
    }
}

#[test]
fn a_killed_brokers_directory_is_copied_with_all_that_was_acknowledged() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (data, store) = (at("data"), at("store"));
    let broker = Served::start(data.as_ref());
    broker.ok(&["topic", "create", "orders"], "");
    broker.ok(&["produce", "orders"], &lines(0..300));
    assert_eq!(broker.end(Signal::KILL), None);
    ok(&["backup", "create", "--dir", &data, &store]);
    ok(&["backup", "restore", &store, "--dir", &at("restored")]);
    let broker = Served::start(at("restored").as_ref());
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(0..300));

    // Another broker than that of the directory is told apart.
    let args = ["backup", "create", "--dir", &at("restored"), &store];
    let other = Served::start(data.as_ref());
    let address = other.address();
    let args = [&args[..], &["--brokers", address]].concat();
    expect_failure(&args, &run(&args, ""), 1, &["not the log"]);
}

#[test]
fn nothing_is_restored_that_does_not_hold_and_nothing_is_written_over() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (data, store) = (at("data"), at("store"));
    let broker = Served::start(data.as_ref());
    broker.ok(&["topic", "create", "orders"], "");
    broker.ok(&["produce", "orders"], &lines(0..100));
    assert_eq!(broker.end(Signal::TERM), Some(0));
    let fails = |args: &[&str], code: i32, words: &[&str]| expect_failure(args, &run(args, ""), code, words);

    fails(&["backup", "create", "--dir", &data, &at("data/backups")], 2, &["one in the other"]);
    fails(&["backup", "create", "--dir", &at("nothing"), &store], 3, &[]);
    fails(&["backup", "restore", &at("nothing"), "--dir", &at("new")], 3, &[]);
    ok(&["backup", "create", "--dir", &data, &store]);
    fails(&["backup", "restore", &store, "--dir", &data], 4, &["not empty"]);

    // A copy that rotted.
    let stored: Vec<_> = contents(store.as_ref()).into_iter().filter(|(path, _)| path.contains('@')).collect();
    assert!(stored.len() > 2, "{}", stored.len());
    for (path, bytes) in &stored {
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 3] ^= 1;
        fs::write(path, damaged).unwrap();
        fails(&["backup", "restore", &store, "--dir", &at("new")], 1, &["damaged", path]);
        assert!(!Path::new(&at("new")).exists(), "it has no name before it holds");
        fs::write(path, bytes).unwrap();
        fs::remove_dir_all(at("new.restoring")).unwrap();
    }

    // A list that somebody made up, whose checksum holds.
    let list = at("store/backup-00000001.json");
    let good: Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    for path in ["../../outside", "/etc/outside", "meta/../../outside"] {
        let mut evil = good.clone();
        evil["files"][0]["path"] = path.into();
        let files: Vec<String> = evil["files"].as_array().unwrap().iter().map(listed).collect();
        evil["checksum"] = crc32c::crc32c(format!("[{}]", files.join(",")).as_bytes()).into();
        fs::write(&list, pad(serde_json::to_vec(&evil).unwrap())).unwrap();
        fails(&["backup", "restore", &store, "--dir", &at("new")], 1, &["no file of a data directory"]);
    }
    let mut torn = good.clone();
    torn["files"].as_array_mut().unwrap().pop();
    fs::write(&list, pad(serde_json::to_vec(&torn).unwrap())).unwrap();
    fails(&["backup", "restore", &store, "--dir", &at("new")], 1, &["checksum"]);
    assert!(!Path::new(&at("new")).exists() && !Path::new(&at("outside")).exists());
}

/// A file of the list as the program writes it: fields in their order.
fn listed(file: &Value) -> String {
    format!(
        r#"{{"path":{},"generation":{},"bytes":{},"crc":{}}}"#,
        file["path"], file["generation"], file["bytes"], file["crc"]
    )
}

fn pad(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4096), b' ');
    bytes
}

#[test]
fn old_backups_go_and_what_newer_ones_need_stays() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (data, store) = (at("data"), at("store"));
    for life in 0..4 {
        let broker = Served::start(data.as_ref());
        if life == 0 {
            broker.ok(&["topic", "create", "orders"], "");
        }
        broker.ok(&["produce", "orders"], &lines(life * 50..life * 50 + 50));
        assert_eq!(broker.end(Signal::TERM), Some(0));
        ok(&["backup", "create", "--dir", &data, &store, "--keep", "2"]);
    }
    let names: Vec<String> = contents(store.as_ref()).into_keys().collect();
    let lists: Vec<_> = names.iter().filter(|name| name.ends_with(".json")).collect();
    assert!(lists.len() == 2 && lists[0].ends_with("backup-00000003.json"), "{lists:?}");
    assert!(names.iter().any(|name| name.ends_with(".seg@1")), "the first one's segments are needed: {names:?}");
    assert!(!names.iter().any(|name| name.contains("manifest-") && name.ends_with("@1")), "{names:?}");
    ok(&["backup", "restore", &store, "--dir", &at("restored"), "--backup", "3"]);
    let broker = Served::start(at("restored").as_ref());
    assert_eq!(broker.ok(&["consume", "orders"], ""), lines(0..150));
}
