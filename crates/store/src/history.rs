//! Who changed what and when: read out of the log when somebody asks.
//!
//! A look goes through the whole log, and costs as much as it is long; a million changed rows take seconds. What `isle compact` has dropped, and what came
//! in a snapshot, is not there. Changes are told in the order in which they count: by their times, baselines first.

use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{Block, Header, Key, Row, RowKind, Value, ValueRef, canonical_key};
use isle_clock::{Hlc, SiteId};
use isle_schema::{Affinity, Kind, TableId};
use rusqlite::Connection;

use crate::apply::{Histories, Place};
use crate::clocks::LocalStamp;
use crate::error::Doing as _;
use crate::layout::{self, site_no_of, version_of};
use crate::seal::bits;
use crate::tracked::Tracked;
use crate::{Store, StoreError, kinds};

/// What a changeset did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChangeKind {
    /// It was inserted, or inserted again.
    Inserted,
    /// Some of its columns were written.
    Updated,
    /// It was deleted.
    Deleted,
}

impl RowChangeKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            RowChangeKind::Inserted => "inserted",
            RowChangeKind::Updated => "updated",
            RowChangeKind::Deleted => "deleted",
        }
    }
}

/// A change of a row, as the log has it.
#[derive(Debug, Clone, PartialEq)]
pub struct RowChange {
    /// The author.
    pub site: SiteId,
    /// The author's version.
    pub version: u64,
    /// When it was written.
    pub hlc: Hlc,
    /// The row was there when its table was adopted: it counts as earlier than everything that was written since.
    pub baseline: bool,
    /// What happened.
    pub kind: RowChangeKind,
    /// The row's canonical key.
    pub key: Key,
    /// The columns that were written.
    pub cells: Vec<CellChange>,
    pub(crate) no: i64,
    length: u64,
}

/// A column that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct CellChange {
    /// Its name today; `None` for the exact form of the key.
    pub column: Option<String>,
    /// The value that counted before, if the log has it.
    pub before: Option<Value>,
    /// What was written; for a column of a kind what was added.
    pub after: Value,
    /// The kind of which this is a change, rather than a value.
    pub kind: Option<Kind>,
    pub(crate) cell: usize,
}

impl RowChange {
    fn cell_hlc(&self) -> u64 {
        if self.baseline { 0 } else { self.hlc.bits() }
    }
}

/// What a cell held before two concurrent writes, as both their authors had seen it.
#[derive(Debug, Clone, PartialEq)]
pub enum Base {
    /// This value.
    Value(Value),
    /// There was no such row.
    Absent,
    /// The log does not reach back so far.
    Unknown,
}

impl Store {
    /// Every change of a row that the log has, oldest first. The key is in any of its forms.
    ///
    /// # Errors
    /// [`StoreError::NotTracked`]; SQLite's reason.
    pub fn row_history(&self, table: &str, key: &[Value]) -> Result<Vec<RowChange>, StoreError> {
        self.snapshot(|conn| {
            let tracked = find(conn, table)?;
            let converted: Vec<Value> =
                key.iter().zip(&tracked.table.key).map(|(value, column)| as_stored(value, column.affinity)).collect();
            let exact: Vec<_> = converted.iter().map(Value::as_ref).collect();
            if key.len() != tracked.table.key.len() {
                let (wanted, given) = (tracked.table.key.len(), key.len());
                let reason = format!("the key of table {table} takes {wanted} values, {given} were given");
                return Err(StoreError::Statement { reason });
            }
            let (key, _) = canonical_key(&exact, &tracked.table.key);
            let mut found = Vec::new();
            scan(conn, &one(&tracked), |_, change| {
                if change.key == key {
                    found.push(change);
                }
            })?;
            Ok(in_order(found))
        })
    }

    /// The newest changes of a table's rows that the log has, newest first; what was before each is not looked for.
    ///
    /// # Errors
    /// [`StoreError::NotTracked`]; SQLite's reason.
    pub fn table_history(&self, table: &str, limit: usize) -> Result<Vec<RowChange>, StoreError> {
        self.snapshot(|conn| {
            let tracked = find(conn, table)?;
            let mut found = std::collections::VecDeque::new();
            scan(conn, &one(&tracked), |_, change| {
                found.push_back(change);
                if found.len() > limit {
                    found.pop_front();
                }
            })?;
            Ok(found.into_iter().rev().collect())
        })
    }

