//! Connections between devices that have proved their keys to each other, over QUIC: the only room that knows quinn and rustls.
//!
//! # Promise
//! No type of quinn or rustls shows here. A [`Connection`] exists only once TLS 1.3 has shown that the other end holds the secret of the
//! [`DeviceKey`] that it gives; who dials says beforehand which key it will talk to, and reveals its own to no other. Whether that
//! key belongs to a group is for the room above to say: this one lets in whoever proves some key, and keeps what a stranger can cost small
//! until then.
//!
//! # How
//! Devices show bare Ed25519 keys (RFC 7250) where TLS usually has certificates: a certificate that a device signs for itself says
//! nothing more, and its X.509 would be one more format of a stranger's to be read. Resumption and early data are off: each connection proves its keys anew,
//! so that a key which was revoked in between does not slip in.
//!
//! # Discovery
//! Devices that listen announce themselves on the local network by multicast DNS, under `_isle._udp.local.`, with a beacon that only the members of their
//! group recognise ([`Discovery`]). Whatever is found there is an address to try and nothing more: who answers has to prove its key.
//!
//! # Limits
//! At most [`HANDSHAKES_MAX`] handshakes are under way; while there are more than [`RETRY_FROM`], an address has to show that it can be reached first. A
//! connection that is silent for [`IDLE`] ends. To keep it open the end that dialed sends one packet every [`KEEP_ALIVE`], which is answered by one: an idle
//! connection costs less than a packet in ten seconds.

mod addresses;
mod discovery;
mod endpoint;
mod tls;

pub use addresses::{DEFAULT_PORT, own_addresses, resolve};
pub use discovery::{Discovery, Found};
pub use endpoint::{
    Arrival, CloseCode, Connection, Endpoint, HANDSHAKES_MAX, IDLE, KEEP_ALIVE, RETRY_FROM, Receiver, Sender, Stream,
    Traffic,
};

use std::net::SocketAddr;

use isle_identity::DeviceKey;

/// Why a connection cannot be had or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address to listen at cannot be had.
    #[error("cannot listen at {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The local network cannot be searched.
    #[error("devices on the local network cannot be looked for: {reason}")]
    Discovery {
        /// Why.
        reason: String,
    },
    /// A name cannot be resolved, or is no address.
    #[error("{address:?} is no address that can be reached: {source}")]
    Address {
        /// The text.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The device's key does not serve for TLS.
    #[error("the device's key cannot be used for connections: {reason}")]
    Key {
        /// Why.
        reason: String,
    },
    /// Nobody answers, or another device does.
    #[error("cannot reach device {} at {address}: {reason}", key.short())]
    Unreachable {
        /// The key that was expected.
        key: DeviceKey,
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Somebody called who did not prove a key.
    #[error("a caller at {address} was not let in: {reason}")]
    Handshake {
        /// Where from.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// The connection has ended.
    #[error("the connection has ended: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}
