//! The journal under the metadata, and the one task that writes it.
//!
//! The one hard idea: commands are applied before they are written, so that each of a group is judged by the state that
//! the one before it leaves. Nobody sees that state until the group is durable; if the write fails nobody ever does,
//! because the journal takes nothing more and the process ends.

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

impl MetaLog {
    /// Reads the metadata in `dir`. Writes nothing: the first command does, and brings a new cluster into being where
    /// there was none.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open<R: Runtime>(runtime: &R, dir: &Path) -> Result<Self, OpenError> {
        let (journal, recovered) = Journal::open(runtime.clone(), dir.to_path_buf(), PREFIX).await?;
        let state = match recovered {
            Some(recovered) => replay(recovered, dir, journal.edits())?,
            None => State::new(ClusterId(journal.log_id())),
        };
        let newest = Rc::new(RefCell::new(Arc::new(Snapshot { version: journal.edits(), state: state.clone() })));
        let (queue, requests) = flume::bounded(QUEUE_COMMANDS);
        let writer = Writer { journal, state, newest: Rc::clone(&newest) };
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
    /// Ahead of `newest` while a group is written, never otherwise.
    state: State,
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
        let encoded: Vec<_> = commands.iter().map(Command::encode).collect();
        if self.journal.is_replace_due() {
            self.journal.replace(&self.state.encode()).await?;
        }
        // A full disk is found out while the state is still the journal's.
        self.journal.reserve(encoded.iter().map(Vec::len).sum(), encoded.len()).await?;
        let results: Vec<_> = commands.iter().map(|command| self.state.apply(command)).collect();
        let applied = encoded.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let applied: Vec<_> = applied.map(|(bytes, _)| bytes).collect();
        if !applied.is_empty() {
            self.journal.append(&applied).await?;
            let version = self.journal.edits();
            self.newest.replace(Arc::new(Snapshot { version, state: self.state.clone() }));
        }
        Ok(results)
    }
}
