//! `streambus topic`: create, list, describe, alter, trim and delete topics.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;
use streambus::{Admin, Error, NewTopic, TopicChange, TopicDescription, TopicSummary};

use crate::{
    confirm::confirm,
    connect::Brokers,
    failure::Failure,
    output::{Format, Output, table},
};

/// Create, list, describe, alter, trim and delete topics
#[derive(Debug, Args)]
pub(crate) struct Topic {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    List(List),
    Describe(Describe),
    Alter(Alter),
    Trim(Trim),
    Delete(Delete),
}

/// Create a topic
#[derive(Debug, Args)]
struct Create {
    /// 1 to 249 of A-Z, a-z, 0-9, dot, underscore and hyphen
    name: String,

    /// Number of partitions
    #[arg(short, long, default_value = "1", value_name = "N")]
    partitions: u32,

    /// A setting that differs from its default, such as streambus.durability=memory; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_setting)]
    settings: Vec<(String, String)>,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

/// List all topics
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

/// Show a topic with its settings and partitions
#[derive(Debug, Args)]
struct Describe {
    /// The topic
    name: String,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

/// Change a topic's settings, while it is served
#[derive(Debug, Args)]
struct Alter {
    /// The topic
    name: String,

    #[command(flatten)]
    change: Change,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

/// What is to change: at least one of the two.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// A setting and its new value, such as max.message.bytes=65536; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,

    /// A setting that goes back to its default; may be given several times
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
}

/// Delete the oldest records of a partition, for good
#[derive(Debug, Args)]
struct Trim {
    /// The topic
    name: String,

    /// The partition
    #[arg(short, long, value_name = "N")]
    partition: u32,

    /// The first offset that stays, or "end": then no record stays that was readable
    #[arg(long, value_name = "OFFSET|end", value_parser = parse_before)]
    before: Before,

    /// Do not ask; needed where nobody can answer
    #[arg(short, long)]
    yes: bool,

    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

/// What `--before` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Offset(u64),
    End,
}

/// Delete a topic and all its records, for good
#[derive(Debug, Args)]
struct Delete {
    /// The topic
    name: String,

    /// Do not ask; needed where nobody can answer
    #[arg(short, long)]
    yes: bool,

    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    brokers: Brokers,

    #[command(flatten)]
    output: Output,
}

impl Topic {
    pub(crate) fn format(&self) -> Format {
        let output = match &self.verb {
            Verb::Create(create) => create.output,
            Verb::List(list) => list.output,
            Verb::Describe(describe) => describe.output,
            Verb::Alter(alter) => alter.output,
            Verb::Trim(trim) => trim.output,
            Verb::Delete(delete) => delete.output,
        };
        output.format
    }

    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Create(create) => create.run().await,
            Verb::List(list) => list.run().await,
            Verb::Describe(describe) => describe.run().await,
            Verb::Alter(alter) => alter.run().await,
            Verb::Trim(trim) => trim.run().await,
            Verb::Delete(delete) => delete.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let new = NewTopic::new(&self.name).partitions(self.partitions);
        let new = self.settings.iter().fold(new, |new, (key, value)| new.setting(key, value));
        let admin = self.brokers.connect().await?.admin();
        admin.create_topic(new).await?;
        let created = Shown::from(&admin.describe_topic(&self.name).await?);
        let text = || format!("topic {} created: {} partitions, {}", created.name, self.partitions, created.durability);
        self.output.print(text, &created)
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let topics = self.brokers.connect().await?.admin().list_topics().await?;
        let listed: Vec<_> = topics.iter().map(Listed::from).collect();
        let row =
            |topic: &Listed<'_>| vec![topic.name.to_owned(), topic.durability.to_owned(), topic.partitions.to_string()];
        self.output.print(|| table(&["NAME", "DURABILITY", "PARTITIONS"], 1, listed.iter().map(row)), &listed)
    }
}

impl Describe {
    async fn run(self) -> Result<(), Failure> {
        let topic = self.brokers.connect().await?.admin().describe_topic(&self.name).await?;
        let shown = Shown::from(&topic);
        self.output.print(|| shown.text(), &shown)
    }
}

impl Alter {
    async fn run(self) -> Result<(), Failure> {
        let Change { set, unset } = &self.change;
        let change = set.iter().fold(TopicChange::new(), |change, (key, value)| change.set(key, value));
        let change = unset.iter().fold(change, |change, key| change.unset(key));
        let admin = self.brokers.connect().await?.admin();
        admin.alter_topic(&self.name, change).await?;
        let altered = Shown::from(&admin.describe_topic(&self.name).await?);
        self.output.print(|| altered.text(), &altered)
    }
}

impl Trim {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.brokers.connect().await?.admin();
        let topic = admin.describe_topic(&self.name).await?;
        let (name, number) = (&self.name, self.partition);
        let Some(found) = topic.partitions.get(number as usize) else {
            return Err(Error::UnknownPartition {
                topic: name.as_str().into(),
                partition: number,
                partition_count: topic.partitions.len() as u32,
            }
            .into());
        };
        let (log_start, high_watermark) = (found.log_start_offset, found.high_watermark);
        let before = match self.before {
            Before::Offset(offset) if offset > high_watermark => {
                let what = format!("{name}/{number} has offsets {log_start} to {high_watermark}, not {offset}");
                return Err(Failure::usage(format!("{what}; give one of these, or end")));
            }
            Before::Offset(offset) => offset.max(log_start),
            // What was shown is what goes: not what came in while someone thought about it.
            Before::End => high_watermark,
        };
        let what = format!("{} records of {name}/{number}, those before offset {before}", before - log_start);
        let trimmed = |log_start_offset, deleted| Trimmed { topic: name, partition: number, log_start_offset, deleted };
        if self.dry_run {
            return self.output.print(|| format!("would delete {what}"), &trimmed(before, before - log_start));
        }
        if !self.yes {
            confirm(&format!("delete {what}, for good?"), "not confirmed, nothing deleted")?;
        }
        let starts = admin.delete_records(name, &[(number, Some(before))]).await?;
        let start = starts.first().copied().unwrap_or(before);
        self.output.print(|| format!("deleted {what}"), &trimmed(start, start - log_start))
    }
}

