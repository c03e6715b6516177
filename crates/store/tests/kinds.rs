//! Columns of a kind: what merges, what shows, and that it is the same everywhere. `ISLE_CASES` sets the number of random fleets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;

use isle_changeset::{DocumentChange, RemovedMember, SetChange, Value};
use isle_clock::{Hlc, SiteId, VersionVector};
use isle_document::{Document, Form};
use isle_schema::{ColumnId, Kind};
use isle_store::StoreError;
use proptest::prelude::*;
use support::reference::{Write, tables, writes};
use support::{Device, settle};

const USAGE: &str = "CREATE TABLE usage(
    name TEXT PRIMARY KEY,
    uses INTEGER NOT NULL DEFAULT 0, -- @merge counter
    last TEXT, -- @merge max
    first TEXT, -- @merge min
    tags TEXT NOT NULL DEFAULT '[]', -- @merge set
    note TEXT);";

fn pair() -> (Device, Device) {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(USAGE).unwrap();
    a.run("INSERT INTO usage VALUES('x', 10, '2026-05-05', '2026-05-05', '[\"a\",\"b\"]', 'n')");
    b.pull(&a);
    (a, b)
}

fn usage(device: &Device) -> Vec<String> {
    device
        .rows("SELECT uses || ' ' || ifnull(last, '') || ' ' || ifnull(first, '') || ' ' || tags FROM usage")
        .into_iter()
        .map(|row| row.replace("Text([", "").replace("])", ""))
        .map(|row| String::from_utf8(row.split(", ").map(|byte| byte.parse().unwrap()).collect()).unwrap())
        .collect()
}

#[test]
fn what_two_devices_do_at_once_counts_together() {
    let (a, b) = pair();
    a.run("UPDATE usage SET uses = uses + 3, last = '2026-06-01', tags = '[\"a\",\"b\",\"c\"]'");
    b.foreign("UPDATE usage SET uses = uses + 4, last = '2026-06-02', first = '2026-01-01', tags = '[\"b\",\"d\"]'");
    settle(&[&a, &b]);
    assert_eq!(usage(&a), ["17 2026-06-02 2026-01-01 [\"b\",\"c\",\"d\"]"]);
    assert_eq!(a.store.count_conflicts(true).unwrap(), 0, "nothing was lost");
    // And on, from what both show.
    b.run("UPDATE usage SET uses = 0");
    a.foreign("UPDATE usage SET uses = uses - 1");
    settle(&[&a, &b]);
    assert_eq!(usage(&b), ["-1 2026-06-02 2026-01-01 [\"b\",\"c\",\"d\"]"]);
}

#[test]
fn a_write_that_a_kind_does_not_take_shows_the_merged_value_again() {
    let (a, b) = pair();
    a.run("UPDATE usage SET last = '2020-01-01', first = '2030-01-01'");
    assert_eq!(usage(&a), ["10 2026-05-05 2026-05-05 [\"a\",\"b\"]"], "at once after a write through isle");
    a.foreign("UPDATE usage SET last = NULL, tags = '[ \"b\" , \"a\" ]'");
    a.store.seal().unwrap();
    // How an array is spelled is anybody's.
    assert_eq!(usage(&a), ["10 2026-05-05 2026-05-05 [ \"b\" , \"a\" ]"]);
    a.foreign("UPDATE usage SET tags = 'no array', uses = 'many'");
    a.store.seal().unwrap();
    assert_eq!(usage(&a), ["10 2026-05-05 2026-05-05 [ \"b\" , \"a\" ]"]);
    let lost: Vec<_> = a.store.conflicts(true, 10).unwrap().into_iter().map(|lost| (lost.column, lost.value)).collect();
    assert!(lost.contains(&(Some("tags".into()), Value::Text("no array".into()))), "{lost:?}");
    assert!(lost.contains(&(Some("uses".into()), Value::Text("many".into()))), "{lost:?}");
    settle(&[&a, &b]);
}

#[test]
fn a_member_that_is_added_while_it_is_removed_elsewhere_stays() {
    let (a, b) = pair();
    a.run("UPDATE usage SET tags = '[]'");
    settle(&[&a, &b]);
    b.run("UPDATE usage SET tags = '[\"a\"]'");
    settle(&[&a, &b]);
    // One removes it; the other, who has it, adds nothing. Then one removes what the other adds anew at the same time.
    a.run("UPDATE usage SET tags = '[]'");
    b.run("UPDATE usage SET tags = '[\"a\",\"z\"]'");
    settle(&[&a, &b]);
    assert_eq!(usage(&a), ["10 2026-05-05 2026-05-05 [\"z\"]"]);
    a.run("UPDATE usage SET tags = '[\"z\",\"q\"]'");
    b.run("UPDATE usage SET tags = '[\"q\"]'");
    b.run("UPDATE usage SET tags = '[]'");
    settle(&[&a, &b]);
    assert_eq!(usage(&b), ["10 2026-05-05 2026-05-05 [\"q\"]"], "b had not seen this q");
}

