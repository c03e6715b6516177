//! What leaves the log for others. It is compared with its hashes first: what the disk has damaged is refused by everybody, and a head that
//! holds it takes the place of a sound one in a bucket.

use isle_changeset::{Hash, Header};
use isle_clock::SiteId;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::StoreError;
use crate::error::Doing as _;
use crate::layout::{log_id, meta, version_of};

/// A version as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The author's version.
    pub version: u64,
    /// Its time, as the bits of an [`Hlc`](isle_clock::Hlc).
    pub hlc: u64,
    /// The encoded header.
    pub header: Vec<u8>,
    /// The stored block, if there is just one; those of a larger changeset are read one by one.
    pub only: Option<Vec<u8>>,
}

/// Versions of a site after one, in order, until they hold `bytes`; true beside them if there are more.
pub(crate) fn changesets(
    conn: &Connection,
    site: SiteId,
    after: u64,
    bytes: usize,
) -> Result<(Vec<Logged>, bool), StoreError> {
    let Some(author) = Author::load(conn, site)?.filter(|_| version_of(log_id(0, after)) == after) else {
        return Ok((Vec::new(), false));
    };
    let (found, more) = author.read(conn, after, bytes)?;
    let mut next = match found.last() {
        Some(last) => author.header(conn, last.version + 1)?,
        None => None,
    };
    for logged in found.iter().rev() {
        next = Some(author.check(logged, next.as_ref())?);
    }
    Ok((found, more))
}

/// One block of a version; `None` if it is not here.
pub(crate) fn block(conn: &Connection, site: SiteId, version: u64, n: usize) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((id, encoded)) = crate::log::header(conn, site, version)? else { return Ok(None) };
    let damaged = |what| StoreError::LogDamaged { site, version, what };
    let header = Header::decode(&encoded).map_err(|error| damaged(error.to_string()))?;
    // Whoever asks for more than there is finds no damage.
    let Some(info) = header.blocks.get(n) else { return Ok(None) };
    let Some(stored) = crate::log::block(conn, id, header.blocks.len(), n)? else { return Ok(None) };
    if *blake3::hash(&stored).as_bytes() != info.hash {
        return Err(damaged(format!("block {n} does not match its hash")));
    }
    Ok(Some(stored))
}

/// Who wrote the versions, and what is known of them beside the log.
struct Author {
    site: SiteId,
    no: i64,
    is_own: bool,
    applied: u64,
    /// The hash of the header that was applied last.
    chain: Option<Hash>,
}

impl Author {
    fn load(conn: &Connection, site: SiteId) -> Result<Option<Author>, StoreError> {
        let own: Option<i64> = meta(conn, "site")?;
        let sql = "SELECT no, version, chain FROM isle_site WHERE id = ?1";
        let mut statement = conn.prepare_cached(sql).doing("read the state of a site")?;
        let found = statement.query_row([site.as_bytes()], |row| {
            let (no, applied) = (row.get(0)?, row.get::<_, i64>(1)? as u64);
            Ok(Author { site, no, is_own: own == Some(no), applied, chain: row.get(2)? })
        });
        found.optional().doing("read the state of a site")
    }

    fn read(&self, conn: &Connection, after: u64, bytes: usize) -> Result<(Vec<Logged>, bool), StoreError> {
        let sql = "SELECT id, header, body, hlc FROM isle_log WHERE id > ?1 AND id < ?2 ORDER BY id";
        let mut statement = conn.prepare_cached(sql).doing("read the log")?;
        let range = params![log_id(self.no, after), log_id(self.no + 1, 0)];
        let mut rows = statement.query(range).doing("read the log")?;
        let (mut found, mut held) = (Vec::new(), 0);
        while let Some(row) = rows.next().doing("read the log")? {
            if held >= bytes && !found.is_empty() {
                return Ok((found, true));
            }
            let version = version_of(row.get(0).doing("read the log")?);
            let header: Vec<u8> = row.get(1).doing("read the log")?;
            let only: Option<Vec<u8>> = row.get(2).doing("read the log")?;
            held += header.len() + only.as_ref().map_or(0, Vec::len);
            let hlc = row.get::<_, i64>(3).doing("read the log")? as u64;
            found.push(Logged { version, hlc, header, only });
        }
        Ok((found, false))
    }

    /// The header of a version in the log; `None` also for one that cannot be read, which is found out when it is its turn.
    fn header(&self, conn: &Connection, version: u64) -> Result<Option<Header>, StoreError> {
        let sql = "SELECT header FROM isle_log WHERE id = ?1";
        let encoded = crate::clocks::one::<Vec<u8>>(conn, sql, [log_id(self.no, version)])?;
        Ok(encoded.and_then(|encoded| Header::decode(&encoded).ok()))
    }

    /// The hash that the header of a version must have; `next` is one behind it. Of versions that wait nothing is known yet.
    fn hash_of(&self, version: u64, next: Option<&Header>) -> Option<Hash> {
        if !self.is_own && version >= self.applied {
            return self.chain.filter(|_| version == self.applied);
        }
        next.filter(|next| next.version == version + 1).map(|next| next.previous)
    }

    fn check(&self, logged: &Logged, next: Option<&Header>) -> Result<Header, StoreError> {
        let version = logged.version;
        let damaged = |what| StoreError::LogDamaged { site: self.site, version, what };
        let header = Header::decode(&logged.header).map_err(|error| damaged(error.to_string()))?;
        if self.hash_of(version, next).is_some_and(|hash| hash != Header::hash(&logged.header)) {
            return Err(damaged("its header does not match its hash".to_owned()));
        }
        if let (Some(only), [info]) = (&logged.only, header.blocks.as_slice())
            && *blake3::hash(only).as_bytes() != info.hash
        {
            return Err(damaged("its block does not match its hash".to_owned()));
        }
        Ok(header)
    }
}
