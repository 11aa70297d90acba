//! One thread that fetches its partitions in one request after the other.
//!
//! The hard idea: what is asked for next is known from the batch headers alone, so the next request leaves before the records
//! of this answer are looked at; the broker works while they are.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use history::Moment;
use wire::{
    ErrorCode,
    api::fetch::{PartitionRow, Position, Request, Response},
    frame,
    record::{Batch, BatchError, Batches},
};

use super::connection::{Connection, Taken};
use crate::{
    failure::Failure,
    load::{Consumed, Ready},
    run::{Counters, Meter, Run},
    verify::ReadNotes,
};

/// How long the broker may hold a request back, and so how late the consumer sees that it is done.
const WAIT_MS: u32 = 50;

/// Bytes asked for in one request; the broker may have a lower limit.
const FETCH_BYTES: u32 = 4 << 20;

const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// What the records of a batch may take that merges compressed: more than the longest batch.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// How long to leave a partition alone that gives nothing.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);

/// Reads its partitions from their starts to their ends.
pub(crate) fn consume(run: &Arc<Run>, partitions: &[u32], ready: &Ready, is_timed: bool) -> Result<Consumed, Failure> {
    let shard = run.topic.partitions[partitions[0] as usize].shard;
    let open = || Connection::open(&run.topic.brokers, shard);
    let mut connection = open().map_err(|error| {
        Failure::unavailable(format!("cannot connect to {}: {error}; is a broker running there?", run.topic.brokers))
    })?;
    ready.tell();
    run.wait_for_start();
    let mut consumer = RawConsumer::new(run, partitions, is_timed);
    loop {
        let error = match consumer.read_all(&mut connection) {
            Ok(()) => break,
            Err(error) => error,
        };
        if error.kind() == ErrorKind::InvalidData {
            return Err(Failure::new(format!("what the broker answers to a fetch is damaged: {error}")));
        }
        run.counters.fail(0, error);
        let until = Instant::now() + run.patience();
        connection = loop {
            match open() {
                Ok(connection) => break connection,
                Err(_) if consumer.is_done() || Instant::now() > until => return Ok(consumer.end()),
                Err(_) => thread::sleep(RECONNECT_PAUSE),
            }
        };
    }
    Ok(consumer.end())
}

struct RawConsumer<'a> {
    run: &'a Run,
    /// Number of each partition, and what to ask for next.
    partitions: Vec<(u32, Position)>,
    /// Whose turn it is to be asked for first: an answer may be full before it comes to the last.
    first: usize,
    is_timed: bool,
    notes: ReadNotes,
    meter: Meter,
    last_ns: u64,
    /// Room for the records of a compressed batch.
    decompressed: Vec<u8>,
}

impl<'a> RawConsumer<'a> {
    fn new(run: &'a Run, partitions: &[u32], is_timed: bool) -> Self {
        let all = &run.topic.partitions;
        let starts: Vec<_> = all.iter().map(|partition| partition.start).collect();
        let position = |&number: &u32| {
            let partition = all[number as usize];
            (number, Position { partition: partition.id, offset: partition.start, bytes_max: FETCH_BYTES })
        };
        Self {
            run,
            partitions: partitions.iter().map(position).collect(),
            first: 0,
            is_timed,
            notes: ReadNotes::new(partitions, &starts),
            meter: run.meter(),
            last_ns: run.now_ns(),
            decompressed: Vec::new(),
        }
    }

    fn end(self) -> Consumed {
        Consumed::new(self.notes, self.meter)
    }

    fn is_done(&self) -> bool {
        let positions = self.partitions.iter().map(|(number, position)| (*number, position.offset));
        self.run.is_read(positions, self.last_ns)
    }

    /// Reads until it is done or the connection fails.
    fn read_all(&mut self, connection: &mut Connection) -> io::Result<()> {
        let mut out = Vec::new();
        let mut spare = Taken::default();
        self.ask(connection, &mut out)?;
        loop {
            let answer = connection.take_frame(spare)?;
            let now_ns = self.run.now_ns();
            let response: Response<'_> = answer.message()?;
            let is_refused = self.plan(&response)?;
            let is_done = self.is_done();
            let asked_first = self.first;
            if is_refused {
                thread::sleep(REFUSED_PAUSE);
            }
            if !is_done {
                self.first = (self.first + 1) % self.partitions.len();
                self.ask(connection, &mut out)?;
            }
            self.take(&response, asked_first, now_ns)?;
            if is_done {
                return Ok(());
            }
            spare = answer;
        }
    }

