//! Blocks of segments in memory: read once, proven once, shared by all who want them, given up when the memory is needed.
//!
//! ```text
//!   SegmentReader::read ──> there? ──yes──> slices of extents, no copy
//!                             │ no
//!                             ├── on its way? ──> wait for that read
//!                             └── load: one read of the disk, checksums, into the queues ──> wake all who wait
//!   Segments::read_first ──> readers: who reads on ──> wishes ──> load, a few at a time, ahead of need
//! ```
//!
//! The one hard idea: an *extent* is what one read of the disk brought, 1 to 16 blocks; it is one piece of memory, one
//! checksum pass and one member of the queues, and it is found by each of its blocks. A point lookup makes small ones, a
//! catch-up reader those of 1 MiB, which fill a block of the runtime's pool: fresh memory for each would cost more than
//! copying into memory that is used again, and the disk is read 512 KiB at a time, two at once; while the log is written
//! to, 128 KiB and one after the other.
//!
//! Direct I/O has no page cache, so this is all there is between a segment and its readers. Three promises:
//! - **Bounded.** Extents, those on their way among them, and the footers of open segments together keep to
//!   `LogOptions::cache_bytes`. Footers take up to a half and what they leave is for extents: without its footer no read
//!   finds a block. What a slow consumer holds after it was given up is charged to its connection, whole extents at a time.
//! - **A scan harms nobody.** Tail consumers read from memtables, whose memory is another share. In here see [`queues`].
//! - **Proven.** Checksums are computed when an extent enters memory. What is served from memory later was proven then;
//!   the memory itself is trusted, as that of memtables is.

mod queues;
mod readers;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    ops::Range,
    rc::{Rc, Weak},
};

use runtime::{Frozen, Notify, Runtime, sabotage::planted};
use rustc_hash::FxHashMap;

pub(crate) use self::readers::Reader;
use self::{
    queues::{Member, Queues, Standing},
    readers::Readers,
};
use crate::{
    PartitionId, Writes,
    segment::{SegmentError, SegmentId, checksum::BLOCK_BYTES, reader::SegmentReader},
};

/// The most that an extent is: a block of the runtime's pool in production.
const EXTENT_BYTES_MAX: usize = 1 << 20;
const EXTENT_BLOCKS_MAX: u64 = (EXTENT_BYTES_MAX / BLOCK_BYTES) as u64;
/// Reads of one request under way at once.
const LOADS_OF_REQUEST: usize = 4;
/// Nothing is read ahead while so many reads are under way: more would only let writes of the log wait.
const LOADS_AHEAD_MAX: usize = 2;
/// One reader is read ahead for by at most one part in so many of all extents.
const WINDOW_PART: usize = 16;

/// What the cache did since it was made, and holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes of extents in memory or on their way.
    pub bytes: u64,
    /// Uses of extents that were in memory or on their way.
    pub hits: u64,
    /// Reads of the disk that someone waited for from their start.
    pub misses: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Those of them that were read ahead of need.
    pub ahead_bytes: u64,
}

impl CacheStats {
    /// Of two caches together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            read_bytes: self.read_bytes + other.read_bytes,
            ahead_bytes: self.ahead_bytes + other.ahead_bytes,
        }
    }
}

/// See the module.
pub(crate) struct BlockCache<R: Runtime> {
    rt: R,
    writes: Rc<Writes>,
    bytes_max: usize,
    /// Taken from `bytes_max` by the footers of open segments.
    footer_bytes: Cell<usize>,
    /// By the first of their blocks.
    extents: RefCell<FxHashMap<SegmentId, Extents<R::Frozen>>>,
    queues: RefCell<Queues<Extent<R::Frozen>>>,
    readers: RefCell<Readers>,
    /// What is to be read ahead, whose turn comes first in front.
    wishes: RefCell<VecDeque<Wish<R>>>,
    loads: Cell<usize>,
    loading_bytes: Cell<usize>,
    loading_ahead_bytes: Cell<usize>,
    closing: Cell<bool>,
    idle: Notify,
    stats: Cell<CacheStats>,
}

