//! What goes, and what does not.

use std::fs;
use std::time::Duration;

use isle::{Availability, Error, LibraryError, MoveOptions, PruneOptions, Selection};

use crate::Device;

fn at_once() -> PruneOptions {
    PruneOptions { keep: Duration::ZERO, grace: Duration::ZERO, remote: None }
}

fn objects(folder: &std::path::Path, below: &str) -> usize {
    let (mut count, mut folders) = (0, vec![folder.join("bucket").join(below)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { count += 1 }
        }
    }
    count
}

async fn pair(folder: &std::path::Path) -> (Device, Device) {
    let (a, b) = (Device::with_root(folder, "a"), Device::with_root(folder, "b"));
    a.add_remote(folder);
    b.add_remote(folder);
    (a, b)
}

#[tokio::test]
async fn the_last_copy_is_not_evicted_nor_one_that_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "precious");
    a.scan();
    a.replica.sync().await.unwrap();
    let evict = async |device: &Device| {
        let file = device.file("docs/n.txt");
        device.library.evict(&file, &MoveOptions::default()).await
    };
    let refused = evict(&a).await;
    assert!(matches!(refused, Err(Error::Library(LibraryError::OnlyCopy { .. }))), "{refused:?}");
    a.sync().await;
    // The remote lost it since, and nobody has noticed.
    let chunk = fs::read_dir(folder.path().join("bucket/chunk/file")).unwrap().next().unwrap().unwrap().path();
    let aside = folder.path().join("aside");
    fs::rename(&chunk, &aside).unwrap();
    let refused = evict(&a).await;
    assert!(matches!(refused, Err(Error::Library(LibraryError::OnlyCopy { .. }))), "{refused:?}");
    assert_eq!(a.file("docs/n.txt").availability, Availability::LocalOnly, "now it is known");
    fs::rename(&aside, &chunk).unwrap();
    let before = a.read("n.txt");
    a.put("n.txt", "edited!!");
    let refused = evict(&a).await;
    assert!(matches!(refused, Err(Error::Library(LibraryError::Changed { .. }))), "{refused:?}");
    assert_eq!(a.read("n.txt").unwrap(), b"edited!!");
    a.put("n.txt", before.unwrap());
    assert_eq!(evict(&a).await.unwrap(), 8);
    assert_eq!(a.read("n.txt"), None);
    assert_eq!(crate::news(&a.scan()), "", "it is not missing: it was let go");
    a.sync().await;
    b.sync().await;
    let states: Vec<String> = b.presences(&b.file("docs/n.txt").id).into_iter().map(|(.., state)| state).collect();
    assert_eq!(states, ["evicted"]);
    let path = b.library.open("docs/n.txt", true, &MoveOptions::default()).await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
}

