//! The StreamBus broker: shards, connections, handlers, metadata.
//!
//! # A produce request, from socket to disk and back
//!
//! `server::listener` accepts the socket and deals it to a shard, whose `server::connection` reads frames. `native` turns
//! one into appends: `handler::produce` finds the partition (`shard::placement`; over `shard::mesh` if another shard
//! leads it), `partition::append` verifies the batch, and `storage` gives it offsets and puts it into the open sync
//! group. The request waits in `partition::delayed` until the group is on the disk; then the connection's writer
//! (`server::outbox`) takes the sync token, answers every request it covers, and sends all answers with one write.
//!
//! # A fetch request
//!
//! `native` → `handler::fetch` reads from `storage` up to the high watermark. What is found goes out from the memory it
//! lies in; with too little to send, a task waits for the high watermark to move.
//!
//! # The rest
//!
//! - [`shard`]: what a core runs; its start and stop;
//! - `shard::balance`, `mover` and `copying`: partitions on their way to other logs after a start with more or fewer cores;
//! - `meta`: MetaLog, the only home of topics, placement, epochs and producer ids;
//! - `control`: the tokio thread with `/livez`, `/readyz` and `/metrics`; it has no authority;
//! - `metrics`: every metric, as one table.
//!
//! Everything but this file and `shutdown` is written over [`runtime::Runtime`], so that tests run whole nodes on the
//! seeded simulator.
#![forbid(unsafe_code)]

pub mod control;
mod handler;
pub mod meta;
mod metrics;
mod native;
mod partition;
pub mod refused;
mod request;
mod server;
pub mod shard;
mod shutdown;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use config::Config;
use runtime_glommio::{GlommioRuntime, Options, Placement, ShardThreads, run_shards};
use storage::LogOptions;

pub use self::shutdown::StopReport;
use self::{
    control::Control,
    server::limits::Limits,
    shard::start::{self, End, Holder, Settings},
};

/// Starts brokers.
pub struct Broker;

/// A running broker. Dropping it stops it, as [`BrokerHandle::stop`] does.
pub struct BrokerHandle {
    address: SocketAddr,
    holder: Holder<GlommioRuntime>,
    /// Until they are waited for.
    threads: Option<ShardThreads<End>>,
    control: Option<Control>,
}

/// Why a broker does not serve. Each message names the setting or address, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine cannot run shards.
    #[error(transparent)]
    Machine(#[from] runtime_glommio::StartError),
    /// The node cannot serve.
    #[error(transparent)]
    Node(#[from] start::StartError),
    /// The admin listener cannot be bound.
    #[error("cannot listen on {address}: {source}; set admin.listen to an address that is free, or to \"off\"")]
    Admin {
        /// The setting `admin.listen`.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Broker {
    /// Starts a broker and returns once it serves: one thread for each core set, one for the acceptor, one for the admin
    /// listener. The process should have called `runtime_glommio::prepare_process` first.
    ///
    /// A write of a log that fails ends the process: nothing is known of those bytes then, and only the next start finds
    /// out.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(config: &Config) -> Result<BrokerHandle, StartError> {
        let cores = config.broker.cores.clone();
        let (seats, holder) = start::seats::<GlommioRuntime>(cores.len(), settings(config));
        let control = match config.admin.listen {
            Some(address) => {
                let control = Control::start(address, holder.stage.clone(), holder.mesh.clone());
                Some(control.map_err(|source| StartError::Admin { address, source })?)
            }
            None => None,
        };
        let seats = Arc::new(Mutex::new(seats.into_iter().map(Some).collect::<Vec<_>>()));
        let run = move |runtime, index: usize| {
            let seat = seats.lock().expect("nobody panics with it")[index].take().expect("each shard runs once");
            async move {
                let end = start::run(runtime, seat).await;
                if let End::Failed(failed) = &end {
                    shutdown::end_process(failed);
                }
                end
            }
        };
        let threads = run_shards(Placement::Cores(cores), Options::default(), run)?;
        match futures_lite::future::block_on(holder.started()) {
            Ok(address) => Ok(BrokerHandle { address, holder, threads: Some(threads), control }),
            Err(error) => {
                threads.join();
                Err(error.into())
            }
        }
    }
}

impl BrokerHandle {
    /// Where clients connect, with the port that was chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin listener answers, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(Control::address)
    }
}

/// Messages a shard's inbox holds: more than what a turn of all other shards sends.
const INBOX_MESSAGES_MAX: usize = 1024;

fn settings(config: &Config) -> Settings {
    let (broker, share) = (&config.broker, config.memory_share());
    Settings {
        dir: config.storage.dir.clone(),
        listen: broker.listen,
        node_id: broker.node_id as u32,
        log: LogOptions {
            memtable_bytes: share.memtables as usize,
            cache_bytes: share.block_cache as usize,
            batch_bytes_max: config.storage.batch_bytes_max as usize,
            retention_check_every: config.storage.retention_check_every,
            producer_idle_max: config.storage.producer_id_expiration,
            disk_reserve_bytes: config.storage.disk_reserve_bytes,
            disk_logs: broker.cores.len() as u32,
            ..LogOptions::default()
        },
        limits: Limits {
            connections_max: broker.connections_max,
            connections_per_address_max: broker.connections_per_address_max,
            handshake_timeout: broker.handshake_timeout,
            idle_timeout: broker.idle_timeout,
            frame_bytes_max: broker.frame_bytes_max as usize,
            batch_bytes_max: config.storage.batch_bytes_max as usize,
            produce_wait_max: broker.produce_wait_max,
            connection_bytes_max: share.connections as usize,
        },
        inbox_messages_max: INBOX_MESSAGES_MAX,
    }
}
