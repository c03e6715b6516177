//! Who wrote what: the signatures of other sites' devices, without which nothing of theirs is merged.
//!
//! A device signs the hash of a version when it hands it over, at least every [`EVERY`] versions. Changesets of a site are merged once
//! one such signature is here and the headers up to its version are, and name each other's hashes up to the signed one. Until
//! then they stand in the log, where they bind nobody: what does not lead to the signed hash was forged on its way, and is thrown
//! away, to be asked for again.
//!
//! The signature that is good for what is applied here may be of a later version, which is not: its time has not come, or its site was retired before it.
//! What is handed over then is a signature with the headers between: whoever has it needs no version that may never come.
//!
//! ```text
//! proof      144 bytes, see isle_identity::prove; of version v, or of v + n
//! n times    length of a header, u32 LE; the header of version v + 1, v + 2, … v + n
//! ```
//!
//! A file whose own site id was drawn without a device asks for no signatures.

use isle_changeset::{DecodeError, Hash, Header};
use isle_clock::{GroupId, SiteId};
use isle_identity::PROOF_BYTES;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::engine::Engine;
use crate::error::Doing as _;
use crate::layout::{log_id, version_of};
use crate::log::{WAITING_MAX, Waiting, applied_version};
use crate::own::{Own, site_no};
use crate::plan::Next;
use crate::{Store, StoreError, layout};

/// Signatures are at most so many versions apart: so much has to be here before a part of it can be merged. A version of several blocks is signed
/// by itself, so that a transfer which is cut goes on within it.
pub(crate) const EVERY: u64 = 256;
/// The headers between a version and the signature that is good for it take at most so many bytes: they have to fit a head. Eighty small versions
/// do; of more, which a site wrote ahead of time before it was retired, those that were merged can be had from a snapshot alone.
const BETWEEN_BYTES_MAX: usize = 12 << 10;
/// No signature further ahead than this is gone by: looking whether all before it is here would take long.
const SPAN_MAX: u64 = 4 * EVERY;

impl Store {
    /// Own versions up to `last` that have to be signed before they are handed over, each with its hash.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn unsigned(&self, last: u64) -> Result<Vec<(u64, Hash)>, StoreError> {
        self.snapshot(|conn| {
            let no: i64 = layout::require_meta(conn, "site")?;
            let sql = "SELECT coalesce(max(version), 0) FROM isle_proof WHERE site = ?1";
            let signed = crate::clocks::one::<i64>(conn, sql, [no])?.unwrap_or(0) as u64;
            let first = crate::log::start(conn, crate::own::site_id(conn, no)?)?.max(signed + 1);
            let sql = "SELECT id FROM isle_log WHERE id BETWEEN ?1 AND ?2 AND (body IS NULL OR id = ?2 OR (id & ?3) % ?4 = 0)";
            let mut statement = conn.prepare_cached(sql).doing("look for what is not signed")?;
            let range = params![log_id(no, first), log_id(no, last), log_id(1, 0) - 1, EVERY as i64];
            let ids = statement.query_map(range, |row| row.get(0)).doing("look for what is not signed")?;
            let ids: Vec<i64> = ids.collect::<Result<_, _>>().doing("look for what is not signed")?;
            let mut found = Vec::with_capacity(ids.len());
            for version in ids.into_iter().map(version_of) {
                if let Some(chain) = hash_of(conn, no, version)? {
                    found.push((version, chain));
                }
            }
            Ok(found)
        })
    }

    /// The last version of a site, up to `last`, that can be handed over: what nobody vouches for is of no use to others, who would wait for it
    /// here while somebody else has its signature.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn provable(&self, site: SiteId, last: u64) -> Result<u64, StoreError> {
        self.read(|conn| {
            let own = Own::load(conn)?;
            let Some(no) = crate::own::known_site_no(conn, site)?.filter(|no| own.signed && *no != own.no) else {
                return Ok(last);
            };
            if covering(conn, no, last)?.is_some() {
                return Ok(last);
            }
            let sql = "SELECT coalesce(max(version), 0) FROM isle_proof WHERE site = ?1 AND version < ?2";
            Ok(crate::clocks::one::<i64>(conn, sql, params![no, last as i64])?.unwrap_or(0) as u64)
        })
    }

    /// The signature that is good for a version of a site, and the version that it is good up to, which is applied here if `version` is.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn proof_for(&self, site: SiteId, version: u64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        self.read(|conn| {
            let Some(no) = crate::own::known_site_no(conn, site)? else { return Ok(None) };
            let Some((last, proof)) = covering(conn, no, version)? else { return Ok(None) };
            let applied = crate::own::base(conn, no)?.map_or(0, |base| base.0);
            if last <= applied || version > applied {
                return Ok(Some((last, proof)));
            }
            let between = between(conn, no, applied + 1, last, &proof)?;
            Ok(Some(between.map_or((last, proof), |between| (applied, between))))
        })
    }
}

