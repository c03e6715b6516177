//! Views, triggers and full-text tables that travel with the schema.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_schema::{Migration, Object, ObjectKind, Step};
use support::{Device, settle};

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, body TEXT);";

const SEARCH: &str = "
    CREATE VIRTUAL TABLE notes_fts USING fts5(title, body, content='notes', content_rowid='id', tokenize='porter unicode61');
    CREATE TRIGGER notes_ai AFTER INSERT ON notes BEGIN
      INSERT INTO notes_fts(rowid, title, body) VALUES (new.id, new.title, new.body);
    END;
    CREATE TRIGGER notes_ad AFTER DELETE ON notes BEGIN
      INSERT INTO notes_fts(notes_fts, rowid, title, body) VALUES('delete', old.id, old.title, old.body);
    END;
    CREATE TRIGGER notes_au AFTER UPDATE ON notes BEGIN
      INSERT INTO notes_fts(notes_fts, rowid, title, body) VALUES('delete', old.id, old.title, old.body);
      INSERT INTO notes_fts(rowid, title, body) VALUES (new.id, new.title, new.body);
    END;
    CREATE VIEW titles AS SELECT id, title FROM notes;
    CREATE TRIGGER titles_i INSTEAD OF INSERT ON titles BEGIN INSERT INTO notes(id, title) VALUES(new.id, new.title); END;";

fn found(device: &Device, words: &str) -> Vec<String> {
    device.rows(&format!("SELECT rowid FROM notes_fts WHERE notes_fts MATCH '{words}' ORDER BY rowid"))
}

fn fts_is_sound(device: &Device) {
    device.foreign("INSERT INTO notes_fts(notes_fts, rank) VALUES('integrity-check', 1)");
}

#[test]
fn search_is_filled_where_rows_are_and_stays_right_after_merges() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'Dune', 'sand and spice')");
    b.run("INSERT INTO notes VALUES(2, 'Ubik', 'cold pac')");
    let schema = format!("{NOTES}{SEARCH}");
    let plan = a.store.apply_schema(&schema).unwrap();
    assert_eq!(plan.changes.len(), 6, "{:?}", plan.changes);
    assert!(a.store.plan_schema(&schema).unwrap().changes.is_empty(), "a plan of what stands is empty");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(found(device, "spice"), ["Integer(1)"]);
        assert_eq!(found(device, "pac"), ["Integer(2)"]);
        fts_is_sound(device);
    }
    a.run("UPDATE notes SET body = 'ice' WHERE id = 1; INSERT INTO titles VALUES(3, 'Emma')");
    b.foreign("DELETE FROM notes WHERE id = 2");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert!(found(device, "spice").is_empty() && found(device, "pac").is_empty());
        assert_eq!(
            (found(device, "ice"), found(device, "emma")),
            (vec!["Integer(1)".into()], vec!["Integer(3)".into()])
        );
        fts_is_sound(device);
        assert_eq!(device.rows("SELECT count(*) FROM titles"), ["Integer(2)"]);
    }
    // A device that is new gets all of it.
    let late = Device::untracked(3, "");
    late.pull(&a);
    assert_eq!(found(&late, "emma"), ["Integer(3)"]);
    fts_is_sound(&late);
}

#[test]
fn a_full_text_table_that_nothing_keeps_is_pointed_out() {
    let lint = |sql: &str| -> Vec<String> {
        let all = isle_store::lint_schema(sql).unwrap();
        all.into_iter()
            .filter(|lint| lint.code == "search")
            .map(|lint| format!("{}: {}", lint.subject, lint.message))
            .collect()
    };
    assert!(lint(&format!("{NOTES}{SEARCH}")).is_empty());
    let without = format!("{NOTES}{SEARCH}")
        .replace("CREATE TRIGGER notes_au AFTER UPDATE ON notes", "CREATE TRIGGER notes_au AFTER UPDATE ON extra");
    let found = lint(&format!("CREATE TABLE extra(id INTEGER PRIMARY KEY, title TEXT, body TEXT); {without}"));
    assert!(
        found.len() == 1 && found[0].starts_with("notes_fts: no trigger on notes writes to it after UPDATE"),
        "{found:?}"
    );
    let none = format!("{NOTES} CREATE VIRTUAL TABLE f USING fts5(title, content='notes')");
    assert!(lint(&none)[0].contains("after INSERT and UPDATE and DELETE"));
}

