//! Opens a damaged log and says what came of it.

use std::{cell::RefCell, collections::BTreeSet, ops::Range, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sim::{Crash, NodeId, Options, SimRuntime, Simulation},
};
use storage::{AppendError, Log, LogOptions, OpenError, Partition, PartitionId, ReadError};
use wire::record::{Batch, Batches, Producer};

use super::{
    fault::Mutation,
    touched::{Map, Touched},
};
use crate::{
    golden::{
        directory::Directory,
        expected::{Expected, describe, sequel},
        history,
    },
    support::DIR,
};

/// So much is gone through at a time: little, so that it is done in several steps.
const STRETCH_BYTES: u64 = 20_000;

/// What came of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The bytes were the same, or nobody needs them.
    Unharmed,
    /// It looked like a write that was cut short, above everything that has a witness.
    TornTail,
    /// These partitions said that they cannot be read.
    Detected(BTreeSet<u64>),
    /// The log did not open.
    Refused,
    /// Something wrong was served, something was missing without a word, or someone was stopped for nothing.
    Silent(String),
}

impl Verdict {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unharmed => "unharmed",
            Self::TornTail => "torn tail",
            Self::Detected(_) => "detected",
            Self::Refused => "refused",
            Self::Silent(_) => "silent",
        }
    }
}

pub(crate) fn judge(directory: &Directory, expected: &Expected, map: &Map, mutation: &Mutation) -> Verdict {
    let Some(damaged) = mutation.apply(directory) else { return Verdict::Unharmed };
    let (touched, may_be_torn) = map.touched(mutation);
    let simulation = Simulation::with_options(1, Options { block_bytes: 8 << 10, ..Options::default() });
    let node = simulation.add_node();
    let mut lives = Vec::new();
    let appended = Rc::new(RefCell::new(BTreeSet::new()));
    for life in 0..2 {
        let (damaged, expected, appended) = (damaged.clone(), expected.clone(), appended.clone());
        let lived = simulation.block_on(node, move |rt: SimRuntime| async move {
            if life == 0 {
                damaged.install(&rt).await;
            }
            // So large that footers stay: a reader that goes on behind damage asks for them again with every step.
            let options = LogOptions { cache_bytes: 1 << 20, ..history::options() };
            let log = match Log::open(rt, DIR.as_ref(), options).await {
                Ok(log) => log,
                Err(error) => return Err(error),
            };
            let mut lived = Life { may_lack_tail: may_be_torn, ..Life::default() };
            for &id in expected.partitions.keys() {
                lived.read(&log, &expected, id, &appended).await;
            }
            if life == 0 {
                append_to_all(&log, &expected, &appended).await;
            }
            Ok(lived)
        });
        simulation.crash(node, Crash::PowerCut);
        match lived.expect("nothing crashes, nothing hangs") {
            Ok(lived) => lives.push(lived),
            Err(error) if life == 0 => return refused(&error, &touched),
            Err(error) => return Verdict::Silent(format!("it opened once, and then: {error}")),
        }
    }
    if touched == Touched::Log && may_be_torn {
        // The log is what it was when the manifest ended there.
        return Verdict::TornTail;
    }
    let (first, second) = (&lives[0], &lives[1]);
    if let Some(wrong) = first.wrong.iter().chain(&second.wrong).next() {
        return Verdict::Silent(wrong.clone());
    }
    if let Some(gone) = first.affected.difference(&second.affected).next() {
        return Verdict::Silent(format!("partition {gone} said that it is damaged, and later did not"));
    }
    let missing = first.missing.iter().chain(&second.missing).next();
    if let Some(missing) = missing
        && !may_be_torn
    {
        return Verdict::Silent(missing.clone());
    }
    match touched {
        Touched::Some(touched) => {
            if let Some(bystander) = second.affected.difference(&touched).next() {
                return Verdict::Silent(format!("partition {bystander} was stopped, and only {touched:?} are touched"));
            }
        }
        Touched::Nobody if !second.affected.is_empty() => {
            return Verdict::Silent(format!("{:?} were stopped by damage to what nobody needs", second.affected));
        }
        Touched::Nobody | Touched::Any | Touched::Log => {}
    }
    match (second.affected.is_empty(), missing) {
        (false, _) => match goes_on(&simulation, node, expected, &appended, &second.affected) {
            Ok(()) => Verdict::Detected(second.affected.clone()),
            Err(wrong) => Verdict::Silent(wrong),
        },
        (true, Some(_)) => Verdict::TornTail,
        (true, None) => Verdict::Unharmed,
    }
}

