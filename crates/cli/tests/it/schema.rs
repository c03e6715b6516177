//! Declared schemas, as commands.

use serde_json::json;

use crate::support::{Place, sqlite3};

const FIRST: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT);\n";

#[test]
fn a_definition_is_planned_applied_and_followed_elsewhere() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let file = |sql: &str| std::fs::write(laptop.folder.join("schema.sql"), sql).expect("written");
    file(FIRST);
    assert!(laptop.ok(["schema", "plan", "schema.sql"]).contains("the tables are what the file says"));
    file(&FIRST.replace("stars INT", "stars INT, colour TEXT DEFAULT 'red'"));
    let plan = laptop.run(["schema", "plan", "schema.sql"]);
    assert_eq!(plan.code, 3, "{plan:?}");
    assert!(plan.out.contains("add column") && plan.out.contains("DEFAULT 'red'"), "{plan:?}");
    phone.ok(["exec", "UPDATE notes SET stars = 1 WHERE id = 1"]);
    assert!(laptop.ok(["schema", "apply", "schema.sql"]).contains("other replicas follow"));
    laptop.ok(["exec", "UPDATE notes SET colour = 'blue' WHERE id = 1"]);
    for device in [&laptop, &phone, &laptop] {
        device.ok(["sync"]);
    }
    assert_eq!(phone.rows("SELECT stars, colour FROM notes ORDER BY id"), ["1,blue", ",red"]);
    assert_eq!(phone.json(["hash"])["merged"], laptop.json(["hash"])["merged"]);
    assert_eq!(phone.json(["schema", "show"])["tables"][0]["columns"], json!(["title", "stars", "colour"]));
    assert!(phone.ok(["schema", "show"]).contains("title, stars, colour"));
    assert!(phone.ok(["doctor"]).contains("✓"));
}

#[test]
fn what_cannot_be_done_blocks_all_of_it() {
    let place = Place::new();
    let laptop = place.laptop();
    let changed = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title INT, stars INT, more TEXT)";
    let plan = laptop.feed(["schema", "plan", "-"], changed);
    assert_eq!(plan.code, 4, "{plan:?}");
    assert!(plan.out.contains("cannot be done") && plan.out.contains("title"), "{plan:?}");
    let apply = laptop.feed(["schema", "apply", "-"], changed);
    assert_eq!(apply.code, 4, "{apply:?}");
    assert!(apply.err.contains("nothing was changed"), "{apply:?}");
    assert_eq!(laptop.feed(["schema", "plan", "-"], "CREATE TABEL x").code, 2);
    assert!(laptop.fails(1, ["schema", "plan", "missing.sql"]).contains("missing.sql"));
    assert_eq!(laptop.json(["schema", "show"])["operations"], json!(1));
}

/// The schema of a reference document, as data: composite UNIQUE, cascades, a partial index, full-text search.
const DOCUMENT: &str = r#"{
  "version": "1.0.0",
  "tables": {
    "projects": { "columns": [
        { "name": "id", "type": "TEXT", "not_null": true, "primary_key": true },
        { "name": "root_path", "type": "TEXT", "not_null": true, "unique": true },
        { "name": "created_at", "type": "REAL", "not_null": false, "default": "julianday('now')" } ],
      "foreign_keys": [], "unique_constraints": [ { "columns": ["root_path"] } ], "check_constraints": [] },
    "files": { "columns": [
        { "name": "id", "type": "INTEGER", "not_null": true, "primary_key": true },
        { "name": "project_id", "type": "TEXT", "not_null": true },
        { "name": "path", "type": "TEXT", "not_null": true },
        { "name": "deleted", "type": "BOOLEAN", "not_null": false, "default": "0" } ],
      "foreign_keys": [ { "columns": ["project_id"], "references_table": "projects", "references_columns": ["id"], "on_delete": "CASCADE" } ],
      "unique_constraints": [ { "columns": ["project_id", "path"] } ] }
  },
  "indexes": [ { "name": "idx_files_deleted", "table": "files", "columns": ["deleted"], "unique": false, "where_clause": "deleted = 1" } ],
  "virtual_tables": [ { "name": "files_fts", "type": "fts5", "columns": ["path"], "options": { "content": "files", "content_rowid": "rowid" } } ]
}"#;

