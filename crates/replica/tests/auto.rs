//! Replicas that sync by themselves, in apps without a runtime.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use isle::{AutoSync, Builder, InviteOptions, LiveEvent, Peers, Replica};
use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;

/// Long enough for a slow machine; nothing waits for it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing that is due after it happens in a test.
const NEVER: Duration = Duration::from_secs(86_400);

fn builder(folder: &Path, name: &str) -> Builder {
    Replica::builder(folder.join(name).join("a.db")).home(home(folder, name))
}

fn home(folder: &Path, name: &str) -> PathBuf {
    std::fs::create_dir_all(folder.join(name)).expect("a folder");
    folder.join(name).join("home")
}

fn folder() -> (TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, bucket) = (folder.path().to_owned(), folder.path().join("bucket").to_str().expect("a path").to_owned());
    (folder, path, bucket)
}

fn with_table(replica: &Replica) {
    replica
        .write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)"))
        .expect("makes a table");
    replica.track(&["notes"]).expect("tracks");
}

fn write(replica: &Replica, id: i64) {
    replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, 'Dune')", isle::params![id])).expect("writes");
}

fn has(replica: &Replica, id: i64) -> bool {
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = 'notes'";
    replica.read(|q| q.one::<i64>(table, &[])).expect("reads") == Some(1)
        && replica.read(|q| q.one::<i64>("SELECT id FROM notes WHERE id = ?1", isle::params![id])).expect("reads")
            == Some(id)
}

/// A runtime of the test's own: the app has none.
fn wait<F: Future>(what: &str, future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let waited = runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await });
    waited.unwrap_or_else(|_| panic!("{what}: it never was"))
}

