//! Sealing objects with a key that a group shares.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use isle_clock::GroupId;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::DeviceKey;

const MAGIC: [u8; 5] = *b"islex";
const FORMAT: u16 = 1;
const PRELUDE_BYTES: usize = 24;
const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// By how much a sealed object is larger than its content.
pub const OVERHEAD_BYTES: usize = PRELUDE_BYTES + SALT_BYTES + TAG_BYTES;

const ID: &str = "isle 2026 id of a group key";
const SALT: &str = "isle 2026 salts of a group key";
const OBJECT: &str = "isle 2026 key of a sealed object";
const WORD: &[u8] = b"isle maker of a group key 1";
const NAMES: &str = "isle 2026 names of sealed objects";

/// Why bytes cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// They are not sealed at all.
    #[error("it is not encrypted, as everything in this remote has to be")]
    Plain,
    /// A later release sealed them.
    #[error("it is encrypted in format {found}, this isle reads {FORMAT}: update isle on this device")]
    Newer {
        /// Their format.
        found: u16,
    },
    /// They were sealed with a key that this device does not have.
    #[error("it is encrypted with key {id}, which this device does not have")]
    UnknownKey {
        /// The key.
        id: KeyId,
    },
    /// They were changed, or put under another name than theirs.
    #[error("it was altered, or is not what belongs in this place")]
    Forged,
    /// The cryptography refuses to work.
    #[error("the cryptography of this system does not work")]
    Broken,
}

/// What the maker of a key signs.
fn statement(group: GroupId, epoch: u64, id: KeyId) -> Vec<u8> {
    [WORD, group.as_bytes(), &epoch.to_be_bytes(), id.as_bytes()].concat()
}

/// By what a key is known; says nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> KeyId {
        KeyId(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// One key of a group.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKey {
    epoch: u64,
    id: KeyId,
    secret: Zeroizing<[u8; 32]>,
    author: Option<DeviceKey>,
    word: Option<[u8; 64]>,
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupKey(epoch {}, {})", self.epoch, self.id)
    }
}

impl GroupKey {
    /// The key of 32 random bytes; `epoch` counts rotations.
    pub fn from_secret(epoch: u64, secret: [u8; 32]) -> GroupKey {
        let mut id = [0; 16];
        blake3::Hasher::new_derive_key(ID).update(&secret).finalize_xof().fill(&mut id);
        GroupKey { epoch, id: KeyId(id), secret: Zeroizing::new(secret), author: None, word: None }
    }

    /// The same key, made by this device.
    #[must_use]
    pub fn by(self, author: DeviceKey) -> GroupKey {
        GroupKey { author: Some(author), ..self }
    }

    /// The same key, with the signature of the device that made it: whoever has both can show to others whose key it is.
    #[must_use]
    pub fn made_by(self, maker: &crate::DeviceSecret, group: GroupId) -> GroupKey {
        let word = maker.sign(&statement(group, self.epoch, self.id));
        GroupKey { author: Some(maker.key()), word: Some(word), ..self }
    }

    /// The same key by `maker`, if this is its signature.
    pub fn vouched(self, maker: DeviceKey, group: GroupId, word: [u8; 64]) -> Option<GroupKey> {
        let genuine = maker.verifies(&statement(group, self.epoch, self.id), &word);
        genuine.then(|| GroupKey { author: Some(maker), word: Some(word), ..self })
    }

    /// The signature of its maker, if it is known.
    pub const fn word(&self) -> Option<&[u8; 64]> {
        self.word.as_ref()
    }

    /// The device that made it, as far as is known.
    pub const fn author(&self) -> Option<DeviceKey> {
        self.author
    }

    /// How many rotations came before it.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// By what it is known.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The bytes that it was made of.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Seals content for one place. `random` is 32 fresh random bytes; should they repeat, no harm is done.
    ///
    /// # Errors
    /// [`SealError::Broken`] when the cryptography refuses.
    pub fn seal(&self, place: &str, random: &[u8; 32], content: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut salt = blake3::Hasher::new_keyed(&blake3::derive_key(SALT, self.secret.as_slice()));
        salt.update(random).update(&(place.len() as u64).to_be_bytes()).update(place.as_bytes()).update(content);
        let salt = *salt.finalize().as_bytes();
        let mut sealed = Vec::with_capacity(OVERHEAD_BYTES + content.len());
        sealed.extend_from_slice(&MAGIC);
        sealed.push(0);
        sealed.extend_from_slice(&FORMAT.to_be_bytes());
        sealed.extend_from_slice(&self.id.0);
        let aad = aad(&sealed, place);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(content);
        let (_, body) = sealed.split_at_mut(PRELUDE_BYTES + SALT_BYTES);
        let key = self.object_key(&salt)?;
        let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(aad), body).map_err(|_| SealError::Broken)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what [`GroupKey::seal`] made of this key; [`KeyRing::open`](crate::KeyRing::open) finds the key.
    ///
    /// # Errors
    /// [`SealError::Plain`] and [`SealError::Forged`].
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (prelude, rest) = sealed.split_at_checked(PRELUDE_BYTES).ok_or(SealError::Plain)?;
        let (salt, body) = rest.split_first_chunk::<SALT_BYTES>().ok_or(SealError::Forged)?;
        let mut content = body.to_vec();
        let key = self.object_key(salt)?;
        let opened = key.open_in_place(nonce(), Aad::from(aad(prelude, place)), &mut content);
        let bytes = opened.map_err(|_| SealError::Forged)?.len();
        content.truncate(bytes);
        Ok(content)
    }

    /// What an object is called whose own name would tell of its content.
    pub fn name(&self, kind: &str, id: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&blake3::derive_key(NAMES, self.secret.as_slice()));
        hasher.update(&(kind.len() as u64).to_be_bytes()).update(kind.as_bytes()).update(id);
        let mut name = [0; 16];
        hasher.finalize_xof().fill(&mut name);
        name
    }

    fn object_key(&self, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, SealError> {
        let mut hasher = blake3::Hasher::new_derive_key(OBJECT);
        hasher.update(self.secret.as_slice()).update(salt);
        one_time_key(hasher.finalize().as_bytes())
    }
}

/// A key that seals one thing alone.
pub(crate) fn one_time_key(bytes: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| SealError::Broken)
}

/// The only nonce of a one-time key.
pub(crate) fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn aad(prelude: &[u8], place: &str) -> Vec<u8> {
    [prelude, place.as_bytes()].concat()
}

/// The key with which bytes are sealed.
///
/// # Errors
/// [`SealError::Plain`], [`SealError::Newer`] and [`SealError::Forged`] for bytes that do not say.
pub fn sealed_with(sealed: &[u8]) -> Result<KeyId, SealError> {
    let (prelude, _) = sealed.split_first_chunk::<PRELUDE_BYTES>().ok_or(SealError::Plain)?;
    if !prelude.starts_with(&MAGIC) {
        return Err(SealError::Plain);
    }
    let [_, _, _, _, _, flags, f0, f1, id @ ..] = *prelude;
    let found = u16::from_be_bytes([f0, f1]);
    if found > FORMAT {
        return Err(SealError::Newer { found });
    }
    if found == 0 || flags != 0 {
        return Err(SealError::Forged);
    }
    Ok(KeyId(id))
}
