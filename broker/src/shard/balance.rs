//! What is to be done so that partitions lie evenly over the logs in use, and spare logs become empty and go. Pure: the
//! metadata in, one step out; taken again and again, the steps come to an end.
//!
//! Spare logs are drained into the logs that have the fewest partitions. Only then are partitions moved between logs in use,
//! from the fullest to the emptiest, until no two differ by more than one: no other way moves fewer.

use std::collections::{BTreeMap, BTreeSet};

use wire::PartitionId;

use crate::meta::{LogNumber, LogState, State, TopicPartition};

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Move a partition.
    Move {
        /// Which, and where it is.
        from: TopicPartition,
        /// The log it is to live in.
        to: LogNumber,
    },
    /// Give up a log that is spare and empty.
    Retire(LogNumber),
}

/// What cannot be done now.
#[derive(Default)]
pub(crate) struct PassedOver {
    /// Partitions that could not be moved.
    pub(crate) partitions: BTreeSet<PartitionId>,
    /// Logs that could not be given up.
    pub(crate) logs: BTreeSet<LogNumber>,
}

impl PassedOver {
    /// Whether that is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.logs.is_empty()
    }
}

/// The next step; none if all is even and no log is spare, or what is left is in `passed_over`.
pub(crate) fn next_step(state: &State, passed_over: &PassedOver) -> Option<Step> {
    let logs = Loads::of(state);
    let may_go = |log| !passed_over.logs.contains(&log) && !state.holds_anything(log);
    let drained = logs.spare.iter().find(|(log, partitions)| partitions.is_empty() && may_go(**log));
    if let Some((&log, _)) = drained {
        return Some(Step::Retire(log));
    }
    let may_move = |from: &TopicPartition, to| {
        !passed_over.partitions.contains(&from.id)
            && !state.tombstones.contains(&TopicPartition { id: from.id, log: to })
    };
    let (&emptiest, fewest) = logs.in_use.iter().min_by_key(|(_, partitions)| partitions.len())?;
    if let Some(&from) = logs.spare.values().flatten().find(|from| may_move(from, emptiest)) {
        return Some(Step::Move { from, to: emptiest });
    }
    let most = logs.in_use.values().rev().max_by_key(|partitions| partitions.len())?;
    if most.len() < fewest.len() + 2 {
        return None;
    }
    let surplus = surplus_of_topics(state, most, fewest);
    let movable = most.iter().filter(|from| may_move(from, emptiest));
    let from = *movable.max_by_key(|from| (surplus.get(&from.id), std::cmp::Reverse(from.id)))?;
    Some(Step::Move { from, to: emptiest })
}

/// How many partitions are yet to be moved.
pub(crate) fn moves_left(state: &State) -> u64 {
    let mut loads = vec![0usize; state.logs.len()];
    state.topics.values().flat_map(|topic| &topic.partitions).for_each(|it| loads[it.log as usize] += 1);
    let of = |wanted| state.logs.iter().zip(&loads).filter(move |(log, _)| log.state == wanted).map(|(_, load)| *load);
    let spare: usize = of(LogState::Spare).sum();
    let mut loads: Vec<usize> = of(LogState::InUse).collect();
    if loads.is_empty() {
        return 0;
    }
    loads.sort_unstable_by(|left, right| right.cmp(left));
    let total = spare + loads.iter().sum::<usize>();
    let goal = |place| total / loads.len() + usize::from(place < total % loads.len());
    let surplus: usize = loads.iter().enumerate().map(|(place, load)| load.saturating_sub(goal(place))).sum();
    (spare + surplus) as u64
}

/// The partitions of each live log.
struct Loads {
    in_use: BTreeMap<LogNumber, Vec<TopicPartition>>,
    spare: BTreeMap<LogNumber, Vec<TopicPartition>>,
}

