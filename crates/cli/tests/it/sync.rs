//! Remotes and syncing, through folders and an S3 server.

use isle_test_s3::{Behaviour, S3Server};
use serde_json::json;

use crate::support::{Device, Gave, Place};

#[test]
fn remotes_are_added_listed_and_removed() {
    let place = Place::new();
    let device = place.device("laptop");
    assert!(device.fails(2, ["sync"]).contains("has no remote"));
    assert!(device.ok(["remote", "list"]).contains("no remote yet"));
    // A relative folder stays the same folder wherever later commands run.
    assert!(device.ok(["remote", "add", "hub", "hub"]).contains("✓ remote hub is /"));
    assert_eq!(device.json(["remote", "list"])[0]["url"], json!(device.folder.join("hub")));
    assert!(device.ok(["remote", "list"]).contains("never"));
    assert!(device.fails(2, ["remote", "add", "hub", "other"]).contains("already"));
    assert!(device.fails(2, ["sync", "--remote", "nope"]).contains("\"nope\""));
    assert!(device.ok(["remote", "remove", "hub"]).contains("is forgotten"));
    assert!(device.fails(2, ["remote", "remove", "hub"]).contains("there is no remote \"hub\""));
    device.fails(2, ["remote", "add", "hub", "folder", "--region", "x"]);
    assert!(device.fails(2, ["remote", "add", "hub", "ftp://host/x"]).contains("s3://"));
}

#[test]
fn a_sync_says_what_it_did() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET stars = 1"]);
    let pushed = laptop.ok(["sync"]);
    assert!(
        pushed.starts_with("pushed 1 change · ") && pushed.contains(" up, ") && pushed.ends_with("s\n"),
        "{pushed}"
    );
    let pulled = phone.ok(["sync"]);
    assert!(pulled.starts_with("pulled 1 change (2 rows), pushed "), "{pulled}");
    assert!(phone.ok(["sync"]).starts_with("nothing new · "));
    assert_eq!(phone.ok(["sync", "--quiet"]), "");
    let json = phone.json(["sync"]);
    assert_eq!((&json["remotes"][0]["remote"], &json["failed"]), (&json!("hub"), &json!([])));
    assert_eq!(json["remotes"][0]["pulled_versions"], json!(0));
}

#[test]
fn a_check_changes_nothing() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    assert!(laptop.ok(["sync", "--check"]).contains("nothing to do"));
    laptop.ok(["exec", "UPDATE notes SET stars = 1"]);
    phone.ok(["exec", "UPDATE notes SET stars = 2"]);
    phone.ok(["sync"]);
    let before = (laptop.json(["status"]), laptop.json(["hash"]));
    let text = laptop.ok(["sync", "--check"]);
    assert!(text.contains("differ; a sync would pull 1 change and push 1 change"), "{text}");
    let json = laptop.json(["sync", "--check"]);
    assert_eq!((&json["remotes"][0]["ahead"], &json["remotes"][0]["behind"]), (&json!(1), &json!(1)));
    assert_eq!(json["remotes"][0]["diverged"], json!(true));
    assert_eq!((laptop.json(["status"]), laptop.json(["hash"])), before);
}

#[test]
fn conflicts_are_pointed_out() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET title = 'a' WHERE id = 1"]);
    phone.ok(["exec", "UPDATE notes SET title = 'b' WHERE id = 1"]);
    laptop.ok(["sync"]);
    let text = phone.ok(["sync"]);
    assert!(text.contains("1 value lost against concurrent writes") && text.contains("`isle conflicts`"), "{text}");
}

