//! What direct sync asks of the file: what somebody lacks, in which order, and what is here beyond what is applied.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;

use isle_changeset::Header;
use isle_clock::{Hlc, SiteId, VersionVector};
use isle_store::{Frame, StoreError};

use support::Device;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

/// Two devices that have answered each other `rounds` times.
fn talk(rounds: i64) -> (Device, Device) {
    let (a, b) = (Device::new(1, SCHEMA), Device::new(2, SCHEMA));
    for n in 0..rounds {
        a.pass(10);
        a.run(&format!("INSERT INTO t VALUES({}, 'a')", 2 * n));
        b.pull(&a);
        b.pass(10);
        b.run(&format!("INSERT INTO t VALUES({}, 'b')", 2 * n + 1));
        a.pull(&b);
    }
    (a, b)
}

#[test]
fn causes_come_first_however_little_is_asked_for_at_once() {
    let (a, b) = talk(40);
    for bytes in [1, 700, 1 << 20] {
        let mut have = VersionVector::new();
        let mut given: Vec<(SiteId, u64)> = Vec::new();
        loop {
            let lacking = a.store.lacking(&have, &BTreeSet::new(), bytes).unwrap();
            assert!(!lacking.gap && lacking.applied == a.store.vector().unwrap());
            assert!(!lacking.more || !lacking.changesets.is_empty(), "whoever asks again gets on");
            for (site, logged) in &lacking.changesets {
                let header = Header::decode(&logged.header).unwrap();
                assert_eq!(have.get(*site) + 1, logged.version, "{bytes}");
                assert!(header.causes.iter().all(|cause| have.contains(cause.site, cause.version)), "{bytes}");
                have.advance(*site, logged.version);
                given.push((*site, logged.version));
            }
            if !lacking.more {
                break;
            }
        }
        assert_eq!((given.len(), &have), (80, &a.store.vector().unwrap()), "{bytes}");
    }
    let without: BTreeSet<SiteId> = [b.site()].into();
    let only = a.store.lacking(&VersionVector::new(), &without, 1 << 20).unwrap();
    assert!(only.changesets.len() == 40 && only.changesets.iter().all(|(site, _)| *site == a.site()));
}

#[test]
fn what_the_disk_damaged_in_the_log_is_not_handed_over() {
    let (a, _b) = talk(3);
    let conn = rusqlite::Connection::open(a.path()).unwrap();
    let mut statement = conn.prepare("SELECT id, header, body FROM isle_log").unwrap();
    let logged = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let logged: Vec<(i64, Vec<u8>, Vec<u8>)> = logged.unwrap().map(Result::unwrap).collect();
    assert_eq!(logged.len(), 6);
    let none = BTreeSet::new();
    for (id, header, body) in &logged {
        let Header { site, version, .. } = Header::decode(header).unwrap();
        let (sound, _) = a.store.changesets(site, version - 1, 1).unwrap();
        assert_eq!((&sound[0].header, sound[0].only.as_ref()), (header, Some(body)));
        assert_eq!(a.store.block(site, version, 1).unwrap(), None, "there is just one");
        for (column, bytes) in [("header", header), ("body", body)] {
            // The own last header has nothing that names its hash yet.
            if column == "header" && (site, version) == (a.site(), 3) {
                continue;
            }
            let set = format!("UPDATE isle_log SET {column} = ?2 WHERE id = ?1");
            for bit in (0..bytes.len() * 8).step_by(7) {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                conn.execute(&set, rusqlite::params![id, flipped]).unwrap();
                let damage = |error| matches!(error, StoreError::LogDamaged { site: of, .. } if of == site);
                let place = format!("bit {bit} of the {column} of version {version}");
                assert!(a.store.changesets(site, 0, usize::MAX).is_err_and(damage), "{place}");
                assert!(a.store.changesets(site, version - 1, 1).is_err_and(damage), "{place}");
                assert!(a.store.lacking(&VersionVector::new(), &none, 1 << 20).is_err_and(damage), "{place}");
                assert!(a.store.check().unwrap().findings.iter().any(|finding| finding.check == "log"), "{place}");
                assert!(column == "header" || a.store.block(site, version, 0).is_err_and(damage), "{place}");
            }
            conn.execute(&set, rusqlite::params![id, bytes]).unwrap();
        }
    }
    assert_eq!(a.store.lacking(&VersionVector::new(), &none, 1 << 20).unwrap().changesets.len(), 6);
}

