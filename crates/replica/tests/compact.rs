//! Snapshots, compaction and collection between replicas that meet in a remote.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;
use std::time::Duration;

use isle::{CompactOptions, CompactReport, Direction, Error, Prefer, RemoteOptions, Replica, SyncOptions, params};
use isle_blobs::Remote;
use isle_blobs::testing::FaultPlan;

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT)";
const NOW: CompactOptions = CompactOptions {
    keep: Duration::ZERO,
    grace: Duration::ZERO,
    vacuum: false,
    sync: SyncOptions { remote: None, direction: Direction::Both, prefer: Prefer::Merge, progress: None },
};

fn device(folder: &Path, name: &str, remote: &Remote) -> Replica {
    let home = folder.join(format!("{name}.home"));
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(home).init().unwrap();
    replica.rename_device(name).unwrap();
    replica.add_open_remote("r", remote.clone()).unwrap();
    replica
}

fn first(folder: &Path, name: &str, remote: &Remote) -> Replica {
    let replica = device(folder, name, remote);
    replica.write(|tx| tx.execute_batch(SCHEMA)).unwrap();
    replica.track(&["notes"]).unwrap();
    replica
}

/// Text that zstd cannot shrink much.
fn text(n: i64) -> String {
    let mut word = n as u64;
    let mut next = || {
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        char::from(b'a' + ((z ^ z >> 27) % 26) as u8)
    };
    (0..60).map(|_| next()).collect()
}

fn fill(replica: &Replica, rows: std::ops::Range<i64>) {
    let insert = |tx: &isle::Transaction<'_>| {
        rows.clone()
            .try_for_each(|n| tx.execute("INSERT INTO notes VALUES(?1, ?2, ?1)", params![n, &text(n)]).map(drop))
    };
    replica.write(insert).unwrap();
}

async fn sync(replica: &Replica) -> isle::SyncReport {
    replica.sync().await.unwrap().remove(0)
}

async fn compact(replica: &Replica) -> CompactReport {
    replica.compact(&NOW).await.unwrap()
}

fn count(replica: &Replica) -> i64 {
    replica.read(|q| q.one("SELECT count(*) FROM notes", params![])).unwrap().unwrap()
}

