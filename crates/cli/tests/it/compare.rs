//! What a file holds, and how two differ.

use serde_json::json;

use crate::support::{Place, sqlite3};

#[test]
fn two_files_are_compared_row_by_row_and_exactly() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    assert!(laptop.ok(["diff", &phone.db().display().to_string()]).contains("no difference"));
    phone.ok(["exec", "UPDATE notes SET title = 'DUNE' WHERE title = 'Dune'; DELETE FROM notes WHERE title = 'Emma'"]);
    phone.ok(["exec", "INSERT INTO notes(id, title, stars) VALUES(77, 'Ubik', NULL)"]);
    phone.ok(["exec", "CREATE TABLE mine(a)"]);
    let path = phone.db().display().to_string();
    let shown = laptop.run(["diff", &path]);
    assert_eq!(shown.code, 3, "{shown:?}");
    for part in ["notes  +1 ~1 -1", "title \"Dune\" → \"DUNE\"", "+ 77  title \"Ubik\"", "- ", "table mine is in"] {
        assert!(shown.out.contains(part), "{part}: {shown:?}");
    }
    let diff = laptop.run(["diff", &path, "--json"]);
    let diff: serde_json::Value = serde_json::from_str(&diff.out).expect("JSON");
    let table = &diff["tables"][0];
    assert_eq!((&table["added"], &table["modified"], &table["deleted"]), (&json!(1), &json!(1), &json!(1)));
    let modified = table["rows"].as_array().expect("rows").iter().find(|row| row["what"] == "modified").expect("one");
    assert_eq!(modified["cells"], json!([{ "column": "title", "old": "Dune", "new": "DUNE" }]));
    assert_eq!(diff["only_in_second"], json!(["mine"]));
    // Two files that know nothing of isle; what SQL calls equal may differ.
    let (one, two) = (place.path("one.db"), place.path("two.db"));
    sqlite3(&one, "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v); INSERT INTO t VALUES('a', 1), ('b', 'x')");
    sqlite3(&two, "CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, v); INSERT INTO t VALUES('A', 1.0), ('b', 'x')");
    let before = std::fs::read(&one).expect("readable");
    let (one, two) = (one.display().to_string(), two.display().to_string());
    let shown = laptop.run(["diff", &one, &two]);
    assert!(shown.out.contains("+0 ~1 -0") && shown.code == 3, "{shown:?}");
    assert_eq!(std::fs::read(&one).expect("readable"), before);
    let gone = place.path("gone.db");
    assert!(laptop.fails(1, ["diff", &gone.display().to_string()]).contains("gone.db"));
    assert!(!gone.exists());
    laptop.fails(2, ["diff"]);
}

#[test]
fn a_file_is_compared_with_what_its_remote_holds() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    phone.ok(["exec", "UPDATE notes SET stars = 9"]);
    phone.ok(["sync"]);
    let shown = laptop.run(["diff", "--remote", "hub"]);
    assert!(shown.code == 3 && shown.out.contains("~2") && shown.out.contains("→ 9"), "{shown:?}");
    laptop.ok(["sync"]);
    assert_eq!(laptop.json(["devices"]).as_array().map(Vec::len), Some(2), "nobody else has joined");
    assert!(laptop.ok(["diff", "--remote", "hub"]).contains("no difference"));
    laptop.fails(2, ["diff", "--remote", "nope"]);
}

#[test]
fn rows_are_found_by_what_a_person_types() {
    let place = Place::new();
    let laptop = place.laptop();
    assert!(laptop.fails(2, ["search", "notes", "dune"]).contains("USING fts5"));
    laptop.ok(["exec", "CREATE VIRTUAL TABLE notes_text USING fts5(title, content='notes', content_rowid='id')"]);
    laptop.ok(["exec", "INSERT INTO notes_text(notes_text) VALUES('rebuild')"]);
    let found = laptop.ok(["search", "notes", "du* -film"]);
    assert!(found.contains("[Dune]") && found.contains("1 row found"), "{found}");
    let json = laptop.json(["search", "notes", "title:DUNE"]);
    assert_eq!(json[0]["row"], json!({ "id": 1, "title": "Dune", "stars": 5 }));
    assert_eq!(laptop.json(["search", "notes", "-OR (\"*"]), json!([]));
    assert_eq!(laptop.json(["search", "notes", "dune", "--offset", "1"]), json!([]));
}

#[test]
fn a_file_tells_what_it_holds_and_gives_room_back() {
    let place = Place::new();
    let laptop = place.laptop();
    let fill = "WITH RECURSIVE n(i) AS (VALUES(100) UNION ALL SELECT i + 1 FROM n WHERE i < 5100)
                INSERT INTO notes(id, title, stars) SELECT i, hex(randomblob(50)), i FROM n";
    laptop.ok(["exec", fill]);
    let info = laptop.json(["info"]);
    let notes =
        info["tables"].as_array().expect("tables").iter().find(|table| table["name"] == "notes").expect("there");
    assert_eq!(notes["rows"], json!(5003));
    // {"id":1234,"title":"…100…","stars":1234}
    let json_bytes = notes["json_bytes"].as_u64().expect("a number");
    assert!((5_000 * 135..5_000 * 150).contains(&json_bytes), "{json_bytes}");
    let sum: u64 = ["free_bytes", "log_bytes", "clock_bytes", "isle_bytes", "other_bytes"]
        .iter()
        .map(|part| info[part].as_u64().expect("a number"))
        .chain(
            info["tables"].as_array().expect("tables").iter().map(|table| table["bytes"].as_u64().expect("a number")),
        )
        .sum();
    assert_eq!(sum, info["bytes"].as_u64().expect("a number"), "every page is somebody's: {info}");
    assert!(laptop.ok(["info"]).contains("times as much"));
    laptop.ok(["exec", "DELETE FROM notes WHERE id > 99"]);
    laptop.ok(["sync"]);
    laptop.ok(["compact", "--keep", "0s"]);
    let vacuumed = laptop.json(["vacuum"]);
    assert!(vacuumed["bytes_after"].as_u64() < vacuumed["bytes_before"].as_u64(), "{vacuumed}");
    assert!(laptop.ok(["doctor"]).contains("✓"));
}
