//! The merge rules of semantics.md once more, in memory and as plainly as can be: a second opinion.
//!
//! A changeset's rows may come in any order. For each row the largest causal length decides whether it lives; among
//! the writes of that life each cell goes to the largest (time, site).

use std::collections::{BTreeMap, HashMap};

use isle_changeset::{Block, Header, Row, RowKind, Value, pack_key, unpack_key};
use isle_clock::{Hlc, SiteId};
use isle_schema::{ColumnId, Migration, Table, TableId};

use super::Device;

/// A sealed version as it travels.
pub type Sealed = (Vec<u8>, Vec<Vec<u8>>);

/// What one changeset says of one row.
#[derive(Debug, Clone)]
pub struct Write {
    pub table: TableId,
    pub key: Vec<u8>,
    pub kind: RowKind,
    pub length: u64,
    pub hlc: Hlc,
    pub site: SiteId,
    pub version: u64,
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
        let rows = self.rows.get(&table.id).into_iter().flatten().filter(|(_, row)| row.length % 2 == 1);
        let mut shown: Vec<String> = rows
            .map(|(key, row)| {
                let exact = match row.cells.get(&ColumnId::KEY) {
                    Some((_, Value::Blob(packed))) => packed,
                    _ => key,
                };
                let mut values = unpack_key(exact, table.key.len()).unwrap();
                let cell = |id| row.cells.get(&id).map_or(Value::Null, |(_, value)| value.clone());
                values.extend(table.columns.iter().map(|column| cell(column.id)));
                format!("{values:?}")
            })
            .collect();
        shown.sort();
        shown
    }
}

/// The tracked tables, as the schema operations declare them.
pub fn tables(device: &Device) -> Vec<Table> {
    let heads = device.store.schema_heads().unwrap();
    let operations =
        heads.iter().map(|head| Migration::decode(&device.store.migration(*head).unwrap().unwrap()).unwrap().1);
    let mut tables: Vec<Table> =
        operations.flat_map(|op| op.tables().map(|definition| definition.table.clone()).collect::<Vec<_>>()).collect();
    tables.dedup_by_key(|table| table.id);
    tables
}

/// The rows of a file in the form of [`Model::visible`].
pub fn visible(device: &Device, table: &Table) -> Vec<String> {
    let names = table.key.iter().map(|column| &column.name).chain(table.columns.iter().map(|column| &column.name));
    let list = names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let conn = rusqlite::Connection::open(device.path()).unwrap();
    let mut statement = conn.prepare(&format!("SELECT {list} FROM \"{}\"", table.name)).unwrap();
    let count = statement.column_count();
    let rows = statement.query_map([], |row| {
        let values: Vec<Value> = (0..count).map(|n| value(row.get_ref(n).unwrap())).collect();
        Ok(format!("{values:?}"))
    });
    let mut shown: Vec<String> = rows.unwrap().map(Result::unwrap).collect();
    shown.sort();
    shown
}

fn value(value: rusqlite::types::ValueRef<'_>) -> Value {
    match value {
        rusqlite::types::ValueRef::Null => Value::Null,
        rusqlite::types::ValueRef::Integer(v) => Value::Integer(v),
        rusqlite::types::ValueRef::Real(v) => Value::Real(v),
        rusqlite::types::ValueRef::Text(v) => Value::Text(v.to_vec()),
        rusqlite::types::ValueRef::Blob(v) => Value::Blob(v.to_vec()),
    }
}
