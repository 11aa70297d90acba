//! The topic under load: made for the run, or found and held against what the flags say.

use std::time::{Duration, Instant};

use streambus::{Client, Durability, Error, ErrorCode, NewTopic, OffsetAt, PartitionId};
use tokio::time::sleep;

use crate::{failure::Failure, scenario::Scenario};

/// How long to wait before a broker that is away is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// A topic that was ready when the run began.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// Brokers, host:port, separated by commas.
    pub(crate) brokers: String,
    pub(crate) durability: Durability,
    /// By number.
    pub(crate) partitions: Vec<Partition>,
    /// Whether to delete it at the end.
    is_ours: bool,
}

/// One of its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) id: PartitionId,
    /// The shard that leads it.
    pub(crate) shard: u16,
    /// Where this run's records begin.
    pub(crate) start: u64,
}

impl Topic {
    /// Finds or makes the topic of a scenario.
    pub(crate) async fn prepare(scenario: &Scenario, brokers: &str) -> Result<Self, Failure> {
        let client = Client::connect(brokers).await?;
        let admin = client.admin();
        let name = scenario.topic.clone().unwrap_or_else(|| format!("loadgen-{:08x}", fastrand::u32(..)));
        let level = scenario.durability.unwrap_or(Durability::Durable);
        if !scenario.consume_only {
            let new = NewTopic::new(&name).partitions(scenario.partitions_new()).durability(level);
            match admin.create_topic(new).await {
                Ok(_) | Err(Error::Refused { code: ErrorCode::TopicExists, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let found = admin.describe_topic(&name).await?;
        let start = if scenario.consume_only { OffsetAt::Earliest } else { OffsetAt::Latest };
        let starts = admin.list_offsets(&name, start).await?;
        let partitions = found.partitions.iter().zip(starts);
        let partitions = partitions.map(|(found, start)| Partition { id: found.id, shard: found.shard, start });
        let topic = Self {
            name,
            brokers: brokers.to_owned(),
            durability: found.durability,
            partitions: partitions.collect(),
            is_ours: scenario.topic.is_none(),
        };
        topic.check(scenario)?;
        Ok(topic)
    }

    pub(crate) fn partition_count(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// The offset behind the last record that can be read, by partition; asked again for so long while the broker is away.
    pub(crate) async fn ends(&self, patience: Duration) -> Result<Vec<u64>, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            match self.ask_ends().await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => sleep(PAUSE).await,
                answer => return Ok(answer?),
            }
        }
    }

    async fn ask_ends(&self) -> Result<Vec<u64>, Error> {
        Client::connect(&self.brokers).await?.admin().list_offsets(&self.name, OffsetAt::Latest).await
    }

    /// Deletes the topic if it was made for the run.
    pub(crate) async fn clean_up(&self) -> Result<(), Failure> {
        if self.is_ours {
            Client::connect(&self.brokers).await?.admin().delete_topic(&self.name).await?;
        }
        Ok(())
    }

    /// A topic that was there before must be what the flags ask for.
    fn check(&self, scenario: &Scenario) -> Result<(), Failure> {
        scenario.check_writers(self.partition_count())?;
        let (name, found) = (&self.name, self.durability);
        match scenario.durability {
            Some(wanted) if wanted != found => {
                return Err(Failure::refused(format!(
                    "topic {name} is {}, --durability says {}; leave the flag out or name another topic",
                    found.name(),
                    wanted.name()
                )));
            }
            _ => {}
        }
        match scenario.partitions {
            Some(wanted) if wanted != self.partition_count() => Err(Failure::refused(format!(
                "topic {name} has {} partitions, --partitions says {wanted}; leave the flag out or name another topic",
                self.partition_count()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
impl Topic {
    /// A topic of one partition.
    pub(crate) fn of_test(durability: Durability) -> Self {
        let partitions = vec![Partition { id: PartitionId(1), shard: 0, start: 0 }];
        Self { name: "t".to_owned(), brokers: String::new(), durability, partitions, is_ours: false }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_topic_that_is_not_what_the_flags_say_is_refused() {
        let topic = Topic::of_test(Durability::Memory);
        let check = |flags: &[&str]| topic.check(&Scenario::parse_from([&["loadgen"], flags].concat()));
        assert!(check(&[]).is_ok());
        assert!(check(&["--durability", "memory", "--partitions", "1"]).is_ok());
        assert!(check(&["--durability", "durable"]).unwrap_err().to_string().contains("--durability"));
        assert!(check(&["--partitions", "4"]).unwrap_err().to_string().contains("has 1 partitions"));
    }
}
