//! One file of settings.

use serde_json::json;

use crate::support::{Gave, Place};

/// Would catch: a setting that is read and not heeded, and one that is stronger than an option.
#[test]
fn settings_count_where_nothing_else_says_otherwise() {
    let place = Place::new();
    let device = place.laptop();
    let folder = place.path("elsewhere");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::rename(device.db(), folder.join("notes.db")).expect("moved");
    let settings =
        "db = \"notes.db\"\nhome = \"own home\"\nbackups = \"copies\"\ntimeout = \"3s\"\nretries = 1\nlog = \"off\"\n";
    std::fs::write(folder.join("isle.toml"), settings).expect("written");
    let run = |args: &[&str], home: bool| {
        let mut command = device.command(args);
        if !home {
            command.env_remove("ISLE_HOME");
        }
        Gave::of(command.current_dir(&folder).output().expect("it runs"))
    };
    let doctor: serde_json::Value = serde_json::from_str(&run(&["doctor", "--json"], false).out).expect("JSON");
    let path = |name: &str| json!(std::path::absolute(folder.join(name)).expect("a path"));
    assert_eq!(
        (&doctor["home"], &doctor["backups"], &doctor["config"]),
        (&path("own home"), &path("copies"), &json!("isle.toml"))
    );
    assert_eq!(run(&["backup", "create"], false).code, 0);
    assert_eq!(std::fs::read_dir(folder.join("copies")).expect("made").count(), 2, "a copy and what is said of it");
    // The environment is stronger, and an option is stronger than that.
    let doctor: serde_json::Value = serde_json::from_str(&run(&["doctor", "--json"], true).out).expect("JSON");
    assert_ne!(doctor["home"], path("own home"));
    let gave = run(&["--db", "none.db", "status"], true);
    assert!(gave.code == 2 && gave.err.contains("none.db"), "{gave:?}");
    // Named, from another folder: paths count from where it lies.
    let named = folder.join("isle.toml");
    let gave = device.run(["--config", named.to_str().expect("UTF-8"), "query", "--csv", "SELECT count(*) FROM notes"]);
    assert_eq!((gave.code, gave.out.lines().last()), (0, Some("2")), "{gave:?}");
}

#[test]
fn settings_that_make_no_sense_are_told_with_their_place() {
    let place = Place::new();
    let device = place.laptop();
    let file = device.db().with_file_name("isle.toml");
    for (settings, says) in [
        ("dbs = \"x\"", "there is no setting \"dbs\""),
        ("db = 7", "db has to be a text"),
        ("retries = \"many\"", "retries has to be a number"),
        ("db = \"x\"\ndb = \"y\"", "line 2"),
        ("db =", "line 1"),
    ] {
        std::fs::write(&file, settings).expect("written");
        let error = device.fails(2, ["status"]);
        assert!(error.contains("isle.toml") && error.contains(says), "{settings}: {error}");
    }
    std::fs::remove_file(&file).expect("gone");
    assert!(device.fails(2, ["--config", "none.toml", "status"]).contains("none.toml"));
}
