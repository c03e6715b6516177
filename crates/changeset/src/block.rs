//! Reading blocks: verified, unpacked within bounds, then row by row without copies.

use std::io::Read as _;

use isle_schema::{ColumnId, TableId};

use crate::header::BlockInfo;
use crate::stream::StreamReader;
use crate::wire::{DecodeError, Reader};
use crate::{BLOCK_BYTES, BLOCK_ROWS_MAX, BLOCK_VALUES_MAX, COLUMNS_MAX, ValueRef};

pub(crate) const CODEC_RAW: u8 = 0;
pub(crate) const CODEC_ZSTD: u8 = 1;
/// The largest window that a compressed block may ask for: 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// The largest causal length: no row is deleted and made again that often.
pub const LENGTH_MAX: u64 = 1 << 31;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RowKind {
    /// A new life: the row was absent before.
    Insert = 0,
    /// The row was there before and still is.
    Update = 1,
    /// The row is gone.
    Delete = 2,
}

/// The content of a block.
#[derive(Debug)]
pub struct Block {
    content: Vec<u8>,
}

impl Block {
    /// Checks a stored block against the header's entry and unpacks it.
    ///
    /// # Errors
    /// [`DecodeError`] when anything differs from what the header promises.
    pub fn open(stored: &[u8], info: &BlockInfo) -> Result<Block, DecodeError> {
        if stored.len() != info.stored_bytes as usize || *blake3::hash(stored).as_bytes() != info.hash {
            return Err(DecodeError::Hash { what: "block" });
        }
        let raw_bytes = info.raw_bytes as usize;
        if info.rows > 1 && raw_bytes > BLOCK_BYTES {
            let (found, limit) = (raw_bytes as u64, BLOCK_BYTES as u64);
            return Err(DecodeError::Limit { what: "size of a block of several rows", found, limit });
        }
        let (codec, packed) = stored.split_first().ok_or(DecodeError::Truncated { what: "block" })?;
        let content = match *codec {
            CODEC_RAW => packed.to_vec(),
            CODEC_ZSTD => unpack(packed, raw_bytes)?,
            tag => return Err(DecodeError::Tag { what: "block encoding", tag }),
        };
        if content.len() != raw_bytes {
            return Err(DecodeError::Inconsistent { what: "size of a block" });
        }
        Ok(Block { content })
    }

    /// The sections of the block, one for each table.
    pub fn sections(&self) -> Sections<'_> {
        Sections { reader: Reader::new(&self.content), values_left: BLOCK_VALUES_MAX as u64 }
    }

    /// Reads every row once.
    ///
    /// # Errors
    /// [`DecodeError`] when a row is broken or their number is not what the header says.
    pub fn check(&self, info: &BlockInfo) -> Result<(), DecodeError> {
        let mut rows = 0u64;
        for section in self.sections() {
            let mut section = section?;
            let mut row = Row::default();
            while section.next(&mut row)? {
                rows += 1;
            }
        }
        if rows != u64::from(info.rows) {
            return Err(DecodeError::Inconsistent { what: "number of rows in a block" });
        }
        Ok(())
    }
}

fn unpack(packed: &[u8], raw_bytes: usize) -> Result<Vec<u8>, DecodeError> {
    if raw_bytes <= 2 * BLOCK_BYTES {
        return zstd::bulk::decompress(packed, raw_bytes).map_err(|_| DecodeError::Compression);
    }
    // A single large row: memory grows with what really comes out, not with what the header claims.
    let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(|_| DecodeError::Compression)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(|_| DecodeError::Compression)?;
    let mut content = Vec::new();
    decoder.take(raw_bytes as u64 + 1).read_to_end(&mut content).map_err(|_| DecodeError::Compression)?;
    Ok(content)
}

/// Walks over the sections of a block.
#[derive(Debug)]
pub struct Sections<'a> {
    reader: Reader<'a>,
    /// Values that may still come.
    values_left: u64,
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let section = Section::parse(&mut self.reader, &mut self.values_left);
        if section.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(section)
    }
}

