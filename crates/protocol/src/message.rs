//! What the two sides say.

use bytes::{BufMut as _, Bytes, BytesMut};
use isle_changeset::{HEADER_BYTES_MAX, Hash, ROW_BYTES_MAX};
use isle_clock::{GroupId, SiteId, VersionVector};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest message: a block with a single row of the largest size.
pub const MESSAGE_BYTES_MAX: usize = ROW_BYTES_MAX + (2 << 20);
/// The largest message that is neither a changeset's nor a snapshot's.
const CONTROL_BYTES_MAX: usize = 4 << 20;
/// The largest operation.
const OPERATION_BYTES_MAX: usize = 4 << 20;
/// The most entries of a list in a message.
const LIST_MAX: usize = 1 << 16;
/// The longest text in a message.
const TEXT_BYTES_MAX: usize = 1024;
/// The largest proof.
const PROOF_BYTES_MAX: usize = 16 << 10;
/// Length and kind.
pub(crate) const PRELUDE_BYTES: usize = 5;

const HELLO: u8 = 1;
const HAVE: u8 = 2;
const OPERATION: u8 = 3;
const HEADER: u8 = 4;
const BLOCK: u8 = 5;
const PROGRESS: u8 = 6;
const RETIRED: u8 = 7;
const DECLINE: u8 = 8;
const DONE: u8 = 9;
const OFFER: u8 = 10;
const ANSWER: u8 = 11;
const SNAPSHOT: u8 = 12;
const WANT: u8 = 13;
const PART: u8 = 14;
const PROOF: u8 = 15;
const BYE: u8 = 16;
const JOINED: u8 = 17;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// A kind that this version does not know.
    #[error("message of unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u8,
    },
    /// Longer than a message of its kind may be.
    #[error("message of kind {kind} with {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// The kind.
        kind: u8,
        /// The length that it claims.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// It breaks a rule of its kind.
    #[error("malformed message of kind {kind}: {what}")]
    Malformed {
        /// The kind.
        kind: u8,
        /// The broken rule.
        what: &'static str,
    },
}

/// Of which set an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OpKind {
    /// It changes the schema.
    Schema,
    /// It changes who belongs to the group.
    Member,
    /// It hands on a key of the group, to this peer alone.
    Key,
}

/// An operation of one of the sets that only grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The set.
    pub kind: OpKind,
    /// Its encoding.
    pub bytes: Bytes,
}

/// The first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest protocol version that is spoken.
    pub version: u16,
    /// The oldest.
    pub oldest: u16,
    /// The group.
    pub group: GroupId,
    /// The site.
    pub site: SiteId,
    /// Shows, with the key of the device, that the site is that device's.
    pub nonce: [u8; 16],
    /// The app.
    pub app: String,
    /// The name of the device.
    pub device: String,
    /// Where it can be reached, `host:port` each; none if it does not listen.
    pub addresses: Vec<String>,
    /// All schema operations that it knows.
    pub schema: Vec<[u8; 16]>,
    /// All membership operations that it knows.
    pub members: Vec<[u8; 16]>,
    /// The keys of the group that it has: what they are known by.
    pub keys: Vec<[u8; 16]>,
    /// Where other devices of the group were last talked to: their keys, and addresses as above.
    pub others: Vec<([u8; 32], Vec<String>)>,
}

/// A changeset of which some blocks are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partial {
    /// The author.
    pub site: SiteId,
    /// The author's version.
    pub version: u64,
    /// How many of its blocks are here, counted from the first without a gap.
    pub blocks: u32,
}

/// What a side has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Have {
    /// What is applied.
    pub applied: VersionVector,
    /// Where the log holds more than that, whole and without a gap: up to which version.
    pub held: VersionVector,
    /// Changesets of which a part is here.
    pub partial: Vec<Partial>,
    /// Up to where tombstones have been collected here: whoever has not seen that much writes in ignorance of deletes.
    pub floor: VersionVector,
    /// The last applied version of each site, and the hash of its header: two histories of one site are noticed by it.
    pub chains: Vec<(SiteId, u64, Hash)>,
    /// What is applied of the peer's own site: the version, and the hash of its header.
    pub yours: Option<(u64, Hash)>,
}

/// A piece of a changeset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// An encoded header.
    Header(Bytes),
    /// A stored block.
    Block {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// The block's place in the changeset.
        index: u32,
        /// The stored form.
        bytes: Bytes,
    },
    /// The author's signature under its versions up to this one.
    Proof {
        /// The author.
        site: SiteId,
        /// The version.
        version: u64,
        /// The signature, as the store keeps it.
        bytes: Bytes,
    },
}

