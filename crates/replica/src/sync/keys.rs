//! Encrypted remotes: which key opens one, and how a new key gets about.
//!
//! The object of a remote's group names the key that it began with (`base`). A device that lacks it, or meets an object of a later key, looks for
//! rotations that were wrapped for it: those count that were made by a member, or by a device whose head stands in the remote. A key that this device
//! made is announced before anything is put that is encrypted with it.

use std::sync::Arc;

use bytes::Bytes;
use isle_blobs::{GroupObject, Remote, RemoteError};
use isle_clock::GroupId;
use isle_identity::{DeviceKey, GroupKey, KeyId, Rotation};
use isle_store::RemoteRow;

use super::{RemoteState, Session, blocking};
use crate::Error;
use crate::group_keys::GroupKeys;
use crate::replica::{Inner, random_32};

/// A key whose epoch is this far beyond all others is not taken: nobody rotates so often.
const EPOCH_LEAP_MAX: u64 = 1 << 20;

/// A remote with the keys of its group, which begins with key `base`.
pub(super) async fn unlocked(
    inner: &Arc<Inner>,
    name: &str,
    raw: &Remote,
    (group, base): (GroupId, KeyId),
    announced: &[KeyId],
) -> Result<Remote, Error> {
    let missing = || Error::KeyMissing { name: name.to_owned() };
    let mut keys = usable(inner, group, announced).await?;
    if keys.as_ref().is_none_or(|keys| keys.ring.get(base).is_none()) {
        learn(inner, name, raw, group).await?;
        keys = usable(inner, group, announced).await?;
    }
    let keys = keys.ok_or_else(missing)?;
    let base = keys.ring.get(base).cloned().ok_or_else(missing)?;
    Ok(sealed(inner, raw, keys, base))
}

/// The keys of the group; one that was made here and that the remote was not told of yet is not encrypted with there.
async fn usable(inner: &Arc<Inner>, group: GroupId, announced: &[KeyId]) -> Result<Option<GroupKeys>, Error> {
    let announced = announced.to_vec();
    blocking(inner, move |inner| {
        let own = inner.device()?.key;
        inner.group_keys_but(group, |keys, id| keys.author(id) == Some(own) && !announced.contains(&id))
    })
    .await
}

fn sealed(inner: &Arc<Inner>, raw: &Remote, keys: GroupKeys, base: GroupKey) -> Remote {
    let runtime = Arc::clone(&inner.runtime);
    raw.sealed(keys.ring, base, Arc::new(move || random_32(runtime.as_ref())))
}

/// A remote as its content is read, synced with before or not; one that holds nothing is given back as it is.
pub(super) async fn opened(inner: &Arc<Inner>, row: &RemoteRow, raw: &Remote) -> Result<Remote, Error> {
    let state = RemoteState::read(row);
    if row.plain {
        return Ok(raw.clone());
    }
    let begun = match (state.group, state.base) {
        (Some(group), Some(base)) => Some((group, base)),
        _ => {
            let failed = |source| Error::Remote { name: row.name.clone(), source };
            let Some(found) = raw.group().await.map_err(failed)? else { return Ok(raw.clone()) };
            let plain = Error::RemotePlain { name: row.name.clone() };
            Some((found.group, found.key_check.ok_or(plain)?))
        }
    };
    match begun {
        Some(begun) => unlocked(inner, &row.name, raw, begun, &state.announced).await,
        None => Ok(raw.clone()),
    }
}

