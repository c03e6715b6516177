//! Backups, as commands.

use serde_json::json;

use crate::support::Place;

#[test]
fn a_backup_is_made_listed_verified_taken_back_and_removed() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let made = laptop.json(["backup", "create", "--comment", "before the move"]);
    assert_eq!(made["result"], json!("done"));
    let id = made["backup"]["id"].as_str().expect("an id").to_owned();
    let name = made["backup"]["path"].as_str().expect("a path");
    assert!(name.contains("/backups/database-app-"), "{name}");
    assert!(laptop.ok(["backup", "list"]).contains("before the move"));
    assert!(laptop.ok(["backup", "verify"]).contains("1 backup, 0 damaged"));
    laptop.ok(["exec", "DELETE FROM notes"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);

    let asked = laptop.fails(3, ["backup", "restore", &id[..8]]);
    assert!(asked.contains("becomes what it was at"), "{asked}");
    let restored = laptop.ok(["backup", "restore", &id[..8], "--yes"]);
    assert!(restored.contains("as it was before, it is backup"), "{restored}");
    assert_eq!(laptop.rows("SELECT title FROM notes ORDER BY id"), ["Dune", "Emma"]);
    assert!(laptop.ok(["backup", "list"]).contains("before: restore"));
    assert!(laptop.ok(["ops", "list", "--kind", "restore"]).contains("completed"));
    // What the group did meanwhile is not undone: it comes again.
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    assert!(laptop.rows("SELECT title FROM notes").is_empty());
    assert_eq!(phone.json(["hash"])["merged"], laptop.json(["hash"])["merged"]);

    let path = std::path::Path::new(name);
    let mut bytes = std::fs::read(path).expect("readable");
    bytes[5_000] ^= 1;
    std::fs::write(path, bytes).expect("written");
    let verified = laptop.run(["backup", "verify"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.out.contains("1 damaged"), "{verified:?}");
    assert!(laptop.fails(1, ["backup", "restore", &id, "--yes"]).contains("nothing was changed"));
    assert!(laptop.fails(2, ["backup", "restore", "nope", "--yes"]).contains("isle backup list"));
    assert!(laptop.ok(["backup", "prune", "--keep", "0", "--dry-run"]).contains("would go"));
    assert!(laptop.fails(3, ["backup", "prune", "--keep", "0"]).contains("none would be left"));
    // The older one is damaged, and does not count.
    laptop.ok(["backup", "prune", "--keep", "1"]);
    assert_eq!(laptop.json(["backup", "list"]).as_array().expect("a list").len(), 1);
}

#[test]
fn a_database_that_is_gone_comes_back_from_its_backup_alone() {
    let place = Place::new();
    let laptop = place.laptop();
    let id = laptop.json(["backup", "create"])["backup"]["id"].as_str().expect("an id").to_owned();
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{suffix}", laptop.db().display())));
    }
    assert!(laptop.fails(2, ["status"]).contains("isle backup list"));
    assert_eq!(laptop.json(["backup", "list"])[0]["id"], json!(id));
    laptop.ok(["backup", "restore", &id, "--yes"]);
    assert_eq!(laptop.rows("SELECT title FROM notes ORDER BY id"), ["Dune", "Emma"]);
    assert!(laptop.ok(["doctor"]).contains("✓"));
}

#[test]
fn what_cannot_be_undone_is_backed_up_first() {
    let place = Place::new();
    let laptop = place.laptop();
    let device = place.device("empty");
    assert_eq!(device.json(["backup", "create"])["result"], json!("skipped"));
    laptop.ok(["sync", "--prefer", "remote", "--yes"]);
    laptop.ok(["detach", "--yes"]);
    let reasons: Vec<String> = laptop
        .json(["backup", "list", "--db", "app.db"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|backup| backup["reason"].as_str().expect("a reason").to_owned())
        .collect();
    assert_eq!(reasons, ["detach", "sync"]);
}

#[test]
fn a_backup_goes_to_a_remote_and_comes_back_on_another_device() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    assert!(laptop.ok(["backup", "list", "--remote", "hub"]).contains("no backup in hub"));
    assert!(laptop.fails(2, ["backup", "list", "--remote", "nowhere"]).contains("nowhere"));
    let made = laptop.json(["backup", "create", "--comment", "for the safe", "--remote", "hub"]);
    let id = made["backup"]["id"].as_str().expect("an id").to_owned();
    assert!(made["stored_bytes"].as_u64().expect("a size") > 1_000);
    laptop.ok(["exec", "DELETE FROM notes"]);
    let kept = laptop.json(["backup", "create"])["backup"]["id"].as_str().expect("an id").to_owned();
    laptop.ok(["backup", "push", &kept[..8], "--remote", "hub"]);

    let shown = phone.ok(["backup", "list", "--remote", "hub"]);
    assert!(shown.contains("for the safe") && shown.contains("laptop") && shown.contains(&id[..8]), "{shown}");
    assert!(!shown.contains("this device") && laptop.ok(["backup", "list", "--remote", "hub"]).contains("this device"));
    assert!(phone.fails(2, ["backup", "fetch", "nope", "--remote", "hub"]).contains("isle backup list --remote hub"));
    let fetched = phone.json(["backup", "fetch", &id[..8], "--remote", "hub"]);
    let path = std::path::PathBuf::from(fetched["backup"]["path"].as_str().expect("a path"));
    assert!(path.starts_with(phone.folder.canonicalize().expect("there")), "{path:?}");
    let original = std::fs::read(made["backup"]["path"].as_str().expect("a path")).expect("readable");
    assert!(std::fs::read(&path).expect("readable") == original, "it is what was put, to the byte");
    phone.ok(["exec", "DELETE FROM notes"]);
    phone.ok(["backup", "restore", &id[..8], "--yes"]);
    assert_eq!(phone.rows("SELECT title FROM notes ORDER BY id"), ["Dune", "Emma"]);

    // Each device removes its own.
    assert!(phone.ok(["backup", "prune", "--remote", "hub", "--keep", "0"]).contains("0 backups removed"));
    assert!(
        laptop.ok(["backup", "prune", "--remote", "hub", "--keep", "1", "--dry-run"]).contains("1 backup would go")
    );
    laptop.ok(["backup", "prune", "--remote", "hub", "--keep", "1"]);
    // A restored file has to hear of the others again.
    phone.ok(["sync"]);
    let left = phone.json(["backup", "list", "--remote", "hub"]);
    assert_eq!(left["backups"].as_array().expect("a list").len(), 1);
    assert_eq!(left["backups"][0]["id"], json!(kept));
    assert!(laptop.fails(3, ["backup", "prune", "--remote", "hub", "--keep", "0"]).contains("none would be left"));
}
