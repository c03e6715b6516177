//! All keys that a device has of a group.

use std::collections::BTreeMap;
use std::fmt;

use isle_clock::GroupId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::DeviceKey;
use crate::code::{self, CodeError};
use crate::seal::{self, GroupKey, KeyId, SealError};

const START: &str = "islekey1";
const TEXT_BYTES_MAX: usize = 1 << 20;
/// The largest epoch of a key: nobody rotates so often, and each has a successor.
pub const EPOCH_MAX: u64 = 1 << 40;
/// The most keys of a group that are kept.
pub const KEYS_MAX: usize = 4096;

/// Why a text is no key file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Nothing in it begins like one.
    #[error(
        "this is no key file: it has no line that begins with {START:?}; `isle key export` on a device of the group writes one"
    )]
    Foreign,
    /// A character is missing or wrong.
    #[error("the key file is damaged: a character is missing or wrong; copy it whole")]
    Damaged,
    /// It holds no key, too many, or something of a later release.
    #[error("the key file cannot be read: a later isle may have written it; update isle")]
    Newer,
}

/// The keys of one group, never none. The one of the largest (epoch, id) is sealed with, all can open.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    group: GroupId,
    keys: BTreeMap<(u64, KeyId), GroupKey>,
    current: GroupKey,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("group", &self.group).field("keys", &self.keys.keys()).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Content {
    group: GroupId,
    keys: Vec<(u64, [u8; 32], Option<DeviceKey>)>,
}

impl KeyRing {
    /// The ring of a group that has one key so far.
    pub fn new(group: GroupId, key: GroupKey) -> KeyRing {
        let keys = BTreeMap::from([((key.epoch(), key.id()), key.clone())]);
        KeyRing { group, keys, current: key }
    }

    /// The group.
    pub const fn group(&self) -> GroupId {
        self.group
    }

    /// The key to seal with.
    pub const fn current(&self) -> &GroupKey {
        &self.current
    }

    /// The keys, oldest first.
    pub fn keys(&self) -> impl Iterator<Item = &GroupKey> {
        self.keys.values()
    }

    /// The key of this id.
    pub fn get(&self, id: KeyId) -> Option<&GroupKey> {
        self.keys.values().find(|key| key.id() == id)
    }

    /// Adds a key; false if it is there already, or [`KEYS_MAX`] are.
    pub fn insert(&mut self, key: GroupKey) -> bool {
        if self.keys.len() >= KEYS_MAX || self.get(key.id()).is_some() {
            return false;
        }
        self.keys.insert((key.epoch(), key.id()), key);
        if let Some(largest) = self.keys.values().next_back() {
            self.current = largest.clone();
        }
        true
    }

    /// Seals from now on with the largest key of those that may be used; with the largest of all if none may.
    pub fn seal_with(&mut self, allowed: impl Fn(&GroupKey) -> bool) {
        let largest = self.keys.values().rev().find(|key| allowed(key)).or_else(|| self.keys.values().next_back());
        if let Some(largest) = largest {
            self.current = largest.clone();
        }
    }

    /// Adds the keys of another ring of the same group; gives how many were new, none for a ring of another group.
    pub fn merge(&mut self, other: &KeyRing) -> usize {
        if other.group != self.group {
            return 0;
        }
        other.keys().filter(|key| self.insert((*key).clone())).count()
    }

    /// Opens what was sealed for a place with any of the keys.
    ///
    /// # Errors
    /// [`SealError`], which says what is wrong with the bytes or that the key is missing.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let id = seal::sealed_with(sealed)?;
        self.get(id).ok_or(SealError::UnknownKey { id })?.open(place, sealed)
    }

    /// The line of a key file: whoever has it can read what the group puts into remotes.
    ///
    /// # Errors
    /// [`KeyFileError::Newer`] when it cannot be written.
    pub fn to_text(&self) -> Result<Zeroizing<String>, KeyFileError> {
        let keys = self.keys().map(|key| (key.epoch(), *key.secret(), key.author())).collect();
        let text = code::encode(START, &Content { group: self.group, keys });
        text.map(Zeroizing::new).map_err(|_| KeyFileError::Newer)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyFileError`] for anything else.
    pub fn from_text(text: &str) -> Result<KeyRing, KeyFileError> {
        let mut lines = text.lines().map(str::trim);
        let line = lines.find(|line| line.to_ascii_lowercase().starts_with(START)).ok_or(KeyFileError::Foreign)?;
        if line.len() > TEXT_BYTES_MAX {
            return Err(KeyFileError::Newer);
        }
        let content: Content = code::decode(START, line).map_err(|error| match error {
            CodeError::Foreign => KeyFileError::Foreign,
            CodeError::Damaged => KeyFileError::Damaged,
            CodeError::Newer => KeyFileError::Newer,
        })?;
        if content.keys.iter().any(|(epoch, ..)| *epoch > EPOCH_MAX) {
            return Err(KeyFileError::Newer);
        }
        let mut keys = content.keys.into_iter().map(|(epoch, secret, author)| {
            let key = GroupKey::from_secret(epoch, secret);
            match author {
                Some(author) => key.by(author),
                None => key,
            }
        });
        let mut ring = KeyRing::new(content.group, keys.next().ok_or(KeyFileError::Newer)?);
        for key in keys {
            ring.insert(key);
        }
        Ok(ring)
    }
}
