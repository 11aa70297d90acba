//! A workload as data: the flags, their defaults, and what goes together.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use serde::Serialize;
use streambus::Durability;

use crate::failure::Failure;

/// What the embedded broker stores in, unless told otherwise.
const DIR_DEFAULT: &str = "./.streambus-demo";

/// Partitions of a topic that loadgen creates, unless told otherwise.
const PARTITIONS_DEFAULT: u32 = 4;

/// Writers of a run have 24 bits, and each producer is one on each partition.
const WRITERS_MAX: u64 = 1 << 24;

/// Load for a StreamBus broker, checked record by record.
///
/// Without flags it starts a broker of its own, sends records as fast as they are acknowledged, reads them all back, and
/// says what that machine can do and how near the broker came. Exit code 1 when anything acknowledged was lost,
/// duplicated, reordered or changed.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "loadgen", version, max_term_width = 100)]
pub(crate) struct Scenario {
    /// Brokers to load, host:port, separated by commas [default: one started in this process]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) brokers: Option<String>,

    /// Directory of the embedded broker, removed at the end [default: ./.streambus-demo]; with --brokers, a directory on
    /// the broker's disk, to measure what that disk can do
    #[arg(long)]
    #[serde(skip)]
    pub(crate) dir: Option<PathBuf>,

    /// CPUs of the embedded broker, such as 0 or 0-3 [default: half of those allowed, first the one that takes the disk's
    /// interrupts]
    #[arg(long, conflicts_with = "brokers")]
    pub(crate) cores: Option<String>,

    /// Memory of the embedded broker, such as 10GiB [default: as `streambus serve`]
    #[arg(long, conflicts_with = "brokers")]
    pub(crate) memory: Option<String>,

    /// Topic to load, created if there is none of that name [default: one for this run, deleted at its end]
    #[arg(long)]
    pub(crate) topic: Option<String>,

    /// Partitions of the topic [default: 4, or what the topic has]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,

    /// When a record is acknowledged: on disk, or in memory [default: durable, or what the topic has]
    #[arg(long, value_name = "durable|memory")]
    #[serde(skip)]
    pub(crate) durability: Option<Durability>,

    /// Producers, each with a thread and a connection of its own
    #[arg(long, default_value = "1", value_parser = parse_count::<1>)]
    pub(crate) producers: usize,

    /// Consumers, which share the partitions; with 0 the records are read back after the load
    #[arg(long, default_value = "1", value_parser = parse_count::<0>)]
    pub(crate) consumers: usize,

    /// Send nothing: read the topic from its start to where it ends now, for --duration at most. From a broker that was just
    /// started that is a cold read
    #[arg(long, requires_all = ["brokers", "topic"], conflicts_with_all = ["rate", "partitions", "durability"])]
    pub(crate) consume_only: bool,

    /// Bytes of a record's value, at least 16
    #[arg(long, default_value = "100", value_parser = parse_bytes)]
    pub(crate) record_size: usize,

    /// Records of a batch
    #[arg(long, default_value = "1000", value_parser = parse_count::<1>)]
    pub(crate) batch_records: usize,

    /// Requests that a producer has under way
    #[arg(long, default_value = "5", value_parser = parse_count::<1>)]
    pub(crate) in_flight: usize,

    /// Different keys of records; with 0 they have none
    #[arg(long, default_value = "0", value_parser = clap::value_parser!(u32).range(0..100_000_000))]
    pub(crate) keys: u32,

    /// Records a second of all producers, sent on schedule whether or not the broker keeps up [default: as fast as they
    /// are acknowledged]
    #[arg(long, value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,

    /// How long to measure, such as 10s or 500ms
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    #[serde(rename = "duration_s", serialize_with = "as_seconds")]
    pub(crate) duration: Duration,

    /// How long to send before that
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    #[serde(rename = "warm_up_s", serialize_with = "as_seconds")]
    pub(crate) warm_up: Duration,

    /// How long to pause between the two
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    #[serde(rename = "settle_s", serialize_with = "as_seconds")]
    pub(crate) settle: Duration,

    /// Send batches encoded beforehand over bare sockets, instead of using the SDK: the broker's own limit
    #[arg(long)]
    pub(crate) raw: bool,

    /// Do not check what is read
    #[arg(long)]
    pub(crate) no_verify: bool,

    /// Write the report as JSON to this file, or with - to standard output, where it replaces the text
    #[arg(long, value_name = "FILE|-")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

impl Scenario {
    /// What the command line says.
    pub(crate) fn of_command_line() -> Self {
        Self::parse().completed()
    }

    /// With what follows from the flags given: reading alone has nothing to warm up, and knows nothing of what was sent.
    fn completed(mut self) -> Self {
        if self.consume_only {
            (self.producers, self.no_verify) = (0, true);
            (self.warm_up, self.settle) = (Duration::ZERO, Duration::ZERO);
        }
        self
    }

    /// Checks what no flag can check alone.
    pub(crate) fn validate(&self) -> Result<(), Failure> {
        if self.record_size < history::PAYLOAD_BYTES_MIN {
            return Err(Failure::usage(format!(
                "--record-size {}: a record that can be verified has at least {} bytes",
                self.record_size,
                history::PAYLOAD_BYTES_MIN
            )));
        }
        if self.duration.is_zero() {
            return Err(Failure::usage("--duration 0s measures nothing; give a time such as 10s"));
        }
        if self.consume_only && self.consumers == 0 {
            return Err(Failure::usage("--consume-only with --consumers 0 does nothing; leave one of them out"));
        }
        self.check_writers(self.partitions_new())
    }

