//! Fetch: group the partitions by shard, read, and wait if there is too little.
//!
//! A long poll is one parked task, woken by the high watermark of a partition it names; it looks at no clock but for
//! its own end, and it ends with its connection. Another shard watches on its behalf until it drops its end of the
//! channel.

use std::{collections::BTreeMap, pin::Pin, rc::Rc, time::Duration};

use bytes::Bytes;
use futures_lite::future;
use runtime::{Runtime, mesh};
use storage::{Offsets, ReadError};
use wire::PartitionId;

use super::error::FetchError;
use crate::{
    metrics::Metric,
    partition::delayed::{any, visible_in_any},
    request::{FetchRequest, Fetched, FetchedBatches, Position, Slice},
    shard::{
        Shard,
        mesh::{Message, Reply, call},
    },
};

/// Bytes of batches in an answer, unless one batch alone is larger.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The longest a client may have a fetch wait.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// What each partition of a request gave, in its order.
pub(crate) type FetchAnswer<R> = Vec<Fetched<Slice<<R as Runtime>::Frozen>>>;

/// Reads, and waits until there is enough, the wait is over, or `ended` is.
pub(crate) async fn fetch<R: Runtime>(
    shard: Rc<Shard<R>>,
    request: FetchRequest,
    ended: impl Future<Output = ()> + 'static,
) -> FetchAnswer<R> {
    let answer = read(&shard, &request).await;
    if request.wait_max.is_zero() || is_enough(&request, &answer) {
        return answer;
    }
    wait(shard, request, answer, ended).await
}

/// Reads again each time there is more, until it is enough. Holds no batches while it waits.
async fn wait<R: Runtime>(
    shard: Rc<Shard<R>>,
    request: FetchRequest,
    mut answer: FetchAnswer<R>,
    ended: impl Future<Output = ()> + 'static,
) -> FetchAnswer<R> {
    let (rt, stopping) = (shard.rt.clone(), Rc::clone(&shard));
    let mut over = Box::pin(any(vec![
        Box::pin(async move { rt.sleep(request.wait_max.min(WAIT_MAX)).await }),
        Box::pin(async move { stopping.stopping().await }),
        Box::pin(ended),
    ]));
    loop {
        let bytes_before = bytes_of(&answer);
        let offsets = next_offsets(&request, &answer);
        drop(answer);
        let is_over = async {
            over.as_mut().await;
            None
        };
        let is_more = future::or(more_than(&shard, offsets), is_over).await.is_some();
        answer = read(&shard, &request).await;
        // Woken without more to read: the log has failed, and nothing will ever change.
        if !is_more || is_enough(&request, &answer) || bytes_of(&answer) <= bytes_before {
            return answer;
        }
    }
}

/// Where each partition of a request goes on behind what was read.
fn next_offsets<S>(request: &FetchRequest, answer: &[Fetched<S>]) -> Vec<(PartitionId, u64)> {
    let next = |(position, fetched): (&Position, &Fetched<S>)| {
        let offset = fetched.batches.as_ref().map_or(position.offset, |batches| batches.next_offset);
        (position.partition, offset)
    };
    request.positions.iter().zip(answer).map(next).collect()
}

fn bytes_of<S>(answer: &[Fetched<S>]) -> usize {
    answer.iter().filter_map(|fetched| fetched.batches.as_ref().ok()).map(|batches| batches.bytes).sum()
}

/// Whether a client wants to know this now.
fn is_enough<S>(request: &FetchRequest, answer: &[Fetched<S>]) -> bool {
    let is_news = |fetched: &Fetched<S>| fetched.batches.as_ref().map_or(true, |batches| batches.lost.is_some());
    bytes_of(answer) >= request.bytes_min || answer.is_empty() || answer.iter().any(is_news)
}

/// Reads every partition of a request once.
async fn read<R: Runtime>(shard: &Rc<Shard<R>>, request: &FetchRequest) -> FetchAnswer<R> {
    let mut bytes_left = request.bytes_max.min(ANSWER_BYTES_MAX);
    let mut is_first = true;
    let mut answer: Vec<Option<Fetched<Slice<R::Frozen>>>> = Vec::with_capacity(request.positions.len());
    let mut there: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (row, &position) in request.positions.iter().enumerate() {
        match shard.shard_of(position.partition) {
            Some(other) if other != shard.index => {
                there.entry(other).or_default().push(row);
                answer.push(None);
            }
            _ => {
                let fetched = read_here(shard, position, &mut bytes_left, &mut is_first).await;
                answer.push(Some(fetched.map_slices(Slice::Here)));
            }
        }
    }
    for (other, rows) in there {
        let positions = rows.iter().map(|&row| request.positions[row]).collect();
        let fetched = read_there(shard, other, positions, bytes_left, is_first).await;
        for (row, fetched) in rows.into_iter().zip(fetched) {
            if let Ok(batches) = &fetched.batches {
                bytes_left = bytes_left.saturating_sub(batches.bytes);
                is_first &= batches.bytes == 0;
            }
            answer[row] = Some(fetched.map_slices(Slice::Copied));
        }
    }
    let busy = || Fetched { offsets: Offsets::default(), batches: Err(FetchError::Busy) };
    answer.into_iter().map(|fetched| fetched.unwrap_or_else(busy)).collect()
}

