//! What this machine can do through the adapter, as lines of text: the limits that everything above it is held to.
//!
//! `cargo run --release -p runtime-glommio --example prototype [directory] [core]`. The core is best the one that takes
//! the disk's interrupt; the other end of each conversation runs on the first core that is not it.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use runtime::{Block as _, File as _, Listener as _, OpenMode, Runtime as _, Stream as _, mesh};
use runtime_glommio::{
    BLOCK_BYTES, File, GlommioRuntime, Options, Placement, allowed_cores, prepare_process, run_shards,
};
use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

const FILE_BYTES: u64 = 64 << 20;

fn main() {
    let started = Instant::now();
    prepare_process().unwrap();
    let directory = PathBuf::from(env::args().nth(1).unwrap_or_else(|| ".".into()));
    let cores = allowed_cores().unwrap();
    let core = env::args().nth(2).map_or(*cores.last().unwrap(), |core| core.parse().unwrap());
    let other = cores.into_iter().find(|&other| other != core).unwrap_or(core);
    println!("core {core}, other end on core {other}, {}", directory.display());

    disk_and_network(directory, core, other, started);
    hops(core, other);
    idle(core);
}

fn disk_and_network(directory: PathBuf, core: usize, other: usize, started: Instant) {
    let path = directory.join(format!("prototype-{}", std::process::id()));
    let shards = run_shards(Placement::Cores(vec![core]), Options::default(), move |runtime, _| {
        let path = path.clone();
        async move {
            println!("first step after          {:>9.2?}", started.elapsed());
            let file = written_file(&runtime, &path).await;
            println!("first file written after  {:>9.2?}", started.elapsed());
            sync_loop(&runtime, &file).await;
            bulk_loop(&runtime, &file, "O_DSYNC 1 MiB, one block", 2_000, 0).await;
            bulk_loop(&runtime, &file, "O_DSYNC 1 MiB, 64 in turn", 2_000, 64).await;
            bulk_loop(&runtime, &file, "O_DSYNC 1 MiB, fresh", 512, 512).await;
            read_loop(&file).await;
            drop(file);
            runtime.remove_file(&path).await.unwrap();
            echo(&runtime, other).await;
        }
    })
    .unwrap();
    let watchdog = shards.watchdog();
    shards.join();
    println!("watchdog                  {} pokes, {} needed", watchdog.pokes_sent(), watchdog.pokes_needed());
}

async fn written_file(runtime: &GlommioRuntime, path: &Path) -> File {
    let file = runtime.open(path, OpenMode::CreateDurable).await.unwrap();
    file.allocate(FILE_BYTES).await.unwrap();
    let zeros = runtime.block(1).freeze(BLOCK_BYTES);
    for position in (0..FILE_BYTES).step_by(BLOCK_BYTES) {
        file.write_durable(zeros.clone(), position).await.unwrap();
    }
    file
}

/// One 4 KiB overwrite after the other.
async fn sync_loop(runtime: &GlommioRuntime, file: &File) {
    let mut times = Times::new("t_sync, O_DSYNC 4 KiB");
    for turn in 0..10_000 {
        let bytes = runtime.block(1).freeze(4096);
        let began = Instant::now();
        file.write_durable(bytes, turn % 1024 * 4096).await.unwrap();
        times.add(began.elapsed());
    }
    times.print();
}

/// Whole blocks, each filled by a copy; the last `kept` stay alive, as in a memtable.
async fn bulk_loop(runtime: &GlommioRuntime, file: &File, name: &'static str, turns: usize, kept: usize) {
    let source = vec![7; BLOCK_BYTES];
    let mut alive = std::collections::VecDeque::new();
    let mut times = Times::new(name);
    let mut copied = Duration::ZERO;
    for position in (0..FILE_BYTES).step_by(BLOCK_BYTES).cycle().take(turns) {
        let began = Instant::now();
        let mut block = runtime.block(1);
        block.copy_from_slice(&source);
        let bytes = block.freeze(BLOCK_BYTES);
        copied += began.elapsed();
        file.write_durable(bytes.clone(), position).await.unwrap();
        times.add(began.elapsed());
        alive.push_back(bytes);
        if alive.len() > kept {
            alive.pop_front();
        }
    }
    times.print_rate(BLOCK_BYTES);
    println!("  of it to fill a block   {:>9.1?}", copied / turns as u32);
}