/// Those of one segment, by the first of their blocks.
type Extents<F> = BTreeMap<u64, Rc<Extent<F>>>;

/// Blocks of a segment that one read brings.
struct Extent<F> {
    segment: SegmentId,
    /// By number.
    blocks: Range<u64>,
    /// Memory it takes: once it is there, all that its bytes keep from others.
    memory_bytes: Cell<usize>,
    content: RefCell<Content<F>>,
    /// Whether nobody asked for it yet.
    is_ahead: Cell<bool>,
    loaded: Notify,
    standing: Standing,
}

enum Content<F> {
    Loading,
    Loaded(F),
    /// Told to whoever asked for it; others ask for themselves.
    Failed(Option<SegmentError>),
}

/// Blocks to be read ahead, as long as the segment is open.
struct Wish<R: Runtime> {
    file: Weak<SegmentReader<R>>,
    blocks: Range<u64>,
}

impl<R: Runtime> BlockCache<R> {
    /// A cache of `bytes_max` bytes, footers included, of a log with these writes.
    pub(crate) fn new(rt: &R, bytes_max: usize, writes: Rc<Writes>) -> Rc<Self> {
        Rc::new(Self {
            rt: rt.clone(),
            writes,
            bytes_max,
            footer_bytes: Cell::new(0),
            extents: RefCell::default(),
            queues: RefCell::new(Queues::new()),
            readers: RefCell::default(),
            wishes: RefCell::default(),
            loads: Cell::new(0),
            loading_bytes: Cell::new(0),
            loading_ahead_bytes: Cell::new(0),
            closing: Cell::new(false),
            idle: Notify::default(),
            stats: Cell::default(),
        })
    }

    /// The reader who goes on at this offset of a partition.
    pub(crate) fn arrive(&self, partition: PartitionId, offset: u64) -> Reader {
        self.readers.borrow_mut().arrive(partition, offset)
    }

    /// The segment that the reader who goes on at this offset used last.
    pub(crate) fn last_used(&self, partition: PartitionId, offset: u64) -> Option<SegmentId> {
        self.readers.borrow().known(partition, offset)?.used.map(|(segment, _)| segment)
    }

    /// It read so many bytes and will go on at `next_offset`.
    pub(crate) fn leave(&self, reader: Reader, next_offset: u64, bytes: usize) {
        let window_bytes_max = (self.extent_bytes_max() / WINDOW_PART) as u64;
        self.readers.borrow_mut().leave(reader, next_offset, bytes as u64, window_bytes_max);
    }

    /// The bytes at `range` of a segment, proven, in as many pieces as extents hold them.
    pub(crate) async fn read(
        self: &Rc<Self>,
        file: &Rc<SegmentReader<R>>,
        range: Range<u64>,
        reader: &mut Reader,
    ) -> Result<Vec<R::Frozen>, SegmentError> {
        let mut pieces = Vec::with_capacity(2);
        let blocks = blocks_of(&range);
        let (mut position, mut next_block) = (range.start, blocks.start);
        // What is on the list to be read ahead for it and was not begun is read now, in pieces as large.
        let mut end_block = blocks.end.max(reader.ahead_in(file.id()).div_ceil(BLOCK_BYTES as u64));
        let mut wanted = VecDeque::new();
        while position < range.end {
            while wanted.len() < LOADS_OF_REQUEST && next_block < blocks.end {
                let (extent, is_new) = self.extent(file, next_block..end_block);
                let is_own = is_new && extent.blocks.end <= blocks.end;
                next_block = extent.blocks.end;
                wanted.push_back((extent, is_own));
            }
            let (extent, is_own) = wanted.pop_front().expect("the range lies in the blocks wanted");
            match extent.bytes(is_own).await {
                Ok(bytes) => {
                    let start = extent.start();
                    let end = (start + bytes.len() as u64).min(range.end);
                    pieces.push(bytes.slice((position - start) as usize..(end - start) as usize));
                    position = end;
                    self.used(&extent, reader);
                }
                Err(Some(error)) => return Err(error),
                // Of what was read with others, these blocks may be the sound ones: they are asked for alone.
                Err(None) => {
                    wanted.clear();
                    end_block = blocks.end;
                    next_block = position / BLOCK_BYTES as u64;
                }
            }
        }
        Ok(pieces)
    }

