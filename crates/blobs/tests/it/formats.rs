//! Goldens: these bytes are in people's buckets.

use isle_blobs::{
    BackupManifest, BackupName, Bundle, FormatError, Frame, FrameKind, GroupObject, Head, PartRef, Remote,
    SegmentWriter, VersionRange, read_segment,
};
use isle_clock::{GroupId, SiteId};
use isle_identity::{DeviceSecret, GroupKey, KeyRing, SealError};
use proptest::prelude::*;

use crate::support::{full_head, group, hex, segment, site};

#[test]
fn the_group_object_has_these_bytes() {
    let mut object = group(1);
    (object.chunker_seed, object.key_check) = (300, Some(isle_identity::KeyId::from_bytes([2; 16])));
    let bytes = object.encode().expect("small");
    assert_eq!(hex(&bytes), GROUP);
    assert_eq!(GroupObject::decode(&bytes).expect("valid"), object);
}

#[test]
fn the_head_has_these_bytes() {
    let head = full_head(1);
    let bytes = head.encode().expect("small");
    assert_eq!(hex(&bytes), HEAD);
    assert_eq!(Head::decode(&bytes).expect("valid"), head);
}

#[test]
fn a_stored_segment_has_these_bytes() {
    let author = SiteId::from_bytes(std::array::from_fn(|n| 0x10 + n as u8));
    let frame = Frame::block(author, 0x0102_0304_0506_0708, 0x090a_0b0c, &b"ab"[..]);
    let made = segment(std::slice::from_ref(&frame));
    assert_eq!(hex(made.bytes()), SEGMENT);
    assert_eq!(read_segment(made.bytes()).expect("valid").collect::<Vec<_>>(), [Ok(frame)]);
}

fn bundle() -> Bundle {
    let frame = Frame::block(site(1), 2, 3, &b"ab"[..]);
    Bundle {
        app: "notes".to_owned(),
        floor: [(site(1), 300)].into_iter().collect(),
        names: vec![(site(1), "laptop".to_owned())],
        schema: vec![b"op".to_vec().into()],
        members: vec![b"m1".to_vec().into(), b"m2".to_vec().into()],
        segments: vec![segment(&[frame]).bytes().clone()],
    }
}

#[test]
fn a_bundle_has_these_bytes() {
    let of = GroupId::from_bytes([9; 16]);
    let bytes = bundle().encode(of, None).expect("small");
    assert_eq!(hex(&bytes), BUNDLE);
    assert_eq!(Bundle::group(&bytes), Ok((of, false)));
    assert_eq!(Bundle::decode(&bytes, None), Ok(bundle()));
}

/// The manifest of a backup, and the keys of it and its parts.
#[tokio::test]
async fn a_backup_has_these_bytes() {
    let (of, name) = (GroupId::from_bytes([9; 16]), BackupName { created_ms: 0x0102_0304_0506, id: [7; 16] });
    let part = PartRef { name: format!("00000000-{}", blake3::hash(b"part")), bytes: 300 };
    let secret = DeviceSecret::from_seed([3; 32]).expect("a seed");
    let signed = BackupManifest::sign(of, name, b"facts".to_vec(), vec![part], &secret).expect("small");
    assert!(signed.is_signed(of, name));
    assert!(!signed.is_signed(GroupId::from_bytes([8; 16]), name), "of another group");
    assert!(!signed.is_signed(of, BackupName { created_ms: 7, ..name }), "under another name");
    let remote = Remote::in_memory();
    remote.put_backup(name, &signed).await.expect("put");
    let put = remote.put_backup_part(name, 1, b"the content").await.expect("put");
    assert_eq!(remote.get_backup_part(name, 1, &put).await.expect("read"), &b"the content"[..]);
    assert!(remote.get_backup_part(name, 0, &put).await.is_err(), "in another part's place");
    let named = "0000010203040506-07070707070707070707070707070707";
    assert_eq!(
        remote.keys().await.expect("listed"),
        [format!("backup-part/{named}/{}", put.name), format!("backup/{named}")]
    );
    assert_eq!(hex(&remote.dig(&format!("backup/{named}")).await.expect("stands")), BACKUP);
    assert_eq!(
        (remote.list_backups().await.expect("listed"), remote.get_backup(name).await.expect("read")),
        (vec![name], signed)
    );
    remote.delete_backup(name).await.expect("deleted");
    assert_eq!(remote.keys().await.expect("listed"), Vec::<String>::new());
}

