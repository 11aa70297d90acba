//! The seam, as a shard of a simulated node sees it.

use std::{future::Future, io, net::SocketAddr, path::Path, rc::Rc, time::Duration};

use super::{
    NodeId, disk,
    executor::{Group, Task},
    memory::{Block, Frozen},
    network::{Listener, Socket, Stream},
    node::Node,
};
use crate::{DirEntry, Instant, OpenMode, Runtime, Space};

/// Wall clock at the start of every simulation, in milliseconds since 1970: 21 September 2026.
const WALL_CLOCK_START_MS: i64 = 1_790_000_000_000;

/// One shard of a simulated node, from its start to its crash.
#[derive(Clone)]
pub struct SimRuntime(Rc<Shard>);

struct Shard {
    node: Rc<Node>,
    group: Group,
    index: usize,
}

/// Holds a directory of a simulated node.
pub struct DirLock {
    node: Rc<Node>,
    path: Rc<str>,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        self.node.locks.borrow_mut().remove(&self.path);
    }
}

impl SimRuntime {
    pub(super) fn new(node: Rc<Node>, group: Group, index: usize) -> Self {
        Self(Rc::new(Shard { node, group, index }))
    }

    /// The node it belongs to.
    pub fn node(&self) -> NodeId {
        self.0.node.id
    }

    /// The shard's index within the node.
    pub fn shard(&self) -> usize {
        self.0.index
    }

    pub(super) fn group(&self) -> Group {
        self.0.group
    }

    /// # Panics
    /// If the node crashed since: whoever asks is not one of its tasks.
    fn live(&self) -> &Rc<Node> {
        let Shard { node, group, .. } = &*self.0;
        assert!(
            node.world.executor.has_group(*group),
            "node {} crashed, and this handle of it was used since",
            node.id
        );
        node
    }
}

impl Runtime for SimRuntime {
    type Block = Block;
    type Frozen = Frozen;
    type File = disk::File;
    type DirLock = DirLock;
    type Listener = Listener;
    type Socket = Socket;
    type Stream = Stream;
    type Task<T: 'static> = Task<T>;

    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.node.world.clock.now_ns())
    }

    fn wall_clock_ms(&self) -> i64 {
        let since_start_ms = (self.0.node.world.clock.now_ns() / 1_000_000) as i64;
        WALL_CLOCK_START_MS + since_start_ms + self.0.node.wall_clock_offset_ms.get()
    }

    fn random_u64(&self) -> u64 {
        self.0.node.world.rng.next_u64()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.node.world.sleep(duration).await;
    }

    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        self.0.node.world.executor.spawn(self.0.group, task)
    }

    /// Chance chooses among foreground and background alike: correctness may not depend on who goes first.
    fn spawn_background<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        self.spawn(task)
    }

    fn block_bytes(&self) -> usize {
        self.0.node.memory.block_bytes()
    }

    fn block(&self, len_min: usize) -> Block {
        self.0.node.memory.block(len_min)
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<disk::File> {
        let node = self.live();
        node.disk.open(&node.memory, path, mode).await
    }

    async fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = self.live().disk.list_dir(path).await?;
        for end in (1..entries.len()).rev() {
            entries.swap(end, self.0.node.world.rng.below(end as u64 + 1) as usize);
        }
        Ok(entries)
    }

    async fn list_names(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.list_dir(path).await?.into_iter().map(|entry| entry.name).collect())
    }

    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.live().disk.create_dir_all(path).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.live().disk.rename(from, to).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.live().disk.remove_file(path).await
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.live().disk.remove_dir(path).await
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.live().disk.sync_dir(path).await
    }

    async fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let node = self.live();
        let key = disk::key(path);
        if !node.locks.borrow_mut().insert(Rc::clone(&key)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock = DirLock { node: Rc::clone(node), path: key };
        node.disk.create_lock_file(&node.memory, path).await?;
        Ok(lock)
    }

    async fn space(&self, _path: &Path) -> io::Result<Space> {
        Ok(self.live().disk.space())
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let node = self.live();
        node.network.listen(node.id, address)
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        let node = self.live();
        node.network.connect(node.id, address).await
    }

    fn adopt(&self, socket: Socket) -> io::Result<Stream> {
        let node = self.live();
        node.network.adopt(node.id, socket)
    }
}
