//! Replicas that meet in a remote.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::Path;

use isle::{Replica, Resolution, Value, params};
use isle_blobs::Remote;
use isle_blobs::testing::FaultPlan;
use support::{sign_as, sign_as_stranger, strangers_head};

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT)";

fn device(folder: &Path, name: &str) -> Replica {
    let home = folder.join(format!("{name}.home"));
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(home).init().unwrap();
    replica.rename_device(name).unwrap();
    replica
}

fn first(folder: &Path, name: &str) -> Replica {
    let replica = device(folder, name);
    replica.write(|tx| tx.execute_batch(SCHEMA)).unwrap();
    replica.track(&["notes"]).unwrap();
    replica
}

fn count(replica: &Replica) -> i64 {
    replica.read(|q| q.one("SELECT count(*) FROM notes", params![])).unwrap().unwrap()
}

#[tokio::test]
async fn an_empty_replica_gets_tables_and_rows_and_an_idle_sync_is_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'Dune', 5)", &[])).unwrap();
    for replica in [&a, &b] {
        replica.add_open_remote("r", remote.clone()).unwrap();
        replica.sync().await.unwrap();
    }
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    b.write(|tx| tx.execute("UPDATE notes SET stars = 4", &[])).unwrap();
    b.sync().await.unwrap();
    let report = a.sync().await.unwrap().remove(0);
    assert_eq!((report.pulled_versions, report.pulled_rows, report.conflicts), (1, 1, 0));
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    let idle = a.sync().await.unwrap().remove(0);
    assert_eq!((idle.requests, idle.pulled_versions, idle.pushed_versions), (1, 0, 0));
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    assert!(a.status().unwrap().sites.iter().any(|site| site.name.as_deref() == Some("b")));
}

#[tokio::test]
async fn two_databases_with_rows_of_their_own_join_one_group() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let (a, b) = (first(folder.path(), "a"), first(folder.path(), "b"));
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'a', 1)", &[])).unwrap();
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(2, 'b', 2)", &[])).unwrap();
    for replica in [&a, &b, &a, &b] {
        if replica.remotes().unwrap().is_empty() {
            replica.add_plain_remote("r", bucket.to_str().unwrap()).unwrap();
        }
        replica.sync().await.unwrap();
    }
    assert_eq!((count(&a), count(&b)), (2, 2));
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[tokio::test]
async fn a_large_history_moves_through_segments_and_a_small_change_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    a.add_open_remote("r", remote.clone()).unwrap();
    b.add_open_remote("r", remote.clone()).unwrap();
    let text = |n: i64| (0..40).map(|k| char::from(b'a' + ((n * 31 + k * k * 7) % 26) as u8)).collect::<String>();
    for round in 0..20 {
        a.write(|tx| {
            for n in 0..500 {
                tx.execute("INSERT INTO notes VALUES(?1, ?2, ?3)", params![round * 500 + n, &text(n), n])?;
            }
            Ok(())
        })
        .unwrap();
        a.sync().await.unwrap();
    }
    let segments = remote.keys().await.unwrap().into_iter().filter(|key| key.contains("log/")).count();
    assert!(segments <= 8, "{segments} segments for 20 pushes");
    b.sync().await.unwrap();
    assert_eq!(count(&b), 10_000);
    a.write(|tx| tx.execute("UPDATE notes SET title = 'small' WHERE id = 77", &[])).unwrap();
    let report = a.sync().await.unwrap().remove(0);
    assert!(report.uploaded_bytes < 32_000, "{} bytes for one cell", report.uploaded_bytes);
    b.sync().await.unwrap();
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[tokio::test]
async fn a_copied_file_takes_a_new_site_id_before_it_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a");
    a.add_open_remote("r", remote.clone()).unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'before', 1)", &[])).unwrap();
    a.sync().await.unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(2, 'not published', 2)", &[])).unwrap();
    copy(folder.path(), "a.db", "copy.db");
    // On the same device, and on another one.
    for (n, home) in ["a.home", "other.home"].iter().enumerate() {
        let name = format!("copy{n}.db");
        copy(folder.path(), "copy.db", &name);
        let copied = Replica::builder(folder.path().join(name)).home(folder.path().join(home)).open().unwrap();
        copied.add_open_remote("r", remote.clone()).unwrap();
        copied
            .write(|tx| tx.execute("INSERT INTO notes VALUES(?1, 'from the copy', 3)", params![10 + n as i64]))
            .unwrap();
        let report = copied.sync().await.unwrap().remove(0);
        assert!(report.new_site.is_some(), "a copy spoke under its original's id");
        assert_ne!(copied.status().unwrap().site, a.status().unwrap().site);
    }
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(3, 'from the original', 3)", &[])).unwrap();
    let report = a.sync().await.unwrap().remove(0);
    assert_eq!(report.new_site, None);
    assert_eq!(count(&a), 5);
    let fresh = device(folder.path(), "fresh");
    fresh.add_open_remote("r", remote.clone()).unwrap();
    fresh.sync().await.unwrap();
    assert_eq!(fresh.state_hash().unwrap(), a.state_hash().unwrap());
}

