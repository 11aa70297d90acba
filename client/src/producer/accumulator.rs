//! Records in, produce requests out: the producer without its sockets, tasks and clock.
//!
//! A record is appended to the open batch of its partition. A batch is closed when it is full, or when it is taken into a
//! request: after its linger, and not before the connection has room. So while a broker is busy batches grow by themselves,
//! and a lone record leaves at once.
//!
//! The hard idea is to do nothing for a partition unless something happened to it, because there may be ten thousand: each is
//! in its connection's queue once when it has something to send, and in the set of timers once when time will change it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use wire::record::{AppendError, BatchBuilder, Codec, Producer};

use super::{
    delivery::{BatchOutcome, Delivery, outcome},
    partitioner::Partitioner,
    queue::{Attempt, Decided, Need, Numbering, Open, Outcome, Queue, Sending},
    record::ProducerRecord,
};
use crate::{error::Error, routes::RouteIndex};

/// What bounds a producer.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of a batch, and of the batches of a request unless it has only one.
    pub(crate) batch_bytes_max: usize,
    /// How long a batch that is not full waits for more records.
    pub(crate) linger: Duration,
    /// Requests of a connection without an answer, and so also batches of a partition.
    pub(crate) in_flight_max: usize,
    /// How long a record may take in all.
    pub(crate) delivery_timeout: Duration,
}

/// What a batch takes in the head of a request.
const ROW_BYTES: usize = 12;

/// A produce request to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) ticket: Ticket,
    /// The bytes of each batch in the ticket.
    pub(crate) batches: Vec<Bytes>,
}

/// What a produce request carries: by this its answer is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) route: RouteIndex,
    /// Partition and number of each batch, in the order of the request.
    pub(crate) batches: Vec<(u32, u64)>,
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// The topic has no such partition.
    UnknownPartition,
    /// It fits no batch.
    TooLarge { record_bytes: usize },
    /// Its partition takes no more records.
    Failed(Error),
}

/// The records of one producer that are not yet decided.
#[derive(Debug)]
pub(crate) struct Accumulator {
    limits: Limits,
    partitioner: Partitioner,
    partitions: Vec<Partition>,
    routes: Vec<Route>,
    timers: BTreeSet<(Instant, u32)>,
    decided: Vec<(u32, Decided)>,
    records: u64,
    metadata_wanted: bool,
}

#[derive(Debug)]
struct Partition {
    route: RouteIndex,
    builder: BatchBuilder,
    codec: Codec,
    /// The batch in the builder.
    open: Option<OpenBatch>,
    queue: Queue,
    /// In its route's list.
    listed: bool,
    timer: Option<Instant>,
}

#[derive(Debug)]
struct OpenBatch {
    outcome: BatchOutcome,
    ready_at: Instant,
    rest: Open,
}

#[derive(Debug, Default)]
struct Route {
    connected: bool,
    in_flight: usize,
    /// Partitions that may have something to send.
    listed: VecDeque<u32>,
}

impl Accumulator {
    /// Of a topic whose partitions have these routes; at least one. Every route is taken for connected.
    pub(crate) fn new(
        limits: Limits,
        numbering: Numbering,
        codec: Codec,
        partitioner: Partitioner,
        routes: &[RouteIndex],
    ) -> Self {
        let partition = |&route: &RouteIndex| Partition {
            route,
            builder: BatchBuilder::new(limits.batch_bytes_max),
            codec,
            open: None,
            queue: Queue::new(numbering),
            listed: false,
            timer: None,
        };
        let partitions = routes.iter().map(partition).collect();
        let mut accumulator = Self {
            limits,
            partitioner,
            partitions,
            routes: Vec::new(),
            timers: BTreeSet::new(),
            decided: Vec::new(),
            records: 0,
            metadata_wanted: false,
        };
        accumulator.add_routes(routes);
        accumulator
    }

