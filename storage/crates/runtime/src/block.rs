//! Memory that disks and sockets use in place: written by one owner, then frozen and shared.
//!
//! ```text
//!   block(len) ──> Block ──fill──> split_frozen(n) ──> Frozen (first n bytes, shared)
//!                    └── the rest stays exclusive ──> … ──> last drop: back to the pool, whole
//! ```

use std::ops::{Deref, DerefMut, Range};

/// Direct I/O wants memory, positions and lengths that are multiples of this many bytes.
pub const BLOCK_ALIGNMENT: usize = 4096;

/// Exclusive memory, aligned to [`BLOCK_ALIGNMENT`] when taken from the pool. Dereferences to what is left of it.
pub trait Block: DerefMut<Target = [u8]> + 'static {
    /// What it becomes.
    type Frozen: Frozen;

    /// Splits off the first `len` bytes as shared, read-only memory; `self` keeps the bytes behind them.
    ///
    /// # Panics
    /// If `len` is larger than what is left.
    fn split_frozen(&mut self, len: usize) -> Self::Frozen;

    /// Freezes the first `len` bytes and gives up the rest. The memory returns to the pool, whole, with the last
    /// clone.
    ///
    /// # Panics
    /// If `len` is larger than what is left.
    fn freeze(mut self, len: usize) -> Self::Frozen
    where
        Self: Sized,
    {
        self.split_frozen(len)
    }
}

/// Shared, read-only bytes of a block. A clone is cheap and keeps the whole block from the pool.
pub trait Frozen: Clone + Deref<Target = [u8]> + 'static {
    /// A part of these bytes, sharing the same memory.
    ///
    /// # Panics
    /// If the range reaches beyond them.
    fn slice(&self, range: Range<usize>) -> Self;

    /// Capacity of the whole block these bytes keep alive: what a holder is charged for.
    fn block_capacity(&self) -> usize;
}
