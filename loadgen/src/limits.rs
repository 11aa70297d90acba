//! What this machine can do, measured bare: the yardsticks that a broker's figures stand beside.
//!
//! Each takes a fraction of a second and is taken in the same run, for a disk in a cloud is not the same an hour later.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    thread::{CpuSet, sched_setaffinity},
};
use serde::Serialize;

use crate::machine::{FileSystem, busiest};

/// How long each is measured.
const MEASURE: Duration = Duration::from_millis(300);

const BLOCK_BYTES: usize = 4 << 10;
const MIB: usize = 1 << 20;

/// Bytes of a file that is overwritten.
const FILE_BYTES: u64 = 64 << 20;

/// Direct I/O wants its memory on such boundaries, whatever the device.
const ALIGNMENT: usize = 4 << 10;

/// What was measured; nothing where there was no disk to measure.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Limits {
    /// Median of overwriting 4 KiB with `O_DSYNC`.
    pub(crate) t_sync_us: Option<f64>,
    /// Median of a byte there and back over TCP, between two cores where there are two.
    pub(crate) t_ping_us: f64,
    /// Overwriting 1 MiB at a time with `O_DSYNC`.
    pub(crate) odsync_1mib_bytes_per_s: Option<f64>,
    /// Two writers of 1 MiB at a time, without `O_DSYNC`.
    pub(crate) disk_bytes_per_s: Option<f64>,
    /// One reader of 1 MiB at a time, front to back, past the page cache.
    pub(crate) disk_read_bytes_per_s: Option<f64>,
    /// One TCP stream over loopback.
    pub(crate) loopback_bytes_per_s: f64,
    /// The core that takes the disk's interrupts.
    pub(crate) disk_interrupt_core: Option<usize>,
}

impl Limits {
    /// Measures the machine, and the disk under `dir` if one is given. `cores` are those the process may run on.
    pub(crate) fn measure(dir: Option<&Path>, cores: &[usize]) -> io::Result<Self> {
        let (first, second) = (cores[0], cores[1 % cores.len()]);
        let network =
            Self { t_ping_us: ping(first, second)?, loopback_bytes_per_s: loopback(first, second)?, ..Self::default() };
        let Some(dir) = dir else { return Ok(network) };
        let file_system = FileSystem::of(dir)?;
        let disk = Disk::new(dir)?;
        let before = file_system.interrupts();
        let t_sync = disk.sync()?;
        let disk_interrupt_core = busiest(&before, &file_system.interrupts());
        Ok(Self {
            t_sync_us: Some(t_sync),
            odsync_1mib_bytes_per_s: Some(disk.rate(1, OFlags::DSYNC)?),
            disk_bytes_per_s: Some(disk.rate(2, OFlags::empty())?),
            disk_read_bytes_per_s: Some(disk.read_rate()?),
            disk_interrupt_core,
            ..network
        })
    }

    /// Durable records a second that one sender can reach who waits for each.
    pub(crate) fn one_in_flight_per_s(&self) -> Option<f64> {
        self.t_sync_us.map(|t_sync_us| 1e6 / (t_sync_us + self.t_ping_us))
    }

    /// Durable bytes a second that can be reached: what disk and network both can.
    pub(crate) fn bulk_bytes_per_s(&self) -> Option<f64> {
        self.odsync_1mib_bytes_per_s.map(|disk| disk.min(self.loopback_bytes_per_s))
    }
}

/// Files to overwrite, removed when dropped.
struct Disk<'a> {
    dir: &'a Path,
    buffer: Aligned,
}

impl<'a> Disk<'a> {
    fn new(dir: &'a Path) -> io::Result<Self> {
        let disk = Self { dir, buffer: Aligned::new(MIB) };
        for index in 0..2 {
            let file = disk.open(index, OFlags::empty())?;
            for position in (0..FILE_BYTES).step_by(MIB) {
                file.write_all_at(disk.buffer.bytes(), position)?;
            }
            file.sync_all()?;
        }
        Ok(disk)
    }

