//! A disk that takes no more: the size to which the process may grow a file is limited, as a full disk would limit it.
#![cfg(unix)]

use std::process::Command;

use serde_json::json;

use crate::support::{Device, Gave, Place};

/// Runs a command that may grow no file beyond this many KiB.
fn limited(device: &Device, kib: u64, args: &[&str]) -> Gave {
    let program = env!("CARGO_BIN_EXE_isle");
    // Blocks of `ulimit -f` have 512 bytes for a POSIX shell. A write that is refused is an error then, not a signal.
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", kib * 2);
    let output = Command::new("sh")
        .args(["-c", &script, "sh", program])
        .args(args)
        .current_dir(&device.folder)
        .env("ISLE_HOME", &device.home)
        .output()
        .expect("sh runs");
    Gave::of(output)
}

const FILL: &str = "WITH RECURSIVE n(i) AS (VALUES(10) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
    INSERT INTO notes SELECT i, hex(randomblob(200)), i FROM n";

#[test]
fn a_write_that_finds_no_room_is_refused_whole_and_works_later() {
    let place = Place::new();
    let device = place.laptop();
    device.ok(["sync"]);
    let before = device.ok(["hash"]);
    let gave = limited(&device, 300, &["exec", FILL]);
    assert_eq!(gave.code, 1, "{gave:?}");
    assert!(gave.err.starts_with("error: cannot ") && !gave.err.contains("panicked"), "{gave:?}");
    assert_eq!(device.ok(["hash"]), before, "nothing of it is there");
    device.ok(["doctor"]);
    device.ok(["exec", FILL]);
    assert_eq!(device.rows("SELECT count(*) FROM notes"), ["2993"]);
}

#[test]
fn a_sync_that_finds_no_room_loses_nothing_and_goes_on_later() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", FILL]);
    // The segment does not fit into the remote's folder.
    let gave = limited(&laptop, 300, &["sync"]);
    assert_eq!(gave.code, 1, "{gave:?}");
    phone.ok(["sync"]);
    assert_eq!(phone.rows("SELECT count(*) FROM notes"), ["2"], "nothing half of it");
    laptop.ok(["sync"]);
    // What arrives does not fit into the file, at several places of the way.
    phone.ok(["exec", "INSERT INTO notes VALUES(5, 'kept', 1)"]);
    for kib in [60, 120, 250, 500, 900] {
        let gave = limited(&phone, kib, &["sync"]);
        assert!(gave.code == 1 && gave.err.starts_with("error: "), "{kib} KiB: {gave:?}");
        assert_eq!(phone.rows("SELECT count(*) FROM notes"), ["3"], "{kib} KiB");
        phone.ok(["doctor"]);
    }
    phone.ok(["sync"]);
    laptop.ok(["sync"]);
    assert_eq!(laptop.rows("SELECT count(*) FROM notes"), ["2994"]);
    assert_eq!(laptop.json(["hash"]), phone.json(["hash"]));
    // Neither does compaction leave anything half done.
    let before = laptop.json(["hash"]);
    assert_eq!(limited(&laptop, 300, &["compact", "--keep", "0s", "--grace", "0s", "--vacuum"]).code, 1);
    assert_eq!(laptop.json(["hash"]), before);
    laptop.ok(["doctor"]);
    laptop.ok(["compact", "--keep", "0s", "--grace", "0s", "--vacuum"]);
    phone.ok(["sync"]);
    assert_eq!(phone.json(["hash"]), before);
    assert_eq!(phone.json(["status"])["conflicts"], json!(0));
}

#[test]
fn a_definition_that_finds_no_room_leaves_the_old_one() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", FILL]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    let changed = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT CHECK(stars <> -1));";
    std::fs::write(laptop.folder.join("changed.sql"), changed).expect("written");
    let before = laptop.json(["hash"]);
    // Too little for the copy of the file, and then for the copy of the table.
    for (kib, args) in [(300, vec![]), (1_200, vec![]), (900, vec!["--no-backup"])] {
        let args: Vec<&str> = ["schema", "apply", "changed.sql"].into_iter().chain(args).collect();
        let gave = limited(&laptop, kib, &args);
        assert!(gave.code == 1 && gave.err.starts_with("error: "), "{kib} KiB: {gave:?}");
        assert_eq!(laptop.json(["hash"]), before);
        assert_eq!(laptop.run(["schema", "plan", "changed.sql"]).code, 3, "{kib} KiB: it is still to be done");
        laptop.ok(["doctor"]);
    }
    let partial = std::fs::read_dir(laptop.folder.join("backups")).expect("a folder");
    assert_eq!(
        partial.filter_map(Result::ok).filter(|file| file.path().extension() == Some("partial".as_ref())).count(),
        0
    );
    laptop.ok(["schema", "apply", "changed.sql"]);
    laptop.ok(["sync"]);
    let gave = limited(&phone, 900, &["sync"]);
    assert!(gave.code == 1 && gave.err.starts_with("error: "), "{gave:?}");
    phone.ok(["doctor"]);
    phone.ok(["sync"]);
    assert_eq!(phone.json(["hash"]), before);
    assert_eq!(phone.fails(1, ["exec", "UPDATE notes SET stars = -1"]).matches("CHECK").count(), 1);
}

#[test]
fn a_fetch_that_finds_no_room_leaves_nothing_half_and_goes_on_later() {
    let place = Place::new();
    let (laptop, phone) = (place.device("laptop"), place.device("phone"));
    let noise: Vec<u8> = (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::create_dir(laptop.folder.join("docs")).expect("a folder");
    std::fs::write(laptop.folder.join("docs/large.bin"), &noise).expect("a file");
    for device in [&laptop, &phone] {
        device.ok(["remote", "add", "--plain", "hub", &place.text("hub")]);
    }
    laptop.ok(["files", "add-root", "docs", "docs"]);
    laptop.ok(["files", "scan"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    let gave = limited(&phone, 900, &["files", "pull", "--all"]);
    assert_eq!(gave.code, 1, "{gave:?}");
    assert!(gave.err.starts_with("error: ") && !gave.err.contains("panicked"), "{gave:?}");
    let file = phone.folder.join("app.db.files/docs/large.bin");
    assert!(!file.exists(), "nothing half of it");
    phone.ok(["doctor"]);
    let pulled = phone.json(["files", "pull", "--all"]);
    assert!(pulled["resumed_bytes"].as_u64().expect("a number") > 0, "{pulled}");
    assert!(std::fs::read(file).expect("it is there") == noise);
}
