//! The manifest: which files of a log's directory hold what, and all else that recovery has to know.
//!
//! ```text
//!   apply(edit) ──> queue ──> check against the state ──> journal, durable ──> state ──> answer
//!                              one task, one request at a time
//! ```
//!
//! The one hard idea: the state that everyone sees changes only once the edit is durable, and edits have one order,
//! so what a reader of the state acted upon is what recovery will find.

mod edit;
mod fields;
mod given_up;
mod snapshot;
mod state;
#[cfg(test)]
mod state_test;

use std::{
    cell::{Cell, Ref, RefCell},
    path::{Path, PathBuf},
    rc::Rc,
};

use runtime::Runtime;

use crate::{
    codec::DecodeError,
    journal::{self, Journal, Recovered, WriteError},
    segment::SegmentId,
};
pub use edit::{Edit, Flush, Flushed, FlushedPartition, INTENT_SEGMENTS_MAX, Intent, Merge};
pub use given_up::{ALL_OFFSETS, GivenUp};
pub use state::{Clip, Cut, EpochStart, Evidence, Fate, Inconsistent, Partition, Refusal, State};
pub(crate) use state::{add_lost, cut_lost};

/// Its files are called `manifest-…`.
const PREFIX: &str = "manifest";

/// Requests that wait for their turn; further ones wait to queue.
const QUEUE_REQUESTS: usize = 64;

/// Whether a file of this name, in a log's directory, is of its manifest.
pub(crate) fn is_file_name(name: &str) -> bool {
    journal::is_file_name(name, PREFIX)
}

/// The manifest of one log. A clone is another handle.
#[derive(Clone)]
pub struct Manifest {
    queue: flume::Sender<Request>,
    state: Rc<RefCell<State>>,
    log_id: u128,
    is_new: bool,
    /// The first segment number that is neither in the state nor claimed by a queued intent.
    next_segment: Rc<Cell<u64>>,
    changes: Rc<Cell<u64>>,
    truncations: Rc<Cell<u64>>,
}

struct Request {
    edits: Vec<Edit>,
    answer: flume::Sender<Result<(), Unwritten>>,
}

/// Edits that did not become durable, and why.
#[derive(Debug)]
pub(crate) struct Unwritten {
    pub(crate) error: WriteError,
    /// They may be tried again if there was no space for them.
    pub(crate) edits: Vec<Edit>,
}

/// Why a manifest could not be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its journal could not be read.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// A snapshot or an edit is intact, and this program cannot read it: it is from a later version, or a bug wrote it.
    #[error("manifest in {dir}, {what}: {source}")]
    Undecodable {
        /// The log's directory.
        dir: PathBuf,
        /// The snapshot, or the number of the edit.
        what: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// An edit is intact and contradicts those before it: a bug wrote it.
    #[error("manifest in {dir}, {what}: {source}")]
    Inconsistent {
        /// The log's directory.
        dir: PathBuf,
        /// The number of the edit.
        what: String,
        /// What is wrong.
        source: Inconsistent,
    },
}

impl Manifest {
    /// Reads the manifest of the log in `dir`. Writes nothing: the first edit does, and brings a new manifest into
    /// being where there was none ([`Self::is_new`]). The state must not be acted upon before that edit: until then a
    /// power cut may take back what a killed process wrote last.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open<R: Runtime>(runtime: &R, dir: &Path) -> Result<Self, OpenError> {
        let (journal, recovered) = Journal::open(runtime.clone(), dir.to_path_buf(), PREFIX).await?;
        let is_new = recovered.is_none();
        let state = match recovered {
            Some(recovered) => replay(recovered, dir, journal.edits())?,
            None => State::default(),
        };
        let next_segment = Rc::new(Cell::new(state.next_segment.0));
        let state = Rc::new(RefCell::new(state));
        let (queue, requests) = flume::bounded(QUEUE_REQUESTS);
        let log_id = journal.log_id();
        let changes = Rc::new(Cell::new(0));
        let truncations = Rc::new(Cell::new(0));
        let counts = (Rc::clone(&changes), Rc::clone(&truncations));
        drop(runtime.spawn(write(journal, Rc::clone(&state), counts, requests)));
        Ok(Self { queue, state, log_id, is_new, next_segment, changes, truncations })
    }

    /// Whether there was no manifest when it was opened. A directory that holds other files of a log then has lost
    /// its root: whoever opens it must refuse.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The log's id: random, drawn when the manifest was new, and lasting from its first edit on.
    pub fn log_id(&self) -> u128 {
        self.log_id
    }

    /// What the durable edits amount to. Not to be held across an `await`.
    pub fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// How often the state has changed: as long as this is the same, it is.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// How many truncations it has been told of, and beginnings of copies, which void segments as they do.
    pub(crate) fn truncations(&self) -> u64 {
        self.truncations.get()
    }

    /// Makes an edit durable, then part of the state. It happens even if this future is dropped.
    ///
    /// # Errors
    /// [`WriteError`]; after [`WriteError::Failed`] the process must end.
    ///
    /// # Panics
    /// If the edit is [`Inconsistent`]: a bug of ours, which must not reach the disk.
    pub async fn apply(&self, edit: Edit) -> Result<(), WriteError> {
        self.apply_all(vec![edit]).await
    }

    /// Makes edits durable and part of the state, as [`Self::apply`] does one: all together, with one sync.
    ///
    /// # Errors
    /// As [`Self::apply`].
    ///
    /// # Panics
    /// As [`Self::apply`].
    pub async fn apply_all(&self, edits: Vec<Edit>) -> Result<(), WriteError> {
        self.try_apply_all(edits).await.map_err(|unwritten| unwritten.error)
    }

    /// The same, for who may try again.
    pub(crate) async fn try_apply_all(&self, edits: Vec<Edit>) -> Result<(), Unwritten> {
        let (answer, answered) = flume::bounded(1);
        self.queue.send_async(Request { edits, answer }).await.expect("the writing task lives as long as a handle");
        answered.recv_async().await.expect("the writing task answers every request")
    }

    /// Claims `count` segment numbers and makes the intent to write them durable. A flush or a merge reports it by
    /// its first number; should it fail, [`Edit::Abandon`] does.
    ///
    /// # Errors
    /// As [`Self::apply`].
    ///
    /// # Panics
    /// If `count` is 0 or above [`INTENT_SEGMENTS_MAX`].
    pub async fn intend(&self, count: u32) -> Result<Intent, WriteError> {
        assert!((1..=INTENT_SEGMENTS_MAX).contains(&count), "an intent of {count} segments");
        // Claimed before it is durable, so that two at once get different numbers.
        let first = SegmentId(self.next_segment.replace(self.next_segment.get() + u64::from(count)));
        let intent = Intent { first, count };
        self.apply(Edit::Intent(intent)).await.map(|()| intent)
    }
}

