//! Segments on the simulated disk: written and read back, damaged, interrupted, merged.

mod damage;
mod faults;
mod footer;
mod golden;
mod keys;
mod merge;
mod model;
mod round_trip;
mod segments;
