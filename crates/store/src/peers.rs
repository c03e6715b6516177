//! What direct sync asks of the file: who belongs to the group, the peers that are known, what a peer lacks, and what is here beyond what
//! is applied.

use std::collections::BTreeSet;

use isle_changeset::{Hash, Header};
use isle_clock::{SiteId, VersionVector};
use isle_identity::{DeviceKey, MemberError, MemberOp, Membership, OpId};
use isle_schema::MigrationId;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::Doing as _;
use crate::layout::{log_id, version_of};
use crate::{Logged, Store, StoreError, handover, layout, log};

/// What is read of a site at once while others have something to send as well, in bytes.
const SITE_BYTES_MIN: usize = 16 << 10;

/// A device that this replica syncs with directly. A local fact: it never leaves the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerRow {
    /// The key of the device.
    pub key: DeviceKey,
    /// What the driver remembers of it, in the driver's own form.
    pub state: String,
}

/// A part of a changeset that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChangeset {
    /// The author.
    pub site: SiteId,
    /// The author's version.
    pub version: u64,
    /// How many of its blocks are here, counted from the first without a gap.
    pub blocks: u32,
}

/// What is here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// What is applied.
    pub applied: VersionVector,
    /// Where the log holds more than that, whole and without a gap: up to which version.
    pub held: VersionVector,
    /// The next version of a site, where a part of it is here.
    pub partial: Vec<PartialChangeset>,
}

/// What somebody lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lacking {
    /// Changesets in an order in which causes come first.
    pub changesets: Vec<(SiteId, Logged)>,
    /// Whether there are more.
    pub more: bool,
    /// Whether something that is applied here is in the log no more.
    pub gap: bool,
    /// What is applied here.
    pub applied: VersionVector,
}

