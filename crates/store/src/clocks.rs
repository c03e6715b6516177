//! Row clocks: one metadata row for each data row.
//!
//! `isle_c<no>(k…, h, w, x)`: the canonical key, the time of the row's stamp, whose and which life it is, and the exceptions: cells
//! with another stamp. `w` is one number, 0 for most rows of one's own, so that it takes no room:
//! ```text
//! bits  0..20  local number of the stamp's site
//! bits 20..32  column set: which columns the table had here when the row was stamped as a whole; to those that came later
//!              nobody had written then
//! bits 32..63  causal length (odd = alive, even = deleted), less 1
//! ```
//! `x` is NULL or a list, rising by cell:
//! ```text
//! v cell   v site's local number + 1   8 time, big-endian
//! ```
//! Tables with columns of a kind have one field more, `s` (see `kinds`).
//!
//! The length is always true. Stamps of the site's own updates may still be owed: whoever reads stamps settles first (see
//! `settle`).

use isle_changeset::ValueRef;
use rusqlite::types::{ToSqlOutput, ValueRef as SqlRef};
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Statement};

use crate::StoreError;
use crate::error::Doing as _;
use crate::kinds::Row;
use crate::layout::quoted;
use crate::tracked::Tracked;

/// When and where a cell was written, in this file's numbers. Not ordered: site numbers mean nothing elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LocalStamp {
    pub(crate) hlc: u64,
    pub(crate) site: i64,
}

/// Where the column set stands in `w`.
const SET_SHIFT: u32 = 20;
/// Where the causal length stands in `w`.
const LENGTH_SHIFT: u32 = 32;
/// The site's number in `w`, for SQL as well.
pub(crate) const SITE_MASK: i64 = (1 << SET_SHIFT) - 1;
const SET_MASK: i64 = (1 << (LENGTH_SHIFT - SET_SHIFT)) - 1;
/// Column sets that a table can have.
pub(crate) const SETS_MAX: usize = SET_MASK as usize + 1;
/// Columns of a row clock behind its key: `h`, `w`, `x`.
pub(crate) const CLOCK_FIELDS: usize = 3;

/// The SQL condition that a row lives, by the clock whose columns stand behind `prefix`.
pub(crate) fn alive(prefix: &str) -> String {
    format!("{prefix}w >> {LENGTH_SHIFT} & 1 = 0")
}

/// The number `w` of a clock.
fn whose(length: u64, set: usize, site: i64) -> i64 {
    (length.saturating_sub(1) as i64) << LENGTH_SHIFT | (set as i64) << SET_SHIFT | site
}

/// The causal length in `w`.
fn length_of(whose: i64) -> u64 {
    (whose >> LENGTH_SHIFT) as u64 + 1
}

impl LocalStamp {
    /// Before every write: the stamp of a column that the row's author did not have.
    pub(crate) const NEVER: LocalStamp = LocalStamp { hlc: 0, site: -1 };
}

/// The clock of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowClock {
    /// The causal length; 0 = never heard of.
    pub(crate) length: u64,
    pub(crate) stamp: LocalStamp,
    /// Cells with another stamp, rising.
    pub(crate) exceptions: Vec<(usize, LocalStamp)>,
}

impl RowClock {
    pub(crate) fn is_alive(&self) -> bool {
        self.length % 2 == 1
    }

    /// The stamp of a cell.
    pub(crate) fn cell(&self, cell: usize) -> LocalStamp {
        match self.exceptions.binary_search_by_key(&cell, |exception| exception.0) {
            Ok(at) => self.exceptions[at].1,
            Err(_) => self.stamp,
        }
    }

    /// Stamps one cell.
    pub(crate) fn stamp_cell(&mut self, cell: usize, stamp: LocalStamp) {
        match self.exceptions.binary_search_by_key(&cell, |exception| exception.0) {
            Ok(at) if stamp == self.stamp => drop(self.exceptions.remove(at)),
            Ok(at) => self.exceptions[at].1 = stamp,
            Err(_) if stamp == self.stamp => {}
            Err(at) => self.exceptions.insert(at, (cell, stamp)),
        }
    }

