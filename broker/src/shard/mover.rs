//! Brings the node into shape after a start with more cores or fewer: moves partitions, one at a time, and gives up logs
//! that are drained. Runs on shard 0, in the background, and ends when `balance` finds nothing more to do.
//!
//! ```text
//!   prepare (MetaLog) ─> copy, pause, copy the rest ─> move (MetaLog) ─> every shard applies it ─> resume ─> erase the source
//!        └ from here on a crash erases the copy            └ from here on a crash erases the source
//! ```
//!
//! The hard idea: who reads or writes must never see the partition go back. So appends pause at the source before its end
//! is copied, and begin at the target only when every shard has heard that it is there.

use std::{
    cell::Cell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use futures_lite::future;
use runtime::{Instant, Lock, Notify, Runtime};
use wire::PartitionId;

use super::{
    Shard,
    balance::{PassedOver, Step, next_step},
    copying::{CopyError, Copying, ask},
    mesh::{Message, send_surely},
    metadata::{erase_everywhere, finish_deletions, meta_log, newest, propose, publish},
    start::log_dir,
};
use crate::{
    meta::{Command, LogNumber, LogState, ProposeError, State, TopicPartition},
    metrics::Metric,
};

/// Pause between two moves: MetaLog has other work.
const STEP_EVERY: Duration = Duration::from_millis(5);

/// When what could not be done is tried again, at first; each time it still cannot, twice as long passes.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// It is tried at least so often.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(320);

/// What shard 0 knows of the move under way, and every shard of when none may be.
#[derive(Default)]
pub(crate) struct Moving {
    partition: Cell<Option<PartitionId>>,
    ended: Notify,
    /// Taken for as long as logs and metadata are not of one mind.
    step: Lock,
    held_until: Cell<Instant>,
}

impl Moving {
    /// Lets nothing move until then: the copy under way, if there is one, is given up.
    pub(crate) fn hold(&self, until: Instant) {
        self.held_until.set(self.held_until.get().max(until));
    }

    /// How long nothing may move yet.
    pub(crate) fn held_for(&self, now: Instant) -> Option<Duration> {
        let left = self.held_until.get().since(now);
        (left > Duration::ZERO).then_some(left)
    }

    /// Waits until the step under way has ended.
    pub(crate) async fn at_rest(&self) {
        let _step = self.step.lock().await;
    }

    /// Waits until none of these partitions is being moved: both of its copies can be erased then.
    pub(crate) async fn none_of(&self, partitions: &BTreeSet<PartitionId>) {
        let moves_one = || self.partition.get().is_some_and(|partition| partitions.contains(&partition));
        self.ended.until(|| (!moves_one()).then_some(())).await;
    }

    fn set(&self, partition: Option<PartitionId>) {
        self.partition.set(partition);
        self.ended.wake();
    }
}

/// Why a partition was not moved.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Finishes what an earlier process left, then takes steps until there are none.
pub(crate) async fn run<R: Runtime>(shard: Rc<Shard<R>>, dir: PathBuf) {
    {
        let _step = shard.moving.step.lock().await;
        finish_deletions(&shard).await;
        remove_retired(&shard, &dir).await;
    }
    let (mut passed_over, mut retry_after) = (PassedOver::default(), RETRY_AFTER);
    while !shard.is_stopping() {
        if let Some(left) = shard.moving.held_for(shard.rt.now()) {
            future::or(shard.rt.sleep(left), shard.stopping()).await;
            continue;
        }
        let step = shard.moving.step.lock().await;
        let snapshot = meta_log(&shard).snapshot();
        match next_step(&snapshot, &passed_over) {
            Some(Step::Move { from, to }) => {
                shard.moving.set(Some(from.id));
                let moved = move_partition(&shard, &snapshot, from, to).await;
                shard.moving.set(None);
                match moved {
                    Ok(()) => retry_after = RETRY_AFTER,
                    Err(error) => {
                        tracing::warn!("partition {} stays in log {} for now: {error}", from.id, from.log);
                        passed_over.partitions.insert(from.id);
                    }
                }
                drop(step);
                shard.rt.sleep(STEP_EVERY).await;
            }
            Some(Step::Retire(log)) => {
                if !give_up(&shard, &dir, log).await {
                    passed_over.logs.insert(log);
                }
            }
            None if passed_over.is_empty() && !has_spare(&snapshot) => return,
            // Something is in the way: damage, a deletion under way, a partition that metadata does not know.
            None => {
                passed_over = PassedOver::default();
                drop(step);
                future::or(shard.rt.sleep(retry_after), shard.stopping()).await;
                retry_after = (retry_after * 2).min(RETRY_AFTER_MAX);
                finish_deletions(&shard).await;
            }
        }
    }
}

fn has_spare(state: &State) -> bool {
    state.logs.iter().any(|log| log.state == LogState::Spare)
}

async fn move_partition<R: Runtime>(
    shard: &Rc<Shard<R>>,
    state: &State,
    from: TopicPartition,
    to: LogNumber,
) -> Result<(), MoveError> {
    let partition = from.id;
    let placement = newest(shard);
    let (from_shard, to_shard) = (placement.shard_of_log(from.log), placement.shard_of_log(to));
    let settings = state.settings_of(partition).ok_or(CopyError::Gone)?;
    let origin = ask(shard, from_shard, |reply| Message::Origin { partition, reply }).await??;
    propose(shard, Command::PrepareMove { partition, to }).await?;
    let copying = Copying { partition, settings, from: from_shard, to, origin };
    let copied = ask(shard, to_shard, |reply| Message::Receive { copying, reply }).await.flatten();
    let moved = match copied {
        Ok(()) => propose(shard, Command::MovePartition { partition, to }).await.map(drop).map_err(MoveError::from),
        Err(error) => Err(error.into()),
    };
    let left_behind = match &moved {
        Ok(()) => {
            publish(shard).await;
            shard.metrics.count(Metric::PartitionsMoved);
            from.log
        }
        // Whether it happened is for the next process to find out: this one ends.
        Err(MoveError::Propose(error)) if !error.is_certain() => return moved,
        Err(_) => to,
    };
    for shard_with_pause in BTreeSet::from([from_shard, to_shard]) {
        let inbox = &shard.mesh()[usize::from(shard_with_pause)];
        send_surely(&shard.rt, inbox, Message::ResumeAppends { partition }).await;
    }
    erase_everywhere(shard, vec![TopicPartition { id: partition, log: left_behind }]).await?;
    moved
}

/// Gives up a spare log that holds nothing; false if it has to stay for now.
async fn give_up<R: Runtime>(shard: &Rc<Shard<R>>, dir: &Path, log: LogNumber) -> bool {
    let there = newest(shard).shard_of_log(log);
    let Ok(true) = ask(shard, there, |reply| Message::IsDrained { log, reply }).await else { return false };
    if propose(shard, Command::RetireLog { log }).await.is_err() {
        return false;
    }
    publish(shard).await;
    if ask(shard, there, |reply| Message::CloseLog { log, reply }).await.is_ok() {
        remove(shard, dir, log).await;
    }
    true
}

/// Removes the directories of logs that were given up, as far as an earlier process did not.
async fn remove_retired<R: Runtime>(shard: &Rc<Shard<R>>, dir: &Path) {
    let snapshot = meta_log(shard).snapshot();
    for (log, _) in (0..).zip(&snapshot.logs).filter(|(_, log)| !log.is_live()) {
        remove(shard, dir, log).await;
    }
}

async fn remove<R: Runtime>(shard: &Rc<Shard<R>>, dir: &Path, log: LogNumber) {
    let dir = log_dir(dir, log);
    match storage::remove_log(&shard.rt, &dir).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!("{} is given up, but holds files that are not ours; they stay", dir.display()),
        Err(error) => tracing::warn!("{} is given up and could not be removed: {error}", dir.display()),
    }
}
