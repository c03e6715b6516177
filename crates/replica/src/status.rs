//! A replica in a few facts.

use std::path::PathBuf;

use isle_clock::{GroupId, SiteId};
use isle_store::{Fork, Site};

use crate::{Device, Error, RemoteInfo, Replica};

/// A summary of a replica.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its file.
    pub path: PathBuf,
    /// Its app.
    pub app: String,
    /// Its group.
    pub group: GroupId,
    /// Its site id.
    pub site: SiteId,
    /// The device that it is on.
    pub device: Device,
    /// Its last version.
    pub version: u64,
    /// Its last version that was handed to somebody.
    pub published: u64,
    /// Tracked tables.
    pub tables: Vec<String>,
    /// Tables that stay on this device.
    pub untracked: Vec<String>,
    /// Tracked tables that were changed past isle and stand still ([`Replica::schema_state`]).
    pub standing_still: Vec<String>,
    /// Changed rows of other clients that wait to be recorded.
    pub queued: u64,
    /// Changesets of others that are here and not merged yet.
    pub waiting: u64,
    /// Schema operations that are here and cannot be applied yet ([`Replica::schema_state`]).
    pub pending_operations: u64,
    /// Open entries in the conflict journal.
    pub conflicts: u64,
    /// Rows that a constraint keeps from showing as they are merged ([`Replica::repaired`]).
    pub repaired: u64,
    /// How far, in milliseconds, the largest time issued or seen here is ahead of this device's clock; 0 while that is within
    /// the drift bound. Beyond it other replicas hold back what is written here until that time comes: set the clock right.
    pub clock_ahead_ms: u64,
    /// Sites with two histories: nothing of them is exchanged between those who have different ones. Retiring such a site ends it.
    pub forks: Vec<Fork>,
    /// The replicas of the group, as far as known.
    pub sites: Vec<Site>,
    /// The remotes.
    pub remotes: Vec<RemoteInfo>,
}

impl Replica {
    /// What the file holds, and how much room each part takes. Reads every row.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn info(&self) -> Result<isle_store::Info, Error> {
        Ok(self.inner.store.info()?)
    }

    /// Gives free room back to the file system, and makes the file as compact as SQLite can. Takes as much room again while it runs; rows of
    /// tables without an INTEGER PRIMARY KEY get new rowids.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn vacuum(&self) -> Result<(), Error> {
        Ok(self.inner.store.vacuum()?)
    }

    /// A summary. Changes nothing.
    ///
    /// # Errors
    /// SQLite's reason, or the key store's.
    pub fn status(&self) -> Result<Status, Error> {
        let status = self.inner.store.status()?;
        Ok(Status {
            path: self.inner.path.clone(),
            app: status.app,
            group: status.group,
            site: status.site,
            device: self.inner.device()?,
            version: status.version,
            published: status.published,
            tables: status.tables,
            untracked: status.untracked,
            standing_still: status.standing_still,
            queued: status.queued,
            waiting: status.waiting,
            pending_operations: status.pending_operations,
            conflicts: status.conflicts,
            repaired: status.repaired,
            forks: self.inner.store.forks()?,
            clock_ahead_ms: status.clock_ahead_ms,
            sites: status.sites,
            remotes: self.remotes()?,
        })
    }
}
