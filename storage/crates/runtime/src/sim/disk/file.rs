//! An open file: reads, writes and syncs, and how their faults show.

use std::{io, rc::Rc};

use super::{
    Completing, Disk, Effect, Op, OpKind, Reached,
    content::{Change, Extent},
    fault,
    image::{Mutation, part_of},
    names::Inode,
    pages::{PAGE_BYTES, SECTOR_BYTES},
};
use crate::{
    BLOCK_ALIGNMENT, Block as _,
    file::{self, OpenMode},
    sim::{
        Rng,
        memory::{Frozen, Memory},
        trace::digest,
    },
};

const _: () =
    assert!(PAGE_BYTES == BLOCK_ALIGNMENT && PAGE_BYTES.is_multiple_of(SECTOR_BYTES), "writes are whole pages");

/// An open file of a simulated disk.
#[derive(Clone)]
pub struct File(Rc<Handle>);

struct Handle {
    disk: Rc<Disk>,
    memory: Rc<Memory>,
    inode: Inode,
    mode: OpenMode,
    /// The node's life in which it was opened, see [`Disk::life`].
    life: u64,
}

impl file::File for File {
    type Frozen = Frozen;

    async fn read(&self, position: u64, len: usize) -> io::Result<Frozen> {
        let memory = Rc::clone(&self.0.memory);
        let op = Op { position, len: len as u64, ..Op::new(OpKind::Read) };
        self.perform(op, None, move |at, inode| read(at, inode, position, len, &memory)).await
    }

    async fn write_durable(&self, bytes: Frozen, position: u64) -> io::Result<()> {
        let mode = self.0.mode;
        assert!(matches!(mode, OpenMode::Durable | OpenMode::CreateDurable), "durable write to a file opened {mode:?}");
        self.write_pages(bytes, position, true).await
    }

    async fn write(&self, bytes: Frozen, position: u64) -> io::Result<()> {
        let mode = self.0.mode;
        assert!(mode == OpenMode::CreateNew, "plain write to a file opened {mode:?}");
        self.write_pages(bytes, position, false).await
    }

    async fn sync(&self) -> io::Result<()> {
        let mark = self.0.disk.image.borrow().content(self.0.inode).mark();
        self.perform(Op::new(OpKind::Sync), None, move |at, inode| {
            let content = at.image.content_mut(inode);
            match at.effect {
                None | Some(Effect::Error(Reached::All)) => content.complete_sync(mark),
                Some(_) => content.fail_sync(mark),
            }
            at.effect.map_or(Ok(()), |_| Err(fault::io_error()))
        })
        .await
    }

    async fn allocate(&self, len: u64) -> io::Result<()> {
        assert!(self.0.mode != OpenMode::Read, "allocation in a file opened for reading");
        let op = Op { len, ..Op::new(OpKind::Allocate) };
        self.change(op, Change::Length(len), false, |at| at.apply()).await
    }

    async fn len(&self) -> io::Result<u64> {
        self.perform(Op::new(OpKind::Length), None, |at, inode| {
            at.under_fault(|image, _| Ok(image.content(inode).len()))
        })
        .await
    }
}

impl File {
    /// A handle of a file that [`super::Image::open`] counts.
    pub(super) fn new(disk: Rc<Disk>, memory: Rc<Memory>, inode: Inode, mode: OpenMode) -> Self {
        let life = disk.life.get();
        Self(Rc::new(Handle { disk, memory, inode, mode, life }))
    }

    async fn write_pages(&self, bytes: Frozen, position: u64, durable: bool) -> io::Result<()> {
        let len = bytes.len();
        let aligned = len.is_multiple_of(BLOCK_ALIGNMENT) && position.is_multiple_of(BLOCK_ALIGNMENT as u64);
        assert!(aligned, "write of {len} bytes at {position}, not multiples of {BLOCK_ALIGNMENT}");
        assert!(bytes.is_start_of_block(), "write of bytes that do not begin where their block does");
        let op = Op { kind: OpKind::Write, position, len: len as u64, digest: digest(&bytes) };
        let change = Change::Write(Extent::new(position, &bytes));
        self.change(op, change, durable, move |at| {
            let _read_by_the_device_until_now = bytes;
            write(at)
        })
        .await
    }

