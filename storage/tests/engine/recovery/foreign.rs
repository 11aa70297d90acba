//! What is not this log's, or not of this use of a file, or of a later version: never adopted, never harmed.

use runtime::{Block as _, File as _, OpenMode, Runtime, sim::SimRuntime};
use storage::{
    OpenError, PartitionId,
    group::{Builder, Entry, EntryKind, GROUP_ALIGNMENT, GroupError, HEADER_BYTES, Stamp},
    manifest::{self},
};
use wire::record::{Batch, BatchBuilder, Producer, patch_base_offset};

use super::story::{GroupOnDisk, Story, append_each, reseal, salt_of, values};
use crate::support::{append_acked, batch, durable};

/// Changes a group into one that only a later program understands.
type Modernize = fn(&GroupOnDisk, &mut [u8]);

type Expected = fn(&GroupError) -> bool;

const LATER: [(&str, Modernize, Expected); 2] = [
    ("version", |_, bytes| bytes[4] = 2, |error| matches!(error, GroupError::UnknownVersion { version: 2 })),
    (
        "entry kind",
        |group, bytes| bytes[group.header.directory_position as usize] = 99,
        |error| matches!(error, GroupError::UnknownKind { kind: 99 }),
    ),
];

#[test]
fn a_group_of_a_later_version_refuses_the_log_and_nothing_is_touched() {
    for (what, modernize, is_named) in LATER {
        for place in 0..3 {
            let story = Story::new(1);
            story.live(|_, log| async move { append_each(&log, 1, 0..3).await });
            let group = story.group_of(1, place);
            let mut bytes = group.bytes.clone();
            modernize(&group, &mut bytes);
            reseal(&mut bytes);
            group.overwrite(&story.disk(), 0, &bytes);
            let before = story.everything();
            match story.try_live(|_, _| async {}) {
                Err(OpenError::UnknownFormat { file, position, source }) => {
                    assert_eq!((file, position), (group.path.clone(), group.position), "{what}");
                    assert!(is_named(&source), "{what}: {source}");
                }
                opened => panic!("{what}: {opened:?}"),
            }
            assert!(story.everything() == before, "{what}: something was changed");
            group.put_back(&story.disk());
            story.live(|_, log| async move { assert_eq!(values(&log, 1).await, [0, 1, 2]) });
        }
    }
}

/// A perfectly formed group with one record of partition 1, its value 666.
fn forged(rt: &SimRuntime, stamp: Stamp, offset: u64) -> Vec<u8> {
    let mut bytes = batch(&[666], Producer::NONE);
    patch_base_offset(&mut bytes, offset);
    let partition = PartitionId(1);
    let entry =
        Entry { kind: EntryKind::Batch, partition, leader_epoch: 1, base_offset: offset, next_offset: offset + 1 };
    let mut group = Builder::new(rt.block(0));
    group.push(entry, &bytes);
    group.seal(stamp, &[]).bytes.to_vec()
}

