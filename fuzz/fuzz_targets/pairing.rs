//! See `isle_fuzz::pairing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::pairing::run(data));
