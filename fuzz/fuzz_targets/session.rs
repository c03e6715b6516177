//! See `isle_fuzz::session`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::session::run(data));
