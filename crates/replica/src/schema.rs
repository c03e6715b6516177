//! Declared schemas on a replica.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use isle_schema::{Kind, MigrationId, SchemaConflict};
use isle_store::{Lint, SchemaOperation, SchemaPlan, SchemaState};
use serde::Serialize;

use crate::{Definition, Error, Replica};

/// The group's schema, as far as its operations are here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaInfo {
    /// Its tables, by name.
    pub tables: Vec<SchemaTable>,
    /// Its views, triggers and full-text tables, by name.
    pub objects: Vec<SchemaObject>,
    /// Its tables whose rows stay on each device, by name.
    pub local: Vec<String>,
    /// What of it is not here, and why.
    pub left_out: Vec<String>,
    /// How many operations made it.
    pub operations: usize,
}

/// A view, a trigger or a full-text table of the group's schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaObject {
    /// `view`, `trigger` or `full-text table`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The statement that makes it.
    pub sql: String,
}

/// A table of the group's schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaTable {
    /// Its name.
    pub name: String,
    /// The columns of its key.
    pub key: Vec<String>,
    /// Its other columns.
    pub columns: Vec<String>,
    /// Columns that left the definition; their values stay.
    pub hidden: Vec<String>,
    /// Columns of a kind.
    pub kinds: BTreeMap<String, Kind>,
}

/// What [`Replica::sync_schema`] did.
#[derive(Debug, Clone)]
pub struct SchemaReport {
    /// The changes.
    pub plan: SchemaPlan,
    /// The copy of the database as it was, where a table was made anew.
    pub backup: Option<PathBuf>,
}

impl Replica {
    /// What it takes to make the tables what SQL says: `CREATE TABLE` and `CREATE INDEX` statements for all of them, with
    /// comments such as `-- @rename table.old -> new` and `-- @merge counter` for what SQL has no words for
    /// ([`isle_store::Store::plan_schema`] lists them). Changes nothing.
    ///
    /// # Errors
    /// [`isle_store::StoreError::Definition`] when SQLite does not take the SQL.
    pub fn plan_schema(&self, definition: impl Into<Definition>) -> Result<SchemaPlan, Error> {
        Ok(self.inner.store.plan_schema(definition.into().sql())?)
    }

    /// Makes the tables what SQL says: here at once, and on every other replica when it syncs. Tables that the definition does not name
    /// stay as they are. New tables are tracked. An app can call it at each start: a definition that is met already changes
    /// nothing.
    ///
    /// # Errors
    /// [`isle_store::StoreError::DefinitionRefused`] with every change that cannot be made; then nothing was changed.
    pub fn apply_schema(&self, definition: impl Into<Definition>) -> Result<SchemaPlan, Error> {
        Ok(self.inner.store.apply_schema(definition.into().sql())?)
    }

    /// As [`Replica::apply_schema`]; where a table is made anew with its rows, the database is copied into the folder first. An app calls it
    /// at each start.
    ///
    /// # Errors
    /// As [`Replica::apply_schema`], and [`isle_store::StoreError::Backup`]; then nothing was changed.
    pub fn sync_schema(&self, definition: impl Into<Definition>, backups: &Path) -> Result<SchemaReport, Error> {
        let definition = definition.into();
        let mut backup = None;
        if self.plan_schema(definition.clone())?.rewrites() {
            let failed = |source| isle_store::StoreError::Backup { path: backups.to_owned(), source };
            std::fs::create_dir_all(backups).map_err(failed)?;
            let path = backups.join(self.backup_name());
            self.inner.store.back_up(&path)?;
            backup = Some(path);
        }
        Ok(SchemaReport { plan: self.apply_schema(definition)?, backup })
    }

    /// What a backup of now is called: the file's name, the milliseconds since 1970, and something that no other has.
    fn backup_name(&self) -> String {
        let stem =
            self.inner.path.file_stem().map_or_else(|| "isle".into(), |stem| stem.to_string_lossy().into_owned());
        let random: String = self.inner.runtime.random()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{stem}-{}-{random}.db", self.inner.runtime.now_ms())
    }

