//! The devices of the group, and what is remembered of each.

use std::collections::BTreeMap;

use isle_clock::{SiteId, VersionVector};
use isle_identity::{Action, Cut, DeviceKey, MemberOp, Membership, OpId};
use isle_store::{PeerRow, Store};
use isle_transport::Traffic;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::replica::{Inner, Replica};

/// Addresses that are remembered of a peer.
const ADDRESSES_MAX: usize = 8;
/// Addresses of one device that are told to others, and heard from them.
const HEARD_MAX: usize = 4;
/// Devices of which a peer is told where they are.
const OTHERS_MAX: usize = 256;
/// How long after it was talked to a device is thought to be there still: 30 days.
const LATELY_MS: u64 = 30 * 86_400_000;
/// Sites that are remembered of a device.
const SITES_MAX: usize = 64;
/// Sites of which it is remembered how much of theirs a peer had.
const VERSIONS_MAX: usize = 4_096;

/// What is remembered of a peer between sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerState {
    /// Where it can be reached, the newest first.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    /// Where others say that it was; tried behind those.
    #[serde(default)]
    pub(crate) heard: Vec<String>,
    /// The user does not want it called, until it calls or says where it is.
    #[serde(default)]
    pub(crate) forgotten: bool,
    /// Site ids that it proved to be its own.
    #[serde(default)]
    pub(crate) sites: Vec<SiteId>,
    #[serde(default)]
    pub(crate) last_seen_ms: Option<u64>,
    #[serde(default)]
    pub(crate) last_error: Option<String>,
    /// Failed tries since it was last talked to.
    #[serde(default)]
    pub(crate) failures: u64,
    #[serde(default)]
    pub(crate) sent_bytes: u64,
    #[serde(default)]
    pub(crate) received_bytes: u64,
    /// What it had when it was last talked to.
    #[serde(default)]
    pub(crate) versions: BTreeMap<SiteId, u64>,
}

impl PeerState {
    fn read(row: &PeerRow) -> PeerState {
        // A state that cannot be read is one that was never written.
        PeerState::parse(&row.state)
    }

