//! Enrolled devices that do not play by the rules: they hold the key, and speak the protocol by hand.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

use std::time::Duration;

use bytes::Bytes;
use isle::{InviteOptions, Live, LiveOptions, Replica};
use isle_clock::{SiteId, VersionVector};
use isle_identity::{DeviceSecret, site_id};
use isle_protocol::{Decoder, Have, Hello, Message};
use isle_transport::{Endpoint, Receiver, Sender};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A group of two: a victim that listens, and a device whose key the test uses by hand.
struct Group {
    _folder: TempDir,
    victim: Replica,
    live: Live,
    secret: DeviceSecret,
}

async fn group() -> Group {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |name: &str| {
        let home = folder.path().join(format!("{name}.home"));
        Replica::builder(folder.path().join(format!("{name}.db"))).home(home).init().expect("a replica")
    };
    let (victim, other) = (open("victim"), open("other"));
    victim.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)")).expect("creates");
    victim.track(&["notes"]).expect("tracks");
    write(&victim, 1);
    let listen = Some("127.0.0.1:0".parse().expect("an address"));
    let live = victim.go_live(&LiveOptions { listen, ..LiveOptions::default() }).await.expect("listens");
    let options = InviteOptions { addresses: live.addresses().to_vec(), ..InviteOptions::default() };
    other.join(&victim.invite(&options).expect("invites")).await.expect("joins");
    let seed = std::fs::read_to_string(folder.path().join("other.home/device.key")).expect("a key");
    let seed = *seed.parse::<isle::DeviceKey>().expect("32 bytes").as_bytes();
    Group { _folder: folder, victim, live, secret: DeviceSecret::from_seed(seed).expect("a key") }
}

fn write(replica: &Replica, id: i64) {
    replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, 'x')", isle::params![id])).expect("writes");
}

/// A peer that says what the test says.
struct Peer {
    send: Sender,
    receive: Receiver,
    decoder: Decoder,
    _endpoint: Endpoint,
}

impl Peer {
    /// Calls the victim, and says hello.
    async fn call(group: &Group, kind: u8, nonce: u8) -> Peer {
        let endpoint = Endpoint::dial_only(&group.secret).expect("an endpoint");
        let address = group.live.addresses()[0].parse().expect("an address");
        let status = group.victim.status().expect("status");
        let connection = endpoint.dial(address, status.device.key).await.expect("connects");
        let mut stream = connection.open().await.expect("opens");
        stream.send(Bytes::from(vec![kind])).await.expect("sends");
        let (send, receive) = stream.split();
        let mut peer = Peer { send, receive, decoder: Decoder::default(), _endpoint: endpoint };
        let hello = Hello {
            version: 1,
            oldest: 1,
            group: status.group,
            site: site_id(&group.secret.key(), &[nonce; 16]),
            nonce: [nonce; 16],
            app: status.app,
            device: "hostile".to_owned(),
            addresses: Vec::new(),
            schema: Vec::new(),
            members: Vec::new(),
            keys: Vec::new(),
            others: Vec::new(),
        };
        peer.say(Message::Hello(Box::new(hello))).await;
        peer
    }

    async fn say(&mut self, message: Message) {
        // Where the victim has hung up already, nobody hears it.
        let _ = self.send.send(message.encode()).await;
    }

    /// The next message that fits; `None` when the victim has ended the session.
    async fn hear(&mut self, fits: impl Fn(&Message) -> bool) -> Option<Message> {
        let heard = tokio::time::timeout(PATIENCE, async {
            loop {
                while let Ok(Some((message, _))) = self.decoder.take() {
                    if fits(&message) {
                        return Some(message);
                    }
                }
                match self.receive.receive(1 << 16).await {
                    Ok(Some(bytes)) => self.decoder.push(&bytes),
                    _ => return None,
                }
            }
        });
        heard.await.expect("it says something, or hangs up")
    }
}

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
    let mut peer = Peer::call(&group, b's', 9).await;
    peer.hear(|message| matches!(message, Message::Hello(_))).await.expect("it greets");
    let endpoint = Endpoint::dial_only(&group.secret).expect("an endpoint");
    let status = group.victim.status().expect("status");
    let address = group.live.addresses()[0].parse().expect("an address");
    let connection = endpoint.dial(address, status.device.key).await.expect("connects");
    let mut stream = connection.open().await.expect("opens");
    stream.send(Bytes::from_static(b"s")).await.expect("sends");
    let (send, receive) = stream.split();
    let mut liar = Peer { send, receive, decoder: Decoder::default(), _endpoint: endpoint };
    let hello = Hello {
        version: 1,
        oldest: 1,
        group: status.group,
        // One that somebody else made.
        site: SiteId::from_bytes([5; 16]),
        nonce: [5; 16],
        app: status.app,
        device: "liar".to_owned(),
        addresses: Vec::new(),
        schema: Vec::new(),
        members: Vec::new(),
        keys: Vec::new(),
        others: Vec::new(),
    };
    liar.say(Message::Hello(Box::new(hello))).await;
    assert_eq!(liar.hear(|message| matches!(message, Message::Have(_))).await, None);
    assert!(group.victim.status().expect("status").sites.iter().all(|site| site.id != SiteId::from_bytes([5; 16])));
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
