//! Long work: one at a time, and a record of how far it is.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Library;
use crate::Error;
use crate::replica::Inner;
use crate::sync::blocking;

/// How often a record says how far the work is, in milliseconds.
const TELL_EVERY_MS: u64 = 250;

/// What works exclude each other.
#[derive(Debug, Clone, Copy)]
enum Lane {
    Scans,
    Movements,
}

impl Lane {
    /// The name of its lock, and what is done in it.
    fn of(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Lane::Scans => ("scan", &["scan"]),
            Lane::Movements => ("move", &["push", "pull", "prune", "verify"]),
        }
    }
}

fn is_running(operation: &isle_store::Operation) -> bool {
    operation.state == isle_store::OperationState::Running
}

impl Library {
    /// Marks what runs as interrupted where nobody is at it any more: its program has ended. Blocks, but waits for nobody.
    pub(crate) fn settle_operations(inner: &Inner) -> Result<(), Error> {
        for lane in [Lane::Scans, Lane::Movements] {
            let (name, kinds) = lane.of();
            let running = |kind: &&str| Ok::<_, Error>(inner.store.operations(Some(kind), 1)?.iter().any(is_running));
            if kinds.iter().map(running).collect::<Result<Vec<_>, _>>()?.contains(&true)
                && let Some(_nobody) = inner.key_store()?.try_lock_named(&inner.path, name)?
            {
                for kind in kinds {
                    inner.store.interrupt_operations(kind)?;
                }
            }
        }
        Ok(())
    }

    /// Waits until nobody scans this database, in this process or another.
    pub(super) fn lock_scans(&self) -> Result<File, Error> {
        self.lock(Lane::Scans)
    }

    /// Waits until nobody moves contents of it. Who does so has ended what runs says to run: its records are marked.
    pub(super) async fn lock_movements(&self) -> Result<File, Error> {
        let library = self.clone();
        blocking(self.inner(), move |_| {
            let lock = library.lock(Lane::Movements)?;
            let sql = "UPDATE library_transfers SET state = 'Pending' WHERE state = 'InProgress'";
            library.replica.write(|tx| tx.execute(sql, &[]))?;
            Ok(lock)
        })
        .await
    }

    fn lock(&self, lane: Lane) -> Result<File, Error> {
        let inner = self.inner();
        let (name, kinds) = lane.of();
        let lock = inner.key_store()?.lock_named(&inner.path, name)?;
        for kind in kinds {
            let ended = inner.store.interrupt_operations(kind)?;
            if ended > 0 {
                tracing::info!(kind, ended, "work on files was interrupted when its program ended");
            }
        }
        Ok(lock)
    }
}

/// A piece of work with a record that others can look at.
#[derive(Debug)]
pub(super) struct Work {
    library: Library,
    id: i64,
    told_ms: AtomicU64,
    ended: bool,
}

impl Work {
    /// Begins one. Blocks.
    pub(super) fn begin(library: &Library, kind: &str, target: &str) -> Result<Work, Error> {
        let inner = library.inner();
        let now = inner.runtime.now_ms();
        let id = inner.store.begin_operation(kind, target, now)?;
        Ok(Work { library: library.clone(), id, told_ms: AtomicU64::new(now), ended: false })
    }

    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// Says how far it is, not too often. Blocks for as long as a small write takes.
    pub(super) fn advance(&self, done: u64, total: u64, message: &str) {
        let Some(now) = self.is_due() else { return };
        if let Err(error) = self.library.inner().store.advance_operation(self.id, (done, total), message, now) {
            tracing::debug!(%error, "how far work on files is cannot be noted");
        }
    }

    /// The same for tasks, which must not block.
    pub(super) async fn tell(&self, done: u64, total: u64, message: &str) {
        let Some(now) = self.is_due() else { return };
        let (id, message) = (self.id, message.to_owned());
        let noted = blocking(self.library.inner(), move |inner| {
            Ok(inner.store.advance_operation(id, (done, total), &message, now)?)
        });
        if let Err(error) = noted.await {
            tracing::debug!(%error, "how far work on files is cannot be noted");
        }
    }

    /// What time it is, if something is to be said by now.
    fn is_due(&self) -> Option<u64> {
        let now = self.library.inner().runtime.now_ms();
        let told = self.told_ms.load(Ordering::Relaxed);
        if now.saturating_sub(told) < TELL_EVERY_MS && now >= told {
            return None;
        }
        self.told_ms.store(now, Ordering::Relaxed);
        Some(now)
    }

    /// Ends it, with what came of it. That it cannot be noted is no reason to fail.
    pub(super) fn end(mut self, result: Result<String, String>) {
        self.ended = true;
        let inner = self.library.inner();
        if let Err(error) = inner.store.end_operation(self.id, inner.runtime.now_ms(), &result) {
            tracing::warn!(%error, "what came of work on files cannot be noted");
        }
    }
}

impl Drop for Work {
    /// Work whose future was dropped.
    fn drop(&mut self) {
        if !self.ended {
            let inner = self.library.inner();
            let result = Err("it was broken off".to_owned());
            if let Err(error) = inner.store.end_operation(self.id, inner.runtime.now_ms(), &result) {
                tracing::warn!(%error, "what came of work on files cannot be noted");
            }
        }
    }
}
