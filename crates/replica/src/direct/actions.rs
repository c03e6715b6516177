//! What a session asks of the store. All of it blocks.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use isle_clock::{SiteId, VersionVector};
use isle_identity::DeviceKey;
use isle_protocol::{Action, Answer, Blocks, Changeset, Frame, Have, Hello, OpKind, Operation, Partial, Started};
use isle_store::{Applied, Frame as StoreFrame, Logged, StoreError};
use tokio::sync::OwnedMutexGuard;

use super::hub::Hub;
use super::live::LiveEvent;
use super::peers::PeerState;
use crate::Error;
use crate::proofs::Proofs;
use crate::sync::SyncReport;

/// Refusals that a session remembers.
const REFUSALS_MAX: usize = 100;

/// A session's side of the store.
pub(super) struct Desk {
    pub(super) hub: Arc<Hub>,
    /// The device at the other end, by its proved key.
    pub(super) key: DeviceKey,
    pub(super) name: String,
    /// The own site that the session speaks as.
    pub(super) site: SiteId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    report: SyncReport,
    spool: Option<Spool>,
    /// Held while a snapshot of this peer is taken in.
    staging: Option<OwnedMutexGuard<()>>,
    /// What that snapshot holds, as the peer said.
    considered: VersionVector,
}

/// A snapshot that was written once and is sent in parts: its blocks, one behind the other, in a file without a name.
struct Spool {
    file: File,
    /// Where each block ends.
    ends: Vec<u64>,
}

