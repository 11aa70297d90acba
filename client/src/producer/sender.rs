//! The producer's hands: gives requests to connections and answers to the [`Accumulator`], and keeps its time.
//!
//! The hard idea: whoever changes something takes the turn. A `send` that opens a batch puts the request on the connection
//! itself, and an answer that makes room sends the next one from the connection's own task, so no record waits for another
//! task to be scheduled. The caretaker task only does what nobody else is there to do: time, lost connections, metadata.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::{Instant as TokioInstant, interval_at, sleep_until},
};
use wire::{
    ErrorCode,
    api::produce::{self, BatchRow},
};

use super::{
    accumulator::{Accumulator, Outgoing, Rejected, Ticket},
    answer::attempts,
    delivery::{BatchOutcome, Decide, Delivered, Delivery},
    queue::{Attempt, Decided, Outcome},
    record::ProducerRecord,
};
use crate::{
    client::Inner,
    connection::{Failure, Refusal, Response, now},
    error::Error,
    metadata::{AGE_MAX, Topic},
    routes::{RouteIndex, Routes, until_connected},
};

/// What a send, an answer and the caretaker share.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) client: Arc<Inner>,
    pub(crate) topic: Arc<Topic>,
    pub(crate) batch_bytes_max: usize,
    pub(crate) delivery_timeout: Duration,
    /// Room for records, in bytes.
    pub(crate) room: Semaphore,
    state: Mutex<State>,
    /// Wakes the caretaker.
    attention: Notify,
}

#[derive(Debug)]
struct State {
    accumulator: Accumulator,
    routes: Routes,
    /// Connections found not ready, for the caretaker to wait for.
    down: Vec<RouteIndex>,
    metadata_wanted: bool,
    /// The first failure that no flush has told of yet.
    failure: Option<Error>,
    /// When the caretaker wakes by itself.
    caretaker_wakes_at: Option<Instant>,
}

/// What the caretaker waited for.
enum Event {
    Connected(RouteIndex),
    Described(Result<Arc<Topic>, Error>),
}

impl Sender {
    pub(crate) fn new(
        client: Arc<Inner>,
        topic: Arc<Topic>,
        batch_bytes_max: usize,
        buffer_bytes_max: usize,
        delivery_timeout: Duration,
        routes: Routes,
        accumulator: Accumulator,
    ) -> Self {
        let state = State {
            accumulator,
            routes,
            down: Vec::new(),
            metadata_wanted: false,
            failure: None,
            caretaker_wakes_at: None,
        };
        Self {
            client,
            topic,
            batch_bytes_max,
            delivery_timeout,
            room: Semaphore::new(buffer_bytes_max),
            state: Mutex::new(state),
            attention: Notify::new(),
        }
    }

    /// Queues a record for which room was taken.
    #[inline]
    pub(crate) fn append(
        self: &Arc<Self>,
        record: &ProducerRecord<'_>,
        buffer_bytes: usize,
    ) -> Result<Delivery, Error> {
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(wall_clock_ms);
        let mut state = self.state.lock();
        match state.accumulator.append(record, timestamp_ms, buffer_bytes, now) {
            Ok(delivery) => {
                if state.accumulator.has_requests() || state.needs_caretaker() {
                    self.take_turn(state, now());
                }
                Ok(delivery)
            }
            Err(rejected) => {
                drop(state);
                self.room.add_permits(buffer_bytes);
                Err(self.rejected(record, rejected))
            }
        }
    }

    /// Sends what waits without its linger; returns the outcomes of all that is undecided.
    pub(crate) fn flush(self: &Arc<Self>) -> Vec<BatchOutcome> {
        let now = now();
        let mut state = self.state.lock();
        let outcomes = state.accumulator.flush(now);
        self.take_turn(state, now);
        outcomes
    }

