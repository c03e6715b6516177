//! What a scan takes up, and what it leaves alone.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isle::{
    Availability, Error, Facts, FileKind, Identity, Invalid, LibraryError, OperationState, Replica, ScanOptions,
    Validator, Validators, params,
};

use crate::{Device, model, news, noise};

#[test]
fn three_changes_are_what_the_last_scan_says() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    for n in 0..20 {
        a.put(&format!("{n}.txt"), format!("{n}"));
    }
    assert_eq!(news(&a.scan()), "20 added");
    a.put("new.txt", "new");
    a.put("3.txt", "another");
    fs::remove_file(a.root.join("7.txt")).unwrap();
    assert_eq!(news(&a.scan()), "1 added, 1 modified, 1 missing, 18 unchanged");
    let changes = a.library.status(50).unwrap().changes;
    let expected = [("added", "docs/new.txt"), ("missing", "docs/7.txt"), ("modified", "docs/3.txt")];
    assert_eq!(changes, expected.map(|(what, path)| (what.to_owned(), path.to_owned())));
    assert_eq!(news(&a.scan()), "20 unchanged");
    assert_eq!(a.library.status(50).unwrap().changes, []);
    assert_eq!(a.one::<u64>("SELECT count(*) FROM fs_scan"), 20);
}

#[test]
fn what_was_not_written_is_not_read_again_and_what_was_is_whatever_its_time_says() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    for n in 0..300 {
        a.put(&format!("{}/{n}.bin", n % 7), noise(1000, n));
    }
    let first = a.scan();
    assert_eq!((first.hashed, first.hashed_bytes), (300, 300_000));
    let second = a.scan();
    assert_eq!((second.hashed, second.unchanged), (0, 300));

    // The same size, and the time of before: only the disk's own time of the change tells.
    let path = a.root.join("0/0.bin");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, noise(1000, 7777)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    if cfg!(unix) {
        assert_eq!(news(&a.scan()), "1 modified, 299 unchanged");
    }
}

#[tokio::test]
async fn one_model_at_two_places_on_two_devices_is_one_row_with_two_presences() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::with_root(folder.path(), "a"), Device::with_root(folder.path(), "b"));
    a.add_remote(folder.path());
    b.add_remote(folder.path());
    // Found by both before either heard of the other.
    a.put("models/llama.gguf", model("Llama", "llama", 1));
    b.put("elsewhere/my copy.gguf", model("Llama", "llama", 1));
    b.put("other.gguf", model("Llama", "llama", 2));
    assert_eq!(news(&a.scan()), "1 added");
    assert_eq!(news(&b.scan()), "2 added");
    a.sync().await;
    b.sync().await;
    a.sync().await;
    assert_eq!(a.replica.state_hash().unwrap(), b.replica.state_hash().unwrap());
    assert_eq!(a.files().len(), 2, "{:?}", a.paths());
    let shared = a.files().into_iter().find(|file| file.elsewhere == 1 && !file.here.is_empty()).unwrap();
    let mut places: Vec<String> = a.presences(&shared.id).into_iter().map(|(_, path, _)| path).collect();
    places.sort();
    assert_eq!(places, ["elsewhere/my copy.gguf", "models/llama.gguf"]);
    assert_eq!((shared.name.as_str(), shared.kind.as_str()), ("Llama", "gguf"));
    let architecture: String = a.one("SELECT architecture FROM library_models LIMIT 1");
    assert_eq!(architecture, "llama");
    assert_eq!(news(&a.scan()), "1 unchanged");
    assert_eq!(news(&b.scan()), "2 unchanged");
}

#[test]
fn a_moved_file_keeps_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("in/report.txt", "words");
    a.put("in/m.gguf", model("M", "llama", 1));
    a.put("stays.txt", "stays");
    a.scan();
    let (report, weights) = (a.file("docs/in/report.txt"), a.file("docs/in/m.gguf"));
    fs::create_dir(a.root.join("out")).unwrap();
    fs::rename(a.root.join("in/report.txt"), a.root.join("out/final.txt")).unwrap();
    fs::rename(a.root.join("in/m.gguf"), a.root.join("out/m.gguf")).unwrap();
    assert_eq!(news(&a.scan()), "2 moved, 1 unchanged");
    let moved = a.file("docs/out/final.txt");
    assert_eq!((&moved.id, moved.name.as_str()), (&report.id, "final"));
    assert_eq!(moved.here, [a.root.join("out/final.txt")]);
    // What is known by its content keeps its name in the library; where it is changes.
    assert_eq!(a.file(&weights.id).here, [a.root.join("out/m.gguf")]);
    assert_eq!(a.files().len(), 3);
    assert_eq!(a.presences(&report.id).len(), 1);

    // A copy is another file.
    fs::copy(a.root.join("out/final.txt"), a.root.join("copy.txt")).unwrap();
    assert_eq!(news(&a.scan()), "1 added, 3 unchanged");
    assert_ne!(a.file("docs/copy.txt").id, report.id);
}