/// Once its loss is accepted, every partition serves all but what it said is lost, at once, after a power cut, and after
/// merges left the damage behind.
fn goes_on(
    simulation: &Simulation,
    node: NodeId,
    expected: &Expected,
    appended: &Rc<RefCell<BTreeSet<(u64, u64)>>>,
    affected: &BTreeSet<u64>,
) -> Result<(), String> {
    for life in 0..2 {
        let (expected, appended, affected) = (expected.clone(), appended.clone(), affected.clone());
        let lived = simulation.block_on(node, move |rt: SimRuntime| async move {
            let options = LogOptions { cache_bytes: 1 << 20, ..history::options() };
            let log = Log::open(rt.clone(), DIR.as_ref(), options).await.map_err(|error| error.to_string())?;
            let mut lived = Life::default();
            for (&id, &(durability, _)) in &expected.partitions {
                let partition = log.adopt(PartitionId(id), durability);
                if life == 0 {
                    let lost = accept(&partition).await?;
                    if !affected.contains(&id) && !lost.is_empty() {
                        return Err(format!("partition {id} served everything, and loses {lost:?}"));
                    }
                }
                lived.read(&log, &expected, id, &appended).await;
            }
            // Merges try again what damage stopped.
            rt.sleep(Duration::from_secs(3)).await;
            for &id in expected.partitions.keys() {
                lived.read(&log, &expected, id, &appended).await;
            }
            match (lived.affected.first(), lived.wrong.iter().chain(&lived.missing).next()) {
                (Some(id), _) => Err(format!("partition {id} is damaged although its loss was accepted, life {life}")),
                (None, Some(wrong)) => Err(format!("after its loss was accepted, life {life}: {wrong}")),
                (None, None) => Ok(()),
            }
        });
        simulation.crash(node, Crash::PowerCut);
        lived.expect("nothing crashes, nothing hangs")?;
    }
    Ok(())
}

/// Gives up what is damaged of a partition; which is what was said before.
async fn accept(partition: &Partition<SimRuntime>) -> Result<Vec<Range<u64>>, String> {
    let (mut said, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let survey = partition.survey(from, STRETCH_BYTES).await.map_err(|error| error.to_string())?;
        said.extend(survey.lost);
        next = survey.next_offset;
    }
    said.extend(partition.refused_offsets());
    let (mut lost, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let survey = partition.give_up_damaged(from, STRETCH_BYTES).await.map_err(|error| error.to_string())?;
        lost.extend(survey.lost);
        next = survey.next_offset;
    }
    lost.extend(partition.accept_loss().await.map_err(|error| error.to_string())?);
    if said != lost { Err(format!("{said:?} were said to be lost, and {lost:?} are")) } else { Ok(lost) }
}

/// A log may refuse to open when its root is damaged, and for nothing else.
fn refused(error: &OpenError, touched: &Touched) -> Verdict {
    match touched {
        Touched::Log => Verdict::Refused,
        _ => Verdict::Silent(format!("the whole log was refused: {error}")),
    }
}

/// What one life saw.
#[derive(Default)]
struct Life {
    /// Whether the fault may look like a tail that was never synced: then its offsets are given out again.
    may_lack_tail: bool,
    /// Partitions that said that they cannot serve all.
    affected: BTreeSet<u64>,
    /// What was served and is wrong.
    wrong: Vec<String>,
    /// What was not served, and nobody said so.
    missing: Vec<String>,
}

