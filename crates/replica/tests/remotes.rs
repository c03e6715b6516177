//! Several remotes, remotes that are not there, and what a caller is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use isle::{
    Error, ErrorKind, Phase, Progress, RemoteOptions, Replica, Runtime, StoreError, SyncOptions, SystemRuntime, params,
};
use isle_blobs::testing::FaultPlan;
use isle_blobs::{Remote, RemoteError};

fn device(folder: &Path, name: &str) -> Replica {
    let home = folder.join(format!("{name}.home"));
    Replica::builder(folder.join(format!("{name}.db"))).home(home).init().unwrap()
}

fn first(folder: &Path, name: &str) -> Replica {
    let replica = device(folder, name);
    replica.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)")).unwrap();
    replica.track(&["notes"]).unwrap();
    replica
}

fn add(replica: &Replica, name: &str, folder: &Path) -> PathBuf {
    let path = folder.join(name);
    replica.add_plain_remote(name, path.to_str().unwrap()).unwrap();
    path
}

#[tokio::test]
async fn a_remote_that_fails_does_not_keep_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    let gone = add(&a, "1-gone", folder.path());
    add(&a, "2-here", folder.path());
    add(&b, "2-here", folder.path());
    std::fs::remove_dir(&gone).unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'Dune')", &[])).unwrap();

    let outcomes = a.sync_each(&SyncOptions::default()).await.unwrap();
    assert_eq!(outcomes.iter().map(|outcome| outcome.remote.as_str()).collect::<Vec<_>>(), ["1-gone", "2-here"]);
    assert!(matches!(&outcomes[0].result, Err(Error::Remote { source: RemoteError::NoFolder { .. }, .. })));
    assert_eq!(outcomes[1].result.as_ref().unwrap().pushed_versions, 1);
    b.sync().await.unwrap();
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());

    // Nobody overlooks it, and nobody has to ask what the others did.
    let error = a.sync().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("1 of 2 remotes: remote \"1-gone\""), "{error}");
    let Error::Remotes { reports, failed } = error else { panic!("{error}") };
    assert_eq!((reports.len(), reports[0].remote.as_str(), failed.len()), (1, "2-here", 1));
    let only = SyncOptions { remote: Some("1-gone".to_owned()), ..SyncOptions::default() };
    assert!(matches!(a.sync_with(&only).await, Err(Error::Remote { .. })));
    assert!(!gone.exists(), "only adding a remote makes its folder");
}

#[tokio::test]
async fn a_folder_that_is_gone_is_not_made_by_anybody_who_looks() {
    let folder = tempfile::tempdir().unwrap();
    let a = first(folder.path(), "a");
    let path = add(&a, "usb/deep", folder.path());
    assert!(path.is_dir());
    a.sync().await.unwrap();
    std::fs::rename(folder.path().join("usb"), folder.path().join("elsewhere")).unwrap();
    for error in [
        a.check_remotes(&SyncOptions::default()).await.map(|_| ()).unwrap_err(),
        a.sync().await.map(|_| ()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("is not there: mount the disk"), "{error}");
    }
    a.status().unwrap();
    a.remotes().unwrap();
    assert!(!folder.path().join("usb").exists());
    std::fs::rename(folder.path().join("elsewhere"), folder.path().join("usb")).unwrap();
    a.sync().await.unwrap();
}

#[tokio::test]
async fn the_merge_moves() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    add(&a, "r", folder.path());
    add(&b, "r", folder.path());
    a.write(|tx| {
        (0..30_000)
            .try_for_each(|n| tx.execute("INSERT INTO notes VALUES(?1, hex(randomblob(40)))", params![n]).map(|_| ()))
    })
    .unwrap();
    a.sync().await.unwrap();
    let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let told = Arc::clone(&seen);
    let progress: Arc<dyn Fn(Progress) + Send + Sync> = Arc::new(move |at| told.lock().unwrap().push(at));
    b.sync_with(&SyncOptions { progress: Some(progress), ..SyncOptions::default() }).await.unwrap();
    let seen = seen.lock().unwrap();
    let merged: Vec<&Progress> = seen.iter().filter(|at| at.phase == Phase::Merge && at.total_bytes > 0).collect();
    assert!(merged.len() > 2, "{seen:?}");
    assert!(merged.windows(2).all(|pair| pair[0].done_bytes < pair[1].done_bytes), "{merged:?}");
    assert!(merged.iter().all(|at| at.done_bytes <= at.total_bytes && at.total_bytes > 1_000_000), "{merged:?}");
    assert_eq!(merged.last().map(|at| at.done_bytes), merged.last().map(|at| at.total_bytes));
}

#[tokio::test]
async fn all_conflicts_are_dealt_with_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    for replica in [&a, &b] {
        add(replica, "r", folder.path());
    }
    a.write(|tx| tx.execute_batch("INSERT INTO notes VALUES(1, 'x'), (2, 'x'), (3, 'x')")).unwrap();
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    for (replica, title) in [(&a, "a"), (&b, "b")] {
        replica.write(|tx| tx.execute("UPDATE notes SET title = ?1", params![title])).unwrap();
    }
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    let before = b.state_hash().unwrap();
    assert_eq!((b.count_conflicts(false).unwrap(), b.conflicts(false, 2).unwrap().len()), (3, 2));
    let unknown = b.resolve_conflicts(Some("nope"));
    assert!(matches!(unknown, Err(Error::Store(StoreError::NotTracked { .. }))), "{unknown:?}");
    assert_eq!(b.resolve_conflicts(Some("Notes")).unwrap(), 3);
    assert_eq!(b.resolve_conflicts(None).unwrap(), 0);
    assert_eq!((b.count_conflicts(false).unwrap(), b.count_conflicts(true).unwrap()), (0, 3));
    assert!(b.conflicts(true, 10).unwrap().iter().all(|conflict| conflict.resolved));
    assert_eq!(b.state_hash().unwrap(), before);
}