const SAME: &str = "
  -- the same, written otherwise
  create table projects (id text primary key not null, root_path TEXT NOT NULL UNIQUE, created_at REAL DEFAULT (julianday('now')));
  CREATE TABLE files(id INTEGER PRIMARY KEY NOT NULL, project_id TEXT NOT NULL REFERENCES projects(id) ON DELETE CASCADE,
    path TEXT NOT NULL, deleted BOOLEAN DEFAULT 0, UNIQUE (project_id, path));
  CREATE INDEX idx_files_deleted ON files(deleted) WHERE deleted = 1;
  CREATE VIRTUAL TABLE \"files_fts\" USING \"fts5\"(\"path\", content='files', content_rowid='rowid');";

#[test]
fn a_schema_as_data_as_sql_and_as_numbered_files_is_one_schema() {
    let place = Place::new();
    let device = place.device("laptop");
    std::fs::write(device.folder.join("schema.json"), DOCUMENT).expect("written");
    std::fs::write(device.folder.join("schema.sql"), SAME).expect("written");
    device.ok(["schema", "apply", "schema.json"]);
    assert_eq!(device.json(["status"])["tables"], json!(["files", "projects"]));
    let plan = device.json(["schema", "plan", "schema.sql"]);
    assert_eq!((&plan["changes"], &plan["refused"]), (&json!([]), &json!([])), "spelling is no difference");
    // What is dumped is met, in both forms.
    for (args, name) in [(vec!["schema", "dump"], "dump.sql"), (vec!["schema", "dump", "--json"], "dump.json")] {
        std::fs::write(device.folder.join(name), device.ok(&args)).expect("written");
        assert_eq!(device.run(["schema", "plan", name]).code, 0, "{name}");
    }
    let steps = device.json(["schema", "history"])[0]["steps"].clone();
    assert!(steps.to_string().contains("create full-text table files_fts"), "{steps}");

    // Numbered files: what they make one after the other, in the order of versions.
    let folder = device.folder.join("migrations");
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join("1.9.0__start.sql"), "CREATE TABLE log(id INTEGER PRIMARY KEY, text TEXT)")
        .expect("written");
    std::fs::write(folder.join("1.10.0__level.sql"), "ALTER TABLE log ADD COLUMN level INT DEFAULT 0;")
        .expect("written");
    let plan = device.json(["schema", "apply", "migrations"]);
    assert_eq!(plan["changes"][0]["table"], json!("log"));
    std::fs::write(
        folder.join("1.11.0__rename.sql"),
        "-- @rename log.text -> message\nALTER TABLE log RENAME text TO message",
    )
    .expect("written");
    let plan = device.json(["schema", "apply", "migrations"]);
    assert_eq!(plan["changes"][0]["kind"], json!("rename column"));
    std::fs::write(folder.join("1.12.0__data.sql"), "INSERT INTO log VALUES(1, 'x', 0)").expect("written");
    device.ok(["schema", "apply", "migrations"]);
    assert_eq!(device.rows("SELECT id, message FROM log"), ["1,x"], "a numbered file may change rows, once");
    device.ok(["schema", "apply", "migrations"]);
    std::fs::write(device.folder.join("rows.sql"), "CREATE TABLE t(id INTEGER PRIMARY KEY);\nDELETE FROM t;")
        .expect("written");
    assert!(device.fails(4, ["schema", "apply", "rows.sql"]).contains("DELETE FROM t changes rows of t"));
    assert!(device.fails(1, ["schema", "plan", "nowhere"]).contains("nowhere"));
    std::fs::write(device.folder.join("bad.json"), "{ \"tables\": { \"t\": { \"colums\": [] } } }").expect("written");
    let said = device.fails(2, ["schema", "plan", "bad.json"]);
    assert!(said.contains("bad.json") && said.contains("unknown field `colums`") && said.contains("line 1"), "{said}");
}