impl Desk {
    pub(super) fn new(hub: &Arc<Hub>, key: DeviceKey, name: String, site: SiteId) -> Desk {
        let report = SyncReport { remote: name.clone(), ..SyncReport::default() };
        let state = Mutex::new(State { report, ..State::default() });
        Desk { hub: Arc::clone(hub), key, name, site, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done so far.
    pub(super) fn report(&self) -> SyncReport {
        self.state().report.clone()
    }

    pub(super) fn stage_under(&self, guard: OwnedMutexGuard<()>) {
        self.state().staging = Some(guard);
    }

    /// Others may take in a snapshot now.
    pub(super) fn stage_no_more(&self) {
        self.state().staging = None;
    }

    fn refusal(&self, what: &'static str, site: SiteId, reason: &dyn std::fmt::Display) -> Error {
        Error::Refused { name: self.name.clone(), what, site, reason: reason.to_string() }
    }

    /// Does what the session asks for.
    pub(super) fn act(&self, action: Action) -> Result<Answer, Error> {
        let store = &self.hub.inner.store;
        match action {
            Action::Begin(peer) => self.begin(&peer),
            Action::Compare(chains) => self.compare(&chains),
            Action::Confirm { version, chain } => Ok(Answer::Confirmed(store.wrote(version, chain)?)),
            Action::Restate { floor } => {
                if store.is_below_floor(&floor)? {
                    store.restate()?;
                }
                Ok(Answer::Knowing)
            }
            Action::Read { have, declined, bytes } => self.read(&have, &declined, bytes),
            Action::ReadBlocks { site, version, first, end, bytes } => {
                let (mut blocks, mut held) = (Vec::new(), 0);
                for n in first..end {
                    let block = store.block(site, version, n as usize)?;
                    let Some(block) = block.filter(|_| held < bytes || blocks.is_empty()) else { break };
                    held += block.len();
                    blocks.push(Bytes::from(block));
                }
                Ok(Answer::Blocks(blocks))
            }
            Action::Export => self.export(),
            Action::ReadParts { first, last, bytes } => self.read_parts(first, last, bytes),
            Action::PutOperations(operations) => self.put_operations(operations),
            Action::Put(frames) => self.put(&frames),
            Action::Retire(sites) => {
                // Of sites that were never heard of there is nothing to forget, and nobody can fill the file with them.
                let known = store.status()?.sites;
                let sites: Vec<_> =
                    sites.into_iter().filter(|(of, _)| known.iter().any(|site| site.id == *of)).collect();
                store.retire(&sites)?;
                // What was beyond an earlier end may count now.
                self.note(store.apply()?);
                self.hub.refresh_operations()?;
                self.hub.bump();
                // Whoever runs the session goes on under a new id then, once nobody speaks as the old one any more.
                let own = sites.iter().any(|(site, _)| *site == self.site);
                self.state().report.was_retired |= own;
                Ok(Answer::Retired(own))
            }
            Action::Consider(vector) => {
                let wanted = !store.vector()?.includes(&vector);
                if !wanted {
                    self.state().staging = None;
                }
                self.state().considered = vector;
                Ok(Answer::Considered(wanted))
            }
            Action::Stage(header) => self.stage(&header),
            Action::StageParts(parts) => {
                let blocks = parts.iter().map(|(n, bytes)| (*n as usize, bytes.as_ref()));
                store.stage_blocks(blocks).map_err(|error| self.soften(error))?;
                Ok(Answer::PartsStaged)
            }
            Action::Join => self.join(),
        }
    }

    fn begin(&self, peer: &Hello) -> Result<Answer, Error> {
        if isle_identity::site_id(&self.key, &peer.nonce) != peer.site {
            return Err(self.refusal("hello", peer.site, &"the site id is not one of this device's"));
        }
        let store = &self.hub.inner.store;
        store.name_site(peer.site, &crate::names::tame(&peer.device))?;
        let now = self.hub.inner.runtime.now_ms();
        PeerState::update(store, self.key, |state| {
            state.learn_site(peer.site);
            state.learn_addresses(peer.addresses.clone());
            (state.last_seen_ms, state.last_error, state.failures) = (Some(now), None, 0);
        })?;
        super::peers::hear_of(&self.hub.inner, &self.key, &peer.others)?;
        // What stood in the way of an operation may have gone.
        store.retry_operations()?;
        self.state().report.pending = crate::sync::pending(&self.hub.inner)?;
        let held = store.held()?;
        let last = held.applied.get(peer.site);
        let chain = store.chain(peer.site)?.filter(|_| last > 0);
        let partial = held.partial.iter();
        let partial = partial.map(|part| Partial { site: part.site, version: part.version, blocks: part.blocks });
        let have = Have {
            applied: held.applied,
            held: held.held,
            partial: partial.collect(),
            floor: store.floor()?,
            chains: store.chains()?,
            yours: chain.map(|chain| (last, chain)),
        };
        // Before the operations: one that puts a device out is there before the key that this device is not to have.
        let keys = super::keys::wrapped(&self.hub.inner, self.key, &peer.keys)?;
        let known: BTreeSet<_> = peer.schema.iter().copied().collect();
        let schema = store.schema_ops_beyond(&known)?.into_iter();
        let schema = schema.map(|(id, op)| (OpKind::Schema, (*id.as_bytes(), op)));
        let members = store.member_ops()?.into_iter().filter(|(id, _)| !peer.members.contains(id));
        let all = schema.chain(members.map(|op| (OpKind::Member, op)));
        let all = all.map(|(kind, (id, bytes))| (id, Operation { kind, bytes: bytes.into() }));
        let operations = all.chain(keys).collect();
        self.state().report.replicas = store.status()?.sites.len() as u64;
        Ok(Answer::Started(Box::new(Started { have, operations, retired: super::hub::retired(&self.hub.inner)? })))
    }

    /// Finds sites of which the peer has another history than this replica.
    fn compare(&self, chains: &[(SiteId, u64, isle_changeset::Hash)]) -> Result<Answer, Error> {
        let mut forked = Vec::new();
        for (site, version, chain) in chains.iter().filter(|(site, ..)| *site != self.site) {
            let known = self.hub.inner.store.chain_at(*site, *version)?;
            if known.is_some_and(|known| known != *chain) {
                tracing::warn!(peer = self.name, %site, version, "a site has two histories");
                self.note_refusal(&format_args!(
                    "site {site} wrote two different versions {version}: its file and its device's records were restored together; \
                     this replica and {} have one each, and what it writes is not exchanged between them",
                    self.name
                ));
                self.note_fork(*site, *version);
                forked.push(*site);
            }
        }
        Ok(Answer::Compared(forked))
    }

    fn read(&self, have: &VersionVector, declined: &BTreeSet<SiteId>, bytes: usize) -> Result<Answer, Error> {
        let store = &self.hub.inner.store;
        if store.own_site()? != self.site {
            return Err(Error::SiteChanged);
        }
        if !self.hub.may_have(&self.key)? {
            return Err(Error::NotEnrolled { key: self.key.short() });
        }
        let found = store.lacking(have, declined, bytes)?;
        let own = found.changesets.iter().filter(|(site, _)| *site == self.site);
        let last = own.clone().map(|(_, logged)| logged.version).max();
        if let Some(last) = last {
            self.hub.publish(self.site, last)?;
            self.state().report.pushed_versions += own.count() as u64;
        }
        let mut proofs = Proofs::default();
        let changesets = found.changesets.into_iter().map(|(site, logged)| {
            let Logged { version, header, only, .. } = logged;
            let count = || isle_changeset::Header::decode(&header).map_or(0, |header| header.blocks.len() as u32);
            let blocks = only.map_or_else(|| Blocks::Many(count()), |only| Blocks::Only(only.into()));
            let proof = proofs.of(store, site, version)?;
            Ok(Changeset { site, version, blocks, header: header.into(), proof })
        });
        let changesets = changesets.collect::<Result<_, Error>>()?;
        let (more, gap, applied) = (found.more, found.gap, found.applied);
        Ok(Answer::Changesets { changesets, more, gap, applied })
    }

    fn put_operations(&self, operations: Vec<Operation>) -> Result<Answer, Error> {
        let store = &self.hub.inner.store;
        let (mut known, mut hindered) = (Vec::new(), false);
        let before = store.applied_operations()?;
        for Operation { kind, bytes } in operations {
            let put = match kind {
                OpKind::Schema => store.take_migration(&bytes).map(|(id, hindrance)| {
                    hindered |= hindrance.is_some();
                    vec![*id.as_bytes()]
                }),
                OpKind::Member => store.put_member_ops(&[&bytes]),
                OpKind::Key => {
                    match super::keys::take(&self.hub.inner, self.key, &bytes)? {
                        Ok(id) => known.push((kind, id)),
                        Err(reason) => {
                            tracing::warn!(peer = self.name, reason, "an operation is refused");
                            self.note_refusal(&reason);
                        }
                    }
                    continue;
                }
            };
            match put {
                Ok(ids) => known.extend(ids.into_iter().map(|id| (kind, id))),
                Err(error) if error.is_local() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(peer = self.name, %error, "an operation is refused");
                    self.note_refusal(&error);
                }
            }
        }
        if known.iter().any(|(kind, _)| *kind == OpKind::Member) {
            super::peers::heed_cuts(store)?;
        }
        if hindered {
            // A later one may have renamed what stood in the way of an earlier one.
            store.retry_operations()?;
        }
        // What waited for an operation can be merged now.
        let applied = store.apply()?;
        self.note(applied);
        let now = store.applied_operations()?;
        let pending = crate::sync::pending(&self.hub.inner)?;
        let mut state = self.state();
        state.report.pulled_operations += now.saturating_sub(before);
        state.report.pending = pending;
        drop(state);
        self.hub.refresh_operations()?;
        self.hub.refresh_keys()?;
        self.hub.bump();
        Ok(Answer::OperationsPut(known))
    }

    fn note_fork(&self, site: SiteId, version: u64) {
        if site == self.site {
            return;
        }
        match self.hub.inner.store.note_fork(site, version, &self.name, Some(&self.key)) {
            Ok(true) => self.hub.tell(LiveEvent::Forked { site, version, name: self.name.clone() }),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, %site, "that a site has two histories cannot be noted"),
        }
    }

