//! Blocks of one node: counted, so that a test can show that none leaks, and never clean when taken.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut, Range},
    rc::Rc,
};

use bytes::{Bytes, BytesMut};

use super::world::World;
use crate::{BLOCK_ALIGNMENT, block};

pub(super) struct Memory {
    world: Rc<World>,
    block_bytes: usize,
    live_blocks: Cell<usize>,
    live_bytes: Cell<usize>,
}

impl Memory {
    pub(super) fn new(world: Rc<World>, block_bytes: usize) -> Self {
        assert!(
            block_bytes > 0 && block_bytes.is_multiple_of(BLOCK_ALIGNMENT),
            "block_bytes is {block_bytes}, not a multiple of {BLOCK_ALIGNMENT}"
        );
        Self { world, block_bytes, live_blocks: Cell::new(0), live_bytes: Cell::new(0) }
    }

    pub(super) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub(super) fn live_blocks(&self) -> usize {
        self.live_blocks.get()
    }

    pub(super) fn live_bytes(&self) -> usize {
        self.live_bytes.get()
    }

    /// A block full of one arbitrary byte: what a recycled block holds is nobody's business.
    pub(super) fn block(self: &Rc<Self>, len_min: usize) -> Block {
        let capacity = len_min.max(self.block_bytes).next_multiple_of(BLOCK_ALIGNMENT);
        let left_over = self.world.rng.next_u64() as u8;
        let mut bytes = BytesMut::new();
        bytes.resize(capacity + BLOCK_ALIGNMENT, left_over);
        let unaligned = bytes.as_ptr().align_offset(BLOCK_ALIGNMENT);
        drop(bytes.split_to(unaligned));
        bytes.truncate(capacity);
        self.live_blocks.set(self.live_blocks.get() + 1);
        self.live_bytes.set(self.live_bytes.get() + capacity);
        Block { bytes, start: 0, lease: Rc::new(Lease { memory: Rc::clone(self), capacity }) }
    }
}

/// Keeps a block out of the pool.
struct Lease {
    memory: Rc<Memory>,
    capacity: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let memory = &self.memory;
        memory.live_blocks.set(memory.live_blocks.get() - 1);
        memory.live_bytes.set(memory.live_bytes.get() - self.capacity);
    }
}

/// Exclusive memory of a simulated node.
pub struct Block {
    bytes: BytesMut,
    /// Position of `bytes` within the block.
    start: usize,
    lease: Rc<Lease>,
}

impl block::Block for Block {
    type Frozen = Frozen;

    fn split_frozen(&mut self, len: usize) -> Frozen {
        assert!(len <= self.bytes.len(), "freezing {len} of {} bytes", self.bytes.len());
        let start = self.start;
        self.start += len;
        Frozen { bytes: self.bytes.split_to(len).freeze(), start, lease: Rc::clone(&self.lease) }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Shared bytes of a simulated node's block.
#[derive(Clone)]
pub struct Frozen {
    bytes: Bytes,
    start: usize,
    lease: Rc<Lease>,
}

impl Frozen {
    /// True if these bytes begin where their block does, as writes to a file must.
    pub(super) fn is_start_of_block(&self) -> bool {
        self.start == 0
    }
}

impl block::Frozen for Frozen {
    fn slice(&self, range: Range<usize>) -> Self {
        Self { start: self.start + range.start, bytes: self.bytes.slice(range), lease: Rc::clone(&self.lease) }
    }

    fn block_capacity(&self) -> usize {
        self.lease.capacity
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Block as _, Frozen as _};

    fn memory() -> Rc<Memory> {
        Rc::new(Memory::new(Rc::new(World::new(0)), 8192))
    }

    #[test]
    fn a_block_is_live_until_its_last_slice_is_dropped() {
        let memory = memory();
        let mut block = memory.block(0);
        block[..3].copy_from_slice(b"abc");
        let head = block.split_frozen(2);
        let tail = block.split_frozen(1).slice(0..1);
        drop(block);
        assert_eq!((&head[..], &tail[..], tail.block_capacity()), (&b"ab"[..], &b"c"[..], 8192));
        drop(head);
        assert_eq!(memory.live_blocks(), 1);
        drop(tail);
        assert_eq!((memory.live_blocks(), memory.live_bytes()), (0, 0));
    }

    #[test]
    fn blocks_are_aligned_large_enough_and_dirty() {
        let memory = memory();
        let blocks: Vec<Block> = (0..16).map(|_| memory.block(8193)).collect();
        for block in &blocks {
            assert_eq!(block.len(), 3 * BLOCK_ALIGNMENT);
            assert_eq!(block.as_ptr().align_offset(BLOCK_ALIGNMENT), 0);
        }
        assert!(blocks.iter().any(|block| block[0] != 0));
    }

    #[test]
    fn only_the_first_bytes_of_a_block_may_be_written_to_a_file() {
        let mut block = memory().block(0);
        let head = block.split_frozen(4096);
        assert!(head.is_start_of_block() && head.slice(0..10).is_start_of_block());
        assert!(!head.slice(1..10).is_start_of_block() && !block.freeze(4096).is_start_of_block());
    }
}
