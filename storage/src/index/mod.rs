//! The sparse indexes of a segment: pure lookups in the bytes of its footer, and the builders of those bytes.
//!
//! All three speak of one partition's batches at a time. The offset index cuts them into *intervals*; the time index has
//! one entry an interval, so that a time is found as an interval and a place in the file follows from it.

pub mod epoch_index;
pub mod offset_index;
pub mod time_index;

pub use time_index::first_record_at;
