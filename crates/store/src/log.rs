//! The log: sealed changesets as they were written, the site's own and those of others, applied or waiting.
//!
//! A changeset with one block keeps it beside its header; the blocks of a larger one stand in `isle_block`. A version beyond
//! `isle_site.version` waits: for a block, for a version before it, for what its author had seen, for a schema operation, or for time.

use isle_changeset::{Block, BlockInfo, DecodeError, Hash, Header};
use isle_clock::{Clock, ClockError, Hlc, SiteId, VersionVector};
use isle_schema::{MigrationId, TableId};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::apply::Applier;
use crate::engine::Engine;
use crate::error::{CHAIN, Doing as _};
use crate::layout::{log_id, site_no_of, version_of};
use crate::own::{Own, known_site_no, site_id, site_no};
use crate::plan::{Next, Plan};
use crate::settle::Settled;
use crate::{Frame, Options, StoreError};

/// Versions merged in one SQLite transaction, at most.
const BATCH_VERSIONS: usize = 1_000;
/// Versions of a site that may wait: one further ahead of what is merged is refused.
pub(crate) const WAITING_MAX: u64 = 1 << 20;
/// Bytes of stored blocks merged in one SQLite transaction before it is committed.
const BATCH_BYTES: u64 = 64 << 20;

/// Why a received changeset is not applied yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Waiting {
    /// A version before it is missing.
    Version {
        /// The first version that is not here.
        missing: u64,
    },
    /// Not all of its blocks are here.
    Blocks,
    /// Its author had seen a version that is not here.
    Cause {
        /// The other site.
        site: SiteId,
        /// The version of that site.
        version: u64,
    },
    /// It was written under a schema that is not here.
    Schema(MigrationId),
    /// Its author had not seen what the group has collected since; it will send its changes anew when it syncs.
    BelowFloor {
        /// A site of which it had not seen enough.
        site: SiteId,
        /// The version that it should have seen.
        version: u64,
    },
    /// Its author's signature is not here.
    Unsigned,
    /// Its author was retired before this version was known to anybody else; it will send it anew under another id.
    Retired,
    /// It is from the future by this device's clock.
    Future(ClockError),
    /// It does not fit: its chain or its content is broken.
    Refused(String),
}

/// What a merge did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Versions merged.
    pub versions: u64,
    /// Rows in them.
    pub rows: u64,
    /// Values that went to the conflict journal.
    pub conflicts: u64,
    /// Names of the tables that changed.
    pub tables: Vec<String>,
    /// What still waits, by site: its next version and the reason.
    pub waiting: Vec<(SiteId, u64, Waiting)>,
    /// How often a version was looked at, whether it was ready or not.
    pub looks: u64,
}

