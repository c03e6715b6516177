//! The collection of software, on two devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod pair;

use isle::{Availability, Prefer};
use isle_examples::collection::Collection;
use pair::{Pair, Way, places};

const ZELDA: (&str, &str) = ("t1", "Zelda");
const NES: (&str, &str) = ("s1", "NES");

/// The workflows of the document: device A makes a collection, device B gets it, and both go on.
#[test]
fn a_collection_is_pushed_pulled_opened_and_changed_on_both_sides() {
    let pair: Pair<Collection> = Pair::new(Way::Bucket, Collection::open, |it| it.replica().clone(), |_| {});
    let (own_a, _) = places(pair.folder.path(), "a");
    std::fs::create_dir(own_a.join("roms")).unwrap();
    std::fs::write(own_a.join("roms/zelda.nes"), [7; 5000]).unwrap();
    // A: a release, its files, the first push.
    pair.a.library().add_root("roms", &own_a.join("roms"), &[]).unwrap();
    pair.a.library().scan_now(&isle::ScanOptions::default()).unwrap();
    pair.a.add_release("r1", "The Legend of Zelda", ZELDA, NES).unwrap();
    pair.a.add_file_set("fs1", "r1", "rom", "ROM", &["roms/zelda.nes"]).unwrap();
    assert_eq!(pair.a.file_set("fs1").unwrap(), [("zelda.nes".to_owned(), Availability::LocalOnly)]);
    let pushed = pair.runtime.block_on(pair.a.push()).unwrap();
    assert!(pushed.pushed_versions > 0);
    assert_eq!(pair.a.file_set("fs1").unwrap()[0].1, Availability::Synchronized);
    assert_eq!(
        isle::Backup::list(&pair.a.replica().backup_folder().unwrap(), None).unwrap().len(),
        1,
        "made before the push"
    );
    // B: the rows at once, a file when it is opened.
    let pulled = pair.runtime.block_on(pair.b.pull(Prefer::Merge)).unwrap();
    assert!(pulled.pulled_versions > 0 && !pulled.conflict_detected);
    assert_eq!(pair.b.releases().unwrap(), ["The Legend of Zelda"]);
    assert_eq!(pair.b.file_set("fs1").unwrap(), [("zelda.nes".to_owned(), Availability::CloudOnly)]);
    let opened = pair.runtime.block_on(pair.b.open_file_set("fs1")).unwrap();
    assert_eq!(std::fs::read(&opened[0]).unwrap(), [7; 5000]);
    assert_eq!(pair.b.file_set("fs1").unwrap()[0].1, Availability::Synchronized);
    // Both change one release.
    let rename = |collection: &Collection, name: &str| {
        collection.replica().write(|tx| tx.execute("UPDATE release SET name = ?1", isle::params![name])).unwrap();
    };
    rename(&pair.a, "Zelda I");
    pair.runtime.block_on(pair.a.push()).unwrap();
    rename(&pair.b, "Zelda 1");
    let checked = pair.runtime.block_on(pair.b.check()).unwrap();
    assert!(checked[0].diverged && checked[0].behind > 0, "{checked:?}");
    assert_eq!(pair.b.releases().unwrap(), ["Zelda 1"], "looking changes nothing");
    let pulled = pair.runtime.block_on(pair.b.pull(Prefer::Remote)).unwrap();
    assert!(pulled.conflict_detected);
    assert_eq!(pair.b.releases().unwrap(), ["Zelda I"], "as it was wanted");
    pair.runtime.block_on(pair.b.push()).unwrap();
    pair.runtime.block_on(pair.a.pull(Prefer::Merge)).unwrap();
    assert_eq!(pair.a.releases().unwrap(), ["Zelda I"]);
    let log: Vec<(i64, bool, Option<i64>)> = pair
        .b
        .sync_log()
        .unwrap()
        .into_iter()
        .map(|it| (it.sync_type, it.conflict_detected, it.conflict_resolution))
        .collect();
    assert_eq!(log, [(1, false, Some(0)), (0, true, Some(1)), (0, false, Some(0))]);
    pair.sync();
}

#[test]
fn releases_reach_the_other_device_without_a_bucket() {
    let pair: Pair<Collection> = Pair::new(
        Way::Direct,
        Collection::open,
        |it| it.replica().clone(),
        |a| {
            a.add_release("r1", "The Legend of Zelda", ZELDA, NES).unwrap();
        },
    );
    assert_eq!(pair.b.releases().unwrap(), ["The Legend of Zelda"]);
    // Two devices that name one system at once have it once each, told apart.
    pair.a.add_release("r2", "Metroid", ("t2", "Metroid"), ("s2", "SNES")).unwrap();
    pair.b.add_release("r3", "Mario", ("t3", "Mario"), ("s3", "SNES")).unwrap();
    pair.sync();
    let systems: Vec<String> = pair.a.replica().read(|q| q.all("SELECT name FROM system ORDER BY name", &[])).unwrap();
    assert_eq!(systems, ["NES", "SNES", "SNES (2)"]);
}

/// Would catch: rows of the time before isle that are lost, or that do not travel, when the app takes their file over.
#[test]
fn a_database_of_before_is_taken_over_with_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (own, home) = places(folder.path(), "a");
    let path = own.join("app.db");
    let before = include_str!("../../migrations/collection/1.0.0__start.sql");
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch(before).unwrap();
    old.execute_batch(
        "INSERT INTO release(id, name) VALUES('r0', 'From before'); INSERT INTO setting VALUES('region', 'eu');",
    )
    .unwrap();
    drop(old);
    let collection = Collection::open(&path, Some(&home)).unwrap();
    assert_eq!(collection.releases().unwrap(), ["From before"]);
    let tables: Vec<String> = collection.replica().status().unwrap().tables;
    assert!(
        ["device", "release", "setting"].iter().all(|wanted| tables.iter().any(|table| table == wanted)),
        "{tables:?}"
    );
    let (other, home_b) = places(folder.path(), "b");
    let other = Collection::open(&other.join("app.db"), Some(&home_b)).unwrap();
    let bundle = collection
        .replica()
        .export_bundle(&other.replica().have().unwrap(), isle::Replica::BUNDLE_BYTES)
        .unwrap()
        .unwrap();
    other.replica().apply_bundle(&bundle).unwrap();
    assert_eq!(other.releases().unwrap(), ["From before"]);
}
