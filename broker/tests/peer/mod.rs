//! A broker in this process, on the real runtime over loopback, and a blocking client for it.
#![allow(dead_code, reason = "every test file uses its part")]
#![allow(clippy::disallowed_types, reason = "a client is outside of the shards")]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use broker::{Broker, BrokerHandle, StartError};
use config::{Config, Inputs, Machine};
use wire::{
    Durability, ErrorCode, PartitionId,
    api::{Message, Setting, fetch, hello, init_producer, produce, stats, topic_create},
    codec::List,
    frame::{self, Decoded, Frame, ResponseError},
    header::ResponseHeader,
    protocol::preface,
    record::{BatchBuilder, Batches, Header, Producer},
};

/// A test that hangs ends after this.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

const FRAME_BYTES_MAX: usize = 64 << 20;

/// Starts a broker on two cores where there are two, with these settings beside.
pub(crate) fn try_start(dir: &Path, settings: &[(&str, &str)]) -> Result<BrokerHandle, StartError> {
    let cores = runtime_glommio::allowed_cores().expect("the system says which cores there are");
    let cores: Vec<usize> = cores.into_iter().take(2).collect();
    let dir = dir.to_str().expect("a temporary directory is UTF-8");
    let flags = [("dir", dir), ("listen", "127.0.0.1:0"), ("admin.listen", "127.0.0.1:0"), ("memory", "128 MiB")];
    let flags: Vec<_> = flags.iter().chain(settings).copied().collect();
    let inputs = Inputs { flags: &flags, ..Inputs::default() };
    let config = Config::load(&inputs, &Machine { cores, memory_bytes: 1 << 30 }).expect("the settings are right");
    Broker::start(&config)
}

/// Starts a broker that is expected to serve.
pub(crate) fn start(dir: &Path) -> BrokerHandle {
    try_start(dir, &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// One connection.
pub(crate) struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
    correlation: u32,
    pub(crate) shard: u16,
    pub(crate) shard_count: u16,
    pub(crate) node_epoch: u32,
    pub(crate) batch_bytes_max: usize,
}

/// A whole response frame.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) header: ResponseHeader,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The message in it.
    pub(crate) fn message<'a, M: Message<'a>>(&'a self) -> Result<M, ResponseError> {
        Frame { header: self.header, body: &self.body }.message()
    }
}

/// A record that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) offset: u64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) timestamp_ms: i64,
}

/// What a fetch of one partition gave.
#[derive(Debug)]
pub(crate) struct FetchResult {
    pub(crate) error: ErrorCode,
    pub(crate) log_start_offset: u64,
    pub(crate) high_watermark: u64,
    pub(crate) records: Vec<Fetched>,
}

