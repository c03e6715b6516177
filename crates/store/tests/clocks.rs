//! Clocks that are wrong: what was seen counts before what a device holds for the time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isle_changeset::Header;
use isle_clock::Hlc;
use isle_store::{Options, Runtime, Store};
use support::{Device, settle};

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)";
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// The times of the device's own versions, the first one first.
fn times(device: &Device) -> Vec<Hlc> {
    let last = device.store.status().unwrap().version;
    let header = |version| device.store.header(device.site(), version).unwrap().unwrap();
    (1..=last).map(|version| Header::decode(&header(version)).unwrap().hlc).collect()
}

fn rises(times: &[Hlc]) {
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

fn back(device: &Device, ms: u64) {
    device.runtime.now_ms.fetch_sub(ms, Ordering::SeqCst);
}

#[test]
fn a_device_that_starts_again_a_day_earlier_still_writes_later_than_before() {
    let (mut a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'first')");
    a.run("UPDATE notes SET title = 'second'");
    back(&a, DAY);
    a.restart();
    a.run("UPDATE notes SET title = 'third'");
    // Another client has the time of the machine; here that is before everything.
    back(&a, 400 * DAY);
    a.restart();
    a.foreign("UPDATE notes SET title = 'fourth'");
    a.store.seal().unwrap();
    rises(&times(&a));
    assert_eq!(times(&a).len(), 4);
    // Of two days that pass twice the second one counts: the others show what was written last.
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT title = 'fourth' FROM notes"), ["Integer(1)"]);
    assert_eq!(b.store.status().unwrap().conflicts, 0);
}

#[test]
fn what_was_merged_before_a_restart_with_an_earlier_clock_is_written_over_and_not_lost_against() {
    let (mut a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    b.pass(4 * 60_000);
    b.run("INSERT INTO notes VALUES(1, 'of b, whose clock is ahead')");
    a.pull(&b);
    back(&a, DAY);
    a.restart();
    a.run("UPDATE notes SET title = 'of a, who had seen it'");
    assert!(times(&a)[0] > times(&b)[0], "{:?} {:?}", times(&a), times(&b));
    settle(&[&a, &b]);
    assert_eq!(b.rows("SELECT title = 'of a, who had seen it' FROM notes"), ["Integer(1)"]);
    assert_eq!(a.store.status().unwrap().conflicts + b.store.status().unwrap().conflicts, 0);
}

/// Two devices that believe clocks up to two hours ahead; that of the first one is ahead by one.
fn skewed() -> (Device, Device) {
    let (mut a, mut b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    for device in [&mut a, &mut b] {
        let options = Options { drift: Duration::from_secs(2 * 3600), ..support::companion::options(device.path()) };
        device.store = Store::open(options, Arc::clone(&device.runtime) as Arc<dyn Runtime>).unwrap();
    }
    a.pass(HOUR);
    (a, b)
}

#[test]
fn an_edit_made_after_seeing_anothers_stands_though_its_clock_is_an_hour_behind() {
    let (a, b) = skewed();
    a.run("INSERT INTO notes VALUES(1, 'of a'), (2, 'of a')");
    b.pull(&a);
    for round in 0..3 {
        b.pass(1_000);
        b.run(&format!("UPDATE notes SET title = 'of b {round}' WHERE id = 1"));
        b.foreign(&format!("UPDATE notes SET title = 'of b by another client {round}' WHERE id = 2"));
        a.pull(&b);
        let seen = format!("SELECT title IN ('of b {round}', 'of b by another client {round}') FROM notes");
        assert_eq!(a.rows(&seen), ["Integer(1)", "Integer(1)"], "round {round}");
        a.pass(1_000);
        a.run(&format!("UPDATE notes SET title = 'of a {round}'"));
        b.pull(&a);
        assert_eq!(b.rows(&format!("SELECT title = 'of a {round}' FROM notes")), ["Integer(1)"; 2], "round {round}");
    }
    settle(&[&a, &b]);
    assert_eq!(a.store.status().unwrap().conflicts + b.store.status().unwrap().conflicts, 0, "nobody wrote unseen");
}

#[test]
fn of_edits_that_did_not_see_each_other_the_clock_decides_and_the_journal_has_the_other() {
    let (a, b) = skewed();
    a.run("INSERT INTO notes VALUES(1, 'x')");
    settle(&[&a, &b]);
    a.pass(1_000);
    a.run("UPDATE notes SET title = 'of a, an hour ahead'");
    // Half an hour later for whoever looks at both.
    b.pass(HOUR / 2);
    b.run("UPDATE notes SET title = 'of b'");
    let (of_a, of_b) = (times(&a), times(&b));
    assert!(of_a[0] < of_b[0] && of_b[0] < of_a[1], "b goes by what it has seen: {of_a:?} {of_b:?}");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT title = 'of a, an hour ahead' FROM notes"), ["Integer(1)"]);
    assert_eq!(b.store.conflicts(false, 10).unwrap().len() + a.store.conflicts(false, 10).unwrap().len(), 2);
}
