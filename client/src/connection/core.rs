//! One connection as a pure state machine: bytes in, answers out, time as an argument.
//!
//! It owns what must be right whatever the socket does: handshake, correlation ids, the window of unanswered requests,
//! deadlines, pings. The hard idea: a request that misses its deadline ends the whole connection. A late answer can then
//! never be taken for another's, and a broker that hangs is left instead of being waited for.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use thiserror::Error;
use wire::{
    Api, ErrorCode,
    api::{
        Message, health,
        hello::{self, ApiVersions},
    },
    codec::EncodeError,
    frame::{self, Corrupt, Decoded, Frame, ResponseError},
    header::ResponseHeader,
    protocol::{PROTOCOL_VERSION, preface},
};

use super::outbox::Outbox;

/// The largest frame this client takes, whatever the server announces.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// What a connection is to be.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// For the broker's log.
    pub(crate) client_name: String,
    /// The shard to live on, where it matters.
    pub(crate) shard: Option<u16>,
    /// How long the broker may take to answer Hello.
    pub(crate) handshake_timeout: Duration,
    /// How long the broker may be silent before it is pinged.
    pub(crate) ping_after: Duration,
    /// How long it may take to answer the ping.
    pub(crate) ping_timeout: Duration,
}

/// What the broker said of itself in Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) cluster_id: u128,
    pub(crate) node_id: u32,
    pub(crate) frame_bytes_max: usize,
    pub(crate) batch_bytes_max: usize,
}

/// An answer, not yet decoded: its body is a slice of the bytes received.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    header: ResponseHeader,
    body: Bytes,
}

/// Why a connection must end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum CoreError {
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    #[error("an answer with correlation id {0}, which no request has")]
    NotAsked(u32),
    #[error("Hello: {0}")]
    Hello(#[from] ResponseError),
    #[error("no answer to {} within {timeout:?}", api.name())]
    TimedOut { api: Api, timeout: Duration },
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum NotTaken {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("the broker does not speak any version of {} that this client knows", .0.name())]
    NotSpoken(Api),
}

/// A request that the end of the connection left without an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unanswered<T> {
    pub(crate) tag: T,
    /// Whether any byte of it may have left; else the broker certainly knows nothing of it.
    pub(crate) maybe_sent: bool,
}

/// The state machine. `T` tells the caller which of its requests an answer belongs to.
#[derive(Debug)]
pub(crate) struct Core<T> {
    settings: Settings,
    /// `None` until Hello is answered.
    peer: Option<Peer>,
    versions: Vec<ApiVersions>,
    in_flight_max: usize,
    in_flight: FxHashMap<u32, Call<T>>,
    /// Encoded and waiting for the window, in order.
    waiting: VecDeque<Encoded<T>>,
    deadlines: BTreeSet<(Instant, u32)>,
    correlation_next: u32,
    heard_at: Instant,
    pinging: bool,
}

#[derive(Debug)]
struct Call<T> {
    purpose: Purpose<T>,
    api: Api,
    sent_at: Instant,
    deadline: Instant,
}

#[derive(Debug)]
enum Purpose<T> {
    Hello,
    Ping,
    Caller(T),
}

#[derive(Debug)]
struct Encoded<T> {
    correlation: u32,
    call: Call<T>,
    head: Vec<u8>,
    tail: Vec<Bytes>,
}

impl Response {
    /// The message in it, or why there is none.
    pub(crate) fn message<'a, M: Message<'a>>(&'a self) -> Result<M, ResponseError> {
        Frame { header: self.header, body: &self.body }.message()
    }

    /// The bytes received, which a message's slices lie in.
    pub(crate) fn body(&self) -> &Bytes {
        &self.body
    }
}

impl<T> Core<T> {
    /// A connection that was just made: preface and Hello are ready to be sent.
    pub(crate) fn new(settings: Settings, now: Instant) -> Self {
        let mut core = Self {
            settings,
            peer: None,
            versions: Vec::new(),
            in_flight_max: 1,
            in_flight: FxHashMap::default(),
            waiting: VecDeque::new(),
            deadlines: BTreeSet::new(),
            correlation_next: 0,
            heard_at: now,
            pinging: false,
        };
        core.queue_hello(now);
        core
    }

    /// What the broker said of itself, once it did: requests may be submitted from then on.
    pub(crate) fn peer(&self) -> Option<Peer> {
        self.peer
    }

