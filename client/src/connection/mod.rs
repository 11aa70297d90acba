//! One socket to one shard of one broker, kept connected: the task that moves bytes between the socket and the
//! [`core`], and starts over when either fails.
//!
//! The hard idea is what happens between two connections. The moment one ends, submitting fails at once; then every request
//! it left behind is completed with a failure, in the order of submission; only then is the next connection made. So
//! whoever retries in order never finds a younger request of its own ahead of an older one.

mod core;
mod outbox;

use std::{
    io,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::Interest,
    net::TcpStream,
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{self, sleep_until, timeout},
};
use wire::api::Message;

pub(crate) use self::core::{Peer, Response, Settings};
use self::{
    core::{Core, CoreError},
    outbox::Outbox,
};
use crate::{error::Error, retry::Backoff};

/// Room made for each read; a frame that is known to be larger gets its own.
const READ_BYTES_MIN: usize = 32 * 1024;

/// Reads of one turn, so that a broker that always has more does not keep requests from leaving.
const READS_PER_TURN: usize = 16;

const READ: Interest = Interest::READABLE;
const READ_AND_WRITE: Interest = Interest::READABLE.add(Interest::WRITABLE);

const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_LONGEST: Duration = Duration::from_secs(1);

/// What happens with the answer, or with the failure that came in its place. Runs on the connection's task: it must not
/// block.
pub(crate) type Completion = Box<dyn FnOnce(Result<Response, Failure>) + Send>;

/// Why a request has no answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether the broker may have done it all the same.
    pub(crate) maybe_done: bool,
}

/// The cluster that all connections of a client belong to, told by the first that succeeds.
pub(crate) type ClusterId = Arc<OnceLock<u128>>;

/// Where a connection leads.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Tried in turn until one answers.
    pub(crate) addresses: Vec<Arc<str>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) settings: Settings,
    pub(crate) cluster: ClusterId,
}

/// A connection and the task that keeps it; dropping it closes the socket.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    driver: JoinHandle<()>,
}

/// The other end of a connection that is ready.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) peer: Peer,
    pub(crate) address: Arc<str>,
}

/// Why a request could not be submitted.
pub(crate) enum Refusal {
    /// Not connected at the moment, see [`Connection::ready`].
    NotReady,
    /// It never will be taken: it does not fit the broker's limits or versions.
    NotTaken(Error),
}

#[derive(Debug)]
struct Shared {
    target: Target,
    link: Mutex<Option<Link>>,
    /// There is something to send.
    wake: Notify,
    status: watch::Sender<Status>,
}

/// A socket in use.
struct Link {
    address: Arc<str>,
    core: Core<Completion>,
}

#[derive(Debug, Clone)]
enum Status {
    /// Every address was tried this often since the last connection, the last time with this error.
    Down {
        rounds: u32,
        error: Option<Error>,
    },
    Ready(Ready),
}

