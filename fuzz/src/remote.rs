//! What lies in a bucket or folder: the group's object, heads and segments; and bundles.
//!
//! Input: form, then the bytes. Checksums are made to hold. How a remote finds, bounds and opens objects is private to it, and tested there;
//! a sealed segment is opened here as it does it, by [`KeyRing::open`] and then [`read_segment`].

use bytes::Bytes;
use isle_blobs::{
    Bundle, FRAME_BYTES_MAX, FormatError, Frame, FrameKind, GroupObject, HEAD_BYTES_MAX, Head, PartRef, SegmentRef,
    SegmentWriter, SnapshotName, SnapshotRef, VersionRange, read_segment,
};
use isle_clock::{GroupId, SiteId};
use isle_identity::{DeviceSecret, GroupKey, KeyRing, site_id};

use crate::script::Script;
use crate::sums::envelope;
use crate::{Seed, memory};

/// The most bytes of frames that are read of a segment: a bomb's frames are not all of interest.
const READ_BYTES_MAX: usize = 4 << 20;

/// Memory for bytes: of a head's lists, an element is a multiple of what it is read from and grows by doubling; serde reserves at most a mebibyte of a
/// length that is claimed.
const fn bound(bytes: usize) -> usize {
    (2 << 20) + 64 * bytes
}

/// The target.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let frames = |script: &mut Script<'_>| {
        let frames = script.rest();
        [&(frames.len() as u64).to_be_bytes(), frames].concat()
    };
    match script.byte() % 10 {
        0 => {
            let bytes = script.rest();
            group(bytes);
            head(bytes);
            segment(bytes);
        }
        1 => group(&envelope(b'g', 0, script.rest())),
        2 => head(&envelope(b'h', 0, script.rest())),
        3 => signed_head(&mut script),
        4 => segment(&envelope(b's', 0, script.rest())),
        5 => segment(&envelope(b's', 0, &frames(&mut script))),
        6 => segment(&envelope(b's', 1, script.rest())),
        7 => {
            let frames = script.rest();
            let packed = zstd::bulk::compress(frames, 1).expect("packed");
            segment(&envelope(b's', 1, &[(frames.len() as u64).to_be_bytes().as_slice(), &packed].concat()));
        }
        8 => sealed(&envelope(b's', 0, &frames(&mut script))),
        _ => bundle(&envelope(b'b', 0, script.rest())),
    }
}

/// What a bundle says is no longer than the bundle; its segments are read like any other.
fn bundle(bytes: &[u8]) {
    let bundle = memory::bounded("reading a bundle", bound(bytes.len()), || Bundle::decode(bytes, None));
    let Ok(bundle) = bundle else { return };
    assert!(bundle.segments.iter().map(Bytes::len).sum::<usize>() <= bytes.len());
    bundle.segments.iter().for_each(|bytes| segment(bytes));
}

/// One group's object has one encoding.
fn group(bytes: &[u8]) {
    let object = memory::bounded("reading a group's object", bound(bytes.len()), || GroupObject::decode(bytes));
    if let Ok(object) = object {
        assert_eq!(object.encode().as_deref(), Ok(bytes));
    }
}

/// One head has one encoding; a large one is read and not written.
fn head(bytes: &[u8]) {
    let head = memory::bounded("reading a head", bound(bytes.len()), || Head::decode(bytes));
    let Ok(head) = head else { return };
    match head.encode() {
        Ok(again) => assert_eq!(again, bytes),
        Err(error) => assert!(bytes.len() > HEAD_BYTES_MAX, "{error}"),
    }
    let vectors = head.snapshot.iter().map(|snapshot| &snapshot.vector).chain([&head.acknowledged, &head.floor]);
    assert!(vectors.into_iter().flat_map(|vector| vector.iter()).all(|(_, version)| version > 0), "version 0");
    assert!(head.segments.iter().flat_map(|segment| &segment.contents).all(|range| range.first <= range.last));
    for group in [GroupId::from_bytes([5; 16]), GroupId::from_bytes([6; 16])] {
        if let Ok(author) = head.verified(group) {
            assert_eq!(site_id(&author.device, &author.nonce), head.site);
        }
    }
    let both = [5, 6].iter().all(|n| head.verified(GroupId::from_bytes([*n; 16])).is_ok());
    assert!(!both, "it is of one group");
}

