//! Publishing snapshots and taking them in.
//!
//! A snapshot's objects: parts of about 8 MiB, each some blocks one after the other; the header as one more part; and the manifest,
//! JSON that names them all, which is put last.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use isle_blobs::{Head, PartRef, RemoteError, SnapshotName, SnapshotRef};
use isle_changeset::snapshot::SnapshotHeader;
use isle_clock::VersionVector;
use isle_store::{Snapshot, StoreError};
use serde::{Deserialize, Serialize};

use super::pull::is_outage;
use super::push::{changes, covered};
use super::{Phase, Session, blocking};
use crate::Error;

/// A part is closed when its blocks take this many bytes.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way from the file to the remote.
const PARTS_AHEAD: usize = 2;
/// The index of the part that holds the header.
const HEADER_INDEX: u32 = u32::MAX;
/// Names of snapshots that are remembered as taken in or unfit.
const REMEMBERED_MAX: usize = 64;
const FORMAT: u16 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u16,
    header: Named,
    parts: Vec<Named>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    #[serde(flatten)]
    part: PartRef,
    /// How many blocks it holds.
    blocks: usize,
}

impl Session<'_> {
    /// Puts the state as it stands now.
    pub(super) async fn publish_snapshot(&mut self) -> Result<SnapshotRef, Error> {
        let site = self.site;
        let version = blocking(self.inner, |inner| Ok(inner.store.status()?.version)).await?;
        // Where the remote is encrypted, names do not tell versions.
        let shown = if self.remote.is_sealed() { 0 } else { version };
        let name = SnapshotName::new(shown, self.inner.runtime.random());
        // In place nobody takes parts while they are made.
        let in_place = self.inner.runtime.blocks_in_place();
        let ahead = if in_place { tokio::sync::Semaphore::MAX_PERMITS } else { PARTS_AHEAD };
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Bytes, usize)>(ahead);
        let exporting = blocking(self.inner, move |inner| {
            let (mut part, mut blocks) = (BytesMut::new(), 0);
            let send = |part: BytesMut, blocks| {
                let part = (part.freeze(), blocks);
                // The other end is gone when an upload failed: its error says more.
                if in_place {
                    return sender.try_send(part).map_err(|_| Error::Cancelled);
                }
                sender.blocking_send(part).map_err(|_| Error::Cancelled)
            };
            let snapshot: Snapshot = inner.store.export_snapshot(|block| {
                if !part.is_empty() && part.len() + block.bytes.len() > PART_BYTES {
                    send(std::mem::take(&mut part), std::mem::take(&mut blocks))?;
                }
                part.extend_from_slice(&block.bytes);
                blocks += 1;
                Ok::<_, Error>(())
            })?;
            send(part, blocks)?;
            Ok(snapshot)
        });
        let remote = self.remote.clone();
        let parts_of = name.clone();
        let uploading = async {
            // Dropped at the end, so that the exporter does not wait for a reader that is gone.
            let receiver = &mut receiver;
            let mut parts: Vec<Named> = Vec::new();
            let mut sent = 0;
            while let Some((bytes, blocks)) = receiver.recv().await {
                let part = remote.put_part(site, &parts_of, parts.len() as u32, &bytes).await;
                let part = match part {
                    Ok(part) => part,
                    Err(error) => {
                        receiver.close();
                        return Err(error);
                    }
                };
                sent += part.bytes;
                self.progress(Phase::Upload, sent, 0);
                parts.push(Named { part, blocks });
            }
            Ok(parts)
        };
        let (snapshot, parts) = tokio::join!(exporting, uploading);
        let parts = parts.map_err(|source| self.failed(source))?;
        let Snapshot { header, vector, heads, stored_bytes, rows } = snapshot?;
        self.put_schema(&heads).await?;
        let own = vector.get(site);
        blocking(self.inner, move |inner| inner.record_published(site, own)).await?;
        let header = Bytes::from(header);
        let failed = |source| Error::Remote { name: self.row.name.clone(), source };
        let header = self.remote.put_part(site, &name, HEADER_INDEX, &header).await.map_err(failed)?;
        let manifest = Manifest { format: FORMAT, header: Named { part: header, blocks: 0 }, parts };
        let manifest =
            serde_json::to_vec(&manifest).map_err(|error| self.refusal("snapshot", site, &error)).map(Bytes::from)?;
        let manifest = self.remote.put_manifest(site, &name, &manifest).await.map_err(failed)?;
        tracing::info!(rows, stored_bytes, %name, "published a snapshot");
        self.report.snapshot_published = true;
        Ok(SnapshotRef { site, name, manifest, vector })
    }

    fn remember(&mut self, name: &SnapshotName) {
        self.state.snapshots.push(name.to_string());
        if self.state.snapshots.len() > REMEMBERED_MAX {
            self.state.snapshots.remove(0);
        }
    }

    /// Takes in the best snapshot that the heads name, if the log alone does not do.
    pub(super) async fn bootstrap(&mut self, news: Vec<Head>) -> Result<(), Error> {
        let heads: Vec<Head> = news.into_iter().chain(self.heads.iter().cloned()).collect();
        let (membership, retired) =
            blocking(self.inner, |inner| Ok((inner.store.membership()?, inner.store.retired()?))).await?;
        // Nobody takes a snapshot from a site that was declared gone, or from a device that was put out.
        let speaks = |head: &Head| {
            let revoked = head.author.as_ref().is_some_and(|author| membership.is_revoked(&author.device));
            !revoked && retired.iter().all(|(site, _)| *site != head.site)
        };
        let mut offered: Vec<&Head> = heads.iter().filter(|head| head.snapshot.is_some() && speaks(head)).collect();
        let total = |head: &Head| {
            let vector = head.snapshot.iter().flat_map(|snapshot| snapshot.vector.iter());
            vector.map(|(_, version)| u128::from(version)).sum::<u128>()
        };
        offered.sort_by_key(|head| (std::cmp::Reverse(total(head)), head.site));
        for head in offered {
            let Some(snapshot) = &head.snapshot else { continue };
            let vector = blocking(self.inner, |inner| Ok(inner.store.vector()?)).await?;
            let fresh = vector.iter().all(|(site, _)| site == self.site);
            let known = self.state.snapshots.contains(&snapshot.name.to_string());
            if vector.includes(&snapshot.vector) || known || !(fresh || fills_gap(&vector, &heads, &snapshot.vector)) {
                continue;
            }
            let taken = match self.pull_schema(head).await {
                Ok(()) => self.take_in(snapshot).await,
                Err(error) => Err(error),
            };
            match taken {
                Err(error) if is_outage(&error) => return Err(error),
                // Its writer may have put another since; and what stands in its way here may go.
                Err(error) => {
                    tracing::warn!(site = %head.site, %error, "a snapshot is refused");
                    self.report.refused.push(error.to_string());
                }
                Ok(()) => self.remember(&snapshot.name),
            }
        }
        Ok(())
    }

    /// Fetches what is not here yet of a snapshot, and joins it.
    async fn take_in(&mut self, snapshot: &SnapshotRef) -> Result<(), Error> {
        // A session may be at another one, for which there is one place as well.
        let inner = Arc::clone(self.inner);
        let _nobody_else = inner.staging.lock().await;
        let get = async |part: &PartRef| match self.remote.get_part(snapshot.site, &snapshot.name, part).await {
            Err(source @ (RemoteError::Corrupt { .. } | RemoteError::TooLarge { .. })) => {
                Err(self.refused("snapshot", snapshot.site, &source))
            }
            other => other.map_err(|source| self.failed(source)),
        };
        let refused = |reason: &dyn std::fmt::Display| self.refusal("snapshot", snapshot.site, reason);
        let manifest: Manifest =
            serde_json::from_slice(&get(&snapshot.manifest).await?).map_err(|error| refused(&error))?;
        if manifest.format != FORMAT {
            return Err(refused(&format!("its format is {}, this isle reads {FORMAT}: update isle", manifest.format)));
        }
        let header = get(&manifest.header.part).await?;
        let decoded = SnapshotHeader::decode(&header).map_err(|error| refused(&error))?;
        let staging = header.clone();
        let holds = snapshot.vector.clone();
        let staged = blocking(self.inner, move |inner| Ok(inner.store.stage_snapshot(&staging, &holds)?));
        let missing = staged.await.map_err(|error| soften(error, &refused))?.missing;
        let total = decoded.stored_bytes();
        let (mut first, mut done) = (0usize, 0);
        for Named { part, blocks } in &manifest.parts {
            let astray = || refused(&"its parts are not what its header says");
            let range = first..first.checked_add(*blocks).ok_or_else(astray)?;
            first = range.end;
            if !missing.iter().any(|n| range.contains(n)) {
                continue;
            }
            self.progress(Phase::Download, done, total);
            let bytes = get(part).await?;
            done += bytes.len() as u64;
            let pieces = cut(&bytes, &decoded, range).ok_or_else(astray)?;
            let staged = blocking(self.inner, move |inner| {
                Ok(inner.store.stage_blocks(pieces.iter().map(|(n, bytes)| (*n, bytes.as_ref())))?)
            });
            staged.await.map_err(|error| soften(error, &refused))?;
        }
        self.progress(Phase::Download, total, total);
        self.progress(Phase::Merge, 0, 0);
        let joined = match blocking(self.inner, |inner| Ok(inner.store.join_snapshot()?)).await {
            Err(Error::Store(StoreError::Fork { .. })) => {
                // The group knows versions of this site that this file never wrote: it is a copy, or an older state.
                let common = super::identity::common(self.inner, &self.remote, &self.row.name, self.site).await?;
                self.site = blocking(self.inner, move |inner| inner.new_site(common)).await?;
                self.own = None;
                self.state.head_put_ms = 0;
                self.report.new_site = Some(self.site.to_string());
                blocking(self.inner, |inner| Ok(inner.store.join_snapshot()?)).await
            }
            other => other,
        };
        if let Err(Error::Store(StoreError::BadSnapshot { .. })) = &joined {
            // No later try makes it better.
            blocking(self.inner, |inner| Ok(inner.store.discard_snapshot()?)).await?;
            self.remember(&snapshot.name);
        }
        let refused = |reason: &dyn std::fmt::Display| self.refusal("snapshot", snapshot.site, reason);
        let joined = joined.map_err(|error| soften(error, &refused))?;
        self.note_applied(joined);
        self.report.snapshot_joined = true;
        Ok(())
    }

    /// Whether a snapshot that some head names cannot be read whole, so that a newcomer would stand before it. Reads all of it.
    pub(super) async fn is_damaged(&self, own: &Head) -> Result<bool, Error> {
        for snapshot in self.heads.iter().chain(std::iter::once(own)).filter_map(|head| head.snapshot.as_ref()) {
            let whole = async {
                let manifest = self.remote.get_part(snapshot.site, &snapshot.name, &snapshot.manifest).await?;
                let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else { return Ok(false) };
                for named in manifest.parts.iter().chain(std::iter::once(&manifest.header)) {
                    self.remote.get_part(snapshot.site, &snapshot.name, &named.part).await?;
                }
                Ok(true)
            };
            match whole.await {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(RemoteError::Missing { .. } | RemoteError::Corrupt { .. } | RemoteError::TooLarge { .. }) => {
                    return Ok(true);
                }
                Err(source) => return Err(self.failed(source)),
            }
        }
        Ok(false)
    }

    /// Removes what transfers that were cut off have left of this site's objects. What cannot be removed costs room, nothing else.
    pub(super) async fn sweep(&self) {
        let Some(own) = &self.own else { return };
        let swept = async {
            let mut parts = Vec::new();
            if let Some(snapshot) = &own.snapshot {
                let manifest = self.remote.get_part(snapshot.site, &snapshot.name, &snapshot.manifest).await?;
                let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) else { return Ok(0) };
                parts.extend(manifest.parts.into_iter().map(|named| named.part));
                parts.push(manifest.header.part);
            }
            self.remote.sweep(own, &parts).await
        };
        match swept.await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "objects that nobody names are gone"),
            Err(error) => tracing::warn!(%error, "objects that nobody names stay"),
        }
    }

    /// Removes the objects of a snapshot that was replaced. What cannot be deleted costs room, nothing else.
    pub(super) async fn delete_snapshot(&self, snapshot: &SnapshotRef) {
        let deleted = async {
            let manifest = self.remote.get_part(snapshot.site, &snapshot.name, &snapshot.manifest).await?;
            self.remote.delete_part(snapshot.site, &snapshot.name, &snapshot.manifest).await?;
            if let Ok(manifest) = serde_json::from_slice::<Manifest>(&manifest) {
                for named in manifest.parts.iter().chain(std::iter::once(&manifest.header)) {
                    self.remote.delete_part(snapshot.site, &snapshot.name, &named.part).await?;
                }
            }
            Ok::<_, RemoteError>(())
        };
        if let Err(error) = deleted.await {
            tracing::warn!(%error, name = %snapshot.name, "an obsolete snapshot stays");
        }
    }
}