#[test]
fn a_set_that_was_no_array_becomes_one_and_a_large_one_is_no_burden() {
    let (a, b) = pair();
    a.run("INSERT INTO usage(name, tags) VALUES('odd', 'hello')");
    settle(&[&a, &b]);
    b.run("UPDATE usage SET tags = '[]' WHERE name = 'odd'");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT tags FROM usage WHERE name = 'odd'"), a.rows("SELECT '[]'"));
    a.foreign("UPDATE usage SET tags = '[1, 1]' WHERE name = 'odd'");
    b.run("UPDATE usage SET tags = '[2]' WHERE name = 'odd'");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT tags FROM usage WHERE name = 'odd'"), a.rows("SELECT '[1,2]'"));
    // Of many members each is looked at a few times, and not once for each other.
    let many = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 60000) SELECT json_group_array(i) FROM n";
    a.run(&format!("UPDATE usage SET tags = ({many}) WHERE name = 'x'"));
    a.run(&format!("UPDATE usage SET tags = ({}) WHERE name = 'x'", many.replace("60000", "59999")));
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT json_array_length(tags) FROM usage WHERE name = 'x'"), b.rows("SELECT 59999"));
}

#[test]
fn a_baseline_of_a_kind_moves_with_its_site() {
    let (a, b) = pair();
    b.store.untrack("usage").unwrap();
    b.foreign("INSERT INTO usage(name, uses, last) VALUES('y', 3, '2027')");
    b.store.track(&["usage"]).unwrap();
    b.store.new_site(0, None).unwrap();
    let newcomer = Device::untracked(3, "");
    for operation in b.operations() {
        newcomer.store.put_migration(&operation).unwrap();
    }
    snapshot(&b, &newcomer);
    assert_eq!(newcomer.hash(), b.hash());
    settle(&[&a, &b]);
}

#[test]
fn a_zero_with_a_sign_is_another_value() {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema("CREATE TABLE t(id INTEGER PRIMARY KEY, m); -- @merge max").unwrap();
    a.run("INSERT INTO t VALUES(1, -0.0)");
    b.pull(&a);
    b.run("UPDATE t SET m = 0.0");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT m FROM t"), ["Real(0.0)"]);
}

#[test]
fn a_delete_ends_the_counting_and_what_it_had_not_seen_is_in_the_journal() {
    let (a, b) = pair();
    a.run("DELETE FROM usage");
    b.run("UPDATE usage SET uses = uses + 5");
    settle(&[&a, &b]);
    assert!(usage(&b).is_empty());
    for device in [&a, &b] {
        let lost = device.store.conflicts(true, 10).unwrap();
        assert!(lost.iter().any(|lost| lost.column.as_deref() == Some("uses")), "{lost:?}");
    }
    a.run("INSERT INTO usage(name, uses) VALUES('x', 1)");
    settle(&[&a, &b]);
    b.run("UPDATE usage SET uses = uses + 1");
    settle(&[&a, &b]);
    assert_eq!(usage(&a), ["2   []"], "a new life counts from its own beginning");
}

#[test]
fn columns_get_a_kind_while_others_write_the_old_way() {
    let plain = USAGE.replace("-- @merge", "-- ");
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(&plain).unwrap();
    a.run("INSERT INTO usage VALUES('x', 10, '2', '2', '[\"a\"]', 'n'), ('y', 0, NULL, NULL, '[]', 'n')");
    b.pull(&a);
    let plan = a.store.apply_schema(USAGE).unwrap();
    assert_eq!(plan.changes.iter().map(|change| change.kind).collect::<Vec<_>>(), ["set kind"; 4]);
    assert!(a.store.plan_schema(USAGE).unwrap().changes.is_empty());
    assert!(!a.store.plan_schema(&plain).unwrap().refused.is_empty(), "a kind is not taken back unnoticed");
    a.run("UPDATE usage SET uses = uses + 3, tags = '[\"a\",\"c\"]', last = '3'");
    b.pass(1000);
    b.run("UPDATE usage SET uses = 100, tags = '[\"b\"]' WHERE name = 'x'");
    settle(&[&a, &b]);
    assert_eq!(
        a.rows("SELECT uses, tags, last FROM usage ORDER BY name"),
        a.rows("SELECT 103, '[\"b\",\"c\"]', '3' UNION ALL SELECT 3, '[\"a\",\"c\"]', '3'")
    );
    b.run("UPDATE usage SET uses = uses + 1");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT uses FROM usage ORDER BY name"), a.rows("SELECT 104 UNION ALL SELECT 4"));
}

