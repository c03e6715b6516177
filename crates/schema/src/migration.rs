//! Immutable schema operations, addressed by their content.

use serde::{Deserialize, Serialize};

use crate::{Column, ColumnId, Kind, MigrationId, Table, TableId, Version};

const MAGIC: &[u8; 5] = b"ISLM\x01";

/// A change of the replicated schema. Its id is the hash of its encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// The app whose schema this is; part of every table id.
    pub app: String,
    /// The operations that the author's file had applied and that no other operation followed.
    pub parents: Vec<MigrationId>,
    /// What to do, in order.
    #[serde(deserialize_with = "steps")]
    pub steps: Vec<Step>,
}

/// The most steps of one operation.
pub const STEPS_MAX: usize = 8_192;

/// Reads steps, and no more than an operation may have: each takes far more memory than bytes.
fn steps<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
    struct Bounded;
    impl<'de> serde::de::Visitor<'de> for Bounded {
        type Value = Vec<Step>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {STEPS_MAX} steps")
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut found: A) -> Result<Vec<Step>, A::Error> {
            let mut steps = Vec::new();
            while let Some(step) = found.next_element()? {
                if steps.len() == STEPS_MAX {
                    return Err(serde::de::Error::invalid_length(STEPS_MAX + 1, &self));
                }
                steps.push(step);
            }
            Ok(steps)
        }
    }
    deserializer.deserialize_seq(Bounded)
}

/// One step of a migration. Variants are only ever appended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// A table joins the replicated schema: it is created where it does not exist, adopted where it does.
    CreateTable(TableDefinition),
    /// A table gets another column. Rows that are there have its default, as if nobody had ever written it.
    AddColumn {
        /// The table.
        table: TableId,
        /// The column, under its birth name.
        column: Column,
        /// How often a column of this name was born in the table before.
        birth: u32,
        /// Its definition as `ALTER TABLE … ADD COLUMN` takes it.
        definition: String,
    },
    /// A column is called otherwise from now on.
    RenameColumn {
        /// The table.
        table: TableId,
        /// The column.
        column: ColumnId,
        /// Its new name.
        name: String,
    },
    /// A table is called otherwise from now on.
    RenameTable {
        /// The table.
        table: TableId,
        /// Its new name.
        name: String,
    },
    /// An index on a table, or another one under a known name.
    CreateIndex {
        /// The table.
        table: TableId,
        /// The index's name.
        name: String,
        /// Its definition.
        index: IndexDefinition,
    },
    /// An index goes.
    DropIndex {
        /// The table.
        table: TableId,
        /// The index's name.
        name: String,
    },
    /// A view, a trigger or a full-text table, or another one under a known name.
    PutObject(Object),
    /// A view, a trigger or a full-text table goes.
    DropObject {
        /// Its name.
        name: String,
    },
    /// A column leaves the definition, or returns. Its values stay and go on merging.
    HideColumn {
        /// The table.
        table: TableId,
        /// The column.
        column: ColumnId,
        /// Whether it leaves.
        hidden: bool,
    },
    /// Concurrent writes of a column merge by a kind from now on; what it holds is what they start from.
    SetKind {
        /// The table.
        table: TableId,
        /// The column.
        column: ColumnId,
        /// The kind.
        kind: Kind,
    },
    /// A table has another definition from now on, with the same key.
    Redefine {
        /// The table.
        table: TableId,
        /// Its definition.
        shape: Shape,
    },
    /// Columns that are written together: a write of one counts as a write of all.
    SetGroup {
        /// The table.
        table: TableId,
        /// The columns, rising by id.
        columns: Vec<ColumnId>,
    },
    /// A table of every file whose rows stay where they are written, or another one under a known name.
    PutLocal(LocalDefinition),
    /// Whether rows that clash in a UNIQUE index show with a number behind their value of this column; without, they are hidden.
    RenameDuplicates {
        /// The table.
        table: TableId,
        /// The column.
        column: ColumnId,
        /// Whether they do.
        renamed: bool,
    },
    /// With this operation the schema is that of a version of the app.
    SetVersion(Version),
    /// The schema is not that of a version after all.
    DropVersion(Version),
    /// Apps of earlier versions cannot live with what this operation leaves: they keep the schema that they have.
    Requires(Version),
}

/// A table whose definition travels and whose rows do not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDefinition {
    /// Its name.
    pub name: String,
    /// The author's `CREATE TABLE` statement.
    pub create_sql: String,
    /// The author's `CREATE INDEX` statements for it.
    pub index_sql: Vec<String>,
    /// The column that says when a row expires.
    pub expires: Option<String>,
}

/// An index that came after its table's birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDefinition {
    /// The author's `CREATE INDEX` statement.
    pub sql: String,
    /// What the statement calls the table.
    pub table_name: String,
    /// The columns outside the key, by their names in the statement.
    pub columns: Vec<Column>,
}

/// A table's definition at some time after its birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The author's `CREATE TABLE` statement.
    pub create_sql: String,
    /// Its replicated columns outside the key, by their names in the statement. Columns that it does not name stay as they are.
    pub columns: Vec<Column>,
    /// The tables that its foreign keys name.
    pub parents: Vec<Parent>,
}

