//! One contract for every kind of remote.

use bytes::Bytes;
use isle_blobs::{
    Frame, Head, HeadRead, OperationKind, Remote, RemoteError, RemoteOptions, SnapshotName, read_segment,
};
use isle_identity::KeyId;
use isle_test_s3::Behaviour;

use crate::support::{full_head, group, open, s3_options, segment, site, start};

async fn the_first_group_stands(remote: &Remote) {
    assert_eq!(remote.group().await.expect("readable"), None);
    let mut first = group(1);
    (first.chunker_seed, first.key_check, first.extra) =
        (7, Some(KeyId::from_bytes([3; 16])), Bytes::from_static(b"more"));
    assert_eq!(remote.create_group(&first).await.expect("created"), first);
    assert_eq!(remote.create_group(&group(2)).await.expect("read"), first);
    assert_eq!(remote.create_group(&first).await.expect("read"), first);
    assert_eq!(remote.group().await.expect("readable"), Some(first));
}

async fn heads_are_listed_read_and_replaced(remote: &Remote) {
    assert_eq!(remote.list_heads().await.expect("listed"), []);
    assert_eq!(remote.get_head(site(1)).await.expect("read"), None);
    assert_eq!(remote.get_head_unless(site(1), Some("\"x\"")).await.expect("read"), HeadRead::Absent);
    let (mut one, two) = (Head::new(site(1), "phone"), full_head(2));
    let first = remote.put_head(&one).await.expect("put").etag;
    remote.put_head(&two).await.expect("put");
    let listed = remote.list_heads().await.expect("listed");
    assert_eq!(listed.iter().map(|head| head.site).collect::<Vec<_>>(), [site(1), site(2)]);
    assert_eq!(listed[0].etag, first);
    assert_eq!(listed[1].size, two.encode().expect("small").len() as u64);
    assert!(listed[0].modified_ms > 1_700_000_000_000);

    let (read, etag) = remote.get_head(site(1)).await.expect("read").expect("present");
    assert_eq!((read, &etag), (one.clone(), &first));
    let unchanged = remote.get_head_unless(site(1), etag.as_deref()).await.expect("read");
    assert_eq!(unchanged, HeadRead::Unchanged);
    one.last_version = 1;
    let second = remote.put_head(&one).await.expect("put").etag;
    assert_ne!(first, second);
    let changed = remote.get_head_unless(site(1), etag.as_deref()).await.expect("read");
    assert_eq!(changed, HeadRead::Changed(Box::new(one), second.clone()));
    assert_eq!(remote.list_heads().await.expect("listed")[0].etag, second);
    assert_eq!(remote.get_head(site(2)).await.expect("read").expect("present").0, two);
}

async fn segments_come_back_verified(remote: &Remote) {
    let frames = [Frame::header(site(1), 3, &b"head"[..]), Frame::block(site(1), 3, 0, vec![0; 100_000])];
    let made = segment(&frames);
    let put = remote.put_segment(site(1), 0, 3, &made).await.expect("put");
    assert_eq!(remote.put_segment(site(1), 0, 3, &made).await.expect("put again"), put);
    assert!(put.name.starts_with("0000000000000003-"), "{}", put.name);
    let bytes = remote.get_segment(site(1), &put).await.expect("read");
    assert_eq!(&bytes, made.bytes());
    let read: Vec<Frame> = read_segment(&bytes).expect("a segment").map(|frame| frame.expect("a frame")).collect();
    assert_eq!(read, frames);

    remote.delete_segment(site(1), &put).await.expect("deleted");
    remote.delete_segment(site(1), &put).await.expect("deleted again");
    let error = remote.get_segment(site(1), &put).await.expect_err("gone");
    assert!(matches!(error, RemoteError::Missing { .. }), "{error:?}");
    assert!(error.to_string().contains(&put.name), "{error}");
}

async fn damage_and_wrong_references_are_refused(remote: &Remote) {
    let put = remote.put_segment(site(5), 0, 1, &segment(&[])).await.expect("put");
    let key = format!("log/{}/{:016x}/{}", site(5), 0, put.name);
    let mut bytes = remote.dig(&key).await.expect("there").to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    remote.plant(&key, bytes.clone()).await.expect("planted");
    let error = remote.get_segment(site(5), &put).await.expect_err("damaged");
    assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    bytes.push(0);
    remote.plant(&key, bytes).await.expect("planted");
    let error = remote.get_segment(site(5), &put).await.expect_err("longer");
    assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    // A device that still has the content heals it.
    remote.put_segment(site(5), 0, 1, &segment(&[])).await.expect("put");
    remote.get_segment(site(5), &put).await.expect("healed");

    for name in ["../group", "", "A", &"a".repeat(97)] {
        let mut wrong = put.clone();
        wrong.name = name.to_owned();
        let error = remote.get_segment(site(5), &wrong).await.expect_err("refused");
        assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    }
    let mut wrong = put;
    wrong.bytes = u64::MAX;
    let error = remote.get_segment(site(5), &wrong).await.expect_err("refused");
    assert!(matches!(error, RemoteError::TooLarge { .. }), "{error:?}");
}

