//! The owner of it all: bootstrap addresses and connections.
//!
//! One connection to any shard is kept for questions and administration, so that these never queue behind records; records
//! travel over one connection for each shard that leads a partition in use.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use wire::{
    ErrorCode,
    api::{Message, hello, topic_describe},
    frame::ResponseError,
};

use crate::{
    admin::Admin,
    connection::{self, Connection, Failure, Peer, Response, Target},
    consumer::ConsumerBuilder,
    error::Error,
    metadata::{Route, Topic},
    producer::ProducerBuilder,
    retry::Backoff,
};

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// A connection to a cluster. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// Says how a [`Client`] connects; made by [`Client::builder`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    addresses: Vec<Arc<str>>,
    client_name: String,
    connect_timeout: Duration,
    request_timeout: Duration,
    ping_after: Duration,
}

#[derive(Debug)]
pub(crate) struct Inner {
    /// To any shard, for everything but records.
    control: Connection,
    target: Target,
    request_timeout: Duration,
    /// For records, opened when first needed.
    data: Mutex<FxHashMap<Route, Arc<Connection>>>,
    /// Topics that keys were asked of, as they were last seen.
    topics: Mutex<FxHashMap<Arc<str>, Arc<Topic>>>,
}

/// Whether asking twice does more than asking once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A question: asked again until it is answered.
    Harmless,
    /// A change: asked again only while it certainly was not made.
    Harmful,
}

impl Client {
    /// Connects to a cluster with default settings. `addresses`: one or several of its brokers, `host:port`, separated by
    /// commas; the first that answers is used.
    ///
    /// # Errors
    /// The last address's error when none answers.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(addresses: impl AsRef<str>) -> Result<Self, Error> {
        Self::builder().addresses(addresses).connect().await
    }

    /// A client with other settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A producer, to be told its topic at least.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.inner.clone())
    }

    /// A consumer, to be told its topics at least.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.inner.clone())
    }

    /// Topics, offsets, counters and health.
    pub fn admin(&self) -> Admin {
        Admin::new(self.inner.clone())
    }
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            client_name: concat!("streambus-rust ", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            ping_after: Duration::from_secs(10),
        }
    }
}

impl ClientBuilder {
    /// Adds brokers, `host:port`, separated by commas. Default: `127.0.0.1:9092`.
    pub fn addresses(mut self, addresses: impl AsRef<str>) -> Self {
        let addresses = addresses.as_ref().split(',').map(str::trim).filter(|address| !address.is_empty());
        self.addresses.extend(addresses.map(Arc::from));
        self
    }

    /// What the broker's log calls this client; at most 255 bytes. Default: the crate's name and version.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }

    /// How long a TCP connection, and then its handshake, may take; more than 0. Default: 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may go without an answer, reconnects included, before it fails; more than 0. An answer that is
    /// late by this much ends the connection. Default: 30 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a broker may be silent before it is asked for its health; more than 0. Default: 10 s.
    pub fn ping_after(mut self, silence: Duration) -> Self {
        self.ping_after = silence;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// The last address's error when none answers; [`Error::InvalidSetting`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(mut self) -> Result<Client, Error> {
        self.validate()?;
        if self.addresses.is_empty() {
            self.addresses.push("127.0.0.1:9092".into());
        }
        let target = Target {
            addresses: self.addresses,
            connect_timeout: self.connect_timeout,
            settings: connection::Settings {
                client_name: self.client_name,
                shard: None,
                handshake_timeout: self.connect_timeout,
                ping_after: self.ping_after,
                ping_timeout: self.connect_timeout,
            },
            cluster: Arc::new(OnceLock::new()),
        };
        let control = Connection::open(target.clone());
        control.ready_at_once(self.connect_timeout * 2 * target.addresses.len() as u32).await?;
        let inner = Inner {
            control,
            target,
            request_timeout: self.request_timeout,
            data: Mutex::default(),
            topics: Mutex::default(),
        };
        Ok(Client { inner: Arc::new(inner) })
    }

    fn validate(&self) -> Result<(), Error> {
        let timeouts = [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("ping_after", self.ping_after),
        ];
        for (setting, timeout) in timeouts {
            if timeout.is_zero() || timeout > DURATION_MAX {
                let reason = format!("{timeout:?} is not between 1 ns and {DURATION_MAX:?}").into();
                return Err(Error::InvalidSetting { setting, reason });
            }
        }
        if self.client_name.len() > CLIENT_NAME_BYTES_MAX {
            let reason = format!("{} bytes, at most {CLIENT_NAME_BYTES_MAX} allowed", self.client_name.len()).into();
            return Err(Error::InvalidSetting { setting: "client_name", reason });
        }
        Ok(())
    }
}

