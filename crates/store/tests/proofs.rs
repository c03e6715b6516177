//! Nothing counts that its author's device has not signed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_changeset::{Hash, Header, ValueRef};
use isle_clock::SiteId;
use isle_identity::{DeviceSecret, prove};
use isle_store::{Applied, Frame, StoreError, Waiting};
use support::Device;
use support::forger::{Forger, insert};
use support::reference::{Sealed, tables};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

fn secret(n: u8) -> DeviceSecret {
    DeviceSecret::from_seed([n; 32]).unwrap()
}

fn owned(n: u8) -> Device {
    Device::owned(u64::from(n), SCHEMA, secret(n).key())
}

/// An author of this many versions, and a reader that has its schema.
fn pair(versions: i64) -> (Device, Device) {
    let (a, b) = (owned(1), owned(2));
    for n in 1..=versions {
        a.run(&format!("INSERT INTO t VALUES({n}, 'a')"));
    }
    (a, b)
}

fn version(device: &Device, version: u64) -> Sealed {
    device.export(device.site(), version).unwrap()
}

/// What device `n` signs of a version of its site.
fn signed(n: u8, device: &Device, version: u64, chain: &Hash) -> Vec<u8> {
    let nonce = device.store.site_nonce().unwrap().unwrap();
    prove(&secret(n), &nonce, device.store.status().unwrap().group, version, chain)
}

fn proof(device: &Device, n: u8, version: u64) -> Vec<u8> {
    let (header, _) = device.export(device.site(), version).unwrap();
    signed(n, device, version, &Header::hash(&header))
}

fn take(device: &Device, site: SiteId, version: u64, bytes: &[u8]) -> Result<Applied, StoreError> {
    device.store.receive(std::iter::once(Frame::Proof { site, version, bytes }))
}

fn ids(device: &Device) -> Vec<String> {
    device.rows("SELECT id || v FROM t ORDER BY id")
}

/// What somebody else writes in the name of a device, from its version 1 on.
fn forged(of: &Device, rows: i64) -> Vec<Sealed> {
    let table = tables(of).remove(0);
    let mut forger = Forger::new(9, of);
    forger.site = of.site();
    let value = ValueRef::Text(b"forged");
    (1..=rows).map(|n| forger.seal(table.id, &insert(&table, ValueRef::Integer(n), value), |_| {})).collect()
}

#[test]
fn what_is_not_signed_waits_and_a_signature_is_good_for_all_before_it() {
    let (a, b) = pair(3);
    let site = a.site();
    for n in 1..=3 {
        let (header, blocks) = version(&a, n);
        b.receive(&header, &blocks);
    }
    let applied = b.store.apply().unwrap();
    assert_eq!((applied.versions, &applied.waiting[..]), (0, &[(site, 1, Waiting::Unsigned)][..]));
    let applied = take(&b, site, 2, &proof(&a, 1, 2)).unwrap();
    assert_eq!((applied.versions, &applied.waiting[..]), (2, &[(site, 3, Waiting::Unsigned)][..]));
    assert_eq!(take(&b, site, 3, &proof(&a, 1, 3)).unwrap().versions, 1);
    assert_eq!(ids(&b), ids(&a));
    // Whoever asks b gets the signature with it, and what b itself writes needs none from others.
    assert_eq!(b.store.proof_for(site, 1).unwrap(), Some((3, proof(&a, 1, 3))));
    b.run("INSERT INTO t VALUES(9, 'b')");
    assert_eq!(b.store.apply().unwrap().waiting, []);
}

#[test]
fn a_signature_of_anybody_else_is_refused() {
    let (a, b) = pair(2);
    let site = a.site();
    let (header, _) = version(&a, 1);
    let chain = Header::hash(&header);
    let by_other = signed(3, &a, 1, &chain);
    let mut altered = proof(&a, 1, 1);
    altered[100] ^= 1;
    for (version, bytes) in [(1, by_other), (1, altered), (2, proof(&a, 1, 1)), (1, Vec::new())] {
        let error = take(&b, site, version, &bytes).unwrap_err();
        assert!(matches!(error, StoreError::BadProof { .. }), "{error}");
    }
    assert_eq!(b.store.proof_for(site, 1).unwrap(), None);
    // One so far ahead that nobody could wait for it.
    let error = take(&b, site, 1 << 40, &signed(1, &a, 1 << 40, &chain)).unwrap_err();
    assert!(matches!(error, StoreError::TooFarAhead { .. }), "{error}");
}

