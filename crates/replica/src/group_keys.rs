//! The keys of groups, as the device keeps them, and what an app does with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use isle_blobs::Head;
use isle_clock::GroupId;
use isle_identity::{DeviceKey, GroupKey, KeyId, KeyRing};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::keystore::{KeyStore, create_private, damaged, keep_private, read, write};
use crate::replica::{Inner, Replica};

/// The keys of a group that this device has.
#[derive(Debug, Clone)]
pub(crate) struct GroupKeys {
    pub(crate) ring: KeyRing,
    /// The device that made each key, where that is known.
    authors: BTreeMap<KeyId, DeviceKey>,
}

/// Devices by whether they have a site that is not retired.
#[derive(Debug, Default)]
pub(crate) struct DevicesSeen {
    pub(crate) alive: BTreeSet<DeviceKey>,
    /// They have one that is.
    pub(crate) retired: BTreeSet<DeviceKey>,
}

#[derive(Default, Serialize, Deserialize)]
struct KeysFile {
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    epoch: u64,
    secret: String,
    #[serde(default)]
    author: Option<String>,
}

/// A key of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// By what it is known; no secret.
    #[serde(serialize_with = "as_text")]
    pub id: KeyId,
    /// How many rotations came before it.
    pub epoch: u64,
    /// Whether it is the one that this device encrypts with. The others are kept to read what was encrypted before.
    pub current: bool,
    /// Whether this device made it.
    pub own: bool,
}

