//! Load for a StreamBus broker, checked record by record.
//!
//! `scenario` is what the flags say. `embedded` starts a broker where none is given, `limits` measures the machine, `topic`
//! finds or makes the topic, `load` drives the workers (`worker` with the SDK, `raw` on bare sockets) through the windows of
//! a `run`, `verify` judges what they noted, and `report` tells it.
#![forbid(unsafe_code)]

mod embedded;
mod failure;
mod interrupt;
mod latency;
mod limits;
mod load;
mod machine;
mod pacer;
mod raw;
mod report;
mod run;
mod scenario;
mod topic;
mod verify;
mod worker;

use std::{
    fs,
    io::{self, ErrorKind, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use config::Machine;
use runtime_glommio::{Allocator, allowed_cores, memory_bytes, prepare_process};
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use crate::{
    embedded::DemoDir,
    failure::Failure,
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    limits::Limits,
    machine::{BrokerThreads, FileSystem},
    report::{Place, Report},
    run::Run,
    scenario::Scenario,
    topic::Topic,
    verify::Proof,
};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let signals = prepare_process();
    let scenario = Scenario::of_command_line();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(io::stderr().is_terminal()).init();
    let done = scenario.validate().and_then(|()| {
        let signals = signals.map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        session(&scenario, &Interrupt::on(signals))
    });
    match done {
        Ok(exit_code) => exit_code.into(),
        Err(failure) => {
            eprintln!("loadgen: {failure}");
            failure.exit_code().into()
        }
    }
}

/// Has a broker, its own or another, loads it, and reports. Returns the exit code.
fn session(scenario: &Scenario, interrupt: &Arc<Interrupt>) -> Result<u8, Failure> {
    let cores = allowed_cores().map_err(|error| Failure::new(format!("cannot tell this machine's cores: {error}")))?;
    let report = match &scenario.brokers {
        Some(brokers) => load_other(scenario, brokers, cores, interrupt)?,
        None => load_own(scenario, cores, interrupt)?,
    };
    tell(&report, scenario.json.as_deref())?;
    Ok(match report.exit_code() {
        0 if interrupt.is_stopped() => EXIT_INTERRUPTED,
        exit_code => exit_code,
    })
}

fn load_own(scenario: &Scenario, cores: Vec<usize>, interrupt: &Arc<Interrupt>) -> Result<Report, Failure> {
    let given = scenario.cores.as_deref().map_or(Ok(None), |text| embedded::parse_cores(text, &cores))?;
    let dir = DemoDir::make(&scenario.dir())?;
    interrupt.remove_at_end(dir.path().to_owned());
    let limits = measure(Some(dir.path()), &cores)?;
    let memory_bytes =
        memory_bytes().map_err(|error| Failure::new(format!("cannot tell this machine's memory: {error}")))?;
    let (broker_cores, load_cores) = embedded::share_cores(&cores, given.as_deref(), limits.disk_interrupt_core);
    let machine = Machine { cores, memory_bytes };
    let broker = embedded::start(scenario, &dir, &machine, &broker_cores)?;
    embedded::run_on(&load_cores);
    let place = Place::new(Some(broker_cores), load_cores, place_of(dir.path()));
    let threads = BrokerThreads::embedded();
    let report = load(scenario, &broker.address().to_string(), Some(&threads), place, limits, interrupt);
    broker.stop();
    report
}

fn load_other(
    scenario: &Scenario,
    brokers: &str,
    cores: Vec<usize>,
    interrupt: &Arc<Interrupt>,
) -> Result<Report, Failure> {
    let limits = measure(scenario.dir.as_deref(), &cores)?;
    let threads = local_port(brokers).and_then(BrokerThreads::listening_on);
    let place = Place::new(None, cores, scenario.dir.as_deref().and_then(place_of));
    load(scenario, brokers, threads.as_ref(), place, limits, interrupt)
}

fn load(
    scenario: &Scenario,
    brokers: &str,
    threads: Option<&BrokerThreads>,
    place: Place,
    limits: Limits,
    interrupt: &Arc<Interrupt>,
) -> Result<Report, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime of one thread can be made");
    let topic = runtime.block_on(Topic::prepare(scenario, brokers))?;
    let proof = scenario.verifies().then(|| {
        let partitions = topic.partition_count();
        Proof::new(fastrand::u64(..), scenario.record_size, scenario.producers, partitions, scenario.consumers > 0)
    });
    let run = Arc::new(Run::new(scenario.clone(), topic, proof, Arc::clone(interrupt)));
    let outcome = load::drive(&run, threads)?;
    if let Err(failure) = runtime.block_on(run.topic.clean_up()) {
        eprintln!("loadgen: topic {} is left behind: {failure}", run.topic.name);
    }
    Ok(Report::new(&run, outcome, place, limits))
}

fn measure(dir: Option<&Path>, cores: &[usize]) -> Result<Limits, Failure> {
    Limits::measure(dir, cores).map_err(|error| Failure::new(format!("cannot measure this machine: {error}")))
}

fn place_of(dir: &Path) -> Option<(String, FileSystem)> {
    Some((dir.display().to_string(), FileSystem::of(dir).ok()?))
}

/// The port of a broker on this machine.
fn local_port(brokers: &str) -> Option<u16> {
    let (host, port) = brokers.split(',').next()?.trim().rsplit_once(':')?;
    ["127.0.0.1", "localhost", "[::1]"].contains(&host).then(|| port.parse().ok())?
}

/// Text on standard output, unless the JSON takes its place there.
fn tell(report: &Report, json: Option<&Path>) -> Result<(), Failure> {
    match json {
        Some(path) if path == Path::new("-") => {
            eprint!("{report}");
            print(&report.json())
        }
        json => {
            print(report.to_string().trim_end())?;
            let Some(path) = json else { return Ok(()) };
            let written = fs::write(path, report.json() + "\n");
            written.map_err(|error| Failure::new(format!("cannot write --json {}: {error}", path.display())))
        }
    }
}

/// Who closed our output has read enough.
fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the report: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broker_on_this_machine_is_looked_at() {
        assert_eq!(local_port("127.0.0.1:9092"), Some(9092));
        assert_eq!(local_port("localhost:1, other:2"), Some(1));
        assert_eq!(local_port("192.0.2.1:9092"), None);
        assert_eq!(local_port("localhost"), None);
    }
}
