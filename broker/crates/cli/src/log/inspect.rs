//! `streambus log inspect`: what a data directory holds, at a glance.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use runtime::Runtime;
use serde::Serialize;
use storage::{
    inspect::{PartitionSurvey, SegmentFate, SegmentFile, Survey, survey},
    segment::Extent,
};
use wire::PartitionId;

use super::{directory::Directory, on_shard};
use crate::{
    failure::Failure,
    output::{Format, Output, table},
};

/// Show the files, segments, topics and partitions of a stopped broker
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The data directory of a stopped broker, or that of one log
    dir: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// What is printed.
#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Cluster>,
    logs: Vec<Log>,
}

#[derive(Serialize)]
struct Cluster {
    cluster_id: Option<String>,
    node_id: Option<u32>,
    leader_epoch: Option<i32>,
    topics: Vec<Topic>,
    /// Partitions of deleted topics that are not gone yet.
    tombstones: Vec<u64>,
    /// Why the metadata cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct Topic {
    name: String,
    durability: String,
    partitions: usize,
}

#[derive(Serialize)]
struct Log {
    dir: String,
    /// Why the log cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(flatten)]
    content: Option<Content>,
}

#[derive(Serialize)]
struct Content {
    log_id: String,
    stopped_cleanly: bool,
    flushed_lsn: u64,
    files: Vec<File>,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct File {
    file: String,
    is: String,
    bytes: u64,
    holds: String,
}

#[derive(Serialize)]
struct Partition {
    partition: u64,
    name: Option<String>,
    log_start: u64,
    log_end: u64,
    flushed_end: u64,
    segments: usize,
    segment_bytes: u64,
    wal_batches: usize,
    refused_from: Option<u64>,
    lost_offsets: u64,
}

impl Inspect {
    pub(super) fn format(&self) -> Format {
        self.output.format
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.dir.clone();
        let shown = on_shard(move |rt| {
            let dir = dir.clone();
            async move { look(&rt, Directory::open(&rt, &dir).await?).await }
        })?;
        self.output.print(|| shown.text(), &shown)
    }
}

async fn look<R: Runtime>(rt: &R, dir: Directory<R>) -> Result<Shown, Failure> {
    let metadata = dir.metadata(rt).await;
    let names = metadata.as_ref().map(|metadata| metadata.names()).unwrap_or_default();
    let cluster = metadata.map(|metadata| match metadata.read {
        Ok(snapshot) => Cluster {
            cluster_id: Some(snapshot.cluster_id.to_string()),
            node_id: snapshot.node_id,
            leader_epoch: Some(snapshot.leader_epoch),
            topics: snapshot
                .topics
                .iter()
                .map(|(name, topic)| Topic {
                    name: name.to_string(),
                    durability: topic.settings.durability().to_string(),
                    partitions: topic.partitions.len(),
                })
                .collect(),
            tombstones: snapshot.tombstones.iter().map(|copy| copy.id.0).collect(),
            problem: None,
        },
        Err(error) => Cluster {
            cluster_id: None,
            node_id: None,
            leader_epoch: None,
            topics: Vec::new(),
            tombstones: Vec::new(),
            problem: Some(error.to_string()),
        },
    });
    let mut logs = Vec::new();
    for log in &dir.logs {
        let (content, problem) = match survey(rt, log).await {
            Ok(survey) => (Some(Content::new(&survey, &names)), None),
            Err(error) if error.is_missing() && dir.logs.len() == 1 => return Err(error.into()),
            // The others can be looked at all the same.
            Err(error) => (None, Some(error.to_string())),
        };
        logs.push(Log { dir: log.display().to_string(), problem, content });
    }
    Ok(Shown { cluster, logs })
}

impl Content {
    fn new(survey: &Survey, names: &BTreeMap<PartitionId, String>) -> Self {
        let partition = |(&id, known): (&PartitionId, &PartitionSurvey)| Partition {
            partition: id.0,
            name: names.get(&id).cloned(),
            log_start: known.log_start,
            log_end: known.log_end,
            flushed_end: known.flushed_end,
            segments: known.segments,
            segment_bytes: known.segment_bytes,
            wal_batches: known.wal_batches,
            refused_from: known.refused.map(|refusal| refusal.from),
            lost_offsets: known.lost.iter().map(|lost| lost.end - lost.start).sum(),
        };
        Self {
            log_id: format!("{:032x}", survey.log_id),
            stopped_cleanly: survey.is_clean,
            flushed_lsn: survey.flushed_lsn,
            files: files(survey),
            partitions: survey.partitions.iter().map(partition).collect(),
        }
    }
}

fn files(survey: &Survey) -> Vec<File> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let manifest = survey.manifest.iter().map(|(path, bytes)| File {
        file: name(path),
        is: "manifest".to_owned(),
        bytes: *bytes,
        holds: String::new(),
    });
    let wal = survey.wal.iter().map(|file| File {
        file: name(&file.path),
        is: if file.live_groups > 0 { "WAL, needed" } else { "WAL, free" }.to_owned(),
        bytes: file.bytes,
        holds: match file.lsns {
            Some((first, last)) => {
                format!("{} groups, LSN {first} to {last}, {} needed", file.groups, file.live_groups)
            }
            None => "nothing".to_owned(),
        },
    });
    let segments = survey.segments.iter().map(|segment| File {
        file: storage::segment::file_name(segment.id),
        is: format!("segment, {}", fate(segment)),
        bytes: segment.bytes.unwrap_or(0),
        holds: match (segment.level, segment.extent) {
            (Some(level), Some(Extent::Own { partition, base_offset, next_offset })) => {
                format!("level {level}, partition {partition}, offsets {base_offset} to {next_offset}")
            }
            (Some(level), Some(Extent::Shared { first, last })) => {
                format!("level {level}, partitions {first} to {last}")
            }
            _ => String::new(),
        },
    });
    let strangers = survey.strangers.iter().map(|path| File {
        file: name(path),
        is: "unknown".to_owned(),
        bytes: 0,
        holds: String::new(),
    });
    manifest.chain(wal).chain(segments).chain(strangers).collect()
}

