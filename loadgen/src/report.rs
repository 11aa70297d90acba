//! What a run comes to, for people and for programs.
//!
//! No figure of a durable log means anything without its level, and little without the machine's limits, so each line carries
//! the level, and the limits of the same run stand beside the figures.

use std::fmt::{self, Display};

use serde::Serialize;

use crate::{
    latency::{Bar, Latencies, Percentiles},
    limits::Limits,
    load::Outcome,
    machine::FileSystem,
    run::{Run, Tally},
    scenario::Scenario,
    verify::Verdict,
};

/// Widest bar of the histogram, in characters.
const BAR_WIDTH: f64 = 50.0;

/// Where a run took place.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Place {
    pub(crate) kernel: String,
    /// Cores of the embedded broker, and of the load.
    pub(crate) broker_cores: Option<Vec<usize>>,
    pub(crate) load_cores: Vec<usize>,
    /// Where the broker stores, as far as that is known.
    pub(crate) dir: Option<String>,
    pub(crate) file_system: Option<String>,
    pub(crate) device: Option<String>,
    #[serde(skip)]
    is_volatile: bool,
}

/// A report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    version: &'static str,
    durability: String,
    scenario: Scenario,
    place: Place,
    produce: Produce,
    consume: Rate,
    end_to_end: EndToEnd,
    limits: Limits,
    ratios: Ratios,
    verify: Option<Verdict>,
    broker: Usage,
    first_error: Option<String>,
    #[serde(skip)]
    bars: Vec<Bar>,
}

#[derive(Clone, Debug, Serialize)]
struct Produce {
    #[serde(flatten)]
    rate: Rate,
    latency_us: Option<Percentiles>,
}

#[derive(Clone, Debug, Serialize)]
struct Rate {
    records: u64,
    records_per_s: f64,
    bytes_per_s: f64,
    errors: u64,
}

#[derive(Clone, Debug, Serialize)]
struct EndToEnd {
    latency_us: Option<Percentiles>,
}

/// What the broker reached of what the machine can do.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Ratios {
    /// Of 1 / (t_sync + t_ping) for each producer; only for producers that wait for each record.
    one_in_flight: Option<f64>,
    /// Of the rate that was asked for.
    rate: Option<f64>,
    /// Of the smaller of the `O_DSYNC` 1 MiB rate and the loopback rate; of the latter alone for what is not durable.
    bulk: Option<f64>,
    /// Of the disk's direct sequential read rate; only for consumers without producers.
    disk_read: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Usage {
    /// CPU of the broker's threads for each record produced.
    cpu_us_per_record: Option<f64>,
    /// Of the whole process: of an embedded broker with the load's.
    rss_bytes: Option<u64>,
}

impl Place {
    /// `dir` is where the broker stores, or some other place on its disk.
    pub(crate) fn new(
        broker_cores: Option<Vec<usize>>,
        load_cores: Vec<usize>,
        dir: Option<(String, FileSystem)>,
    ) -> Self {
        let (dir, file_system) = dir.unzip();
        Self {
            kernel: crate::machine::kernel(),
            broker_cores,
            load_cores,
            dir,
            is_volatile: file_system.as_ref().is_some_and(FileSystem::is_volatile),
            device: file_system.as_ref().map(|found| found.source.clone()),
            file_system: file_system.map(|found| found.kind),
        }
    }
}

impl Report {
    pub(crate) fn new(run: &Run, outcome: Outcome, place: Place, limits: Limits) -> Self {
        let scenario = run.scenario.clone();
        let is_durable = run.topic.durability == streambus::Durability::Durable && !place.is_volatile;
        let durability = match (&place.file_system, place.is_volatile) {
            (Some(kind), true) => format!("none ({kind})"),
            _ => run.topic.durability.name().to_owned(),
        };
        let rate = Rate::new(&outcome.produced, &scenario);
        let consume = match scenario.consume_only {
            true => Rate::of_reading_alone(&outcome.consumed),
            false => Rate::new(&outcome.consumed, &scenario),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            durability,
            ratios: Ratios::new(&rate, &consume, &scenario, &limits, is_durable),
            broker: Usage::new(&outcome, if scenario.consume_only { &consume } else { &rate }),
            consume,
            produce: Produce { latency_us: outcome.produced.latencies.percentiles(), rate },
            end_to_end: EndToEnd { latency_us: outcome.consumed.latencies.percentiles() },
            bars: Latencies::bars(&outcome.produced.latencies),
            first_error: run.counters.first_error().map(str::to_owned),
            verify: outcome.verdict,
            scenario,
            place,
            limits,
        }
    }

