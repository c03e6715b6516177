//! Columns get a kind.

use std::sync::Arc;

use isle_changeset::{Value, pack_key, unpack_key};
use isle_schema::{Affinity, ColumnId, Kind, Schema};
use rusqlite::{Connection, params};

use super::{LocalKind, Row};
use crate::StoreError;
use crate::clocks::{CLOCK_FIELDS, ClockTable, alive, from_sql};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::journal::{Journal, Loss, Reason};
use crate::tracked::{self, Tracked};

/// Why a column of a table cannot have a kind.
pub(crate) fn refuse(tracked: &Tracked, name: &str, kind: Kind) -> Option<String> {
    let is = |other: &str| other.eq_ignore_ascii_case(name);
    let Some(at) = tracked.table.columns.iter().position(|column| is(&column.name)) else {
        return Some(format!("{name:?} is no column outside the key"));
    };
    let unique = tracked.unique.iter().flat_map(|index| &index.parts).any(|part| is(&part.column.name));
    let refers = tracked.references.iter().any(|key| key.columns().any(is));
    if unique || refers {
        return Some(format!("column {name:?} is part of a UNIQUE index or a foreign key, so it cannot be a {kind}"));
    }
    let whole = matches!(tracked.affinities.get(at), Some(Affinity::Integer | Affinity::Numeric));
    let text = matches!(tracked.affinities.get(at), Some(Affinity::Text | Affinity::Blob));
    if super::documents::form(kind).is_some() && !text {
        return Some(format!("column {name:?} is no TEXT, so it cannot be a {kind}"));
    }
    (kind == Kind::Counter && !whole).then(|| format!("column {name:?} is no INTEGER, so it cannot be a counter"))
}

/// Gives columns the kinds and groups that the schema says. What a row holds becomes the base that its writes start from.
/// Gives table and reason where a column cannot have its kind.
pub(crate) fn follow(engine: &mut Engine, schema: &Schema, own: bool) -> Result<Option<(String, String)>, StoreError> {
    let mut changed = false;
    for tracked in engine.tables.clone() {
        let Some(target) = schema.tables.get(&tracked.table.id) else { continue };
        let known = |id: &ColumnId| {
            let column = tracked.kinds.iter().find(|column| tracked.table.columns[column.cell - 1].id == *id);
            column.map(|column| column.kind)
        };
        let here = |id: &ColumnId| tracked.cell_of(*id).is_some();
        let news = target.kinds.iter().filter(|(id, kind)| here(id) && known(id) != Some(**kind));
        let news: Vec<(ColumnId, Kind)> = news.map(|(id, kind)| (*id, *kind)).collect();
        // Elsewhere somebody may have made the column UNIQUE meanwhile: then both hold.
        for (id, kind) in news.iter().filter(|_| own) {
            let name = tracked.table.columns.iter().find(|column| column.id == *id).map(|column| column.name.as_str());
            if let Some(reason) = name.and_then(|name| refuse(&tracked, name, *kind)) {
                return Ok(Some((tracked.table.name.clone(), reason)));
            }
        }
        if !news.is_empty() {
            set(&engine.conn, &tracked, &news)?;
            changed = true;
        }
        let groups: Vec<Vec<ColumnId>> = target.groups.iter().map(|group| group.iter().copied().collect()).collect();
        if groups != tracked.model().groups {
            let def =
                crate::clocks::one::<String>(&engine.conn, "SELECT def FROM isle_table WHERE no = ?1", [tracked.no])?;
            let model = tracked::LocalTable { groups, ..tracked::LocalTable::of_json(&def.unwrap_or_default())? };
            let sql = "UPDATE isle_table SET def = ?2 WHERE no = ?1";
            engine.conn.execute(sql, params![tracked.no, model.to_json()?]).doing("list the table")?;
            changed = true;
        }
    }
    if changed {
        engine.load_tables()?;
    }
    Ok(None)
}

fn set(conn: &Connection, tracked: &Arc<Tracked>, news: &[(ColumnId, Kind)]) -> Result<(), StoreError> {
    let mut model = tracked.model();
    let mut fresh = Vec::new();
    for (id, kind) in news {
        match model.kinds.iter_mut().find(|known| known.column == *id) {
            Some(known) => known.kind = *kind,
            None => {
                let default = pack_key(&[default(conn, tracked, *id)?.as_ref()]);
                model.kinds.push(LocalKind { column: *id, kind: *kind, default });
                fresh.push(*id);
            }
        }
    }
    if tracked.kinds.is_empty() {
        conn.execute_batch(&format!("ALTER TABLE {} ADD COLUMN s", tracked.clock())).doing("make room for states")?;
    }
    let sql = "UPDATE isle_table SET def = ?2 WHERE no = ?1";
    conn.execute(sql, params![tracked.no, model.to_json()?]).doing("list the table")?;
    let mut changed = tracked::load(conn, tracked.no, model)?;
    changed.has_shadow = tracked.has_shadow;
    let changed = Arc::new(changed);
    fill(conn, &changed, &fresh)?;
    // Another kind shows something else of the same state.
    for (key, _, state) in super::local::states(conn, &changed)? {
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        crate::repair::owe(conn, changed.no, &pack_key(&key))?;
        for column in &changed.kinds {
            let Some(before) = tracked.kinds.iter().find(|b| b.cell == column.cell && b.kind != column.kind) else {
                continue;
            };
            // What was written under the kind that has lost counts for nothing.
            let Some(entry) = state.newest(before) else { continue };
            let value = state.shown(before)?;
            let (cell, reason) = (column.cell, Reason::NotOfKind);
            let loss = Loss { cell, value: value.as_ref(), loser: entry, winner: None, reason };
            Journal::open(conn)?.add(&changed, &key, loss)?;
        }
    }
    Ok(())
}

