//! Blocks: one heap allocation each, shared by count, written in front of an exclusive tail.
//!
//! The hard part is lending a prefix to the kernel. glommio writes a whole `DmaBuffer` and shortens one only for good,
//! so a [`Loan`] holds a bitwise twin of the block's buffer, shortened to the prefix, that is never dropped: the block
//! itself is the only owner of the memory. A loan that is not returned leaks its block, because the kernel may still
//! be reading from it.

use std::{
    mem::{self, ManuallyDrop},
    ops::{Deref, DerefMut, Range},
    ptr::{self, NonNull},
    rc::Rc,
    slice,
};

use glommio::io::{DmaBuffer, ReadResult};
use rustix::mm::{Advice, madvise};

use crate::pool::Pool;

/// Exclusive memory: what is left of a block behind the parts that were frozen.
pub struct Block {
    memory: Rc<Memory>,
    /// Everything before this position may be shared; everything behind it is this value's alone.
    start: usize,
}

/// Shared, read-only memory: part of a block, or of what a read returned.
#[derive(Clone)]
pub struct Frozen {
    owner: Owner,
    bytes: NonNull<u8>,
    len: usize,
}

#[derive(Clone)]
enum Owner {
    Block(Rc<Memory>),
    /// A read that took one operation stays where glommio put it.
    Read(ReadResult),
}

/// A block's memory. The last owner returns it to the pool.
pub(crate) struct Memory {
    buffer: ManuallyDrop<Buffer>,
    pool: Rc<Pool>,
}

/// An aligned heap allocation whose every byte is initialised.
pub(crate) struct Buffer {
    dma: DmaBuffer,
    bytes: NonNull<u8>,
    capacity: usize,
}

/// Bytes that the kernel reads from until [`Loan::returned`].
pub(crate) struct Loan {
    twin: ManuallyDrop<Rc<DmaBuffer>>,
    bytes: ManuallyDrop<Frozen>,
}

impl Block {
    pub(crate) fn new(buffer: Buffer, pool: Rc<Pool>) -> Self {
        let memory = Memory { buffer: ManuallyDrop::new(buffer), pool };
        Self { memory: Rc::new(memory), start: 0 }
    }

    fn len(&self) -> usize {
        self.memory.buffer.capacity - self.start
    }
}

impl ::runtime::Block for Block {
    type Frozen = Frozen;

    fn split_frozen(&mut self, len: usize) -> Frozen {
        assert!(len <= self.len(), "freezing {len} of {} bytes", self.len());
        let bytes = self.memory.buffer.at(self.start);
        self.start += len;
        Frozen { owner: Owner::Block(Rc::clone(&self.memory)), bytes, len }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range lies within the allocation, is initialised, and nothing else refers to what is behind
        // `start`.
        unsafe { slice::from_raw_parts(self.memory.buffer.at(self.start).as_ptr(), self.len()) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; there is one `Block` per allocation, so `&mut self` is exclusive access to this range.
        unsafe { slice::from_raw_parts_mut(self.memory.buffer.at(self.start).as_ptr(), self.len()) }
    }
}

impl Frozen {
    /// Bytes `range` of a read's result.
    ///
    /// # Panics
    /// If the range reaches beyond them.
    pub(crate) fn from_read(read: ReadResult, range: Range<usize>) -> Self {
        let part = &read[range];
        let (bytes, len) = (NonNull::from(part).cast(), part.len());
        Self { owner: Owner::Read(read), bytes, len }
    }

    /// Lends these bytes to the kernel, or gives them back if no block starts with them.
    pub(crate) fn lend(self) -> Result<Loan, Self> {
        match &self.owner {
            Owner::Block(memory) if memory.buffer.at(0) == self.bytes => {
                let twin = Rc::new(memory.buffer.twin(self.len));
                Ok(Loan { twin: ManuallyDrop::new(twin), bytes: ManuallyDrop::new(self) })
            }
            _ => Err(self),
        }
    }

    /// Whether these bytes are part of a block, rather than of a read's result.
    pub(crate) fn is_block(&self) -> bool {
        matches!(self.owner, Owner::Block(_))
    }
}

impl ::runtime::Frozen for Frozen {
    fn slice(&self, range: Range<usize>) -> Self {
        let part = &self[range];
        let (bytes, len) = (NonNull::from(part).cast(), part.len());
        Self { owner: self.owner.clone(), bytes, len }
    }

    fn block_capacity(&self) -> usize {
        match &self.owner {
            Owner::Block(memory) => memory.buffer.capacity,
            Owner::Read(read) => read.len(),
        }
    }
}

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the owner keeps the range alive and in place, it is initialised, and a block writes only behind the
        // parts it froze.
        unsafe { slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the field is not used again.
        let buffer = unsafe { ManuallyDrop::take(&mut self.buffer) };
        self.pool.give_back(buffer);
    }
}

impl Loan {
    /// What glommio is to write.
    pub(crate) fn dma(&self) -> Rc<DmaBuffer> {
        Rc::clone(&self.twin)
    }

    /// The kernel is done: the block is free to go.
    pub(crate) fn returned(self) {
        let Self { twin, bytes } = self;
        match Rc::try_unwrap(ManuallyDrop::into_inner(twin)) {
            // The block owns the memory, so its twin must not free it.
            Ok(twin) => mem::forget(twin),
            Err(shared) => mem::forget(shared),
        }
        drop(ManuallyDrop::into_inner(bytes));
    }
}

impl Buffer {
    /// Allocates `capacity` zeroed bytes, aligned to [`::runtime::BLOCK_ALIGNMENT`]. Touching fresh pages is the
    /// expensive part: 100 to 400 us for a standard block.
    pub(crate) fn new(capacity: usize) -> Self {
        let mut dma = glommio::allocate_dma_buffer_global(capacity);
        let bytes = NonNull::new(dma.as_mut_ptr()).expect("an allocation is not null");
        assert!(bytes.addr().get().is_multiple_of(::runtime::BLOCK_ALIGNMENT), "a misaligned buffer");
        // SAFETY: these are the bytes just allocated, and no one else knows of them.
        unsafe { ptr::write_bytes(bytes.as_ptr(), 0, capacity) };
        Self { dma, bytes, capacity }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Frees the memory for the operating system too: `free` alone may keep the pages.
    pub(crate) fn release_pages(self) {
        // SAFETY: the range is this allocation, whose bytes are not read again. Where pages are larger than the
        // alignment the call fails, and nothing is lost.
        let _ = unsafe { madvise(self.bytes.as_ptr().cast(), self.capacity, Advice::LinuxDontNeed) };
    }

    fn at(&self, position: usize) -> NonNull<u8> {
        debug_assert!(position <= self.capacity, "position {position} of {}", self.capacity);
        // SAFETY: callers stay within the allocation, or one byte behind it for an empty range.
        unsafe { self.bytes.add(position) }
    }

    /// A second value for the same allocation, `len` bytes long. It must be forgotten, not dropped.
    fn twin(&self, len: usize) -> DmaBuffer {
        // SAFETY: a `DmaBuffer` is plain data whose only other claim on the memory is to free it when dropped, and a
        // `Loan` forgets it. It is read only within its `len` bytes, which are frozen.
        let mut twin = unsafe { ptr::read(&self.dma) };
        twin.trim_to_size(len);
        twin
    }
}

// SAFETY: `allocate_dma_buffer_global` takes its memory from the global allocator; a `DmaBuffer` is not `Send` only
// because others of its kind point into an executor's registered memory.
unsafe impl Send for Buffer {}
