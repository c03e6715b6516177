//! A table that is in use, and the definition that it should have.

use isle_schema::{Affinity, Column, ColumnId, IndexDefinition, Schema, Shape, Step, TableDefinition};
use rusqlite::Connection;

use super::{
    ForeignKey, SchemaPlan, clauses, column_sql, columns_after, foreign_keys, parents, probe, scratch,
    unique_constraints,
};
use crate::StoreError;
use crate::directives::Rename;
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::required::Fill;
use crate::tracked::{self, PhysicalColumn, Tracked};

/// A table that is here, and what it should be.
pub(super) struct Altered<'a> {
    pub(super) conn: &'a Connection,
    pub(super) wanted: &'a Connection,
    pub(super) tracked: &'a Tracked,
    pub(super) definition: &'a TableDefinition,
    pub(super) schema: &'a Schema,
    /// Columns that the definition says are gone.
    pub(super) gone: Vec<&'a str>,
    pub(super) renames: &'a [Rename],
}

impl Altered<'_> {
    pub(super) fn plan(&self, renames: &[Rename], plan: &mut SchemaPlan) -> Result<(), StoreError> {
        let (id, here) = (self.tracked.table.id, self.tracked.table.name.clone());
        let there = &self.definition.table.name;
        // The table as it stands, to try the steps on.
        let trial = scratch()?;
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        let created = crate::clocks::one::<String>(self.conn, sql, [&here])?.unwrap_or_default();
        trial.execute_batch(&created).doing("try the changes")?;
        let attempt = |sql: &str| trial.execute_batch(sql).doing("try the changes");
        if !here.eq_ignore_ascii_case(there) {
            attempt(&format!("ALTER TABLE {} RENAME TO {}", quoted(&here), quoted(there)))?;
            let step = Step::RenameTable { table: id, name: there.clone() };
            plan.add("rename table", &here, format!("to {there}"), step);
        }
        for column in &self.tracked.table.columns {
            let wanted = renames.iter().find(|(table, old, _)| {
                table.eq_ignore_ascii_case(there)
                    && old.as_ref().is_some_and(|old| old.eq_ignore_ascii_case(&column.name))
            });
            let Some((_, _, new)) = wanted else { continue };
            // A rename that was made already may stay in the definition.
            if self.tracked.table.columns.iter().any(|known| known.name.eq_ignore_ascii_case(new)) {
                continue;
            }
            let (table, old) = (quoted(there), quoted(&column.name));
            attempt(&format!("ALTER TABLE {table} RENAME COLUMN {old} TO {}", quoted(new)))?;
            let step = Step::RenameColumn { table: id, column: column.id, name: new.clone() };
            plan.add("rename column", &here, format!("{} to {new}", column.name), step);
        }
        let now = tracked::columns(&trial, there)?;
        for column in tracked::columns(self.wanted, there)?.into_iter().filter(|column| column.hidden == 0) {
            if now.iter().any(|known| known.name.eq_ignore_ascii_case(&column.name))
                && self.knows(&column.name, renames)
            {
                continue;
            }
            self.add(&trial, &now, &column, plan)?;
        }
        self.hide(plan)?;
        let (missing, changed) = self.differences(&trial)?;
        plan.refused.extend(missing.into_iter().map(|difference| format!("table {there}: {difference}")));
        if !changed.is_empty() {
            self.redefine(&trial, &changed, plan)?;
        }
        self.indexes(plan)
    }

    /// Columns that leave the definition, and those that return to it.
    fn hide(&self, plan: &mut SchemaPlan) -> Result<(), StoreError> {
        let (id, there) = (self.tracked.table.id, &self.definition.table.name);
        let hidden =
            |column: &Column| self.schema.tables.get(&id).is_some_and(|known| known.hidden.contains(&column.id));
        let wanted = tracked::columns(self.wanted, there)?;
        let physical = tracked::columns(self.conn, &self.tracked.table.name)?;
        for column in &self.tracked.table.columns {
            let named = wanted.iter().any(|wanted| wanted.name.eq_ignore_ascii_case(&column.name));
            let gone = self.gone.iter().any(|gone| gone.eq_ignore_ascii_case(&column.name));
            let step = |hidden| Step::HideColumn { table: id, column: column.id, hidden };
            match (named, hidden(column)) {
                (true, true) if !gone => plan.add("show column", there, column.name.clone(), step(false)),
                (false, false) if gone => {
                    let at = physical.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name));
                    if at.is_some_and(|at| at.not_null && at.default.is_none()) {
                        plan.refused.push(format!(
                            "table {there}: column {:?} is NOT NULL without a default, so rows could not be inserted \
                             without it; it cannot be dropped yet",
                            column.name
                        ));
                        continue;
                    }
                    plan.add(
                        "hide column",
                        there,
                        format!("{} (its values stay in the file)", column.name),
                        step(true),
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a column may be missing in the definition.
    fn is_gone(&self, name: &str) -> bool {
        let known = self.schema.tables.get(&self.tracked.table.id);
        let id = self.tracked.table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)).map(|c| c.id);
        let hidden = known.zip(id).is_some_and(|(known, id)| known.hidden.contains(&id));
        hidden || (id.is_some() && self.gone.iter().any(|gone| gone.eq_ignore_ascii_case(name)))
    }

    /// Whether a column of the definition is replicated here already, or is part of the key, or is generated.
    fn knows(&self, name: &str, renames: &[Rename]) -> bool {
        let there = &self.definition.table.name;
        let before = renames.iter().find(|(table, old, new)| {
            old.is_some() && table.eq_ignore_ascii_case(there) && new.eq_ignore_ascii_case(name)
        });
        let before = before.and_then(|(_, old, _)| old.as_deref()).unwrap_or(name);
        let wanted = self.definition.table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let here = |name: &str| self.tracked.table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        !wanted || here(name) || here(before)
    }

    fn add(
        &self,
        trial: &Connection,
        now: &[PhysicalColumn],
        column: &PhysicalColumn,
        plan: &mut SchemaPlan,
    ) -> Result<(), StoreError> {
        let (id, there) = (self.tracked.table.id, &self.definition.table.name);
        let definition = column_sql(self.wanted, there, column)?;
        let exists = now.iter().any(|known| known.name.eq_ignore_ascii_case(&column.name));
        let tried = probe(&definition).map(drop).and_then(|()| {
            if exists {
                return Ok(());
            }
            let sql = format!("ALTER TABLE {} ADD COLUMN {definition}", quoted(there));
            trial.execute_batch(&sql).map_err(|error| error.to_string())
        });
        if let Err(reason) = tried {
            plan.refused.push(format!(
                "table {there}: column {:?} cannot be added ({reason}); give it a constant default or let it be NULL",
                column.name
            ));
            return Ok(());
        }
        let birth = self.schema.tables.get(&id).map_or(0, |table| table.births(&column.name));
        let new = Column { id: ColumnId::derive(id, &column.name, birth), name: column.name.clone() };
        let detail = if exists { format!("{definition} (it is there already)") } else { definition.clone() };
        plan.add("add column", there, detail, Step::AddColumn { table: id, column: new, birth, definition });
        Ok(())
    }

    /// Plans that the table is made anew, after a try in memory.
    fn redefine(&self, trial: &Connection, changed: &[String], plan: &mut SchemaPlan) -> Result<(), StoreError> {
        let (id, name) = (self.tracked.table.id, &self.definition.table.name);
        let columns = columns_after(self.tracked, plan);
        let is = |column: &Column, named: &Column| column.name.eq_ignore_ascii_case(&named.name);
        let named = self.definition.table.columns.iter();
        let with_ids = named.filter_map(|named| {
            let known = columns.iter().find(|column| is(column, named))?;
            Some(Column { id: known.id, name: named.name.clone() })
        });
        let parents = parents(self.wanted, (name, id), self.schema)?;
        let shape = Shape { create_sql: self.definition.create_sql.clone(), columns: with_ids.collect(), parents };
        let mut model = self.tracked.model();
        (model.table.name, model.table.columns) = (name.clone(), columns.clone());
        let refuse = |reason: String| format!("table {name}: {reason}");
        match crate::reshape::wanted(trial, &shape, &model, &columns, self.schema)? {
            Err(reason) => plan.refused.push(refuse(reason)),
            Ok(wanted) => {
                let (_, left) = self.differences(&wanted.scratch)?;
                plan.refused.extend(left.into_iter().map(refuse));
            }
        }
        let conversions = self.refuse_conversions(trial, plan)?;
        plan.refused.extend(conversions.into_iter().map(refuse));
        let rows = format!("SELECT count(*) FROM {}", quoted(&self.tracked.table.name));
        let rows = crate::clocks::one::<i64>(self.conn, &rows, [])?.unwrap_or(0);
        let detail = format!("{}; {rows} rows are copied", changed.join("; "));
        plan.add("change table", name, detail, Step::Redefine { table: id, shape });
        Ok(())
    }

    /// The cell of a column that has this name when all is done, if it is here now.
    fn cell(&self, name: &str, plan: &SchemaPlan) -> Option<usize> {
        let id = columns_after(self.tracked, plan).iter().find(|column| column.name.eq_ignore_ascii_case(name))?.id;
        self.tracked.cell_of(id)
    }

    /// Changes of columns that would not go the same way everywhere; columns that become NOT NULL are noted in the plan.
    fn refuse_conversions(&self, trial: &Connection, plan: &mut SchemaPlan) -> Result<Vec<String>, StoreError> {
        let name = &self.definition.table.name;
        let strict = tracked::is_strict(trial, name)?;
        let affinity = |column: &PhysicalColumn| Affinity::of_declared_type(&column.declared, strict);
        let mut refused = Vec::new();
        let before = tracked::columns(trial, name)?;
        for column in tracked::columns(self.wanted, name)? {
            let Some(was) = before.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name)) else { continue };
            let (old, new, name) = (&was.declared, &column.declared, &column.name);
            if affinity(was) != affinity(&column) || (strict && !old.eq_ignore_ascii_case(new)) {
                refused.push(format!(
                    "column {name:?} converts its values otherwise as {new:?} than as {old:?}; add a column of the new type, and \
                     fill it with an UPDATE"
                ));
            }
            if column.not_null && !was.not_null {
                match (crate::required::default_of(&column)?, self.cell(name, plan)) {
                    (Ok(default), Some(cell)) => plan.fills.push(Fill { no: self.tracked.no, cell, default }),
                    (Ok(_), None) => {}
                    (Err(reason), _) => refused.push(reason),
                }
                let key = foreign_keys(self.wanted, &self.definition.table.name)?;
                if key.iter().any(|key| key.from.iter().any(|from| from.eq_ignore_ascii_case(name))) {
                    refused.push(format!(
                        "column {name:?} is in a foreign key and becomes NOT NULL: rows of other devices would refer to its default"
                    ));
                }
                let unique = self.tracked.unique.iter().flat_map(|index| &index.parts);
                if unique.into_iter().any(|part| part.column.name.eq_ignore_ascii_case(name)) {
                    refused.push(format!(
                        "column {name:?} is in a UNIQUE index and becomes NOT NULL: rows of other devices would share its default"
                    ));
                }
            }
            if column.not_null && was.default.is_some() && column.default.is_none() {
                refused.push(format!(
                    "column {name:?} is NOT NULL and loses its default, without which rows of devices that do not know it could not be \
                     taken in"
                ));
            }
            if column.hidden != was.hidden {
                refused
                    .push(format!("column {name:?} becomes a generated one, or an ordinary one; add another column"));
            }
        }
        Ok(refused)
    }

    /// What the steps leave undone: columns that the definition lacks, and what differs of the others.
    fn differences(&self, trial: &Connection) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let name = &self.definition.table.name;
        let (here, there) = (tracked::columns(trial, name)?, tracked::columns(self.wanted, name)?);
        let (mut missing, mut differences) = (Vec::new(), Vec::new());
        // What columns are generated from, their clauses tell.
        for column in here.iter().filter(|column| column.hidden == 0) {
            let Some(wanted) = there.iter().find(|wanted| wanted.name.eq_ignore_ascii_case(&column.name)) else {
                let name = &column.name;
                if !self.is_gone(name) {
                    let table = &self.definition.table.name;
                    missing.push(format!(
                        "column {name:?} is not in the definition: write `-- @drop {table}.{name}`, or `-- @rename {table}.{name} -> NEW`"
                    ));
                }
                continue;
            };
            let described = |column: &PhysicalColumn| {
                let null = if column.not_null { " NOT NULL" } else { "" };
                let default = column.default.as_ref().map(|text| format!(" DEFAULT {text}")).unwrap_or_default();
                format!("{}{null}{default}", column.declared.to_ascii_uppercase())
            };
            let same = described(column) == described(wanted)
                && (column.hidden, column.key_position) == (wanted.hidden, wanted.key_position)
                && tracked::collation(trial, name, &column.name)?
                    == tracked::collation(self.wanted, name, &column.name)?;
            if !same {
                differences.push(format!(
                    "column {}: {} -> {}",
                    column.name,
                    described(column).trim(),
                    described(wanted).trim()
                ));
            }
        }
        let mut keys = foreign_keys(trial, name)?;
        keys.retain(|key| !key.from.iter().any(|column| self.is_gone(column)));
        keys.iter_mut().for_each(|key| self.name_parent(key));
        keys.sort();
        if keys != foreign_keys(self.wanted, name)? {
            differences.push("foreign keys".to_owned());
        }
        if unique_constraints(trial, name)? != unique_constraints(self.wanted, name)? {
            differences.push("UNIQUE constraints".to_owned());
        }
        let kind = "SELECT wr || strict FROM pragma_table_list(?1) WHERE schema = 'main'";
        let kind = |conn: &Connection| crate::clocks::one::<String>(conn, kind, [name]);
        if kind(trial)? != kind(self.wanted)? {
            differences.push("STRICT or WITHOUT ROWID".to_owned());
        }
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let sql = |conn: &Connection| crate::clocks::one::<String>(conn, sql, [name]);
        let clauses = |sql: Option<String>, word: &str| clauses(&sql.unwrap_or_default(), word);
        for (word, what) in [("check", "CHECK constraints"), ("as", "generated columns")] {
            if clauses(sql(trial)?, word) != clauses(sql(self.wanted)?, word) {
                differences.push(what.to_owned());
            }
        }
        Ok((missing, differences))
    }

    /// Gives a foreign key's parent the names that the definition has for it.
    fn name_parent(&self, key: &mut ForeignKey) {
        let is = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        if let Some((_, _, new)) = self.renames.iter().find(|(old, column, _)| column.is_none() && is(old, &key.parent))
        {
            key.parent.clone_from(new);
        }
        for to in &mut key.to {
            let renamed = |(table, column, _): &&Rename| {
                is(table, &key.parent) && column.as_ref().is_some_and(|column| is(column, to))
            };
            if let Some((_, _, new)) = self.renames.iter().find(renamed) {
                to.clone_from(new);
            }
        }
    }

    fn indexes(&self, plan: &mut SchemaPlan) -> Result<(), StoreError> {
        let (id, here, there) = (self.tracked.table.id, &self.tracked.table.name, &self.definition.table.name);
        let list = |conn: &Connection, table: &str| -> Result<Vec<(String, String)>, StoreError> {
            let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 COLLATE NOCASE
                       AND sql IS NOT NULL ORDER BY name";
            let mut statement = conn.prepare(sql).doing("read the indexes")?;
            let rows = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?))).doing("read the indexes")?;
            rows.collect::<Result<_, _>>().doing("read the indexes")
        };
        let (now, wanted) = (list(self.conn, here)?, list(self.wanted, there)?);
        let renamed = plan.steps.iter().any(|step| match step {
            Step::RenameTable { table, .. } | Step::RenameColumn { table, .. } => *table == id,
            _ => false,
        });
        for (name, sql) in &wanted {
            let known = now.iter().find(|(known, _)| known == name);
            // SQLite rewrites the indexes of what is renamed by itself.
            if known.is_none_or(|(_, known)| !renamed && tracked::words(known) != tracked::words(sql)) {
                let (sql, table_name) = (sql.clone(), there.clone());
                let index = IndexDefinition { sql, table_name, columns: columns_after(self.tracked, plan) };
                let step = Step::CreateIndex { table: id, name: name.clone(), index };
                plan.add("create index", there, name.clone(), step);
            }
        }
        for (name, _) in now.iter().filter(|(name, _)| !wanted.iter().any(|(wanted, _)| wanted == name)) {
            plan.add("drop index", there, name.clone(), Step::DropIndex { table: id, name: name.clone() });
        }
        Ok(())
    }
}
