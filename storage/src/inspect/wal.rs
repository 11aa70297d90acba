//! Reads all of a WAL, and tells what holds, what is needed, and what is missing.
//!
//! The decision table is recovery's (`wal/replay`), followed here on its own: groups that are neither flushed nor cut are
//! *live*, and each has to name the one before it.

use std::path::{Path, PathBuf};

use runtime::Runtime;
use wire::record::Batch;

use super::{
    InspectError, Verified,
    groups::{Step, Walk},
};
use crate::{
    group::{Entry, EntryKind, Group},
    manifest::State,
    wal::parse_file_name,
};

/// One WAL file as it lies.
pub(super) struct WalFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) salt: u64,
    /// Groups whose header and lists hold, by position.
    pub(super) groups: Vec<WalGroup>,
    /// Places where a group does not hold.
    damaged: Vec<(u64, String)>,
}

/// One group of it.
pub(super) struct WalGroup {
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) lsn: u64,
    previous_lsn: u64,
    pub(super) entries: Vec<Entry>,
    /// Entries that do not hold, and why.
    damaged: Vec<(usize, String)>,
}

/// All files of a WAL, and those in its directory that are none.
#[derive(Default)]
pub(super) struct Wal {
    pub(super) files: Vec<WalFile>,
    pub(super) strangers: Vec<PathBuf>,
}

impl Wal {
    /// Reads every file. In memory stay the directories of their groups.
    pub(super) async fn read<R: Runtime>(rt: &R, dir: &Path, log_id: u128) -> Result<Self, InspectError> {
        let mut wal = Self::default();
        let mut entries = rt.list_dir(dir).await.map_err(InspectError::io(dir))?;
        entries.sort();
        for entry in entries {
            let path = dir.join(&entry.name);
            match parse_file_name(&entry.name) {
                Some((_, salt)) => wal.files.push(read_file(rt, path, log_id, salt).await?),
                None => wal.strangers.push(path),
            }
        }
        Ok(wal)
    }

    /// The groups that live nowhere else, in order, each with its file.
    pub(super) fn live<'a>(&'a self, state: &State) -> Vec<(&'a WalFile, &'a WalGroup)> {
        let mut live: Vec<_> = self
            .files
            .iter()
            .flat_map(|file| {
                let cut = state.cuts.iter().filter(|cut| cut.salt == file.salt).map(|cut| cut.lsn).min();
                let counts = move |lsn: u64| lsn > state.flushed.lsn && cut.is_none_or(|cut| lsn <= cut);
                file.groups.iter().filter(move |group| counts(group.lsn)).map(move |group| (file, group))
            })
            .collect();
        live.sort_by_key(|(_, group)| group.lsn);
        live
    }

    /// Says what is wrong with it.
    pub(super) fn verify(&self, state: &State, verified: &mut Verified) {
        let live = self.live(state);
        verified.files += self.files.len() as u64;
        verified.bytes += self.files.iter().map(|file| file.bytes).sum::<u64>();
        let mut lsn_before = state.flushed.lsn;
        let last_lsn = live.last().map(|(_, group)| group.lsn);
        for &(file, group) in &live {
            if group.previous_lsn > lsn_before {
                let missing = group.previous_lsn - lsn_before;
                let problem = format!("{missing} group(s) before group {} are missing or damaged", group.lsn);
                verified.damage(&file.path, Some(group.position), problem);
            }
            lsn_before = group.lsn;
            group.verify(file, Some(group.lsn) == last_lsn, verified);
        }
        for file in &self.files {
            file.verify_gaps(&live, verified);
        }
        for stranger in &self.strangers {
            verified.note(stranger, None, "not a file of this log");
        }
    }
}

impl WalFile {
    /// Judges the places where no group holds: below a live group of the file it was synced; behind the last of all it
    /// may be a torn tail; elsewhere nobody needs it.
    fn verify_gaps(&self, live: &[(&WalFile, &WalGroup)], verified: &mut Verified) {
        let own = |place: &usize| std::ptr::eq(live[*place].0, self);
        let last_own = (0..live.len()).rev().find(own);
        for (position, problem) in &self.damaged {
            let is_below = last_own.is_some_and(|place| live[place].1.position > *position);
            // What follows in another file names the group that it follows.
            let next = last_own.and_then(|place| Some((live[place].1.lsn, live.get(place + 1)?.1.previous_lsn)));
            if is_below || next.is_some_and(|(lsn, named)| named > lsn) {
                verified.damage(&self.path, Some(*position), problem);
            } else if last_own.is_some() || live.is_empty() || self.groups.is_empty() {
                verified.note(&self.path, Some(*position), format!("a torn tail, or void: {problem}"));
            }
        }
    }
}

impl WalGroup {
    fn verify(&self, file: &WalFile, is_last: bool, verified: &mut Verified) {
        verified.groups += 1;
        for (index, entry) in self.entries.iter().enumerate() {
            let Some((_, problem)) = self.damaged.iter().find(|(damaged, _)| *damaged == index) else {
                verified.entries += 1;
                verified.batches += u64::from(entry.kind == EntryKind::Batch);
                continue;
            };
            let Entry { kind, partition, base_offset, .. } = entry;
            let problem = format!("{kind:?} of partition {partition} at offset {base_offset}: {problem}");
            if is_last {
                verified.note(&file.path, Some(self.position), format!("a torn tail: {problem}"));
            } else {
                verified.damage(&file.path, Some(self.position), problem);
            }
        }
    }
}

async fn read_file<R: Runtime>(rt: &R, path: PathBuf, log_id: u128, salt: u64) -> Result<WalFile, InspectError> {
    let mut walk = Walk::open(rt, &path, log_id, salt).await?;
    let bytes = walk.len();
    let (mut groups, mut damaged) = (Vec::new(), Vec::new());
    loop {
        match walk.next().await {
            Step::Group { position, bytes } => {
                let group = Group::parse(&bytes, log_id, salt).expect("the walk proved it");
                groups.push(WalGroup {
                    position,
                    end: position + bytes.len() as u64,
                    lsn: group.header.stamp.lsn,
                    previous_lsn: group.header.stamp.previous_lsn,
                    entries: group.entries().map(|(entry, _)| entry).collect(),
                    damaged: damaged_entries(&group),
                });
            }
            Step::Damaged { position, lsn, problem } => {
                let of = lsn.map_or_else(String::new, |lsn| format!("group {lsn}: "));
                damaged.push((position, format!("{of}{problem}")));
            }
            Step::End => return Ok(WalFile { path, bytes, salt, groups, damaged }),
        }
    }
}

/// Entries of a group that do not hold, and why.
pub(crate) fn damaged_entries(group: &Group<'_>) -> Vec<(usize, String)> {
    let check = |index: u32| match group.entry(index) {
        Ok((entry, payload)) => check_entry(&entry, payload).err(),
        Err(error) => Some(error.to_string()),
    };
    (0..group.header.entry_count).filter_map(|index| Some((index as usize, check(index)?))).collect()
}

fn check_entry(entry: &Entry, payload: &[u8]) -> Result<(), String> {
    match entry.kind {
        EntryKind::Batch => {
            let batch = Batch::parse_one(payload).map_err(|error| error.to_string())?;
            batch.verify_stored().map_err(|error| error.to_string())?;
            let is_listed = batch.base_offset() == entry.base_offset && batch.next_offset() == entry.next_offset;
            if is_listed { Ok(()) } else { Err("its offsets are not those of the directory".to_owned()) }
        }
        EntryKind::Edit => Err("a write-ahead log has no edits".to_owned()),
        _ => Ok(()),
    }
}