    /// Carries out a change of the file, if there is room for it.
    async fn change(
        &self,
        op: Op,
        change: Change,
        durable: bool,
        finish: impl FnOnce(&mut Completing<'_>) -> io::Result<()> + 'static,
    ) -> io::Result<()> {
        let end = change.end();
        let mutation = Mutation::Content { inode: self.0.inode, change, durable };
        self.perform(op, Some(mutation), move |at, inode| {
            let capacity_bytes = at.disk.options.borrow().capacity_bytes;
            at.image.check_space(inode, end, capacity_bytes)?;
            finish(at)
        })
        .await
    }

    /// An operation keeps its file open, as it would in a kernel.
    async fn perform<T: 'static>(
        &self,
        op: Op,
        mutation: Option<Mutation>,
        finish: impl FnOnce(&mut Completing<'_>, Inode) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let Handle { disk, inode, life, .. } = &*self.0;
        let inode = *inode;
        assert_eq!(disk.life.get(), *life, "a file was used that was open when its node crashed");
        disk.image.borrow_mut().open(inode);
        disk.perform(op, mutation, move |at| {
            let result = finish(at, inode);
            at.image.close(inode);
            result
        })
        .await
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.disk.life.get() == self.life {
            self.disk.image.borrow_mut().close(self.inode);
        }
    }
}

fn read(at: &Completing<'_>, inode: Inode, position: u64, len: usize, memory: &Rc<Memory>) -> io::Result<Frozen> {
    let content = at.image.content(inode);
    content.check_readable(position, len)?;
    let mut block = memory.block(len);
    let bytes = &mut block[..len];
    content.read(position, bytes);
    match at.effect {
        None => {}
        Some(Effect::StaleRead) => content.read_stale(position, bytes),
        Some(Effect::FlippedBit) => flip_bit(bytes, &at.disk.world.rng),
        Some(_) => return Err(fault::io_error()),
    }
    Ok(block.freeze(len))
}

fn write(at: &mut Completing<'_>) -> io::Result<()> {
    let Some(effect) = at.effect else { return at.apply() };
    let rng = &at.disk.world.rng;
    let Some(Mutation::Content { inode, mut change, mut durable }) = at.mutation.take() else {
        unreachable!("a write is a change of content")
    };
    let report = match effect {
        Effect::NoSpace => return Err(fault::no_space()),
        Effect::Error(Reached::Nothing) => return Err(fault::io_error()),
        Effect::LostWrite => return Ok(()),
        Effect::Error(reached) => {
            durable = false;
            if reached == Reached::Part {
                change = part_of(change, &mut |n| rng.below(n));
            }
            Err(fault::io_error())
        }
        Effect::MisdirectedWrite => {
            misdirect(&mut change, at.image.content(inode).len(), rng);
            Ok(())
        }
        Effect::FlippedBit => {
            flip_written_bit(&mut change, rng);
            Ok(())
        }
        Effect::StaleRead => unreachable!("faults befall only what they can"),
    };
    at.image.complete(Mutation::Content { inode, change, durable })?;
    report
}

/// Sends a write to other pages of a file of `len` bytes, or behind its end if there are none.
fn misdirect(change: &mut Change, len: u64, rng: &Rng) {
    if let Change::Write(extent) = change {
        let pages = (len / PAGE_BYTES as u64).max(2);
        let shift = 1 + rng.below(pages - 1);
        extent.first_page = ((extent.first_page as u64 + shift) % pages) as usize;
    }
}

fn flip_written_bit(change: &mut Change, rng: &Rng) {
    if let Change::Write(extent) = change {
        let page = rng.below(extent.pages.len() as u64) as usize;
        flip_bit(&mut Rc::make_mut(extent.pages[page].as_mut().expect("a new write is complete"))[..], rng);
    }
}

fn flip_bit(bytes: &mut [u8], rng: &Rng) {
    if !bytes.is_empty() {
        bytes[rng.below(bytes.len() as u64) as usize] ^= 1 << rng.below(8);
    }
}