#[test]
fn what_cannot_have_a_kind_is_refused_by_name() {
    let a = Device::untracked(1, "");
    for (sql, reason) in [
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, -- @merge counter\n n INT)", "\"id\" is no column outside the key"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, n TEXT) -- @merge counter", "\"n\" is no INTEGER"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT UNIQUE) -- @merge max", "UNIQUE"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT REFERENCES t) -- @merge max", "foreign key"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT); -- @merge t.n max\n-- @merge t.n min", "two kinds"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT); -- @merge u.n max", "no table u"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT) -- @merge sum", "no kind \"sum\""),
    ] {
        match a.store.apply_schema(sql) {
            Err(StoreError::DefinitionRefused { reasons }) => {
                assert!(reasons.iter().any(|found| found.contains(reason)), "{sql}: {reasons:?}");
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[test]
fn a_copied_file_goes_on_counting_under_a_new_site() {
    let (mut a, b) = pair();
    a.run("UPDATE usage SET uses = uses + 1, tags = '[\"a\",\"b\",\"shared\"]'");
    settle(&[&a, &b]);
    let published = a.store.status().unwrap().version;
    a.store.mark_published(published).unwrap();
    a.run("UPDATE usage SET uses = uses + 10, tags = '[\"a\",\"mine\"]'");
    a.run("UPDATE usage SET uses = uses + 10, tags = '[\"a\"]'");
    a.run("UPDATE usage SET uses = uses + 10, tags = '[\"a\",\"again\"]', last = '2027'");
    let before = usage(&a);
    a.store.new_site(published, None).unwrap();
    assert_eq!(usage(&a), before);
    a.restart();
    b.run("UPDATE usage SET uses = uses + 100, last = '2026-09'");
    settle(&[&a, &b]);
    assert_eq!(usage(&b), ["141 2027 2026-05-05 [\"a\",\"again\"]"]);
    a.run("UPDATE usage SET uses = uses + 1000");
    settle(&[&a, &b]);
    assert_eq!(usage(&b), ["1141 2027 2026-05-05 [\"a\",\"again\"]"]);
}

#[test]
fn a_clock_that_ran_ahead_takes_nothing_from_what_is_counted_later() {
    let (a, b) = pair();
    a.store.mark_published(a.store.status().unwrap().version).unwrap();
    a.pass(3_600_000);
    a.run("UPDATE usage SET uses = uses + 1, tags = '[\"a\"]', last = '2028'");
    a.runtime.now_ms.fetch_sub(3_600_000, std::sync::atomic::Ordering::SeqCst);
    a.store.bring_back_clock().unwrap();
    a.run("UPDATE usage SET uses = uses + 1, tags = '[\"a\",\"c\"]'");
    settle(&[&a, &b]);
    assert_eq!(usage(&b), ["12 2028 2026-05-05 [\"a\",\"c\"]"]);
    // Members of several versions that become one show in one order everywhere.
    a.store.mark_published(a.store.status().unwrap().version).unwrap();
    a.pass(7_200_000);
    a.run("UPDATE usage SET tags = '[\"a\",\"c\",\"z\"]'");
    a.run("UPDATE usage SET tags = '[\"a\",\"c\",\"z\",\"y\"]'");
    a.runtime.now_ms.fetch_sub(7_200_000, std::sync::atomic::Ordering::SeqCst);
    a.store.bring_back_clock().unwrap();
    settle(&[&a, &b]);
    assert_eq!(usage(&b), ["12 2028 2026-05-05 [\"a\",\"c\",\"y\",\"z\"]"]);
    assert_eq!(usage(&a), usage(&b));
}

#[test]
fn a_snapshot_brings_states_and_joins_those_that_are_here() {
    let (a, b) = pair();
    a.run("UPDATE usage SET uses = uses + 3, tags = '[\"a\",\"b\",\"c\"]', last = '2027'");
    b.run("UPDATE usage SET uses = uses + 4, tags = '[\"b\"]', first = '2020'");
    b.pull(&a);
    let newcomer = Device::untracked(3, "");
    for device in [&newcomer, &a] {
        for operation in b.operations() {
            device.store.put_migration(&operation).unwrap();
        }
        snapshot(&b, device);
        assert_eq!(usage(device), ["17 2027 2020 [\"b\",\"c\"]"]);
    }
    newcomer.run("UPDATE usage SET uses = uses + 1, tags = '[\"c\"]'");
    settle(&[&a, &b, &newcomer]);
    assert_eq!(usage(&a), ["18 2027 2020 [\"c\"]"]);
}

#[test]
fn a_table_that_was_untracked_counts_the_same_when_it_returns() {
    let (a, b) = pair();
    a.run("UPDATE usage SET uses = uses + 3, tags = '[\"a\"]'");
    b.pull(&a);
    b.store.untrack("usage").unwrap();
    a.run("UPDATE usage SET uses = uses + 3, tags = '[\"a\",\"d\"]'");
    b.pull(&a);
    b.store.track(&["usage"]).unwrap();
    b.run("UPDATE usage SET uses = uses + 1");
    settle(&[&a, &b]);
    assert_eq!(usage(&b), ["17 2026-05-05 2026-05-05 [\"a\",\"d\"]"]);
}

#[test]
fn a_removal_and_an_addition_meet_in_a_snapshot() {
    for ours_removes in [true, false] {
        let (a, b) = pair();
        a.run("UPDATE usage SET tags = '[\"a\",\"b\",\"c\"]'");
        b.pull(&a);
        // One has removed what the other still has, and has not seen what the other has added.
        let (removes, adds) = if ours_removes { (&a, &b) } else { (&b, &a) };
        removes.run("UPDATE usage SET tags = '[\"b\"]'");
        adds.run("UPDATE usage SET tags = '[\"a\",\"b\",\"c\",\"d\"]'");
        snapshot(&b, &a);
        assert_eq!(usage(&a), ["10 2026-05-05 2026-05-05 [\"b\",\"d\"]"], "ours removes: {ours_removes}");
    }
}

#[test]
fn the_original_of_a_copied_file_is_still_counted() {
    let (a, b) = pair();
    a.run("UPDATE usage SET uses = uses + 1");
    a.store.mark_published(a.store.status().unwrap().version).unwrap();
    let folder = support::folder();
    let path = folder.path().join("test.db");
    rusqlite::Connection::open(a.path()).unwrap().execute("VACUUM INTO ?1", [path.to_str().unwrap()]).unwrap();
    let runtime = std::sync::Arc::new(support::TestRuntime::new(9));
    let runtime_of_store = std::sync::Arc::clone(&runtime) as std::sync::Arc<dyn isle_store::Runtime>;
    let store = isle_store::Store::open(support::companion::options(&path), runtime_of_store).unwrap();
    let copy = Device { store, runtime, folder, companion: false };
    // The copy counts at a later time than the original, and learns only then that it is one.
    copy.pass(60_000);
    copy.run("UPDATE usage SET uses = uses + 10");
    copy.store.new_site(0, None).unwrap();
    a.run("UPDATE usage SET uses = uses + 100");
    settle(&[&a, &b, &copy]);
    assert_eq!(usage(&b), ["121 2026-05-05 2026-05-05 [\"a\",\"b\"]"]);
}

#[test]
fn of_two_kinds_at_once_one_stands_and_what_the_other_took_is_in_the_journal() {
    let plain = "CREATE TABLE t(id INTEGER PRIMARY KEY, n INT DEFAULT 0);";
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(plain).unwrap();
    a.run("INSERT INTO t VALUES(1, 5)");
    b.pull(&a);
    a.store.apply_schema(&format!("{plain} -- @merge counter")).unwrap();
    b.store.apply_schema(&format!("{plain} -- @merge max")).unwrap();
    a.run("UPDATE t SET n = n + 1");
    b.run("UPDATE t SET n = 100");
    settle(&[&a, &b]);
    let shown = a.rows("SELECT n FROM t");
    let (stands, lost) = if shown == a.rows("SELECT 6") { (6, 100) } else { (100, 6) };
    assert_eq!(shown, a.rows(&format!("SELECT {stands}")));
    for device in [&a, &b] {
        let journal = device.store.conflicts(true, 9).unwrap();
        let values: Vec<_> = journal.into_iter().map(|loss| loss.value).collect();
        // The counter's part of a sum is told as what was added, where it comes from elsewhere.
        let told = |value: &Value| [Value::Integer(lost), Value::Integer(lost - 5)].contains(value);
        assert!(values.iter().any(told), "{values:?} lacks {lost}");
    }
}

#[test]
fn a_group_is_written_as_one() {
    let plain = "CREATE TABLE people(id INTEGER PRIMARY KEY, street TEXT, city TEXT, name TEXT);";
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(plain).unwrap();
    a.run("INSERT INTO people VALUES(1, 'Rose Lane', 'Oldtown', 'Ann'), (2, 'Elm St', 'Oldtown', 'Bob')");
    let grouped = format!("{plain}\n-- @group people(street, city) an address");
    a.store.apply_schema(&grouped).unwrap();
    b.pull(&a);
    for (device, sql) in [(&a, &grouped), (&b, &b.store.dump_schema().unwrap())] {
        let plan = device.store.plan_schema(sql).unwrap();
        assert!(plan.changes.is_empty() && plan.refused.is_empty(), "{plan:?}");
    }
    assert!(!a.store.plan_schema(plain).unwrap().refused.is_empty(), "a group is not taken back unnoticed");
    // One moves within the town, the other to another town: one address wins, not half of each.
    a.run("UPDATE people SET street = 'High St' WHERE id = 1");
    b.pass(10);
    b.foreign("UPDATE people SET city = 'Newtown' WHERE id = 1; UPDATE people SET name = 'Bert' WHERE id = 2");
    a.foreign("UPDATE people SET street = 'Oak St' WHERE id = 2");
    settle(&[&a, &b]);
    assert_eq!(
        a.rows("SELECT street, city, name FROM people ORDER BY id"),
        a.rows("SELECT 'Rose Lane', 'Newtown', 'Ann' UNION ALL SELECT 'Oak St', 'Oldtown', 'Bert'")
    );
    let lost: Vec<_> = a.store.conflicts(true, 9).unwrap().into_iter().map(|lost| lost.column).collect();
    assert_eq!(lost, [Some("street".to_owned())], "the street that lost");
    for (sql, part) in [
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b INT); -- @group t(id, a)\n-- @group t(id, a)",
            "no column outside the key",
        ),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b INT); -- @merge t.a max\n-- @merge t.a max\n-- @group t(a, b)",
            "merges by itself",
        ),
        ("-- @group u(a, b)", "no table u"),
    ] {
        let plan = a.store.plan_schema(&format!("{grouped}\n{sql}")).unwrap();
        assert!(plan.refused.iter().any(|reason| reason.contains(part)), "{sql}: {:?}", plan.refused);
    }
}

