//! The clocks of one CRR: what was written, what others wrote, and what is to stand.

use std::collections::HashMap;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row, Statement};

use crate::{CrSqliteError, Doing as _, quoted};

/// cr-sqlite's name for a row as such: its causal length stands there.
const SENTINEL: &str = "-1";

/// The id of the site that wrote something, as isle has it: not the id that cr-sqlite drew for this file.
pub type Site = [u8; 16];

/// A cell with who wrote it when. The number of the column counts from 0, key columns not counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell<'a> {
    /// The column's number.
    pub column: usize,
    /// Its value.
    pub value: ValueRef<'a>,
    /// The time of the write.
    pub version: i64,
    /// Who wrote it.
    pub site: Site,
}

/// Which life of a row it is, and who began or ended it when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The causal length: odd = alive, even = deleted.
    pub length: u64,
    /// The time.
    pub version: i64,
    /// Who.
    pub site: Site,
}

/// What was done to a row in one version.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// cr-sqlite's number of the row.
    pub number: i64,
    /// Its key.
    pub key: Vec<Value>,
    /// Its causal length today.
    pub length: u64,
    /// The columns that were written.
    pub columns: Vec<usize>,
}

/// What cr-sqlite's clocks say of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its causal length: odd = alive, even = deleted.
    pub length: i64,
    /// The version and the ordinal of the site of each column that has any, rising by column.
    pub cells: Vec<(usize, i64, i64)>,
}

/// A CRR with the statements on its clocks.
#[derive(Debug)]
pub struct Crr {
    table: String,
    columns: Vec<String>,
    numbers: HashMap<String, usize>,
    rows: String,
    written: String,
    lives: String,
    dead: String,
    stamp: String,
    change: String,
    key: String,
    add_key: String,
    state: String,
    clock: String,
    keys: usize,
}

