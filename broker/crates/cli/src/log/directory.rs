//! What a path names: a broker's data directory or the directory of one log, and that no broker holds it.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use broker::meta::{self, MetaLog, Snapshot};
use runtime::Runtime;
use wire::PartitionId;

use crate::failure::{Failure, Kind};

/// Where metadata cannot say how many logs there have been, so many numbers are looked at.
const LOGS_PROBED: usize = 1024;

/// A directory that was found, locked as long as this lives.
pub(crate) struct Directory<R: Runtime> {
    /// The directories of its logs.
    pub(crate) logs: Vec<PathBuf>,
    /// The metadata's directory, where there is one.
    pub(crate) meta: Option<PathBuf>,
    _lock: Option<R::DirLock>,
}

/// The metadata, or why it cannot be read.
pub(crate) struct Metadata {
    pub(crate) read: Result<Arc<Snapshot>, meta::OpenError>,
}

impl<R: Runtime> Directory<R> {
    /// Finds out what lies in `dir`, which no broker may hold.
    pub(crate) async fn open(rt: &R, dir: &Path) -> Result<Self, Failure> {
        let lock = lock(rt, dir).await?;
        Ok(Self { _lock: lock, ..Self::find(rt, dir).await? })
    }

    /// Finds out what lies in `dir`, whoever works on it.
    pub(crate) async fn find(rt: &R, dir: &Path) -> Result<Self, Failure> {
        let names = list(rt, dir).await?;
        if names.iter().any(|name| name.starts_with("manifest-")) {
            return Ok(Self { logs: vec![dir.to_owned()], meta: None, _lock: None });
        }
        let meta = dir.join("meta");
        let meta = rt.list_dir(&meta).await.is_ok().then_some(meta);
        let logs = logs(rt, dir, meta.as_deref()).await?;
        if logs.is_empty() && meta.is_none() {
            let text = format!("{} holds no data of a broker; give what its setting dir says", dir.display());
            return Err(Failure::new(Kind::NotFound, text));
        }
        Ok(Self { logs, meta, _lock: None })
    }

    /// Reads the metadata, if there is any.
    pub(crate) async fn metadata(&self, rt: &R) -> Option<Metadata> {
        Some(read_metadata(rt, self.meta.as_ref()?).await)
    }
}

/// The directories of logs, by number. Those of logs that were given up are not there any more.
async fn logs<R: Runtime>(rt: &R, dir: &Path, meta: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    let metadata = match meta {
        Some(meta) => read_metadata(rt, meta).await.read.ok(),
        None => None,
    };
    let known = metadata.map_or(LOGS_PROBED, |snapshot| snapshot.logs.len());
    let mut logs = Vec::new();
    for number in 0.. {
        let log = dir.join(format!("shard-{number:03}"));
        match rt.list_dir(&log).await {
            Ok(_) => logs.push(log),
            Err(error) if error.kind() == ErrorKind::NotFound && number < known => {}
            // One that was just made, and is not known yet, is the next.
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(unreadable(&log, &error)),
        }
    }
    Ok(logs)
}

async fn read_metadata<R: Runtime>(rt: &R, meta: &Path) -> Metadata {
    let meta = MetaLog::open(rt, meta).await;
    Metadata { read: meta.map(|meta| meta.snapshot()) }
}

impl Metadata {
    /// What partitions are called: topic and index.
    pub(crate) fn names(&self) -> BTreeMap<PartitionId, String> {
        let Ok(snapshot) = &self.read else { return BTreeMap::new() };
        let of_topic = |(name, topic): (&meta::TopicName, &Arc<meta::Topic>)| {
            let named = topic.partitions.iter().enumerate();
            named.map(|(index, partition)| (partition.id, format!("{name}/{index}"))).collect::<Vec<_>>()
        };
        snapshot.topics.iter().flat_map(of_topic).collect()
    }
}

/// Refuses what a broker holds.
pub(crate) async fn lock<R: Runtime>(rt: &R, path: &Path) -> Result<Option<R::DirLock>, Failure> {
    match holder(rt, path).await? {
        Holder::Nobody(lock) => Ok(lock),
        Holder::Broker(dir) => {
            let text = format!("{} is held by a broker; stop it, or look at a copy", dir.display());
            Err(Failure::new(Kind::Refused, text))
        }
    }
}

/// Who holds a directory.
pub(crate) enum Holder<L> {
    /// Nobody did, and by this lock nobody does as long as it lives.
    Nobody(Option<L>),
    /// A broker, by the lock file in this directory.
    Broker(PathBuf),
}

/// Finds out who holds a directory, by the lock file above `path` or at it. Where there is none nobody ever locked it, and
/// none is made.
pub(crate) async fn holder<R: Runtime>(rt: &R, path: &Path) -> Result<Holder<R::DirLock>, Failure> {
    // A file of a log lies three levels below the data directory.
    for dir in path.ancestors().take(4) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let has_lock = rt.list_dir(dir).await.is_ok_and(|files| files.iter().any(|file| file.name == "LOCK"));
        if !has_lock {
            continue;
        }
        return match rt.lock_dir(dir).await {
            Ok(lock) => Ok(Holder::Nobody(Some(lock))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Holder::Broker(dir.to_owned())),
            Err(error) => Err(unreadable(dir, &error)),
        };
    }
    Ok(Holder::Nobody(None))
}

async fn list<R: Runtime>(rt: &R, dir: &Path) -> Result<Vec<String>, Failure> {
    let entries = rt.list_dir(dir).await.map_err(|error| unreadable(dir, &error))?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let kind = if error.kind() == ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
    Failure::new(kind, format!("cannot read {}: {error}", path.display()))
}
