//! One log, its disk, and the reference beside it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    rc::Rc,
    time::Duration,
};

use runtime::{
    Runtime,
    sim::{Crash, NodeId, RunError, SimRuntime, Simulation},
};
use storage::{Appended, Durability, Log, PartitionId};
use wire::record::{Batch, Producer};

use super::{
    op::{How, Op, PLACES},
    producers::{Producers, is_out_of_order, is_stale},
};
use crate::{
    reference::{Partition, Record, Reference, Seen, Trouble, decode, encode, look},
    support,
};

/// Long enough for a marker behind the last group.
const WITNESSED: Duration = Duration::from_millis(20);

pub(crate) struct World {
    simulation: Simulation,
    node: NodeId,
    crash_due: Cell<Option<Crash>>,
    state: Rc<RefCell<State>>,
}

/// What outlives every crash: the clients' side.
struct State {
    log: Option<Log<SimRuntime>>,
    expected: Reference,
    producers: Producers,
    /// Appended, and not acknowledged.
    pending: Vec<(u64, Appended)>,
    places: [u64; PLACES],
    next_id: u64,
    next_value: u64,
}

type Outcome = Result<&'static str, String>;

impl World {
    pub(crate) fn begin(seed: u64) -> Result<Self, String> {
        let simulation = support::simulation(seed);
        let node = simulation.add_node();
        let mut state = State {
            log: None,
            expected: Reference::default(),
            producers: Producers::default(),
            pending: Vec::new(),
            places: [0; PLACES],
            next_id: 1,
            next_value: 0,
        };
        (0..PLACES).for_each(|place| state.fill(place));
        let world = Self { simulation, node, crash_due: Cell::new(None), state: Rc::new(RefCell::new(state)) };
        world.recover()?;
        Ok(world)
    }

    /// Does one operation; a crash may come in the middle of it.
    pub(crate) fn act(&self, op: &Op) -> Outcome {
        match *op {
            Op::Crash { power_cut, steps } => {
                self.crash_now()?;
                let crash = if power_cut { Crash::PowerCut } else { Crash::Kill };
                let disk = self.simulation.disk(self.node);
                disk.crash_at_step(disk.steps() + steps, crash);
                self.crash_due.set(Some(crash));
                Ok("crash")
            }
            Op::Damage { clean, file, at } => {
                self.crash_now()?;
                self.damage(clean, file, at)
            }
            Op::ClockJump { minutes } => {
                self.simulation.jump_wall_clock(self.node, minutes * 60_000);
                Ok("clock jump")
            }
            _ => {
                let op = op.clone();
                let done = self.run(move |rt, state| async move { act(&rt, &state, op).await })?;
                done.map_or_else(|| self.recover().map(|()| "crash under way"), Ok)
            }
        }
    }

    /// Reads everything once more, and stops.
    pub(crate) fn end(self) -> Result<(), String> {
        self.crash_now()?;
        self.act(&Op::Sync)?;
        self.act(&Op::Restart).map(drop)
    }

    /// Lets the crash that is due happen.
    fn crash_now(&self) -> Result<(), String> {
        let Some(crash) = self.crash_due.take() else { return Ok(()) };
        self.simulation.crash(self.node, crash);
        self.recover()
    }

