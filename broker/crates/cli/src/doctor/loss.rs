//! Partitions that damage stopped: listed, and their loss accepted, through the broker that serves them.

use serde::Serialize;
use streambus::{Admin, PartitionDescription};

use crate::{
    confirm::confirm,
    connect::Brokers,
    failure::{Failure, Kind},
    output::{Output, table},
};

/// A partition, as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    topic: String,
    partition: u32,
}

/// A partition that damage stopped, or had stopped.
#[derive(Debug, Serialize)]
pub(super) struct Refused {
    topic: String,
    partition: u32,
    /// The first offset that cannot be proven.
    refused_from: u64,
    /// Where the partition goes on, once its loss was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    goes_on_at: Option<u64>,
}

impl From<broker::refused::Refused> for Refused {
    fn from(refused: broker::refused::Refused) -> Self {
        let broker::refused::Refused { topic, partition, from } = refused;
        Self { topic, partition, refused_from: from, goes_on_at: None }
    }
}

pub(crate) fn parse_place(text: &str) -> Result<Place, String> {
    let (topic, partition) = text.rsplit_once('/').ok_or("it is not TOPIC/PARTITION")?;
    let partition = partition.parse().map_err(|_| "its partition is not a number".to_owned())?;
    Ok(Place { topic: topic.to_owned(), partition })
}

/// Lists the partitions that a running broker refuses; fails if there are any.
pub(super) async fn list(brokers: Brokers, output: Output) -> Result<(), Failure> {
    let admin = brokers.connect().await?.admin();
    let mut refused = Vec::new();
    for topic in admin.list_topics().await? {
        for partition in admin.describe_topic(&topic.name).await?.partitions {
            let Some(from) = partition.refused_from else { continue };
            let (topic, partition) = (topic.name.clone(), partition.partition);
            refused.push(Refused { topic, partition, refused_from: from, goes_on_at: None });
        }
    }
    output.print(|| text(&refused), &refused)?;
    verdict(&refused)
}

/// Whether nothing is refused.
pub(super) fn verdict(refused: &[Refused]) -> Result<(), Failure> {
    let Some(first) = refused.first() else { return Ok(()) };
    let text = format!(
        "{} partitions are damaged; give up what is lost with `streambus doctor --accept-loss {}/{}` while the broker runs",
        refused.len(),
        first.topic,
        first.partition
    );
    Err(Failure::new(Kind::Failed, text))
}

/// What was found, for people.
pub(super) fn text(refused: &[Refused]) -> String {
    if refused.is_empty() {
        return "no partition is refused".to_owned();
    }
    let row = |refused: &Refused| {
        vec![refused.topic.clone(), refused.partition.to_string(), refused.refused_from.to_string()]
    };
    table(&["TOPIC", "PARTITION", "DAMAGED FROM"], 2, refused.iter().map(row))
}

/// Has a broker give up what damage took from these partitions.
pub(super) async fn accept(
    brokers: Brokers,
    places: Vec<Place>,
    yes: bool,
    dry_run: bool,
    output: Output,
) -> Result<(), Failure> {
    let admin = brokers.connect().await?.admin();
    let mut found = Vec::new();
    for place in &places {
        found.push(look_up(&admin, place).await?);
    }
    let mut losses: Vec<Refused> = Vec::new();
    for (Place { topic, partition }, described) in places.iter().zip(&found) {
        let from = described.refused_from.ok_or_else(|| {
            Failure::new(Kind::Refused, format!("{topic}/{partition} is not damaged; there is nothing to accept"))
        })?;
        losses.push(Refused { topic: topic.clone(), partition: *partition, refused_from: from, goes_on_at: None });
    }
    let what: Vec<_> = losses
        .iter()
        .map(|loss| format!("{}/{} from offset {} on", loss.topic, loss.partition, loss.refused_from))
        .collect();
    let what = what.join(", ");
    if dry_run {
        return output.print(|| format!("would give up {what}"), &losses);
    }
    if !yes {
        confirm(&format!("give up {what}, for good?"), "not confirmed, nothing given up")?;
    }
    for (loss, described) in losses.iter_mut().zip(&found) {
        loss.goes_on_at = admin.accept_loss(described).await?.map(|lost| lost.end);
    }
    let line = |loss: &Refused| match loss.goes_on_at {
        Some(end) => {
            let Refused { topic, partition, refused_from, .. } = loss;
            format!("{topic}/{partition}: offsets {refused_from} to {end} are given up, it goes on at {end}\n")
        }
        None => format!("{}/{}: somebody was faster\n", loss.topic, loss.partition),
    };
    output.print(|| losses.iter().map(line).collect(), &losses)
}

async fn look_up(admin: &Admin, place: &Place) -> Result<PartitionDescription, Failure> {
    let Place { topic, partition } = place;
    let described = admin.describe_topic(topic).await?.partitions;
    let found = described.into_iter().find(|described| described.partition == *partition);
    found.ok_or_else(|| Failure::new(Kind::NotFound, format!("topic {topic} has no partition {partition}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_topic_and_a_number() {
        assert_eq!(parse_place("a.b/3"), Ok(Place { topic: "a.b".to_owned(), partition: 3 }));
        for wrong in ["orders", "orders/", "orders/x", "orders/-1"] {
            assert!(parse_place(wrong).is_err(), "{wrong}");
        }
    }
}