/// Takes a header into the log, and with it the frame that follows if that is its only block; gives the local number of its
/// site, or `None` if it is there already.
pub(crate) fn put_header(
    conn: &Connection,
    own: &Own,
    bytes: &[u8],
    follows: Option<&Frame<'_>>,
) -> Result<Option<i64>, StoreError> {
    let header = Header::decode(bytes).map_err(|source| StoreError::BadHeader { source })?;
    let Header { site, version, .. } = header;
    if header.group != own.group {
        return Err(StoreError::ForeignGroup { site, version, found: header.group, group: own.group });
    }
    if header.blocks.is_empty() {
        return Err(StoreError::BadChangeset {
            site,
            version,
            source: DecodeError::Inconsistent { what: "number of blocks" },
        });
    }
    let no = site_no(conn, site)?;
    let id = log_id(no, version);
    if version != version_of(id) {
        return Err(StoreError::BadChangeset { site, version, source: DecodeError::Inconsistent { what: "version" } });
    }
    if let Some(known) = crate::clocks::one::<Vec<u8>>(conn, "SELECT header FROM isle_log WHERE id = ?1", [id])? {
        if known == bytes {
            return Ok(None);
        }
        let doubtful = crate::proofs::is_doubtful(conn, own, no, version)?;
        // One that was taken before its predecessor was here, and does not follow it, gives way; and so does what nobody signed.
        let wanted = previous(conn, no, version)?;
        let stale = Header::decode(&known).map_or(true, |known| Some(known.previous) != wanted);
        let applied = no == own.no || version <= applied_version(conn, no)?;
        let gives_way = doubtful || (stale && wanted == Some(header.previous));
        if applied || !gives_way {
            return Err(StoreError::Fork { site, version });
        }
        if doubtful {
            crate::proofs::ask_again(conn)?;
        }
        conn.execute("DELETE FROM isle_log WHERE id = ?1", [id]).doing("replace a broken header")?;
        conn.execute("DELETE FROM isle_block WHERE id = ?1", [id]).doing("replace a broken header")?;
    }
    if site == own.site {
        // A version of our own that we never wrote: this file is a copy, or an older state.
        return Err(StoreError::Fork { site, version });
    }
    let applied = applied_version(conn, no)?;
    if version <= applied {
        return Ok(None);
    }
    if version - applied > WAITING_MAX {
        return Err(StoreError::TooFarAhead { site, version, applied });
    }
    if previous(conn, no, version)?.is_some_and(|hash| hash != header.previous) {
        if version > 1 && crate::proofs::is_doubtful(conn, own, no, version - 1)? {
            // Either may be the forged one: both are asked for again.
            tracing::warn!(%site, version, "versions of a site that do not follow each other, and that nobody signed, are thrown away");
            crate::proofs::discard(conn, no, version)?;
            return Ok(None);
        }
        let source = DecodeError::Hash { what: CHAIN };
        return Err(StoreError::BadChangeset { site, version, source });
    }
    let only = match (follows, header.blocks.as_slice()) {
        (Some(Frame::Block { site: of, version: n, index: 0, bytes }), [info]) if (*of, *n) == (site, version) => {
            if *blake3::hash(bytes).as_bytes() != info.hash {
                return Err(StoreError::BadChangeset { site, version, source: DecodeError::Hash { what: "block" } });
            }
            Some(*bytes)
        }
        _ => None,
    };
    let sql = "INSERT INTO isle_log(id, hlc, header, body) VALUES(?1, ?2, ?3, ?4)";
    let mut statement = conn.prepare_cached(sql).doing("store a changeset")?;
    statement.execute(params![id, header.hlc.bits() as i64, bytes, only]).doing("store a changeset")?;
    Ok(Some(no))
}

/// The hash that a version must name, if the version before it is known: applied, or in the log.
fn previous(conn: &Connection, no: i64, version: u64) -> Result<Option<Hash>, StoreError> {
    if version == 1 {
        return Ok(Some(Hash::default()));
    }
    if applied_version(conn, no)? == version - 1 {
        let sql = "SELECT chain FROM isle_site WHERE no = ?1";
        return Ok(crate::clocks::one::<Option<[u8; 32]>>(conn, sql, [no])?.flatten());
    }
    let sql = "SELECT header FROM isle_log WHERE id = ?1";
    let before = crate::clocks::one::<Vec<u8>>(conn, sql, [log_id(no, version - 1)])?;
    Ok(before.map(|encoded| Header::hash(&encoded)))
}

/// Takes a block whose header is in the log; gives the local number of its site, or `None` if nothing needs the block.
pub(crate) fn put_block(
    conn: &Connection,
    site: SiteId,
    version: u64,
    n: usize,
    bytes: &[u8],
) -> Result<Option<i64>, StoreError> {
    let Some(no) = known_site_no(conn, site)? else { return Ok(None) };
    let id = log_id(no, version);
    if version <= applied_version(conn, no)? {
        return Ok(None);
    }
    let Some(encoded) = crate::clocks::one::<Vec<u8>>(conn, "SELECT header FROM isle_log WHERE id = ?1", [id])? else {
        return Ok(None);
    };
    let bad = |source| StoreError::BadChangeset { site, version, source };
    let header = Header::decode(&encoded).map_err(bad)?;
    let info = header.blocks.get(n).ok_or_else(|| bad(DecodeError::Inconsistent { what: "number of a block" }))?;
    if *blake3::hash(bytes).as_bytes() != info.hash {
        return Err(bad(DecodeError::Hash { what: "block" }));
    }
    if block(conn, id, header.blocks.len(), n)?.is_some() {
        return Ok(None);
    }
    if header.blocks.len() == 1 {
        let sql = "UPDATE isle_log SET body = ?2 WHERE id = ?1";
        conn.execute(sql, params![id, bytes]).doing("store a block")?;
    } else {
        crate::seal::put_block(conn, id, n, bytes)?;
    }
    Ok(Some(no))
}

pub(crate) fn applied_version(conn: &Connection, no: i64) -> Result<u64, StoreError> {
    Ok(crate::clocks::one::<i64>(conn, "SELECT version FROM isle_site WHERE no = ?1", [no])?.unwrap_or(0) as u64)
}

