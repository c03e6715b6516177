//! What a large transaction takes of memory, as `VmHWM` of the process that writes, sends or merges it.
//!
//! The bound: 64 MiB of values of an open transaction, the page caches of the two connections that write (16 MiB each), a few
//! blocks of 1 MiB and segments of 8 MiB, and the program itself. Beyond that nothing may grow with what is written: the peak
//! stays under 160 MB where the transaction has 164 MB of values, which nothing makes smaller.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::process::Command;

/// Bytes of memory that no process may exceed.
const BOUND: u64 = 160_000_000;
const ROWS: u64 = 200_000;
const BYTES: u64 = 820;

/// Lets a process do something and gives the most memory that it had, in bytes.
fn peak(args: &[&str]) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_measured-worker")).args(args).output().expect("the worker runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.trim().parse::<u64>().unwrap_or_else(|error| panic!("{args:?}: {error}: {text}")) * 1024
}

fn open(folder: &Path) -> isle::Replica {
    isle::Replica::builder(folder.join("test.db")).home(folder.join("home")).open().expect("opens")
}

#[test]
fn a_transaction_larger_than_memory_is_written_sent_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (a, b, bucket) = (place("a"), place("b"), place("bucket"));
    for device in [&a, &b] {
        std::fs::create_dir(device).unwrap();
    }
    let (rows, bytes) = (ROWS.to_string(), BYTES.to_string());
    // What is to pass through must not fit.
    const { assert!(ROWS * BYTES > BOUND) };
    let mut peaks = vec![("written", peak(&["write", &a, &rows, &bytes])), ("sent", peak(&["sync", &a, &bucket]))];
    isle::import_keys(Some(Path::new(&b).join("home")), &open(Path::new(&a)).export_keys().unwrap()).unwrap();
    peaks.push(("merged", peak(&["sync", &b, &bucket])));
    {
        let (a, b) = (open(Path::new(&a)), open(Path::new(&b)));
        assert_eq!(a.status().unwrap().version, 1, "one transaction, one changeset");
        let sum = "SELECT count(*), sum(length(body)) FROM t";
        assert_eq!(b.read(|q| q.one(sum, &[])).unwrap(), Some((ROWS, ROWS * BYTES)));
    }
    // Other values for all of them: rows that are new are read again by their keys, here the values pass through the capture.
    peaks.push(("changed", peak(&["change", &b, &bytes])));
    assert!(peaks.iter().all(|(_, peak)| *peak < BOUND), "{peaks:?}");
    assert_eq!(open(Path::new(&b)).status().unwrap().version, 1);
}
