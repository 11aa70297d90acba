//! The native protocol on one connection: frames to requests and answers to frames.
//!
//! Produce, Fetch and Get are begun in the connection's own task, in the order of the frames: an append must not be
//! overtaken by the next one, and what is in memory is answered without waiting. Everything else, and a fetch or get that
//! waits, becomes a task.

mod delete_records;
mod fetch;
mod get;
mod hello;
mod hold;
mod large;
mod list_offsets;
mod loss;
mod produce;
mod stats;
mod topic;
mod warm;

use std::{rc::Rc, time::Duration};

use futures_lite::future;
use runtime::{Instant, Runtime};
use wire::{
    ErrorCode, PartitionId,
    api::{Message, Request, loss_accept},
    frame::{self, Corrupt, Decoded, Frame},
    header::{HEADER_BYTES, Header as _, RequestHeader},
};

use self::warm::Warm;
pub(crate) use self::{large::LargeBatch, produce::encode_produced};
use crate::{
    handler::{self, produce::Crossing},
    metrics::Metric,
    request::{FetchRequest, Stretch},
    server::{answers::Place, connection::End, outbox::Outbox},
    shard::Shard,
};

/// Bytes of batches in a fetch's answer while the memory of connections is short, unless one batch is larger.
const SHORT_ANSWER_BYTES_MAX: usize = 16 << 10;

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyTo {
    /// Of the request.
    pub(crate) correlation: u32,
    /// Of the request's API.
    pub(crate) version: u8,
    /// Bytes of the request, which the connection is charged with until it is answered.
    pub(crate) frame_bytes: u32,
}

/// What became of the first frame of what was received.
pub(crate) enum Next {
    /// It was handled.
    Handled { frame_bytes: usize },
    /// It is not whole; it has so many bytes, as far as is known.
    NeedMore { frame_bytes: usize },
}

/// What became of the first frame of a connection.
pub(crate) enum Hello {
    /// It was answered, and the connection stays.
    Answered { frame_bytes: usize },
    /// It is not whole; it has so many bytes, as far as is known.
    NeedMore { frame_bytes: usize },
    /// It asks for another shard, which will answer it.
    MoveTo(u16),
}

/// One connection that speaks the native protocol.
pub(crate) struct Session<R: Runtime> {
    shard: Rc<Shard<R>>,
    outbox: Rc<Outbox<R>>,
    /// Produce requests of this turn that touch other shards.
    crossing: Crossing<Place>,
    /// When this turn began: early enough for all of its requests, and the clock is read once.
    turn_began: Instant,
    warm: Warm,
}

impl<R: Runtime> Session<R> {
    /// A session that has heard nothing yet.
    pub(crate) fn new(shard: Rc<Shard<R>>, outbox: Rc<Outbox<R>>) -> Self {
        let turn_began = shard.rt.now();
        Self { shard, outbox, crossing: Crossing::default(), turn_began, warm: Warm::default() }
    }

    /// Has the memory of the next requests in `received` brought; the caller is about to handle the first.
    #[inline]
    pub(crate) fn look_ahead(&mut self, received: &[u8]) {
        self.warm.next(&self.shard, received);
    }

    /// A turn begins.
    pub(crate) fn begin_turn(&mut self, now: Instant) {
        self.turn_began = now;
    }

    /// Handles the first frame of `received`, if it is whole.
    ///
    /// # Errors
    /// If the connection cannot go on. What the client is told is in the outbox.
    pub(crate) async fn handle(&mut self, received: &[u8]) -> Result<Next, End> {
        let frame = match self.decode(received, self.shard.limits().frame_bytes_max)? {
            Ok(frame) => frame,
            Err(frame_bytes) => return Ok(Next::NeedMore { frame_bytes }),
        };
        let to = self.accept(&frame);
        match Request::decode(&frame.header, frame.body) {
            Ok(request) => self.dispatch(to, &frame.header, request).await?,
            Err(error) => {
                self.refuse(to, frame.header, error.error_code(), &error.to_string());
                if error.error_code() == ErrorCode::Malformed {
                    return Err(End::Refused(format!("{error}, in API {}", frame.header.api)));
                }
            }
        }
        Ok(Next::Handled { frame_bytes: frame.frame_bytes() })
    }

    /// Sends what this turn collected.
    pub(crate) fn end_turn(&mut self) {
        if !self.crossing.is_empty() {
            let outbox = Rc::clone(&self.outbox);
            let crossing = std::mem::take(&mut self.crossing);
            crossing.depart(&self.shard, move |place, outcomes| {
                outbox.answer(&place, |out, frame_bytes_max| {
                    encode_produced(out, frame_bytes_max, place.to, outcomes.into_iter());
                });
            });
        }
    }

