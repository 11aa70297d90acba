//! The journal under crashes at every step, damage at every place, and a disk that refuses.

use std::{cell::RefCell, path::Path, rc::Rc};

use runtime::{
    Runtime,
    sim::{
        Crash, NodeId, Options, RunError, SimRuntime, Simulation,
        disk::{Effect, Fault, OpKind, Reached},
        seeds,
    },
};
use storage::journal::{Journal, OpenError, Recovered, WriteError};

const DIR: &str = "log";
const PREFIX: &str = "test";

/// What the owner of a journal knows: the number of its last edit. Edit `n` is `n`, followed by some bytes of `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    last: u64,
}

impl State {
    fn edit(number: u64) -> Vec<u8> {
        // Every seventh is larger than a simulated block.
        let filler = if number.is_multiple_of(7) { 20_000 } else { number as usize % 500 };
        let mut edit = number.to_le_bytes().to_vec();
        edit.resize(8 + filler, number as u8);
        edit
    }

    fn snapshot(self) -> Vec<u8> {
        self.last.to_le_bytes().to_vec()
    }

    /// Replays, and checks that no edit is missing, repeated or changed.
    fn replay(recovered: Option<Recovered>) -> Self {
        let Some(Recovered { snapshot, edits }) = recovered else { return Self::default() };
        let mut state = Self { last: u64::from_le_bytes(snapshot.try_into().expect("a snapshot has 8 bytes")) };
        for edit in edits {
            state.last += 1;
            assert_eq!(edit, Self::edit(state.last));
        }
        state
    }
}

/// What was asked for and what was answered, which no crash takes.
#[derive(Default)]
struct Ledger {
    acked: State,
    /// Ends of the groups asked for.
    groups: Vec<State>,
}

/// Opens the journal, checks what it holds against the ledger, and appends `groups` groups of one to three edits.
async fn work(runtime: SimRuntime, ledger: Rc<RefCell<Ledger>>, groups: u64) {
    let (mut journal, recovered) =
        Journal::open(runtime.clone(), DIR.into(), PREFIX).await.expect("no damage, no refusal");
    let acked = ledger.borrow().acked;
    check_older_files(&runtime, &recovered, acked).await;
    let mut state = State::replay(recovered);
    assert_eq!(journal.edits(), state.last);
    {
        let mut ledger = ledger.borrow_mut();
        assert!(state >= ledger.acked, "{:?} was acknowledged, {state:?} recovered", ledger.acked);
        assert!(state == State::default() || ledger.groups.contains(&state), "half a group: {state:?}");
        ledger.groups.retain(|end| *end <= state);
    }
    for _ in 0..groups {
        let end = State { last: state.last + 1 + runtime.random_u64() % 3 };
        ledger.borrow_mut().groups.push(end);
        let edits: Vec<_> = (state.last + 1..=end.last).map(State::edit).collect();
        journal.append(&edits, || state.snapshot()).await.expect("no fault");
        state = end;
        ledger.borrow_mut().acked = state;
    }
}

/// While an older file exists, nothing is acknowledged that only the newer one says.
async fn check_older_files(runtime: &SimRuntime, recovered: &Option<Recovered>, acked: State) {
    let Ok(entries) = runtime.list_dir(Path::new(DIR)).await else { return };
    let complete = entries.iter().filter(|entry| entry.name.ends_with(".log")).count();
    if complete > 1 {
        let snapshot = recovered.as_ref().map(|recovered| Recovered { edits: Vec::new(), ..recovered.clone() });
        assert!(acked <= State::replay(snapshot), "{acked:?} was acknowledged while {entries:?} were there");
    }
}

fn run(simulation: &Simulation, node: NodeId, ledger: &Rc<RefCell<Ledger>>, groups: u64) -> Result<(), RunError> {
    let ledger = Rc::clone(ledger);
    simulation.block_on(node, move |runtime| work(runtime, ledger, groups))
}

/// Crashes at `step`, once more `second` steps later, and checks what is left each time.
fn crash_twice(seed: u64, step: u64, second: u64, crashes: [Crash; 2]) {
    let simulation = Simulation::new(seed);
    let node = simulation.add_node();
    let ledger = Rc::default();
    simulation.disk(node).crash_at_step(step, crashes[0]);
    let mut crashed = 0;
    for next in [second, u64::MAX / 2, u64::MAX / 2] {
        match run(&simulation, node, &ledger, 6) {
            Ok(()) => {}
            Err(RunError::Crashed { .. }) => crashed += 1,
            Err(error) => panic!("{error}"),
        }
        let disk = simulation.disk(node);
        disk.crash_at_step(disk.steps() + next, crashes[1]);
    }
    simulation.crash(node, Crash::PowerCut);
    run(&simulation, node, &ledger, 1).expect("no crash any more");
    assert!(crashed > 0, "nothing crashed at step {step}");
}

