//! Bytes from a stranger: always an error or the same value, never a panic, never much memory.

use bytes::Bytes;
use isle_blobs::{Bundle, FormatError, Frame, GroupObject, Head, SEGMENT_RAW_BYTES_MAX, read_segment};
use proptest::prelude::*;

use crate::support::{full_head, group, segment, site};

fn read(bytes: &[u8]) -> Result<Vec<Frame>, FormatError> {
    read_segment(bytes)?.collect()
}

/// An envelope with a checksum that holds.
fn wrapped(letter: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"isle".to_vec();
    bytes.extend([letter, flags, 0, 1]);
    let sum = blake3::Hasher::new().update(&bytes).update(body).finalize();
    bytes.extend(sum.as_bytes());
    bytes.extend(body);
    bytes
}

/// Cuts at each length and flips each bit of each byte.
fn spoil<T: PartialEq + std::fmt::Debug>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, FormatError>) {
    decode(bytes).expect("whole");
    for length in 0..bytes.len() {
        decode(&bytes[..length]).expect_err("cut");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut spoiled = bytes.to_vec();
            spoiled[at] ^= 1 << bit;
            decode(&spoiled).expect_err("flipped");
        }
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    decode(&longer).expect_err("longer");
}

#[test]
fn cut_and_flipped_objects_are_refused() {
    spoil(&group(1).encode().expect("small"), GroupObject::decode);
    spoil(&full_head(1).encode().expect("small"), Head::decode);
    let frames = [Frame::header(site(1), 1, &b"abc"[..]), Frame::block(site(1), 1, 0, vec![0; 300])];
    spoil(segment(&frames).bytes(), read);
    spoil(segment(&frames[..1]).bytes(), read);
}

/// Cuts and flips below a checksum that is made to hold: the decoders themselves are under fire.
fn spoil_body<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    let (letter, flags, body) = (bytes[4], bytes[5], &bytes[40..]);
    let check = |body: &[u8]| {
        let spoiled = wrapped(letter, flags, body);
        if let Ok(value) = decode(&spoiled) {
            assert_eq!(encode(&value), spoiled, "two encodings of one value");
        }
    };
    for length in 0..body.len() {
        check(&body[..length]);
    }
    for at in 0..body.len() {
        for flip in [1, 0x80, 0xff] {
            let mut body = body.to_vec();
            body[at] ^= flip;
            check(&body);
        }
    }
}

#[test]
fn spoiled_bodies_under_a_good_checksum_never_panic_and_stay_canonical() {
    let encoded = |object: &GroupObject| object.encode().expect("small").to_vec();
    spoil_body(&encoded(&group(1)), GroupObject::decode, encoded);
    let encoded = |head: &Head| head.encode().expect("small").to_vec();
    spoil_body(&encoded(&full_head(1)), Head::decode, encoded);
    let frames = [Frame::header(site(1), 1, &b"abc"[..]), Frame::block(site(1), 1, 0, &b"0123456789"[..])];
    let made = segment(&frames);
    assert_eq!(made.bytes()[5], 1, "compressed");
    // zstd has many encodings of one value, so nothing is asked of what is read.
    for at in 0..made.bytes().len() - 40 {
        for flip in 1..=255 {
            let mut body = made.bytes()[40..].to_vec();
            body[at] ^= flip;
            let _ = read(&wrapped(b's', 1, &body));
        }
    }
}

#[test]
fn names_that_could_leave_their_place_are_refused() {
    for name in ["../../group", "a/b", "", "UPPER", "a.b"] {
        let mut head = full_head(1);
        head.segments[0].name = name.to_owned();
        assert!(matches!(head.encode(), Err(FormatError::Malformed { .. })), "{name}");
        let mut head = full_head(1);
        if let Some(snapshot) = &mut head.snapshot {
            snapshot.manifest.name = name.to_owned();
        }
        assert!(matches!(head.encode(), Err(FormatError::Malformed { .. })), "{name}");
    }
}

#[test]
fn a_version_zero_in_a_vector_is_refused() {
    let bytes = full_head(1).encode().expect("small");
    let entry = [&[16][..], &[2; 16], &[4]].concat();
    let at = bytes.windows(entry.len()).position(|window| window == entry).expect("site 2 at version 4");
    let mut body = bytes[40..].to_vec();
    body[at - 40 + 17] = 0;
    let error = Head::decode(&wrapped(b'h', 0, &body)).expect_err("refused");
    assert!(error.to_string().contains("version 0"), "{error}");
}

