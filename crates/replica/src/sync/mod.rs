//! Syncing with remotes: what others published comes in, what this replica has goes out.
//!
//! One idle sync is one LIST of `head/`. A head that changed is read once; the segments that it names are fetched only where they
//! hold versions that are not here. A small push is one PUT of the own head, which carries the newest changesets itself; a
//! larger one moves them into segments first. Segments of an own head grow geometrically: a new one takes in the last
//! while that is smaller than twice the new one, so a version is uploaded again at most a logarithmic number of times.
//!
//! Order of a session: record foreign writes, confirm the identity, list heads, look at the own head, pull, merge, push.
//!
//! # Snapshots
//! A replica that lacks versions which no head offers any more, or has nothing yet, takes in a snapshot first. One is published when
//! the log here cannot serve what the remote lacks, when the own segments have grown beyond twice the file, or on request; it
//! takes the place of the own segments.
//!
//! # Who speaks
//! A head counts if the device signed it whose site it is, and if it is newer than the last one that was seen of the site ([`heads`]).
//! Membership operations travel as objects that heads name: so a revocation reaches devices that never meet another one directly.
//!
//! # Encryption
//! A remote is encrypted with the group's key unless it was added as a plain one ([`keys`]).
//!
//! # Collection
//! Each head says what its site has applied (`acknowledged`) and what it holds to be applied by everyone (`floor`): the meet of
//! what all heads acknowledge, in all remotes that it syncs with, provided that it has itself applied what their sites wrote until
//! then. What all heads had held so for a
//! grace period can be collected: no changeset can come any more whose author has not seen it. A newcomer that read the heads before
//! that has shown its own head by then, for no sync lasts as long as the grace period; one that comes later, or was retired,
//! seals anew what it wrote in ignorance of what the others acknowledge before it publishes: it counts as written when it joined. So neither the order of a LIST nor anyone's wall clock is relied upon, only
//! that this device's clock measures the grace period and that a listing is not older than it.

mod compact;
mod heads;
mod identity;
mod keys;
mod pull;
mod push;
mod snapshot;
mod state;

pub(crate) use compact::compact;
pub use compact::{CompactOptions, CompactReport};
pub(crate) use state::RemoteState;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use isle_blobs::{GroupObject, Head, HeadRef, Remote, RemoteError};
use isle_clock::{SiteId, VersionVector};
use isle_identity::KeyId;
use isle_schema::MigrationId;
use isle_store::{RemoteRow, SeenHead, Waiting};
use serde::Serialize;

use crate::Error;
use crate::operations::note_operation;
use crate::replica::{Inner, Replica};

/// How to sync.
#[derive(Clone, Default)]
pub struct SyncOptions {
    /// Only the remote of this name.
    pub remote: Option<String>,
    /// Which way changes go.
    pub direction: Direction,
    /// Whose value stands where a concurrent write lost in this sync.
    pub prefer: Prefer,
    /// Is told how far the sync is.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl std::fmt::Debug for SyncOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncOptions")
            .field("remote", &self.remote)
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}

/// Which way a sync moves changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// What others published comes in, what is here goes out.
    #[default]
    Both,
    /// Others' changes come in; nothing is published.
    Pull,
    /// What is here is published; nothing is fetched. A replica that is new to the remote has to pull first.
    Push,
}

/// Whose value stands after a conflict. What a merge decides is the same everywhere; a preference writes the value that lost again, as
/// a change of today, and marks the entry of the journal as dealt with. Rows that were deleted stay deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// The later write, as the merge has it.
    #[default]
    Merge,
    /// This replica's value.
    Local,
    /// The other's value.
    Remote,
}

/// What a sync is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Fetching segments.
    Download,
    /// Merging changesets.
    Merge,
    /// Sending segments.
    Upload,
}

/// How far a phase is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes done in this phase.
    pub done_bytes: u64,
    /// Bytes to do in this phase, as far as known.
    pub total_bytes: u64,
}

/// What came of a sync with one remote.
#[derive(Debug)]
pub struct Outcome {
    /// The remote's name.
    pub remote: String,
    /// What was done, or why it failed; what arrived before it failed stays.
    pub result: Result<SyncReport, Error>,
}