fn fate(segment: &SegmentFile) -> &'static str {
    match (segment.fate, segment.bytes) {
        (SegmentFate::Live, Some(_)) => "live",
        (SegmentFate::Live, None) => "missing",
        (SegmentFate::Obsolete, _) => "obsolete",
        (SegmentFate::Unknown, _) => "unknown",
    }
}

impl Shown {
    fn text(&self) -> String {
        let mut text = self.cluster.as_ref().map(Cluster::text).unwrap_or_default();
        for log in &self.logs {
            text += &format!("{}\n", log.dir);
            if let Some(problem) = &log.problem {
                text += &format!("cannot be read: {problem}\n");
            }
            if let Some(content) = &log.content {
                text += &content.text();
            }
        }
        text
    }
}

impl Cluster {
    fn text(&self) -> String {
        if let Some(problem) = &self.problem {
            return format!("the metadata cannot be read: {problem}\n\n");
        }
        let or_none = |number: Option<String>| number.unwrap_or_else(|| "none".to_owned());
        let head = format!(
            "cluster {}, node {}, leader epoch {}, {} partitions of deleted topics left\n\n",
            or_none(self.cluster_id.clone()),
            or_none(self.node_id.map(|id| id.to_string())),
            or_none(self.leader_epoch.map(|epoch| epoch.to_string())),
            self.tombstones.len()
        );
        let rows = self
            .topics
            .iter()
            .map(|topic| vec![topic.name.clone(), topic.durability.clone(), topic.partitions.to_string()]);
        head + &table(&["TOPIC", "DURABILITY", "PARTITIONS"], 1, rows) + "\n"
    }
}

impl Content {
    fn text(&self) -> String {
        let stopped = if self.stopped_cleanly { "stopped cleanly" } else { "not stopped cleanly" };
        let head = format!("log {}, {stopped}, flushed up to LSN {}\n\n", self.log_id, self.flushed_lsn);
        let files = self
            .files
            .iter()
            .map(|file| vec![file.file.clone(), file.is.clone(), file.holds.clone(), file.bytes.to_string()]);
        let files = table(&["FILE", "IS", "HOLDS", "BYTES"], 1, files);
        let columns = ["PARTITION", "NAME", "STATE", "START", "END", "FLUSHED", "SEGMENTS", "BYTES", "WAL BATCHES"];
        let partitions = table(&columns, 6, self.partitions.iter().map(Partition::row));
        format!("{head}{files}\n{partitions}\n")
    }
}

impl Partition {
    fn row(&self) -> Vec<String> {
        let state = match (self.refused_from, self.lost_offsets) {
            (Some(from), _) => format!("refused from {from}"),
            (None, 0) => "ok".to_owned(),
            (None, lost) => format!("ok, {lost} offsets lost"),
        };
        let numbers = [self.log_start, self.log_end, self.flushed_end, self.segments as u64, self.segment_bytes];
        let mut row = vec![self.partition.to_string(), self.name.clone().unwrap_or_else(|| "-".to_owned()), state];
        row.extend(numbers.iter().map(u64::to_string));
        row.push(self.wal_batches.to_string());
        row
    }
}
