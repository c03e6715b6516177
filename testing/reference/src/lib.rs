//! The merge rules of semantics.md once more, in memory and as plainly as can be: a second opinion.
//!
//! A changeset's rows may come in any order. For each row the largest causal length decides whether it lives; among
//! the writes of that life each cell goes to the largest (time, site). Columns of kinds are not in it, nor are constraints.

#![allow(clippy::unwrap_used, reason = "what isle itself has sealed; a simulation reports a panic")]

use std::collections::{BTreeMap, HashMap};

use isle_changeset::{Block, Header, Row, RowKind, Value, pack_key, unpack_key};
use isle_clock::{Hlc, SiteId};
use isle_schema::{ColumnId, Table, TableId};

/// A sealed version as it travels.
pub type Sealed = (Vec<u8>, Vec<Vec<u8>>);

/// What one changeset says of one row.
#[derive(Debug, Clone)]
pub struct Write {
    /// The table.
    pub table: TableId,
    /// The row's canonical key, packed.
    pub key: Vec<u8>,
    /// What happened to the row.
    pub kind: RowKind,
    /// Its causal length.
    pub length: u64,
    /// The time that counts for its cells.
    pub hlc: Hlc,
    /// The author.
    pub site: SiteId,
    /// The author's version.
    pub version: u64,
    /// The columns that were written.
    pub cells: Vec<(ColumnId, Value)>,
}

/// Takes a changeset apart.
pub fn writes(sealed: &Sealed) -> Vec<Write> {
    let header = Header::decode(&sealed.0).unwrap();
    let mut writes = Vec::new();
    for (info, bytes) in header.blocks.iter().zip(&sealed.1) {
        let block = Block::open(bytes, info).unwrap();
        block.check(info).unwrap();
        for section in block.sections() {
            let mut section = section.unwrap();
            let columns = section.columns().to_vec();
            let mut row = Row::default();
            while section.next(&mut row).unwrap() {
                let named = (0..columns.len()).filter(|n| row.mask[n / 64] >> (n % 64) & 1 == 1);
                writes.push(Write {
                    table: section.table(),
                    key: pack_key(&row.key),
                    kind: row.kind,
                    length: row.length,
                    hlc: header.cell_hlc(),
                    site: header.site,
                    version: header.version,
                    cells: named.zip(&row.values).map(|(n, value)| (columns[n], value.to_value())).collect(),
                });
            }
        }
    }
    writes
}

#[derive(Debug, Default)]
struct ModelRow {
    length: u64,
    cells: HashMap<ColumnId, ((Hlc, SiteId), Value)>,
}

/// The merged state.
#[derive(Debug, Default)]
pub struct Model {
    rows: HashMap<TableId, BTreeMap<Vec<u8>, ModelRow>>,
}

impl Model {
    /// Takes one write, in any order.
    pub fn take(&mut self, write: Write) {
        let row = self.rows.entry(write.table).or_default().entry(write.key).or_default();
        if write.length < row.length {
            return;
        }
        if write.length > row.length {
            *row = ModelRow { length: write.length, cells: HashMap::new() };
        }
        for (column, value) in write.cells {
            let stamp = (write.hlc, write.site);
            let cell = row.cells.entry(column).or_insert_with(|| (stamp, value.clone()));
            // Equal stamps: two baselines of one site. Then, and only then, the value decides.
            let tie = stamp == cell.0 && value.as_ref().order(cell.1.as_ref()).is_gt();
            if stamp > cell.0 || tie {
                *cell = (stamp, value);
            }
        }
    }

    /// The rows that a query should show: the exact key, then the columns; sorted by their text.
    pub fn visible(&self, table: &Table) -> Vec<String> {
        self.visible_with(table, |_| Value::Null)
    }

    /// The same where columns that nobody wrote have defaults.
    pub fn visible_with(&self, table: &Table, default: impl Fn(ColumnId) -> Value) -> Vec<String> {
        let rows = self.rows.get(&table.id).into_iter().flatten().filter(|(_, row)| row.length % 2 == 1);
        let mut shown: Vec<String> = rows
            .map(|(key, row)| {
                let exact = match row.cells.get(&ColumnId::KEY) {
                    Some((_, Value::Blob(packed))) => packed,
                    _ => key,
                };
                let mut values = unpack_key(exact, table.key.len()).unwrap();
                let cell = |id| row.cells.get(&id).map_or_else(|| default(id), |(_, value)| value.clone());
                values.extend(table.columns.iter().map(|column| cell(column.id)));
                format!("{values:?}")
            })
            .collect();
        shown.sort();
        shown
    }

    /// How many rows were ever heard of.
    pub fn rows(&self) -> usize {
        self.rows.values().map(BTreeMap::len).sum()
    }
}
