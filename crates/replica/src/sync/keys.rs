//! Encrypted remotes: which key opens one, and how a new key gets about.
//!
//! The object of a remote's group names the key that it began with (`base`). A device that lacks it, or meets an object of a later key, looks for
//! rotations that were wrapped for it: those count that were made by a member, or by a device whose head stands in the remote. A key that this device
//! made is announced before anything is put that is encrypted with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use isle_blobs::{GroupObject, Head, Remote, RemoteError, RotationRef};
use isle_clock::GroupId;
use isle_identity::{DeviceKey, GroupKey, KeyId, KeyRing, RECIPIENTS_MAX, Rotation};
use isle_store::RemoteRow;

use super::{RemoteState, Session, blocking};
use crate::Error;
use crate::replica::{Inner, random_32};

/// Rotations that one session reads, the newest first: whoever puts many does not hold others up for long.
const READ_MAX: usize = 256;

/// A remote with the keys of its group, which begins with key `base`.
pub(super) async fn unlocked(
    inner: &Arc<Inner>,
    name: &str,
    raw: &Remote,
    (group, base): (GroupId, KeyId),
    announced: &[KeyId],
) -> Result<Remote, Error> {
    let missing = || Error::KeyMissing { name: name.to_owned() };
    let mut ring = usable(inner, group, announced).await?;
    if ring.as_ref().is_none_or(|ring| ring.get(base).is_none()) {
        learn(inner, name, raw, group).await?;
        ring = usable(inner, group, announced).await?;
    }
    let ring = ring.ok_or_else(missing)?;
    let base = ring.get(base).cloned().ok_or_else(missing)?;
    Ok(sealed(inner, raw, ring, base))
}

/// The keys of the group; one that was made here and that the remote was not told of yet is not encrypted with there.
async fn usable(inner: &Arc<Inner>, group: GroupId, announced: &[KeyId]) -> Result<Option<KeyRing>, Error> {
    let announced = announced.to_vec();
    blocking(inner, move |inner| {
        let own = inner.device()?.key;
        inner.group_keys_but(group, |key| key.author() == Some(own) && !announced.contains(&key.id()))
    })
    .await
}

fn sealed(inner: &Arc<Inner>, raw: &Remote, ring: KeyRing, base: GroupKey) -> Remote {
    let runtime = Arc::clone(&inner.runtime);
    raw.sealed(ring, base, Arc::new(move || random_32(runtime.as_ref())))
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
    let mut listed = raw.list_rotations().await.map_err(failed)?;
    listed.sort_unstable();
    let known = blocking(inner, move |inner| inner.group_keys(group)).await?;
    let is_new = |rotation: &RotationRef| known.as_ref().is_none_or(|ring| ring.get(rotation.id).is_none());
    for rotation in listed.into_iter().rev().filter(is_new).take(READ_MAX) {
        let bytes = match raw.get_rotation(&rotation).await {
            Ok(bytes) => bytes,
            Err(error @ (RemoteError::Corrupt { .. } | RemoteError::TooLarge { .. } | RemoteError::Missing { .. })) => {
                tracing::warn!(%error, "a key rotation is passed over");
                continue;
            }
            Err(source) => return Err(failed(source)),
        };
        let remote = name.to_owned();
        learned |= blocking(inner, move |inner| take(inner, &remote, group, rotation, &bytes)).await?;
    }
    Ok(learned)
}

/// Takes a rotation if it is for this device and by one of the group. Blocks.
fn take(inner: &Inner, remote: &str, group: GroupId, named: RotationRef, bytes: &[u8]) -> Result<bool, Error> {
    let refuse = |reason: &str| {
        tracing::warn!(remote, epoch = named.epoch, id = %named.id, reason, "a key rotation is refused");
        Ok(false)
    };
    let rotation = match Rotation::decode(bytes) {
        Ok(rotation) if (rotation.group(), rotation.epoch(), rotation.id()) == (group, named.epoch, named.id) => {
            rotation
        }
        Ok(_) => return refuse("it is another than its name says"),
        Err(error) => return refuse(&error.to_string()),
    };
    let keys = inner.key_store()?;
    let secret = keys.secret(inner.runtime.as_ref())?;
    let (key, author) = match rotation.open(&secret) {
        Ok(Some(opened)) => opened,
        // It leaves this device out.
        Ok(None) => return Ok(false),
        Err(error) => return refuse(&error.to_string()),
    };
    let (membership, seen) = (inner.store.membership()?, inner.devices_seen(Some(remote))?);
    let known = author == secret.key() || membership.is_member(&author) || seen.alive.contains(&author);
    if !known || membership.is_revoked(&author) {
        return refuse("the device that made it does not belong to the group, as far as is known here");
    }
    if !inner.is_near(group, key.epoch())? {
        return refuse("its epoch is far beyond all others");
    }
    tracing::info!(remote, id = %key.id(), author = %author.short(), "took over a new key of the group");
    inner.add_keys(group, vec![key.by(author)])?;
    Ok(true)
}

