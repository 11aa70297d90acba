//! The log as a whole, on the simulated disk: its promises one by one, its recovery, and campaigns of crashes and damage.
//!
//! One binary, since each would compile the engine anew. `cargo test -p storage --test engine keyed` runs a part of it.

mod corruption;
mod crash_campaign;
mod golden;
mod inspect;
mod keyed;
mod promises;
mod recovery;
mod support;