    /// The first failure since this was last asked.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state.lock().failure.take()
    }

    /// Records that are not yet decided.
    pub(crate) fn records(&self) -> u64 {
        self.state.lock().accumulator.records()
    }

    /// Fails all that is undecided; returns how many records that were.
    pub(crate) fn abandon(self: &Arc<Self>) -> u64 {
        let mut state = self.state.lock();
        let records = state.accumulator.records();
        state.accumulator.fail(&Error::ProducerClosed { topic: self.topic.name.clone() });
        self.take_turn(state, now());
        records
    }

    /// Sends what may be sent, then tells the records what was decided.
    fn take_turn(self: &Arc<Self>, mut state: MutexGuard<'_, State>, now: Instant) {
        while let Some(outgoing) = state.accumulator.poll_request(now) {
            self.submit(&mut state, outgoing, now);
        }
        state.metadata_wanted |= state.accumulator.take_metadata_wanted();
        let decided = state.accumulator.take_decided();
        let decided: Vec<_> =
            decided.into_iter().map(|(index, decided)| self.tell(&mut state, index, decided)).collect();
        let attention = state.needs_caretaker();
        drop(state);
        for (decide, result, buffer_bytes) in decided {
            // Nobody listens where every delivery of the batch was dropped; a failure is then told by the next flush.
            let _ = decide.send(result);
            self.room.add_permits(buffer_bytes);
        }
        if attention {
            self.attention.notify_one();
        }
    }

    fn submit(self: &Arc<Self>, state: &mut State, Outgoing { ticket, batches }: Outgoing, now: Instant) {
        let row = |(&(index, _), bytes): (&(u32, u64), &Bytes)| BatchRow {
            partition: self.topic.partitions[index as usize].id,
            batch_bytes: bytes.len() as u32,
        };
        let rows: Vec<_> = ticket.batches.iter().zip(&batches).map(row).collect();
        let timeout = self.client.request_timeout();
        let head = produce::RequestHead { timeout_ms: timeout.as_millis() as u32, batches: (&rows).into() };
        let (sender, answered) = (Arc::downgrade(self), ticket.clone());
        let completion = Box::new(move |answer| Self::answered(&sender, &answered, answer));
        let connection = state.routes.connection(ticket.route);
        // The broker is given its time in full before the connection is given up.
        let attempt = match connection.submit(&head, batches, timeout + timeout / 2, completion) {
            Ok(()) => return,
            Err(Refusal::NotReady) => {
                let why = connection.why_not_ready();
                state.down.push(ticket.route);
                state.accumulator.set_connected(ticket.route, false);
                Attempt::NotSent(why)
            }
            // What this broker will never take is given up, and nothing else with it.
            Err(Refusal::NotTaken(error)) => Attempt::Refused { code: ErrorCode::TooLarge, error },
        };
        let attempts = std::iter::repeat_n(attempt, ticket.batches.len());
        state.accumulator.complete(&ticket, attempts, now);
    }

    /// Runs on the connection's task.
    fn answered(sender: &Weak<Self>, ticket: &Ticket, answer: Result<Response, Failure>) {
        let Some(sender) = sender.upgrade() else { return };
        let mut state = sender.state.lock();
        let address = state.routes.connection(ticket.route).address();
        let attempts = attempts(&sender.topic.name, ticket, &address, answer);
        let now = now();
        state.accumulator.complete(ticket, attempts, now);
        sender.take_turn(state, now);
    }

    fn tell(&self, state: &mut State, index: u32, decided: Decided) -> (Decide, Result<Delivered, Error>, usize) {
        let result = self.result(index, decided.outcome, || {
            let connection = state.routes.connection(state.accumulator.route(index));
            connection.current().is_none().then(|| connection.why_not_ready().to_string().into())
        });
        if let Err(error) = &result {
            state.failure.get_or_insert_with(|| error.clone());
        }
        (decided.decide, result, decided.buffer_bytes)
    }

    /// `down` tells why the partition's connection is not ready, if it is not.
    fn result(
        &self,
        partition: u32,
        outcome: Outcome,
        down: impl FnOnce() -> Option<Arc<str>>,
    ) -> Result<Delivered, Error> {
        let (topic, timeout) = (self.topic.name.clone(), self.delivery_timeout);
        let operation = || format!("produce to {topic}/{partition}").into();
        match outcome {
            Outcome::Acked(ack) => {
                Ok(Delivered { partition, offset: ack.base_offset, durability: ack.durability, synced: ack.synced })
            }
            Outcome::Failed(error) => Err(error),
            Outcome::Unknown { reason } => Err(Error::OutcomeUnknown { operation: operation(), reason }),
            Outcome::TimedOut { maybe_written, reason } => {
                let reason = down().or(reason).unwrap_or_else(|| "the broker did not answer".into());
                if maybe_written {
                    let reason = format!("not acknowledged within {timeout:?}: {reason}").into();
                    Err(Error::OutcomeUnknown { operation: operation(), reason })
                } else {
                    Err(Error::DeliveryTimeout { topic, partition, timeout, reason })
                }
            }
        }
    }

    fn rejected(&self, record: &ProducerRecord<'_>, rejected: Rejected) -> Error {
        let batch_bytes_max = self.batch_bytes_max;
        match rejected {
            Rejected::TooLarge { record_bytes } => Error::RecordTooLarge { record_bytes, batch_bytes_max },
            Rejected::Failed(error) => error,
            Rejected::UnknownPartition => Error::UnknownPartition {
                topic: self.topic.name.clone(),
                partition: record.partition.unwrap_or_default(),
                partition_count: self.topic.partition_count(),
            },
        }
    }
}

