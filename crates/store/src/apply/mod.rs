//! Merge: a changeset's rows against the rows and clocks of this file.
//!
//! The result is a function of the set of changesets: cells are won by the larger stamp, lives by the larger
//! causal length, and nothing here depends on the order of arrival. What loses without its author having been seen by the
//! winner's goes to the journal.

mod history;
mod row;
mod table;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use isle_changeset::{Block, DecodeError, Header, Row, Section, ValueRef};
use isle_clock::SiteId;
use isle_schema::{ColumnId, Kind, TableId};
use rusqlite::Connection;

pub(crate) use history::Histories;
pub(crate) use row::Merge;
use table::TableApplier;

use crate::StoreError;
use crate::clocks::LocalStamp;
use crate::engine::{Direct, Engine};
use crate::error::Doing as _;
use crate::journal::Journal;
use crate::layout::log_id;
use crate::own::{note_seen, site_no};
use crate::seal::bits;
use crate::settle::Settled;
use crate::tracked::Tracked;

/// Merges changesets within one open write transaction.
pub(crate) struct Applier<'c> {
    conn: &'c Connection,
    tables: HashMap<TableId, TableApplier<'c>>,
    sites: HashMap<i64, SiteId>,
    histories: Histories<'c>,
    pub(crate) journal: Journal<'c>,
    direct: (Direct, Vec<i64>),
    triggers: bool,
    /// Local numbers of the tables that changed.
    pub(crate) changed: Vec<i64>,
}

/// Up to where an author had seen a site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    version: u64,
    pub(crate) hlc: u64,
}

/// What is known of the changeset that is being merged.
pub(crate) struct Author {
    no: i64,
    stamp: LocalStamp,
    /// When it was written, also of a baseline, whose stamp says nothing of that.
    written: u64,
    site: SiteId,
    /// Per site's local number: up to where the author had seen it.
    seen: HashMap<i64, Seen>,
    /// The table was untracked for a while: what stands in it as a baseline may be younger than what is replayed.
    replayed: bool,
}

