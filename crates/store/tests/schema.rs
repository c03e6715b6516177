//! Tables that change while replicas are apart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_changeset::Value;
use isle_clock::VersionVector;
use isle_store::{SchemaPlan, StoreError};
use proptest::prelude::*;
use support::random::Rng;
use support::{Device, settle};

const FIRST: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT);";
const SECOND: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT NOT NULL DEFAULT 3);
                      CREATE INDEX by_stars ON notes(stars);";

fn kinds(plan: &SchemaPlan) -> Vec<&'static str> {
    plan.changes.iter().map(|change| change.kind).collect()
}

/// A device made by its definition, and one that got it from there.
fn pair() -> (Device, Device) {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    assert_eq!(kinds(&a.store.apply_schema(FIRST).unwrap()), ["create table"]);
    a.run("INSERT INTO notes VALUES(1, 'one'), (2, 'two')");
    b.pull(&a);
    (a, b)
}

fn notes(device: &Device) -> Vec<String> {
    device.rows("SELECT * FROM notes ORDER BY id")
}

#[test]
fn a_plan_is_empty_once_it_was_applied_and_changes_nothing_before() {
    let (a, _) = pair();
    let plan = a.store.plan_schema(SECOND).unwrap();
    assert_eq!(kinds(&plan), ["add column", "create index"]);
    assert_eq!(a.rows("SELECT name FROM pragma_table_info('notes')").len(), 2);
    assert_eq!(kinds(&a.store.apply_schema(SECOND).unwrap()), ["add column", "create index"]);
    let again = a.store.plan_schema(SECOND).unwrap();
    assert!(again.changes.is_empty() && again.refused.is_empty(), "{again:?}");
    let version = a.store.schema_heads().unwrap();
    a.store.apply_schema(SECOND).unwrap();
    assert_eq!(a.store.schema_heads().unwrap(), version, "an empty plan makes no operation");
    a.check();
}

#[test]
fn a_column_travels_with_its_values_its_default_and_its_index() {
    let (a, b) = pair();
    a.store.apply_schema(SECOND).unwrap();
    a.run("UPDATE notes SET stars = 5 WHERE id = 1");
    b.run("INSERT INTO notes VALUES(3, 'three')");
    settle(&[&a, &b]);
    assert_eq!(notes(&b), a.rows("SELECT 1, 'one', 5 UNION SELECT 2, 'two', 3 UNION SELECT 3, 'three', 3"));
    assert_eq!(b.rows("SELECT name FROM pragma_index_list('notes')"), a.rows("SELECT 'by_stars'"));
    // Capture knows the column, by isle and by others.
    b.run("UPDATE notes SET stars = 1 WHERE id = 2");
    b.foreign("UPDATE notes SET stars = 2 WHERE id = 3; INSERT INTO notes VALUES(4, 'four', 4)");
    settle(&[&a, &b]);
    assert_eq!(
        a.rows("SELECT stars FROM notes ORDER BY id"),
        a.rows("SELECT 5 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 4")
    );
}

#[test]
fn a_write_to_a_new_column_is_not_hidden_behind_a_later_write_of_the_row() {
    let (a, b) = pair();
    a.store.apply_schema(SECOND).unwrap();
    a.run("UPDATE notes SET stars = 5 WHERE id = 1");
    // Later, on the old schema: the row as a whole.
    b.pass(1000);
    b.run("UPDATE notes SET title = 'later' WHERE id = 1");
    b.run("INSERT OR REPLACE INTO notes VALUES(2, 'replaced')");
    settle(&[&a, &b]);
    assert_eq!(notes(&b)[0], a.rows("SELECT 1, 'later', 5")[0]);
    assert_eq!(notes(&a), notes(&b));
}

#[test]
fn the_same_definition_on_two_devices_apart_is_one_change() {
    let (a, b) = pair();
    a.store.apply_schema(SECOND).unwrap();
    b.store.apply_schema(SECOND).unwrap();
    assert_eq!(a.store.schema_heads().unwrap(), b.store.schema_heads().unwrap());
    settle(&[&a, &b]);
}

