//! Texts and JSON values that devices edit at once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use isle_changeset::Value;
use isle_clock::VersionVector;
use support::{Device, settle};

const NOTES: &str = "CREATE TABLE notes(
    id INTEGER PRIMARY KEY,
    body TEXT NOT NULL DEFAULT '', -- @merge text
    settings TEXT NOT NULL DEFAULT '{}' -- @merge json
);
CREATE VIRTUAL TABLE found USING fts5(body, content='notes', content_rowid='id');
CREATE TRIGGER ai AFTER INSERT ON notes BEGIN INSERT INTO found(rowid, body) VALUES(new.id, new.body); END;
CREATE TRIGGER ad AFTER DELETE ON notes BEGIN INSERT INTO found(found, rowid, body) VALUES('delete', old.id, old.body); END;
CREATE TRIGGER au AFTER UPDATE ON notes BEGIN
  INSERT INTO found(found, rowid, body) VALUES('delete', old.id, old.body);
  INSERT INTO found(rowid, body) VALUES(new.id, new.body);
END;";

fn pair() -> (Device, Device) {
    let (a, b) = (Device::untracked(1, ""), Device::untracked(2, ""));
    a.store.apply_schema(NOTES).unwrap();
    a.run("INSERT INTO notes VALUES(1, 'the fox jumps', '{\"size\": 1, \"tags\": [\"a\"]}')");
    b.pull(&a);
    (a, b)
}

fn one(device: &Device, sql: &str) -> String {
    let read = |conn: &rusqlite::Connection| {
        Ok::<_, isle_store::StoreError>(conn.query_row(sql, [], |row| row.get::<_, Option<String>>(0)))
    };
    device.store.read(read).unwrap().unwrap().unwrap_or_else(|| "NULL".into())
}

const BODY: &str = "SELECT body FROM notes WHERE id = 1";
const SETTINGS: &str = "SELECT settings FROM notes WHERE id = 1";

/// D-07: both insertions survive.
#[test]
fn two_devices_edit_one_text_through_any_client() {
    let (a, b) = pair();
    a.run("UPDATE notes SET body = replace(body, 'fox', 'quick fox'), settings = json_set(settings, '$.size', 2)");
    b.foreign("UPDATE notes SET body = body || ' over', settings = json_insert(settings, '$.tags[#]', 'b')");
    settle(&[&a, &b]);
    assert_eq!(one(&a, BODY), "the quick fox jumps over");
    assert_eq!(one(&b, SETTINGS), r#"{"size":2,"tags":["a","b"]}"#);
    assert_eq!(a.store.count_conflicts(true).unwrap(), 0, "nothing was lost");
    // And on: what both have by now is edited, found, and read as JSON.
    a.foreign("UPDATE notes SET body = replace(body, 'jumps', 'leaps')");
    b.run("UPDATE notes SET body = 'See: ' || body");
    settle(&[&a, &b]);
    assert_eq!(one(&a, BODY), "See: the quick fox leaps over");
    assert_eq!(one(&b, "SELECT body FROM found WHERE found MATCH 'leaps'"), "See: the quick fox leaps over");
    assert_eq!(b.rows("SELECT json_extract(settings, '$.tags[1]') = 'b' FROM notes"), ["Integer(1)"]);
}

#[test]
fn devices_that_adopt_the_same_text_share_it() {
    let notes =
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT); INSERT INTO notes VALUES(1, 'one two'), (2, 'mine')";
    let (a, b) = (Device::untracked(1, notes), Device::untracked(2, notes));
    b.foreign("UPDATE notes SET body = 'yours' WHERE id = 2");
    for device in [&a, &b] {
        device.store.track(&["notes"]).unwrap();
        device.store.apply_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT -- @merge text\n)").unwrap();
    }
    a.run("UPDATE notes SET body = 'zero ' || body");
    b.run("UPDATE notes SET body = body || ' three'");
    settle(&[&a, &b]);
    assert_eq!(one(&a, BODY), "zero one two three");
    // Those that differ are one value or the other, and what was edited in the loser is in the journal.
    let second = one(&a, "SELECT body FROM notes WHERE id = 2");
    assert!(["zero mine", "yours three"].contains(&second.as_str()), "{second}");
    let lost: Vec<Value> = b.store.conflicts(true, 10).unwrap().into_iter().map(|lost| lost.value).collect();
    let text = |text: &str| Value::Text(text.as_bytes().to_vec());
    let loser = if second == "zero mine" { ["yours three", " three"] } else { ["zero mine", "zero "] };
    assert!(lost.iter().any(|value| loser.iter().any(|loser| *value == text(loser))), "{lost:?}");
}