/// Notes own signatures; false if one was left out, because its version was sealed anew meanwhile.
pub(crate) fn note_own(conn: &Connection, proofs: &[(u64, Hash, Vec<u8>)]) -> Result<bool, StoreError> {
    let no: i64 = layout::require_meta(conn, "site")?;
    let mut all = true;
    for (version, chain, proof) in proofs {
        if hash_of(conn, no, *version)? == Some(*chain) {
            insert(conn, no, *version, proof)?;
            thin(conn, no, *version)?;
        } else {
            all = false;
        }
    }
    Ok(all)
}

/// Of signatures before a version only those are kept that spare others to wait for [`EVERY`] versions, or for a large one.
fn thin(conn: &Connection, no: i64, before: u64) -> Result<(), StoreError> {
    let sql = "DELETE FROM isle_proof WHERE site = ?1 AND version >= ?2 AND version < ?3 AND version % ?4 <> 0
               AND EXISTS (SELECT 1 FROM isle_log WHERE id = (isle_proof.site << 44 | isle_proof.version) AND body IS NOT NULL)";
    let mut statement = conn.prepare_cached(sql).doing("store a signature")?;
    // Those of an earlier interval end it, where no other does.
    let first = before - before % EVERY;
    let values = params![no, first as i64, before as i64, EVERY as i64];
    statement.execute(values).doing("store a signature").map(|_| ())
}

fn insert(conn: &Connection, no: i64, version: u64, proof: &[u8]) -> Result<(), StoreError> {
    let sql = "INSERT OR IGNORE INTO isle_proof(site, version, body) VALUES(?1, ?2, ?3)";
    let mut statement = conn.prepare_cached(sql).doing("store a signature")?;
    statement.execute(params![no, version as i64, proof]).doing("store a signature").map(|_| ())
}

/// The hash of a logged header.
fn hash_of(conn: &Connection, no: i64, version: u64) -> Result<Option<Hash>, StoreError> {
    let sql = "SELECT header FROM isle_log WHERE id = ?1";
    Ok(crate::clocks::one::<Vec<u8>>(conn, sql, [log_id(no, version)])?.map(|header| Header::hash(&header)))
}

/// The first signature at or behind a version.
fn covering(conn: &Connection, no: i64, version: u64) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let sql = "SELECT version, body FROM isle_proof WHERE site = ?1 AND version >= ?2 ORDER BY version LIMIT 1";
    let mut statement = conn.prepare_cached(sql).doing("look for a signature")?;
    let found = statement.query_row(params![no, version as i64], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)));
    found.optional().doing("look for a signature")
}

/// The versions of a site behind this one are about to move to another: a signature of one of them has to be good without them.
pub(crate) fn keep_for(conn: &Connection, no: i64, version: u64) -> Result<(), StoreError> {
    let Some((last, proof)) = covering(conn, no, version)?.filter(|(last, _)| version > 0 && *last > version) else {
        return Ok(());
    };
    match between(conn, no, version + 1, last, &proof)? {
        Some(proof) => insert(conn, no, version, &proof)?,
        None => tracing::warn!(
            no,
            version,
            last,
            "the signature of what was handed over is lost: others can get it from those alone that have it"
        ),
    }
    let sql = "DELETE FROM isle_proof WHERE site = ?1 AND version > ?2";
    conn.execute(sql, params![no, version as i64]).doing("store a signature").map(|_| ())
}

