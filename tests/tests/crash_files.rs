//! Scans and movements of contents are killed at any moment: what stands at a file's place is whole, and the next attempt goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;

use isle::{FileFilter, OperationState, Replica};
use isle_tests::{Device, kill_after};

const KILLS: u64 = 12;
const BYTES: usize = 2_000_000;

/// SplitMix64.
fn random(seed: u64) -> u64 {
    let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Bytes that do not shrink.
fn content(seed: u64) -> Vec<u8> {
    (0..BYTES as u64 / 8).flat_map(|n| random(seed << 32 ^ n).to_le_bytes()).collect()
}

fn open(device: &Device, folder: &Path, name: &str) -> Replica {
    Replica::builder(device.folder.join("app.db")).home(folder.join(format!("{name}.home"))).open().unwrap()
}

fn is_sound(device: &Device, folder: &Path, name: &str, kill: u64) {
    let replica = open(device, folder, name);
    let report = replica.check().unwrap();
    assert!(report.findings.is_empty(), "kill {kill}: {:?}", report.findings);
}

#[test]
fn contents_arrive_whole_whatever_is_killed_on_their_way() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(folder.path(), "a"), Device::new(folder.path(), "b"));
    let bucket = folder.path().join("bucket");
    let url = bucket.to_str().unwrap();
    for device in [&a, &b] {
        device.isle(&["init", "app.db"]);
        device.isle(&["remote", "add", "--plain", "hub", url]);
        fs::create_dir(device.folder.join("docs")).unwrap();
    }
    a.isle(&["files", "add-root", "docs", "docs"]);
    a.isle(&["sync"]);
    b.isle(&["sync"]);
    b.isle(&["files", "add-root", "docs", "docs"]);
    let place = b.folder.join("docs/large.bin");
    let (mut interrupted, mut resumed, mut killed) = (0, 0, 0);
    for kill in 0..KILLS {
        let wanted = content(kill);
        fs::write(a.folder.join("docs/large.bin"), &wanted).unwrap();
        let part = |from: u64| 1 + random(kill * 3 + from) % (BYTES as u64 + BYTES as u64 / 8);
        let steps: [(&Device, &[&str], u64); 3] = [
            (&a, &["files", "scan"], 1 + random(kill * 3) % 150_000),
            (&a, &["sync"], part(1)),
            (&b, &["files", "pull", "--all"], part(2)),
        ];
        for (device, command, bytes) in steps {
            if command[0] == "files" && command[1] == "pull" {
                device.isle(&["sync"]);
            }
            let before = fs::read(&place).ok();
            let (_, ended) = kill_after(device.command(command), &[&device.folder, &bucket], bytes);
            killed += u64::from(!ended);
            is_sound(&a, folder.path(), "a", kill);
            is_sound(&b, folder.path(), "b", kill);
            // The old one, nothing, or all of the new one.
            let now = fs::read(&place).ok();
            assert!(now.is_none() || now == before || now.as_ref() == Some(&wanted), "kill {kill} of {command:?}");
            let out = device.isle(&[command, &["--json"]].concat());
            let report: serde_json::Value = serde_json::from_str(&out).unwrap();
            resumed += report["resumed_bytes"].as_u64().unwrap_or(0);
            let operations = open(device, folder.path(), if std::ptr::eq(device, &a) { "a" } else { "b" });
            let operations = operations.operations(None, 3).unwrap();
            assert!(operations.iter().all(|operation| operation.state != OperationState::Running), "{operations:?}");
            interrupted += operations.iter().filter(|operation| operation.state == OperationState::Interrupted).count();
        }
        assert!(fs::read(&place).unwrap() == wanted, "kill {kill}");
    }
    // It was killed in the middle of things, and what had come was not fetched again.
    assert!(killed >= KILLS && interrupted > 5 && resumed > BYTES as u64, "{killed} {interrupted} {resumed}");
    let left = fs::read_dir(b.folder.join("docs/.isle/partial")).unwrap().count();
    assert_eq!(left, 0, "nothing is left on its way");
    let files = open(&b, folder.path(), "b").library().files(&FileFilter::default()).unwrap();
    assert_eq!(files.len(), 1);
}
