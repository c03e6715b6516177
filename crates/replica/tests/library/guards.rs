//! What others write, what goes away and what is killed costs nobody a byte.

use std::fs;
use std::time::Duration;

use isle::{Availability, Error, LibraryError, MoveOptions, PruneOptions, Selection, params};

use crate::{Device, news};

fn at_once() -> PruneOptions {
    PruneOptions { keep: Duration::ZERO, grace: Duration::ZERO, remote: None }
}

async fn pair(folder: &std::path::Path) -> (Device, Device) {
    let (a, b) = (Device::with_root(folder, "a"), Device::with_root(folder, "b"));
    a.add_remote(folder);
    b.add_remote(folder);
    (a, b)
}

async fn evict(device: &Device, path: &str) -> Result<u64, Error> {
    device.library.evict(&device.file(path), &MoveOptions::default()).await
}

/// The only chunk in the remote of a kind.
fn chunk(folder: &std::path::Path) -> std::path::PathBuf {
    let mut path = folder.join("bucket/chunk/file");
    while path.is_dir() {
        path = fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
    }
    path
}

#[tokio::test]
async fn a_row_that_claims_to_be_empty_is_no_reason_to_let_a_file_go() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    a.put("n.txt", "the only copy");
    a.scan();
    a.replica.sync().await.unwrap();
    a.replica.write(|tx| tx.execute("UPDATE library_files SET bytes = 0", &[])).unwrap();
    a.library.push(&MoveOptions { refresh: true, ..MoveOptions::default() }).await.ok();
    assert_ne!(a.file("docs/n.txt").availability, Availability::Synchronized);
    assert!(evict(&a, "docs/n.txt").await.is_err());
    assert_eq!(a.read("n.txt").unwrap(), b"the only copy");
    // What is on the disk is true: the next look at it puts the row right.
    a.put("n.txt", "the only copy");
    a.scan();
    assert_eq!(a.file("docs/n.txt").bytes, 13);
}

#[tokio::test]
async fn rubbish_under_a_chunks_name_is_not_what_evict_relies_on_and_is_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "words");
    a.scan();
    a.replica.sync().await.unwrap();
    let hash = blake3::hash(b"words").to_hex();
    let place = folder.path().join(format!("bucket/chunk/file/{}/{hash}", &hash[..2]));
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "rubbish").unwrap();
    a.sync().await;
    assert!(matches!(evict(&a, "docs/n.txt").await, Err(Error::Library(LibraryError::OnlyCopy { .. }))));
    assert_eq!(a.read("n.txt").unwrap(), b"words");
    // It is known to be damaged by now, and put again.
    assert_eq!(a.library.push(&MoveOptions::default()).await.unwrap().files, 1);
    b.sync().await;
    assert!(b.library.open("docs/n.txt", true, &MoveOptions::default()).await.is_ok());
    assert_eq!(evict(&a, "docs/n.txt").await.unwrap(), 5);
    // Damaged later, by whatever: who has the file puts everything again when asked to.
    fs::write(chunk(folder.path()), "rubbish").unwrap();
    let again = MoveOptions { again: true, ..MoveOptions::default() };
    assert_eq!(b.library.push(&again).await.unwrap().chunks, 1);
    assert!(a.library.open("docs/n.txt", true, &MoveOptions::default()).await.is_ok());
}

#[tokio::test]
async fn a_chunk_that_somebody_came_to_need_does_not_go() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "shared");
    a.scan();
    a.sync().await;
    b.sync().await;
    a.library.trash(&a.file("docs/n.txt")).unwrap();
    a.library.prune(&at_once()).await.unwrap();
    // b has the same content, relies on the chunk, and lets its own copy go.
    b.put("mine.txt", "shared");
    b.scan();
    b.sync().await;
    assert_eq!(evict(&b, "docs/mine.txt").await.unwrap(), 6);
    // a has not heard of that.
    a.library.prune(&at_once()).await.unwrap();
    a.library.prune(&at_once()).await.unwrap();
    let path = b.library.open("docs/mine.txt", true, &MoveOptions::default()).await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "shared");
}