/// A signature of version `last` with the headers from `first` on, which makes it good for the version before; `None` where they are not all here.
fn between(conn: &Connection, no: i64, first: u64, last: u64, proof: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((proof, others)) = proof.split_at_checked(PROOF_BYTES) else { return Ok(None) };
    let mut bytes = proof.to_vec();
    let mut statement =
        conn.prepare_cached("SELECT header FROM isle_log WHERE id = ?1").doing("look for a signature")?;
    for version in first..=last {
        let header = statement.query_row([log_id(no, version)], |row| row.get::<_, Vec<u8>>(0)).optional();
        let Some(header) = header.doing("look for a signature")? else { return Ok(None) };
        bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&header);
        if bytes.len() + others.len() > PROOF_BYTES + BETWEEN_BYTES_MAX {
            return Ok(None);
        }
    }
    bytes.extend_from_slice(others);
    Ok(Some(bytes))
}

/// The hash of a version by its device's signature, of it or of one behind it.
fn proven(proof: &[u8], group: GroupId, site: SiteId, version: u64) -> Result<Hash, StoreError> {
    let (signature, mut rest) = proof.split_at(proof.len().min(PROOF_BYTES));
    let refused = |source| StoreError::BadProof { site, version, source };
    let wrong = || refused(isle_identity::ProofError::Size { found: proof.len() });
    if rest.len() > BETWEEN_BYTES_MAX {
        return Err(wrong());
    }
    let mut between = Vec::new();
    while !rest.is_empty() {
        let (length, header) = rest.split_first_chunk().ok_or_else(wrong)?;
        let (header, others) = header.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(wrong)?;
        between.push(header);
        rest = others;
    }
    let last = version.checked_add(between.len() as u64).ok_or_else(wrong)?;
    let mut hash = isle_identity::proven(signature, group, site, last).map_err(refused)?;
    for (header, version) in between.iter().rev().zip((version..=last).rev()) {
        let bad = |source| StoreError::BadChangeset { site, version, source };
        let decoded = Header::decode(header).map_err(bad)?;
        if Header::hash(header) != hash || (decoded.site, decoded.version) != (site, version) {
            return Err(bad(DecodeError::Hash { what: "header behind a signed version" }));
        }
        hash = decoded.previous;
    }
    Ok(hash)
}

/// Takes the signature of another site's device; gives the local number of the site, or `None` if it is of no use.
pub(crate) fn put(
    conn: &Connection,
    own: &Own,
    site: SiteId,
    version: u64,
    proof: &[u8],
) -> Result<Option<i64>, StoreError> {
    if !own.signed || site == own.site {
        return Ok(None);
    }
    let chain = proven(proof, own.group, site, version)?;
    let no = site_no(conn, site)?;
    let applied = applied_version(conn, no)?;
    let known = match crate::clocks::one::<Vec<u8>>(
        conn,
        "SELECT body FROM isle_proof WHERE site = ?1 AND version = ?2",
        params![no, version as i64],
    )? {
        // The signature of what its device signed differently before; `proven` has checked that one when it came.
        Some(known) => proven(&known, own.group, site, version).ok(),
        None if version <= applied => hash_of(conn, no, version)?,
        None => None,
    };
    if known.is_some_and(|known| known != chain) {
        return Err(StoreError::Fork { site, version });
    }
    if version <= applied {
        // Of use to others, if nothing else here vouches for the version to them.
        if known.is_some() && covering(conn, no, version)?.is_none() {
            insert(conn, no, version, proof)?;
        }
        return Ok(None);
    }
    if known.is_some() {
        return Ok(None);
    }
    if version - applied > WAITING_MAX {
        return Err(StoreError::TooFarAhead { site, version, applied });
    }
    insert(conn, no, version, proof)?;
    Ok(Some(no))
}

