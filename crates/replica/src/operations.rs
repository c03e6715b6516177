//! What was done with a replica, and what came of it.

use std::sync::Arc;

use isle_store::{Applied, Operation};

use crate::Error;
use crate::replica::{Inner, Replica};
use crate::sync::{SyncReport, blocking, reason};

/// Keeps what came of a sync, if anything did.
pub(crate) async fn note_operation(
    inner: &Arc<Inner>,
    target: &str,
    started_ms: u64,
    result: Result<&SyncReport, String>,
) {
    let (target, result) = (target.to_owned(), result.cloned());
    let noted =
        blocking(inner, move |inner| note_sync(inner, &target, started_ms, result.as_ref().map_err(Clone::clone)));
    if let Err(error) = noted.await {
        tracing::warn!(%error, "what came of a sync cannot be noted");
    }
}

/// The same. Blocks.
pub(crate) fn note_sync(
    inner: &Inner,
    target: &str,
    started_ms: u64,
    result: Result<&SyncReport, String>,
) -> Result<(), Error> {
    let result = match result {
        Ok(report) if report.is_idle() => return Ok(()),
        Ok(report) => Ok(serde_json::to_string(report).unwrap_or_default()),
        Err(error) => Err(error),
    };
    let operation = Operation::ended("sync", target, (started_ms, inner.runtime.now_ms()), result);
    Ok(inner.store.note_operation(&operation)?)
}

/// Keeps what came of something other than a sync. That it cannot be kept is no reason to fail.
pub(crate) fn note(inner: &Inner, kind: &str, target: &str, started_ms: u64, result: Result<String, String>) {
    let operation = Operation::ended(kind, target, (started_ms, inner.runtime.now_ms()), result);
    if let Err(error) = inner.store.note_operation(&operation) {
        tracing::warn!(%error, "what was done cannot be noted");
    }
}

impl SyncReport {
    /// How the replica stands after it.
    pub(crate) fn describe(&mut self, status: isle_store::Status) {
        (self.local_version, self.hidden) = (status.version, status.repaired);
        self.standing_still = status.standing_still;
    }

    /// Counts what was merged.
    pub(crate) fn count(&mut self, applied: &Applied) {
        self.pulled_versions += applied.versions;
        self.pulled_rows += applied.rows;
        self.conflicts += applied.conflicts;
        for table in &applied.tables {
            if !self.tables.contains(table) {
                self.tables.push(table.clone());
            }
        }
    }

    /// The same, and what waits after it.
    pub(crate) fn add(&mut self, applied: &Applied) {
        self.count(applied);
        let told = |(site, version, why): &(isle_clock::SiteId, u64, isle_store::Waiting)| {
            (site.to_string(), *version, reason(why))
        };
        self.waiting = applied.waiting.iter().map(told).collect();
    }

    /// Whether it did nothing that anybody would want to read of.
    fn is_idle(&self) -> bool {
        let changes = self.pulled_versions + self.pushed_versions + self.pulled_operations + self.pushed_operations;
        let moved = changes + self.conflicts + self.restamped_versions;
        let odd = self.refused.len() + self.turned_away.len() + self.stale.len() + self.waiting.len();
        moved == 0 && odd == 0 && !self.snapshot_joined && !self.snapshot_published && self.new_site.is_none()
    }
}

impl Replica {
    /// What was done with this file and what came of it, newest first; of one kind if that is given: `sync`, `backup`, `restore`, `scan`, `push`, `pull`. Syncs that found nothing to do are not kept;
    /// one that fails again and again for one reason is one entry.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn operations(&self, kind: Option<&str>, limit: usize) -> Result<Vec<Operation>, Error> {
        crate::Library::settle_operations(&self.inner)?;
        Ok(self.inner.store.operations(kind, limit)?)
    }

    /// One of them. A long one, a scan say, is there from its beginning and tells how far it is.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn operation(&self, id: i64) -> Result<Option<Operation>, Error> {
        let found = self.inner.store.operation(id)?;
        match &found {
            Some(operation) if operation.state == isle_store::OperationState::Running => {
                crate::Library::settle_operations(&self.inner)?;
                Ok(self.inner.store.operation(id)?)
            }
            _ => Ok(found),
        }
    }
}
