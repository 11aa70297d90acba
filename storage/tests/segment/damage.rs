//! Damage of every kind is told apart from data, and never served.

use std::rc::Rc;

use runtime::sim::{NodeId, SimRuntime, Simulation, disk::Disk};
use storage::{
    PartitionId,
    segment::{SegmentError, SegmentId, SegmentMeta, file_name, format::FormatError, reader::SegmentReader},
};

use crate::model::{BatchSpec, DIR, Model, batches, joined, read_all, segments, write};

const ID: SegmentId = SegmentId(1);

struct Disks {
    simulation: Simulation,
    node: NodeId,
    disk: Rc<Disk>,
}

impl Disks {
    fn new() -> Self {
        let simulation = Simulation::new(5);
        let node = simulation.add_node();
        let disk = simulation.disk(node);
        Self { simulation, node, disk }
    }

    fn run<T: 'static, F: Future<Output = T> + 'static>(&self, task: impl FnOnce(SimRuntime) -> F) -> T {
        self.simulation.block_on(self.node, task).unwrap_or_else(|error| panic!("{error}"))
    }

    fn write(&self, id: SegmentId, model: &Model) -> SegmentMeta {
        let model = model.clone();
        self.run(async move |rt| write(&rt, id, 0, &model).await)
    }

    fn read(&self, meta: &SegmentMeta) -> Result<Model, SegmentError> {
        let meta = meta.clone();
        self.run(async move |rt| read_all(&segments(&rt), &meta, 100_000).await)
    }

    fn read_unlisted(&self, id: SegmentId) -> Result<SegmentMeta, SegmentError> {
        self.run(async move |rt| SegmentReader::open_unlisted(&rt, path(id).as_ref()).await.map(|reader| reader.meta()))
    }
}

fn path(id: SegmentId) -> String {
    format!("{DIR}/{}", file_name(id))
}

fn small_model() -> Model {
    let specs = [BatchSpec::of_records(2, 100), BatchSpec::of_records(1, 700)];
    Model::from([(PartitionId(3), batches(10, &specs)), (PartitionId(4), batches(0, &specs))])
}

/// Four blocks and a bit.
fn large_model() -> Model {
    Model::from([(PartitionId(3), batches(0, &vec![BatchSpec::of_records(3, 5_000); 18]))])
}

#[test]
fn a_flip_of_any_byte_shows() {
    let disks = Disks::new();
    let meta = disks.write(ID, &small_model());
    assert_eq!(disks.read(&meta).unwrap(), small_model());
    for position in 0..meta.bytes {
        disks.disk.flip_byte(path(ID), position);
        let read = disks.read(&meta);
        assert!(matches!(read, Err(SegmentError::Format { .. })), "byte {position}: {read:?}");
        disks.disk.flip_byte(path(ID), position);
    }
    assert_eq!(disks.read(&meta).unwrap(), small_model());
}

