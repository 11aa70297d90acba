//! See `checks::protocol_detected`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::protocol_detected(bytes));
