//! Signed chains.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use isle_clock::{GroupId, SiteId};
use isle_identity::{DeviceSecret, PROOF_BYTES, ProofError, prove, proven, site_id};

#[test]
fn a_proof_is_of_one_site_version_hash_and_group() {
    let (secret, nonce) = (DeviceSecret::from_seed([1; 32]).unwrap(), [2; 16]);
    let (group, site, chain) = (GroupId::from_bytes([3; 16]), site_id(&secret.key(), &nonce), [4; 32]);
    let proof = prove(&secret, &nonce, group, 7, &chain);
    assert_eq!(proof.len(), PROOF_BYTES);
    assert_eq!(proven(&proof, group, site, 7), Ok(chain));
    let forged = Err(ProofError::Signature { device: secret.key() });
    assert_eq!(proven(&proof, group, site, 8), forged);
    assert_eq!(proven(&proof, GroupId::from_bytes([9; 16]), site, 7), forged);
    let other = Err(ProofError::Device { device: secret.key() });
    assert_eq!(proven(&proof, group, SiteId::from_bytes([9; 16]), 7), other);
    assert_eq!(proven(&proof[1..], group, site, 7), Err(ProofError::Size { found: PROOF_BYTES - 1 }));
    for at in 0..PROOF_BYTES {
        let mut altered = proof.clone();
        altered[at] ^= 1;
        assert!(proven(&altered, group, site, 7).is_err(), "byte {at} was altered unnoticed");
    }
    // Computed once by this release: what devices have signed must stay readable.
    assert_eq!(
        blake3::hash(&proof).to_hex().as_str(),
        "5f455dac4ee6f2fb2ca49bc1582a63129df3a9f062f99724071ddc2c9664c47a"
    );
}