/// The stored blocks of a logged changeset, one at a time.
pub(crate) fn block(conn: &Connection, id: i64, blocks: usize, n: usize) -> Result<Option<Vec<u8>>, StoreError> {
    if blocks == 1 {
        return Ok(
            crate::clocks::one::<Option<Vec<u8>>>(conn, "SELECT body FROM isle_log WHERE id = ?1", [id])?.flatten()
        );
    }
    crate::clocks::one(conn, "SELECT body FROM isle_block WHERE id = ?1 AND n = ?2", params![id, n as i64])
}

/// A logged header; `None` if the version is not in the log.
pub(crate) fn header(conn: &Connection, site: SiteId, version: u64) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
    let Some(no) = known_site_no(conn, site)? else { return Ok(None) };
    let id = log_id(no, version);
    if version_of(id) != version {
        return Ok(None);
    }
    Ok(crate::clocks::one(conn, "SELECT header FROM isle_log WHERE id = ?1", [id])?.map(|header| (id, header)))
}

/// The first version from which on the log holds every applied one of a site.
pub(crate) fn start(conn: &Connection, site: SiteId) -> Result<u64, StoreError> {
    let Some(no) = known_site_no(conn, site)? else { return Ok(1) };
    let sql = "SELECT min(id) FROM isle_log WHERE id BETWEEN ?1 AND ?2";
    let range = params![log_id(no, 0), log_id(no + 1, 0) - 1];
    let first = crate::clocks::one::<Option<i64>>(conn, sql, range)?.flatten().map(version_of);
    let applied = applied_version(conn, no)?;
    // Waiting versions stand behind the applied ones.
    Ok(first.filter(|first| *first <= applied || applied == 0).unwrap_or(applied + 1))
}

/// What this replica has applied, its own versions included. One statement, and so one state of the file.
pub(crate) fn vector(conn: &Connection) -> Result<VersionVector, StoreError> {
    let sql = "SELECT s.id, s.version, (SELECT l.id FROM isle_log AS l
               WHERE s.no = m.v AND l.id >= s.no << 44 AND l.id < (s.no + 1) << 44 ORDER BY l.id DESC LIMIT 1)
               FROM isle_site AS s, isle_meta AS m WHERE m.k = 'site'";
    let mut statement = conn.prepare_cached(sql).doing("read the version vector")?;
    let mut rows = statement.query([]).doing("read the version vector")?;
    let mut vector = VersionVector::new();
    while let Some(row) = rows.next().doing("read the version vector")? {
        let value = |at: usize| row.get::<_, Option<i64>>(at).doing("read the version vector");
        let site = SiteId::from_bytes(row.get(0).doing("read the version vector")?);
        vector.advance(site, value(1)?.unwrap_or(0) as u64);
        vector.advance(site, value(2)?.map_or(0, version_of));
    }
    Ok(vector)
}

/// How far a merge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merging {
    /// Stored bytes merged.
    pub done_bytes: u64,
    /// Stored bytes that wait in the log and may be ready, those merged included.
    pub total_bytes: u64,
}

/// Who is told how far a merge is.
pub(crate) struct Meter<'a> {
    tell: Option<&'a mut dyn FnMut(Merging)>,
    at: Merging,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(tell: Option<&'a mut dyn FnMut(Merging)>) -> Meter<'a> {
        Meter { tell, at: Merging { done_bytes: 0, total_bytes: 0 } }
    }

    /// Looks once how much there is to do, if anybody wants to know.
    fn measure(&mut self, conn: &Connection, plan: &Plan) -> Result<(), StoreError> {
        if self.tell.is_some() && self.at.total_bytes == 0 {
            self.at.total_bytes = plan.bytes(conn)?;
        }
        Ok(())
    }

    fn add(&mut self, bytes: u64) {
        self.at.done_bytes += bytes;
        // Sites that waited for what was merged were not counted at first.
        self.at.total_bytes = self.at.total_bytes.max(self.at.done_bytes);
        if let Some(tell) = &mut self.tell {
            tell(self.at);
        }
    }
}