fn copy(folder: &Path, from: &str, to: &str) {
    for end in ["", "-wal"] {
        let from = folder.join(format!("{from}{end}"));
        if from.exists() {
            std::fs::copy(from, folder.join(format!("{to}{end}"))).unwrap();
        }
    }
}

#[tokio::test]
async fn a_restored_older_file_loses_nothing_and_repeats_no_version() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    {
        let a = first(folder.path(), "a");
        a.add_open_remote("r", remote.clone()).unwrap();
        a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'one', 1)", &[])).unwrap();
        a.sync().await.unwrap();
        copy(folder.path(), "a.db", "backup.db");
        a.write(|tx| tx.execute("INSERT INTO notes VALUES(2, 'two', 2)", &[])).unwrap();
        a.sync().await.unwrap();
    }
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("a.db{end}")));
    }
    copy(folder.path(), "backup.db", "a.db");
    let a = device(folder.path(), "a");
    a.add_open_remote("r", remote.clone()).unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(3, 'after the restore', 3)", &[])).unwrap();
    let report = a.sync().await.unwrap().remove(0);
    assert!(report.new_site.is_some());
    assert_eq!(count(&a), 3, "what was published before the restore comes back");
    let b = device(folder.path(), "b");
    b.add_open_remote("r", remote).unwrap();
    b.sync().await.unwrap();
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[tokio::test]
async fn faults_of_the_remote_delay_but_never_break() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    for seed in 0..6 {
        let folder = folder.path().join(seed.to_string());
        std::fs::create_dir(&folder).unwrap();
        let clean = if seed == 0 { remote.clone() } else { Remote::in_memory() };
        let plan = FaultPlan {
            error_before: 100,
            error_after: 100,
            put_before: 0,
            truncate: 50,
            bit_flip: 50,
            throttle: 50,
            rollback: 30,
            late_listing: 100,
            late_entries: 1,
            clock_tick_ms: 0,
            ..FaultPlan::NONE
        };
        let replicas = [first(&folder, "a"), first(&folder, "b"), device(&folder, "c")];
        let mut injected = Vec::new();
        for (n, replica) in replicas.iter().enumerate() {
            let (faulty, faults) = clean.with_faults(seed * 10 + n as u64, plan, None);
            replica.add_open_remote("r", faulty).unwrap();
            injected.push(faults);
        }
        for round in 0..6i64 {
            for (n, replica) in replicas.iter().enumerate() {
                if n < 2 || round > 3 {
                    let id = round * 10 + n as i64;
                    let _ = replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, 'x', ?1)", params![id]));
                }
                let _ = replica.sync().await;
            }
        }
        for faults in &injected {
            faults.plan(FaultPlan::default());
        }
        for _ in 0..3 {
            for replica in &replicas {
                replica.sync().await.unwrap();
            }
        }
        for replica in &replicas {
            assert_eq!(replica.state_hash().unwrap(), replicas[0].state_hash().unwrap(), "seed {seed}");
            assert!(count(replica) >= 12, "seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_rolled_back_remote_is_noticed_and_filled_again() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    a.add_open_remote("r", remote.clone()).unwrap();
    b.add_open_remote("r", remote.clone()).unwrap();
    let head = format!("head/{}", a.status().unwrap().site);
    let mut old = None;
    for n in 1..4 {
        a.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, 'x', 1)", params![n])).unwrap();
        a.sync().await.unwrap();
        b.sync().await.unwrap();
        old.get_or_insert(remote.dig(&head).await.unwrap());
    }
    remote.plant(&head, old.unwrap()).await.unwrap();
    let report = b.sync().await.unwrap().remove(0);
    assert_eq!(report.stale, [a.status().unwrap().site.to_string()]);
    a.sync().await.unwrap();
    let c = device(folder.path(), "c");
    c.add_open_remote("r", remote).unwrap();
    c.sync().await.unwrap();
    assert_eq!(c.state_hash().unwrap(), a.state_hash().unwrap());
}

