//! Capture in passing: what statements through `Replica` change, taken from temporary triggers and the update hook of its own
//! connection.
//!
//! The triggers in the file stand aside: the authorizer ignores their `INSERT INTO isle_queue` on this connection, so that
//! their programs are empty. Temporary triggers, which no other client sees, hand keys and values to a function of
//! ours; the values are copied once, when they are at hand anyway, and the seal does not read them again. Whatever this path cannot
//! do exactly it hands to the other one by turning events into queue entries: tables with more than 60 columns,
//! keys with more than one form, more than [`BYTES_MAX`] of values, and statements that failed.
//!
//! A row that is new in a table with an integer key comes from the update hook, which tells its key; the seal reads the row. A
//! trigger there cost each INSERT a statement journal, a third of a bulk load. The hook alone would not do: it tells nothing
//! of a row's values before, nor anything of tables WITHOUT ROWID.
//!
//! Tried and dropped: SQLite's preupdate hook. It is as fast, but rusqlite builds it only with libclang at hand, which a
//! machine with a C compiler need not have; and it numbers generated columns its own way.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{ValueRef, canonical_value, has_forms};
use rusqlite::functions::Context;

use crate::clocks::from_sql;
use crate::layout::quoted;
use crate::tracked::{Tracked, join};

/// Values kept in memory for one transaction; beyond it only keys are kept, until they go to the queue table.
pub(crate) const BYTES_MAX: usize = 64 << 20;

const INSERT: i64 = 0;
const UPDATE: i64 = 1;
const DELETE: i64 = 2;
/// A row that REPLACE may be about to remove: it fires no trigger for that.
const MAYBE_GONE: i64 = 3;

/// The function that the temporary triggers call.
pub(crate) const FUNCTION: &str = "isle_capture";

/// The temporary triggers of a table: keys and then columns, for an update old and new in turn.
pub(crate) fn trigger_sql(tracked: &Tracked) -> String {
    let on = quoted(&tracked.table.name);
    let no = tracked.no;
    let key = || tracked.table.key.iter().map(|column| quoted(&column.name));
    let all = || key().chain(tracked.table.columns.iter().map(|column| quoted(&column.name)));
    let inserted = join(all().map(|name| format!(",NEW.{name}")), "");
    let updated = join(all().map(|name| format!(",OLD.{name},NEW.{name}")), "");
    let deleted = join(key().map(|name| format!(",OLD.{name}")), "");
    let trigger = |name: &str, event: &str, what: i64, values: &str| {
        format!(
            "CREATE TEMP TRIGGER isle_{name}{no} AFTER {event} ON main.{on} BEGIN SELECT {FUNCTION}({no},{what}{values}); END;\n"
        )
    };
    let by_hook = tracked.table.rowid_key;
    let insert = if by_hook { String::new() } else { trigger("ti", "INSERT", INSERT, &inserted) };
    let clashes = crate::triggers::clashes(tracked, |found| {
        let keys = join(key().map(|name| format!(",{name}")), "");
        format!("SELECT {FUNCTION}({no},{MAYBE_GONE}{keys}) FROM {found};")
    });
    let clashes = clashes.map(|[insert, update]| {
        format!("CREATE TEMP TRIGGER isle_tr{no} {insert};\nCREATE TEMP TRIGGER isle_tq{no} {update};\n")
    });
    insert
        + &trigger("tu", "UPDATE", UPDATE, &updated)
        + &trigger("td", "DELETE", DELETE, &deleted)
        + &clashes.unwrap_or_default()
}

/// What a statement did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    Insert,
    /// An insert whose values the table has.
    New,
    Update,
    Delete,
    /// Something: look at the table.
    Hint,
}

/// One change of one row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    /// Orders keys as far as it can: see `sort_key`.
    sort: u64,
    pub(crate) kind: EventKind,
    /// Changed cells.
    pub(crate) mask: u64,
    /// Where the packed key starts; the values of the masked columns follow it.
    at: usize,
}

/// The changes of one table in the open transaction.
#[derive(Debug)]
pub(crate) struct TableEvents {
    pub(crate) tracked: Arc<Tracked>,
    pub(crate) events: Vec<Event>,
    pub(crate) hints: bool,
}

