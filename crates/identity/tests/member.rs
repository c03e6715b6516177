//! Who belongs to a group after what: histories of several devices that know of each other only in part.
#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking, as tests do")]

use isle_clock::GroupId;
use isle_identity::{Action, Cut, DeviceSecret, MemberError, MemberOp, Membership, OpId, device_id, group_id, site_id};
use proptest::prelude::*;

fn device(n: u8) -> DeviceSecret {
    DeviceSecret::from_seed([n; 32]).expect("a key")
}

fn group() -> GroupId {
    group_id(&device(0).key(), &[7; 16])
}

fn op(author: u8, parents: &[&MemberOp], action: Action) -> MemberOp {
    let parents: Vec<OpId> = parents.iter().map(|op| op.id()).collect();
    MemberOp::sign(&device(author), group(), parents, action).expect("signs")
}

fn enrol(n: u8) -> Action {
    Action::Enrol { device: device(n).key(), name: format!("device {n}") }
}

fn revoke(n: u8) -> Action {
    Action::Revoke { device: device(n).key(), cuts: Vec::new() }
}

fn found() -> MemberOp {
    MemberOp::found(&device(0), [7; 16], "device 0").expect("signs")
}

/// Which of the devices 0..8 belong.
fn members(ops: &[MemberOp]) -> Vec<u8> {
    let membership = Membership::fold(ops);
    (0..8).filter(|n| membership.is_member(&device(*n).key())).collect()
}

#[test]
fn nobody_founds_the_group_of_another() {
    let forged = MemberOp::sign(&device(1), group(), Vec::new(), Action::Found { nonce: [7; 16], name: "x".into() });
    assert_eq!(members(&[forged.expect("signs")]), []);
    assert_eq!(members(&[found()]), [0]);
}

#[test]
fn only_members_let_others_in() {
    let f = found();
    let by_stranger = op(3, &[&f], enrol(3));
    let by_member = op(0, &[&f], enrol(1));
    let by_new_member = op(1, &[&by_member], enrol(2));
    let too_early = op(1, &[&f], enrol(4));
    let ops = [by_new_member, by_stranger, too_early, f, by_member];
    assert_eq!(members(&ops), [0, 1, 2]);
}

#[test]
fn an_operation_waits_for_its_parents() {
    let f = found();
    let first = op(0, &[&f], enrol(1));
    let second = op(1, &[&first], enrol(2));
    let without = Membership::fold(&[f.clone(), second.clone()]);
    assert!(without.missing.contains(&first.id()) && without.heads == [f.id()]);
    assert_eq!(members(&[second, first, f]), [0, 1, 2]);
}

#[test]
fn a_revocation_beats_what_the_device_does_meanwhile_and_can_be_taken_back() {
    let f = found();
    let one = op(0, &[&f], enrol(1));
    let out = op(0, &[&one], revoke(1));
    let meanwhile = op(1, &[&one], enrol(2));
    let by_that = op(2, &[&meanwhile], enrol(3));
    assert_eq!(members(&[f.clone(), one.clone(), out.clone(), meanwhile.clone(), by_that.clone()]), [0]);
    // An enrolment that did not know of it does not bring it back; one that did, does.
    let unknowing = op(0, &[&f], enrol(1));
    let knowing = op(0, &[&out], enrol(1));
    assert_eq!(members(&[f.clone(), one.clone(), out.clone(), unknowing]), [0]);
    assert_eq!(members(&[f, one, out, meanwhile, by_that, knowing]), [0, 1]);
}

#[test]
fn devices_that_revoke_each_other_are_both_out_and_others_stay() {
    let f = found();
    let one = op(0, &[&f], enrol(1));
    let two = op(0, &[&one], enrol(2));
    assert_eq!(members(&[f, one, op(0, &[&two], revoke(1)), op(1, &[&two], revoke(0)), two]), [2]);
}

#[test]
fn the_largest_cut_of_a_site_counts() {
    let f = found();
    let one = op(0, &[&f], enrol(1));
    let site = site_id(&device(1).key(), &[1; 16]);
    let cut = |version| Action::Revoke { device: device(1).key(), cuts: vec![Cut { site, version }] };
    let (low, high) = (op(0, &[&one], cut(3)), op(0, &[&one], cut(9)));
    assert_eq!(Membership::fold(&[f, one, high, low]).cuts.get(&site), Some(&9));
}

#[test]
fn a_name_changes_by_its_device_alone() {
    let f = found();
    let one = op(0, &[&f], enrol(1));
    let own = op(1, &[&one], Action::Rename { name: "phone".into() });
    let folded = Membership::fold(&[f, one, own]);
    assert_eq!(folded.members[&device(1).key()].name, "phone");
    assert_eq!(folded.members[&device(0).key()].name, "device 0");
}

