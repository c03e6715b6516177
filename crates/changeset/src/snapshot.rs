//! Snapshots: the merged state of a replica at a version vector, in the blocks that changesets use.
//!
//! # Header
//! ```text
//!   0   4  "ISLS"
//!   4   1  format, 1
//!   5   1  flags, 0
//!   6  16  group
//!  22  16  site that made it
//!  38   v  schema heads: count, then 16 bytes each, rising
//!   …   v  tables: count, then each, rising by id:
//!            16 id, v columns: count, then 16 bytes each; v baselines: count, then (site v, version v) each, rising
//!   …   v  blocks: count, then (stored bytes v, raw bytes v, rows v, BLAKE3 of the stored form 32) each
//! ```
//! # Blocks
//! As in a changeset; every row is an insert of length 1. Sites are named by numbers of the maker's, which [`SITES`]
//! explains. Sections come in this order, each perhaps in several blocks:
//! ```text
//! SITES    key: number                   columns 1 id, 2 version, 3 time, 4 hash of the header, 5 floor's version, 6 its time
//! SEEN     key: author, site             columns 1 version, 2 time
//! tables   key: canonical, in order      the columns by their ids; LENGTH if not 1, TIME, SITE, EXCEPTIONS and STATE if there are any
//! JOURNAL  key: running number           columns 1 table, 2 key, 3 column, 4 value, 5 time, 6 site, 7 winner's time,
//!                                        8 winner's site, 9 reason
//! ```
//! A row without values of its own is a tombstone: its length is even. EXCEPTIONS holds (cell v, site's number + 1 v, time 8
//! big-endian) each, rising by cell; cell 0 is the exact key, cell n + 1 the n-th column as the header lists them; number −1 is
//! "never written". STATE holds (cell v, what 1, site's number + 1 v, time 8 big-endian, and the value: 1 and a zigzag varint for an integer, or 0,
//! length v and the value as in an exact key) each, without site and time where what is 5:
//! 1 what a site has added to a counter, 2 a maximum, 3 a minimum, 4 a member of a set and who added it when, 5 a member of the plain
//! value that went.

use isle_clock::{GroupId, SiteId};
use isle_schema::{ColumnId, MigrationId, TableId};

use crate::COLUMNS_MAX;
use crate::header::{BlockInfo, put_block_info, read_block, read_list};
use crate::wire::{DecodeError, Reader, put_varint};

const MAGIC: &[u8; 4] = b"ISLS";
const FORMAT: u8 = 1;
/// Beyond every number of a site and every version.
const NUMBER_MAX: u64 = 1 << 48;

/// The largest encoded snapshot header: room for some 700,000 blocks.
pub const SNAPSHOT_HEADER_BYTES_MAX: usize = 32 << 20;

/// The section that explains the numbers of sites.
pub const SITES: TableId = TableId::from_bytes(*b"isle snap sites\0");
/// The section of what each author had seen.
pub const SEEN: TableId = TableId::from_bytes(*b"isle snap seen\0\0");
/// The section of open journal entries.
pub const JOURNAL: TableId = TableId::from_bytes(*b"isle snap journ\0");

/// A row's causal length, where it is not 1.
pub const LENGTH: ColumnId = field(0xf0);
/// The time of a row's stamp.
pub const TIME: ColumnId = field(0xf1);
/// The number of the site in a row's stamp.
pub const SITE: ColumnId = field(0xf2);
/// A row's cells with another stamp.
pub const EXCEPTIONS: ColumnId = field(0xf3);

/// What the columns of kinds of a row go by, beside their plain values.
pub const STATE: ColumnId = field(0xf4);

/// The `n`-th column of a section that is no table of the app.
pub const fn field(n: u8) -> ColumnId {
    ColumnId::from_bytes([b'i', b's', b'l', b'e', b' ', b's', b'n', b'a', b'p', b' ', 0, 0, 0, 0, 0, n])
}