    /// A reader stands at `position` of a segment whose bytes are of use to it up to `end`: has the disk be as far ahead
    /// of it as its pace asks for. Says whether it will soon want what follows `end`, in another segment.
    pub(crate) fn read_ahead(
        self: &Rc<Self>,
        file: &Rc<SegmentReader<R>>,
        position: u64,
        end: u64,
        reader: &mut Reader,
    ) -> bool {
        self.wish(file, reader.plan(file.id(), position, end, 0));
        reader.reaches_beyond(position, end)
    }

    /// The same of the segment that the reader comes to when it has read `bytes_before` more bytes.
    pub(crate) fn read_ahead_next(
        self: &Rc<Self>,
        file: &Rc<SegmentReader<R>>,
        span: Range<u64>,
        bytes_before: u64,
        reader: &mut Reader,
    ) {
        self.wish(file, reader.plan(file.id(), span.start, span.end, bytes_before));
    }

    /// Gives up what it holds of a segment, whose file is to be removed.
    pub(crate) fn forget(&self, segment: SegmentId) {
        let extents = self.extents.borrow_mut().remove(&segment).unwrap_or_default();
        for extent in extents.into_values() {
            self.queues.borrow_mut().remove(&extent);
            // Its place in a queue is passed over later; its memory goes now.
            let content = &mut *extent.content.borrow_mut();
            if matches!(content, Content::Loaded(_)) {
                *content = Content::Failed(None);
            }
        }
    }

    /// The footers of open segments grew by so many bytes.
    pub(crate) fn take_for_footer(&self, bytes: usize) {
        self.footer_bytes.set(self.footer_bytes.get() + bytes);
        self.shrink();
    }

    /// They shrank.
    pub(crate) fn give_back_of_footer(&self, bytes: usize) {
        self.footer_bytes.set(self.footer_bytes.get() - bytes);
    }

    /// Bytes of the footers of open segments.
    pub(crate) fn footer_bytes(&self) -> usize {
        self.footer_bytes.get()
    }

    /// Whether footers have more than their share.
    pub(crate) fn footers_press(&self) -> bool {
        self.footer_bytes.get() > self.bytes_max / 2
    }

    /// Reads nothing ahead any more, and waits until no read is under way.
    pub(crate) async fn close(&self) {
        self.closing.set(true);
        self.wishes.borrow_mut().clear();
        self.idle.until(|| (self.loads.get() == 0).then_some(())).await;
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let bytes = self.queues.borrow().bytes() + self.loading_bytes.get();
        CacheStats { bytes: bytes as u64, ..self.stats.get() }
    }

    /// The extent that has the first of these blocks. It is read if there is none, and then new and holds no others but
    /// these.
    fn extent(self: &Rc<Self>, file: &Rc<SegmentReader<R>>, blocks: Range<u64>) -> (Rc<Extent<R::Frozen>>, bool) {
        match self.find(file.id(), &blocks) {
            Found::Extent(extent)
                if planted("join no read") && matches!(*extent.content.borrow(), Content::Loading) =>
            {
                (self.load(file, blocks, false), true)
            }
            Found::Extent(extent) => {
                self.count(|stats| stats.hits += 1);
                extent.is_ahead.set(false);
                (extent, false)
            }
            Found::Missing(blocks) => {
                self.count(|stats| stats.misses += 1);
                (self.load(file, blocks, false), true)
            }
        }
    }

