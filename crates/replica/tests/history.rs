//! Who changed what, what two values had in common, and taking changes back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use isle::{CompactOptions, ConflictBase, HistoryEntry, Replica, Resolution, RowChangeKind, Value};
use proptest::prelude::*;

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT);
    CREATE TABLE parts(id INTEGER PRIMARY KEY, note INT REFERENCES notes(id) ON DELETE CASCADE, body TEXT);
    CREATE TABLE usage(name TEXT PRIMARY KEY COLLATE NOCASE,
      uses INT DEFAULT 0 -- @merge counter
    );";

fn device(folder: &Path, name: &str) -> Replica {
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).init().unwrap();
    replica.add_plain_remote("all", folder.join("bucket").to_str().unwrap()).unwrap();
    replica
}

fn run(replica: &Replica, sql: &str) -> u64 {
    replica.write(|tx| tx.execute_batch(sql)).unwrap();
    replica.status().unwrap().version
}

fn rows(replica: &Replica, sql: &str) -> Vec<String> {
    replica.read(|q| q.all(sql, &[])).unwrap()
}

async fn exchange(devices: &[&Replica]) {
    for _ in 0..2 {
        for device in devices {
            device.sync().await.unwrap();
        }
    }
    let hash = devices[0].state_hash().unwrap();
    assert!(devices.iter().all(|device| device.state_hash().unwrap() == hash));
}

async fn pair(folder: &Path) -> (Replica, Replica) {
    let (a, b) = (device(folder, "a"), device(folder, "b"));
    a.apply_schema(SCHEMA).unwrap();
    exchange(&[&a, &b]).await;
    (a, b)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// `site-of-a? what column before after`
fn told(entries: &[HistoryEntry], a: &Replica) -> Vec<String> {
    let own = a.status().unwrap().site;
    let show = |value: &Option<Value>| value.as_ref().map_or("?".to_owned(), ToString::to_string);
    let line = |entry: &HistoryEntry| {
        let cells = entry.cells.iter().map(|cell| {
            let column = cell.column.as_deref().unwrap_or("key");
            format!(" {column} {}>{}", show(&cell.before), cell.after)
        });
        let who = if entry.site == own { "a" } else { "b" };
        format!("{who} {}{}", entry.kind.as_str(), cells.collect::<String>())
    };
    entries.iter().map(line).collect()
}

#[tokio::test]
async fn a_rows_history_says_who_what_and_what_was_before() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    run(&a, "INSERT INTO notes VALUES(1, 'x', 1), (2, 'other', 1)");
    exchange(&[&a, &b]).await;
    run(&b, "UPDATE notes SET title = 'y' WHERE id = 1");
    exchange(&[&a, &b]).await;
    run(&a, "UPDATE notes SET title = 'z', stars = 2 WHERE id = 1");
    run(&a, "DELETE FROM notes WHERE id = 1");
    exchange(&[&a, &b]).await;
    // What another program did counts as well.
    rusqlite::Connection::open(b.path()).unwrap().execute("INSERT INTO notes VALUES(1, 'again', NULL)", []).unwrap();
    let expected = [
        "a inserted title ?>x stars ?>1",
        "b updated title x>y",
        "a updated title y>z stars 1>2",
        "a deleted",
        "b inserted title ?>again stars ?>NULL",
    ];
    let history = b.row_history("notes", &[Value::Integer(1)]).unwrap();
    assert_eq!(told(&history, &a), expected);
    assert!(history.is_sorted_by_key(|entry| entry.hlc));
    exchange(&[&a, &b]).await;
    assert_eq!(a.row_history("NOTES", &[Value::Integer(1)]).unwrap(), history);
    let newest = a.table_history("notes", 2).unwrap();
    let kinds: Vec<_> = newest.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [RowChangeKind::Inserted, RowChangeKind::Deleted]);
    // A key in another of its forms is the same row; a change of a counter is told as what it added.
    run(&a, "INSERT INTO usage VALUES('Tea', 1)");
    run(&a, "UPDATE usage SET uses = uses + 4");
    let tea = a.row_history("usage", &[text("TEA")]).unwrap();
    assert_eq!(tea.len(), 2);
    assert_eq!(tea[1].cells[0].after, Value::Integer(4));
    assert!(tea[1].cells[0].kind.is_some());
    assert!(a.row_history("nope", &[Value::Integer(1)]).is_err());
    assert!(a.row_history("notes", &[]).unwrap_err().to_string().contains("takes 1 values, 0 were given"));
}

