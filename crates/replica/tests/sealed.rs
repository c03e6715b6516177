//! Encrypted remotes: what their holder sees and can do, who can read them, and how keys change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::path::{Path, PathBuf};

use isle::{Error, Replica, SyncReport, params};
use isle_blobs::Remote;
use isle_clock::SiteId;
use support::{sign_as_stranger, strangers_head};

struct Device {
    replica: Replica,
    home: PathBuf,
}

impl std::ops::Deref for Device {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

fn device(folder: &Path, name: &str) -> Device {
    let home = folder.join(format!("{name}.home"));
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(&home).init().unwrap();
    replica.rename_device(name).unwrap();
    Device { replica, home }
}

fn first(folder: &Path, name: &str, remote: &Remote) -> Device {
    let a = device(folder, name);
    a.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)")).unwrap();
    a.track(&["notes"]).unwrap();
    a.add_open_remote_of("r", remote.clone(), false).unwrap();
    a
}

/// A device with an empty file that was given the key of another.
fn keyed(folder: &Path, name: &str, of: &Device, remote: &Remote) -> Device {
    let device = device(folder, name);
    let (group, _) = isle::import_keys(Some(device.home.clone()), &of.export_keys().unwrap()).unwrap();
    assert_eq!(group, of.status().unwrap().group);
    device.add_open_remote_of("r", remote.clone(), false).unwrap();
    device
}

fn write(device: &Device, id: i64, title: &str) {
    device.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, ?2)", params![id, title])).unwrap();
}

fn titles(device: &Device) -> Vec<String> {
    device.read(|q| q.all("SELECT title FROM notes ORDER BY id", &[])).unwrap()
}

async fn sync(device: &Device) -> SyncReport {
    device.sync().await.unwrap().remove(0)
}

fn site(device: &Device) -> SiteId {
    device.status().unwrap().site
}

/// All that the holder of the remote sees.
async fn seen(remote: &Remote) -> Vec<u8> {
    let mut seen = Vec::new();
    for key in remote.keys().await.unwrap() {
        seen.extend_from_slice(key.as_bytes());
        seen.extend_from_slice(&remote.dig(&key).await.unwrap());
    }
    seen
}

fn shows(seen: &[u8], word: &str) -> bool {
    seen.windows(word.len()).any(|window| window == word.as_bytes())
}