/// The changes of the open transaction.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    by_no: HashMap<i64, usize>,
    /// The table of the last event: most statements change one table.
    last: usize,
    pub(crate) tables: Vec<TableEvents>,
    arena: Vec<u8>,
}

/// A point to which a capture can return: the arena's length. Every event takes room there, so it dates events too.
pub(crate) type Mark = usize;

impl Capture {
    /// Watches these tables.
    pub(crate) fn watch(&mut self, tables: &[Arc<Tracked>]) {
        *self = Capture::default();
        for tracked in tables.iter().filter(|tracked| tracked.hookable()) {
            self.by_no.insert(tracked.no, self.tables.len());
            self.tables.push(TableEvents { tracked: Arc::clone(tracked), events: Vec::new(), hints: false });
        }
    }

    pub(crate) fn clear(&mut self) {
        for table in &mut self.tables {
            table.events.clear();
            table.hints = false;
        }
        if self.arena.capacity() > BYTES_MAX / 8 {
            self.arena = Vec::new();
        }
        self.arena.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.events.is_empty())
    }

    /// Whether so much has come together that it should go to the queue table.
    pub(crate) fn is_full(&self) -> bool {
        let keys = self.tables.get(self.last).map_or(0, |table| table.events.len() * size_of::<Event>());
        self.arena.len() + keys > BYTES_MAX
    }

    pub(crate) fn mark(&self) -> Mark {
        self.arena.len()
    }

    /// Forgets what came after the mark: a savepoint was rolled back.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        for table in &mut self.tables {
            let kept = table.events.partition_point(|event| event.at < mark);
            table.events.truncate(kept);
        }
        self.arena.truncate(mark);
    }

    /// Takes out what came after the mark, table by table.
    pub(crate) fn split_off(&mut self, mark: Mark) -> Vec<(usize, Vec<Event>)> {
        let tables = self.tables.iter_mut().enumerate();
        let split = tables.map(|(n, table)| {
            let kept = table.events.partition_point(|event| event.at < mark);
            (n, table.events.split_off(kept))
        });
        split.filter(|(_, events)| !events.is_empty()).collect()
    }

    /// The triggers' entry: the table's number, what happened, and the values as [`trigger_sql`] lists them.
    pub(crate) fn row(&mut self, context: &Context<'_>) -> rusqlite::Result<()> {
        let (no, what): (i64, i64) = (context.get(0)?, context.get(1)?);
        let mut n = self.last;
        if self.tables.get(n).is_none_or(|table| table.tracked.no != no) {
            let Some(&found) = self.by_no.get(&no) else { return Ok(()) };
            self.last = found;
            n = found;
        }
        self.tables[n].take(&mut self.arena, what, context);
        Ok(())
    }

    /// The update hook's entry: a row of a table whose key is the rowid.
    pub(crate) fn inserted(&mut self, table: &str, rowid: i64) {
        let named = |events: &TableEvents| events.tracked.table.name.eq_ignore_ascii_case(table);
        if !self.tables.get(self.last).is_some_and(named) {
            let Some(found) = self.tables.iter().position(named) else { return };
            self.last = found;
        }
        let table = &mut self.tables[self.last];
        if table.tracked.table.rowid_key {
            let key = ValueRef::Integer(rowid);
            let mask = table.all_columns();
            table.events.push(Event { sort: sort_key(key), kind: EventKind::New, mask, at: self.arena.len() });
            pack(&mut self.arena, key);
        }
    }

    /// Sorts the events of a table by key, and those of one key by age.
    pub(crate) fn sort(&mut self, n: usize) {
        let arena = &self.arena;
        let table = &mut self.tables[n];
        let keys = table.tracked.table.key.len();
        let order = |a: &Event, b: &Event| a.sort.cmp(&b.sort).then_with(|| compare_keys(arena, a.at, b.at, keys));
        if !table.events.is_sorted_by(|a, b| order(a, b) != Ordering::Greater) {
            table.events.sort_by(order);
        }
    }

    /// The first column of an event's key.
    pub(crate) fn first_key(&self, event: &Event) -> ValueRef<'_> {
        Values { arena: &self.arena, at: event.at }.take()
    }

    /// Reads the key of an event into `key`; gives the place of its values.
    pub(crate) fn key<'a>(&'a self, event: &Event, keys: usize, key: &mut Vec<ValueRef<'a>>) -> Values<'a> {
        let mut values = Values { arena: &self.arena, at: event.at };
        key.clear();
        key.extend((0..keys).map(|_| values.take()));
        values
    }
}