    /// What the cell of a journal's entry held before either of the two values was written.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn conflict_base(&self, id: i64) -> Result<Base, StoreError> {
        self.snapshot(|conn| base(conn, id))
    }
}

fn find(conn: &Connection, table: &str) -> Result<Arc<Tracked>, StoreError> {
    let mut tables = crate::engine::load_tables(conn)?.into_iter();
    let found = tables.find(|tracked| tracked.table.name.eq_ignore_ascii_case(table));
    found.ok_or_else(|| StoreError::NotTracked { table: table.to_owned() })
}

fn one(tracked: &Arc<Tracked>) -> HashMap<TableId, Arc<Tracked>> {
    HashMap::from([(tracked.table.id, Arc::clone(tracked))])
}

/// Calls back for each changed row of some tables that is merged here, in the order of the log's times.
pub(crate) fn scan(
    conn: &Connection,
    tables: &HashMap<TableId, Arc<Tracked>>,
    mut take: impl FnMut(TableId, RowChange),
) -> Result<(), StoreError> {
    let own: i64 = layout::require_meta(conn, "site")?;
    let mut statement = conn.prepare("SELECT id, header FROM isle_log ORDER BY hlc, id").doing(READ)?;
    let mut rows = statement.query([]).doing(READ)?;
    while let Some(row) = rows.next().doing(READ)? {
        let (id, encoded): (i64, Vec<u8>) = (row.get(0).doing(READ)?, row.get(1).doing(READ)?);
        let no = site_no_of(id);
        if no != own && version_of(id) > crate::log::applied_version(conn, no)? {
            continue;
        }
        let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
        changeset(conn, (id, &header), tables, &mut take)?;
    }
    Ok(())
}

const READ: &str = "read the log";

/// The rows of one logged changeset.
pub(crate) fn changeset(
    conn: &Connection,
    (id, header): (i64, &Header),
    tables: &HashMap<TableId, Arc<Tracked>>,
    take: &mut impl FnMut(TableId, RowChange),
) -> Result<(), StoreError> {
    let bad = |source| StoreError::BadChangeset { site: header.site, version: header.version, source };
    for (n, info) in header.blocks.iter().enumerate() {
        let Some(stored) = crate::log::block(conn, id, header.blocks.len(), n)? else { continue };
        let block = Block::open(&stored, info).map_err(bad)?;
        for section in block.sections() {
            let mut section = section.map_err(bad)?;
            let Some(tracked) = tables.get(&section.table()) else { continue };
            let places: Vec<Option<Place>> = section.columns().iter().map(|column| tracked.place_of(*column)).collect();
            let mut row = Row::default();
            while section.next(&mut row).map_err(bad)? {
                take(tracked.table.id, change(tracked, header, site_no_of(id), &row, &places));
            }
        }
    }
    Ok(())
}

fn change(tracked: &Tracked, header: &Header, no: i64, row: &Row<'_>, places: &[Option<Place>]) -> RowChange {
    let cell = |(column, value): (usize, &ValueRef<'_>)| {
        let (cell, kind) = match places.get(column).copied().flatten()? {
            Place::Cell(cell) => (cell, None),
            Place::Kind(cell, kind) => (cell, Some(kind)),
        };
        let name = cell.checked_sub(1).and_then(|at| tracked.table.columns.get(at)).map(|column| column.name.clone());
        let after = kind.map_or_else(|| value.to_value(), |kind| kinds::readable(kind, *value));
        Some(CellChange { column: name, before: None, after, kind, cell })
    };
    RowChange {
        site: header.site,
        version: header.version,
        hlc: header.hlc,
        baseline: header.baseline,
        kind: match row.kind {
            RowKind::Insert => RowChangeKind::Inserted,
            RowKind::Update => RowChangeKind::Updated,
            _ => RowChangeKind::Deleted,
        },
        key: row.key.iter().map(|value| value.to_value()).collect(),
        cells: bits(&row.mask).zip(&row.values).filter_map(cell).collect(),
        no,
        length: row.length,
    }
}

