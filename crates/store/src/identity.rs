//! Who this file is: joining a group, and taking a new site id when the file turns out to be a copy or an older state.
//!
//! What was never handed over can be sealed again: the same rows and the same times under another group or site. What others may
//! have seen stays as it is for ever.

use std::collections::HashSet;
use std::sync::Arc;

use isle_changeset::{Cause, Header};
use isle_clock::{GroupId, Hlc, SiteId};
use rusqlite::{Connection, params};

use crate::StoreError;
use crate::clocks::{CLOCK_FIELDS, SITE_MASK};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::{log_id, require_meta, set_meta};
use crate::own::{Own, note_seen, site_no, state_at};
use crate::tracked::Tracked;

/// The last version of its own that the site may have handed to somebody.
pub(crate) fn published(conn: &Connection) -> Result<u64, StoreError> {
    Ok(require_meta::<i64>(conn, "published")? as u64)
}

/// Joins a group: unpublished changesets are sealed again under its id. Without any schema here the group's app is taken over;
/// false if the apps differ.
pub(crate) fn join_group(engine: &mut Engine, group: GroupId, app: Option<&str>) -> Result<bool, StoreError> {
    let mut own = engine.own()?;
    let known: String = require_meta(&engine.conn, "app")?;
    if let Some(app) = app.filter(|app| *app != known) {
        if !own.heads.is_empty() {
            return Ok(false);
        }
        set_meta(&engine.conn, "app", app)?;
    }
    if own.group == group {
        return Ok(true);
    }
    let others: i64 =
        crate::clocks::one(&engine.conn, "SELECT count(*) FROM isle_site WHERE version > 0", [])?.unwrap_or(0);
    if published(&engine.conn)? > 0 || others > 0 {
        return Err(StoreError::OtherGroup { group: own.group, other: group });
    }
    engine.settle()?;
    own.unsettled.set(None);
    set_meta(&engine.conn, "group", group.as_bytes())?;
    crate::peers::leave_group(&engine.conn)?;
    own.group = group;
    seal_again(&engine.conn, &mut own, 1)?;
    engine.own = Some(own);
    Ok(true)
}

/// Takes a new site id: what was published under the old one is now another site's, the rest moves to the new one.
pub(crate) fn new_site(engine: &mut Engine, site: SiteId, published_max: u64) -> Result<(), StoreError> {
    let kept = published(&engine.conn)?.max(published_max);
    new_site_after(engine, site, kept)
}

/// Takes a new site id: versions up to `kept` are now another site's, the rest moves to the new one, as far as the log has it.
pub(crate) fn new_site_after(engine: &mut Engine, site: SiteId, kept: u64) -> Result<(), StoreError> {
    // Stamps that are owed would be looked for under the old number.
    engine.settle()?;
    let mut own = engine.own()?;
    let conn = &engine.conn;
    let base = crate::own::base(conn, own.no)?.map_or(0, |base| base.0);
    let kept = kept.max(base).min(own.version);
    let old = own.clone();
    let no = site_no(conn, site)?;
    set_meta(conn, "site", no)?;
    set_meta(conn, "published", 0)?;
    set_meta(conn, "hlc", own.clock.last().bits() as i64)?;
    let last = if kept == 0 { None } else { state_at(conn, old.no, kept)? };
    let hlc = last.map_or(Hlc::ZERO, |(hlc, _)| hlc);
    let chain = last.map(|(_, chain)| chain);
    let sql = "UPDATE isle_site SET version = ?2, hlc = max(hlc, ?3), chain = ?4 WHERE no = ?1";
    conn.execute(sql, params![old.no, kept as i64, hlc.bits() as i64, chain]).doing("retire the old site id")?;
    // The heads that were seen of the old id were its own: from now on they are somebody else's news.
    conn.execute("DELETE FROM isle_remote_head WHERE site = ?1", [old.site.as_bytes()])
        .doing("forget the old heads")?;
    let source = Source { no: old.no, from: kept + 1, to: old.version };
    let mut first = told_before(conn, &source)?;
    if kept > 0 {
        first.push(Cause { site: old.site, version: kept, hlc });
    }
    // Nobody knows what the new id has seen: its first version says all of it.
    if kept < old.version {
        let seen = "INSERT INTO isle_seen(author, site, version, hlc)
                    SELECT ?2, site, version, hlc FROM isle_seen WHERE author = ?1 AND site <> ?2 ON CONFLICT DO NOTHING";
        conn.execute(seen, params![old.no, no]).doing("carry over what was seen")?;
        for cause in &first {
            note_seen(conn, no, site_no(conn, cause.site)?, cause.version, cause.hlc.bits())?;
        }
    }
    conn.execute("DELETE FROM isle_seen WHERE author = ?1", [old.no]).doing("carry over what was seen")?;
    for cause in first.iter().filter(|cause| cause.site != old.site) {
        note_seen(conn, old.no, site_no(conn, cause.site)?, cause.version, cause.hlc.bits())?;
    }
    own.site = site;
    own.no = no;
    own.version = 0;
    own.chain = Default::default();
    own.causes_told = false;
    crate::proofs::keep_for(conn, old.no, kept)?;
    let unsent = crate::kinds::unsent(conn, &old, kept + 1..=old.version, &engine.tables)?;
    move_versions(conn, &mut own, &source, first)?;
    for tracked in engine.tables.iter().filter(|tracked| !tracked.kinds.is_empty()) {
        unsent.move_to(conn, tracked, (old.no, no, hlc.bits()))?;
    }
    let tied = is_tied(conn, &own, &engine.tables)?;
    tracing::warn!(old = %old.site, new = %site, kept, moved = old.version - kept, "took a new site id");
    engine.own = Some(own);
    if tied {
        merge_again(engine)?;
    }
    crate::repair::owe_claims(&engine.conn)?;
    engine.repair().map(|_| ())
}

