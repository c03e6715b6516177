//! What need not be kept: changesets that everybody can have from elsewhere, and tombstones that everybody has seen.
//!
//! * **The log** may lose what was handed over: a replica that asks for it later gets a snapshot. The row of the own site in
//!   `isle_site` then says where the log begins.
//! * **Tombstones** may go when no changeset can come any more whose author had not seen the delete. The collection floor is
//!   a version vector below which that holds; the driver finds it out, `isle_floor` records it, and the next own changeset
//!   names it. Whoever applies that changeset collects first, so that a row that is made again begins with the same causal length
//!   everywhere. (A replica that has not collected yet may make it again with a larger one: of concurrent lives another wins then than
//!   without the collection, but the same everywhere.) A changeset whose author had not seen what the floor covers is refused.

use std::sync::Arc;

use isle_changeset::{Cause, Hash, Header};
use isle_clock::{Hlc, SiteId, VersionVector};
use isle_identity::DeviceKey;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::clocks::{SITE_MASK, alive};
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::log_id;
use crate::own::{Own, base, known_site_no, state_at};
use crate::tracked::Tracked;
use crate::{Store, StoreError, identity, layout, peers};

/// What a compaction took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Changesets that left the log.
    pub versions: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tombstones that were collected.
    pub tombstones: u64,
}

impl Store {
    /// Takes changesets of before `before` out of the log that others can have from a snapshot; see [`Compacted`].
    ///
    /// # Errors
    /// [`StoreError::TablesAway`], or SQLite's reason.
    pub fn prune_log(&self, before: Hlc) -> Result<Compacted, StoreError> {
        self.merge(|engine, _| prune(engine, before))
    }

    /// Collects tombstones of deletes that every device has applied, up to `vector`; gives how many. The next own changeset names
    /// the floor, and others collect when they apply it.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn collect(&self, vector: &VersionVector) -> Result<u64, StoreError> {
        self.merge(|engine, _| collect_below(engine, vector))
    }

    /// Up to where this replica knows that everything can be collected.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn floor(&self) -> Result<VersionVector, StoreError> {
        self.snapshot(|conn| Ok(floor(conn)?.iter().map(|cause| (cause.site, cause.version)).collect()))
    }

    /// Retires sites: nobody waits for what they acknowledge any more, and nothing of them counts beyond the given version or what is
    /// applied here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn retire(&self, sites: &[(SiteId, u64)]) -> Result<(), StoreError> {
        self.merge(|engine, _| {
            engine.plan = None;
            retire(&engine.conn, sites)
        })
    }

    /// Retired sites with the last version of each that counts, rising by site.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn retired(&self) -> Result<Vec<(SiteId, u64)>, StoreError> {
        self.snapshot(retired)
    }

    /// Takes a new site id if the own one is retired: what nobody else had of it moves to the new one. `None` if it is not.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn leave_retired_site(&self, owner: Option<DeviceKey>) -> Result<Option<SiteId>, StoreError> {
        let random = self.random();
        let site = peers::site_of(owner.as_ref(), random);
        let mut left = None;
        self.merge(|engine, _| {
            let own = layout::require_meta::<i64>(&engine.conn, "site")?;
            let cut = "SELECT version FROM isle_retired WHERE site = ?1";
            let cut = engine
                .conn
                .query_row(cut, [own], |row| row.get::<_, i64>(0))
                .optional()
                .doing("look at retired sites")?;
            let Some(cut) = cut else { return Ok(()) };
            identity::new_site_after(engine, site, cut as u64)?;
            left = Some(site);
            peers::note_nonce(&engine.conn, owner.as_ref(), random)
        })?;
        Ok(left)
    }

    /// The hash of an own version; `None` for those before the log's first, except the last of them.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn own_chain(&self, version: u64) -> Result<Option<Hash>, StoreError> {
        self.snapshot(|conn| {
            let no: i64 = layout::require_meta(conn, "site")?;
            Ok(state_at(conn, no, version)?.map(|(_, chain)| chain))
        })
    }

    /// The first version of a site from which on the log holds every one that is applied; one beyond those if it holds none.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn log_start(&self, site: SiteId) -> Result<u64, StoreError> {
        self.snapshot(|conn| crate::log::start(conn, site))
    }

    /// Whether unpublished versions were written in ignorance of what the group has collected since, or may have collected: `others` is
    /// a vector that the rest of the group has acknowledged.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn is_below_floor(&self, others: &VersionVector) -> Result<bool, StoreError> {
        self.snapshot(|conn| crate::restate::is_below_floor(conn, others))
    }

    /// Replaces the unpublished versions by one that holds what is left of them, written in the knowledge of all that is here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn restate(&self) -> Result<(), StoreError> {
        self.merge(crate::restate::restate)
    }

    /// Stamps unpublished changes anew if they alone are further ahead of this device's clock than the drift bound: it ran fast when
    /// they were written, and others would hold them back. Gives the number of versions replaced.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn bring_back_clock(&self) -> Result<u64, StoreError> {
        self.merge(|engine, now_ms| crate::restate::bring_back_clock(engine, now_ms, self.options()))
    }

    /// Whether the file has all of what is merged into it, so that a snapshot of it can be made.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn is_whole(&self) -> Result<bool, StoreError> {
        self.snapshot(|conn| match refuse_away(conn, &crate::engine::load_tables(conn)?) {
            Ok(()) => Ok(true),
            Err(StoreError::TablesAway { .. } | StoreError::Parked { .. }) => Ok(false),
            Err(error) => Err(error),
        })
    }

    /// How many tombstones there are.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn tombstones(&self) -> Result<u64, StoreError> {
        self.snapshot(tombstones)
    }

    /// Gives free pages back to the file system. Takes as much room again while it runs, and may give new rowids to rows of tables
    /// without an INTEGER PRIMARY KEY; full-text tables that go by them are filled again.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn vacuum(&self) -> Result<(), StoreError> {
        self.with_merge_engine(|engine| {
            engine.conn.execute_batch("VACUUM").doing("vacuum the file")?;
            crate::objects::fill_by_rowid(&engine.conn)?;
            engine.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).doing("write back the log")
        })
    }

    /// Whether a version of this site is the one that was written here. True for versions before the first that is still known.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn wrote(&self, version: u64, chain: Hash) -> Result<bool, StoreError> {
        self.snapshot(|conn| {
            let no: i64 = layout::require_meta(conn, "site")?;
            let base = base(conn, no)?.map_or(0, |base| base.0);
            let known = state_at(conn, no, version)?;
            Ok(version == 0 || version < base || known.is_some_and(|(_, known)| known == chain))
        })
    }
}

