//! Backups in remotes: whole, secret where the remote is, and nobody's but the group's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};

use isle::{BackedUp, Backup, BackupError, Error, RemoteBackup, RemoteOptions, Replica, params};
use isle_blobs::{BackupManifest, Remote};
use isle_identity::DeviceSecret;

fn device(folder: &Path, name: &str) -> Replica {
    Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).init().unwrap()
}

fn bucket(folder: &Path) -> PathBuf {
    folder.join("bucket")
}

fn share(folder: &Path, replica: &Replica, plain: bool) {
    let url = bucket(folder).to_str().unwrap().to_owned();
    if plain { replica.add_plain_remote("hub", &url) } else { replica.add_remote("hub", &url) }.unwrap();
}

/// A database of several parts, with a text that can be looked for.
fn filled(folder: &Path, plain: bool) -> (Replica, Backup) {
    let replica = device(folder, "a");
    share(folder, &replica, plain);
    if !plain {
        replica.create_key().unwrap();
    }
    replica.apply_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, body BLOB)").unwrap();
    let sql = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2300)
        INSERT INTO notes SELECT i, 'a title to look for', randomblob(2000) FROM n";
    replica.write(|tx| tx.execute(sql, params![])).unwrap();
    let backed_up = replica.back_up(&folder.join("backups"), "manual", None).unwrap();
    let BackedUp::Done(backup) = backed_up else { unreachable!("there are tables") };
    assert_eq!(backup.bytes.div_ceil(4 << 20), 3, "{backup:?}");
    (replica, backup)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    files(&bucket(folder).join("backup-part"))
}

async fn only(replica: &Replica) -> RemoteBackup {
    let found = replica.remote_backups("hub").await.unwrap();
    assert_eq!(found.refused, []);
    assert_eq!(found.backups.len(), 1);
    found.backups.into_iter().next().unwrap()
}

#[tokio::test]
async fn whoever_holds_the_remote_reads_nothing_and_a_member_gets_it_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (a, backup) = filled(folder.path(), false);
    a.sync().await.unwrap();
    let stored = a.push_backup(&backup, "hub", None).await.unwrap();
    assert!(stored > 4 << 20 && parts(folder.path()).len() == 3, "{stored} {:?}", parts(folder.path()));
    for path in files(&bucket(folder.path())).iter().filter(|path| path.to_string_lossy().contains("backup")) {
        let bytes = std::fs::read(path).unwrap();
        for secret in ["SQLite format", "title", "notes", "manual"] {
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "{path:?} shows {secret:?}"
            );
        }
    }
    let b = device(folder.path(), "b");
    share(folder.path(), &b, false);
    assert!(b.remote_backups("hub").await.is_err(), "it has no key");
    a.let_in(&b).unwrap();
    b.sync().await.unwrap();
    let found = only(&b).await;
    assert!(!found.own && only(&a).await.own);
    let fetched = b.fetch_backup(&found, &folder.path().join("b-backups"), None).await.unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == std::fs::read(&backup.path).unwrap());
    assert_eq!(Backup::list(&folder.path().join("b-backups"), None).unwrap(), std::slice::from_ref(&fetched));
    // Once more is no work, and no second copy.
    assert_eq!(b.fetch_backup(&found, &folder.path().join("b-backups"), None).await.unwrap(), fetched);
    assert_eq!(files(&folder.path().join("b-backups")).len(), 2);
}

#[tokio::test]
async fn what_is_damaged_or_exchanged_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (a, backup) = filled(folder.path(), true);
    a.sync().await.unwrap();
    a.push_backup(&backup, "hub", None).await.unwrap();
    let (found, target) = (only(&a).await, folder.path().join("fetched"));
    let stored = parts(folder.path());
    let (first, second) = (std::fs::read(&stored[0]).unwrap(), std::fs::read(&stored[1]).unwrap());
    let mut flipped = first.clone();
    flipped[1_000] ^= 1;
    for wrong in [&flipped[..], &first[..first.len() - 1], &second[..]] {
        std::fs::write(&stored[0], wrong).unwrap();
        let refused = a.fetch_backup(&found, &target, None).await.unwrap_err();
        assert!(matches!(refused, Error::Remote { .. }), "{refused}");
        assert_eq!(files(&target), Vec::<PathBuf>::new());
    }
    std::fs::remove_file(&stored[0]).unwrap();
    assert!(a.fetch_backup(&found, &target, None).await.is_err());
    assert_eq!(files(&target), Vec::<PathBuf>::new());
    std::fs::write(&stored[0], &first).unwrap();
    a.fetch_backup(&found, &target, None).await.unwrap();
}