/// What a sync with one remote did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SyncReport {
    /// The remote's name.
    pub remote: String,
    /// Which way changes went.
    pub direction: Direction,
    /// This replica's last version.
    pub local_version: u64,
    /// Its last version in the remote before this sync.
    pub remote_version: u64,
    /// Changesets merged.
    pub pulled_versions: u64,
    /// Rows in them.
    pub pulled_rows: u64,
    /// Own changesets published.
    pub pushed_versions: u64,
    /// Schema operations of others that were applied.
    pub pulled_operations: u64,
    /// Schema operations published that were not there.
    pub pushed_operations: u64,
    /// Values that went to the conflict journal.
    pub conflicts: u64,
    /// Whether there were any.
    pub conflict_detected: bool,
    /// Whose value was to stand.
    pub prefer: Prefer,
    /// When the remote was last written before this sync, in milliseconds since 1970, by its own clock.
    pub remote_modified_ms: Option<u64>,
    /// How many of them were written again, because this replica's or the other's value is preferred.
    pub put_back: u64,
    /// Rows that a constraint keeps from showing as they are merged, in all, after this sync.
    pub hidden: u64,
    /// Tables that changed here.
    pub tables: Vec<String>,
    /// Tracked tables that were changed past isle, whose rows do not travel ([`Replica::schema_state`]).
    pub standing_still: Vec<String>,
    /// Replicas seen in the remote, this one included.
    pub replicas: u64,
    /// What a bucket with versioning calls the head that this sync put: what to ask for to see this state again.
    pub head_version_id: Option<String>,
    /// Requests made.
    pub requests: u64,
    /// Whether own changes were held back: this replica is new here and could not catch up with the others yet.
    pub held_back: bool,
    /// Whether a snapshot was taken in.
    pub snapshot_joined: bool,
    /// Whether a snapshot was published.
    pub snapshot_published: bool,
    /// Bytes sent.
    pub uploaded_bytes: u64,
    /// Bytes received.
    pub downloaded_bytes: u64,
    /// Changesets that wait for something: site, version and the reason.
    pub waiting: Vec<(String, u64, String)>,
    /// Schema operations that cannot be applied here yet; what needs them waits, the rest was merged.
    pub pending: Vec<Pending>,
    /// What was refused, and why; other sites' data was not affected.
    pub refused: Vec<String>,
    /// Sites that nobody knows and whose devices lack the group's present key.
    pub turned_away: Vec<String>,
    /// Sites whose head went back: the remote was rolled back. Their old head is not followed.
    pub stale: Vec<String>,
    /// The new site id, if this file turned out to be a copy or an older state, or was retired.
    pub new_site: Option<String>,
    /// Unpublished changes whose times were far ahead of this device's clock, and which were therefore stamped anew.
    pub restamped_versions: u64,
    /// Whether others had retired this replica; it goes on under its new site id.
    pub was_retired: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A schema operation that cannot be applied here yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Its id.
    pub operation: String,
    /// `blocked`, `follows`, `newer` or `app`: something stands in its way here, one that it follows is not applied, a newer isle made it,
    /// or it is for later versions of the app.
    pub state: &'static str,
    /// Why, and what to do.
    pub reason: String,
}

/// What cannot be applied in a file yet.
pub(crate) fn pending(inner: &Inner) -> Result<Vec<Pending>, Error> {
    let told = |operation: isle_store::PendingOperation| Pending {
        operation: operation.id.to_string(),
        state: operation.hindrance.as_str(),
        reason: operation.hindrance.to_string(),
    };
    Ok(inner.store.pending_operations()?.into_iter().map(told).collect())
}

/// How a replica and a remote compare.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// The remote's name.
    pub remote: String,
    /// Whether the remote holds a group at all.
    pub exists: bool,
    /// Own changesets that the remote lacks.
    pub ahead: u64,
    /// Changed rows of other clients that are not recorded yet.
    pub queued: u64,
    /// Changesets of others that are not here.
    pub behind: u64,
    /// Whether both sides have what the other lacks: a sync will merge, and may journal conflicts.
    pub diverged: bool,
    /// This replica's last version.
    pub local_version: u64,
    /// Its last version in the remote.
    pub remote_version: u64,
    /// When the remote was last written, in milliseconds since 1970, by its own clock.
    pub remote_modified_ms: Option<u64>,
    /// When this replica last synced with it.
    pub last_sync_ms: Option<u64>,
}

