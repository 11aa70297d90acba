//! The journal under the metadata, and the one task that writes it.
//!
//! The one hard idea: a group of commands is applied to a copy before it is written, so that each is judged by the state
//! that the one before it leaves. The copy takes the state's place once the group is durable; if it never is, nobody
//! ever sees it.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use runtime::Runtime;
use storage::{
    codec::DecodeError,
    journal::{self, Journal, Recovered, WriteError},
};

use super::{
    command::Command,
    snapshot::Snapshot,
    state::{ClusterId, Outcome, Refusal, State},
};

/// Its files are called `meta-…`.
const PREFIX: &str = "meta";

/// Commands that wait for their turn; further ones wait to queue. As many share a group at most.
const QUEUE_COMMANDS: usize = 64;

/// The metadata log. A clone is another handle of the same shard.
#[derive(Clone)]
pub struct MetaLog {
    queue: flume::Sender<Request>,
    newest: Rc<RefCell<Arc<Snapshot>>>,
}

struct Request {
    command: Command,
    answer: flume::Sender<Result<Outcome, ProposeError>>,
}

/// Why the metadata could not be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its journal could not be read.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// A snapshot or a command is intact, and this program cannot read it: it is from a later version, or a bug wrote
    /// it.
    #[error("metadata in {dir}, {what}: {source}")]
    Undecodable {
        /// The directory.
        dir: PathBuf,
        /// The snapshot, or the number of the command.
        what: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// A command is intact, and the state refuses it: a bug wrote it.
    #[error("metadata in {dir}, {what}: {source}")]
    Refused {
        /// The directory.
        dir: PathBuf,
        /// The number of the command.
        what: String,
        /// What is wrong.
        source: Refusal,
    },
}

/// Why a command was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// It does not fit the metadata.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be made durable; after [`WriteError::Failed`] the process must end.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl ProposeError {
    /// Whether nothing was changed for certain.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Write(WriteError::Failed { .. }))
    }
}

impl MetaLog {
    /// Reads the metadata in `dir`. Writes nothing: the first command does, and brings a new cluster into being where
    /// there was none. The metadata must not be acted upon before a command was accepted: until then a power cut may
    /// take back what a killed process wrote last.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open<R: Runtime>(runtime: &R, dir: &Path) -> Result<Self, OpenError> {
        let (journal, recovered) = Journal::open(runtime.clone(), dir.to_path_buf(), PREFIX).await?;
        let state = match recovered {
            Some(recovered) => replay(recovered, dir, journal.edits())?,
            None => State::new(ClusterId(journal.log_id())),
        };
        let newest = Rc::new(RefCell::new(Arc::new(Snapshot { version: journal.edits(), state })));
        let (queue, requests) = flume::bounded(QUEUE_COMMANDS);
        let writer = Writer { journal, newest: Rc::clone(&newest) };
        drop(runtime.spawn(writer.run(requests)));
        Ok(Self { queue, newest })
    }

    /// The metadata with every command that was answered.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.borrow())
    }

    /// Has a command carried out: durable, and part of [`Self::snapshot`], before this returns. It may happen even if
    /// this future is dropped.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        let (answer, answered) = flume::bounded(1);
        self.queue.send_async(Request { command, answer }).await.expect("the writing task lives as long as a handle");
        answered.recv_async().await.expect("the writing task answers every command")
    }
}

/// Replays what a journal of `edits` commands in all held.
fn replay(recovered: Recovered, dir: &Path, edits: u64) -> Result<State, OpenError> {
    let undecodable = |what: String, source| OpenError::Undecodable { dir: dir.to_path_buf(), what, source };
    let mut state = State::decode(&recovered.snapshot).map_err(|source| undecodable("snapshot".to_string(), source))?;
    let first = edits - recovered.edits.len() as u64 + 1;
    for (number, bytes) in (first..).zip(&recovered.edits) {
        let what = format!("command {number}");
        let command = Command::decode(bytes).map_err(|source| undecodable(what.clone(), source))?;
        let dir = dir.to_path_buf();
        state.apply(&command).map_err(|source| OpenError::Refused { dir, what, source })?;
    }
    Ok(state)
}

/// Writes groups of commands one after the other until the last handle is gone.
struct Writer<R: Runtime> {
    journal: Journal<R>,
    newest: Rc<RefCell<Arc<Snapshot>>>,
}

impl<R: Runtime> Writer<R> {
    async fn run(mut self, requests: flume::Receiver<Request>) {
        while let Ok(first) = requests.recv_async().await {
            let group = std::iter::once(first).chain(requests.try_iter()).take(QUEUE_COMMANDS);
            let (commands, answers): (Vec<_>, Vec<_>) =
                group.map(|Request { command, answer }| (command, answer)).unzip();
            let results = match self.commit(&commands).await {
                Ok(results) => results.into_iter().map(|result| result.map_err(ProposeError::Refused)).collect(),
                Err(error) => vec![Err(ProposeError::Write(error)); answers.len()],
            };
            for (answer, result) in answers.iter().zip(results) {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(result);
            }
        }
    }

