//! The fake broker's connections: frames in, answers out, fetches on the side.

use std::{sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use wire::{
    Durability, ErrorCode, PartitionId,
    api::{
        Message, Request, Setting, delete_records, fetch, get, health, hello, hold, init_producer, list_offsets,
        loss_accept, produce, stats, topic_alter, topic_create, topic_delete, topic_describe, topic_list,
    },
    frame::{self, Decoded, Frame},
    header::RequestHeader,
    protocol::{PREFACE_BYTES, preface},
    record::Batch,
};

use super::{Fault, Shared, State};

const FRAME_BYTES_MAX: usize = 4 << 20;
const NODE: u32 = 1;

/// What becomes of a request.
enum Served {
    Answer(Vec<u8>),
    /// The connection ends.
    Cut,
    /// The answer comes from a task of its own.
    Later,
}

struct Connection {
    shared: Arc<Shared>,
    shard: Option<u16>,
    answers: mpsc::UnboundedSender<Vec<u8>>,
    /// Fetches under way; they end with the connection.
    tasks: JoinSet<()>,
}

pub async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        if !shared.state.lock().unwrap().down {
            connections.spawn(connection(stream, shared.clone()));
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let mut cut = shared.cut.subscribe();
    cut.mark_unchanged();
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut queued) = mpsc::unbounded_channel::<Vec<u8>>();
    let mut connection = Connection { shared, shard: None, answers, tasks: JoinSet::new() };
    let writing = async {
        while let Some(answer) = queued.recv().await {
            if writer.write_all(&answer).await.is_err() {
                break;
            }
        }
    };
    let reading = async {
        let mut received = BytesMut::new();
        while received.len() < PREFACE_BYTES {
            if reader.read_buf(&mut received).await.unwrap_or(0) == 0 {
                return;
            }
        }
        assert_eq!(received[..PREFACE_BYTES], preface(), "a native client");
        received.advance(PREFACE_BYTES);
        while connection.serve_received(&mut received).await {
            if reader.read_buf(&mut received).await.unwrap_or(0) == 0 {
                return;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        _ = cut.changed() => {}
    }
}

impl Connection {
    /// Serves every whole frame; whether the connection goes on.
    async fn serve_received(&mut self, received: &mut BytesMut) -> bool {
        loop {
            let (header, frame_bytes) = match Frame::<RequestHeader>::decode(received, FRAME_BYTES_MAX).unwrap() {
                Decoded::NeedMore { .. } => return true,
                Decoded::Frame(frame) => (frame.header, frame.frame_bytes()),
            };
            let body = received.split_to(frame_bytes).freeze().slice(wire::header::HEADER_BYTES..);
            let request = Request::decode(&header, &body).expect("this client sends what this crate reads");
            if self.shared.state.lock().unwrap().silent && !matches!(request, Request::Hello(_)) {
                continue;
            }
            let served = match request {
                Request::Produce(request) => self.produce(header, request, &body).await,
                Request::Fetch(request) => self.fetch(header, request),
                Request::TopicCreate(_) if self.shared.state.lock().unwrap().cut_after_create => {
                    self.answer(header, request);
                    Served::Cut
                }
                request => Served::Answer(self.answer(header, request)),
            };
            match served {
                Served::Answer(answer) => drop(self.answers.send(answer)),
                Served::Later => {}
                Served::Cut => return false,
            }
        }
    }

    async fn produce(&mut self, header: RequestHeader, request: produce::Request<'_>, body: &Bytes) -> Served {
        let (fault, pause) = {
            let mut state = self.shared.state.lock().unwrap();
            state.count("Produce");
            state.produced_over.push(self.shard);
            (state.produce_fault(), state.pause())
        };
        match fault {
            Fault::None => Served::Answer(do_produce(&self.shared, header, &request)),
            Fault::CutBefore => Served::Cut,
            Fault::CutAfter => {
                do_produce(&self.shared, header, &request);
                Served::Cut
            }
            Fault::CutThenDo => {
                let (shared, body) = (self.shared.clone(), body.clone());
                tokio::spawn(async move {
                    sleep(pause).await;
                    do_produce(&shared, header, &Message::decode(0, &body).unwrap());
                });
                Served::Cut
            }
            Fault::Busy => Served::Answer(refuse_produce(header, &request, ErrorCode::Busy)),
            Fault::NotLeader => Served::Answer(refuse_produce(header, &request, ErrorCode::NotLeader)),
            Fault::TimedOut => {
                do_produce(&self.shared, header, &request);
                Served::Answer(refuse_produce(header, &request, ErrorCode::TimedOut))
            }
            Fault::Delay => {
                sleep(pause).await;
                Served::Answer(do_produce(&self.shared, header, &request))
            }
            Fault::Garbage => Served::Answer(vec![0xa5; 64]),
        }
    }

    fn fetch(&mut self, header: RequestHeader, request: fetch::Request<'_>) -> Served {
        let (fault, pause) = {
            let mut state = self.shared.state.lock().unwrap();
            state.count("Fetch");
            (state.fetch_fault(), state.pause())
        };
        let partitions: Vec<_> = request.partitions.iter().collect();
        let (bytes_max, wait) = (request.bytes_max as usize, Duration::from_millis(request.wait_ms_max.into()));
        match fault {
            Fault::CutBefore => return Served::Cut,
            Fault::Garbage => return Served::Answer(vec![0xa5; 64]),
            Fault::NotLeader => return Served::Answer(fetched(header, &self.shared, &partitions, 0, fault)),
            _ => {}
        }
        let (shared, answers) = (self.shared.clone(), self.answers.clone());
        self.tasks.spawn(async move {
            if fault == Fault::Delay {
                sleep(pause).await;
            }
            wait_for_records(&shared, &partitions, wait).await;
            let _ = answers.send(fetched(header, &shared, &partitions, bytes_max, Fault::None));
        });
        Served::Later
    }

    fn answer(&mut self, header: RequestHeader, request: Request<'_>) -> Vec<u8> {
        let mut state = self.shared.state.lock().unwrap();
        match request {
            Request::Hello(request) => {
                state.count("Hello");
                self.shard = request.shard;
                say_hello(header, &state)
            }
            Request::Get(request) => {
                state.count("Get");
                get(header, &state, request)
            }
            Request::InitProducer(_) => {
                state.next_producer += 1;
                encode(header, &init_producer::Response { producer_id: state.next_producer, producer_epoch: 0 })
            }
            Request::ListOffsets(request) => list_offsets(header, &state, request),
            Request::TopicCreate(request) => {
                state.count("TopicCreate");
                create(header, &mut state, request)
            }
            Request::TopicDelete(request) => match state.topics.remove(request.name) {
                Some(topic) => {
                    state.logs.retain(|id, _| !topic.partitions.contains(id));
                    encode(header, &topic_delete::Response { topic: topic.id })
                }
                None => refuse(header, ErrorCode::UnknownTopic),
            },
            Request::TopicAlter(request) => match state.topics.get_mut(request.name) {
                Some(topic) => {
                    let goes = |key: &str| {
                        request
                            .unset
                            .iter()
                            .chain(request.set.iter().map(|setting| setting.key))
                            .any(|name| name == key)
                    };
                    topic.settings.retain(|(key, _)| !goes(key));
                    let owned = |setting: Setting<'_>| (setting.key.to_owned(), setting.value.to_owned());
                    topic.settings.extend(request.set.iter().map(owned));
                    encode(header, &topic_alter::Response { topic: topic.id })
                }
                None => refuse(header, ErrorCode::UnknownTopic),
            },
            Request::DeleteRecords(request) => delete_records(header, &mut state, request),
            Request::Hold(_) => {
                let logs = [hold::Log { log_id: 7, flushed_lsn: 9 }];
                encode(header, &hold::Response { logs: (&logs).into() })
            }
            // Nothing is ever damaged here.
            Request::LossAccept(_) => {
                let next_offset = loss_accept::Response::END;
                encode(
                    header,
                    &loss_accept::Response { lost: Default::default(), segments: Default::default(), next_offset },
                )
            }
            Request::TopicList(_) => list(header, &state),
            Request::TopicDescribe(request) => {
                state.count("TopicDescribe");
                describe(header, &state, request)
            }
            Request::Stats(_) => {
                let counters = [stats::Counter { name: "records_in", value: 7 }];
                encode(header, &stats::Response { counters: (&counters).into() })
            }
            Request::Health(_) => {
                state.count("Health");
                let shards = [health::Shard { shard: 0, state: health::State::Serving, reason: "" }];
                encode(header, &health::Response { state: health::State::Serving, shards: (&shards).into() })
            }
            Request::Produce(_) | Request::Fetch(_) => unreachable!("served elsewhere"),
        }
    }
}

fn encode<'m>(header: RequestHeader, message: &impl Message<'m>) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(&mut out, header.correlation, header.version, message, FRAME_BYTES_MAX).unwrap();
    out
}

