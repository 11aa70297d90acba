//! The verdict: what was seen, what was wrong, and whether enough happened for "nothing was wrong" to mean something.

use std::fmt;

use crate::{Faults, Moment};

/// Examples kept of each class.
const EXAMPLES_MAX: usize = 3;

/// A run with fewer acknowledged records than this proves nothing.
const ACKED_MIN: u64 = 1_000;

/// A way to break the promise of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Acknowledged at an offset that a reader passed without being given the value.
    LostWrite,
    /// Acknowledged, and never delivered by the end, though no reader came that far.
    Unseen,
    /// A reader was moved over offsets that nobody declared lost.
    PollSkip,
    /// One value, delivered at two offsets.
    Duplicate,
    /// Two values at one offset.
    OffsetReuse,
    /// A value is acknowledged at one offset and delivered, or acknowledged again, at another.
    InconsistentOffset,
    /// Of two values of one writer the one sent later has the lower offset.
    NonmonotonicSend,
    /// A reader was moved back.
    NonmonotonicPoll,
    /// A reader saw a high watermark below one it had seen before.
    HighWatermarkRegression,
    /// Bytes delivered that are no record ever sent to this partition.
    Corrupt,
    /// Delivered, although its send was refused.
    RefusedRead,
}

/// What a [`Class`] means for who owns the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Records are missing.
    Lost,
    /// Records are there twice.
    Duplicated,
    /// Records are there in the wrong order or place.
    Reordered,
    /// Records are not what was sent.
    Corrupt,
}

impl Class {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 11] = [
        Self::LostWrite,
        Self::Unseen,
        Self::PollSkip,
        Self::Duplicate,
        Self::OffsetReuse,
        Self::InconsistentOffset,
        Self::NonmonotonicSend,
        Self::NonmonotonicPoll,
        Self::HighWatermarkRegression,
        Self::Corrupt,
        Self::RefusedRead,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LostWrite => "lost-write",
            Self::Unseen => "unseen",
            Self::PollSkip => "poll-skip",
            Self::Duplicate => "duplicate",
            Self::OffsetReuse => "offset-reuse",
            Self::InconsistentOffset => "inconsistent-offset",
            Self::NonmonotonicSend => "nonmonotonic-send",
            Self::NonmonotonicPoll => "nonmonotonic-poll",
            Self::HighWatermarkRegression => "high-watermark-regression",
            Self::Corrupt => "corrupt",
            Self::RefusedRead => "refused-read",
        }
    }

    /// What it does to the owner of the records.
    pub const fn harm(self) -> Harm {
        match self {
            Self::LostWrite | Self::Unseen | Self::PollSkip => Harm::Lost,
            Self::Duplicate => Harm::Duplicated,
            Self::InconsistentOffset
            | Self::NonmonotonicSend
            | Self::NonmonotonicPoll
            | Self::HighWatermarkRegression => Harm::Reordered,
            Self::OffsetReuse | Self::Corrupt | Self::RefusedRead => Harm::Corrupt,
        }
    }
}

/// How many records there were, over all partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Acknowledged.
    pub acked: u64,
    /// Acknowledged and delivered, unchanged, at the offset of the acknowledgement.
    pub verified: u64,
    /// Certainly not stored, as the broker said.
    pub refused: u64,
    /// Neither acknowledged nor refused.
    pub unknown: u64,
    /// Delivered; each as often as it was.
    pub delivered: u64,
    /// Acknowledged at the `memory` level, then declared lost.
    pub declared_lost: u64,
}

/// One violation, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The partition, by the number the run gave it.
    pub partition: u64,
    /// What was seen.
    pub seen: String,
    /// How many records it concerns, from the one named in `seen` on.
    pub records: u64,
}

/// Why a run proves nothing, although it showed nothing wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vacuity {
    /// Fewer than 1,000 records were acknowledged.
    TooFewAcked {
        /// How many were.
        acked: u64,
    },
    /// In a run nothing was acknowledged or delivered after its last fault, so nobody knows whether it survived.
    SilentAfterLastFault {
        /// How many of the runs.
        runs: u64,
    },
    /// A planned kind of fault never happened.
    FaultNeverFired {
        /// Which.
        kind: &'static str,
    },
}

/// What a run, or a campaign of many, comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enough happened, and no promise was broken.
    Pass,
    /// No promise was broken, but too little happened: the run does not count, and is a failure of the test.
    Vacuous(Vec<Vacuity>),
    /// A promise was broken.
    Violated,
}

/// The outcome of a run, or with [`Report::absorb`] of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Report {
    runs: u64,
    pub(crate) totals: Totals,
    faults: Faults,
    runs_silent_after_fault: u64,
    findings: [Finding; Class::ALL.len()],
}

