//! The logs that a shard runs: its own, where new partitions go, and spare ones, which a start with fewer cores left
//! without a shard of their own.
//!
//! Each log numbers its sync groups for itself. So whoever waits for a sync asks the log that took the append, and no two
//! logs' numbers are ever compared.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use futures_lite::future;
use runtime::{Notify, Runtime};
use storage::{Log, LogFailed, LogStats};

use crate::{meta::LogNumber, partition::delayed::any};

/// See the module. A clone is another handle to the same ones.
pub(crate) struct Logs<R: Runtime> {
    own: LogNumber,
    by_number: Rc<RefCell<BTreeMap<LogNumber, Log<R>>>>,
    given_up: Rc<Notify>,
}

impl<R: Runtime> Clone for Logs<R> {
    fn clone(&self) -> Self {
        Self { own: self.own, by_number: Rc::clone(&self.by_number), given_up: Rc::clone(&self.given_up) }
    }
}

impl<R: Runtime> Logs<R> {
    /// The logs of a shard, `own` among them.
    pub(crate) fn new(own: LogNumber, logs: impl IntoIterator<Item = (LogNumber, Log<R>)>) -> Self {
        let by_number: BTreeMap<_, _> = logs.into_iter().collect();
        assert!(by_number.contains_key(&own), "a shard runs its own log");
        Self { own, by_number: Rc::new(RefCell::new(by_number)), given_up: Rc::default() }
    }

    /// The number of the shard's own.
    pub(crate) fn own_number(&self) -> LogNumber {
        self.own
    }

    /// The shard's own.
    pub(crate) fn own(&self) -> Log<R> {
        self.get(self.own).expect("it is never given up")
    }

    /// The log of this number, if the shard runs it.
    pub(crate) fn get(&self, number: LogNumber) -> Option<Log<R>> {
        self.by_number.borrow().get(&number).cloned()
    }

    /// All of them, by number.
    pub(crate) fn all(&self) -> Vec<(LogNumber, Log<R>)> {
        self.by_number.borrow().iter().map(|(&number, log)| (number, log.clone())).collect()
    }

    /// The id of each, by number.
    pub(crate) fn ids(&self) -> Vec<(LogNumber, u128)> {
        self.by_number.borrow().iter().map(|(&number, log)| (number, log.id())).collect()
    }

    /// The largest batch that each of them takes, in bytes.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        let sizes = self.by_number.borrow();
        sizes.values().map(Log::batch_bytes_max).min().expect("there is one")
    }

    /// Partitions on their disks that nobody adopted.
    pub(crate) fn quarantined(&self) -> usize {
        self.by_number.borrow().values().map(|log| log.quarantined().len()).sum()
    }

    /// Their counters, added up.
    pub(crate) fn stats(&self) -> LogStats {
        self.by_number.borrow().values().map(Log::stats).fold(LogStats::default(), LogStats::plus)
    }

    /// Waits until a write of one of them fails.
    pub(crate) async fn failed(&self) -> LogFailed {
        loop {
            let count = self.by_number.borrow().len();
            let waits = self.all().into_iter().map(|(_, log)| Box::pin(async move { Some(log.failed().await) }) as _);
            // A log that is given up must not be held by those who wait.
            let fewer = self.given_up.until(|| (self.by_number.borrow().len() < count).then_some(None));
            if let Some(failed) = future::or(any(waits.collect()), fewer).await {
                return failed;
            }
        }
    }

    /// Whether a log holds no partition, not even one that metadata does not know.
    pub(crate) fn is_drained(&self, number: LogNumber) -> bool {
        self.get(number).is_some_and(|log| log.quarantined().is_empty() && log.stats().partitions == 0)
    }

    /// Closes a spare log for good.
    pub(crate) async fn give_up(&self, number: LogNumber) -> Result<(), LogFailed> {
        assert!(number != self.own, "a shard keeps its own log");
        let log = self.by_number.borrow_mut().remove(&number);
        self.given_up.wake();
        match log {
            Some(log) => log.close().await,
            None => Ok(()),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_number.borrow().len()
    }

    /// Closes them all; the first failure if there is one.
    pub(crate) async fn close(&self) -> Result<(), LogFailed> {
        let mut closed = Ok(());
        for (_, log) in self.all() {
            closed = closed.and(log.close().await);
        }
        closed
    }
}
