//! Several processes, closed pipes, and a sync that goes on.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Gave, Place};

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    let device = place.device("laptop");
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, 'text' FROM n";
    for format in [&[][..], &["--csv"], &["--json"]] {
        let args = ["query", sql].into_iter().chain(format.iter().copied());
        let mut child = device.command(args).spawn().expect("the binary runs");
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
        assert!(!first.is_empty());
        // The query has no end: only the closed pipe can stop it.
        let mut error = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut error).expect("UTF-8");
        let status = child.wait().expect("it ends");
        assert_eq!((status.code(), error.as_str()), (Some(0), ""), "{format:?}");
    }
}

#[test]
fn two_processes_write_at_once_and_nothing_is_lost() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    std::thread::scope(|scope| {
        for writer in 1..=2 {
            let laptop = &laptop;
            scope.spawn(move || {
                for n in 0..15 {
                    let id = writer * 1000 + n;
                    laptop.ok(["exec", &format!("INSERT INTO notes VALUES({id}, 'by {writer}', {n})")]);
                }
            });
        }
    });
    assert_eq!(laptop.rows("SELECT count(*) FROM notes"), ["32"]);
    laptop.ok(["sync"]);
    phone.ok(["sync"]);
    assert_eq!(laptop.json(["hash"]), phone.json(["hash"]));
    laptop.ok(["doctor"]);
}

#[test]
fn processes_that_make_one_new_file_at_once_make_one_replica_of_one_device() {
    let place = Place::new();
    for round in 0..5 {
        let device = place.bare(&format!("laptop{round}"));
        let start = |_| device.command(["init", "app.db", "--json"]).spawn().expect("the binary runs");
        let running: Vec<_> = (0..8).map(start).collect();
        for child in running {
            let gave = Gave::of(child.wait_with_output().expect("it ends"));
            assert_eq!((gave.code, gave.err.as_str()), (0, ""), "round {round}: {gave:?}");
            let made: serde_json::Value = serde_json::from_str(&gave.out).expect("JSON");
            let status = device.json(["status"]);
            for id in ["group", "site"] {
                assert!(status[id].is_string(), "{status}");
                assert!(made.get(id).is_none_or(|made| *made == status[id]), "{made} {status}");
            }
        }
        device.ok(["exec", "CREATE TABLE notes(id INTEGER PRIMARY KEY)"]);
        device.ok(["doctor"]);
        let records = std::fs::read_dir(device.home.join("sites")).expect("a folder");
        let records =
            records.filter(|file| file.as_ref().expect("readable").path().extension() == Some("json".as_ref()));
        assert_eq!(records.count(), 1, "the device knows of one replica");
    }
}

#[cfg(unix)]
#[test]
fn watching_syncs_right_after_a_local_change_and_ends_with_an_interrupt() {
    let place = Place::new();
    let (laptop, phone) = place.pair();
    let mut watch =
        laptop.command(["sync", "--watch", "--interval", "60s"]).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("a line").expect("UTF-8");
    assert!(first.contains("syncing every 60 s"), "{first}");
    assert!(lines.next().expect("a line").expect("UTF-8").contains("nothing new"));
    let begun = Instant::now();
    for stars in [7, 8] {
        laptop.ok(["exec", &format!("UPDATE notes SET stars = {stars}")]);
        assert!(lines.next().expect("a line").expect("UTF-8").contains("pushed 1 change"));
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "long before the interval");
    phone.ok(["sync"]);
    assert_eq!(phone.rows("SELECT DISTINCT stars FROM notes"), ["8"]);
    let kill = std::process::Command::new("kill").args(["-INT", &watch.id().to_string()]).status().expect("kill");
    assert!(kill.success());
    assert_eq!(watch.wait().expect("it ends").code(), Some(0));
}

#[test]
fn watching_goes_on_after_errors() {
    let place = Place::new();
    let laptop = place.laptop();
    std::fs::remove_dir_all(place.path("hub")).expect("removed");
    std::fs::write(place.path("hub"), "a file where a folder was").expect("written");
    let mut watch = laptop.command(["sync", "--watch", "--interval", "200ms", "--json"]).spawn().expect("it runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let parse = |line: String| serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
    let first = parse(lines.next().expect("a line").expect("UTF-8"));
    assert_eq!(first["failed"][0]["remote"], json!("hub"));
    std::fs::remove_file(place.path("hub")).expect("removed");
    std::fs::create_dir(place.path("hub")).expect("mounted");
    let second = parse(lines.next().expect("a line").expect("UTF-8"));
    assert_eq!((&second["failed"], &second["remotes"][0]["remote"]), (&json!([]), &json!("hub")));
    watch.kill().expect("it runs");
    let gave = Gave::of(watch.wait_with_output().expect("it ends"));
    assert_eq!(gave.err.matches("error: ").count(), 1, "{gave:?}");
    assert!(gave.err.contains("trying again in"), "{gave:?}");
}
