//! Remotes and peers carry the same: one format, and no work twice.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/by_hand.rs"]
mod by_hand;

use std::collections::BTreeMap;
use std::time::Duration;

use by_hand::{PATIENCE, Peer, group, write};
use bytes::Bytes;
use isle::{InviteOptions, LiveEvent, LiveOptions, Replica};
use isle_blobs::{FrameKind, Remote, read_segment};
use isle_changeset::Header;
use isle_clock::SiteId;
use isle_protocol::Frame;

/// Every piece of a changeset by author, version and place, as bytes.
type Pieces = BTreeMap<(SiteId, u64, String), Bytes>;

fn from_peer(frames: Vec<Frame>) -> Pieces {
    let piece = |frame| match frame {
        Frame::Header(bytes) => {
            let Header { site, version, .. } = Header::decode(&bytes).expect("a header");
            ((site, version, "header".to_owned()), bytes)
        }
        Frame::Block { site, version, index, bytes } => ((site, version, format!("block {index}")), bytes),
        Frame::Proof { site, version, bytes } => ((site, version, "proof".to_owned()), bytes),
    };
    frames.into_iter().map(piece).collect()
}

async fn from_remote(remote: &Remote) -> Pieces {
    let mut pieces = Pieces::new();
    for head in remote.list_heads().await.expect("lists") {
        let (head, _) = remote.get_head(head.site).await.expect("reads").expect("a head");
        let mut frames = head.tail.clone();
        for segment in &head.segments {
            let bytes = remote.get_segment(head.site, segment).await.expect("reads");
            frames.extend(read_segment(&bytes).expect("a segment").map(|frame| frame.expect("a frame")));
        }
        for frame in frames {
            let place = match frame.kind {
                FrameKind::Header => "header".to_owned(),
                FrameKind::Block => format!("block {}", frame.index),
                FrameKind::Proof => "proof".to_owned(),
                FrameKind::Other(kind) => panic!("a frame of kind {kind}"),
            };
            pieces.insert((frame.site, frame.version, place), frame.payload);
        }
    }
    pieces
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_from_a_peer_are_those_in_a_remote_also_where_others_wrote_them() {
    let group = group().await;
    let home = group.folder.path().join("third.home");
    let third = Replica::builder(group.folder.path().join("third.db")).home(home).init().expect("a replica");
    let options = InviteOptions { addresses: group.live.addresses().to_vec(), ..InviteOptions::default() };
    third.join(&group.victim.invite(&options).expect("invites")).await.expect("joins");
    // One changeset has several blocks, and some are by another device than the one that hands them over.
    let many = "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO notes SELECT i, hex(randomblob(400)) FROM n";
    group.victim.write(|tx| tx.execute(many, &[])).expect("writes");
    for id in 10..14 {
        write(&third, id);
    }
    third.sync().await.expect("syncs");
    let remote = Remote::in_memory();
    group.victim.add_open_remote("plain", remote.clone()).expect("adds");
    group
        .victim
        .sync_with(&isle::SyncOptions { remote: Some("plain".to_owned()), ..Default::default() })
        .await
        .expect("syncs");
    third.add_open_remote("plain", remote.clone()).expect("adds");
    third
        .sync_with(&isle::SyncOptions { remote: Some("plain".to_owned()), ..Default::default() })
        .await
        .expect("syncs");
    let in_remote = from_remote(&remote).await;
    let at_peer = from_peer(Peer::call(&group, b's', 1).await.collect().await);
    let several = at_peer.keys().filter(|(.., place)| place.starts_with("block")).count();
    assert!(several > at_peer.keys().filter(|(.., place)| place == "header").count(), "one of them has several blocks");
    let without_proofs = |pieces: &Pieces| -> Pieces {
        pieces
            .iter()
            .filter(|((.., place), _)| place != "proof")
            .map(|(key, bytes)| (key.clone(), bytes.clone()))
            .collect()
    };
    let (of_peer, of_remote) = (without_proofs(&at_peer), without_proofs(&in_remote));
    assert_eq!(of_peer.keys().collect::<Vec<_>>(), of_remote.keys().collect::<Vec<_>>());
    assert!(of_peer == of_remote, "every byte is the same");
    // A signature that both carry is the same too; the last of each site is in both.
    let proofs = at_peer.iter().filter(|((.., place), _)| place == "proof");
    let same = proofs.filter(|(key, bytes)| in_remote.get(*key) == Some(*bytes)).count();
    assert!(same >= 2, "{same} signatures are in both");
}

/// The next event that `pick` takes.
async fn next<T>(
    events: &mut tokio::sync::broadcast::Receiver<LiveEvent>,
    pick: impl Fn(&LiveEvent) -> Option<T>,
) -> T {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = pick(&events.recv().await.expect("the events go on")) {
                return found;
            }
        }
    });
    waited.await.expect("it happens")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_has_sent_is_not_fetched_from_a_remote_as_well() {
    let group = group().await;
    let a = &group.victim;
    let home = group.folder.path().join("b.home");
    let b = Replica::builder(group.folder.path().join("b.db")).home(home).init().expect("a replica");
    let options = InviteOptions { addresses: group.live.addresses().to_vec(), ..InviteOptions::default() };
    b.join(&a.invite(&options).expect("invites")).await.expect("joins");
    let remote = Remote::in_memory();
    for replica in [a, &b] {
        replica.add_open_remote("shared", remote.clone()).expect("adds");
        replica.sync().await.expect("syncs");
    }
    group.live.stop().await.expect("stops");
    let listen = Some("127.0.0.1:0".parse().expect("an address"));
    let remotes = Some(Duration::from_millis(300));
    let live_a = a.go_live(&LiveOptions { listen, remotes, ..LiveOptions::default() }).await.expect("goes live");
    let key = a.status().expect("status").device.key.to_string();
    b.add_peer_address(&key, &live_a.addresses()[0]).expect("says where");
    let live_b = b.go_live(&LiveOptions { remotes, ..LiveOptions::default() }).await.expect("goes live");
    let (mut of_a, mut of_b) = (live_a.events(), live_b.events());
    next(&mut of_b, |event| matches!(event, LiveEvent::CaughtUp { .. }).then_some(())).await;
    let large = "INSERT INTO notes VALUES(77, hex(randomblob(500000)))";
    a.write(|tx| tx.execute(large, &[])).expect("writes");
    let came = next(&mut of_b, |event| match event {
        LiveEvent::Exchanged { received, .. } if *received > 0 => Some(*received),
        _ => None,
    });
    assert_eq!(came.await, 1, "it came over the connection, once");
    let sent = next(&mut of_a, |event| match event {
        LiveEvent::Synced { report } if report.pushed_versions > 0 => Some(report.uploaded_bytes),
        _ => None,
    });
    assert!(sent.await > 400_000, "the remote has it as well");
    // The head in the remote has changed: b looks at it, by itself or now, and needs nothing of it.
    let shared = isle::SyncOptions { remote: Some("shared".to_owned()), ..Default::default() };
    let mut reports = b.sync_with(&shared).await.expect("syncs");
    while let Ok(event) = of_b.try_recv() {
        if let LiveEvent::Synced { report } = event {
            reports.push(*report);
        }
    }
    let (pulled, bytes) = reports
        .iter()
        .fold((0, 0), |(pulled, bytes), report| (pulled + report.pulled_versions, bytes + report.downloaded_bytes));
    assert!(pulled == 0 && bytes < 60_000, "{pulled} versions, {bytes} bytes");
    live_b.stop().await.expect("stops");
    live_a.stop().await.expect("stops");
}
