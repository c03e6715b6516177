//! Files that cr-sqlite keeps: beside native ones, adopted with their past, changed by migrations, handed over to isle alone, and what goes wrong with them.

#![cfg(feature = "cr-sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isle::{Builder, InviteOptions, LiveOptions, Replica, Runtime, SystemRuntime, TableEngine, params};
use isle_crsqlite::Library;
use rusqlite::Connection;
use tempfile::TempDir;

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, title TEXT, stars INT);
    CREATE TABLE links(a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY(a, b));";

fn library() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/cr-sqlite/crsqlite.so");
    path.canonicalize().expect("cr-sqlite is not installed: run scripts/fetch-cr-sqlite")
}

/// A connection of an app that uses cr-sqlite and knows nothing of isle.
struct Client(Connection);

impl Client {
    fn open(path: &Path) -> Client {
        let conn = Connection::open(path).unwrap();
        Library::new(library()).load(&conn).unwrap();
        Client(conn)
    }
}

impl Deref for Client {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        isle_crsqlite::release(&self.0);
    }
}

/// The system's time, but no two readings are the same, on whatever device: what is written later is later.
#[derive(Debug)]
struct Apart;

impl Runtime for Apart {
    fn now_ms(&self) -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let wall = SystemRuntime.now_ms();
        let next = |last: u64| wall.max(last + 1);
        next(LAST.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(next(last))).unwrap())
    }

    fn random(&self) -> [u8; 16] {
        SystemRuntime.random()
    }
}

fn builder(folder: &Path, name: &str) -> Builder {
    let file = Replica::builder(folder.join(name).join("app.db"));
    file.home(folder.join(name).join("home")).cr_sqlite(library()).runtime(Arc::new(Apart))
}

/// A device whose file begins with this SQL, run by a client of cr-sqlite's; all its tables are tracked.
fn device(folder: &TempDir, name: &str, engine: TableEngine, sql: &str) -> Replica {
    std::fs::create_dir(folder.path().join(name)).unwrap();
    Client::open(&folder.path().join(name).join("app.db")).execute_batch(sql).unwrap();
    let replica = builder(folder.path(), name).engine(engine).init().unwrap();
    let (_, refused) = replica.track_all().unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    replica
}

fn run(replica: &Replica, sql: &str) {
    replica.write(|tx| tx.execute_batch(sql)).unwrap();
}

fn texts(replica: &Replica, sql: &str) -> Vec<String> {
    let rows = replica.read(|queries| queries.query(sql, params![])).unwrap();
    rows.iter().map(|row| row.values().iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(" ")).collect()
}

fn engine_of(replica: &Replica, table: &str) -> TableEngine {
    replica.table_engines().unwrap().into_iter().find(|found| found.table == table).unwrap().engine
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// Syncs by a folder until nothing moves; all end in one state, in which cr-sqlite's clocks say what isle's say.
fn sync(replicas: &[&Replica]) {
    for _ in 0..2 {
        for replica in replicas {
            block_on(replica.sync()).unwrap();
        }
    }
    for replica in replicas {
        assert_eq!(replica.state_hash().unwrap(), replicas[0].state_hash().unwrap());
        assert_eq!(replica.check().unwrap().findings, []);
    }
}

fn share(folder: &TempDir, replicas: &[&Replica]) {
    let bucket = folder.path().join("bucket");
    for replica in replicas {
        replica.add_plain_remote("bucket", bucket.to_str().unwrap()).unwrap();
    }
}

#[test]
fn native_and_cr_sqlite_devices_end_in_one_state_by_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let native = device(&folder, "native", TableEngine::Native, NOTES);
    let crr = device(&folder, "crr", TableEngine::CrSqlite, NOTES);
    let third = device(&folder, "third", TableEngine::CrSqlite, "");
    assert_eq!((engine_of(&crr, "notes"), engine_of(&native, "notes")), (TableEngine::CrSqlite, TableEngine::Native));
    share(&folder, &[&native, &crr, &third]);
    run(
        &native,
        "INSERT INTO notes VALUES(1, 'one', 1), (2, 'two', 2), (3, 'three', 3); INSERT INTO links VALUES('a', 'b')",
    );
    sync(&[&native, &crr, &third]);
    assert_eq!(engine_of(&third, "notes"), TableEngine::CrSqlite, "a table that comes from another device");
    // Five early edits lose to one later edit, whatever cr-sqlite would have counted.
    for stars in 10..15 {
        run(&crr, &format!("UPDATE notes SET stars = {stars} WHERE id = 1"));
    }
    run(
        &native,
        "UPDATE notes SET stars = 5, title = 'uno' WHERE id = 1; DELETE FROM notes WHERE id = 2; DELETE FROM links",
    );
    run(&crr, "UPDATE notes SET title = 'zwei' WHERE id = 2; INSERT INTO links VALUES('c', 'd')");
    run(
        &third,
        "DELETE FROM notes WHERE id = 3; INSERT INTO notes VALUES(3, 'again', 0); UPDATE notes SET id = 9 WHERE id = 3",
    );
    sync(&[&native, &crr, &third]);
    assert_eq!(
        texts(&crr, "SELECT id, title, stars FROM notes ORDER BY id"),
        texts(&native, "SELECT id, title, stars FROM notes ORDER BY id")
    );
    assert_eq!(texts(&crr, "SELECT stars FROM notes WHERE id = 1"), ["Integer(5)"]);
    let lost = crr.conflicts(false, 10).unwrap();
    assert!(lost.iter().any(|conflict| format!("{conflict:?}").contains("zwei")), "{lost:?}");
    // A client of cr-sqlite's own writes beside isle, and reads what came.
    let client = Client::open(crr.path());
    client.execute("INSERT INTO notes VALUES(20, 'by hand', 1)", []).unwrap();
    client.execute("UPDATE notes SET stars = stars + 1 WHERE id = 1", []).unwrap();
    drop(client);
    assert_eq!(crr.status().unwrap().queued, 2);
    sync(&[&native, &crr, &third]);
    assert_eq!(texts(&native, "SELECT title FROM notes WHERE id = 20"), ["Text(\"by hand\")"]);
    assert_eq!(texts(&third, "SELECT stars FROM notes WHERE id = 1"), ["Integer(6)"]);
}

