//! What this machine is, as far as a figure depends on it: kernel, file system and its device, whose core takes the disk's
//! interrupts, and what the broker's threads used. All of it from `/proc` and `/sys`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// Its kind: "ext4", "xfs", "tmpfs".
    pub(crate) kind: String,
    /// What it lies on: "/dev/vda".
    pub(crate) source: String,
    /// Device number, "254:0".
    device: String,
}

/// The threads of a broker on this machine.
#[derive(Clone, Debug)]
pub(crate) struct BrokerThreads {
    process: PathBuf,
    /// How its threads are named that count; all, if nothing.
    prefix: &'static str,
}

/// The release of the running kernel.
pub(crate) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map_or("unknown".into(), |text| text.trim().to_owned())
}

impl FileSystem {
    /// Of a directory that exists.
    pub(crate) fn of(dir: &Path) -> io::Result<Self> {
        let (dir, mounts) = (fs::canonicalize(dir)?, fs::read_to_string("/proc/self/mountinfo")?);
        mount_of(&mounts, &dir).ok_or_else(|| io::Error::other("the directory is on no mount"))
    }

    /// Whether nothing on it survives the machine.
    pub(crate) fn is_volatile(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs")
    }

    /// How often each core took an interrupt of its device so far; empty where that cannot be told.
    pub(crate) fn interrupts(&self) -> Vec<u64> {
        let path = fs::canonicalize(Path::new("/sys/dev/block").join(&self.device)).unwrap_or_default();
        let names: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
        device_interrupts(&fs::read_to_string("/proc/interrupts").unwrap_or_default(), &names)
    }
}

/// The core whose count rose most.
pub(crate) fn busiest(before: &[u64], after: &[u64]) -> Option<usize> {
    let risen = before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before));
    risen.enumerate().filter(|(_, risen)| *risen > 0).max_by_key(|(_, risen)| *risen).map(|(core, _)| core)
}

impl BrokerThreads {
    /// The shards of a broker in this process.
    pub(crate) fn embedded() -> Self {
        Self { process: "/proc/self".into(), prefix: "shard-" }
    }

    /// The process that listens on a port of this machine, if it may be looked at.
    pub(crate) fn listening_on(port: u16) -> Option<Self> {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let socket = format!("socket:[{}]", tables.iter().find_map(|table| listener_inode(table, port))?);
        let holds = |process: &PathBuf| {
            let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == socket.as_str())
        };
        let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
        Some(Self { process: processes.into_iter().find(holds)?, prefix: "" })
    }

    /// Nanoseconds that they have run.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        let threads = fs::read_dir(self.process.join("task")).ok()?.flatten().map(|entry| entry.path());
        let counts =
            |thread: &PathBuf| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with(self.prefix));
        let ran = |thread: PathBuf| {
            let text = fs::read_to_string(thread.join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        threads.filter(counts).filter_map(ran).reduce(|sum, ns| sum + ns)
    }

    /// Resident memory of the process, in bytes.
    pub(crate) fn rss_bytes(&self) -> Option<u64> {
        rss_bytes(&fs::read_to_string(self.process.join("status")).ok()?)
    }
}

/// The mount with the longest mount point above a directory; of equal ones the last, which covers the others.
fn mount_of(mounts: &str, dir: &Path) -> Option<FileSystem> {
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let (mount, file_system): (Vec<_>, Vec<_>) = (mount.split(' ').collect(), file_system.split(' ').collect());
        // Blanks in a mount point are written as octal escapes; such mounts are not worth more code.
        let depth = dir.starts_with(mount.get(4)?).then(|| Path::new(mount[4]).components().count())?;
        let (kind, source) = (file_system.first()?.to_string(), file_system.get(1)?.to_string());
        Some((depth, FileSystem { kind, source, device: mount[2].to_owned() }))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, file_system)| file_system)
}

/// Sums the lines of `/proc/interrupts`, core by core, whose last word names the device: `virtio1-req.0`, `nvme0q3`,
/// `ahci[0000:00:1f.2]`.
fn device_interrupts(interrupts: &str, names: &[&str]) -> Vec<u64> {
    let mut lines = interrupts.lines();
    let cores = lines.next().map_or(0, |header| header.split_whitespace().count());
    let mut counts = vec![0; cores];
    let mut found = false;
    for line in lines {
        let words: Vec<_> = line.split_whitespace().collect();
        let names_device = |word: &&str| names.iter().any(|name| is_interrupt_of(word, name));
        if words.len() > cores + 1 && words.last().is_some_and(names_device) {
            found = true;
            for (count, word) in counts.iter_mut().zip(&words[1..]) {
                *count += word.parse::<u64>().unwrap_or(0);
            }
        }
    }
    if found { counts } else { Vec::new() }
}

