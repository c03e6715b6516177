//! What UNIQUE indexes and foreign keys show of rows that were merged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{Device, settle};

const TAGS: &str = "CREATE TABLE tags(id TEXT PRIMARY KEY, name TEXT UNIQUE COLLATE NOCASE, color TEXT DEFAULT 'red');
    CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT,
      tag TEXT REFERENCES tags(id) ON DELETE CASCADE, second TEXT REFERENCES tags(id) ON DELETE SET NULL)";

fn pair() -> (Device, Device) {
    (Device::new(1, TAGS), Device::new(2, TAGS))
}

fn tags(device: &Device) -> Vec<String> {
    device.rows("SELECT CAST(id || ':' || name || ':' || color AS BLOB) IS NULL, hex(id), hex(name), hex(color) FROM tags ORDER BY id")
}

/// Rows as `column|column`, text as it is.
fn text(device: &Device, sql: &str) -> Vec<String> {
    let conn = rusqlite::Connection::open(device.path()).unwrap();
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let cell = |n| row.get::<_, Option<String>>(n).map(|value| value.unwrap_or_else(|| "NULL".into()));
        (0..columns).map(cell).collect::<rusqlite::Result<Vec<_>>>().map(|cells| cells.join("|"))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn of_two_rows_that_claim_one_name_the_first_shows_everywhere() {
    let (a, b) = pair();
    a.run("INSERT INTO tags VALUES('a', 'Home', 'blue')");
    b.pass(1_000);
    b.run("INSERT INTO tags(id, name) VALUES('b', 'home')");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(text(device, "SELECT id, name FROM tags"), ["a|Home"]);
        let hidden = device.store.repaired(10).unwrap();
        assert_eq!(hidden.len(), 1, "{hidden:?}");
        assert!(hidden[0].hidden && hidden[0].instead_of.is_some() && hidden[0].table == "tags", "{hidden:?}");
    }
    // What stood against it goes: it shows, with everything that was written of it, defaults included.
    b.run("UPDATE tags SET name = 'House' WHERE id = 'a'");
    assert_eq!(text(&b, "SELECT id, name, color FROM tags ORDER BY id"), ["a|House|blue", "b|home|red"]);
    settle(&[&a, &b]);
    assert_eq!(tags(&a), tags(&b));
    assert_eq!(text(&a, "SELECT id FROM tags ORDER BY id"), ["a", "b"]);
    assert!(a.store.repaired(10).unwrap().is_empty());
}

#[test]
fn an_insert_over_a_hidden_row_is_a_write_of_it() {
    let (a, b) = pair();
    a.run("INSERT INTO tags VALUES('a', 'x', '1')");
    b.pass(1_000);
    b.run("INSERT INTO tags VALUES('b', 'x', '2')");
    settle(&[&a, &b]);
    a.run("INSERT INTO tags VALUES('b', 'y', '3'); DELETE FROM tags WHERE id = 'b'");
    settle(&[&a, &b]);
    assert_eq!(text(&b, "SELECT id FROM tags"), ["a"], "it came and went: nothing happened to the hidden row");
    a.run("INSERT INTO tags VALUES('b', 'y', '3')");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(text(device, "SELECT id, name, color FROM tags ORDER BY id"), ["a|x|1", "b|y|3"]);
    }
}

#[test]
fn values_that_change_places_show_as_they_were_written() {
    let (a, b) = pair();
    a.run("INSERT INTO tags VALUES('1', 'x', 'c'), ('2', 'y', 'c'), ('3', 'z', 'c')");
    settle(&[&a, &b]);
    a.run("UPDATE tags SET name = 'tmp' WHERE id = '1'; UPDATE tags SET name = 'x' WHERE id = '2'; UPDATE tags SET name = 'y' WHERE id = '3'; UPDATE tags SET name = 'z' WHERE id = '1'");
    settle(&[&a, &b]);
    assert_eq!(text(&b, "SELECT id, name FROM tags ORDER BY id"), ["1|z", "2|x", "3|y"]);
    assert!(b.store.repaired(10).unwrap().is_empty());
}