#[test]
fn what_was_forged_gives_way_to_what_the_author_wrote_in_any_order() {
    let (a, _) = pair(2);
    let site = a.site();
    let genuine = [version(&a, 1), version(&a, 2)];
    let forged = forged(&a, 2);
    // Numbers: 0 and 1 are genuine versions, 2 and 3 forged ones, 4 is the signature.
    let orders: [&[usize]; 7] = [
        &[2, 3, 4, 0, 1],
        &[4, 2, 3, 0, 1],
        &[2, 0, 3, 1, 4],
        &[2, 1, 4, 0, 1],
        &[0, 3, 4, 1, 0, 1],
        &[4, 2, 0, 3, 1, 0, 1],
        &[3, 1, 2, 0, 1, 4],
    ];
    for order in orders {
        let b = owned(2);
        for n in order {
            match n {
                4 => drop(take(&b, site, 2, &proof(&a, 1, 2)).unwrap()),
                n => {
                    let (header, blocks) = if *n < 2 { &genuine[*n] } else { &forged[*n - 2] };
                    b.receive(header, blocks);
                    b.store.apply().unwrap();
                }
            }
            assert!(ids(&b).iter().all(|row| !row.contains("forged")), "{order:?}: a forged row shows");
        }
        // Whatever was thrown away is asked for again.
        for (header, blocks) in &genuine {
            b.receive(header, blocks);
        }
        b.store.apply().unwrap();
        assert_eq!(ids(&b), ids(&a), "{order:?}");
        assert_eq!(b.store.status().unwrap().waiting, 0, "{order:?}");
    }
}

#[test]
fn a_chain_that_does_not_lead_to_the_signed_version_is_thrown_away() {
    let (a, b) = pair(1);
    let site = a.site();
    take(&b, site, 1, &proof(&a, 1, 1)).unwrap();
    let (header, blocks) = &forged(&a, 1)[0];
    b.receive(header, blocks);
    let applied = b.store.apply().unwrap();
    assert_eq!(applied.waiting, [(site, 1, Waiting::Version { missing: 1 })]);
    assert_eq!(b.store.header(site, 1).unwrap(), None, "it takes up room");
}

#[test]
fn two_histories_that_one_device_signed_are_a_fork() {
    let (a, b) = pair(1);
    let site = a.site();
    take(&b, site, 1, &proof(&a, 1, 1)).unwrap();
    let other = signed(1, &a, 1, &[9; 32]);
    assert!(matches!(take(&b, site, 1, &other), Err(StoreError::Fork { .. })));
    let (header, blocks) = version(&a, 1);
    b.receive(&header, &blocks);
    assert_eq!(b.store.apply().unwrap().versions, 1);
    assert!(matches!(take(&b, site, 1, &other), Err(StoreError::Fork { .. })), "also after it was merged");
}

#[test]
fn own_versions_are_signed_at_intervals_and_at_the_end_and_once() {
    let (a, _) = pair(600);
    let nonce = a.store.site_nonce().unwrap().unwrap();
    let group = a.store.status().unwrap().group;
    let sign = |last: u64| {
        let open = a.store.unsigned(last).unwrap();
        let versions: Vec<u64> = open.iter().map(|(version, _)| *version).collect();
        let proofs: Vec<_> = open
            .into_iter()
            .map(|(version, chain)| (version, chain, prove(&secret(1), &nonce, group, version, &chain)))
            .collect();
        a.store.mark_signed(last, &proofs).unwrap();
        versions
    };
    assert_eq!(sign(600), [256, 512, 600]);
    assert!(sign(600).is_empty());
    let of = |version| a.store.proof_for(a.site(), version).unwrap().map(|(last, _)| last);
    assert_eq!((of(1), of(257), of(513), of(600), of(601)), (Some(256), Some(512), Some(600), Some(600), None));
    a.run("INSERT INTO t VALUES(601, 'a')");
    assert_eq!(sign(601), [601]);
    assert_eq!(of(513), Some(601), "one in between is good for nothing that the next is not");
    // A signature of something else than what stands in the log is not kept.
    a.run("INSERT INTO t VALUES(602, 'a')");
    let wrong = prove(&secret(1), &nonce, group, 602, &[1; 32]);
    a.store.mark_signed(602, &[(602, [1; 32], wrong)]).unwrap();
    assert_eq!(of(602), None);
}

