//! What came for tables and columns that are not here yet, because a schema operation is not applied (see `pending`), and for tables that
//! stand still because they were changed past isle.
//!
//! Nothing is copied: the changeset stands in the log, and `isle_parked` says of which table which of its columns were passed over; NULL
//! stands for the whole table. Its other cells are merged and its version counts as applied, so what follows it is not held up, and it
//! is passed on like any other. Once tables or columns come, what was passed over is merged in the same transaction, and nothing
//! else of it: a cell that was merged before is not merged again.
//!
//! # Invariants
//! * Of tables and columns that no operation here has made, only a changeset whose author knew one that is not applied here is ever
//!   parked; anything else unknown is refused.
//! * While something is parked the log is not pruned, and no snapshot is made or taken in: it would lack what the table lacks.

use std::collections::BTreeSet;

use isle_changeset::{Header, ValueRef};
use isle_schema::{ColumnId, MigrationId, TableId};
use rusqlite::{Connection, params};

use crate::apply::Applier;
use crate::clocks::from_sql;
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::{site_no_of, version_of};
use crate::own::site_id;
use crate::tracked::Tracked;
use crate::{Store, StoreError};

/// Changes of a table that wait for schema operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The table's name, if an operation that is here says what it is.
    pub table: Option<String>,
    /// The table's id.
    pub id: TableId,
    /// The columns that wait, by name where an operation that is here has it; empty if the whole table waits.
    pub columns: Vec<String>,
    /// How many changesets have something for it.
    pub changesets: u64,
    /// The operations that they need, and that are not applied.
    pub needs: Vec<MigrationId>,
}

impl Store {
    /// What came for tables and columns that are not here yet, by table.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        self.snapshot(parked)
    }
}

/// Whether the author of a changeset knew a schema operation that is here and not applied.
pub(crate) fn parks(conn: &Connection, header: &Header) -> Result<bool, StoreError> {
    for head in &header.heads {
        if crate::track::standing(conn, *head)? == Some(false) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Notes that a changeset has something for columns of a table, or for a whole table, that is not here.
pub(crate) fn park(conn: &Connection, table: TableId, id: i64, columns: Option<&[ColumnId]>) -> Result<(), StoreError> {
    let packed: Option<Vec<u8>> = columns.map(|all| all.iter().flat_map(|column| *column.as_bytes()).collect());
    // A changeset may have several sections of one table.
    let sql = "INSERT INTO isle_parked(t, id, columns, seq) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
               SET columns = CAST(columns || excluded.columns AS BLOB)";
    let mut statement = conn.prepare_cached(sql).doing(PARK)?;
    statement.execute(params![table.as_bytes(), id, packed, next(conn)?]).doing(PARK).map(|_| ())
}

/// A number that rises with each changeset that is parked and each collection beside such.
fn next(conn: &Connection) -> Result<i64, StoreError> {
    let next = crate::layout::meta::<i64>(conn, "parked")?.unwrap_or(0) + 1;
    crate::layout::set_meta(conn, "parked", next)?;
    Ok(next)
}

/// Remembers the rows whose tombstones go while something is parked for their table: it is not for a later life of such a row, which may
/// begin with the same causal length. `collected` is what follows SELECT.
pub(crate) fn note_gone(conn: &Connection, tracked: &Tracked, collected: &str) -> Result<(), StoreError> {
    let id = tracked.table.id;
    let parked = "SELECT 1 FROM isle_parked WHERE t = ?1 LIMIT 1";
    if crate::clocks::one::<i64>(conn, parked, [id.as_bytes()])?.is_none() {
        return Ok(());
    }
    let seq = next(conn)?;
    let keys = tracked.clock_key();
    let mut statement = conn.prepare(&format!("SELECT {} {collected}", keys.join(", "))).doing(PARK)?;
    let mut rows = statement.query([]).doing(PARK)?;
    while let Some(row) = rows.next().doing(PARK)? {
        let key: Vec<_> =
            (0..keys.len()).map(|n| row.get_ref(n).map(from_sql)).collect::<Result<_, _>>().doing(PARK)?;
        let sql = "INSERT OR REPLACE INTO isle_gone(t, k, seq) VALUES(?1, ?2, ?3)";
        conn.execute(sql, params![id.as_bytes(), isle_changeset::pack_key(&key), seq]).doing(PARK)?;
    }
    Ok(())
}

/// Whether a row was collected after something of it was parked.
pub(crate) fn is_gone(conn: &Connection, table: TableId, key: &[ValueRef<'_>], seq: i64) -> Result<bool, StoreError> {
    let sql = "SELECT seq > ?3 FROM isle_gone WHERE t = ?1 AND k = ?2";
    let key = isle_changeset::pack_key(key);
    Ok(crate::clocks::one::<bool>(conn, sql, params![table.as_bytes(), key, seq])?.unwrap_or(false))
}

const PARK: &str = "keep what a table lacks";

/// How many changesets have something that waits.
pub(crate) fn count(conn: &Connection) -> Result<u64, StoreError> {
    Ok(crate::clocks::one::<i64>(conn, "SELECT count(DISTINCT id) FROM isle_parked", [])?.unwrap_or(0) as u64)
}

/// Merges what waited for tables and columns that are here by now.
pub(crate) fn replay(engine: &Engine) -> Result<(), StoreError> {
    let conn = &engine.conn;
    if crate::clocks::one::<i64>(conn, "SELECT 1 FROM isle_parked LIMIT 1", [])?.is_none() {
        return Ok(());
    }
    let settled = engine.settle()?;
    let mut applier = Applier::new(engine, &settled)?;
    // In the order of their times causes come first.
    let sql = "SELECT p.t, p.id FROM isle_parked AS p JOIN isle_log AS l ON l.id = p.id ORDER BY l.hlc, l.id, p.t";
    let mut statement = conn.prepare(sql).doing(PARK)?;
    let rows = statement.query_map([], |row| Ok((TableId::from_bytes(row.get(0)?), row.get::<_, i64>(1)?)));
    // The list changes on the way: it is read first.
    let waiting: Vec<(TableId, i64)> = rows.doing(PARK)?.collect::<Result<_, _>>().doing(PARK)?;
    drop(statement);
    for (table, id) in waiting {
        let Some(tracked) = engine.by_id.get(&table) else { continue };
        let sql = "SELECT columns, seq FROM isle_parked WHERE t = ?1 AND id = ?2";
        let entry = conn.query_row(sql, params![table.as_bytes(), id], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)));
        let (packed, seq): (Option<Vec<u8>>, i64) = entry.doing(PARK)?;
        let columns = packed.map(|packed| ids(&packed));
        if columns.as_ref().is_some_and(|columns| columns.iter().all(|column| tracked.place_of(*column).is_none())) {
            continue;
        }
        let site = site_id(conn, site_no_of(id))?;
        let encoded = crate::clocks::one::<Vec<u8>>(conn, "SELECT header FROM isle_log WHERE id = ?1", [id])?;
        let bad = |source| StoreError::BadChangeset { site, version: version_of(id), source };
        let header = Header::decode(&encoded.unwrap_or_default()).map_err(bad)?;
        let sql = "DELETE FROM isle_parked WHERE t = ?1 AND id = ?2";
        conn.execute(sql, params![table.as_bytes(), id]).doing(PARK)?;
        // What came before its table could not be held against it.
        let parks = parks(conn, &header)?;
        if let Err(why) = crate::log::open_blocks(engine, id, &header, parks)? {
            tracing::warn!(%site, version = header.version, ?why, "a changeset is passed over");
            continue;
        }
        applier.replay(engine, (&header, parks), table, columns.as_deref().map(|columns| (columns, seq)))?;
    }
    conn.execute("DELETE FROM isle_gone WHERE t NOT IN (SELECT t FROM isle_parked)", []).doing(PARK)?;
    applier.owe_touched()
}

/// Drops what no operation that still waits can be for.
pub(crate) fn drop_unneeded(conn: &Connection) -> Result<(), StoreError> {
    let sql = "SELECT p.t, p.id, l.header FROM isle_parked AS p JOIN isle_log AS l ON l.id = p.id
               WHERE p.t NOT IN (SELECT id FROM isle_table WHERE p.columns IS NULL)";
    let mut statement = conn.prepare(sql).doing(PARK)?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?, row.get(2)?)));
    let waiting: Vec<(Vec<u8>, i64, Vec<u8>)> = rows.doing(PARK)?.collect::<Result<_, _>>().doing(PARK)?;
    for (table, id, encoded) in waiting {
        let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
        if !parks(conn, &header)? {
            conn.execute("DELETE FROM isle_parked WHERE t = ?1 AND id = ?2", params![table, id]).doing(PARK)?;
        }
    }
    Ok(())
}

