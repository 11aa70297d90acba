//! See `checks::batches_walked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::batches_walked(bytes));
