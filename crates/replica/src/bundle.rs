//! Changes as bytes that an app carries on a way of its own: a mail, a message queue, a memory stick, a request to its own server.
//!
//! A bundle holds what one replica has and another lacks by its own account ([`Replica::have`]): schema and membership operations, and changesets with the
//! signatures under which they would go to a remote. It may come twice, late, or not at all; the next one goes by what has arrived.
//!
//! # Who is believed
//! Where the device has the group's key, a bundle is encrypted with it, and none is taken that is not: as in a remote, whoever has the key belongs to the
//! group. Without a key a bundle is plain: whoever can read it can read the data, and whoever can alter it can add some.
//!
//! # Limits
//! The bound on a bundle's size is kept for this device's own changes; those of others go along up to a version that their device has signed, which may be 256 of
//! them. A bundle only carries what is in the log: what was compacted away goes by a remote or a direct sync. A group that compacts does not wait
//! for devices that neither put a head in a remote nor meet others directly.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use bytes::Bytes;
use isle_blobs::{Bundle, FormatError, Frame, FrameKind, SegmentWriter, read_segment};
use isle_changeset::Header;
use isle_clock::{GroupId, SiteId, VersionVector};
use isle_store::{Frame as StoreFrame, Logged, StoreError};

use crate::proofs::Proofs;
use crate::replica::Inner;
use crate::{Error, Replica, SyncReport};

/// A segment of a bundle is closed when its frames take this many bytes.
const SEGMENT_BYTES: usize = 8 << 20;
/// The longest text that can say what a replica has.
const HAVE_BYTES_MAX: usize = 16 << 20;
/// Refusals after which the rest of a bundle is not looked at any more.
const REFUSALS_MAX: usize = 100;
/// What its operations are called in the file's own list of what was done.
const TARGET: &str = "bundle";

/// Why a bundle cannot be made or taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The bytes are no bundle, or not one that this device can read.
    #[error("the bundle cannot be read: {source}")]
    Format {
        /// What is wrong.
        source: FormatError,
    },
    /// It is encrypted, and this device has no key of its group.
    #[error(
        "the bundle is encrypted, and this device has no key of its group {}: `isle key export FILE` on a device that has it, then `isle key import FILE` here", group.short()
    )]
    KeyMissing {
        /// The group.
        group: GroupId,
    },
    /// It is not encrypted although the group has a key.
    #[error(
        "the bundle is not encrypted, and this device has a key of its group: its writer has to import that key first"
    )]
    Plain,
    /// It is of another group.
    #[error("the bundle is of group {}, and this file has exchanged changes in group {} already: use a new file", found.short(), group.short())]
    OtherGroup {
        /// The bundle's.
        found: GroupId,
        /// This file's.
        group: GroupId,
    },
    /// The file has a key of its own group, and would leave that.
    #[error("the bundle is of group {}, and this device has made a key for group {}, which this file belongs to: use a new file", found.short(), group.short())]
    KeyedGroup {
        /// The bundle's.
        found: GroupId,
        /// This file's.
        group: GroupId,
    },
    /// Too much of it is refused.
    #[error("the bundle is broken in many places; the first: {first}")]
    Broken {
        /// The first reason.
        first: String,
    },
    /// It is of another app.
    #[error("the bundle is of app {found:?}, this replica is of app {app:?}")]
    OtherApp {
        /// The bundle's.
        found: String,
        /// This replica's.
        app: String,
    },
    /// The text does not say what a replica has.
    #[error(
        "what the other replica has cannot be read: {reason}; give what `isle_vector()` or `Replica::have` tells there"
    )]
    Have {
        /// What is wrong.
        reason: String,
    },
    /// The log does not reach back to what the other lacks.
    #[error(
        "the log of this file does not reach back to what the other lacks: it was compacted; sync the other with a remote or directly"
    )]
    Gap,
    /// A part of a changeset is gone.
    #[error("block {index} of version {version} of site {site} is not in the file: `isle doctor` looks for damage")]
    BlockGone {
        /// Its author.
        site: SiteId,
        /// The version.
        version: u64,
        /// Which block.
        index: usize,
    },
}

