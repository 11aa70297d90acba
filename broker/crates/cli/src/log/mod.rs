//! `streambus log`: looks into the data directory of a stopped broker, sound or damaged. It never writes there.

pub(crate) mod directory;
mod dump;
mod inspect;
pub(crate) mod verify;

use clap::{Args, Subcommand};
use runtime_glommio::{GlommioRuntime, Options, Placement, run_shards};
use storage::inspect::InspectError;

use crate::{
    failure::{Failure, Kind},
    output::Format,
};

/// Look into the data directory of a stopped broker: what is there, whether it holds, and what it says
#[derive(Debug, Args)]
pub(crate) struct Log {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Dump(dump::Dump),
}

impl Log {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::Inspect(inspect) => inspect.format(),
            Verb::Verify(verify) => verify.format(),
            Verb::Dump(dump) => dump.format(),
        }
    }

    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Inspect(inspect) => inspect.run(),
            Verb::Verify(verify) => verify.run(),
            Verb::Dump(dump) => dump.run(),
        }
    }
}

/// Runs work on a shard of its own, which is where files can be read.
pub(crate) fn on_shard<T, F, Work>(work: Work) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + 'static,
    Work: Fn(GlommioRuntime) -> F + Send + Sync + 'static,
{
    let shard = run_shards(Placement::Anywhere(1), Options::default(), move |rt, _| work(rt));
    let mut done = shard.map_err(|error| Failure::failed(error.to_string()))?.join();
    done.pop().expect("one shard was started")
}

impl From<InspectError> for Failure {
    fn from(error: InspectError) -> Self {
        let kind = if error.is_missing() { Kind::NotFound } else { Kind::Failed };
        Self::new(kind, error.to_string())
    }
}
