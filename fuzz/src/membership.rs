//! Who belongs to a group: operations, rotations, key files, proofs and what is sealed.
//!
//! Input: form, then what [`run`] hands on. What is signed or sealed is tried both as it came and with a signature or seal that holds.

use std::sync::LazyLock;

use isle_clock::{GroupId, SiteId};
use isle_identity::{
    Action, Cut, DeviceKey, DeviceSecret, EPOCH_MAX, GroupKey, KEYS_MAX, KeyRing, MemberOp, Membership, OVERHEAD_BYTES,
    OpId, PROOF_BYTES, Rotation, prove, proven, sealed_with, site_id,
};

use crate::script::Script;
use crate::sums::{code, content};
use crate::{Seed, memory};

const START: &str = "islekey1";
/// The most operations of one input.
const OPS_MAX: usize = 16;
/// Where the group stands in an operation: behind the format and the length that postcard puts before an id.
const GROUP_AT: usize = 2;

static DEVICES: LazyLock<Vec<DeviceSecret>> =
    LazyLock::new(|| (0..8).map(|n| DeviceSecret::from_seed([n; 32]).expect("a key")).collect());

/// Memory for bytes: a list's elements are a multiple of what they are read from, and grow by doubling.
const fn bound(bytes: usize) -> usize {
    (2 << 20) + 96 * bytes
}

fn device(n: u8) -> &'static DeviceSecret {
    &DEVICES[usize::from(n % 8)]
}

/// The target.
pub fn run(data: &[u8]) {
    LazyLock::force(&DEVICES);
    let mut script = Script::new(data);
    match script.byte() % 12 {
        0 => check_op(script.rest()),
        1 => signed_op(script.rest()),
        2 => fold(&mut script),
        3 => check_rotation(script.rest()),
        4 => wrap(&mut script),
        5 => check_ring(&String::from_utf8_lossy(script.rest())),
        6 => check_ring(&format!("# keys\r\n  {}\n# end", code(START, script.rest()))),
        7 => check_proof(&mut script),
        8 => spoiled_proof(&mut script),
        9 => check_sealed(script.rest()),
        10 => spoiled_seal(&mut script),
        _ => check_key(&String::from_utf8_lossy(script.rest())),
    }
}

fn group_of(op: &[u8]) -> GroupId {
    let group = op.get(GROUP_AT..).and_then(|rest| rest.first_chunk());
    group.map_or(GroupId::from_bytes([9; 16]), |group| GroupId::from_bytes(*group))
}

/// One operation has one encoding, and whoever signs what it says says the same.
fn check_op(bytes: &[u8]) {
    let group = group_of(bytes);
    let known = memory::bounded("reading an operation", bound(bytes.len()), || MemberOp::decode_known(bytes, group));
    let Ok(known) = known else {
        assert!(MemberOp::decode(bytes, group).is_err());
        return;
    };
    assert_eq!(known.encoded(), bytes);
    if let Ok(op) = MemberOp::decode(bytes, group) {
        assert_eq!(op, known);
    }
    let mut other = *group.as_bytes();
    other[0] ^= 1;
    assert!(MemberOp::decode_known(bytes, GroupId::from_bytes(other)).is_err(), "it counts in another group");
    let again = MemberOp::sign(device(0), group, known.parents.clone(), known.action.clone()).expect("as large");
    let again = MemberOp::decode(again.encoded(), group).expect("just signed");
    assert_eq!((&again.parents, &again.action), (&known.parents, &known.action));
    Membership::fold(&[known, again]);
}

/// A signature that holds makes an operation its author's, and nobody else's.
fn signed_op(body: &[u8]) {
    let content = [&[1], body].concat();
    let signature = device(0).sign(&[b"isle member operation 1", content.as_slice()].concat());
    let bytes = [content.as_slice(), &signature].concat();
    check_op(&bytes);
    let group = group_of(&bytes);
    let by_device = MemberOp::decode_known(&bytes, group).is_ok_and(|op| op.author == device(0).key());
    assert_eq!(MemberOp::decode(&bytes, group).is_ok(), by_device);
}

