//! Strangers do their worst while a good client works: it must not notice, and the broker must not die of it.
//!
//! Every attack runs beside a victim whose every request has to succeed. A panic anywhere ends this process.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "attackers and their victim are real threads")]

mod peer;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use broker::BrokerHandle;
use peer::{Peer, TIMEOUT, batch, try_start};
use tempfile::{TempDir, tempdir};
use wire::{
    Durability, ErrorCode, PartitionId,
    api::{fetch, hello, produce},
    codec::List,
    frame,
    header::{Header as _, RequestHeader},
    protocol::preface,
};

#[test]
fn random_bytes() {
    let scene = Scene::begin(&[]);
    for seed in 1..=300 {
        let mut random = Random(seed);
        let mut attacker = scene.connect();
        let mut bytes: Vec<u8> = (0..random.below(5000)).map(|_| random.next() as u8).collect();
        match seed % 4 {
            0 => bytes = [&preface()[..], &bytes].concat(),
            1 => bytes = [&preface()[..], &hello(), &bytes].concat(),
            2 => {
                // A right header of every API, and nonsense behind it.
                let header = RequestHeader { correlation: 1, api: (seed / 4 % 13) as u8, version: 0 };
                let header = header.encode(bytes.len() as u32);
                bytes = [&preface()[..], &hello(), &header, &bytes].concat();
            }
            _ => {}
        }
        // It may be cut off in the middle.
        let _ = attacker.write_all(&bytes);
        let _ = attacker.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut attacker);
    }
    scene.end();
}

#[test]
fn frames_cut_short_at_every_byte() {
    let scene = Scene::begin(&[]);
    let whole = [&preface()[..], &hello(), &produce_frame(scene.partition), &fetch_frame(scene.partition)].concat();
    for len in 0..whole.len() {
        let mut attacker = scene.connect();
        attacker.write_all(&whole[..len]).unwrap();
        attacker.shutdown(std::net::Shutdown::Write).unwrap();
        read_to_end(&mut attacker);
    }
    scene.end();
}

#[test]
fn bits_flipped_in_good_frames() {
    let scene = Scene::begin(&[]);
    let good = [produce_frame(scene.partition), fetch_frame(scene.partition)].concat();
    for bit in (0..good.len() * 8).step_by(3) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let mut attacker = scene.connect();
        let _ = attacker.write_all(&[&preface()[..], &hello(), &bytes].concat());
        let _ = attacker.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut attacker);
    }
    // A flipped bit of the partition's number may have hit another partition, but no flipped batch was taken.
    scene.end();
}

#[test]
fn lengths_and_counts_of_giants() {
    let scene = Scene::begin(&[]);
    let before = resident_bytes();
    let header = |body_bytes: u32| RequestHeader { correlation: 1, api: 3, version: 0 }.encode(body_bytes);
    let mut held = Vec::new();
    for _ in 0..200 {
        // The largest frame allowed is announced and one byte sent; more than allowed; more than can be.
        for announced in [(16 << 20) - 16, 17 << 20, u32::MAX] {
            let mut attacker = scene.connect();
            attacker.write_all(&[&preface()[..], &hello(), &header(announced), &[0]].concat()).unwrap();
            held.push(attacker);
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "600 connections that sent a byte hold {grown} bytes");
    // Lists of 2^31 items in a body of eight bytes.
    for api in 1..=11 {
        let body = [[0; 4], [0, 0, 0, 0x80]].concat();
        let frame = RequestHeader { correlation: 1, api, version: 0 }.encode(8);
        let mut attacker = scene.connect();
        attacker.write_all(&[&preface()[..], &hello(), &frame, &body].concat()).unwrap();
        let _ = attacker.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut attacker);
    }
    println!("resident: {before} bytes before, {} after", resident_bytes());
    scene.end();
}