#[tokio::test]
async fn what_one_device_lacks_changes_nothing_for_the_other_and_comes_back_as_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Device::with_root(folder.path(), "a"), Device::with_root(folder.path(), "b"));
    a.add_remote(folder.path());
    b.add_remote(folder.path());
    for device in [&a, &b] {
        device.put("m.gguf", model("M", "llama", 1));
        device.put("w.ppn", vec![7; 2048]);
        device.scan();
        device.sync().await;
    }
    fs::rename(a.root.join("m.gguf"), folder.path().join("away")).unwrap();
    fs::remove_file(a.root.join("w.ppn")).unwrap();
    a.put("still.txt", "here");
    assert_eq!(news(&a.scan()), "1 added, 2 missing");
    a.sync().await;
    b.sync().await;
    let (on_a, on_b) = (a.file("docs/m.gguf"), b.file("docs/m.gguf"));
    assert_eq!((on_a.availability, on_a.elsewhere), (Availability::CloudOnly, 1));
    assert_eq!((on_b.availability, on_b.elsewhere), (Availability::Synchronized, 0));
    let states: Vec<String> = b.presences(&on_b.id).into_iter().map(|(.., state)| state).collect();
    assert!(states.contains(&"missing".to_owned()) && states.contains(&"present".to_owned()), "{states:?}");

    fs::rename(folder.path().join("away"), a.root.join("m.gguf")).unwrap();
    let back = a.scan();
    // A rename back may have moved the disk's time of the change: then it is read, and is what it was.
    assert_eq!(back.back + back.added, 1, "{back:?}");
    let again = a.file("docs/m.gguf");
    assert_eq!((again.id, again.availability), (on_a.id, Availability::Synchronized));
}

#[test]
fn a_root_that_is_gone_or_emptied_is_flagged_and_its_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("x/1.txt", "1");
    a.put("2.txt", "2");
    a.scan();
    let away = folder.path().join("unmounted");
    fs::rename(&a.root, &away).unwrap();
    let gone = a.scan();
    assert_eq!((gone.flagged.as_slice(), gone.missing), (&["docs".to_owned()][..], 0));
    assert_eq!(a.library.roots().unwrap()[0].flag.as_deref(), Some("gone"));
    let file = a.file("docs/2.txt");
    assert_eq!((file.availability, file.here.len()), (Availability::NotAvailable, 0));
    assert_eq!(a.presences(&file.id)[0].2, "present", "others may still count on it");

    // A mount point without its disk.
    fs::create_dir(&a.root).unwrap();
    assert_eq!(a.scan().flagged, ["docs"]);
    assert_eq!(a.library.roots().unwrap()[0].flag.as_deref(), Some("emptied"));
    fs::remove_dir(&a.root).unwrap();
    fs::rename(&away, &a.root).unwrap();
    assert_eq!(news(&a.scan()), "2 unchanged");
    assert_eq!(a.library.roots().unwrap()[0].flag, None);

    fs::remove_dir_all(a.root.join("x")).unwrap();
    fs::remove_file(a.root.join("2.txt")).unwrap();
    assert_eq!(a.scan().flagged, ["docs"]);
    let emptied = a.library.scan_now(&ScanOptions { emptied: true, ..ScanOptions::default() }).unwrap();
    assert_eq!((emptied.missing, emptied.flagged.len()), (2, 0));
}

