//! One socket: frames in, handled in order; answers out, by the writer of its [`Outbox`].
//!
//! The hard idea: one read is one turn. Every whole frame of it is handled at once and in order, appends included; what
//! has to be waited for is left to the outbox or a task, so the next read begins while syncs are under way. A turn is
//! bounded, and a connection with too much in flight is not read, so TCP holds its sender back.

use std::{io, net::SocketAddr, pin::pin, rc::Rc, time::Duration};

use futures_lite::future;
use runtime::{Instant, Runtime, Stream};
use wire::protocol::{PREFACE_BYTES, Protocol, detect};

use super::{
    deadlines::{Phase, Watched},
    limits::Permit,
    outbox::Outbox,
    receive::{BYTES_MIN, ReceiveBuffer, Wanted},
    shown::Shown,
};
use crate::{
    metrics::Metric,
    native::{Hello, LargeBatch, Next, Session},
    shard::Shard,
};

/// Work after which the shard looks at its other sockets and its disk.
const TURN_MAX: Duration = Duration::from_micros(200);

/// Bytes after which it does, at the latest.
const TURN_BYTES_MAX: usize = 256 << 10;

/// Bytes of a stranger's first words that the log shows.
const FIRST_BYTES_SHOWN: usize = 16;

/// A connection on its way to the shard that is to hold it.
pub(crate) struct Arrival<R: Runtime> {
    pub(crate) socket: R::Socket,
    pub(crate) peer: SocketAddr,
    pub(crate) permit: Permit,
    /// When it was accepted.
    pub(crate) since: Instant,
    /// Bytes read from it on another shard.
    pub(crate) carried: Vec<u8>,
    /// Whether it was moved already: once is enough.
    pub(crate) is_moved: bool,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The peer closed, or the way to it broke.
    #[error("the peer closed the connection")]
    Closed,
    /// We end it.
    #[error("{0}")]
    Refused(String),
}

/// Serves a connection until it ends.
pub(crate) async fn serve<R: Runtime>(shard: Rc<Shard<R>>, arrival: Arrival<R>) {
    shard.metrics.count(Metric::ConnectionsAccepted);
    let Arrival { socket, peer, permit, since, carried, is_moved } = arrival;
    let Ok(stream) = shard.rt.adopt(socket) else { return };
    let outbox = Rc::new(Outbox::new(shard.log.clone(), shard.limits()));
    let watched = Watched::new(stream.clone(), Rc::clone(&outbox), since);
    shard.connections.add(&watched);
    let buffer = ReceiveBuffer::new(&carried);
    shard.budget.charge(buffer.capacity() - BYTES_MIN);
    let mut connection =
        Connection { shard, stream, outbox, watched, buffer, frame_started: None, worked: Duration::ZERO };
    let end = match connection.greet(since, !is_moved).await {
        Ok(Greeting::Stays(session)) => connection.run(session).await,
        Ok(Greeting::MovesTo(other)) => {
            connection.hand_over(other, peer, permit, since);
            return;
        }
        Err(end) => {
            // A Hello that was refused has its answer in the outbox.
            connection.outbox.close();
            connection.outbox.send_all(&connection.shard.rt, &connection.stream, &connection.shard.budget).await;
            end
        }
    };
    connection.finish(peer, &end);
}

/// Where a connection goes after its Hello.
enum Greeting<R: Runtime> {
    Stays(Session<R>),
    MovesTo(u16),
}

struct Connection<R: Runtime> {
    shard: Rc<Shard<R>>,
    stream: R::Stream,
    outbox: Rc<Outbox<R>>,
    watched: Rc<Watched<R>>,
    /// What is above its least size was taken from the shard's budget.
    buffer: ReceiveBuffer,
    /// Since when the start of a frame waits for its rest, not counting the time in which we did not read.
    frame_started: Option<Instant>,
    /// Time spent on turns since the shard could last do something else.
    worked: Duration,
}

