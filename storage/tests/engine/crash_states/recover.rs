//! Recovery of one crash state, and of the crashes that follow it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use runtime::sim::{Rng, SimRuntime, disk::Image};
use storage::{Log, PartitionId};
use wire::record::{Batch, Producer};

use super::workload::open;
use crate::{
    reference::{Record, Reference, Seen, encode, look},
    support,
};

/// The values of what is appended behind a recovery: no workload gets there.
const VALUE_BEHIND: u64 = 1 << 40;

/// What every recovery so far has found, by the digest of its disk.
#[derive(Default)]
pub(crate) struct Recoveries {
    found: HashMap<u64, BTreeMap<u64, Seen>>,
    count: u64,
}

/// What a recovery found, and the disk at three moments of it.
struct Recovered {
    seen: BTreeMap<u64, Seen>,
    /// The reference behind further writes.
    written: Reference,
    during: Image,
    after: Image,
    behind_writes: Image,
}

impl Recoveries {
    /// Different disks recovered.
    pub(crate) fn distinct(&self) -> usize {
        self.found.len()
    }

    /// Recoveries of all of them, and of the crashes that followed.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Recovers a disk, unless it was, and compares what is found with the reference.
    pub(crate) fn check(&mut self, digest: u64, image: &Image, expected: &Reference, rng: &Rng) -> Result<(), String> {
        if let Some(seen) =
            self.found.get(&digest).filter(|seen| expected.partitions().all(|(id, _)| seen.contains_key(&id)))
        {
            return expected.check(seen);
        }
        let Recovered { seen, written, during, after, behind_writes } = self.recover(image, expected, rng)?;
        let again = |crash: &str, image: Image, expected: &Reference| {
            let mut image = image;
            image.power_cut(rng.next_u64());
            reopen(image, expected, rng).map_err(|problem| format!("crashed again {crash}: {problem}"))
        };
        again("during recovery", during, expected)?;
        let at_once = again("at once", after, expected)?;
        if at_once != seen {
            return Err(format!("crashed again at once: {at_once:?} where {seen:?} was"));
        }
        again("behind writes", behind_writes, &written)?;
        self.count += 4;
        self.found.insert(digest, seen);
        Ok(())
    }

    fn recover(&mut self, image: &Image, expected: &Reference, rng: &Rng) -> Result<Recovered, String> {
        let simulation = support::simulation(rng.next_u64());
        let node = simulation.add_node();
        let disk = simulation.disk(node);
        disk.restore(image.clone());
        // Any step of the recovery, all as likely.
        let during: Rc<RefCell<Image>> = Rc::new(RefCell::new(image.clone()));
        let recovering = Rc::new(Cell::new(true));
        disk.on_step({
            let (during, recovering, choice) = (during.clone(), recovering.clone(), Rng::new(rng.next_u64()));
            move |step, image| {
                if recovering.get() && choice.one_in(step) {
                    during.replace(image.clone());
                }
            }
        });
        let expected = expected.clone();
        let result = simulation.block_on(node, {
            let disk = disk.clone();
            move |rt| async move {
                let log = open(&rt).await.map_err(|error| format!("it cannot be opened: {error}"))?;
                recovering.set(false);
                let after = disk.snapshot();
                let seen = look_at_all(&log, &expected).await?;
                expected.check(&seen)?;
                let mut written = expected;
                written.recovered(&seen);
                write_behind(&log, &mut written).await?;
                Ok((seen, written, after, disk.snapshot()))
            }
        });
        let (seen, written, after, behind_writes) = result.map_err(|error| error.to_string()).flatten()?;
        drop(simulation);
        let during = during.borrow().clone();
        Ok(Recovered { seen, written, during, after, behind_writes })
    }
}

/// Recovers once more and compares.
fn reopen(image: Image, expected: &Reference, rng: &Rng) -> Result<BTreeMap<u64, Seen>, String> {
    let simulation = support::simulation(rng.next_u64());
    let node = simulation.add_node();
    simulation.disk(node).restore(image);
    let expected = expected.clone();
    let result = simulation.block_on(node, move |rt| async move {
        let log = open(&rt).await.map_err(|error| format!("it cannot be opened: {error}"))?;
        let seen = look_at_all(&log, &expected).await?;
        expected.check(&seen)?;
        Ok(seen)
    });
    result.map_err(|error| error.to_string()).flatten()
}

async fn look_at_all(log: &Log<SimRuntime>, expected: &Reference) -> Result<BTreeMap<u64, Seen>, String> {
    let mut all = BTreeMap::new();
    for (id, partition) in expected.partitions() {
        all.insert(id, look(log, id, partition.durability()).await?);
    }
    Ok(all)
}

/// Appends to every partition, and waits for the acknowledgement.
async fn write_behind(log: &Log<SimRuntime>, written: &mut Reference) -> Result<(), String> {
    let serving: Vec<_> =
        written.partitions().filter(|(_, p)| p.is_serving()).map(|(id, p)| (id, p.durability())).collect();
    for (id, durability) in serving {
        let partition = log.adopt(PartitionId(id), durability);
        let end = partition.offsets().log_end;
        let records = vec![Record { value: VALUE_BEHIND + id, timestamp_ms: 0 }];
        let bytes = encode(&records, 700, Producer::NONE);
        let appended = partition.append(&Batch::parse_one(&bytes).expect("just built"), 2);
        let appended = appended.map_err(|error| format!("partition {id} takes no append: {error}"))?;
        if appended.base_offset() != end {
            return Err(format!("partition {id} ended at {end} and goes on at {}", appended.base_offset()));
        }
        let synced = log.synced(appended.lsn()).await.map_err(|error| error.to_string())?;
        let partition = written.partition_mut(id);
        partition.appended(end, records);
        partition.synced_to(appended.next_offset());
        let _acked = appended.acknowledge(synced);
    }
    Ok(())
}
