//! The manifest: its state against its own history, and its file under crashes at every step.

use std::{cell::RefCell, collections::BTreeSet, path::Path, rc::Rc};

use proptest::prelude::*;
use runtime::{
    Runtime,
    sim::{
        Crash, NodeId, RunError, SimRuntime, Simulation,
        disk::{Effect, Fault, OpKind, Reached},
        seeds,
    },
};
use storage::{
    PartitionId,
    journal::WriteError,
    manifest::{
        Cut, Edit, EpochStart, Evidence, Fate, Flush, Flushed, FlushedPartition, Intent, Manifest, Merge, OpenError,
        Refusal, State,
    },
    segment::{Extent, Location, SegmentId, SegmentMeta},
};

const DIR: &str = "log";

/// An edit that a log in this state might make; `seed` decides which.
fn edit(state: &State, seed: [u64; 4]) -> Edit {
    let [kind, a, b, c] = seed;
    let partition = PartitionId(a % 5);
    let intents: Vec<_> = state.intents.iter().collect();
    let intent = (!intents.is_empty()).then(|| intents[a as usize % intents.len()]);
    let segments =
        |first: SegmentId, count: u32| (0..count.min(b as u32 % 4)).map(|index| segment(first, index, c)).collect();
    match (kind % 17, intent) {
        (0, _) => Edit::Open,
        (1 | 2, _) => Edit::Intent(Intent { first: SegmentId(state.next_segment.0 + a % 2), count: 1 + b as u32 % 3 }),
        (3, Some((&first, _))) => Edit::Abandon { intent: first },
        (4..=6, Some((&first, &count))) => Edit::Flush(flush(state, Some(first), segments(first, count), seed)),
        (7, Some((&first, &count))) => {
            let removed = state.segments.iter().map(|segment| segment.id).filter(|id| (id.0 ^ c) % 2 == 0).collect();
            Edit::Merge(Merge { intent: Some(first), removed, added: segments(first, count) })
        }
        (3 | 4, None) => Edit::Flush(flush(state, None, Vec::new(), seed)),
        (5, None) => Edit::Clean { last_lsn: state.flushed.lsn + b % 3, next_lsn: state.next_lsn + 1 + b % 3 },
        (6, None) => {
            Edit::Deleted { segments: state.obsolete.iter().copied().filter(|id| id.0 % 2 == c % 2).collect() }
        }
        (7, None) => Edit::Quarantine { partition },
        (8, _) => Edit::LogStart { partition, log_start: b % 100 },
        (9, _) => Edit::Clip { partition, next_offset: b % 100 },
        (10, _) => Edit::Cut(Cut { salt: a, lsn: state.next_lsn, next_lsn: state.next_lsn + 2 + b % 3 }),
        (11, _) => Edit::Refuse { partition, refusal: Refusal { from: b % 100, evidence: Evidence::Successor } },
        (12, _) => Edit::Accept { partition, next_offset: b % 100 },
        (13, _) => Edit::Lost { partition, offsets: b % 100..b % 100 + c % 10 },
        (14, _) => Edit::Drop { partition, lsn: state.next_lsn + c % 4 },
        (16, _) => Edit::Begin {
            partition,
            base_offset: b % 100,
            lost: (c % 2 == 0).then_some(200..201).into_iter().collect(),
            producers: vec![c as u8],
        },
        _ => Edit::Deleted { segments: state.obsolete.iter().copied().collect() },
    }
}

fn segment(first: SegmentId, index: u32, seed: u64) -> SegmentMeta {
    let id = SegmentId(first.0 + u64::from(index));
    let extent = match (seed ^ id.0) % 2 {
        0 => Extent::Shared { first: PartitionId(0), last: PartitionId(seed % 5) },
        _ => {
            let base_offset = seed % 90;
            Extent::Own { partition: PartitionId(seed % 5), base_offset, next_offset: base_offset + 10 }
        }
    };
    let location = [Location::Local, Location::Remote, Location::Both][seed as usize % 3];
    let bytes = 4096 + seed % 1000;
    SegmentMeta {
        id,
        level: index as u8,
        extent,
        bytes,
        batch_bytes: 4000,
        footer_position: 4050,
        timestamp_max: -5,
        location,
    }
}

