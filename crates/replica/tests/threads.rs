//! Many threads on one file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::sync::Barrier;

use isle::{Builder, Error, ErrorKind, Replica, Row, StoreError, Value, params};
use serde::Deserialize;

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT NOT NULL, stars INT, raw BLOB)";

fn builder(folder: &Path) -> Builder {
    Replica::builder(folder.join("new.db")).home(folder.join("home"))
}

fn replica(folder: &Path) -> Replica {
    let replica = builder(folder).init().unwrap();
    replica.write(|tx| tx.execute_batch(SCHEMA)).unwrap();
    replica.track(&["notes"]).unwrap();
    replica
}

/// Runs `f` in as many threads, which all begin at once.
fn at_once<T: Send>(threads: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let run = |n| {
            let (start, f) = (&start, &f);
            scope.spawn(move || {
                start.wait();
                f(n)
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn whoever_opens_a_new_file_at_once_gets_one_handle_one_device_and_one_group() {
    for _ in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let opened = at_once(32, |_| {
            let replica = builder(folder.path()).init().unwrap();
            let status = replica.status().unwrap();
            (replica, (status.device.id, status.device.key, status.group, status.site))
        });
        let (first, ids) = &opened[0];
        assert!(
            opened.iter().all(|(_, other)| other == ids),
            "{:?}",
            opened.iter().map(|(_, i)| i).collect::<Vec<_>>()
        );
        // What one of them is told the others know: they share the store.
        let mut changes = first.subscribe();
        let (last, _) = opened.last().unwrap();
        last.write(|tx| tx.execute_batch(SCHEMA)).unwrap();
        last.track(&["notes"]).unwrap();
        last.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1, NULL)", &[])).unwrap();
        let told = std::iter::from_fn(|| changes.try_recv().ok()).any(|changed| changed.tables == ["notes"]);
        assert!(told, "a second store was made for the file");
        let sites = std::fs::read_dir(folder.path().join("home/sites")).unwrap();
        let records = sites.filter(|file| file.as_ref().unwrap().path().extension() == Some("json".as_ref()));
        assert_eq!(records.count(), 1, "the device knows of one replica");
    }
}

#[test]
fn sixteen_threads_write_a_thousand_rows_each_and_nobody_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path());
    // Half of them come as another process would: SQLite's lock is all that they share.
    let other =
        isle_store::Store::open(isle_store::Options::new(replica.path()), std::sync::Arc::new(isle::SystemRuntime));
    let other = other.unwrap();
    let failed = at_once(16, |thread| {
        (0..1000i64).find_map(|n| {
            let id = thread as i64 * 1000 + n;
            let sql = "INSERT INTO notes VALUES(?1, 'a title', ?2, NULL)";
            if thread % 2 == 1 {
                return other.write(|tx| tx.execute(sql, (id, n))).map_err(Error::from).err();
            }
            replica.write(|tx| tx.execute(sql, params![id, n])).err()
        })
    });
    let failed: Vec<_> = failed.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:?}");
    let sums: (i64, i64) = replica.read(|q| q.one("SELECT count(*), sum(stars) FROM notes", &[])).unwrap().unwrap();
    assert_eq!(sums, (16_000, 16 * 499_500));
    assert_eq!(replica.status().unwrap().version, 16_000, "each transaction is a changeset of its own");
    assert!(replica.check().unwrap().findings.is_empty());
}

#[derive(Debug, PartialEq, Deserialize)]
struct Note {
    raw: Vec<u8>,
    stars: Option<i64>,
    title: String,
    id: i64,
}

#[test]
fn rows_are_read_by_the_names_of_their_columns_from_eight_threads() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path());
    replica.write(|tx| (0..500).try_for_each(|n| insert(tx, n).map(drop))).unwrap();
    let note =
        |n: i64| Note { raw: vec![n as u8], stars: (n % 3 > 0).then_some(n), title: format!("title {n}"), id: n };
    let named = |row: &Row| {
        let value = |name| row.get(name).cloned().unwrap();
        assert_eq!(row.get("nothing"), None);
        (value("ID"), value("title"), value("sTaRs"), value("raw"))
    };
    let read = at_once(8, |thread| {
        for round in 0..20i64 {
            let (from, order) =
                (round * 7, if (thread + round as usize).is_multiple_of(2) { "title, raw, id, stars" } else { "*" });
            let sql = format!("SELECT {order} FROM notes WHERE id >= ?1 ORDER BY id LIMIT 10");
            let rows = replica.read(|q| q.query(&sql, params![from])).unwrap();
            let notes: Vec<Note> = replica.read(|q| q.all(&sql, params![from])).unwrap();
            assert_eq!(rows.len(), 10);
            for (n, row) in (from..).zip(&rows) {
                let Note { raw, stars, title, id } = note(n);
                let stars = stars.map_or(Value::Null, Value::Integer);
                assert_eq!(named(row), (Value::Integer(id), Value::Text(title), stars, Value::Blob(raw)));
            }
            assert_eq!(notes, (from..from + 10).map(note).collect::<Vec<_>>());
        }
        // The rows go to another thread, with their names.
        replica.read(|q| q.query("SELECT title, id FROM notes WHERE id = 77", &[])).unwrap().remove(0)
    });
    assert!(read.iter().all(|row| row.get("Id") == Some(&Value::Integer(77)) && row.columns() == ["title", "id"]));
}

fn insert(tx: &isle::Transaction<'_>, n: i64) -> Result<usize, Error> {
    let (title, stars, raw) = (format!("title {n}"), (n % 3 > 0).then_some(n), [n as u8]);
    tx.execute("INSERT INTO notes VALUES(?1, ?2, ?3, ?4)", params![n, &title, stars, &raw])
}

