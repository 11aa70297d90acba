//! A simulated network: every node has an address of its own, and TCP connections run between them.
//!
//! A connection is two pipes. Bytes in a pipe arrive in order, after a random delay each, so that order holds within a
//! connection and nowhere else. A pipe holds a bounded number of unread bytes; then the writer waits. Where the way from
//! one node to another is *cut*, what is sent that way waits until it is healed, as retransmission would have it; so
//! a lost packet is a late one. Cuts have a direction. A node that crashes resets its connections: peers lose what
//! they had not read.
//!
//! Not modelled: acknowledgements (a pipe works as long as its own direction is up) and the host that stays silent
//! after a crash (the reset stands for its restart).

mod connection;
mod cuts;
mod delivery;
mod stream;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    io, mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::Waker,
    time::Duration,
};

pub use stream::{Listener, Socket, Stream};

use self::connection::{Connection, Segment};
use super::{NodeId, world::World};

/// How a network behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time from one node to another in nanoseconds. Default: 20 to 300 us.
    pub delay_ns: Range<u64>,
    /// Time within a node in nanoseconds. Default: 2 to 30 us.
    pub loopback_delay_ns: Range<u64>,
    /// One delivery in so many is lost at first and arrives `retransmit_ns` later; 0 for none. Default: 0.
    pub lost_one_in: u64,
    /// See `lost_one_in`. Default: 200 ms.
    pub retransmit_ns: u64,
    /// Unread bytes a connection holds in each direction before its writer waits. Default: 64 KiB.
    pub buffer_bytes: usize,
    /// Connections that wait to be accepted; more are refused. Default: 128.
    pub backlog: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            delay_ns: 20_000..300_000,
            loopback_delay_ns: 2_000..30_000,
            lost_one_in: 0,
            retransmit_ns: 200_000_000,
            buffer_bytes: 64 * 1024,
            backlog: 128,
        }
    }
}

const EPHEMERAL_PORT_MIN: u16 = 32_768;
/// A connection attempt is repeated after 1, 2, 4 … s, and given up after so many times, as by Linux.
const CONNECT_ATTEMPTS: u32 = 7;

/// All connections of a simulation.
pub struct Network {
    world: Rc<World>,
    options: RefCell<Options>,
    state: RefCell<State>,
    next_connection: Cell<u64>,
    next_port: Cell<u16>,
    /// Sockets dropped on their way from one shard to another: they are `Send`, so this is all they can hold.
    abandoned: Arc<Mutex<Vec<EndId>>>,
}

#[derive(Default)]
struct State {
    connections: BTreeMap<u64, Connection>,
    listening: BTreeMap<(NodeId, u16), Port>,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

/// A port somebody listens on.
struct Port {
    ip: IpAddr,
    waiting: VecDeque<(EndId, SocketAddr)>,
    acceptor: Option<Waker>,
}

/// One end of a connection: 0 connected, 1 accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EndId {
    connection: u64,
    end: usize,
}

impl EndId {
    fn peer(self) -> Self {
        Self { end: 1 - self.end, ..self }
    }
}

/// What nodes ask for.
impl Network {
    pub(super) fn new(world: Rc<World>, options: Options) -> Self {
        Self {
            world,
            options: RefCell::new(options),
            state: RefCell::default(),
            next_connection: Cell::new(0),
            next_port: Cell::new(EPHEMERAL_PORT_MIN),
            abandoned: Arc::default(),
        }
    }

    pub(super) fn listen(self: &Rc<Self>, node: NodeId, address: SocketAddr) -> io::Result<Listener> {
        let ip = address.ip();
        if !(ip == node.ip() || ip.is_loopback() || ip.is_unspecified()) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut state = self.state.borrow_mut();
        let port = match address.port() {
            0 => self.free_port(node, &state),
            port if state.listening.contains_key(&(node, port)) => return Err(io::ErrorKind::AddrInUse.into()),
            port => port,
        };
        state.listening.insert((node, port), Port { ip, waiting: VecDeque::new(), acceptor: None });
        Ok(Listener::new(Rc::clone(self), node, SocketAddr::new(ip, port)))
    }

    pub(super) async fn connect(self: &Rc<Self>, node: NodeId, address: SocketAddr) -> io::Result<Stream> {
        let peer = if address.ip().is_loopback() { node } else { NodeId::of_ip(address.ip())? };
        self.travel(node, peer).await?;
        let local_ip = if address.ip().is_loopback() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { node.ip() };
        let local = SocketAddr::new(local_ip, self.next_port());
        let end = self.open((node, local), (peer, address))?;
        let stream = Stream::new(Rc::clone(self), end, address);
        self.travel(peer, node).await?;
        Ok(stream)
    }