impl Store {
    /// The key and the nonce that this file's own site id is a hash of; `None` if it was drawn otherwise.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn site_nonce(&self) -> Result<Option<[u8; 16]>, StoreError> {
        self.read(|conn| layout::meta(conn, layout::SITE_NONCE))
    }

    /// The nonce that the group's id is a hash of, if the group was founded with this file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn group_nonce(&self) -> Result<Option<[u8; 16]>, StoreError> {
        self.read(|conn| layout::meta(conn, layout::GROUP_NONCE))
    }

    /// The membership operations that are here, encoded, each with its id.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn member_ops(&self) -> Result<Vec<(OpId, Vec<u8>)>, StoreError> {
        self.read(member_ops)
    }

    /// How many membership operations are here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn count_member_ops(&self) -> Result<usize, StoreError> {
        let count = "SELECT count(*) FROM isle_member";
        self.read(|conn| Ok(crate::clocks::one::<i64>(conn, count, [])?.unwrap_or(0) as usize))
    }

    /// Takes membership operations; known ones are passed over. Gives the ids of the new ones.
    ///
    /// # Errors
    /// [`StoreError::Member`] for the first one that is refused: forged, of a device that was never let in, or one too many; then none was taken.
    pub fn put_member_ops(&self, ops: &[&[u8]]) -> Result<Vec<OpId>, StoreError> {
        let group = self.group()?;
        let refused = |source| StoreError::Member { source };
        let ops = ops.iter().map(|op| MemberOp::decode(op, group)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        self.internal(|conn| {
            let known = known_ops(conn, group)?;
            let new: Vec<MemberOp> = ops.into_iter().filter(|op| !known.contains(op)).collect();
            Membership::admit(&known, &new).map_err(refused)?;
            let sql = "INSERT OR IGNORE INTO isle_member(id, body) VALUES(?1, ?2)";
            let mut taken = Vec::new();
            for op in &new {
                if conn.execute(sql, params![op.id(), op.encoded()]).doing("take a membership operation")? > 0 {
                    taken.push(op.id());
                }
            }
            Ok(taken)
        })
    }

    /// Who belongs to the group.
    ///
    /// # Errors
    /// SQLite's reason; [`StoreError::Member`] for an operation in the file that is damaged.
    pub fn membership(&self) -> Result<Membership, StoreError> {
        let group = self.group()?;
        Ok(Membership::fold(&self.read(|conn| known_ops(conn, group))?))
    }

    /// The group that the file belongs to.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn group(&self) -> Result<isle_clock::GroupId, StoreError> {
        self.read(|conn| Ok(isle_clock::GroupId::from_bytes(layout::require_meta(conn, "group")?)))
    }

    /// The ids of the schema operations that are here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_ids(&self) -> Result<Vec<[u8; 16]>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT id FROM isle_migration").doing("list schema operations")?;
            let ids = statement.query_map([], |row| row.get(0)).doing("list schema operations")?;
            ids.collect::<Result<_, _>>().doing("list schema operations")
        })
    }

    /// The schema operations that are here and not among `known`, parents before children, each with its id.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_ops_beyond(&self, known: &BTreeSet<[u8; 16]>) -> Result<Vec<(MigrationId, Vec<u8>)>, StoreError> {
        self.read(|conn| crate::own::operations_beyond(conn, known))
    }

    /// The devices that this replica syncs with directly.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn peers(&self) -> Result<Vec<PeerRow>, StoreError> {
        self.read(|conn| {
            let mut statement =
                conn.prepare_cached("SELECT key, state FROM isle_peer ORDER BY key").doing("list peers")?;
            let rows = statement
                .query_map([], |row| Ok(PeerRow { key: DeviceKey::from_bytes(row.get(0)?), state: row.get(1)? }));
            rows.doing("list peers")?.collect::<Result<_, _>>().doing("list peers")
        })
    }

    /// Remembers a device to sync with directly.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn put_peer(&self, peer: &PeerRow) -> Result<(), StoreError> {
        self.internal(|conn| {
            let sql = "INSERT OR REPLACE INTO isle_peer(key, state) VALUES(?1, ?2)";
            conn.execute(sql, params![peer.key.as_bytes(), peer.state]).doing("remember a peer").map(|_| ())
        })
    }

    /// Changes what is remembered of a device, in one transaction; `change` gets what was remembered and gives what is to be, or nothing to leave it.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn update_peer(
        &self,
        key: &DeviceKey,
        change: impl FnOnce(Option<&str>) -> Option<String>,
    ) -> Result<(), StoreError> {
        self.internal(|conn| {
            let sql = "SELECT state FROM isle_peer WHERE key = ?1";
            let known: Option<String> = crate::clocks::one(conn, sql, [key.as_bytes()])?;
            let Some(state) = change(known.as_deref()) else { return Ok(()) };
            let sql = "INSERT OR REPLACE INTO isle_peer(key, state) VALUES(?1, ?2)";
            conn.execute(sql, params![key.as_bytes(), state]).doing("remember a peer").map(|_| ())
        })
    }

    /// Forgets a device to sync with; false if it was not known.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn remove_peer(&self, key: &DeviceKey) -> Result<bool, StoreError> {
        self.internal(|conn| {
            let gone = conn.execute("DELETE FROM isle_peer WHERE key = ?1", [key.as_bytes()]);
            Ok(gone.doing("forget a peer")? == 1)
        })
    }

    /// What notices commits, of other processes too.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn watch_commits(&self) -> Result<CommitCounter, StoreError> {
        Ok(CommitCounter { conn: crate::store::open_reader(self.options())?, last: None })
    }

    /// The id of the site that this file is now.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn own_site(&self) -> Result<SiteId, StoreError> {
        self.read(|conn| {
            let sql = "SELECT s.id FROM isle_site AS s, isle_meta AS m WHERE m.k = 'site' AND s.no = m.v";
            let missing = || StoreError::Internal { table: "isle_site", detail: "no own site".to_owned() };
            crate::clocks::one::<[u8; 16]>(conn, sql, [])?.map(SiteId::from_bytes).ok_or_else(missing)
        })
    }

    /// What is here: applied, and beyond that.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn held(&self) -> Result<Held, StoreError> {
        self.snapshot(held)
    }

    /// The last applied version of each site that has any, the own one included, and the hash of its header.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn chains(&self) -> Result<Vec<(SiteId, u64, Hash)>, StoreError> {
        self.snapshot(|conn| {
            let mut chains = Vec::new();
            for (site, version) in log::vector(conn)?.iter() {
                if let Some(chain) = chain_at(conn, site, version)? {
                    chains.push((site, version, chain));
                }
            }
            Ok(chains)
        })
    }

    /// The hash of a version's header, if it is applied and still known here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn chain_at(&self, site: SiteId, version: u64) -> Result<Option<Hash>, StoreError> {
        self.snapshot(|conn| chain_at(conn, site, version))
    }

    /// What is applied here and not in `have`, about `bytes` of it; nothing of the sites in `without`.
    ///
    /// # Errors
    /// [`StoreError::LogDamaged`]; SQLite's reason.
    pub fn lacking(
        &self,
        have: &VersionVector,
        without: &BTreeSet<SiteId>,
        bytes: usize,
    ) -> Result<Lacking, StoreError> {
        self.snapshot(|conn| lacking(conn, have, without, bytes))
    }
}

