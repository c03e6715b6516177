//! Merge: a changeset's rows against the rows and clocks of this file.
//!
//! The result is a function of the set of changesets: cells are won by the larger stamp, lives by the larger
//! causal length, and nothing here depends on the order of arrival. What loses without its author having been seen by the
//! winner's goes to the journal.

mod table;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};

use isle_changeset::{Block, Header, Row, RowKind, Section, Value, ValueRef};
use isle_clock::SiteId;
use isle_schema::{ColumnId, Kind, TableId};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use table::TableApplier;

use crate::StoreError;
use crate::clocks::{LocalStamp, RowClock};
use crate::engine::{Direct, Engine};
use crate::error::Doing as _;
use crate::journal::{Journal, Loss, Reason};
use crate::kinds;
use crate::own::{note_seen, site_no};
use crate::seal::bits;
use crate::settle::Settled;
use crate::tracked::Tracked;

/// Merges changesets within one open write transaction.
pub(crate) struct Applier<'c> {
    conn: &'c Connection,
    tables: HashMap<TableId, TableApplier<'c>>,
    sites: HashMap<i64, SiteId>,
    pub(crate) journal: Journal<'c>,
    direct: (Direct, Vec<i64>),
    triggers: bool,
    /// Local numbers of the tables that changed.
    pub(crate) changed: Vec<i64>,
}

/// Up to where an author had seen a site.
struct Seen {
    version: u64,
    hlc: u64,
}

/// What is known of the changeset that is being merged.
pub(crate) struct Author {
    no: i64,
    stamp: LocalStamp,
    site: SiteId,
    /// Per site's local number: up to where the author had seen it.
    seen: HashMap<i64, Seen>,
    /// The table was untracked for a while: what stands in it as a baseline may be younger than what is replayed.
    replayed: bool,
}

impl Author {
    /// Stands for whoever wrote a row that comes with a snapshot.
    pub(crate) fn of_snapshot(stamp: LocalStamp, site: SiteId) -> Author {
        Author { no: stamp.site, stamp, site, seen: HashMap::new(), replayed: false }
    }

    /// Whether the author had seen the write that carries this stamp.
    fn had_seen(&self, stamp: LocalStamp, baselines: &HashMap<i64, u64>) -> bool {
        if stamp.site == self.no || stamp == LocalStamp::NEVER {
            return !self.replayed || stamp.hlc > 0 || stamp == LocalStamp::NEVER;
        }
        let Some(seen) = self.seen.get(&stamp.site) else { return false };
        if stamp.hlc > 0 {
            return seen.hlc >= stamp.hlc;
        }
        // Baselines carry no time; and two of them never saw each other: each stood in its file before the file was a replica.
        let holds = baselines.get(&stamp.site).copied().unwrap_or(0);
        self.stamp.hlc > 0 && seen.version >= holds
    }
}