impl Store {
    /// Whether a version of this site, by its header, is the one that was written here; false for one that the log has no more.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn wrote_header(&self, version: u64, header: &[u8]) -> Result<bool, StoreError> {
        let hash = Header::hash(header);
        self.snapshot(|conn| {
            let no: i64 = layout::require_meta(conn, "site")?;
            Ok(state_at(conn, no, version)?.is_some_and(|(_, known)| known == hash))
        })
    }
}

/// Refuses when a table that was tracked is not there, or one that others have: the log holds what it misses, and a snapshot would lack it.
pub(crate) fn refuse_away(conn: &Connection, tables: &[Arc<Tracked>]) -> Result<(), StoreError> {
    let sql = "SELECT v FROM isle_meta WHERE k > 'table ' AND k < 'table!'";
    let mut statement = conn.prepare_cached(sql).doing("look for tables that are away")?;
    let known = statement.query_map([], |row| row.get::<_, i64>(0)).doing("look for tables that are away")?;
    let mut away = 0;
    for no in known {
        let no = no.doing("look for tables that are away")?;
        away += usize::from(!tables.iter().any(|tracked| tracked.no == no));
    }
    match (away, crate::parked::count(conn)?) {
        (0, 0) => Ok(()),
        (0, count) => Err(StoreError::Parked { count }),
        (count, _) => Err(StoreError::TablesAway { count }),
    }
}

/// Takes changesets out of the log that were made before `before` and are known elsewhere: the own ones that were published and
/// those of others that are applied.
pub(crate) fn prune(engine: &Engine, before: Hlc) -> Result<Compacted, StoreError> {
    let conn = &engine.conn;
    refuse_away(conn, &engine.tables)?;
    // The log is the clock of what is owed.
    engine.settle()?;
    let own = engine.own()?;
    let mut statement = conn.prepare("SELECT no, version FROM isle_site").doing("prune the log")?;
    let sites = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)? as u64)));
    let sites: Vec<(i64, u64)> = sites.doing("prune the log")?.collect::<Result<_, _>>().doing("prune the log")?;
    let mut compacted = Compacted::default();
    for (no, applied) in sites {
        let last = if no == own.no { identity::published(conn)? } else { applied };
        let range = params![log_id(no, 0), log_id(no, last), before.bits() as i64];
        let sql = "SELECT id FROM isle_log WHERE id BETWEEN ?1 AND ?2 AND hlc < ?3 ORDER BY id DESC LIMIT 1";
        let Some(until) = crate::clocks::one::<i64>(conn, sql, range)? else { continue };
        if no == own.no {
            let version = layout::version_of(until);
            let (hlc, chain) = state_at(conn, no, version)?
                .ok_or_else(|| StoreError::Internal { table: "isle_log", detail: format!("no version {version}") })?;
            let sql = "UPDATE isle_site SET version = ?2, hlc = ?3, chain = ?4 WHERE no = ?1";
            conn.execute(sql, params![no, version as i64, hlc.bits() as i64, chain]).doing("prune the log")?;
        }
        let range = params![log_id(no, 0), until];
        let sizes = "SELECT count(*), coalesce(sum(length(header) + coalesce(length(body), 0)), 0) FROM isle_log
                     WHERE id BETWEEN ?1 AND ?2";
        let (versions, bytes): (i64, i64) =
            conn.query_row(sizes, range, |row| Ok((row.get(0)?, row.get(1)?))).doing("prune the log")?;
        let blocks = "SELECT sum(length(body)) FROM isle_block WHERE id BETWEEN ?1 AND ?2";
        let blocks = crate::clocks::one::<Option<i64>>(conn, blocks, range)?.flatten().unwrap_or(0);
        conn.execute("DELETE FROM isle_log WHERE id BETWEEN ?1 AND ?2", range).doing("prune the log")?;
        conn.execute("DELETE FROM isle_block WHERE id BETWEEN ?1 AND ?2", range).doing("prune the log")?;
        crate::proofs::prune(conn, no, crate::layout::version_of(until))?;
        compacted.versions += versions as u64;
        compacted.bytes += (bytes + blocks) as u64;
    }
    Ok(compacted)
}

