//! See `group::sync_group_parsed`.
#![no_main]

#[path = "../src/group.rs"]
mod group;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| group::sync_group_parsed(bytes));