/// The stamps of groups that would follow `last`, if not for one thing each; and one that is right in everything.
fn stamps_behind(last: &GroupOnDisk) -> [(&'static str, Stamp); 3] {
    let lsn = last.lsn();
    let right = Stamp { lsn: lsn + 1, previous_lsn: lsn, ..last.header.stamp };
    [
        ("an older use of the file", Stamp { salt: right.salt ^ 1, ..right }),
        ("another log", Stamp { log_id: right.log_id ^ 1, ..right }),
        ("nothing wrong", right),
    ]
}

#[test]
fn a_group_of_another_use_of_the_file_is_never_adopted() {
    let story = Story::new(2);
    story.live(|_, log| async move { append_each(&log, 1, 0..3).await });
    let as_written = story.disk().snapshot();
    let last = story.groups().pop().unwrap();
    for (what, stamp) in stamps_behind(&last) {
        let forged = story.simulation.block_on(story.node, move |rt| async move { forged(&rt, stamp, 3) }).unwrap();
        story.simulation.crash(story.node, runtime::sim::Crash::Kill);
        story.disk().damage(&last.path, last.end(), &forged);
        // The last one shows that the others fail for no other reason.
        let expected = if what == "nothing wrong" { vec![0, 1, 2, 666] } else { vec![0, 1, 2] };
        story.live(move |_, log| async move {
            assert_eq!(values(&log, 1).await, expected, "{what}");
            assert_eq!(durable(&log, 1).refused_from(), None, "{what}");
            assert_eq!(append_acked(&log, &durable(&log, 1), &[7]).await, expected.len() as u64, "{what}");
        });
        story.disk().restore(as_written.clone());
    }
}

/// A producer puts a group into a record's value, where recovery looks for groups once the one around it is damaged.
#[test]
fn a_producers_bytes_never_pose_as_a_group() {
    // Learns which numbers its group will have; the salt is what it cannot learn.
    for (what, salt_known) in [("a guessed salt", false), ("the salt", true)] {
        let story = Story::new(3);
        story.live(|_, log| async move { append_each(&log, 1, 0..3).await });
        let last = story.groups().pop().unwrap();
        story.live(move |rt, log| async move {
            let partition = durable(&log, 1);
            append_acked(&log, &partition, &[3]).await;
            let wal = active_wal_file(&rt).await;
            let salt = if salt_known { salt_of(&wal) } else { 0x5eed };
            let stamp = Stamp { salt, lsn: last.lsn() + 3, previous_lsn: last.lsn() + 1, ..last.header.stamp };
            let bytes = batch_with_page(&forged(&rt, stamp, 4));
            let appended = partition.append(&Batch::parse_one(&bytes).unwrap(), 1).unwrap();
            let synced = log.synced(appended.lsn()).await.unwrap();
            let _ = appended.acknowledge(synced);
        });
        let carrier = story.group_of(1, 4);
        assert_eq!(&carrier.bytes[GROUP_ALIGNMENT..][..4], b"SBGP", "the forged group lies where recovery looks");
        carrier.flip(&story.disk(), 0);
        let found = story.live(|_, log| async move { values(&log, 1).await });
        // With the salt it would succeed, so that nothing else is what it fails by.
        assert_eq!(found.contains(&666), salt_known, "{what}: {found:?}");
    }
}

/// The file that groups go to: the one with the highest number but for the one kept ready.
async fn active_wal_file(rt: &SimRuntime) -> String {
    let mut names: Vec<_> = rt.list_dir("log/wal".as_ref()).await.unwrap().into_iter().map(|file| file.name).collect();
    names.sort();
    let mut newest = names.into_iter().rev();
    for name in newest.by_ref() {
        let file = rt.open(format!("log/wal/{name}").as_ref(), OpenMode::Read).await.unwrap();
        if file.read(0, 4).await.unwrap()[..] == *b"SBGP" {
            return name;
        }
    }
    panic!("groups were written")
}

/// A batch whose record holds `page` where it lies at a multiple of 4 KiB, once the batch is alone in its group.
fn batch_with_page(page: &[u8]) -> Vec<u8> {
    let build = |value: &[u8]| {
        let mut builder = BatchBuilder::new(1 << 20);
        builder.append(0, None, Some(value), &[]).unwrap();
        builder.build(Producer::NONE).to_vec()
    };
    let mut value = vec![0xab; 12 << 10];
    let value_at = build(&value).iter().position(|&byte| byte == 0xab).unwrap();
    value[GROUP_ALIGNMENT - HEADER_BYTES - value_at..][..page.len()].copy_from_slice(page);
    build(&value)
}

#[test]
fn a_log_without_its_manifest_is_refused_and_nothing_is_touched() {
    for flushed in [false, true] {
        let story = Story::new(4);
        story.live(move |_, log| async move {
            append_each(&log, 1, 0..3).await;
            if flushed {
                log.close().await.unwrap();
            }
        });
        let disk = story.disk();
        let is_wal = |path: &String| path.ends_with(".wal");
        for path in disk.files() {
            // Of a log that was flushed, the segments alone have to be enough.
            if path.contains("manifest") || (flushed && is_wal(&path)) {
                disk.damage_name(&path);
            }
        }
        let before = story.everything();
        assert!(before.keys().any(|path| if flushed { path.ends_with(".seg") } else { is_wal(path) }));
        let opened = story.try_live(|_, _| async {});
        assert!(matches!(opened, Err(OpenError::Rootless { .. })), "{opened:?}");
        assert!(story.everything() == before, "something was changed");
    }
}

#[test]
fn a_damaged_manifest_is_refused_and_nothing_is_touched() {
    let story = Story::new(5);
    story.live(|_, log| async move { append_each(&log, 1, 0..3).await });
    let path = story.disk().files().into_iter().find(|path| path.contains("manifest")).unwrap();
    story.disk().flip_byte(&path, 100);
    let before = story.everything();
    let opened = story.try_live(|_, _| async {});
    assert!(matches!(opened, Err(OpenError::Manifest(manifest::OpenError::Journal(_)))), "{opened:?}");
    assert!(story.everything() == before, "something was changed");
}

#[test]
fn strangers_are_left_alone() {
    const STRANGERS: [&str; 6] = [
        "log/README",
        "log/wal/notes",
        "log/wal/0000000000000001-0000000000000002.wal.bak",
        "log/wal/1-2.wal",
        "log/segments/00000000000000ff.seg",
        "log/segments/notes",
    ];
    let story = Story::new(6);
    story.live(|rt, log| async move {
        append_each(&log, 1, 0..3).await;
        for path in STRANGERS {
            let file = rt.open(path.as_ref(), OpenMode::CreateNew).await.unwrap();
            let mut block = rt.block(0);
            block[..GROUP_ALIGNMENT].fill(7);
            file.write(block.freeze(GROUP_ALIGNMENT), 0).await.unwrap();
            file.sync().await.unwrap();
        }
        for dir in ["log", "log/wal", "log/segments"] {
            rt.sync_dir(dir.as_ref()).await.unwrap();
        }
    });
    for life in 0..4 {
        story.live(move |_, log| async move {
            let expected: Vec<_> = (0..3 + life).collect();
            assert_eq!(values(&log, 1).await, expected);
            append_each(&log, 1, 3 + life..4 + life).await;
            if life % 2 == 1 {
                log.close().await.unwrap();
            }
        });
        for path in STRANGERS {
            assert_eq!(story.disk().read(path), Some(vec![7; GROUP_ALIGNMENT]), "{path} in life {life}");
        }
    }
}
