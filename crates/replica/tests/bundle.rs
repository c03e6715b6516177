//! Changes carried by the app itself, as bytes: in whatever order they come, and whoever had them in hands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use isle::{BundleError, CompactOptions, Error, Have, Replica, params};

struct Devices {
    folder: tempfile::TempDir,
}

impl Devices {
    fn new() -> Devices {
        Devices { folder: tempfile::tempdir().unwrap() }
    }

    fn home(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{name}.home"))
    }

    fn open(&self, name: &str) -> Replica {
        let path = self.folder.path().join(format!("{name}.db"));
        Replica::builder(path).home(self.home(name)).init().unwrap()
    }

    /// One with a table and a row.
    fn founder(&self, name: &str) -> Replica {
        let replica = self.open(name);
        replica.apply_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INTEGER)").unwrap();
        insert(&replica, 1, "Dune");
        replica
    }
}

fn insert(replica: &Replica, id: i64, title: &str) {
    replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, ?2, 0)", params![id, title])).unwrap();
}

fn titles(replica: &Replica) -> Vec<String> {
    replica.read(|q| q.all("SELECT title FROM notes ORDER BY id", &[])).unwrap()
}

/// Everything that `from` has and `to` lacks; gives how many bundles that took.
fn carry(from: &Replica, to: &Replica, bytes: usize) -> usize {
    for count in 0..10_000 {
        // As an app would hand it over: as text.
        let have: Have = to.have().unwrap().to_string().parse().unwrap();
        let Some(bundle) = from.export_bundle(&have, bytes).unwrap() else { return count };
        let report = to.apply_bundle(&bundle).unwrap();
        assert_eq!((report.refused.len(), report.waiting.len()), (0, 0), "{report:?}");
    }
    panic!("there is always more");
}

fn assert_same(a: &Replica, b: &Replica) {
    assert_eq!(a.state_hash().unwrap(), b.state_hash().unwrap());
}

#[test]
fn devices_that_only_exchange_bundles_end_in_the_same_state() {
    let devices = Devices::new();
    let (a, b) = (devices.founder("a"), devices.open("b"));
    assert_eq!(carry(&a, &b, Replica::BUNDLE_BYTES), 1);
    assert_eq!(titles(&b), ["Dune"]);
    insert(&b, 2, "Solaris");
    a.write(|tx| tx.execute("UPDATE notes SET stars = 5 WHERE id = 1", &[])).unwrap();
    b.write(|tx| tx.execute("UPDATE notes SET title = 'Dune!' WHERE id = 1", &[])).unwrap();
    a.apply_schema("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INTEGER, read INTEGER)").unwrap();
    carry(&b, &a, Replica::BUNDLE_BYTES);
    carry(&a, &b, Replica::BUNDLE_BYTES);
    assert_same(&a, &b);
    assert_eq!(titles(&a), ["Dune!", "Solaris"]);
    let stars: i64 = b.read(|q| q.one("SELECT stars FROM notes WHERE read IS NULL AND id = 1", &[])).unwrap().unwrap();
    assert_eq!(stars, 5);
    // Nobody lacks anything: nothing is made.
    assert_eq!((carry(&a, &b, 1), carry(&b, &a, 1)), (0, 0));
    // A third gets what came from both at one of them.
    let c = devices.open("c");
    carry(&b, &c, Replica::BUNDLE_BYTES);
    assert_same(&a, &c);
    assert!(a.check().unwrap().findings.is_empty() && c.check().unwrap().findings.is_empty());
}

#[test]
fn bundles_that_come_twice_late_or_in_part_change_nothing_and_the_next_goes_on() {
    let devices = Devices::new();
    let (a, b) = (devices.founder("a"), devices.open("b"));
    let empty = Have::default();
    let first = a.export_bundle(&empty, 1).unwrap().unwrap();
    for id in 2..700 {
        insert(&a, id, &format!("title {id} {}", "x".repeat(200)));
    }
    let all = a.export_bundle(&empty, Replica::BUNDLE_BYTES).unwrap().unwrap();
    b.apply_bundle(&all).unwrap();
    let hash = b.state_hash().unwrap();
    for bundle in [&first, &all] {
        let report = b.apply_bundle(bundle).unwrap();
        assert_eq!((report.pulled_versions, b.state_hash().unwrap()), (0, hash));
    }
    // In pieces it takes several, and arrives at the same.
    let c = devices.open("c");
    assert!(carry(&a, &c, 1) > 1);
    assert_same(&a, &c);
}

