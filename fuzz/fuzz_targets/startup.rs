//! Feeds libFuzzer's bytes to the properties of `startup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgmoor_fuzz::properties::startup(data));
