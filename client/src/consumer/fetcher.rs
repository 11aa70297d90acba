//! What to fetch next, and what the answers mean: the consumer without its sockets, tasks and clock.
//!
//! Each partition is asked for at most once at a time, from the offset behind all that was received, and again as soon as the
//! answer is there: the next batches travel while these are read. All partitions of a connection that may be asked for go
//! into one long poll.
//!
//! The hard idea is the life of a partition: a seek begins a new one, and an answer to a question of an older life is dropped.
//! So nobody waits for an answer that is under way, and none comes out of the wrong place.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use wire::{
    ErrorCode, PartitionId,
    api::fetch::{Lost, Position},
    record::Batches,
};

use crate::{error::Error, retry::Backoff, routes::RouteIndex};

/// Long polls of a connection under way; partitions that come later wait for the first to end.
const FETCHES_IN_FLIGHT_MAX: usize = 8;

/// The buffer is full when it has less room than this.
const FETCH_BYTES_MIN: usize = 64 * 1024;

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// What to do when the offset to be read is not, or no longer, in the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OutOfRange {
    /// The partition stops with [`Error::OffsetOutOfRange`], until it is sought elsewhere.
    #[default]
    Stop,
    /// Go on with the first record there is; a warning is logged.
    Earliest,
    /// Go on with the next record to come; a warning is logged.
    Latest,
}

/// What to do when offsets are missing that nobody declared lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Gaps {
    /// Tell once with [`Error::Gap`], then go on.
    #[default]
    Report,
    /// Go on: as in a compacted topic, where they are in order.
    Accept,
}

/// What bounds a consumer.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Bytes of one answer.
    pub(crate) fetch_bytes_max: usize,
    /// Bytes received and not yet read, and asked for.
    pub(crate) buffer_bytes_max: usize,
    pub(crate) out_of_range: OutOfRange,
    pub(crate) gaps: Gaps,
}

/// A partition to read.
#[derive(Debug, Clone)]
pub(crate) struct Assigned {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: u32,
    pub(crate) id: PartitionId,
    pub(crate) route: RouteIndex,
    pub(crate) offset: u64,
}

/// A fetch request to be sent.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) ticket: Ticket,
    pub(crate) bytes_max: u32,
    pub(crate) positions: Vec<Position>,
}

/// What a fetch request asked: by this its answer is understood.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) route: RouteIndex,
    /// The partitions asked for, in order, each with its life.
    partitions: Vec<(usize, u32)>,
    reserved_bytes: usize,
}

impl Ticket {
    /// How many partitions it asks for.
    pub(crate) fn partition_count(&self) -> usize {
        self.partitions.len()
    }
}

/// What a partition answered.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) code: ErrorCode,
    /// The refusal, where the code is one.
    pub(crate) error: Option<Error>,
    pub(crate) log_start_offset: u64,
    pub(crate) high_watermark: u64,
    pub(crate) lost: Option<Lost>,
    pub(crate) batches: Bytes,
}

/// What a partition has for its reader.
#[derive(Debug)]
pub(crate) enum Item {
    /// Whole batches without a gap, of which records from `from` on are wanted.
    Run { bytes: Bytes, from: u64 },
    /// Something to be told once.
    Notice(Error),
}

/// What is known of the partitions of one consumer.
#[derive(Debug)]
pub(crate) struct Fetcher {
    limits: Limits,
    partitions: Vec<Partition>,
    routes: Vec<Route>,
    /// Partitions with items, in turn.
    ready: VecDeque<usize>,
    /// Bytes in items and reserved for answers.
    buffered_bytes: usize,
    paused: BTreeSet<(Instant, usize)>,
    /// Topics of partitions that a broker did not know or lead.
    metadata_wanted: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Partition {
    topic: Arc<str>,
    partition: u32,
    id: PartitionId,
    route: RouteIndex,
    /// The offset to ask for next.
    offset: u64,
    life: u32,
    state: State,
    items: VecDeque<Item>,
    item_bytes: usize,
    high_watermark: Option<u64>,
    backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked for when there is room.
    Idle,
    /// In its route's list.
    Listed,
    /// In a request under way.
    Asked,
    /// Asked again from then on.
    Paused(Instant),
    /// Not asked for until it is sought elsewhere.
    Stopped,
}

#[derive(Debug, Default)]
struct Route {
    connected: bool,
    in_flight: usize,
    listed: VecDeque<usize>,
}

impl Fetcher {
    /// Reads these partitions from these offsets on. Every route is taken for connected.
    pub(crate) fn new(limits: Limits, assigned: Vec<Assigned>) -> Self {
        let mut fetcher = Self {
            limits,
            partitions: assigned.into_iter().map(Partition::new).collect(),
            routes: Vec::new(),
            ready: VecDeque::new(),
            buffered_bytes: 0,
            paused: BTreeSet::new(),
            metadata_wanted: BTreeSet::new(),
        };
        for index in 0..fetcher.partitions.len() {
            fetcher.touch(index);
        }
        fetcher
    }

