//! Imports and exports of documents: what counts as older than what, what is refused, what comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use isle::{
    Definition, Dialect, Error, ExportFollower, ExportOptions, ImportOptions, InterchangeError, Mapping, Replica,
    SourceState,
};

const SCHEMA: &str = "CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE jobs(
  id TEXT PRIMARY KEY COLLATE NOCASE, name TEXT NOT NULL, path TEXT UNIQUE, language TEXT DEFAULT 'English', enabled INT CHECK(enabled IN (0, 1)), size INTEGER,
  runs INTEGER NOT NULL DEFAULT 0, -- @merge counter
  tags TEXT NOT NULL DEFAULT '[]', -- @merge set
  data TEXT NOT NULL DEFAULT '{}'  -- @merge json
);";

const MAP: &str = r#"
[[source]]
file = "settings.json"
table = "settings"
rows = "entries"
[source.columns]
key = "$key"
value = { from = "$value", as = "json" }

[[source]]
file = "jobs.json"
table = "jobs"
rows = "items"
rest = "data"
[source.columns]
id = "id"
name = "name"
path = "path"
language = "language"
enabled = { from = "enabled", as = "bool" }
size = "size"
runs = "runs"
tags = { from = "tags", as = "json" }
"#;

const SETTINGS: &str = r#"{"theme": "dark", "limit": 3, "nested": {"a": [1, null, true]}, "nothing": null}"#;
const JOBS: &str = r#"[
  {"id": "a", "name": "Café", "enabled": true, "runs": 4, "tags": ["x", "y"], "odd": {"k": 1}},
  {"id": "b", "name": "two", "path": "/two", "enabled": false}
]"#;

struct Device {
    replica: Replica,
    documents: PathBuf,
}

impl Device {
    fn new(folder: &Path, name: &str) -> Device {
        let replica =
            Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).app("app").init().unwrap();
        replica.add_plain_remote("all", folder.join("bucket").to_str().unwrap()).unwrap();
        replica.apply_schema(Definition::from(SCHEMA)).unwrap();
        let documents = folder.join(format!("{name}-documents"));
        std::fs::create_dir(&documents).unwrap();
        Device { replica, documents }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.documents.join(name), text).unwrap();
    }

    fn import(&self, options: &ImportOptions) -> Result<isle::ImportReport, Error> {
        self.replica.import(&map(), &self.documents, options)
    }

    /// Imports what is in the folder, and gives the counts of the source: rows, new, the same, kept, deleted before, left out.
    fn counts(&self, source: usize) -> [u64; 6] {
        let report = self.import(&ImportOptions::default()).unwrap();
        let source = &report.sources[source];
        [source.rows, source.inserted, source.same, source.kept, source.deleted, source.dropped]
    }

    fn run(&self, sql: &str) {
        self.replica.write(|tx| tx.execute_batch(sql)).unwrap();
    }

    fn text(&self, sql: &str) -> Option<String> {
        self.replica.read(|q| q.one(sql, &[])).unwrap()
    }

    fn number(&self, sql: &str) -> i64 {
        self.replica.read(|q| q.one(sql, &[])).unwrap().unwrap()
    }

    fn sync(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.replica.sync()).unwrap();
    }

    fn open_conflicts(&self) -> usize {
        self.replica.conflicts(false, 100).unwrap().len()
    }
}

fn map() -> Mapping {
    Mapping::from_toml(MAP).unwrap()
}

