//! The clocks of one CRR: what was written, what others wrote, and what is to stand.

use std::collections::HashMap;

use isle_changeset::{Value, ValueRef};
use rusqlite::types::{ToSqlOutput, ValueRef as SqlRef};
use rusqlite::{Connection, OptionalExtension as _, Row, Statement};

use crate::{CrSqliteError, Doing as _, OUTSIDE, quoted};

/// cr-sqlite's name for a row as such: its causal length stands there.
pub(crate) const SENTINEL: &str = "-1";

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
    pub(crate) table: String,
    pub(crate) columns: Vec<String>,
    /// The columns by their names in lower case: SQLite makes no difference, and a client may have changed one's case.
    pub(crate) numbers: HashMap<String, usize>,
    pub(crate) keys: usize,
    pub(crate) clock: String,
    /// The clocks with the key of each row, as `c` and `p`; and that key's columns.
    pub(crate) rows: String,
    pub(crate) of_key: String,
    change: String,
    key: String,
    add_key: String,
}

impl Crr {
    /// A table by the name under which cr-sqlite knows it ([`crate::name_of`]), with its key columns in the order of the key and its other columns.
    pub fn new(table: &str, key: &[&str], columns: &[&str]) -> Crr {
        let clock = quoted(&format!("{table}__crsql_clock"));
        let pks = quoted(&format!("{table}__crsql_pks"));
        let list = |f: &dyn Fn(usize, &str) -> String, separator: &str| {
            key.iter().enumerate().map(|(n, name)| f(n, name)).collect::<Vec<_>>().join(separator)
        };
        let names = list(&|_, name| quoted(name), ", ");
        let places = list(&|n, _| format!("?{}", n + 1), ", ");
        let matches = list(&|n, name| format!("{} = ?{}", quoted(name), n + 1), " AND ");
        let rest: Vec<String> = (1..=9).map(|n| format!("?{}", key.len() + n)).collect();
        Crr {
            change: format!(
                "INSERT INTO crsql_changes(\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq, ts)
                 VALUES({}, crsql_pack_columns({places}), {})",
                rest[0],
                rest[1..].join(", ")
            ),
            key: format!("SELECT __crsql_key FROM {pks} WHERE {matches}"),
            add_key: format!("INSERT INTO {pks}({names}) VALUES({places})"),
            rows: format!("{clock} AS c JOIN {pks} AS p ON p.__crsql_key = c.key"),
            of_key: list(&|_, name| format!("p.{}", quoted(name)), ", "),
            clock,
            keys: key.len(),
            numbers: columns.iter().enumerate().map(|(n, name)| (name.to_ascii_lowercase(), n)).collect(),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            table: table.to_owned(),
        }
    }

    /// The name under which cr-sqlite knows it.
    pub fn table(&self) -> &str {
        &self.table
    }

    pub(crate) fn number_of(&self, column: &str) -> Option<usize> {
        self.numbers.get(&column.to_ascii_lowercase()).copied()
    }

