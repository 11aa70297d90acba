//! Metadata on its way: proposed to MetaLog by shard 0, published to every shard, applied by each.
//!
//! The hard idea: a request that changes metadata is answered when every shard has applied a snapshot that holds the
//! change. Snapshots may overtake each other on the way; each has a number, and an older one is ignored. What a change
//! deletes goes from the disks afterwards, and until every log has confirmed that, MetaLog keeps a tombstone.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    rc::Rc,
    sync::Arc,
};

use runtime::{Runtime, sabotage::die_at};
use storage::{Log, PartitionSettings, journal::WriteError};
use wire::{PartitionId, TopicId};

use super::{
    Failure, REFUSED_NAMED_MAX, Shard,
    mesh::{Message, Reply, call, send_surely},
    placement::Placement,
};
use crate::{
    handler::error::TopicError,
    meta::{Command, LogNumber, MetaLog, Outcome, ProposeError, SettingError, Snapshot, TopicName, TopicPartition},
    partition::Partition,
    refused::Refused,
    request::{NewTopic, Topic, TopicChange},
};

/// Creates a topic, on shard 0.
pub(crate) fn create_topic<R: Runtime>(shard: &Rc<Shard<R>>, new: NewTopic, reply: Reply<Result<Topic, TopicError>>) {
    let first = Rc::clone(shard);
    shard.start(async move {
        let _ = reply.try_send(create(&first, new).await);
    });
}

/// Gives a topic other settings, on shard 0.
pub(crate) fn alter_topic<R: Runtime>(
    shard: &Rc<Shard<R>>,
    change: TopicChange,
    reply: Reply<Result<TopicId, TopicError>>,
) {
    let first = Rc::clone(shard);
    shard.start(async move {
        let _ = reply.try_send(alter(&first, change).await);
    });
}

/// Deletes a topic, on shard 0.
pub(crate) fn delete_topic<R: Runtime>(shard: &Rc<Shard<R>>, name: String, reply: Reply<Result<TopicId, TopicError>>) {
    let first = Rc::clone(shard);
    shard.start(async move {
        let _ = reply.try_send(delete(&first, &name).await);
    });
}

/// Reserves a block of producer ids, on shard 0.
pub(crate) fn reserve_producer_ids<R: Runtime>(shard: &Rc<Shard<R>>, reply: Reply<Range<i64>>) {
    let first = Rc::clone(shard);
    shard.start(async move {
        if let Ok(Outcome::ProducerIds(block)) = propose(&first, Command::ReserveProducerIds).await {
            let _ = reply.try_send(block);
        }
    });
}

/// Erases what was deleted before this start, or is the rest of a move, and is still on a disk.
pub(crate) async fn finish_deletions<R: Runtime>(shard: &Rc<Shard<R>>) {
    let left: Vec<_> = meta_log(shard).snapshot().tombstones.iter().copied().collect();
    if !left.is_empty() {
        // What fails now is left for the next start.
        let _ = erase_everywhere(shard, left).await;
    }
}

/// Serves by this metadata from now on.
pub(crate) fn apply<R: Runtime>(shard: &Shard<R>, snapshot: Arc<Snapshot>) {
    if snapshot.version <= shard.placement().version() {
        return;
    }
    let placement = shard.place_by(Placement::new(snapshot, shard.shard_count()));
    let mut partitions = shard.partitions_mut();
    partitions.retain(|&id, partition| {
        let stays = placement.log_of(id) == Some(partition.log());
        if !stays {
            partition.retire();
        }
        stays
    });
    for (TopicPartition { id, log }, settings) in placement.led_by(shard.index) {
        let lead = || Partition::lead(log_of(shard, log).adopt(id, settings), log, shard.node().epoch);
        partitions.entry(id).and_modify(|partition| partition.configure(settings)).or_insert_with(lead);
    }
    shard.pauses.resume_unless(|id| partitions.contains_key(&id));
}

/// Names the partitions that damage stopped: nobody should have to ask for that.
pub(crate) fn report_refused<R: Runtime>(shard: &Shard<R>) {
    for Refused { topic, partition, from } in shard.refused() {
        tracing::error!(
            "partition {topic}/{partition} is damaged from offset {from} on: it is served below that and takes nothing; \
             give up what is lost with `streambus doctor --accept-loss {topic}/{partition}`"
        );
    }
    let unnamed = shard.partitions_refused().saturating_sub(REFUSED_NAMED_MAX);
    if unnamed > 0 {
        tracing::error!("{unnamed} more partitions are damaged; `streambus doctor --brokers` lists them");
    }
}

/// Removes copies of partitions from this shard's logs; false if one failed.
pub(crate) async fn erase<R: Runtime>(shard: &Shard<R>, copies: Vec<TopicPartition>) -> bool {
    for TopicPartition { id, log } in copies {
        // What it was does not matter any more.
        let copy = log_of(shard, log).adopt(id, PartitionSettings::default());
        if copy.drop_partition().await.is_err() {
            return false;
        }
    }
    true
}

