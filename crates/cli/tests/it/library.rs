//! `isle files` as its users meet it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Device, Gave, Place};

/// A device with a folder `docs` of some files that is a root.
fn librarian(place: &Place, name: &str) -> Device {
    let device = place.device(name);
    fs::create_dir_all(device.folder.join("docs/sub")).expect("a folder");
    for (path, content) in [("a.txt", "alpha"), ("sub/b.txt", "beta"), ("bad.gguf", "no model")] {
        fs::write(device.folder.join("docs").join(path), content).expect("a file");
    }
    device.ok(["files", "add-root", "docs", "docs"]);
    device.ok(["remote", "add", "hub", &place.text("hub")]);
    device
}

/// Another device of its group.
fn reader(place: &Place, of: &Device) -> Device {
    let device = place.device("reader");
    device.ok(["remote", "add", "hub", &place.text("hub")]);
    device.takes_key_of(of);
    device.ok(["sync"]);
    device
}

#[test]
fn a_library_from_the_first_folder_to_a_file_on_another_device() {
    let place = Place::new();
    let a = librarian(&place, "a");
    let report = a.json(["files", "scan"]);
    assert_eq!((report["added"].as_u64(), report["invalid"].as_u64()), (Some(2), Some(1)), "{report}");
    assert!(report["problems"][0]["why"].as_str().expect("text").contains("GGUF"), "{report}");
    assert_eq!(a.rows("SELECT count(*) FROM fs_scan"), ["3"]);
    assert_eq!(
        a.rows("SELECT path, state, why IS NULL FROM fs_scan ORDER BY path"),
        ["a.txt,ok,1", "bad.gguf,invalid,0", "sub/b.txt,ok,1"]
    );
    let out = a.ok(["files", "status"]);
    assert!(out.contains("docs/bad.gguf: the file is no gguf model"), "{out}");
    let synced = a.json(["sync"]);
    assert_eq!(synced["files"]["files"], 2, "{synced}");
    let b = reader(&place, &a);
    let listed = b.json(["files", "list"]);
    assert_eq!(listed[0]["availability"], "CloudOnly", "{listed}");
    let refused = b.fails(3, ["files", "open", "docs/a.txt", "--no-fetch"]);
    assert!(refused.contains("5 bytes have to be fetched"), "{refused}");
    let path = b.ok(["files", "open", "docs/a.txt"]);
    assert_eq!(fs::read_to_string(path.trim_end()).expect("it is there"), "alpha");
    assert_eq!(b.json(["files", "pull", "--all"])["files"], 1);
    let sums = b.json(["files", "status", "--by", "root"]);
    assert_eq!((sums[0]["name"].as_str(), sums[0]["local_bytes"].as_u64()), (Some("docs"), Some(9)), "{sums}");
    assert_eq!(b.json(["files", "verify"])["files"], 2);
    assert_eq!(b.json(["files", "evict", "docs/a.txt"])["freed_bytes"], 5);
    assert_eq!(b.json(["files", "list"])[0]["availability"], "CloudOnly");
    let kinds: Vec<String> =
        b.json(["ops", "list"]).as_array().expect("a list").iter().map(|op| op["kind"].to_string()).collect();
    assert!(kinds.contains(&"\"pull\"".to_owned()) && kinds.contains(&"\"verify\"".to_owned()), "{kinds:?}");
    a.ok(["doctor"]);
    b.ok(["doctor"]);
}

#[test]
fn what_is_refused_says_what_to_do() {
    let place = Place::new();
    let bare = place.device("bare");
    let told = bare.fails(2, ["files", "scan"]);
    assert!(told.contains("isle files add-root"), "{told}");
    let a = librarian(&place, "a");
    a.ok(["files", "scan"]);
    let told = a.fails(4, ["files", "evict", "docs/a.txt"]);
    assert!(told.contains("no remote has docs/a.txt"), "{told}");
    assert!(a.folder.join("docs/a.txt").exists());
    a.fails(2, ["files", "open", "none"]);
    a.fails(2, ["files", "scan", "--kind", "none"]);
    a.fails(2, ["files", "scan", "--root", "none"]);
    a.fails(2, ["files", "add-root", "again", "docs"]);
    a.fails(1, ["files", "add-root", "other", "not-there"]);
    a.fails(2, ["files", "pull"]);
    a.fails(2, ["files", "add-kind", "Bad", "--pattern", "*"]);
    a.fails(2, ["files", "add-kind", "odd", "--pattern", "*", "--validator", "none"]);
    a.fails(2, ["files", "set", "add", "s", "none"]);
    let told = a.fails(1, ["files", "push"]);
    assert!(told.contains("never synced"), "{told}");
}

