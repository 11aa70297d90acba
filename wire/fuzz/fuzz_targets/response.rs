//! See `checks::response_decoded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::response_decoded(bytes));
