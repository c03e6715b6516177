//! The conflict journal: concurrent values that lost, so that no write is lost silently.

use isle_changeset::{Key, Value, ValueRef, pack_key, unpack_key};
use isle_clock::{Hlc, SiteId};
use rusqlite::{CachedStatement, Connection, params};

use crate::StoreError;
use crate::clocks::{LocalStamp, from_sql, to_sql};
use crate::error::Doing as _;
use crate::tracked::Tracked;

/// Why a value lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A concurrent write of the same cell has the larger stamp.
    Older,
    /// The row was deleted concurrently.
    Deleted,
    /// The row is not known here: it was collected after its deletion.
    Unknown,
    /// A constraint of the table here, which its author's table lacks, refuses the row.
    Constraint,
    /// It is not of its column's kind, say text for a counter.
    NotOfKind,
    /// It is no value but a change of one, to a counter, a set, a text or a JSON value that is gone or that was replaced: what it added.
    Change,
}

impl Reason {
    /// The word in the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Older => "older",
            Reason::Deleted => "deleted",
            Reason::Unknown => "unknown",
            Reason::Constraint => "constraint",
            Reason::NotOfKind => "kind",
            Reason::Change => "change",
        }
    }

    pub(crate) fn parse(text: &str) -> Reason {
        match text {
            "deleted" => Reason::Deleted,
            "unknown" => Reason::Unknown,
            "constraint" => Reason::Constraint,
            "kind" => Reason::NotOfKind,
            "change" => Reason::Change,
            _ => Reason::Older,
        }
    }
}

/// A value that loses.
pub(crate) struct Loss<'a> {
    pub(crate) cell: usize,
    pub(crate) value: ValueRef<'a>,
    pub(crate) loser: LocalStamp,
    pub(crate) winner: Option<LocalStamp>,
    pub(crate) reason: Reason,
}

/// Appends to the journal.
pub(crate) struct Journal<'c> {
    insert: CachedStatement<'c>,
}

impl<'c> Journal<'c> {
    pub(crate) fn open(conn: &'c Connection) -> Result<Journal<'c>, StoreError> {
        let sql = "INSERT INTO isle_conflict(t, k, col, value, h, s, wh, ws, reason, state)
                   VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'open')";
        Ok(Journal { insert: conn.prepare_cached(sql).doing("prepare the journal")? })
    }

    pub(crate) fn add(&mut self, tracked: &Tracked, key: &[ValueRef<'_>], loss: Loss<'_>) -> Result<(), StoreError> {
        let (wh, ws) = loss.winner.map_or((None, None), |winner| (Some(winner.hlc as i64), Some(winner.site)));
        let key = pack_key(key);
        let values = params![
            tracked.no,
            key,
            loss.cell as i64,
            to_sql(loss.value),
            loss.loser.hlc as i64,
            loss.loser.site,
            wh,
            ws,
            loss.reason.as_str()
        ];
        self.insert.execute(values).doing("write the journal")?;
        Ok(())
    }
}

/// A concurrent value that lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its number in this file.
    pub id: i64,
    /// The table.
    pub table: String,
    /// The names of the key columns.
    pub key_columns: Vec<String>,
    /// The canonical key of the row.
    pub key: Key,
    /// The column; `None` for the exact form of the key.
    pub column: Option<String>,
    /// The value that lost.
    pub value: Value,
    /// The value that stands in the table now; `None` if the row is gone.
    pub current: Option<Value>,
    /// When the losing value was written.
    pub hlc: Hlc,
    /// Who wrote it.
    pub site: Option<SiteId>,
    /// When the winning write was made.
    pub winner_hlc: Option<Hlc>,
    /// Who made it.
    pub winner: Option<SiteId>,
    /// Why it lost.
    pub reason: Reason,
    /// Whether somebody has put it back or dismissed it.
    pub resolved: bool,
}

/// Lists journal entries, newest first.
pub(crate) fn list(
    conn: &Connection,
    tables: &[std::sync::Arc<Tracked>],
    all: bool,
    limit: usize,
    only: Option<i64>,
) -> Result<Vec<Conflict>, StoreError> {
    let sql = "SELECT c.id, c.t, c.k, c.col, c.value, c.h, s.id, c.wh, w.id, c.reason, c.state
               FROM isle_conflict AS c LEFT JOIN isle_site AS s ON s.no = c.s LEFT JOIN isle_site AS w ON w.no = c.ws
               WHERE (?1 OR c.state = 'open') AND (?3 IS NULL OR c.id = ?3) AND c.t IN (SELECT no FROM isle_table)
               ORDER BY c.id DESC LIMIT ?2";
    let mut statement = conn.prepare(sql).doing("read the journal")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![all, limit, only]).doing("read the journal")?;
    let mut conflicts = Vec::new();
    while let Some(row) = rows.next().doing("read the journal")? {
        conflicts.extend(read(conn, tables, row)?);
    }
    Ok(conflicts)
}

