//! What one file holds, as its readers see it and as a power cut may leave it.
//!
//! `durable` is on the medium for certain. On top of it lie the *unsynced* changes, in the order in which they
//! completed; `visible` is the sum of both. A sync moves changes from the list to the medium, and a power cut decides
//! for each sector of each change whether it got there.

use std::{collections::BTreeSet, io, ops::Range, rc::Rc};

use super::{
    chance::{Choose, WHOLE_OR_PARTS},
    fault,
    pages::{PAGE_BYTES, Page, Pages, SECTOR_BYTES},
};

#[derive(Clone, Default)]
pub(super) struct Content {
    visible: Pages,
    visible_len: u64,
    durable: Pages,
    durable_len: u64,
    /// The page before the last write to it: what a stale read returns.
    previous: Pages,
    unsynced: Vec<Unsynced>,
    /// Changes completed so far; the next one's number.
    completed: u64,
    /// Sectors that cannot be read until they are written again.
    bad_sectors: BTreeSet<u64>,
}

#[derive(Clone)]
struct Unsynced {
    number: u64,
    change: Change,
    /// A sync that should have covered it failed: no later one will.
    given_up: bool,
}

/// What an operation does to a file.
#[derive(Clone)]
pub(super) enum Change {
    /// Whole pages.
    Write(Extent),
    /// A new length, if larger than the old one.
    Length(u64),
}

/// Pages that follow one another; an absent one is left alone.
#[derive(Clone)]
pub(super) struct Extent {
    pub(super) first_page: usize,
    pub(super) pages: Vec<Option<Rc<Page>>>,
}

impl Extent {
    pub(super) fn new(position: u64, bytes: &[u8]) -> Self {
        let first_page = (position / PAGE_BYTES as u64) as usize;
        let pages =
            bytes.chunks_exact(PAGE_BYTES).map(|page| Some(Rc::new(page.try_into().expect("a whole page")))).collect();
        Self { first_page, pages }
    }

    fn range(&self) -> Range<usize> {
        self.first_page..self.first_page + self.pages.len()
    }

    /// Where a file that holds this ends at least.
    pub(super) fn end(&self) -> u64 {
        (self.range().end * PAGE_BYTES) as u64
    }

    fn present(&self) -> impl Iterator<Item = (usize, &Rc<Page>)> {
        self.range().zip(&self.pages).filter_map(|(index, page)| Some((index, page.as_ref()?)))
    }

