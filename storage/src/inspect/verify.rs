//! Verifies a whole log: manifest, WAL, segments, and that they fit together.

use std::{collections::BTreeMap, path::Path};

use runtime::Runtime;

use super::{Finding, InspectError, Severity, Verified, journal, segment, wal::Wal};
use crate::{
    PartitionId,
    group::{Entry, EntryKind},
    manifest::{Fate, Manifest, OpenError, State},
    segment as segments,
};

/// Prefix of the manifest's files.
const MANIFEST: &str = "manifest";

/// Reads everything in the directory of a log and says what does not hold.
///
/// # Errors
/// [`InspectError::NoLog`], [`InspectError::Io`] for the directories themselves. A damaged manifest is a finding.
pub async fn verify_log<R: Runtime>(rt: &R, dir: &Path) -> Result<Verified, InspectError> {
    if journal::newest(rt, dir, MANIFEST).await?.is_none() {
        return Err(InspectError::NoLog { dir: dir.to_owned() });
    }
    let mut verified = journal::verify_journal(rt, dir, MANIFEST).await?;
    let manifest = match Manifest::open(rt, dir).await {
        Ok(manifest) => manifest,
        Err(error) => {
            // Without it nothing can be said of the rest.
            if verified.is_sound() || !matches!(error, OpenError::Journal(_)) {
                verified.damage(dir, None, error);
            }
            return Ok(verified);
        }
    };
    let state = manifest.state().clone();
    verify_known_damage(dir, &state, &mut verified);
    let wal = Wal::read(rt, &dir.join("wal"), manifest.log_id()).await?;
    wal.verify(&state, &mut verified);
    verify_order(&wal, &state, &mut verified);
    verify_segments(rt, dir, manifest.log_id(), &state, &mut verified).await?;
    Ok(verified)
}

/// What recovery found before and nobody has repaired.
fn verify_known_damage(dir: &Path, state: &State, verified: &mut Verified) {
    for (id, partition) in &state.partitions {
        if let Some(refusal) = partition.refused {
            let problem = format!("partition {id} is refused from offset {} on ({:?})", refusal.from, refusal.evidence);
            verified.damage(dir, None, problem);
        }
    }
}

/// Each batch of the WAL starts where its partition ends.
fn verify_order(wal: &Wal, state: &State, verified: &mut Verified) {
    let mut ends: BTreeMap<PartitionId, u64> =
        state.partitions.iter().map(|(&id, partition)| (id, partition.flushed_end)).collect();
    let mut dropped = state.dropped.clone();
    let mut misfits: Vec<(PartitionId, u64, Finding)> = Vec::new();
    for (file, group) in wal.live(state) {
        for Entry { kind, partition, base_offset, next_offset, .. } in &group.entries {
            if dropped.get(partition).is_some_and(|&lsn| group.lsn <= lsn) {
                continue;
            }
            let known = state.partitions.get(partition);
            match kind {
                EntryKind::Batch => {
                    let mut end = ends.get(partition).copied().unwrap_or(0);
                    let lost = known.and_then(|known| known.lost.iter().find(|lost| lost.contains(&end)));
                    end = lost.map_or(end, |lost| lost.end);
                    let is_refused = known.is_some_and(|known| known.refused.is_some());
                    if *base_offset != end && !is_refused {
                        let problem = format!("partition {partition} goes on at offset {base_offset}, {end} expected");
                        let (file, position) = (file.path.clone(), Some(group.position));
                        let finding = Finding { severity: Severity::Damage, file, position, problem };
                        misfits.push((*partition, end, finding));
                    }
                    ends.insert(*partition, *next_offset);
                }
                EntryKind::Truncate => {
                    ends.insert(*partition, *next_offset);
                    // The manifest may know of it already: what lies in front of it in the WAL is void.
                    misfits.retain(|(of, end, _)| of != partition || end < next_offset);
                }
                EntryKind::Drop => {
                    ends.remove(partition);
                    misfits.retain(|(of, ..)| of != partition);
                    dropped.insert(*partition, group.lsn);
                }
                EntryKind::LogStart | EntryKind::Reserve | EntryKind::Marker | EntryKind::Edit => {}
            }
        }
    }
    verified.findings.extend(misfits.into_iter().map(|(.., finding)| finding));
}

async fn verify_segments<R: Runtime>(
    rt: &R,
    dir: &Path,
    log_id: u128,
    state: &State,
    verified: &mut Verified,
) -> Result<(), InspectError> {
    let dir = segments::directory(dir);
    for meta in &state.segments {
        segment::verify(rt, &dir, log_id, meta, verified).await;
    }
    for entry in rt.list_dir(&dir).await.map_err(InspectError::io(&dir))? {
        let fate = segments::id_of_file_name(&entry.name).map_or(Fate::Unknown, |id| state.fate(id));
        match fate {
            Fate::Live => {}
            Fate::Delete => verified.note(&dir.join(&entry.name), None, "obsolete: the next start removes it"),
            Fate::Unknown => verified.note(&dir.join(&entry.name), None, "not a segment of this log"),
        }
    }
    Ok(())
}
