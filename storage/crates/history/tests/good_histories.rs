//! Histories of a log that keeps its promises, however the network behaved: none may be reported. Then one fault is
//! planted into each, and must be.

use history::{Class, Faults, Harm, Level, Moment, Observations, Reader, Report, Value, Verdict, Writer, WriterId};
use proptest::prelude::*;

const PARTITION: u64 = 0;

fn check(level: Level, writers: Vec<Writer>, readers: Vec<Reader>) -> Report {
    let mut run = Observations::new();
    run.set_level(PARTITION, level);
    writers.into_iter().for_each(|writer| run.add_writer(writer));
    readers.into_iter().for_each(|reader| run.add_reader(reader));
    run.check()
}

#[test]
fn unknown_sends_may_appear_or_not() {
    let mut writer = Writer::new(WriterId::new(1), PARTITION);
    let mut reader = Reader::new(PARTITION, 0);
    let first = writer.send(1000);
    writer.acked(first, 1000, 0, Moment(1));
    let appeared = writer.send(10);
    let _vanished = writer.send(10);
    let last = writer.send(5);
    writer.acked(last, 5, 1010, Moment(2));
    reader.delivered(0, first, 1000, Moment(3));
    reader.delivered(1000, appeared, 10, Moment(3));
    reader.delivered(1010, last, 5, Moment(3));
    let report = check(Level::Durable, vec![writer], vec![reader]);
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
    assert_eq!(report.totals().unknown, 20);
    assert_eq!((report.totals().acked, report.totals().verified), (1005, 1005));
}

#[test]
fn a_retry_answered_with_the_first_offsets_is_the_same_ack() {
    let mut writer = Writer::new(WriterId::new(1), PARTITION);
    let mut reader = Reader::new(PARTITION, 0);
    let first = writer.send(1000);
    writer.acked(first, 1000, 0, Moment(1));
    writer.acked(first.plus(500), 500, 500, Moment(2));
    reader.delivered(0, first, 1000, Moment(3));
    let report = check(Level::Durable, vec![writer], vec![reader]);
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
    assert_eq!(report.totals().acked, 1000);
}

#[test]
fn a_refused_send_leaves_no_trace() {
    let mut writer = Writer::new(WriterId::new(1), PARTITION);
    let mut reader = Reader::new(PARTITION, 0);
    let refused = writer.send(10);
    writer.refused(refused, 10);
    let first = writer.send(1000);
    writer.acked(first, 1000, 0, Moment(1));
    reader.delivered(0, first, 1000, Moment(1));
    let report = check(Level::Durable, vec![writer], vec![reader]);
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
    assert_eq!((report.totals().refused, report.totals().unknown), (10, 0));
}

#[test]
fn a_memory_partition_may_lose_what_it_declares() {
    let mut writer = Writer::new(WriterId::new(1), PARTITION);
    let mut early = Reader::new(PARTITION, 0);
    let mut late = Reader::new(PARTITION, 3000);
    let first = writer.send(2000);
    writer.acked(first, 2000, 0, Moment(1));
    early.delivered(0, first, 1800, Moment(1)); // delivered before the crash, lost by it
    let second = writer.send(10);
    writer.acked(second, 10, 4096, Moment(2));
    early.lost(1500..4096);
    early.delivered(4096, second, 10, Moment(3));
    late.lost(1500..4096); // asked in the middle of the lost range
    late.delivered(4096, second, 10, Moment(3));
    let report = check(Level::Memory, vec![writer], vec![early, late]);
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
    assert_eq!((report.totals().verified, report.totals().declared_lost), (1810, 200));
}

#[test]
fn seeks_are_no_skips_and_high_watermarks_may_stand_still() {
    let mut writer = Writer::new(WriterId::new(1), PARTITION);
    let mut reader = Reader::new(PARTITION, 500);
    let first = writer.send(1000);
    writer.acked(first, 1000, 0, Moment(1));
    reader.high_watermark(1000);
    reader.delivered(500, first.plus(500), 500, Moment(2));
    reader.seek(0);
    reader.high_watermark(1000);
    reader.delivered(0, first, 500, Moment(3));
    let report = check(Level::Durable, vec![writer], vec![reader]);
    assert_eq!(report.verdict(), Verdict::Pass, "{report}");
}

#[test]
fn a_campaign_counts_by_its_sums() {
    let run = |kind| {
        let mut writer = Writer::new(WriterId::new(1), PARTITION);
        let mut reader = Reader::new(PARTITION, 0);
        let first = writer.send(100);
        writer.acked(first, 100, 0, Moment(1));
        reader.delivered(0, first, 100, Moment(3));
        let mut faults = Faults::new();
        faults.schedule("tear");
        faults.fire(kind, Moment(2));
        let mut run = Observations::new();
        run.add_writer(writer);
        run.add_reader(reader);
        run.set_faults(faults);
        run.check()
    };
    let mut campaign = Report::default();
    for _ in 0..10 {
        assert!(matches!(campaign.verdict(), Verdict::Vacuous(_)));
        campaign.absorb(run("kill"));
    }
    assert!(matches!(campaign.verdict(), Verdict::Vacuous(_)), "no run had the planned tear");
    campaign.absorb(run("tear"));
    assert_eq!(campaign.verdict(), Verdict::Pass, "{campaign}");
    assert_eq!(campaign.totals().verified, 1100);
}