    /// Runs something on the log; `None` if the node crashed in the middle of it.
    fn run<T: 'static, F: Future<Output = Result<T, String>> + 'static>(
        &self,
        task: impl FnOnce(SimRuntime, Rc<RefCell<State>>) -> F,
    ) -> Result<Option<T>, String> {
        let state = self.state.clone();
        match self.simulation.block_on(self.node, |rt| task(rt, state)) {
            Ok(done) => done.map(Some),
            Err(RunError::Crashed { .. }) => {
                self.crash_due.set(None);
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Starts after a crash, and compares all there is.
    fn recover(&self) -> Result<(), String> {
        let recovered = self.run(|rt, state| async move {
            let log = support::open(&rt).await.map_err(|error| format!("it cannot be opened: {error}"))?;
            let expected = state.borrow().expected.clone();
            let mut seen = BTreeMap::new();
            for (id, partition) in expected.partitions() {
                seen.insert(id, look(&log, id, partition.durability()).await?);
            }
            expected.check(&seen)?;
            let mut state = state.borrow_mut();
            state.recovered(&seen);
            state.log = Some(log);
            Ok(())
        });
        recovered.map(|done| done.expect("no crash is due"))
    }

    /// Damages one byte of a file while the log is down; the next start must not pass over it. Then the byte is as it was.
    fn damage(&self, clean: bool, file: u16, at: u16) -> Outcome {
        let stopped = self.run(move |rt, state| async move {
            act(&rt, &state, Op::Sync).await?;
            rt.sleep(WITNESSED).await;
            if clean {
                let log = state.borrow_mut().log.take().expect("it is open");
                log.close().await.map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        stopped?.expect("no crash is due");
        self.simulation.crash(self.node, Crash::Kill);
        let disk = self.simulation.disk(self.node);
        let intact = disk.snapshot();
        let files: Vec<_> = disk.files().into_iter().filter(|path| !path.ends_with("LOCK")).collect();
        let path = &files[(usize::from(file) * files.len()) >> 16];
        let len = disk.read(path).expect("it was listed").len() as u64;
        if len > 0 {
            disk.flip_byte(path, (u64::from(at) * len) >> 16);
        }
        let path = path.clone();
        let found = self.run(move |rt, state| async move {
            // To refuse is right; to serve less than there was, or anything else, is not.
            let Ok(log) = support::open(&rt).await else { return Ok(()) };
            let expected = state.borrow().expected.clone();
            for (id, partition) in expected.partitions() {
                match look(&log, id, partition.durability()).await {
                    Ok(seen) => partition.check(&seen),
                    Err(Trouble::Refused(_)) => Ok(()),
                    Err(Trouble::Wrong(problem)) => Err(problem),
                }
                .map_err(|problem| format!("{path} was damaged, and partition {id}: {problem}"))?;
            }
            Ok(())
        });
        found?.expect("no crash is due");
        self.simulation.crash(self.node, Crash::Kill);
        disk.restore(intact);
        self.recover().map(|()| "damage")
    }
}

impl State {
    /// Creates a partition in a place.
    fn fill(&mut self, place: usize) {
        let durability = if place + 1 == PLACES { Durability::Memory } else { Durability::Durable };
        self.expected.create(self.next_id, durability);
        self.places[place] = self.next_id;
        self.next_id += 1;
    }

    fn records(&mut self, count: usize, disorder_ms: i64) -> Vec<Record> {
        let values = self.next_value..self.next_value + count as u64;
        self.next_value = values.end;
        let timestamp_ms = |value: u64| value as i64 * 10 + if value.is_multiple_of(2) { disorder_ms } else { 0 };
        values.map(|value| Record { value, timestamp_ms: timestamp_ms(value) }).collect()
    }

    fn partition(&self, place: usize) -> (u64, storage::Partition<SimRuntime>) {
        let id = self.places[place];
        let durability = self.expected.partition(id).durability();
        (id, self.log.as_ref().expect("it is open").adopt(PartitionId(id), durability))
    }

    fn recovered(&mut self, seen: &BTreeMap<u64, Seen>) {
        self.pending.clear();
        self.expected.recovered(seen);
        for (id, partition) in self.expected.partitions() {
            self.producers.keep(id, |base| partition.has_batch(base));
            if partition.durability() == Durability::Memory {
                self.producers.doubt(id);
            }
        }
        // A deletion that a crash interrupted may have happened: the place needs a partition.
        for place in 0..PLACES {
            if self.expected.partition(self.places[place]).is_gone() {
                self.fill(place);
            }
        }
    }

    /// Notes an append, and acknowledges it if nothing has to be waited for.
    fn appended(&mut self, id: u64, appended: Appended, records: Vec<Record>) {
        let end = appended.next_offset();
        let partition = self.expected.partition_mut(id);
        partition.appended(appended.base_offset(), records);
        match appended.acknowledge_unsynced() {
            Ok(_) => partition.told_to(end),
            Err(appended) => self.pending.push((id, appended)),
        }
    }
}

async fn act(rt: &SimRuntime, state: &Rc<RefCell<State>>, op: Op) -> Outcome {
    match op {
        Op::Append { place, records, record_bytes, disorder_ms } => {
            admit(state).await;
            append(&mut state.borrow_mut(), place, records, record_bytes, disorder_ms)
        }
        Op::Produce { place, producer, how } => {
            admit(state).await;
            produce(&mut state.borrow_mut(), place, producer, how)
        }
        Op::Sync => sync(state).await,
        Op::Read { place, at, bytes_max } => read(state, place, at, bytes_max).await,
        Op::ReadByTime { place, at } => read_by_time(state, place, at).await,
        Op::Truncate { place, at } => truncate(state, place, at).await,
        Op::Delete { place, at } => delete(state, place, at).await,
        Op::Replace { place } => replace(state, place).await,
        Op::Rest { ms } => {
            rt.sleep(Duration::from_millis(ms)).await;
            Ok("rest")
        }
        Op::Restart => restart(rt, state).await,
        Op::Crash { .. } | Op::Damage { .. } | Op::ClockJump { .. } => unreachable!("that is the world's to do"),
    }
}

async fn admit(state: &Rc<RefCell<State>>) {
    let log = state.borrow().log.clone().expect("it is open");
    log.admit().await;
}

fn append(state: &mut State, place: usize, count: usize, record_bytes: usize, disorder_ms: i64) -> Outcome {
    let (id, partition) = state.partition(place);
    let records = state.records(count, disorder_ms);
    let bytes = encode(&records, record_bytes, Producer::NONE);
    let appended = partition.append(&Batch::parse_one(&bytes).expect("just built"), 1).map_err(|e| e.to_string())?;
    check_offset(state.expected.partition(id), &appended)?;
    state.appended(id, appended, records);
    Ok("append")
}

/// A new batch goes where the last one ended; behind what a `memory` partition lost, further on.
fn check_offset(expected: &Partition, appended: &Appended) -> Result<(), String> {
    match appended.base_offset() == expected.end() && !appended.is_duplicate() {
        true => Ok(()),
        false => Err(format!("{appended:?}, and {} is the next offset", expected.end())),
    }
}

fn produce(state: &mut State, place: usize, producer: i64, how: How) -> Outcome {
    let (id, partition) = state.partition(place);
    let sent = state.producers.of(id, producer);
    let (epoch, next, last) = (sent.epoch(), sent.next_sequence(), sent.last());
    let send = |epoch, base_sequence, records: &[Record]| {
        let bytes = encode(records, 50, Producer { id: producer, epoch, base_sequence });
        partition.append(&Batch::parse_one(&bytes).expect("just built"), 1)
    };
    match (how, last) {
        (How::Repeat, Some((sequence, count, base_offset))) => {
            let records = vec![Record { value: u64::MAX, timestamp_ms: 0 }; count as usize];
            let again = send(epoch, sequence, &records).map_err(|error| format!("sequence {sequence}: {error}"))?;
            if !again.is_duplicate() || again.base_offset() != base_offset {
                return Err(format!("sequence {sequence} is at {base_offset}, and its repetition came to {again:?}"));
            }
            state.pending.push((id, again));
            Ok("produce repeat")
        }
        (How::Skip, Some(_)) => match send(epoch, next + 3, &[Record { value: u64::MAX, timestamp_ms: 0 }]) {
            Err(error) if is_out_of_order(&error) => Ok("produce skip"),
            other => Err(format!("sequence {} where {next} is next: {other:?}", next + 3)),
        },
        (How::NewEpoch, Some(_)) => {
            let records = state.records(1, 0);
            let appended = send(epoch + 1, 0, &records).map_err(|error| format!("epoch {}: {error}", epoch + 1))?;
            check_offset(state.expected.partition(id), &appended)?;
            let sent = state.producers.of(id, producer);
            sent.begin_epoch();
            sent.appended(0, 1, appended.base_offset());
            state.appended(id, appended, records);
            match send(epoch, next, &[Record { value: u64::MAX, timestamp_ms: 0 }]) {
                Err(error) if is_stale(&error) => Ok("produce new epoch"),
                other => Err(format!("epoch {epoch} behind epoch {}: {other:?}", epoch + 1)),
            }
        }
        _ => {
            let records = state.records(2, 0);
            let appended = send(epoch, next, &records).map_err(|error| format!("sequence {next}: {error}"))?;
            check_offset(state.expected.partition(id), &appended)?;
            state.producers.of(id, producer).appended(next, 2, appended.base_offset());
            state.appended(id, appended, records);
            Ok("produce next")
        }
    }
}

async fn sync(state: &Rc<RefCell<State>>) -> Outcome {
    let (log, pending) = {
        let mut state = state.borrow_mut();
        (state.log.clone().expect("it is open"), std::mem::take(&mut state.pending))
    };
    for (id, appended) in pending {
        let synced = log.synced(appended.lsn()).await.map_err(|error| error.to_string())?;
        let end = appended.next_offset();
        let _acked = appended.acknowledge(synced);
        state.borrow_mut().expected.partition_mut(id).synced_to(end);
    }
    Ok("sync")
}

async fn read(state: &Rc<RefCell<State>>, place: usize, at: u16, bytes_max: usize) -> Outcome {
    let (id, partition) = state.borrow().partition(place);
    let offsets = partition.offsets();
    let offset = offsets.log_start + ((u64::from(at) * (offsets.high_watermark - offsets.log_start + 1)) >> 16);
    let batches = partition.read(offset, bytes_max).await.map_err(|error| format!("offset {offset}: {error}"))?;
    if offset == offsets.high_watermark && batches.slices.is_empty() {
        return Ok("read");
    }
    let (records, lost) = decode(offset, &batches).map_err(|problem| format!("offset {offset}: {problem}"))?;
    if records.len() > 5 && batches.bytes > bytes_max {
        return Err(format!("{} bytes where {bytes_max} were asked for", batches.bytes));
    }
    let mut state = state.borrow_mut();
    let expected = state.expected.partition_mut(id);
    let wanted: Vec<_> = expected.records().filter(|(at, _)| (offset..batches.next_offset).contains(at)).collect();
    let is_same = wanted.iter().map(|(offset, record)| (*offset, record.value)).eq(records.iter().copied());
    if !is_same {
        return Err(format!("from {offset} on {records:?}, lost {lost:?}, where {wanted:?} was appended"));
    }
    expected.told_to(batches.next_offset);
    Ok("read")
}

async fn read_by_time(state: &Rc<RefCell<State>>, place: usize, at: u16) -> Outcome {
    let (id, partition) = state.borrow().partition(place);
    let timestamp_ms = ((u64::from(at) * (state.borrow().next_value + 2) * 10) >> 16) as i64;
    let visible_before = partition.offsets().high_watermark;
    let found = partition.offset_at(timestamp_ms).await.map_err(|error| error.to_string())?;
    let visible_after = partition.offsets().high_watermark;
    let state = state.borrow();
    let first = state.expected.partition(id).records().find(|(_, record)| record.timestamp_ms >= timestamp_ms);
    let first = first.map(|(offset, record)| (offset, record.timestamp_ms));
    let is_right =
        [visible_before, visible_after].iter().any(|&visible| found == first.filter(|(offset, _)| *offset < visible));
    match is_right {
        true => Ok("read by time"),
        false => Err(format!("from {timestamp_ms} ms on: {found:?}, and {first:?} is the first")),
    }
}

async fn truncate(state: &Rc<RefCell<State>>, place: usize, at: u16) -> Outcome {
    let (id, partition) = state.borrow().partition(place);
    let offsets = partition.offsets();
    let to = offsets.log_start + ((u64::from(at) * (offsets.log_end - offsets.log_start + 1)) >> 16);
    state.borrow_mut().expected.partition_mut(id).truncating(to);
    partition.truncate(to, 1).await.map_err(|error| format!("to {to}: {error}"))?;
    let mut state = state.borrow_mut();
    let State { expected, producers, pending, .. } = &mut *state;
    let expected = expected.partition_mut(id);
    expected.truncated();
    producers.keep(id, |base| expected.has_batch(base));
    producers.doubt(id);
    pending.retain(|(pending, _)| *pending != id);
    match partition.offsets().log_end == expected.end() {
        true => Ok("truncate"),
        false => Err(format!("to {to}: {:?}, and {} is the end", partition.offsets(), expected.end())),
    }
}

async fn delete(state: &Rc<RefCell<State>>, place: usize, at: u16) -> Outcome {
    let (id, partition) = state.borrow().partition(place);
    let offsets = partition.offsets();
    let before = offsets.log_start + ((u64::from(at) * (offsets.high_watermark - offsets.log_start + 1)) >> 16);
    state.borrow_mut().expected.partition_mut(id).deleting(before);
    let start = partition.delete_before(Some(before)).await.map_err(|error| format!("before {before}: {error}"))?;
    state.borrow_mut().expected.partition_mut(id).deleted();
    match start == before && partition.offsets().log_start == before {
        true => Ok("delete"),
        false => Err(format!("before {before}: it starts at {start}, {:?}", partition.offsets())),
    }
}

async fn replace(state: &Rc<RefCell<State>>, place: usize) -> Outcome {
    let (id, partition) = state.borrow().partition(place);
    state.borrow_mut().expected.partition_mut(id).dropping();
    partition.drop_partition().await.map_err(|error| error.to_string())?;
    let mut state = state.borrow_mut();
    state.pending.retain(|(pending, _)| *pending != id);
    state.expected.partition_mut(id).dropped();
    state.fill(place);
    Ok("replace")
}

async fn restart(rt: &SimRuntime, state: &Rc<RefCell<State>>) -> Outcome {
    sync(state).await?;
    let log = state.borrow_mut().log.take().expect("it is open");
    log.close().await.map_err(|error| error.to_string())?;
    let ends: Vec<_> = state.borrow().expected.partitions().map(|(id, partition)| (id, partition.end())).collect();
    for (id, end) in ends {
        // Whatever was appended is on the disk now, told to anyone or not.
        let mut state = state.borrow_mut();
        let partition = state.expected.partition_mut(id);
        if partition.is_serving() {
            partition.synced_to(end);
        }
    }
    let log = support::open(rt).await.map_err(|error| format!("it cannot be opened: {error}"))?;
    let expected = state.borrow().expected.clone();
    for (id, partition) in expected.partitions() {
        let seen = look(&log, id, partition.durability()).await?;
        partition.check(&seen).map_err(|problem| format!("partition {id}: {problem}\n{partition:?}"))?;
    }
    state.borrow_mut().log = Some(log);
    Ok("restart")
}
