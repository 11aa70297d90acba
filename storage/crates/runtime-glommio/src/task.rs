//! Tasks of a shard's two queues, and jobs for its blocking threads.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use glommio::{Latency, Shares, TaskQueueHandle, task::JoinHandle};

/// A spawned task: resolves to its output; dropping it lets the task run on.
pub struct Task<T>(JoinHandle<T>);

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context).map(|output| output.expect("no task is ever cancelled"))
    }
}

/// Starts a task in the shard's first queue. It is first polled when the caller pends, never inside this call, so a
/// caller may hold a `RefCell` borrow.
pub(crate) fn foreground<T: 'static>(task: impl Future<Output = T> + 'static) -> Task<T> {
    queued(task, TaskQueueHandle::default())
}

/// Starts a task in another queue of this shard.
pub(crate) fn queued<T: 'static>(task: impl Future<Output = T> + 'static, queue: TaskQueueHandle) -> Task<T> {
    Task(glommio::spawn_local_into(task, queue).expect("the queue lives as long as the shard").detach())
}

/// Starts a task in the caller's queue and polls it at once, so that what it submits goes out with this turn.
pub(crate) fn at_once<T: 'static>(task: impl Future<Output = T> + 'static) -> Task<T> {
    Task(glommio::spawn_local(task).detach())
}

/// Makes the queue that gets a tenth of the time when the first one is busy.
pub(crate) fn background_queue() -> TaskQueueHandle {
    glommio::executor().create_task_queue(Shares::Static(100), Latency::NotImportant, "background")
}

/// Runs `job` on one of the shard's blocking threads.
pub(crate) async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(job).await
}
