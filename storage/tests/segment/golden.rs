//! A segment of format version 1, byte for byte: what is on people's disks stays readable.

use runtime::{
    Block as _, File as _, OpenMode, Runtime as _,
    sim::{Simulation, block_on},
};
use storage::{
    PartitionId,
    segment::{SegmentId, file_name},
};

use crate::{
    keys::{self, KeyedModel},
    model::{BatchSpec, DIR, Model, batches, read_all, segments, write},
};

const FIXTURE: &[u8] = include_bytes!("../fixtures/v1/0000000000000011.seg");
/// With key tables: its trailer has version 2.
const KEYED_FIXTURE: &[u8] = include_bytes!("../fixtures/v2/0000000000000012.seg");
const ID: SegmentId = SegmentId(0x11);

fn model() -> Model {
    let spec = |gap, epoch_step, timestamps: &[i64], value_bytes| BatchSpec {
        gap,
        epoch_step,
        timestamps: timestamps.to_vec(),
        value_bytes,
    };
    Model::from([
        (PartitionId(2), batches(100, &[spec(0, 0, &[5_000, 4_000], 10), spec(3, 2, &[6_000], 0)])),
        (PartitionId(3), batches(0, &[spec(0, 0, &[-1], 9_000), spec(0, 0, &[7_000, 7_001, 6_999], 4)])),
        (PartitionId(u64::MAX), batches(1 << 40, &[spec(0, 6, &[0], 1)])),
    ])
}

#[test]
fn the_file_is_still_written_the_same() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    simulation.block_on(node, async |rt| write(&rt, ID, 0, &model()).await).unwrap();
    let written = simulation.disk(node).read(format!("{DIR}/{}", file_name(ID))).unwrap();
    assert!(written == FIXTURE, "a change of the format needs a new version of it");
}

/// Two partitions with key tables and one without between them.
fn keyed_model() -> KeyedModel {
    KeyedModel::from([
        (PartitionId(1), (true, vec![vec![(Some(1), Some(10)), (Some(2), None)], vec![(Some(1), Some(11))]])),
        (PartitionId(2), (false, vec![vec![(Some(1), Some(20))]])),
        (PartitionId(3), (true, vec![(0..200).map(|key| (Some(key), Some(30))).collect(), vec![(None, Some(31))]])),
    ])
}

#[test]
fn a_file_with_key_tables_is_still_written_the_same() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    simulation.block_on(node, async |rt| keys::write(&rt, &keyed_model()).await).unwrap();
    let written = simulation.disk(node).read(format!("{DIR}/{}", file_name(keys::ID))).unwrap();
    assert!(written == KEYED_FIXTURE, "a change of the format needs a new version of it");
}

#[test]
fn the_file_is_still_read() {
    let (meta, read) = block_on(1, async |rt| {
        rt.create_dir_all(DIR.as_ref()).await.unwrap();
        let path = format!("{DIR}/{}", file_name(ID));
        let file = rt.open(path.as_ref(), OpenMode::CreateNew).await.unwrap();
        let mut block = rt.block(FIXTURE.len());
        block[..FIXTURE.len()].copy_from_slice(FIXTURE);
        file.write(block.freeze(FIXTURE.len()), 0).await.unwrap();
        let reader = storage::segment::reader::SegmentReader::open_unlisted(&rt, path.as_ref()).await.unwrap();
        let meta = reader.meta();
        let read = read_all(&segments(&rt), &meta, 1_000).await.unwrap();
        (meta, read)
    });
    assert_eq!(read, model());
    assert_eq!((meta.id, meta.level, meta.timestamp_max), (ID, 0, 7_001));
    assert_eq!((meta.bytes, meta.footer_position), (FIXTURE.len() as u64, FIXTURE.len() as u64 - 4096));
}