#[tokio::test]
async fn another_group_or_app_is_refused_and_nothing_is_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Remote::in_memory(), Remote::in_memory());
    let (a, b) = (first(folder.path(), "a"), first(folder.path(), "b"));
    a.add_open_remote("r", one.clone()).unwrap();
    b.add_open_remote("r", two.clone()).unwrap();
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1)", &[])).unwrap();
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    b.add_open_remote("other", one.clone()).unwrap();
    let error = b.sync().await.unwrap_err();
    assert!(error.to_string().contains("has published there"), "{error}");
    let home = folder.path().join("app.home");
    let app = Replica::builder(folder.path().join("app.db")).home(home).app("music").init().unwrap();
    app.write(|tx| tx.execute_batch(SCHEMA)).unwrap();
    app.track(&["notes"]).unwrap();
    app.add_open_remote("r", one).unwrap();
    assert!(matches!(app.sync().await, Err(isle::Error::OtherApp { .. })));
}

#[tokio::test]
async fn a_losing_value_can_be_put_back_and_travels() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1)", &[])).unwrap();
    for replica in [&a, &b] {
        replica.add_open_remote("r", remote.clone()).unwrap();
        replica.sync().await.unwrap();
    }
    a.write(|tx| tx.execute("UPDATE notes SET title = 'from a'", &[])).unwrap();
    b.write(|tx| tx.execute("UPDATE notes SET title = 'from b'", &[])).unwrap();
    for replica in [&a, &b, &a] {
        replica.sync().await.unwrap();
    }
    let conflict = a.conflicts(false, 10).unwrap().remove(0);
    assert_eq!(conflict.key, [("id".to_owned(), Value::Integer(1))]);
    let lost = conflict.value.clone();
    a.resolve(conflict.id, &Resolution::PutBack).unwrap();
    assert!(a.conflicts(false, 10).unwrap().is_empty());
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    let title: String = b.read(|q| q.one("SELECT title FROM notes", &[])).unwrap().unwrap();
    assert_eq!(Value::Text(title), lost);
    assert!(matches!(a.resolve(conflict.id, &Resolution::Keep), Err(isle::Error::NoSuchConflict { .. })));
}

#[tokio::test]
async fn threads_share_one_handle_and_subscribers_hear_of_tables() {
    let folder = tempfile::tempdir().unwrap();
    let a = first(folder.path(), "a");
    let mut changes = a.subscribe();
    std::thread::scope(|scope| {
        for thread in 0..8i64 {
            let path = a.path().to_owned();
            scope.spawn(move || {
                let replica = Replica::open(path).unwrap();
                for n in 0..50 {
                    replica
                        .write(|tx| tx.execute("INSERT INTO notes VALUES(?1, 't', 0)", params![thread * 100 + n]))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(count(&a), 400);
    let changed = changes.try_recv();
    assert!(
        matches!(changed, Ok(changed) if changed.tables == ["notes"] && !changed.remote) || changes.try_recv().is_ok()
    );
}

#[tokio::test]
async fn an_emptied_remote_asks_and_is_filled_again_when_it_is_added_anew() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let a = first(folder.path(), "a");
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1)", &[])).unwrap();
    a.add_plain_remote("r", bucket.to_str().unwrap()).unwrap();
    a.sync().await.unwrap();
    std::fs::remove_dir_all(&bucket).unwrap();
    let error = a.sync().await.unwrap_err();
    assert!(matches!(error, isle::Error::RemoteEmptied { .. } | isle::Error::Remote { .. }), "{error}");
    a.remove_remote("r").unwrap();
    a.add_plain_remote("r", bucket.to_str().unwrap()).unwrap();
    a.sync().await.unwrap();
    let b = device(folder.path(), "b");
    b.add_plain_remote("r", bucket.to_str().unwrap()).unwrap();
    b.sync().await.unwrap();
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap(), "the schema is there again, too");
}

#[tokio::test]
async fn a_damaged_own_head_is_put_again() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a");
    a.add_open_remote("r", remote.clone()).unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1)", &[])).unwrap();
    a.sync().await.unwrap();
    remote.plant(&format!("head/{}", a.status().unwrap().site), &b"garbage"[..]).await.unwrap();
    a.sync().await.unwrap();
    let b = device(folder.path(), "b");
    b.add_open_remote("r", remote).unwrap();
    let report = b.sync().await.unwrap().remove(0);
    assert_eq!(report.refused, [""; 0]);
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[tokio::test]
async fn a_strangers_head_neither_silences_nor_stops_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    a.add_open_remote("r", remote.clone()).unwrap();
    b.add_open_remote("r", remote.clone()).unwrap();
    a.sync().await.unwrap();
    // A head that claims to have everything of `a`, and names a segment and a schema operation that do not exist.
    let site = a.status().unwrap().site;
    let mut evil = strangers_head();
    evil.last_version = 7;
    evil.tail = vec![isle_blobs::Frame::header(site, u64::MAX >> 20, vec![1, 2, 3])];
    evil.schema_heads = vec![[7; 16]];
    sign_as_stranger(&mut evil, a.status().unwrap().group);
    remote.put_head(&evil).await.unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1)", &[])).unwrap();
    let report = a.sync().await.unwrap().remove(0);
    assert_eq!((report.pushed_versions, report.refused.len()), (1, 1), "{report:?}");
    b.sync().await.unwrap();
    assert_eq!(count(&b), 1);
}

