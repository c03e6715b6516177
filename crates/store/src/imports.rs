//! What an import needs of the file: rows that count as older than any write, what is known of a key, and a ledger.

use isle_changeset::{Header, ValueRef, canonical_key};
use rusqlite::Connection;

use crate::StoreError;
use crate::clocks::ClockTable;
use crate::error::Doing as _;
use crate::guard::Mode;
use crate::layout::{self, log_id};
use crate::own::Own;
use crate::store::Store;
use crate::tracked::Tracked;
use crate::transaction::Transaction;

/// What the ledger's entries are called among isle's facts.
const PREFIX: &str = "import ";

/// What is known of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Nothing: its table is not tracked, or nobody ever wrote it.
    Unknown,
    /// It is there, though it may be hidden from the table.
    Alive,
    /// It was deleted.
    Deleted,
}

/// Notes that the version after the last is the site's baseline of a table, which it can have once only: which rows are of which of two could not be told.
pub(crate) fn begin_baseline(conn: &Connection, own: &Own, tracked: &Tracked) -> Result<(), StoreError> {
    if has_baseline(conn, tracked, own)? {
        return Err(StoreError::NotNew { table: tracked.table.name.clone() });
    }
    layout::set_baseline(conn, tracked.no, own.no, own.version + 1)
}

/// Whether rows of the table may carry this site's time 0. A table that was empty when it was tracked has its baseline noted, and none in the log.
fn has_baseline(conn: &Connection, tracked: &Tracked, own: &Own) -> Result<bool, StoreError> {
    let Some(version) = layout::baselines(conn, tracked.no)?.get(&own.no).copied() else { return Ok(false) };
    if version > own.version {
        return Ok(false);
    }
    let sql = "SELECT header FROM isle_log WHERE id = ?1";
    // What left the log may have been one.
    let Some(header) = crate::clocks::one::<Vec<u8>>(conn, sql, [log_id(own.no, version)])? else { return Ok(true) };
    Ok(Header::decode(&header).map_err(|source| StoreError::BadHeader { source })?.baseline)
}

impl Transaction<'_> {
    /// What is known of the row with this key, as of before this transaction. The values are those of the primary key's columns in their order.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn life(&self, table: &str, key: &[ValueRef<'_>]) -> Result<Life, StoreError> {
        let engine = self.engine();
        let tracked = engine.tables.iter().find(|tracked| tracked.table.name.eq_ignore_ascii_case(table));
        let Some(tracked) = tracked.filter(|tracked| tracked.table.key.len() == key.len()) else {
            return Ok(Life::Unknown);
        };
        let (key, _) = canonical_key(key, &tracked.table.key);
        let key: Vec<_> = key.iter().map(isle_changeset::Value::as_ref).collect();
        let length = engine.guard.with(Mode::Engine, || ClockTable::open(&engine.conn, tracked).length(&key))?;
        Ok(match (length, length % 2) {
            (0, _) => Life::Unknown,
            (_, 1) => Life::Alive,
            _ => Life::Deleted,
        })
    }

    /// Notes an import in this file's ledger, with the commit of this transaction. The ledger does not travel.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_import(&self, id: &str, record: &str) -> Result<(), StoreError> {
        let engine = self.engine();
        engine.guard.with(Mode::Engine, || layout::set_meta(&engine.conn, &format!("{PREFIX}{id}"), record))
    }
}

impl Store {
    /// The ledger of imports: what was noted under each id.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn imports(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.internal(|conn| {
            let sql = "SELECT substr(k, length(?1) + 1), CAST(v AS TEXT) FROM isle_meta WHERE k > ?1 AND k < 'import!' ORDER BY k";
            let mut statement = conn.prepare(sql).doing("read the ledger of imports")?;
            let rows = statement.query_map([PREFIX], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.doing("read the ledger of imports")?.collect::<Result<_, _>>().doing("read the ledger of imports")
        })
    }

    /// Notes something else under an id of the ledger.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_import(&self, id: &str, record: &str) -> Result<(), StoreError> {
        self.note(|engine| layout::set_meta(&engine.conn, &format!("{PREFIX}{id}"), record))
    }
}