impl Delete {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.brokers.connect().await?.admin();
        let topic = Shown::from(&admin.describe_topic(&self.name).await?);
        let what = format!("topic {}: {} partitions, {} records", topic.name, topic.partitions.len(), topic.records());
        if self.dry_run {
            return self.output.print(|| format!("would delete {what}"), &topic);
        }
        if !self.yes {
            confirm(&format!("delete {what}, for good?"), "not confirmed, not deleted")?;
        }
        self.delete(&admin, &topic, &what).await
    }

    async fn delete(&self, admin: &Admin, topic: &Shown, what: &str) -> Result<(), Failure> {
        admin.delete_topic(&self.name).await?;
        self.output.print(|| format!("deleted {what}"), topic)
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it is not KEY=VALUE".to_owned()),
    }
}

fn parse_before(text: &str) -> Result<Before, String> {
    match text {
        "end" => Ok(Before::End),
        text => text.parse().map(Before::Offset).map_err(|_| "it is neither an offset nor end".to_owned()),
    }
}

/// What was deleted of a partition.
#[derive(Serialize)]
struct Trimmed<'a> {
    topic: &'a str,
    partition: u32,
    log_start_offset: u64,
    deleted: u64,
}

/// A topic in one line.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    id: String,
    durability: &'static str,
    partitions: u32,
}

impl<'a> From<&'a TopicSummary> for Listed<'a> {
    fn from(topic: &'a TopicSummary) -> Self {
        Self {
            name: &topic.name,
            id: format!("{:032x}", topic.id.0),
            durability: topic.durability.name(),
            partitions: topic.partition_count,
        }
    }
}

/// A topic in full.
#[derive(Serialize)]
struct Shown {
    name: String,
    id: String,
    durability: &'static str,
    settings: BTreeMap<String, String>,
    partitions: Vec<ShownPartition>,
}

#[derive(Serialize)]
struct ShownPartition {
    partition: u32,
    id: u64,
    error: Option<&'static str>,
    leader_node: u32,
    leader_epoch: u32,
    shard: u16,
    log_start_offset: u64,
    high_watermark: u64,
    log_end_offset: u64,
    /// The first offset that cannot be proven, where the log is damaged.
    refused_from: Option<u64>,
    /// The first offset at which damage in a segment was met, which is refused to readers.
    damaged_from: Option<u64>,
}

impl From<&TopicDescription> for Shown {
    fn from(topic: &TopicDescription) -> Self {
        let partition = |partition: &streambus::PartitionDescription| ShownPartition {
            partition: partition.partition,
            id: partition.id.0,
            error: partition.error.is_error().then(|| partition.error.name()),
            leader_node: partition.leader_node,
            leader_epoch: partition.leader_epoch,
            shard: partition.shard,
            log_start_offset: partition.log_start_offset,
            high_watermark: partition.high_watermark,
            log_end_offset: partition.log_end_offset,
            refused_from: partition.refused_from,
            damaged_from: partition.damaged_from,
        };
        Self {
            name: topic.name.clone(),
            id: format!("{:032x}", topic.id.0),
            durability: topic.durability.name(),
            settings: topic.settings.clone(),
            partitions: topic.partitions.iter().map(partition).collect(),
        }
    }
}

impl Shown {
    fn records(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.high_watermark - partition.log_start_offset).sum()
    }

    fn text(&self) -> String {
        let mut text = format!("name        {}\nid          {}\ndurability  {}\n", self.name, self.id, self.durability);
        for (key, value) in &self.settings {
            text += &format!("setting     {key}={value}\n");
        }
        let head = ["PARTITION", "STATE", "LEADER", "SHARD", "EPOCH", "START", "HIGH WATERMARK", "END"];
        let row = |partition: &ShownPartition| {
            let numbers = [
                u64::from(partition.leader_node),
                partition.shard.into(),
                partition.leader_epoch.into(),
                partition.log_start_offset,
                partition.high_watermark,
                partition.log_end_offset,
            ];
            let state = match (partition.refused_from, partition.damaged_from) {
                (Some(from), _) => format!("damaged from {from} on"),
                (None, Some(from)) => format!("damaged at {from}"),
                (None, None) => partition.error.unwrap_or("ok").to_owned(),
            };
            let texts = [partition.partition.to_string(), state];
            texts.into_iter().chain(numbers.iter().map(u64::to_string)).collect()
        };
        text + "\n" + &table(&head, 6, self.partitions.iter().map(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_cut_at_the_first_equals_sign() {
        assert_eq!(parse_setting("a.b=c=d"), Ok(("a.b".to_owned(), "c=d".to_owned())));
        assert_eq!(parse_setting("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_setting("a").is_err());
        assert!(parse_setting("=b").is_err());
    }

    #[test]
    fn a_place_to_trim_to_is_an_offset_or_the_end() {
        assert_eq!(parse_before("end"), Ok(Before::End));
        assert_eq!(parse_before("17"), Ok(Before::Offset(17)));
        assert!(parse_before("-1").is_err());
        assert!(parse_before("start").is_err());
    }
}
