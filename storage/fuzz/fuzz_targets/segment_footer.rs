//! See `checks::segment_footer_parsed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::segment_footer_parsed(bytes));