#[tokio::test]
async fn a_manifest_that_no_device_of_the_group_signed_is_told_and_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (a, backup) = filled(folder.path(), true);
    a.sync().await.unwrap();
    a.push_backup(&backup, "hub", None).await.unwrap();
    let manifest = files(&bucket(folder.path()).join("backup")).remove(0);
    let sound = std::fs::read(&manifest).unwrap();
    // Under another name: an older copy in a newer one's place.
    let other = manifest.with_file_name(format!("{:016x}-{:032x}", 7, 7));
    std::fs::rename(&manifest, &other).unwrap();
    let told = a.remote_backups("hub").await.unwrap();
    assert!(told.backups.is_empty() && told.refused[0].1.contains("its signature is not of this group"), "{told:?}");
    // Of another group.
    let strange = tempfile::tempdir().unwrap();
    let (stranger, theirs) = filled(strange.path(), true);
    stranger.sync().await.unwrap();
    stranger.push_backup(&theirs, "hub", None).await.unwrap();
    std::fs::copy(files(&bucket(strange.path()).join("backup")).remove(0), &other).unwrap();
    assert!(a.remote_backups("hub").await.unwrap().backups.is_empty());
    // Of bytes that are nothing, cut or changed.
    let mut changed = sound.clone();
    changed[200] ^= 4;
    for wrong in [&b"nothing"[..], &sound[..sound.len() / 2], &changed[..]] {
        std::fs::write(&other, wrong).unwrap();
        let told = a.remote_backups("hub").await.unwrap();
        assert!(told.backups.is_empty() && told.refused.len() == 1, "{told:?}");
    }
    std::fs::rename(&other, &manifest).unwrap();
    std::fs::write(&manifest, &sound).unwrap();
    assert_eq!(only(&a).await.backup.id, backup.id);
    let refused = stranger.push_backup(&backup, "hub", None).await.unwrap_err();
    assert!(matches!(refused, Error::Backup(BackupError::OtherGroup { .. })), "{refused}");
}

#[tokio::test]
async fn a_device_that_was_put_out_has_no_backups_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = filled(folder.path(), false);
    let b = device(folder.path(), "b");
    share(folder.path(), &b, false);
    a.let_in(&b).unwrap();
    a.sync().await.unwrap();
    b.sync().await.unwrap();
    let BackedUp::Done(theirs) = b.back_up(&folder.path().join("b-backups"), "manual", None).unwrap() else {
        unreachable!("there are tables")
    };
    b.push_backup(&theirs, "hub", None).await.unwrap();
    assert!(!only(&a).await.own);
    let key = b.device().unwrap().key;
    a.revoke(&key.short()).unwrap();
    let told = a.remote_backups("hub").await.unwrap();
    assert!(told.backups.is_empty() && told.refused[0].1.contains("put out"), "{told:?}");
}

#[tokio::test]
async fn removing_takes_all_of_one_and_what_was_cut_off_goes_after_a_week() {
    let folder = tempfile::tempdir().unwrap();
    let (a, backup) = filled(folder.path(), true);
    a.sync().await.unwrap();
    a.push_backup(&backup, "hub", None).await.unwrap();
    let BackedUp::Done(second) = a.back_up(&folder.path().join("backups"), "manual", None).unwrap() else {
        unreachable!("there are tables")
    };
    a.push_backup(&second, "hub", None).await.unwrap();
    // The first push was cut off before its manifest; the other one is old as well, and whole.
    let all = a.remote_backups("hub").await.unwrap().backups;
    assert_eq!(all.iter().map(|found| found.backup.id.clone()).collect::<Vec<_>>(), [second.id, backup.id]);
    let manifests = files(&bucket(folder.path()).join("backup"));
    std::fs::remove_file(&manifests[0]).unwrap();
    assert_eq!(a.sweep_remote_backups("hub").await.unwrap(), 0, "it may be under way");
    let week = std::time::Duration::from_secs(8 * 24 * 3600);
    for part in parts(folder.path()) {
        let file = std::fs::File::options().append(true).open(part).unwrap();
        file.set_modified(std::time::SystemTime::now() - week).unwrap();
    }
    assert_eq!(a.sweep_remote_backups("hub").await.unwrap(), 3);
    assert_eq!(parts(folder.path()).len(), 3);
    a.remove_remote_backup(&all[0]).await.unwrap();
    assert!(parts(folder.path()).is_empty() && a.remote_backups("hub").await.unwrap().backups.is_empty());
}