#[test]
fn what_is_invalid_never_becomes_a_row_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("good.gguf", model("Good", "llama", 1));
    a.put("cut.gguf", &model("Cut", "llama", 1)[..200]);
    a.put("text.gguf", "not a model");
    a.put("empty.gguf", "");
    a.put("small.ppn", vec![0; 1023]);
    a.put("least.ppn", vec![1; 1024]);
    a.put("most.PPN", vec![2; 102_400]);
    a.put("large.ppn", vec![0; 102_401]);
    let report = a.scan();
    assert_eq!(news(&report), "3 added, 5 invalid");
    assert_eq!(a.paths(), ["docs/good.gguf", "docs/least.ppn", "docs/most.PPN"]);
    let why = |path: &str| report.problems.iter().find(|problem| problem.path == path).unwrap().why.clone();
    assert!(why("text.gguf").contains("does not begin with"), "{}", why("text.gguf"));
    assert!(why("cut.gguf").contains("truncated"), "{}", why("cut.gguf"));
    assert!(why("small.ppn").contains("1023"), "{}", why("small.ppn"));
    assert_eq!(a.file("docs/most.PPN").name, "most");
    // They are not looked at again while they stay what they are.
    let again = a.scan();
    assert_eq!((again.hashed, again.invalid, again.unchanged), (0, 0, 8));

    // A good one that is overwritten with rubbish is missing; mended, it is what it was.
    let id = a.file("docs/good.gguf").id;
    a.put("good.gguf", "rubbish");
    assert_eq!(news(&a.scan()), "1 invalid, 7 unchanged");
    assert_eq!(a.presences(&id)[0].2, "missing");
    a.put("good.gguf", model("Good", "llama", 1));
    assert_eq!(news(&a.scan()), "1 added, 7 unchanged");
    assert_eq!(a.file("docs/good.gguf").id, id);
}

