//! Produce: append to the partition's log, here or there, and bring the outcomes home.
//!
//! Batches of this shard's own log are appended straight from the receive buffer. Those of other logs, a spare one of this
//! shard among them, are copied once into one bundle for each log, which leaves when the connection's read has been
//! handled, so order within a partition is the order of the connection: one inbox, one queue behind it.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use futures_lite::future;
use runtime::{Instant, Runtime, mesh};
use storage::{Log, Lsn};
use wire::PartitionId;

use super::error::ProduceError;
use crate::{
    meta::LogNumber,
    metrics::Metric,
    partition::Append,
    request::{Placed, ProduceOutcome},
    shard::{
        Shard,
        mesh::{Message, Reply, call},
    },
};

/// The longest a client may have a produce request wait for its ack, and what it gets if it does not say.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// Bundles that wait for room in one log.
const BUNDLES_MAX: usize = 256;

/// Batches for one log, from one read of one connection.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The partition of each batch, and its bytes.
    rows: Vec<(PartitionId, usize)>,
    /// All batches, back to back.
    bytes: Vec<u8>,
    /// When waiting for room is over.
    room_until: Instant,
}

/// Produce requests of one read that touch other logs than the shard's own. `T` says how to answer.
pub(crate) struct Crossing<T> {
    requests: Vec<CrossingRequest<T>>,
    bundles: BTreeMap<LogNumber, Bundle>,
}

struct CrossingRequest<T> {
    answer: T,
    deadline: Instant,
    parts: Vec<(PartitionId, Part)>,
}

/// One batch of a crossing request.
enum Part {
    Here(Result<Placed, ProduceError>),
    /// Which batch of that log's bundle it is.
    There {
        log: LogNumber,
        row: usize,
    },
}

/// When a request that allows so much time has to be answered.
pub(crate) fn deadline(now: Instant, timeout_ms: u32) -> Instant {
    match timeout_ms {
        0 => now + TIMEOUT_MAX,
        timeout_ms => now + Duration::from_millis(timeout_ms.into()).min(TIMEOUT_MAX),
    }
}

/// Appends a batch to a partition of a log that this shard runs.
#[inline]
pub(crate) fn append<R: Runtime>(
    shard: &Shard<R>,
    log: LogNumber,
    partition: PartitionId,
    batch: &[u8],
) -> Result<Placed, ProduceError> {
    let appended = match shard.partitions().get(&partition) {
        Some(stored) if stored.log() == log && !shard.pauses.holds(partition) => {
            stored.append(batch, shard.limits().batch_bytes_max)
        }
        _ => Err(refusal(shard, partition)),
    };
    counted(shard, batch.len(), appended)
}

/// The same for the shard's own log; `None` when the partition lives in another one.
#[inline]
pub(crate) fn append_own<R: Runtime>(
    shard: &Shard<R>,
    own: LogNumber,
    partition: PartitionId,
    batch: &[u8],
) -> Option<Result<Placed, ProduceError>> {
    // Looked at first: it is almost always there, and one lookup is enough then.
    if let Some(stored) = shard.partitions().get(&partition)
        && stored.log() == own
        && !shard.pauses.holds(partition)
    {
        return Some(counted(shard, batch.len(), stored.append(batch, shard.limits().batch_bytes_max)));
    }
    (!shard.is_elsewhere(partition)).then(|| counted(shard, batch.len(), Err(refusal(shard, partition))))
}

/// The same for a batch that was received into a block, and the shard's own log.
pub(crate) fn append_block<R: Runtime>(
    shard: &Shard<R>,
    partition: PartitionId,
    block: R::Block,
    batch_bytes: usize,
) -> Result<Placed, ProduceError> {
    let appended = match shard.partition(partition) {
        Some(stored) if stored.log() == shard.logs.own_number() && !shard.pauses.holds(partition) => {
            stored.append_block(block, batch_bytes)
        }
        _ => Err(refusal(shard, partition)),
    };
    counted(shard, batch_bytes, appended)
}

/// What is told of a batch for a partition that takes none, or does not live where it was sent.
#[cold]
fn refusal<R: Runtime>(shard: &Shard<R>, partition: PartitionId) -> ProduceError {
    if shard.pauses.holds(partition) {
        ProduceError::Busy
    } else if shard.is_known(partition) {
        ProduceError::Moved
    } else {
        ProduceError::UnknownPartition
    }
}