impl TableEvents {
    /// The mask of every column.
    fn all_columns(&self) -> u64 {
        u64::MAX >> (64 - self.tracked.cells()) & !1
    }

    /// Notes what a trigger reports of one row.
    fn take(&mut self, arena: &mut Vec<u8>, what: i64, context: &Context<'_>) {
        let keys = self.tracked.table.key.len();
        let columns = self.tracked.table.columns.len();
        let all = self.all_columns();
        let value = |at: usize| from_sql(context.get_raw(at));
        match what {
            INSERT => self.push(arena, EventKind::Insert, all, |at| value(2 + at)),
            DELETE => self.push(arena, EventKind::Delete, 0, |at| value(2 + at)),
            MAYBE_GONE => {
                let event = Event { sort: sort_key(value(2)), kind: EventKind::Hint, mask: 0, at: arena.len() };
                (0..keys).for_each(|at| pack(arena, value(2 + at)));
                self.events.push(event);
                self.hints = true;
            }
            _ => {
                let old = |at: usize| value(2 + 2 * at);
                let new = |at: usize| value(3 + 2 * at);
                let mut mask = 0;
                for column in (0..columns).filter(|column| old(keys + column) != new(keys + column)) {
                    mask |= 2 << column;
                }
                for (at, column) in self.tracked.table.key.iter().enumerate().filter(|(at, _)| old(*at) != new(*at)) {
                    let canonical = |value| canonical_value(value, column).unwrap_or_else(|| value.to_value());
                    if canonical(old(at)) != canonical(new(at)) {
                        self.push(arena, EventKind::Delete, 0, old);
                        self.push(arena, EventKind::Insert, all, new);
                        return;
                    }
                    mask |= 1;
                }
                self.tracked.widen(std::slice::from_mut(&mut mask));
                if mask != 0 {
                    self.push(arena, EventKind::Update, mask, new);
                }
            }
        }
    }

    /// Notes an event; `value` gives the key's values and then the columns'.
    fn push<'v>(&mut self, arena: &mut Vec<u8>, kind: EventKind, mask: u64, value: impl Fn(usize) -> ValueRef<'v>) {
        let model = &self.tracked.table;
        let mut event = Event { sort: 0, kind, mask, at: arena.len() };
        for (position, column) in model.key.iter().enumerate() {
            let key = value(position);
            if !model.rowid_key && has_forms(key, column) {
                event.kind = EventKind::Hint;
            }
            if position == 0 {
                event.sort = sort_key(key);
            }
            pack(arena, key);
        }
        // Bit 0: the exact bytes of the key changed, which the queue's path packs.
        if arena.len() > BYTES_MAX || mask & 1 == 1 {
            event.kind = EventKind::Hint;
        }
        if event.kind == EventKind::Hint {
            if kind != EventKind::Update {
                event.mask = u64::MAX;
            }
            self.hints = true;
        } else {
            for cell in crate::seal::bits(&[mask]) {
                pack(arena, value(model.key.len() + cell - 1));
            }
        }
        self.events.push(event);
    }
}

/// Packed values in the arena, one after the other. The arena holds only what [`pack`] wrote.
#[derive(Debug, Clone)]
pub(crate) struct Values<'a> {
    arena: &'a [u8],
    at: usize,
}

impl<'a> Values<'a> {
    /// The values that [`pack`] appended to an empty arena.
    pub(crate) fn new(arena: &'a [u8]) -> Values<'a> {
        Values { arena, at: 0 }
    }

    pub(crate) fn take(&mut self) -> ValueRef<'a> {
        let (value, next) = unpack(self.arena, self.at);
        self.at = next;
        value
    }
}

