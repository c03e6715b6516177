//! Content-derived ids of schema objects: the first 16 bytes of a BLAKE3 hash.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Kind;
use crate::table::KeyColumn;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name([u8; 16]);

        const _: () = assert!(size_of::<$name>() == 16);

        impl $name {
            /// The id with exactly these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

id! {
    /// A table, whatever its name is today.
    TableId
}
id! {
    /// A column of one table, whatever its name is today.
    ColumnId
}
id! {
    /// A schema operation, by its content.
    MigrationId
}

impl TableId {
    /// The id of the table that was born under `name` as the `birth`-th of that name (0 for the first).
    pub fn derive(app: &str, name: &str, birth: u32, key: &[KeyColumn]) -> TableId {
        let mut hash = Fields::new("table");
        hash.text(app).text(&name.to_ascii_lowercase()).bytes(&birth.to_le_bytes());
        for column in key {
            hash.text(&column.name.to_ascii_lowercase());
            hash.bytes(&[column.affinity as u8, column.collation as u8]);
        }
        TableId(hash.finish())
    }
}

impl ColumnId {
    /// The cell that holds the exact bytes of a key, where they differ from its canonical form.
    pub const KEY: ColumnId = ColumnId([0; 16]);

    /// The id of the column of `table` that was born under `name` as the `birth`-th of that name.
    pub fn derive(table: TableId, name: &str, birth: u32) -> ColumnId {
        let mut hash = Fields::new("column");
        hash.bytes(table.as_bytes()).text(&name.to_ascii_lowercase()).bytes(&birth.to_le_bytes());
        ColumnId(hash.finish())
    }

    /// The id under which the writes of a kind travel for this column; the column's own id is for plain values.
    pub fn of_kind(self, kind: Kind) -> ColumnId {
        let mut hash = Fields::new("kind");
        hash.bytes(self.as_bytes()).text(kind.as_str());
        ColumnId(hash.finish())
    }
}

impl MigrationId {
    /// The id of the operation with this encoding.
    pub fn of(encoded: &[u8]) -> MigrationId {
        let mut hash = Fields::new("migration");
        hash.bytes(encoded);
        MigrationId(hash.finish())
    }
}

/// Hashes fields with their lengths, so that no two lists of fields collide by concatenation.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(kind: &str) -> Fields {
        let mut fields = Fields(blake3::Hasher::new_derive_key("isle 2026-11 schema id v1"));
        fields.text(kind);
        fields
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn finish(self) -> [u8; 16] {
        let mut id = [0; 16];
        self.0.finalize_xof().fill(&mut id);
        id
    }
}