/// How many steps the first six groups take.
fn steps(seed: u64) -> u64 {
    let simulation = Simulation::new(seed);
    let node = simulation.add_node();
    run(&simulation, node, &Rc::default(), 6).expect("no crash");
    simulation.disk(node).steps()
}

#[test]
fn every_acknowledged_edit_survives_crashes_at_every_step() {
    for seed in seeds(6) {
        for step in 1..=steps(seed) {
            for crashes in [[Crash::PowerCut; 2], [Crash::Kill; 2], [Crash::Kill, Crash::PowerCut]] {
                crash_twice(seed, step, 1 + (step * 7 + seed) % 40, crashes);
            }
        }
    }
}

/// A simulation in which files are replaced at 128 KiB.
fn large_blocks() -> Simulation {
    Simulation::with_options(1, Options { block_bytes: 128 << 10, ..Options::default() })
}

/// A journal of nine edits in one file: 1 with the snapshot, 2 to 6 in groups of their own, 7 in a large one, 8 and 9
/// together.
fn nine_edits(simulation: &Simulation, node: NodeId) {
    let written = simulation.block_on(node, async |runtime| {
        let (mut journal, recovered) = Journal::open(runtime, DIR.into(), PREFIX).await?;
        assert_eq!(recovered, None);
        let snapshot = || State::default().snapshot();
        for number in 1..=7 {
            journal.append(&[State::edit(number)], snapshot).await.expect("no fault");
        }
        journal.append(&[State::edit(8), State::edit(9)], snapshot).await.expect("no fault");
        Ok::<_, OpenError>(())
    });
    written.expect("no crash").expect("nothing to read");
}

fn open(simulation: &Simulation, node: NodeId) -> Result<State, OpenError> {
    let opened = simulation.block_on(node, async |runtime| Journal::open(runtime, DIR.into(), PREFIX).await);
    opened.expect("no crash").map(|(_, recovered)| State::replay(recovered))
}

fn the_file(simulation: &Simulation, node: NodeId) -> String {
    let files = simulation.disk(node).files();
    let [file] = &files[..] else { panic!("one file was expected, found {files:?}") };
    file.clone()
}

#[test]
fn opening_changes_nothing() {
    let simulation = large_blocks();
    let node = simulation.add_node();
    nine_edits(&simulation, node);
    simulation.crash(node, Crash::Kill);
    let file = the_file(&simulation, node);
    let before = simulation.disk(node).read(&file);
    assert_eq!(open(&simulation, node).expect("undamaged"), State { last: 9 });
    assert_eq!(simulation.disk(node).read(the_file(&simulation, node)), before);
    assert_eq!(simulation.disk(node).ops(OpKind::CreateDir), 1);
}

/// Where the groups of [`nine_edits`] start, in blocks of 4 KiB: snapshot and first edit, five times an edit and its
/// marker, the large edit and its marker, the last two edits and their marker.
const GROUP_BLOCKS: [u64; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, LARGE_BLOCK, 16, 17, LAST_MARKER_BLOCK];
const LARGE_BLOCK: u64 = 11;
const LAST_MARKER_BLOCK: u64 = 18;
const BLOCK_BYTES: u64 = 4096;

/// Writes nine edits, lets `damage` loose on the file, and opens it.
fn open_damaged(damage: impl FnOnce(&Simulation, NodeId, &str)) -> (String, Result<State, OpenError>) {
    let simulation = large_blocks();
    let node = simulation.add_node();
    nine_edits(&simulation, node);
    let file = the_file(&simulation, node);
    damage(&simulation, node, &file);
    let opened = open(&simulation, node);
    (file, opened)
}

fn check_corrupt(opened: Result<State, OpenError>, file: &str, expected_position: u64) {
    match opened {
        Err(OpenError::Corrupt { path, position, .. }) => {
            assert_eq!((path.as_path(), position), (Path::new(file), expected_position));
        }
        other => panic!("damage at {expected_position} led to {other:?}"),
    }
}

#[test]
fn damage_below_a_valid_group_is_corruption_and_named() {
    for block in GROUP_BLOCKS.into_iter().filter(|&block| block < LAST_MARKER_BLOCK) {
        // In the log id, salt, LSN, length, what the header keeps free, and the first entry or its directory.
        for byte in [10, 25, 33, 50, 70, 75] {
            let position = block * BLOCK_BYTES;
            let (file, opened) =
                open_damaged(|simulation, node, file| simulation.disk(node).flip_byte(file, position + byte));
            check_corrupt(opened, &file, position);
        }
    }
}

