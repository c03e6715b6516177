//! Stamps that only the log has: whatever comes between an update and the merge that needs its stamp, nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use support::{Device, settle};

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)";

/// Two replicas that are level, with rows 1 to 3.
fn pair() -> (Device, Device) {
    let (a, b) = (Device::new(1, T), Device::new(2, T));
    a.run("INSERT INTO t VALUES(1, 'x', 1), (2, 'y', 2), (3, 'z', 3)");
    settle(&[&a, &b]);
    (a, b)
}

/// Whether stamps are owed, as the file says.
fn owes(device: &Device) -> bool {
    !device.rows("SELECT v FROM isle_meta WHERE k = 'unsettled'").is_empty()
}

/// Rows whose clock has exceptions.
fn stamped(device: &Device) -> Vec<String> {
    device.rows("SELECT k0 FROM isle_c1 WHERE x IS NOT NULL")
}

#[test]
fn an_update_leaves_the_clock_alone_until_something_is_merged() {
    let (a, b) = pair();
    b.run("UPDATE t SET v = 'b' WHERE id = 1");
    assert!(owes(&b) && stamped(&b).is_empty());
    assert_eq!(b.store.apply().unwrap().versions, 0);
    b.store.seal().unwrap();
    b.store.check().unwrap();
    b.store.vector().unwrap();
    assert!(owes(&b), "a merge of nothing settles nothing");
    a.run("UPDATE t SET v = 'a' WHERE id = 2");
    b.pull(&a);
    assert!(!owes(&b));
    assert_eq!(stamped(&b), ["Integer(1)", "Integer(2)"]);
    settle(&[&a, &b]);
}

#[test]
fn an_update_that_is_older_or_younger_than_a_merged_one_loses_or_wins() {
    for (later, expected) in [(0, "Text([98])"), (1, "Text([97])")] {
        let (a, b) = pair();
        let (first, second) = if later == 1 { (&b, &a) } else { (&a, &b) };
        let name = |device: &Device| if std::ptr::eq(device, &a) { "a" } else { "b" };
        first.run(&format!("UPDATE t SET v = '{}' WHERE id = 1", name(first)));
        second.pass(1_000);
        second.run(&format!("UPDATE t SET v = '{}' WHERE id = 1", name(second)));
        settle(&[&a, &b]);
        assert_eq!(a.rows("SELECT v FROM t WHERE id = 1"), [expected]);
        assert_eq!(a.store.conflicts(true, 10).unwrap().len(), 1);
    }
}

#[test]
fn rows_that_were_updated_and_then_deleted_or_made_again_keep_the_stamps_of_their_last_life() {
    let (a, b) = pair();
    b.run("UPDATE t SET v = 'old life' WHERE id IN (1, 2)");
    b.run("DELETE FROM t WHERE id IN (1, 2)");
    b.run("INSERT INTO t VALUES(2, 'new life', 5)");
    b.run("UPDATE t SET w = 6 WHERE id = 2");
    a.run("UPDATE t SET v = 'a' WHERE id IN (1, 2, 3)");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id, v, w FROM t ORDER BY id").len(), 2);
}

#[test]
fn an_update_of_every_column_is_settled_as_one_stamp() {
    let (a, b) = pair();
    b.run("UPDATE t SET v = 'b', w = 7 WHERE id = 1");
    b.run("UPDATE t SET v = 'c' WHERE id = 1");
    b.foreign("INSERT OR REPLACE INTO t VALUES(2, 'replaced', 8)");
    a.pass(500);
    a.run("UPDATE t SET w = 9 WHERE id IN (1, 2)");
    settle(&[&a, &b]);
}

#[test]
fn a_process_that_ends_before_it_settles_leaves_that_to_the_next() {
    let (a, mut b) = pair();
    b.run("UPDATE t SET v = 'b' WHERE id = 1");
    b.foreign("UPDATE t SET w = 5 WHERE id = 2");
    b.store.seal().unwrap();
    b.restart();
    assert!(owes(&b));
    a.pass(10);
    a.run("UPDATE t SET v = 'a' WHERE id IN (1, 2)");
    settle(&[&a, &b]);
}

#[test]
fn stamps_that_are_owed_move_to_a_new_site_id() {
    for published in [0, 3] {
        let (a, b) = pair();
        for n in 0..4 {
            b.run(&format!("UPDATE t SET v = 'b{n}', w = {n} WHERE id = {}", 1 + n % 3));
            b.run(&format!("UPDATE t SET w = 1{n} WHERE id = {}", 1 + n % 3));
        }
        if published > 0 {
            b.store.mark_published(published).unwrap();
        }
        b.store.new_site(published, None).unwrap();
        assert!(!owes(&b));
        b.run("UPDATE t SET w = 20 WHERE id = 2");
        a.run("UPDATE t SET v = 'a' WHERE id IN (1, 2, 3)");
        settle(&[&a, &b]);
    }
}