/// Somebody drops what the schema has, and the app cannot write any more: applying the definition is no news to the group, but makes it again here.
#[test]
fn what_somebody_has_dropped_is_told_and_made_again() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    let schema = format!("{NOTES}{SEARCH}");
    a.store.apply_schema(&schema).unwrap();
    settle(&[&a, &b]);
    b.foreign("DROP TRIGGER notes_au; DROP VIEW titles; DROP TABLE notes_fts");
    let findings: Vec<String> = b.store.check().unwrap().findings.into_iter().map(|finding| finding.message).collect();
    // The view's trigger went with it.
    for name in ["notes_au", "notes_fts", "titles", "titles_i"] {
        assert!(findings.iter().any(|finding| finding.starts_with(&format!("{name}, "))), "{name}: {findings:?}");
    }
    assert!(
        b.store.write(|tx| tx.execute_batch("INSERT INTO notes VALUES(1, 'Dune', 'spice')")).is_err(),
        "a trigger writes to what is gone"
    );
    let applied = b.store.apply_schema(&schema).unwrap();
    assert!(applied.changes.is_empty(), "{:?}", applied.changes);
    b.run("INSERT INTO notes VALUES(1, 'Dune', 'spice'); UPDATE notes SET body = 'sand' WHERE id = 1; INSERT INTO titles VALUES(3, 'Emma')");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(
            (found(device, "sand"), found(device, "emma")),
            (vec!["Integer(1)".into()], vec!["Integer(3)".into()])
        );
        fts_is_sound(device);
    }
    // Dropped for everybody it is gone and not missed.
    b.store.apply_schema(NOTES).unwrap();
    settle(&[&a, &b]);
}

/// Most apps that sync have such keys. Each device has numbers of its own for its rows.
#[test]
fn rows_with_keys_that_are_no_integers_are_searched_too() {
    let jobs = "CREATE TABLE jobs(a TEXT NOT NULL, b TEXT NOT NULL, body TEXT, PRIMARY KEY(a, b));
        CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, body TEXT);";
    let search = |table: &str| {
        format!(
            "CREATE VIRTUAL TABLE {table}_fts USING fts5(body, content='{table}');
            CREATE TRIGGER {table}_i AFTER INSERT ON {table} BEGIN INSERT INTO {table}_fts(rowid, body) VALUES(new.rowid, new.body); END;
            CREATE TRIGGER {table}_d AFTER DELETE ON {table} BEGIN
              INSERT INTO {table}_fts({table}_fts, rowid, body) VALUES('delete', old.rowid, old.body);
            END;
            CREATE TRIGGER {table}_u AFTER UPDATE ON {table} BEGIN
              INSERT INTO {table}_fts({table}_fts, rowid, body) VALUES('delete', old.rowid, old.body);
              INSERT INTO {table}_fts(rowid, body) VALUES(new.rowid, new.body);
            END;"
        )
    };
    let schema = format!("{jobs} {} {}", search("jobs"), search("notes"));
    let (a, b) = (Device::new(1, jobs), Device::new(2, jobs));
    a.run("INSERT INTO jobs VALUES('x', '1', 'sand'), ('x', '2', 'spice'), ('y', '1', 'worms'); INSERT INTO notes VALUES('n', 'sand')");
    b.run("INSERT INTO jobs VALUES('z', '1', 'spice'); INSERT INTO notes VALUES('m', 'ice')");
    a.store.apply_schema(&schema).unwrap();
    settle(&[&a, &b]);
    let found = |device: &Device, words: &str| {
        device.rows(&format!("SELECT t.a || t.b FROM jobs_fts AS f JOIN jobs AS t ON t.rowid = f.rowid WHERE jobs_fts MATCH '{words}' ORDER BY 1"))
    };
    let text = |of: &str| format!("Text({:?})", of.as_bytes());
    b.foreign("UPDATE jobs SET body = 'melange' WHERE a = 'x' AND b = '2'; DELETE FROM jobs WHERE a = 'y'; UPDATE jobs SET a = 'w' WHERE a = 'x' AND b = '1'");
    a.run("UPDATE jobs SET body = 'spice and water' WHERE a = 'z'; UPDATE notes SET body = 'glass' WHERE id = 'm'");
    settle(&[&a, &b]);
    let late = Device::untracked(3, "");
    late.pull(&a);
    for device in [&a, &b, &late] {
        assert_eq!(found(device, "spice"), [text("z1")]);
        assert_eq!((found(device, "melange"), found(device, "sand")), (vec![text("x2")], vec![text("w1")]));
        assert!(found(device, "worms").is_empty());
        assert_eq!(device.store.check().unwrap().findings, []);
        device.foreign("DELETE FROM jobs WHERE a = 'x'");
        device.store.vacuum().unwrap();
        assert_eq!(found(device, "spice"), [text("z1")]);
        device.foreign("VACUUM");
        assert_eq!(device.store.check().unwrap().findings, []);
    }
    // An index that somebody has emptied is told.
    a.foreign("INSERT INTO notes_fts(notes_fts) VALUES('delete-all')");
    let findings = a.store.check().unwrap().findings;
    assert!(
        findings.len() == 1 && findings[0].message.contains("notes_fts does not find what notes holds"),
        "{findings:?}"
    );
    a.foreign("INSERT INTO notes_fts(notes_fts) VALUES('rebuild')");
    assert_eq!(a.store.check().unwrap().findings, []);
}

