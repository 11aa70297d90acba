//! See `checks::frames_taken_apart`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::frames_taken_apart(bytes));
