//! Declared schemas on a replica.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use isle_schema::{Kind, MigrationId, SchemaConflict, Version};
use isle_store::{Lint, Parked, SchemaOperation, SchemaPlan, SchemaState};
use serde::Serialize;

use crate::definition::Part;
use crate::{BackedUp, Backup, Definition, Error, Replica, Steps};

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
    /// The version of the app that it is of.
    pub version: Option<Version>,
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

/// A definition without what it says of its version.
fn without_version(sql: &str) -> String {
    let of_version = |line: &&str| {
        line.trim_start().strip_prefix("--").is_some_and(|rest| rest.trim_start().starts_with("@version"))
    };
    sql.lines().filter(|line| !of_version(line)).map(|line| format!("{line}\n")).collect()
}

/// By what it is noted that a version is being reached.
fn begun(version: &Version) -> String {
    format!("begin {version}")
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

    /// As [`Replica::plan_schema`], and tries it on the rows that are here: what they do not fit is refused. Takes as long as making the
    /// changes, keeps writers out meanwhile, and changes nothing. Statements of numbered files that change rows are not run.
    ///
    /// # Errors
    /// [`isle_store::StoreError::DefinitionRefused`] with what cannot be done.
    pub fn try_schema(&self, definition: impl Into<Definition>) -> Result<SchemaPlan, Error> {
        Ok(self.inner.store.try_schema(definition.into().sql())?)
    }

    /// Makes the tables what SQL says: here at once, and on every other replica when it syncs. Tables that the definition does not name
    /// stay as they are. New tables are tracked. An app can call it at each start: a definition that is met already changes
    /// nothing.
    ///
    /// # Errors
    /// [`isle_store::StoreError::DefinitionRefused`] with every change that cannot be made; then nothing was changed.
    pub fn apply_schema(&self, definition: impl Into<Definition>) -> Result<SchemaPlan, Error> {
        self.bring(&definition.into(), &Steps::new())
    }

    /// Applies a definition, version by version where it has several, with the steps of the versions that are reached.
    fn bring(&self, definition: &Definition, steps: &Steps) -> Result<SchemaPlan, Error> {
        if let Some(bad) = steps.bad() {
            let reasons = vec![format!("{bad:?} is no version: steps have versions such as 1.1.0")];
            return Err(isle_store::StoreError::DefinitionRefused { reasons }.into());
        }
        let whole = self.inner.store.plan_schema(definition.sql())?;
        if whole.is_older() {
            return Ok(whole);
        }
        if !whole.refused.is_empty() {
            return Err(isle_store::StoreError::DefinitionRefused { reasons: whole.refused }.into());
        }
        let store = &self.inner.store;
        if whole.changes.is_empty() && store.left_out()?.is_empty() && store.dropped()?.is_empty() {
            return Ok(whole);
        }
        let (first, last) = whole.versions;
        let (mut done, mut from) = (SchemaPlan::default(), first.clone());
        let whole_of =
            |version: &Version| Part { version: version.clone(), sql: definition.sql().to_owned(), data: Vec::new() };
        let last = last.as_ref().map(whole_of);
        let news = |version: &Version| from.as_ref().is_none_or(|from| from < version);
        let mut parts: Vec<Part> = definition.parts().iter().filter(|part| news(&part.version)).cloned().collect();
        // Of tables that no definition has given a version yet, the first version that they can become is the one to begin with.
        while first.is_none() && parts.len() > 1 && !self.inner.store.plan_schema(&parts[0].sql)?.refused.is_empty() {
            parts.remove(0);
        }
        if first.is_none()
            && let Some(part) = parts.first_mut()
            && self.inner.store.plan_schema(&without_version(&part.sql))?.changes.is_empty()
        {
            // The tables stood so before isle came: what belongs to that version was done long ago. Unless it was begun here.
            if !self.is_begun(&part.version)? {
                part.data.clear();
            }
        }
        let parts = if parts.is_empty() { last.into_iter().collect() } else { parts };
        for Part { version, sql, data } in &parts {
            let has_steps = steps.between(from.as_ref(), version).next().is_some() || !data.is_empty();
            if from.as_ref() != Some(version) && has_steps {
                if !data.is_empty() {
                    self.inner.store.write(|inner| inner.note_done(&begun(version)))?;
                }
                let structure = self.inner.store.apply_schema(&without_version(sql))?;
                done.changes.extend(structure.changes);
                self.change_rows(version, data)?;
                self.run_steps(steps, from.as_ref(), version)?;
            }
            let plan = self.inner.store.apply_schema(&format!("{}-- @version {version}\n", without_version(sql)))?;
            done.changes.extend(plan.changes);
            from = Some(version.clone());
        }
        if parts.is_empty() {
            done = self.inner.store.apply_schema(definition.sql())?;
        }
        done.versions = (first, from);
        Ok(done)
    }

    /// Whether this file has begun to reach a version, and may have been cut off.
    fn is_begun(&self, version: &Version) -> Result<bool, Error> {
        self.inner.store.write(|inner| inner.is_done(&begun(version)).map_err(Error::from))
    }

    /// Runs what the files of a version do to rows, in one transaction that notes it as done.
    fn change_rows(&self, version: &Version, data: &[String]) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let name = format!("data {version}");
        // A device that brings the schema to a version before it has synced does not write over what others have made of these rows since.
        self.inner.store.write_early(|inner| {
            if inner.is_done(&name)? {
                return Ok(());
            }
            let tx = crate::Transaction::new(inner);
            data.iter().try_for_each(|statement| tx.execute_batch(statement))?;
            inner.note_done(&name).map_err(Error::from)
        })?;
        tracing::info!(%version, statements = data.len(), "the rows were changed as the schema's version says");
        Ok(())
    }

    /// Runs the steps of versions, each in a transaction that notes it as done.
    fn run_steps(&self, steps: &Steps, from: Option<&Version>, to: &Version) -> Result<(), Error> {
        for (version, step) in steps.between(from, to) {
            let name = format!("step {version}");
            self.inner.store.write(|inner| {
                if inner.is_done(&name)? {
                    return Ok(());
                }
                step(&crate::Transaction::new(inner))?;
                inner.note_done(&name).map_err(Error::from)
            })?;
            tracing::info!(%version, "a step of the schema's version was run");
        }
        Ok(())
    }

    /// The version of the app that the schema is of; `None` if no definition has said one.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_version(&self) -> Result<Option<Version>, Error> {
        Ok(self.inner.store.schema()?.0.version().cloned())
    }

    /// As [`Replica::apply_schema`]; where a table is made anew with its rows, the database is copied into the folder first. An app calls it
    /// at each start.
    ///
    /// # Errors
    /// As [`Replica::apply_schema`], and [`isle_store::StoreError::Backup`]; then nothing was changed.
    pub fn sync_schema(&self, definition: impl Into<Definition>, backups: &Path) -> Result<SchemaReport, Error> {
        self.migrate(definition, backups, &Steps::new())
    }

    /// As [`Replica::sync_schema`], with what new versions of the app do to the data. A definition of an earlier version than the schema's changes
    /// nothing: another device, or this one, runs a newer app.
    ///
    /// # Errors
    /// As [`Replica::sync_schema`], and what a step gives: then the schema is changed, and the version is not reached. The step runs again with
    /// the next call.
    pub fn migrate(
        &self,
        definition: impl Into<Definition>,
        backups: &Path,
        steps: &Steps,
    ) -> Result<SchemaReport, Error> {
        let definition = definition.into();
        let rewrites = self.plan_schema(definition.clone())?.rewrites();
        let backup = if rewrites { self.back_up_first(backups)? } else { None };
        match self.bring(&definition, steps) {
            Ok(plan) => Ok(SchemaReport { plan, backup: backup.map(|backup| backup.path) }),
            Err(error) => {
                // Nothing was changed: a copy of what still stands is of no use.
                let refused = matches!(error, Error::Store(isle_store::StoreError::DefinitionRefused { .. }));
                if let Some(backup) = backup.filter(|_| refused && definition.parts().len() < 2) {
                    backup.remove()?;
                }
                Err(error)
            }
        }
    }

    /// Copies the database before its tables are made anew; gives the copy.
    fn back_up_first(&self, backups: &Path) -> Result<Option<Backup>, Error> {
        match self.back_up(backups, "schema", None)? {
            BackedUp::Done(backup) => Ok(Some(backup)),
            BackedUp::SkippedEmpty => Ok(None),
        }
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
    /// leaves the definition, and its values stay. Where that makes a table anew with its rows, the database is copied into the folder
    /// first, if one is given; the second thing is the copy.
    ///
    /// # Errors
    /// [`isle_store::StoreError::DefinitionRefused`] where there is no opposite: of new tables and of kinds.
    /// [`isle_store::StoreError::Backup`]; then nothing was changed.
    pub fn undo_schema(
        &self,
        id: MigrationId,
        backups: Option<&Path>,
    ) -> Result<(Vec<String>, Option<PathBuf>), Error> {
        let backups = backups.filter(|_| self.inner.store.undo_rewrites(id).unwrap_or(false));
        let backup = backups.map(|backups| self.back_up_first(backups)).transpose()?.flatten();
        Ok((self.inner.store.undo_schema(id)?, backup.map(|backup| backup.path)))
    }

    /// What others wrote into tables and columns that are not here yet, because a schema operation cannot be applied here
    /// ([`SchemaState::pending`]). It is kept, passed on, and merged as soon as the operation is applied; a sync tries that again.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn parked(&self) -> Result<Vec<Parked>, Error> {
        Ok(self.inner.store.parked()?)
    }

    /// Gives up a schema operation that waits ([`SchemaState::pending`]) and those that follow it: they are tried no more, and what came for
    /// tables and columns that they alone would make is dropped here, for good. For one that somebody has made up. Gives how many that were.
    ///
    /// # Errors
    /// [`isle_store::StoreError::Statement`] for one that does not wait.
    pub fn forget_operation(&self, id: MigrationId) -> Result<u64, Error> {
        Ok(self.inner.store.forget_operation(id)?)
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
        let version = schema.version().cloned();
        Ok(SchemaInfo { tables, objects: objects.collect(), local, left_out, operations, version })
    }
}