/// A table in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotTable {
    /// Its id.
    pub id: TableId,
    /// Its columns, in the order by which exceptions number cells.
    pub columns: Vec<ColumnId>,
    /// The version that holds each site's baseline of the table, by the number of the site.
    pub baselines: Vec<(u64, u64)>,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The group whose state this is.
    pub group: GroupId,
    /// Who made it.
    pub site: SiteId,
    /// The schema operations that it needs.
    pub heads: Vec<MigrationId>,
    /// Its tables, rising by id.
    pub tables: Vec<SnapshotTable>,
    /// The blocks, in order.
    pub blocks: Vec<BlockInfo>,
}

impl SnapshotHeader {
    /// The one encoding of the header.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 48 * self.blocks.len());
        out.extend(MAGIC);
        out.extend([FORMAT, 0]);
        out.extend(self.group.as_bytes());
        out.extend(self.site.as_bytes());
        put_varint(&mut out, self.heads.len() as u64);
        self.heads.iter().for_each(|head| out.extend(head.as_bytes()));
        put_varint(&mut out, self.tables.len() as u64);
        for table in &self.tables {
            out.extend(table.id.as_bytes());
            put_varint(&mut out, table.columns.len() as u64);
            table.columns.iter().for_each(|column| out.extend(column.as_bytes()));
            put_varint(&mut out, table.baselines.len() as u64);
            for (site, version) in &table.baselines {
                put_varint(&mut out, *site);
                put_varint(&mut out, *version);
            }
        }
        put_varint(&mut out, self.blocks.len() as u64);
        self.blocks.iter().for_each(|block| put_block_info(&mut out, block));
        out
    }

    /// Reads an encoded header.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`SnapshotHeader::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotHeader, DecodeError> {
        if bytes.len() > SNAPSHOT_HEADER_BYTES_MAX {
            let (found, limit) = (bytes.len() as u64, SNAPSHOT_HEADER_BYTES_MAX as u64);
            return Err(DecodeError::Limit { what: "snapshot header", found, limit });
        }
        let mut reader = Reader::new(bytes);
        if reader.array::<4>().ok().as_ref() != Some(MAGIC) || reader.array::<2>().ok() != Some([FORMAT, 0]) {
            return Err(DecodeError::Format { what: "snapshot header" });
        }
        let group = GroupId::from_bytes(reader.array()?);
        let site = SiteId::from_bytes(reader.array()?);
        let heads = read_list(&mut reader, "schema heads", 16, |reader| Ok(MigrationId::from_bytes(reader.array()?)))?;
        let tables = read_list(&mut reader, "tables of a snapshot", 18, read_table)?;
        let blocks = read_list(&mut reader, "blocks", 35, read_block)?;
        reader.end("snapshot header")?;
        let header = SnapshotHeader { group, site, heads, tables, blocks };
        let rises = header.heads.is_sorted_by(|a, b| a < b) && header.tables.is_sorted_by(|a, b| a.id < b.id);
        if !rises || header.encode() != bytes {
            return Err(DecodeError::Inconsistent { what: "snapshot header" });
        }
        Ok(header)
    }

    /// The number of bytes of all blocks as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.stored_bytes)).sum()
    }
}

fn read_table(reader: &mut Reader<'_>) -> Result<SnapshotTable, DecodeError> {
    let id = TableId::from_bytes(reader.array()?);
    let columns = read_list(reader, "columns", 16, |reader| Ok(ColumnId::from_bytes(reader.array()?)))?;
    let baselines = read_list(reader, "baselines", 2, |reader| Ok((reader.varint()?, reader.varint()?)))?;
    let mut known = columns.clone();
    known.sort_unstable();
    let sound = known.is_sorted_by(|a, b| a < b) && baselines.is_sorted_by(|a, b| a.0 < b.0);
    if columns.len() > COLUMNS_MAX
        || !sound
        || baselines.iter().any(|(site, version)| *site >= NUMBER_MAX || *version >= NUMBER_MAX || *version == 0)
    {
        return Err(DecodeError::Inconsistent { what: "table of a snapshot" });
    }
    Ok(SnapshotTable { id, columns, baselines })
}
