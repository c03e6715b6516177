//! Changes that somebody carries.

use serde_json::json;

use crate::support::Place;

#[test]
fn changes_go_from_device_to_device_on_a_stick() {
    let place = Place::new();
    let (laptop, phone) = (place.laptop(), place.device("phone"));
    std::fs::create_dir(place.path("stick")).expect("a folder");
    let on = |name: &str| place.path("stick").join(name).to_str().expect("UTF-8").to_owned();
    let wrote = laptop.json(["bundle", "export", &on("all.bundle")]);
    assert!(wrote["bytes"].as_u64().is_some_and(|bytes| bytes > 100), "{wrote}");
    // The laptop's group has a key.
    assert!(phone.fails(4, ["bundle", "apply", &on("all.bundle")]).contains("no key of its group"));
    phone.takes_key_of(&laptop);
    let report = phone.json(["bundle", "apply", &on("all.bundle")]);
    assert_eq!((&report["pulled_rows"], &report["refused"]), (&json!(2), &json!([])));
    phone.ok(["exec", "UPDATE notes SET title = 'Emma, again' WHERE id = 2"]);
    // Back goes only what is new.
    laptop.ok(["bundle", "have", &on("laptop.have")]);
    phone.ok(["bundle", "export", &on("news.bundle"), "--have", &on("laptop.have")]);
    let size = |name: &str| std::fs::metadata(on(name)).expect("there").len();
    assert!(size("news.bundle") < size("all.bundle"));
    assert!(laptop.ok(["bundle", "apply", &on("news.bundle")]).contains("pulled 1 change"));
    assert_eq!(laptop.rows("SELECT title FROM notes ORDER BY id"), ["Dune", "\"Emma, again\""]);
    assert_eq!(laptop.json(["hash"])["merged"], phone.json(["hash"])["merged"]);
    laptop.ok(["bundle", "have", &on("again.have")]);
    let nothing = phone.json(["bundle", "export", &on("nothing.bundle"), "--have", &on("again.have")]);
    assert!(nothing["bytes"].is_null() && !place.path("stick").join("nothing.bundle").exists());
    // Nothing is written over, and what is no bundle is told so.
    assert!(laptop.fails(2, ["bundle", "export", &on("all.bundle")]).contains("is there already"));
    std::fs::write(on("broken.bundle"), "no bundle").expect("written");
    assert!(laptop.fails(2, ["bundle", "apply", &on("broken.bundle")]).contains("bundle cannot be read"));
    assert!(
        phone.fails(2, ["bundle", "export", &on("x.bundle"), "--have", &on("broken.bundle")]).contains("JSON object")
    );
}