    /// Queues a request, to be answered by `deadline`. `tail` are the bytes that the message says stand behind it.
    ///
    /// # Panics
    /// Before Hello is answered.
    pub(crate) fn submit<'m, M: Message<'m>>(
        &mut self,
        message: &M,
        tail: Vec<Bytes>,
        tag: T,
        now: Instant,
        deadline: Instant,
    ) -> Result<(), NotTaken> {
        let peer = self.peer.expect("requests are submitted after Hello");
        let (correlation, head) = self.encode(message, peer.frame_bytes_max)?;
        let call = Call { purpose: Purpose::Caller(tag), api: M::API, sent_at: now, deadline };
        self.enqueue(Encoded { correlation, call, head, tail });
        Ok(())
    }

    /// Moves what may be sent now to `outbox`: at most a window of unanswered requests.
    pub(crate) fn transmit(&mut self, outbox: &mut Outbox) {
        while self.in_flight.len() < self.in_flight_max
            && let Some(Encoded { correlation, call, head, tail }) = self.waiting.pop_front()
        {
            outbox.push(head, tail);
            self.in_flight.insert(correlation, call);
        }
    }

    /// Takes whole frames off the front of `received`, adding the answers in them to `answers`. Returns how many bytes are
    /// missing of the next frame.
    pub(crate) fn handle_bytes(
        &mut self,
        received: &mut BytesMut,
        answers: &mut Vec<(T, Response)>,
        now: Instant,
    ) -> Result<usize, CoreError> {
        loop {
            let frame_bytes_max = self.peer.map_or(hello::FRAME_BYTES_MAX_BEFORE, |peer| peer.frame_bytes_max);
            let (header, frame_bytes) = match Frame::<ResponseHeader>::decode(received, frame_bytes_max)? {
                Decoded::NeedMore { bytes } => return Ok(bytes),
                Decoded::Frame(frame) => (frame.header, frame.frame_bytes()),
            };
            self.heard_at = now;
            let mut frame = received.split_to(frame_bytes).freeze();
            let body = frame.split_off(wire::header::HEADER_BYTES);
            self.handle_response(Response { header, body }, answers)?;
        }
    }

    /// When [`Self::handle_time`] must be called next.
    pub(crate) fn wake_at(&self) -> Instant {
        let ping_at = self.heard_at + self.settings.ping_after;
        match self.deadlines.first() {
            Some(&(deadline, _)) if self.pinging || self.peer.is_none() => deadline,
            Some(&(deadline, _)) => deadline.min(ping_at),
            None => ping_at,
        }
    }

    /// Time passed: a request may have missed its deadline, or a ping be due.
    pub(crate) fn handle_time(&mut self, now: Instant) -> Result<(), CoreError> {
        if let Some(&(deadline, correlation)) = self.deadlines.first()
            && deadline <= now
        {
            return Err(self.timed_out(correlation));
        }
        if self.peer.is_some() && !self.pinging && self.heard_at + self.settings.ping_after <= now {
            self.queue_ping(now);
        }
        Ok(())
    }

    /// The connection ended: every request without an answer, in the order in which they were submitted.
    pub(crate) fn into_unanswered(self) -> Vec<Unanswered<T>> {
        let mut sent: Vec<_> = self.in_flight.into_iter().collect();
        // Correlation ids wrap; distance to the next one is age.
        sent.sort_by_key(|&(correlation, _)| std::cmp::Reverse(self.correlation_next.wrapping_sub(correlation)));
        let sent = sent.into_iter().map(|(_, call)| (call, true));
        let waiting = self.waiting.into_iter().map(|encoded| (encoded.call, false));
        let unanswered = |(call, maybe_sent): (Call<T>, bool)| match call.purpose {
            Purpose::Caller(tag) => Some(Unanswered { tag, maybe_sent }),
            Purpose::Hello | Purpose::Ping => None,
        };
        sent.chain(waiting).filter_map(unanswered).collect()
    }

    fn handle_response(&mut self, response: Response, answers: &mut Vec<(T, Response)>) -> Result<(), CoreError> {
        let correlation = response.header.correlation;
        let call = self.in_flight.remove(&correlation).ok_or(CoreError::NotAsked(correlation))?;
        self.deadlines.remove(&(call.deadline, correlation));
        match call.purpose {
            Purpose::Hello => self.handle_hello(&response)?,
            Purpose::Ping => self.pinging = false,
            Purpose::Caller(tag) => answers.push((tag, response)),
        }
        Ok(())
    }

