//! What `main` does before anything else, while the process has one thread.

use std::{io, mem::MaybeUninit, thread};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{MembarrierCommand, membarrier},
};

/// A request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: a service manager.
    Terminate,
}

/// The signals that arrived since [`prepare_process`], in order. A clone takes from the same queue.
#[derive(Clone)]
pub struct Signals(flume::Receiver<Signal>);

impl Signals {
    /// Waits for the next signal, on any executor.
    pub async fn receive(&self) -> Signal {
        self.0.recv_async().await.expect("the signal thread does not end")
    }

    /// Waits for the next signal, blocking this thread.
    pub fn receive_blocking(&self) -> Signal {
        self.0.recv().expect("the signal thread does not end")
    }
}

/// Prepares the process; the first call of `main`. From here on SIGINT and SIGTERM end nothing by themselves: they
/// arrive at the returned handle, the first one and every later one.
///
/// Registers the barrier with which an executor goes to sleep (3 us now, 8 to 14 ms at the first sleep if there are
/// other threads by then), and raises the soft limits of locked memory and open files to the hard ones. A test may
/// leave this call out.
///
/// # Errors
/// If the thread that waits for signals cannot be started.
pub fn prepare_process() -> io::Result<Signals> {
    // Where the kernel refuses it, glommio takes its slower way.
    let _ = membarrier(MembarrierCommand::RegisterPrivateExpedited);
    raise_soft_limit(Resource::Memlock);
    raise_soft_limit(Resource::Nofile);

    let signals = ending_signals();
    // SAFETY: the set is initialised, and no old mask is asked for. Threads started later inherit the mask.
    let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) };
    assert_eq!(blocked, 0, "blocking two signals that exist");
    let (sender, receiver) = flume::unbounded();
    thread::Builder::new().name("signals".into()).spawn(move || while sender.send(wait_for(&signals)).is_ok() {})?;
    Ok(Signals(receiver))
}

fn raise_soft_limit(resource: Resource) {
    let Rlimit { maximum, .. } = getrlimit(resource);
    // Raising to the hard limit is always allowed; if not, what comes next says what it lacks.
    let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
}

fn ending_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set, and both signals exist.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        set.assume_init()
    }
}

fn wait_for(signals: &libc::sigset_t) -> Signal {
    let mut number = 0;
    // SAFETY: both arguments are valid, and the signals are blocked in all threads.
    let waited = unsafe { libc::sigwait(signals, &raw mut number) };
    assert_eq!(waited, 0, "waiting for two signals that exist");
    if number == libc::SIGINT { Signal::Interrupt } else { Signal::Terminate }
}
