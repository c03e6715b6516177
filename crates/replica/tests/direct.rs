//! Devices that sync with each other directly, over loopback.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

use std::path::PathBuf;
use std::time::Duration;

use isle::{Error, InviteOptions, Live, LiveEvent, LiveOptions, Replica, SyncReport, Ticket};
use tempfile::TempDir;

/// Long enough for a slow machine; nothing waits for it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

struct Device {
    _folder: TempDir,
    replica: Replica,
    home: PathBuf,
}

fn device() -> Device {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("home");
    let replica = Replica::builder(folder.path().join("a.db")).home(&home).init().expect("a replica");
    Device { _folder: folder, replica, home }
}

/// A device with a table and a row.
fn first() -> Device {
    let device = device();
    run(&device.replica, "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)");
    device.replica.track(&["notes"]).expect("tracks");
    write(&device.replica, 1, "Dune");
    device
}

fn run(replica: &Replica, sql: &str) {
    replica.write(|tx| tx.execute_batch(sql)).expect("writes");
}

fn write(replica: &Replica, id: i64, title: &str) {
    replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, ?2)", isle::params![id, title])).expect("writes");
}

fn titles(replica: &Replica) -> Vec<String> {
    let count = "SELECT count(*) FROM sqlite_schema WHERE name = 'notes'";
    if replica.read(|q| q.one::<i64>(count, &[])).expect("reads") == Some(0) {
        return Vec::new();
    }
    replica.read(|q| q.all("SELECT title FROM notes ORDER BY id", &[])).expect("reads")
}

async fn listen(replica: &Replica) -> Live {
    let listen = Some("127.0.0.1:0".parse().expect("an address"));
    replica.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.expect("listens")
}

fn invite(replica: &Replica, live: &Live) -> Ticket {
    replica
        .invite(&InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() })
        .expect("invites")
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: it never was"));
}

async fn agree(a: &Replica, b: &Replica) {
    until("the replicas agree", || a.state_hash().expect("hashes") == b.state_hash().expect("hashes")).await;
}