#[tokio::test]
async fn who_has_the_key_reads_all_and_who_holds_the_remote_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "laptop-of-anna", &remote);
    write(&a, 1, "a secret plan");
    sync(&a).await;
    // Enough for segments, and a snapshot of them.
    a.write(|tx| {
        (0..4000).try_for_each(|n| {
            tx.execute(
                "INSERT INTO notes VALUES(?1, ?2)",
                params![100 + n, &format!("zebra-{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))],
            )
            .map(drop)
        })
    })
    .unwrap();
    sync(&a).await;
    assert!(remote.keys().await.unwrap().iter().any(|key| key.contains("log/")), "it has segments");
    let b = keyed(folder.path(), "b", &a, &remote);
    sync(&b).await;
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    a.compact(&isle::CompactOptions::default()).await.unwrap();
    let c = keyed(folder.path(), "c", &a, &remote);
    assert!(sync(&c).await.snapshot_joined);
    write(&c, 2, "by c");
    sync(&c).await;
    sync(&a).await;
    assert_eq!(a.state_hash().unwrap(), c.state_hash().unwrap());
    let seen = seen(&remote).await;
    for word in ["secret", "zebra", "notes", "title", "anna", "default", "CREATE", "by c"] {
        assert!(!shows(&seen, word), "{word:?} can be seen");
    }
    assert!(a.remotes().unwrap()[0].encrypted);
    // What changed is read once, and then an idle sync is one request, as in a plain remote.
    sync(&c).await;
    sync(&c).await;
    assert_eq!(sync(&c).await.requests, 1);
    // Both checks read the same objects.
    let check = &b.check_remotes(&isle::SyncOptions::default()).await.unwrap()[0];
    assert_eq!((check.exists, check.behind), (true, 1));
}

#[tokio::test]
async fn a_device_without_the_key_is_told_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    write(&a, 1, "x");
    sync(&a).await;
    let b = device(folder.path(), "b");
    b.add_open_remote_of("r", remote.clone(), false).unwrap();
    let before = remote.keys().await.unwrap();
    let error = b.sync().await.unwrap_err();
    assert!(matches!(error, Error::KeyMissing { .. }) && error.to_string().contains("isle key export"), "{error}");
    assert!(matches!(b.check_remotes(&isle::SyncOptions::default()).await.unwrap_err(), Error::KeyMissing { .. }));
    assert!(matches!(b.export_keys().unwrap_err(), Error::NoKey));
    assert_eq!(remote.keys().await.unwrap(), before, "it put something");
    // A key of its own does not open it either.
    b.create_key().unwrap();
    assert!(matches!(b.create_key().unwrap_err(), Error::KeyExists { .. }));
    assert!(matches!(b.sync().await.unwrap_err(), Error::KeyMissing { .. }));
    let (_, new) = isle::import_keys(Some(b.home.clone()), &a.export_keys().unwrap()).unwrap();
    let (_, again) = isle::import_keys(Some(b.home.clone()), &a.export_keys().unwrap()).unwrap();
    assert_eq!((new, again), (1, 0));
    sync(&b).await;
    assert_eq!(titles(&b), ["x"]);
    // A device that loses its keys says so, and loses nothing else.
    write(&b, 2, "y");
    std::fs::remove_dir_all(b.home.join("keys")).unwrap();
    assert!(matches!(b.sync().await.unwrap_err(), Error::KeyMissing { .. }));
    isle::import_keys(Some(b.home.clone()), &a.export_keys().unwrap()).unwrap();
    sync(&b).await;
    sync(&a).await;
    assert_eq!(titles(&a), ["x", "y"]);
}

#[tokio::test]
async fn nobody_goes_on_in_the_clear_without_having_asked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let (open, closed) = (Remote::in_memory(), Remote::in_memory());
    let (a, b) = (first(folder.path(), "a", &closed), device(folder.path(), "b"));
    b.add_open_remote("r", open.clone()).unwrap();
    for replica in [&a, &b] {
        replica.sync().await.unwrap();
    }
    let swapped = device(folder.path(), "c");
    swapped.add_open_remote_of("r", open.clone(), false).unwrap();
    let error = swapped.sync().await.unwrap_err();
    assert!(matches!(error, Error::RemotePlain { .. }) && error.to_string().contains("--plain"), "{error}");
    let other = device(folder.path(), "d");
    other.add_open_remote("r", closed.clone()).unwrap();
    assert!(matches!(other.sync().await.unwrap_err(), Error::RemoteSealed { .. }));
    // The holder of an encrypted remote cannot turn it into a plain one, nor bring in heads of his own.
    let object = isle_blobs::GroupObject::new(a.status().unwrap().group, "default");
    closed.plant("group", object.encode().unwrap()).await.unwrap();
    let mut evil = strangers_head();
    evil.last_version = 9;
    sign_as_stranger(&mut evil, a.status().unwrap().group);
    closed.put_head(&evil).await.unwrap();
    write(&a, 1, "still secret");
    let report = sync(&a).await;
    assert_eq!(report.refused.len(), 1, "{report:?}");
    assert!(report.refused[0].contains("not encrypted"), "{report:?}");
    assert!(!shows(&seen(&closed).await, "still secret"));
}