fn ids(packed: &[u8]) -> Vec<ColumnId> {
    packed.as_chunks::<16>().0.iter().map(|id| ColumnId::from_bytes(*id)).collect()
}

fn parked(conn: &Connection) -> Result<Vec<Parked>, StoreError> {
    let mut found: Vec<Parked> = Vec::new();
    let mut statement = conn
        .prepare("SELECT p.t, p.columns, l.header FROM isle_parked AS p JOIN isle_log AS l ON l.id = p.id ORDER BY p.t, p.id")
        .doing(PARK)?;
    let mut rows = statement.query([]).doing(PARK)?;
    let schema = crate::pending::all(conn)?;
    let mut missing = BTreeSet::new();
    while let Some(row) = rows.next().doing(PARK)? {
        let id = TableId::from_bytes(row.get(0).doing(PARK)?);
        let columns = row.get::<_, Option<Vec<u8>>>(1).doing(PARK)?.map(|packed| ids(&packed)).unwrap_or_default();
        let encoded: Vec<u8> = row.get(2).doing(PARK)?;
        let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
        let state = schema.tables.get(&id);
        if found.last().is_none_or(|last| last.id != id) {
            let table = state.map(|state| state.name.clone());
            found.push(Parked { table, id, columns: Vec::new(), changesets: 0, needs: Vec::new() });
            missing.clear();
        }
        let Some(last) = found.last_mut() else { continue };
        last.changesets += 1;
        for head in header.heads {
            if missing.insert(head) && crate::track::standing(conn, head)? == Some(false) {
                last.needs.push(head);
            }
        }
        for column in columns {
            let is = |known: &&isle_schema::Column| {
                known.id == column || isle_schema::Kind::ALL.iter().any(|kind| known.id.of_kind(*kind) == column)
            };
            let named = state.and_then(|state| state.columns.iter().find(is));
            let name = named.map_or_else(|| column.to_string(), |known| known.name.clone());
            if !last.columns.contains(&name) {
                last.columns.push(name);
            }
        }
    }
    Ok(found)
}
