//! Versions of a schema, and what an app does to its data when it reaches one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isle::{Definition, Error, Replica, Steps, Value, Version};

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

fn replica(folder: &Path, name: &str) -> Replica {
    let replica =
        Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).app("app").init().unwrap();
    replica.add_plain_remote("all", folder.join("bucket").to_str().unwrap()).unwrap();
    replica
}

/// A folder of numbered files: 1.10 comes after 1.9, and its release candidate before it.
fn migrations(folder: &Path, count: usize) -> Definition {
    let files = [
        ("1.8.0__init.sql", "CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT NOT NULL);"),
        ("1.9.0__checksum.sql", "ALTER TABLE models ADD COLUMN checksum TEXT;"),
        ("1.10.0-rc.1__index.sql", "CREATE INDEX models_checksum ON models(checksum);"),
        ("1.10.0__status.sql", "ALTER TABLE models ADD COLUMN status TEXT NOT NULL DEFAULT 'pending'"),
    ];
    let folder = folder.join(format!("migrations{count}"));
    std::fs::create_dir_all(&folder).unwrap();
    for (name, sql) in &files[..count] {
        std::fs::write(folder.join(name), sql).unwrap();
    }
    Definition::from_dir(&folder).unwrap()
}

fn versions(replica: &Replica) -> Vec<String> {
    replica
        .schema_history()
        .unwrap()
        .into_iter()
        .filter_map(|op| op.version.map(|version| version.to_string()))
        .collect()
}

/// Would catch: forms of one definition that devices take for two schemas, and a constraint of the data's form that is left out.
#[test]
fn sql_and_data_of_one_schema_get_along() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "CREATE TABLE pages(id TEXT PRIMARY KEY, page INTEGER NOT NULL DEFAULT 1, CHECK(page > 0)); CREATE INDEX by_page ON pages(page) WHERE page > 7;";
    let json = r#"{"tables": {"pages": {"columns": [{"name": "id", "type": "TEXT", "primary_key": true},
        {"name": "page", "type": "INTEGER", "not_null": true, "default": "1"}], "check_constraints": [{"expression": "page > 0"}]}},
        "indexes": [{"name": "by_page", "table": "pages", "columns": ["page"], "where_clause": "page > 7"}]}"#;
    let (a, b) = (replica(folder.path(), "a"), replica(folder.path(), "b"));
    let of_json = || Definition::from_json(json).unwrap();
    a.apply_schema(sql).unwrap();
    b.apply_schema(of_json()).unwrap();
    assert!(a.plan_schema(of_json()).unwrap().changes.is_empty() && b.plan_schema(sql).unwrap().changes.is_empty());
    a.write(|tx| tx.execute("INSERT INTO pages VALUES('a', 1)", &[])).unwrap();
    b.write(|tx| tx.execute("INSERT INTO pages VALUES('b', 2)", &[])).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for replica in [&a, &b, &a] {
        runtime.block_on(replica.sync()).unwrap();
    }
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    for replica in [&a, &b] {
        assert_eq!(replica.read(|q| q.all::<String>("SELECT id FROM pages ORDER BY id", &[])).unwrap(), ["a", "b"]);
        let refused = replica.write(|tx| tx.execute("INSERT INTO pages VALUES('x', 0)", &[])).unwrap_err().to_string();
        assert!(refused.contains("CHECK"), "{refused}");
    }
    let other = Definition::from_json(&json.replace("page > 0", "page >= 0")).unwrap();
    assert_eq!(b.plan_schema(other).unwrap().changes[0].kind, "change table");
}

#[test]
fn what_only_adds_makes_no_backup() {
    let folder = tempfile::tempdir().unwrap();
    let (replica, backups) = (replica(folder.path(), "a"), folder.path().join("copies"));
    replica.sync_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT);", &backups).unwrap();
    replica.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'x')", &[])).unwrap();
    let more =
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT); CREATE TABLE tags(id INTEGER PRIMARY KEY);";
    let report = replica.sync_schema(more, &backups).unwrap();
    assert!(report.plan.changes.len() == 2 && report.backup.is_none() && !backups.exists());
    let strict = more.replace("title TEXT", "title TEXT NOT NULL DEFAULT ''");
    assert!(
        replica.sync_schema(strict.as_str(), &backups).unwrap().backup.is_some_and(|copy| copy.starts_with(&backups))
    );
}

