//! Every state that a crash can leave behind a short workload, recovered and compared with a reference.
//!
//! A workload is up to three operations behind a short prologue. Each disk operation of its last one, and of the pause
//! behind it, is a place to crash; at each place every subset of the sectors, lengths and names that are not synced is a
//! state (64 random ones when there are more than ten), and so are a cut that leaves garbage and a kill. A state is
//! recovered, read, crashed again at once, crashed in the middle of its recovery, and crashed again behind further writes.
//!
//! `cargo test` visits the first 4,000 states. The campaign: `STREAMBUS_STATES=200000 cargo test --release -p storage
//! --test engine crash_states -- --nocapture`; it goes through all workloads and begins again with the next seed. One
//! seed: `STREAMBUS_SEED=3`.

mod recover;
mod workload;

use std::collections::HashSet;

use recover::Recoveries;
use runtime::sim::{Rng, disk::Image};
use workload::{Moment, Op, workloads};

/// What `cargo test` does.
const STATES_DEFAULT: u64 = 4000;
/// About so many states all workloads of one seed have. Who wants fewer tries fewer places to crash, not fewer workloads.
const STATES_IN_ALL: u64 = 640_000;
/// Up to so many open sectors, lengths and names, each subset is a state.
const OPEN_MAX: u32 = 10;
/// The campaign ends with so many.
const VIOLATIONS_MAX: u64 = 5;
/// Beyond, so many random subsets are.
const SUBSETS: u64 = 64;

#[test]
fn no_crash_state_loses_or_invents_anything() {
    let wanted = std::env::var("STREAMBUS_STATES").map_or(STATES_DEFAULT, |text| text.parse().expect("a number"));
    let mut explorer = Explorer { thinned: (STATES_IN_ALL / wanted).clamp(1, 32), ..Explorer::default() };
    for seed in runtime::sim::seeds(u64::MAX) {
        for workload in workloads(seed) {
            if explorer.states < wanted && explorer.violations < VIOLATIONS_MAX {
                explorer.explore(seed, &workload);
            }
        }
        if explorer.states >= wanted || explorer.violations >= VIOLATIONS_MAX {
            break;
        }
    }
    let Explorer { states, violations, workloads, moments, recoveries, .. } = explorer;
    println!(
        "{states} states, {} distinct recoveries, {violations} violations\n{workloads} workloads, {moments} places to crash, {} \
         recoveries in all",
        recoveries.distinct(),
        recoveries.count()
    );
    assert_eq!(violations, 0, "see above");
    assert!(states >= wanted.min(1000) && recoveries.distinct() > 100, "hardly anything was tried");
}

#[derive(Default)]
struct Explorer {
    /// One place to crash in so many is tried.
    thinned: u64,
    states: u64,
    violations: u64,
    workloads: u64,
    moments: u64,
    /// States by the digest of the disk and of what the reference expects.
    visited: HashSet<(u64, u64)>,
    recoveries: Recoveries,
}

impl Explorer {
    fn explore(&mut self, seed: u64, workload: &[Op]) {
        self.workloads += 1;
        let _context = Context { seed, workload };
        for (number, moment) in workload::run(seed, workload).into_iter().enumerate() {
            let rng = Rng::new(seed ^ (self.workloads << 16) ^ ((number as u64) << 40));
            if !rng.one_in(self.thinned) {
                continue;
            }
            self.moments += 1;
            for (image, digest) in crashes(&moment, &rng) {
                if !self.visited.insert((digest, moment.expectation())) {
                    continue;
                }
                self.states += 1;
                if let Err(problem) = self.recoveries.check(digest, &image, &moment.expected, &rng) {
                    println!("STREAMBUS_SEED={seed}, {workload:?}, crash {number}: {problem}");
                    self.violations += 1;
                }
            }
        }
    }
}

/// What a crash at this moment may leave, with its digest.
fn crashes(moment: &Moment, rng: &Rng) -> Vec<(Image, u64)> {
    let cut = |keeps: &mut dyn FnMut() -> bool| {
        let mut image = moment.image.clone();
        image.power_cut_keeping(keeps);
        image
    };
    let mut open = 0;
    let mut images = vec![cut(&mut || {
        open += 1;
        true
    })];
    if open <= OPEN_MAX {
        for mut kept in 0..(1u64 << open) - 1 {
            images.push(cut(&mut || {
                let keeps = kept & 1 == 1;
                kept >>= 1;
                keeps
            }));
        }
    } else {
        images.push(cut(&mut || false));
        images.extend((2..SUBSETS).map(|_| cut(&mut || rng.one_in(2))));
    }
    images.extend([rng.next_u64(), rng.next_u64()].map(|seed| {
        let mut torn = moment.image.clone();
        torn.power_cut(seed);
        torn
    }));
    let mut killed = moment.image.clone();
    killed.kill(rng.next_u64());
    // It looks like a disk that lost power, and still holds what is not synced.
    let digest = !killed.digest();
    let cut = images.into_iter().map(|image| {
        let digest = image.digest();
        (image, digest)
    });
    cut.chain([(killed, digest)]).collect()
}

/// Says what was explored when something in it panics.
struct Context<'a> {
    seed: u64,
    workload: &'a [Op],
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("while exploring {:?} of STREAMBUS_SEED={}", self.workload, self.seed);
        }
    }
}