#[test]
fn a_bomb_stops_at_what_it_promises_and_at_the_bound() {
    let zeros = vec![0u8; SEGMENT_RAW_BYTES_MAX + 1000];
    let packed = zstd::bulk::compress(&zeros, 19).expect("compressed");
    assert!(packed.len() < 20_000);
    let bomb = |promised: u64| wrapped(b's', 1, &[&promised.to_be_bytes()[..], &packed].concat());
    let error = read(&bomb(zeros.len() as u64)).expect_err("beyond the bound");
    assert!(matches!(error, FormatError::TooLarge { .. }), "{error:?}");
    // Promises one frame of no payload, holds 64 MiB.
    let mut frames = read_segment(&bomb(33)).map(|frames| frames.collect::<Vec<_>>()).expect("a beginning");
    let error = frames.pop().expect("an error").expect_err("more than promised");
    assert_eq!(frames.len(), 1);
    assert!(error.to_string().contains("more bytes than it promises"), "{error}");
    read(&bomb(u64::MAX)).expect_err("beyond the bound");
}

#[test]
fn a_frame_that_claims_much_allocates_nothing() {
    let mut raw = vec![0u8; 33];
    raw[29..33].copy_from_slice(&u32::MAX.to_be_bytes());
    for promised in [33u64, 60_000_000] {
        let claimed = wrapped(b's', 0, &[&promised.to_be_bytes()[..], &raw].concat());
        read(&claimed).expect_err("refused");
    }
    raw[29..33].copy_from_slice(&4_000_000u32.to_be_bytes());
    let claimed = wrapped(b's', 0, &[&60_000_000u64.to_be_bytes()[..], &raw].concat());
    let error = read(&claimed).expect_err("refused");
    assert!(error.to_string().contains("fewer bytes"), "{error}");
}

#[test]
fn a_window_beyond_the_bound_is_refused() {
    // 33 zero bytes are a frame without payload.
    let raw = vec![0u8; 33 * 40_000];
    let packed = |window_log| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("encoder");
        encoder.window_log(window_log).expect("window");
        std::io::Write::write_all(&mut encoder, &raw).expect("written");
        let packed = encoder.finish().expect("finished");
        wrapped(b's', 1, &[&(raw.len() as u64).to_be_bytes()[..], &packed].concat())
    };
    assert_eq!(read(&packed(23)).map(|frames| frames.len()), Ok(40_000));
    let error = read(&packed(24)).expect_err("refused");
    assert!(error.to_string().contains("cannot be decompressed"), "{error}");
}

#[test]
fn later_formats_and_other_kinds_are_named() {
    let mut bytes = full_head(1).encode().expect("small").to_vec();
    bytes[7] = 2;
    let error = Head::decode(&bytes).expect_err("newer");
    assert_eq!(error, FormatError::Newer { object: "head", found: 2, supported: 1 });
    let error = Head::decode(&group(1).encode().expect("small")).expect_err("a group");
    assert_eq!(error, FormatError::Foreign { expected: "head" });
    Head::decode(&wrapped(b'h', 1, &[])).expect_err("an unknown flag");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), flags in 0u8..4) {
        prop_assert!(GroupObject::decode(&bytes).is_err());
        prop_assert!(Head::decode(&bytes).is_err());
        prop_assert!(read(&bytes).is_err());
        for (letter, flags) in [(b'b', flags & 1), (b'g', 0), (b'h', 0), (b's', flags)] {
            let bytes = wrapped(letter, flags, &bytes);
            if let Ok(bundle) = Bundle::decode(&bytes, None) {
                // Nothing comes of a length that is only claimed.
                prop_assert!(bundle.segments.iter().map(Bytes::len).sum::<usize>() < bytes.len());
            }
            if let Ok(object) = GroupObject::decode(&bytes) {
                prop_assert_eq!(&object.encode().expect("small")[..], &bytes[..]);
            }
            if let Ok(head) = Head::decode(&bytes) {
                prop_assert_eq!(&head.encode().expect("small")[..], &bytes[..]);
            }
            if let Ok(frames) = read(&bytes) {
                prop_assert!(bytes[5] == 1 || segment(&frames).bytes().len() <= bytes.len());
            }
        }
    }
}