    /// What the process ends with: 1 when the broker broke a promise.
    pub(crate) fn exit_code(&self) -> u8 {
        self.verify.as_ref().is_some_and(Verdict::is_violated).into()
    }

    /// As one object.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report has nothing that JSON lacks")
    }
}

impl Rate {
    fn new(tally: &Tally, scenario: &Scenario) -> Self {
        let records_per_s = tally.records as f64 / scenario.duration.as_secs_f64();
        let bytes_per_s = records_per_s * scenario.record_bytes() as f64;
        Self { records: tally.records, records_per_s, bytes_per_s, errors: tally.errors }
    }

    /// Of consumers who had all they read before them, up to the last record.
    fn of_reading_alone(tally: &Tally) -> Self {
        let seconds = (tally.last_ns as f64 / 1e9).max(f64::MIN_POSITIVE);
        let (records_per_s, bytes_per_s) = (tally.records as f64 / seconds, tally.bytes as f64 / seconds);
        Self { records: tally.records, records_per_s, bytes_per_s, errors: tally.errors }
    }
}

impl Ratios {
    fn new(rate: &Rate, consume: &Rate, scenario: &Scenario, limits: &Limits, is_durable: bool) -> Self {
        if scenario.consume_only {
            let disk_read = limits.disk_read_bytes_per_s.map(|disk| consume.bytes_per_s / disk);
            return Self { disk_read, ..Self::default() };
        }
        if let Some(asked) = scenario.rate {
            return Self { rate: Some(rate.records_per_s / asked), ..Self::default() };
        }
        let one = limits.one_in_flight_per_s().filter(|_| is_durable && scenario.is_one_in_flight());
        let bulk = if is_durable { limits.bulk_bytes_per_s() } else { Some(limits.loopback_bytes_per_s) };
        Self {
            one_in_flight: one.map(|one| rate.records_per_s / (one * scenario.producers as f64)),
            bulk: bulk.filter(|_| scenario.batch_records > 1).map(|bulk| rate.bytes_per_s / bulk),
            ..Self::default()
        }
    }
}

impl Usage {
    fn new(outcome: &Outcome, rate: &Rate) -> Self {
        let cpu_ns = outcome.cpu_ns.filter(|_| rate.records > 0);
        Self { cpu_us_per_record: cpu_ns.map(|ns| ns as f64 / 1e3 / rate.records as f64), rss_bytes: outcome.rss_bytes }
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(out)?;
        let level = &self.durability;
        if self.scenario.consume_only {
            self.rate(out, "consume", &self.consume)?;
            writeln!(out)?;
            return self.tail(out);
        }
        self.rate(out, "produce", &self.produce.rate)?;
        if self.scenario.consumers > 0 {
            self.rate(out, "consume", &self.consume)?;
        }
        writeln!(
            out,
            "\nlatency [{level}] {:>12} {:>10} {:>10} {:>10} {:>10}",
            "p50", "p99", "p99.9", "p99.99", "max"
        )?;
        latency(out, "produce", self.produce.latency_us)?;
        latency(out, "end to end", self.end_to_end.latency_us)?;
        if !self.bars.is_empty() {
            writeln!(out, "\nproduce latency [{level}]")?;
            self.bars.iter().try_for_each(|bar| draw(out, bar))?;
        }
        writeln!(out)?;
        self.tail(out)
    }
}

