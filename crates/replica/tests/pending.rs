//! A schema operation that does not fit a file: syncs go on, and bring the rest once it fits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use isle::{InviteOptions, LiveOptions, Replica, SyncReport};

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