fn refuse(header: RequestHeader, error: ErrorCode) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_failure(&mut out, header, error, "by the fake broker");
    out
}

fn say_hello(header: RequestHeader, state: &State) -> Vec<u8> {
    let apis: Vec<_> = hello::ApiVersions::all().collect();
    encode(
        header,
        &hello::Response {
            protocol: 1,
            cluster_id: state.cluster_id,
            node_id: NODE,
            node_epoch: 1,
            shard_count: 2,
            shard: 0,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            batch_bytes_max: state.batch_bytes_max,
            in_flight_max: 64,
            server_name: "fake",
            server_version: "0",
            apis: (&apis).into(),
        },
    )
}

fn do_produce(shared: &Shared, header: RequestHeader, request: &produce::Request<'_>) -> Vec<u8> {
    let mut state = shared.state.lock().unwrap();
    let results: Vec<_> = request.batches().map(|(id, batch)| append(&mut state, id, batch)).collect();
    drop(state);
    shared.changed.send_modify(|changed| *changed += 1);
    encode(header, &produce::Response { results: (&results).into() })
}

fn append(state: &mut State, id: PartitionId, batch: &[u8]) -> produce::BatchResult<'static> {
    let topic = state.topics.values().find(|topic| topic.partitions.contains(&id));
    let durability = topic.map_or(Durability::Durable, |topic| topic.durability);
    let too_large = batch.len() > state.batch_bytes_max as usize;
    let appended = match state.logs.get_mut(&id) {
        _ if too_large => Err(ErrorCode::TooLarge),
        Some(log) => log.append(batch),
        None => Err(ErrorCode::UnknownPartition),
    };
    produce::BatchResult {
        partition: id,
        error: appended.err().unwrap_or(ErrorCode::None),
        reason: "",
        durability,
        synced: durability == Durability::Durable,
        base_offset: appended.unwrap_or(0),
        log_start_offset: 0,
    }
}

