//! What comes from elsewhere for columns of a kind, and what the table shows of it.

use std::sync::Arc;

use isle_changeset::{DecodeError, Section, Value, ValueRef};
use isle_schema::Kind;
use rusqlite::Connection;

use super::Row;
use crate::StoreError;
use crate::apply::Incoming;
use crate::clocks::{ClockTable, LocalStamp};
use crate::journal::Reason;
use crate::layout::quoted;
use crate::own::site_no;
use crate::shadow;
use crate::tracked::Tracked;

/// Cells to write: which, and their values.
pub(crate) struct Write<'a> {
    pub(crate) mask: Vec<u64>,
    pub(crate) cells: Vec<ValueRef<'a>>,
}

/// A row whose state changes: what it showed, so that what it shows now can be told.
pub(crate) struct Changing {
    row: Row,
    before: Option<Row>,
    /// Cells whose plain values came.
    named: Vec<usize>,
    /// What edits of documents lose, or what is lost by them.
    pub(crate) lost: Vec<Lost>,
}

/// A value of a document, or a change to one, that does not show.
pub(crate) struct Lost {
    pub(crate) cell: usize,
    pub(crate) value: Value,
    pub(crate) loser: LocalStamp,
    pub(crate) winner: Option<LocalStamp>,
    pub(crate) reason: Reason,
}

impl Changing {
    /// A new life, or the one that is there.
    pub(crate) fn open(new: bool, clocks: &mut ClockTable<'_>, key: &[ValueRef<'_>]) -> Result<Changing, StoreError> {
        if new {
            return Ok(Changing { row: Row::default(), before: None, named: Vec::new(), lost: Vec::new() });
        }
        let (_, row) = clocks.state(key)?;
        Ok(Changing { before: Some(row.clone()), row, named: Vec::new(), lost: Vec::new() })
    }

    /// Takes the plain values that won.
    pub(crate) fn bases(&mut self, tracked: &Tracked, mask: &[u64], incoming: &Incoming<'_>) {
        for column in tracked.kinds.iter().filter(|column| mask[column.cell / 64] >> (column.cell % 64) & 1 == 1) {
            self.row.set_base(column, incoming.cells[column.cell]);
            self.named.push(column.cell);
        }
    }

    /// Takes what the author's writes of kinds did.
    pub(crate) fn writes(
        &mut self,
        (conn, tracked): (&Connection, &Tracked),
        incoming: &Incoming<'_>,
        stamp: LocalStamp,
    ) -> Result<(), StoreError> {
        for (cell, kind, value) in &incoming.kinds {
            let Some(column) = tracked.kinds.iter().find(|column| column.cell == *cell) else { continue };
            let newest = |row: &Row| {
                let of_others = row.of(*cell, super::What::Edited).filter(|entry| entry.stamp.site != stamp.site);
                of_others.map(|entry| entry.stamp).max_by_key(|stamp| stamp.hlc)
            };
            let ours = newest(&self.row);
            let taken = self.row.take(column, *kind, *value, stamp, &mut |site| site_no(conn, site))?;
            if column.kind != *kind {
                continue;
            }
            let mut lose = |value, loser, winner, reason| {
                self.lost.push(Lost { cell: *cell, value, loser, winner, reason });
            };
            if taken.stale {
                lose(readable(*kind, *value), stamp, None, Reason::Change);
            }
            if let Some(value) = taken.theirs {
                lose(value, stamp, ours, Reason::Older);
            }
            if let Some((value, ours)) = taken.ours.zip(ours) {
                lose(value, ours, Some(stamp), Reason::Older);
            }
        }
        Ok(())
    }

    /// What edited texts and JSON values showed before another value took their place whose author, as `seen` tells, had not seen all of
    /// the edits: cell, value, last of the edits.
    pub(crate) fn replaced(
        &self,
        tracked: &Tracked,
        seen: impl Fn(LocalStamp) -> bool,
    ) -> Result<Vec<(usize, Value, LocalStamp)>, StoreError> {
        let mut replaced = Vec::new();
        let Some(before) = &self.before else { return Ok(replaced) };
        for column in &tracked.kinds {
            let Some(root) = before.root_edited(column).filter(|root| self.row.root_edited(column) != Some(*root))
            else {
                continue;
            };
            let edits = before.of(column.cell, super::What::Edited).map(|entry| entry.stamp);
            if let Some(last) = edits.filter(|stamp| !seen(*stamp)).max_by_key(|stamp| stamp.hlc) {
                tracing::debug!(?root, "an edited value was replaced");
                replaced.push((column.cell, before.shown(column)?, last));
            }
        }
        Ok(replaced)
    }

    /// Takes the state that the same life has elsewhere.
    pub(crate) fn join(
        &mut self,
        tracked: &Tracked,
        theirs: &Row,
        we_cover: impl Fn(LocalStamp) -> bool,
        they_cover: impl Fn(LocalStamp) -> bool,
    ) -> Result<(), StoreError> {
        let new = self.before.is_none();
        self.row.join(&tracked.kinds, theirs, |stamp| !new && we_cover(stamp), they_cover)
    }

    /// Stores the state, and gives the values that the table shows from now on and did not show before.
    pub(crate) fn close(
        mut self,
        tracked: &Tracked,
        clocks: &mut ClockTable<'_>,
        key: &[ValueRef<'_>],
        known: bool,
    ) -> Result<Vec<(usize, Value)>, StoreError> {
        for column in &tracked.kinds {
            self.row.root_waiting(column)?;
        }
        let packed = self.row.packed();
        if known || packed.is_some() {
            clocks.set_state(key, packed.as_deref())?;
        }
        let mut shows = Vec::new();
        for column in &tracked.kinds {
            let shown = self.row.shown(column)?;
            let differs = match &self.before {
                // What a document showed before would have to be read for that.
                Some(before) if super::documents::form(column.kind).is_some() => {
                    !self.row.has_same_document(before, column)
                }
                Some(before) => before.shown(column)?.as_ref() != shown.as_ref(),
                // The table's own default may be no constant.
                None => self.named.contains(&column.cell) || shown.as_ref() != column.default.as_ref(),
            };
            if differs {
                shows.push((column.cell, shown));
            }
        }
        Ok(shows)
    }
}

