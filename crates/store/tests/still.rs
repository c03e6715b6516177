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