impl Connection {
    /// Starts connecting.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn open(target: Target) -> Self {
        assert!(!target.addresses.is_empty(), "a connection leads somewhere");
        let (status, _) = watch::channel(Status::Down { rounds: 0, error: None });
        let shared = Arc::new(Shared { target, link: Mutex::new(None), wake: Notify::new(), status });
        let driver = tokio::spawn(keep_connected(shared.clone()));
        Self { shared, driver }
    }

    /// Waits until the connection is ready.
    ///
    /// # Errors
    /// The last error when it is not within `patience`; at once when that error is one that waiting does not mend.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<Ready, Error> {
        self.wait(patience, |_, error| !error.is_retriable()).await
    }

    /// Like [`Self::ready`], and gives up as soon as every address was tried once.
    pub(crate) async fn ready_at_once(&self, patience: Duration) -> Result<Ready, Error> {
        self.wait(patience, |rounds, error| rounds > 0 || !error.is_retriable()).await
    }

    /// The other end, when the connection is ready now.
    pub(crate) fn current(&self) -> Option<Ready> {
        match &*self.shared.status.borrow() {
            Status::Ready(ready) => Some(ready.clone()),
            Status::Down { .. } => None,
        }
    }

    /// Sends a request, to be answered within `patience`: it leaves with the next write of the connection's task.
    pub(crate) fn submit<'m, M: Message<'m>>(
        &self,
        message: &M,
        tail: Vec<Bytes>,
        patience: Duration,
        completion: Completion,
    ) -> Result<(), Refusal> {
        let mut guard = self.shared.link.lock();
        let Some(link) = guard.as_mut().filter(|link| link.core.peer().is_some()) else {
            return Err(Refusal::NotReady);
        };
        let now = now();
        link.core.submit(message, tail, completion, now, now + patience).map_err(|reason| {
            let (address, reason) = (link.address.clone(), reason.to_string().into());
            Refusal::NotTaken(Error::Protocol { address, reason })
        })?;
        drop(guard);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Sends a request as soon as the connection is ready and waits for the answer, `patience` in all.
    pub(crate) async fn call<'m, M: Message<'m>>(&self, message: &M, patience: Duration) -> Result<Response, Failure> {
        let certainly_not = |error| Failure { error, maybe_done: false };
        let deadline = now() + patience;
        loop {
            let left = deadline.saturating_duration_since(now());
            self.ready(left).await.map_err(certainly_not)?;
            let (sender, receiver) = oneshot::channel();
            let completion = Box::new(|answer| drop(sender.send(answer)));
            match self.submit(message, Vec::new(), left, completion) {
                Ok(()) => return receiver.await.unwrap_or_else(|_| Err(self.abandoned())),
                Err(Refusal::NotReady) => continue,
                Err(Refusal::NotTaken(error)) => return Err(certainly_not(error)),
            }
        }
    }

    /// Why the connection is not ready, or was not a moment ago.
    pub(crate) fn why_not_ready(&self) -> Error {
        self.not_in_time(Duration::ZERO)
    }

    /// The address in use, or the first of those tried.
    pub(crate) fn address(&self) -> Arc<str> {
        self.current().map_or_else(|| self.shared.target.addresses[0].clone(), |ready| ready.address)
    }

    async fn wait(&self, patience: Duration, give_up: impl Fn(u32, &Error) -> bool) -> Result<Ready, Error> {
        let mut status = self.shared.status.subscribe();
        let settled = async {
            loop {
                match &*status.borrow_and_update() {
                    Status::Ready(ready) => return Ok(ready.clone()),
                    Status::Down { rounds, error: Some(error) } if give_up(*rounds, error) => return Err(error.clone()),
                    Status::Down { .. } => {}
                }
                status.changed().await.map_err(|_| self.abandoned().error)?;
            }
        };
        timeout(patience, settled).await.unwrap_or_else(|_| Err(self.not_in_time(patience)))
    }

    fn not_in_time(&self, patience: Duration) -> Error {
        match &*self.shared.status.borrow() {
            Status::Down { error: Some(error), .. } => error.clone(),
            _ => {
                let source = io::Error::new(io::ErrorKind::TimedOut, format!("not connected after {patience:?}"));
                Error::Connect { address: self.shared.target.addresses[0].clone(), source: Arc::new(source) }
            }
        }
    }

    /// The connection's task is gone, with the runtime it lived on.
    fn abandoned(&self) -> Failure {
        let (address, reason) = (self.address(), "the runtime it was made on has stopped".into());
        Failure { error: Error::Disconnected { address, reason }, maybe_done: true }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Connects, drives, and does it again, for ever.
async fn keep_connected(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_LONGEST);
    let mut rounds = 0;
    loop {
        for address in &shared.target.addresses {
            let (error, was_ready) = match shared.connect(address).await {
                Ok(stream) => shared.drive(stream, address).await,
                Err(error) => (error, false),
            };
            if was_ready {
                backoff.reset();
                rounds = 0;
            }
            tracing::debug!(%address, %error, "not connected");
            shared.end_link(error, rounds);
        }
        rounds += 1;
        shared.status.send_modify(|status| status.set_rounds(rounds));
        time::sleep(backoff.next()).await;
    }
}

impl Status {
    fn set_rounds(&mut self, now: u32) {
        if let Self::Down { rounds, .. } = self {
            *rounds = now;
        }
    }
}

impl Shared {
    async fn connect(&self, address: &Arc<str>) -> Result<TcpStream, Error> {
        let connecting = async {
            let stream = TcpStream::connect(&**address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let no_answer = || io::Error::new(io::ErrorKind::TimedOut, "no answer to the connection request");
        let connected = timeout(self.target.connect_timeout, connecting).await;
        connected.unwrap_or_else(|_| Err(no_answer())).map_err(|source| {
            let (address, source) = (address.clone(), Arc::new(source));
            Error::Connect { address, source }
        })
    }

    /// Uses a socket until it ends: why it did, and whether it was ever ready.
    async fn drive(&self, stream: TcpStream, address: &Arc<str>) -> (Error, bool) {
        let core = Core::new(self.target.settings.clone(), now());
        *self.link.lock() = Some(Link { address: address.clone(), core });
        let mut driver = Driver::new(self, stream, address);
        let error = driver.run().await;
        (error, driver.ready)
    }

    /// Ends the link, if there is one: nothing is submitted any more, and what it had is completed.
    fn end_link(&self, error: Error, rounds: u32) {
        // First the status: who waits for readiness must not be told of the link that just ended.
        self.status.send_replace(Status::Down { rounds, error: Some(error.clone()) });
        let link = self.link.lock().take();
        for unanswered in link.map(|link| link.core.into_unanswered()).unwrap_or_default() {
            let failure = Failure { error: error.clone(), maybe_done: unanswered.maybe_sent };
            (unanswered.tag)(Err(failure));
        }
    }
}

/// Moves bytes between one socket and its core.
struct Driver<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    address: &'a Arc<str>,
    outbox: Outbox,
    received: BytesMut,
    /// Bytes missing of the frame that `received` begins with.
    missing: usize,
    answers: Vec<(Completion, Response)>,
    ready: bool,
}

impl<'a> Driver<'a> {
    fn new(shared: &'a Shared, stream: TcpStream, address: &'a Arc<str>) -> Self {
        Self {
            shared,
            stream,
            address,
            outbox: Outbox::default(),
            received: BytesMut::new(),
            missing: 0,
            answers: Vec::new(),
            ready: false,
        }
    }

    /// Turns until the connection ends; returns why.
    async fn run(&mut self) -> Error {
        match self.turns().await {
            Ended::Socket(source) => self.disconnected(&source.to_string()),
            Ended::Core(error) => self.broken(&error),
            Ended::OtherCluster(error) => error,
        }
    }

    /// In each turn: one write of all that is queued, then wait for the socket, a request or the clock.
    async fn turns(&mut self) -> Ended {
        let alarm = sleep_until(now().into());
        tokio::pin!(alarm);
        loop {
            let wake_at = self.transmit();
            if let Err(error) = self.write() {
                return error;
            }
            // Re-arming the timer costs more than waking up too early once in a while.
            if wake_at < alarm.deadline().into_std() || alarm.is_elapsed() {
                alarm.as_mut().reset(wake_at.into());
            }
            let interest = if self.outbox.is_empty() { READ } else { READ_AND_WRITE };
            let turn = tokio::select! {
                biased;
                () = &mut alarm => with_core(self.shared, |core| core.handle_time(now())).map_err(Ended::Core),
                ready = self.stream.ready(interest) => match ready {
                    Ok(ready) if ready.is_readable() => self.read(),
                    Ok(_) => Ok(()),
                    Err(error) => Err(Ended::Socket(error)),
                },
                () = self.shared.wake.notified() => Ok(()),
            };
            if let Err(error) = turn {
                return error;
            }
        }
    }

    /// Takes over what may be sent now; returns when the core wants to be woken.
    fn transmit(&mut self) -> Instant {
        let outbox = &mut self.outbox;
        with_core(self.shared, |core| {
            if outbox.is_empty() {
                core.transmit(outbox);
            }
            core.wake_at()
        })
    }

    fn write(&mut self) -> Result<(), Ended> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        match self.stream.try_write_vectored(&self.outbox.slices()) {
            Ok(written) => self.outbox.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Ended> {
        for _ in 0..READS_PER_TURN {
            self.received.reserve(self.missing.max(READ_BYTES_MIN));
            match self.stream.try_read_buf(&mut self.received) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the broker").into()),
                Ok(_) => self.handle_received()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn handle_received(&mut self) -> Result<(), Ended> {
        let (received, answers) = (&mut self.received, &mut self.answers);
        let handled = with_core(self.shared, |core| {
            core.handle_bytes(received, answers, now()).map(|missing| (missing, core.peer()))
        });
        for (completion, response) in self.answers.drain(..) {
            completion(Ok(response));
        }
        let (missing, peer) = handled?;
        self.missing = missing;
        match peer {
            Some(peer) if !self.ready => self.become_ready(peer),
            _ => Ok(()),
        }
    }

    fn become_ready(&mut self, peer: Peer) -> Result<(), Ended> {
        let expected = *self.shared.target.cluster.get_or_init(|| peer.cluster_id);
        let (address, found) = (self.address.clone(), peer.cluster_id);
        if expected != found {
            return Err(Ended::OtherCluster(Error::OtherCluster { address, expected, found }));
        }
        self.ready = true;
        self.shared.status.send_replace(Status::Ready(Ready { peer, address }));
        Ok(())
    }

    fn broken(&self, error: &CoreError) -> Error {
        if let Some((code, reason)) = error.hello_refused() {
            Error::refused("Hello", self.address, code, reason)
        } else if error.is_protocol() {
            Error::Protocol { address: self.address.clone(), reason: error.to_string().into() }
        } else {
            self.disconnected(&error.to_string())
        }
    }

    fn disconnected(&self, reason: &str) -> Error {
        Error::Disconnected { address: self.address.clone(), reason: reason.into() }
    }
}

/// Why a connection ended.
enum Ended {
    Socket(io::Error),
    Core(CoreError),
    OtherCluster(Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<CoreError> for Ended {
    fn from(error: CoreError) -> Self {
        Self::Core(error)
    }
}

fn with_core<R>(shared: &Shared, action: impl FnOnce(&mut Core<Completion>) -> R) -> R {
    let mut link = shared.link.lock();
    action(&mut link.as_mut().expect("the link lasts as long as its driver").core)
}

/// Tokio's clock, which tests may stop.
pub(crate) fn now() -> Instant {
    time::Instant::now().into_std()
}