#[test]
fn a_sealed_bundle_opens_with_its_key_and_for_its_group_alone() {
    let of = GroupId::from_bytes([9; 16]);
    let ring = |secret: u8| KeyRing::new(of, GroupKey::from_secret(0, [secret; 32]));
    let bytes = bundle().encode(of, Some((&ring(7), [1; 32]))).expect("small");
    // "isle", 'b', sealed, format 1; then, after the checksum, the group.
    assert_eq!(&hex(&bytes)[..16], "69736c6562010001");
    assert_eq!(&bytes[40..56], [9; 16]);
    assert_eq!(Bundle::group(&bytes), Ok((of, true)));
    assert_eq!(Bundle::decode(&bytes, Some(&ring(7))), Ok(bundle()));
    let closed = |source: &SealError, keys: Option<&KeyRing>, bytes: &[u8]| match Bundle::decode(bytes, keys) {
        Err(FormatError::Sealed { source: found, .. }) => found == *source,
        _ => false,
    };
    let unknown = SealError::UnknownKey { id: ring(7).current().id() };
    assert!(closed(&unknown, None, &bytes) && closed(&unknown, Some(&ring(8)), &bytes));
    // Of another group by its envelope, with a checksum that holds.
    let mut moved = bytes.to_vec();
    moved[40..56].copy_from_slice(&[8; 16]);
    let mut hasher = blake3::Hasher::new();
    let sum = *hasher.update(&moved[..8]).update(&moved[40..]).finalize().as_bytes();
    moved[8..40].copy_from_slice(&sum);
    assert!(closed(&SealError::Forged, Some(&ring(7)), &moved));
}

#[test]
fn a_compressed_segment_begins_with_these_bytes() {
    let made = segment(&[Frame::block(site(1), 2, 3, vec![0; 1000])]);
    let text = hex(made.bytes());
    // "isle", 's', compressed, format 1; then, after the checksum, 1033 bytes of frames in one zstd frame.
    assert_eq!(&text[..16], "69736c6573010001");
    assert_eq!(&text[80..104], "000000000000040928b52ffd");
    assert!(made.bytes().len() < 120, "{}", made.bytes().len());
}

#[test]
fn contents_are_ranges_in_order() {
    let frame = |n, version| Frame::header(site(n), version, &b""[..]);
    let made = segment(&[frame(2, 7), frame(1, 9), frame(1, 5), frame(1, 6), frame(2, 7), frame(1, u64::MAX)]);
    let range = |n, first, last| VersionRange { site: site(n), first, last };
    let expected = [range(1, 5, 6), range(1, 9, 9), range(1, u64::MAX, u64::MAX), range(2, 7, 7)];
    assert_eq!(made.contents(), expected);
}

#[test]
fn a_full_writer_refuses_and_stays_as_it_was() {
    let mut writer = SegmentWriter::new();
    let large = Frame::block(site(1), 1, 0, vec![1; isle_blobs::FRAME_BYTES_MAX + 1]);
    writer.push(&large).expect_err("refused");
    assert!(writer.is_empty());
    let fits = Frame { payload: large.payload.slice(1..), ..large };
    let mut count = 0;
    while writer.push(&fits).is_ok() {
        count += 1;
    }
    let made = writer.finish();
    assert_eq!(count, isle_blobs::SEGMENT_RAW_BYTES_MAX / isle_blobs::FRAME_BYTES_MAX);
    assert_eq!(read_segment(made.bytes()).expect("valid").filter(|frame| frame.as_ref() == Ok(&fits)).count(), count);
}

#[test]
fn incompressible_frames_are_stored() {
    let noise: Vec<u8> = (0u32..2000).flat_map(|n| blake3_like(n).to_be_bytes()).collect();
    let made = segment(&[Frame::block(site(1), 1, 0, noise.clone())]);
    assert_eq!(made.bytes()[5], 0);
    assert_eq!(made.bytes().len(), 48 + 33 + noise.len());
}

fn blake3_like(n: u32) -> u64 {
    let mut z = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0usize..5000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let frame = (any::<u8>(), any::<u8>(), any::<u64>(), any::<u32>(), payload).prop_map(
        |(kind, s, version, index, payload)| Frame {
            kind: FrameKind::from(kind),
            site: site(s),
            version,
            index,
            payload: payload.into(),
        },
    );
    prop::collection::vec(frame, 0..20)
}

proptest! {
    #[test]
    fn segments_give_back_their_frames(frames in frames()) {
        let made = segment(&frames);
        let read: Result<Vec<Frame>, _> = read_segment(made.bytes()).expect("valid").collect();
        prop_assert_eq!(read, Ok(frames));
    }

    #[test]
    fn heads_give_back_their_fields(
        tail in frames(),
        numbers in any::<(u8, u64, u64, [u8; 32])>(),
        vector in prop::collection::btree_map(any::<u8>(), 1u64.., 0..20),
        device in "\\PC{0,60}",
    ) {
        let mut head = full_head(numbers.0);
        (head.epoch, head.last_version, head.chain) = (numbers.1, numbers.2, numbers.3);
        head.acknowledged = vector.iter().map(|(n, version)| (site(*n), *version)).collect();
        (head.tail, head.device) = (tail, device);
        match head.encode() {
            Ok(bytes) => prop_assert_eq!(Head::decode(&bytes), Ok(head)),
            Err(error) => prop_assert!(error.to_string().contains("at most 49152"), "{}", error),
        }
    }
}

