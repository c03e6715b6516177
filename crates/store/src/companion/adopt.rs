//! Tables that were CRRs before their file became a replica: what cr-sqlite's clocks say of their cells stays.
//!
//! A version of a column is taken for its time: the cells with version 1 become the site's first changeset, those with version 2 its second, and so on, with
//! times of 1, 2, … after 1970. Any write through isle is later. So of two files with one past, of which one has merged less than the other, the later
//! value wins on both, as it would have in cr-sqlite; of equal versions the one of the larger site does, and the other is in the journal. Causal lengths
//! stay as they are, and deleted rows stay deleted.
//!
//! That is for the first tables of a file: a site's times rise, so that tables which join later become baselines as any others do.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use isle_changeset::{RowKind, Value, ValueRef, canonical_key};
use isle_clock::Hlc;
use isle_crsqlite::{Crr, Past};

use super::crr;
use crate::StoreError;
use crate::capture::Values;
use crate::clocks::{ClockTable, LocalStamp, RowClock};
use crate::engine::Engine;
use crate::own::Own;
use crate::seal::{Sealer, bits, masked, read_row};
use crate::tracked::Tracked;

/// With more versions than that the past of a table is not taken over: each becomes a changeset.
const VERSIONS_MAX: usize = 10_000;

/// A table with what cr-sqlite knows of it.
pub(crate) type WithPast = (Arc<Tracked>, Crr);

/// Which of these tables have a past that can be taken over, rather than become baselines.
pub(crate) fn with_past(
    engine: &Engine,
    own: &Own,
    tables: &[Arc<Tracked>],
    now_ms: u64,
) -> Result<Vec<WithPast>, StoreError> {
    let mut found = Vec::new();
    if own.version > 0 || super::of_file(&engine.conn)? == super::TableEngine::Native {
        return Ok(found);
    }
    let mut versions = HashSet::new();
    for tracked in tables {
        if super::switch::cannot_hold(&engine.conn, tracked)?.is_some() {
            continue;
        }
        if let Some(known_as) = isle_crsqlite::name_of(&engine.conn, &tracked.table.name)? {
            let crr = crr(tracked, &known_as);
            versions.extend(crr.versions(&engine.conn)?);
            found.push((Arc::clone(tracked), crr));
        }
    }
    // A time to come would put this site's clock ahead, and others would hold back all that it writes.
    let is_past = |version: &i64| Hlc::from_bits(*version as u64).is_some_and(|hlc| hlc.ms() <= now_ms);
    if versions.len() > VERSIONS_MAX || !versions.iter().all(is_past) {
        tracing::warn!(versions = versions.len(), "the tables' versions in cr-sqlite cannot be taken over as times");
        found.clear();
    }
    found.sort_by_key(|(tracked, _)| tracked.table.id);
    Ok(found)
}

/// Seals the past of these tables, which are in the order of their ids.
pub(crate) fn seal(engine: &Engine, own: &mut Own, tables: &[WithPast]) -> Result<(), StoreError> {
    let conn = &engine.conn;
    let mut versions = BTreeSet::new();
    for (_, crr) in tables {
        versions.extend(crr.versions(conn)?);
        crr.open_past(conn)?;
    }
    let mut begun: Vec<HashSet<i64>> = vec![HashSet::new(); tables.len()];
    for version in versions {
        let hlc = Hlc::from_bits(version as u64).unwrap_or(Hlc::ZERO);
        let mut sealer = Sealer::at(conn, own, hlc);
        for ((tracked, crr), begun) in tables.iter().zip(&mut begun) {
            seal_table(&mut sealer, (tracked, crr), version, begun)?;
        }
        sealer.finish(own)?;
    }
    tables.iter().try_for_each(|(_, crr)| crr.close_past(conn))?;
    Ok(())
}

fn seal_table(
    sealer: &mut Sealer<'_>,
    (tracked, crr): (&Arc<Tracked>, &Crr),
    version: i64,
    begun: &mut HashSet<i64>,
) -> Result<(), StoreError> {
    let conn = sealer.conn();
    let stamp = sealer.stamp();
    let mut clocks = ClockTable::open(conn, tracked);
    let mut packed = Vec::new();
    let mut opened = false;
    crr.past(conn, version, |past| {
        if !opened {
            sealer.table(tracked)?;
            opened = true;
        }
        let Past { number, key, length, columns } = past;
        let exact: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        let (key, form) = canonical_key(&exact, &tracked.table.key);
        let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        if length % 2 == 0 {
            clocks.put(&key, false, &RowClock { length, stamp, exceptions: Vec::new() })?;
            return sealer.row(tracked, RowKind::Delete, length, &[], &key, &[]);
        }
        packed.clear();
        if !read_row(conn, tracked, &key, &mut packed)? {
            return Ok(());
        }
        let mut values = Values::new(&packed);
        let mut cells: Vec<ValueRef<'_>> = (0..tracked.cells()).map(|_| values.take()).collect();
        let mut mask = vec![0u64; tracked.cells().div_ceil(64)];
        columns.iter().map(|column| column + 1).for_each(|cell| mask[cell / 64] |= 1 << (cell % 64));
        if begun.insert(number) {
            if let Some(form) = &form {
                cells[0] = ValueRef::Blob(form);
                mask[0] |= 1;
            }
            let written = |cell: &usize| mask[cell / 64] >> (cell % 64) & 1 == 1;
            let never = (1..tracked.cells()).filter(|cell| !written(cell));
            let exceptions = never.map(|cell| (cell, LocalStamp::NEVER)).collect();
            clocks.put(&key, false, &RowClock { length, stamp, exceptions })?;
            return sealer.row(tracked, RowKind::Insert, length, &mask, &key, &masked(&mask, &cells));
        }
        if let Some(mut clock) = clocks.get(&key)? {
            bits(&mask).for_each(|cell| clock.stamp_cell(cell, stamp));
            clocks.update(&key, &clock)?;
        }
        sealer.row(tracked, RowKind::Update, length, &mask, &key, &masked(&mask, &cells))
    })
}
