//! Recovery of the WAL: reads every file, tells a torn tail from damage, and hands the groups on in order.
//!
//! | what is found | what a crash or a fault did | decision |
//! |---|---|---|
//! | nothing behind the last valid group | stopped between two groups | go on |
//! | no valid group, or one whose entries do not hold, above the last valid LSN | stopped during a write | torn tail: cut, recorded in the manifest before anything is appended |
//! | a group's predecessor neither found, flushed nor cut | damage inside the synced region | refuse the partitions its tails name |
//! | … and more than one group is missing there | more damage | refuse every partition above its last proven offset |
//! | an entry that does not hold, in a group below a valid one | damage inside the synced region | refuse that entry's partition from its first offset |
//! | a group of this log and file with an unknown version or kind | a later program wrote it | refuse the log, untouched |
//!
//! Every file is synced before anything in it counts: a write of a killed process may still be in the device's cache.
//! Groups are found by length, one behind the other; only where none is found does the search go on at each 4 KiB.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use runtime::{File, Frozen, OpenMode, Runtime, sabotage::planted};
use wire::record::Batch;

use super::files::{WalFile, parse_file_name};
use crate::{
    PartitionId,
    error::OpenError,
    group::{EntryKind, GROUP_ALIGNMENT, Group, GroupError, HEADER_BYTES, Header, Tail},
    synced::Lsn,
};

/// What of the WAL does not have to be read again.
pub(crate) trait Known {
    /// Groups up to here are in segments.
    fn flushed_lsn(&self) -> Lsn;
    /// Groups of the file with this salt that lie above the LSN are ignored for ever.
    fn cut(&self, salt: u64) -> Option<Lsn>;
}

/// The WAL as found.
pub(crate) struct Found<R: Runtime> {
    /// Files, by sequence, with their groups that are not flushed yet.
    pub(crate) files: Vec<FoundFile<R>>,
    /// The last valid group.
    pub(crate) last: Option<Last>,
    /// The highest LSN seen, valid or not.
    pub(crate) lsn_seen_max: Lsn,
    /// What damage inside the synced region touched.
    pub(crate) damage: Damage,
    /// The sequence number for the next file.
    pub(crate) sequence_next: u64,
    /// Files in the directory that are not ours, left alone.
    pub(crate) strangers: Vec<PathBuf>,
}

/// The last valid group of the WAL.
pub(crate) struct Last {
    pub(crate) lsn: Lsn,
    /// The salt of its file.
    pub(crate) salt: u64,
    /// How far it took its partitions: the next group carries it.
    pub(crate) tails: Vec<Tail>,
}

/// One WAL file and its groups, ascending.
pub(crate) struct FoundFile<R: Runtime> {
    pub(crate) file: WalFile<R>,
    pub(crate) groups: Vec<FoundGroup<R::Frozen>>,
    /// The highest LSN that any header in it claims, valid or not.
    pub(crate) lsn_seen_max: Lsn,
}

/// A group whose header, directory and tails hold.
pub(crate) struct FoundGroup<F> {
    pub(crate) lsn: Lsn,
    previous_lsn: Lsn,
    pub(crate) bytes: F,
    /// Entries that do not hold.
    pub(crate) damaged: Vec<u32>,
}

/// Damage inside the synced region, by the group it was found at: what the groups before that one prove, still holds.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// What was touched.
    pub(crate) touched: BTreeMap<Lsn, Vec<Touched>>,
    /// Where, for whoever reads the log.
    pub(crate) places: Vec<String>,
}

/// What damage touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    /// An entry of this partition, from the first of these offsets on and up to the second.
    Entry(PartitionId, u64, u64),
    /// This partition, somewhere behind what is proven and up to this offset.
    Partition(PartitionId, u64),
    /// Nobody can tell: any partition.
    Any,
}

/// Reads all WAL files of a log.
pub(crate) async fn read<R: Runtime>(
    rt: &R,
    dir: &Path,
    log_id: u128,
    known: &impl Known,
) -> Result<Found<R>, OpenError> {
    let mut found = open_files(rt, dir).await?;
    for file in &mut found.files {
        let scan = Scan { rt, log_id, file: &file.file, lsn_seen_max: &mut file.lsn_seen_max };
        let mut groups = scan.run().await?;
        found.lsn_seen_max = found.lsn_seen_max.max(file.lsn_seen_max);
        let cut = known.cut(file.file.salt).unwrap_or(Lsn::MAX);
        groups.retain(|group| group.lsn > known.flushed_lsn() && group.lsn <= cut);
        file.groups = groups;
    }
    found.drop_torn_group();
    found.check_chain(known, log_id);
    Ok(found)
}