impl<'c> Applier<'c> {
    /// The proof says that the stamps are true against which rows will be merged.
    pub(crate) fn new(engine: &'c Engine, _: &Settled) -> Result<Applier<'c>, StoreError> {
        let conn = &engine.conn;
        let (journal, direct, triggers) = (Journal::open(conn)?, engine.direct(), engine.triggers_needed);
        Ok(Applier {
            conn,
            tables: HashMap::new(),
            sites: HashMap::new(),
            journal,
            direct,
            triggers,
            changed: Vec::new(),
        })
    }

    /// Merges one changeset, or its part that is about one table; `opened` is its only block, or `blocks` gives its
    /// stored blocks in order. They have been checked before.
    pub(crate) fn apply(
        &mut self,
        tracked: &HashMap<TableId, Arc<Tracked>>,
        header: &Header,
        only: Option<TableId>,
        opened: Option<&Block>,
        mut blocks: impl FnMut(usize) -> Result<Vec<u8>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut author = self.author(header)?;
        author.replayed = only.is_some();
        for (n, info) in header.blocks.iter().enumerate() {
            let bad = |source| StoreError::BadChangeset { site: header.site, version: header.version, source };
            let stored;
            let block = match opened {
                Some(block) => block,
                None => {
                    stored = Block::open(&blocks(n)?, info).map_err(bad)?;
                    &stored
                }
            };
            for section in block.sections() {
                let section = section.map_err(bad)?;
                let table = section.table();
                let Some(tracked) = tracked.get(&table).filter(|_| only.is_none_or(|only| only == table)) else {
                    if only.is_none() {
                        note_missed(self.conn, table)?;
                    }
                    continue;
                };
                self.section(tracked, &author, (header.baseline, header.version), section, bad)?;
            }
        }
        Ok(())
    }

    /// Shows what the constraints let show of the rows that were merged.
    pub(crate) fn repair(&mut self, engine: &Engine, settled: &Settled) -> Result<(), StoreError> {
        let lost: Vec<i64> = self.tables.values().filter(|table| table.deleted).map(|table| table.tracked.no).collect();
        crate::local::follow_parents(engine, &lost)?;
        let mut touched = crate::repair::take_owed(self.conn)?;
        for table in self.tables.values_mut() {
            let no = table.tracked.no;
            touched.extend(std::mem::take(&mut table.touched).into_iter().map(|key| (no, key)));
        }
        if touched.is_empty() {
            return Ok(());
        }
        let changed = crate::repair::run(engine, settled, touched)?;
        let known = std::mem::take(&mut self.changed);
        self.changed.extend(changed.into_iter().filter(|no| !known.contains(no)));
        self.changed.extend(known);
        Ok(())
    }

    /// Leaves the look at constraints to later.
    pub(crate) fn owe_touched(&mut self) -> Result<(), StoreError> {
        for table in self.tables.values() {
            for key in &table.touched {
                crate::repair::owe(self.conn, table.tracked.no, key)?;
            }
        }
        Ok(())
    }

    /// The statements on a table, which counts as changed from now on.
    pub(crate) fn opened(&mut self, tracked: &Arc<Tracked>) -> Result<&mut TableApplier<'c>, StoreError> {
        match self.tables.entry(tracked.table.id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(slot) => {
                self.changed.push(tracked.no);
                Ok(slot.insert(TableApplier::open(self.conn, Arc::clone(tracked))?))
            }
        }
    }

    /// What one author's rows do to a table.
    pub(crate) fn merge<'m>(
        &'m mut self,
        tracked: &Arc<Tracked>,
        author: &'m Author,
    ) -> Result<Merge<'m, 'c>, StoreError> {
        self.opened(tracked)?;
        let (conn, triggers) = (self.conn, self.triggers);
        let direct = self.direct.1.contains(&tracked.no).then_some(&self.direct.0);
        let (sites, journal) = (&mut self.sites, &mut self.journal);
        match self.tables.get_mut(&tracked.table.id) {
            Some(table) => Ok(Merge { table, author, sites, journal, conn, triggers, direct }),
            None => Err(StoreError::Internal { table: "isle_table", detail: "a table vanished".to_owned() }),
        }
    }

    fn author(&mut self, header: &Header) -> Result<Author, StoreError> {
        let no = site_no(self.conn, header.site)?;
        for cause in &header.causes {
            let site = site_no(self.conn, cause.site)?;
            note_seen(self.conn, no, site, cause.version, cause.hlc.bits())?;
        }
        let mut statement = self
            .conn
            .prepare_cached("SELECT site, version, hlc FROM isle_seen WHERE author = ?1")
            .doing("read causes")?;
        let seen = statement
            .query_map([no], |row| {
                let seen = Seen { version: row.get::<_, i64>(1)? as u64, hlc: row.get::<_, i64>(2)? as u64 };
                Ok((row.get(0)?, seen))
            })
            .doing("read causes")?;
        let seen = seen.collect::<Result<_, _>>().doing("read causes")?;
        let stamp = LocalStamp { hlc: header.cell_hlc().bits(), site: no };
        self.sites.insert(no, header.site);
        Ok(Author { no, stamp, site: header.site, seen, replayed: false })
    }

    fn section(
        &mut self,
        tracked: &Arc<Tracked>,
        author: &Author,
        (baseline, version): (bool, u64),
        mut section: Section<'_>,
        bad: impl Fn(isle_changeset::DecodeError) -> StoreError,
    ) -> Result<(), StoreError> {
        if section.key_columns() != tracked.table.key.len() {
            return Err(bad(isle_changeset::DecodeError::Inconsistent { what: "key of a section" }));
        }
        let places: Vec<Option<Place>> = section.columns().iter().map(|column| tracked.place_of(*column)).collect();
        if baseline {
            crate::layout::set_baseline(self.conn, tracked.no, author.no, version)?;
            self.opened(tracked)?.baselines.insert(author.no, version);
        }
        let mut merge = self.merge(tracked, author)?;
        let mut row = Row::default();
        let mut incoming = Incoming::new(tracked.cells());
        while section.next(&mut row).map_err(&bad)? {
            incoming.take(&row, &places);
            merge.row(&row, &incoming)?;
        }
        Ok(())
    }
}

