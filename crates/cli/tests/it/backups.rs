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
