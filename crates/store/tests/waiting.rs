//! What waits costs nothing until it may be ready, is bounded, and a merge tells how far it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isle_changeset::{Cause, Header, ValueRef};
use isle_clock::{Hlc, SiteId};
use isle_schema::Table;
use isle_store::{Frame, Merging, Runtime, Store, StoreError, Waiting};
use support::forger::{Forger, insert};
use support::reference::{Sealed, tables};
use support::{Device, START_MS, settle};

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)";

fn site(n: u64) -> SiteId {
    let mut id = [0x5a; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    SiteId::from_bytes(id)
}

fn cause(n: u64) -> Cause {
    Cause { site: site(n), version: 1, hlc: Hlc::new(START_MS - n, 1).unwrap() }
}

/// Version 1 of site `n`, whose author had seen version 1 of each site in `seen`. Later sites have earlier times.
fn forged(device: &Device, notes: &Table, n: u64, seen: &[u64]) -> Sealed {
    let mut forger = Forger::new(0, device);
    (forger.site, forger.ms) = (site(n), START_MS - n);
    let row = insert(notes, ValueRef::Integer(n as i64), ValueRef::Text(b"x"));
    forger.seal(notes.id, &row, |header| header.causes = seen.iter().map(|n| cause(*n)).collect())
}

fn frames(sealed: &[Sealed]) -> impl Iterator<Item = Frame<'_>> {
    sealed.iter().flat_map(|(header, blocks)| {
        let parsed = Header::decode(header).unwrap();
        let (site, version) = (parsed.site, parsed.version);
        let blocks = blocks.iter().enumerate().map(move |(index, bytes)| Frame::Block { site, version, index, bytes });
        std::iter::once(Frame::Header(header)).chain(blocks)
    })
}

/// Site `n` had seen site `n + 1`, and so on: the worst order in which they could be looked at.
fn chain(device: &Device, length: u64) -> Vec<Sealed> {
    let notes = tables(device).remove(0);
    let seen = |n| if n + 1 < length { vec![n + 1] } else { Vec::new() };
    (0..length).map(|n| forged(device, &notes, n, &seen(n))).collect()
}

#[test]
fn a_chain_of_sites_is_looked_at_in_proportion_to_its_length() {
    let device = Device::new(1, NOTES);
    let length = 2_000;
    let chain = chain(&device, length);
    let applied = device.store.receive(frames(&chain)).unwrap();
    assert_eq!((applied.versions, applied.waiting.len()), (length, 0));
    // Once when it is held, once when it is ready, once when nothing more of its site is there.
    assert!(applied.looks <= 3 * length + 10, "{} looks", applied.looks);
    device.check();
}

#[test]
fn what_waits_is_not_looked_at_again_by_each_merge() {
    let device = Device::new(1, NOTES);
    let length = 500;
    let chain = chain(&device, length);
    let (mut looks, mut merged) = (0, 0);
    for (n, one) in chain.iter().enumerate() {
        // As a sync does for each head that it reads.
        let applied = device.store.receive(frames(std::slice::from_ref(one))).unwrap();
        let again = device.store.apply().unwrap();
        device.store.name_site(site(n as u64), "somebody").unwrap();
        assert_eq!(again.looks, 0, "nothing has changed in between");
        assert_eq!(applied.waiting, again.waiting);
        looks += applied.looks;
        merged += applied.versions;
    }
    assert_eq!(merged, length);
    assert!(looks <= 3 * length + 10, "{looks} looks");
}

#[test]
fn many_causes_of_one_version_are_met_one_by_one() {
    let device = Device::new(1, NOTES);
    let notes = tables(&device).remove(0);
    let many: Vec<u64> = (1..=300).collect();
    let last = forged(&device, &notes, 0, &many);
    let applied = device.store.receive(frames(&[last])).unwrap();
    assert_eq!(applied.waiting.len(), 1);
    // Each that comes is the one that it waits for, and shows the next.
    let causes: Vec<Sealed> = many.iter().map(|n| forged(&device, &notes, *n, &[])).collect();
    let mut looks = 0;
    for one in &causes {
        looks += device.store.receive(frames(std::slice::from_ref(one))).unwrap().looks;
    }
    assert_eq!(device.rows("SELECT count(*) FROM notes"), ["Integer(301)"]);
    assert!(looks <= 3 * 301, "{looks} looks");
}

#[test]
fn what_another_connection_put_into_the_log_is_found() {
    let device = Device::new(1, NOTES);
    let notes = tables(&device).remove(0);
    let waits = forged(&device, &notes, 1, &[2]);
    assert_eq!(device.store.receive(frames(&[waits])).unwrap().waiting.len(), 1);
    let runtime = Arc::clone(&device.runtime) as Arc<dyn Runtime>;
    let other = Store::open(support::companion::options(device.path()), runtime).unwrap();
    other.put_frames(frames(&[forged(&device, &notes, 2, &[])])).unwrap();
    let applied = device.store.apply().unwrap();
    assert_eq!((applied.versions, applied.waiting.len()), (2, 0));
}

#[test]
fn a_version_from_the_future_is_looked_at_when_its_time_has_come() {
    let device = Device::new(1, NOTES);
    let notes = tables(&device).remove(0);
    let mut forger = Forger::new(9, &device);
    forger.ms = START_MS + 3_600_000;
    let row = insert(&notes, ValueRef::Integer(1), ValueRef::Text(b"early"));
    let early = forger.seal(notes.id, &row, |_| {});
    let applied = device.store.receive(frames(&[early])).unwrap();
    assert!(matches!(applied.waiting[..], [(_, 1, Waiting::Future(_))]), "{:?}", applied.waiting);
    assert_eq!(device.store.apply().unwrap().looks, 0);
    device.pass(3_600_000);
    assert_eq!(device.store.apply().unwrap().versions, 1);
}

