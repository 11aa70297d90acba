//! `streambus backup create`: a consistent copy of a data directory, of which a second one copies only what is new.
//!
//! Nobody has to stop for it. A broker at work flushes what it acknowledged, and deletes no segment while it is asked, every
//! few seconds, not to; the directory of a stopped one is locked instead.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use runtime::Runtime;
use serde::Serialize;
use storage::{
    PartitionId,
    backup::{BackupError, JournalCopy, LogCopy, Source, Store},
};
use streambus::HeldLog;

use super::{
    list::{List, failed},
    prune::prune,
};
use crate::{
    connect::{self, Brokers},
    failure::Failure,
    log::{
        directory::{Directory, Holder, holder},
        on_shard,
    },
    output::{Format, Output},
};

/// The broker keeps segments for so long, and is asked again in a third of the time.
const HOLD_FOR: Duration = Duration::from_secs(30);
/// Metadata that changes meanwhile is read again this often.
const ROUNDS_MAX: usize = 200;
/// Between two of these rounds.
const PAUSE: Duration = Duration::from_millis(5);

/// Copy a data directory; its broker may go on working, and everything it has acknowledged so far is in the copy
#[derive(Clone, Debug, Args)]
pub(crate) struct Create {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The directory of the backups: made if it is not there, and given again for the next backup, which then copies
    /// only what is new
    to: PathBuf,

    /// Remove all but so many backups afterwards [default: keep all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

/// What is printed.
#[derive(Serialize)]
struct Created {
    backup: u64,
    dir: String,
    files: usize,
    bytes: u64,
    copied_bytes: u64,
}

impl Create {
    pub(super) fn format(&self) -> Format {
        self.output.format
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        connect::run(async move {
            let created = match self.start(None).await? {
                Some(created) => created,
                None => self.beside_broker().await?,
            };
            let Created { backup, dir, files, bytes, copied_bytes } = &created;
            let text =
                || format!("backup {backup} in {dir}: {files} files, {bytes} bytes, {copied_bytes} of them copied now");
            self.output.print(text, &created)
        })
    }

    /// Copies the directory of a broker at work, and has that broker hold its segments meanwhile.
    async fn beside_broker(&self) -> Result<Created, Failure> {
        let admin = self.brokers.connect().await?.admin();
        let mut held_at = Instant::now();
        let held = admin.hold_segments(HOLD_FOR, true).await?;
        let mut copying = Box::pin(self.start(Some(held)));
        loop {
            if let Ok(copied) = tokio::time::timeout(HOLD_FOR / 3, &mut copying).await {
                return Ok(copied?.expect("whoever is held is copied"));
            }
            let asked_at = Instant::now();
            match admin.hold_segments(HOLD_FOR, false).await {
                Ok(_) => held_at = asked_at,
                // It may be busy. If it is gone, what it held may be too, and copying tells.
                Err(error) => tracing::warn!("{:?} after it was last heard, {error}", held_at.elapsed()),
            }
        }
    }

    /// Copies on a shard of its own. `None`: a broker holds the directory, and was not asked to hold its segments.
    async fn start(&self, held: Option<Vec<HeldLog>>) -> Result<Option<Created>, Failure> {
        let create = self.clone();
        let copying = tokio::task::spawn_blocking(move || {
            on_shard(move |rt| {
                let (create, held) = (create.clone(), held.clone());
                async move { create.create(&rt, held).await }
            })
        });
        copying.await.map_err(|error| Failure::failed(error.to_string()))?
    }

