//! The incoming half of a sync.

use std::collections::BTreeSet;

use bytes::Bytes;
use isle_blobs::{Frame, FrameKind, Head, HeadRef, OperationKind, RemoteError, SegmentRef, read_segment};
use isle_clock::{SiteId, VersionVector};
use isle_schema::{Migration, MigrationError, MigrationId};
use isle_store::{Applied, Merging, StoreError, Waiting};

use super::heads::went_back;
use super::push::ranges;
use super::{Direction, Phase, Progress, Session, blocking};
use crate::Error;

/// Frames given to the store in one transaction take at most this many bytes.
const BATCH_BYTES: usize = 8 << 20;
/// A chain of schema operations longer than this is not followed.
const MIGRATIONS_MAX: usize = 10_000;

/// A head that changed since it was last seen.
pub(super) struct News {
    pub(super) head: Head,
    etag: Option<String>,
    /// The head before it.
    pub(super) last: Option<Head>,
}

/// What came of reading a head.
enum Found {
    /// It is as new as the last one, or newer; with its tag.
    Head(Head, Option<String>),
    /// It is not there, or is older than the last one.
    Gone,
    /// It is older than the last one, as it was at the sync before.
    Older(Head),
}

impl Session<'_> {
    /// Reads the heads that changed, and takes in what they offer.
    pub(super) async fn pull(&mut self, refs: Vec<HeadRef>) -> Result<(), Error> {
        let mut news = Vec::new();
        let own = self.site;
        let (retired, vector) =
            blocking(self.inner, |inner| Ok((inner.store.retired()?, inner.store.vector()?))).await?;
        // Whatever a retired site says beyond its end counts for nothing.
        let over = |site: SiteId| retired.iter().any(|(of, last)| *of == site && vector.contains(site, *last));
        let mut failed = Vec::new();
        for reference in refs.into_iter().filter(|reference| reference.site != own) {
            let site = reference.site;
            let seen = self.seen(site).await?;
            if let Some((etag, head)) = &seen
                && etag.is_some()
                && *etag == reference.etag
            {
                self.heads.push(head.clone());
                continue;
            }
            let last = seen.map(|(_, head)| head);
            if self.options.direction == Direction::Push {
                self.unread = true;
                self.heads.extend(last);
                continue;
            }
            match self.read_head(site, last.as_ref()).await {
                Ok(Found::Head(head, etag)) => news.push(News { head, etag, last }),
                Ok(Found::Gone) => {
                    // What it said before still holds.
                    self.unread |= !over(site);
                    self.heads.extend(last);
                }
                Ok(Found::Older(head)) => {
                    self.unread |= !over(site);
                    self.heads.push(head);
                }
                Err(error) if is_outage(&error) => return Err(error),
                Err(error) => failed.push((site, error, last)),
            }
        }
        self.turn_away(&mut news).await?;
        let news = self.admit(news, &mut failed).await?;
        self.heed_devices(&news).await?;
        self.heed_retirements(&news).await?;
        self.bootstrap(news.iter().map(|news| news.head.clone()).collect()).await?;
        for News { head, etag, last } in news {
            let site = head.site;
            match self.pull_site(head, etag).await {
                Err(error) if is_outage(&error) => return Err(error),
                Err(error) => failed.push((site, error, last)),
                Ok(()) => {}
            }
        }
        // By now the others have told which sites are retired, and have brought what counts of them.
        let (retired, vector) =
            blocking(self.inner, |inner| Ok((inner.store.retired()?, inner.store.vector()?))).await?;
        for (site, error, last) in failed {
            let over = retired.iter().any(|(of, last)| *of == site && vector.contains(site, *last));
            self.refuse(site, &error, last, over);
        }
        self.report.stale.retain(|site| retired.iter().all(|(over, _)| over.to_string() != *site));
        self.merge().await
    }

    /// One site's broken data must not stop the others'. Whose site is retired, and all of it that counts is here, that one need not be heard.
    fn refuse(&mut self, site: SiteId, error: &Error, last: Option<Head>, over: bool) {
        if !over {
            self.note_refusal(site, error);
            self.unread = true;
        }
        // What its objects still hold need not be published here too; what is lost with them must be. Of a head with a damaged changeset nobody takes
        // what stands beside it, and the head before it, which was read whole, is not there any more.
        let lost =
            matches!(error, Error::Remote { .. } | Error::Refused { what: "head" | "segment" | "changeset", .. });
        self.heads.extend(last.filter(|_| !lost));
    }

    fn note_refusal(&mut self, site: SiteId, error: &Error) {
        tracing::warn!(%site, %error, "refused");
        let refusal = error.to_string();
        if !self.report.refused.contains(&refusal) {
            self.report.refused.push(refusal);
        }
    }

    /// A head as it stands.
    async fn read_head(&mut self, site: SiteId, last: Option<&Head>) -> Result<Found, Error> {
        let mut found = self.remote.get_head(site).await;
        if matches!(found, Err(RemoteError::KeyMissing { .. })) && self.learn_keys().await? {
            found = self.remote.get_head(site).await;
        }
        let (head, etag) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Found::Gone),
            Err(
                source @ (RemoteError::Corrupt { .. }
                | RemoteError::NewerFormat { .. }
                | RemoteError::KeyMissing { .. }
                | RemoteError::TooLarge { .. }),
            ) => {
                return Err(self.refused("head", site, &source));
            }
            Err(source) => return Err(self.failed(source)),
        };
        self.authenticate(&head).await?;
        if let Some(last) = last.filter(|last| went_back(&head, last)) {
            tracing::warn!(site = %site, was = last.last_version, now = head.last_version, "a head went back; it is not followed");
            self.report.stale.push(site.to_string());
            let sequence = head.author.as_ref().map_or(0, |author| author.sequence);
            if self.state.stale.insert(site.to_string(), sequence) != Some(sequence) {
                self.take_nothing_for_granted();
                // It may have been read late.
                return Ok(Found::Gone);
            }
            // An older copy of the remote was put back, and its author has not come to mend that: what is not offered any more is put here.
            return Ok(Found::Older(head));
        }
        self.state.stale.remove(&site.to_string());
        Ok(Found::Head(head, etag))
    }

    /// Takes over which sites others hold to be retired. If this one is among them, it goes on under a new id.
    async fn heed_retirements(&mut self, news: &[News]) -> Result<(), Error> {
        let mut retired: Vec<(SiteId, u64)> = news.iter().flat_map(|news| news.head.retired.clone()).collect();
        if retired.is_empty() {
            return Ok(());
        }
        retired.sort_unstable();
        let left = blocking(self.inner, move |inner| {
            inner.store.retire(&retired)?;
            inner.leave_retired_site()
        });
        if let Some(site) = left.await? {
            self.site = site;
            self.own = None;
            self.state.head_put_ms = 0;
            self.report.new_site = Some(self.site.to_string());
            self.report.was_retired = true;
        }
        Ok(())
    }

    async fn pull_site(&mut self, head: Head, etag: Option<String>) -> Result<(), Error> {
        let site = head.site;
        self.pull_schema(&head).await?;
        match self.pull_changesets(&head).await {
            // Its writer has replaced the segment since the head was read: the new head names another.
            Err(Error::Remote { source: RemoteError::Missing { .. }, .. }) => {
                let again = self.remote.get_head(site).await.map_err(|source| self.failed(source))?;
                let Some((again, etag)) = again.filter(|(again, _)| !went_back(again, &head)) else {
                    self.unread = true;
                    return Ok(());
                };
                self.authenticate(&again).await?;
                let mut failed = Vec::new();
                let admitted = self.admit(vec![News { head: again, etag, last: None }], &mut failed).await?;
                if let Some((_, error, _)) = failed.pop() {
                    return Err(error);
                }
                for News { head, .. } in admitted {
                    self.bootstrap(vec![head.clone()]).await?;
                    self.pull_changesets(&head).await?;
                }
            }
            other => other?,
        }
        let device = head.device.clone();
        blocking(self.inner, move |inner| Ok(inner.store.name_site(site, &device)?)).await?;
        self.merge().await?;
        // A head whose versions are all here need not be read again until it changes.
        let last_version = head.last_version;
        let complete = blocking(self.inner, move |inner| {
            Ok(inner.store.vector()?.get(site) >= last_version || inner.store.header(site, last_version)?.is_some())
        });
        let broken = |why: &Waiting| {
            matches!(why, Waiting::Version { .. } | Waiting::Blocks | Waiting::Schema(_) | Waiting::Unsigned)
        };
        let offered: BTreeSet<SiteId> = ranges(&head).map(|(of, ..)| of).chain([site]).collect();
        let gaps = self.waiting.iter().any(|(of, _, why)| offered.contains(of) && broken(why));
        if complete.await? && !gaps {
            self.put_seen(&head, etag).await?;
        }
        self.heads.push(head);
        Ok(())
    }

    /// Schema operations come first, parents before children.
    pub(super) async fn pull_schema(&mut self, head: &Head) -> Result<(), Error> {
        // What other heads' operations lack may be anywhere, or nowhere: that it is not here is not this head's fault.
        let others = blocking(self.inner, |inner| Ok(inner.store.missing_operations()?)).await?;
        let mut wanted = others.clone();
        wanted.extend(head.schema_heads.iter().map(|id| MigrationId::from_bytes(*id)));
        let mut fetched: Vec<(MigrationId, Bytes)> = Vec::new();
        while let Some(id) = wanted.pop() {
            let known = blocking(self.inner, move |inner| Ok(inner.store.has_migration(id)?)).await?;
            if known || fetched.iter().any(|(other, _)| *other == id) {
                continue;
            }
            if fetched.len() == MIGRATIONS_MAX {
                return Err(self.refusal("schema operation", head.site, &"too many schema operations in a row"));
            }
            let bytes = match self.remote.get_operation(OperationKind::Schema, *id.as_bytes()).await {
                Ok(bytes) => bytes,
                Err(RemoteError::Missing { .. }) if others.contains(&id) => continue,
                Err(source @ (RemoteError::Corrupt { .. } | RemoteError::Missing { .. })) => {
                    return Err(self.refused("schema operation", head.site, &source));
                }
                Err(source) => return Err(self.failed(source)),
            };
            if MigrationId::of(&bytes) != id {
                return Err(self.refusal("schema operation", head.site, &"its content is not what its name says"));
            }
            match Migration::decode(&bytes) {
                Ok((_, migration)) => wanted.extend(&migration.parents),
                // What it follows is fetched once this isle can read it.
                Err(MigrationError::Newer { .. }) => {}
                Err(error) => return Err(StoreError::from(error).into()),
            }
            self.fetched.insert(id);
            fetched.push((id, bytes));
        }
        // Children were asked for first.
        let mut left: Vec<(MigrationId, Bytes)> = fetched;
        let mut hindered = false;
        while let Some((_, bytes)) = left.pop() {
            match blocking(self.inner, move |inner| Ok(inner.store.take_migration(&bytes)?)).await {
                Ok((_, hindrance)) => hindered |= hindrance.is_some(),
                // Whoever passes it on may not know: what needs it waits, and the rest of the head is taken.
                Err(error @ Error::Store(StoreError::OperationRefused { .. })) => self.note_refusal(head.site, &error),
                Err(error) => return Err(error),
            }
        }
        if hindered {
            // A later one may have renamed what stood in the way of an earlier one.
            blocking(self.inner, |inner| Ok(inner.store.retry_operations()?)).await?;
        }
        Ok(())
    }

    async fn pull_changesets(&mut self, head: &Head) -> Result<(), Error> {
        let vector = blocking(self.inner, |inner| Ok(inner.store.vector()?)).await?;
        let needed: Vec<SegmentRef> = head.segments.iter().filter(|segment| needs(&vector, segment)).cloned().collect();
        let total: u64 = needed.iter().map(|segment| segment.bytes).sum();
        let mut done = 0;
        for segment in needed {
            self.progress(Phase::Download, done, total);
            let bytes = match self.remote.get_segment(head.site, &segment).await {
                Ok(bytes) => bytes,
                Err(source @ (RemoteError::Corrupt { .. } | RemoteError::TooLarge { .. })) => {
                    return Err(self.refused("segment", head.site, &source));
                }
                Err(source) => return Err(self.failed(source)),
            };
            done += segment.bytes;
            let frames: Result<Vec<Frame>, _> = match read_segment(&bytes) {
                Ok(frames) => frames.collect(),
                Err(error) => Err(error),
            };
            let frames = frames.map_err(|error| self.refusal("segment", head.site, &error))?;
            self.take_frames(head.site, frames, &vector).await?;
        }
        self.progress(Phase::Download, total, total);
        self.take_frames(head.site, head.tail.clone(), &vector).await
    }

    /// Gives frames that are not known to the store.
    async fn take_frames(&mut self, owner: SiteId, frames: Vec<Frame>, vector: &VersionVector) -> Result<(), Error> {
        let is_new = |frame: &Frame| frame.kind == FrameKind::Proof || !vector.contains(frame.site, frame.version);
        let new = frames.into_iter().filter(is_new);
        let mut batch = Vec::new();
        let mut bytes = 0;
        for frame in new {
            bytes += frame.payload.len();
            batch.push(frame);
            if bytes > BATCH_BYTES {
                self.put_frames(owner, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.put_frames(owner, batch).await }
    }

    async fn put_frames(&mut self, owner: SiteId, frames: Vec<Frame>) -> Result<(), Error> {
        let mut tell = self.meter();
        let result = blocking(self.inner, move |inner| {
            let frames = frames.iter().filter_map(crate::bundle::store_frame);
            match &mut tell {
                Some(tell) => Ok(inner.store.receive_with(frames, tell)?),
                None => Ok(inner.store.receive(frames)?),
            }
        });
        match result.await {
            Ok(applied) => {
                self.note_applied(applied);
                Ok(())
            }
            Err(Error::Store(
                error @ (StoreError::Fork { .. }
                | StoreError::ForeignGroup { .. }
                | StoreError::BadHeader { .. }
                | StoreError::BadProof { .. }
                | StoreError::BadChangeset { .. }
                | StoreError::TooFarAhead { .. }),
            )) => {
                if let StoreError::Fork { site, version } = error {
                    let remote = self.row.name.clone();
                    let noted =
                        blocking(self.inner, move |inner| Ok(inner.store.note_fork(site, version, &remote, None)?));
                    if let Err(error) = noted.await {
                        tracing::warn!(%error, %site, "that a site has two histories cannot be noted");
                    }
                }
                // Where the site has another history, this one's is not put in its stead: those who have the other would refuse the head that carries it.
                let what = if error.is_damage() { "changeset" } else { "history" };
                Err(self.refusal(what, owner, &error))
            }
            Err(other) => Err(other),
        }
    }

    /// Merges what is ready.
    async fn merge(&mut self) -> Result<(), Error> {
        self.progress(Phase::Merge, 0, 0);
        let mut tell = self.meter();
        let applied = blocking(self.inner, move |inner| match &mut tell {
            Some(tell) => Ok(inner.store.apply_with(tell)?),
            None => Ok(inner.store.apply()?),
        });
        let applied = applied.await?;
        self.note_applied(applied);
        Ok(())
    }

    pub(super) fn note_applied(&mut self, applied: Applied) {
        self.report.count(&applied);
        self.waiting = applied.waiting;
    }

    /// What tells the caller how far a merge is, if the caller wants to know.
    fn meter(&self) -> Option<impl FnMut(Merging) + Send + 'static> {
        let progress = self.options.progress.clone()?;
        Some(move |merging: Merging| {
            let Merging { done_bytes, total_bytes } = merging;
            progress(Progress { phase: Phase::Merge, done_bytes, total_bytes });
        })
    }
}

/// Whether an error is about the remote or this file as a whole, rather than about one site's data.
pub(super) fn is_outage(error: &Error) -> bool {
    match error {
        Error::Remote { source, .. } => !matches!(
            source,
            RemoteError::Missing { .. }
                | RemoteError::Corrupt { .. }
                | RemoteError::TooLarge { .. }
                | RemoteError::NewerFormat { .. }
                | RemoteError::KeyMissing { .. }
                | RemoteError::NotARemote { .. }
        ),
        Error::Store(error) => error.is_local(),
        Error::Refused { .. } => false,
        _ => true,
    }
}

/// Whether a segment holds a version that is not here.
fn needs(vector: &VersionVector, segment: &SegmentRef) -> bool {
    segment.contents.iter().any(|range| !vector.contains(range.site, range.last))
}
