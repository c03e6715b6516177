//! Remotes that were given the group's keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use isle_blobs::{
    FormatError, Frame, GroupObject, Head, OperationKind, Remote, RemoteError, SnapshotName, read_segment,
};
use isle_clock::GroupId;
use isle_identity::{DeviceSecret, GroupKey, KeyRing, Rotation, SealError};

use crate::support::{full_head, group, segment, site};

fn key(fill: u8) -> GroupKey {
    GroupKey::from_secret(0, [fill; 32])
}

fn ring(fill: u8) -> KeyRing {
    KeyRing::new(GroupId::from_bytes([1; 16]), key(fill))
}

fn sealed(remote: &Remote, ring: &KeyRing) -> Remote {
    let count = AtomicU8::new(0);
    remote.sealed(ring.clone(), key(1), Arc::new(move || [count.fetch_add(1, Ordering::Relaxed); 32]))
}

/// Whether the error says that an object was put by somebody without the key, or for another place.
fn is_refused(error: &RemoteError, why: &SealError) -> bool {
    matches!(error, RemoteError::Corrupt { source: FormatError::Sealed { source, .. }, .. } if source == why)
}

#[tokio::test]
async fn who_holds_the_remote_learns_nothing_and_who_has_the_key_reads_all() {
    let plain = Remote::in_memory();
    let remote = sealed(&plain, &ring(1));
    let mut object = group(1);
    (object.chunker_seed, object.extra) = (0x5eed, Bytes::from_static(b"extra words"));
    let made = remote.create_group(&object).await.expect("created");
    assert_eq!((&made.app, made.chunker_seed, &made.extra), (&object.app, object.chunker_seed, &object.extra));
    assert_eq!(remote.group().await.expect("readable"), Some(made.clone()));
    assert_eq!(made.key_check, Some(key(1).id()));
    let (head, frames) = (full_head(2), [Frame::block(site(2), 0x1234, 0, &b"secret body"[..])]);
    remote.put_head(&head).await.expect("put");
    let put = remote.put_segment(site(2), 1, 0x1234, &segment(&frames)).await.expect("put");
    let (id, ddl) = ([0xab; 16], Bytes::from_static(b"create table"));
    remote.put_operation(OperationKind::Schema, id, &ddl).await.expect("put");
    remote.put_operation(OperationKind::Member, id, &Bytes::from_static(b"enrol")).await.expect("put");
    let name = SnapshotName::new(0, [7; 16]);
    let part = remote.put_part(site(2), &name, 0, &Bytes::from_static(b"all rows")).await.expect("put");

    let mut seen = Vec::new();
    for key in plain.keys().await.expect("listed") {
        seen.extend_from_slice(key.as_bytes());
        seen.extend_from_slice(&plain.dig(&key).await.expect("there"));
    }
    for told in [&b"notes"[..], b"laptop", b"secret", b"create", b"enrol", b"all rows", b"extra", b"1234", b"abababab"]
    {
        let found = seen.windows(told.len()).any(|window| window == told);
        assert!(!found, "{:?} can be seen", String::from_utf8_lossy(told));
    }

    let again = sealed(&plain, &ring(1));
    let mut read = again.get_head(site(2)).await.expect("read").expect("there").0;
    assert_eq!(read.sealed_with.take(), Some(key(1).id()));
    assert_eq!(read, head);
    let bytes = again.get_segment(site(2), &put).await.expect("read");
    let read: Vec<Frame> = read_segment(&bytes).expect("a segment").map(|frame| frame.expect("a frame")).collect();
    assert_eq!(read, frames);
    assert_eq!(again.get_operation(OperationKind::Schema, id).await.expect("read"), ddl);
    assert_eq!(again.put_operation(OperationKind::Schema, id, &ddl).await.expect("stands"), ddl);
    assert_eq!(again.get_part(site(2), &name, &part).await.expect("read"), &b"all rows"[..]);
}

#[tokio::test]
async fn what_is_put_in_the_place_of_another_object_is_refused() {
    let plain = Remote::in_memory();
    let remote = sealed(&plain, &ring(1));
    let (mut one, two) = (Head::new(site(1), "one"), Head::new(site(2), "two"));
    remote.put_head(&one).await.expect("put");
    remote.put_head(&two).await.expect("put");
    let move_to = async |from: &str, to: &str| {
        let bytes = plain.dig(from).await.expect("there");
        plain.plant(to, bytes.to_vec()).await.expect("planted");
    };
    move_to(&format!("head/{}", site(2)), &format!("head/{}", site(1))).await;
    let error = remote.get_head(site(1)).await.expect_err("another head");
    assert!(is_refused(&error, &SealError::Forged), "{error:?}");
    // Nor is one taken that nobody sealed, or that was sealed with a key of others.
    one.last_version = 9;
    plain.put_head(&one).await.expect("put");
    let error = remote.get_head(site(1)).await.expect_err("plain");
    assert!(is_refused(&error, &SealError::Plain), "{error:?}");
    sealed(&plain, &ring(2)).put_head(&one).await.expect("put");
    let error = remote.get_head(site(1)).await.expect_err("another key");
    assert!(matches!(error, RemoteError::KeyMissing { id, .. } if id == key(2).id()), "{error:?}");

    for (n, words) in [(1, "first"), (2, "second")] {
        let put = remote.put_operation(OperationKind::Schema, [n; 16], &Bytes::from_static(words.as_bytes())).await;
        put.expect("put");
    }
    let schema: Vec<String> =
        plain.keys().await.expect("listed").into_iter().filter(|key| key.contains("schema")).collect();
    let [first, second] = &schema[..] else { panic!("{schema:?}") };
    move_to(first, second).await;
    let read = [
        remote.get_operation(OperationKind::Schema, [1; 16]).await,
        remote.get_operation(OperationKind::Schema, [2; 16]).await,
    ];
    assert_eq!(read.iter().filter(|read| read.is_ok()).count(), 1);
    assert!(read.iter().flat_map(|read| read.as_ref().err()).all(|error| is_refused(error, &SealError::Forged)));

    let name = SnapshotName::new(0, [7; 16]);
    let mut part = remote.put_part(site(2), &name, 0, &Bytes::from_static(b"rows")).await.expect("put");
    let from = format!("snap/{}/{name}/{}", site(2), part.name);
    part.name = part.name.replacen("00000000", "00000001", 1);
    move_to(&from, &format!("snap/{}/{name}/{}", site(2), part.name)).await;
    let error = remote.get_part(site(2), &name, &part).await.expect_err("another part");
    assert!(is_refused(&error, &SealError::Forged), "{error:?}");
}