#[tokio::test]
async fn a_conflict_knows_what_both_began_with_and_each_side_can_be_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    run(&a, "INSERT INTO notes VALUES(1, 'first', 1), (2, 'second', 2), (3, 'third', 3)");
    exchange(&[&a, &b]).await;
    run(&b, "UPDATE notes SET title = 'base' || id");
    exchange(&[&a, &b]).await;
    run(&a, "UPDATE notes SET title = 'not seen by b' WHERE id = 1");
    run(&a, "UPDATE notes SET title = 'of a'");
    run(&b, "UPDATE notes SET title = 'of b'");
    exchange(&[&a, &b]).await;
    let stands = rows(&a, "SELECT title FROM notes LIMIT 1");
    let (winner, loser) = if stands == ["of a"] { (&a, &b) } else { (&b, &a) };
    for device in [&a, &b] {
        let conflicts = device.conflicts(false, 10).unwrap();
        // Where `b` won, the first of the two values that `a` wrote may be told too.
        assert!(conflicts.len() >= 3);
        for conflict in conflicts {
            let (_, key) = &conflict.key[0];
            assert_eq!(device.conflict_base(conflict.id).unwrap(), ConflictBase::Value(text(&format!("base{key}"))));
        }
    }
    let of = |device: &Replica, id: i64| {
        let conflicts = device.conflicts(false, 10).unwrap();
        conflicts.into_iter().find(|conflict| conflict.key[0].1 == Value::Integer(id)).unwrap().id
    };
    let lost = if stands == ["of a"] { "of b" } else { "of a" };
    loser.resolve(of(loser, 2), &Resolution::Ours).unwrap();
    assert_eq!(rows(loser, "SELECT title FROM notes WHERE id = 2"), [lost]);
    winner.resolve(of(winner, 3), &Resolution::Ours).unwrap();
    assert_eq!(rows(winner, "SELECT title FROM notes WHERE id = 3"), stands);
    winner.resolve(of(winner, 1), &Resolution::Base).unwrap();
    assert_eq!(rows(winner, "SELECT title FROM notes WHERE id = 1"), ["base1"]);
    exchange(&[&a, &b]).await;
    loser.resolve(of(loser, 3), &Resolution::Theirs).unwrap();
    assert_eq!(rows(loser, "SELECT title FROM notes ORDER BY id"), ["base1", lost, &stands[0]]);
}

#[tokio::test]
async fn two_inserts_of_one_row_have_nothing_in_common() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    run(&a, "INSERT INTO notes VALUES(1, 'of a', 1)");
    run(&b, "INSERT INTO notes VALUES(1, 'of b', 1)");
    exchange(&[&a, &b]).await;
    let id = a.conflicts(false, 10).unwrap()[0].id;
    assert_eq!(a.conflict_base(id).unwrap(), ConflictBase::Absent);
    assert!(a.resolve(id, &Resolution::Base).unwrap_err().to_string().contains("no base"));
    assert!(a.resolve(id, &Resolution::Theirs).is_ok());
}

