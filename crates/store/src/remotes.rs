//! Remotes of this replica, and the last head seen of each site there. Local facts: they never leave the file.

use isle_clock::SiteId;
use rusqlite::{OptionalExtension as _, params};

use crate::error::Doing as _;
use crate::{Store, StoreError, layout};

const SYNC_AT_OPEN: &str = "sync at open";

/// A remote by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRow {
    /// Its name.
    pub name: String,
    /// Where it is. Never holds a secret.
    pub url: String,
    /// Whether what goes there is not encrypted.
    pub plain: bool,
    /// What the driver remembers of it, in the driver's own form.
    pub state: Option<String>,
}

/// The last head that was seen of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenHead {
    /// The site.
    pub site: SiteId,
    /// The store's tag of that object.
    pub etag: Option<String>,
    /// The head's bytes or what the driver keeps of them.
    pub head: Vec<u8>,
}

impl Store {
    /// Sets one fact in what the driver remembers of a remote, a JSON object, and leaves the rest as it is, whoever else is at it.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_of_remote(&self, name: &str, fact: &str, json: &str) -> Result<(), StoreError> {
        self.internal(|conn| {
            let sql =
                "UPDATE isle_remote SET state = json_set(coalesce(state, '{}'), '$.' || ?2, json(?3)) WHERE name = ?1";
            conn.execute(sql, params![name, fact, json]).doing("note something of a remote").map(|_| ())
        })
    }

    /// Adds a remote, or changes where a known one is.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn put_remote(&self, remote: &RemoteRow) -> Result<(), StoreError> {
        self.internal(|conn| {
            let sql = "INSERT OR REPLACE INTO isle_remote(name, url, plain, state) VALUES(?1, ?2, ?3, ?4)";
            conn.execute(sql, params![remote.name, remote.url, remote.plain, remote.state])
                .doing("record the remote")?;
            Ok(())
        })
    }

    /// Removes a remote and what was seen there; false if there is none of that name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn remove_remote(&self, name: &str) -> Result<bool, StoreError> {
        self.internal(|conn| {
            conn.execute("DELETE FROM isle_remote_head WHERE remote = ?1", [name]).doing("remove the remote")?;
            Ok(conn.execute("DELETE FROM isle_remote WHERE name = ?1", [name]).doing("remove the remote")? == 1)
        })
    }

    /// The remotes, by name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn remotes(&self) -> Result<Vec<RemoteRow>, StoreError> {
        self.read(|conn| {
            let mut statement =
                conn.prepare("SELECT name, url, plain, state FROM isle_remote ORDER BY name").doing("list remotes")?;
            let rows = statement.query_map([], |row| {
                Ok(RemoteRow { name: row.get(0)?, url: row.get(1)?, plain: row.get(2)?, state: row.get(3)? })
            });
            rows.doing("list remotes")?.collect::<Result<_, _>>().doing("list remotes")
        })
    }

    /// Whether the driver is to sync when it opens the file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn sync_at_open(&self) -> Result<bool, StoreError> {
        self.read(|conn| Ok(layout::meta::<i64>(conn, SYNC_AT_OPEN)?.is_some()))
    }

    /// Sets [`Store::sync_at_open`].
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn set_sync_at_open(&self, on: bool) -> Result<(), StoreError> {
        self.internal(|conn| match on {
            true => layout::set_meta(conn, SYNC_AT_OPEN, 1),
            false => {
                conn.execute("DELETE FROM isle_meta WHERE k = ?1", [SYNC_AT_OPEN]).doing("change a setting").map(|_| ())
            }
        })
    }

    /// The last head seen of a site at a remote.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn seen_head(&self, remote: &str, site: SiteId) -> Result<Option<SeenHead>, StoreError> {
        self.read(|conn| {
            let sql = "SELECT etag, head FROM isle_remote_head WHERE remote = ?1 AND site = ?2";
            let found = conn.query_row(sql, params![remote, site.as_bytes()], |row| {
                Ok(SeenHead { site, etag: row.get(0)?, head: row.get(1)? })
            });
            found.optional().doing("read the last head")
        })
    }

    /// The last heads seen at a remote.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn seen_heads(&self, remote: &str) -> Result<Vec<SeenHead>, StoreError> {
        self.read(|conn| {
            let sql = "SELECT site, etag, head FROM isle_remote_head WHERE remote = ?1 ORDER BY site";
            let mut statement = conn.prepare_cached(sql).doing("read the last heads")?;
            let rows = statement.query_map([remote], |row| {
                Ok(SeenHead { site: SiteId::from_bytes(row.get(0)?), etag: row.get(1)?, head: row.get(2)? })
            });
            rows.doing("read the last heads")?.collect::<Result<_, _>>().doing("read the last heads")
        })
    }

    /// The last heads seen at every remote but one, with the names of the remotes.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn seen_heads_elsewhere(&self, remote: &str) -> Result<Vec<(String, SeenHead)>, StoreError> {
        self.read(|conn| {
            let sql = "SELECT remote, site, etag, head FROM isle_remote_head WHERE remote <> ?1 ORDER BY remote, site";
            let mut statement = conn.prepare_cached(sql).doing("read the last heads")?;
            let rows = statement.query_map([remote], |row| {
                let site = SiteId::from_bytes(row.get(1)?);
                Ok((row.get(0)?, SeenHead { site, etag: row.get(2)?, head: row.get(3)? }))
            });
            rows.doing("read the last heads")?.collect::<Result<_, _>>().doing("read the last heads")
        })
    }

    /// Remembers the last head seen of a site at a remote.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn put_seen_head(&self, remote: &str, seen: &SeenHead) -> Result<(), StoreError> {
        self.internal(|conn| {
            let sql = "INSERT OR REPLACE INTO isle_remote_head(remote, site, etag, head) VALUES(?1, ?2, ?3, ?4)";
            conn.execute(sql, params![remote, seen.site.as_bytes(), seen.etag, seen.head]).doing("remember a head")?;
            Ok(())
        })
    }
}
