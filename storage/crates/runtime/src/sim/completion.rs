//! A value that arrives later, within one thread: what timers, I/O and spawned tasks all wait for.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// The side that provides the value. Dropped without one, the waiting side waits for ever (as after a crash).
pub(super) struct Completer<T>(Rc<RefCell<Slot<T>>>);

/// The side that waits.
pub(super) struct Completion<T>(Rc<RefCell<Slot<T>>>);

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

pub(super) fn completion<T>() -> (Completer<T>, Completion<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None }));
    (Completer(Rc::clone(&slot)), Completion(slot))
}

impl<T> Completer<T> {
    pub(super) fn complete(self, value: T) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.value = Some(value);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Completion<T> {
    /// The value, if it is there already.
    pub(super) fn try_take(&self) -> Option<T> {
        self.0.borrow_mut().value.take()
    }
}

impl<T> Future for Completion<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.borrow_mut();
        match slot.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        self.0.borrow_mut().waker = None;
    }
}