fn refuse_produce(header: RequestHeader, request: &produce::Request<'_>, error: ErrorCode) -> Vec<u8> {
    let refused = |(partition, _)| produce::BatchResult {
        partition,
        error,
        reason: "by the fake broker",
        durability: Durability::Durable,
        synced: false,
        base_offset: 0,
        log_start_offset: 0,
    };
    let results: Vec<_> = request.batches().map(refused).collect();
    encode(header, &produce::Response { results: (&results).into() })
}

/// Waits until a partition has something to say, or the wait is over.
async fn wait_for_records(shared: &Shared, partitions: &[fetch::Position], wait: Duration) {
    let over = Instant::now() + wait;
    let mut changed = shared.changed.subscribe();
    let has_news = |position: &fetch::Position| {
        let state = shared.state.lock().unwrap();
        state.logs.get(&position.partition).is_none_or(|log| position.offset != log.next)
    };
    while !partitions.iter().any(has_news) {
        if timeout_at(over, changed.changed()).await.is_err() {
            sleep_until(over).await;
            return;
        }
    }
}

fn fetched(
    header: RequestHeader,
    shared: &Shared,
    partitions: &[fetch::Position],
    bytes_max: usize,
    fault: Fault,
) -> Vec<u8> {
    let state = shared.state.lock().unwrap();
    let (mut rows, mut tail, mut room) = (Vec::new(), Vec::new(), bytes_max);
    for position in partitions {
        let log = state.logs.get(&position.partition);
        let found = match log {
            _ if fault == Fault::NotLeader => Err(ErrorCode::NotLeader),
            None => Err(ErrorCode::UnknownPartition),
            Some(_) if room == 0 => Ok((Vec::new(), None)),
            Some(log) => log.read(position.offset, room.min(position.bytes_max as usize)),
        };
        let error = found.as_ref().err().copied().unwrap_or(ErrorCode::None);
        let (batches, lost) = found.unwrap_or_default();
        let batch_bytes: usize = batches.iter().map(Bytes::len).sum();
        room = room.saturating_sub(batch_bytes);
        batches.iter().for_each(|batch| tail.extend_from_slice(batch));
        rows.push(fetch::PartitionRow {
            partition: position.partition,
            error,
            reason: "",
            log_start_offset: log.map_or(0, |log| log.start),
            high_watermark: log.map_or(0, |log| log.next),
            log_end_offset: log.map_or(0, |log| log.next),
            lost,
            batch_bytes: batch_bytes as u32,
        });
    }
    let mut answer = encode(header, &fetch::ResponseHead { partitions: (&rows).into() });
    answer.extend_from_slice(&tail);
    answer
}

fn list_offsets(header: RequestHeader, state: &State, request: list_offsets::Request<'_>) -> Vec<u8> {
    let found = |query: list_offsets::Query| {
        let log = state.logs.get(&query.partition);
        let offset = log.map_or(0, |log| match query.at {
            list_offsets::At::Earliest => log.start,
            list_offsets::At::Latest => log.next,
            list_offsets::At::Timestamp(timestamp_ms) => log.at(timestamp_ms),
        });
        let error = if log.is_some() { ErrorCode::None } else { ErrorCode::UnknownPartition };
        list_offsets::Found { partition: query.partition, error, reason: "", offset, timestamp_ms: -1 }
    };
    let rows: Vec<_> = request.partitions.iter().map(found).collect();
    encode(header, &list_offsets::Response { partitions: (&rows).into() })
}