/// One random statement on one of a few rows.
fn statement() -> impl Strategy<Value = String> {
    let key = || prop_oneof![Just("p"), Just("q")];
    let tags = || {
        prop::collection::vec(prop_oneof![Just("1"), Just("\"a\""), Just("\"b\""), Just("null")], 0..4)
            .prop_map(|members| format!("'[{}]'", members.join(if members.len() > 2 { ", " } else { "," })))
    };
    let number = || prop_oneof![4 => (-5i64..9).prop_map(|n| n.to_string()), 1 => Just("NULL".to_owned())];
    prop_oneof![
        2 => (key(), 0..5i64, number(), tags()).prop_map(|(key, uses, last, tags)| format!(
            "INSERT OR IGNORE INTO k VALUES('{key}', {uses}, {last}, {last}, {tags}, 'new', 'a b', NULL)")),
        1 => (key(), 0..5i64, tags()).prop_map(|(key, uses, tags)| format!("REPLACE INTO k VALUES('{key}', {uses}, 1, 1, {tags}, 'r', '{uses}', '[]')")),
        4 => (key(), -3..4i64).prop_map(|(key, by)| format!("UPDATE k SET uses = uses + {by} WHERE name = '{key}'")),
        1 => key().prop_map(|key| format!("UPDATE k SET uses = 7, note = 'seven' WHERE name = '{key}'")),
        3 => (key(), number(), number()).prop_map(|(key, last, first)| format!(
            "UPDATE k SET last = {last}, first = {first} WHERE name = '{key}'")),
        4 => (key(), tags()).prop_map(|(key, tags)| format!("UPDATE k SET tags = {tags} WHERE name = '{key}'")),
        4 => (key(), body()).prop_map(|(key, body)| format!("UPDATE k SET body = {body} WHERE name = '{key}'")),
        4 => (key(), doc()).prop_map(|(key, doc)| format!("UPDATE k SET doc = {doc} WHERE name = '{key}'")),
        1 => key().prop_map(|key| format!("DELETE FROM k WHERE name = '{key}'")),
        1 => key().prop_map(|key| format!("UPDATE k SET name = 'z' WHERE name = '{key}' AND NOT EXISTS (SELECT 1 FROM k WHERE name = 'z')")),
    ]
}