#[test]
fn two_devices_add_different_columns_and_both_have_both() {
    let (a, b) = pair();
    let third = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, colour TEXT DEFAULT 'red' COLLATE NOCASE);";
    a.store.apply_schema(SECOND).unwrap();
    b.store.apply_schema(third).unwrap();
    a.run("UPDATE notes SET stars = 9 WHERE id = 1");
    b.run("UPDATE notes SET colour = 'blue' WHERE id = 1");
    settle(&[&a, &b]);
    let columns = "SELECT id, title, stars, colour FROM notes ORDER BY id";
    assert_eq!(a.rows(columns), b.rows(columns));
    assert_eq!(a.rows(columns)[0], a.rows("SELECT 1, 'one', 9, 'blue'")[0]);
    assert_eq!(
        a.rows("SELECT count(*) FROM notes WHERE colour = 'RED'"),
        a.rows("SELECT 1"),
        "the collation came along"
    );
}

#[test]
fn a_rename_moves_no_clock_and_meets_a_write_under_the_old_name() {
    let (a, b) = pair();
    let renamed = "-- @rename notes -> memos\n-- @rename memos.title -> subject\n
                   CREATE TABLE memos(id INTEGER PRIMARY KEY, subject TEXT);";
    b.pass(50);
    b.run("UPDATE notes SET title = 'newer' WHERE id = 1");
    assert_eq!(kinds(&a.store.apply_schema(renamed).unwrap()), ["rename table", "rename column"]);
    a.run("UPDATE memos SET subject = 'mine' WHERE id = 2");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(
            device.rows("SELECT subject FROM memos ORDER BY id"),
            device.rows("SELECT 'newer' UNION ALL SELECT 'mine'")
        );
        let again = device.store.plan_schema(renamed).unwrap();
        assert!(again.changes.is_empty() && again.refused.is_empty(), "{again:?}");
    }
    b.foreign("UPDATE memos SET subject = 'under the new name' WHERE id = 1");
    settle(&[&a, &b]);
}

#[test]
fn two_renames_apart_end_in_one_name() {
    let (a, b) = pair();
    let to = |name: &str| {
        format!("-- @rename notes.title -> {name}\nCREATE TABLE notes(id INTEGER PRIMARY KEY, {name} TEXT);")
    };
    a.store.apply_schema(&to("subject")).unwrap();
    b.store.apply_schema(&to("heading")).unwrap();
    settle(&[&a, &b]);
    let names = |device: &Device| device.rows("SELECT name FROM pragma_table_info('notes')");
    assert_eq!(names(&a), names(&b));
}

#[test]
fn a_column_that_the_app_added_itself_is_taken_over_with_its_values() {
    let (a, b) = pair();
    a.foreign(
        "ALTER TABLE notes ADD COLUMN stars INT NOT NULL DEFAULT 3; CREATE INDEX by_stars ON notes(stars);
               UPDATE notes SET stars = 4 WHERE id = 2",
    );
    b.foreign("ALTER TABLE notes ADD COLUMN stars INT NOT NULL DEFAULT 3");
    assert_eq!(kinds(&a.store.apply_schema(SECOND).unwrap()), ["add column"]);
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT stars FROM notes ORDER BY id"), a.rows("SELECT 3 UNION ALL SELECT 4"));
    assert_eq!(notes(&a), notes(&b));
}

#[test]
fn what_cannot_be_done_is_refused_by_name_and_nothing_is_changed() {
    let (a, _) = pair();
    let refused = [
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title INT);", "converts its values otherwise"),
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY);", "@rename notes.title"),
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, x INT NOT NULL);", "constant default"),
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, x INT DEFAULT (random()));", "constant default"),
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT CHECK(title <> 'one'));", "CHECK constraint failed"),
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT NOT NULL);", "becomes NOT NULL"),
        ("CREATE TABLE notes(id TEXT PRIMARY KEY, title TEXT);", "column \"id\""),
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT) STRICT;", "STRICT"),
        ("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT REFERENCES notes);", "compares text with numbers"),
        ("CREATE TABLE other(id INTEGER PRIMARY KEY, x TEXT DEFAULT (of_the_app(1)));", "no such function: of_the_app"),
    ];
    for (sql, why) in refused {
        let Err(error) = a.store.apply_schema(sql) else { panic!("{sql} was taken") };
        assert!(
            matches!(error, StoreError::DefinitionRefused { .. }) && error.to_string().contains(why),
            "{sql}: {error}"
        );
        assert_eq!(notes(&a).len(), 2);
        assert_eq!(a.rows("SELECT count(*) FROM isle_migration"), a.rows("SELECT 1"));
    }
    for sql in ["CREATE TABLE", "ATTACH 'x' AS y", "SELECT load_extension('x')"] {
        assert!(matches!(a.store.plan_schema(sql), Err(StoreError::Definition { .. })), "{sql}");
    }
    a.check();
}