fn meet(devices: &[&Device]) {
    for _ in 0..2 {
        devices.iter().for_each(|device| device.sync());
    }
    let hashes: Vec<_> = devices.iter().map(|device| device.replica.state_hash().unwrap()).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

#[test]
fn documents_become_rows_once_and_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.write("settings.json", SETTINGS);
    a.write("jobs.json", JOBS);
    let hash = a.replica.state_hash().unwrap();
    let tried = a.import(&ImportOptions::default().dry_run(true)).unwrap();
    assert_eq!((tried.sources[0].inserted, tried.sources[1].inserted), (4, 2));
    assert_eq!(a.replica.state_hash().unwrap(), hash, "a dry run has changed something");

    let report = a.import(&ImportOptions::default()).unwrap();
    assert!(report.sources.iter().all(|source| source.state == SourceState::Imported));
    assert_eq!(a.text("SELECT value FROM settings WHERE key = 'nested'").unwrap(), r#"{"a":[1,null,true]}"#);
    assert_eq!(a.text("SELECT value FROM settings WHERE key = 'nothing'").unwrap(), "null");
    assert_eq!(a.text("SELECT data FROM jobs WHERE id = 'a'").unwrap(), r#"{"odd":{"k":1}}"#);
    assert_eq!(a.text("SELECT language FROM jobs WHERE id = 'b'").unwrap(), "English", "a default of the table counts");
    let hash = a.replica.state_hash().unwrap();
    // Nothing is left to do: the ledger knows, and if it did not, the rows would.
    assert!(
        a.import(&ImportOptions::default()).unwrap().sources.iter().all(|source| source.state == SourceState::Known)
    );
    let again = a.import(&ImportOptions::default().again(true)).unwrap();
    assert_eq!((again.sources[1].inserted, again.sources[1].same), (0, 2));
    assert_eq!(a.replica.state_hash().unwrap(), hash);
    assert!(a.replica.verify_import(&map(), &a.documents).unwrap().is_equal());

    let out = folder.path().join("out");
    let exported = a.replica.export(&map(), &out, &ExportOptions::default()).unwrap();
    assert!(exported.iter().all(|document| document.written));
    let text = std::fs::read_to_string(out.join("jobs.json")).unwrap();
    assert!(text.contains("\"enabled\": true") && text.contains("\"odd\": {"), "{text}");
    // What comes back makes the same rows in another file.
    let b = Device::new(folder.path(), "b");
    b.replica.import(&map(), &out, &ImportOptions::default()).unwrap();
    assert_eq!(b.replica.state_hash().unwrap().visible, a.replica.state_hash().unwrap().visible);
    assert!(
        a.replica.export(&map(), &out, &ExportOptions::default()).unwrap().iter().all(|document| !document.written)
    );
}

/// Would catch: an import that is stamped as of now, so that an old settings file beats what somebody chose since, on whatever device.
#[test]
fn what_somebody_wrote_beats_an_import_that_came_later() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(folder.path(), "a"), Device::new(folder.path(), "b"));
    b.run("INSERT INTO settings VALUES('theme', '\"light\"'); INSERT INTO jobs(id, name, runs) VALUES('a', 'chosen', 1); UPDATE jobs SET name = 'chosen again'");
    // By time alone the import would win.
    a.write("settings.json", SETTINGS);
    a.write("jobs.json", JOBS);
    a.import(&ImportOptions::default()).unwrap();
    meet(&[&a, &b]);
    for device in [&a, &b] {
        assert_eq!(device.text("SELECT value FROM settings WHERE key = 'theme'").unwrap(), "\"light\"");
        assert_eq!(device.text("SELECT name FROM jobs WHERE id = 'a'").unwrap(), "chosen again");
        assert_eq!(device.number("SELECT count(*) FROM settings"), 4);
    }
}

