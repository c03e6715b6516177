//! Joining a snapshot with what is here.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::snapshot::{
    EXCEPTIONS, JOURNAL, LENGTH, SEEN, SITE, SITES, STATE, SnapshotHeader, SnapshotTable, TIME, field,
};
use isle_changeset::{Block, DecodeError, Hash, Key, Row, RowKind, Section, Value, ValueRef, pack_key, unpack_key};
use isle_clock::{Clock, Hlc, SiteId, VersionVector};
use isle_schema::{ColumnId, TableId};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::apply::{Applier, Author, Incoming, Place};
use crate::clocks::{CLOCK_FIELDS, LocalStamp, RowClock, from_sql, to_sql};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::journal::{Loss, Reason};
use crate::kinds;
use crate::layout::log_id;
use crate::own::{note_seen, site_no, state_at};
use crate::seal::bits;
use crate::tracked::Tracked;
use crate::{Applied, Options, StoreError, layout, restate};

fn bad(what: &'static str) -> StoreError {
    StoreError::BadSnapshot { source: DecodeError::Inconsistent { what } }
}

fn undecodable(source: DecodeError) -> StoreError {
    StoreError::BadSnapshot { source }
}

/// Up to where a side has applied a site.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    version: u64,
    hlc: u64,
    chain: Hash,
}

/// What one side has applied, by this file's numbers of sites.
#[derive(Debug, Default)]
struct Reach(HashMap<i64, Extent>);

impl Reach {
    /// Whether the side has applied the write that carries this stamp.
    fn covers(&self, stamp: LocalStamp, baselines: &HashMap<i64, u64>) -> bool {
        if stamp == LocalStamp::NEVER {
            return true;
        }
        let Some(extent) = self.0.get(&stamp.site) else { return false };
        if stamp.hlc > 0 {
            stamp.hlc <= extent.hlc
        } else {
            baselines.get(&stamp.site).is_some_and(|v| *v <= extent.version)
        }
    }

    /// Whether the side has applied the write that began or ended this life.
    fn knows(&self, clock: &RowClock, baselines: &HashMap<i64, u64>) -> bool {
        let written = |stamp: LocalStamp| stamp != LocalStamp::NEVER && self.covers(stamp, baselines);
        written(clock.stamp) || clock.exceptions.iter().any(|(_, stamp)| written(*stamp))
    }
}

/// A table on both sides.
struct Both {
    tracked: Arc<Tracked>,
    /// The cell here of each of the snapshot's columns, the exact key first.
    cells: Vec<usize>,
    ours: HashMap<i64, u64>,
    theirs: HashMap<i64, u64>,
    /// There are rows here, so that it matters which of them the snapshot lacks.
    filled: bool,
}

struct Join<'c> {
    conn: &'c Connection,
    applier: Applier<'c>,
    own: i64,
    ours: Reach,
    theirs: Reach,
    /// This file's number of each of the maker's, with the site.
    numbers: HashMap<u64, (i64, SiteId)>,
    ids: HashMap<i64, SiteId>,
    floors: Vec<(i64, u64, u64)>,
    tables: HashMap<TableId, Both>,
    rows: u64,
}

