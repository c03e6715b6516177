//! Contents go to remotes and come from them.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isle::{Availability, Error, GroupedBy, LibraryError, MoveOptions, OperationState, Selection, params};

use crate::{Device, model, noise};

fn pull_all() -> (Selection, MoveOptions) {
    (Selection::All, MoveOptions::default())
}

async fn pair(folder: &std::path::Path) -> (Device, Device) {
    let (a, b) = (Device::with_root(folder, "a"), Device::new(folder, "b"));
    a.add_remote(folder);
    b.add_remote(folder);
    (a, b)
}

/// Chunks in the plain remote, as keys and bytes.
fn chunks(folder: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let base = folder.join("bucket");
    let mut found = Vec::new();
    let mut folders = vec![base.join("chunk")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let key = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
                found.push((key, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn rows_travel_at_once_and_contents_when_they_are_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    let large = noise(5_000_000, 1);
    a.put("models/m.gguf", model("M", "llama", 3));
    a.put("images/large.bin", &large);
    a.put("ä/leer.txt", "");
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    b.library.refresh(&MoveOptions::default()).await.unwrap();
    let on_b = b.files();
    assert_eq!(on_b.len(), 3);
    assert!(on_b.iter().all(|file| file.availability == Availability::CloudOnly && file.elsewhere == 1), "{on_b:?}");
    assert!(!folder.path().join("b.db.files").exists());

    // Nothing is fetched without being asked for.
    let refused = b.library.open("docs/images/large.bin", false, &MoveOptions::default()).await;
    let Err(Error::Library(LibraryError::NeedsDownload { bytes, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!(bytes, 5_000_000);
    let path = b.library.open("docs/images/large.bin", true, &MoveOptions::default()).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), large);
    assert!(path.ends_with("b.db.files/docs/images/large.bin"), "{}", path.display());
    let here: Vec<String> = b.files().into_iter().filter(|file| !file.here.is_empty()).map(|file| file.path).collect();
    assert_eq!(here, ["docs/images/large.bin"], "exactly that one");
    // A scan knows it for what it is.
    assert_eq!(crate::news(&b.scan()), "1 unchanged");

    let (all, options) = pull_all();
    let pulled = b.library.pull(&all, &options).await.unwrap();
    assert_eq!(pulled.files, 2);
    assert!(b.files().iter().all(|file| file.availability == Availability::Synchronized));
    assert_eq!(b.library.pull(&all, &options).await.unwrap().operation, 0, "nothing is left to do");
    // Offline.
    fs::remove_dir_all(folder.path().join("bucket")).unwrap();
    assert!(b.library.open("docs/ä/leer.txt", true, &options).await.is_ok());
}

#[tokio::test]
async fn a_root_of_the_same_name_is_where_files_go() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("sub/n.txt", "words");
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    b.library.add_root("docs", &b.root, &[]).unwrap();
    let path = b.library.open("docs/sub/n.txt", true, &MoveOptions::default()).await.unwrap();
    assert_eq!(path, b.root.join("sub/n.txt"));
    assert!(!folder.path().join("b.db.files.files").exists());
}

#[tokio::test]
async fn chunks_lie_by_kind_under_their_hash_as_zstd() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    a.put("w.ppn", vec![7; 4096]);
    a.put("same.ppn", vec![7; 4096]);
    a.put("n.txt", "hello");
    a.scan();
    a.sync().await;
    let found = chunks(folder.path());
    assert_eq!(found.len(), 2, "one content is there once: {found:?}");
    for ((key, bytes), content) in found.iter().zip([b"hello".to_vec(), vec![7; 4096]]) {
        let hash = blake3::hash(&content).to_hex();
        let kind = if content == b"hello" { "file" } else { "ppn" };
        assert_eq!(*key, format!("chunk/{kind}/{}/{hash}", &hash[..2]));
        assert_eq!(bytes[..4], [0x28, 0xb5, 0x2f, 0xfd], "zstd");
        assert_eq!(zstd_content(bytes), content);
    }
}

fn zstd_content(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::decompress(bytes, 1 << 20).unwrap()
}

#[tokio::test]
async fn a_small_change_in_a_large_file_sends_little() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    let mut content = noise(48 << 20, 1);
    a.put("large.bin", &content);
    a.scan();
    a.sync().await;
    let before: u64 = chunks(folder.path()).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    content[24 << 20..25 << 20].copy_from_slice(&noise(1 << 20, 2));
    a.put("large.bin", &content);
    a.scan();
    let pushed = a.library.push(&MoveOptions::default()).await.unwrap();
    assert!(pushed.sent_bytes <= 4_000_000, "{pushed:?}");
    assert!(pushed.known_chunks > 100, "{pushed:?}");
    let after: u64 = chunks(folder.path()).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(after - before, pushed.sent_bytes);
}

#[tokio::test]
async fn a_fetch_that_was_broken_off_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    let content = noise(12_000_000, 5);
    a.put("large.bin", &content);
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    // A part of it is away for the time being.
    let stored = chunks(folder.path());
    let (key, bytes) = &stored[stored.len() / 2];
    fs::remove_file(folder.path().join("bucket").join(key)).unwrap();
    let (all, options) = pull_all();
    let failed = b.library.pull(&all, &options).await;
    assert!(matches!(failed, Err(Error::Library(LibraryError::Some { .. }))), "{failed:?}");
    assert_eq!(b.replica.operations(Some("pull"), 1).unwrap()[0].state, OperationState::Failed);
    let state = "SELECT state FROM library_transfers WHERE what = 'download'";
    assert_eq!(b.one::<String>(state), "Failed");
    fs::write(folder.path().join("bucket").join(key), bytes).unwrap();
    let pulled = b.library.pull(&all, &options).await.unwrap();
    assert!(pulled.resumed_bytes > 0, "{pulled:?}");
    assert_eq!(pulled.resumed_bytes + pulled.fetched_bytes, 12_000_000);
    assert_eq!(b.one::<String>(state), "Completed");
    let path = b.library.open("docs/large.bin", false, &options).await.unwrap();
    assert!(fs::read(path).unwrap() == content);
}