/// Replays what a journal of `edits` edits in all held.
pub(crate) fn replay(recovered: Recovered, dir: &Path, edits: u64) -> Result<State, OpenError> {
    let undecodable = |what: String, source| OpenError::Undecodable { dir: dir.to_path_buf(), what, source };
    let mut state = State::decode(&recovered.snapshot).map_err(|source| undecodable("snapshot".to_string(), source))?;
    let first = edits - recovered.edits.len() as u64 + 1;
    for (number, bytes) in (first..).zip(&recovered.edits) {
        let what = format!("edit {number}");
        let edit = Edit::decode(bytes).map_err(|source| undecodable(what.clone(), source))?;
        let dir = dir.to_path_buf();
        state.apply(edit).map_err(|source| OpenError::Inconsistent { dir, what, source })?;
    }
    Ok(state)
}

/// Writes edits one after the other until the last handle is gone.
async fn write<R: Runtime>(
    mut journal: Journal<R>,
    state: Rc<RefCell<State>>,
    (changes, truncations): (Rc<Cell<u64>>, Rc<Cell<u64>>),
    requests: flume::Receiver<Request>,
) {
    while let Ok(Request { edits, answer }) = requests.recv_async().await {
        let clips = edits.iter().filter(|edit| matches!(edit, Edit::Clip { .. } | Edit::Begin { .. })).count() as u64;
        let result = write_edits(&mut journal, &state, edits).await;
        changes.set(changes.get() + 1);
        truncations.set(truncations.get() + clips);
        // Whoever asked may have stopped waiting.
        let _ = answer.send(result);
    }
}

async fn write_edits<R: Runtime>(
    journal: &mut Journal<R>,
    state: &RefCell<State>,
    edits: Vec<Edit>,
) -> Result<(), Unwritten> {
    if edits.is_empty() {
        return Ok(());
    }
    let encoded: Vec<_> = edits.iter().map(Edit::encode).collect();
    let planned = Planned::new(&state.borrow(), edits);
    let appended = journal.append(&encoded, || state.borrow().encode()).await;
    match appended {
        Ok(()) => {
            planned.carry_out(&mut state.borrow_mut());
            Ok(())
        }
        Err(error) => Err(Unwritten { error, edits: planned.into_edits() }),
    }
}

/// Edits that were found to fit, before they are written.
enum Planned {
    /// One, which is checked in place: no flush may cost a copy of the state.
    Edit(Edit),
    /// What several amount to.
    State(State, Vec<Edit>),
}

impl Planned {
    fn new(state: &State, mut edits: Vec<Edit>) -> Self {
        if edits.len() == 1 {
            let edit = edits.remove(0);
            state.check(&edit).unwrap_or_else(|error| panic!("{error}, in {edit:?}"));
            return Self::Edit(edit);
        }
        let mut state = state.clone();
        for edit in &edits {
            state.apply(edit.clone()).unwrap_or_else(|error| panic!("{error}, in one of several edits"));
        }
        Self::State(state, edits)
    }

    fn carry_out(self, state: &mut State) {
        match self {
            Self::Edit(edit) => state.apply(edit).expect("it was checked against this state"),
            Self::State(planned, _) => *state = planned,
        }
    }

    fn into_edits(self) -> Vec<Edit> {
        match self {
            Self::Edit(edit) => vec![edit],
            Self::State(_, edits) => edits,
        }
    }
}