async fn schema_operations_are_put_once(remote: &Remote) {
    let (id, first) = ([8; 16], Bytes::from_static(b"create table"));
    let error = remote.get_operation(OperationKind::Schema, id).await.expect_err("absent");
    assert!(matches!(error, RemoteError::Missing { .. }), "{error:?}");
    assert_eq!(remote.put_operation(OperationKind::Schema, id, &first).await.expect("put"), first);
    assert_eq!(
        remote.put_operation(OperationKind::Schema, id, &Bytes::from_static(b"sealed anew")).await.expect("stands"),
        first
    );
    assert_eq!(remote.get_operation(OperationKind::Schema, id).await.expect("read"), first);
    let large = Bytes::from(vec![0; isle_blobs::SCHEMA_BYTES_MAX + 1]);
    let error = remote.put_operation(OperationKind::Schema, [9; 16], &large).await.expect_err("too large");
    assert!(matches!(error, RemoteError::TooLarge { .. }), "{error:?}");
    let largest = large.slice(1..);
    remote.put_operation(OperationKind::Schema, [9; 16], &largest).await.expect("put");
    assert_eq!(remote.get_operation(OperationKind::Schema, [9; 16]).await.expect("read"), largest);
}

async fn snapshots_have_parts_and_a_manifest(remote: &Remote) {
    let (name, part) = (SnapshotName::new(12, [0xab; 16]), Bytes::from(vec![1; 3_000_000]));
    let put = remote.put_part(site(1), &name, 0, &part).await.expect("put");
    let empty = remote.put_part(site(1), &name, 1, &Bytes::new()).await.expect("put");
    let manifest = remote.put_manifest(site(1), &name, &Bytes::from_static(b"parts")).await.expect("put");
    assert!(put.name.starts_with("00000000-") && manifest.name.starts_with("manifest-"));
    assert_eq!(remote.get_part(site(1), &name, &put).await.expect("read"), part);
    assert_eq!(remote.get_part(site(1), &name, &empty).await.expect("read"), Bytes::new());
    assert_eq!(remote.get_part(site(1), &name, &manifest).await.expect("read"), &b"parts"[..]);
    remote.delete_part(site(1), &name, &manifest).await.expect("deleted");
    let error = remote.get_part(site(1), &name, &manifest).await.expect_err("gone");
    assert!(matches!(error, RemoteError::Missing { .. }), "{error:?}");
}

async fn chunks_come_back_by_their_content(remote: &Remote) {
    let content = b"a model, mostly zeros ".repeat(10_000);
    let hash = *blake3::hash(&content).as_bytes();
    let name = remote.chunk_name("gguf", &hash);
    assert!(!remote.has_chunk(&name).await.expect("looked"));
    let error = remote.get_chunk(&name, &hash, content.len()).await.expect_err("absent");
    assert!(matches!(error, RemoteError::Missing { .. }), "{error:?}");
    let sent = remote.put_chunk(&name, &content, false).await.expect("put");
    assert!(sent > 0 && sent < content.len() as u64 / 10, "{sent}");
    assert_eq!(remote.put_chunk(&name, &content, false).await.expect("stands"), 0);
    assert!(remote.has_chunk(&name).await.expect("looked"));
    assert_eq!(remote.get_chunk(&name, &hash, content.len()).await.expect("read"), content);
    // One more, one less, or of another hash: not what was asked for.
    for (hash, bytes) in [(hash, content.len() + 1), (hash, content.len() - 1), ([1; 32], content.len())] {
        let error = remote.get_chunk(&name, &hash, bytes).await.expect_err("another");
        assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    }
    let many: Vec<[u8; 32]> = (0..20_u8).map(|n| *blake3::hash(&[n]).as_bytes()).collect();
    for (n, hash) in (0..).zip(&many) {
        remote.put_chunk(&remote.chunk_name("rom", hash), &[n], false).await.expect("put");
    }
    remote.plant("chunk/rom/zz/stranger", "x").await.expect("planted");
    let mut listed = std::collections::BTreeSet::new();
    remote.list_chunks(|chunk| _ = listed.insert(chunk.name)).await.expect("listed");
    let expected = many.iter().map(|hash| remote.chunk_name("rom", hash)).chain([name.clone()]);
    assert_eq!(listed, expected.collect());
    remote.mark_chunk(&name).await.expect("marked");
    remote.mark_chunk(&name).await.expect("marked before");
    let marks = remote.list_marks().await.expect("listed");
    assert_eq!(marks.iter().map(|mark| &mark.name).collect::<Vec<_>>(), [&name]);
    assert!(marks[0].modified_ms > 1_700_000_000_000);
    remote.unmark_chunk(&name).await.expect("unmarked");
    assert_eq!(remote.list_marks().await.expect("listed"), []);
    remote.delete_chunk(&name).await.expect("deleted");
    remote.delete_chunk(&name).await.expect("gone already");
    assert!(!remote.has_chunk(&name).await.expect("looked"));
}

