//! `streambus doctor`: what is wrong with a machine or with what a broker stores, and what to do about it.

mod loss;
mod machine;

use std::path::PathBuf;

use clap::Args;

use crate::{
    connect::{self, Brokers},
    failure::Failure,
    output::{Format, Output},
};

/// Where a broker stores unless told otherwise.
const DEFAULT_DIR: &str = "./streambus-data";

/// Check this machine for a broker, list damaged partitions, or accept their loss
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The data directory of a stopped broker, or of one to be started [default: ./streambus-data]
    #[arg(value_name = "DIR", conflicts_with = "accept_loss")]
    dir: Option<PathBuf>,

    /// Ask a running broker which partitions are damaged, as far as it met that, host:port, instead of looking at this machine
    #[arg(long, env = "STREAMBUS_BROKERS", value_name = "HOST:PORT")]
    brokers: Option<String>,

    /// Have the running broker give up what damage took from this partition, for good; may be given several times
    #[arg(long, value_name = "TOPIC/PARTITION", value_parser = loss::parse_place)]
    accept_loss: Vec<loss::Place>,

    /// Do not ask; needed where nobody can answer
    #[arg(short, long, requires = "accept_loss")]
    yes: bool,

    /// Only say what would be given up
    #[arg(long, requires = "accept_loss")]
    dry_run: bool,

    #[command(flatten)]
    output: Output,
}

impl Doctor {
    pub(crate) fn format(&self) -> Format {
        self.output.format
    }

    pub(crate) fn run(self) -> Result<(), Failure> {
        let brokers = self.brokers.map(Brokers::at);
        if !self.accept_loss.is_empty() {
            let brokers = brokers.unwrap_or_default();
            return connect::run(loss::accept(brokers, self.accept_loss, self.yes, self.dry_run, self.output));
        }
        match (self.dir, brokers) {
            (None, Some(brokers)) => connect::run(loss::list(brokers, self.output)),
            (dir, _) => machine::check(&dir.unwrap_or_else(|| DEFAULT_DIR.into()), self.output),
        }
    }
}