    /// The tables of the group as they stand in this file, with their indexes, views, triggers and full-text tables: a definition that
    /// this file meets, as SQL.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn dump_schema(&self) -> Result<String, Error> {
        Ok(self.inner.store.dump_schema()?)
    }

    /// The same as data.
    ///
    /// # Errors
    /// [`isle_store::StoreError::Undescribed`] for a table with CHECKs, which SQLite does not tell apart.
    pub fn dump_schema_document(&self) -> Result<isle_schema::Document, Error> {
        Ok(self.inner.store.dump_schema_document()?)
    }

    /// The operations that made the group's schema, in canonical order: the same on every replica that has them.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_history(&self) -> Result<Vec<SchemaOperation>, Error> {
        Ok(self.inner.store.schema_history()?)
    }

    /// How the file stands to the schema of its group: what was changed past isle, what is left out, and which devices are behind.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_state(&self) -> Result<SchemaState, Error> {
        Ok(self.inner.store.schema_state()?)
    }

    /// Makes what the file has and the schema has not part of the schema: columns and indexes that the app, or somebody with another
    /// client, made by hand. Gives what that was.
    ///
    /// # Errors
    /// Those of [`Replica::apply_schema`].
    pub fn adopt_schema(&self) -> Result<SchemaPlan, Error> {
        Ok(self.inner.store.adopt_schema()?)
    }

    /// Takes back an operation of the schema by its opposite, which travels like any other; gives what that does. A column that was added
    /// leaves the definition, and its values stay.
    ///
    /// # Errors
    /// [`isle_store::StoreError::DefinitionRefused`] where there is no opposite: of new tables and of kinds.
    pub fn undo_schema(&self, id: MigrationId) -> Result<Vec<String>, Error> {
        Ok(self.inner.store.undo_schema(id)?)
    }

    /// What of schema operations that were made at once does not stand: what lost, and what stands instead.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_conflicts(&self) -> Result<Vec<(SchemaConflict, String, String)>, Error> {
        Ok(self.inner.store.schema_conflicts()?)
    }

    /// What a definition may do that its author does not expect when several devices write.
    ///
    /// # Errors
    /// [`isle_store::StoreError::Definition`] when SQLite does not take it.
    pub fn lint_schema(definition: impl Into<Definition>) -> Result<Vec<Lint>, Error> {
        Ok(isle_store::lint_schema(definition.into().sql())?)
    }

    /// The tables of the group as the schema operations that are here leave them, and how many operations those are.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema(&self) -> Result<SchemaInfo, Error> {
        let (schema, operations) = self.inner.store.schema()?;
        let name_of = |state: &isle_schema::TableState, id: &isle_schema::ColumnId| {
            state.columns.iter().find(|column| column.id == *id).map(|column| column.name.clone())
        };
        let table = |state: &isle_schema::TableState| {
            let (hidden, shown): (Vec<_>, Vec<_>) =
                state.columns.iter().partition(|column| state.hidden.contains(&column.id));
            let names = |columns: Vec<&isle_schema::Column>| columns.iter().map(|column| column.name.clone()).collect();
            SchemaTable {
                name: state.name.clone(),
                key: state.key.clone(),
                columns: names(shown),
                hidden: names(hidden),
                kinds: state.kinds.iter().filter_map(|(id, kind)| Some((name_of(state, id)?, *kind))).collect(),
            }
        };
        let mut tables: Vec<SchemaTable> = schema.tables.values().map(table).collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        let objects = schema.objects.values().flatten().map(|object| SchemaObject {
            kind: object.kind.as_str(),
            name: object.name.clone(),
            sql: object.sql.clone(),
        });
        let local = schema.locals.values().map(|local| local.name.clone()).collect();
        let left_out = self.inner.store.left_out()?;
        Ok(SchemaInfo { tables, objects: objects.collect(), local, left_out, operations })
    }
}