fn is_interrupt_of(word: &str, device: &str) -> bool {
    let rest = word.strip_prefix(device);
    rest.is_some_and(|rest| rest.starts_with('-') || rest.starts_with('q')) || word.contains(&format!("[{device}]"))
}

/// The inode of the socket that listens on a port, from `/proc/net/tcp`.
fn listener_inode(table: &str, port: u16) -> Option<&str> {
    const LISTENING: &str = "0A";
    let port = format!(":{port:04X}");
    let words = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = words.filter(|words| words.len() > 9 && words[1].ends_with(&port) && words[3] == LISTENING);
    found.next().map(|words| words[9])
}

/// From `/proc/<pid>/status`.
fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
impl FileSystem {
    /// A file system of that kind, on no device.
    pub(crate) fn of_test(kind: &str) -> Self {
        Self { kind: kind.to_owned(), source: "none".to_owned(), device: "0:0".to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        22 28 0:21 / /proc rw,relatime shared:13 - proc proc rw\n\
        28 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        30 28 0:25 / /dev/shm rw,nosuid - tmpfs tmpfs rw\n\
        31 28 259:1 / /data rw - xfs /dev/nvme0n1p1 rw\n";

    const INTERRUPTS: &str = "           CPU0       CPU1
 35:          0          1  IO-APIC   virtio1-config
 36:          3     840909  PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 37:          5          7  PCI-MSIX-0000:00:03.0   1-edge      virtio10-req.0
 40:         10         20  PCI-MSIX-0000:00:04.0   1-edge      nvme0q1
 41:         30         40  PCI-MSIX-0000:00:04.0   2-edge      nvme0q2
NMI:          0          0   Non-maskable interrupts
ERR:          0
";

    #[test]
    fn a_directory_is_on_the_mount_nearest_to_it() {
        let check = |dir: &str, kind: &str, source: &str| {
            let found = mount_of(MOUNTS, Path::new(dir)).unwrap();
            assert_eq!((found.kind.as_str(), found.source.as_str()), (kind, source), "{dir}");
        };
        check("/", "ext4", "/dev/vda");
        check("/database", "ext4", "/dev/vda");
        check("/data/a", "xfs", "/dev/nvme0n1p1");
        check("/dev/shm/x", "tmpfs", "tmpfs");
        assert!(mount_of(MOUNTS, Path::new("/dev/shm")).unwrap().is_volatile());
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn interrupts_are_those_of_the_device() {
        assert_eq!(device_interrupts(INTERRUPTS, &["devices", "virtio1", "block", "vda"]), [3, 840_910]);
        assert_eq!(device_interrupts(INTERRUPTS, &["nvme", "nvme0", "nvme0n1"]), [40, 60]);
        assert_eq!(device_interrupts(INTERRUPTS, &["sda"]), [0; 0]);
        assert_eq!(device_interrupts("", &["sda"]), [0; 0]);
    }

    #[test]
    fn the_core_whose_count_rose_takes_them() {
        assert_eq!(busiest(&[100, 5], &[101, 90]), Some(1));
        assert_eq!(busiest(&[100, 5], &[100, 5]), None);
        assert_eq!(busiest(&[], &[]), None);
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
             1: 0100007F:2385 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        assert_eq!(listener_inode(table, 9092), Some("4711"));
        assert_eq!(listener_inode(table, 9093), None, "that one is connected, not listening");
    }

    #[test]
    fn resident_memory_is_in_kib() {
        assert_eq!(rss_bytes("Name:\tx\nVmRSS:\t    1024 kB\n"), Some(1 << 20));
        assert_eq!(rss_bytes("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_run() {
        let this = BrokerThreads { process: "/proc/self".into(), prefix: "" };
        assert!(this.cpu_ns().is_none_or(|ns| ns > 0));
        assert!(this.rss_bytes().unwrap() > 0);
        assert!(!kernel().is_empty());
        assert!(FileSystem::of(Path::new(".")).is_ok());
    }
}