    fn handle_hello(&mut self, response: &Response) -> Result<(), CoreError> {
        let hello: hello::Response<'_> = response.message()?;
        self.peer = Some(Peer {
            cluster_id: hello.cluster_id,
            node_id: hello.node_id,
            frame_bytes_max: (hello.frame_bytes_max as usize).min(FRAME_BYTES_MAX),
            batch_bytes_max: (hello.batch_bytes_max as usize).min(FRAME_BYTES_MAX),
        });
        self.versions = hello.apis.iter().filter(|row| Api::from_key(row.key).is_some()).collect();
        self.in_flight_max = hello.in_flight_max.max(1) as usize;
        Ok(())
    }

    fn queue_hello(&mut self, now: Instant) {
        let Settings { client_name, shard, handshake_timeout, .. } = &self.settings;
        let request = hello::Request {
            client_name,
            client_version: env!("CARGO_PKG_VERSION"),
            protocol_min: PROTOCOL_VERSION,
            protocol_max: PROTOCOL_VERSION,
            shard: *shard,
            auth: &[],
        };
        let mut head = preface().to_vec();
        frame::encode(&mut head, self.correlation_next, 0, &request, hello::FRAME_BYTES_MAX_BEFORE)
            .expect("the client name was checked when the client was built");
        let deadline = now + *handshake_timeout;
        let call = Call { purpose: Purpose::Hello, api: Api::Hello, sent_at: now, deadline };
        let correlation = self.next_correlation();
        self.enqueue(Encoded { correlation, call, head, tail: Vec::new() });
    }

    /// A broker too old to have Health is not pinged: its answers to other requests will have to do.
    fn queue_ping(&mut self, now: Instant) {
        self.heard_at = now;
        let frame_bytes_max = self.peer.map_or(0, |peer| peer.frame_bytes_max);
        if let Ok((correlation, head)) = self.encode(&health::Request, frame_bytes_max) {
            self.pinging = true;
            let deadline = now + self.settings.ping_timeout;
            let call = Call { purpose: Purpose::Ping, api: Api::Health, sent_at: now, deadline };
            self.enqueue(Encoded { correlation, call, head, tail: Vec::new() });
        }
    }

    fn encode<'m, M: Message<'m>>(&mut self, message: &M, frame_bytes_max: usize) -> Result<(u32, Vec<u8>), NotTaken> {
        let version = self.version(M::API).ok_or(NotTaken::NotSpoken(M::API))?;
        let mut head = Vec::new();
        frame::encode(&mut head, self.correlation_next, version, message, frame_bytes_max)?;
        Ok((self.next_correlation(), head))
    }

    fn enqueue(&mut self, encoded: Encoded<T>) {
        self.deadlines.insert((encoded.call.deadline, encoded.correlation));
        self.waiting.push_back(encoded);
    }

    /// The newest version of an API that both sides speak.
    fn version(&self, api: Api) -> Option<u8> {
        let theirs = self.versions.iter().find(|row| row.key == api.key())?;
        let (oldest, newest) = api.versions().into_inner();
        let version = newest.min(theirs.version_max);
        (version >= oldest.max(theirs.version_min)).then_some(version)
    }

    fn next_correlation(&mut self) -> u32 {
        let correlation = self.correlation_next;
        self.correlation_next = correlation.wrapping_add(1);
        correlation
    }

    fn timed_out(&self, correlation: u32) -> CoreError {
        let waiting = || self.waiting.iter().find(|encoded| encoded.correlation == correlation).map(|it| &it.call);
        let call = self.in_flight.get(&correlation).or_else(waiting).expect("a deadline belongs to a request");
        CoreError::TimedOut { api: call.api, timeout: call.deadline - call.sent_at }
    }
}

impl CoreError {
    /// Whether the broker's bytes were not what the protocol allows.
    pub(crate) fn is_protocol(&self) -> bool {
        !matches!(self, Self::TimedOut { .. } | Self::Hello(ResponseError::Refused { .. }))
    }