#[test]
fn large_batches_cut_short_give_their_memory_back() {
    let scene = Scene::begin(&[]);
    let mut whole = Vec::new();
    let batch = batch(&[&[7; 900_000]]);
    let rows = [produce::BatchRow { partition: scene.partition, batch_bytes: batch.len() as u32 }];
    let head = produce::RequestHead { timeout_ms: 0, batches: List::from(&rows) };
    frame::encode(&mut whole, 1, 0, &head, 16 << 20).unwrap();
    whole.extend_from_slice(&batch);
    for cut in 0..100 {
        let mut attacker = scene.connect();
        attacker.write_all(&[&preface()[..], &hello(), &whole[..200_000 + cut * 7_000]].concat()).unwrap();
        attacker.shutdown(std::net::Shutdown::Write).unwrap();
        read_to_end(&mut attacker);
    }
    let mut peer = Peer::connect(scene.address());
    let until = Instant::now() + TIMEOUT;
    while peer.counter("connection_memory_bytes") > 0 {
        assert!(Instant::now() < until, "{} bytes are held for nobody", peer.counter("connection_memory_bytes"));
    }
    scene.end();
}

#[test]
fn other_protocols_on_the_port() {
    let scene = Scene::begin(&[]);
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\0\0\0\x24\0\x12\0\x03rest"] {
        let mut attacker = scene.connect();
        attacker.write_all(first).unwrap();
        assert_eq!(read_to_end(&mut attacker), 0, "closed without a word of ours");
    }
    scene.end();
}

#[test]
fn slow_senders_are_cut_in_every_phase() {
    let scene = Scene::begin(&[("handshake_timeout", "500 ms")]);
    let phases = [
        vec![],
        preface()[..3].to_vec(),
        preface().to_vec(),
        [&preface()[..], &hello()[..20]].concat(),
        [&preface()[..], &hello(), &produce_frame(scene.partition)[..30]].concat(),
    ];
    let mut slow: Vec<_> = (0..40)
        .flat_map(|_| &phases)
        .map(|phase| {
            let mut attacker = scene.connect();
            attacker.write_all(phase).unwrap();
            attacker
        })
        .collect();
    // One who drips a byte now and then is as slow.
    let mut dripping = scene.connect();
    dripping.write_all(&[&preface()[..], &hello(), &produce_frame(scene.partition)[..16]].concat()).unwrap();
    let until = Instant::now() + TIMEOUT;
    while dripping.write_all(&[0]).is_ok() {
        assert!(Instant::now() < until, "a frame may not take for ever");
        thread::sleep(Duration::from_millis(50));
    }
    for attacker in &mut slow {
        read_to_end(attacker);
    }
    scene.end();
}

#[test]
fn thousands_of_idle_sockets() {
    let scene = Scene::begin(&[]);
    let before = resident_bytes();
    let mut idle = Vec::new();
    for number in 0..2000 {
        let Ok(mut socket) = TcpStream::connect(scene.address()) else { break };
        if number % 2 == 0 {
            socket.write_all(&[&preface()[..], &hello()].concat()).unwrap();
        }
        idle.push(socket);
    }
    thread::sleep(Duration::from_millis(300));
    let each = resident_bytes().saturating_sub(before) / idle.len();
    println!("{} idle sockets hold {each} bytes each", idle.len());
    assert!(idle.len() >= 400 && each < 32 << 10, "{} idle sockets hold {each} bytes each", idle.len());
    scene.end();
}

#[test]
fn clients_that_never_read() {
    let scene = Scene::begin(&[]);
    let before = resident_bytes();
    let big = batch(&[&[7; 500_000]]);
    let mut feeder = Peer::connect(scene.address());
    for _ in 0..8 {
        feeder.produce_one(scene.partition, &big).unwrap();
    }
    let row = fetch::Position { partition: scene.partition, offset: 0, bytes_max: 1 << 20 };
    let rows = [row];
    let request = fetch::Request { wait_ms_max: 0, bytes_min: 1, bytes_max: 1 << 20, partitions: List::from(&rows) };
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut peer = Peer::connect(scene.address());
        // 400 MB of answers in all, of which the sockets take some.
        for _ in 0..20 {
            peer.send(&request, &[]).unwrap();
        }
        deaf.push(peer);
    }
    thread::sleep(Duration::from_millis(500));
    let grown = resident_bytes().saturating_sub(before);
    println!("20 deaf clients hold {grown} bytes");
    // Each holds 8 MiB of answers at most, and something holds the records.
    assert!(grown < 176 << 20, "20 deaf clients hold {grown} bytes");
    scene.end();
}

#[test]
fn one_address_cannot_take_all_connections() {
    let scene = Scene::begin(&[("connections_per_address_max", "20")]);
    let held: Vec<_> = (0..200).filter_map(|_| Peer::connect_to(scene.address(), None).ok()).collect();
    assert!((10..20).contains(&held.len()), "{} got in beside the victim", held.len());
    drop(held);
    let until = Instant::now() + TIMEOUT;
    while Peer::connect_to(scene.address(), None).is_err() {
        assert!(Instant::now() < until, "closed connections make room");
    }
    scene.end();
}

