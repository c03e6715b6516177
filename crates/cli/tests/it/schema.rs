//! Declared schemas, as commands.

use serde_json::json;

use crate::support::Place;

const FIRST: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT);\n";

#[test]
fn a_definition_is_planned_applied_and_followed_elsewhere() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let file = |sql: &str| std::fs::write(laptop.folder.join("schema.sql"), sql).expect("written");
    file(FIRST);
    assert!(laptop.ok(["schema", "plan", "schema.sql"]).contains("the tables are what the file says"));
    file(&FIRST.replace("stars INT", "stars INT, colour TEXT DEFAULT 'red'"));
    let plan = laptop.run(["schema", "plan", "schema.sql"]);
    assert_eq!(plan.code, 3, "{plan:?}");
    assert!(plan.out.contains("add column") && plan.out.contains("DEFAULT 'red'"), "{plan:?}");
    phone.ok(["exec", "UPDATE notes SET stars = 1 WHERE id = 1"]);
    assert!(laptop.ok(["schema", "apply", "schema.sql"]).contains("other replicas follow"));
    laptop.ok(["exec", "UPDATE notes SET colour = 'blue' WHERE id = 1"]);
    for device in [&laptop, &phone, &laptop] {
        device.ok(["sync"]);
    }
    assert_eq!(phone.rows("SELECT stars, colour FROM notes ORDER BY id"), ["1,blue", ",red"]);
    assert_eq!(phone.json(["hash"])["merged"], laptop.json(["hash"])["merged"]);
    assert_eq!(phone.json(["schema", "show"])["tables"][0]["columns"], json!(["title", "stars", "colour"]));
    assert!(phone.ok(["schema", "show"]).contains("title, stars, colour"));
    assert!(phone.ok(["doctor"]).contains("✓"));
}

#[test]
fn what_cannot_be_done_blocks_all_of_it() {
    let place = Place::new();
    let laptop = place.laptop();
    let changed = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title INT, stars INT, more TEXT)";
    let plan = laptop.feed(["schema", "plan", "-"], changed);
    assert_eq!(plan.code, 4, "{plan:?}");
    assert!(plan.out.contains("cannot be done") && plan.out.contains("title"), "{plan:?}");
    let apply = laptop.feed(["schema", "apply", "-"], changed);
    assert_eq!(apply.code, 4, "{apply:?}");
    assert!(apply.err.contains("nothing was changed"), "{apply:?}");
    assert_eq!(laptop.feed(["schema", "plan", "-"], "CREATE TABEL x").code, 2);
    assert!(laptop.fails(1, ["schema", "plan", "missing.sql"]).contains("missing.sql"));
    assert_eq!(laptop.json(["schema", "show"])["operations"], json!(1));
}
