//! A schema change and a restore are killed at any moment: the file is as before or as after, never between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;

use isle::{Backup, Replica, params};
use isle_tests::{Device, kill_after};

/// S-38 asks for 100 points.
const KILLS: u64 = 100;

/// SplitMix64.
fn random(seed: u64) -> u64 {
    let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Each version has another CHECK, for which the table is made anew.
fn definition(version: u64) -> String {
    format!(
        "-- @version 1.{version}.0\nCREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT, CHECK(id > -{version} - 1));"
    )
}

fn device(folder: &Path, rows: u64) -> Device {
    let device = Device::new(folder, "a");
    device.isle(&["init", "app.db"]);
    std::fs::write(device.folder.join("0.sql"), definition(0)).unwrap();
    device.isle(&["schema", "apply", "0.sql"]);
    let fill = format!(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO notes(id, body) SELECT i, hex(randomblob(40)) FROM n"
    );
    device.isle(&["exec", &fill]);
    device
}

fn open(device: &Device, folder: &Path) -> Replica {
    Replica::builder(device.folder.join("app.db")).home(folder.join("a.home")).open().unwrap()
}

fn count(replica: &Replica, sql: &str) -> i64 {
    replica.read(|q| q.one(sql, params![])).unwrap().unwrap()
}

#[test]
fn a_schema_change_that_is_killed_is_made_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(folder.path(), 3_000);
    let apply = |version: u64| {
        let file = format!("{version}.sql");
        std::fs::write(device.folder.join(&file), definition(version)).unwrap();
        device.command(&["schema", "apply", &file, "--no-backup"])
    };
    let (whole, ended) = kill_after(apply(1), &[&device.folder], u64::MAX);
    assert!(ended);
    let (mut version, mut between) = (1, 0);
    for kill in 0..KILLS {
        // From the first byte to some after the last.
        let (_, ended) = kill_after(apply(version + 1), &[&device.folder], 1 + random(kill) % (whole + whole / 4));
        let replica = open(&device, folder.path());
        let now = replica.schema_version().unwrap().unwrap().to_string();
        let made = now == format!("1.{}.0", version + 1);
        assert!(made || now == format!("1.{version}.0"), "kill {kill}: it is {now} after {version}");
        assert!(made || !ended, "kill {kill}: it said that it was done");
        between += u64::from(!ended);
        version += u64::from(made);
        // The version and the tables agree, and the rows are all there.
        assert!(replica.plan_schema(definition(version)).unwrap().changes.is_empty(), "kill {kill}");
        assert_eq!(count(&replica, "SELECT count(*) FROM notes"), 3_000, "kill {kill}");
        let report = replica.check().unwrap();
        assert!(report.findings.is_empty(), "kill {kill}: {:?}", report.findings);
    }
    assert!(between >= 20, "most of {KILLS} came too late: {between}");
}

#[test]
fn a_restore_that_is_killed_leaves_the_file_as_it_was_or_as_it_is_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(folder.path(), 4_000);
    device.isle(&["backup", "create"]);
    let backups = device.folder.join("backups");
    let id = Backup::list(&backups, None).unwrap().remove(0).id;
    let restore = || device.command(&["backup", "restore", &id, "--yes"]);
    let grow = |n: u64| device.isle(&["exec", &format!("INSERT INTO notes(id, body) VALUES({n}, 'since')")]);
    grow(10_000);
    let (whole, ended) = kill_after(restore(), &[&device.folder], u64::MAX);
    assert!(ended);
    let (mut kept, mut restored) = (0, 0);
    for kill in 0..24u64 {
        grow(10_001 + kill);
        let before = count(&open(&device, folder.path()), "SELECT count(*) FROM notes");
        let (_, ended) = kill_after(restore(), &[&device.folder], 1 + random(kill) % (whole + whole / 4));
        let replica = open(&device, folder.path());
        let now = count(&replica, "SELECT count(*) FROM notes");
        assert!(now == 4_000 || (now == before && !ended), "kill {kill}: {now} rows of {before}");
        (kept, restored) = (kept + u64::from(now == before), restored + u64::from(now == 4_000));
        let report = replica.check().unwrap();
        assert!(report.findings.is_empty(), "kill {kill}: {:?}", report.findings);
        // Every backup that is listed is sound: one that was being made has no manifest.
        for backup in Backup::list(&backups, None).unwrap() {
            backup.verify().unwrap();
        }
    }
    assert!(kept >= 3 && restored >= 3, "{kept} kept, {restored} restored");
    device.isle(&["backup", "restore", &id, "--yes"]);
    let hidden = std::fs::read_dir(&device.folder).unwrap().flatten();
    let left: Vec<_> = hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with(".isle")).collect();
    assert!(left.is_empty(), "{left:?}");
}