impl Loads {
    fn of(state: &State) -> Self {
        let with = |wanted| {
            let logs = (0..).zip(&state.logs).filter(move |(_, log)| log.state == wanted);
            logs.map(|(number, _)| (number, Vec::new())).collect::<BTreeMap<_, _>>()
        };
        let mut loads = Self { in_use: with(LogState::InUse), spare: with(LogState::Spare) };
        for &partition in state.topics.values().flat_map(|topic| &topic.partitions) {
            let partitions = loads.in_use.get_mut(&partition.log).or_else(|| loads.spare.get_mut(&partition.log));
            partitions.expect("partitions live in live logs").push(partition);
        }
        loads
    }
}

/// Of each partition in the fuller log: how many more of its topic's are there than in the other. Moving one of the most
/// unevenly spread topic spreads its load too.
fn surplus_of_topics(state: &State, most: &[TopicPartition], fewest: &[TopicPartition]) -> BTreeMap<PartitionId, i64> {
    let (most, fewest): (BTreeSet<_>, BTreeSet<_>) = (most.iter().collect(), fewest.iter().collect());
    let of_topic = |topic: &crate::meta::Topic| {
        let count = |log: &BTreeSet<&TopicPartition>| topic.partitions.iter().filter(|it| log.contains(it)).count();
        count(&most) as i64 - count(&fewest) as i64
    };
    let topics = state.topics.values().map(|topic| (of_topic(topic), topic));
    topics.flat_map(|(surplus, topic)| topic.partitions.iter().map(move |it| (it.id, surplus))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use wire::TopicId;

    use super::*;
    use crate::meta::{Command, LogEntry, Topic, TopicSettings};

    /// Logs in these states, and topics whose partitions live in these logs.
    fn state(logs: &[LogState], topics: &[&[LogNumber]]) -> State {
        let logs = (1..).zip(logs).map(|(id, &state)| LogEntry { id, state }).collect();
        let mut state = State { logs, next_partition: 1, ..State::default() };
        for (number, placed) in topics.iter().enumerate() {
            let ids = state.next_partition..;
            let partitions: Vec<_> =
                ids.zip(*placed).map(|(id, &log)| TopicPartition { id: PartitionId(id), log }).collect();
            state.next_partition += partitions.len() as u64;
            let topic = Topic { id: TopicId(number as u128), settings: TopicSettings::default(), partitions };
            state.topics.insert(format!("t{number}").parse().expect("a name"), Arc::new(topic));
        }
        state
    }

    /// Takes steps to the end; the moves and the logs given up, in order.
    fn run(state: &mut State) -> (Vec<(u64, LogNumber)>, Vec<LogNumber>) {
        let (mut moves, mut retired) = (Vec::new(), Vec::new());
        while let Some(step) = next_step(state, &PassedOver::default()) {
            let left = moves_left(state);
            match step {
                Step::Move { from: TopicPartition { id: partition, log }, to } => {
                    let erased = Command::ConfirmErased { copies: vec![TopicPartition { id: partition, log }] };
                    for command in
                        [Command::PrepareMove { partition, to }, Command::MovePartition { partition, to }, erased]
                    {
                        state.apply(&command).expect("steps can be taken");
                    }
                    moves.push((partition.0, to));
                    assert_eq!(moves_left(state), left - 1, "each move is one of those that were left");
                }
                Step::Retire(log) => {
                    state.apply(&Command::RetireLog { log }).expect("it is empty");
                    retired.push(log);
                }
            }
        }
        assert_eq!(moves_left(state), 0);
        (moves, retired)
    }

    fn check(logs: &[LogState], topics: &[&[LogNumber]], moves: &[(u64, LogNumber)], retired: &[LogNumber]) {
        let found = run(&mut state(logs, topics));
        assert_eq!((&found.0[..], &found.1[..]), (moves, retired), "{logs:?} {topics:?}");
    }

    use LogState::{InUse, Retired, Spare};

    #[test]
    fn more_logs_take_over_as_few_partitions_as_make_it_even() {
        check(&[InUse, InUse], &[&[0, 0, 0, 0]], &[(1, 1), (2, 1)], &[]);
        check(&[InUse, InUse, InUse], &[&[0, 0, 0, 0, 0]], &[(1, 1), (2, 2), (3, 1)], &[]);
        check(&[InUse, InUse], &[&[0, 1, 0]], &[], &[]);
        check(&[InUse, Retired, InUse], &[&[0, 0, 0]], &[(1, 2)], &[]);
        check(&[InUse, InUse], &[], &[], &[]);
    }

    #[test]
    fn the_topic_that_is_spread_most_unevenly_gives_first() {
        check(&[InUse, InUse], &[&[0], &[0, 0], &[1]], &[(2, 1)], &[]);
        check(&[InUse, InUse], &[&[0, 1], &[0, 0, 0]], &[(3, 1)], &[]);
    }

    #[test]
    fn spare_logs_are_drained_and_given_up() {
        check(&[InUse, Spare, Spare], &[&[0, 1, 2, 1]], &[(2, 0), (4, 0), (3, 0)], &[1, 2]);
        check(&[InUse, InUse, Spare], &[&[0, 0, 0, 2, 2]], &[(4, 1), (5, 1)], &[2]);
        check(&[InUse, Spare], &[&[0]], &[], &[1]);
    }

    #[test]
    fn what_cannot_be_moved_now_is_passed_over() {
        let mut state = state(&[InUse, Spare], &[&[1, 1]]);
        let without = |ids: &[u64]| PassedOver {
            partitions: ids.iter().copied().map(PartitionId).collect(),
            ..PassedOver::default()
        };
        let step = next_step(&state, &without(&[1]));
        assert_eq!(step, Some(Step::Move { from: TopicPartition { id: PartitionId(2), log: 1 }, to: 0 }));
        assert_eq!(next_step(&state, &without(&[1, 2])), None);
        // The rest of an earlier copy has to go first.
        state.apply(&Command::PrepareMove { partition: PartitionId(1), to: 0 }).expect("it can be prepared");
        let step = next_step(&state, &PassedOver::default());
        assert_eq!(step, Some(Step::Move { from: TopicPartition { id: PartitionId(2), log: 1 }, to: 0 }));
    }

    #[test]
    fn a_log_that_cannot_be_given_up_holds_up_nothing() {
        let state = state(&[InUse, InUse, Spare], &[&[0, 0]]);
        let step = next_step(&state, &PassedOver { logs: [2].into(), ..PassedOver::default() });
        assert_eq!(step, Some(Step::Move { from: TopicPartition { id: PartitionId(1), log: 0 }, to: 1 }));
    }

    proptest! {
        #[test]
        fn every_shape_comes_to_an_end_even_and_drained(
            in_use in 1usize..5,
            spare in 0usize..4,
            topics in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..12), 0..5),
        ) {
            let logs: Vec<_> = [vec![InUse; in_use], vec![Spare; spare]].concat();
            let topics: Vec<Vec<LogNumber>> =
                topics.iter().map(|topic| topic.iter().map(|log| log % logs.len() as u32).collect()).collect();
            let topics: Vec<&[LogNumber]> = topics.iter().map(Vec::as_slice).collect();
            let mut state = state(&logs, &topics);
            let (left, before) = (moves_left(&state), topics.concat());
            let (moves, retired) = run(&mut state);
            prop_assert_eq!(moves.len() as u64, left);
            prop_assert_eq!(retired.len(), spare);
            let mut loads = vec![0usize; in_use];
            state.topics.values().flat_map(|topic| &topic.partitions).for_each(|it| loads[it.log as usize] += 1);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
            // No partition moves that could have stayed: what a log in use has more than its part, and what is spare.
            let (each, rest) = (before.len() / in_use, before.len() % in_use);
            let mut counts: Vec<_> = (0..in_use as u32).map(|log| before.iter().filter(|it| **it == log).count()).collect();
            counts.sort_unstable_by(|left, right| right.cmp(left));
            let stay: usize =
                counts.iter().enumerate().map(|(place, &count)| count.min(each + usize::from(place < rest))).sum();
            prop_assert_eq!(moves.len(), before.len() - stay);
        }
    }
}