    /// Past the page cache, where the file system allows it.
    fn open(&self, index: usize, flags: OFlags) -> io::Result<File> {
        let path = self.dir.join(format!("limits-{index}"));
        let open = |flags: OFlags| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(flags.bits() as i32)
                .open(&path)
        };
        open(flags | OFlags::DIRECT).or_else(|_| open(flags))
    }

    /// Median microseconds of a synced 4 KiB.
    fn sync(&self) -> io::Result<f64> {
        let file = self.open(0, OFlags::DSYNC)?;
        let mut position = 0;
        median_us(|| {
            file.write_all_at(&self.buffer.bytes()[..BLOCK_BYTES], position)?;
            position = (position + BLOCK_BYTES as u64) % FILE_BYTES;
            Ok(())
        })
    }

    /// Bytes a second of one reader.
    fn read_rate(&self) -> io::Result<f64> {
        let file = self.open(0, OFlags::empty())?;
        let mut buffer = Aligned::new(MIB);
        let (start, mut read) = (Instant::now(), 0);
        while start.elapsed() < MEASURE {
            file.read_exact_at(buffer.bytes_mut(), read % FILE_BYTES)?;
            read += MIB as u64;
        }
        Ok(read as f64 / start.elapsed().as_secs_f64())
    }

    /// Bytes a second of so many writers.
    fn rate(&self, writers: usize, flags: OFlags) -> io::Result<f64> {
        thread::scope(|scope| {
            let write = |index: usize| {
                move || -> io::Result<f64> {
                    let file = self.open(index, flags)?;
                    let (start, mut written) = (Instant::now(), 0);
                    while start.elapsed() < MEASURE {
                        file.write_all_at(self.buffer.bytes(), written % FILE_BYTES)?;
                        written += MIB as u64;
                    }
                    Ok(written as f64 / start.elapsed().as_secs_f64())
                }
            };
            let threads: Vec<_> = (0..writers).map(|index| scope.spawn(write(index))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a panic ends the process")).sum()
        })
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        for index in 0..2 {
            // What is left is in a directory that is removed as a whole.
            let _ = std::fs::remove_file(self.dir.join(format!("limits-{index}")));
        }
    }
}

/// Memory on a boundary that direct I/O accepts.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Filled with bytes that no disk can shorten.
    fn new(len: usize) -> Self {
        let mut memory = vec![0; len + ALIGNMENT];
        fastrand::Rng::with_seed(1).fill(&mut memory);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// Median microseconds of a byte there and back.
fn ping(core: usize, other: usize) -> io::Result<f64> {
    let (mut near, far) = pair()?;
    let echo = thread::spawn(move || -> io::Result<()> {
        let mut far = far;
        pin(other);
        let mut byte = [0];
        while far.read(&mut byte)? > 0 {
            far.write_all(&byte)?;
        }
        Ok(())
    });
    let here = thread::spawn(move || {
        pin(core);
        let mut byte = [0];
        median_us(|| {
            near.write_all(&byte)?;
            near.read_exact(&mut byte)
        })
    });
    let median = here.join().expect("a panic ends the process");
    echo.join().expect("a panic ends the process")?;
    median
}

/// Bytes a second of one stream.
fn loopback(core: usize, other: usize) -> io::Result<f64> {
    const CHUNK_BYTES: usize = 256 << 10;
    let (mut near, mut far) = pair()?;
    let reader = thread::spawn(move || -> io::Result<f64> {
        pin(other);
        let mut chunk = vec![0; CHUNK_BYTES];
        let (start, mut received) = (Instant::now(), 0);
        loop {
            match far.read(&mut chunk)? {
                0 => return Ok(received as f64 / start.elapsed().as_secs_f64()),
                bytes => received += bytes,
            }
        }
    });
    let writer = thread::spawn(move || -> io::Result<()> {
        pin(core);
        let (start, chunk) = (Instant::now(), vec![0; CHUNK_BYTES]);
        while start.elapsed() < MEASURE {
            near.write_all(&chunk)?;
        }
        Ok(())
    });
    writer.join().expect("a panic ends the process")?;
    reader.join().expect("a panic ends the process")
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Median microseconds of what is done over and over.
fn median_us(mut act: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let (start, mut taken_ns) = (Instant::now(), Vec::new());
    while start.elapsed() < MEASURE {
        let before = Instant::now();
        act()?;
        taken_ns.push(before.elapsed().as_nanos() as u64);
    }
    taken_ns.sort_unstable();
    Ok(taken_ns[taken_ns.len() / 2] as f64 / 1e3)
}

/// Moves this thread to a core; where that is refused, the figure is a little worse.
fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    let _ = sched_setaffinity(None, &only);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_measured() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let cores = runtime_glommio::allowed_cores().unwrap();
        let limits = Limits::measure(Some(dir.path()), &cores).unwrap();
        let figures = [
            limits.t_sync_us.unwrap(),
            limits.t_ping_us,
            limits.odsync_1mib_bytes_per_s.unwrap(),
            limits.disk_bytes_per_s.unwrap(),
            limits.loopback_bytes_per_s,
        ];
        assert!(figures.iter().all(|figure| figure.is_finite() && *figure > 0.0), "{limits:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_can_be_reached_is_bounded_by_both() {
        let limits = Limits {
            t_sync_us: Some(150.0),
            t_ping_us: 50.0,
            odsync_1mib_bytes_per_s: Some(3e9),
            loopback_bytes_per_s: 2e9,
            ..Limits::default()
        };
        assert_eq!(limits.one_in_flight_per_s(), Some(5_000.0));
        assert_eq!(limits.bulk_bytes_per_s(), Some(2e9));
        assert_eq!(Limits::default().bulk_bytes_per_s(), None);
    }
}
