//! See `checks::stream_decompressed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::stream_decompressed(bytes));
