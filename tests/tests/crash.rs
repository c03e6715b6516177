//! A writing and syncing process is killed at any moment, again and again: nothing acknowledged is lost, nothing is halfway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use isle::{Replica, params};
use isle_tests::{Device, kill_after};

const KILLS: u64 = 200;

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

/// A device with the key of another one and its remote.
fn beside(first: &Device, folder: &Path, name: &str) -> Device {
    let device = Device::new(folder, name);
    device.isle(&["init", "app.db"]);
    device.isle(&["devices", "rename", name]);
    let key = folder.join("app.key");
    if !key.exists() {
        first.isle(&["key", "export", key.to_str().unwrap()]);
    }
    device.isle(&["key", "import", key.to_str().unwrap()]);
    device.isle(&["remote", "add", "r", "../bucket"]);
    device
}

/// A device that has rows in a remote.
fn source(folder: &Path) -> Device {
    let a = Device::new(folder, "a");
    a.isle(&["init", "app.db"]);
    a.isle(&["exec", "CREATE TABLE notes(id INTEGER PRIMARY KEY, body TEXT, n INT)"]);
    a.isle(&["track", "notes"]);
    a.isle(&["exec", &fill(0, 2_000)]);
    a.isle(&["remote", "add", "r", "../bucket"]);
    a.isle(&["sync"]);
    a
}

fn fill(from: u64, to: u64) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (VALUES({from}) UNION ALL SELECT i + 1 FROM n WHERE i < {to} - 1)
         INSERT INTO notes SELECT i, hex(randomblob(200)), i FROM n"
    )
}

fn number(device: &Device, sql: &str) -> u64 {
    let text = device.isle(&["query", "--csv", sql]);
    text.lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_device_that_is_killed_while_it_joins_a_snapshot_has_all_of_it_or_nothing_and_keeps_its_own() {
    const KILLS: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let a = source(folder.path());
    let late: Vec<Device> = (0..=KILLS).map(|n| beside(&a, folder.path(), &format!("late{n}"))).collect();
    for device in &late {
        device.isle(&["sync"]);
        device.isle(&["exec", "UPDATE notes SET body = 'edited while away' WHERE id = 7"]);
    }
    // What they lack is in no log any more.
    a.isle(&["exec", &fill(2_000, 20_000)]);
    a.isle(&["exec", "UPDATE notes SET n = -1 WHERE id >= 1000"]);
    a.isle(&["sync"]);
    a.isle(&["compact", "--keep", "0s"]);
    let own = "SELECT count(*) FROM notes WHERE id = 7 AND body = 'edited while away'";
    let sync = |device: &Device, bytes| kill_after(device.command(&["sync"]), &[&device.folder], bytes).0;
    let all = sync(&late[KILLS], u64::MAX);
    assert_eq!(number(&late[KILLS], "SELECT count(*) FROM notes WHERE n = -1"), 19_000, "it was a snapshot");
    let mut killed = Vec::new();
    for (n, device) in late[..KILLS].iter().enumerate() {
        // The first ones while it gathers the blocks, the next ones while it joins them, the last one perhaps after that.
        sync(device, all * (2 * n as u64 + 1) / (2 * KILLS as u64));
        let there = (number(device, "SELECT count(*) FROM notes"), number(device, "SELECT sum(n = -1) FROM notes"));
        assert!([(2_000, 0), (20_000, 19_000)].contains(&there), "kill {n}: {there:?}");
        assert_eq!(number(device, own), 1, "kill {n}: what it had written");
        device.isle(&["doctor"]);
        killed.push(there.0 == 2_000);
        // It goes on where it was, and says what nobody has heard of.
        device.isle(&["sync"]);
        assert_eq!(number(device, "SELECT count(*) FROM notes WHERE n = -1"), 19_000, "kill {n}");
        device.isle(&["doctor"]);
    }
    assert!(killed.iter().filter(|before| **before).count() >= 2, "most came too late: {killed:?} of {all}");
    for device in late.iter().chain([&a]).chain(&late) {
        device.isle(&["sync"]);
    }
    for device in &late {
        assert_eq!((number(device, own), device.isle(&["hash"])), (1, a.isle(&["hash"])));
    }
}

#[test]
fn a_device_that_is_killed_while_it_compacts_loses_nothing_here_and_in_the_remote() {
    const KILLS: u64 = 5;
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let a = source(folder.path());
    let b = beside(&a, folder.path(), "b");
    b.isle(&["sync"]);
    let compact = ["compact", "--keep", "0s", "--grace", "0s", "--vacuum"];
    let run = |bytes| kill_after(a.command(&compact), &[&a.folder, &bucket], bytes).0;
    let work = |round: u64| {
        // A log that is worth a snapshot, tombstones that all know of, and something that nobody has seen.
        a.isle(&["exec", &format!("UPDATE notes SET body = hex(randomblob(200)) WHERE id % 2 = {}", round % 2)]);
        a.isle(&["exec", &format!("DELETE FROM notes WHERE id BETWEEN {} AND {}", round * 20, round * 20 + 9)]);
        for device in [&a, &b, &a] {
            device.isle(&["sync"]);
        }
        a.isle(&["exec", &format!("INSERT INTO notes VALUES({}, 'not sent yet', -7)", 50_000 + round)]);
    };
    work(0);
    let all = run(u64::MAX);
    let mut seen = Vec::new();
    for round in 1..=KILLS {
        work(round);
        let before = a.isle(&["hash"]);
        seen.push(run(all * (2 * round - 1) / (2 * KILLS)));
        assert_eq!(a.isle(&["hash"]), before, "kill {round}");
        a.isle(&["doctor"]);
        // What stands in the remote is whole, whatever was left lying about.
        b.isle(&["sync"]);
        b.isle(&["doctor"]);
        let c = beside(&a, folder.path(), &format!("c{round}"));
        c.isle(&["sync"]);
        c.isle(&["doctor"]);
        assert_eq!(b.isle(&["hash"]), c.isle(&["hash"]), "kill {round}");
        a.isle(&["sync"]);
        a.isle(&["devices", "retire", &format!("c{round}")]);
        a.isle(&["sync"]);
        b.isle(&["sync"]);
        assert_eq!(b.isle(&["hash"]), before, "kill {round}");
    }
    assert!(seen.iter().filter(|seen| **seen < all).count() >= 3, "{seen:?} of {all}");
    for _ in 0..2 {
        a.isle(&compact);
        b.isle(&compact);
    }
    let c = beside(&a, folder.path(), "last");
    c.isle(&["sync"]);
    assert_eq!((c.isle(&["hash"]), a.isle(&["hash"])), (b.isle(&["hash"]), b.isle(&["hash"])));
    assert_eq!(number(&c, "SELECT count(*) FROM notes WHERE n = -7"), KILLS + 1);
}
