//! Shows what lies in a file, or of a partition, item by item, with one group or one run of batches in memory.

use std::{ops::Range, path::Path};

use runtime::Runtime;
use wire::record::{Batch, Batches};

use super::{
    Finding, InspectError, Severity,
    groups::{Step, Walk},
    wal::Wal,
};
use crate::{
    PartitionId,
    group::{Entry, EntryKind, Group},
    journal::FileName,
    kept::Kept,
    manifest::Manifest,
    segment::{self, SegmentError, SegmentMeta, reader::SegmentReader},
    wal::parse_file_name,
};

/// One thing that lies in a file.
pub enum Item<'a> {
    /// A sync group; its entries follow.
    Group {
        /// Where it starts, in bytes.
        position: u64,
        /// The group.
        group: &'a Group<'a>,
    },
    /// An entry of the group before, that is no batch.
    Entry {
        /// Where its bytes start in the file.
        position: u64,
        /// What the directory says.
        entry: Entry,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A record batch.
    Batch {
        /// The file.
        file: &'a Path,
        /// Where it starts in the file, in bytes.
        position: u64,
        /// Whose it is.
        partition: PartitionId,
        /// The batch.
        batch: &'a Batch<'a>,
    },
    /// Something that does not hold.
    Finding(&'a Finding),
}

/// Shows a file of a log: of its WAL, one of its segments, of its manifest or the metadata log. Goes by the file alone.
/// `show` says whether to go on.
///
/// # Errors
/// [`InspectError`].
pub async fn dump_file<R: Runtime>(
    rt: &R,
    path: &Path,
    mut show: impl AsyncFnMut(Item<'_>) -> bool,
) -> Result<(), InspectError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let journal = name.split_once('-').and_then(|(prefix, _)| FileName::parse(name, prefix));
    match (parse_file_name(name), journal, segment::id_of_file_name(name)) {
        (Some((_, salt)), ..) => dump_groups(rt, path, salt, &mut show).await,
        (_, Some(name), _) => dump_groups(rt, path, name.salt, &mut show).await,
        (.., Some(_)) => dump_segment(rt, path, &mut show).await,
        _ => Err(InspectError::Foreign { path: path.to_owned(), problem: "its name is that of none".to_owned() }),
    }
}

/// Shows the batches of a partition of the log in `dir` that hold any of `offsets`, and count: first those in segments,
/// then those that only the WAL has. `show` says whether to go on.
///
/// # Errors
/// [`InspectError`].
pub async fn dump_partition<R: Runtime>(
    rt: &R,
    dir: &Path,
    partition: PartitionId,
    offsets: Range<u64>,
    mut show: impl AsyncFnMut(Item<'_>) -> bool,
) -> Result<(), InspectError> {
    let manifest = Manifest::open(rt, dir).await?;
    if manifest.is_new() {
        return Err(InspectError::NoLog { dir: dir.to_owned() });
    }
    let (state, log_id) = (manifest.state().clone(), manifest.log_id());
    let log_start = state.partitions.get(&partition).map_or(0, |known| known.log_start);
    let offsets = offsets.start.max(log_start)..offsets.end;
    let segments = segment::directory(dir);
    for meta in state.segments.iter().filter(|meta| meta.extent.may_hold(partition)) {
        let clip = state.clip_of(partition, meta.id).unwrap_or(u64::MAX);
        let kept = Kept::new(offsets.clone(), state.given_up.of(partition, meta.id).into());
        for offsets in kept.stretches() {
            let of = Of { partition, offsets, clip };
            if !dump_run(rt, &segments, log_id, meta, &of, &mut show).await {
                return Ok(());
            }
        }
    }
    let wal_dir = dir.join("wal");
    let wal = Wal::read(rt, &wal_dir, log_id).await?;
    let live = wal.live(&state);
    // A later truncation voids what lies above it; one of the group itself or before does not.
    let end_after = |lsn: u64| {
        let later = live.iter().filter(|(_, group)| group.lsn > lsn).flat_map(|(_, group)| &group.entries);
        let ends = later.filter(|entry| entry.partition == partition).filter_map(|entry| match entry.kind {
            EntryKind::Truncate => Some(entry.next_offset),
            EntryKind::Drop => Some(0),
            _ => None,
        });
        ends.min().unwrap_or(u64::MAX)
    };
    for (file, group) in &live {
        if !group.entries.iter().any(|entry| entry.partition == partition && entry.kind == EntryKind::Batch) {
            continue;
        }
        let clip = end_after(group.lsn);
        let mut walk = Walk::open(rt, &file.path, log_id, file.salt).await?;
        walk.seek(group.position);
        let Step::Group { position, bytes } = walk.next().await else { continue };
        let group = Group::parse(&bytes, log_id, file.salt).expect("the walk proved it");
        for (entry, range) in group.entries() {
            let counts = entry.partition == partition && entry.next_offset <= clip;
            let is_asked_for = entry.next_offset > offsets.start && entry.base_offset < offsets.end;
            if counts && is_asked_for && entry.kind == EntryKind::Batch {
                let at = position + range.start as u64;
                if !show_entry(&file.path, at, entry, &bytes[range], &mut show).await {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// What is asked for of a segment.
struct Of {
    partition: PartitionId,
    offsets: Range<u64>,
    /// A batch that reaches beyond is void.
    clip: u64,
}

async fn dump_groups<R: Runtime>(
    rt: &R,
    path: &Path,
    salt: u64,
    show: &mut impl AsyncFnMut(Item<'_>) -> bool,
) -> Result<(), InspectError> {
    let mut walk = Walk::open_unlisted(rt, path, salt).await?;
    loop {
        let (position, bytes) = match walk.next().await {
            Step::Group { position, bytes } => (position, bytes),
            Step::Damaged { position, problem, .. } => {
                if !show_damage(path, position, problem, show).await {
                    return Ok(());
                }
                continue;
            }
            Step::End => return Ok(()),
        };
        let group = Group::parse(&bytes, walk.log_id(), salt).expect("the walk proved it");
        if !show(Item::Group { position, group: &group }).await {
            return Ok(());
        }
        for (index, (entry, range)) in group.entries().enumerate() {
            let at = position + range.start as u64;
            let goes_on = match group.entry(index as u32) {
                Ok((entry, payload)) => show_entry(path, at, entry, payload, show).await,
                Err(error) => {
                    let problem = format!("{:?} of partition {}: {error}", entry.kind, entry.partition);
                    show_damage(path, at, problem, show).await
                }
            };
            if !goes_on {
                return Ok(());
            }
        }
    }
}

async fn show_entry(
    path: &Path,
    position: u64,
    entry: Entry,
    bytes: &[u8],
    show: &mut impl AsyncFnMut(Item<'_>) -> bool,
) -> bool {
    if entry.kind != EntryKind::Batch {
        return show(Item::Entry { position, entry, bytes }).await;
    }
    match Batch::parse_one(bytes).and_then(|batch| batch.verify_stored().map(|()| batch)) {
        Ok(batch) => show(Item::Batch { file: path, position, partition: entry.partition, batch: &batch }).await,
        Err(error) => show_damage(path, position, error.to_string(), show).await,
    }
}

async fn show_damage(
    path: &Path,
    position: u64,
    problem: String,
    show: &mut impl AsyncFnMut(Item<'_>) -> bool,
) -> bool {
    let finding = Finding { severity: Severity::Damage, file: path.to_owned(), position: Some(position), problem };
    show(Item::Finding(&finding)).await
}

async fn dump_segment<R: Runtime>(
    rt: &R,
    path: &Path,
    show: &mut impl AsyncFnMut(Item<'_>) -> bool,
) -> Result<(), InspectError> {
    let reader = match SegmentReader::open_unlisted(rt, path).await {
        Ok(reader) => reader,
        Err(SegmentError::Io { source, .. }) => return Err(InspectError::Io { path: path.to_owned(), source }),
        Err(error) => {
            show_damage(path, 0, error.to_string(), show).await;
            return Ok(());
        }
    };
    let partitions: Vec<PartitionId> = reader.footer().holdings().map(|holding| holding.entry.partition).collect();
    for partition in partitions {
        let of = Of { partition, offsets: 0..u64::MAX, clip: u64::MAX };
        if !dump_holding(&reader, path, &of, show).await {
            break;
        }
    }
    Ok(())
}

/// Returns whether to go on.
async fn dump_run<R: Runtime>(
    rt: &R,
    dir: &Path,
    log_id: u128,
    meta: &SegmentMeta,
    of: &Of,
    show: &mut impl AsyncFnMut(Item<'_>) -> bool,
) -> bool {
    let path = dir.join(segment::file_name(meta.id));
    match SegmentReader::open(rt, dir, log_id, meta).await {
        Ok(reader) => dump_holding(&reader, &path, of, show).await,
        Err(error) => show_damage(&path, 0, error.to_string(), show).await,
    }
}

/// Returns whether to go on.
async fn dump_holding<R: Runtime>(
    reader: &SegmentReader<R>,
    path: &Path,
    of: &Of,
    show: &mut impl AsyncFnMut(Item<'_>) -> bool,
) -> bool {
    let Some(span) = reader.footer().find(of.partition).map(|holding| holding.span(&of.offsets)) else { return true };
    let mut position = span.start;
    while position < span.end {
        let end = reader.footer().batch_end(position, reader.read_limit(position, usize::MAX)).min(span.end);
        match reader.verified(position..end).await {
            Ok(run) => {
                if !show_run(path, position, &run, of, show).await {
                    return false;
                }
            }
            Err(error) => {
                if !show_damage(path, position, error.to_string(), show).await {
                    return false;
                }
            }
        }
        position = end;
    }
    true
}

async fn show_run(
    path: &Path,
    position: u64,
    run: &[u8],
    of: &Of,
    show: &mut impl AsyncFnMut(Item<'_>) -> bool,
) -> bool {
    let mut at = position;
    for batch in Batches::new(run) {
        let batch = match batch.and_then(|batch| batch.verify_stored().map(|()| batch)) {
            Ok(batch) => batch,
            Err(error) => return show_damage(path, at, error.to_string(), show).await,
        };
        let counts = batch.next_offset() <= of.clip;
        let is_asked_for = counts && batch.next_offset() > of.offsets.start && batch.base_offset() < of.offsets.end;
        if is_asked_for && !show(Item::Batch { file: path, position: at, partition: of.partition, batch: &batch }).await
        {
            return false;
        }
        at += batch.bytes().len() as u64;
    }
    true
}
