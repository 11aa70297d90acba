//! See `checks::request_decoded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::request_decoded(bytes));
