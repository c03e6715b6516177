//! What a site has published: the only object of a remote that is ever overwritten.

use bytes::Bytes;
use isle_clock::{SiteId, VersionVector};
use isle_identity::KeyId;
use serde::{Deserialize, Serialize};

use crate::codec::{self, FormatError, Kind};
use crate::group::within;
use crate::keys::{self, SchemaId};
use crate::segment::Frame;
use crate::snapshot::SnapshotRef;

/// The format version of heads that this release writes, and the newest that it reads.
pub const HEAD_FORMAT: u16 = 1;
/// The largest head that is written.
pub const HEAD_BYTES_MAX: usize = 48 * 1024;
/// The largest head that is read: room for what later releases write.
pub const HEAD_BYTES_READ_MAX: usize = 64 * 1024;
const DEVICE_BYTES_MAX: usize = 256;

const KIND: Kind = Kind { letter: b'h', name: "head", format: HEAD_FORMAT, flags: 0 };

/// A range of versions of one site, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionRange {
    /// The author.
    pub site: SiteId,
    /// The first version.
    pub first: u64,
    /// The last version, not below the first.
    pub last: u64,
}

/// Where a segment is and what it holds. It may carry versions of other sites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// The epoch under which it was put.
    pub epoch: u64,
    /// Its name, `<last>-<hash>`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The versions it holds, in the order of sites and versions.
    pub contents: Vec<VersionRange>,
}

/// What one site has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose head this is.
    pub site: SiteId,
    /// The name of the device, for people; at most 256 bytes.
    pub device: String,
    /// Counts the site's fresh starts in this remote.
    pub epoch: u64,
    /// The last version of this site that the head covers.
    pub last_version: u64,
    /// The hash of the site's chain at that version.
    pub chain: [u8; 32],
    /// What this site has applied, of all sites.
    pub acknowledged: VersionVector,
    /// What this site holds to be acknowledged by everyone.
    pub floor: VersionVector,
    /// Sites that this site holds to be retired, with the last version of each that counts.
    pub retired: Vec<(SiteId, u64)>,
    /// The newest schema operations.
    pub schema_heads: Vec<SchemaId>,
    /// The snapshot in use.
    pub snapshot: Option<SnapshotRef>,
    /// The segments, oldest first.
    pub segments: Vec<SegmentRef>,
    /// The newest frames, inlined so that a small push is one put.
    pub tail: Vec<Frame>,
    /// Opaque bytes of the rooms above: a signature, say.
    pub extra: Bytes,
    /// With which key the object was sealed, if it was and was read from a remote.
    #[serde(skip)]
    pub sealed_with: Option<KeyId>,
}

impl Head {
    /// The head of a site that has published nothing yet.
    pub fn new(site: SiteId, device: impl Into<String>) -> Head {
        Head {
            site,
            device: device.into(),
            epoch: 0,
            last_version: 0,
            chain: [0; 32],
            acknowledged: VersionVector::new(),
            floor: VersionVector::new(),
            retired: Vec::new(),
            schema_heads: Vec::new(),
            snapshot: None,
            segments: Vec::new(),
            tail: Vec::new(),
            extra: Bytes::new(),
            sealed_with: None,
        }
    }

    /// The bytes of the object.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] beyond [`HEAD_BYTES_MAX`]: move the tail into a segment, or compact segments.
    /// [`FormatError::Malformed`] for names that are none.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        let bytes = codec::encode(KIND, self)?;
        within("head", bytes.len(), HEAD_BYTES_MAX)?;
        Ok(bytes)
    }

    /// Reads the bytes of an object.
    ///
    /// # Errors
    /// [`FormatError`] for anything but a head that this release understands.
    pub fn decode(bytes: &[u8]) -> Result<Head, FormatError> {
        within("head", bytes.len(), HEAD_BYTES_READ_MAX)?;
        let head: Head = codec::decode(KIND, bytes)?;
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), FormatError> {
        let malformed = |problem| Err(FormatError::Malformed { object: KIND.name, problem });
        within("device name", self.device.len(), DEVICE_BYTES_MAX)?;
        if self.segments.iter().any(|segment| !keys::is_name(&segment.name)) {
            return malformed("the name of a segment is not lower-case letters, digits and hyphens");
        }
        if self.segments.iter().flat_map(|segment| &segment.contents).any(|range| range.first > range.last) {
            return malformed("a segment holds a range of versions that ends before it begins");
        }
        if let Some(snapshot) = &self.snapshot {
            if !keys::is_name(snapshot.name.as_str()) || !keys::is_name(&snapshot.manifest.name) {
                return malformed("the name of the snapshot is not lower-case letters, digits and hyphens");
            }
            no_zeros(&snapshot.vector)?;
        }
        no_zeros(&self.acknowledged)?;
        no_zeros(&self.floor)
    }
}

/// A vector names only sites with at least one version; one that was decoded may break that rule.
fn no_zeros(vector: &VersionVector) -> Result<(), FormatError> {
    if vector.iter().all(|(_, version)| version > 0) {
        return Ok(());
    }
    Err(FormatError::Malformed { object: KIND.name, problem: "a version vector holds a version 0" })
}
