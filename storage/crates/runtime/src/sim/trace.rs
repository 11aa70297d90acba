//! What happened, as one running 64-bit hash: two runs with equal hashes took the same steps in the same order.

use std::{
    cell::Cell,
    hash::{Hash, Hasher},
};

use super::{Crash, NodeId, disk::OpKind};

/// One step of a simulation.
#[derive(Debug, Hash)]
pub(super) enum Event {
    /// The scheduler chose a task.
    Run { task: u64, now_ns: u64 },
    /// A disk operation began; `digest` is that of the bytes written.
    Submit { node: NodeId, op: u64, kind: OpKind, position: u64, len: u64, digest: u64 },
    /// A disk operation completed.
    Complete { node: NodeId, op: u64, now_ns: u64 },
    /// Bytes (or, with a length of zero, a close or reset) left a socket.
    Send { connection: u64, end: usize, len: usize, digest: u64 },
    /// They reached the other one.
    Deliver { connection: u64, end: usize, len: usize },
    /// A node started.
    Boot { node: NodeId, shards: usize },
    /// A node stopped without warning.
    Crashed { node: NodeId, crash: Crash },
}

/// The running hash. With `STREAMBUS_TRACE` set, events are printed to standard error as well.
pub(super) struct Trace {
    hash: Cell<u64>,
    prints: bool,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self { hash: Cell::new(0), prints: std::env::var_os("STREAMBUS_TRACE").is_some() }
    }

    pub(super) fn record(&self, event: Event) {
        if self.prints {
            eprintln!("{event:?}");
        }
        let mut hasher = Digest(self.hash.get());
        event.hash(&mut hasher);
        self.hash.set(hasher.finish());
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }
}

/// A hash of `bytes` that does not differ between processes.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = Digest(bytes.len() as u64);
    hasher.write(bytes);
    hasher.finish()
}

/// Multiply and rotate, word by word: fast, and without the random state of the standard hasher.
struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.write_u64(u64::from_le_bytes(word.try_into().expect("a chunk of 8")));
        }
        for byte in words.remainder() {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