/// Merges everything that is ready, in as many transactions as the bounds ask for; `first` runs at the start of the first.
pub(crate) fn apply_ready(
    engine: &mut Engine,
    options: &Options,
    now_ms: u64,
    mut meter: Meter<'_>,
    first: impl FnOnce(&mut Engine) -> Result<(), StoreError>,
) -> Result<Applied, StoreError> {
    let mut total = Applied::default();
    let mut changed = Vec::new();
    let mut first = Some(first);
    let mut plan = None;
    loop {
        let (left, batch) = engine.transaction(now_ms, |engine| {
            if let Some(first) = first.take() {
                first(engine)?;
            }
            let mut plan = Plan::of(engine, plan.take(), options, now_ms)?;
            meter.measure(&engine.conn, &plan)?;
            let batch = apply_batch(engine, options, now_ms, &mut plan, &mut meter)?;
            Ok((plan, batch))
        })?;
        total.versions += batch.versions;
        total.rows += batch.rows;
        total.conflicts += batch.conflicts;
        total.looks += batch.looks;
        changed.extend(batch.tables);
        if left.is_done() {
            total.waiting = left.waiting();
            engine.plan = Some(left);
            break;
        }
        plan = Some(left);
    }
    changed.sort_unstable();
    changed.dedup();
    total.tables = changed;
    Ok(total)
}

fn apply_batch(
    engine: &mut Engine,
    options: &Options,
    now_ms: u64,
    plan: &mut Plan,
    meter: &mut Meter<'_>,
) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    let mut bytes = 0;
    let mut newest = Hlc::ZERO;
    let conn = &engine.conn;
    let mut applier: Option<Applier<'_>> = None;
    let last_conflict = || crate::clocks::one::<i64>(conn, "SELECT coalesce(max(id), 0) FROM isle_conflict", []);
    let before = last_conflict()?.unwrap_or(0);
    let mut full = false;
    while !full && let Some(mut next) = plan.next(conn)? {
        loop {
            full = applied.versions as usize >= BATCH_VERSIONS || bytes >= BATCH_BYTES;
            if full {
                plan.again(&next);
                break;
            }
            applied.looks += 1;
            match ready(engine, &mut next, options, now_ms)? {
                Err(None) => break,
                Err(Some(waiting)) => {
                    plan.hold(&next, waiting);
                    break;
                }
                Ok(ready) => {
                    let applier = match &mut applier {
                        Some(applier) => applier,
                        // Only now: a sync that finds nothing to merge leaves the stamps in the log.
                        slot => slot.insert(Applier::new(engine, &engine.settle()?)?),
                    };
                    merge_one(engine, applier, &mut next, &ready, meter)?;
                    plan.advanced(next.site, ready.header.version);
                    newest = newest.max(ready.header.hlc);
                    applied.versions += 1;
                    applied.rows += ready.header.rows();
                    bytes += ready.header.stored_bytes();
                }
            }
        }
    }
    applied.conflicts = (last_conflict()?.unwrap_or(0) - before) as u64;
    if let Some(applier) = &mut applier {
        applier.repair(engine, &engine.settle()?)?;
    }
    let changed = applier.map(|applier| applier.changed).unwrap_or_default();
    let name =
        |no: &i64| engine.tables.iter().find(|tracked| tracked.no == *no).map(|tracked| tracked.table.name.clone());
    applied.tables = changed.iter().filter_map(name).collect();
    if let Some(own) = engine.own.as_mut().filter(|_| applied.versions > 0) {
        own.clock.observe(newest);
        own.causes_told = false;
    }
    Ok(applied)
}

/// A changeset that can be merged.
struct Ready {
    id: i64,
    encoded: Vec<u8>,
    header: Header,
    /// Its author knew more of the schema than is applied here (see `parked`).
    parks: bool,
    /// The block of a changeset that has just one; it is open already.
    only: Option<Block>,
}

