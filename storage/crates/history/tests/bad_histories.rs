//! One hand-made bad history for each class the checker reports: it must find that class, with that count, and (so
//! that a report can be trusted to name the disease) nothing else than the classes listed.

use history::{Class, Faults, Level, Moment, Observations, Reader, Report, Vacuity, Value, Verdict, Writer, WriterId};

const PARTITION: u64 = 4;
const NOW: Moment = Moment(1);

/// A run of one writer and two readers, of which 2,000 records went well: offsets 0..2000 hold values 0..2000.
struct Run {
    writer: Writer,
    reader: Reader,
    second_reader: Reader,
    level: Level,
}

impl Run {
    fn new() -> Self {
        let mut run = Self {
            writer: Writer::new(WriterId::new(1), PARTITION),
            reader: Reader::new(PARTITION, 0),
            second_reader: Reader::new(PARTITION, 0),
            level: Level::Durable,
        };
        let first = run.writer.send(2000);
        run.writer.acked(first, 2000, 0, NOW);
        run.reader.delivered(0, first, 2000, NOW);
        run.second_reader.delivered(0, first, 2000, NOW);
        run
    }

    /// Sends `count` records that are acknowledged from `offset` on.
    fn ack(&mut self, count: u64, offset: u64) -> Value {
        let first = self.writer.send(count);
        self.writer.acked(first, count, offset, NOW);
        first
    }

    fn check(self) -> Report {
        let mut run = Observations::new();
        run.set_level(PARTITION, self.level);
        run.add_writer(self.writer);
        run.add_reader(self.reader);
        run.add_reader(self.second_reader);
        run.check()
    }

    /// Exactly these classes, with these counts.
    fn expect(self, expected: &[(Class, u64)]) -> Report {
        let report = self.check();
        let mut expected = expected.to_vec();
        expected.sort();
        let mut found: Vec<_> = Class::ALL.into_iter().map(|class| (class, report.count(class))).collect();
        found.retain(|(_, count)| *count > 0);
        found.sort();
        assert_eq!(found, expected, "{report}");
        assert_eq!(report.verdict(), Verdict::Violated);
        report
    }
}

#[test]
fn lost_write() {
    let mut run = Run::new();
    run.ack(10, 2000);
    let later = run.writer.send(1);
    run.reader.seek(2003); // the reader passes 2003..2010 by the next line
    run.reader.lost(2003..2010); // a durable partition cannot excuse itself
    run.reader.delivered(2010, later, 1, NOW);
    run.expect(&[(Class::LostWrite, 7), (Class::Unseen, 3)]);
}

#[test]
fn lost_write_replaced_by_another_record() {
    let mut run = Run::new();
    run.ack(10, 2000);
    let usurper = run.writer.send(10);
    run.reader.delivered(2000, usurper, 10, NOW);
    run.expect(&[(Class::LostWrite, 10), (Class::OffsetReuse, 10), (Class::NonmonotonicSend, 10)]);
}

#[test]
fn lost_write_where_a_reader_passed_before_it_was_moved_back() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.reader.delivered(2000, first, 5, NOW);
    run.reader.delivered(2009, first.plus(9), 1, NOW);
    run.reader.delivered(2003, first.plus(3), 1, NOW);
    run.expect(&[(Class::PollSkip, 4), (Class::LostWrite, 4), (Class::NonmonotonicPoll, 1)]);
}

#[test]
fn unseen() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.reader.delivered(2000, first, 4, NOW);
    run.expect(&[(Class::Unseen, 6)]);
}

#[test]
fn poll_skip() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.reader.delivered(2000, first, 10, NOW);
    run.second_reader.delivered(2003, first.plus(3), 7, NOW);
    run.expect(&[(Class::PollSkip, 3)]);
}

#[test]
fn duplicate() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.reader.delivered(2000, first, 10, NOW);
    run.reader.delivered(2010, first.plus(4), 5, NOW);
    run.expect(&[(Class::Duplicate, 5)]);
}

#[test]
fn duplicate_of_a_value_whose_send_stayed_unknown() {
    let mut run = Run::new();
    let first = run.writer.send(1);
    run.reader.delivered(2000, first, 1, NOW);
    run.reader.delivered(2001, first, 1, NOW);
    run.expect(&[(Class::Duplicate, 1)]);
}

