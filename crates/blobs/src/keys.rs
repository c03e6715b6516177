//! Keys under the prefix: lower-case hexadecimal digits, hyphens and a few fixed words, so that no store and no
//! client re-encodes them.

use isle_clock::SiteId;
use object_store::path::Path;

use crate::codec::FormatError;
use crate::snapshot::SnapshotName;

/// The id of a schema operation.
pub type SchemaId = [u8; 16];

/// The longest name of a segment, snapshot or part.
pub const NAME_BYTES_MAX: usize = 96;

/// The prefix of a remote; empty for the root of a bucket or folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Prefix(String);

impl Prefix {
    /// A prefix of segments that need no encoding anywhere; `None` for any other.
    pub(crate) fn parse(text: &str) -> Option<Prefix> {
        let mut prefix = String::new();
        for segment in text.split('/').filter(|segment| !segment.is_empty()) {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if !segment.bytes().all(plain) || segment.bytes().all(|byte| byte == b'.') {
                return None;
            }
            prefix.push_str(segment);
            prefix.push('/');
        }
        Some(Prefix(prefix))
    }

    /// The bucket and the prefix, for people.
    pub(crate) fn place(&self, bucket: &str) -> String {
        format!("s3://{bucket}/{}", self.0.trim_end_matches('/'))
    }

    /// `<prefix>/<rest>`.
    pub(crate) fn key(&self, rest: &str) -> Path {
        Path::from(format!("{}{rest}", self.0))
    }

    pub(crate) fn group(&self) -> Path {
        self.key("group")
    }

    pub(crate) fn heads(&self) -> Path {
        self.key("head")
    }

    pub(crate) fn head(&self, site: SiteId) -> Path {
        self.key(&format!("head/{site}"))
    }

    pub(crate) fn segment(&self, site: SiteId, epoch: u64, name: &str) -> Path {
        self.key(&format!("log/{site}/{epoch:016x}/{name}"))
    }

    /// All segments of a site.
    pub(crate) fn log(&self, site: SiteId) -> Path {
        self.key(&format!("log/{site}"))
    }

    /// All snapshots of a site.
    pub(crate) fn snapshots(&self, site: SiteId) -> Path {
        self.key(&format!("snap/{site}"))
    }

    pub(crate) fn part(&self, site: SiteId, snapshot: &str, name: &str) -> Path {
        self.key(&format!("snap/{site}/{snapshot}/{name}"))
    }
}

/// What a sealed head is bound to.
pub(crate) fn head_place(site: SiteId) -> String {
    format!("head/{site}")
}

/// What sealed segments are bound to; which one it is says the hash by which a head names it.
pub(crate) fn segment_place(site: SiteId, epoch: u64) -> String {
    format!("log/{site}/{epoch:016x}")
}

/// What a sealed part of a snapshot is bound to.
pub(crate) fn part_place(site: SiteId, snapshot: &SnapshotName, start: &str) -> String {
    format!("snap/{site}/{snapshot}/{start}")
}

/// A name without the hash at its end.
pub(crate) fn start_of(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(start, _)| start)
}

/// Whether a name that somebody sent may become part of a key.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain)
}

/// The name of immutable bytes.
pub(crate) fn hashed_name(start: &str, bytes: &[u8]) -> String {
    format!("{start}-{}", blake3::hash(bytes).to_hex())
}

/// The site in the last part of a head's key; `None` for a stranger in that folder.
pub(crate) fn site_of_head(name: &str) -> Option<SiteId> {
    let site: SiteId = name.parse().ok()?;
    (site.to_string() == name).then_some(site)
}

/// Checks bytes against the hash at the end of their name and against the promised size.
pub(crate) fn verify(object: &'static str, name: &str, promised: u64, bytes: &[u8]) -> Result<(), FormatError> {
    let found = bytes.len() as u64;
    if found != promised {
        return Err(FormatError::Size { object, found, expected: promised });
    }
    let hash = name.rsplit_once('-').and_then(|(_, hash)| blake3::Hash::from_hex(hash).ok());
    if hash != Some(blake3::hash(bytes)) {
        return Err(FormatError::Checksum { object });
    }
    Ok(())
}
