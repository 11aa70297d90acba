//! A directory of copies, each named for the generation that made it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use runtime::Runtime;

use super::{
    BackupError,
    copy::{copy_file, read_file},
};

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedFile {
    /// Where it belongs, within the data directory: plain names separated by `/`.
    pub path: String,
    /// The backup that copied it.
    pub generation: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC-32C of all its bytes.
    pub crc: u32,
}

impl CopiedFile {
    /// Where the copy lies within the store.
    pub fn stored(&self) -> String {
        format!("{}@{}", self.path, self.generation)
    }

    /// Whether its path stays within the directory it is put into, whoever wrote it.
    pub fn is_contained(&self) -> bool {
        let is_plain = |name: &str| !["", ".", ".."].contains(&name);
        self.path.split('/').all(is_plain) && !self.path.contains(['\0', '\\'])
    }
}

/// One generation of a store while it is being made.
pub struct Store<R: Runtime> {
    pub(super) rt: R,
    pub(super) dir: PathBuf,
    generation: u64,
    /// Files of earlier generations, by path.
    earlier: BTreeMap<String, CopiedFile>,
    files: BTreeMap<String, CopiedFile>,
}

impl<R: Runtime> Store<R> {
    /// A new generation in `dir`, where those in `earlier` lie already.
    pub fn new(rt: &R, dir: PathBuf, generation: u64, earlier: impl IntoIterator<Item = CopiedFile>) -> Self {
        let earlier = earlier.into_iter().map(|file| (file.path.clone(), file)).collect();
        Self { rt: rt.clone(), dir, generation, earlier, files: BTreeMap::new() }
    }

    /// Its files, those of earlier generations included that did not have to be copied again.
    pub fn files(&self) -> impl Iterator<Item = &CopiedFile> {
        self.files.values()
    }

    /// Bytes of those that it copied itself.
    pub fn copied_bytes(&self) -> u64 {
        self.files().filter(|file| file.generation == self.generation).map(|file| file.bytes).sum()
    }

    /// The copy that an earlier generation made of a file of this length.
    pub(super) fn earlier(&self, path: &str, bytes: u64) -> Option<CopiedFile> {
        self.earlier.get(path).filter(|file| file.bytes == bytes).cloned()
    }

    /// Makes an earlier copy one of this generation too.
    pub(super) fn take_over(&mut self, file: CopiedFile) {
        self.files.insert(file.path.clone(), file);
    }

    /// Where the copy of `path` goes.
    pub(super) async fn place(&self, path: &str) -> Result<PathBuf, BackupError> {
        let place = self.dir.join(format!("{path}@{}", self.generation));
        let parent = place.parent().expect("a path within the store has one");
        self.rt.create_dir_all(parent).await.map_err(BackupError::io("create", parent))?;
        Ok(place)
    }

    /// Notes a copy that is durable but for its name.
    pub(super) fn add(&mut self, path: String, (bytes, crc): (u64, u32)) {
        self.files.insert(path.clone(), CopiedFile { path, generation: self.generation, bytes, crc });
    }

    /// Makes the names of all copies durable: from then on the generation can be listed.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub async fn sync(&self) -> Result<(), BackupError> {
        let dirs: BTreeSet<PathBuf> = self
            .files
            .values()
            .map(|file| self.dir.join(&file.path).parent().expect("a path within the store has one").to_owned())
            .collect();
        for dir in dirs {
            self.rt.sync_dir(&dir).await.map_err(BackupError::io("sync", &dir))?;
        }
        Ok(())
    }
}

/// Copies a file of the store in `from` to its place within `to`, and proves it on the way. The names in `to` are the
/// caller's to sync.
///
/// # Errors
/// [`BackupError`]: then there may be a part of it.
///
/// # Panics
/// Unless [`CopiedFile::is_contained`].
pub async fn restore_file<R: Runtime>(rt: &R, from: &Path, file: &CopiedFile, to: &Path) -> Result<(), BackupError> {
    assert!(file.is_contained(), "whoever read the list checked it");
    let (stored, path) = (from.join(file.stored()), to.join(&file.path));
    let parent = path.parent().expect("a path within a directory has one");
    rt.create_dir_all(parent).await.map_err(BackupError::io("create", parent))?;
    let copied = copy_file(rt, &stored, path).await?;
    check(file, stored, copied)
}

/// Reads a copy in the store `from`, and proves it.
///
/// # Errors
/// [`BackupError`].
///
/// # Panics
/// Unless [`CopiedFile::is_contained`].
pub async fn verify_file<R: Runtime>(rt: &R, from: &Path, file: &CopiedFile) -> Result<(), BackupError> {
    assert!(file.is_contained(), "whoever read the list checked it");
    let stored = from.join(file.stored());
    let found = read_file(rt, &stored).await?;
    check(file, stored, found)
}

/// Compares length and checksum of a copy with what they were when it was made.
fn check(file: &CopiedFile, stored: PathBuf, (bytes, crc): (u64, u32)) -> Result<(), BackupError> {
    let problem = if bytes != file.bytes {
        format!("{bytes} bytes long, {} expected", file.bytes)
    } else if crc != file.crc {
        format!("checksum {crc:#010x}, {:#010x} expected", file.crc)
    } else {
        return Ok(());
    };
    Err(BackupError::Damaged { path: stored, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let contained =
            |path: &str| CopiedFile { path: path.to_owned(), generation: 1, bytes: 0, crc: 0 }.is_contained();
        for path in ["a", "shard-000/wal/x.wal", "a..b/c"] {
            assert!(contained(path), "{path}");
        }
        for path in ["", "/etc/passwd", "../a", "a/../../b", "./a", "a//b", "a/", "a/.", "a\0b", "..\\a"] {
            assert!(!contained(path), "{path:?}");
        }
    }
}
