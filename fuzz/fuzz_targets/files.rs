//! See `isle_fuzz::files`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::files::run(data));
