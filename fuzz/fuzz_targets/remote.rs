//! See `isle_fuzz::remote`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::remote::run(data));
