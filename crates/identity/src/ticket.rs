//! What somebody who invites a device gives to it: by hand, as text or as a QR code.

use std::fmt;
use std::str::FromStr;

use isle_clock::GroupId;
use serde::{Deserialize, Serialize};

use crate::DeviceKey;
use crate::code::{self, CodeError};

const START: &str = "isle1";
const TEXT_BYTES_MAX: usize = 4096;
const ADDRESS_BYTES_MAX: usize = 255;
/// The most addresses in a ticket.
pub const ADDRESSES_MAX: usize = 16;
const PROOF: &str = "isle 2026 proof of an invitation's secret";

/// Why a text is no ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not begin like one.
    #[error("this is no ticket: one begins with {START:?}; `isle invite` on a device of the group prints one")]
    Foreign,
    /// A character is missing or wrong.
    #[error("the ticket is damaged: a character is missing or wrong; copy it whole")]
    Damaged,
    /// It has more or longer parts than a ticket may have.
    #[error("the ticket is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

/// A secret that lets one device in, once.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InviteSecret([u8; 16]);

impl fmt::Debug for InviteSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteSecret(…)")
    }
}

impl InviteSecret {
    /// The secret of 16 random bytes.
    pub const fn from_random(bytes: [u8; 16]) -> InviteSecret {
        InviteSecret(bytes)
    }

    /// The bytes, to be kept as safe as a key.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What a device shows that knows the secret: of use to nobody else, and to no other inviter or group.
    pub fn proof(&self, group: GroupId, inviter: &DeviceKey, joiner: &DeviceKey) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(PROOF, &self.0));
        hasher.update(group.as_bytes()).update(inviter.as_bytes()).update(joiner.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Whether a proof is that of this secret. Takes the same time whatever differs.
    pub fn is_proved(&self, proof: &[u8; 32], group: GroupId, inviter: &DeviceKey, joiner: &DeviceKey) -> bool {
        // blake3's comparison of hashes takes constant time.
        blake3::Hash::from_bytes(*proof) == blake3::Hash::from_bytes(self.proof(group, inviter, joiner))
    }
}

/// An invitation to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The group.
    pub group: GroupId,
    /// The key of the device that invites; the one that joins talks to no other.
    pub inviter: DeviceKey,
    /// What lets it in.
    pub secret: InviteSecret,
    /// Until when it does, in milliseconds since 1970 by the inviter's clock.
    pub expires_ms: u64,
    /// Where the inviter can be reached, `host:port` each.
    pub addresses: Vec<String>,
}

impl Ticket {
    fn check(&self) -> Result<(), TicketError> {
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(TicketError::Malformed { what: "it has too many addresses" });
        }
        if self.addresses.iter().any(|address| address.len() > ADDRESS_BYTES_MAX) {
            return Err(TicketError::Malformed { what: "an address is too long" });
        }
        Ok(())
    }

    /// The ticket in capitals: a QR code of it is smaller.
    pub fn to_qr_text(&self) -> String {
        self.to_string().to_ascii_uppercase()
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&code::encode(START, self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket; blanks, line ends and capitals, as they come from copying or from a QR code, do not matter.
    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TicketError::Malformed { what: "it is too long" });
        }
        let ticket: Ticket = code::decode(START, text).map_err(|error| match error {
            CodeError::Foreign => TicketError::Foreign,
            CodeError::Damaged => TicketError::Damaged,
            CodeError::Newer => TicketError::Malformed { what: "a later isle may have written it; update isle" },
        })?;
        ticket.check()?;
        Ok(ticket)
    }
}
