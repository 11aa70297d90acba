//! A node's shards, from nothing to serving and back.
//!
//! Shard 0 leads: it locks the directory, reads MetaLog, has every shard open the logs that it is to run while it takes a
//! leader epoch durably itself, hands out the metadata, and only then accepts. Stopping goes the other way: every shard
//! first finishes what its connections began, which may need the others; then every log is closed.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_lite::future;
use runtime::{
    Listener as _, Runtime,
    mesh::{Inbox, Sender, inbox},
};
use storage::{Log, LogFailed, LogOptions};

use super::{
    Failure, Logs, Node, Shard, mailroom, memory,
    mesh::{Message, Reply, call, send_surely},
    metadata, mover,
    placement::{Seating, seat},
};
pub use crate::server::limits::Limits;
use crate::{
    control::Stage,
    meta::{self, Command, LogNumber, LogState, MetaLog, Outcome, Snapshot},
    server::{limits::Admission, listener},
};

/// How long connections may take to finish what they began when the node stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How often a shard looks whether they have.
const DRAIN_LOOK_EVERY: Duration = Duration::from_millis(2);

/// What a node is and may use; each shard reads the same.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data directory.
    pub dir: PathBuf,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The node's number in its cluster.
    pub node_id: u32,
    /// How the log of each shard is sized; several share that.
    pub log: LogOptions,
    /// What connections may cost.
    pub limits: Limits,
    /// Messages from other shards that may wait for one; more are refused as Busy.
    pub inbox_messages_max: usize,
}

