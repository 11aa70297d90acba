//! The faults of a run: what was planned, what came, and when the last one was.

use std::collections::BTreeMap;

use crate::Moment;

/// Which faults a run means to inject and which it did. A run whose faults never came proves nothing about them.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    kinds: BTreeMap<&'static str, u64>,
    pub(crate) last: Option<Moment>,
}

impl Faults {
    /// No faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// This kind of fault is planned: "kill", "torn write", "cut".
    pub fn schedule(&mut self, kind: &'static str) {
        self.kinds.entry(kind).or_default();
    }

    /// A fault happened.
    pub fn fire(&mut self, kind: &'static str, now: Moment) {
        *self.kinds.entry(kind).or_default() += 1;
        self.last = self.last.max(Some(now));
    }

    /// Each kind and how often it happened, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.kinds.iter().map(|(kind, fired)| (*kind, *fired))
    }

    /// Adds another run's faults to these.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for (kind, fired) in other.iter() {
            *self.kinds.entry(kind).or_default() += fired;
        }
    }
}