/// Opens all WAL files without reading them: after a clean stop they hold nothing.
pub(crate) async fn open_files<R: Runtime>(rt: &R, dir: &Path) -> Result<Found<R>, OpenError> {
    let mut found = Found {
        files: Vec::new(),
        last: None,
        lsn_seen_max: 0,
        damage: Damage::default(),
        sequence_next: 1,
        strangers: Vec::new(),
    };
    let mut entries = rt.list_dir(dir).await.map_err(OpenError::io("list", dir))?;
    entries.sort();
    for entry in entries {
        let path = dir.join(&entry.name);
        let Some((sequence, salt)) = parse_file_name(&entry.name) else {
            found.strangers.push(path);
            continue;
        };
        let file = rt.open(&path, OpenMode::Durable).await.map_err(OpenError::io("open", &path))?;
        found.sequence_next = found.sequence_next.max(sequence + 1);
        // How far it was written out is not known; a group in unwritten space is only slower.
        let file = WalFile::new(file, path, salt, entry.len, entry.len);
        found.files.push(FoundFile { file, groups: Vec::new(), lsn_seen_max: 0 });
    }
    Ok(found)
}

impl<R: Runtime> Found<R> {
    /// The highest group of all was under way when its entries do not hold: nothing in it was acknowledged.
    fn drop_torn_group(&mut self) {
        let last = |file: &FoundFile<R>| file.groups.last().map_or(0, |group| group.lsn);
        let Some(file) = self.files.iter_mut().max_by_key(|file| last(file)) else { return };
        file.groups.pop_if(|group| !group.damaged.is_empty());
    }

    /// Follows the LSNs from group to group and names what is missing or damaged between them.
    fn check_chain(&mut self, known: &impl Known, log_id: u128) {
        let mut chain: Vec<(&FoundGroup<R::Frozen>, &WalFile<R>)> =
            self.files.iter().flat_map(|file| file.groups.iter().map(|group| (group, &file.file))).collect();
        chain.sort_by_key(|(group, _)| group.lsn);
        let mut lsn_before = known.flushed_lsn();
        for (found, file) in &chain {
            let group = Group::parse(&found.bytes, log_id, file.salt).expect("it was parsed when it was found");
            if found.previous_lsn > lsn_before && planted("truncate on rot") {
                break;
            }
            if found.previous_lsn > lsn_before {
                self.damage.missing(found, &group, lsn_before, &file.path);
            }
            for &index in &found.damaged {
                self.damage.damaged(found.lsn, &group, index, &file.path);
            }
            lsn_before = found.lsn;
        }
        self.last = chain.last().map(|(found, file)| {
            let group = Group::parse(&found.bytes, log_id, file.salt).expect("it was parsed when it was found");
            Last { lsn: found.lsn, salt: file.salt, tails: tails_of(&group) }
        });
    }
}

impl Damage {
    /// The groups between `lsn_before` and `found` are gone. Its tails name who was in the last of them.
    fn missing<F>(&mut self, found: &FoundGroup<F>, group: &Group<'_>, lsn_before: Lsn, path: &Path) {
        let missing = found.previous_lsn - lsn_before;
        self.places.push(format!("{}: {missing} group(s) before LSN {} missing or damaged", path.display(), found.lsn));
        let touched = self.touched.entry(found.lsn).or_default();
        if missing > 1 {
            touched.push(Touched::Any);
        }
        touched.extend(group.tails().map(|Tail { partition, next_offset }| Touched::Partition(partition, next_offset)));
    }

    /// One entry of a group that was found does not hold.
    fn damaged(&mut self, lsn: Lsn, group: &Group<'_>, index: u32, path: &Path) {
        let (entry, range) = group.entries().nth(index as usize).expect("it was counted when it was found");
        self.places.push(format!(
            "{}: {:?} of partition {} at offset {} damaged (LSN {lsn}, {} bytes into the group)",
            path.display(),
            entry.kind,
            entry.partition,
            entry.base_offset,
            range.start
        ));
        let touched = Touched::Entry(entry.partition, entry.base_offset, entry.next_offset);
        self.touched.entry(lsn).or_default().push(touched);
    }
}

/// How far a group takes each partition that it is about.
fn tails_of(group: &Group<'_>) -> Vec<Tail> {
    let mut next_offsets = BTreeMap::new();
    for (entry, _) in group.entries() {
        match entry.kind {
            EntryKind::Batch | EntryKind::Truncate | EntryKind::LogStart | EntryKind::Drop => {
                next_offsets.insert(entry.partition, entry.next_offset);
            }
            EntryKind::Reserve => {
                next_offsets.entry(entry.partition).or_insert(entry.base_offset);
            }
            EntryKind::Marker | EntryKind::Edit => {}
        }
    }
    next_offsets.into_iter().map(|(partition, next_offset)| Tail { partition, next_offset }).collect()
}

