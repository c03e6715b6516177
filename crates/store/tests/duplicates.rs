//! Rows that clash in a UNIQUE index and show under a number. `ISLE_CASES` sets the number of random fleets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use support::{Device, settle};

const SETS: &str =
    "CREATE TABLE sets(id TEXT PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE UNIQUE, -- @duplicates rename
    note TEXT);";

fn devices(count: u64, schema: &str) -> Vec<Device> {
    let devices: Vec<Device> = (1..=count).map(|n| Device::untracked(n, "")).collect();
    devices[0].store.apply_schema(schema).unwrap();
    for device in &devices[1..] {
        device.pull(&devices[0]);
    }
    devices
}

fn texts(device: &Device, sql: &str) -> Vec<String> {
    let conn = rusqlite::Connection::open(device.path()).unwrap();
    let mut statement = conn.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

const SHOWN: &str = "SELECT id || ' ' || name FROM sets ORDER BY id";

/// duplicate names become `name (2)`, on every device the same ones.
#[test]
fn the_later_of_two_names_gets_a_number() {
    let d = devices(3, SETS);
    d[0].run("INSERT INTO sets VALUES('a', 'Music', 'first')");
    d[1].pass(5);
    d[1].foreign("INSERT INTO sets VALUES('b', 'music', 'second')");
    d[2].pass(9);
    d[2].run("INSERT INTO sets VALUES('c', 'Music', 'third'), ('d', 'Music (3)', 'its own')");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(texts(&d[0], SHOWN), ["a Music", "b music (2)", "c Music (4)", "d Music (3)"]);
    let repaired = d[0].store.repaired(9).unwrap();
    assert_eq!(repaired.len(), 2);
    assert!(repaired.iter().all(|row| !row.hidden));
    assert_eq!(d[0].store.count_conflicts(true).unwrap(), 0, "nothing was lost");
    // Whatever else is written to such a row, its number is not.
    d[1].run("UPDATE sets SET note = 'changed' WHERE id = 'b'");
    d[2].foreign("UPDATE sets SET note = note || '!' WHERE id = 'c'");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(texts(&d[0], SHOWN), ["a Music", "b music (2)", "c Music (4)", "d Music (3)"]);
    // The row in the way goes: numbers close up. The first goes: the next has the name.
    d[0].run("DELETE FROM sets WHERE id = 'd'");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(texts(&d[1], SHOWN), ["a Music", "b music (2)", "c Music (3)"]);
    d[2].foreign("UPDATE sets SET name = 'Other' WHERE id = 'a'");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(texts(&d[0], SHOWN), ["a Other", "b music", "c Music (2)"]);
    // Renamed by hand, it has a name of its own.
    d[0].run("UPDATE sets SET name = 'Mine' WHERE id = 'c'");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(texts(&d[2], SHOWN), ["a Other", "b music", "c Mine"]);
    assert!(d[2].store.repaired(9).unwrap().is_empty());
}

#[test]
fn a_name_that_comes_takes_its_place_from_a_number() {
    let d = devices(2, SETS);
    d[0].run("INSERT INTO sets VALUES('a', 'x', ''), ('z', 'free', '')");
    d[1].pass(5);
    d[1].run("INSERT INTO sets VALUES('b', 'x', '')");
    settle(&[&d[0], &d[1]]);
    assert_eq!(texts(&d[0], SHOWN), ["a x", "b x (2)", "z free"]);
    // On this device the number is taken; on one that has not heard of it, it is not.
    assert!(d[0].store.write(|tx| tx.execute("UPDATE sets SET name = 'x (2)' WHERE id = 'z'", [])).is_err());
    let late = Device::untracked(9, "");
    late.pull(&d[0]);
    late.run("DELETE FROM sets WHERE id = 'b'; INSERT INTO sets VALUES('b', 'x (2)', 'new life'); INSERT INTO sets VALUES('c', 'Y', '')");
    d[1].pass(50);
    d[1].run("INSERT INTO sets VALUES('e', 'y', '')");
    settle(&[&d[0], &d[1], &late]);
    assert_eq!(texts(&d[1], SHOWN), ["a x", "b x (2)", "c Y", "e y (2)", "z free"]);
}

/// A device that has not heard of the number gives the name to another row.
#[test]
fn a_number_gives_way_to_a_row_that_has_it_for_its_own_name() {
    let d = devices(3, SETS);
    d[0].run("INSERT INTO sets VALUES('a', 'x', '')");
    d[2].pull(&d[0]);
    d[1].pass(5);
    d[1].run("INSERT INTO sets VALUES('b', 'x', '')");
    settle(&[&d[0], &d[1]]);
    assert_eq!(texts(&d[0], SHOWN), ["a x", "b x (2)"]);
    d[2].run("INSERT INTO sets VALUES('c', 'x (2)', '')");
    settle(&[&d[0], &d[1], &d[2]]);
    assert_eq!(texts(&d[0], SHOWN), ["a x", "b x (3)", "c x (2)"]);
}

#[test]
fn a_choice_can_be_made_of_a_table_in_use_and_taken_back() {
    let plain = SETS.replace("-- @duplicates rename", "");
    let d = devices(2, &plain);
    d[0].run("INSERT INTO sets VALUES('a', 'x', '')");
    d[1].pass(5);
    d[1].run("INSERT INTO sets VALUES('b', 'x', '')");
    settle(&[&d[0], &d[1]]);
    assert_eq!(texts(&d[0], SHOWN), ["a x"]);
    d[0].store.apply_schema(SETS).unwrap();
    settle(&[&d[0], &d[1]]);
    assert_eq!(texts(&d[1], SHOWN), ["a x", "b x (2)"]);
    assert!(d[1].store.plan_schema(SETS).unwrap().changes.is_empty());
    let dump = d[1].store.dump_schema().unwrap();
    assert!(d[0].store.plan_schema(&dump).unwrap().changes.is_empty(), "{dump}");
    let document = d[1].store.dump_schema_document().unwrap().to_sql();
    assert!(d[0].store.plan_schema(&document).unwrap().changes.is_empty(), "{document}");
    d[1].store.apply_schema(&plain).unwrap();
    settle(&[&d[0], &d[1]]);
    assert_eq!(texts(&d[0], SHOWN), ["a x"]);
    // The comment is still in the text of the table; it says nothing any more.
    let e = devices(2, SETS);
    e[0].store.apply_schema(&plain).unwrap();
    e[1].pull(&e[0]);
    for device in &e {
        assert!(device.store.schema_state().unwrap().drift.changes.is_empty());
        assert!(!device.store.dump_schema().unwrap().contains("@duplicates"));
    }
}

#[test]
fn what_has_no_duplicates_is_refused_by_name() {
    let device = Device::untracked(1, "");
    for (columns, reason) in [
        ("id INTEGER PRIMARY KEY, n TEXT -- @duplicates rename", "no UNIQUE index"),
        ("id INTEGER PRIMARY KEY, n INTEGER UNIQUE -- @duplicates rename", "no TEXT"),
        (
            "id TEXT PRIMARY KEY, n TEXT, UNIQUE(id, n)); -- @duplicates t.id rename\nCREATE TABLE u(id INTEGER PRIMARY KEY",
            "outside the key",
        ),
        ("id INTEGER PRIMARY KEY, n TEXT UNIQUE -- @duplicates merge", "nothing but `rename`"),
        (
            "id INTEGER PRIMARY KEY, n TEXT UNIQUE, m TEXT REFERENCES t(n)); -- @duplicates t.n rename\nCREATE TABLE u(id INTEGER PRIMARY KEY",
            "would travel",
        ),
    ] {
        let plan = device.store.plan_schema(&format!("CREATE TABLE t({columns}\n)")).unwrap();
        assert!(plan.refused.iter().any(|refused| refused.contains(reason)), "{columns}: {:?}", plan.refused);
    }
}

#[test]
fn a_thousand_clashes_are_numbered() {
    let d = devices(2, SETS);
    let many = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)";
    d[0].run(&format!("{many} INSERT INTO sets SELECT 'a' || i, 'name ' || i, '' FROM n"));
    d[1].pass(5);
    d[1].run(&format!("{many} INSERT INTO sets SELECT 'b' || i, 'name ' || i, '' FROM n"));
    settle(&[&d[0], &d[1]]);
    assert_eq!(texts(&d[1], "SELECT name FROM sets WHERE id = 'b77'"), ["name 77 (2)"]);
}