#[test]
fn a_child_whose_parent_was_deleted_meanwhile_is_hidden_or_loses_the_reference() {
    let (a, b) = pair();
    a.run("INSERT INTO tags(id, name) VALUES('t', 'T'), ('u', 'U')");
    settle(&[&a, &b]);
    a.run("DELETE FROM tags WHERE id = 't'");
    b.run("INSERT INTO notes VALUES(1, 'owned', 't', NULL), (2, 'second', 'u', 't'), (3, 'both', 'u', 'u')");
    settle(&[&a, &b]);
    let shown = |device: &Device| text(device, "SELECT body, tag, second FROM notes ORDER BY id");
    for device in [&a, &b] {
        assert_eq!(shown(device), ["second|u|NULL", "both|u|u"]);
        assert_eq!(device.store.repaired(10).unwrap().len(), 2);
        assert!(device.rows("PRAGMA foreign_key_check").is_empty());
    }
    // A write of another column keeps the reference for the day when the parent returns.
    a.run("UPDATE notes SET body = 'edited' WHERE id = 2");
    settle(&[&a, &b]);
    b.run("INSERT INTO tags(id, name) VALUES('t', 'T again')");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(shown(device), ["owned|t|NULL", "edited|u|t", "both|u|u"]);
        assert!(device.store.repaired(10).unwrap().is_empty());
    }
}

#[test]
fn many_children_are_looked_at_in_one_go_with_the_same_result() {
    let (a, b) = pair();
    a.run("INSERT INTO tags(id, name) VALUES('t', 'T'), ('u', 'U')");
    settle(&[&a, &b]);
    a.run("DELETE FROM tags WHERE id = 't'");
    b.run(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 900)
         INSERT INTO notes SELECT i, 'b', iif(i % 3, 'u', 't'), iif(i % 2, 't', NULL) FROM n",
    );
    settle(&[&a, &b]);
    let counts = "SELECT count(*), count(second), sum(tag <> 'u') FROM notes";
    assert_eq!(a.rows(counts), ["Integer(600)|Integer(0)|Integer(0)"]);
    a.run("INSERT INTO tags(id, name) VALUES('t', 'T again')");
    settle(&[&a, &b]);
    assert_eq!(b.rows(counts), ["Integer(900)|Integer(450)|Integer(300)"]);
}

#[test]
fn a_hidden_parent_hides_its_children_and_they_come_back_together() {
    let (a, b) = pair();
    a.run("INSERT INTO tags(id, name) VALUES('a', 'x')");
    b.pass(1_000);
    b.run("INSERT INTO tags(id, name) VALUES('b', 'x'); INSERT INTO notes VALUES(1, 'of b', 'b', NULL)");
    settle(&[&a, &b]);
    assert!(text(&b, "SELECT body FROM notes").is_empty());
    a.run("DELETE FROM tags WHERE id = 'a'");
    settle(&[&a, &b]);
    assert_eq!(text(&a, "SELECT n.body, t.name FROM notes AS n JOIN tags AS t ON t.id = n.tag"), ["of b|x"]);
}

#[test]
fn rows_that_refer_to_each_other_in_a_circle_show() {
    let schema = "CREATE TABLE ring(id INTEGER PRIMARY KEY, next INT REFERENCES ring DEFERRABLE INITIALLY DEFERRED)";
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO ring VALUES(1, 2), (2, 3), (3, 1)");
    b.pull(&a);
    assert_eq!(b.rows("SELECT count(*) FROM ring"), ["Integer(3)"]);
    // One of them comes late, and all that waited in a circle show at once.
    b.foreign("PRAGMA foreign_keys = OFF; DELETE FROM ring WHERE id = 2");
    b.store.seal().unwrap();
    assert_eq!(b.rows("SELECT count(*) FROM ring"), ["Integer(0)"], "each lacks the next");
    b.run("INSERT INTO ring VALUES(2, NULL)");
    b.run("UPDATE ring SET next = 3 WHERE id = 2");
    assert_eq!(b.rows("SELECT count(*) FROM ring"), ["Integer(3)"]);
    settle(&[&a, &b]);
}