/// Who gets a new key: members, and devices whose heads were seen, but none that was put out; this device too, should its folder be
/// restored from before. Blocks.
fn recipients(inner: &Inner) -> Result<Vec<DeviceKey>, Error> {
    let (membership, seen) = (inner.store.membership()?, inner.devices_seen(None)?);
    let known = membership.members.keys().chain(&seen.alive);
    let stays = known.filter(|device| !membership.is_revoked(device) && !seen.is_gone(device)).copied();
    let mut devices: BTreeSet<DeviceKey> = BTreeSet::from([inner.device()?.key]);
    // Members come first: whoever has the key can put heads of as many devices as it likes.
    devices.extend(stays.take(RECIPIENTS_MAX / 2));
    Ok(devices.into_iter().collect())
}

impl Session<'_> {
    /// Makes an empty prefix a remote of the group. Gives the object of whoever was first.
    pub(super) async fn make_remote(&mut self, group: GroupObject) -> Result<GroupObject, Error> {
        let mut remote = self.raw.clone();
        if !self.row.plain {
            let id = group.group;
            let ring = blocking(self.inner, move |inner| inner.ensure_group_keys(id)).await?;
            // Before the object that asks for the key: members find it at once.
            self.announce(id).await?;
            // The oldest: should the object be lost, whoever puts it again names the same one.
            let base = ring.keys().next().unwrap_or(ring.current()).clone();
            remote = sealed(self.inner, &self.raw, ring, base);
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
        let ring = usable(self.inner, group, &self.state.announced).await?;
        Ok(ring.map(|ring| ring.current().id()))
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

    /// Wraps keys for other devices: those that this device made, where this remote does not know them yet, and the present one for devices
    /// that go on with an old one, who may not know the device that made it. Tells whether there were any of the first kind.
    async fn announce(&mut self, group: GroupId) -> Result<bool, Error> {
        let announced = self.state.announced.clone();
        let late = self.latecomers();
        let new = blocking(self.inner, move |inner| {
            let Some(ring) = inner.group_keys(group)? else { return Ok(Vec::new()) };
            let (secret, recipients) = (inner.key_store()?.secret(inner.runtime.as_ref())?, recipients(inner)?);
            let own = secret.key();
            let made = ring.keys().filter(|key| key.author() == Some(own) && !announced.contains(&key.id()));
            let mut wanted: Vec<(&GroupKey, Vec<DeviceKey>)> = made.map(|key| (key, recipients.clone())).collect();
            let present = ring.current();
            let late = late.into_iter().filter(|(_, key)| *key != present.id()).map(|(device, _)| device);
            let late: Vec<DeviceKey> = late.filter(|device| recipients.contains(device)).collect();
            if present.author() != Some(own) && !late.is_empty() {
                wanted.push((present, late));
            }
            let mut new = Vec::new();
            for (key, devices) in wanted {
                let wrapped = Rotation::wrap(&secret, group, key, &devices, inner.random_32());
                let encoded = wrapped.and_then(|rotation| rotation.encode());
                let encoded = encoded.map_err(|error| Error::Key { reason: error.to_string() })?;
                new.push((key.clone(), devices, Bytes::from(encoded)));
            }
            Ok(new)
        });
        let (mut any, own) = (false, blocking(self.inner, |inner| Ok(inner.device()?.key)).await?);
        for (key, devices, rotation) in new.await? {
            self.raw.put_rotation(key.epoch(), key.id(), &rotation).await.map_err(|source| self.failed(source))?;
            if key.author() == Some(own) {
                self.state.announced.push(key.id());
                any = true;
            } else {
                self.state.helped.extend(devices.iter().map(|device| help(device, key.id())));
            }
        }
        Ok(any)
    }

    /// Devices by the key with which their heads here are encrypted, but for those that were helped to the present one.
    fn latecomers(&self) -> Vec<(DeviceKey, KeyId)> {
        let Some(present) = self.present else { return Vec::new() };
        let heads = self.heads.iter().filter_map(|head| {
            let device = head.author.as_ref()?.device;
            let key = self.state.sealed.get(&head.site.to_string())?;
            (*key != present && !self.state.helped.contains(&help(&device, present))).then_some((device, *key))
        });
        heads.collect()
    }

    /// Notes with which keys heads are encrypted, and which one this replica uses here.
    pub(super) async fn note_keys<'h>(&mut self, heads: impl Iterator<Item = &'h Head>) -> Result<(), Error> {
        for head in heads {
            if let Some(key) = head.sealed_with {
                self.state.sealed.insert(head.site.to_string(), key);
            }
        }
        self.present = self.current_key().await?;
        Ok(())
    }
}

/// By what it is remembered that a device was given a key.
fn help(device: &DeviceKey, key: KeyId) -> String {
    format!("{device} {key}")
}