impl Life {
    async fn read(
        &mut self,
        log: &Log<SimRuntime>,
        expected: &Expected,
        id: u64,
        appended: &RefCell<BTreeSet<(u64, u64)>>,
    ) {
        let (durability, log_start) = expected.partitions[&id];
        let partition = log.adopt(PartitionId(id), durability);
        let records = expected.records.range((id, 0)..(id + 1, 0)).map(|(&(_, offset), _)| offset);
        let mut wanted: BTreeSet<u64> = records.collect();
        wanted.extend(appended.borrow().iter().filter(|(of, _)| *of == id).map(|(_, offset)| *offset));
        let mut next = partition.offsets().log_start;
        while next < partition.offsets().high_watermark {
            match partition.read(next, 4000).await {
                Ok(read) => {
                    for slice in &read.slices {
                        self.check(expected, id, slice, &mut wanted);
                    }
                    // Nobody accepted a loss in the lives before, so there it excuses nothing that is expected.
                    if let Some(lost) = &read.lost {
                        wanted.retain(|offset| !lost.contains(offset));
                    }
                    if read.next_offset <= next {
                        self.wrong.push(format!("partition {id} does not get on from {next}"));
                        return;
                    }
                    next = read.next_offset;
                }
                Err(error) => {
                    self.affected.insert(id);
                    next = after(&partition, next, &error);
                }
            }
        }
        if partition.refused_from().is_some() {
            self.affected.insert(id);
        }
        // A start that was lost with damage shows what was deleted again; who reads there is told of the damage.
        if partition.offsets().log_start < log_start && !self.affected.contains(&id) {
            self.missing.push(format!("partition {id} starts at {}", partition.offsets().log_start));
        }
        wanted.retain(|&offset| offset >= log_start);
        if let Some(offset) = wanted.first()
            && !self.affected.contains(&id)
        {
            self.missing.push(format!("partition {id} does not serve offset {offset}, and does not say why"));
        }
    }

    fn check(&mut self, expected: &Expected, id: u64, slice: &[u8], wanted: &mut BTreeSet<u64>) {
        for batch in Batches::new(slice) {
            let Ok(batch) = batch.and_then(|batch| batch.verify_stored().map(|()| batch)) else {
                self.wrong.push(format!("partition {id} served a batch that does not hold"));
                return;
            };
            for record in batch.records().unwrap() {
                let record = record.unwrap();
                let said = describe(&record, batch.leader_epoch());
                wanted.remove(&record.offset);
                match expected.records.get(&(id, record.offset)) {
                    Some(expected) if *expected == said => {}
                    None if said.ends_with("sequel") => {}
                    Some(_) if self.may_lack_tail && said.ends_with("sequel") => {}
                    // Below the log start, which batches do not respect.
                    None if record.offset < expected.partitions[&id].1 => {}
                    expected => {
                        let offset = record.offset;
                        self.wrong.push(format!("partition {id}, offset {offset}: {expected:?} became {said:?}"));
                    }
                }
            }
        }
    }
}

/// Where a reader that steps over damage goes on.
fn after(partition: &Partition<SimRuntime>, offset: u64, error: &ReadError) -> u64 {
    match error {
        ReadError::Refused { .. } => partition.offsets().high_watermark,
        _ => offset + 1,
    }
}

/// Goes on where that is possible, and notes what was acknowledged.
async fn append_to_all(log: &Log<SimRuntime>, expected: &Expected, appended: &RefCell<BTreeSet<(u64, u64)>>) {
    for (&id, &(durability, _)) in &expected.partitions {
        log.admit().await;
        let bytes = sequel(1, 1, Producer::NONE);
        match log.adopt(PartitionId(id), durability).append(&Batch::parse_one(&bytes).unwrap(), 10) {
            Ok(accepted) => {
                log.synced(accepted.lsn()).await.unwrap();
                appended.borrow_mut().insert((id, accepted.base_offset()));
            }
            Err(AppendError::Refused { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