async fn create<R: Runtime>(shard: &Rc<Shard<R>>, new: NewTopic) -> Result<Topic, TopicError> {
    let name: TopicName = new.name.parse()?;
    let settings = by_name(new.settings)?;
    let id = TopicId(u128::from(shard.rt.random_u64()) << 64 | u128::from(shard.rt.random_u64()));
    propose(shard, Command::CreateTopic { id, name: name.clone(), partitions: new.partition_count, settings }).await?;
    die_at("topic created");
    publish(shard).await;
    let created = newest(shard).topic(&name).filter(|topic| topic.id == id);
    created.ok_or(TopicError::Deleted { name })
}

async fn alter<R: Runtime>(shard: &Rc<Shard<R>>, change: TopicChange) -> Result<TopicId, TopicError> {
    // What cannot be a name is no topic's.
    let name: TopicName = change.name.parse().map_err(|_| TopicError::Unknown)?;
    let (set, unset) = (by_name(change.set)?, change.unset);
    let Outcome::Topic(id) = propose(shard, Command::AlterTopic { name, set, unset }).await? else {
        unreachable!("of an alteration")
    };
    publish(shard).await;
    Ok(id)
}

async fn delete<R: Runtime>(shard: &Rc<Shard<R>>, name: &str) -> Result<TopicId, TopicError> {
    // What cannot be a name is no topic's.
    let name: TopicName = name.parse().map_err(|_| TopicError::Unknown)?;
    let Some(topic) = newest(shard).topic(&name) else { return Err(TopicError::Unknown) };
    let Outcome::Topic(id) = propose(shard, Command::DeleteTopic { name }).await? else {
        unreachable!("of a deletion")
    };
    die_at("topic deleted");
    let deleted: BTreeSet<PartitionId> = topic.partitions.iter().map(|placed| placed.partition).collect();
    publish(shard).await;
    shard.moving.none_of(&deleted).await;
    // Others are erased by those who deleted or moved them.
    let snapshot = meta_log(shard).snapshot();
    let tombstones = snapshot.tombstones.iter().copied().filter(|copy| deleted.contains(&copy.id)).collect();
    erase_everywhere(shard, tombstones).await?;
    Ok(id)
}

/// Settings by name, each once.
fn by_name(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>, SettingError> {
    let mut settings = BTreeMap::new();
    for (name, value) in given {
        if settings.insert(name.clone(), value).is_some() {
            return Err(SettingError::Twice { name });
        }
    }
    Ok(settings)
}

/// Has every shard apply the newest metadata.
pub(super) async fn publish<R: Runtime>(shard: &Rc<Shard<R>>) {
    let snapshot = meta_log(shard).snapshot();
    let mut answers = Vec::new();
    for inbox in shard.mesh().iter().skip(1) {
        let (reply, answer) = call();
        send_surely(&shard.rt, inbox, Message::Apply { snapshot: Arc::clone(&snapshot), reply }).await;
        answers.push(answer);
    }
    apply(shard, snapshot);
    for answer in answers {
        answer.receive().await;
    }
}

/// Has the shards erase these copies, then gives up the tombstones of those that did.
pub(super) async fn erase_everywhere<R: Runtime>(
    shard: &Rc<Shard<R>>,
    tombstones: Vec<TopicPartition>,
) -> Result<(), ProposeError> {
    let placement = newest(shard);
    let mut by_shard: BTreeMap<u16, Vec<TopicPartition>> = BTreeMap::new();
    for copy in tombstones {
        by_shard.entry(placement.shard_of_log(copy.log)).or_default().push(copy);
    }
    let own = by_shard.remove(&0).unwrap_or_default();
    let mut answers = Vec::new();
    for (other, copies) in by_shard {
        let (reply, answer) = call();
        let inbox = &shard.mesh()[usize::from(other)];
        send_surely(&shard.rt, inbox, Message::Erase { copies: copies.clone(), reply }).await;
        answers.push((copies, answer));
    }
    let mut erased = Vec::new();
    if erase(shard, own.clone()).await {
        erased.extend(own);
    }
    for (copies, answer) in answers {
        if answer.receive().await.is_some() {
            erased.extend(copies);
        }
    }
    die_at("partitions erased");
    propose(shard, Command::ConfirmErased { copies: erased }).await.map(drop)
}

/// Proposes a command; a write that fails ends the process, as that of any log does.
pub(super) async fn propose<R: Runtime>(shard: &Shard<R>, command: Command) -> Result<Outcome, ProposeError> {
    let outcome = meta_log(shard).propose(command).await;
    if let Err(ProposeError::Write(failed @ WriteError::Failed { .. })) = &outcome {
        shard.fail(Failure::Metadata(failed.clone()));
    }
    outcome
}

/// Where everything is as of the last command.
pub(super) fn newest<R: Runtime>(shard: &Shard<R>) -> Placement {
    Placement::new(meta_log(shard).snapshot(), shard.shard_count())
}

/// A log that metadata says this shard runs.
fn log_of<R: Runtime>(shard: &Shard<R>, number: LogNumber) -> Log<R> {
    shard.logs.get(number).expect("placement and shard agree on who runs which log")
}

pub(super) fn meta_log<R: Runtime>(shard: &Shard<R>) -> &MetaLog {
    shard.meta_log.as_ref().expect("only shard 0 is asked for changes")
}