#[test]
fn a_newcomer_takes_a_snapshot_of_a_compacted_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let native = device(&folder, "native", TableEngine::Native, NOTES);
    share(&folder, &[&native]);
    for n in 0..40 {
        run(&native, &format!("INSERT INTO notes VALUES({n}, 'n{n}', {n})"));
    }
    run(&native, "DELETE FROM notes WHERE id < 5; UPDATE notes SET stars = -1 WHERE id = 7");
    block_on(native.sync()).unwrap();
    block_on(native.compact(&isle::CompactOptions::default())).unwrap();
    let crr = device(
        &folder,
        "crr",
        TableEngine::CrSqlite,
        "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, title TEXT, stars INT); INSERT INTO notes VALUES(7, 'mine', 7), (50, 'fifty', 50)",
    );
    share(&folder, &[&crr]);
    sync(&[&native, &crr]);
    assert_eq!(
        texts(&native, "SELECT count(*), sum(stars) FROM notes"),
        texts(&crr, "SELECT count(*), sum(stars) FROM notes")
    );
    run(&crr, "UPDATE notes SET stars = 0");
    sync(&[&native, &crr]);
    assert_eq!(texts(&native, "SELECT sum(stars) FROM notes"), ["Integer(0)"]);
}

#[test]
fn they_meet_directly() {
    let folder = tempfile::tempdir().unwrap();
    let native = device(&folder, "native", TableEngine::Native, NOTES);
    let crr = device(&folder, "crr", TableEngine::CrSqlite, "");
    run(&native, "INSERT INTO notes VALUES(1, 'one', 1)");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let options = LiveOptions { listen: Some("127.0.0.1:0".parse().unwrap()), ..LiveOptions::default() };
        let live = native.go_live(&options).await.unwrap();
        let options = InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() };
        crr.join(&native.invite(&options).unwrap()).await.unwrap();
        for stars in 2..5 {
            run(
                &crr,
                &format!(
                    "UPDATE notes SET stars = {stars} WHERE id = 1; INSERT INTO notes VALUES({stars}, NULL, NULL)"
                ),
            );
            run(&native, &format!("UPDATE notes SET title = 'n{stars}' WHERE id = 1"));
            for outcome in crr.sync_peers().await.unwrap() {
                outcome.result.unwrap();
            }
            assert_eq!(native.state_hash().unwrap(), crr.state_hash().unwrap());
        }
        live.stop().await.unwrap();
    });
    assert_eq!(texts(&native, "SELECT title, stars FROM notes WHERE id = 1"), ["Text(\"n4\") Integer(4)"]);
    assert_eq!(crr.check().unwrap().findings, []);
}