#[test]
fn a_snapshot_carries_rows_of_before_and_after_a_change() {
    let (a, _) = pair();
    a.store.apply_schema(SECOND).unwrap();
    a.run("INSERT INTO notes VALUES(3, 'three', 30)");
    a.run("UPDATE notes SET stars = 8 WHERE id = 1");
    let c = Device::untracked(3, "");
    for operation in a.operations() {
        c.store.put_migration(&operation).unwrap();
    }
    let mut blocks = Vec::new();
    let snapshot = a.store.export_snapshot(|block| {
        blocks.push(block.bytes);
        Ok::<_, StoreError>(())
    });
    c.store.stage_snapshot(&snapshot.unwrap().header, &VersionVector::new()).unwrap();
    c.store.stage_blocks(blocks.iter().map(Vec::as_slice).enumerate()).unwrap();
    c.store.join_snapshot().unwrap();
    assert_eq!(c.hash(), a.hash());
    c.check();
}

#[test]
fn losing_values_of_a_new_column_are_journaled() {
    let (a, b) = pair();
    a.store.apply_schema(SECOND).unwrap();
    b.pull(&a);
    a.run("UPDATE notes SET stars = 5 WHERE id = 1");
    b.pass(10);
    b.run("UPDATE notes SET stars = 4 WHERE id = 1");
    settle(&[&a, &b]);
    let lost = a.store.conflicts(false, 10).unwrap();
    assert!(
        lost.iter().any(|lost| lost.column.as_deref() == Some("stars") && lost.value == Value::Integer(5)),
        "{lost:?}"
    );
}

const COLUMNS: [&str; 5] =
    ["c1 TEXT", "c2 INT DEFAULT 7", "c3", "c4 REAL NOT NULL DEFAULT 1.5", "c5 BLOB DEFAULT x'00'"];