fn body() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => "[a-c ]{1,4}".prop_map(|text| format!("body || '{text}'")),
        2 => "[a-c ]{1,4}".prop_map(|text| format!("'{text}' || body")),
        2 => (0..4usize, "[a-c ]{1,3}").prop_map(|(at, text)| format!("substr(body, 1, {at}) || '{text}' || substr(body, {at} + 2)")),
        1 => Just("replace(body, 'a', 'xy')".to_owned()),
        1 => Just("'a b c'".to_owned()),
        1 => Just("x'00ff'".to_owned()),
    ]
}

fn doc() -> impl Strategy<Value = String> {
    let there = "CASE WHEN json_valid(doc) AND json_type(doc) = 'object' THEN doc ELSE '{}' END";
    prop_oneof![
        3 => ("[a-c]", 0..9i64).prop_map(move |(name, n)| format!("json_set({there}, '$.{name}', {n})")),
        2 => ("[a-c]", 0..9i64).prop_map(move |(name, n)| format!("json_insert(json_insert({there}, '$.list', json('[]')), '$.list[#]', json_array({n}, '{name}'))")),
        1 => "[a-c]".prop_map(move |name| format!("json_remove({there}, '$.{name}', '$.list[0]')")),
        1 => Just("'{\"a\": 1}'".to_owned()),
        1 => Just("NULL".to_owned()),
        1 => Just("'no JSON'".to_owned()),
    ]
}