#[test]
fn columns_of_a_kind_count_together() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let schema = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT, reads INTEGER NOT NULL DEFAULT 0, -- @merge counter
        last_read TEXT, -- @merge max
        tags TEXT -- @merge set
      );
      -- @group notes(title, stars)
      CREATE TABLE cache(query TEXT PRIMARY KEY, until REAL); -- @scope local
      -- @expires cache.until";
    std::fs::write(laptop.folder.join("schema.sql"), schema).expect("written");
    assert!(laptop.ok(["schema", "apply", "schema.sql"]).contains("reads merges as a counter"));
    for device in [&laptop, &phone] {
        device.ok(["sync"]);
    }
    laptop.ok(["exec", "UPDATE notes SET reads = reads + 3, last_read = '2026-05-01', tags = '[\"a\"]' WHERE id = 1"]);
    phone.ok(["exec", "UPDATE notes SET reads = reads + 4, last_read = '2026-04-01', tags = '[\"b\"]' WHERE id = 1"]);
    for device in [&laptop, &phone, &laptop] {
        device.ok(["sync"]);
    }
    for device in [&laptop, &phone] {
        assert_eq!(
            device.rows("SELECT reads, last_read, json_array_length(tags) FROM notes WHERE id = 1"),
            ["7,2026-05-01,2"]
        );
        assert_eq!(device.json(["status"])["conflicts"], json!(0));
    }
    for (args, name) in [(vec!["schema", "dump"], "dump.sql"), (vec!["schema", "dump", "--json"], "dump.json")] {
        std::fs::write(phone.folder.join(name), phone.ok(&args)).expect("written");
        assert_eq!(phone.run(["schema", "plan", name]).code, 0, "{name}");
    }
    let shown = phone.json(["schema", "show"]);
    assert_eq!((&shown["local"], &shown["left_out"]), (&json!(["cache"]), &json!([])));
    phone.ok(["exec", "INSERT INTO cache VALUES('gone', 1), ('kept', NULL)"]);
    assert_eq!(
        phone.json(["sync", "--check"])["remotes"][0]["ahead"],
        json!(0),
        "rows of a local table are nobody's news"
    );
    phone.ok(["sync"]);
    assert_eq!(phone.rows("SELECT query FROM cache"), ["kept"]);
    assert!(laptop.rows("SELECT query FROM cache").is_empty());
    assert!(phone.ok(["schema", "show"]).contains("reads (counter), last_read (max), tags (set)"));
    // What is no number goes to the journal.
    phone.ok(["exec", "UPDATE notes SET reads = 'many' WHERE id = 1"]);
    assert_eq!(phone.rows("SELECT reads FROM notes WHERE id = 1"), ["7"]);
    assert!(phone.ok(["conflicts"]).contains("many"));
}

#[test]
fn a_table_that_is_made_anew_is_copied_before() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let file = |rule: &str| {
        let sql = format!("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT CHECK({rule}));");
        std::fs::write(laptop.folder.join("schema.sql"), sql).expect("written");
    };
    file("stars < 6");
    let plan = laptop.run(["schema", "plan", "schema.sql"]);
    assert!(plan.code == 3 && plan.out.contains("change table") && plan.out.contains("2 rows are copied"), "{plan:?}");
    assert!(!laptop.folder.join("backups").exists(), "a plan changes nothing");
    let backup = laptop.json(["schema", "apply", "schema.sql"])["backup"].as_str().expect("a path").to_owned();
    let table = "SELECT sql LIKE '%CHECK%' FROM sqlite_schema WHERE name = 'notes'";
    assert_eq!(crate::support::sqlite3(std::path::Path::new(&backup), table).trim(), "0");
    assert_eq!(laptop.rows(table), ["1"]);
    assert_eq!(laptop.json(["schema", "apply", "schema.sql"])["backup"], json!(null), "nothing to do, nothing to copy");
    file("stars < 7");
    let taken = laptop.folder.join("taken");
    std::fs::write(&taken, "a file").expect("written");
    let said = laptop.fails(1, ["schema", "apply", "schema.sql", "--backups", "taken"]);
    assert!(said.contains("taken") && said.contains("nothing was changed"), "{said}");
    laptop.ok(["schema", "apply", "schema.sql", "--no-backup"]);
    assert_eq!(laptop.json(["backup", "list"]).as_array().expect("a list").len(), 1);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    assert!(phone.fails(1, ["exec", "UPDATE notes SET stars = 8"]).contains("CHECK"));
    // Rows that do not fit a new rule are named, and nothing is done.
    file("stars < 3");
    assert!(laptop.fails(4, ["schema", "apply", "schema.sql"]).contains("CHECK"));
    assert_eq!(laptop.rows("SELECT count(*) FROM notes"), ["2"]);
}

