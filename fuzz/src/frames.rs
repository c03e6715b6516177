//! Messages of a sync session out of a stream of bytes that is cut anywhere.
//!
//! Input: form, cuts; then the stream itself (form even), or kind and body ([`Script::piece`]) of messages whose lengths are made right.
//! postcard takes numbers that are longer than they need to be, and the protocol does not promise one encoding: what holds is that a
//! message that was read is written so that it reads back.

use bytes::Bytes;
use isle_clock::{GroupId, SiteId};
use isle_protocol::{ByeCode, Decoder, Frame, Have, Hello, Message, MessageError, OpKind, Operation, Partial, VERSION};

use crate::script::{Script, piece};
use crate::{Seed, memory};

/// The longest reason that is written; a longer one that came is cut.
const REASON_BYTES_MAX: usize = 1024;

/// Memory for a stream: an empty text in a list is a byte of it, and 24 of memory in a list that grows by doubling. What serde reserves of
/// a length that a list claims is at most a mebibyte.
const fn bound(bytes: usize) -> usize {
    (2 << 20) + 64 * bytes
}

/// The target.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let [form, cuts] = script.array();
    let stream = if form & 1 == 0 { script.rest().to_vec() } else { framed(&mut script) };
    let read_at = |cuts| memory::bounded("reading messages", bound(stream.len()), || read(&stream, cuts));
    let (whole, cut) = (read_at(0), read_at(cuts));
    assert_eq!(whole, cut, "it matters where a stream is cut");
    let taken: usize = whole.messages.iter().map(|(_, size)| size).sum();
    assert!(taken <= stream.len(), "more was read than came");
    if whole.error.is_none() {
        assert_eq!(whole.within, taken < stream.len());
    }
    whole.messages.iter().for_each(|(message, size)| check(message, *size));
}

#[derive(Debug, PartialEq)]
struct Read {
    messages: Vec<(Message, usize)>,
    error: Option<MessageError>,
    within: bool,
}

/// Reads a stream whole (cuts 0) or in pieces of up to so many bytes, a different number each time.
fn read(stream: &[u8], cuts: u8) -> Read {
    let (mut decoder, mut messages, mut rest) = (Decoder::default(), Vec::new(), stream);
    let mut length = usize::from(cuts);
    loop {
        match decoder.take() {
            Ok(Some(found)) => messages.push(found),
            Ok(None) if rest.is_empty() => return Read { messages, error: None, within: decoder.is_within() },
            Ok(None) => {
                length = (length * 5 + 3) % (usize::from(cuts) + 1);
                let (next, later) = rest.split_at(if cuts == 0 { rest.len() } else { (length + 1).min(rest.len()) });
                decoder.push(next);
                rest = later;
            }
            // What of the stream is in the decoder then is nobody's business.
            Err(error) => return Read { messages, error: Some(error), within: false },
        }
    }
}

/// A message reads back as it was written, and is not written longer than it came. No version in it is beyond what SQLite counts.
fn check(message: &Message, size: usize) {
    let vectors = match message {
        Message::Have(have) => vec![&have.applied, &have.held, &have.floor],
        Message::Progress { applied: vector, .. } | Message::Offer(vector) => vec![vector],
        _ => Vec::new(),
    };
    let sound = |(_, version)| version > 0 && version <= i64::MAX as u64;
    assert!(vectors.into_iter().flat_map(|vector| vector.iter()).all(sound), "{message:?}");
    let written = message.encode();
    assert!(written.len() <= size, "{size} bytes came, {} are written", written.len());
    let mut decoder = Decoder::default();
    decoder.push(&written);
    let Ok(Some((again, length))) = decoder.take() else { panic!("what was written is not read: {message:?}") };
    assert_eq!((length, decoder.is_within()), (written.len(), false));
    assert_eq!(again.encode(), written);
    match message {
        Message::Bye { reason, .. } if reason.len() > REASON_BYTES_MAX => {}
        message => assert_eq!(again, *message),
    }
}

fn framed(script: &mut Script<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !script.is_over() {
        let (kind, body) = (script.byte(), script.piece());
        stream.extend((body.len() as u32 + 1).to_be_bytes());
        stream.push(kind);
        stream.extend(body);
    }
    stream
}

