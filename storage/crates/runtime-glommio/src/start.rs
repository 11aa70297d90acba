//! Says in one line why a machine cannot run a shard, before glommio panics over it.

use std::{fs, io};

use rustix::process::{Resource, getrlimit};

/// Locked memory below which glommio does not start.
const LOCKED_BYTES_MIN: u64 = 512 << 10;
/// `IORING_FEAT_EXT_ARG`, which came with Linux 5.11 (`include/uapi/linux/io_uring.h`).
const FEATURE_OF_5_11: u32 = 1 << 8;

/// Why the shards could not start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The administrator has switched io_uring off.
    #[error("io_uring is switched off on this machine: set kernel.io_uring_disabled to 0 (it is {setting})")]
    IoUringDisabled {
        /// Value of `kernel.io_uring_disabled`.
        setting: u32,
    },
    /// io_uring is refused, as container runtimes do by default.
    #[error(
        "io_uring is refused: allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp \
         profile"
    )]
    IoUringRefused,
    /// The kernel is older than 5.11.
    #[error("this kernel is too old: Linux 5.11 or newer is needed")]
    KernelTooOld,
    /// Too little memory may be locked.
    #[error("too little memory may be locked: {limit_bytes} bytes, at least {LOCKED_BYTES_MIN} needed (ulimit -l)")]
    LockedMemory {
        /// The limit in force.
        limit_bytes: u64,
    },
    /// The process may not run on this core.
    #[error("core {core} is not among those this process may run on: {allowed:?}")]
    CoreNotAllowed {
        /// The core asked for.
        core: usize,
        /// What could be asked for.
        allowed: Vec<usize>,
    },
    /// No core was asked for.
    #[error("no cores are set: at least one is needed")]
    NoCores,
    /// An executor or thread could not be made.
    #[error("shard {shard} could not start: {source}")]
    Shard {
        /// Its index.
        shard: usize,
        /// What the system reported.
        source: io::Error,
    },
    /// Anything else the system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Checks what every executor needs: io_uring, and memory that may be locked.
///
/// # Errors
/// [`StartError`], which says what to do.
pub fn check_machine() -> Result<(), StartError> {
    if let Some(limit_bytes) = getrlimit(Resource::Memlock).current
        && limit_bytes < LOCKED_BYTES_MIN
    {
        return Err(StartError::LockedMemory { limit_bytes });
    }
    check_io_uring()
}

fn check_io_uring() -> Result<(), StartError> {
    // `struct io_uring_params`: five words, features, four words, two times ten words of ring offsets.
    let mut params = [0_u32; 30];
    // SAFETY: the kernel reads and writes 120 bytes at `params`.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    if ring < 0 {
        return Err(refusal(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just opened, and no one else knows of it.
    unsafe { libc::close(i32::try_from(ring).expect("a descriptor fits")) };
    if params[5] & FEATURE_OF_5_11 == 0 {
        return Err(StartError::KernelTooOld);
    }
    Ok(())
}

fn refusal(error: io::Error) -> StartError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match io_uring_disabled() {
            Some(setting) if setting > 0 => StartError::IoUringDisabled { setting },
            _ => StartError::IoUringRefused,
        },
        Some(libc::ENOSYS) => StartError::KernelTooOld,
        _ => StartError::System(error),
    }
}

fn io_uring_disabled() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}
