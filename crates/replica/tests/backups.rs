//! Backups: whole while others write, verified before they are taken back, and never a version issued twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use isle::{BackedUp, Backup, BackupError, Error, LiveOptions, Replica};
use rusqlite::Connection;

const SCHEMA: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT);
    CREATE VIRTUAL TABLE search USING fts5(title, content='notes', content_rowid='id');
    CREATE TRIGGER notes_ai AFTER INSERT ON notes BEGIN
      INSERT INTO search(rowid, title) VALUES(new.id, new.title);
    END;
    CREATE TRIGGER notes_au AFTER UPDATE ON notes BEGIN
      INSERT INTO search(search, rowid, title) VALUES('delete', old.id, old.title);
      INSERT INTO search(rowid, title) VALUES(new.id, new.title);
    END;";

fn device(folder: &Path, name: &str) -> Replica {
    let replica = Replica::builder(folder.join(format!("{name}.db"))).home(folder.join(name)).init().unwrap();
    replica.add_plain_remote("all", folder.join("bucket").to_str().unwrap()).unwrap();
    replica
}

fn write(replica: &Replica, id: i64, title: &str) {
    let sql = "INSERT INTO notes VALUES(?1, ?2) ON CONFLICT DO UPDATE SET title = excluded.title";
    replica.write(|tx| tx.execute(sql, isle::params![id, title])).unwrap();
}

fn titles(replica: &Replica) -> Vec<String> {
    replica.read(|q| q.all("SELECT title FROM notes ORDER BY id", &[])).unwrap()
}

fn found(replica: &Replica, word: &str) -> Vec<i64> {
    let sql = "SELECT rowid FROM search WHERE search MATCH ?1 ORDER BY 1";
    replica.read(|q| q.all(sql, isle::params![word])).unwrap()
}

fn done(backed_up: BackedUp) -> Backup {
    match backed_up {
        BackedUp::Done(backup) => backup,
        BackedUp::SkippedEmpty => unreachable!("there are tables"),
    }
}

async fn sync(replica: &Replica) {
    let report = replica.sync().await.unwrap().remove(0);
    assert_eq!((report.refused.len(), report.waiting.len()), (0, 0), "{report:?}");
}

#[tokio::test]
async fn a_restored_file_joins_the_group_again_and_no_version_is_issued_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (device(folder.path(), "a"), device(folder.path(), "b"));
    let backups = folder.path().join("deep/down/backups");
    a.apply_schema(SCHEMA).unwrap();
    write(&a, 1, "first");
    sync(&a).await;
    sync(&b).await;
    write(&a, 2, "unpublished then");
    let backup = done(a.back_up(&backups, "manual", Some("before all that")).unwrap());
    sync(&a).await;
    write(&a, 3, "published after");
    sync(&a).await;
    sync(&b).await;
    write(&a, 4, "never published");
    write(&a, 1, "changed");
    let (site, before) = (a.status().unwrap().site, titles(&a));

    // A connection that stays open sees the backup's rows, and no file is replaced under it.
    let other = Connection::open(a.path()).unwrap();
    let seen = |sql: &str| other.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(seen("SELECT count(*) FROM notes"), 4);
    let restored = a.restore(&backup, &backups).unwrap();
    assert_eq!(seen("SELECT count(*) FROM notes"), 2);
    assert_eq!(titles(&a), ["first", "unpublished then"]);
    assert_eq!(found(&a, "first"), [1]);
    assert_ne!(a.status().unwrap().site, site);
    assert_eq!(restored.site, a.status().unwrap().site.to_string());
    assert!(a.check().unwrap().findings.is_empty());

    write(&a, 5, "after the restore");
    sync(&a).await;
    sync(&b).await;
    sync(&a).await;
    assert_eq!(titles(&a), ["first", "unpublished then", "published after", "after the restore"]);
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    assert_eq!(found(&b, "restore"), [5]);

    // What a restore that was killed has left goes with the next one.
    let left = folder.path().join(".isle-restore-a.db-00");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("restored.db"), "half").unwrap();
    // The file as it was is a backup too, and has what nobody else has.
    let kept = restored.kept.unwrap();
    assert_eq!(kept.reason, "restore");
    a.restore(&kept, &backups).unwrap();
    assert_eq!(titles(&a), before);
    let hidden =
        |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().starts_with(".isle");
    assert!(!std::fs::read_dir(folder.path()).unwrap().any(hidden));
    sync(&a).await;
    sync(&b).await;
    sync(&a).await;
    assert_eq!(titles(&b), ["changed", "unpublished then", "published after", "never published", "after the restore"]);
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    let kinds: Vec<String> = a.operations(None, 10).unwrap().into_iter().map(|operation| operation.kind).collect();
    assert!(kinds.contains(&"restore".to_owned()), "{kinds:?}");
}

