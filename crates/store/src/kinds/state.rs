//! Base and state of a row's cells, and what they show. Pure.

use std::collections::{HashMap, HashSet};

use isle_changeset::{DecodeError, DocumentChange, RemovedMember, SetChange, Value, ValueRef, pack_key, unpack_key};
use isle_clock::{Hlc, SiteId};
use isle_schema::Kind;
use serde_json::value::RawValue;

use super::{KindColumn, documents};
use crate::StoreError;
use crate::clocks::{LocalStamp, put_varint, take_varint};

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum What {
    /// The plain value.
    Base = 0,
    /// What a site has added since the row's life began; the stamp is that of its last addition.
    Total = 1,
    /// The largest value.
    Max = 2,
    /// The smallest.
    Min = 3,
    /// A member and who added it when.
    Member = 4,
    /// A member of the base that went.
    Gone = 5,
    /// A document: a base with changes to it.
    Document = 6,
    /// Who edited a document; the stamp is that of the site's last edit.
    Edited = 7,
}

impl What {
    /// Whether it matters who said it when.
    fn is_dated(self) -> bool {
        !matches!(self, What::Base | What::Gone | What::Document)
    }

    fn of(byte: u8) -> Option<What> {
        use What::{Base, Document, Edited, Gone, Max, Member, Min, Total};
        [Base, Total, Max, Min, Member, Gone, Document, Edited].into_iter().find(|what| *what as u8 == byte)
    }

    /// Whether it is about the members of a set.
    pub(super) fn is_of_set(self) -> bool {
        matches!(self, What::Member | What::Gone)
    }
}

/// One thing that is known of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) cell: usize,
    pub(crate) what: What,
    pub(crate) stamp: LocalStamp,
    pub(crate) value: Value,
}

impl Entry {
    /// Whether the value is one that the heading can have.
    pub(crate) fn is_sound(&self, column: &KindColumn) -> bool {
        match (self.what, &self.value) {
            (What::Base, _) | (What::Max | What::Min, Value::Null) => false,
            (What::Total, value) => matches!(value, Value::Integer(_)),
            (What::Member | What::Gone, value) => matches!(value, Value::Text(member) if is_json(member)),
            (What::Max | What::Min, _) => true,
            (What::Document, _) => self.is_document(column),
            (What::Edited, value) => *value == Value::Null,
        }
    }
}

/// What became of a local write.
#[derive(Debug, PartialEq)]
pub(crate) enum Local {
    /// It changes nothing.
    Nothing,
    /// It travels as this.
    Sent(Value),
    /// It travels as it is, as that of any other column.
    Plain,
    /// The value is not of the column's kind.
    NotOfKind,
}

/// What taking a change of a document came to.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// It is to another base than today's.
    pub(super) stale: bool,
    /// What its author saw, and what showed here, if not all that either had put there shows now.
    pub(super) theirs: Option<Value>,
    pub(super) ours: Option<Value>,
}

/// Base and state of a row's cells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    entries: Vec<Entry>,
}

impl Row {
    /// Reads a state as stored; nothing is a row whose bases are defaults.
    pub(crate) fn unpack(bytes: Option<&[u8]>) -> Result<Row, StoreError> {
        let damaged = || StoreError::Internal { table: "isle_c", detail: "state of a kind".to_owned() };
        let mut entries = Vec::new();
        let mut rest = bytes.unwrap_or_default();
        while !rest.is_empty() {
            entries.push(unpack_entry(&mut rest).ok_or_else(damaged)?);
        }
        Ok(Row { entries })
    }

    /// The state as stored.
    pub(crate) fn packed(&self) -> Option<Vec<u8>> {
        if self.entries.is_empty() {
            return None;
        }
        let mut out = Vec::with_capacity(self.entries.len() * 24);
        for entry in &self.entries {
            put_varint(&mut out, entry.cell as u64);
            out.push(entry.what as u8);
            if entry.what.is_dated() {
                put_varint(&mut out, (entry.stamp.site + 1) as u64);
                out.extend(entry.stamp.hlc.to_be_bytes());
            }
            if let Value::Integer(value) = entry.value
                && let zigzag @ 0.. = value << 1 ^ value >> 63
            {
                out.push(1);
                put_varint(&mut out, zigzag as u64);
                continue;
            }
            out.push(0);
            let value = pack_key(&[entry.value.as_ref()]);
            put_varint(&mut out, value.len() as u64);
            out.extend(value);
        }
        Some(out)
    }