/// Notices commits.
#[derive(Debug)]
pub struct CommitCounter {
    conn: Connection,
    last: Option<i64>,
}

impl CommitCounter {
    /// Whether something was committed, by whomever, since the last call; true at the first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn has_changed(&mut self) -> Result<bool, StoreError> {
        let now = self.conn.query_row("PRAGMA data_version", [], |row| row.get(0)).doing("look for commits")?;
        Ok(self.last.replace(now) != Some(now))
    }
}

fn member_ops(conn: &Connection) -> Result<Vec<(OpId, Vec<u8>)>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT id, body FROM isle_member").doing("read membership operations")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).doing("read membership operations")?;
    rows.collect::<Result<_, _>>().doing("read membership operations")
}

/// The operations that were taken; their signatures were checked then.
fn known_ops(conn: &Connection, group: isle_clock::GroupId) -> Result<Vec<MemberOp>, StoreError> {
    let decode = |(_, op): &(OpId, Vec<u8>)| MemberOp::decode_known(op, group);
    let ops: Result<Vec<MemberOp>, MemberError> = member_ops(conn)?.iter().map(decode).collect();
    ops.map_err(|source| StoreError::Member { source })
}

fn chain_at(conn: &Connection, site: SiteId, version: u64) -> Result<Option<Hash>, StoreError> {
    let sql = "SELECT version, chain, no = (SELECT v FROM isle_meta WHERE k = 'site') FROM isle_site WHERE id = ?1";
    let mut statement = conn.prepare_cached(sql).doing("read the chain of a site")?;
    let found = statement.query_row([site.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let Some((last, chain, own)): Option<(i64, Option<Hash>, bool)> =
        found.optional().doing("read the chain of a site")?
    else {
        return Ok(None);
    };
    // Of the own site the row tells where the log begins; of others, what is applied.
    match (last as u64).cmp(&version) {
        std::cmp::Ordering::Equal if version > 0 => Ok(chain),
        std::cmp::Ordering::Less if !own => Ok(None),
        _ => Ok(log::header(conn, site, version)?.map(|(_, header)| Header::hash(&header))),
    }
}

fn held(conn: &Connection) -> Result<Held, StoreError> {
    let applied = log::vector(conn)?;
    let (mut held, mut partial) = (VersionVector::new(), Vec::new());
    let own: i64 = layout::require_meta(conn, "site")?;
    let signed = layout::meta::<[u8; 16]>(conn, layout::SITE_NONCE)?.is_some();
    let sql = "SELECT s.no, s.id, s.version FROM isle_site AS s WHERE s.no <> ?1 AND EXISTS
               (SELECT 1 FROM isle_log AS l WHERE l.id > (s.no << 44 | s.version) AND l.id < (s.no + 1) << 44)";
    let mut statement = conn.prepare_cached(sql).doing("look what waits")?;
    let sites =
        statement.query_map([own], |row| Ok((row.get::<_, i64>(0)?, SiteId::from_bytes(row.get(1)?), row.get(2)?)));
    let sites: Vec<(i64, SiteId, i64)> =
        sites.doing("look what waits")?.collect::<Result<_, _>>().doing("look what waits")?;
    for (no, site, version) in sites {
        let (first, mut next) = (version as u64 + 1, version as u64 + 1);
        let sql = "SELECT id, header, body IS NOT NULL FROM isle_log WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
        let mut statement = conn.prepare_cached(sql).doing("look what waits")?;
        let range = params![log_id(no, next), log_id(no + 1, 0) - 1];
        let mut rows = statement.query(range).doing("look what waits")?;
        // What nobody vouches for yet may be forged: it is not said to be here, so that the genuine comes.
        let vouched = if signed { crate::proofs::proven_version(conn, no)? } else { u64::MAX };
        while next <= vouched
            && let Some(row) = rows.next().doing("look what waits")?
        {
            let (id, header, only): (i64, Vec<u8>, bool) = (
                row.get(0).doing("look what waits")?,
                row.get(1).doing("look what waits")?,
                row.get(2).doing("look what waits")?,
            );
            // One that is broken is asked for again.
            let Ok(header) = Header::decode(&header) else { break };
            if version_of(id) != next {
                break;
            }
            let blocks = match header.blocks.len() {
                1 => u32::from(only),
                _ => blocks_without_gap(conn, id)?,
            };
            if blocks as usize != header.blocks.len() {
                if blocks > 0 {
                    partial.push(PartialChangeset { site, version: next, blocks });
                }
                break;
            }
            next += 1;
        }
        if next > first {
            held.advance(site, next - 1);
        }
    }
    Ok(Held { applied, held, partial })
}

fn blocks_without_gap(conn: &Connection, id: i64) -> Result<u32, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT n FROM isle_block WHERE id = ?1 ORDER BY n").doing("look what waits")?;
    let here = statement.query_map([id], |row| row.get::<_, u32>(0)).doing("look what waits")?;
    let mut next = 0;
    for n in here {
        if n.doing("look what waits")? != next {
            break;
        }
        next += 1;
    }
    Ok(next)
}

fn lacking(
    conn: &Connection,
    have: &VersionVector,
    without: &BTreeSet<SiteId>,
    bytes: usize,
) -> Result<Lacking, StoreError> {
    let applied = log::vector(conn)?;
    let lags = |(site, last): &(SiteId, u64)| !have.contains(*site, *last) && !without.contains(site);
    let lagging: Vec<(SiteId, u64)> = applied.iter().filter(lags).collect();
    let each = (bytes / lagging.len().max(1)).max(SITE_BYTES_MIN);
    let (mut gap, mut more, mut horizon) = (false, false, u64::MAX);
    let mut changesets = Vec::new();
    for (site, last) in lagging {
        let next = have.get(site) + 1;
        let (mut found, mut beyond) = handover::changesets(conn, site, next - 1, each)?;
        // What waits is of no use to anybody yet.
        beyond &= found.last().is_some_and(|logged| logged.version < last);
        found.retain(|logged| logged.version <= last);
        if found.first().is_none_or(|first| first.version != next) {
            gap = true;
            continue;
        }
        if beyond {
            more = true;
            horizon = found.last().map_or(horizon, |logged| logged.hlc.min(horizon));
        }
        changesets.extend(found.into_iter().map(|logged| (site, logged)));
    }
    // Whoever was seen by the author of a later one has an earlier time.
    changesets.retain(|(_, logged)| logged.hlc <= horizon);
    changesets.sort_by_key(|(site, logged)| (logged.hlc, *site));
    Ok(Lacking { changesets, more, gap, applied })
}

/// Forgets who belonged to a group that the file leaves, and that it founded one.
pub(crate) fn leave_group(conn: &Connection) -> Result<(), StoreError> {
    conn.execute("DELETE FROM isle_member", []).doing("leave the group")?;
    conn.execute("DELETE FROM isle_proof", []).doing("leave the group")?;
    conn.execute("UPDATE isle_site SET proven = 0", []).doing("leave the group")?;
    conn.execute("DELETE FROM isle_meta WHERE k = ?1", [layout::GROUP_NONCE]).doing("leave the group")?;
    Ok(())
}

/// Draws an id for this file: of the device that owns it, if one does.
pub(crate) fn site_of(owner: Option<&DeviceKey>, random: [u8; 16]) -> SiteId {
    match owner {
        Some(key) => isle_identity::site_id(key, &random),
        None => SiteId::from_random(random),
    }
}

/// Notes how the site's id was made.
pub(crate) fn note_nonce(conn: &Connection, owner: Option<&DeviceKey>, random: [u8; 16]) -> Result<(), StoreError> {
    match owner {
        Some(_) => layout::set_meta(conn, layout::SITE_NONCE, random),
        None => {
            let gone = conn.execute("DELETE FROM isle_meta WHERE k = ?1", [layout::SITE_NONCE]);
            gone.doing("take a new site id").map(|_| ())
        }
    }
}
