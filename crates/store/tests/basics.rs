//! Each promise of the store by one small story.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_store::{Reason, StoreError};
use support::{Device, settle};

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT, body)";

#[test]
fn writes_of_both_kinds_reach_the_other_replica() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'through isle', 1, x'00ff'), (2, 'second', NULL, 2.5)");
    a.foreign("INSERT INTO notes VALUES(3, 'any client', 3, 'text'); UPDATE notes SET stars = 9 WHERE id = 1");
    b.foreign("INSERT INTO notes VALUES(4, 'from b', 0, NULL)");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT * FROM notes ORDER BY id"), a.rows("SELECT * FROM notes ORDER BY id"));
    assert_eq!(b.rows("SELECT id, stars FROM notes WHERE id < 4 ORDER BY id").len(), 3);
}

#[test]
fn later_writes_win_cell_by_cell_and_losers_are_journaled() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'first', 1, NULL)");
    settle(&[&a, &b]);
    a.run("UPDATE notes SET title = 'from a' WHERE id = 1");
    b.pass(10);
    b.run("UPDATE notes SET title = 'from b' WHERE id = 1");
    a.run("UPDATE notes SET stars = 5 WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT title, stars FROM notes"), ["Text(\"from b\")|Integer(5)"].map(text_bytes));
    for device in [&a, &b] {
        let conflicts = device.store.conflicts(false, 10).unwrap();
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].value, isle_changeset::Value::Text(b"from a".to_vec()));
        assert_eq!((conflicts[0].reason, conflicts[0].column.as_deref()), (Reason::Older, Some("title")));
        assert_eq!((conflicts[0].site, conflicts[0].winner), (Some(a.site()), Some(b.site())));
    }
}

/// rusqlite shows text as bytes in `Debug`.
fn text_bytes(row: &str) -> String {
    let mut out = String::new();
    for part in row.split('|') {
        let part = match part.strip_prefix("Text(\"").and_then(|rest| rest.strip_suffix("\")")) {
            Some(text) => format!("{:?}", rusqlite::types::ValueRef::Text(text.as_bytes())),
            None => part.to_owned(),
        };
        out += &(if out.is_empty() { part } else { format!("|{part}") });
    }
    out
}

#[test]
fn a_delete_beats_a_concurrent_update_and_a_later_insert_begins_a_new_life() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'x', 1, NULL), (2, 'y', 1, NULL)");
    settle(&[&a, &b]);
    a.run("DELETE FROM notes WHERE id = 1");
    b.pass(1000);
    b.run("UPDATE notes SET title = 'late' WHERE id = 1");
    settle(&[&a, &b]);
    assert!(a.rows("SELECT * FROM notes WHERE id = 1").is_empty());
    let lost = a.store.conflicts(false, 10).unwrap();
    assert!(
        lost.iter().any(|c| c.value == isle_changeset::Value::Text(b"late".to_vec()) && c.reason == Reason::Deleted)
    );
    assert!(
        b.store.conflicts(false, 10).unwrap().iter().any(|c| c.value == isle_changeset::Value::Text(b"late".to_vec()))
    );
    b.run("INSERT INTO notes(id, title) VALUES(1, 'again')");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT title, stars FROM notes WHERE id = 1"), ["Text(\"again\")|Null"].map(text_bytes));
}

#[test]
fn changes_that_sql_calls_equal_are_changes() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, any, num NUMERIC, name TEXT COLLATE NOCASE, r REAL)";
    for foreign in [false, true] {
        let (a, b) = (Device::new(1, schema), Device::new(2, schema));
        let run = |sql: &str| if foreign { a.foreign(sql) } else { a.run(sql) };
        run("INSERT INTO t VALUES(1, 1, 1, 'abc', 1), (2, 0.0, 5, 'x', 0), (3, 'a', 1, 'y ', 1)");
        settle(&[&a, &b]);
        run("UPDATE t SET any = 1.0, name = 'ABC' WHERE id = 1; UPDATE t SET any = -0.0 WHERE id = 2;
             UPDATE t SET any = CAST('a' AS BLOB), name = 'y' WHERE id = 3");
        settle(&[&a, &b]);
        assert_eq!(a.rows("SELECT * FROM t"), b.rows("SELECT * FROM t"));
        assert_eq!(b.rows("SELECT any FROM t WHERE id = 1"), ["Real(1.0)"]);
        assert_eq!(b.rows("SELECT any FROM t WHERE id = 2"), ["Real(-0.0)"]);
    }
}