/// A key pair is not a member: whoever can write to the remote could sign with one of his own.
#[tokio::test]
async fn a_device_of_which_nobody_has_heard_puts_nothing_into_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let (a, backup) = filled(folder.path(), true);
    a.sync().await.unwrap();
    a.push_backup(&backup, "hub", None).await.unwrap();
    let remote = Remote::open(bucket(folder.path()).to_str().unwrap(), &RemoteOptions::default()).unwrap();
    let name = remote.list_backups().await.unwrap()[0];
    let manifest = remote.get_backup(name).await.unwrap();
    let stranger = DeviceSecret::from_seed([5; 32]).unwrap();
    let group = a.status().unwrap().group;
    let signed = BackupManifest::sign(group, name, manifest.facts, manifest.parts, &stranger).unwrap();
    remote.put_backup(name, &signed).await.unwrap();
    let told = a.remote_backups("hub").await.unwrap();
    assert!(told.backups.is_empty() && told.refused[0].1.contains("nobody in the group has heard"), "{told:?}");
}

/// What is in another device's backup is that device's: taken for the own, a counter would count it twice.
#[tokio::test]
async fn what_a_backup_of_another_device_has_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    share(folder.path(), &a, true);
    a.apply_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, hits INT NOT NULL DEFAULT 0 -- @merge counter\n)")
        .unwrap();
    a.write(|tx| tx.execute("INSERT INTO notes(id) VALUES(1)", params![])).unwrap();
    a.sync().await.unwrap();
    let b = device(folder.path(), "b");
    share(folder.path(), &b, true);
    b.sync().await.unwrap();
    a.write(|tx| tx.execute("UPDATE notes SET hits = hits + 5", params![])).unwrap();
    let BackedUp::Done(backup) = a.back_up(&folder.path().join("backups"), "manual", None).unwrap() else {
        unreachable!("there are tables")
    };
    a.push_backup(&backup, "hub", None).await.unwrap();
    let target = folder.path().join("fetched");
    let fetched = b.fetch_backup(&only(&b).await, &target, None).await.unwrap();
    let refused = b.push_backup(&fetched, "hub", None).await.unwrap_err();
    assert!(matches!(refused, Error::Backup(BackupError::OfAnother { .. })), "{refused}");
    b.restore(&fetched, &target).unwrap();
    for replica in [&b, &a, &b] {
        replica.sync().await.unwrap();
    }
    let hits = |replica: &Replica| replica.read(|q| q.one::<i64>("SELECT hits FROM notes", &[])).unwrap();
    assert_eq!((hits(&a), hits(&b)), (Some(5), Some(5)));
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    // Listed where it is, under whatever name its maker's file has.
    assert_eq!(Backup::list(&target, Some(b.path())).unwrap().len(), 2);
}

#[tokio::test]
async fn a_push_again_leaves_nothing_of_the_first_and_what_lacks_a_part_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (a, backup) = filled(folder.path(), false);
    a.sync().await.unwrap();
    a.push_backup(&backup, "hub", None).await.unwrap();
    let first = parts(folder.path());
    a.push_backup(&backup, "hub", None).await.unwrap();
    let second = parts(folder.path());
    assert!(second.len() == 3 && second.iter().all(|part| !first.contains(part)), "encrypted anew");
    assert!(only(&a).await.whole);
    std::fs::remove_file(&second[1]).unwrap();
    assert!(!only(&a).await.whole);
}
