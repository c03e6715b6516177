//! Sealing anew what was not handed over yet.
//!
//! Changesets that nobody has may have been written in ignorance of what the group has collected since. Once this file has caught
//! up, they are replaced by what is left of them: the cells that carry their stamps, as one version of today. Whatever lost to others
//! is in the journal already.

use std::sync::Arc;

use isle_changeset::{RowKind, ValueRef, canonical_key};
use isle_clock::{Clock, Hlc, VersionVector};
use rusqlite::{Connection, params};

use crate::clocks::{CLOCK_FIELDS, ClockTable, LocalStamp, RowClock, from_sql};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::kinds::Unsent;
use crate::layout::{self, log_id};
use crate::own::{Own, state_at};
use crate::seal::Sealer;
use crate::tracked::Tracked;
use crate::{Options, StoreError, identity};

/// Replaces the unpublished versions by what is left of them.
pub(crate) fn restate(engine: &mut Engine, now_ms: u64) -> Result<(), StoreError> {
    engine.settle()?;
    let conn = &engine.conn;
    let mut own = engine.own()?;
    let published = identity::published(conn)?.min(own.version);
    if own.version == published {
        return Ok(());
    }
    let replaced = own.version - published;
    let (hlc, chain) = match published {
        0 => (Hlc::ZERO, Default::default()),
        _ => state_at(conn, own.no, published)?
            .ok_or_else(|| StoreError::Internal { table: "isle_log", detail: format!("no version {published}") })?,
    };
    let unsent = crate::kinds::unsent(conn, &own, published + 1..=own.version, &engine.tables)?;
    let nothing = Unsent::default();
    let range = params![log_id(own.no, published + 1), log_id(own.no + 1, 0) - 1];
    conn.execute("DELETE FROM isle_log WHERE id BETWEEN ?1 AND ?2", range).doing("seal anew")?;
    conn.execute("DELETE FROM isle_block WHERE id BETWEEN ?1 AND ?2", range).doing("seal anew")?;
    // What the replaced versions had named as seen has to be said again.
    conn.execute("DELETE FROM isle_seen WHERE author = ?1", [own.no]).doing("seal anew")?;
    own.version = published;
    own.chain = chain;
    own.causes_told = false;
    let mut order: Vec<Arc<Tracked>> = engine.tables.clone();
    order.sort_by_key(|tracked| tracked.table.id);
    let unpublished = |tracked: &Arc<Tracked>| {
        Ok::<_, StoreError>(layout::baselines(conn, tracked.no)?.get(&own.no).is_some_and(|v| *v > published))
    };
    let mut baseline = Vec::new();
    for tracked in &order {
        if unpublished(tracked)? {
            baseline.push(Arc::clone(tracked));
        }
    }
    if !baseline.is_empty() {
        let from = LocalStamp { hlc: 0, site: own.no };
        let mut sealer = Sealer::begin(conn, &mut own, now_ms, true)?;
        for tracked in &baseline {
            layout::set_baseline(conn, tracked.no, own.no, own.version + 1)?;
            table(conn, &mut sealer, tracked, &nothing, |stamp| stamp == from)?;
        }
        sealer.finish(&mut own)?;
    }
    let no = own.no;
    let mut sealer = Sealer::begin(conn, &mut own, now_ms, false)?;
    for tracked in &order {
        table(conn, &mut sealer, tracked, &unsent, |stamp| stamp.site == no && stamp.hlc > hlc.bits())?;
    }
    sealer.finish(&mut own)?;
    tracing::info!(replaced, by = own.version - published, "unpublished versions were sealed anew");
    engine.own = Some(own);
    crate::repair::owe_claims(&engine.conn)?;
    engine.repair()?;
    crate::companion::mirror_all(engine)
}

/// Brings back a clock that ran ahead: other devices would hold back what it stamps. The unpublished versions are sealed anew if
/// theirs are the only times beyond the drift bound; what was published, or came from others, has to be waited for. Gives the
/// number of versions replaced.
pub(crate) fn bring_back_clock(engine: &mut Engine, now_ms: u64, options: &Options) -> Result<u64, StoreError> {
    let own = engine.own()?;
    let ahead = |hlc| Clock::check_drift(hlc, now_ms, options.unset_before_ms, options.drift).is_err();
    let published = identity::published(&engine.conn)?.min(own.version);
    if own.version == published || now_ms < options.unset_before_ms || !ahead(own.clock.last()) {
        return Ok(0);
    }
    let said = match published {
        0 => Hlc::ZERO,
        _ => state_at(&engine.conn, own.no, published)?.map_or(Hlc::MAX, |(hlc, _)| hlc),
    };
    let seen = crate::clocks::one::<i64>(&engine.conn, "SELECT coalesce(max(hlc), 0) FROM isle_site", [])?;
    let seen = Hlc::from_bits(seen.unwrap_or(0) as u64).unwrap_or(Hlc::MAX);
    let last = said.max(seen);
    if ahead(last) {
        return Ok(0);
    }
    let replaced = own.version - published;
    tracing::warn!(from = %own.clock.last(), to = %last, replaced, "the clock ran ahead: unpublished changes are stamped anew");
    layout::set_meta(&engine.conn, "hlc", last.bits() as i64)?;
    // The stamps that move are looked for before any new one is given.
    engine.settle()?;
    let own = Own { clock: Clock::resume(last), ..engine.own()? };
    engine.own = Some(own);
    restate(engine, now_ms)?;
    Ok(replaced)
}