#[test]
fn keys_of_every_kind_travel() {
    let schema = "
        CREATE TABLE \"select\"(\"from\" TEXT PRIMARY KEY, \"a\"\"b\" INT);
        CREATE TABLE composite(a INT, b TEXT, c BLOB, v, PRIMARY KEY(b, a));
        CREATE TABLE no_rowid(id TEXT PRIMARY KEY COLLATE NOCASE, v) WITHOUT ROWID;
        CREATE TABLE only_keys(a INT NOT NULL, b INT NOT NULL, PRIMARY KEY(a, b));
        CREATE TABLE blobs(id BLOB PRIMARY KEY, v);
        CREATE TABLE generated(id INTEGER PRIMARY KEY, a INT, b INT AS (a * 2) STORED, c INT AS (a + 1) VIRTUAL, d TEXT DEFAULT 'dd');
        CREATE TABLE strict_one(id INTEGER PRIMARY KEY, a ANY, t TEXT) STRICT;
        CREATE TABLE reals(id REAL PRIMARY KEY, v);
        CREATE TABLE trimmed(id TEXT COLLATE RTRIM PRIMARY KEY, v)";
    for foreign in [false, true] {
        let (a, b) = (Device::new(1, schema), Device::new(2, schema));
        let run = |sql: &str| if foreign { a.foreign(sql) } else { a.run(sql) };
        run("INSERT INTO \"select\" VALUES('x', 1), ('y', 2); INSERT INTO composite VALUES(1, 'k', x'01', 'v'), (2, 'k', NULL, 2);
             INSERT INTO no_rowid VALUES('Key', 1), ('other', 2); INSERT INTO only_keys VALUES(1, 2), (3, 4);
             INSERT INTO blobs VALUES(x'00', 1), (5, 2), (5.5, 3), ('t', 4); INSERT INTO generated(id, a) VALUES(1, 10), (2, 20);
             INSERT INTO strict_one VALUES(1, 1.0, 'a'); INSERT INTO reals VALUES(1, 'one'), (1.5, 'x'); INSERT INTO trimmed VALUES('a  ', 1);");
        settle(&[&a, &b]);
        run("UPDATE \"select\" SET \"a\"\"b\" = 7 WHERE \"from\" = 'x'; UPDATE composite SET a = 9 WHERE a = 1;
             UPDATE no_rowid SET id = 'KEY' WHERE id = 'key'; UPDATE only_keys SET b = 5 WHERE a = 1; DELETE FROM only_keys WHERE a = 3;
             UPDATE blobs SET id = 5.0 WHERE id = 5; UPDATE generated SET a = 11 WHERE id = 1; UPDATE strict_one SET a = 1;
             UPDATE reals SET v = 'uno' WHERE id = 1; UPDATE trimmed SET id = 'a';");
        settle(&[&a, &b]);
        for (table, order) in [
            ("\"select\"", 1),
            ("composite", 1),
            ("no_rowid", 1),
            ("only_keys", 1),
            ("blobs", 2),
            ("generated", 1),
            ("strict_one", 1),
            ("reals", 1),
            ("trimmed", 1),
        ] {
            let sql = format!("SELECT * FROM {table} ORDER BY {order}");
            assert_eq!(a.rows(&sql), b.rows(&sql), "{table}");
        }
        assert_eq!(b.rows("SELECT id FROM no_rowid WHERE v = 1"), ["Text(\"KEY\")"].map(text_bytes));
        assert_eq!(b.rows("SELECT id FROM blobs WHERE v = 2"), ["Real(5.0)"]);
        assert_eq!(b.rows("SELECT count(*) FROM only_keys"), ["Integer(1)"]);
    }
}

#[test]
fn a_thousand_columns_are_captured_by_both_ways() {
    let columns: String = (0..999).map(|n| format!(", c{n}")).collect();
    let schema = format!("CREATE TABLE wide(id INTEGER PRIMARY KEY{columns})");
    let (a, b) = (Device::new(1, &schema), Device::new(2, &schema));
    a.run("INSERT INTO wide(id, c0, c500, c998) VALUES(1, 'a', 'b', 'c')");
    settle(&[&a, &b]);
    a.foreign("UPDATE wide SET c700 = 7 WHERE id = 1");
    b.run("UPDATE wide SET c998 = 8 WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(
        b.rows("SELECT c0, c500, c700, c998 FROM wide"),
        ["Text(\"a\")|Text(\"b\")|Integer(7)|Integer(8)"].map(text_bytes)
    );
}

#[test]
fn replace_and_upsert_keep_one_life() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'x', 1, NULL)");
    settle(&[&a, &b]);
    a.run("INSERT OR REPLACE INTO notes(id, title) VALUES(1, 'replaced')");
    b.foreign("INSERT INTO notes(id, stars) VALUES(1, 3) ON CONFLICT(id) DO UPDATE SET stars = 4");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT count(*) FROM notes"), ["Integer(1)"]);
}