impl Report {
    /// What ran, where, and what could be reached there.
    fn head(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { kernel, broker_cores, load_cores, dir, file_system, device, .. } = &self.place;
        let broker = match (broker_cores, &self.scenario.brokers) {
            (Some(cores), _) => format!("embedded broker on core {}", list(cores)),
            (None, brokers) => format!("broker {}", brokers.as_deref().unwrap_or_default()),
        };
        let interrupts = self.limits.disk_interrupt_core;
        let interrupts = interrupts.map_or(String::new(), |core| format!(", disk interrupts on core {core}"));
        writeln!(out, "loadgen {}: {broker}, load on core {}{interrupts}", self.version, list(load_cores))?;
        write!(out, "durability: {}", self.durability)?;
        if let (Some(dir), Some(file_system), Some(device)) = (dir, file_system, device) {
            write!(out, ", {dir} on {file_system}, {device}")?;
        }
        writeln!(out, ", Linux {kernel}")?;
        write!(out, "limits: ")?;
        if let Some(t_sync_us) = self.limits.t_sync_us {
            write!(out, "t_sync {t_sync_us:.0} us, ")?;
        }
        write!(out, "t_ping {:.0} us, ", self.limits.t_ping_us)?;
        if let (Some(synced), Some(disk)) = (self.limits.odsync_1mib_bytes_per_s, self.limits.disk_bytes_per_s) {
            write!(out, "O_DSYNC 1 MiB {}/s, disk {}/s, ", bytes(synced), bytes(disk))?;
        }
        if let Some(read) = self.limits.disk_read_bytes_per_s {
            write!(out, "disk read {}/s, ", bytes(read))?;
        }
        writeln!(out, "loopback {}/s", bytes(self.limits.loopback_bytes_per_s))?;
        writeln!(out, "load: {}\n", self.load())
    }

    fn load(&self) -> String {
        let Scenario { producers, consumers, record_size, batch_records, in_flight, keys, .. } = &self.scenario;
        let how = if self.scenario.raw { "raw" } else { "SDK" };
        if self.scenario.consume_only {
            let (consumers, topic) =
                (counted(*consumers, "consumer"), self.scenario.topic.as_deref().unwrap_or_default());
            return format!("{how}, {consumers}, topic {topic} from its start");
        }
        let (producers, consumers) = (counted(*producers, "producer"), counted(*consumers, "consumer"));
        let keys = if *keys > 0 { format!(", {} keys", digits(u64::from(*keys))) } else { String::new() };
        let pace =
            self.scenario.rate.map_or("as acknowledged".to_owned(), |rate| format!("{rate} records/s asked for"));
        format!(
            "{how}, {producers}, {consumers}, {batch_records} x {record_size} B a batch, {in_flight} in \
             flight{keys}, {pace}, {} s after {} s",
            self.scenario.duration.as_secs_f64(),
            (self.scenario.warm_up + self.scenario.settle).as_secs_f64(),
        )
    }

    fn rate(&self, out: &mut fmt::Formatter<'_>, what: &str, rate: &Rate) -> fmt::Result {
        let (records, per_s) = (digits(rate.records), digits(rate.records_per_s as u64));
        let level = &self.durability;
        write!(out, "{what} [{level}] {per_s:>14} records/s  {:>9}/s  {records} records", bytes(rate.bytes_per_s))?;
        if rate.errors > 0 {
            write!(out, ", {} errors", digits(rate.errors))?;
        }
        writeln!(out)
    }

    /// What it cost, what it reached of the limits, and whether it was right.
    fn tail(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = &self.durability;
        if let Some(ratio) = self.ratios.one_in_flight {
            let producers = self.scenario.producers;
            writeln!(out, "reached [{level}]: {ratio:.2} of {producers}/(t_sync + t_ping)")?;
        }
        if let Some(ratio) = self.ratios.rate {
            writeln!(out, "reached [{level}]: {ratio:.2} of the rate asked for")?;
        }
        if let Some(ratio) = self.ratios.bulk {
            let of = if level == "durable" { "the smaller of O_DSYNC 1 MiB and loopback" } else { "loopback" };
            writeln!(out, "reached [{level}]: {ratio:.2} of {of}")?;
        }
        if let Some(ratio) = self.ratios.disk_read {
            writeln!(out, "reached [{level}]: {ratio:.2} of the disk's direct sequential read")?;
        }
        if let Some(cpu_us) = self.broker.cpu_us_per_record {
            write!(out, "broker [{level}]: {cpu_us:.3} us of CPU a record")?;
            let whose = if self.place.broker_cores.is_some() { ", the load's included" } else { "" };
            match self.broker.rss_bytes {
                Some(rss) => writeln!(out, ", {} resident{whose}", bytes(rss as f64))?,
                None => writeln!(out)?,
            }
        }
        if let Some(error) = &self.first_error {
            writeln!(out, "first error: {error}")?;
        }
        match &self.verify {
            Some(verdict) => verified(out, level, verdict),
            None if self.scenario.consume_only => writeln!(out, "not verified: what was sent is not known here"),
            None => writeln!(out, "not verified, as --no-verify asks"),
        }
    }
}

