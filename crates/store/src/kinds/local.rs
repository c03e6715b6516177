//! What local writes leave in columns of a kind, as it is sealed, and as it is sealed anew.

use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{Block, DocumentChange, Header, RemovedMember, RowKind, SetChange, Value, ValueRef, pack_key};
use isle_schema::{Kind, TableId};
use rusqlite::Connection;

use super::Row;
use super::state::{Entry, Local, What};
use crate::StoreError;
use crate::clocks::{ClockTable, LocalStamp, RowClock};
use crate::journal::{Journal, Loss, Reason};
use crate::layout::log_id;
use crate::own::{Own, site_id};
use crate::seal::{Sealer, Touch, all_cells, bits, masked};
use crate::tracked::Tracked;

/// Values of kinds that travel with a row: the column's place among those of a kind, and what is sent.
pub(crate) type Sent = Vec<(usize, Value)>;

impl Sealer<'_> {
    /// [`Sealer::touch`] of a table with columns of kinds.
    pub(crate) fn touch_kinds(
        &mut self,
        tracked: &Tracked,
        clocks: &mut ClockTable<'_>,
        touch: &Touch<'_>,
    ) -> Result<bool, StoreError> {
        let Touch { key, present, mask, .. } = *touch;
        if present && touch.fresh && touch.complete {
            let (state, sent) = self.born(tracked, touch);
            if clocks.insert_with_state(key, self.stamp(), state.as_deref())? {
                self.insert_row_with(tracked, 1, touch, &sent)?;
                return Ok(true);
            }
        }
        let (length, state) = clocks.state(key)?;
        let next = RowClock { length: length + 1, stamp: self.stamp(), exceptions: Vec::new() };
        match (length % 2 == 1, present) {
            (true, true) if !tracked.kinds.iter().any(|kind| mask[kind.cell / 64] >> (kind.cell % 64) & 1 == 1) => {
                self.update_row(tracked, length, mask, touch)?;
            }
            (true, true) => {
                let (mask, sent) = self.updated(tracked, clocks, state, touch)?;
                if sent.is_empty() {
                    self.update_row(tracked, length, &mask, touch)?;
                } else {
                    if mask.iter().any(|word| *word != 0) {
                        self.owes_stamps();
                    }
                    let values = masked(&mask, touch.cells);
                    self.row_with(tracked, (RowKind::Update, length), key, (&mask, &values), &sent)?;
                }
            }
            (true, false) => {
                clocks.update(key, &next)?;
                self.row(tracked, RowKind::Delete, next.length, &[], key, &[])?;
            }
            (false, true) => {
                if !touch.complete {
                    return Ok(false);
                }
                let (state, sent) = self.born(tracked, touch);
                clocks.put(key, length > 0, &next)?;
                clocks.set_state(key, state.as_deref())?;
                self.insert_row_with(tracked, next.length, touch, &sent)?;
            }
            (false, false) => {}
        }
        Ok(true)
    }

    /// Adds a row with values of kinds behind its cells.
    pub(crate) fn row_with(
        &mut self,
        tracked: &Tracked,
        (kind, length): (RowKind, u64),
        key: &[ValueRef<'_>],
        (mask, values): (&[u64], &[ValueRef<'_>]),
        sent: &Sent,
    ) -> Result<(), StoreError> {
        let cells = tracked.cells();
        let mut mask = mask.to_vec();
        mask.resize((cells + tracked.kinds.len()).div_ceil(64), 0);
        let mut values = values.to_vec();
        for (n, value) in sent {
            mask[(cells + n) / 64] |= 1 << ((cells + n) % 64);
            values.push(value.as_ref());
        }
        self.row(tracked, kind, length, &mask, key, &values)
    }

    /// Writes a row that names every column, and values of kinds behind them.
    fn insert_row_with(
        &mut self,
        tracked: &Tracked,
        length: u64,
        touch: &Touch<'_>,
        sent: &Sent,
    ) -> Result<(), StoreError> {
        if sent.is_empty() {
            return self.insert_row(tracked, length, touch);
        }
        let mask = all_cells(tracked.cells(), !matches!(touch.cells[0], ValueRef::Null));
        let values = masked(&mask, touch.cells);
        self.row_with(tracked, (RowKind::Insert, length), touch.key, (&mask, &values), sent)
    }

    /// The state of a new row, and what travels beside its cells.
    fn born(&self, tracked: &Tracked, touch: &Touch<'_>) -> (Option<Vec<u8>>, Sent) {
        let (mut row, mut sent) = (Row::default(), Vec::new());
        for (n, column) in tracked.kinds.iter().enumerate() {
            sent.extend(row.born(column, touch.cells[column.cell], self.stamp()).map(|value| (n, value)));
        }
        (row.packed(), sent)
    }

    /// Takes the cells of a row that changed; gives the mask of the others, and what travels of these.
    fn updated(
        &self,
        tracked: &Tracked,
        clocks: &mut ClockTable<'_>,
        mut row: Row,
        touch: &Touch<'_>,
    ) -> Result<(Vec<u64>, Sent), StoreError> {
        let conn = self.conn();
        let (mut mask, mut sent) = (touch.mask.to_vec(), Vec::new());
        let named = |cell: usize| touch.mask[cell / 64] >> (cell % 64) & 1 == 1;
        let (mut owed, mut plain) = (false, false);
        for (n, column) in tracked.kinds.iter().enumerate().filter(|(_, column)| named(column.cell)) {
            mask[column.cell / 64] &= !(1 << (column.cell % 64));
            let new = touch.cells[column.cell];
            match row.local(column, new, self.stamp(), &mut |no| site_id(conn, no))? {
                Local::Sent(value) => sent.push((n, value)),
                Local::Plain => {
                    mask[column.cell / 64] |= 1 << (column.cell % 64);
                    plain = true;
                }
                Local::Nothing => {}
                Local::NotOfKind => {
                    let loss = Loss {
                        cell: column.cell,
                        value: new,
                        loser: self.stamp(),
                        winner: None,
                        reason: Reason::NotOfKind,
                    };
                    Journal::open(conn)?.add(tracked, touch.key, loss)?;
                }
            }
            owed |= row.shown(column)?.as_ref() != new;
        }
        if plain || !sent.is_empty() {
            clocks.set_state(touch.key, row.packed().as_deref())?;
        }
        if owed {
            crate::repair::owe(conn, tracked.no, &pack_key(touch.key))?;
        }
        Ok((mask, sent))
    }
}

/// What unpublished versions say of a row beside what its state tells.
#[derive(Debug, Default)]
struct UnsentRow {
    length: u64,
    /// By cell.
    counts: HashMap<usize, i64>,
    removed: HashMap<usize, Vec<RemovedMember>>,
    changes: HashMap<(usize, Kind), DocumentChange>,
}

/// What unpublished versions did to columns of kinds, as far as their states do not tell: what was added to counters, members that
/// went, and changes of documents.
#[derive(Debug, Default)]
pub(crate) struct Unsent(HashMap<(TableId, Vec<u8>), UnsentRow>);

/// Reads what own versions did.
pub(crate) fn unsent(
    conn: &Connection,
    own: &Own,
    versions: std::ops::RangeInclusive<u64>,
    tables: &[Arc<Tracked>],
) -> Result<Unsent, StoreError> {
    let mut unsent = Unsent::default();
    if tables.iter().all(|tracked| tracked.kinds.is_empty()) {
        return Ok(unsent);
    }
    for version in versions {
        let id = log_id(own.no, version);
        let sql = "SELECT header FROM isle_log WHERE id = ?1";
        let Some(encoded) = crate::clocks::one::<Vec<u8>>(conn, sql, [id])? else { continue };
        let bad = |source| StoreError::BadChangeset { site: own.site, version, source };
        let header = Header::decode(&encoded).map_err(bad)?;
        for (n, info) in header.blocks.iter().enumerate() {
            let Some(stored) = crate::log::block(conn, id, header.blocks.len(), n)? else { continue };
            let block = Block::open(&stored, info).map_err(bad)?;
            for section in block.sections() {
                let section = section.map_err(bad)?;
                let known = tables.iter().find(|tracked| tracked.table.id == section.table());
                if let Some(tracked) = known.filter(|tracked| !tracked.kinds.is_empty()) {
                    unsent.take(tracked, section).map_err(bad)?;
                }
            }
        }
    }
    Ok(unsent)
}

impl Unsent {
    fn take(
        &mut self,
        tracked: &Tracked,
        mut section: isle_changeset::Section<'_>,
    ) -> Result<(), isle_changeset::DecodeError> {
        let places: Vec<_> = section.columns().iter().map(|id| tracked.kind_of(*id)).collect();
        let mut row = isle_changeset::Row::default();
        while section.next(&mut row)? {
            for (column, value) in bits(&row.mask).zip(&row.values) {
                let Some(Some((n, kind))) = places.get(column) else { continue };
                let cell = tracked.kinds[*n].cell;
                let known = self.0.entry((tracked.table.id, pack_key(&row.key))).or_default();
                if known.length != row.length {
                    *known = UnsentRow { length: row.length, ..UnsentRow::default() };
                }
                match (kind, value) {
                    (Kind::Counter, ValueRef::Integer(difference)) => {
                        let count = known.counts.entry(cell).or_default();
                        *count = count.wrapping_add(*difference);
                    }
                    (Kind::Set, ValueRef::Blob(bytes)) => {
                        known.removed.entry(cell).or_default().extend(SetChange::decode(bytes)?.removed);
                    }
                    (Kind::Text | Kind::Json, ValueRef::Blob(bytes)) => {
                        let changes = DocumentChange::decode(bytes)?.changes;
                        known.changes.entry((cell, *kind)).or_default().changes.extend(changes);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn row(&self, tracked: &Tracked, key: &[ValueRef<'_>], length: u64) -> Option<&UnsentRow> {
        self.0.get(&(tracked.table.id, pack_key(key))).filter(|row| row.length == length)
    }

    /// What travels of a row's kinds when it is sealed anew, with stamps of that version in the place of `mine`.
    pub(crate) fn again(
        &self,
        tracked: &Tracked,
        (key, length): (&[ValueRef<'_>], u64),
        row: &mut Row,
        mine: impl Fn(LocalStamp) -> bool,
        stamp: LocalStamp,
    ) -> Sent {
        let unsent = self.row(tracked, key, length);
        let mut sent = Vec::new();
        for (n, column) in tracked.kinds.iter().enumerate() {
            let cell = column.cell;
            let of = |what: What| row.of(cell, what).filter(|entry| mine(entry.stamp));
            let value = match column.kind {
                Kind::Counter => unsent.and_then(|row| row.counts.get(&cell)).map(|count| Value::Integer(*count)),
                Kind::Max => of(What::Max).next().map(|entry| entry.value.clone()),
                Kind::Min => of(What::Min).next().map(|entry| entry.value.clone()),
                kind @ (Kind::Text | Kind::Json) => {
                    unsent.and_then(|row| row.changes.get(&(cell, kind))).map(|changes| Value::Blob(changes.encode()))
                }
                _ => {
                    let added = of(What::Member).filter_map(|entry| match &entry.value {
                        Value::Text(member) => Some(member.clone()),
                        _ => None,
                    });
                    let removed = unsent.and_then(|row| row.removed.get(&cell)).cloned().unwrap_or_default();
                    let mut change = SetChange { added: added.collect(), removed };
                    // A member that came back stays: what it was before is at an end by its name alone.
                    change.removed.sort_by(|a, b| a.member.cmp(&b.member));
                    (change != SetChange::default()).then(|| Value::Blob(change.encode()))
                }
            };
            sent.extend(value.map(|value| (n, value)));
        }
        row.change(|entry| Some(if mine(entry.stamp) { Entry { stamp, ..entry } } else { entry }));
        sent
    }

    /// Whether a row has something to travel again.
    pub(crate) fn concerns(&self, tracked: &Tracked, key: &[ValueRef<'_>], length: u64) -> bool {
        self.row(tracked, key, length).is_some()
    }

    /// These versions are another site's from now on: what they did moves to its number. The old one's totals are as of `kept`.
    pub(crate) fn move_to(
        &self,
        conn: &Connection,
        tracked: &Arc<Tracked>,
        (from, to, kept): (i64, i64, u64),
    ) -> Result<(), StoreError> {
        // What stood in the table when it was adopted carries no time.
        let baseline = crate::layout::baselines(conn, tracked.no)?.contains_key(&to);
        for (key, length, mut row) in states(conn, tracked)? {
            let before = row.clone();
            let key: Vec<_> = key.iter().map(Value::as_ref).collect();
            let unsent = self.row(tracked, &key, length);
            let mut moved = Vec::new();
            row.change(|mut entry| {
                let moves = if entry.stamp.hlc == 0 { baseline } else { entry.stamp.hlc > kept };
                if entry.stamp.site != from || !moves {
                    return Some(entry);
                }
                let mut copy = entry.clone();
                copy.stamp.site = to;
                if entry.what != What::Total {
                    return Some(copy);
                }
                let count = unsent.and_then(|row| row.counts.get(&entry.cell)).copied().unwrap_or(0);
                let Value::Integer(total) = entry.value else { return Some(entry) };
                copy.value = Value::Integer(count);
                moved.push(copy);
                entry.value = Value::Integer(total.wrapping_sub(count));
                entry.stamp.hlc = kept;
                (total != count).then_some(entry)
            });
            row.add(moved);
            if row != before {
                ClockTable::open(conn, tracked).set_state(&key, row.packed().as_deref())?;
            }
        }
        Ok(())
    }
}

type State = (Vec<Value>, u64, Row);

/// The rows of a table that have a state: key, causal length and state.
pub(super) fn states(conn: &Connection, tracked: &Arc<Tracked>) -> Result<Vec<State>, StoreError> {
    use crate::error::Doing as _;
    let keys = tracked.clock_key();
    let sql = format!("SELECT h, w, x, s, {} FROM {} WHERE s IS NOT NULL", keys.join(", "), tracked.clock());
    let mut statement = conn.prepare(&sql).doing("read states")?;
    let mut rows = statement.query([]).doing("read states")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().doing("read states")? {
        let Some(clock) = crate::clocks::RowClock::read(row, 0, tracked)? else { continue };
        let state: Vec<u8> = row.get(3).doing("read states")?;
        let key = (0..keys.len()).map(|n| row.get_ref(4 + n).map(|value| crate::clocks::from_sql(value).to_value()));
        let key = key.collect::<Result<Vec<_>, _>>().doing("read states")?;
        found.push((key, clock.length, Row::unpack(Some(&state))?));
    }
    Ok(found)
}
