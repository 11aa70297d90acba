//! What a log's directory holds, at a glance: files, segments, and how far each partition goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
};

use runtime::Runtime;

use super::{InspectError, wal::Wal};
use crate::{
    PartitionId,
    group::{Entry, EntryKind},
    journal::FileName,
    manifest::{Fate, Manifest, Refusal, State},
    segment::{self, Extent, Location, SegmentId, Segments},
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The log's own number.
    pub log_id: u128,
    /// Whether it was stopped cleanly and not opened since.
    pub is_clean: bool,
    /// WAL groups up to this one are in segments.
    pub flushed_lsn: u64,
    /// Files of the manifest, oldest first, with their lengths in bytes.
    pub manifest: Vec<(PathBuf, u64)>,
    /// Files of the WAL, by sequence.
    pub wal: Vec<WalFileSurvey>,
    /// Segments and what else lies among them, by number.
    pub segments: Vec<SegmentFile>,
    /// Every partition that manifest or WAL speak of.
    pub partitions: BTreeMap<PartitionId, PartitionSurvey>,
    /// Files that are none of this log's.
    pub strangers: Vec<PathBuf>,
}

/// One file of the WAL.
#[derive(Clone, Debug)]
pub struct WalFileSurvey {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Where its last group ends.
    pub used_bytes: u64,
    /// LSNs of its first and last group.
    pub lsns: Option<(u64, u64)>,
    /// Groups that hold.
    pub groups: usize,
    /// Those of them that are nowhere else.
    pub live_groups: usize,
}

/// One segment.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// Its number.
    pub id: SegmentId,
    /// What it is to the log.
    pub fate: SegmentFate,
    /// Length of its file in bytes; `None`: there is none.
    pub bytes: Option<u64>,
    /// Its level, if the manifest knows it.
    pub level: Option<u8>,
    /// Whose batches it holds, if the manifest knows it.
    pub extent: Option<Extent>,
}

/// What a segment is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentFate {
    /// It holds data.
    Live,
    /// It holds nothing any more: the next start removes it.
    Obsolete,
    /// The manifest never heard of it.
    Unknown,
}

/// One partition, as recovery would find it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSurvey {
    /// Its first offset.
    pub log_start: u64,
    /// Offset behind its last record.
    pub log_end: u64,
    /// Offset behind the last one in segments.
    pub flushed_end: u64,
    /// Bytes of its batches in segments, those that do not count any more included.
    pub segment_bytes: u64,
    /// Segments that hold some of it.
    pub segments: usize,
    /// Batches in the WAL that are nowhere else.
    pub wal_batches: usize,
    /// From where on it is refused, and how that is known.
    pub refused: Option<Refusal>,
    /// Offsets that hold nothing because a crash took them.
    pub lost: Vec<Range<u64>>,
}

/// Looks at the log in `dir`.
///
/// # Errors
/// [`InspectError`].
pub async fn survey<R: Runtime>(rt: &R, dir: &Path) -> Result<Survey, InspectError> {
    let manifest = Manifest::open(rt, dir).await?;
    if manifest.is_new() {
        return Err(InspectError::NoLog { dir: dir.to_owned() });
    }
    let (state, log_id) = (manifest.state().clone(), manifest.log_id());
    let wal = Wal::read(rt, &dir.join("wal"), log_id).await?;
    let mut survey = Survey {
        log_id,
        is_clean: state.clean,
        flushed_lsn: state.flushed.lsn,
        manifest: manifest_files(rt, dir).await?,
        wal: Vec::new(),
        segments: Vec::new(),
        partitions: partitions(&wal, &state),
        strangers: wal.strangers.clone(),
    };
    survey.look_at_wal(&wal, &state);
    survey.look_at_segments(rt, dir, &state).await?;
    Ok(survey)
}

impl Survey {
    fn look_at_wal(&mut self, wal: &Wal, state: &State) {
        let live = wal.live(state);
        self.wal = wal
            .files
            .iter()
            .map(|file| WalFileSurvey {
                path: file.path.clone(),
                bytes: file.bytes,
                used_bytes: file.groups.last().map_or(0, |group| group.end),
                lsns: file.groups.first().zip(file.groups.last()).map(|(first, last)| (first.lsn, last.lsn)),
                groups: file.groups.len(),
                live_groups: live.iter().filter(|(of, _)| std::ptr::eq(*of, file)).count(),
            })
            .collect();
    }