    /// The next request that may be sent now.
    pub(crate) fn poll_question(&mut self) -> Option<Question> {
        let room = self.room();
        if room < FETCH_BYTES_MIN.min(self.limits.fetch_bytes_max) {
            return None;
        }
        let askable =
            |route: &Route| route.connected && route.in_flight < FETCHES_IN_FLIGHT_MAX && !route.listed.is_empty();
        let route = self.routes.iter().position(askable)?;
        let bytes_max = room.min(self.limits.fetch_bytes_max);
        let mut question = Question {
            ticket: Ticket { route, partitions: Vec::new(), reserved_bytes: bytes_max },
            bytes_max: bytes_max as u32,
            positions: Vec::new(),
        };
        for index in std::mem::take(&mut self.routes[route].listed) {
            let partition = &mut self.partitions[index];
            // One that was moved or stopped meanwhile is listed elsewhere, or nowhere.
            if partition.state == State::Listed && partition.route == route {
                partition.state = State::Asked;
                question.ticket.partitions.push((index, partition.life));
                let (id, offset) = (partition.id, partition.offset);
                question.positions.push(Position { partition: id, offset, bytes_max: bytes_max as u32 });
            }
        }
        if question.positions.is_empty() {
            return self.poll_question();
        }
        self.buffered_bytes += bytes_max;
        self.routes[route].in_flight += 1;
        Some(question)
    }

    /// Takes the answer to a question, one row for each partition asked for, or what came in its place.
    pub(crate) fn complete(&mut self, ticket: &Ticket, answer: Result<Vec<Row>, Error>, now: Instant) {
        self.routes[ticket.route].in_flight -= 1;
        self.buffered_bytes -= ticket.reserved_bytes;
        let mut rows = answer.map(Vec::into_iter);
        for &(index, life) in &ticket.partitions {
            let row = match &mut rows {
                Ok(rows) => Ok(rows.next().expect("one row for each partition asked for")),
                Err(error) => Err(error.clone()),
            };
            if self.partitions[index].life == life {
                self.partitions[index].state = State::Idle;
                match row {
                    Ok(row) => self.judge(index, row, now),
                    Err(error) => self.retry_or_stop(index, error, now),
                }
                self.touch(index);
            }
        }
    }

    /// The next item for the reader, and whose it is: partition by partition, in turn.
    pub(crate) fn next(&mut self) -> Option<(usize, Item)> {
        let index = self.ready.pop_front()?;
        let partition = &mut self.partitions[index];
        let item = partition.items.pop_front().expect("a ready partition has items");
        partition.item_bytes -= item.bytes();
        self.buffered_bytes -= item.bytes();
        if !partition.items.is_empty() {
            self.ready.push_back(index);
        }
        self.touch(index);
        Some((index, item))
    }

    /// Whether a reader that waits has to be woken.
    pub(crate) fn has_news(&self) -> bool {
        !self.ready.is_empty() || self.all_stopped()
    }

    /// Whether nothing will ever be ready again unless a partition is sought elsewhere.
    pub(crate) fn all_stopped(&self) -> bool {
        self.ready.is_empty() && self.partitions.iter().all(|partition| partition.state == State::Stopped)
    }

    /// Begins a new life of a partition at this offset; what was received of the old one is dropped.
    pub(crate) fn seek(&mut self, index: usize, offset: u64) {
        self.end_life(index, State::Idle);
        self.partitions[index].offset = offset;
        self.touch(index);
    }

    /// Ends the life of a partition; what was received of it is dropped.
    pub(crate) fn stop(&mut self, index: usize) {
        self.end_life(index, State::Stopped);
    }

    /// The connection is gone, or there again.
    pub(crate) fn set_connected(&mut self, route: RouteIndex, connected: bool) {
        self.routes[route].connected = connected;
    }

    /// The partition is led there from now on.
    pub(crate) fn set_route(&mut self, index: usize, route: RouteIndex) {
        let partition = &mut self.partitions[index];
        if partition.route != route {
            partition.route = route;
            if partition.state == State::Listed {
                partition.state = State::Idle;
            }
            self.touch(index);
        }
    }