#[derive(Debug, Clone)]
enum Step {
    Write(usize, u64),
    Foreign(usize, u64),
    Add(usize, usize),
    Pull(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0usize..3;
    prop_oneof![
        6 => (device(), any::<u64>().no_shrink()).prop_map(|(n, seed)| Step::Write(n, seed)),
        3 => (device(), any::<u64>().no_shrink()).prop_map(|(n, seed)| Step::Foreign(n, seed)),
        3 => (device(), 0..COLUMNS.len()).prop_map(|(n, column)| Step::Add(n, column)),
        3 => (device(), device()).prop_map(|(from, to)| Step::Pull(from, to)),
    ]
}

/// A statement that fits what columns there are.
fn statement(device: &Device, rng: &mut Rng) -> String {
    let columns = device.rows("SELECT name FROM pragma_table_info('t') WHERE name <> 'id'");
    let names: Vec<&str> = columns.iter().map(|name| name.trim_matches(|c| "Text()[]".contains(c))).collect();
    let names: Vec<String> = names
        .iter()
        .map(|bytes| bytes.split(", ").filter_map(|b| b.parse::<u8>().ok()).map(char::from).collect())
        .collect();
    let id = 1 + rng.below(4);
    let value = *rng.pick(&["1", "'x'", "2.5", "x'61'", "'y'"]);
    let column = rng.pick(&names).clone();
    match rng.below(6) {
        0 => format!("DELETE FROM t WHERE id = {id}"),
        1 | 2 => format!("INSERT OR REPLACE INTO t(id, {column}) VALUES({id}, {value})"),
        3 => {
            let all: Vec<String> = names.iter().map(|name| format!("{name} = {value}")).collect();
            format!("UPDATE t SET {} WHERE id = {id}", all.join(", "))
        }
        _ => format!("UPDATE t SET {column} = {value} WHERE id = {id}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("ISLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn columns_may_come_anywhere_at_any_time(steps in prop::collection::vec(step(), 1..30)) {
        let devices: Vec<Device> = (1..4).map(|n| Device::untracked(n, "")).collect();
        let mut defined = vec![Vec::<usize>::new(); 3];
        devices[0].store.apply_schema("CREATE TABLE t(id INTEGER PRIMARY KEY, c0 TEXT)").unwrap();
        devices[1].pull(&devices[0]);
        devices[2].pull(&devices[0]);
        for step in &steps {
            match step {
                Step::Write(n, seed) => devices[*n].run(&statement(&devices[*n], &mut Rng(*seed))),
                Step::Foreign(n, seed) => devices[*n].foreign(&statement(&devices[*n], &mut Rng(*seed))),
                Step::Pull(from, to) if from != to => {
                    devices[*to].pull(&devices[*from]);
                    let more = defined[*from].clone();
                    defined[*to].extend(more);
                    defined[*to].sort_unstable();
                    defined[*to].dedup();
                }
                Step::Pull(..) => {}
                Step::Add(n, column) => {
                    if !defined[*n].contains(column) {
                        defined[*n].push(*column);
                    }
                    let columns: String = defined[*n].iter().map(|n| format!(", {}", COLUMNS[*n])).collect();
                    let sql = format!("CREATE TABLE t(id INTEGER PRIMARY KEY, c0 TEXT{columns})");
                    devices[*n].store.apply_schema(&sql).unwrap();
                }
            }
            devices.iter().for_each(|device| device.pass(1));
        }
        settle(&devices.iter().collect::<Vec<_>>());
        let all = "SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('t') ORDER BY name)";
        for device in &devices {
            prop_assert_eq!(device.rows(all), devices[0].rows(all));
        }
    }
}

#[test]
fn a_table_that_returns_with_a_new_column_brings_it_to_everybody() {
    let (a, b) = pair();
    a.store.untrack("notes").unwrap();
    a.foreign("ALTER TABLE notes ADD COLUMN stars INT DEFAULT 1");
    a.store.track(&["notes"]).unwrap();
    a.run("UPDATE notes SET stars = 6 WHERE id = 1");
    let fresh = Device::untracked(3, "");
    settle(&[&a, &b, &fresh]);
    assert_eq!(notes(&fresh), a.rows("SELECT 1, 'one', 6 UNION ALL SELECT 2, 'two', 1"));
    // One that returns as it was is no operation at all.
    let heads = a.store.schema_heads().unwrap();
    a.store.untrack("notes").unwrap();
    a.store.track(&["notes"]).unwrap();
    assert_eq!(a.store.schema_heads().unwrap(), heads);
    settle(&[&a, &b, &fresh]);
}

#[test]
fn a_renamed_table_that_returns_is_the_same_table() {
    let (a, b) = pair();
    let renamed = "-- @rename notes -> memos\nCREATE TABLE memos(id INTEGER PRIMARY KEY, title TEXT);";
    a.store.apply_schema(renamed).unwrap();
    a.store.untrack("memos").unwrap();
    a.store.track(&["memos"]).unwrap();
    a.run("INSERT INTO memos VALUES(3, 'three')");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT count(*) FROM memos"), b.rows("SELECT 3"));
    let again = a.store.plan_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT);").unwrap();
    assert!(again.refused[0].contains("memos"), "{again:?}");
}

#[test]
fn two_devices_that_declared_one_table_differently_end_with_all_its_columns() {
    let (a, b) = (
        Device::new(1, "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, only_a INT DEFAULT 5)"),
        Device::untracked(2, ""),
    );
    b.foreign("CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, only_b TEXT)");
    b.store.track(&["t"]).unwrap();
    a.run("INSERT INTO t VALUES(1, 'a', 1)");
    b.run("INSERT INTO t VALUES(2, 'b', 'bb')");
    let fresh = Device::untracked(3, "");
    settle(&[&a, &b, &fresh]);
    for device in [&a, &b, &fresh] {
        let rows = device.rows("SELECT id, x, only_a, only_b FROM t ORDER BY id");
        assert_eq!(rows, a.rows("SELECT 1, 'a', 1, NULL UNION ALL SELECT 2, 'b', 5, 'bb'"));
    }
}

#[test]
fn a_column_that_leaves_the_definition_keeps_its_values_and_may_return() {
    let old = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, mood TEXT, must TEXT NOT NULL)";
    let (a, b) = (Device::new(1, old), Device::new(2, old));
    a.run("INSERT INTO notes VALUES(1, 'x', 'good', 'm')");
    settle(&[&a, &b]);
    let without = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, must TEXT NOT NULL);";
    let refused = a.store.plan_schema(without).unwrap().refused;
    assert!(refused.iter().any(|reason| reason.contains("-- @drop notes.mood")), "{refused:?}");
    let dropped = format!("{without}\n-- @drop notes.mood");
    a.store.apply_schema(&dropped).unwrap();
    assert!(a.store.plan_schema(&dropped).unwrap().changes.is_empty());
    assert!(a.store.plan_schema(without).unwrap().refused.is_empty(), "the directive may go once it is done");
    // Another device does not know yet: what it writes there is not lost.
    b.run("UPDATE notes SET mood = 'better' WHERE id = 1");
    settle(&[&a, &b]);
    a.run("INSERT INTO notes(id, title, must) VALUES(2, 'y', 'm')");
    settle(&[&a, &b]);
    let back = format!("{old};");
    let plan = b.store.apply_schema(&back).unwrap();
    assert_eq!(plan.changes.iter().map(|change| change.kind).collect::<Vec<_>>(), ["show column"]);
    settle(&[&a, &b]);
    assert!(a.store.plan_schema(&back).unwrap().changes.is_empty());
    assert_eq!(a.rows("SELECT mood = 'better' FROM notes WHERE id = 1"), ["Integer(1)"]);
    let must = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, mood TEXT);\n-- @drop notes.must";
    let refused = a.store.plan_schema(must).unwrap().refused;
    assert!(refused.iter().any(|reason| reason.contains("NOT NULL without a default")), "{refused:?}");
}

