//! Taking back a schema operation: its opposite, as an operation of its own. Nothing is ever taken out of the history.

use std::collections::BTreeMap;

use isle_schema::{ColumnId, IndexDefinition, Migration, MigrationId, Schema, Shape, Step, TableDefinition, TableId};

use rusqlite::Connection;

use crate::engine::Engine;
use crate::{Store, StoreError};

type Operations = BTreeMap<MigrationId, Migration>;

impl Store {
    /// Takes back a schema operation by its opposite, which travels; gives what that does, for people. A column that was added leaves the
    /// definition, and its values stay.
    ///
    /// # Errors
    /// [`StoreError::DefinitionRefused`] where there is no opposite, and those of [`Store::apply_schema`].
    pub fn undo_schema(&self, id: MigrationId) -> Result<Vec<String>, StoreError> {
        self.merge(|engine, now_ms| undo(engine, id, now_ms))
    }

    /// Whether taking an operation back makes a table anew with its rows.
    ///
    /// # Errors
    /// Those of [`Store::undo_schema`].
    pub fn undo_rewrites(&self, id: MigrationId) -> Result<bool, StoreError> {
        let (_, steps, _) = self.snapshot(|conn| opposites(conn, id))?;
        Ok(steps.iter().any(|step| matches!(step, Step::Redefine { .. })))
    }
}

fn undo(engine: &mut Engine, id: MigrationId, now_ms: u64) -> Result<Vec<String>, StoreError> {
    let (app, steps, done) = opposites(&engine.conn, id)?;
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let migration = Migration { app, parents: engine.own()?.heads, steps };
    let (_, body) = migration.encode()?;
    crate::track::apply_migration(engine, &body, now_ms, true)?;
    Ok(done)
}

/// The app, the steps that take an operation back, and what they do, for people.
fn opposites(conn: &Connection, id: MigrationId) -> Result<(String, Vec<Step>, Vec<String>), StoreError> {
    let operations = crate::alter::operations(conn)?;
    let fold = |skip: Option<MigrationId>| {
        Schema::fold(operations.iter().filter(|(other, _)| Some(**other) != skip).map(|(id, op)| (*id, op)))
    };
    let (now, before) = (fold(None), fold(Some(id)));
    let refused = |reasons: Vec<String>| StoreError::DefinitionRefused { reasons };
    let Some(operation) = operations.get(&id) else {
        return Err(refused(vec![format!("there is no schema operation {id} here: `isle schema history` lists them")]));
    };
    let undoing = Undoing { operations: &operations, now: &now, before: &before };
    let (mut steps, mut reasons) = (Vec::new(), Vec::new());
    for step in operation.steps.iter().rev() {
        match undoing.opposite(step)? {
            Ok(opposite) => steps.extend(opposite),
            Err(reason) => reasons.push(reason),
        }
    }
    if !reasons.is_empty() {
        return Err(refused(reasons));
    }
    let done = steps.iter().map(|step| crate::dump::describe(step, &now)).collect();
    Ok((operation.app.clone(), steps, done))
}

struct Undoing<'a> {
    operations: &'a Operations,
    /// The schema with the operation, and without it.
    now: &'a Schema,
    before: &'a Schema,
}