#[test]
fn what_replace_removes_by_another_index_is_deleted_everywhere_by_any_client() {
    for foreign in [false, true] {
        let (a, b) = pair();
        let run = |sql: &str| if foreign { a.foreign(sql) } else { a.run(sql) };
        run("INSERT INTO tags(id, name) VALUES('1', 'x'), ('2', 'y'), ('3', 'z')");
        settle(&[&a, &b]);
        run("INSERT OR REPLACE INTO tags(id, name) VALUES('4', 'X')");
        run("UPDATE OR REPLACE tags SET name = 'Y' WHERE id = '3'");
        run("INSERT OR IGNORE INTO tags(id, name) VALUES('5', 'y')");
        settle(&[&a, &b]);
        assert_eq!(text(&b, "SELECT id, name FROM tags ORDER BY id"), ["3|Y", "4|X"], "foreign: {foreign}");
        assert!(b.store.repaired(10).unwrap().is_empty(), "they are gone, not hidden");
    }
}

#[test]
fn an_ignored_clash_changes_nothing() {
    let (a, b) = pair();
    a.run("INSERT INTO tags(id, name) VALUES('1', 'x')");
    settle(&[&a, &b]);
    let before = a.store.status().unwrap().version;
    a.run("INSERT OR IGNORE INTO tags(id, name) VALUES('2', 'x')");
    a.foreign("INSERT OR IGNORE INTO tags(id, name) VALUES('2', 'x')");
    a.store.seal().unwrap();
    assert_eq!(a.store.status().unwrap().version, before);
}

#[test]
fn a_new_device_shows_the_same_and_so_does_one_that_joins_a_snapshot() {
    let (a, b) = pair();
    a.run("INSERT INTO tags(id, name) VALUES('a', 'x'); INSERT INTO notes VALUES(1, 'of a', 'a', NULL)");
    b.pass(1_000);
    b.run("INSERT INTO tags(id, name) VALUES('b', 'x'); INSERT INTO notes VALUES(2, 'of b', 'b', NULL)");
    settle(&[&a, &b]);
    let late = Device::new(3, TAGS);
    settle(&[&a, &b, &late]);
    assert_eq!(text(&late, "SELECT body FROM notes"), ["of a"]);
    assert_eq!(late.store.repaired(10).unwrap().len(), 2);
}

#[test]
fn a_column_that_is_added_or_renamed_takes_hidden_rows_along() {
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, v TEXT, UNIQUE(name))";
    let (a, b) = (Device::new(1, schema), Device::new(2, schema));
    a.run("INSERT INTO t VALUES(1, 'x', 'first')");
    b.pass(1_000);
    b.run("INSERT INTO t VALUES(2, 'x', 'second')");
    settle(&[&a, &b]);
    let new = "CREATE TABLE t(id INTEGER PRIMARY KEY, title TEXT, v TEXT, w TEXT DEFAULT 'new', UNIQUE(title));
               -- @rename t.name -> title";
    a.store.apply_schema(new).unwrap();
    settle(&[&a, &b]);
    b.run("DELETE FROM t WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(text(&a, "SELECT CAST(id AS TEXT), title, v, w FROM t"), ["2|x|second|new"]);
}

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE)";

fn two(schema: &str) -> (Device, Device) {
    (Device::new(1, schema), Device::new(2, schema))
}

#[test]
fn stamps_that_move_settle_anew_who_shows() {
    let (a, b) = two(T);
    b.run("INSERT INTO t VALUES(2, 'x')");
    a.pass(1000);
    a.run("INSERT INTO t VALUES(1, 'x')");
    a.store.mark_published(1).unwrap();
    b.pass(5000);
    b.pull(&a);
    b.store.restate().unwrap();
    settle(&[&a, &b]);
    // Baselines all have time 0: the site id alone decides.
    for n in 0..4 {
        let a = Device::new(1, &format!("{T}; INSERT INTO t VALUES(1, 'x')"));
        let b = Device::new(2, &format!("{T}; INSERT INTO t VALUES(2, 'x')"));
        let (x, y) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        x.store.mark_published(x.store.status().unwrap().version).unwrap();
        y.pull(x);
        for _ in 0..=n {
            y.store.new_site(0, None).unwrap();
        }
        settle(&[&a, &b]);
    }
}

