//! Removes the directory of a log that was given up.
//!
//! Only what a log writes is deleted, by its name. A directory in which anything else is left stays, for whoever put it
//! there. It may be cut short at any point and begun again: whoever calls knows that nothing in it counts.

use std::{
    io::{Error, ErrorKind, Result},
    path::Path,
};

use runtime::Runtime;

use crate::{
    manifest, segment,
    wal::files::{self, parse_file_name},
};

/// Removes the log in `dir`, which nobody has open; whether nothing is left of the directory.
///
/// # Errors
/// Whatever the system reports, but for what is gone already.
pub async fn remove_log<R: Runtime>(rt: &R, dir: &Path) -> Result<bool> {
    let is_wal_file = |name: &str| parse_file_name(name).is_some();
    let is_segment = |name: &str| segment::id_of_file_name(name).is_some();
    let mut is_gone = remove_dir(rt, &files::directory(dir), is_wal_file).await?;
    is_gone &= remove_dir(rt, &segment::directory(dir), is_segment).await?;
    // The root of recovery goes last.
    is_gone &= remove_dir(rt, dir, manifest::is_file_name).await?;
    Ok(is_gone)
}

/// Removes the files of a directory that are ours, and then the directory if it is empty.
async fn remove_dir<R: Runtime>(rt: &R, dir: &Path, is_ours: impl Fn(&str) -> bool) -> Result<bool> {
    let entries = match rt.list_dir(dir).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries.iter().filter(|entry| is_ours(&entry.name)) {
        rt.remove_file(&dir.join(&entry.name)).await.or_else(unless_gone)?;
    }
    rt.sync_dir(dir).await?;
    match rt.remove_dir(dir).await {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        removed => removed.or_else(unless_gone).map(|()| true),
    }
}

fn unless_gone(error: Error) -> Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
