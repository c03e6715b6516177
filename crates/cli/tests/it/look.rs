//! status, log, hash, devices, conflicts, doctor, and help.

use serde_json::json;

use crate::support::{Device, Place, sqlite3};

/// Both devices have changed the same cell, the phone later; both have synced.
fn contested(place: &Place) -> (Device, Device) {
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET title = 'Dune I' WHERE id = 1"]);
    phone.ok(["exec", "UPDATE notes SET title = 'Dune II' WHERE id = 1"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    laptop.ok(["sync"]);
    (laptop, phone)
}

#[test]
fn status_shows_file_device_tables_and_remotes() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let text = phone.ok(["status"]);
    for part in
        ["app.db", "device     phone, site ", "notes     2  travels", "conflicts  none", "remotes    hub ", "laptop"]
    {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    assert!(text.contains("phone (this one)"), "{text}");
    let json = laptop.json(["status"]);
    assert_eq!((&json["tables"], &json["queued"], &json["conflicts"]), (&json!(["notes"]), &json!(0), &json!(0)));
    assert_eq!(json["device"]["name"], json!("laptop"));
    assert_eq!(json["remotes"][0]["name"], json!("hub"));
    let synced = json["remotes"][0]["last_sync"].as_str().expect("a time");
    assert!(synced.ends_with("+01:00") || synced.ends_with("+02:00"), "local time with its offset: {synced}");
    assert_eq!(synced.len(), "2026-11-20T12:00:00+01:00".len());
}

#[test]
fn the_log_has_the_newest_first_with_names() {
    let place = Place::new();
    let (_, phone) = place.pair();
    phone.ok(["exec", "INSERT INTO notes VALUES(3, 'Ulysses', 1), (4, 'Ivanhoe', 2)"]);
    let log = phone.json(["log"]);
    assert_eq!((&log[0]["device"], &log[0]["rows"], &log[0]["applied"]), (&json!("phone"), &json!(2), &json!(true)));
    assert_eq!(log[1]["device"], json!("laptop"));
    assert_eq!(phone.json(["log", "-n", "1"]).as_array().expect("a list").len(), 1);
    let text = phone.ok(["log"]);
    assert!(text.lines().next().expect("a header").starts_with("TIME"), "{text}");
    assert!(text.lines().nth(1).expect("a line").contains("phone"), "{text}");
}

#[test]
fn devices_have_names_and_versions() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let devices = phone.json(["devices"]);
    let found = |name: &str| devices.as_array().expect("a list").iter().find(|d| d["name"] == json!(name)).cloned();
    let other = found("laptop").expect("the laptop is known by its name");
    assert_eq!((&other["this"], other["version"].as_u64().is_some_and(|v| v > 0)), (&json!(false), true));
    assert!(other["last_write"].is_string());
    assert_eq!(found("phone").expect("itself")["this"], json!(true));
    assert!(laptop.ok(["devices", "rename", "old laptop"]).contains("this device is old laptop"));
    assert_eq!(laptop.json(["status"])["device"]["name"], json!("old laptop"));
    laptop.fails(2, ["devices", "rename", " "]);
    laptop.ok(["exec", "UPDATE notes SET stars = 0"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    assert!(phone.ok(["devices"]).contains("old laptop"));
}

#[test]
fn conflicts_are_listed_shown_and_kept() {
    let place = Place::new();
    let (laptop, _) = contested(&place);
    let text = laptop.ok(["conflicts"]);
    assert!(text.contains("notes 1 · title") && text.contains("\"Dune I\"") && text.contains("\"Dune II\""), "{text}");
    assert!(laptop.ok(["status"]).contains("1 open value"));
    let list = laptop.json(["conflicts", "list"])["conflicts"].clone();
    let id = list[0]["id"].to_string();
    assert_eq!(
        (&list[0]["lost"], &list[0]["current"], &list[0]["lost_device"], &list[0]["won_device"]),
        (&json!("Dune I"), &json!("Dune II"), &json!("laptop"), &json!("phone"))
    );
    assert_eq!((&list[0]["key"], &list[0]["reason"]), (&json!({ "id": 1 }), &json!("older")));
    let shown = laptop.ok(["conflicts", "show", &id]);
    assert!(shown.contains("notes where id = 1") && shown.contains(&format!("resolve {id} --put-back")), "{shown}");
    laptop.ok(["conflicts", "resolve", &id, "--keep"]);
    assert_eq!(laptop.json(["conflicts"]), json!({ "conflicts": [], "more": 0 }));
    assert_eq!(laptop.json(["conflicts", "--all"])["conflicts"][0]["resolved"], json!(true));
    assert!(laptop.fails(2, ["conflicts", "resolve", &id, "--keep"]).contains("no open conflict"));
    assert!(laptop.fails(2, ["conflicts", "show", "999"]).contains("999"));
    laptop.fails(2, ["conflicts", "resolve", &id]);
}

#[test]
fn many_conflicts_are_counted_and_kept_at_once() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "CREATE TABLE tags(id INTEGER PRIMARY KEY, tag TEXT)"]);
    laptop.ok(["exec", "INSERT INTO tags VALUES(1, 'sand')"]);
    laptop.ok(["track", "tags"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    for (device, mark) in [(&laptop, "a"), (&phone, "b")] {
        let values = format!("UPDATE notes SET title = '{mark}', stars = '{mark}'; UPDATE tags SET tag = '{mark}'");
        device.ok(["exec", &values]);
    }
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    laptop.ok(["sync"]);
    // Two titles, two numbers of stars, one tag.
    assert_eq!(laptop.json(["status"])["conflicts"], json!(5));
    let text = laptop.ok(["conflicts", "list", "-n", "2"]);
    assert!(text.contains("and 3 more, older") && text.contains("resolve --all"), "{text}");
    let list = laptop.json(["conflicts", "-n", "2"]);
    assert_eq!((list["conflicts"].as_array().map(Vec::len), &list["more"]), (Some(2), &json!(3)));
    assert!(!laptop.ok(["conflicts"]).contains("more, older"));
    let before = laptop.ok(["hash"]);
    let text = laptop.ok(["conflicts", "resolve", "--all", "--table", "TAGS"]);
    assert!(text.contains("1 conflict of table TAGS dealt with"), "{text}");
    assert_eq!(laptop.json(["conflicts", "resolve", "--all"]), json!({ "resolved": 4, "table": null }));
    assert_eq!(laptop.ok(["conflicts", "resolve", "--all", "--keep"]), "no open conflict\n");
    assert_eq!(laptop.ok(["hash"]), before, "values stay as they stand");
    assert_eq!(laptop.json(["status"])["conflicts"], json!(0));
    assert_eq!(laptop.json(["conflicts", "--all"])["conflicts"].as_array().map(Vec::len), Some(5));
    assert!(laptop.fails(2, ["conflicts", "resolve", "--all", "--table", "nope"]).contains("\"nope\" is not tracked"));
    laptop.fails(2, ["conflicts", "resolve", "--all", "--put-back"]);
    laptop.fails(2, ["conflicts", "resolve", "1", "--all"]);
    laptop.fails(2, ["conflicts", "resolve", "1", "--keep", "--table", "notes"]);
    laptop.fails(2, ["conflicts", "resolve", "--table", "notes"]);
    laptop.fails(2, ["conflicts", "-n", "0"]);
}

#[test]
fn a_clock_far_ahead_is_pointed_out() {
    let place = Place::new();
    let device = place.laptop();
    assert_eq!(device.json(["status"])["clock_ahead_ms"], json!(0));
    assert!(!device.ok(["status"]).contains("clock"));
    // As if the clock had been three hours fast for a while.
    let ahead = "INSERT OR REPLACE INTO isle_meta(k, v) VALUES('hlc', (strftime('%s', 'now') * 1000 + 10800000) << 16)";
    sqlite3(&device.db(), ahead);
    let text = device.ok(["status"]);
    assert!(text.contains("ahead of this device's clock") && text.contains("other devices hold back"), "{text}");
    assert!(text.contains("set it right"), "{text}");
    let ms = device.json(["status"])["clock_ahead_ms"].as_u64().expect("a number");
    assert!((10_000_000..=10_800_000).contains(&ms), "{ms}");
    let gave = device.run(["doctor"]);
    assert!(gave.code == 1 && gave.out.contains("! clock: the newest change here is 2 hours ahead"), "{gave:?}");
    let gave = device.run(["doctor", "--json"]);
    let parsed: serde_json::Value = serde_json::from_str(&gave.out).expect("JSON");
    assert_eq!((gave.code, &parsed["findings"][0]["check"]), (1, &json!("clock")));
    // Nobody has those changes yet, so a sync puts it right.
    assert!(device.ok(["sync"]).contains("this device's clock had run ahead"));
    assert_eq!(device.json(["status"])["clock_ahead_ms"], json!(0));
    sqlite3(&device.db(), ahead);
    assert!(device.ok(["sync"]).contains("ahead of this device's clock"), "what is published has to be waited for");
}

#[test]
fn rows_that_a_constraint_hides_are_listed_and_come_back() {
    let place = Place::new();
    let (laptop, phone) = (place.device("laptop"), place.device("phone"));
    laptop.ok(["exec", "CREATE TABLE tags(id TEXT PRIMARY KEY, name TEXT UNIQUE)"]);
    laptop.ok(["track", "tags"]);
    for device in [&laptop, &phone] {
        device.ok(["remote", "add", "hub", &place.text("hub"), "--plain"]);
        device.ok(["sync"]);
    }
    assert!(laptop.ok(["conflicts", "hidden"]).contains("every row shows"));
    laptop.ok(["exec", "INSERT INTO tags VALUES('a', 'home')"]);
    phone.ok(["exec", "INSERT INTO tags VALUES('b', 'home')"]);
    laptop.ok(["sync"]);
    assert!(phone.ok(["sync"]).contains("1 row in all not shown as merged"), "a sync that hides says so");
    laptop.ok(["sync"]);
    assert_eq!(laptop.ok(["hash"]), phone.ok(["hash"]));
    let text = phone.ok(["conflicts", "hidden"]);
    assert!(text.contains("tags \"b\"  UNIQUE (name)  \"a\" has \"home\""), "{text}");
    let json = laptop.json(["conflicts", "hidden"]);
    assert_eq!((&json["rows"][0]["key"]["id"], &json["rows"][0]["instead"]), (&json!("b"), &json!(["a"])));
    assert!(laptop.ok(["status"]).contains("repaired   1 row not shown as merged"));
    assert_eq!(laptop.json(["status"])["hidden"], json!(1));
    laptop.ok(["doctor"]);
    assert!(laptop.fails(3, ["detach"]).contains("the rows stay but for 1 row that a constraint keeps"));
    laptop.ok(["exec", "DELETE FROM tags WHERE id = 'a'"]);
    assert_eq!(laptop.rows("SELECT id FROM tags"), ["b"]);
    assert_eq!(laptop.json(["status"])["hidden"], json!(0));
}

#[test]
fn names_are_one_short_line() {
    let place = Place::new();
    let device = place.device("laptop");
    let long = "x".repeat(65);
    for bad in ["", " ", "a\nb", "\u{1b}[31mred", long.as_str(), " a"] {
        for (args, what) in [
            (["devices", "rename", bad, "-q"], "a device's name"),
            (["init", "other.db", "--app", bad], "an app's name"),
            (["remote", "add", bad, "folder"], "a remote's name"),
        ] {
            let text = device.fails(2, args);
            assert!(text.starts_with(&format!("error: {what} ")), "{bad:?}: {text}");
        }
    }
    assert!(!device.folder.join("other.db").exists() && !device.folder.join("folder").exists());
    let fits = "é".repeat(64);
    device.ok(["devices", "rename", &fits]);
    assert_eq!(device.json(["status"])["device"]["name"], json!(fits));
}

#[test]
fn a_lost_value_can_be_put_back_or_replaced_everywhere() {
    for (how, stands) in [(&["--put-back"][..], "Dune I"), (&["--value", "Dune III"], "Dune III")] {
        let place = Place::new();
        let (laptop, phone) = contested(&place);
        let id = laptop.json(["conflicts"])["conflicts"][0]["id"].to_string();
        let args = ["conflicts", "resolve", &id].into_iter().chain(how.iter().copied());
        assert!(laptop.ok(args).contains(&format!("is \"{stands}\"; it travels")));
        laptop.ok(["sync"]);
        phone.ok(["sync"]);
        assert_eq!(phone.rows("SELECT title FROM notes WHERE id = 1"), [stands]);
        assert_eq!(laptop.ok(["hash"]), phone.ok(["hash"]));
    }
}

#[test]
fn a_value_whose_row_is_gone_needs_a_decision() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET title = 'Emma!' WHERE id = 2"]);
    phone.ok(["exec", "DELETE FROM notes WHERE id = 2"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    laptop.ok(["sync"]);
    let list = laptop.json(["conflicts"])["conflicts"].clone();
    let gone = list.as_array().expect("a list").iter().find(|entry| entry["row_exists"] == json!(false));
    let gone = gone.unwrap_or_else(|| panic!("the delete won: {list}"));
    assert_eq!((&gone["lost"], &gone["reason"]), (&json!("Emma!"), &json!("deleted")));
    let id = gone["id"].to_string();
    assert!(laptop.ok(["conflicts"]).contains("row gone"));
    assert!(laptop.fails(3, ["conflicts", "resolve", &id, "--put-back"]).contains("its row is gone"));
}

#[test]
fn hashes_are_equal_after_a_sync_and_differ_before() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    assert_eq!(laptop.json(["hash"]), phone.json(["hash"]));
    let hash = laptop.json(["hash"]);
    assert_eq!((hash["merged"].as_str().map(str::len), &hash["rows"]), (Some(64), &json!(2)));
    laptop.ok(["exec", "UPDATE notes SET stars = 4 WHERE id = 1"]);
    assert_ne!(laptop.json(["hash"]), phone.json(["hash"]));
}

#[test]
fn doctor_finds_what_is_broken() {
    let place = Place::new();
    let device = place.laptop();
    let text = device.ok(["doctor"]);
    assert!(text.contains("✓ no damage; 2 rows") && text.contains("SQLite 3."), "{text}");
    assert!(text.contains(device.home.to_str().expect("UTF-8")), "{text}");
    let trigger =
        "SELECT 'DROP TRIGGER ' || name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'notes' LIMIT 1";
    let drop = sqlite3(&device.db(), trigger);
    sqlite3(&device.db(), drop.trim());
    let gave = device.run(["doctor"]);
    assert!(gave.code == 1 && gave.out.contains("! triggers: table notes has lost"), "{gave:?}");
    let json = device.run(["doctor", "--json"]);
    let parsed: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((json.code, &parsed["findings"][0]["check"]), (1, &json!("triggers")));
}

#[test]
fn help_shows_an_example_for_every_command() {
    let place = Place::new();
    let device = place.bare("laptop");
    let help = device.ok(["--help"]);
    for command in [
        "init",
        "track",
        "untrack",
        "detach",
        "exec",
        "query",
        "remote",
        "sync",
        "status",
        "log",
        "conflicts",
        "devices",
        "hash",
        "doctor",
        "demo",
    ] {
        assert!(help.contains(&format!("\n  {command}")), "{command} is not in {help}");
        let own = device.ok([command, "--help"]);
        assert!(own.contains("Example") && own.contains("isle "), "{own}");
    }
    let wrong: serde_json::Value = serde_json::from_str(&device.fails(2, ["frob", "--json"])).expect("JSON");
    assert_eq!(wrong["error"], json!({ "kind": "invalid", "code": 2, "message": "unrecognized subcommand 'frob'" }));
    device.fails(2, ["sync", "--frob"]);
    assert!(device.ok(["--version"]).starts_with("isle 0."));
}

#[test]
fn what_was_done_is_kept_and_what_did_nothing_is_not() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    phone.ok(["exec", "INSERT INTO notes VALUES(3, 'Ulysses', 1)"]);
    phone.ok(["sync"]);
    phone.ok(["sync"]);
    let ops = phone.json(["ops", "list", "--kind", "sync"]);
    let ops = ops.as_array().expect("a list");
    assert_eq!(ops.len(), 2, "the last sync found nothing to do: {ops:?}");
    assert_eq!(
        (&ops[0]["target"], &ops[0]["state"], &ops[0]["facts"]["pushed_versions"]),
        (&json!("hub"), &json!("completed"), &json!(1))
    );
    assert_eq!((&ops[0]["facts"]["conflict_detected"], &ops[0]["facts"]["prefer"]), (&json!(false), &json!("merge")));
    assert_eq!(phone.json(["ops", "list", "--kind", "backup"]), json!([]));
    let shown = phone.ok(["ops", "show", &ops[0]["id"].to_string()]);
    assert!(shown.contains("pushed_versions") && !shown.contains("pulled_rows"), "{shown}");
    assert!(phone.fails(2, ["ops", "show", "999"]).contains("999"));
    // A remote that is away is one entry, however often it is tried.
    std::fs::rename(place.text("hub"), place.text("away")).expect("it is unplugged");
    laptop.ok(["exec", "UPDATE notes SET stars = 2"]);
    for _ in 0..3 {
        laptop.fails(1, ["sync"]);
    }
    let failed = laptop.json(["ops", "list"])[0].clone();
    assert_eq!((&failed["state"], &failed["times"]), (&json!("failed"), &json!(3)), "{failed}");
    assert!(failed["error"].as_str().expect("a reason").contains("hub"), "{failed}");
    let status = laptop.json(["status"]);
    assert_eq!(status["state"], json!("the last sync failed, 1 change to send"));
    assert!(status["remotes"][0]["last_error"]["reason"].is_string(), "{status}");
    assert!(laptop.ok(["status"]).contains("failed "));
    std::fs::rename(place.text("away"), place.text("hub")).expect("it is back");
    laptop.ok(["sync"]);
    let status = laptop.json(["status"]);
    assert!(status["state"].as_str().expect("words").starts_with("up to date as of "), "{status}");
    assert_eq!(status["remotes"][0]["last_error"], json!(null));
    assert_eq!(place.device("alone").json(["status"])["state"], json!("on its own: nothing to sync with"));
}

#[test]
fn the_id_of_a_device_stays_and_cannot_be_set() {
    let place = Place::new();
    let laptop = place.laptop();
    let device = laptop.json(["status"])["device"].clone();
    assert!(device["created"].is_string(), "{device}");
    laptop.fails(2, ["devices", "set-id", "0b9e6a52-0000-4000-8000-000000000000"]);
    laptop.ok(["devices", "rename", "desk"]);
    let renamed = laptop.json(["status"])["device"].clone();
    assert_eq!((&renamed["id"], &renamed["created"]), (&device["id"], &device["created"]));
    assert_eq!(renamed["name"], json!("desk"));
}