impl From<FormatError> for BundleError {
    fn from(source: FormatError) -> BundleError {
        BundleError::Format { source }
    }
}

/// What a replica has, so that another can tell what it lacks. As text it is a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Have {
    versions: VersionVector,
    /// The ids of its schema and membership operations.
    operations: BTreeSet<String>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct HaveText {
    #[serde(default)]
    versions: std::collections::BTreeMap<String, u64>,
    #[serde(default)]
    operations: BTreeSet<String>,
}

impl std::fmt::Display for Have {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let versions = self.versions.iter().map(|(site, version)| (site.to_string(), version)).collect();
        let text = serde_json::to_string(&HaveText { versions, operations: self.operations.clone() });
        f.write_str(&text.map_err(|_| std::fmt::Error)?)
    }
}

impl FromStr for Have {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Have, BundleError> {
        let bad = |reason: String| BundleError::Have { reason };
        if text.len() > HAVE_BYTES_MAX {
            return Err(bad(format!("it has {} bytes, at most {HAVE_BYTES_MAX} are read", text.len())));
        }
        // A list would be read as one, too.
        if !text.trim_start().starts_with('{') {
            return Err(bad("it is no JSON object".to_owned()));
        }
        let read: HaveText = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
        let mut versions = VersionVector::new();
        for (site, version) in read.versions {
            let site = site.parse::<SiteId>().map_err(|_| bad(format!("{site:?} is no site id")))?;
            versions.advance(site, version);
        }
        Ok(Have { versions, operations: read.operations })
    }
}

impl Replica {
    /// The most bytes of changes in one bundle, unless told otherwise: 64 MiB.
    pub const BUNDLE_BYTES: usize = 64 << 20;

