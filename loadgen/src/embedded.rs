//! A broker inside this process, for those who have none: its directory, its cores, its end.
//!
//! The hard idea: a directory is removed as a whole at the end, so it must be one that loadgen made. It makes it anew, or
//! finds in it the mark of an earlier run that was killed, held by nobody.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use broker::{Broker, BrokerHandle};
use config::{Config, Inputs, Machine};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{failure::Failure, scenario::Scenario};

/// The file that says whose directory it is. It stays locked while the run lasts.
const MARK: &str = "loadgen-made-this";

/// A directory for one run, removed when dropped.
#[derive(Debug)]
pub(crate) struct DemoDir {
    path: PathBuf,
    _mark: File,
}

impl DemoDir {
    /// Makes the directory.
    pub(crate) fn make(path: &Path) -> Result<Self, Failure> {
        let failed =
            |error: io::Error| Failure::new(format!("cannot use {}: {error}; choose another --dir", path.display()));
        let refused = |why: &str| Failure::refused(format!("{} {why}; choose another --dir", path.display()));
        fs::create_dir_all(path).map_err(failed)?;
        let is_marked = path.join(MARK).exists();
        if !is_marked && fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(refused("is not empty, and loadgen removes what it stores in"));
        }
        let mark = File::create(path.join(MARK)).map_err(failed)?;
        match mark.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(refused("is in use by another loadgen")),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if is_marked {
            fs::remove_dir_all(path.join("data")).or_else(absent_is_fine).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), _mark: mark })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DemoDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a run's directory, also while the broker still runs; what cannot be removed is told.
pub(crate) fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir).or_else(absent_is_fine) {
        eprintln!("loadgen: cannot remove {}: {error}; remove it yourself", dir.display());
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Which cores the broker takes, and which are left for the load: those given, or half of them, first the one that takes the
/// disk's interrupts. With one core both share it.
pub(crate) fn share_cores(
    allowed: &[usize],
    broker: Option<&[usize]>,
    interrupts: Option<usize>,
) -> (Vec<usize>, Vec<usize>) {
    let broker = broker.map_or_else(
        || {
            let mut cores = allowed.to_vec();
            cores.sort_by_key(|core| Some(*core) != interrupts);
            cores.truncate((allowed.len() / 2).max(1));
            cores
        },
        <[usize]>::to_vec,
    );
    let load: Vec<_> = allowed.iter().copied().filter(|core| !broker.contains(core)).collect();
    let load = if load.is_empty() { allowed.to_vec() } else { load };
    (broker, load)
}

/// Starts a broker on a free port.
pub(crate) fn start(
    scenario: &Scenario,
    dir: &DemoDir,
    machine: &Machine,
    cores: &[usize],
) -> Result<BrokerHandle, Failure> {
    let data = dir.path().join("data");
    let data = data.to_str().ok_or_else(|| Failure::usage("--dir: the path is not UTF-8"))?;
    let cores = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut flags = vec![("dir", data), ("cores", &cores), ("listen", "127.0.0.1:0"), ("admin.listen", "off")];
    flags.extend(scenario.memory.as_deref().map(|memory| ("memory", memory)));
    let config = Config::load(&Inputs { flags: &flags, ..Inputs::default() }, machine);
    let config = config.map_err(|error| Failure::usage(error.to_string()))?;
    Broker::start(&config).map_err(|error| Failure::new(format!("the embedded broker does not start: {error}")))
}

/// The cores that a flag names.
pub(crate) fn parse_cores(text: &str, allowed: &[usize]) -> Result<Option<Vec<usize>>, Failure> {
    match text.parse() {
        Ok(config::Cores::Auto) => Ok(None),
        Ok(config::Cores::These(cores)) => match cores.iter().find(|core| !allowed.contains(core)) {
            None => Ok(Some(cores)),
            Some(core) => Err(Failure::usage(format!(
                "--cores {text}: core {core} is not among those this process may run on, {allowed:?}"
            ))),
        },
        Err(reason) => Err(Failure::usage(format!("--cores {text}: {reason}"))),
    }
}

/// Moves this thread, and those it starts from now on, to these cores.
pub(crate) fn run_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    for &core in cores {
        set.set(core);
    }
    // Refused, the load runs where the system puts it, and the report's core is where it may not be.
    let _ = sched_setaffinity(None, &set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_and_load_have_cores_of_their_own() {
        let check = |allowed: &[usize], given: Option<&[usize]>, interrupts, broker: &[usize], load: &[usize]| {
            assert_eq!(share_cores(allowed, given, interrupts), (broker.to_vec(), load.to_vec()));
        };
        check(&[0, 1], None, Some(1), &[1], &[0]);
        check(&[0, 1], None, None, &[0], &[1]);
        check(&[0, 1, 2, 3], None, Some(2), &[2, 0], &[1, 3]);
        check(&[4], None, Some(4), &[4], &[4]);
        check(&[0, 1], Some(&[0]), Some(1), &[0], &[1]);
        check(&[0, 1], Some(&[0, 1]), None, &[0, 1], &[0, 1]);
    }

    #[test]
    fn cores_are_read_and_held_against_the_machine() {
        assert_eq!(parse_cores("0-1", &[0, 1]), Ok(Some(vec![0, 1])));
        assert_eq!(parse_cores("auto", &[0, 1]), Ok(None));
        assert!(parse_cores("2", &[0, 1]).is_err());
        assert!(parse_cores("x", &[0, 1]).is_err());
    }

    #[test]
    fn a_directory_of_someone_else_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let theirs = parent.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("thesis.txt"), "years of work").unwrap();
        assert!(DemoDir::make(&theirs).is_err());
        assert!(theirs.join("thesis.txt").exists());
    }

    #[test]
    fn a_directory_lasts_as_long_as_its_run() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DemoDir::make(&path).unwrap();
        fs::create_dir(path.join("data")).unwrap();
        assert!(DemoDir::make(&path).is_err(), "in use");
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_run_left_is_taken_over() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("demo");
        fs::create_dir_all(path.join("data/old")).unwrap();
        fs::write(path.join(MARK), "").unwrap();
        let _dir = DemoDir::make(&path).unwrap();
        assert!(!path.join("data").exists());
    }
}