/// Whatever a head says, its device signs it for one group, and a change is noticed.
fn signed_head(script: &mut Script<'_>) {
    let (nonce, other, at) = (script.array(), script.byte(), script.array());
    let Ok(mut head) = Head::decode(&envelope(b'h', 0, script.rest())) else { return };
    let secret = DeviceSecret::from_seed([3; 32]).expect("a key");
    head.site = site_id(&secret.key(), &nonce);
    let (group, members) = (GroupId::from_bytes([5; 16]), vec![[other; 16]]);
    match head.sign(group, &secret, nonce, u64::from(other), members) {
        Ok(()) => {}
        Err(FormatError::TooLarge { .. }) => return,
        Err(error) => panic!("{error}"),
    }
    let Ok(bytes) = head.encode() else { return };
    let read = Head::decode(&bytes).expect("just written");
    assert_eq!(read.verified(group).expect("just signed").device, secret.key());
    assert!(read.verified(GroupId::from_bytes([6; 16])).is_err());
    let mut body = bytes[40..].to_vec();
    let at = usize::from(u16::from_be_bytes(at)) % body.len();
    body[at] ^= 1;
    if let Ok(altered) = Head::decode(&envelope(b'h', 0, &body)) {
        assert!(altered.verified(group).is_err(), "byte {at} was changed unnoticed");
    }
}

/// The frames of a segment, written again, are the same.
fn segment(bytes: &[u8]) {
    let compressed = bytes.get(5).is_some_and(|flags| flags & 1 == 1);
    // A frame of a bomb may be as large as any, in a buffer that doubles.
    let most = bound(bytes.len()) + if compressed { READ_BYTES_MAX + 3 * FRAME_BYTES_MAX } else { 0 };
    let Ok(frames) = memory::bounded("reading a segment", most, || read(bytes)) else { return };
    let mut writer = SegmentWriter::new();
    frames.iter().for_each(|frame| writer.push(frame).expect("within bounds, as it was read"));
    let written = writer.finish();
    let again: Result<Vec<Frame>, _> = read_segment(written.bytes()).expect("just written").collect();
    assert_eq!(again.as_ref(), Ok(&frames));
    let contents = written.contents();
    assert!(contents.is_sorted_by(|a, b| (a.site, a.last) < (b.site, b.first)), "{contents:?}");
    let holds = |frame: &Frame| {
        let range =
            |range: &VersionRange| range.site == frame.site && (range.first..=range.last).contains(&frame.version);
        frame.kind == FrameKind::Proof || contents.iter().any(range)
    };
    assert!(frames.iter().take(256).all(holds), "{contents:?}");
}

/// The first frames; an error behind them is one of the segment.
fn read(bytes: &[u8]) -> Result<Vec<Frame>, FormatError> {
    let (mut frames, mut left) = (Vec::new(), READ_BYTES_MAX);
    for frame in read_segment(bytes)? {
        let frame = frame?;
        left = left.saturating_sub(frame.payload.len() + 128);
        frames.push(frame);
        if left == 0 {
            break;
        }
    }
    Ok(frames)
}

/// A sealed segment is the one that was sealed.
fn sealed(bytes: &[u8]) {
    let ring = KeyRing::new(GroupId::from_bytes([9; 16]), GroupKey::from_secret(0, [1; 32]));
    let sealed = ring.current().seal("log/a/0", &[2; 32], bytes).expect("sealed");
    let opened = ring.open("log/a/0", &sealed).expect("just sealed");
    assert_eq!(opened, bytes);
    assert_eq!(read(&opened), read(bytes));
    assert!(read_segment(&sealed).is_err() && Head::decode(&sealed).is_err() && GroupObject::decode(&sealed).is_err());
}

