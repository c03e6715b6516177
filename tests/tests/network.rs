//! What a replica does on the network without being asked to: nothing.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Command;

#[test]
fn a_replica_without_remotes_and_peers_opens_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let worker = Command::new(env!("CARGO_BIN_EXE_measured-worker")).arg("alone").arg(folder.path()).output();
    let worker = worker.expect("the worker runs");
    assert!(worker.status.success(), "{}", String::from_utf8_lossy(&worker.stderr));
    let text = String::from_utf8(worker.stdout).unwrap();
    let counts: Vec<(&str, usize)> =
        text.lines().filter_map(|line| line.split_once(": ")).map(|(when, n)| (when, n.parse().unwrap())).collect();
    assert_eq!(counts[..3], [("opened", 0), ("written", 0), ("synced", 0)], "{text}");
    // The way of counting sees those that there are.
    assert!(matches!(counts[3..], [("live", 1..)]), "{text}");
}