/// Brings a row's changes into the order in which they count, and notes what each column held before.
pub(crate) fn in_order(mut changes: Vec<RowChange>) -> Vec<RowChange> {
    changes.sort_by_key(|change| (change.length, change.cell_hlc(), change.site, change.version));
    let mut held: HashMap<usize, Value> = HashMap::new();
    for change in &mut changes {
        let row_ends = change.kind == RowChangeKind::Deleted;
        for cell in &mut change.cells {
            cell.before = held.get(&cell.cell).cloned();
            match cell.kind {
                None => drop(held.insert(cell.cell, cell.after.clone())),
                // What it holds then is a matter of all changes together.
                Some(_) => drop(held.remove(&cell.cell)),
            }
        }
        if row_ends {
            held.clear();
        }
    }
    changes
}

fn base(conn: &Connection, id: i64) -> Result<Base, StoreError> {
    let sql = "SELECT t, k, col, h, s, wh, ws FROM isle_conflict WHERE id = ?1";
    let entry = conn.query_row(sql, [id], |row| {
        let stamp = |at: usize| {
            Ok::<_, rusqlite::Error>(LocalStamp { hlc: row.get::<_, i64>(at)? as u64, site: row.get(at + 1)? })
        };
        let winner = row.get::<_, Option<i64>>(5)?.is_some().then(|| stamp(5)).transpose()?;
        Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, i64>(2)?, stamp(3)?, winner))
    });
    let (no, packed, column, loser, winner) = entry.doing("read the journal")?;
    let tables = crate::engine::load_tables(conn)?;
    let Some((tracked, winner)) = tables.iter().find(|tracked| tracked.no == no).zip(winner) else {
        return Ok(Base::Unknown);
    };
    // Baselines of two devices never saw each other, nor anything before.
    if loser.hlc == 0 || winner.hlc == 0 {
        return Ok(Base::Absent);
    }
    let damaged = |_| StoreError::Internal { table: "isle_conflict", detail: "key".to_owned() };
    let key = isle_changeset::unpack_key(&packed, tracked.table.key.len()).map_err(damaged)?;
    let mut found = Vec::new();
    scan(conn, &one(tracked), |_, change| {
        if change.key == key {
            found.push(change);
        }
    })?;
    let mut histories = Histories::new(conn);
    let mut best: Option<RowChange> = None;
    for change in in_order(found) {
        let mut saw = |author: LocalStamp| -> Result<bool, StoreError> {
            if author.site == change.no {
                return Ok(change.hlc.bits() < author.hlc);
            }
            Ok(histories.at(author.site, author.hlc)?.get(&change.no).is_some_and(|seen| seen.hlc >= change.hlc.bits()))
        };
        let touches = change.kind != RowChangeKind::Updated || change.cells.iter().any(|c| c.cell as i64 == column);
        if touches && saw(loser)? && saw(winner)? {
            best = Some(change);
        }
    }
    Ok(match best {
        Some(change) if change.kind == RowChangeKind::Deleted => Base::Absent,
        Some(change) => {
            let cell = change.cells.into_iter().find(|cell| cell.cell as i64 == column && cell.kind.is_none());
            cell.map_or(Base::Unknown, |cell| Base::Value(cell.after))
        }
        None if crate::track::refuse_short_log(conn).is_err() => Base::Unknown,
        None => Base::Absent,
    })
}

/// The value as a column of this affinity stores it.
fn as_stored(value: &Value, affinity: Affinity) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match (affinity, value) {
        (Affinity::Text, Value::Integer(number)) => Value::Text(number.to_string().into_bytes()),
        (Affinity::Integer | Affinity::Numeric | Affinity::Real, Value::Text(bytes)) => {
            let integer = text(bytes).parse().ok().map(Value::Integer);
            integer.or_else(|| text(bytes).parse().ok().map(Value::Real)).unwrap_or_else(|| value.clone())
        }
        _ => value.clone(),
    }
}