#[test]
fn a_backup_is_whole_while_somebody_writes_and_its_name_and_manifest_say_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let backups = folder.path().join("backups");
    assert_eq!(a.back_up(&backups, "manual", None).unwrap(), BackedUp::SkippedEmpty);
    assert!(!backups.exists());
    a.apply_schema(SCHEMA).unwrap();
    let (stop, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let made: Vec<(Backup, usize)> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 1.. {
                // Always two rows at once.
                let sql = "INSERT INTO notes VALUES(?1, 'x'), (-?1, 'x')";
                a.write(|tx| tx.execute(sql, isle::params![id])).unwrap();
                written.store(id as usize, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        let one = |_| {
            let before = written.load(Ordering::SeqCst);
            (done(a.back_up(&backups, "manual", None).unwrap()), before)
        };
        let made = (0..4).map(one).collect();
        stop.store(true, Ordering::SeqCst);
        made
    });
    for (backup, before) in &made {
        backup.verify().unwrap();
        let name = backup.path.file_name().unwrap().to_str().unwrap();
        let rest = name.strip_prefix("database-a-").unwrap().strip_suffix(".db").unwrap();
        let (time, id) = rest.split_once('-').unwrap();
        assert!(time.len() == 19 && time.ends_with('Z') && time.contains('T'), "{name}");
        assert_eq!((id, id.len()), (backup.id.as_str(), 36));
        let copy = Connection::open(&backup.path).unwrap();
        let rows: i64 = copy.query_row("SELECT count(*) FROM notes", [], |row| row.get(0)).unwrap();
        assert!(rows % 2 == 0 && rows as usize >= 2 * before, "{rows} rows, {before} written before");
    }
    // The catalogue needs no database.
    let mut listed = Backup::list(&backups, Some(a.path())).unwrap();
    listed.sort_by(|x, y| x.id.cmp(&y.id));
    let mut all: Vec<Backup> = made.into_iter().map(|(backup, _)| backup).collect();
    all.sort_by(|x, y| x.id.cmp(&y.id));
    assert_eq!(listed, all);
    assert!(Backup::list(&backups, Some(Path::new("/elsewhere/b.db"))).unwrap().is_empty());
}