#[tokio::test]
async fn a_change_is_taken_back_whole_and_what_came_since_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    run(&a, "INSERT INTO notes VALUES(1, 'x', 1), (2, 'y', 2); INSERT INTO parts VALUES(1, 1, 'p'), (2, 1, 'q')");
    run(&a, "INSERT INTO usage VALUES('tea', 1)");
    exchange(&[&a, &b]).await;
    let everything =
        "SELECT 'n' || id || title || stars FROM notes UNION ALL SELECT 'p' || id || note || body FROM parts
                      UNION ALL SELECT 'u' || uses FROM usage ORDER BY 1";
    let before = rows(&a, everything);
    // A parent with its children, a counter, an insert and an update: one transaction.
    let site = b.status().unwrap().site;
    let version = run(
        &b,
        "DELETE FROM notes WHERE id = 1; UPDATE notes SET title = 'z' WHERE id = 2; UPDATE usage SET uses = uses + 7;
         INSERT INTO notes VALUES(3, 'new', 3)",
    );
    exchange(&[&a, &b]).await;
    run(&a, "UPDATE usage SET uses = uses + 1");
    let undone = a.undo(site, version).unwrap();
    assert!(undone.skipped.is_empty(), "{undone:?}");
    run(&a, "UPDATE usage SET uses = uses - 1");
    assert_eq!(rows(&a, everything), before);
    exchange(&[&a, &b]).await;
    assert_eq!(rows(&b, everything), before);
    // Taking it back twice finds nothing that stands any more.
    let again = a.undo(site, version).unwrap();
    assert_eq!((again.written, again.skipped.len()), (0, 6), "{again:?}");
    // What was changed since stays as it is.
    let version = run(&a, "UPDATE notes SET title = 't', stars = 9 WHERE id = 2");
    run(&a, "UPDATE notes SET stars = 10 WHERE id = 2");
    let undone = a.undo(a.status().unwrap().site, version).unwrap();
    assert_eq!(undone.skipped, ["notes 2: \"stars\" was written since"]);
    assert_eq!(rows(&a, "SELECT title || stars FROM notes WHERE id = 2"), ["y10"]);
    let error = a.undo(site, 999).unwrap_err().to_string();
    assert!(error.contains("no version 999"), "{error}");
}

#[test]
fn what_cannot_be_taken_back_alone_stays_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    a.apply_schema(format!("{SCHEMA} CREATE TABLE people(id INTEGER PRIMARY KEY, mail TEXT UNIQUE);").as_str())
        .unwrap();
    let site = a.status().unwrap().site;
    // A child that was written since: its parent stays, and with it the child.
    let version = run(&a, "INSERT INTO notes VALUES(1, 'parent', 1), (2, 'alone', 1)");
    run(&a, "INSERT INTO parts VALUES(1, 1, 'later')");
    let undone = a.undo(site, version).unwrap();
    assert_eq!((undone.written, undone.skipped.len()), (1, 1), "{undone:?}");
    assert!(undone.skipped[0].contains("refer to it"), "{undone:?}");
    assert_eq!(rows(&a, "SELECT title || body FROM notes JOIN parts ON note = notes.id"), ["parentlater"]);
    // A row that began anew counts from its own beginning.
    run(&a, "INSERT INTO usage VALUES('tea', 1)");
    let version = run(&a, "UPDATE usage SET uses = uses + 5");
    run(&a, "DELETE FROM usage");
    let deleted = a.status().unwrap().version;
    run(&a, "INSERT INTO usage VALUES('tea', 0)");
    let undone = a.undo(site, version).unwrap();
    assert!(undone.skipped[0].contains("inserted again"), "{undone:?}");
    assert_eq!(rows(&a, "SELECT CAST(uses AS TEXT) FROM usage"), ["0"]);
    // A row with a counter comes back with its sum.
    run(&a, "DELETE FROM usage");
    let undone = a.undo(site, deleted).unwrap();
    assert!(undone.skipped[0].contains("inserted again"), "{undone:?}");
    let last = a.status().unwrap().version;
    a.undo(site, last).unwrap();
    assert_eq!(rows(&a, "SELECT name || uses FROM usage"), ["tea0"]);
    // A change of a key with a value that may be there only once.
    run(&a, "INSERT INTO people VALUES(1, 'x@y')");
    let version = run(&a, "UPDATE people SET id = 2");
    assert!(a.undo(site, version).unwrap().skipped.is_empty());
    assert_eq!(rows(&a, "SELECT id || mail FROM people"), ["1x@y"]);
}

#[test]
fn rows_that_were_there_before_isle_are_not_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES(1), (2)")
        .unwrap();
    let a = device(folder.path(), "a");
    a.track(&["t"]).unwrap();
    let status = a.status().unwrap();
    let error = a.undo(status.site, status.version).unwrap_err().to_string();
    assert!(error.contains("when their table was adopted"), "{error}");
    assert_eq!(rows(&a, "SELECT CAST(id AS TEXT) FROM t"), ["1", "2"]);
}