/// A table that stands still, because it was altered past isle, misses what is merged: it is replayed when the table returns.
fn note_missed(conn: &Connection, table: TableId) -> Result<(), StoreError> {
    let listed = "SELECT 1 FROM isle_table WHERE id = ?1";
    if crate::clocks::one::<i64>(conn, listed, [table.as_bytes()])?.is_some() {
        crate::layout::set_meta(conn, &format!("missed {table}"), 1)?;
    }
    Ok(())
}

/// What a column of a section means here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// A cell's plain value.
    Cell(usize),
    /// What a write of a kind did to a cell.
    Kind(usize, Kind),
}

impl Tracked {
    /// What values under a column id are.
    pub(crate) fn place_of(&self, column: ColumnId) -> Option<Place> {
        let of_kind = || self.kind_of(column).map(|(n, kind)| Place::Kind(self.kinds[n].cell, kind));
        self.cell_of(column).map(Place::Cell).or_else(of_kind)
    }

    /// The cell of a column id.
    pub(crate) fn cell_of(&self, column: ColumnId) -> Option<usize> {
        if column == ColumnId::KEY {
            return Some(0);
        }
        self.table.columns.iter().position(|known| known.id == column).map(|at| at + 1)
    }
}

/// The cells of an incoming row, in this file's order.
pub(crate) struct Incoming<'a> {
    pub(crate) mask: Vec<u64>,
    pub(crate) cells: Vec<ValueRef<'a>>,
    /// What writes of kinds did: cell, kind, value.
    pub(crate) kinds: Vec<(usize, Kind, ValueRef<'a>)>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn new(cells: usize) -> Incoming<'a> {
        Incoming { mask: vec![0; cells.div_ceil(64)], cells: vec![ValueRef::Null; cells], kinds: Vec::new() }
    }

    pub(crate) fn take(&mut self, row: &Row<'a>, places: &[Option<Place>]) {
        self.mask.fill(0);
        self.kinds.clear();
        for (column, value) in bits(&row.mask).zip(&row.values) {
            match places.get(column) {
                Some(Some(Place::Cell(cell))) => {
                    self.mask[cell / 64] |= 1 << (cell % 64);
                    self.cells[*cell] = *value;
                }
                Some(Some(Place::Kind(cell, kind))) => self.kinds.push((*cell, *kind, *value)),
                _ => {}
            }
        }
    }
}

/// One table's rows against one author's changes.
pub(crate) struct Merge<'m, 'c> {
    table: &'m mut TableApplier<'c>,
    author: &'m Author,
    sites: &'m mut HashMap<i64, SiteId>,
    journal: &'m mut Journal<'c>,
    conn: &'c Connection,
    /// Whether triggers fire on this connection at all.
    triggers: bool,
    /// Where to announce a delete, if triggers of the app delete from this table too.
    direct: Option<&'m Direct>,
}

