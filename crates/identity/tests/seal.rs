//! Sealed objects, key files and rotations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use isle_clock::GroupId;
use isle_identity::{DeviceSecret, GroupKey, KeyFileError, KeyRing, OVERHEAD_BYTES, Rotation, SealError};
use proptest::prelude::*;

const GROUP: GroupId = GroupId::from_bytes([7; 16]);

fn key(epoch: u64, fill: u8) -> GroupKey {
    GroupKey::from_secret(epoch, [fill; 32])
}

fn ring(keys: &[GroupKey]) -> KeyRing {
    let mut ring = KeyRing::new(GROUP, keys[0].clone());
    for key in &keys[1..] {
        assert!(ring.insert(key.clone()));
    }
    ring
}

#[test]
fn the_format_of_sealed_objects_stands() {
    let sealed = key(0, 1).seal("head/x", &[2; 32], b"content").unwrap();
    assert_eq!(sealed.len(), 7 + OVERHEAD_BYTES);
    assert_eq!(&sealed[..8], b"islex\0\0\x01");
    assert_eq!(&sealed[8..24], key(0, 1).id().as_bytes());
    // Computed once by this release: objects in buckets must stay readable.
    assert_eq!(
        blake3::hash(&sealed).to_hex().as_str(),
        "15f4d60e7f17c9cf29803ad6cb4e8899e957a5247668b498cd0562bcbb253f06"
    );
}

proptest! {
    #[test]
    fn what_was_altered_moved_or_sealed_otherwise_is_refused(
        content in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        flip in 1u8..=255,
        cut in any::<prop::sample::Index>(),
    ) {
        let ring = ring(&[key(0, 1)]);
        let sealed = ring.current().seal("log/a", &[3; 32], &content).unwrap();
        prop_assert_eq!(ring.open("log/a", &sealed).unwrap(), content);
        prop_assert_eq!(ring.open("log/b", &sealed), Err(SealError::Forged));
        let mut altered = sealed.clone();
        let at = at.index(altered.len());
        altered[at] ^= flip;
        prop_assert!(ring.open("log/a", &altered).is_err(), "a byte at {} was altered unnoticed", at);
        prop_assert!(ring.open("log/a", &sealed[..cut.index(sealed.len())]).is_err());
    }

    #[test]
    fn bytes_of_anybody_are_no_sealed_object_and_no_rotation(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(ring(&[key(0, 1)]).open("x", &bytes).is_err());
        prop_assert!(Rotation::decode(&bytes).is_err());
        prop_assert!(KeyRing::from_text(&String::from_utf8_lossy(&bytes)).is_err());
    }
}

#[test]
fn randomness_that_repeats_uses_no_key_twice_for_other_content_or_another_place() {
    let salt = |place: &str, content: &[u8]| {
        let sealed = key(0, 1).seal(place, &[4; 32], content).unwrap();
        sealed[24..56].to_vec()
    };
    let salts = [salt("a", b"x"), salt("a", b"y"), salt("b", b"x"), salt("ax", b""), salt("", b"ax")];
    for (n, salt) in salts.iter().enumerate() {
        assert!(!salts[..n].contains(salt), "salt {n} is one of those before");
    }
    let other = key(0, 1).seal("a", &[5; 32], b"x").unwrap();
    assert_ne!(other[24..56], salts[0], "the random bytes count");
}

#[test]
fn the_largest_key_seals_and_every_key_opens() {
    let (old, new, rival) = (key(0, 1), key(1, 2), key(1, 3));
    let mut keys = ring(&[new.clone(), old.clone(), rival.clone()]);
    assert_eq!(keys.current().id(), new.id().max(rival.id()));
    assert!(!keys.insert(old.clone()));
    for key in [&old, &new, &rival] {
        assert_eq!(keys.open("p", &key.seal("p", &[0; 32], b"x").unwrap()).unwrap(), b"x");
    }
    let stranger = key(9, 9);
    let sealed = stranger.seal("p", &[0; 32], b"x").unwrap();
    assert_eq!(keys.open("p", &sealed), Err(SealError::UnknownKey { id: stranger.id() }));
    assert_eq!(keys.open("p", b"plain bytes that are long enough"), Err(SealError::Plain));
    let mut later = sealed;
    later[7] = 2;
    assert_eq!(keys.open("p", &later), Err(SealError::Newer { found: 2 }));
    // A ring of another group brings nothing.
    let other = KeyRing::new(GroupId::from_bytes([8; 16]), stranger);
    assert_eq!(keys.merge(&other), 0);
}

