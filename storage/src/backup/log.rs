//! Copies one log, or one journal, that somebody may be writing.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use runtime::{OpenMode, Runtime};

use super::{
    BackupError, Store,
    copy::{Target, copy_file},
};
use crate::{
    Lsn, PartitionId,
    group::{EntryKind, Group},
    inspect::{
        groups::{Step, Walk},
        verify_segment,
    },
    journal::{FileName, Recovered},
    manifest::{self, State},
    segment::{
        self, SegmentMeta,
        format::{HEADER_BYTES, Identity, parse_header},
        reader::SegmentReader,
    },
    wal::parse_file_name,
};

/// A journal whose newest file cannot be read after so many looks is damaged.
const LOOKS_MAX: usize = 50;
/// Between two looks at a file that was just being replaced.
const PAUSE: Duration = Duration::from_millis(5);

/// Who else works on a log that is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody: what is not flushed is copied with the WAL.
    AtRest,
    /// A broker that holds its segments ([`crate::Log::hold_segments`]) and has flushed ([`crate::Log::flush`]) so far.
    Held {
        /// The log's id, as its broker says.
        log_id: u128,
        /// The last group flushed.
        flushed: Lsn,
    },
}

/// A log as it is to be copied: by its manifest as of now.
pub struct LogCopy {
    dir: PathBuf,
    source: Source,
    manifest: JournalCopy,
    state: State,
}

impl LogCopy {
    /// Reads the manifest of the log in `dir`. What it names stays there for as long as its broker holds it.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn read<R: Runtime>(rt: &R, dir: &Path, source: Source) -> Result<Self, BackupError> {
        let manifest = JournalCopy::read(rt, dir, "manifest").await?;
        let state = manifest::replay(manifest.recovered.clone(), dir, manifest.edits)?;
        if let Source::Held { log_id, flushed } = source
            && (manifest.log_id != log_id || state.flushed.lsn < flushed)
        {
            return Err(BackupError::OtherLog { dir: dir.to_owned() });
        }
        Ok(Self { dir: dir.to_owned(), source, manifest, state })
    }

    /// The partitions that it speaks of.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> {
        self.state.partitions.keys().copied()
    }

    /// Copies it into the store, below `under`.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn copy<R: Runtime>(&self, rt: &R, under: &str, store: &mut Store<R>) -> Result<(), BackupError> {
        for meta in &self.state.segments {
            copy_segment(rt, &segment::directory(&self.dir), meta, self.manifest.log_id, under, store).await?;
        }
        if self.source == Source::AtRest && !self.state.clean {
            copy_wal(rt, &self.dir, under, store).await?;
        }
        self.manifest.copy(under, store).await
    }
}

/// A journal's newest file, up to the last group that holds.
pub struct JournalCopy {
    name: String,
    bytes: Vec<u8>,
    log_id: u128,
    recovered: Recovered,
    /// Number of the last edit.
    edits: u64,
}

impl JournalCopy {
    /// Reads the journal whose files in `dir` start with `prefix`. Its file may be replaced at any time; then there is a newer
    /// one.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn read<R: Runtime>(rt: &R, dir: &Path, prefix: &'static str) -> Result<Self, BackupError> {
        for _ in 0..LOOKS_MAX {
            let entries = rt.list_dir(dir).await.map_err(BackupError::io("list", dir))?;
            let names =
                entries.into_iter().filter_map(|entry| Some((FileName::parse(&entry.name, prefix)?, entry.name)));
            let newest = names.filter(|(name, _)| name.complete).max();
            let Some((parsed, name)) = newest else {
                return Err(BackupError::NoJournal { dir: dir.to_owned(), prefix });
            };
            match read_journal_file(rt, &dir.join(&name), parsed.salt).await {
                Some(journal) => return Ok(Self { name, ..journal }),
                None => rt.sleep(PAUSE).await,
            }
        }
        Err(BackupError::DamagedJournal { dir: dir.to_owned(), prefix })
    }

    /// Copies it into the store, below `under`.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn copy<R: Runtime>(&self, under: &str, store: &mut Store<R>) -> Result<(), BackupError> {
        let path = format!("{under}/{}", self.name);
        let mut target = Target::create(&store.rt, store.place(&path).await?).await?;
        target.write(&self.bytes).await?;
        let copied = target.finish().await?;
        store.add(path, copied);
        Ok(())
    }

    /// Takes what a group holds; false if it does not hold, or does not go on where the one before it ends.
    fn take(&mut self, group: &Group<'_>) -> bool {
        let entries: Result<Vec<_>, _> = (0..group.header.entry_count).map(|index| group.entry(index)).collect();
        let Ok(entries) = entries else { return false };
        for (entry, payload) in entries {
            match entry.kind {
                EntryKind::Marker => {}
                EntryKind::Edit if entry.base_offset == 0 => {
                    self.recovered.snapshot = payload.to_vec();
                    self.edits = entry.next_offset.saturating_sub(1);
                }
                EntryKind::Edit if entry.base_offset == self.edits + 1 => {
                    self.recovered.edits.push(payload.to_vec());
                    self.edits += 1;
                }
                _ => return false,
            }
        }
        true
    }
}