/// Would catch: a version that is told of a file whose schema cannot be read, or told before its change is made.
#[test]
fn a_version_is_told_when_its_change_is_made_and_of_no_damaged_schema() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (replica(folder.path(), "a"), replica(folder.path(), "b"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sync = || [&a, &b].map(|replica| drop(runtime.block_on(replica.sync()).unwrap()));
    a.apply_schema("-- @version 1.0\nCREATE TABLE notes(id INTEGER PRIMARY KEY);").unwrap();
    sync();
    assert_eq!(b.schema_version().unwrap(), Some(version("1.0")));
    // Something of b's own stands in the way of the next one.
    b.write(|tx| tx.execute_batch("CREATE TABLE tags(name TEXT PRIMARY KEY)")).unwrap();
    a.apply_schema(
        "-- @version 2.0\nCREATE TABLE notes(id INTEGER PRIMARY KEY); CREATE TABLE tags(id INTEGER PRIMARY KEY);",
    )
    .unwrap();
    sync();
    assert_eq!(
        (a.schema_version().unwrap(), b.schema_version().unwrap()),
        (Some(version("2.0")), Some(version("1.0")))
    );
    b.write(|tx| tx.execute_batch("DROP TABLE tags")).unwrap();
    sync();
    assert_eq!(b.schema_version().unwrap(), Some(version("2.0")));
    rusqlite::Connection::open(b.path()).unwrap().execute("UPDATE isle_migration SET body = x'00'", []).unwrap();
    b.schema_version().unwrap_err();
}

#[test]
fn each_version_that_is_new_is_an_operation_and_the_second_run_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path(), "a");
    assert_eq!(replica.schema_version().unwrap(), None);
    replica.apply_schema(migrations(folder.path(), 1)).unwrap();
    assert_eq!(replica.schema_version().unwrap(), Some(version("1.8")));
    let plan = replica.plan_schema(migrations(folder.path(), 4)).unwrap();
    assert_eq!(plan.versions, (Some(version("1.8.0")), Some(version("1.10.0"))));
    replica.apply_schema(migrations(folder.path(), 4)).unwrap();
    assert_eq!(versions(&replica), ["1.8.0", "1.9.0", "1.10.0-rc.1", "1.10.0"]);
    assert!(replica.schema_history().unwrap().iter().all(|operation| operation.applied_at_ms > 0));
    let operations = replica.schema().unwrap().operations;
    assert!(replica.apply_schema(migrations(folder.path(), 4)).unwrap().changes.is_empty());
    assert_eq!(replica.schema().unwrap().operations, operations);
}

