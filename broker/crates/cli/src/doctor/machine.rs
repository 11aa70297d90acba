//! What a broker asks of its machine, checked one by one, and what a stopped one left behind.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use broker::refused::refused_in;
use config::units::format_duration;
use runtime::{Block as _, File as _, OpenMode, Runtime};
use runtime_glommio::{GlommioRuntime, Options, Placement, check_machine, run_shards};
use serde::Serialize;

use super::loss::{self, Touched};
use crate::{
    failure::Failure,
    output::{Output, table},
};

/// Synced writes that are timed.
const SYNCS: usize = 64;
/// Slower than this, one durable record at a time is a crawl.
const SYNC_MAX: Duration = Duration::from_millis(20);
/// As many connections as a broker takes unless told otherwise, and files beside them.
const OPEN_FILES_MIN: u64 = 12_000;

/// One look at the machine.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    passed: bool,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// All that was looked at.
#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
    refused: Vec<Touched>,
}

/// Checks the machine for a broker that stores in `dir`, and what is there of one that stopped; fails if anything is wrong.
pub(super) fn check(dir: &Path, output: Output) -> Result<(), Failure> {
    let place = existing(dir);
    let mut checks = vec![runtime(), file_system(&place)];
    checks.extend(disk(&place));
    checks.extend([port("listen", 9092), port("admin.listen", 9640), open_files()]);
    let mut refused = Vec::new();
    if dir.join("meta").is_dir() {
        match refused_in(dir) {
            Ok(found) => refused.extend(found.into_iter().map(Touched::from)),
            Err(error) => checks.push(Check::failed("stored data", error.to_string())),
        }
    }
    let report = Report { checks, refused };
    output.print(|| report.text(), &report)?;
    let failed = report.checks.iter().filter(|check| !check.passed).count();
    if failed > 0 {
        return Err(Failure::failed(format!("{failed} of {} checks failed", report.checks.len())));
    }
    loss::verdict(&report.refused)
}

impl Check {
    fn passed(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, passed: true, found: found.into(), fix: None }
    }

    /// `text`: what is wrong, and after a semicolon what to do.
    fn failed(what: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        let (found, fix) = match text.split_once("; ") {
            Some((found, fix)) => (found.to_owned(), Some(fix.to_owned())),
            None => (text, None),
        };
        Self { what, passed: false, found, fix }
    }
}

impl Report {
    fn text(&self) -> String {
        let row = |check: &Check| {
            let verdict = if check.passed { "ok" } else { "FAILED" };
            let found = match &check.fix {
                Some(fix) => format!("{}: {fix}", check.found),
                None => check.found.clone(),
            };
            vec![check.what.to_owned(), verdict.to_owned(), found]
        };
        let checks = table(&["CHECK", "", "FOUND"], 0, self.checks.iter().map(row));
        if self.refused.is_empty() { checks } else { format!("{checks}\n{}", loss::text(&self.refused)) }
    }
}

/// The directory, or the nearest one above it that is there.
fn existing(dir: &Path) -> PathBuf {
    let here = Path::new(".");
    let above = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(here);
    if above.as_os_str().is_empty() { here.to_owned() } else { above.to_owned() }
}

fn runtime() -> Check {
    match check_machine() {
        Ok(()) => Check::passed("io_uring", "it is there, and enough memory may be locked"),
        Err(error) => Check::failed("io_uring", error.to_string()),
    }
}

fn file_system(dir: &Path) -> Check {
    match kind_of_file_system(dir).as_deref() {
        Ok(kind @ ("tmpfs" | "ramfs")) => {
            Check::failed("file system", format!("{kind} keeps nothing; choose a directory on a disk"))
        }
        Ok(kind @ ("overlay" | "nfs" | "nfs4" | "cifs" | "fuse")) => Check::failed(
            "file system",
            format!("{kind} is between the broker and the disk; mount a volume, ext4 or XFS"),
        ),
        Ok(kind) => Check::passed("file system", kind),
        Err(error) => Check::failed("file system", format!("cannot be told: {error}")),
    }
}

