//! Looking into a log that is stopped: sound ones are sound, every damaged byte is told of, nothing is ever written, and
//! nothing that a file may hold makes it panic.
#![allow(clippy::disallowed_methods, reason = "fixtures are files of the repository")]

use std::{collections::BTreeMap, ops::Range, path::Path};

use runtime::{
    Runtime as _,
    sim::{Rng, SimRuntime, Simulation},
};
use storage::{
    PartitionId,
    group::{GROUP_ALIGNMENT, Group},
    inspect::{Item, Severity, Verified, dump_file, dump_partition, survey, verify_log},
    manifest::{Manifest, State},
};

use crate::{
    golden::{
        directory::{Directory, salt_of},
        expected::describe,
        history::{self, End},
    },
    support::DIR,
};

const ENDS: [End; 2] = [End::Stopped, End::Killed];

#[test]
fn a_sound_log_is_sound_and_stays_as_it_is() {
    for end in ENDS {
        let (directory, expected) = history::write(end);
        let after = looked_at(&directory);
        assert_eq!(after.files, directory.0, "nothing is ever written");
        let verified = after.verified.unwrap();
        assert!(verified.is_sound(), "{:?}", verified.findings);
        // Its manifest, its WAL and its live segments.
        assert!(verified.files > 5 && verified.files as usize <= directory.0.len(), "{verified:?}");
        // A clean stop leaves nothing but the manifest's snapshot.
        let groups_min = if matches!(end, End::Stopped) { 1 } else { 2 };
        assert!(verified.groups >= groups_min && verified.entries >= verified.groups, "{verified:?}");
        assert!(verified.segments >= 2 && verified.blocks >= verified.segments, "{verified:?}");
        assert!(verified.batches > 40, "{verified:?}");
        let ends: BTreeMap<u64, u64> = expected.records.keys().map(|&(id, offset)| (id, offset + 1)).collect();
        for (id, end) in ends {
            let partition = &after.survey[&PartitionId(id)];
            let lost = expected.lost.iter().any(|&(of, _, to)| of == id && to >= partition.1);
            assert!(partition.1 == end || lost, "partition {id} ends at {}, {end} expected", partition.1);
            assert_eq!(partition.0, expected.partitions[&id].1, "start of partition {id}");
        }
    }
}

#[test]
fn a_dump_of_a_partition_is_what_a_consumer_reads() {
    for end in ENDS {
        let (directory, expected) = history::write(end);
        for &id in expected.partitions.keys() {
            let all = dumped(&directory, id, 0..u64::MAX);
            let start = expected.partitions[&id].1;
            let found = all.into_iter().filter(|(offset, _)| *offset >= start).collect::<BTreeMap<_, _>>();
            let wanted: BTreeMap<u64, String> = expected
                .records
                .range((id, 0)..(id + 1, 0))
                .map(|((_, offset), record)| (*offset, record.clone()))
                .collect();
            assert_eq!(found, wanted, "partition {id}");
            // Whole batches, which may begin before the range; what lies below the log's start is dumped as well.
            let some: BTreeMap<_, _> =
                dumped(&directory, id, 3..5).into_iter().filter(|(offset, _)| *offset >= start).collect();
            assert!(some.iter().all(|(offset, record)| wanted.get(offset) == Some(record)), "partition {id}: {some:?}");
            assert!(wanted.range(3..5).all(|(offset, _)| some.contains_key(offset)), "partition {id}: {some:?}");
        }
    }
}

/// Where a byte counts, one that changes is told of; of what looks like a write that was cut short, as a note.
#[test]
fn every_byte_that_counts_is_checked() {
    let (mut damaged, mut torn) = (0, 0);
    for end in ENDS {
        let (directory, _) = history::write(end);
        let places = covered(&directory);
        let rng = Rng::new(11);
        for _ in 0..400 {
            let (file, range) = &places[rng.below(places.len() as u64) as usize];
            let position = range.start + rng.below(range.len() as u64) as usize;
            let mut mutated = directory.clone();
            mutated.0.get_mut(file).unwrap()[position] ^= 1 << rng.below(8);
            let verified = looked_at(&mutated).verified.unwrap();
            match verified.findings.iter().map(|finding| finding.severity).max() {
                Some(Severity::Damage) => damaged += 1,
                Some(Severity::Note) if is_last(&directory, file, position) => torn += 1,
                _ => panic!("{file} at byte {position}: {:?}", verified.findings),
            }
        }
    }
    assert!(damaged > 600, "{damaged} told as damage, {torn} as torn tails");
}

#[test]
fn nothing_that_files_hold_makes_it_panic() {
    let mut looked = 0;
    for seed in runtime::sim::seeds(300) {
        let (mut directory, _) = history::write(ENDS[seed as usize % 2]);
        let rng = Rng::new(seed);
        for _ in 0..1 + rng.below(4) {
            mutate(&mut directory, &rng);
        }
        let before = directory.0.clone();
        assert_eq!(looked_at(&directory).files, before);
        looked += 1;
    }
    assert!(looked > 0);
}

