//! What a case is made of.

use proptest::{collection::vec, prelude::*};

/// One operation. Partitions are places: what is in one is deleted and replaced. Positions are parts of 65,536.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Append {
        place: usize,
        records: usize,
        record_bytes: usize,
        disorder_ms: i64,
    },
    Produce {
        place: usize,
        producer: i64,
        how: How,
    },
    Sync,
    Read {
        place: usize,
        at: u16,
        bytes_max: usize,
    },
    ReadByTime {
        place: usize,
        at: u16,
    },
    Truncate {
        place: usize,
        at: u16,
    },
    /// Removes the oldest records.
    Delete {
        place: usize,
        at: u16,
    },
    Replace {
        place: usize,
    },
    Rest {
        ms: u64,
    },
    Restart,
    /// Crashes at a step of the disk from now on, or with the next crash at the latest.
    Crash {
        power_cut: bool,
        steps: u64,
    },
    Damage {
        clean: bool,
        file: u16,
        at: u16,
    },
    ClockJump {
        minutes: i64,
    },
}

/// What an idempotent producer sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// What follows.
    Next,
    /// The last batch once more.
    Repeat,
    /// Something with a gap before it.
    Skip,
    /// The first of a new epoch, and behind it one of the old.
    NewEpoch,
}

/// How many partitions there are at a time. The last is of the level `memory`.
pub(crate) const PLACES: usize = 3;

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..=100)
}

fn op() -> impl Strategy<Value = Op> {
    let place = 0..PLACES;
    let how = prop_oneof![4 => Just(How::Next), 2 => Just(How::Repeat), 1 => Just(How::Skip), 1 => Just(How::NewEpoch)];
    let record_bytes = prop_oneof![3 => 8usize..200, 2 => 200usize..900];
    prop_oneof![
        12 => (place.clone(), 1usize..5, record_bytes, -20i64..20).prop_map(|(place, records, record_bytes, disorder_ms)| {
            Op::Append { place, records, record_bytes, disorder_ms }
        }),
        8 => (place.clone(), 0i64..3, how).prop_map(|(place, producer, how)| Op::Produce { place, producer, how }),
        6 => Just(Op::Sync),
        5 => (place.clone(), any::<u16>(), 0usize..5000)
            .prop_map(|(place, at, bytes_max)| Op::Read { place, at, bytes_max }),
        3 => (place.clone(), any::<u16>()).prop_map(|(place, at)| Op::ReadByTime { place, at }),
        2 => (place.clone(), any::<u16>()).prop_map(|(place, at)| Op::Truncate { place, at }),
        2 => (place.clone(), any::<u16>()).prop_map(|(place, at)| Op::Delete { place, at }),
        1 => place.prop_map(|place| Op::Replace { place }),
        3 => (0u64..150).prop_map(|ms| Op::Rest { ms }),
        1 => Just(Op::Restart),
        3 => (any::<bool>(), 0u64..60).prop_map(|(power_cut, steps)| Op::Crash { power_cut, steps }),
        1 => (any::<bool>(), any::<u16>(), any::<u16>()).prop_map(|(clean, file, at)| Op::Damage { clean, file, at }),
        1 => (-3000i64..3000).prop_map(|minutes| Op::ClockJump { minutes }),
    ]
}