/// The rows of one table within a block.
#[derive(Debug)]
pub struct Section<'a> {
    table: TableId,
    columns: Vec<ColumnId>,
    runs: Reader<'a>,
    runs_left: usize,
    kind: RowKind,
    length: u64,
    mask: Vec<u64>,
    rows_left: u64,
    keys: Vec<StreamReader<'a>>,
    cells: Vec<StreamReader<'a>>,
}

/// One changed row; values are borrowed from the block.
#[derive(Debug)]
pub struct Row<'a> {
    /// What happened.
    pub kind: RowKind,
    /// The row's causal length after the change: odd while it lives.
    pub length: u64,
    /// The canonical key.
    pub key: Vec<ValueRef<'a>>,
    /// A bit for each of the section's columns that has a value.
    pub mask: Vec<u64>,
    /// The values of those columns, in order.
    pub values: Vec<ValueRef<'a>>,
}

impl Default for Row<'_> {
    fn default() -> Self {
        Row { kind: RowKind::Delete, length: 0, key: Vec::new(), mask: Vec::new(), values: Vec::new() }
    }
}

impl<'a> Section<'a> {
    /// The table.
    pub fn table(&self) -> TableId {
        self.table
    }

    /// The columns that some row of the section names.
    pub fn columns(&self) -> &[ColumnId] {
        &self.columns
    }

    /// The number of key columns.
    pub fn key_columns(&self) -> usize {
        self.keys.len()
    }

    fn parse(reader: &mut Reader<'a>, values_left: &mut u64) -> Result<Section<'a>, DecodeError> {
        let table = TableId::from_bytes(reader.array()?);
        let count = reader.count("columns", COLUMNS_MAX.min(reader.remaining() / 16))?;
        let columns: Vec<_> = (0..count).map(|_| reader.array().map(ColumnId::from_bytes)).collect::<Result<_, _>>()?;
        let mut known: Vec<_> = columns.iter().collect();
        known.sort_unstable();
        if !known.is_sorted_by(|a, b| a < b) {
            return Err(DecodeError::Inconsistent { what: "columns of a section" });
        }
        let key_columns = reader.count("key columns", COLUMNS_MAX)?;
        if key_columns == 0 {
            return Err(DecodeError::Inconsistent { what: "key of a section" });
        }
        let runs_left = reader.count("runs of rows", reader.remaining() / 2)?;
        let runs = reader.clone();
        let mut rows = 0u64;
        let mut values = vec![0u64; count];
        for _ in 0..runs_left {
            let (kind, length) = read_run(reader)?;
            if (length % 2 == 1) != (kind != RowKind::Delete) {
                return Err(DecodeError::Inconsistent { what: "causal length of a row" });
            }
            let mask = if kind == RowKind::Delete { &[][..] } else { reader.bytes(count.div_ceil(8))? };
            let run = reader.varint()?;
            rows = rows.saturating_add(run);
            for (column, values) in values.iter_mut().enumerate() {
                if mask.get(column / 8).is_some_and(|byte| byte >> (column % 8) & 1 == 1) {
                    *values = values.saturating_add(run);
                }
            }
        }
        if rows > BLOCK_ROWS_MAX as u64 {
            return Err(DecodeError::Limit { what: "rows of a section", found: rows, limit: BLOCK_ROWS_MAX as u64 });
        }
        let in_keys = rows.saturating_mul(key_columns as u64);
        let all = values.iter().fold(in_keys, |all, values| all.saturating_add(*values));
        *values_left = values_left.checked_sub(all).ok_or(DecodeError::Limit {
            what: "values of a block",
            found: all,
            limit: BLOCK_VALUES_MAX as u64,
        })?;
        let keys = (0..key_columns).map(|_| StreamReader::parse(reader, rows)).collect::<Result<_, _>>()?;
        let cells = values.into_iter().map(|values| StreamReader::parse(reader, values)).collect::<Result<_, _>>()?;
        let mask = vec![0; count.div_ceil(64)];
        let kind = RowKind::Delete;
        Ok(Section { table, columns, runs, runs_left, kind, length: 0, mask, rows_left: 0, keys, cells })
    }

    /// Reads the next row into `row`; false at the end.
    ///
    /// # Errors
    /// [`DecodeError`] when the section is broken.
    pub fn next(&mut self, row: &mut Row<'a>) -> Result<bool, DecodeError> {
        while self.rows_left == 0 {
            if self.runs_left == 0 {
                self.keys.iter().chain(&self.cells).try_for_each(StreamReader::end)?;
                return Ok(false);
            }
            self.next_run()?;
        }
        self.rows_left -= 1;
        row.kind = self.kind;
        row.length = self.length;
        row.mask.clone_from(&self.mask);
        row.key.clear();
        row.values.clear();
        for stream in &mut self.keys {
            row.key.push(match stream.next()? {
                ValueRef::Null => return Err(DecodeError::Inconsistent { what: "NULL in a key" }),
                value => value,
            });
        }
        for (word, bits) in self.mask.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let column = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                row.values.push(self.cells[column].next()?);
            }
        }
        Ok(true)
    }

    fn next_run(&mut self) -> Result<(), DecodeError> {
        (self.kind, self.length) = read_run(&mut self.runs)?;
        self.mask.fill(0);
        if self.kind != RowKind::Delete {
            let mask = self.runs.bytes(self.columns.len().div_ceil(8))?;
            for column in 0..self.columns.len() {
                self.mask[column / 64] |= u64::from(mask[column / 8] >> (column % 8) & 1) << (column % 64);
            }
        }
        self.rows_left = self.runs.varint()?;
        self.runs_left -= 1;
        Ok(())
    }
}