#[test]
fn a_folder_that_is_gone_is_held_back_by_a_guard() {
    let place = Place::new();
    let a = librarian(&place, "a");
    a.ok(["files", "scan"]);
    fs::rename(a.folder.join("docs"), a.folder.join("away")).expect("moved");
    let gave = a.run(["files", "scan"]);
    assert_eq!(gave.code, 4, "{gave:?}");
    assert!(gave.out.contains("docs is gone"), "{gave:?}");
    assert_eq!(a.json(["files", "list"])[0]["availability"], "NotAvailable");
    assert_eq!(a.rows("SELECT DISTINCT state FROM library_presence"), ["present"]);
    fs::create_dir(a.folder.join("docs")).expect("a mount point");
    assert_eq!(a.run(["files", "scan"]).code, 4);
    assert_eq!(a.json(["files", "scan", "--emptied"])["missing"], 2);
    // A folder that nobody can read is a failure, and is kept as one.
    a.ok(["files", "remove-root", "docs"]);
    fs::write(a.folder.join("plain"), "x").expect("a file");
    fs::create_dir(a.folder.join("dir")).expect("a folder");
    a.ok(["files", "add-root", "dir", "dir"]);
    fs::remove_dir_all(a.folder.join("dir")).expect("removed");
    fs::rename(a.folder.join("plain"), a.folder.join("dir")).expect("moved");
    a.fails(1, ["files", "scan"]);
    let newest = &a.json(["ops", "list", "--kind", "scan"])[0];
    assert_eq!(newest["state"], "failed", "{newest}");
    assert!(newest["error"].as_str().expect("text").contains("dir"), "{newest}");
}

#[test]
fn the_trash_and_what_is_pruned() {
    let place = Place::new();
    let a = librarian(&place, "a");
    a.ok(["files", "scan"]);
    a.ok(["sync"]);
    a.ok(["files", "trash", "put", "docs/a.txt"]);
    assert!(!a.folder.join("docs/a.txt").exists());
    let trashed = a.json(["files", "trash", "list"]);
    assert_eq!(trashed[0]["path"], "docs/a.txt", "{trashed}");
    let path = a.ok(["files", "trash", "restore", "docs/a.txt"]);
    assert_eq!(fs::read_to_string(path.trim_end()).expect("it is back"), "alpha");
    a.ok(["files", "trash", "put", "docs/a.txt"]);
    let plan = a.json(["files", "prune", "--keep", "0s", "--grace", "0s", "--dry-run"]);
    assert_eq!((plan["expired"][0].as_str(), plan["marked_chunks"].as_u64()), (Some("docs/a.txt"), Some(1)), "{plan}");
    let asked = a.fails(3, ["files", "prune", "--keep", "0s", "--grace", "0s"]);
    assert!(asked.contains("--yes"), "{asked}");
    assert_eq!(a.json(["files", "trash", "list"]).as_array().map(Vec::len), Some(1), "nothing went");
    a.ok(["files", "prune", "--keep", "0s", "--grace", "0s", "--yes"]);
    let pruned = a.json(["files", "prune", "--keep", "0s", "--grace", "0s", "--yes"]);
    assert_eq!(pruned["removed_chunks"], 1, "{pruned}");
    assert_eq!(a.json(["files", "list", "--all"]).as_array().map(Vec::len), Some(1));
    assert_eq!(a.ok(["files", "prune", "--dry-run"]), "nothing to remove\n");
}

#[test]
fn kinds_sets_and_pins() {
    let place = Place::new();
    let a = librarian(&place, "a");
    a.ok(["files", "add-kind", "note", "--pattern", "*.txt", "--validator", "text", "--max", "1KB", "--sha1"]);
    assert_eq!(a.json(["files", "kinds"])[0]["name"], "note");
    assert_eq!(a.json(["files", "scan", "--kind", "note"])["added"], 2);
    assert_eq!(a.rows("SELECT kind, length(sha1) FROM library_files"), ["note,40", "note,40"]);
    a.ok(["files", "set", "add", "both", "docs/a.txt", "docs/sub/b.txt"]);
    let sums = a.json(["files", "status", "--by", "set"]);
    assert_eq!((sums[0]["name"].as_str(), sums[0]["files"].as_u64()), (Some("both"), Some(2)), "{sums}");
    a.ok(["sync"]);
    let b = reader(&place, &a);
    b.ok(["files", "pin", "docs/a.txt"]);
    assert_eq!(b.json(["files", "pull", "--pinned"])["files"], 1);
    b.fails(4, ["files", "evict", "docs/a.txt"]);
    b.ok(["files", "unpin", "docs/a.txt"]);
    b.ok(["files", "evict", "docs/a.txt"]);
    assert_eq!(b.json(["files", "pull", "--set", "both", "--limit-rate", "10MB"])["files"], 2);
    a.ok(["files", "set", "remove", "both", "docs/a.txt"]);
    a.ok(["files", "remove-kind", "note"]);
    // An app's own tables are not mixed up with the library's.
    a.ok(["exec", "CREATE TABLE files(id INTEGER PRIMARY KEY, name TEXT)"]);
    a.ok(["init", "app.db", "--track-all"]);
    assert!(a.ok(["status"]).contains("files"));
    assert_eq!(a.rows("SELECT count(*) FROM library_roots"), ["1"]);
}

