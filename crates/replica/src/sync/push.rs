//! The outgoing half of a sync.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use isle_blobs::{Frame, FrameKind, Head, OperationKind, SegmentRef, SegmentWriter};
use isle_changeset::Header;
use isle_clock::{SiteId, VersionVector};
use isle_identity::OpId;
use isle_schema::{Migration, MigrationError, MigrationId};
use isle_store::{Logged, RemoteRow};

use super::{Phase, RemoteState, Session, blocking};
use crate::Error;
use crate::proofs::Proofs;
use crate::replica::Inner;

/// Changesets that the head itself carries take at most this many bytes.
const TAIL_BYTES_MAX: usize = 24 << 10;
/// A segment is closed when its frames take this many bytes.
const SEGMENT_BYTES: usize = 8 << 20;
/// Of the log so much is read at once.
const READ_BYTES: usize = 1 << 20;
/// The own segments are not replaced by a snapshot before they take this many bytes.
const SNAPSHOT_LOG_BYTES_MIN: u64 = 16 << 20;
/// A site without news says what it has applied when it is this many versions behind, …
const ACKNOWLEDGE_VERSIONS: u64 = 1_000;
/// … or this long after it said so last.
const ACKNOWLEDGE_MS: u64 = 3_600_000;

/// Versions `first..=last` of a site.
#[derive(Debug, Clone, Copy)]
struct Range {
    site: SiteId,
    first: u64,
    last: u64,
}

