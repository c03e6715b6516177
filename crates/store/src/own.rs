//! What a site must know of itself to write its next version.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use isle_changeset::{Cause, Hash, Header};
use isle_clock::{Clock, GroupId, Hlc, SiteId};
use isle_schema::{Migration, MigrationError, MigrationId, Version};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::StoreError;
use crate::error::Doing as _;
use crate::layout::{log_id, require_meta, version_of};

/// The site's own state, read at the start of a write transaction.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) group: GroupId,
    pub(crate) site: SiteId,
    /// The site's local number.
    pub(crate) no: i64,
    /// The site's id is a device's: what others write has to be signed by theirs.
    pub(crate) signed: bool,
    /// Its last version.
    pub(crate) version: u64,
    /// The hash of that version's header.
    pub(crate) chain: Hash,
    /// The largest time issued or seen.
    pub(crate) clock: Clock,
    pub(crate) heads: Vec<MigrationId>,
    /// Nothing of other sites was applied since the last own version.
    pub(crate) causes_told: bool,
    /// The collection floor did not rise since the last own version.
    pub(crate) floor_told: bool,
    /// The version that an app must have to write, where the app here is older, and its version.
    pub(crate) too_new: Option<(Version, Version)>,
    /// The first own version with updates that the row clocks do not show yet (see `settle`).
    pub(crate) unsettled: Cell<Option<u64>>,
}

impl Own {
    pub(crate) fn load(conn: &Connection) -> Result<Own, StoreError> {
        let no: i64 = require_meta(conn, "site")?;
        let group = GroupId::from_bytes(require_meta(conn, "group")?);
        let site = site_id(conn, no)?;
        let sql = "SELECT id, hlc, header FROM isle_log WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT 1";
        let mut statement = conn.prepare_cached(sql).doing("read the site's last version")?;
        let range = params![log_id(no, 0), log_id(no + 1, 0) - 1];
        let last = statement.query_row(range, |row| {
            let header: Vec<u8> = row.get(2)?;
            Ok((version_of(row.get(0)?), row.get::<_, i64>(1)?, Header::hash(&header)))
        });
        let last = last.optional().doing("read the site's last version")?;
        // Pruned: the log begins behind what the row of the site says.
        let (version, own_hlc, chain) = match last {
            Some(last) => last,
            None => base(conn, no)?
                .map_or_else(Default::default, |(version, hlc, chain)| (version, hlc.bits() as i64, chain)),
        };
        let seen = crate::clocks::one::<i64>(conn, "SELECT coalesce(max(hlc), 0) FROM isle_site", [])?.unwrap_or(0);
        let floor: i64 = crate::layout::meta(conn, "hlc")?.unwrap_or(0);
        let last = Hlc::from_bits(own_hlc.max(seen).max(floor) as u64).unwrap_or(Hlc::ZERO);
        Ok(Own {
            group,
            site,
            no,
            signed: crate::layout::meta::<[u8; 16]>(conn, crate::layout::SITE_NONCE)?.is_some(),
            version,
            chain,
            clock: Clock::resume(last),
            heads: known_heads(conn)?,
            causes_told: false,
            floor_told: crate::layout::meta::<i64>(conn, "floor told")?.is_none(),
            too_new: crate::pending::too_new(conn)?,
            unsettled: Cell::new(crate::settle::unsettled(conn)?),
        })
    }
}

/// The state that is recorded of a site itself: what was applied of it or, of the own site, up to where the log was pruned.
pub(crate) fn base(conn: &Connection, no: i64) -> Result<Option<(u64, Hlc, Hash)>, StoreError> {
    let sql = "SELECT version, hlc, chain FROM isle_site WHERE no = ?1 AND version > 0";
    let mut statement = conn.prepare_cached(sql).doing("read the state of a site")?;
    let found = statement.query_row([no], |row| {
        let hlc = Hlc::from_bits(row.get::<_, i64>(1)? as u64).unwrap_or(Hlc::ZERO);
        Ok((row.get::<_, i64>(0)? as u64, hlc, row.get::<_, Option<[u8; 32]>>(2)?.unwrap_or_default()))
    });
    found.optional().doing("read the state of a site")
}