impl<R: Runtime> Connection<R> {
    /// Tells the protocol by the first bytes and hears the Hello.
    async fn greet(&mut self, since: Instant, may_move: bool) -> Result<Greeting<R>, End> {
        let mut session = Session::new(Rc::clone(&self.shard), Rc::clone(&self.outbox));
        loop {
            let wanted = match detect(self.buffer.received()) {
                Protocol::NeedMore => PREFACE_BYTES,
                Protocol::Native { version } => {
                    let behind = &self.buffer.received()[PREFACE_BYTES..];
                    match session.hello(version, behind, may_move)? {
                        Hello::NeedMore { frame_bytes } => PREFACE_BYTES + frame_bytes,
                        Hello::MoveTo(other) => return Ok(Greeting::MovesTo(other)),
                        Hello::Answered { frame_bytes } => {
                            self.buffer.consume(PREFACE_BYTES + frame_bytes);
                            return Ok(Greeting::Stays(session));
                        }
                    }
                }
                other => return Err(self.not_native(other)),
            };
            self.read(wanted, Phase::Handshake, since).await?;
        }
    }

    /// Handles frames until the connection ends; everything answerable is answered first.
    async fn run(&mut self, mut session: Session<R>) -> End {
        let (shard, stream, outbox) = (Rc::clone(&self.shard), self.stream.clone(), Rc::clone(&self.outbox));
        let writer = self.shard.rt.spawn(async move { outbox.send_all(&shard.rt, &stream, &shard.budget).await });
        let end = loop {
            if let Err(end) = self.turn(&mut session).await {
                break end;
            }
        };
        session.end_turn();
        self.outbox.close();
        writer.await;
        end
    }

    /// Handles what was received, then reads on.
    async fn turn(&mut self, session: &mut Session<R>) -> Result<(), End> {
        let started = self.shard.rt.now();
        session.begin_turn(started);
        let mut turn_bytes = 0;
        let frame_bytes = loop {
            session.look_ahead(self.buffer.received());
            let next = match session.produce_at_once(self.buffer.received()) {
                Some(next) => next,
                None => session.handle(self.buffer.received()).await?,
            };
            match next {
                Next::Handled { frame_bytes } => {
                    self.buffer.consume(frame_bytes);
                    self.frame_started = None;
                    turn_bytes += frame_bytes;
                    if turn_bytes >= TURN_BYTES_MAX || !self.outbox.has_room() {
                        break 0;
                    }
                }
                Next::NeedMore { frame_bytes } => break frame_bytes,
            }
        };
        session.end_turn();
        let now = self.pause(started).await?;
        match self.buffer.received().len() {
            0 => self.read(0, Phase::Idle, now).await,
            // The turn was cut short: there may be whole frames.
            _ if frame_bytes == 0 => Ok(()),
            received => {
                let since = *self.frame_started.get_or_insert(now);
                if self.buffer.is_full()
                    && let Some(large) = session.large_batch(self.buffer.received())
                {
                    self.buffer.consume(received);
                    return self.receive_large(session, large, since).await;
                }
                self.read(frame_bytes, Phase::Frame { received }, since).await
            }
        }
    }

    /// Receives the rest of a large batch where it is to stay, and appends it.
    async fn receive_large(
        &mut self,
        session: &mut Session<R>,
        mut large: LargeBatch<R>,
        since: Instant,
    ) -> Result<(), End> {
        while !large.rest().is_empty() {
            self.watched.enter(Phase::Frame { received: large.received() }, since);
            let read = read_into(&self.stream, large.rest(), &mut self.worked).await;
            self.watched.enter(Phase::Paused, since);
            match self.check_read(read) {
                Ok(len) => large.filled(len),
                Err(end) => {
                    session.forget_large(large);
                    return Err(end);
                }
            }
        }
        self.frame_started = None;
        let begun = self.shard.rt.now();
        session.append_large(large).await;
        self.worked += self.shard.rt.now().since(begun);
        Ok(())
    }

    /// Lets the shard's other work go first after a long turn, and waits until another request may come.
    async fn pause(&mut self, turn_started: Instant) -> Result<Instant, End> {
        let mut now = self.shard.rt.now();
        self.worked += now.since(turn_started);
        if self.worked >= TURN_MAX {
            self.shard.rt.sleep(Duration::ZERO).await;
            self.worked = Duration::ZERO;
            now = self.shard.rt.now();
        }
        if !self.outbox.has_room() {
            if !self.outbox.room().await {
                return Err(self.gone());
            }
            now = self.shard.rt.now();
            self.frame_started = None;
        }
        Ok(now)
    }