    /// Adds a record to its batch. The clock is read only when that opens a batch.
    #[inline]
    pub(crate) fn append(
        &mut self,
        record: &ProducerRecord<'_>,
        timestamp_ms: i64,
        buffer_bytes: usize,
        now: impl FnOnce() -> Instant,
    ) -> Result<Delivery, Rejected> {
        let index = self.choose(record, buffer_bytes)?;
        let partition = &mut self.partitions[index as usize];
        if let Some(error) = partition.queue.failed() {
            return Err(Rejected::Failed(error.clone()));
        }
        let ProducerRecord { key, value, headers, .. } = *record;
        match partition.builder.append(timestamp_ms, key, value, headers) {
            Ok(()) => {}
            Err(AppendError::TooLarge { record_bytes, .. }) => return Err(Rejected::TooLarge { record_bytes }),
            Err(AppendError::Full { .. }) => {
                partition.close();
                let appended = partition.builder.append(timestamp_ms, key, value, headers);
                appended.expect("a record that is not too large fits an empty batch");
            }
        }
        self.records += 1;
        let record_index = partition.builder.record_count() as u32 - 1;
        if let Some(open) = &mut partition.open {
            open.rest.buffer_bytes += buffer_bytes;
            return Ok(Delivery::new(open.outcome.clone(), record_index));
        }
        let now = now();
        let open = partition.open.insert(OpenBatch::new(&self.limits, buffer_bytes, now));
        let delivery = Delivery::new(open.outcome.clone(), record_index);
        self.touch(index, now);
        Ok(delivery)
    }

    /// The next request that may be sent now.
    pub(crate) fn poll_request(&mut self, now: Instant) -> Option<Outgoing> {
        let in_flight_max = self.limits.in_flight_max;
        let has_room = |route: &Route| route.connected && route.in_flight < in_flight_max && !route.listed.is_empty();
        for route in 0..self.routes.len() {
            while has_room(&self.routes[route]) {
                if let Some(outgoing) = self.fill_request(route, now) {
                    self.routes[route].in_flight += 1;
                    return Some(outgoing);
                }
            }
        }
        None
    }

    /// Whether [`Self::poll_request`] is worth a call.
    #[inline]
    pub(crate) fn has_requests(&self) -> bool {
        let in_flight_max = self.limits.in_flight_max;
        self.routes.iter().any(|route| route.connected && route.in_flight < in_flight_max && !route.listed.is_empty())
    }

    /// Takes the result of a request: one attempt for each batch of its ticket.
    pub(crate) fn complete(&mut self, ticket: &Ticket, attempts: impl IntoIterator<Item = Attempt>, now: Instant) {
        self.routes[ticket.route].in_flight -= 1;
        let mut decided = Vec::new();
        for (&(index, number), attempt) in ticket.batches.iter().zip(attempts) {
            let need = self.partitions[index as usize].queue.complete(number, attempt, now, &mut decided);
            self.metadata_wanted |= need == Need::Metadata;
            self.decide(index, &mut decided);
            self.touch(index, now);
        }
    }

    /// The connection is gone, or there again.
    pub(crate) fn set_connected(&mut self, route: RouteIndex, connected: bool) {
        self.routes[route].connected = connected;
    }

    /// Where a partition is sent to.
    pub(crate) fn route(&self, partition: u32) -> RouteIndex {
        self.partitions[partition as usize].route
    }

    /// The partitions have these routes from now on.
    pub(crate) fn set_routes(&mut self, routes: &[RouteIndex], now: Instant) {
        self.add_routes(routes);
        for (index, &route) in (0..).zip(routes) {
            let partition = &mut self.partitions[index as usize];
            if partition.route != route {
                partition.queue.moved();
                // Its place in the old route's list, if it has one, is skipped there.
                (partition.route, partition.listed) = (route, false);
                self.touch(index, now);
            }
        }
    }

    /// Time passed: batches have lingered, pauses are over, delivery timeouts are reached.
    pub(crate) fn handle_time(&mut self, now: Instant) {
        let mut decided = Vec::new();
        while let Some(&(at, index)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            let partition = &mut self.partitions[index as usize];
            partition.timer = None;
            partition.queue.handle_time(now);
            let reason = partition.queue.failure();
            partition.queue.expire(now, &mut decided);
            partition.expire_open(now, reason, &mut decided);
            self.decide(index, &mut decided);
            self.touch(index, now);
        }
    }