#[tokio::test]
async fn an_old_object_in_place_of_a_new_one_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let b = keyed(folder.path(), "b", &a, &remote);
    sync(&b).await;
    write(&b, 7, "by b");
    sync(&b).await;
    sync(&a).await;
    let key = format!("head/{}", site(&a));
    let old = remote.dig(&key).await.unwrap();
    // The head changes without a new version: only what it says of the others is new.
    let version = a.status().unwrap().version;
    a.retire(&site(&b).to_string()).unwrap();
    sync(&a).await;
    assert_eq!(a.status().unwrap().version, version);
    let middle = remote.dig(&key).await.unwrap();
    sync(&b).await;
    remote.plant(&key, old.to_vec()).await.unwrap();
    let report = sync(&b).await;
    assert_eq!(report.stale, [site(&a).to_string()], "{report:?}");
    remote.plant(&key, middle.to_vec()).await.unwrap();
    assert!(sync(&b).await.stale.is_empty());
}

#[tokio::test]
async fn a_new_key_reaches_those_who_stay_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let b = keyed(folder.path(), "b", &a, &remote);
    let c = keyed(folder.path(), "c", &a, &remote);
    let old_keys = a.export_keys().unwrap();
    for device in [&b, &c, &a, &b, &c] {
        sync(device).await;
    }
    // c is lost: it is retired, and a new key leaves it out.
    a.retire(&site(&c).to_string()).unwrap();
    let new = a.rotate_key().unwrap();
    assert!(a.keys().unwrap().iter().any(|key| key.id == new && key.current && key.own && key.epoch == 1));
    write(&a, 1, "after the rotation");
    sync(&a).await;
    let report = sync(&b).await;
    assert!(report.refused.is_empty(), "{report:?}");
    assert_eq!(titles(&b), ["after the rotation"]);
    assert!(b.keys().unwrap().iter().any(|key| key.id == new && key.current && !key.own));
    let report = sync(&c).await;
    assert!(titles(&c).is_empty() && report.refused.iter().any(|why| why.contains(&new.to_string())), "{report:?}");
    // What b writes now c cannot read either; and an old key file brings nobody in under a new name.
    write(&b, 2, "by b");
    sync(&b).await;
    sync(&c).await;
    assert!(titles(&c).is_empty());
    let d = device(folder.path(), "d");
    isle::import_keys(Some(d.home.clone()), &old_keys).unwrap();
    d.add_open_remote_of("r", remote.clone(), false).unwrap();
    let report = sync(&d).await;
    assert!(!report.refused.is_empty(), "{report:?}");
    d.write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, title TEXT)")).unwrap();
    sync(&d).await;
    let report = sync(&b).await;
    assert_eq!((&report.turned_away, report.refused.len()), (&vec![site(&d).to_string()], 0), "{report:?}");
    sync(&a).await;
    assert_eq!((titles(&a), titles(&b)), (vec!["after the rotation".to_owned(), "by b".to_owned()], titles(&a)));
    // Two rotations at once need no order: both sides end with the same key.
    let (one, two) = (a.rotate_key().unwrap(), b.rotate_key().unwrap());
    for device in [&a, &b, &a, &b, &a, &b] {
        sync(device).await;
    }
    let current = |device: &Device| device.keys().unwrap().into_iter().find(|key| key.current).unwrap().id;
    assert_eq!((current(&a), current(&b)), (one.max(two), one.max(two)));
    write(&a, 3, "at last");
    sync(&a).await;
    assert!(sync(&b).await.refused.is_empty());
    assert_eq!(titles(&b).last().unwrap(), "at last");
    // A newcomer with today's key reads all that was ever put.
    let e = keyed(folder.path(), "e", &b, &remote);
    assert!(sync(&e).await.waiting.is_empty());
    assert_eq!(titles(&e), titles(&a));
}

/// Copies a device, file and folder, as a backup would.
fn back_up(folder: &Path, name: &str, to: &str) {
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    let (from, to) = (folder.join(name), folder.join(to));
    for part in ["", "keys", "sites"] {
        copy(&from.with_extension("home").join(part), &to.with_extension("home").join(part));
    }
    let source = rusqlite::Connection::open(from.with_extension("db")).unwrap();
    source.execute("VACUUM INTO ?1", [to.with_extension("db").to_str().unwrap()]).unwrap();
}

