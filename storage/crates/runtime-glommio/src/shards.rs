//! One thread and one executor per shard.
//!
//! All executors are made before any shard's future runs, so that a machine that can only run some of them is refused
//! in one piece.

use std::{future::Future, io, sync::Arc, thread, time::Duration};

use glommio::{LocalExecutor, LocalExecutorBuilder, PoolPlacement};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{
    file::os_error,
    progress::{Alarm, Progress},
    runtime::GlommioRuntime,
    start::{StartError, check_machine},
    watchdog::{Stats, Watchdog},
};

/// Memory registered with the kernel for reads: resident from the start, and locked three times over.
const IO_MEMORY_BYTES: usize = 1 << 20;
const RING_DEPTH: usize = 128;
/// Threads of each shard for renames, removals and the like.
const BLOCKING_THREADS: usize = 2;

/// Where shards run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One shard on each of these cores, see [`allowed_cores`].
    Cores(Vec<usize>),
    /// So many shards, wherever the system puts them. For tests.
    Anywhere(usize),
}

/// How shards run. The defaults are right for a broker.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time between two looks at sockets and disks while tasks are runnable; 100 ms by default. A short one
    /// provokes the stalls that the watchdog ends.
    pub preempt_timer: Duration,
    /// Time after which a shard that answers no poke ends the process; 5 s by default, at most a minute.
    pub silence_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { preempt_timer: Duration::from_millis(100), silence_max: Duration::from_secs(5) }
    }
}

/// The running shards. Dropped without [`ShardThreads::join`] they run on, unwatched.
#[must_use]
pub struct ShardThreads<T> {
    threads: Vec<thread::JoinHandle<Option<T>>>,
    stats: Arc<Stats>,
    _watchdog: Watchdog,
}

/// The cores this process may run on, ascending: what its cpuset and affinity leave of the machine's.
///
/// # Errors
/// Only if the system cannot say.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    Ok(cores_of(&sched_getaffinity(None)?))
}

/// Starts one shard per core. Each runs `shard(runtime, index)` on a thread `shard-<index>` of its own; when that
/// future ends, the shard ends, with every task it left.
///
/// # Errors
/// [`StartError`]: then no shard has run.
pub fn run_shards<T, F, Run>(placement: Placement, options: Options, shard: F) -> Result<ShardThreads<T>, StartError>
where
    F: Fn(GlommioRuntime, usize) -> Run + Send + Sync + 'static,
    Run: Future<Output = T> + 'static,
    T: Send + 'static,
{
    check_machine()?;
    let allowed = sched_getaffinity(None).map_err(io::Error::from)?;
    let cores = cores_for(placement, &allowed)?;
    let (alarm, stats) = (Arc::<Alarm>::default(), Arc::<Stats>::default());
    let progress = || Arc::new(Progress::new(Arc::clone(&alarm), Arc::clone(&stats)));
    let progresses: Vec<_> = cores.iter().map(|_| progress()).collect();

    let shard = Arc::new(shard);
    let (made_sender, made) = flume::unbounded();
    let (go_sender, go) = flume::bounded(cores.len());
    let mut threads = Vec::with_capacity(cores.len());
    for (index, core) in cores.iter().copied().enumerate() {
        let (shard, made, go) = (Arc::clone(&shard), made_sender.clone(), go.clone());
        let progress = Arc::clone(&progresses[index]);
        let body = move || {
            let executor = match make_executor(core, options.preempt_timer) {
                Ok(executor) => executor,
                Err(source) => return made.send(Err(StartError::Shard { shard: index, source })).ok().and(None),
            };
            made.send(Ok(())).ok()?;
            go.recv().ok()?;
            Some(executor.run(async move {
                let runtime = GlommioRuntime::new(index, progress, allowed);
                let output = shard(runtime.clone(), index).await;
                runtime.close().await;
                output
            }))
        };
        let named = thread::Builder::new().name(format!("shard-{index}"));
        threads.push(named.spawn(body).map_err(|source| StartError::Shard { shard: index, source })?);
    }
    drop(made_sender);
    for _ in &threads {
        made.recv().expect("every thread reports")?;
    }
    let watchdog = Watchdog::start(progresses, alarm, options.silence_max.min(Duration::from_mins(1)))?;
    for _ in &threads {
        go_sender.send(()).expect("every thread waits");
    }
    Ok(ShardThreads { threads, stats, _watchdog: watchdog })
}

impl<T> ShardThreads<T> {
    /// Waits for all shards to end and returns what their futures did, by index.
    ///
    /// # Panics
    /// If a shard panicked, where panics do not end the process.
    pub fn join(self) -> Vec<T> {
        let ended = self.threads.into_iter().map(|thread| thread.join().expect("a shard panicked"));
        ended.map(|output| output.expect("the shard was told to run")).collect()
    }

    /// What the watchdog counted so far.
    pub fn watchdog(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }
}

/// Makes the executor and then moves the thread to its core: its blocking threads are to stay free of it.
fn make_executor(core: Option<usize>, preempt_timer: Duration) -> io::Result<LocalExecutor> {
    let executor = LocalExecutorBuilder::new(glommio::Placement::Unbound)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .preempt_timer(preempt_timer)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
        .make()
        .map_err(os_error)?;
    if let Some(core) = core {
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only)?;
    }
    Ok(executor)
}

fn cores_for(placement: Placement, allowed: &CpuSet) -> Result<Vec<Option<usize>>, StartError> {
    let cores: Vec<_> = match placement {
        Placement::Cores(cores) => cores.into_iter().map(Some).collect(),
        Placement::Anywhere(count) => vec![None; count],
    };
    if cores.is_empty() {
        return Err(StartError::NoCores);
    }
    let outside = cores.iter().flatten().find(|&&core| core >= CpuSet::MAX_CPU || !allowed.is_set(core));
    match outside {
        Some(&core) => Err(StartError::CoreNotAllowed { core, allowed: cores_of(allowed) }),
        None => Ok(cores),
    }
}

fn cores_of(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect()
}