    /// When [`Self::handle_time`] must be called next.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Closes every open batch and returns the outcomes of all that is undecided.
    pub(crate) fn flush(&mut self, now: Instant) -> Vec<BatchOutcome> {
        let mut outcomes = Vec::new();
        for index in 0..self.partitions.len() as u32 {
            let partition = &mut self.partitions[index as usize];
            partition.close();
            outcomes.extend(partition.queue.outcomes());
            self.touch(index, now);
        }
        outcomes
    }

    /// Fails everything, and takes nothing more.
    pub(crate) fn fail(&mut self, error: &Error) {
        let mut decided = Vec::new();
        for index in 0..self.partitions.len() as u32 {
            let partition = &mut self.partitions[index as usize];
            partition.close();
            partition.queue.fail(error, &mut decided);
            self.decide(index, &mut decided);
        }
    }

    /// Takes what was decided since the last call: partition and fate of each batch.
    pub(crate) fn take_decided(&mut self) -> Vec<(u32, Decided)> {
        std::mem::take(&mut self.decided)
    }

    /// Whether a broker did not know or lead a partition since the last call.
    pub(crate) fn take_metadata_wanted(&mut self) -> bool {
        std::mem::take(&mut self.metadata_wanted)
    }

    /// Records that are not yet decided.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    #[inline]
    fn choose(&mut self, record: &ProducerRecord<'_>, buffer_bytes: usize) -> Result<u32, Rejected> {
        match record.partition {
            Some(index) if (index as usize) < self.partitions.len() => Ok(index),
            Some(_) => Err(Rejected::UnknownPartition),
            None => {
                let index = self.partitioner.choose(record.key, buffer_bytes);
                let failed = record.key.is_none() && self.partitions[index as usize].queue.failed().is_some();
                if failed { Ok(self.partitioner.move_on()) } else { Ok(index) }
            }
        }
    }

    /// Batches of the partitions that wait for this route, at most one of each.
    fn fill_request(&mut self, route: RouteIndex, now: Instant) -> Option<Outgoing> {
        let (mut ticket, mut batches) = (Ticket { route, batches: Vec::new() }, Vec::new());
        let mut room = self.limits.batch_bytes_max;
        for _ in 0..self.routes[route].listed.len() {
            let index = self.routes[route].listed.pop_front().expect("counted above");
            let partition = &mut self.partitions[index as usize];
            if partition.route != route {
                continue;
            }
            partition.listed = false;
            if partition.is_sendable(self.limits.in_flight_max, now) {
                let bytes = partition.next_bytes() + ROW_BYTES;
                if bytes > room && !batches.is_empty() {
                    self.list_first(index);
                    break;
                }
                let sending = partition.take_next();
                room = room.saturating_sub(bytes);
                ticket.batches.push((index, sending.number));
                batches.push(sending.bytes);
                self.touch(index, now);
            }
        }
        (!batches.is_empty()).then_some(Outgoing { ticket, batches })
    }

    /// Something happened to the partition: it may have something to send, now or at a certain time.
    fn touch(&mut self, index: u32, now: Instant) {
        let partition = &mut self.partitions[index as usize];
        if !partition.listed && partition.is_sendable(self.limits.in_flight_max, now) {
            partition.listed = true;
            self.routes[partition.route].listed.push_back(index);
        }
        // A timer that is too early is left: it finds nothing to do and is set anew. That is rarer than setting it each time.
        if let Some(at) = partition.wake_at(now)
            && partition.timer.is_none_or(|timer| at < timer)
        {
            if let Some(timer) = partition.timer.replace(at) {
                self.timers.remove(&(timer, index));
            }
            self.timers.insert((at, index));
        }
    }

    fn list_first(&mut self, index: u32) {
        let partition = &mut self.partitions[index as usize];
        partition.listed = true;
        self.routes[partition.route].listed.push_front(index);
    }

    fn decide(&mut self, index: u32, decided: &mut Vec<Decided>) {
        for decided in decided.drain(..) {
            self.records -= u64::from(decided.record_count);
            self.decided.push((index, decided));
        }
    }

    fn add_routes(&mut self, routes: &[RouteIndex]) {
        let count = routes.iter().max().map_or(0, |last| last + 1).max(self.routes.len());
        self.routes.resize_with(count, || Route { connected: true, ..Route::default() });
    }
}

