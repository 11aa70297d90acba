//! Lives of one log, and its WAL as it lies on the disk between them.

use std::{cell::Cell, collections::BTreeMap, future::Future, ops::Range, path::Path, rc::Rc, time::Duration};

use runtime::{
    Runtime,
    sim::{
        Crash, NodeId, SimRuntime, Simulation,
        disk::{self, Disk},
    },
};
use storage::{
    Durability, Log, LogOptions, OpenError, Partition, PartitionId,
    group::{Entry, EntryKind, Group, HEADER_BYTES, Header},
    manifest::{self, Manifest},
};
use wire::record::{Batch, Producer};

use crate::support::{self, DIR, append_acked, durable, records};

/// A log with room: nothing is flushed unless the test stops it cleanly.
pub(crate) fn roomy() -> LogOptions {
    LogOptions {
        memtable_bytes: 1 << 20,
        batch_bytes_max: 64 << 10,
        flush_age_max: Duration::from_secs(3600),
        ..support::small()
    }
}

/// One log through its lives.
pub(crate) struct Story {
    pub(crate) simulation: Simulation,
    pub(crate) node: NodeId,
    options: LogOptions,
    log_id: Rc<Cell<u128>>,
}

impl Story {
    /// On a disk so even that no pause is long enough for a marker unless a life makes one.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_options(seed, roomy())
    }

    pub(crate) fn with_options(seed: u64, options: LogOptions) -> Self {
        let simulation = support::simulation(seed);
        let node = simulation.add_node();
        let even = disk::Options { latency_ns: 5_000..20_000, slow_one_in: 0, ..disk::Options::default() };
        simulation.disk(node).set_options(even);
        Self { simulation, node, options, log_id: Rc::default() }
    }

    pub(crate) fn disk(&self) -> Rc<Disk> {
        self.simulation.disk(self.node)
    }

    /// Opens the log, lives `life`, and loses power.
    pub(crate) fn live<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        life: impl FnOnce(SimRuntime, Log<SimRuntime>) -> F + 'static,
    ) -> T {
        let lived = self.try_live(life);
        lived.unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Self::live`], for a log that may refuse to open.
    pub(crate) fn try_live<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        life: impl FnOnce(SimRuntime, Log<SimRuntime>) -> F + 'static,
    ) -> Result<T, OpenError> {
        let (options, log_id) = (self.options.clone(), self.log_id.clone());
        let lived = self.simulation.block_on(self.node, move |rt: SimRuntime| async move {
            rt.create_dir_all(Path::new(DIR)).await.expect("the directory can be made");
            let log = Log::open(rt.clone(), Path::new(DIR), options).await?;
            log_id.set(log.id());
            Ok(life(rt, log).await)
        });
        self.simulation.crash(self.node, Crash::PowerCut);
        lived.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The log's number, once it lived.
    pub(crate) fn log_id(&self) -> u128 {
        self.log_id.get()
    }

    /// Paths of the WAL's files.
    pub(crate) fn wal_files(&self) -> Vec<String> {
        self.disk().files().into_iter().filter(|path| path.ends_with(".wal")).collect()
    }

    /// The groups of the WAL that hold, in the order of their LSN.
    pub(crate) fn groups(&self) -> Vec<GroupOnDisk> {
        let mut groups = Vec::new();
        for path in self.wal_files() {
            let bytes = self.disk().read(&path).expect("it was just listed");
            let salt = salt_of(&path);
            let mut at = 0;
            while at + HEADER_BYTES <= bytes.len() {
                let padded = match Group::parse(&bytes[at..], self.log_id(), salt) {
                    Ok(group) => {
                        let padded = group.header.padded_bytes();
                        groups.push(GroupOnDisk::new(&path, at, &group, &bytes[at..at + padded]));
                        padded
                    }
                    Err(_) => storage::group::GROUP_ALIGNMENT,
                };
                at += padded;
            }
        }
        groups.sort_by_key(|group| group.header.stamp.lsn);
        groups
    }

    /// The group that carries the record at `offset` of a partition.
    pub(crate) fn group_of(&self, partition: u64, offset: u64) -> GroupOnDisk {
        // A reservation spans offsets too, and is no record.
        let holds = |entry: &Entry| {
            entry.kind == EntryKind::Batch
                && entry.partition == PartitionId(partition)
                && (entry.base_offset..entry.next_offset).contains(&offset)
        };
        let mut groups = self.groups().into_iter();
        groups.find(|group| group.entries.iter().any(|(entry, _)| holds(entry))).expect("it is in the WAL")
    }

    /// The manifest as the next life will find it.
    pub(crate) fn manifest(&self) -> manifest::State {
        let read = self.simulation.block_on(self.node, |rt: SimRuntime| async move {
            let manifest = Manifest::open(&rt, Path::new(DIR)).await.expect("it can be read");
            let state = manifest.state().clone();
            state
        });
        self.simulation.crash(self.node, Crash::Kill);
        read.expect("nothing crashes")
    }

    /// Every file and its bytes.
    pub(crate) fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.disk();
        disk.files().into_iter().map(|path| (path.clone(), disk.read(&path).expect("it was just listed"))).collect()
    }
}

/// A group where it lies.
pub(crate) struct GroupOnDisk {
    pub(crate) path: String,
    pub(crate) position: u64,
    pub(crate) header: Header,
    pub(crate) entries: Vec<(Entry, Range<usize>)>,
    /// With its padding.
    pub(crate) bytes: Vec<u8>,
}

impl GroupOnDisk {
    fn new(path: &str, at: usize, group: &Group<'_>, bytes: &[u8]) -> Self {
        Self {
            path: path.to_string(),
            position: at as u64,
            header: group.header,
            entries: group.entries().collect(),
            bytes: bytes.to_vec(),
        }
    }

    pub(crate) fn lsn(&self) -> u64 {
        self.header.stamp.lsn
    }

    /// Where the next group goes.
    pub(crate) fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }

    /// Writes `bytes` over it, `at` bytes into it, behind everyone's back.
    pub(crate) fn overwrite(&self, disk: &Disk, at: usize, bytes: &[u8]) {
        disk.damage(&self.path, self.position + at as u64, bytes);
    }

    /// Writes it back as it was.
    pub(crate) fn put_back(&self, disk: &Disk) {
        self.overwrite(disk, 0, &self.bytes);
    }

    /// Flips the byte that lies `at` bytes into it.
    pub(crate) fn flip(&self, disk: &Disk, at: usize) {
        disk.flip_byte(&self.path, self.position + at as u64);
    }

    /// Wipes it out.
    pub(crate) fn wipe(&self, disk: &Disk) {
        self.overwrite(disk, 0, &vec![0; self.bytes.len()]);
    }
}

/// The salt in a WAL file's name.
pub(crate) fn salt_of(path: &str) -> u64 {
    let name = path.strip_suffix(".wal").expect("it is a WAL file");
    u64::from_str_radix(&name[name.len() - 16..], 16).expect("its name ends in a salt")
}

/// Makes the checksums of a group right again after a test changed something in it.
pub(crate) fn reseal(bytes: &mut [u8]) {
    let field = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (length, directory) = (field(48) as usize, field(52) as usize);
    let header_crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[24..32]), &bytes[..64]);
    let crc = crc32c::crc32c_append(header_crc, &bytes[directory..length]);
    bytes[64..68].copy_from_slice(&crc.to_le_bytes());
    bytes[68..72].copy_from_slice(&header_crc.to_le_bytes());
}

/// Appends one record to each of these partitions, all in one group, and waits for their acks.
pub(crate) async fn append_together(log: &Log<SimRuntime>, to: &[(u64, u64)]) {
    let append = |&(id, value): &(u64, u64)| {
        let bytes = support::batch(&[value], Producer::NONE);
        durable(log, id).append(&Batch::parse_one(&bytes).expect("just built"), 1).expect("it is taken")
    };
    for appended in to.iter().map(append).collect::<Vec<_>>() {
        let synced = log.synced(appended.lsn()).await.expect("the disk works");
        let _ = appended.acknowledge(synced);
    }
}

/// Appends records to one partition, each in a group of its own.
pub(crate) async fn append_each(log: &Log<SimRuntime>, id: u64, values: Range<u64>) {
    for value in values {
        append_acked(log, &durable(log, id), &[value]).await;
    }
}

/// The values of all records of a `durable` partition that can be read, from the first on.
pub(crate) async fn values(log: &Log<SimRuntime>, id: u64) -> Vec<u64> {
    let partition = durable(log, id);
    let end = partition.refused_from().unwrap_or(u64::MAX).min(partition.offsets().high_watermark);
    let mut values = Vec::new();
    let mut next = 0;
    while next < end {
        let batches = partition.read(next, 3000).await.expect("it can be read");
        assert!(batches.next_offset > next, "a read below the end gets on from {next}");
        next = batches.next_offset;
        let bytes: Vec<u8> = batches.slices.iter().flat_map(|slice| slice.to_vec()).collect();
        values.extend(records(&bytes).into_iter().map(|(_, value)| value));
    }
    values
}

pub(crate) fn memory(log: &Log<SimRuntime>, id: u64) -> Partition<SimRuntime> {
    log.adopt(PartitionId(id), Durability::Memory)
}