#[test]
fn a_failed_statement_leaves_no_trace_but_what_it_kept() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v INT CHECK(v < 100))";
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    a.store
        .write(|tx| {
            tx.execute("INSERT INTO t VALUES(1, 1)", [])?;
            assert!(tx.execute("INSERT INTO t VALUES(2, 2), (3, 300)", []).unwrap_err().is_constraint());
            assert!(tx.execute("INSERT OR FAIL INTO t VALUES(4, 4), (5, 500)", []).is_err());
            assert!(tx.execute("UPDATE t SET v = v + 99 WHERE id IN (1, 4)", []).is_err());
            let undone = tx.savepoint(|tx| {
                tx.execute("INSERT INTO t VALUES(6, 6)", [])?;
                Err::<(), _>(StoreError::RolledBack)
            });
            assert!(undone.is_err());
            tx.savepoint(|tx| tx.execute("INSERT INTO t VALUES(7, 7)", []))
        })
        .unwrap();
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT * FROM t"), ["Integer(1)|Integer(1)", "Integer(4)|Integer(4)", "Integer(7)|Integer(7)"]);
}

#[test]
fn a_rolled_back_transaction_seals_nothing() {
    let a = Device::new(1, NOTES);
    let before = a.store.status().unwrap().version;
    let failed = a.store.write(|tx| {
        tx.execute("INSERT INTO notes(id) VALUES(1)", [])?;
        Err::<(), _>(StoreError::RolledBack)
    });
    assert!(failed.is_err());
    a.run("SELECT 1");
    assert_eq!(a.store.status().unwrap().version, before);
    assert!(a.rows("SELECT * FROM notes").is_empty());
    a.check();
}

#[test]
fn what_only_isle_may_do_is_refused_with_a_reason() {
    let a = Device::new(1, NOTES);
    for (sql, word) in [
        ("DELETE FROM isle_log", "belongs to isle"),
        ("DROP TABLE notes", "untrack"),
        ("ALTER TABLE notes ADD COLUMN more", "untrack"),
        ("COMMIT", "return an error"),
        ("SAVEPOINT x", "savepoint"),
        ("SELECT isle_capture(1, 2, 3)", "isle's own"),
        ("DROP TRIGGER isle_i1", "records changes"),
    ] {
        let refused = a.store.write(|tx| tx.execute_batch(sql)).unwrap_err();
        assert!(matches!(refused, StoreError::Refused { .. }), "{sql}: {refused}");
        assert!(refused.to_string().contains(word), "{sql}: {refused}");
    }
    a.check();
}