/// Takes over rotations that stand in the remote and were wrapped for this device; tells whether there were any.
async fn learn(inner: &Arc<Inner>, name: &str, raw: &Remote, group: GroupId) -> Result<bool, Error> {
    let failed = |source| Error::Remote { name: name.to_owned(), source };
    let mut learned = false;
    for (epoch, id) in raw.list_rotations().await.map_err(failed)? {
        let known =
            blocking(inner, move |inner| Ok(inner.group_keys(group)?.is_some_and(|keys| keys.ring.get(id).is_some())));
        if known.await? {
            continue;
        }
        let bytes = match raw.get_rotation(epoch, id).await {
            Ok(bytes) => bytes,
            Err(error @ (RemoteError::Corrupt { .. } | RemoteError::TooLarge { .. } | RemoteError::Missing { .. })) => {
                tracing::warn!(%error, "a key rotation is passed over");
                continue;
            }
            Err(source) => return Err(failed(source)),
        };
        let remote = name.to_owned();
        learned |= blocking(inner, move |inner| take(inner, &remote, group, (epoch, id), &bytes)).await?;
    }
    Ok(learned)
}

/// Takes a rotation if it is for this device and by one of the group. Blocks.
fn take(inner: &Inner, remote: &str, group: GroupId, named: (u64, KeyId), bytes: &[u8]) -> Result<bool, Error> {
    let refuse = |reason: &str| {
        tracing::warn!(remote, epoch = named.0, id = %named.1, reason, "a key rotation is refused");
        Ok(false)
    };
    let rotation = match Rotation::decode(bytes) {
        Ok(rotation) if (rotation.group(), rotation.epoch(), rotation.id()) == (group, named.0, named.1) => rotation,
        Ok(_) => return refuse("it is another than its name says"),
        Err(error) => return refuse(&error.to_string()),
    };
    let keys = inner.key_store()?;
    let (key, author) = match rotation.open(&keys.secret(inner.runtime.as_ref())?) {
        Ok(Some(opened)) => opened,
        // It leaves this device out.
        Ok(None) => return Ok(false),
        Err(error) => return refuse(&error.to_string()),
    };
    let membership = inner.store.membership()?;
    let known = membership.is_member(&author) || inner.devices_seen(Some(remote))?.alive.contains(&author);
    if !known || membership.is_revoked(&author) {
        return refuse("the device that made it does not belong to the group, as far as is known here");
    }
    let largest = inner.group_keys(group)?.and_then(|keys| keys.ring.keys().map(GroupKey::epoch).max()).unwrap_or(0);
    if key.epoch() > largest.saturating_add(EPOCH_LEAP_MAX) {
        return refuse("its epoch is far beyond all others");
    }
    tracing::info!(remote, id = %key.id(), author = %author.short(), "took over a new key of the group");
    keys.add_group_keys(group, vec![(key, Some(author))])?;
    Ok(true)
}

/// Who gets a new key: members, and devices whose heads were seen, but none that was put out. Blocks.
fn recipients(inner: &Inner) -> Result<Vec<DeviceKey>, Error> {
    let (membership, own) = (inner.store.membership()?, inner.device()?.key);
    let mut devices = inner.devices_seen(None)?.alive;
    devices.extend(membership.members.keys());
    devices.retain(|device| *device != own && !membership.is_revoked(device));
    Ok(devices.into_iter().collect())
}

