//! Threads, other processes and other stores on one file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use isle_store::{Init, Options, Runtime, Store, StoreError};
use rusqlite::Connection;
use support::{Device, TestRuntime, settle};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, writer INT, v)";
const THREADS: i64 = 8;
const WRITES: i64 = 40;

/// A connection as another process would have one.
fn other_process(device: &Device) -> Connection {
    let conn = Connection::open(device.path()).unwrap();
    conn.busy_timeout(Duration::from_secs(30)).unwrap();
    conn
}

#[test]
fn threads_and_a_foreign_writer_lose_no_row_and_leave_no_gap() {
    let (a, b) = (Device::new(1, T), Device::new(2, T));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &a.store;
            scope.spawn(move || {
                for n in 0..WRITES {
                    let id = thread * 1_000 + n;
                    let insert = |tx: &isle_store::Transaction<'_>| {
                        tx.execute("INSERT INTO t VALUES(?1, ?2, ?3)", (id, thread, n))?;
                        tx.execute("UPDATE t SET v = v + 1 WHERE id = ?1", [id - 1])
                    };
                    store.write(insert).unwrap();
                    if n % 10 == 0 {
                        store.seal().unwrap();
                        store.apply().unwrap();
                        store
                            .read(|conn| Ok::<_, StoreError>(conn.query_row("SELECT count(*) FROM t", [], |_| Ok(()))?))
                            .unwrap();
                    }
                }
            });
        }
        let conn = other_process(&a);
        scope.spawn(move || {
            for n in 0..WRITES {
                conn.execute("INSERT INTO t VALUES(?1, -1, 0)", [1_000_000 + n]).unwrap();
            }
        });
    });
    a.store.seal().unwrap();
    assert_eq!(a.rows("SELECT count(*) FROM t"), [format!("Integer({})", (THREADS + 1) * WRITES)]);
    a.check();
    let last = a.store.status().unwrap().version;
    assert!(last as i64 >= THREADS * WRITES);
    for version in 1..=last {
        assert!(a.export(a.site(), version).is_some(), "no version {version}");
    }
    settle(&[&a, &b]);
}

#[test]
fn two_stores_on_one_file_take_turns_and_notice_each_other() {
    let (a, b) = (Device::new(1, T), Device::new(2, T));
    let runtime = Arc::clone(&a.runtime) as Arc<dyn Runtime>;
    let second = Store::open(support::companion::options(a.path()), runtime).unwrap();
    for n in 0..30 {
        let store = if n % 2 == 0 { &a.store } else { &second };
        store.write(|tx| tx.execute("INSERT INTO t VALUES(?1, 0, 0)", [n])).unwrap();
        store.write(|tx| tx.execute("UPDATE t SET v = v + 1", [])).unwrap();
        assert_eq!(a.store.status().unwrap().version, second.status().unwrap().version);
        assert_eq!(a.store.status().unwrap().version, 2 * (n + 1) as u64);
    }
    // A table that one of them tracks is captured by the other.
    second.write(|tx| tx.execute_batch("CREATE TABLE later(id INTEGER PRIMARY KEY, v)")).unwrap();
    second.track(&["later"]).unwrap();
    a.run("INSERT INTO later VALUES(1, 'through the first')");
    second.write(|tx| tx.execute("UPDATE later SET v = 'through the second'", [])).unwrap();
    a.store.untrack("later").unwrap();
    second.write(|tx| tx.execute("INSERT INTO later VALUES(2, 'not replicated')", [])).unwrap();
    a.store.track(&["later"]).unwrap();
    assert_eq!(a.store.status().unwrap().queued, 0);
    a.check();
    // What one merges the other one knows.
    b.run("INSERT INTO t VALUES(500, 1, 1)");
    let (header, blocks) = b.export(b.site(), 1).unwrap();
    a.receive(&header, &blocks);
    second.apply().unwrap();
    a.run("UPDATE t SET v = 'seen' WHERE id = 500");
    b.pull(&a);
    assert_eq!(b.rows("SELECT count(*) FROM t WHERE v = 'seen'"), ["Integer(1)"]);
    assert_eq!(b.store.status().unwrap().conflicts, 0, "the second store did not know what the first had merged");
}

