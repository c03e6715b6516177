//! Compaction and retirement, as commands.

use serde_json::json;

use crate::support::Place;

#[test]
fn history_and_tombstones_go_and_a_new_device_still_gets_everything() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let fill = "WITH n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)
                INSERT INTO notes SELECT i, hex(randomblob(40)), i FROM n";
    laptop.ok(["exec", fill]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    phone.ok(["exec", "DELETE FROM notes WHERE id > 5000"]);
    let now = ["compact", "--keep", "0s", "--grace", "0s", "--vacuum"];
    let mut gone = 0;
    for round in 0..3 {
        phone.ok(now);
        let text = laptop.ok(now);
        assert!(text.contains("dropped ") && text.contains("tombstone"), "{text}");
        if round == 0 {
            assert!(text.contains("every replica has synced"), "{text}");
        }
    }
    for device in [&laptop, &phone] {
        let json = device.json(now);
        assert_eq!((&json["waiting"], &json["versions"]), (&json!(false), &json!(0)), "{json}");
        assert_eq!(device.json(["log"]), json!([]));
        gone += device.json(["query", "SELECT count(*) AS n FROM isle_c1"])[0]["n"].as_u64().expect("a number");
    }
    assert_eq!(gone, 2 * 4_993, "no clock is left of what was deleted");
    let tablet = place.device("tablet");
    tablet.ok(["remote", "add", "hub", &place.text("hub")]);
    tablet.takes_key_of(&laptop);
    assert!(tablet.ok(["sync"]).contains("took in a snapshot"));
    assert_eq!(tablet.json(["hash"])["merged"], laptop.json(["hash"])["merged"]);
    assert!(tablet.ok(["doctor"]).contains("✓"));
}

#[test]
fn a_retired_device_is_shown_as_such_and_comes_back_under_a_new_id() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    laptop.ok(["sync"]);
    assert!(laptop.fails(2, ["devices", "retire", "nobody"]).contains("\"nobody\""));
    assert!(laptop.fails(2, ["devices", "retire", "laptop"]).contains("isle devices"));
    assert!(laptop.ok(["devices", "retire", "phone"]).contains("phone is retired"));
    assert!(laptop.ok(["devices"]).contains("phone (retired)"));
    laptop.ok(["sync"]);
    phone.ok(["exec", "UPDATE notes SET title = 'back' WHERE id = 1"]);
    assert!(phone.ok(["sync"]).contains("goes on as site"));
    laptop.ok(["sync"]);
    assert_eq!(laptop.rows("SELECT title FROM notes WHERE id = 1"), ["back"]);
}