    /// The code that Hello was refused with.
    pub(crate) fn hello_refused(&self) -> Option<(ErrorCode, &str)> {
        match self {
            Self::Hello(ResponseError::Refused { error, reason }) => Some((*error, reason)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::{
        api::{topic_delete, topic_list},
        header::{HEADER_BYTES, RequestHeader},
        protocol::PREFACE_BYTES,
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A core, the broker's end of it, and a clock that only tests move.
    struct Pair {
        core: Core<&'static str>,
        now: Instant,
        outbox: Outbox,
        received: BytesMut,
        answers: Vec<(&'static str, Response)>,
    }

    impl Pair {
        fn new() -> Self {
            let now = Instant::now();
            let settings = Settings {
                client_name: "test".to_owned(),
                shard: Some(1),
                handshake_timeout: 5 * SECOND,
                ping_after: 10 * SECOND,
                ping_timeout: 3 * SECOND,
            };
            let core = Core::new(settings, now);
            Self { core, now, outbox: Outbox::default(), received: BytesMut::new(), answers: Vec::new() }
        }

        fn ready(in_flight_max: u32) -> Self {
            let mut pair = Self::new();
            let sent = pair.sent();
            assert_eq!(sent[..PREFACE_BYTES], preface());
            pair.receive(hello(correlations(&sent[PREFACE_BYTES..])[0], in_flight_max)).unwrap();
            pair
        }

        fn submit(&mut self, tag: &'static str) {
            self.core.submit(&topic_list::Request, Vec::new(), tag, self.now, self.now + 30 * SECOND).unwrap();
        }

        fn sent(&mut self) -> Vec<u8> {
            self.core.transmit(&mut self.outbox);
            self.outbox.take_all()
        }

        fn receive(&mut self, bytes: Vec<u8>) -> Result<usize, CoreError> {
            self.received.extend_from_slice(&bytes);
            self.core.handle_bytes(&mut self.received, &mut self.answers, self.now)
        }

        fn answered(&mut self) -> Vec<&'static str> {
            self.answers.drain(..).map(|(tag, _)| tag).collect()
        }
    }

    fn hello(correlation: u32, in_flight_max: u32) -> Vec<u8> {
        let apis: Vec<_> = ApiVersions::all().collect();
        let response = hello::Response {
            protocol: 1,
            cluster_id: 7,
            node_id: 1,
            node_epoch: 1,
            shard_count: 2,
            shard: 1,
            frame_bytes_max: 1 << 20,
            batch_bytes_max: 1 << 16,
            in_flight_max,
            server_name: "fake",
            server_version: "0",
            apis: (&apis).into(),
        };
        encode(correlation, &response)
    }

    fn answer(correlation: u32) -> Vec<u8> {
        encode(correlation, &topic_list::Response { topics: Default::default() })
    }

    fn encode<'m>(correlation: u32, message: &impl Message<'m>) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(&mut out, correlation, 0, message, 1 << 20).unwrap();
        out
    }

    fn correlations(mut bytes: &[u8]) -> Vec<u32> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let Decoded::Frame(frame) = Frame::<RequestHeader>::decode(bytes, 1 << 20).unwrap() else {
                panic!("whole frames are sent");
            };
            found.push(frame.header.correlation);
            bytes = &bytes[frame.frame_bytes()..];
        }
        found
    }

    #[test]
    fn hello_comes_first_and_says_what_the_broker_takes() {
        let pair = Pair::ready(8);
        let peer = pair.core.peer().unwrap();
        assert_eq!((peer.cluster_id, peer.frame_bytes_max, peer.batch_bytes_max), (7, 1 << 20, 1 << 16));
    }

    #[test]
    fn answers_find_their_requests_in_any_order_and_any_pieces() {
        let mut pair = Pair::ready(8);
        ["a", "b"].into_iter().for_each(|tag| pair.submit(tag));
        let sent = correlations(&pair.sent());
        for byte in [answer(sent[1]), answer(sent[0])].concat() {
            pair.receive(vec![byte]).unwrap();
        }
        assert_eq!(pair.answered(), ["b", "a"]);
    }

    #[test]
    fn a_full_window_holds_requests_back_until_an_answer_makes_room() {
        let mut pair = Pair::ready(2);
        ["a", "b", "c"].into_iter().for_each(|tag| pair.submit(tag));
        let sent = correlations(&pair.sent());
        assert_eq!(sent.len(), 2);
        assert!(pair.sent().is_empty());
        pair.receive(answer(sent[0])).unwrap();
        assert_eq!(correlations(&pair.sent()).len(), 1);
    }

    #[test]
    fn the_end_tells_what_may_have_left_in_the_order_of_submission() {
        let mut pair = Pair::ready(2);
        pair.core.correlation_next = u32::MAX;
        ["a", "b", "c"].into_iter().for_each(|tag| pair.submit(tag));
        pair.sent();
        let unanswered = pair.core.into_unanswered();
        let expected = [("a", true), ("b", true), ("c", false)];
        assert_eq!(unanswered, expected.map(|(tag, maybe_sent)| Unanswered { tag, maybe_sent }));
    }