#[test]
fn altered_bytes_are_refused() {
    let good = op(0, &[&found()], enrol(1));
    for at in 0..good.encoded().len() {
        let mut bytes = good.encoded().to_vec();
        bytes[at] ^= 1;
        assert!(MemberOp::decode(&bytes, group()).is_err(), "byte {at}");
    }
    assert_eq!(MemberOp::decode(good.encoded(), group()), Ok(good.clone()));
    let other = group_id(&device(5).key(), &[0; 16]);
    assert!(matches!(MemberOp::decode(good.encoded(), other), Err(MemberError::ForeignGroup { .. })));
}

#[test]
fn ids_are_the_devices_own() {
    let (a, b) = (device(1).key(), device(2).key());
    assert_ne!(site_id(&a, &[0; 16]), site_id(&b, &[0; 16]));
    assert_ne!(site_id(&a, &[0; 16]), site_id(&a, &[1; 16]));
    assert_ne!(site_id(&a, &[0; 16]).as_bytes(), group_id(&a, &[0; 16]).as_bytes());
    assert_eq!(device_id(&a).as_bytes()[6] >> 4, 4);
    // Pinned: files and tickets hold such ids.
    assert_eq!(site_id(&a, &[3; 16]).to_string(), "285d4ad15447182ea3ca762cc58a7f06");
}

/// One step of a device: what it knows is a prefix-closed set by way of the heads it last took over.
#[derive(Debug, Clone)]
enum Step {
    /// Takes over everything that another device knows.
    Learn(u8, u8),
    Enrol(u8, u8),
    Revoke(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let two = (0u8..6, 0u8..6);
    prop_oneof![
        4 => two.clone().prop_map(|(a, b)| Step::Learn(a, b)),
        3 => two.clone().prop_map(|(a, b)| Step::Enrol(a, b)),
        1 => two.prop_map(|(a, b)| Step::Revoke(a, b)),
    ]
}

/// Every device's operations after the steps, all of which knew the founding.
fn play(steps: &[Step]) -> Vec<MemberOp> {
    let mut known: Vec<Vec<MemberOp>> = vec![vec![found()]; 6];
    let mut all = vec![found()];
    for step in steps {
        let (author, action) = match step {
            Step::Learn(a, b) => {
                let more = known[usize::from(*b)].clone();
                let known = &mut known[usize::from(*a)];
                more.into_iter().for_each(|op| {
                    if !known.contains(&op) {
                        known.push(op)
                    }
                });
                continue;
            }
            Step::Enrol(a, b) => (*a, enrol(*b)),
            Step::Revoke(a, b) => (*a, revoke(*b)),
        };
        let heads = Membership::fold(&known[usize::from(author)]).heads;
        let op = MemberOp::sign(&device(author), group(), heads, action).expect("signs");
        known[usize::from(author)].push(op.clone());
        all.push(op);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_operations_does_not_matter(steps in prop::collection::vec(step(), 0..24), seed in any::<u64>()) {
        let ops = play(&steps);
        let mut other = ops.clone();
        other.sort_by_key(|op| (blake(op, seed), op.id()));
        other.extend(ops.first().cloned());
        prop_assert_eq!(Membership::fold(&ops), Membership::fold(&other));
    }

    #[test]
    fn strangers_change_nothing(steps in prop::collection::vec(step(), 0..16), more in prop::collection::vec((0u8..8, any::<bool>()), 1..5)) {
        let mut ops = play(&steps);
        let before = Membership::fold(&ops);
        let mut heads = before.heads.clone();
        for (target, puts_out) in more {
            let action = if puts_out { revoke(target) } else { enrol(target) };
            let op = MemberOp::sign(&device(7), group(), heads, action).expect("signs");
            heads = vec![op.id()];
            ops.push(op);
        }
        let after = Membership::fold(&ops);
        prop_assert_eq!(before.members, after.members);
    }

    #[test]
    fn a_revoked_device_lets_nobody_in(steps in prop::collection::vec(step(), 0..16), parent in any::<prop::sample::Index>(), target in 0u8..8) {
        let mut ops = play(&steps);
        let membership = Membership::fold(&ops);
        for thief in (0..6).filter(|n| membership.is_revoked(&device(*n).key())) {
            // It may name whatever past suits it.
            let parent = ops[parent.index(ops.len())].clone();
            let first = op(thief, &[&parent], enrol(target));
            // Whoever is a member without the thief may let others in, whatever it names as its past.
            let second = (!membership.is_member(&device(target).key())).then(|| op(target, &[&first], enrol(6)));
            ops.push(first);
            ops.extend(second);
        }
        let after = Membership::fold(&ops);
        let newly = after.members.keys().filter(|key| after.is_member(key) && !membership.is_member(key));
        prop_assert_eq!(newly.count(), 0);
    }
}

/// A number for sorting that differs with the seed.
fn blake(op: &MemberOp, seed: u64) -> u64 {
    op.id().iter().fold(seed, |sum, byte| sum.rotate_left(9) ^ u64::from(*byte).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
