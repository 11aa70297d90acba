//! Partitions that damage touches: listed, and their loss accepted, through the broker that serves them.

use serde::Serialize;
use streambus::{Admin, Damage, PartitionDescription};

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

/// A partition that damage touches.
#[derive(Debug, Serialize)]
pub(super) struct Touched {
    topic: String,
    partition: u32,
    /// The first offset that cannot be proven, if the partition takes and gives nothing from there on.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_from: Option<u64>,
    /// The first offset at which damage in a segment was met, which is refused to readers.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged_from: Option<u64>,
}

/// What a partition loses.
#[derive(Debug, Serialize)]
struct Loss {
    topic: String,
    partition: u32,
    lost: Vec<Lost>,
    /// Damaged segments that may hold something of it.
    damaged_segments: Vec<u64>,
}

/// Offsets, without the last one.
#[derive(Debug, Serialize)]
struct Lost {
    from: u64,
    to: u64,
}

impl From<broker::refused::Refused> for Touched {
    fn from(refused: broker::refused::Refused) -> Self {
        let broker::refused::Refused { topic, partition, from } = refused;
        Self { topic, partition, refused_from: Some(from), damaged_from: None }
    }
}

impl Loss {
    fn new(place: &Place, damage: &Damage) -> Self {
        Self {
            topic: place.topic.clone(),
            partition: place.partition,
            lost: damage.lost.iter().map(|lost| Lost { from: lost.start, to: lost.end }).collect(),
            damaged_segments: damage.segments.iter().copied().collect(),
        }
    }

    /// What is given up, for people.
    fn text(&self) -> String {
        let range = |lost: &Lost| match lost.to - lost.from {
            1 => format!("offset {}", lost.from),
            _ => format!("offsets {} to {}", lost.from, lost.to - 1),
        };
        let lost: Vec<_> = self.lost.iter().map(range).collect();
        let place = format!("{}/{}", self.topic, self.partition);
        match (lost.is_empty(), self.damaged_segments.is_empty()) {
            (false, _) => format!("{} of {place}", lost.join(", ")),
            (true, false) => format!("no record of {place}, but damaged files that might have held some"),
            (true, true) => format!("nothing of {place}, somebody was faster"),
        }
    }
}

pub(crate) fn parse_place(text: &str) -> Result<Place, String> {
    let (topic, partition) = text.rsplit_once('/').ok_or("it is not TOPIC/PARTITION")?;
    let partition = partition.parse().map_err(|_| "its partition is not a number".to_owned())?;
    Ok(Place { topic: topic.to_owned(), partition })
}

/// Lists the partitions that damage touches as far as a running broker met it; fails if there are any.
pub(super) async fn list(brokers: Brokers, output: Output) -> Result<(), Failure> {
    let admin = brokers.connect().await?.admin();
    let mut touched = Vec::new();
    for topic in admin.list_topics().await? {
        for described in admin.describe_topic(&topic.name).await?.partitions {
            let PartitionDescription { partition, refused_from, damaged_from, .. } = described;
            if refused_from.is_some() || damaged_from.is_some() {
                touched.push(Touched { topic: topic.name.clone(), partition, refused_from, damaged_from });
            }
        }
    }
    output.print(|| text(&touched), &touched)?;
    verdict(&touched)
}

/// Whether nothing is damaged.
pub(super) fn verdict(touched: &[Touched]) -> Result<(), Failure> {
    let Some(first) = touched.first() else { return Ok(()) };
    let text = format!(
        "{} partitions are damaged; give up what is lost with `streambus doctor --accept-loss {}/{}` while the broker runs",
        touched.len(),
        first.topic,
        first.partition
    );
    Err(Failure::new(Kind::Failed, text))
}

/// What was found, for people.
pub(super) fn text(touched: &[Touched]) -> String {
    if touched.is_empty() {
        return "no damage is known".to_owned();
    }
    let row = |touched: &Touched| {
        let state = if touched.refused_from.is_some() { "takes nothing" } else { "serves the rest" };
        let from = touched.refused_from.or(touched.damaged_from).unwrap_or_default();
        vec![touched.topic.clone(), state.to_owned(), touched.partition.to_string(), from.to_string()]
    };
    table(&["TOPIC", "STATE", "PARTITION", "DAMAGED FROM"], 2, touched.iter().map(row))
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
    let mut losses = Vec::new();
    for (place, described) in places.iter().zip(&found) {
        let damage = admin.damage(described).await?;
        if damage.is_none() {
            let Place { topic, partition } = place;
            let text = format!("{topic}/{partition} is not damaged; there is nothing to accept");
            return Err(Failure::new(Kind::Refused, text));
        }
        losses.push(Loss::new(place, &damage));
    }
    let what = losses.iter().map(Loss::text).collect::<Vec<_>>().join("; ");
    if dry_run {
        return output.print(|| format!("would give up {what}"), &losses);
    }
    if !yes {
        confirm(&format!("give up {what}, for good?"), "not confirmed, nothing given up")?;
    }
    for (loss, (place, described)) in losses.iter_mut().zip(places.iter().zip(&found)) {
        *loss = Loss::new(place, &admin.accept_loss(described).await?);
    }
    let line = |loss: &Loss| format!("gave up {}\n", loss.text());
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