#[derive(Debug, Clone)]
enum Action {
    Write(usize, bool, Vec<String>),
    Pull(usize, usize),
    Publish(usize),
    NewSite(usize),
    Restate(usize),
    Restart(usize),
    Snapshot(usize, usize),
    Clock(usize, u64),
}

fn action() -> impl Strategy<Value = Action> {
    let device = || 0usize..3;
    prop_oneof![
        12 => (device(), any::<bool>(), prop::collection::vec(statement(), 1..4)).prop_map(|(n, isle, sql)| Action::Write(n, isle, sql)),
        6 => (device(), device()).prop_map(|(a, b)| Action::Pull(a, b)),
        2 => device().prop_map(Action::Publish),
        1 => device().prop_map(Action::NewSite),
        1 => device().prop_map(Action::Restate),
        1 => device().prop_map(Action::Restart),
        1 => (device(), device()).prop_map(|(a, b)| Action::Snapshot(a, b)),
        2 => (device(), 0..5_000u64).prop_map(|(n, ms)| Action::Clock(n, ms)),
    ]
}

const K: &str = "CREATE TABLE k(
    name TEXT PRIMARY KEY,
    uses INTEGER NOT NULL DEFAULT 0, -- @merge counter
    last, -- @merge max
    first DEFAULT 3, -- @merge min
    tags TEXT NOT NULL DEFAULT '[\"a\"]', -- @merge set
    note TEXT,
    body TEXT NOT NULL DEFAULT '', -- @merge text
    doc TEXT -- @merge json
);";

/// What one row comes to by its kinds' rules, computed from all writes that are in the logs.
#[derive(Default)]
struct ModelRow {
    length: u64,
    cells: BTreeMap<ColumnId, ((Hlc, SiteId), Value)>,
    counted: i64,
    is_counted: bool,
    largest: Option<Value>,
    smallest: Option<Value>,
    added: Vec<(Hlc, SiteId, Vec<u8>)>,
    removed: Vec<((Hlc, SiteId), RemovedMember)>,
    edits: BTreeMap<Kind, DocumentChange>,
}

fn members(value: &Value) -> Vec<Vec<u8>> {
    let Value::Text(text) = value else { return Vec::new() };
    let values: Vec<serde_json::Value> = serde_json::from_slice(text).unwrap();
    let mut found = Vec::new();
    for value in values {
        let member = value.to_string().into_bytes();
        if !found.contains(&member) {
            found.push(member);
        }
    }
    found
}