#[test]
fn a_migration_changes_a_crr_and_takes_it_to_isle_where_cr_sqlite_cannot_follow() {
    let folder = tempfile::tempdir().unwrap();
    let native = device(&folder, "native", TableEngine::Native, NOTES);
    let crr = device(&folder, "crr", TableEngine::CrSqlite, "");
    share(&folder, &[&native, &crr]);
    run(&native, "INSERT INTO notes VALUES(1, 'one', 1), (2, 'two', 2)");
    sync(&[&native, &crr]);
    let define = |replica: &Replica, notes: &str| {
        let links = "CREATE TABLE links(a TEXT NOT NULL, b TEXT NOT NULL, PRIMARY KEY(a, b));";
        replica.apply_schema(format!("CREATE TABLE notes({notes});\n{links}").as_str()).unwrap();
    };
    // A column, on one side; a write to it, on the other.
    define(&native, "id INTEGER PRIMARY KEY NOT NULL, title TEXT, stars INT, due TEXT DEFAULT 'never'");
    run(&crr, "UPDATE notes SET stars = 7 WHERE id = 1");
    sync(&[&native, &crr]);
    run(&crr, "UPDATE notes SET due = 'soon' WHERE id = 2; INSERT INTO notes VALUES(3, 'three', 3, 'now')");
    sync(&[&native, &crr]);
    assert_eq!(engine_of(&crr, "notes"), TableEngine::CrSqlite);
    assert_eq!(
        texts(&native, "SELECT due, stars FROM notes ORDER BY id"),
        ["Text(\"never\") Integer(7)", "Text(\"soon\") Integer(2)", "Text(\"now\") Integer(3)"]
    );
    // A new name, from the device that cr-sqlite keeps.
    define(
        &crr,
        "-- @rename notes.stars -> rating\n id INTEGER PRIMARY KEY NOT NULL, title TEXT, rating INT, due TEXT DEFAULT 'never'",
    );
    run(&crr, "UPDATE notes SET rating = 9 WHERE id = 1");
    sync(&[&native, &crr]);
    assert_eq!(
        (texts(&native, "SELECT rating FROM notes WHERE id = 1"), engine_of(&crr, "notes")),
        (vec!["Integer(9)".to_owned()], TableEngine::CrSqlite)
    );
    // cr-sqlite has no UNIQUE.
    define(&native, "id INTEGER PRIMARY KEY NOT NULL, title TEXT UNIQUE, rating INT, due TEXT DEFAULT 'never'");
    sync(&[&native, &crr]);
    let kept = crr.table_engines().unwrap();
    let notes = kept.iter().find(|table| table.table == "notes").unwrap();
    assert_eq!(notes.engine, TableEngine::Native);
    assert!(notes.reason.as_ref().unwrap().contains("UNIQUE"), "{notes:?}");
    run(&crr, "UPDATE notes SET rating = 10 WHERE id = 1");
    run(&native, "UPDATE notes SET title = 'same' WHERE id = 1");
    run(&crr, "UPDATE notes SET title = 'same' WHERE id = 2");
    sync(&[&native, &crr]);
    assert_eq!(
        texts(&native, "SELECT rating FROM notes WHERE id = 1 OR id = 2"),
        texts(&crr, "SELECT rating FROM notes WHERE id = 1 OR id = 2")
    );
    // And has it again without.
    define(&native, "id INTEGER PRIMARY KEY NOT NULL, title TEXT, rating INT, due TEXT DEFAULT 'never'");
    sync(&[&native, &crr]);
    assert_eq!(engine_of(&crr, "notes"), TableEngine::CrSqlite);
    run(&crr, "UPDATE notes SET title = 'other' WHERE id = 2");
    sync(&[&native, &crr]);
    // A column that may not be NULL, where the other device could write NULL until now: it shows its default, in a table that cr-sqlite goes on keeping.
    run(&crr, "INSERT INTO notes(id, title) VALUES(7, 'seven')");
    define(
        &native,
        "id INTEGER PRIMARY KEY NOT NULL, title TEXT, rating INT NOT NULL DEFAULT 4, due TEXT DEFAULT 'never'",
    );
    run(&crr, "UPDATE notes SET rating = NULL WHERE id = 1");
    sync(&[&native, &crr]);
    assert_eq!(engine_of(&crr, "notes"), TableEngine::CrSqlite);
    assert_eq!(
        same(&native, &crr, "SELECT id, rating FROM notes WHERE id IN (1, 7)"),
        ["Integer(1) Integer(4)", "Integer(7) Integer(4)"]
    );
    run(&crr, "UPDATE notes SET title = 'uno' WHERE id = 1; UPDATE notes SET rating = 11 WHERE id = 1");
    run(&native, "UPDATE notes SET rating = 5 WHERE id = 7; DELETE FROM notes WHERE id = 3");
    sync(&[&native, &crr]);
    assert_eq!(
        same(&native, &crr, "SELECT id, rating FROM notes WHERE id IN (1, 3, 7)"),
        ["Integer(1) Integer(11)", "Integer(7) Integer(5)"]
    );
    // Columns of a kind are isle's alone, too.
    define(
        &native,
        "id INTEGER PRIMARY KEY NOT NULL, title TEXT, rating INT, -- @merge counter\n due TEXT DEFAULT 'never'",
    );
    sync(&[&native, &crr]);
    assert_eq!(engine_of(&crr, "notes"), TableEngine::Native);
    run(&crr, "UPDATE notes SET rating = rating + 1 WHERE id = 1");
    run(&native, "UPDATE notes SET rating = rating + 1 WHERE id = 1");
    sync(&[&native, &crr]);
    assert_eq!(texts(&crr, "SELECT rating FROM notes WHERE id = 1"), ["Integer(13)"]);
}

#[test]
fn an_app_that_makes_its_crrs_whenever_it_starts_takes_nothing_from_isle() {
    let folder = tempfile::tempdir().unwrap();
    let (native, crr) = pair(&folder, NOTES);
    let starts = || Client::open(crr.path()).query_row("SELECT crsql_as_crr('notes')", [], |_| Ok(())).unwrap();
    starts();
    run(&native, "INSERT INTO notes VALUES(1, 'one', 1)");
    sync(&[&native, &crr]);
    let counted = format!(
        "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, title TEXT, stars INT -- @merge counter\n); {}",
        &NOTES[NOTES.find("CREATE TABLE links").unwrap()..]
    );
    native.apply_schema(counted.as_str()).unwrap();
    sync(&[&native, &crr]);
    assert_eq!(engine_of(&crr, "notes"), TableEngine::Native);
    // Now cr-sqlite takes a table that isle keeps.
    starts();
    run(&crr, "UPDATE notes SET stars = stars + 1");
    run(&native, "UPDATE notes SET stars = stars + 1");
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT stars FROM notes"), ["Integer(3)"]);
    assert!(isle::crrs_of(crr.path()).iter().all(|name| name != "notes"));
}