/// Every file of a folder with its bytes.
fn content(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn what_is_damaged_or_of_another_group_is_not_restored_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let (a, other) = (device(folder.path(), "a"), device(folder.path(), "other"));
    let backups = folder.path().join("backups");
    for replica in [&a, &other] {
        replica.apply_schema(SCHEMA).unwrap();
        write(replica, 1, "x");
    }
    let good = done(a.back_up(&backups, "manual", None).unwrap());
    let hash = a.state_hash().unwrap();
    let refused = |backup: &Backup| {
        let count = Backup::list(&backups, None).unwrap().len();
        let error = a.restore(backup, &backups).unwrap_err();
        assert_eq!(Backup::list(&backups, None).unwrap().len(), count, "nothing was kept for nothing");
        assert_eq!(a.state_hash().unwrap(), hash);
        error
    };
    let bytes = content(&good.path);
    for (what, spoilt) in [
        ("cut", bytes[..bytes.len() / 2].to_vec()),
        ("flipped", {
            let mut bytes = bytes.clone();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        }),
        ("empty", Vec::new()),
    ] {
        std::fs::write(&good.path, spoilt).unwrap();
        assert!(matches!(refused(&good), Error::Backup(BackupError::Damaged { .. })), "{what}");
    }
    // A manifest that tells the hash of a spoilt file does not help it either.
    let mut evil = bytes.clone();
    evil[4096..8192].fill(0xff);
    std::fs::write(&good.path, &evil).unwrap();
    let lying = Backup { blake3: blake3::hash(&evil).to_hex().to_string(), ..good.clone() };
    assert!(matches!(refused(&lying), Error::Backup(BackupError::Damaged { .. })));
    std::fs::remove_file(&good.path).unwrap();
    assert!(matches!(refused(&good), Error::Backup(BackupError::Damaged { .. })));
    let foreign = done(other.back_up(&backups, "manual", None).unwrap());
    assert!(matches!(refused(&foreign), Error::Backup(BackupError::OtherGroup { .. })));
    // A folder that cannot be written: no backup, and no restore either.
    let blocked = folder.path().join("blocked");
    std::fs::write(&blocked, "a file").unwrap();
    std::fs::write(&good.path, &bytes).unwrap();
    assert!(a.restore(&good, &blocked).is_err());
    assert_eq!(a.state_hash().unwrap(), hash);
    a.restore(&good, &backups).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_live_is_not_restored_under_its_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let backups = folder.path().join("backups");
    a.apply_schema(SCHEMA).unwrap();
    let backup = done(a.back_up(&backups, "manual", None).unwrap());
    let live = a.go_live(&LiveOptions::default()).await.unwrap();
    assert!(matches!(a.restore(&backup, &backups), Err(Error::AlreadyLive)));
    live.stop().await.unwrap();
    a.restore(&backup, &backups).unwrap();
}

#[test]
fn a_database_that_is_gone_or_destroyed_comes_back_and_its_old_log_is_not_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let backups = folder.path().join("backups");
    let path: PathBuf = folder.path().join("a.db");
    let a = device(folder.path(), "a");
    a.apply_schema(SCHEMA).unwrap();
    write(&a, 1, "kept");
    let backup = done(a.back_up(&backups, "manual", None).unwrap());
    write(&a, 2, "in the log only");
    // As after a crash: a write-ahead log beside a file that is destroyed.
    let log = content(&folder.path().join("a.db-wal"));
    a.close().unwrap();
    std::fs::write(&path, vec![0x55; 8192]).unwrap();
    std::fs::write(folder.path().join("a.db-wal"), log).unwrap();
    let home = folder.path().join("a");
    let restored = Replica::builder(&path).home(&home).restore(&backup, &backups).unwrap();
    assert!(restored.kept.is_none());
    assert_eq!(content(&restored.aside.unwrap()), vec![0x55; 8192]);
    let open = || Replica::builder(&path).home(&home).open().unwrap();
    assert_eq!(titles(&open()), ["kept"]);
    std::fs::remove_file(&path).unwrap();
    let restored = Replica::builder(&path).home(&home).restore(&backup, &backups).unwrap();
    assert!(restored.aside.is_none());
    assert_eq!(titles(&open()), ["kept"]);
    assert!(open().check().unwrap().findings.is_empty());
}

#[test]
fn old_ones_go_and_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let backups = folder.path().join("backups");
    a.apply_schema(SCHEMA).unwrap();
    for _ in 0..4 {
        a.back_up(&backups, "manual", None).unwrap();
    }
    let mut all = Backup::list(&backups, None).unwrap();
    assert!(all.iter().all(Backup::is_there));
    for (n, backup) in all.iter_mut().enumerate() {
        backup.created_ms = 1_000 - n as u64;
    }
    let ids = |backups: Vec<Backup>| backups.into_iter().map(|backup| backup.created_ms).collect::<Vec<_>>();
    assert_eq!(ids(Backup::expired(all.clone(), 1, None)), [999, 998, 997]);
    assert_eq!(ids(Backup::expired(all.clone(), 1, Some(999))), [998, 997]);
    assert!(Backup::expired(all.clone(), 4, None).is_empty());
    // The newest is damaged: it is no reason to let a sound one go.
    let sound = content(&all[0].path);
    std::fs::write(&all[0].path, &sound[1..]).unwrap();
    assert!(!all[0].is_there());
    assert_eq!(ids(Backup::expired(all.clone(), 1, None)), [998, 997]);
    std::fs::write(&all[0].path, sound).unwrap();
    all[3].remove().unwrap();
    assert_eq!(Backup::list(&backups, None).unwrap().len(), 3);
    let id = &all[0].id;
    assert_eq!(Backup::find(&backups, &id[..8]).unwrap().id, *id);
    assert!(matches!(Backup::find(&backups, ""), Err(Error::Backup(BackupError::NoSuchBackup { .. }))));
    assert!(matches!(Backup::find(&backups, "zz"), Err(Error::Backup(BackupError::NoSuchBackup { .. }))));
}