#[test]
fn triggers_of_the_app_do_not_happen_twice_but_local_ones_happen_everywhere() {
    let schema = "
        CREATE TABLE t(id INTEGER PRIMARY KEY, v INT);
        CREATE TABLE audit(id INTEGER PRIMARY KEY, what TEXT);
        CREATE TABLE cache(id INTEGER PRIMARY KEY, n INT);
        CREATE TRIGGER log_it AFTER UPDATE ON t BEGIN INSERT INTO audit(what) VALUES('t ' || NEW.id); DELETE FROM audit WHERE what = 'old'; END;
        CREATE TRIGGER cache_it AFTER INSERT ON t BEGIN INSERT INTO cache VALUES(NEW.id, NEW.v); END";
    let devices = [Device::untracked(1, schema), Device::untracked(2, schema)];
    for device in &devices {
        device.store.track(&["t", "audit"]).unwrap();
    }
    let [a, b] = &devices;
    a.run("INSERT INTO t VALUES(1, 1)");
    settle(&[a, b]);
    b.run("INSERT INTO audit VALUES(100, 'old')");
    a.run("UPDATE t SET v = 2 WHERE id = 1");
    settle(&[a, b]);
    assert_eq!(b.rows("SELECT what FROM audit WHERE id < 100").len(), 1);
    assert_eq!(
        b.rows("SELECT count(*) FROM audit WHERE what = 'old'"),
        ["Integer(1)"],
        "b's row was not there for a's trigger"
    );
    assert_eq!(b.rows("SELECT * FROM cache"), ["Integer(1)|Integer(1)"]);
}

#[test]
fn local_tables_never_leave_and_untracked_ones_are_plain_again() {
    let schema = "CREATE TABLE shared(id INTEGER PRIMARY KEY, v); CREATE TABLE secret(id INTEGER PRIMARY KEY, token)";
    let a = Device::untracked(1, schema);
    a.store.track(&["shared"]).unwrap();
    a.foreign("INSERT INTO secret VALUES(1, 'very-secret-token'); INSERT INTO shared VALUES(1, 'public')");
    let b = Device::untracked(2, "");
    b.pull(&a);
    assert_eq!(b.rows("SELECT v FROM shared"), ["Text(\"public\")"].map(text_bytes));
    assert!(!std::fs::read(b.path()).unwrap().windows(17).any(|w| w == b"very-secret-token"));
    let path = a.path();
    a.store.detach().unwrap();
    let conn = rusqlite::Connection::open(path).unwrap();
    assert!(support::rows(&conn, "SELECT name FROM sqlite_schema WHERE name LIKE 'isle%'").is_empty());
    conn.execute_batch("INSERT INTO shared VALUES(2, 'plain')").unwrap();
}

#[test]
fn a_table_that_was_untracked_catches_up_when_it_returns() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'x', 1, NULL)");
    settle(&[&a, &b]);
    b.store.untrack("notes").unwrap();
    a.run("UPDATE notes SET title = 'meanwhile' WHERE id = 1; INSERT INTO notes(id) VALUES(2)");
    b.pull(&a);
    assert_eq!(b.rows("SELECT count(*) FROM notes"), ["Integer(1)"]);
    b.store.track(&["notes"]).unwrap();
    settle(&[&a, &b]);
    assert_eq!(
        b.rows("SELECT title FROM notes ORDER BY id"),
        ["Text(\"meanwhile\")|", "Null"].map(|r| text_bytes(r.trim_end_matches('|')))
    );
}

#[test]
fn two_adopters_of_different_rows_merge_and_real_writes_beat_baselines() {
    let a = Device::new(1, &format!("{NOTES}; INSERT INTO notes VALUES(1, 'a', 1, NULL), (2, 'same', 2, NULL)"));
    let b = Device::new(
        2,
        &format!("{NOTES}; INSERT INTO notes VALUES(1, 'b', 1, NULL), (2, 'same', 2, NULL), (3, 'only b', 3, NULL)"),
    );
    a.run("UPDATE notes SET stars = 50 WHERE id = 1");
    b.pass(60_000);
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT count(*) FROM notes"), ["Integer(3)"]);
    assert_eq!(b.rows("SELECT stars FROM notes WHERE id = 1"), ["Integer(50)"]);
    let lost = a.store.conflicts(false, 10).unwrap();
    assert!(
        lost.iter().any(|c| c.column.as_deref() == Some("title")),
        "two differing baselines are journaled: {lost:?}"
    );
}

