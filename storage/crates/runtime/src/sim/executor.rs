//! Runs futures that are not `Send`, choosing the next one by the seed.
//!
//! Wakers must be `Send` all the same, so they hold a task's number and a shared list, never the task. Every task
//! belongs to a *group*, the life of one node between two crashes, and is dropped with it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::completion::{Completion, completion};

/// The life of one node from its start to its crash; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group(u64);

/// A spawned task: resolves to its output. Dropping it lets the task run on; a task that died in a crash never
/// resolves.
pub struct Task<T>(Completion<T>);

impl<T> Task<T> {
    /// The output, once, if the task has finished.
    pub fn try_take(&self) -> Option<T> {
        self.0.try_take()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context)
    }
}

#[derive(Default)]
pub(super) struct Executor {
    tasks: RefCell<BTreeMap<u64, Entry>>,
    ready: RefCell<Vec<u64>>,
    woken: Arc<Mutex<Vec<u64>>>,
    groups: RefCell<BTreeSet<Group>>,
    next_task: Cell<u64>,
    next_group: Cell<u64>,
}

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Entry {
    group: Group,
    /// Absent while it runs.
    future: Option<LocalFuture>,
    wake: Arc<TaskWake>,
}

struct TaskWake {
    task: u64,
    queued: AtomicBool,
    woken: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.task);
        }
    }
}

impl Executor {
    pub(super) fn open_group(&self) -> Group {
        let group = Group(self.next_group.replace(self.next_group.get() + 1));
        self.groups.borrow_mut().insert(group);
        group
    }

    /// Drops all tasks of a group, and from now on whatever their destructors try to spawn.
    pub(super) fn close_group(&self, group: Group) {
        self.groups.borrow_mut().remove(&group);
        let dead: Vec<Entry> =
            self.tasks.borrow_mut().extract_if(.., |_, task| task.group == group).map(|(_, task)| task).collect();
        drop(dead); // With nothing borrowed: destructors may come back here.
    }

    /// Drops every task of every group.
    pub(super) fn close(&self) {
        self.groups.borrow_mut().clear();
        let dead = mem::take(&mut *self.tasks.borrow_mut());
        drop(dead);
    }

    pub(super) fn has_group(&self, group: Group) -> bool {
        self.groups.borrow().contains(&group)
    }

    /// How many tasks of a group have not finished.
    pub(super) fn unfinished(&self, group: Group) -> usize {
        self.tasks.borrow().values().filter(|task| task.group == group).count()
    }

    pub(super) fn spawn<T: 'static>(&self, group: Group, future: impl Future<Output = T> + 'static) -> Task<T> {
        let (completer, completion) = completion();
        if self.has_group(group) {
            let task = self.next_task.replace(self.next_task.get() + 1);
            let wake = Arc::new(TaskWake { task, queued: AtomicBool::new(true), woken: Arc::clone(&self.woken) });
            let future: LocalFuture = Box::pin(async move { completer.complete(future.await) });
            self.tasks.borrow_mut().insert(task, Entry { group, future: Some(future), wake });
            self.ready.borrow_mut().push(task);
        }
        Task(completion)
    }

    /// Takes one of the tasks that can run; `choose(n)` is below `n`.
    pub(super) fn next(&self, choose: impl FnOnce(usize) -> usize) -> Option<u64> {
        let mut ready = self.ready.borrow_mut();
        ready.append(&mut self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        (!ready.is_empty()).then(|| {
            let chosen = choose(ready.len());
            ready.swap_remove(chosen)
        })
    }

    /// Polls a task once. It may be gone by now, which is no error.
    pub(super) fn run(&self, task: u64) {
        let Some((mut future, wake)) = self.take(task) else { return };
        wake.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(wake);
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.tasks.borrow_mut();
        match poll {
            Poll::Ready(()) => drop(tasks.remove(&task)),
            Poll::Pending => {
                if let Some(entry) = tasks.get_mut(&task) {
                    entry.future = Some(future);
                    return;
                }
            }
        }
        drop(tasks);
        drop(future);
    }

    fn take(&self, task: u64) -> Option<(LocalFuture, Arc<TaskWake>)> {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.get_mut(&task)?;
        Some((entry.future.take()?, Arc::clone(&entry.wake)))
    }
}
