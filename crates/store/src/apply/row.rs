//! One row of a changeset against the row and the clock that are here.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use isle_changeset::{Row, RowKind, Value, ValueRef};
use isle_clock::SiteId;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::history::Histories;
use super::table::TableApplier;
use super::{Author, Incoming};
use crate::StoreError;
use crate::clocks::{LocalStamp, RowClock};
use crate::engine::Direct;
use crate::error::Doing as _;
use crate::journal::{Journal, Loss, Reason};
use crate::kinds;
use crate::seal::bits;

/// One table's rows against one author's changes.
pub(crate) struct Merge<'m, 'c> {
    pub(super) table: &'m mut TableApplier<'c>,
    pub(super) author: &'m Author,
    pub(super) sites: &'m mut HashMap<i64, SiteId>,
    pub(super) journal: &'m mut Journal<'c>,
    pub(super) histories: &'m mut Histories<'c>,
    pub(super) conn: &'c Connection,
    /// Whether triggers fire on this connection at all.
    pub(super) triggers: bool,
    /// Where to announce a delete, if triggers of the app delete from this table too.
    pub(super) direct: Option<&'m Direct>,
}

impl Merge<'_, '_> {
    pub(super) fn row(&mut self, row: &Row<'_>, incoming: &Incoming<'_>) -> Result<(), StoreError> {
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

    /// What was passed over of a row that was merged before; `incoming` has nothing else.
    pub(super) fn rest(&mut self, row: &Row<'_>, incoming: &Incoming<'_>, parked: i64) -> Result<(), StoreError> {
        let nothing = incoming.mask.iter().all(|word| *word == 0) && incoming.kinds.is_empty();
        if nothing || row.kind == RowKind::Delete {
            return Ok(());
        }
        // Without a clock the row was collected since; with one it may have been, and begun anew.
        let Some(clock) = self.table.clocks.get(&row.key)? else { return Ok(()) };
        if crate::parked::is_gone(self.conn, self.table.tracked.table.id, &row.key, parked)? {
            return Ok(());
        }
        match row.length.cmp(&clock.length) {
            Ordering::Equal if clock.is_alive() => self.cells(row, incoming, clock),
            Ordering::Less if !self.was_seen_by(clock.stamp)? => self.shorter(row, incoming, Some(clock)),
            _ => Ok(()),
        }
    }

    /// Whether the author of a stamp had seen what is being merged: then it was not lost to a concurrent write.
    fn was_seen_by(&mut self, stamp: LocalStamp) -> Result<bool, StoreError> {
        if stamp.site == self.author.no {
            return Ok(true);
        }
        let seen = self.histories.at(stamp.site, stamp.hlc)?.get(&self.author.no);
        Ok(seen.is_some_and(|seen| seen.hlc >= self.author.written))
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
            RowKind::Delete => self.table.bury(&row.key).map(|_| ()),
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