/// Whether what is in the log of a version may have been forged: nothing says yet that its author wrote it.
pub(crate) fn is_doubtful(conn: &Connection, own: &Own, no: i64, version: u64) -> Result<bool, StoreError> {
    Ok(own.signed && no != own.no && version > proven_version(conn, no)?)
}

pub(crate) fn proven_version(conn: &Connection, no: i64) -> Result<u64, StoreError> {
    let sql = "SELECT max(version, proven) FROM isle_site WHERE no = ?1";
    Ok(crate::clocks::one::<i64>(conn, sql, [no])?.unwrap_or(0) as u64)
}

/// Throws away what stands in the log of a site up to a version and nobody vouches for.
pub(crate) fn discard(conn: &Connection, no: i64, to: u64) -> Result<(), StoreError> {
    let range = params![log_id(no, proven_version(conn, no)? + 1), log_id(no, to)];
    conn.execute("DELETE FROM isle_log WHERE id BETWEEN ?1 AND ?2", range).doing("throw a forged version away")?;
    conn.execute("DELETE FROM isle_block WHERE id BETWEEN ?1 AND ?2", range).doing("throw a forged version away")?;
    ask_again(conn)
}

/// What was thrown away may stand in objects of heads that were read already: they are read again.
pub(crate) fn ask_again(conn: &Connection) -> Result<(), StoreError> {
    conn.execute("UPDATE isle_remote_head SET etag = NULL", []).doing("throw a forged version away").map(|_| ())
}

/// Why the next version of a site may not be merged: its author has not signed it, as far as is known here.
pub(crate) fn missing(engine: &Engine, next: &Next) -> Result<Option<Waiting>, StoreError> {
    let conn = &engine.conn;
    let signed = engine.own.as_ref().is_some_and(|own| own.signed && own.no != next.no);
    if !signed || next.version <= proven_version(conn, next.no)? {
        return Ok(None);
    }
    let Some((last, proof)) = covering(conn, next.no, next.version)? else { return Ok(Some(Waiting::Unsigned)) };
    if last - next.version > SPAN_MAX {
        return Ok(Some(Waiting::Unsigned));
    }
    let group = engine.own()?.group;
    let signed = proven(&proof, group, next.site, last)?;
    let mut chain = next.chain;
    let mut statement = conn.prepare_cached("SELECT header FROM isle_log WHERE id = ?1").doing("read the log")?;
    let mut follows = true;
    for version in next.version..=last {
        let header: Option<Vec<u8>> =
            statement.query_row([log_id(next.no, version)], |row| row.get(0)).optional().doing("read the log")?;
        let Some(header) = header else { return Ok(Some(Waiting::Version { missing: version })) };
        follows &= Header::decode(&header).is_ok_and(|decoded| decoded.previous == chain);
        chain = Header::hash(&header);
    }
    if !follows || chain != signed {
        tracing::warn!(site = %next.site, from = next.version, to = last, "what came of a site is not what its device signed; it is thrown away");
        discard(conn, next.no, last)?;
        return Ok(Some(Waiting::Version { missing: next.version }));
    }
    let sql = "UPDATE isle_site SET proven = ?2 WHERE no = ?1";
    conn.prepare_cached(sql)
        .and_then(|mut update| update.execute(params![next.no, last as i64]))
        .doing("note what is signed")?;
    thin(conn, next.no, last)?;
    Ok(None)
}

/// Forgets signatures of versions that are in the log no more.
pub(crate) fn prune(conn: &Connection, no: i64, through: u64) -> Result<(), StoreError> {
    let sql = "DELETE FROM isle_proof WHERE site = ?1 AND version <= ?2";
    conn.execute(sql, params![no, through as i64]).doing("prune the log").map(|_| ())
}
