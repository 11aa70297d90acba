//! `streambus log dump`: what lies in a file or of a partition, item by item.
//!
//! The shard reads and another thread prints, with a short queue between them: whoever reads our output may take their
//! time.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use runtime::Runtime;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use storage::{
    group::{Entry, EntryKind, Group},
    inspect::{Finding, Item, dump_file, dump_partition},
};
use wire::{
    PartitionId,
    record::{Batch, Record},
};

use super::{
    directory::{Directory, lock},
    on_shard,
};
use crate::{
    failure::{Failure, Kind},
    output::{Format, Output, to_json, write_line},
};

/// A batch whose records take more than this decompressed is shown without them.
const RECORDS_BYTES_MAX: usize = 64 << 20;

/// Lines that wait to be printed.
const LINES_AHEAD: usize = 256;

/// Show the groups, entries, batches or records of a file, or the batches or records of a partition
#[derive(Clone, Debug, Args)]
pub(crate) struct Dump {
    /// A file of a log, or the data directory of a stopped broker or that of one log, together with --partition
    path: PathBuf,

    /// Only this partition: its number as inspect shows it, or its index within --topic
    #[arg(short, long, value_name = "N")]
    partition: Option<u64>,

    /// The topic that the partition is counted in
    #[arg(short, long, value_name = "NAME", requires = "partition")]
    topic: Option<String>,

    /// Only records from this offset on
    #[arg(long, default_value_t = 0, value_name = "OFFSET")]
    from: u64,

    /// Only records before this offset
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, value_name = "OFFSET")]
    to: u64,

    /// How closely to look
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    show: Detail,

    #[command(flatten)]
    output: Output,
}

/// How closely to look; each shows what those before it show, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Detail {
    /// Sync groups
    Groups,
    /// And their entries that are no batches
    Entries,
    /// And batches
    #[default]
    Batches,
    /// And their records
    Records,
}

impl Dump {
    pub(super) fn format(&self) -> Format {
        self.output.format
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let (lines, printed) = flume::bounded(LINES_AHEAD);
        let dump = self.clone();
        let reading = std::thread::spawn(move || {
            on_shard(move |rt| {
                let (dump, lines) = (dump.clone(), lines.clone());
                async move { dump.read(&rt, &lines).await }
            })
        });
        for line in printed {
            write_line(&line)?;
        }
        reading.join().expect("a panic ends the process")
    }

    async fn read<R: Runtime>(&self, rt: &R, lines: &flume::Sender<String>) -> Result<(), Failure> {
        let show = async |item: Item<'_>| {
            for line in self.lines(&item) {
                if lines.send_async(line).await.is_err() {
                    return false;
                }
            }
            true
        };
        // A file has no files below it.
        if rt.list_dir(&self.path).await.is_err() {
            let _lock = lock(rt, &self.path).await?;
            return Ok(dump_file(rt, &self.path, show).await?);
        }
        let Some(partition) = self.partition else {
            return Err(Failure::usage(format!(
                "{} is a directory; say which partition with --partition, or name one of its files",
                self.path.display()
            )));
        };
        let dir = Directory::open(rt, &self.path).await?;
        let id = match &self.topic {
            None => PartitionId(partition),
            Some(topic) => self.find(rt, &dir, topic, partition).await?,
        };
        let mut show = show;
        for log in &dir.logs {
            dump_partition(rt, log, id, self.offsets(), &mut show).await?;
        }
        Ok(())
    }

    /// The number of a topic's partition.
    async fn find<R: Runtime>(
        &self,
        rt: &R,
        dir: &Directory<R>,
        topic: &str,
        index: u64,
    ) -> Result<PartitionId, Failure> {
        let metadata = dir.metadata(rt).await;
        let unnamed = || format!("{} has no metadata; leave --topic out", self.path.display());
        let metadata = metadata.ok_or_else(|| Failure::usage(unnamed()))?;
        let snapshot = metadata.read.map_err(|error| Failure::failed(error.to_string()))?;
        let unknown = || Failure::new(Kind::NotFound, format!("there is no partition {index} of topic {topic:?}"));
        let topic = snapshot.topics.get(topic).ok_or_else(unknown)?;
        let index = usize::try_from(index).map_err(|_| unknown())?;
        topic.partitions.get(index).map(|partition| partition.id).ok_or_else(unknown)
    }

    fn offsets(&self) -> Range<u64> {
        self.from..self.to
    }

    fn lines(&self, item: &Item<'_>) -> Vec<String> {
        match item {
            Item::Group { position, group } => vec![self.line(&group_shown(*position, group))],
            Item::Entry { position, entry, bytes } if self.show >= Detail::Entries => {
                let is_asked_for = self.topic.is_some() || self.partition.is_none_or(|id| entry.partition.0 == id);
                if is_asked_for { vec![self.line(&self.entry_shown(*position, entry, bytes))] } else { Vec::new() }
            }
            Item::Batch { file, position, partition, batch } if self.show >= Detail::Batches => {
                self.batch_lines(file, *position, *partition, batch)
            }
            Item::Entry { .. } | Item::Batch { .. } => Vec::new(),
            Item::Finding(finding) => vec![self.line(&finding_shown(finding))],
        }
    }

    fn batch_lines(&self, file: &Path, position: u64, partition: PartitionId, batch: &Batch<'_>) -> Vec<String> {
        let of_partition = self.topic.is_some() || self.partition.is_none_or(|id| partition.0 == id);
        if !of_partition || batch.next_offset() <= self.from || batch.base_offset() >= self.to {
            return Vec::new();
        }
        let mut lines = vec![self.line(&batch_shown(file, position, partition, batch))];
        if self.show == Detail::Records {
            let mut buffer = Vec::new();
            match batch.records_decompressed(RECORDS_BYTES_MAX, &mut buffer) {
                Ok(records) => {
                    let asked_for =
                        records.map_while(Result::ok).filter(|record| self.offsets().contains(&record.offset));
                    lines.extend(asked_for.map(|record| self.line(&record_shown(partition, &record))));
                }
                // Its CRC holds, so its producer made it so.
                Err(error) => lines.push(self.line(&Fields(vec![("unreadable", json!(error.to_string()))]))),
            }
        }
        lines
    }

    /// Fields as JSON, or for people: names and values.
    fn line(&self, fields: &Fields) -> String {
        match self.output.format {
            Format::Json => to_json(fields),
            Format::Text => fields.text(),
        }
    }

    fn entry_shown(&self, position: u64, entry: &Entry, bytes: &[u8]) -> Fields {
        let Entry { kind, partition, leader_epoch, base_offset, next_offset } = entry;
        let place = ("position", json!(position));
        match kind {
            EntryKind::Edit => Fields(vec![
                ("edit", json!(base_offset)),
                place,
                ("bytes", json!(bytes.len())),
                ("says", json!(self.edit(bytes))),
            ]),
            EntryKind::Marker => Fields(vec![("entry", json!("marker")), place]),
            kind => Fields(vec![
                ("entry", json!(format!("{kind:?}").to_lowercase())),
                place,
                ("partition", json!(partition.0)),
                ("leader_epoch", json!(leader_epoch)),
                ("base_offset", json!(base_offset)),
                ("next_offset", json!(next_offset)),
            ]),
        }
    }

    /// What an edit of the manifest or a command of the metadata says; a snapshot is told by its length alone.
    fn edit(&self, bytes: &[u8]) -> Option<String> {
        let is_metadata = self.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("meta-"));
        if is_metadata {
            return broker::meta::Command::decode(bytes).map(|command| format!("{command:?}")).ok();
        }
        storage::manifest::Edit::decode(bytes).map(|edit| format!("{edit:?}")).ok()
    }
}