#[test]
fn the_error_names_the_file_the_place_and_both_checksums() {
    let disks = Disks::new();
    let meta = disks.write(ID, &large_model());
    disks.disk.flip_byte(path(ID), 2 * 65_536 + 17);
    let error = disks.read(&meta).unwrap_err();
    let SegmentError::Format { source: FormatError::Checksum { position, expected, found, .. }, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*position, 2 * 65_536);
    let message = error.to_string();
    for part in [&path(ID), "131072", &format!("{expected:#010x}"), &format!("{found:#010x}")] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_lies_in_sound_blocks_is_still_served() {
    let disks = Disks::new();
    let model = large_model();
    let meta = disks.write(ID, &model);
    disks.disk.flip_byte(path(ID), 3 * 65_536);
    let first = model[&PartitionId(3)][0].clone();
    let run = disks.run(async move |rt| {
        segments(&rt).read(&meta, PartitionId(3), 0..u64::MAX, 1).await.map(|run| joined(&run.unwrap()))
    });
    assert_eq!(run.unwrap(), first.bytes);
}

#[test]
fn blocks_that_changed_places_show() {
    let disks = Disks::new();
    let meta = disks.write(ID, &large_model());
    let file = disks.disk.read(path(ID)).unwrap();
    let (one, two) = (&file[65_536..131_072], &file[131_072..196_608]);
    disks.disk.damage(path(ID), 65_536, two);
    disks.disk.damage(path(ID), 131_072, one);
    let read = disks.read(&meta);
    assert!(matches!(&read, Err(SegmentError::Format { source: FormatError::Checksum { .. }, .. })), "{read:?}");
}

#[test]
fn the_footer_of_another_segment_is_refused() {
    let disks = Disks::new();
    let meta = disks.write(ID, &large_model());
    disks.write(SegmentId(2), &large_model());
    let other = disks.disk.read(path(SegmentId(2))).unwrap();
    // All that tells the two files apart is their number, in the header page and in the footer.
    disks.disk.damage(path(ID), meta.footer_position, &other[meta.footer_position as usize..]);
    for read in [disks.read(&meta).map(drop), disks.read_unlisted(ID).map(drop)] {
        let refused = matches!(&read, Err(SegmentError::Format { source: FormatError::OtherSegment { .. }, .. }));
        assert!(refused, "{read:?}");
    }
}

#[test]
fn a_whole_segment_under_another_name_is_refused() {
    let disks = Disks::new();
    let meta = disks.write(ID, &small_model());
    let other = disks.write(SegmentId(2), &small_model());
    assert_eq!(meta.bytes, other.bytes);
    disks.disk.damage(path(ID), 0, &disks.disk.read(path(SegmentId(2))).unwrap());
    let error = disks.read(&meta).unwrap_err();
    assert!(matches!(error, SegmentError::Format { source: FormatError::OtherSegment { .. }, .. }), "{error}");
    assert!(error.to_string().contains("segment 2 of log"), "{error}");
}

#[test]
fn a_file_cut_short_at_any_page_is_refused() {
    let disks = Disks::new();
    let meta = disks.write(ID, &large_model());
    let whole = disks.disk.snapshot();
    let lengths = (0..meta.bytes).rev().step_by(1_000).chain((0..meta.bytes).rev().step_by(4_096).skip(1));
    for bytes in lengths.collect::<Vec<_>>() {
        disks.disk.damage_len(path(ID), bytes);
        let read = disks.read(&meta);
        assert!(matches!(read, Err(SegmentError::Length { found, .. }) if found == bytes), "{bytes}: {read:?}");
        assert!(disks.read_unlisted(ID).is_err(), "{bytes}");
        // A manifest that agrees on the length is of no help.
        let agreeing = SegmentMeta { bytes, ..meta.clone() };
        let read = disks.read(&agreeing);
        assert!(matches!(read, Err(SegmentError::Length { .. } | SegmentError::Format { .. })), "{bytes}: {read:?}");
        disks.disk.restore(whole.clone());
    }
    assert_eq!(disks.read(&meta).unwrap(), large_model());
}

#[test]
fn pages_that_were_never_written_are_refused() {
    let disks = Disks::new();
    let meta = disks.write(ID, &small_model());
    let whole = disks.disk.read(path(ID)).unwrap();
    for page in 0..meta.bytes / 4096 {
        disks.disk.damage(path(ID), page * 4096, &[0; 4096]);
        let read = disks.read(&meta);
        assert!(matches!(read, Err(SegmentError::Format { .. })), "page {page}: {read:?}");
        disks.disk.damage(path(ID), 0, &whole);
    }
}

#[test]
fn a_footer_position_that_is_wrong_is_refused() {
    let disks = Disks::new();
    let meta = disks.write(ID, &small_model());
    for footer_position in [0, 1, meta.footer_position - 4096, meta.footer_position + 1, meta.bytes, u64::MAX] {
        let wrong = SegmentMeta { footer_position, ..meta.clone() };
        let read = disks.read(&wrong);
        let refused = matches!(read, Err(SegmentError::Length { .. } | SegmentError::Format { .. }));
        assert!(refused, "{footer_position}: {read:?}");
    }
    let read = disks.read(&SegmentMeta { level: 1, ..meta.clone() });
    assert!(matches!(read, Err(SegmentError::Format { source: FormatError::OtherSegment { .. }, .. })), "{read:?}");
    let read = disks.read(&SegmentMeta { id: SegmentId(99), ..meta });
    assert!(matches!(read, Err(SegmentError::Io { .. })), "{read:?}");
}