#[test]
fn a_value_that_is_no_text_replaces_it_and_the_edits_are_in_the_journal() {
    let (a, b) = pair();
    a.run("UPDATE notes SET body = body || ' high'");
    settle(&[&a, &b]);
    a.run("UPDATE notes SET body = body || ' and far'");
    b.pass(5);
    b.run("UPDATE notes SET body = x'01', settings = 'none'");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT body = x'01' FROM notes"), ["Integer(1)"]);
    assert_eq!(one(&a, SETTINGS), "none");
    let lost: Vec<Value> = a.store.conflicts(true, 10).unwrap().into_iter().map(|lost| lost.value).collect();
    assert!(lost.contains(&Value::Text(b"the fox jumps high and far".to_vec())), "{lost:?}");
    let lost: Vec<Value> = b.store.conflicts(true, 10).unwrap().into_iter().map(|lost| lost.value).collect();
    assert!(lost.contains(&Value::Text(b" and far".to_vec())), "{lost:?}");
    // Back to a text, even to the old one: edits of it that were under way count again, on every device.
    b.run("UPDATE notes SET body = 'the fox jumps'");
    settle(&[&a, &b]);
    assert_eq!(one(&b, BODY), one(&a, BODY));
}

#[test]
fn a_late_edit_of_a_text_that_comes_back_counts_wherever_it_arrives() {
    let (a, b) = pair();
    let c = Device::untracked(3, "");
    c.pull(&a);
    c.run("UPDATE notes SET body = body || '!'");
    a.run("UPDATE notes SET body = x'00'");
    a.run("UPDATE notes SET body = 'the fox jumps'");
    // One hears of the edit before the text went, one after it came back.
    b.pull(&c);
    b.pull(&a);
    a.pull(&c);
    settle(&[&a, &b, &c]);
    assert_eq!(one(&c, BODY), "the fox jumps!");
}

/// One device never had the text that an edit is of: it had lost already when it came.
#[test]
fn an_edit_of_a_text_that_was_never_shown_here_waits_for_it() {
    let (a, b) = pair();
    let (c, d) = (Device::untracked(3, ""), Device::untracked(4, ""));
    c.pull(&a);
    d.pull(&a);
    a.run("INSERT INTO notes(id, body) VALUES(2, 'one')");
    c.pull(&a);
    c.run("UPDATE notes SET body = 'one!' WHERE id = 2");
    b.pass(50);
    b.run("INSERT INTO notes(id, body) VALUES(2, 'two')");
    d.pull(&b);
    d.pull(&a);
    d.pull(&c);
    assert_eq!(one(&d, "SELECT body FROM notes WHERE id = 2"), "two");
    settle(&[&a, &b, &c, &d]);
    b.run("UPDATE notes SET body = x'00' WHERE id = 2");
    b.run("UPDATE notes SET body = 'one' WHERE id = 2");
    settle(&[&a, &b, &c, &d]);
    assert_eq!(one(&d, "SELECT body FROM notes WHERE id = 2"), one(&c, "SELECT body FROM notes WHERE id = 2"));
    assert_eq!(one(&d, "SELECT body FROM notes WHERE id = 2"), "one!");
}