    /// Ends every partition of a topic with an error.
    pub(crate) fn fail_topic(&mut self, topic: &str, error: &Error) {
        for index in 0..self.partitions.len() {
            if &*self.partitions[index].topic == topic {
                self.notice(index, error.clone());
                self.partitions[index].state = State::Stopped;
                self.partitions[index].life += 1;
            }
        }
    }

    /// Time passed: pauses are over.
    pub(crate) fn handle_time(&mut self, now: Instant) {
        while let Some(&(at, index)) = self.paused.first()
            && at <= now
        {
            self.paused.pop_first();
            if self.partitions[index].state == State::Paused(at) {
                self.partitions[index].state = State::Idle;
                self.touch(index);
            }
        }
    }

    /// When [`Self::handle_time`] must be called next.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.paused.first().map(|&(at, _)| at)
    }

    /// Topics to be described anew, since the last call.
    pub(crate) fn take_metadata_wanted(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.metadata_wanted)
    }

    /// The high watermark of a partition when it last answered.
    pub(crate) fn high_watermark(&self, index: usize) -> Option<u64> {
        self.partitions[index].high_watermark
    }

    fn room(&self) -> usize {
        self.limits.buffer_bytes_max.saturating_sub(self.buffered_bytes)
    }

    /// Lists the partition for its next question if it has read enough of the answers.
    fn touch(&mut self, index: usize) {
        // Two answers ahead keep the network busy; more would only be colder when it is read.
        let share = (self.limits.buffer_bytes_max / self.partitions.len()).min(2 * self.limits.fetch_bytes_max);
        let partition = &mut self.partitions[index];
        if partition.state == State::Idle && (partition.items.is_empty() || partition.item_bytes < share) {
            partition.state = State::Listed;
            if self.routes.len() <= partition.route {
                self.routes.resize_with(partition.route + 1, || Route { connected: true, ..Route::default() });
            }
            self.routes[partition.route].listed.push_back(index);
        }
    }

    fn judge(&mut self, index: usize, row: Row, now: Instant) {
        match (row.code, row.error) {
            (ErrorCode::None, _) => self.receive(index, row.high_watermark, row.lost, &row.batches, now),
            (ErrorCode::OffsetOutOfRange, _) => self.out_of_range(index, row.log_start_offset, row.high_watermark),
            (code, error) => {
                if matches!(code, ErrorCode::NotLeader | ErrorCode::UnknownPartition) {
                    self.metadata_wanted.insert(self.partitions[index].topic.clone());
                    self.pause(index, now);
                } else {
                    self.retry_or_stop(index, error.expect("a refusal comes with its error"), now);
                }
            }
        }
    }

    fn receive(&mut self, index: usize, high_watermark: u64, lost: Option<Lost>, received: &Bytes, now: Instant) {
        self.partitions[index].high_watermark = Some(high_watermark);
        let before = self.partitions[index].offset;
        if let Some(Lost { from, to }) = lost
            && to > before
        {
            let (topic, partition) = self.partitions[index].name();
            self.notice(index, Error::Lost { topic, partition, from, to });
            self.partitions[index].offset = to;
        }
        self.receive_batches(index, received);
        if self.partitions[index].offset == before && !received.is_empty() {
            // Batches that lead nowhere: ask again, but not as fast as the network allows.
            self.pause(index, now);
        } else {
            self.partitions[index].backoff.reset();
        }
    }

    /// Queues the batches as runs without a gap, with a notice between them.
    fn receive_batches(&mut self, index: usize, received: &Bytes) {
        let (mut start, mut end) = (0, 0);
        let mut from = self.partitions[index].offset;
        for batch in Batches::new(received) {
            let offset = self.partitions[index].offset;
            let batch = match batch {
                Ok(batch) => batch,
                Err(source) => {
                    self.run(index, received.slice(start..end), from);
                    let (topic, partition) = self.partitions[index].name();
                    self.notice(index, Error::UnreadableBatch { topic, partition, offset, source });
                    self.partitions[index].state = State::Stopped;
                    return;
                }
            };
            let gap = batch.base_offset() > offset;
            if gap && self.limits.gaps == Gaps::Report {
                self.run(index, received.slice(start..end), from);
                (start, from) = (end, batch.base_offset());
                let (topic, partition) = self.partitions[index].name();
                self.notice(index, Error::Gap { topic, partition, from: offset, to: batch.base_offset() });
            }
            end += batch.bytes().len();
            self.partitions[index].offset = offset.max(batch.next_offset());
        }
        self.run(index, received.slice(start..end), from);
    }

    fn out_of_range(&mut self, index: usize, earliest: u64, latest: u64) {
        let (topic, partition) = self.partitions[index].name();
        let offset = self.partitions[index].offset;
        let go_on_at = match self.limits.out_of_range {
            OutOfRange::Earliest => earliest,
            OutOfRange::Latest => latest,
            OutOfRange::Stop => {
                self.notice(index, Error::OffsetOutOfRange { topic, partition, offset, earliest, latest });
                self.partitions[index].state = State::Stopped;
                return;
            }
        };
        tracing::warn!(%topic, partition, offset, go_on_at, "offset out of range");
        self.partitions[index].offset = go_on_at;
    }

    fn retry_or_stop(&mut self, index: usize, error: Error, now: Instant) {
        // What is damaged on the broker's disk stays so.
        let damaged = error.code() == Some(ErrorCode::CorruptBatch);
        let later = matches!(error, Error::Protocol { .. }) || error.code() == Some(ErrorCode::TimedOut);
        if (error.is_retriable() && !damaged) || later {
            self.pause(index, now);
        } else {
            self.notice(index, error);
            self.partitions[index].state = State::Stopped;
        }
    }

    fn pause(&mut self, index: usize, now: Instant) {
        let at = now + self.partitions[index].backoff.next();
        self.partitions[index].state = State::Paused(at);
        self.paused.insert((at, index));
    }

    fn notice(&mut self, index: usize, error: Error) {
        self.push(index, Item::Notice(error));
    }

    fn run(&mut self, index: usize, bytes: Bytes, from: u64) {
        if !bytes.is_empty() {
            self.push(index, Item::Run { bytes, from });
        }
    }

    fn push(&mut self, index: usize, item: Item) {
        let partition = &mut self.partitions[index];
        if partition.items.is_empty() {
            self.ready.push_back(index);
        }
        partition.item_bytes += item.bytes();
        self.buffered_bytes += item.bytes();
        partition.items.push_back(item);
    }

    fn end_life(&mut self, index: usize, state: State) {
        self.ready.retain(|&ready| ready != index);
        let partition = &mut self.partitions[index];
        self.buffered_bytes -= partition.item_bytes;
        partition.item_bytes = 0;
        partition.items.clear();
        partition.life += 1;
        partition.state = state;
    }
}