/// One message of each kind, with something in each field.
pub(crate) fn messages() -> Vec<Message> {
    let site = |n| SiteId::from_bytes([n; 16]);
    let vector = || [(site(2), 3), (site(3), 1)].into_iter().collect();
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    let header = crate::changeset::header(2, 4).encode();
    let have = Have {
        applied: vector(),
        held: [(site(3), 2)].into_iter().collect(),
        partial: vec![Partial { site: site(2), version: 4, blocks: 1 }],
        floor: [(site(2), 1)].into_iter().collect(),
        chains: vec![(site(2), 3, [7; 32])],
        yours: Some((1, [8; 32])),
    };
    vec![
        Message::Hello(Box::new(hello(2))),
        Message::Have(Box::new(have)),
        Message::Operation(Operation { kind: OpKind::Schema, bytes: bytes("ISLM") }),
        Message::Operation(Operation { kind: OpKind::Member, bytes: bytes("member") }),
        Message::Frame(Frame::Header(header.into())),
        Message::Frame(Frame::Block { site: site(2), version: 4, index: 0, bytes: bytes("block") }),
        Message::Frame(Frame::Proof { site: site(2), version: 4, bytes: bytes("proof") }),
        Message::Progress { taken: 300, applied: vector() },
        Message::Retired(vec![(site(4), 9)]),
        Message::Decline(site(4)),
        Message::Done,
        Message::Offer(vector()),
        Message::Answer(true),
        Message::Snapshot(bytes("header")),
        Message::Want(vec![(0, 1), (3, 3)]),
        Message::Part { index: 1, bytes: bytes("part") },
        Message::Joined,
        Message::Bye { code: ByeCode::Failed, reason: "the disk is full".to_owned() },
    ]
}

/// What a device says first.
pub(crate) fn hello(n: u8) -> Hello {
    // What a release says beside this is empty: to postcard a zero is nothing of whatever kind.
    let ids = [[16].as_slice(), &[9; 16], &[16], &[n; 16]].concat();
    let blank = [[VERSION as u8, VERSION as u8].as_slice(), &ids, &[0; 256]].concat();
    let (blank, _) = postcard::take_from_bytes::<Hello>(&blank).expect("begins with versions, group and site");
    Hello {
        group: GroupId::from_bytes([9; 16]),
        site: SiteId::from_bytes([n; 16]),
        nonce: [n; 16],
        app: "test".to_owned(),
        device: "laptop".to_owned(),
        addresses: vec!["192.0.2.1:4753".to_owned()],
        schema: vec![[1; 16]],
        members: vec![[2; 16]],
        ..blank
    }
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let messages = messages();
    let stream: Vec<u8> = messages.iter().flat_map(|message| message.encode()).collect();
    let framed: Vec<u8> = messages.iter().flat_map(|message| as_piece(message)).collect();
    let odd = vec![0, 0, 0, 1, 9, 0xff, 0xff, 0xff, 0xff, 5];
    // What is written without being looked at, and refused where it comes.
    let vector = || [(SiteId::from_bytes([2; 16]), 1 << 63)].into_iter().collect();
    let beyond = [
        Message::Offer(vector()),
        Message::Progress { taken: u64::MAX, applied: vector() },
        Message::Have(Box::new(Have { floor: vector(), ..Have::default() })),
        Message::Retired(vec![(SiteId::from_bytes([2; 16]), 1 << 63)]),
        Message::Want(vec![(3, 1)]),
        Message::Part { index: u32::MAX, bytes: Bytes::new() },
        Message::Bye { code: ByeCode::Done, reason: "r".repeat(2 * REASON_BYTES_MAX) },
    ];
    let beyond = |n: usize| [vec![0, 0], beyond[n].encode().to_vec()].concat();
    vec![
        ("stream", [vec![0, 7], stream].concat()),
        ("framed", [vec![1, 2], framed].concat()),
        ("too-long", [vec![0, 1], odd].concat()),
        ("beyond-offer", beyond(0)),
        ("beyond-progress", beyond(1)),
        ("beyond-have", beyond(2)),
        ("beyond-retired", beyond(3)),
        ("beyond-want", beyond(4)),
        ("beyond-part", beyond(5)),
        ("beyond-bye", beyond(6)),
    ]
}

/// Kind and body of a message, as a form of this target has them.
pub(crate) fn as_piece(message: &Message) -> Vec<u8> {
    let encoded = message.encode();
    [&encoded[4..5], &piece(&encoded[5..])].concat()
}