impl Peer {
    /// Connects to any shard.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::connect_to(address, None).expect("the broker serves")
    }

    /// Connects and asks for a shard.
    pub(crate) fn connect_to(address: SocketAddr, shard: Option<u16>) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let (correlation, received) = (0, Vec::new());
        let mut peer =
            Self { stream, received, correlation, shard: 0, shard_count: 0, node_epoch: 0, batch_bytes_max: 0 };
        peer.send_bytes(&preface())?;
        let hello = hello::Request {
            client_name: "peer",
            client_version: "1",
            protocol_min: 1,
            protocol_max: 1,
            shard,
            auth: &[],
        };
        let response = peer.try_call(&hello, &[])?;
        let hello: hello::Response<'_> = response.message().map_err(io::Error::other)?;
        peer.shard = hello.shard;
        peer.shard_count = hello.shard_count;
        peer.node_epoch = hello.node_epoch;
        peer.batch_bytes_max = hello.batch_bytes_max as usize;
        Ok(peer)
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request, with `tail` behind its fields; its correlation.
    pub(crate) fn send<'a, M: Message<'a>>(&mut self, request: &M, tail: &[u8]) -> io::Result<u32> {
        self.correlation += 1;
        let mut out = Vec::new();
        frame::encode(&mut out, self.correlation, 0, request, FRAME_BYTES_MAX).expect("a request fits");
        out.extend_from_slice(tail);
        self.stream.write_all(&out)?;
        Ok(self.correlation)
    }

    /// The next response.
    pub(crate) fn receive(&mut self) -> io::Result<Response> {
        loop {
            let decoded = Frame::<ResponseHeader>::decode(&self.received, FRAME_BYTES_MAX).map_err(io::Error::other)?;
            if let Decoded::Frame(frame) = decoded {
                let response = Response { header: frame.header, body: frame.body.to_vec() };
                let frame_bytes = frame.frame_bytes();
                self.received.drain(..frame_bytes);
                return Ok(response);
            }
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.received.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn try_call<'a, M: Message<'a>>(&mut self, request: &M, tail: &[u8]) -> io::Result<Response> {
        let correlation = self.send(request, tail)?;
        let response = self.receive()?;
        assert_eq!(response.header.correlation, correlation, "one request at a time");
        Ok(response)
    }

    /// Sends a request and waits for its response.
    pub(crate) fn call<'a, M: Message<'a>>(&mut self, request: &M) -> Response {
        self.try_call(request, &[]).expect("the broker answers")
    }

    /// Creates a topic; the partitions and their shards.
    pub(crate) fn create_topic(
        &mut self,
        name: &str,
        partition_count: u32,
        durability: Durability,
    ) -> Vec<(PartitionId, u16)> {
        let settings = [Setting { key: Durability::SETTING, value: durability.name() }];
        let request = topic_create::Request { name, partition_count, settings: List::from(&settings) };
        let response = self.call(&request);
        let created: topic_create::Response<'_> = response.message().expect("the name is free");
        created.partitions.iter().map(|placed| (placed.partition, placed.shard)).collect()
    }

    /// One of the node's counters.
    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let response = self.call(&stats::Request);
        let counters: stats::Response<'_> = response.message().expect("they are told");
        counters.counters.iter().find(|counter| counter.name == name).expect("it is counted").value
    }

    pub(crate) fn producer_id(&mut self) -> i64 {
        self.call(&init_producer::Request).message::<init_producer::Response>().expect("there are ids").producer_id
    }

    /// Sends batches without waiting.
    pub(crate) fn send_produce(&mut self, batches: &[(PartitionId, &[u8])]) -> io::Result<u32> {
        let row = |(partition, batch): &(PartitionId, &[u8])| produce::BatchRow {
            partition: *partition,
            batch_bytes: batch.len() as u32,
        };
        let rows: Vec<_> = batches.iter().map(row).collect();
        let head = produce::RequestHead { timeout_ms: 0, batches: List::from(&rows) };
        let tail: Vec<u8> = batches.iter().flat_map(|(_, batch)| batch.iter().copied()).collect();
        self.send(&head, &tail)
    }

    /// Sends batches and waits; for each its offset or error.
    pub(crate) fn produce(&mut self, batches: &[(PartitionId, &[u8])]) -> Vec<Result<u64, ErrorCode>> {
        let correlation = self.send_produce(batches).expect("the broker reads");
        let response = self.receive().expect("the broker answers");
        assert_eq!(response.header.correlation, correlation);
        outcomes(&response)
    }

    /// Sends one batch and waits.
    pub(crate) fn produce_one(&mut self, partition: PartitionId, batch: &[u8]) -> Result<u64, ErrorCode> {
        self.produce(&[(partition, batch)])[0]
    }

    /// Fetches a partition.
    pub(crate) fn fetch(&mut self, partition: PartitionId, offset: u64, wait_ms_max: u32) -> FetchResult {
        self.fetch_all(&[(partition, offset)], wait_ms_max, 1 << 20).remove(0)
    }

    /// Fetches several partitions.
    pub(crate) fn fetch_all(
        &mut self,
        positions: &[(PartitionId, u64)],
        wait_ms_max: u32,
        bytes_max: u32,
    ) -> Vec<FetchResult> {
        let row = |&(partition, offset): &(PartitionId, u64)| fetch::Position { partition, offset, bytes_max };
        let rows: Vec<_> = positions.iter().map(row).collect();
        let response =
            self.call(&fetch::Request { wait_ms_max, bytes_min: 1, bytes_max, partitions: List::from(&rows) });
        let response: fetch::Response<'_> = response.message().expect("fetches are not refused as a whole");
        let results = response.partitions().zip(positions).map(|((row, batches), (_, offset))| FetchResult {
            error: row.error,
            log_start_offset: row.log_start_offset,
            high_watermark: row.high_watermark,
            records: records(batches, *offset),
        });
        results.collect()
    }

    /// Reads a partition from `offset` to its end.
    pub(crate) fn read_to_end(&mut self, partition: PartitionId, mut offset: u64) -> Vec<Fetched> {
        let mut records = Vec::new();
        loop {
            let fetched = self.fetch(partition, offset, 0);
            assert_eq!(fetched.error, ErrorCode::None);
            let Some(last) = fetched.records.last() else { return records };
            offset = last.offset + 1;
            records.extend(fetched.records);
        }
    }
}

/// The outcomes of a produce request.
pub(crate) fn outcomes(response: &Response) -> Vec<Result<u64, ErrorCode>> {
    let response: produce::Response<'_> = response.message().expect("produce is not refused as a whole");
    let outcome = |row: produce::BatchResult<'_>| match row.error {
        ErrorCode::None => Ok(row.base_offset),
        error => Err(error),
    };
    response.results.iter().map(outcome).collect()
}

/// A batch of these values.
pub(crate) fn batch(values: &[&[u8]]) -> Vec<u8> {
    batch_of(Producer::NONE, values)
}

/// A batch of these values by a producer.
pub(crate) fn batch_of(producer: Producer, values: &[&[u8]]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(32 << 20);
    for (place, value) in values.iter().enumerate() {
        let header = Header { key: b"place", value: None };
        builder.append(1_000 + place as i64, Some(b"key"), Some(value), &[header]).expect("it fits");
    }
    builder.build(producer).to_vec()
}

fn records(batches: &[u8], from: u64) -> Vec<Fetched> {
    let mut records = Vec::new();
    for batch in Batches::new(batches) {
        let batch = batch.expect("batches come whole");
        batch.verify_stored().expect("the producer's CRC holds");
        for record in batch.records().expect("they are not compressed") {
            let record = record.expect("records are whole");
            if record.offset >= from {
                records.push(Fetched {
                    offset: record.offset,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    timestamp_ms: record.timestamp_ms,
                });
            }
        }
    }
    records
}