#[tokio::test]
async fn the_trash_takes_a_file_from_every_device_and_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("sub/n.txt", "words");
    a.scan();
    a.sync().await;
    b.sync().await;
    b.library.pull(&Selection::All, &MoveOptions::default()).await.unwrap();
    let file = a.file("docs/sub/n.txt");
    a.library.trash(&file).unwrap();
    assert_eq!(a.read("sub/n.txt"), None);
    assert_eq!(a.paths(), Vec::<String>::new());
    assert_eq!(crate::news(&a.scan()), "", "what is in the trash is not scanned");
    let opened = a.library.open(&file.id, true, &MoveOptions::default()).await;
    assert!(matches!(opened, Err(Error::Library(LibraryError::InTrash { .. }))), "{opened:?}");
    a.sync().await;
    b.sync().await;
    // b keeps its copy until it is told to prune; a scan does not bring the file back into the library.
    assert_eq!(b.paths(), Vec::<String>::new());
    assert_eq!(b.read("sub/n.txt").unwrap(), b"words");
    assert_eq!(crate::news(&b.scan()), "1 unchanged");
    assert_eq!(b.library.status(10).unwrap().trashed_here, 1);
    let plan = b.library.plan_prune(&PruneOptions::default()).await.unwrap();
    assert_eq!(plan.set_aside, [b.root.join("sub/n.txt")]);
    assert_eq!(b.read("sub/n.txt").unwrap(), b"words", "a plan does nothing");
    b.library.prune(&PruneOptions::default()).await.unwrap();
    assert_eq!(b.read("sub/n.txt"), None);
    assert_eq!(b.library.trash_list().unwrap()[0].original_path, b.root.join("sub/n.txt"));

    let back = b.library.restore(&file.id).unwrap();
    assert_eq!(back, Some(b.root.join("sub/n.txt")));
    assert_eq!(b.read("sub/n.txt").unwrap(), b"words");
    b.sync().await;
    a.sync().await;
    assert_eq!(a.paths(), ["docs/sub/n.txt"]);
    assert_eq!(a.file("docs/sub/n.txt").availability, Availability::CloudOnly);
    a.library.restore(&file.id).unwrap();
    assert_eq!(a.read("sub/n.txt").unwrap(), b"words");
    let refused = a.library.restore(&file.id);
    assert!(matches!(refused, Err(Error::Library(LibraryError::NotInTrash { .. }))), "{refused:?}");
}

#[tokio::test]
async fn what_somebody_puts_there_again_is_wanted_again() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("n.txt", "words");
    a.scan();
    let file = a.file("docs/n.txt");
    a.library.trash(&file).unwrap();
    a.put("n.txt", "words");
    assert_eq!(crate::news(&a.scan()), "1 added");
    assert_eq!(a.file("docs/n.txt").id, file.id);
}

#[tokio::test]
async fn rows_go_only_when_no_device_has_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("only-a.txt", "a");
    a.put("both.txt", "both");
    b.put("both.txt", "both");
    for device in [&a, &b, &a] {
        device.scan();
        device.replica.sync().await.unwrap();
    }
    a.put("rest.txt", "stays");
    fs::remove_file(a.root.join("only-a.txt")).unwrap();
    fs::remove_file(a.root.join("both.txt")).unwrap();
    a.scan();
    let options = PruneOptions::default();
    let plan = a.library.plan_prune(&options).await.unwrap();
    assert_eq!(plan.gone, ["docs/only-a.txt"]);
    assert_eq!(a.paths().len(), 3);
    a.library.prune(&options).await.unwrap();
    assert_eq!(a.paths(), ["docs/both.txt", "docs/rest.txt"]);
    assert!(a.library.plan_prune(&options).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_chunk_goes_when_nothing_needs_it_for_long_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("one.txt", "shared content");
    a.put("two.txt", "shared content");
    a.put("three.txt", "alone");
    a.scan();
    a.sync().await;
    assert_eq!(objects(folder.path(), "chunk"), 2);
    let (one, two, three) = (a.file("docs/one.txt"), a.file("docs/two.txt"), a.file("docs/three.txt"));
    a.library.trash(&one).unwrap();
    a.library.trash(&three).unwrap();
    // In the trash it is still needed.
    let kept = PruneOptions { grace: Duration::ZERO, ..PruneOptions::default() };
    let pruned = a.library.prune(&kept).await.unwrap();
    assert_eq!((pruned.marked_chunks, pruned.removed_chunks), (0, 0));
    // Out of it, what the other file has stays, and what nobody has is marked first.
    let pruned = a.library.prune(&PruneOptions { keep: Duration::ZERO, ..PruneOptions::default() }).await.unwrap();
    assert_eq!(pruned.expired, ["docs/one.txt", "docs/three.txt"]);
    assert_eq!((pruned.marked_chunks, pruned.removed_chunks), (1, 0));
    assert_eq!((objects(folder.path(), "chunk"), objects(folder.path(), "trash")), (2, 1));
    let deletions = |device: &Device| -> Vec<String> {
        let sql = "SELECT state FROM library_transfers WHERE what = 'delete' ORDER BY file";
        device.replica.read(|q| q.all(sql, &[])).unwrap()
    };
    assert_eq!(deletions(&a), ["Pending"]);

    // b was away and has the same content: the mark goes.
    b.put("found.txt", "alone");
    b.scan();
    b.sync().await;
    a.sync().await;
    let pruned = a.library.prune(&at_once()).await.unwrap();
    assert_eq!((pruned.marked_chunks, pruned.removed_chunks), (0, 0));
    assert_eq!((objects(folder.path(), "chunk"), objects(folder.path(), "trash")), (2, 0));
    assert_eq!(deletions(&a), Vec::<String>::new());

    b.sync().await;
    let found = b.file("docs/found.txt");
    b.library.trash(&found).unwrap();
    b.library.prune(&at_once()).await.unwrap();
    // A program that was killed while it removed it.
    let killed = "UPDATE library_transfers SET state = 'InProgress' WHERE what = 'delete'";
    b.replica.write(|tx| tx.execute(killed, &[])).unwrap();
    b.library.refresh(&MoveOptions::default()).await.unwrap();
    assert_eq!(deletions(&b), ["Pending"]);
    b.library.prune(&PruneOptions { keep: Duration::from_secs(3600), ..at_once() }).await.unwrap();
    assert_eq!(deletions(&b), ["Completed"]);
    assert_eq!((objects(folder.path(), "chunk"), objects(folder.path(), "trash")), (1, 0));
    assert_eq!(a.file(&two.id).availability, Availability::Synchronized);
    assert_eq!(b.library.trash_list().unwrap(), []);
}