#[tokio::test]
async fn no_chunk_goes_while_a_row_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    a.put("n.txt", "words");
    a.put("old.txt", "old words");
    a.scan();
    a.sync().await;
    a.library.trash(&a.file("docs/old.txt")).unwrap();
    a.replica.write(|tx| tx.execute("UPDATE library_files SET name = x'00' WHERE path = 'docs/n.txt'", &[])).unwrap();
    for _ in 0..3 {
        let pruned = a.library.prune(&at_once()).await.unwrap();
        assert_eq!((pruned.marked_chunks, pruned.removed_chunks), (0, 0));
        assert!(pruned.left_alone[0].contains("docs/n.txt"), "{pruned:?}");
    }
    // The next look at the file mends its row, and then there is nothing in the way.
    a.put("n.txt", "words");
    a.scan();
    a.library.prune(&at_once()).await.unwrap();
    assert_eq!(a.library.prune(&at_once()).await.unwrap().removed_chunks, 1);
    assert_eq!(a.file("docs/n.txt").availability, Availability::Synchronized);
}

#[tokio::test]
async fn only_what_is_old_enough_leaves_the_trash() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    a.replica.sync().await.unwrap();
    a.put("n.txt", "words");
    a.scan();
    let file = a.file("docs/n.txt");
    a.library.trash(&file).unwrap();
    a.replica.write(|tx| tx.execute("UPDATE library_trash SET since_ms = 1", &[])).unwrap();
    a.put("n.txt", "words");
    a.scan();
    // Edited since, and not scanned: it is what goes into the trash now.
    a.put("n.txt", "edited");
    a.library.trash(&a.file(&file.id)).unwrap();
    let day = PruneOptions { keep: Duration::from_secs(86_400), ..PruneOptions::default() };
    let plan = a.library.plan_prune(&day).await.unwrap();
    assert_eq!(plan.emptied.len(), 1);
    a.library.prune(&day).await.unwrap();
    let left = a.library.trash_list().unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(fs::read_to_string(&left[0].trash_path).unwrap(), "edited");
    a.library.restore(&file.id).unwrap();
    assert_eq!(a.read("n.txt").unwrap(), b"edited");
    // The index is not taken in by where it came from.
    a.scan();
    assert_ne!(a.file("docs/n.txt").id, file.id);
}

#[tokio::test]
async fn the_folder_below_a_disk_that_is_away_is_not_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "words");
    a.put("t.txt", "thrown away");
    a.scan();
    a.sync().await;
    b.sync().await;
    let trashed = a.file("docs/t.txt");
    a.library.trash(&trashed).unwrap();
    b.put("new.txt", "new");
    b.scan();
    b.sync().await;
    a.sync().await;
    let away = folder.path().join("disk");
    fs::rename(&a.root, &away).unwrap();
    fs::create_dir(&a.root).unwrap();
    let is_away = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("is away"), "{error}");
    };
    is_away(a.library.open("docs/new.txt", true, &MoveOptions::default()).await.map(|_| ()));
    is_away(a.library.restore(&trashed.id).map(|_| ()));
    is_away(a.library.trash(&a.file("docs/n.txt")));
    let plan = a.library.prune(&at_once()).await.unwrap();
    assert!(plan.left_alone.iter().any(|why| why.contains("is away")), "{plan:?}");
    assert_eq!(a.scan().flagged, ["docs"]);
    assert_eq!(fs::read_dir(&a.root).unwrap().count(), 0, "nothing was written there");
    fs::remove_dir(&a.root).unwrap();
    fs::rename(&away, &a.root).unwrap();
    assert_eq!(news(&a.scan()), "1 unchanged");
    assert_eq!(a.library.trash_list().unwrap().len(), 1, "the trash is still known");
    assert!(a.library.open("docs/new.txt", true, &MoveOptions::default()).await.is_ok());
    // Without isle's own folder it is still familiar.
    fs::remove_dir_all(a.root.join(".isle")).unwrap();
    assert_eq!(news(&a.scan()), "2 unchanged");
}

#[tokio::test]
async fn a_copy_at_the_old_place_of_a_moved_file_is_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("a.txt", "same");
    a.scan();
    fs::rename(a.root.join("a.txt"), a.root.join("b.txt")).unwrap();
    a.scan();
    a.put("a.txt", "same");
    assert_eq!(news(&a.scan()), "1 added, 1 unchanged");
    assert_eq!(a.paths(), ["docs/a.txt", "docs/b.txt"]);
    a.library.trash(&a.file("docs/a.txt")).unwrap();
    assert_eq!(a.read("b.txt").unwrap(), b"same");
}