/// Time and hash of a version, from the log or from what is recorded of its site.
pub(crate) fn state_at(conn: &Connection, no: i64, version: u64) -> Result<Option<(Hlc, Hash)>, StoreError> {
    let sql = "SELECT header FROM isle_log WHERE id = ?1";
    if let Some(encoded) = crate::clocks::one::<Vec<u8>>(conn, sql, [log_id(no, version)])? {
        let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
        return Ok(Some((header.hlc, Header::hash(&encoded))));
    }
    Ok(base(conn, no)?.filter(|base| base.0 == version).map(|(_, hlc, chain)| (hlc, chain)))
}

/// Sites that a file can know: their numbers are the upper bits of log ids.
const SITES_MAX: i64 = 1 << 18;

/// The id of a site by its local number.
pub(crate) fn site_id(conn: &Connection, no: i64) -> Result<SiteId, StoreError> {
    let id = crate::clocks::one::<[u8; 16]>(conn, "SELECT id FROM isle_site WHERE no = ?1", [no])?;
    id.map(SiteId::from_bytes)
        .ok_or_else(|| StoreError::Internal { table: "isle_site", detail: format!("no site {no}") })
}

/// The local number of a site; a new one if it was never heard of.
pub(crate) fn site_no(conn: &Connection, site: SiteId) -> Result<i64, StoreError> {
    if let Some(no) = known_site_no(conn, site)? {
        return Ok(no);
    }
    conn.execute("INSERT INTO isle_site(id, version, hlc) VALUES(?1, 0, 0)", [site.as_bytes()])
        .doing("record a site")?;
    let no = conn.last_insert_rowid();
    if no > SITES_MAX {
        return Err(StoreError::Internal { table: "isle_site", detail: format!("more than {SITES_MAX} sites") });
    }
    Ok(no)
}

/// The local number of a site that was heard of.
pub(crate) fn known_site_no(conn: &Connection, site: SiteId) -> Result<Option<i64>, StoreError> {
    crate::clocks::one(conn, "SELECT no FROM isle_site WHERE id = ?1", [site.as_bytes()])
}

/// What was applied of other sites since the own last version; notes it as said.
pub(crate) fn take_causes(conn: &Connection, own: &mut Own) -> Result<Vec<Cause>, StoreError> {
    if own.causes_told {
        return Ok(Vec::new());
    }
    own.causes_told = true;
    let sql = "SELECT s.no, s.id, s.version, s.hlc FROM isle_site AS s
               LEFT JOIN isle_seen AS v ON v.author = ?1 AND v.site = s.no
               WHERE s.no <> ?1 AND s.version > coalesce(v.version, 0) ORDER BY s.id";
    let mut statement = conn.prepare_cached(sql).doing("collect causes")?;
    let rows = statement.query_map([own.no], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
    });
    let rows: Vec<_> = rows.doing("collect causes")?.collect::<Result<_, _>>().doing("collect causes")?;
    let mut causes = Vec::with_capacity(rows.len());
    for (no, id, version, hlc) in rows {
        note_seen(conn, own.no, no, version as u64, hlc as u64)?;
        let hlc = Hlc::from_bits(hlc as u64).unwrap_or(Hlc::ZERO);
        causes.push(Cause { site: SiteId::from_bytes(id), version: version as u64, hlc });
    }
    Ok(causes)
}