/// Far beyond any use, and near enough that adding it to a time never overflows.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

const CLIENT_NAME_BYTES_MAX: usize = 255;

const _: () = assert!(CLIENT_NAME_BYTES_MAX * 2 < hello::FRAME_BYTES_MAX_BEFORE);

impl Inner {
    /// How long a request may go without an answer.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// The address that questions go to.
    pub(crate) fn address(&self) -> Arc<str> {
        self.control.address()
    }

    /// What the broker said of itself.
    pub(crate) async fn peer(&self) -> Result<Peer, Error> {
        self.control.ready(self.request_timeout).await.map(|ready| ready.peer)
    }

    /// What was kept of a topic.
    pub(crate) fn known_topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.lock().get(name).cloned()
    }

    /// Keeps what is known of a topic.
    pub(crate) fn keep_topic(&self, topic: &Arc<Topic>) {
        self.topics.lock().insert(topic.name.clone(), topic.clone());
    }

    /// Asks over the control connection, again where that is safe, and gives the answer to `read`.
    pub(crate) async fn ask<'m, M: Message<'m>, R>(
        &self,
        operation: &str,
        repeat: Repeat,
        message: &M,
        read: impl Fn(&Response) -> Result<R, ResponseError>,
    ) -> Result<R, Error> {
        self.ask_over(&self.control, operation, repeat, message, read).await
    }

    /// The same over another connection.
    pub(crate) async fn ask_over<'m, M: Message<'m>, R>(
        &self,
        connection: &Connection,
        operation: &str,
        repeat: Repeat,
        message: &M,
        read: impl Fn(&Response) -> Result<R, ResponseError>,
    ) -> Result<R, Error> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let deadline = connection::now() + self.request_timeout;
        loop {
            let left = deadline.saturating_duration_since(connection::now());
            let failure = match connection.call(message, left).await {
                Ok(response) => match read(&response) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => self.failure(operation, error),
                },
                Err(failure) => failure,
            };
            let again = failure.error.is_retriable() && (repeat == Repeat::Harmless || !failure.maybe_done);
            let pause = backoff.next();
            if !again || connection::now() + pause >= deadline {
                return Err(outcome(operation, repeat, failure));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The topic as it is.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<Topic>, Error> {
        let operation = format!("describe topic {name}");
        let names = [name];
        let request = topic_describe::Request { names: (&names).into() };
        let found = self
            .ask(&operation, Repeat::Harmless, &request, |response| {
                let response: topic_describe::Response<'_> = response.message()?;
                let topic = response.topics.iter().next();
                Ok(topic.map_or(Err(ErrorCode::Internal), |topic| Topic::from_description(&topic)))
            })
            .await?;
        match found {
            Ok(topic) => Ok(Arc::new(topic)),
            Err(ErrorCode::UnknownTopic) => Err(Error::UnknownTopic { topic: name.into() }),
            Err(code) => Err(Error::refused(operation, &self.address(), code, "")),
        }
    }

    /// The connection for the records of a partition.
    pub(crate) async fn data(&self, topic: &Topic, index: u32) -> Result<Arc<Connection>, Error> {
        let route = topic.partitions[index as usize].route;
        if let Some(connection) = self.data.lock().get(&route) {
            return Ok(connection.clone());
        }
        let control = self.control.ready(self.request_timeout).await?;
        if control.peer.node_id != route.node {
            return Err(Error::UnknownNode { topic: topic.name.clone(), partition: index, node: route.node });
        }
        let mut target = self.target.clone();
        target.addresses = vec![control.address];
        target.settings.shard = Some(route.shard);
        let mut data = self.data.lock();
        let connection = data.entry(route).or_insert_with(|| Arc::new(Connection::open(target)));
        Ok(connection.clone())
    }

    fn failure(&self, operation: &str, error: ResponseError) -> Failure {
        let address = self.address();
        match error {
            ResponseError::Refused { error, reason } => {
                let error = Error::refused(operation, &address, error, &reason);
                Failure { maybe_done: error.kind() == crate::ErrorKind::OutcomeUnknown, error }
            }
            ResponseError::Malformed(error) => {
                Failure { error: Error::Protocol { address, reason: error.to_string().into() }, maybe_done: true }
            }
        }
    }
}

/// What the caller is told: of a change that may have been made, that nobody knows.
fn outcome(operation: &str, repeat: Repeat, failure: Failure) -> Error {
    if repeat == Repeat::Harmful && failure.maybe_done {
        Error::OutcomeUnknown { operation: operation.into(), reason: failure.error.to_string().into() }
    } else {
        failure.error
    }
}
