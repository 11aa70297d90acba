//! Directories: created, listed, synced, locked.

use std::{io::ErrorKind, os::unix::fs::PermissionsExt as _, path::Path};

use runtime::{DirEntry, Runtime as _};
use runtime_glommio::GlommioRuntime;

use crate::{on_shard, scratch};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn creates_private_directories_and_their_parents() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let dir = scratch.path().join("a/b");
        runtime.create_dir_all(&dir).await.unwrap();
        runtime.create_dir_all(&dir).await.unwrap();
        assert_eq!((mode(&dir), mode(dir.parent().unwrap())), (0o700, 0o700));

        std::fs::write(dir.join("file"), "").unwrap();
        let error = runtime.create_dir_all(&dir.join("file")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    });
}

#[test]
fn lists_plain_files_only() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        std::fs::write(scratch.path().join("one"), "1").unwrap();
        std::fs::create_dir(scratch.path().join("dir")).unwrap();
        std::os::unix::fs::symlink("one", scratch.path().join("link")).unwrap();
        let listed = runtime.list_dir(scratch.path()).await.unwrap();
        assert_eq!(listed, [DirEntry { name: "one".into(), len: 1 }]);
        assert_eq!(runtime.list_names(scratch.path()).await.unwrap(), ["one"]);

        let missing = runtime.list_dir(&scratch.path().join("none")).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn renames_removes_and_syncs() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let (old, new) = (scratch.path().join("old"), scratch.path().join("new"));
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        runtime.rename(&old, &new).await.unwrap();
        runtime.sync_dir(scratch.path()).await.unwrap();
        assert_eq!(std::fs::read(&new).unwrap(), b"old");
        runtime.remove_file(&new).await.unwrap();
        assert_eq!(runtime.list_dir(scratch.path()).await.unwrap(), []);
        assert_eq!(runtime.remove_file(&new).await.unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_directory_is_locked_once() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let lock = runtime.lock_dir(scratch.path()).await.unwrap();
        let error = runtime.lock_dir(scratch.path()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(error.to_string().contains(&*scratch.path().to_string_lossy()), "{error}");
        drop(lock);
        let _lock = runtime.lock_dir(scratch.path()).await.unwrap();
        assert_eq!(mode(&scratch.path().join("LOCK")), 0o600);
    });
}

#[test]
fn tells_the_room_that_is_left() {
    on_shard(async |runtime: GlommioRuntime| {
        let scratch = scratch();
        let space = runtime.space(scratch.path()).await.unwrap();
        assert!(0 < space.free_bytes && space.free_bytes < space.total_bytes, "{space:?}");
    });
}
