//! Nodes, their crashes, and the loop that drives everything.

use std::{cell::RefCell, collections::BTreeMap, future::Future, rc::Rc, time::Duration};

use super::{
    Crash, NodeId, Rng, SimRuntime, Task,
    disk::{self, Disk},
    memory::Memory,
    network::{self, Network},
    node::{Node, Program},
    world::World,
};
use crate::{Instant, Runtime as _};

/// How a simulation behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Capacity of a standard block in bytes, a multiple of 4096. Default: 16 KiB.
    pub block_bytes: usize,
    /// Of every disk, until [`Disk::set_options`].
    pub disk: disk::Options,
    /// Of the network, until [`Network::set_options`].
    pub network: network::Options,
    /// How many steps one call may take before it counts as hanging. Default: 10 million.
    pub steps_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        let (disk, network) = (disk::Options::default(), network::Options::default());
        Self { block_bytes: 16 * 1024, disk, network, steps_max: 10_000_000 }
    }
}

/// Why a simulation did not get where it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Nothing will ever happen again.
    #[error(
        "deadlock {at:?} after the start: nothing can run, and no timer, I/O or packet is under way \
         (replay with STREAMBUS_SEED={seed})"
    )]
    Deadlock {
        /// The seed of the simulation.
        seed: u64,
        /// Virtual time.
        at: Duration,
    },
    /// Things happen and lead nowhere.
    #[error("no end after {steps} steps, {at:?} after the start (replay with STREAMBUS_SEED={seed})")]
    StepLimit {
        /// The seed of the simulation.
        seed: u64,
        /// Virtual time.
        at: Duration,
        /// The limit, [`Options::steps_max`].
        steps: u64,
    },
    /// The node crashed before its task had finished.
    #[error("node {node} crashed {at:?} after the start (replay with STREAMBUS_SEED={seed})")]
    Crashed {
        /// The seed of the simulation.
        seed: u64,
        /// Virtual time.
        at: Duration,
        /// Who crashed.
        node: NodeId,
    },
}

/// A small world that runs when told to. Dropped, it drops all its tasks.
pub struct Simulation {
    world: Rc<World>,
    network: Rc<Network>,
    options: Options,
    nodes: RefCell<BTreeMap<NodeId, Rc<Node>>>,
}

/// Its nodes.
impl Simulation {
    /// A world without nodes.
    pub fn new(seed: u64) -> Self {
        Self::with_options(seed, Options::default())
    }

    /// A world without nodes that behaves as told.
    ///
    /// # Panics
    /// If `block_bytes` is no multiple of 4096.
    pub fn with_options(seed: u64, options: Options) -> Self {
        let world = Rc::new(World::new(seed));
        let network = Rc::new(Network::new(Rc::clone(&world), options.network.clone()));
        let simulation = Self { world, network, options, nodes: RefCell::default() };
        simulation.insert_node(NodeId::OUTSIDE).boot(1, None);
        simulation
    }

    /// Adds a machine with an empty disk; it is down.
    pub fn add_node(&self) -> NodeId {
        let id = NodeId(self.nodes.borrow().len() as u16); // The outside counts, so the first is 1.
        self.insert_node(id);
        id
    }

    /// Starts a node: `program` makes the first task of each of its shards, now and at every restart.
    ///
    /// # Panics
    /// If it is up, or `shards` is zero.
    pub fn start<F>(&self, node: NodeId, shards: usize, program: impl Fn(SimRuntime, usize) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        self.boot(node, shards, move |runtimes| {
            for runtime in runtimes {
                drop(runtime.spawn(program(runtime.clone(), runtime.shard())));
            }
        });
    }

    /// Starts a node whose shards share something, a mesh for example: `program` gets the runtimes of all of them, now
    /// and at every restart, and spawns what they are to run.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn boot(&self, node: NodeId, shards: usize, program: impl Fn(&[SimRuntime]) + 'static) {
        let program: Program = Rc::new(program);
        self.node(node).boot(shards, Some(program));
    }

    /// Starts a node that was started before, with what it ran then, on as many shards as told.
    ///
    /// # Panics
    /// If it is up, never was started, or `shards` is zero.
    pub fn restart(&self, node: NodeId, shards: usize) {
        let node = self.node(node);
        let program = node.program().unwrap_or_else(|| panic!("node {} was never started", node.id));
        node.boot(shards, Some(program));
    }

    /// Stops a node without warning: drops its tasks, resets its connections, and leaves on its disk what `crash` leaves.
    /// A node that is down only loses what its disk had not synced.
    pub fn crash(&self, node: NodeId, crash: Crash) {
        self.node(node).crash(crash);
    }

    /// True between a node's start and its crash.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.node(node).group().is_some()
    }

    /// How many tasks of a node have not finished; 0 when it is down.
    pub fn unfinished_tasks(&self, node: NodeId) -> usize {
        self.node(node).group().map_or(0, |group| self.world.executor.unfinished(group))
    }

    /// A node's disk.
    pub fn disk(&self, node: NodeId) -> Rc<Disk> {
        Rc::clone(&self.node(node).disk)
    }

    /// The network between all nodes.
    pub fn network(&self) -> &Rc<Network> {
        &self.network
    }

    /// How many blocks of a node are in use.
    pub fn live_blocks(&self, node: NodeId) -> usize {
        self.node(node).memory.live_blocks()
    }

    /// Capacity in bytes of a node's blocks that are in use.
    pub fn live_bytes(&self, node: NodeId) -> usize {
        self.node(node).memory.live_bytes()
    }

    /// Moves a node's wall clock by `by_ms`.
    pub fn jump_wall_clock(&self, node: NodeId, by_ms: i64) {
        let offset_ms = &self.node(node).wall_clock_offset_ms;
        offset_ms.set(offset_ms.get() + by_ms);
    }

    /// The runtime of a machine that never crashes, for clients.
    pub fn outside(&self) -> SimRuntime {
        self.node(NodeId::OUTSIDE).runtime(0)
    }

    fn insert_node(&self, id: NodeId) -> Rc<Node> {
        let disk = Disk::new(id, Rc::clone(&self.world), self.options.disk.clone());
        let memory = Memory::new(Rc::clone(&self.world), self.options.block_bytes);
        let node = Rc::new(Node::new(id, Rc::clone(&self.world), Rc::clone(&self.network), disk, memory));
        self.nodes.borrow_mut().insert(id, Rc::clone(&node));
        node
    }

    fn node(&self, id: NodeId) -> Rc<Node> {
        let nodes = self.nodes.borrow();
        Rc::clone(nodes.get(&id).unwrap_or_else(|| panic!("no node {id} in this simulation")))
    }
}

