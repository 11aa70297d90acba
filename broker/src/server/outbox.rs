//! The answers of one connection, and the one task that sends them.
//!
//! The hard idea: answers become bytes in one buffer as soon as they can, and the writer sends all of it with one write
//! a turn. While it writes, a second buffer fills; after a sync, every request that the sync covers is answered before
//! the next write. Sends per answer decide what a connection can do, not the cost of an answer.

use std::{
    cell::{Cell, RefCell},
    mem,
};

use futures_lite::future;
use runtime::{Frozen, Instant, Notify, Runtime, Stream};
use storage::{Log, LogFailed};

use super::{
    answers::{Answers, Due, Place},
    limits::{Budget, IN_FLIGHT_MAX, Limits},
};
use crate::{
    native::{self, ReplyTo},
    request::Slice,
};

/// Slices below this size are copied into the buffer: a write of their own would cost more.
const SLICE_BYTES_MIN: usize = 16 << 10;

/// An emptied buffer above this size is given back: each connection keeps two, and most are idle.
const BUFFER_BYTES_KEPT: usize = 16 << 10;

/// Bytes written before the clock of a stalled write starts anew.
const WRITE_STEP_BYTES: usize = 256 << 10;

/// What a connection has to send.
pub(crate) struct Outbox<R: Runtime> {
    log: Log<R>,
    pending: RefCell<Pending<R::Frozen>>,
    /// What is owed and cannot be sent yet.
    pub(crate) answers: RefCell<Answers>,
    frame_bytes_max: usize,
    held_bytes_max: usize,
    in_flight: Cell<usize>,
    in_flight_bytes: Cell<usize>,
    /// Memory of the answers that are being sent.
    sending_bytes: Cell<usize>,
    /// Since when the peer has taken nothing of them.
    writing_since: Cell<Option<Instant>>,
    stage: Cell<Stage>,
    work: Notify,
    room: Notify,
    end: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Requests come and answers go.
    Open,
    /// Nothing more is read; what is in flight is answered.
    Closing,
    /// Nothing more is sent.
    Closed,
}

/// Answers in the order in which they are sent: `bytes`, with each slice behind so many of them.
struct Pending<F> {
    bytes: Vec<u8>,
    slices: Vec<(usize, Slice<F>)>,
    /// Memory that batches hold, in slices or copied; taken from the shard's budget.
    batch_bytes: usize,
}

impl<F> Default for Pending<F> {
    fn default() -> Self {
        Self { bytes: Vec::new(), slices: Vec::new(), batch_bytes: 0 }
    }
}

impl<R: Runtime> Outbox<R> {
    /// Nothing to send.
    pub(crate) fn new(log: Log<R>, limits: &Limits) -> Self {
        Self {
            log,
            pending: RefCell::default(),
            answers: RefCell::default(),
            frame_bytes_max: limits.frame_bytes_max,
            held_bytes_max: limits.in_flight_bytes_max(),
            in_flight: Cell::new(0),
            in_flight_bytes: Cell::new(0),
            sending_bytes: Cell::new(0),
            writing_since: Cell::new(None),
            stage: Cell::new(Stage::Open),
            work: Notify::default(),
            room: Notify::default(),
            end: Notify::default(),
        }
    }

