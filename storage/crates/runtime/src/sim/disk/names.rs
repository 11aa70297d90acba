//! Directories: what names what now, and what will after a power cut.
//!
//! A creation, rename or removal is durable once its directory was synced (a rename between directories: both). Until
//! then a power cut keeps or loses each on its own, as a file system with ordered metadata could show it: a change is
//! lost whenever an earlier change of one of its names is, so `create a, rename a to b` leaves nothing, `a` or `b`,
//! and never both.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Bound,
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use super::chance::{Choose, WHOLE_OR_PARTS};

/// The number of a file, whatever its name.
pub(super) type Inode = u64;

#[derive(Clone, Default)]
pub(super) struct Names {
    /// Always durable, the root and the current directory left out.
    directories: BTreeSet<Rc<str>>,
    visible: BTreeMap<Rc<str>, Inode>,
    durable: BTreeMap<Rc<str>, Inode>,
    unsynced: Vec<Unsynced>,
    /// Changes completed so far; the next one's number.
    completed: u64,
}

#[derive(Clone)]
struct Unsynced {
    number: u64,
    change: NameChange,
    /// Directories to be synced before it is durable.
    directories: BTreeSet<Rc<str>>,
}

/// What an operation does to names.
#[derive(Clone)]
pub(super) enum NameChange {
    Create { path: Rc<str>, inode: Inode },
    Rename { from: Rc<str>, to: Rc<str> },
    Remove { path: Rc<str> },
}

impl Names {
    pub(super) fn inode(&self, path: &str) -> io::Result<Inode> {
        self.visible.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Every file, by name.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Rc<str>, Inode)> {
        self.visible.iter().map(|(path, inode)| (path, *inode))
    }

    /// True if anything names `inode`, now or after a power cut.
    pub(super) fn references(&self) -> BTreeSet<Inode> {
        let unsynced = self.unsynced.iter().filter_map(|unsynced| match unsynced.change {
            NameChange::Create { inode, .. } => Some(inode),
            _ => None,
        });
        self.visible.values().chain(self.durable.values()).copied().chain(unsynced).collect()
    }

    /// The files of a directory: name within it, and number.
    pub(super) fn list(&self, directory: &str) -> io::Result<Vec<(String, Inode)>> {
        self.check_directory(directory)?;
        let prefix = match directory {
            "" | "/" => directory.to_owned(),
            _ => format!("{directory}/"),
        };
        let below = self
            .visible
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .take_while(|(path, _)| path.starts_with(&prefix));
        let names = below.filter(|(path, _)| !path[prefix.len()..].contains('/'));
        Ok(names.map(|(path, inode)| (path[prefix.len()..].to_owned(), *inode)).collect())
    }

    pub(super) fn create_dir_all(&mut self, directory: &str) {
        let ancestors = Path::new(directory).ancestors().map(key).filter(|path| !is_root(path));
        self.directories.extend(ancestors);
    }

