//! Direct sync over loopback: how long a commit takes to be visible on another device, how fast a new device catches up, and what
//! different networks of devices send.
//!
//! `cargo bench -p isle-benches --bench direct -- [--rows N] [--only latency,catch-up,topologies,idle]`

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints, and stops when something is wrong"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isle::{InviteOptions, Live, LiveOptions, Replica};
use isle_changeset::Header;
use isle_clock::VersionVector;
use isle_store::{Frame, Logged, Options, Store};

const DEVICES: usize = 20;
const CHANGES: i64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    // `cargo test` builds benches and runs them with --test: nothing to do then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let argument = |name: &str| {
        let mut args = std::env::args().skip_while(|arg| arg != name);
        args.nth(1)
    };
    let rows: i64 = argument("--rows").map_or(1_000_000, |rows| rows.parse().expect("a number of rows"));
    let only = argument("--only").unwrap_or_else(|| "latency,catch-up,topologies,idle".to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for what in only.split(',') {
            match what {
                "latency" => latency().await,
                "catch-up" => catch_up(rows).await,
                "topologies" => topologies().await,
                "idle" => idle().await,
                other => panic!("unknown measurement {other:?}"),
            }
        }
    });
}

fn replica(folder: &Path, name: &str) -> Replica {
    let home = folder.join(format!("{name}.home"));
    Replica::builder(folder.join(format!("{name}.db"))).home(home).init().expect("a replica")
}

fn first(folder: &Path) -> Replica {
    let replica = replica(folder, "d0");
    let sql = "CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INT)";
    replica.write(|tx| tx.execute_batch(sql)).expect("creates");
    replica.track(&["items"]).expect("tracks");
    replica
}

async fn listen(replica: &Replica) -> Live {
    let listen = Some("127.0.0.1:0".parse().expect("an address"));
    replica.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.expect("listens")
}

async fn join(joiner: &Replica, inviter: &Replica, live: &Live) {
    let options = InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() };
    joiner.join(&inviter.invite(&options).expect("invites")).await.expect("joins");
}

fn insert(replica: &Replica, id: i64) {
    let sql = "INSERT INTO items VALUES(?1, ?2, ?3, ?4)";
    replica
        .write(|tx| tx.execute(sql, isle::params![id, &format!("item {id}"), id as f64 * 0.5, id % 100]))
        .expect("writes");
}

fn count(replica: &Replica) -> i64 {
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'items'";
    if replica.read(|q| q.one::<i64>(tables, &[])).expect("reads") == Some(0) {
        return 0;
    }
    replica.read(|q| q.one("SELECT count(*) FROM items", &[])).expect("reads").unwrap_or(0)
}

async fn until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it takes too long");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// 100 small transactions a second: from the commit on one device to the row being read on the other.
async fn latency() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (first(folder.path()), replica(folder.path(), "d1"));
    let live = listen(&a).await;
    join(&b, &a, &live).await;
    let far = b.go_live(&LiveOptions::default()).await.expect("goes live");
    until(|| live.connected().len() == 1).await;
    let mut changes = b.subscribe();
    let (sender, mut visible) = tokio::sync::mpsc::unbounded_channel();
    let reader = b.clone();
    let watching = tokio::task::spawn_blocking(move || {
        let mut last = 0i64;
        while last < CHANGES && changes.blocking_recv().is_ok() {
            let newest = reader.read(|q| q.one::<i64>("SELECT max(id) FROM items", &[])).expect("reads").unwrap_or(0);
            let now = Instant::now();
            for id in last + 1..=newest {
                sender.send((id, now)).expect("somebody listens");
            }
            last = last.max(newest);
        }
    });
    let mut committed = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for id in 1..=CHANGES {
        ticks.tick().await;
        let writer = a.clone();
        tokio::task::spawn_blocking(move || insert(&writer, id)).await.expect("writes");
        committed.push(Instant::now());
    }
    let mut times = Vec::new();
    while let Some((id, seen)) = visible.recv().await {
        times.push(seen.saturating_duration_since(committed[id as usize - 1]));
    }
    watching.await.expect("it watched");
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "commit to visible, {CHANGES} transactions at 100/s: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    far.stop().await.expect("stops");
    live.stop().await.expect("stops");
}