/// Reads a partition of this shard. The first batch of an answer comes however large it is, later ones only if they
/// fit.
async fn read_here<R: Runtime>(
    shard: &Shard<R>,
    position: Position,
    bytes_left: &mut usize,
    is_first: &mut bool,
) -> Fetched<R::Frozen> {
    let Some(partition) = shard.partition(position.partition) else {
        shard.metrics.count(Metric::FetchRefused);
        return Fetched { offsets: Offsets::default(), batches: Err(missing(shard, position.partition)) };
    };
    let bytes_max = position.bytes_max.min(*bytes_left);
    let batches = match partition.read(position.offset, bytes_max).await {
        Ok(batches) if batches.bytes > bytes_max && !*is_first => Ok(nothing(position.offset)),
        // It moved while it was read.
        Err(ReadError::Gone) => Err(missing(shard, position.partition)),
        other => other.map_err(FetchError::Read),
    };
    match &batches {
        Ok(batches) => {
            *bytes_left = bytes_left.saturating_sub(batches.bytes);
            *is_first &= batches.bytes == 0;
            shard.metrics.add(Metric::FetchBytes, batches.bytes as u64);
        }
        Err(_) => shard.metrics.count(Metric::FetchRefused),
    }
    // Asked for last, so that no batch lies beyond the high watermark that is told.
    Fetched { offsets: partition.offsets(), batches }
}

/// What is told of a partition that is not led here.
pub(crate) fn missing<R: Runtime>(shard: &Shard<R>, partition: PartitionId) -> FetchError {
    if shard.is_known(partition) { FetchError::Moved } else { FetchError::UnknownPartition }
}

fn nothing<S>(offset: u64) -> FetchedBatches<S> {
    FetchedBatches { slices: Vec::new(), bytes: 0, next_offset: offset, lost: None }
}

async fn read_there<R: Runtime>(
    shard: &Shard<R>,
    other: u16,
    positions: Vec<Position>,
    bytes_max: usize,
    is_first: bool,
) -> Vec<Fetched<Bytes>> {
    let (reply, answer) = call();
    if shard.send(other, Message::Fetch { positions, bytes_max, is_first, reply }) {
        answer.receive().await.unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// Reads on behalf of another shard, and copies: blocks do not leave their core.
pub(crate) async fn read_for_other<R: Runtime>(
    shard: Rc<Shard<R>>,
    positions: Vec<Position>,
    mut bytes_left: usize,
    mut is_first: bool,
    reply: Reply<Vec<Fetched<Bytes>>>,
) {
    let mut fetched = Vec::with_capacity(positions.len());
    for position in positions {
        let here = read_here(&shard, position, &mut bytes_left, &mut is_first).await;
        fetched.push(here.map_slices(|slice| Bytes::copy_from_slice(&slice)));
    }
    let _ = reply.try_send(fetched);
}

/// Waits for something to read at any of these offsets or behind it; `None` if another shard cannot say.
async fn more_than<R: Runtime>(shard: &Rc<Shard<R>>, offsets: Vec<(PartitionId, u64)>) -> Option<()> {
    let mut here = Vec::new();
    let mut there: BTreeMap<u16, Vec<(PartitionId, u64)>> = BTreeMap::new();
    for (id, offset) in offsets {
        match shard.shard_of(id) {
            Some(other) if other != shard.index => there.entry(other).or_default().push((id, offset)),
            _ => here.extend(shard.partition(id).map(|partition| (partition, offset))),
        }
    }
    let mut waits: Vec<Pin<Box<dyn Future<Output = Option<()>>>>> = Vec::new();
    for (other, positions) in there {
        let ((reply, seen), (watching, given_up)) = (call(), call());
        if !shard.send(other, Message::Watch { positions, given_up, reply }) {
            return None;
        }
        waits.push(Box::pin(async move {
            let _watching = watching;
            seen.receive().await
        }));
    }
    if !here.is_empty() {
        waits.push(Box::pin(async move {
            visible_in_any(here).await;
            Some(())
        }));
    }
    any(waits).await
}

/// Tells another shard when there is something to read at one of these offsets, unless it gives up first.
pub(crate) async fn watch_for_other<R: Runtime>(
    shard: Rc<Shard<R>>,
    positions: Vec<(PartitionId, u64)>,
    given_up: mesh::Inbox<()>,
    reply: Reply<()>,
) {
    let led = |(partition, offset)| Some((shard.partition(partition)?, offset));
    let seen = async {
        // One that moved away is found where it went by whoever asks.
        if let Some(led) = positions.into_iter().map(led).collect::<Option<Vec<_>>>() {
            visible_in_any(led).await;
        }
        let _ = reply.try_send(());
    };
    future::or(seen, async {
        given_up.receive().await;
    })
    .await;
}
