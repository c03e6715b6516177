//! Names of snapshots and their parts. What the parts hold is not known here.

use std::fmt;

use isle_clock::{SiteId, VersionVector};
use serde::{Deserialize, Serialize};

/// The largest part or manifest of a snapshot.
pub const PART_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The name of a snapshot within its site: the site's version it was made at and a tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// A name. The tag tells snapshots of one version apart: random bytes, or a hash of what goes in.
    pub fn new(version: u64, tag: [u8; 16]) -> SnapshotName {
        SnapshotName(format!("{version:016x}-{:032x}", u128::from_be_bytes(tag)))
    }

    /// The name as it stands in keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part or the manifest of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// Its name within the snapshot, which ends in the hash of its bytes.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// A snapshot that is complete: its manifest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The site that made it.
    pub site: SiteId,
    /// Its name within that site.
    pub name: SnapshotName,
    /// Its manifest, which names the parts.
    pub manifest: PartRef,
    /// What it covers.
    pub vector: VersionVector,
}
