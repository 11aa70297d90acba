//! Idempotent producers: what was sent twice is in the log once and has one answer, whatever came between.

use std::{collections::BTreeMap, time::Duration};

use runtime::{
    Runtime,
    sim::{Crash, SimRuntime, seeds},
};
use storage::{
    AppendError, Appended, Log, LogOptions, Partition,
    producer_state::{BATCHES_PER_PRODUCER, SequenceError},
};
use wire::record::{Batch, Producer};

use crate::support::{DIR, append_acked, durable, read_all, simulation, small};

const PRODUCERS: i64 = 3;

fn send(partition: &Partition<SimRuntime>, id: i64, sequence: i32, value: u64) -> Result<Appended, AppendError> {
    let producer = Producer { id, epoch: 0, base_sequence: sequence };
    let bytes = crate::support::batch(&[value], producer);
    partition.append(&Batch::parse_one(&bytes).expect("just built"), 1)
}

async fn acked(log: &Log<SimRuntime>, appended: Appended) -> u64 {
    let synced = log.synced(appended.lsn()).await.expect("the disk works");
    appended.acknowledge(synced).base_offset()
}

async fn open_with(rt: &SimRuntime, options: LogOptions) -> Log<SimRuntime> {
    rt.create_dir_all(DIR.as_ref()).await.expect("the directory can be made");
    Log::open(rt.clone(), DIR.as_ref(), options).await.expect("what is there can be opened")
}

/// Offset of every batch acknowledged, by producer and sequence.
type Sent = BTreeMap<(i64, i32), u64>;

/// Repeats what was sent: the last batches of each producer have the offsets they got, older ones are refused.
async fn repeat(log: &Log<SimRuntime>, partition: &Partition<SimRuntime>, sent: &Sent, batches: i32) {
    let log_end = partition.offsets().log_end;
    for (&(id, sequence), &offset) in sent {
        let again = send(partition, id, sequence, offset);
        if batches - sequence <= BATCHES_PER_PRODUCER as i32 {
            let again = again.unwrap_or_else(|error| panic!("producer {id}, sequence {sequence}: {error}"));
            assert!(again.is_duplicate());
            assert_eq!(acked(log, again).await, offset, "producer {id}, sequence {sequence}");
        } else {
            let Err(AppendError::Sequence(SequenceError::OutOfOrder { expected, .. })) = again else {
                panic!("producer {id}, sequence {sequence}: {again:?}");
            };
            assert_eq!(expected, batches);
        }
    }
    assert_eq!(partition.offsets().log_end, log_end, "nothing was appended");
}

#[test]
fn a_duplicate_has_the_first_answer_across_flushes_stops_and_crashes() {
    let mut flushes = 0;
    for seed in seeds(60) {
        let simulation = simulation(seed);
        let node = simulation.add_node();
        let mut sent = Sent::new();
        let mut batches = 0;
        for life in 0..4 {
            // A memtable holds more of them in some lives than in others.
            let options = LogOptions { memtable_bytes: (64 << 10) << (2 * (seed % 3)), ..small() };
            let is_clean = (seed + life) % 3 == 0;
            let known = sent.clone();
            let ended = simulation.block_on(node, move |rt| async move {
                let log = open_with(&rt, options).await;
                let partition = durable(&log, 1);
                repeat(&log, &partition, &known, batches).await;
                let mut sent = known;
                let more = 1 + (rt.random_u64() % 12) as i32;
                for sequence in batches..batches + more {
                    for id in 0..PRODUCERS {
                        let value = partition.offsets().log_end;
                        let appended = send(&partition, id, sequence, value).expect("it is in sequence");
                        sent.insert((id, sequence), acked(&log, appended).await);
                        if rt.random_u64() % 4 == 0 {
                            append_acked(&log, &partition, &[partition.offsets().log_end]).await;
                        }
                    }
                }
                if rt.random_u64() % 2 == 0 {
                    rt.sleep(Duration::from_secs(3)).await;
                }
                repeat(&log, &partition, &sent, batches + more).await;
                let flushes = log.stats().flushes;
                if is_clean {
                    log.close().await.expect("the disk works");
                }
                (sent, more, flushes)
            });
            let (now_sent, more, flushed) = ended.expect("nothing crashes by itself");
            (sent, batches) = (now_sent, batches + more);
            flushes += flushed;
            if !is_clean {
                simulation.crash(node, [Crash::Kill, Crash::PowerCut][(life % 2) as usize]);
            }
        }
        let ended = simulation.block_on(node, move |rt| async move {
            let log = open_with(&rt, small()).await;
            let partition = durable(&log, 1);
            repeat(&log, &partition, &sent, batches).await;
            let (records, _) = read_all(&partition, 0).await;
            for (offset, value) in records {
                assert_eq!(offset, value, "every record is there once, where it was acknowledged");
            }
        });
        ended.expect("nothing crashes");
    }
    assert!(flushes > 100, "{flushes} flushes");
}

#[test]
fn a_silent_producer_is_forgotten_and_one_that_goes_on_is_not() {
    let idle_max = Duration::from_secs(24 * 60 * 60);
    let simulation = simulation(1);
    let node = simulation.add_node();
    let lives = simulation.block_on(node, move |rt| async move {
        let log = open_with(&rt, LogOptions { producer_idle_max: idle_max, ..small() }).await;
        let partition = durable(&log, 1);
        for id in [1, 2] {
            let appended = send(&partition, id, 0, 0).expect("a stranger starts anywhere");
            acked(&log, appended).await;
        }
        for sequence in 1..4 {
            rt.sleep(Duration::from_secs(10 * 60 * 60)).await;
            let appended = send(&partition, 1, sequence, 0).expect("it was never silent for a day");
            acked(&log, appended).await;
        }
        assert!(send(&partition, 1, 3, 0).expect("the last one").is_duplicate());
        let again = send(&partition, 2, 0, 0).expect("nobody remembers it");
        assert!(!again.is_duplicate(), "it was silent for 30 hours");
        acked(&log, again).await;
        log.close().await.expect("the disk works");
    });
    lives.expect("nothing crashes");
    // Silence counts anew from a start.
    let lives = simulation.block_on(node, move |rt| async move {
        let log = open_with(&rt, LogOptions { producer_idle_max: idle_max, ..small() }).await;
        let partition = durable(&log, 1);
        rt.sleep(idle_max - Duration::from_secs(60)).await;
        assert!(send(&partition, 1, 3, 0).expect("the last one").is_duplicate());
        rt.sleep(Duration::from_secs(10 * 60)).await;
        assert!(!send(&partition, 1, 3, 0).expect("nobody remembers it").is_duplicate());
    });
    lives.expect("nothing crashes");
}
