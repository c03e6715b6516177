//! Pairing: a device that has a ticket shows that it knows the secret, and is told what it needs to begin.
//!
//! One message each way, on a stream of its own, before anything else is said. The devices know each other's keys by then: the
//! transport has proved them, and the one that joins talks to none but the inviter.
//!
//! ```text
//! request  4 length, big-endian; postcard: group 16, proof 32, name of the device
//! reply    4 length; postcard: welcome { app, membership operations, keys of the group } or refused { reason }
//! ```

use isle_clock::GroupId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest request: a stranger may send it.
pub const REQUEST_BYTES_MAX: usize = 1024;
/// The largest reply.
pub const REPLY_BYTES_MAX: usize = 16 << 20;

/// What a device that has a ticket says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The group that it wants to join.
    pub group: GroupId,
    /// Shows that it knows the ticket's secret.
    pub proof: [u8; 32],
    /// The name of the device.
    pub name: String,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It belongs to the group from now on.
    Welcome {
        /// The group's app.
        app: String,
        /// All membership operations, its own enrolment included.
        members: Vec<Vec<u8>>,
        /// The keys of the group, as a key file has them, if it has any.
        keys: Option<String>,
    },
    /// It does not.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

/// Why bytes are no request or reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not keep to the pairing protocol")]
pub struct PairingError;

/// The bytes of a request or reply.
///
/// # Errors
/// [`PairingError`] when it cannot be written.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, PairingError> {
    let body = postcard::to_stdvec(value).map_err(|_| PairingError)?;
    let length = u32::try_from(body.len()).map_err(|_| PairingError)?;
    Ok([&length.to_be_bytes(), body.as_slice()].concat())
}

/// The length in the first four bytes, if it is within the bound.
///
/// # Errors
/// [`PairingError`] when it is not.
pub fn length(bytes: [u8; 4], max: usize) -> Result<usize, PairingError> {
    let length = u32::from_be_bytes(bytes) as usize;
    if length <= max { Ok(length) } else { Err(PairingError) }
}

/// Reads a body.
///
/// # Errors
/// [`PairingError`] for anything else.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, PairingError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(PairingError),
    }
}
