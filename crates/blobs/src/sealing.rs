//! What a remote puts is sealed, what it reads is opened, if it was given the group's keys.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use isle_identity::{GroupKey, KeyId, KeyRing, OVERHEAD_BYTES, SealError};
use serde::{Deserialize, Serialize};

use crate::codec::FormatError;
use crate::group::GroupObject;
use crate::remote::Remote;

/// Where fresh random bytes come from.
pub type Random = Arc<dyn Fn() -> [u8; 32] + Send + Sync>;

pub(crate) struct Sealing {
    pub(crate) ring: KeyRing,
    /// The key that the group's object names; objects are named with it.
    pub(crate) base: GroupKey,
    pub(crate) random: Random,
}

/// What of a group's object is sealed.
#[derive(Serialize, Deserialize)]
struct Inside {
    app: String,
    chunker_seed: u64,
    extra: Bytes,
}

const GROUP_PLACE: &str = "group";

fn refused(object: &'static str) -> impl Fn(SealError) -> FormatError {
    move |source| FormatError::Sealed { object, source }
}

impl Remote {
    /// The same remote with the keys of its group: all that is put is sealed, and nothing is taken that is not. `base` is the key that
    /// [`GroupObject::key_check`] names, or for a remote that is yet to be made the current one.
    #[must_use]
    pub fn sealed(&self, ring: KeyRing, base: GroupKey, random: Random) -> Remote {
        Remote { inner: Arc::clone(&self.inner), sealing: Some(Arc::new(Sealing { ring, base, random })) }
    }

    /// Whether this remote was given keys.
    pub fn is_sealed(&self) -> bool {
        self.sealing.is_some()
    }

    /// A bound on what is put, given that on its content.
    pub(crate) fn with_seal(&self, max: usize) -> usize {
        if self.is_sealed() { max + OVERHEAD_BYTES } else { max }
    }

    /// With which key bytes were sealed.
    pub(crate) fn key_of(&self, bytes: &[u8]) -> Option<KeyId> {
        self.sealing.as_ref().and_then(|_| isle_identity::sealed_with(bytes).ok())
    }

    pub(crate) fn sealed_bytes(&self, object: &'static str, place: &str, bytes: Bytes) -> Result<Bytes, FormatError> {
        let Some(Sealing { ring, random, .. }) = self.sealing.as_deref() else { return Ok(bytes) };
        ring.current().seal(place, &random(), &bytes).map(Bytes::from).map_err(refused(object))
    }

    pub(crate) fn opened<'a>(
        &self,
        object: &'static str,
        place: &str,
        bytes: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, FormatError> {
        let Some(Sealing { ring, .. }) = self.sealing.as_deref() else { return Ok(Cow::Borrowed(bytes)) };
        ring.open(place, bytes).map(Cow::Owned).map_err(refused(object))
    }

    pub(crate) fn opened_bytes(&self, object: &'static str, place: &str, bytes: Bytes) -> Result<Bytes, FormatError> {
        match self.opened(object, place, &bytes)? {
            Cow::Owned(content) => Ok(content.into()),
            Cow::Borrowed(_) => Ok(bytes),
        }
    }

    /// The group's object as it is put.
    pub(crate) fn seal_group(&self, group: &GroupObject) -> Result<GroupObject, FormatError> {
        let Some(Sealing { base, random, .. }) = self.sealing.as_deref() else { return Ok(group.clone()) };
        let GroupObject { format, group, app, chunker_seed, extra, .. } = group.clone();
        let malformed = |_| FormatError::Malformed { object: "group object", problem: "it cannot be encoded" };
        let inside = postcard::to_stdvec(&Inside { app, chunker_seed, extra }).map_err(malformed)?;
        let sealed = base.seal(GROUP_PLACE, &random(), &inside).map_err(refused("group object"))?;
        let key_check = Some(base.id());
        Ok(GroupObject { format, group, app: String::new(), chunker_seed: 0, key_check, extra: sealed.into() })
    }

    /// The group's object with what is sealed in it, where this remote has the key.
    pub(crate) fn open_group(&self, object: GroupObject) -> Result<GroupObject, FormatError> {
        let Some(Sealing { ring, .. }) = self.sealing.as_deref() else { return Ok(object) };
        if object.key_check.is_none() {
            return Err(refused("group object")(SealError::Plain));
        }
        let inside = ring.open(GROUP_PLACE, &object.extra).map_err(refused("group object"))?;
        let malformed = FormatError::Malformed { object: "group object", problem: "its body cannot be decoded" };
        let Inside { app, chunker_seed, extra } = postcard::from_bytes(&inside).map_err(|_| malformed)?;
        Ok(GroupObject { app, chunker_seed, extra, ..object })
    }
}
