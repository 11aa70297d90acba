//! The consumer's hands: gives questions to connections and answers to the [`Fetcher`], and wakes the reader.
//!
//! As in the producer, whoever changes something takes the turn: an answer sends the next question from the connection's own
//! task, a reader that makes room sends it from the reader's. The caretaker does time, lost connections and metadata.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant as TokioInstant, interval_at, sleep_until},
};
use wire::{api::fetch, frame::ResponseError};

use super::fetcher::{Fetcher, Item, Question, Row, Ticket};
use crate::{
    client::Inner,
    connection::{Failure, Refusal, Response, now},
    error::Error,
    metadata::{AGE_MAX, Topic},
    routes::{RouteIndex, Routes, until_connected},
};

/// What the reader, an answer and the caretaker share.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) client: Arc<Inner>,
    /// How long a long poll waits for records.
    wait: Duration,
    /// Topic and partition of each partition of the fetcher.
    pub(crate) assigned: Vec<(Arc<Topic>, u32)>,
    state: Mutex<State>,
    /// Wakes the caretaker.
    attention: Notify,
}

#[derive(Debug)]
struct State {
    fetcher: Fetcher,
    routes: Routes,
    /// Connections found not ready, for the caretaker to wait for.
    down: Vec<RouteIndex>,
    metadata_wanted: BTreeSet<Arc<str>>,
    /// When the caretaker wakes by itself.
    caretaker_wakes_at: Option<Instant>,
    /// The reader, while it waits.
    reader: Option<Waker>,
}

/// What the caretaker waited for.
enum Event {
    Connected(RouteIndex),
    Described(Arc<str>, Result<Arc<Topic>, Error>),
}

impl Puller {
    pub(crate) fn new(
        client: Arc<Inner>,
        wait: Duration,
        assigned: Vec<(Arc<Topic>, u32)>,
        routes: Routes,
        fetcher: Fetcher,
    ) -> Arc<Self> {
        let state = State {
            fetcher,
            routes,
            down: Vec::new(),
            metadata_wanted: BTreeSet::new(),
            caretaker_wakes_at: None,
            reader: None,
        };
        let puller = Arc::new(Self { client, wait, assigned, state: Mutex::new(state), attention: Notify::new() });
        puller.take_turn(puller.state.lock(), now());
        puller
    }

