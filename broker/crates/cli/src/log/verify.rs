//! `streambus log verify`: reads every checksum and says what does not hold.

use std::path::PathBuf;

use clap::Args;
use runtime::Runtime;
use serde::Serialize;
use storage::inspect::{Finding, Severity, Verified, verify_journal, verify_log};

use super::{directory::Directory, on_shard};
use crate::{
    failure::Failure,
    output::{Format, Output},
};

/// Read every checksum and say what does not hold; the exit status is 0 when all do, 1 when something is damaged
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The data directory of a stopped broker, or that of one log
    dir: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// What is printed.
#[derive(Serialize)]
struct Shown {
    sound: bool,
    files: u64,
    bytes: u64,
    groups: u64,
    entries: u64,
    batches: u64,
    segments: u64,
    blocks: u64,
    findings: Vec<ShownFinding>,
}

#[derive(Serialize)]
struct ShownFinding {
    severity: &'static str,
    file: String,
    position: Option<u64>,
    problem: String,
}

impl Verify {
    pub(super) fn format(&self) -> Format {
        self.output.format
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.dir.clone();
        let verified = on_shard(move |rt| {
            let dir = dir.clone();
            async move { verify(&rt, Directory::open(&rt, &dir).await?).await }
        })?;
        self.output.print(|| text(&verified), &Shown::from(&verified))?;
        let damaged = verified.findings.iter().filter(|finding| finding.severity == Severity::Damage).count();
        if damaged == 0 {
            return Ok(());
        }
        let places = if damaged == 1 { "1 place is".to_owned() } else { format!("{damaged} places are") };
        Err(Failure::failed(format!("{places} damaged; a start refuses what they touch: restore it from a backup")))
    }
}

/// Verifies everything in a data directory.
pub(crate) async fn verify<R: Runtime>(rt: &R, dir: Directory<R>) -> Result<Verified, Failure> {
    let mut verified = Verified::default();
    if let Some(meta) = &dir.meta {
        verified.absorb(verify_journal(rt, meta, "meta").await?);
        if let Some(Err(error)) = dir.metadata(rt).await.map(|metadata| metadata.read)
            && verified.is_sound()
        {
            // Its checksums hold, and what it says makes no sense.
            let problem = error.to_string();
            let finding = Finding { severity: Severity::Damage, file: meta.clone(), position: None, problem };
            verified.findings.push(finding);
        }
    }
    for log in &dir.logs {
        verified.absorb(verify_log(rt, log).await?);
    }
    Ok(verified)
}

fn text(verified: &Verified) -> String {
    let line = |finding: &Finding| format!("{}: {finding}\n", word(finding.severity));
    let findings: String = verified.findings.iter().map(line).collect();
    let Verified { files, bytes, groups, entries, batches, segments, blocks, .. } = verified;
    let verdict = if verified.is_sound() { "all that was written is there" } else { "damaged" };
    format!(
        "{findings}{files} files of {bytes} bytes: {groups} groups, {entries} entries, {batches} batches, {segments} \
         segments, {blocks} blocks\n{verdict}"
    )
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Damage => "damage",
    }
}

impl From<&Verified> for Shown {
    fn from(verified: &Verified) -> Self {
        let shown = |finding: &Finding| ShownFinding {
            severity: word(finding.severity),
            file: finding.file.display().to_string(),
            position: finding.position,
            problem: finding.problem.clone(),
        };
        Self {
            sound: verified.is_sound(),
            files: verified.files,
            bytes: verified.bytes,
            groups: verified.groups,
            entries: verified.entries,
            batches: verified.batches,
            segments: verified.segments,
            blocks: verified.blocks,
            findings: verified.findings.iter().map(shown).collect(),
        }
    }
}