#[tokio::test]
async fn a_step_runs_once_where_the_version_is_reached_and_what_it_writes_travels() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (replica(folder.path(), "a"), replica(folder.path(), "b"));
    a.apply_schema(migrations(folder.path(), 1)).unwrap();
    a.write(|tx| tx.execute_batch("INSERT INTO models VALUES('x', 'one'), ('y', 'two')")).unwrap();
    for replica in [&a, &b] {
        replica.sync().await.unwrap();
    }
    let runs = Arc::new(AtomicUsize::new(0));
    let steps = |fail: bool| {
        let (runs, order) = (Arc::clone(&runs), Arc::clone(&runs));
        Steps::new()
            .at("1.10.0", move |tx| {
                assert_eq!(order.load(Ordering::SeqCst), 1, "versions come in their order");
                tx.execute("UPDATE models SET status = 'known' WHERE checksum IS NOT NULL", &[]).map(drop)
            })
            .at("1.9", move |tx| {
                runs.fetch_add(1, Ordering::SeqCst);
                tx.execute("UPDATE models SET checksum = 'c' || id WHERE checksum IS NULL", &[])?;
                if fail { tx.execute("no SQL", &[]).map(drop) } else { Ok(()) }
            })
    };
    let backups = folder.path().join("backups");
    // A step that fails leaves the version where it was, and runs again.
    assert!(a.migrate(migrations(folder.path(), 4), &backups, &steps(true)).is_err());
    assert_eq!(a.schema_version().unwrap(), Some(version("1.8.0")));
    runs.store(0, Ordering::SeqCst);
    a.migrate(migrations(folder.path(), 4), &backups, &steps(false)).unwrap();
    a.migrate(migrations(folder.path(), 4), &backups, &steps(false)).unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    for replica in [&a, &b] {
        replica.sync().await.unwrap();
    }
    // The other device has the version already: its app has nothing left to do.
    b.migrate(migrations(folder.path(), 4), &backups, &steps(false)).unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let rows = b.read(|conn| conn.query("SELECT checksum, status FROM models ORDER BY id", &[])).unwrap();
    let texts: Vec<&Value> = rows.iter().flat_map(isle::Row::values).collect();
    assert_eq!(texts, ["cx", "known", "cy", "known"].map(|text| Value::Text(text.to_owned())).each_ref());
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[test]
fn a_definition_of_an_earlier_version_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path(), "a");
    replica.apply_schema(migrations(folder.path(), 4)).unwrap();
    let plan = replica.apply_schema(migrations(folder.path(), 2)).unwrap();
    assert!(plan.is_older() && plan.changes.is_empty());
    assert_eq!(replica.schema_version().unwrap(), Some(version("1.10.0")));
    // The same as one file, or as data.
    let sql = "-- @version 1.10.0\nCREATE TABLE models(id TEXT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT,
               status TEXT NOT NULL DEFAULT 'pending'); CREATE INDEX models_checksum ON models(checksum)";
    assert!(replica.apply_schema(sql).unwrap().changes.is_empty());
    assert!(replica.apply_schema(replica.dump_schema().unwrap()).unwrap().changes.is_empty());
    let document = replica.dump_schema_document().unwrap();
    assert_eq!(document.version.as_deref(), Some("1.10.0"));
    assert!(replica.apply_schema(&document).unwrap().changes.is_empty());
    assert!(matches!(replica.apply_schema("-- @version one\n"), Err(Error::Store(_))));
}

#[test]
fn tables_without_a_version_begin_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path(), "a");
    let sql = "CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT); INSERT INTO models VALUES('x', 'n', 'c')";
    replica.write(|tx| tx.execute_batch(sql)).unwrap();
    replica.track(&["models"]).unwrap();
    replica.apply_schema(migrations(folder.path(), 4)).unwrap();
    assert_eq!(versions(&replica), ["1.9.0", "1.10.0-rc.1", "1.10.0"]);
}

/// A version that was set by mistake would keep every app of a smaller one from changing anything.
#[tokio::test]
async fn a_version_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (replica(folder.path(), "a"), replica(folder.path(), "b"));
    a.apply_schema(migrations(folder.path(), 1)).unwrap();
    let sql = migrations(folder.path(), 1).sql().replace("1.8.0", "99");
    a.apply_schema(sql).unwrap();
    assert!(a.apply_schema(migrations(folder.path(), 2)).unwrap().is_older());
    let mistake = a.schema_history().unwrap().pop().unwrap();
    a.undo_schema(mistake.id, None).unwrap();
    assert_eq!(a.schema_version().unwrap(), Some(version("1.8.0")));
    a.apply_schema(migrations(folder.path(), 2)).unwrap();
    for replica in [&a, &b] {
        replica.sync().await.unwrap();
    }
    assert_eq!(b.schema_version().unwrap(), Some(version("1.9.0")));
}

#[test]
fn taking_back_a_change_that_makes_a_table_anew_copies_the_database_first() {
    let folder = tempfile::tempdir().unwrap();
    let replica = replica(folder.path(), "a");
    replica.apply_schema("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT)").unwrap();
    replica.apply_schema("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT CHECK(n > 0), m INT)").unwrap();
    let last = replica.schema_history().unwrap().pop().unwrap();
    let backups = folder.path().join("backups");
    let (steps, backup) = replica.undo_schema(last.id, Some(&backups)).unwrap();
    assert_eq!(steps.len(), 2);
    let copy = schema_of(&backup.unwrap());
    assert!(copy.contains("CHECK"), "{copy}");
    replica.write(|tx| tx.execute("INSERT INTO t(n) VALUES(-1)", &[])).unwrap();
}