/// `None`: it is gone, its first group is not to be seen, or something in it does not hold.
async fn read_journal_file<R: Runtime>(rt: &R, path: &Path, salt: u64) -> Option<JournalCopy> {
    let mut walk = Walk::open_unlisted(rt, path, salt).await.ok()?;
    let mut journal = JournalCopy {
        name: String::new(),
        bytes: Vec::new(),
        log_id: walk.log_id(),
        recovered: Recovered::default(),
        edits: 0,
    };
    loop {
        match walk.next().await {
            Step::Group { position, bytes } => {
                let group = Group::parse(&bytes, walk.log_id(), salt).expect("the walk proved it");
                // Behind a gap: written since the gap was looked at, or the gap is damage. The next look tells.
                if position != journal.bytes.len() as u64 || !journal.take(&group) {
                    return None;
                }
                journal.bytes.extend_from_slice(&bytes);
            }
            // On its way to the disk, unless a group follows.
            Step::Damaged { .. } => {}
            Step::End => return (!journal.bytes.is_empty()).then_some(journal),
        }
    }
}

/// Copies a segment that the store does not have, and that holds.
async fn copy_segment<R: Runtime>(
    rt: &R,
    dir: &Path,
    meta: &SegmentMeta,
    log_id: u128,
    under: &str,
    store: &mut Store<R>,
) -> Result<(), BackupError> {
    let path = format!("{under}/segments/{}", segment::file_name(meta.id));
    if let Some(earlier) = store.earlier(&path, meta.bytes)
        && is_copy_of(rt, &store.dir.join(earlier.stored()), log_id, meta).await
    {
        store.take_over(earlier);
        return Ok(());
    }
    if let Some(finding) = verify_segment(rt, dir, log_id, meta).await.findings.into_iter().next() {
        // Whether it is damaged or gone, opening it again tells.
        SegmentReader::open(rt, dir, log_id, meta).await.map_err(BackupError::from)?;
        return Err(BackupError::DamagedSegment(finding));
    }
    let copied = copy_file(rt, &dir.join(segment::file_name(meta.id)), store.place(&path).await?).await?;
    store.add(path, copied);
    Ok(())
}

/// Whether a file that an earlier backup copied is this very segment: another log numbers its segments alike.
async fn is_copy_of<R: Runtime>(rt: &R, path: &Path, log_id: u128, meta: &SegmentMeta) -> bool {
    use runtime::File as _;

    let Ok(file) = rt.open(path, OpenMode::Read).await else { return false };
    let Ok(page) = file.read(0, HEADER_BYTES as usize).await else { return false };
    let expected = Identity { log_id, id: meta.id, level: meta.level };
    parse_header(&page).is_ok_and(|found| found == expected) && file.len().await.is_ok_and(|len| len == meta.bytes)
}

/// Copies every file of the WAL as it is: what a torn tail is, recovery decides.
async fn copy_wal<R: Runtime>(rt: &R, dir: &Path, under: &str, store: &mut Store<R>) -> Result<(), BackupError> {
    let dir: PathBuf = dir.join("wal");
    for entry in rt.list_dir(&dir).await.map_err(BackupError::io("list", &dir))? {
        if parse_file_name(&entry.name).is_some() {
            let path = format!("{under}/wal/{}", entry.name);
            let copied = copy_file(rt, &dir.join(&entry.name), store.place(&path).await?).await?;
            store.add(path, copied);
        }
    }
    Ok(())
}