#[inline]
fn counted<R: Runtime>(
    shard: &Shard<R>,
    batch_bytes: usize,
    appended: Result<Append, ProduceError>,
) -> Result<Placed, ProduceError> {
    let metrics = &shard.metrics;
    match appended {
        Ok(appended) => {
            metrics.count(Metric::ProduceBatches);
            metrics.add(Metric::ProduceRecords, appended.record_count.into());
            metrics.add(Metric::ProduceBytes, batch_bytes as u64);
            Ok(appended.placed)
        }
        Err(error) => {
            metrics.count(Metric::ProduceRefused);
            Err(error)
        }
    }
}

/// Waits until a log takes another batch; false when `until` comes first. Partitions may be paused beside.
pub(crate) async fn room<R: Runtime>(shard: &Shard<R>, log: &Log<R>, until: Instant) -> bool {
    if log.has_room() {
        return true;
    }
    let room = async {
        log.admit().await;
        true
    };
    let too_late = async {
        shard.rt.sleep(until.since(shard.rt.now())).await;
        false
    };
    future::or(room, too_late).await
}

impl<T> Default for Crossing<T> {
    fn default() -> Self {
        Self { requests: Vec::new(), bundles: BTreeMap::new() }
    }
}

impl<T: 'static> Crossing<T> {
    /// Whether nothing crosses.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Begins a request, some of whose batches may have been appended here already.
    pub(crate) fn open(
        &mut self,
        answer: T,
        deadline: Instant,
        here: Vec<(PartitionId, Result<Placed, ProduceError>)>,
    ) {
        let parts = here.into_iter().map(|(partition, outcome)| (partition, Part::Here(outcome))).collect();
        self.requests.push(CrossingRequest { answer, deadline, parts });
    }

    /// Adds a batch to the request begun last: appends it here or copies it for its log.
    pub(crate) fn add<R: Runtime>(&mut self, shard: &Shard<R>, partition: PartitionId, batch: &[u8], now: Instant) {
        let own = shard.logs.own_number();
        let part = match shard.log_of(partition) {
            Some(log) if log != own => self.bundle(shard, log, partition, batch, now),
            _ => Part::Here(append(shard, own, partition, batch)),
        };
        let request = self.requests.last_mut().expect("a request was begun");
        request.parts.push((partition, part));
    }

    /// Sends the bundles; when every outcome is there, `answer` is called for each request in turn.
    pub(crate) fn depart<R: Runtime>(
        self,
        shard: &Rc<Shard<R>>,
        mut answer: impl FnMut(T, Vec<(PartitionId, ProduceOutcome)>) + 'static,
    ) {
        let calls: Vec<_> = self.bundles.into_iter().map(|(log, bundle)| (log, send(shard, log, bundle))).collect();
        let (home, requests) = (Rc::clone(shard), self.requests);
        shard.start(async move {
            let mut outcomes = BTreeMap::new();
            for (log, call) in calls {
                let arrived = match call {
                    Some(call) => call.receive().await.unwrap_or_default(),
                    None => Vec::new(),
                };
                outcomes.insert(log, arrived.into_iter().map(Some).collect::<Vec<_>>());
            }
            for CrossingRequest { answer: to, deadline, parts } in requests {
                let here = parts.iter().filter_map(|(_, part)| match part {
                    Part::Here(outcome) => Some(outcome),
                    Part::There { .. } => None,
                });
                let synced = synced_by(&home, last_lsn(here), deadline).await;
                let mut finish = |(partition, part)| {
                    let outcome = match part {
                        Part::Here(outcome) => outcome.and_then(|placed: Placed| placed.acknowledge_by(synced)),
                        Part::There { log, row } => {
                            let arrived = outcomes.get_mut(&log).and_then(|rows| rows.get_mut(row)?.take());
                            arrived.unwrap_or(Err(ProduceError::Busy))
                        }
                    };
                    (partition, outcome)
                };
                let finished = parts.into_iter().map(&mut finish).collect();
                answer(to, finished);
            }
        });
    }

    fn bundle<R: Runtime>(
        &mut self,
        shard: &Shard<R>,
        log: LogNumber,
        partition: PartitionId,
        batch: &[u8],
        now: Instant,
    ) -> Part {
        let limits = shard.limits();
        if batch.len() > limits.batch_bytes_max {
            let too_large = ProduceError::TooLarge { bytes: batch.len(), bytes_max: limits.batch_bytes_max };
            return Part::Here(Err(too_large));
        }
        let room_until = now + limits.produce_wait_max;
        let empty = || Bundle { rows: Vec::new(), bytes: Vec::new(), room_until };
        let bundle = self.bundles.entry(log).or_insert_with(empty);
        bundle.rows.push((partition, batch.len()));
        bundle.bytes.extend_from_slice(batch);
        Part::There { log, row: bundle.rows.len() - 1 }
    }
}

