//! What becomes of rows that clash in a UNIQUE index, where a definition chooses it: `-- @duplicates rename`.
//!
//! Without a choice the first claim shows and the others are hidden. How a chosen number is found is told in `repair`.

use std::collections::BTreeSet;

use isle_schema::{Affinity, Column, ColumnId, Schema, Step, TableDefinition, TableId, TableState};
use rusqlite::{Connection, params};

use crate::StoreError;
use crate::define::SchemaPlan;
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::tracked::{self, LocalTable, Tracked};

/// Why the values of a column cannot get numbers.
fn refuse(tracked: &Tracked, name: &str) -> Option<String> {
    let is = |other: &str| other.eq_ignore_ascii_case(name);
    let at = tracked.table.columns.iter().position(|column| is(&column.name));
    let affinity = at.and_then(|at| tracked.affinities.get(at));
    let unique = tracked.unique.iter().flat_map(|index| &index.parts).any(|part| is(&part.column.name));
    match affinity {
        None => Some(format!("{name:?} is no column outside the key, so its duplicates cannot be renamed")),
        Some(_) if !unique => Some(format!("column {name:?} is in no UNIQUE index, so it has no duplicates")),
        Some(Affinity::Text | Affinity::Blob) => None,
        Some(_) => Some(format!("column {name:?} is no TEXT, so its duplicates cannot be renamed")),
    }
}

/// The steps to what a definition says of duplicates in one table. `columns` are the table's as the other steps leave them.
pub(crate) fn plan(
    wanted: &Connection,
    (definition, id): (&TableDefinition, TableId),
    renamed: &[(String, String)],
    columns: &[Column],
    known: Option<&TableState>,
    plan: &mut SchemaPlan,
) -> Result<(), StoreError> {
    let table = &definition.table.name;
    let there = tracked::load(wanted, 0, LocalTable::of(definition.table.clone()))?;
    let mut asked = BTreeSet::new();
    let referred = referred(wanted, table)?;
    for (_, name) in renamed.iter().filter(|(of, _)| of.eq_ignore_ascii_case(table)) {
        let in_reference = referred.iter().any(|known| known.eq_ignore_ascii_case(name)).then(|| {
            format!("foreign keys refer to column {name:?}: a number, which is no value, would travel in them")
        });
        match refuse(&there, name).or(in_reference) {
            Some(reason) => plan.refused.push(format!("table {table}: {reason}")),
            None => {
                asked.extend(
                    columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)).map(|column| column.id),
                );
            }
        }
    }
    let before = known.map(|known| known.renamed.clone()).unwrap_or_default();
    for column in columns {
        let renamed = asked.contains(&column.id);
        if renamed != before.contains(&column.id) && (renamed || !is_gone(known, plan, column.id)) {
            let step = Step::RenameDuplicates { table: id, column: column.id, renamed };
            let what = if renamed { "get a number" } else { "are hidden" };
            plan.add("duplicates", table, format!("those in {} {what}", column.name), step);
        }
    }
    Ok(())
}

/// The columns of a table that foreign keys of the definition refer to.
fn referred(wanted: &Connection, table: &str) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT f.\"to\" FROM pragma_table_list AS l JOIN pragma_foreign_key_list(l.name) AS f
               WHERE l.schema = 'main' AND f.\"table\" = ?1 COLLATE NOCASE AND f.\"to\" IS NOT NULL";
    let mut statement = wanted.prepare(sql).doing("read the foreign keys")?;
    let columns = statement.query_map([table], |row| row.get(0)).doing("read the foreign keys")?;
    columns.collect::<Result<_, _>>().doing("read the foreign keys")
}

/// Whether a column has left the definition: nothing is said of it then.
fn is_gone(known: Option<&TableState>, plan: &SchemaPlan, id: ColumnId) -> bool {
    let leaves = |step: &Step| matches!(step, Step::HideColumn { column, hidden: true, .. } if *column == id);
    plan.steps.iter().any(leaves) || known.is_some_and(|known| known.hidden.contains(&id))
}

/// Gives tables the choices that the schema has; rows that clash are looked at again.
pub(crate) fn follow(engine: &mut Engine, schema: &Schema) -> Result<(), StoreError> {
    let mut changed = false;
    for tracked in engine.tables.clone() {
        let Some(target) = schema.tables.get(&tracked.table.id).filter(|target| target.renamed != tracked.renamed)
        else {
            continue;
        };
        let model = LocalTable { renamed: target.renamed.clone(), ..tracked.model() };
        let sql = "UPDATE isle_table SET def = ?2 WHERE no = ?1";
        engine.conn.execute(sql, params![tracked.no, model.to_json()?]).doing("list the table")?;
        changed = true;
    }
    if changed {
        crate::repair::owe_claims(&engine.conn)?;
        engine.load_tables()?;
    }
    Ok(())
}
