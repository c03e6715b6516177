//! The keys of groups, as the device keeps them, and what an app does with them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use isle_blobs::Head;
use isle_clock::GroupId;
use isle_identity::{Action, DeviceKey, EPOCH_MAX, GroupKey, KEYS_MAX, KeyId, KeyRing, MemberOp};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::keystore::{KeyStore, create_private, keep_private, read, write};
use crate::replica::{Inner, Replica};

/// Devices by whether they have a site that is not retired.
#[derive(Debug, Default)]
pub(crate) struct DevicesSeen {
    pub(crate) alive: BTreeSet<DeviceKey>,
    /// They have one that is.
    pub(crate) retired: BTreeSet<DeviceKey>,
}

impl DevicesSeen {
    /// Whether all its sites are retired.
    pub(crate) fn is_gone(&self, device: &DeviceKey) -> bool {
        self.retired.contains(device) && !self.alive.contains(device)
    }
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
    /// Its maker's signature.
    #[serde(default)]
    word: Option<String>,
}

/// A key whose epoch is this far beyond all others is not taken.
const EPOCH_LEAP_MAX: u64 = 1 << 20;

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

impl KeyStore {
    fn keys_path(&self, group: GroupId) -> PathBuf {
        self.home.join("keys").join(format!("{group}.json"))
    }

    /// The keys of a group.
    pub(crate) fn group_keys(&self, group: GroupId) -> Result<Option<KeyRing>, Error> {
        let path = self.keys_path(group);
        if path.exists() {
            keep_private(&path).map_err(|source| Error::KeyStore { path: path.clone(), source })?;
        }
        // Nobody should throw the file away that may hold the only copy of a key.
        let damaged = |reason: &str| {
            let path = path.display();
            Error::Key {
                reason: format!(
                    "{path} is damaged: {reason}; put a copy of it back, or move it away and import an export"
                ),
            }
        };
        let stored = read::<KeysFile>(&path).map_err(|error| match error {
            Error::KeyStoreDamaged { reason, .. } => damaged(&reason),
            other => other,
        })?;
        let mut found: Option<KeyRing> = None;
        for stored in stored.unwrap_or_default().keys {
            let secret = data_encoding::HEXLOWER.decode(stored.secret.as_bytes()).ok();
            let secret = secret.and_then(|secret| <[u8; 32]>::try_from(secret).ok());
            let secret = secret.ok_or_else(|| damaged("a key is not 64 hexadecimal digits"))?;
            let mut key = GroupKey::from_secret(stored.epoch, secret);
            if let Some(author) = stored.author {
                let author: DeviceKey = author.parse().map_err(|_| damaged("the author of a key is no device"))?;
                let word = stored.word.and_then(|word| data_encoding::HEXLOWER.decode(word.as_bytes()).ok());
                let word = word.and_then(|word| <[u8; 64]>::try_from(word).ok());
                let vouched = word.and_then(|word| key.clone().vouched(author, group, word));
                key = vouched.unwrap_or_else(|| key.by(author));
            }
            match &mut found {
                Some(ring) => drop(ring.insert(key)),
                None => found = Some(KeyRing::new(group, key)),
            }
        }
        Ok(found)
    }

    fn revocations_path(&self, group: GroupId) -> PathBuf {
        self.home.join("keys").join(format!("{group}.revoked.json"))
    }

    fn noted_revocations(&self, group: GroupId) -> Result<BTreeSet<String>, Error> {
        Ok(read(&self.revocations_path(group))?.unwrap_or_default())
    }

    /// Waits until no other process changes what is known of keys; the lock ends with the file that is given back.
    fn lock_keys(&self) -> Result<fs::File, Error> {
        let folder = self.home.join("keys");
        let failed = |source| Error::KeyStore { path: folder.clone(), source };
        create_private(&folder).map_err(failed)?;
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"));
        lock.and_then(|file| file.lock().map(|()| file)).map_err(failed)
    }

