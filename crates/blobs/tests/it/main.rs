//! The tests of this crate against memory, folders and an S3 server, as one binary.
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

mod conformance;
mod faults;
mod folder;
mod formats;
mod hostile;
mod s3;
mod sealed;
mod support;

#[test]
fn no_test_file_is_forgotten() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let declared = include_str!("main.rs");
    for entry in std::fs::read_dir(here).expect("readable") {
        let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
        let stem = name.strip_suffix(".rs").expect("a source file");
        assert!(stem == "main" || declared.contains(&format!("mod {stem};")), "{name} is not in main.rs");
    }
}