/// Its time.
impl Simulation {
    /// The seed of it all.
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(self.world.clock.now_ns())
    }

    /// A hash of everything that happened so far.
    pub fn trace_hash(&self) -> u64 {
        self.world.trace.hash()
    }

    /// The source of every choice; what a test draws from it is part of the run.
    pub fn rng(&self) -> &Rng {
        &self.world.rng
    }

    /// Runs until `condition` holds, asking before each step.
    ///
    /// # Errors
    /// [`RunError::Deadlock`] and [`RunError::StepLimit`].
    pub fn run_until(&self, mut condition: impl FnMut() -> bool) -> Result<(), RunError> {
        for _ in 0..self.options.steps_max {
            if condition() {
                return Ok(());
            }
            if !self.step() {
                return Err(RunError::Deadlock { seed: self.world.seed, at: self.at() });
            }
        }
        Err(RunError::StepLimit { seed: self.world.seed, at: self.at(), steps: self.options.steps_max })
    }

    /// Runs for `duration` of virtual time.
    ///
    /// # Errors
    /// [`RunError::StepLimit`].
    pub fn run_for(&self, duration: Duration) -> Result<(), RunError> {
        let end = self.now() + duration;
        self.world.clock.schedule(end.as_nanos(), || {});
        self.run_until(|| self.now() >= end)
    }

    /// Runs until `task` has finished.
    ///
    /// # Errors
    /// As [`Self::run_until`].
    pub fn run<T>(&self, task: &Task<T>) -> Result<T, RunError> {
        let mut output = None;
        self.run_until(|| {
            output = task.try_take();
            output.is_some()
        })?;
        Ok(output.expect("the run ended with it"))
    }

    /// Runs one task on the first shard of a node, which is started with a single shard if it is down, until it has
    /// finished. What it spawned lives on.
    ///
    /// # Errors
    /// [`RunError`], of which [`RunError::Crashed`] is what a crash injected by [`Disk::crash_at_step`] ends in.
    pub fn block_on<T: 'static, F>(&self, node: NodeId, task: impl FnOnce(SimRuntime) -> F) -> Result<T, RunError>
    where
        F: Future<Output = T> + 'static,
    {
        let host = self.node(node);
        if host.group().is_none() {
            host.boot(1, None);
        }
        let runtime = host.runtime(0);
        let group = runtime.group();
        let task = runtime.spawn(task(runtime.clone()));
        let mut output = None;
        self.run_until(|| {
            output = task.try_take();
            output.is_some() || !self.world.executor.has_group(group)
        })?;
        output.ok_or_else(|| RunError::Crashed { seed: self.world.seed, at: self.at(), node })
    }

    fn step(&self) -> bool {
        let stepped = self.world.step();
        self.network.release_abandoned();
        let crashes_due = std::mem::take(&mut *self.world.crashes_due.borrow_mut());
        for (node, crash) in crashes_due {
            self.crash(node, crash);
        }
        stepped
    }

    fn at(&self) -> Duration {
        self.now().since(Instant::default())
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("a simulation failed: replay with STREAMBUS_SEED={}", self.world.seed);
        }
        self.world.executor.close();
        self.world.clock.close();
        self.nodes.borrow().values().for_each(|node| node.close());
    }
}

/// Runs one task on a node of its own, for tests that need a runtime and no crash.
///
/// # Panics
/// If it hangs; the message names the seed.
pub fn block_on<T: 'static, F>(seed: u64, task: impl FnOnce(SimRuntime) -> F) -> T
where
    F: Future<Output = T> + 'static,
{
    let simulation = Simulation::new(seed);
    let node = simulation.add_node();
    simulation.block_on(node, task).unwrap_or_else(|error| panic!("{error}"))
}

/// The seeds that a test runs: those below `count`, or the one in the environment variable `STREAMBUS_SEED` alone.
///
/// # Panics
/// If the variable holds no number.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let chosen = std::env::var("STREAMBUS_SEED").ok().map(|seed| seed.parse().expect("STREAMBUS_SEED is a number"));
    match chosen {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}