const GROUP: &str = "69736c6567000001c6e18bc1dcf65f4ccb6e18af53ecf8ea22aa6ef106793ba485ea3f2f0dbe9cd51001010101010101010101010101010101056e6f746573ac02010202020202020202020202020202020200";
const HEAD: &str = concat!(
    "69736c656800000173806b3d55b8b32e43427397d8e1faf26ea4ba36ed84a70b027ce7cb0030f3f41001010101010101",
    "010101010101010101066c6170746f7002ac020707070707070707070707070707070707070707070707070707070707",
    "070707021001010101010101010101010101010101ac0210020202020202020202020202020202020401100101010101",
    "01010101010101010101010c011003030303030303030303030303030303070109090909090909090909090909090909",
    "01100202020202020202020202020202020231303030303030303030303030303030342d303530353035303530353035",
    "30353035303530353035303530353035303530350b6d616e69666573742d30304d011002020202020202020202020202",
    "02020204010213303030303030303030303030303132632d6162802001100101010101010101010101010101010101ab",
    "0202011001010101010101010101010101010101ac020003746f70021001010101010101010101010101010101ac0200",
    "04626f6479067369676e656400",
);
const BACKUP: &str = "69736c6563000001bff2b9d096d6665bb0928735039271768ab47f3741223b19598a7f9dde9b042e056661637473014930303030303030302d31646366346137656362313536313033653066343936623230646362353466613635366664616664363065343930373037636166313236376164393763333339ac02ed4928c628d1c2c6eae90338905995612959273a5c63f93636c14614ac8737d140c70aa9db5a8a953245534dc587cc954e8767af510e3f3126b96be2b907b77bf642535647eee64d75a95ae4e3a749a68a7765cae7fa18b9a6d3ba77915c136302";
const BUNDLE: &str = "69736c6562000001bcbc773c786ff8afd11b8f91c2033b47ea280acf8a85a3aa30651f1e88bb37f009090909090909090909090909090909056e6f746573011001010101010101010101010101010101ac02011001010101010101010101010101010101066c6170746f7001026f7002026d31026d32014f69736c65730100015b20f37696b5b7d19d8a88e77ad3eed7362454f6c078894ac8095695f4857bae000000000000002328b52ffd2023b50000700201000200000003000000026162020060101dc002";
const SEGMENT: &str = "69736c657300000129d3dc0e9c3e2301c9c83a14a1dd0b64876c9403c2b0937d9c1dd4964aa648af000000000000002302101112131415161718191a1b1c1d1e1f0102030405060708090a0b0c000000026162";

#[test]
fn a_head_is_its_devices_own_and_only_in_its_group() {
    let (secret, nonce) = (DeviceSecret::from_seed([3; 32]).expect("a key"), [4; 16]);
    let (group, other) = (GroupId::from_bytes([5; 16]), GroupId::from_bytes([6; 16]));
    let mut head = Head { site: isle_identity::site_id(&secret.key(), &nonce), ..full_head(1) };
    assert!(head.verified(group).is_err(), "nobody signed it");
    head.sign(group, &secret, nonce, 7, vec![[8; 16]]).expect("signed");
    let read = Head::decode(&head.encode().expect("small")).expect("valid");
    let author = read.verified(group).expect("its own");
    assert_eq!(
        (author.device, author.nonce, author.sequence, &author.members[..]),
        (secret.key(), nonce, 7, &[[8; 16]][..])
    );
    assert!(read.verified(other).is_err(), "it is of another group");
    let altered: [fn(&mut Head); 5] = [
        |head| head.last_version += 1,
        |head| head.segments.clear(),
        |head| head.retired.clear(),
        |head| head.author.as_mut().expect("signed").sequence += 1,
        |head| head.author.as_mut().expect("signed").members.clear(),
    ];
    for (n, alter) in altered.iter().enumerate() {
        let mut altered = read.clone();
        alter(&mut altered);
        assert!(altered.verified(group).is_err(), "alteration {n} went unnoticed");
    }
    // Another device cannot speak for the site, whatever it signs.
    let stranger = DeviceSecret::from_seed([9; 32]).expect("a key");
    assert!(read.clone().sign(group, &stranger, nonce, 8, Vec::new()).is_err());
    assert_eq!(
        blake3::hash(&read.encode().expect("small")).to_hex().as_str(),
        "3a5029c63afbe8ab9b5083682511e4550a43f943a827663b94d89f4bc3314d9d"
    );
}