#[test]
fn offset_reuse_between_two_acks() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.ack(2, 2009); // offset 2009 is minted twice
    run.reader.delivered(2000, first, 10, NOW);
    run.reader.delivered(2010, first.plus(11), 1, NOW);
    run.expect(&[(Class::OffsetReuse, 1), (Class::LostWrite, 1), (Class::NonmonotonicSend, 2)]);
}

#[test]
fn offset_reuse_between_two_readers() {
    let mut run = Run::new();
    let first = run.writer.send(2);
    run.reader.delivered(2000, first, 1, NOW);
    run.second_reader.delivered(2000, first.plus(1), 1, NOW);
    run.expect(&[(Class::OffsetReuse, 1), (Class::NonmonotonicSend, 1)]);
}

#[test]
fn offset_reuse_seen_by_one_reader_before_and_after_a_crash() {
    let mut run = Run::new();
    let first = run.writer.send(2);
    run.reader.delivered(2000, first, 1, NOW);
    run.reader.seek(2000);
    run.reader.delivered(2000, first.plus(1), 1, NOW);
    run.expect(&[(Class::OffsetReuse, 1), (Class::NonmonotonicSend, 1)]);
}

#[test]
fn inconsistent_offset_between_ack_and_delivery() {
    let mut run = Run::new();
    let first = run.writer.send(1);
    let second = run.ack(10, 2005);
    run.reader.delivered(2000, first, 1, NOW);
    run.reader.delivered(2001, second, 10, NOW);
    // The ack's offsets 2005..2011 hold other values of the same writer.
    run.expect(&[(Class::InconsistentOffset, 10), (Class::OffsetReuse, 6)]);
}

#[test]
fn inconsistent_offset_between_two_acks() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.writer.acked(first.plus(8), 2, 2010, NOW);
    run.reader.delivered(2000, first, 10, NOW);
    run.expect(&[(Class::InconsistentOffset, 2)]);
}

#[test]
fn nonmonotonic_send() {
    let mut run = Run::new();
    let first = run.writer.send(10);
    run.writer.acked(first.plus(5), 5, 2000, NOW);
    run.writer.acked(first, 5, 2005, NOW);
    run.reader.delivered(2000, first.plus(5), 5, NOW);
    run.reader.delivered(2005, first, 5, NOW);
    run.expect(&[(Class::NonmonotonicSend, 5)]);
}

#[test]
fn nonmonotonic_poll() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.reader.delivered(2000, first, 10, NOW);
    run.reader.delivered(2007, first.plus(7), 3, NOW);
    run.expect(&[(Class::NonmonotonicPoll, 1)]);
}

#[test]
fn high_watermark_regression() {
    let mut run = Run::new();
    run.reader.high_watermark(2000);
    run.reader.high_watermark(1999);
    run.reader.high_watermark(1999); // still below 2000
    run.expect(&[(Class::HighWatermarkRegression, 2)]);
}

#[test]
fn corrupt_bytes() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.reader.delivered(2000, first, 4, NOW);
    run.reader.corrupt(2004);
    run.reader.delivered(2005, first.plus(5), 5, NOW);
    run.expect(&[(Class::Corrupt, 1), (Class::LostWrite, 1)]);
}

#[test]
fn foreign_values() {
    let mut run = Run::new();
    let last = run.writer.send(1);
    run.reader.delivered(2000, last, 3, NOW); // one was sent
    run.reader.delivered(2003, Value::new(WriterId::new(9), 0), 1, NOW); // nobody is called that
    run.reader.delivered(2004, Value::from_u64(u64::MAX), 1, NOW);
    run.reader.delivered(u64::MAX, Value::from_u64(u64::MAX), 1, NOW);
    run.expect(&[(Class::Corrupt, 5), (Class::PollSkip, u64::MAX - 2005)]);
}

#[test]
fn value_of_another_partition() {
    let mut elsewhere = Writer::new(WriterId::new(2), PARTITION + 1);
    let stray = elsewhere.send(1);
    let mut run = Run::new();
    run.reader.delivered(2000, stray, 1, NOW);
    let mut observations = Observations::new();
    observations.add_writer(run.writer);
    observations.add_writer(elsewhere);
    observations.add_reader(run.reader);
    let report = observations.check();
    assert_eq!(report.count(Class::Corrupt), 1, "{report}");
}

