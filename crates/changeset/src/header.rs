//! The header of a changeset: who, when, after what, and the hashes of its blocks.

use isle_clock::{GroupId, Hlc, SiteId};
use isle_schema::MigrationId;

use crate::wire::{DecodeError, Reader, put_varint};
use crate::{BLOCK_ROWS_MAX, HEADER_BYTES_MAX, ROW_BYTES_MAX};

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

const MAGIC: &[u8; 4] = b"ISLC";
const FORMAT: u8 = 1;
const FLAG_BASELINE: u8 = 1;
/// Room for the longest key columns, lengths and ids beside a row's values.
const RAW_BYTES_MAX: usize = ROW_BYTES_MAX + (1 << 20);

/// A version of another site that the author had applied, with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// The other site.
    pub site: SiteId,
    /// Its last version that the author had applied.
    pub version: u64,
    /// The time of that version.
    pub hlc: Hlc,
}

/// What the header says of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockInfo {
    /// Bytes as stored and sent.
    pub stored_bytes: u32,
    /// Bytes of the content.
    pub raw_bytes: u32,
    /// Number of rows.
    pub rows: u32,
    /// BLAKE3 of the stored form.
    pub hash: Hash,
}

/// The header of a changeset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The group whose data this is.
    pub group: GroupId,
    /// The author.
    pub site: SiteId,
    /// The author's version, from 1.
    pub version: u64,
    /// The time of the transaction.
    pub hlc: Hlc,
    /// Whether the cells are rows that were there when their table was adopted, and so carry time 0.
    pub baseline: bool,
    /// Hash of the header of the author's previous version; zeros for version 1.
    pub previous: Hash,
    /// What the author had applied of other sites since its previous version.
    pub causes: Vec<Cause>,
    /// Up to where every device of the group has everything, as far as it rose since the author's previous version: whoever
    /// applies this version collects what is below it first.
    pub floor: Vec<Cause>,
    /// The author's last schema operations.
    pub heads: Vec<MigrationId>,
    /// The blocks, in order.
    pub blocks: Vec<BlockInfo>,
}

impl Header {
    /// The time that the cells carry.
    pub fn cell_hlc(&self) -> Hlc {
        if self.baseline { Hlc::ZERO } else { self.hlc }
    }

    /// The number of rows in all blocks.
    pub fn rows(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.rows)).sum()
    }

    /// The number of bytes of all blocks as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.stored_bytes)).sum()
    }

    /// The hash by which the next version names an encoded header.
    pub fn hash(encoded: &[u8]) -> Hash {
        *blake3::hash(encoded).as_bytes()
    }

    /// The one encoding of the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + 48 * self.blocks.len());
        out.extend(MAGIC);
        out.push(FORMAT);
        out.push(if self.baseline { FLAG_BASELINE } else { 0 });
        out.extend(self.group.as_bytes());
        out.extend(self.site.as_bytes());
        out.extend(self.version.to_le_bytes());
        out.extend(self.hlc.bits().to_le_bytes());
        out.extend(self.previous);
        put_causes(&mut out, &self.causes);
        put_causes(&mut out, &self.floor);
        put_varint(&mut out, self.heads.len() as u64);
        for head in &self.heads {
            out.extend(head.as_bytes());
        }
        put_varint(&mut out, self.blocks.len() as u64);
        for block in &self.blocks {
            put_block_info(&mut out, block);
        }
        out
    }

    /// Reads an encoded header.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Header::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
        if bytes.len() > HEADER_BYTES_MAX {
            let (found, limit) = (bytes.len() as u64, HEADER_BYTES_MAX as u64);
            return Err(DecodeError::Limit { what: "changeset header", found, limit });
        }
        let mut reader = Reader::new(bytes);
        let format = DecodeError::Format { what: "changeset header" };
        if reader.array::<4>().ok().as_ref() != Some(MAGIC) || reader.byte().ok() != Some(FORMAT) {
            return Err(format);
        }
        let flags = reader.byte()?;
        if flags & !FLAG_BASELINE != 0 {
            return Err(DecodeError::Tag { what: "changeset flags", tag: flags });
        }
        let group = GroupId::from_bytes(reader.array()?);
        let site = SiteId::from_bytes(reader.array()?);
        let version = u64::from_le_bytes(reader.array()?);
        let hlc = read_hlc(&mut reader)?;
        let previous = reader.array()?;
        let causes = read_causes(&mut reader, "causes")?;
        let floor = read_causes(&mut reader, "collection floor")?;
        let heads = read_list(&mut reader, "schema heads", 16, |reader| Ok(MigrationId::from_bytes(reader.array()?)))?;
        let blocks = read_list(&mut reader, "blocks", 35, read_block)?;
        reader.end("changeset header")?;
        let rises = heads.is_sorted_by(|a, b| a < b);
        let first = version == 1 && previous != Hash::default();
        // What the author had seen is older than what it wrote.
        let past = causes.iter().chain(&floor).all(|cause| cause.hlc < hlc) && hlc > Hlc::ZERO;
        let own = causes.iter().any(|cause| cause.site == site);
        let past = past && !own;
        if version == 0 || version > i64::MAX as u64 || first || !rises || !past {
            return Err(DecodeError::Inconsistent { what: "changeset header" });
        }
        let baseline = flags & FLAG_BASELINE != 0;
        let header = Header { group, site, version, hlc, baseline, previous, causes, floor, heads, blocks };
        // One header, one encoding: an overlong varint must not give the same content a second hash.
        if header.encode() != bytes {
            return Err(DecodeError::Inconsistent { what: "changeset header encoding" });
        }
        Ok(header)
    }
}