#[test]
fn damage_deep_in_a_large_edit_is_corruption() {
    let (file, opened) =
        open_damaged(|simulation, node, file| simulation.disk(node).flip_byte(file, (LARGE_BLOCK + 3) * BLOCK_BYTES));
    check_corrupt(opened, &file, LARGE_BLOCK * BLOCK_BYTES);
}

#[test]
fn a_group_lost_as_a_whole_is_corruption() {
    let (file, opened) =
        open_damaged(|simulation, node, file| simulation.disk(node).damage(file, 7 * BLOCK_BYTES, &[0; 4096]));
    check_corrupt(opened, &file, 7 * BLOCK_BYTES);
}

#[test]
fn groups_in_the_wrong_place_are_corruption() {
    // An edit with its marker, and a marker alone.
    for (from, to, blocks) in [(9, 7, 2), (10, 8, 1)] {
        let (file, opened) = open_damaged(|simulation, node, file| {
            let content = simulation.disk(node).read(file).expect("the file is there");
            simulation.disk(node).damage(file, to * BLOCK_BYTES, &content[from * 4096..(from + blocks) * 4096]);
        });
        check_corrupt(opened, &file, to * BLOCK_BYTES);
    }
}

#[test]
fn a_snapshot_that_is_gone_is_corruption() {
    let (file, opened) = open_damaged(|simulation, node, file| simulation.disk(node).damage_len(file, 0));
    check_corrupt(opened, &file, 0);
}

#[test]
fn damage_above_the_last_edit_is_a_torn_tail() {
    let marker = LAST_MARKER_BLOCK * BLOCK_BYTES;
    let (_, opened) = open_damaged(|simulation, node, file| simulation.disk(node).flip_byte(file, marker + 33));
    assert_eq!(opened.expect("a torn marker is no loss"), State { last: 9 });
    let (_, opened) =
        open_damaged(|simulation, node, file| simulation.disk(node).damage_len(file, marker - BLOCK_BYTES + 512));
    assert_eq!(opened.expect("a group cut short is a torn tail"), State { last: 7 });
}

#[test]
fn a_later_version_is_refused_untouched() {
    for block in GROUP_BLOCKS {
        let (_, opened) = open_damaged(|simulation, node, file| {
            let content = simulation.disk(node).read(file).expect("the file is there");
            let mut header = content[(block * BLOCK_BYTES) as usize..][..72].to_vec();
            header[4] += 1;
            // Without its own checksum it would be damage, and no later version.
            let crc = crc32c::crc32c_append(crc32c::crc32c(&header[24..32]), &header[..64]);
            header[68..].copy_from_slice(&crc.to_le_bytes());
            simulation.disk(node).damage(file, block * BLOCK_BYTES, &header);
        });
        let error = opened.expect_err("nobody knows what a later version means");
        assert!(matches!(error, OpenError::Unsupported { position, .. } if position == block * BLOCK_BYTES), "{error}");
    }
}

#[test]
fn an_older_file_is_as_good_as_a_damaged_newer_one() {
    let simulation = large_blocks();
    let node = simulation.add_node();
    nine_edits(&simulation, node);
    let older = the_file(&simulation, node);
    let disk = simulation.disk(node);
    disk.inject(Fault { op: Some(OpKind::Remove), nth: 1, effect: Effect::Error(Reached::Nothing) });
    let appended = simulation.block_on(node, async |runtime| append(runtime, 10).await);
    assert!(matches!(appended, Ok(Err(WriteError::Failed { .. }))));
    let newer = disk.files().into_iter().find(|file| *file != older).expect("both files are there");
    disk.flip_byte(&newer, 75);
    assert_eq!(open(&simulation, node).expect("the older file is whole"), State { last: 9 });
    let appended = simulation.block_on(node, async |runtime| append(runtime, 10).await);
    appended.expect("no crash").expect("no fault");
    assert!(![older, newer].contains(&the_file(&simulation, node)));
    assert_eq!(open(&simulation, node).expect("undamaged"), State { last: 10 });
}

/// Opens the journal and appends one edit.
async fn append(runtime: SimRuntime, number: u64) -> Result<(), WriteError> {
    let (mut journal, recovered) = Journal::open(runtime, DIR.into(), PREFIX).await.expect("no damage");
    journal.append(&[State::edit(number)], || State::replay(recovered).snapshot()).await
}

