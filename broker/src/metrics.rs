//! Every metric: name, unit, help. One table makes the counters of a shard, the answer to Stats and the text of
//! `/metrics`.
//!
//! A shard counts in plain cells. Whoever asks gets a copy of them by message, so counting costs an addition and no
//! cache line is shared between cores.

use std::cell::Cell;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use crate::refused::Refused;

/// Whether a number only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counts events since the start.
    Counter,
    /// Says how much there is now.
    Gauge,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name, with the unit last; `/metrics` puts `streambus_` in front.
    pub(crate) name: &'static str,
    /// Whether it only rises.
    pub(crate) kind: Kind,
    /// What it says.
    pub(crate) help: &'static str,
}

macro_rules! metrics {
    ($($variant:ident $kind:ident $name:literal $help:literal)*) => {
        /// A metric, by its place in the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum Metric { $(#[doc = $help] $variant),* }

        /// Every metric.
        pub(crate) const METRICS: &[Row] = &[$(Row { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

metrics! {
    Connections         Gauge   "connections"                 "Client connections open on the shard"
    ConnectionsAccepted Counter "connections_accepted"        "Client connections that arrived at the shard"
    ConnectionsMoved    Counter "connections_moved"           "Connections handed to the shard that their Hello asked for"
    ConnectionsRefused  Counter "connections_refused"         "Connections closed because a limit was reached"
    ConnectionsCut      Counter "connections_cut"             "Connections closed for sending nonsense or missing a deadline"
    ProduceRequests     Counter "produce_requests"            "Produce requests received"
    ProduceBatches      Counter "produce_batches"             "Record batches appended"
    ProduceRecords      Counter "produce_records"             "Records appended"
    ProduceBytes        Counter "produce_bytes"               "Bytes of record batches appended"
    ProduceRefused      Counter "produce_batches_refused"     "Record batches answered with an error"
    FetchRequests       Counter "fetch_requests"              "Fetch requests received"
    FetchBytes          Counter "fetch_bytes"                 "Bytes of record batches read for consumers"
    FetchRefused        Counter "fetch_partitions_refused"    "Partitions of fetch requests answered with an error"
    OtherRequests       Counter "other_requests"              "Requests received that are neither Produce nor Fetch"
    ShardHops           Counter "shard_hops"                  "Messages sent to another shard on behalf of a client"
    ShardHopsRefused    Counter "shard_hops_refused"          "Messages another shard had no room for"
    Logs                Gauge   "logs"                        "Logs run by the shard"
    LogsSpare           Gauge   "logs_spare"                  "Logs run by the shard until they are drained, because there are fewer cores than logs"
    PartitionsToMove    Gauge   "partitions_to_move"          "Partitions that are yet to move to another log; told by shard 0"
    PartitionsMoved     Counter "partitions_moved"            "Partitions that moved to another log; told by shard 0"
    MoveBytes           Counter "move_bytes"                  "Bytes of record batches copied into the shard's logs by moves"
    Partitions          Gauge   "partitions"                  "Partitions led by the shard"
    PartitionsQuarantined Gauge "partitions_quarantined"      "Partitions on the shard's disk that metadata does not know"
    ConnectionBytes     Gauge   "connection_memory_bytes"     "Memory held by the connections of the shard, in bytes"
    LogSyncs            Counter "log_syncs"                   "Sync groups written to the shard's WAL"
    LogSyncBytes        Counter "log_sync_bytes"              "Bytes of these, with padding"
    LogMemtableBytes    Gauge   "log_memtable_bytes"          "Bytes of batches that are not yet in segments"
    LogFlushes          Counter "log_flushes"                 "Memtables written to segments"
    LogMerges           Counter "log_merges"                  "Merges of segments"
    CompressionSaved    Counter "log_compression_saved_bytes" "Bytes that merges saved by compressing batches"
    LogSegments         Gauge   "log_segments"                "Live segments"
    SegmentsUnreadable  Gauge   "log_segments_unreadable"     "Live segments that compaction could not read and leaves as they are"
    CacheBytes          Gauge   "block_cache_bytes"           "Bytes of segments in memory for readers"
    CacheHits           Counter "block_cache_hits"            "Reads of segments that found their block in memory or on its way"
    CacheMisses         Counter "block_cache_misses"          "Reads of segments that had to wait for a read of the disk from its start"
    CacheReadBytes      Counter "block_cache_read_bytes"      "Bytes of segments read from disk for readers"
    CacheAheadBytes     Counter "block_cache_ahead_bytes"     "Bytes of these that were read ahead of need"
    PartitionsRefused   Gauge   "partitions_refused"          "Partitions that take and give nothing behind damage"
    PartitionsDamaged   Gauge   "partitions_damaged"          "Partitions of which damage in a segment is refused to readers"
    DiskFree            Gauge   "disk_free_bytes"             "Free bytes of the file system when the shard last looked"
    DiskReserve         Gauge   "disk_reserve_bytes"          "Produce is refused while less is free, in bytes"
    DiskFull            Gauge   "disk_full"                   "1 while produce is refused for that, else 0"
}

/// Number of metrics.
const COUNT: usize = METRICS.len();

/// The counters of one shard.
pub(crate) struct Metrics {
    values: [Cell<u64>; COUNT],
}

impl Default for Metrics {
    fn default() -> Self {
        Self { values: std::array::from_fn(|_| Cell::default()) }
    }
}

/// The counters of one shard at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    values: [u64; COUNT],
    named: Named,
}

/// Partitions that damage touches, a bounded number of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// Those it stopped.
    pub(crate) refused: Vec<Refused>,
    /// Those of which it took something in a segment.
    pub(crate) damaged: Vec<Refused>,
}

impl Metrics {
    /// Counts one more.
    #[inline]
    pub(crate) fn count(&self, metric: Metric) {
        self.add(metric, 1);
    }

    /// Counts `more`.
    #[inline]
    pub(crate) fn add(&self, metric: Metric, more: u64) {
        let value = &self.values[metric as usize];
        value.set(value.get().wrapping_add(more));
    }

    /// Says how much there is now.
    #[inline]
    pub(crate) fn set(&self, metric: Metric, value: u64) {
        self.values[metric as usize].set(value);
    }

    /// All of them, with the partitions that damage touches.
    pub(crate) fn read(&self, named: Named) -> Reading {
        Reading { values: self.values.each_ref().map(Cell::get), named }
    }
}

impl Reading {
    /// Each row with its value, in the order of the table.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static Row, u64)> {
        METRICS.iter().zip(self.values)
    }

    /// The sums over several shards.
    pub(crate) fn sum(shards: &[Self]) -> Self {
        let named = Named {
            refused: shards.iter().flat_map(|shard| shard.named.refused.iter().cloned()).collect(),
            damaged: shards.iter().flat_map(|shard| shard.named.damaged.iter().cloned()).collect(),
        };
        let mut sum = Self { values: [0; COUNT], named };
        for (total, place) in sum.values.iter_mut().zip(0..) {
            *total = shards.iter().map(|shard| shard.values[place]).sum();
        }
        sum
    }

    /// One value.
    #[cfg(test)]
    pub(crate) fn get(&self, metric: Metric) -> u64 {
        self.values[metric as usize]
    }
}

/// The OpenMetrics text of a node, one series for each shard.
pub(crate) fn exposition(shards: Vec<Reading>) -> String {
    let mut registry = Registry::with_prefix("streambus");
    registry.register_collector(Box::new(Collector { shards }));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("writing to a string cannot fail");
    out
}

#[derive(Debug)]
struct Collector {
    shards: Vec<Reading>,
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (place, row) in METRICS.iter().enumerate() {
            let kind = match row.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let no_unit: Option<&Unit> = None;
            let mut family = encoder.encode_descriptor(row.name, row.help, no_unit, kind)?;
            for (shard, reading) in self.shards.iter().enumerate() {
                let labels = [("shard", shard.to_string())];
                let series = family.encode_family(&labels)?;
                let value = reading.values[place];
                match row.kind {
                    Kind::Counter => ConstCounter::new(value).encode(series)?,
                    // Gauges are signed there; none of ours comes near the sign.
                    Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(series)?,
                }
            }
        }
        let help = "The offset from which a damaged partition takes and gives nothing; at most 100 a shard";
        self.encode_named(&mut encoder, "partition_refused_from", help, |named| &named.refused)?;
        let help = "The first offset at which damage in a segment of a partition was met; at most 100 a shard";
        self.encode_named(&mut encoder, "partition_damaged_from", help, |named| &named.damaged)
    }
}

impl Collector {
    /// One series for each of these partitions: from which offset on damage touches it.
    fn encode_named(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        which: impl Fn(&Named) -> &[Refused],
    ) -> Result<(), std::fmt::Error> {
        let no_unit: Option<&Unit> = None;
        let mut family = encoder.encode_descriptor(name, help, no_unit, MetricType::Gauge)?;
        for (shard, reading) in self.shards.iter().enumerate() {
            for Refused { topic, partition, from } in which(&reading.named) {
                let labels =
                    [("shard", shard.to_string()), ("topic", topic.clone()), ("partition", partition.to_string())];
                let series = family.encode_family(&labels)?;
                ConstGauge::new(i64::try_from(*from).unwrap_or(i64::MAX)).encode(series)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_in_snake_case() {
        let names: BTreeSet<_> = METRICS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn shards_add_up_and_show_one_by_one() {
        let (left, right) = (Metrics::default(), Metrics::default());
        left.add(Metric::ProduceRecords, 40);
        right.add(Metric::ProduceRecords, 2);
        right.set(Metric::Connections, 7);
        let refused = Refused { topic: "orders".to_owned(), partition: 3, from: 17 };
        let damaged = Refused { partition: 4, ..refused.clone() };
        let named = Named { refused: vec![refused], damaged: vec![damaged] };
        let shards = vec![left.read(Named::default()), right.read(named)];
        assert_eq!(Reading::sum(&shards).get(Metric::ProduceRecords), 42);

        let text = exposition(shards);
        let line = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        line("# TYPE streambus_produce_records counter");
        line("streambus_produce_records_total{shard=\"0\"} 40");
        line("streambus_produce_records_total{shard=\"1\"} 2");
        line("streambus_connections{shard=\"1\"} 7");
        line("streambus_partition_refused_from{shard=\"1\",topic=\"orders\",partition=\"3\"} 17");
        line("streambus_partition_damaged_from{shard=\"1\",topic=\"orders\",partition=\"4\"} 17");
        assert!(text.ends_with("# EOF\n"));
    }
}
