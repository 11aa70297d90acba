//! One simulated broker, small enough to roll, flush and merge within a second.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use broker::shard::start::{End, Limits, Settings, run, seats};
use runtime::{
    Instant, Runtime,
    sim::{Crash, NodeId, Options, SimRuntime, Simulation},
};
use storage::{LogOptions, compaction, segment::PlanLimits};

use crate::client::Client;

const PORT: u16 = 9092;

/// A world with one broker in it.
pub(crate) struct World {
    pub(crate) simulation: Simulation,
    pub(crate) node: NodeId,
    /// Asks the broker that runs now to stop.
    stop: Rc<RefCell<Box<dyn Fn()>>>,
    /// Whether it did, cleanly, on every shard.
    stopped: Rc<Cell<usize>>,
}

impl World {
    /// A broker of so many shards on an empty disk.
    pub(crate) fn start(seed: u64, shards: usize) -> Rc<Self> {
        Self::start_with(seed, shards, 1024)
    }

    /// The same, whose shards' inboxes hold so many messages.
    pub(crate) fn start_with(seed: u64, shards: usize, inbox_messages_max: usize) -> Rc<Self> {
        let simulation = Simulation::with_options(seed, Options { steps_max: 50_000_000, ..Options::default() });
        let node = simulation.add_node();
        let listen = SocketAddr::new(node.ip(), PORT);
        let (stop, stopped) = (Rc::new(RefCell::new(Box::new(|| ()) as Box<dyn Fn()>)), Rc::new(Cell::new(0)));
        let (stop_of_node, stopped_shards) = (Rc::clone(&stop), Rc::clone(&stopped));
        simulation.boot(node, shards, move |shards| {
            let (seats, holder) = seats(shards.len(), settings(listen, inbox_messages_max));
            stopped_shards.set(0);
            drop(stop_of_node.replace(Box::new(holder.stopper())));
            for (rt, seat) in shards.iter().zip(seats) {
                let (own, stopped) = (rt.clone(), Rc::clone(&stopped_shards));
                drop(rt.spawn(async move {
                    match run(own, seat).await {
                        // A failed write ends the process; here the crash that made it fail does.
                        End::Failed(_) => std::future::pending().await,
                        End::Stopped { .. } => stopped.set(stopped.get() + 1),
                        End::NotStarted => {}
                    }
                }));
            }
            drop(shards[0].spawn(async move {
                match holder.started().await {
                    Ok(_) => std::future::pending().await,
                    // A crash may come in the middle of the start.
                    Err(error) => panic!("the broker does not start: {error}"),
                }
            }));
        });
        Rc::new(Self { simulation, node, stop, stopped })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.node.ip(), PORT)
    }

    /// Crashes the broker, unless it is down, and starts it again on so many shards.
    pub(crate) fn crash(&self, crash: Crash, shards: usize) {
        if self.simulation.is_up(self.node) {
            self.simulation.crash(self.node, crash);
        }
        self.simulation.restart(self.node, shards);
    }

    /// Stops the broker, which runs `shards` of them, and waits until every log is closed.
    pub(crate) fn stop(&self, shards: usize) {
        (self.stop.borrow())();
        self.simulation.run_until(|| self.stopped.get() == shards).unwrap();
    }

    /// The runtime of clients.
    pub(crate) fn outside(&self) -> SimRuntime {
        self.simulation.outside()
    }

    /// Nanoseconds since the start.
    pub(crate) fn now(&self) -> Instant {
        self.simulation.now()
    }
}

/// Connects as soon as the broker answers.
pub(crate) async fn connect(rt: &SimRuntime, address: SocketAddr, shard: Option<u16>) -> Client {
    loop {
        if let Ok(client) = Client::connect(rt, address, shard).await {
            return client;
        }
        rt.sleep(Duration::from_millis(1)).await;
    }
}

fn settings(listen: SocketAddr, inbox_messages_max: usize) -> Settings {
    let batch_bytes_max = 16 << 10;
    let limits = PlanLimits { own_bytes_min: 8 << 10, shared_bytes_max: 64 << 10 };
    Settings {
        dir: "data".into(),
        listen,
        node_id: 1,
        log: LogOptions {
            memtable_bytes: 256 << 10,
            cache_bytes: 64 << 10,
            batch_bytes_max,
            compaction: compaction::Options { limits, ..compaction::Options::default() },
            ..LogOptions::default()
        },
        limits: Limits {
            connections_max: 100,
            connections_per_address_max: 100,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(600),
            frame_bytes_max: 64 << 10,
            batch_bytes_max,
            produce_wait_max: Duration::from_secs(5),
            connection_bytes_max: 1 << 20,
        },
        inbox_messages_max,
    }
}