/// One sync with one remote.
struct Session<'a> {
    inner: &'a Arc<Inner>,
    options: &'a SyncOptions,
    row: RemoteRow,
    /// As it is, without keys.
    raw: Remote,
    remote: Remote,
    state: RemoteState,
    /// What this replica is called in the group.
    site: SiteId,
    /// Heads of others as they stand, and of this replica if it has one there.
    heads: Vec<Head>,
    own: Option<Head>,
    /// Held against other processes on this file: a head has one writer.
    _lock: std::fs::File,
    /// The own head must be put again whether there is news or not: the one that stands is damaged.
    repair: bool,
    /// The key that this replica encrypts with here.
    present: Option<KeyId>,
    /// Rotations were looked for in this session.
    looked_for_keys: bool,
    /// Not every head could be read: nothing can be said of what all have.
    unread: bool,
    /// A snapshot takes the place of the own segments, whatever they weigh.
    compacting: bool,
    /// What the last merge left, by site.
    /// Schema operations that came from the remote in this session.
    fetched: BTreeSet<MigrationId>,
    waiting: Vec<(SiteId, u64, Waiting)>,
    report: SyncReport,
}

/// Runs store work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    f: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if inner.runtime.blocks_in_place() {
        return f(inner);
    }
    let inner = Arc::clone(inner);
    match tokio::task::spawn_blocking(move || f(&inner)).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Cancelled),
    }
}

/// A remote to put contents of files into, and to take them from.
pub(crate) async fn open_for_files(inner: &Arc<Inner>, row: &RemoteRow) -> Result<Remote, Error> {
    let remote = keys::opened(inner, row, &open(inner, row)?).await?;
    // One that was never synced with holds nothing, and nobody knows with which key to begin.
    if remote.is_sealed() != row.plain { Ok(remote) } else { Err(Error::NeverSynced { name: row.name.clone() }) }
}

fn selected(inner: &Inner, options: &SyncOptions) -> Result<Vec<RemoteRow>, Error> {
    let mut rows = inner.store.remotes()?;
    if let Some(name) = &options.remote {
        rows.retain(|row| row.name == *name);
        if rows.is_empty() {
            return Err(Error::NoSuchRemote { name: name.clone() });
        }
    }
    if rows.is_empty() { Err(Error::NoRemote) } else { Ok(rows) }
}

fn open(inner: &Inner, row: &RemoteRow) -> Result<Remote, Error> {
    let opened = inner.opened.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, remote)) = opened.iter().find(|(name, _)| *name == row.name) {
        return Ok(remote.clone());
    }
    // Whoever made the file would read along.
    if row.plain && !inner.key_store()?.trusted_plain()?.contains(&row.url) {
        return Err(Error::RemoteNotOurs { name: row.name.clone(), url: row.url.clone() });
    }
    Remote::open(&row.url, &inner.remote_options).map_err(|source| Error::Remote { name: row.name.clone(), source })
}

/// Syncs with the selected remotes, one after the other, whatever becomes of each.
pub(crate) async fn run(inner: &Arc<Inner>, options: &SyncOptions) -> Result<Vec<Outcome>, Error> {
    let _one_at_a_time = inner.syncing.lock().await;
    let mut outcomes = Vec::new();
    let selecting = options.clone();
    for row in blocking(inner, move |inner| selected(inner, &selecting)).await? {
        let (remote, started) = (row.name.clone(), inner.runtime.now_ms());
        let result = match Session::start(inner, options, row).await {
            Ok(session) => session.finish().await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            tracing::warn!(remote, %error, "the sync failed");
            note_failure(inner, &remote, error).await;
        }
        note_operation(inner, &remote, started, result.as_ref().map_err(ToString::to_string)).await;
        outcomes.push(Outcome { remote, result });
    }
    Ok(outcomes)
}