/// What a set of operations comes to is a function of the set: neither their order nor how often they come matters.
fn fold(script: &mut Script<'_>) {
    let nonce = [7; 16];
    let group = isle_identity::group_id(&device(0).key(), &nonce);
    let mut ops: Vec<MemberOp> = Vec::new();
    while !script.is_over() && ops.len() < OPS_MAX {
        let [author, parents, action, target] = script.array();
        let last = ops.iter().rev().take(8).enumerate();
        let parents: Vec<OpId> = last.filter(|(n, _)| parents >> n & 1 == 1).map(|(_, op)| op.id()).collect();
        let key = device(target).key();
        let cuts = vec![Cut { site: site_id(&key, &nonce), version: u64::from(target) }];
        let action = match action % 4 {
            _ if parents.is_empty() => Action::Found { nonce, name: format!("device {author}") },
            0 | 1 => Action::Enrol { device: key, name: format!("device {target}") },
            2 => Action::Rename { name: format!("device {action}") },
            _ => Action::Revoke { device: key, cuts },
        };
        let op = MemberOp::sign(device(author), group, parents, action).expect("small");
        if !ops.contains(&op) {
            ops.push(op);
        }
    }
    let folded = Membership::fold(&ops);
    assert!(folded.missing.is_empty(), "all parents are here");
    assert_eq!(ops.is_empty(), folded.heads.is_empty());
    let reversed: Vec<MemberOp> = ops.iter().rev().cloned().collect();
    let twice: Vec<MemberOp> = ops.iter().chain(&reversed).cloned().collect();
    for other in [&reversed, &twice] {
        assert_eq!(Membership::fold(other), folded);
    }
    let (known, new) = ops.split_at(ops.len() / 2);
    // Nobody belongs who was never let in.
    let before = Membership::fold(known);
    assert!(folded.members.keys().filter(|key| folded.is_member(key)).all(|key| enrolled(key, &ops)));
    assert!(before.members.keys().all(|key| enrolled(key, known)));
    // What is admitted together is admitted beside what is there.
    assert!(Membership::admit(&[], &ops).is_err() || Membership::admit(known, new).is_ok());
}

fn enrolled(key: &DeviceKey, ops: &[MemberOp]) -> bool {
    ops.iter().any(|op| match &op.action {
        Action::Found { .. } => op.author == *key,
        Action::Enrol { device, .. } => device == key,
        _ => false,
    })
}

/// One rotation has one encoding, and opens to the key that it names.
fn check_rotation(bytes: &[u8]) {
    let decoded = memory::bounded("reading a rotation", bound(bytes.len()), || Rotation::decode(bytes));
    let Ok(rotation) = decoded else { return };
    assert_eq!(rotation.encode().as_deref(), Ok(bytes));
    for n in 0..3 {
        if let Ok(Some((key, _))) = rotation.open(device(n)) {
            assert_eq!((key.id(), key.epoch()), (rotation.id(), rotation.epoch()));
        }
    }
}

/// A rotation is opened by those it is for alone, and by nobody if anything in it was changed.
fn wrap(script: &mut Script<'_>) {
    let [author, mask, flip, at @ ..] = script.array::<5>();
    let (epoch, secret, random) = (u64::from_be_bytes(script.array()), script.array(), script.array());
    let mut devices: Vec<DeviceKey> = (0..8).filter(|n| mask >> n & 1 == 1).map(|n| device(n).key()).collect();
    while !script.is_over() && devices.len() < 12 {
        devices.push(DeviceKey::from_bytes(script.array()));
    }
    let (group, key) = (GroupId::from_bytes([9; 16]), GroupKey::from_secret(epoch, secret));
    let rotation = Rotation::wrap(device(author), group, &key, &devices, random).expect("few devices");
    let mut bytes = rotation.encode().expect("written");
    assert_eq!(Rotation::decode(&bytes).as_ref(), Ok(&rotation));
    let at = usize::from(u16::from_be_bytes(at)) % bytes.len();
    bytes[at] ^= flip.max(1);
    let spoiled = Rotation::decode(&bytes);
    for n in [0, 3, 6] {
        let secret = device(n);
        let opened = devices.contains(&secret.key()).then(|| (key.clone(), device(author).key()));
        assert_eq!(rotation.open(secret), Ok(opened));
    }
    let opened = spoiled.map(|spoiled| spoiled.open(device(0)));
    assert!(!matches!(opened, Ok(Ok(Some(_)))), "byte {at} was changed unnoticed");
}