/// Why a node does not serve. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made or locked.
    #[error("cannot use the data directory {}: {source}; set dir to one that can be written", dir.display())]
    Directory {
        /// The setting `dir`.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The disk has no room for what a start writes.
    #[error("{source}; free at least {needed_bytes} bytes on the file system of {}", dir.display())]
    DiskFull {
        /// The setting `dir`.
        dir: PathBuf,
        /// What a start may need.
        needed_bytes: u64,
        /// What could not be done.
        source: Box<StartError>,
    },
    /// Another broker serves from the data directory.
    #[error("the data directory {} is held by another broker; stop that one or set dir to another", dir.display())]
    InUse {
        /// The setting `dir`.
        dir: PathBuf,
    },
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {address}: {source}; set listen to an address that is free")]
    Listen {
        /// The setting `listen`.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A log could not be opened.
    #[error("shard {shard} cannot open a log: {source}")]
    Log {
        /// The shard that was to run it.
        shard: u16,
        /// Why.
        source: storage::OpenError,
    },
    /// MetaLog could not be read.
    #[error(transparent)]
    Metadata(#[from] meta::OpenError),
    /// MetaLog refused the start, or could not be written.
    #[error(transparent)]
    Propose(#[from] meta::ProposeError),
    /// A log is not the one that metadata knows: a directory was moved, lost or restored from elsewhere.
    #[error("{} holds log {found:032x}, the metadata expects {expected:032x}; put the right one back", dir.display())]
    StrangeLog {
        /// The log's directory.
        dir: PathBuf,
        /// The log there.
        found: u128,
        /// The log that should be.
        expected: u128,
    },
    /// A shard ended before the node served.
    #[error("shard {shard} ended before the node served")]
    Silent {
        /// Its number.
        shard: u16,
    },
}

impl StartError {
    /// The same, with what to free if the disk is full.
    fn with_advice(self, settings: &Settings, shards: usize) -> Self {
        let is_disk_full = match &self {
            Self::Directory { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Log { source, .. } => source.is_disk_full(),
            Self::Metadata(meta::OpenError::Journal(error)) => error.is_disk_full(),
            Self::Propose(meta::ProposeError::Write(error)) => error.is_disk_full(),
            _ => false,
        };
        if !is_disk_full {
            return self;
        }
        let needed_bytes = shards as u64 * settings.log.disk_bytes();
        Self::DiskFull { dir: settings.dir.clone(), needed_bytes, source: Box::new(self) }
    }
}

/// How a shard ended.
#[derive(Debug)]
pub enum End {
    /// It was asked to, and its logs are closed.
    Stopped {
        /// Connections that had not finished in time.
        connections_cut: usize,
    },
    /// It never served; shard 0 knows why.
    NotStarted,
    /// A write failed. The process has to end now, before anything else is said of that log.
    Failed(Failure),
}

/// What shard 0 tells the others.
pub(crate) enum Order {
    /// Open these logs, and say which they are.
    Open { seating: Seating, reply: Reply<Found> },
    /// Serve.
    Serve { node: Node, snapshot: Arc<Snapshot>, reply: Reply<()> },
    /// Take no more requests; say how many connections had to be cut once all are closed.
    Drain(Reply<usize>),
    /// Close your logs.
    Close(Reply<()>),
}

/// The logs that a shard opened, by number and id.
pub(crate) type Found = Result<Vec<(LogNumber, u128)>, storage::OpenError>;

/// One shard's place in a node: what [`run`] needs beside a runtime.
pub struct Seat<R: Runtime> {
    index: u16,
    inbox: Inbox<Message<R>>,
    mesh: Vec<Sender<Message<R>>>,
    settings: Arc<Settings>,
    /// What only shard 0 has.
    lead: Option<Lead>,
}

struct Lead {
    stop: Inbox<()>,
    started: Sender<Result<SocketAddr, StartError>>,
    stage: Stage,
}

/// What a node's holder has of it. The node stops when this is dropped.
pub struct Holder<R: Runtime> {
    pub(crate) mesh: Vec<Sender<Message<R>>>,
    pub(crate) stage: Stage,
    stop: Sender<()>,
    started: Inbox<Result<SocketAddr, StartError>>,
}

impl<R: Runtime> Holder<R> {
    /// Waits until the node serves, and says at which address.
    ///
    /// # Errors
    /// [`StartError`]: it never will.
    ///
    /// # Panics
    /// When asked again: it is said once.
    pub async fn started(&self) -> Result<SocketAddr, StartError> {
        self.started.receive().await.expect("shard 0 says how the start went, once")
    }

    /// Asks the node to stop. Asking twice changes nothing.
    pub fn stop(&self) {
        self.stopper()();
    }

    /// Asks the node to stop when called, from any thread.
    pub fn stopper(&self) -> impl Fn() + Send + 'static {
        let stop = self.stop.clone();
        // Full: it was asked already. Closed: it has stopped.
        move || drop(stop.try_send(()))
    }
}

/// Makes the places of a node with so many shards, shard 0 first.
///
/// # Panics
/// If there is none, or more than 65,534: the last number means any shard.
pub fn seats<R: Runtime>(shards: usize, settings: Settings) -> (Vec<Seat<R>>, Holder<R>) {
    assert!((1..usize::from(u16::MAX)).contains(&shards), "a node of {shards} shards");
    let (mesh, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| inbox(settings.inbox_messages_max)).unzip();
    let ((stop, stop_seen), (started, start_seen)) = (call(), call());
    let (settings, stage) = (Arc::new(settings), Stage::default());
    let mut lead = Some(Lead { stop: stop_seen, started, stage: stage.clone() });
    let mut seat = |(index, inbox)| {
        let (mesh, settings) = (mesh.clone(), Arc::clone(&settings));
        Seat { index, inbox, mesh, settings, lead: lead.take() }
    };
    let seats = (0..).zip(inboxes).map(&mut seat).collect();
    (seats, Holder { mesh, stage, stop, started: start_seen })
}

/// Runs a shard from start to stop.
pub async fn run<R: Runtime>(rt: R, mut seat: Seat<R>) -> End {
    let Some(lead) = seat.lead.take() else { return follow(rt, seat).await };
    match begin(&rt, &seat).await {
        Ok(begun) => serve(begun, seat, lead).await,
        Err(error) => {
            for closed in order_all(&rt, &seat.mesh, Order::Close).await {
                closed.receive().await;
            }
            let error = error.with_advice(&seat.settings, seat.mesh.len());
            let _ = lead.started.try_send(Err(error));
            End::NotStarted
        }
    }
}

/// Shard 0 ready to accept, and what it holds for the node.
struct Begun<R: Runtime> {
    shard: Rc<Shard<R>>,
    listener: R::Listener,
    /// Held as long as the node runs.
    lock: R::DirLock,
}

/// What shard 0 opened, or could not open.
struct Opened<R: Runtime> {
    listener: io::Result<R::Listener>,
    logs: Result<Logs<R>, storage::OpenError>,
    /// The leader epoch of this start, if it was taken already.
    epoch: Option<Result<i32, meta::ProposeError>>,
    /// The logs of each other shard, from shard 1 on; `None` if the shard did not answer.
    other_logs: Vec<Option<Found>>,
}

async fn take_epoch(metadata: &MetaLog, node_id: u32) -> Result<i32, meta::ProposeError> {
    let Outcome::LeaderEpoch(epoch) = metadata.propose(Command::StartNode { node_id }).await? else {
        unreachable!("of a start")
    };
    Ok(epoch)
}

/// Brings all shards to where they can serve.
async fn begin<R: Runtime>(rt: &R, own: &Seat<R>) -> Result<Begun<R>, StartError> {
    let settings = &*own.settings;
    let lock = lock(rt, &settings.dir).await?;
    let metadata = MetaLog::open(rt, &meta_dir(&settings.dir)).await?;
    let seats = seat(&metadata.snapshot().logs, own.mesh.len() as u16);
    let Opened { listener, logs, epoch, other_logs } = open_all(rt, own, &metadata, &seats).await;
    let logs = logs.map_err(|source| StartError::Log { shard: 0, source })?;
    let begun = async {
        let address = settings.listen;
        let listener = listener.map_err(|source| StartError::Listen { address, source })?;
        let mut found = logs.ids();
        for (shard, other) in (1..).zip(other_logs) {
            let other = other.ok_or(StartError::Silent { shard })?;
            found.extend(other.map_err(|source| StartError::Log { shard, source })?);
        }
        register_logs(&metadata, found, &settings.dir).await?;
        spare_logs(&metadata, &seats).await?;
        let epoch = match epoch {
            Some(taken) => taken?,
            None => take_epoch(&metadata, settings.node_id).await?,
        };
        let shard = lead(rt, own, logs.clone(), metadata, epoch).await?;
        Ok(Begun { shard, listener, lock })
    };
    let begun = begun.await;
    if begun.is_err() {
        // They have tasks, which must have ended when the shard does. If they fail the next start recovers.
        let _ = logs.close().await;
    }
    begun
}

/// Opens everything at once, and waits for all of it: nothing may be under way when a shard ends.
///
/// A node that was there before takes its epoch meanwhile: an epoch in which nobody leads costs nothing, and the write would
/// otherwise be waited for.
async fn open_all<R: Runtime>(rt: &R, seat: &Seat<R>, metadata: &MetaLog, seats: &[Seating]) -> Opened<R> {
    let settings = &*seat.settings;
    let mut others = seats.iter().skip(1).cloned();
    let open = |reply| Order::Open { seating: others.next().expect("a seat for each shard"), reply };
    let opening = order_all(rt, &seat.mesh, open).await;
    let (node_id, is_known) = (settings.node_id, metadata.snapshot().version > 0);
    let own = metadata.clone();
    let taking = is_known.then(|| rt.spawn(async move { take_epoch(&own, node_id).await }));
    let listener = rt.listen(settings.listen).await;
    let logs = open_logs(rt, settings, &seats[0]).await;
    let epoch = match taking {
        Some(taking) => Some(taking.await),
        None => None,
    };
    let mut other_logs = Vec::new();
    for opened in opening {
        other_logs.push(opened.receive().await);
    }
    Opened { listener, logs, epoch, other_logs }
}

/// Has every shard serve in a leader epoch.
async fn lead<R: Runtime>(
    rt: &R,
    seat: &Seat<R>,
    logs: Logs<R>,
    metadata: MetaLog,
    epoch: i32,
) -> Result<Rc<Shard<R>>, StartError> {
    let settings = &*seat.settings;
    let snapshot = metadata.snapshot();
    let node = Node { cluster_id: snapshot.cluster_id.0, node_id: settings.node_id, epoch };
    let serve = |reply| Order::Serve { node, snapshot: Arc::clone(&snapshot), reply };
    let serving = order_all(rt, &seat.mesh, serve).await;
    let mesh = seat.mesh.clone().into();
    let shard = Shard::new(rt.clone(), 0, logs, Some(metadata), node, settings.limits.clone(), mesh);
    metadata::apply(&shard, snapshot.clone());
    metadata::report_refused(&shard);
    for (other, serves) in (1..).zip(serving) {
        serves.receive().await.ok_or(StartError::Silent { shard: other })?;
    }
    Ok(shard)
}

/// Accepts until the node is to stop, then brings all shards to their end.
async fn serve<R: Runtime>(begun: Begun<R>, seat: Seat<R>, lead: Lead) -> End {
    let Begun { shard, listener, lock: _lock } = begun;
    let address = listener.local_address();
    let admission = Admission::new(&seat.settings.limits);
    let accepting = shard.rt.spawn(listener::accept(Rc::clone(&shard), listener, admission));
    start_tasks(&shard, seat.inbox);
    lead.stage.serving();
    let _ = lead.started.try_send(Ok(address));
    let (ended, moving) = (Rc::clone(&shard), mover::run(Rc::clone(&shard), seat.settings.dir.clone()));
    let moving = shard.rt.spawn(async move { future::or(ended.ended(), moving).await });

    let serving = async {
        lead.stop.receive().await;
        lead.stage.stopping();
        let draining = order_all(&shard.rt, &seat.mesh, Order::Drain).await;
        let mut connections_cut = drain(&shard).await;
        accepting.await;
        for drained in draining {
            connections_cut += drained.receive().await.unwrap_or(0);
        }
        moving.await;
        let closing = order_all(&shard.rt, &seat.mesh, Order::Close).await;
        let closed = shard.logs.close().await;
        for closed in closing {
            closed.receive().await;
        }
        closed.map(|()| connections_cut)
    };
    until_failure(&shard, serving).await
}

/// Every shard but the first.
async fn follow<R: Runtime>(rt: R, seat: Seat<R>) -> End {
    let Some(Order::Open { seating, reply }) = next_order(&seat.inbox).await else { return End::NotStarted };
    let logs = match open_logs(&rt, &seat.settings, &seating).await {
        Ok(logs) => logs,
        Err(error) => {
            let _ = reply.try_send(Err(error));
            return End::NotStarted;
        }
    };
    let _ = reply.try_send(Ok(logs.ids()));
    let (node, snapshot, reply) = match next_order(&seat.inbox).await {
        Some(Order::Serve { node, snapshot, reply }) => (node, snapshot, reply),
        // The node does not start.
        Some(Order::Close(reply)) => {
            let _ = logs.close().await;
            let _ = reply.try_send(());
            return End::NotStarted;
        }
        Some(Order::Open { .. } | Order::Drain(_)) | None => return End::NotStarted,
    };
    let shard = Shard::new(rt, seat.index, logs, None, node, seat.settings.limits.clone(), seat.mesh.into());
    metadata::apply(&shard, snapshot);
    metadata::report_refused(&shard);
    let _ = reply.try_send(());
    let orders = start_tasks(&shard, seat.inbox);
    let serving = async {
        let mut connections_cut = 0;
        while let Some(order) = orders.receive().await {
            match order {
                Order::Drain(reply) => {
                    connections_cut = drain(&shard).await;
                    let _ = reply.try_send(connections_cut);
                }
                Order::Close(reply) => {
                    shard.logs.close().await?;
                    let _ = reply.try_send(());
                    break;
                }
                Order::Open { .. } | Order::Serve { .. } => unreachable!("this is said once, before"),
            }
        }
        Ok(connections_cut)
    };
    until_failure(&shard, serving).await
}

async fn lock<R: Runtime>(rt: &R, dir: &Path) -> Result<R::DirLock, StartError> {
    let refused = |source: io::Error| {
        let dir = dir.to_owned();
        match source.kind() {
            io::ErrorKind::WouldBlock => StartError::InUse { dir },
            _ => StartError::Directory { dir, source },
        }
    };
    rt.create_dir_all(dir).await.map_err(refused)?;
    rt.lock_dir(dir).await.map_err(refused)
}

/// Opens the logs of one shard, all or none.
async fn open_logs<R: Runtime>(rt: &R, settings: &Settings, seating: &Seating) -> Result<Logs<R>, storage::OpenError> {
    let (own, spare) = memory::split(&settings.log, seating.spare.len(), seating.logs_of_node);
    let mut logs = Vec::new();
    for &number in std::iter::once(&seating.own).chain(&seating.spare) {
        let options = if number == seating.own { &own } else { &spare };
        match Log::open(rt.clone(), &log_dir(&settings.dir, number), options.clone()).await {
            Ok(log) => logs.push((number, log)),
            Err(error) => {
                for (_, log) in logs {
                    let _ = log.close().await;
                }
                return Err(error);
            }
        }
    }
    Ok(Logs::new(seating.own, logs))
}

/// Where the metadata is.
pub(crate) fn meta_dir(dir: &Path) -> PathBuf {
    dir.join("meta")
}

/// The directory of a log. The first logs of a node have the numbers of their shards, hence the name.
pub(crate) fn log_dir(dir: &Path, log: LogNumber) -> PathBuf {
    dir.join(format!("shard-{log:03}"))
}

/// Makes sure that every log is where metadata thinks, and known to it.
async fn register_logs(meta: &MetaLog, mut found: Vec<(LogNumber, u128)>, dir: &Path) -> Result<(), StartError> {
    let known = meta.snapshot();
    found.sort_unstable();
    let mut ids = Vec::new();
    for (number, found) in found {
        match known.logs.get(number as usize) {
            Some(log) if log.id != found => {
                return Err(StartError::StrangeLog { dir: log_dir(dir, number), found, expected: log.id });
            }
            Some(_) => {}
            None => ids.push(found),
        }
    }
    if !ids.is_empty() {
        meta.propose(Command::RegisterLogs { ids }).await?;
    }
    Ok(())
}

/// Makes known which logs take no new partitions, if that has changed.
async fn spare_logs(meta: &MetaLog, seats: &[Seating]) -> Result<(), meta::ProposeError> {
    let mut logs: Vec<_> = seats.iter().flat_map(|seat| seat.spare.iter().copied()).collect();
    logs.sort_unstable();
    let snapshot = meta.snapshot();
    let known = (0..).zip(&snapshot.logs).filter(|(_, log)| log.state == LogState::Spare).map(|(number, _)| number);
    if !known.eq(logs.iter().copied()) {
        meta.propose(Command::SpareLogs { logs }).await?;
    }
    Ok(())
}

/// Gives an order to every shard but the first; where each will answer.
async fn order_all<R: Runtime, T>(
    rt: &R,
    mesh: &[Sender<Message<R>>],
    mut order: impl FnMut(Reply<T>) -> Order,
) -> Vec<Inbox<T>> {
    let mut answers = Vec::new();
    for inbox in mesh.iter().skip(1) {
        let (reply, answer) = call();
        send_surely(rt, inbox, Message::Order(order(reply))).await;
        answers.push(answer);
    }
    answers
}

/// The next order; whatever else comes before a shard serves is dropped, and its sender sees that.
async fn next_order<R: Runtime>(inbox: &Inbox<Message<R>>) -> Option<Order> {
    loop {
        if let Message::Order(order) = inbox.receive().await? {
            return Some(order);
        }
    }
}

/// Starts what runs beside the connections; where the shard's orders arrive.
fn start_tasks<R: Runtime>(shard: &Rc<Shard<R>>, messages: Inbox<Message<R>>) -> Inbox<Order> {
    let (orders, given) = inbox(1);
    let receiving = Rc::clone(shard);
    shard.start(async move {
        future::or(receiving.ended(), mailroom::receive(&receiving, &messages, &orders)).await;
    });
    let enforcing = Rc::clone(shard);
    shard.start(async move {
        future::or(
            enforcing.ended(),
            enforcing.connections.enforce(&enforcing.rt, enforcing.limits(), &enforcing.budget),
        )
        .await;
    });
    given
}

/// Takes no more requests and waits until every connection has what it is owed; how many had to be cut.
async fn drain<R: Runtime>(shard: &Shard<R>) -> usize {
    shard.drain();
    let until = shard.rt.now() + DRAIN_MAX;
    while shard.connections.end_idle() > 0 && shard.rt.now() < until {
        shard.rt.sleep(DRAIN_LOOK_EVERY).await;
    }
    shard.connections.end_all()
}

/// Serves to the end, or to the first write that fails.
async fn until_failure<R: Runtime>(shard: &Shard<R>, serving: impl Future<Output = Result<usize, LogFailed>>) -> End {
    let serving = async { serving.await.map_err(Failure::Log) };
    let failing = async { Err(shard.failed().await) };
    let ended = future::or(serving, failing).await;
    shard.end();
    match ended {
        Ok(connections_cut) => End::Stopped { connections_cut },
        Err(failed) => End::Failed(failed),
    }
}