    /// What is known of a cell under one heading.
    pub(crate) fn of(&self, cell: usize, what: What) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.cell == cell && entry.what == what)
    }

    /// When a column was last written under its kind; `None` if never.
    pub(crate) fn newest(&self, column: &KindColumn) -> Option<LocalStamp> {
        let of_kind = |what: What| match column.kind {
            Kind::Counter => what == What::Total,
            Kind::Max => what == What::Max,
            Kind::Min => what == What::Min,
            Kind::Text | Kind::Json => what == What::Edited,
            _ => what.is_of_set(),
        };
        let entries = self.state().filter(|entry| entry.cell == column.cell && of_kind(entry.what));
        entries.map(|entry| entry.stamp).max_by_key(|stamp| stamp.hlc)
    }

    /// Everything beside bases.
    pub(crate) fn state(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.what != What::Base)
    }

    /// The row without its bases, which travel as plain values.
    pub(crate) fn without_bases(mut self) -> Row {
        self.entries.retain(|entry| entry.what != What::Base);
        self
    }

    /// Changes entries; one without a value goes.
    pub(crate) fn change(&mut self, mut f: impl FnMut(Entry) -> Option<Entry>) {
        let entries = std::mem::take(&mut self.entries).into_iter().filter_map(&mut f).collect::<Vec<_>>();
        self.entries = entries;
        self.entries.sort_by_key(|entry| (entry.cell, entry.what));
    }

    /// Takes in entries.
    pub(crate) fn add(&mut self, entries: Vec<Entry>) {
        entries.into_iter().for_each(|entry| self.put(entry.cell, entry.what, entry.stamp, entry.value));
    }

    fn put(&mut self, cell: usize, what: What, stamp: LocalStamp, value: Value) {
        let at = self.entries.partition_point(|entry| (entry.cell, entry.what) <= (cell, what));
        self.entries.insert(at, Entry { cell, what, stamp, value });
    }

    fn drop_all(&mut self, cell: usize, what: What) {
        self.entries.retain(|entry| entry.cell != cell || entry.what != what);
    }

    /// The plain value of a cell.
    pub(crate) fn base<'a>(&'a self, column: &'a KindColumn) -> ValueRef<'a> {
        self.of(column.cell, What::Base).next().map_or(column.default.as_ref(), |entry| entry.value.as_ref())
    }

    /// Writes the plain value of a cell.
    pub(crate) fn set_base(&mut self, column: &KindColumn, value: ValueRef<'_>) {
        self.drop_all(column.cell, What::Base);
        if value != column.default.as_ref() {
            self.put(column.cell, What::Base, LocalStamp::NEVER, value.to_value());
        }
    }

    /// What the table shows.
    ///
    /// # Errors
    /// If a document cannot be read.
    pub(crate) fn shown(&self, column: &KindColumn) -> Result<Value, StoreError> {
        let base = self.base(column);
        Ok(match column.kind {
            Kind::Counter => {
                let mut totals =
                    self.of(column.cell, What::Total).map(|entry| integer(entry.value.as_ref())).peekable();
                if totals.peek().is_none() {
                    return Ok(base.to_value());
                }
                Value::Integer(totals.fold(integer(base), i64::wrapping_add))
            }
            Kind::Max => best(What::Max, base, self.of(column.cell, What::Max)).to_value(),
            Kind::Min => best(What::Min, base, self.of(column.cell, What::Min)).to_value(),
            Kind::Set => {
                let changed = self.state().any(|entry| entry.cell == column.cell && entry.what.is_of_set());
                if changed { array(&self.members(column)) } else { base.to_value() }
            }
            kind => match documents::form(kind) {
                Some(form) => self.shown_document(column, form)?,
                None => base.to_value(),
            },
        })
    }

    /// The members that a set shows, in order.
    fn members(&self, column: &KindColumn) -> Vec<Vec<u8>> {
        let gone: HashSet<&[u8]> = self.of(column.cell, What::Gone).filter_map(member_of).collect();
        let mut members: Vec<Vec<u8>> = members(self.base(column)).unwrap_or_default();
        members.retain(|member| !gone.contains(member.as_slice()));
        let mut known: HashSet<Vec<u8>> = members.iter().cloned().collect();
        let mut added: Vec<(u64, &[u8])> =
            self.of(column.cell, What::Member).filter_map(|entry| Some((entry.stamp.hlc, member_of(entry)?))).collect();
        added.sort_unstable();
        for (_, member) in added {
            if known.insert(member.to_vec()) {
                members.push(member.to_vec());
            }
        }
        members
    }

    /// Takes what a local insert leaves in a cell; gives what travels beside the plain value.
    pub(crate) fn born(&mut self, column: &KindColumn, value: ValueRef<'_>, stamp: LocalStamp) -> Option<Value> {
        self.set_base(column, value);
        match (column.kind, value) {
            // Of two inserts of one row the larger counts, and not the later.
            (Kind::Max | Kind::Min, value) if !matches!(value, ValueRef::Null) => {
                self.take_best(column.cell, column.kind, value, stamp);
                Some(value.to_value())
            }
            _ => None,
        }
    }

    /// Takes what a local update leaves in a cell. `site` gives the id of a local number.
    pub(crate) fn local(
        &mut self,
        column: &KindColumn,
        new: ValueRef<'_>,
        stamp: LocalStamp,
        site: &mut dyn FnMut(i64) -> Result<SiteId, StoreError>,
    ) -> Result<Local, StoreError> {
        let shown = self.shown(column)?;
        if new == shown.as_ref() {
            return Ok(Local::Nothing);
        }
        Ok(match (column.kind, new) {
            (Kind::Counter, ValueRef::Integer(new)) => {
                let difference = new.wrapping_sub(integer(shown.as_ref()));
                self.count(column.cell, difference, stamp);
                Local::Sent(Value::Integer(difference))
            }
            (Kind::Max | Kind::Min, new) if !matches!(new, ValueRef::Null) => {
                if !beats(what_of(column.kind), new, shown.as_ref()) {
                    return Ok(Local::Nothing);
                }
                self.take_best(column.cell, column.kind, new, stamp);
                Local::Sent(new.to_value())
            }
            (Kind::Set, new) => {
                let Some(wanted) = members(new) else { return Ok(Local::NotOfKind) };
                // What nobody has changed member by member yet may be spelled otherwise, or become an array at all.
                let plain = !self.state().any(|entry| entry.cell == column.cell && entry.what.is_of_set());
                if plain && members(self.base(column)).is_none() {
                    self.set_base(column, new);
                    return Ok(Local::Plain);
                }
                match self.set_members(column, wanted, stamp, site)? {
                    change if change != SetChange::default() => Local::Sent(Value::Blob(change.encode())),
                    _ if plain => {
                        self.set_base(column, new);
                        Local::Plain
                    }
                    _ => Local::Nothing,
                }
            }
            (kind, new) => match documents::form(kind) {
                Some(form) => self.edit_document(column, form, new, stamp, site(stamp.site)?)?,
                None => Local::NotOfKind,
            },
        })
    }

    fn set_members(
        &mut self,
        column: &KindColumn,
        wanted: Vec<Vec<u8>>,
        stamp: LocalStamp,
        site: &mut dyn FnMut(i64) -> Result<SiteId, StoreError>,
    ) -> Result<SetChange, StoreError> {
        let shown = self.members(column);
        let first: HashSet<Vec<u8>> = members(self.base(column)).unwrap_or_default().into_iter().collect();
        let stays: HashSet<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
        let mut additions: HashMap<&[u8], Vec<(SiteId, Hlc)>> = HashMap::new();
        for entry in self.of(column.cell, What::Member) {
            if let (Some(member), Some(hlc)) = (member_of(entry), Hlc::from_bits(entry.stamp.hlc))
                && !stays.contains(member)
            {
                additions.entry(member).or_default().push((site(entry.stamp.site)?, hlc));
            }
        }
        let mut change = SetChange::default();
        for member in shown.iter().filter(|member| !stays.contains(member.as_slice())) {
            let mut additions = additions.remove(member.as_slice()).unwrap_or_default();
            additions.sort_unstable();
            change.removed.push(RemovedMember { member: member.clone(), first: first.contains(member), additions });
        }
        let shown: HashSet<Vec<u8>> = shown.into_iter().collect();
        change.added = wanted.into_iter().filter(|member| !shown.contains(member)).collect();
        let gone: HashSet<&[u8]> = change.removed.iter().map(|removed| removed.member.as_slice()).collect();
        self.entries.retain(|entry| {
            (entry.cell, entry.what) != (column.cell, What::Member)
                || !member_of(entry).is_some_and(|member| gone.contains(member))
        });
        self.mark_gone(column.cell, &change);
        for member in &change.added {
            self.put(column.cell, What::Member, stamp, Value::Text(member.clone()));
        }
        Ok(change)
    }

    /// Takes a write of a kind that was made elsewhere. `number` gives the local number of a site.
    ///
    /// Malformed values change nothing: they were checked before.
    pub(crate) fn take(
        &mut self,
        column: &KindColumn,
        kind: Kind,
        value: ValueRef<'_>,
        stamp: LocalStamp,
        number: &mut dyn FnMut(SiteId) -> Result<i64, StoreError>,
    ) -> Result<Taken, StoreError> {
        let cell = column.cell;
        match (kind, value) {
            (Kind::Counter, ValueRef::Integer(difference)) => self.count(cell, difference, stamp),
            (Kind::Max | Kind::Min, value) => self.take_best(cell, kind, value, stamp),
            (Kind::Set, ValueRef::Blob(bytes)) => {
                if let Ok(change) = SetChange::decode(bytes) {
                    self.change_members(cell, &change, stamp, number)?;
                }
            }
            (kind, ValueRef::Blob(bytes)) => {
                if let (Some(form), Ok(changes)) = (documents::form(kind), DocumentChange::decode(bytes)) {
                    return self.take_changes(column, form, &changes, stamp);
                }
            }
            _ => {}
        }
        Ok(Taken::default())
    }

    /// Adds to a site's total, unless it has been added already.
    fn count(&mut self, cell: usize, difference: i64, stamp: LocalStamp) {
        let known = self
            .entries
            .iter_mut()
            .find(|entry| entry.cell == cell && entry.what == What::Total && entry.stamp.site == stamp.site);
        match known {
            Some(entry) if entry.stamp.hlc >= stamp.hlc => {}
            Some(entry) => {
                entry.value = Value::Integer(integer(entry.value.as_ref()).wrapping_add(difference));
                entry.stamp = stamp;
            }
            None => self.put(cell, What::Total, stamp, Value::Integer(difference)),
        }
    }

    fn take_best(&mut self, cell: usize, kind: Kind, value: ValueRef<'_>, stamp: LocalStamp) {
        let what = what_of(kind);
        let better = self.of(cell, what).all(|entry| beats(what, value, entry.value.as_ref()));
        if better {
            self.drop_all(cell, what);
            self.put(cell, what, stamp, value.to_value());
        }
    }

    fn change_members(
        &mut self,
        cell: usize,
        change: &SetChange,
        stamp: LocalStamp,
        number: &mut dyn FnMut(SiteId) -> Result<i64, StoreError>,
    ) -> Result<(), StoreError> {
        let mut ended: HashMap<&[u8], HashSet<LocalStamp>> = HashMap::new();
        for removed in &change.removed {
            let stamps = ended.entry(&removed.member).or_default();
            for (site, hlc) in &removed.additions {
                stamps.insert(LocalStamp { hlc: hlc.bits(), site: number(*site)? });
            }
        }
        self.entries.retain(|entry| {
            let stamps = member_of(entry).and_then(|member| ended.get(member));
            // The author's own additions it had seen in any case, also those that it made under a site id that it gave up since.
            let own = entry.stamp.site == stamp.site && entry.stamp.hlc <= stamp.hlc;
            (entry.cell, entry.what) != (cell, What::Member)
                || !stamps.is_some_and(|stamps| own || stamps.contains(&entry.stamp))
        });
        self.mark_gone(cell, change);
        let of_this_write = |entry: &&Entry| entry.stamp == stamp;
        let known: HashSet<Vec<u8>> =
            self.of(cell, What::Member).filter(of_this_write).filter_map(member_of).map(<[u8]>::to_vec).collect();
        for member in change.added.iter().filter(|member| !known.contains(*member)) {
            self.put(cell, What::Member, stamp, Value::Text(member.clone()));
        }
        Ok(())
    }

    fn mark_gone(&mut self, cell: usize, change: &SetChange) {
        let known: HashSet<Vec<u8>> = self.of(cell, What::Gone).filter_map(member_of).map(<[u8]>::to_vec).collect();
        let new = change.removed.iter().filter(|removed| removed.first && !known.contains(&removed.member));
        let new: Vec<&RemovedMember> = new.collect();
        for removed in &new {
            self.put(cell, What::Gone, LocalStamp::NEVER, Value::Text(removed.member.clone()));
        }
    }

    /// Joins the state of the same life from elsewhere; bases are not its business. The closures say whether a side had taken in the
    /// write with a stamp.
    ///
    /// # Errors
    /// If a document cannot be read.
    pub(crate) fn join(
        &mut self,
        columns: &[KindColumn],
        theirs: &Row,
        we_cover: impl Fn(LocalStamp) -> bool,
        they_cover: impl Fn(LocalStamp) -> bool,
    ) -> Result<(), StoreError> {
        let named = |row: &Row| -> HashSet<(usize, What, LocalStamp, Vec<u8>)> {
            let members = row.entries.iter().filter(|entry| entry.what.is_of_set());
            members
                .filter_map(|entry| Some((entry.cell, entry.what, entry.stamp, member_of(entry)?.to_vec())))
                .collect()
        };
        let (ours, others) = (named(self), named(theirs));
        let has = |known: &HashSet<_>, entry: &Entry| {
            member_of(entry)
                .is_some_and(|member| known.contains(&(entry.cell, entry.what, entry.stamp, member.to_vec())))
        };
        // An addition that one side knows and does not have has come to an end there.
        self.entries.retain(|entry| entry.what != What::Member || has(&others, entry) || !they_cover(entry.stamp));
        for entry in theirs.state() {
            let Entry { cell, what, stamp, value } = entry.clone();
            match what {
                What::Member if has(&ours, entry) || we_cover(stamp) => {}
                What::Gone if has(&ours, entry) => {}
                What::Base | What::Member | What::Gone => self.put(cell, what, stamp, value),
                What::Max => self.take_best(cell, Kind::Max, value.as_ref(), stamp),
                What::Min => self.take_best(cell, Kind::Min, value.as_ref(), stamp),
                What::Edited => self.note_edit(cell, stamp),
                What::Document => {
                    if let Some(column) = columns.iter().find(|column| column.cell == cell) {
                        self.join_document(column, entry)?;
                    }
                }
                What::Total => {
                    let same = |known: &Entry| (known.cell, known.what, known.stamp.site) == (cell, what, stamp.site);
                    if !self.entries.iter().any(|known| same(known) && known.stamp.hlc >= stamp.hlc) {
                        self.entries.retain(|known| !same(known));
                        self.put(cell, what, stamp, value);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a value that came under the id of a kind is one that the kind sends.
pub(super) fn check(kind: Kind, value: ValueRef<'_>) -> Result<(), DecodeError> {
    match (kind, value) {
        (Kind::Counter, ValueRef::Integer(_)) => Ok(()),
        (Kind::Max | Kind::Min, value) if !matches!(value, ValueRef::Null) => Ok(()),
        (Kind::Set, ValueRef::Blob(bytes)) => {
            let change = SetChange::decode(bytes)?;
            let members = change.added.iter().chain(change.removed.iter().map(|removed| &removed.member));
            if members.into_iter().all(|member| is_json(member)) {
                return Ok(());
            }
            Err(DecodeError::Inconsistent { what: "member of a set" })
        }
        (kind, ValueRef::Blob(bytes)) if documents::form(kind).is_some() => documents::check(bytes),
        _ => Err(DecodeError::Inconsistent { what: "value of a kind" }),
    }
}

/// What a value adds to a counter.
fn integer(value: ValueRef<'_>) -> i64 {
    if let ValueRef::Integer(value) = value { value } else { 0 }
}

/// Whether a text is one JSON value as it stands in an array.
fn is_json(member: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(member).is_ok_and(|value| value.get().as_bytes() == member)
}

fn member_of(entry: &Entry) -> Option<&[u8]> {
    if let Value::Text(text) = &entry.value { Some(text) } else { None }
}

fn what_of(kind: Kind) -> What {
    if kind == Kind::Max { What::Max } else { What::Min }
}

/// Whether one value is larger, or smaller, than another; NULL never is.
fn beats(what: What, new: ValueRef<'_>, old: ValueRef<'_>) -> bool {
    match (new, old) {
        (ValueRef::Null, _) => false,
        (_, ValueRef::Null) => true,
        _ if what == What::Max => new.order(old).is_gt(),
        _ => new.order(old).is_lt(),
    }
}

fn best<'a>(what: What, base: ValueRef<'a>, entries: impl Iterator<Item = &'a Entry>) -> ValueRef<'a> {
    entries
        .map(|entry| entry.value.as_ref())
        .fold(base, |best, value| if beats(what, value, best) { value } else { best })
}

/// The members of a JSON array, each once; NULL and empty text have none. `None` for anything else.
fn members(value: ValueRef<'_>) -> Option<Vec<Vec<u8>>> {
    let text = match value {
        ValueRef::Null => return Some(Vec::new()),
        ValueRef::Text(text) if text.iter().all(u8::is_ascii_whitespace) => return Some(Vec::new()),
        ValueRef::Text(text) => text,
        _ => return None,
    };
    let raw: Vec<&RawValue> = serde_json::from_slice(text).ok()?;
    let mut known = HashSet::with_capacity(raw.len());
    let members = raw.into_iter().map(|member| member.get().as_bytes()).filter(|member| known.insert(*member));
    let members = members.map(<[u8]>::to_vec).collect();
    Some(members)
}

pub(super) fn array(members: &[Vec<u8>]) -> Value {
    let mut text = vec![b'['];
    text.extend(members.join(&b','));
    text.push(b']');
    Value::Text(text)
}

fn unpack_entry(rest: &mut &[u8]) -> Option<Entry> {
    let cell = take_varint(rest)? as usize;
    let (&what, tail) = rest.split_first()?;
    *rest = tail;
    let what = What::of(what)?;
    let mut stamp = LocalStamp::NEVER;
    if what.is_dated() {
        stamp.site = take_varint(rest)? as i64 - 1;
        let (hlc, tail) = rest.split_first_chunk::<8>()?;
        *rest = tail;
        stamp.hlc = u64::from_be_bytes(*hlc);
    }
    let (&form, tail) = rest.split_first()?;
    *rest = tail;
    if form == 1 {
        let value = take_varint(rest)?;
        return Some(Entry { cell, what, stamp, value: Value::Integer((value >> 1) as i64 ^ -((value & 1) as i64)) });
    }
    let length = usize::try_from(take_varint(rest)?).ok()?;
    let (value, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    let value = unpack_key(value, 1).ok().filter(|_| form == 0)?.pop()?;
    Some(Entry { cell, what, stamp, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let value = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            Just(Value::Integer(i64::MIN)),
            any::<f64>().prop_map(Value::Real),
            "[a-z]{0,9}".prop_map(|text| Value::Text(text.into_bytes())),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Blob),
        ];
        (0..300usize, 0..8u8, -1..9i64, any::<u64>(), value).prop_map(|(cell, what, site, hlc, value)| {
            let what = What::of(what).unwrap_or(What::Base);
            let stamp = if what.is_dated() { LocalStamp { site, hlc } } else { LocalStamp::NEVER };
            Entry { cell, what, stamp, value }
        })
    }

    proptest! {
        #[test]
        fn a_state_reads_back_and_no_bytes_make_it_panic(
            entries in prop::collection::vec(entry(), 0..9),
            noise in prop::collection::vec(any::<u8>(), 0..60)
        ) {
            let mut row = Row::default();
            row.add(entries);
            prop_assert_eq!(Row::unpack(row.packed().as_deref()).ok(), Some(row.clone()));
            let _ = Row::unpack(Some(&noise));
            let mut torn = row.packed().unwrap_or_default();
            torn.pop();
            prop_assert_ne!(Row::unpack(Some(&torn)).ok(), Some(row).filter(|row| row.packed().is_some()));
        }

        #[test]
        fn counting_wraps_and_never_panics(base: i64, new: [i64; 3]) {
            let column = KindColumn::new(1, isle_schema::ColumnId::from_bytes([1; 16]), Kind::Counter, Value::Integer(base));
            let mut row = Row::default();
            for (n, new) in new.into_iter().enumerate() {
                let stamp = LocalStamp { hlc: n as u64 + 1, site: n as i64 };
                row.local(&column, ValueRef::Integer(new), stamp, &mut |_| Ok(SiteId::from_bytes([0; 16]))).ok();
                prop_assert_eq!(row.shown(&column).ok(), Some(Value::Integer(new)));
            }
        }
    }
}
