//! The group's key, as a user has to do with it.

use serde_json::json;

use crate::support::Place;

#[test]
fn a_key_is_made_exported_and_imported() {
    let place = Place::new();
    let laptop = place.device("laptop");
    assert!(laptop.ok(["key"]).contains("no key"), "it says how to get one");
    assert!(laptop.fails(2, ["key", "export"]).contains("isle key import"));
    assert!(laptop.ok(["key", "create"]).contains("made key"));
    assert!(laptop.fails(2, ["key", "create"]).contains("isle key rotate"));
    let said = laptop.ok(["key", "export", "notes.key"]);
    assert!(said.contains("keep it from everybody else"), "{said}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode =
            |path: &str| std::fs::metadata(laptop.folder.join(path)).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode("notes.key"), 0o600);
    }
    assert!(laptop.fails(2, ["key", "export", "notes.key"]).contains("is there already"), "it would overwrite a key");
    let phone = place.device("phone");
    let file = laptop.folder.join("notes.key").to_string_lossy().into_owned();
    assert!(phone.ok(["key", "import", &file]).contains("took over 1 new key"));
    assert!(phone.ok(["key", "import", &file]).contains("took over 0 new keys"));
    for (input, why) in [("", "no key file"), ("islekey1abc", "damaged")] {
        let gave = phone.feed(["key", "import", "-"], input);
        assert!(gave.code == 2 && gave.err.contains(why), "{gave:?}");
    }
    assert!(phone.fails(2, ["key", "import", "nowhere"]).contains("cannot read"));
    laptop.ok(["key", "rotate"]);
    let keys = laptop.json(["key"]);
    assert_eq!((&keys[0]["epoch"], &keys[0]["current"]), (&json!(0), &json!(false)));
    assert_eq!((&keys[1]["epoch"], &keys[1]["current"]), (&json!(1), &json!(true)));
    assert!(!keys.to_string().contains("secret"), "{keys}");
}

#[test]
fn a_remote_is_encrypted_unless_asked_otherwise_and_status_tells() {
    let place = Place::new();
    let (laptop, phone) = (place.laptop(), place.device("phone"));
    assert!(laptop.ok(["remote", "add", "open", &place.text("open"), "--plain"]).contains("not encrypted"));
    laptop.ok(["sync"]);
    let status = laptop.ok(["status"]);
    let line = |name: &str| status.lines().find(|line| line.contains(&format!("/{name}"))).expect("a line").to_owned();
    assert!(line("open").contains("not encrypted") && !line("hub").contains("not encrypted"), "{status}");
    let remotes = laptop.json(["remote", "list"]);
    assert_eq!((&remotes[0]["encrypted"], &remotes[1]["encrypted"]), (&json!(true), &json!(false)));
    let files = |name: &str| {
        let head = std::fs::read_dir(place.path(name).join("head")).expect("heads").next().expect("one").expect("one");
        std::fs::read(head.path()).expect("readable")
    };
    let shows = |bytes: &[u8]| bytes.windows(4).any(|window| window == b"Dune");
    assert!(shows(&files("open")) && !shows(&files("hub")));
    // What is encrypted needs the key, and what is not needs the word.
    phone.ok(["remote", "add", "hub", &place.text("hub")]);
    assert!(phone.fails(4, ["sync"]).contains("isle key import"));
    phone.ok(["remote", "remove", "hub"]);
    phone.ok(["remote", "add", "open", &place.text("open")]);
    assert!(phone.fails(4, ["sync"]).contains("--plain"));
    phone.ok(["remote", "remove", "open"]);
    phone.ok(["remote", "add", "hub", &place.text("hub"), "--plain"]);
    assert!(phone.fails(4, ["sync"]).contains("without `--plain`"));
}