#[test]
fn what_a_copy_has_in_common_with_its_original_is_counted_once() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let schema =
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT, reads INT DEFAULT 0); -- @merge counter";
    std::fs::write(laptop.folder.join("schema.sql"), schema).expect("written");
    laptop.ok(["schema", "apply", "schema.sql"]);
    laptop.ok(["sync"]);
    laptop.ok(["exec", "UPDATE notes SET reads = reads + 10 WHERE id = 1"]);
    // Copied with something that is not sent yet; then the original sends it, and goes on.
    let copy = place.bare("copy");
    std::fs::copy(laptop.db(), copy.db()).expect("copied");
    copy.takes_key_of(&laptop);
    laptop.ok(["sync"]);
    laptop.ok(["exec", "UPDATE notes SET reads = reads + 100 WHERE id = 1"]);
    laptop.ok(["sync"]);
    copy.ok(["exec", "UPDATE notes SET reads = reads + 1000 WHERE id = 1"]);
    for device in [&copy, &phone, &laptop, &copy] {
        device.ok(["sync"]);
    }
    for device in [&laptop, &phone, &copy] {
        assert_eq!(device.rows("SELECT reads FROM notes WHERE id = 1"), ["1110"]);
    }
    // Restored from a copy of before the last sync.
    let backup = place.path("backup.db");
    laptop.ok(["exec", "UPDATE notes SET reads = reads + 1 WHERE id = 1"]);
    std::fs::copy(laptop.db(), &backup).expect("copied");
    laptop.ok(["exec", "UPDATE notes SET reads = reads + 2 WHERE id = 1"]);
    laptop.ok(["sync"]);
    for name in ["app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(laptop.folder.join(name));
    }
    std::fs::copy(&backup, laptop.db()).expect("restored");
    for device in [&laptop, &phone, &copy] {
        device.ok(["sync"]);
    }
    for device in [&laptop, &phone, &copy] {
        assert_eq!(device.rows("SELECT reads FROM notes WHERE id = 1"), ["1113"]);
    }
}

#[test]
fn what_is_changed_by_hand_is_shown_taken_over_and_taken_back() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    assert!(laptop.ok(["schema", "status"]).contains("1 operation"));
    assert_eq!(laptop.json(["schema", "status"])["version"], json!(null));
    assert_eq!(laptop.run(["schema", "drift"]).code, 0);
    sqlite3(&laptop.db(), "ALTER TABLE notes ADD COLUMN mood TEXT");
    let drift = laptop.run(["schema", "drift"]);
    assert_eq!(drift.code, 3, "{drift:?}");
    assert!(drift.out.contains("mood"), "{drift:?}");
    let status = laptop.run(["schema", "status"]);
    assert!(status.code == 3 && status.out.contains("schema adopt"), "{status:?}");
    laptop.ok(["schema", "adopt"]);
    assert_eq!(laptop.json(["schema", "status"])["drift"], json!([]));
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    assert_eq!(phone.json(["schema", "show"])["tables"][0]["columns"], json!(["title", "stars", "mood"]));
    let history = phone.json(["schema", "history"]);
    let id = history[1]["id"].as_str().expect("an id").to_owned();
    let undone = phone.json(["schema", "undo", &id[..8]]);
    assert_eq!(undone["steps"], json!(["hide column notes.mood"]));
    assert!(phone.fails(2, ["schema", "undo", "zz"]).contains("schema history"));
    assert!(phone.fails(4, ["schema", "undo", history[0]["id"].as_str().expect("an id")]).contains("untrack"));
    sqlite3(&laptop.db(), "ALTER TABLE notes RENAME COLUMN stars TO points");
    assert!(laptop.ok(["status"]).contains("stands still"));
    assert_eq!(laptop.json(["status"])["standing_still"], json!(["notes"]));
    assert!(laptop.run(["schema", "status"]).out.contains("no column \"stars\""));
    assert_eq!(phone.json(["schema", "conflicts"]), json!([]));
}