#[test]
fn a_parent_that_is_hidden_late_or_loses_its_value_hides_those_that_refer_to_it() {
    let (a, b) = two("CREATE TABLE g(id INTEGER PRIMARY KEY);
         CREATE TABLE p(id INTEGER PRIMARY KEY, name TEXT UNIQUE, g INT REFERENCES g(id));
         CREATE TABLE c(id INTEGER PRIMARY KEY, n TEXT REFERENCES p(name))");
    a.run("INSERT INTO g VALUES(1), (2); INSERT INTO p VALUES(2, 'y', 2)");
    settle(&[&a, &b]);
    a.run("DELETE FROM g WHERE id = 1; UPDATE p SET name = 'yy' WHERE id = 2");
    b.run("INSERT INTO p VALUES(1, 'x', 1); INSERT INTO c VALUES(1, 'x')");
    b.pull(&a);
    assert!(b.rows("PRAGMA foreign_key_check").is_empty());
    let (a, b) = two("CREATE TABLE q(id INTEGER PRIMARY KEY);
         CREATE TABLE p(id INTEGER PRIMARY KEY, q INT UNIQUE REFERENCES q(id) ON DELETE SET NULL);
         CREATE TABLE c(id INTEGER PRIMARY KEY, r INT REFERENCES p(q))");
    a.run("INSERT INTO q VALUES(1)");
    settle(&[&a, &b]);
    a.run("DELETE FROM q WHERE id = 1");
    b.run("INSERT INTO p VALUES(1, 1); INSERT INTO c VALUES(1, 1)");
    settle(&[&a, &b]);
}

#[test]
fn parents_that_come_in_one_go_bring_their_children_back() {
    let (a, b) = two(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, v); CREATE TABLE c(id INTEGER PRIMARY KEY, p INT REFERENCES p(id))",
    );
    a.foreign("PRAGMA foreign_keys = OFF; INSERT INTO c VALUES(1, 5)");
    settle(&[&a, &b]);
    let values: Vec<String> = (1..=16).map(|n| format!("({n}, 'v')")).collect();
    a.run(&format!("INSERT INTO p VALUES{}", values.join(",")));
    assert_eq!(a.rows("SELECT count(*) FROM c"), ["Integer(1)"]);
    settle(&[&a, &b]);
}

#[test]
fn defaults_keys_and_conditions_of_every_spelling_are_hidden_and_come_back() {
    for (schema, columns, values) in [
        ("id INTEGER PRIMARY KEY, name TEXT UNIQUE, s TEXT DEFAULT \"new\"", "id, name", ["1, 'x'", "2, 'x'"]),
        ("id INTEGER PRIMARY KEY, name TEXT UNIQUE, s TEXT DEFAULT open", "id, name", ["1, 'x'", "2, 'x'"]),
        (
            "id INTEGER PRIMARY KEY, name TEXT UNIQUE, s INT DEFAULT -5, t DEFAULT (1 -- one\n)",
            "id, name",
            ["1, 'x'", "2, 'x'"],
        ),
        ("id INT PRIMARY KEY, name TEXT UNIQUE", "id, name", ["1, 'x'", "1.5, 'x'"]),
        ("id INT PRIMARY KEY, name TEXT UNIQUE", "id, name", ["'abc', 'x'", "2, 'x'"]),
        ("id INTEGER PRIMARY KEY, v INT, name INT AS (v) UNIQUE", "id, v", ["1, 5", "2, 6"]),
    ] {
        let schema = format!("CREATE TABLE t({schema})");
        if schema.contains(" AS ") {
            let refused = Device::untracked(1, &schema).store.track(&["t"]).unwrap_err().to_string();
            assert!(refused.contains("generated column"), "{refused}");
            continue;
        }
        let (a, b) = two(&schema);
        a.run(&format!("INSERT INTO t({columns}) VALUES({})", values[0]));
        b.pass(10);
        b.run(&format!("INSERT INTO t({columns}) VALUES({})", values[1]));
        settle(&[&a, &b]);
        assert_eq!(a.store.repaired(9).unwrap().len(), 1, "{schema}");
        a.run("UPDATE t SET name = 'y'");
        settle(&[&a, &b]);
        assert_eq!(b.rows("SELECT count(*) FROM t"), ["Integer(2)"], "{schema}");
    }
    let condition = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, kind TEXT COLLATE NOCASE);
                     CREATE UNIQUE INDEX i ON t(name) WHERE kind = 'mail'";
    let (a, b) = two(condition);
    a.run("INSERT INTO t VALUES(1, 'x', 'MAIL')");
    b.pass(10);
    b.run("INSERT INTO t VALUES(2, 'x', 'Mail')");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id FROM t"), ["Integer(1)"]);
    let generated = condition.replace("kind TEXT COLLATE NOCASE", "kind AS (id)");
    let refused = Device::untracked(1, &generated).store.track(&["t"]).unwrap_err().to_string();
    assert!(refused.contains("name replicated columns alone"), "{refused}");
}