fn schema_of(path: &Path) -> String {
    let copy = Replica::builder(path).open().unwrap();
    copy.dump_schema().unwrap()
}

/// A folder of numbered files.
fn files(folder: &Path, name: &str, files: &[(&str, &str)]) -> Result<Definition, Error> {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, sql) in files {
        std::fs::write(folder.join(name), sql).unwrap();
    }
    Definition::from_dir(&folder)
}

const INIT: (&str, &str) = (
    "1.0.0__init.sql",
    "CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT NOT NULL);\nINSERT INTO models VALUES('seed', 'first');",
);
const STATUS: (&str, &str) = (
    "1.1.0__status.sql",
    "-- What was there before counts as known;\nUPDATE models SET name = upper(name);\n\
     ALTER TABLE models ADD COLUMN status TEXT; -- a comment\nUPDATE models SET status = 'known;' WHERE id <> 'none';",
);

#[tokio::test]
async fn statements_of_numbered_files_change_rows_once_and_travel() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (replica(folder.path(), "a"), replica(folder.path(), "b"));
    a.apply_schema(files(folder.path(), "one", &[INIT]).unwrap()).unwrap();
    a.write(|tx| tx.execute_batch("INSERT INTO models VALUES('x', 'second')")).unwrap();
    a.apply_schema(files(folder.path(), "one", &[INIT]).unwrap()).unwrap();
    for replica in [&a, &b] {
        replica.sync().await.unwrap();
    }
    let two = || files(folder.path(), "two", &[INIT, STATUS]).unwrap();
    let rows = |replica: &Replica| -> Vec<String> {
        replica.read(|q| q.all("SELECT id || ' ' || name || ' ' || status FROM models ORDER BY id", &[])).unwrap()
    };
    a.apply_schema(two()).unwrap();
    assert_eq!(rows(&a), ["seed FIRST known;", "x SECOND known;"], "in their order, behind the change of the table");
    // What came since is not touched again.
    a.write(|tx| tx.execute_batch("INSERT INTO models VALUES('y', 'third', 'new')")).unwrap();
    a.apply_schema(two()).unwrap();
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    b.apply_schema(two()).unwrap();
    assert_eq!(rows(&b), ["seed FIRST known;", "x SECOND known;", "y third new"], "b has it from a, and ran nothing");
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[tokio::test]
async fn two_devices_that_reach_a_version_at_once_write_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (replica(folder.path(), "a"), replica(folder.path(), "b"));
    for replica in [&a, &b] {
        replica.apply_schema(files(folder.path(), "two", &[INIT, STATUS]).unwrap()).unwrap();
    }
    for replica in [&a, &b, &a] {
        replica.sync().await.unwrap();
    }
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    let count: Option<i64> = a.read(|q| q.one("SELECT count(*) FROM models", &[])).unwrap();
    assert_eq!((count, a.schema_version().unwrap()), (Some(1), Some(version("1.1.0"))));
}

#[test]
fn a_statement_that_fails_leaves_the_version_and_the_rows_and_runs_again() {
    let folder = tempfile::tempdir().unwrap();
    let a = replica(folder.path(), "a");
    a.apply_schema(files(folder.path(), "one", &[INIT]).unwrap()).unwrap();
    let broken = (STATUS.0, "UPDATE models SET name = 'z'; INSERT INTO models VALUES('seed', 'again');");
    let error = a.apply_schema(files(folder.path(), "broken", &[INIT, broken]).unwrap()).unwrap_err();
    assert!(error.to_string().contains("UNIQUE"), "{error}");
    let name = || -> Option<String> { a.read(|q| q.one("SELECT name FROM models", &[])).unwrap() };
    assert_eq!((name().as_deref(), a.schema_version().unwrap()), (Some("first"), Some(version("1.0.0"))));
    a.apply_schema(files(folder.path(), "two", &[INIT, STATUS]).unwrap()).unwrap();
    assert_eq!((name().as_deref(), a.schema_version().unwrap()), (Some("FIRST"), Some(version("1.1.0"))));
}