#[test]
fn how_json_is_spelled_is_isles_once_it_was_edited() {
    let (a, b) = pair();
    a.run("UPDATE notes SET settings = '{ \"size\" : 1, \"tags\" : [ \"a\" ] }'");
    assert_eq!(one(&a, SETTINGS), "{\"size\": 1, \"tags\": [\"a\"]}", "nothing was changed");
    a.foreign("UPDATE notes SET settings = '{ \"tags\" : [ \"a\" ],  \"size\" : 1.5 }'");
    settle(&[&a, &b]);
    assert_eq!(one(&b, SETTINGS), r#"{"size":1.5,"tags":["a"]}"#);
    b.run("UPDATE notes SET settings = '{\"n\": 123456789012345678901234567890}'");
    settle(&[&a, &b]);
    assert_eq!(one(&a, SETTINGS), "{\"n\": 123456789012345678901234567890}", "no digit is lost");
}

#[test]
fn a_copied_file_edits_on_under_a_new_site() {
    let (a, b) = pair();
    a.run("UPDATE notes SET body = body || ' one'");
    a.store.seal().unwrap();
    let mut copy = Device::untracked(9, "");
    std::fs::remove_file(copy.path()).unwrap();
    a.foreign(&format!("VACUUM INTO '{}'", copy.path().display()));
    copy.restart();
    // Both go on from the same state at the same time.
    a.run("UPDATE notes SET body = body || ' two'");
    copy.run("UPDATE notes SET body = 'zero ' || body");
    copy.store.new_site(0, None).unwrap();
    settle(&[&a, &b, &copy]);
    assert_eq!(one(&b, BODY), "zero the fox jumps one two");
}

#[test]
fn a_deleted_row_takes_its_text_along_and_tells() {
    let (a, b) = pair();
    a.run("UPDATE notes SET body = body || ' on'");
    b.run("DELETE FROM notes");
    settle(&[&a, &b]);
    assert!(a.rows("SELECT * FROM notes").is_empty());
    let lost: Vec<Value> = a.store.conflicts(true, 10).unwrap().into_iter().map(|lost| lost.value).collect();
    assert!(lost.contains(&Value::Text(b"the fox jumps on".to_vec())), "{lost:?}");
    b.run("INSERT INTO notes(id, body) VALUES(1, 'the fox jumps')");
    settle(&[&a, &b]);
    assert_eq!(one(&a, BODY), "the fox jumps", "a new life begins from its base");
}

#[test]
fn a_snapshot_brings_documents_and_joins_those_that_are_here() {
    let (a, b) = pair();
    a.run("UPDATE notes SET body = body || ' far'");
    b.run("UPDATE notes SET body = 'see ' || body");
    let mut blocks = Vec::new();
    b.store.seal().unwrap();
    b.store.mark_published(b.store.status().unwrap().version).unwrap();
    let made = b
        .store
        .export_snapshot(|block| {
            blocks.push(block.bytes);
            Ok::<_, isle_store::StoreError>(())
        })
        .unwrap();
    a.store.stage_snapshot(&made.header, &VersionVector::new()).unwrap();
    a.store.stage_blocks(blocks.iter().map(Vec::as_slice).enumerate()).unwrap();
    a.store.join_snapshot().unwrap();
    assert_eq!(one(&a, BODY), "see the fox jumps far");
    settle(&[&a, &b]);
}

#[test]
fn a_text_of_megabytes_is_edited_and_a_larger_one_is_a_plain_value() {
    let (a, b) = pair();
    a.run(
        "UPDATE notes SET body = (WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
           SELECT group_concat('line ' || i, char(10)) FROM n)",
    );
    settle(&[&a, &b]);
    a.run("UPDATE notes SET body = replace(body, 'line 77' || char(10), 'LINE 77' || char(10))");
    b.foreign("UPDATE notes SET body = replace(body, 'line 19999' || char(10), '')");
    settle(&[&a, &b]);
    assert_eq!(
        a.rows("SELECT length(body), instr(body, 'LINE 77') > 0, instr(body, 'line 19999') FROM notes").len(),
        1
    );
    assert_eq!(
        b.rows("SELECT instr(body, 'LINE 77') > 0, instr(body, 'line 19999') = 0 FROM notes"),
        ["Integer(1)|Integer(1)"]
    );
    // So many characters at once are no edit but another text.
    a.run(
        "UPDATE notes SET body = (WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
           SELECT group_concat('row ' || i, ' ') FROM n)",
    );
    settle(&[&a, &b]);
    a.run("UPDATE notes SET body = 'short'");
    b.run("UPDATE notes SET body = body || ' end'");
    settle(&[&a, &b]);
    assert_eq!(one(&a, BODY), "short");
    a.run("UPDATE notes SET body = replace(hex(zeroblob(1500000)), '00', 'x y')");
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT length(body) FROM notes"), ["Integer(4500000)"]);
}

#[test]
fn numbers_and_unique_columns_cannot_be_documents() {
    let device = Device::untracked(1, "");
    let refused = |sql: &str| device.store.apply_schema(sql).unwrap_err().to_string();
    assert!(refused("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER -- @merge text\n)").contains("no TEXT"));
    assert!(refused("CREATE TABLE t(id INTEGER PRIMARY KEY, n TEXT UNIQUE -- @merge json\n)").contains("UNIQUE"));
}