/// Would catch: rows that double, counters that add up, conflicts where nobody disagrees.
#[test]
fn overlapping_imports_on_two_devices_make_each_row_once() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(folder.path(), "a"), Device::new(folder.path(), "b"));
    a.write("jobs.json", JOBS);
    b.write("jobs.json", &JOBS.replace("\"b\"", "\"c\"").replace("/two", "/three"));
    a.import(&ImportOptions::default()).unwrap();
    b.import(&ImportOptions::default()).unwrap();
    meet(&[&a, &b]);
    assert_eq!(a.number("SELECT count(*) FROM jobs"), 3);
    assert_eq!(a.number("SELECT runs FROM jobs WHERE id = 'a'"), 4);
    assert_eq!(a.text("SELECT tags FROM jobs WHERE id = 'a'").unwrap(), r#"["x","y"]"#);
    assert_eq!((a.open_conflicts(), b.open_conflicts()), (0, 0));
    // Work goes on from there.
    a.run("UPDATE jobs SET runs = runs + 1 WHERE id = 'a'");
    b.run("UPDATE jobs SET runs = runs + 2, data = json_set(data, '$.more', 1) WHERE id = 'a'");
    meet(&[&a, &b]);
    assert_eq!(a.number("SELECT runs FROM jobs WHERE id = 'a'"), 7);
    assert_eq!(a.text("SELECT data FROM jobs WHERE id = 'a'").unwrap(), r#"{"more":1,"odd":{"k":1}}"#);
}

#[test]
fn what_is_there_stays_unless_the_document_is_to_replace_it() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.write("jobs.json", JOBS);
    assert_eq!(a.counts(1), [2, 2, 0, 0, 0, 0]);
    a.run("UPDATE jobs SET name = 'mine' WHERE id = 'a'; DELETE FROM jobs WHERE id = 'b'");
    // A key in other letters is the same key; a UNIQUE value of another row keeps a row out.
    a.write("jobs.json", r#"[{"id": "A", "name": "theirs"}, {"id": "b", "name": "two", "path": "/two"}, {"id": "c", "name": "new", "path": "/c"}]"#);
    let report = a.import(&ImportOptions::default()).unwrap();
    let jobs = &report.sources[1];
    assert_eq!((jobs.inserted, jobs.kept, jobs.deleted), (1, 1, 1), "{jobs:?}");
    let told: Vec<_> = jobs.differences.iter().map(|d| (d.key.as_str(), d.column.as_str(), d.table.as_str())).collect();
    assert!(told.contains(&("A", "name", "mine")), "{told:?}");
    assert_eq!(a.text("SELECT name FROM jobs WHERE id = 'a'").unwrap(), "mine");
    let verified = a.replica.verify_import(&map(), &a.documents).unwrap();
    let jobs = &verified.sources[1];
    assert_eq!((jobs.missing, jobs.differing, jobs.extra), (1, 1, 0), "{jobs:?}");

    a.write("jobs.json", r#"[{"id": "a", "name": "theirs"}, {"id": "b", "name": "back", "path": "/two"}]"#);
    let report = a.import(&ImportOptions::default().replace(true)).unwrap();
    assert!(report.backup.is_some(), "no backup was made before rows were replaced");
    assert_eq!((report.sources[1].inserted, report.sources[1].replaced), (1, 1));
    assert_eq!(
        a.text("SELECT group_concat(name, ',') FROM (SELECT name FROM jobs ORDER BY id)").unwrap(),
        "theirs,back,new"
    );
    assert_eq!(a.number("SELECT runs FROM jobs WHERE id = 'a'"), 4, "what the document does not name stays");
    let verified = a.replica.verify_import(&map(), &a.documents).unwrap();
    assert_eq!((verified.sources[1].missing, verified.sources[1].extra), (0, 1));
}

/// Would catch: half of an import, sources that were renamed though nothing was imported, errors without a place.
#[test]
fn one_fault_keeps_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    let hash = a.replica.state_hash().unwrap();
    let cases = [
        ("[\n{\"id\": \"a\", \"name\": \"x\"},\n{\"id\": \"b\"}]", "line 3, $[1]"),
        ("[{\"id\": \"a\", \"name\": \"x\", \"enabled\": 2}]", "$[0].enabled"),
        (
            "[{\"id\": \"a\", \"name\": \"x\"},\n{\"id\": \"A\", \"name\": \"y\"}]",
            "line 2, $[1]: it has the key of the row in line 1",
        ),
        ("[{\"name\": \"x\"}]", "no value for id"),
        (
            "[{\"id\": \"a\", \"name\": \"x\", \"path\": \"/p\"},\n{\"id\": \"b\", \"name\": \"x\", \"path\": \"/p\"}]",
            "line 2, $[1]: another row has a UNIQUE value of it",
        ),
        ("[{\"id\": \"a\", \"name\": \"x\", \"size\": \"07\"}]", "column size makes 7 of the text \"07\""),
        ("[{\"id\": \"a\", \"name\": 5}]", "column name makes the text \"5\" of 5"),
        ("[{\"id\": \"a\"", "line 1"),
    ];
    for (jobs, expected) in cases {
        a.write("settings.json", SETTINGS);
        a.write("jobs.json", jobs);
        let error = a.import(&ImportOptions::default().archive(true)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains("jobs.json"), "{jobs}\n{text}");
        assert_eq!(error.kind(), isle::ErrorKind::Invalid);
        assert_eq!(a.replica.state_hash().unwrap(), hash);
        assert!(a.documents.join("settings.json").exists() && a.documents.join("jobs.json").exists());
        let status = a.replica.import_status(&map(), &a.documents);
        assert!(status.is_err() || status.unwrap().iter().all(|source| source.state == SourceState::New));
    }
    let nowhere = a.replica.import(&map(), &folder.path().join("nowhere"), &ImportOptions::default()).unwrap_err();
    assert!(matches!(nowhere, Error::Interchange(InterchangeError::Nothing { .. })), "{nowhere}");
    let odd = Mapping::from_toml(
        "[[source]]\nfile = 'jobs.json'\ntable = 'jobs'\nrows = 'items'\n[source.columns]\nname = 'name'",
    )
    .unwrap();
    let error = a.replica.import(&odd, &a.documents, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("nothing fills \"id\"") || error.contains("line 1"), "{error}");
}

#[test]
fn archives_are_never_written_over_and_a_crash_before_the_renaming_is_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.write("jobs.json", JOBS);
    a.write("jobs.json.bak", "somebody's own");
    // As if it had crashed between commit and renaming.
    a.import(&ImportOptions::default()).unwrap();
    let report = a.import(&ImportOptions::default().archive(true)).unwrap();
    assert_eq!(report.sources[1].state, SourceState::Known);
    let archive = report.sources[1].archive.clone().unwrap();
    assert!(archive.ends_with("jobs.json.2.bak"), "{archive:?}");
    assert_eq!(std::fs::read_to_string(&archive).unwrap(), JOBS);
    assert_eq!(std::fs::read_to_string(a.documents.join("jobs.json.bak")).unwrap(), "somebody's own");
    assert!(!a.documents.join("jobs.json").exists());
    let archives = a.replica.import_archives().unwrap();
    assert_eq!(archives.len(), 1);
    // Kept until their time is over.
    assert!(a.replica.prune_import_archives(archives[0].archived_ms, false).unwrap().is_empty());
    assert_eq!(a.replica.prune_import_archives(archives[0].archived_ms + 1, true).unwrap().len(), 1);
    assert!(archive.exists());
    a.replica.prune_import_archives(archives[0].archived_ms + 1, false).unwrap();
    assert!(!archive.exists() && a.documents.join("jobs.json.bak").exists());
}

