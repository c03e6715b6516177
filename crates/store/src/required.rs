//! Columns that became NOT NULL after their table's birth.
//!
//! Devices that have not heard of it go on writing NULL, and a NULL may have been under way. So a merged NULL of such a column shows as the column's
//! default: the merged row is in the shadow, as one that shows with other values (see `repair`). Nothing of that is sent. The rows of the
//! author's file get the default as an ordinary write, before the table is made anew.
//!
//! Which columns these are is a function of the operations: all that the table's definition says NOT NULL of with a constant default, once the
//! table has another definition than it was born with, has got columns since, or was created by several operations.

use isle_changeset::{Value, ValueRef, pack_key};
use rusqlite::Connection;

use crate::StoreError;
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::shadow;
use crate::tracked::{self, LocalTable, PhysicalColumn, Tracked, WORD_BITS, join};

/// A column whose rows get its default before it becomes NOT NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fill {
    /// The table's local number, and the cell.
    pub(crate) no: i64,
    pub(crate) cell: usize,
    pub(crate) default: Value,
}

/// The value that a column which becomes NOT NULL shows for NULL; or why there is none.
pub(crate) fn default_of(column: &PhysicalColumn) -> Result<Result<Value, String>, StoreError> {
    let value = match &column.default {
        Some(text) => crate::define::constant(&column.declared, text)?,
        None => Value::Null,
    };
    let name = &column.name;
    if value != Value::Null && !is_storable(column, &value)? {
        return Ok(Err(format!(
            "column {name:?} becomes NOT NULL with a default that its type {} does not take",
            column.declared
        )));
    }
    Ok(match value {
        Value::Null => Err(format!(
            "column {name:?} becomes NOT NULL, which rows of other devices may not fit: give it a constant default, which those show"
        )),
        value => Ok(value),
    })
}

/// Whether a STRICT table would take a value into a column; what its type is no type to such tables is anybody's.
fn is_storable(column: &PhysicalColumn, value: &Value) -> Result<bool, StoreError> {
    let conn = crate::define::scratch()?;
    let strict = ["INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"];
    if !strict.iter().any(|known| known.eq_ignore_ascii_case(&column.declared)) {
        return Ok(true);
    }
    let sql = format!("CREATE TABLE isle_probe(x {} NOT NULL) STRICT", column.declared);
    conn.execute_batch(&sql).doing("try a default")?;
    Ok(shadow::run(&conn, "INSERT INTO isle_probe VALUES(?1)", &[value.as_ref()]).is_ok())
}

/// Notes the columns of a table's new definition that are NOT NULL.
pub(crate) fn note(wanted: &Connection, model: &mut LocalTable) -> Result<(), StoreError> {
    model.required.clear();
    for column in tracked::columns(wanted, &model.table.name)?.iter().filter(|column| column.not_null) {
        let replicated = model.table.columns.iter().find(|known| known.name.eq_ignore_ascii_case(&column.name));
        if let (Some(known), Ok(value)) = (replicated, default_of(column)?) {
            model.required.push((known.id, pack_key(&[value.as_ref()])));
        }
    }
    Ok(())
}

/// Gives the author's rows the defaults, as writes of its own.
pub(crate) fn fill(engine: &mut Engine, fills: &[Fill], now_ms: u64) -> Result<(), StoreError> {
    for fill in fills {
        let Some(tracked) = engine.tables.iter().find(|tracked| tracked.no == fill.no).cloned() else { continue };
        let (table, column) = (quoted(&tracked.table.name), quoted(&tracked.table.columns[fill.cell - 1].name));
        let rows = rows_with_null(&engine.conn, &tracked, &[fill.cell])?;
        let sql = format!("UPDATE {table} SET {column} = ?1 WHERE {column} IS NULL");
        shadow::run(&engine.conn, &sql, &[fill.default.as_ref()])?;
        let mut masks = vec![0i64; tracked.queue_words()];
        masks[fill.cell / WORD_BITS] = 1 << (fill.cell % WORD_BITS);
        for key in rows {
            let key: Vec<_> = key.iter().map(Value::as_ref).collect();
            crate::queue::Queue::open(&engine.conn, &tracked)?.add(Some(&masks), &key, now_ms)?;
        }
    }
    if !fills.is_empty() {
        engine.queue_empty = false;
        engine.seal_foreign(now_ms)?;
    }
    Ok(())
}

/// Canonical keys of the rows that have NULL in one of these cells, as they show.
pub(crate) fn rows_with_null(
    conn: &Connection,
    tracked: &Tracked,
    cells: &[usize],
) -> Result<Vec<isle_changeset::Key>, StoreError> {
    let any = cells.iter().map(|cell| format!("{} IS NULL", quoted(&tracked.table.columns[cell - 1].name)));
    let (keys, table, any) = (tracked.key_list(""), quoted(&tracked.table.name), join(any, " OR "));
    let mut statement = conn.prepare(&format!("SELECT {keys} FROM {table} WHERE {any}")).doing("look for NULLs")?;
    let rows = statement.query_map([], |row| {
        let value = |at: usize| row.get_ref(at).map(crate::clocks::from_sql);
        let exact = (0..tracked.table.key.len()).map(value).collect::<Result<Vec<_>, _>>()?;
        Ok(isle_changeset::canonical_key(&exact, &tracked.table.key).0)
    });
    rows.doing("look for NULLs")?.collect::<Result<_, _>>().doing("look for NULLs")
}

impl Tracked {
    /// Whether a merged row has a NULL that cannot show.
    pub(crate) fn lacks_a_value(&self, mask: &[u64], cells: &[ValueRef<'_>]) -> bool {
        let is_null = |cell: usize| mask[cell / 64] >> (cell % 64) & 1 == 1 && matches!(cells[cell], ValueRef::Null);
        self.required.iter().any(|(cell, _)| is_null(*cell))
    }
}