/// Names and values, in the order in which they are told.
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn text(&self) -> String {
        let word = |(name, value): &(&str, Value)| match value {
            Value::Null => None,
            Value::String(text) => Some(format!("{name} {text}")),
            value => Some(format!("{name} {value}")),
        };
        self.0.iter().filter_map(word).collect::<Vec<_>>().join(", ")
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn finding_shown(finding: &Finding) -> Fields {
    Fields(vec![
        ("damage", json!(finding.problem)),
        ("file", json!(finding.file.display().to_string())),
        ("position", json!(finding.position)),
    ])
}

fn group_shown(position: u64, group: &Group<'_>) -> Fields {
    let header = &group.header;
    let tails: Vec<_> = group.tails().map(|tail| format!("{}:{}", tail.partition, tail.next_offset)).collect();
    Fields(vec![
        ("group", json!(header.stamp.lsn)),
        ("position", json!(position)),
        ("previous", json!(header.stamp.previous_lsn)),
        ("bytes", json!(header.length)),
        ("entries", json!(header.entry_count)),
        ("tails", json!(tails)),
    ])
}

fn batch_shown(file: &Path, position: u64, partition: PartitionId, batch: &Batch<'_>) -> Fields {
    let mut shown = vec![
        ("batch", json!(batch.base_offset())),
        ("next_offset", json!(batch.next_offset())),
        ("partition", json!(partition.0)),
        ("records", json!(batch.record_count())),
        ("bytes", json!(batch.bytes().len())),
        ("leader_epoch", json!(batch.leader_epoch())),
        ("codec", json!(format!("{:?}", batch.codec()).to_lowercase())),
        ("timestamp_max", json!(batch.max_timestamp_ms())),
        ("crc", json!(format!("{:08x}", batch.crc()))),
        ("file", json!(file.file_name().unwrap_or_default().to_string_lossy())),
        ("position", json!(position)),
    ];
    let producer = batch.producer();
    if producer.is_idempotent() {
        shown.push(("producer", json!(producer.id)));
        shown.push(("producer_epoch", json!(producer.epoch)));
        shown.push(("sequence", json!(producer.base_sequence)));
    }
    Fields(shown)
}

fn record_shown(partition: PartitionId, record: &Record<'_>) -> Fields {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| bytes.escape_ascii().to_string());
    let mut shown = vec![
        ("record", json!(record.offset)),
        ("partition", json!(partition.0)),
        ("timestamp", json!(record.timestamp_ms)),
        ("key", json!(text(record.key))),
        ("value", json!(text(record.value))),
    ];
    if !record.headers.is_empty() {
        let headers = record.headers.map(|header| json!([text(Some(header.key)), text(header.value)]));
        shown.push(("headers", headers.collect()));
    }
    Fields(shown)
}