fn same(a: &Replica, b: &Replica) {
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    for replica in [a, b] {
        let report = replica.check().unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

#[tokio::test]
async fn ten_thousand_deletes_and_their_history_go_and_a_fresh_device_converges() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a", &remote), device(folder.path(), "b", &remote));
    fill(&a, 0..12_000);
    sync(&a).await;
    sync(&b).await;
    b.write(|tx| tx.execute("DELETE FROM notes WHERE id >= 2000", params![])).unwrap();
    sync(&b).await;
    let mut tombstones = [0; 2];
    for _ in 0..3 {
        for (replica, sum) in [&a, &b].into_iter().zip(&mut tombstones) {
            *sum += compact(replica).await.tombstones;
        }
    }
    assert_eq!(tombstones, [10_000; 2], "each collects what both have");
    assert!(!compact(&a).await.waiting);
    let keys = remote.keys().await.unwrap();
    assert_eq!(keys.iter().filter(|key| key.contains("log/")).count(), 0, "{keys:?}");
    assert_eq!(keys.iter().filter(|key| key.contains("manifest")).count(), 2, "{keys:?}");
    let c = device(folder.path(), "c", &remote);
    let report = sync(&c).await;
    assert!(report.snapshot_joined && report.refused.is_empty(), "{report:?}");
    assert_eq!(count(&c), 2_000);
    same(&a, &c);
    same(&b, &c);
    // Life goes on: also for a row that was deleted and collected.
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(11999, 'again', 1)", params![])).unwrap();
    for replica in [&b, &a, &c, &b] {
        sync(replica).await;
    }
    assert_eq!(count(&c), 2_001);
    same(&a, &c);
    same(&b, &c);
}

#[tokio::test]
async fn a_device_that_was_away_for_long_sends_what_it_wrote_and_takes_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b, late) = (
        first(folder.path(), "a", &remote),
        device(folder.path(), "b", &remote),
        device(folder.path(), "late", &remote),
    );
    fill(&a, 0..500);
    for replica in [&a, &b, &late] {
        sync(replica).await;
    }
    late.write(|tx| tx.execute("UPDATE notes SET title = 'edited while away' WHERE id = 7", params![])).unwrap();
    late.write(|tx| tx.execute("UPDATE notes SET title = 'edited while gone' WHERE id = 400", params![])).unwrap();
    late.write(|tx| tx.execute("INSERT INTO notes VALUES(1000, 'made while away', 1)", params![])).unwrap();
    a.write(|tx| tx.execute("DELETE FROM notes WHERE id >= 300", params![])).unwrap();
    sync(&a).await;
    a.retire("late").unwrap();
    for _ in 0..3 {
        compact(&a).await;
        compact(&b).await;
    }
    assert_eq!(a.compact(&NOW).await.unwrap().tombstones, 0);
    assert!(!a.compact(&NOW).await.unwrap().waiting, "nobody waits for a retired device");
    let before = late.status().unwrap().site;
    let report = sync(&late).await;
    assert!(report.snapshot_joined, "{report:?}");
    assert_ne!(late.status().unwrap().site, before, "a retired site id is not used any more");
    for replica in [&a, &b, &late] {
        sync(replica).await;
    }
    same(&a, &late);
    same(&b, &late);
    assert_eq!(count(&a), 301);
    let title = |id: i64| a.read(|q| q.one::<String>("SELECT title FROM notes WHERE id = ?1", params![id])).unwrap();
    assert_eq!(title(7).as_deref(), Some("edited while away"));
    assert_eq!(title(1000).as_deref(), Some("made while away"));
    assert_eq!(title(400), None);
    let lost = late.conflicts(false, 10).unwrap();
    assert!(lost.iter().any(|lost| lost.value == isle::Value::Text("edited while gone".into())), "{lost:?}");
}

#[tokio::test]
async fn a_device_with_rows_of_its_own_joins_a_group_that_lives_from_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    fill(&a, 0..100);
    a.write(|tx| tx.execute("DELETE FROM notes WHERE id < 10", params![])).unwrap();
    for _ in 0..3 {
        compact(&a).await;
    }
    let b = first(folder.path(), "b", &remote);
    fill(&b, 5..15);
    b.write(|tx| tx.execute("UPDATE notes SET stars = 77 WHERE id = 12", params![])).unwrap();
    let report = sync(&b).await;
    assert!(report.snapshot_joined && report.refused.is_empty(), "{report:?}");
    sync(&a).await;
    sync(&b).await;
    assert_eq!(count(&a), 95, "5 to 9 are new, 10 to 14 are the same rows");
    same(&a, &b);
}

#[tokio::test]
async fn a_remote_whose_log_is_gone_here_gets_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Remote::in_memory(), Remote::in_memory());
    let a = first(folder.path(), "a", &one);
    fill(&a, 0..200);
    compact(&a).await;
    assert_eq!(a.log(10).unwrap().len(), 0);
    a.add_open_remote("r2", two.clone()).unwrap();
    a.sync().await.unwrap();
    fill(&a, 200..210);
    a.sync().await.unwrap();
    let b = device(folder.path(), "b", &two);
    let report = sync(&b).await;
    assert!(report.snapshot_joined, "{report:?}");
    same(&a, &b);
}

