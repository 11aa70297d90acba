//! What a shard holds of the network: listeners, connections, and sockets on their way between shards.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use bytes::Bytes;

use super::{EndId, Network, connection::Segment};
use crate::{net, sim::NodeId};

/// One transfer in so many is cut short, so that nobody relies on whole ones.
const PARTIAL_ONE_IN: u64 = 4;

/// A bound port of a simulated node.
pub struct Listener {
    network: Rc<Network>,
    node: NodeId,
    address: SocketAddr,
}

impl Listener {
    pub(super) fn new(network: Rc<Network>, node: NodeId, address: SocketAddr) -> Self {
        Self { network, node, address }
    }
}

impl net::Listener for Listener {
    type Socket = Socket;

    async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (end, peer) = poll_fn(|context| {
            let mut state = self.network.state.borrow_mut();
            let port =
                state.listening.get_mut(&(self.node, self.address.port())).expect("bound while the listener lives");
            match port.waiting.pop_front() {
                Some(next) => Poll::Ready(next),
                None => {
                    port.acceptor = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        Ok((Socket::new(&self.network, end), peer))
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let port = self.network.state.borrow_mut().listening.remove(&(self.node, self.address.port()));
        for (end, _) in port.into_iter().flat_map(|port| port.waiting) {
            self.network.release(end);
        }
    }
}

/// A connection on its way from one shard to another; dropped on the way, it closes.
pub struct Socket {
    end: Option<EndId>,
    abandoned: Arc<Mutex<Vec<EndId>>>,
}

impl Socket {
    fn new(network: &Network, end: EndId) -> Self {
        Self { end: Some(end), abandoned: Arc::clone(&network.abandoned) }
    }

    pub(super) fn into_end(mut self) -> EndId {
        self.end.take().expect("taken once, by value")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(end);
        }
    }
}

/// A connection of a simulated shard.
#[derive(Clone)]
pub struct Stream(Rc<Handle>);

struct Handle {
    network: Rc<Network>,
    end: EndId,
    peer_address: SocketAddr,
    /// Nothing to close any more: the connection went to another shard.
    is_detached: Cell<bool>,
}

impl Stream {
    pub(super) fn new(network: Rc<Network>, end: EndId, peer_address: SocketAddr) -> Self {
        Self(Rc::new(Handle { network, end, peer_address, is_detached: Cell::new(false) }))
    }

    /// Waits until there is room for some bytes, and how many.
    async fn writable(&self) -> io::Result<usize> {
        let Handle { network, end, .. } = &*self.0;
        let buffer_bytes = network.options.borrow().buffer_bytes;
        poll_fn(|context| {
            let room = network.with(*end, |connection| connection.writable(end.end, buffer_bytes, context.waker()));
            into_poll(room)
        })
        .await
    }

    /// How many of `len` bytes one transfer moves.
    fn transfer_len(&self, len: usize) -> usize {
        let rng = &self.0.network.world.rng;
        if rng.one_in(PARTIAL_ONE_IN) { 1 + rng.below(len as u64) as usize } else { len }
    }
}

impl net::Stream for Stream {
    type Socket = Socket;

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let Handle { network, end, .. } = &*self.0;
        let len_max = self.transfer_len(buffer.len());
        poll_fn(|context| {
            let read = network.with(*end, |connection| connection.read(end.end, buffer, len_max, context.waker()));
            into_poll(read)
        })
        .await
    }

    async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.writable().await?;
            let (now, later) = rest.split_at(self.transfer_len(room.min(rest.len())));
            self.0.network.send(self.0.end, Segment::Data(Bytes::copy_from_slice(now)));
            rest = later;
        }
        Ok(())
    }

    fn shutdown(&self) {
        self.0.network.shutdown(self.0.end);
    }

    fn peer_address(&self) -> SocketAddr {
        self.0.peer_address
    }

    fn detach(self) -> io::Result<Socket> {
        assert_eq!(Rc::strong_count(&self.0), 1, "a clone of the connection to be detached is in use");
        self.0.is_detached.set(true);
        Ok(Socket::new(&self.0.network, self.0.end))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.is_detached.get() {
            self.network.release(self.end);
        }
    }
}

/// A connection that is gone was reset by a crash.
fn into_poll<T>(result: Option<Option<io::Result<T>>>) -> Poll<io::Result<T>> {
    match result {
        None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        Some(None) => Poll::Pending,
        Some(Some(result)) => Poll::Ready(result),
    }
}
