//! Every kind of file, every 4 KiB of it, every kind of fault: what a damaged log serves is right, or it says that it
//! cannot, and only of the partitions that the fault touched.
//!
//! The logs are those of `tests/golden`: what is in them is known. Each is damaged in one place, opened, read from end to
//! end, appended to, and after a power cut opened and read again: what was refused once stays refused.
//!
//! `cargo test` does 400 mutations. The campaign, which ends after so many or so many seconds:
//! `STREAMBUS_MUTATIONS=20000 STREAMBUS_SECONDS=240 cargo test --release -p storage --test engine corruption -- --nocapture`;
//! one seed: `STREAMBUS_SEED=42`.
#![allow(clippy::disallowed_methods, reason = "the fixtures are files, and the campaign has a time box")]

mod fault;
mod judge;
mod touched;

use std::{collections::BTreeMap, fmt, time::Duration};

use fault::{Fault, Mutation};
use judge::Verdict;
use touched::Map;

use crate::golden::history::{self, End};

/// What `cargo test` does.
const MUTATIONS_DEFAULT: u64 = 400;

#[test]
fn damage_is_never_served_and_stops_only_what_it_touches() {
    let mutations = number("STREAMBUS_MUTATIONS").unwrap_or(MUTATIONS_DEFAULT);
    let seconds = number("STREAMBUS_SECONDS").unwrap_or(3600);
    let seed = number("STREAMBUS_SEED").unwrap_or(1);
    let started = std::time::Instant::now();
    let mut counts = Counts::default();
    let logs = [End::Stopped, End::Killed].map(|end| {
        let (directory, expected) = history::write(end);
        let map = Map::of(&directory, expected.log_id);
        (directory, expected, map)
    });
    let rng = runtime::sim::Rng::new(seed);
    // Every place and every fault once, in an order that a short run has its share of all; then again with other bits.
    'all: loop {
        let mut all: Vec<(usize, Mutation)> = Vec::new();
        for (index, (directory, ..)) in logs.iter().enumerate() {
            all.extend(Mutation::of_all(directory, &rng).into_iter().map(|mutation| (index, mutation)));
        }
        for at in (1..all.len()).rev() {
            all.swap(at, rng.below(at as u64 + 1) as usize);
        }
        for (index, mutation) in all {
            if counts.mutations >= mutations || started.elapsed() >= Duration::from_secs(seconds) {
                break 'all;
            }
            let (directory, expected, map) = &logs[index];
            let verdict = judge::judge(directory, expected, map, &mutation);
            counts.note(&mutation, &verdict);
            assert!(
                !matches!(verdict, Verdict::Silent(_)),
                "seed {seed}, log {index}, {mutation}: {verdict:?}\n{counts}"
            );
        }
    }
    println!("{counts}");
    // A sweep that nothing came of has not swept.
    assert!(counts.mutations >= mutations.min(100), "{counts}");
    assert!(counts.of("detected") > 0 && counts.of("refused") > 0 && counts.of("unharmed") > 0, "{counts}");
    for fault in Fault::ALL {
        assert!(counts.faults.contains_key(fault.name()), "no {}: {counts}", fault.name());
    }
    for kind in ["manifest", "segment", "wal"] {
        assert!(counts.kinds.contains_key(kind), "no {kind}: {counts}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What came of it.
#[derive(Default)]
struct Counts {
    mutations: u64,
    verdicts: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    kinds: BTreeMap<&'static str, u64>,
    /// Partitions affected by one fault, and how often.
    affected: BTreeMap<usize, u64>,
}

impl Counts {
    fn note(&mut self, mutation: &Mutation, verdict: &Verdict) {
        self.mutations += 1;
        *self.verdicts.entry(verdict.name()).or_default() += 1;
        *self.faults.entry(mutation.fault.name()).or_default() += 1;
        *self.kinds.entry(mutation.kind()).or_default() += 1;
        if let Verdict::Detected(partitions) = verdict {
            *self.affected.entry(partitions.len()).or_default() += 1;
        }
    }

    fn of(&self, verdict: &str) -> u64 {
        self.verdicts.get(verdict).copied().unwrap_or(0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let silent = self.of("silent");
        writeln!(f, "{} mutations, {silent} silent: {:?}", self.mutations, self.verdicts)?;
        writeln!(f, "faults {:?} in {:?}", self.faults, self.kinds)?;
        write!(f, "partitions affected by one fault, and how often: {:?}", self.affected)
    }
}
