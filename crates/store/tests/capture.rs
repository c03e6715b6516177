//! What capture must not miss, and must not make up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_store::StoreError;
use support::{Device, settle};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)";
const NAMES: &str = "CREATE TABLE names(name TEXT PRIMARY KEY COLLATE NOCASE, v INT CHECK(v < 100))";

#[test]
fn a_row_that_is_replaced_and_then_deleted_in_one_transaction_is_deleted_elsewhere() {
    let (a, b) = (Device::new(1, T), Device::new(2, T));
    a.run("INSERT INTO t VALUES(1, 'x', 1)");
    settle(&[&a, &b]);
    a.run("INSERT OR REPLACE INTO t VALUES(1, 'y', 2); DELETE FROM t WHERE id = 1");
    settle(&[&a, &b]);
    assert!(b.rows("SELECT * FROM t").is_empty());
}

#[test]
fn a_key_that_left_before_a_statement_failed_halfway_leaves_elsewhere() {
    let (a, b) = (Device::new(1, NAMES), Device::new(2, NAMES));
    a.run("INSERT INTO names VALUES('a', 1), ('b', 2), ('c', 3)");
    settle(&[&a, &b]);
    let sql = "UPDATE OR FAIL names SET name = CASE name WHEN 'a' THEN 'x' ELSE 'c' END WHERE name IN ('a', 'b')";
    a.store
        .write(|tx| {
            assert!(tx.execute(sql, []).unwrap_err().is_constraint());
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(a.rows("SELECT count(*) FROM names WHERE name = 'a'"), ["Integer(0)"]);
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT * FROM names ORDER BY 1"), b.rows("SELECT * FROM names ORDER BY 1"));
}

#[test]
fn a_statement_that_failed_and_changed_nothing_writes_nothing() {
    for schema in [NAMES.to_owned(), NAMES.replace("TEXT PRIMARY KEY COLLATE NOCASE", "TEXT PRIMARY KEY")] {
        let a = Device::new(1, &schema);
        a.run("INSERT INTO names VALUES('a', 1), ('b', 2)");
        let before = a.store.status().unwrap().version;
        a.store
            .write(|tx| {
                let sql = "UPDATE names SET v = CASE name WHEN 'a' THEN 50 ELSE 500 END";
                assert!(tx.execute(sql, []).unwrap_err().is_constraint());
                Ok::<_, StoreError>(())
            })
            .unwrap();
        assert_eq!(a.store.status().unwrap().version, before, "a phantom write was sealed: {schema}");
    }
}

#[test]
fn a_replace_that_failed_halfway_and_changed_nothing_writes_nothing() {
    let a = Device::new(
        1,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v INT CHECK(v < 100)); CREATE TABLE log(v INTEGER PRIMARY KEY);
         -- Captured by a trigger in the file, beside which the others' failed statements still count as undone.
         CREATE TABLE names(name TEXT PRIMARY KEY COLLATE NOCASE)",
    );
    a.run("INSERT INTO t VALUES(1, 1), (2, 2)");
    let before = a.store.status().unwrap().version;
    let fails = "INSERT OR REPLACE INTO t VALUES(1, 10), (3, 30), (2, 500)";
    let keeps = "INSERT OR FAIL INTO t VALUES(4, 40), (5, 500)";
    let run = |sql: &str| {
        let failed = a.store.write(|tx| {
            assert!(tx.execute(sql, []).unwrap_err().is_constraint());
            Ok::<_, StoreError>(())
        });
        failed.unwrap();
    };
    run(fails);
    assert_eq!(a.store.status().unwrap().version, before, "a phantom write was sealed");
    run(keeps);
    assert_eq!(a.store.status().unwrap().version, before + 1, "the row that FAIL left was missed");
    // A trigger's changes are not counted: what stands behind a RAISE(FAIL) may have changed.
    a.run("CREATE TRIGGER app BEFORE INSERT ON log BEGIN REPLACE INTO t VALUES(1, 11); SELECT RAISE(FAIL, 'no'); END");
    run("INSERT INTO log VALUES(1)");
    let b = Device::new(
        2,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v INT CHECK(v < 100)); CREATE TABLE log(v INTEGER PRIMARY KEY);
         CREATE TABLE names(name TEXT PRIMARY KEY COLLATE NOCASE)",
    );
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id * 1000 + v FROM t"), ["Integer(1011)", "Integer(2002)", "Integer(4040)"]);
}