/// A key file reads back, and seals with its largest key.
fn check_ring(text: &str) {
    let ring = memory::bounded("reading a key file", bound(text.len()), || KeyRing::from_text(text));
    let Ok(ring) = ring else { return };
    let keys: Vec<_> = ring.keys().map(|key| (key.epoch(), key.id())).collect();
    assert!(keys.is_sorted_by(|a, b| a < b) && keys.len() <= KEYS_MAX);
    assert_eq!(keys.last(), Some(&(ring.current().epoch(), ring.current().id())));
    assert!(keys.iter().all(|(epoch, id)| *epoch <= EPOCH_MAX && ring.get(*id).is_some()));
    let written = ring.to_text().expect("written");
    assert_eq!(KeyRing::from_text(&written).as_ref(), Ok(&ring));
    assert_eq!(KeyRing::from_text(&written.to_uppercase()).as_ref(), Ok(&ring));
    let mut merged = ring.clone();
    assert_eq!((merged.merge(&ring), &merged), (0, &ring));
}

/// A proof is of one version of one site in one group.
fn check_proof(script: &mut Script<'_>) {
    let (group, site) = (GroupId::from_bytes(script.array()), SiteId::from_bytes(script.array()));
    let (version, proof) = (u64::from_be_bytes(script.array()), script.rest());
    let Ok(chain) = proven(proof, group, site, version) else { return };
    assert_eq!((proof.len(), &proof[48..80]), (PROOF_BYTES, chain.as_slice()));
    assert!(proven(proof, group, site, version ^ 1).is_err());
    assert!(proven(proof, GroupId::from_bytes([1; 16]), site, version).is_err() || group.as_bytes() == &[1; 16]);
}

/// A proof with any byte changed is none.
fn spoiled_proof(script: &mut Script<'_>) {
    let [n, flip, at] = script.array();
    let (group, nonce) = (GroupId::from_bytes(script.array()), script.array());
    let (version, chain) = (u64::from_be_bytes(script.array()), script.array());
    let site = site_id(&device(n).key(), &nonce);
    let mut proof = prove(device(n), &nonce, group, version, &chain);
    assert_eq!(proven(&proof, group, site, version), Ok(chain));
    let at = usize::from(at) % proof.len();
    proof[at] ^= flip.max(1);
    assert!(proven(&proof, group, site, version).is_err(), "byte {at} was changed unnoticed");
}

fn ring() -> KeyRing {
    let group = GroupId::from_bytes([9; 16]);
    let mut ring = KeyRing::new(group, GroupKey::from_secret(0, [1; 32]));
    ring.insert(GroupKey::from_secret(1, [2; 32]).by(device(0).key()));
    ring
}

/// What opens says which key sealed it, and was sealed for one place.
fn check_sealed(sealed: &[u8]) {
    let ring = ring();
    let opened = memory::bounded("opening", bound(sealed.len()), || ring.open("log/a", sealed));
    let id = sealed_with(sealed);
    if let Ok(content) = opened {
        assert_eq!(content.len() + OVERHEAD_BYTES, sealed.len());
        assert!(ring.get(id.expect("it opened")).is_some());
        assert!(ring.open("log/b", sealed).is_err());
    }
}