/// A new device takes everything, against applying the same changesets from memory to an empty replica.
async fn catch_up(rows: i64) {
    let folder = tempfile::tempdir().expect("a folder");
    let a = first(folder.path());
    let sql = "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
               INSERT INTO items SELECT i, 'item ' || i, i * 0.5, i % 100 FROM n";
    for from in (1..=rows).step_by(100_000) {
        let to = (from + 99_999).min(rows);
        a.write(|tx| tx.execute(sql, isle::params![from, to])).expect("writes");
    }
    let live = listen(&a).await;
    let b = replica(folder.path(), "d1");
    let begun = Instant::now();
    join(&b, &a, &live).await;
    let direct = begun.elapsed();
    assert_eq!(count(&b), rows);
    let bucket = folder.path().join("bucket");
    let url = bucket.to_str().expect("UTF-8");
    a.add_remote("folder", url).expect("adds");
    a.sync_with(&isle::SyncOptions { remote: Some("folder".to_owned()), ..Default::default() }).await.expect("syncs");
    let c = replica(folder.path(), "d2");
    isle::import_keys(Some(folder.path().join("d2.home")), &a.export_keys().expect("a key")).expect("imports");
    c.add_remote("folder", url).expect("adds");
    let begun = Instant::now();
    c.sync().await.expect("syncs");
    let remote = begun.elapsed();
    assert_eq!(count(&c), rows);
    let local = apply_locally(&a, &replica(folder.path(), "d3"));
    println!(
        "catch-up of {rows} rows: {:.2} s directly ({:.0} rows/s), {:.2} s from a folder, {:.2} s from memory: {:.0} % and {:.0} % of that speed",
        direct.as_secs_f64(),
        rows as f64 / direct.as_secs_f64(),
        remote.as_secs_f64(),
        local.as_secs_f64(),
        100.0 * local.as_secs_f64() / direct.as_secs_f64(),
        100.0 * local.as_secs_f64() / remote.as_secs_f64()
    );
    live.stop().await.expect("stops");
}

/// How long the store alone takes to merge the same changesets.
fn apply_locally(from: &Replica, to: &Replica) -> Duration {
    let open =
        |replica: &Replica| Store::open(Options::new(replica.path()), Arc::new(isle::SystemRuntime)).expect("opens");
    let (source, target) = (open(from), open(to));
    let status = source.status().expect("status");
    assert!(target.join_group(status.group, Some(&status.app)).expect("joins"));
    for (_, operation) in source.schema_ops_beyond(&BTreeSet::new()).expect("operations") {
        target.put_migration(&operation).expect("an operation");
    }
    let lacking = source.lacking(&VersionVector::new(), &BTreeSet::new(), usize::MAX).expect("changesets");
    let last = status.version;
    let (_, proof) = source.proof_for(status.site, last).expect("a signature").expect("it is signed");
    let blocks = |logged: &Logged| -> Vec<Vec<u8>> {
        let count = Header::decode(&logged.header).expect("a header").blocks.len();
        match &logged.only {
            Some(only) => vec![only.clone()],
            None => (0..count)
                .map(|n| source.block(status.site, logged.version, n).expect("reads").expect("a block"))
                .collect(),
        }
    };
    let changesets: Vec<_> = lacking.changesets.iter().map(|(_, logged)| (logged, blocks(logged))).collect();
    let proof = Frame::Proof { site: status.site, version: last, bytes: &proof };
    let mut frames = vec![proof];
    for (logged, blocks) in &changesets {
        frames.push(Frame::Header(&logged.header));
        for (index, bytes) in blocks.iter().enumerate() {
            frames.push(Frame::Block { site: status.site, version: logged.version, index, bytes });
        }
    }
    let begun = Instant::now();
    let applied = target.receive(frames.into_iter()).expect("merges");
    let elapsed = begun.elapsed();
    assert_eq!((applied.versions, applied.waiting.len()), (last, 0), "{:?}", applied.waiting);
    elapsed
}

