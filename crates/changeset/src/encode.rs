//! Writing blocks: rows in, sealed blocks out, one block in memory at a time.

use isle_schema::{ColumnId, TableId};

use crate::block::{CODEC_RAW, CODEC_ZSTD, LENGTH_MAX, RowKind};
use crate::header::BlockInfo;
use crate::stream::StreamWriter;
use crate::wire::{DecodeError, put_varint};
use crate::{BLOCK_BYTES, BLOCK_ROWS_MAX, ROW_BYTES_MAX, ValueRef};

/// zstd's fastest regular level: sealing is on the way of every local transaction.
const LEVEL: i32 = 1;
/// Below this a block stays as it is, and the segment that carries many of them compresses them together.
const COMPRESS_BYTES_MIN: usize = 512;

/// A block as it is stored and sent, with what the header says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
    /// The header's entry.
    pub info: BlockInfo,
    /// The stored form.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
struct Run {
    kind: RowKind,
    length: u64,
    mask: Vec<u64>,
    rows: u64,
}

/// The rows of one table within the block that is being filled.
#[derive(Debug)]
struct OpenSection {
    table: TableId,
    columns: Vec<ColumnId>,
    used: Vec<u64>,
    runs: Vec<Run>,
    keys: Vec<StreamWriter>,
    cells: Vec<StreamWriter>,
}

