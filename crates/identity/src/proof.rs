//! What a device signs of what it has written: that a version of its site ends in this hash.
//!
//! A changeset's header holds the hash of the header before it, so one signature is good for all versions up to its own.

use isle_clock::{GroupId, SiteId};

use crate::{DeviceKey, DeviceSecret, ids};

const STATEMENT: &[u8] = b"isle chain 1";
const NONCE_AT: usize = 32;
const CHAIN_AT: usize = 48;
const SIGNATURE_AT: usize = 80;
/// The size of a proof.
pub const PROOF_BYTES: usize = 144;

/// Why a proof is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// It has another size.
    #[error("the signature of the site's versions has {found} bytes instead of {PROOF_BYTES}")]
    Size {
        /// How many.
        found: usize,
    },
    /// Another device than the site's signed it.
    #[error("the site's versions are signed by device {}, which is not the one whose site it is", device.short())]
    Device {
        /// The device.
        device: DeviceKey,
    },
    /// The signature is not that of the device.
    #[error("the signature of the site's versions is not that of device {}", device.short())]
    Signature {
        /// The device.
        device: DeviceKey,
    },
}

fn statement(group: GroupId, site: SiteId, version: u64, chain: &[u8]) -> Vec<u8> {
    [STATEMENT, group.as_bytes(), site.as_bytes(), &version.to_be_bytes(), chain].concat()
}

/// Signs that a site's version has this hash. The device and `nonce` make the site's id.
pub fn prove(secret: &DeviceSecret, nonce: &[u8; 16], group: GroupId, version: u64, chain: &[u8; 32]) -> Vec<u8> {
    let site = ids::site_id(&secret.key(), nonce);
    let signature = secret.sign(&statement(group, site, version, chain));
    [secret.key().as_bytes().as_slice(), nonce, chain, &signature].concat()
}

/// The hash that a version of a site has, as the site's device signed it.
///
/// # Errors
/// [`ProofError`] for anything else.
pub fn proven(proof: &[u8], group: GroupId, site: SiteId, version: u64) -> Result<[u8; 32], ProofError> {
    let wrong = || ProofError::Size { found: proof.len() };
    let proof = <&[u8; PROOF_BYTES]>::try_from(proof).map_err(|_| wrong())?;
    let (device, rest) = proof.split_at(NONCE_AT);
    let device = DeviceKey::from_bytes(device.try_into().map_err(|_| wrong())?);
    let nonce: [u8; 16] = rest[..CHAIN_AT - NONCE_AT].try_into().map_err(|_| wrong())?;
    let chain: [u8; 32] = proof[CHAIN_AT..SIGNATURE_AT].try_into().map_err(|_| wrong())?;
    if ids::site_id(&device, &nonce) != site {
        return Err(ProofError::Device { device });
    }
    if !device.verifies(&statement(group, site, version, &chain), &proof[SIGNATURE_AT..]) {
        return Err(ProofError::Signature { device });
    }
    Ok(chain)
}
