//! Does one thing with a replica and says what that took of its process; the tests of memory and network read it.

#![allow(clippy::print_stdout, reason = "the test reads what was measured from standard output")]

use std::collections::BTreeSet;
use std::path::Path;

use isle::{Error, LiveOptions, Replica, params};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["write", folder, rows, bytes] => write(Path::new(folder), rows.parse()?, bytes.parse()?)?,
        ["change", folder, bytes] => change(Path::new(folder), bytes.parse()?)?,
        ["sync", folder, bucket] => sync(Path::new(folder), bucket).await?,
        ["alone", folder] => return alone(Path::new(folder)).await,
        _ => return Err(format!("{args:?}?").into()),
    }
    println!("{}", peak_kib()?);
    Ok(())
}

fn open(folder: &Path) -> Result<Replica, Error> {
    Replica::builder(folder.join("test.db")).home(folder.join("home")).init()
}

/// Rows of values that cannot be compressed, in one transaction.
fn write(folder: &Path, rows: i64, bytes: i64) -> Result<(), Error> {
    let replica = open(folder)?;
    replica.write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n INT, body BLOB)"))?;
    replica.track(&["t"])?;
    let sql = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
               INSERT INTO t SELECT i, i, randomblob(?2) FROM n";
    replica.write(|tx| tx.execute(sql, params![rows, bytes])).map(drop)
}

/// Other values for all rows, in one transaction.
fn change(folder: &Path, bytes: i64) -> Result<(), Error> {
    open(folder)?.write(|tx| tx.execute("UPDATE t SET body = randomblob(?1)", params![bytes])).map(drop)
}

async fn sync(folder: &Path, bucket: &str) -> Result<(), Error> {
    let replica = open(folder)?;
    if replica.remotes()?.is_empty() {
        replica.add_remote("r", bucket)?;
    }
    replica.sync().await.map(drop)
}

/// A replica by itself, at work in every way; prints its sockets of the network, and at the end those that it has when asked to
/// listen.
async fn alone(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let replica = open(folder)?;
    println!("opened: {}", sockets()?);
    replica.write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))?;
    replica.track(&["t"])?;
    let _changes = replica.subscribe();
    replica.write(|tx| tx.execute_batch("INSERT INTO t VALUES(1), (2)"))?;
    replica.state_hash()?;
    println!("written: {}", sockets()?);
    if let Ok(reports) = replica.sync().await {
        return Err(format!("there is nothing to sync with: {reports:?}").into());
    }
    replica.peers()?;
    replica.compact(&isle::CompactOptions::default()).await?;
    println!("synced: {}", sockets()?);
    let live = replica.go_live(&LiveOptions::default()).await?;
    println!("live: {}", sockets()?);
    drop(live);
    Ok(())
}

/// The most memory that this process ever had, in KiB.
fn peak_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// How many sockets of TCP and UDP this process has open.
fn sockets() -> Result<usize, Box<dyn std::error::Error>> {
    let mut known = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6"] {
        // Without IPv6 there is no table of it. The tenth column is the inode.
        let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        let inodes = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9)).map(str::to_owned);
        known.extend(inodes.map(|inode| format!("socket:[{inode}]")));
    }
    let mut open = 0;
    for file in std::fs::read_dir("/proc/self/fd")? {
        // The folder's own descriptor is gone again.
        let Ok(target) = std::fs::read_link(file?.path()) else { continue };
        open += usize::from(known.contains(&*target.to_string_lossy()));
    }
    Ok(open)
}
