//! A blocking socket that has said Hello, and the frames that come out of it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::fd::AsFd,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};
use wire::{
    api::{Message, hello},
    frame::{self, Decoded, Frame},
    header::ResponseHeader,
    protocol,
};

/// How long to wait for a connection and for its Hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may go without an answer. A broker holds none back for longer than this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const INPUT_BYTES_FIRST: usize = 256 * 1024;

/// A connection, and the bytes received that were not yet taken.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    /// The largest frame either side sends.
    pub(super) frame_bytes_max: usize,
    /// The largest batch the broker takes.
    pub(super) batch_bytes_max: usize,
    /// Requests that the broker reads before it has answered the first.
    pub(super) in_flight_max: usize,
}

/// A response that was taken out of its connection, so that the next may be received meanwhile.
#[derive(Debug, Default)]
pub(super) struct Taken {
    bytes: Vec<u8>,
    frame_bytes: usize,
}

impl Connection {
    /// Connects to the first of several addresses that answers, and asks for the shard to serve it.
    pub(super) fn open(addresses: &str, shard: u16) -> io::Result<Self> {
        let mut last = io::Error::new(ErrorKind::InvalidInput, "no address given");
        for address in addresses.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            match Self::open_one(address, shard) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
            }
        }
        Err(last)
    }

    fn open_one(address: &str, shard: u16) -> io::Result<Self> {
        let resolved = address.to_socket_addrs()?.next();
        let resolved = resolved.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the name has no address"))?;
        let stream = TcpStream::connect_timeout(&resolved, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        let mut connection = Self {
            stream,
            input: vec![0; INPUT_BYTES_FIRST],
            taken: 0,
            filled: 0,
            frame_bytes_max: hello::FRAME_BYTES_MAX_BEFORE,
            batch_bytes_max: 0,
            in_flight_max: 1,
        };
        connection.say_hello(shard)?;
        connection.stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        connection.stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(connection)
    }

    fn say_hello(&mut self, shard: u16) -> io::Result<()> {
        let mut out = protocol::preface().to_vec();
        let request = hello::Request {
            client_name: "loadgen --raw",
            client_version: env!("CARGO_PKG_VERSION"),
            protocol_min: protocol::PROTOCOL_VERSION,
            protocol_max: protocol::PROTOCOL_VERSION,
            shard: Some(shard),
            auth: &[],
        };
        frame::encode(&mut out, 0, 0, &request, hello::FRAME_BYTES_MAX_BEFORE).map_err(io::Error::other)?;
        self.send(&out)?;
        loop {
            if let Some(frame) = self.next_frame()? {
                let answer: hello::Response<'_> = frame.message().map_err(io::Error::other)?;
                let (frames, batches) = (answer.frame_bytes_max as usize, answer.batch_bytes_max as usize);
                let in_flight_max = answer.in_flight_max as usize;
                (self.frame_bytes_max, self.batch_bytes_max, self.in_flight_max) = (frames, batches, in_flight_max);
                return Ok(());
            }
            self.receive()?;
        }
    }

    /// Sends bytes, all of them.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for bytes, at most this long; whether there are any.
    pub(super) fn wait(&self, at_most: Duration) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), PollFlags::IN)];
        Ok(poll(&mut fds, Some(&timeout))? > 0)
    }

    /// Receives what there is, and waits for it.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        } else if self.filled == self.input.len() {
            self.make_room();
        }
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(received) => {
                self.filled += received;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next response, if all of it was received.
    pub(super) fn next_frame(&mut self) -> io::Result<Option<Frame<'_, ResponseHeader>>> {
        match Frame::decode(&self.input[self.taken..self.filled], self.frame_bytes_max) {
            Ok(Decoded::Frame(frame)) => {
                self.taken += frame.frame_bytes();
                Ok(Some(frame))
            }
            Ok(Decoded::NeedMore { .. }) => Ok(None),
            Err(corrupt) => Err(io::Error::new(ErrorKind::InvalidData, corrupt)),
        }
    }

    /// Waits for the one response under way and takes it out, in exchange for a buffer to receive the next one into.
    pub(super) fn take_frame(&mut self, spare: Taken) -> io::Result<Taken> {
        loop {
            let before = self.taken;
            if self.next_frame()?.is_some() {
                if before > 0 || self.taken < self.filled {
                    return Err(io::Error::new(ErrorKind::InvalidData, "more than one answer to a request"));
                }
                let mut input = spare.bytes;
                input.resize(input.len().max(INPUT_BYTES_FIRST), 0);
                let bytes = std::mem::replace(&mut self.input, input);
                let frame_bytes = std::mem::take(&mut self.taken);
                self.filled = 0;
                return Ok(Taken { bytes, frame_bytes });
            }
            self.receive()?;
        }
    }

    /// Moves what was not yet taken to the front, or doubles the buffer; a frame that fits no buffer was refused before.
    fn make_room(&mut self) {
        if self.taken > 0 {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
        } else {
            let doubled = (2 * self.input.len()).min(self.frame_bytes_max);
            self.input.resize(doubled.max(self.input.len()), 0);
        }
    }
}

impl Taken {
    /// The response.
    pub(super) fn message<'a, M: Message<'a>>(&'a self) -> io::Result<M> {
        match Frame::<ResponseHeader>::decode(&self.bytes[..self.frame_bytes], self.frame_bytes) {
            Ok(Decoded::Frame(frame)) => frame.message().map_err(io::Error::other),
            _ => unreachable!("it was a whole frame when it was taken"),
        }
    }
}