fn flush(state: &State, intent: Option<SegmentId>, segments: Vec<SegmentMeta>, seed: [u64; 4]) -> Flush {
    let [_, a, b, c] = seed;
    let partition = |id| FlushedPartition {
        partition: PartitionId(id),
        log_start: b % 20,
        flushed_end: 20 + c % 80,
        reserved_end: a % 2 * 4096,
        epochs: (0..c % 3).map(|n| EpochStart { leader_epoch: (b % 7 + n) as i32, offset: 10 * n + c % 50 }).collect(),
        producers: (b % 2 == 0).then(|| c.to_le_bytes().to_vec()),
    };
    Flush {
        intent,
        segments,
        through: Flushed { salt: c, lsn: state.flushed.lsn + a % 5 },
        partitions: (a % 5..5).map(partition).collect(),
        dropped: (c % 8 == 0).then_some(PartitionId(b % 5)).into_iter().collect(),
    }
}

fn check_invariants(state: &State) {
    let live: BTreeSet<_> = state.segments.iter().map(|segment| segment.id).collect();
    assert_eq!(live.len(), state.segments.len(), "a segment is there twice");
    let intended =
        state.intents.iter().flat_map(|(first, &count)| (0..count).map(|n| SegmentId(first.0 + u64::from(n))));
    for id in live.iter().copied().chain(state.obsolete.iter().copied()).chain(intended) {
        assert!(id < state.next_segment);
        let expected = if live.contains(&id) { Fate::Live } else { Fate::Delete };
        assert_eq!(state.fate(id), expected, "{id:?}");
    }
    assert_eq!(state.fate(state.next_segment), Fate::Unknown);
    assert!(live.is_disjoint(&state.obsolete));
    assert!(state.flushed.lsn < state.next_lsn.max(1));
    for partition in state.partitions.values() {
        assert!(
            partition.clips.is_sorted_by(|a, b| a.next_offset < b.next_offset && a.segments_below < b.segments_below)
        );
        assert!(partition.lost.iter().all(|range| !range.is_empty()));
        assert!(partition.lost.is_sorted_by(|a, b| a.end < b.start));
        assert!(partition.epochs.is_sorted_by(|a, b| a.offset < b.offset && a.leader_epoch < b.leader_epoch));
    }
}