fn get(header: RequestHeader, state: &State, request: get::Request<'_>) -> Vec<u8> {
    let Some(log) = state.logs.get(&request.partition) else {
        return refuse(header, ErrorCode::UnknownPartition);
    };
    let compacted = |topic: &super::Topic| topic.settings.iter().any(|(name, _)| name == "cleanup.policy");
    if !state.topics.values().any(|topic| topic.partitions.contains(&request.partition) && compacted(topic)) {
        return refuse(header, ErrorCode::NotCompacted);
    }
    let mut buffer = Vec::new();
    for placed in log.batches.iter().rev() {
        let batch = Batch::parse_one(&placed.bytes).unwrap();
        let records = batch.records_decompressed(1 << 20, &mut buffer).unwrap().map(Result::unwrap);
        let Some(last) = records.filter(|record| record.key == Some(request.key)).last() else { continue };
        let headers: Vec<_> = last.headers.map(|header| get::Header { key: header.key, value: header.value }).collect();
        let (offset, timestamp_ms) = (last.offset, last.timestamp_ms);
        let found = last.value.map(|value| get::Found { offset, timestamp_ms, value, headers: (&headers).into() });
        return encode(header, &get::Response { found });
    }
    encode(header, &get::Response { found: None })
}

fn delete_records(header: RequestHeader, state: &mut State, request: delete_records::Request<'_>) -> Vec<u8> {
    let deleted = |before: delete_records::Before| {
        let log = state.logs.get_mut(&before.partition).expect("this client asks for partitions that it was told of");
        let offset = before.offset.unwrap_or(log.next);
        let error = if offset > log.next { ErrorCode::OffsetOutOfRange } else { ErrorCode::None };
        if !error.is_error() {
            log.start = log.start.max(offset);
        }
        let log_start_offset = if error.is_error() { 0 } else { log.start };
        delete_records::Deleted { partition: before.partition, error, reason: "", log_start_offset }
    };
    let rows: Vec<_> = request.partitions.iter().map(deleted).collect();
    encode(header, &delete_records::Response { partitions: (&rows).into() })
}

fn create(header: RequestHeader, state: &mut State, request: topic_create::Request<'_>) -> Vec<u8> {
    if state.topics.contains_key(request.name) {
        return refuse(header, ErrorCode::TopicExists);
    }
    let settings = request.settings.iter().map(|setting| (setting.key.to_owned(), setting.value.to_owned()));
    let topic = state.create(request.name, request.partition_count, settings.collect());
    encode(header, &topic_create::Response { topic, partitions: Default::default() })
}

fn list(header: RequestHeader, state: &State) -> Vec<u8> {
    let row = |(name, topic)| {
        let topic: &super::Topic = topic;
        topic_list::Topic {
            name,
            topic: topic.id,
            partition_count: topic.partitions.len() as u32,
            durability: topic.durability,
        }
    };
    let topics: Vec<_> = state.topics.iter().map(|(name, topic)| row((name.as_str(), topic))).collect();
    encode(header, &topic_list::Response { topics: (&topics).into() })
}

fn describe(header: RequestHeader, state: &State, request: topic_describe::Request<'_>) -> Vec<u8> {
    let name = request.names.iter().next().expect("this client names a topic");
    let Some(topic) = state.topics.get(name) else {
        let unknown = topic_describe::Topic {
            name,
            error: ErrorCode::UnknownTopic,
            topic: wire::TopicId(0),
            durability: Durability::Durable,
            settings: Default::default(),
            partitions: Default::default(),
        };
        return encode(header, &topic_describe::Response { topics: (&[unknown]).into() });
    };
    let partition = |(index, &partition): (u32, &PartitionId)| topic_describe::Partition {
        index,
        partition,
        error: ErrorCode::None,
        leader_node: NODE,
        leader_epoch: 1,
        shard: (index % 2) as u16,
        log_start_offset: state.logs[&partition].start,
        high_watermark: state.logs[&partition].next,
        log_end_offset: state.logs[&partition].next,
        refused_from: 0,
        damaged_from: u64::MAX,
    };
    let partitions: Vec<_> = (0..).zip(&topic.partitions).map(partition).collect();
    let settings: Vec<_> = topic.settings.iter().map(|(key, value)| Setting { key, value }).collect();
    let described = topic_describe::Topic {
        name,
        error: ErrorCode::None,
        topic: topic.id,
        durability: topic.durability,
        settings: (&settings).into(),
        partitions: (&partitions).into(),
    };
    encode(header, &topic_describe::Response { topics: (&[described]).into() })
}