/// Joins the staged blocks; the caller's transaction makes it one step.
pub(super) fn join(
    engine: &mut Engine,
    header: &SnapshotHeader,
    options: &Options,
    now_ms: u64,
) -> Result<Applied, StoreError> {
    let own = engine.own()?;
    let conn = &engine.conn;
    let mut ours = Reach::default();
    let mut statement = conn.prepare("SELECT no, version, hlc FROM isle_site").doing("join a snapshot")?;
    let mut rows = statement.query([]).doing("join a snapshot")?;
    while let Some(row) = rows.next().doing("join a snapshot")? {
        let extent =
            Extent { version: row.get::<_, i64>(1)? as u64, hlc: row.get::<_, i64>(2)? as u64, ..Extent::default() };
        ours.0.insert(row.get(0)?, extent);
    }
    drop(rows);
    drop(statement);
    let hlc = state_at(conn, own.no, own.version)?.map_or(0, |(hlc, _)| hlc.bits());
    ours.0.insert(own.no, Extent { version: own.version, hlc, chain: own.chain });
    let journal = || crate::clocks::one::<i64>(conn, "SELECT count(*) FROM isle_conflict", []);
    let before = journal()?.unwrap_or(0);
    conn.execute_batch("CREATE TEMP TABLE isle_joined(t INT, k BLOB, PRIMARY KEY(t, k)) WITHOUT ROWID")
        .doing("join a snapshot")?;
    let mut join = Join {
        conn,
        applier: Applier::new(engine, &engine.settle()?)?,
        own: own.no,
        ours,
        theirs: Reach::default(),
        numbers: HashMap::new(),
        ids: HashMap::new(),
        floors: Vec::new(),
        tables: HashMap::new(),
        rows: 0,
    };
    for n in 0..header.blocks.len() {
        join.block(engine, header, n, options, now_ms)?;
    }
    if join.tables.is_empty() {
        header.tables.iter().try_for_each(|listed| join.open_table(engine, listed))?;
    }
    join.absent(header)?;
    join.applier.repair(engine, &engine.settle()?)?;
    let versions = join.advance(header)?;
    let mut changed = std::mem::take(&mut join.applier.changed);
    let rows = join.rows;
    drop(join);
    conn.execute_batch("DROP TABLE temp.isle_joined").doing("join a snapshot")?;
    let conflicts = (journal()?.unwrap_or(0) - before) as u64;
    engine.own = Some(crate::own::Own::load(conn)?);
    crate::compact::collect(engine, &[])?;
    if restate::is_below_floor(conn, &VersionVector::new())? {
        restate::restate(engine, now_ms)?;
    }
    // Lives and stamps moved in rows that were not written.
    crate::companion::mirror_all(engine)?;
    changed.dedup();
    let name = |no: &i64| engine.tables.iter().find(|t| t.no == *no).map(|t| t.table.name.clone());
    let tables = changed.iter().filter_map(name).collect();
    tracing::info!(rows, versions, "joined a snapshot");
    Ok(Applied { versions, rows, conflicts, tables, ..Applied::default() })
}

