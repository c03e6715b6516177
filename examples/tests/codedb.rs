//! The database of code, on two devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod pair;

use isle_examples::codedb::{CodeDb, Entity};
use pair::{Pair, Way};

/// 2026-06-01.
const NOW: i64 = 1_780_272_000_000;

fn pair(way: Way) -> Pair<CodeDb> {
    Pair::new(
        way,
        CodeDb::open,
        |db| db.replica().clone(),
        |a| {
            a.add_project("p", "/src", "isle", NOW).unwrap();
            a.add_dataset("d", "p", "/src/crates", NOW).unwrap();
            let entities = [
                Entity {
                    kind: "function",
                    name: "merge",
                    content: "fn merge(a, b) { sort }",
                    docstring: Some("joins two logs"),
                },
                Entity { kind: "struct", name: "Log", content: "struct Log { joins }", docstring: None },
            ];
            a.index("d", "f1", "store/log.rs", "one\ntwo\n", &entities, NOW).unwrap();
        },
    )
}

fn names(db: &CodeDb, text: &str) -> Vec<String> {
    let hits = db.search(text, 10).unwrap();
    let mut names: Vec<String> = hits.iter().map(|hit| hit.row.get("entity_name").unwrap().to_string()).collect();
    names.sort();
    names
}

#[test]
fn what_one_device_indexes_the_other_finds() {
    for way in [Way::Bucket, Way::Direct] {
        let pair = pair(way);
        assert_eq!(names(&pair.b, "joins"), ["Log", "merge"]);
        assert_eq!(names(&pair.b, "docstring:joins"), ["merge"]);
        assert_eq!(names(&pair.b, "entity_name:log"), ["Log"]);
        let file = &pair.b.files("d").unwrap()[0];
        assert_eq!((file.lines, file.has_docstring), (Some(2), Some(true)));
        // Indexed anew: what was found before is found no more.
        let entity = Entity { kind: "function", name: "split", content: "fn split()", docstring: None };
        pair.b.index("d", "f1", "store/log.rs", "one", &[entity], NOW + 1).unwrap();
        pair.sync();
        assert_eq!((names(&pair.a, "joins"), names(&pair.a, "split")), (vec![], vec!["split".to_owned()]));
        let time: f64 = pair.a.replica().read(|q| q.one("SELECT created_at FROM projects", &[])).unwrap().unwrap();
        assert!((time - 2_461_192.5).abs() < 0.01, "julian days: {time}");
    }
}

#[test]
fn a_project_takes_all_that_is_its_with_it() {
    let pair = pair(Way::Bucket);
    assert!(pair.b.add_project("q", "/src", "again", NOW).is_err(), "one root, one project");
    pair.b.replica().write(|tx| tx.execute("DELETE FROM projects WHERE id = 'p'", &[])).unwrap();
    // Meanwhile a file comes that nobody will need.
    pair.a.index("d", "f2", "store/new.rs", "x", &[], NOW).unwrap();
    pair.sync();
    for db in [&pair.a, &pair.b] {
        assert!(db.files("d").unwrap().is_empty() && names(db, "joins").is_empty());
    }
}

#[test]
fn the_trash_gives_files_back_on_every_device() {
    let pair = pair(Way::Direct);
    assert!(pair.a.delete("f1").unwrap() && !pair.a.delete("f1").unwrap());
    // Its path is free for another one.
    pair.a.index("d", "f2", "store/log.rs", "x", &[], NOW).unwrap();
    pair.sync();
    assert_eq!(pair.b.trash().unwrap()[0].original_path.as_deref(), Some("store/log.rs"));
    assert!(pair.b.restore("f1").is_err(), "another one lies there");
    pair.b.delete("f2").unwrap();
    assert!(pair.b.restore("f1").unwrap());
    pair.sync();
    let paths: Vec<String> = pair.a.files("d").unwrap().into_iter().map(|file| file.path).collect();
    assert_eq!(paths, ["store/log.rs"]);
    assert_eq!(pair.a.purge().unwrap(), 1);
    pair.sync();
    assert!(pair.b.trash().unwrap().is_empty());
    assert_eq!(names(&pair.b, "joins"), ["Log", "merge"], "what was restored is found");
}