#[test]
fn after_a_failed_write_nothing_is_written_any_more() {
    let faults = [(OpKind::Write, 1), (OpKind::Write, 2), (OpKind::Write, 3), (OpKind::Write, 6), (OpKind::Rename, 1)];
    for (op, nth) in faults.into_iter().chain([(OpKind::SyncDir, 1), (OpKind::Remove, 1)]) {
        for reached in [Reached::Nothing, Reached::Part, Reached::All] {
            let simulation = Simulation::new(nth);
            let node = simulation.add_node();
            let disk = simulation.disk(node);
            disk.inject(Fault { op: Some(op), nth, effect: Effect::Error(reached) });
            let ended = simulation.block_on(node, async |runtime| {
                let (mut journal, _) = Journal::open(runtime, DIR.into(), PREFIX).await.expect("nothing to read");
                let mut acked = State::default();
                loop {
                    match journal.append(&[State::edit(acked.last + 1)], || acked.snapshot()).await {
                        Ok(()) => acked.last += 1,
                        Err(error) => break (journal, acked, error),
                    }
                    assert!(acked.last < 20, "the fault never fired");
                }
            });
            let (mut journal, acked, error) = ended.expect("no crash");
            assert!(matches!(error, WriteError::Failed { .. }), "{error}");
            let steps = disk.steps();
            let again = simulation.block_on(node, async move |_| {
                journal.append(&[State::edit(acked.last + 1)], || acked.snapshot()).await
            });
            assert_eq!(again.expect("no crash").expect_err("poisoned").to_string(), error.to_string());
            assert_eq!(disk.steps(), steps, "something was done to the disk");
            simulation.crash(node, Crash::PowerCut);
            let recovered = open(&simulation, node).expect("a failed write is no corruption");
            assert!(recovered >= acked && recovered.last <= acked.last + 1, "{acked:?} acked, {recovered:?} recovered");
        }
    }
}

#[test]
fn a_full_disk_is_an_answer() {
    // The room of a new file, of more in it, of the file after it.
    for nth in 1..=5 {
        let simulation = Simulation::new(nth);
        let node = simulation.add_node();
        let disk = simulation.disk(node);
        disk.inject(Fault { op: Some(OpKind::Allocate), nth, effect: Effect::NoSpace });
        let last = simulation.block_on(node, async |runtime| {
            let (mut journal, _) = Journal::open(runtime, DIR.into(), PREFIX).await.expect("nothing to read");
            let (mut state, mut refused) = (State::default(), 0);
            while state.last < 20 {
                match journal.append(&[State::edit(state.last + 1)], || state.snapshot()).await {
                    Ok(()) => state.last += 1,
                    Err(WriteError::NoSpace { .. }) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(refused, 1);
            state
        });
        simulation.crash(node, Crash::PowerCut);
        assert_eq!(open(&simulation, node).expect("undamaged"), last.expect("no crash"));
        the_file(&simulation, node);
    }
}

#[test]
fn a_journal_stays_small() {
    let simulation = large_blocks();
    let node = simulation.add_node();
    let longest = simulation.block_on(node, async |runtime| {
        let (mut journal, _) = Journal::open(runtime.clone(), DIR.into(), PREFIX).await.expect("nothing to read");
        let mut longest = 0;
        for number in 1..=200 {
            let snapshot = || State { last: number - 1 }.snapshot();
            journal.append(&[State::edit(number)], snapshot).await.expect("no fault");
            let files = runtime.list_dir(Path::new(DIR)).await.expect("no fault");
            longest = longest.max(files.iter().map(|file| file.len).sum());
        }
        longest
    });
    let longest = longest.expect("no crash");
    assert!((128 << 10..192 << 10).contains(&longest), "{longest} bytes");
    assert_eq!(open(&simulation, node).expect("undamaged"), State { last: 200 });
}

#[test]
fn a_dropped_append_is_not_overwritten() {
    for seed in seeds(50) {
        let simulation = Simulation::new(seed);
        let node = simulation.add_node();
        let written = simulation.block_on(node, async |runtime| {
            let (mut journal, _) = Journal::open(runtime.clone(), DIR.into(), PREFIX).await.expect("nothing to read");
            for number in 1..=3 {
                let snapshot = || State { last: number - 1 }.snapshot();
                if number == 2 {
                    let edit = [State::edit(number)];
                    let dropped = std::pin::pin!(journal.append(&edit, snapshot));
                    poll_some(dropped, 1 + runtime.random_u64() % 4).await;
                }
                if journal.edits() < number {
                    journal.append(&[State::edit(number)], snapshot).await.expect("no fault");
                }
            }
        });
        written.expect("no crash");
        simulation.crash(node, Crash::PowerCut);
        assert_eq!(open(&simulation, node).expect("undamaged"), State { last: 3 });
    }
}

/// Polls a future at most `polls` times.
async fn poll_some<F: Future>(mut future: std::pin::Pin<&mut F>, mut polls: u64) {
    std::future::poll_fn(|context| {
        polls -= 1;
        match future.as_mut().poll(context).is_ready() || polls == 0 {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}