#[test]
fn a_file_that_goes_while_the_scan_is_at_it_is_listed_and_the_rest_goes_on() {
    #[derive(Debug)]
    struct Takes(std::path::PathBuf);
    impl Validator for Takes {
        fn look(&self, name: &str, _: &mut fs::File, _: u64) -> Result<Facts, Invalid> {
            if name == "a.rom" {
                fs::remove_file(&self.0).map_err(Invalid::because)?;
            }
            Ok(Facts { name: Some(format!("<{name}>")), metadata: None })
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    let mut validators = Validators::default();
    validators.add("rom", Arc::new(Takes(a.root.join("b.rom"))));
    let library = a.replica.library_with(validators);
    let base = FileKind::built_in().remove(2);
    let kind =
        FileKind { name: "rom".into(), patterns: vec!["*.rom".into()], validator: "rom".into(), rank: 0, ..base };
    assert!(matches!(a.library.put_kind(&kind), Err(Error::Library(LibraryError::NoSuchValidator { .. }))));
    library.put_kind(&kind).unwrap();
    for name in ["a.rom", "b.rom", "c.rom"] {
        a.put(name, name);
    }
    // The order of a folder is the disk's: b may be looked at before a is.
    let report = library.scan_now(&ScanOptions::default()).unwrap();
    assert_eq!(report.added + report.unreadable, 3, "{report:?}");
    assert_eq!(a.file("docs/a.rom").name, "<a.rom>");
    assert_eq!(a.file("docs/a.rom").kind, "rom");
    // A program without the validator takes none of its files, and says so; all else goes on.
    a.put("d.rom", "d");
    a.put("e.txt", "e");
    let report = a.scan();
    assert_eq!((report.added, report.unreadable > 0), (1, true), "{report:?}");
    assert!(report.problems[0].why.contains("which this program does not have"), "{report:?}");
}

#[test]
fn kinds_are_added_by_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    let base = FileKind::built_in().remove(2);
    let kind = FileKind {
        name: "note".into(),
        patterns: vec!["*.txt".into()],
        validator: "text".into(),
        bytes_max: Some(100),
        identity: Identity::Path,
        sha1: true,
        sha256: true,
        rank: 0,
        ..base
    };
    a.library.put_kind(&kind).unwrap();
    a.put("good.txt", "hello");
    a.put("binary.txt", [0xff, 0xfe, 0x00]);
    a.put("long.txt", "x".repeat(101));
    let report = a.library.scan_now(&ScanOptions { kind: Some("note".into()), ..ScanOptions::default() }).unwrap();
    assert_eq!(news(&report), "1 added, 2 invalid");
    let (sha1, sha256): (String, String) = a.one("SELECT sha1, sha256 FROM library_files");
    assert_eq!(sha1, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d");
    assert_eq!(sha256, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    // Without the kind the same files are of the kind for all else.
    a.library.remove_kind("note").unwrap();
    assert!(matches!(a.library.remove_kind("note"), Err(Error::Library(LibraryError::NoSuchKind { .. }))));
    a.put("binary.txt", [0xff, 0xfe, 0x01]);
    a.put("long.txt", "y".repeat(101));
    assert_eq!(news(&a.scan()), "2 added, 1 unchanged");
}

#[test]
fn a_scan_of_one_kind_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("m.gguf", model("M", "llama", 1));
    a.put("w.ppn", vec![7; 2048]);
    a.put("n.txt", "n");
    a.scan();
    fs::remove_file(a.root.join("n.txt")).unwrap();
    fs::remove_file(a.root.join("w.ppn")).unwrap();
    let report = a.library.scan_now(&ScanOptions { kind: Some("ppn".into()), ..ScanOptions::default() }).unwrap();
    assert_eq!(news(&report), "1 missing");
    assert_eq!(news(&a.scan()), "1 missing, 1 unchanged");
    // A root may be for some kinds alone.
    let only = folder.path().join("only");
    fs::create_dir(&only).unwrap();
    fs::write(only.join("x.ppn"), vec![8; 2048]).unwrap();
    fs::write(only.join("x.txt"), "x").unwrap();
    a.library.add_root("words", &only, &["ppn".into()]).unwrap();
    let report = a.library.scan_now(&ScanOptions { root: Some("words".into()), ..ScanOptions::default() }).unwrap();
    assert_eq!((report.added, report.other), (1, 1));
}

#[test]
fn a_changed_file_is_a_new_version_of_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("n.txt", "one");
    a.scan();
    let one = a.file("docs/n.txt");
    a.put("n.txt", "two!");
    assert_eq!(news(&a.scan()), "1 modified");
    let two = a.file("docs/n.txt");
    assert_ne!(one.id, two.id);
    assert_eq!(a.file(&one.id).replaced_by.as_ref(), Some(&two.id));
    assert_eq!(a.paths(), ["docs/n.txt"]);
    // Back to what it was.
    a.put("n.txt", "one");
    assert_eq!(news(&a.scan()), "1 modified");
    assert_eq!(a.file("docs/n.txt").id, one.id);
    assert_eq!(a.file(&two.id).replaced_by.as_ref(), Some(&one.id));
    assert_eq!(a.presences(&two.id), []);
}

#[test]
fn a_file_that_was_written_a_moment_ago_waits_if_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("old.txt", "old");
    a.put("now.txt", "half of it");
    let old = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(a.root.join("old.txt")).unwrap().set_modified(old).unwrap();
    let options = ScanOptions { settle: Some(Duration::from_secs(60)), ..ScanOptions::default() };
    let report = a.library.scan_now(&options).unwrap();
    // Its time says an hour; the disk says that it was touched just now, where disks do.
    let expected = if cfg!(unix) { 0 } else { 1 };
    assert_eq!((report.added, report.growing.len() as u64), (expected, 2 - expected));
    assert_eq!(news(&a.scan()), format!("{} added{}", 2 - expected, if expected == 0 { "" } else { ", 1 unchanged" }));
    // One that is known and grows again is not missing meanwhile.
    a.put("now.txt", "more of it");
    let report = a.library.scan_now(&options).unwrap();
    assert_eq!((report.missing, report.modified), (0, 0));
    assert!(report.growing.contains(&("docs".into(), "now.txt".into())));
}

#[test]
fn roots_that_overlap_or_are_not_there_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    let add = |name: &str, path: &std::path::Path| a.library.add_root(name, path, &[]);
    fs::create_dir(a.root.join("sub")).unwrap();
    assert!(matches!(add("sub", &a.root.join("sub")), Err(Error::Library(LibraryError::RootsOverlap { .. }))));
    // Around it lies this device's key.
    assert!(matches!(add("all", folder.path()), Err(Error::Library(LibraryError::Entangled { .. }))));
    let other = folder.path().join("other");
    assert!(matches!(add("other", &other), Err(Error::Library(LibraryError::Folder(_)))));
    fs::create_dir(&other).unwrap();
    assert!(matches!(add("docs", &other), Err(Error::Library(LibraryError::RootExists { .. }))));
    for name in ["..", "a/b", "", "a\nb"] {
        assert!(add(name, &other).is_err(), "{name:?}");
    }
    assert!(a.library.add_root("kind", &other, &["none".into()]).is_err());
    assert_eq!(a.library.add_root("docs", &a.root, &[]).unwrap().name, "docs", "once more is fine");
    assert_eq!(a.library.roots().unwrap().len(), 1);
    a.put("x.txt", "x");
    a.scan();
    let id = a.file("docs/x.txt").id;
    let refused = a.library.remove_root("docs", false);
    assert!(matches!(refused, Err(Error::Library(LibraryError::OnlyHere { files: 1, .. }))), "{refused:?}");
    a.library.remove_root("docs", true).unwrap();
    assert_eq!(a.presences(&id)[0].2, "missing");
    assert!(a.root.join("x.txt").exists());
    assert!(matches!(a.library.remove_root("docs", true), Err(Error::Library(LibraryError::NoSuchRoot { .. }))));
}

