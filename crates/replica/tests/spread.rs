//! What members of a group learn of each other and of its keys when they meet directly.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

use std::path::PathBuf;
use std::time::Duration;

use isle::{Error, InviteOptions, Live, LiveEvent, LiveOptions, Replica};
use tempfile::TempDir;

/// Long enough for a slow machine; nothing waits for it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);

struct Device {
    _folder: TempDir,
    replica: Replica,
    key: String,
    bucket: PathBuf,
}

fn device() -> Device {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("home");
    let replica = Replica::builder(folder.path().join("a.db")).home(&home).init().expect("a replica");
    let key = replica.status().expect("status").device.key.to_string();
    let bucket = folder.path().join("bucket");
    Device { _folder: folder, replica, key, bucket }
}

impl Device {
    fn write(&self, id: i64) {
        let insert = "INSERT INTO notes VALUES(?1, 'Dune')";
        self.replica.write(|tx| tx.execute(insert, isle::params![id])).expect("writes");
    }

    fn ids(&self) -> Vec<i64> {
        self.replica.read(|q| q.all("SELECT id FROM notes ORDER BY id", &[])).expect("reads")
    }

    async fn listen(&self) -> Live {
        let listen = Some("127.0.0.1:0".parse().expect("an address"));
        self.replica.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.expect("listens")
    }

    async fn join(&self, host: &Device, live: &Live) {
        let options = InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() };
        self.replica.join(&host.replica.invite(&options).expect("invites")).await.expect("joins");
    }

    /// Where it calls `other`.
    fn known_at(&self, other: &Device) -> Vec<String> {
        self.replica.peer(&other.key).expect("a peer").addresses
    }

    /// The number of keys, and the epoch of the one that is used.
    fn keys(&self) -> (usize, Option<u64>) {
        let keys = self.replica.keys().expect("keys");
        (keys.len(), keys.iter().find(|key| key.current).map(|key| key.epoch))
    }
}