    /// What this replica has, for [`Replica::export_bundle`] of another one.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn have(&self) -> Result<Have, Error> {
        self.inner.store.seal()?;
        let schema = self.inner.store.schema_ids()?;
        let members = self.inner.store.member_ops()?;
        let operations = schema.iter().map(|id| hex(id)).chain(members.iter().map(|(id, _)| hex(id)));
        Ok(Have { versions: self.inner.store.vector()?, operations: operations.collect() })
    }

    /// What this replica has and another lacks, about `bytes` of it and at least one changeset; `None` if that is nothing. Take it there by
    /// [`Replica::apply_bundle`], and ask again with what the other has then: until nothing is left.
    ///
    /// # Errors
    /// [`BundleError::Gap`], the key store's reason, SQLite's reason.
    pub fn export_bundle(&self, have: &Have, bytes: usize) -> Result<Option<Bytes>, Error> {
        let inner = &*self.inner;
        // Before anything is handed over under the site's id.
        crate::direct::confirm_identity(inner)?;
        let store = &inner.store;
        let status = store.status()?;
        let found = store.lacking(&have.versions, &BTreeSet::new(), bytes)?;
        if found.gap {
            return Err(BundleError::Gap.into());
        }
        let lacks = |id: &[u8]| !have.operations.contains(&hex(id));
        let schema = store.schema_ops_beyond(&BTreeSet::new())?.into_iter();
        let schema: Vec<Bytes> = schema.filter(|(id, _)| lacks(id.as_bytes())).map(|(_, op)| op.into()).collect();
        let members = store.member_ops()?.into_iter().filter(|(id, _)| lacks(id));
        let members: Vec<Bytes> = members.map(|(_, op)| op.into()).collect();
        if found.changesets.is_empty() && schema.is_empty() && members.is_empty() {
            return Ok(None);
        }
        let own = found.changesets.iter().filter(|(site, _)| *site == status.site).map(|(_, logged)| logged.version);
        if let Some(last) = own.max() {
            inner.record_published(status.site, last)?;
        }
        let own = self.signed_here(status.site, &found.changesets)?;
        if let Some(own) = &own
            && !is_in_log(inner, own, &found.changesets)?
        {
            // It was sealed anew before it counted as published, which it does now.
            return self.export_bundle(have, bytes);
        }
        let segments = segments(inner, up_to_signatures(inner, found.changesets, own.as_ref())?, own)?;
        let named = |site: &isle_store::Site| Some((site.id, site.name.clone()?));
        let mut names: Vec<_> = status.sites.iter().filter(|site| !site.own).filter_map(named).collect();
        names.push((status.site, inner.device()?.name));
        let bundle = Bundle { app: status.app, floor: store.floor()?, names, schema, members, segments };
        let ring = inner.group_keys(status.group)?;
        let keys = ring.as_ref().map(|ring| (ring, inner.random_32()));
        Ok(Some(bundle.encode(status.group, keys).map_err(BundleError::from)?))
    }

    /// This device's signature under its last version among these: one that is kept may be of a later version, up to which everything would have to go along.
    fn signed_here(&self, site: SiteId, changesets: &[(SiteId, Logged)]) -> Result<Option<Frame>, Error> {
        let own = changesets.iter().filter(|(of, _)| *of == site).map(|(_, logged)| logged);
        let Some(last) = own.max_by_key(|logged| logged.version) else { return Ok(None) };
        let Some(nonce) = self.inner.store.site_nonce()? else { return Ok(None) };
        let secret = self.inner.key_store()?.secret(self.inner.runtime.as_ref())?;
        let (group, chain) = (self.inner.store.group()?, Header::hash(&last.header));
        let proof = isle_identity::prove(&secret, &nonce, group, last.version, &chain);
        Ok(Some(Frame::proof(site, last.version, proof)))
    }

    /// Takes in a bundle of [`Replica::export_bundle`]. A file that has exchanged nothing yet becomes one of the bundle's group. What is refused of
    /// it, and what waits for something that it does not hold, is told by the report.
    ///
    /// # Errors
    /// [`BundleError`], and SQLite's reason; what was merged before it stays merged.
    pub fn apply_bundle(&self, bytes: &[u8]) -> Result<SyncReport, Error> {
        let started_ms = self.inner.runtime.now_ms();
        let result = self.take_bundle(bytes, started_ms);
        let outcome = result.as_ref().map_err(ToString::to_string);
        if let Err(error) = crate::operations::note_sync(&self.inner, TARGET, started_ms, outcome) {
            tracing::warn!(%error, "what came of a bundle cannot be noted");
        }
        result
    }

    fn take_bundle(&self, bytes: &[u8], started_ms: u64) -> Result<SyncReport, Error> {
        let inner = &*self.inner;
        let store = &inner.store;
        let bundle = self.read_bundle(bytes)?;
        let mut report =
            SyncReport { remote: TARGET.to_owned(), downloaded_bytes: bytes.len() as u64, ..Default::default() };
        // What another client wrote comes before what is merged.
        store.seal()?;
        take_operations(inner, &bundle, &mut report)?;
        for segment in &bundle.segments {
            let frames = read_segment(segment).and_then(Iterator::collect::<Result<Vec<Frame>, _>>);
            take_frames(inner, &frames.map_err(BundleError::from)?, &mut report)?;
        }
        let floor = &bundle.floor;
        if store.vector()?.includes(floor) && store.is_below_floor(floor)? {
            store.restate()?;
        }
        let known = store.status()?.sites;
        for (site, name) in bundle.names.iter().filter(|(of, _)| known.iter().any(|site| site.id == *of && !site.own)) {
            store.name_site(*site, &crate::names::tame(name))?;
        }
        report.describe(store.status()?);
        report.pending = crate::sync::pending(inner)?;
        report.conflict_detected = report.conflicts > 0;
        report.duration_ms = inner.runtime.now_ms().saturating_sub(started_ms);
        Ok(report)
    }

    /// Reads a bundle, and sees to it that this file belongs to its group.
    fn read_bundle(&self, bytes: &[u8]) -> Result<Bundle, Error> {
        let inner = &*self.inner;
        let (group, sealed) = Bundle::group(bytes).map_err(BundleError::from)?;
        let status = inner.store.status()?;
        if group != status.group
            && status.published + status.sites.iter().filter(|it| !it.own).map(|it| it.version).sum::<u64>() > 0
        {
            return Err(BundleError::OtherGroup { found: group, group: status.group }.into());
        }
        // Whoever made a key wants to know who is let in: no bundle, which anybody can make, takes the file away from that.
        if group != status.group && inner.group_keys(status.group)?.is_some() {
            return Err(BundleError::KeyedGroup { found: group, group: status.group }.into());
        }
        let ring = inner.group_keys(group)?;
        match (&ring, sealed) {
            (None, true) => return Err(BundleError::KeyMissing { group }.into()),
            (Some(_), false) => return Err(BundleError::Plain.into()),
            _ => {}
        }
        let bundle = Bundle::decode(bytes, ring.as_ref()).map_err(BundleError::from)?;
        crate::names::check("an app's name", &bundle.app)?;
        if group == status.group && bundle.app != status.app
            || group != status.group && !inner.store.join_group(group, Some(&bundle.app))?
        {
            return Err(BundleError::OtherApp { found: bundle.app, app: status.app }.into());
        }
        Ok(bundle)
    }
}