/// Whether a version of the site has the very time of another site's, as all baselines have: the ids decided there, and they are others
/// now.
fn is_tied(conn: &Connection, own: &Own, tables: &[Arc<Tracked>]) -> Result<bool, StoreError> {
    for tracked in tables {
        let baselines = crate::layout::baselines(conn, tracked.no)?;
        if baselines.contains_key(&own.no) && baselines.len() > 1 {
            return Ok(true);
        }
    }
    let sql = "SELECT 1 FROM isle_log AS mine JOIN isle_log AS other ON other.hlc = mine.hlc
               WHERE mine.id BETWEEN ?1 AND ?2 AND NOT other.id BETWEEN ?1 AND ?2 LIMIT 1";
    let range = params![log_id(own.no, 0), log_id(own.no + 1, 0) - 1];
    Ok(crate::clocks::one::<i64>(conn, sql, range)?.is_some())
}

/// Merges the log once more: with the new id, other writes win.
fn merge_again(engine: &mut Engine) -> Result<(), StoreError> {
    if let Err(error) = crate::track::refuse_short_log(&engine.conn) {
        tracing::warn!(%error, "writes of the very same time as another device's may differ from what others show");
        return Ok(());
    }
    let settled = engine.settle()?;
    let last = engine.own()?.version;
    let told = crate::clocks::one::<i64>(&engine.conn, "SELECT coalesce(max(id), 0) FROM isle_conflict", [])?;
    for tracked in engine.tables.clone() {
        crate::log::replay(engine, tracked.table.id, last, &settled)?;
    }
    // What lost before loses again; the journal has it.
    let sql = "DELETE FROM isle_conflict WHERE id > ?1 AND EXISTS (SELECT 1 FROM isle_conflict AS o WHERE o.id <= ?1
                 AND o.t = isle_conflict.t AND o.k = isle_conflict.k AND o.col = isle_conflict.col
                 AND o.h = isle_conflict.h AND o.value IS isle_conflict.value)";
    engine.conn.execute(sql, [told.unwrap_or(0)]).doing("merge the log again")?;
    Ok(())
}

/// Versions of a site's local number.
struct Source {
    no: i64,
    from: u64,
    to: u64,
}

/// What a site had said that it had seen when it wrote `version`, which is in the log as those up to `last` are.
pub(crate) fn told_up_to(conn: &Connection, no: i64, version: u64, last: u64) -> Result<Vec<Cause>, StoreError> {
    let mut told = told_before(conn, &Source { no, from: version, to: last })?;
    if let Some((header, _)) = header_of(conn, no, version)? {
        told.extend(header.causes);
    }
    Ok(told)
}

/// What a site had said that it had seen before the first of these versions, as far as that is still known.
fn told_before(conn: &Connection, source: &Source) -> Result<Vec<Cause>, StoreError> {
    let mut raised = HashSet::new();
    for version in source.from..=source.to {
        if let Some((header, _)) = header_of(conn, source.no, version)? {
            raised.extend(header.causes.iter().map(|cause| cause.site));
        }
    }
    let sql =
        "SELECT s.id, v.version, v.hlc FROM isle_seen AS v JOIN isle_site AS s ON s.no = v.site WHERE v.author = ?1";
    let mut statement = conn.prepare(sql).doing("read what was seen")?;
    let told = statement.query_map([source.no], |row| {
        let hlc = Hlc::from_bits(row.get::<_, i64>(2)? as u64).unwrap_or(Hlc::ZERO);
        Ok(Cause { site: SiteId::from_bytes(row.get(0)?), version: row.get::<_, i64>(1)? as u64, hlc })
    });
    let told: Vec<Cause> = told.doing("read what was seen")?.collect::<Result<_, _>>().doing("read what was seen")?;
    let mut before: Vec<Cause> = told.into_iter().filter(|cause| !raised.contains(&cause.site)).collect();
    // Of what these versions raised, an earlier one may have said less.
    for version in (1..source.from).rev() {
        if raised.is_empty() {
            break;
        }
        let Some((header, _)) = header_of(conn, source.no, version)? else { break };
        before.extend(header.causes.into_iter().filter(|cause| raised.remove(&cause.site)));
    }
    Ok(before)
}

