//! What a site has published: the only object of a remote that is ever overwritten.

use bytes::Bytes;
use isle_clock::{GroupId, SiteId, VersionVector};
use isle_identity::{DeviceKey, DeviceSecret, KeyId, OpId, PARENTS_MAX};
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
const SIGNATURE_BYTES: usize = 64;
const STATEMENT: &[u8] = b"isle head 1";

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

/// The device whose site it is, and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The device.
    pub device: DeviceKey,
    /// With the device's key it makes the site's id.
    pub nonce: [u8; 16],
    /// Rises with each head that the site puts in this remote.
    pub sequence: u64,
    /// The last membership operations that it knows, at most [`PARENTS_MAX`].
    pub members: Vec<OpId>,
    signature: Bytes,
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
    /// Opaque bytes of the rooms above.
    pub extra: Bytes,
    /// Who says all this. A head without is taken from nobody.
    pub author: Option<Author>,
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
            author: None,
            sealed_with: None,
        }
    }

    /// Signs the head as it stands: as the device whose site it is.
    ///
    /// # Errors
    /// As [`Head::encode`]; [`FormatError::Malformed`] for a device and a nonce that do not make the site's id.
    pub fn sign(
        &mut self,
        group: GroupId,
        secret: &DeviceSecret,
        nonce: [u8; 16],
        sequence: u64,
        members: Vec<OpId>,
    ) -> Result<(), FormatError> {
        let signature = Bytes::from_static(&[0; SIGNATURE_BYTES]);
        self.author = Some(Author { device: secret.key(), nonce, sequence, members, signature });
        if isle_identity::site_id(&secret.key(), &nonce) != self.site {
            return Err(not_its_own());
        }
        let signature = secret.sign(&self.statement(group)?);
        if let Some(author) = &mut self.author {
            author.signature = Bytes::copy_from_slice(&signature);
        }
        Ok(())
    }

    /// The author of the head, if it is that of the device whose site it is, made for this group.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] for a head of anybody else, or that was altered.
    pub fn verified(&self, group: GroupId) -> Result<&Author, FormatError> {
        let malformed = |problem| FormatError::Malformed { object: KIND.name, problem };
        let author = self.author.as_ref().ok_or(malformed("it is not signed"))?;
        if isle_identity::site_id(&author.device, &author.nonce) != self.site {
            return Err(not_its_own());
        }
        if author.device.verifies(&self.statement(group)?, &author.signature) {
            return Ok(author);
        }
        Err(malformed("its signature is not that of the device whose site it is, for this group"))
    }

    /// What is signed: the group and the head, with zeros for the signature.
    fn statement(&self, group: GroupId) -> Result<Vec<u8>, FormatError> {
        let mut head = self.clone();
        if let Some(author) = &mut head.author {
            author.signature = Bytes::from_static(&[0; SIGNATURE_BYTES]);
        }
        let hash = blake3::hash(&head.encode()?);
        Ok([STATEMENT, group.as_bytes(), hash.as_bytes()].concat())
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
        if let Some(author) = &self.author {
            within("signature", author.signature.len(), SIGNATURE_BYTES)?;
            within("list of membership operations", author.members.len(), PARENTS_MAX)?;
        }
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

fn not_its_own() -> FormatError {
    FormatError::Malformed { object: KIND.name, problem: "its device is not the one whose site it is" }
}
