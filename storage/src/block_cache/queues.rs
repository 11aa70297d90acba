//! Which extents stay in memory when not all can.
//!
//! ```text
//!   read ahead ──> ahead ──first use──┐                    hit twice or more
//!                    └──never used──> probation (a tenth) ─────────────────> main ──┐ hit since: once more around
//!   read on demand ──────────────────────┘  └──> out, its key remembered      ↑     └──> out
//!                                                 └── read again meanwhile ───┘
//! ```
//!
//! The one hard idea is S3-FIFO's: most of what is read once is not read again, so what is new stands in a short queue of
//! its own and has to prove itself there; a scan of any length only pushes itself out. Chosen over 2Q and segmented LRU
//! because a hit changes one counter and no list. Two things are added to it. What was read ahead waits outside of the
//! queues until it is used for the first time, as evicting it before would waste a read. And uses by a reader that goes on
//! where it stood before are one use, or else every slow catch-up reader would look like demand.

use std::{
    cell::Cell,
    collections::{HashSet, VecDeque},
    hash::Hash,
    rc::Rc,
    time::Duration,
};

use runtime::{Instant, sabotage::planted};
use rustc_hash::FxBuildHasher;

/// The share of probation: one part in so many.
const PROBATION_PART: usize = 10;
/// What was read ahead and is not used may take one part in so many.
const AHEAD_PART: usize = 4;
/// What was read ahead and not used for so long is no longer waited for.
const AHEAD_AGE_MAX: Duration = Duration::from_secs(2);
/// Hits are counted up to here: so many rounds of the main queue an extent stays without another.
const HITS_MAX: u8 = 3;
/// Hits, the first use aside, by which an extent proves itself.
const HITS_TO_STAY: u8 = 2;

/// What stands in the queues.
pub(super) trait Member {
    /// What a later read of the same bytes would be known by.
    type Key: Copy + Eq + Hash;

    fn key(&self) -> Self::Key;

    /// Memory it takes.
    fn bytes(&self) -> usize;

    fn standing(&self) -> &Standing;
}

/// A member's place, kept in the member.
#[derive(Debug, Default)]
pub(super) struct Standing {
    queue: Cell<Option<Queue>>,
    is_used: Cell<bool>,
    /// Uses but the first.
    hits: Cell<u8>,
    since: Cell<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Ahead,
    Probation,
    Main,
}

/// See the module.
pub(super) struct Queues<M: Member> {
    ahead: VecDeque<Rc<M>>,
    probation: VecDeque<Rc<M>>,
    main: VecDeque<Rc<M>>,
    ahead_bytes: usize,
    probation_bytes: usize,
    main_bytes: usize,
    /// What left probation not long ago, oldest first. As a list and as a set.
    left: VecDeque<M::Key>,
    left_set: HashSet<M::Key, FxBuildHasher>,
}

impl<M: Member> Queues<M> {
    pub(super) fn new() -> Self {
        Self {
            ahead: VecDeque::new(),
            probation: VecDeque::new(),
            main: VecDeque::new(),
            ahead_bytes: 0,
            probation_bytes: 0,
            main_bytes: 0,
            left: VecDeque::new(),
            left_set: HashSet::default(),
        }
    }

    /// Memory of all members.
    pub(super) fn bytes(&self) -> usize {
        self.ahead_bytes + self.probation_bytes + self.main_bytes
    }

    /// Whether so many bytes more may be read ahead, `bytes_loading` already being on their way.
    pub(super) fn may_read_ahead(
        &mut self,
        bytes: usize,
        bytes_loading: usize,
        bytes_max: usize,
        now: Instant,
    ) -> bool {
        while let Some(oldest) = self.ahead.pop_front_if(|oldest| {
            oldest.standing().queue.get() != Some(Queue::Ahead)
                || now.since(oldest.standing().since.get()) > AHEAD_AGE_MAX
        }) {
            if oldest.standing().queue.get() == Some(Queue::Ahead) {
                self.ahead_bytes -= oldest.bytes();
                self.stand(oldest, Queue::Probation);
            }
        }
        self.ahead_bytes + bytes_loading + bytes <= bytes_max / AHEAD_PART
    }

    /// Takes in what was read ahead of need.
    pub(super) fn read_ahead(&mut self, member: Rc<M>, now: Instant) {
        member.standing().since.set(now);
        self.stand(member, Queue::Ahead);
    }

