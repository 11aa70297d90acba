//! Metadata that an earlier program wrote, and this one has to read: topics with their settings and where their partitions
//! are, the leader epoch, producer ids, what was deleted and is not gone yet.
//!
//! It lies in `tests/fixtures/metadata`, a directory for each version, with the state in words, `expected.txt`.
//! `STREAMBUS_FIXTURES=0.2.0 cargo test -p broker --test metadata golden` writes that of another version, for the commands
//! below, to which a new command or setting is added before; what is there is never written again. So a change that this
//! test meets as other bytes needs a version of the encoding that older fixtures still pass, and a fixture of its own.
#![allow(clippy::disallowed_methods, reason = "fixtures are files of the repository")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use broker::meta::{Command, TopicPartition};
use runtime::sim::SimRuntime;
use storage::journal::Journal;
use wire::PartitionId;

use crate::{DIR, Files, create, install, read, write};

/// The last kind of command that there is.
const KIND_MAX: u8 = 12;

/// A directory's file that says what is in the others.
const EXPECTED: &str = "expected.txt";

#[test]
fn what_earlier_programs_wrote_is_read() {
    let fixtures = fixtures();
    assert!(!fixtures.is_empty());
    for (version, dir) in fixtures {
        let files = load(&dir);
        assert!(check_complete(&files) >= 7, "{version:?}");
        assert_eq!(read(&files), fs::read_to_string(dir.join(EXPECTED)).unwrap(), "{version:?}");
    }
}

/// The simulation gives the same ids and salts each time, so the bytes are the same as long as the format is.
#[test]
fn what_this_program_writes_is_the_newest_fixture() {
    let (files, state) = write(lives());
    assert_eq!(check_complete(&files), KIND_MAX);
    if let Ok(version) = std::env::var("STREAMBUS_FIXTURES") {
        let dir = root().join(version);
        if !dir.exists() {
            fs::create_dir_all(&dir).unwrap();
            files.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
            fs::write(dir.join(EXPECTED), &state).unwrap();
        }
    }
    let (version, newest) = fixtures().pop_last().expect("there is a fixture");
    let expected = load(&newest);
    assert_eq!(files.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{version:?}");
    for (name, bytes) in files {
        let differs = bytes.iter().zip(&expected[&name]).position(|(found, expected)| found != expected);
        assert_eq!((differs, bytes.len()), (None, expected[&name].len()), "{version:?}, {name}: where it differs");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/metadata")
}

/// By version.
fn fixtures() -> BTreeMap<Vec<u32>, PathBuf> {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let version = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.split('.').map(|number| number.parse().expect("a directory is named for a version")).collect()
    };
    entries.map(|path| (version(&path), path)).collect()
}

fn load(dir: &Path) -> Files {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named = paths.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), path));
    named.filter(|(name, _)| name != EXPECTED).map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

/// A fixture that lacks what it is there for would prove nothing: commands of each kind, behind a snapshot. The last kind.
fn check_complete(files: &Files) -> u8 {
    let copy = files.clone();
    let recovered = runtime::sim::block_on(1, |rt: SimRuntime| async move {
        install(&rt, &copy).await;
        Journal::open(rt, DIR.into(), "meta").await.unwrap().1.expect("it holds something")
    });
    assert!(recovered.snapshot.len() > 200, "{} bytes of snapshot", recovered.snapshot.len());
    let kinds: BTreeSet<u8> = recovered.edits.iter().map(|edit| edit[1]).collect();
    let last = *kinds.last().expect("there are commands");
    assert_eq!(kinds, (1..=last).collect(), "kinds of commands");
    last
}

/// Two lives of a node with all that metadata can hold: of the first the snapshot is left that the second begins with.
fn lives() -> [Vec<Command>; 2] {
    let delete = |name: &str| Command::DeleteTopic { name: name.parse().unwrap() };
    [
        vec![
            Command::RegisterLogs { ids: vec![11, u128::MAX - 1] },
            Command::StartNode { node_id: 7 },
            Command::RegisterLogs { ids: vec![5, 6] },
            Command::SpareLogs { logs: vec![2, 3] },
            Command::RetireLog { log: 3 },
            create("plain", 5, &[]),
            create(
                "all.settings_given-1",
                2,
                &[
                    ("cleanup.policy", "compact,delete"),
                    ("delete.retention.ms", "1000"),
                    ("max.compaction.lag.ms", "86400000"),
                    ("max.message.bytes", "65536"),
                    ("min.cleanable.dirty.ratio", "0.25"),
                    ("min.compaction.lag.ms", "2000"),
                    ("retention.bytes", "1073741824"),
                    ("retention.ms", "-1"),
                    ("streambus.durability", "memory"),
                    ("streambus.segment.compression", "zstd"),
                ],
            ),
            create("gone", 3, &[]),
            create("half-gone", 4, &[]),
            Command::ReserveProducerIds,
            delete("gone"),
            delete("half-gone"),
            Command::PrepareMove { partition: PartitionId(1), to: 1 },
            Command::ConfirmDropped {
                partitions: vec![PartitionId(8), PartitionId(9), PartitionId(10), PartitionId(12)],
            },
        ],
        vec![
            Command::StartNode { node_id: 7 },
            Command::RegisterLogs { ids: vec![0] },
            create("gone", 3, &[("retention.ms", "1"), ("streambus.segment.compression", "lz4")]),
            Command::ReserveProducerIds,
            Command::AlterTopic {
                name: "all.settings_given-1".parse().unwrap(),
                set: BTreeMap::from([("max.message.bytes".to_owned(), "1000".to_owned())]),
                unset: vec!["retention.bytes".to_owned()],
            },
            create("short-lived", 2, &[]),
            delete("short-lived"),
            Command::ConfirmDropped { partitions: vec![PartitionId(11)] },
            Command::MovePartition { partition: PartitionId(1), to: 1 },
            Command::ConfirmErased { copies: vec![TopicPartition { id: PartitionId(1), log: 0 }] },
            Command::PrepareMove { partition: PartitionId(2), to: 0 },
            Command::SpareLogs { logs: vec![2] },
            Command::RetireLog { log: 2 },
        ],
    ]
}
