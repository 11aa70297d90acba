//! Everything a disk holds at one moment, the operations in flight included: cheap to clone, and able to show what any
//! crash at this moment would leave.

use std::{collections::BTreeMap, io};

use super::{
    chance::{Choose, PARTS, WHOLE_OR_PARTS},
    content::{Change, Content, Extent},
    fault,
    names::{Inode, NameChange, Names},
};
use crate::{
    file::DirEntry,
    sim::{Rng, trace},
};

/// A disk at one moment. Clone it to recover the same crash several times.
#[derive(Clone, Default)]
pub struct Image {
    pub(super) names: Names,
    contents: BTreeMap<Inode, Content>,
    /// How often each file is open.
    opens: BTreeMap<Inode, usize>,
    /// By the number of the operation.
    in_flight: BTreeMap<u64, Mutation>,
    next_inode: Inode,
}

/// What an operation will do to the disk when it completes.
#[derive(Clone)]
pub(super) enum Mutation {
    Content { inode: Inode, change: Change, durable: bool },
    Names(NameChange),
}

impl Image {
    /// Loses power: what was synced stays, of the rest `seed` decides. See [`super`] for the rules.
    pub fn power_cut(&mut self, seed: u64) {
        let rng = Rng::new(seed);
        self.power_cut_by(&mut |n| rng.below(n));
    }

    /// Loses power, asking `choose` for each decision.
    pub fn power_cut_by(&mut self, choose: &mut Choose<'_>) {
        self.lose_power(true, choose);
    }

    /// Loses power, asking `keeps` about every sector, length and name that is open: it is kept or lost, and there is no
    /// garbage. A sector that would be the same either way is not asked about.
    pub fn power_cut_keeping(&mut self, mut keeps: impl FnMut() -> bool) {
        self.lose_power(false, &mut |possible| match possible {
            WHOLE_OR_PARTS => PARTS,
            _ if keeps() => possible - 1,
            _ => 0,
        });
    }

