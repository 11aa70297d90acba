//! A simulated disk, and what it promises. It promises less than any real one, so that what survives here survives
//! everywhere.
//!
//! # Storage model
//!
//! **Visible.** A completed write is seen by every later read, synced or not. Operations take a random time and
//! complete in any order; a write in flight is not seen.
//!
//! **Durable**, and nothing else:
//! - what a [`write_durable`](crate::File::write_durable) wrote, once it completed, with the file length it needs;
//! - what a [`write`](crate::File::write) or [`allocate`](crate::File::allocate) did that completed before a
//!   [`sync`](crate::File::sync) of the file began, once that sync completed;
//! - a creation, rename or removal that completed before a [`sync_dir`](crate::Runtime::sync_dir) of its directory
//!   began, once that completed (a rename between directories: of both). A file whose creation was lost is gone, however
//!   often it was synced itself;
//! - created directories.
//!
//! **A power cut** ([`Crash::PowerCut`](super::Crash)) decides about the rest by the seed. Each 512-byte sector of a
//! completed write is old or new, on its own; one that was in flight may hold garbage too. A longer length is kept or
//! lost like a sector (of a write that extended the file any number of its pages), and what lies within the length but
//! was never written reads as zeros. Changes of names are kept or lost one by one, except that a lost one takes later
//! ones of the same names with it. What a reader sees after the cut is durable.
//!
//! **A kill** ([`Crash::Kill`](super::Crash)) keeps what completed, as unsynced as it was: a later power cut may still
//! take it. Operations in flight happen wholly, in part or not at all.
//!
//! **Faults** are asked for one by one, see [`Fault`]. A failed sync gives up on its writes, so that the next one
//! succeeds without them, as Linux does.
//!
//! Not modelled: two overlapping writes in flight take effect in the order in which they complete, whole.

mod chance;
mod content;
mod fault;
mod file;
mod image;
mod inspect;
mod names;
mod ops;
mod pages;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    ops::Range,
    rc::Rc,
};

pub use chance::{Choose, Odometer};
pub use fault::{Effect, Fault, OpKind, Reached};
pub use file::File;
pub use image::Image;

pub(super) use self::names::key;
use self::{fault::Faults, image::Mutation};
use super::{Crash, NodeId, completion::completion, trace::Event, world::World};

/// How a disk behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Duration of an operation in nanoseconds. Default: 5 to 150 us.
    pub latency_ns: Range<u64>,
    /// One operation in so many takes `slow_factor` times as long; 0 for none. Default: 64.
    pub slow_one_in: u64,
    /// See `slow_one_in`. Default: 50.
    pub slow_factor: u64,
    /// Room for files, in bytes; beyond it, operations fail with ENOSPC. Default: 1 TiB.
    pub capacity_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { latency_ns: 5_000..150_000, slow_one_in: 64, slow_factor: 50, capacity_bytes: 1 << 40 }
    }
}

/// The disk of one node. It outlives every crash of its node.
pub struct Disk {
    node: NodeId,
    world: Rc<World>,
    options: RefCell<Options>,
    image: RefCell<Image>,
    faults: RefCell<Faults>,
    /// What each operation in flight does when it completes; a crash forgets them all.
    pending: RefCell<BTreeMap<u64, Pending>>,
    next_op: Cell<u64>,
    /// Crashes so far: what was opened before the last one is closed.
    life: Cell<u64>,
    submitted: RefCell<BTreeMap<OpKind, u64>>,
    steps: Cell<u64>,
    crash_at: Cell<Option<(u64, Crash)>>,
    on_step: RefCell<Option<Box<StepHook>>>,
}

type StepHook = dyn FnMut(u64, &Image);

struct Pending {
    kind: OpKind,
    complete: Box<dyn FnOnce(&Disk)>,
}

/// One operation, for [`Disk::perform`] and the trace.
struct Op {
    kind: OpKind,
    position: u64,
    len: u64,
    digest: u64,
}

impl Op {
    fn new(kind: OpKind) -> Self {
        Self { kind, position: 0, len: 0, digest: 0 }
    }
}

/// An operation at the moment of its completion.
struct Completing<'a> {
    disk: &'a Disk,
    image: &'a mut Image,
    /// What was in flight until now.
    mutation: Option<Mutation>,
    effect: Option<Effect>,
}