    /// Gives each row of the table that somebody else than isle wrote to since the last stamp: its key, and the columns that changed; `None` where the row
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
        let (of_key, rows) = (&self.of_key, &self.rows);
        let sql =
            format!("SELECT c.key, c.col_name, {of_key} FROM {rows} WHERE c.site_id IN ({OUTSIDE}) ORDER BY c.key");
        let mut statement = conn.prepare_cached(&sql).doing(doing)?;
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
            match self.number_of(&name) {
                Some(column) => changed.push(column),
                None => whole |= name == SENTINEL,
            }
        }
        match &last {
            Some((_, key)) => f(key, if whole { None } else { Some(&changed) }),
            None => Ok(()),
        }
    }

    /// A text may hold any bytes.
    pub(crate) fn key_of(&self, row: &Row<'_>, at: usize) -> Result<Vec<Value>, CrSqliteError> {
        let value = |n| {
            Ok(match row.get_ref(n)? {
                SqlRef::Null => Value::Null,
                SqlRef::Integer(v) => Value::Integer(v),
                SqlRef::Real(v) => Value::Real(v),
                SqlRef::Text(v) => Value::Text(v.to_vec()),
                SqlRef::Blob(v) => Value::Blob(v.to_vec()),
            })
        };
        (at..at + self.keys).map(value).collect::<Result<_, _>>().doing("read a key")
    }

    fn keys_of(&self, conn: &Connection, wanted: &str) -> Result<Vec<(i64, Vec<Value>)>, CrSqliteError> {
        let sql = format!("SELECT c.key, {} FROM {} WHERE {wanted}", self.of_key, self.rows);
        let mut statement = conn.prepare_cached(&sql).doing("read keys")?;
        let mut rows = statement.query([]).doing("read keys")?;
        let mut keys = Vec::new();
        while let Some(row) = rows.next().doing("read keys")? {
            keys.push((row.get(0).doing("read keys")?, self.key_of(row, 1)?));
        }
        Ok(keys)
    }

    /// Gives what others than isle wrote since the last time its time and its site, and the rows that came and went the lives that `length` says: 0 for one
    /// that never was. What isle takes for written in a row that came, and cr-sqlite has no clock of, gets one.
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
        let (clock, columns) = (&self.clock, self.columns.len());
        let outside = format!("c.site_id IN ({OUTSIDE})");
        let lives = self.keys_of(conn, &format!("{outside} AND c.col_name = '{SENTINEL}'"))?;
        let partial = format!(
            "{outside} AND (SELECT count(*) FROM {clock} AS o WHERE o.key = c.key AND o.col_name <> '{SENTINEL}') < {columns} GROUP BY c.key"
        );
        let partial = self.keys_of(conn, &partial)?;
        let site = known_ordinal(conn, site)?;
        let sql = format!(
            "UPDATE {clock} SET col_version = ?1, db_version = ?1, ts = ?2, site_id = ?3 WHERE site_id IN ({OUTSIDE})"
        );
        let mut statement = conn.prepare_cached(&sql).doing(doing)?;
        statement.execute((version, version.to_string(), site)).doing(doing)?;
        for (number, key) in lives {
            self.set_length(conn, number, length(&key)? as i64)?;
        }
        let sql = format!(
            "INSERT OR IGNORE INTO {clock}(key, col_name, col_version, db_version, site_id, seq, ts) VALUES(?1, ?2, ?3, ?3, ?4, 0, ?5)"
        );
        let mut statement = conn.prepare_cached(&sql).doing(doing)?;
        for (number, key) in partial {
            if length(&key)? % 2 == 1 {
                for column in &self.columns {
                    statement.execute((number, column, version, site, version.to_string())).doing(doing)?;
                }
            }
        }
        Ok(())
    }

    /// Notes columns of a row as written past isle, as the triggers do.
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
    /// cr-sqlite's clocks say the same afterwards; otherwise [`Crr::settle`] is due. cr-sqlite is not asked where it would decide a tie of versions. The triggers
    /// fire again when this returns.
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
        let before = self.state(conn, key)?;
        let tied = |cell: &Cell<'_>| {
            let known = before.iter().filter(|state| state.length == life.length as i64).flat_map(|state| &state.cells);
            known.clone().any(|(column, version, _)| *column == cell.column && *version == cell.version)
        };
        if cells.iter().any(tied) {
            return Ok(false);
        }
        self.take(conn, key, life, cells)?;
        self.stands(conn, key, life.length, cells)
    }

    /// Gives cr-sqlite changes of one row, and lets it decide.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn take(
        &self,
        conn: &Connection,
        key: &[ValueRef<'_>],
        life: Life,
        cells: &[Cell<'_>],
    ) -> Result<(), CrSqliteError> {
        for cell in cells {
            let column = &self.columns[cell.column];
            self.change(conn, key, (column, cell.value), (cell.version, cell.version, cell.site), life.length)?;
        }
        if cells.is_empty() {
            let change = (life.length as i64, life.version, life.site);
            self.change(conn, key, (SENTINEL, ValueRef::Null), change, life.length)?;
        }
        Ok(())
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
        bind(2, sql(value))?;
        bind(3, version.into())?;
        bind(4, at.into())?;
        bind(5, ToSqlOutput::Borrowed(SqlRef::Blob(&site)))?;
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
        let sql = format!("SELECT col_name, col_version, site_id FROM {} WHERE key = ?1", self.clock);
        let mut statement = conn.prepare_cached(&sql).doing("read clocks")?;
        let mut rows = statement.query([number]).doing("read clocks")?;
        let (mut length, mut cells, mut any) = (1, Vec::new(), false);
        while let Some(row) = rows.next().doing("read clocks")? {
            any = true;
            let (name, version, site): (String, i64, i64) = row.try_into().doing("read clocks")?;
            match self.number_of(&name) {
                Some(column) => cells.push((column, version, site)),
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
        self.set_length(conn, number, 0)?;
        let sql = format!(
            "INSERT INTO {}(key, col_name, col_version, db_version, site_id, seq, ts) VALUES(?1, ?2, ?3, ?4, ?5, 0, ?6)",
            self.clock
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
        for (number, key) in self.keys_of(conn, &format!("c.col_name = '{SENTINEL}' AND c.col_version % 2 = 0"))? {
            if !keep(&key)? {
                gone.push(number);
            }
        }
        for number in gone {
            self.set_length(conn, number, 0)?;
        }
        Ok(())
    }

    /// Whether nothing in the clocks was written by isle: cr-sqlite was put on the table past it.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn is_foreign(&self, conn: &Connection) -> Result<bool, CrSqliteError> {
        let sql = format!("SELECT 1 FROM {} WHERE site_id NOT IN ({OUTSIDE}) LIMIT 1", self.clock);
        let mut statement = conn.prepare_cached(&sql).doing("look for isle's stamps")?;
        Ok(statement.query_row([], |_| Ok(())).optional().doing("look for isle's stamps")?.is_none())
    }
}

fn sql(value: ValueRef<'_>) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        ValueRef::Null => SqlRef::Null,
        ValueRef::Integer(v) => SqlRef::Integer(v),
        ValueRef::Real(v) => SqlRef::Real(v),
        ValueRef::Text(v) => SqlRef::Text(v),
        ValueRef::Blob(v) => SqlRef::Blob(v),
    })
}

fn bind_key(statement: &mut Statement<'_>, key: &[ValueRef<'_>]) -> Result<usize, CrSqliteError> {
    for (n, value) in key.iter().enumerate() {
        statement.raw_bind_parameter(n + 1, sql(*value)).doing("bind a key")?;
    }
    Ok(key.len() + 1)
}

/// cr-sqlite's number for a site, if it has one.
fn ordinal(conn: &Connection, site: Site) -> Result<Option<i64>, CrSqliteError> {
    let sql = "SELECT ordinal FROM crsql_site_id WHERE site_id = ?1";
    let mut statement = conn.prepare_cached(sql).doing("look for a site")?;
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