/// Whether the first unpublished version does not know of something below the collection floor. What it said in versions that left
/// the log since, and said again later, counts as unknown: that costs a needless sealing at worst.
///
/// `others` is a vector that the group may have collected up to, as far as the driver can tell.
pub(crate) fn is_below_floor(conn: &Connection, others: &VersionVector) -> Result<bool, StoreError> {
    let own = Own::load(conn)?;
    let first = identity::published(conn)? + 1;
    if first > own.version {
        return Ok(false);
    }
    let mut floor: VersionVector =
        crate::compact::floor(conn)?.iter().map(|cause| (cause.site, cause.version)).collect();
    floor.merge(others);
    let told = identity::told_up_to(conn, own.no, first, own.version)?;
    let told: VersionVector = told.iter().map(|cause| (cause.site, cause.version)).collect();
    let below = floor.iter().any(|(site, version)| site != own.site && !told.contains(site, version));
    Ok(below)
}

/// Adds the cells of a table whose stamps are `mine`, and stamps them as of this version.
fn table(
    conn: &Connection,
    sealer: &mut Sealer<'_>,
    tracked: &Arc<Tracked>,
    unsent: &Unsent,
    mine: impl Fn(LocalStamp) -> bool,
) -> Result<(), StoreError> {
    let (keys, cells) = (tracked.table.key.len(), tracked.cells());
    sealer.table(tracked)?;
    let sql = format!("SELECT {} ORDER BY {}", tracked.clocks_and_rows(conn, "LEFT JOIN")?, tracked.clock_order());
    let mut statement = conn.prepare(&sql).doing("seal anew")?;
    let mut rows = statement.raw_query();
    let mut restamped = Vec::new();
    while let Some(row) = rows.next().doing("seal anew")? {
        let Some(mut clock) = RowClock::read(row, 0, tracked)? else { continue };
        let state = tracked.state_in(row)?;
        let value = |at: usize| row.get_ref(at).map(from_sql).doing("seal anew");
        let key: Vec<_> = (0..keys).map(|n| value(CLOCK_FIELDS + n)).collect::<Result<_, _>>()?;
        let of_kinds = clock.is_alive()
            && (state.state().any(|entry| mine(entry.stamp)) || unsent.concerns(tracked, &key, clock.length));
        if !of_kinds && !mine(clock.stamp) && !clock.exceptions.iter().any(|(_, stamp)| mine(*stamp)) {
            continue;
        }
        let mut new_state = None;
        if !clock.is_alive() {
            sealer.row(tracked, RowKind::Delete, clock.length, &[], &key, &[])?;
            clock.stamp = sealer.stamp();
        } else {
            let exact: Vec<_> = (0..keys).map(|n| value(CLOCK_FIELDS + keys + n)).collect::<Result<_, _>>()?;
            if exact.contains(&ValueRef::Null) {
                continue;
            }
            let packed = canonical_key(&exact, &tracked.table.key).1;
            let mut mask = vec![0u64; cells.div_ceil(64)];
            let mut values = Vec::new();
            for cell in (0..cells).filter(|cell| mine(clock.cell(*cell)) && (*cell > 0 || packed.is_some())) {
                mask[cell / 64] |= 1 << (cell % 64);
                if let Some(kind) = tracked.kinds.iter().find(|kind| kind.cell == cell) {
                    values.push(state.base(kind));
                    continue;
                }
                values.push(match (cell.checked_sub(1), &packed) {
                    (Some(column), _) => value(CLOCK_FIELDS + 2 * keys + column)?,
                    (None, Some(packed)) => ValueRef::Blob(packed),
                    (None, None) => ValueRef::Null,
                });
            }
            // An insert of the same life is a write of its cells where the row is known.
            let mut stamped = state.clone();
            let sent = unsent.again(tracked, (&key, clock.length), &mut stamped, &mine, sealer.stamp());
            sealer.row_with(tracked, (RowKind::Insert, clock.length), &key, (&mask, &values), &sent)?;
            let new = restamp(&clock, cells, &mine, sealer.stamp());
            // A baseline keeps its stamp: a million adopted rows need no list.
            if new == clock && stamped == state {
                continue;
            }
            clock = new;
            new_state = (stamped != state).then(|| stamped.packed());
        }
        restamped.push((key.iter().map(|value| value.to_value()).collect::<Vec<_>>(), clock, new_state));
    }
    let mut clocks = ClockTable::open(conn, tracked);
    for (key, clock, state) in restamped {
        let key: Vec<_> = key.iter().map(isle_changeset::Value::as_ref).collect();
        clocks.update(&key, &clock)?;
        if let Some(state) = state {
            clocks.set_state(&key, state.as_deref())?;
            // Members that came at different times have one now, and show in another order.
            crate::repair::owe(conn, tracked.no, &isle_changeset::pack_key(&key))?;
        }
    }
    Ok(())
}

/// The same clock with other stamps in the place of `mine`.
fn restamp(clock: &RowClock, cells: usize, mine: &impl Fn(LocalStamp) -> bool, stamp: LocalStamp) -> RowClock {
    let moved = |old: LocalStamp| if mine(old) { stamp } else { old };
    let mut new = RowClock { length: clock.length, stamp: moved(clock.stamp), exceptions: Vec::new() };
    for cell in 0..cells {
        new.stamp_cell(cell, moved(clock.cell(cell)));
    }
    new
}