#[test]
fn refused_data_is_named_and_makes_the_exit_code_1() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET stars = 1"]);
    laptop.ok(["sync"]);
    // Somebody damages the laptop's head in the folder.
    let site = laptop.json(["status"])["site"].as_str().expect("an id").to_owned();
    let mut damaged = 0;
    let mut folders = vec![place.path("hub")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains(&site) && path.to_string_lossy().contains("head") {
                std::fs::write(&path, b"not a head at all").expect("written");
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    let gave = phone.run(["sync"]);
    assert_eq!(gave.code, 1, "{gave:?}");
    assert!(gave.out.contains("refused: ") && gave.out.contains("hub"), "{gave:?}");
}

#[test]
fn one_remote_that_fails_does_not_keep_the_others() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["remote", "add", "a-usb", &place.text("usb")]);
    laptop.ok(["exec", "UPDATE notes SET stars = 7"]);
    std::fs::remove_dir_all(place.path("usb")).expect("removed");
    std::fs::write(place.path("usb"), "a file where a folder was").expect("written");
    let gave = laptop.run(["sync"]);
    assert_eq!(gave.code, 1, "{gave:?}");
    assert!(gave.out.contains("hub: pushed 1 change"), "{gave:?}");
    assert!(
        gave.err.starts_with("error: remote \"a-usb\"") && gave.err.contains("is a file, not a folder"),
        "{gave:?}"
    );
    laptop.ok(["remote", "add", "z-usb", &place.text("z")]);
    std::fs::remove_dir_all(place.path("z")).expect("removed");
    let gave = laptop.run(["sync"]);
    assert_eq!((gave.code, gave.err.lines().filter(|line| line.starts_with("error: remote")).count()), (1, 2));
    for args in [&["sync", "--json"][..], &["sync", "--check", "--json"]] {
        let gave = laptop.run(args);
        let json: serde_json::Value = serde_json::from_str(&gave.out).expect("JSON");
        assert_eq!((gave.code, &json["remotes"][0]["remote"]), (1, &json!("hub")), "{gave:?}");
        let failed: Vec<_> =
            json["failed"].as_array().expect("a list").iter().map(|one| one["remote"].clone()).collect();
        assert_eq!(failed, [json!("a-usb"), json!("z-usb")]);
        assert!(
            json["failed"][1]["message"].as_str().is_some_and(|text| text.contains("is not there: mount")),
            "{json}"
        );
    }
    phone.ok(["sync"]);
    assert_eq!(phone.rows("SELECT DISTINCT stars FROM notes"), ["7"]);
}

#[test]
fn a_folder_that_is_gone_is_never_made_again() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET stars = 7"]);
    std::fs::rename(place.path("hub"), place.path("unmounted")).expect("moved");
    laptop.ok(["status"]);
    laptop.ok(["doctor"]);
    laptop.ok(["remote", "list"]);
    for args in [&["sync", "--check"][..], &["sync"]] {
        let text = laptop.fails(1, args);
        assert!(text.contains("is not there: mount the disk") && text.contains("`isle remote remove`"), "{text}");
    }
    assert!(!place.path("hub").exists(), "what goes into an empty mount point is lost");
    std::fs::rename(place.path("unmounted"), place.path("hub")).expect("moved back");
    assert!(laptop.ok(["sync"]).starts_with("pushed 1 change"));
    phone.ok(["sync"]);
    assert_eq!(laptop.ok(["hash"]), phone.ok(["hash"]));
    // The mount point is there, the disk is not.
    for entry in std::fs::read_dir(place.path("hub")).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("removed");
    }
    assert!(laptop.ok(["sync", "--check"]).contains("holds nothing any more"));
    laptop.fails(3, ["sync"]);
}

#[test]
fn a_copied_file_takes_a_new_id_and_says_so() {
    let place = Place::new();
    let laptop = place.laptop();
    laptop.ok(["sync"]);
    for ending in ["", "-wal"] {
        // What SQLite has not moved into the file yet stands beside it.
        let from = laptop.folder.join(format!("app.db{ending}"));
        if from.exists() {
            std::fs::copy(from, laptop.folder.join(format!("copy.db{ending}"))).expect("copied");
        }
    }
    laptop.ok(["exec", "--db", "copy.db", "UPDATE notes SET stars = 6"]);
    let text = laptop.ok(["sync", "--db", "copy.db"]);
    assert!(text.contains("this file is a copy or an older state: it goes on as site "), "{text}");
}