proptest! {
    #[test]
    fn a_snapshot_and_the_edits_behind_it_are_the_state(
        seeds in prop::collection::vec(any::<[u64; 4]>(), 1..120),
        snapshot_at in any::<prop::sample::Index>(),
    ) {
        let snapshot_at = snapshot_at.index(seeds.len());
        let (mut state, mut recovered) = (State::default(), None);
        for (number, seed) in seeds.into_iter().enumerate() {
            if number == snapshot_at {
                recovered = Some(State::decode(&state.encode()).expect("our own bytes"));
            }
            let edit = edit(&state, seed);
            let decoded = Edit::decode(&edit.encode()).expect("our own bytes");
            prop_assert_eq!(&decoded, &edit);
            state.apply(edit).expect("it was made for this state");
            if let Some(recovered) = &mut recovered {
                recovered.apply(decoded).expect("it was made for this state");
            }
            check_invariants(&state);
        }
        prop_assert_eq!(State::decode(&state.encode()).expect("our own bytes"), state.clone());
        prop_assert_eq!(recovered.expect("one was taken"), state);
    }

    /// An edit made for another state fits or is refused, and then changes nothing.
    #[test]
    fn a_refused_edit_changes_nothing(
        seeds in prop::collection::vec(any::<[u64; 4]>(), 1..40),
        others in prop::collection::vec(any::<[u64; 4]>(), 1..40),
    ) {
        let (mut state, mut other) = (State::default(), State::default());
        for (seed, other_seed) in seeds.into_iter().zip(others) {
            let foreign = edit(&other, other_seed);
            let before = state.clone();
            if state.apply(foreign.clone()).is_err() {
                prop_assert_eq!(&state, &before);
                state.apply(edit(&before, seed)).expect("it was made for this state");
            }
            other.apply(foreign).expect("it was made for this state");
            check_invariants(&state);
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..17) {
        let check = |bytes: &[u8]| {
            let _ = State::decode(bytes);
            if let Ok(edit) = Edit::decode(bytes) {
                let _ = State::default().apply(edit);
            }
        };
        check(&bytes);
        if bytes.len() > 2 {
            bytes[..2].copy_from_slice(&[1, kind]);
            check(&bytes);
        }
    }

    /// Every bit of an edit and of a snapshot means something, or makes no difference.
    #[test]
    fn changed_bytes_do_no_harm(
        seeds in prop::collection::vec(any::<[u64; 4]>(), 1..60),
        position in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let mut state = State::default();
        for seed in seeds {
            let made = edit(&state, seed);
            let mut bytes = made.encode();
            let at = position.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(changed) = Edit::decode(&bytes) {
                prop_assert_eq!(changed.encode(), bytes);
                let _ = state.clone().apply(changed);
            }
            state.apply(made).expect("it was made for this state");
        }
        let mut bytes = state.encode();
        let at = position.index(bytes.len());
        bytes[at] ^= flip;
        let _ = State::decode(&bytes);
    }
}

/// What was asked for and what was answered, which no crash takes.
#[derive(Default)]
struct Ledger {
    edits: Vec<Edit>,
    /// How many edits there were behind each request.
    requests: Vec<usize>,
    acked: usize,
}

impl Ledger {
    /// Checks a recovered state: all that was acknowledged, and of every request behind that all or nothing.
    fn settle(&mut self, recovered: &State) {
        let mut state = State::default();
        let mut is_there = (self.acked == 0 && state == *recovered).then_some(0);
        for (number, edit) in self.edits.iter().enumerate() {
            state.apply(edit.clone()).expect("it was applied before");
            if self.requests.contains(&(number + 1)) && number + 1 >= self.acked && state == *recovered {
                is_there = Some(number + 1);
            }
        }
        let Some(end) = is_there else { panic!("{} edits were acknowledged, recovered {recovered:?}", self.acked) };
        self.edits.truncate(end);
        self.requests.retain(|request| *request <= end);
    }
}

async fn work(runtime: SimRuntime, ledger: Rc<RefCell<Ledger>>, requests: usize) {
    let manifest = Manifest::open(&runtime, Path::new(DIR)).await.expect("no damage");
    ledger.borrow_mut().settle(&manifest.state());
    for _ in 0..requests {
        let mut state = manifest.state().clone();
        let request: Vec<_> = (0..1 + runtime.random_u64() % 3)
            .map(|_| {
                let edit = edit(&state, std::array::from_fn(|_| runtime.random_u64()));
                state.apply(edit.clone()).expect("it was made for this state");
                edit
            })
            .collect();
        let asked = {
            let mut ledger = ledger.borrow_mut();
            ledger.edits.extend(request.iter().cloned());
            let asked = ledger.edits.len();
            ledger.requests.push(asked);
            asked
        };
        manifest.apply_all(request).await.expect("no fault");
        assert_eq!(*manifest.state(), state);
        ledger.borrow_mut().acked = asked;
    }
}

fn run(simulation: &Simulation, node: NodeId, ledger: &Rc<RefCell<Ledger>>, requests: usize) -> Result<(), RunError> {
    let ledger = Rc::clone(ledger);
    simulation.block_on(node, move |runtime| work(runtime, ledger, requests))
}

/// How many steps of the disk the first requests take.
fn steps(seed: u64, requests: usize) -> u64 {
    let simulation = Simulation::new(seed);
    let node = simulation.add_node();
    run(&simulation, node, &Rc::default(), requests).expect("no crash");
    simulation.disk(node).steps()
}

#[test]
fn every_acknowledged_edit_survives_crashes_at_every_step() {
    for seed in seeds(6) {
        for step in 1..=steps(seed, 8) {
            for crashes in [[Crash::PowerCut; 2], [Crash::Kill; 2], [Crash::Kill, Crash::PowerCut]] {
                let simulation = Simulation::new(seed);
                let node = simulation.add_node();
                let ledger = Rc::default();
                let disk = simulation.disk(node);
                disk.crash_at_step(step, crashes[0]);
                assert!(run(&simulation, node, &ledger, 8).is_err(), "no crash at step {step}");
                disk.crash_at_step(disk.steps() + 1 + (step * 5 + seed) % 40, crashes[1]);
                let _may_crash = run(&simulation, node, &ledger, 8);
                simulation.crash(node, Crash::PowerCut);
                run(&simulation, node, &ledger, 1).expect("no crash any more");
            }
        }
    }
}

#[test]
fn edits_from_many_tasks_have_one_order() {
    for seed in seeds(20) {
        let simulation = Simulation::new(seed);
        let node = simulation.add_node();
        let state = simulation.block_on(node, async |runtime| {
            let manifest = Manifest::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
            assert!(manifest.is_new());
            let tasks: Vec<_> = (0..100)
                .map(|count| {
                    let manifest = manifest.clone();
                    runtime.spawn(async move { manifest.intend(1 + count % 3).await.expect("no fault") })
                })
                .collect();
            let mut claimed = BTreeSet::new();
            for task in tasks {
                let intent = task.await;
                assert_eq!(manifest.state().intents.get(&intent.first), Some(&intent.count), "answered before applied");
                assert!((intent.first.0..intent.end().0).all(|id| claimed.insert(id)), "{intent:?} was claimed before");
            }
            let state = manifest.state().clone();
            state
        });
        simulation.crash(node, Crash::PowerCut);
        assert_eq!(recover(&simulation, node).expect("undamaged"), state.expect("no crash"));
    }
}

fn recover(simulation: &Simulation, node: NodeId) -> Result<State, OpenError> {
    let opened = simulation.block_on(node, async |runtime| {
        let manifest = Manifest::open(&runtime, Path::new(DIR)).await?;
        assert!(!manifest.is_new());
        let state = manifest.state().clone();
        Ok(state)
    });
    opened.expect("no crash")
}

#[test]
fn the_id_lasts() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let id = async |runtime: SimRuntime| {
        let manifest = Manifest::open(&runtime, Path::new(DIR)).await.expect("no damage");
        manifest.apply(Edit::Open).await.expect("no fault");
        manifest.log_id()
    };
    let first = simulation.block_on(node, id).expect("no crash");
    simulation.crash(node, Crash::PowerCut);
    assert_eq!(simulation.block_on(node, id).expect("no crash"), first);
}