/// A table that a definition refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its id.
    pub table: TableId,
    /// Its name in the definition.
    pub name: String,
    /// The columns outside its key that are referred to, by their names in the definition.
    pub columns: Vec<Column>,
}

/// What kind of thing hangs on tables and holds no rows of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ObjectKind {
    /// An FTS5 table over the rows of a table.
    FullText,
    /// A view.
    View,
    /// A trigger.
    Trigger,
}

impl ObjectKind {
    /// What people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectKind::FullText => "full-text table",
            ObjectKind::View => "view",
            ObjectKind::Trigger => "trigger",
        }
    }
}

/// A view, a trigger or a full-text table with the SQL that creates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// The author's `CREATE` statement.
    pub sql: String,
}

/// A table with the SQL that creates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDefinition {
    /// The model that decides identity and merge.
    pub table: Table,
    /// The author's `CREATE TABLE` statement.
    pub create_sql: String,
    /// The author's `CREATE INDEX` statements for the table.
    pub index_sql: Vec<String>,
}

/// Why bytes are not a schema operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// The bytes do not start like an operation of a known format.
    #[error("not a schema operation of format 1: update isle if another device runs a newer version")]
    Format,
    /// The operation has a format, or steps, that this isle does not know.
    #[error("schema operation {id} was made by a newer isle: update isle here")]
    Newer {
        /// The operation.
        id: MigrationId,
    },
    /// The encoding is broken.
    #[error("schema operation cannot be decoded: fetch it again")]
    Decode(#[source] postcard::Error),
    /// The operation cannot be encoded.
    #[error("schema operation cannot be encoded")]
    Encode(#[source] postcard::Error),
    /// The encoding is not the one that the content has.
    #[error("schema operation {id} is not in its one valid encoding: it was altered")]
    NotCanonical {
        /// The hash of the bytes received.
        id: MigrationId,
    },
    /// A table carries an id that does not follow from its name and key.
    #[error("schema operation {id}: table {table:?} carries a wrong id: it was altered or made by another program")]
    WrongId {
        /// The operation.
        id: MigrationId,
        /// The table's name.
        table: String,
    },
    /// A column carries an id that does not follow from its name and its table.
    #[error("schema operation {id}: column {column:?} carries a wrong id: it was altered or made by another program")]
    WrongColumnId {
        /// The operation.
        id: MigrationId,
        /// The column's name.
        column: String,
    },
    /// A table without a key cannot be replicated.
    #[error("schema operation {id}: table {table:?} has no key")]
    NoKey {
        /// The operation.
        id: MigrationId,
        /// The table's name.
        table: String,
    },
}

impl Migration {
    /// The operation's id and its one encoding.
    ///
    /// # Errors
    /// [`MigrationError::Encode`] if the content cannot be serialised.
    pub fn encode(&self) -> Result<(MigrationId, Vec<u8>), MigrationError> {
        let bytes = postcard::to_extend(self, MAGIC.to_vec()).map_err(MigrationError::Encode)?;
        Ok((MigrationId::of(&bytes), bytes))
    }

    /// Reads an operation. Memory stays within a small multiple of the input's length.
    ///
    /// # Errors
    /// Any other variant of [`MigrationError`]; nothing about the input is trusted.
    pub fn decode(bytes: &[u8]) -> Result<(MigrationId, Migration), MigrationError> {
        let newer = || MigrationError::Newer { id: MigrationId::of(bytes) };
        let Some(body) = bytes.strip_prefix(MAGIC) else {
            let (name, format) = MAGIC.split_at(4);
            let is_newer = bytes.strip_prefix(name).and_then(|rest| rest.first()).is_some_and(|n| *n > format[0]);
            return Err(if is_newer { newer() } else { MigrationError::Format });
        };
        let migration: Migration = postcard::from_bytes(body).map_err(|source| match source {
            // A step, or a kind of something, that is not known here, or more of them than are taken here.
            postcard::Error::SerdeDeCustom => newer(),
            source => MigrationError::Decode(source),
        })?;
        let (id, canonical) = migration.encode()?;
        if canonical != bytes {
            return Err(MigrationError::NotCanonical { id: MigrationId::of(bytes) });
        }
        for definition in migration.tables() {
            let table = definition.table.name.clone();
            if definition.table.key.is_empty() {
                return Err(MigrationError::NoKey { id, table });
            }
            if !definition.table.has_derived_ids(&migration.app) {
                return Err(MigrationError::WrongId { id, table });
            }
        }
        for step in &migration.steps {
            if let Step::AddColumn { table, column, birth, .. } = step
                && column.id != ColumnId::derive(*table, &column.name, *birth)
            {
                return Err(MigrationError::WrongColumnId { id, column: column.name.clone() });
            }
        }
        Ok((id, migration))
    }

    /// The version of the app that the operation asks for, if it does.
    pub fn requires(&self) -> Option<&Version> {
        let asked = self.steps.iter().filter_map(|step| match step {
            Step::Requires(version) => Some(version),
            _ => None,
        });
        asked.max()
    }

    /// The tables that the operation declares.
    pub fn tables(&self) -> impl Iterator<Item = &TableDefinition> {
        self.steps.iter().filter_map(|step| match step {
            Step::CreateTable(definition) => Some(definition),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Affinity, Collation, KeyColumn};
    use proptest::prelude::*;

    #[test]
    fn an_operation_of_very_many_steps_is_refused_while_it_is_read() {
        let of = |count: usize| {
            let steps = vec![Step::DropObject { name: String::new() }; count];
            Migration { app: "music".into(), parents: vec![], steps }.encode().expect("it can be written").1
        };
        assert!(Migration::decode(&of(STEPS_MAX)).is_ok());
        assert!(matches!(Migration::decode(&of(STEPS_MAX + 1)), Err(MigrationError::Newer { .. })));
    }

    #[test]
    fn a_newer_format_and_an_unknown_step_are_told_from_garbage() {
        let (_, bytes) = Migration { app: "music".into(), parents: vec![], steps: vec![] }.encode().expect("encodes");
        // The last byte is the number of steps.
        let unknown = [&bytes[..bytes.len() - 1], &[1, 99]].concat();
        assert!(
            matches!(Migration::decode(&unknown), Err(MigrationError::Newer { id }) if id == MigrationId::of(&unknown))
        );
        assert!(matches!(Migration::decode(b"ISLM\x02anything"), Err(MigrationError::Newer { .. })));
        for garbage in [&b"ISLM"[..], b"ISLM\x00", b"ISLX\x02", b"", &bytes[..bytes.len() - 1]] {
            let error = Migration::decode(garbage).expect_err("it is garbage");
            assert!(matches!(error, MigrationError::Format | MigrationError::Decode(_)), "{garbage:?}: {error}");
        }
    }

    fn example() -> Migration {
        let key = vec![KeyColumn { name: "Id".into(), affinity: Affinity::Integer, collation: Collation::Binary }];
        let table = Table::new("music", "Artist", key, &["Name"], true);
        let create_sql = "CREATE TABLE Artist(Id INTEGER PRIMARY KEY, Name TEXT)".to_owned();
        let step = Step::CreateTable(TableDefinition { table, create_sql, index_sql: vec![] });
        Migration { app: "music".into(), parents: vec![], steps: vec![step] }
    }

    #[test]
    fn ids_and_encoding_are_pinned() {
        let (id, bytes) = example().encode().expect("encodes");
        let table = &example().tables().next().expect("one table").table.clone();
        assert_eq!(table.id.to_string(), "6d069ed574ba2b1e3b65194bf139c3af");
        assert_eq!(table.columns[0].id.to_string(), "1b98a7b40177fbdac952ea05bfaec2a9");
        assert_eq!(id.to_string(), "4f5bcb5c8b5012e0fa7afbff904b3f1a");
        assert_eq!(Migration::decode(&bytes).expect("decodes"), (id, example()));
    }

    #[test]
    fn names_are_owned_without_regard_to_case_but_keys_tell_tables_apart() {
        let key = |affinity| vec![KeyColumn { name: "id".into(), affinity, collation: Collation::Binary }];
        let id = |name, affinity| Table::new("app", name, key(affinity), &[], false).id;
        assert_eq!(id("Notes", Affinity::Text), id("notes", Affinity::Text));
        assert_ne!(id("notes", Affinity::Text), id("notes", Affinity::Integer));
    }

    #[test]
    fn a_table_with_a_forged_id_is_refused() {
        let mut forged = example();
        let Step::CreateTable(definition) = &mut forged.steps[0] else { panic!("one table") };
        definition.table.columns[0].id = crate::ColumnId::from_bytes([7; 16]);
        let (_, bytes) = forged.encode().expect("encodes");
        assert!(matches!(Migration::decode(&bytes), Err(MigrationError::WrongId { .. })));
    }

    proptest! {
        #[test]
        fn garbage_and_bit_flips_never_decode_to_another_operation(flip in 0usize..4000, noise: Vec<u8>) {
            let (id, mut bytes) = example().encode().expect("encodes");
            let at = flip % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            if let Ok((other, _)) = Migration::decode(&bytes) {
                prop_assert_ne!(other, id);
            }
            prop_assert!(Migration::decode(&noise).is_err());
        }
    }

    #[test]
    fn affinity_follows_the_declared_type() {
        for (declared, affinity) in [
            ("INTEGER", Affinity::Integer),
            ("NVARCHAR(20)", Affinity::Text),
            ("", Affinity::Blob),
            ("DOUBLE", Affinity::Real),
            ("NUMERIC(10,2)", Affinity::Numeric),
            ("FLOATING POINT", Affinity::Integer),
            ("BOOLEAN", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of_declared_type(declared, false), affinity, "{declared}");
        }
        assert_eq!(Affinity::of_declared_type("ANY", true), Affinity::Blob);
        assert_eq!(Affinity::of_declared_type("ANY", false), Affinity::Numeric);
    }
}
