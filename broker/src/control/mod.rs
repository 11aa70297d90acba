//! The control thread: what people and machines look at, over HTTP. It has no authority.
//!
//! It runs tokio, and shards do not: it asks them by message, through their bounded inboxes, and a shard that is too
//! busy to answer is shown as that.

mod admin;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use runtime::{Runtime, mesh::Sender};
use tokio::{net::TcpListener, runtime::Builder, sync::oneshot};

use crate::shard::mesh::Message;

/// Where a node is in its life; written by shard 0, read by anyone.
#[derive(Clone, Debug, Default)]
pub struct Stage(Arc<AtomicU8>);

impl Stage {
    const STARTING: u8 = 0;
    const SERVING: u8 = 1;
    const STOPPING: u8 = 2;

    /// Clients are served from here on.
    pub(crate) fn serving(&self) {
        self.0.store(Self::SERVING, Ordering::Release);
    }

    /// The node begins to drain.
    pub(crate) fn stopping(&self) {
        self.0.store(Self::STOPPING, Ordering::Release);
    }

    /// In a word, and whether clients are served.
    pub(crate) fn describe(&self) -> (bool, &'static str) {
        match self.0.load(Ordering::Acquire) {
            Self::STARTING => (false, "starting"),
            Self::SERVING => (true, "serving"),
            Self::STOPPING => (false, "stopping"),
            other => unreachable!("stage {other}"),
        }
    }
}

/// The running control thread. It ends when this is dropped.
pub(crate) struct Control {
    address: SocketAddr,
    _end: oneshot::Sender<()>,
}

impl Control {
    /// Binds `listen` and starts to answer.
    ///
    /// # Errors
    /// If the address cannot be bound or the thread not started.
    pub(crate) fn start<R>(listen: SocketAddr, stage: Stage, shards: Vec<Sender<Message<R>>>) -> io::Result<Self>
    where
        R: Runtime,
        Message<R>: Send,
    {
        let (end, ended) = oneshot::channel();
        let (bound_sender, bound) = flume::bounded(1);
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let serve = async move {
            let listener = match TcpListener::bind(listen).await {
                Ok(listener) => listener,
                Err(error) => return drop(bound_sender.send(Err(error))),
            };
            let _ = bound_sender.send(listener.local_addr());
            let routes = admin::routes(stage, shards);
            let serving = axum::serve(listener, routes).into_future();
            tokio::select! {
                result = serving => if let Err(error) = result {
                    tracing::error!("the admin listener ended: {error}");
                },
                _ = ended => {}
            }
        };
        thread::Builder::new().name("control".into()).spawn(move || runtime.block_on(serve))?;
        let address = bound.recv().map_err(|_| io::Error::other("the control thread ended"))??;
        Ok(Self { address, _end: end })
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