#[tokio::test]
async fn a_device_restored_from_before_a_rotation_takes_a_new_site_id_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let b = keyed(folder.path(), "b", &a, &remote);
    for device in [&b, &a] {
        sync(device).await;
    }
    write(&b, 1, "before the backup");
    sync(&b).await;
    back_up(folder.path(), "b", "restored");
    sync(&a).await;
    a.rotate_key().unwrap();
    sync(&a).await;
    write(&b, 2, "after the backup");
    sync(&b).await;
    sync(&a).await;
    // The old b is gone; what comes back has neither its last version nor the key that this was put with.
    drop(b);
    std::fs::remove_file(folder.path().join("b.db")).unwrap();
    let home = folder.path().join("restored.home");
    let replica = Replica::builder(folder.path().join("restored.db")).home(&home).open().unwrap();
    let restored = Device { replica, home };
    restored.add_open_remote_of("r", remote.clone(), false).unwrap();
    let report = sync(&restored).await;
    assert!(report.new_site.is_some(), "{report:?}");
    write(&restored, 3, "restored");
    for device in [&restored, &a, &restored, &a] {
        sync(device).await;
    }
    assert_eq!(titles(&a), ["before the backup", "after the backup", "restored"]);
    assert_eq!(titles(&restored), titles(&a));
}

#[tokio::test]
async fn a_retired_device_that_makes_a_key_of_its_own_locks_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let (b, c) = (keyed(folder.path(), "b", &a, &remote), keyed(folder.path(), "c", &a, &remote));
    for device in [&b, &c, &a] {
        sync(device).await;
    }
    write(&c, 1, "by c");
    for device in [&c, &a, &b] {
        sync(device).await;
    }
    a.retire(&site(&c).to_string()).unwrap();
    a.rotate_key().unwrap();
    sync(&a).await;
    // c does not know it, and puts its head with a key that it alone has.
    c.rotate_key().unwrap();
    let before = remote.dig(&format!("head/{}", site(&c))).await.unwrap();
    sync(&c).await;
    let changed = remote.dig(&format!("head/{}", site(&c))).await.unwrap() != before;
    write(&a, 2, "by a");
    for device in [&a, &b, &a] {
        let report = sync(device).await;
        assert!(report.refused.is_empty(), "{changed}: {report:?}");
    }
    let d = keyed(folder.path(), "d", &a, &remote);
    let report = sync(&d).await;
    assert!(report.refused.is_empty() && report.waiting.is_empty() && !report.held_back, "{report:?}");
    assert_eq!(titles(&d), ["by c", "by a"]);
    write(&d, 3, "by d");
    for device in [&d, &b, &a] {
        sync(device).await;
    }
    assert_eq!((titles(&a), titles(&b)), (titles(&d), titles(&d)));
}

#[tokio::test]
async fn a_rotation_takes_in_a_device_that_came_just_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let d = keyed(folder.path(), "d", &a, &remote);
    sync(&d).await;
    write(&d, 1, "by d");
    sync(&d).await;
    // a has not seen d yet.
    a.rotate_key().unwrap();
    let report = sync(&a).await;
    assert!(report.turned_away.is_empty() && report.refused.is_empty(), "{report:?}");
    write(&a, 2, "by a");
    sync(&a).await;
    let report = sync(&d).await;
    assert!(report.refused.is_empty(), "{report:?}");
    assert_eq!((titles(&a), titles(&d)), (titles(&d), vec!["by d".to_owned(), "by a".to_owned()]));
    assert!(d.keys().unwrap().iter().any(|key| key.current && key.epoch == 1));
}

