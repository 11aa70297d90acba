//! Segments on the simulated disk: written and read back, damaged, interrupted, merged.

mod block_cache;
mod damage;
mod faults;
mod footer;
mod golden;
mod keys;
mod merge;
mod model;
mod round_trip;
mod segments;
