//! See `isle_fuzz::ticket`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::ticket::run(data));
