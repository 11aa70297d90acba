//! Waiting, within one shard, for something that another task of the shard makes true.
//!
//! A waiter says what it waits for and looks again whenever it is woken; on one thread nothing can change between the
//! look and the registration. A wait that is given up takes its waker along: long polls end by time all day, and what
//! they wait for may never come.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    mem,
    task::{Context, Poll, Waker},
};

/// A place to wait at.
#[derive(Debug, Default)]
pub struct Notify {
    /// By ticket, ascending.
    waiting: RefCell<Vec<(u64, Waker)>>,
    tickets: Cell<u64>,
}

impl Notify {
    /// Waits until `found` answers something. It is asked at once, and after every [`Self::wake`].
    pub async fn until<T>(&self, mut found: impl FnMut() -> Option<T>) -> T {
        let mut place = Place { notify: self, ticket: None };
        poll_fn(|context| match found() {
            Some(found) => Poll::Ready(found),
            None => place.wait(context),
        })
        .await
    }

    /// Whether anyone waits.
    pub fn is_waited_for(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Lets every waiter look again.
    pub fn wake(&self) {
        let mut waiting = self.waiting.borrow_mut();
        // Taken out first: a waker may run code that comes back here. The usual single waiter leaves the memory to the
        // next one.
        let (one, more) = match waiting.len() {
            0 => return,
            1 => (waiting.pop(), Vec::new()),
            _ => (None, mem::take(&mut *waiting)),
        };
        drop(waiting);
        for (_, waker) in one.into_iter().chain(more) {
            waker.wake();
        }
    }
}

/// One waiter's place in the list.
struct Place<'a> {
    notify: &'a Notify,
    ticket: Option<u64>,
}

impl Place<'_> {
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<T> {
        let mut waiting = self.notify.waiting.borrow_mut();
        let held = self.ticket.and_then(|ticket| waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok());
        match held {
            Some(place) => waiting[place].1.clone_from(context.waker()),
            None => {
                let ticket = self.notify.tickets.replace(self.notify.tickets.get() + 1);
                waiting.push((ticket, context.waker().clone()));
                self.ticket = Some(ticket);
            }
        }
        Poll::Pending
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut waiting = self.notify.waiting.borrow_mut();
        if let Ok(place) = waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            waiting.remove(place);
        }
    }
}

/// Lets one task at a time do what must not interleave across its waits.
#[derive(Debug, Default)]
pub struct Lock {
    held: Cell<bool>,
    freed: Notify,
}

/// Frees its [`Lock`] when dropped.
#[derive(Debug)]
#[must_use = "a lock is free again when this is dropped"]
pub struct Held<'a>(&'a Lock);

impl Lock {
    /// Waits until nobody holds it, and takes it.
    pub async fn lock(&self) -> Held<'_> {
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

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin};

    use super::*;

    #[test]
    fn a_wait_given_up_leaves_nothing_behind() {
        let notify = Notify::default();
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut first = pin!(notify.until(|| None::<()>));
            let mut second = pin!(notify.until(|| None::<()>));
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert!(first.as_mut().poll(&mut context).is_pending());
            assert!(second.as_mut().poll(&mut context).is_pending());
            assert_eq!(notify.waiting.borrow().len(), 2);
        }
        assert!(notify.waiting.borrow().is_empty());
    }

    #[test]
    fn a_waiter_looks_again_when_woken() {
        let (notify, open) = (Notify::default(), Cell::new(false));
        let mut context = Context::from_waker(Waker::noop());
        let mut wait = pin!(notify.until(|| open.get().then_some(7)));
        assert!(wait.as_mut().poll(&mut context).is_pending());
        open.set(true);
        notify.wake();
        assert_eq!(wait.as_mut().poll(&mut context), Poll::Ready(7));
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let lock = Lock::default();
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(held) = pin!(lock.lock()).poll(&mut context) else { panic!("nobody holds it") };
        let mut other = pin!(lock.lock());
        assert!(other.as_mut().poll(&mut context).is_pending());
        drop(held);
        assert!(other.as_mut().poll(&mut context).is_ready());
    }
}