#[test]
fn rows_that_are_new_in_one_go_arrive_whatever_way_they_came() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w); CREATE TABLE source(id INTEGER PRIMARY KEY, v, w)";
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    let numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000)";
    a.foreign(&format!("{numbers} INSERT INTO source SELECT i, 'v' || i, i * 0.5 FROM n"));
    // SQLite copies between equal tables without looking at values.
    a.run("INSERT INTO t SELECT * FROM source");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT count(*), sum(w) FROM t"), ["Integer(5000)|Real(6251250.0)"]);
    // Runs with holes, rows that are there already, rows that are gone or changed before the transaction ends.
    a.run(&format!(
        "DELETE FROM t WHERE id BETWEEN 50 AND 150;
         {numbers} INSERT OR IGNORE INTO t SELECT i + 20, 'again', i FROM n WHERE i <> 77;
         UPDATE t SET v = 'changed' WHERE id = 100;
         DELETE FROM t WHERE id = 120;
         UPDATE t SET id = 100000 WHERE id = 130;
         INSERT INTO t VALUES(-9223372036854775808, 'first', 0), (9223372036854775807, 'last', 0)"
    ));
    settle(&[&a, &b]);
    let all = "SELECT * FROM t ORDER BY id";
    assert_eq!(a.rows(all), b.rows(all));
    assert_eq!(b.rows("SELECT count(*) FROM t WHERE v = 'changed' OR id IN (97, 120, 130, 100000)"), ["Integer(2)"]);
}

#[test]
fn a_savepoint_that_is_undone_does_not_fail_its_transaction() {
    let a = Device::new(1, NAMES);
    let before = a.store.status().unwrap().version;
    let result = a.store.write(|tx| {
        let undone = tx.savepoint(|tx| {
            tx.execute("INSERT INTO names VALUES('a', 1)", [])?;
            Err::<(), _>(StoreError::RolledBack)
        });
        assert!(undone.is_err());
        Ok::<_, StoreError>(())
    });
    result.unwrap();
    assert_eq!(a.store.status().unwrap().version, before);
    a.check();
}

#[test]
fn a_table_that_was_edited_while_untracked_is_the_same_everywhere_when_it_returns() {
    let (a, b) = (Device::new(1, T), Device::new(2, T));
    a.run("INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2)");
    settle(&[&a, &b]);
    a.store.untrack("t").unwrap();
    a.foreign("UPDATE t SET v = 'edited' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES(3, 'new', 3)");
    a.store.track(&["t"]).unwrap();
    settle(&[&a, &b]);
}

#[test]
fn keys_that_differ_only_behind_a_nul_are_one_row_for_nocase_and_so_everywhere() {
    let (a, b) = (Device::new(1, NAMES), Device::new(2, NAMES));
    a.run("INSERT INTO names VALUES('k' || char(0) || 'a', 1)");
    b.run("INSERT INTO names VALUES('k' || char(0) || 'b', 2)");
    settle(&[&a, &b]);
}

#[test]
fn a_replica_without_a_column_does_not_hide_that_columns_values_on_others() {
    let narrow = "CREATE TABLE t(id INTEGER PRIMARY KEY, a)";
    let wide = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)";
    let (n, w, x) = (Device::new(1, narrow), Device::new(2, wide), Device::new(3, wide));
    for device in [&w, &x] {
        device.pull(&n);
    }
    x.pull(&w);
    w.run("INSERT INTO t VALUES(1, 'w', 'kept')");
    n.pass(1000);
    n.run("INSERT INTO t VALUES(1, 'n')");
    x.pull(&n);
    x.pull(&w);
    w.pull(&n);
    assert_eq!(w.hash(), x.hash(), "{:?} {:?}", w.rows("SELECT * FROM t"), x.rows("SELECT * FROM t"));
}

#[test]
fn the_sign_of_a_zero_in_a_key_travels_by_both_ways() {
    for foreign in [false, true] {
        let schema = "CREATE TABLE loose(k BLOB PRIMARY KEY, v)";
        let (a, b) = (Device::new(1, schema), Device::new(2, schema));
        let run = |sql: &str| if foreign { a.foreign(sql) } else { a.run(sql) };
        run("INSERT INTO loose VALUES(0.0, 1)");
        settle(&[&a, &b]);
        run("UPDATE loose SET k = -0.0");
        settle(&[&a, &b]);
    }
}

#[test]
fn a_baseline_that_came_after_the_author_was_last_seen_is_journaled_when_it_loses() {
    let second = "CREATE TABLE more(id INTEGER PRIMARY KEY, v)";
    let (a, b, c) = (Device::new(1, T), Device::new(2, T), Device::new(3, T));
    b.run("INSERT INTO t VALUES(1, 1, 1)");
    settle(&[&a, &b, &c]);
    b.foreign(&format!("{second}; INSERT INTO more VALUES(1, 'adopted by b')"));
    b.store.track(&["more"]).unwrap();
    a.foreign(second);
    a.store.track(&["more"]).unwrap();
    a.run("INSERT INTO more VALUES(1, 'written by a')");
    c.pull(&b);
    c.pull(&a);
    settle(&[&a, &b, &c]);
    for device in [&a, &b, &c] {
        let journal = device.store.conflicts(true, 10).unwrap();
        assert!(
            journal.iter().any(|lost| lost.value == isle_changeset::Value::Text(b"adopted by b".to_vec())),
            "{journal:?}"
        );
    }
}

#[test]
fn text_keys_that_are_no_numbers_for_sqlite_are_accepted_elsewhere() {
    let schema = "CREATE TABLE t(id INT PRIMARY KEY, v) WITHOUT ROWID";
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t VALUES('inf', 1), ('NaN', 2), (char(160) || '5', 3), ('0x10', 4), (' 7 ', 5), ('1e3', 6)");
    b.pull(&a);
    assert!(b.store.apply().unwrap().waiting.is_empty(), "{:?}", b.store.apply().unwrap().waiting);
    settle(&[&a, &b]);
}

