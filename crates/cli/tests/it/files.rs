//! init, track, untrack, detach, and which file is meant.

use serde_json::json;

use crate::support::{Gave, Place, sqlite3};

#[test]
fn an_existing_database_is_adopted_with_its_rows() {
    let place = Place::new();
    let device = place.bare("laptop");
    let db = device.folder.join("shop.db");
    let sql = "CREATE TABLE a(id INTEGER PRIMARY KEY, t TEXT); INSERT INTO a VALUES(1, 'x'), (2, 'y');
               CREATE TABLE b(id INTEGER PRIMARY KEY AUTOINCREMENT, mail TEXT); INSERT INTO b VALUES(1, 'm');";
    sqlite3(&db, sql);
    let gave = device.run(["init", "shop.db", "--strict", "--app", "shop"]);
    assert_eq!(gave.code, 4, "{gave:?}");
    assert!(gave.out.contains("✓ tracks a, 2 rows"), "{gave:?}");
    assert!(gave.out.contains("! does not track b: "), "{gave:?}");
    assert!(gave.out.contains("AUTOINCREMENT"), "{gave:?}");

    let again = device.json(["init", "shop.db", "--track-all"]);
    assert_eq!(again["was_replica"], json!(true));
    assert_eq!(again["app"], json!("shop"));
    assert_eq!(again["tracked"], json!([]));
    assert_eq!(again["refused"][0]["table"], json!("b"));
    assert!(device.fails(2, ["init", "shop.db", "--app", "other"]).contains("\"shop\""));
}

#[test]
fn a_new_file_says_what_comes_next() {
    let place = Place::new();
    let device = place.bare("laptop");
    let text = device.ok(["init", "new.db"]);
    assert!(text.contains("✓ new.db is a new replica") && text.contains("isle track"), "{text}");
    assert!(device.ok(["init", "new.db"]).contains("was a replica already"));
    let json = device.json(["init", "second.sqlite", "--no-track"]);
    assert_eq!((&json["new"], &json["app"]), (&json!(true), &json!("default")));
    assert_eq!(device.ok(["init", "third.db", "--quiet"]), "");
    // As a shell does not expand it within quotes.
    std::fs::create_dir(place.path("home folder")).unwrap();
    let gave =
        Gave::of(device.command(["init", "~/fourth.db"]).env("HOME", place.path("home folder")).output().unwrap());
    assert!(gave.code == 0 && place.path("home folder").join("fourth.db").exists(), "{gave:?}");
}

#[test]
fn tables_come_and_go() {
    let place = Place::new();
    let device = place.device("laptop");
    device.ok(["exec", "CREATE TABLE a(id INTEGER PRIMARY KEY); CREATE TABLE b(id INTEGER PRIMARY KEY AUTOINCREMENT)"]);
    device.ok(["exec", "INSERT INTO a VALUES(1), (2), (3)"]);
    assert!(device.ok(["track", "a"]).contains("✓ tracks a, 3 rows"));
    assert_eq!(device.json(["status"])["tables"], json!(["a"]));
    let refused = device.fails(4, ["track", "b"]);
    assert!(refused.starts_with("error: table \"b\" cannot be tracked: ") && refused.contains("hint: "), "{refused}");
    assert!(device.fails(2, ["track", "nope"]).contains("there is no table \"nope\""));
    assert_eq!(device.json(["untrack", "a"]), json!({ "untracked": ["a"] }));
    assert_eq!(device.rows("SELECT count(*) FROM a"), ["3"]);
    assert!(device.fails(2, ["untrack", "a"]).contains("is not tracked"));
}