/// Would catch: rows of a second import that count as baselines of the first, which an old snapshot is thought to have covered.
#[test]
fn a_second_import_travels_like_any_write() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(folder.path(), "a"), Device::new(folder.path(), "b"));
    a.write("jobs.json", JOBS);
    a.import(&ImportOptions::default()).unwrap();
    meet(&[&a, &b]);
    b.run("UPDATE jobs SET name = 'from b' WHERE id = 'a'");
    a.write("jobs.json", r#"[{"id": "a", "name": "old"}, {"id": "e", "name": "later", "tags": ["z"]}]"#);
    assert_eq!(a.counts(1), [2, 1, 0, 1, 0, 0]);
    meet(&[&a, &b]);
    assert_eq!(b.text("SELECT name FROM jobs WHERE id = 'e'").unwrap(), "later");
    assert_eq!(b.text("SELECT name FROM jobs WHERE id = 'a'").unwrap(), "from b");
    assert!(a.replica.check().unwrap().findings.is_empty());
}

/// Would catch: an import whose rows another device does not get with a snapshot, or that come back after they were deleted everywhere.
#[test]
fn imported_rows_survive_compaction_and_deletions_of_them_too() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(folder.path(), "a"), Device::new(folder.path(), "b"));
    a.write("jobs.json", JOBS);
    a.import(&ImportOptions::default()).unwrap();
    meet(&[&a, &b]);
    b.run("DELETE FROM jobs WHERE id = 'b'");
    meet(&[&a, &b]);
    let c = Device::new(folder.path(), "c");
    c.write("jobs.json", JOBS);
    c.import(&ImportOptions::default()).unwrap();
    meet(&[&a, &b, &c]);
    assert_eq!(c.text("SELECT group_concat(id) FROM jobs").unwrap(), "a");
}

