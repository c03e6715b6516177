//! The voice assistant, on two devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod pair;

use std::path::Path;

use isle_examples::qlippy::{Behavior, ModelFacts, Qlippy};
use pair::{Pair, Way};

/// 2026-06-01.
const NOW: i64 = 1_780_272_000_000;

fn facts(content: &str, name: &str, bytes: i64) -> ModelFacts {
    let (content, name, metadata) = (content.to_owned(), name.to_owned(), "{\"general.name\": \"x\"}".to_owned());
    ModelFacts {
        content,
        name,
        bytes,
        architecture: Some("llama".to_owned()),
        context_length: Some(2048),
        metadata,
        ..ModelFacts::default()
    }
}

fn pair(way: Way, fill: impl FnOnce(&Qlippy)) -> Pair<Qlippy> {
    Pair::new(way, Qlippy::open, |qlippy| qlippy.replica().clone(), fill)
}

#[test]
fn a_model_comes_with_how_it_behaves_and_its_place_stays_here() {
    let pair = pair(Way::Direct, |a| {
        a.add_model(&facts("c1", "llama", 4_400_000_000), Some("/models/llama.gguf"), NOW).unwrap();
        a.add_model(&facts("c2", "small", 1_500), None, NOW).unwrap();
    });
    let default = Behavior {
        temperature: 0.7,
        top_p: 0.9,
        top_k: 40,
        max_tokens: 1024,
        system_prompt: String::new(),
        is_active: true,
    };
    assert_eq!(pair.b.behavior("c1").unwrap(), Some(default.clone()));
    assert_eq!(pair.b.behavior("c2").unwrap(), Some(Behavior { is_active: false, ..default }));
    let (here, there) = (pair.a.models().unwrap(), pair.b.models().unwrap());
    assert_eq!((here[0].file_path.as_deref(), there[0].file_path.as_deref()), (Some("/models/llama.gguf"), None));
    let sizes: Vec<&str> = there.iter().map(|model| model.file_size_display.as_str()).collect();
    assert_eq!(sizes, ["4.1 GB", "1.5 KB"]);
    // The same file on another device is the same model, with a place of its own.
    pair.b.add_model(&facts("c1", "llama", 4_400_000_000), Some("D:\\llama.gguf"), NOW).unwrap();
    pair.sync();
    assert_eq!(pair.a.models().unwrap().len(), 2);
    assert_eq!(pair.b.models().unwrap()[0].file_path.as_deref(), Some("D:\\llama.gguf"));
}

/// Would catch: a model without a row that says how it behaves, after a fault between the two.
#[test]
fn a_model_and_how_it_behaves_come_together_or_not_at_all() {
    let pair = pair(Way::Bucket, |_| {});
    let broken = "CREATE TRIGGER broken BEFORE INSERT ON model_behavior BEGIN SELECT RAISE(ABORT, 'no'); END";
    pair.a.replica().write(|tx| tx.execute_batch(broken)).unwrap();
    pair.a.add_model(&facts("c1", "llama", 7), Some("/x"), NOW).unwrap_err();
    assert!(pair.a.models().unwrap().is_empty());
    assert_eq!(pair.a.replica().status().unwrap().queued, 0);
    pair.a.replica().write(|tx| tx.execute_batch("DROP TRIGGER broken")).unwrap();
    pair.a.add_model(&facts("c1", "llama", 7), Some("/x"), NOW).unwrap();
    pair.sync();
    assert!(pair.b.behavior("c1").unwrap().is_some());
}

#[test]
fn two_models_of_one_name_get_numbers() {
    let pair = pair(Way::Bucket, |_| {});
    pair.a.add_model(&facts("c1", "llama", 7), None, NOW).unwrap();
    pair.b.add_model(&facts("c2", "llama", 8), None, NOW).unwrap();
    pair.sync();
    let names =
        |qlippy: &Qlippy| -> Vec<String> { qlippy.models().unwrap().into_iter().map(|model| model.name).collect() };
    assert_eq!(names(&pair.a), ["llama", "llama (2)"]);
    assert_eq!(names(&pair.a), names(&pair.b));
}

#[test]
fn settings_have_a_type_and_a_category_and_states_are_four() {
    let pair = pair(Way::Direct, |a| a.set("temperature", "0.5", "number", "voice").unwrap());
    let setting: Option<(String, String, String)> = pair.b.setting("temperature").unwrap();
    assert_eq!(setting, Some(("0.5".to_owned(), "number".to_owned(), "voice".to_owned())));
    let add = |state: &str| {
        let sql = format!("INSERT INTO sync_status(operation_type, status) VALUES('model_sync', '{state}')");
        pair.a.replica().write(|tx| tx.execute(&sql, &[]))
    };
    assert!(["pending", "running", "completed", "failed"].into_iter().all(|state| add(state).is_ok()));
    assert!(add("foo").is_err());
}