/// The collection floor, as far as it is known here.
pub(crate) fn floor(conn: &Connection) -> Result<Vec<Cause>, StoreError> {
    let sql = "SELECT s.id, f.version, f.hlc FROM isle_floor AS f JOIN isle_site AS s ON s.no = f.site ORDER BY s.id";
    let mut statement = conn.prepare_cached(sql).doing("read the collection floor")?;
    let rows = statement.query_map([], |row| {
        let hlc = Hlc::from_bits(row.get::<_, i64>(2)? as u64).unwrap_or(Hlc::ZERO);
        Ok(Cause { site: SiteId::from_bytes(row.get(0)?), version: row.get::<_, i64>(1)? as u64, hlc })
    });
    rows.doing("read the collection floor")?.collect::<Result<_, _>>().doing("read the collection floor")
}

/// Notes that everything of a site up to a version is below the floor; false if that was known.
pub(crate) fn raise_floor(conn: &Connection, no: i64, version: u64, hlc: u64) -> Result<bool, StoreError> {
    let sql = "INSERT INTO isle_floor(site, version, hlc) VALUES(?1, ?2, ?3) ON CONFLICT DO UPDATE
               SET version = excluded.version, hlc = excluded.hlc WHERE excluded.version > version";
    let raised = conn.execute(sql, params![no, version as i64, hlc as i64]).doing("raise the collection floor")?;
    Ok(raised == 1)
}

/// Lets the next own changeset name the floor: others may not know it, as it did not come with a changeset that is among its causes.
pub(crate) fn tell_floor(conn: &Connection) -> Result<(), StoreError> {
    layout::set_meta(conn, "floor told", 0)
}

/// Raises the floor to what an author names, and collects what is below it.
pub(crate) fn collect(engine: &Engine, raised: &[Cause]) -> Result<u64, StoreError> {
    let conn = &engine.conn;
    for cause in raised {
        let no = crate::own::site_no(conn, cause.site)?;
        raise_floor(conn, no, cause.version, cause.hlc.bits())?;
    }
    let mut tombstones = 0;
    for tracked in &engine.tables {
        let collected = format!(
            "FROM {} WHERE NOT ({}) AND h <= (SELECT hlc FROM isle_floor WHERE site = w & {SITE_MASK})",
            tracked.clock(),
            alive("")
        );
        crate::parked::note_gone(conn, tracked, &collected)?;
        let sql = format!("DELETE {collected}");
        tombstones += conn.execute(&sql, []).doing("collect tombstones")? as u64;
        crate::companion::forget_collected(conn, tracked)?;
    }
    tracing::info!(tombstones, "collected below the floor");
    Ok(tombstones)
}

/// Raises the floor to a vector that the driver found, collects, and lets the next own changeset name it. Versions of which the time
/// is not known any more count as the last before them of which it is.
pub(crate) fn collect_below(engine: &mut Engine, vector: &VersionVector) -> Result<u64, StoreError> {
    let conn = &engine.conn;
    let own = engine.own()?;
    let mut raised = Vec::new();
    for (site, version) in vector.iter() {
        let Some(no) = known_site_no(conn, site)? else { continue };
        let Some((version, hlc)) = time_of(conn, &own, no, version)? else { continue };
        let sql = "SELECT version FROM isle_floor WHERE site = ?1";
        let known = crate::clocks::one::<i64>(conn, sql, [no])?.unwrap_or(0) as u64;
        if version > known {
            raised.push(Cause { site, version, hlc });
        }
    }
    if raised.is_empty() {
        return Ok(0);
    }
    let tombstones = collect(engine, &raised)?;
    tell_floor(conn)?;
    if let Some(own) = &mut engine.own {
        own.floor_told = false;
    }
    Ok(tombstones)
}

