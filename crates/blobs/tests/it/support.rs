//! Values and remotes that many tests use.

use std::time::Duration;

use bytes::Bytes;
use isle_blobs::{
    Credentials, Frame, GroupObject, Head, PartRef, Remote, RemoteOptions, Segment, SegmentRef, SegmentWriter,
    SnapshotName, SnapshotRef, VersionRange,
};
use isle_clock::{GroupId, SiteId};
use isle_test_s3::{Behaviour, S3Server};

pub(crate) fn site(n: u8) -> SiteId {
    SiteId::from_bytes([n; 16])
}

pub(crate) fn group(n: u8) -> GroupObject {
    GroupObject::new(GroupId::from_bytes([n; 16]), "notes")
}

pub(crate) fn segment(frames: &[Frame]) -> Segment {
    let mut writer = SegmentWriter::new();
    for frame in frames {
        writer.push(frame).expect("within bounds");
    }
    writer.finish()
}

/// A head with something in each field.
pub(crate) fn full_head(n: u8) -> Head {
    let mut head = Head::new(site(n), "laptop");
    head.epoch = 2;
    head.last_version = 300;
    head.chain = [7; 32];
    head.acknowledged = [(site(1), 300), (site(2), 4)].into_iter().collect();
    head.floor = [(site(1), 12)].into_iter().collect();
    head.schema_heads = vec![[9; 16]];
    head.snapshot = Some(SnapshotRef {
        site: site(2),
        name: SnapshotName::new(4, [5; 16]),
        manifest: PartRef { name: "manifest-00".to_owned(), bytes: 77 },
        vector: [(site(2), 4)].into_iter().collect(),
    });
    head.segments = vec![SegmentRef {
        epoch: 2,
        name: "000000000000012c-ab".to_owned(),
        bytes: 4096,
        contents: vec![VersionRange { site: site(n), first: 1, last: 299 }],
    }];
    head.tail = vec![Frame::header(site(n), 300, &b"top"[..]), Frame::block(site(n), 300, 0, &b"body"[..])];
    head.retired = vec![(site(3), 7)];
    head.extra = Bytes::from_static(b"signed");
    head
}

/// Options for the test server: quick to give up, slow enough for a busy machine.
pub(crate) fn s3_options() -> RemoteOptions {
    let mut options = RemoteOptions::default();
    options.credentials = Some(Credentials::new(S3Server::ACCESS_KEY, S3Server::SECRET_KEY));
    options.insecure_http = true;
    options.request_timeout = Duration::from_secs(20);
    options.retries = 6;
    options
}

pub(crate) fn start(behaviour: Behaviour) -> S3Server {
    S3Server::start(behaviour).expect("a server")
}

pub(crate) fn open(server: &S3Server, options: &RemoteOptions) -> Remote {
    Remote::open(&server.url("team/app"), options).expect("a remote")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