fn send<R: Runtime>(shard: &Shard<R>, log: LogNumber, bundle: Bundle) -> Option<mesh::Inbox<Vec<ProduceOutcome>>> {
    let (reply, answer) = call();
    let there = shard.placement().shard_of_log(log);
    shard.send(there, Message::Produce { log, bundle, reply }).then_some(answer)
}

/// The sync group that the last of these waits for; 0 if none waits.
fn last_lsn<'a>(outcomes: impl Iterator<Item = &'a Result<Placed, ProduceError>>) -> Lsn {
    let placed = outcomes.flatten().filter(|placed| placed.appended.needs_sync());
    placed.map(|placed| placed.appended.lsn()).max().unwrap_or(0)
}

/// How far the shard's own log is synced once it is so up to `lsn`, or at `deadline`.
async fn synced_by<R: Runtime>(shard: &Shard<R>, lsn: Lsn, deadline: Instant) -> storage::Synced {
    if shard.log.synced_now().lsn() < lsn {
        let synced = async { drop(shard.log.synced(lsn).await) };
        future::or(synced, shard.rt.sleep(deadline.since(shard.rt.now()))).await;
    }
    shard.log.synced_now()
}

/// Appends bundles to the logs of this shard, those for one log in the order in which they arrived. One that waits for
/// room holds up nothing else.
pub(crate) struct Arrivals {
    queues: BTreeMap<LogNumber, mesh::Sender<Arrived>>,
}

type Arrived = (Bundle, Reply<Vec<ProduceOutcome>>);

impl Arrivals {
    /// Starts a task for each log that appends.
    pub(crate) fn start<R: Runtime>(shard: &Rc<Shard<R>>) -> Self {
        let start = |(number, _)| {
            let (queue, arrived) = mesh::inbox::<Arrived>(BUNDLES_MAX);
            let appending = Rc::clone(shard);
            shard.start(async move {
                while let Some((bundle, reply)) = arrived.receive().await {
                    // One that was given up is not held: who sent the bundle hears of no outcome.
                    let Some(log) = appending.logs.get(number) else { return };
                    append_bundle(&appending, number, &log, bundle, reply).await;
                }
            });
            (number, queue)
        };
        Self { queues: shard.logs.all().into_iter().map(start).collect() }
    }

    /// Takes a bundle, or drops it when too many wait: then its sender hears of no outcome, which it takes for Busy.
    pub(crate) fn take(&self, log: LogNumber, bundle: Bundle, reply: Reply<Vec<ProduceOutcome>>) {
        if let Some(queue) = self.queues.get(&log) {
            let _ = queue.try_send((bundle, reply));
        }
    }
}

async fn append_bundle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    number: LogNumber,
    log: &Log<R>,
    bundle: Bundle,
    reply: Reply<Vec<ProduceOutcome>>,
) {
    let partitions = bundle.rows.iter().map(|&(partition, _)| partition);
    let has_room =
        room(shard, log, bundle.room_until).await && shard.pauses.over(&shard.rt, partitions, bundle.room_until).await;
    let mut rest = &bundle.bytes[..];
    let mut take = |(partition, bytes)| {
        let (batch, behind) = rest.split_at(bytes);
        rest = behind;
        if has_room { append(shard, number, partition, batch) } else { Err(ProduceError::Busy) }
    };
    let outcomes: Vec<_> = bundle.rows.into_iter().map(&mut take).collect();
    let (log, lsn) = (log.clone(), last_lsn(outcomes.iter()));
    shard.start(async move {
        let synced = log.synced(lsn).await;
        let finish = |outcome: Result<Placed, ProduceError>| match &synced {
            Ok(synced) => outcome?.acknowledge_by(*synced),
            Err(failed) => outcome.and(Err(ProduceError::Failed(failed.clone()))),
        };
        // If the connection is gone, so is the wish to know.
        let _ = reply.try_send(outcomes.into_iter().map(finish).collect());
    });
}