fn read_run(reader: &mut Reader<'_>) -> Result<(RowKind, u64), DecodeError> {
    let head = reader.varint()?;
    let kind = match head & 3 {
        0 => RowKind::Insert,
        1 => RowKind::Update,
        2 => RowKind::Delete,
        _ => return Err(DecodeError::Tag { what: "row kind", tag: 3 }),
    };
    let length = head >> 2;
    if length > LENGTH_MAX {
        return Err(DecodeError::Limit { what: "causal length of a row", found: length, limit: LENGTH_MAX });
    }
    Ok((kind, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::StreamWriter;
    use crate::wire::put_varint;

    /// A section with so many rows of NULLs, as no writer of isle's makes it.
    fn nulls(columns: u8, rows: u64) -> Vec<u8> {
        let mut out = vec![1; 16];
        put_varint(&mut out, u64::from(columns));
        (0..columns).for_each(|n| out.extend([n; 16]));
        put_varint(&mut out, 1);
        put_varint(&mut out, 1);
        put_varint(&mut out, 1 << 2);
        out.push(u8::MAX);
        put_varint(&mut out, rows);
        let (mut keys, mut cells) = (StreamWriter::default(), StreamWriter::default());
        for n in 0..rows {
            keys.push(ValueRef::Integer(n as i64));
            cells.push(ValueRef::Null);
        }
        keys.write(&mut out);
        (0..columns).for_each(|_| cells.write(&mut out));
        out
    }

    fn check(content: Vec<u8>) -> Result<(), DecodeError> {
        Block { content }.sections().try_for_each(|section| {
            let (mut section, mut row) = (section?, Row::default());
            while section.next(&mut row)? {}
            Ok(())
        })
    }

    #[test]
    fn values_that_take_no_bytes_are_bounded_over_all_sections() {
        assert_eq!(check(nulls(8, 1_000)), Ok(()));
        let refused = |content| matches!(check(content), Err(DecodeError::Limit { what: "values of a block", .. }));
        assert!(refused(nulls(8, BLOCK_ROWS_MAX as u64)), "one section of a few hundred kilobytes");
        let many: Vec<u8> = (0..40).flat_map(|_| nulls(8, 1_000)).collect();
        assert!(refused(many), "many small ones");
    }
}