/// Remembers why a sync failed, for whoever asks later; nothing else of what is known of the remote changes.
async fn note_failure(inner: &Arc<Inner>, remote: &str, error: &Error) {
    let (name, reason) = (remote.to_owned(), error.to_string());
    let noted = blocking(inner, move |inner| {
        let fact = serde_json::to_string(&(reason, inner.runtime.now_ms())).unwrap_or_else(|_| "null".to_owned());
        Ok(inner.store.note_of_remote(&name, "last_error", &fact)?)
    });
    if let Err(error) = noted.await {
        tracing::warn!(%error, "that a sync failed cannot be noted");
    }
}

impl<'a> Session<'a> {
    async fn start(inner: &'a Arc<Inner>, options: &'a SyncOptions, row: RemoteRow) -> Result<Session<'a>, Error> {
        let raw = open(inner, &row)?;
        let state = RemoteState::read(&row);
        let remote = match (state.group, state.base) {
            (Some(group), Some(base)) if !row.plain => {
                keys::unlocked(inner, &row.name, &raw, (group, base), &state.announced).await?
            }
            _ => raw.clone(),
        };
        let site = inner.store.status()?.site;
        let lock = blocking(inner, move |inner| inner.key_store()?.lock(site)).await?;
        let before = site;
        let doubt = blocking(inner, |inner| {
            inner.store.seal()?;
            inner.doubt_identity()
        });
        if let Some(reason) = doubt.await? {
            tracing::warn!(path = %inner.path.display(), reason, "taking a new site id");
            let common = identity::common(inner, &remote, &row.name, before).await?;
            blocking(inner, move |inner| inner.new_site(common)).await?;
        }
        let site = blocking(inner, |inner| {
            let left = inner.leave_retired_site()?;
            Ok((left.is_some(), inner.store.own_site()?, inner.store.bring_back_clock()?))
        });
        let (was_retired, site, restamped_versions) = site.await?;
        let new_site = (before != site).then(|| site.to_string());
        let direction = options.direction;
        let remote_name = row.name.clone();
        let report = SyncReport {
            remote: remote_name,
            direction,
            new_site,
            was_retired,
            restamped_versions,
            prefer: options.prefer,
            ..SyncReport::default()
        };
        Ok(Session {
            inner,
            options,
            row,
            raw,
            remote,
            state,
            site,
            heads: Vec::new(),
            own: None,
            _lock: lock,
            repair: false,
            present: None,
            looked_for_keys: false,
            unread: false,
            compacting: false,
            waiting: Vec::new(),
            fetched: BTreeSet::new(),
            report,
        })
    }

    async fn finish(self) -> Result<SyncReport, Error> {
        Ok(self.run().await?.report)
    }

    /// The whole session; gives it back for what is asked of it afterwards.
    async fn run(mut self) -> Result<Session<'a>, Error> {
        let started = self.inner.runtime.now_ms();
        let traffic = self.remote.traffic();
        let refs = self.remote.list_heads().await.map_err(|source| self.failed(source))?;
        let known = self.seen(self.site).await?.is_some();
        let gone = known && refs.iter().all(|head| head.site != self.site);
        if gone {
            // What this replica had put there is not there.
            self.take_nothing_for_granted();
        }
        let locked = !self.row.plain && self.state.base.is_none();
        if self.state.group.is_none() || gone || locked {
            self.join_group(refs.is_empty()).await?;
        }
        self.look_at_own_head(&refs).await?;
        self.report.remote_modified_ms = refs.iter().map(|head| head.modified_ms).max();
        self.report.replicas = refs.len() as u64 + u64::from(self.own.is_none());
        self.report.remote_version = self.own.as_ref().map_or(0, |own| own.last_version);
        let newest =
            blocking(self.inner, |inner| Ok(inner.store.conflicts(true, 1)?.first().map_or(0, |last| last.id)));
        let newest = newest.await?;
        // What stood in the way of an operation may have gone.
        let applied = blocking(self.inner, |inner| {
            let before = inner.store.applied_operations()?;
            inner.store.retry_operations()?;
            Ok(before)
        });
        let applied = applied.await?;
        self.pull(refs).await?;
        let now = blocking(self.inner, |inner| Ok(inner.store.applied_operations()?)).await?;
        self.report.pulled_operations = now.saturating_sub(applied);
        self.put_back(newest).await?;
        if self.options.direction != Direction::Pull {
            self.push().await?;
            self.watch_floor();
        }
        let (status, pending) = blocking(self.inner, |inner| {
            inner.discard_needless_snapshot()?;
            Ok((inner.store.status()?, pending(inner)?))
        })
        .await?;
        self.report.describe(status);
        self.report.pending = pending;
        self.state.last_sync_ms = Some(self.inner.runtime.now_ms());
        self.state.last_error = None;
        self.save_state().await?;
        self.report_waiting();
        self.report.conflict_detected = self.report.conflicts > 0;
        let now = self.remote.traffic();
        self.report.requests = now.requests - traffic.requests;
        self.report.uploaded_bytes = now.uploaded_bytes - traffic.uploaded_bytes;
        self.report.downloaded_bytes = now.downloaded_bytes - traffic.downloaded_bytes;
        self.report.duration_ms = self.inner.runtime.now_ms().saturating_sub(started);
        let report = &self.report;
        tracing::info!(
            remote = report.remote,
            pulled = report.pulled_versions,
            pushed = report.pushed_versions,
            "synced"
        );
        Ok(self)
    }

    /// Writes values that lost since the journal's entry `after` again, if one side's are preferred.
    async fn put_back(&mut self, after: i64) -> Result<(), Error> {
        let (prefer, site) = (self.options.prefer, self.site);
        if prefer == Prefer::Merge || self.report.conflicts == 0 {
            return Ok(());
        }
        let replica = Replica { inner: Arc::clone(self.inner), auto: None };
        self.report.put_back = blocking(self.inner, move |_| {
            let mut put_back = 0;
            let newest = replica.conflicts(true, 1)?.first().map_or(0, |last| last.id);
            let new = usize::try_from(newest - after).unwrap_or(0);
            for lost in replica.conflicts(false, new)?.into_iter().filter(|lost| lost.id > after).rev() {
                let wanted = match prefer {
                    Prefer::Local => lost.site == Some(site),
                    _ => lost.winner == Some(site),
                };
                match if wanted { replica.resolve(lost.id, &crate::Resolution::PutBack) } else { continue } {
                    Ok(()) => put_back += 1,
                    Err(Error::ConflictRowGone { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(put_back)
        })
        .await?;
        Ok(())
    }

    /// The remote is not what it was: objects beside the heads may be gone that were known to stand there.
    fn take_nothing_for_granted(&mut self) {
        self.state.schema.clear();
        self.state.members.clear();
        self.state.announced.clear();
    }

    fn failed(&self, source: RemoteError) -> Error {
        Error::Remote { name: self.row.name.clone(), source }
    }

    fn progress(&self, phase: Phase, done_bytes: u64, total_bytes: u64) {
        if let Some(progress) = &self.options.progress {
            progress(Progress { phase, done_bytes, total_bytes });
        }
    }

    /// The remote's group becomes this replica's, or this replica's the remote's.
    async fn join_group(&mut self, empty: bool) -> Result<(), Error> {
        let status = blocking(self.inner, |inner| Ok(inner.store.status()?)).await?;
        let found = match self.raw.group().await.map_err(|source| self.failed(source))? {
            Some(found) => self.unlock(found).await?,
            // Others are there, so the group object alone is lost: a member puts it again, a newcomer cannot know it.
            None if !empty && status.published == 0 => return Err(Error::GroupMissing { name: self.row.name.clone() }),
            None if empty && self.state.group.is_some() => {
                return Err(Error::RemoteEmptied { name: self.row.name.clone() });
            }
            None => {
                let found = self.make_remote(GroupObject::new(status.group, status.app.clone())).await?;
                self.unlock(found).await?
            }
        };
        if let Some(before) = self.state.group.filter(|before| *before != found.group) {
            let (name, found, group) = (self.row.name.clone(), found.group.to_string(), before.to_string());
            return Err(Error::OtherGroup { name, found, group });
        }
        let (group, app) = (found.group, found.app.clone());
        let joined = blocking(self.inner, move |inner| Ok(inner.store.join_group(group, Some(&app))?)).await?;
        if !joined {
            return Err(Error::OtherApp { name: self.row.name.clone(), found: found.app, app: status.app });
        }
        self.state.group = Some(group);
        self.save_state().await
    }

    async fn save_state(&self) -> Result<(), Error> {
        let mut row = self.row.clone();
        row.state = serde_json::to_string(&self.state).ok();
        blocking(self.inner, move |inner| Ok(inner.store.put_remote(&row)?)).await
    }

    /// The last head of a site that was seen here.
    async fn seen(&self, site: SiteId) -> Result<Option<(Option<String>, Head)>, Error> {
        let name = self.row.name.clone();
        let seen = blocking(self.inner, move |inner| Ok(inner.store.seen_head(&name, site)?)).await?;
        Ok(seen.and_then(|seen| Head::decode(&seen.head).ok().map(|head| (seen.etag, head))))
    }

    async fn put_seen(&self, head: &Head, etag: Option<String>) -> Result<(), Error> {
        let encoded = head.encode().map_err(|error| self.refusal("head", head.site, &error))?;
        let (name, seen) = (self.row.name.clone(), SeenHead { site: head.site, etag, head: encoded.to_vec() });
        blocking(self.inner, move |inner| Ok(inner.store.put_seen_head(&name, &seen)?)).await
    }

    /// As [`Session::refusal`], with all that an error says.
    fn refused(&self, what: &'static str, site: SiteId, error: &dyn std::error::Error) -> Error {
        let chain = std::iter::successors(Some(error), |error| error.source());
        self.refusal(what, site, &chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }

    fn refusal(&self, what: &'static str, site: SiteId, reason: &dyn std::fmt::Display) -> Error {
        Error::Refused { name: self.row.name.clone(), what, site, reason: reason.to_string() }
    }

    /// Takes up the own head, unless it says that somebody else speaks under this site id: then a new id is taken.
    async fn look_at_own_head(&mut self, refs: &[HeadRef]) -> Result<(), Error> {
        let Some(own) = refs.iter().find(|head| head.site == self.site) else {
            return Ok(());
        };
        if let Some((etag, head)) = self.seen(self.site).await?
            && etag.is_some()
            && etag == own.etag
        {
            self.own = Some(head);
            return Ok(());
        }
        let mut found = self.remote.get_head(self.site).await;
        if matches!(found, Err(RemoteError::KeyMissing { .. })) && self.learn_keys().await? {
            found = self.remote.get_head(self.site).await;
        }
        let found = match found {
            // It was put with a key that this device had: its folder is an older one. What it says must be known before anything is put.
            Err(RemoteError::KeyMissing { .. }) => return Err(Error::KeyMissing { name: self.row.name.clone() }),
            Err(
                error @ (RemoteError::Corrupt { .. } | RemoteError::TooLarge { .. } | RemoteError::NewerFormat { .. }),
            ) => {
                tracing::warn!(%error, "the own head is damaged and is put again");
                self.own = self.seen(self.site).await?.map(|(_, head)| head);
                self.repair = true;
                return Ok(());
            }
            other => other.map_err(|source| self.failed(source))?,
        };
        let Some((head, etag)) = found else { return Ok(()) };
        if let Err(error) = head.verified(self.group().await?) {
            // Nobody but this device can sign as this site: somebody else put it there.
            tracing::warn!(%error, "the own head is not what this device put, and is put again");
            self.own = self.seen(self.site).await?.map(|(_, head)| head);
            self.repair = true;
            return Ok(());
        }
        let (last, chain) = (head.last_version, head.chain);
        if blocking(self.inner, move |inner| Ok(inner.store.wrote(last, chain)?)).await? {
            if head.author.as_ref().is_some_and(|author| author.sequence < self.state.sequence) {
                tracing::warn!(site = %self.site, "the own head is an older one: the remote was rolled back");
                self.take_nothing_for_granted();
            }
            let vector = blocking(self.inner, |inner| Ok(inner.store.vector()?)).await?;
            // One that was put before this replica had caught up names nothing.
            if self.state.held_back || push::is_sound(&head, &vector) {
                self.put_seen(&head, etag).await?;
                self.own = Some(head);
            } else {
                tracing::warn!(site = %self.site, "the own head is not what this replica writes; it is written anew from the log");
                self.repair = true;
            }
            return Ok(());
        }
        tracing::warn!(site = %self.site, version = last, "the remote has a version of this site that this file never wrote");
        let common = identity::common_with(self.inner, &self.remote, &self.row.name, &head).await?;
        self.site = blocking(self.inner, move |inner| inner.new_site(common)).await?;
        self.state.head_put_ms = 0;
        self.report.new_site = Some(self.site.to_string());
        Ok(())
    }

    /// What the last merge left goes into the report.
    fn report_waiting(&mut self) {
        // Nobody waits for what a retired site wrote beyond its end: it comes again under another id.
        for (site, version, why) in self.waiting.iter().filter(|(.., why)| !matches!(why, Waiting::Retired)) {
            self.report.waiting.push((site.to_string(), *version, reason(why)));
            if let Waiting::Refused(reason) = why {
                self.report.refused.push(format!("changeset {version} of site {site}: {reason}"));
            }
        }
    }
}

pub(crate) fn reason(waiting: &Waiting) -> String {
    match waiting {
        Waiting::Version { missing } => format!("version {missing} before it is missing"),
        Waiting::Blocks => "parts of it are missing".to_owned(),
        Waiting::Unsigned => "its author's signature is missing".to_owned(),
        Waiting::Cause { site, version } => format!("its author had seen version {version} of {}", site.short()),
        Waiting::Schema(id) => format!("schema operation {id} is missing"),
        Waiting::BelowFloor { site, version } => format!(
            "its author had not seen version {version} of {}, which the group has collected since; `isle devices retire` lets it send its changes anew",
            site.short()
        ),
        Waiting::Future(error) => error.to_string(),
        Waiting::Refused(reason) => reason.clone(),
        _ => "it is not ready".to_owned(),
    }
}

/// Compares with the selected remotes and changes nothing.
pub(crate) async fn check(inner: &Arc<Inner>, options: &SyncOptions) -> Result<Vec<CheckReport>, Error> {
    let selecting = options.clone();
    let mut reports = Vec::new();
    for row in blocking(inner, move |inner| selected(inner, &selecting)).await? {
        let remote = keys::opened(inner, &row, &open(inner, &row)?).await?;
        let failed = |source| Error::Remote { name: row.name.clone(), source };
        let status = blocking(inner, |inner| Ok((inner.store.status()?, inner.store.vector()?)));
        let (status, vector): (isle_store::Status, VersionVector) = status.await?;
        let refs = remote.list_heads().await.map_err(failed)?;
        let mut report = CheckReport {
            remote: row.name.clone(),
            exists: !refs.is_empty(),
            queued: status.queued,
            local_version: status.version,
            remote_modified_ms: refs.iter().map(|head| head.modified_ms).max(),
            last_sync_ms: RemoteState::read(&row).last_sync_ms,
            ..CheckReport::default()
        };
        for head in refs {
            let head = match remote.get_head(head.site).await {
                Ok(Some((head, _))) => head,
                Ok(None) => continue,
                Err(
                    error @ (RemoteError::Corrupt { .. }
                    | RemoteError::TooLarge { .. }
                    | RemoteError::KeyMissing { .. }
                    | RemoteError::NewerFormat { .. }),
                ) => {
                    tracing::warn!(site = %head.site, %error, "a head cannot be read");
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            if head.site == status.site {
                report.remote_version = head.last_version;
            } else {
                let behind = head.last_version.saturating_sub(vector.get(head.site));
                report.behind = report.behind.saturating_add(behind);
            }
        }
        report.ahead = status.version.saturating_sub(report.remote_version);
        report.diverged = report.behind > 0 && (report.ahead > 0 || report.queued > 0);
        reports.push(report);
    }
    Ok(reports)
}
