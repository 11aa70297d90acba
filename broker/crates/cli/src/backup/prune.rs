//! Removes old backups, and copies that no backup has: of old ones, and of one that was cut short.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use runtime::Runtime;
use storage::backup::CopiedFile;

use super::list::{self, List, failed};
use crate::failure::Failure;

/// Removes all but the `keep` newest backups in `dir`, and the copies that none of those has.
pub(super) async fn prune<R: Runtime>(rt: &R, dir: &Path, keep: usize) -> Result<(), Failure> {
    let mut removed = List::generations(rt, dir).await?;
    let kept = removed.split_off(removed.len().saturating_sub(keep));
    let (mut needed, mut dirs) = (BTreeSet::new(), BTreeSet::new());
    for &generation in &kept {
        let list = List::read(rt, dir, generation).await?;
        needed.extend(list.files().map(|file| dir.join(file.stored())));
    }
    for &generation in &removed {
        // A list that is damaged says nothing of what to remove, and the others' directories are the same.
        let Ok(list) = List::read(rt, dir, generation).await else { continue };
        dirs.extend(list.files().filter_map(|file| parent(dir, &file)));
    }
    dirs.extend(needed.iter().filter_map(|stored| stored.parent().map(Path::to_owned)));
    for generation in removed {
        let path = dir.join(list::name(generation));
        rt.remove_file(&path).await.map_err(|error| failed("remove", &path, &error))?;
    }
    // Lists first: a backup that is listed is whole.
    rt.sync_dir(dir).await.map_err(|error| failed("sync", dir, &error))?;
    for dir in dirs {
        for entry in rt.list_dir(&dir).await.map_err(|error| failed("read", &dir, &error))? {
            let path = dir.join(&entry.name);
            let is_copy = entry.name.rsplit_once('@').is_some_and(|(_, number)| number.parse::<u64>().is_ok());
            if is_copy && !needed.contains(&path) {
                rt.remove_file(&path).await.map_err(|error| failed("remove", &path, &error))?;
            }
        }
    }
    Ok(())
}

fn parent(dir: &Path, file: &CopiedFile) -> Option<PathBuf> {
    dir.join(file.stored()).parent().map(Path::to_owned)
}
