//! What a merge decides, told to cr-sqlite; and its clocks written anew, or compared, where rows were not merged one by one.

use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{Value, ValueRef, canonical_key, unpack_key};
use isle_crsqlite::{Cell, CrSqliteError, Crr, Life, Site};
use rusqlite::Connection;

use crate::StoreError;
use crate::clocks::{ClockTable, LocalStamp, RowClock, from_sql};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::seal::bits;
use crate::tracked::{Tracked, join};

/// What a merge needs to show its rows in a CRR.
pub(crate) struct Shown<'c> {
    conn: &'c Connection,
    sites: HashMap<i64, Site>,
}

impl<'c> Shown<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Shown<'c> {
        Shown { conn, sites: HashMap::new() }
    }

    /// A cell with a stamp in cr-sqlite's terms.
    fn cell<'v>(&mut self, cell: usize, stamp: LocalStamp, value: ValueRef<'v>) -> Result<Cell<'v>, StoreError> {
        Ok(Cell { column: cell - 1, value, version: stamp.hlc as i64, site: self.site(stamp.site)? })
    }

    fn life(&mut self, clock: &RowClock) -> Result<Life, StoreError> {
        Ok(Life { length: clock.length, version: clock.stamp.hlc as i64, site: self.site(clock.stamp.site)? })
    }

    fn site(&mut self, no: i64) -> Result<Site, StoreError> {
        if let Some(known) = self.sites.get(&no) {
            return Ok(*known);
        }
        let id = *crate::own::site_id(self.conn, no)?.as_bytes();
        self.sites.insert(no, id);
        Ok(id)
    }

    /// Lets cr-sqlite merge the masked cells of a row that lives by this clock, without regard to the exact form of its key; false if it came to something
    /// else, or could not: then [`Shown::settle`] is due once the row is written.
    pub(crate) fn merge(
        &mut self,
        crr: &Crr,
        key: &[ValueRef<'_>],
        clock: &RowClock,
        (mask, cells): (&[u64], &[ValueRef<'_>]),
    ) -> Result<bool, StoreError> {
        let mut merged = Vec::new();
        for cell in bits(mask).filter(|cell| *cell > 0) {
            let stamp = clock.cell(cell);
            if stamp == LocalStamp::NEVER {
                return Ok(false);
            }
            merged.push(self.cell(cell, stamp, cells[cell])?);
        }
        let life = self.life(clock)?;
        self.judged(crr.merge(self.conn, key, life, &merged))
    }

    /// Lets cr-sqlite delete a row that is dead by this clock.
    pub(crate) fn delete(&mut self, crr: &Crr, key: &[ValueRef<'_>], clock: &RowClock) -> Result<bool, StoreError> {
        let life = self.life(clock)?;
        self.judged(crr.delete(self.conn, key, life))
    }

    /// What cr-sqlite refuses, as a constraint does, is not the disk's fault: it is done by force.
    fn judged(&self, result: Result<bool, CrSqliteError>) -> Result<bool, StoreError> {
        let result = result.map_err(StoreError::from);
        isle_crsqlite::quiet(self.conn, true)?;
        match result {
            // Unless a trigger of the app has rolled everything back.
            Err(error) if error.is_refusal() && !self.conn.is_autocommit() => {
                tracing::debug!(%error, "cr-sqlite refused a merged row");
                Ok(false)
            }
            other => other,
        }
    }

    /// Makes cr-sqlite's clocks say what this clock says; without one, that the row was never heard of.
    pub(crate) fn settle(
        &mut self,
        crr: &Crr,
        key: &[ValueRef<'_>],
        clock: Option<&RowClock>,
        cells: usize,
    ) -> Result<(), StoreError> {
        let mut stamped = Vec::new();
        if let Some(clock) = clock.filter(|clock| clock.is_alive()) {
            for cell in (1..cells).filter(|cell| clock.cell(*cell) != LocalStamp::NEVER) {
                stamped.push(self.cell(cell, clock.cell(cell), ValueRef::Null)?);
            }
        }
        let life = match clock {
            Some(clock) => self.life(clock)?,
            None => Life { length: 0, version: 0, site: Site::default() },
        };
        Ok(crr.settle(self.conn, key, life, &stamped)?)
    }
}

/// Writes cr-sqlite's clocks of a table anew, from the row clocks, in which nothing may be owed.
pub(super) fn mirror(conn: &Connection, tracked: &Tracked, crr: &Crr) -> Result<(), StoreError> {
    let keys = join(tracked.clock_key().into_iter(), ", ");
    let sql = format!("SELECT h, w, x, {keys} FROM {}", tracked.clock());
    let mut statement = conn.prepare(&sql).doing("write cr-sqlite's clocks")?;
    let mut rows = statement.raw_query();
    let mut shown = Shown::new(conn);
    while let Some(row) = rows.next().doing("write cr-sqlite's clocks")? {
        let clock = RowClock::read(row, 0, tracked)?;
        let key = (0..tracked.table.key.len()).map(|n| row.get_ref(crate::clocks::CLOCK_FIELDS + n).map(from_sql));
        let key: Vec<_> = key.collect::<Result<_, _>>().doing("write cr-sqlite's clocks")?;
        shown.settle(crr, &key, clock.as_ref(), tracked.cells())?;
    }
    Ok(())
}

/// The same of rows that were written past cr-sqlite, by the table's number and the packed key.
pub(crate) fn settle_rows(engine: &Engine, rows: &[(i64, Vec<u8>)]) -> Result<(), StoreError> {
    let mut shown = Shown::new(&engine.conn);
    for (no, packed) in rows {
        let Some(tracked) = engine.tables.iter().find(|tracked| tracked.no == *no) else { continue };
        let (Some(crr), Ok(key)) = (&tracked.crr, unpack_key(packed, tracked.table.key.len())) else { continue };
        let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        let clock = ClockTable::open(&engine.conn, tracked).get(&key)?;
        shown.settle(crr, &key, clock.as_ref(), tracked.cells())?;
    }
    Ok(())
}

/// The same of every CRR, where stamps changed past cr-sqlite.
pub(crate) fn mirror_all(engine: &Engine) -> Result<(), StoreError> {
    if engine.tables.iter().any(|tracked| tracked.crr.is_some()) {
        engine.settle()?;
    }
    for tracked in &engine.tables {
        if let Some(crr) = &tracked.crr {
            mirror(&engine.conn, tracked, crr)?;
            forget_collected(&engine.conn, tracked)?;
        }
    }
    Ok(())
}

/// Forgets deleted rows in cr-sqlite's clocks that the row clocks have forgotten.
pub(crate) fn forget_collected(conn: &Connection, tracked: &Arc<Tracked>) -> Result<(), StoreError> {
    let Some(crr) = &tracked.crr else { return Ok(()) };
    let mut clocks = ClockTable::open(conn, tracked);
    crr.collect(conn, |key| {
        let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        let (key, _) = canonical_key(&key, &tracked.table.key);
        let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        Ok::<_, StoreError>(clocks.length(&key)? > 0)
    })
}

/// Rows of a CRR of which cr-sqlite's clocks say something else than the row clocks; `None` while stamps are owed, or writes wait to be sealed.
pub(crate) fn differing(conn: &Connection, tracked: &Tracked) -> Result<Option<u64>, StoreError> {
    let (Some(crr), true) = (&tracked.crr, crate::settle::unsettled(conn)?.is_none()) else { return Ok(None) };
    if isle_crsqlite::is_written(conn, crr.table())? {
        return Ok(None);
    }
    let keys = join(tracked.clock_key().into_iter(), ", ");
    let sql = format!("SELECT h, w, x, {keys} FROM {} WHERE {}", tracked.clock(), crate::clocks::alive(""));
    let mut statement = conn.prepare(&sql).doing("compare clocks")?;
    let mut rows = statement.raw_query();
    let mut differing = 0;
    while let Some(row) = rows.next().doing("compare clocks")? {
        let Some(clock) = RowClock::read(row, 0, tracked)? else { continue };
        let key = (0..tracked.table.key.len()).map(|n| row.get_ref(crate::clocks::CLOCK_FIELDS + n).map(from_sql));
        let key: Vec<_> = key.collect::<Result<_, _>>().doing("compare clocks")?;
        let state = crr.state(conn, &key)?;
        let same = state.is_some_and(|state| {
            let stands = |cell: usize| match clock.cell(cell) {
                LocalStamp::NEVER => true,
                stamp => state.cells.iter().any(|(column, at, _)| column + 1 == cell && *at == stamp.hlc as i64),
            };
            state.length as u64 == clock.length && (1..tracked.cells()).all(stands)
        });
        differing += u64::from(!same);
    }
    Ok(Some(differing))
}