#[test]
fn detach_asks_and_gives_the_plain_file_back() {
    let place = Place::new();
    let device = place.laptop();
    let refused = device.fails(3, ["detach"]);
    assert!(refused.contains("1 not synced yet") || refused.contains("2 not synced yet"), "{refused}");
    assert!(refused.contains("hint: add --yes"), "{refused}");
    assert_eq!(device.json(["status"])["tables"], json!(["notes"]));
    assert!(device.ok(["detach", "--yes"]).contains("is a plain SQLite database"));
    let gone = device.fails(2, ["--db", "app.db", "status"]);
    assert!(gone.contains("isle init"), "{gone}");
    let left = sqlite3(&device.db(), "SELECT name FROM sqlite_schema; SELECT count(*) FROM notes");
    assert_eq!(left.trim(), "notes\n2");
}

#[test]
fn the_only_replica_of_the_folder_is_meant() {
    let place = Place::new();
    let device = place.bare("laptop");
    let none = device.fails(2, ["status"]);
    assert!(none.contains("there is no replica") && none.contains("isle init notes.db"), "{none}");
    device.ok(["init", "one.db"]);
    std::fs::write(device.folder.join("fake.db"), "this is no database at all").expect("written");
    assert!(device.json(["status"])["file"].as_str().expect("a path").ends_with("one.db"));
    device.ok(["init", "two.sqlite"]);
    let several = device.fails(2, ["status"]);
    assert!(several.contains("one.db, two.sqlite") && several.contains("--db"), "{several}");
    assert!(device.json(["status", "--db", "two.sqlite"])["file"].as_str().expect("a path").ends_with("two.sqlite"));
    let output = device.command(["status", "--json"]).env("ISLE_DB", "one.db").output().expect("runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("one.db"));
}

#[test]
fn wrong_files_are_explained() {
    let place = Place::new();
    let device = place.bare("laptop");
    let missing = device.fails(2, ["status", "--db", "nope.db"]);
    assert!(missing.contains("there is no file nope.db") && missing.contains("`isle init nope.db`"), "{missing}");
    assert!(!device.folder.join("nope.db").exists());
    std::fs::write(
        device.folder.join("text.db"),
        "no database, but long enough to look like something else".repeat(99),
    )
    .expect("written");
    assert!(device.fails(2, ["init", "text.db"]).contains("text.db is not a SQLite database"));
    assert!(device.fails(2, ["status", "--db", "text.db"]).contains("text.db is not a SQLite database"));
    assert!(device.fails(2, ["init", "."]).contains("is a folder, not a database"));
    assert!(device.fails(2, ["init", "no/such/folder/x.db"]).contains("there is no folder no/such/folder"));
    let error: serde_json::Value =
        serde_json::from_str(&device.fails(2, ["status", "--db", "nope.db", "--json"])).expect("JSON");
    assert_eq!(error["error"]["kind"], json!("invalid"));
    assert!(error["error"]["message"].as_str().expect("text").contains("nope.db"));
}

#[cfg(unix)]
fn not_utf8() -> &'static std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9.db")
}

#[cfg(unix)]
#[test]
fn a_path_that_is_not_utf8_is_read_and_written() {
    let place = Place::new();
    let device = place.laptop();
    let beside = |ending: &str| {
        let mut name = not_utf8().to_owned();
        name.push(ending);
        device.folder.join(name)
    };
    std::fs::rename(device.db(), beside("")).expect("renamed");
    // What SQLite has not moved into the file yet stands beside it.
    let log = device.folder.join("app.db-wal");
    if log.exists() {
        std::fs::rename(log, beside("-wal")).expect("renamed");
    }
    let run = |words: &[&str]| {
        let args = [std::ffi::OsStr::new("--db"), not_utf8()].into_iter();
        let gave = device.run(args.chain(words.iter().map(std::ffi::OsStr::new)));
        assert_eq!((gave.code, gave.err.as_str()), (0, ""), "{gave:?}");
        gave.out
    };
    assert!(run(&["status"]).contains("caf"));
    assert_eq!(run(&["exec", "UPDATE notes SET stars = 2"]), "2 rows changed\n");
    assert_eq!(run(&["query", "SELECT DISTINCT stars FROM notes", "--csv"]), "stars\n2\n");
    assert!(run(&["status", "--json"]).contains("\"file\""));
}