#[test]
fn a_record_at_a_time_takes_no_memory() {
    let mut writer = Writer::new(WriterId::new(1), PARTITION);
    let mut reader = Reader::new(PARTITION, 0);
    for offset in 0..100_000 {
        let value = writer.send(1);
        writer.acked(value, 1, offset, Moment(offset));
        reader.delivered(offset, value, 1, Moment(offset));
    }
    assert!(format!("{writer:?}{reader:?}").len() < 1000, "notes that continue each other melt");
    assert_eq!(check(Level::Durable, vec![writer], vec![reader]).verdict(), Verdict::Pass);
}

/// One batch that reached the log, or did not.
#[derive(Clone, Debug)]
struct Send {
    writer: usize,
    count: u64,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Acked,
    AckedTwice,
    StoredUnknown,
    DroppedUnknown,
    Refused,
}

fn sends() -> impl Strategy<Value = Vec<Send>> {
    let outcome = prop_oneof![
        6 => Just(Outcome::Acked),
        1 => Just(Outcome::AckedTwice),
        1 => Just(Outcome::StoredUnknown),
        1 => Just(Outcome::DroppedUnknown),
        1 => Just(Outcome::Refused),
    ];
    let send = (0..3usize, 1..20u64, outcome).prop_map(|(writer, count, outcome)| Send { writer, count, outcome });
    prop::collection::vec(send, 1..60)
}

/// Plays the sends, and one large enough for a run to count, against a perfect log. Returns the writers, the value at
/// each offset, and the offsets that were acknowledged.
fn play(sends: &[Send]) -> (Vec<Writer>, Vec<Value>, Vec<usize>) {
    let mut writers: Vec<_> = (0..3).map(|id| Writer::new(WriterId::new(id), PARTITION)).collect();
    let (mut log, mut acked) = (Vec::new(), Vec::new());
    let large = Send { writer: 0, count: 1000, outcome: Outcome::Acked };
    for Send { writer, count, outcome } in sends.iter().chain([&large]) {
        let writer = &mut writers[*writer];
        let first = writer.send(*count);
        let base_offset = log.len() as u64;
        if !matches!(outcome, Outcome::DroppedUnknown | Outcome::Refused) {
            log.extend((0..*count).map(|place| first.plus(place)));
        }
        if matches!(outcome, Outcome::Acked | Outcome::AckedTwice) {
            acked.extend(base_offset as usize..log.len());
        }
        match outcome {
            Outcome::Acked => writer.acked(first, *count, base_offset, Moment(1)),
            Outcome::AckedTwice => (0..2).for_each(|_| writer.acked(first, *count, base_offset, Moment(1))),
            Outcome::Refused => writer.refused(first, *count),
            Outcome::StoredUnknown | Outcome::DroppedUnknown => {}
        }
    }
    (writers, log, acked)
}

fn read(log: &[Value]) -> Reader {
    let mut reader = Reader::new(PARTITION, 0);
    log.iter().zip(0..).for_each(|(value, offset)| reader.delivered(offset, *value, 1, Moment(2)));
    reader
}

proptest! {
    #[test]
    fn a_perfect_log_passes(sends in sends(), from in 0..1000usize) {
        let (writers, log, _) = play(&sends);
        let mut second = Reader::new(PARTITION, from as u64);
        for (offset, value) in log.iter().enumerate().skip(from) {
            second.delivered(offset as u64, *value, 1, Moment(2));
        }
        let report = check(Level::Durable, writers, vec![read(&log), second]);
        prop_assert_eq!(report.verdict(), Verdict::Pass, "{}", report);
        prop_assert_eq!(report.totals().verified, report.totals().acked);
    }

    #[test]
    fn one_fault_at_an_acknowledged_offset_is_always_found(
        sends in sends(),
        at in any::<prop::sample::Index>(),
        fault in 0..5,
    ) {
        let (writers, mut log, acked) = play(&sends);
        let at = *at.get(&acked);
        let next = (at + 1) % log.len();
        let harm = match fault {
            0 => { log.remove(at); Harm::Lost }
            1 => { log.insert(at, log[at]); Harm::Duplicated }
            2 => { log.swap(at, next); Harm::Reordered }
            3 => { log[at] = log[next]; Harm::Lost }
            _ => { log[at] = Value::from_u64(!log[at].to_u64()); Harm::Corrupt }
        };
        let report = check(Level::Durable, writers, vec![read(&log)]);
        prop_assert!(report.harmed(harm) > 0, "{:?}: {}", harm, report);
        prop_assert_eq!(report.verdict(), Verdict::Violated);
    }
}

#[test]
fn every_class_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Class::ALL.iter().map(|class| class.name()).collect();
    assert_eq!(names.len(), Class::ALL.len());
}
