//! How much memory this process may use: the machine's, or less if a cgroup says so.
//!
//! A limit of a cgroup holds for all below it, so the smallest from the process's own up to the root counts. Version 1 is
//! read as well, since it still runs where containers are old.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The machine's memory or the cgroup's limit, whichever is smaller, in bytes.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn memory_bytes() -> io::Result<u64> {
    let machine = machine_bytes(&fs::read_to_string("/proc/meminfo")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))?;
    // A process without cgroups has no limit.
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    Ok(limits.fold(machine, u64::min))
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// The files that may hold a limit. A group's path is given from the root of the hierarchy; inside a container that is
/// often not mounted, and the root that is seen there is the container's own.
fn limit_files(groups: &str) -> impl Iterator<Item = PathBuf> {
    groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, group) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let place = match (number, controllers) {
            ("0", "") => Some(("/sys/fs/cgroup", "memory.max")),
            (_, controllers) if controllers.split(',').any(|name| name == "memory") => {
                Some(("/sys/fs/cgroup/memory", "memory.limit_in_bytes"))
            }
            _ => None,
        };
        let groups: Vec<_> = Path::new(group.trim_start_matches('/')).ancestors().collect();
        place.into_iter().flat_map(move |(root, file)| {
            groups.clone().into_iter().map(move |group| Path::new(root).join(group).join(file))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_how_much_it_has() {
        assert_eq!(machine_bytes("MemFree: 1 kB\nMemTotal:       24684200 kB\n"), Some(24_684_200 << 10));
        assert_eq!(machine_bytes("MemTotal: much\n"), None);
        assert!(memory_bytes().unwrap() > 1 << 20);
    }

    #[test]
    fn every_group_above_may_hold_a_limit() {
        let files = |groups| limit_files(groups).map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            files("0::/a/b\n"),
            ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(
            files("11:cpu,cpuacct:/x\n4:memory:/x\n"),
            ["/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!(files(""), [""; 0]);
    }
}