#[test]
fn adopted_rows_that_were_edited_while_untracked_are_the_same_everywhere() {
    let a = Device::new(1, &format!("{T}; INSERT INTO t VALUES(1, 'adopted', 1)"));
    let b = Device::new(2, T);
    settle(&[&a, &b]);
    a.store.untrack("t").unwrap();
    a.foreign("UPDATE t SET v = 'edited' WHERE id = 1");
    a.store.track(&["t"]).unwrap();
    settle(&[&a, &b]);
}

#[test]
fn a_replica_without_a_column_hides_nothing_where_keys_have_several_forms() {
    let narrow = "CREATE TABLE t(id TEXT PRIMARY KEY COLLATE NOCASE, a)";
    let wide = "CREATE TABLE t(id TEXT PRIMARY KEY COLLATE NOCASE, a, b)";
    let (n, w, x) = (Device::new(1, narrow), Device::new(2, wide), Device::new(3, wide));
    for device in [&w, &x] {
        device.pull(&n);
    }
    x.pull(&w);
    w.run("INSERT INTO t VALUES('k', 'w', 'kept')");
    n.pass(1000);
    n.run("INSERT INTO t VALUES('K', 'n')");
    x.pull(&n);
    x.pull(&w);
    w.pull(&n);
    assert_eq!(w.hash(), x.hash(), "{:?} {:?}", w.rows("SELECT * FROM t"), x.rows("SELECT * FROM t"));
}

#[test]
fn a_look_at_a_row_of_many_columns_is_no_write_of_the_later_ones() {
    let columns: String = (1..100).map(|n| format!(", c{n}")).collect();
    let schema = format!("CREATE TABLE wide(id INTEGER PRIMARY KEY{columns}, UNIQUE(c1))");
    let (a, b) = (Device::new(1, &schema), Device::new(2, &schema));
    a.foreign("INSERT INTO wide(id, c1, c2, c70, c99) VALUES(1, 'x', 2, 70, 99), (2, 'y', 2, 70, 99)");
    settle(&[&a, &b]);
    let before = a.store.status().unwrap().version;
    // The row that it would clash with is looked at, and stands.
    a.foreign("INSERT OR IGNORE INTO wide(id, c1) VALUES(3, 'x')");
    assert_eq!(a.store.status().unwrap().queued, 1);
    a.store.seal().unwrap();
    assert_eq!(a.store.status().unwrap().version, before, "a phantom write was sealed");
    // What one word of the mask names, both sides of its end, and a key that moves takes everything along.
    b.pass(1_000);
    b.run("UPDATE wide SET c3 = 'of b', c71 = 'of b' WHERE id = 1");
    a.pass(2_000);
    a.foreign("UPDATE wide SET c70 = 'of a' WHERE id = 1; UPDATE wide SET c2 = 'of a' WHERE id = 1");
    a.foreign("UPDATE wide SET id = 20 WHERE id = 2; REPLACE INTO wide(id, c1, c99) VALUES(4, 'x', 'new')");
    a.foreign("INSERT INTO wide(id, c1) VALUES(1, 'z'); UPDATE wide SET c99 = 'last' WHERE id = 20");
    settle(&[&a, &b]);
    let all = "SELECT * FROM wide ORDER BY id";
    assert_eq!(a.rows(all), b.rows(all));
    assert_eq!(
        b.rows("SELECT c70, hex(c99) FROM wide WHERE id = 20"),
        ["Integer(70)|Text([54, 67, 54, 49, 55, 51, 55, 52])"]
    );
    assert_eq!(b.rows("SELECT c1 IS 'z', c3, c71 FROM wide WHERE id = 1").len(), 1);
}

#[test]
fn an_entry_of_another_client_has_its_own_time_and_says_no_more_than_it_must() {
    let a = Device::new(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, v)");
    // It is sealed a year later; by the device's clock, which starts in 2026.
    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    a.runtime.now_ms.store(real + 365 * 86_400_000, std::sync::atomic::Ordering::SeqCst);
    a.foreign("INSERT INTO t VALUES(1, 'x', 0.0); UPDATE t SET v = -0.0");
    a.store.seal().unwrap();
    let sealed = a.store.status().unwrap().sites.remove(0).hlc.ms();
    assert!(sealed.abs_diff(real) < 60_000, "sealed as of {sealed}, written at {real}");
    // Every client parses these triggers when it opens the file.
    let triggers =
        a.rows("SELECT CAST(sql AS BLOB) FROM sqlite_schema WHERE type = 'trigger' AND sql LIKE '%julianday%'");
    assert_eq!(triggers, [""; 0], "the time is the column's default");
    let masks = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND sql LIKE '%m0%'";
    assert_eq!(a.rows(masks), ["Integer(4)"], "of an update, of a zero's sign and of two kinds of clashes");
}