impl ModelRow {
    fn take(&mut self, write: &Write, columns: &[ColumnId]) {
        if write.length < self.length {
            return;
        }
        if write.length > self.length {
            *self = ModelRow { length: write.length, ..ModelRow::default() };
        }
        let stamp = (write.hlc, write.site);
        for (id, value) in &write.cells {
            if *id == columns[0].of_kind(Kind::Counter) {
                let Value::Integer(by) = value else { panic!("{value:?}") };
                (self.counted, self.is_counted) = (self.counted + by, true);
            } else if *id == columns[1].of_kind(Kind::Max) {
                let larger = self.largest.as_ref().is_none_or(|known| value.as_ref().order(known.as_ref()).is_gt());
                self.largest = if larger { Some(value.clone()) } else { self.largest.take() };
            } else if *id == columns[2].of_kind(Kind::Min) {
                let smaller = self.smallest.as_ref().is_none_or(|known| value.as_ref().order(known.as_ref()).is_lt());
                self.smallest = if smaller { Some(value.clone()) } else { self.smallest.take() };
            } else if *id == columns[3].of_kind(Kind::Set) {
                let Value::Blob(bytes) = value else { panic!("{value:?}") };
                let SetChange { added, removed } = SetChange::decode(bytes).unwrap();
                self.added.extend(added.into_iter().map(|member| (write.hlc, write.site, member)));
                self.removed.extend(removed.into_iter().map(|removed| (stamp, removed)));
            } else if let Some((_, kind)) =
                [(5, Kind::Text), (6, Kind::Json)].iter().find(|(n, k)| *id == columns[*n].of_kind(*k))
            {
                let Value::Blob(bytes) = value else { panic!("{value:?}") };
                let changes = DocumentChange::decode(bytes).unwrap().changes;
                self.edits.entry(*kind).or_default().changes.extend(changes);
            } else if self.cells.get(id).is_none_or(|(known, _)| stamp > *known) {
                self.cells.insert(*id, (stamp, value.clone()));
            }
        }
    }

    fn shown(&self, columns: &[ColumnId]) -> Vec<Value> {
        let (zero, tags, empty) = (Value::Integer(0), Value::Text("[\"a\"]".into()), Value::Text(Vec::new()));
        let defaults = [zero, Value::Null, Value::Integer(3), tags, Value::Null, empty, Value::Null];
        let base = |n: usize| self.cells.get(&columns[n]).map_or(defaults[n].clone(), |(_, value)| value.clone());
        let mut shown: Vec<Value> = (0..7).map(base).collect();
        if self.is_counted {
            let Value::Integer(first) = shown[0] else { panic!() };
            shown[0] = Value::Integer(first + self.counted);
        }
        let better = |value: &Option<Value>, base: &Value, wanted: std::cmp::Ordering| match value {
            Some(value) if *base == Value::Null || value.as_ref().order(base.as_ref()) == wanted => value.clone(),
            _ => base.clone(),
        };
        shown[1] = better(&self.largest, &shown[1], std::cmp::Ordering::Greater);
        shown[2] = better(&self.smallest, &shown[2], std::cmp::Ordering::Less);
        if !self.added.is_empty() || !self.removed.is_empty() {
            shown[3] = self.members(&shown[3]);
        }
        for (n, kind, form) in [(5, Kind::Text, Form::Text), (6, Kind::Json, Form::Json)] {
            if let (Value::Text(base), Some(DocumentChange { changes: edits })) = (&shown[n], self.edits.get(&kind)) {
                // What is no UTF-8 is a plain value.
                let Ok(base) = std::str::from_utf8(base) else { continue };
                let of_base = |edit: &&([u8; 16], Vec<u8>)| edit.0 == isle_document::root_id(form, base);
                if edits.iter().any(|edit| of_base(&edit)) {
                    let mut document = Document::begin(form, base).unwrap();
                    edits.iter().filter(of_base).for_each(|(_, change)| drop(document.apply(change).unwrap()));
                    shown[n] = Value::Text(document.shown().as_bytes().to_vec());
                }
            }
        }
        shown
    }

    fn members(&self, base: &Value) -> Value {
        let gone =
            |member: &Vec<u8>| self.removed.iter().any(|(_, removed)| removed.first && removed.member == *member);
        let mut found = members(base);
        found.retain(|member| !gone(member));
        let ended = |(hlc, site, member): &(Hlc, SiteId, Vec<u8>)| {
            self.removed.iter().any(|(by, removed)| {
                let named = removed.additions.contains(&(*site, *hlc));
                removed.member == *member && (named || (by.1 == *site && hlc < &by.0))
            })
        };
        let mut added: Vec<_> = self.added.iter().filter(|addition| !ended(addition)).collect();
        added.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
        let marked = self.removed.iter().any(|(_, removed)| removed.first);
        if added.is_empty() && !marked {
            return base.clone();
        }
        for (_, _, member) in added {
            if !found.contains(member) {
                found.push(member.clone());
            }
        }
        let texts: Vec<String> = found.iter().map(|member| String::from_utf8(member.clone()).unwrap()).collect();
        Value::Text(format!("[{}]", texts.join(",")).into_bytes())
    }
}