    async fn create<R: Runtime>(&self, rt: &R, held: Option<Vec<HeldLog>>) -> Result<Option<Created>, Failure> {
        let data = Directory::find(rt, &self.dir).await?;
        if data.meta.is_none() {
            return Err(Failure::usage(format!("{} has no metadata; give the data directory", self.dir.display())));
        }
        let _at_rest = match (held.is_some(), holder(rt, &self.dir).await?) {
            (false, Holder::Broker(_)) => return Ok(None),
            (true, Holder::Nobody(_)) => {
                return Err(Failure::failed("the broker has stopped working on it; try again"));
            }
            (true, Holder::Broker(_)) => None,
            (false, Holder::Nobody(lock)) => lock,
        };
        rt.create_dir_all(&self.to).await.map_err(|error| failed("create", &self.to, &error))?;
        check_apart(&self.dir, &self.to)?;
        // Two at once would take each other's number.
        let _alone = rt.lock_dir(&self.to).await.map_err(|error| failed("lock", &self.to, &error))?;
        let started_ms = rt.wall_clock_ms();
        let newest = List::generations(rt, &self.to).await?.pop();
        let earlier = match newest {
            Some(newest) => List::read(rt, &self.to, newest).await?.files().collect(),
            None => Vec::new(),
        };
        let generation = newest.unwrap_or(0) + 1;
        let mut store = Store::new(rt, self.to.clone(), generation, earlier);
        copy(rt, &data, held.as_deref(), &mut store).await?;
        store.sync().await?;
        let list = List::new(generation, started_ms, store.files());
        list.write(rt, &self.to).await?;
        prune(rt, &self.to, self.keep.map_or(usize::MAX, |keep| keep as usize)).await?;
        Ok(Some(Created {
            backup: generation,
            dir: self.to.display().to_string(),
            files: list.files().count(),
            bytes: list.files().map(|file| file.bytes).sum(),
            copied_bytes: store.copied_bytes(),
        }))
    }
}

/// Copies the logs and the metadata as they are at one time: what is held does not go away while it is copied.
async fn copy<R: Runtime>(
    rt: &R,
    data: &Directory<R>,
    held: Option<&[HeldLog]>,
    store: &mut Store<R>,
) -> Result<(), Failure> {
    let (logs, meta) = read(rt, data, held).await?;
    for (dir, log) in data.logs.iter().zip(&logs) {
        let under = dir.file_name().expect("a log has a directory of its own").to_string_lossy();
        log.copy(rt, &under, store).await?;
    }
    Ok(meta.copy("meta", store).await?)
}

/// Reads what the logs hold, and then the metadata: a topic is there before its records are. It may be deleted and forgotten
/// in between; then all is read once more, without it.
async fn read<R: Runtime>(
    rt: &R,
    data: &Directory<R>,
    held: Option<&[HeldLog]>,
) -> Result<(Vec<LogCopy>, JournalCopy), Failure> {
    let dir = data.meta.as_ref().expect("the caller looked");
    if held.is_some_and(|held| held.len() != data.logs.len()) {
        return Err(BackupError::OtherLog { dir: dir.with_file_name("") }.into());
    }
    let mut last_unknown = None;
    for _ in 0..ROUNDS_MAX {
        let mut logs = Vec::new();
        for (index, log) in data.logs.iter().enumerate() {
            let source = held.map_or(Source::AtRest, |held| {
                let HeldLog { id, flushed, .. } = held[index];
                Source::Held { log_id: id, flushed }
            });
            logs.push(LogCopy::read(rt, log, source).await?);
        }
        let meta = JournalCopy::read(rt, dir, "meta").await?;
        let unknown = unknown(rt, data, logs.iter().flat_map(LogCopy::partitions).collect()).await;
        // What stays unknown was so before: it is copied as it is.
        if unknown.as_ref().is_some_and(|unknown| unknown.is_empty() || last_unknown.as_ref() == Some(unknown)) {
            return Ok((logs, meta));
        }
        last_unknown = unknown;
        rt.sleep(PAUSE).await;
    }
    Err(Failure::failed(format!("{} changes all the time; try again", dir.display())))
}

/// The partitions among these that metadata does not know, by now; `None` if it is just being written.
async fn unknown<R: Runtime>(
    rt: &R,
    data: &Directory<R>,
    mut partitions: BTreeSet<PartitionId>,
) -> Option<BTreeSet<PartitionId>> {
    let snapshot = data.metadata(rt).await?.read.ok()?;
    let led = snapshot.topics.values().flat_map(|topic| topic.partitions.iter().map(|partition| partition.id));
    for known in led.chain(snapshot.tombstones.iter().map(|copy| copy.id)) {
        partitions.remove(&known);
    }
    Some(partitions)
}

/// Refuses backups inside of what they are of, and the other way round.
fn check_apart(data: &Path, to: &Path) -> Result<(), Failure> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(|error| failed("find", path, &error));
    let (data, to) = (real(data)?, real(to)?);
    if to.starts_with(&data) || data.starts_with(&to) {
        let text = format!("{} and {} lie one in the other; choose another directory", to.display(), data.display());
        return Err(Failure::usage(text));
    }
    Ok(())
}