#[test]
fn a_definition_is_looked_over_before_it_is_used() {
    let place = Place::new();
    let laptop = place.laptop();
    let lint = laptop.feed(["schema", "lint", "-"], FIRST);
    assert!(lint.code == 3 && lint.out.contains("integer-key"), "{lint:?}");
    assert_eq!(laptop.feed(["schema", "lint", "-"], "CREATE TABLE t(id TEXT PRIMARY KEY, a)").code, 0);
    assert_eq!(laptop.feed(["schema", "lint", "-"], "CREATE TABEL t").code, 2);
}

#[test]
fn a_schema_has_the_version_of_its_definition() {
    let place = Place::new();
    let laptop = place.laptop();
    let plan = laptop.feed(["schema", "plan", "-"], &format!("-- @version 1.2\n{FIRST}"));
    assert!(plan.code == 3 && plan.out.contains("1.2.0"), "{plan:?}");
    laptop.feed(["schema", "apply", "-"], &format!("-- @version 1.2\n{FIRST}"));
    assert!(laptop.ok(["schema", "status"]).contains("version  1.2.0"));
    assert_eq!(laptop.json(["schema", "history"])[1]["version"], json!("1.2.0"));
    assert!(laptop.json(["schema", "history"])[1]["applied_at"].as_str().is_some_and(|at| at.starts_with("20")));
    let older = laptop.feed(["schema", "plan", "-"], "-- @version 1.1\nCREATE TABLE notes(id INTEGER PRIMARY KEY)");
    assert!(older.code == 0 && format!("{older:?}").contains("nothing is done"), "{older:?}");
}

#[test]
fn an_operation_that_does_not_fit_is_told_and_stops_nothing() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    phone.ok(["exec", "CREATE TABLE tags(name TEXT PRIMARY KEY)"]);
    let wanted =
        FIRST.replace("stars INT", "stars INT, mood TEXT") + "CREATE TABLE tags(id INTEGER PRIMARY KEY, name TEXT);";
    laptop.feed(["schema", "apply", "-"], &wanted);
    laptop.ok([
        "exec",
        "INSERT INTO notes(id, title, mood) VALUES(9, 'new', 'fine'); INSERT INTO tags VALUES(1, 'book')",
    ]);
    laptop.ok(["sync"]);
    let sync = phone.run(["sync"]);
    assert_eq!(sync.code, 3, "a decision is needed: {sync:?}");
    assert!(sync.out.contains("cannot be applied here yet") && sync.out.contains("\"tags\""), "{sync:?}");
    assert_eq!(phone.rows("SELECT title FROM notes WHERE id = 9"), ["new"], "what fits is here");
    assert!(phone.ok(["status"]).contains("1 schema operation not applied"));
    let status = phone.run(["schema", "status"]);
    assert_eq!(status.code, 3, "{status:?}");
    assert!(status.out.contains("waits") && status.out.contains("tags"), "{status:?}");
    let parked = phone.ok(["schema", "parked"]);
    assert!(parked.contains("mood") && parked.contains("tags"), "{parked}");
    assert_eq!(phone.json(["schema", "parked"])[0]["changesets"], json!(1));
    phone.ok(["exec", "ALTER TABLE tags RENAME TO my_tags"]);
    phone.ok(["sync"]);
    assert_eq!(phone.rows("SELECT name FROM tags"), ["book"]);
    assert_eq!(phone.rows("SELECT mood FROM notes WHERE id = 9"), ["fine"]);
    assert_eq!(phone.json(["hash"])["merged"], laptop.json(["hash"])["merged"]);
    assert!(phone.ok(["schema", "parked"]).contains("nothing waits"));
}
