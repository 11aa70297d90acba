//! Virtual time: it stands still but for the small cost of running a task, and jumps to the next event when nothing
//! can run.

use std::{
    cell::{Cell, RefCell},
    cmp::Ordering,
    collections::BinaryHeap,
};

#[derive(Default)]
pub(super) struct Clock {
    now_ns: Cell<u64>,
    events: RefCell<BinaryHeap<Event>>,
    next_event: Cell<u64>,
}

/// Something that happens at a set time; those of one time happen in the order in which they were scheduled.
struct Event {
    at_ns: u64,
    number: u64,
    action: Box<dyn FnOnce()>,
}

impl Clock {
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    pub(super) fn advance(&self, by_ns: u64) {
        self.now_ns.set(self.now_ns.get() + by_ns);
    }

    pub(super) fn schedule(&self, at_ns: u64, action: impl FnOnce() + 'static) {
        let number = self.next_event.replace(self.next_event.get() + 1);
        self.events.borrow_mut().push(Event { at_ns, number, action: Box::new(action) });
    }

    /// Lets the next event happen if its time has come.
    pub(super) fn fire_due(&self) -> bool {
        let due = self.events.borrow().peek().is_some_and(|event| event.at_ns <= self.now_ns.get());
        due && self.fire_next()
    }

    /// Lets the next event happen, moving on to its time; false if there is none.
    pub(super) fn fire_next(&self) -> bool {
        let Some(event) = self.events.borrow_mut().pop() else { return false };
        self.now_ns.set(self.now_ns.get().max(event.at_ns));
        (event.action)();
        true
    }

    /// Forgets every event.
    pub(super) fn close(&self) {
        let dead = std::mem::take(&mut *self.events.borrow_mut());
        drop(dead);
    }
}

/// The heap's greatest is the earliest.
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.number).cmp(&(self.at_ns, self.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Event {}
