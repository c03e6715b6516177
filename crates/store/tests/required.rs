//! Columns that become NOT NULL while other devices write NULL. `ISLE_CASES` sets the number of random fleets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use proptest::prelude::*;
use support::{Device, settle};

const BEFORE: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, n INT, owner INT REFERENCES o(id) ON DELETE SET NULL);
    CREATE TABLE o(id INTEGER PRIMARY KEY);";

fn after() -> String {
    BEFORE.replace("name TEXT", "name TEXT NOT NULL DEFAULT 'none'").replace("n INT,", "n INT NOT NULL DEFAULT 7,")
}

fn devices(count: u64) -> Vec<Device> {
    let devices: Vec<Device> = (1..=count).map(|n| Device::untracked(n, "")).collect();
    devices[0].store.apply_schema(BEFORE).unwrap();
    for device in &devices[1..] {
        device.pull(&devices[0]);
    }
    devices
}

fn shown(device: &Device) -> Vec<String> {
    let conn = rusqlite::Connection::open(device.path()).unwrap();
    let sql = "SELECT id || ' ' || ifnull(name, 'NULL') || ' ' || ifnull(n, 'NULL') FROM t ORDER BY id";
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn rows_of_the_author_are_filled_and_those_of_others_show_the_default() {
    let d = devices(3);
    d[0].run("INSERT INTO t(id, name) VALUES(1, NULL), (2, 'two')");
    settle(&[&d[0], &d[1], &d[2]]);
    d[1].run("INSERT INTO t(id) VALUES(3); UPDATE t SET name = NULL WHERE id = 2");
    d[0].store.apply_schema(&after()).unwrap();
    assert_eq!(shown(&d[0]), ["1 none 7", "2 two 7"]);
    assert!(
        d[0].store.write(|tx| tx.execute("UPDATE t SET name = NULL", [])).is_err(),
        "SQLite holds local writes to it"
    );
    d[2].foreign("INSERT INTO t(id, n) VALUES(4, 4)");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(shown(&d[1]), ["1 none 7", "2 none 7", "3 none 7", "4 none 4"]);
    // What is written to such a row by hand is a value of its own.
    d[2].foreign("UPDATE t SET name = 'three' WHERE id = 3");
    d[0].run("UPDATE t SET n = 8 WHERE id = 3");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(shown(&d[1]), ["1 none 7", "2 none 7", "3 three 8", "4 none 4"]);
    assert!(d[1].store.plan_schema(&after()).unwrap().changes.is_empty());
    // Back: the NULLs that were merged show again, those that were filled do not.
    d[1].store.apply_schema(BEFORE).unwrap();
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(shown(&d[2]), ["1 none 7", "2 NULL 7", "3 three 8", "4 NULL 4"]);
}

#[test]
fn a_column_without_a_constant_default_cannot_become_not_null() {
    let d = devices(1);
    for definition in ["name TEXT NOT NULL", "name TEXT NOT NULL DEFAULT (random())", "name TEXT NOT NULL DEFAULT NULL"]
    {
        let plan = d[0].store.plan_schema(&BEFORE.replace("name TEXT", definition)).unwrap();
        assert!(plan.refused.iter().any(|reason| reason.contains("constant default")), "{:?}", plan.refused);
    }
    d[0].store.apply_schema(&BEFORE.replace("name TEXT", "name TEXT UNIQUE")).unwrap();
    let plan = d[0].store.plan_schema(&BEFORE.replace("name TEXT", "name TEXT NOT NULL DEFAULT 'x' UNIQUE")).unwrap();
    assert!(plan.refused.iter().any(|reason| reason.contains("UNIQUE")), "{:?}", plan.refused);
}

/// A NULL of another device's may be the value of a kind.
#[test]
fn a_text_of_another_device_that_became_null_shows_the_default() {
    for kind in ["text", "json", "set", "max"] {
        let before = format!("CREATE TABLE n(id INTEGER PRIMARY KEY, a TEXT -- @merge {kind}\n)");
        let (a, b, c) = (Device::untracked(1, ""), Device::untracked(2, ""), Device::untracked(3, ""));
        a.store.apply_schema(&before).unwrap();
        a.run("INSERT INTO n VALUES(1, '[1]'), (2, NULL)");
        settle(&[&a, &b, &c]);
        b.run("UPDATE n SET a = NULL WHERE id = 1");
        a.store.apply_schema(&before.replace("TEXT", "TEXT NOT NULL DEFAULT '[]'")).unwrap();
        settle(&[&a, &b]);
        let late = Device::untracked(9, "");
        late.pull(&b);
        settle(&[&a, &b, &c, &late]);
        assert_eq!(late.rows("SELECT count(*) FROM n WHERE a IS NULL"), ["Integer(0)"], "{kind}");
    }
}

#[test]
fn a_default_that_rows_of_others_could_not_have_is_refused() {
    let device = Device::untracked(1, "");
    device.store.apply_schema("CREATE TABLE n(k TEXT PRIMARY KEY, a INT, r TEXT REFERENCES n(k)) STRICT").unwrap();
    for (change, reason) in
        [("a INT NOT NULL DEFAULT 'abc'", "does not take"), ("a INT NOT NULL DEFAULT 1.5", "does not take")]
    {
        let definition = format!("CREATE TABLE n(k TEXT PRIMARY KEY, {change}, r TEXT REFERENCES n(k)) STRICT");
        let plan = device.store.plan_schema(&definition).unwrap();
        assert!(plan.refused.iter().any(|refused| refused.contains(reason)), "{change}: {:?}", plan.refused);
    }
    let definition = "CREATE TABLE n(k TEXT PRIMARY KEY, a INT, r TEXT NOT NULL DEFAULT 'x' REFERENCES n(k)) STRICT";
    let plan = device.store.plan_schema(definition).unwrap();
    assert!(plan.refused.iter().any(|refused| refused.contains("foreign key")), "{:?}", plan.refused);
}

#[derive(Debug, Clone)]
enum Step {
    Write { device: usize, foreign: bool, sql: String },
    Pull { device: usize, from: usize },
    Apply { device: usize, after: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0..3usize;
    let value = || prop::sample::select(vec!["NULL", "'a'", "1"]);
    let write = prop_oneof![
        3 => (1..4i64, value(), value()).prop_map(|(id, a, b)| format!("INSERT OR IGNORE INTO t VALUES({id}, {a}, {b}, NULL)")),
        1 => (1..4i64).prop_map(|id| format!("INSERT OR IGNORE INTO t(id, owner) VALUES({id}, 1)")),
        3 => (1..4i64, value()).prop_map(|(id, a)| format!("UPDATE OR IGNORE t SET name = {a} WHERE id = {id}")),
        2 => (1..4i64, value()).prop_map(|(id, a)| format!("UPDATE OR IGNORE t SET n = {a}, owner = 1 WHERE id = {id}")),
        1 => (1..4i64).prop_map(|id| format!("DELETE FROM t WHERE id = {id}")),
        1 => Just("INSERT OR IGNORE INTO o VALUES(1)".to_owned()),
        1 => Just("DELETE FROM o".to_owned()),
    ];
    prop_oneof![
        6 => (device(), any::<bool>(), write).prop_map(|(device, foreign, sql)| Step::Write { device, foreign, sql }),
        3 => (device(), device()).prop_map(|(device, from)| Step::Pull { device, from }),
        1 => (device(), prop::bool::weighted(0.7)).prop_map(|(device, after)| Step::Apply { device, after }),
    ]
}

proptest! {
    #![proptest_config(support::cases(80))]

    #[test]
    fn every_fleet_shows_the_same_values(steps in prop::collection::vec(step(), 1..30)) {
        let fleet = devices(3);
        for step in steps {
            match step {
                Step::Write { device, foreign, sql } => fleet[device].attempt(foreign, &sql),
                Step::Pull { device, from } if device != from => fleet[device].pull(&fleet[from]),
                Step::Pull { .. } => {}
                Step::Apply { device, after: to } => {
                    fleet[device].store.apply_schema(&if to { after() } else { BEFORE.to_owned() }).unwrap();
                }
            }
        }
        let late = Device::untracked(9, "");
        let mut all: Vec<&Device> = fleet.iter().collect();
        settle(&all);
        late.pull(all[0]);
        all.push(&late);
        settle(&all);
        let required = all[0].rows("SELECT \"notnull\" FROM pragma_table_info('t') WHERE name = 'n'") == ["Integer(1)"];
        for device in all {
            prop_assert!(!required || shown(device).iter().all(|row| !row.contains("NULL")), "{:?}", shown(device));
        }
    }
}
