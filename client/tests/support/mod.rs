//! A broker in the test's own process: the wire protocol on a loopback socket, logs in memory, and faults on demand.
//!
//! It keeps the promises a broker makes (order, one copy of each numbered batch, as `PROTOCOL.md` tells them) and breaks
//! everything that the network and a busy or crashing broker may break. A test says which faults come, by script or by
//! chance from a seed, and afterwards how often each came.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod log;
mod serve;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use wire::{Durability, PartitionId, TopicId};

pub use self::log::Log;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing.
    None,
    /// The connection ends before the request is carried out.
    CutBefore,
    /// It is carried out, then the connection ends instead of the answer.
    CutAfter,
    /// The connection ends, and the request is carried out a little later.
    CutThenDo,
    /// Refused: nothing was done.
    Busy,
    /// Carried out, and answered with a timeout.
    TimedOut,
    /// Refused as if the partition had moved.
    NotLeader,
    /// Answered late.
    Delay,
    /// Answered with bytes that are no frame.
    Garbage,
}

impl Fault {
    pub const PRODUCE: [Self; 8] = [
        Self::CutBefore,
        Self::CutAfter,
        Self::CutThenDo,
        Self::Busy,
        Self::TimedOut,
        Self::NotLeader,
        Self::Delay,
        Self::Garbage,
    ];
    pub const FETCH: [Self; 4] = [Self::CutBefore, Self::NotLeader, Self::Delay, Self::Garbage];

    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::CutBefore => "cut before",
            Self::CutAfter => "cut after",
            Self::CutThenDo => "cut, then done",
            Self::Busy => "busy",
            Self::TimedOut => "timed out",
            Self::NotLeader => "not leader",
            Self::Delay => "delay",
            Self::Garbage => "garbage",
        }
    }
}

/// Which faults come.
#[derive(Debug, Default)]
pub struct Plan {
    /// For the next produce requests, in order.
    pub script: VecDeque<Fault>,
    /// Chances in 1,000 for each produce request after the script, and for each fetch.
    pub produce_per_mille: u16,
    pub fetch_per_mille: u16,
    pub seed: u64,
}

/// What the broker's connections share.
#[derive(Debug)]
pub struct State {
    pub topics: BTreeMap<String, Topic>,
    pub logs: BTreeMap<PartitionId, Log>,
    pub cluster_id: u128,
    pub batch_bytes_max: u32,
    pub plan: Plan,
    rng: fastrand::Rng,
    /// Each fault that came, and when.
    pub fired: Vec<(Fault, Instant)>,
    /// Requests seen, by API name; and which shard's connection each produce request came over.
    pub requests: BTreeMap<&'static str, usize>,
    pub produced_over: Vec<Option<u16>>,
    /// While true, connections are refused and open ones are cut.
    pub down: bool,
    /// While true, no request but Hello is answered.
    pub silent: bool,
    /// While true, a topic is created and then the connection ends instead of the answer.
    pub cut_after_create: bool,
    next_partition: u64,
    next_producer: i64,
}

#[derive(Debug, Clone)]
pub struct Topic {
    pub id: TopicId,
    pub durability: Durability,
    pub partitions: Vec<PartitionId>,
    pub settings: Vec<(String, String)>,
}

/// A running broker; dropping it ends it.
pub struct Fake {
    pub address: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

pub struct Shared {
    state: Mutex<State>,
    /// Raised whenever a log grows, or all connections have to end.
    changed: watch::Sender<u64>,
    cut: watch::Sender<u64>,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = State {
            topics: BTreeMap::new(),
            logs: BTreeMap::new(),
            cluster_id: 0xc1,
            batch_bytes_max: 1 << 20,
            plan: Plan::default(),
            rng: fastrand::Rng::with_seed(0),
            fired: Vec::new(),
            requests: BTreeMap::new(),
            produced_over: Vec::new(),
            down: false,
            silent: false,
            cut_after_create: false,
            next_partition: 100,
            next_producer: 1_000,
        };
        let (changed, _) = watch::channel(0);
        let (cut, _) = watch::channel(0);
        let shared = Arc::new(Shared { state: Mutex::new(state), changed, cut });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::accept(listener, shared.clone()));
        Self { address, shared, _tasks: tasks }
    }

    /// A broker with a topic `t`.
    pub async fn with_topic(partitions: u32) -> Self {
        let fake = Self::start().await;
        fake.state().create("t", partitions, Vec::new());
        fake
    }

    pub async fn client(&self) -> streambus::Client {
        streambus::Client::connect(&self.address).await.unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    pub fn plan(&self, plan: Plan) {
        let mut state = self.state();
        state.rng = fastrand::Rng::with_seed(plan.seed);
        state.plan = plan;
    }

    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan(Plan { script: faults.into_iter().collect(), ..Plan::default() });
    }

    /// No more faults.
    pub fn calm(&self) {
        self.plan(Plan::default());
    }

    /// Ends every connection.
    pub fn cut_all(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    pub fn set_down(&self, down: bool) {
        self.state().down = down;
        if down {
            self.cut_all();
        }
    }

    /// The log of a partition of topic `t`.
    pub fn log<R>(&self, partition: usize, look: impl FnOnce(&mut Log) -> R) -> R {
        let mut state = self.state();
        let id = state.topics["t"].partitions[partition];
        let seen = look(state.logs.get_mut(&id).unwrap());
        drop(state);
        self.shared.changed.send_modify(|changed| *changed += 1);
        seen
    }

    pub fn fired(&self, fault: Fault) -> usize {
        self.state().fired.iter().filter(|(fired, _)| *fired == fault).count()
    }
}

impl State {
    pub fn create(&mut self, name: &str, partitions: u32, settings: Vec<(String, String)>) -> TopicId {
        let durability = settings.iter().find(|(key, _)| key == Durability::SETTING);
        let durability = durability.map_or(Durability::Durable, |(_, value)| value.parse().unwrap());
        let ids: Vec<_> = (0..partitions).map(|index| PartitionId(self.next_partition + u64::from(index))).collect();
        self.next_partition += u64::from(partitions);
        let id = TopicId(u128::from(self.next_partition) << 64 | 7);
        self.logs.extend(ids.iter().map(|&id| (id, Log::default())));
        self.topics.insert(name.to_owned(), Topic { id, durability, partitions: ids, settings });
        id
    }

    fn count(&mut self, api: &'static str) {
        *self.requests.entry(api).or_default() += 1;
    }

    fn produce_fault(&mut self) -> Fault {
        match self.plan.script.pop_front() {
            Some(fault) => self.fire(fault),
            None => self.chance(self.plan.produce_per_mille, &Fault::PRODUCE),
        }
    }

    fn fetch_fault(&mut self) -> Fault {
        self.chance(self.plan.fetch_per_mille, &Fault::FETCH)
    }

    fn chance(&mut self, per_mille: u16, faults: &[Fault]) -> Fault {
        if self.rng.u16(..1000) >= per_mille {
            return Fault::None;
        }
        let fault = faults[self.rng.usize(..faults.len())];
        self.fire(fault)
    }

    fn fire(&mut self, fault: Fault) -> Fault {
        if fault != Fault::None {
            self.fired.push((fault, Instant::now()));
        }
        fault
    }

    fn pause(&mut self) -> Duration {
        Duration::from_micros(self.rng.u64(100..5_000))
    }
}