fn verified(out: &mut fmt::Formatter<'_>, level: &str, verdict: &Verdict) -> fmt::Result {
    let Verdict { acked, read, lost, duplicated, reordered, corrupt, unknown, declared_lost, examples } = verdict;
    writeln!(
        out,
        "verified {} of {} acknowledged records [{level}]: {lost} lost, {duplicated} duplicated, {reordered} reordered, \
         {corrupt} corrupt",
        digits(*read),
        digits(*acked)
    )?;
    if *unknown > 0 {
        writeln!(out, "{} records were never answered: their outcome is unknown", digits(*unknown))?;
    }
    if *declared_lost > 0 {
        writeln!(out, "{} records were declared lost by the broker, as [{level}] allows", digits(*declared_lost))?;
    }
    examples.iter().try_for_each(|example| writeln!(out, "  {example}"))
}

fn latency(out: &mut fmt::Formatter<'_>, what: &str, found: Option<Percentiles>) -> fmt::Result {
    let Some(Percentiles { p50, p99, p999, p9999, max }) = found else { return Ok(()) };
    write!(out, "  {what:<14}")?;
    for value in [p50, p99, p999, p9999, max] {
        write!(out, " {:>10}", time(value))?;
    }
    writeln!(out)
}

fn draw(out: &mut fmt::Formatter<'_>, bar: &Bar) -> fmt::Result {
    let width = (bar.share * BAR_WIDTH).ceil() as usize;
    writeln!(out, "  up to {:>8} {:>7.3} % {}", time(bar.up_to_us), 100.0 * bar.share, "#".repeat(width))
}

/// Microseconds, as people read them: three digits and a unit.
fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => three(us, "us"),
        us if us < 1e6 => three(us / 1e3, "ms"),
        us => three(us / 1e6, "s"),
    }
}

/// Bytes, as people read them.
fn bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e6 => three(bytes / 1e3, "kB"),
        bytes if bytes < 1e9 => three(bytes / 1e6, "MB"),
        bytes => three(bytes / 1e9, "GB"),
    }
}

fn three(value: f64, unit: &str) -> String {
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {unit}")
}

