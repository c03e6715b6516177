//! A table that stands still, because it was changed past isle: what is written to it is recorded or refused, and never forgotten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use support::{Device, settle};

const SCHEMA: &str = "CREATE TABLE n(k TEXT PRIMARY KEY, t TEXT)";

fn pair() -> (Device, Device) {
    let (a, b) = (Device::new(1, SCHEMA), Device::new(2, SCHEMA));
    a.run("INSERT INTO n VALUES('1', 'one'), ('2', 'two')");
    settle(&[&a, &b]);
    (a, b)
}

#[test]
fn isle_refuses_to_write_what_it_cannot_record_and_takes_what_others_wrote() {
    for (change, back) in [
        ("ALTER TABLE n RENAME COLUMN k TO kk", "ALTER TABLE n RENAME COLUMN kk TO k"),
        ("ALTER TABLE n RENAME TO m", "ALTER TABLE m RENAME TO n"),
    ] {
        let (a, b) = pair();
        a.foreign(change);
        let (table, key) = if change.contains(" TO m") { ("m", "k") } else { ("n", "kk") };
        for sql in [
            format!("UPDATE {table} SET t = 'still' WHERE {key} = '2'"),
            format!("INSERT INTO {table} VALUES('3', 'three')"),
            format!("DELETE FROM {table}"),
        ] {
            let refused = a.store.write(|tx| tx.execute_batch(&sql)).unwrap_err().to_string();
            assert!(refused.contains("stands still") && refused.contains("isle schema status"), "{sql}: {refused}");
        }
        // Another client's writes wait in the queue until the table is what it was.
        a.foreign(&format!(
            "UPDATE {table} SET t = 'foreign' WHERE {key} = '2'; INSERT INTO {table} VALUES('4', 'four')"
        ));
        b.run("UPDATE n SET t = 'of b' WHERE k = '1'");
        a.pull(&b);
        a.foreign(back);
        a.run("INSERT INTO n VALUES('5', 'five')");
        a.check();
        settle(&[&a, &b]);
        let expected = b
            .rows("SELECT column1, column2 FROM (VALUES('1', 'of b'), ('2', 'foreign'), ('4', 'four'), ('5', 'five'))");
        assert_eq!(b.rows("SELECT k, t FROM n ORDER BY k"), expected, "{change}");
        assert!(a.store.conflicts(true, 10).unwrap().is_empty(), "{change}");
    }
}

#[test]
fn a_table_that_returns_takes_over_what_the_schema_has_become_and_what_came_meanwhile() {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    let first = "CREATE TABLE n(k TEXT PRIMARY KEY, t TEXT);";
    let second = "CREATE TABLE n(k TEXT PRIMARY KEY, t TEXT, c TEXT);";
    a.store.apply_schema(first).unwrap();
    a.run("INSERT INTO n VALUES('1', 'one')");
    b.pull(&a);
    b.foreign("ALTER TABLE n RENAME COLUMN t TO tt");
    a.store.apply_schema(second).unwrap();
    a.run("INSERT INTO n VALUES('2', 'two', 'c'); UPDATE n SET c = 'late' WHERE k = '1'");
    b.pull(&a);
    a.run("UPDATE n SET t = 'last' WHERE k = '2'");
    b.pull(&a);
    b.foreign("ALTER TABLE n RENAME COLUMN tt TO t");
    b.run("INSERT INTO n(k, t) VALUES('3', 'of b')");
    settle(&[&a, &b]);
    let expected = a.rows(
        "SELECT column1, column2, column3 FROM (VALUES('1', 'one', 'late'), ('2', 'last', 'c'), ('3', 'of b', NULL))",
    );
    assert_eq!(b.rows("SELECT k, t, c FROM n ORDER BY k"), expected);
}