fn mutate(directory: &mut Directory, rng: &Rng) {
    let names: Vec<String> = directory.0.keys().cloned().collect();
    let name = &names[rng.below(names.len() as u64) as usize];
    let other = directory.0[&names[rng.below(names.len() as u64) as usize]].clone();
    let bytes = directory.0.get_mut(name).unwrap();
    let pages = (bytes.len() / GROUP_ALIGNMENT).max(1) as u64;
    let page = rng.below(pages) as usize * GROUP_ALIGNMENT;
    match rng.below(6) {
        0 => bytes.truncate(page),
        1 => drop(directory.0.remove(name)),
        2 => {
            let page = bytes.get_mut(page..page + GROUP_ALIGNMENT);
            if let (Some(page), Some(other)) = (page, other.get(..GROUP_ALIGNMENT)) {
                page.copy_from_slice(other);
            }
        }
        _ => {
            // Mostly where the numbers are.
            let reach = if rng.one_in(2) { 128 } else { GROUP_ALIGNMENT as u64 };
            for _ in 0..1 + rng.below(8) {
                if let Some(byte) = bytes.get_mut(page + rng.below(reach) as usize) {
                    *byte = rng.next_u64() as u8;
                }
            }
        }
    }
}

/// What looking at a directory tells, and its files afterwards.
struct LookedAt {
    verified: Result<Verified, String>,
    /// Start and end of each partition.
    survey: BTreeMap<PartitionId, (u64, u64)>,
    files: BTreeMap<String, Vec<u8>>,
}

fn looked_at(directory: &Directory) -> LookedAt {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let copy = directory.clone();
    let look = |rt: SimRuntime| async move {
        copy.install(&rt).await;
        let verified = verify_log(&rt, DIR.as_ref()).await.map_err(|error| error.to_string());
        let survey = survey(&rt, DIR.as_ref()).await.map(|survey| survey.partitions).unwrap_or_default();
        for name in copy.0.keys() {
            // What cannot be read says so.
            let _ = dump_file(&rt, &Path::new(DIR).join(name), async |_: Item<'_>| true).await;
        }
        for id in 0..10 {
            let _ = dump_partition(&rt, DIR.as_ref(), PartitionId(id), 0..u64::MAX, async |_: Item<'_>| true).await;
        }
        let offsets = survey.into_iter().map(|(id, partition)| (id, (partition.log_start, partition.log_end)));
        (verified, offsets.collect::<BTreeMap<_, _>>())
    };
    let (verified, survey) = simulation.block_on(node, look).unwrap();
    LookedAt { verified, survey, files: Directory::of(&simulation.disk(node)).0 }
}

fn dumped(directory: &Directory, id: u64, offsets: Range<u64>) -> BTreeMap<u64, String> {
    let directory = directory.clone();
    runtime::sim::block_on(1, move |rt: SimRuntime| async move {
        directory.install(&rt).await;
        let mut records = BTreeMap::new();
        let show = async |item: Item<'_>| {
            let Item::Batch { partition, batch, .. } = item else { panic!("only batches are asked for") };
            assert_eq!(partition, PartitionId(id));
            for record in batch.records().unwrap() {
                let record = record.unwrap();
                records.insert(record.offset, describe(&record, batch.leader_epoch()));
            }
            true
        };
        dump_partition(&rt, DIR.as_ref(), PartitionId(id), offsets, show).await.unwrap();
        records
    })
}

fn manifest(directory: &Directory) -> (State, u128) {
    let copy = directory.clone();
    runtime::sim::block_on(1, |rt: SimRuntime| async move {
        copy.install(&rt).await;
        let manifest = Manifest::open(&rt, DIR.as_ref()).await.unwrap();
        let state = manifest.state().clone();
        rt.sync_dir(DIR.as_ref()).await.unwrap();
        (state, manifest.log_id())
    })
}

/// Every range of bytes that something vouches for: groups of the manifest, live groups of the WAL, live segments.
fn covered(directory: &Directory) -> Vec<(String, Range<usize>)> {
    let (state, log_id) = manifest(directory);
    let mut covered = Vec::new();
    for (name, bytes) in &directory.0 {
        if let Some(id) = name.strip_prefix("segments/").and_then(storage::segment::id_of_file_name) {
            if state.segments.iter().any(|meta| meta.id == id) {
                covered.push((name.clone(), 0..bytes.len()));
            }
            continue;
        }
        let is_wal = name.ends_with(".wal");
        for (lsn, range) in groups(name, bytes, log_id) {
            if !is_wal || lsn > state.flushed.lsn {
                covered.push((name.clone(), range));
            }
        }
    }
    covered
}

/// LSN and bytes, without padding, of every group of a file. A manifest that was not finished counts for nothing.
fn groups(name: &str, bytes: &[u8], log_id: u128) -> Vec<(u64, Range<usize>)> {
    if name.ends_with(".tmp") {
        return Vec::new();
    }
    let salt = if name.ends_with(".wal") { salt_of(name) } else { salt_of(&name.replace(".log", ".wal")) };
    let mut found = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        let Ok(group) = Group::parse(&bytes[position..], log_id, salt) else {
            position += GROUP_ALIGNMENT;
            continue;
        };
        found.push((group.header.stamp.lsn, position..position + group.header.length as usize));
        position += group.header.padded_bytes();
    }
    found
}

/// Whether a place is in the last group of the WAL or of the manifest, which has no witness.
fn is_last(directory: &Directory, file: &str, position: usize) -> bool {
    let (_, log_id) = manifest(directory);
    let same_kind = directory.0.iter().filter(|(name, _)| name.ends_with(".wal") == file.ends_with(".wal"));
    let all = same_kind.filter(|(name, _)| !name.starts_with("segments/"));
    let groups = all.flat_map(|(name, bytes)| groups(name, bytes, log_id).into_iter().map(move |of| (of, name)));
    let ((_, range), name) = groups.max_by_key(|((lsn, _), _)| *lsn).expect("there are groups");
    name == file && range.contains(&position)
}
