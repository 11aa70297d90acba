//! A disk that fails, lies or loses power while a segment is written or read.

use std::path::Path;

use runtime::{
    Runtime as _,
    sim::{
        Crash, SimRuntime, Simulation,
        disk::{Effect, Fault, OpKind, Reached},
        seeds,
    },
};
use storage::{
    PartitionId,
    segment::{SegmentError, SegmentId, SegmentMeta, SegmentWriter, WriteError, file_name},
};

use crate::model::{BatchSpec, DIR, LOG_ID, Model, batches, read_all, segments, write};

const ID: SegmentId = SegmentId(1);

fn model() -> Model {
    let specs = vec![BatchSpec::of_records(4, 2_000); 12];
    Model::from([(PartitionId(1), batches(0, &specs)), (PartitionId(2), batches(5, &specs))])
}

async fn try_write(rt: &SimRuntime, model: &Model) -> Result<SegmentMeta, WriteError> {
    let mut writer = SegmentWriter::create(rt, Path::new(DIR), ID, LOG_ID, 0).await?;
    for (&partition, batches) in model {
        for batch in batches {
            writer.push(partition, &batch.bytes).await?;
        }
    }
    writer.finish().await
}

#[test]
fn a_finished_segment_survives_a_power_cut() {
    for seed in seeds(40) {
        let simulation = Simulation::new(seed);
        let node = simulation.add_node();
        let meta = simulation.block_on(node, async |rt| write(&rt, ID, 0, &model()).await).unwrap();
        simulation.crash(node, Crash::PowerCut);
        let read = simulation.block_on(node, async move |rt| read_all(&segments(&rt), &meta, 50_000).await);
        assert_eq!(read.unwrap().unwrap(), model(), "seed {seed}");
    }
}

#[test]
fn a_failed_operation_is_an_error_that_names_the_file() {
    let (mut failed, mut nth) = (0, 0);
    for (op, action) in [(OpKind::Open, "create"), (OpKind::Write, "write"), (OpKind::Sync, "sync")] {
        for effect in [Effect::Error(Reached::Nothing), Effect::Error(Reached::Part), Effect::NoSpace] {
            if effect == Effect::NoSpace && op == OpKind::Sync || op == OpKind::Open && effect != Effect::NoSpace {
                continue;
            }
            for number in 1.. {
                nth += 1;
                let simulation = Simulation::new(nth);
                let node = simulation.add_node();
                let disk = simulation.disk(node);
                let injector = disk.clone();
                let written = simulation.block_on(node, async move |rt| {
                    rt.create_dir_all(Path::new(DIR)).await.unwrap();
                    injector.inject(Fault { op: Some(op), nth: number, effect });
                    try_write(&rt, &model()).await
                });
                if disk.faults_fired() == 0 {
                    break;
                }
                let error = written.unwrap().unwrap_err();
                let message = error.to_string();
                assert!(matches!(error, WriteError::Io { .. }), "{message}");
                assert!(message.contains(action) && message.contains(&file_name(ID)), "{message}");
                failed += 1;
            }
        }
    }
    assert!(failed > 20, "only {failed} faults fired");
}

#[test]
fn a_write_that_lied_is_never_served() {
    let (mut fired, mut refused) = (0, 0);
    for effect in [Effect::LostWrite, Effect::MisdirectedWrite, Effect::FlippedBit] {
        for nth in 1..=14 {
            let simulation = Simulation::new(nth);
            let node = simulation.add_node();
            let disk = simulation.disk(node);
            disk.inject(Fault { op: Some(OpKind::Write), nth, effect });
            let read = simulation.block_on(node, async move |rt| {
                let meta = write(&rt, ID, 0, &model()).await;
                read_all(&segments(&rt), &meta, 50_000).await
            });
            fired += disk.faults_fired();
            match read.unwrap() {
                Ok(read) => assert_eq!(read, model(), "{effect:?} of write {nth}"),
                Err(SegmentError::Format { .. } | SegmentError::Length { .. }) => refused += 1,
                Err(error) => panic!("{effect:?} of write {nth}: {error}"),
            }
        }
    }
    assert!(fired > 20 && refused > fired / 2, "{fired} fired, {refused} refused");
}

#[test]
fn a_read_that_fails_or_lies_is_an_error() {
    let mut refused = 0;
    for effect in [Effect::Error(Reached::Nothing), Effect::FlippedBit] {
        for nth in 1.. {
            let simulation = Simulation::new(nth);
            let node = simulation.add_node();
            let disk = simulation.disk(node);
            let injector = disk.clone();
            let read = simulation.block_on(node, async move |rt| {
                let meta = write(&rt, ID, 0, &model()).await;
                injector.inject(Fault { op: Some(OpKind::Read), nth, effect });
                // Of more than that, what lies in front of the fault would be read again.
                read_all(&segments(&rt), &meta, 1).await
            });
            if disk.faults_fired() == 0 {
                break;
            }
            let error = read.unwrap().unwrap_err();
            assert!(error.to_string().contains(&file_name(ID)), "{error}");
            refused += 1;
        }
    }
    assert!(refused >= 8, "only {refused} reads were hit");
}

#[test]
fn what_is_out_of_order_is_refused() {
    let refused = |first: (u64, u64), second: (u64, u64)| {
        runtime::sim::block_on(1, async move |rt| {
            rt.create_dir_all(Path::new(DIR)).await.unwrap();
            let mut writer = SegmentWriter::create(&rt, Path::new(DIR), ID, LOG_ID, 0).await.unwrap();
            let push = async |writer: &mut SegmentWriter<SimRuntime>, (partition, offset)| {
                let batch = &batches(offset, &[BatchSpec::of_records(2, 10)])[0];
                writer.push(PartitionId(partition), &batch.bytes).await
            };
            push(&mut writer, first).await.unwrap();
            push(&mut writer, second).await
        })
    };
    assert!(refused((1, 10), (1, 12)).is_ok());
    assert!(refused((1, 10), (2, 0)).is_ok());
    for second in [(1, 11), (1, 10), (1, 0), (0, 50)] {
        let error = refused((1, 10), second).unwrap_err();
        assert!(matches!(error, WriteError::Disorder { .. }), "{error}");
    }
    let torn = runtime::sim::block_on(1, async |rt| {
        rt.create_dir_all(Path::new(DIR)).await.unwrap();
        let mut writer = SegmentWriter::create(&rt, Path::new(DIR), ID, LOG_ID, 0).await.unwrap();
        let batch = &batches(0, &[BatchSpec::of_records(2, 10)])[0];
        writer.push(PartitionId(1), &batch.bytes[..batch.bytes.len() - 1]).await
    });
    assert!(matches!(torn, Err(WriteError::Batch { .. })), "{torn:?}");
}