/// Why a side ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ByeCode {
    /// All is exchanged.
    Done,
    /// It shuts down, or begins anew under another site id.
    Restart,
    /// The other cannot be talked to: another group, another protocol, a copy of this file.
    Unfit,
    /// The other broke a rule.
    Broken,
    /// The other does not belong to the group.
    Unknown,
    /// Something went wrong here.
    Failed,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Box<Hello>),
    /// See [`Have`].
    Have(Box<Have>),
    /// See [`Operation`].
    Operation(Operation),
    /// See [`Frame`].
    Frame(Frame),
    /// How much was taken in.
    Progress {
        /// Bytes of messages that count, since the session began.
        taken: u64,
        /// What was applied since the last one.
        applied: VersionVector,
    },
    /// Sites that are retired, and the last version of each that counts.
    Retired(Vec<(SiteId, u64)>),
    /// No more of this site is wanted.
    Decline(SiteId),
    /// All that was there has been sent.
    Done,
    /// A snapshot can be had.
    Offer(VersionVector),
    /// Whether it is wanted.
    Answer(bool),
    /// The header of the snapshot.
    Snapshot(Bytes),
    /// Blocks of it that are wanted: first and last of each range.
    Want(Vec<(u32, u32)>),
    /// A block of it.
    Part {
        /// Its place.
        index: u32,
        /// The stored form.
        bytes: Bytes,
    },
    /// The snapshot has been taken in.
    Joined,
    /// The session ends.
    Bye {
        /// Why.
        code: ByeCode,
        /// For people.
        reason: String,
    },
}

/// The largest body of a kind.
pub(crate) fn limit(kind: u8) -> Result<usize, MessageError> {
    Ok(match kind {
        HELLO | HAVE | PROGRESS | RETIRED | OFFER | WANT => CONTROL_BYTES_MAX,
        OPERATION => OPERATION_BYTES_MAX + 1,
        HEADER | SNAPSHOT => HEADER_BYTES_MAX.max(isle_changeset::snapshot::SNAPSHOT_HEADER_BYTES_MAX),
        BLOCK | PART => MESSAGE_BYTES_MAX,
        DECLINE => 16,
        DONE | JOINED => 0,
        ANSWER => 1,
        PROOF => PROOF_BYTES_MAX,
        BYE => 2 * TEXT_BYTES_MAX,
        kind => return Err(MessageError::Kind { kind }),
    })
}

impl Message {
    /// Whether it counts against the window.
    pub(crate) fn counts(&self) -> bool {
        matches!(self, Message::Operation(_) | Message::Frame(_) | Message::Snapshot(_) | Message::Part { .. })
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(PRELUDE_BYTES + 64);
        out.put_u32(0);
        match self {
            Message::Hello(hello) => put(&mut out, HELLO, hello),
            Message::Have(have) => put(&mut out, HAVE, have),
            Message::Operation(Operation { kind, bytes }) => {
                out.put_u8(OPERATION);
                out.put_u8(match kind {
                    OpKind::Schema => 0,
                    OpKind::Member => 1,
                    OpKind::Key => 2,
                });
                out.put_slice(bytes);
            }
            Message::Frame(Frame::Header(header)) => put_bytes(&mut out, HEADER, header),
            Message::Frame(Frame::Block { site, version, index, bytes }) => {
                out.put_u8(BLOCK);
                out.put_slice(site.as_bytes());
                out.put_u64(*version);
                out.put_u32(*index);
                out.put_slice(bytes);
            }
            Message::Frame(Frame::Proof { site, version, bytes }) => {
                out.put_u8(PROOF);
                out.put_slice(site.as_bytes());
                out.put_u64(*version);
                out.put_slice(bytes);
            }
            Message::Progress { taken, applied } => put(&mut out, PROGRESS, &(taken, applied)),
            Message::Retired(sites) => put(&mut out, RETIRED, sites),
            Message::Decline(site) => put_bytes(&mut out, DECLINE, site.as_bytes()),
            Message::Done => out.put_u8(DONE),
            Message::Offer(vector) => put(&mut out, OFFER, vector),
            Message::Answer(wanted) => put_bytes(&mut out, ANSWER, &[u8::from(*wanted)]),
            Message::Snapshot(header) => put_bytes(&mut out, SNAPSHOT, header),
            Message::Want(ranges) => put(&mut out, WANT, ranges),
            Message::Part { index, bytes } => {
                out.put_u8(PART);
                out.put_u32(*index);
                out.put_slice(bytes);
            }
            Message::Joined => out.put_u8(JOINED),
            Message::Bye { code, reason } => {
                let end = reason.floor_char_boundary(TEXT_BYTES_MAX);
                put(&mut out, BYE, &(code, &reason[..end]));
            }
        }
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        out.freeze()
    }