async fn read_loop(file: &File) {
    for len in [128 << 10, 512 << 10, BLOCK_BYTES] {
        let mut times = Times::new(match len {
            BLOCK_BYTES => "read 1 MiB",
            524_288 => "read 512 KiB",
            _ => "read 128 KiB",
        });
        for position in (0..FILE_BYTES).step_by(len) {
            let began = Instant::now();
            file.read(position, len).await.unwrap();
            times.add(began.elapsed());
        }
        times.print_rate(len);
    }
}

/// One byte there and back, against a blocking client.
async fn echo(runtime: &GlommioRuntime, other: usize) {
    const ROUNDS: usize = 20_000;
    let listener = runtime.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_address();
    let client = thread::spawn(move || {
        pin(other);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut times = Times::new("TCP echo");
        for _ in 0..ROUNDS {
            let began = Instant::now();
            stream.write_all(&[1]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            times.add(began.elapsed());
        }
        times.print();
    });
    let stream = runtime.adopt(listener.accept().await.unwrap().0).unwrap();
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            count => stream.write_all(&buffer[..count]).await.unwrap(),
        }
    }
    client.join().unwrap();
}

/// A message to another shard and its answer.
fn hops(core: usize, other: usize) {
    const ROUNDS: u64 = 20_000;
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| mesh::inbox(64)).unzip();
    let inboxes = Mutex::new(inboxes.into_iter().map(Some).collect::<Vec<_>>());
    let shards = run_shards(Placement::Cores(vec![core, other]), Options::default(), move |_, shard| {
        let inbox = inboxes.lock().unwrap()[shard].take().unwrap();
        let other = senders[1 - shard].clone();
        async move {
            let mut times = Times::new("hop to a shard and back");
            for round in 0..ROUNDS {
                let began = Instant::now();
                if shard == 0 {
                    assert!(other.try_send(round).is_ok());
                    inbox.receive().await.unwrap();
                    times.add(began.elapsed());
                } else {
                    let round = inbox.receive().await.unwrap();
                    assert!(other.try_send(round).is_ok());
                }
            }
            if shard == 0 {
                times.print();
            }
        }
    });
    shards.unwrap().join();
}

/// Processor time and memory of a shard with nothing to do.
fn idle(core: usize) {
    const REST: Duration = Duration::from_secs(5);
    let shards = run_shards(Placement::Cores(vec![core]), Options::default(), |runtime, _| async move {
        runtime.sleep(Duration::from_secs(2)).await;
        let before = processor_time();
        runtime.sleep(REST).await;
        let share = (processor_time() - before).as_secs_f64() / REST.as_secs_f64();
        println!("idle                      {:>8.3} % of a core, {} resident", 100.0 * share, resident());
    });
    shards.unwrap().join();
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What `/proc/self/status` says of memory in use.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned()
}

fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).unwrap();
}

struct Times {
    name: &'static str,
    times: Vec<Duration>,
}

impl Times {
    fn new(name: &'static str) -> Self {
        Self { name, times: Vec::new() }
    }

    fn add(&mut self, time: Duration) {
        self.times.push(time);
    }

    fn print(&mut self) {
        self.times.sort_unstable();
        let at = |share: f64| self.times[(share * (self.times.len() - 1) as f64) as usize];
        println!("{:<25} {:>9.1?} p50 {:>9.1?} p99", self.name, at(0.5), at(0.99));
    }

    fn print_rate(&mut self, bytes: usize) {
        self.print();
        let total: Duration = self.times.iter().sum();
        let rate = (bytes * self.times.len()) as f64 / total.as_secs_f64();
        println!("  rate                    {:>8.2} GB/s", rate / 1e9);
    }
}
