//! Files that cannot be opened as a replica say why and stay as they are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::Arc;

use isle_store::{Init, Runtime, Store, StoreError};
use support::{Device, TestRuntime, folder};

fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(support::companion::options(path), Arc::new(TestRuntime::new(1)) as Arc<dyn Runtime>)
}

fn init(path: &Path) -> Result<Store, StoreError> {
    Store::init(
        support::companion::options(path),
        Arc::new(TestRuntime::new(1)) as Arc<dyn Runtime>,
        &Init { app: "test".into(), owner: None },
    )
}

/// All files of the folder with their content.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_file_that_is_no_database_is_called_damaged_and_not_overwritten() {
    let folder = folder();
    let path = folder.path().join("letter.txt");
    std::fs::write(&path, "Dear Sir or Madam, this is no database. ".repeat(100)).unwrap();
    let before = content(folder.path());
    for error in [open(&path).unwrap_err(), init(&path).unwrap_err()] {
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    assert_eq!(content(folder.path()), before);
}

#[test]
fn a_plain_database_is_not_opened_as_a_replica_and_not_changed() {
    let folder = folder();
    let path = folder.path().join("plain.db");
    support::foreign(&path, "CREATE TABLE t(id INTEGER PRIMARY KEY)");
    let before = content(folder.path());
    assert!(matches!(open(&path).unwrap_err(), StoreError::NotReplica { .. }));
    assert_eq!(content(folder.path()), before);
}

#[test]
fn a_missing_file_is_not_made_by_opening_it() {
    let folder = folder();
    let path = folder.path().join("none.db");
    assert!(open(&path).is_err());
    assert!(content(folder.path()).is_empty());
}

#[test]
fn a_newer_format_is_refused_by_every_way_in_and_not_changed() {
    let device = Device::new(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    let path = device.path();
    let folder = device.folder;
    device.store.close().unwrap();
    support::foreign(&path, "UPDATE isle_meta SET v = 99 WHERE k = 'format'");
    let before = content(folder.path());
    for error in [open(&path).unwrap_err(), init(&path).unwrap_err()] {
        assert!(matches!(error, StoreError::NewerFormat { found: 99, .. }), "{error}");
    }
    let main = |files: Vec<(String, Vec<u8>)>| files.into_iter().find(|(name, _)| name.ends_with(".db")).unwrap();
    assert_eq!(main(content(folder.path())), main(before));
}

#[test]
fn a_format_that_rose_is_noticed_when_the_file_is_opened_again() {
    let device = Device::new(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    device.foreign("UPDATE isle_meta SET v = 99 WHERE k = 'format'");
    let mut device = device;
    let runtime = Arc::clone(&device.runtime) as Arc<dyn Runtime>;
    assert!(matches!(
        Store::open(support::companion::options(device.path()), runtime),
        Err(StoreError::NewerFormat { .. })
    ));
    device.foreign("UPDATE isle_meta SET v = 1 WHERE k = 'format'");
    device.restart();
    device.run("INSERT INTO t VALUES(1, 1)");
    device.check();
}

/// The superuser may write to everything, so the test runs once more as nobody.
#[cfg(unix)]
fn as_nobody(test: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    std::fs::create_dir(folder.path().join("tmp")).unwrap();
    std::os::unix::fs::chown(folder.path().join("tmp"), Some(NOBODY), None).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut again = std::process::Command::new(&binary);
    again.args(["--exact", test]).current_dir("/").env("TMPDIR", folder.path().join("tmp"));
    let output = again.gid(NOBODY).uid(NOBODY).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_read_only_file_is_read_and_says_so_when_it_is_written() {
    let device = Device::new(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    device.run("INSERT INTO t VALUES(1, 1)");
    // Stamps are owed, and another program's change waits: both go into the hash.
    device.run("UPDATE t SET v = 2");
    device.foreign("INSERT INTO t VALUES(3, 3)");
    let path = device.path();
    let folder = device.folder;
    device.store.close().unwrap();
    support::foreign(&path, "PRAGMA journal_mode = DELETE");
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).unwrap();
    if std::fs::OpenOptions::new().append(true).open(&path).is_ok() {
        return as_nobody("a_read_only_file_is_read_and_says_so_when_it_is_written");
    }
    let before = content(folder.path());
    let store = open(&path).unwrap();
    assert_eq!((store.status().unwrap().version, store.status().unwrap().queued), (2, 1));
    assert_eq!(store.state_hash().unwrap().rows, 2);
    let error = store.write(|tx| tx.execute("INSERT INTO t VALUES(2, 2)", [])).unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    drop(store);
    assert_eq!(content(folder.path()), before);
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with("isle-hash-")).count(), 0);
}