#[test]
fn an_export_follows_what_other_programs_write() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    let mut follower = ExportFollower::new(&a.replica).unwrap();
    assert!(follower.has_news().unwrap());
    assert!(!follower.has_news().unwrap());
    a.run("INSERT INTO settings VALUES('x', '1')");
    assert!(follower.has_news().unwrap());
    rusqlite::Connection::open(a.replica.path()).unwrap().execute("INSERT INTO settings VALUES('y', '2')", []).unwrap();
    assert!(follower.has_news().unwrap());
    let out = folder.path().join("out");
    a.replica.export(&map(), &out, &ExportOptions::default()).unwrap();
    a.run("UPDATE settings SET value = '3'");
    let exported = a.replica.export(&map(), &out, &ExportOptions::default().keep(true)).unwrap();
    assert!(exported[0].kept.as_ref().unwrap().ends_with("settings.json.bak") && !exported[1].written);
    assert_eq!(std::fs::read_to_string(out.join("settings.json")).unwrap(), "{\n  \"x\": 3,\n  \"y\": 3\n}\n");
    // What no document of the mapping can have is an error that names the row.
    a.run("INSERT INTO settings VALUES('odd', 'no JSON')");
    let error = a.replica.export(&map(), &out, &ExportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("column \"value\" of the row odd"), "{error}");
}

#[test]
fn statements_make_the_same_rows_in_a_plain_database() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.run(
        "INSERT INTO jobs(id, name, size) VALUES('it''s', 'a\nb \\ \"', 9007199254740993), ('f', x'00ff', 0.1), ('n', 'ü', NULL);
         INSERT INTO settings VALUES('big', CAST(x'6100' AS TEXT))",
    );
    let mut sql = Vec::new();
    a.replica.export_sql(&[], Dialect::Sqlite, &mut sql).unwrap();
    let plain = rusqlite::Connection::open(folder.path().join("plain.db")).unwrap();
    plain.execute_batch(std::str::from_utf8(&sql).unwrap()).unwrap();
    let dump = "SELECT group_concat(quote(id) || quote(name) || quote(path) || quote(size) || typeof(size) || quote(data), ';') FROM (SELECT * FROM jobs ORDER BY id)";
    let there: String = plain.query_row(dump, [], |row| row.get(0)).unwrap();
    assert_eq!(there, a.text(dump).unwrap());
    let length: i64 =
        plain.query_row("SELECT length(CAST(value AS BLOB)) FROM settings", [], |row| row.get(0)).unwrap();
    assert_eq!(length, 2);
    // The others refuse what they cannot hold rather than changing it.
    let error = a.replica.export_sql(&[], Dialect::Postgres, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("NUL") && error.contains("row big"), "{error}");
    a.replica.export_sql(&["jobs"], Dialect::Mysql, &mut Vec::new()).unwrap();
    let lines = a.replica.export_jsonl(&["jobs"], &folder.path().join("lines"));
    assert_eq!(lines.unwrap()[0].rows, 3);
    let text = std::fs::read_to_string(folder.path().join("lines/jobs.jsonl")).unwrap();
    assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap().is_object()), "{text}");
}