#[test]
fn a_key_file_reads_back_and_a_damaged_one_says_so() {
    let ring = ring(&[key(0, 1), key(1, 2)]);
    let line = ring.to_text().unwrap();
    let file = format!("# the keys of a group\n\n  {}\r\n# end\n", line.to_uppercase());
    assert_eq!(KeyRing::from_text(&file).unwrap(), ring);
    assert_eq!(KeyRing::from_text("# nothing"), Err(KeyFileError::Foreign));
    let mut damaged = line.to_string();
    let last = damaged.pop().unwrap();
    damaged.push(if last == 'a' { 'b' } else { 'a' });
    assert_eq!(KeyRing::from_text(&damaged), Err(KeyFileError::Damaged));
    assert!(!format!("{ring:?} {:?}", key(0, 1)).contains("1, 1"), "a secret shows");
}

fn device(fill: u8) -> DeviceSecret {
    DeviceSecret::from_seed([fill; 32]).unwrap()
}

#[test]
fn a_rotation_is_opened_by_those_it_is_for_alone() {
    let devices: Vec<DeviceSecret> = (1..=5).map(device).collect();
    let stays: Vec<_> = devices[..4].iter().map(DeviceSecret::key).collect();
    let new = key(3, 77);
    let rotation = Rotation::wrap(&devices[0], GROUP, &new, &stays, [6; 32]).unwrap();
    let encoded = rotation.encode().unwrap();
    let read = Rotation::decode(&encoded).unwrap();
    assert_eq!(read, rotation);
    assert_eq!((read.group(), read.epoch(), read.id()), (GROUP, 3, new.id()));
    for device in &devices[..4] {
        assert_eq!(read.open(device).unwrap(), Some((new.clone(), devices[0].key())));
    }
    assert_eq!(read.open(&devices[4]).unwrap(), None, "it was put out");
    let author = *devices[0].key().as_bytes();
    assert!(!encoded.windows(32).any(|window| window == author), "who holds the remote sees who made it");
    for at in 0..encoded.len() {
        let mut altered = encoded.clone();
        altered[at] ^= 1;
        let opened = Rotation::decode(&altered).and_then(|read| read.open(&devices[1]));
        assert!(!matches!(opened, Ok(Some(_))), "byte {at} was altered unnoticed");
    }
    // A key that is the neutral element would make a box that anybody opens.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let neutral = isle_identity::DeviceKey::from_bytes(neutral);
    let without = Rotation::wrap(&devices[0], GROUP, &new, &[stays[1]], [6; 32]).unwrap();
    let with = Rotation::wrap(&devices[0], GROUP, &new, &[neutral, stays[1]], [6; 32]).unwrap();
    assert_eq!(with, without, "it is passed over, and keeps nobody else from the key");
}

#[test]
fn nobody_makes_a_key_in_the_name_of_another_device() {
    let (maker, other) = (device(1), device(2));
    let (group, another) = (GroupId::from_bytes([7; 16]), GroupId::from_bytes([8; 16]));
    let key = GroupKey::from_secret(3, [9; 32]).made_by(&maker, group);
    let word = *key.word().expect("its maker's word");
    let plain = |epoch| GroupKey::from_secret(epoch, [9; 32]);
    assert_eq!(plain(3).vouched(maker.key(), group, word).expect("genuine").author(), Some(maker.key()));
    assert!(plain(3).vouched(other.key(), group, word).is_none(), "another maker");
    assert!(plain(4).vouched(maker.key(), group, word).is_none(), "another epoch");
    assert!(plain(3).vouched(maker.key(), another, word).is_none(), "another group");
    assert!(GroupKey::from_secret(3, [1; 32]).vouched(maker.key(), group, word).is_none(), "another key");
}