/// The next version of a site if it can be merged, else why not; `Err(None)` when nothing more of the site is here.
fn ready(
    engine: &Engine,
    next: &mut Next,
    options: &Options,
    now_ms: u64,
) -> Result<Result<Ready, Option<Waiting>>, StoreError> {
    let conn = &engine.conn;
    let id = log_id(next.no, next.version);
    let Some(encoded) = crate::clocks::one::<Vec<u8>>(conn, "SELECT header FROM isle_log WHERE id = ?1", [id])? else {
        let later = "SELECT 1 FROM isle_log WHERE id > ?1 AND id < ?2";
        let later = crate::clocks::one::<i64>(conn, later, params![id, log_id(next.no + 1, 0)])?;
        return Ok(Err(later.map(|_| Waiting::Version { missing: next.version })));
    };
    let refused = |error: DecodeError| Ok(Err(Some(Waiting::Refused(error.to_string()))));
    let header = match Header::decode(&encoded) {
        Ok(header) => header,
        Err(error) => return refused(error),
    };
    if header.previous != next.chain {
        return refused(DecodeError::Hash { what: CHAIN });
    }
    if header.hlc.bits() <= next.hlc {
        return refused(DecodeError::Inconsistent { what: "time of the site's versions, which must rise," });
    }
    // Before all that it may have to wait for: from here on nothing forged can take its place.
    if let Some(waiting) = crate::proofs::missing(engine, next)? {
        return Ok(Err(Some(waiting)));
    }
    let mut parks = false;
    for head in &header.heads {
        match crate::track::standing(conn, *head)? {
            None => return Ok(Err(Some(Waiting::Schema(*head)))),
            Some(applied) => parks |= !applied,
        }
    }
    // What has been met before comes last: a version with many causes is not held up by each of them anew.
    let (met, open) = header.causes.split_at(next.met.min(header.causes.len()));
    for (n, cause) in open.iter().chain(met).enumerate() {
        let known = match known_site_no(conn, cause.site)? {
            Some(no) => applied_version(conn, no)?.max(own_version(engine, no)),
            None => 0,
        };
        if known < cause.version {
            next.met = (next.met + n) % header.causes.len();
            return Ok(Err(Some(Waiting::Cause { site: cause.site, version: cause.version })));
        }
    }
    if crate::compact::retired_at(conn, next.no)?.is_some_and(|last| last < next.version) {
        return Ok(Err(Some(Waiting::Retired)));
    }
    if let Some(cause) = crate::compact::unseen_floor(conn, &header)? {
        return Ok(Err(Some(Waiting::BelowFloor { site: cause.site, version: cause.version })));
    }
    if let Err(drift) = Clock::check_drift(header.hlc, now_ms, options.unset_before_ms, options.drift) {
        return Ok(Err(Some(Waiting::Future(drift))));
    }
    match open_blocks(engine, id, &header, parks)? {
        Ok(only) => Ok(Ok(Ready { id, encoded, header, parks, only })),
        Err(waiting) => Ok(Err(Some(waiting))),
    }
}

/// The own version counts as applied to those whose causes name it.
fn own_version(engine: &Engine, no: i64) -> u64 {
    engine.own.as_ref().filter(|own| own.no == no).map_or(0, |own| own.version)
}

/// Reads every block through before the first row is written, so that a broken one leaves no half of a transaction. `parks` says that
/// the author knew more of the schema than is applied here.
pub(crate) fn open_blocks(
    engine: &Engine,
    id: i64,
    header: &Header,
    parks: bool,
) -> Result<Result<Option<Block>, Waiting>, StoreError> {
    let mut only = None;
    let ahead = if parks { Some(engine.ahead()?) } else { None };
    for (n, info) in header.blocks.iter().enumerate() {
        let Some(stored) = block(&engine.conn, id, header.blocks.len(), n)? else {
            return Ok(Err(Waiting::Blocks));
        };
        let opened = Block::open(&stored, info)
            .and_then(|block| check_block(engine, &block, info, ahead.as_deref()).map(|()| block));
        match opened {
            Ok(block) if header.blocks.len() == 1 => only = Some(block),
            Ok(_) => {}
            Err(error) => return Ok(Err(Waiting::Refused(error.to_string()))),
        }
    }
    Ok(Ok(only))
}

/// `ahead` is what operations will make that are not applied here, if the author knew one of those.
fn check_block(
    engine: &Engine,
    block: &Block,
    info: &BlockInfo,
    ahead: Option<&crate::ahead::Ahead>,
) -> Result<(), DecodeError> {
    let mut rows = 0u64;
    let mut row = isle_changeset::Row::default();
    for section in block.sections() {
        let mut section = section?;
        let Some(tracked) = engine.by_id.get(&section.table()) else {
            // Known once, untracked since: kept in the log for its return.
            let known = crate::layout::meta::<i64>(&engine.conn, &format!("table {}", section.table()));
            if matches!(known, Ok(Some(_))) {
                while section.next(&mut row)? {
                    rows += 1;
                }
                continue;
            }
            match ahead {
                Some(ahead) => rows += ahead.check(&mut section)?,
                None => return Err(DecodeError::Inconsistent { what: "table of a section" }),
            }
            continue;
        };
        if section.key_columns() != tracked.table.key.len() {
            return Err(DecodeError::Inconsistent { what: "key of a section" });
        }
        let table = section.table();
        let declared = |column| ahead.is_some_and(|ahead| ahead.has_column(table, column));
        if section.columns().iter().any(|column| tracked.place_of(*column).is_none() && !declared(*column)) {
            return Err(DecodeError::Inconsistent { what: "column of a section" });
        }
        let exact = section.columns().iter().position(|column| *column == isle_schema::ColumnId::KEY);
        while section.next(&mut row)? {
            rows += 1;
            check_key(&tracked.table, &row, exact)?;
            crate::kinds::check(tracked, &section, &row)?;
            if let Some(ahead) = ahead {
                ahead.check_kinds(&section, &row)?;
            }
        }
    }
    if rows != u64::from(info.rows) {
        return Err(DecodeError::Inconsistent { what: "number of rows in a block" });
    }
    Ok(())
}