impl State {
    /// Whether the caretaker has something to do before it wakes by itself.
    #[inline]
    fn needs_caretaker(&self) -> bool {
        let too_late = |at| self.caretaker_wakes_at.is_none_or(|wakes_at| at < wakes_at);
        !self.down.is_empty() || self.metadata_wanted || self.accumulator.wake_at().is_some_and(too_late)
    }
}

/// The caretaker: time, lost connections, metadata.
pub(crate) async fn take_care(sender: Arc<Sender>) {
    let mut events = JoinSet::new();
    let mut aged = interval_at(TokioInstant::now() + AGE_MAX, AGE_MAX);
    let mut describing = false;
    loop {
        let (wakes_at, down, metadata_wanted) = sender.keep_time();
        for route in down {
            let connection = sender.state.lock().routes.connection(route).clone();
            events.spawn(async move {
                until_connected(connection).await;
                Event::Connected(route)
            });
        }
        if metadata_wanted && !describing {
            describing = true;
            let (client, topic) = (sender.client.clone(), sender.topic.name.clone());
            events.spawn(async move { Event::Described(client.topic(&topic).await) });
        }
        let alarm = async {
            match wakes_at {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = alarm => {}
            () = sender.attention.notified() => {}
            _ = aged.tick() => sender.look_again(),
            Some(event) = events.join_next() => match event.expect("the tasks waited for do not panic") {
                Event::Connected(route) => sender.connected(route),
                Event::Described(found) => {
                    describing = false;
                    sender.described(found).await;
                }
            },
        }
    }
}

impl Sender {
    /// Does what is due; returns what the caretaker has to wait for.
    fn keep_time(self: &Arc<Self>) -> (Option<Instant>, Vec<RouteIndex>, bool) {
        let now = now();
        let mut state = self.state.lock();
        state.accumulator.handle_time(now);
        let (down, metadata_wanted) = (std::mem::take(&mut state.down), std::mem::take(&mut state.metadata_wanted));
        let wakes_at = state.accumulator.wake_at();
        state.caretaker_wakes_at = wakes_at;
        self.take_turn(state, now);
        (wakes_at, down, metadata_wanted)
    }

    fn connected(self: &Arc<Self>, route: RouteIndex) {
        let mut state = self.state.lock();
        state.accumulator.set_connected(route, true);
        // A broker that was away may have come back with other shards.
        state.metadata_wanted = true;
        self.take_turn(state, now());
    }

    /// Asks where the partitions are.
    fn look_again(&self) {
        self.state.lock().metadata_wanted = true;
    }

    /// Goes where the partitions are now. A topic of that name with another id is another topic.
    async fn described(self: &Arc<Self>, found: Result<Arc<Topic>, Error>) {
        let topic = match found {
            Ok(topic) if topic.id == self.topic.id => topic,
            Ok(_) | Err(Error::UnknownTopic { .. }) => {
                let mut state = self.state.lock();
                state.accumulator.fail(&Error::UnknownTopic { topic: self.topic.name.clone() });
                return self.take_turn(state, now());
            }
            // The next refusal asks again.
            Err(_) => return,
        };
        let mut routes = self.state.lock().routes.clone();
        // What fails here is asked for again by the next refusal.
        let Ok(by_partition) = routes.of_topic(&self.client, &topic).await else { return };
        let mut state = self.state.lock();
        let now = now();
        state.routes = routes;
        state.accumulator.set_routes(&by_partition, now);
        self.take_turn(state, now);
    }
}

/// Milliseconds since 1970; 0 for a clock that stands before.
#[inline]
fn wall_clock_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64)
}