    fn parse(text: &str) -> PeerState {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Of all devices, by their keys.
    pub(super) fn all(store: &Store) -> Result<BTreeMap<DeviceKey, PeerState>, Error> {
        Ok(store.peers()?.iter().map(|row| (row.key, PeerState::read(row))).collect())
    }

    pub(crate) fn load(store: &Store, key: &DeviceKey) -> Result<PeerState, Error> {
        let row = store.peers()?.into_iter().find(|row| row.key == *key);
        Ok(row.as_ref().map(PeerState::read).unwrap_or_default())
    }

    /// Changes what is remembered, if that changes anything: whoever else does at the same time, nothing is lost.
    pub(crate) fn update(store: &Store, key: DeviceKey, change: impl FnOnce(&mut PeerState)) -> Result<(), Error> {
        Ok(store.update_peer(&key, |known| {
            let before = known.map(PeerState::parse);
            let mut state = before.clone().unwrap_or_default();
            change(&mut state);
            // No type here refuses to be written.
            if before.as_ref() == Some(&state) { None } else { serde_json::to_string(&state).ok() }
        })?)
    }

    /// Puts addresses first.
    pub(crate) fn learn_addresses(&mut self, addresses: impl IntoIterator<Item = String>) {
        let mut all: Vec<String> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        self.forgotten &= all.is_empty();
        all.append(&mut self.addresses);
        for address in all {
            if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
    }

    /// What it has now. Of groups with very many sites nothing is remembered: it would be written with each session.
    pub(crate) fn learn_versions(&mut self, has: &VersionVector) {
        if !has.is_empty() {
            self.versions = if has.len() <= VERSIONS_MAX { has.iter().collect() } else { BTreeMap::new() };
        }
    }

    /// Adds what went over a connection, but for what was `counted` before.
    pub(super) fn count(&mut self, traffic: &Traffic, counted: (u64, u64)) {
        let (sent, received) = (traffic.sent_bytes, traffic.received_bytes);
        self.sent_bytes = self.sent_bytes.saturating_add(sent.saturating_sub(counted.0));
        self.received_bytes = self.received_bytes.saturating_add(received.saturating_sub(counted.1));
    }

    pub(crate) fn failed(&mut self, reason: String) {
        self.last_error = Some(reason);
        self.failures = self.failures.saturating_add(1);
    }

    pub(crate) fn learn_site(&mut self, site: SiteId) {
        if !self.sites.contains(&site) {
            self.sites.push(site);
            if self.sites.len() > SITES_MAX {
                self.sites.remove(0);
            }
        }
    }
}

/// A device of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its key.
    #[serde(serialize_with = "as_text")]
    pub key: DeviceKey,
    /// Its name.
    pub name: String,
    /// Whether it is this device.
    pub own: bool,
    /// Whether it was put out of the group.
    pub revoked: bool,
    /// The name of the device that let it in.
    pub enrolled_by: String,
    /// Where it can be reached, as far as known.
    pub addresses: Vec<String>,
    /// When it was last talked to, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// Why it could not be talked to, if the last try failed.
    pub last_error: Option<String>,
    /// How many tries have failed since it was last talked to.
    pub failures: u64,
    /// Bytes sent to it, in all.
    pub sent_bytes: u64,
    /// Bytes received from it, in all.
    pub received_bytes: u64,
    /// Changesets that are here, and that it did not have when it was last talked to; `None` if that is not known. What it got since then
    /// by other ways is not.
    pub behind: Option<u64>,
    /// Changesets that it had then, and that are not here.
    pub ahead: Option<u64>,
}

fn as_text<S: serde::Serializer>(key: &DeviceKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

/// How many of these versions somebody lacks who has each site's up to `has`.
fn missing(versions: impl Iterator<Item = (SiteId, u64)>, has: impl Fn(SiteId) -> u64) -> u64 {
    versions.map(|(site, version)| version.saturating_sub(has(site))).fold(0, u64::saturating_add)
}

/// Sites that are known to belong to devices which this replica syncs with directly.
pub(crate) fn known_sites(store: &Store) -> Result<Vec<SiteId>, Error> {
    Ok(store.peers()?.iter().flat_map(|row| PeerState::read(row).sites).collect())
}

/// A device and its addresses, as the hello has them.
type Whereabouts = ([u8; 32], Vec<String>);

/// Where other members were talked to lately, for one of them.
pub(super) fn others(inner: &Inner, peer: &DeviceKey) -> Result<Vec<Whereabouts>, Error> {
    let (membership, own, now) = (inner.store.membership()?, inner.device()?.key, inner.runtime.now_ms());
    let mut others: Vec<(u64, [u8; 32], Vec<String>)> = Vec::new();
    for row in inner.store.peers()?.iter().filter(|row| row.key != own && row.key != *peer) {
        let state = PeerState::read(row);
        let Some(seen) = state.last_seen_ms.filter(|seen| now.saturating_sub(*seen) <= LATELY_MS) else { continue };
        if membership.is_member(&row.key) && !state.addresses.is_empty() {
            let addresses = state.addresses.into_iter().take(HEARD_MAX).collect();
            others.push((seen, *row.key.as_bytes(), addresses));
        }
    }
    others.sort_unstable_by(|a, b| b.cmp(a));
    Ok(others.into_iter().take(OTHERS_MAX).map(|(_, key, addresses)| (key, addresses)).collect())
}

/// Takes up where a peer has talked to other members.
pub(super) fn hear_of(inner: &Inner, peer: &DeviceKey, others: &[Whereabouts]) -> Result<(), Error> {
    let (membership, own) = (inner.store.membership()?, inner.device()?.key);
    for (key, addresses) in others.iter().take(OTHERS_MAX) {
        let key = DeviceKey::from_bytes(*key);
        if key == own || key == *peer || !membership.is_member(&key) {
            continue;
        }
        PeerState::update(&inner.store, key, |state| {
            if !state.forgotten {
                // Only what needs no looking up: a name could lead anywhere, and cost everybody time.
                let fit = |address: &&String| {
                    !state.addresses.contains(*address) && address.parse::<std::net::SocketAddr>().is_ok()
                };
                state.heard = addresses.iter().filter(fit).take(HEARD_MAX).cloned().collect();
            }
        })?;
    }
    Ok(())
}

/// Retires the sites that a revocation has cut, where they are known.
pub(crate) fn heed_cuts(store: &Store) -> Result<(), Error> {
    let sites = store.status()?.sites;
    let cuts = store.membership()?.cuts.into_iter().filter(|(of, _)| sites.iter().any(|site| site.id == *of));
    let cuts: Vec<_> = cuts.collect();
    if cuts.is_empty() { Ok(()) } else { Ok(store.retire(&cuts)?) }
}

/// Writes a membership operation of this device.
pub(crate) fn put_op(inner: &Inner, mut heads: Vec<OpId>, action: Action) -> Result<(), Error> {
    // Whoever writes very many at once does not keep others from going on; the next one names the rest.
    heads.truncate(isle_identity::PARENTS_MAX);
    let secret = inner.key_store()?.secret(inner.runtime.as_ref())?;
    let group = inner.store.status()?.group;
    let op =
        MemberOp::sign(&secret, group, heads, action).map_err(|source| isle_store::StoreError::Member { source })?;
    inner.store.put_member_ops(&[op.encoded()])?;
    Ok(())
}

/// Who belongs to the group; if this device founded it and never said so, it does now.
pub(crate) fn membership(inner: &Inner) -> Result<Membership, Error> {
    let membership = inner.store.membership()?;
    if !membership.members.is_empty() {
        return Ok(membership);
    }
    let Some(nonce) = inner.store.group_nonce()? else { return Ok(membership) };
    let secret = inner.key_store()?.secret(inner.runtime.as_ref())?;
    let device = inner.device()?;
    let op =
        MemberOp::found(&secret, nonce, &device.name).map_err(|source| isle_store::StoreError::Member { source })?;
    if op.group == inner.store.status()?.group {
        inner.store.put_member_ops(&[op.encoded()])?;
    }
    Ok(inner.store.membership()?)
}

/// Tells the group the device's name, if that is not the one it knows.
pub(crate) fn rename(inner: &Inner, device: &crate::Device) -> Result<(), Error> {
    let membership = inner.store.membership()?;
    match membership.members.get(&device.key) {
        Some(member) if !member.revoked && member.name != device.name => {
            put_op(inner, membership.heads, Action::Rename { name: device.name.clone() })
        }
        _ => Ok(()),
    }
}

/// As [`membership`], for who has to belong to it.
pub(crate) fn membership_of_member(inner: &Inner) -> Result<Membership, Error> {
    let (membership, own) = (membership(inner)?, inner.device()?.key);
    if membership.is_member(&own) {
        return Ok(membership);
    }
    Err(Error::NotMember { revoked: membership.is_revoked(&own) })
}

impl Replica {
    /// The devices of the group that were enrolled, this one included; none if nobody was ever invited to the group.
    ///
    /// # Errors
    /// SQLite's reason, or the key store's.
    pub fn peers(&self) -> Result<Vec<Peer>, Error> {
        let inner = &self.inner;
        let (membership, own) = (inner.store.membership()?, inner.device()?.key);
        let name_of = |key: &DeviceKey| membership.members.get(key).map_or_else(|| key.short(), |it| it.name.clone());
        let (here, mut states) = (inner.store.vector()?, PeerState::all(&inner.store)?);
        let mut peers = Vec::new();
        for (key, member) in &membership.members {
            let state = states.remove(key).unwrap_or_default();
            let known = !state.versions.is_empty();
            let addresses = state.addresses.iter().chain(&state.heard).cloned().collect();
            peers.push(Peer {
                key: *key,
                name: member.name.clone(),
                own: *key == own,
                revoked: member.revoked,
                enrolled_by: name_of(&member.enrolled_by),
                addresses,
                last_seen_ms: state.last_seen_ms,
                last_error: state.last_error,
                failures: state.failures,
                sent_bytes: state.sent_bytes,
                received_bytes: state.received_bytes,
                behind: known.then(|| missing(here.iter(), |site| state.versions.get(&site).copied().unwrap_or(0))),
                ahead: known.then(|| {
                    missing(state.versions.iter().map(|(site, version)| (*site, *version)), |site| here.get(site))
                }),
            });
        }
        Ok(peers)
    }

    /// The device of the group with this name, key or beginning of a key.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`] when no device but this one is called so, or more than one is.
    pub fn peer(&self, name: &str) -> Result<Peer, Error> {
        let wanted = |peer: &Peer| {
            !peer.own && (peer.name == name || (name.len() >= 4 && peer.key.to_string().starts_with(name)))
        };
        let mut found: Vec<Peer> = self.peers()?.into_iter().filter(wanted).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            count => Err(Error::NoSuchPeer { name: name.to_owned(), found: count }),
        }
    }

    /// Says where a device of the group can be reached: `host:port`, or a host or address alone.
    ///
    /// # Errors
    /// As [`Replica::peer`].
    pub fn add_peer_address(&self, name: &str, address: &str) -> Result<Peer, Error> {
        let peer = self.peer(name)?;
        PeerState::update(&self.inner.store, peer.key, |state| state.learn_addresses([address.to_owned()]))?;
        self.peer(name)
    }

    /// Forgets where a device can be reached: it is not dialed any more, until its address is known again.
    ///
    /// # Errors
    /// As [`Replica::peer`].
    pub fn forget_peer_addresses(&self, name: &str) -> Result<Peer, Error> {
        let peer = self.peer(name)?;
        PeerState::update(&self.inner.store, peer.key, |state| {
            state.addresses.clear();
            state.heard.clear();
            state.forgotten = true;
        })?;
        self.peer(name)
    }

    /// Puts a device out of the group, everywhere as the news spreads: nobody talks to it any more, and of what it writes only that counts
    /// which somebody has applied by the time it hears of this. The group's key, if there is one, is made anew: see [`Replica::rotate_key`].
    ///
    /// # Errors
    /// As [`Replica::peer`]; [`Error::NotMember`] if this device does not belong to the group itself.
    pub fn revoke(&self, name: &str) -> Result<Peer, Error> {
        let inner = &self.inner;
        let membership = membership_of_member(inner)?;
        let peer = self.peer(name)?;
        let vector = inner.store.vector()?;
        let mut sites = PeerState::load(&inner.store, &peer.key)?.sites;
        sites.sort_unstable();
        let cuts: Vec<Cut> = sites.into_iter().map(|site| Cut { site, version: vector.get(site) }).collect();
        inner.store.retire(&cuts.iter().map(|cut| (cut.site, cut.version)).collect::<Vec<_>>())?;
        put_op(inner, membership.heads, Action::Revoke { device: peer.key, cuts })?;
        if inner.group_keys(inner.store.status()?.group)?.is_some() {
            self.rotate_key()?;
        }
        self.peer(name)
    }
}