#[test]
fn what_the_definition_says_otherwise_or_no_more_follows_everywhere() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.store.apply_schema(&format!("{NOTES}{SEARCH}")).unwrap();
    settle(&[&a, &b]);
    let other = format!("{NOTES} CREATE VIEW titles AS SELECT upper(title) AS t FROM notes;");
    let plan = b.store.apply_schema(&other).unwrap();
    assert_eq!(plan.changes.iter().filter(|change| change.kind == "drop").count(), 5, "{:?}", plan.changes);
    settle(&[&a, &b]);
    a.run("INSERT INTO notes VALUES(1, 'x', 'y')");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(device.rows("SELECT count(*) FROM titles WHERE t = 'X'"), ["Integer(1)"]);
        let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'notes\\_%' ESCAPE '\\'";
        assert_eq!(device.rows(left), ["Integer(0)"]);
    }
}

#[test]
fn a_column_that_search_gets_is_searched_in_the_rows_that_are_there() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    let search = |columns: &str| {
        format!("CREATE VIRTUAL TABLE notes_fts USING fts5({columns}, content='notes', content_rowid='id');")
    };
    a.run("INSERT INTO notes VALUES(1, 'Dune', 'sand and spice')");
    settle(&[&a, &b]);
    a.store.apply_schema(&format!("{NOTES}{}", search("title"))).unwrap();
    settle(&[&a, &b]);
    assert!(found(&b, "spice").is_empty());
    b.store.apply_schema(&format!("{NOTES}{}", search("title, body"))).unwrap();
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(
            (found(device, "body:spice"), found(device, "dune")),
            (vec!["Integer(1)".into()], vec!["Integer(1)".into()])
        );
        fts_is_sound(device);
    }
}

/// Would catch: a part of an app, as the library of files, that takes the rest of the app's views and search away, on every device.
#[test]
fn a_definition_of_a_part_leaves_what_it_does_not_name() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.store.apply_schema(&format!("{NOTES}{SEARCH}")).unwrap();
    let part =
        "-- @partial\nCREATE TABLE parts(id INTEGER PRIMARY KEY); CREATE VIEW all_parts AS SELECT id FROM parts;";
    let plan = a.store.apply_schema(part).unwrap();
    assert!(plan.changes.iter().all(|change| change.kind != "drop"), "{:?}", plan.changes);
    // Of what it names it is the word.
    let plan = a.store.apply_schema(&part.replace("SELECT id FROM", "SELECT id + 1 AS id FROM")).unwrap();
    assert_eq!(plan.changes.iter().map(|change| change.kind).collect::<Vec<_>>(), ["replace"]);
    settle(&[&a, &b]);
    b.run("INSERT INTO titles VALUES(3, 'Emma'); INSERT INTO parts VALUES(1)");
    assert_eq!(
        (found(&b, "emma"), b.rows("SELECT id FROM all_parts")),
        (vec!["Integer(3)".into()], vec!["Integer(2)".into()])
    );
}