async fn a_damaged_chunk_is_found_and_put_again(remote: &Remote) {
    let content = vec![7; 5000];
    let hash = *blake3::hash(&content).as_bytes();
    let name = remote.chunk_name("file", &hash);
    remote.put_chunk(&name, &content, false).await.expect("put");
    let keys = remote.keys().await.expect("listed");
    let at = keys.iter().find_map(|key| key.find("chunk/file/").map(|at| key[at..].to_owned()));
    let key = at.expect("it stands");
    let whole = remote.dig(&key).await.expect("there");
    for damaged in [whole.slice(..whole.len() / 2), bytes::Bytes::from_static(b"rubbish"), bytes::Bytes::new()] {
        remote.plant(&key, damaged).await.expect("planted");
        let error = remote.get_chunk(&name, &hash, content.len()).await.expect_err("damaged");
        assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    }
    // A frame that claims, or grows to, far more than was asked for.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).expect("compressed");
    remote.plant(&key, bomb).await.expect("planted");
    let error = remote.get_chunk(&name, &hash, content.len()).await.expect_err("a bomb");
    assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    assert!(remote.put_chunk(&name, &content, true).await.expect("put again") > 0);
    assert_eq!(remote.get_chunk(&name, &hash, content.len()).await.expect("read"), content);
}

async fn strangers_are_told_from_remotes(remote: &Remote) {
    remote.put_head(&Head::new(site(1), "")).await.expect("put");
    let hyphens = "head/03030303-0303-0303-0303-030303030303";
    for name in
        [hyphens, "head/readme.txt", "head/0101", &format!("head/{}/x", site(2)), &format!("header/{}", site(3))]
    {
        remote.plant(name, &b"?"[..]).await.expect("planted");
    }
    let listed = remote.list_heads().await.expect("listed");
    assert_eq!(listed.iter().map(|head| head.site).collect::<Vec<_>>(), [site(1)]);

    // Another site's head under this key.
    remote.plant(&format!("head/{}", site(4)), full_head(2).encode().expect("small")).await.expect("planted");
    let error = remote.get_head(site(4)).await.expect_err("refused");
    assert!(matches!(error, RemoteError::Corrupt { .. }), "{error:?}");
    remote.plant(&format!("head/{}", site(4)), vec![0; 64 * 1024 + 1]).await.expect("planted");
    let error = remote.get_head(site(4)).await.expect_err("refused");
    assert!(matches!(error, RemoteError::TooLarge { bytes: 65_537, max: 65_536, .. }), "{error:?}");

    for garbage in [&b""[..], b"<html>", &[0; 20_000]] {
        remote.plant("group", garbage).await.expect("planted");
        for error in [remote.group().await.expect_err("refused"), remote.create_group(&group(1)).await.expect_err("no")]
        {
            assert!(matches!(error, RemoteError::NotARemote { .. }), "{error:?}");
            assert!(error.to_string().contains("is no isle remote"), "{error}");
        }
    }
    let mut newer = group(1).encode().expect("small").to_vec();
    newer[7] = 9;
    remote.plant("group", newer).await.expect("planted");
    let error = remote.group().await.expect_err("refused");
    assert!(matches!(error, RemoteError::NewerFormat { found: 9, supported: 1, .. }), "{error:?}");
}