/// 20 devices: bytes over all connections for 1,000 changes of the first one, against one copy of each changeset for each other device.
async fn topologies() {
    let line: Vec<(usize, usize)> = (1..DEVICES).map(|n| (n, n - 1)).collect();
    let ring: Vec<(usize, usize)> = line.iter().copied().chain([(0, DEVICES - 1)]).collect();
    let star: Vec<(usize, usize)> = (1..DEVICES).map(|n| (n, 0)).collect();
    for (name, links) in [("line", line), ("ring", ring), ("star", star)] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut replicas = vec![first(folder.path())];
        let hub = listen(&replicas[0]).await;
        for n in 1..DEVICES {
            let new = replica(folder.path(), &format!("d{n}"));
            join(&new, &replicas[0], &hub).await;
            replicas.push(new);
        }
        // Who joined later is known to the others once they have synced; then they know the hub no more.
        for replica in replicas.iter().skip(1) {
            replica.sync_peers().await.expect("syncs");
        }
        for replica in &replicas {
            for peer in replica.peers().expect("peers").iter().filter(|peer| !peer.own) {
                replica.forget_peer_addresses(&peer.key.to_string()).expect("forgets");
            }
        }
        hub.stop().await.expect("stops");
        let mut lives = Vec::new();
        for replica in &replicas {
            lives.push(listen(replica).await);
        }
        for (from, to) in &links {
            let key = replicas[*to].status().expect("status").device.key.to_string();
            replicas[*from].add_peer_address(&key, &lives[*to].addresses()[0]).expect("says where");
        }
        until(|| lives.iter().map(|live| live.connected().len()).sum::<usize>() == 2 * links.len()).await;
        let sent = |lives: &[Live]| lives.iter().flat_map(Live::connected).map(|peer| peer.sent_bytes).sum::<u64>();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (before, begun) = (sent(&lives), Instant::now());
        for id in 1..=CHANGES {
            insert(&replicas[0], id);
        }
        until(|| replicas.iter().all(|replica| count(replica) == CHANGES)).await;
        let took = begun.elapsed();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let log = replicas[0].log(CHANGES as usize).expect("the log");
        let least = log.iter().map(|entry| entry.bytes).sum::<u64>() * (DEVICES as u64 - 1);
        let bytes = sent(&lives) - before;
        let packets: u64 = lives.iter().flat_map(Live::connected).map(|peer| peer.packets).sum::<u64>() / 2;
        println!(
            "{name} of {DEVICES}: {CHANGES} changes everywhere in {:.1} s, {bytes} bytes in {packets} datagrams, {:.2} times the least",
            took.as_secs_f64(),
            bytes as f64 / least as f64
        );
        for live in lives {
            live.stop().await.expect("stops");
        }
    }
}

/// Packets of a connection over which nothing is said.
async fn idle() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (first(folder.path()), replica(folder.path(), "d1"));
    let live = listen(&a).await;
    join(&b, &a, &live).await;
    let far = b.go_live(&LiveOptions::default()).await.expect("goes live");
    until(|| live.connected().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = live.connected()[0].packets;
    let time = Duration::from_secs(90);
    tokio::time::sleep(time).await;
    let packets = live.connected()[0].packets - before;
    println!("idle: {packets} packets in {} s, {:.2} in 10 s", time.as_secs(), packets as f64 / 9.0);
    far.stop().await.expect("stops");
    live.stop().await.expect("stops");
}
