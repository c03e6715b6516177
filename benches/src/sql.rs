//! The statements that plain SQLite and the engines on top of it share.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, params};

use crate::data::{Digest, Key, KeyRef, Keys, Row, StockUpdate};

/// Inserts one row.
pub const INSERT: &str = "INSERT INTO items (id, title, stock, score) VALUES (?1, ?2, ?3, ?4)";
/// Updates one column of one row.
pub const UPDATE: &str = "UPDATE items SET stock = ?2 WHERE id = ?1";
/// Deletes one row.
pub const DELETE: &str = "DELETE FROM items WHERE id = ?1";
/// Reads one row.
pub const SELECT_ONE: &str = "SELECT id, title, stock, score FROM items WHERE id = ?1";
/// Reads all rows.
pub const SELECT_ALL: &str = "SELECT id, title, stock, score FROM items";

/// Tables in the file of the `open` workload.
pub const MANY_TABLES: Range<usize> = 0..20;
/// Openings in one sample of the `open` workload.
pub const OPENINGS: usize = 20;
const MANY_TABLES_ROWS: i64 = 5;

/// What every engine sets on its connections: none is better off.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Page cache of a connection.
    pub page_cache_bytes: u64,
    /// Pages in the write-ahead log that start a checkpoint.
    pub checkpoint_pages: u32,
}

/// SQLite's own values, written out.
const STOCK: Tuning = Tuning { page_cache_bytes: 2_000 * 1_024, checkpoint_pages: 1_000 };

/// One process measures under one tuning.
static TUNING: OnceLock<Tuning> = OnceLock::new();

/// Chooses the tuning; nothing keeps SQLite's stock values.
///
/// # Errors
/// When it was chosen before.
pub fn tune(page_cache_mib: Option<u32>) -> Result<()> {
    let tuned = page_cache_mib.map_or(STOCK, |mib| Tuning {
        page_cache_bytes: u64::from(mib) << 20,
        checkpoint_pages: STOCK.checkpoint_pages.max(mib * 250),
    });
    ensure!(TUNING.set(tuned).is_ok(), "the tuning was chosen before");
    Ok(())
}

/// The tuning of this process.
#[must_use]
pub fn tuning() -> Tuning {
    TUNING.get().copied().unwrap_or(STOCK)
}

impl ToSql for Key {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(key) => ValueRef::Integer(*key),
            Self::Uuid(key) => ValueRef::Blob(key),
        }))
    }
}

/// The statement that creates the table.
#[must_use]
pub fn schema(keys: Keys) -> &'static str {
    match keys {
        Keys::Int => {
            "CREATE TABLE items (id INTEGER PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', \
             stock INTEGER NOT NULL DEFAULT 0, score REAL NOT NULL DEFAULT 0.0)"
        }
        Keys::Uuid => {
            "CREATE TABLE items (id BLOB PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', \
             stock INTEGER NOT NULL DEFAULT 0, score REAL NOT NULL DEFAULT 0.0)"
        }
    }
}

/// The integer-keyed table with another column, and with a rule beside it.
#[must_use]
pub fn changed_schema(rule: bool) -> String {
    let rule = if rule { ", CHECK (stock > -1000000000)" } else { "" };
    let schema = schema(Keys::Int);
    format!("{}, note TEXT DEFAULT 'none'{rule})", schema.strip_suffix(')').unwrap_or(schema))
}

/// Opens a database the way every engine of the bench does.
///
/// # Errors
/// When SQLite fails, or the file cannot use a write-ahead log.
pub fn open(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    ensure!(mode == "wal", "journal mode is {mode}, not wal");
    let Tuning { page_cache_bytes, checkpoint_pages } = tuning();
    conn.execute_batch(&format!(
        "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{}; PRAGMA wal_autocheckpoint = {checkpoint_pages}",
        page_cache_bytes / 1_024
    ))?;
    Ok(conn)
}

/// Inserts rows in one transaction; the time includes the commit.
///
/// # Errors
/// When SQLite fails.
pub fn insert(conn: &Connection, rows: &[Row]) -> Result<Duration> {
    let start = Instant::now();
    let tx = conn.unchecked_transaction()?;
    {
        let mut statement = tx.prepare_cached(INSERT)?;
        for row in rows {
            statement.execute(params![row.key, row.title, row.stock, row.score])?;
        }
    }
    tx.commit()?;
    Ok(start.elapsed())
}

/// Updates rows in one transaction; the time includes the commit.
///
/// # Errors
/// When SQLite fails or a row is missing.
pub fn update(conn: &Connection, updates: &[StockUpdate]) -> Result<Duration> {
    let start = Instant::now();
    let tx = conn.unchecked_transaction()?;
    {
        let mut statement = tx.prepare_cached(UPDATE)?;
        for &(key, stock) in updates {
            ensure!(statement.execute([key, stock])? == 1, "no row {key} to update");
        }
    }
    tx.commit()?;
    Ok(start.elapsed())
}

/// Deletes rows in one transaction; the time includes the commit.
///
/// # Errors
/// When SQLite fails or a row is missing.
pub fn delete(conn: &Connection, keys: &[i64]) -> Result<Duration> {
    let start = Instant::now();
    let tx = conn.unchecked_transaction()?;
    {
        let mut statement = tx.prepare_cached(DELETE)?;
        for &key in keys {
            ensure!(statement.execute([key])? == 1, "no row {key} to delete");
        }
    }
    tx.commit()?;
    Ok(start.elapsed())
}