/// How many entries [`list`] would show without a limit.
pub(crate) fn count(conn: &Connection, all: bool) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM isle_conflict
               WHERE (?1 OR state = 'open') AND t IN (SELECT no FROM isle_table)";
    Ok(crate::clocks::one::<i64>(conn, sql, [all])?.unwrap_or(0) as u64)
}

/// Marks open entries as dealt with, of one table or of all; gives how many there were.
pub(crate) fn resolve(conn: &Connection, table: Option<&str>) -> Result<u64, StoreError> {
    let changed = match table {
        None => conn.execute("UPDATE isle_conflict SET state = 'resolved' WHERE state = 'open'", []),
        Some(name) => {
            let no = "SELECT no FROM isle_table WHERE name = ?1 COLLATE NOCASE";
            let no = crate::clocks::one::<i64>(conn, no, [name])?;
            let no = no.ok_or_else(|| StoreError::NotTracked { table: name.to_owned() })?;
            conn.execute("UPDATE isle_conflict SET state = 'resolved' WHERE state = 'open' AND t = ?1", [no])
        }
    };
    Ok(changed.doing("resolve conflicts")? as u64)
}

fn read(
    conn: &Connection,
    tables: &[std::sync::Arc<Tracked>],
    row: &rusqlite::Row<'_>,
) -> Result<Option<Conflict>, StoreError> {
    let field = |error| StoreError::sqlite("read the journal", error);
    let no: i64 = row.get(1).map_err(field)?;
    let Some(tracked) = tables.iter().find(|tracked| tracked.no == no) else { return Ok(None) };
    let packed: Vec<u8> = row.get(2).map_err(field)?;
    let damaged = || StoreError::Internal { table: "isle_conflict", detail: "key".to_owned() };
    let key = unpack_key(&packed, tracked.table.key.len()).map_err(|_| damaged())?;
    let cell: i64 = row.get(3).map_err(field)?;
    let column = usize::try_from(cell - 1).ok().and_then(|at| tracked.table.columns.get(at));
    let site = |at: usize| row.get::<_, Option<[u8; 16]>>(at).map(|id| id.map(SiteId::from_bytes)).map_err(field);
    let hlc =
        |at: usize| row.get::<_, Option<i64>>(at).map(|h| h.and_then(|h| Hlc::from_bits(h as u64))).map_err(field);
    let reason: String = row.get(9).map_err(field)?;
    let state: String = row.get(10).map_err(field)?;
    let current = match column {
        Some(column) => current(conn, tracked, &column.name, &key)?,
        None => None,
    };
    Ok(Some(Conflict {
        id: row.get(0).map_err(field)?,
        table: tracked.table.name.clone(),
        key_columns: tracked.table.key.iter().map(|column| column.name.clone()).collect(),
        key,
        column: column.map(|column| column.name.clone()),
        value: from_sql(row.get_ref(4).map_err(field)?).to_value(),
        current,
        hlc: hlc(5)?.unwrap_or(Hlc::ZERO),
        site: site(6)?,
        winner_hlc: hlc(7)?,
        winner: site(8)?,
        reason: Reason::parse(&reason),
        resolved: state != "open",
    }))
}

fn current(conn: &Connection, tracked: &Tracked, column: &str, key: &Key) -> Result<Option<Value>, StoreError> {
    use crate::layout::quoted;
    let table = quoted(&tracked.table.name);
    let sql = format!("SELECT {} FROM {table} WHERE {}", quoted(column), tracked.key_match(1));
    let mut statement = conn.prepare_cached(&sql).doing("read the current value")?;
    let key: Vec<_> = key.iter().map(Value::as_ref).collect();
    crate::clocks::bind(&mut statement, &key, 1)?;
    let mut rows = statement.raw_query();
    let row = rows.next().doing("read the current value")?;
    row.map(|row| row.get_ref(0).map(|value| from_sql(value).to_value()).doing("read the current value")).transpose()
}
