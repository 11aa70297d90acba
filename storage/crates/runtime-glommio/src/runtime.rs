//! The seam's one type, and what the handles of a shard share.

use std::{
    cell::RefCell, collections::BTreeSet, future::Future, io, net::SocketAddr, path::Path, rc::Rc, sync::Arc,
    time::Duration,
};

use ::runtime::{DirEntry, Instant, Lock, OpenMode, Runtime, Space};
use glommio::TaskQueueHandle;
use rustix::{
    rand::{GetRandomFlags, getrandom},
    thread::{CpuSet, sched_setaffinity},
};

use crate::{
    BLOCK_BYTES,
    block::{Block, Frozen},
    clock,
    dir::{self, DirLock},
    file::File,
    net::{Listener, Socket, Stream},
    pool::{BlockStats, Pool},
    probe,
    progress::Progress,
    shrink::{self, Shrinking},
    task::{self, Task},
};

/// The shortest sleep that lets the executor look at its rings: yielding does not.
const SLEEP_MIN: Duration = Duration::from_micros(20);

/// What a shard's code runs on, see [`Runtime`]. A clone is another handle to the same shard.
#[derive(Clone)]
pub struct GlommioRuntime {
    shard: Rc<Shard>,
}

/// What the handles of one shard share.
pub(crate) struct Shard {
    index: usize,
    pub(crate) pool: Rc<Pool>,
    pub(crate) progress: Arc<Progress>,
    background: TaskQueueHandle,
    /// Devices that glommio has looked at, by number.
    probed: RefCell<BTreeSet<u64>>,
    probing: Lock,
    random: RefCell<Random>,
    pub(crate) shrinking: Shrinking,
    /// Where this process may run; the shard itself is pinned.
    allowed: CpuSet,
}

/// Random bits, drawn from the system 32 words at a time.
struct Random {
    bytes: [u8; 256],
    used: usize,
}

impl GlommioRuntime {
    /// The runtime of the shard whose executor this thread runs.
    pub(crate) fn new(index: usize, progress: Arc<Progress>, allowed: CpuSet) -> Self {
        let pool = Pool::new(Arc::clone(&progress));
        task::foreground(Pool::trim(Rc::downgrade(&pool)));
        // At once, so that the shard is watched from its first step.
        task::at_once(Arc::clone(&progress).answer());
        let shard = Shard {
            index,
            pool,
            progress,
            background: task::background_queue(),
            probed: RefCell::default(),
            probing: Lock::default(),
            random: RefCell::new(Random { bytes: [0; 256], used: 256 }),
            shrinking: Shrinking::default(),
            allowed,
        };
        Self { shard: Rc::new(shard) }
    }

    /// Index of this shard, from 0.
    pub fn shard(&self) -> usize {
        self.shard.index
    }

    /// What this shard's blocks add up to.
    pub fn block_stats(&self) -> BlockStats {
        self.shard.pool.stats()
    }

    /// The shard ends.
    pub(crate) async fn close(&self) {
        self.shard.pool.close();
        self.shard.shrinking.close();
        // A look at the rings at least, so that the last files dropped are closed. What the blocking threads are at has to end
        // first, whoever asked for it: one that has an answer and nobody to give it to panics, and that ends the process.
        loop {
            self.sleep(Duration::ZERO).await;
            if !self.shard.progress.has_work() {
                break;
            }
        }
        self.shard.progress.retire();
    }
}

impl Runtime for GlommioRuntime {
    type Block = Block;
    type Frozen = Frozen;
    type File = File;
    type DirLock = DirLock;
    type Listener = Listener;
    type Socket = Socket;
    type Stream = Stream;
    type Task<T: 'static> = Task<T>;

    fn now(&self) -> Instant {
        clock::now()
    }

    fn wall_clock_ms(&self) -> i64 {
        clock::wall_clock_ms()
    }

    fn random_u64(&self) -> u64 {
        self.shard.random.borrow_mut().next()
    }

    #[inline(always)]
    fn prefetch<T: ?Sized>(value: &T) {
        crate::prefetch::prefetch(value);
    }

    async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration.max(SLEEP_MIN)).await;
    }

    fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        task::foreground(task)
    }

    fn spawn_background<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        task::queued(task, self.shard.background)
    }

    fn block_bytes(&self) -> usize {
        BLOCK_BYTES
    }

    fn block(&self, len_min: usize) -> Block {
        self.shard.pool.take(len_min)
    }

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        File::open(&self.shard, path, mode).await
    }

    async fn list_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let path = path.to_owned();
        self.shard.blocking(move || dir::list(&path)).await
    }

    async fn list_names(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = path.to_owned();
        self.shard.blocking(move || dir::names(&path)).await
    }

    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.shard.blocking(move || dir::create_all(&path)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.shard.blocking(move || std::fs::rename(from, to)).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        if let Some(removed) = self.shard.blocking(move || shrink::remove(&path)).await? {
            Shrinking::take(&self.shard, removed);
        }
        Ok(())
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.shard.blocking(move || dir::remove(&path)).await
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        self.shard.blocking(move || dir::sync(&path)).await
    }

    async fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        let path = path.to_owned();
        self.shard.blocking(move || dir::lock(&path)).await
    }

    async fn space(&self, path: &Path) -> io::Result<Space> {
        let path = path.to_owned();
        self.shard.blocking(move || dir::space(&path)).await
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let allowed = self.shard.allowed;
        Listener::bind(address, move || {
            // The acceptor inherits its place from whoever starts it; where it may not move it still accepts.
            let _ = sched_setaffinity(None, &allowed);
        })
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        Stream::connect(&self.shard, address).await
    }

    fn adopt(&self, socket: Socket) -> io::Result<Stream> {
        Stream::adopt(&self.shard, socket)
    }
}

impl Shard {
    /// Runs `job` on a blocking thread, whether or not anyone waits for it, and lets the watchdog know.
    pub(crate) fn blocking<T: Send + 'static>(self: &Rc<Self>, job: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        let shard = Rc::clone(self);
        task::at_once(async move {
            let _work = shard.progress.work();
            task::blocking(job).await
        })
    }

    /// Sees to it that glommio has looked at `device`, on which `directory` lies, before a file there is opened.
    pub(crate) async fn probe(self: &Rc<Self>, device: u64, directory: &Path) -> io::Result<()> {
        if self.probed.borrow().contains(&device) {
            return Ok(());
        }
        // Files are opened side by side when a shard starts; one look is enough for all.
        let _alone = self.probing.lock().await;
        if self.probed.borrow().contains(&device) {
            return Ok(());
        }
        let directory = directory.to_owned();
        let probe = self.blocking(move || probe::block_without_name(&directory)).await?;
        let device = probe.device;
        probe.run().await?;
        self.probed.borrow_mut().insert(device);
        Ok(())
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        if self.used == self.bytes.len() {
            let drawn = getrandom(&mut self.bytes[..], GetRandomFlags::empty()).expect("the system has random bits");
            assert_eq!(drawn, self.bytes.len(), "up to 256 bytes come whole");
            self.used = 0;
        }
        let word = &self.bytes[self.used..self.used + 8];
        self.used += 8;
        u64::from_ne_bytes(word.try_into().expect("eight bytes"))
    }
}