#[test]
fn a_damaged_block_of_a_large_changeset_is_not_handed_over() {
    let a = Device::new(1, SCHEMA);
    a.run("INSERT INTO t SELECT value, randomblob(1000000) FROM json_each('[1, 2, 3, 4]')");
    let count = Header::decode(&a.store.header(a.site(), 1).unwrap().unwrap()).unwrap().blocks.len();
    assert!(count > 2, "{count}");
    let conn = rusqlite::Connection::open(a.path()).unwrap();
    conn.execute("UPDATE isle_block SET body = zeroblob(length(body)) WHERE n = 1", []).unwrap();
    assert!(a.store.block(a.site(), 1, 0).unwrap().is_some());
    let damaged = a.store.block(a.site(), 1, 1).unwrap_err();
    assert!(matches!(damaged, StoreError::LogDamaged { version: 1, .. }), "{damaged}");
}

#[test]
fn what_left_the_log_is_a_gap_and_the_rest_is_given() {
    let (a, b) = talk(5);
    a.store.mark_published(5).unwrap();
    a.store.prune_log(Hlc::MAX).unwrap();
    a.run("INSERT INTO t VALUES(100, 'new')");
    let lacking = a.store.lacking(&VersionVector::new(), &BTreeSet::new(), 1 << 20).unwrap();
    assert!(lacking.gap && lacking.changesets.iter().all(|(_, logged)| logged.version > 1));
    let known = b.store.vector().unwrap();
    let new = a.store.lacking(&known, &BTreeSet::new(), 1 << 20).unwrap();
    assert_eq!((new.gap, new.changesets.len()), (false, 1), "who is up to date gets what is new");
}

#[test]
fn what_is_here_in_part_or_waits_is_told_and_not_asked_for_again() {
    let (a, b) = talk(2);
    let c = Device::new(3, SCHEMA);
    c.pull(&a);
    // A changeset of several blocks, of which two come.
    a.run("WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO t SELECT i, hex(randomblob(300)) FROM n");
    let version = a.store.vector().unwrap().get(a.site());
    let (header, blocks) = a.export(a.site(), version).unwrap();
    assert!(blocks.len() > 3, "{} blocks", blocks.len());
    c.receive(&header, &blocks[..2]);
    // And one out of turn counts for nothing before the gap is closed.
    let late = Frame::Block { site: a.site(), version, index: 3, bytes: &blocks[3] };
    c.store.put_frames(std::iter::once(late)).unwrap();
    // What b wrote in knowledge of it is whole and waits.
    b.pull(&a);
    b.run("INSERT INTO t VALUES(50, 'after')");
    let after = b.store.vector().unwrap().get(b.site());
    let (next_header, next_blocks) = b.export(b.site(), after).unwrap();
    c.receive(&next_header, &next_blocks);
    c.store.apply().unwrap();
    let held = c.store.held().unwrap();
    assert_eq!(
        held.partial.iter().map(|part| (part.site, part.version, part.blocks)).collect::<Vec<_>>(),
        [(a.site(), version, 2)]
    );
    assert_eq!((held.held.get(b.site()), held.held.get(a.site())), (after, 0));
    assert_eq!(held.applied.get(b.site()), after - 1);
    let nothing = c.store.lacking(&VersionVector::new(), &BTreeSet::new(), 1 << 24).unwrap();
    assert!(nothing.changesets.iter().all(|(site, logged)| *site != b.site() || logged.version < after), "it waits");
    c.receive(&header, &blocks);
    c.store.apply().unwrap();
    let held = c.store.held().unwrap();
    assert!(held.partial.is_empty() && held.held.is_empty() && held.applied.includes(&b.store.vector().unwrap()));
    // Two histories are told apart by the hash of a version, the last one and those before.
    for (site, last, chain) in c.store.chains().unwrap() {
        assert_eq!(b.store.chain_at(site, last).unwrap(), Some(chain));
    }
    let first = Header::hash(&a.export(a.site(), 1).unwrap().0);
    assert_eq!(c.store.chain_at(a.site(), 1).unwrap(), Some(first));
    assert_eq!(c.store.chain_at(a.site(), version + 1).unwrap(), None);
}