    /// Notes revocations beside the keys; they are never taken back.
    fn note_revocations(&self, group: GroupId, known: &BTreeSet<String>) -> Result<(), Error> {
        let _lock = self.lock_keys()?;
        let mut noted = self.noted_revocations(group)?;
        let before = noted.len();
        noted.extend(known.iter().cloned());
        if noted.len() == before { Ok(()) } else { write(&self.revocations_path(group), &noted, true) }
    }

    /// Adds keys of a group, one after the other, whatever other processes add; gives all.
    pub(crate) fn add_group_keys(&self, group: GroupId, new: Vec<GroupKey>) -> Result<Option<KeyRing>, Error> {
        let _lock = self.lock_keys()?;
        let mut ring = self.group_keys(group)?;
        for key in new {
            let id = key.id();
            match &mut ring {
                Some(ring) => {
                    if !ring.insert(key) && ring.get(id).is_none() {
                        let reason = format!("the group has {KEYS_MAX} keys already, and no more are kept");
                        return Err(Error::Key { reason });
                    }
                }
                None => ring = Some(KeyRing::new(group, key)),
            }
        }
        let Some(known) = &ring else { return Ok(None) };
        let stored = known.keys().map(|key| StoredKey {
            epoch: key.epoch(),
            secret: data_encoding::HEXLOWER.encode(key.secret()),
            author: key.author().map(|author| author.to_string()),
            word: key.word().map(|word| data_encoding::HEXLOWER.encode(word)),
        });
        write(&self.keys_path(group), &KeysFile { keys: stored.collect() }, true)?;
        Ok(ring)
    }
}

impl Inner {
    /// The keys of a group. One that a device made which was put out is not encrypted with.
    pub(crate) fn group_keys(&self, group: GroupId) -> Result<Option<KeyRing>, Error> {
        self.group_keys_but(group, |_| false)
    }

    /// The same; what `avoid` says is not encrypted with either.
    pub(crate) fn group_keys_but(
        &self,
        group: GroupId,
        avoid: impl Fn(&GroupKey) -> bool,
    ) -> Result<Option<KeyRing>, Error> {
        let Some(mut ring) = self.key_store()?.group_keys(group)? else { return Ok(None) };
        let (membership, seen, own) = (self.store.membership()?, self.devices_seen(None)?, self.device()?.key);
        let out = |author: DeviceKey| author != own && (membership.is_revoked(&author) || seen.is_gone(&author));
        ring.seal_with(|key| !avoid(key) && !key.author().is_some_and(out));
        Ok(Some(ring))
    }

    /// Whether a key of this epoch may be one of the group's: nobody rotates very often, and one far beyond all others would end it.
    pub(crate) fn is_near(&self, group: GroupId, epoch: u64) -> Result<bool, Error> {
        let ring = self.key_store()?.group_keys(group)?;
        let largest = ring.and_then(|ring| ring.keys().map(GroupKey::epoch).max()).unwrap_or(0);
        Ok(epoch <= largest.saturating_add(EPOCH_LEAP_MAX).min(EPOCH_MAX))
    }

    /// The devices whose signed heads were seen, in one encrypted remote or in any.
    pub(crate) fn devices_seen(&self, remote: Option<&str>) -> Result<DevicesSeen, Error> {
        let retired = self.store.retired()?;
        let mut devices = DevicesSeen::default();
        // Whoever may write to a plain remote puts heads there.
        let rows = self.store.remotes()?.into_iter().filter(|row| !row.plain);
        for row in rows.filter(|row| remote.is_none_or(|name| row.name == name)) {
            for seen in self.store.seen_heads(&row.name)? {
                let author = Head::decode(&seen.head).ok().and_then(|head| head.author);
                let over = retired.iter().any(|(site, _)| *site == seen.site);
                let into = if over { &mut devices.retired } else { &mut devices.alive };
                into.extend(author.map(|author| author.device));
            }
        }
        Ok(devices)
    }

