//! The log as a whole, on the simulated disk: its promises one by one, its recovery, and campaigns of crashes, damage and
//! random lives.
//!
//! One binary, since each would compile the engine anew. `cargo test -p storage --test engine keyed` runs a part of it.

mod backup;
mod compressed;
mod corruption;
mod crash_campaign;
mod crash_states;
mod full_disk;
mod golden;
mod inspect;
mod keyed;
mod model;
mod nth_operation;
mod producers;
mod promises;
mod recovery;
mod reference;
mod replica;
mod retention;
mod support;
