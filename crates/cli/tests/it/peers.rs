//! Devices that are let in, call each other and are put out: real processes over loopback.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::support::{Device, Place};

/// A command that goes on, whose output is read line by line. It ends with the test.
struct Going {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Drop for Going {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Going {
    fn start<const N: usize>(device: &Device, args: [&str; N]) -> Going {
        let mut child = device.command(args).stdout(Stdio::piped()).spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Going { child, lines }
    }

    /// The next object that fits; what the tests wait for always comes, or the process ends.
    fn next(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.next().expect("it goes on").expect("UTF-8");
            let object: Value = serde_json::from_str(&line).expect("JSON");
            if fits(&object) {
                return object;
            }
        }
    }

    fn event(&mut self, name: &str) -> Value {
        self.next(|object| object["event"] == name)
    }
}

fn invite(device: &Device) -> (Going, String) {
    let mut inviting = Going::start(device, ["--json", "invite", "--listen", "127.0.0.1:0"]);
    let ticket = inviting.next(|object| object["ticket"].is_string());
    (inviting, ticket["ticket"].as_str().expect("text").to_owned())
}

/// A device with a table, which knows no remote.
fn desk(place: &Place) -> Device {
    let device = place.device("desk");
    device.ok(["exec", "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)"]);
    device.ok(["track", "notes"]);
    device.ok(["exec", "INSERT INTO notes VALUES(1, 'Dune')"]);
    device
}

fn joined(place: &Place, inviter: &Device, name: &str) -> Device {
    let device = place.device(name);
    let (mut inviting, ticket) = invite(inviter);
    device.ok(["join", &ticket, "app.db"]);
    assert_eq!(inviting.event("joined")["name"], name);
    assert!(inviting.child.wait().expect("it ends").success());
    device
}

#[test]
fn a_device_joins_by_hand_and_says_what_it_got() {
    let place = Place::new();
    let desk = desk(&place);
    let phone = place.bare("phone");
    let (_inviting, ticket) = invite(&desk);
    // A new file, and the ticket from standard input.
    let gave = phone.feed(["join", "-", "new.db"], &format!("  {}\n", ticket.to_uppercase()));
    assert_eq!(gave.code, 0, "{gave:?}");
    assert!(gave.out.contains("belongs to the group of desk") && gave.out.contains("pulled 1 change"), "{gave:?}");
    assert_eq!(phone.rows("SELECT title FROM notes"), ["Dune"]);
    let again = phone.run(["join", &ticket, "other.db"]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("used already") || again.err.contains("nobody answers"), "{again:?}");
    let wrong = phone.run(["join", "isle1nonsense", "new.db"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("damaged"), "{wrong:?}");
}

#[test]
fn three_processes_stay_connected_and_a_change_goes_through_the_middle() {
    let place = Place::new();
    let desk = desk(&place);
    let phone = joined(&place, &desk, "phone");
    let tablet = joined(&place, &desk, "tablet");
    let mut serving = Going::start(&desk, ["--json", "serve", "--listen", "127.0.0.1:0"]);
    let listening = serving.event("listening");
    let address = listening["addresses"][0].as_str().expect("an address");
    for device in [&phone, &tablet] {
        device.ok(["peers", "forget", "desk"]);
        device.ok(["peers", "add", "desk", address]);
    }
    let mut on_phone = Going::start(&phone, ["--json", "sync", "--live"]);
    let mut on_tablet = Going::start(&tablet, ["--json", "sync", "--live"]);
    assert_eq!(on_phone.event("caught_up")["name"], "desk");
    on_tablet.event("caught_up");
    // Another process writes on the phone; the tablet never talks to the phone.
    phone.ok(["exec", "INSERT INTO notes VALUES(2, 'Ubik')"]);
    on_tablet.next(|object| object["event"] == "exchanged" && object["received"] == 1);
    assert_eq!(tablet.rows("SELECT title FROM notes ORDER BY id"), ["Dune", "Ubik"]);
    // The middle is killed and comes back: nothing is lost, and nothing has to be done by hand.
    serving.child.kill().expect("killed");
    tablet.ok(["exec", "INSERT INTO notes VALUES(3, 'Emma')"]);
    phone.ok(["exec", "INSERT INTO notes VALUES(4, 'Solaris')"]);
    let listen = ["--json", "serve", "--listen", address];
    let mut serving = Going::start(&desk, listen);
    for _ in 0..2 {
        serving.next(|object| object["event"] == "exchanged" && object["received"] == 1);
    }
    on_phone.next(|object| object["event"] == "exchanged" && object["received"] == 1);
    on_tablet.next(|object| object["event"] == "exchanged" && object["received"] == 1);
    assert_eq!(phone.json(["hash"]), tablet.json(["hash"]));
    assert_eq!(phone.json(["hash"]), desk.json(["hash"]));
}

#[test]
fn a_device_that_is_put_out_is_told_so() {
    let place = Place::new();
    let desk = desk(&place);
    let phone = joined(&place, &desk, "phone");
    let asks = desk.run(["peers", "revoke", "phone"]);
    assert_eq!(asks.code, 3, "{asks:?}");
    desk.ok(["peers", "revoke", "phone", "--yes"]);
    let listed = desk.json(["peers"]);
    let listed = listed.as_array().expect("a list");
    assert!(listed.iter().any(|peer| peer["name"] == "phone" && peer["revoked"] == true), "{listed:?}");
    let mut serving = Going::start(&desk, ["--json", "serve", "--listen", "127.0.0.1:0"]);
    let address = serving.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
    phone.ok(["peers", "add", "desk", &address]);
    let refused = phone.run(["sync"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("not enrolled"), "{refused:?}");
    serving.event("turned_away");
}

#[test]
fn a_device_with_the_key_of_a_remote_needs_no_ticket_beside_devices_that_have_one() {
    let place = Place::new();
    let desk = desk(&place);
    desk.ok(["remote", "add", "hub", &place.text("hub")]);
    desk.ok(["sync"]);
    joined(&place, &desk, "phone");
    desk.ok(["sync"]);
    let tablet = place.device("tablet");
    tablet.ok(["remote", "add", "hub", &place.text("hub")]);
    tablet.takes_key_of(&desk);
    for _ in 0..2 {
        let gave = tablet.run(["sync"]);
        assert_eq!(gave.code, 0, "{gave:?}");
    }
    assert_eq!(tablet.json(["hash"])["merged"], desk.json(["hash"])["merged"]);
}

#[test]
fn a_peer_that_is_off_is_no_failure_beside_a_remote() {
    let place = Place::new();
    let desk = desk(&place);
    let phone = joined(&place, &desk, "phone");
    let alone = phone.run(["sync"]);
    assert_eq!(alone.code, 1, "there is nothing else: {alone:?}");
    assert!(alone.err.contains("desk") && alone.err.contains("isle serve"), "{alone:?}");
    phone.ok(["remote", "add", "hub", &place.text("hub")]);
    let beside = phone.run(["sync"]);
    assert_eq!(beside.code, 0, "{beside:?}");
    assert!(beside.out.contains("desk could not be reached"), "{beside:?}");
    let json = phone.json(["sync"]);
    assert_eq!((json["failed"].as_array().map(Vec::len), json["away"][0]["remote"].as_str()), (Some(0), Some("desk")));
    phone.ok(["peers", "forget", "desk"]);
    let forgotten = phone.run(["sync"]);
    assert!(forgotten.code == 0 && !forgotten.out.contains("desk"), "{forgotten:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn what_other_programs_write_while_devices_are_connected_stays() {
    let place = Place::new();
    let desk = desk(&place);
    let phone = joined(&place, &desk, "phone");
    let mut serving = Going::start(&desk, ["--json", "serve", "--listen", "127.0.0.1:0"]);
    let address = serving.event("listening")["addresses"][0].as_str().expect("an address").to_owned();
    phone.ok(["peers", "add", "desk", &address]);
    let mut live = Going::start(&phone, ["--json", "sync", "--live", "--interval", "200ms"]);
    live.event("caught_up");
    // Each shell opens the file, writes, and closes it as if it were alone; it waits where isle writes at that moment.
    let patient = "PRAGMA busy_timeout = 10000;";
    for n in 10..20 {
        crate::support::sqlite3(&desk.db(), &format!("{patient} INSERT INTO notes VALUES({n}, 'on the desk')"));
        crate::support::sqlite3(&phone.db(), &format!("{patient} INSERT INTO notes VALUES({n} + 100, 'on the phone')"));
    }
    for going in [&serving, &live] {
        let pid = going.child.id();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").flatten();
        let gone = open.filter_map(|file| std::fs::read_link(file.path()).ok());
        let gone: Vec<_> = gone.filter(|path| path.to_string_lossy().contains("(deleted)")).collect();
        assert!(gone.is_empty(), "files were deleted under it: {gone:?}");
    }
    // Ended as Ctrl-C does, and what was under way is exchanged.
    for going in [&mut serving, &mut live] {
        let ended = std::process::Command::new("kill").args(["-INT", &going.child.id().to_string()]).status();
        assert!(ended.expect("kill runs").success());
        assert!(going.child.wait().expect("it ends").success());
    }
    let _serving = Going::start(&desk, ["--json", "serve", "--listen", &address]);
    phone.ok(["sync"]);
    for device in [&desk, &phone] {
        assert_eq!(device.rows("SELECT count(*) FROM notes"), ["21"]);
        device.ok(["doctor"]);
    }
    assert_eq!(desk.json(["hash"]), phone.json(["hash"]));
}

#[test]
fn a_device_is_invited_beside_a_server_that_goes_on() {
    let place = Place::new();
    let desk = desk(&place);
    let mut serving = Going::start(&desk, ["--json", "serve", "--listen", "127.0.0.1:0"]);
    let address = serving.event("listening")["addresses"][0].clone();
    let mut inviting = Going::start(&desk, ["--json", "invite"]);
    let ticket = inviting.next(|object| object["ticket"].is_string());
    assert_eq!(ticket["addresses"][0], address, "the server answers");
    let phone = place.device("phone");
    phone.ok(["join", ticket["ticket"].as_str().expect("text"), "app.db"]);
    assert_eq!(inviting.event("joined")["name"], "phone");
    assert!(inviting.child.wait().expect("it ends").success());
    phone.ok(["exec", "INSERT INTO notes VALUES(5, 'Emma')"]);
    phone.ok(["sync"]);
    assert_eq!(desk.json(["hash"]), phone.json(["hash"]));
    // One process is connected for a file; a second one would take its connections away.
    assert!(desk.fails(4, ["sync", "--live"]).contains("end it first"));
    // A ticket that is refused leaves no file behind.
    let other = place.bare("other");
    other.fails(1, ["join", ticket["ticket"].as_str().expect("text"), "new.db"]);
    assert!(!other.folder.join("new.db").exists());
}

#[test]
fn whoever_let_a_device_in_is_told_how_that_one_can_be_reached() {
    let place = Place::new();
    let (desk, phone) = (desk(&place), place.device("phone"));
    assert_eq!(desk.json(["status"])["state"], "on its own: nothing to sync with");
    let (mut inviting, ticket) = invite(&desk);
    phone.ok(["join", &ticket]);
    inviting.event("joined");
    drop(inviting);
    desk.ok(["exec", "INSERT INTO notes VALUES(9, 'Ubik')"]);
    assert_eq!(desk.json(["status"])["state"], "1 change to send");
    let said = desk.fails(1, ["sync"]);
    assert!(said.contains("not known where phone can be reached") && said.contains("isle serve"), "{said}");
}