#[test]
fn tables_that_cannot_be_tracked_say_why() {
    let schema = "
        CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT);
        CREATE TABLE no_key(a);
        CREATE TABLE uniq(id INTEGER PRIMARY KEY, u TEXT); CREATE UNIQUE INDEX folded ON uniq(lower(u));
        CREATE TABLE parent(id INTEGER PRIMARY KEY); CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent);
        PRAGMA foreign_keys = OFF; INSERT INTO child VALUES(1, 7);
        CREATE TABLE nulls(a TEXT PRIMARY KEY, b); INSERT INTO nulls VALUES(NULL, 1);
        CREATE VIEW v AS SELECT 1; CREATE VIRTUAL TABLE f USING fts5(x)";
    let a = Device::untracked(1, schema);
    for (table, word) in [
        ("auto", "AUTOINCREMENT"),
        ("no_key", "PRIMARY KEY"),
        ("uniq", "UNIQUE index folded is on an expression"),
        ("nulls", "NULL"),
        ("v", "ordinary"),
        ("f", "ordinary"),
        ("f_data", "ordinary"),
        ("isle_log", "belongs"),
    ] {
        let error = a.store.track(&[table]).unwrap_err().to_string();
        assert!(error.contains(word), "{table}: {error}");
    }
    let error = a.store.track(&["child", "parent"]).unwrap_err().to_string();
    assert!(error.contains("1 of its rows have no parent for its foreign key (p) -> parent"), "{error}");
    assert!(matches!(a.store.track(&["nothing"]), Err(StoreError::NoSuchTable { .. })));
    assert!(a.store.status().unwrap().tables.is_empty());
}

#[test]
fn a_null_key_is_refused_for_every_client() {
    let a = Device::new(1, "CREATE TABLE t(k TEXT PRIMARY KEY, v)");
    assert!(a.store.write(|tx| tx.execute("INSERT INTO t VALUES(NULL, 1)", [])).unwrap_err().is_constraint());
    let conn = rusqlite::Connection::open(a.path()).unwrap();
    assert!(
        conn.execute("INSERT OR IGNORE INTO t VALUES(NULL, 1)", []).unwrap_err().to_string().contains("isle: NULL")
    );
}

#[test]
fn outer_conflict_clauses_do_not_lose_entries() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.foreign("INSERT OR IGNORE INTO notes(id, title) VALUES(1, 'a'), (1, 'b'), (2, 'c'); INSERT OR REPLACE INTO notes(id, title) VALUES(1, 'z'), (3, 'd'); UPDATE OR REPLACE notes SET id = 2 WHERE id = 3");
    settle(&[&a, &b]);
    assert_eq!(
        b.rows("SELECT id, title FROM notes ORDER BY id"),
        ["Integer(1)|Text(\"z\")", "Integer(2)|Text(\"d\")"].map(text_bytes)
    );
}

#[test]
fn a_trigger_made_through_isle_fires_at_once() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE copies(id INTEGER PRIMARY KEY, v)";
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t VALUES(1, 1)");
    a.run("CREATE TRIGGER copy AFTER INSERT ON t BEGIN INSERT INTO copies VALUES(NEW.id, NEW.v); END; INSERT INTO t VALUES(2, 2)");
    a.run("INSERT INTO t VALUES(3, 3)");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id FROM copies"), ["Integer(2)", "Integer(3)"]);
}