/// A key must be canonical and one that the key columns can hold; an exact key must be a form of it.
pub(crate) fn check_key(
    table: &isle_schema::Table,
    row: &isle_changeset::Row<'_>,
    exact: Option<usize>,
) -> Result<(), DecodeError> {
    use isle_changeset::{Value, ValueRef, canonical_key, canonical_value, has_forms, unpack_key};
    let bad = DecodeError::Inconsistent { what: "key of a row" };
    if let (true, None, [ValueRef::Integer(_)]) = (table.rowid_key, exact, row.key.as_slice()) {
        return Ok(());
    }
    let sound = row.key.iter().zip(&table.key).all(|(value, column)| {
        canonical_value(*value, column).is_none()
            && !matches!(value, ValueRef::Real(real) if real.is_nan())
            && fits(table.rowid_key, *value, column)
    });
    if !sound {
        return Err(bad);
    }
    let Some(at) = exact.filter(|at| row.mask[at / 64] >> (at % 64) & 1 == 1) else { return Ok(()) };
    let place = crate::seal::bits(&row.mask).take_while(|column| *column < at).count();
    let Some(ValueRef::Blob(packed)) = row.values.get(place) else { return Err(bad) };
    let unpacked = unpack_key(packed, table.key.len())?;
    let unpacked: Vec<_> = unpacked.iter().map(Value::as_ref).collect();
    let key: Vec<_> = row.key.iter().map(|value| value.to_value()).collect();
    let fits = unpacked.iter().zip(&table.key).all(|(value, column)| fits(table.rowid_key, *value, column));
    let forms = unpacked.iter().zip(&table.key).any(|(value, column)| has_forms(*value, column));
    if table.rowid_key || !forms || !fits || canonical_key(&unpacked, &table.key).0 != key {
        return Err(bad);
    }
    Ok(())
}

/// Whether a column of this affinity stores the value as it is.
fn fits(rowid: bool, value: isle_changeset::ValueRef<'_>, column: &isle_schema::KeyColumn) -> bool {
    use isle_changeset::ValueRef::{Blob, Integer, Real, Text};
    use isle_schema::Affinity;
    match (column.affinity, value) {
        _ if rowid => matches!(value, Integer(_)),
        (Affinity::Blob, _) | (_, Blob(_)) => true,
        (Affinity::Text, Integer(_) | Real(_)) => false,
        (Affinity::Text, _) => true,
        // Text that is a number would become one.
        (_, Text(text)) => !is_number(text),
        _ => true,
    }
}

/// Whether SQLite takes the text for a number: spaces around, a sign, digits with a point, an exponent.
fn is_number(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"+").or(text.strip_prefix(b"-")).unwrap_or(text);
    let number = text.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let signed_twice = matches!(text.first(), Some(b'+' | b'-'));
    number && !signed_twice && std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok())
}

