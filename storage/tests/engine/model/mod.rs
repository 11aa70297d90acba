//! Random lives of one log against a reference: appends, idempotent producers, reads, truncations, deletions of records and
//! of partitions, flushes, merges, restarts, crashes in the middle of anything, damage, clock jumps.
//!
//! A case is 50 operations on average; one that fails is shrunk to the fewest operations that still fail, and its seed is
//! printed. `cargo test` runs 400 cases. The campaign: `STREAMBUS_CASES=20000 cargo test --release -p storage --test engine
//! model -- --nocapture`; one case: `STREAMBUS_SEED=42`.

mod op;
mod producers;
mod world;

use std::{cell::RefCell, collections::BTreeMap};

use op::{Op, ops};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use world::World;

/// What `cargo test` does.
const CASES_DEFAULT: u64 = 400;
/// Cases that found a bug, beyond those that every run does.
const FOUND: [u64; 3] = [881, 1745, 7982];

#[test]
fn the_log_is_what_the_reference_says() {
    let cases = std::env::var("STREAMBUS_CASES").map_or(CASES_DEFAULT, |text| text.parse().expect("a number"));
    let done = RefCell::new(BTreeMap::new());
    let mut run = 0;
    let is_chosen = std::env::var("STREAMBUS_SEED").is_ok();
    let found = FOUND.into_iter().filter(|_| !is_chosen);
    for seed in found.chain(runtime::sim::seeds(cases)) {
        let mut runner = runner(seed);
        let outcome = runner.run(&ops(), |ops| live(seed, &ops, &done).map_err(TestCaseError::fail));
        if let Err(error) = outcome {
            panic!("{error}\nreplay with STREAMBUS_SEED={seed}");
        }
        run += 1;
    }
    let done = done.into_inner();
    println!("{run} cases, {} ops, 0 failures", done.values().sum::<u64>());
    done.iter().for_each(|(kind, count)| println!("  {count:>9} {kind}"));
    if !is_chosen {
        let rare: Vec<_> =
            KINDS.iter().filter(|&&kind| done.get(kind).is_none_or(|&count| count < cases / 40)).collect();
        assert!(rare.is_empty(), "hardly ever tried: {rare:?}");
    }
}

/// What every campaign has to do often enough.
const KINDS: [&str; 17] = [
    "append",
    "sync",
    "produce next",
    "produce repeat",
    "produce skip",
    "produce new epoch",
    "read",
    "read by time",
    "truncate",
    "delete",
    "replace",
    "rest",
    "restart",
    "crash",
    "crash under way",
    "damage",
    "clock jump",
];

/// One seed, one case: what it generates is all that it does.
fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: 1, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn live(seed: u64, ops: &[Op], done: &RefCell<BTreeMap<&'static str, u64>>) -> Result<(), String> {
    let world = World::begin(seed)?;
    for (number, op) in ops.iter().enumerate() {
        let kind = world.act(op).map_err(|problem| format!("operation {number}, {op:?}: {problem}"))?;
        *done.borrow_mut().entry(kind).or_default() += 1;
    }
    world.end()
}
