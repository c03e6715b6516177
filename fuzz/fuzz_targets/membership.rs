//! See `isle_fuzz::membership`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::membership::run(data));