impl Crr {
    /// A table by its name, with its key columns in the order of the key and its other columns.
    pub fn new(table: &str, key: &[&str], columns: &[&str]) -> Crr {
        let clock = quoted(&format!("{table}__crsql_clock"));
        let pks = quoted(&format!("{table}__crsql_pks"));
        let list = |f: &dyn Fn(usize, &str) -> String, separator: &str| {
            key.iter().enumerate().map(|(n, name)| f(n, name)).collect::<Vec<_>>().join(separator)
        };
        let of_key = list(&|_, name| format!("p.{}", quoted(name)), ", ");
        let names = list(&|_, name| quoted(name), ", ");
        let places = list(&|n, _| format!("?{}", n + 1), ", ");
        let matches = list(&|n, name| format!("{} = ?{}", quoted(name), n + 1), " AND ");
        let at = key.len();
        let rows = format!("{clock} AS c JOIN {pks} AS p ON p.__crsql_key = c.key");
        Crr {
            rows: format!("{of_key} FROM {rows}"),
            written: format!("SELECT c.key, c.col_name, {of_key} FROM {rows} WHERE c.site_id = 0 ORDER BY c.key"),
            lives: format!("SELECT c.key, {of_key} FROM {rows} WHERE c.site_id = 0 AND c.col_name = '{SENTINEL}'"),
            dead: format!(
                "SELECT c.key, {of_key} FROM {rows} WHERE c.col_name = '{SENTINEL}' AND c.col_version % 2 = 0"
            ),
            stamp: format!(
                "UPDATE {clock} SET col_version = ?1, db_version = ?1, ts = ?2, site_id = ?3 WHERE site_id = 0"
            ),
            change: format!(
                "INSERT INTO crsql_changes(\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq, ts)
                 VALUES(?{}, crsql_pack_columns({places}), ?{}, ?{}, ?{}, ?{}, ?{}, ?{}, ?{}, ?{})",
                at + 1,
                at + 2,
                at + 3,
                at + 4,
                at + 5,
                at + 6,
                at + 7,
                at + 8,
                at + 9
            ),
            key: format!("SELECT __crsql_key FROM {pks} WHERE {matches}"),
            add_key: format!("INSERT INTO {pks}({names}) VALUES({places})"),
            state: format!("SELECT col_name, col_version, site_id FROM {clock} WHERE key = ?1"),
            clock,
            keys: at,
            numbers: columns.iter().enumerate().map(|(n, name)| ((*name).to_owned(), n)).collect(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            table: table.to_owned(),
        }
    }

    /// Gives each row of the table that was written to here and is not stamped yet: its key, and the columns that changed; `None` where the row
    /// as a whole came, went or came again.
    ///
    /// # Errors
    /// What `f` gives, and SQLite's reason.
    pub fn written<E: From<CrSqliteError>>(
        &self,
        conn: &Connection,
        mut f: impl FnMut(&[Value], Option<&[usize]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let doing = "read what was written";
        let mut statement = conn.prepare_cached(&self.written).doing(doing)?;
        let mut rows = statement.query([]).doing(doing)?;
        let mut last: Option<(i64, Vec<Value>)> = None;
        let (mut changed, mut whole) = (Vec::new(), false);
        while let Some(row) = rows.next().doing(doing)? {
            let number: i64 = row.get(0).doing(doing)?;
            if last.as_ref().is_none_or(|(known, _)| *known != number) {
                if let Some((_, key)) = &last {
                    f(key, if whole { None } else { Some(&changed) })?;
                }
                last = Some((number, self.key_of(row, 2)?));
                (changed, whole) = (Vec::new(), false);
            }
            let name: String = row.get(1).doing(doing)?;
            match self.numbers.get(&name) {
                Some(column) => changed.push(*column),
                None => whole |= name == SENTINEL,
            }
        }
        match &last {
            Some((_, key)) => f(key, if whole { None } else { Some(&changed) }),
            None => Ok(()),
        }
    }

    fn key_of(&self, row: &Row<'_>, at: usize) -> Result<Vec<Value>, CrSqliteError> {
        let key = (at..at + self.keys).map(|n| row.get(n));
        key.collect::<Result<_, _>>().doing("read a key")
    }

    /// Gives what was written here since the last time its time and its site, and the rows that came and went the lives that `length` says: 0 for one that
    /// never was.
    ///
    /// # Errors
    /// What `length` gives, and SQLite's reason.
    pub fn stamp<E: From<CrSqliteError>>(
        &self,
        conn: &Connection,
        version: i64,
        site: Site,
        mut length: impl FnMut(&[Value]) -> Result<u64, E>,
    ) -> Result<(), E> {
        let doing = "stamp what was written";
        let lives = self.keys_of(conn, &self.lives)?;
        let site = known_ordinal(conn, site)?;
        let mut statement = conn.prepare_cached(&self.stamp).doing(doing)?;
        statement.execute((version, version.to_string(), site)).doing(doing)?;
        for (number, key) in lives {
            self.set_length(conn, number, length(&key)? as i64)?;
        }
        Ok(())
    }

    fn keys_of(&self, conn: &Connection, sql: &str) -> Result<Vec<(i64, Vec<Value>)>, CrSqliteError> {
        let mut statement = conn.prepare_cached(sql).doing("read keys")?;
        let mut rows = statement.query([]).doing("read keys")?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next().doing("read keys")? {
            keys.push((row.get(0).doing("read keys")?, self.key_of(row, 1)?));
        }
        Ok(keys)
    }

    /// Notes columns of a row as written here, as the triggers do.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn record(&self, conn: &Connection, key: &[ValueRef<'_>], columns: &[usize]) -> Result<(), CrSqliteError> {
        let doing = "record a write";
        let Some(number) = self.number(conn, key)? else { return Ok(()) };
        let sql = format!("UPDATE {} SET site_id = 0 WHERE key = ?1 AND col_name = ?2", self.clock);
        let mut statement = conn.prepare_cached(&sql).doing(doing)?;
        for column in columns {
            statement.execute((number, &self.columns[*column])).doing(doing)?;
        }
        Ok(())
    }

    fn set_length(&self, conn: &Connection, number: i64, length: i64) -> Result<(), CrSqliteError> {
        let doing = "write a causal length";
        let clock = &self.clock;
        if length == 0 {
            let mut all = conn.prepare_cached(&format!("DELETE FROM {clock} WHERE key = ?1")).doing(doing)?;
            all.execute([number]).doing(doing)?;
            return Ok(());
        }
        let sql = format!("UPDATE {clock} SET col_version = ?2 WHERE key = ?1 AND col_name = '{SENTINEL}'");
        conn.prepare_cached(&sql).doing(doing)?.execute((number, length)).doing(doing)?;
        Ok(())
    }

    /// Lets cr-sqlite merge cells of one row that lives by `life`: its causal length, and who began it when; without cells the row as such. True if
    /// cr-sqlite's clocks say the same afterwards; otherwise [`Crr::settle`] is due. The triggers fire again when this returns.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn merge(
        &self,
        conn: &Connection,
        key: &[ValueRef<'_>],
        life: Life,
        cells: &[Cell<'_>],
    ) -> Result<bool, CrSqliteError> {
        for cell in cells {
            let column = &self.columns[cell.column];
            self.change(conn, key, (column, cell.value), (cell.version, cell.version, cell.site), life.length)?;
        }
        if cells.is_empty() {
            self.change(
                conn,
                key,
                (SENTINEL, ValueRef::Null),
                (life.length as i64, life.version, life.site),
                life.length,
            )?;
        }
        self.stands(conn, key, life.length, cells)
    }

    /// Lets cr-sqlite delete a row, or note one that never was here as deleted. True if it did. The triggers fire again when this returns.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn delete(&self, conn: &Connection, key: &[ValueRef<'_>], life: Life) -> Result<bool, CrSqliteError> {
        self.merge(conn, key, life, &[])
    }

    fn change(
        &self,
        conn: &Connection,
        key: &[ValueRef<'_>],
        (name, value): (&str, ValueRef<'_>),
        (version, at, site): (i64, i64, Site),
        length: u64,
    ) -> Result<(), CrSqliteError> {
        let doing = "merge a change";
        let mut statement = conn.prepare_cached(&self.change).doing(doing)?;
        let next = bind_key(&mut statement, key)?;
        let mut bind = |at: usize, value: ToSqlOutput<'_>| statement.raw_bind_parameter(next + at, value).doing(doing);
        bind(0, self.table.as_str().into())?;
        bind(1, name.into())?;
        bind(2, ToSqlOutput::Borrowed(value))?;
        bind(3, version.into())?;
        bind(4, at.into())?;
        bind(5, ToSqlOutput::Borrowed(ValueRef::Blob(&site)))?;
        bind(6, (length as i64).into())?;
        bind(7, 0.into())?;
        bind(8, version.to_string().into())?;
        statement.raw_execute().doing(doing)?;
        Ok(())
    }

    /// Whether the clocks say this of a row; other cells of it may say anything.
    fn stands(
        &self,
        conn: &Connection,
        key: &[ValueRef<'_>],
        length: u64,
        cells: &[Cell<'_>],
    ) -> Result<bool, CrSqliteError> {
        let Some(state) = self.state(conn, key)? else { return Ok(false) };
        if state.length != length as i64 {
            return Ok(false);
        }
        for cell in cells {
            let ordinal = ordinal(conn, cell.site)?;
            let is = |(column, version, site): &(usize, i64, i64)| {
                *column == cell.column && *version == cell.version && Some(*site) == ordinal
            };
            if !state.cells.iter().any(is) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn number(&self, conn: &Connection, key: &[ValueRef<'_>]) -> Result<Option<i64>, CrSqliteError> {
        let mut statement = conn.prepare_cached(&self.key).doing("look for a key")?;
        bind_key(&mut statement, key)?;
        let mut rows = statement.raw_query();
        rows.next().doing("look for a key")?.map(|row| row.get(0)).transpose().doing("look for a key")
    }

    /// What the clocks say of a row; `None` if they never heard of it.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn state(&self, conn: &Connection, key: &[ValueRef<'_>]) -> Result<Option<State>, CrSqliteError> {
        let Some(number) = self.number(conn, key)? else { return Ok(None) };
        let mut statement = conn.prepare_cached(&self.state).doing("read clocks")?;
        let mut rows = statement.query([number]).doing("read clocks")?;
        let (mut length, mut cells, mut any) = (1, Vec::new(), false);
        while let Some(row) = rows.next().doing("read clocks")? {
            any = true;
            let (name, version, site): (String, i64, i64) = row.try_into().doing("read clocks")?;
            match self.numbers.get(&name) {
                Some(column) => cells.push((*column, version, site)),
                None if name == SENTINEL => length = version,
                None => {}
            }
        }
        cells.sort_unstable();
        Ok(any.then_some(State { length, cells }))
    }

    /// Makes the clocks of a row say exactly this, whatever they said: a life (of length 0: the row was never heard of), and the version and writer of
    /// each column that has any. The values are the caller's to write.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn settle(
        &self,
        conn: &Connection,
        key: &[ValueRef<'_>],
        life: Life,
        cells: &[Cell<'_>],
    ) -> Result<(), CrSqliteError> {
        let doing = "write clocks";
        let length = life.length;
        let number = match (self.number(conn, key)?, length) {
            (None, 0) => return Ok(()),
            (Some(number), _) => number,
            (None, _) => {
                let mut statement = conn.prepare_cached(&self.add_key).doing(doing)?;
                bind_key(&mut statement, key)?;
                statement.raw_execute().doing(doing)?;
                conn.last_insert_rowid()
            }
        };
        let clock = &self.clock;
        conn.prepare_cached(&format!("DELETE FROM {clock} WHERE key = ?1"))
            .doing(doing)?
            .execute([number])
            .doing(doing)?;
        let sql = format!(
            "INSERT INTO {clock}(key, col_name, col_version, db_version, site_id, seq, ts) VALUES(?1, ?2, ?3, ?4, ?5, 0, ?6)"
        );
        let mut statement = conn.prepare_cached(&sql).doing(doing)?;
        if length > 1 || (length == 1 && cells.is_empty()) {
            let (at, site) = (life.version, known_ordinal(conn, life.site)?);
            statement.execute((number, SENTINEL, length as i64, at, site, at.to_string())).doing(doing)?;
        }
        if length.is_multiple_of(2) {
            return Ok(());
        }
        for cell in cells {
            let (name, at, site) = (&self.columns[cell.column], cell.version, known_ordinal(conn, cell.site)?);
            statement.execute((number, name, at, at, site, at.to_string())).doing(doing)?;
        }
        Ok(())
    }

    /// The versions of its cells, each once. Deleted rows, and rows of tables without other columns, count as of version 1.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn versions(&self, conn: &Connection) -> Result<Vec<i64>, CrSqliteError> {
        let sql = format!(
            "SELECT DISTINCT iif(col_name = '{SENTINEL}', 1, col_version) FROM {} WHERE col_version > 0",
            self.clock
        );
        let mut statement = conn.prepare(&sql).doing("read versions")?;
        let versions = statement.query_map([], |row| row.get(0)).doing("read versions")?;
        versions.collect::<Result<_, _>>().doing("read versions")
    }

    /// Sorts what the clocks say by version, in a temporary table, for [`Crr::past`].
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn open_past(&self, conn: &Connection) -> Result<(), CrSqliteError> {
        // The sentinel of a row that lives says nothing but its length, where it has other columns.
        let counts = if self.columns.is_empty() { "1" } else { "col_name <> '-1' OR col_version % 2 = 0" };
        let sql = format!(
            "CREATE TEMP TABLE {0}(version INT, key INT, name TEXT, PRIMARY KEY(version, key, name)) WITHOUT ROWID;
             INSERT INTO temp.{0} SELECT iif(col_name = '{SENTINEL}', 1, col_version), key, col_name FROM {1} WHERE col_version > 0 AND ({counts})",
            self.past_table(),
            self.clock
        );
        conn.execute_batch(&sql).doing("sort the past")
    }

    /// Drops that table.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn close_past(&self, conn: &Connection) -> Result<(), CrSqliteError> {
        conn.execute_batch(&format!("DROP TABLE temp.{}", self.past_table())).doing("sort the past")
    }

    fn past_table(&self) -> String {
        quoted(&format!("{}__past", self.table))
    }

    /// Gives what has this version, by row in the order of the keys.
    ///
    /// # Errors
    /// What `f` gives, and SQLite's reason.
    pub fn past<E: From<CrSqliteError>>(
        &self,
        conn: &Connection,
        version: i64,
        mut f: impl FnMut(Past) -> Result<(), E>,
    ) -> Result<(), E> {
        let doing = "read the past";
        let of_key = (0..self.keys).map(|n| (n + 4).to_string()).collect::<Vec<_>>().join(", ");
        let length = format!(
            "coalesce((SELECT l.col_version FROM {} AS l WHERE l.key = c.key AND l.col_name = '{SENTINEL}'), 1)",
            self.clock
        );
        let rows = self.rows.replace(&self.clock, &format!("temp.{}", self.past_table()));
        let sql = format!("SELECT c.key, c.name, {length}, {rows} WHERE c.version = ?1 ORDER BY {of_key}, c.key");
        let mut statement = conn.prepare(&sql).doing(doing)?;
        let mut rows = statement.query([version]).doing(doing)?;
        let mut last: Option<Past> = None;
        while let Some(row) = rows.next().doing(doing)? {
            let (number, name): (i64, String) = (row.get(0).doing(doing)?, row.get(1).doing(doing)?);
            if last.as_ref().is_none_or(|last| last.number != number) {
                let length = row.get::<_, i64>(2).doing(doing)? as u64;
                let next = Past { number, key: self.key_of(row, 3)?, length, columns: Vec::new() };
                if let Some(last) = last.replace(next) {
                    f(last)?;
                }
            }
            if let (Some(last), Some(column)) = (&mut last, self.numbers.get(&name)) {
                last.columns.push(*column);
            }
        }
        last.map_or(Ok(()), f)
    }

    /// Forgets deleted rows for which `keep` is false.
    ///
    /// # Errors
    /// What `keep` gives, and SQLite's reason.
    pub fn collect<E: From<CrSqliteError>>(
        &self,
        conn: &Connection,
        mut keep: impl FnMut(&[Value]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut gone = Vec::new();
        for (number, key) in self.keys_of(conn, &self.dead)? {
            if !keep(&key)? {
                gone.push(number);
            }
        }
        for number in gone {
            self.set_length(conn, number, 0)?;
        }
        Ok(())
    }
}

fn bind_key(statement: &mut Statement<'_>, key: &[ValueRef<'_>]) -> Result<usize, CrSqliteError> {
    for (n, value) in key.iter().enumerate() {
        statement.raw_bind_parameter(n + 1, ToSqlOutput::Borrowed(*value)).doing("bind a key")?;
    }
    Ok(key.len() + 1)
}

/// cr-sqlite's number for a site, if it has one.
fn ordinal(conn: &Connection, site: Site) -> Result<Option<i64>, CrSqliteError> {
    let mut statement =
        conn.prepare_cached("SELECT ordinal FROM crsql_site_id WHERE site_id = ?1").doing("look for a site")?;
    statement.query_row([site], |row| row.get(0)).optional().doing("look for a site")
}

/// The same, given one now if it has none.
fn known_ordinal(conn: &Connection, site: Site) -> Result<i64, CrSqliteError> {
    if let Some(known) = ordinal(conn, site)? {
        return Ok(known);
    }
    let mut statement = conn.prepare_cached("INSERT INTO crsql_site_id(site_id) VALUES(?1)").doing("note a site")?;
    statement.execute([site]).doing("note a site")?;
    Ok(conn.last_insert_rowid())
}