#[test]
fn a_file_of_cr_sqlites_keeps_its_past() {
    let folder = tempfile::tempdir().unwrap();
    let crrs = format!("{NOTES} SELECT crsql_as_crr('notes'); SELECT crsql_as_crr('links');");
    // Two files with one past: both have rows 1 to 3 as they were; one has gone on.
    let past =
        "INSERT INTO notes VALUES(1, 'one', 1), (2, 'two', 2), (3, 'three', 3); INSERT INTO links VALUES('a', 'b');
        DELETE FROM notes WHERE id = 3; INSERT INTO notes VALUES(3, 'second life', 3);";
    let behind = device(&folder, "behind", TableEngine::CrSqlite, &format!("{crrs} {past}"));
    let ahead = device(
        &folder,
        "ahead",
        TableEngine::CrSqlite,
        &format!(
            "{crrs} {past} UPDATE notes SET stars = 20 WHERE id = 2; UPDATE notes SET stars = 1 WHERE id = 2; DELETE FROM notes WHERE id = 1; DELETE FROM links;"
        ),
    );
    assert_eq!(
        texts(&ahead, "SELECT id, title, stars FROM notes ORDER BY id"),
        ["Integer(2) Text(\"two\") Integer(1)", "Integer(3) Text(\"second life\") Integer(3)"]
    );
    let clocks = "SELECT col_name, col_version FROM notes__crsql_clock WHERE key = 2 ORDER BY 1";
    assert_eq!(
        texts(&ahead, clocks),
        ["Text(\"stars\") Integer(3)", "Text(\"title\") Integer(1)"],
        "the versions stand"
    );
    share(&folder, &[&behind, &ahead]);
    sync(&[&behind, &ahead]);
    // The smaller value that came later, and the deletes, as cr-sqlite would have had it.
    assert_eq!(
        texts(&behind, "SELECT id, stars FROM notes ORDER BY id"),
        ["Integer(2) Integer(1)", "Integer(3) Integer(3)"]
    );
    assert_eq!(texts(&behind, "SELECT count(*) FROM links"), ["Integer(0)"]);
    // Whatever is written now is later than all of it.
    run(&behind, "UPDATE notes SET stars = 0 WHERE id = 2; INSERT INTO notes VALUES(1, 'back', 1)");
    sync(&[&behind, &ahead]);
    assert_eq!(
        texts(&ahead, "SELECT id, stars FROM notes ORDER BY id"),
        ["Integer(1) Integer(1)", "Integer(2) Integer(0)", "Integer(3) Integer(3)"]
    );
    // A native device joins, and one of the two is handed over to isle: no stamp moves.
    let native = device(&folder, "native", TableEngine::Native, "");
    share(&folder, &[&native]);
    sync(&[&behind, &ahead, &native]);
    let before = ahead.state_hash().unwrap();
    ahead.set_engine(TableEngine::Native).unwrap();
    assert_eq!((ahead.state_hash().unwrap(), engine_of(&ahead, "notes")), (before, TableEngine::Native));
    Connection::open(ahead.path()).unwrap().execute("UPDATE notes SET title = 'plain' WHERE id = 2", []).unwrap();
    sync(&[&behind, &ahead, &native]);
    ahead.set_engine(TableEngine::CrSqlite).unwrap();
    run(&ahead, "UPDATE notes SET title = 'again' WHERE id = 3; DELETE FROM notes WHERE id = 1");
    sync(&[&behind, &ahead, &native]);
    assert_eq!(texts(&behind, "SELECT title FROM notes ORDER BY id"), ["Text(\"plain\")", "Text(\"again\")"]);
}

#[test]
fn without_the_extension_a_file_can_be_read_and_says_what_writing_takes() {
    let folder = tempfile::tempdir().unwrap();
    let crr = device(&folder, "crr", TableEngine::CrSqlite, NOTES);
    run(&crr, "INSERT INTO notes VALUES(1, 'one', 1)");
    let path = crr.path().to_owned();
    drop(crr);
    let opened = |builder: Builder| builder.home(folder.path().join("crr/home")).open().unwrap();
    let without = opened(Replica::builder(&path).cr_sqlite(""));
    assert_eq!(texts(&without, "SELECT title FROM notes"), ["Text(\"one\")"]);
    let refused = without.write(|tx| tx.execute_batch("DELETE FROM notes")).unwrap_err().to_string();
    assert!(refused.contains("ISLE_CR_SQLITE"), "{refused}");
    drop(without);
    std::fs::write(folder.path().join("no.so"), "no extension").unwrap();
    let wrong = opened(Replica::builder(&path).cr_sqlite(folder.path().join("no.so")));
    let refused = wrong.write(|tx| tx.execute_batch("DELETE FROM notes")).unwrap_err().to_string();
    assert!(refused.contains("cannot load cr-sqlite from") && refused.contains("no.so"), "{refused}");
    drop(wrong);
    // A client without it is refused by cr-sqlite's own triggers, and nothing is half done.
    let plain = Connection::open(&path).unwrap().execute("DELETE FROM notes", []).unwrap_err().to_string();
    assert!(plain.contains("no such function: crsql_"), "{plain}");
    let again = opened(Replica::builder(&path).cr_sqlite(library()));
    run(&again, "UPDATE notes SET stars = 2");
    assert_eq!(
        (texts(&again, "SELECT stars FROM notes"), again.check().unwrap().findings),
        (vec!["Integer(2)".to_owned()], vec![])
    );
}

