//! Produce: append on the partition's shard, here or there, and bring the outcomes home.
//!
//! Batches of this shard are appended straight from the receive buffer. Those of other shards are copied once into one
//! bundle for each shard, which leaves when the connection's read has been handled, so order within a partition is the
//! order of the connection: one inbox, one queue behind it.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use futures_lite::future;
use runtime::{Instant, Runtime, mesh};
use storage::Lsn;
use wire::PartitionId;

use super::error::ProduceError;
use crate::{
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

/// Bundles from other shards that wait for room in the log.
const BUNDLES_MAX: usize = 256;

/// Batches for one shard, from one read of one connection.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The partition of each batch, and its bytes.
    rows: Vec<(PartitionId, usize)>,
    /// All batches, back to back.
    bytes: Vec<u8>,
    /// When waiting for room is over.
    room_until: Instant,
}

/// Produce requests of one read that touch other shards. `T` says how to answer.
pub(crate) struct Crossing<T> {
    requests: Vec<CrossingRequest<T>>,
    bundles: BTreeMap<u16, Bundle>,
}

struct CrossingRequest<T> {
    answer: T,
    deadline: Instant,
    parts: Vec<(PartitionId, Part)>,
}

/// One batch of a crossing request.
enum Part {
    Here(Result<Placed, ProduceError>),
    /// Which batch of that shard's bundle it is.
    There {
        shard: u16,
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

/// Appends a batch to a partition of this shard.
#[inline]
pub(crate) fn append<R: Runtime>(
    shard: &Shard<R>,
    partition: PartitionId,
    batch: &[u8],
) -> Result<Placed, ProduceError> {
    let appended = match shard.partitions().get(&partition) {
        Some(partition) => partition.append(batch, shard.limits().batch_bytes_max),
        None => Err(ProduceError::UnknownPartition),
    };
    counted(shard, batch.len(), appended)
}

/// The same for a batch that was received into a block of the log's.
pub(crate) fn append_block<R: Runtime>(
    shard: &Shard<R>,
    partition: PartitionId,
    block: R::Block,
    batch_bytes: usize,
) -> Result<Placed, ProduceError> {
    let appended = match shard.partition(partition) {
        Some(partition) => partition.append_block(block, batch_bytes),
        None => Err(ProduceError::UnknownPartition),
    };
    counted(shard, batch_bytes, appended)
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

/// Waits until the log takes another batch; false when `until` comes first.
pub(crate) async fn room<R: Runtime>(shard: &Shard<R>, until: Instant) -> bool {
    if shard.log.has_room() {
        return true;
    }
    let room = async {
        shard.log.admit().await;
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

    /// Adds a batch to the request begun last: appends it here or copies it for its shard.
    pub(crate) fn add<R: Runtime>(&mut self, shard: &Shard<R>, partition: PartitionId, batch: &[u8], now: Instant) {
        let part = match shard.shard_of(partition) {
            Some(there) if there != shard.index => self.bundle(shard, there, partition, batch, now),
            _ => Part::Here(append(shard, partition, batch)),
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
        let calls: Vec<_> =
            self.bundles.into_iter().map(|(there, bundle)| (there, send(shard, there, bundle))).collect();
        let (home, requests) = (Rc::clone(shard), self.requests);
        shard.start(async move {
            let mut outcomes = BTreeMap::new();
            for (there, call) in calls {
                let arrived = match call {
                    Some(call) => call.receive().await.unwrap_or_default(),
                    None => Vec::new(),
                };
                outcomes.insert(there, arrived.into_iter().map(Some).collect::<Vec<_>>());
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
                        Part::There { shard, row } => {
                            let arrived = outcomes.get_mut(&shard).and_then(|rows| rows.get_mut(row)?.take());
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
        there: u16,
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
        let bundle = self.bundles.entry(there).or_insert_with(empty);
        bundle.rows.push((partition, batch.len()));
        bundle.bytes.extend_from_slice(batch);
        Part::There { shard: there, row: bundle.rows.len() - 1 }
    }
}

fn send<R: Runtime>(shard: &Shard<R>, there: u16, bundle: Bundle) -> Option<mesh::Inbox<Vec<ProduceOutcome>>> {
    let (reply, answer) = call();
    shard.send(there, Message::Produce { bundle, reply }).then_some(answer)
}

/// The sync group that the last of these waits for; 0 if none waits.
fn last_lsn<'a>(outcomes: impl Iterator<Item = &'a Result<Placed, ProduceError>>) -> Lsn {
    let placed = outcomes.flatten().filter(|placed| placed.appended.needs_sync());
    placed.map(|placed| placed.appended.lsn()).max().unwrap_or(0)
}

/// How far the log is synced once it is so up to `lsn`, or at `deadline`.
async fn synced_by<R: Runtime>(shard: &Shard<R>, lsn: Lsn, deadline: Instant) -> storage::Synced {
    if shard.log.synced_now().lsn() < lsn {
        let synced = async { drop(shard.log.synced(lsn).await) };
        future::or(synced, shard.rt.sleep(deadline.since(shard.rt.now()))).await;
    }
    shard.log.synced_now()
}

/// Appends what other shards send, in the order in which it arrived. Waiting for room, it holds up nothing else.
pub(crate) struct Arrivals {
    queue: mesh::Sender<(Bundle, Reply<Vec<ProduceOutcome>>)>,
}

impl Arrivals {
    /// Starts the task that appends.
    pub(crate) fn start<R: Runtime>(shard: &Rc<Shard<R>>) -> Self {
        let (queue, arrived) = mesh::inbox::<(Bundle, Reply<Vec<ProduceOutcome>>)>(BUNDLES_MAX);
        let appending = Rc::clone(shard);
        shard.start(async move {
            while let Some((bundle, reply)) = arrived.receive().await {
                append_bundle(&appending, bundle, reply).await;
            }
        });
        Self { queue }
    }

    /// Takes a bundle, or drops it when too many wait: then its sender hears of no outcome, which it takes for Busy.
    pub(crate) fn take(&self, bundle: Bundle, reply: Reply<Vec<ProduceOutcome>>) {
        let _ = self.queue.try_send((bundle, reply));
    }
}

async fn append_bundle<R: Runtime>(shard: &Rc<Shard<R>>, bundle: Bundle, reply: Reply<Vec<ProduceOutcome>>) {
    let has_room = room(shard, bundle.room_until).await;
    let mut rest = &bundle.bytes[..];
    let mut take = |(partition, bytes)| {
        let (batch, behind) = rest.split_at(bytes);
        rest = behind;
        if has_room { append(shard, partition, batch) } else { Err(ProduceError::Busy) }
    };
    let outcomes: Vec<_> = bundle.rows.into_iter().map(&mut take).collect();
    let (log, lsn) = (shard.log.clone(), last_lsn(outcomes.iter()));
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
