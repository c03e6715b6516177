//! A schema operation that does not fit a file: syncs go on, and bring the rest once it fits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use isle::{Definition, InviteOptions, LiveOptions, Replica, SyncReport, Version};

const FIRST: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT);";
const SECOND: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, mood TEXT);
    CREATE TABLE tags(id INTEGER PRIMARY KEY, name TEXT);";

fn device(folder: &Path, name: &str) -> Replica {
    Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).init().unwrap()
}

fn run(replica: &Replica, sql: &str) {
    replica.write(|tx| tx.execute_batch(sql)).unwrap();
}

fn texts(replica: &Replica, sql: &str) -> Vec<String> {
    replica.read(|q| q.all(sql, &[])).unwrap()
}

async fn sync(replica: &Replica) -> SyncReport {
    replica.sync().await.unwrap().remove(0)
}

/// `b` has a table of its own where a table of `a` is to come.
fn stand_in_the_way(b: &Replica) {
    run(b, "CREATE TABLE tags(name TEXT PRIMARY KEY); INSERT INTO tags VALUES('mine')");
}

#[tokio::test]
async fn a_folder_brings_what_fits_and_a_third_device_gets_all_of_it_through_the_second() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| device(folder.path(), name));
    let bucket = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // `a` and `b` have one folder, `b` and `c` another.
    a.add_plain_remote("one", &bucket("one")).unwrap();
    b.add_plain_remote("one", &bucket("one")).unwrap();
    b.add_plain_remote("two", &bucket("two")).unwrap();
    c.add_plain_remote("two", &bucket("two")).unwrap();
    a.apply_schema(FIRST).unwrap();
    sync(&a).await;
    b.sync().await.unwrap();
    stand_in_the_way(&b);
    a.apply_schema(SECOND).unwrap();
    run(&a, "INSERT INTO notes VALUES(1, 'Dune', 'fine'); INSERT INTO tags VALUES(1, 'book')");
    sync(&a).await;

    let reports = b.sync().await.unwrap();
    for report in &reports {
        assert_eq!((report.refused.as_slice(), report.waiting.as_slice()), (&[][..], &[][..]));
        assert_eq!(report.pending.len(), 1);
        assert_eq!(report.pending[0].state, "blocked");
        assert!(report.pending[0].reason.contains("\"tags\""), "{:?}", report.pending);
    }
    assert_eq!(texts(&b, "SELECT title FROM notes"), ["Dune"]);
    assert_eq!(b.status().unwrap().pending_operations, 1);
    assert_eq!(b.parked().unwrap().len(), 2);
    sync(&c).await;
    assert_eq!(texts(&c, "SELECT mood FROM notes"), ["fine"]);
    assert_eq!(c.state_hash().unwrap(), a.state_hash().unwrap());

    // It is tried again at each sync, and costs no request.
    let requests = b.sync().await.unwrap()[0].requests;
    run(&b, "ALTER TABLE tags RENAME TO my_tags");
    let reports = b.sync().await.unwrap();
    assert!(reports.iter().all(|report| report.pending.is_empty()));
    assert!(requests <= reports[0].requests);
    assert_eq!(texts(&b, "SELECT name FROM tags"), ["book"]);
    assert_eq!(b.state_hash().unwrap(), a.state_hash().unwrap());
    assert_eq!(texts(&b, "SELECT name FROM my_tags"), ["mine"]);
}

/// The device's app is of a version.
fn app(folder: &Path, name: &str, version: &str) -> Replica {
    let version = Version::parse(version).unwrap();
    let builder = Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).app_version(version);
    let replica = builder.init().unwrap();
    if replica.remotes().unwrap().is_empty() {
        replica.add_plain_remote("all", folder.join("bucket").to_str().unwrap()).unwrap();
    }
    replica
}