#[test]
fn many_rows_are_one_changeset_and_with_a_bad_one_none() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path());
    let before = replica.status().unwrap().version;
    let sql = "INSERT INTO notes(id, title) VALUES(?1, ?2)";
    let count = || replica.read(|q| q.one::<i64>("SELECT count(*) FROM notes", &[])).unwrap().unwrap();
    let bad: [(&[_], &str); 3] =
        [(params![3, None::<&str>], "NOT NULL"), (params![1, "again"], "UNIQUE"), (params![3], "2 parameters")];
    for (bad, why) in bad {
        let keys: Vec<i64> = (1_001..2_000).collect();
        let mut good: Vec<_> = keys.iter().map(|key| [(*key).into(), "x".into()]).collect();
        good[0] = [1.into(), "x".into()];
        // In the middle of a thousand.
        let lists =
            good.iter().take(500).map(|list| &list[..]).chain([bad]).chain(good.iter().skip(500).map(|list| &list[..]));
        let error = replica.write(|tx| tx.execute_many(sql, lists)).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        let Error::Store(of_store) = &error else { panic!("{error:?}") };
        // A constraint is told from a wrong request.
        assert_eq!(of_store.is_constraint(), why != "2 parameters", "{error:?}");
        let kind = if of_store.is_constraint() { ErrorKind::Failed } else { ErrorKind::Invalid };
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!((count(), replica.status().unwrap().version, replica.status().unwrap().queued), (0, before, 0));
    }
    let titles: Vec<String> = (0..1000).map(|n| format!("title {n}")).collect();
    let lists: Vec<_> = titles.iter().enumerate().map(|(n, title)| [(n as i64).into(), title.into()]).collect();
    let changed = replica.write(|tx| tx.execute_many(sql, lists.iter().map(|list| &list[..]))).unwrap();
    assert_eq!((changed, count(), replica.status().unwrap().version), (1000, 1000, before + 1));
    assert_eq!(replica.log(1).unwrap()[0].rows, 1000);
}

/// Would catch: transactions that read a state which another one changes before they commit (a write skew).
#[test]
fn what_a_transaction_has_read_still_holds_when_it_commits() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path());
    for id in 0..50 {
        replica
            .write(|tx| {
                tx.execute(
                    "INSERT INTO notes(id, title, stars) VALUES(?1, 'a', 1), (?2, 'b', 1)",
                    params![2 * id, 2 * id + 1],
                )
            })
            .unwrap();
        // One of the two may go, as long as the other one is there.
        let gone = at_once(2, |n| {
            replica
                .write(|tx| {
                    let both = "SELECT count(*) FROM notes WHERE id IN (?1, ?2) AND stars = 1";
                    match tx.one::<i64>(both, params![2 * id, 2 * id + 1])? {
                        Some(2) => tx.execute("UPDATE notes SET stars = 0 WHERE id = ?1", params![2 * id + n as i64]),
                        _ => Ok(0),
                    }
                })
                .unwrap()
        });
        assert_eq!(gone.iter().sum::<usize>(), 1, "pair {id}");
    }
}

#[test]
fn connections_log_ahead_wait_for_others_and_keep_references_whole() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path());
    type Settings = (String, i64, i64, i64);
    let settings = "SELECT j.journal_mode, b.timeout, f.foreign_keys, (SELECT count(*) FROM notes)
                    FROM pragma_journal_mode AS j, pragma_busy_timeout AS b, pragma_foreign_keys AS f";
    let patient = |(mode, timeout, foreign, _): Settings| mode == "wal" && timeout > 0 && foreign == 1;
    let read: Settings = replica.read(|q| q.one(settings, &[])).unwrap().unwrap();
    assert!(patient(read.clone()), "{read:?}");
    let written: Settings = replica.write(|tx| tx.one(settings, &[])).unwrap().unwrap();
    assert!(patient(written.clone()), "{written:?}");
    // More connections than one, as threads that read at once have them.
    let nested = replica.read(|_| replica.read(|q| q.one::<Settings>(settings, &[]))).unwrap().unwrap();
    assert!(patient(nested.clone()), "{nested:?}");
    let child = "CREATE TABLE parts(id INTEGER PRIMARY KEY, note INT REFERENCES notes(id))";
    replica.write(|tx| tx.execute_batch(child)).unwrap();
    let orphan = replica.write(|tx| tx.execute("INSERT INTO parts VALUES(1, 99)", &[])).unwrap_err();
    assert!(matches!(&orphan, Error::Store(error @ StoreError::Sqlite { .. }) if error.is_constraint()), "{orphan:?}");
}

#[test]
fn a_file_that_is_closed_has_nothing_beside_it_and_another_handle_keeps_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let first = replica(folder.path());
    let second = first.clone();
    first.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x', 1, NULL)", &[])).unwrap();
    let log = folder.path().join("new.db-wal");
    assert!(log.metadata().unwrap().len() > 0);
    assert!(!first.close().unwrap(), "another handle is there");
    second.read(|q| q.one::<i64>("SELECT count(*) FROM notes", &[])).unwrap();
    assert!(second.close().unwrap());
    assert!(!log.exists() && !folder.path().join("new.db-shm").exists());
    // The file alone has everything, for a client that knows nothing of write-ahead logs.
    let count = rusqlite::Connection::open(folder.path().join("new.db")).unwrap();
    assert_eq!(count.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0)), Ok(1));
    assert!(builder(folder.path()).open().is_ok(), "and it opens again");
}