    /// The partitions, in the order in which they are asked for.
    fn turns(&self, first: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.partitions.len();
        (first..count).chain(0..first)
    }

    fn ask(&mut self, connection: &mut Connection, out: &mut Vec<u8>) -> io::Result<()> {
        let positions: Vec<_> = self.turns(self.first).map(|index| self.partitions[index].1).collect();
        let partitions = positions.as_slice().into();
        let request = Request { wait_ms_max: WAIT_MS, bytes_min: 1, bytes_max: FETCH_BYTES, partitions };
        out.clear();
        frame::encode(out, 0, 0, &request, connection.frame_bytes_max).map_err(io::Error::other)?;
        connection.send(out)
    }

    /// Finds out what to ask for next; whether a partition was refused.
    fn plan(&mut self, response: &Response<'_>) -> io::Result<bool> {
        let mut is_refused = false;
        for ((row, bytes), index) in response.partitions().zip(self.turns(self.first)) {
            let (number, position) = &mut self.partitions[index];
            if row.error != ErrorCode::None {
                is_refused = true;
                self.meter.fail(self.run.now_ns(), 1);
                let why = format_args!("fetch of partition {number} refused: {}: {}", row.error, row.reason);
                self.run.counters.fail(1, why);
            }
            if let Some(lost) = row.lost
                && lost.from <= position.offset
            {
                position.offset = position.offset.max(lost.to);
            }
            for batch in Batches::new(bytes) {
                position.offset = position.offset.max(batch.map_err(damaged)?.next_offset());
            }
        }
        Ok(is_refused)
    }

    fn take(&mut self, response: &Response<'_>, first: usize, now_ns: u64) -> io::Result<()> {
        let mut records = 0;
        for ((row, bytes), index) in response.partitions().zip(self.turns(first)) {
            let number = self.partitions[index].0;
            self.note_row(&row, number);
            self.meter.count_bytes(now_ns, bytes.len() as u64);
            for batch in Batches::new(bytes) {
                records += self.take_batch(&batch.map_err(damaged)?, number, now_ns);
            }
        }
        if records > 0 {
            self.last_ns = now_ns;
            self.meter.count(now_ns, records);
            Counters::add(&self.run.counters.read, records);
        }
        Ok(())
    }

    fn note_row(&mut self, row: &PartitionRow<'_>, number: u32) {
        if row.error == ErrorCode::None {
            let reader = self.notes.reader(number);
            reader.high_watermark(row.high_watermark);
            if let Some(lost) = row.lost
                && lost.from <= reader.position()
            {
                reader.lost(lost.from..lost.to);
            }
        }
    }

    /// Returns how many of its records were wanted. A batch that is damaged is noted as one corrupt record, and the rest of
    /// it shows as missing.
    fn take_batch(&mut self, batch: &Batch<'_>, number: u32, now_ns: u64) -> u64 {
        let Some(proof) = &self.run.proof else { return batch.record_count().into() };
        let reader = self.notes.reader(number);
        let from = reader.position();
        let decompressed = &mut self.decompressed;
        let verified = batch.verify_stored();
        let records = verified.and_then(|()| batch.records_decompressed(DECOMPRESSED_BYTES_MAX, decompressed));
        let Ok(records) = records else {
            reader.corrupt(batch.base_offset().max(from));
            return 0;
        };
        let mut wanted = 0;
        let records = records.map_while(Result::ok).skip_while(|record| record.offset < from).inspect(|_| wanted += 1);
        let values = records.map(|record| (record.offset, record.value.unwrap_or_default()));
        let (meter, is_timed) = (&mut self.meter, self.is_timed);
        proof.read(reader, values, Moment(now_ns), |stretch| {
            if is_timed {
                proof.take_sent(stretch, |sent_ns, count| meter.time(sent_ns, now_ns, count));
            }
        });
        wanted
    }
}

fn damaged(error: BatchError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