fn with_keys(device: &Device, args: &[&str]) -> Gave {
    let mut command = device.command(args);
    command.env("AWS_ACCESS_KEY_ID", S3Server::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", S3Server::SECRET_KEY);
    Gave::of(command.output().expect("the binary runs"))
}

#[test]
fn an_endpoint_without_tls_needs_permission_once() {
    let place = Place::new();
    let server = S3Server::start(Behaviour::default()).expect("a server");
    let (laptop, phone) = (place.laptop(), place.device("phone"));
    laptop.ok(["remote", "remove", "hub"]);
    phone.takes_key_of(&laptop);
    let (url, endpoint) = (server.url("notes"), server.endpoint());
    let url = url.split('?').next().expect("an address");
    let add = ["remote", "add", "cloud", url, "--endpoint", &endpoint];
    let blocked = with_keys(&laptop, &add);
    assert_eq!(blocked.code, 4, "{blocked:?}");
    assert!(blocked.err.contains("plain http") && blocked.err.contains("hint: "), "{blocked:?}");
    let add: Vec<&str> = add.into_iter().chain(["--insecure-http", "--region", "us-east-1"]).collect();
    for device in [&laptop, &phone] {
        let added = with_keys(device, &add);
        assert_eq!(added.code, 0, "{added:?}");
        let synced = with_keys(device, &["sync"]);
        assert_eq!(synced.code, 0, "{synced:?}");
    }
    assert_eq!(phone.rows("SELECT title FROM notes ORDER BY id"), ["Dune", "Emma"]);
    assert!(server.seen().puts > 0);
    let file = std::fs::read(laptop.db()).expect("readable");
    let secret = S3Server::SECRET_KEY.as_bytes();
    assert!(!file.windows(secret.len()).any(|bytes| bytes == secret), "nothing secret is stored");
    let none = laptop.fails(1, ["sync"]);
    assert!(none.contains("no credentials"), "{none}");
}

#[test]
fn how_long_a_remote_may_be_silent_is_the_users_choice() {
    let place = Place::new();
    let server = S3Server::start(Behaviour { hang_every: Some(1), ..Behaviour::default() }).expect("a server");
    let laptop = place.laptop();
    laptop.ok(["remote", "remove", "hub"]);
    let (url, endpoint) = (server.url("notes"), server.endpoint());
    let url = url.split('?').next().expect("an address");
    let add = ["remote", "add", "cloud", url, "--endpoint", &endpoint, "--insecure-http", "--region", "us-east-1"];
    assert_eq!(with_keys(&laptop, &add).code, 0);
    for (retries, attempts) in [("0", 1), ("2", 3)] {
        let before = server.seen().requests;
        let synced = with_keys(&laptop, &["sync", "--timeout", "200ms", "--retries", retries]);
        assert_eq!((synced.code, server.seen().requests - before), (1, attempts), "{synced:?}");
        assert!(synced.err.contains("timeout") || synced.err.contains("timed out"), "{synced:?}");
    }
}

/// All files below a folder, as one heap of bytes.
fn content(folder: &std::path::Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        all.extend(if path.is_dir() { content(&path) } else { std::fs::read(&path).expect("readable") });
        all.push(b'\n');
    }
    all
}

