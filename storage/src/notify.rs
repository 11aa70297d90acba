//! Waiting, within one shard, for a condition that another task of the shard makes true.
//!
//! No counter and no queue of permits: a waiter says what it waits for, looks again whenever it is woken, and whoever
//! changes the state wakes. On one thread nothing can change between the look and the registration.

use std::{
    cell::RefCell,
    future::poll_fn,
    task::{Poll, Waker},
};

/// A place to wait at.
#[derive(Default)]
pub(crate) struct Notify {
    wakers: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Waits until `found` answers something. It is asked at once, and after every [`Self::wake`].
    pub(crate) async fn until<T>(&self, mut found: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(found) = found() {
                return Poll::Ready(found);
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Lets every waiter look again.
    pub(crate) fn wake(&self) {
        // Taken out first: a waker may run code that registers anew.
        for waker in std::mem::take(&mut *self.wakers.borrow_mut()) {
            waker.wake();
        }
    }
}

/// Lets one task at a time do what must not interleave across its waits.
#[derive(Default)]
pub(crate) struct Lock {
    held: std::cell::Cell<bool>,
    freed: Notify,
}

/// Frees its [`Lock`] when dropped.
pub(crate) struct Held<'a>(&'a Lock);

impl Lock {
    /// Waits until nobody holds it, and takes it.
    pub(crate) async fn lock(&self) -> Held<'_> {
        self.freed.until(|| (!self.held.replace(true)).then_some(())).await;
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.freed.wake();
    }
}