/// The remote as somebody keeps it who could read it once.
async fn copied(remote: &Remote) -> Remote {
    let copy = Remote::in_memory();
    for key in remote.keys().await.unwrap() {
        copy.plant(&key, remote.dig(&key).await.unwrap()).await.unwrap();
    }
    copy
}

async fn put_into(remote: &Remote, from: &Remote, what: &str) {
    for key in from.keys().await.unwrap().into_iter().filter(|key| key.contains(what)) {
        remote.plant(&key, from.dig(&key).await.unwrap()).await.unwrap();
    }
}

fn move_to(device: &Device, remote: &Remote) {
    device.remove_remote("r").unwrap();
    device.add_open_remote_of("r", remote.clone(), false).unwrap();
}

#[tokio::test]
async fn a_lost_device_that_still_can_write_steers_nobody_and_brings_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let (b, x) = (keyed(folder.path(), "b", &a, &remote), keyed(folder.path(), "x", &a, &remote));
    for device in [&b, &x, &a, &b, &x] {
        sync(device).await;
    }
    write(&x, 1, "by x, in time");
    for device in [&x, &a, &b] {
        sync(device).await;
    }
    // x has a copy of everything, and what it does there it puts into the remote later.
    let private = copied(&remote).await;
    let old_keys = x.export_keys().unwrap();
    a.retire(&site(&x).to_string()).unwrap();
    a.rotate_key().unwrap();
    for device in [&a, &b, &a] {
        sync(device).await;
    }
    move_to(&x, &private);
    sync(&x).await;
    for victim in [&a, &b] {
        x.retire(&site(victim).to_string()).unwrap();
    }
    x.write(|tx| tx.execute_batch("CREATE TABLE evil(id INTEGER PRIMARY KEY)")).unwrap();
    x.track(&["evil"]).unwrap();
    let y = device(folder.path(), "y");
    isle::import_keys(Some(y.home.clone()), &old_keys).unwrap();
    y.add_open_remote_of("r", private.clone(), false).unwrap();
    sync(&y).await;
    write(&y, 66, "by nobody");
    for device in [&y, &x, &y, &x] {
        sync(device).await;
    }
    for part in ["schema/", &format!("head/{}", site(&x)), &format!("head/{}", site(&y))] {
        put_into(&remote, &private, part).await;
    }
    let sites = (site(&a), site(&b));
    for device in [&a, &b, &a, &b] {
        let report = sync(device).await;
        assert!(report.new_site.is_none() && !report.was_retired, "x puts others out: {report:?}");
        assert_eq!(titles(device), ["by x, in time"]);
        assert_eq!(report.turned_away, [site(&y).to_string()], "{report:?}");
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'evil'";
        assert_eq!(device.read(|q| q.one::<i64>(tables, &[])).unwrap(), Some(0), "x makes tables");
    }
    assert_eq!((site(&a), site(&b)), sites);
    // Nor does the next key go to either.
    a.rotate_key().unwrap();
    sync(&a).await;
    for outsider in [&x, &y] {
        move_to(outsider, &remote);
        sync(outsider).await;
        assert!(outsider.keys().unwrap().iter().all(|key| key.epoch == 0), "an outsider got a new key");
    }
}