    /// Takes in what was read because someone wants it now.
    pub(super) fn admit(&mut self, member: Rc<M>) {
        let queue = if self.left_set.remove(&member.key()) { Queue::Main } else { Queue::Probation };
        self.stand(member, queue);
    }

    /// A member was used, by someone who did not just use it.
    pub(super) fn used(&mut self, member: &Rc<M>) {
        let standing = member.standing();
        let is_first = !standing.is_used.replace(true);
        match standing.queue.get() {
            Some(Queue::Ahead) => {
                self.ahead_bytes -= member.bytes();
                // Out of the list too, or its memory would stay behind one that nobody uses. Readers use them in order, so it
                // is near the front.
                let place = self.ahead.iter().position(|ahead| Rc::ptr_eq(ahead, member));
                self.ahead.remove(place.expect("it stands there"));
                self.admit(Rc::clone(member));
            }
            Some(Queue::Probation | Queue::Main) if !is_first => {
                standing.hits.set((standing.hits.get() + 1).min(HITS_MAX));
            }
            _ => {}
        }
    }

    /// Forgets a member.
    pub(super) fn remove(&mut self, member: &M) {
        if let Some(queue) = member.standing().queue.take() {
            *self.bytes_of(queue) -= member.bytes();
        }
    }

    /// Gives up the member that is worth the least; `None` when there is none but what was just read ahead.
    pub(super) fn evict(&mut self) -> Option<Rc<M>> {
        loop {
            let probation_bytes_max = (self.probation_bytes + self.main_bytes) / PROBATION_PART;
            let from_probation = self.main_bytes == 0 || self.probation_bytes > probation_bytes_max;
            let queue = if from_probation { Queue::Probation } else { Queue::Main };
            let members = if from_probation { &mut self.probation } else { &mut self.main };
            let member = members.pop_front()?;
            // It may have been removed, or have moved on.
            if member.standing().queue.get() != Some(queue) {
                continue;
            }
            *self.bytes_of(queue) -= member.bytes();
            let hits = member.standing().hits.get();
            match queue {
                Queue::Probation if hits >= HITS_TO_STAY && !planted("scans push out what is hot") => {
                    member.standing().hits.set(0);
                    self.stand(member, Queue::Main);
                }
                Queue::Main if hits > 0 => {
                    member.standing().hits.set(hits - 1);
                    self.stand(member, Queue::Main);
                }
                _ => {
                    member.standing().queue.set(None);
                    if queue == Queue::Probation {
                        self.remember(member.key());
                    }
                    return Some(member);
                }
            }
        }
    }

    fn stand(&mut self, member: Rc<M>, queue: Queue) {
        member.standing().queue.set(Some(queue));
        *self.bytes_of(queue) += member.bytes();
        match queue {
            Queue::Ahead => self.ahead.push_back(member),
            Queue::Probation => self.probation.push_back(member),
            Queue::Main => self.main.push_back(member),
        }
    }

    /// Remembers as many keys as there are members.
    fn remember(&mut self, key: M::Key) {
        if self.left_set.insert(key) {
            self.left.push_back(key);
        }
        let count_max = (self.probation.len() + self.main.len()).max(1);
        while self.left.len() > count_max {
            let oldest = self.left.pop_front().expect("it is not empty");
            self.left_set.remove(&oldest);
        }
    }

