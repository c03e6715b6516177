//! Throwing away what nobody needs: old changesets here and in the remotes, and tombstones.

use std::sync::Arc;
use std::time::Duration;

use isle_clock::{Hlc, VersionVector};
use isle_store::Compacted;
use serde::Serialize;

use super::push::Facts;
use super::{Session, SyncOptions, SyncReport, blocking, selected};
use crate::Error;
use crate::replica::Inner;

/// What to throw away.
#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// Changesets younger than this stay in the log, for `log` and for replicas that ask for them. Default: 30 days.
    pub keep: Duration,
    /// How long all heads must have held a delete to be known by everyone before its tombstone goes. A sync must not last
    /// longer. Default: 1 day.
    pub grace: Duration,
    /// Gives the room back to the file system. It takes as much again while it runs, and renumbers the rowids of tables
    /// without an INTEGER PRIMARY KEY.
    pub vacuum: bool,
    /// The sync that comes first. With a single remote chosen no tombstone goes: the others have their say, too.
    pub sync: SyncOptions,
}

impl Default for CompactOptions {
    fn default() -> CompactOptions {
        let day = Duration::from_secs(24 * 60 * 60);
        CompactOptions { keep: 30 * day, grace: day, vacuum: false, sync: SyncOptions::default() }
    }
}

/// What was thrown away.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CompactReport {
    /// The syncs that came first, one for each remote.
    pub remotes: Vec<SyncReport>,
    /// Changesets that left the log here.
    pub versions: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Tombstones that were collected.
    pub tombstones: u64,
    /// Tombstones cannot go yet: some replica has not acknowledged the deletes, or did so too short a time ago.
    pub waiting: bool,
    /// Sites whose heads do not say yet that they have all that is here.
    pub waiting_for: Vec<String>,
    /// Size of the file before, in bytes.
    pub file_bytes_before: u64,
    /// Size of the file after.
    pub file_bytes_after: u64,
}

/// Syncs with every remote, puts snapshots in the place of long logs, and forgets here what others can have from there.
pub(crate) async fn compact(inner: &Arc<Inner>, options: &CompactOptions) -> Result<CompactReport, Error> {
    let _one_at_a_time = inner.syncing.lock().await;
    let all = options.sync.remote.is_none();
    let choosing = options.sync.clone();
    let rows = blocking(inner, move |inner| match selected(inner, &choosing) {
        // Without a remote there is still a log to prune of what others had handed over.
        Err(Error::NoRemote) => Ok(Vec::new()),
        other => other,
    });
    let mut report = CompactReport { file_bytes_before: file_bytes(inner), ..CompactReport::default() };
    let grace = u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX);
    let mut floor: Option<VersionVector> = None;
    for row in rows.await? {
        let mut session = Session::start(inner, &options.sync, row).await?;
        session.compacting = true;
        let mut session = session.run().await?;
        if all {
            let stable = session.take_stable(grace).await?;
            floor = Some(floor.map_or(stable.clone(), |floor| floor.meet(&stable)));
        }
        report.waiting_for.extend(session.behind());
        report.remotes.push(session.report);
    }
    report.waiting_for.sort_unstable();
    report.waiting_for.dedup();
    let now = inner.runtime.now_ms();
    let keep = u64::try_from(options.keep.as_millis()).unwrap_or(u64::MAX);
    let before = Hlc::new(now.saturating_sub(keep), 0).unwrap_or(Hlc::ZERO);
    let vacuum = options.vacuum;
    let (pruned, tombstones, waiting) = blocking(inner, move |inner| {
        let tombstones = match &floor {
            Some(floor) if !floor.is_empty() => inner.store.collect(floor)?,
            _ => 0,
        };
        let waiting = inner.store.tombstones()? > 0;
        let pruned: Compacted = inner.store.prune_log(before)?;
        if vacuum {
            inner.store.vacuum()?;
        }
        Ok((pruned, tombstones, waiting))
    })
    .await?;
    report.versions = pruned.versions;
    report.bytes = pruned.bytes;
    report.tombstones = tombstones;
    report.waiting = waiting;
    report.file_bytes_after = file_bytes(inner);
    Ok(report)
}