/// Would catch: a file from a stranger, with a remote of his in it, that sends him what is written to it here.
#[tokio::test]
async fn a_plain_remote_that_came_with_a_file_is_not_synced_with_until_it_was_added_here() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = device(folder.path(), "stranger");
    stranger.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)")).unwrap();
    stranger.track(&["notes"]).unwrap();
    let bucket = folder.path().join("bucket");
    stranger.add_plain_remote("r", bucket.to_str().unwrap()).unwrap();
    stranger.sync().await.unwrap();
    let copy = folder.path().join("copy.db");
    stranger
        .read(|q| {
            q.as_rusqlite().backup("main", &copy, None::<fn(rusqlite::backup::Progress)>).unwrap();
            Ok(())
        })
        .unwrap();
    let own = Replica::builder(&copy).home(folder.path().join("own.home")).open().unwrap();
    own.write(|tx| tx.execute("INSERT INTO notes VALUES(7, 'own words')", &[])).unwrap();
    let objects = || walk(&bucket).len();
    let before = objects();
    let refused = own.sync().await.unwrap_err().to_string();
    assert!(refused.contains("came with this file from elsewhere") && refused.contains("--plain"), "{refused}");
    assert_eq!(objects(), before);
    own.remove_remote("r").unwrap();
    own.add_plain_remote("r", bucket.to_str().unwrap()).unwrap();
    own.sync().await.unwrap();
    stranger.sync().await.unwrap();
    assert_eq!(titles(&stranger), ["own words"]);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn who_may_write_to_a_plain_remote_gets_no_key_of_an_encrypted_one() {
    let folder = tempfile::tempdir().unwrap();
    let (remote, usb) = (Remote::in_memory(), Remote::in_memory());
    let a = first(folder.path(), "a", &remote);
    a.add_open_remote("usb", usb.clone()).unwrap();
    let o = device(folder.path(), "o");
    o.add_open_remote("usb", usb).unwrap();
    a.sync().await.unwrap();
    o.sync().await.unwrap();
    write(&o, 1, "through the stick");
    o.sync().await.unwrap();
    a.sync().await.unwrap();
    a.rotate_key().unwrap();
    a.sync().await.unwrap();
    let seed = std::fs::read_to_string(o.home.join("device.key")).unwrap();
    let seed: isle::DeviceKey = seed.trim().parse().unwrap();
    let secret = isle_identity::DeviceSecret::from_seed(*seed.as_bytes()).unwrap();
    let rotations = remote.list_rotations().await.unwrap();
    assert_eq!(rotations.len(), 2, "the first key and the next");
    for rotation in rotations {
        let bytes = remote.get_rotation(&rotation).await.unwrap();
        let opened = isle_identity::Rotation::decode(&bytes).unwrap().open(&secret).unwrap();
        assert_eq!(opened, None, "an outsider can open it");
    }
}

#[tokio::test]
async fn a_device_that_was_away_gets_a_key_that_somebody_made_whom_it_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let x = keyed(folder.path(), "x", &a, &remote);
    for device in [&x, &a] {
        sync(device).await;
    }
    // While x is away, c comes and makes a key.
    let c = keyed(folder.path(), "c", &a, &remote);
    sync(&c).await;
    write(&c, 1, "by c");
    for device in [&c, &a] {
        sync(device).await;
    }
    c.rotate_key().unwrap();
    for device in [&c, &a, &c] {
        sync(device).await;
    }
    write(&a, 2, "by a");
    sync(&a).await;
    sync(&x).await;
    let report = sync(&x).await;
    assert!(report.refused.is_empty(), "{report:?}");
    assert_eq!(titles(&x), ["by c", "by a"]);
    let rotations = remote.list_rotations().await.unwrap().len();
    for device in [&a, &c, &x, &a] {
        sync(device).await;
    }
    assert_eq!(remote.list_rotations().await.unwrap().len(), rotations, "help is given once");
}

#[tokio::test]
async fn a_remote_that_was_removed_and_added_again_is_heard_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::in_memory();
    let a = first(folder.path(), "a", &remote);
    sync(&a).await;
    let b = keyed(folder.path(), "b", &a, &remote);
    for n in 0..5 {
        write(&a, n, "x");
        sync(&a).await;
        sync(&b).await;
    }
    // All is lost that was remembered, and the head too.
    let head = format!("head/{}", site(&a));
    remote.uproot(&head).await.unwrap();
    move_to(&a, &remote);
    write(&a, 9, "after");
    sync(&a).await;
    let report = sync(&b).await;
    assert!(report.stale.is_empty(), "{report:?}");
    assert_eq!(titles(&b).last().unwrap(), "after");
}