    /// What there is of these blocks, or how many of them one read would bring.
    fn find(&self, segment: SegmentId, blocks: &Range<u64>) -> Found<R::Frozen> {
        let extents = self.extents.borrow();
        let of_segment = extents.get(&segment);
        let before = of_segment.and_then(|extents| extents.range(..=blocks.start).next_back());
        if let Some((_, extent)) = before.filter(|(_, extent)| extent.blocks.contains(&blocks.start)) {
            return Found::Extent(Rc::clone(extent));
        }
        let behind = of_segment.and_then(|extents| extents.range(blocks.start..).next());
        // All readers cut in the same places, so that what one reads suits the others.
        let full = (blocks.start + 1).next_multiple_of(EXTENT_BLOCKS_MAX);
        let end = behind.map_or(blocks.end, |(&first, _)| first.min(blocks.end)).min(full);
        Found::Missing(blocks.start..end)
    }

    /// Starts to read blocks, in a task of its own: whoever wants them may go away, others may come.
    fn load(self: &Rc<Self>, file: &Rc<SegmentReader<R>>, blocks: Range<u64>, is_ahead: bool) -> Rc<Extent<R::Frozen>> {
        let range = file.range_of(&blocks);
        let bytes = (range.end - range.start) as usize;
        let extent = Rc::new(Extent {
            segment: file.id(),
            blocks: blocks.clone(),
            memory_bytes: Cell::new(bytes),
            content: RefCell::new(Content::Loading),
            is_ahead: Cell::new(is_ahead),
            loaded: Notify::default(),
            standing: Standing::default(),
        });
        self.extents.borrow_mut().entry(file.id()).or_default().insert(blocks.start, Rc::clone(&extent));
        self.loads.set(self.loads.get() + 1);
        self.loading_bytes.set(self.loading_bytes.get() + bytes);
        let ahead_bytes = if is_ahead { bytes } else { 0 };
        self.loading_ahead_bytes.set(self.loading_ahead_bytes.get() + ahead_bytes);
        self.count(|stats| {
            stats.read_bytes += bytes as u64;
            stats.ahead_bytes += ahead_bytes as u64;
        });
        self.shrink();
        let (cache, file, loading) = (Rc::clone(self), Rc::clone(file), Rc::clone(&extent));
        drop(self.rt.spawn(async move {
            let read = match cache.writes.are_recent(cache.rt.now()) {
                true => file.verified_in_steps(range).await,
                false => file.verified(range).await,
            };
            cache.loading_ahead_bytes.set(cache.loading_ahead_bytes.get() - ahead_bytes);
            cache.loaded(&loading, read);
        }));
        extent
    }

    /// A read has come to its end.
    fn loaded(self: &Rc<Self>, extent: &Rc<Extent<R::Frozen>>, read: Result<R::Frozen, SegmentError>) {
        self.loads.set(self.loads.get() - 1);
        self.loading_bytes.set(self.loading_bytes.get() - extent.memory_bytes.get());
        let is_wanted = self.holds(extent);
        match read {
            Ok(bytes) => {
                extent.memory_bytes.set(bytes.block_capacity());
                extent.content.replace(Content::Loaded(bytes));
                // Unless the segment was forgotten meanwhile.
                if is_wanted {
                    let queues = &mut *self.queues.borrow_mut();
                    match extent.is_ahead.get() {
                        true => queues.read_ahead(Rc::clone(extent), self.rt.now()),
                        false => queues.admit(Rc::clone(extent)),
                    }
                }
            }
            Err(error) => {
                extent.content.replace(Content::Failed(Some(error)));
                if is_wanted {
                    self.take_out(extent);
                }
            }
        }
        extent.loaded.wake();
        self.shrink();
        self.grant_wishes();
        if self.loads.get() == 0 {
            self.idle.wake();
        }
    }

    /// Counts a use, unless the reader goes on within what it used last.
    fn used(&self, extent: &Rc<Extent<R::Frozen>>, reader: &mut Reader) {
        let key = Some((extent.segment, extent.blocks.start));
        if reader.used != key {
            reader.used = key;
            self.queues.borrow_mut().used(extent);
        }
    }

    fn wish(self: &Rc<Self>, file: &Rc<SegmentReader<R>>, range: Range<u64>) {
        if !range.is_empty() && !planted("read nothing ahead") {
            self.wishes.borrow_mut().push_back(Wish { file: Rc::downgrade(file), blocks: blocks_of(&range) });
            self.grant_wishes();
        }
    }