#[test]
fn a_table_of_both_engines_stands_still_until_one_lets_go() {
    let folder = tempfile::tempdir().unwrap();
    let native = device(&folder, "native", TableEngine::Native, NOTES);
    run(&native, "INSERT INTO notes VALUES(1, 'one', 1)");
    let client = Client::open(native.path());
    client.query_row("SELECT crsql_as_crr('notes')", [], |_| Ok(())).unwrap();
    let refused = native.write(|tx| tx.execute_batch("UPDATE notes SET stars = 2")).unwrap_err().to_string();
    assert!(refused.contains("stands still"), "{refused}");
    let found = native.check().unwrap().findings;
    assert!(found.iter().any(|finding| finding.message.contains("both record it")), "{found:?}");
    client.query_row("SELECT crsql_as_table('notes')", [], |_| Ok(())).unwrap();
    drop(client);
    run(&native, "UPDATE notes SET stars = 2");
    assert_eq!(native.check().unwrap().findings, []);
    // And the other way round.
    native.set_engine(TableEngine::CrSqlite).unwrap();
    let client = Client::open(native.path());
    client.query_row("SELECT crsql_as_table('notes')", [], |_| Ok(())).unwrap();
    let refused = native.write(|tx| tx.execute_batch("UPDATE notes SET stars = 3")).unwrap_err().to_string();
    assert!(refused.contains("stands still"), "{refused}");
    drop(client);
    // A CRR in a native file is not taken for an ordinary table.
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let sql = format!("{NOTES} SELECT crsql_as_crr('notes');");
    Client::open(&folder.path().join("other/app.db")).execute_batch(&sql).unwrap();
    let other = builder(folder.path(), "other").init().unwrap();
    let (tracked, refused) = other.track_all().unwrap();
    assert_eq!(tracked, ["links"]);
    assert!(refused[0].1.to_string().contains("--engine cr-sqlite"), "{refused:?}");
}

#[test]
fn tables_of_an_older_cr_sqlite_are_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("old")).unwrap();
    let path = folder.path().join("old/app.db");
    let sql = format!(
        "{NOTES} SELECT crsql_as_crr('notes'); UPDATE crsql_master SET value = 160300 WHERE key = 'crsqlite_version'"
    );
    Client::open(&path).execute_batch(&sql).unwrap();
    let refused = builder(folder.path(), "old").engine(TableEngine::CrSqlite).init().unwrap_err().to_string();
    assert!(refused.contains("160300") && refused.contains("0.17"), "{refused}");
    let conn = Connection::open(&path).unwrap();
    let isle: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'isle%'", [], |row| row.get(0)).unwrap();
    assert_eq!(isle, 0);
}

#[test]
fn versions_that_would_be_times_to_come_put_no_clock_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let sql = format!(
        "{NOTES} SELECT crsql_as_crr('notes'); INSERT INTO notes VALUES(1, 'one', 1); UPDATE notes__crsql_clock SET col_version = 1 << 60"
    );
    let crr = device(&folder, "crr", TableEngine::CrSqlite, &sql);
    let native = device(&folder, "native", TableEngine::Native, "");
    share(&folder, &[&crr, &native]);
    assert_eq!((crr.status().unwrap().clock_ahead_ms, crr.check().unwrap().findings), (0, vec![]));
    sync(&[&crr, &native]);
    run(&native, "UPDATE notes SET stars = 2");
    sync(&[&crr, &native]);
    assert_eq!(same(&crr, &native, "SELECT stars FROM notes"), ["Integer(2)"]);
}

/// A native device and one that cr-sqlite keeps, with these tables and a bucket.
fn pair(folder: &TempDir, sql: &str) -> (Replica, Replica) {
    let native = device(folder, "native", TableEngine::Native, sql);
    let crr = device(folder, "crr", TableEngine::CrSqlite, sql);
    share(folder, &[&native, &crr]);
    sync(&[&native, &crr]);
    (native, crr)
}

fn same(a: &Replica, b: &Replica, sql: &str) -> Vec<String> {
    assert_eq!(texts(a, sql), texts(b, sql));
    texts(a, sql)
}

#[test]
fn what_another_program_takes_from_sites_of_cr_sqlites_own_travels() {
    let folder = tempfile::tempdir().unwrap();
    let (native, crr) = pair(&folder, NOTES);
    run(&native, "INSERT INTO notes VALUES(1, 'one', 1)");
    sync(&[&native, &crr]);
    let take = "INSERT INTO crsql_changes(\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq, ts)
        VALUES('notes', crsql_pack_columns(?1), ?2, ?3, ?4, 1, x'11111111111111111111111111111111', ?5, 0, '0')";
    let client = Client::open(crr.path());
    client.execute(take, (7, "title", "seven", 1, 1)).unwrap();
    client.execute(take, (1, "-1", None::<String>, 2, 2)).unwrap();
    drop(client);
    assert_eq!((crr.status().unwrap().queued, crr.check().unwrap().findings), (2, vec![]));
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT * FROM notes"), ["Integer(7) Text(\"seven\") Null"]);
}

