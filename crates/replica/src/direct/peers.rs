//! The devices of the group, and what is remembered of each.

use isle_clock::SiteId;
use isle_identity::{Action, Cut, DeviceKey, MemberOp, Membership, OpId};
use isle_store::{PeerRow, Store};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::replica::{Inner, Replica};

/// Addresses that are remembered of a peer.
const ADDRESSES_MAX: usize = 8;
/// Sites that are remembered of a device.
const SITES_MAX: usize = 64;

/// What is remembered of a peer between sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerState {
    /// Where it can be reached, the newest first.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    /// Site ids that it proved to be its own.
    #[serde(default)]
    pub(crate) sites: Vec<SiteId>,
    #[serde(default)]
    pub(crate) last_seen_ms: Option<u64>,
    #[serde(default)]
    pub(crate) last_error: Option<String>,
    #[serde(default)]
    pub(crate) sent_bytes: u64,
    #[serde(default)]
    pub(crate) received_bytes: u64,
}

impl PeerState {
    fn read(row: &PeerRow) -> PeerState {
        // A state that cannot be read is one that was never written.
        serde_json::from_str(&row.state).unwrap_or_default()
    }

    pub(crate) fn load(store: &Store, key: &DeviceKey) -> Result<PeerState, Error> {
        let row = store.peers()?.into_iter().find(|row| row.key == *key);
        Ok(row.as_ref().map(PeerState::read).unwrap_or_default())
    }

    /// Changes what is remembered, if that changes anything.
    pub(crate) fn update(store: &Store, key: DeviceKey, change: impl FnOnce(&mut PeerState)) -> Result<(), Error> {
        let before = PeerState::load(store, &key)?;
        let mut state = before.clone();
        change(&mut state);
        if state != before || !store.peers()?.iter().any(|row| row.key == key) {
            let state = serde_json::to_string(&state).map_err(|error| Error::Row { reason: error.to_string() })?;
            store.put_peer(&PeerRow { key, state })?;
        }
        Ok(())
    }

    /// Puts addresses first.
    pub(crate) fn learn_addresses(&mut self, addresses: impl IntoIterator<Item = String>) {
        let mut all: Vec<String> = addresses.into_iter().take(ADDRESSES_MAX).collect();
        all.append(&mut self.addresses);
        for address in all {
            if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
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
    /// Bytes sent to it, in all.
    pub sent_bytes: u64,
    /// Bytes received from it, in all.
    pub received_bytes: u64,
}

fn as_text<S: serde::Serializer>(key: &DeviceKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

/// Sites that are known to belong to devices which this replica syncs with directly.
pub(crate) fn known_sites(store: &Store) -> Result<Vec<SiteId>, Error> {
    Ok(store.peers()?.iter().flat_map(|row| PeerState::read(row).sites).collect())
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
        let mut peers = Vec::new();
        for (key, member) in &membership.members {
            let state = PeerState::load(&inner.store, key)?;
            peers.push(Peer {
                key: *key,
                name: member.name.clone(),
                own: *key == own,
                revoked: member.revoked,
                enrolled_by: name_of(&member.enrolled_by),
                addresses: state.addresses,
                last_seen_ms: state.last_seen_ms,
                last_error: state.last_error,
                sent_bytes: state.sent_bytes,
                received_bytes: state.received_bytes,
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
        PeerState::update(&self.inner.store, peer.key, |state| state.addresses.clear())?;
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