/// Time that the test moves.
#[derive(Debug)]
struct Moved(AtomicU64);

impl Runtime for Moved {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn random(&self) -> [u8; 16] {
        SystemRuntime.random()
    }
}

#[tokio::test]
async fn an_upload_that_fails_is_no_sync_and_nothing_of_it_is_held_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Moved(AtomicU64::new(SystemRuntime.now_ms())));
    let builder = Replica::builder(folder.path().join("a.db")).home(folder.path().join("home"));
    let a = builder.runtime(Arc::clone(&clock) as Arc<dyn Runtime>).init().unwrap();
    a.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)")).unwrap();
    a.track(&["notes"]).unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'Dune')", &[])).unwrap();
    let mut hasty = RemoteOptions::default();
    hasty.retries = 0;
    let clean = Remote::in_memory();
    let (remote, faults) = clean.with_faults(1, FaultPlan::NONE, Some(&hasty));
    a.add_open_remote("r", remote).unwrap();
    a.sync().await.unwrap();
    let look = async || {
        let check = a.check_remotes(&SyncOptions::default()).await.unwrap().remove(0);
        let info = a.remotes().unwrap().remove(0);
        assert_eq!(check.last_sync_ms, info.last_sync_ms);
        (info.last_sync_ms, check.remote_version, clean.keys().await.unwrap())
    };
    let before = look().await;
    assert_eq!((before.0, before.1), (Some(clock.0.load(Ordering::SeqCst)), 1));
    // A change that the head itself carries, and then one that takes segments.
    for rows in [1, 2_000] {
        clock.0.fetch_add(60_000, Ordering::SeqCst);
        let from = i64::from(rows);
        a.write(|tx| {
            let sql = "INSERT INTO notes VALUES(?1, hex(randomblob(20)))";
            (from..2 * from).try_for_each(|n| tx.execute(sql, params![n + 10]).map(drop))
        })
        .unwrap();
        faults.plan(FaultPlan { put_before: 1000, ..FaultPlan::NONE });
        let error = a.sync().await.unwrap_err();
        assert!(matches!(error, Error::Remote { .. }), "{error}");
        assert_eq!(look().await, before, "after {rows} rows");
        assert_eq!(a.check_remotes(&SyncOptions::default()).await.unwrap()[0].ahead, if rows == 1 { 1 } else { 2 });
    }
    // One that takes effect and fails is not known to have ended well either; the next sync finds it.
    faults.plan(FaultPlan { error_after: 1000, ..FaultPlan::NONE });
    a.sync().await.unwrap_err();
    assert_eq!(a.remotes().unwrap()[0].last_sync_ms, before.0);
    faults.plan(FaultPlan::NONE);
    let report = a.sync().await.unwrap().remove(0);
    assert_eq!((report.new_site, report.local_version), (None, 3), "the failures are no reason for a new identity");
    let after = look().await;
    assert_eq!((after.0, after.1), (Some(clock.0.load(Ordering::SeqCst)), 3));
    let b = device(folder.path(), "b");
    b.add_open_remote("r", clean.clone()).unwrap();
    b.sync().await.unwrap();
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[test]
fn a_clock_that_was_far_ahead_shows_in_the_status() {
    let folder = tempfile::tempdir().unwrap();
    let start = 1_780_272_000_000;
    let clock = Arc::new(Moved(AtomicU64::new(start + 7_200_000)));
    let builder = Replica::builder(folder.path().join("a.db")).home(folder.path().join("home"));
    let replica = builder.runtime(Arc::clone(&clock) as Arc<dyn Runtime>).init().unwrap();
    replica.write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)")).unwrap();
    replica.track(&["t"]).unwrap();
    replica.write(|tx| tx.execute_batch("INSERT INTO t VALUES(1)")).unwrap();
    assert_eq!(replica.status().unwrap().clock_ahead_ms, 0);
    clock.0.store(start, Ordering::SeqCst);
    assert_eq!(replica.status().unwrap().clock_ahead_ms, 7_200_000);
}

#[test]
fn names_that_cannot_be_shown_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let long = "x".repeat(65);
    for bad in ["", " ", "a\u{1b}[2Jb", long.as_str()] {
        let other = Replica::builder(folder.path().join("b.db")).home(folder.path().join("home")).app(bad).init();
        for error in [
            a.rename_device(bad).unwrap_err(),
            a.add_plain_remote(bad, folder.path().join("made").to_str().unwrap()).unwrap_err(),
            other.unwrap_err(),
        ] {
            assert!(matches!(error, Error::InvalidName { .. }) && error.kind() == ErrorKind::Invalid, "{error:?}");
        }
    }
    assert!(!folder.path().join("made").exists() && !folder.path().join("b.db").exists());
}