/// Appends a value for [`Values`] to read.
pub(crate) fn pack(arena: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => arena.push(0),
        ValueRef::Integer(v) => {
            arena.push(1);
            arena.extend_from_slice(&v.to_le_bytes());
        }
        ValueRef::Real(v) => {
            arena.push(2);
            arena.extend_from_slice(&v.to_bits().to_le_bytes());
        }
        ValueRef::Text(v) => pack_bytes(arena, 3, v),
        ValueRef::Blob(v) => pack_bytes(arena, 4, v),
    }
}

fn pack_bytes(arena: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    arena.push(tag);
    arena.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    arena.extend_from_slice(bytes);
}

fn unpack(arena: &[u8], at: usize) -> (ValueRef<'_>, usize) {
    let word = || arena.get(at + 1..at + 9).and_then(|w| <[u8; 8]>::try_from(w).ok()).map_or(0, u64::from_le_bytes);
    let bytes = |length: usize| arena.get(at + 9..at + 9 + length).unwrap_or_default();
    match arena.get(at) {
        Some(1) => (ValueRef::Integer(word() as i64), at + 9),
        Some(2) => (ValueRef::Real(f64::from_bits(word())), at + 9),
        Some(3) => (ValueRef::Text(bytes(word() as usize)), at + 9 + word() as usize),
        Some(4) => (ValueRef::Blob(bytes(word() as usize)), at + 9 + word() as usize),
        _ => (ValueRef::Null, at + 1),
    }
}

fn compare_keys(arena: &[u8], a: usize, b: usize, keys: usize) -> Ordering {
    let (mut a, mut b) = (Values { arena, at: a }, Values { arena, at: b });
    (0..keys).map(|_| a.take().order(b.take())).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

/// A number that never orders two keys wrongly, and most often tells them apart: two bits of class, then the
/// value's upper bits.
fn sort_key(value: ValueRef<'_>) -> u64 {
    let bytes = |v: &[u8]| {
        let mut word = [0; 8];
        let length = v.len().min(8);
        word[..length].copy_from_slice(&v[..length]);
        u64::from_be_bytes(word) >> 2
    };
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(v) => 1 << 62 | (v as u64 ^ 1 << 63) >> 2,
        // A real lies between integers: its floor orders it, and ties are settled by the full comparison.
        ValueRef::Real(v) => 1 << 62 | (v.floor() as i64 as u64 ^ 1 << 63) >> 2,
        ValueRef::Text(v) => 2 << 62 | bytes(v),
        ValueRef::Blob(v) => 3 << 62 | bytes(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sort_key_never_contradicts_the_order_of_keys() {
        let texts: Vec<Vec<u8>> =
            vec![b"".to_vec(), b"a".to_vec(), b"a\0".to_vec(), b"abcdefgh".to_vec(), b"abcdefghi".to_vec()];
        let mut values = vec![ValueRef::Null];
        for v in [i64::MIN, -5, -1, 0, 1, 2, 3, 4, 1 << 40, i64::MAX] {
            values.push(ValueRef::Integer(v));
        }
        for v in [-1e300, -1.5, -0.5, 0.5, 1.25, 1e18 + 0.5, 1e300] {
            values.push(ValueRef::Real(v));
        }
        values.extend(texts.iter().map(|text| ValueRef::Text(text)));
        values.extend(texts.iter().map(|text| ValueRef::Blob(text)));
        for a in &values {
            for b in &values {
                let coarse = sort_key(*a).cmp(&sort_key(*b));
                assert!(coarse.is_eq() || coarse == a.order(*b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn packed_values_read_back() {
        let values =
            [ValueRef::Null, ValueRef::Integer(-7), ValueRef::Real(-0.0), ValueRef::Text(b"x"), ValueRef::Blob(b"")];
        let mut arena = Vec::new();
        values.iter().for_each(|value| pack(&mut arena, *value));
        let mut read = Values { arena: &arena, at: 0 };
        assert!(values.iter().all(|value| read.take() == *value));
        assert_eq!(read.at, arena.len());
    }
}