#[test]
fn an_index_over_other_rows_is_another_index() {
    let (a, b) = pair();
    let with = |condition: &str| {
        format!(
            "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT); CREATE INDEX some ON notes(title) WHERE {condition};"
        )
    };
    a.store.apply_schema(&with("id > 1")).unwrap();
    let plan = a.store.apply_schema(&with("id > 2")).unwrap();
    let kinds: Vec<&str> = plan.changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, ["create index"], "in the place of the one of that name");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(device.rows("SELECT sql LIKE '%id > 2%' FROM sqlite_schema WHERE name = 'some'"), ["Integer(1)"]);
    }
}

#[test]
fn a_table_that_takes_the_name_which_another_was_given_meanwhile_is_not_taken_for_it() {
    let (a, b) = pair();
    a.store.apply_schema("-- @rename notes -> todo\nCREATE TABLE todo(id INTEGER PRIMARY KEY, title TEXT);").unwrap();
    b.store.apply_schema("CREATE TABLE todo(id INTEGER PRIMARY KEY, title TEXT);").unwrap();
    b.run("INSERT INTO todo VALUES(1, 'of the other table')");
    let put = |to: &Device, from: &Device| -> Vec<String> {
        let operations = from.store.schema_ops_beyond(&Default::default()).unwrap();
        operations
            .iter()
            .filter_map(|(_, op)| to.store.put_migration(op).err())
            .map(|error| error.to_string())
            .collect()
    };
    let (here, there) = (put(&a, &b), put(&b, &a));
    assert!(here.len() == 1 && here[0].contains("todo") && here[0].contains("rename"), "{here:?}");
    assert!(there.len() == 1 && there[0].contains("todo"), "{there:?}");
    assert_eq!(a.rows("SELECT title FROM todo WHERE id = 1"), a.rows("SELECT 'one'"));
    // Whoever renames its table takes the other one in.
    a.store.apply_schema("-- @rename todo -> memos\nCREATE TABLE memos(id INTEGER PRIMARY KEY, title TEXT);").unwrap();
    assert_eq!(put(&a, &b), Vec::<String>::new());
    assert_eq!(a.rows("SELECT count(*) FROM todo"), a.rows("SELECT 0"));
}
