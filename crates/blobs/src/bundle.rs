//! Bundles: what one replica has and another lacks as one run of bytes, for an app that has a way of its own to carry them.

use bytes::Bytes;
use isle_clock::{GroupId, SiteId, VersionVector};
use isle_identity::{KeyRing, SealError};
use serde::{Deserialize, Serialize};

use crate::codec::{self, FormatError, Kind};
use crate::group::within;

/// The format version of bundles that this release writes, and the newest that it reads.
pub const BUNDLE_FORMAT: u16 = 1;
/// The largest bundle: what SQLite takes as one value unless it was built otherwise.
pub const BUNDLE_BYTES_MAX: usize = 1_000_000_000;

/// The most operations of a kind, and segments, in a bundle.
const PARTS_MAX: usize = 100_000;

const SEALED: u8 = 1;
const KIND: Kind = Kind { letter: b'b', name: "bundle", format: BUNDLE_FORMAT, flags: SEALED };

/// What a bundle carries. Its envelope names the group; the rest is a postcard encoding of these fields in their order, sealed with the group's key where
/// its writer has one (flag bit 0).
///
/// ```text
///  0 40  the envelope, of kind 'b'
/// 40 16  group
/// 56  …  the encoding, or its seal
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The app whose data it is.
    pub app: String,
    /// What its writer's group may have collected already.
    pub floor: VersionVector,
    /// What the devices of sites are called.
    pub names: Vec<(SiteId, String)>,
    /// Schema operations, those that others follow first.
    pub schema: Vec<Bytes>,
    /// Membership operations.
    pub members: Vec<Bytes>,
    /// Changesets, causes first, as segments.
    pub segments: Vec<Bytes>,
}

impl Bundle {
    /// The bytes of the bundle: sealed with the current one of `keys`, if there are any, and 32 random bytes.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] beyond [`BUNDLE_BYTES_MAX`].
    pub fn encode(&self, group: GroupId, keys: Option<(&KeyRing, [u8; 32])>) -> Result<Bytes, FormatError> {
        let malformed = |_| FormatError::Malformed { object: KIND.name, problem: "it cannot be encoded" };
        let mut inside = postcard::to_stdvec(self).map_err(malformed)?;
        let mut flags = 0;
        if let Some((ring, random)) = keys {
            inside = ring.current().seal(&place(group), &random, &inside).map_err(refused)?;
            flags = SEALED;
        }
        within("bundle", codec::ENVELOPE_BYTES + group.as_bytes().len() + inside.len(), BUNDLE_BYTES_MAX)?;
        Ok(codec::wrap(KIND, flags, &[group.as_bytes(), &inside]))
    }

    /// The group that a bundle is of, and whether it is sealed.
    ///
    /// # Errors
    /// [`FormatError`] for bytes that are no bundle of this release.
    pub fn group(bytes: &[u8]) -> Result<(GroupId, bool), FormatError> {
        open(bytes).map(|(group, sealed, _)| (group, sealed))
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// [`FormatError`] for bytes that are no bundle of this release, and for a sealed one that cannot be opened with `keys`.
    pub fn decode(bytes: &[u8], keys: Option<&KeyRing>) -> Result<Bundle, FormatError> {
        let (group, sealed, inside) = open(bytes)?;
        let opened;
        let inside = match (sealed, keys) {
            (false, _) => inside,
            (true, Some(ring)) => {
                opened = ring.open(&place(group), inside).map_err(refused)?;
                &opened
            }
            (true, None) => {
                return isle_identity::sealed_with(inside)
                    .and_then(|id| Err(SealError::UnknownKey { id }))
                    .map_err(refused);
            }
        };
        let malformed = |problem| FormatError::Malformed { object: KIND.name, problem };
        let (bundle, rest): (Bundle, _) =
            postcard::take_from_bytes(inside).map_err(|_| malformed("its content cannot be decoded"))?;
        let parts = bundle.names.len().max(bundle.schema.len()).max(bundle.members.len()).max(bundle.segments.len());
        within("list of a bundle", parts, PARTS_MAX)?;
        if rest.is_empty() { Ok(bundle) } else { Err(malformed("something follows its content")) }
    }
}

fn open(bytes: &[u8]) -> Result<(GroupId, bool, &[u8]), FormatError> {
    within("bundle", bytes.len(), BUNDLE_BYTES_MAX)?;
    let opened = codec::unwrap(KIND, bytes)?;
    let short = FormatError::Malformed { object: KIND.name, problem: "it ends within its group" };
    let (group, inside) = opened.body.split_first_chunk::<16>().ok_or(short)?;
    Ok((GroupId::from_bytes(*group), opened.flags & SEALED != 0, inside))
}

fn place(group: GroupId) -> String {
    format!("bundle/{group}")
}

fn refused(source: SealError) -> FormatError {
    FormatError::Sealed { object: KIND.name, source }
}