#[test]
fn a_watch_takes_up_what_comes_until_it_is_ended() {
    let place = Place::new();
    let a = librarian(&place, "a");
    let mut child = a
        .command(["files", "watch", "--settle", "300ms", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map(|line| line.expect("UTF-8"));
    let first = lines.next().expect("it says what it watches");
    assert!(first.contains("\"watching\""), "{first}");
    let scanned = lines.next().expect("what was there");
    assert!(scanned.contains("\"added\":2"), "{scanned}");
    fs::write(a.folder.join("docs/new.txt"), "new").expect("a file");
    let scanned = lines.next().expect("what came");
    assert!(scanned.contains("\"added\":1"), "{scanned}");
    assert_eq!(a.rows("SELECT count(*) FROM library_files"), ["3"]);
    #[cfg(unix)]
    {
        let ended = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(ended.expect("kill runs").success());
    }
    let began = Instant::now();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_scan_can_be_followed_from_elsewhere() {
    let place = Place::new();
    let a = place.device("a");
    fs::create_dir(a.folder.join("many")).expect("a folder");
    for n in 0..6_000 {
        fs::write(a.folder.join(format!("many/{n}")), n.to_string()).expect("a file");
    }
    a.ok(["files", "add-root", "many", "many"]);
    let scan = a.command(["files", "scan", "--json"]).spawn().expect("the binary runs");
    // The scan's row is there before its first file is.
    let began = Instant::now();
    let id = loop {
        let newest = a.json(["ops", "list", "--kind", "scan"]);
        if let Some(id) = newest[0]["id"].as_i64() {
            break id.to_string();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it never began");
    };
    let followed = a.ok(["ops", "watch", &id, "--json"]);
    assert_eq!(Gave::of(scan.wait_with_output().expect("it ends")).code, 0);
    let told: Vec<serde_json::Value> = followed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let done: Vec<u64> = told.iter().filter_map(|line| line["done"].as_u64()).collect();
    assert!(done.windows(2).all(|pair| pair[0] <= pair[1]), "{done:?}");
    let last = told.last().expect("a line");
    assert_eq!((last["state"].as_str(), last["percent"].as_u64()), (Some("completed"), Some(100)), "{last}");
    a.fails(2, ["ops", "watch", "999999"]);
    a.fails(2, ["ops", "watch"]);
}

#[test]
fn contents_can_be_left_for_later() {
    let place = Place::new();
    let a = librarian(&place, "a");
    a.ok(["files", "scan"]);
    let synced = a.json(["sync", "--no-files"]);
    assert!(synced.get("files").is_none(), "{synced}");
    assert_eq!(a.json(["files", "list"])[0]["availability"], "LocalOnly");
    assert_eq!(a.json(["files", "status"])["to_push"], 2);
    assert_eq!(a.json(["files", "push"])["files"], 2);
    assert_eq!(a.json(["files", "push"])["operation"], 0, "nothing is left to do");
}

#[test]
fn a_sync_that_goes_on_puts_contents_too() {
    let place = Place::new();
    let a = librarian(&place, "a");
    let mut watch = a
        .command(["sync", "--watch", "--interval", "200ms", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines().map(|line| line.expect("UTF-8"));
    lines.next().expect("the first sync");
    a.ok(["files", "scan"]);
    let put = lines.find(|line| line.contains("\"files\":{")).expect("contents are put");
    assert!(put.contains("\"files\":2"), "{put}");
    watch.kill().expect("it can be killed");
    watch.wait().expect("it ends");
    assert_eq!(a.json(["files", "list"])[0]["availability"], "Synchronized");
}