fn merge_one<'c>(
    engine: &'c Engine,
    applier: &mut Applier<'c>,
    next: &mut Next,
    ready: &Ready,
    meter: &mut Meter<'_>,
) -> Result<(), StoreError> {
    let conn = &engine.conn;
    let header = &ready.header;
    if !header.floor.is_empty() {
        crate::compact::collect(engine, &header.floor)?;
    }
    let count = header.blocks.len();
    let missing = || StoreError::Internal { table: "isle_block", detail: format!("block of log row {}", ready.id) };
    applier.apply(&engine.by_id, (header, ready.parks), None, ready.only.as_ref(), |n| {
        let stored = block(conn, ready.id, count, n)?.ok_or_else(missing)?;
        meter.add(stored.len() as u64);
        Ok(stored)
    })?;
    if ready.only.is_some() {
        meter.add(header.stored_bytes());
    }
    next.chain = Header::hash(&ready.encoded);
    let sql = "UPDATE isle_site SET version = ?2, hlc = max(hlc, ?3), chain = ?4 WHERE no = ?1";
    let mut statement = conn.prepare_cached(sql).doing("advance the version vector")?;
    let values = params![next.no, next.version as i64, header.hlc.bits() as i64, next.chain];
    statement.execute(values).doing("advance the version vector")?;
    next.hlc = header.hlc.bits();
    next.version += 1;
    next.met = 0;
    Ok(())
}

/// Merges the changesets of the log again for one table only, which was untracked for a while: those of others that are
/// applied, and the own ones up to `own_last`, which was written before the return. The order of their times is one in which
/// causes come first. What was edited in the meantime stands as a baseline; where it loses it is journaled.
pub(crate) fn replay(engine: &mut Engine, table: TableId, own_last: u64, settled: &Settled) -> Result<(), StoreError> {
    let conn = &engine.conn;
    let own = engine.own()?;
    let mut statement = conn.prepare("SELECT id, header FROM isle_log ORDER BY hlc, id").doing("read the log")?;
    let mut rows = statement.query([]).doing("read the log")?;
    let mut applier = Applier::new(engine, settled)?;
    while let Some(row) = rows.next().doing("read the log")? {
        let (id, encoded): (i64, Vec<u8>) = (row.get(0).doing("read the log")?, row.get(1).doing("read the log")?);
        let no = site_no_of(id);
        let last = if no == own.no { own_last } else { applied_version(conn, no)? };
        if version_of(id) > last {
            continue;
        }
        let site = site_id(conn, no)?;
        let bad = |source| StoreError::BadChangeset { site, version: version_of(id), source };
        let header = Header::decode(&encoded).map_err(bad)?;
        let count = header.blocks.len();
        // What came while the table was untracked was not held against it then.
        let parks = crate::parked::parks(conn, &header)?;
        if let Err(why) = open_blocks(engine, id, &header, parks)? {
            tracing::warn!(%site, version = header.version, ?why, "a changeset is passed over");
            continue;
        }
        let missing = || StoreError::Internal { table: "isle_block", detail: format!("block of log row {id}") };
        let stored = |n| block(conn, id, count, n)?.ok_or_else(missing);
        applier.apply(&engine.by_id, (&header, parks), Some(table), None, stored)?;
    }
    applier.owe_touched()
}

/// A line of the log for people.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// The author.
    pub site: SiteId,
    /// The author's version.
    pub version: u64,
    /// The time of the transaction.
    pub hlc: Hlc,
    /// Whether these are rows that were there when their table was adopted.
    pub baseline: bool,
    /// Rows changed.
    pub rows: u64,
    /// Bytes as stored and sent.
    pub bytes: u64,
    /// Whether it has been merged here.
    pub applied: bool,
}

/// The newest changesets, newest first.
pub(crate) fn entries(conn: &Connection, own: &Own, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
    let sql = "SELECT id, header FROM isle_log ORDER BY hlc DESC, id DESC LIMIT ?1";
    let mut statement = conn.prepare(sql).doing("read the log")?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query([limit]).doing("read the log")?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next().doing("read the log")? {
        let (id, encoded): (i64, Vec<u8>) = (row.get(0).doing("read the log")?, row.get(1).doing("read the log")?);
        let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
        let no = site_no_of(id);
        let applied = no == own.no || header.version <= applied_version(conn, no)?;
        entries.push(LogEntry {
            site: header.site,
            version: header.version,
            hlc: header.hlc,
            baseline: header.baseline,
            rows: header.rows(),
            bytes: header.stored_bytes() + encoded.len() as u64,
            applied,
        });
    }
    Ok(entries)
}

/// Reads the last applied chain hash of a site.
pub(crate) fn chain(conn: &Connection, own: &Own, site: SiteId) -> Result<Option<Hash>, StoreError> {
    if site == own.site {
        return Ok(Some(own.chain));
    }
    let found = conn.query_row("SELECT chain FROM isle_site WHERE id = ?1", [site.as_bytes()], |row| row.get(0));
    Ok(found.optional().doing("read the chain of a site")?.flatten())
}
