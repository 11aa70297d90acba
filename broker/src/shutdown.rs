//! The ends of a broker: asked to, told to by a signal, or because a write failed.

use std::{io::Write as _, process, thread};

use runtime_glommio::ShardThreads;

use crate::{
    BrokerHandle,
    shard::{Failure, start::End},
};

/// What a shell shows for a process that a second Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

/// What a process ends with whose log failed: `EX_IOERR` of sysexits.h.
const EXIT_LOG_FAILED: i32 = 74;

/// How a broker stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Whether every log was closed: then the next start reads no WAL.
    pub is_clean: bool,
    /// Connections that did not take their answers in time.
    pub connections_cut: usize,
}

impl BrokerHandle {
    /// Stops: accepts nothing more, answers what was accepted, syncs and flushes it, closes the logs.
    pub fn stop(self) -> StopReport {
        self.holder.stop();
        self.wait()
    }

    /// Waits until the broker has stopped.
    pub fn wait(mut self) -> StopReport {
        self.join()
    }

    fn join(&mut self) -> StopReport {
        let mut report = StopReport { is_clean: true, connections_cut: 0 };
        for end in self.threads.take().into_iter().flat_map(ShardThreads::join) {
            match end {
                End::Stopped { connections_cut } => report.connections_cut += connections_cut,
                End::NotStarted | End::Failed(_) => report.is_clean = false,
            }
        }
        report
    }

    /// Serves until `next_signal` returns, then stops. If it returns again before that is done, the process ends at
    /// once; the next start then recovers from the WAL.
    pub fn serve_until(self, mut next_signal: impl FnMut() + Send + 'static) -> StopReport {
        let stop = self.holder.stopper();
        let waiting = move || {
            next_signal();
            tracing::info!("stopping; a second signal ends the process at once");
            stop();
            next_signal();
            process::exit(EXIT_INTERRUPTED);
        };
        let started = thread::Builder::new().name("stop".into()).spawn(waiting);
        if let Err(error) = started {
            tracing::error!("cannot wait for signals: {error}; stopping");
            return self.stop();
        }
        self.wait()
    }
}

impl Drop for BrokerHandle {
    fn drop(&mut self) {
        self.holder.stop();
        self.join();
    }
}

/// Ends the process because of a failed write, with one message whatever the log is set to.
pub(crate) fn end_process(failed: &Failure) -> ! {
    let _ = writeln!(std::io::stderr().lock(), "streambus: {failed}");
    process::exit(EXIT_LOG_FAILED)
}