/// Takes the rows of a changeset, table after table and key after key, and hands out blocks as they fill.
#[derive(Default)]
pub struct BodyWriter {
    content: Vec<u8>,
    section: Option<OpenSection>,
    bytes: usize,
    rows: u32,
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl BodyWriter {
    /// A writer without rows.
    pub fn new() -> BodyWriter {
        BodyWriter::default()
    }

    /// Starts the rows of a table. `columns` are those that a row's mask may name, bit by bit.
    pub fn table(&mut self, table: TableId, columns: &[ColumnId], key_columns: usize) {
        self.close_section();
        self.section = Some(OpenSection {
            table,
            columns: columns.to_vec(),
            used: vec![0; columns.len().div_ceil(64)],
            runs: Vec::new(),
            keys: (0..key_columns).map(|_| StreamWriter::default()).collect(),
            cells: (0..columns.len()).map(|_| StreamWriter::default()).collect(),
        });
    }

    /// Adds a row: `mask` has a bit for each column of which a value follows in `values`, in column order.
    /// Gives the block that had to be closed before, if any.
    ///
    /// # Errors
    /// [`DecodeError::Limit`] when the row is larger than [`ROW_BYTES_MAX`]: no other replica would take it.
    pub fn row(
        &mut self,
        kind: RowKind,
        length: u64,
        mask: &[u64],
        key: &[ValueRef<'_>],
        values: &[ValueRef<'_>],
    ) -> Result<Option<SealedBlock>, DecodeError> {
        let size: usize =
            key.iter().chain(values).map(|value| value.wire_len() + 5).sum::<usize>() + 8 + 8 * mask.len();
        if size > ROW_BYTES_MAX {
            return Err(DecodeError::Limit { what: "size of a row", found: size as u64, limit: ROW_BYTES_MAX as u64 });
        }
        if length > LENGTH_MAX {
            return Err(DecodeError::Limit { what: "causal length of a row", found: length, limit: LENGTH_MAX });
        }
        let Some(columns) = self.section.as_ref().map(|section| section.columns.len()) else {
            return Err(DecodeError::Inconsistent { what: "row outside a table" });
        };
        let mut full = None;
        let overhead = if self.section.as_ref().is_some_and(|s| s.runs.is_empty()) { 64 + 24 * columns } else { 0 };
        if self.rows > 0 && (self.bytes + size + overhead > BLOCK_BYTES || self.rows as usize == BLOCK_ROWS_MAX) {
            full = self.close_block();
        }
        self.bytes += size + if self.bytes == 0 { 64 + 24 * columns } else { overhead };
        self.rows += 1;
        if let Some(section) = &mut self.section {
            section.push(kind, length, mask, key, values);
        }
        Ok(full)
    }

    /// The last block, if rows were added since the last one was handed out.
    pub fn finish(mut self) -> Option<SealedBlock> {
        self.close_block()
    }

    fn close_section(&mut self) {
        if let Some(section) = &mut self.section {
            section.write(&mut self.content);
        }
    }

    fn close_block(&mut self) -> Option<SealedBlock> {
        self.close_section();
        if self.rows == 0 {
            return None;
        }
        let raw = std::mem::take(&mut self.content);
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        Some(self.seal(raw, rows))
    }

    fn seal(&mut self, raw: Vec<u8>, rows: u32) -> SealedBlock {
        let mut bytes = self.compress(&raw).unwrap_or_default();
        if bytes.is_empty() {
            bytes.push(CODEC_RAW);
            bytes.extend_from_slice(&raw);
        }
        let hash = *blake3::hash(&bytes).as_bytes();
        let info = BlockInfo { stored_bytes: bytes.len() as u32, raw_bytes: raw.len() as u32, rows, hash };
        SealedBlock { info, bytes }
    }

    /// The compressed form, unless it gains less than three per cent.
    fn compress(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        if raw.len() < COMPRESS_BYTES_MIN {
            return None;
        }
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        let packed = self.compressor.as_mut()?.compress(raw).ok()?;
        if packed.len() >= raw.len() - raw.len() / 32 {
            return None;
        }
        let mut bytes = Vec::with_capacity(packed.len() + 1);
        bytes.push(CODEC_ZSTD);
        bytes.extend_from_slice(&packed);
        Some(bytes)
    }
}

impl OpenSection {
    fn push(&mut self, kind: RowKind, length: u64, mask: &[u64], key: &[ValueRef<'_>], values: &[ValueRef<'_>]) {
        match self.runs.last_mut() {
            Some(run) if run.kind == kind && run.length == length && run.mask == mask => run.rows += 1,
            _ => {
                self.used.iter_mut().zip(mask).for_each(|(used, mask)| *used |= mask);
                self.runs.push(Run { kind, length, mask: mask.to_vec(), rows: 1 });
            }
        }
        for (stream, value) in self.keys.iter_mut().zip(key) {
            stream.push(*value);
        }
        let mut values = values.iter();
        for (word, bits) in mask.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                let column = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if let (Some(stream), Some(value)) = (self.cells.get_mut(column), values.next()) {
                    stream.push(*value);
                }
            }
        }
    }

    /// Appends the section to the block and empties it; only columns that some row names are written.
    fn write(&mut self, out: &mut Vec<u8>) {
        if self.runs.is_empty() {
            return;
        }
        let has =
            |mask: &[u64], column: usize| mask.get(column / 64).is_some_and(|word| word >> (column % 64) & 1 == 1);
        let used: Vec<usize> = (0..self.columns.len()).filter(|column| has(&self.used, *column)).collect();
        out.extend_from_slice(self.table.as_bytes());
        put_varint(out, used.len() as u64);
        for &column in &used {
            out.extend_from_slice(self.columns[column].as_bytes());
        }
        put_varint(out, self.keys.len() as u64);
        put_varint(out, self.runs.len() as u64);
        for run in &self.runs {
            put_varint(out, run.length << 2 | run.kind as u64);
            if run.kind != RowKind::Delete {
                let start = out.len();
                out.resize(start + used.len().div_ceil(8), 0);
                for (bit, &column) in used.iter().enumerate() {
                    out[start + bit / 8] |= u8::from(has(&run.mask, column)) << (bit % 8);
                }
            }
            put_varint(out, run.rows);
        }
        for stream in self.keys.iter_mut() {
            stream.write(out);
            stream.clear();
        }
        for &column in &used {
            self.cells[column].write(out);
            self.cells[column].clear();
        }
        self.runs.clear();
        self.used.fill(0);
    }
}
