//! The downloader, on two devices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod pair;

use std::path::Path;

use isle_examples::wmd::{CatalogEntry, Download, Wmd};
use pair::{Pair, Way};
use serde_json::{Value, json};

const HOUR_MS: i64 = 3_600_000;
/// 2026-06-01.
const NOW: i64 = 1_780_272_000_000;

fn download(id: &str, filename: &str, at: &str) -> Download {
    let some = |text: &str| Some(text.to_owned());
    Download {
        id: id.to_owned(),
        filename: filename.to_owned(),
        directory: some("models"),
        url: some("https://models.example/x"),
        source: some("huggingface"),
        status: "completed".to_owned(),
        error: None,
        total_size: 7,
        downloaded_at: some(at),
    }
}

fn entry(filename: &str, protected: bool) -> CatalogEntry {
    CatalogEntry {
        filename: filename.to_owned(),
        source: "popular".to_owned(),
        repo_id: None,
        model_type: Some("lora".to_owned()),
        base_model: None,
        protected,
        tags: vec!["flux".to_owned()],
    }
}

fn pair(way: Way, fill: impl FnOnce(&Wmd)) -> Pair<Wmd> {
    Pair::new(way, Wmd::open, |wmd| wmd.replica().clone(), fill)
}

fn alone() -> (tempfile::TempDir, Wmd) {
    let folder = tempfile::tempdir().unwrap();
    let wmd = Wmd::open(&folder.path().join("app.db"), Some(&folder.path().join("home"))).unwrap();
    (folder, wmd)
}

#[test]
fn settings_hold_any_json() {
    let (_folder, wmd) = alone();
    let settings = wmd.settings();
    let values =
        [json!(true), json!(["a", 1, null]), Value::Null, json!({"deep": {"er": [1.5]}}), json!("text"), json!(-7)];
    for (n, value) in values.iter().enumerate() {
        settings.set(&format!("key {n}"), value, NOW).unwrap();
        assert_eq!(settings.get::<Value>(&format!("key {n}")).unwrap().as_ref(), Some(value));
    }
    assert_eq!(settings.all().unwrap().len(), values.len());
    assert_eq!((settings.get_or("none", 5).unwrap(), settings.get_or("key 5", 5).unwrap()), (5, -7));
    assert_eq!(settings.get::<i64>("key 4").unwrap(), None, "a text is no number");
    assert!(settings.delete("key 0").unwrap() && !settings.delete("key 0").unwrap());
    assert_eq!(settings.get::<Value>("key 0").unwrap(), None);
}

/// Would catch: a token that leaves its device, in whatever form.
#[test]
fn secrets_stay_on_their_device() {
    let (folder, wmd) = alone();
    wmd.settings().set("theme", &"dark-theme-word", NOW).unwrap();
    wmd.settings().set("huggingface_token", &"hf_verysecretword", NOW).unwrap();
    // Plain, so that all that is in it can be read.
    let bucket = folder.path().join("bucket");
    wmd.replica().add_plain_remote("open", bucket.to_str().unwrap()).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(wmd.replica().sync()).unwrap();
    let have = isle::Have::default();
    let bundle = wmd.replica().export_bundle(&have, 1).unwrap().unwrap();
    let (found, theme) = (holds(&bucket, b"verysecretword"), holds(&bucket, b"dark-theme-word"));
    assert!(theme && !found && !contains(&bundle, b"verysecretword"));
    assert_eq!(wmd.settings().get::<String>("huggingface_token").unwrap().as_deref(), Some("hf_verysecretword"));
    assert_eq!(wmd.settings().all().unwrap().len(), 2);
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

fn holds(folder: &Path, what: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { holds(&path, what) } else { contains(&std::fs::read(&path).unwrap(), what) }
    })
}

#[test]
fn the_history_is_added_to_looked_up_and_cleared() {
    for way in [Way::Bucket, Way::Direct] {
        let pair = pair(way, |a| {
            for (id, name, at) in
                [("1", "x.gguf", "2026-01-01"), ("2", "y.gguf", "2026-01-03"), ("3", "z.gguf", "2026-01-02")]
            {
                a.history().add(&download(id, name, at)).unwrap();
            }
        });
        let (a, b) = (pair.a.history(), pair.b.history());
        assert_eq!(b.by_filename("y.gguf").unwrap(), Some(download("2", "y.gguf", "2026-01-03")));
        let ids: Vec<String> = b.recent(2).unwrap().into_iter().map(|it| it.id).collect();
        assert_eq!(ids, ["2", "3"]);
        a.add(&download("4", "x.gguf", "2026-01-09")).unwrap();
        assert_eq!(a.recent(9).unwrap().len(), 3, "one for each file and place");
        assert!(b.delete("3").unwrap() && !b.delete("3").unwrap());
        pair.sync();
        // One clears while the other adds.
        assert_eq!(a.clear().unwrap(), 2);
        b.add(&download("5", "new.gguf", "2026-02-01")).unwrap();
        pair.sync();
        let left: Vec<String> = a.recent(9).unwrap().into_iter().map(|it| it.filename).collect();
        assert_eq!(left, ["new.gguf"]);
    }
}

