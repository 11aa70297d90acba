//! Verifies a journal: every file's groups, one behind the other, from the snapshot to the last edit.

use std::path::Path;

use runtime::Runtime;

use super::{
    InspectError, Severity, Verified,
    groups::{Step, Walk},
};
use crate::{
    group::{EntryKind, Group},
    journal::FileName,
};

/// Verifies the journal whose files in `dir` start with `prefix`. What its edits say is the owner's to check.
///
/// # Errors
/// [`InspectError`]: the directory cannot be listed.
pub async fn verify_journal<R: Runtime>(rt: &R, dir: &Path, prefix: &str) -> Result<Verified, InspectError> {
    let mut verified = Verified::default();
    let newest = newest(rt, dir, prefix).await?;
    for entry in rt.list_dir(dir).await.map_err(InspectError::io(dir))? {
        let Some(name) = FileName::parse(&entry.name, prefix) else { continue };
        let path = dir.join(&entry.name);
        if !name.complete {
            verified.note(&path, None, "a file that was never finished, and counts for nothing");
            continue;
        }
        let mut of_file = verify_file(rt, &path, name.salt).await?;
        if Some(name) != newest {
            // What a newer file says holds; this one was about to be removed.
            of_file.findings.iter_mut().for_each(|finding| finding.severity = Severity::Note);
        }
        verified.absorb(of_file);
    }
    Ok(verified)
}

/// The file that says what counts, if there is one.
pub(super) async fn newest<R: Runtime>(rt: &R, dir: &Path, prefix: &str) -> Result<Option<FileName>, InspectError> {
    let entries = rt.list_dir(dir).await.map_err(InspectError::io(dir))?;
    let names = entries.iter().filter_map(|entry| FileName::parse(&entry.name, prefix));
    Ok(names.filter(|name| name.complete).max())
}

async fn verify_file<R: Runtime>(rt: &R, path: &Path, salt: u64) -> Result<Verified, InspectError> {
    let mut walk = Walk::open_unlisted(rt, path, salt).await?;
    let mut verified = Verified { files: 1, bytes: walk.len(), ..Verified::default() };
    // Where the next group has to be, and behind which other.
    let (mut end, mut last_lsn) = (0, None);
    let mut pending = Vec::new();
    loop {
        match walk.next().await {
            Step::Group { position, bytes } => {
                let group = Group::parse(&bytes, walk.log_id(), salt).expect("the walk proved it");
                if position != end {
                    verified.damage(path, Some(end), format!("no group is here, and one follows at byte {position}"));
                }
                // With a group behind it, it was synced.
                pending
                    .drain(..)
                    .for_each(|(position, problem): (u64, String)| verified.damage(path, Some(position), problem));
                let stamp = group.header.stamp;
                if let Some(last) = last_lsn
                    && stamp.previous_lsn != last
                {
                    let problem = format!("group {} follows group {last}, and names {}", stamp.lsn, stamp.previous_lsn);
                    verified.damage(path, Some(position), problem);
                }
                verify_entries(path, position, &group, &mut verified);
                end = position + bytes.len() as u64;
                last_lsn = Some(stamp.lsn);
            }
            Step::Damaged { position, problem, .. } => pending.push((position, problem)),
            Step::End => break,
        }
    }
    match last_lsn {
        None => {
            // It has its name since its first group was synced.
            let problem = pending.first().map_or("the file's first group is missing", |(_, problem)| problem.as_str());
            verified.damage(path, Some(0), problem);
        }
        Some(_) => pending.into_iter().for_each(|(position, problem)| {
            verified.note(path, Some(position), format!("a torn tail: {problem}"));
        }),
    }
    Ok(verified)
}

fn verify_entries(path: &Path, position: u64, group: &Group<'_>, verified: &mut Verified) {
    verified.groups += 1;
    for index in 0..group.header.entry_count {
        match group.entry(index) {
            Ok((entry, _)) if matches!(entry.kind, EntryKind::Edit | EntryKind::Marker) => verified.entries += 1,
            Ok((entry, _)) => verified.damage(path, Some(position), format!("a journal has no entry {:?}", entry.kind)),
            Err(error) => verified.damage(path, Some(position), error),
        }
    }
}