    /// # Errors
    /// `NotConnected` if the connection is gone.
    pub(super) fn adopt(self: &Rc<Self>, node: NodeId, socket: Socket) -> io::Result<Stream> {
        let end = socket.into_end();
        let found = self.with(end, |connection| (connection.way(end.end)[0], connection.peer_address(end.end)));
        let (owner, peer_address) = found.ok_or(io::ErrorKind::NotConnected)?;
        assert_eq!(owner, node, "a connection moves between the shards of one node");
        Ok(Stream::new(Rc::clone(self), end, peer_address))
    }

    /// A node stopped without warning. Its ports are free once its tasks are dropped.
    pub(super) fn crash(self: &Rc<Self>, node: NodeId) {
        let mut state = self.state.borrow_mut();
        let mut orphans = Vec::new();
        for (&connection, both) in &mut state.connections {
            let nodes = both.nodes();
            let own = (0..2).filter(|&end| nodes[end] == node);
            orphans.extend(own.filter(|&end| both.abandon(end)).map(|end| EndId { connection, end }));
        }
        drop(state);
        for orphan in orphans {
            self.send(orphan, Segment::Reset);
        }
        self.state.borrow_mut().connections.retain(|_, connection| !connection.is_released());
    }

    /// Closes the sockets that were dropped between shards.
    pub(super) fn release_abandoned(self: &Rc<Self>) {
        let abandoned = mem::take(&mut *self.abandoned.lock().unwrap_or_else(PoisonError::into_inner));
        for end in abandoned {
            self.release(end);
        }
    }

    /// Waits for a packet to get from one node to another.
    async fn travel(&self, from: NodeId, to: NodeId) -> io::Result<()> {
        for attempt in 0..CONNECT_ATTEMPTS {
            self.world.sleep(Duration::from_nanos(self.delay_ns(from, to))).await;
            if !self.is_cut(from, to) {
                return Ok(());
            }
            self.world.sleep(Duration::from_secs(1 << attempt)).await;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Makes a connection that waits to be accepted; the connecting end.
    fn open(&self, from: (NodeId, SocketAddr), to: (NodeId, SocketAddr)) -> io::Result<EndId> {
        let mut state = self.state.borrow_mut();
        let backlog = self.options.borrow().backlog;
        let port = state.listening.get_mut(&(to.0, to.1.port()));
        let port =
            port.filter(|port| (port.ip.is_unspecified() || port.ip == to.1.ip()) && port.waiting.len() < backlog);
        let port = port.ok_or(io::ErrorKind::ConnectionRefused)?;
        let connection = self.next_connection.replace(self.next_connection.get() + 1);
        let end = EndId { connection, end: 0 };
        port.waiting.push_back((end.peer(), from.1));
        if let Some(acceptor) = port.acceptor.take() {
            acceptor.wake();
        }
        state.connections.insert(connection, Connection::new(from, to));
        Ok(end)
    }

    /// Closes an end for good.
    fn release(self: &Rc<Self>, end: EndId) {
        let mut state = self.state.borrow_mut();
        let Some(connection) = state.connections.get_mut(&end.connection) else { return };
        let farewell = connection.release(end.end);
        let is_released = connection.is_released();
        if is_released {
            state.connections.remove(&end.connection);
        }
        drop(state);
        if let Some(farewell) = farewell.filter(|_| !is_released) {
            self.send(end, farewell);
        }
    }

    fn shutdown(self: &Rc<Self>, end: EndId) {
        let farewell = self.with(end, |connection| connection.shutdown(end.end)).flatten();
        if let Some(farewell) = farewell {
            self.send(end, farewell);
        }
    }

    fn with<T>(&self, end: EndId, action: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        self.state.borrow_mut().connections.get_mut(&end.connection).map(action)
    }

    fn free_port(&self, node: NodeId, state: &State) -> u16 {
        let mut ports = std::iter::repeat_with(|| self.next_port()).take(usize::from(u16::MAX - EPHEMERAL_PORT_MIN));
        ports.find(|port| !state.listening.contains_key(&(node, *port))).expect("a node has free ports")
    }

    fn next_port(&self) -> u16 {
        let port = self.next_port.get();
        self.next_port.set(port.checked_add(1).unwrap_or(EPHEMERAL_PORT_MIN));
        port
    }
}