    /// Reads a body.
    pub(crate) fn decode(kind: u8, body: Bytes) -> Result<Message, MessageError> {
        let malformed = |what| MessageError::Malformed { kind, what };
        Ok(match kind {
            HELLO => {
                let hello: Hello = get(kind, &body)?;
                let others = hello.others.iter().flat_map(|(_, addresses)| addresses);
                let texts = hello.addresses.iter().chain(others).chain([&hello.app, &hello.device]);
                let lists = [
                    hello.others.len(),
                    hello.schema.len(),
                    hello.members.len(),
                    hello.keys.len(),
                    hello.addresses.len(),
                ];
                if texts.into_iter().any(|text| text.len() > TEXT_BYTES_MAX) || lists.iter().any(|n| *n > LIST_MAX) {
                    return Err(malformed("a text or list is too long"));
                }
                Message::Hello(Box::new(hello))
            }
            HAVE => {
                let have: Have = get(kind, &body)?;
                sound(kind, &have.applied)?;
                sound(kind, &have.held)?;
                sound(kind, &have.floor)?;
                if have.chains.len() > LIST_MAX || have.partial.len() > LIST_MAX {
                    return Err(malformed("a list is too long"));
                }
                Message::Have(Box::new(have))
            }
            PROGRESS => {
                let (taken, applied) = get(kind, &body)?;
                sound(kind, &applied)?;
                Message::Progress { taken, applied }
            }
            RETIRED => {
                let sites: Vec<(SiteId, u64)> = get(kind, &body)?;
                if sites.len() > LIST_MAX || sites.iter().any(|(_, last)| *last > i64::MAX as u64) {
                    return Err(malformed("the list is too long, or a version out of bounds"));
                }
                Message::Retired(sites)
            }
            DECLINE => {
                let site: [u8; 16] = body.as_ref().try_into().map_err(|_| malformed("it is too short"))?;
                Message::Decline(SiteId::from_bytes(site))
            }
            DONE => Message::Done,
            OFFER => {
                let vector = get(kind, &body)?;
                sound(kind, &vector)?;
                Message::Offer(vector)
            }
            ANSWER => match body.as_ref() {
                [0] => Message::Answer(false),
                [1] => Message::Answer(true),
                _ => return Err(malformed("neither yes nor no")),
            },
            WANT => {
                let ranges: Vec<(u32, u32)> = get(kind, &body)?;
                if ranges.len() > LIST_MAX || !ranges.iter().all(|(first, last)| first <= last) {
                    return Err(malformed("its ranges are too many, or empty"));
                }
                Message::Want(ranges)
            }
            JOINED => Message::Joined,
            BYE => {
                let (code, reason) = get(kind, &body)?;
                Message::Bye { code, reason }
            }
            kind => return Message::decode_content(kind, body),
        })
    }

    /// Reads the body of a message that carries something of the store's.
    fn decode_content(kind: u8, body: Bytes) -> Result<Message, MessageError> {
        let malformed = |what| MessageError::Malformed { kind, what };
        Ok(match kind {
            OPERATION => {
                let kind = match body.first() {
                    Some(0) => OpKind::Schema,
                    Some(1) => OpKind::Member,
                    Some(2) => OpKind::Key,
                    _ => return Err(malformed("operation of an unknown set")),
                };
                Message::Operation(Operation { kind, bytes: body.slice(1..) })
            }
            HEADER => Message::Frame(Frame::Header(body)),
            BLOCK => {
                let (site, rest) = body.split_first_chunk::<16>().ok_or(malformed("it is too short"))?;
                let (version, rest) = rest.split_first_chunk::<8>().ok_or(malformed("it is too short"))?;
                let (index, _) = rest.split_first_chunk::<4>().ok_or(malformed("it is too short"))?;
                let (site, version) = (SiteId::from_bytes(*site), u64::from_be_bytes(*version));
                let index = u32::from_be_bytes(*index);
                Message::Frame(Frame::Block { site, version, index, bytes: body.slice(28..) })
            }
            PROOF => {
                let (site, rest) = body.split_first_chunk::<16>().ok_or(malformed("it is too short"))?;
                let (version, _) = rest.split_first_chunk::<8>().ok_or(malformed("it is too short"))?;
                let (site, version) = (SiteId::from_bytes(*site), u64::from_be_bytes(*version));
                Message::Frame(Frame::Proof { site, version, bytes: body.slice(24..) })
            }
            SNAPSHOT => Message::Snapshot(body),
            PART => {
                let (index, _) = body.split_first_chunk::<4>().ok_or(malformed("it is too short"))?;
                Message::Part { index: u32::from_be_bytes(*index), bytes: body.slice(4..) }
            }
            kind => return Err(MessageError::Kind { kind }),
        })
    }
}

fn put(out: &mut BytesMut, kind: u8, value: &impl Serialize) {
    out.put_u8(kind);
    // Writing to memory does not fail, and no type here refuses to be written.
    if let Ok(bytes) = postcard::to_stdvec(value) {
        out.put_slice(&bytes);
    }
}

fn put_bytes(out: &mut BytesMut, kind: u8, bytes: &[u8]) {
    out.put_u8(kind);
    out.put_slice(bytes);
}

fn get<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, MessageError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(MessageError::Malformed { kind, what: "it goes on behind its end" }),
        Err(_) => Err(MessageError::Malformed { kind, what: "it cannot be decoded" }),
    }
}

fn sound(kind: u8, vector: &VersionVector) -> Result<(), MessageError> {
    let versions = vector.iter().all(|(_, version)| version > 0 && version <= i64::MAX as u64);
    if versions && vector.len() <= LIST_MAX {
        return Ok(());
    }
    Err(MessageError::Malformed { kind, what: "a version vector is too long or out of bounds" })
}