    #[test]
    fn a_missed_deadline_ends_the_connection() {
        let mut pair = Pair::ready(1);
        ["a", "b"].into_iter().for_each(|tag| pair.submit(tag));
        pair.sent();
        pair.now = pair.core.wake_at();
        pair.core.handle_time(pair.now).unwrap();
        pair.now = pair.core.wake_at();
        // The ping waits behind "a": it is the first to be missed.
        let error = pair.core.handle_time(pair.now).unwrap_err();
        assert_eq!(error, CoreError::TimedOut { api: Api::Health, timeout: 3 * SECOND });
    }

    #[test]
    fn hello_has_a_deadline() {
        let mut pair = Pair::new();
        pair.sent();
        let deadline = pair.core.wake_at();
        assert_eq!(deadline, pair.now + 5 * SECOND);
        assert_eq!(pair.core.handle_time(deadline - Duration::from_nanos(1)), Ok(()));
        let error = pair.core.handle_time(deadline).unwrap_err();
        assert_eq!(error, CoreError::TimedOut { api: Api::Hello, timeout: 5 * SECOND });
    }

    #[test]
    fn a_silent_broker_is_pinged_and_an_answer_settles_it() {
        let mut pair = Pair::ready(8);
        for _ in 0..3 {
            assert_eq!(pair.core.wake_at(), pair.now + 10 * SECOND);
            pair.now += 10 * SECOND;
            pair.core.handle_time(pair.now).unwrap();
            let ping = correlations(&pair.sent())[0];
            pair.core.handle_time(pair.now + SECOND).unwrap();
            let health = health::Response { state: health::State::Serving, shards: Default::default() };
            pair.receive(encode(ping, &health)).unwrap();
        }
        assert_eq!(pair.answered(), [""; 0]);
    }

    #[test]
    fn bytes_that_are_no_answer_end_the_connection() {
        let check = |bytes: Vec<u8>, expected: fn(&CoreError) -> bool| {
            let error = Pair::ready(8).receive(bytes).unwrap_err();
            assert!(expected(&error) && error.is_protocol(), "{error}");
        };
        check(answer(99), |error| matches!(error, CoreError::NotAsked(99)));
        check(vec![0xff; HEADER_BYTES], |error| matches!(error, CoreError::Corrupt(_)));
        let mut giant = answer(1);
        giant[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        check(giant, |error| matches!(error, CoreError::Corrupt(Corrupt::TooLarge { .. })));
    }

    #[test]
    fn nothing_large_is_taken_from_a_stranger() {
        let mut pair = Pair::new();
        pair.sent();
        let mut large = answer(0);
        large[..4].copy_from_slice(&(hello::FRAME_BYTES_MAX_BEFORE as u32).to_le_bytes());
        let error = pair.receive(large).unwrap_err();
        assert!(matches!(error, CoreError::Corrupt(Corrupt::TooLarge { frame_bytes_max: 16_384, .. })), "{error}");
    }

    #[test]
    fn a_refused_hello_says_why() {
        let mut pair = Pair::new();
        let header = RequestHeader { correlation: 0, api: 1, version: 0 };
        let mut refusal = Vec::new();
        frame::encode_failure(&mut refusal, header, ErrorCode::Unauthenticated, "who are you?");
        pair.sent();
        let error = pair.receive(refusal).unwrap_err();
        assert_eq!(error.hello_refused(), Some((ErrorCode::Unauthenticated, "who are you?")));
    }

    #[test]
    fn what_the_broker_would_not_take_is_not_sent() {
        let mut pair = Pair::ready(8);
        let name = "x".repeat(70_000);
        let request = topic_delete::Request { name: &name };
        let refused = pair.core.submit(&request, Vec::new(), "long", pair.now, pair.now).unwrap_err();
        assert!(matches!(refused, NotTaken::Encode(EncodeError::StringTooLong { .. })));
        pair.core.versions.retain(|row| row.key != Api::TopicList.key());
        let refused = pair.core.submit(&topic_list::Request, Vec::new(), "new", pair.now, pair.now).unwrap_err();
        assert_eq!(refused, NotTaken::NotSpoken(Api::TopicList));
        assert!(pair.sent().is_empty());
    }
}
