//! Segments: several changesets as one object.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use bytes::Bytes;
use isle_clock::SiteId;
use serde::{Deserialize, Serialize};

use crate::codec::{self, FormatError, Kind};
use crate::group::within;
use crate::head::VersionRange;

/// The format version of segments that this release writes, and the newest that it reads.
pub const SEGMENT_FORMAT: u16 = 1;
/// The largest segment object.
pub const SEGMENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most that the frames of one segment may take before compression and after decompression: what fits
/// into an object even when compression gains nothing, with 4 KiB to spare for a seal.
pub const SEGMENT_RAW_BYTES_MAX: usize = SEGMENT_BYTES_MAX - 4096;
/// The largest payload of one frame. Blocks of changesets have at most 1 MiB before they are sealed.
pub const FRAME_BYTES_MAX: usize = 36 * 1024 * 1024;
/// The zstd level of segments: 0.3 to 0.4 GB/s.
pub const COMPRESSION_LEVEL: i32 = 3;

const FRAME_HEADER_BYTES: usize = 33;
const RAW_LENGTH_BYTES: usize = 8;
const COMPRESSED: u8 = 1;
/// Frames are compressed only when that saves at least this many hundredths.
const GAIN_MIN_PERCENT: usize = 3;
/// Bounds the decoder's memory: a window of 8 MiB, four times what level 3 uses.
const WINDOW_LOG_MAX: u32 = 23;

const KIND: Kind = Kind { letter: b's', name: "segment", format: SEGMENT_FORMAT, flags: COMPRESSED };

/// What a frame holds. Kinds of later releases pass through as [`FrameKind::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum FrameKind {
    /// The header of a changeset.
    Header,
    /// A block of its body.
    Block,
    /// The signature of a site's device under its versions up to one; it comes before them.
    Proof,
    /// A kind that this release does not know.
    Other(u8),
}

impl From<u8> for FrameKind {
    fn from(number: u8) -> FrameKind {
        match number {
            1 => FrameKind::Header,
            2 => FrameKind::Block,
            3 => FrameKind::Proof,
            other => FrameKind::Other(other),
        }
    }
}

impl From<FrameKind> for u8 {
    fn from(kind: FrameKind) -> u8 {
        match kind {
            FrameKind::Header => 1,
            FrameKind::Block => 2,
            FrameKind::Proof => 3,
            FrameKind::Other(number) => number,
        }
    }
}

/// A piece of a changeset, opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// What it is.
    pub kind: FrameKind,
    /// The author of the changeset.
    pub site: SiteId,
    /// The version of the changeset.
    pub version: u64,
    /// The number of the block; 0 for a header.
    pub index: u32,
    /// The bytes.
    pub payload: Bytes,
}

impl Frame {
    /// The header of a changeset.
    pub fn header(site: SiteId, version: u64, payload: impl Into<Bytes>) -> Frame {
        Frame { kind: FrameKind::Header, site, version, index: 0, payload: payload.into() }
    }

    /// The signature of a site's device under its versions up to this one.
    pub fn proof(site: SiteId, version: u64, payload: impl Into<Bytes>) -> Frame {
        Frame { kind: FrameKind::Proof, site, version, index: 0, payload: payload.into() }
    }

    /// A block of a changeset's body.
    pub fn block(site: SiteId, version: u64, index: u32, payload: impl Into<Bytes>) -> Frame {
        Frame { kind: FrameKind::Block, site, version, index, payload: payload.into() }
    }
}

/// The finished bytes of a segment and the versions in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    bytes: Bytes,
    contents: Vec<VersionRange>,
}

impl Segment {
    /// The bytes as they are put.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The versions it holds, in the order of sites and versions.
    pub fn contents(&self) -> &[VersionRange] {
        &self.contents
    }

    /// The BLAKE3 hash of the bytes, which becomes part of the name.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// The same contents in other bytes, for tests of sizes.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn with_bytes(self, bytes: Bytes) -> Segment {
        Segment { bytes, ..self }
    }
}

/// Collects frames and makes one segment of them.
///
/// The body of a segment is the length of its frames (8 bytes) and then the frames, compressed as a whole when that
/// saves at least 3 %:
///
/// ```text
///  0  1  kind: 1 header, 2 block, 3 signature of the site's device
///  1 16  site
/// 17  8  version
/// 25  4  index
/// 29  4  length of the payload
/// 33  …  payload
/// ```
#[derive(Debug, Default)]
pub struct SegmentWriter {
    raw: Vec<u8>,
    versions: BTreeMap<SiteId, BTreeSet<u64>>,
}

impl SegmentWriter {
    /// A writer without frames.
    pub fn new() -> SegmentWriter {
        SegmentWriter::default()
    }

    /// Adds a frame at the end.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] when the frame or the segment would exceed its bound; the writer is unchanged, so
    /// finish it and begin another.
    pub fn push(&mut self, frame: &Frame) -> Result<(), FormatError> {
        let payload = frame.payload.len();
        within("frame", payload, FRAME_BYTES_MAX)?;
        within("segment", self.raw.len() + FRAME_HEADER_BYTES + payload, SEGMENT_RAW_BYTES_MAX)?;
        self.raw.push(frame.kind.into());
        self.raw.extend_from_slice(frame.site.as_bytes());
        self.raw.extend_from_slice(&frame.version.to_be_bytes());
        self.raw.extend_from_slice(&frame.index.to_be_bytes());
        self.raw.extend_from_slice(&(payload as u32).to_be_bytes());
        self.raw.extend_from_slice(&frame.payload);
        if frame.kind != FrameKind::Proof {
            self.versions.entry(frame.site).or_default().insert(frame.version);
        }
        Ok(())
    }