    /// Reads what is there. `frame_bytes` is the size of the frame under way, 0 if none is.
    async fn read(&mut self, frame_bytes: usize, phase: Phase, since: Instant) -> Result<(), End> {
        self.watched.enter(phase, since);
        self.make_room(frame_bytes).await;
        let read = read_into(&self.stream, self.buffer.room(), &mut self.worked).await;
        self.watched.enter(Phase::Paused, since);
        let len = self.check_read(read)?;
        self.buffer.filled(len);
        Ok(())
    }

    fn check_read(&self, read: io::Result<usize>) -> Result<usize, End> {
        match read {
            Ok(0) | Err(_) => Err(self.gone()),
            Ok(len) => Ok(len),
        }
    }

    /// Why there is nothing more to read or write.
    fn gone(&self) -> End {
        self.watched.cut().map_or(End::Closed, |reason| End::Refused(reason.into()))
    }

    /// Resizes the buffer; what is more than every connection has is taken from the shard's budget first.
    async fn make_room(&mut self, frame_bytes: usize) {
        let (capacity, is_needed) = match self.buffer.wanted(frame_bytes) {
            Wanted::AtLeast(capacity) => (capacity, true),
            Wanted::Better(capacity) => (capacity, false),
        };
        let (held, wanted) = (self.buffer.capacity() - BYTES_MIN, capacity - BYTES_MIN);
        let budget = &self.shard.budget;
        if wanted > held {
            let more = wanted - held;
            // Connections that wait for each other's memory end by their deadlines; then the read fails.
            let waiting = async {
                budget.take(more).await;
                true
            };
            let cut = async {
                self.watched.was_cut().await;
                false
            };
            if !(budget.try_take(more) || is_needed && future::or(waiting, cut).await) {
                return;
            }
        } else {
            budget.give_back(held - wanted);
        }
        self.buffer.resize(capacity);
    }

    /// Says what came instead of our protocol, and what to do about it.
    fn not_native(&self, protocol: Protocol) -> End {
        let first = self.buffer.received();
        let first = Shown(&first[..first.len().min(FIRST_BYTES_SHOWN)]);
        End::Refused(match protocol {
            Protocol::Kafka => {
                "a Kafka client connected; the Kafka protocol is not served yet, use a StreamBus client".into()
            }
            Protocol::Tls => "a TLS client connected to a port without TLS; connect without it".into(),
            Protocol::Http => {
                "an HTTP client connected to the port of clients; the admin port (admin.listen) speaks HTTP".into()
            }
            _ => format!("the first bytes are of no protocol spoken here: {first}"),
        })
    }

    /// Gives the connection to the shard that its Hello asked for.
    fn hand_over(self, other: u16, peer: SocketAddr, permit: Permit, since: Instant) {
        let carried = self.buffer.received().to_vec();
        self.shard.budget.give_back(self.buffer.capacity() - BYTES_MIN);
        let Self { shard, stream, watched, .. } = self;
        // It holds the stream too, and two shards must not.
        drop(watched);
        if let Ok(socket) = stream.detach() {
            shard.metrics.count(Metric::ConnectionsMoved);
            shard.place(other, Arrival { socket, peer, permit, since, carried, is_moved: true });
        }
    }

    /// Says why it ends, if we ended it.
    fn finish(&self, peer: SocketAddr, end: &End) {
        self.shard.budget.give_back(self.buffer.capacity() - BYTES_MIN);
        self.stream.shutdown();
        match end {
            End::Closed => tracing::debug!(%peer, "{end}"),
            End::Refused(reason) => {
                self.shard.metrics.count(Metric::ConnectionsCut);
                if let Some(suppressed) = self.shard.strangers.line(self.shard.rt.now()) {
                    tracing::warn!(%peer, suppressed, "connection closed: {reason}");
                }
            }
        }
    }
}

/// Reads what is there. If that has to be waited for, others have their turn meanwhile, and `worked` starts anew.
async fn read_into<S: Stream>(stream: &S, room: &mut [u8], worked: &mut Duration) -> io::Result<usize> {
    let mut reading = pin!(stream.read(room));
    match future::poll_once(&mut reading).await {
        Some(read) => read,
        None => {
            *worked = Duration::ZERO;
            reading.await
        }
    }
}