    /// Carries out a group of commands: all that are not refused become durable, then visible, together.
    async fn commit(&mut self, commands: &[Command]) -> Result<Vec<Result<Outcome, Refusal>>, WriteError> {
        let before = Arc::clone(&self.newest.borrow());
        let mut state = before.state.clone();
        let results: Vec<_> = commands.iter().map(|command| state.apply(command)).collect();
        let accepted = commands.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let accepted: Vec<_> = accepted.map(|(command, _)| command.encode()).collect();
        if !accepted.is_empty() {
            self.journal.append(&accepted, || before.state.encode()).await?;
            self.newest.replace(Arc::new(Snapshot { version: self.journal.edits(), state }));
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use runtime::sim::{
        Crash, NodeId, RunError, SimRuntime, Simulation,
        disk::{Effect, Fault, OpKind, Reached},
        seeds,
    };
    use wire::PartitionId;

    use super::{
        super::state::tests::{create, name},
        *,
    };

    const DIR: &str = "meta";

    /// What was asked for and what was answered, which no crash takes.
    #[derive(Default)]
    struct Ledger {
        cluster_id: Option<ClusterId>,
        commands: Vec<Command>,
        /// How many commands there were behind each group.
        groups: Vec<usize>,
        acked: usize,
    }

    impl Ledger {
        /// Checks what was recovered: all that was acknowledged, and of every group behind that all or nothing.
        fn settle(&mut self, recovered: &State) {
            let Some(cluster_id) = self.cluster_id else { return };
            if self.acked == 0 && recovered.logs.is_empty() {
                return; // It has yet to begin.
            }
            let mut state = State::new(cluster_id);
            let mut is_there = None;
            for (number, command) in self.commands.iter().enumerate() {
                let _refused = state.apply(command);
                if self.groups.contains(&(number + 1)) && number + 1 >= self.acked && state == *recovered {
                    is_there = Some(number + 1);
                }
            }
            let Some(end) = is_there else { panic!("{} commands were acknowledged, {recovered:?}", self.acked) };
            self.commands.truncate(end);
            self.groups.retain(|group| *group <= end);
        }

        fn ask(&mut self, commands: &[Command]) -> usize {
            self.commands.extend(commands.iter().cloned());
            self.groups.push(self.commands.len());
            self.commands.len()
        }
    }

    fn command(seed: u64) -> Command {
        let topic = format!("topic-{}", seed / 8 % 5);
        match seed % 8 {
            0 => Command::StartNode { node_id: 1 },
            1 => Command::ReserveProducerIds,
            2..=4 => create(&topic, 1 + (seed >> 32) as u32 % 4),
            5 | 6 => Command::DeleteTopic { name: name(&topic) },
            _ => Command::ConfirmDropped { partitions: (0..seed >> 32 & 15).map(PartitionId).collect() },
        }
    }

    /// Opens the metadata, checks it against the ledger, and proposes `groups` groups of up to three commands at once.
    async fn work(runtime: SimRuntime, ledger: Rc<RefCell<Ledger>>, groups: usize) {
        let meta = MetaLog::open(&runtime, Path::new(DIR)).await.expect("no damage");
        ledger.borrow_mut().settle(&meta.snapshot());
        if meta.snapshot().logs.is_empty() {
            let first = Command::RegisterLogs { ids: vec![1, 2] };
            let cluster_id = Some(meta.snapshot().cluster_id);
            *ledger.borrow_mut() = Ledger { cluster_id, ..Ledger::default() };
            let asked = ledger.borrow_mut().ask(std::slice::from_ref(&first));
            meta.propose(first).await.expect("no fault");
            ledger.borrow_mut().acked = asked;
        }
        for _ in 0..groups {
            let commands: Vec<_> = (0..1 + runtime.random_u64() % 3).map(|_| command(runtime.random_u64())).collect();
            let (asked, before) = (ledger.borrow_mut().ask(&commands), meta.snapshot().version);
            // Queued before the writing task runs again, so they share a group.
            let proposed: Vec<_> = commands
                .into_iter()
                .map(|command| {
                    let (answer, answered) = flume::bounded(1);
                    meta.queue.try_send(Request { command, answer }).map_err(drop).expect("the queue has room");
                    answered
                })
                .collect();
            for answered in proposed {
                let result = answered.recv_async().await.expect("every command is answered");
                assert!(matches!(result, Ok(_) | Err(ProposeError::Refused(_))), "{result:?}");
            }
            // A group that was refused as a whole is not written, and makes nothing durable that was not.
            if meta.snapshot().version > before {
                ledger.borrow_mut().acked = asked;
            }
        }
    }

    fn run(simulation: &Simulation, node: NodeId, ledger: &Rc<RefCell<Ledger>>, groups: usize) -> Result<(), RunError> {
        let ledger = Rc::clone(ledger);
        simulation.block_on(node, move |runtime| work(runtime, ledger, groups))
    }

    fn steps(seed: u64) -> u64 {
        let simulation = Simulation::new(seed);
        let node = simulation.add_node();
        run(&simulation, node, &Rc::default(), 6).expect("no crash");
        simulation.disk(node).steps()
    }

    #[test]
    fn every_acknowledged_command_survives_crashes_at_every_step() {
        for seed in seeds(6) {
            for step in 1..=steps(seed) {
                for crashes in [[Crash::PowerCut; 2], [Crash::Kill; 2], [Crash::Kill, Crash::PowerCut]] {
                    let simulation = Simulation::new(seed);
                    let node = simulation.add_node();
                    let ledger = Rc::default();
                    let disk = simulation.disk(node);
                    disk.crash_at_step(step, crashes[0]);
                    assert!(run(&simulation, node, &ledger, 6).is_err(), "no crash at step {step}");
                    disk.crash_at_step(disk.steps() + 1 + (step * 5 + seed) % 40, crashes[1]);
                    let _may_crash = run(&simulation, node, &ledger, 6);
                    simulation.crash(node, Crash::PowerCut);
                    run(&simulation, node, &ledger, 1).expect("no crash any more");
                }
            }
        }
    }

    #[test]
    fn what_is_answered_is_in_the_snapshot() {
        for seed in seeds(20) {
            let told = runtime::sim::block_on(seed, async |runtime| {
                let meta = MetaLog::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
                meta.propose(Command::RegisterLogs { ids: vec![1] }).await.expect("no fault");
                let proposals: Vec<_> = (0..200)
                    .map(|n| {
                        let meta = meta.clone();
                        runtime.spawn(async move {
                            let topic = format!("topic-{n}");
                            let before = meta.snapshot();
                            meta.propose(create(&topic, 1)).await.expect("no fault");
                            let after = meta.snapshot();
                            assert!(
                                after.topics.contains_key(topic.as_str())
                                    && !before.topics.contains_key(topic.as_str())
                            );
                            assert!(after.version > before.version);
                        })
                    })
                    .collect();
                for proposal in proposals {
                    proposal.await;
                }
                (meta.snapshot().version, meta.snapshot().topics.len())
            });
            assert_eq!(told, (201, 200));
        }
    }

    #[test]
    fn commands_of_one_group_see_each_other_and_a_refusal_is_not_written() {
        let versions = runtime::sim::block_on(1, async |runtime| {
            let meta = MetaLog::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
            meta.propose(Command::RegisterLogs { ids: vec![1] }).await.expect("no fault");
            let twice = [create("a", 1), create("a", 2), create("b", 1)].map(|command| {
                let meta = meta.clone();
                runtime.spawn(async move { meta.propose(command).await.is_ok() })
            });
            let mut accepted = 0;
            for proposed in twice {
                accepted += u64::from(proposed.await);
            }
            (accepted, meta.snapshot().version)
        });
        assert_eq!(versions, (2, 3));
    }

    #[test]
    fn after_a_failed_write_nothing_is_shown_or_written() {
        let simulation = Simulation::new(1);
        let node = simulation.add_node();
        let disk = simulation.disk(node);
        disk.inject(Fault { op: Some(OpKind::Write), nth: 2, effect: Effect::Error(Reached::All) });
        let failed = simulation.block_on(node, async |runtime| {
            let meta = MetaLog::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
            meta.propose(Command::RegisterLogs { ids: vec![1] }).await.expect("no fault yet");
            for _ in 0..3 {
                let failed = meta.propose(create("a", 1)).await;
                assert!(matches!(failed, Err(ProposeError::Write(WriteError::Failed { .. }))), "{failed:?}");
                assert!(meta.snapshot().topics.is_empty());
            }
        });
        failed.expect("no crash");
        assert_eq!(disk.ops(OpKind::Write), 2);
    }

    #[test]
    fn a_full_disk_changes_nothing() {
        let simulation = Simulation::new(1);
        let node = simulation.add_node();
        let disk = simulation.disk(node);
        let full = simulation.block_on(node, async move |runtime| {
            let meta = MetaLog::open(&runtime, Path::new(DIR)).await.expect("nothing to read");
            meta.propose(Command::RegisterLogs { ids: vec![1] }).await.expect("there is room");
            disk.inject(Fault { op: Some(OpKind::Allocate), nth: 1, effect: Effect::NoSpace });
            let mut created = 0;
            let refused = loop {
                match meta.propose(create(&format!("topic-{created}"), 1)).await {
                    Ok(_) => created += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, ProposeError::Write(WriteError::NoSpace { .. })), "{refused}");
            meta.propose(create(&format!("topic-{created}"), 1)).await.expect("there is room again");
            assert_eq!(meta.snapshot().topics.len(), created + 1);
            meta.snapshot().state.clone()
        });
        simulation.crash(node, Crash::PowerCut);
        let recovered = simulation.block_on(node, async |runtime| {
            MetaLog::open(&runtime, Path::new(DIR)).await.expect("undamaged").snapshot().state.clone()
        });
        assert_eq!(recovered.expect("no crash"), full.expect("no crash"));
    }
}