fn put_causes(out: &mut Vec<u8>, causes: &[Cause]) {
    put_varint(out, causes.len() as u64);
    for cause in causes {
        out.extend(cause.site.as_bytes());
        put_varint(out, cause.version);
        out.extend(cause.hlc.bits().to_le_bytes());
    }
}

pub(crate) fn put_block_info(out: &mut Vec<u8>, block: &BlockInfo) {
    put_varint(out, u64::from(block.stored_bytes));
    put_varint(out, u64::from(block.raw_bytes));
    put_varint(out, u64::from(block.rows));
    out.extend(block.hash);
}

fn read_hlc(reader: &mut Reader<'_>) -> Result<Hlc, DecodeError> {
    Hlc::from_bits(u64::from_le_bytes(reader.array()?)).ok_or(DecodeError::Inconsistent { what: "timestamp" })
}

pub(crate) fn read_list<'a, T>(
    reader: &mut Reader<'a>,
    what: &'static str,
    bytes_each_min: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.count(what, reader.remaining() / bytes_each_min)?;
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        list.push(item(reader)?);
    }
    Ok(list)
}

fn read_causes(reader: &mut Reader<'_>, what: &'static str) -> Result<Vec<Cause>, DecodeError> {
    let causes = read_list(reader, what, 25, |reader| {
        let site = SiteId::from_bytes(reader.array()?);
        Ok(Cause { site, version: reader.varint()?, hlc: read_hlc(reader)? })
    })?;
    let sound = causes.iter().all(|cause| cause.version > 0 && cause.version <= i64::MAX as u64);
    if !sound || !causes.is_sorted_by(|a, b| a.site < b.site) {
        return Err(DecodeError::Inconsistent { what });
    }
    Ok(causes)
}

pub(crate) fn read_block(reader: &mut Reader<'_>) -> Result<BlockInfo, DecodeError> {
    let stored_bytes = reader.count("stored bytes of a block", RAW_BYTES_MAX)? as u32;
    let raw_bytes = reader.count("raw bytes of a block", RAW_BYTES_MAX)? as u32;
    let rows = reader.count("rows of a block", BLOCK_ROWS_MAX)? as u32;
    Ok(BlockInfo { stored_bytes, raw_bytes, rows, hash: reader.array()? })
}