#[test]
fn what_is_proven_cannot_be_pushed_out_by_what_follows() {
    let (a, b) = pair(3);
    let site = a.site();
    take(&b, site, 2, &proof(&a, 1, 2)).unwrap();
    for n in 1..=2 {
        b.receive(&version(&a, n).0, &[]);
    }
    assert_eq!(b.store.apply().unwrap().waiting, [(site, 1, Waiting::Blocks)]);
    // One that follows what is proven, and one that does not follow it: both are thrown away, and nothing else is.
    let table = tables(&a).remove(0);
    let mut forger = Forger::new(9, &a);
    (forger.site, forger.version, forger.previous) = (site, 2, Header::hash(&version(&a, 2).0));
    let row = insert(&table, ValueRef::Integer(7), ValueRef::Text(b"forged"));
    let (third, blocks) = forger.seal(table.id, &row, |_| {});
    b.receive(&third, &blocks);
    let (fourth, blocks) = forger.seal(table.id, &row, |header| header.previous = [3; 32]);
    b.receive(&fourth, &blocks);
    assert_eq!(b.store.header(site, 3).unwrap(), None, "it was kept");
    assert_eq!(b.store.header(site, 2).unwrap(), Some(version(&a, 2).0), "what was proven is gone");
    let (first, _) = &forged(&a, 1)[0];
    assert!(matches!(b.store.put_header(first), Err(StoreError::Fork { .. })), "a forged version takes its place");
    for n in 1..=2 {
        let (header, blocks) = version(&a, n);
        b.receive(&header, &blocks);
    }
    assert_eq!(b.store.apply().unwrap().versions, 2);
    assert_eq!(ids(&b), ids(&a)[..2]);
}

#[test]
fn what_nobody_vouches_for_is_not_said_to_be_here() {
    let (a, b) = pair(2);
    let site = a.site();
    for (header, blocks) in &forged(&a, 2) {
        b.receive(header, blocks);
    }
    b.store.apply().unwrap();
    assert_eq!(b.store.held().unwrap().held.get(site), 0, "others would not send what the author wrote");
    take(&b, site, 2, &proof(&a, 1, 2)).unwrap();
    for n in 1..=2 {
        b.receive(&version(&a, n).0, &[]);
        b.store.apply().unwrap();
    }
    let (header, blocks) = version(&a, 1);
    b.receive(&header, &blocks);
    b.store.apply().unwrap();
    assert_eq!(b.store.vector().unwrap().get(site), 1);
}

#[test]
fn a_signature_far_ahead_costs_no_walk() {
    let (a, b) = pair(1);
    let site = a.site();
    let (header, blocks) = version(&a, 1);
    take(&b, site, 5_000, &signed(1, &a, 5_000, &[1; 32])).unwrap();
    b.receive(&header, &blocks);
    assert_eq!(b.store.apply().unwrap().waiting, [(site, 1, Waiting::Unsigned)]);
    assert_eq!(take(&b, site, 1, &proof(&a, 1, 1)).unwrap().versions, 1, "a nearer one helps");
}

#[test]
fn a_signature_of_a_version_that_may_never_come_is_good_without_it() {
    let (a, b) = pair(1);
    let site = a.site();
    a.pass(3_600_000);
    for n in 2..=4 {
        a.run(&format!("INSERT INTO t VALUES({n}, 'later')"));
    }
    for n in 1..=4 {
        let (header, blocks) = version(&a, n);
        b.receive(&header, &blocks);
    }
    let applied = take(&b, site, 4, &proof(&a, 1, 4)).unwrap();
    assert!(matches!(applied.waiting[..], [(_, 2, Waiting::Future(_))]), "{applied:?}");
    // The signature is of version 4, which is an hour ahead: whoever has version 1 of b alone can take it all the same.
    let (good_for, long) = b.store.proof_for(site, 1).unwrap().expect("a signature");
    assert_eq!(good_for, 1);
    let (header, blocks) = version(&a, 1);
    let reader = || {
        let reader = owned(3);
        reader.receive(&header, &blocks);
        reader
    };
    let c = reader();
    assert_eq!(take(&c, site, 1, &long).unwrap().versions, 1);
    assert_eq!(ids(&c).len(), 1);
    assert_eq!(c.store.proof_for(site, 1).unwrap(), Some((1, long.clone())), "and is passed on");
    // It says nothing of any other version, and not a bit of it may be another.
    for version in [0, 2, 3] {
        take(&reader(), site, version, &long).unwrap_err();
    }
    for at in (0..long.len()).step_by(7).chain(140..152) {
        let mut altered = long.clone();
        altered[at] ^= 0x10;
        let d = reader();
        assert!(take(&d, site, 1, &altered).is_err(), "byte {at}");
        assert_eq!(ids(&d), [""; 0]);
    }
    for length in [0, 143, 145, long.len() - 1] {
        take(&reader(), site, 1, &long[..length]).unwrap_err();
    }
    // A version of a's that nobody signed does not come in by what follows it.
    let d = owned(3);
    let (header, blocks) = &forged(&a, 1)[0];
    d.receive(header, blocks);
    let taken = take(&d, site, 1, &long).unwrap();
    assert_eq!((taken.versions, ids(&d).len()), (0, 0));
}