/// Writes the headers `from..` again with the site's present group; the bodies stay.
fn seal_again(conn: &Connection, own: &mut Own, from: u64) -> Result<(), StoreError> {
    let source = Source { no: own.no, from, to: own.version };
    own.version = from - 1;
    own.chain = state_at(conn, own.no, from - 1)?.map_or_else(Default::default, |(_, chain)| chain);
    move_versions(conn, own, &source, Vec::new())
}

fn move_versions(conn: &Connection, own: &mut Own, source: &Source, mut first: Vec<Cause>) -> Result<(), StoreError> {
    for version in source.from..=source.to {
        let Some((mut header, _)) = header_of(conn, source.no, version)? else { continue };
        header.group = own.group;
        header.site = own.site;
        header.version = own.version + 1;
        header.previous = own.chain;
        header.causes.retain(|cause| cause.site != own.site);
        for cause in first.drain(..).filter(|cause| cause.site != own.site) {
            if !header.causes.iter().any(|known| known.site == cause.site) {
                header.causes.push(cause);
            }
        }
        header.causes.sort_by_key(|cause| cause.site);
        let encoded = header.encode();
        let (old, new) = (log_id(source.no, version), log_id(own.no, header.version));
        conn.execute("UPDATE isle_log SET id = ?2, header = ?3 WHERE id = ?1", params![old, new, encoded])
            .doing("seal a version again")?;
        conn.execute("UPDATE isle_block SET id = ?2 WHERE id = ?1", params![old, new]).doing("seal a version again")?;
        if source.no != own.no {
            for tracked in crate::engine::load_tables(conn)? {
                // Cells of every baseline carry time 0: only this version's tables move.
                let here = crate::layout::baselines(conn, tracked.no)?.get(&source.no) == Some(&version);
                if !header.baseline || here {
                    move_stamps(conn, &tracked, source.no, own.no, header.cell_hlc())?;
                }
                if header.baseline && here {
                    crate::layout::set_baseline(conn, tracked.no, own.no, header.version)?;
                }
            }
        }
        own.version = header.version;
        own.chain = Header::hash(&encoded);
    }
    Ok(())
}

/// Cells that were stamped by a version move with it to the new site number.
fn move_stamps(conn: &Connection, tracked: &Arc<Tracked>, from: i64, to: i64, hlc: Hlc) -> Result<(), StoreError> {
    let table = tracked.clock();
    let hlc = hlc.bits() as i64;
    let sql = format!("UPDATE {table} SET w = w - ?1 + ?2 WHERE w & {SITE_MASK} = ?1 AND h = ?3");
    conn.execute(&sql, params![from, to, hlc]).doing("move row clocks")?;
    let keys = tracked.clock_key().join(", ");
    let mut statement =
        conn.prepare(&format!("SELECT h, w, x, {keys} FROM {table} WHERE x IS NOT NULL")).doing("move row clocks")?;
    let mut rows = statement.query([]).doing("move row clocks")?;
    let mut moved = Vec::new();
    while let Some(row) = rows.next().doing("move row clocks")? {
        let Some(mut clock) = crate::clocks::RowClock::read(row, 0, tracked)? else { continue };
        let mut touched = false;
        for (_, stamp) in &mut clock.exceptions {
            if stamp.site == from && stamp.hlc == hlc as u64 {
                stamp.site = to;
                touched = true;
            }
        }
        if touched {
            let key = (0..tracked.table.key.len())
                .map(|n| row.get_ref(CLOCK_FIELDS + n).map(|value| crate::clocks::from_sql(value).to_value()));
            moved.push((key.collect::<Result<Vec<_>, _>>().doing("move row clocks")?, clock));
        }
    }
    drop(rows);
    let mut clocks = crate::clocks::ClockTable::open(conn, tracked);
    for (key, clock) in moved {
        let key: Vec<_> = key.iter().map(isle_changeset::Value::as_ref).collect();
        clocks.update(&key, &clock)?;
    }
    Ok(())
}

fn header_of(conn: &Connection, no: i64, version: u64) -> Result<Option<(Header, Vec<u8>)>, StoreError> {
    let sql = "SELECT header FROM isle_log WHERE id = ?1";
    let Some(encoded) = crate::clocks::one::<Vec<u8>>(conn, sql, [log_id(no, version)])? else { return Ok(None) };
    let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
    Ok(Some((header, encoded)))
}