    /// The next item and whose it is; `None` when every partition has stopped.
    pub(crate) fn poll_next(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<Option<(usize, Item)>> {
        let mut state = self.state.lock();
        match state.fetcher.next() {
            Some(item) => {
                self.take_turn(state, now());
                Poll::Ready(Some(item))
            }
            None if state.fetcher.all_stopped() => Poll::Ready(None),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Goes on at another offset.
    pub(crate) fn seek(self: &Arc<Self>, index: usize, offset: u64) {
        let mut state = self.state.lock();
        state.fetcher.seek(index, offset);
        self.take_turn(state, now());
    }

    /// Reads no further until it is sought elsewhere.
    pub(crate) fn stop(&self, index: usize) {
        self.state.lock().fetcher.stop(index);
    }

    pub(crate) fn high_watermark(&self, index: usize) -> Option<u64> {
        self.state.lock().fetcher.high_watermark(index)
    }

    /// Asks what may be asked, then wakes the reader if there is something for it.
    fn take_turn(self: &Arc<Self>, mut state: MutexGuard<'_, State>, now: Instant) {
        while let Some(question) = state.fetcher.poll_question() {
            self.submit(&mut state, question, now);
        }
        let mut wanted = state.fetcher.take_metadata_wanted();
        state.metadata_wanted.append(&mut wanted);
        let attention = state.needs_caretaker();
        let reader = if state.fetcher.has_news() { state.reader.take() } else { None };
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        if attention {
            self.attention.notify_one();
        }
    }

    fn submit(self: &Arc<Self>, state: &mut State, question: Question, now: Instant) {
        let Question { ticket, bytes_max, positions } = question;
        let request = fetch::Request {
            wait_ms_max: self.wait.as_millis() as u32,
            bytes_min: 1,
            bytes_max,
            partitions: (&positions).into(),
        };
        let (puller, answered) = (Arc::downgrade(self), ticket.clone());
        let completion = Box::new(move |answer| Self::answered(&puller, &answered, answer));
        let connection = state.routes.connection(ticket.route);
        let patience = self.wait + self.client.request_timeout();
        let error = match connection.submit(&request, Vec::new(), patience, completion) {
            Ok(()) => return,
            Err(Refusal::NotReady) => {
                let why = connection.why_not_ready();
                state.down.push(ticket.route);
                state.fetcher.set_connected(ticket.route, false);
                why
            }
            Err(Refusal::NotTaken(error)) => error,
        };
        state.fetcher.complete(&ticket, Err(error), now);
    }

    /// Runs on the connection's task.
    fn answered(puller: &Weak<Self>, ticket: &Ticket, answer: Result<Response, Failure>) {
        let Some(puller) = puller.upgrade() else { return };
        let now = now();
        let mut state = puller.state.lock();
        let address = state.routes.connection(ticket.route).address();
        let rows = match &answer {
            Ok(response) => rows(response, ticket.partition_count(), &address),
            Err(failure) => Err(failure.error.clone()),
        };
        state.fetcher.complete(ticket, rows, now);
        puller.take_turn(state, now);
    }

    /// Does what is due; returns what the caretaker has to wait for.
    fn keep_time(self: &Arc<Self>) -> (Option<Instant>, Vec<RouteIndex>, BTreeSet<Arc<str>>) {
        let now = now();
        let mut state = self.state.lock();
        state.fetcher.handle_time(now);
        let (down, metadata_wanted) = (std::mem::take(&mut state.down), std::mem::take(&mut state.metadata_wanted));
        let wakes_at = state.fetcher.wake_at();
        state.caretaker_wakes_at = wakes_at;
        self.take_turn(state, now);
        (wakes_at, down, metadata_wanted)
    }

    fn connected(self: &Arc<Self>, route: RouteIndex) {
        let mut state = self.state.lock();
        state.fetcher.set_connected(route, true);
        // A broker that was away may have come back with other shards.
        state.metadata_wanted.extend(self.topics());
        self.take_turn(state, now());
    }

    /// Asks where the partitions are.
    fn look_again(&self) {
        self.state.lock().metadata_wanted.extend(self.topics());
    }

    fn topics(&self) -> impl Iterator<Item = Arc<str>> {
        self.assigned.iter().map(|(topic, _)| topic.name.clone())
    }

    /// Goes where the topic's partitions are now. A topic of that name with another id is another topic.
    async fn described(self: &Arc<Self>, name: &Arc<str>, found: Result<Arc<Topic>, Error>) {
        let known = self.assigned.iter().find(|(topic, _)| topic.name == *name).map(|(topic, _)| topic.id);
        let topic = match found {
            Ok(topic) if Some(topic.id) == known => topic,
            Ok(_) | Err(Error::UnknownTopic { .. }) => {
                let mut state = self.state.lock();
                state.fetcher.fail_topic(name, &Error::UnknownTopic { topic: name.clone() });
                return self.take_turn(state, now());
            }
            // The next refusal asks again.
            Err(_) => return,
        };
        let mut routes = self.state.lock().routes.clone();
        // What fails here is asked for again by the next refusal.
        let Ok(by_partition) = routes.of_topic(&self.client, &topic).await else { return };
        let mut state = self.state.lock();
        state.routes = routes;
        for (index, (_, partition)) in self.assigned.iter().enumerate().filter(|(_, (topic, _))| topic.name == *name) {
            state.fetcher.set_route(index, by_partition[*partition as usize]);
        }
        self.take_turn(state, now());
    }
}

impl State {
    /// Whether the caretaker has something to do before it wakes by itself.
    fn needs_caretaker(&self) -> bool {
        let too_late = |at| self.caretaker_wakes_at.is_none_or(|wakes_at| at < wakes_at);
        !self.down.is_empty() || !self.metadata_wanted.is_empty() || self.fetcher.wake_at().is_some_and(too_late)
    }
}

/// The caretaker: time, lost connections, metadata.
pub(crate) async fn take_care(puller: Arc<Puller>) {
    let mut events = JoinSet::new();
    let mut aged = interval_at(TokioInstant::now() + AGE_MAX, AGE_MAX);
    loop {
        let (wakes_at, down, metadata_wanted) = puller.keep_time();
        for route in down {
            let connection = puller.state.lock().routes.connection(route).clone();
            events.spawn(async move {
                until_connected(connection).await;
                Event::Connected(route)
            });
        }
        for topic in metadata_wanted {
            let client = puller.client.clone();
            events.spawn(async move {
                let found = client.topic(&topic).await;
                Event::Described(topic, found)
            });
        }
        let alarm = async {
            match wakes_at {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = alarm => {}
            () = puller.attention.notified() => {}
            _ = aged.tick() => puller.look_again(),
            Some(event) = events.join_next() => match event.expect("the tasks waited for do not panic") {
                Event::Connected(route) => puller.connected(route),
                Event::Described(topic, found) => puller.described(&topic, found).await,
            },
        }
    }
}

/// The rows of an answer, each with its share of the bytes received.
fn rows(response: &Response, expected: usize, address: &Arc<str>) -> Result<Vec<Row>, Error> {
    let protocol = |reason: String| Error::Protocol { address: address.clone(), reason: reason.into() };
    let answer: fetch::Response<'_> = response.message().map_err(|error| match error {
        ResponseError::Refused { error: code, reason } => Error::refused("fetch", address, code, &reason),
        ResponseError::Malformed(error) => protocol(error.to_string()),
    })?;
    let found = answer.partitions().len();
    if found != expected {
        return Err(protocol(format!("{expected} partitions asked for, {found} answered")));
    }
    let row = |(row, batches): (fetch::PartitionRow<'_>, &[u8])| Row {
        code: row.error,
        error: row.error.is_error().then(|| {
            let operation = format!("fetch from partition id {}", row.partition);
            Error::refused(operation, address, row.error, row.reason)
        }),
        log_start_offset: row.log_start_offset,
        high_watermark: row.high_watermark,
        lost: row.lost,
        batches: if batches.is_empty() { bytes::Bytes::new() } else { response.body().slice_ref(batches) },
    };
    Ok(answer.partitions().map(row).collect())
}