#[test]
fn a_dropped_apply_happens_all_the_same() {
    let simulation = Simulation::new(1);
    let node = simulation.add_node();
    let applied = simulation.block_on(node, async |runtime| {
        let manifest = Manifest::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
        {
            let mut apply = std::pin::pin!(manifest.apply(Edit::Quarantine { partition: PartitionId(3) }));
            std::future::poll_fn(|context| {
                assert!(apply.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        manifest.apply(Edit::Open).await.expect("no fault");
        let quarantined = manifest.state().partitions[&PartitionId(3)].quarantined;
        quarantined
    });
    assert!(applied.expect("no crash"));
}

#[test]
fn after_a_failed_write_nothing_is_applied() {
    for nth in 1..=4 {
        let simulation = Simulation::new(nth);
        let node = simulation.add_node();
        let disk = simulation.disk(node);
        disk.inject(Fault { op: Some(OpKind::Write), nth, effect: Effect::Error(Reached::All) });
        let failed = simulation.block_on(node, async |runtime| {
            let manifest = Manifest::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
            let mut failures = 0;
            for id in 1..=6 {
                let before = manifest.state().clone();
                match manifest.apply(Edit::Quarantine { partition: PartitionId(id) }).await {
                    Ok(()) => assert_eq!(failures, 0, "nothing succeeds behind a failure"),
                    Err(WriteError::Failed { .. }) => {
                        failures += 1;
                        assert_eq!(*manifest.state(), before);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(failures > 1, "the fault never fired");
        });
        failed.expect("no crash");
        assert_eq!(disk.ops(OpKind::Write), nth);
    }
}

#[test]
#[should_panic(expected = "there is no unfinished intent")]
fn an_edit_that_does_not_fit_never_reaches_the_disk() {
    runtime::sim::block_on(1, async |runtime| {
        let manifest = Manifest::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
        let _ = manifest.apply(Edit::Abandon { intent: SegmentId(7) }).await;
    });
}

#[test]
#[should_panic(expected = "there is no unfinished intent")]
fn nor_do_those_that_go_with_it() {
    runtime::sim::block_on(1, async |runtime| {
        let manifest = Manifest::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
        let _ = manifest.apply_all(vec![Edit::Open, Edit::Abandon { intent: SegmentId(7) }]).await;
    });
}