/// What is wrong with a snapshot is no failure of this replica.
fn soften(error: Error, refused: &dyn Fn(&dyn std::fmt::Display) -> Error) -> Error {
    match error {
        Error::Store(
            error @ (StoreError::BadSnapshot { .. }
            | StoreError::SnapshotSchema { .. }
            | StoreError::TablesAway { .. }
            | StoreError::Parked { .. }
            | StoreError::Clock(_)),
        ) => refused(&error),
        other => other,
    }
}

/// The blocks of a part, each with its place.
fn cut(bytes: &Bytes, header: &SnapshotHeader, range: std::ops::Range<usize>) -> Option<Vec<(usize, Bytes)>> {
    let mut at = 0;
    let mut pieces = Vec::new();
    for n in range {
        let end = at + header.blocks.get(n)?.stored_bytes as usize;
        if end > bytes.len() {
            return None;
        }
        pieces.push((n, bytes.slice(at..end)));
        at = end;
    }
    (at == bytes.len()).then_some(pieces)
}

/// Whether a snapshot has versions that are not here and that no head offers one by one.
fn fills_gap(vector: &VersionVector, heads: &[Head], snapshot: &VersionVector) -> bool {
    snapshot.iter().any(|(site, last)| {
        let offered = heads.iter().flat_map(|head| {
            let segments = head.segments.iter().flat_map(|segment| &segment.contents);
            let tail = changes(head).map(|frame| (frame.site, frame.version, frame.version));
            segments.map(|range| (range.site, range.first, range.last)).chain(tail)
        });
        let mut known: Vec<(u64, u64)> =
            offered.filter(|(of, ..)| *of == site).map(|(_, first, last)| (first, last)).collect();
        known.push((1, vector.get(site)));
        covered(known) < last
    })
}