#[test]
fn refused_read() {
    let mut run = Run::new();
    let first = run.writer.send(10);
    run.writer.refused(first.plus(2), 3);
    run.reader.delivered(2000, first, 10, NOW);
    run.expect(&[(Class::RefusedRead, 3)]);
}

#[test]
fn memory_level_loss_that_nobody_declared() {
    let mut run = Run::new();
    run.level = Level::Memory;
    run.ack(10, 2000);
    let later = run.ack(1, 4096);
    run.reader.lost(2004..4096);
    run.reader.delivered(4096, later, 1, NOW);
    let report = run.expect(&[(Class::PollSkip, 4), (Class::LostWrite, 4)]);
    assert_eq!(report.totals().declared_lost, 6);
}

#[test]
fn the_report_names_the_first_examples() {
    let mut run = Run::new();
    let first = run.ack(10, 2000);
    run.reader.delivered(2000, first, 4, NOW);
    let report = run.check();
    let text = report.to_string();
    let line = text.lines().find(|line| line.contains("unseen")).expect("one line per class");
    assert_eq!(
        line,
        "  unseen                                     6  partition 4: value w1#2004, acknowledged at offset 2004, \
         was never delivered and 5 more"
    );
    assert!(text.ends_with("verdict: violated"), "{text}");
}

#[test]
fn too_few_records_are_vacuous() {
    let mut writer = Writer::new(WriterId::new(1), PARTITION);
    let mut reader = Reader::new(PARTITION, 0);
    let first = writer.send(999);
    writer.acked(first, 999, 0, NOW);
    reader.delivered(0, first, 999, NOW);
    let mut run = Observations::new();
    run.add_writer(writer);
    run.add_reader(reader);
    assert_eq!(run.check().verdict(), Verdict::Vacuous(vec![Vacuity::TooFewAcked { acked: 999 }]));
}

#[test]
fn silence_after_the_last_fault_is_vacuous() {
    let with_last_fault_at = |moment| {
        let run = Run::new();
        let mut faults = Faults::new();
        faults.fire("kill", Moment(0));
        faults.fire("kill", moment);
        let mut observations = Observations::new();
        observations.add_writer(run.writer);
        observations.add_reader(run.reader);
        observations.set_faults(faults);
        observations.check().verdict()
    };
    assert_eq!(with_last_fault_at(NOW), Verdict::Vacuous(vec![Vacuity::SilentAfterLastFault { runs: 1 }]));
    assert_eq!(with_last_fault_at(Moment(0)), Verdict::Pass);
}

#[test]
fn an_ack_or_a_delivery_after_the_last_fault_is_life() {
    let with_success_at = |ack, delivery| {
        let mut run = Run::new();
        let first = run.writer.send(1);
        run.writer.acked(first, 1, 2000, Moment(ack));
        run.reader.delivered(2000, first, 1, Moment(delivery));
        let mut faults = Faults::new();
        faults.fire("kill", Moment(5));
        let mut observations = Observations::new();
        observations.add_writer(run.writer);
        observations.add_reader(run.reader);
        observations.set_faults(faults);
        observations.check().verdict()
    };
    assert_eq!(with_success_at(6, 1), Verdict::Pass);
    assert_eq!(with_success_at(1, 6), Verdict::Pass);
    assert_eq!(with_success_at(4, 5), Verdict::Vacuous(vec![Vacuity::SilentAfterLastFault { runs: 1 }]));
}

#[test]
fn a_planned_fault_that_never_came_is_vacuous() {
    let run = Run::new();
    let mut faults = Faults::new();
    faults.schedule("torn write");
    faults.schedule("kill");
    faults.fire("kill", Moment(0));
    let mut observations = Observations::new();
    observations.add_writer(run.writer);
    observations.add_reader(run.reader);
    observations.set_faults(faults);
    let verdict = observations.check().verdict();
    assert_eq!(verdict, Verdict::Vacuous(vec![Vacuity::FaultNeverFired { kind: "torn write" }]));
    assert_eq!(verdict.to_string(), "vacuous, which is a failure: fault \"torn write\" was planned and never happened");
}

#[test]
fn a_violation_outranks_vacuity() {
    let mut reader = Reader::new(PARTITION, 0);
    reader.corrupt(0);
    let mut run = Observations::new();
    run.add_reader(reader);
    assert_eq!(run.check().verdict(), Verdict::Violated);
}