fn snapshot(from: &Device, to: &Device) {
    let mut blocks = Vec::new();
    let sink = |block: isle_changeset::SealedBlock| {
        blocks.push(block.bytes);
        Ok::<_, StoreError>(())
    };
    let made = from.store.export_snapshot(sink).unwrap();
    to.store.stage_snapshot(&made.header, &VersionVector::new()).unwrap();
    to.store.stage_blocks(blocks.iter().map(Vec::as_slice).enumerate()).unwrap();
    to.store.join_snapshot().unwrap();
}

/// Takes over what another has: its versions, or a snapshot where those are not at hand.
fn pull(to: &Device, from: &Device) {
    from.store.seal().unwrap();
    from.store.mark_published(from.store.status().unwrap().version).unwrap();
    let (ours, theirs) = (to.store.vector().unwrap(), from.store.vector().unwrap());
    let missing = |(site, last): (SiteId, u64)| (ours.get(site) + 1..=last).any(|v| from.export(site, v).is_none());
    if theirs.iter().any(missing) { snapshot(from, to) } else { to.pull(from) }
}

fn settle_with_snapshots(devices: &[Device]) {
    for _ in 0..2 {
        for (a, b) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            pull(&devices[a], &devices[b]);
        }
    }
    for device in devices {
        assert_eq!(device.hash(), devices[0].hash(), "replicas differ after everything was exchanged");
        device.check();
    }
}

fn run(devices: &mut [Device], action: &Action) {
    match action {
        Action::Write(n, true, sql) => {
            devices[*n].store.write(|tx| sql.iter().try_for_each(|sql| tx.execute(sql, []).map(drop))).unwrap();
        }
        Action::Write(n, false, sql) => devices[*n].foreign(&format!("BEGIN; {}; COMMIT", sql.join(";"))),
        Action::Pull(a, b) if a != b => pull(&devices[*a], &devices[*b]),
        Action::Publish(n) => {
            devices[*n].store.seal().unwrap();
            let version = devices[*n].store.status().unwrap().version;
            devices[*n].store.mark_published(version).unwrap();
        }
        Action::NewSite(n) => drop(devices[*n].store.new_site(0, None).unwrap()),
        Action::Restate(n) => {
            let device = &devices[*n];
            device.pass(3_600_000);
            device.run("UPDATE k SET note = note || '.'");
            device.runtime.now_ms.fetch_sub(3_600_000, std::sync::atomic::Ordering::SeqCst);
            device.store.bring_back_clock().unwrap();
        }
        Action::Restart(n) => devices[*n].restart(),
        Action::Snapshot(a, b) if a != b => {
            devices[*a].store.seal().unwrap();
            devices[*a].store.mark_published(devices[*a].store.status().unwrap().version).unwrap();
            snapshot(&devices[*a], &devices[*b]);
        }
        Action::Clock(n, ms) => devices[*n].pass(*ms),
        Action::Pull(..) | Action::Snapshot(..) => {}
    }
}

proptest! {
    #![proptest_config(support::cases(150))]

    #[test]
    fn every_fleet_shows_what_the_rules_say(actions in prop::collection::vec(action(), 1..30)) {
        let mut devices: Vec<Device> = (1..4).map(|n| Device::untracked(n, "")).collect();
        devices[0].store.apply_schema(K).unwrap();
        let operations = devices[0].operations();
        for device in &devices[1..] {
            for operation in &operations {
                device.store.put_migration(operation).unwrap();
            }
        }
        for action in &actions {
            run(&mut devices, action);
        }
        for device in &devices {
            device.pass(10_000_000);
        }
        settle_with_snapshots(&devices);
        let sites: Vec<SiteId> = devices[0].store.vector().unwrap().iter().map(|(site, _)| site).collect();
        let vector = devices[0].store.vector().unwrap();
        let table = &tables(&devices[0])[0];
        let columns: Vec<ColumnId> = table.columns.iter().map(|column| column.id).collect();
        let mut rows: BTreeMap<Vec<u8>, ModelRow> = BTreeMap::new();
        for site in sites {
            for version in 1..=vector.get(site) {
                // A snapshot took the place of some.
                let sealed = devices.iter().find_map(|device| device.export(site, version)).unwrap();
                for write in writes(&sealed) {
                    rows.entry(write.key.clone()).or_default().take(&write, &columns);
                }
            }
        }
        let mut expected: Vec<String> = rows
            .iter()
            .filter(|(_, row)| row.length % 2 == 1)
            .map(|(key, row)| {
                let mut values = isle_changeset::unpack_key(key, 1).unwrap();
                values.extend(row.shown(&columns));
                format!("{values:?}")
            })
            .collect();
        expected.sort();
        for device in &devices {
            prop_assert_eq!(support::reference::visible(device, table), expected.clone());
        }
    }
}