/// The founder, with a table, a row and a key for the group.
fn founder() -> Device {
    let device = device();
    let table = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)";
    device.replica.write(|tx| tx.execute_batch(table)).expect("makes a table");
    device.replica.track(&["notes"]).expect("tracks");
    device.replica.create_key().expect("makes a key");
    device.write(1);
    device
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: it never was"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_reaches_members_without_a_remote_and_not_the_one_put_out() {
    let (a, b, c, d) = (founder(), device(), device(), device());
    let live_a = a.listen().await;
    for member in [&b, &c, &d] {
        member.join(&a, &live_a).await;
        assert_eq!(member.keys(), (1, Some(0)));
    }
    // d hears of it through b alone, while they are connected.
    let live_b = b.listen().await;
    d.replica.sync().await.expect("syncs");
    d.replica.forget_peer_addresses(&a.key).expect("forgets");
    d.replica.add_peer_address(&b.key, &live_b.addresses()[0]).expect("says where");
    let live_d = d.replica.go_live(&LiveOptions::default()).await.expect("goes live");
    until("b and d are connected", || live_b.connected().iter().any(|it| it.key.to_string() == d.key)).await;
    a.replica.revoke(&c.key).expect("revokes");
    assert_eq!(a.keys(), (2, Some(1)), "it makes a new key");
    b.replica.sync_peers().await.expect("syncs");
    assert_eq!(b.keys(), (2, Some(1)), "whom a session brings the revocation, it brings the key");
    until("d has it from b", || d.keys() == (2, Some(1))).await;
    let late = c.replica.sync_peers().await.expect("a report");
    assert!(late.iter().all(|outcome| outcome.result.is_err()), "{late:?}");
    assert_eq!(c.keys(), (1, Some(0)), "the one that was put out has not");
    // What b puts from now on is encrypted with it.
    b.replica.add_remote("home", b.bucket.to_str().expect("a path")).expect("adds");
    b.replica.sync().await.expect("syncs");
    let outsider = device();
    isle::import_keys(Some(outsider._folder.path().join("home")), &c.replica.export_keys().expect("keys"))
        .expect("imports");
    outsider.replica.add_remote("home", b.bucket.to_str().expect("a path")).expect("adds");
    let read = outsider.replica.sync().await.expect("a report");
    assert_eq!(read[0].pulled_versions, 0, "{read:?}");
    assert!(
        read[0].refused.iter().any(|reason| reason.contains("does not have")),
        "the old key opens nothing: {read:?}"
    );
    live_d.stop().await.expect("stops");
    live_b.stop().await.expect("stops");
    live_a.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_whom_the_other_has_not_heard_show_who_they_are() {
    let (a, b, c) = (founder(), device(), device());
    let live_a = a.listen().await;
    b.join(&a, &live_a).await;
    // Else it would tell a at once.
    b.replica.forget_peer_addresses(&a.key).expect("forgets");
    let live_b = b.listen().await;
    c.join(&b, &live_b).await;
    live_b.stop().await.expect("stops");
    let known = |device: &Device| device.replica.peers().expect("peers").len();
    assert_eq!((known(&a), known(&c)), (2, 3), "a has not heard of c");
    c.write(7);
    c.replica.forget_peer_addresses(&b.key).expect("forgets");
    c.replica.add_peer_address(&a.key, &live_a.addresses()[0]).expect("says where");
    let outcomes = c.replica.sync_peers().await.expect("syncs");
    assert!(outcomes.len() == 1 && outcomes[0].result.is_ok(), "{outcomes:?}");
    until("the row has come", || a.ids() == [1, 7]).await;
    assert_eq!(known(&a), 3);
    live_a.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_with_a_foreign_group_of_its_own_shows_nothing() {
    let (a, stranger, friend) = (founder(), founder(), device());
    let live_a = a.listen().await;
    let mut events = live_a.events();
    // It has members, of another group; and it calls a by its key.
    let live_stranger = stranger.listen().await;
    friend.join(&stranger, &live_stranger).await;
    live_stranger.stop().await.expect("stops");
    let ticket = InviteOptions { addresses: live_a.addresses().to_vec(), ..InviteOptions::default() };
    let mut ticket = a.replica.invite(&ticket).expect("invites");
    ticket.group = stranger.replica.status().expect("status").group;
    let joined = stranger.replica.join(&ticket).await;
    assert!(matches!(joined, Err(Error::Invitation { .. })), "{joined:?}");
    let turned_away = tokio::time::timeout(PATIENCE, async {
        loop {
            if let LiveEvent::TurnedAway { reason, .. } = events.recv().await.expect("an event") {
                return reason;
            }
        }
    });
    turned_away.await.expect("it is told");
    assert_eq!(a.replica.peers().expect("peers").len(), 1);
    live_a.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_tell_each_other_where_the_others_are() {
    let (a, b, c) = (founder(), device(), device());
    let live_a = a.listen().await;
    b.join(&a, &live_a).await;
    c.join(&a, &live_a).await;
    // b calls a and says where it listens; c hears that from a.
    let live_b = b.listen().await;
    until("a has heard where b is", || !a.known_at(&b).is_empty()).await;
    c.replica.sync().await.expect("syncs");
    assert_eq!(c.known_at(&b), live_b.addresses());
    live_a.stop().await.expect("stops");
    c.write(9);
    c.replica.sync_peers().await.expect("syncs");
    until("b has it from c itself", || b.ids() == [1, 9]).await;
    live_b.stop().await.expect("stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_had_taken_before_it_heard_counts_everywhere_and_nothing_after_that() {
    let (a, b, c, d) = (founder(), device(), device(), device());
    let live_a = a.listen().await;
    for member in [&b, &c, &d] {
        member.join(&a, &live_a).await;
    }
    for member in [&b, &d, &c] {
        member.replica.sync().await.expect("syncs");
    }
    let live_b = b.listen().await;
    let live_d = d.listen().await;
    // c hands one change to b and another one to d; a, which puts it out, knows neither.
    c.replica.forget_peer_addresses(&a.key).expect("forgets");
    for (id, member, live) in [(20, &b, &live_b), (21, &d, &live_d)] {
        c.write(id);
        c.replica.add_peer_address(&member.key, &live.addresses()[0]).expect("says where");
        c.replica.sync_peers().await.expect("syncs");
        c.replica.forget_peer_addresses(&member.key).expect("forgets");
    }
    a.replica.revoke(&c.key).expect("revokes");
    // They hear of it now.
    for member in [&b, &d] {
        until("it has heard", || member.replica.peers().expect("peers").iter().any(|peer| peer.revoked)).await;
    }
    c.write(22);
    c.replica.add_peer_address(&d.key, &live_d.addresses()[0]).expect("says where");
    let late = c.replica.sync_peers().await.expect("a report");
    assert!(late.iter().all(|outcome| outcome.result.is_err()), "{late:?}");
    for member in [&a, &b, &d] {
        until("all have what counts", || member.ids() == [1, 20, 21]).await;
    }
    let hash = |device: &Device| device.replica.state_hash().expect("hashes");
    assert_eq!((hash(&a), hash(&b)), (hash(&d), hash(&a)));
    for live in [live_d, live_b, live_a] {
        live.stop().await.expect("stops");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_the_device_does_not_hand_the_new_key_to_the_one_put_out() {
    let (a, x) = (founder(), device());
    // The device of a has a second file of the group, with which x is connected.
    let home = a._folder.path().join("home");
    let second = Replica::builder(a._folder.path().join("b.db")).home(&home).init().expect("a replica");
    let live_a = a.listen().await;
    x.join(&a, &live_a).await;
    let helper = device();
    helper.join(&a, &live_a).await;
    let live_helper = helper.listen().await;
    let options = InviteOptions { addresses: live_helper.addresses().to_vec(), ..InviteOptions::default() };
    second.join(&helper.replica.invite(&options).expect("invites")).await.expect("joins");
    live_helper.stop().await.expect("stops");
    live_a.stop().await.expect("stops");
    let listen = Some("127.0.0.1:0".parse().expect("an address"));
    let live = second.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.expect("listens");
    x.replica.forget_peer_addresses(&a.key).expect("forgets");
    x.replica.add_peer_address(&a.key, &live.addresses()[0]).expect("says where");
    a.replica.revoke(&x.key).expect("revokes");
    assert_eq!(a.keys(), (2, Some(1)));
    // The second file takes x for a member still, and shares the device's keys: it gives none on.
    let talked = x.replica.sync_peers().await.expect("a report");
    assert!(talked.len() == 1 && talked[0].result.is_ok(), "{talked:?}");
    assert_eq!(x.keys(), (1, Some(0)));
    assert!(second.peers().expect("peers").iter().all(|peer| !peer.revoked), "it has not heard");
    live.stop().await.expect("stops");
}
