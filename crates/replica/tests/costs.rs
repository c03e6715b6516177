//! What a small change costs beside many rows and a long history: no more than beside few.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;

use isle::{Replica, SyncReport, Transaction, params};
use isle_blobs::Remote;

fn device(folder: &Path, name: &str, remote: &Remote) -> Replica {
    let home = folder.join(format!("{name}.home"));
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(home).init().unwrap();
    replica.rename_device("device").unwrap();
    replica.add_open_remote("r", remote.clone()).unwrap();
    replica
}

fn first(folder: &Path, name: &str, remote: &Remote) -> Replica {
    let replica = device(folder, name, remote);
    replica.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, body BLOB, n INT)")).unwrap();
    replica.track(&["notes"]).unwrap();
    replica
}

/// Rows of values that nothing makes smaller.
fn insert(tx: &Transaction<'_>, rows: std::ops::Range<i64>, bytes: i64) -> Result<(), isle::Error> {
    let sql = "INSERT INTO notes VALUES(?1, randomblob(?2), 0)";
    rows.into_iter().try_for_each(|n| tx.execute(sql, params![n, bytes]).map(drop))
}

async fn sync(replica: &Replica) -> SyncReport {
    replica.sync().await.unwrap().remove(0)
}

/// What a change of one row costs its author and a reader, each as requests and bytes, and then a sync without news.
#[derive(Debug)]
struct Costs {
    sent: (u64, u64),
    taken: (u64, u64),
    idle: (u64, u64),
}

impl Costs {
    async fn of(a: &Replica, b: &Replica, id: i64) -> Costs {
        for replica in [a, b, a, b, a] {
            sync(replica).await;
        }
        let cost = |report: &SyncReport| (report.requests, report.uploaded_bytes + report.downloaded_bytes);
        a.write(|tx| tx.execute("UPDATE notes SET n = n + 1 WHERE id = ?1", params![id])).unwrap();
        let sent = sync(a).await;
        let taken = sync(b).await;
        assert_eq!((sent.pushed_versions, taken.pulled_versions, taken.pulled_rows), (1, 1, 1));
        assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
        Costs { sent: cost(&sent), taken: cost(&taken), idle: cost(&sync(a).await) }
    }
}

fn alike(few: (u64, u64), many: (u64, u64)) -> bool {
    few.0 == many.0 && few.1.abs_diff(many.1) * 10 <= few.1
}

#[tokio::test]
async fn a_row_costs_the_same_beside_many_rows_and_a_long_history() {
    let folder = tempfile::tempdir().unwrap();
    let mut costs = Vec::new();
    for (name, changesets, rows) in [("few", 1, 100), ("many", 200, 100)] {
        let remote = Remote::in_memory();
        let (a, b) = (first(folder.path(), name, &remote), device(folder.path(), &format!("{name}-b"), &remote));
        sync(&a).await;
        // So much that each history moves out of the head, as it does sooner or later.
        for n in 0..changesets {
            a.write(|tx| insert(tx, n * rows..(n + 1) * rows, 300)).unwrap();
        }
        costs.push(Costs::of(&a, &b, 77).await);
    }
    let [few, many] = &costs[..] else { panic!("two") };
    assert!(alike(few.sent, many.sent) && alike(few.taken, many.taken) && alike(few.idle, many.idle), "{costs:?}");
    assert_eq!(many.idle.0, 1, "{many:?}");
}

#[tokio::test]
async fn a_history_of_many_syncs_costs_a_small_change_the_names_of_a_few_segments() {
    let folder = tempfile::tempdir().unwrap();
    let mut costs = Vec::new();
    for (name, syncs) in [("few", 1), ("many", 200)] {
        let remote = Remote::in_memory();
        let (a, b) = (first(folder.path(), name, &remote), device(folder.path(), &format!("{name}-b"), &remote));
        for n in 0..syncs {
            a.write(|tx| insert(tx, n * 100..(n + 1) * 100, 300)).unwrap();
            sync(&a).await;
        }
        costs.push(Costs::of(&a, &b, 77).await);
    }
    let [few, many] = &costs[..] else { panic!("two") };
    // The head names its segments, of which each is at least half as large as all newer ones: with 200 times the bytes there are
    // at most 8 more.
    let logarithmic = |few: (u64, u64), many: (u64, u64)| few.0 == many.0 && many.1 <= few.1 + 8 * 64;
    assert!(logarithmic(few.sent, many.sent) && logarithmic(few.taken, many.taken), "{costs:?}");
    assert_eq!(few.idle, many.idle, "{costs:?}");
}

#[tokio::test]
async fn one_row_of_fifty_megabytes_is_sent_alone() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a", &remote), device(folder.path(), "b", &remote));
    a.write(|tx| insert(tx, 0..5_000, 10_240)).unwrap();
    let all = sync(&a).await;
    assert!(all.uploaded_bytes > 50_000_000, "{} bytes", all.uploaded_bytes);
    for replica in [&b, &a, &b, &a] {
        sync(replica).await;
    }
    for changed in ["body = randomblob(10240)", "n = 7", "body = NULL"] {
        a.write(|tx| tx.execute(&format!("UPDATE notes SET {changed} WHERE id = 2500"), &[])).unwrap();
        let report = sync(&a).await;
        assert_eq!(report.pushed_versions, 1);
        assert!(report.uploaded_bytes < 64 << 10, "{} bytes for {changed}", report.uploaded_bytes);
        let report = sync(&b).await;
        assert!(report.pulled_rows == 1 && report.downloaded_bytes < 64 << 10, "{report:?}");
    }
    a.write(|tx| tx.execute("DELETE FROM notes WHERE id = 2501", &[])).unwrap();
    assert!(sync(&a).await.uploaded_bytes < 64 << 10);
    sync(&b).await;
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}
