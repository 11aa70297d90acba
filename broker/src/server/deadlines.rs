//! Ends connections that take too long, in any phase.
//!
//! The hard idea: no timer for each read. A connection notes what it waits for and since when, in two cells; four times
//! a second one task of the shard looks at all of them. Two thousand idle connections cost it some microseconds.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::Duration,
};

use runtime::{Instant, Notify, Runtime, Stream};

use super::{
    limits::{Budget, Limits},
    outbox::Outbox,
};

/// How often the task looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a client may take none of the bytes sent to it, and the pace in bytes a second at which a frame has to come.
const USUAL: (Duration, u64) = (Duration::from_secs(30), 16 << 10);

/// The same while the memory of connections is short.
const SHORT: (Duration, u64) = (Duration::from_secs(2), 1 << 20);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its Hello.
    Handshake,
    /// The rest of a frame of which so many bytes have come.
    Frame { received: usize },
    /// A frame.
    Idle,
    /// Us.
    Paused,
}

/// One connection, as the shard sees it.
pub(crate) struct Watched<R: Runtime> {
    stream: R::Stream,
    outbox: Rc<Outbox<R>>,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    cut: Cell<Option<&'static str>>,
    cut_seen: Notify,
}

impl<R: Runtime> Watched<R> {
    /// Watches a connection that arrived at `since`.
    pub(crate) fn new(stream: R::Stream, outbox: Rc<Outbox<R>>, since: Instant) -> Rc<Self> {
        let (phase, since) = (Cell::new(Phase::Handshake), Cell::new(since));
        Rc::new(Self { stream, outbox, phase, since, cut: Cell::new(None), cut_seen: Notify::default() })
    }

    /// The connection waits for this since then.
    pub(crate) fn enter(&self, phase: Phase, since: Instant) {
        self.phase.set(phase);
        self.since.set(since);
    }

    /// Why the connection was ended by us, if it was.
    pub(crate) fn cut(&self) -> Option<&'static str> {
        self.cut.get()
    }

    /// Waits until the connection is ended by us.
    pub(crate) async fn was_cut(&self) {
        self.cut_seen.until(|| self.cut.get().map(drop)).await;
    }

    /// What took too long, if anything did.
    ///
    /// Where memory is short, connections that hold some and do not move have to make room for those that do.
    fn overdue(&self, limits: &Limits, is_short: bool, now: Instant) -> Option<&'static str> {
        let (stall_max, bytes_per_s_min) = if is_short { SHORT } else { USUAL };
        if self.outbox.writing_since().is_some_and(|since| now.since(since) > stall_max) {
            return Some("it takes no answers");
        }
        let (allowed, reason) = match self.phase.get() {
            Phase::Handshake => (limits.handshake_timeout, "no Hello came in time"),
            Phase::Frame { received } => {
                let transfer = Duration::from_secs(received as u64 / bytes_per_s_min);
                (limits.handshake_timeout.min(stall_max) + transfer, "a frame came too slowly")
            }
            Phase::Idle if self.outbox.in_flight() == 0 => (limits.idle_timeout, "it was idle"),
            Phase::Idle | Phase::Paused => return None,
        };
        (now.since(self.since.get()) > allowed).then_some(reason)
    }

    fn end(&self, reason: &'static str) {
        self.cut.set(Some(reason));
        self.cut_seen.wake();
        self.stream.shutdown();
    }
}

/// The connections of a shard.
pub(crate) struct Registry<R: Runtime> {
    connections: RefCell<Vec<Weak<Watched<R>>>>,
    arrived: Notify,
}

impl<R: Runtime> Default for Registry<R> {
    fn default() -> Self {
        Self { connections: RefCell::default(), arrived: Notify::default() }
    }
}

impl<R: Runtime> Registry<R> {
    /// Watches a connection until it is dropped.
    pub(crate) fn add(&self, connection: &Rc<Watched<R>>) {
        self.connections.borrow_mut().push(Rc::downgrade(connection));
        self.arrived.wake();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.connections.borrow().iter().filter(|connection| connection.strong_count() > 0).count()
    }

    /// Looks at all connections, for as long as the shard runs.
    pub(crate) async fn enforce(&self, rt: &R, limits: &Limits, budget: &Budget) {
        loop {
            // Without connections there is nothing to look at, and a shard at rest stays at rest.
            self.arrived.until(|| (self.len() > 0).then_some(())).await;
            rt.sleep(LOOK_EVERY).await;
            let now = rt.now();
            self.each(|connection| {
                if connection.outbox.is_owing() {
                    connection.outbox.look_again();
                }
                if let Some(reason) = connection.overdue(limits, budget.is_short(), now) {
                    connection.end(reason);
                }
            });
        }
    }

    /// Ends the connections on which nothing is under way; how many are left.
    pub(crate) fn end_idle(&self) -> usize {
        let mut left = 0;
        self.each(|connection| {
            if connection.outbox.is_idle() {
                connection.end("the server is stopping");
            }
            left += 1;
        });
        left
    }

    /// Ends all connections; how many there were.
    pub(crate) fn end_all(&self) -> usize {
        let mut ended = 0;
        self.each(|connection| {
            connection.end("the server is stopping");
            ended += 1;
        });
        ended
    }

    fn each(&self, mut look: impl FnMut(&Watched<R>)) {
        // Moved out: ending a connection may run code that comes back here.
        let mut connections = self.connections.take();
        connections.retain(|connection| match connection.upgrade() {
            Some(connection) => {
                look(&connection);
                true
            }
            None => false,
        });
        connections.append(&mut self.connections.borrow_mut());
        self.connections.replace(connections);
    }
}