fn mapped(table: &str, columns: &str, more: &str) -> Mapping {
    let columns: String = columns.split(' ').map(|name| format!("{name} = '{name}'\n")).collect();
    let text = format!(
        "[[source]]\nfile = '{table}.json'\ntable = '{table}'\nrows = 'items'\n{more}\n[source.columns]\n{columns}"
    );
    Mapping::from_toml(&text).unwrap()
}

/// Would catch: of two rows of one key the last one, which overwrites what somebody had written before the import.
#[test]
fn the_last_of_two_rows_counts_among_them_alone() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.run("INSERT INTO settings VALUES('mine', 'chosen')");
    a.write(
        "settings.json",
        r#"[{"key": "mine", "value": "one"}, {"key": "mine", "value": "two"}, {"key": "new", "value": "one"}, {"key": "new", "value": "two"}]"#,
    );
    let mapping = mapped("settings", "key value", "duplicates = 'last'");
    let report = a.replica.import(&mapping, &a.documents, &ImportOptions::default()).unwrap();
    let counts = &report.sources[0];
    assert_eq!((counts.inserted, counts.kept, counts.dropped), (1, 1, 2));
    assert_eq!(
        a.text("SELECT group_concat(value) FROM (SELECT value FROM settings ORDER BY key)").unwrap(),
        "chosen,two"
    );
}

/// Would catch: one table that cannot count as old any more, and takes the others of the import along.
#[test]
fn each_table_of_an_import_counts_as_old_as_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(folder.path(), "a"), Device::new(folder.path(), "b"));
    a.write("jobs.json", JOBS);
    assert!(a.import(&ImportOptions::default()).unwrap().sources[1].oldest);
    b.run("INSERT INTO settings VALUES('theme', '\"light\"')");
    b.run("UPDATE settings SET value = '\"lighter\"'");
    a.write("settings.json", SETTINGS);
    a.write("jobs.json", r#"[{"id": "later", "name": "later"}]"#);
    let report = a.import(&ImportOptions::default()).unwrap();
    assert_eq!((report.sources[0].oldest, report.sources[1].oldest), (true, false));
    meet(&[&a, &b]);
    assert_eq!(a.text("SELECT value FROM settings WHERE key = 'theme'").unwrap(), "\"lighter\"");
    assert_eq!(b.text("SELECT name FROM jobs WHERE id = 'later'").unwrap(), "later");
    assert!(a.replica.check().unwrap().findings.is_empty());
}

#[test]
fn children_may_come_before_their_parents_and_none_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.run("CREATE TABLE notes(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES notes(id))");
    a.replica.track(&["notes"]).unwrap();
    let mapping = mapped("notes", "id parent", "");
    a.write("notes.json", r#"[{"id": 1, "parent": 2}, {"id": 2, "parent": 3}]"#);
    for options in [ImportOptions::default().dry_run(true), ImportOptions::default()] {
        let error = a.replica.import(&mapping, &a.documents, &options).unwrap_err().to_string();
        assert!(error.contains("1 of its rows (one is at rowid 2) refer to rows of notes"), "{error}");
    }
    assert_eq!(a.number("SELECT count(*) FROM notes"), 0);
    a.write("notes.json", r#"[{"id": 1, "parent": 2}, {"id": 2, "parent": null}]"#);
    a.replica.import(&mapping, &a.documents, &ImportOptions::default()).unwrap();
    assert_eq!(a.number("SELECT count(*) FROM notes"), 2);
}

/// Would catch: a file that somebody put under an archive's name, and that goes with it.
#[test]
fn only_what_was_put_aside_is_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.write("jobs.json", JOBS);
    let report = a.import(&ImportOptions::default().archive(true)).unwrap();
    let archive = report.sources[1].archive.clone().unwrap();
    std::fs::write(&archive, "somebody's own").unwrap();
    assert!(a.replica.prune_import_archives(u64::MAX, false).unwrap().is_empty());
    assert!(archive.exists());
    std::fs::write(&archive, JOBS).unwrap();
    assert_eq!(a.replica.prune_import_archives(u64::MAX, false).unwrap().len(), 1);
    assert!(!archive.exists());
}