    fn bytes_of(&mut self, queue: Queue) -> &mut usize {
        match queue {
            Queue::Ahead => &mut self.ahead_bytes,
            Queue::Probation => &mut self.probation_bytes,
            Queue::Main => &mut self.main_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Page {
        number: u64,
        standing: Standing,
    }

    impl Member for Page {
        type Key = u64;

        fn key(&self) -> u64 {
            self.number
        }

        fn bytes(&self) -> usize {
            1
        }

        fn standing(&self) -> &Standing {
            &self.standing
        }
    }

    /// A cache of so many pages.
    struct Cache {
        queues: Queues<Page>,
        pages: std::collections::BTreeMap<u64, Rc<Page>>,
        pages_max: usize,
        misses: u64,
    }

    impl Cache {
        fn new(pages_max: usize) -> Self {
            Self { queues: Queues::new(), pages: Default::default(), pages_max, misses: 0 }
        }

        fn read(&mut self, number: u64) {
            if let Some(page) = self.pages.get(&number) {
                self.queues.used(page);
                return;
            }
            self.misses += 1;
            let page = self.make(number);
            self.queues.admit(Rc::clone(&page));
            self.queues.used(&page);
            self.shrink();
        }

        fn make(&mut self, number: u64) -> Rc<Page> {
            let page = Rc::new(Page { number, standing: Standing::default() });
            self.pages.insert(number, Rc::clone(&page));
            page
        }

        fn shrink(&mut self) {
            while self.queues.bytes() > self.pages_max {
                let page = self.queues.evict().expect("something can go");
                self.pages.remove(&page.number);
            }
        }
    }

    #[test]
    fn a_scan_leaves_what_is_read_again_and_again() {
        let mut cache = Cache::new(100);
        for _ in 0..4 {
            (0..60).for_each(|hot| cache.read(hot));
        }
        assert_eq!(cache.misses, 60);
        for page in 1_000..11_000 {
            cache.read(page);
            cache.read(page % 60);
        }
        assert_eq!(cache.misses, 60 + 10_000, "a hot page was read from the disk again");
        assert_eq!(cache.queues.bytes(), 100);
    }

    #[test]
    fn what_was_hot_gives_way_in_the_end() {
        let mut cache = Cache::new(100);
        for _ in 0..4 {
            (0..90).for_each(|cold| cache.read(cold));
        }
        for _ in 0..20 {
            (1_000..1_090).for_each(|hot| cache.read(hot));
        }
        let misses = cache.misses;
        (1_000..1_090).for_each(|hot| cache.read(hot));
        assert!(cache.misses - misses < 9, "{} of 90 are not in memory", cache.misses - misses);
    }

    #[test]
    fn what_comes_back_soon_stays() {
        let mut cache = Cache::new(100);
        (0..100).for_each(|page| cache.read(page));
        cache.read(100);
        assert!(!cache.pages.contains_key(&0));
        // It left and was wanted again, so it stands among those that proved themselves.
        cache.read(0);
        (200..280).for_each(|page| cache.read(page));
        assert!(cache.pages.contains_key(&0));
    }

    #[test]
    fn what_was_read_ahead_waits_for_its_first_use() {
        let mut cache = Cache::new(100);
        let now = Instant::default();
        for number in 0..25 {
            assert!(cache.queues.may_read_ahead(1, 0, 100, now), "page {number}");
            let page = cache.make(number);
            cache.queues.read_ahead(page, now);
        }
        assert!(!cache.queues.may_read_ahead(1, 0, 100, now), "a quarter is enough");
        (1_000..1_500).for_each(|page| cache.read(page));
        assert!((0..25).all(|number| cache.pages.contains_key(&number)));
        cache.read(0);
        assert!(cache.queues.may_read_ahead(1, 0, 100, now));
        assert!(!cache.queues.may_read_ahead(1, 1, 100, now), "what is on its way counts");
        // Nobody came for the others.
        assert!(cache.queues.may_read_ahead(25, 0, 100, now + Duration::from_secs(3)));
        (2_000..2_500).for_each(|page| cache.read(page));
        assert!(!(0..25).any(|number| cache.pages.contains_key(&number)));
        assert_eq!(cache.queues.bytes(), 100);
    }

    #[test]
    fn what_was_given_up_stands_nowhere_behind_one_that_nobody_uses() {
        let mut cache = Cache::new(10);
        let now = Instant::default();
        let unused = cache.make(0);
        cache.queues.read_ahead(unused, now);
        for number in 1..100 {
            let page = cache.make(number);
            cache.queues.read_ahead(Rc::clone(&page), now);
            cache.queues.used(&page);
            cache.shrink();
            assert!(
                cache.queues.ahead.len() + cache.queues.probation.len() + cache.queues.main.len() <= 10,
                "{number}"
            );
        }
        assert!(cache.pages.contains_key(&0));
    }

    #[test]
    fn what_is_removed_takes_no_room() {
        let mut cache = Cache::new(100);
        (0..50).for_each(|page| cache.read(page));
        for page in std::mem::take(&mut cache.pages).into_values() {
            cache.queues.remove(&page);
            cache.queues.remove(&page);
        }
        assert_eq!(cache.queues.bytes(), 0);
        assert!(cache.queues.evict().is_none());
    }
}