#[tokio::test]
async fn a_remote_that_is_not_sealed_is_no_sealed_one() {
    let plain = Remote::in_memory();
    plain.create_group(&GroupObject::new(GroupId::from_bytes([1; 16]), "notes")).await.expect("created");
    let error = sealed(&plain, &ring(1)).group().await.expect_err("plain");
    assert!(is_refused(&error, &SealError::Plain), "{error:?}");
}

#[tokio::test]
async fn a_rotation_reaches_who_lacks_the_key() {
    let plain = Remote::in_memory();
    let (mut new, old) = (ring(1), ring(1));
    let device = DeviceSecret::from_seed([9; 32]).expect("a key");
    let key = GroupKey::from_secret(1, [2; 32]);
    let rotation = Rotation::wrap(&device, new.group(), &key, &[device.key()], [3; 32]).expect("wrapped");
    new.insert(key.clone());
    let (writer, reader) = (sealed(&plain, &new), sealed(&plain, &old));
    assert_eq!(reader.list_rotations().await.expect("listed"), []);
    let bytes = Bytes::from(rotation.encode().expect("encoded"));
    writer.put_rotation(1, key.id(), &bytes).await.expect("put");
    writer.put_head(&full_head(2)).await.expect("put");
    let error = reader.get_head(site(2)).await.expect_err("a new key");
    assert!(matches!(error, RemoteError::KeyMissing { id, .. } if id == key.id()), "{error:?}");
    plain.plant("key/readme", &b"?"[..]).await.expect("planted");
    let listed = reader.list_rotations().await.expect("listed");
    assert_eq!((listed.len(), listed[0].epoch, listed[0].id), (1, 1, key.id()));
    let read = reader.get_rotation(&listed[0]).await.expect("read");
    let opened = Rotation::decode(&read).expect("a rotation").open(&device).expect("signed");
    assert_eq!(opened, Some((key, device.key())));
}

#[tokio::test]
async fn chunks_tell_neither_their_kind_nor_their_content_nor_which_file_they_are_of() {
    let plain = Remote::in_memory();
    let remote = sealed(&plain, &ring(1));
    let content = b"a known manual".repeat(1000);
    let hash = *blake3::hash(&content).as_bytes();
    let name = remote.chunk_name("manual", &hash);
    remote.put_chunk(&name, &content, false).await.expect("put");
    let [key] = &plain.keys().await.expect("listed")[..] else { panic!("one object") };
    let seen = [key.as_bytes(), &plain.dig(key).await.expect("there")].concat();
    let hex = blake3::Hash::from_bytes(hash).to_hex();
    for told in [&b"manual"[..], b"known", &hash[..8], &hex.as_bytes()[..8]] {
        assert!(!seen.windows(told.len()).any(|window| window == told), "{:?}", String::from_utf8_lossy(told));
    }
    let again = sealed(&plain, &ring(1));
    assert_eq!(again.chunk_name("manual", &hash), name);
    assert_eq!(again.get_chunk(&name, &hash, content.len()).await.expect("read"), content);
    // Put in the place of another, or by somebody without the key.
    let other = again.chunk_name("manual", &[9; 32]);
    let place = key
        .replace(name.as_str().rsplit('/').next().expect("a name"), other.as_str().rsplit('/').next().expect("a name"));
    let place = place.replacen(&format!("/{}/", &name.as_str()[9..11]), &format!("/{}/", &other.as_str()[9..11]), 1);
    plain.plant(&place, plain.dig(key).await.expect("there")).await.expect("planted");
    let error = again.get_chunk(&other, &hash, content.len()).await.expect_err("moved");
    assert!(is_refused(&error, &SealError::Forged), "{error:?}");
    plain.plant(key, zstd::bulk::compress(&content, 1).expect("compressed")).await.expect("planted");
    let error = again.get_chunk(&name, &hash, content.len()).await.expect_err("not sealed");
    assert!(is_refused(&error, &SealError::Plain), "{error:?}");
}