    /// Leaves out the pages of `range`, which something newer covers.
    fn cut(&mut self, range: &Range<usize>) {
        let own = self.range();
        for index in range.start.max(own.start)..range.end.min(own.end) {
            self.pages[index - own.start] = None;
        }
    }
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.visible_len
    }

    /// The next change's number: a sync that begins now covers those below it.
    pub(super) fn mark(&self) -> u64 {
        self.completed
    }

    /// # Errors
    /// `UnexpectedEof` if the file ends before `position + len`, EIO on a bad sector.
    pub(super) fn check_readable(&self, position: u64, len: usize) -> io::Result<()> {
        let end = position.checked_add(len as u64).filter(|&end| end <= self.visible_len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let sectors = position / SECTOR_BYTES as u64..end.div_ceil(SECTOR_BYTES as u64);
        match sectors.is_empty() || self.bad_sectors.range(sectors).next().is_none() {
            true => Ok(()),
            false => Err(fault::io_error()),
        }
    }

    /// What is there; zeros where nothing is.
    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) {
        self.visible.read(position, buffer);
    }

    /// What a disk that forgot the last write to these pages would return.
    pub(super) fn read_stale(&self, position: u64, buffer: &mut [u8]) {
        self.previous.read(position, buffer);
    }

    /// Applies a completed change. If `durable`, it is on the medium now, and nothing else is.
    pub(super) fn complete(&mut self, change: Change, durable: bool) {
        self.show(&change);
        match durable {
            true => self.persist(change),
            false => self.unsynced.push(Unsynced { number: self.completed, change, given_up: false }),
        }
        self.completed += 1;
    }

    /// Completes a sync that began at `mark`.
    pub(super) fn complete_sync(&mut self, mark: u64) {
        for unsynced in std::mem::take(&mut self.unsynced) {
            match unsynced.number < mark && !unsynced.given_up {
                true => self.persist(unsynced.change),
                false => self.unsynced.push(unsynced),
            }
        }
    }

    /// A sync failed: the changes it covered count as written from now on, though nobody knows whether they were.
    pub(super) fn fail_sync(&mut self, mark: u64) {
        for unsynced in self.unsynced.iter_mut().filter(|unsynced| unsynced.number < mark) {
            unsynced.given_up = true;
        }
    }

    /// Leaves what the medium holds after a power cut: of each unsynced change some sectors, and of those in flight
    /// some sectors with garbage in them, unless there is to be none.
    pub(super) fn power_cut(
        &mut self,
        in_flight: impl IntoIterator<Item = Change>,
        garbage: bool,
        choose: &mut Choose<'_>,
    ) {
        for unsynced in std::mem::take(&mut self.unsynced) {
            self.tear(&unsynced.change, false, choose);
        }
        for change in in_flight {
            self.tear(&change, garbage, choose);
        }
        self.durable.truncate(self.durable_len);
        self.visible = self.durable.clone();
        self.visible_len = self.durable_len;
    }

    /// Sectors whose state after a power cut is open, counted once for each change.
    pub(super) fn unsynced_sectors(&self) -> usize {
        self.unsynced.iter().map(|unsynced| unsynced.change.sectors()).sum()
    }

    /// A hash of what readers see.
    pub(super) fn digest(&self) -> u64 {
        self.visible.digest() ^ self.visible_len
    }

    /// Overwrites bytes behind the file system's back, readable at once and durable.
    pub(super) fn damage(&mut self, position: u64, bytes: &[u8]) {
        assert!(position + bytes.len() as u64 <= self.visible_len, "damage beyond the end of the file");
        self.visible.write(position, bytes);
        self.durable.write(position, bytes);
    }

    /// Cuts the file behind the file system's back.
    pub(super) fn damage_len(&mut self, len: u64) {
        for (pages, pages_len) in
            [(&mut self.visible, &mut self.visible_len), (&mut self.durable, &mut self.durable_len)]
        {
            *pages_len = len.min(*pages_len);
            pages.truncate(*pages_len);
        }
    }

    /// Makes the sector at `position` unreadable until it is written again.
    pub(super) fn damage_sector(&mut self, position: u64) {
        self.bad_sectors.insert(position / SECTOR_BYTES as u64);
    }

    fn show(&mut self, change: &Change) {
        match change {
            Change::Length(len) => self.visible_len = self.visible_len.max(*len),
            Change::Write(extent) => {
                self.visible_len = self.visible_len.max(extent.end());
                for (index, page) in extent.present() {
                    let before = self.visible.replace(index, Some(Rc::clone(page)));
                    self.previous.replace(index, before);
                    self.heal(index);
                }
            }
        }
    }

    /// Puts a change on the medium. Older ones of the same pages no longer matter.
    fn persist(&mut self, change: Change) {
        match change {
            Change::Length(len) => self.durable_len = self.durable_len.max(len),
            Change::Write(extent) => {
                self.durable_len = self.durable_len.max(extent.end());
                for (index, page) in extent.present() {
                    self.durable.replace(index, Some(Rc::clone(page)));
                }
                for older in &mut self.unsynced {
                    if let Change::Write(older) = &mut older.change {
                        older.cut(&extent.range());
                    }
                }
            }
        }
    }

    /// Puts on the medium what a power cut leaves of a change: nothing, everything, or any sectors of it. The first
    /// two are chosen more often than chance would, because they are what recovery sees most.
    fn tear(&mut self, change: &Change, garbage: bool, choose: &mut Choose<'_>) {
        let fate = choose(WHOLE_OR_PARTS);
        match (fate, change) {
            (0, _) => {}
            (1, change) => self.persist(change.clone()),
            (_, Change::Length(len)) if choose(2) == 1 => self.durable_len = self.durable_len.max(*len),
            (_, Change::Length(_)) => {}
            (_, Change::Write(extent)) => {
                self.durable_len += partial_growth(self.durable_len, extent.end(), choose);
                for (index, page) in extent.present() {
                    self.tear_page(index, page, garbage, choose);
                }
            }
        }
    }

    fn tear_page(&mut self, index: usize, page: &Page, garbage: bool, choose: &mut Choose<'_>) {
        for start in (0..PAGE_BYTES).step_by(SECTOR_BYTES) {
            let sector = start..start + SECTOR_BYTES;
            if !garbage && self.durable.page_mut(index)[sector.clone()] == page[sector.clone()] {
                continue;
            }
            match choose(if garbage { 3 } else { 2 }) {
                0 => {}
                1 => self.durable.page_mut(index)[sector.clone()].copy_from_slice(&page[sector]),
                _ => self.durable.page_mut(index)[sector].fill(choose(256) as u8),
            }
        }
    }

    fn heal(&mut self, page: usize) {
        if !self.bad_sectors.is_empty() {
            let first = (page * PAGE_BYTES / SECTOR_BYTES) as u64;
            let healed = first..first + (PAGE_BYTES / SECTOR_BYTES) as u64;
            self.bad_sectors.retain(|sector| !healed.contains(sector));
        }
    }
}

impl Change {
    /// Where a file that holds this ends at least.
    pub(super) fn end(&self) -> u64 {
        match self {
            Self::Write(extent) => extent.end(),
            Self::Length(len) => *len,
        }
    }

    pub(super) fn sectors(&self) -> usize {
        match self {
            Self::Write(extent) => extent.present().count() * (PAGE_BYTES / SECTOR_BYTES),
            Self::Length(_) => 1,
        }
    }
}

/// By how much a write that reaches `end` grew a file of `len` bytes: any number of the pages it added.
fn partial_growth(len: u64, end: u64, choose: &mut Choose<'_>) -> u64 {
    let pages = end.saturating_sub(len).div_ceil(PAGE_BYTES as u64);
    let grown = (len / PAGE_BYTES as u64 + choose(pages + 1)) * PAGE_BYTES as u64;
    grown.clamp(len, end.max(len)) - len
}