    /// Reads ahead, one extent for each who wishes something and then the next, as far as disk and memory allow.
    fn grant_wishes(self: &Rc<Self>) {
        while self.loads.get() < LOADS_AHEAD_MAX && !self.closing.get() {
            let Some(mut wish) = self.wishes.borrow_mut().pop_front() else { return };
            let Some(file) = wish.file.upgrade() else { continue };
            match self.find(file.id(), &wish.blocks) {
                Found::Extent(extent) => wish.blocks.start = extent.blocks.end,
                Found::Missing(blocks) => {
                    let range = file.range_of(&blocks);
                    if !self.may_read_ahead((range.end - range.start) as usize) {
                        // The reader will read it when it comes there.
                        continue;
                    }
                    wish.blocks.start = blocks.end;
                    self.load(&file, blocks, true);
                }
            }
            if !wish.blocks.is_empty() {
                self.wishes.borrow_mut().push_back(wish);
            }
        }
    }

    fn may_read_ahead(&self, bytes: usize) -> bool {
        let (loading, now) = (self.loading_ahead_bytes.get(), self.rt.now());
        self.queues.borrow_mut().may_read_ahead(bytes, loading, self.extent_bytes_max(), now)
    }

    /// Gives up extents until the limit holds.
    fn shrink(&self) {
        let bytes_max = if planted("cache without end") { usize::MAX } else { self.extent_bytes_max() };
        while self.queues.borrow().bytes() + self.loading_bytes.get() > bytes_max {
            let Some(extent) = self.queues.borrow_mut().evict() else { return };
            self.take_out(&extent);
        }
    }

    /// What footers leave.
    fn extent_bytes_max(&self) -> usize {
        self.bytes_max.saturating_sub(self.footer_bytes.get())
    }

    fn holds(&self, extent: &Rc<Extent<R::Frozen>>) -> bool {
        let extents = self.extents.borrow();
        let held = extents.get(&extent.segment).and_then(|extents| extents.get(&extent.blocks.start));
        held.is_some_and(|held| Rc::ptr_eq(held, extent))
    }

    fn take_out(&self, extent: &Extent<R::Frozen>) {
        let mut extents = self.extents.borrow_mut();
        if let Some(of_segment) = extents.get_mut(&extent.segment) {
            of_segment.remove(&extent.blocks.start);
            if of_segment.is_empty() {
                extents.remove(&extent.segment);
            }
        }
    }

    fn count(&self, add: impl FnOnce(&mut CacheStats)) {
        let mut stats = self.stats.get();
        add(&mut stats);
        self.stats.set(stats);
    }
}

enum Found<F> {
    Extent(Rc<Extent<F>>),
    Missing(Range<u64>),
}

impl<F: Frozen> Extent<F> {
    /// Where it starts, in bytes from the start of the file.
    fn start(&self) -> u64 {
        self.blocks.start * BLOCK_BYTES as u64
    }

    /// Its bytes, once they are there. Why they never will be is told once, to the one whose extent it is.
    async fn bytes(&self, is_own: bool) -> Result<F, Option<SegmentError>> {
        let look = || match &mut *self.content.borrow_mut() {
            Content::Loading => None,
            Content::Loaded(bytes) => Some(Ok(bytes.clone())),
            Content::Failed(why) => Some(Err(why.take_if(|_| is_own))),
        };
        self.loaded.until(look).await
    }
}

impl<F> Member for Extent<F> {
    /// Extents of the same place may differ in length, so what is remembered is the place.
    type Key = (SegmentId, u64);

    fn key(&self) -> Self::Key {
        (self.segment, self.blocks.start / EXTENT_BLOCKS_MAX)
    }

    fn bytes(&self) -> usize {
        self.memory_bytes.get()
    }

    fn standing(&self) -> &Standing {
        &self.standing
    }
}

/// The numbers of the blocks in which these bytes lie.
fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES as u64..range.end.div_ceil(BLOCK_BYTES as u64)
}