    async fn dispatch(&mut self, to: ReplyTo, header: &RequestHeader, request: Request<'_>) -> Result<(), End> {
        let metrics = &self.shard.metrics;
        match request {
            Request::Produce(_) => metrics.count(Metric::ProduceRequests),
            Request::Fetch(_) => metrics.count(Metric::FetchRequests),
            _ => metrics.count(Metric::OtherRequests),
        }
        if self.shard.is_stopping() {
            self.refuse(to, *header, ErrorCode::ShuttingDown, "the server is stopping");
            return Ok(());
        }
        match request {
            Request::Produce(request) => self.produce(to, request).await,
            Request::Fetch(request) => self.fetch(to, fetch::request(&request)).await,
            Request::ListOffsets(request) => {
                let queries = list_offsets::queries(&request);
                self.start(to, |shard| async move {
                    let found = handler::list_offsets::list_offsets(&shard, &queries).await;
                    move |out: &mut Answer<'_>| list_offsets::encode(out, &queries, &found)
                });
            }
            Request::Get(request) => self.get(to, request.partition, request.key.to_vec()).await,
            Request::InitProducer(_) => self.start(to, |shard| async move {
                let producer_id = handler::init_producer::init_producer(&shard).await;
                move |out: &mut Answer<'_>| hello::encode_producer(out, producer_id)
            }),
            Request::TopicCreate(request) => {
                let new = topic::new_topic(&request);
                self.start(to, |shard| async move {
                    let created = handler::topic::create(&shard, new).await;
                    move |out: &mut Answer<'_>| topic::encode_created(out, shard.node(), created)
                });
            }
            Request::DeleteRecords(request) => {
                let before = delete_records::before(&request);
                self.start(to, |shard| async move {
                    let trimmed = handler::delete_records::delete_records(&shard, &before).await;
                    move |out: &mut Answer<'_>| delete_records::encode(out, &before, &trimmed)
                });
            }
            Request::TopicAlter(request) => {
                let change = topic::change(&request);
                self.start(to, |shard| async move {
                    let altered = handler::topic::alter(&shard, change).await;
                    move |out: &mut Answer<'_>| topic::encode_altered(out, altered)
                });
            }
            Request::TopicDelete(request) => {
                let name = request.name.to_owned();
                self.start(to, |shard| async move {
                    let deleted = handler::topic::delete(&shard, name).await;
                    move |out: &mut Answer<'_>| topic::encode_deleted(out, deleted)
                });
            }
            Request::TopicList(_) => self.start(to, |shard| async move {
                let lines = handler::topic::list(&shard);
                move |out: &mut Answer<'_>| topic::encode_list(out, &lines)
            }),
            Request::TopicDescribe(request) => {
                let names: Vec<String> = request.names.iter().map(str::to_owned).collect();
                self.start(to, |shard| async move {
                    let described = handler::topic::describe(&shard, names).await;
                    move |out: &mut Answer<'_>| topic::encode_described(out, &shard, &described)
                });
            }
            Request::LossAccept(request) => {
                let loss_accept::Request { partition, from_offset, dry_run } = request;
                let stretch = Stretch { partition, from_offset, dry_run };
                self.start(to, move |shard| async move {
                    let surveyed = handler::loss::accept(&shard, stretch).await;
                    move |out: &mut Answer<'_>| loss::encode(out, surveyed)
                });
            }
            Request::Hold(request) => {
                let (hold_for, flush) = (Duration::from_millis(request.hold_ms.into()), request.flush);
                self.start(to, move |shard| async move {
                    let held = handler::hold::hold(&shard, hold_for, flush).await;
                    move |out: &mut Answer<'_>| hold::encode(out, held)
                });
            }
            Request::Stats(_) => self.start(to, |shard| async move {
                let reading = handler::stats::stats(&shard).await;
                move |out: &mut Answer<'_>| stats::encode_stats(out, &reading)
            }),
            Request::Health(_) => self.start(to, |shard| async move {
                let health = handler::health::health(&shard).await;
                move |out: &mut Answer<'_>| stats::encode_health(out, &health)
            }),
            Request::Hello(_) => {
                let reason = "Hello must be the first request of a connection, and only the first";
                self.refuse(to, *header, ErrorCode::HelloOutOfPlace, reason);
                return Err(End::Refused("a second Hello came".into()));
            }
        }
        Ok(())
    }

    /// Answers from memory at once, or parks a task.
    async fn fetch(&mut self, to: ReplyTo, mut request: FetchRequest) {
        let partitions: Vec<_> = request.positions.iter().map(|position| position.partition).collect();
        let (shard, outbox) = (Rc::clone(&self.shard), Rc::clone(&self.outbox));
        let mut fetching = Box::pin(async move {
            if shard.budget.is_short() {
                // Slow readers hold it. Who holds some of it waits; who does not gets little, but gets it.
                if outbox.holds_batches() {
                    future::or(shard.budget.enough(), outbox.ended()).await;
                } else {
                    request.bytes_max = request.bytes_max.min(SHORT_ANSWER_BYTES_MAX);
                }
            }
            let (ended, own) = (Rc::clone(&outbox), Rc::clone(&shard));
            let answer = handler::fetch::fetch(own, request, async move { ended.ended().await }).await;
            fetch::answer(&outbox, to, &partitions, answer, &shard.budget);
        });
        if future::poll_once(&mut fetching).await.is_none() {
            self.shard.start(fetching);
        }
    }

