//! A member of a group that speaks the protocol by hand: a test holds its key.

use std::time::Duration;

use bytes::Bytes;
use isle::{InviteOptions, Live, LiveOptions, Replica};
use isle_clock::SiteId;
use isle_identity::{DeviceSecret, site_id};
use isle_protocol::{Decoder, Frame, Hello, Message};
use isle_transport::{Endpoint, Receiver, Sender};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A group of two: a victim that listens, and a device whose key the test uses by hand.
pub(crate) struct Group {
    pub(crate) folder: TempDir,
    pub(crate) victim: Replica,
    pub(crate) live: Live,
    pub(crate) secret: DeviceSecret,
}

pub(crate) async fn group() -> Group {
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
    Group { folder, victim, live, secret: DeviceSecret::from_seed(seed).expect("a key") }
}

pub(crate) fn write(replica: &Replica, id: i64) {
    replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, 'x')", isle::params![id])).expect("writes");
}

/// A peer that says what the test says.
pub(crate) struct Peer {
    send: Sender,
    receive: Receiver,
    decoder: Decoder,
    _endpoint: Endpoint,
}

impl Peer {
    /// Calls the victim, and says hello as a site of its own.
    pub(crate) async fn call(group: &Group, kind: u8, nonce: u8) -> Peer {
        Peer::call_as(group, kind, site_id(&group.secret.key(), &[nonce; 16]), [nonce; 16]).await
    }

    /// The same, as any site.
    pub(crate) async fn call_as(group: &Group, kind: u8, site: SiteId, nonce: [u8; 16]) -> Peer {
        Peer::call_with(group, kind, |hello| (hello.site, hello.nonce) = (site, nonce)).await
    }

    /// The same, with another hello.
    pub(crate) async fn call_with(group: &Group, kind: u8, change: impl FnOnce(&mut Hello)) -> Peer {
        let endpoint = Endpoint::dial_only(&group.secret).expect("an endpoint");
        let address = group.live.addresses()[0].parse().expect("an address");
        let status = group.victim.status().expect("status");
        let connection = endpoint.dial(address, status.device.key).await.expect("connects");
        let mut stream = connection.open().await.expect("opens");
        stream.send(Bytes::from(vec![kind])).await.expect("sends");
        let (send, receive) = stream.split();
        let mut peer = Peer { send, receive, decoder: Decoder::default(), _endpoint: endpoint };
        let mut hello = Hello {
            version: 1,
            oldest: 1,
            group: status.group,
            site: site_id(&group.secret.key(), &[1; 16]),
            nonce: [1; 16],
            app: status.app,
            device: "hostile".to_owned(),
            addresses: Vec::new(),
            schema: Vec::new(),
            members: Vec::new(),
            keys: Vec::new(),
            others: Vec::new(),
        };
        change(&mut hello);
        peer.say(Message::Hello(Box::new(hello))).await;
        peer
    }

    pub(crate) async fn say(&mut self, message: Message) {
        // Where the victim has hung up already, nobody hears it.
        let _ = self.send.send(message.encode()).await;
    }

    /// The next message that fits; `None` when the victim has ended the session.
    pub(crate) async fn hear(&mut self, fits: impl Fn(&Message) -> bool) -> Option<Message> {
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

    /// Says that it has nothing, and takes every piece of a changeset that comes until all are there.
    pub(crate) async fn collect(&mut self) -> Vec<Frame> {
        let frames = std::cell::RefCell::new(Vec::new());
        self.hear(|message| matches!(message, Message::Have(_))).await.expect("it says what it has");
        self.say(Message::Have(Box::default())).await;
        let all = self.hear(|message| {
            if let Message::Frame(frame) = message {
                frames.borrow_mut().push(frame.clone());
            }
            matches!(message, Message::Done)
        });
        all.await.expect("it sends what there is");
        frames.into_inner()
    }
}
