//! A sync session between two replicas, and the pairing that comes before the first: state machines that are driven from outside.
//!
//! # Promise
//! Pure: no clock, no randomness, no I/O, no threads. Time is an argument, bytes come in by `handle_*` and go out by `poll_*`; what the store is asked
//! for comes out as an [`Action`] and comes back as an [`Answer`]. The same calls give the same results. Nothing that the peer sends
//! is trusted: a length is checked before memory is taken for it, and whoever breaks a rule gets a [`SessionError`].
//!
//! # A session
//! Both sides do the same, at the same time, over one ordered and reliable stream of bytes each way.
//!
//! 1. `hello`: protocol versions, group, site, and the ids of all schema and membership operations and keys of the group that are known.
//! 2. Operations that the other lacks, parents first; retired sites; and `have`: what is applied here, what is complete in the log beyond that, and
//!    which blocks of a changeset that was cut off. So a session resumes where another one stopped, to the block.
//!    With it come the hashes of the last versions of all sites: of a site that has two histories, because its file and its device's records were
//!    restored together, nothing more is exchanged, and both sides report it.
//!    It also says what is known of the peer's own site: if the peer never wrote that, its file is a copy or was
//!    rolled back, and it takes a new site id before it sends anything ([`SessionError::Fork`]).
//! 3. Changesets that the other lacks, in an order in which causes come first. Where the log does not reach back far enough, a snapshot is offered.
//!    Who has not applied yet what the other has collected only listens until it has, for it may have written in ignorance of deletes.
//! 4. `done`, once all that was there has been sent. From then on new changesets are pushed as they come ([`Session::handle_local`]): own ones and
//!    those of others alike, so that A reaches C through B.
//!
//! # Invariants
//! * A side keeps what it knows the peer to have: what the peer said, sent, and was sent. No version is sent that is known to be there, so none
//!   comes back to where it came from.
//! * What has been sent and was not acknowledged (`progress`) is at most [`WINDOW_BYTES`] and one message. So is what a side has received
//!   and not handed to its store yet: a peer that sends more is cut off.
//! * At most one [`Action`] that reads and one that writes are under way. Writing ones come in the order in which the peer sent: an operation before
//!   the changesets that need it.
//! * A changeset that the store refuses costs the session nothing but its site: the peer is asked not to send more of it.
//! * A peer that says nothing for [`STALL_MS`] while it owes something is cut off.
//! * An idle session sends nothing.
//!
//! # Messages
//! ```text
//! 4  length of what follows, big-endian
//! 1  kind
//! …  body
//!
//!  1 hello      postcard, see [`Hello`]
//!  2 have       postcard, see [`Have`]
//!  3 operation  kind 1 (0 schema, 1 membership, 2 key of the group),
//!               then its bytes                                          counts against the window
//!  4 header     the encoded header of a changeset                       counts
//!  5 block      site 16, version 8, index 4, then the stored block      counts
//!  6 progress   postcard: bytes taken in so far, what was applied since the last one
//!  7 retired    postcard: sites and their last versions
//!  8 decline    site 16: send no more of it
//!  9 done       nothing
//! 10 offer      postcard: the vector of a snapshot
//! 11 answer     1 if it is wanted, 0 if not
//! 12 snapshot   its encoded header                                      counts
//! 13 want       postcard: ranges of blocks
//! 14 part       index 4, then the block                                 counts
//! 15 proof      site 16, version 8, then the signature of the author's    counts
//!               device under all its versions up to this one: it comes
//!               before the first of them that is not covered yet
//! 16 bye        postcard: code and reason
//! 17 joined       nothing: the snapshot has been taken in
//! ```
//! A kind that is not known ends the session; a later protocol version is spoken only with who said that it knows it.

mod decode;
mod incoming;
mod message;
mod outgoing;
pub mod pairing;
mod session;

pub use decode::Decoder;
pub use message::{ByeCode, Frame, Have, Hello, MESSAGE_BYTES_MAX, Message, MessageError, OpKind, Operation, Partial};
pub use session::{
    Action, Answer, Blocks, Changeset, Config, Event, STALL_MS, Session, SessionError, Started, WINDOW_BYTES,
};

/// The protocol version that this release speaks, and the oldest.
pub const VERSION: u16 = 1;
/// The oldest protocol version that this release speaks.
pub const OLDEST_VERSION: u16 = 1;