#[test]
fn a_table_that_cannot_be_tracked_takes_no_past_from_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "CREATE TABLE k(id INTEGER PRIMARY KEY NOT NULL, v); CREATE TABLE m(id INTEGER PRIMARY KEY NOT NULL, v);
        SELECT crsql_as_crr('k'); SELECT crsql_as_crr('m'); INSERT INTO m VALUES(1, 'm'), (2, 'old'); CREATE TABLE zlog(x);";
    let open = |name: &str, more: &str| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        Client::open(&folder.path().join(name).join("app.db")).execute_batch(&format!("{sql} {more}")).unwrap();
        let replica = builder(folder.path(), name).engine(TableEngine::CrSqlite).init().unwrap();
        let (tracked, refused) = replica.track_all().unwrap();
        assert_eq!((tracked.len(), refused.len()), (2, 1));
        replica
    };
    let a = open("a", "");
    let b = open(
        "b",
        "DELETE FROM m WHERE id = 1; UPDATE m SET v = 'n1' WHERE id = 2; UPDATE m SET v = 'newer' WHERE id = 2",
    );
    share(&folder, &[&a, &b]);
    sync(&[&a, &b]);
    assert_eq!(same(&a, &b, "SELECT id, v FROM m"), ["Integer(2) Text(\"newer\")"]);
}

#[test]
fn triggers_of_the_app_see_whole_rows_in_merges() {
    let folder = tempfile::tempdir().unwrap();
    let (native, crr) = pair(&folder, "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, t TEXT, u TEXT)");
    let triggers = "CREATE TABLE seen(id, t, u);
        CREATE TRIGGER half BEFORE INSERT ON notes WHEN new.t IS NULL OR new.u IS NULL BEGIN SELECT RAISE(ROLLBACK, 'half a row'); END;
        CREATE TRIGGER log AFTER INSERT ON notes BEGIN INSERT INTO seen VALUES(new.id, new.t, new.u); END;
        CREATE TRIGGER gone AFTER DELETE ON notes BEGIN INSERT INTO seen VALUES(old.id, old.t, 'gone'); END";
    Client::open(crr.path()).execute_batch(triggers).unwrap();
    run(&native, "INSERT INTO notes VALUES(1, 'x', 'y'), (2, 'v', 'w')");
    sync(&[&native, &crr]);
    run(&native, "DELETE FROM notes WHERE id = 2; UPDATE notes SET u = 'z'");
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT * FROM notes"), ["Integer(1) Text(\"x\") Text(\"z\")"]);
    assert_eq!(
        texts(&crr, "SELECT * FROM seen"),
        [
            "Integer(1) Text(\"x\") Text(\"y\")",
            "Integer(2) Text(\"v\") Text(\"w\")",
            "Integer(2) Text(\"v\") Text(\"gone\")"
        ]
    );
    run(&crr, "UPDATE notes SET t = 'again'");
    sync(&[&native, &crr]);
}

#[test]
fn names_are_cr_sqlites_letter_by_letter_and_nothing_is_lost_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let (native, crr) = pair(&folder, NOTES);
    run(&native, "INSERT INTO notes VALUES(1, 'one', 1)");
    sync(&[&native, &crr]);
    let client = Client::open(crr.path());
    client.execute_batch("ALTER TABLE notes RENAME COLUMN title TO TITLE").unwrap();
    client.execute("UPDATE notes SET title = 'kept'", []).unwrap();
    drop(client);
    sync(&[&native, &crr]);
    run(&native, "UPDATE notes SET title = 'more'");
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT title FROM notes"), ["Text(\"more\")"]);
    // cr-sqlite was told another case of the table's name.
    let sql = "CREATE TABLE Notes(id INTEGER PRIMARY KEY NOT NULL, t TEXT); SELECT crsql_as_crr('notes'); INSERT INTO notes VALUES(1, 'x')";
    let other = device(&folder, "other", TableEngine::CrSqlite, sql);
    run(&other, "UPDATE notes SET t = 'y'; INSERT INTO notes VALUES(2, 'z')");
    assert_eq!((other.status().unwrap().version > 0, other.check().unwrap().findings), (true, vec![]));
}

#[test]
fn what_happens_while_cr_sqlite_is_off_a_table_comes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (native, crr) = pair(&folder, NOTES);
    for (put_on_by_isle, id) in [(false, 10), (true, 20)] {
        run(&native, &format!("INSERT INTO notes VALUES({id}, 'a', 1), ({}, 'b', 2)", id + 1));
        sync(&[&native, &crr]);
        let client = Client::open(crr.path());
        client.query_row("SELECT crsql_as_table('notes')", [], |_| Ok(())).unwrap();
        client
            .execute_batch(&format!(
                "DELETE FROM notes WHERE id = {id}; INSERT INTO notes VALUES({}, 'new', 3)",
                id + 2
            ))
            .unwrap();
        if put_on_by_isle {
            crr.set_engine(TableEngine::CrSqlite).unwrap();
        } else {
            client.query_row("SELECT crsql_as_crr('notes')", [], |_| Ok(())).unwrap();
        }
        drop(client);
        sync(&[&native, &crr]);
        let there = same(&native, &crr, &format!("SELECT id FROM notes WHERE id >= {id} ORDER BY id"));
        assert_eq!(there, [format!("Integer({})", id + 1), format!("Integer({})", id + 2)]);
        run(&native, &format!("UPDATE notes SET stars = 20 WHERE id = {}", id + 1));
        sync(&[&native, &crr]);
    }
    // Handed to isle in that state it is recorded again.
    Client::open(crr.path()).query_row("SELECT crsql_as_table('notes')", [], |_| Ok(())).unwrap();
    crr.set_engine(TableEngine::Native).unwrap();
    Connection::open(crr.path()).unwrap().execute("UPDATE notes SET stars = 77", []).unwrap();
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT DISTINCT stars FROM notes"), ["Integer(77)"]);
}

