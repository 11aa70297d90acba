//! The indexes of a segment: pure lookups in its bytes, and the builders of those bytes.
//!
//! Three are sparse and lie in the footer. They speak of one partition's batches at a time. The offset index cuts them into *intervals*; the time index has
//! one entry an interval, so that a time is found as an interval and a place in the file follows from it.
//! Segments of compacted partitions have a [`key_index`] and a [`bloom_filter`] too, which [`key_hash`] is for.

pub mod bloom_filter;
pub mod epoch_index;
pub mod key_hash;
pub mod key_index;
pub mod offset_index;
pub mod time_index;

pub use time_index::first_record_at;