const WORLD: &str = "
    CREATE TABLE p(id INTEGER PRIMARY KEY, title TEXT UNIQUE); -- @duplicates p.title rename
    CREATE TABLE c(id TEXT PRIMARY KEY, owner INT, name TEXT COLLATE NOCASE, -- @duplicates rename
      slot INT UNIQUE, p INT REFERENCES p(id) ON DELETE CASCADE, q INT REFERENCES p(id) ON DELETE SET NULL, UNIQUE(owner, name));";

#[derive(Debug, Clone)]
enum Step {
    Write { device: usize, foreign: bool, sql: String },
    Pull { device: usize, from: usize },
    Pass { device: usize, ms: u64 },
}

fn write() -> impl Strategy<Value = String> {
    let id = 1..6i64;
    let name = prop::sample::select(vec!["'x'", "'X'", "'x (2)'", "'x (3)'", "'y'", "'x (2) (2)'", "NULL", "7"]);
    let maybe = prop::option::of(1..3i64).prop_map(|v| v.map_or("NULL".to_owned(), |v| v.to_string()));
    let verb = prop::sample::select(vec!["INSERT OR IGNORE", "INSERT OR REPLACE"]);
    let update = prop::sample::select(vec!["UPDATE OR IGNORE", "UPDATE OR REPLACE"]);
    let owner = 1..3i64;
    prop_oneof![
        1 => (verb.clone(), 1..4i64, name.clone()).prop_map(|(verb, id, name)| format!("{verb} INTO p VALUES({id}, {name})")),
        4 => (verb, id.clone(), owner.clone(), name.clone(), maybe.clone(), maybe.clone()).prop_map(
            |(verb, id, owner, name, slot, p)| format!("{verb} INTO c VALUES('c{id}', {owner}, {name}, {slot}, {p}, {slot})")),
        3 => (update.clone(), id.clone(), name.clone()).prop_map(|(update, id, name)| format!("{update} c SET name = {name} WHERE id = 'c{id}'")),
        2 => (update.clone(), id.clone(), owner).prop_map(|(update, id, owner)| format!("{update} c SET owner = {owner} WHERE id = 'c{id}'")),
        1 => (update.clone(), id.clone(), maybe).prop_map(|(update, id, slot)| format!("{update} c SET slot = {slot} WHERE id = 'c{id}'")),
        1 => (update, 1..4i64, name).prop_map(|(update, id, name)| format!("{update} p SET title = {name} WHERE id = {id}")),
        2 => id.prop_map(|id| format!("DELETE FROM c WHERE id = 'c{id}'")),
        1 => (1..4i64).prop_map(|id| format!("DELETE FROM p WHERE id = {id}")),
    ]
}