/// What was sealed does not open with any byte changed, cut, or in another place.
fn spoiled_seal(script: &mut Script<'_>) {
    let [flip, at @ ..] = script.array::<3>();
    let (random, content) = (script.array(), script.rest());
    let ring = ring();
    let mut sealed = ring.current().seal("log/a", &random, content).expect("sealed");
    assert_eq!(ring.open("log/a", &sealed).as_deref(), Ok(content));
    assert!(ring.open("log/b", &sealed).is_err());
    let at = usize::from(u16::from_be_bytes(at)) % sealed.len();
    assert!(ring.open("log/a", &sealed[..at]).is_err(), "it opens without its end");
    sealed[at] ^= flip.max(1);
    assert!(ring.open("log/a", &sealed).is_err(), "byte {at} was changed unnoticed");
}

/// A device's key as text.
fn check_key(text: &str) {
    if let Ok(key) = text.parse::<DeviceKey>() {
        assert_eq!(key.to_string(), text.to_ascii_lowercase());
        assert_eq!(key.to_string().parse(), Ok(key));
    }
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let (group, key) = (GroupId::from_bytes([9; 16]), GroupKey::from_secret(3, [5; 32]));
    let founding = MemberOp::found(device(0), [7; 16], "laptop").expect("small");
    let cuts = vec![Cut { site: SiteId::from_bytes([1; 16]), version: 300 }];
    let revoke = Action::Revoke { device: device(1).key(), cuts };
    let revoke = MemberOp::sign(device(0), group, vec![[1; 16], [2; 16]], revoke).expect("small");
    let enrol = Action::Enrol { device: device(1).key(), name: "phone".to_owned() };
    let enrol = MemberOp::sign(device(0), group, vec![founding.id()], enrol).expect("small");
    let body = |op: &MemberOp| op.encoded()[1..op.encoded().len() - 64].to_vec();
    let rotation = Rotation::wrap(device(0), group, &key, &[device(0).key(), device(1).key()], [6; 32]);
    let text = ring().to_text().expect("written").to_string();
    let (nonce, version) = ([4; 16], 7u64);
    let site = site_id(&device(0).key(), &nonce);
    let proof = prove(device(0), &nonce, group, version, &[8; 32]);
    let sealed = ring().current().seal("log/a", &[3; 32], b"content").expect("sealed");
    let claim = [group.as_bytes().as_slice(), site.as_bytes(), &version.to_be_bytes(), &proof].concat();
    // Device 0 founds and lets 1 in, which lets 2 in; 0 puts 1 out, 1 puts 0 out, and 2 lets both in again.
    let history = [
        [0, 0, 0, 0],
        [0, 1, 0, 1],
        [1, 1, 0, 2],
        [0, 1, 3, 1],
        [1, 2, 3, 0],
        [2, 3, 0, 0],
        [2, 1, 1, 1],
        [2, 1, 2, 1],
    ];
    vec![
        ("op-found", [&[0], founding.encoded()].concat()),
        ("op-revoke", [&[0], revoke.encoded()].concat()),
        ("op-content", [vec![1], body(&enrol)].concat()),
        ("op-content-revoke", [vec![1], body(&revoke)].concat()),
        ("history", [vec![2], history.concat()].concat()),
        ("rotation", [vec![3], rotation.expect("small").encode().expect("written")].concat()),
        ("wrap", [vec![4, 0, 0b1011, 1, 0, 40, 0, 0, 0, 0, 0, 0, 0, 3], vec![5; 64]].concat()),
        ("keys-text", [&[5], text.as_bytes()].concat()),
        ("keys-content", [vec![6], content(START, &text)].concat()),
        ("proof", [vec![7], claim].concat()),
        ("proof-parts", [vec![8, 0, 1, 90], vec![9; 72]].concat()),
        ("sealed", [vec![9], sealed].concat()),
        ("seal-parts", [vec![10, 1, 0, 30], vec![3; 32], b"content".to_vec()].concat()),
        ("device-key", [&[11], device(0).key().to_string().as_bytes()].concat()),
    ]
}
