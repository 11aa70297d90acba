//! Sync groups waiting for their turn: the last one open for more entries, those before it full.

use std::{collections::VecDeque, rc::Rc};

use runtime::Runtime;

use crate::{
    Durability,
    group::{Builder, Entry, EntryKind, Tail},
    partition::State,
    synced::Lsn,
};

/// A group that has its number and is not yet on its way.
pub(super) struct Pending<R: Runtime> {
    pub(super) group: Builder<R::Block>,
    pub(super) lsn: Lsn,
    /// The partitions with batches in it, and how far it takes each.
    pub(super) touched: Vec<Touched>,
    /// Whether one of them is a `memory` partition, which may be seen once the group is on its way.
    pub(super) shows_early: bool,
    /// Reservations that hold once it is synced.
    pub(super) reserved: Vec<Touched>,
    /// Partitions that other entries are about.
    named: Vec<Tail>,
    /// Around a batch's own block: takes no more entries.
    whole: bool,
    bytes: usize,
}

/// A partition and an offset that a group takes it to.
pub(super) struct Touched {
    pub(super) state: Rc<State>,
    pub(super) next_offset: u64,
}

impl Touched {
    pub(super) fn tail(&self) -> Tail {
        Tail { partition: self.state.id, next_offset: self.next_offset }
    }
}

/// The groups in order.
pub(super) struct Queue<R: Runtime> {
    pending: VecDeque<Pending<R>>,
    lsn_next: Lsn,
    lsn_last: Lsn,
    /// Tails of the last group taken: the next one carries them.
    tails_taken: Vec<Tail>,
    /// Entries of that group, and partitions they were about: the next one will mostly be as large, and lists that grow from
    /// nothing cost more than what is put into them.
    entries_taken: usize,
    touched_taken: usize,
    bytes: usize,
}

impl<R: Runtime> Queue<R> {
    /// A queue behind group `lsn_last`, whose tails the first group taken will carry.
    pub(super) fn new(lsn_next: Lsn, lsn_last: Lsn, tails: Vec<Tail>) -> Self {
        assert!(lsn_next > lsn_last, "numbers only grow");
        Self {
            pending: VecDeque::new(),
            lsn_next,
            lsn_last,
            tails_taken: tails,
            entries_taken: 0,
            touched_taken: 0,
            bytes: 0,
        }
    }

    #[inline]
    pub(super) fn push(
        &mut self,
        rt: &R,
        state: &Rc<State>,
        entry: Entry,
        payload: &[u8],
        patch: impl FnOnce(&mut [u8]),
    ) -> Lsn {
        let tails = self.tails_before_last();
        if !self.pending.back().is_some_and(|open| !open.whole && open.group.fits(payload.len(), tails)) {
            let tails = self.tails_before_next();
            let block = rt.block(Builder::<R::Block>::block_bytes_for(payload.len(), tails));
            self.open(Builder::for_entries(block, self.entries_taken), false);
        }
        let open = self.pending.back_mut().expect("just opened");
        patch(open.group.push(entry, payload));
        open.bytes += payload.len();
        self.bytes += payload.len();
        open.touch(state, entry);
        open.lsn
    }

    pub(super) fn push_block(
        &mut self,
        rt: &R,
        state: &Rc<State>,
        entry: Entry,
        block: R::Block,
        batch_bytes: usize,
    ) -> Lsn {
        let bytes_needed = Builder::<R::Block>::block_bytes_for(batch_bytes, self.tails_before_next());
        let block = if bytes_needed <= block.len() {
            block
        } else {
            // So many partitions were in the group before that their tails do not fit behind the batch.
            let mut larger = rt.block(bytes_needed);
            let batch = crate::group::HEADER_BYTES..crate::group::HEADER_BYTES + batch_bytes;
            larger[batch.clone()].copy_from_slice(&block[batch]);
            larger
        };
        self.open(Builder::around(block, entry, batch_bytes), true);
        let own = self.pending.back_mut().expect("just opened");
        own.bytes = batch_bytes;
        self.bytes += batch_bytes;
        own.touch(state, entry);
        own.lsn
    }

    /// Takes the next group to write, with the tails of the one before it and that one's LSN.
    pub(super) fn take(&mut self, lsn_previous: Lsn) -> Option<(Pending<R>, Vec<Tail>, Lsn)> {
        let pending = self.pending.pop_front()?;
        self.bytes -= pending.bytes;
        (self.entries_taken, self.touched_taken) = (pending.group.entries().len(), pending.touched.len());
        let own_tails = pending.touched.iter().map(Touched::tail).chain(pending.named.iter().copied());
        let tails = std::mem::replace(&mut self.tails_taken, own_tails.collect());
        Some((pending, tails, lsn_previous))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Groups waiting, the open one included.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of entries waiting.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn lsn_next(&self) -> Lsn {
        self.lsn_next
    }

    /// The last LSN handed out.
    pub(super) fn lsn_last(&self) -> Lsn {
        self.lsn_last
    }

    fn open(&mut self, group: Builder<R::Block>, whole: bool) {
        let lsn = self.lsn_next;
        self.lsn_next += 1;
        self.lsn_last = lsn;
        self.pending.push_back(Pending {
            group,
            lsn,
            touched: Vec::with_capacity(if whole { 1 } else { self.touched_taken }),
            shows_early: false,
            reserved: Vec::new(),
            named: Vec::new(),
            whole,
            bytes: 0,
        });
    }

    /// Number of tails that the last group will carry.
    fn tails_before_last(&self) -> usize {
        match self.pending.len() {
            0 | 1 => self.tails_taken.len(),
            count => self.pending[count - 2].tail_count(),
        }
    }

    /// Number of tails that a group opened now will carry.
    fn tails_before_next(&self) -> usize {
        self.pending.back().map_or(self.tails_taken.len(), Pending::tail_count)
    }
}

impl<R: Runtime> Pending<R> {
    #[inline]
    fn touch(&mut self, state: &Rc<State>, entry: Entry) {
        let next_offset = entry.next_offset;
        match entry.kind {
            EntryKind::Batch => {
                // A partition remembers its place in the list of the group it was touched by last.
                let (lsn, place) = state.touched_in.get();
                if lsn == self.lsn {
                    self.touched[place].next_offset = next_offset;
                } else {
                    state.touched_in.set((self.lsn, self.touched.len()));
                    self.shows_early |= state.durability() == Durability::Memory;
                    self.touched.push(Touched { state: state.clone(), next_offset });
                }
            }
            EntryKind::Reserve => {
                self.reserved.push(Touched { state: state.clone(), next_offset });
                if state.touched_in.get().0 != self.lsn {
                    self.named.push(Tail { partition: state.id, next_offset: entry.base_offset });
                }
            }
            EntryKind::Truncate | EntryKind::LogStart | EntryKind::Drop => {
                self.named.push(Tail { partition: state.id, next_offset });
            }
            EntryKind::Marker | EntryKind::Edit => {}
        }
    }

    fn tail_count(&self) -> usize {
        self.touched.len() + self.named.len()
    }
}