/// Notes what rows hold in columns that are new here as their bases.
fn fill(conn: &Connection, tracked: &Arc<Tracked>, fresh: &[ColumnId]) -> Result<(), StoreError> {
    let columns: Vec<_> =
        tracked.kinds.iter().filter(|column| fresh.contains(&tracked.table.columns[column.cell - 1].id)).collect();
    let keys = tracked.table.key.len();
    let sql = format!("SELECT {} WHERE {}", tracked.clocks_and_rows(conn, "JOIN")?, alive("c."));
    let mut statement = conn.prepare(&sql).doing("note what rows hold")?;
    let mut rows = statement.raw_query();
    let mut noted = Vec::new();
    while let Some(row) = rows.next().doing("note what rows hold")? {
        let value = |at: usize| row.get_ref(at).map(from_sql).doing("note what rows hold");
        let default = |column: &&super::KindColumn| {
            Ok::<_, StoreError>(value(CLOCK_FIELDS + 2 * keys + column.cell - 1)? == column.default.as_ref())
        };
        let mut plain = true;
        for column in &columns {
            plain &= default(column)?;
        }
        if plain {
            continue;
        }
        let mut state = tracked.state_in(row)?;
        for column in &columns {
            state.set_base(column, value(CLOCK_FIELDS + 2 * keys + column.cell - 1)?);
        }
        let key = (0..keys).map(|n| value(CLOCK_FIELDS + n).map(|value| value.to_value()));
        noted.push((key.collect::<Result<Vec<_>, _>>()?, state.packed()));
    }
    drop(rows);
    let mut clocks = ClockTable::open(conn, tracked);
    for (key, state) in noted {
        let key: Vec<_> = key.iter().map(Value::as_ref).collect();
        clocks.set_state(&key, state.as_deref())?;
    }
    Ok(())
}

/// What a column has in a row that does not name it, if that is always the same.
fn default(conn: &Connection, tracked: &Tracked, id: ColumnId) -> Result<Value, StoreError> {
    let at = tracked.cell_of(id);
    if let Some((_, value)) = tracked.defaults.iter().find(|(cell, _)| Some(*cell) == at) {
        return Ok(value.clone());
    }
    let name = tracked.table.columns.iter().find(|column| column.id == id).map_or("", |column| column.name.as_str());
    let physical = tracked::columns(conn, &tracked.table.name)?;
    let column = physical.iter().find(|column| column.name.eq_ignore_ascii_case(name));
    let Some((declared, default)) = column.and_then(|column| Some((&column.declared, column.default.as_ref()?))) else {
        return Ok(Value::Null);
    };
    crate::define::constant(declared, default)
}

impl Tracked {
    /// Where the state of a row stands among the columns of [`Tracked::clocks_and_rows`].
    fn state_at(&self) -> usize {
        CLOCK_FIELDS + 2 * self.table.key.len() + self.table.columns.len()
    }

    /// The state of a row of [`Tracked::clocks_and_rows`].
    pub(crate) fn state_in(&self, row: &rusqlite::Row<'_>) -> Result<Row, StoreError> {
        if self.kinds.is_empty() {
            return Ok(Row::default());
        }
        let bytes: Option<Vec<u8>> = row.get(self.state_at()).doing("read a state")?;
        Row::unpack(bytes.as_deref())
    }

    /// The place among the columns of a kind, and the kind, whose writes travel under an id.
    pub(crate) fn kind_of(&self, id: ColumnId) -> Option<(usize, Kind)> {
        self.kinds.iter().enumerate().find_map(|(n, column)| column.kind_of(id).map(|kind| (n, kind)))
    }
}

/// Reads the columns of kinds that a model names.
pub(crate) fn columns(table: &isle_schema::Table, kinds: &[LocalKind]) -> Option<Vec<super::KindColumn>> {
    let column = |kind: &LocalKind| {
        let cell = table.columns.iter().position(|column| column.id == kind.column)? + 1;
        let default = unpack_key(&kind.default, 1).ok()?.pop()?;
        Some(super::KindColumn::new(cell, kind.column, kind.kind, default))
    };
    let mut columns: Vec<_> = kinds.iter().map(column).collect::<Option<_>>()?;
    columns.sort_by_key(|column| column.cell);
    Some(columns)
}