#[derive(Clone, Debug, Default)]
struct Finding {
    count: u64,
    examples: Vec<Example>,
}

impl Report {
    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        if Class::ALL.iter().any(|class| self.count(*class) > 0) {
            return Verdict::Violated;
        }
        let mut reasons = Vec::new();
        if self.totals.acked < ACKED_MIN {
            reasons.push(Vacuity::TooFewAcked { acked: self.totals.acked });
        }
        if self.runs_silent_after_fault > 0 {
            reasons.push(Vacuity::SilentAfterLastFault { runs: self.runs_silent_after_fault });
        }
        let never_fired = self.faults.iter().filter(|(_, fired)| *fired == 0);
        reasons.extend(never_fired.map(|(kind, _)| Vacuity::FaultNeverFired { kind }));
        if reasons.is_empty() { Verdict::Pass } else { Verdict::Vacuous(reasons) }
    }

    /// How many records there were.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many records (moves of a reader, regressions) violate in this way.
    pub fn count(&self, class: Class) -> u64 {
        self.findings[class as usize].count
    }

    /// How many violations do this harm.
    pub fn harmed(&self, harm: Harm) -> u64 {
        Class::ALL.into_iter().filter(|class| class.harm() == harm).map(|class| self.count(class)).sum()
    }

    /// The first violations of a class, in words.
    pub fn examples(&self, class: Class) -> &[Example] {
        &self.findings[class as usize].examples
    }

    /// Adds another run's outcome. A campaign counts by its sums, but every run of it must have shown life after its
    /// last fault.
    pub fn absorb(&mut self, other: Self) {
        self.runs += other.runs;
        self.totals.acked += other.totals.acked;
        self.totals.verified += other.totals.verified;
        self.totals.refused += other.totals.refused;
        self.totals.unknown += other.totals.unknown;
        self.totals.delivered += other.totals.delivered;
        self.totals.declared_lost += other.totals.declared_lost;
        self.faults.absorb(&other.faults);
        self.runs_silent_after_fault += other.runs_silent_after_fault;
        for (finding, other) in self.findings.iter_mut().zip(other.findings) {
            finding.count += other.count;
            let room = EXAMPLES_MAX - finding.examples.len();
            finding.examples.extend(other.examples.into_iter().take(room));
        }
    }

    /// Notes a violation; the words are made only for the first few.
    pub(crate) fn violation(&mut self, class: Class, partition: u64, records: u64, seen: impl FnOnce() -> String) {
        let finding = &mut self.findings[class as usize];
        finding.count += records;
        if finding.examples.len() < EXAMPLES_MAX {
            finding.examples.push(Example { partition, seen: seen(), records });
        }
    }

    /// Closes the report of one run, whose last success was at `last_ok`.
    pub(crate) fn finish(&mut self, faults: &Faults, last_ok: Option<Moment>) {
        self.runs = 1;
        self.faults = faults.clone();
        self.runs_silent_after_fault = u64::from(faults.last.is_some() && last_ok <= faults.last);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { acked, verified, refused, unknown, delivered, declared_lost } = self.totals;
        writeln!(
            out,
            "{} runs: verified {verified} of {acked} acked, {refused} refused, {unknown} unknown, \
             {delivered} delivered, {declared_lost} declared lost",
            self.runs
        )?;
        for (kind, fired) in self.faults.iter() {
            writeln!(out, "  fault {kind:<25} {fired:>12}")?;
        }
        for class in Class::ALL {
            write!(out, "  {:<31} {:>12}", class.name(), self.count(class))?;
            for (index, example) in self.examples(class).iter().enumerate() {
                write!(out, "{} {example}", if index == 0 { " " } else { ";" })?;
            }
            writeln!(out)?;
        }
        write!(out, "verdict: {}", self.verdict())
    }
}

impl fmt::Display for Example {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "partition {}: {}", self.partition, self.seen)?;
        if self.records > 1 {
            write!(out, " and {} more", self.records - 1)?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => write!(out, "pass"),
            Self::Violated => write!(out, "violated"),
            Self::Vacuous(reasons) => {
                write!(out, "vacuous, which is a failure")?;
                for (index, reason) in reasons.iter().enumerate() {
                    write!(out, "{} {reason}", if index == 0 { ":" } else { ";" })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Vacuity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewAcked { acked } => write!(out, "{acked} records acknowledged, {ACKED_MIN} needed"),
            Self::SilentAfterLastFault { runs } => write!(out, "no success after the last fault of {runs} runs"),
            Self::FaultNeverFired { kind } => write!(out, "fault {kind:?} was planned and never happened"),
        }
    }
}
