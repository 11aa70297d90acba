//! `streambus backup list` and `verify`: which backups there are, and whether their copies still hold.

use std::{collections::BTreeSet, path::PathBuf};

use clap::Args;
use runtime::Runtime;
use serde::Serialize;
use storage::backup::verify_file;

use super::list::List;
use crate::{
    failure::{Failure, Kind},
    log::on_shard,
    output::{Format, Output, table},
};

/// Say which backups a directory holds
#[derive(Clone, Debug, Args)]
pub(crate) struct Show {
    /// The directory of the backups
    from: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// Read every copy of every backup and compare checksums; the exit status is 1 when something is damaged
#[derive(Clone, Debug, Args)]
pub(crate) struct Verify {
    /// The directory of the backups
    from: PathBuf,

    /// Only this backup [default: all of them]
    #[arg(long, value_name = "N")]
    backup: Option<u64>,

    #[command(flatten)]
    output: Output,
}

/// One backup, as it is printed.
#[derive(Serialize)]
struct Line {
    backup: u64,
    started_ms: i64,
    files: usize,
    bytes: u64,
    /// Of these, what it copied itself.
    copied_bytes: u64,
}

/// What was verified, as it is printed.
#[derive(Serialize)]
struct Verified {
    backups: usize,
    files: u64,
    bytes: u64,
    damage: Vec<String>,
}

impl Show {
    pub(super) fn format(&self) -> Format {
        self.output.format
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let output = self.output;
        let lines = on_shard(move |rt| {
            let from = self.from.clone();
            async move {
                let mut lines = Vec::new();
                for generation in List::generations(&rt, &from).await? {
                    lines.push(line(&List::read(&rt, &from, generation).await?));
                }
                Ok(lines)
            }
        })?;
        output.print(|| text(&lines), &lines)
    }
}

fn line(list: &List) -> Line {
    let copied = list.files().filter(|file| file.generation == list.generation);
    Line {
        backup: list.generation,
        started_ms: list.started_ms,
        files: list.files().count(),
        bytes: list.files().map(|file| file.bytes).sum(),
        copied_bytes: copied.map(|file| file.bytes).sum(),
    }
}

fn text(lines: &[Line]) -> String {
    let row = |line: &Line| {
        let seconds = line.started_ms / 1000;
        vec![
            line.backup.to_string(),
            seconds.to_string(),
            line.files.to_string(),
            line.bytes.to_string(),
            line.copied_bytes.to_string(),
        ]
    };
    table(&["BACKUP", "STARTED (UNIX TIME)", "FILES", "BYTES", "OF THEM COPIED"], 4, lines.iter().map(row))
}

impl Verify {
    pub(super) fn format(&self) -> Format {
        self.output.format
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let output = self.output;
        let verified = on_shard(move |rt| {
            let verify = self.clone();
            async move { verify.verify(&rt).await }
        })?;
        let Verified { backups, files, bytes, damage } = &verified;
        let text = || {
            let damage: String = damage.iter().map(|problem| format!("damage: {problem}\n")).collect();
            format!("{damage}{files} copies of {bytes} bytes in {backups} backups")
        };
        output.print(text, &verified)?;
        match damage.len() {
            0 => Ok(()),
            count => Err(Failure::failed(format!("{count} copies are damaged; make a backup in another directory"))),
        }
    }

    async fn verify<R: Runtime>(&self, rt: &R) -> Result<Verified, Failure> {
        let generations = match self.backup {
            Some(generation) => vec![generation],
            None => List::generations(rt, &self.from).await?,
        };
        if generations.is_empty() {
            return Err(Failure::new(Kind::NotFound, format!("{} holds no backup", self.from.display())));
        }
        let mut verified = Verified { backups: generations.len(), files: 0, bytes: 0, damage: Vec::new() };
        let mut seen = BTreeSet::new();
        for generation in generations {
            for file in List::read(rt, &self.from, generation).await?.files() {
                if !seen.insert(file.stored()) {
                    continue;
                }
                verified.files += 1;
                verified.bytes += file.bytes;
                if let Err(error) = verify_file(rt, &self.from, &file).await {
                    verified.damage.push(error.to_string());
                }
            }
        }
        Ok(verified)
    }
}
