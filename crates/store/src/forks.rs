//! Sites with two histories: a file and its device's records were restored together, or a device signed twice. Which of the two is the right one
//! nobody can say; what is known of it is kept here, to be told until the site is retired.

use isle_clock::SiteId;
use isle_identity::DeviceKey;
use rusqlite::{Connection, params};

use crate::error::Doing as _;
use crate::{Store, StoreError, own};

/// A site of which two versions with one number are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The site.
    pub site: SiteId,
    /// The first version that was found to differ, of which one is here.
    pub version: u64,
    /// Who has the other one: a device, or a remote.
    pub told_by: String,
    /// When that was found, in milliseconds since 1970.
    pub seen_ms: u64,
}

impl Store {
    /// Keeps that somebody, a remote or a device with this key, has another version of a site than this replica; true if that is news.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_fork(
        &self,
        site: SiteId,
        version: u64,
        told_by: &str,
        device: Option<&DeviceKey>,
    ) -> Result<bool, StoreError> {
        let now = i64::try_from(self.runtime.now_ms()).unwrap_or(i64::MAX);
        self.internal(|conn| {
            // Of a site that was never heard of there is nothing to compare with.
            let Some(no) = own::known_site_no(conn, site)? else { return Ok(false) };
            let sql = "INSERT INTO isle_fork(site, version, told_by, seen_ms, device) VALUES(?1, ?2, ?3, ?4, ?5)
                ON CONFLICT DO UPDATE SET version = ?2 WHERE ?2 < version";
            let before = count(conn)?;
            conn.execute(sql, params![no, version as i64, told_by, now, device.map(DeviceKey::as_bytes)])
                .doing("note two histories of a site")?;
            Ok(count(conn)? > before)
        })
    }

    /// Sites with two histories, but for those that are retired, and what a device said that was put out since.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn forks(&self) -> Result<Vec<Fork>, StoreError> {
        let membership = self.membership()?;
        let all = self.read(list)?;
        Ok(all
            .into_iter()
            .filter(|(_, device)| !device.is_some_and(|key| membership.is_revoked(&key)))
            .map(|(fork, _)| fork)
            .collect())
    }
}

fn count(conn: &Connection) -> Result<i64, StoreError> {
    conn.query_row("SELECT count(*) FROM isle_fork", [], |row| row.get(0)).doing("count sites with two histories")
}

fn list(conn: &Connection) -> Result<Vec<(Fork, Option<DeviceKey>)>, StoreError> {
    let sql = "SELECT id, f.version, told_by, seen_ms, device FROM isle_fork AS f JOIN isle_site ON no = f.site
        WHERE f.site NOT IN (SELECT site FROM isle_retired) ORDER BY seen_ms, id";
    let mut statement = conn.prepare_cached(sql).doing("list sites with two histories")?;
    let rows = statement.query_map([], |row| {
        let version: i64 = row.get(1)?;
        let seen_ms: i64 = row.get(3)?;
        let (version, seen_ms) = (version as u64, seen_ms as u64);
        let device: Option<[u8; 32]> = row.get(4)?;
        let fork = Fork { site: SiteId::from_bytes(row.get(0)?), version, told_by: row.get(2)?, seen_ms };
        Ok((fork, device.map(DeviceKey::from_bytes)))
    });
    rows.and_then(Iterator::collect).doing("list sites with two histories")
}
