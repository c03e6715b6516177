//! Direct sync: devices of the group talk to each other over QUIC, without a remote between them.
//!
//! # Promise
//! The changesets that travel are the bytes that would go to a remote. Only devices that were enrolled are talked to; one that is put out
//! ([`Replica::revoke`](crate::Replica::revoke)) is cut off as soon as that is known. What a peer breaks costs its own session, and nobody else's.
//!
//! # Who is who
//! The group is founded by the device that made its first file; every other one is let in by a member, with a ticket ([`Replica::invite`](crate::Replica::invite),
//! [`Replica::join`](crate::Replica::join)). That is recorded in signed operations which travel with every session (`isle_identity`). A peer proves its key in the handshake, and
//! with a nonce that its site id is a hash of that key.
//!
//! # How
//! A [`Live`] has an endpoint, at which others may call if it listens, a task that dials known peers and goes on trying, and one for each
//! session, which moves bytes between the connection and a state machine (`isle_protocol`) and does what that asks for on the store. A single sync is the
//! same without the waiting. What is committed here, by whichever process, wakes the sessions: at once if it was this one, else within
//! [`LOOK_EVERY`](watch::LOOK_EVERY).
//!
//! # Durability
//! Own changesets are on the disk before they leave. The record outside the file, by which a restored or copied file is noticed, is written when a
//! session hands over its first one, and then once in [`RECORD_EVERY_MS`](hub::RECORD_EVERY_MS): whoever restores a backup that is younger than that is noticed by the peers, which
//! have more than it.

mod actions;
mod contents;
mod credentials;
mod hub;
mod keys;
mod live;
mod once;
mod pairing;
mod peer_session;
mod peers;
mod remotes;
mod session;
mod watch;

pub(crate) use contents::{Holder, Holders};
pub(crate) use hub::confirm_identity;
pub use live::{Connected, Live, LiveEvent, LiveOptions};
pub(crate) use once::sync_known;
pub use pairing::InviteOptions;
pub use peer_session::PeerSession;
pub use peers::Peer;
pub(crate) use peers::{PeerState, heed_cuts, known_sites, rename};