#[tokio::test]
async fn what_somebody_says_this_device_lacks_is_said_right_by_the_next_scan() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("n.txt", "here");
    a.scan();
    a.replica.write(|tx| tx.execute("UPDATE library_presence SET state = 'missing'", &[])).unwrap();
    a.scan();
    assert_eq!(a.presences(&a.file("docs/n.txt").id)[0].2, "present");
    a.replica.write(|tx| tx.execute("DELETE FROM library_files", &[])).unwrap();
    a.scan();
    assert_eq!(a.paths(), ["docs/n.txt"], "it is here: it is in the library");
}

#[tokio::test]
async fn what_comes_to_the_place_of_an_evicted_file_is_a_newer_version_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    a.put("n.txt", "one");
    a.scan();
    a.sync().await;
    let one = a.file("docs/n.txt");
    evict(&a, "docs/n.txt").await.unwrap();
    a.put("n.txt", "two");
    a.scan();
    let two = a.file("docs/n.txt");
    assert_eq!(a.file(&one.id).replaced_by, Some(two.id));
    assert!(!two.conflict);
}

#[tokio::test]
async fn an_apps_schema_that_does_not_name_the_library_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "words");
    a.scan();
    a.replica
        .apply_schema(
            "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT); CREATE VIEW titles AS SELECT title FROM notes;",
        )
        .unwrap();
    a.sync().await;
    b.sync().await;
    for device in [&a, &b] {
        assert_eq!(device.paths(), ["docs/n.txt"]);
        assert!(device.library.status(5).is_ok());
        assert_eq!(device.one::<u64>("SELECT count(*) FROM titles"), 0);
    }
    assert_eq!(a.one::<u64>("SELECT count(*) FROM fs_scan"), 1);
    a.library.remove_kind("file").unwrap();
    a.library.create().unwrap();
    assert!(a.library.kinds().unwrap().iter().all(|kind| kind.name != "file"), "what was removed stays away");
}

#[tokio::test]
async fn the_database_its_key_and_the_bucket_are_no_files_of_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("work");
    fs::create_dir(&inside).unwrap();
    let home = folder.path().join("home");
    let replica = isle::Replica::builder(inside.join("app.db")).home(&home).init().unwrap();
    let library = replica.library();
    fs::write(inside.join("n.txt"), "words").unwrap();
    library.add_root("work", &inside, &[]).unwrap();
    let report = library.scan_now(&isle::ScanOptions::default()).unwrap();
    assert_eq!((report.added, report.seen), (1, 1), "{report:?}");
    replica.add_plain_remote("hub", folder.path().join("hub").to_str().unwrap()).unwrap();
    for (name, path) in [("home", home.as_path()), ("hub", &folder.path().join("hub")), ("all", folder.path())] {
        let refused = library.add_root(name, path, &[]);
        assert!(matches!(refused, Err(Error::Library(LibraryError::Entangled { .. }))), "{name}: {refused:?}");
    }
    // What is fetched for roots that are elsewhere lies beside the database, within this root, and is not scanned twice.
    let path = "INSERT INTO library_files(id, path, kind, name, bytes, content, added_ms) VALUES(?1, 'far/x.txt', 'file', 'x', 0, ?2, 1)";
    let nothing = blake3::hash(b"").to_hex();
    replica.write(|tx| tx.execute(path, params![&"a".repeat(32), nothing.as_str()])).unwrap();
    replica.sync().await.unwrap();
    library.pull(&Selection::All, &MoveOptions::default()).await.unwrap();
    assert!(inside.join("app.db.files/far/x.txt").exists());
    let report = library.scan_now(&isle::ScanOptions::default()).unwrap();
    assert_eq!((report.added, report.unchanged), (0, 2), "{report:?}");
}

#[tokio::test]
async fn a_place_that_a_file_has_left_elsewhere_is_not_its_place_here() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("x.txt", "one");
    a.scan();
    a.sync().await;
    b.sync().await;
    b.library.pull(&Selection::All, &MoveOptions::default()).await.unwrap();
    evict(&a, "docs/x.txt").await.unwrap();
    fs::rename(b.root.join("x.txt"), b.root.join("y.txt")).unwrap();
    b.scan();
    b.sync().await;
    a.sync().await;
    a.put("x.txt", "totally other");
    a.scan();
    a.sync().await;
    b.sync().await;
    b.library.pull(&Selection::All, &MoveOptions::default()).await.unwrap();
    assert_eq!((b.read("y.txt").unwrap(), b.read("x.txt").unwrap()), (b"one".to_vec(), b"totally other".to_vec()));
    assert_eq!(b.library.trash_list().unwrap(), []);
}

