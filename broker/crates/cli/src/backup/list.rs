//! The list of a backup's files: what makes copies a backup. It is written last, under its name only when it is whole.

use std::path::Path;

use runtime::{Block as _, File as _, OpenMode, Runtime};
use serde::{Deserialize, Serialize};
use storage::backup::CopiedFile;

use crate::failure::{Failure, Kind};

/// Version of the format, which `storage/FORMAT.md` specifies.
const VERSION: u32 = 1;

/// Direct I/O writes whole pages; what a list leaves of its last one are spaces.
const PAGE_BYTES: usize = 4096;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct List {
    version: u32,
    /// The number of the backup in its directory, from 1.
    pub(super) generation: u64,
    /// When it was begun, in milliseconds since 1970.
    pub(super) started_ms: i64,
    files: Vec<Listed>,
    /// CRC-32C of the files as JSON.
    checksum: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Listed {
    path: String,
    generation: u64,
    bytes: u64,
    crc: u32,
}

impl List {
    pub(super) fn new<'a>(generation: u64, started_ms: i64, files: impl Iterator<Item = &'a CopiedFile>) -> Self {
        let listed = |file: &CopiedFile| Listed {
            path: file.path.clone(),
            generation: file.generation,
            bytes: file.bytes,
            crc: file.crc,
        };
        let files: Vec<Listed> = files.map(listed).collect();
        Self { version: VERSION, generation, started_ms, checksum: checksum(&files), files }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = CopiedFile> {
        self.files.iter().map(|file| CopiedFile {
            path: file.path.clone(),
            generation: file.generation,
            bytes: file.bytes,
            crc: file.crc,
        })
    }

    /// Numbers of the backups in `dir`, ascending.
    pub(super) async fn generations<R: Runtime>(rt: &R, dir: &Path) -> Result<Vec<u64>, Failure> {
        let entries = rt.list_dir(dir).await.map_err(|error| failed("read", dir, &error))?;
        let mut found: Vec<u64> = entries.iter().filter_map(|entry| parse_name(&entry.name)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Reads the list of a backup, and believes nothing that does not hold.
    pub(super) async fn read<R: Runtime>(rt: &R, dir: &Path, generation: u64) -> Result<Self, Failure> {
        let path = dir.join(name(generation));
        let bytes = async {
            let file = rt.open(&path, OpenMode::Read).await?;
            let len = file.len().await?;
            let len = usize::try_from(len).map_err(std::io::Error::other)?;
            file.read(0, len).await
        };
        let bytes = bytes.await.map_err(|error| failed("read", &path, &error))?;
        let damaged = |problem: &str| Failure::failed(format!("{} is damaged: {problem}", path.display()));
        // Any version says which it is.
        let versioned: Versioned = serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
        if versioned.version != VERSION {
            let text = format!("{} has version {}, this program knows {VERSION}", path.display(), versioned.version);
            return Err(Failure::failed(text));
        }
        let list: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
        if list.checksum != checksum(&list.files) || list.generation != generation {
            return Err(damaged("its checksum does not hold"));
        }
        if let Some(file) = list.files().find(|file| !is_of_a_broker(file)) {
            return Err(damaged(&format!("{:?} is no file of a data directory", file.path)));
        }
        Ok(list)
    }

    /// Makes it durable, and with it the backup.
    pub(super) async fn write<R: Runtime>(&self, rt: &R, dir: &Path) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec(self).expect("a list has nothing that JSON lacks");
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), b' ');
        let path = dir.join(name(self.generation));
        let unfinished = path.with_extension("tmp");
        let written = async {
            let _ = rt.remove_file(&unfinished).await;
            let file = rt.open(&unfinished, OpenMode::CreateNew).await?;
            let mut block = rt.block(bytes.len());
            block[..bytes.len()].copy_from_slice(&bytes);
            file.write(block.freeze(bytes.len()), 0).await?;
            file.sync().await?;
            rt.rename(&unfinished, &path).await?;
            rt.sync_dir(dir).await
        };
        written.await.map_err(|error| failed("write", &path, &error))
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn checksum(files: &[Listed]) -> u32 {
    crc32c::crc32c(&serde_json::to_vec(files).expect("a list has nothing that JSON lacks"))
}

/// The name of a backup's list.
pub(super) fn name(generation: u64) -> String {
    format!("backup-{generation:08}.json")
}

fn parse_name(file: &str) -> Option<u64> {
    let generation = file.strip_prefix("backup-")?.strip_suffix(".json")?.parse().ok()?;
    (name(generation) == file).then_some(generation)
}

/// Whether a path is one that data directories have: nothing else is ever written when a backup is restored.
fn is_of_a_broker(file: &CopiedFile) -> bool {
    let names: Vec<&str> = file.path.split('/').collect();
    let is_shard = |name: &str| name.strip_prefix("shard-").is_some_and(|number| number.parse::<u16>().is_ok());
    file.is_contained()
        && match names[..] {
            ["meta", name] => name.starts_with("meta-"),
            [shard, name] => is_shard(shard) && name.starts_with("manifest-"),
            [shard, "wal", name] => is_shard(shard) && name.ends_with(".wal"),
            [shard, "segments", name] => is_shard(shard) && name.ends_with(".seg"),
            _ => false,
        }
}

pub(super) fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    let kind = if error.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Failed };
    Failure::new(kind, format!("cannot {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_broker_are_restored() {
        let of = |path: &str| is_of_a_broker(&CopiedFile { path: path.to_owned(), generation: 1, bytes: 0, crc: 0 });
        for path in
            ["meta/meta-1-2.log", "shard-000/manifest-1-2.log", "shard-012/wal/1-2.wal", "shard-0/segments/1.seg"]
        {
            assert!(of(path), "{path}");
        }
        for path in ["", "/etc/passwd", "../meta/meta-1", "meta/../../meta-1", "shard-x/wal/1.wal", "meta/x", "bin/sh"]
        {
            assert!(!of(path), "{path}");
        }
    }

    #[test]
    fn names_read_back() {
        assert_eq!(parse_name(&name(42)), Some(42));
        for other in ["backup-42.json", "backup-00000042.tmp", "backup-+0000042.json", "LOCK"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