#[test]
fn a_table_that_was_dropped_or_altered_past_isle_stops_no_other() {
    let schema =
        format!("{NOTES}; CREATE TABLE gone(id INTEGER PRIMARY KEY); CREATE TABLE renamed(id INTEGER PRIMARY KEY, c)");
    let (a, b) = (Device::new(1, &schema), Device::new(2, &schema));
    a.foreign("DROP TABLE gone; ALTER TABLE renamed RENAME COLUMN c TO d; ALTER TABLE notes ADD COLUMN more");
    a.run("INSERT INTO notes(id, title) VALUES(1, 'still works')");
    b.run("INSERT INTO gone VALUES(1); INSERT INTO renamed VALUES(1, 'x'); INSERT INTO notes(id) VALUES(2)");
    a.pull(&b);
    b.pull(&a);
    assert_eq!(a.rows("SELECT count(*) FROM notes"), ["Integer(2)"]);
    assert_eq!(b.rows("SELECT count(*) FROM notes"), ["Integer(2)"]);
    let findings = a.store.check().unwrap().findings;
    for word in ["\"gone\" was changed", "\"renamed\" was changed", "column more of notes does not travel"] {
        assert!(findings.iter().any(|finding| finding.message.contains(word)), "{word}: {findings:?}");
    }
    a.store.untrack("gone").unwrap();
    a.store.untrack("renamed").unwrap();
    a.foreign("ALTER TABLE renamed RENAME COLUMN d TO c");
    a.store.track(&["renamed"]).unwrap();
    assert_eq!(a.rows("SELECT count(*) FROM renamed"), ["Integer(1)"]);
    a.store.detach().unwrap();
}

#[test]
fn a_unique_index_that_came_later_hides_a_row_here_and_nowhere_else() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    let index = "CREATE UNIQUE INDEX titles ON notes(title)";
    let folded = "CREATE UNIQUE INDEX folded ON notes(lower(title))";
    assert!(matches!(a.store.write(|tx| tx.execute_batch(folded)), Err(StoreError::Refused { .. })));
    b.run("INSERT INTO notes(id, title) VALUES(1, 'x')");
    b.foreign(index);
    a.pass(1_000);
    a.run("INSERT INTO notes(id, title) VALUES(2, 'x')");
    a.pull(&b);
    b.pull(&a);
    assert_eq!(a.rows("SELECT id FROM notes"), ["Integer(1)", "Integer(2)"]);
    assert_eq!(b.rows("SELECT id FROM notes"), ["Integer(1)"]);
    assert_eq!(a.hash().0, b.hash().0, "they have merged the same");
    b.check();
    b.foreign("DROP INDEX titles");
    b.pull(&a);
    assert_eq!(b.rows("SELECT id FROM notes"), ["Integer(1)", "Integer(2)"], "nothing is against it any more");
    settle(&[&a, &b]);
}

#[test]
fn a_first_transaction_that_is_rolled_back_does_not_take_the_capture_with_it() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    let failed = a.store.write(|tx| {
        tx.execute("INSERT INTO notes(id) VALUES(1)", [])?;
        Err::<(), _>(StoreError::RolledBack)
    });
    assert!(failed.is_err());
    a.run("INSERT INTO notes(id) VALUES(2)");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id FROM notes"), ["Integer(2)"]);
}

#[test]
fn what_goes_through_the_escape_hatch_is_captured_once() {
    let schema = format!(
        "{NOTES}; CREATE TABLE log(id INTEGER PRIMARY KEY); CREATE TRIGGER x AFTER INSERT ON notes BEGIN SELECT 1; END"
    );
    let (a, b) = (Device::new(1, &schema), Device::new(2, &schema));
    a.store
        .write(|tx| {
            Ok::<_, StoreError>(tx.rusqlite().execute("INSERT INTO notes(id, title) VALUES(1, 'x')", []).map(|_| ())?)
        })
        .unwrap();
    assert_eq!(a.store.status().unwrap().queued, 0);
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id FROM notes"), ["Integer(1)"]);
    assert_eq!(a.store.status().unwrap().version, 1);
}