#[tokio::test]
async fn rows_stay_while_this_device_has_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "one");
    a.put("t.txt", "thrown away elsewhere");
    a.scan();
    a.sync().await;
    b.sync().await;
    b.library.pull(&Selection::All, &MoveOptions::default()).await.unwrap();
    a.put("n.txt", "two");
    a.scan();
    a.library.trash(&a.file("docs/t.txt")).unwrap();
    a.sync().await;
    b.sync().await;
    // b has not fetched the new version, and its disk is away.
    let away = folder.path().join("disk");
    fs::rename(&b.root, &away).unwrap();
    b.library.prune(&at_once()).await.unwrap();
    fs::rename(&away, &b.root).unwrap();
    b.scan();
    assert_eq!(b.paths(), ["docs/n.txt"], "nothing comes to life again");
    assert!(b.files().iter().all(|file| !file.conflict));
    b.library.prune(&at_once()).await.unwrap();
    assert_eq!(b.read("t.txt"), None);
    assert_eq!(b.read("n.txt").unwrap(), b"one");
}

#[tokio::test]
async fn what_is_taken_up_again_is_put_again() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "words");
    a.scan();
    a.sync().await;
    b.sync().await;
    b.library.trash(&b.file("docs/n.txt")).unwrap();
    b.sync().await;
    a.sync().await;
    a.library.prune(&at_once()).await.unwrap();
    a.library.prune(&at_once()).await.unwrap();
    a.put("n.txt", "words");
    a.scan();
    assert_eq!(a.library.push(&MoveOptions::default()).await.unwrap().files, 1);
    assert!(chunk(folder.path()).exists());
    // Another remote of the same name has none of it.
    a.replica.remove_remote("shared").unwrap();
    a.replica.add_plain_remote("shared", folder.path().join("other").to_str().unwrap()).unwrap();
    a.replica.sync().await.unwrap();
    assert_eq!(a.file("docs/n.txt").availability, Availability::LocalOnly);
    assert_eq!(a.library.push(&MoveOptions::default()).await.unwrap().files, 1);
}

#[tokio::test]
async fn several_copies_of_one_file_come_back_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    let mut id = String::new();
    for _ in 0..4 {
        a.put("x.txt", "same");
        a.scan();
        let file = a.file("docs/x.txt");
        a.library.trash(&file).unwrap();
        id = file.id;
    }
    a.library.restore(&id).unwrap();
    assert_eq!(a.library.trash_list().unwrap(), []);
    let names = fs::read_dir(&a.root).unwrap().filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file());
    assert_eq!(names.count(), 4);
}

#[tokio::test]
async fn a_download_that_is_complete_becomes_one_of_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("m.gguf.part", crate::model("M", "llama", 1));
    a.scan();
    assert_eq!(a.file("docs/m.gguf.part").kind, "file");
    fs::rename(a.root.join("m.gguf.part"), a.root.join("m.gguf")).unwrap();
    a.scan();
    let files = a.files();
    assert_eq!((files.len(), files[0].kind.as_str(), files[0].path.as_str()), (1, "gguf", "docs/m.gguf"));
    assert_eq!(a.one::<String>("SELECT architecture FROM library_models"), "llama");
}

#[tokio::test]
async fn views_are_those_of_this_version_and_nothing_else_takes_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("n.txt", "n");
    a.scan();
    a.replica
        .write(|tx| {
            tx.execute_batch(
                "DROP VIEW library_sound; CREATE VIEW library_sound AS SELECT * FROM library_files; DROP VIEW fs_scan",
            )
        })
        .unwrap();
    assert_eq!(a.paths(), ["docs/n.txt"]);
    assert_eq!(a.one::<u64>("SELECT count(*) FROM fs_scan"), 1);
    a.replica.write(|tx| tx.execute("UPDATE library_files SET bytes = -1", &[])).unwrap();
    assert_eq!(a.paths(), Vec::<String>::new());
    a.replica.write(|tx| tx.execute_batch("DROP VIEW fs_scan; CREATE TABLE fs_scan(x)")).unwrap();
    let refused = a.library.roots();
    assert!(matches!(refused, Err(Error::Library(LibraryError::NameTaken { .. }))), "{refused:?}");
    // The name of the library's own folder is not for another, and least of all for the one with the key.
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    a.replica.write(|tx| tx.execute_batch("DROP TABLE fs_scan")).unwrap();
    assert!(a.library.add_root("library", &other, &[]).is_err());
    assert!(a.library.add_root("library", &folder.path().join("a.home"), &[]).is_err());
}