fn step(devices: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..devices, prop::bool::weighted(0.4), prop::collection::vec(write(), 1..4)).prop_map(
            |(device, foreign, sql)| Step::Write { device, foreign, sql: sql.join("; ") }
        ),
        3 => (0..devices, 0..devices).prop_map(|(device, from)| Step::Pull { device, from }),
        1 => (0..devices, 1..5_000u64).prop_map(|(device, ms)| Step::Pass { device, ms }),
    ]
}

/// Of the rows with one merged name, the first shows it and the others have the smallest numbers that no merged row has for its own.
fn numbered_by_the_rule(device: &Device) {
    let conn = rusqlite::Connection::open(device.path()).unwrap();
    let no: i64 = conn.query_row("SELECT no FROM isle_table WHERE name = 'c'", [], |row| row.get(0)).unwrap();
    let merged = format!(
        "SELECT id, owner, name FROM c WHERE NOT EXISTS (SELECT 1 FROM isle_s{no} AS s WHERE s.id = c.id)
         UNION ALL SELECT id, owner, name FROM isle_s{no} WHERE 1"
    );
    let read = |sql: &str| -> BTreeMap<String, (i64, String)> {
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                (row.get::<_, Option<i64>>(1)?.unwrap_or(0), row.get::<_, Option<String>>(2)?),
            ))
        });
        rows.unwrap().map(Result::unwrap).filter_map(|(id, (owner, name))| Some((id, (owner, name?)))).collect()
    };
    let (merged, shown) = (read(&merged), read("SELECT id, owner, name FROM c"));
    let folded = |(owner, name): &(i64, String)| (*owner, name.to_ascii_lowercase());
    let names: BTreeSet<_> = merged.values().map(folded).collect();
    for name in &names {
        let members: Vec<&String> = merged.iter().filter(|(_, row)| folded(row) == *name).map(|(id, _)| id).collect();
        let free = (2..).map(|n| (name.0, format!("{} ({n})", name.1))).filter(|wanted| !names.contains(wanted));
        let mut allowed: BTreeSet<_> = free.take(members.len() - 1).collect();
        allowed.insert(name.clone());
        for id in members {
            if let Some(row) = shown.get(id) {
                assert!(allowed.remove(&folded(row)), "{id} shows {row:?} of {name:?}");
            }
        }
    }
    // Nothing is hidden for its name.
    let hidden = format!(
        "SELECT count(*) FROM isle_s{no} AS h WHERE isle_hidden AND typeof(name) = 'text'
           AND NOT EXISTS (SELECT 1 FROM c WHERE c.slot = h.slot) AND NOT EXISTS (SELECT 1 FROM isle_s{no} AS o WHERE o.slot = h.slot AND o.id <> h.id)
           AND (h.p IS NULL OR EXISTS (SELECT 1 FROM p WHERE id = h.p))"
    );
    assert_eq!(conn.query_row(&hidden, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

proptest! {
    #![proptest_config(support::cases(100))]

    #[test]
    fn every_fleet_gives_the_same_numbers(steps in prop::collection::vec(step(3), 1..30)) {
        let fleet = devices(3, WORLD);
        for step in steps {
            match step {
                Step::Write { device, foreign, sql } => fleet[device].attempt(foreign, &sql),
                Step::Pull { device, from } if device != from => fleet[device].pull(&fleet[from]),
                Step::Pull { .. } => {}
                Step::Pass { device, ms } => fleet[device].pass(ms),
            }
        }
        let late = Device::untracked(9, "");
        let mut all: Vec<&Device> = fleet.iter().collect();
        settle(&all);
        late.pull(all[0]);
        all.push(&late);
        settle(&all);
        all.iter().for_each(|device| numbered_by_the_rule(device));
    }
}