    /// The bytes of the frames so far, before compression.
    pub fn raw_bytes(&self) -> usize {
        self.raw.len()
    }

    /// Whether no frame was added.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Compresses and checksums the frames: up to a quarter of a second of work for a full segment.
    pub fn finish(self) -> Segment {
        let length = (self.raw.len() as u64).to_be_bytes();
        let packed = zstd::bulk::compress(&self.raw, COMPRESSION_LEVEL)
            .inspect_err(|error| tracing::warn!(%error, "a segment could not be compressed and is stored as it is"))
            .ok()
            .filter(|packed| packed.len() * 100 <= self.raw.len() * (100 - GAIN_MIN_PERCENT));
        let bytes = match &packed {
            Some(packed) => codec::wrap(KIND, COMPRESSED, &[&length, packed]),
            None => codec::wrap(KIND, 0, &[&length, &self.raw]),
        };
        Segment { bytes, contents: ranges(&self.versions) }
    }
}

fn ranges(versions: &BTreeMap<SiteId, BTreeSet<u64>>) -> Vec<VersionRange> {
    let mut ranges: Vec<VersionRange> = Vec::new();
    for (&site, versions) in versions {
        for &version in versions {
            match ranges.last_mut() {
                Some(range) if range.site == site && range.last.checked_add(1) == Some(version) => range.last = version,
                _ => ranges.push(VersionRange { site, first: version, last: version }),
            }
        }
    }
    ranges
}

/// Reads the frames of a segment one by one.
///
/// # Errors
/// [`FormatError`] for bytes that are no segment of this release or do not match their checksum.
pub fn read_segment(bytes: &[u8]) -> Result<SegmentReader<'_>, FormatError> {
    within("segment", bytes.len(), SEGMENT_BYTES_MAX)?;
    let opened = codec::unwrap(KIND, bytes)?;
    let Some((length, stored)) = opened.body.split_first_chunk::<RAW_LENGTH_BYTES>() else {
        return Err(FormatError::Malformed { object: KIND.name, problem: "it ends within its length" });
    };
    let length = u64::from_be_bytes(*length);
    if length > SEGMENT_RAW_BYTES_MAX as u64 {
        let max = SEGMENT_RAW_BYTES_MAX as u64;
        return Err(FormatError::TooLarge { what: "frames of the segment", bytes: length, max });
    }
    let source = if opened.flags & COMPRESSED == 0 { Source::Stored(stored) } else { Source::packed(stored)? };
    Ok(SegmentReader { source, left: length, done: false })
}

enum Source<'a> {
    Stored(&'a [u8]),
    Packed(Box<zstd::stream::read::Decoder<'static, &'a [u8]>>),
}

impl<'a> Source<'a> {
    fn packed(stored: &'a [u8]) -> Result<Source<'a>, FormatError> {
        let unreadable = |_| FormatError::Malformed { object: KIND.name, problem: "its frames cannot be decompressed" };
        let mut decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(unreadable)?;
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
        Ok(Source::Packed(Box::new(decoder)))
    }

    /// Reads up to `most` bytes; the buffer grows with what comes, not with what is claimed.
    fn read(&mut self, most: u64) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self {
            Source::Stored(stored) => stored.take(most).read_to_end(&mut bytes)?,
            Source::Packed(decoder) => decoder.take(most).read_to_end(&mut bytes)?,
        };
        Ok(bytes)
    }
}

/// The frames of a segment, decompressed as they are asked for. After an error there are no more.
pub struct SegmentReader<'a> {
    source: Source<'a>,
    /// Bytes of frames that the segment still promises; never more than the bound.
    left: u64,
    done: bool,
}

impl std::fmt::Debug for SegmentReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReader").field("left", &self.left).finish_non_exhaustive()
    }
}

impl SegmentReader<'_> {
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, FormatError> {
        let malformed = |problem| FormatError::Malformed { object: KIND.name, problem };
        let wanted = bytes as u64;
        if wanted > self.left {
            return Err(malformed("a frame goes beyond the end"));
        }
        let read = self.source.read(wanted).map_err(|_| malformed("its frames cannot be decompressed"))?;
        if read.len() != bytes {
            return Err(malformed("it has fewer bytes than it promises"));
        }
        self.left -= wanted;
        Ok(read)
    }

    fn frame(&mut self) -> Result<Frame, FormatError> {
        let header = self.take(FRAME_HEADER_BYTES)?;
        let malformed = || FormatError::Malformed { object: KIND.name, problem: "a frame has no header" };
        let (kind, rest) = header.split_first().ok_or_else(malformed)?;
        let (site, rest) = rest.split_first_chunk::<16>().ok_or_else(malformed)?;
        let (version, rest) = rest.split_first_chunk::<8>().ok_or_else(malformed)?;
        let (index, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let (length, _) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let length = u32::from_be_bytes(*length) as usize;
        within("frame", length, FRAME_BYTES_MAX)?;
        Ok(Frame {
            kind: FrameKind::from(*kind),
            site: SiteId::from_bytes(*site),
            version: u64::from_be_bytes(*version),
            index: u32::from_be_bytes(*index),
            payload: self.take(length)?.into(),
        })
    }

    /// Checks that nothing follows the promised frames.
    fn end(&mut self) -> Result<(), FormatError> {
        match self.source.read(1) {
            Ok(more) if more.is_empty() => Ok(()),
            _ => Err(FormatError::Malformed { object: KIND.name, problem: "it has more bytes than it promises" }),
        }
    }
}

impl Iterator for SegmentReader<'_> {
    type Item = Result<Frame, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        if self.left == 0 {
            self.done = true;
            return self.end().err().map(Err);
        }
        let frame = self.frame();
        self.done = frame.is_err();
        Some(frame)
    }
}