#[test]
fn what_cr_sqlite_cannot_hold_stays_with_isle_and_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let many = |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
    let tables = format!(
        "CREATE TABLE \"order\"(id INTEGER PRIMARY KEY NOT NULL, x); CREATE TABLE \"my-t\"(id INTEGER PRIMARY KEY NOT NULL, x);
         CREATE TABLE minus(id INTEGER PRIMARY KEY NOT NULL, \"-1\" TEXT); CREATE TABLE keyed(__crsql_key INTEGER PRIMARY KEY NOT NULL, x);
         CREATE TABLE wide(id INTEGER PRIMARY KEY NOT NULL, {}); CREATE TABLE just(id INTEGER PRIMARY KEY NOT NULL, {});
         CREATE TABLE folded(id TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, x);",
        many(63),
        many(62)
    );
    let (native, crr) = pair(&folder, &format!("{NOTES} {tables}"));
    let kept = |table: &str| engine_of(&crr, table);
    for table in ["order", "my-t", "minus", "keyed", "wide", "folded"] {
        assert_eq!(kept(table), TableEngine::Native, "{table}");
    }
    assert_eq!((kept("notes"), kept("just")), (TableEngine::CrSqlite, TableEngine::CrSqlite));
    let engines = crr.table_engines().unwrap();
    assert!(engines.iter().all(|table| (table.engine == TableEngine::Native) == table.reason.is_some()), "{engines:?}");
    run(
        &crr,
        "INSERT INTO \"order\" VALUES(1, 2); INSERT INTO \"my-t\" VALUES(1, 2); INSERT INTO minus VALUES(1, 2); UPDATE minus SET \"-1\" = 3",
    );
    run(
        &crr,
        "INSERT INTO wide(id, c62) VALUES(1, 2); INSERT INTO just(id, c61) VALUES(1, 2); INSERT INTO folded VALUES('A', 1)",
    );
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT \"-1\" FROM minus"), ["Text(\"3\")"]);
    // An index that an app makes by itself.
    run(&native, "INSERT INTO notes VALUES(1, 'a', 1), (2, 'b', 2)");
    sync(&[&native, &crr]);
    run(&crr, "CREATE UNIQUE INDEX titles ON notes(title)");
    run(&crr, "INSERT OR REPLACE INTO notes VALUES(9, 'a', 9)");
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT id FROM notes ORDER BY id"), ["Integer(2)", "Integer(9)"]);
    assert_eq!(kept("notes"), TableEngine::Native);
    // A CRR that was one before, with an index that it cannot have.
    let sql =
        "CREATE TABLE o(id TEXT PRIMARY KEY NOT NULL, v); SELECT crsql_as_crr('o'); CREATE UNIQUE INDEX u ON o(v)";
    let other = device(&folder, "other", TableEngine::CrSqlite, sql);
    assert_eq!(engine_of(&other, "o"), TableEngine::Native);
    other.set_engine(TableEngine::Native).unwrap();
    Connection::open(other.path()).unwrap().execute("INSERT INTO o VALUES('D', 3)", []).unwrap();
    assert_eq!((other.status().unwrap().queued, other.check().unwrap().findings), (1, vec![]));
}

#[test]
fn keys_of_any_bytes_and_rows_of_half_their_columns_travel() {
    let folder = tempfile::tempdir().unwrap();
    let (native, crr) = pair(&folder, "CREATE TABLE o(id TEXT PRIMARY KEY NOT NULL, y, z)");
    run(
        &crr,
        "INSERT INTO o VALUES(CAST(x'ff' AS TEXT), 1, 1), (CAST(x'fe' AS TEXT), 2, 2); DELETE FROM o WHERE y = 1",
    );
    // A row of which only one column came.
    let take = "INSERT INTO crsql_changes(\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq, ts)
        VALUES('o', crsql_pack_columns('half'), 'y', 5, 1, 1, x'22222222222222222222222222222222', 1, 0, '0')";
    Client::open(crr.path()).execute(take, []).unwrap();
    sync(&[&native, &crr]);
    assert_eq!(same(&native, &crr, "SELECT hex(id), y, z FROM o ORDER BY id").len(), 2);
    // A past of sentinels alone, and a column that came after rows with keys alone.
    let sql = "CREATE TABLE k(id INTEGER PRIMARY KEY NOT NULL); SELECT crsql_as_crr('k'); INSERT INTO k VALUES(1);
        SELECT crsql_begin_alter('k'); ALTER TABLE k ADD COLUMN note TEXT; SELECT crsql_commit_alter('k');
        INSERT INTO crsql_changes(\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq, ts)
        VALUES('k', crsql_pack_columns(2), '-1', NULL, 3, 1, x'22222222222222222222222222222222', 3, 0, '0');";
    let other = device(&folder, "other", TableEngine::CrSqlite, sql);
    assert_eq!(other.check().unwrap().findings, []);
    let joins = device(&folder, "joins", TableEngine::Native, "");
    let bucket = folder.path().join("bucket-of-two");
    for replica in [&other, &joins] {
        replica.add_plain_remote("two", bucket.to_str().unwrap()).unwrap();
    }
    sync(&[&other, &joins]);
    assert_eq!(same(&other, &joins, "SELECT id FROM k ORDER BY id"), ["Integer(1)", "Integer(2)"]);
}