impl Merge<'_, '_> {
    fn row(&mut self, row: &Row<'_>, incoming: &Incoming<'_>) -> Result<(), StoreError> {
        let stamp = self.author.stamp;
        if row.kind == RowKind::Insert && row.length == 1 && self.table.clocks.insert(&row.key, 1, stamp)? {
            let clock = self.born(1, incoming);
            if !clock.exceptions.is_empty() {
                self.table.clocks.update(&row.key, &clock)?;
            }
            return self.write_merged((true, false), row, &incoming.mask, incoming);
        }
        let clock = self.table.clocks.get(&row.key)?;
        let length = clock.as_ref().map_or(0, |clock| clock.length);
        match row.length.cmp(&length) {
            Ordering::Greater => self.longer(row, incoming, clock),
            Ordering::Less => self.shorter(row, incoming, clock),
            Ordering::Equal => match clock {
                Some(clock) if clock.is_alive() => self.cells(row, incoming, clock),
                Some(mut clock) => {
                    if self.compare(stamp, clock.stamp)? == Ordering::Greater {
                        clock.stamp = stamp;
                        self.table.clocks.update(&row.key, &clock)?;
                    }
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }

    /// The incoming life is longer: it replaces whatever is here.
    fn longer(&mut self, row: &Row<'_>, incoming: &Incoming<'_>, clock: Option<RowClock>) -> Result<(), StoreError> {
        if row.kind == RowKind::Update {
            // Its insert is in its past, so the row was collected here.
            return self.journal_incoming(row, incoming, None, Reason::Unknown);
        }
        let alive = clock.as_ref().is_some_and(RowClock::is_alive);
        if let Some(clock) = clock.as_ref().filter(|_| alive) {
            self.journal_unseen(row, clock)?;
        }
        let known = clock.is_some();
        let clock = match row.kind {
            RowKind::Delete => RowClock { length: row.length, stamp: self.author.stamp, exceptions: Vec::new() },
            _ => self.born(row.length, incoming),
        };
        self.table.clocks.put(&row.key, known, &clock)?;
        match row.kind {
            RowKind::Delete if alive => self.delete(&row.key),
            RowKind::Delete => Ok(()),
            _ if alive => {
                // The columns that the new life does not name begin with their defaults.
                self.delete(&row.key)?;
                self.write_merged((true, known), row, &incoming.mask, incoming)
            }
            _ => self.write_merged((true, known), row, &incoming.mask, incoming),
        }
    }

    /// The clock of a new life: columns that its author did not have were never written.
    fn born(&self, length: u64, incoming: &Incoming<'_>) -> RowClock {
        let mut clock = RowClock { length, stamp: self.author.stamp, exceptions: Vec::new() };
        let cells = self.table.tracked.cells();
        let named = bits(&incoming.mask).filter(|cell| *cell > 0).count();
        if named + 1 < cells {
            let missing = (1..cells).filter(|cell| incoming.mask[cell / 64] >> (cell % 64) & 1 == 0);
            clock.exceptions.extend(missing.map(|cell| (cell, LocalStamp::NEVER)));
        }
        clock
    }

    /// The incoming life is over here already.
    fn shorter(&mut self, row: &Row<'_>, incoming: &Incoming<'_>, clock: Option<RowClock>) -> Result<(), StoreError> {
        if row.kind == RowKind::Delete {
            return Ok(());
        }
        let winner = clock.map(|clock| clock.stamp);
        self.journal_incoming(row, incoming, winner, Reason::Deleted)
    }

    /// One life on both sides: each cell goes to the larger stamp.
    fn cells(&mut self, row: &Row<'_>, incoming: &Incoming<'_>, mut clock: RowClock) -> Result<(), StoreError> {
        let stamp = self.author.stamp;
        let mut won = vec![0u64; incoming.mask.len()];
        let mut unseen = Vec::new();
        let mut lost = Vec::new();
        let mut tied = Vec::new();
        for cell in bits(&incoming.mask) {
            let local = clock.cell(cell);
            if self.compare(stamp, local)? == Ordering::Greater {
                won[cell / 64] |= 1 << (cell % 64);
                if !self.had_seen(local) {
                    unseen.push((cell, local));
                }
            } else if local != stamp {
                lost.push((cell, local));
            } else {
                tied.push(cell);
            }
        }
        if !unseen.is_empty() || !lost.is_empty() || !tied.is_empty() {
            let contested = unseen.iter().chain(&lost).map(|(cell, _)| *cell).chain(tied.iter().copied());
            let mut wanted = vec![0u64; won.len()];
            contested.for_each(|cell| wanted[cell / 64] |= 1 << (cell % 64));
            let mut current = self.table.read(self.conn, &row.key, &wanted)?.unwrap_or_default();
            kinds::with_bases(&self.table.tracked, &mut self.table.clocks, &row.key, &mut current)?;
            for cell in tied {
                // One stamp, two values: a file was copied, or a table adopted twice. The larger value stands everywhere.
                let Some(value) = current.get(cell) else { continue };
                match incoming.cells[cell].order(value.as_ref()) {
                    Ordering::Greater => {
                        won[cell / 64] |= 1 << (cell % 64);
                        unseen.push((cell, stamp));
                    }
                    Ordering::Less => lost.push((cell, stamp)),
                    Ordering::Equal => {}
                }
            }
            let differs = |cell: usize| current.get(cell).is_some_and(|value| value.as_ref() != incoming.cells[cell]);
            for (cell, local) in unseen.into_iter().filter(|(cell, _)| differs(*cell)) {
                let loss = Loss {
                    cell,
                    value: current[cell].as_ref(),
                    loser: local,
                    winner: Some(stamp),
                    reason: Reason::Older,
                };
                self.journal.add(&self.table.tracked, &row.key, loss)?;
            }
            for (cell, local) in lost.into_iter().filter(|(cell, _)| differs(*cell)) {
                let loss = Loss {
                    cell,
                    value: incoming.cells[cell],
                    loser: stamp,
                    winner: Some(local),
                    reason: Reason::Older,
                };
                self.journal.add(&self.table.tracked, &row.key, loss)?;
            }
        }
        let none = won.iter().all(|word| *word == 0);
        if none && incoming.kinds.is_empty() {
            return Ok(());
        }
        for cell in bits(&won) {
            clock.stamp_cell(cell, stamp);
        }
        if !none {
            self.table.clocks.update(&row.key, &clock)?;
        }
        self.write_merged((false, true), row, &won, incoming)
    }

    /// Writes the cells that won, and what columns of kinds show after this write. `new` says that a life begins, `known` that its key
    /// has been here before.
    fn write_merged(
        &mut self,
        (new, known): (bool, bool),
        row: &Row<'_>,
        mask: &[u64],
        incoming: &Incoming<'_>,
    ) -> Result<(), StoreError> {
        let tracked = Arc::clone(&self.table.tracked);
        if tracked.kinds.is_empty() {
            return self.write(new, &row.key, mask, &incoming.cells);
        }
        for (cell, kind, value) in &incoming.kinds {
            let counts = tracked.kinds.iter().any(|column| column.cell == *cell && column.kind == *kind);
            if !counts {
                // Two devices gave the column a kind at once, and the other's stands.
                let value = kinds::readable(*kind, *value);
                let loser = self.author.stamp;
                let reason = if kinds::is_change(*kind) { Reason::Change } else { Reason::NotOfKind };
                let loss = Loss { cell: *cell, value: value.as_ref(), loser, winner: None, reason };
                self.journal.add(&tracked, &row.key, loss)?;
            }
        }
        let clocks = &mut self.table.clocks;
        let mut changing = kinds::Changing::open(new, clocks, &row.key)?;
        changing.bases(&tracked, mask, incoming);
        changing.writes((self.conn, &tracked), incoming, self.author.stamp)?;
        let (author, baselines) = (self.author, &self.table.baselines);
        let replaced = changing.replaced(&tracked, |stamp| author.had_seen(stamp, baselines))?;
        let lost = std::mem::take(&mut changing.lost);
        let shown = changing.close(&tracked, clocks, &row.key, known)?;
        for (cell, value, loser) in replaced {
            let winner = Some(author.stamp);
            let loss = Loss { cell, value: value.as_ref(), loser, winner, reason: Reason::Older };
            self.journal.add(&tracked, &row.key, loss)?;
        }
        for lost in lost {
            let kinds::Lost { cell, loser, winner, reason, .. } = lost;
            let loss = Loss { cell, value: lost.value.as_ref(), loser, winner, reason };
            self.journal.add(&tracked, &row.key, loss)?;
        }
        let write = kinds::write(&tracked, mask, &incoming.cells, &shown);
        self.write(new, &row.key, &write.mask, &write.cells)
    }

    fn had_seen(&self, stamp: LocalStamp) -> bool {
        self.author.had_seen(stamp, &self.table.baselines)
    }

    /// Orders two stamps: time, then site id.
    fn compare(&mut self, incoming: LocalStamp, local: LocalStamp) -> Result<Ordering, StoreError> {
        if local == LocalStamp::NEVER {
            return Ok(Ordering::Greater);
        }
        if incoming.hlc != local.hlc || incoming.site == local.site {
            return Ok(incoming.hlc.cmp(&local.hlc));
        }
        let site = match self.sites.get(&local.site) {
            Some(site) => *site,
            None => {
                let site = crate::own::site_id(self.conn, local.site)?;
                self.sites.insert(local.site, site);
                site
            }
        };
        Ok(self.author.site.cmp(&site))
    }

    fn journal_incoming(
        &mut self,
        row: &Row<'_>,
        incoming: &Incoming<'_>,
        winner: Option<LocalStamp>,
        reason: Reason,
    ) -> Result<(), StoreError> {
        for cell in bits(&incoming.mask) {
            let loss = Loss { cell, value: incoming.cells[cell], loser: self.author.stamp, winner, reason };
            self.journal.add(&self.table.tracked, &row.key, loss)?;
        }
        for (cell, kind, value) in &incoming.kinds {
            let value = kinds::readable(*kind, *value);
            let reason = if kinds::is_change(*kind) { Reason::Change } else { reason };
            let loss = Loss { cell: *cell, value: value.as_ref(), loser: self.author.stamp, winner, reason };
            self.journal.add(&self.table.tracked, &row.key, loss)?;
        }
        Ok(())
    }

    /// Journals the cells of a row that ends although the author of its end had not seen them.
    fn journal_unseen(&mut self, row: &Row<'_>, clock: &RowClock) -> Result<(), StoreError> {
        let of_kinds = self.unseen_kinds(row)?;
        let seen_row = self.had_seen(clock.stamp) && of_kinds.is_empty();
        if seen_row && clock.exceptions.iter().all(|(_, stamp)| self.had_seen(*stamp)) {
            return Ok(());
        }
        let cells = self.table.tracked.cells();
        let mut wanted = vec![0u64; cells.div_ceil(64)];
        let unseen = (1..cells).filter(|cell| !self.had_seen(clock.cell(*cell)));
        let edited = of_kinds.iter().map(|(cell, _)| *cell);
        unseen.chain(edited).for_each(|cell| wanted[cell / 64] |= 1 << (cell % 64));
        let Some(current) = self.table.read(self.conn, &row.key, &wanted)? else { return Ok(()) };
        for cell in bits(&wanted) {
            // Of a column of a kind the last of its writes is the one to name.
            let last = of_kinds.iter().filter(|(edited, _)| *edited == cell).map(|(_, stamp)| *stamp);
            let loser = last.max_by_key(|stamp| stamp.hlc).unwrap_or_else(|| clock.cell(cell));
            let winner = Some(self.author.stamp);
            let loss = Loss { cell, value: current[cell].as_ref(), loser, winner, reason: Reason::Deleted };
            self.journal.add(&self.table.tracked, &row.key, loss)?;
        }
        Ok(())
    }

    /// Cells of kinds whose state has something that the author had not seen.
    fn unseen_kinds(&mut self, row: &Row<'_>) -> Result<Vec<(usize, LocalStamp)>, StoreError> {
        if self.table.tracked.kinds.is_empty() {
            return Ok(Vec::new());
        }
        let (_, state) = self.table.clocks.state(&row.key)?;
        let unseen = state.state().filter(|entry| entry.what != kinds::What::Gone && !self.had_seen(entry.stamp));
        Ok(unseen.map(|entry| (entry.cell, entry.stamp)).collect())
    }

    pub(crate) fn delete(&mut self, key: &[ValueRef<'_>]) -> Result<(), StoreError> {
        if let Some(direct) = self.direct
            && let Some(Some(Value::Blob(exact))) =
                self.table.read(self.conn, key, &[1])?.map(|cells| cells.into_iter().next())
        {
            let exact = crate::engine::direct_key(self.table.tracked.no, &exact);
            *direct.lock().unwrap_or_else(PoisonError::into_inner) = exact;
        }
        match self.table.delete(self.conn, key) {
            Err(error) if error.is_refusal() => self.without_triggers(|merge| merge.table.delete(merge.conn, key)),
            other => other,
        }
    }

    pub(crate) fn write(
        &mut self,
        new: bool,
        key: &[ValueRef<'_>],
        mask: &[u64],
        cells: &[ValueRef<'_>],
    ) -> Result<(), StoreError> {
        if new && !self.table.tracked.defaults.is_empty() {
            let tracked = Arc::clone(&self.table.tracked);
            let (mut mask, mut cells) = (mask.to_vec(), cells.to_vec());
            for (cell, value) in &tracked.defaults {
                if mask[cell / 64] >> (cell % 64) & 1 == 0 {
                    mask[cell / 64] |= 1 << (cell % 64);
                    cells[*cell] = value.as_ref();
                }
            }
            return self.write_cells(new, key, &mask, &cells);
        }
        self.write_cells(new, key, mask, cells)
    }

    fn write_cells(
        &mut self,
        new: bool,
        key: &[ValueRef<'_>],
        mask: &[u64],
        cells: &[ValueRef<'_>],
    ) -> Result<(), StoreError> {
        match self.table.write(self.conn, new, key, mask, cells) {
            // A trigger of the app that ignores the row here must not keep it out either.
            Ok(false) if self.triggers => {
                self.without_triggers(|merge| merge.table.write(merge.conn, new, key, mask, cells)).map(|_| ())
            }
            Err(error) if error.is_refusal() => {
                let again = self.without_triggers(|merge| merge.table.write(merge.conn, new, key, mask, cells));
                match again.map(|_| ()) {
                    // The table has a constraint here that its author's has not. A merge must not stop for that either.
                    Err(error) if error.is_refusal() => {
                        let row = Row { key: key.to_vec(), ..Row::default() };
                        let refused = Incoming { mask: mask.to_vec(), cells: cells.to_vec(), kinds: Vec::new() };
                        self.journal_incoming(&row, &refused, None, Reason::Constraint)
                    }
                    other => other,
                }
            }
            other => other.map(|_| ()),
        }
    }

    /// A guard trigger of the app refused here what its author's file accepted. A merge must not stop for that: the row is
    /// written without triggers.
    fn without_triggers<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        tracing::warn!(
            table = self.table.tracked.table.name,
            "a trigger or constraint refused a merged row; it was written without triggers"
        );
        self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).doing("suspend triggers")?;
        let result = f(self);
        self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, self.triggers).doing("resume triggers")?;
        result
    }
}