fn kind_of_file_system(dir: &Path) -> io::Result<String> {
    let (dir, mounts) = (fs::canonicalize(dir)?, fs::read_to_string("/proc/self/mountinfo")?);
    let mounts = mounts.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        Some((place.split(' ').nth(4)?, kind.split(' ').next()?))
    });
    // Of several on one place the last covers the others.
    let found = mounts.filter(|(at, _)| dir.starts_with(at)).max_by_key(|(at, _)| at.len());
    found.map(|(_, kind)| kind.to_owned()).ok_or_else(|| io::Error::other("it is on no mount"))
}

/// Direct I/O, how long a sync takes, and which core hears of it: by doing what a broker does.
fn disk(dir: &Path) -> Vec<Check> {
    let path = dir.join(format!(".streambus-doctor-{}", std::process::id()));
    let before = disk_interrupts();
    let timed = run_shards(Placement::Anywhere(1), Options::default(), move |rt, _| time_syncs(rt, path.clone()));
    let timed = match timed {
        Ok(threads) => threads.join().pop().expect("there is one shard"),
        Err(error) => Err(io::Error::other(error.to_string())),
    };
    match timed {
        Err(error) => vec![Check::failed("direct I/O", format!("{error}; choose a directory that can be written"))],
        Ok(median) => {
            let text = format!("half of {SYNCS} synced 4 KiB writes took up to {}", format_duration(median));
            let sync = match median <= SYNC_MAX {
                true => Check::passed("sync", text),
                false => Check::failed("sync", format!("{text}; choose a faster disk, or one that others use less")),
            };
            let core = match busiest(&before, &disk_interrupts()) {
                Some(core) => format!("core {core} takes them: give it to the broker with `cores`, or leave it out"),
                None => "none were seen".to_owned(),
            };
            vec![Check::passed("direct I/O", "it works"), sync, Check::passed("disk interrupts", core)]
        }
    }
}

async fn time_syncs(rt: GlommioRuntime, path: PathBuf) -> io::Result<Duration> {
    let file = rt.open(&path, OpenMode::CreateDurable).await?;
    let timed = async {
        file.allocate(SYNCS as u64 * 4096).await?;
        let mut took = Vec::new();
        for place in 0..SYNCS as u64 {
            let mut block = rt.block(4096);
            block[..4096].fill(0);
            let started = rt.now();
            file.write_durable(block.freeze(4096), place * 4096).await?;
            took.push(rt.now().since(started));
        }
        took.sort_unstable();
        Ok(took[SYNCS / 2])
    };
    let timed = timed.await;
    rt.remove_file(&path).await?;
    timed
}

/// Interrupts of disks so far, by core.
fn disk_interrupts() -> Vec<u64> {
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let cores = text.lines().next().map_or(0, |head| head.split_whitespace().count());
    let mut counts = vec![0; cores];
    let is_disk =
        |line: &str| ["nvme", "virtio", "ahci", "scsi", "mmc", "blkif"].iter().any(|name| line.contains(name));
    for line in text.lines().skip(1).filter(|line| is_disk(line)) {
        for (count, field) in counts.iter_mut().zip(line.split_whitespace().skip(1)) {
            *count += field.parse().unwrap_or(0);
        }
    }
    counts
}

/// The core whose count rose most, if any rose by as many as there were syncs.
fn busiest(before: &[u64], after: &[u64]) -> Option<usize> {
    let risen = before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before));
    risen
        .enumerate()
        .filter(|(_, risen)| *risen >= SYNCS as u64 / 2)
        .max_by_key(|(_, risen)| *risen)
        .map(|(core, _)| core)
}

fn port(setting: &'static str, port: u16) -> Check {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Check::passed(setting, format!("port {port} is free")),
        Err(error) => {
            Check::failed(setting, format!("port {port}: {error}; stop what listens there, or set {setting}"))
        }
    }
}

fn open_files() -> Check {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit: Option<u64> =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    match limit {
        Some(limit) if limit < OPEN_FILES_MIN => {
            Check::failed("open files", format!("{limit} may be open; raise that to {OPEN_FILES_MIN} (ulimit -n)"))
        }
        Some(limit) => Check::passed("open files", format!("{limit} may be open")),
        // "unlimited" is no number.
        None => Check::passed("open files", "there is no limit"),
    }
}
