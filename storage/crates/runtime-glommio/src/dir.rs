//! Directories, on the shard's blocking threads: the standard library with this project's permissions and durability.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use ::runtime::{DirEntry, Space};

/// A log's directories lie so deep in the one that is locked.
const DEPTH_MAX: usize = 3;
/// Permission bits of group and others.
const OTHERS_MAY_WRITE: u32 = 0o022;
/// Name of the file that stands for the lock on its directory.
const LOCK_FILE: &str = "LOCK";

/// Holds a directory against a second process until it is dropped.
pub struct DirLock {
    _file: File,
}

pub(crate) fn list(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_file() {
            files.push(DirEntry { name: name_of(path, &entry)?, len: metadata.len() });
        }
    }
    Ok(files)
}

pub(crate) fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(name_of(path, &entry)?);
        }
    }
    Ok(names)
}

fn name_of(directory: &Path, entry: &fs::DirEntry) -> io::Result<String> {
    entry.file_name().into_string().map_err(|name| not_utf8(directory, name.as_ref()))
}

/// Creates `path` and its missing parents. An existing `path` is made durable too: the process that created it may
/// have died before it did so.
pub(crate) fn create_all(path: &Path) -> io::Result<()> {
    let parent = parent(path);
    if !path.is_dir() {
        if !parent.is_dir() {
            create_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
    }
    sync(parent)
}

/// Removes an empty directory, durably.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_dir(path)?;
    sync(parent(path))
}

pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(crate) fn lock(path: &Path) -> io::Result<DirLock> {
    check_private(path, DEPTH_MAX)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(locked(path)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let system = rustix::fs::statvfs(path)?;
    Ok(Space {
        total_bytes: system.f_blocks.saturating_mul(system.f_frsize),
        free_bytes: system.f_bavail.saturating_mul(system.f_frsize),
    })
}

/// Refuses a directory into which others may put files, or that leads out of itself: whoever could, could have the broker
/// write where they want. The directory itself may be reached by a link.
fn check_private(dir: &Path, depth: usize) -> io::Result<()> {
    let refused =
        |path: &Path, why: &str| io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {why}", path.display()));
    let mode = fs::metadata(dir)?.mode() & 0o777;
    if mode & OTHERS_MAY_WRITE != 0 {
        return Err(refused(dir, &format!("may be written by others (mode {mode:o}): chmod go-w it")));
    }
    let entries = match fs::read_dir(dir) {
        // Somebody else's, such as `lost+found`.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && depth < DEPTH_MAX => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            return Err(refused(
                &entry.path(),
                "is a symbolic link, which is not followed: put what it names in its place",
            ));
        }
        if kind.is_dir() && depth > 0 {
            check_private(&entry.path(), depth - 1)?;
        }
    }
    Ok(())
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn locked(path: &Path) -> io::Error {
    let path = path.display();
    io::Error::new(io::ErrorKind::WouldBlock, format!("{path} is in use: another process holds its {LOCK_FILE} file"))
}

fn not_utf8(path: &Path, name: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: the name of {} is not UTF-8", path.display(), name.display()),
    )
}
