//! What is particular to folders.

use std::collections::BTreeSet;

use isle_blobs::testing::FaultPlan;
use isle_blobs::{Head, OperationKind, Remote, RemoteError, RemoteOptions};

use crate::support::{group, segment, site};

fn folder() -> (tempfile::TempDir, Remote) {
    let root = tempfile::tempdir().expect("temporary folder");
    let remote = open(&root.path().join("remote"));
    (root, remote)
}

fn open(path: &std::path::Path) -> Remote {
    Remote::create(path.to_str().expect("UTF-8"), &RemoteOptions::default()).expect("a remote")
}

#[tokio::test]
async fn each_put_of_a_head_changes_the_etag_in_listings() {
    let (root, remote) = folder();
    let head = Head::new(site(1), "");
    let mut seen = BTreeSet::new();
    for round in 0..40 {
        // A new handle each time: what the last put did is known from the folder alone.
        let remote = if round % 2 == 0 { remote.clone() } else { open(&root.path().join("remote")) };
        let put = remote.put_head(&head).await.expect("put").etag.expect("folders have ETags");
        let listed = remote.list_heads().await.expect("listed");
        assert_eq!(listed[0].etag.as_ref(), Some(&put));
        assert!(seen.insert(put), "the ETag of an earlier put came back in round {round}: {seen:?}");
    }
}

#[tokio::test]
async fn puts_within_one_tick_of_a_coarse_clock_are_told_apart() {
    let (_root, remote) = folder();
    let (remote, _) = remote.with_faults(1, FaultPlan { clock_tick_ms: 40, ..FaultPlan::NONE }, None);
    let mut times = BTreeSet::new();
    for _ in 0..8 {
        remote.put_head(&Head::new(site(1), "")).await.expect("put");
        let listed = remote.list_heads().await.expect("listed");
        assert!(times.insert(listed[0].modified_ms), "{times:?}");
    }
}

#[tokio::test]
async fn a_folder_that_went_away_is_not_an_empty_remote() {
    let (root, remote) = folder();
    remote.create_group(&group(1)).await.expect("created");
    std::fs::remove_dir_all(root.path().join("remote")).expect("removed");
    let path = root.path().join("remote");
    for error in [
        remote.list_heads().await.expect_err("gone"),
        remote.get_head(site(1)).await.expect_err("gone"),
        remote.group().await.expect_err("gone"),
        remote.create_group(&group(1)).await.expect_err("gone"),
        remote.put_head(&Head::new(site(1), "")).await.expect_err("gone"),
        remote.put_operation(OperationKind::Schema, [3; 16], &bytes::Bytes::new()).await.expect_err("gone"),
        remote.put_segment(site(2), 255, 16, &segment(&[])).await.expect_err("gone"),
        Remote::open(path.to_str().expect("UTF-8"), &RemoteOptions::default()).expect_err("gone"),
    ] {
        assert!(matches!(error, RemoteError::NoFolder { .. }), "{error:?}");
        assert!(error.to_string().contains("is not there: mount the disk"), "{error}");
    }
    assert!(!path.exists(), "nobody makes it again");
}

#[tokio::test]
async fn the_layout_is_the_documented_one() {
    let (_root, remote) = folder();
    let made = segment(&[]);
    remote.create_group(&group(1)).await.expect("created");
    remote.put_head(&Head::new(site(1), "")).await.expect("put");
    let put = remote.put_segment(site(2), 255, 16, &made).await.expect("put");
    remote.put_operation(OperationKind::Schema, [3; 16], &bytes::Bytes::new()).await.expect("put");
    let name = isle_blobs::SnapshotName::new(17, [4; 16]);
    let part = remote.put_part(site(5), &name, 1, &bytes::Bytes::new()).await.expect("put");
    let hash = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(part.name, format!("00000001-{hash}"));
    let expected = [
        "group".to_owned(),
        "head/01010101010101010101010101010101".to_owned(),
        format!("log/02020202020202020202020202020202/00000000000000ff/{}", put.name),
        "schema/03030303030303030303030303030303".to_owned(),
        format!(
            "snap/05050505050505050505050505050505/0000000000000011-04040404040404040404040404040404/{}",
            part.name
        ),
    ];
    assert_eq!(remote.keys().await.expect("listed"), expected);
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_in_the_way_is_named() {
    let root = tempfile::tempdir().expect("temporary folder");
    let path = root.path().join("file");
    std::fs::write(&path, "x").expect("written");
    let error =
        Remote::create(path.join("below").to_str().expect("UTF-8"), &RemoteOptions::default()).expect_err("refused");
    assert!(matches!(error, RemoteError::Address { .. }), "{error:?}");
    assert!(error.to_string().contains("file is a file; name a folder"), "{error}");
    let error = Remote::open(path.to_str().expect("UTF-8"), &RemoteOptions::default()).expect_err("refused");
    assert!(error.to_string().contains("is a file, not a folder"), "{error}");
}

#[tokio::test]
async fn requests_and_bytes_are_counted() {
    let remote = Remote::in_memory();
    assert_eq!(remote.traffic(), isle_blobs::Traffic::default());
    let head = Head::new(site(1), "");
    let size = head.encode().expect("small").len() as u64;
    remote.put_head(&head).await.expect("put");
    assert_eq!((remote.traffic().requests, remote.traffic().uploaded_bytes), (1, size));
    remote.clone().get_head(site(1)).await.expect("read");
    assert_eq!((remote.traffic().requests, remote.traffic().downloaded_bytes), (2, size));
    remote.list_heads().await.expect("listed");
    assert_eq!(remote.traffic().requests, 3);
}
