//! A table as isle sees it: a key and columns, with what decides how values are stored and compared.

use serde::{Deserialize, Serialize};

use crate::{ColumnId, TableId};

/// What SQLite converts a stored value to (datatype3.html §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Affinity {
    /// Values are stored as they come.
    Blob = 0,
    /// Numbers become text.
    Text = 1,
    /// Text that is a number becomes one; integral reals become integers.
    Numeric = 2,
    /// As numeric.
    Integer = 3,
    /// Integers become reals.
    Real = 4,
}

impl Affinity {
    /// The affinity of a declared type, by the five rules of datatype3.html §3.1; `ANY` keeps values as they
    /// are in a STRICT table only (stricttables.html).
    pub fn of_declared_type(declared: &str, strict: bool) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") || declared.trim().is_empty() || (strict && declared.trim() == "ANY") {
            Affinity::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }
}

/// How a key column compares text. Other collations cannot be part of a replicated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Collation {
    /// Byte by byte.
    Binary = 0,
    /// The 26 ASCII letters without regard to case.
    NoCase = 1,
    /// Without regard to spaces at the end.
    RTrim = 2,
}

/// A column of a table's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// Its name in the author's file.
    pub name: String,
    /// What stored values are converted to.
    pub affinity: Affinity,
    /// How text is compared.
    pub collation: Collation,
}

/// A replicated column that is not part of the key. Generated columns are not replicated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The stable id.
    pub id: ColumnId,
    /// Its name in the author's file.
    pub name: String,
}

/// A replicated table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The stable id.
    pub id: TableId,
    /// Its name in the author's file.
    pub name: String,
    /// The key's columns, in key order; at least one.
    pub key: Vec<KeyColumn>,
    /// The other columns, in table order; may be empty.
    pub columns: Vec<Column>,
    /// Whether the key is SQLite's own 64-bit rowid.
    pub rowid_key: bool,
}

impl Table {
    /// A table at its birth, with ids derived from its names and key.
    pub fn new(app: &str, name: &str, key: Vec<KeyColumn>, columns: &[&str], rowid_key: bool) -> Table {
        let id = TableId::derive(app, name, 0, &key);
        let columns = columns.iter().map(|name| Column { id: ColumnId::derive(id, name, 0), name: (*name).to_owned() });
        Table { id, name: name.to_owned(), key, columns: columns.collect(), rowid_key }
    }

    /// Whether the ids are those that the names and the key demand.
    pub(crate) fn has_derived_ids(&self, app: &str) -> bool {
        let id = TableId::derive(app, &self.name, 0, &self.key);
        self.id == id && self.columns.iter().all(|column| column.id == ColumnId::derive(id, &column.name, 0))
    }
}