#[test]
fn metadata_is_merged_member_by_member() {
    let pair = pair(Way::Bucket, |a| {
        let known = json!({"source": "civitai", "sha256_hash": "abc", "file_size": 7, "trained_words": ["x"], "nested": {"a": 1}});
        a.metadata().save("m.safetensors", known.as_object().unwrap()).unwrap();
        a.metadata().save("other.safetensors", json!({"source": "huggingface"}).as_object().unwrap()).unwrap();
    });
    let (a, b) = (pair.a.metadata(), pair.b.metadata());
    a.save("m.safetensors", json!({"base_model": "flux", "nested": {"b": 2}}).as_object().unwrap()).unwrap();
    b.save("m.safetensors", json!({"file_size": 8, "nested": {"c": 3}, "trained_words": null}).as_object().unwrap())
        .unwrap();
    pair.sync();
    let expected = json!({
        "filename": "m.safetensors", "source": "civitai", "sha256_hash": "abc", "file_size": 8, "base_model": "flux",
        "nested": {"a": 1, "b": 2, "c": 3},
    });
    assert_eq!(a.by_hash("abc").unwrap().map(Value::Object), Some(expected));
    assert_eq!(a.search(&[("source", "civitai"), ("base_model", "flux")]).unwrap().len(), 1);
    assert_eq!(a.search(&[("source", "civitai"), ("base_model", "sdxl")]).unwrap().len(), 0);
    assert!(a.get("none").unwrap().is_none());
    let about = json!({"description": "a LoRA for clouds, made for Flux"});
    b.save("other.safetensors", about.as_object().unwrap()).unwrap();
    pair.sync();
    for metadata in [&a, &b] {
        let names = |text: &str| -> Vec<String> {
            let found = metadata.find(text, 9).unwrap();
            found.iter().map(|known| known["filename"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names("flux lora"), ["other.safetensors"]);
        // The one whose base it is comes before the one that says so at length.
        assert_eq!(names("flux"), ["m.safetensors", "other.safetensors"]);
        assert_eq!(names("other safetens*"), ["other.safetensors"]);
        assert!(names("sdxl OR flux").is_empty(), "OR is a word to look for");
    }
    let wrong = a.search(&[("1; DROP TABLE model_metadata", "x")]).unwrap_err();
    assert!(matches!(wrong, isle::Error::NoSuchColumn { .. }), "{wrong}");
}

#[test]
fn the_catalog_keeps_what_is_protected() {
    let (_folder, wmd) = alone();
    let catalog = wmd.catalog();
    for (name, protected) in [("a.gguf", true), ("b.gguf", false), ("c.gguf", false)] {
        catalog.add(&entry(name, protected)).unwrap();
    }
    assert_eq!(catalog.lookup("a.gguf").unwrap(), Some(entry("a.gguf", true)));
    assert_eq!((catalog.by_type("lora").unwrap().len(), catalog.by_type("vae").unwrap().len()), (3, 0));
    assert_eq!(catalog.clean_up("popular", &["c.gguf"]).unwrap(), 1);
    let left: Vec<String> = catalog.all().unwrap().into_iter().map(|it| it.filename).collect();
    assert_eq!(left, ["a.gguf", "c.gguf"]);
}

#[test]
fn answers_of_searches_hold_for_their_time_and_stay_here() {
    let pair = pair(Way::Direct, |_| {});
    let cache = pair.a.cache();
    // isle's own clock takes away what holds no longer with each write, so these times are of today.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
    let version = pair.a.replica().status().unwrap().version;
    cache.set("flux", "tavily", &json!({"hits": 3}), 60, now).unwrap();
    cache.set("flux", "huggingface", &json!([]), isle_examples::wmd::SearchCache::TTL_S, now).unwrap();
    assert_eq!(cache.get("flux", "tavily", now + 59_000).unwrap(), Some(json!({"hits": 3})));
    assert_eq!(cache.get("flux", "tavily", now + 61_000).unwrap(), None);
    assert_eq!(cache.get("flux", "huggingface", now + 61_000).unwrap(), Some(json!([])));
    assert_eq!(cache.clean_up(now + 61_000).unwrap(), 1);
    assert_eq!(cache.clean_up(now + 61_000).unwrap(), 0);
    assert_eq!(cache.clean_up(now + 2 * HOUR_MS).unwrap(), 1);
    assert_eq!(pair.a.replica().status().unwrap().version, version, "nothing of that is a change for others");
    pair.sync();
    assert_eq!(pair.b.cache().get("flux", "huggingface", now).unwrap(), None);
}

#[test]
fn uses_on_two_devices_add_up() {
    let pair = pair(Way::Direct, |a| a.aliases().add("Flux Dev", "flux1-dev.safetensors", None).unwrap());
    for (device, times) in [(&pair.a, 3), (&pair.b, 4)] {
        for n in 0..times {
            device.usage().used("flux1-dev.safetensors", Some("unet"), NOW + n * HOUR_MS).unwrap();
        }
    }
    pair.sync();
    let used = pair.b.usage().of("flux1-dev.safetensors").unwrap().unwrap();
    assert_eq!(used.use_count, 7);
    assert_eq!(
        (used.first_used.as_deref(), used.last_used.as_deref()),
        (Some("2026-06-01 00:00:00.000"), Some("2026-06-01 03:00:00.000"))
    );
    assert_eq!(pair.a.usage().most_used(1).unwrap()[0].use_count, 7);
    let aliases = pair.b.aliases();
    assert_eq!(aliases.resolve("FLUX dev").unwrap(), "flux1-dev.safetensors");
    assert_eq!(aliases.resolve("unknown").unwrap(), "unknown");
    pair.b.nodes().save("KSampler", &json!({"seed": "INT"}), &json!(["LATENT"]), "sampling").unwrap();
    pair.sync();
    let node = pair.a.nodes().get("KSampler").unwrap().unwrap();
    assert_eq!(node, (json!({"seed": "INT"}), json!(["LATENT"]), "sampling".to_owned()));
}

#[cfg(feature = "json-files")]
mod json_files {
    use super::*;
    use isle_examples::wmd::Backend;

    /// Three of the app's eight files.
    fn files(folder: &Path) {
        let files = [
            ("settings.json", json!({"theme": "dark", "limits": {"parallel": 3}})),
            (
                "download_history.json",
                json!([{"id": "1", "filename": "x.gguf", "status": "completed", "error": null, "total_size": 7, "timestamp": "2026-01-01"},
                       {"id": "2", "filename": "y.gguf", "status": "failed", "error": "no room", "total_size": 0, "timestamp": "2026-01-02"}]),
            ),
            (
                "model_metadata.json",
                json!({"x.gguf": {"source": "civitai", "trained_words": ["a", "b"], "file_size": 7}}),
            ),
        ];
        for (name, content) in files {
            std::fs::write(folder.join(name), content.to_string()).unwrap();
        }
    }

    /// What the endpoints say.
    fn served(backend: &Backend) -> (Value, Vec<Value>, Option<serde_json::Map<String, Value>>) {
        (backend.settings().unwrap(), backend.history().unwrap(), backend.metadata("x.gguf").unwrap())
    }

    /// Would catch: an endpoint that answers otherwise after the move, and an empty database that is taken for the data.
    #[test]
    fn endpoints_say_the_same_before_and_after_the_move_and_the_files_stay_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        files(folder.path());
        let open = |use_json| Backend::detect(folder.path(), Some(&home), use_json).unwrap();
        let before = served(&open(false));
        assert!(matches!(open(false), Backend::Json(_)));
        assert!(!folder.path().join(Backend::DATABASE).exists(), "looking makes none");
        // The app was ended between making the database and filling it.
        drop(Wmd::open(&folder.path().join(Backend::DATABASE), Some(&home)).unwrap());
        assert!(matches!(open(false), Backend::Json(_)), "it is empty yet");
        drop(Backend::migrate(folder.path(), Some(&home), false).unwrap());
        assert!(matches!(open(false), Backend::Sqlite(_)));
        assert_eq!(served(&open(false)), before);
        // Somebody wants the files nevertheless: the database is not even opened.
        assert!(matches!(open(true), Backend::Json(_)));
        assert_eq!(served(&open(true)), before);
        drop(Backend::migrate(folder.path(), Some(&home), true).unwrap());
        assert!(folder.path().join("settings.json.bak").exists() && !folder.path().join("settings.json").exists());
        assert_eq!(served(&open(false)), before);
    }

    #[test]
    fn a_broken_file_leaves_the_app_with_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        files(folder.path());
        std::fs::write(folder.path().join("model_metadata.json"), "{\"x.gguf\": {").unwrap();
        let error = Backend::migrate(folder.path(), Some(&home), true).unwrap_err().to_string();
        assert!(error.contains("model_metadata.json"), "{error}");
        let backend = Backend::detect(folder.path(), Some(&home), false).unwrap();
        assert!(matches!(backend, Backend::Json(_)));
        assert_eq!(backend.history().unwrap().len(), 2);
        assert!(folder.path().join("settings.json").exists(), "nothing was renamed");
    }
}