impl OpenBatch {
    fn new(limits: &Limits, buffer_bytes: usize, now: Instant) -> Self {
        let (decide, outcome) = outcome();
        let rest = Open { decide, outcome: outcome.clone(), buffer_bytes, deadline: now + limits.delivery_timeout };
        Self { outcome, ready_at: now + limits.linger, rest }
    }
}

impl Partition {
    /// Closes the open batch, if there is one.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.queue.push(&mut self.builder, self.codec, open.rest);
        }
    }

    fn is_sendable(&self, in_flight_max: usize, now: Instant) -> bool {
        let lingered = self.open.as_ref().is_some_and(|open| open.ready_at <= now);
        (self.queue.has_waiting() || lingered) && self.queue.may_send(in_flight_max, now)
    }

    /// Bytes of the batch that would be sent next.
    fn next_bytes(&self) -> usize {
        self.queue.waiting_bytes().unwrap_or_else(|| self.builder.batch_bytes())
    }

    fn take_next(&mut self) -> Sending {
        if !self.queue.has_waiting() {
            self.close();
        }
        self.queue.send()
    }

    /// An open batch whose time is over was never numbered, so it leaves no gap.
    fn expire_open(&mut self, now: Instant, reason: Option<Arc<str>>, decided: &mut Vec<Decided>) {
        if let Some(open) = self.open.take_if(|open| open.rest.deadline <= now) {
            let record_count = self.builder.record_count() as u32;
            drop(self.builder.build(Producer::NONE));
            let outcome = Outcome::TimedOut { maybe_written: false, reason };
            let Open { decide, buffer_bytes, .. } = open.rest;
            decided.push(Decided { decide, outcome, record_count, buffer_bytes });
        }
    }

    /// When something changes by time alone.
    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let lingers = |open: &OpenBatch| if open.ready_at > now { open.ready_at } else { open.rest.deadline };
        self.open.as_ref().map(lingers).into_iter().chain(self.queue.wake_at()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(5);

    fn accumulator(partitions: usize, linger: Duration) -> Accumulator {
        let limits =
            Limits { batch_bytes_max: 1024, linger, in_flight_max: 2, delivery_timeout: Duration::from_secs(10) };
        let partitioner = Partitioner::new(partitions as u32, 0, 1024);
        Accumulator::new(limits, Numbering::None, Codec::None, partitioner, &vec![0; partitions])
    }

    fn append(accumulator: &mut Accumulator, partition: u32, bytes: usize, now: Instant) {
        let value = vec![0; bytes];
        let record = ProducerRecord::value(&value).partition(partition);
        accumulator.append(&record, 0, bytes, || now).unwrap();
    }

    fn sent(accumulator: &mut Accumulator, now: Instant) -> Vec<Outgoing> {
        std::iter::from_fn(|| accumulator.poll_request(now)).collect()
    }

    fn ack(accumulator: &mut Accumulator, outgoing: &Outgoing, now: Instant) {
        let ack = super::super::delivery::Ack { base_offset: 0, durability: Default::default(), synced: true };
        let attempts = vec![Attempt::Acked(ack); outgoing.ticket.batches.len()];
        accumulator.complete(&outgoing.ticket, attempts, now);
    }

    fn partitions(outgoing: &Outgoing) -> Vec<u32> {
        outgoing.ticket.batches.iter().map(|&(partition, _)| partition).collect()
    }

    #[test]
    fn a_lone_record_leaves_at_once_and_batches_grow_while_the_window_is_full() {
        let (mut accumulator, now) = (accumulator(1, Duration::ZERO), Instant::now());
        let first: Vec<_> = (0..3)
            .flat_map(|_| {
                append(&mut accumulator, 0, 10, now);
                sent(&mut accumulator, now)
            })
            .collect();
        assert_eq!(first.len(), 2, "the window has room for two");
        append(&mut accumulator, 0, 10, now);
        ack(&mut accumulator, &first[0], now);
        let second = sent(&mut accumulator, now);
        assert_eq!(second.len(), 1);
        assert!(second[0].batches[0].len() > first[0].batches[0].len(), "two records in one batch");
        assert_eq!(accumulator.records(), 3);
    }

    #[test]
    fn a_batch_lingers_until_it_is_full_or_its_time_is_over_or_it_is_flushed() {
        let (mut accumulator, now) = (accumulator(3, LINGER), Instant::now());
        (0..2).for_each(|_| append(&mut accumulator, 0, 600, now));
        assert_eq!(partitions(&sent(&mut accumulator, now)[0]), [0], "the first batch is full");
        append(&mut accumulator, 1, 10, now);
        assert!(sent(&mut accumulator, now).is_empty());
        assert_eq!(accumulator.wake_at(), Some(now + LINGER));
        accumulator.handle_time(now + LINGER);
        assert_eq!(partitions(&sent(&mut accumulator, now + LINGER)[0]), [0, 1]);
        append(&mut accumulator, 2, 10, now + LINGER);
        accumulator.flush(now + LINGER);
        assert!(!accumulator.has_requests(), "the window is full");
    }

    #[test]
    fn a_request_carries_one_batch_of_each_partition_up_to_its_size() {
        let (mut accumulator, now) = (accumulator(4, LINGER), Instant::now());
        (0..3).for_each(|partition| append(&mut accumulator, partition, 400, now));
        (0..2).for_each(|_| append(&mut accumulator, 3, 800, now));
        accumulator.flush(now);
        let sent = sent(&mut accumulator, now);
        assert_eq!(sent.iter().map(partitions).collect::<Vec<_>>(), [vec![3], vec![0, 1]]);
    }

    #[test]
    fn nothing_is_sent_over_a_lost_connection_and_everything_once_it_is_back() {
        let (mut accumulator, now) = (accumulator(2, Duration::ZERO), Instant::now());
        append(&mut accumulator, 0, 10, now);
        let sent_first = sent(&mut accumulator, now);
        accumulator.set_connected(0, false);
        let lost = Error::Disconnected { address: "a".into(), reason: "cut".into() };
        accumulator.complete(&sent_first[0].ticket, [Attempt::NotSent(lost)], now);
        append(&mut accumulator, 1, 10, now);
        assert!(!accumulator.has_requests() && sent(&mut accumulator, now).is_empty());
        accumulator.set_connected(0, true);
        assert_eq!(partitions(&sent(&mut accumulator, now)[0]), [0, 1]);
    }

    #[test]
    fn a_partition_that_moves_is_sent_over_its_new_connection() {
        let (mut accumulator, now) = (accumulator(2, Duration::ZERO), Instant::now());
        accumulator.set_connected(0, false);
        (0..2).for_each(|partition| append(&mut accumulator, partition, 10, now));
        accumulator.set_routes(&[0, 1], now);
        let sent_first = sent(&mut accumulator, now);
        assert_eq!((sent_first.len(), sent_first[0].ticket.route), (1, 1));
        assert_eq!(partitions(&sent_first[0]), [1]);
        accumulator.set_connected(0, true);
        assert_eq!(partitions(&sent(&mut accumulator, now)[0]), [0]);
    }

    #[test]
    fn an_open_batch_is_given_up_in_time() {
        let (mut accumulator, now) = (accumulator(1, Duration::ZERO), Instant::now());
        accumulator.set_connected(0, false);
        append(&mut accumulator, 0, 10, now);
        let over = now + Duration::from_secs(10);
        assert_eq!(accumulator.wake_at(), Some(over));
        accumulator.handle_time(over);
        let decided = accumulator.take_decided();
        assert!(matches!(decided[0].1.outcome, Outcome::TimedOut { maybe_written: false, .. }));
        assert_eq!((decided[0].1.buffer_bytes, accumulator.records()), (10, 0));
        append(&mut accumulator, 0, 10, over);
        accumulator.set_connected(0, true);
        assert_eq!(sent(&mut accumulator, over).len(), 1);
    }

    #[test]
    fn what_fits_no_batch_or_partition_is_rejected() {
        let (mut accumulator, now) = (accumulator(1, Duration::ZERO), Instant::now());
        let value = [0; 1024];
        let rejected = accumulator.append(&ProducerRecord::value(&value), 0, 1024, || now).unwrap_err();
        assert!(matches!(rejected, Rejected::TooLarge { record_bytes } if record_bytes > 1024));
        let rejected = accumulator.append(&ProducerRecord::value("v").partition(1), 0, 1, || now).unwrap_err();
        assert!(matches!(rejected, Rejected::UnknownPartition));
        assert!(!accumulator.has_requests());
    }
}
