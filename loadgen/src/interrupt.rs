//! Ctrl-C: the first ends the load, and what was sent is still checked and reported; the second ends the process at once.

use std::{
    path::PathBuf,
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use runtime_glommio::Signals;

use crate::embedded;

/// What a shell shows for a process that Ctrl-C ended.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Whether the run was asked to end, and what to remove if it has to end at once.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    stopped: AtomicBool,
    /// A directory that this run made.
    made: OnceLock<PathBuf>,
}

impl Interrupt {
    /// Waits for signals on a thread of its own.
    pub(crate) fn on(signals: Signals) -> Arc<Self> {
        let interrupt = Arc::new(Self::default());
        let waiting = Arc::clone(&interrupt);
        thread::spawn(move || {
            signals.receive_blocking();
            eprintln!("\nloadgen: stopping; a second signal ends it at once");
            waiting.stopped.store(true, Relaxed);
            signals.receive_blocking();
            if let Some(dir) = waiting.made.get() {
                embedded::remove(dir);
            }
            process::exit(EXIT_INTERRUPTED.into());
        });
        interrupt
    }

    /// Whether to end early.
    #[inline]
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// The run made this directory.
    pub(crate) fn remove_at_end(&self, dir: PathBuf) {
        self.made.set(dir).expect("a run makes one directory");
    }
}