    fn note_refusal(&self, reason: &dyn std::fmt::Display) {
        let (refusal, mut state) = (reason.to_string(), self.state());
        // A peer that sends very much that is refused is not to fill memory with it.
        if state.report.refused.len() < REFUSALS_MAX && !state.report.refused.contains(&refusal) {
            state.report.refused.push(refusal);
        }
    }

    fn note(&self, applied: Applied) {
        self.state().report.add(&applied);
    }

    fn put(&self, frames: &[Frame]) -> Result<Answer, Error> {
        let store = &self.hub.inner.store;
        let mut declined = Vec::new();
        match store.receive(frames.iter().filter_map(store_frame)) {
            Ok(applied) => self.note(applied),
            Err(error) if !is_refusal(&error) => return Err(error.into()),
            // One site's broken data must not stop the others'.
            Err(_) => {
                let sites: BTreeSet<SiteId> = frames.iter().filter_map(site_of).collect();
                for site in sites {
                    let of_site = frames.iter().filter(|frame| site_of(frame) == Some(site));
                    match store.receive(of_site.filter_map(store_frame)) {
                        Ok(applied) => self.note(applied),
                        Err(error) if is_refusal(&error) => {
                            tracing::warn!(peer = self.name, %site, %error, "refused");
                            if let StoreError::Fork { site, version } = error {
                                self.note_fork(site, version);
                            }
                            self.note_refusal(&error);
                            declined.push(site);
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        self.hub.bump();
        Ok(Answer::Put { applied: store.vector()?, declined })
    }

    fn export(&self) -> Result<Answer, Error> {
        use std::io::Write as _;
        let folder = self.hub.inner.path.parent().unwrap_or(std::path::Path::new("."));
        let failed = |source| Error::Read { path: folder.to_owned(), source };
        let mut file = tempfile::tempfile_in(folder).map_err(failed)?;
        let (mut ends, mut end) = (Vec::new(), 0u64);
        let snapshot = self.hub.inner.store.export_snapshot(|block| {
            file.write_all(&block.bytes).map_err(failed)?;
            end += block.bytes.len() as u64;
            ends.push(end);
            Ok::<_, Error>(())
        })?;
        // It names own versions, so they have to be durable here first.
        self.hub.publish(self.site, snapshot.vector.get(self.site))?;
        let blocks = u32::try_from(ends.len()).map_err(|_| failed(std::io::Error::other("too many blocks")))?;
        let mut state = self.state();
        state.spool = Some(Spool { file, ends });
        state.report.snapshot_published = true;
        Ok(Answer::Exported { header: snapshot.header.into(), blocks })
    }

    fn read_parts(&self, first: u32, last: u32, bytes: usize) -> Result<Answer, Error> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut state = self.state();
        let Some(spool) = &mut state.spool else { return Ok(Answer::Parts(Vec::new())) };
        let failed = |source| Error::Read { path: self.hub.inner.path.clone(), source };
        let (mut parts, mut held) = (Vec::new(), 0);
        for n in first..=last {
            let before = n.checked_sub(1).and_then(|n| spool.ends.get(n as usize)).copied().unwrap_or(0);
            let Some(end) = spool.ends.get(n as usize).copied().filter(|_| held < bytes) else { break };
            let mut part = vec![0; (end - before) as usize];
            spool.file.seek(SeekFrom::Start(before)).and_then(|_| spool.file.read_exact(&mut part)).map_err(failed)?;
            held += part.len();
            parts.push(Bytes::from(part));
        }
        Ok(Answer::Parts(parts))
    }

    fn stage(&self, header: &[u8]) -> Result<Answer, Error> {
        let holds = self.state().considered.clone();
        let staged = self.hub.inner.store.stage_snapshot(header, &holds).map_err(|error| self.soften(error))?;
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for n in staged.missing.into_iter().map(|n| n as u32) {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(n) => *last = n,
                _ => ranges.push((n, n)),
            }
        }
        Ok(Answer::Staged(ranges))
    }

    fn join(&self) -> Result<Answer, Error> {
        let store = &self.hub.inner.store;
        let joined = match store.join_snapshot() {
            Err(error @ StoreError::BadSnapshot { .. }) => {
                // No later try makes it better.
                store.discard_snapshot()?;
                Err(error)
            }
            other => other,
        };
        let joined = joined.map_err(|error| self.soften(error))?;
        self.note(joined);
        let mut state = self.state();
        (state.report.snapshot_joined, state.staging) = (true, None);
        drop(state);
        self.hub.bump();
        Ok(Answer::Joined(store.vector()?))
    }

    /// What is wrong with a snapshot is no failure of this replica.
    fn soften(&self, error: StoreError) -> Error {
        match error {
            error @ (StoreError::BadSnapshot { .. }
            | StoreError::SnapshotSchema { .. }
            | StoreError::TablesAway { .. }
            | StoreError::Parked { .. }
            | StoreError::Clock(_)) => {
                Error::Refused { name: self.name.clone(), what: "snapshot", site: self.site, reason: error.to_string() }
            }
            other => other.into(),
        }
    }
}

fn is_refusal(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Fork { .. }
            | StoreError::ForeignGroup { .. }
            | StoreError::BadHeader { .. }
            | StoreError::BadProof { .. }
            | StoreError::BadChangeset { .. }
            | StoreError::TooFarAhead { .. }
    )
}

fn site_of(frame: &Frame) -> Option<SiteId> {
    match frame {
        Frame::Header(header) => isle_changeset::Header::decode(header).ok().map(|header| header.site),
        Frame::Block { site, .. } | Frame::Proof { site, .. } => Some(*site),
    }
}

fn store_frame(frame: &Frame) -> Option<StoreFrame<'_>> {
    match frame {
        Frame::Header(header) => Some(StoreFrame::Header(header)),
        Frame::Block { site, version, index, bytes } => {
            Some(StoreFrame::Block { site: *site, version: *version, index: *index as usize, bytes })
        }
        Frame::Proof { site, version, bytes } => Some(StoreFrame::Proof { site: *site, version: *version, bytes }),
    }
}