/// A head with something in each field, as seed.
fn full_head() -> Head {
    let site = |n| SiteId::from_bytes([n; 16]);
    let mut head = Head::new(site(1), "laptop");
    (head.epoch, head.last_version, head.chain) = (2, 30, [7; 32]);
    head.acknowledged = [(site(1), 30), (site(2), 4)].into_iter().collect();
    head.floor = [(site(1), 12)].into_iter().collect();
    head.retired = vec![(site(3), 7)];
    head.schema_heads = vec![[9; 16]];
    head.snapshot = Some(SnapshotRef {
        site: site(2),
        name: SnapshotName::new(4, [5; 16]),
        manifest: PartRef { name: "manifest-00".to_owned(), bytes: 77 },
        vector: [(site(2), 4)].into_iter().collect(),
    });
    let contents = vec![VersionRange { site: site(1), first: 1, last: 29 }];
    head.segments = vec![SegmentRef { epoch: 2, name: "000000000000001d-ab".to_owned(), bytes: 96, contents }];
    head.tail = frames();
    head.extra = Bytes::from_static(b"extra");
    head
}

fn frames() -> Vec<Frame> {
    let site = SiteId::from_bytes([1; 16]);
    vec![
        Frame::proof(site, 30, &b"proof"[..]),
        Frame::header(site, 30, &b"header"[..]),
        Frame::block(site, 30, 0, vec![0; 100]),
    ]
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let mut object = GroupObject::new(GroupId::from_bytes([5; 16]), "notes");
    (object.chunker_seed, object.key_check) = (300, Some(GroupKey::from_secret(0, [1; 32]).id()));
    let object = object.encode().expect("small");
    let (secret, nonce) = (DeviceSecret::from_seed([3; 32]).expect("a key"), [4; 16]);
    let unsigned = full_head().encode().expect("small");
    let mut head = Head { site: site_id(&secret.key(), &nonce), ..full_head() };
    head.sign(GroupId::from_bytes([5; 16]), &secret, nonce, 7, vec![[8; 16]]).expect("signed");
    let head = head.encode().expect("small");
    let mut writer = SegmentWriter::new();
    frames().iter().for_each(|frame| writer.push(frame).expect("small"));
    let segment = writer.finish();
    let raw: Vec<u8> = read_segment(segment.bytes()).expect("valid").fold(Vec::new(), |raw, frame| {
        let Frame { kind, site, version, index, payload } = frame.expect("valid");
        let length = (payload.len() as u32).to_be_bytes();
        let fields = [&version.to_be_bytes()[..], &index.to_be_bytes(), &length, &payload].concat();
        [raw, vec![kind.into()], site.as_bytes().to_vec(), fields].concat()
    });
    let seed = |form: u8, parts: &[&[u8]]| [&[form], parts.concat().as_slice()].concat();
    let bundle = Bundle {
        app: "notes".to_owned(),
        floor: [(SiteId::from_bytes([1; 16]), 300)].into_iter().collect(),
        names: vec![(SiteId::from_bytes([1; 16]), "laptop".to_owned())],
        schema: vec![Bytes::from_static(b"op")],
        members: vec![Bytes::from_static(b"op")],
        segments: vec![segment.bytes().clone()],
    };
    let bundle = bundle.encode(GroupId::from_bytes([5; 16]), None).expect("small");
    let length = (raw.len() as u64).to_be_bytes();
    vec![
        ("object-group", seed(0, &[&object])),
        ("object-head", seed(0, &[&head])),
        ("object-segment", seed(0, &[segment.bytes()])),
        ("bundle", seed(9, &[&bundle[40..]])),
        ("group", seed(1, &[&object[40..]])),
        ("head", seed(2, &[&head[40..]])),
        ("head-unsigned", seed(2, &[&unsigned[40..]])),
        ("head-to-sign", seed(3, &[&nonce, &[7, 0, 60], &unsigned[40..]])),
        ("segment-stored", seed(4, &[&length, &raw])),
        ("frames", seed(5, &[&raw])),
        ("segment-zstd", seed(6, &[&segment.bytes()[40..]])),
        ("frames-packed", seed(7, &[&raw])),
        ("frames-sealed", seed(8, &[&raw])),
    ]
}
