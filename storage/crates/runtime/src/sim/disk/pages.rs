//! Bytes of a file as shared 4 KiB pages: a copy of a whole disk costs one pointer a page.

use std::rc::Rc;

use crate::sim::trace::digest as digest_of;

pub(super) const PAGE_BYTES: usize = 4096;
/// The unit in which a disk keeps or loses data.
pub(super) const SECTOR_BYTES: usize = 512;

pub(super) type Page = [u8; PAGE_BYTES];

/// A sparse array of pages; an absent one is all zeros.
#[derive(Clone, Default)]
pub(super) struct Pages(Vec<Option<Rc<Page>>>);

impl Pages {
    /// Puts a page at `index` and returns what was there.
    pub(super) fn replace(&mut self, index: usize, page: Option<Rc<Page>>) -> Option<Rc<Page>> {
        if index >= self.0.len() {
            page.as_ref()?; // What is absent may stay so.
            self.0.resize(index + 1, None);
        }
        std::mem::replace(&mut self.0[index], page)
    }

    pub(super) fn page(&self, index: usize) -> Option<&Rc<Page>> {
        self.0.get(index)?.as_ref()
    }

    /// The page at `index`, to be changed; it is copied first if someone shares it.
    pub(super) fn page_mut(&mut self, index: usize) -> &mut Page {
        if index >= self.0.len() {
            self.0.resize(index + 1, None);
        }
        Rc::make_mut(self.0[index].get_or_insert_with(|| Rc::new([0; PAGE_BYTES])))
    }

    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) {
        each_page(position, buffer.len(), |index, within, range| match self.page(index) {
            Some(page) => buffer[range.clone()].copy_from_slice(&page[within..within + range.len()]),
            None => buffer[range].fill(0),
        });
    }

    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) {
        each_page(position, bytes.len(), |index, within, range| {
            self.page_mut(index)[within..within + range.len()].copy_from_slice(&bytes[range]);
        });
    }

    /// A hash of all bytes that are not zero, and where they are.
    pub(super) fn digest(&self) -> u64 {
        let pages = self.0.iter().enumerate().filter_map(|(index, page)| Some((index, page.as_ref()?)));
        let written = pages.filter(|(_, page)| page.iter().any(|&byte| byte != 0));
        written.fold(0, |digest: u64, (index, page)| digest.rotate_left(7) ^ digest_of(&page[..]) ^ index as u64)
    }

    /// Turns everything from `len` on into zeros.
    pub(super) fn truncate(&mut self, len: u64) {
        let whole = (len / PAGE_BYTES as u64) as usize;
        let rest = (len % PAGE_BYTES as u64) as usize;
        self.0.truncate(whole + usize::from(rest > 0));
        if rest > 0 && self.page(whole).is_some() {
            self.page_mut(whole)[rest..].fill(0);
        }
    }
}

/// Calls `part(page, position within it, range of the whole)` for each page that `len` bytes at `position` touch.
fn each_page(position: u64, len: usize, mut part: impl FnMut(usize, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = position + done as u64;
        let within = (at % PAGE_BYTES as u64) as usize;
        let count = (PAGE_BYTES - within).min(len - done);
        part((at / PAGE_BYTES as u64) as usize, within, done..done + count);
        done += count;
    }
}
