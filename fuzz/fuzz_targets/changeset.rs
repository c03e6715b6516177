//! See `isle_fuzz::changeset`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| isle_fuzz::changeset::run(data));
