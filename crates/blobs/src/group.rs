//! The object that makes a prefix a remote.

use bytes::Bytes;
use isle_clock::GroupId;
use isle_identity::KeyId;
use serde::{Deserialize, Serialize};

use crate::codec::{self, FormatError, Kind};

/// The format version of the remote's layout that this release writes, and the newest that it reads.
pub const GROUP_FORMAT: u16 = 1;
/// The largest group object that is written or read.
pub const GROUP_BYTES_MAX: usize = 16 * 1024;
const APP_BYTES_MAX: usize = 256;

const KIND: Kind = Kind { letter: b'g', name: "group object", format: GROUP_FORMAT, flags: 0 };

/// What the replicas that share a remote agree on. Put once, never changed, holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupObject {
    /// The format version of the remote; [`GROUP_FORMAT`] in a new one.
    #[serde(skip)]
    pub format: u16,
    /// The group.
    pub group: GroupId,
    /// The name of the app whose data this is; at most 256 bytes.
    pub app: String,
    /// The seed of content-defined chunking.
    pub chunker_seed: u64,
    /// The group's first key, when everything in the remote is sealed with its keys. The app's name and all that follows it are then known to those
    /// alone who have that key.
    pub key_check: Option<KeyId>,
    /// Opaque bytes of the rooms above.
    pub extra: Bytes,
}

impl GroupObject {
    /// A new group, unsealed, with chunker seed 0 and nothing extra.
    pub fn new(group: GroupId, app: impl Into<String>) -> GroupObject {
        let (app, extra) = (app.into(), Bytes::new());
        GroupObject { format: GROUP_FORMAT, group, app, chunker_seed: 0, key_check: None, extra }
    }

    /// The bytes of the object.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] beyond [`GROUP_BYTES_MAX`], or when the app's name is too long.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        let bytes = codec::encode(KIND, self)?;
        within("group object", bytes.len(), GROUP_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Reads the bytes of an object.
    ///
    /// # Errors
    /// [`FormatError::Foreign`] for anything else than a group object, [`FormatError::Newer`] for one of a later
    /// release, others for damage.
    pub fn decode(bytes: &[u8]) -> Result<GroupObject, FormatError> {
        within("group object", bytes.len(), GROUP_BYTES_MAX)?;
        let mut object: GroupObject = codec::decode(KIND, bytes)?;
        object.format = codec::unwrap(KIND, bytes)?.format;
        object.check()?;
        Ok(object)
    }

    fn check(&self) -> Result<(), FormatError> {
        within("app name", self.app.len(), APP_BYTES_MAX)
    }
}

/// Checks a size against its bound.
pub(crate) fn within(what: &'static str, bytes: usize, max: usize) -> Result<(), FormatError> {
    if bytes <= max {
        return Ok(());
    }
    Err(FormatError::TooLarge { what, bytes: bytes as u64, max: max as u64 })
}