impl Undoing<'_> {
    /// The opposite of a step; nothing if another has come over it since. `Err` says why there is none.
    fn opposite(&self, step: &Step) -> Result<Result<Option<Step>, String>, StoreError> {
        let column = |schema: &Schema, table: &TableId, id: &ColumnId| {
            let columns = schema.tables.get(table).map(|table| table.columns.clone()).unwrap_or_default();
            columns.into_iter().find(|column| column.id == *id).map(|column| column.name)
        };
        let named = |schema: &Schema, table: &TableId| schema.tables.get(table).map(|table| table.name.clone());
        Ok(Ok(match step {
            Step::RenameColumn { table, column: id, name } => column(self.before, table, id)
                .filter(|old| old != name && column(self.now, table, id).as_ref() == Some(name))
                .map(|name| Step::RenameColumn { table: *table, column: *id, name }),
            Step::RenameTable { table, name } => named(self.before, table)
                .filter(|old| old != name && named(self.now, table).as_ref() == Some(name))
                .map(|name| Step::RenameTable { table: *table, name }),
            Step::AddColumn { table, column, .. } => {
                let there = self.now.tables.get(table).is_some_and(|known| !known.hidden.contains(&column.id));
                there.then_some(Step::HideColumn { table: *table, column: column.id, hidden: true })
            }
            Step::HideColumn { table, column, hidden } => {
                let is = self.now.tables.get(table).is_some_and(|known| known.hidden.contains(column));
                (is == *hidden).then_some(Step::HideColumn { table: *table, column: *column, hidden: !hidden })
            }
            Step::RenameDuplicates { table, column, renamed } => {
                let is = self.now.tables.get(table).is_some_and(|known| known.renamed.contains(column));
                let step = Step::RenameDuplicates { table: *table, column: *column, renamed: !renamed };
                (is == *renamed).then_some(step)
            }
            Step::CreateIndex { table, name, .. } | Step::DropIndex { table, name } => self.index(table, name),
            Step::PutObject(object) => Some(self.object(&object.name)),
            Step::DropObject { name } => Some(self.object(name)),
            Step::Redefine { table, shape } => {
                if self.now.tables.get(table).and_then(|known| known.shape.as_ref()) != Some(shape) {
                    return Ok(Ok(None));
                }
                let before = self.before.tables.get(table).and_then(|known| known.shape.clone());
                match (before, self.birth(table)) {
                    (Some(shape), _) => Some(Step::Redefine { table: *table, shape }),
                    (None, Some(birth)) => Some(Step::Redefine { table: *table, shape: born(birth, self.now)? }),
                    (None, None) => None,
                }
            }
            Step::SetVersion(version) => {
                let news = self.now.versions.contains(version) && !self.before.versions.contains(version);
                news.then(|| Step::DropVersion(version.clone()))
            }
            Step::DropVersion(version) => {
                (!self.now.versions.contains(version)).then(|| Step::SetVersion(version.clone()))
            }
            // What an app of that version may have written by now stays.
            Step::Requires(_) => None,
            Step::PutLocal(local) => match self.before.locals.get(&local.name.to_ascii_lowercase()) {
                Some(before) => Some(Step::PutLocal(before.clone())),
                None => return Ok(Err(format!("local table {} cannot be taken back", local.name))),
            },
            Step::CreateTable(definition) => {
                let name = &definition.table.name;
                return Ok(Err(format!(
                    "table {name} cannot be taken back; `isle untrack {name}` leaves it here alone"
                )));
            }
            Step::SetKind { table, column: id, kind } => {
                let name = column(self.now, table, id).unwrap_or_default();
                return Ok(Err(format!("column {name} merges as a {kind}; a kind cannot be taken back")));
            }
            _ => return Ok(Err(format!("\"{}\" cannot be taken back", crate::dump::describe(step, self.now)))),
        }))
    }

    fn object(&self, name: &str) -> Step {
        match self.before.objects.get(&name.to_ascii_lowercase()) {
            Some(Some(object)) => Step::PutObject(object.clone()),
            _ => Step::DropObject { name: name.to_owned() },
        }
    }

    fn index(&self, table: &TableId, name: &str) -> Option<Step> {
        let of = |schema: &Schema| schema.tables.get(table).and_then(|known| known.indexes.get(name).cloned());
        let (now, before) = (of(self.now), of(self.before));
        if now == before {
            return None;
        }
        let (table, name) = (*table, name.to_owned());
        match before {
            Some(Some(index)) => Some(Step::CreateIndex { table, name, index }),
            Some(None) => Some(Step::DropIndex { table, name }),
            None => match self.index_of_birth(&table, &name) {
                Some(index) => Some(Step::CreateIndex { table, name, index }),
                None => Some(Step::DropIndex { table, name }),
            },
        }
    }

    /// The definition that a table was born with.
    fn birth(&self, table: &TableId) -> Option<&TableDefinition> {
        self.operations.values().flat_map(Migration::tables).find(|definition| definition.table.id == *table)
    }

    fn index_of_birth(&self, table: &TableId, name: &str) -> Option<IndexDefinition> {
        let birth = self.birth(table)?;
        let names = |sql: &&String| {
            let words = crate::tracked::words(sql);
            words.iter().any(|word| word.eq_ignore_ascii_case(name))
        };
        let sql = birth.index_sql.iter().find(names)?.clone();
        Some(IndexDefinition { sql, table_name: birth.table.name.clone(), columns: birth.table.columns.clone() })
    }
}

/// The shape that a table was born with.
fn born(birth: &TableDefinition, schema: &Schema) -> Result<Shape, StoreError> {
    let scratch = crate::define::scratch()?;
    scratch.execute_batch(&birth.create_sql).map_err(|source| StoreError::Definition { source })?;
    let parents = crate::define::parents(&scratch, (&birth.table.name, birth.table.id), schema)?;
    Ok(Shape { create_sql: birth.create_sql.clone(), columns: birth.table.columns.clone(), parents })
}