#[test]
fn two_stores_in_two_threads_write_one_chain() {
    let (a, b) = (Device::new(1, T), Device::new(2, T));
    let runtime = Arc::clone(&a.runtime) as Arc<dyn Runtime>;
    let second = Store::open(support::companion::options(a.path()), runtime).unwrap();
    std::thread::scope(|scope| {
        for (thread, store) in [(0, &a.store), (1, &second)] {
            scope.spawn(move || {
                for n in 0..100 {
                    store
                        .write(|tx| tx.execute("INSERT INTO t VALUES(?1, ?2, 0)", (thread * 1_000 + n, thread)))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(a.store.status().unwrap().version, 200);
    a.check();
    settle(&[&a, &b]);
}

#[test]
fn a_foreign_writer_that_holds_the_lock_too_long_gives_busy_and_no_damage() {
    let a = Device::new(1, T);
    let mut options = support::companion::options(a.path());
    options.busy_timeout = Duration::ZERO;
    let store = Store::open(options, Arc::clone(&a.runtime) as Arc<dyn Runtime>).unwrap();
    store.write(|tx| tx.execute("INSERT INTO t VALUES(1, 1, 1)", [])).unwrap();
    let conn = other_process(&a);
    conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(2, 2, 2)").unwrap();
    let write = |id: i64| store.write(move |tx| tx.execute("INSERT INTO t VALUES(?1, 3, 3)", [id]));
    assert!(matches!(write(3), Err(StoreError::Busy { .. })));
    assert!(matches!(store.apply(), Err(StoreError::Busy { .. })));
    conn.execute_batch("COMMIT").unwrap();
    write(4).unwrap();
    assert_eq!(a.rows("SELECT id FROM t"), ["Integer(1)", "Integer(2)", "Integer(4)"]);
    a.check();
}

/// As a process of its own would: with its own ids, and nothing shared but the file.
fn init(path: &std::path::Path, seed: u64, busy_timeout: Duration) -> Result<Store, StoreError> {
    let options = Options { busy_timeout, ..support::companion::options(path) };
    Store::init(options, Arc::new(TestRuntime::new(seed)), &Init { app: "test".into(), owner: None })
}

#[test]
fn whoever_makes_a_replica_of_one_new_file_at_once_gets_the_same_one() {
    let folder = support::folder();
    let threads = THREADS as u64;
    for file in 0..200u64 {
        let path = folder.path().join(format!("{file}.db"));
        if file % 2 == 0 {
            support::foreign(&path, T);
        }
        let start = Barrier::new(THREADS as usize);
        let made: Vec<_> = std::thread::scope(|scope| {
            let (path, start) = (&path, &start);
            let make = move |thread| {
                start.wait();
                let store = init(path, 1 + file * threads + thread, Duration::from_secs(30))?;
                let status = store.status()?;
                Ok::<_, StoreError>((status.site, status.group))
            };
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || make(thread))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let first = made[0].as_ref().unwrap();
        for ids in &made {
            assert_eq!(ids.as_ref().unwrap(), first, "file {file}");
        }
    }
}

#[test]
fn making_a_replica_waits_for_a_writer_as_long_as_it_may() {
    let folder = support::folder();
    let path = folder.path().join("test.db");
    support::foreign(&path, T);
    let writer = Connection::open(&path).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(1, 1, 1)").unwrap();
    let (timeout, begun) = (Duration::from_millis(200), Instant::now());
    assert!(matches!(init(&path, 1, timeout), Err(StoreError::Busy { .. })));
    assert!(begun.elapsed() >= timeout, "it gave up after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited {:?}", begun.elapsed());
    writer.execute_batch("COMMIT").unwrap();
    init(&path, 2, timeout).unwrap();
}
