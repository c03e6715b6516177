//! Tables whose definition travels and whose rows stay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_store::StoreError;
use support::{Device, START_MS, settle};

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT);
    CREATE TABLE cache( -- @scope local
      n INTEGER PRIMARY KEY AUTOINCREMENT, query TEXT, source TEXT, until REAL, -- @expires
      UNIQUE(query, source));
    CREATE INDEX cache_until ON cache(until);
    CREATE VIEW known AS SELECT title FROM notes JOIN cache ON cache.query = notes.title;";

fn pair() -> (Device, Device) {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(SCHEMA).unwrap();
    b.pull(&a);
    (a, b)
}

fn queries(device: &Device) -> Vec<String> {
    device.rows("SELECT query FROM cache ORDER BY query")
}

#[test]
fn the_table_is_everywhere_and_its_rows_are_where_they_were_written() {
    let (a, b) = pair();
    let versions = a.store.status().unwrap().version;
    a.run("INSERT INTO cache(query, source) VALUES('x', 'web'), ('y', 'web')");
    a.foreign("INSERT INTO cache(query, source) VALUES('z', 'disk')");
    b.run("INSERT INTO cache(query, source) VALUES('x', 'other')");
    assert_eq!(a.store.status().unwrap().version, versions, "nothing was sealed");
    a.run("INSERT INTO notes VALUES(1, 'x')");
    settle(&[&a, &b]);
    assert_eq!((queries(&a).len(), queries(&b).len()), (3, 1));
    assert_eq!(b.rows("SELECT title FROM known"), a.rows("SELECT title FROM known"));
    assert_eq!(b.rows("SELECT count(*) FROM pragma_index_list('cache')"), a.rows("SELECT 2"));
    let plan = a.store.plan_schema(SCHEMA).unwrap();
    assert!(plan.changes.is_empty() && plan.refused.is_empty(), "{plan:?}");
    for device in [&a, &b] {
        assert_eq!(device.store.status().unwrap().tables, ["notes"]);
        assert!(device.store.untracked().unwrap().is_empty(), "it is not offered for tracking");
        assert!(matches!(device.store.track(&["cache"]), Err(StoreError::Untrackable { .. })));
        let dumped = device.store.dump_schema().unwrap();
        let plan = device.store.plan_schema(&dumped).unwrap();
        assert!(plan.changes.is_empty() && plan.refused.is_empty(), "{plan:?}");
    }
}

#[test]
fn rows_expire_without_a_trace_in_the_log() {
    let (a, b) = pair();
    let now = START_MS / 1000;
    a.run(&format!("INSERT INTO cache(query, source, until) VALUES('soon', 's', {now} + 2), ('late', 's', {now} + 60), ('never', 's', NULL)"));
    a.foreign(
        "INSERT INTO cache(query, source, until) VALUES('text', 's', '2026-06-01 00:00:02'), ('odd', 's', x'00')",
    );
    let versions = a.store.status().unwrap().version;
    a.store.seal().unwrap();
    a.run("DELETE FROM notes WHERE 0");
    assert_eq!(queries(&a).len(), 5);
    a.pass(2_000);
    a.run("DELETE FROM notes WHERE 0");
    assert_eq!(queries(&a), a.rows("SELECT 'late' UNION SELECT 'never' UNION SELECT 'odd'"));
    a.pass(60_000);
    a.store.apply().unwrap();
    assert_eq!(queries(&a), a.rows("SELECT 'never' UNION SELECT 'odd'"), "a merge looks too");
    assert_eq!(a.store.status().unwrap().version, versions);
    settle(&[&a, &b]);
}

#[test]
fn another_definition_keeps_what_both_have() {
    let (a, b) = pair();
    for device in [&a, &b] {
        device.run("INSERT INTO cache(query, source) VALUES('kept', 'web'), ('kept', 'disk')");
    }
    let other = SCHEMA.replace(
        "source TEXT, until REAL, -- @expires\n      UNIQUE(query, source));",
        "hits INT DEFAULT 7, until REAL);",
    );
    let refused = a.store.plan_schema(&other).unwrap().refused;
    assert!(refused[0].contains("@drop cache.source"), "values that would go are named: {refused:?}");
    let other = format!("-- @drop cache.source\n{other}");
    let plan = a.store.apply_schema(&other).unwrap();
    assert!(
        plan.rewrites() && plan.changes.iter().any(|change| change.detail.contains("2 rows are copied")),
        "{plan:?}"
    );
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT n, query, hits FROM cache"), b.rows("SELECT 1, 'kept', 7 UNION ALL SELECT 2, 'kept', 7"));
    b.run("INSERT INTO cache(query) VALUES('next')");
    assert_eq!(b.rows("SELECT max(n) FROM cache"), b.rows("SELECT 3"), "AUTOINCREMENT goes on");
    b.run(&format!("UPDATE cache SET until = {}", START_MS / 1000 - 1));
    b.pass(10_000);
    b.run("DELETE FROM notes WHERE 0");
    assert_eq!(queries(&b).len(), 3, "nothing expires any more");
}