#[tokio::test]
async fn cut_transfers_of_a_snapshot_go_on_and_flipped_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    (0..8).for_each(|n| fill(&a, n * 40_000..(n + 1) * 40_000));
    let mut options = RemoteOptions::default();
    options.retries = 1;
    let (putting, put_faults) = remote.with_faults(7, FaultPlan::troubled(120), Some(&options));
    a.add_open_remote("r", putting).unwrap();
    through(async || a.compact(&NOW).await.map(drop)).await;
    put_faults.plan(FaultPlan::NONE);
    compact(&a).await;
    assert!(put_faults.count().errors_before > 0, "{:?}", put_faults.count());
    let parts = remote.keys().await.unwrap().iter().filter(|key| key.contains("snap/")).count();
    assert!(parts >= 4, "{parts} objects make no test of a cut");
    let plan = FaultPlan { bit_flip: 150, ..FaultPlan::troubled(150) };
    let (getting, get_faults) = remote.with_faults(9, plan, Some(&options));
    let b = device(folder.path(), "b", &getting);
    through(async || {
        let report = b.sync().await?.remove(0);
        if report.snapshot_joined { Ok(()) } else { Err(Error::NoRemote) }
    })
    .await;
    assert!(get_faults.count().bit_flips > 0 && get_faults.count().truncated > 0, "{:?}", get_faults.count());
    get_faults.plan(FaultPlan::NONE);
    b.sync().await.unwrap();
    same(&a, &b);
}

/// Tries again until it works.
async fn through(mut f: impl AsyncFnMut() -> Result<(), Error>) {
    for _ in 0..100 {
        if f().await.is_ok() {
            return;
        }
    }
    panic!("never through");
}

#[tokio::test]
async fn a_device_retired_below_what_it_published_goes_on_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b, c) =
        (first(folder.path(), "a", &remote), device(folder.path(), "b", &remote), device(folder.path(), "c", &remote));
    fill(&a, 0..3);
    for replica in [&a, &b, &c, &a] {
        sync(replica).await;
    }
    c.write(|tx| tx.execute("UPDATE notes SET title = 'known to b only' WHERE id = 1", params![])).unwrap();
    sync(&c).await;
    sync(&b).await;
    b.write(|tx| tx.execute("UPDATE notes SET stars = 100 WHERE id = 1", params![])).unwrap();
    a.retire("c").unwrap();
    c.write(|tx| tx.execute("INSERT INTO notes VALUES(50, 'unsent', 1)", params![])).unwrap();
    for replica in [&a, &b, &c, &a, &b, &c, &a, &b] {
        sync(replica).await;
    }
    same(&a, &b);
    same(&a, &c);
    assert_eq!(count(&a), 4);
    let waiting = sync(&c).await.waiting;
    assert!(waiting.is_empty(), "{waiting:?}");
}

#[tokio::test]
async fn a_restored_device_is_heard_after_the_group_has_collected() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a", &remote), device(folder.path(), "b", &remote));
    fill(&a, 0..20);
    for replica in [&a, &b, &a] {
        sync(replica).await;
    }
    drop(b);
    let old = std::fs::read(folder.path().join("b.db")).unwrap();
    let b = device_again(folder.path(), "b", &remote);
    b.write(|tx| tx.execute("DELETE FROM notes WHERE id < 5", params![])).unwrap();
    for _ in 0..3 {
        compact(&b).await;
        compact(&a).await;
    }
    assert_eq!(a.compact(&NOW).await.unwrap().tombstones, 0);
    drop(b);
    for file in ["b.db-wal", "b.db-shm"] {
        drop(std::fs::remove_file(folder.path().join(file)));
    }
    std::fs::write(folder.path().join("b.db"), old).unwrap();
    let b = device_again(folder.path(), "b", &remote);
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(70, 'from the restored file', 1)", params![])).unwrap();
    for replica in [&b, &a, &b, &a] {
        sync(replica).await;
    }
    same(&a, &b);
    assert_eq!(count(&a), 16);
}

fn device_again(folder: &Path, name: &str, remote: &Remote) -> Replica {
    let home = folder.join(format!("{name}.home"));
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(home).open().unwrap();
    replica.add_open_remote("r", remote.clone()).unwrap();
    replica
}