impl Session<'_> {
    /// Publishes what the remote lacks: own versions, and what no head covers of what they build upon.
    pub(super) async fn push(&mut self) -> Result<(), Error> {
        self.announce_keys().await?;
        if !self.catch_up_first().await? {
            (self.report.held_back, self.state.held_back) = (true, true);
            return self.enrol().await;
        }
        self.state.held_back = false;
        let mut facts = self.facts().await?;
        let own = self.own.take();
        let fresh = own.is_none() || self.repair;
        let mut head = own.unwrap_or_else(|| Head::new(self.site, facts.device.clone()));
        let mut missing = self.provable(self.missing(&head, &facts)).await?;
        let schema: Vec<[u8; 16]> = facts.schema_heads.iter().map(|id| *id.as_bytes()).collect();
        let schema_stands = facts.schema_heads.iter().all(|id| self.state.schema.contains(&id.to_string()));
        let told = head.author.as_ref().is_some_and(|author| author.members == facts.members);
        let rekeyed = self.state.sealed_with != self.current_key().await?;
        let news = !missing.is_empty() || fresh || head.schema_heads != schema || !schema_stands || !told || rekeyed;
        if !news && !self.compacting && head.retired == facts.retired && !self.acknowledges_late(&head, &facts) {
            self.own = Some(head);
            return Ok(());
        }
        let (site, version) = (self.site, facts.vector.get(self.site));
        // Only a write that goes out needs the disk first.
        blocking(self.inner, move |inner| inner.record_published(site, version)).await?;
        self.put_schema(&facts.schema_heads).await?;
        self.put_members().await?;
        self.report.pushed_versions += version.saturating_sub(head.last_version);
        let mut obsolete = Vec::new();
        let old = if self.needs_snapshot(&head, &missing).await? {
            let old = head.snapshot.replace(self.publish_snapshot().await?);
            obsolete.append(&mut head.segments);
            head.tail.clear();
            facts = self.facts().await?;
            missing = self.provable(self.missing(&head, &facts)).await?;
            // What was written meanwhile goes out as well.
            let version = facts.vector.get(site);
            blocking(self.inner, move |inner| inner.record_published(site, version)).await?;
            old
        } else {
            None
        };
        obsolete.extend(self.put_changesets(&mut head, &missing).await?);
        self.describe(&mut head, facts);
        self.put_own_head(&mut head).await?;
        self.own = Some(head);
        for segment in obsolete {
            // A reader of the old head finds it gone and reads the head again. What cannot be deleted costs room, nothing else.
            if let Err(error) = self.remote.delete_segment(site, &segment).await {
                tracing::warn!(%error, segment = segment.name, "an obsolete segment stays");
            }
        }
        if let Some(old) = old.filter(|old| old.site == site) {
            self.delete_snapshot(&old).await;
        }
        if self.compacting {
            self.sweep().await;
        }
        Ok(())
    }

    /// What was written in ignorance of what the group has collected is sealed anew before it goes out. A site that is new here was
    /// waited for by nobody until now: it has to reckon with whatever all others have acknowledged, and may not speak before it has
    /// that itself; false if it has not.
    async fn catch_up_first(&mut self) -> Result<bool, Error> {
        let newcomer = self.own.is_none() || self.state.held_back;
        let heads = self.heads.iter().filter(|_| newcomer);
        let acknowledged: Vec<_> = heads.map(|head| (head.site, head.acknowledged.clone())).collect();
        // Somebody is there, and nothing that it says can be read.
        let deaf = newcomer && self.unread && acknowledged.is_empty();
        blocking(self.inner, move |inner| {
            let retired = inner.store.retired()?;
            let alive = acknowledged.into_iter().filter(|(site, _)| retired.iter().all(|(gone, _)| gone != site));
            let common = alive.map(|(_, vector)| vector).reduce(|a, b| a.meet(&b)).unwrap_or_default();
            if deaf || !inner.store.vector()?.includes(&common) {
                return Ok(false);
            }
            if inner.store.is_below_floor(&common)? {
                inner.store.restate()?;
            }
            Ok(true)
        })
        .await
    }

    /// Shows a head without any version: what it has and which sites it holds to be retired is of use to others, and may be what they
    /// need to know before this one can catch up.
    async fn enrol(&mut self) -> Result<(), Error> {
        let facts = self.facts().await?;
        let mut head = self.own.take().unwrap_or_else(|| Head::new(self.site, facts.device.clone()));
        // To those who have seen more of this site the head would be one that was put back, and they would not hear what it says.
        let before = head.last_version;
        let told = blocking(self.inner, move |inner| {
            let published = inner.store.status()?.published;
            Ok((published > before).then_some((published, inner.store.own_chain(published)?)))
        });
        if let Some((published, Some(chain))) = told.await? {
            (head.last_version, head.chain) = (published, chain);
        }
        let rekeyed = self.state.sealed_with != self.current_key().await?;
        let known = self.state.head_put_ms > 0 && head.retired == facts.retired && !rekeyed;
        if known && !self.acknowledges_late(&head, &facts) {
            self.own = Some(head);
            return Ok(());
        }
        head.acknowledged = facts.vector.iter().filter(|(site, _)| *site != self.site).collect();
        (head.retired, head.device) = (facts.retired, facts.device);
        self.put_own_head(&mut head).await?;
        self.own = Some(head);
        Ok(())
    }

    async fn put_own_head(&mut self, head: &mut Head) -> Result<(), Error> {
        self.sign(head).await?;
        self.state.sealed_with = self.current_key().await?;
        let put = self.remote.put_head(head).await.map_err(|source| self.failed(source))?;
        self.state.head_put_ms = self.inner.runtime.now_ms();
        self.report.head_version_id.clone_from(&put.version_id);
        self.state.head_version_id = put.version_id;
        self.put_seen(head, put.etag).await
    }

    async fn facts(&self) -> Result<Facts, Error> {
        let (site, name) = (self.site, self.row.name.clone());
        let heads: Vec<SiteId> = self.heads.iter().map(|head| head.site).collect();
        blocking(self.inner, move |inner| {
            let vector = inner.store.vector()?;
            // A remote that was never synced with may have members that nobody has heard of.
            let synced = |row: &RemoteRow| row.name == name || RemoteState::read(row).last_sync_ms.is_some();
            let seen = inner.store.seen_heads_elsewhere(&name)?;
            // A device that is synced with directly and puts no head here says nowhere what it has applied.
            let retired = inner.store.retired()?;
            let mut members = inner.store.membership()?.heads;
            members.truncate(isle_identity::PARENTS_MAX);
            let speaks = |site: &SiteId| heads.contains(site) || retired.iter().any(|(gone, _)| gone == site);
            let met = crate::direct::known_sites(&inner.store)?.into_iter().find(|of| *of != site && !speaks(of));
            let elsewhere = seen.iter().map(|(_, seen)| Head::decode(&seen.head).ok()).collect::<Option<Vec<Head>>>();
            Ok(Facts {
                chain: inner.store.own_chain(vector.get(site))?.unwrap_or_default(),
                vector,
                elsewhere: elsewhere.filter(|_| met.is_none()).filter(|heads| {
                    let spoken = heads.iter().filter(|head| head.site == site).count();
                    inner.store.remotes().is_ok_and(|rows| rows.iter().all(synced) && spoken + 1 >= rows.len())
                }),
                schema_heads: inner.store.schema_heads()?,
                retired,
                members,
                device: inner.device()?.name,
            })
        })
        .await
    }

    /// Whether others wait for this site to say what it has applied.
    fn acknowledges_late(&self, head: &Head, facts: &Facts) -> bool {
        let ahead = |new: &VersionVector, old: &VersionVector| -> u64 {
            new.iter().map(|(site, version)| version.saturating_sub(old.get(site))).fold(0, u64::saturating_add)
        };
        let behind = ahead(&facts.vector, &head.acknowledged).max(ahead(&self.held_by_all(facts), &head.floor));
        let age = self.inner.runtime.now_ms().saturating_sub(self.state.head_put_ms);
        behind >= ACKNOWLEDGE_VERSIONS || (behind > 0 && age >= ACKNOWLEDGE_MS)
    }

    /// What the head says of its site.
    fn describe(&self, head: &mut Head, facts: Facts) {
        head.floor.merge(&self.held_by_all(&facts));
        head.device = facts.device;
        head.last_version = facts.vector.get(self.site);
        head.chain = facts.chain;
        head.schema_heads = facts.schema_heads.iter().map(|id| *id.as_bytes()).collect();
        head.acknowledged = facts.vector;
        head.retired = facts.retired;
        if head.encode().is_err() {
            // Too many sites for one object: what was acknowledged is of use only when garbage is collected.
            (head.acknowledged, head.floor) = (VersionVector::new(), VersionVector::new());
        }
    }

    /// Whether the log here cannot serve what is missing there, or has grown too long there.
    async fn needs_snapshot(&self, head: &Head, missing: &[Range]) -> Result<bool, Error> {
        let bytes: u64 = head.segments.iter().map(|segment| segment.bytes).sum();
        let sizes = missing.to_vec();
        let new_bytes = blocking(self.inner, move |inner| bytes_of(inner, &sizes)).await?;
        let long = !head.segments.is_empty() || new_bytes as usize > TAIL_BYTES_MAX;
        let compacting = self.compacting && (long || self.is_damaged(head).await?);
        let tail = changes(head).map(|frame| (frame.site, frame.version));
        let wanted: Vec<_> = missing.iter().map(|range| (range.site, range.first)).chain(tail).collect();
        blocking(self.inner, move |inner| {
            let file = std::fs::metadata(&inner.path).map_or(0, |file| file.len());
            // What is asked for is refused where it cannot be; what only saves room can wait.
            if compacting || (bytes > SNAPSHOT_LOG_BYTES_MIN.max(2 * file) && inner.store.is_whole()?) {
                return Ok(true);
            }
            for (site, first) in wanted {
                if inner.store.log_start(site)? > first {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await
    }

    /// Versions that are applied here and that no head offers.
    fn missing(&self, own: &Head, facts: &Facts) -> Vec<Range> {
        let mut offered: HashMap<SiteId, Vec<(u64, u64)>> = HashMap::new();
        let mut offer = |site, first, last| offered.entry(site).or_default().push((first, last));
        for head in self.heads.iter().chain(std::iter::once(own)) {
            // Of a site that is retired nobody takes anything but its own versions: what only stands in its snapshot stands nowhere, be it of its own or
            // of another that found it there. So what a head says of its site's last version says nothing of where the versions are.
            let speaks = facts.retired.iter().all(|(site, _)| *site != head.site);
            for (site, last) in head.snapshot.iter().filter(|_| speaks).flat_map(|snapshot| snapshot.vector.iter()) {
                offer(site, 1, last);
            }
            for (site, first, last) in changesets(head) {
                // What others say of this site counts for nothing.
                if site == head.site || (speaks && site != own.site) {
                    offer(site, first, last);
                }
            }
        }
        let covered = |site: SiteId| covered(offered.get(&site).cloned().unwrap_or_default());
        let missing =
            facts.vector.iter().map(|(site, last)| Range { site, first: covered(site).saturating_add(1), last });
        missing.filter(|range| range.first <= range.last).collect()
    }

    /// Of versions that the log here holds, those that others will believe.
    async fn provable(&self, missing: Vec<Range>) -> Result<Vec<Range>, Error> {
        blocking(self.inner, move |inner| {
            let mut provable = Vec::with_capacity(missing.len());
            for mut range in missing {
                // The rest goes with a snapshot.
                if inner.store.log_start(range.site)? <= range.first {
                    range.last = inner.store.provable(range.site, range.last)?;
                }
                if range.first <= range.last {
                    provable.push(range);
                }
            }
            Ok(provable)
        })
        .await
    }

    pub(super) async fn put_schema(&mut self, heads: &[MigrationId]) -> Result<(), Error> {
        let mut wanted = heads.to_vec();
        while let Some(id) = wanted.pop() {
            let name = id.to_string();
            if self.state.schema.contains(&name) {
                continue;
            }
            let body = blocking(self.inner, move |inner| Ok(inner.store.migration(id)?)).await?;
            let Some(body) = body else { continue };
            match Migration::decode(&body) {
                Ok((_, migration)) => wanted.extend(migration.parents),
                // It is passed on as it came, and so was what it follows.
                Err(MigrationError::Newer { .. }) => {}
                Err(error) => return Err(isle_store::StoreError::from(error).into()),
            }
            self.remote
                .put_operation(OperationKind::Schema, *id.as_bytes(), &Bytes::from(body))
                .await
                .map_err(|source| self.failed(source))?;
            self.state.schema.push(name);
            self.report.pushed_operations += u64::from(!self.fetched.contains(&id));
        }
        Ok(())
    }

    /// Puts versions into the head's tail if they fit, else into segments; gives the segments that are not needed any more.
    async fn put_changesets(&mut self, head: &mut Head, missing: &[Range]) -> Result<Vec<SegmentRef>, Error> {
        let sizes = missing.to_vec();
        let new_bytes = blocking(self.inner, move |inner| bytes_of(inner, &sizes)).await?;
        let tail_bytes: usize = head.tail.iter().map(|frame| frame.payload.len() + 64).sum();
        if new_bytes as usize + tail_bytes <= TAIL_BYTES_MAX {
            for range in missing {
                self.add_to_tail(head, *range).await?;
            }
            return Ok(Vec::new());
        }
        let starts = self.log_starts(head).await?;
        let (obsolete, ranges) = regroup(head, missing, new_bytes + tail_bytes as u64, &starts);
        let total = new_bytes + tail_bytes as u64 + obsolete.iter().map(|segment| segment.bytes).sum::<u64>();
        let (mut writer, mut proofs) = (SegmentWriter::new(), Proofs::default());
        // Up to which version a signature stands in the segment: whoever reads only this one needs it there.
        let mut proved = VersionVector::new();
        let mut done = 0u64;
        for range in ranges {
            let mut ahead = VecDeque::new();
            for version in range.first..=range.last {
                // What stands behind a gap is of no use to anybody.
                let Some(mut changeset) = self.changeset(range.site, version, &mut ahead).await? else { break };
                for n in 0..=changeset.blocks {
                    let frame = match n.checked_sub(1) {
                        None => Frame::header(range.site, version, changeset.header.clone()),
                        Some(index) => self.block(range.site, version, &mut changeset, index).await?,
                    };
                    if writer.raw_bytes() + frame.payload.len() > SEGMENT_BYTES && !writer.is_empty() {
                        done += self.put_segment(head, std::mem::take(&mut writer)).await?;
                        self.progress(Phase::Upload, done.min(total), total);
                        proved = VersionVector::new();
                    }
                    if version > proved.get(range.site)
                        && let Some((last, proof)) = proofs.of(&self.inner.store, range.site, version)?
                    {
                        proved.advance(range.site, last);
                        let proof = Frame::proof(range.site, last, proof);
                        writer.push(&proof).map_err(|error| self.refusal("changeset", range.site, &error))?;
                    }
                    writer.push(&frame).map_err(|error| self.refusal("changeset", range.site, &error))?;
                }
            }
        }
        if !writer.is_empty() {
            self.put_segment(head, writer).await?;
        }
        self.progress(Phase::Upload, total, total);
        Ok(obsolete)
    }

    /// From where on the log holds each site that the own segments hold.
    async fn log_starts(&self, head: &Head) -> Result<VersionVector, Error> {
        let sites: Vec<SiteId> = head.segments.iter().flat_map(|segment| &segment.contents).map(|r| r.site).collect();
        blocking(self.inner, move |inner| {
            let mut starts = VersionVector::new();
            for site in sites {
                if starts.get(site) == 0 {
                    starts.advance(site, inner.store.log_start(site)?);
                }
            }
            Ok(starts)
        })
        .await
    }

    async fn put_segment(&self, head: &mut Head, writer: SegmentWriter) -> Result<u64, Error> {
        let raw_bytes = writer.raw_bytes() as u64;
        let segment = blocking(self.inner, move |_| Ok(writer.finish())).await?;
        let last = segment.contents().iter().map(|range| range.last).max().unwrap_or(0);
        let put = self.remote.put_segment(head.site, head.epoch, last, &segment).await;
        head.segments.push(put.map_err(|source| self.failed(source))?);
        Ok(raw_bytes)
    }

    /// The version of a site, of what was read `ahead`.
    async fn changeset(
        &self,
        site: SiteId,
        version: u64,
        ahead: &mut VecDeque<Logged>,
    ) -> Result<Option<Changeset>, Error> {
        if ahead.is_empty() {
            let after = version.saturating_sub(1);
            let (found, _) =
                blocking(self.inner, move |inner| Ok(inner.store.changesets(site, after, READ_BYTES)?)).await?;
            ahead.extend(found);
        }
        let found = ahead.pop_front().filter(|logged| logged.version == version);
        found.map(|logged| self.opened(site, logged.header, logged.only)).transpose()
    }

    fn opened(&self, site: SiteId, encoded: Vec<u8>, only: Option<Vec<u8>>) -> Result<Changeset, Error> {
        let header = Header::decode(&encoded).map_err(|error| self.refusal("changeset", site, &error))?;
        Ok(Changeset { header: encoded.into(), blocks: header.blocks.len(), only })
    }

    async fn block(&self, site: SiteId, version: u64, changeset: &mut Changeset, index: usize) -> Result<Frame, Error> {
        let block = match changeset.only.take() {
            Some(only) => Some(only),
            None => blocking(self.inner, move |inner| Ok(inner.store.block(site, version, index)?)).await?,
        };
        let block = block
            .ok_or_else(|| self.refusal("changeset", site, &format!("block {index} of version {version} is gone")))?;
        Ok(Frame::block(site, version, index as u32, block))
    }

    /// All frames of versions that fit a head, read at once.
    async fn add_to_tail(&self, head: &mut Head, range: Range) -> Result<(), Error> {
        let (site, last) = (range.site, range.last);
        let proof = blocking(self.inner, move |inner| Ok(inner.store.proof_for(site, last)?)).await?;
        if let Some((version, proof)) = proof {
            // One is good for all before it.
            head.tail.retain(|frame| frame.kind != FrameKind::Proof || frame.site != site);
            head.tail.push(Frame::proof(site, version, proof));
        }
        let mut after = range.first.saturating_sub(1);
        while after < last {
            let (found, _) =
                blocking(self.inner, move |inner| Ok(inner.store.changesets(site, after, TAIL_BYTES_MAX)?)).await?;
            let Some(newest) = found.last() else { return Ok(()) };
            after = newest.version;
            for Logged { version, header, only, .. } in found.into_iter().filter(|logged| logged.version <= last) {
                let mut changeset = self.opened(site, header, only)?;
                head.tail.push(Frame::header(site, version, changeset.header.clone()));
                for index in 0..changeset.blocks {
                    head.tail.push(self.block(site, version, &mut changeset, index).await?);
                }
            }
        }
        Ok(())
    }
}

/// What this replica has to say.
pub(super) struct Facts {
    pub(super) vector: VersionVector,
    /// Heads in this replica's other remotes, its own among them, as they were seen last; `None` if they are not known.
    pub(super) elsewhere: Option<Vec<Head>>,
    chain: [u8; 32],
    schema_heads: Vec<MigrationId>,
    pub(super) retired: Vec<(SiteId, u64)>,
    /// The last membership operations.
    members: Vec<OpId>,
    device: String,
}

/// A logged changeset: its header and, if it has just one, its block.
struct Changeset {
    header: Bytes,
    blocks: usize,
    only: Option<Vec<u8>>,
}

/// The frames of changesets that a head itself carries.
pub(super) fn changes(head: &Head) -> impl Iterator<Item = &Frame> {
    head.tail.iter().filter(|frame| frame.kind != FrameKind::Proof)
}

/// What a head offers: by site, the first and the last version.
pub(super) fn ranges(head: &Head) -> impl Iterator<Item = (SiteId, u64, u64)> + '_ {
    let snapshot = head.snapshot.iter().flat_map(|snapshot| snapshot.vector.iter());
    snapshot.map(|(site, last)| (site, 1, last)).chain(changesets(head))
}

/// Those that stand as changesets in its segments and its tail.
fn changesets(head: &Head) -> impl Iterator<Item = (SiteId, u64, u64)> + '_ {
    let segments = head.segments.iter().flat_map(|segment| &segment.contents);
    let tail = changes(head).map(|frame| (frame.site, frame.version, frame.version));
    segments.map(|range| (range.site, range.first, range.last)).chain(tail)
}

/// Up to where ranges reach from version 1 on without a gap.
pub(super) fn covered(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort_unstable();
    let reach = |covered: u64, (first, last): (u64, u64)| {
        if first <= covered.saturating_add(1) { covered.max(last) } else { covered }
    };
    ranges.into_iter().fold(0, reach)
}

/// Whether an own head can be built upon: it speaks of versions that are here, and covers all that it claims.
pub(super) fn is_sound(head: &Head, vector: &VersionVector) -> bool {
    let here = ranges(head).all(|(site, first, last)| first > 0 && first <= last && vector.contains(site, last));
    let own = ranges(head).filter(|(site, ..)| *site == head.site).map(|(_, first, last)| (first, last)).collect();
    here && covered(own) >= head.last_version && vector.contains(head.site, head.last_version)
}

/// About how many bytes the versions take.
fn bytes_of(inner: &Inner, ranges: &[Range]) -> Result<u64, Error> {
    let mut bytes = 0;
    for range in ranges {
        for version in range.first..=range.last {
            if let Some(encoded) = inner.store.header(range.site, version)? {
                let stored = Header::decode(&encoded).map_or(0, |header| header.stored_bytes());
                bytes += encoded.len() as u64 + stored + 128;
            }
        }
    }
    Ok(bytes)
}

/// Takes the tail and the last small segments out of the head; gives the segments and all versions to write, oldest first.
fn regroup(
    head: &mut Head,
    missing: &[Range],
    new_bytes: u64,
    log_starts: &VersionVector,
) -> (Vec<SegmentRef>, Vec<Range>) {
    let logged = |segment: &SegmentRef| segment.contents.iter().all(|r| log_starts.get(r.site) <= r.first);
    let mut bytes = new_bytes;
    let mut obsolete = Vec::new();
    while let Some(last) = head.segments.last()
        && last.bytes < 2 * bytes
        && last.bytes < SEGMENT_BYTES as u64 / 2
        && last.epoch == head.epoch
        && logged(last)
    {
        bytes += last.bytes;
        obsolete.extend(head.segments.pop());
    }
    let mut ranges = Vec::new();
    for segment in obsolete.iter().rev() {
        ranges.extend(segment.contents.iter().map(|range| Range {
            site: range.site,
            first: range.first,
            last: range.last,
        }));
    }
    for frame in std::mem::take(&mut head.tail).into_iter().filter(|frame| frame.kind != FrameKind::Proof) {
        let known = ranges.iter().any(|r| r.site == frame.site && r.first <= frame.version && frame.version <= r.last);
        if !known {
            ranges.push(Range { site: frame.site, first: frame.version, last: frame.version });
        }
    }
    ranges.extend(missing);
    (obsolete, ranges)
}