#[test]
fn a_version_too_far_ahead_is_refused() {
    let device = Device::new(1, NOTES);
    let notes = tables(&device).remove(0);
    let row = insert(&notes, ValueRef::Integer(1), ValueRef::Text(b"x"));
    let at = |version: u64| {
        let mut forger = Forger::new(9, &device);
        forger.version = version - 1;
        forger.seal(notes.id, &row, |header| header.hlc = Hlc::new(START_MS, 9).unwrap())
    };
    let limit = 1 << 20;
    let error = device.store.receive(frames(&[at(limit + 1)])).unwrap_err();
    assert!(matches!(error, StoreError::TooFarAhead { applied: 0, .. }), "{error:?}");
    assert!(error.to_string().contains("no more than 1048576 may wait"), "{error}");
    assert!(device.store.receive(frames(&[at(limit)])).unwrap().waiting.len() == 1);
}

#[test]
fn a_merge_tells_how_far_it_is() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    // One changeset of several blocks, and many small ones.
    a.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
         INSERT INTO notes SELECT i, hex(randomblob(40)) FROM n",
    );
    for n in 0..50 {
        a.run(&format!("UPDATE notes SET title = 'again' WHERE id = {}", n + 1));
    }
    let last = a.store.vector().unwrap().get(a.site());
    let sealed: Vec<Sealed> = (1..=last).map(|version| a.export(a.site(), version).unwrap()).collect();
    let stored: u64 = sealed.iter().flat_map(|(_, blocks)| blocks).map(|block| block.len() as u64).sum();
    assert!(sealed.iter().any(|(_, blocks)| blocks.len() > 2));
    let mut told: Vec<Merging> = Vec::new();
    let applied = b.store.receive_with(frames(&sealed), &mut |at| told.push(at)).unwrap();
    assert_eq!(applied.versions, last);
    assert!(told.len() as u64 > last, "each block of the large one counts: {} of {last}", told.len());
    assert!(told.windows(2).all(|pair| pair[0].done_bytes < pair[1].done_bytes), "it moves");
    assert!(told.iter().all(|at| at.total_bytes == stored), "{} bytes wait from the beginning", stored);
    assert_eq!(told.last().unwrap().done_bytes, stored);
    let mut nothing = 0;
    b.store.apply_with(&mut |_| nothing += 1).unwrap();
    assert_eq!(nothing, 0);
    assert_eq!(a.hash(), b.hash());
}

#[test]
fn what_a_fast_clock_stamped_is_stamped_anew_unless_somebody_has_it() {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, NOTES));
    a.run("INSERT INTO notes VALUES(1, 'on time'), (2, 'stays'), (3, 'goes')");
    settle(&[&a, &b]);
    a.store.mark_published(a.store.status().unwrap().version).unwrap();
    assert_eq!(a.store.bring_back_clock().unwrap(), 0);
    let day = 86_400_000;
    let start = a.runtime.now_ms.load(Ordering::SeqCst);
    a.pass(day);
    a.run("UPDATE notes SET title = 'early' WHERE id = 1");
    a.run("DELETE FROM notes WHERE id = 3");
    a.run("INSERT INTO notes VALUES(4, 'new')");
    a.runtime.now_ms.store(start + 1_000, Ordering::SeqCst);
    b.pass(500);
    b.run("UPDATE notes SET title = 'by b' WHERE id = 2");
    let waiting = |of: &Device| of.store.apply().unwrap().waiting.len();
    let before = a.rows("SELECT * FROM notes ORDER BY id");
    assert_eq!(a.store.bring_back_clock().unwrap(), 3);
    assert_eq!(a.rows("SELECT * FROM notes ORDER BY id"), before);
    assert_eq!(a.store.status().unwrap().clock_ahead_ms, 0);
    b.pull(&a);
    assert_eq!(waiting(&b), 0, "nothing is held back");
    // A later write wins over what was stamped a day ahead.
    b.pass(5_000);
    b.run("UPDATE notes SET title = 'later' WHERE id = 1");
    settle(&[&a, &b]);
    assert_eq!(a.rows("SELECT title FROM notes WHERE id = 1"), b.rows("SELECT 'later'"));
    // Once somebody may have it, it stands.
    a.pass(day);
    a.run("UPDATE notes SET title = 'early' WHERE id = 2");
    a.store.mark_published(a.store.status().unwrap().version).unwrap();
    a.run("UPDATE notes SET title = 'too' WHERE id = 4");
    a.runtime.now_ms.store(start + 9_000, Ordering::SeqCst);
    assert_eq!(a.store.bring_back_clock().unwrap(), 0);
    assert!(a.store.status().unwrap().clock_ahead_ms > 0);
}

#[test]
fn a_clock_that_is_far_ahead_shows_in_the_status() {
    let device = Device::new(1, NOTES);
    device.run("INSERT INTO notes VALUES(1, 'on time')");
    assert_eq!(device.store.status().unwrap().clock_ahead_ms, 0);
    device.pass(3_600_000);
    device.run("INSERT INTO notes VALUES(2, 'an hour early')");
    assert_eq!(device.store.status().unwrap().clock_ahead_ms, 0, "nobody could know yet");
    device.runtime.now_ms.store(START_MS, Ordering::SeqCst);
    assert_eq!(device.store.status().unwrap().clock_ahead_ms, 3_600_000);
    device.pass(3_600_000 - 300_000);
    assert_eq!(device.store.status().unwrap().clock_ahead_ms, 0, "within the bound others take it");
}
