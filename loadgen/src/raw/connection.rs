//! A blocking socket that has said Hello, and the frames that come out of it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    ops::Range,
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
    frame: Range<usize>,
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
            let start = self.taken;
            if self.next_frame()?.is_some() {
                if self.taken < self.filled {
                    return Err(io::Error::new(ErrorKind::InvalidData, "more than one answer to a request"));
                }
                let mut input = spare.bytes;
                input.resize(input.len().max(INPUT_BYTES_FIRST), 0);
                let bytes = std::mem::replace(&mut self.input, input);
                let frame = start..self.taken;
                (self.taken, self.filled) = (0, 0);
                return Ok(Taken { bytes, frame });
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
        match Frame::<ResponseHeader>::decode(&self.bytes[self.frame.clone()], self.frame.len()) {
            Ok(Decoded::Frame(frame)) => frame.message().map_err(io::Error::other),
            _ => unreachable!("it was a whole frame when it was taken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread::JoinHandle};

    use wire::{
        TopicId,
        api::{self, health, produce, topic_delete},
        header::{HEADER_BYTES, Header as _, RequestHeader},
    };

    use super::*;

    const FRAME_BYTES_MAX: usize = 1 << 20;

    /// A server that greets, and then sends these bytes in pieces of this size.
    fn serve(bytes: Vec<u8>, piece_bytes: usize) -> (String, JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut head = [0; protocol::PREFACE_BYTES];
            stream.read_exact(&mut head)?;
            assert_eq!(head, protocol::preface());
            // Bytes left unread would cut off what is sent.
            let mut head = [0; HEADER_BYTES];
            stream.read_exact(&mut head)?;
            let (_, body_bytes) = RequestHeader::decode(&head).unwrap();
            stream.read_exact(&mut vec![0; body_bytes as usize])?;
            stream.write_all(&greeting())?;
            for piece in bytes.chunks(piece_bytes) {
                stream.write_all(piece)?;
            }
            Ok(())
        };
        (address, std::thread::spawn(server))
    }

    fn greeting() -> Vec<u8> {
        let response = hello::Response {
            protocol: protocol::PROTOCOL_VERSION,
            cluster_id: 1,
            node_id: 1,
            node_epoch: 1,
            shard_count: 1,
            shard: 0,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            batch_bytes_max: 1 << 19,
            in_flight_max: 77,
            server_name: "test",
            server_version: "0",
            apis: Default::default(),
        };
        encoded(0, &response)
    }

    fn encoded<'a>(correlation: u32, message: &impl Message<'a>) -> Vec<u8> {
        let mut out = Vec::new();
        frame::encode(&mut out, correlation, 0, message, usize::MAX).unwrap();
        out
    }

    fn deleted(correlation: u32) -> Vec<u8> {
        encoded(correlation, &topic_delete::Response { topic: TopicId(9) })
    }

    /// Opens a connection to such a server, and receives until it ends; returns what came and how it ended.
    fn correlations(bytes: Vec<u8>, piece_bytes: usize) -> (Vec<u32>, ErrorKind) {
        let (address, server) = serve(bytes, piece_bytes);
        let mut connection = Connection::open(&address, 0).unwrap();
        assert_eq!((connection.frame_bytes_max, connection.in_flight_max), (FRAME_BYTES_MAX, 77));
        let mut found = Vec::new();
        let end = loop {
            match connection.next_frame() {
                Ok(Some(frame)) => found.push(frame.header.correlation),
                Ok(None) => match connection.receive() {
                    Ok(()) => {}
                    Err(error) => break error.kind(),
                },
                Err(error) => break error.kind(),
            }
        };
        drop(connection);
        // It may have had more to say than was heard.
        let _ = server.join().unwrap();
        (found, end)
    }

    #[test]
    fn answers_are_found_however_they_are_cut() {
        let answers: Vec<u8> = (0..100).flat_map(deleted).collect();
        let expected: Vec<_> = (0..100).collect();
        for piece_bytes in [1, 7, 33, 1 << 20] {
            assert_eq!(correlations(answers.clone(), piece_bytes), (expected.clone(), ErrorKind::UnexpectedEof));
        }
    }

    #[test]
    fn an_answer_larger_than_the_buffer_is_received() {
        let reason = "x".repeat(60_000);
        let result = produce::BatchResult {
            partition: wire::PartitionId(1),
            error: wire::ErrorCode::Busy,
            reason: &reason,
            durability: wire::Durability::Durable,
            synced: false,
            base_offset: 0,
            log_start_offset: 0,
        };
        let results = vec![result; 10];
        let answer = encoded(5, &produce::Response { results: results.as_slice().into() });
        assert!(answer.len() > INPUT_BYTES_FIRST);
        assert_eq!(correlations([answer, deleted(6)].concat(), 1 << 16), (vec![5, 6], ErrorKind::UnexpectedEof));
    }

    #[test]
    fn what_is_no_frame_ends_the_connection() {
        assert_eq!(correlations(vec![0xff; 64], 64), (vec![], ErrorKind::InvalidData));
        let mut giant = deleted(1);
        giant[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(correlations(giant, 64), (vec![], ErrorKind::InvalidData));
    }

    #[test]
    fn a_request_has_one_answer() {
        let (address, server) = serve([deleted(1), deleted(2)].concat(), 1 << 20);
        let mut connection = Connection::open(&address, 0).unwrap();
        server.join().unwrap().unwrap();
        assert!(connection.wait(CONNECT_TIMEOUT).unwrap());
        assert_eq!(connection.take_frame(Taken::default()).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn an_answer_is_taken_out_whole() {
        let shards = [health::Shard { shard: 0, state: health::State::Serving, reason: "" }];
        let answer = encoded(1, &health::Response { state: health::State::Serving, shards: (&shards).into() });
        let (address, server) = serve(answer, 3);
        let mut connection = Connection::open(&address, 0).unwrap();
        let taken = connection.take_frame(Taken::default()).unwrap();
        let response: health::Response<'_> = taken.message().unwrap();
        assert_eq!(response.shards.len(), 1);
        assert!(taken.message::<api::topic_delete::Response>().is_err());
        server.join().unwrap().unwrap();
    }

    #[test]
    fn the_first_address_that_answers_is_used() {
        let (address, server) = serve(Vec::new(), 1);
        assert!(Connection::open(&format!("127.0.0.1:1, {address}"), 0).is_ok());
        server.join().unwrap().unwrap();
        let refused = Connection::open("127.0.0.1:1", 0).unwrap_err();
        assert!(refused.to_string().contains("127.0.0.1:1"), "{refused}");
        assert_eq!(Connection::open(" ,", 0).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