impl Session<'_> {
    /// Makes an empty prefix a remote of the group. Gives the object of whoever was first.
    pub(super) async fn make_remote(&mut self, group: GroupObject) -> Result<GroupObject, Error> {
        let mut remote = self.raw.clone();
        if !self.row.plain {
            let id = group.group;
            let keys = blocking(self.inner, move |inner| inner.ensure_group_keys(id)).await?;
            // Before the object that asks for the key: members find it at once.
            self.announce(id).await?;
            let base = keys.ring.current().clone();
            remote = sealed(self.inner, &self.raw, keys, base);
        }
        match remote.create_group(&group).await {
            // Somebody was faster, with another key or with none: what stands is looked at as it is.
            Ok(_) | Err(RemoteError::KeyMissing { .. } | RemoteError::Corrupt { .. }) => {}
            Err(source) => return Err(self.failed(source)),
        }
        let standing = self.raw.group().await.map_err(|source| self.failed(source))?;
        standing.ok_or_else(|| Error::RemoteEmptied { name: self.row.name.clone() })
    }

    /// Goes over to the encrypted form of the remote, if it is to have one, and gives the group's object whole.
    pub(super) async fn unlock(&mut self, found: GroupObject) -> Result<GroupObject, Error> {
        let name = self.row.name.clone();
        let base = match (found.key_check, self.row.plain) {
            (None, true) => return Ok(found),
            (None, false) => return Err(Error::RemotePlain { name }),
            (Some(_), true) => return Err(Error::RemoteSealed { name }),
            (Some(base), false) => base,
        };
        self.remote = unlocked(self.inner, &name, &self.raw, (found.group, base), &self.state.announced).await?;
        self.state.base = Some(base);
        let whole = self.remote.group().await.map_err(|source| self.failed(source))?;
        whole.ok_or(Error::RemoteEmptied { name })
    }

    /// Looks for new keys, once in a session; tells whether there are any.
    pub(super) async fn learn_keys(&mut self) -> Result<bool, Error> {
        let (Some(group), Some(base), false) = (self.state.group, self.state.base, self.looked_for_keys) else {
            return Ok(false);
        };
        self.looked_for_keys = true;
        let learned = learn(self.inner, &self.row.name, &self.raw, group).await?;
        if learned {
            let announced = &self.state.announced;
            self.remote = unlocked(self.inner, &self.row.name, &self.raw, (group, base), announced).await?;
        }
        Ok(learned)
    }

    /// The key with which is encrypted; `None` in a plain remote.
    pub(super) async fn current_key(&self) -> Result<Option<KeyId>, Error> {
        let Some(group) = self.state.group.filter(|_| !self.row.plain) else { return Ok(None) };
        let keys = usable(self.inner, group, &self.state.announced).await?;
        Ok(keys.map(|keys| keys.ring.current().id()))
    }

    /// Announces the keys that this device made, and goes over to the newest; not before the own head stands here, for
    /// the others would not know whose they are.
    pub(super) async fn announce_keys(&mut self) -> Result<(), Error> {
        let (Some(group), Some(base)) = (self.state.group, self.state.base) else { return Ok(()) };
        if self.own.is_some() && self.announce(group).await? {
            self.save_state().await?;
        }
        // What was read may have told that the device that made the key so far was put out.
        let announced = &self.state.announced;
        self.remote = unlocked(self.inner, &self.row.name, &self.raw, (group, base), announced).await?;
        Ok(())
    }

    /// Wraps the keys that this device made for the other devices, where this remote does not know them yet; tells whether there were any.
    async fn announce(&mut self, group: GroupId) -> Result<bool, Error> {
        let announced = self.state.announced.clone();
        let new = blocking(self.inner, move |inner| {
            let Some(keys) = inner.group_keys(group)? else { return Ok(Vec::new()) };
            let (secret, own) = (inner.key_store()?.secret(inner.runtime.as_ref())?, inner.device()?.key);
            let made = keys.ring.keys().filter(|key| keys.author(key.id()) == Some(own));
            let (mut new, devices) = (Vec::new(), recipients(inner)?);
            for key in made.filter(|key| !announced.contains(&key.id())) {
                let wrapped = Rotation::wrap(&secret, group, key, &devices, inner.random_32());
                let encoded = wrapped.and_then(|rotation| rotation.encode());
                let encoded = encoded.map_err(|error| Error::Key { reason: error.to_string() })?;
                new.push((key.epoch(), key.id(), (!devices.is_empty()).then(|| Bytes::from(encoded))));
            }
            Ok(new)
        });
        let new = new.await?;
        let any = !new.is_empty();
        for (epoch, id, rotation) in new {
            if let Some(rotation) = rotation {
                self.raw.put_rotation(epoch, id, &rotation).await.map_err(|source| self.failed(source))?;
            }
            self.state.announced.push(id);
        }
        Ok(any)
    }
}