/// Would catch: a NULL that becomes the column's default on its way through a document, and a value that a comparison passes over because the document
/// says nothing of it.
#[test]
fn a_null_beside_a_default_stays_and_what_is_not_said_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::new(folder.path(), "a"), Device::new(folder.path(), "b"));
    a.run("INSERT INTO jobs(id, name, language) VALUES('a', 'x', NULL), ('b', 'y', 'German')");
    let out = folder.path().join("out");
    a.replica.export(&map(), &out, &ExportOptions::default()).unwrap();
    b.replica.import(&map(), &out, &ImportOptions::default()).unwrap();
    assert_eq!(b.text("SELECT group_concat(coalesce(language, 'none')) FROM jobs").unwrap(), "none,German");
    a.write("jobs.json", r#"[{"id": "a", "name": "x"}, {"id": "b", "name": "y", "language": "German"}]"#);
    a.write("settings.json", "{}");
    let verified = a.replica.verify_import(&map(), &a.documents).unwrap();
    assert_eq!(verified.sources[1].differing, 1, "the table has NULL where the document leaves it to the default");
}

/// Would catch: keys of several columns that are one text for people, and are taken for one key.
#[test]
fn keys_of_several_columns_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::new(folder.path(), "a");
    a.run(
        "CREATE TABLE pairs(x TEXT, y TEXT, PRIMARY KEY(x, y)); INSERT INTO pairs VALUES('p, q', 'r'), ('p', 'q, r')",
    );
    a.replica.track(&["pairs"]).unwrap();
    let mapping = mapped("pairs", "x y", "");
    a.write("pairs.json", r#"[{"x": "p, q", "y": "r"}, {"x": "p", "y": "q, r"}]"#);
    let report = a.replica.import(&mapping, &a.documents, &ImportOptions::default()).unwrap();
    assert_eq!(report.sources[0].same, 2);
    a.write("pairs.json", r#"[{"x": "p, q", "y": "r"}]"#);
    assert_eq!(a.replica.verify_import(&mapping, &a.documents).unwrap().sources[0].extra, 1);
}

/// Any JSON of a few levels.
fn any_json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1e9f64..1e9).prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map("[a-zé\"$. ]{1,6}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// Would catch: a value that does not come out of the database as it went in.
    #[test]
    fn documents_of_any_content_come_out_of_the_file_as_they_went_in(
        settings in proptest::collection::btree_map("[a-z_]{1,8}", any_json(), 0..6),
        odd in proptest::collection::vec(proptest::collection::btree_map("[f-h]{1,3}", any_json(), 0..4), 0..5),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let a = Device::new(folder.path(), "a");
        let settings = serde_json::Value::Object(settings.into_iter().collect());
        let jobs: Vec<serde_json::Value> = odd
            .into_iter()
            .enumerate()
            .map(|(n, odd)| {
                let mut job: serde_json::Map<_, _> = odd.into_iter().collect();
                job.insert("id".to_owned(), format!("{n:03}").into());
                job.insert("name".to_owned(), "x".into());
                job.into()
            })
            .collect();
        a.write("settings.json", &settings.to_string());
        a.write("jobs.json", &serde_json::Value::from(jobs.clone()).to_string());
        let mapping = Mapping::from_toml(MAP).unwrap();
        a.replica.import(&mapping, &a.documents, &ImportOptions::default()).unwrap();
        let out = folder.path().join("out");
        a.replica.export(&mapping, &out, &ExportOptions::default()).unwrap();
        let read = |name: &str| -> serde_json::Value { serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap() };
        proptest::prop_assert_eq!(read("settings.json"), settings);
        for (job, given) in read("jobs.json").as_array().unwrap().iter().zip(&jobs) {
            for (member, value) in given.as_object().unwrap() {
                proptest::prop_assert_eq!(&job[member], value, "{} of {}", member, given);
            }
        }
    }
}