/// More values than one transaction keeps in memory, 1 MiB each.
fn insert_much(tx: &isle_store::Transaction<'_>, first: i64) -> Result<(), StoreError> {
    for id in first..first + 70 {
        tx.execute("INSERT INTO notes(id, body) VALUES(?1, zeroblob(1048576))", [id])?;
    }
    Ok(())
}

#[test]
fn a_transaction_larger_than_memory_allows_is_sealed_through_the_queue() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.store
        .write(|tx| {
            insert_much(tx, 1)?;
            tx.execute("UPDATE notes SET title = 'last' WHERE id = 1", [])?;
            tx.execute("DELETE FROM notes WHERE id = 2", []).map(|_| ())
        })
        .unwrap();
    assert_eq!(a.store.status().unwrap().version, 1, "one transaction is one changeset");
    settle(&[&a, &b]);
    assert_eq!(
        b.rows("SELECT count(*), sum(length(body)), count(title) FROM notes"),
        ["Integer(69)|Integer(72351744)|Integer(1)"]
    );
}

#[test]
fn a_large_savepoint_that_is_undone_keeps_what_came_before_it() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.store
        .write(|tx| {
            tx.execute("INSERT INTO notes(id) VALUES(1000)", [])?;
            let undone = tx.savepoint(|tx| {
                insert_much(tx, 1)?;
                Err::<(), _>(StoreError::RolledBack)
            });
            assert!(undone.is_err());
            tx.execute("INSERT INTO notes(id) VALUES(1001)", []).map(|_| ())
        })
        .unwrap();
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id FROM notes"), ["Integer(1000)", "Integer(1001)"]);
}

#[test]
fn what_was_merged_while_a_table_stood_still_is_there_when_it_returns() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes(id, title) VALUES(1, 'x')");
    settle(&[&a, &b]);
    b.foreign("ALTER TABLE notes RENAME COLUMN title TO other");
    a.run("INSERT INTO notes(id, title) VALUES(2, 'meanwhile'); UPDATE notes SET title = 'y' WHERE id = 1");
    b.pull(&a);
    b.foreign("ALTER TABLE notes RENAME COLUMN other TO title");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT count(*) FROM notes WHERE title IN ('meanwhile', 'y')"), ["Integer(2)"]);
}

#[test]
fn a_key_that_is_there_is_an_error_of_its_own_kind_and_of_two_devices_one_row() {
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY, name TEXT UNIQUE, v INT)";
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t VALUES('k', 'x', 1)");
    let before = a.store.status().unwrap().version;
    for (sql, code) in [
        ("INSERT INTO t VALUES('k', 'y', 2)", rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY),
        ("INSERT INTO t VALUES('l', 'x', 2)", rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE),
    ] {
        let error = a.store.write(|tx| tx.execute(sql, [])).unwrap_err();
        assert!(error.is_constraint() && !error.is_local(), "{error:?}");
        let StoreError::Sqlite { source, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.sqlite_extended_error_code(), Some(code));
        // Whoever takes it for an answer goes on in the same transaction.
        let done = a.store.write(|tx| {
            assert!(tx.execute(sql, []).unwrap_err().is_constraint());
            tx.execute("UPDATE t SET v = v + 1", [])
        });
        assert_eq!(done.unwrap(), 1);
    }
    assert_eq!(a.store.status().unwrap().version, before + 2);
    // Where nobody could know, it is no error: one key is one row, and what loses is in the journal.
    b.pass(1_000);
    b.run("INSERT INTO t VALUES('k', 'z', 7), ('m', 'x', 8)");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(device.rows("SELECT name = 'z', v FROM t WHERE id = 'k'"), ["Integer(1)|Integer(7)"]);
        let lost = device.store.conflicts(false, 10).unwrap();
        let lost = |name: &str| lost.iter().filter(|lost| lost.column.as_deref() == Some(name)).count();
        assert!(lost("name") == 1 && lost("v") >= 1, "of what lost, each device has what it saw lose");
        assert_eq!(device.rows("SELECT count(*) FROM t WHERE id = 'm'"), ["Integer(1)"], "nobody has that name now");
    }
}