fn until(what: &str, holds: impl Fn() -> bool) {
    wait(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// The next event that `pick` takes.
fn next<T>(events: &mut Receiver<LiveEvent>, pick: impl Fn(LiveEvent) -> Option<T>) -> T {
    wait("the event", async {
        loop {
            if let Some(found) = pick(events.recv().await.expect("the events go on")) {
                return found;
            }
        }
    })
}

fn pushed(event: LiveEvent) -> Option<u64> {
    match event {
        LiveEvent::Synced { report } => Some(report.pushed_versions),
        _ => None,
    }
}

#[test]
fn writes_go_to_a_remote_and_come_from_it_without_a_call() {
    let (_folder, path, bucket) = folder();
    let a = builder(&path, "a").remote("home", &bucket).auto_sync(AutoSync::default().interval(NEVER)).init();
    let a = a.expect("opens");
    with_table(&a);
    write(&a, 1);
    let mut events = a.events().expect("it syncs by itself");
    // The first sync may have come before the row was there.
    let mut sent = 0;
    while sent < 1 {
        sent += next(&mut events, pushed);
    }
    isle::import_keys(Some(home(&path, "b")), &a.export_keys().expect("a key")).expect("imports");
    let often = AutoSync::default().interval(Duration::from_millis(100));
    let b = builder(&path, "b").remote("home", &bucket).auto_sync(often).init().expect("opens");
    until("the row has come", || has(&b, 1));
    write(&a, 2);
    until("the next one has come too, long before the interval is over", || has(&b, 2));
    assert_eq!(a.state_hash().expect("hashes"), b.state_hash().expect("hashes"));
}

#[test]
fn at_the_start_nothing_is_sent_unless_asked_for() {
    let (_folder, path, bucket) = folder();
    let a = builder(&path, "a").remote("home", &bucket).init().expect("opens");
    with_table(&a);
    write(&a, 1);
    drop(a);
    let quiet = AutoSync::default().at_start(false).interval(NEVER);
    let a = builder(&path, "a").auto_sync(quiet).open().expect("opens");
    let mut events = a.events().expect("it syncs by itself");
    write(&a, 2);
    // One sync takes both: had there been one at the start, this would be the second of two with a row each.
    assert_eq!(next(&mut events, pushed), 2);
}

#[test]
fn the_last_handle_ends_it_and_the_next_one_begins_anew() {
    let (_folder, path, bucket) = folder();
    let auto = || AutoSync::default().interval(NEVER);
    let a = builder(&path, "a").remote("home", &bucket).auto_sync(auto()).init().expect("opens");
    // The same remote again is no error.
    let second = builder(&path, "a").remote("home", &bucket).auto_sync(auto()).open().expect("opens");
    let mut events = a.events().expect("it syncs by itself");
    next(&mut events, pushed);
    drop(a);
    assert!(second.events().is_some(), "a handle is left");
    drop(second);
    let closed = loop {
        match events.try_recv() {
            Err(tokio::sync::broadcast::error::TryRecvError::Closed) => break true,
            Err(tokio::sync::broadcast::error::TryRecvError::Empty) => break false,
            _ => {}
        }
    };
    assert!(closed, "the thread has ended with the last handle");
    let again = builder(&path, "a").auto_sync(auto()).open().expect("opens");
    let mut events = again.events().expect("it syncs by itself");
    next(&mut events, pushed);
    let plain = builder(&path, "b").init().expect("opens");
    assert!(plain.events().is_none());
}

#[test]
fn devices_reach_each_other_without_a_remote_and_tell_how_far_they_are() {
    let (_folder, path, _) = folder();
    let loopback = Peers::default().listen_at("127.0.0.1:0".parse().expect("an address"));
    let auto = AutoSync::default;
    let a = builder(&path, "a").peers(loopback.clone()).auto_sync(auto()).init().expect("opens");
    with_table(&a);
    write(&a, 1);
    until("it can be called", || !a.reachable_at().is_empty());
    let ticket = a.invite(&InviteOptions { addresses: a.reachable_at(), ..InviteOptions::default() }).expect("invites");
    {
        let b = builder(&path, "b").init().expect("opens");
        wait("it joins", b.join(&ticket)).expect("joins");
    }
    until("the session is over", || a.peers().expect("peers").iter().any(|peer| peer.behind == Some(0)));
    write(&a, 2);
    write(&a, 3);
    let far = |replica: &Replica| {
        let peers = replica.peers().expect("peers");
        peers.iter().find(|peer| !peer.own).map(|peer| (peer.behind, peer.ahead)).expect("a peer")
    };
    assert_eq!(far(&a), (Some(2), Some(0)), "b was away when these were written");
    let b = builder(&path, "b").peers(Peers::default()).auto_sync(auto()).open().expect("opens");
    until("the rows have come", || has(&b, 2) && has(&b, 3));
    write(&b, 4);
    until("the way back works", || has(&a, 4));
    until("it is noted while they are connected", || far(&a) == (Some(0), Some(0)));
}

#[test]
fn a_remote_that_fails_holds_up_no_other() {
    let (_folder, path, bucket) = folder();
    let gone = path.join("gone").to_str().expect("a path").to_owned();
    let a = builder(&path, "a").remote("gone", &gone).remote("home", &bucket).init().expect("opens");
    with_table(&a);
    std::fs::remove_dir_all(&gone).expect("an unmounted disk");
    drop(a);
    let a = builder(&path, "a").auto_sync(AutoSync::default().interval(NEVER)).open().expect("opens");
    let mut events = a.events().expect("it syncs by itself");
    let failed = next(&mut events, |event| match event {
        LiveEvent::SyncFailed { remote, .. } => Some(remote),
        _ => None,
    });
    assert_eq!(failed, "gone");
    let remotes = a.remotes().expect("remotes");
    let error = |name: &str| remotes.iter().find(|remote| remote.name == name).and_then(|it| it.last_error.clone());
    assert!(error("gone").is_some_and(|(reason, _)| reason.contains("gone")), "{remotes:?}");
    assert_eq!(error("home"), None);
    for id in 1..4 {
        write(&a, id);
        let mut sent = 0;
        while sent == 0 {
            sent = next(&mut events, pushed);
        }
    }
}

#[test]
fn the_last_handle_may_go_in_the_middle_of_a_write() {
    let (_folder, path, bucket) = folder();
    let plain = builder(&path, "a").init().expect("opens");
    with_table(&plain);
    for id in 1..6 {
        let auto = builder(&path, "a").remote("home", &bucket).auto_sync(AutoSync::default()).open().expect("opens");
        let begun = std::time::Instant::now();
        plain
            .write(|tx| {
                drop(auto);
                tx.execute("INSERT INTO notes VALUES(?1, 'Dune')", isle::params![id])
            })
            .expect("writes");
        assert!(begun.elapsed() < PATIENCE, "it waits for what it holds itself");
    }
}

#[test]
fn a_remote_that_is_somewhere_else_now_takes_the_place_of_the_old_one() {
    let (_folder, path, bucket) = folder();
    let open = |url: &str| builder(&path, "a").remote("home", url).init();
    drop(open(&bucket).expect("opens"));
    drop(open(&format!("{bucket}/")).expect("the same place"));
    let moved = path.join("moved").to_str().expect("a path").to_owned();
    let a = open(&moved).expect("opens");
    let urls: Vec<String> = a.remotes().expect("remotes").into_iter().map(|remote| remote.url).collect();
    assert_eq!(urls, [moved]);
    a.add_plain_remote("open", &bucket).expect("adds");
    drop(a);
    let plain = builder(&path, "a").remote("open", &bucket).open();
    assert!(matches!(plain, Err(isle::Error::RemotePlain { .. })), "it does not pass for an encrypted one: {plain:?}");
}