#[test]
fn an_automatic_key_that_meets_a_hidden_row_journals_what_it_replaces() {
    let (a, b) = two("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, v TEXT)");
    a.run("INSERT INTO t VALUES(1, 'x', 'mine')");
    b.pass(10);
    b.run("INSERT INTO t VALUES(2, 'x', 'precious')");
    settle(&[&a, &b]);
    a.run("INSERT INTO t(name, v) VALUES('fresh', 'fresh')");
    settle(&[&a, &b]);
    let lost = a.store.conflicts(false, 10).unwrap();
    assert!(lost.iter().any(|lost| lost.value == isle_changeset::Value::Text(b"precious".to_vec())), "{lost:?}");
}

#[test]
fn the_spelling_of_a_key_is_kept_where_a_row_shows_without_a_reference() {
    let (a, b) = two("CREATE TABLE p(id INTEGER PRIMARY KEY);
         CREATE TABLE c(id TEXT PRIMARY KEY COLLATE NOCASE, p INT REFERENCES p(id) ON DELETE SET NULL)");
    a.run("INSERT INTO p VALUES(1)");
    settle(&[&a, &b]);
    a.run("DELETE FROM p");
    b.run("INSERT INTO c VALUES('a', 1)");
    settle(&[&a, &b]);
    b.run("UPDATE c SET id = 'A'");
    settle(&[&a, &b]);
}

#[test]
fn an_index_may_go_and_come_back_with_rows_hidden() {
    let (a, b) = two("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, v TEXT); CREATE UNIQUE INDEX i ON t(name)");
    a.run("INSERT INTO t VALUES(1, 'x', 'a')");
    b.pass(10);
    b.run("INSERT INTO t VALUES(2, 'x', 'b')");
    settle(&[&a, &b]);
    let before = b.hash().0;
    b.foreign("DROP INDEX i");
    assert_eq!(b.hash().0, before, "what is merged does not depend on the index");
    b.store.export_snapshot(|_| Ok::<_, isle_store::StoreError>(())).unwrap();
    a.foreign("DROP INDEX i");
    a.run("INSERT INTO t VALUES(2, 'y', 'new')");
    a.store.apply().unwrap();
    a.foreign("CREATE UNIQUE INDEX i ON t(name)");
    settle(&[&a]);
    b.pull(&a);
    assert_eq!(a.hash().0, b.hash().0);
}

#[test]
fn triggers_of_the_app_neither_stop_a_repair_nor_spread_it() {
    let (a, b) =
        two("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE); CREATE TABLE n(id INTEGER PRIMARY KEY, t INT);
         CREATE TRIGGER l AFTER DELETE ON t BEGIN DELETE FROM n WHERE t = OLD.id; END;
         CREATE TRIGGER m AFTER DELETE ON n BEGIN DELETE FROM t WHERE id = OLD.t; END;");
    a.run("INSERT INTO t VALUES(1, 'x')");
    b.pass(10);
    b.run("INSERT INTO t VALUES(2, 'x'); INSERT INTO n VALUES(2, 2)");
    settle(&[&a, &b]);
    let (a, b) = two(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT UNIQUE, gone INT DEFAULT 0);
         CREATE TRIGGER soft BEFORE DELETE ON t BEGIN UPDATE t SET gone = 1 WHERE id = OLD.id; SELECT RAISE(IGNORE); END;
         CREATE TRIGGER no BEFORE INSERT ON t WHEN NEW.gone = 7 BEGIN SELECT RAISE(IGNORE); END;",
    );
    a.run("INSERT INTO t(id, name) VALUES(1, 'x')");
    b.pass(10);
    b.run("INSERT INTO t(id, name) VALUES(2, 'x'); UPDATE t SET gone = 7 WHERE id = 2");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT id FROM t"), ["Integer(1)"]);
    a.run("UPDATE t SET name = 'y' WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT id FROM t ORDER BY id"), ["Integer(1)", "Integer(2)"]);
}