/// Would catch: rows of before that lose something, or have no state, when the app is updated; on a device that gets the new columns by a sync, too.
#[test]
fn the_second_version_takes_the_rows_of_the_first_along() {
    let folder = tempfile::tempdir().unwrap();
    let (own, home) = pair::places(folder.path(), "a");
    let first = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/qlippy/1.0.0__start.sql");
    let first = std::fs::read_to_string(first).unwrap();
    let before = isle::Replica::builder(own.join("app.db")).app("qlippy").home(&home).init().unwrap();
    before.apply_schema(isle::Definition::from_files([("1.0.0__start.sql", first.as_str())]).unwrap()).unwrap();
    before
        .write(|tx| {
            tx.execute("INSERT INTO models(id, name, file_size) VALUES('c1', 'old', 2048), ('c2', 'older', 7)", &[])
        })
        .unwrap();
    drop(before);
    let qlippy = Qlippy::open(&own.join("app.db"), Some(&home)).unwrap();
    let states: Vec<(String, String)> =
        qlippy.replica().read(|q| q.all("SELECT name, validation_status FROM models ORDER BY id", &[])).unwrap();
    let pending = |name: &str| (name.to_owned(), "pending".to_owned());
    assert_eq!(states, [pending("old"), pending("older")]);
    assert_eq!(qlippy.models().unwrap()[0].file_size_display, "2.0 KB");
    for (column, index) in [("checksum", "idx_models_checksum"), ("validation_status", "idx_models_validation_status")]
    {
        let sql = format!("EXPLAIN QUERY PLAN SELECT * FROM models WHERE {column} = 'x'");
        let plan = qlippy.replica().read(|q| q.query(&sql, &[])).unwrap();
        assert!(plan[0].values()[3].to_string().contains(index), "{plan:?}");
    }
}

/// The workflow of the document: folders are scanned, rows travel, a file comes when it is wanted, and one that goes takes its place here along alone.
#[test]
fn files_are_taken_up_and_fetched_where_they_are_wanted() {
    for way in [Way::Bucket, Way::Direct] {
        let pair = pair(way, |_| {});
        let (own_a, _) = pair::places(pair.folder.path(), "a");
        let (own_b, _) = pair::places(pair.folder.path(), "b");
        for (qlippy, own) in [(&pair.a, &own_a), (&pair.b, &own_b)] {
            for (root, kind) in [("models", "gguf"), ("voices", "ppn")] {
                std::fs::create_dir_all(own.join(root)).unwrap();
                qlippy.library().add_root(root, &own.join(root), &[kind.to_owned()]).unwrap();
            }
        }
        std::fs::write(own_a.join("models/tiny.gguf"), gguf()).unwrap();
        std::fs::write(own_a.join("models/No name.Q4.gguf"), gguf_named("")).unwrap();
        std::fs::write(own_a.join("models/broken.gguf"), b"GGUF and no more").unwrap();
        std::fs::write(own_a.join("voices/hey-isle.ppn"), [7; 2048]).unwrap();
        let report = pair.a.refresh(NOW).unwrap();
        assert_eq!((report.added, report.invalid), (3, 1), "{report:?}");
        let failed = pair.a.replica().operations(Some("scan"), 1).unwrap().remove(0);
        assert!(failed.facts.contains("broken.gguf"), "the reason is in the list of operations: {}", failed.facts);
        let state: (String, i64, i64) = pair
            .a
            .replica()
            .read(|q| q.one("SELECT status, progress_percent, files_total FROM sync_status", &[]))
            .unwrap()
            .unwrap();
        assert_eq!(state, ("completed".to_owned(), 100, 4));
        pair.sync();
        let names: Vec<String> = pair.b.models().unwrap().into_iter().map(|model| model.name).collect();
        assert_eq!(names, ["No name.Q4", "tiny"], "one without a name is called as its file");
        let model = pair.b.models().unwrap().pop().unwrap();
        assert_eq!((model.architecture.as_deref(), model.file_path.as_deref()), (Some("llama"), None));
        assert_eq!(pair.b.wake_words().unwrap(), [("hey-isle".to_owned(), false)]);
        if way == Way::Bucket {
            pair.runtime.block_on(pair.a.library().push(&isle::MoveOptions::default())).unwrap();
        }
        pair.runtime.block_on(pair.b.fetch(&model.id, NOW)).unwrap();
        let here = pair.b.models().unwrap().into_iter().find_map(|model| model.file_path).unwrap();
        assert_eq!(std::fs::read(here).unwrap(), gguf());
        // Gone from one device it is the other's yet.
        std::fs::remove_file(own_a.join("models/tiny.gguf")).unwrap();
        std::fs::write(own_a.join("models/other.gguf"), gguf_named("other")).unwrap();
        pair.a.refresh(NOW + 1).unwrap();
        pair.sync();
        let places: Vec<bool> = pair.a.models().unwrap().iter().map(|model| model.file_path.is_some()).collect();
        assert_eq!(places, [true, true, false], "no name, other, tiny");
        assert!(pair.b.models().unwrap().iter().any(|model| model.file_path.is_some()));
    }
}

fn gguf() -> Vec<u8> {
    gguf_named("tiny")
}

/// A GGUF file of version 3 without tensors: its architecture and its name.
fn gguf_named(name: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let pair = |key: &str, value: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    bytes.extend(pair("general.architecture", "llama"));
    bytes.extend(pair("general.name", name));
    bytes
}
