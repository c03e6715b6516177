//! The built binary as its users meet it, as one binary of tests.
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]
#![allow(clippy::print_stderr, reason = "a test that a tool is missing for says so")]

mod backups;
mod bundle;
mod compact;
mod compare;
mod config;
mod demo;
mod engines;
mod files;
mod full;
mod history;
mod interchange;
mod keys;
mod library;
mod look;
mod peers;
mod processes;
mod rows;
mod schema;
mod sim;
mod sql;
mod support;
mod sync;

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