/// Runs many small transactions of updates.
///
/// # Errors
/// When SQLite fails or a row is missing.
pub fn small_transactions(conn: &Connection, transactions: &[Vec<StockUpdate>]) -> Result<Duration> {
    let start = Instant::now();
    for updates in transactions {
        update(conn, updates)?;
    }
    Ok(start.elapsed())
}

/// Reads rows by key, each on its own: no transaction spans two of them.
///
/// # Errors
/// When SQLite fails or a row is missing.
pub fn point_reads(conn: &Connection, keys: &[i64]) -> Result<Duration> {
    let start = Instant::now();
    for &key in keys {
        point_read(conn, key)?;
    }
    Ok(start.elapsed())
}

/// Reads the row with this key.
///
/// # Errors
/// When SQLite fails, the row is missing or it is empty.
pub fn point_read(conn: &Connection, key: i64) -> Result<()> {
    let mut statement = conn.prepare_cached(SELECT_ONE)?;
    let mut rows = statement.query([key])?;
    let Some(row) = rows.next()? else { bail!("no row {key} to read") };
    ensure!(row.get_ref(0)? == ValueRef::Integer(key) && width(row)? > 0, "read the wrong row for {key}");
    Ok(())
}

/// Reads all rows and every value of them.
///
/// # Errors
/// When SQLite fails or the table does not have `expected` rows.
pub fn full_scan(conn: &Connection, expected: usize) -> Result<Duration> {
    let start = Instant::now();
    let mut statement = conn.prepare_cached(SELECT_ALL)?;
    let mut rows = statement.query([])?;
    let (mut count, mut read) = (0, 0);
    while let Some(row) = rows.next()? {
        count += 1;
        read += width(row)?;
    }
    let elapsed = start.elapsed();
    ensure!(count == expected, "read {count} rows instead of {expected}");
    ensure!(read > count, "the rows read were empty");
    Ok(elapsed)
}

/// Looks at every value of a row.
fn width(row: &rusqlite::Row<'_>) -> Result<usize> {
    let mut width = 0;
    for column in 0..4 {
        width += match row.get_ref(column)? {
            ValueRef::Null => 0,
            ValueRef::Integer(value) => value.count_ones() as usize,
            ValueRef::Real(value) => value.to_bits().count_ones() as usize,
            ValueRef::Text(value) | ValueRef::Blob(value) => value.len(),
        };
    }
    Ok(width)
}

/// What the table holds.
///
/// # Errors
/// When SQLite fails or a value has the wrong type.
pub fn digest(conn: &Connection) -> Result<Digest> {
    let mut statement = conn.prepare(SELECT_ALL)?;
    let mut rows = statement.query([])?;
    let mut digest = Digest::default();
    while let Some(row) = rows.next()? {
        let key = match row.get_ref(0)? {
            ValueRef::Integer(key) => KeyRef::Int(key),
            key => KeyRef::Blob(key.as_blob()?),
        };
        digest.add(key, row.get_ref(1)?.as_str()?.as_bytes(), row.get(2)?, row.get(3)?);
    }
    Ok(digest)
}

/// Fails unless the table holds exactly what is expected.
///
/// # Errors
/// When it does not, or SQLite fails.
pub fn check(conn: &Connection, expected: Digest) -> Result<()> {
    let found = digest(conn)?;
    ensure!(found == expected, "the table holds {found:?}, expected {expected:?}");
    Ok(())
}

/// Moves the write-ahead log into the database file and returns the size of that file.
///
/// # Errors
/// When SQLite fails or a reader is in the way.
pub fn truncated_size(conn: &Connection, path: &Path) -> Result<u64> {
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    ensure!(busy == 0, "the checkpoint was blocked");
    Ok(path.metadata()?.len())
}

/// Fails if a closed database still has a write-ahead log: a copy of the file would miss its content.
///
/// # Errors
/// When there is one.
pub fn check_closed(path: &Path) -> Result<()> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let wal = PathBuf::from(wal);
    ensure!(!wal.exists() || wal.metadata()?.len() == 0, "{} is still there", wal.display());
    Ok(())
}

/// The name of one table of the `open` workload.
#[must_use]
pub fn many_tables_name(number: usize) -> String {
    format!("table_{number:02}")
}

/// The statements that create and fill one table of the `open` workload: ten columns, a few rows.
#[must_use]
pub fn many_tables(number: usize) -> (String, String) {
    let table = many_tables_name(number);
    let create = format!(
        "CREATE TABLE {table} (id INTEGER PRIMARY KEY NOT NULL, name TEXT NOT NULL DEFAULT '', note TEXT, \
         kind TEXT, amount INTEGER, price REAL, created INTEGER, changed INTEGER, owner BLOB, done INTEGER)"
    );
    let fill = format!(
        "INSERT INTO {table} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY_TABLES_ROWS}) \
         SELECT i, 'name ' || i, 'a note on ' || i, 'kind', i * 7, i * 1.5, 1700000000 + i, 1700000100 + i, \
         zeroblob(16), i % 2 FROM n"
    );
    (create, fill)
}

/// The first read of the `open` workload.
///
/// # Errors
/// When SQLite fails or the rows are not there.
pub fn first_read(conn: &Connection) -> Result<()> {
    let sql = format!("SELECT id, name, price FROM {}", many_tables_name(7));
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut sum = 0;
    while let Some(row) = rows.next()? {
        sum += row.get::<_, i64>(0)?;
    }
    ensure!(sum == MANY_TABLES_ROWS * (MANY_TABLES_ROWS + 1) / 2, "the first read found the wrong rows");
    Ok(())
}
