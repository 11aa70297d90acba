//! `streambus backup restore`: a data directory from a backup, proven before it gets its name.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Args;
use runtime::Runtime;
use serde::Serialize;
use storage::{backup::restore_file, inspect::Severity};

use super::list::{List, failed};
use crate::{
    failure::{Failure, Kind},
    log::{directory::Directory, on_shard, verify::verify},
    output::{Format, Output},
};

/// Make a data directory of a backup; it gets its name only when every checksum holds
#[derive(Clone, Debug, Args)]
pub(crate) struct Restore {
    /// The directory of the backups
    from: PathBuf,

    /// The data directory to make; there may be an empty directory of this name
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Which backup [default: the newest]
    #[arg(long, value_name = "N")]
    backup: Option<u64>,

    /// Take what was damaged already when it was copied: the broker refuses what that touches, and serves the rest
    #[arg(long)]
    with_damage: bool,

    #[command(flatten)]
    output: Output,
}

/// What is printed.
#[derive(Serialize)]
struct Restored {
    backup: u64,
    dir: String,
    files: usize,
    bytes: u64,
}

impl Restore {
    pub(super) fn format(&self) -> Format {
        self.output.format
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let output = self.output;
        let restored = on_shard(move |rt| {
            let restore = self.clone();
            async move { restore.restore(&rt).await }
        })?;
        let Restored { backup, dir, files, bytes } = &restored;
        let text = || format!("backup {backup} restored to {dir}: {files} files, {bytes} bytes, all checksums hold");
        output.print(text, &restored)
    }

    async fn restore<R: Runtime>(&self, rt: &R) -> Result<Restored, Failure> {
        let newest = List::generations(rt, &self.from).await?.pop();
        let Some(generation) = self.backup.or(newest) else {
            return Err(Failure::new(Kind::NotFound, format!("{} holds no backup", self.from.display())));
        };
        let list = List::read(rt, &self.from, generation).await?;
        check_free(&self.dir)?;
        let unfinished = unfinished(&self.dir)?;
        check_free(&unfinished)?;
        let mut dirs = BTreeSet::from([unfinished.clone()]);
        let (mut files, mut bytes) = (0, 0);
        for file in list.files() {
            restore_file(rt, &self.from, &file, &unfinished).await?;
            dirs.extend(unfinished.join(&file.path).parent().map(Path::to_owned));
            files += 1;
            bytes += file.bytes;
        }
        let logs: Vec<_> = dirs.iter().filter(|dir| is_log(dir)).cloned().collect();
        // A log has these even while nothing is in them.
        dirs.extend(logs.iter().flat_map(|log| ["wal", "segments"].map(|name| log.join(name))));
        for dir in &dirs {
            rt.create_dir_all(dir).await.map_err(|error| failed("create", dir, &error))?;
            rt.sync_dir(dir).await.map_err(|error| failed("sync", dir, &error))?;
        }
        let verified = verify(rt, Directory::find(rt, &unfinished).await?).await?;
        let mut damage = verified.findings.iter().filter(|finding| finding.severity == Severity::Damage);
        if let Some(damage) = damage.next()
            && !self.with_damage
        {
            let next = "restore an older one, or this one --with-damage";
            return Err(Failure::failed(format!("the log was damaged when it was copied: {damage}; {next}")));
        }
        let named = async {
            rt.rename(&unfinished, &self.dir).await?;
            rt.sync_dir(parent(&self.dir)).await
        };
        named.await.map_err(|error| failed("rename", &unfinished, &error))?;
        Ok(Restored { backup: generation, dir: self.dir.display().to_string(), files, bytes })
    }
}

/// The name of a directory that is being restored: beside the one that it becomes.
fn unfinished(dir: &Path) -> Result<PathBuf, Failure> {
    let name = dir.file_name().ok_or_else(|| Failure::usage(format!("{} has no name", dir.display())))?;
    let mut name = name.to_owned();
    name.push(".restoring");
    Ok(dir.with_file_name(name))
}

fn is_log(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shard-"))
}

fn parent(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Refuses a directory that holds anything: nothing is ever written over.
fn check_free(dir: &Path) -> Result<(), Failure> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => {
                let text = format!("{} is not empty; remove it or choose another directory", dir.display());
                Err(Failure::new(Kind::Refused, text))
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("read", dir, &error)),
    }
}
