//! What damage stopped, looked up in the directory of a stopped broker. Nothing there is changed.
//!
//! Only what a start found is known: damage that no broker met yet is in no manifest.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use runtime::Runtime;
use runtime_glommio::{Options, Placement, run_shards};
use storage::manifest::Manifest;

use crate::{
    meta::{self, MetaLog},
    shard::start::{log_dir, meta_dir},
};

/// A partition that takes and gives nothing from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its topic.
    pub topic: String,
    /// Its number there.
    pub partition: u32,
    /// The first offset that cannot be proven.
    pub from: u64,
}

/// Why a directory was not looked into.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A broker serves from it.
    #[error("{} is held by a running broker; ask that one with --brokers", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// It cannot be locked.
    #[error("cannot lock {}: {source}", dir.display())]
    Lock {
        /// The data directory.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The machine cannot run a shard.
    #[error(transparent)]
    Machine(#[from] runtime_glommio::StartError),
    /// The metadata cannot be read.
    #[error(transparent)]
    Metadata(#[from] meta::OpenError),
    /// A log's manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] storage::manifest::OpenError),
}

/// The partitions in a stopped broker's data directory that are refused.
///
/// # Errors
/// [`LookError`].
pub fn refused_in(dir: &Path) -> Result<Vec<Refused>, LookError> {
    let dir = dir.to_owned();
    let looking = run_shards(Placement::Anywhere(1), Options::default(), move |rt, _| look(rt, dir.clone()))?;
    looking.join().pop().expect("there is one shard")
}

async fn look<R: Runtime>(rt: R, dir: PathBuf) -> Result<Vec<Refused>, LookError> {
    let _lock = rt.lock_dir(&dir).await.map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => LookError::InUse { dir: dir.clone() },
        _ => LookError::Lock { dir: dir.clone(), source },
    })?;
    let snapshot = MetaLog::open(&rt, &meta_dir(&dir)).await?.snapshot();
    let mut manifests = BTreeMap::new();
    for (log, _) in (0..).zip(&snapshot.logs).filter(|(_, log)| log.is_live()) {
        manifests.insert(log, Manifest::open(&rt, &log_dir(&dir, log)).await?);
    }
    let mut refused = Vec::new();
    for (name, topic) in &snapshot.topics {
        for (partition, placed) in (0..).zip(&topic.partitions) {
            let Some(manifest) = manifests.get(&placed.log) else { continue };
            let refusal = manifest.state().partitions.get(&placed.id).and_then(|known| known.refused);
            refused.extend(refusal.map(|refusal| Refused { topic: name.to_string(), partition, from: refusal.from }));
        }
    }
    Ok(refused)
}
