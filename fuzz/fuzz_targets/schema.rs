//! See `isle_fuzz::schema`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::schema::run(data));
