//! Imports and exports, as commands.

use std::io::BufRead as _;

use crate::support::Place;

const MAP: &str = "[[source]]\nfile = 'jobs.yaml'\ntable = 'jobs'\nat = 'jobs'\nrows = 'items'\nrest = 'data'\n[source.columns]\nid = 'id'\nname = 'name'\n\
    enabled = { from = 'enabled', as = 'bool' }\n";
const JOBS: &str = "jobs:\n- id: a\n  name: one\n  enabled: true\n  extra: [1, 2]\n- id: b\n  name: two\n";

#[test]
fn a_yaml_file_moves_in_and_out_again() {
    let place = Place::new();
    let laptop = place.device("laptop");
    laptop.ok([
        "exec",
        "CREATE TABLE jobs(id TEXT PRIMARY KEY, name TEXT NOT NULL, enabled INT, data TEXT NOT NULL DEFAULT '{}')",
    ]);
    laptop.ok(["track", "jobs"]);
    std::fs::write(laptop.folder.join("map.toml"), MAP).expect("written");
    std::fs::write(laptop.folder.join("jobs.yaml"), JOBS).expect("written");
    assert!(laptop.ok(["import", "status", ".", "--map", "map.toml"]).contains("not imported"));
    assert!(laptop.ok(["import", "yaml", "jobs.yaml", "--map", "map.toml", "--dry-run"]).contains("2 rows: 2 new"));
    let done = laptop.ok(["import", "yaml", ".", "--map", "map.toml", "--checklist", "--archive"]);
    assert!(done.contains("say the same, both ways") && done.contains("jobs.yaml.bak"), "{done}");
    assert!(laptop.ok(["import", "archives"]).contains("jobs.yaml.bak"));
    assert!(laptop.ok(["import", "prune"]).contains("0 documents removed"));
    laptop.ok(["export", "yaml", "out", "--map", "map.toml"]);
    let exported = std::fs::read_to_string(laptop.folder.join("out/jobs.yaml")).expect("exported");
    assert!(exported.contains("enabled: true") && exported.contains("extra:"), "{exported}");
    assert_eq!(laptop.json(["import", "verify", "out", "--map", "map.toml"])["equal"], true);

    // An altered value is found, in both directions of reading.
    std::fs::write(laptop.folder.join("out/jobs.yaml"), exported.replace("two", "three")).expect("written");
    let verified = laptop.run(["import", "verify", "out/jobs.yaml", "--map", "map.toml"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.out.contains("jobs b: name is two, the document has three"), "{verified:?}");
    let kept = laptop.ok(["import", "yaml", "out", "--map", "map.toml"]);
    assert!(kept.contains("--replace lets the document count"), "{kept}");
    assert!(laptop.ok(["import", "yaml", "out", "--map", "map.toml", "--again", "--replace"]).contains("1 replaced"));
    assert_eq!(laptop.rows("SELECT name FROM jobs ORDER BY id"), ["one", "three"]);
    assert!(laptop.ok(["ops", "list", "--kind", "import"]).contains("completed"));
}

#[test]
fn requests_that_make_no_sense_say_so() {
    let place = Place::new();
    let laptop = place.laptop();
    std::fs::write(laptop.folder.join("map.toml"), MAP).expect("written");
    std::fs::write(laptop.folder.join("broken.json"), "[{\"id\": 7, \"title\": \"x\",\n \"stars\": }]")
        .expect("written");
    laptop.fails(2, ["import", "json", "."]);
    assert!(laptop.fails(2, ["import", "json", ".", "--map", "map.toml"]).contains("no document of this format"));
    assert!(laptop.fails(2, ["import", "yaml", ".", "--map", "map.toml"]).contains("there is no document"));
    assert!(laptop.fails(2, ["import", "json", "broken.json", "--table", "notes"]).contains("line 2"));
    assert!(laptop.fails(2, ["export", "json", "out.json", "--table", "nope"]).contains("no such table"));
    assert!(!laptop.folder.join("out.json").exists());
    assert_eq!(laptop.rows("SELECT count(*) FROM notes"), ["2"]);
}

#[test]
fn a_list_of_objects_needs_no_mapping_and_statements_load_elsewhere() {
    let place = Place::new();
    let laptop = place.laptop();
    std::fs::write(laptop.folder.join("more.json"), "[{\"id\": 7, \"title\": \"Ubik\", \"stars\": 3}]")
        .expect("written");
    assert!(laptop.ok(["import", "json", "more.json", "--table", "notes"]).contains("1 new"));
    laptop.ok(["export", "json", "notes.json", "--table", "notes"]);
    let text = std::fs::read_to_string(laptop.folder.join("notes.json")).expect("exported");
    let rows: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(rows[2]["title"], "Ubik");
    let sql = laptop.ok(["export", "sql"]);
    assert!(sql.contains("INSERT INTO \"notes\""), "{sql}");
    assert!(laptop.ok(["export", "sql", "--dialect", "mysql", "notes"]).contains("BIGINT NOT NULL"));
    laptop.ok(["export", "jsonl", "lines"]);
    assert_eq!(std::fs::read_to_string(laptop.folder.join("lines/notes.jsonl")).expect("exported").lines().count(), 3);
}

#[test]
fn a_followed_export_is_written_after_each_change() {
    let place = Place::new();
    let laptop = place.laptop();
    let mut child =
        laptop.command(["export", "json", "notes.json", "--table", "notes", "--follow"]).spawn().expect("it runs");
    let lines = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let (told, news) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(told.send(line))));
    let path = laptop.folder.join("notes.json");
    let shows = |text: &str| {
        // What it writes it tells.
        let told = news.recv_timeout(std::time::Duration::from_secs(20));
        told.is_ok() && std::fs::read_to_string(&path).is_ok_and(|found| found.contains(text))
    };
    let first = shows("Dune");
    laptop.ok(["exec", "UPDATE notes SET title = 'Hyperion' WHERE id = 1"]);
    let second = shows("Hyperion");
    child.kill().expect("killed");
    drop(child.wait());
    reader.join().expect("ended");
    assert!(first && second, "{first} {second}");
}