/// Memory is the process's, so that one scene is played at a time.
static STAGE: Mutex<()> = Mutex::new(());

/// A broker with a victim at work.
struct Scene {
    broker: BrokerHandle,
    partition: PartitionId,
    is_over: Arc<AtomicBool>,
    victim: thread::JoinHandle<Vec<Duration>>,
    _dir: TempDir,
    _stage: MutexGuard<'static, ()>,
}

impl Scene {
    fn begin(settings: &[(&str, &str)]) -> Self {
        let stage = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempdir().unwrap();
        let broker = try_start(dir.path(), settings).unwrap();
        let mut peer = Peer::connect(broker.address());
        let partitions = peer.create_topic("orders", 2, Durability::Durable);
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, own) = (Arc::clone(&is_over), partitions[1].0);
        let victim = thread::spawn(move || {
            let mut took = Vec::new();
            let mut offset = 0;
            while !over.load(Ordering::Relaxed) || took.len() < 20 {
                let begun = Instant::now();
                assert_eq!(peer.produce_one(own, &batch(&[b"mine"])), Ok(offset), "only the victim writes here");
                let fetched = peer.fetch(own, offset, 1_000);
                assert_eq!((fetched.error, fetched.records.len()), (ErrorCode::None, 1));
                took.push(begun.elapsed());
                offset += 1;
            }
            took
        });
        Self { broker, partition: partitions[0].0, is_over, victim, _dir: dir, _stage: stage }
    }

    fn address(&self) -> SocketAddr {
        self.broker.address()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// Hears how the victim fared and whether a newcomer is served.
    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let mut took = self.victim.join().expect("the victim had no error");
        took.sort_unstable();
        let p99 = took[took.len() * 99 / 100];
        let peak_mib = status_bytes("VmHWM:") >> 20;
        println!("victim: {} rounds, 0 errors, p99 {p99:?}; peak RSS {peak_mib} MiB, attackers included", took.len());
        let mut newcomer = Peer::connect(self.broker.address());
        newcomer.produce_one(self.partition, &batch(&[b"after"])).unwrap();
        drop(newcomer);
        assert!(self.broker.stop().is_clean);
    }
}

/// Reads until the broker closes; how many bytes came.
fn read_to_end(stream: &mut TcpStream) -> usize {
    let mut buffer = [0; 4096];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(len) => bytes += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let reset = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
                assert!(reset.contains(&error.kind()), "the broker neither answers nor closes: {error}");
                return bytes;
            }
        }
    }
}

fn hello() -> Vec<u8> {
    let (client_name, client_version) = ("evil\r\nname\x1b[31m", "1");
    let hello =
        hello::Request { client_name, client_version, protocol_min: 1, protocol_max: 1, shard: None, auth: &[] };
    let mut out = Vec::new();
    frame::encode(&mut out, 0, 0, &hello, 1 << 20).unwrap();
    out
}

fn produce_frame(partition: PartitionId) -> Vec<u8> {
    let batch = batch(&[b"not the victim's"]);
    let rows = [produce::BatchRow { partition, batch_bytes: batch.len() as u32 }];
    let mut out = Vec::new();
    let head = produce::RequestHead { timeout_ms: 0, batches: List::from(&rows) };
    frame::encode(&mut out, 1, 0, &head, 1 << 20).unwrap();
    out.extend_from_slice(&batch);
    out
}

fn fetch_frame(partition: PartitionId) -> Vec<u8> {
    let rows = [fetch::Position { partition, offset: 0, bytes_max: 100 }];
    let request = fetch::Request { wait_ms_max: 1, bytes_min: 0, bytes_max: 100, partitions: List::from(&rows) };
    let mut out = Vec::new();
    frame::encode(&mut out, 2, 0, &request, 1 << 20).unwrap();
    out
}

/// Resident memory of this process, attackers included.
fn resident_bytes() -> usize {
    status_bytes("VmRSS:")
}

/// A line of the process's status that is a size.
fn status_bytes(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("the system has one");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it says so");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// Xorshift: Marsaglia, "Xorshift RNGs", 2003.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
