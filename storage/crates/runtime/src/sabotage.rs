//! What a test may order the program to do wrong: die at a named place, or misbehave in a named way.
//!
//! A test that cannot fail proves nothing, so `.ci/planted` plants one bug after the other and demands that the test named
//! for it fails; and a kill at a random moment seldom hits the few instructions between two writes, so the kill loop
//! names them.
//!
//! Only the feature `sabotage` makes any of this possible, and only dev-dependencies ask for it: under `cargo test` the
//! environment is asked once, under `cargo build` both functions are constants and leave nothing behind.

/// Whether a test has planted this bug: `STREAMBUS_PLANTED=<bug>`.
#[inline]
pub fn planted(bug: &str) -> bool {
    #[cfg(feature = "sabotage")]
    return armed::bug().is_some_and(|planted| planted == bug);
    #[cfg(not(feature = "sabotage"))]
    {
        let _no_bug = bug;
        false
    }
}

/// Ends the process without warning if a test wants it to end here: `STREAMBUS_DIE_AT=<place>`, or `<place>#3` for the
/// third time that it comes by.
#[inline]
pub fn die_at(place: &str) {
    #[cfg(feature = "sabotage")]
    armed::pass(place);
    #[cfg(not(feature = "sabotage"))]
    let _nobody_dies = place;
}

#[cfg(feature = "sabotage")]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    pub(super) fn bug() -> Option<&'static str> {
        static BUG: OnceLock<Option<String>> = OnceLock::new();
        BUG.get_or_init(|| std::env::var("STREAMBUS_PLANTED").ok()).as_deref()
    }

    /// A place, and how often it is still to be passed.
    struct Death {
        place: String,
        passes: AtomicU64,
    }

    pub(super) fn pass(place: &str) {
        static DEATH: OnceLock<Option<Death>> = OnceLock::new();
        let death = DEATH.get_or_init(|| {
            let order = std::env::var("STREAMBUS_DIE_AT").ok()?;
            let (place, time) = order.split_once('#').unwrap_or((&order, "1"));
            let time: u64 = time.parse().expect("STREAMBUS_DIE_AT is <place> or <place>#<time>");
            Some(Death { place: place.to_owned(), passes: AtomicU64::new(time) })
        });
        if let Some(death) = death.as_ref().filter(|death| death.place == place)
            && death.passes.fetch_sub(1, Relaxed) == 1
        {
            std::process::abort();
        }
    }
}