/// The cells to write where those of kinds show something else than what came as plain values.
pub(crate) fn write<'a>(
    tracked: &Tracked,
    mask: &[u64],
    cells: &[ValueRef<'a>],
    shown: &'a [(usize, Value)],
) -> Write<'a> {
    let mut write = Write { mask: mask.to_vec(), cells: cells.to_vec() };
    for column in &tracked.kinds {
        write.mask[column.cell / 64] &= !(1 << (column.cell % 64));
    }
    for (cell, value) in shown {
        write.mask[cell / 64] |= 1 << (cell % 64);
        write.cells[*cell] = value.as_ref();
    }
    write
}

/// Puts the plain values of kinds in the place of what the table shows.
pub(crate) fn with_bases(
    tracked: &Tracked,
    clocks: &mut ClockTable<'_>,
    key: &[ValueRef<'_>],
    cells: &mut [Value],
) -> Result<(), StoreError> {
    if tracked.kinds.is_empty() || cells.is_empty() {
        return Ok(());
    }
    let (_, row) = clocks.state(key)?;
    for column in &tracked.kinds {
        cells[column.cell] = row.base(column).to_value();
    }
    Ok(())
}

/// Whether what a write of a kind sends is a change, and no value.
pub(crate) fn is_change(kind: Kind) -> bool {
    !matches!(kind, Kind::Max | Kind::Min)
}

/// A value as people read it in the journal.
pub(crate) fn readable(kind: Kind, value: ValueRef<'_>) -> Value {
    let readable = match (kind, value) {
        (Kind::Set, ValueRef::Blob(bytes)) => {
            isle_changeset::SetChange::decode(bytes).ok().map(|change| super::state::array(&change.added))
        }
        (Kind::Text | Kind::Json, ValueRef::Blob(bytes)) => super::documents::inserted(bytes),
        _ => None,
    };
    readable.unwrap_or_else(|| value.to_value())
}

/// Whether the values of a section are such as their columns' kinds send.
pub(crate) fn check(
    tracked: &Tracked,
    section: &Section<'_>,
    row: &isle_changeset::Row<'_>,
) -> Result<(), DecodeError> {
    if tracked.kinds.is_empty() {
        return Ok(());
    }
    for (column, value) in crate::seal::bits(&row.mask).zip(&row.values) {
        if let Some((_, kind)) = section.columns().get(column).and_then(|id| tracked.kind_of(*id)) {
            super::state::check(kind, *value)?;
        }
    }
    Ok(())
}

/// Whether a value is such as a kind sends.
pub(crate) fn check_value(kind: Kind, value: ValueRef<'_>) -> Result<(), DecodeError> {
    super::state::check(kind, value)
}

/// Writes what the state of a row says into the table, where a local write left something else; true if it did.
pub(crate) fn show(conn: &Connection, tracked: &Arc<Tracked>, key: &[ValueRef<'_>]) -> Result<bool, StoreError> {
    let mut clocks = ClockTable::open(conn, tracked);
    let (length, row) = clocks.state(key)?;
    if length % 2 == 0 {
        return Ok(false);
    }
    let columns = tracked.column_list("");
    let mut hidden = if tracked.constrained { shadow::state(conn, tracked, key)? } else { None };
    let list = format!("NULL{columns}");
    let Some(there) = shadow::values(conn, tracked, (hidden.is_some(), &list, ""), key)? else { return Ok(false) };
    let mut written = false;
    for column in &tracked.kinds {
        let shown = row.shown(column)?;
        if there[column.cell].as_ref() == shown.as_ref() {
            continue;
        }
        written = true;
        // What cannot show is merged all the same: `repair` shows something else for it.
        let required = tracked.required.iter().any(|(cell, _)| *cell == column.cell);
        if required && shown == Value::Null && hidden.is_none() {
            shadow::copy(conn, tracked, key, false)?;
            hidden = Some(false);
        }
        let unfit = required && shown == Value::Null;
        let mut values = key.to_vec();
        values.push(shown.as_ref());
        let name = quoted(&tracked.table.columns[column.cell - 1].name);
        let set = |table: &str| format!("UPDATE {table} SET {name} = ?{} WHERE {}", values.len(), tracked.key_match(1));
        if hidden.is_some() {
            shadow::run(conn, &set(&shadow::name(tracked)), &values)?;
        }
        if hidden != Some(true) && !unfit {
            shadow::run(conn, &set(&quoted(&tracked.table.name)), &values)?;
        }
    }
    Ok(written)
}