#[test]
fn what_opens_a_bucket_or_the_group_is_in_no_database_no_bucket_and_no_log() {
    const TOKEN: &str = "session-token-0123456789";
    let place = Place::new();
    let server = S3Server::start(Behaviour::default()).expect("a server");
    let laptop = place.laptop();
    laptop.ok(["remote", "remove", "hub"]);
    let (url, endpoint) = (server.url("notes"), server.endpoint());
    let url = url.split('?').next().expect("an address");
    let mut log = String::new();
    let mut run = |secret: &str, args: &[&str]| {
        let mut command = laptop.command(args);
        command.env("AWS_ACCESS_KEY_ID", S3Server::ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", secret);
        command.env("AWS_SESSION_TOKEN", TOKEN).env("ISLE_LOG", "trace");
        let gave = Gave::of(command.output().expect("the binary runs"));
        log += &format!("{}\n{}\n", gave.out, gave.err);
        gave.code
    };
    let add = ["remote", "add", "cloud", url, "--endpoint", &endpoint, "--insecure-http", "--region", "us-east-1"];
    assert_eq!(run(S3Server::SECRET_KEY, &add), 0);
    let fill = "WITH RECURSIVE n(i) AS (VALUES(10) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO notes SELECT i, hex(randomblob(20)), i FROM n";
    assert_eq!(run(S3Server::SECRET_KEY, &["exec", fill]), 0);
    for args in [
        &["sync"][..],
        &["sync", "--json"],
        &["key", "rotate"],
        &["sync"],
        &["compact", "--keep", "0s", "--grace", "0s"],
        &["remote", "list", "--json"],
        &["status", "--json"],
        &["key", "--json"],
        &["devices", "--json"],
    ] {
        assert_eq!(run(S3Server::SECRET_KEY, args), 0, "{args:?}");
    }
    assert_eq!(run("a-secret-that-is-none", &["sync"]), 1);
    assert_eq!(run("a-secret-that-is-none", &["sync", "--json"]), 1);
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "it logs: {log}");

    let shows = |heap: &[u8], word: &[u8]| heap.windows(word.len()).any(|bytes| bytes == word);
    let home = content(&laptop.home);
    let database = ["", "-wal", "-shm"].map(|end| std::fs::read(laptop.folder.join(format!("app.db{end}"))));
    let database: Vec<u8> = database.into_iter().flat_map(Result::unwrap_or_default).collect();
    let mut bucket = Vec::new();
    for key in server.keys() {
        bucket.extend_from_slice(key.as_bytes());
        bucket.extend(server.object(&key).expect("an object"));
    }
    assert!(shows(&database, b"Dune") && bucket.len() > 50_000);
    for word in [S3Server::SECRET_KEY, S3Server::ACCESS_KEY, TOKEN, "a-secret-that-is-none"] {
        for (place, heap) in
            [("database", &database[..]), ("home", &home), ("bucket", &bucket), ("log", log.as_bytes())]
        {
            assert!(!shows(heap, word.as_bytes()), "{word} is in the {place}");
        }
    }
    // The device's own key and the group's are in the home folder, and nowhere else.
    let mut own = vec![std::fs::read_to_string(laptop.home.join("device.key")).expect("readable").trim().to_owned()];
    for file in std::fs::read_dir(laptop.home.join("keys")).expect("a folder") {
        let path = file.expect("readable").path();
        if path.extension() != Some("json".as_ref()) {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("readable");
        let keys: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let secret = |key: &serde_json::Value| key["secret"].as_str().expect("a secret").to_owned();
        own.extend(keys["keys"].as_array().expect("keys").iter().map(secret));
    }
    assert_eq!(own.len(), 3, "{} secrets", own.len());
    for secret in own {
        assert!(shows(&home, secret.as_bytes()));
        let hex = secret.as_bytes().chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        let raw: Vec<u8> = hex.collect::<Option<_>>().expect("hexadecimal digits");
        for (place, heap) in [("database", &database[..]), ("bucket", &bucket), ("log", log.as_bytes())] {
            assert!(!shows(heap, secret.as_bytes()) && !shows(heap, &raw), "a key of ours is in the {place}");
        }
    }
}

#[test]
fn a_sync_goes_one_way_where_that_is_asked() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET stars = 1 WHERE id = 1"]);
    phone.ok(["exec", "UPDATE notes SET stars = 2 WHERE id = 2"]);
    let pushed = laptop.json(["sync", "push"]);
    let report = &pushed["remotes"][0];
    assert_eq!((&report["pushed_versions"], &report["direction"]), (&json!(1), &json!("push")));
    assert_eq!(report["local_version"].as_u64(), report["remote_version"].as_u64().map(|version| version + 1));
    phone.ok(["sync", "push"]);
    assert_eq!(phone.rows("SELECT stars FROM notes ORDER BY id"), ["5", "2"], "nothing came in");
    laptop.ok(["exec", "UPDATE notes SET title = 'kept here' WHERE id = 2"]);
    let pulled = laptop.json(["sync", "pull"]);
    assert_eq!(pulled["remotes"][0]["pulled_versions"], json!(1));
    assert_eq!(laptop.rows("SELECT stars FROM notes ORDER BY id"), ["1", "2"]);
    phone.ok(["sync"]);
    assert_eq!(phone.rows("SELECT title FROM notes WHERE id = 2"), ["Emma"], "nothing went out");
    for device in [&laptop, &phone] {
        device.ok(["sync"]);
    }
    assert_eq!(laptop.json(["hash"]), phone.json(["hash"]));
    // A newcomer cannot speak before it has listened.
    let tablet = place.laptop_named("tablet");
    tablet.takes_key_of(&laptop);
    assert!(tablet.ok(["sync", "push"]).contains("has to catch up"), "it pushed");
    tablet.fails(2, ["sync", "push", "--check"]);
}

