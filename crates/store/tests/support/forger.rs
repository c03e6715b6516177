//! An author that writes what it likes.

use isle_changeset::{BodyWriter, Hash, Header, RowKind, ValueRef};
use isle_clock::{GroupId, Hlc, SiteId};
use isle_schema::{ColumnId, MigrationId, Table, TableId};

use super::reference::Sealed;
use super::{Device, START_MS};

pub struct Forger {
    pub group: GroupId,
    pub site: SiteId,
    pub version: u64,
    pub previous: Hash,
    pub ms: u64,
    pub heads: Vec<MigrationId>,
}

/// A row as it goes on the wire: kind, causal length, key, and a value for each column from the first on.
pub type WireRow<'a> = (RowKind, u64, Vec<ValueRef<'a>>, Vec<(ColumnId, ValueRef<'a>)>);

impl Forger {
    /// A site of the group of `device`, under its schema.
    pub fn new(n: u8, device: &Device) -> Forger {
        Forger {
            group: device.store.status().unwrap().group,
            site: SiteId::from_bytes([n; 16]),
            version: 0,
            previous: Hash::default(),
            ms: START_MS,
            heads: device.store.schema_heads().unwrap(),
        }
    }

    pub fn header(&mut self) -> Header {
        self.version += 1;
        Header {
            group: self.group,
            site: self.site,
            version: self.version,
            hlc: Hlc::new(self.ms, self.version as u16).unwrap(),
            baseline: false,
            previous: self.previous,
            causes: Vec::new(),
            floor: Vec::new(),
            heads: self.heads.clone(),
            blocks: Vec::new(),
        }
    }

    /// The next version with one row; `change` spoils its header.
    pub fn seal(&mut self, table: TableId, row: &WireRow<'_>, change: impl FnOnce(&mut Header)) -> Sealed {
        let mut writer = BodyWriter::new();
        let columns: Vec<ColumnId> = row.3.iter().map(|(id, _)| *id).collect();
        let values: Vec<ValueRef<'_>> = row.3.iter().map(|(_, value)| *value).collect();
        writer.table(table, &columns, row.2.len());
        writer.row(row.0, row.1, &[(1 << columns.len()) - 1], &row.2, &values).unwrap();
        let block = writer.finish().unwrap();
        let mut header = self.header();
        header.blocks = vec![block.info];
        change(&mut header);
        let encoded = header.encode();
        self.previous = Header::hash(&encoded);
        (encoded, vec![block.bytes])
    }
}

/// An insert that gives every column the same value.
pub fn insert<'a>(table: &Table, key: ValueRef<'a>, value: ValueRef<'a>) -> WireRow<'a> {
    (RowKind::Insert, 1, vec![key], table.columns.iter().map(|column| (column.id, value)).collect())
}
