//! Columns that several operations, or an operation and this file's app, define otherwise.
//!
//! The first definition in canonical order stands (see the fold in `isle_schema`). A device that has another one, because its own operation
//! came later or because its app made the column by hand, makes the table anew with the one that stands: values stay and convert as the
//! column's type says, and rows of which nobody has written the column show its default.

use std::collections::BTreeMap;
use std::sync::Arc;

use isle_changeset::Value;
use isle_schema::{ColumnId, Migration, MigrationId, Schema, TableDefinition, TableState};
use rusqlite::Connection;

use crate::StoreError;
use crate::clocks::{CLOCK_FIELDS, LocalStamp, RowClock, alive, from_sql};
use crate::define::scratch;
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::shadow;
use crate::tracked::{self, PhysicalColumn, Tracked};

/// A column and the definition that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) id: ColumnId,
    /// Its name today, and its definition under its birth name.
    pub(crate) name: String,
    pub(crate) definition: String,
}

/// The columns that stand in the file otherwise than they should; `model` has the names that they have here by now. A table whose definition
/// was changed since has what that says.
pub(crate) fn differing(
    conn: &Connection,
    operations: &BTreeMap<MigrationId, Migration>,
    target: &TableState,
    model: &tracked::LocalTable,
) -> Result<Vec<Standing>, StoreError> {
    let mut definitions: Vec<(ColumnId, String)> =
        target.added.iter().map(|added| (added.id, added.definition.clone())).collect();
    definitions.extend(born(operations, model)?);
    let named = |id: &ColumnId| target.shape.as_ref().is_some_and(|shape| shape.columns.iter().any(|c| c.id == *id));
    definitions.retain(|(id, _)| !named(id));
    if definitions.is_empty() {
        return Ok(Vec::new());
    }
    let there = tracked::columns(conn, &model.table.name)?;
    let mut differing = Vec::new();
    for (id, definition) in definitions {
        let Some(column) = model.table.columns.iter().find(|column| column.id == id) else { continue };
        let Some(here) = there.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name)) else { continue };
        if here.hidden == 0 && probed(&definition)?.is_some_and(|wanted| !is_same(here, &wanted)) {
            differing.push(Standing { id, name: column.name.clone(), definition });
        }
    }
    Ok(differing)
}

/// Columns with which several operations create the table, as the first says.
fn born(
    operations: &BTreeMap<MigrationId, Migration>,
    model: &tracked::LocalTable,
) -> Result<Vec<(ColumnId, String)>, StoreError> {
    let order = Schema::order(operations.iter().map(|(id, operation)| (*id, operation)));
    let births: Vec<&TableDefinition> = order
        .iter()
        .flat_map(|id| operations[id].tables())
        .filter(|definition| definition.table.id == model.table.id)
        .collect();
    let mut born: Vec<(ColumnId, String)> = Vec::new();
    if births.windows(2).all(|pair| pair[0].create_sql == pair[1].create_sql) {
        return Ok(born);
    }
    for definition in births {
        for column in &definition.table.columns {
            if !born.iter().any(|(id, _)| *id == column.id)
                && let Some(added) = crate::define::definition_of(definition, column.id)?
            {
                born.push((added.id, added.definition));
            }
        }
    }
    Ok(born)
}

fn probed(definition: &str) -> Result<Option<PhysicalColumn>, StoreError> {
    let conn = scratch()?;
    let sql = format!("CREATE TABLE isle_probe(isle_key INTEGER PRIMARY KEY, {definition})");
    if conn.execute(&sql, []).is_err() {
        return Ok(None);
    }
    Ok(tracked::columns(&conn, "isle_probe")?.pop().filter(|column| column.hidden == 0 && column.key_position == 0))
}

fn is_same(a: &PhysicalColumn, b: &PhysicalColumn) -> bool {
    a.declared.eq_ignore_ascii_case(&b.declared)
        && (a.not_null, &a.default) == (b.not_null, &b.default)
        && a.collation.eq_ignore_ascii_case(&b.collation)
}

/// The table with the definitions that stand, in a scratch database; or why a column cannot be made otherwise.
pub(crate) fn wanted(
    conn: &Connection,
    model: &tracked::LocalTable,
    standing: &[Standing],
) -> Result<Result<Connection, String>, StoreError> {
    let scratch = scratch()?;
    let table = quoted(&model.table.name);
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let sql = crate::clocks::one::<String>(conn, sql, [&model.table.name])?.unwrap_or_default();
    scratch.execute_batch(&sql).doing("try the definitions that stand")?;
    for column in standing {
        let run = |sql: String| scratch.execute_batch(&sql).map_err(|error| error.to_string());
        let name = quoted(&column.name);
        let made = run(format!("ALTER TABLE {table} DROP COLUMN {name}")).and_then(|()| {
            run(format!("ALTER TABLE {table} ADD COLUMN {}", column.definition))?;
            let made = tracked::columns(&scratch, &model.table.name).map_err(|error| error.to_string())?;
            let made = made.last().map(|made| made.name.clone()).unwrap_or_default();
            if made == column.name {
                return Ok(());
            }
            run(format!("ALTER TABLE {table} RENAME COLUMN {} TO {name}", quoted(&made)))
        });
        if let Err(reason) = made {
            return Ok(Err(format!("column {} cannot be made what another device says it is: {reason}", column.name)));
        }
    }
    Ok(Ok(scratch))
}

/// Shows the defaults that stand in rows of which nobody has written the columns.
pub(crate) fn show_defaults(
    conn: &Connection,
    tracked: &Arc<Tracked>,
    standing: &[Standing],
) -> Result<(), StoreError> {
    let there = tracked::columns(conn, &tracked.table.name)?;
    let mut cells: Vec<(usize, Value)> = Vec::new();
    for column in standing {
        let Some(cell) = tracked.cell_of(column.id) else { continue };
        let Some(here) = there.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name)) else { continue };
        let value = match &here.default {
            Some(text) => crate::define::constant(&here.declared, text)?,
            None => Value::Null,
        };
        cells.push((cell, value));
    }
    let keys = tracked.table.key.len();
    let sql = format!("SELECT {} WHERE {}", tracked.clocks_and_rows(conn, "JOIN")?, alive("c."));
    let mut statement = conn.prepare(&sql).doing("show a default")?;
    let mut rows = statement.raw_query();
    let mut unwritten = Vec::new();
    while let Some(row) = rows.next().doing("show a default")? {
        let Some(clock) = RowClock::read(row, 0, tracked)? else { continue };
        let key = (0..keys).map(|n| row.get_ref(CLOCK_FIELDS + n).map(|value| from_sql(value).to_value()));
        let key = key.collect::<Result<Vec<_>, _>>().doing("show a default")?;
        for (n, (cell, _)) in cells.iter().enumerate() {
            if clock.cell(*cell) == LocalStamp::NEVER {
                unwritten.push((key.clone(), n));
            }
        }
    }
    drop(rows);
    for (key, n) in unwritten {
        let (cell, value) = &cells[n];
        let mut values: Vec<_> = key.iter().map(Value::as_ref).collect();
        values.push(value.as_ref());
        let column = quoted(&tracked.table.columns[cell - 1].name);
        let set =
            |table: &str| format!("UPDATE {table} SET {column} = ?{} WHERE {}", values.len(), tracked.key_match(1));
        shadow::run(conn, &set(&quoted(&tracked.table.name)), &values)?;
        if tracked.has_shadow {
            shadow::run(conn, &set(&shadow::name(tracked)), &values)?;
        }
    }
    Ok(())
}