    /// Answers from memory at once, or parks a task. A value may be as long as a batch: so much is taken for it meanwhile.
    async fn get(&mut self, to: ReplyTo, partition: PartitionId, key: Vec<u8>) {
        let (shard, outbox) = (Rc::clone(&self.shard), Rc::clone(&self.outbox));
        let mut getting = Box::pin(async move {
            let limits = shard.limits();
            let (bytes, wait_max) = (limits.batch_bytes_max.min(limits.in_flight_bytes_max()), limits.produce_wait_max);
            let taken = async {
                shard.budget.take(bytes).await;
                true
            };
            let over = async {
                shard.rt.sleep(wait_max).await;
                false
            };
            let is_taken = future::or(taken, over).await;
            let got = match is_taken {
                true => handler::get::get(&shard, partition, key).await,
                false => Err(handler::error::GetError::Busy),
            };
            outbox.answer_aside(to, |out, frame_bytes_max| {
                get::encode(&mut Answer { out, to, frame_bytes_max }, &got);
                false
            });
            if is_taken {
                shard.budget.give_back(bytes);
            }
        });
        if future::poll_once(&mut getting).await.is_none() {
            self.shard.start(getting);
        }
    }

    /// Starts a task that works out the answer to a request, which keeps its place.
    fn start<Work, Encode>(&self, to: ReplyTo, work: impl FnOnce(Rc<Shard<R>>) -> Work)
    where
        Work: Future<Output = Encode> + 'static,
        Encode: FnOnce(&mut Answer<'_>) + 'static,
    {
        let (work, outbox) = (work(Rc::clone(&self.shard)), Rc::clone(&self.outbox));
        let place = outbox.keep_place(to);
        self.shard.start(async move {
            let encode = work.await;
            outbox.answer(&place, |out, frame_bytes_max| encode(&mut Answer { out, to, frame_bytes_max }));
        });
    }

    /// The first frame of `received`, or how many bytes it has.
    fn decode<'a>(
        &self,
        received: &'a [u8],
        frame_bytes_max: usize,
    ) -> Result<Result<Frame<'a, RequestHeader>, usize>, End> {
        match Frame::decode(received, frame_bytes_max) {
            Ok(Decoded::Frame(frame)) => Ok(Ok(frame)),
            Ok(Decoded::NeedMore { bytes }) => Ok(Err(received.len() + bytes)),
            Err(corrupt) => {
                if let (Corrupt::TooLarge { .. }, Some(head)) = (&corrupt, received.first_chunk::<HEADER_BYTES>())
                    && let Ok((header, _)) = RequestHeader::decode(head)
                {
                    let to = self.accept(&Frame { header, body: &[] });
                    self.refuse(to, header, ErrorCode::TooLarge, &corrupt.to_string());
                }
                Err(End::Refused(corrupt.to_string()))
            }
        }
    }

    #[inline]
    fn accept(&self, frame: &Frame<'_, RequestHeader>) -> ReplyTo {
        let frame_bytes = frame.frame_bytes() as u32;
        self.outbox.accept(frame_bytes);
        ReplyTo { correlation: frame.header.correlation, version: frame.header.version, frame_bytes }
    }

    fn refuse(&self, to: ReplyTo, header: RequestHeader, error: ErrorCode, reason: &str) {
        self.outbox.answer_now(to, |out, _| frame::encode_failure(out, header, error, reason));
    }
}

/// Where one answer is encoded.
struct Answer<'a> {
    out: &'a mut Vec<u8>,
    to: ReplyTo,
    frame_bytes_max: usize,
}

impl Answer<'_> {
    /// Appends the response, or else says that it is too large.
    fn response<'b, M: Message<'b>>(&mut self, message: &M) {
        self.response_head(message);
    }

    /// The same for a response that bytes are to follow: whether they may.
    fn response_head<'b, M: Message<'b>>(&mut self, message: &M) -> bool {
        let ReplyTo { correlation, version, .. } = self.to;
        let encoded = frame::encode(self.out, correlation, version, message, self.frame_bytes_max);
        if let Err(error) = &encoded {
            self.failure::<M>(ErrorCode::TooLarge, &error.to_string());
        }
        encoded.is_ok()
    }

    /// Appends a refusal of the whole request.
    fn failure<'b, M: Message<'b>>(&mut self, error: ErrorCode, reason: &str) {
        let ReplyTo { correlation, version, .. } = self.to;
        let header = RequestHeader { correlation, api: M::API.key(), version };
        frame::encode_failure(self.out, header, error, reason);
    }
}
