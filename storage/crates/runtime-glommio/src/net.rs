//! TCP: connections on glommio, listening on a thread of its own.
//!
//! glommio's accepted socket is a bare number that leaks when a message or a future is dropped, its listeners share
//! their port with a second broker without a word, and polling a pending accept wears it out. A thread that blocks in
//! `accept` has none of this and costs nothing while no one connects.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Waker},
    thread,
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncWrite};

use crate::{file::os_error, runtime::Shard, task};

/// Connections the kernel completes while no one accepts; it may cap this (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// Connections accepted ahead of the shard.
const ACCEPTED_MAX: usize = 64;
/// Pause after a failed accept, which is most often the lack of descriptors.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// A bound TCP port. Dropping it closes the port and every connection not yet taken.
pub struct Listener {
    port: Arc<Port>,
    address: SocketAddr,
    accepted: flume::Receiver<io::Result<(Socket, SocketAddr)>>,
}

struct Port {
    listener: TcpListener,
    closed: AtomicBool,
}

/// A TCP connection that belongs to no shard. Dropping it closes the connection.
pub struct Socket(OwnedFd);

/// A TCP connection of this shard.
#[derive(Clone)]
pub struct Stream {
    connection: Rc<Connection>,
}

struct Connection {
    /// Borrowed within a poll only. glommio keeps a waker for each direction.
    tcp: RefCell<glommio::net::TcpStream>,
    peer: SocketAddr,
    shard: Rc<Shard>,
}

impl Listener {
    /// Binds `address` and starts the thread that accepts, which first calls `unpin`.
    pub(crate) fn bind(address: SocketAddr, unpin: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        // The standard library sets SO_REUSEADDR and never SO_REUSEPORT.
        let listener = TcpListener::bind(address)?;
        rustix::net::listen(&listener, BACKLOG)?;
        let address = listener.local_addr()?;
        let port = Arc::new(Port { listener, closed: AtomicBool::new(false) });
        let (sender, accepted) = flume::bounded(ACCEPTED_MAX);
        let accepting = Arc::clone(&port);
        thread::Builder::new().name("acceptor".into()).spawn(move || {
            unpin();
            accepting.accept_into(&sender);
        })?;
        Ok(Self { port, address, accepted })
    }
}

impl ::runtime::Listener for Listener {
    type Socket = Socket;

    async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        self.accepted.recv_async().await.expect("the acceptor outlives its listener")
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.port.closed.store(true, Relaxed);
        // Wakes the thread out of `accept`, on Linux.
        let _ = rustix::net::shutdown(&self.port.listener, rustix::net::Shutdown::Both);
    }
}

impl Port {
    fn accept_into(&self, accepted: &flume::Sender<io::Result<(Socket, SocketAddr)>>) {
        loop {
            let next = self.listener.accept();
            if self.closed.load(Relaxed) {
                return;
            }
            let failed = next.is_err();
            let next = next.map(|(stream, peer)| (Socket(stream.into()), peer));
            if accepted.send(next).is_err() {
                return;
            }
            if failed {
                thread::sleep(RETRY_AFTER);
            }
        }
    }
}

impl Stream {
    pub(crate) async fn connect(shard: &Rc<Shard>, address: SocketAddr) -> io::Result<Self> {
        let tcp = task::at_once(glommio::net::TcpStream::connect(address)).await.map_err(os_error)?;
        Self::new(shard, tcp)
    }

    pub(crate) fn adopt(shard: &Rc<Shard>, socket: Socket) -> io::Result<Self> {
        // SAFETY: the descriptor is open, a TCP connection's, and its ownership moves to the stream.
        let tcp = unsafe { glommio::net::TcpStream::from_raw_fd(socket.0.into_raw_fd()) };
        Self::new(shard, tcp)
    }

    fn new(shard: &Rc<Shard>, tcp: glommio::net::TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true).map_err(os_error)?;
        let peer = tcp.peer_addr().map_err(os_error)?;
        let connection = Connection { tcp: RefCell::new(tcp), peer, shard: Rc::clone(shard) };
        Ok(Self { connection: Rc::new(connection) })
    }
}

impl ::runtime::Stream for Stream {
    type Socket = Socket;

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Connection { tcp, shard, .. } = &*self.connection;
        let read = poll_fn(|context| Pin::new(&mut *tcp.borrow_mut()).poll_read(context, buffer)).await;
        shard.progress.step();
        read
    }

    async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let Connection { tcp, shard, .. } = &*self.connection;
        let mut left = bytes;
        while !left.is_empty() {
            let written = poll_fn(|context| Pin::new(&mut *tcp.borrow_mut()).poll_write(context, left)).await?;
            left = &left[written..];
            shard.progress.step();
        }
        Ok(())
    }

    fn shutdown(&self) {
        let tcp = self.connection.tcp.borrow();
        // An error says that the connection has ended already. The future is ready at once: it is one system call.
        let _ = pin!(tcp.shutdown(Shutdown::Both)).poll(&mut Context::from_waker(Waker::noop()));
    }

    fn peer_address(&self) -> SocketAddr {
        self.connection.peer
    }

    fn detach(self) -> io::Result<Socket> {
        let tcp = self.connection.tcp.borrow();
        // SAFETY: the descriptor stays open for as long as `tcp` is borrowed.
        let descriptor = unsafe { BorrowedFd::borrow_raw(tcp.as_raw_fd()) };
        descriptor.try_clone_to_owned().map(Socket)
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(stream.into())
    }
}
