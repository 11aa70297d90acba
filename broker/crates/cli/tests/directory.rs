//! The data directory: one broker at a time, nobody else's hands in it, and nothing in it touched that this version does
//! not know.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use support::{Served, expect_failure, run, scratch, serve};

/// Every file with its bytes, every directory and link.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(everything(&path));
            found.insert(path, Vec::new());
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            found.insert(path, target.into_os_string().into_encoded_bytes());
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// A directory in which a broker stored something; stopped so.
fn stored(dir: &Path, signal: Signal) {
    let broker = Served::start(dir);
    broker.ok(&["topic", "create", "orders"], "");
    broker.ok(&["produce", "orders"], "first\nsecond\n");
    broker.end(signal);
}

/// A start fails so, and changes nothing.
fn refuses(dir: &Path, words: &[&str]) {
    let before = everything(dir);
    let args = [&serve(dir, "127.0.0.1:0")[..], &["--admin-listen", "off"]].concat();
    expect_failure(&args, &run(&args, ""), 1, words);
    let after = everything(dir);
    let changed: Vec<_> =
        before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "{words:?}: {changed:?} changed, {:?}", after.keys());
}

fn first(dir: &Path, extension: &str) -> PathBuf {
    let found = everything(dir).into_keys().find(|path| path.extension().is_some_and(|found| found == extension));
    found.unwrap_or_else(|| panic!("no {extension} in {}", dir.display()))
}

#[test]
fn one_broker_at_a_time() {
    let dir = scratch();
    let broker = Served::start(dir.path());
    broker.ok(&["topic", "create", "orders"], "");
    let args = [&serve(dir.path(), "127.0.0.1:0")[..], &["--admin-listen", "off"]].concat();
    expect_failure(&args, &run(&args, ""), 1, &["held by another broker"]);
    broker.ok(&["produce", "orders"], "first\n");
    assert_eq!(broker.ok(&["consume", "orders"], ""), "first\n");
}

#[test]
fn what_nobody_knows_stays() {
    let dir = scratch();
    stored(dir.path(), Signal::KILL);
    let strangers = [
        "notes.txt",
        "shard-000/wal/notes.txt",
        "shard-000/segments/00000000000000ff.seg",
        "shard-000/segments/old.seg",
        "shard-000/backup.tar",
        "meta/keys.pem",
    ];
    for stranger in strangers {
        fs::write(dir.path().join(stranger), stranger).unwrap();
    }
    for signal in [Signal::TERM, Signal::KILL] {
        let broker = Served::start(dir.path());
        broker.ok(&["produce", "orders"], "more\n");
        broker.ok(&["topic", "create", "other"], "");
        broker.ok(&["topic", "delete", "other", "--yes"], "");
        broker.end(signal);
        for stranger in strangers {
            assert_eq!(fs::read(dir.path().join(stranger)).unwrap(), stranger.as_bytes());
        }
    }
}

#[test]
fn a_later_versions_metadata_is_refused_untouched() {
    let dir = scratch();
    stored(dir.path(), Signal::TERM);
    let metadata = dir.path().join("meta");
    rewrite_version(&first(&metadata, "log"));
    let before = everything(&metadata);
    let args = [&serve(dir.path(), "127.0.0.1:0")[..], &["--admin-listen", "off"]].concat();
    expect_failure(&args, &run(&args, ""), 1, &["later version"]);
    assert!(everything(&metadata) == before, "the metadata was touched");
}

#[test]
fn a_later_versions_log_is_refused_untouched() {
    let dir = scratch();
    stored(dir.path(), Signal::TERM);
    let before = everything(&dir.path().join("shard-000"));
    let journal = first(&dir.path().join("shard-000"), "log");
    let original = fs::read(&journal).unwrap();
    rewrite_version(&journal);
    let rewritten = fs::read(&journal).unwrap();
    let args = [&serve(dir.path(), "127.0.0.1:0")[..], &["--admin-listen", "off"]].concat();
    expect_failure(&args, &run(&args, ""), 1, &["later version"]);
    assert_eq!(fs::read(&journal).unwrap(), rewritten);
    fs::write(&journal, original).unwrap();
    assert_eq!(everything(&dir.path().join("shard-000")), before, "the log was touched");
    // Put right it serves.
    let broker = Served::start(dir.path());
    assert_eq!(broker.ok(&["consume", "orders"], ""), "first\nsecond\n");
}

/// Gives the first group of a journal a version that no program has, under checksums that hold.
fn rewrite_version(journal: &Path) {
    let mut bytes = fs::read(journal).unwrap();
    let field = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (length, directory) = (field(&bytes, 48) as usize, field(&bytes, 52) as usize);
    bytes[4..6].copy_from_slice(&999_u16.to_le_bytes());
    let header_crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[24..32]), &bytes[..64]);
    let crc = crc32c::crc32c_append(header_crc, &bytes[directory..length]);
    bytes[64..68].copy_from_slice(&crc.to_le_bytes());
    bytes[68..72].copy_from_slice(&header_crc.to_le_bytes());
    fs::write(journal, bytes).unwrap();
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let dir = scratch();
    stored(dir.path(), Signal::TERM);
    for (place, mode) in [("", 0o777), ("", 0o770), ("shard-000/wal", 0o777), ("meta", 0o720)] {
        let place = dir.path().join(place);
        fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
        refuses(dir.path(), &["may be written by others", "chmod"]);
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    }
    Served::start(dir.path());
}

#[test]
fn links_inside_it_are_refused() {
    for place in ["shard-000/wal", "shard-000/segments", "meta"] {
        let (dir, elsewhere) = (scratch(), scratch());
        stored(dir.path(), Signal::TERM);
        let moved = elsewhere.path().join("moved");
        fs::rename(dir.path().join(place), &moved).unwrap();
        symlink(&moved, dir.path().join(place)).unwrap();
        refuses(dir.path(), &["symbolic link"]);
    }
    for extension in ["wal", "seg", "log"] {
        let (dir, elsewhere) = (scratch(), scratch());
        stored(dir.path(), Signal::TERM);
        let file = first(dir.path(), extension);
        let moved = elsewhere.path().join("moved");
        fs::rename(&file, &moved).unwrap();
        symlink(&moved, &file).unwrap();
        refuses(dir.path(), &["symbolic link"]);
    }
}