#[test]
fn a_table_of_the_apps_own_is_not_taken_from_it() {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, "CREATE TABLE cache(mine)"));
    b.foreign("INSERT INTO cache VALUES(1)");
    a.store.apply_schema(SCHEMA).unwrap();
    b.pull(&a);
    assert_eq!(b.rows("SELECT mine FROM cache"), b.rows("SELECT 1"));
    let left_out = b.store.left_out().unwrap();
    assert!(left_out[0].starts_with("local table cache of the group's schema is not here"), "{left_out:?}");
    assert_eq!(left_out.len(), 2, "the view that stands on it is not here either: {left_out:?}");
    b.foreign("ALTER TABLE cache RENAME TO cache_of_mine");
    b.store.apply_schema(SCHEMA).unwrap();
    assert_eq!((b.store.left_out().unwrap(), queries(&b)), (vec![], vec![]));
    // Where the definition is written, the table of that name is meant.
    let c = Device::untracked(3, "CREATE TABLE cache(query TEXT, source TEXT)");
    c.foreign("INSERT INTO cache VALUES('q', 's'), ('q', 's')");
    match c.store.apply_schema(SCHEMA) {
        Err(StoreError::DefinitionRefused { reasons }) => assert!(reasons[0].contains("do not fit"), "{reasons:?}"),
        other => panic!("{other:?}"),
    }
    c.foreign("DELETE FROM cache WHERE rowid = 2");
    c.store.apply_schema(SCHEMA).unwrap();
    assert_eq!(c.rows("SELECT n, query FROM cache"), c.rows("SELECT 1, 'q'"));
}

#[test]
fn a_scope_that_makes_no_sense_is_refused() {
    let (a, _) = pair();
    for (sql, part) in [
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT); -- @scope local", "cannot become a local one"),
        ("CREATE TABLE cache(n INTEGER PRIMARY KEY)", "it is local here"),
        ("CREATE TABLE t(a REAL -- @expires\n)", "only rows of a local table expire"),
        ("CREATE TABLE t(a REAL); -- @scope local\n-- @expires t.b", "no such column"),
        ("CREATE TABLE t(a REAL); -- @scope device", "no scope \"device\""),
        ("-- @scope u local", "no table u"),
        ("CREATE TABLE t(a REAL); INSERT INTO t VALUES(1); -- @scope t local", "changes rows of"),
    ] {
        let plan = a.store.plan_schema(sql).unwrap();
        assert!(plan.refused.iter().any(|reason| reason.contains(part)), "{sql}: {:?} lacks {part:?}", plan.refused);
    }
}

#[test]
fn rows_follow_a_parent_that_another_device_deleted() {
    let schema = "CREATE TABLE nodes(id INTEGER PRIMARY KEY, label TEXT UNIQUE);
        CREATE TABLE meta( -- @scope local
          node INT REFERENCES nodes ON DELETE CASCADE, note TEXT, id INTEGER PRIMARY KEY);
        CREATE TABLE views( -- @scope local
          meta INT REFERENCES meta(id) ON DELETE CASCADE, label TEXT REFERENCES nodes(label) ON DELETE SET NULL, kept INT REFERENCES nodes);";
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(schema).unwrap();
    a.run("INSERT INTO nodes VALUES(1, 'x'), (2, 'y')");
    b.pull(&a);
    b.run(
        "INSERT INTO meta VALUES(1, 'one', 1), (2, 'two', 2), (NULL, 'free', 3);
           INSERT INTO views VALUES(1, 'y', 2), (2, 'x', 2), (3, 'y', NULL)",
    );
    a.run("DELETE FROM nodes WHERE id = 1");
    b.pull(&a);
    assert_eq!(b.rows("SELECT note FROM meta ORDER BY id"), b.rows("SELECT 'two' UNION ALL SELECT 'free'"));
    assert_eq!(b.rows("SELECT meta, label FROM views ORDER BY meta"), b.rows("SELECT 2, NULL UNION ALL SELECT 3, 'y'"));
    assert_eq!(b.rows("PRAGMA foreign_key_check"), Vec::<String>::new());
    settle(&[&a, &b]);
}