async fn oversized_heads_are_not_put(remote: &Remote) {
    let mut head = Head::new(site(6), "");
    head.tail = vec![Frame::block(site(6), 1, 0, vec![1; 48 * 1024])];
    let error = remote.put_head(&head).await.expect_err("too large");
    assert!(matches!(error, RemoteError::TooLarge { max: 49_152, .. }), "{error:?}");
    assert_eq!(remote.get_head(site(6)).await.expect("read"), None);
}

async fn all(fresh: impl Fn() -> Remote) {
    the_first_group_stands(&fresh()).await;
    heads_are_listed_read_and_replaced(&fresh()).await;
    segments_come_back_verified(&fresh()).await;
    damage_and_wrong_references_are_refused(&fresh()).await;
    schema_operations_are_put_once(&fresh()).await;
    snapshots_have_parts_and_a_manifest(&fresh()).await;
    chunks_come_back_by_their_content(&fresh()).await;
    a_damaged_chunk_is_found_and_put_again(&fresh()).await;
    strangers_are_told_from_remotes(&fresh()).await;
    oversized_heads_are_not_put(&fresh()).await;
}

#[tokio::test]
async fn memory() {
    all(Remote::in_memory).await;
}

#[tokio::test]
async fn folder() {
    let root = tempfile::tempdir().expect("temporary folder");
    let count = std::cell::Cell::new(0);
    all(|| {
        count.set(count.get() + 1);
        let path = root.path().join(format!("deep er/{}", count.get()));
        let text = path.to_str().expect("UTF-8").to_owned();
        let url = if count.get() % 2 == 0 { format!("file://{}", text.replace(' ', "%20")) } else { text };
        Remote::create(&url, &RemoteOptions::default()).expect("a remote")
    })
    .await;
}

#[tokio::test]
async fn s3() {
    let server = std::cell::RefCell::new(start(Behaviour::default()));
    all(|| {
        *server.borrow_mut() = start(Behaviour::default());
        open(&server.borrow(), &s3_options())
    })
    .await;
}

#[tokio::test]
async fn s3_that_ignores_conditions_and_has_small_pages() {
    let behaviour = Behaviour { ignores_conditions: true, page_entries: Some(1), ..Behaviour::default() };
    let server = std::cell::RefCell::new(start(behaviour.clone()));
    let fresh = || {
        *server.borrow_mut() = start(behaviour.clone());
        open(&server.borrow(), &s3_options())
    };
    the_first_group_stands(&fresh()).await;
    heads_are_listed_read_and_replaced(&fresh()).await;
    segments_come_back_verified(&fresh()).await;
    snapshots_have_parts_and_a_manifest(&fresh()).await;
}

#[tokio::test]
async fn s3_that_refuses_conditions() {
    let behaviour = Behaviour { refuses_conditions: true, ..Behaviour::default() };
    let server = std::cell::RefCell::new(start(behaviour.clone()));
    all(|| {
        *server.borrow_mut() = start(behaviour.clone());
        open(&server.borrow(), &s3_options())
    })
    .await;
}

/// `ISLE_TEST_S3_ENDPOINT`, with a bucket `isle-test` and credentials in `AWS_*` variables.
#[cfg(feature = "other-s3")]
#[tokio::test]
async fn another_s3_server() {
    let endpoint = std::env::var("ISLE_TEST_S3_ENDPOINT").expect("ISLE_TEST_S3_ENDPOINT is set");
    let mut options = s3_options();
    (options.endpoint, options.credentials) = (Some(endpoint), None);
    let count = std::cell::Cell::new(0);
    let run = std::process::id();
    all(|| {
        count.set(count.get() + 1);
        Remote::open(&format!("s3://isle-test/{run}/{}", count.get()), &options).expect("a remote")
    })
    .await;
}

#[test]
fn futures_can_move_between_threads() {
    fn sent<T: Send>(_: T) {}
    fn shared<T: Send + Sync + Clone + 'static>(_: &T) {}
    let remote = Remote::in_memory();
    shared(&remote);
    let (head, bytes, id) = (Head::new(site(1), ""), Bytes::new(), [0; 16]);
    sent(remote.create_group(&group(1)));
    sent(remote.list_heads());
    sent(remote.get_head(site(1)));
    sent(remote.put_head(&head));
    sent(remote.put_operation(OperationKind::Schema, id, &bytes));
    sent(remote.get_operation(OperationKind::Schema, id));
    let made = segment(&[]);
    sent(remote.put_segment(site(1), 0, 0, &made));
    let part = isle_blobs::PartRef { name: String::new(), bytes: 0 };
    let name = SnapshotName::new(0, id);
    sent(remote.get_part(site(1), &name, &part));
}