/// The file with its write-ahead log.
fn file_bytes(inner: &Inner) -> u64 {
    let mut wal = inner.path.clone().into_os_string();
    wal.push("-wal");
    let bytes = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
    bytes(&inner.path) + bytes(std::path::Path::new(&wal))
}

impl Session<'_> {
    /// What every site has applied, here and in this replica's other remotes, as far as this one can vouch for it: it has itself
    /// applied what they had written by then. Of a site elsewhere that does not come here, what it holds to be applied by everyone
    /// counts: it may be the way to others. And this one vouches for no more than it has told those elsewhere, so that a newcomer
    /// there can know of it.
    pub(super) fn held_by_all(&self, facts: &Facts) -> VersionVector {
        let Some(elsewhere) = facts.elsewhere.as_ref().filter(|_| !self.unread) else { return VersionVector::new() };
        let mut held = facts.vector.clone();
        for own in elsewhere.iter().filter(|head| head.site == self.site) {
            held = held.meet(&own.acknowledged);
        }
        let elsewhere = elsewhere.iter().filter(|head| head.site != self.site).map(|head| {
            let comes_here = self.heads.iter().any(|known| known.site == head.site);
            (head, comes_here)
        });
        for (head, comes_here) in self.heads.iter().map(|head| (head, true)).chain(elsewhere) {
            if facts.retired.iter().any(|(site, last)| *site == head.site && facts.vector.contains(*site, *last)) {
                continue;
            }
            let heard = facts.vector.contains(head.site, head.acknowledged.get(head.site));
            if !heard || head.retired != facts.retired {
                return VersionVector::new();
            }
            held = held.meet(&head.acknowledged);
            if !comes_here {
                held = held.meet(&head.floor);
            }
        }
        held
    }

    /// Sites that are not retired and have not acknowledged all that this one holds to be applied here.
    fn behind(&self) -> Vec<String> {
        let Some(own) = &self.own else { return Vec::new() };
        let alive = self.heads.iter().filter(|head| !own.retired.iter().any(|(site, _)| *site == head.site));
        alive.filter(|head| !head.acknowledged.includes(&own.acknowledged)).map(|head| head.site.to_string()).collect()
    }

    /// Notes what all heads hold to be applied by everyone, and since when.
    pub(super) fn watch_floor(&mut self) {
        let now = self.inner.runtime.now_ms();
        let common = self.common_floor();
        match &self.state.floor {
            Some((floor, _)) if common.includes(floor) && !floor.is_empty() => {}
            _ => self.state.floor = Some((common, now)),
        }
    }

    /// The meet of what all heads hold to be applied by everyone.
    fn common_floor(&self) -> VersionVector {
        let Some(own) = self.own.as_ref().filter(|_| !self.unread) else { return VersionVector::new() };
        let alive = self.heads.iter().filter(|head| !own.retired.iter().any(|(site, _)| *site == head.site));
        alive.fold(own.floor.clone(), |common, head| {
            if head.retired == own.retired { common.meet(&head.floor) } else { VersionVector::new() }
        })
    }

    /// What can be collected: all heads have held it to be applied by everyone for as long as `grace`, in milliseconds.
    async fn take_stable(&mut self, grace: u64) -> Result<VersionVector, Error> {
        let now = self.inner.runtime.now_ms();
        let Some((floor, since)) = self.state.floor.clone() else { return Ok(VersionVector::new()) };
        if now.saturating_sub(since) < grace {
            return Ok(VersionVector::new());
        }
        // The next wait begins with what they hold by now.
        self.state.floor = Some((self.common_floor(), now));
        self.save_state().await?;
        Ok(floor)
    }
}