#[test]
fn rows_that_were_there_before_isle_are_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let a = replica(folder.path(), "a");
    a.write(|tx| {
        tx.execute_batch(
            "CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT NOT NULL); INSERT INTO models VALUES('seed', 'mine')",
        )
    })
    .unwrap();
    a.track(&["models"]).unwrap();
    a.apply_schema(files(folder.path(), "two", &[INIT, STATUS]).unwrap()).unwrap();
    let names: Vec<String> = a.read(|q| q.all("SELECT name FROM models", &[])).unwrap();
    assert_eq!(names, ["MINE"], "1.0.0 stood already, 1.1.0 is new");
}

#[test]
fn a_definition_that_changes_rows_is_refused_where_it_would_do_nothing_or_differ() {
    let folder = tempfile::tempdir().unwrap();
    let a = replica(folder.path(), "a");
    for statement in [
        "UPDATE models SET name = 'x'",
        "DELETE FROM models",
        "INSERT INTO models VALUES('a', 'b')",
        "REPLACE INTO models VALUES('a', 'b')",
    ] {
        let plan =
            a.plan_schema(format!("CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT);\n{statement};")).unwrap();
        assert!(plan.refused.iter().any(|reason| reason.contains(statement) && reason.contains("models")), "{plan:?}");
    }
    for random in
        ["randomblob(16)", "random()", "CURRENT_TIMESTAMP", "datetime('now')", "strftime('%s', 'NOW')", "unixepoch( )"]
    {
        let sql =
            format!("CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT);\nINSERT INTO models VALUES('a', {random});");
        let error = files(folder.path(), "random", &[("1.0.0__init.sql", &sql)]).unwrap_err();
        assert!(error.to_string().contains("each time"), "{error}");
    }
    let sql =
        "CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT);\nINSERT INTO models VALUES(?1, date('2026-01-01'));";
    let error = files(folder.path(), "parameter", &[("1.0.0__init.sql", sql)]).unwrap_err();
    assert!(error.to_string().contains("parameters"), "{error}");
    // Triggers, defaults and search are no changes of rows.
    let plan = a.plan_schema(
        "CREATE TABLE models(id INTEGER PRIMARY KEY, name TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP);
         CREATE TRIGGER t AFTER INSERT ON models BEGIN UPDATE models SET name = 'x' WHERE id = NEW.id; END;
         CREATE VIRTUAL TABLE f USING fts5(name, content='models', content_rowid='id');
         INSERT INTO f(f) VALUES('rebuild');",
    );
    assert_eq!(plan.unwrap().refused, Vec::<String>::new());
}

#[tokio::test]
async fn a_new_device_does_not_undo_what_the_group_has_made_of_seed_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (replica(folder.path(), "a"), replica(folder.path(), "b"));
    let two = || files(folder.path(), "two", &[INIT, STATUS]).unwrap();
    a.apply_schema(two()).unwrap();
    a.write(|tx| tx.execute_batch("UPDATE models SET name = 'changed', status = 'mine'")).unwrap();
    a.sync().await.unwrap();
    // As an embedded app starts: the definition first, then the first sync.
    b.apply_schema(two()).unwrap();
    for replica in [&b, &a] {
        replica.sync().await.unwrap();
        let row: Option<String> = replica.read(|q| q.one("SELECT name || ' ' || status FROM models", &[])).unwrap();
        assert_eq!(row.as_deref(), Some("changed mine"));
    }
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[test]
fn a_first_version_that_was_cut_off_is_brought_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let a = replica(folder.path(), "a");
    let table = "CREATE TABLE models(id TEXT PRIMARY KEY, name TEXT NOT NULL);";
    let broken = format!("{table}\nINSERT INTO models VALUES('seed', 'first'), ('seed', 'again');");
    a.apply_schema(files(folder.path(), "broken", &[("1.0.0__init.sql", &broken)]).unwrap()).unwrap_err();
    assert_eq!(a.schema_version().unwrap(), None);
    a.apply_schema(files(folder.path(), "one", &[INIT]).unwrap()).unwrap();
    let names: Vec<String> = a.read(|q| q.all("SELECT name FROM models", &[])).unwrap();
    assert_eq!((names, a.schema_version().unwrap()), (vec!["first".to_owned()], Some(version("1.0.0"))));
}

