//! The demo runs, and what it claims is true.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::{Device, Place};

#[test]
fn the_story_is_short_and_true() {
    let place = Place::new();
    let device = place.bare("here");
    let folder = place.path("demo");
    let text = device.ok(["demo", "--dir", folder.to_str().expect("UTF-8"), "--rows", "1000"]);
    assert!(text.lines().count() <= 35, "{} lines: {text}", text.lines().count());
    assert!(!text.contains('\u{1b}'), "no colours beside a terminal: {text}");
    for part in ["1,000 rows", "the three files hold the same", "lost to", "look yourself"] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    let looked: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("sqlite3 ")).collect();
    assert_eq!(looked.len(), 3, "{text}");
    let mut answers = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with("sqlite3 ")) {
        match Command::new("sh").arg("-c").arg(line).current_dir(&folder).output() {
            Ok(output) if output.status.success() => answers.push(String::from_utf8(output.stdout).expect("UTF-8")),
            other => eprintln!("skipped: {other:?}"),
        }
    }
    answers.dedup();
    let last = text.lines().last().expect("a line").trim();
    let output = Command::new("sh").arg("-c").arg(last).current_dir(&folder).output();
    let journal = String::from_utf8(output.expect("a shell").stdout).expect("UTF-8");
    assert!(journal.contains("tracks 42 · price") && journal.contains("notes n7 · body"), "{last}: {journal}");
    if let Some(answer) = answers.first() {
        assert_eq!(answers.len(), 1, "the three answer the same: {answers:?}");
        assert!(answer.lines().all(|line| text.contains(line)), "{answer} is not what the story says: {text}");
    }
}

#[test]
fn the_facts_hold_when_looked_at_again() {
    let place = Place::new();
    let device = place.bare("here");
    let facts = device.json(["demo", "--dir", place.path("demo").to_str().expect("UTF-8"), "--rows", "500"]);
    assert_eq!((&facts["equal"], &facts["rows"], &facts["kept"]), (&json!(true), &json!(500), &json!(true)));
    let devices = facts["devices"].as_array().expect("devices");
    assert_eq!(devices.len(), 3);
    for found in devices {
        let db = found["db"].as_str().expect("a path");
        let home = Path::new(found["home"].as_str().expect("a path")).to_owned();
        let there = Device { folder: place.path("demo"), home };
        let hash = there.json(["hash", "--db", db]);
        assert_eq!(hash["merged"], devices[0]["merged"], "{db}");
        assert_eq!(hash["visible"], found["visible"], "{db}");
        assert_eq!(there.json(["status", "--db", db])["device"]["name"], found["name"]);
        there.ok(["doctor", "--db", db]);
        let price = there.json(["query", "--db", db, "SELECT price FROM tracks WHERE id = 42"]);
        assert_eq!(price, json!([{ "price": 0.89 }]));
    }
    let conflicts = facts["conflicts"].as_array().expect("conflicts");
    let lost: Vec<_> = conflicts.iter().map(|entry| &entry["conflict"]["lost"]).collect();
    assert!(lost.contains(&&json!(1.19)) && lost.contains(&&json!("heard it live!")), "{lost:?}");
    assert!(facts["traffic"]["requests"].as_u64().is_some_and(|n| n > 0));
}

#[test]
fn it_makes_a_folder_of_its_own_and_overwrites_nothing() {
    let place = Place::new();
    let device = place.bare("here");
    let temporary = place.path("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let run = |args: &[&str]| {
        let output = device.command(args).env("TMPDIR", &temporary).output().expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = run(&["demo", "--rows", "100"]);
    assert!(text.contains("isle-demo-1") && temporary.join("isle-demo-1/phone.db").exists(), "{text}");
    run(&["demo", "--rows", "100", "--clean"]);
    assert!(!temporary.join("isle-demo-2").exists());
    let taken = temporary.join("isle-demo-1");
    let refused = device.fails(4, ["demo", "--dir", taken.to_str().expect("UTF-8")]);
    assert!(refused.contains("is not empty"), "{refused}");
}

#[test]
fn the_story_fits_a_hundred_columns() {
    let place = Place::new();
    let device = place.bare("here");
    let output = device.command(["demo", "--rows", "100", "--clean"]).output().expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for line in text.lines().filter(|line| !line.contains("ISLE_HOME=")) {
        // Where the program is, is not up to it.
        assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
    }
}