    /// The exceptions as stored.
    pub(crate) fn packed(&self) -> Option<Vec<u8>> {
        if self.exceptions.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(self.exceptions.len() * 10);
        for (cell, stamp) in &self.exceptions {
            put_varint(&mut out, *cell as u64);
            put_varint(&mut out, (stamp.site + 1) as u64);
            out.extend(stamp.hlc.to_be_bytes());
        }
        Some(out)
    }

    pub(crate) fn unpack(bytes: &[u8]) -> Option<Vec<(usize, LocalStamp)>> {
        let mut exceptions = Vec::with_capacity(bytes.len() / 10);
        let mut rest = bytes;
        while !rest.is_empty() {
            let cell = take_varint(&mut rest)? as usize;
            let site = take_varint(&mut rest)? as i64 - 1;
            let (hlc, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            exceptions.push((cell, LocalStamp { hlc: u64::from_be_bytes(*hlc), site }));
        }
        exceptions.is_sorted_by(|a, b| a.0 < b.0).then_some(exceptions)
    }

    /// `w` and `x` as stored: of the column sets the smallest that, with exceptions, tells of every cell.
    fn stored(&self, tracked: &Tracked) -> (i64, Option<Vec<u8>>) {
        let (sets, cells) = (&tracked.sets, tracked.cells());
        let beyond =
            |set: usize| self.exceptions.len() - self.exceptions.partition_point(|(cell, _)| *cell < sets[set]);
        // Most tables have one set, most rows no exceptions.
        let set = (0..sets.len()).find(|set| beyond(*set) == cells - sets[*set]).unwrap_or(sets.len() - 1);
        let whose = whose(self.length, set, self.stamp.site);
        if set + 1 == sets.len() {
            return (whose, self.packed());
        }
        let mut known = self.clone();
        known.exceptions.retain(|(cell, stamp)| *cell < sets[set] || *stamp != LocalStamp::NEVER);
        (whose, known.packed())
    }

    /// Reads `h, w, x` from a result row, from column `at` on; `None` where there is no clock.
    pub(crate) fn read(row: &rusqlite::Row<'_>, at: usize, tracked: &Tracked) -> Result<Option<RowClock>, StoreError> {
        let damaged = |detail: &str| StoreError::Internal { table: "isle_c", detail: detail.to_owned() };
        let (hlc, whose) =
            match (row.get_ref(at).doing("read a row clock")?, row.get_ref(at + 1).doing("read a row clock")?) {
                (SqlRef::Null, SqlRef::Null) => return Ok(None),
                (SqlRef::Integer(hlc), SqlRef::Integer(whose)) if whose >= 0 => (hlc as u64, whose),
                _ => return Err(damaged("stamp")),
            };
        let mut exceptions = match row.get_ref(at + 2).doing("read a row clock")? {
            SqlRef::Null => Vec::new(),
            SqlRef::Blob(bytes) => RowClock::unpack(bytes).ok_or_else(|| damaged("exceptions"))?,
            _ => return Err(damaged("exceptions")),
        };
        let set = tracked.sets.get((whose >> SET_SHIFT & SET_MASK) as usize);
        let known = *set.ok_or_else(|| damaged("column set"))?;
        if known < tracked.cells() {
            let mut all: Vec<_> = (known..tracked.cells()).map(|cell| (cell, LocalStamp::NEVER)).collect();
            all.retain(|(cell, _)| exceptions.binary_search_by_key(cell, |exception| exception.0).is_err());
            exceptions.extend(all);
            exceptions.sort_unstable_by_key(|exception| exception.0);
        }
        let stamp = LocalStamp { hlc, site: whose & SITE_MASK };
        Ok(Some(RowClock { length: length_of(whose), stamp, exceptions }))
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Binds a value as it is.
pub(crate) fn to_sql(value: ValueRef<'_>) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        ValueRef::Null => SqlRef::Null,
        ValueRef::Integer(v) => SqlRef::Integer(v),
        ValueRef::Real(v) => SqlRef::Real(v),
        ValueRef::Text(v) => SqlRef::Text(v),
        ValueRef::Blob(v) => SqlRef::Blob(v),
    })
}

/// Reads a value as it is.
pub(crate) fn from_sql(value: SqlRef<'_>) -> ValueRef<'_> {
    match value {
        SqlRef::Null => ValueRef::Null,
        SqlRef::Integer(v) => ValueRef::Integer(v),
        SqlRef::Real(v) => ValueRef::Real(v),
        SqlRef::Text(v) => ValueRef::Text(v),
        SqlRef::Blob(v) => ValueRef::Blob(v),
    }
}

/// The statements on one clock table, as SQL. Key parameters come first.
#[derive(Debug)]
pub(crate) struct ClockSql {
    select: String,
    length: String,
    insert: String,
    insert_run: Option<String>,
    update: String,
    bury: String,
    except: String,
    forget: String,
    state: String,
    set_state: String,
    insert_state: String,
}

impl ClockSql {
    pub(crate) fn new(no: i64, table: &isle_schema::Table) -> ClockSql {
        let keys = table.key.len();
        let list = |f: &dyn Fn(usize) -> String, separator| (0..keys).map(f).collect::<Vec<_>>().join(separator);
        let key = list(&|n| format!("k{n}"), ", ");
        let parameters = list(&|n| format!("?{}", n + 1), ", ");
        let matches = list(&|n| format!("k{n} = ?{}", n + 1), " AND ");
        let (a, b, c) = (keys + 1, keys + 2, keys + 3);
        ClockSql {
            select: format!("SELECT h, w, x FROM isle_c{no} WHERE {matches}"),
            length: format!("SELECT w FROM isle_c{no} WHERE {matches}"),
            insert: format!(
                "INSERT INTO isle_c{no}({key}, h, w) VALUES({parameters}, ?{a}, ?{b}) ON CONFLICT DO NOTHING"
            ),
            insert_run: table.rowid_key.then(|| {
                let (name, key) = (quoted(&table.name), quoted(&table.key[0].name));
                format!(
                    "INSERT INTO isle_c{no}(k0, h, w) SELECT {key}, ?3, ?4 FROM {name} WHERE {key} BETWEEN ?1 AND ?2"
                )
            }),
            update: format!("UPDATE isle_c{no} SET h = ?{a}, w = ?{b}, x = ?{c} WHERE {matches}"),
            bury: format!(
                "UPDATE isle_c{no} SET h = ?{a}, w = ?{b}, x = NULL WHERE {matches} AND w >> {LENGTH_SHIFT} = 0"
            ),
            except: format!("UPDATE isle_c{no} SET x = ?{a} WHERE {matches} AND w >> {LENGTH_SHIFT} = 0 AND x IS NULL"),
            forget: format!("DELETE FROM isle_c{no} WHERE {matches}"),
            state: format!("SELECT w, s FROM isle_c{no} WHERE {matches}"),
            insert_state: format!(
                "INSERT INTO isle_c{no}({key}, h, w, s) VALUES({parameters}, ?{a}, ?{b}, ?{c}) ON CONFLICT DO NOTHING"
            ),
            set_state: format!("UPDATE isle_c{no} SET s = ?{a} WHERE {matches}"),
        }
    }
}

/// The prepared statements on one clock table, made when they are needed first.
pub(crate) struct ClockTable<'c> {
    conn: &'c Connection,
    tracked: std::sync::Arc<Tracked>,
    keys: usize,
    select: Option<CachedStatement<'c>>,
    length: Option<CachedStatement<'c>>,
    insert: Option<CachedStatement<'c>>,
    update: Option<CachedStatement<'c>>,
    bury: Option<CachedStatement<'c>>,
    except: Option<CachedStatement<'c>>,
    state: Option<CachedStatement<'c>>,
    insert_state: Option<CachedStatement<'c>>,
    set_state: Option<CachedStatement<'c>>,
    /// What the insert statement has bound behind the key: a bulk insert binds it once.
    inserting: Option<(u64, LocalStamp)>,
    /// The same of the statement that stamps cells.
    excepting: Option<(Vec<u64>, LocalStamp)>,
}

/// The statement of a slot, prepared now if it is not yet.
fn prepared<'s, 'c>(
    slot: &'s mut Option<CachedStatement<'c>>,
    conn: &'c Connection,
    sql: &str,
) -> Result<&'s mut CachedStatement<'c>, StoreError> {
    Ok(match slot {
        Some(statement) => statement,
        None => slot.insert(conn.prepare_cached(sql).doing("prepare a row clock")?),
    })
}

impl<'c> ClockTable<'c> {
    pub(crate) fn open(conn: &'c Connection, tracked: &std::sync::Arc<Tracked>) -> ClockTable<'c> {
        ClockTable {
            conn,
            tracked: std::sync::Arc::clone(tracked),
            keys: tracked.table.key.len(),
            select: None,
            length: None,
            insert: None,
            update: None,
            bury: None,
            except: None,
            state: None,
            insert_state: None,
            set_state: None,
            inserting: None,
            excepting: None,
        }
    }

    /// The clock of a key.
    pub(crate) fn get(&mut self, key: &[ValueRef<'_>]) -> Result<Option<RowClock>, StoreError> {
        let statement = prepared(&mut self.select, self.conn, &self.tracked.clock_sql.select)?;
        bind(statement, key, 1)?;
        let mut rows = statement.raw_query();
        match rows.next().doing("read a row clock")? {
            None => Ok(None),
            Some(row) => RowClock::read(row, 0, &self.tracked),
        }
    }

    /// The causal length of a key; 0 if it was never heard of. True even while stamps are owed (see `settle`).
    pub(crate) fn length(&mut self, key: &[ValueRef<'_>]) -> Result<u64, StoreError> {
        let statement = prepared(&mut self.length, self.conn, &self.tracked.clock_sql.length)?;
        bind(statement, key, 1)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next().doing("read a row clock")? else { return Ok(0) };
        match row.get_ref(0).doing("read a row clock")? {
            SqlRef::Integer(whose) if whose >= 0 => Ok(length_of(whose)),
            _ => Err(StoreError::Internal { table: "isle_c", detail: "causal length".to_owned() }),
        }
    }

    /// Writes the clock of a key that has none; false if it has one.
    pub(crate) fn insert(&mut self, key: &[ValueRef<'_>], length: u64, stamp: LocalStamp) -> Result<bool, StoreError> {
        let statement = prepared(&mut self.insert, self.conn, &self.tracked.clock_sql.insert)?;
        bind(statement, key, 1)?;
        if self.inserting != Some((length, stamp)) {
            let whose = whose(length, self.tracked.sets.len() - 1, stamp.site);
            statement.raw_bind_parameter(self.keys + 1, stamp.hlc as i64).doing("write a row clock")?;
            statement.raw_bind_parameter(self.keys + 2, whose).doing("write a row clock")?;
            self.inserting = Some((length, stamp));
        }
        Ok(statement.raw_execute().doing("write a row clock")? == 1)
    }

    /// Writes the first clocks of rows whose integer keys follow one another: in one statement, less than half the cost of one
    /// each. False, and nothing is written, if one of them has a clock, or is not there.
    pub(crate) fn insert_run(&mut self, first: i64, last: i64, stamp: LocalStamp) -> Result<bool, StoreError> {
        let Some(sql) = &self.tracked.clock_sql.insert_run else { return Ok(false) };
        let mut statement = self.conn.prepare_cached(sql).doing("write row clocks")?;
        let whose = whose(1, self.tracked.sets.len() - 1, stamp.site);
        match statement.execute((first, last, stamp.hlc as i64, whose)) {
            Ok(written) if written as i64 - 1 == last - first => Ok(true),
            Ok(_) => {
                // Some went again unnoticed, say by a REPLACE in another index. No row of the run had a clock before.
                let sql = format!("DELETE FROM {} WHERE k0 BETWEEN ?1 AND ?2", self.tracked.clock());
                self.conn.execute(&sql, (first, last)).doing("write row clocks")?;
                Ok(false)
            }
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => Ok(false),
            Err(error) => Err(error).doing("write row clocks"),
        }
    }

    /// Ends a first life in one statement, the common case of a delete; false if the row is in another life.
    pub(crate) fn bury_first_life(&mut self, key: &[ValueRef<'_>], stamp: LocalStamp) -> Result<bool, StoreError> {
        let statement = prepared(&mut self.bury, self.conn, &self.tracked.clock_sql.bury)?;
        bind(statement, key, 1)?;
        statement.raw_bind_parameter(self.keys + 1, stamp.hlc as i64).doing("write a row clock")?;
        statement.raw_bind_parameter(self.keys + 2, whose(2, 0, stamp.site)).doing("write a row clock")?;
        Ok(statement.raw_execute().doing("write a row clock")? == 1)
    }

    /// Stamps cells of a row in its first life that has no exceptions yet, the common case of an update; false if it is not so.
    pub(crate) fn except_untouched(
        &mut self,
        key: &[ValueRef<'_>],
        mask: &[u64],
        stamp: LocalStamp,
    ) -> Result<bool, StoreError> {
        let statement = prepared(&mut self.except, self.conn, &self.tracked.clock_sql.except)?;
        bind(statement, key, 1)?;
        if !matches!(&self.excepting, Some((bound, at)) if bound == mask && *at == stamp) {
            let exceptions = crate::seal::bits(mask).map(|cell| (cell, stamp)).collect();
            let clock = RowClock { length: 1, stamp, exceptions };
            statement.raw_bind_parameter(self.keys + 1, clock.packed()).doing("write a row clock")?;
            self.excepting = Some((mask.to_vec(), stamp));
        }
        Ok(statement.raw_execute().doing("write a row clock")? == 1)
    }

    /// Replaces the clock of a key that has one.
    pub(crate) fn update(&mut self, key: &[ValueRef<'_>], clock: &RowClock) -> Result<(), StoreError> {
        let statement = prepared(&mut self.update, self.conn, &self.tracked.clock_sql.update)?;
        bind(statement, key, 1)?;
        let (whose, exceptions) = clock.stored(&self.tracked);
        statement.raw_bind_parameter(self.keys + 1, clock.stamp.hlc as i64).doing("write a row clock")?;
        statement.raw_bind_parameter(self.keys + 2, whose).doing("write a row clock")?;
        statement.raw_bind_parameter(self.keys + 3, exceptions).doing("write a row clock")?;
        statement.raw_execute().doing("write a row clock")?;
        Ok(())
    }

    /// The causal length of a key and the state of the row's columns of kinds (see `kinds`); of tables that have some.
    pub(crate) fn state(&mut self, key: &[ValueRef<'_>]) -> Result<(u64, Row), StoreError> {
        let damaged = |detail: &str| StoreError::Internal { table: "isle_c", detail: detail.to_owned() };
        let statement = prepared(&mut self.state, self.conn, &self.tracked.clock_sql.state)?;
        bind(statement, key, 1)?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next().doing("read a state")? else { return Ok((0, Row::default())) };
        let state = match row.get_ref(1).doing("read a state")? {
            SqlRef::Null => Row::default(),
            SqlRef::Blob(bytes) => Row::unpack(Some(bytes))?,
            _ => return Err(damaged("state of a kind")),
        };
        match row.get_ref(0).doing("read a state")? {
            SqlRef::Integer(whose) if whose >= 0 => Ok((length_of(whose), state)),
            _ => Err(damaged("causal length")),
        }
    }

    /// Writes clock and state of a key that has none; false if it has one.
    pub(crate) fn insert_with_state(
        &mut self,
        key: &[ValueRef<'_>],
        stamp: LocalStamp,
        state: Option<&[u8]>,
    ) -> Result<bool, StoreError> {
        let whose = whose(1, self.tracked.sets.len() - 1, stamp.site);
        let statement = prepared(&mut self.insert_state, self.conn, &self.tracked.clock_sql.insert_state)?;
        bind(statement, key, 1)?;
        statement.raw_bind_parameter(self.keys + 1, stamp.hlc as i64).doing("write a row clock")?;
        statement.raw_bind_parameter(self.keys + 2, whose).doing("write a row clock")?;
        statement.raw_bind_parameter(self.keys + 3, state).doing("write a row clock")?;
        Ok(statement.raw_execute().doing("write a row clock")? == 1)
    }

    /// Writes the state of a row that has a clock.
    pub(crate) fn set_state(&mut self, key: &[ValueRef<'_>], state: Option<&[u8]>) -> Result<(), StoreError> {
        let statement = prepared(&mut self.set_state, self.conn, &self.tracked.clock_sql.set_state)?;
        bind(statement, key, 1)?;
        statement.raw_bind_parameter(self.keys + 1, state).doing("write a state")?;
        statement.raw_execute().doing("write a state")?;
        Ok(())
    }

    /// Forgets that there ever was a row of this key.
    pub(crate) fn forget(&mut self, key: &[ValueRef<'_>]) -> Result<(), StoreError> {
        let mut statement = self.conn.prepare_cached(&self.tracked.clock_sql.forget).doing("collect a row clock")?;
        bind(&mut statement, key, 1)?;
        statement.raw_execute().doing("collect a row clock")?;
        Ok(())
    }

    /// Writes the clock of a key, new or not.
    pub(crate) fn put(&mut self, key: &[ValueRef<'_>], known: bool, clock: &RowClock) -> Result<(), StoreError> {
        if !known {
            self.insert(key, clock.length, clock.stamp)?;
            if clock.exceptions.is_empty() {
                return Ok(());
            }
        }
        self.update(key, clock)
    }
}

/// The clock of one key.
pub(crate) fn clock(
    conn: &Connection,
    tracked: &Tracked,
    key: &[ValueRef<'_>],
) -> Result<Option<RowClock>, StoreError> {
    let mut statement = conn.prepare_cached(&tracked.clock_sql.select).doing("read a row clock")?;
    bind(&mut statement, key, 1)?;
    let mut rows = statement.raw_query();
    let row = rows.next().doing("read a row clock")?;
    row.map_or(Ok(None), |row| RowClock::read(row, 0, tracked))
}

/// Binds values from parameter `first` on.
pub(crate) fn bind(statement: &mut Statement<'_>, values: &[ValueRef<'_>], first: usize) -> Result<(), StoreError> {
    for (n, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(first + n, to_sql(*value)).doing("bind a value")?;
    }
    Ok(())
}

/// One value of one row.
pub(crate) fn one<T: rusqlite::types::FromSql>(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> Result<Option<T>, StoreError> {
    let mut statement = conn.prepare_cached(sql).doing("read isle's tables")?;
    statement.query_row(params, |row| row.get(0)).optional().doing("read isle's tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hlc: u64, site: i64) -> LocalStamp {
        LocalStamp { hlc, site }
    }

    #[test]
    fn exceptions_stay_sorted_and_vanish_when_a_cell_rejoins_its_row() {
        let mut clock = RowClock { length: 1, stamp: at(5, 0), exceptions: vec![] };
        clock.stamp_cell(3, at(9, 1));
        clock.stamp_cell(1, at(7, 300));
        clock.stamp_cell(2, at(5, 0));
        assert_eq!(clock.exceptions, [(1, at(7, 300)), (3, at(9, 1))]);
        let packed = clock.packed().expect("has exceptions");
        assert_eq!(RowClock::unpack(&packed), Some(clock.exceptions.clone()));
        assert_eq!(RowClock::unpack(&packed[..packed.len() - 1]), None);
        clock.stamp_cell(3, at(5, 0));
        assert_eq!((clock.cell(3), clock.cell(1)), (at(5, 0), at(7, 300)));
        assert_eq!(clock.exceptions.len(), 1);
    }
}