#[test]
fn stamps_that_are_owed_survive_joining_another_group() {
    let b = Device::new(2, T);
    b.run("INSERT INTO t VALUES(1, 'x', 1)");
    b.run("UPDATE t SET v = 'b' WHERE id = 1");
    b.store.join_group(isle_clock::GroupId::from_bytes([9; 16]), None).unwrap();
    assert!(!owes(&b));
    let a = Device::new(1, T);
    a.store.join_group(isle_clock::GroupId::from_bytes([9; 16]), None).unwrap();
    b.run("UPDATE t SET w = 2 WHERE id = 1");
    settle(&[&a, &b]);
}

#[test]
fn a_table_that_leaves_and_returns_is_not_stamped_twice() {
    let (a, b) = pair();
    b.run("UPDATE t SET v = 'b' WHERE id = 1");
    b.store.untrack("t").unwrap();
    assert!(!owes(&b));
    a.pass(1_000);
    a.run("UPDATE t SET v = 'a' WHERE id = 1");
    b.store.track(&["t"]).unwrap();
    b.run("UPDATE t SET w = 5 WHERE id = 2");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT v FROM t WHERE id = 1"), ["Text([97])"]);
}

#[test]
fn a_table_that_stands_still_is_settled_with_the_others() {
    let two = format!("{T}; CREATE TABLE other(id INTEGER PRIMARY KEY, v)");
    let (a, b) = (Device::new(1, &two), Device::new(2, &two));
    a.run("INSERT INTO t VALUES(1, 'x', 1); INSERT INTO other VALUES(1, 'x')");
    settle(&[&a, &b]);
    b.run("UPDATE t SET v = 'b' WHERE id = 1");
    b.foreign("ALTER TABLE t RENAME TO elsewhere");
    a.run("UPDATE other SET v = 'a'");
    b.pull(&a);
    assert!(!owes(&b));
    b.foreign("ALTER TABLE elsewhere RENAME TO t");
    a.pass(5);
    a.run("UPDATE t SET w = 3 WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT v, w FROM t"), ["Text([98])|Integer(3)"]);
}

#[test]
fn an_update_of_many_blocks_is_settled_whole() {
    let (a, b) = (Device::new(1, T), Device::new(2, T));
    a.run(
        "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
           SELECT i, 'row ' || i, i FROM n",
    );
    settle(&[&a, &b]);
    b.run("UPDATE t SET v = hex(randomblob(300))");
    b.run("UPDATE t SET v = 'again', w = -w WHERE id % 7 = 0");
    a.pass(1_000);
    a.run("UPDATE t SET v = 'a' WHERE id % 5 = 0");
    assert!(b.rows("SELECT count(*) > 3 FROM isle_block")[0] == "Integer(1)");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT count(*) FROM t WHERE v = 'a'"), ["Integer(1800)"]);
}

#[test]
fn tables_of_more_than_64_cells_and_keys_of_several_forms_are_settled() {
    let columns: Vec<String> = (0..150).map(|n| format!("c{n}")).collect();
    let schema = format!(
        "CREATE TABLE wide(id INTEGER PRIMARY KEY, {}); CREATE TABLE names(name TEXT PRIMARY KEY COLLATE NOCASE, v)",
        columns.join(", ")
    );
    let (a, b) = (Device::new(1, &schema), Device::new(2, &schema));
    a.run("INSERT INTO wide(id, c0) VALUES(1, 1), (2, 2); INSERT INTO names VALUES('a', 1), ('b', 2)");
    settle(&[&a, &b]);
    b.run("UPDATE wide SET c3 = 1, c70 = 2, c149 = 3 WHERE id = 1");
    b.run("UPDATE names SET name = 'A' WHERE name = 'a'");
    b.run("UPDATE names SET name = 'B', v = 3 WHERE name = 'b'");
    a.run("UPDATE wide SET c70 = 9, c71 = 9 WHERE id = 1; UPDATE names SET v = 5");
    settle(&[&a, &b]);
}

#[test]
fn writes_of_the_very_same_time_go_by_the_new_site_id() {
    const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT); INSERT INTO notes VALUES(1, 'base')";
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.pull(&b);
    a.store.new_site(0, None).unwrap();
    support::settle(&[&a, &b]);
    // Ids are drawn at random: within some rounds their order turns.
    for round in 0..8 {
        a.store.mark_published(a.store.status().unwrap().version).unwrap();
        a.run(&format!("UPDATE notes SET title = 'a {round}'"));
        b.run(&format!("UPDATE notes SET title = 'b {round}'"));
        a.pull(&b);
        a.store.new_site(0, None).unwrap();
        support::settle(&[&a, &b]);
    }
}

#[test]
fn a_new_site_id_tells_no_conflict_twice() {
    const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)";
    let (a, b) = (
        Device::new(1, &format!("{NOTES}; INSERT INTO notes VALUES(1, 'a')")),
        Device::new(2, &format!("{NOTES}; INSERT INTO notes VALUES(1, 'b')")),
    );
    a.pull(&b);
    assert_eq!(a.store.count_conflicts(true).unwrap(), 1, "two baselines");
    a.store.resolve_conflicts(None).unwrap();
    for _ in 0..6 {
        a.store.new_site(0, None).unwrap();
        assert!(a.store.count_conflicts(true).unwrap() <= 2, "one value of two lost, whichever it was");
    }
    support::settle(&[&a, &b]);
}
