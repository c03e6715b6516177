//! Signatures of what is handed over: this device's under its own versions, others' as they came.

use std::collections::HashMap;

use bytes::Bytes;
use isle_clock::SiteId;
use isle_identity::DeviceSecret;
use isle_store::Store;

use crate::Error;
use crate::replica::Inner;

/// Looks up the signatures of versions that are handed over in order.
#[derive(Default)]
pub(crate) struct Proofs {
    /// By site: from which version on which signature is good, and of which version it is.
    found: HashMap<SiteId, (u64, u64, Bytes)>,
}

impl Proofs {
    /// The signature that is good for a version, and the version that it is of.
    pub(crate) fn of(&mut self, store: &Store, site: SiteId, version: u64) -> Result<Option<(u64, Bytes)>, Error> {
        if let Some((first, last, proof)) = self.found.get(&site)
            && (*first..=*last).contains(&version)
        {
            return Ok(Some((*last, proof.clone())));
        }
        let Some((last, proof)) = store.proof_for(site, version)? else { return Ok(None) };
        let proof = Bytes::from(proof);
        self.found.insert(site, (version, last, proof.clone()));
        Ok(Some((last, proof)))
    }
}

impl Inner {
    /// The device's key pair, read once: a live replica signs with every change that it hands over.
    pub(crate) fn secret(&self) -> Result<&DeviceSecret, Error> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let secret = self.key_store()?.secret(self.runtime.as_ref())?;
        Ok(self.secret.get_or_init(|| secret))
    }

    /// Signs own versions up to this one, and records durably that others may know them from now on.
    pub(crate) fn mark_signed(&self, version: u64) -> Result<(), Error> {
        self.mark_signed_in(&self.store, version)
    }

    /// The same in another file of this device's.
    pub(crate) fn mark_signed_in(&self, store: &Store, version: u64) -> Result<(), Error> {
        // What is sealed anew meanwhile needs other signatures; it is not sealed anew once it counts as published.
        while !self.sign_once(store, version)? {}
        Ok(())
    }

    fn sign_once(&self, store: &Store, version: u64) -> Result<bool, Error> {
        let unsigned = store.unsigned(version)?;
        let mut proofs = Vec::with_capacity(unsigned.len());
        if let (false, Some(nonce)) = (unsigned.is_empty(), store.site_nonce()?) {
            let (secret, group) = (self.secret()?, store.group()?);
            proofs.extend(unsigned.into_iter().map(|(version, chain)| {
                (version, chain, isle_identity::prove(secret, &nonce, group, version, &chain))
            }));
        }
        Ok(store.mark_signed(version, &proofs)?)
    }
}