#[test]
fn a_device_that_is_set_to_syncs_when_it_opens_the_file() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    assert_eq!(laptop.json(["remote", "sync-at-open"])["sync_at_open"], json!(false));
    phone.ok(["exec", "INSERT INTO notes VALUES(3, 'Walden', 4)"]);
    phone.ok(["sync"]);
    assert_eq!(laptop.rows("SELECT count(*) FROM notes"), ["2"], "off: no sync");
    assert!(laptop.ok(["remote", "sync-at-open", "on"]).contains("on"));
    assert_eq!(laptop.rows("SELECT count(*) FROM notes"), ["3"], "on: one sync");
    // Not a setting of the group, and no reason to fail.
    assert_eq!(phone.json(["remote", "sync-at-open"])["sync_at_open"], json!(false));
    std::fs::rename(place.path("hub"), place.path("away")).expect("moved");
    let gave = laptop.run(["query", "--csv", "SELECT count(*) FROM notes"]);
    assert_eq!((gave.code, gave.out.lines().last()), (0, Some("3")));
    assert!(gave.err.starts_with("warning: "), "{gave:?}");
    laptop.ok(["remote", "sync-at-open", "off"]);
    assert_eq!(laptop.rows("SELECT count(*) FROM notes"), ["3"]);
}

#[test]
fn after_a_conflict_the_preferred_side_stands_everywhere() {
    for (prefer, stands, open) in [("merge", "2", 1), ("local", "1", 0), ("remote", "2", 1)] {
        let place = Place::new();
        let (laptop, phone) = place.pair();
        laptop.ok(["exec", "UPDATE notes SET stars = 1 WHERE id = 1"]);
        phone.ok(["exec", "UPDATE notes SET stars = 2 WHERE id = 1"]);
        phone.ok(["sync"]);
        let report = laptop.json(["sync", "--prefer", prefer, "--yes"]);
        assert_eq!(report["remotes"][0]["conflicts"], json!(1), "{prefer}");
        phone.ok(["sync"]);
        laptop.ok(["sync"]);
        for device in [&laptop, &phone] {
            assert_eq!(device.rows("SELECT stars FROM notes WHERE id = 1"), [stands], "{prefer}");
        }
        assert_eq!(laptop.json(["conflicts"])["conflicts"].as_array().map(Vec::len), Some(open), "{prefer}");
        assert_eq!(laptop.json(["hash"]), phone.json(["hash"]));
    }
    // The other way round: the laptop's later value loses to the phone's where that is preferred.
    let place = Place::new();
    let (laptop, phone) = place.pair();
    phone.ok(["exec", "UPDATE notes SET stars = 2 WHERE id = 1"]);
    laptop.ok(["exec", "UPDATE notes SET stars = 1 WHERE id = 1"]);
    phone.ok(["sync"]);
    let before = laptop.ok(["hash"]);
    assert!(
        laptop
            .fails(3, ["sync", "--prefer", "remote"])
            .contains("1 change of this replica, not sent yet, may give way")
    );
    assert_eq!(laptop.ok(["hash"]), before, "nothing was done");
    assert_eq!(laptop.json(["sync", "--prefer", "remote", "--yes"])["remotes"][0]["put_back"], json!(1));
    assert_eq!(laptop.json(["sync", "--prefer", "remote"])["remotes"][0]["put_back"], json!(0), "nothing is at stake");
    phone.ok(["sync"]);
    for device in [&laptop, &phone] {
        assert_eq!(device.rows("SELECT stars FROM notes WHERE id = 1"), ["2"]);
    }
}
