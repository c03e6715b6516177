//! One table as merges read and write it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use isle_changeset::{Key, Value, ValueRef, pack_key, unpack_key};
use rusqlite::{CachedStatement, Connection};

use crate::StoreError;
use crate::clocks::{ClockTable, RowClock, bind, from_sql, to_sql};
use crate::companion::Shown;
use crate::error::Doing as _;
use crate::layout::quoted;
use crate::seal::bits;
use crate::shadow;
use crate::tracked::{Tracked, collation_name, join};

/// Prepared statements by mask; beyond this many they are prepared again.
const MASKS_MAX: usize = 64;

/// A statement that writes masked cells, of a new row or into one that is there.
struct Write<'c> {
    new: bool,
    mask: Vec<u64>,
    statement: CachedStatement<'c>,
}

/// The statements on one data table and its clocks.
pub(crate) struct TableApplier<'c> {
    pub(super) tracked: Arc<Tracked>,
    pub(crate) clocks: ClockTable<'c>,
    delete: Option<CachedStatement<'c>>,
    select: Option<CachedStatement<'c>>,
    writes: Vec<Write<'c>>,
    /// Where the statement of the row before stands in `writes`: most rows have its mask.
    last: usize,
    /// Which version of each site holds its baseline of this table.
    pub(super) baselines: HashMap<i64, u64>,
    /// Whether some merged rows stand in the shadow.
    shadowed: bool,
    /// Packed keys of the rows whose constraints are to be looked at in the end.
    pub(super) touched: BTreeSet<Vec<u8>>,
    /// Whether rows were deleted.
    pub(super) deleted: bool,
    /// Whether that is so of every row that is written, and not just of those that go or clash.
    watched: bool,
    /// Of a table that cr-sqlite keeps.
    shown: Option<Shown<'c>>,
    /// The app has triggers on it, which are to see whole rows: cr-sqlite merges cell by cell.
    by_hand: bool,
}

