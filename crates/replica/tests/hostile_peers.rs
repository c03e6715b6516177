//! Enrolled devices that do not play by the rules: they hold the key, and speak the protocol by hand.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/by_hand.rs"]
mod by_hand;

use by_hand::{Group, PATIENCE, Peer, group, write};
use bytes::Bytes;
use isle::{InviteOptions, LiveEvent, LiveOptions, Replica};
use isle_changeset::Header;
use isle_clock::{GroupId, SiteId, VersionVector};
use isle_identity::{prove, site_id};
use isle_protocol::{ByeCode, Frame, Have, Message};
use tokio::sync::broadcast::Receiver;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_put_out_gets_nothing_more_on_any_session() {
    for kind in [b's', b'o'] {
        let group = group().await;
        let mut peer = Peer::call(&group, kind, 1).await;
        peer.hear(|message| matches!(message, Message::Have(_))).await.expect("it says what it has");
        peer.say(Message::Have(Box::default())).await;
        peer.hear(|message| matches!(message, Message::Done)).await.expect("it sends what there is");
        group.victim.revoke(&group.secret.key().to_string()).expect("revokes");
        write(&group.victim, 2);
        let more = peer.hear(|message| matches!(message, Message::Frame(_))).await;
        assert_eq!(more, None, "kind {kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_id_of_another_device_is_not_believed() {
    let group = group().await;
    // One that somebody else made.
    let made_by_another = SiteId::from_bytes([5; 16]);
    let mut liar = Peer::call_as(&group, b's', made_by_another, [5; 16]).await;
    assert_eq!(liar.hear(|message| matches!(message, Message::Have(_))).await, None);
    assert!(group.victim.status().expect("status").sites.iter().all(|site| site.id != made_by_another));
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_sites_and_lies_about_the_victims_own_change_little() {
    let group = group().await;
    let site = group.victim.status().expect("status").site;
    let known = group.victim.status().expect("status").sites.len();
    let mut peer = Peer::call(&group, b's', 1).await;
    peer.hear(|message| matches!(message, Message::Have(_))).await.expect("it says what it has");
    let made_up = (0..30_000u32).map(|n| {
        let mut id = [7; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        (SiteId::from_bytes(id), 1)
    });
    let mut made_up: Vec<_> = made_up.collect();
    made_up.sort_unstable();
    peer.say(Message::Retired(made_up)).await;
    peer.say(Message::Have(Box::default())).await;
    peer.hear(|message| matches!(message, Message::Done)).await.expect("it goes on");
    // Whatever a peer claims to know of it, the victim takes a new id once and not again and again.
    for n in 2..6 {
        let mut liar = Peer::call(&group, b's', n).await;
        if liar.hear(|message| matches!(message, Message::Have(_))).await.is_none() {
            // It takes a new id at this very moment.
            continue;
        }
        let yours = Some((1 << 40, [n; 32]));
        liar.say(Message::Have(Box::new(Have { yours, applied: VersionVector::new(), ..Have::default() }))).await;
        assert!(liar.hear(|message| matches!(message, Message::Frame(_))).await.is_none());
    }
    let status = group.victim.status().expect("status");
    assert!(status.sites.len() <= known + 7, "{} sites", status.sites.len());
    assert_ne!(status.site, site, "it could not know that this was a lie");
    write(&group.victim, 2);
    assert!(group.victim.check().expect("checks").findings.is_empty());
}

/// A third member, which keeps to the rules.
async fn honest(group: &Group) -> Replica {
    let home = group.folder.path().join("honest.home");
    let honest = Replica::builder(group.folder.path().join("honest.db")).home(home).init().expect("a replica");
    let options = InviteOptions { addresses: group.live.addresses().to_vec(), ..InviteOptions::default() };
    honest.join(&group.victim.invite(&options).expect("invites")).await.expect("joins");
    write(&honest, 100);
    honest.sync().await.expect("syncs");
    honest
}

/// It goes on as if nothing had happened.
async fn goes_on(group: &Group, honest: &Replica, id: i64) {
    write(honest, id);
    honest.sync().await.expect("syncs");
    let has = "SELECT count(*) FROM notes WHERE id = ?1";
    assert_eq!(group.victim.read(|q| q.one::<i64>(has, isle::params![id])).expect("reads"), Some(1));
    assert_eq!(group.victim.state_hash().expect("hashes"), honest.state_hash().expect("hashes"));
    assert!(group.victim.check().expect("checks").findings.is_empty());
}

/// Why something was refused, as a user is told.
async fn refusal(events: &mut Receiver<LiveEvent>) -> String {
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            if let LiveEvent::Refused { reason, .. } = events.recv().await.expect("the events go on") {
                return reason;
            }
        }
    });
    told.await.expect("it is told")
}

/// The last changeset of a site among these pieces, as a header, its bytes, and its only block.
fn last_of(frames: &[Frame], site: SiteId) -> (Header, Bytes, Bytes) {
    let headers = frames.iter().filter_map(|frame| match frame {
        Frame::Header(bytes) => Some((Header::decode(bytes).expect("a header"), bytes.clone())),
        _ => None,
    });
    let (header, bytes) = headers.filter(|(header, _)| header.site == site).last().expect("a changeset");
    let block = frames.iter().find_map(|frame| match frame {
        Frame::Block { site: of, version, bytes, .. } if (*of, *version) == (site, header.version) => {
            Some(bytes.clone())
        }
        _ => None,
    });
    (header, bytes, block.expect("a block"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changeset_in_another_devices_name_is_refused_and_gives_way_to_the_genuine_one() {
    let group = group().await;
    let honest = honest(&group).await;
    let site = honest.status().expect("status").site;
    let mut events = group.live.events();
    let mut peer = Peer::call(&group, b's', 1).await;
    let frames = peer.collect().await;
    let (mut forged, before, block) = last_of(&frames, site);
    (forged.version, forged.previous) = (forged.version + 1, Header::hash(&before));
    let (version, encoded) = (forged.version, Bytes::from(forged.encode()));
    // Signed by a device that is a member, and not the author.
    let proof = prove(&group.secret, &[1; 16], forged.group, version, &Header::hash(&encoded));
    peer.say(Message::Frame(Frame::Header(encoded))).await;
    peer.say(Message::Frame(Frame::Block { site, version, index: 0, bytes: block })).await;
    peer.say(Message::Frame(Frame::Proof { site, version, bytes: proof.into() })).await;
    let reason = refusal(&mut events).await;
    assert!(reason.contains("sign") || reason.contains("device"), "{reason}");
    goes_on(&group, &honest, 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_block_is_refused_with_its_site_alone() {
    let group = group().await;
    let honest = honest(&group).await;
    let mut events = group.live.events();
    let mut peer = Peer::call(&group, b's', 1).await;
    let frames = peer.collect().await;
    let (mut own, _, block) = last_of(&frames, honest.status().expect("status").site);
    (own.site, own.version, own.previous) = (site_id(&group.secret.key(), &[1; 16]), 1, [0; 32]);
    own.causes.clear();
    let (site, encoded) = (own.site, Bytes::from(own.encode()));
    let proof = prove(&group.secret, &[1; 16], own.group, 1, &Header::hash(&encoded));
    let mut altered = block.to_vec();
    *altered.last_mut().expect("bytes") ^= 1;
    peer.say(Message::Frame(Frame::Proof { site, version: 1, bytes: proof.into() })).await;
    peer.say(Message::Frame(Frame::Header(encoded))).await;
    peer.say(Message::Frame(Frame::Block { site, version: 1, index: 0, bytes: altered.into() })).await;
    let declined = peer.hear(|message| matches!(message, Message::Decline(of) if *of == site)).await;
    assert!(declined.is_some(), "it wants no more of that site");
    let reason = refusal(&mut events).await;
    assert!(reason.contains(&site.to_string()) || reason.contains(&site.short()), "{reason}");
    goes_on(&group, &honest, 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_changes_nothing_when_it_is_sent_again() {
    let group = group().await;
    let honest = honest(&group).await;
    let mut peer = Peer::call(&group, b's', 1).await;
    let frames = peer.collect().await;
    let before = (group.victim.state_hash().expect("hashes"), group.victim.status().expect("status").conflicts);
    for frame in frames.iter().chain(&frames).rev() {
        peer.say(Message::Frame(frame.clone())).await;
    }
    peer.say(Message::Done).await;
    peer.hear(|message| matches!(message, Message::Progress { taken, .. } if *taken > 0)).await.expect("it takes them");
    let after = (group.victim.state_hash().expect("hashes"), group.victim.status().expect("status").conflicts);
    assert_eq!(before, after);
    goes_on(&group, &honest, 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_group_is_told_that_it_does_not_fit() {
    let group = group().await;
    let honest = honest(&group).await;
    let mut peer = Peer::call_with(&group, b's', |hello| hello.group = GroupId::from_bytes([9; 16])).await;
    let bye = peer.hear(|message| matches!(message, Message::Bye { .. })).await;
    assert!(matches!(bye, Some(Message::Bye { code: ByeCode::Unfit, .. })), "{bye:?}");
    goes_on(&group, &honest, 101).await;
}

/// A clock that is an hour ahead.
#[derive(Debug)]
struct Ahead;

impl isle::Runtime for Ahead {
    fn now_ms(&self) -> u64 {
        isle::SystemRuntime.now_ms() + 3_600_000
    }

    fn random(&self) -> [u8; 16] {
        isle::SystemRuntime.random()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_from_the_future_waits_and_holds_up_nobody_elses() {
    let group = group().await;
    let honest = honest(&group).await;
    let builder = Replica::builder(group.folder.path().join("other.db")).home(group.folder.path().join("other.home"));
    let other = builder.runtime(std::sync::Arc::new(Ahead)).open().expect("opens");
    write(&other, 500);
    other.sync().await.expect("syncs");
    let status = group.victim.status().expect("status");
    assert_eq!(status.waiting, 1, "it is there, and waits");
    let seen = group.victim.read(|q| q.all::<i64>("SELECT id FROM notes WHERE id = 500", &[])).expect("reads");
    assert!(seen.is_empty());
    goes_on(&group, &honest, 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessers_and_silent_strangers_do_not_keep_members_out() {
    let group = group().await;
    let honest = honest(&group).await;
    let address: std::net::SocketAddr = group.live.addresses()[0].parse().expect("an address");
    let key = group.victim.status().expect("status").device.key;
    let mut silent = Vec::new();
    for n in 0..40u8 {
        let secret = isle_identity::DeviceSecret::from_seed([n + 1; 32]).expect("a key");
        let endpoint = isle_transport::Endpoint::dial_only(&secret).expect("an endpoint");
        let connection = endpoint.dial(address, key).await.expect("connects");
        silent.push((endpoint, connection));
    }
    let options = InviteOptions { addresses: group.live.addresses().to_vec(), ..InviteOptions::default() };
    let ticket = group.victim.invite(&options).expect("invites");
    let home = group.folder.path().join("guesser.home");
    let guesser = Replica::builder(group.folder.path().join("guesser.db")).home(home).init().expect("a replica");
    let begun = std::time::Instant::now();
    for n in 0..3u8 {
        let guess = isle::Ticket { secret: isle::InviteSecret::from_random([n; 16]), ..ticket.clone() };
        assert!(guesser.join(&guess).await.is_err());
    }
    // Each guess that was heard takes a second, and one that was not heard is none.
    goes_on(&group, &honest, 101).await;
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(group.victim.peers().expect("peers").len(), 3);
    // Strangers have gone, or are sent away: whoever has the ticket is let in.
    let mut joined = guesser.join(&ticket).await;
    while matches!(joined, Err(isle::Error::Peer { .. })) && begun.elapsed() < PATIENCE {
        joined = guesser.join(&ticket).await;
    }
    joined.expect("joins");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_few_sessions_at_once() {
    let group = group().await;
    let mut peers = Vec::new();
    for n in 0..20 {
        peers.push(Peer::call(&group, b'o', n).await);
    }
    let mut served = 0;
    for peer in &mut peers {
        served += usize::from(peer.hear(|message| matches!(message, Message::Hello(_))).await.is_some());
    }
    assert!((1..=6).contains(&served), "{served} sessions");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_live_per_file() {
    let group = group().await;
    let again = group.victim.go_live(&LiveOptions::default()).await;
    assert!(matches!(again, Err(isle::Error::AlreadyLive)), "{:?}", again.err());
    assert_eq!(group.victim.listening_elsewhere().expect("reads"), group.live.addresses());
    group.live.stop().await.expect("stops");
    assert!(group.victim.listening_elsewhere().expect("reads").is_empty());
    group.victim.go_live(&LiveOptions::default()).await.expect("it is free").stop().await.expect("stops");
}