#[test]
fn a_rename_takes_views_and_search_along() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.store.apply_schema(&format!("{NOTES}{SEARCH}")).unwrap();
    a.run("INSERT INTO notes VALUES(1, 'Dune', 'spice')");
    settle(&[&a, &b]);
    let renamed = format!("{NOTES}{SEARCH}").replace("title", "head") + "\n-- @rename notes.title -> head";
    b.store.apply_schema(&renamed).unwrap();
    assert!(b.store.plan_schema(&renamed).unwrap().changes.is_empty());
    a.run("INSERT INTO notes VALUES(2, 'Ubik', 'under the old name')");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(found(device, "head: dune OR head: ubik"), ["Integer(1)", "Integer(2)"]);
        fts_is_sound(device);
    }
}

#[test]
fn what_cannot_be_kept_right_or_does_not_compile_is_refused_by_name() {
    let device = Device::new(1, NOTES);
    device.foreign("CREATE VIEW mine AS SELECT 1");
    for (sql, reason) in [
        ("CREATE VIRTUAL TABLE f USING fts5(title)", "keeps its own content"),
        ("CREATE VIRTUAL TABLE f USING fts5(title, content='')", "keeps its own content"),
        ("CREATE VIRTUAL TABLE f USING rtree(id, a, b)", "not authorized"),
        (
            "CREATE TABLE k(id TEXT PRIMARY KEY, t TEXT) WITHOUT ROWID; CREATE VIRTUAL TABLE f USING fts5(t, content='k')",
            "have no number",
        ),
        (
            "CREATE TABLE k(id TEXT PRIMARY KEY, oid TEXT, t TEXT); CREATE VIRTUAL TABLE f USING fts5(t, content='k', content_rowid='oid')",
            "have no number",
        ),
        ("CREATE VIEW v AS SELECT * FROM nowhere", "does not compile"),
        ("CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM nowhere; END", "does not compile"),
        ("CREATE VIEW mine AS SELECT 2", "the app has made another one"),
    ] {
        let plan = device.store.plan_schema(&format!("{NOTES} {sql};")).unwrap();
        assert!(plan.refused.iter().any(|refused| refused.contains(reason)), "{sql}: {:?}", plan.refused);
        assert!(device.store.apply_schema(&format!("{NOTES} {sql};")).is_err());
    }
}

#[test]
fn hostile_objects_of_another_device_are_left_out_and_nothing_else_is_held_up() {
    let object = |kind, name: &str, sql: &str| Object { kind, name: name.into(), sql: sql.into() };
    use ObjectKind::{FullText, Trigger, View};
    for hostile in [
        object(View, "v", "DROP TABLE notes"),
        object(View, "v", "CREATE VIEW v AS SELECT 1; DROP TABLE notes"),
        object(View, "v", "CREATE VIEW other AS SELECT 1"),
        object(View, "v", "CREATE TABLE v(a)"),
        object(View, "isle_log", "CREATE VIEW isle_log AS SELECT 1"),
        object(View, "notes", "CREATE VIEW notes AS SELECT 1"),
        object(View, "v", "ATTACH 'x.db' AS v"),
        object(FullText, "f", "CREATE VIRTUAL TABLE f USING fts5(x, content='isle_log', content_rowid='id')"),
        object(FullText, "f", "CREATE VIRTUAL TABLE f USING csv(filename='/etc/passwd')"),
        object(FullText, "notes", "CREATE VIRTUAL TABLE notes USING fts5(x, content='notes')"),
        object(Trigger, "t", "CREATE TRIGGER t AFTER INSERT ON notes BEGIN DELETE FROM isle_log; END"),
        object(Trigger, "t", "CREATE TRIGGER t AFTER UPDATE ON notes BEGIN UPDATE isle_meta SET v = 0; END"),
        object(
            Trigger,
            "t",
            "CREATE TRIGGER t AFTER DELETE ON notes BEGIN INSERT INTO notes(title) SELECT v FROM isle_meta; END",
        ),
        object(Trigger, "t", "CREATE TRIGGER t AFTER INSERT ON notes BEGIN SELECT load_extension('x'); END"),
        object(Trigger, "t", "CREATE TRIGGER t AFTER INSERT ON notes BEGIN SELECT nonsense; END"),
        object(Trigger, "t", "CREATE TRIGGER t AFTER INSERT ON isle_log BEGIN SELECT 1; END"),
        object(Trigger, "t", "CREATE TRIGGER isle_x AFTER INSERT ON notes BEGIN DELETE FROM notes; END"),
        object(Trigger, "isle_x", "CREATE TRIGGER isle_x AFTER INSERT ON notes BEGIN DELETE FROM notes; END"),
    ] {
        let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
        a.run("INSERT INTO notes VALUES(1, 'kept', '')");
        let parents = b.store.schema_heads().unwrap();
        let operation = Migration { app: "test".into(), parents, steps: vec![Step::PutObject(hostile.clone())] };
        let names = "SELECT name FROM sqlite_schema ORDER BY name";
        let before = a.rows(names);
        a.store.put_migration(&operation.encode().unwrap().1).unwrap();
        assert_eq!(a.rows(names), before, "{hostile:?}");
        a.run("INSERT INTO notes VALUES(2, 'works', ''); UPDATE notes SET body = 'x'; DELETE FROM notes WHERE id = 2");
        settle(&[&a, &b]);
        assert_eq!(b.rows("SELECT count(*) FROM notes"), ["Integer(1)"], "{hostile:?}");
    }
}

