//! A log's directory as a value: from the simulated disk, from the repository, and back.

use std::{collections::BTreeMap, collections::BTreeSet, path::Path};

use runtime::{
    Block as _, File as _, OpenMode, Runtime as _,
    sim::{SimRuntime, disk::Disk},
};
use storage::group::{GROUP_ALIGNMENT, Group};

use crate::support::DIR;

/// Its files, by their path within it.
#[derive(Clone)]
pub(crate) struct Directory(pub(crate) BTreeMap<String, Vec<u8>>);

impl Directory {
    pub(crate) fn of(disk: &Disk) -> Self {
        let prefix = format!("{DIR}/");
        let within = |path: String| {
            let name = path.strip_prefix(&prefix)?.to_owned();
            (name != "LOCK").then(|| (name, disk.read(&path).expect("it was just listed")))
        };
        Self(disk.files().into_iter().filter_map(within).collect())
    }

    pub(crate) fn load(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        for under in ["", "segments", "wal"] {
            for entry in std::fs::read_dir(dir.join(under)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                if path.is_file() && name != "expected.txt" {
                    files.insert(name, std::fs::read(path).unwrap());
                }
            }
        }
        Self(files)
    }

    pub(crate) fn save(&self, dir: &Path) {
        for (name, bytes) in &self.0 {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// Makes it the log of a simulated node.
    pub(crate) async fn install(&self, rt: &SimRuntime) {
        for under in ["", "segments", "wal"] {
            rt.create_dir_all(&Path::new(DIR).join(under)).await.unwrap();
        }
        for (name, bytes) in &self.0 {
            let path = Path::new(DIR).join(name);
            let file = rt.open(&path, OpenMode::CreateDurable).await.unwrap();
            if bytes.is_empty() {
                continue;
            }
            let mut block = rt.block(bytes.len());
            block[..bytes.len()].copy_from_slice(bytes);
            file.write_durable(block.freeze(bytes.len()), 0).await.unwrap();
            rt.sync_dir(path.parent().unwrap()).await.unwrap();
        }
    }

    /// Kinds of entries in groups of the WAL above an LSN.
    pub(crate) fn kinds_above(&self, log_id: u128, lsn: u64) -> BTreeSet<u8> {
        let groups = self.groups(log_id).into_iter().filter(|group| group.lsn > lsn);
        groups.flat_map(|group| group.kinds).collect()
    }

    /// The groups of the WAL, by LSN.
    pub(crate) fn groups(&self, log_id: u128) -> Vec<WalGroup> {
        let mut groups = Vec::new();
        for (name, bytes) in self.0.iter().filter(|(name, _)| name.ends_with(".wal")) {
            let salt = salt_of(name);
            let mut position = 0;
            while position < bytes.len() {
                let Ok(group) = Group::parse(&bytes[position..], log_id, salt) else {
                    position += GROUP_ALIGNMENT;
                    continue;
                };
                position += group.header.padded_bytes();
                groups.push(WalGroup {
                    file: name.clone(),
                    end: position,
                    lsn: group.header.stamp.lsn,
                    kinds: group.entries().map(|(entry, _)| entry.kind as u8).collect(),
                });
            }
        }
        groups.sort_by_key(|group| group.lsn);
        groups
    }
}

/// A group where it lies.
pub(crate) struct WalGroup {
    pub(crate) file: String,
    /// Where the next one goes.
    pub(crate) end: usize,
    pub(crate) lsn: u64,
    kinds: Vec<u8>,
}

/// The salt in a WAL file's name.
pub(crate) fn salt_of(name: &str) -> u64 {
    let name = name.strip_suffix(".wal").expect("it is a WAL file");
    u64::from_str_radix(&name[name.len() - 16..], 16).expect("its name ends in a salt")
}
