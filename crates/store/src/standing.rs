//! Columns that several operations, or an operation and this file's app, define otherwise.
//!
//! The first definition in canonical order stands (see the fold in `isle_schema`). A device that has another one, because its own operation
//! came later or because its app made the column by hand, makes the table anew with the one that stands: values stay and convert as the
//! column's type says, and rows of which nobody has written the column show its default.
//!
//! # Limits
//! A column that two devices make of different types at once, and that a later definition gives a third form, may hold values that went through a type
//! on one device and not on another: '07' that was 7 for a while is '7' there. Types are not joined into one that holds both.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use isle_changeset::{Value, pack_key, unpack_key};
use isle_schema::{ColumnId, Migration, MigrationId, Schema, Step, TableId, TableState};
use rusqlite::Connection;

use crate::StoreError;
use crate::clocks::{CLOCK_FIELDS, LocalStamp, RowClock, alive, from_sql};
use crate::define::scratch;
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::shadow;
use crate::tracked::{self, LocalTable, PhysicalColumn, Tracked};

type Operations = BTreeMap<MigrationId, Migration>;

/// A column and the definition that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) id: ColumnId,
    /// Its name today, and its definition under its birth name.
    pub(crate) name: String,
    pub(crate) definition: String,
}

/// Whether operations say different things of a table's columns, or its definition was changed: then what stands has to be looked for.
pub(crate) fn is_contested(operations: &Operations, target: &TableState, table: TableId) -> bool {
    let (mut births, mut added): (HashSet<&str>, HashMap<ColumnId, &str>) = Default::default();
    let differs = operations.values().flat_map(|operation| &operation.steps).any(|step| match step {
        Step::CreateTable(birth) if birth.table.id == table => {
            births.insert(&birth.create_sql);
            births.len() > 1
        }
        Step::AddColumn { table: of, column, definition, .. } if *of == table => {
            added.insert(column.id, definition).is_some_and(|known| known != definition)
        }
        _ => false,
    });
    differs || target.shape.is_some()
}

/// The columns' definitions that stand, by id: of those that came later, and of those that the table was born with.
fn definitions(
    operations: &Operations,
    target: &TableState,
    table: TableId,
) -> Result<Vec<(ColumnId, String)>, StoreError> {
    let mut found: Vec<(ColumnId, String)> =
        target.added.iter().map(|added| (added.id, added.definition.clone())).collect();
    let order = Schema::order(operations.iter().map(|(id, operation)| (*id, operation)));
    let births = order.iter().flat_map(|id| operations[id].tables()).filter(|birth| birth.table.id == table);
    for birth in births {
        for column in &birth.table.columns {
            if !found.iter().any(|(id, _)| *id == column.id)
                && let Some(added) = crate::define::definition_of(birth, column.id)?
            {
                found.push((added.id, added.definition));
            }
        }
    }
    Ok(found)
}

/// The columns that stand in the file otherwise than they should; `model` has the names that they have here by now. What a changed definition of
/// the table names has what that says.
pub(crate) fn differing(
    conn: &Connection,
    operations: &Operations,
    target: &TableState,
    model: &LocalTable,
) -> Result<Vec<Standing>, StoreError> {
    let named = |id: &ColumnId| target.shape.as_ref().is_some_and(|shape| shape.columns.iter().any(|c| c.id == *id));
    let there = tracked::columns(conn, &model.table.name)?;
    let mut differing = Vec::new();
    for (id, definition) in definitions(operations, target, model.table.id)? {
        let column = model.table.columns.iter().find(|column| column.id == id).filter(|_| !named(&id));
        let Some(column) = column else { continue };
        let Some(here) = there.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name)) else { continue };
        if here.hidden == 0 && probed(&definition)?.is_some_and(|wanted| !is_same(here, &wanted)) {
            differing.push(Standing { id, name: column.name.clone(), definition });
        }
    }
    Ok(differing)
}

/// What each column began with: the default of the definition that stands.
pub(crate) fn began(
    operations: &Operations,
    target: &TableState,
    table: TableId,
) -> Result<Vec<(ColumnId, Value)>, StoreError> {
    let mut began = Vec::new();
    for (id, definition) in definitions(operations, target, table)? {
        if let Some(column) = probed(&definition)? {
            began.push((id, default(&column)?));
        }
    }
    Ok(began)
}

/// The columns that do not begin with what the table's default says today, with what they began with.
pub(crate) fn pins(
    conn: &Connection,
    began: &[(ColumnId, Value)],
    model: &LocalTable,
) -> Result<Vec<(ColumnId, Vec<u8>)>, StoreError> {
    let there = tracked::columns(conn, &model.table.name)?;
    let mut pins = Vec::new();
    for (id, value) in began {
        let Some(column) = model.table.columns.iter().find(|column| column.id == *id) else { continue };
        let Some(here) = there.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name)) else { continue };
        if default(here)? != *value {
            pins.push((*id, pack_key(&[value.as_ref()])));
        }
    }
    Ok(pins)
}

/// What columns begin with in this file.
pub(crate) fn begin_here(conn: &Connection, model: &LocalTable) -> Result<Vec<(ColumnId, Value)>, StoreError> {
    let there = tracked::columns(conn, &model.table.name)?;
    let mut begin = Vec::new();
    for column in &model.table.columns {
        let pinned = model.defaults.iter().find(|(id, _)| *id == column.id);
        let pinned = pinned.and_then(|(_, packed)| unpack_key(packed, 1).ok()?.pop());
        let here = there.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name));
        let value = match (pinned, here) {
            (Some(value), _) => value,
            (None, Some(here)) => default(here)?,
            (None, None) => continue,
        };
        begin.push((column.id, value));
    }
    Ok(begin)
}

fn default(column: &PhysicalColumn) -> Result<Value, StoreError> {
    match &column.default {
        Some(text) => crate::define::constant(&column.declared, text),
        None => Ok(Value::Null),
    }
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
    model: &LocalTable,
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

/// Shows what columns began with in rows of which nobody has written them.
pub(crate) fn show_began(
    conn: &Connection,
    tracked: &Arc<Tracked>,
    began: &[(ColumnId, Value)],
) -> Result<(), StoreError> {
    let cells: Vec<(usize, &Value)> =
        began.iter().filter_map(|(id, value)| Some((tracked.cell_of(*id)?, value))).collect();
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
    if !tracked.required.is_empty() {
        shadow::make(conn, tracked, tracked)?;
    }
    for (key, n) in unwritten {
        let (cell, value) = &cells[n];
        let mut values: Vec<_> = key.iter().map(Value::as_ref).collect();
        values.push(value.as_ref());
        let column = quoted(&tracked.table.columns[cell - 1].name);
        let set =
            |table: &str| format!("UPDATE {table} SET {column} = ?{} WHERE {}", values.len(), tracked.key_match(1));
        let key = &values[..keys];
        // A NULL that cannot show is merged all the same: `repair` shows something else for it.
        let unfit = **value == Value::Null && tracked.required.iter().any(|(required, _)| required == cell);
        if unfit {
            if shadow::state(conn, tracked, key)?.is_none() {
                shadow::copy(conn, tracked, key, false)?;
            }
            crate::repair::owe(conn, tracked.no, &pack_key(key))?;
        } else {
            shadow::run(conn, &set(&quoted(&tracked.table.name)), &values)?;
        }
        if tracked.has_shadow || unfit {
            shadow::run(conn, &set(&shadow::name(tracked)), &values)?;
        }
    }
    Ok(())
}