#[test]
fn a_row_that_would_fall_under_a_partial_index_without_its_reference_is_hidden() {
    let schema = "CREATE TABLE p(id INTEGER PRIMARY KEY);
      CREATE TABLE c(id INTEGER PRIMARY KEY, p INT REFERENCES p(id) ON DELETE SET NULL, slot INT);
      CREATE UNIQUE INDEX i ON c(slot) WHERE p IS NULL";
    let (a, b) = two(schema);
    a.run("INSERT INTO p VALUES(1)");
    settle(&[&a, &b]);
    a.run("DELETE FROM p");
    b.run("INSERT INTO c VALUES(1, 1, 7)");
    let c = Device::new(3, schema);
    c.pass(10);
    c.run("INSERT INTO c VALUES(2, NULL, 7)");
    settle(&[&a, &b]);
    settle(&[&c, &b, &a]);
}

#[test]
fn replace_finds_the_row_whose_key_is_minus_one() {
    let (a, b) = two(T);
    a.run("INSERT INTO t VALUES(-1, 'x')");
    settle(&[&a, &b]);
    a.run("INSERT OR REPLACE INTO t(name) VALUES('x')");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT count(*) FROM t"), ["Integer(1)"]);
}

/// One step of a random fleet.
#[derive(Debug, Clone)]
enum Step {
    Write { device: usize, foreign: bool, sql: String },
    Pull { device: usize, from: usize },
    Pass { device: usize, ms: u64 },
}

/// Tables with one constraint of each kind: folded, partial and composite UNIQUE, references to a key and to a UNIQUE column, to the
/// own table, and with each action.
const WORLD: &str = "
    CREATE TABLE p(id INTEGER PRIMARY KEY, name TEXT UNIQUE COLLATE NOCASE, code INT);
    CREATE UNIQUE INDEX p_code ON p(code) WHERE code > 1;
    CREATE TABLE c(id TEXT PRIMARY KEY, p INT REFERENCES p(id) ON DELETE CASCADE,
      n TEXT REFERENCES p(name) ON DELETE SET NULL ON UPDATE CASCADE, slot INT, UNIQUE(p, slot));
    CREATE TABLE g(a INT, b INT, c TEXT REFERENCES c(id), up INT, v,
      PRIMARY KEY(a, b), FOREIGN KEY(a, up) REFERENCES g(a, b) ON DELETE SET NULL) WITHOUT ROWID;";