#[tokio::test]
async fn what_is_on_its_way_may_be_rubbish_and_is_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    let content = noise(4_000_000, 5);
    a.put("large.bin", &content);
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    let id = b.file("docs/large.bin").id;
    b.library.add_root("docs", &b.root, &[]).unwrap();
    let partial = b.root.join(".isle/partial").join(&id);
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    let mut rubbish = content.clone();
    rubbish[10] ^= 1;
    rubbish.extend_from_slice(b"and more than there should be");
    fs::write(&partial, rubbish).unwrap();
    let (all, options) = pull_all();
    let pulled = b.library.pull(&all, &options).await.unwrap();
    assert!(pulled.resumed_bytes > 1_000_000 && pulled.fetched_bytes > 0, "{pulled:?}");
    assert!(b.read("large.bin").unwrap() == content);
    assert!(!partial.exists());
}

#[tokio::test]
async fn a_damaged_chunk_is_fetched_from_another_remote() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    for device in [&a, &b] {
        device.replica.add_plain_remote("zweit", folder.path().join("second").to_str().unwrap()).unwrap();
    }
    a.put("n.txt", "precious");
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    b.library.refresh(&MoveOptions::default()).await.unwrap();
    let stored = chunks(folder.path());
    fs::write(folder.path().join("bucket").join(&stored[0].0), "damaged").unwrap();
    let path = b.library.open("docs/n.txt", true, &MoveOptions::default()).await.unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    // From the damaged one alone it cannot be had, and that is said; who has the file mends it.
    fs::remove_dir_all(folder.path().join("b.db.files")).unwrap();
    let only = MoveOptions { remote: Some("shared".into()), ..MoveOptions::default() };
    let failed = b.library.open("docs/n.txt", true, &only).await.unwrap_err();
    assert!(failed.to_string().contains("damaged"), "{failed}");
}

#[tokio::test]
async fn what_stands_at_the_place_of_a_file_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "from a");
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    b.library.add_root("docs", &b.root, &[]).unwrap();
    // Not scanned yet: nobody has heard of it.
    b.put("n.txt", "written on b");
    let (all, options) = pull_all();
    let pulled = b.library.pull(&all, &options).await.unwrap();
    assert_eq!(b.read("n.txt").unwrap(), b"written on b");
    let [beside] = &pulled.beside[..] else { panic!("{pulled:?}") };
    assert_eq!(fs::read_to_string(beside).unwrap(), "from a");
    assert!(beside.file_name().unwrap().to_str().unwrap().starts_with("n (conflict "), "{}", beside.display());

    // Both devices have both then, under the same two names.
    assert_eq!(crate::news(&b.scan()), "1 added, 1 unchanged");
    b.sync().await;
    a.sync().await;
    let conflicts: Vec<bool> = a.files().iter().map(|file| file.conflict).collect();
    assert_eq!(conflicts, [true, true], "{:?}", a.files());
    a.library.pull(&all, &options).await.unwrap();
    assert_eq!(a.read("n.txt").unwrap(), b"from a");
    let texts: Vec<String> = a.files().iter().map(|file| fs::read_to_string(&file.here[0]).unwrap()).collect();
    assert!(texts.contains(&"from a".into()) && texts.contains(&"written on b".into()), "{texts:?}");
}