#[tokio::test]
async fn a_schema_operation_makes_what_it_declares_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str| {
        let key = isle_schema::KeyColumn {
            name: "id".into(),
            affinity: isle_schema::Affinity::Integer,
            collation: isle_schema::Collation::Binary,
        };
        isle_schema::Table::new("default", name, vec![key], &["v"], true)
    };
    for (n, (create, index)) in [
        ("CREATE TABLE x(id INTEGER PRIMARY KEY, v)", "CREATE INDEX evil ON isle_log(hlc)"),
        ("CREATE TABLE x(id INTEGER PRIMARY KEY, v)", "CREATE UNIQUE INDEX evil ON notes(title)"),
        ("CREATE TABLE x(id INTEGER PRIMARY KEY, v)", "CREATE UNIQUE INDEX evil ON x(abs(v))"),
        ("CREATE TABLE x(id INTEGER PRIMARY KEY, v)", "CREATE UNIQUE INDEX evil ON x(v) WHERE v /* open"),
        ("CREATE TABLE x AS SELECT 1 AS id, 2 AS v", "CREATE INDEX i ON x(v)"),
        ("CREATE TABLE y(id INTEGER PRIMARY KEY, v)", "CREATE INDEX i ON y(v)"),
        ("CREATE TABLE x(id TEXT PRIMARY KEY, v)", "CREATE INDEX i ON x(v)"),
        ("CREATE TABLE x(id INTEGER PRIMARY KEY)", "SELECT 1"),
        ("CREATE TABLE x(id INTEGER PRIMARY KEY, v) -- ; \n syntax error (", "SELECT 1"),
        ("CREATE TEMP TABLE x(id INTEGER PRIMARY KEY, v)", "SELECT 1"),
        ("CREATE VIEW x AS SELECT 1 AS id", "SELECT 1"),
    ]
    .into_iter()
    .enumerate()
    {
        let remote = Remote::in_memory();
        let a = first(folder.path(), &format!("a{n}"));
        a.add_open_remote("r", remote.clone()).unwrap();
        a.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1), (2, 'y', 2)", &[])).unwrap();
        a.sync().await.unwrap();
        let before = a.read(|q| q.all::<String>("SELECT name FROM sqlite_schema ORDER BY 1", &[])).unwrap();
        let definition = isle_schema::TableDefinition {
            table: table("x"),
            create_sql: create.to_owned(),
            index_sql: vec![index.to_owned()],
        };
        let step = isle_schema::Step::CreateTable(definition);
        let operation = isle_schema::Migration { app: "default".into(), parents: vec![], steps: vec![step] };
        let (id, bytes) = operation.encode().unwrap();
        remote.put_operation(isle_blobs::OperationKind::Schema, *id.as_bytes(), &bytes.into()).await.unwrap();
        let mut evil = strangers_head();
        evil.schema_heads = vec![*id.as_bytes()];
        sign_as_stranger(&mut evil, a.status().unwrap().group);
        remote.put_head(&evil).await.unwrap();
        let report = a.sync().await.unwrap().remove(0);
        // What this SQLite cannot read, another may: it waits.
        let unreadable = create.contains("syntax error");
        let told = (report.refused.len(), report.pending.len());
        assert_eq!(told, if unreadable { (0, 1) } else { (1, 0) }, "{create}; {index}: {report:?}");
        let after = a.read(|q| q.all::<String>("SELECT name FROM sqlite_schema ORDER BY 1", &[])).unwrap();
        assert_eq!(before, after, "{create}; {index}");
        a.write(|tx| tx.execute("INSERT INTO notes VALUES(3, 'z', 3)", &[])).unwrap();
    }
}