impl<'c> TableApplier<'c> {
    pub(super) fn open(conn: &'c Connection, tracked: Arc<Tracked>) -> Result<TableApplier<'c>, StoreError> {
        Ok(TableApplier {
            clocks: ClockTable::open(conn, &tracked),
            delete: None,
            select: None,
            writes: Vec::new(),
            last: 0,
            baselines: crate::layout::baselines(conn, tracked.no)?,
            shadowed: tracked.constrained && shadow::any(conn, &tracked)?,
            touched: BTreeSet::new(),
            deleted: false,
            by_hand: tracked.crr.is_some() && crate::companion::has_app_triggers(conn, &tracked.table.name)?,
            shown: tracked.crr.as_ref().map(|_| Shown::new(conn)),
            watched: tracked.constrained
                && (tracked.referenced_by_columns
                    || !tracked.foreign.is_empty()
                    || crate::repair::concerns(conn, &tracked)?),
            tracked,
        })
    }

    fn is_shadowed(&self, conn: &Connection, key: &[ValueRef<'_>]) -> Result<bool, StoreError> {
        Ok(self.shadowed && shadow::state(conn, &self.tracked, key)?.is_some())
    }

    /// The wanted cells as they stand in the table, the exact key packed, the others NULL; `None` if the row is not there.
    pub(crate) fn read(
        &mut self,
        conn: &'c Connection,
        key: &[ValueRef<'_>],
        wanted: &[u64],
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let tracked = &self.tracked;
        let prepare = |table: &str| {
            let (keys, columns, matches) = (tracked.key_list(""), tracked.column_list(""), tracked.key_match(1));
            let sql = format!("SELECT {keys}{columns} FROM {table} WHERE {matches}");
            conn.prepare_cached(&sql).doing("prepare a merge")
        };
        let mut shadowed = match self.is_shadowed(conn, key)? {
            true => Some(prepare(&shadow::name(tracked))?),
            false => None,
        };
        let select = match (&mut shadowed, &mut self.select) {
            (Some(select), _) | (None, Some(select)) => select,
            (None, slot) => slot.insert(prepare(&quoted(&tracked.table.name))?),
        };
        bind(select, key, 1)?;
        let keys = self.tracked.table.key.len();
        let mut rows = select.raw_query();
        let Some(row) = rows.next().doing("read a row")? else { return Ok(None) };
        let value = |at: usize| row.get_ref(at).map(from_sql).doing("read a row");
        let mut cells = vec![Value::Null; self.tracked.cells()];
        for cell in bits(wanted) {
            cells[cell] = match cell.checked_sub(1) {
                Some(column) => value(keys + column)?.to_value(),
                None => Value::Blob(pack_key(&(0..keys).map(value).collect::<Result<Vec<_>, _>>()?)),
            };
        }
        Ok(Some(cells))
    }

    pub(super) fn delete(&mut self, conn: &'c Connection, key: &[ValueRef<'_>]) -> Result<(), StoreError> {
        self.touch(key);
        if self.shadowed {
            shadow::forget(conn, &self.tracked, key)?;
        }
        self.deleted = true;
        if self.shown.is_some() && self.bury(key)? {
            return Ok(());
        }
        let delete = match &mut self.delete {
            Some(delete) => delete,
            slot => {
                let (table, matches) = (quoted(&self.tracked.table.name), self.tracked.key_match(1));
                slot.insert(
                    conn.prepare_cached(&format!("DELETE FROM {table} WHERE {matches}")).doing("prepare a merge")?,
                )
            }
        };
        bind(delete, key, 1)?;
        delete.raw_execute().doing("delete a merged row")?;
        let Some((shown, crr)) = self.shown.as_mut().zip(self.tracked.crr.as_ref()) else { return Ok(()) };
        // Where its clock says that it lives, a new life is about to begin.
        let clock = self.clocks.get(key)?.filter(|clock| !clock.is_alive());
        shown.settle(crr, key, clock.as_ref(), self.tracked.cells())
    }

    /// Lets cr-sqlite delete a row, or note one as deleted that was never here; false if that is not done yet, or the table is not kept by it.
    pub(super) fn bury(&mut self, key: &[ValueRef<'_>]) -> Result<bool, StoreError> {
        let by_hand = self.by_hand;
        let Some((shown, crr)) = self.shown.as_mut().zip(self.tracked.crr.as_ref()) else { return Ok(false) };
        match self.clocks.get(key)?.filter(|clock| !clock.is_alive()) {
            Some(_) if by_hand => Ok(false),
            Some(clock) => shown.delete(crr, key, &clock),
            None => Ok(false),
        }
    }

    /// Lets cr-sqlite merge the masked cells; false if the row has to be written, and its clocks settled.
    fn merged_by_companion(
        &mut self,
        key: &[ValueRef<'_>],
        mask: &[u64],
        cells: &[ValueRef<'_>],
    ) -> Result<bool, StoreError> {
        let Some((shown, crr)) = self.shown.as_mut().zip(self.tracked.crr.as_ref()) else { return Ok(false) };
        // The exact form of a key is a cell of isle's alone.
        if self.by_hand || mask[0] & 1 == 1 {
            return Ok(false);
        }
        match self.clocks.get(key)?.filter(RowClock::is_alive) {
            Some(clock) => shown.merge(crr, key, &clock, (mask, cells)),
            None => Ok(false),
        }
    }

    /// Writes masked cells: of a new row, or into the row that is there. False if nothing was written.
    pub(super) fn write(
        &mut self,
        conn: &'c Connection,
        new: bool,
        key: &[ValueRef<'_>],
        mask: &[u64],
        cells: &[ValueRef<'_>],
    ) -> Result<bool, StoreError> {
        if !new && mask.iter().all(|word| *word == 0) {
            return Ok(true);
        }
        let exact = if mask[0] & 1 == 1 { exact_key(cells[0], key.len()) } else { None };
        let exact: Option<Vec<ValueRef<'_>>> = exact.as_ref().map(|exact| exact.iter().map(Value::as_ref).collect());
        if self.watched || self.shadowed {
            self.touch(key);
        }
        if self.is_shadowed(conn, key)? {
            if new {
                shadow::forget(conn, &self.tracked, key)?;
                shadow::insert(conn, &self.tracked, exact.as_deref().unwrap_or(key), mask, cells)?;
                return Ok(true);
            }
            shadow::update(conn, &self.tracked, key, exact.as_deref(), mask, cells)?;
            return Ok(true);
        }
        if !self.tracked.required.is_empty() && self.tracked.lacks_a_value(mask, cells) {
            return self.give_way(conn, new, (key, exact.as_deref()), mask, cells).map(|()| true);
        }
        if self.shown.is_some() && self.merged_by_companion(key, mask, cells)? {
            return Ok(true);
        }
        let statement = self.statement(conn, new, mask)?;
        bind(statement, if new { exact.as_deref().unwrap_or(key) } else { key }, 1)?;
        let mut at = 1 + key.len();
        if !new && mask[0] & 1 == 1 {
            bind(statement, exact.as_deref().unwrap_or(key), at)?;
            at += key.len();
        }
        for (n, cell) in bits(mask).filter(|cell| *cell > 0).enumerate() {
            statement.raw_bind_parameter(at + n, to_sql(cells[cell])).doing("bind a value")?;
        }
        match statement.raw_execute().doing("write a merged row") {
            Ok(written) => {
                if let Some((shown, crr)) = self.shown.as_mut().zip(self.tracked.crr.as_ref()) {
                    shown.settle(crr, key, self.clocks.get(key)?.as_ref(), self.tracked.cells())?;
                }
                Ok(written > 0)
            }
            Err(error) if error.is_unique() && !self.tracked.unique.is_empty() => {
                self.give_way(conn, new, (key, exact.as_deref()), mask, cells)?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Another row has the values that this one claims, or it has a NULL that cannot show: for now it stands in the shadow; who shows is settled in the end (see
    /// `repair`).
    fn give_way(
        &mut self,
        conn: &'c Connection,
        new: bool,
        (key, exact): (&[ValueRef<'_>], Option<&[ValueRef<'_>]>),
        mask: &[u64],
        cells: &[ValueRef<'_>],
    ) -> Result<(), StoreError> {
        self.shadowed = true;
        self.touch(key);
        if new {
            return shadow::insert(conn, &self.tracked, exact.unwrap_or(key), mask, cells);
        }
        shadow::copy(conn, &self.tracked, key, false)?;
        shadow::update(conn, &self.tracked, key, exact, mask, cells)
    }

    /// The row's constraints are to be looked at.
    fn touch(&mut self, key: &[ValueRef<'_>]) {
        if self.tracked.constrained {
            self.touched.insert(pack_key(key));
        }
    }

    fn statement(
        &mut self,
        conn: &'c Connection,
        new: bool,
        mask: &[u64],
    ) -> Result<&mut CachedStatement<'c>, StoreError> {
        let fits = |write: &Write<'_>| write.new == new && write.mask == mask;
        if !self.writes.get(self.last).is_some_and(fits) {
            self.last = match self.writes.iter().position(fits) {
                Some(known) => known,
                None => {
                    if self.writes.len() == MASKS_MAX {
                        self.writes.clear();
                    }
                    let sql = if new { insert_sql(&self.tracked, mask) } else { update_sql(&self.tracked, mask) };
                    let statement = conn.prepare_cached(&sql).doing("prepare a merge")?;
                    self.writes.push(Write { new, mask: mask.to_vec(), statement });
                    self.writes.len() - 1
                }
            };
        }
        Ok(&mut self.writes[self.last].statement)
    }
}

/// The exact key in a packed cell, if it is sound; a broken one counts as the canonical form.
fn exact_key(cell: ValueRef<'_>, keys: usize) -> Option<Key> {
    let ValueRef::Blob(packed) = cell else { return None };
    unpack_key(packed, keys).ok().filter(|key| !key.contains(&Value::Null))
}

/// A row that is there past isle's knowledge gives way; a clash in any other UNIQUE index is an error, for REPLACE would delete
/// the other row without a word.
fn insert_sql(tracked: &Tracked, mask: &[u64]) -> String {
    let columns: Vec<String> =
        bits(mask).filter(|cell| *cell > 0).map(|cell| quoted(&tracked.table.columns[cell - 1].name)).collect();
    let parameters = join((1..=tracked.table.key.len() + columns.len()).map(|n| format!("?{n}")), ", ");
    let (table, keys) = (quoted(&tracked.table.name), tracked.key_list(""));
    let named: String = columns.iter().map(|column| format!(", {column}")).collect();
    let target = join(
        tracked
            .table
            .key
            .iter()
            .map(|column| format!("{} COLLATE {}", quoted(&column.name), collation_name(column.collation))),
        ", ",
    );
    let target = if tracked.table.rowid_key { keys.clone() } else { target };
    let update = join(columns.iter().map(|column| format!("{column} = excluded.{column}")), ", ");
    let resolve = if update.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {update}") };
    format!("INSERT INTO {table}({keys}{named}) VALUES({parameters}) ON CONFLICT({target}) DO {resolve}")
}

/// Parameters: the key, then the exact key if it is written, then the cells.
fn update_sql(tracked: &Tracked, mask: &[u64]) -> String {
    let mut at = tracked.table.key.len();
    let mut next = || {
        at += 1;
        at
    };
    let mut sets = Vec::new();
    if mask[0] & 1 == 1 {
        sets.extend(tracked.table.key.iter().map(|column| format!("{} = ?{}", quoted(&column.name), next())));
    }
    for cell in bits(mask).filter(|cell| *cell > 0) {
        sets.push(format!("{} = ?{}", quoted(&tracked.table.columns[cell - 1].name), next()));
    }
    format!("UPDATE {} SET {} WHERE {}", quoted(&tracked.table.name), sets.join(", "), tracked.key_match(1))
}
