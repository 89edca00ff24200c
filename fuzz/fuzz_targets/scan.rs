//! Feeds libFuzzer's bytes to the properties of `scan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgmoor_fuzz::properties::scan(data));
