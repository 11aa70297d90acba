//! Recovery of the WAL on the simulated disk: every row of the decision table in `src/wal/replay.rs`, and what lies around
//! it.
//!
//! Each test is a story of several lives of one log. Between two of them the disk is the test's: it looks at the groups
//! that are there, tears, damages or forges some, and the next life has to say what became of them.

mod accept;
mod damage;
mod faults;
mod foreign;
mod given_up;
mod restart;
mod story;
mod torn_tail;
mod unreadable;
