//! One simulated machine: an address, a disk that outlives its crashes, and a life between two of them.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
};

use super::{
    Crash, SimRuntime, disk::Disk, executor::Group, memory::Memory, network::Network, trace::Event, world::World,
};

/// A simulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u16);

impl NodeId {
    /// Where clients live that no crash touches.
    pub(super) const OUTSIDE: Self = Self(0xff01);

    /// Its address: 10.0.0.1 for the first, and so on.
    pub fn ip(self) -> IpAddr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, 0, high, low).into()
    }

    /// # Errors
    /// `HostUnreachable` if no node can have this address.
    pub(super) fn of_ip(ip: IpAddr) -> io::Result<Self> {
        match ip {
            IpAddr::V4(ip) if ip.octets()[..2] == [10, 0] => {
                let [.., high, low] = ip.octets();
                Ok(Self(u16::from_be_bytes([high, low])))
            }
            _ => Err(io::ErrorKind::HostUnreachable.into()),
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(formatter)
    }
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) world: Rc<World>,
    pub(super) network: Rc<Network>,
    pub(super) disk: Rc<Disk>,
    pub(super) memory: Rc<Memory>,
    pub(super) wall_clock_offset_ms: Cell<i64>,
    /// Directories that a task holds locked.
    pub(super) locks: RefCell<BTreeSet<Rc<str>>>,
    life: Cell<Option<Life>>,
    program: RefCell<Option<Program>>,
}

/// What a node runs: given all its shards, it spawns their first tasks.
pub(super) type Program = Rc<dyn Fn(&[SimRuntime])>;

#[derive(Clone, Copy)]
struct Life {
    group: Group,
    shards: usize,
}

impl Node {
    pub(super) fn new(id: NodeId, world: Rc<World>, network: Rc<Network>, disk: Disk, memory: Memory) -> Self {
        Self {
            id,
            world,
            network,
            disk: Rc::new(disk),
            memory: Rc::new(memory),
            wall_clock_offset_ms: Cell::new(0),
            locks: RefCell::default(),
            life: Cell::new(None),
            program: RefCell::default(),
        }
    }

    /// The node's group while it is up.
    pub(super) fn group(&self) -> Option<Group> {
        self.life.get().map(|life| life.group)
    }

    pub(super) fn program(&self) -> Option<Program> {
        self.program.borrow().clone()
    }

    /// Begins a life with `shards` shards.
    pub(super) fn boot(self: &Rc<Self>, shards: usize, program: Option<Program>) {
        assert!(self.life.get().is_none(), "node {} is up already", self.id);
        assert!(shards > 0, "a node has at least one shard");
        self.world.trace.record(Event::Boot { node: self.id, shards });
        self.life.set(Some(Life { group: self.world.executor.open_group(), shards }));
        self.program.replace(program.clone());
        if let Some(program) = program {
            let runtimes: Vec<SimRuntime> = (0..shards).map(|shard| self.runtime(shard)).collect();
            program(&runtimes);
        }
    }

    /// The runtime of one shard of a node that is up.
    pub(super) fn runtime(self: &Rc<Self>, shard: usize) -> SimRuntime {
        let life = self.life.get().unwrap_or_else(|| panic!("node {} is down", self.id));
        assert!(shard < life.shards, "node {} has {} shards, so none with index {shard}", self.id, life.shards);
        SimRuntime::new(Rc::clone(self), life.group, shard)
    }

    /// Ends this life without warning, if there is one.
    pub(super) fn crash(&self, crash: Crash) {
        self.world.trace.record(Event::Crashed { node: self.id, crash });
        if let Some(life) = self.life.take() {
            self.network.crash(self.id);
            self.world.executor.close_group(life.group);
        }
        self.disk.crash(crash);
    }

    /// Lets go of whatever may hold on to this node in turn.
    pub(super) fn close(&self) {
        self.disk.close();
        self.program.take();
    }
}