    async fn look_at_segments<R: Runtime>(&mut self, rt: &R, dir: &Path, state: &State) -> Result<(), InspectError> {
        let dir = segment::directory(dir);
        let mut found = BTreeMap::new();
        for entry in rt.list_dir(&dir).await.map_err(InspectError::io(&dir))? {
            match segment::id_of_file_name(&entry.name) {
                Some(id) => drop(found.insert(id, entry.len)),
                None => self.strangers.push(dir.join(entry.name)),
            }
        }
        let live = state.segments.iter().filter(|meta| meta.location != Location::Remote).map(|meta| meta.id);
        let ids: BTreeSet<SegmentId> = live.chain(found.keys().copied()).collect();
        for id in ids {
            let meta = state.segments.iter().find(|meta| meta.id == id);
            self.segments.push(SegmentFile {
                id,
                fate: match state.fate(id) {
                    Fate::Live => SegmentFate::Live,
                    Fate::Delete => SegmentFate::Obsolete,
                    Fate::Unknown => SegmentFate::Unknown,
                },
                bytes: found.get(&id).copied(),
                level: meta.map(|meta| meta.level),
                extent: meta.map(|meta| meta.extent),
            });
        }
        // One footer at a time; a damaged one is verification's to tell of.
        let segments = Segments::new(rt, dir, self.log_id, 0);
        for meta in &state.segments {
            let Ok(reader) = segments.open(meta).await else { continue };
            for holding in reader.footer().holdings() {
                if let Some(partition) = self.partitions.get_mut(&holding.entry.partition) {
                    partition.segments += 1;
                    partition.segment_bytes += holding.bytes();
                }
            }
        }
        Ok(())
    }
}

async fn manifest_files<R: Runtime>(rt: &R, dir: &Path) -> Result<Vec<(PathBuf, u64)>, InspectError> {
    let entries = rt.list_dir(dir).await.map_err(InspectError::io(dir))?;
    let mut files: Vec<_> =
        entries.into_iter().filter_map(|entry| Some((FileName::parse(&entry.name, "manifest")?, entry))).collect();
    files.sort();
    Ok(files.into_iter().map(|(_, entry)| (dir.join(entry.name), entry.len)).collect())
}

/// What the manifest says of partitions, and what the WAL's live groups make of it.
fn partitions(wal: &Wal, state: &State) -> BTreeMap<PartitionId, PartitionSurvey> {
    let known = state.partitions.iter().map(|(&id, known)| {
        let survey = PartitionSurvey {
            log_start: known.log_start,
            log_end: known.flushed_end,
            flushed_end: known.flushed_end,
            refused: known.refused,
            lost: known.lost.to_vec(),
            ..PartitionSurvey::default()
        };
        (id, survey)
    });
    let mut partitions: BTreeMap<_, _> = known.collect();
    for (_, group) in wal.live(state) {
        for Entry { kind, partition, base_offset, next_offset, .. } in &group.entries {
            if state.dropped.get(partition).is_some_and(|&lsn| group.lsn <= lsn) {
                continue;
            }
            match kind {
                EntryKind::Batch => {
                    let partition = partitions.entry(*partition).or_default();
                    partition.log_end = *next_offset;
                    partition.wal_batches += 1;
                }
                EntryKind::Truncate => partitions.entry(*partition).or_default().log_end = *next_offset,
                EntryKind::LogStart => {
                    let partition = partitions.entry(*partition).or_default();
                    partition.log_start = partition.log_start.max(*base_offset);
                }
                EntryKind::Drop => drop(partitions.remove(partition)),
                EntryKind::Reserve | EntryKind::Marker | EntryKind::Edit => {}
            }
        }
    }
    // It reached as far when that was said, whatever damage hides.
    partitions.values_mut().for_each(|partition| partition.log_end = partition.log_end.max(partition.log_start));
    partitions
}