#[tokio::test]
async fn what_a_dead_writers_lost_segment_held_is_published_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    a.add_open_remote("r", remote.clone()).unwrap();
    b.add_open_remote("r", remote.clone()).unwrap();
    a.write(|tx| {
        (0..6000).try_for_each(|n| {
            let text = format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            tx.execute("INSERT INTO notes VALUES(?1, ?2, 1)", params![n, &text]).map(|_| ())
        })
    })
    .unwrap();
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    let site = a.status().unwrap().site;
    let (head, _) = remote.get_head(site).await.unwrap().unwrap();
    assert!(!head.segments.is_empty(), "the rows are too many for the head itself");
    for segment in &head.segments {
        remote.delete_segment(site, segment).await.unwrap();
    }
    // `a` is never seen again; its head changes once more, so that `b` reads it and finds the segments gone.
    let mut head = head;
    head.last_version += 1;
    head.segments[0].contents[0].last += 1;
    sign_as(&folder.path().join("a.home"), &mut head, a.status().unwrap().group);
    remote.put_head(&head).await.unwrap();
    assert_eq!(b.sync().await.unwrap().remove(0).refused.len(), 1);
    let c = device(folder.path(), "c");
    c.add_open_remote("r", remote).unwrap();
    c.sync().await.unwrap();
    assert_eq!(count(&c), 6000);
}

#[tokio::test]
async fn a_device_publishes_nothing_that_its_disk_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    for replica in [&a, &b] {
        replica.add_open_remote("r", remote.clone()).unwrap();
        replica.sync().await.unwrap();
    }
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'sound', 1)", &[])).unwrap();
    b.sync().await.unwrap();
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(2, 'damaged', 1)", &[])).unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes VALUES(3, 'of another', 1)", &[])).unwrap();
    a.sync().await.unwrap();
    let conn = rusqlite::Connection::open(b.path()).unwrap();
    let last = "(SELECT max(id) FROM isle_log WHERE id >> 44 = (SELECT v FROM isle_meta WHERE k = 'site'))";
    let (id, body): (i64, Vec<u8>) = conn
        .query_row(&format!("SELECT id, body FROM isle_log WHERE id = {last}"), [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let set = "UPDATE isle_log SET body = ?2 WHERE id = ?1";
    conn.execute(set, rusqlite::params![id, vec![0u8; body.len()]]).unwrap();
    let error = b.sync().await.unwrap_err().to_string();
    assert!(error.contains("damaged in this file's log") && error.contains("isle doctor"), "{error}");
    // What others have comes in all the same, and they keep what they could have before.
    assert_eq!(count(&b), 3);
    assert_eq!(a.sync().await.unwrap().remove(0).refused, Vec::<String>::new());
    assert_eq!(count(&a), 2);
    conn.execute(set, rusqlite::params![id, body]).unwrap();
    b.sync().await.unwrap();
    a.sync().await.unwrap();
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[tokio::test]
async fn what_a_head_with_a_damaged_changeset_held_before_is_published_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let (a, b) = (first(folder.path(), "a"), device(folder.path(), "b"));
    for replica in [&a, &b] {
        replica.add_open_remote("r", remote.clone()).unwrap();
        replica.sync().await.unwrap();
    }
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'sound', 1)", &[])).unwrap();
    b.sync().await.unwrap();
    a.sync().await.unwrap();
    a.write(|tx| tx.execute("UPDATE notes SET stars = 2", &[])).unwrap();
    b.write(|tx| tx.execute("INSERT INTO notes VALUES(2, 'damaged', 1)", &[])).unwrap();
    // b puts a head with both, in which the last one is damaged.
    b.sync().await.unwrap();
    let site = b.status().unwrap().site;
    let (mut head, _) = remote.get_head(site).await.unwrap().unwrap();
    let block = head.tail.iter_mut().rfind(|frame| frame.kind == isle_blobs::FrameKind::Block).unwrap();
    block.payload = vec![0; block.payload.len()].into();
    sign_as(&folder.path().join("b.home"), &mut head, b.status().unwrap().group);
    remote.put_head(&head).await.unwrap();
    let report = a.sync().await.unwrap().remove(0);
    assert!(report.refused.len() == 1 && report.refused[0].contains("block does not match"), "{report:?}");
    let c = device(folder.path(), "c");
    c.add_open_remote("r", remote).unwrap();
    c.sync().await.unwrap();
    assert_eq!(a.state_hash().unwrap(), c.state_hash().unwrap());
    let again = a.sync().await.unwrap().remove(0);
    assert_eq!((again.pushed_versions, again.uploaded_bytes), (0, 0), "once is enough: {again:?}");
}