    /// Checks that so many partitions, be it of a topic that was there before, are not too many for the history checker.
    pub(crate) fn check_writers(&self, partitions: u32) -> Result<(), Failure> {
        let writers = self.producers as u64 * u64::from(partitions);
        if writers <= WRITERS_MAX {
            return Ok(());
        }
        let producers = self.producers;
        Err(Failure::usage(format!(
            "{producers} producers times {partitions} partitions is more than {WRITERS_MAX}; lower --producers or --partitions"
        )))
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| DIR_DEFAULT.into())
    }

    /// Partitions of the topic, where it has to be created.
    pub(crate) fn partitions_new(&self) -> u32 {
        self.partitions.unwrap_or(PARTITIONS_DEFAULT)
    }

    /// Bytes of a record that count: its value and its key.
    pub(crate) fn record_bytes(&self) -> u64 {
        (self.record_size + if self.keys > 0 { KEY_BYTES } else { 0 }) as u64
    }

    /// Whether each producer waits for one record before it sends the next.
    pub(crate) fn is_one_in_flight(&self) -> bool {
        self.in_flight == 1 && self.batch_records == 1
    }

    pub(crate) fn verifies(&self) -> bool {
        !self.no_verify
    }
}

/// Bytes of every key: all keys of a run are of one length, so that encoded batches keep theirs.
pub(crate) const KEY_BYTES: usize = 8;

/// The key of a number: its decimal digits.
pub(crate) fn key(number: u32) -> [u8; KEY_BYTES] {
    let mut digits = [b'0'; KEY_BYTES];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

fn parse_count<const MIN: usize>(text: &str) -> Result<usize, String> {
    const COUNT_MAX: usize = 1_000_000;
    let count: usize = text.parse().map_err(|_| "it is not a whole number".to_owned())?;
    let range = MIN..=COUNT_MAX;
    if range.contains(&count) { Ok(count) } else { Err(format!("it is not between {MIN} and {COUNT_MAX}")) }
}

fn parse_bytes(text: &str) -> Result<usize, String> {
    let bytes = config::units::parse_bytes(text).map_err(|error| error.to_string())?;
    if bytes < 1 << 30 { Ok(bytes as usize) } else { Err("it is not below 1 GiB".to_owned()) }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if rate > 0.0 && rate.is_finite() { Ok(rate) } else { Err("it is not above 0".to_owned()) }
}

/// A time; a number without a unit is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    config::units::parse_duration(text).map_err(|error| error.to_string())
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(flags: &[&str]) -> Scenario {
        Scenario::try_parse_from([&["loadgen"], flags].concat()).unwrap()
    }

    #[test]
    fn the_defaults_are_the_main_job() {
        let scenario = scenario(&[]);
        assert!(scenario.validate().is_ok());
        assert_eq!((scenario.brokers.as_deref(), scenario.rate, scenario.raw), (None, None, false));
        assert!(scenario.warm_up + scenario.duration < Duration::from_secs(20));
        assert_eq!(scenario.dir(), PathBuf::from("./.streambus-demo"));
    }

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        let found = scenario(&["--duration", "500ms", "--warm-up", "3", "--settle", "1 min", "--record-size", "1KiB"]);
        assert_eq!(found.duration, Duration::from_millis(500));
        assert_eq!(found.warm_up, Duration::from_secs(3));
        assert_eq!(found.settle, Duration::from_secs(60));
        assert_eq!(found.record_size, 1024);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |flags: &[&str]| Scenario::try_parse_from([&["loadgen"], flags].concat()).is_err();
        for flags in [
            ["--producers", "0"],
            ["--batch-records", "0"],
            ["--partitions", "0"],
            ["--durability", "maybe"],
            ["--rate", "0"],
            ["--rate", "nan"],
            ["--duration", "ten"],
            ["--record-size", "2GiB"],
        ] {
            assert!(refused(&flags), "{flags:?}");
        }
        assert!(refused(&["--brokers", "a:1", "--memory", "1GiB"]), "that broker has its memory already");
        assert!(scenario(&["--record-size", "15"]).validate().is_err());
        assert!(scenario(&["--duration", "0s"]).validate().is_err());
        assert!(scenario(&["--producers", "10000", "--partitions", "10000"]).validate().is_err());
    }

    #[test]
    fn reading_alone_sends_nothing_and_needs_a_topic_to_read() {
        let found = scenario(&["--consume-only", "--brokers", "a:1", "--topic", "t"]).completed();
        assert_eq!((found.producers, found.verifies(), found.warm_up), (0, false, Duration::ZERO));
        assert!(found.validate().is_ok());
        let refused =
            |flags: &[&str]| Scenario::try_parse_from([&["loadgen", "--consume-only"], flags].concat()).is_err();
        assert!(refused(&["--topic", "t"]), "a broker of its own has no topic yet");
        assert!(refused(&["--brokers", "a:1"]));
        let none = scenario(&["--consume-only", "--brokers", "a:1", "--topic", "t", "--consumers", "0"]);
        assert!(none.validate().is_err());
    }

    #[test]
    fn keys_are_digits_of_one_length() {
        assert_eq!(&key(0), b"00000000");
        assert_eq!(&key(12_345_678), b"12345678");
        assert_eq!(&key(99), b"00000099");
    }
}
