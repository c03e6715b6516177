//! Who changed what, and taking it back, as commands.

use serde_json::json;

use crate::support::Place;

#[test]
fn a_row_tells_who_changed_it_and_a_change_is_taken_back() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    phone.ok(["exec", "UPDATE notes SET stars = 1 WHERE title = 'Dune'"]);
    phone.ok(["sync"]);
    laptop.ok(["sync"]);
    laptop.ok(["exec", "UPDATE notes SET title = 'Dune!' WHERE title = 'Dune'"]);
    let id = laptop.rows("SELECT id FROM notes WHERE title = 'Dune!'").remove(0);
    let history = laptop.ok(["history", "notes", &id]);
    assert!(history.contains("title \"Dune\" → \"Dune!\"") && history.contains("phone:"), "{history}");
    let entries = laptop.json(["history", "notes", &id]);
    assert_eq!(entries[0]["cells"][0]["before"], json!("Dune"));
    let change = format!("{}:{}", entries[1]["device"].as_str().expect("a name"), entries[1]["version"]);
    assert!(laptop.ok(["undo", &change]).contains("1 row written"));
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    assert_eq!(phone.rows("SELECT title, stars FROM notes WHERE title LIKE 'Dune%'"), ["Dune!,5"]);
    assert!(laptop.ok(["history", "notes"]).contains("Emma"));
    assert!(laptop.fails(2, ["undo", "nope"]).contains("isle log"));
    assert!(laptop.fails(2, ["undo", "nobody:1"]).contains("nobody"));
    assert!(laptop.fails(2, ["history", "nope", "1"]).contains("nope"));
}

#[test]
fn a_conflict_shows_its_base_and_a_side_is_taken() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["exec", "UPDATE notes SET stars = 1"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    laptop.ok(["exec", "UPDATE notes SET stars = 2"]);
    phone.ok(["exec", "UPDATE notes SET stars = 3"]);
    for device in [&laptop, &phone, &laptop] {
        device.ok(["sync"]);
    }
    let conflict = &laptop.json(["conflicts"])["conflicts"][0];
    let id = conflict["id"].to_string();
    assert_eq!(laptop.json(["conflicts", "show", &id])["base"], json!(1));
    assert!(laptop.ok(["conflicts", "show", &id]).contains("base    1"));
    laptop.ok(["conflicts", "resolve", &id, "--take", "ours"]);
    let row = laptop.json(["conflicts", "show", &id]);
    assert_eq!(row["current"], json!(2), "{row}");
    laptop.fails(2, ["conflicts", "resolve", "--all", "--take", "base"]);
}