    /// Removes a directory in which nothing is, nor would be after a power cut.
    pub(super) fn remove_dir(&mut self, directory: &str) -> io::Result<()> {
        self.check_directory(directory)?;
        let prefix = format!("{directory}/");
        let names = self.visible.keys().chain(self.durable.keys()).chain(&self.directories);
        if names.into_iter().any(|path| path.starts_with(&prefix)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.directories.remove(directory);
        Ok(())
    }

    /// # Errors
    /// `NotFound` and `AlreadyExists`, as the operation would report them.
    pub(super) fn complete(&mut self, change: NameChange) -> io::Result<()> {
        for path in change.paths() {
            self.check_directory(&parent(path))?;
        }
        match &change {
            NameChange::Create { path, .. } if self.visible.contains_key(path) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            NameChange::Create { .. } => {}
            NameChange::Rename { from: path, .. } | NameChange::Remove { path } => drop(self.inode(path)?),
        }
        change.apply(&mut self.visible);
        let directories = change.paths().map(|path| parent(path)).collect();
        self.unsynced.push(Unsynced { number: self.completed, change, directories });
        self.completed += 1;
        Ok(())
    }

    /// The next change's number: a sync that begins now covers those below it.
    pub(super) fn mark(&self) -> u64 {
        self.completed
    }

    /// Removes a name behind everyone's back; this and all before is durable. False if there is none.
    pub(super) fn forget(&mut self, path: &str) -> bool {
        let forgotten = self.visible.remove(path).is_some();
        self.durable = self.visible.clone();
        self.unsynced.clear();
        forgotten
    }

    /// Completes a sync of `directory` that began at `mark`.
    pub(super) fn complete_sync(&mut self, directory: &str, mark: u64) -> io::Result<()> {
        self.check_directory(directory)?;
        for unsynced in self.unsynced.iter_mut().filter(|unsynced| unsynced.number < mark) {
            unsynced.directories.remove(directory);
        }
        let synced = self.with_what_they_build_on(|unsynced| unsynced.directories.is_empty());
        for unsynced in std::mem::take(&mut self.unsynced) {
            match synced.contains(&unsynced.number) {
                true => unsynced.change.apply(&mut self.durable),
                false => self.unsynced.push(unsynced),
            }
        }
        Ok(())
    }

    /// Leaves the names that the medium holds after a power cut. None and all are chosen more often than chance would.
    pub(super) fn power_cut(&mut self, choose: &mut Choose<'_>) {
        let mut lost_names: BTreeSet<Rc<str>> = BTreeSet::new();
        let unsynced = std::mem::take(&mut self.unsynced);
        let fate = if unsynced.is_empty() { 0 } else { choose(WHOLE_OR_PARTS) };
        for Unsynced { change, .. } in unsynced {
            let chosen = match fate {
                0 => false,
                1 => true,
                _ => choose(2) == 1,
            };
            if chosen && !change.paths().any(|path| lost_names.contains(path)) {
                change.apply(&mut self.durable);
            } else {
                lost_names.extend(change.paths().cloned());
            }
        }
        self.visible = self.durable.clone();
    }

    /// How many changes a power cut may lose.
    pub(super) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Numbers of the changes that `wanted` selects and of all earlier ones of the same names.
    fn with_what_they_build_on(&self, wanted: impl Fn(&Unsynced) -> bool) -> BTreeSet<u64> {
        let mut names: BTreeSet<&Rc<str>> = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        for unsynced in self.unsynced.iter().rev() {
            if wanted(unsynced) || unsynced.change.paths().any(|path| names.contains(path)) {
                names.extend(unsynced.change.paths());
                numbers.insert(unsynced.number);
            }
        }
        numbers
    }

    fn check_directory(&self, directory: &str) -> io::Result<()> {
        match is_root(directory) || self.directories.contains(directory) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl NameChange {
    fn paths(&self) -> impl Iterator<Item = &Rc<str>> {
        let (first, second) = match self {
            Self::Create { path, .. } | Self::Remove { path } => (path, None),
            Self::Rename { from, to } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }

    fn apply(&self, names: &mut BTreeMap<Rc<str>, Inode>) {
        match self {
            Self::Create { path, inode } => drop(names.insert(Rc::clone(path), *inode)),
            Self::Remove { path } => drop(names.remove(path)),
            Self::Rename { from, to } => {
                let inode = names.remove(from).expect("a rename is kept only with what it builds on");
                names.insert(Rc::clone(to), inode);
            }
        }
    }
}

/// A path as names are stored: `./d//f/` is `d/f`.
///
/// # Panics
/// If the path is not UTF-8.
pub(in crate::sim) fn key(path: &Path) -> Rc<str> {
    let path: PathBuf = path.components().filter(|component| *component != Component::CurDir).collect();
    path.to_str().expect("paths of a simulation are UTF-8").into()
}

fn parent(path: &str) -> Rc<str> {
    key(Path::new(path).parent().unwrap_or(Path::new("")))
}

fn is_root(directory: &str) -> bool {
    matches!(directory, "" | "/")
}
