//! A writing and syncing process is killed at any moment, again and again: nothing acknowledged is lost, nothing is halfway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use isle::{Replica, params};

const KILLS: u64 = 100;

fn open(folder: &Path, name: &str) -> Replica {
    Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(format!("{name}.home"))).init().unwrap()
}

/// Starts the worker, lets it acknowledge `steps` lines and kills it; gives the last acknowledged write and sync.
fn run_and_kill(folder: &Path, first: i64, steps: u64) -> (Option<i64>, Option<i64>) {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_crash-worker"))
        .args([folder.join("a.db").as_os_str(), folder.join("a.home").as_os_str()])
        .arg(first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
    let (mut wrote, mut synced) = (None, None);
    let mut note = |line: String| {
        let (what, batch) = line.split_once(' ').unwrap();
        *(if what == "wrote" { &mut wrote } else { &mut synced }) = Some(batch.parse().unwrap());
    };
    for _ in 0..steps {
        match lines.next() {
            Some(line) => note(line.unwrap()),
            None => panic!("the worker ended by itself: {}", worker.wait().unwrap()),
        }
    }
    worker.kill().unwrap();
    // What it said before it died counts too; a line that was cut off does not.
    for line in
        lines.map_while(Result::ok).filter(|line| line.split_once(' ').is_some_and(|(_, n)| n.parse::<i64>().is_ok()))
    {
        note(line);
    }
    worker.wait().unwrap();
    (wrote, synced)
}

#[test]
fn nothing_acknowledged_is_lost_and_no_transaction_is_halfway() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let a = open(folder.path(), "a");
    a.write(|tx| {
        tx.execute_batch("CREATE TABLE entries(id INTEGER PRIMARY KEY, batch INT, body TEXT); CREATE TABLE doomed(id INTEGER PRIMARY KEY)")?;
        tx.execute_batch("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO doomed SELECT i FROM n")
    })
    .unwrap();
    a.track(&["entries", "doomed"]).unwrap();
    a.add_remote("r", bucket.to_str().unwrap()).unwrap();
    drop(a);
    let mut next = 0;
    for kill in 0..KILLS {
        let (wrote, _) = run_and_kill(folder.path(), next, 1 + kill * 2_654_435_761 % 13);
        let a = open(folder.path(), "a");
        let last: i64 = a.read(|q| q.one("SELECT coalesce(max(batch), -1) FROM entries", params![])).unwrap().unwrap();
        assert!(
            last >= wrote.unwrap_or(next - 1),
            "kill {kill}: batch {wrote:?} was acknowledged, the last one here is {last}"
        );
        let torn: Vec<i64> =
            a.read(|q| q.all("SELECT batch FROM entries GROUP BY batch HAVING count(*) <> 5", params![])).unwrap();
        assert!(torn.is_empty(), "kill {kill}: batches {torn:?} are incomplete");
        let doomed: i64 =
            a.read(|q| q.one("SELECT count(*) FROM doomed WHERE id <= ?1", params![last])).unwrap().unwrap();
        assert_eq!(doomed, 0, "kill {kill}: a delete of a committed transaction is missing");
        let report = a.check().unwrap();
        assert!(report.findings.is_empty(), "kill {kill}: {:?}", report.findings);
        next = last + 1;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (a, b) = (open(folder.path(), "a"), open(folder.path(), "b"));
    b.add_remote("r", bucket.to_str().unwrap()).unwrap();
    isle::import_keys(Some(folder.path().join("b.home")), &a.export_keys().unwrap()).unwrap();
    runtime.block_on(async {
        let report = a.sync().await.unwrap().remove(0);
        assert_eq!(report.new_site, None, "a crash is no reason for a new identity");
        b.sync().await.unwrap();
    });
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[test]
fn a_reader_that_is_killed_while_it_merges_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let source = open(folder.path(), "source");
    source.write(|tx| tx.execute_batch("CREATE TABLE entries(id INTEGER PRIMARY KEY, batch INT, body TEXT); CREATE TABLE doomed(id INTEGER PRIMARY KEY)")).unwrap();
    source.track(&["entries", "doomed"]).unwrap();
    source.add_remote("r", bucket.to_str().unwrap()).unwrap();
    for batch in 0..200i64 {
        source
            .write(|tx| {
                for n in 0..20 {
                    tx.execute("INSERT INTO entries VALUES(?1, ?2, 'x')", params![-1 - batch * 20 - n, -1 - batch])?;
                }
                Ok(())
            })
            .unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(source.sync()).unwrap();
    isle::import_keys(Some(folder.path().join("a.home")), &source.export_keys().unwrap()).unwrap();
    let a = open(folder.path(), "a");
    a.add_remote("r", bucket.to_str().unwrap()).unwrap();
    // The first sync brings the tables; the worker writes to them and merges while it is killed.
    runtime.block_on(a.sync()).unwrap();
    drop(a);
    let mut next = 0;
    for kill in 0..10 {
        source.write(|tx| tx.execute("UPDATE entries SET body = ?1 WHERE batch < -100", params![kill])).unwrap();
        runtime.block_on(source.sync()).unwrap();
        let (wrote, _) = run_and_kill(folder.path(), next, 2);
        next = wrote.unwrap_or(next) + 50;
    }
    let a = open(folder.path(), "a");
    for replica in [&a, &source, &a] {
        runtime.block_on(replica.sync()).unwrap();
    }
    assert_eq!(a.state_hash().unwrap(), source.state_hash().unwrap());
    assert!(a.check().unwrap().findings.is_empty());
}
