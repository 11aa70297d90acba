//! The command `streambus`: a noun, then a verb.
//!
//! Each noun has a file, which holds its flags and what it does. All share: flags win over environment variables, data goes
//! to standard output and messages to standard error, and exit codes say what happened (`failure`).
#![forbid(unsafe_code)]

mod backup;
mod confirm;
mod connect;
mod consume;
mod doctor;
mod failure;
mod get;
mod log;
mod output;
mod produce;
mod serve;
mod settings;
mod told;
mod topic;

use std::{process, process::ExitCode, thread, time::Instant};

use clap::{Parser, Subcommand};
use runtime_glommio::{Allocator, Signals, prepare_process};

use crate::{failure::Failure, output::Format};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// What a shell shows for a process that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

/// A durable, partitioned log: the broker, and what talks to it.
#[derive(Debug, Parser)]
#[command(name = "streambus", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Topic(topic::Topic),
    Produce(produce::Produce),
    Consume(consume::Consume),
    Get(get::Get),
    Log(log::Log),
    Doctor(doctor::Doctor),
    Backup(backup::Backup),
}

fn main() -> ExitCode {
    let started = Instant::now();
    let signals = prepare_process();
    let command = Cli::parse().command;
    let format = command.format();
    let done = signals
        .map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))
        .and_then(|signals| command.run(signals, started));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format),
    }
}

impl Command {
    fn format(&self) -> Format {
        match self {
            Self::Serve(serve) => serve.format(),
            Self::Topic(topic) => topic.format(),
            Self::Produce(produce) => produce.format(),
            Self::Consume(consume) => consume.format(),
            Self::Get(get) => get.format(),
            Self::Log(log) => log.format(),
            Self::Doctor(doctor) => doctor.format(),
            Self::Backup(backup) => backup.format(),
        }
    }

    fn run(self, signals: Signals, started: Instant) -> Result<(), Failure> {
        if let Self::Serve(serve) = self {
            return serve.run(signals, started);
        }
        end_on_signal(signals);
        match self {
            Self::Serve(_) => unreachable!("it was served"),
            Self::Topic(topic) => connect::run(topic.run()),
            Self::Produce(produce) => connect::run(produce.run()),
            Self::Consume(consume) => connect::run(consume.run()),
            Self::Get(get) => connect::run(get.run()),
            Self::Log(log) => log.run(),
            Self::Doctor(doctor) => doctor.run(),
            Self::Backup(backup) => backup.run(),
        }
    }
}

/// A client command ends when it is told to; only a broker has more to do.
fn end_on_signal(signals: Signals) {
    thread::spawn(move || {
        signals.receive_blocking();
        process::exit(EXIT_INTERRUPTED);
    });
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_fit_together() {
        Cli::command().debug_assert();
    }
}