/// A counter is what shows that a change was sent twice.
const COUNTED: &str = "CREATE TABLE usage(name TEXT PRIMARY KEY, uses INT DEFAULT 0 -- @merge counter
);";

fn uses(replica: &Replica) -> Vec<i64> {
    replica.read(|q| q.all("SELECT uses FROM usage", &[])).unwrap()
}

#[tokio::test]
async fn what_others_have_of_a_backup_is_not_sent_again_however_often_it_is_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (device(folder.path(), "a"), device(folder.path(), "b"));
    let backups = folder.path().join("backups");
    a.apply_schema(COUNTED).unwrap();
    a.write(|tx| tx.execute("INSERT INTO usage VALUES('tea', 0)", &[])).unwrap();
    sync(&a).await;
    sync(&b).await;
    a.write(|tx| tx.execute("UPDATE usage SET uses = uses + 5", &[])).unwrap();
    // Not published when the backup is made, and by now it is.
    let backup = done(a.back_up(&backups, "manual", None).unwrap());
    sync(&a).await;
    for _ in 0..3 {
        a.restore(&backup, &backups).unwrap();
        sync(&a).await;
        sync(&b).await;
        assert_eq!((uses(&a), uses(&b)), (vec![5], vec![5]));
    }
    let (path, home) = (a.path().to_owned(), folder.path().join("a"));
    assert!(a.close().unwrap());
    std::fs::remove_file(&path).unwrap();
    Replica::builder(&path).home(&home).restore(&backup, &backups).unwrap();
    let a = Replica::builder(&path).home(&home).open().unwrap();
    sync(&a).await;
    sync(&b).await;
    assert_eq!((uses(&a), uses(&b)), (vec![5], vec![5]));
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
    // What nobody had goes out once.
    a.write(|tx| tx.execute("UPDATE usage SET uses = uses + 2", &[])).unwrap();
    let unsent = done(a.back_up(&backups, "manual", None).unwrap());
    a.restore(&unsent, &backups).unwrap();
    sync(&a).await;
    sync(&b).await;
    assert_eq!((uses(&a), uses(&b)), (vec![7], vec![7]));
}

#[test]
fn what_another_process_writes_while_a_backup_is_restored_is_in_the_copy_or_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let backups = folder.path().join("backups");
    a.apply_schema(SCHEMA).unwrap();
    let backup = done(a.back_up(&backups, "manual", None).unwrap());
    let path = a.path().to_owned();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let kept = std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = Connection::open(&path).unwrap();
            other.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
            for id in 1.. {
                other.execute("INSERT INTO notes VALUES(?1, 'x')", [id as i64]).unwrap();
                done.store(id, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        while done.load(Ordering::SeqCst) < 50 {
            std::thread::yield_now();
        }
        let kept = a.restore(&backup, &backups).unwrap().kept.unwrap();
        let after = done.load(Ordering::SeqCst);
        while done.load(Ordering::SeqCst) < after + 50 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        kept
    });
    let ids = |path: &Path| -> std::collections::BTreeSet<i64> {
        let conn = Connection::open(path).unwrap();
        let mut statement = conn.prepare("SELECT id FROM notes").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let everywhere: std::collections::BTreeSet<i64> = ids(&kept.path).union(&ids(&path)).copied().collect();
    let written = done.load(Ordering::SeqCst) as i64;
    assert_eq!(everywhere, (1..=written).collect());
}