#[tokio::test]
async fn a_newer_version_takes_the_place_of_the_old_which_goes_to_the_trash() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    a.put("n.txt", "one");
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    b.library.add_root("docs", &b.root, &[]).unwrap();
    let (all, options) = pull_all();
    b.library.pull(&all, &options).await.unwrap();
    a.put("n.txt", "two");
    a.scan();
    a.put("n.txt", "three");
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    let pulled = b.library.pull(&all, &options).await.unwrap();
    assert_eq!((pulled.files, pulled.beside.len()), (1, 0));
    assert_eq!(b.read("n.txt").unwrap(), b"three");
    let trash = b.library.trash_list().unwrap();
    assert_eq!((trash.len(), trash[0].why.as_str()), (1, "replaced"));
    assert_eq!(fs::read_to_string(&trash[0].trash_path).unwrap(), "one");
    // An older version can be had again, beside the newer.
    let one = b.library.file(&trash[0].id).unwrap();
    let back = b.library.restore(&one.id).unwrap().unwrap();
    assert_eq!(fs::read_to_string(back).unwrap(), "one");
    assert_eq!(b.read("n.txt").unwrap(), b"three");
}

#[tokio::test]
async fn sets_pins_and_sums() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    for (path, content) in [("zelda.rom", "game"), ("zelda.pdf", "manual"), ("mario.rom", "other game")] {
        a.put(path, content);
    }
    a.scan();
    let id = |path: &str| a.file(path).id;
    a.library.add_to_set("zelda", &[id("docs/zelda.rom"), id("docs/zelda.pdf")]).unwrap();
    assert!(a.library.add_to_set("zelda", &["none".into()]).is_err());
    a.sync().await;
    b.replica.sync().await.unwrap();
    b.library.refresh(&MoveOptions::default()).await.unwrap();
    let sums = |device: &Device| {
        let group = device.library.groups(GroupedBy::Set).unwrap().remove(0);
        (group.name, group.storage.files, group.storage.bytes, group.storage.local_bytes, group.storage.missing_bytes)
    };
    assert_eq!(sums(&b), ("zelda".into(), 2, 10, 0, 10));
    let pulled = b.library.pull(&Selection::Set("zelda".into()), &MoveOptions::default()).await.unwrap();
    assert_eq!(pulled.files, 2);
    let operation = b.replica.operation(pulled.operation).unwrap().unwrap();
    assert_eq!((operation.kind.as_str(), operation.percent(), operation.done), ("pull", Some(100), operation.total));
    assert_eq!(sums(&b), ("zelda".into(), 2, 10, 10, 0));
    let mario = b.file("mario");
    assert!(mario.here.is_empty());
    b.library.pin(&mario.id, true).unwrap();
    b.library.pull(&Selection::Pinned, &MoveOptions::default()).await.unwrap();
    let mario = b.file("docs/mario.rom");
    assert!(mario.pinned && mario.here.len() == 1);
    let refused = b.library.evict(&mario, &MoveOptions::default()).await;
    assert!(matches!(refused, Err(Error::Library(LibraryError::Pinned { .. }))), "{refused:?}");
    let storage = b.library.storage().unwrap();
    assert_eq!((storage.files, storage.local_bytes, storage.missing_bytes), (3, 20, 0));
    a.library.remove_from_set("zelda", &[id("docs/zelda.pdf")]).unwrap();
    assert_eq!(sums(&a).1, 1);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = pair(folder.path()).await;
    for n in 0..4 {
        a.put(&format!("{n}.bin"), noise(300_000, n));
    }
    a.scan();
    a.sync().await;
    b.replica.sync().await.unwrap();
    let began = Instant::now();
    let options = MoveOptions { bytes_per_s: Some(900_000), ..MoveOptions::default() };
    b.library.pull(&Selection::All, &options).await.unwrap();
    // The last of four waits for the three before it.
    assert!(began.elapsed() >= Duration::from_millis(990), "{:?}", began.elapsed());
}

#[tokio::test]
async fn work_whose_program_ended_is_marked_and_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (a, _) = pair(folder.path()).await;
    a.put("n.txt", "n");
    a.scan();
    let id = a.file("docs/n.txt").id;
    // What a program leaves behind that was killed.
    let store = a.replica.store();
    let (push, scan) =
        (store.begin_operation("push", "shared", 1).unwrap(), store.begin_operation("scan", "", 1).unwrap());
    let sql = "INSERT INTO library_transfers(file, remote, what, state, updated_ms) VALUES(?1, 'shared', 'upload', 'InProgress', 1)";
    a.replica.write(|tx| tx.execute(sql, params![&id])).unwrap();
    a.replica.sync().await.unwrap();
    let seen = Arc::new(std::sync::Mutex::new(None));
    let (told, replica) = (Arc::clone(&seen), a.replica.clone());
    let options = MoveOptions {
        progress: Some(Arc::new(move |done, total| {
            let state = replica.operation(push).unwrap().unwrap().state;
            *told.lock().unwrap() = Some((done, total, state));
        })),
        ..MoveOptions::default()
    };
    a.library.push(&options).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), Some((1, 1, OperationState::Interrupted)));
    a.scan();
    assert_eq!(a.replica.operation(scan).unwrap().unwrap().state, OperationState::Interrupted);
    assert_eq!(a.one::<String>("SELECT state FROM library_transfers"), "Completed");
}