struct Scan<'a, R: Runtime> {
    rt: &'a R,
    log_id: u128,
    file: &'a WalFile<R>,
    lsn_seen_max: &'a mut Lsn,
}

impl<R: Runtime> Scan<'_, R> {
    async fn run(mut self) -> Result<Vec<FoundGroup<R::Frozen>>, OpenError> {
        let WalFile { file, path, bytes, .. } = self.file;
        if !planted("no sync at recovery") {
            file.sync().await.map_err(OpenError::io("sync", path))?;
        }
        let mut groups = Vec::new();
        let mut position = 0;
        while position + (HEADER_BYTES as u64) <= *bytes {
            let len = (self.rt.block_bytes() as u64).min(bytes - position) as usize;
            let window = match file.read(position, len).await {
                Ok(window) => window,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
                // A sector that cannot be read is damage to what lies there, and to nothing else.
                Err(_) => self.read_around(position, len).await,
            };
            position += self.scan_window(&window, position, &mut groups).await?;
            self.rt.sleep(std::time::Duration::ZERO).await;
        }
        Ok(groups)
    }

    /// Finds the groups that start in a window. Returns how many bytes of it are dealt with.
    async fn scan_window(
        &mut self,
        window: &R::Frozen,
        position: u64,
        groups: &mut Vec<FoundGroup<R::Frozen>>,
    ) -> Result<u64, OpenError> {
        let mut at = 0;
        while at + HEADER_BYTES <= window.len() {
            let header = match Header::parse(&window[at..], self.log_id, self.file.salt) {
                Ok(header) => header,
                Err(error @ (GroupError::UnknownVersion { .. } | GroupError::UnknownKind { .. })) => {
                    return Err(self.unknown_format(position + at as u64, error));
                }
                Err(_) => {
                    at += GROUP_ALIGNMENT;
                    continue;
                }
            };
            *self.lsn_seen_max = header.stamp.lsn.max(*self.lsn_seen_max);
            let padded = header.padded_bytes();
            let bytes = if at + padded <= window.len() {
                Some(window.slice(at..at + padded))
            } else if at > 0 {
                // It goes on behind this window: the next one starts with it.
                return Ok(at as u64);
            } else {
                self.read_whole(position, padded).await
            };
            let parsed = bytes.map(|bytes| self.parse(bytes));
            match parsed {
                Some(Ok(group)) => {
                    groups.push(group);
                    at += padded;
                }
                Some(Err(error @ (GroupError::UnknownVersion { .. } | GroupError::UnknownKind { .. }))) => {
                    return Err(self.unknown_format(position + at as u64, error));
                }
                Some(Err(_)) | None => at += GROUP_ALIGNMENT,
            }
        }
        Ok(at.max(GROUP_ALIGNMENT) as u64)
    }

    fn parse(&self, bytes: R::Frozen) -> Result<FoundGroup<R::Frozen>, GroupError> {
        let group = Group::parse(&bytes, self.log_id, self.file.salt)?;
        let mut damaged = Vec::new();
        for index in 0..group.header.entry_count {
            let holds = match group.entry(index) {
                Ok((entry, payload)) if entry.kind == EntryKind::Batch => {
                    Batch::parse_one(payload).is_ok_and(|batch| {
                        batch.verify_stored().is_ok()
                            && batch.base_offset() == entry.base_offset
                            && batch.next_offset() == entry.next_offset
                    })
                }
                Ok((entry, _)) => entry.kind != EntryKind::Edit,
                Err(_) => false,
            };
            if !holds {
                damaged.push(index);
            }
        }
        let (lsn, previous_lsn) = (group.header.stamp.lsn, group.header.stamp.previous_lsn);
        Ok(FoundGroup { lsn, previous_lsn, bytes, damaged })
    }

    /// A group larger than a window, if the file is long enough for what its header says.
    async fn read_whole(&self, position: u64, len: usize) -> Option<R::Frozen> {
        if position + len as u64 > self.file.bytes {
            return None;
        }
        self.file.file.read(position, len).await.ok()
    }

    /// A window with zeros in place of what cannot be read.
    async fn read_around(&self, position: u64, len: usize) -> R::Frozen {
        let mut block = self.rt.block(len);
        for start in (0..len).step_by(GROUP_ALIGNMENT) {
            let end = (start + GROUP_ALIGNMENT).min(len);
            match self.file.file.read(position + start as u64, end - start).await {
                Ok(piece) => block[start..end].copy_from_slice(&piece),
                Err(_) => block[start..end].fill(0),
            }
        }
        runtime::Block::freeze(block, len)
    }

    fn unknown_format(&self, position: u64, source: GroupError) -> OpenError {
        OpenError::UnknownFormat { file: self.file.path.display().to_string(), position, source }
    }
}