#[test]
fn a_crr_that_was_one_before_stays_one_and_loses_no_trigger_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let sql = format!("{NOTES} SELECT crsql_as_crr('notes');");
    let crr = device(&folder, "crr", TableEngine::CrSqlite, &sql);
    let refused = crr.write(|tx| tx.execute_batch("DROP TRIGGER notes__crsql_utrig")).unwrap_err().to_string();
    assert!(refused.contains("cr-sqlite's"), "{refused}");
    Client::open(crr.path()).execute_batch("DROP TRIGGER notes__crsql_utrig").unwrap();
    let found = crr.check().unwrap().findings;
    assert!(found.iter().any(|finding| finding.message.contains("notes__crsql_utrig")), "{found:?}");
    crr.set_engine(TableEngine::Native).unwrap();
    crr.set_engine(TableEngine::CrSqlite).unwrap();
    assert_eq!(crr.check().unwrap().findings, []);
    let path = crr.path().to_owned();
    crr.detach().unwrap();
    let other = format!("{NOTES} SELECT crsql_as_crr('notes');");
    let kept = device(&folder, "kept", TableEngine::CrSqlite, &other);
    let kept_at = kept.path().to_owned();
    kept.detach().unwrap();
    let client = Client::open(&kept_at);
    client.execute("INSERT INTO notes VALUES(1, 'recorded', 1)", []).unwrap();
    let recorded: i64 = client.query_row("SELECT count(*) FROM crsql_changes", [], |row| row.get(0)).unwrap();
    assert_eq!(recorded, 2);
    drop(client);
    // One that isle alone kept in between is a plain table.
    assert_eq!(Connection::open(&path).unwrap().execute("INSERT INTO notes VALUES(1, 'x', 1)", []).unwrap(), 1);
}

#[test]
fn the_command_line_makes_shows_and_hands_over() {
    let folder = tempfile::tempdir().unwrap();
    let isle = |args: &[&str]| {
        let mut command = std::process::Command::new(isle_tests::isle_binary());
        command
            .current_dir(folder.path())
            .env("ISLE_HOME", folder.path().join("home"))
            .env("ISLE_CR_SQLITE", library());
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    isle(&["init", "app.db", "--engine", "cr-sqlite"]);
    isle(&[
        "exec",
        "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, t TEXT); CREATE TABLE names(id INTEGER PRIMARY KEY NOT NULL, n TEXT UNIQUE)",
    ]);
    let tracked = isle(&["track", "notes", "names"]);
    assert!(tracked.contains("isle keeps names, which cr-sqlite cannot hold: it has a UNIQUE index"), "{tracked}");
    isle(&["exec", "INSERT INTO notes VALUES(1, 'x'); INSERT INTO names VALUES(1, 'y')"]);
    let shown = isle(&["engine", "--json"]);
    assert!(shown.contains("\"engine\": \"cr-sqlite\"") || shown.contains("\"engine\":\"cr-sqlite\""), "{shown}");
    let before = isle(&["hash", "--json"]);
    isle(&["engine", "native"]);
    assert_eq!(isle(&["hash", "--json"]), before);
    isle(&["--db", "app.db", "doctor"]);
    assert!(!isle(&["engine"]).contains("cr-sqlite"));
    // A file of cr-sqlite's is not taken for a plain one.
    Client::open(&folder.path().join("old.db"))
        .execute_batch(&format!("{NOTES} SELECT crsql_as_crr('notes')"))
        .unwrap();
    let mut command = std::process::Command::new(isle_tests::isle_binary());
    let asked = command
        .current_dir(folder.path())
        .env("ISLE_HOME", folder.path().join("home"))
        .args(["init", "old.db"])
        .output()
        .unwrap();
    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
    isle(&["init", "old.db", "--engine", "native"]);
    isle(&["--db", "old.db", "engine", "cr-sqlite"]);
    let said = isle(&["--db", "old.db", "engine"]);
    assert!(said.contains("isle track notes"), "{said}");
    let doctor = isle(&["--db", "old.db", "doctor"]);
    assert!(doctor.contains("engine  cr-sqlite, "), "{doctor}");
    assert!(!isle(&["--db", "app.db", "status"]).contains("crsql"), "cr-sqlite's own tables are nobody's business");
}

#[test]
fn untracked_and_detached_tables_are_plain_again() {
    let folder = tempfile::tempdir().unwrap();
    let crr = device(&folder, "crr", TableEngine::CrSqlite, NOTES);
    run(&crr, "INSERT INTO notes VALUES(1, 'one', 1)");
    crr.untrack("notes").unwrap();
    let path = crr.path().to_owned();
    let plain = |sql: &str| Connection::open(&path).unwrap().execute(sql, []);
    assert_eq!(plain("UPDATE notes SET stars = 2").unwrap(), 1);
    crr.track(&["notes"]).unwrap();
    assert_eq!(engine_of(&crr, "notes"), TableEngine::CrSqlite);
    crr.detach().unwrap();
    assert_eq!(plain("INSERT INTO links VALUES('x', 'y')").unwrap(), 1);
}