fn as_text<S: serde::Serializer>(id: &KeyId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl GroupKeys {
    fn new(group: GroupId, key: GroupKey, author: Option<DeviceKey>) -> GroupKeys {
        let authors = author.map(|author| (key.id(), author)).into_iter().collect();
        GroupKeys { ring: KeyRing::new(group, key), authors }
    }

    /// Adds a key; none twice.
    pub(crate) fn insert(&mut self, key: GroupKey, author: Option<DeviceKey>) {
        if let Some(author) = author {
            self.authors.entry(key.id()).or_insert(author);
        }
        self.ring.insert(key);
    }

    /// The device that made a key, if that is known.
    pub(crate) fn author(&self, id: KeyId) -> Option<DeviceKey> {
        self.authors.get(&id).copied()
    }
}

impl KeyStore {
    fn keys_path(&self, group: GroupId) -> PathBuf {
        self.home.join("keys").join(format!("{group}.json"))
    }

    /// The keys of a group.
    pub(crate) fn group_keys(&self, group: GroupId) -> Result<Option<GroupKeys>, Error> {
        let path = self.keys_path(group);
        if path.exists() {
            keep_private(&path).map_err(|source| Error::KeyStore { path: path.clone(), source })?;
        }
        let mut found: Option<GroupKeys> = None;
        for stored in read::<KeysFile>(&path)?.unwrap_or_default().keys {
            let secret = data_encoding::HEXLOWER.decode(stored.secret.as_bytes()).ok();
            let secret = secret.and_then(|secret| <[u8; 32]>::try_from(secret).ok());
            let secret = secret.ok_or_else(|| damaged(&path, "a key is not 64 hexadecimal digits"))?;
            let author = stored.author.map(|author| author.parse()).transpose();
            let author = author.map_err(|_| damaged(&path, "the author of a key is no device"))?;
            let key = GroupKey::from_secret(stored.epoch, secret);
            match &mut found {
                Some(keys) => keys.insert(key, author),
                None => found = Some(GroupKeys::new(group, key, author)),
            }
        }
        Ok(found)
    }

    /// Adds keys of a group, one after the other, whatever other processes add; gives all.
    pub(crate) fn add_group_keys(
        &self,
        group: GroupId,
        new: Vec<(GroupKey, Option<DeviceKey>)>,
    ) -> Result<Option<GroupKeys>, Error> {
        let folder = self.home.join("keys");
        let failed = |source| Error::KeyStore { path: folder.clone(), source };
        create_private(&folder).map_err(failed)?;
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"));
        let _lock = lock.and_then(|file| file.lock().map(|()| file)).map_err(failed)?;
        let mut keys = self.group_keys(group)?;
        for (key, author) in new {
            match &mut keys {
                Some(keys) => keys.insert(key, author),
                None => keys = Some(GroupKeys::new(group, key, author)),
            }
        }
        let Some(known) = &keys else { return Ok(None) };
        let stored = known.ring.keys().map(|key| StoredKey {
            epoch: key.epoch(),
            secret: data_encoding::HEXLOWER.encode(key.secret()),
            author: known.author(key.id()).map(|author| author.to_string()),
        });
        write(&self.keys_path(group), &KeysFile { keys: stored.collect() }, true)?;
        Ok(keys)
    }
}

impl Inner {
    /// The keys of a group. One that a device made which was put out is not encrypted with.
    pub(crate) fn group_keys(&self, group: GroupId) -> Result<Option<GroupKeys>, Error> {
        self.group_keys_but(group, |_, _| false)
    }

    /// The same; what `avoid` says is not encrypted with either.
    pub(crate) fn group_keys_but(
        &self,
        group: GroupId,
        avoid: impl Fn(&GroupKeys, KeyId) -> bool,
    ) -> Result<Option<GroupKeys>, Error> {
        let Some(keys) = self.key_store()?.group_keys(group)? else { return Ok(None) };
        let (membership, seen, own) = (self.store.membership()?, self.devices_seen(None)?, self.device()?.key);
        let out = |author: DeviceKey| {
            let retired = seen.retired.contains(&author) && !seen.alive.contains(&author);
            author != own && (membership.is_revoked(&author) || retired)
        };
        let mut ring = keys.ring.clone();
        ring.seal_with(|id| !avoid(&keys, id) && !keys.author(id).is_some_and(out));
        Ok(Some(GroupKeys { ring, ..keys }))
    }

    /// The devices whose signed heads were seen, in one remote or in any.
    pub(crate) fn devices_seen(&self, remote: Option<&str>) -> Result<DevicesSeen, Error> {
        let retired = self.store.retired()?;
        let mut devices = DevicesSeen::default();
        for row in self.store.remotes()?.iter().filter(|row| remote.is_none_or(|name| row.name == name)) {
            for seen in self.store.seen_heads(&row.name)? {
                let author = Head::decode(&seen.head).ok().and_then(|head| head.author);
                let over = retired.iter().any(|(site, _)| *site == seen.site);
                let into = if over { &mut devices.retired } else { &mut devices.alive };
                into.extend(author.map(|author| author.device));
            }
        }
        Ok(devices)
    }

    /// The keys of a group; made if there is none.
    pub(crate) fn ensure_group_keys(&self, group: GroupId) -> Result<GroupKeys, Error> {
        if let Some(keys) = self.group_keys(group)? {
            return Ok(keys);
        }
        let key = GroupKey::from_secret(0, self.random_32());
        tracing::info!(id = %key.id(), "made the group's key");
        let keys = self.key_store()?.add_group_keys(group, vec![(key, Some(self.device()?.key))])?;
        keys.ok_or(Error::NoKey)
    }
}

impl Replica {
    /// Makes the key with which the group's remotes are encrypted. [`Replica::add_remote`] does without: the first sync makes one if need
    /// be.
    ///
    /// # Errors
    /// [`Error::KeyExists`], or the key store's reason.
    pub fn create_key(&self) -> Result<KeyId, Error> {
        let group = self.inner.store.status()?.group;
        if let Some(keys) = self.inner.group_keys(group)? {
            return Err(Error::KeyExists { id: keys.ring.current().id() });
        }
        Ok(self.inner.ensure_group_keys(group)?.ring.current().id())
    }

    /// The keys of the group that this device has, oldest first.
    ///
    /// # Errors
    /// The key store's reason.
    pub fn keys(&self) -> Result<Vec<KeyInfo>, Error> {
        let Some(keys) = self.inner.group_keys(self.inner.store.status()?.group)? else { return Ok(Vec::new()) };
        let (own, current) = (self.inner.device()?.key, keys.ring.current().id());
        let info = |key: &GroupKey| KeyInfo {
            id: key.id(),
            epoch: key.epoch(),
            current: key.id() == current,
            own: keys.author(key.id()) == Some(own),
        };
        Ok(keys.ring.keys().map(info).collect())
    }

    /// All keys of the group as one line of text, for [`import_keys`] on another device. Whoever has it can read the group's remotes.
    ///
    /// # Errors
    /// [`Error::NoKey`], or the key store's reason.
    pub fn export_keys(&self) -> Result<String, Error> {
        let keys = self.inner.group_keys(self.inner.store.status()?.group)?.ok_or(Error::NoKey)?;
        Ok(keys.ring.to_text()?.to_string())
    }

    /// Makes a new key, with which everything is encrypted from now on. Each remote is told at the next sync: devices that are known there, or
    /// were enrolled, find the new key by themselves, unless they were put out ([`Replica::revoke`]) or retired. What was put before stays as it was.
    ///
    /// # Errors
    /// [`Error::NoKey`], or the key store's reason.
    pub fn rotate_key(&self) -> Result<KeyId, Error> {
        let group = self.inner.store.status()?.group;
        let keys = self.inner.group_keys(group)?.ok_or(Error::NoKey)?;
        let largest = keys.ring.keys().map(GroupKey::epoch).max().unwrap_or(0);
        let epoch = largest.checked_add(1).ok_or_else(|| Error::Key { reason: "no epoch is left".to_owned() })?;
        let key = GroupKey::from_secret(epoch, self.inner.random_32());
        let id = key.id();
        self.inner.key_store()?.add_group_keys(group, vec![(key, Some(self.inner.device()?.key))])?;
        tracing::info!(%id, epoch, "made a new key for the group");
        Ok(id)
    }
}

/// Takes over the keys in a text that [`Replica::export_keys`] made, for every file of this device that belongs to their group or comes to belong
/// to it. `home` is that of [`Builder::home`](crate::Builder::home). Gives the group and how many keys were new.
///
/// # Errors
/// [`Error::KeyFile`] for a text that is none, or the key store's reason.
pub fn import_keys(home: Option<PathBuf>, text: &str) -> Result<(GroupId, usize), Error> {
    let ring = KeyRing::from_text(text)?;
    let store = KeyStore::open(home.map_or_else(KeyStore::default_home, Ok)?)?;
    let known = store.group_keys(ring.group())?;
    let is_new = |key: &&GroupKey| known.as_ref().is_none_or(|keys| keys.ring.get(key.id()).is_none());
    let new: Vec<_> = ring.keys().filter(is_new).map(|key| (key.clone(), None)).collect();
    let count = new.len();
    store.add_group_keys(ring.group(), new)?;
    Ok((ring.group(), count))
}