/// The last version up to this one that is applied here and of which the time is known.
fn time_of(conn: &Connection, own: &Own, no: i64, version: u64) -> Result<Option<(u64, Hlc)>, StoreError> {
    let applied = if no == own.no { own.version } else { base(conn, no)?.map_or(0, |base| base.0) };
    let version = version.min(applied);
    if let Some((hlc, _)) = state_at(conn, no, version)? {
        return Ok(Some((version, hlc)));
    }
    let sql = "SELECT version, hlc FROM isle_seen WHERE site = ?1 AND version <= ?2 ORDER BY version DESC LIMIT 1";
    let found = conn.query_row(sql, params![no, version as i64], |row| {
        Ok((row.get::<_, i64>(0)? as u64, Hlc::from_bits(row.get::<_, i64>(1)? as u64).unwrap_or(Hlc::ZERO)))
    });
    found.optional().doing("look for the time of a version")
}

/// Sites that were retired, with the last version of each that counts.
pub(crate) fn retired(conn: &Connection) -> Result<Vec<(SiteId, u64)>, StoreError> {
    let sql = "SELECT s.id, r.version FROM isle_retired AS r JOIN isle_site AS s ON s.no = r.site ORDER BY s.id";
    let mut statement = conn.prepare_cached(sql).doing("read the retired sites")?;
    let rows = statement.query_map([], |row| Ok((SiteId::from_bytes(row.get(0)?), row.get::<_, i64>(1)? as u64)));
    rows.doing("read the retired sites")?.collect::<Result<_, _>>().doing("read the retired sites")
}

/// Retires sites at a version each, or at what is applied here if that is more: what somebody has merged counts for all.
pub(crate) fn retire(conn: &Connection, sites: &[(SiteId, u64)]) -> Result<(), StoreError> {
    for (site, version) in sites {
        let no = crate::own::site_no(conn, *site)?;
        let version = base(conn, no)?.map_or(0, |base| base.0).max(*version);
        let sql = "INSERT INTO isle_retired(site, version) VALUES(?1, ?2) ON CONFLICT DO UPDATE
                   SET version = max(version, excluded.version)";
        conn.execute(sql, params![no, version as i64]).doing("retire a site")?;
    }
    Ok(())
}

/// The last version of a site that counts, if it was retired.
pub(crate) fn retired_at(conn: &Connection, no: i64) -> Result<Option<u64>, StoreError> {
    let sql = "SELECT version FROM isle_retired WHERE site = ?1";
    Ok(crate::clocks::one::<i64>(conn, sql, [no])?.map(|version| version as u64))
}

/// The floor for the header of the next own version, if it rose since the last.
pub(crate) fn take_floor(conn: &Connection, own: &mut Own) -> Result<Vec<Cause>, StoreError> {
    if own.floor_told {
        return Ok(Vec::new());
    }
    own.floor_told = true;
    conn.execute("DELETE FROM isle_meta WHERE k = 'floor told'", []).doing("name the collection floor")?;
    floor(conn)
}

/// The number of tombstones.
pub(crate) fn tombstones(conn: &Connection) -> Result<u64, StoreError> {
    let mut count = 0;
    for tracked in crate::engine::load_tables(conn)? {
        let sql = format!("SELECT count(*) FROM {} WHERE NOT ({})", tracked.clock(), alive(""));
        count += crate::clocks::one::<i64>(conn, &sql, [])?.unwrap_or(0) as u64;
    }
    Ok(count)
}

/// The part of the floor that the author of a changeset had not seen: it may bring back what was collected.
pub(crate) fn unseen_floor(conn: &Connection, header: &Header) -> Result<Option<Cause>, StoreError> {
    let Some(author) = known_site_no(conn, header.site)? else { return Ok(floor(conn)?.into_iter().next()) };
    for cause in floor(conn)? {
        let told = header.causes.iter().any(|other| other.site == cause.site && other.version >= cause.version);
        if told || cause.site == header.site {
            continue;
        }
        let Some(no) = known_site_no(conn, cause.site)? else { continue };
        let sql = "SELECT version FROM isle_seen WHERE author = ?1 AND site = ?2";
        let seen = crate::clocks::one::<i64>(conn, sql, params![author, no])?.unwrap_or(0) as u64;
        if seen < cause.version {
            return Ok(Some(cause));
        }
    }
    Ok(None)
}