/// Whether the version that is signed here is the one that the log has.
fn is_in_log(inner: &Inner, own: &Frame, changesets: &[(SiteId, Logged)]) -> Result<bool, Error> {
    let same = |(site, logged): &&(SiteId, Logged)| *site == own.site && logged.version == own.version;
    let chain = changesets.iter().find(same).map(|(_, logged)| Header::hash(&logged.header));
    Ok(inner.store.own_site()? == own.site && inner.store.own_chain(own.version)? == chain)
}

fn hex(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

/// Adds what is needed of each site to come to a version that its device has signed: nobody merges what stands before it alone.
fn up_to_signatures(
    inner: &Inner,
    mut changesets: Vec<(SiteId, Logged)>,
    own: Option<&Frame>,
) -> Result<Vec<(SiteId, Logged)>, Error> {
    let mut reached = VersionVector::new();
    changesets.iter().for_each(|(site, logged)| reached.advance(*site, logged.version));
    for (site, mut last) in reached.iter().filter(|(site, _)| own.is_none_or(|own| own.site != *site)) {
        let Some((signed, _)) = inner.store.proof_for(site, last)? else { continue };
        while last < signed {
            let (mut more, _) = inner.store.changesets(site, last, SEGMENT_BYTES)?;
            more.retain(|logged| logged.version <= signed);
            let Some(newest) = more.last() else { break };
            last = newest.version;
            changesets.extend(more.into_iter().map(|logged| (site, logged)));
        }
    }
    // Whoever was seen by the author of a later one has an earlier time.
    changesets.sort_by_key(|(site, logged)| (logged.hlc, *site));
    Ok(changesets)
}

/// Puts changesets into segments, with the signatures that they need before them.
fn segments(inner: &Inner, changesets: Vec<(SiteId, Logged)>, own: Option<Frame>) -> Result<Vec<Bytes>, Error> {
    let (mut proofs, mut proved) = (Proofs::default(), VersionVector::new());
    let (mut done, mut writer) = (Vec::new(), SegmentWriter::new());
    let mut put = |frame: &Frame| -> Result<(), Error> {
        if writer.raw_bytes() + frame.payload.len() > SEGMENT_BYTES && !writer.is_empty() {
            done.push(std::mem::take(&mut writer).finish().bytes().clone());
        }
        Ok(writer.push(frame).map_err(BundleError::from)?)
    };
    if let Some(own) = own {
        proved.advance(own.site, own.version);
        put(&own)?;
    }
    for (site, Logged { version, header, mut only, .. }) in changesets {
        if version > proved.get(site)
            && let Some((last, proof)) = proofs.of(&inner.store, site, version)?
        {
            proved.advance(site, last);
            put(&Frame::proof(site, last, proof))?;
        }
        let blocks = Header::decode(&header).map_or(0, |header| header.blocks.len());
        put(&Frame::header(site, version, header))?;
        for index in 0..blocks {
            let block = match only.take() {
                Some(only) => Some(only),
                None => inner.store.block(site, version, index)?,
            };
            let block = block.ok_or(BundleError::BlockGone { site, version, index })?;
            put(&Frame::block(site, version, index as u32, block))?;
        }
    }
    if !writer.is_empty() {
        done.push(writer.finish().bytes().clone());
    }
    Ok(done)
}

fn take_operations(inner: &Inner, bundle: &Bundle, report: &mut SyncReport) -> Result<(), Error> {
    let store = &inner.store;
    let before = store.applied_operations()?;
    let mut refuse = |error: StoreError| refuse(report, error, "an operation of a bundle is refused");
    let members: Vec<&[u8]> = bundle.members.iter().map(AsRef::as_ref).collect();
    if let Err(error) = store.put_member_ops(&members) {
        // One that is broken must not stop the others.
        refuse(error)?;
        for op in members {
            store.put_member_ops(&[op]).map(drop).or_else(&mut refuse)?;
        }
    }
    if !bundle.members.is_empty() {
        crate::direct::heed_cuts(store)?;
    }
    let mut hindered = false;
    for op in &bundle.schema {
        store.take_migration(op).map(|(_, hindrance)| hindered |= hindrance.is_some()).or_else(&mut refuse)?;
    }
    if hindered {
        // A later one may have renamed what stood in the way of an earlier one.
        store.retry_operations()?;
    }
    report.pulled_operations = store.applied_operations()?.saturating_sub(before);
    Ok(())
}

/// Notes why something is not taken, unless it is this file that cannot take it, or it is one time too many.
fn refuse(report: &mut SyncReport, error: StoreError, what: &'static str) -> Result<(), Error> {
    if error.is_local() {
        return Err(error.into());
    }
    tracing::warn!(%error, "{what}");
    report.refused.push(error.to_string());
    match report.refused.len() > REFUSALS_MAX {
        true => Err(BundleError::Broken { first: report.refused.swap_remove(0) }.into()),
        false => Ok(()),
    }
}

fn take_frames(inner: &Inner, frames: &[Frame], report: &mut SyncReport) -> Result<(), Error> {
    let store = &inner.store;
    match store.receive(frames.iter().filter_map(store_frame)) {
        Ok(applied) => report.add(&applied),
        Err(error) if error.is_local() => return Err(error.into()),
        // One site's broken data must not stop the others'.
        Err(_) => {
            let mut by_site: BTreeMap<SiteId, Vec<&Frame>> = BTreeMap::new();
            frames.iter().for_each(|frame| by_site.entry(frame.site).or_default().push(frame));
            for frames in by_site.into_values() {
                match store.receive(frames.into_iter().filter_map(store_frame)) {
                    Ok(applied) => report.add(&applied),
                    Err(error) => refuse(report, error, "a site's part of a bundle is refused")?,
                }
            }
        }
    }
    Ok(())
}

/// A frame as the store takes it; `None` for those of later releases.
pub(crate) fn store_frame(frame: &Frame) -> Option<StoreFrame<'_>> {
    let Frame { site, version, .. } = *frame;
    match frame.kind {
        FrameKind::Header => Some(StoreFrame::Header(&frame.payload)),
        FrameKind::Block => {
            Some(StoreFrame::Block { site, version, index: frame.index as usize, bytes: &frame.payload })
        }
        FrameKind::Proof => Some(StoreFrame::Proof { site, version, bytes: &frame.payload }),
        FrameKind::Other(_) => None,
    }
}