impl Completing<'_> {
    /// Does what was in flight, under the fault.
    fn apply(&mut self) -> io::Result<()> {
        self.under_fault(|image, mutation| image.complete(mutation.expect("the operation has a mutation")))
    }

    /// Carries out an operation that has no parts, under the fault.
    fn under_fault<T>(
        &mut self,
        operation: impl FnOnce(&mut Image, Option<Mutation>) -> io::Result<T>,
    ) -> io::Result<T> {
        let carry_out = || operation(self.image, self.mutation.take());
        match self.effect {
            None => carry_out(),
            Some(Effect::Error(Reached::All)) => carry_out().and_then(|_| Err(fault::io_error())),
            Some(Effect::NoSpace) => Err(fault::no_space()),
            Some(_) => Err(fault::io_error()),
        }
    }
}

impl Disk {
    pub(super) fn new(node: NodeId, world: Rc<World>, options: Options) -> Self {
        Self {
            node,
            world,
            options: RefCell::new(options),
            image: RefCell::default(),
            faults: RefCell::default(),
            pending: RefCell::default(),
            next_op: Cell::new(0),
            life: Cell::new(0),
            submitted: RefCell::default(),
            steps: Cell::new(0),
            crash_at: Cell::new(None),
            on_step: RefCell::default(),
        }
    }

    /// Stops without warning.
    pub(super) fn crash(&self, crash: Crash) {
        drop(self.pending.take());
        self.life.set(self.life.get() + 1);
        self.crash_at.set(None);
        let mut choose = |n| self.world.rng.below(n);
        match crash {
            Crash::PowerCut => self.image.borrow_mut().power_cut_by(&mut choose),
            Crash::Kill => self.image.borrow_mut().kill_by(&mut choose),
        }
    }

    /// Forgets what is in flight and cannot complete any more.
    pub(super) fn close(&self) {
        drop(self.pending.take());
        drop(self.on_step.take());
    }

    /// Carries out an operation: after its latency, `finish` does to the image what the operation and its fault ask
    /// for. Until then a crash finds `mutation` in flight. It goes on when the caller stops waiting, as it would in a
    /// kernel.
    async fn perform<T: 'static>(
        self: &Rc<Self>,
        op: Op,
        mutation: Option<Mutation>,
        finish: impl FnOnce(&mut Completing<'_>) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let (completer, completion) = completion();
        let number = self.next_op.replace(self.next_op.get() + 1);
        let effect = self.faults.borrow_mut().take(op.kind);
        let complete = Box::new(move |disk: &Disk| {
            let result = {
                let image = &mut *disk.image.borrow_mut();
                let mutation = image.end(number);
                finish(&mut Completing { disk, image, mutation, effect })
            };
            completer.complete(result); // With nothing borrowed: an unwanted file closes here.
        });
        if let Some(mutation) = mutation {
            self.image.borrow_mut().begin(number, mutation);
        }
        self.submit(number, op, complete);
        completion.await
    }

    fn submit(self: &Rc<Self>, number: u64, op: Op, complete: Box<dyn FnOnce(&Disk)>) {
        let Op { kind, position, len, digest } = op;
        self.world.trace.record(Event::Submit { node: self.node, op: number, kind, position, len, digest });
        self.pending.borrow_mut().insert(number, Pending { kind, complete });
        *self.submitted.borrow_mut().entry(kind).or_default() += 1;
        let disk = Rc::clone(self);
        self.world.schedule(self.latency_ns(), move || disk.complete(number));
        self.step(kind);
    }

    fn complete(&self, number: u64) {
        let Some(Pending { kind, complete }) = self.pending.borrow_mut().remove(&number) else { return };
        complete(self);
        self.world.trace.record(Event::Complete { node: self.node, op: number, now_ns: self.world.clock.now_ns() });
        self.step(kind);
    }

    fn latency_ns(&self) -> u64 {
        let options = self.options.borrow();
        let latency_ns = self.world.rng.within(options.latency_ns.clone());
        if self.world.rng.one_in(options.slow_one_in) { latency_ns * options.slow_factor } else { latency_ns }
    }

    /// Counts the beginning or end of an operation that may change the disk.
    fn step(&self, kind: OpKind) {
        if !kind.changes_disk() {
            return;
        }
        let step = self.steps.get() + 1;
        self.steps.set(step);
        if let Some(hook) = self.on_step.borrow_mut().as_mut() {
            hook(step, &self.image.borrow());
        }
        if let Some((_, crash)) = self.crash_at.get().filter(|(at, _)| *at <= step) {
            self.crash_at.set(None);
            self.world.crashes_due.borrow_mut().push((self.node, crash));
        }
    }
}