impl Join<'_> {
    fn block(
        &mut self,
        engine: &Engine,
        header: &SnapshotHeader,
        n: usize,
        options: &Options,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let sql = "SELECT body FROM isle_snapshot WHERE n = ?1";
        let stored = crate::clocks::one::<Vec<u8>>(self.conn, sql, [n as i64])?.ok_or(StoreError::NoSnapshot)?;
        let block = Block::open(&stored, &header.blocks[n]).map_err(undecodable)?;
        block.check(&header.blocks[n]).map_err(undecodable)?;
        for section in block.sections() {
            let mut section = section.map_err(undecodable)?;
            match section.table() {
                SITES if self.tables.is_empty() => self.sites(&mut section, options, now_ms)?,
                SITES => return Err(bad("order of sections")),
                table => {
                    if self.tables.is_empty() {
                        header.tables.iter().try_for_each(|listed| self.open_table(engine, listed))?;
                    }
                    match table {
                        SEEN => self.seen(&mut section)?,
                        JOURNAL => self.journal(&mut section)?,
                        _ => self.table(&mut section)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn number(&self, value: Option<ValueRef<'_>>) -> Result<i64, StoreError> {
        let number = integer(value)?;
        self.numbers.get(&number).map(|(no, _)| *no).ok_or_else(|| bad("number of a site"))
    }

    fn sites(&mut self, section: &mut Section<'_>, options: &Options, now_ms: u64) -> Result<(), StoreError> {
        for_each(section, 1, |key, fields| {
            let number = integer(Some(key[0]))?;
            let id = SiteId::from_bytes(bytes(fields[1])?);
            let version = integer(fields[2])?;
            let hlc = Hlc::from_bits(integer(fields[3])?).ok_or_else(|| bad("time of a site"))?;
            Clock::check_drift(hlc, now_ms, options.unset_before_ms, options.drift)?;
            let chain = if version > 0 { bytes(fields[4])? } else { Hash::default() };
            let no = site_no(self.conn, id)?;
            if version > i64::MAX as u64 >> 20 || self.numbers.insert(number, (no, id)).is_some() {
                return Err(bad("site"));
            }
            self.ids.insert(no, id);
            self.theirs.0.insert(no, Extent { version, hlc: hlc.bits(), chain });
            if fields[5].is_some() {
                self.floors.push((no, integer(fields[5])?, integer(fields[6])?));
            }
            Ok(())
        })?;
        // The own versions in it must be those that were written here.
        if let Some(theirs) = self.theirs.0.get(&self.own).filter(|theirs| theirs.version > 0) {
            let mine = state_at(self.conn, self.own, theirs.version)?.map(|(_, chain)| chain);
            let base = crate::own::base(self.conn, self.own)?.map_or(0, |base| base.0);
            if mine != Some(theirs.chain) && theirs.version >= base {
                let site = crate::own::site_id(self.conn, self.own)?;
                return Err(StoreError::Fork { site, version: theirs.version });
            }
        }
        Ok(())
    }

    fn seen(&mut self, section: &mut Section<'_>) -> Result<(), StoreError> {
        for_each(section, 2, |key, fields| {
            let (author, site) = (self.number(Some(key[0]))?, self.number(Some(key[1]))?);
            if author == self.own {
                return Ok(());
            }
            note_seen(self.conn, author, site, integer(fields[1])?, integer(fields[2])?)
        })
    }

    fn journal(&mut self, section: &mut Section<'_>) -> Result<(), StoreError> {
        let sql = "INSERT INTO isle_conflict(t, k, col, value, h, s, wh, ws, reason, state)
                   SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'open' WHERE NOT EXISTS
                     (SELECT 1 FROM isle_conflict WHERE t = ?1 AND k = ?2 AND col = ?3 AND h = ?5 AND s = ?6)";
        let mut insert = self.conn.prepare_cached(sql).doing("join the journal")?;
        for_each(section, 1, |_, fields| {
            let both = self.tables.get(&TableId::from_bytes(bytes(fields[1])?));
            let tracked = &both.ok_or_else(|| bad("table of a journal entry"))?.tracked;
            let Some(ValueRef::Blob(key)) = fields[2] else { return Err(bad("key of a journal entry")) };
            unpack_key(key, tracked.table.key.len()).map_err(undecodable)?;
            let cell = tracked.cell_of(ColumnId::from_bytes(bytes(fields[3])?));
            let cell = cell.ok_or_else(|| bad("column of a journal entry"))?;
            let winner = if fields[8].is_some() { self.number(fields[8]).ok() } else { None };
            let winner_hlc = fields[7].map(|_| integer(fields[7])).transpose()?.map(|hlc| hlc as i64);
            let Some(ValueRef::Text(reason)) = fields[9] else { return Err(bad("reason of a journal entry")) };
            let reason = Reason::parse(&String::from_utf8_lossy(reason)).as_str();
            let (value, hlc, site) =
                (fields[4].unwrap_or(ValueRef::Null), integer(fields[5])?, self.number(fields[6])?);
            let values =
                params![tracked.no, key, cell as i64, to_sql(value), hlc as i64, site, winner_hlc, winner, reason];
            insert.execute(values).doing("join the journal")?;
            Ok(())
        })
    }

    fn open_table(&mut self, engine: &Engine, listed: &SnapshotTable) -> Result<(), StoreError> {
        let tracked = engine.by_id.get(&listed.id).ok_or_else(|| bad("table of a snapshot"))?;
        let columns = std::iter::once(ColumnId::KEY).chain(listed.columns.iter().copied());
        let cells = columns.map(|id| tracked.cell_of(id).ok_or_else(|| bad("column of a snapshot")));
        let mut theirs = HashMap::new();
        for (number, version) in &listed.baselines {
            let (no, _) = *self.numbers.get(number).ok_or_else(|| bad("number of a site"))?;
            theirs.insert(no, *version);
        }
        let any = format!("SELECT 1 FROM {} LIMIT 1", tracked.clock());
        let both = Both {
            tracked: Arc::clone(tracked),
            cells: cells.collect::<Result<_, _>>()?,
            ours: layout::baselines(self.conn, tracked.no)?,
            theirs,
            filled: crate::clocks::one::<i64>(self.conn, &any, [])?.is_some(),
        };
        self.tables.insert(listed.id, both);
        Ok(())
    }

    fn table(&mut self, section: &mut Section<'_>) -> Result<(), StoreError> {
        let both = self.tables.remove(&section.table()).ok_or_else(|| bad("table of a section"))?;
        let tracked = Arc::clone(&both.tracked);
        if section.key_columns() != tracked.table.key.len() {
            return Err(bad("key of a section"));
        }
        self.applier.opened(&tracked)?;
        let places = section.columns().to_vec();
        let cells: Vec<Option<Place>> = places.iter().map(|id| tracked.cell_of(*id).map(Place::Cell)).collect();
        let exact = places.iter().position(|column| *column == ColumnId::KEY);
        let mut row = Row::default();
        let mut incoming = Incoming::new(tracked.cells());
        let mark = "INSERT OR IGNORE INTO temp.isle_joined(t, k) VALUES(?1, ?2)";
        while section.next(&mut row).map_err(undecodable)? {
            if row.kind != RowKind::Insert || row.length != 1 {
                return Err(bad("row of a snapshot"));
            }
            crate::log::check_key(&tracked.table, &row, exact).map_err(undecodable)?;
            incoming.take(&row, &cells);
            let mut clock = self.clock(&both, &row, &places)?;
            let state = self.state(&both, &row, &places)?;
            let complete =
                both.cells.iter().filter(|cell| **cell > 0).all(|n| incoming.mask[n / 64] >> (n % 64) & 1 == 1);
            if clock.is_alive() && !complete {
                return Err(bad("columns of a row"));
            }
            let alive = clock.is_alive();
            for cell in (1..tracked.cells()).filter(|cell| alive && !both.cells.contains(cell)) {
                clock.stamp_cell(cell, LocalStamp::NEVER);
            }
            if both.filled {
                let mut statement = self.conn.prepare_cached(mark).doing("join a snapshot")?;
                statement.execute(params![tracked.no, pack_key(&row.key)]).doing("join a snapshot")?;
            }
            self.rows += 1;
            self.row(&both, &row.key, (&clock, &state), &incoming)?;
        }
        self.tables.insert(section.table(), both);
        Ok(())
    }

    /// The clock of a row in the snapshot, with this file's numbers.
    fn clock(&self, both: &Both, row: &Row<'_>, places: &[ColumnId]) -> Result<RowClock, StoreError> {
        let mut values = row.values.iter().copied();
        let (mut length, mut hlc, mut site, mut packed) = (1, None, None, None);
        for column in bits(&row.mask) {
            let value = values.next();
            match places[column] {
                LENGTH => length = integer(value)?,
                TIME => hlc = Some(integer(value)?),
                SITE => site = Some(self.number(value)?),
                EXCEPTIONS => packed = value,
                _ => {}
            }
        }
        let (Some(hlc), Some(site)) = (hlc, site) else { return Err(bad("stamp of a row")) };
        if length == 0 || length > isle_changeset::LENGTH_MAX {
            return Err(bad("causal length of a row"));
        }
        let stamp = LocalStamp { hlc, site };
        let mut clock = RowClock { length, stamp, exceptions: Vec::new() };
        if let Some(value) = packed {
            let ValueRef::Blob(packed) = value else { return Err(bad("exceptions of a row")) };
            for (cell, stamp) in RowClock::unpack(packed).ok_or_else(|| bad("exceptions of a row"))? {
                let cell = *both.cells.get(cell).ok_or_else(|| bad("exceptions of a row"))?;
                let stamp = match u64::try_from(stamp.site) {
                    Ok(number) => {
                        let no = self.numbers.get(&number).ok_or_else(|| bad("number of a site"))?.0;
                        LocalStamp { hlc: stamp.hlc, site: no }
                    }
                    Err(_) => LocalStamp::NEVER,
                };
                clock.stamp_cell(cell, stamp);
            }
        }
        let known = |stamp: &LocalStamp| self.theirs.covers(*stamp, &both.theirs);
        if !known(&clock.stamp) || !clock.exceptions.iter().all(|(_, stamp)| known(stamp)) {
            return Err(bad("stamp of a row"));
        }
        Ok(clock)
    }

    /// What the columns of kinds of a row in the snapshot go by, with this file's numbers.
    fn state(&self, both: &Both, row: &Row<'_>, places: &[ColumnId]) -> Result<kinds::Row, StoreError> {
        let at = bits(&row.mask).position(|column| places[column] == STATE);
        let Some(value) = at.and_then(|at| row.values.get(at)) else { return Ok(kinds::Row::default()) };
        let wrong = || bad("state of a row");
        let ValueRef::Blob(packed) = value else { return Err(wrong()) };
        let mut state = kinds::Row::unpack(Some(packed)).map_err(|_| wrong())?;
        let mut sound = true;
        state.change(|mut entry| {
            let cell = both.cells.get(entry.cell).copied();
            let column = both.tracked.kinds.iter().find(|column| Some(column.cell) == cell);
            let site = match u64::try_from(entry.stamp.site) {
                Ok(number) => self.numbers.get(&number).map(|(no, _)| *no),
                Err(_) => Some(LocalStamp::NEVER.site),
            };
            if let (Some(column), Some(site)) = (column, site) {
                (entry.cell, entry.stamp.site) = (column.cell, site);
                sound &= entry.is_sound(column) && self.theirs.covers(entry.stamp, &both.theirs);
                return Some(entry);
            }
            sound = false;
            None
        });
        if sound { Ok(state) } else { Err(wrong()) }
    }

    fn row(
        &mut self,
        both: &Both,
        key: &[ValueRef<'_>],
        (theirs, state): (&RowClock, &kinds::Row),
        incoming: &Incoming<'_>,
    ) -> Result<(), StoreError> {
        let tracked = &both.tracked;
        let we_know = self.ours.knows(theirs, &both.ours);
        let clocks = &mut self.applier.opened(tracked)?.clocks;
        let Some(ours) = (if both.filled { clocks.get(key)? } else { None }) else {
            if we_know {
                return Ok(());
            }
            clocks.put(key, false, theirs)?;
            return self.begin(both, key, (theirs, state), incoming);
        };
        // A side that knows the other's life, and yet counts fewer, has collected it and begun anew.
        let order = match theirs.length.cmp(&ours.length) {
            Ordering::Greater if we_know => Ordering::Less,
            Ordering::Less if self.theirs.knows(&ours, &both.theirs) => Ordering::Greater,
            order => order,
        };
        match order {
            Ordering::Greater => {
                if ours.is_alive() {
                    self.journal_ours(both, key, &ours, Some(theirs.stamp), Reason::Deleted)?;
                    self.delete(both, key)?;
                }
                self.applier.opened(tracked)?.clocks.put(key, true, theirs)?;
                self.begin(both, key, (theirs, state), incoming)
            }
            Ordering::Less => {
                for cell in bits(&incoming.mask).filter(|_| theirs.is_alive()) {
                    if !self.ours.covers(theirs.cell(cell), &both.ours) {
                        let (loser, winner) = (theirs.cell(cell), Some(ours.stamp));
                        let loss = Loss { cell, value: incoming.cells[cell], loser, winner, reason: Reason::Deleted };
                        self.applier.journal.add(tracked, key, loss)?;
                    }
                }
                Ok(())
            }
            Ordering::Equal if ours.is_alive() => self.cells(both, key, ours, (theirs, state), incoming),
            Ordering::Equal => {
                if self.compare(theirs.stamp, ours.stamp)? == Ordering::Greater {
                    self.applier.opened(tracked)?.clocks.update(key, theirs)?;
                }
                Ok(())
            }
        }
    }

    /// Writes a row whose life begins here, if it lives.
    fn begin(
        &mut self,
        both: &Both,
        key: &[ValueRef<'_>],
        (theirs, state): (&RowClock, &kinds::Row),
        incoming: &Incoming<'_>,
    ) -> Result<(), StoreError> {
        if !theirs.is_alive() {
            return Ok(());
        }
        self.write(both, (theirs.stamp, state), true, key, &incoming.mask, incoming)
    }

    /// One life on both sides: each cell goes to the larger stamp.
    fn cells(
        &mut self,
        both: &Both,
        key: &[ValueRef<'_>],
        mut ours: RowClock,
        (theirs, state): (&RowClock, &kinds::Row),
        incoming: &Incoming<'_>,
    ) -> Result<(), StoreError> {
        let tracked = &both.tracked;
        let all = crate::seal::all_cells(tracked.cells(), true);
        let opened = self.applier.opened(tracked)?;
        let mut current = opened.read(self.conn, key, &all)?;
        kinds::with_bases(tracked, &mut opened.clocks, key, current.as_deref_mut().unwrap_or_default())?;
        let mut won = vec![0u64; incoming.mask.len()];
        for cell in bits(&incoming.mask) {
            let (mine, other) = (ours.cell(cell), theirs.cell(cell));
            let value = current.as_ref().map(|current| current[cell].as_ref());
            let differs = value.is_some_and(|value| value != incoming.cells[cell]);
            let order = match self.compare(other, mine)? {
                Ordering::Equal => value.map_or(Ordering::Equal, |value| incoming.cells[cell].order(value)),
                order => order,
            };
            let (loser, winner, lost, seen) = match order {
                Ordering::Equal => continue,
                Ordering::Greater => {
                    won[cell / 64] |= 1 << (cell % 64);
                    (mine, other, value.unwrap_or(ValueRef::Null), self.theirs.covers(mine, &both.theirs))
                }
                Ordering::Less => (other, mine, incoming.cells[cell], self.ours.covers(other, &both.ours)),
            };
            if differs && !seen {
                let loss = Loss { cell, value: lost, loser, winner: Some(winner), reason: Reason::Older };
                self.applier.journal.add(tracked, key, loss)?;
            }
        }
        let none = won.iter().all(|word| *word == 0);
        if none && tracked.kinds.is_empty() {
            return Ok(());
        }
        for cell in bits(&won) {
            ours.stamp_cell(cell, theirs.cell(cell));
        }
        if !none {
            self.applier.opened(tracked)?.clocks.update(key, &ours)?;
        }
        self.write(both, (theirs.stamp, state), false, key, &won, incoming)
    }

    fn compare(&self, a: LocalStamp, b: LocalStamp) -> Result<Ordering, StoreError> {
        if a == b {
            return Ok(Ordering::Equal);
        }
        match (a == LocalStamp::NEVER, b == LocalStamp::NEVER) {
            (true, _) => return Ok(Ordering::Less),
            (_, true) => return Ok(Ordering::Greater),
            _ => {}
        }
        if a.hlc != b.hlc || a.site == b.site {
            return Ok(a.hlc.cmp(&b.hlc));
        }
        let id = |no: i64| match self.ids.get(&no) {
            Some(id) => Ok(*id),
            None => crate::own::site_id(self.conn, no),
        };
        Ok(id(a.site)?.cmp(&id(b.site)?))
    }

    /// Journals cells of a row here that ends although the other side had not seen them.
    fn journal_ours(
        &mut self,
        both: &Both,
        key: &[ValueRef<'_>],
        ours: &RowClock,
        winner: Option<LocalStamp>,
        reason: Reason,
    ) -> Result<(), StoreError> {
        let tracked = &both.tracked;
        let unseen: Vec<usize> =
            (1..tracked.cells()).filter(|cell| !self.theirs.covers(ours.cell(*cell), &both.theirs)).collect();
        if unseen.is_empty() {
            return Ok(());
        }
        let all = crate::seal::all_cells(tracked.cells(), true);
        let Some(current) = self.applier.opened(tracked)?.read(self.conn, key, &all)? else { return Ok(()) };
        for cell in unseen {
            let loss = Loss { cell, value: current[cell].as_ref(), loser: ours.cell(cell), winner, reason };
            self.applier.journal.add(tracked, key, loss)?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        both: &Both,
        (stamp, state): (LocalStamp, &kinds::Row),
        new: bool,
        key: &[ValueRef<'_>],
        mask: &[u64],
        incoming: &Incoming<'_>,
    ) -> Result<(), StoreError> {
        let author = self.author(stamp)?;
        let tracked = &both.tracked;
        if tracked.kinds.is_empty() {
            return self.applier.merge(tracked, &author)?.write(new, key, mask, &incoming.cells);
        }
        let (ours, theirs) = (&self.ours, &self.theirs);
        let clocks = &mut self.applier.opened(tracked)?.clocks;
        let mut changing = kinds::Changing::open(new, clocks, key)?;
        changing.bases(tracked, mask, incoming);
        let (we_cover, they_cover) =
            (|stamp| ours.covers(stamp, &both.ours), |stamp| theirs.covers(stamp, &both.theirs));
        changing.join(tracked, state, we_cover, they_cover)?;
        let replaced = changing.replaced(tracked, they_cover)?;
        let shown = changing.close(tracked, clocks, key, true)?;
        let write = kinds::write(tracked, mask, &incoming.cells, &shown);
        for (cell, value, loser) in &replaced {
            let (loser, winner) = (*loser, Some(stamp));
            let loss = Loss { cell: *cell, value: value.as_ref(), loser, winner, reason: Reason::Older };
            self.applier.journal.add(tracked, key, loss)?;
        }
        self.applier.merge(tracked, &author)?.write(new, key, &write.mask, &write.cells)
    }

    fn delete(&mut self, both: &Both, key: &[ValueRef<'_>]) -> Result<(), StoreError> {
        let author = self.author(LocalStamp::NEVER)?;
        self.applier.merge(&both.tracked, &author)?.delete(key)
    }

    /// Stands for the author of a row where the merge wants one.
    fn author(&self, stamp: LocalStamp) -> Result<Author, StoreError> {
        let site = self.ids.get(&stamp.site).copied().unwrap_or(SiteId::from_bytes([0; 16]));
        Ok(Author::of_snapshot(stamp, site))
    }

    /// Rows here that the snapshot lacks: its maker had them and has collected them, or never heard of them.
    fn absent(&mut self, header: &SnapshotHeader) -> Result<(), StoreError> {
        for listed in &header.tables {
            let Some(both) = self.tables.remove(&listed.id) else { continue };
            if both.filled {
                for (key, clock) in self.collected(&both)? {
                    let key: Vec<_> = key.iter().map(Value::as_ref).collect();
                    if clock.is_alive() {
                        self.journal_ours(&both, &key, &clock, None, Reason::Unknown)?;
                        self.delete(&both, &key)?;
                    }
                    self.applier.opened(&both.tracked)?.clocks.forget(&key)?;
                }
            }
            self.tables.insert(listed.id, both);
        }
        Ok(())
    }

    /// Rows that the snapshot lacks although its maker had applied a write to them.
    fn collected(&self, both: &Both) -> Result<Vec<(Key, RowClock)>, StoreError> {
        let tracked = &both.tracked;
        let sql = format!("SELECT h, w, x, {} FROM {}", tracked.clock_key().join(", "), tracked.clock());
        let mut statement = self.conn.prepare(&sql).doing("join a snapshot")?;
        let mut rows = statement.raw_query();
        let mut joined =
            self.conn.prepare("SELECT 1 FROM temp.isle_joined WHERE t = ?1 AND k = ?2").doing("join a snapshot")?;
        let mut gone = Vec::new();
        while let Some(row) = rows.next().doing("join a snapshot")? {
            let Some(clock) = RowClock::read(row, 0, tracked)? else { continue };
            let key = (0..tracked.table.key.len()).map(|n| row.get_ref(CLOCK_FIELDS + n).map(from_sql));
            let key: Vec<_> = key.collect::<Result<_, _>>().doing("join a snapshot")?;
            let known = self.theirs.knows(&clock, &both.theirs);
            let mut there = || joined.query_row(params![tracked.no, pack_key(&key)], |_| Ok(())).optional();
            if known && there().doing("join a snapshot")?.is_none() {
                gone.push((key.iter().map(|value| value.to_value()).collect(), clock));
            }
        }
        Ok(gone)
    }

    /// What the maker had applied counts as applied here now.
    fn advance(&mut self, header: &SnapshotHeader) -> Result<u64, StoreError> {
        let mut versions = 0;
        for (&no, theirs) in &self.theirs.0 {
            let ours = self.ours.0.get(&no).copied().unwrap_or_default();
            if no == self.own || theirs.version <= ours.version {
                continue;
            }
            versions += theirs.version - ours.version;
            let sql = "UPDATE isle_site SET version = ?2, hlc = max(hlc, ?3), chain = ?4, proven = 0 WHERE no = ?1";
            let values = params![no, theirs.version as i64, theirs.hlc as i64, theirs.chain];
            self.conn.execute(sql, values).doing("advance the version vector")?;
            // What waited of them is in the snapshot; what came before would stand behind a gap, and the log has none.
            let range = params![log_id(no, 0), log_id(no, theirs.version)];
            self.conn.execute("DELETE FROM isle_log WHERE id BETWEEN ?1 AND ?2", range).doing("advance the log")?;
            self.conn.execute("DELETE FROM isle_block WHERE id BETWEEN ?1 AND ?2", range).doing("advance the log")?;
            crate::proofs::prune(self.conn, no, theirs.version)?;
            // What somebody has merged counts for all, also of a site that was declared gone here before.
            let sql = "UPDATE isle_retired SET version = max(version, ?2) WHERE site = ?1";
            self.conn.execute(sql, params![no, theirs.version as i64]).doing("advance the version vector")?;
        }
        for listed in &header.tables {
            let Some(both) = self.tables.get(&listed.id) else { continue };
            for (no, version) in &both.theirs {
                if both.ours.get(no).is_none_or(|ours| ours < version) {
                    layout::set_baseline(self.conn, both.tracked.no, *no, *version)?;
                }
            }
        }
        let mut raised = false;
        for (no, version, hlc) in &self.floors {
            raised |= crate::compact::raise_floor(self.conn, *no, *version, *hlc)?;
        }
        if raised {
            crate::compact::tell_floor(self.conn)?;
        }
        Ok(versions)
    }
}

/// Reads the rows of a section that is no table: their key, and their fields by number.
fn for_each<'a>(
    section: &mut Section<'a>,
    keys: usize,
    mut f: impl FnMut(&[ValueRef<'a>], &[Option<ValueRef<'a>>; 16]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if section.key_columns() != keys {
        return Err(bad("key of a section"));
    }
    let number = |id: &ColumnId| (0..16u8).find(|n| field(*n) == *id);
    let places: Vec<Option<u8>> = section.columns().iter().map(number).collect();
    let mut row = Row::default();
    while section.next(&mut row).map_err(undecodable)? {
        let mut fields = [None; 16];
        for (column, value) in bits(&row.mask).zip(&row.values) {
            if let Some(Some(n)) = places.get(column) {
                fields[*n as usize] = Some(*value);
            }
        }
        f(&row.key, &fields)?;
    }
    Ok(())
}

fn integer(value: Option<ValueRef<'_>>) -> Result<u64, StoreError> {
    match value {
        Some(ValueRef::Integer(value)) if value >= 0 => Ok(value as u64),
        _ => Err(bad("number")),
    }
}

fn bytes<const N: usize>(value: Option<ValueRef<'_>>) -> Result<[u8; N], StoreError> {
    match value {
        Some(ValueRef::Blob(value)) => value.try_into().map_err(|_| bad("id")),
        _ => Err(bad("id")),
    }
}