#[tokio::test]
async fn a_group_of_two_remotes_collects_only_what_both_sides_have() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Remote::in_memory(), Remote::in_memory());
    let (a, bridge) = (first(folder.path(), "a", &one), device(folder.path(), "bridge", &one));
    bridge.add_open_remote("r2", two.clone()).unwrap();
    let far = device(folder.path(), "far", &two);
    fill(&a, 0..10);
    sync(&a).await;
    bridge.sync().await.unwrap();
    sync(&far).await;
    // Without a grace period a newcomer counts from when it was seen.
    bridge.sync().await.unwrap();
    // The far device deletes nothing and knows of nothing for a while.
    far.write(|tx| tx.execute("UPDATE notes SET title = 'far' WHERE id = 3", params![])).unwrap();
    a.write(|tx| tx.execute("DELETE FROM notes WHERE id = 9", params![])).unwrap();
    let mut collected = 0;
    for _ in 0..4 {
        collected += a.compact(&NOW).await.unwrap().tombstones;
        collected += bridge.compact(&CompactOptions { sync: SyncOptions::default(), ..NOW }).await.unwrap().tombstones;
    }
    assert_eq!(collected, 0, "the far device has not seen the delete");
    for _ in 0..4 {
        compact(&far).await;
        compact(&bridge).await;
        collected += compact(&a).await.tombstones;
    }
    assert!(collected > 0);
    for _ in 0..2 {
        sync(&a).await;
        bridge.sync().await.unwrap();
        sync(&far).await;
    }
    same(&a, &bridge);
    same(&a, &far);
    assert_eq!(count(&far), 9);
}

#[tokio::test]
async fn a_damaged_snapshot_is_put_again_and_what_was_cut_off_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    fill(&a, 0..3000);
    compact(&a).await;
    let keys = remote.keys().await.unwrap();
    let part = keys.iter().find(|key| key.contains("snap/") && key.contains("/00000000-"));
    let part = part.unwrap_or_else(|| panic!("{keys:?}"));
    remote.plant(part, b"damaged".to_vec()).await.unwrap();
    remote.plant(&part.replace("00000000-", "00000009-"), b"left behind".to_vec()).await.unwrap();
    let b = first(folder.path(), "b", &remote);
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(-1, 'mine', 1)", params![])).unwrap();
    let report = sync(&b).await;
    assert!(!report.refused.is_empty() && !report.snapshot_joined && report.held_back, "{report:?}");
    assert!(compact(&a).await.remotes[0].snapshot_published);
    assert!(!compact(&a).await.remotes[0].snapshot_published, "a sound one stays");
    let left = remote.keys().await.unwrap().into_iter().filter(|key| key.contains("snap/")).count();
    assert_eq!(left, 3, "a part, the header and the manifest");
    let report = sync(&b).await;
    assert!(report.refused.is_empty() && report.snapshot_joined && !report.held_back, "{report:?}");
    sync(&a).await;
    same(&a, &b);
    assert_eq!(count(&a), 3001);
}

#[tokio::test]
async fn a_manifest_whose_parts_hold_more_blocks_than_can_be_counted_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    fill(&a, 0..3000);
    compact(&a).await;
    let site = remote.list_heads().await.unwrap()[0].site;
    let (mut head, _) = remote.get_head(site).await.unwrap().unwrap();
    let mut snapshot = head.snapshot.clone().unwrap();
    let manifest = remote.get_part(site, &snapshot.name, &snapshot.manifest).await.unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let mut more = manifest["parts"][0].clone();
    more["blocks"] = usize::MAX.into();
    manifest["parts"].as_array_mut().unwrap().push(more);
    let bytes = serde_json::to_vec(&manifest).unwrap().into();
    snapshot.manifest = remote.put_manifest(site, &snapshot.name, &bytes).await.unwrap();
    head.snapshot = Some(snapshot);
    support::sign_as(&folder.path().join("a.home"), &mut head, a.status().unwrap().group);
    remote.put_head(&head).await.unwrap();
    let b = device(folder.path(), "b", &remote);
    let report = sync(&b).await;
    assert!(!report.snapshot_joined && report.refused.len() == 1, "{report:?}");
    assert!(report.refused[0].contains("not what its header says"), "{report:?}");
}