#[tokio::test]
async fn an_older_version_can_be_had_from_the_remote() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("code.rs", "fn one() {}");
    a.scan();
    a.sync().await;
    let one = a.file("docs/code.rs");
    a.put("code.rs", "fn two() {}");
    a.scan();
    a.sync().await;
    b.sync().await;
    let new = b.library.open("docs/code.rs", true, &MoveOptions::default()).await.unwrap();
    let old = b.library.open(&one.id, true, &MoveOptions::default()).await.unwrap();
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap();
    assert_eq!((read(&new).as_str(), read(&old).as_str()), ("fn two() {}", "fn one() {}"));
    assert_ne!(new, old);
}

#[tokio::test]
async fn a_chunk_that_went_too_early_is_put_again_by_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "words");
    a.scan();
    a.sync().await;
    fs::remove_dir_all(folder.path().join("bucket/chunk")).unwrap();
    let verified = a.library.verify(&MoveOptions::default()).await.unwrap();
    assert_eq!(verified.lost.len(), 1, "{verified:?}");
    assert_eq!(a.library.push(&MoveOptions::default()).await.unwrap().files, 1);
    b.sync().await;
    assert!(b.library.open("docs/n.txt", true, &MoveOptions::default()).await.is_ok());
}

#[tokio::test]
async fn damage_on_the_disk_is_told_from_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    a.replica.sync().await.unwrap();
    for name in ["sound", "changed", "gone"] {
        a.put(&format!("{name}.txt"), name);
    }
    a.scan();
    a.put("changed.txt", "changes");
    fs::remove_file(a.root.join("gone.txt")).unwrap();
    // Nobody wrote to it, and it has another content: as if the disk had failed.
    a.replica
        .write(|tx| {
            tx.execute(
                "UPDATE library_files SET content = ?1 WHERE path = 'docs/sound.txt'",
                isle::params![&"0".repeat(64)],
            )
        })
        .unwrap();
    let verified = a.library.verify(&MoveOptions::default()).await.unwrap();
    let paths = |problems: &[isle::Problem]| problems.iter().map(|problem| problem.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&verified.damaged), ["docs/sound.txt"]);
    assert_eq!(paths(&verified.changed), ["docs/changed.txt", "docs/gone.txt"]);
}