#[tokio::test]
async fn an_old_app_keeps_its_schema_and_all_that_is_written_under_it_until_it_is_updated() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (app(folder.path(), "a", "1.4"), app(folder.path(), "b", "1.4.2"));
    let first = format!("-- @version 1.4\n{FIRST}");
    let second = format!("-- @version 2.0\n-- @requires 2.0\n{SECOND} -- @rename notes.title -> heading\n")
        .replace("title TEXT", "heading TEXT");
    a.apply_schema(first.as_str()).unwrap();
    run(&a, "INSERT INTO notes VALUES(1, 'Dune')");
    sync(&a).await;
    sync(&b).await;
    // The author's own app must be one that can live with it.
    let refused = a.apply_schema(second.as_str()).unwrap_err().to_string();
    assert!(refused.contains("later version of the app than this one, which is 1.4.0"), "{refused}");
    drop(a);
    let a = app(folder.path(), "a", "2.0");
    a.apply_schema(second.as_str()).unwrap();
    assert_eq!(a.dump_schema_document().unwrap().requires.as_deref(), Some("2.0.0"));
    for dump in [Definition::from(a.dump_schema().unwrap()), Definition::from(&a.dump_schema_document().unwrap())] {
        assert!(a.plan_schema(dump).unwrap().changes.is_empty());
    }
    run(&a, "INSERT INTO notes VALUES(2, 'Ubik', 'odd'); UPDATE notes SET heading = 'Dune!' WHERE id = 1");
    sync(&a).await;

    let report = sync(&b).await;
    assert_eq!(report.pending.len(), 1);
    assert_eq!(report.pending[0].state, "app");
    assert!(report.pending[0].reason.contains("version 2.0.0"), "{:?}", report.pending);
    assert_eq!(texts(&b, "SELECT title FROM notes ORDER BY id"), ["Dune!", "Ubik"]);
    b.apply_schema(first.as_str()).unwrap();
    run(&b, "UPDATE notes SET title = 'Dune?' WHERE id = 1");
    sync(&b).await;
    sync(&a).await;
    assert_eq!(texts(&a, "SELECT heading FROM notes ORDER BY id"), ["Dune?", "Ubik"]);

    // The update: what waited is there when the file is open.
    drop(b);
    let b = app(folder.path(), "b", "2.0");
    assert_eq!(texts(&b, "SELECT mood FROM notes WHERE id = 2"), ["odd"]);
    assert_eq!(b.state_hash().unwrap(), a.state_hash().unwrap());

    // And back: the file has what the old app cannot live with.
    drop(b);
    let b = app(folder.path(), "b", "1.4.2");
    let error = b.write(|tx| tx.execute("UPDATE notes SET heading = 'x'", &[]).map(drop)).unwrap_err();
    assert!(error.to_string().contains("needs version 2.0.0 of the app, and this is 1.4.2"), "{error}");
    run(&a, "UPDATE notes SET mood = 'fine' WHERE id = 2");
    sync(&a).await;
    sync(&b).await;
    assert_eq!(texts(&b, "SELECT mood FROM notes WHERE id = 2"), ["fine"], "it can read, and what others write comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_a_peer() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| device(folder.path(), name));
    a.apply_schema(FIRST).unwrap();
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let live = a.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.unwrap();
    let addresses = live.addresses().to_vec();
    let ticket = a.invite(&InviteOptions { addresses, ..InviteOptions::default() }).unwrap();
    b.join(&ticket).await.unwrap();
    stand_in_the_way(&b);
    a.apply_schema(SECOND).unwrap();
    run(&a, "INSERT INTO notes VALUES(1, 'Dune', 'fine'); INSERT INTO tags VALUES(1, 'book')");
    let report = sync(&b).await;
    assert_eq!((report.pending.len(), report.refused.len()), (1, 0), "{report:?}");
    assert_eq!(texts(&b, "SELECT title FROM notes"), ["Dune"]);
    run(&b, "DROP TABLE tags");
    let report = sync(&b).await;
    assert!(report.pending.is_empty(), "{report:?}");
    assert_eq!(texts(&b, "SELECT name FROM tags"), ["book"]);
    assert_eq!(b.state_hash().unwrap(), a.state_hash().unwrap());
    live.stop().await.unwrap();
}