#[tokio::test]
async fn a_row_that_a_constraint_hides_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (device(folder.path(), "a"), device(folder.path(), "b"));
    a.apply_schema("CREATE TABLE people(id INTEGER PRIMARY KEY, mail TEXT UNIQUE);").unwrap();
    exchange(&[&a, &b]).await;
    let first = run(&a, "INSERT INTO people VALUES(1, 'x')");
    let second = run(&b, "INSERT INTO people VALUES(2, 'x')");
    exchange(&[&a, &b]).await;
    let shows = rows(&a, "SELECT CAST(id AS TEXT) FROM people");
    let (site, version) = match shows[0].as_str() {
        "1" => (b.status().unwrap().site, second),
        _ => (a.status().unwrap().site, first),
    };
    let undone = a.undo(site, version).unwrap();
    assert_eq!(undone.written, 0);
    assert!(undone.skipped[0].contains("hides it"), "{undone:?}");
}

#[tokio::test]
async fn what_was_compacted_away_is_said_to_be_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    run(&a, "INSERT INTO notes VALUES(1, 'base', 1)");
    exchange(&[&a, &b]).await;
    run(&a, "UPDATE notes SET title = 'of a'");
    let version = run(&b, "UPDATE notes SET title = 'of b'");
    exchange(&[&a, &b]).await;
    let id = b.conflicts(false, 10).unwrap()[0].id;
    assert_eq!(b.conflict_base(id).unwrap(), ConflictBase::Value(text("base")));
    let all = CompactOptions { keep: std::time::Duration::ZERO, ..CompactOptions::default() };
    b.compact(&all).await.unwrap();
    assert_eq!(b.conflict_base(id).unwrap(), ConflictBase::Unknown);
    assert!(b.row_history("notes", &[Value::Integer(1)]).unwrap().is_empty());
    let error = b.undo(b.status().unwrap().site, version).unwrap_err().to_string();
    assert!(error.contains("isle log"), "{error}");
}

fn statement() -> impl Strategy<Value = String> {
    let (id, n) = (0i64..4, 0i64..3);
    prop_oneof![
        (id.clone(), n.clone()).prop_map(|(id, n)| format!("INSERT OR REPLACE INTO notes VALUES({id}, 't{n}', {n})")),
        (id.clone(), n.clone()).prop_map(|(id, n)| format!("UPDATE notes SET title = 'u{n}' WHERE id = {id}")),
        n.clone().prop_map(|n| format!("UPDATE notes SET stars = {n}, title = NULL")),
        id.clone().prop_map(|id| format!("DELETE FROM notes WHERE id = {id}")),
        id.clone().prop_map(|id| format!("UPDATE OR IGNORE notes SET id = {} WHERE id = {id}", (id + 1) % 4)),
        (id, n).prop_map(|(id, n)| format!("INSERT OR IGNORE INTO usage VALUES('k{id}', {n})")),
        Just("UPDATE usage SET uses = uses + 2".to_owned()),
        Just("DELETE FROM usage WHERE name = 'k1'".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_last_change_taken_back_leaves_the_rows_as_they_were(
        earlier in prop::collection::vec(prop::collection::vec(statement(), 1..4), 0..6),
        last in prop::collection::vec(statement(), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let a = device(folder.path(), "a");
        a.apply_schema(SCHEMA).unwrap();
        for statements in &earlier {
            run(&a, &statements.join(";"));
        }
        let all = "SELECT 'n' || id || '|' || quote(title) || '|' || quote(stars) FROM notes
                   UNION ALL SELECT 'u' || name || '|' || quote(uses) FROM usage ORDER BY 1";
        let (before, known) = (rows(&a, all), a.status().unwrap().version);
        let version = run(&a, &last.join(";"));
        prop_assume!(version > known);
        let site = a.status().unwrap().site;
        let undone = a.undo(site, version).unwrap();
        // A counter that is gone with its row cannot be had from the log.
        let counters = undone.skipped.iter().all(|skipped| skipped.starts_with("usage"));
        prop_assert!(counters, "{:?}", undone.skipped);
        let notes = |rows: &[String]| rows.iter().filter(|row| row.starts_with('n')).cloned().collect::<Vec<_>>();
        let after = rows(&a, all);
        prop_assert_eq!(notes(&after), notes(&before));
        if undone.skipped.is_empty() {
            prop_assert_eq!(after, before);
        }
    }
}