    /// A hash of every name and every byte: images with equal ones are recovered alike. Meant for what a crash left, where
    /// nothing is unsynced.
    pub fn digest(&self) -> u64 {
        self.names.files().fold(0, |digest: u64, (path, inode)| {
            let file = trace::digest(path.as_bytes()) ^ self.content(inode).digest().rotate_left(1);
            (digest.rotate_left(5) ^ file).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    fn lose_power(&mut self, garbage: bool, choose: &mut Choose<'_>) {
        let mut torn: BTreeMap<Inode, Vec<Change>> = BTreeMap::new();
        for mutation in std::mem::take(&mut self.in_flight).into_values() {
            match mutation {
                Mutation::Content { inode, change, .. } => torn.entry(inode).or_default().push(change),
                Mutation::Names(change) => self.complete_by_chance(change, choose),
            }
        }
        self.names.power_cut(choose);
        self.close_all();
        for (inode, content) in &mut self.contents {
            content.power_cut(torn.remove(inode).unwrap_or_default(), garbage, choose);
        }
    }

    /// The process ends: what completed stays, unsynced as before, and of what was in flight some completes.
    pub fn kill(&mut self, seed: u64) {
        let rng = Rng::new(seed);
        self.kill_by(&mut |n| rng.below(n));
    }

    /// How many sectors, lengths and names a power cut at this moment may keep or lose.
    pub fn unsynced(&self) -> usize {
        let in_flight = self.in_flight.values().map(|mutation| match mutation {
            Mutation::Content { change, .. } => change.sectors(),
            Mutation::Names(_) => 1,
        });
        let contents = self.contents.values().map(Content::unsynced_sectors);
        self.names.unsynced() + contents.chain(in_flight).sum::<usize>()
    }

    pub(super) fn kill_by(&mut self, choose: &mut Choose<'_>) {
        for mutation in std::mem::take(&mut self.in_flight).into_values() {
            match mutation {
                Mutation::Names(change) => self.complete_by_chance(change, choose),
                Mutation::Content { inode, change, .. } => match choose(3) {
                    0 => {}
                    1 => self.complete_content(inode, change, false),
                    _ => self.complete_content(inode, part_of(change, choose), false),
                },
            }
        }
        self.close_all();
    }

    pub(super) fn begin(&mut self, op: u64, mutation: Mutation) {
        self.in_flight.insert(op, mutation);
    }

    /// The mutation of an operation that ends now.
    pub(super) fn end(&mut self, op: u64) -> Option<Mutation> {
        self.in_flight.remove(&op)
    }

    pub(super) fn complete(&mut self, mutation: Mutation) -> io::Result<()> {
        match mutation {
            Mutation::Content { inode, change, durable } => self.complete_content(inode, change, durable),
            Mutation::Names(change) => self.complete_names(change)?,
        }
        Ok(())
    }

    pub(super) fn forget_in_flight(&mut self) {
        self.in_flight.clear();
        self.close_all();
    }

    /// A number for a file that is about to be created.
    pub(super) fn new_inode(&mut self) -> Inode {
        self.next_inode += 1;
        self.next_inode
    }

    pub(super) fn content(&self, inode: Inode) -> &Content {
        self.contents.get(&inode).expect("an open or named file has content")
    }

    pub(super) fn content_mut(&mut self, inode: Inode) -> &mut Content {
        self.contents.get_mut(&inode).expect("an open or named file has content")
    }

    pub(super) fn list(&self, directory: &str) -> io::Result<Vec<DirEntry>> {
        let names = self.names.list(directory)?;
        Ok(names.into_iter().map(|(name, inode)| DirEntry { name, len: self.content(inode).len() }).collect())
    }

    /// # Errors
    /// ENOSPC if a file that reached `end` would not fit into `capacity_bytes`.
    pub(super) fn check_space(&self, inode: Inode, end: u64, capacity_bytes: u64) -> io::Result<()> {
        let growth = end.saturating_sub(self.content(inode).len());
        match growth > 0 && self.used_bytes() + growth > capacity_bytes {
            true => Err(fault::no_space()),
            false => Ok(()),
        }
    }

    /// Bytes of all files that have a name or are open.
    pub(super) fn used_bytes(&self) -> u64 {
        let unnamed = self.opens.keys().filter(|&&inode| self.names.files().all(|(_, named)| named != inode));
        let files = self.names.files().map(|(_, inode)| inode).chain(unnamed.copied());
        files.map(|inode| self.content(inode).len()).sum()
    }

    pub(super) fn open(&mut self, inode: Inode) {
        *self.opens.entry(inode).or_default() += 1;
    }

    pub(super) fn close(&mut self, inode: Inode) {
        let Some(count) = self.opens.get_mut(&inode) else { return };
        *count -= 1;
        if *count == 0 {
            self.opens.remove(&inode);
            self.forget_unreachable();
        }
    }

    /// Frees the contents that no name, no crash and no open file can reach.
    pub(super) fn forget_unreachable(&mut self) {
        if self.names.files().count() < self.contents.len() {
            let referenced = self.names.references();
            self.contents.retain(|inode, _| referenced.contains(inode) || self.opens.contains_key(inode));
        }
    }

    fn complete_content(&mut self, inode: Inode, change: Change, durable: bool) {
        self.content_mut(inode).complete(change, durable);
    }

    fn complete_names(&mut self, change: NameChange) -> io::Result<()> {
        let created = match change {
            NameChange::Create { inode, .. } => Some(inode),
            _ => None,
        };
        self.names.complete(change)?;
        if let Some(inode) = created {
            self.contents.insert(inode, Content::default());
        }
        Ok(())
    }

    /// Of names in flight at a crash, those that would have failed fail unseen.
    fn complete_by_chance(&mut self, change: NameChange, choose: &mut Choose<'_>) {
        if choose(2) == 1 {
            let _unseen = self.complete_names(change);
        }
    }

    fn close_all(&mut self) {
        self.opens.clear();
        self.forget_unreachable();
    }
}

/// Some pages of a write; a new length has no parts.
pub(super) fn part_of(change: Change, choose: &mut Choose<'_>) -> Change {
    match change {
        Change::Length(len) => Change::Length(len),
        Change::Write(Extent { first_page, mut pages }) => {
            let end = choose(pages.len() as u64) as usize;
            pages.truncate(end);
            pages.iter_mut().for_each(|page| {
                if choose(4) == 0 {
                    *page = None;
                }
            });
            Change::Write(Extent { first_page, pages })
        }
    }
}