/// Records that an author had seen a site up to a version.
pub(crate) fn note_seen(conn: &Connection, author: i64, site: i64, version: u64, hlc: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO isle_seen(author, site, version, hlc) VALUES(?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE
               SET version = max(version, excluded.version), hlc = max(hlc, excluded.hlc)";
    let mut statement = conn.prepare_cached(sql).doing("record causes")?;
    statement.execute(params![author, site, version as i64, hlc as i64]).doing("record causes")?;
    Ok(())
}

/// The heads as noted by [`note_heads`].
fn known_heads(conn: &Connection) -> Result<Vec<MigrationId>, StoreError> {
    let packed: Vec<u8> = crate::layout::meta(conn, "heads")?.unwrap_or_default();
    let (heads, rest) = packed.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(StoreError::Internal { table: "isle_meta", detail: "schema heads".to_owned() });
    }
    Ok(heads.iter().map(|id| MigrationId::from_bytes(*id)).collect())
}

/// Notes the heads after an operation was recorded, so that a seal need not read every operation.
pub(crate) fn note_heads(conn: &Connection) -> Result<Vec<MigrationId>, StoreError> {
    let heads = heads(conn, true)?;
    let packed: Vec<u8> = heads.iter().flat_map(|id| *id.as_bytes()).collect();
    crate::layout::set_meta(conn, "heads", packed)?;
    Ok(heads)
}

/// Schema operations that are not among `known`, applied or not, parents before children, each with its id.
pub(crate) fn operations_beyond(
    conn: &Connection,
    known: &BTreeSet<[u8; 16]>,
) -> Result<Vec<(MigrationId, Vec<u8>)>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT id, body FROM isle_migration").doing("read schema operations")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let mut left: BTreeMap<MigrationId, (Vec<MigrationId>, Vec<u8>)> = BTreeMap::new();
    for row in rows.doing("read schema operations")? {
        let (id, body) = row.doing("read schema operations")?;
        if !known.contains(&id) {
            left.insert(MigrationId::from_bytes(id), (parents(&body)?, body));
        }
    }
    let mut children: BTreeMap<MigrationId, Vec<MigrationId>> = BTreeMap::new();
    let mut open: BTreeMap<MigrationId, usize> = BTreeMap::new();
    for (id, (parents, _)) in &left {
        let here: BTreeSet<&MigrationId> = parents.iter().filter(|parent| left.contains_key(*parent)).collect();
        open.insert(*id, here.len());
        here.into_iter().for_each(|parent| children.entry(*parent).or_default().push(*id));
    }
    let mut ready: Vec<MigrationId> = open.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
    let mut ordered = Vec::with_capacity(left.len());
    while let Some(id) = ready.pop() {
        ordered.extend(left.remove(&id).map(|(_, body)| (id, body)));
        for child in children.remove(&id).unwrap_or_default() {
            let count = open.entry(child).or_insert(1);
            *count -= 1;
            if *count == 0 {
                ready.push(child);
            }
        }
    }
    Ok(ordered)
}

/// What an operation follows, as far as this isle can read it.
fn parents(body: &[u8]) -> Result<Vec<MigrationId>, StoreError> {
    match Migration::decode(body) {
        Ok((_, migration)) => Ok(migration.parents),
        Err(MigrationError::Newer { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Operations that no other operation names as a parent, rising by id: of all that are here, or of those that are applied.
pub(crate) fn heads(conn: &Connection, applied: bool) -> Result<Vec<MigrationId>, StoreError> {
    let sql = "SELECT id, body FROM isle_migration WHERE state = 'applied' OR NOT ?1";
    let mut statement = conn.prepare_cached(sql).doing("read schema operations")?;
    let mut rows = statement.query([applied]).doing("read schema operations")?;
    let (mut all, mut followed) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next().doing("read schema operations")? {
        let body: Vec<u8> = row.get(1).doing("read schema operations")?;
        all.push(MigrationId::from_bytes(row.get(0).doing("read schema operations")?));
        followed.extend(parents(&body)?);
    }
    all.retain(|id| !followed.contains(id));
    all.sort_unstable();
    Ok(all)
}
