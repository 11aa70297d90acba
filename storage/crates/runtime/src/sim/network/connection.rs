//! One TCP connection as state: two ends, and what is on its way to each.

use std::{collections::VecDeque, io, mem, net::SocketAddr, task::Waker};

use bytes::{Buf, Bytes};

use crate::sim::NodeId;

/// What travels from one end to the other.
pub(super) enum Segment {
    Data(Bytes),
    /// Nothing more will come.
    Finish,
    /// Nothing more will come, and what was not read is lost.
    Reset,
}

impl Segment {
    pub(super) fn len(&self) -> usize {
        self.bytes().len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Data(bytes) => bytes,
            Self::Finish | Self::Reset => &[],
        }
    }
}

pub(super) struct Connection {
    ends: [End; 2],
}

struct End {
    node: NodeId,
    address: SocketAddr,
    /// On the way to this end, in order.
    in_transit: VecDeque<Segment>,
    /// How many of them would have arrived, were the way not cut.
    stalled: usize,
    /// Arrived and not read.
    readable: VecDeque<Bytes>,
    /// Bytes in `in_transit` and `readable`.
    unread: usize,
    /// What the peer did.
    peer: Peer,
    /// What the owner did.
    owner: Owner,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Open,
    Finished,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Open,
    ShutDown,
    Released,
}

impl Connection {
    pub(super) fn new(connecting: (NodeId, SocketAddr), accepting: (NodeId, SocketAddr)) -> Self {
        Self { ends: [End::new(connecting), End::new(accepting)] }
    }

    pub(super) fn nodes(&self) -> [NodeId; 2] {
        [self.ends[0].node, self.ends[1].node]
    }

    /// The nodes from and to which a segment goes that `end` sends.
    pub(super) fn way(&self, end: usize) -> [NodeId; 2] {
        [self.ends[end].node, self.ends[1 - end].node]
    }

    pub(super) fn peer_address(&self, end: usize) -> SocketAddr {
        self.ends[1 - end].address
    }

    /// Reads into `buffer`, at most `len_max` bytes of what there is; `None` if there is nothing yet.
    pub(super) fn read(
        &mut self,
        end: usize,
        buffer: &mut [u8],
        len_max: usize,
        waker: &Waker,
    ) -> Option<io::Result<usize>> {
        let own = &mut self.ends[end];
        if own.owner != Owner::Open {
            return Some(Ok(0));
        }
        let Some(front) = own.readable.front_mut() else {
            return match own.peer {
                Peer::Finished => Some(Ok(0)),
                Peer::Reset => Some(Err(io::ErrorKind::ConnectionReset.into())),
                Peer::Open => {
                    own.reader = Some(waker.clone());
                    None
                }
            };
        };
        let len = front.len().min(buffer.len()).min(len_max);
        front.copy_to_slice(&mut buffer[..len]);
        if front.is_empty() {
            own.readable.pop_front();
        }
        own.unread -= len;
        wake(&mut self.ends[1 - end].writer);
        Some(Ok(len))
    }

    /// How many bytes `end` may send now; `None` if it has to wait.
    pub(super) fn writable(&mut self, end: usize, buffer_bytes: usize, waker: &Waker) -> Option<io::Result<usize>> {
        let unread = self.ends[1 - end].unread;
        let own = &mut self.ends[end];
        if own.owner != Owner::Open {
            Some(Err(io::ErrorKind::BrokenPipe.into()))
        } else if own.peer == Peer::Reset {
            Some(Err(io::ErrorKind::ConnectionReset.into()))
        } else if unread < buffer_bytes {
            Some(Ok(buffer_bytes - unread))
        } else {
            own.writer = Some(waker.clone());
            None
        }
    }

    /// Puts a segment that `end` sends on its way, behind those before it.
    pub(super) fn send(&mut self, end: usize, segment: Segment) {
        let peer = &mut self.ends[1 - end];
        peer.unread += segment.len();
        peer.in_transit.push_back(segment);
    }

    /// The next segment on its way to `end` cannot arrive now.
    pub(super) fn stall(&mut self, end: usize) {
        self.ends[end].stalled += 1;
    }

    /// How many segments were stalled; they are not any more.
    pub(super) fn take_stalled(&mut self, end: usize) -> usize {
        mem::take(&mut self.ends[end].stalled)
    }

    /// Lets the next segment arrive; how many bytes it has.
    pub(super) fn deliver(&mut self, end: usize) -> usize {
        let own = &mut self.ends[end];
        let Some(segment) = own.in_transit.pop_front() else { return 0 };
        let len = segment.len();
        match segment {
            Segment::Data(_) if own.owner != Owner::Open || own.peer == Peer::Reset => own.unread -= len,
            Segment::Data(bytes) => own.readable.push_back(bytes),
            Segment::Finish if own.peer == Peer::Open => own.peer = Peer::Finished,
            Segment::Finish => {}
            Segment::Reset => own.reset(),
        }
        wake(&mut own.reader);
        len
    }

    /// True if data that arrives at `end` finds nobody.
    pub(super) fn refuses(&self, end: usize) -> bool {
        self.ends[end].owner != Owner::Open
    }

    /// The owner of `end` ends both directions; what the peer has to be told.
    pub(super) fn shutdown(&mut self, end: usize) -> Option<Segment> {
        let own = &mut self.ends[end];
        if own.owner != Owner::Open {
            return None;
        }
        own.owner = Owner::ShutDown;
        own.forget_readable();
        wake(&mut own.reader);
        wake(&mut own.writer);
        wake(&mut self.ends[1 - end].writer);
        Some(Segment::Finish)
    }

    /// The owner of `end` is gone; what the peer has to be told. It loses data if this end had not read all of its own.
    pub(super) fn release(&mut self, end: usize) -> Option<Segment> {
        let own = &mut self.ends[end];
        let farewell = match own.owner {
            Owner::Open if own.readable.is_empty() => Some(Segment::Finish),
            Owner::Open => Some(Segment::Reset),
            Owner::ShutDown | Owner::Released => None,
        };
        own.owner = Owner::Released;
        own.forget_readable();
        farewell
    }

    /// The owner of `end` crashed; true if the peer has yet to learn that nothing more will come.
    pub(super) fn abandon(&mut self, end: usize) -> bool {
        let own = &mut self.ends[end];
        let was_open = own.owner == Owner::Open;
        own.owner = Owner::Released;
        own.forget_readable();
        was_open
    }

    pub(super) fn is_released(&self) -> bool {
        self.ends.iter().all(|own| own.owner == Owner::Released)
    }

    /// Resets both ends at once.
    pub(super) fn reset(&mut self) {
        self.ends.iter_mut().for_each(End::reset);
    }
}

impl End {
    fn new((node, address): (NodeId, SocketAddr)) -> Self {
        Self {
            node,
            address,
            in_transit: VecDeque::new(),
            stalled: 0,
            readable: VecDeque::new(),
            unread: 0,
            peer: Peer::Open,
            owner: Owner::Open,
            reader: None,
            writer: None,
        }
    }

    fn reset(&mut self) {
        self.peer = Peer::Reset;
        self.forget_readable();
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    fn forget_readable(&mut self) {
        let readable = mem::take(&mut self.readable);
        self.unread -= readable.iter().map(Bytes::len).sum::<usize>();
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