    /// Adds keys of a group. Which devices this file knows to be out is noted before, for other files of this device that may not know it yet.
    pub(crate) fn add_keys(&self, group: GroupId, keys: Vec<GroupKey>) -> Result<Option<KeyRing>, Error> {
        let store = self.key_store()?;
        store.note_revocations(group, &self.revocations()?)?;
        store.add_group_keys(group, keys)
    }

    /// Whether this file knows of every revocation that any file of this device knew when it got a key.
    pub(crate) fn knows_revocations(&self, group: GroupId) -> Result<bool, Error> {
        let (noted, known) = (self.key_store()?.noted_revocations(group)?, self.revocations()?);
        Ok(noted.iter().all(|id| known.contains(id)))
    }

    fn revocations(&self) -> Result<BTreeSet<String>, Error> {
        let group = self.store.group()?;
        let mut known = BTreeSet::new();
        for (id, op) in self.store.member_ops()? {
            let op = MemberOp::decode_known(&op, group);
            if op.is_ok_and(|op| matches!(op.action, Action::Revoke { .. })) {
                known.insert(data_encoding::HEXLOWER.encode(&id));
            }
        }
        Ok(known)
    }

    /// The keys of a group; made if there is none.
    pub(crate) fn ensure_group_keys(&self, group: GroupId) -> Result<KeyRing, Error> {
        if let Some(keys) = self.group_keys(group)? {
            return Ok(keys);
        }
        let maker = self.key_store()?.secret(self.runtime.as_ref())?;
        let key = GroupKey::from_secret(0, self.random_32()).made_by(&maker, group);
        tracing::info!(id = %key.id(), "made the group's key");
        self.add_keys(group, vec![key])?.ok_or(Error::NoKey)
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
            return Err(Error::KeyExists { id: keys.current().id() });
        }
        Ok(self.inner.ensure_group_keys(group)?.current().id())
    }

    /// The keys of the group that this device has, oldest first.
    ///
    /// # Errors
    /// The key store's reason.
    pub fn keys(&self) -> Result<Vec<KeyInfo>, Error> {
        let Some(keys) = self.inner.group_keys(self.inner.store.status()?.group)? else { return Ok(Vec::new()) };
        let (own, current) = (self.inner.device()?.key, keys.current().id());
        let info = |key: &GroupKey| KeyInfo {
            id: key.id(),
            epoch: key.epoch(),
            current: key.id() == current,
            own: key.author() == Some(own),
        };
        Ok(keys.keys().map(info).collect())
    }

    /// All keys of the group as one line of text, for [`import_keys`] on another device. Whoever has it can read the group's remotes.
    ///
    /// # Errors
    /// [`Error::NoKey`], or the key store's reason.
    pub fn export_keys(&self) -> Result<String, Error> {
        let keys = self.inner.group_keys(self.inner.store.status()?.group)?.ok_or(Error::NoKey)?;
        Ok(keys.to_text()?.to_string())
    }

    /// Makes a new key, with which everything is encrypted from now on. Each remote is told at the next sync: devices that are known there, or
    /// were enrolled, find the new key by themselves, unless they were put out ([`Replica::revoke`]) or retired. What was put before stays as it was.
    ///
    /// # Errors
    /// [`Error::NoKey`], or the key store's reason.
    pub fn rotate_key(&self) -> Result<KeyId, Error> {
        let group = self.inner.store.status()?.group;
        let keys = self.inner.group_keys(group)?.ok_or(Error::NoKey)?;
        let largest = keys.keys().map(GroupKey::epoch).max().unwrap_or(0);
        let epoch = largest.saturating_add(1);
        let maker = self.inner.key_store()?.secret(self.inner.runtime.as_ref())?;
        let key = GroupKey::from_secret(epoch, self.inner.random_32()).made_by(&maker, group);
        let id = key.id();
        self.inner.add_keys(group, vec![key])?;
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
    let is_new = |key: &&GroupKey| known.as_ref().is_none_or(|keys| keys.get(key.id()).is_none());
    let new: Vec<GroupKey> = ring.keys().filter(is_new).cloned().collect();
    let count = new.len();
    store.add_group_keys(ring.group(), new)?;
    Ok((ring.group(), count))
}