#[test]
fn with_a_key_bundles_are_encrypted_and_plain_ones_are_not_taken() {
    let devices = Devices::new();
    let (a, b) = (devices.founder("a"), devices.open("b"));
    let plain = a.export_bundle(&Have::default(), 1).unwrap().unwrap();
    assert!(contains(&plain, b"notes"), "this is what encryption has to hide");
    a.create_key().unwrap();
    let sealed = a.export_bundle(&Have::default(), 1).unwrap().unwrap();
    assert!(!contains(&sealed, b"notes") && !contains(&sealed, b"default"));
    let refused = b.apply_bundle(&sealed).unwrap_err();
    assert!(matches!(refused, Error::Bundle(BundleError::KeyMissing { .. })), "{refused}");
    isle::import_keys(Some(devices.home("b")), &a.export_keys().unwrap()).unwrap();
    let refused = b.apply_bundle(&plain).unwrap_err();
    assert!(matches!(refused, Error::Bundle(BundleError::Plain)), "{refused}");
    assert!(b.status().unwrap().tables.is_empty(), "nothing of what was refused is here");
    b.apply_bundle(&sealed).unwrap();
    assert_same(&a, &b);
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn a_bundle_that_was_altered_anywhere_is_refused_and_nothing_of_it_is_taken() {
    let devices = Devices::new();
    let a = devices.founder("a");
    for sealed in [false, true] {
        let b = devices.open(if sealed { "sealed" } else { "plain" });
        if sealed {
            a.create_key().unwrap();
            isle::import_keys(Some(devices.home("sealed")), &a.export_keys().unwrap()).unwrap();
        }
        let bundle = a.export_bundle(&Have::default(), 1).unwrap().unwrap();
        let before = b.state_hash().unwrap();
        for at in (0..bundle.len()).step_by(7) {
            let mut altered = bundle.to_vec();
            altered[at] ^= 1 << (at % 8);
            assert!(matches!(b.apply_bundle(&altered).unwrap_err(), Error::Bundle(_)), "byte {at}");
            b.apply_bundle(&bundle[..at]).unwrap_err();
        }
        assert_eq!(b.state_hash().unwrap(), before);
        b.apply_bundle(&bundle).unwrap();
        assert_same(&a, &b);
    }
}

#[test]
fn other_groups_and_other_apps_are_told_apart() {
    let devices = Devices::new();
    let (a, b) = (devices.founder("a"), devices.founder("b"));
    let of_a = a.export_bundle(&Have::default(), 1).unwrap().unwrap();
    b.export_bundle(&Have::default(), 1).unwrap().unwrap();
    let refused = b.apply_bundle(&of_a).unwrap_err();
    assert!(matches!(refused, Error::Bundle(BundleError::OtherGroup { .. })), "{refused}");
    let path = devices.folder.path().join("other.db");
    let other = Replica::builder(path).home(devices.home("other")).app("other").init().unwrap();
    other.apply_schema("CREATE TABLE t(id INTEGER PRIMARY KEY)").unwrap();
    let refused = other.apply_bundle(&of_a).unwrap_err();
    assert!(matches!(refused, Error::Bundle(BundleError::OtherApp { .. })), "{refused}");
    for text in ["", "[]", "{\"versions\":{\"x\":1}}", "{\"versions\":{\"00\":-1}}", "{\"more\":1}"] {
        text.parse::<Have>().expect_err(text);
    }
}

/// Would catch: a bundle that anybody can make, and that takes a file away from the group whose key was made for it.
#[test]
fn a_file_whose_group_has_a_key_goes_to_no_other_group() {
    let devices = Devices::new();
    let (a, stranger) = (devices.founder("a"), devices.founder("stranger"));
    a.create_key().unwrap();
    let theirs = stranger.export_bundle(&Have::default(), 1).unwrap().unwrap();
    let before = a.status().unwrap().group;
    let refused = a.apply_bundle(&theirs).unwrap_err();
    assert!(matches!(refused, Error::Bundle(BundleError::KeyedGroup { .. })), "{refused}");
    assert_eq!(a.status().unwrap().group, before);
}

/// Would catch: a small bundle that takes minutes, or an answer of gigabytes.
#[test]
fn a_bundle_that_is_broken_everywhere_is_given_up_soon() {
    let devices = Devices::new();
    let (a, b) = (devices.founder("a"), devices.open("b"));
    b.apply_bundle(&a.export_bundle(&Have::default(), 1).unwrap().unwrap()).unwrap();
    let group = a.status().unwrap().group;
    let mut writer = isle_blobs::SegmentWriter::new();
    for n in 0..50_000u128 {
        writer
            .push(&isle_blobs::Frame::header(isle::SiteId::from_bytes(n.to_be_bytes()), 1, &b"no header"[..]))
            .unwrap();
    }
    let bundle = isle_blobs::Bundle {
        app: "default".to_owned(),
        floor: Default::default(),
        names: Vec::new(),
        schema: Vec::new(),
        members: Vec::new(),
        segments: vec![writer.finish().bytes().clone()],
    };
    let refused = b.apply_bundle(&bundle.encode(group, None).unwrap()).unwrap_err();
    assert!(
        matches!(&refused, Error::Bundle(BundleError::Broken { .. })) && refused.to_string().len() < 1_000,
        "{refused}"
    );
    let members =
        isle_blobs::Bundle { members: vec![Default::default(); 200_000], segments: Vec::new(), ..bundle.clone() };
    assert!(matches!(
        b.apply_bundle(&members.encode(group, None).unwrap()),
        Err(Error::Bundle(BundleError::Format { .. }))
    ));
    let named = isle_blobs::Bundle { app: "x".repeat(5_000_000), segments: Vec::new(), ..bundle };
    assert!(matches!(b.apply_bundle(&named.encode(group, None).unwrap()), Err(Error::InvalidName { .. })));
}

#[tokio::test]
async fn what_was_compacted_away_is_not_passed_over_in_silence() {
    let devices = Devices::new();
    let a = devices.founder("a");
    a.add_remote("home", devices.folder.path().join("bucket").to_str().unwrap()).unwrap();
    a.sync().await.unwrap();
    let options = CompactOptions { keep: Duration::ZERO, ..CompactOptions::default() };
    let pruned = a.compact(&options).await.unwrap();
    assert_eq!(pruned.versions, 1);
    let whole = a.export_bundle(&Have::default(), 1);
    assert!(matches!(whole, Err(Error::Bundle(BundleError::Gap))), "{whole:?}");
    // What is newer than that still goes.
    let have = a.have().unwrap();
    insert(&a, 2, "Solaris");
    assert!(a.export_bundle(&have, 1).unwrap().is_some());
}

#[test]
fn a_copied_file_hands_out_its_changes_under_an_id_of_its_own() {
    let devices = Devices::new();
    let (a, c) = (devices.founder("a"), devices.open("c"));
    carry(&a, &c, Replica::BUNDLE_BYTES);
    a.read(|q| q.all::<i64>("PRAGMA wal_checkpoint(TRUNCATE)", &[]).map(drop)).ok();
    let copy = devices.folder.path().join("copy.db");
    a.read(|q| {
        q.as_rusqlite().backup("main", &copy, None::<fn(rusqlite::backup::Progress)>).unwrap();
        Ok(())
    })
    .unwrap();
    let copy = open_copy(&copy, &devices.home("a"));
    insert(&a, 2, "of the first");
    insert(&copy, 3, "of the copy");
    carry(&a, &c, Replica::BUNDLE_BYTES);
    carry(&copy, &c, Replica::BUNDLE_BYTES);
    assert_eq!(titles(&c), ["Dune", "of the first", "of the copy"]);
    assert_ne!(a.status().unwrap().site, copy.status().unwrap().site);
}

fn open_copy(path: &Path, home: &Path) -> Replica {
    Replica::builder(path).home(home).open().unwrap()
}
