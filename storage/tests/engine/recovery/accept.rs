//! The loss of what damage took is accepted: the partition goes on behind it, readers are told, and it stays so.

use runtime::sim::Crash;
use storage::{LeaveError, Log, PartitionId, manifest::Evidence};

use super::{
    damage::{check_refused, write},
    story::{Story, append_each, append_together, memory, roomy, values},
};
use crate::{
    replica,
    support::{append_acked, durable, read_all},
};

/// Batches of three partitions in three groups; the second group of two is damaged.
fn damaged(seed: u64) -> Story {
    let story = Story::new(seed);
    story.live(write);
    story.group_of(2, 1).wipe(&story.disk());
    story
}

#[test]
fn a_partition_goes_on_behind_what_it_lost() {
    let story = damaged(1);
    story.live(|_, log| async move {
        check_refused(&log, 2, 1).await;
        let lost = durable(&log, 2).accept_loss().await.unwrap();
        assert_eq!(lost, Some(1..3));
        assert_eq!(durable(&log, 2).accept_loss().await.unwrap(), None, "once is enough");
        assert_eq!(append_acked(&log, &durable(&log, 2), &[29]).await, 3);
        assert_eq!(read_all(&durable(&log, 2), 0).await, (vec![(0, 20), (3, 29)], vec![1..3]));
        assert_eq!(read_all(&durable(&log, 2), 2).await, (vec![(3, 29)], vec![1..3]));
    });
    for life in 0..3 {
        story.live(move |_, log| async move {
            assert_eq!(durable(&log, 2).refused_from(), None, "life {life}");
            assert_eq!(read_all(&durable(&log, 2), 0).await, (vec![(0, 20), (3, 29)], vec![1..3]));
            assert_eq!(values(&log, 3).await, [30, 31, 32]);
            if life == 1 {
                log.close().await.unwrap();
            }
        });
    }
}

/// To another log: what cannot be proven is not copied.
#[test]
fn what_is_damaged_does_not_leave_before_its_loss_is_accepted_and_takes_that_along() {
    let story = damaged(5);
    story.live(|rt, log| async move {
        let source = durable(&log, 2);
        let refused = source.leave().await.unwrap_err();
        assert!(matches!(refused, LeaveError::Refused { from: 1 }), "{refused}");
        source.accept_loss().await.unwrap();
        append_acked(&log, &source, &[29]).await;
        let to = replica::open(&rt, "to").await;
        let target = replica::begun(&source, &to).await;
        replica::finish(&source, &to, &target).await;
        assert_eq!(target.offsets(), source.offsets());
        assert_eq!(read_all(&target, 0).await, (vec![(0, 20), (3, 29)], vec![1..3]));
    });
}

/// Whatever a crash leaves of it, the partition is refused as before or serves behind the loss, and gives no offset twice.
#[test]
fn accepting_cut_short_is_done_or_undone() {
    let (mut undone, mut done) = (0, 0);
    for ahead in 1.. {
        let story = damaged(2);
        let (disk, options) = (story.disk(), roomy());
        let ended = story.simulation.block_on(story.node, move |rt: runtime::sim::SimRuntime| async move {
            let log = Log::open(rt, crate::support::DIR.as_ref(), options).await.unwrap();
            disk.crash_at_step(disk.steps() + ahead, Crash::PowerCut);
            durable(&log, 2).accept_loss().await.unwrap();
        });
        story.simulation.crash(story.node, Crash::PowerCut);
        let accepted = story.live(|_, log| async move {
            let accepted = durable(&log, 2).refused_from().is_none();
            match accepted {
                true => assert_eq!(append_acked(&log, &durable(&log, 2), &[29]).await, 3),
                false => check_refused(&log, 2, 1).await,
            }
            assert_eq!(values(&log, 3).await, [30, 31, 32]);
            accepted
        });
        if accepted {
            done += 1
        } else {
            undone += 1
        }
        if ended.is_ok() {
            assert!(accepted, "what was accepted stays accepted");
            break;
        }
    }
    assert!(undone > 0 && done > 0, "{undone} undone, {done} done");
}

/// The damage held the last batch of the partition: only the list of the group behind it says how far it reached.
#[test]
fn offsets_that_only_the_damage_held_are_not_given_out_again() {
    for stops in [false, true] {
        let story = Story::new(3);
        story.live(|_, log| async move {
            append_each(&log, 1, 0..2).await;
            append_acked(&log, &durable(&log, 2), &[20, 21, 22, 23]).await;
            append_each(&log, 1, 2..4).await;
        });
        story.group_of(2, 0).wipe(&story.disk());
        story.live(move |_, log| async move {
            check_refused(&log, 2, 0).await;
            // What it holds of the partition is flushed, which is nothing, and the WAL that named it is gone.
            if stops {
                log.close().await.unwrap();
            }
        });
        story.live(|_, log| async move {
            check_refused(&log, 2, 0).await;
            assert_eq!(durable(&log, 2).accept_loss().await.unwrap(), Some(0..4));
            assert_eq!(append_acked(&log, &durable(&log, 2), &[24]).await, 4);
            assert_eq!(read_all(&durable(&log, 2), 0).await, (vec![(4, 24)], vec![0..4]));
        });
    }
}

/// Nothing tells how far the partitions reached: they go on far behind.
#[test]
fn damage_without_a_trace_costs_many_offsets_and_no_offset_twice() {
    let story = Story::new(4);
    story.live(|rt, log| async move {
        append_together(&log, &[(4, 40)]).await;
        write(rt, log).await;
    });
    story.group_of(2, 1).wipe(&story.disk());
    story.group_of(3, 0).wipe(&story.disk());
    story.live(|_, log| async move {
        let lost = durable(&log, 4).accept_loss().await.unwrap().unwrap();
        assert_eq!(lost.start, 1);
        assert!(lost.end > 1 << 40, "{lost:?}");
        assert_eq!(append_acked(&log, &durable(&log, 4), &[41]).await, lost.end);
        assert_eq!(values(&log, 4).await, [40, 41]);
        // The others wait for their own acceptance.
        check_refused(&log, 1, 2).await;
    });
    let known = story.manifest().partitions;
    assert_eq!(known[&PartitionId(1)].refused.map(|refusal| refusal.evidence), Some(Evidence::Nothing));
    assert_eq!(known[&PartitionId(4)].refused, None);
}

/// On a `memory` partition offsets run ahead of what is synced, and so does the loss.
#[test]
fn a_memory_partition_goes_on_behind_any_reservation() {
    let story = Story::new(5);
    story.live(|_, log| async move {
        for value in 0..3 {
            append_acked(&log, &memory(&log, 1), &[value]).await;
            append_each(&log, 2, value..value + 1).await;
        }
    });
    story.group_of(1, 1).wipe(&story.disk());
    story.live(|_, log| async move {
        let lost = memory(&log, 1).accept_loss().await.unwrap().unwrap();
        assert_eq!(lost.start, 1);
        assert!(lost.end >= 1 << 20, "{lost:?}");
        assert_eq!(append_acked(&log, &memory(&log, 1), &[9]).await, lost.end);
    });
}