#[test]
fn search_finds_the_same_rows_after_the_file_was_made_anew() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.store.apply_schema(&format!("{NOTES}{SEARCH}")).unwrap();
    a.run(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 300)
         INSERT INTO notes SELECT i * 10, 'note' || i, 'common' FROM n",
    );
    settle(&[&a, &b]);
    a.run("DELETE FROM notes WHERE id % 30 = 0");
    // Where rowids are not a key VACUUM gives new ones, in isle's tables too.
    a.foreign("UPDATE notes SET body = 'waits in the queue' WHERE id = 70; VACUUM; INSERT INTO notes VALUES(5, 'late', 'common')");
    for device in [&a, &b] {
        fts_is_sound(device);
        assert_eq!(found(device, "note7"), ["Integer(70)"]);
    }
    assert_eq!(found(&a, "queue"), ["Integer(70)"]);
    b.run("UPDATE notes SET body = 'of b' WHERE id = 80; DELETE FROM notes WHERE id = 50");
    settle(&[&a, &b]);
    b.foreign("VACUUM");
    a.run("UPDATE notes SET title = 'renamed' WHERE id = 5");
    b.foreign("UPDATE notes SET body = 'another' WHERE id = 10");
    settle(&[&a, &b]);
    for device in [&a, &b] {
        fts_is_sound(device);
        assert_eq!(
            (found(device, "renamed"), found(device, "another")),
            (vec!["Integer(5)".into()], vec!["Integer(10)".into()])
        );
        assert_eq!(found(device, "common").len(), device.rows("SELECT 1 FROM notes WHERE body = 'common'").len());
        assert!(found(device, "note5").is_empty() && found(device, "note3").is_empty());
    }
    let late = Device::untracked(3, "");
    late.pull(&a);
    late.foreign("VACUUM");
    assert_eq!(found(&late, "common"), found(&a, "common"));
    fts_is_sound(&late);
}

/// A seal of many rows writes statement by statement; a full-text table writes then what it has in memory.
#[test]
fn many_rows_in_one_transaction_are_sealed_beside_a_full_text_table() {
    let a = Device::new(1, NOTES);
    a.store.apply_schema(&format!("{NOTES}{SEARCH}")).unwrap();
    let rows =
        |from: i64| (from..from + 100).map(|n| format!("INSERT INTO notes VALUES({n}, 'n{n}', 'spice');")).collect();
    let (first, second): (String, String) = (rows(1), rows(1_000));
    a.run(&first);
    a.run(&second);
    a.run("UPDATE notes SET body = 'sand' WHERE id < 50");
    assert_eq!((found(&a, "spice").len(), found(&a, "sand").len()), (151, 49));
    fts_is_sound(&a);
    a.check();
}
