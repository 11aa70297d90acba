//! TCP as a shard sees it: one task reads, another writes, and a connection can move to another shard.

use std::{io, net::SocketAddr};

/// A bound TCP port.
pub trait Listener: 'static {
    /// What it accepts.
    type Socket: Send + 'static;

    /// Waits for the next connection and its peer's address. The socket belongs to no shard until adopted.
    async fn accept(&self) -> io::Result<(Self::Socket, SocketAddr)>;

    /// The bound address, with the port that was chosen for port 0.
    fn local_address(&self) -> SocketAddr;
}

/// A TCP connection with Nagle's delay off. Clones share it, so that one task can read while another writes; at
/// most one of each at a time. The last drop closes it.
pub trait Stream: Clone + 'static {
    /// What it becomes on its way to another shard.
    type Socket: Send + 'static;

    /// Reads what is there into `buffer`, waiting for at least one byte; 0 means that the peer closed.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`.
    async fn write_all(&self, bytes: &[u8]) -> io::Result<()>;

    /// Ends both directions; a pending read or write of a clone returns.
    fn shutdown(&self);

    /// The peer's address.
    fn peer_address(&self) -> SocketAddr;

    /// Takes the connection off this shard. No read or write may be under way, and bytes already read are the
    /// caller's to carry along.
    fn detach(self) -> io::Result<Self::Socket>;
}