fn write() -> impl Strategy<Value = String> {
    let id = 1..5i64;
    let name = prop::sample::select(vec!["'x'", "'X'", "'y'", "'z'", "NULL"]);
    let maybe = prop::option::of(1..5i64).prop_map(|v| v.map_or("NULL".to_owned(), |v| v.to_string()));
    let verb = prop::sample::select(vec!["INSERT OR IGNORE", "INSERT OR REPLACE"]);
    let update = prop::sample::select(vec!["UPDATE OR IGNORE", "UPDATE OR REPLACE"]);
    prop_oneof![
        (verb.clone(), id.clone(), name.clone(), maybe.clone())
            .prop_map(|(verb, id, name, code)| format!("{verb} INTO p VALUES({id}, {name}, {code})")),
        (verb.clone(), id.clone(), maybe.clone(), name.clone(), maybe.clone())
            .prop_map(|(verb, id, p, n, slot)| format!("{verb} INTO c VALUES('c{id}', {p}, {n}, {slot})")),
        (verb, id.clone(), id.clone(), maybe.clone(), maybe.clone())
            .prop_map(|(verb, a, b, c, up)| format!("{verb} INTO g VALUES({a}, {b}, 'c' || {c}, {up}, 'v{b}')")),
        (update.clone(), id.clone(), name.clone())
            .prop_map(|(update, id, name)| format!("{update} p SET name = {name} WHERE id = {id}")),
        (update.clone(), id.clone(), maybe.clone())
            .prop_map(|(update, id, code)| format!("{update} p SET code = {code} WHERE id = {id}")),
        (update.clone(), id.clone(), maybe.clone(), maybe.clone())
            .prop_map(|(update, id, p, slot)| format!("{update} c SET p = {p}, slot = {slot} WHERE id = 'c{id}'")),
        (update.clone(), id.clone(), name)
            .prop_map(|(update, id, n)| format!("{update} c SET n = {n} WHERE id = 'c{id}'")),
        (update, id.clone(), id.clone(), maybe)
            .prop_map(|(update, a, b, up)| format!("{update} g SET up = {up} WHERE a = {a} AND b = {b}")),
        (prop::sample::select(vec!["p", "c", "g"]), id).prop_map(|(table, id)| match table {
            "p" => format!("DELETE FROM p WHERE id = {id}"),
            "c" => format!("DELETE FROM c WHERE id = 'c{id}'"),
            _ => format!("DELETE FROM g WHERE a = {id}"),
        }),
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

/// Every hidden row has a reason: another merged row with its values in a UNIQUE index, or a parent that does not show.
fn hidden_for_a_reason(device: &Device) {
    let conn = rusqlite::Connection::open(device.path()).unwrap();
    let number = |table: &str| -> i64 {
        conn.query_row("SELECT no FROM isle_table WHERE name = ?1", [table], |row| row.get(0)).unwrap()
    };
    let (p, c, g) = (number("p"), number("c"), number("g"));
    let merged = |table: &str, no: i64, key: &str| {
        format!(
            "(SELECT * FROM {table} WHERE NOT EXISTS (SELECT 1 FROM isle_s{no} AS s WHERE {key})
              UNION ALL SELECT {} FROM isle_s{no})",
            match table {
                "p" => "id, name, code",
                "c" => "id, p, n, slot",
                _ => "a, b, c, up, v",
            }
        )
    };
    let (all_p, all_c) = (merged("p", p, "s.id = p.id"), merged("c", c, "s.id = c.id"));
    let queries = [
        format!(
            "SELECT count(*) FROM isle_s{p} AS h WHERE isle_hidden AND NOT EXISTS (SELECT 1 FROM {all_p} AS o WHERE o.id <> h.id
               AND (o.name = h.name COLLATE NOCASE OR (o.code = h.code AND h.code > 1)))"
        ),
        format!(
            "SELECT count(*) FROM isle_s{c} AS h WHERE isle_hidden AND NOT EXISTS (SELECT 1 FROM {all_c} AS o WHERE o.id <> h.id
               AND o.p = h.p AND o.slot = h.slot) AND (h.p IS NULL OR EXISTS (SELECT 1 FROM p WHERE id = h.p))"
        ),
        format!(
            "SELECT count(*) FROM isle_s{g} AS h WHERE isle_hidden AND (h.c IS NULL OR EXISTS (SELECT 1 FROM c WHERE id = h.c))
               AND (h.up IS NULL OR EXISTS (SELECT 1 FROM g WHERE a = h.a AND b = h.up))"
        ),
    ];
    for sql in queries {
        let count: i64 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{sql}");
    }
    let orphans: i64 = conn.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
    assert_eq!(orphans, 0);
}

#[test]
fn whatever_the_order_all_devices_show_the_same_rows_and_no_constraint_is_broken() {
    let cases = std::env::var("ISLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let steps = (2..4usize).prop_flat_map(|devices| (Just(devices), prop::collection::vec(step(devices), 1..30)));
    let result = runner.run(&steps, |(devices, steps)| {
        let fleet: Vec<Device> = (0..devices as u64).map(|n| Device::new(n + 1, WORLD)).collect();
        for step in steps {
            match step {
                Step::Write { device, foreign, sql } => fleet[device].attempt(foreign, &sql),
                Step::Pull { device, from } if device != from => fleet[device].pull(&fleet[from]),
                Step::Pull { .. } => {}
                Step::Pass { device, ms } => fleet[device].pass(ms),
            }
        }
        let late = Device::new(9, WORLD);
        let mut all: Vec<&Device> = fleet.iter().collect();
        settle(&all);
        late.pull(all[0]);
        all.push(&late);
        settle(&all);
        all.iter().for_each(|device| hidden_for_a_reason(device));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
