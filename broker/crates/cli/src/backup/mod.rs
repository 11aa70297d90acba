//! `streambus backup`: copies a data directory, also while its broker works, and brings it back.
//!
//! It reads the broker's files, so it runs on the broker's machine, as somebody who may read them: whoever cannot read the
//! data directory cannot back it up. All that the broker is asked is to keep the files for as long as they are copied.

mod create;
mod list;
mod prune;
mod restore;
mod show;

use clap::{Args, Subcommand};
use storage::backup::BackupError;

use crate::{failure::Failure, output::Format};

/// Copy the data directory of a broker, which may go on working, and bring it back
#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(create::Create),
    List(show::Show),
    Verify(show::Verify),
    Restore(restore::Restore),
}

impl Backup {
    pub(crate) fn format(&self) -> Format {
        match &self.verb {
            Verb::Create(create) => create.format(),
            Verb::List(list) => list.format(),
            Verb::Verify(verify) => verify.format(),
            Verb::Restore(restore) => restore.format(),
        }
    }

    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.verb {
            Verb::Create(create) => create.run(),
            Verb::List(list) => list.run(),
            Verb::Verify(verify) => verify.run(),
            Verb::Restore(restore) => restore.run(),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        if error.is_missing_file() {
            let next = "the broker stopped or its disk is full; try again when it has settled";
            return Self::failed(format!("{error}; {next}"));
        }
        Self::failed(error.to_string())
    }
}
