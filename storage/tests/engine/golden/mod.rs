//! Directories of a log that an earlier program wrote, and this one has to read: every record, offset and setting, what
//! its producers had sent, and then to go on in them.
//!
//! They lie in `tests/fixtures/logs`, each with what is in it in words, `expected.txt`, as it was known when it was
//! written. `STREAMBUS_FIXTURES=0.1.0 cargo test -p storage --test engine golden` writes what a release leaves behind; those of
//! earlier releases are never written again.
#![allow(clippy::disallowed_methods, reason = "fixtures are files of the repository")]

pub(crate) mod directory;
pub(crate) mod expected;
pub(crate) mod history;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
};

use directory::Directory;
use expected::Expected;
use history::End;
use runtime::sim::{Crash, SimRuntime, Simulation};
use storage::{Log, manifest::Manifest, segment::Extent};

use crate::support::DIR;

#[test]
fn what_earlier_programs_wrote_is_read() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let expected = Expected::parse(&std::fs::read_to_string(path.join("expected.txt")).unwrap());
        let directory = Directory::load(&path);
        check(&directory, &expected);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        check_complete(&directory, if name.ends_with("-killed") { End::Killed } else { End::Stopped });
        names.push(name);
    }
    assert!(["0.1.0-stopped", "0.1.0-killed"].iter().all(|&name| names.iter().any(|it| it == name)), "{names:?}");
}

#[test]
fn what_this_program_writes_is_read() {
    for (name, end) in [("stopped", End::Stopped), ("killed", End::Killed)] {
        let (directory, expected) = history::write(end);
        check(&directory, &expected);
        if let Ok(release) = std::env::var("STREAMBUS_FIXTURES") {
            let dir = fixtures().join(format!("{release}-{name}"));
            // What is there stays as it is.
            if !dir.exists() {
                check_complete(&directory, end);
                directory.save(&dir);
                std::fs::write(dir.join("expected.txt"), expected.to_string()).unwrap();
            }
        }
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/logs")
}

/// Opens a copy, finds what is expected, goes on, and finds it again behind a clean stop and behind a power cut.
fn check(directory: &Directory, expected: &Expected) {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let expected = Rc::new(expected.clone());
    let life = |number: usize| {
        let (directory, expected) = (directory.clone(), expected.clone());
        move |rt: SimRuntime| async move {
            if number == 0 {
                directory.install(&rt).await;
            }
            let log = Log::open(rt, DIR.as_ref(), history::options()).await.unwrap();
            let found = Expected::of(&log, &expected).await;
            assert!(!found.records.is_empty());
            found.without_sequel().assert_same(&expected.without_sequel(), &format!("life {number}"));
            expected.check_producers(&log, number == 0).await;
            expected.go_on(&log, number as u64).await;
            if number == 1 {
                log.close().await.unwrap();
            }
        }
    };
    for number in 0..4 {
        simulation.block_on(node, life(number)).unwrap();
        simulation.crash(node, Crash::PowerCut);
    }
}

/// A fixture that lacks what it is there for would prove nothing.
fn check_complete(directory: &Directory, end: End) {
    let copy = directory.clone();
    let (state, log_id) = runtime::sim::block_on(1, |rt: SimRuntime| async move {
        copy.install(&rt).await;
        let manifest = Manifest::open(&rt, DIR.as_ref()).await.unwrap();
        let state = manifest.state().clone();
        (state, manifest.log_id())
    });
    let shapes: BTreeSet<_> =
        state.segments.iter().map(|segment| (segment.level, matches!(segment.extent, Extent::Own { .. }))).collect();
    if let End::Stopped = end {
        assert_eq!(shapes.len(), 4, "own and shared segments of levels 0 and 1: {shapes:?}");
    }
    let partitions = || state.partitions.values();
    assert!(partitions().any(|partition| !partition.clips.is_empty()));
    assert!(partitions().any(|partition| !partition.lost.is_empty()));
    assert!(partitions().any(|partition| partition.epochs.len() > 1));
    assert!(partitions().any(|partition| partition.producers.len() > 100));
    assert_eq!(state.clean, matches!(end, End::Stopped));
    if matches!(end, End::Killed) {
        assert!(partitions().any(|partition| partition.reserved_end > 0));
        assert!(!state.cuts.is_empty());
        let kinds = directory.kinds_above(log_id, state.flushed.lsn);
        assert_eq!(kinds, (1..=6).collect(), "entries of all kinds that are not flushed");
    }
}