#[test]
fn directives_before_a_statement_that_changes_rows_stay_and_the_right_text_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let a = replica(folder.path(), "a");
    let sql = "CREATE TABLE log(id INTEGER PRIMARY KEY, line TEXT);
        CREATE TABLE models(id INTEGER PRIMARY KEY, name TEXT);
        CREATE TRIGGER t AFTER INSERT ON log BEGIN INSERT INTO models VALUES(1, 'a;'); END;
        /* INSERT INTO models VALUES(1, 'a;') */ ;
        -- INSERT INTO models VALUES(1, 'a;')
        -- @scope log local
        INSERT INTO models VALUES(1, 'a;');
        ;; WITH n(i) AS (SELECT 2) INSERT INTO models SELECT i, '--' FROM n RETURNING id;
        SELECT 1;";
    a.apply_schema(files(folder.path(), "odd", &[("1.0.0__init.sql", sql)]).unwrap()).unwrap();
    let status = a.status().unwrap();
    assert_eq!((status.tables, a.schema().unwrap().local), (vec!["models".to_owned()], vec!["log".to_owned()]));
    let rows: Vec<String> = a.read(|q| q.all("SELECT id || name FROM models ORDER BY id", &[])).unwrap();
    assert_eq!(rows, ["1a;", "2--"]);
    let plan = a.plan_schema(files(folder.path(), "odd", &[]).unwrap()).unwrap();
    assert_eq!(plan.changes, []);
}

#[test]
fn what_cannot_be_read_is_named_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, sql: &str| std::fs::write(folder.path().join(name), sql).unwrap();
    file("1.0.0__init.sql", "CREATE TABLE t(id INTEGER PRIMARY KEY);");
    file("1.1.0__more.sql", "ALTER TABLE t ADD COLUM a; INSERT INTO t");
    let error = Definition::from_dir(folder.path()).unwrap_err().to_string();
    assert!(error.contains("1.1.0__more.sql"), "{error}");
    file("1.1.0__more.sql", "INSERT INTO t VALUES(random());");
    let error = Definition::from_dir(folder.path()).unwrap_err().to_string();
    assert!(error.contains("1.1.0__more.sql: INSERT"), "{error}");
    // A name in a comment ends with its line.
    let json = r#"{"version": "1.0", "tables": {"a\nb": {"columns": [{"name": "id", "type": "INTEGER", "primary_key": true}]}}}"#;
    let error = Definition::from_json(json).unwrap_err().to_string();
    assert!(error.contains("control character"), "{error}");
    assert!(Definition::from_json(&json.replace("\\n", "")).is_ok());
}

/// Would catch: a definition that says nothing new and leaves an app that cannot write, because its search was dropped by hand.
#[test]
fn what_was_dropped_by_hand_comes_back_with_the_definition() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let replica = Replica::builder(&path).home(folder.path().join("home")).init().unwrap();
    let sql = "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, title TEXT);
        CREATE VIRTUAL TABLE search USING fts5(title, content='notes');
        CREATE TRIGGER notes_i AFTER INSERT ON notes BEGIN INSERT INTO search(rowid, title) VALUES(new.rowid, new.title); END;";
    replica.apply_schema(sql).unwrap();
    let insert = "INSERT INTO notes VALUES('a', 'sand')";
    rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE search").unwrap();
    assert!(replica.write(|tx| tx.execute(insert, &[])).is_err());
    assert!(!replica.check().unwrap().findings.is_empty());
    assert!(replica.apply_schema(sql).unwrap().changes.is_empty());
    replica.write(|tx| tx.execute(insert, &[])).unwrap();
    assert_eq!(replica.search("notes", "sand", 9, 0).unwrap().len(), 1);
    assert_eq!(replica.check().unwrap().findings, []);
}