    /// A request of so many bytes came in.
    pub(crate) fn accept(&self, frame_bytes: u32) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.in_flight_bytes.set(self.in_flight_bytes.get() + frame_bytes as usize);
    }

    /// Keeps the next place in the line for an answer that takes longer.
    pub(crate) fn keep_place(&self, to: ReplyTo) -> Place {
        self.answers.borrow_mut().keep_place(to)
    }

    /// Gives an answer its place: `encode` is given a buffer, and how large a frame may be.
    pub(crate) fn answer(&self, place: &Place, encode: impl FnOnce(&mut Vec<u8>, usize)) {
        self.answered(place.to);
        let mut answer = Vec::new();
        if self.stage.get() != Stage::Closed {
            encode(&mut answer, self.frame_bytes_max);
        }
        self.answers.borrow_mut().fill(place, answer);
        self.work.wake();
    }

    /// Answers a request at once, in its place.
    pub(crate) fn answer_now(&self, to: ReplyTo, encode: impl FnOnce(&mut Vec<u8>, usize)) {
        let place = self.keep_place(to);
        self.answer(&place, encode);
    }

    /// Answers outside of the line; whether `encode` says that batches follow, and they can be sent.
    pub(crate) fn answer_aside(&self, to: ReplyTo, encode: impl FnOnce(&mut Vec<u8>, usize) -> bool) -> bool {
        self.answered(to);
        self.work.wake();
        self.stage.get() != Stage::Closed && encode(&mut self.pending.borrow_mut().bytes, self.frame_bytes_max)
    }

    /// Appends batches to the answer just given; large slices stay where they are until they are sent.
    pub(crate) fn attach(&self, slices: impl Iterator<Item = Slice<R::Frozen>>, budget: &Budget) {
        let pending = &mut *self.pending.borrow_mut();
        slices.for_each(|slice| pending.attach(slice, budget));
    }

    /// Whether batches wait to be sent.
    pub(crate) fn holds_batches(&self) -> bool {
        self.sending_bytes.get() > 0 || self.pending.borrow().batch_bytes > 0
    }

    /// Lets the writer look for requests whose sync has come or whose time is up.
    pub(crate) fn look_again(&self) {
        self.work.wake();
    }

    /// Waits until the connection may take another request; false if it may not any more.
    pub(crate) async fn room(&self) -> bool {
        self.room
            .until(|| match self.stage.get() {
                Stage::Open => self.has_room().then_some(true),
                Stage::Closing | Stage::Closed => Some(false),
            })
            .await
    }

    /// Whether the connection may take another request now.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.get() < IN_FLIGHT_MAX && self.held_bytes() < self.held_bytes_max
    }

    /// Requests without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Whether answers wait for their turn.
    pub(crate) fn is_owing(&self) -> bool {
        !self.answers.borrow().is_empty()
    }

    /// Whether every answer has left.
    pub(crate) fn is_idle(&self) -> bool {
        let nothing_to_send = self.pending.borrow().is_empty() && self.writing_since.get().is_none();
        self.in_flight.get() == 0 && !self.is_owing() && nothing_to_send
    }

    /// Since when the peer has taken nothing of what is being sent to it.
    pub(crate) fn writing_since(&self) -> Option<Instant> {
        self.writing_since.get()
    }

    /// No more requests come: the writer ends once all are answered.
    pub(crate) fn close(&self) {
        self.advance(Stage::Closing);
    }

    /// Waits until nobody wants answers any more.
    pub(crate) async fn ended(&self) {
        self.end.until(|| (self.stage.get() != Stage::Open).then_some(())).await;
    }

    /// Sends answers until the connection is closed and nothing is left to answer, or the peer is gone.
    pub(crate) async fn send_all(&self, rt: &R, stream: &R::Stream, budget: &Budget) {
        let mut sending = Pending::default();
        while let Ok(true) = self.something_to_send(rt).await {
            mem::swap(&mut sending, &mut self.pending.borrow_mut());
            self.sending_bytes.set(sending.held_bytes());
            self.writing_since.set(Some(rt.now()));
            let sent = self.send(rt, stream, &sending).await;
            self.writing_since.set(None);
            self.sending_bytes.set(0);
            sending.clear(budget);
            self.room.wake();
            if sent.is_err() {
                break;
            }
        }
        self.advance(Stage::Closed);
        self.pending.borrow_mut().clear(budget);
        stream.shutdown();
    }

    /// Waits until there is something to send; false if there never will be.
    async fn something_to_send(&self, rt: &R) -> Result<bool, LogFailed> {
        loop {
            self.answer_due(rt);
            if !self.pending.borrow().is_empty() {
                return Ok(true);
            }
            if self.stage.get() != Stage::Open && self.in_flight.get() == 0 {
                return Ok(false);
            }
            let next_lsn = self.answers.borrow().next_lsn();
            let mut is_first_look = true;
            let woken = self.work.until(|| (!mem::replace(&mut is_first_look, false)).then_some(Ok(())));
            match next_lsn {
                Some(lsn) => future::or(async { self.log.synced(lsn).await.map(drop) }, woken).await?,
                None => woken.await?,
            }
        }
    }

    /// Makes bytes of every answer whose turn has come.
    fn answer_due(&self, rt: &R) {
        let answers = &mut *self.answers.borrow_mut();
        if answers.is_empty() {
            return;
        }
        let bytes = &mut self.pending.borrow_mut().bytes;
        answers.take_due(self.log.synced_now(), rt.now(), |due| match due {
            Due::Produced(to, outcomes) => {
                self.answered(to);
                native::encode_produced(bytes, self.frame_bytes_max, to, outcomes);
            }
            Due::Made(answer) if bytes.is_empty() => *bytes = answer,
            Due::Made(answer) => bytes.extend_from_slice(&answer),
        });
    }

    async fn send(&self, rt: &R, stream: &R::Stream, sending: &Pending<R::Frozen>) -> std::io::Result<()> {
        let mut sent = 0;
        for (position, slice) in &sending.slices {
            self.send_bytes(rt, stream, &sending.bytes[sent..*position]).await?;
            self.send_bytes(rt, stream, slice).await?;
            sent = *position;
        }
        self.send_bytes(rt, stream, &sending.bytes[sent..]).await
    }

    async fn send_bytes(&self, rt: &R, stream: &R::Stream, bytes: &[u8]) -> std::io::Result<()> {
        for step in bytes.chunks(WRITE_STEP_BYTES) {
            stream.write_all(step).await?;
            self.writing_since.set(Some(rt.now()));
        }
        Ok(())
    }

    fn answered(&self, to: ReplyTo) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.in_flight_bytes.set(self.in_flight_bytes.get() - to.frame_bytes as usize);
        self.room.wake();
    }

    fn held_bytes(&self) -> usize {
        self.in_flight_bytes.get() + self.sending_bytes.get() + self.pending.borrow().held_bytes()
    }

    fn advance(&self, stage: Stage) {
        if self.stage.get() != Stage::Closed {
            self.stage.set(stage);
        }
        self.work.wake();
        self.room.wake();
        self.end.wake();
    }
}

impl<F: Frozen> Pending<F> {
    fn is_empty(&self) -> bool {
        // Every slice has a head in front of it.
        self.bytes.is_empty()
    }

    fn held_bytes(&self) -> usize {
        self.bytes.len() + self.batch_bytes
    }

    fn attach(&mut self, slice: Slice<F>, budget: &Budget) {
        let held_bytes = if slice.len() < SLICE_BYTES_MIN {
            self.bytes.extend_from_slice(&slice);
            slice.len()
        } else {
            let held_bytes = slice.held_bytes();
            self.slices.push((self.bytes.len(), slice));
            held_bytes
        };
        self.batch_bytes += held_bytes;
        budget.charge(held_bytes);
    }

    fn clear(&mut self, budget: &Budget) {
        self.slices.clear();
        budget.give_back(mem::take(&mut self.batch_bytes));
        self.bytes.clear();
        if self.bytes.capacity() > BUFFER_BYTES_KEPT {
            self.bytes = Vec::new();
        }
    }
}