impl Partition {
    fn new(assigned: Assigned) -> Self {
        let Assigned { topic, partition, id, route, offset } = assigned;
        Self {
            topic,
            partition,
            id,
            route,
            offset,
            life: 0,
            state: State::Idle,
            items: VecDeque::new(),
            item_bytes: 0,
            high_watermark: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_LONGEST),
        }
    }

    fn name(&self) -> (Arc<str>, u32) {
        (self.topic.clone(), self.partition)
    }
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Run { bytes, .. } => bytes.len(),
            Self::Notice(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::record::{BatchBuilder, Producer, patch_base_offset};

    use super::*;

    fn fetcher(partitions: usize, edit: impl FnOnce(&mut Limits)) -> Fetcher {
        let mut limits = Limits {
            fetch_bytes_max: 100_000,
            buffer_bytes_max: 1_000_000,
            out_of_range: OutOfRange::Stop,
            gaps: Gaps::Report,
        };
        edit(&mut limits);
        let assigned = |partition| Assigned {
            topic: "t".into(),
            partition: partition as u32,
            id: PartitionId(partition as u64 + 10),
            route: 0,
            offset: 5,
        };
        Fetcher::new(limits, (0..partitions).map(assigned).collect())
    }

    fn row(batches: &[(u64, usize)]) -> Row {
        let batch = |&(base_offset, records): &(u64, usize)| {
            let mut builder = BatchBuilder::new(1 << 20);
            (0..records).for_each(|_| builder.append(0, None, Some(b"v"), &[]).unwrap());
            let mut bytes = builder.build(Producer::NONE).to_vec();
            patch_base_offset(&mut bytes, base_offset);
            bytes
        };
        Row {
            code: ErrorCode::None,
            error: None,
            log_start_offset: 2,
            high_watermark: 100,
            lost: None,
            batches: batches.iter().flat_map(batch).collect::<Vec<_>>().into(),
        }
    }

    fn refusal(code: ErrorCode) -> Row {
        Row { code, error: Some(Error::refused("fetch", &"a".into(), code, "")), ..row(&[]) }
    }

    /// Asks, answers with the row, and tells the items: offsets of runs, names of notices.
    fn answer(fetcher: &mut Fetcher, row: Row) -> Vec<String> {
        let question = fetcher.poll_question().expect("a partition is to be asked for");
        fetcher.complete(&question.ticket, Ok(vec![row]), Instant::now());
        items(fetcher)
    }

    fn items(fetcher: &mut Fetcher) -> Vec<String> {
        let tell = |(_, item)| match item {
            Item::Run { bytes, from } => {
                let bases: Vec<_> = Batches::new(&bytes).map(|batch| batch.unwrap().base_offset()).collect();
                format!("{bases:?} from {from}")
            }
            Item::Notice(error) => format!("{error:?}").split([' ', '{']).next().unwrap().to_owned(),
        };
        std::iter::from_fn(|| fetcher.next()).map(tell).collect()
    }

    fn offset_asked(fetcher: &mut Fetcher) -> Option<u64> {
        fetcher.poll_question().map(|question| question.positions[0].offset)
    }

    #[test]
    fn the_next_question_starts_behind_the_answer() {
        let mut fetcher = fetcher(1, |_| {});
        assert_eq!(answer(&mut fetcher, row(&[(3, 4), (7, 2)])), ["[3, 7] from 5"]);
        assert_eq!((offset_asked(&mut fetcher), fetcher.high_watermark(0)), (Some(9), Some(100)));
        assert_eq!(offset_asked(&mut fetcher), None, "one question at a time");
    }

    #[test]
    fn partitions_of_a_connection_share_a_question() {
        let mut fetcher = fetcher(3, |_| {});
        let question = fetcher.poll_question().unwrap();
        assert_eq!(question.positions.len(), 3);
        fetcher.complete(&question.ticket, Ok(vec![row(&[(5, 1)]), row(&[]), row(&[(5, 2)])]), Instant::now());
        let asked: Vec<_> = fetcher.poll_question().unwrap().positions.iter().map(|position| position.offset).collect();
        assert_eq!(asked, [6, 5, 7]);
    }

    #[test]
    fn a_gap_is_told_once_and_accepted_on_request() {
        let (mut strict, mut easy) = (fetcher(1, |_| {}), fetcher(1, |limits| limits.gaps = Gaps::Accept));
        let rows = || row(&[(5, 1), (8, 1)]);
        assert_eq!(answer(&mut strict, rows()), ["[5] from 5", "Gap", "[8] from 8"]);
        assert_eq!(answer(&mut easy, rows()), ["[5, 8] from 5"]);
        assert_eq!((offset_asked(&mut strict), offset_asked(&mut easy)), (Some(9), Some(9)));
    }

    #[test]
    fn a_loss_is_told_and_no_gap() {
        let mut fetcher = fetcher(1, |_| {});
        let lost = Some(Lost { from: 4, to: 8 });
        assert_eq!(answer(&mut fetcher, Row { lost, ..row(&[(8, 1)]) }), ["Lost", "[8] from 8"]);
        assert_eq!(answer(&mut fetcher, Row { lost, ..row(&[]) }), [""; 0], "a loss that lies behind");
    }

    #[test]
    fn out_of_range_stops_or_goes_on_as_told() {
        let mut stopping = fetcher(1, |_| {});
        assert_eq!(answer(&mut stopping, refusal(ErrorCode::OffsetOutOfRange)), ["OffsetOutOfRange"]);
        assert!(stopping.all_stopped() && offset_asked(&mut stopping).is_none());
        stopping.seek(0, 50);
        assert_eq!((offset_asked(&mut stopping), stopping.all_stopped()), (Some(50), false));
        for (policy, offset) in [(OutOfRange::Earliest, 2), (OutOfRange::Latest, 100)] {
            let mut fetcher = fetcher(1, |limits| limits.out_of_range = policy);
            assert_eq!(answer(&mut fetcher, refusal(ErrorCode::OffsetOutOfRange)), [""; 0]);
            assert_eq!(offset_asked(&mut fetcher), Some(offset));
        }
    }

    #[test]
    fn a_seek_drops_what_was_received_and_what_is_under_way() {
        let mut fetcher = fetcher(1, |_| {});
        let question = fetcher.poll_question().unwrap();
        fetcher.complete(&question.ticket, Ok(vec![row(&[(5, 1)])]), Instant::now());
        let under_way = fetcher.poll_question().unwrap();
        fetcher.seek(0, 40);
        let question = fetcher.poll_question().unwrap();
        assert_eq!(question.positions[0].offset, 40);
        fetcher.complete(&under_way.ticket, Ok(vec![row(&[(6, 1)])]), Instant::now());
        assert_eq!(items(&mut fetcher), [""; 0]);
        fetcher.complete(&question.ticket, Ok(vec![row(&[(40, 1)])]), Instant::now());
        assert_eq!(items(&mut fetcher), ["[40] from 40"]);
        assert_eq!(fetcher.buffered_bytes, 0);
    }

    #[test]
    fn a_reader_that_is_slow_bounds_what_is_asked_for() {
        let mut fetcher = fetcher(1, |limits| limits.fetch_bytes_max = 10_000);
        let mut offset = 5;
        let mut answers = 0;
        while let Some(question) = fetcher.poll_question() {
            fetcher.complete(&question.ticket, Ok(vec![row(&[(offset, 800)])]), Instant::now());
            (offset, answers) = (offset + 800, answers + 1);
        }
        assert_eq!(answers, 3, "of about 7 KB each, until there are as many as in two answers of 10 KB");
        fetcher.next().unwrap();
        assert!(fetcher.poll_question().is_some());
    }

    #[test]
    fn what_may_mend_is_asked_again_after_a_pause() {
        let lost = || Err(Error::Disconnected { address: "a".into(), reason: "cut".into() });
        for answer in [lost(), Ok(vec![refusal(ErrorCode::Busy)]), Ok(vec![refusal(ErrorCode::NotLeader)])] {
            let (mut fetcher, now) = (fetcher(1, |_| {}), Instant::now());
            let question = fetcher.poll_question().unwrap();
            fetcher.complete(&question.ticket, answer, now);
            assert_eq!(offset_asked(&mut fetcher), None);
            let at = fetcher.wake_at().unwrap();
            assert!(at <= now + RETRY_FIRST);
            fetcher.handle_time(at);
            assert_eq!(offset_asked(&mut fetcher), Some(5));
        }
    }

    #[test]
    fn a_move_wants_metadata_and_goes_on_over_the_new_connection() {
        let (mut fetcher, now) = (fetcher(1, |_| {}), Instant::now());
        let question = fetcher.poll_question().unwrap();
        fetcher.complete(&question.ticket, Ok(vec![refusal(ErrorCode::UnknownPartition)]), now);
        assert_eq!(fetcher.take_metadata_wanted().len(), 1);
        fetcher.set_route(0, 1);
        fetcher.handle_time(fetcher.wake_at().unwrap());
        assert_eq!(fetcher.poll_question().unwrap().ticket.route, 1);
    }

    #[test]
    fn what_does_not_mend_is_told_and_stops_the_partition() {
        let check = |code| {
            let mut fetcher = fetcher(1, |_| {});
            assert_eq!(answer(&mut fetcher, refusal(code)), ["Refused"], "{code}");
            assert!(fetcher.all_stopped());
        };
        check(ErrorCode::PartitionRefused);
        check(ErrorCode::CorruptBatch);
        check(ErrorCode::NotAuthorized);
    }

    #[test]
    fn batches_before_the_damage_are_given_out() {
        let mut fetcher = fetcher(1, |_| {});
        let mut damaged = row(&[(5, 1), (6, 1)]);
        damaged.batches.truncate(damaged.batches.len() - 1);
        assert_eq!(answer(&mut fetcher, damaged), ["[5] from 5", "UnreadableBatch"]);
        assert!(fetcher.all_stopped());
    }

    #[test]
    fn batches_that_lead_nowhere_are_not_asked_for_at_once() {
        let mut fetcher = fetcher(1, |_| {});
        answer(&mut fetcher, row(&[(1, 1)]));
        assert_eq!(offset_asked(&mut fetcher), None);
        assert!(fetcher.wake_at().is_some());
    }

    #[test]
    fn a_deleted_topic_ends_its_partitions_after_what_was_received() {
        let mut fetcher = fetcher(2, |_| {});
        let question = fetcher.poll_question().unwrap();
        fetcher.complete(&question.ticket, Ok(vec![row(&[(5, 1)]), row(&[])]), Instant::now());
        fetcher.fail_topic("t", &Error::UnknownTopic { topic: "t".into() });
        let mut told = items(&mut fetcher);
        told.sort();
        assert_eq!(told, ["UnknownTopic", "UnknownTopic", "[5] from 5"]);
        assert!(fetcher.all_stopped());
    }
}