/// Two devices of one group; the first one listens.
async fn pair() -> (Device, Live, Device) {
    let (a, b) = (first(), device());
    let live = listen(&a.replica).await;
    b.replica.join(&invite(&a.replica, &live)).await.expect("joins");
    (a, live, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_joins_with_a_ticket_and_has_everything() {
    let (a, live) = (first(), device());
    let (b, live) = (live, listen(&a.replica).await);
    let ticket = invite(&a.replica, &live);
    let read: Ticket = ticket.to_string().parse().expect("a ticket");
    let report: SyncReport = b.replica.join(&read).await.expect("joins");
    assert_eq!((report.pulled_versions, titles(&b.replica)), (1, vec!["Dune".to_owned()]));
    assert_eq!(a.replica.state_hash().expect("hashes"), b.replica.state_hash().expect("hashes"));
    let names = |replica: &Replica| replica.peers().expect("peers").len();
    assert_eq!((names(&a.replica), names(&b.replica)), (2, 2));
    // From now on it syncs without a ticket, both ways.
    write(&b.replica, 2, "Solaris");
    write(&a.replica, 3, "Ubik");
    let reports = b.replica.sync().await.expect("syncs");
    assert_eq!((reports.len(), reports[0].pulled_versions, reports[0].pushed_versions), (1, 1, 1));
    agree(&a.replica, &b.replica).await;
    assert_eq!(titles(&a.replica), ["Dune", "Solaris", "Ubik"]);
    live.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_there_at_once_on_both_sides() {
    let (a, live, b) = pair().await;
    let far = b.replica.go_live(&LiveOptions::default()).await.expect("goes live");
    until("the devices are connected", || live.connected().len() == 1 && far.connected().len() == 1).await;
    for n in 10..20 {
        write(&a.replica, n, "from a");
        write(&b.replica, n + 100, "from b");
    }
    until("all is there", || titles(&a.replica).len() == 21 && titles(&b.replica).len() == 21).await;
    agree(&a.replica, &b.replica).await;
    // Another program writes: it is noticed.
    let path = a.replica.path().to_owned();
    let other = rusqlite::Connection::open(path).expect("opens");
    other.execute("INSERT INTO notes VALUES(900, 'by another program')", []).expect("writes");
    until("it is there", || titles(&b.replica).contains(&"by another program".to_owned())).await;
    far.stop().await.expect("stops");
    live.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaches_c_through_b_and_a_new_table_comes_along() {
    let (a, live_a, b) = pair().await;
    let c = device();
    let live_b = listen(&b.replica).await;
    c.replica.join(&invite(&b.replica, &live_b)).await.expect("joins");
    assert_eq!(titles(&c.replica), ["Dune"]);
    let live_c = c.replica.go_live(&LiveOptions::default()).await.expect("goes live");
    until("all are connected", || live_b.connected().len() == 2).await;
    write(&a.replica, 7, "from a");
    until("it is there", || titles(&c.replica).contains(&"from a".to_owned())).await;
    run(&a.replica, "CREATE TABLE tags(id INTEGER PRIMARY KEY, name TEXT)");
    a.replica.track(&["tags"]).expect("tracks");
    run(&a.replica, "INSERT INTO tags VALUES(1, 'novel')");
    until("the table is there", || c.replica.status().expect("status").tables.contains(&"tags".to_owned())).await;
    agree(&a.replica, &c.replica).await;
    assert_eq!(a.replica.peers().expect("peers").len(), 3, "who joined elsewhere is known");
    for live in [live_c, live_b, live_a] {
        live.stop().await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_lets_in_once_in_time_and_for_its_group() {
    let (a, b, c) = (first(), device(), device());
    let live = listen(&a.replica).await;
    let ticket = invite(&a.replica, &live);
    b.replica.join(&ticket).await.expect("joins");
    let refused = |error: Error| match error {
        Error::Invitation { reason } => reason,
        other => panic!("{other}"),
    };
    let again = refused(c.replica.join(&ticket).await.expect_err("used"));
    assert!(again.contains("used already"), "{again}");
    let short = InviteOptions { expires: Duration::ZERO, addresses: live.addresses().to_vec() };
    let late = refused(c.replica.join(&a.replica.invite(&short).expect("invites")).await.expect_err("expired"));
    assert!(late.contains("expired"), "{late}");
    let forged = Ticket { secret: isle::InviteSecret::from_random([0; 16]), ..ticket.clone() };
    let unknown = refused(c.replica.join(&forged).await.expect_err("guessed"));
    assert!(unknown.contains("not known"), "{unknown}");
    assert_eq!((a.replica.peers().expect("peers").len(), titles(&c.replica).len()), (2, 0));
    // A file with data of another group does not join this one.
    let d = first();
    let live_d = listen(&d.replica).await;
    c.replica.join(&invite(&d.replica, &live_d)).await.expect("joins");
    let ticket = invite(&a.replica, &live);
    assert!(matches!(c.replica.join(&ticket).await, Err(Error::JoinsOtherGroup { .. })));
    // Where the inviter is not, nobody answers, or somebody else does.
    let elsewhere = Ticket { addresses: live_d.addresses().to_vec(), ..ticket };
    let e = device();
    assert!(matches!(e.replica.join(&elsewhere).await, Err(Error::Peer { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_data_joins_and_keeps_it() {
    let (a, b) = (first(), device());
    run(&b.replica, "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)");
    b.replica.track(&["notes"]).expect("tracks");
    write(&b.replica, 2, "Solaris");
    let live = listen(&a.replica).await;
    b.replica.join(&invite(&a.replica, &live)).await.expect("joins");
    agree(&a.replica, &b.replica).await;
    assert_eq!(titles(&a.replica), ["Dune", "Solaris"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_put_out_is_cut_off_and_stays_out() {
    let (a, live, b) = pair().await;
    let far = b.replica.go_live(&LiveOptions::default()).await.expect("goes live");
    until("the devices are connected", || live.connected().len() == 1 && far.connected().len() == 1).await;
    let name = b.replica.status().expect("status").device.name;
    let key = b.replica.status().expect("status").device.key.to_string();
    assert!(!name.is_empty());
    let peer = a.replica.revoke(&key).expect("revokes");
    assert!(peer.revoked);
    until("it is cut off", || live.connected().is_empty()).await;
    write(&b.replica, 50, "too late");
    far.stop().await.expect("stops");
    let error = b.replica.sync().await.expect_err("it is out");
    assert!(error.to_string().contains("not enrolled") || error.to_string().contains("put out"), "{error}");
    assert_eq!(titles(&a.replica), ["Dune"]);
    assert!(
        a.replica.invite(&InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() }).is_ok()
    );
    // Invited again, knowingly, it is let in, and what it wrote counts as written now.
    b.replica.join(&invite(&a.replica, &live)).await.expect("joins again");
    agree(&a.replica, &b.replica).await;
    assert_eq!(titles(&a.replica), ["Dune", "too late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_turned_away_and_members_do_not_notice() {
    let (a, live, b) = pair().await;
    let mut events = live.events();
    // It knows the address and the group, and says that it belongs.
    let stranger = first();
    let ticket = Ticket { secret: isle::InviteSecret::from_random([1; 16]), ..invite(&a.replica, &live) };
    let pretends = device();
    let refused = tokio::join!(stranger.replica.join(&ticket), pretends.replica.join(&ticket));
    assert!(refused.0.is_err() && refused.1.is_err());
    let turned_away = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(LiveEvent::TurnedAway { reason, .. }) = events.recv().await {
                return reason;
            }
        }
    });
    assert!(turned_away.await.expect("an event").contains("not enrolled"));
    write(&b.replica, 2, "Solaris");
    b.replica.sync().await.expect("syncs");
    assert_eq!(titles(&a.replica), ["Dune", "Solaris"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_file_takes_an_id_of_its_own_before_it_sends() {
    let (a, live, b) = pair().await;
    let copy = b._folder.path().join("copy.db");
    {
        let source = rusqlite::Connection::open(b.replica.path()).expect("opens");
        source.execute("VACUUM INTO ?1", [copy.to_str().expect("a path")]).expect("copies");
    }
    let twin = Replica::builder(&copy).home(&b.home).open().expect("opens");
    write(&b.replica, 2, "from b");
    write(&twin, 3, "from the copy");
    b.replica.sync().await.expect("syncs");
    twin.sync().await.expect("syncs");
    b.replica.sync().await.expect("syncs");
    agree(&a.replica, &b.replica).await;
    agree(&a.replica, &twin).await;
    assert_eq!(titles(&a.replica), ["Dune", "from b", "from the copy"]);
    assert_ne!(twin.status().expect("status").site, b.replica.status().expect("status").site);
    live.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_state_of_a_file_is_noticed_by_what_the_peer_knows() {
    let (a, live, b) = pair().await;
    let backup = b._folder.path().join("backup.db");
    let source = rusqlite::Connection::open(b.replica.path()).expect("opens");
    source.execute("VACUUM INTO ?1", [backup.to_str().expect("a path")]).expect("copies");
    drop(source);
    write(&b.replica, 2, "sent");
    b.replica.sync().await.expect("syncs");
    let old_site = b.replica.status().expect("status").site;
    // The whole device is put back: its file, and its own records, which say nothing then.
    let other_home = b._folder.path().join("home");
    let sites = other_home.join("sites").join(format!("{old_site}.json"));
    let record = std::fs::read_to_string(&sites).expect("a record").replace("\"published\": 1", "\"published\": 0");
    std::fs::write(&sites, record.replace(&b.replica.path().display().to_string(), &backup.display().to_string()))
        .expect("writes");
    let restored = Replica::builder(&backup).home(&b.home).open().expect("opens");
    std::fs::remove_file(b.replica.path()).expect("the newer file is gone");
    write(&restored, 3, "after the restore");
    let reports = restored.sync().await.expect("syncs");
    assert_ne!(restored.status().expect("status").site, old_site, "{reports:?}");
    agree(&a.replica, &restored).await;
    assert_eq!(titles(&restored), ["Dune", "sent", "after the restore"]);
    live.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_has_no_more_comes_as_a_snapshot() {
    let a = first();
    for n in 2..200 {
        write(&a.replica, n, &"a title ".repeat(50));
    }
    let live = listen(&a.replica).await;
    let b = device();
    b.replica.join(&invite(&a.replica, &live)).await.expect("joins");
    // Both have it, so the log may forget it.
    let keep = Duration::ZERO;
    a.replica.compact(&isle::CompactOptions { keep, ..isle::CompactOptions::default() }).await.expect("compacts");
    let c = device();
    let report = c.replica.join(&invite(&a.replica, &live)).await.expect("joins");
    assert!(report.snapshot_joined, "{report:?}");
    agree(&a.replica, &c.replica).await;
    write(&c.replica, 1_000, "from c");
    c.replica.sync().await.expect("syncs");
    b.replica.sync().await.expect("syncs");
    agree(&b.replica, &c.replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_away_does_not_keep_others_waiting() {
    let (a, live, b) = pair().await;
    let c = device();
    c.replica.join(&invite(&a.replica, &live)).await.expect("joins");
    live.stop().await.expect("stops");
    write(&b.replica, 2, "Solaris");
    let error = b.replica.sync().await.expect_err("nobody is there");
    assert!(matches!(error, Error::Peer { .. }), "{error}");
    let away = b.replica.peers().expect("peers").into_iter().find(|peer| !peer.addresses.is_empty()).expect("a peer");
    assert!(away.last_error.is_some());
    let live = listen(&a.replica).await;
    b.replica.add_peer_address(&away.key.to_string(), &live.addresses()[0]).expect("says where");
    b.replica.sync().await.expect("syncs");
    assert_eq!(titles(&a.replica), ["Dune", "Solaris"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_replica_syncs_with_its_remotes_by_itself_and_carries_between_both() {
    let (a, live, b) = pair().await;
    // b and c share a folder; a knows only b, and c knows nobody.
    let bucket = b._folder.path().join("bucket");
    let c = device();
    for replica in [&b.replica, &c.replica] {
        replica.add_remote("folder", bucket.to_str().expect("UTF-8")).expect("adds");
    }
    let folder = isle::SyncOptions { remote: Some("folder".to_owned()), ..isle::SyncOptions::default() };
    b.replica.sync_with(&folder).await.expect("syncs");
    isle::import_keys(Some(c.home.clone()), &b.replica.export_keys().expect("a key")).expect("imports");
    // Long enough that only what is noticed is sent.
    let remotes = Some(Duration::from_secs(3600));
    let middle = b.replica.go_live(&LiveOptions { remotes, ..LiveOptions::default() }).await.expect("goes live");
    until("the devices are connected", || live.connected().len() == 1).await;
    write(&a.replica, 40, "to the folder");
    let carried = async {
        while !titles(&c.replica).contains(&"to the folder".to_owned()) {
            c.replica.sync().await.expect("syncs");
        }
    };
    tokio::time::timeout(PATIENCE, carried).await.expect("it comes through the folder");
    let mut events = middle.events();
    let quiet = tokio::time::timeout(Duration::from_secs(3), async {
        let mut syncs = 0;
        while syncs < 3 {
            syncs += usize::from(matches!(events.recv().await, Ok(LiveEvent::Synced { .. })));
        }
    });
    assert!(quiet.await.is_err(), "a sync that finds nothing sets off no other");
    middle.stop().await.expect("stops");
    live.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_and_the_new_key_travel_through_a_remote_alone() {
    let (a, b, c) = (first(), device(), device());
    a.replica.create_key().expect("a key");
    let live = listen(&a.replica).await;
    for device in [&b, &c] {
        device.replica.join(&invite(&a.replica, &live)).await.expect("joins");
        assert_eq!(
            device.replica.export_keys().expect("the ticket brought it"),
            a.replica.export_keys().expect("a key")
        );
    }
    live.stop().await.expect("stops");
    let remote = isle_blobs::Remote::in_memory();
    let only = isle::SyncOptions { remote: Some("r".to_owned()), ..isle::SyncOptions::default() };
    let sync = async |device: &Device| device.replica.sync_with(&only).await.map(|mut reports| reports.remove(0));
    for device in [&a, &b, &c] {
        device.replica.add_open_remote_of("r", remote.clone(), false).expect("adds");
        sync(device).await.expect("syncs");
    }
    // c speaks with b through the remote; a never meets c's new site there before it puts c out.
    write(&c.replica, 50, "by c, in time");
    sync(&c).await.expect("syncs");
    sync(&b).await.expect("syncs");
    let name = c.replica.status().expect("status").device.key.to_string();
    a.replica.revoke(&name).expect("revokes");
    sync(&a).await.expect("syncs");
    assert!(a.replica.keys().expect("keys").iter().any(|key| key.current && key.epoch == 1), "the key was made anew");
    // c has not heard of it yet, writes on, and puts that.
    write(&c.replica, 51, "by c, too late");
    let report = sync(&b).await.expect("syncs");
    assert!(report.refused.is_empty(), "{report:?}");
    assert!(b.replica.peers().expect("peers").iter().any(|peer| peer.revoked && peer.key.to_string() == name));
    assert!(b.replica.keys().expect("keys").iter().any(|key| key.current && key.epoch == 1 && !key.own));
    let refused = sync(&c).await;
    assert!(!matches!(&refused, Ok(report) if report.refused.is_empty()), "c goes on as if nothing were: {refused:?}");
    for device in [&b, &a, &b] {
        sync(device).await.expect("syncs");
    }
    agree(&a.replica, &b.replica).await;
    assert_eq!(titles(&a.replica), ["Dune", "by c, in time"], "what b had applied counts, what came later does not");
    assert_eq!(titles(&c.replica), ["Dune", "by c, in time", "by c, too late"], "its own file keeps it");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_of_one_site_are_reported() {
    let (a, live_a, b) = pair().await;
    let c = device();
    c.replica.join(&invite(&a.replica, &live_a)).await.expect("joins");
    // b learns of c, and then its whole device is copied, file and records, as if it were put back later.
    b.replica.sync().await.expect("syncs");
    let place = b._folder.path();
    let (twin_db, twin_home) = (place.join("twin.db"), place.join("twin.home"));
    let source = rusqlite::Connection::open(b.replica.path()).expect("opens");
    source.execute("VACUUM INTO ?1", [twin_db.to_str().expect("a path")]).expect("copies");
    drop(source);
    std::fs::create_dir_all(twin_home.join("sites")).expect("makes");
    for file in ["device.key", "device.json"] {
        std::fs::copy(b.home.join(file), twin_home.join(file)).expect("copies");
    }
    let record = format!("sites/{}.json", b.replica.status().expect("status").site);
    let text = std::fs::read_to_string(b.home.join(&record)).expect("a record");
    let text = text.replace(&b.replica.path().display().to_string(), &twin_db.display().to_string());
    std::fs::write(twin_home.join(&record), text).expect("writes");
    write(&b.replica, 10, "told to a");
    b.replica.sync().await.expect("syncs");
    live_a.stop().await.expect("stops");
    let twin = Replica::builder(&twin_db).home(&twin_home).open().expect("opens");
    write(&twin, 11, "told to c");
    let live_twin = listen(&twin).await;
    let key = twin.status().expect("status").device.key.to_string();
    c.replica.add_peer_address(&key, &live_twin.addresses()[0]).expect("says where");
    let met = c.replica.sync_peers().await.expect("syncs");
    assert_eq!(titles(&c.replica), ["Dune", "told to c"], "{met:?}");
    assert_eq!(titles(&a.replica), ["Dune", "told to a"]);
    live_twin.stop().await.expect("stops");
    // a and c have another second version of b each: neither is silently taken for the other.
    let a_key = a.replica.status().expect("status").device.key.to_string();
    let live_a = listen(&a.replica).await;
    c.replica.add_peer_address(&a_key, &live_a.addresses()[0]).expect("says where");
    let outcomes = c.replica.sync_peers().await.expect("syncs");
    let reports = outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok());
    let refused: Vec<&String> = reports.flat_map(|report| &report.refused).collect();
    assert!(refused.iter().any(|reason| reason.contains("two different versions")), "{outcomes:?}");
    // It is remembered, until somebody ends the site.
    let forks = |replica: &Replica| replica.status().expect("status").forks.len();
    assert_eq!((forks(&a.replica), forks(&c.replica)), (1, 1));
    let found = c.replica.check().expect("checks").findings;
    assert!(found.iter().any(|finding| finding.check == "two histories"), "{found:?}");
    let site = b.replica.status().expect("status").site;
    c.replica.retire(&site.to_string()).expect("retires");
    assert_eq!(forks(&c.replica), 0);
    live_a.stop().await.expect("stops");
}