#[test]
fn a_log_that_a_lost_database_has_left_is_not_replayed_into_the_restored_one() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let backups = folder.path().join("backups");
    a.apply_schema(SCHEMA).unwrap();
    write(&a, 1, "kept");
    let backup = done(a.back_up(&backups, "manual", None).unwrap());
    for id in 2..200 {
        write(&a, id, "in the log only");
    }
    let (path, log) = (a.path().to_owned(), folder.path().join("a.db-wal"));
    let bytes = content(&log);
    a.close().unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&log, bytes).unwrap();
    let home = folder.path().join("a");
    Replica::builder(&path).home(&home).restore(&backup, &backups).unwrap();
    let a = Replica::builder(&path).home(&home).open().unwrap();
    assert_eq!(titles(&a), ["kept"]);
    assert!(a.check().unwrap().findings.is_empty());
}

#[test]
fn only_what_isle_named_so_is_a_backup() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let backups = folder.path().join("backups");
    a.apply_schema(SCHEMA).unwrap();
    let backup = done(a.back_up(&backups, "manual", None).unwrap());
    let text = content(&backup.path.with_extension("json"));
    for name in ["thesis.json", "database-a-x.json", &format!("database-a-{}.json", "0".repeat(36))] {
        std::fs::write(backups.join(name), &text).unwrap();
    }
    std::fs::write(backups.join(format!("database-a-{}.json", uuid_like())), "[]").unwrap();
    assert_eq!(Backup::list(&backups, None).unwrap(), [backup]);
}

fn uuid_like() -> &'static str {
    "01234567-89ab-4def-8123-456789abcdef"
}

#[test]
fn pages_of_another_size_fit_and_a_removed_remote_stays_removed() {
    let folder = tempfile::tempdir().unwrap();
    let a = device(folder.path(), "a");
    let backups = folder.path().join("backups");
    a.apply_schema(SCHEMA).unwrap();
    write(&a, 1, "x");
    let backup = done(a.back_up(&backups, "manual", None).unwrap());
    a.remove_remote("all").unwrap();
    write(&a, 2, "y");
    let (path, home) = (a.path().to_owned(), folder.path().join("a"));
    a.close().unwrap();
    let plain = Connection::open(&path).unwrap();
    plain
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = WAL")
        .unwrap();
    drop(plain);
    let a = Replica::builder(&path).home(&home).open().unwrap();
    a.restore(&backup, &backups).unwrap();
    assert_eq!(titles(&a), ["x"]);
    assert!(a.remotes().unwrap().is_empty());
    assert!(a.check().unwrap().findings.is_empty());
}

/// What a remote is remembered for is kept over a restore; but the snapshots that the file has taken in since the backup it has not any more.
#[tokio::test]
async fn a_restored_file_takes_a_snapshot_again_that_it_had_taken_in() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (device(folder.path(), "a"), device(folder.path(), "b"));
    a.apply_schema(SCHEMA).unwrap();
    sync(&a).await;
    sync(&b).await;
    let backup = done(b.back_up(&folder.path().join("backups"), "manual", None).unwrap());
    for id in 0..50 {
        // Beyond what fits a head, or it would not be worth a snapshot.
        write(&a, id, &(0..400).map(|n| format!("{:x} ", (n + 7) * (id + 3) * 7919)).collect::<String>());
    }
    sync(&a).await;
    let options = isle::CompactOptions { keep: std::time::Duration::ZERO, ..Default::default() };
    a.compact(&options).await.unwrap();
    assert!(b.sync().await.unwrap()[0].snapshot_joined);
    assert_eq!(titles(&b).len(), 50);
    b.restore(&backup, &folder.path().join("backups")).unwrap();
    assert!(titles(&b).is_empty());
    sync(&b).await;
    assert_eq!(titles(&b), titles(&a));
    assert_eq!(b.state_hash().unwrap(), a.state_hash().unwrap());
}