/// A count with its thousands apart.
fn digits(count: u64) -> String {
    let plain = count.to_string();
    let groups: Vec<_> = plain.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
    groups.join(",")
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use clap::Parser;
    use streambus::Durability;

    use super::*;
    use crate::topic::Topic;

    const LIMITS: Limits = Limits {
        t_sync_us: Some(150.0),
        t_ping_us: 50.0,
        odsync_1mib_bytes_per_s: Some(2e9),
        disk_bytes_per_s: Some(3e9),
        disk_read_bytes_per_s: Some(1e9),
        loopback_bytes_per_s: 4e9,
        disk_interrupt_core: Some(1),
    };

    fn report(flags: &[&str], kind: &str, verdict: Option<Verdict>) -> Report {
        let scenario = Scenario::parse_from([&["loadgen", "--duration", "2s"], flags].concat());
        let mut consumed = Tally::new();
        (consumed.records, consumed.bytes, consumed.last_ns) = (1_000, 400_000_000, 500_000_000);
        let topic = Topic::of_test(Durability::Durable);
        let run = Run::new(scenario, topic, None, Arc::default());
        let mut produced = Tally::new();
        produced.records = 8_000;
        produced.latencies.record(200_000, 8_000);
        let outcome = Outcome {
            produced,
            consumed,
            verdict,
            cpu_ns: Some(Duration::from_millis(8).as_nanos() as u64),
            rss_bytes: Some(50 << 20),
        };
        let file_system = FileSystem::of_test(kind);
        let place = Place::new(Some(vec![1]), vec![0], Some(("./demo".to_owned(), file_system)));
        Report::new(&run, outcome, place, LIMITS)
    }

    fn verdict(lost: u64) -> Verdict {
        Verdict {
            acked: 8_000,
            read: 8_000 - lost,
            lost,
            duplicated: 0,
            reordered: 0,
            corrupt: 0,
            unknown: 0,
            declared_lost: 0,
            examples: vec![],
        }
    }

    #[test]
    fn the_json_has_the_shape_that_scripts_rely_on() {
        let json: serde_json::Value = serde_json::from_str(&report(&[], "ext4", Some(verdict(0))).json()).unwrap();
        for pointer in [
            "/durability",
            "/produce/records",
            "/produce/records_per_s",
            "/produce/bytes_per_s",
            "/produce/errors",
            "/produce/latency_us/p50",
            "/produce/latency_us/p99",
            "/produce/latency_us/p999",
            "/produce/latency_us/p9999",
            "/produce/latency_us/max",
            "/consume/records",
            "/consume/records_per_s",
            "/end_to_end/latency_us",
            "/limits/t_sync_us",
            "/limits/t_ping_us",
            "/limits/odsync_1mib_bytes_per_s",
            "/limits/disk_bytes_per_s",
            "/limits/disk_read_bytes_per_s",
            "/limits/loopback_bytes_per_s",
            "/limits/disk_interrupt_core",
            "/verify/acked",
            "/verify/read",
            "/verify/lost",
            "/verify/duplicated",
            "/verify/reordered",
            "/verify/corrupt",
            "/verify/unknown",
            "/broker/cpu_us_per_record",
            "/broker/rss_bytes",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer} is missing");
        }
        assert_eq!(json["produce"]["records_per_s"], 4_000.0);
        assert_eq!(json["broker"]["cpu_us_per_record"], 1.0);
    }

    #[test]
    fn figures_stand_beside_the_limits() {
        let one = report(&["--batch-records", "1", "--in-flight", "1"], "ext4", None);
        assert_eq!(one.ratios.one_in_flight, Some(0.8));
        assert!(one.to_string().contains("0.80 of 1/(t_sync + t_ping)"), "{one}");
        let bulk = report(&[], "ext4", None);
        assert_eq!(bulk.ratios.bulk, Some(4_000.0 * 100.0 / 2e9));
        let paced = report(&["--rate", "4000"], "ext4", None);
        assert_eq!((paced.ratios.bulk, paced.ratios.rate), (None, Some(1.0)), "such a rate says nothing of the limits");
    }

    #[test]
    fn reading_alone_is_measured_up_to_the_last_record() {
        let report = report(&["--consume-only", "--brokers", "a:1", "--topic", "t"], "ext4", None);
        assert_eq!((report.consume.records_per_s, report.consume.bytes_per_s), (2_000.0, 8e8));
        assert_eq!((report.ratios.disk_read, report.ratios.bulk), (Some(0.8), None));
        let text = report.to_string();
        assert!(text.contains("0.80 of the disk's direct sequential read") && !text.contains("produce ["), "{text}");
    }

    #[test]
    fn every_figure_carries_its_level() {
        let text = report(&[], "ext4", Some(verdict(0))).to_string();
        for line in ["produce [durable]", "latency [durable]", "broker [durable]", "records [durable]: 0 lost"] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        let text = report(&[], "tmpfs", None).to_string();
        assert!(text.contains("durability: none (tmpfs)") && !text.contains("[durable]"), "{text}");
    }

    #[test]
    fn a_bad_history_is_exit_code_1() {
        assert_eq!(report(&[], "ext4", Some(verdict(0))).exit_code(), 0);
        assert_eq!(report(&[], "ext4", Some(verdict(1))).exit_code(), 1);
        assert_eq!(report(&[], "ext4", None).exit_code(), 0);
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(digits(0), "0");
        assert_eq!(digits(1_234_567), "1,234,567");
        assert_eq!((time(51.04), time(1_500.0), time(2.5e6)), ("51.0 us".into(), "1.50 ms".into(), "2.50 s".into()));
        assert_eq!((bytes(999e6), bytes(2.4e9)), ("999 MB".into(), "2.40 GB".into()));
    }
}