impl Author {
    /// Stands for whoever wrote a row that comes with a snapshot.
    pub(crate) fn of_snapshot(stamp: LocalStamp, site: SiteId) -> Author {
        Author { no: stamp.site, stamp, written: stamp.hlc, site, seen: HashMap::new(), replayed: false }
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
            histories: Histories::new(conn),
            journal,
            direct,
            triggers,
            changed: Vec::new(),
        })
    }

    /// Merges one changeset, or its part that is about one table; `opened` is its only block, or `blocks` gives its
    /// stored blocks in order. They have been checked before. `parks` says that the author knew more of the schema than is applied here.
    pub(crate) fn apply(
        &mut self,
        tracked: &HashMap<TableId, Arc<Tracked>>,
        (header, parks): (&Header, bool),
        only: Option<TableId>,
        opened: Option<&Block>,
        blocks: impl FnMut(usize) -> Result<Vec<u8>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut author = self.author(header)?;
        if only.is_some() {
            author = self.as_of_then(author)?;
            author.replayed = true;
        }
        self.blocks(&author, (header, parks), opened, blocks, |applier, section, of, bad| {
            let table = section.table();
            let id = log_id(author.no, header.version);
            match tracked.get(&table).filter(|_| only.is_none_or(|only| only == table)) {
                Some(tracked) => applier.section(tracked, &author, of, section, Part::Whole, bad),
                None if only.is_some() => Ok(()),
                None => note_missed(applier.conn, table, id, of.parks.is_some()),
            }
        })
    }

    /// Merges what was passed over of a table when the changeset was merged: all of it, or some of its columns.
    pub(crate) fn replay(
        &mut self,
        engine: &Engine,
        (header, parks): (&Header, bool),
        table: TableId,
        columns: Option<(&[ColumnId], i64)>,
    ) -> Result<(), StoreError> {
        let Some(tracked) = engine.by_id.get(&table) else { return Ok(()) };
        let author = self.author(header)?;
        let author = self.as_of_then(author)?;
        let (conn, id, count) = (self.conn, log_id(author.no, header.version), header.blocks.len());
        let missing = || StoreError::Internal { table: "isle_block", detail: format!("block of log row {id}") };
        let stored = |n| crate::log::block(conn, id, count, n)?.ok_or_else(missing);
        let part = columns.map_or(Part::Whole, |(columns, seq)| Part::Columns(columns, seq));
        self.blocks(&author, (header, parks), None, stored, |applier, section, of, bad| {
            match section.table() == table {
                true => applier.section(tracked, &author, of, section, part, bad),
                false => Ok(()),
            }
        })
    }

    /// Goes through the sections of a changeset.
    fn blocks(
        &mut self,
        author: &Author,
        (header, parks): (&Header, bool),
        opened: Option<&Block>,
        mut blocks: impl FnMut(usize) -> Result<Vec<u8>, StoreError>,
        mut take: impl FnMut(&mut Self, Section<'_>, Of, &dyn Fn(DecodeError) -> StoreError) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let parks = parks.then(|| log_id(author.no, header.version));
        let of = Of { baseline: header.baseline, version: header.version, parks };
        let bad = |source| StoreError::BadChangeset { site: header.site, version: header.version, source };
        for (n, info) in header.blocks.iter().enumerate() {
            let stored;
            let block = match opened {
                Some(block) => block,
                None => {
                    stored = Block::open(&blocks(n)?, info).map_err(bad)?;
                    &stored
                }
            };
            for section in block.sections() {
                take(self, section.map_err(bad)?, of, &bad)?;
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
        let (sites, journal, histories) = (&mut self.sites, &mut self.journal, &mut self.histories);
        match self.tables.get_mut(&tracked.table.id) {
            Some(table) => Ok(Merge { table, author, sites, journal, histories, conn, triggers, direct }),
            None => Err(StoreError::Internal { table: "isle_table", detail: "a table vanished".to_owned() }),
        }
    }

    fn author(&mut self, header: &Header) -> Result<Author, StoreError> {
        let no = site_no(self.conn, header.site)?;
        for cause in &header.causes {
            let site = site_no(self.conn, cause.site)?;
            note_seen(self.conn, no, site, cause.version, cause.hlc.bits())?;
        }
        let seen = seen_by(self.conn, no)?;
        let stamp = LocalStamp { hlc: header.cell_hlc().bits(), site: no };
        self.sites.insert(no, header.site);
        Ok(Author { no, stamp, written: header.hlc.bits(), site: header.site, seen, replayed: false })
    }

    /// An author with what it had seen when it wrote, rather than by now.
    fn as_of_then(&mut self, author: Author) -> Result<Author, StoreError> {
        let seen = self.histories.at(author.no, author.written)?.clone();
        Ok(Author { seen, ..author })
    }

    fn section(
        &mut self,
        tracked: &Arc<Tracked>,
        author: &Author,
        of: Of,
        mut section: Section<'_>,
        part: Part<'_>,
        bad: &dyn Fn(DecodeError) -> StoreError,
    ) -> Result<(), StoreError> {
        if section.key_columns() != tracked.table.key.len() {
            return Err(bad(DecodeError::Inconsistent { what: "key of a section" }));
        }
        let mut places: Vec<Option<Place>> = section.columns().iter().map(|column| tracked.place_of(*column)).collect();
        if let Part::Columns(columns, _) = part {
            let is_asked = |column: &ColumnId| columns.contains(column);
            places
                .iter_mut()
                .zip(section.columns())
                .filter(|(_, id)| !is_asked(id))
                .for_each(|(place, _)| *place = None);
        }
        if let Some(id) = of.parks {
            let lacks = |(place, column): &(&mut Option<Place>, &ColumnId)| match part {
                Part::Columns(columns, _) if !columns.contains(column) => false,
                _ => place.is_none_or(|place| tracked.is_of_other_kind(place)),
            };
            let mut passed_over = Vec::new();
            for (place, column) in places.iter_mut().zip(section.columns()).filter(lacks) {
                *place = None;
                passed_over.push(*column);
            }
            if !passed_over.is_empty() {
                crate::parked::park(self.conn, tracked.table.id, id, Some(&passed_over))?;
            }
        }
        if of.baseline {
            crate::layout::set_baseline(self.conn, tracked.no, author.no, of.version)?;
            self.opened(tracked)?.baselines.insert(author.no, of.version);
        }
        let mut merge = self.merge(tracked, author)?;
        let mut row = Row::default();
        let mut incoming = Incoming::new(tracked.cells());
        while section.next(&mut row).map_err(bad)? {
            incoming.take(&row, &places);
            match part {
                Part::Whole => merge.row(&row, &incoming)?,
                Part::Columns(_, seq) => merge.rest(&row, &incoming, seq)?,
            }
        }
        Ok(())
    }
}

/// What an author has seen by now.
fn seen_by(conn: &Connection, author: i64) -> Result<HashMap<i64, Seen>, StoreError> {
    let sql = "SELECT site, version, hlc FROM isle_seen WHERE author = ?1";
    let mut statement = conn.prepare_cached(sql).doing("read causes")?;
    let seen = statement.query_map([author], |row| {
        Ok((row.get(0)?, Seen { version: row.get::<_, i64>(1)? as u64, hlc: row.get::<_, i64>(2)? as u64 }))
    });
    seen.doing("read causes")?.collect::<Result<_, _>>().doing("read causes")
}

/// What the rows of a section belong to.
#[derive(Debug, Clone, Copy)]
struct Of {
    baseline: bool,
    version: u64,
    /// Where it stands in the log, if its author knew more of the schema than is here: what cannot be merged yet is noted by that.
    parks: Option<i64>,
}

/// How much of a section is merged.
#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    /// Everything.
    Whole,
    /// These columns; the rows and their other columns were merged before. The number says when these were parked.
    Columns(&'a [ColumnId], i64),
}

/// A table that stands still, because it was altered past isle, misses what is merged: that waits for its return. So does what comes
/// for a table that no operation here has made yet.
fn note_missed(conn: &Connection, table: TableId, id: i64, parks: bool) -> Result<(), StoreError> {
    let listed = "SELECT 1 FROM isle_table WHERE id = ?1";
    if crate::clocks::one::<i64>(conn, listed, [table.as_bytes()])?.is_some() {
        crate::layout::set_meta(conn, &format!("missed {table}"), 1)?;
        return crate::parked::park(conn, table, id, None);
    }
    // One that was untracked gets the whole log when it returns.
    let untracked = crate::layout::meta::<i64>(conn, &format!("table {table}"))?.is_some();
    if parks && !untracked { crate::parked::park(conn, table, id, None) } else { Ok(()) }
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
    /// Whether values of a kind come for a column that has another one here.
    fn is_of_other_kind(&self, place: Place) -> bool {
        let is = |cell, kind| self.kinds.iter().any(|known| known.cell == cell && known.kind == kind);
        matches!(place, Place::Kind(cell, kind) if !is(cell, kind))
    }

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