#[test]
fn a_copied_database_does_not_take_the_roots_of_another_device_for_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    a.put("x.txt", "x");
    a.scan();
    let id = a.file("docs/x.txt").id;
    drop(a.library);
    a.replica.close().unwrap();
    fs::copy(folder.path().join("a.db"), folder.path().join("copy.db")).unwrap();
    let copy = Replica::builder(folder.path().join("copy.db")).home(folder.path().join("other.home")).open().unwrap();
    let library = copy.library();
    assert_eq!(library.roots().unwrap(), []);
    library.scan_now(&ScanOptions::default()).unwrap();
    let states: Vec<String> =
        copy.read(|q| q.all("SELECT state FROM library_presence WHERE file = ?1", params![&id])).unwrap();
    assert_eq!(states, ["present"]);
}

#[test]
fn a_long_scan_can_be_followed_and_readers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let a = Device::with_root(folder.path(), "a");
    for n in 0..3000 {
        a.put(&format!("{}/{n}", n % 10), n.to_string());
    }
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let replica = a.replica.clone();
    let options = ScanOptions {
        progress: Some(Arc::new(move |root, files, _| {
            assert_eq!(root, "docs");
            // Another connection reads meanwhile, in the middle of everything.
            let rows: u64 = replica.read(|q| q.one("SELECT count(*) FROM library_files", &[])).unwrap().unwrap();
            told.lock().unwrap().push((files, rows));
        })),
        ..ScanOptions::default()
    };
    let report = a.library.scan_now(&options).unwrap();
    assert_eq!(report.added, 3000);
    let seen = seen.lock().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0] <= pair[1]), "it never goes back");
    assert!(seen.iter().any(|(_, rows)| (1..3000).contains(rows)), "rows come while it goes on");
    let operation = a.replica.operation(report.operation).unwrap().unwrap();
    assert_eq!((operation.state, operation.percent()), (OperationState::Completed, Some(100)));
}

/// Time goes on with each look at it: whatever a scan has to tell it tells at once.
#[derive(Debug)]
struct Hurried(std::sync::atomic::AtomicU64);

impl isle::Runtime for Hurried {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1_000, std::sync::atomic::Ordering::SeqCst)
    }

    fn random(&self) -> [u8; 16] {
        isle::SystemRuntime.random()
    }
}

/// Would catch: a scan that is done from its beginning, and one that goes back with its second root.
#[test]
fn how_far_a_scan_is_rises_over_all_roots_and_is_unknown_the_first_time() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Hurried(std::sync::atomic::AtomicU64::new(isle::Runtime::now_ms(&isle::SystemRuntime))));
    let builder = Replica::builder(folder.path().join("a.db")).home(folder.path().join("home"));
    let replica = builder.runtime(clock).init().unwrap();
    let library = replica.library();
    for name in ["first", "second"] {
        let root = folder.path().join(name);
        fs::create_dir(&root).unwrap();
        for n in 0..700 {
            fs::write(root.join(format!("{n}.txt")), format!("{name} {n}")).unwrap();
        }
        library.add_root(name, &root, &[]).unwrap();
    }
    let scan = || {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (told, looked) = (Arc::clone(&seen), replica.clone());
        let progress: isle::ScanProgress = Arc::new(move |_, _, _| {
            let running = looked.operations(Some("scan"), 1).unwrap().remove(0);
            told.lock().unwrap().push(running.percent());
        });
        let report = library.scan_now(&ScanOptions { progress: Some(progress), ..ScanOptions::default() }).unwrap();
        assert_eq!(replica.operation(report.operation).unwrap().unwrap().percent(), Some(100));
        let seen = seen.lock().unwrap();
        seen.clone()
    };
    assert!(scan().iter().all(Option::is_none), "nobody can know how far a first scan is");
    let again: Vec<u8> = scan().into_iter().flatten().collect();
    assert!(again.is_sorted() && !again.is_empty() && again.iter().all(|percent| *percent < 100), "{again:?}");
}
