//! A new key for a group, wrapped for each device that stays.

use aws_lc_rs::aead::Aad;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::montgomery::MontgomeryPoint;
use isle_clock::GroupId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use crate::seal::{GroupKey, KeyId, OVERHEAD_BYTES, nonce, one_time_key};
use crate::{DeviceKey, DeviceSecret};

const FORMAT: u8 = 1;
const STATEMENT: &[u8] = b"isle key rotation 1";
const WRAP: &str = "isle 2026 key of a wrapped group key";
const PLACE: &str = "rotation";
/// Author and signature, sealed.
const SIGNED_BYTES: usize = 96 + OVERHEAD_BYTES;
const BOX_BYTES: usize = 48;
/// The most devices that one rotation reaches.
pub const RECIPIENTS_MAX: usize = 4096;
/// The largest rotation.
pub const ROTATION_BYTES_MAX: usize = 512 + RECIPIENTS_MAX * (BOX_BYTES + 1);

/// Why a rotation cannot be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// It is none, or of a later format.
    #[error("the key rotation is malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// A later release wrote it.
    #[error("the key rotation has format {found}, this isle reads {FORMAT}: update isle on this device")]
    Newer {
        /// Its format.
        found: u8,
    },
    /// Its signature is not that of its author.
    #[error("the key rotation is not signed by device {}, which it names as its author", author.short())]
    Signature {
        /// The device that it names.
        author: DeviceKey,
    },
    /// The cryptography refuses to work.
    #[error("the cryptography of this system does not work")]
    Broken,
}

/// A rotation. Who made it shows to those alone for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    content: Content,
    signed: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    group: GroupId,
    epoch: u64,
    id: KeyId,
    ephemeral: [u8; 32],
    boxes: Vec<Vec<u8>>,
}

impl Content {
    /// What is signed, and what the bytes begin with.
    fn encode(&self) -> Result<Vec<u8>, RotationError> {
        let mut bytes = vec![FORMAT];
        bytes.extend(postcard::to_stdvec(self).map_err(|_| RotationError::Broken)?);
        Ok(bytes)
    }
}

impl Rotation {
    /// Wraps a key for devices; those whose own keys are none are passed over. `random` is 32 fresh random bytes.
    ///
    /// # Errors
    /// [`RotationError::Malformed`] for too many devices.
    pub fn wrap(
        author: &DeviceSecret,
        group: GroupId,
        key: &GroupKey,
        devices: &[DeviceKey],
        random: [u8; 32],
    ) -> Result<Rotation, RotationError> {
        if devices.len() > RECIPIENTS_MAX {
            return Err(RotationError::Malformed { what: "it is for too many devices" });
        }
        let random = Zeroizing::new(random);
        let ephemeral = MontgomeryPoint::mul_base_clamped(*random).to_bytes();
        let mut boxes = Vec::with_capacity(devices.len());
        for device in devices {
            // One that enrolled such a key must not keep the others from theirs.
            let Some(point) = montgomery(device) else { continue };
            let shared = point.mul_clamped(*random).to_bytes();
            let mut wrapped = key.secret().to_vec();
            one_time_key(&wrapping_key(&shared, &ephemeral, device, group, key.id()))
                .and_then(|sealing| {
                    let sealed = sealing.seal_in_place_append_tag(nonce(), Aad::empty(), &mut wrapped);
                    sealed.map_err(|_| crate::SealError::Broken)
                })
                .map_err(|_| RotationError::Broken)?;
            boxes.push(wrapped);
        }
        // In whatever order the devices were given nobody learns of it.
        boxes.sort_unstable();
        let content = Content { group, epoch: key.epoch(), id: key.id(), ephemeral, boxes };
        let statement = [STATEMENT, &content.encode()?].concat();
        let inner = [author.key().as_bytes().as_slice(), &author.sign(&statement)].concat();
        let signed = key.seal(PLACE, &ephemeral, &inner).map_err(|_| RotationError::Broken)?;
        Ok(Rotation { content, signed })
    }

    /// Reads a rotation.
    ///
    /// # Errors
    /// [`RotationError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Rotation, RotationError> {
        let malformed = |what| RotationError::Malformed { what };
        if bytes.len() > ROTATION_BYTES_MAX {
            return Err(malformed("it is too large"));
        }
        let (begin, signed) = bytes.split_last_chunk::<SIGNED_BYTES>().ok_or(malformed("it is too short"))?;
        let (format, body) = begin.split_first().ok_or(malformed("it is too short"))?;
        if *format > FORMAT {
            return Err(RotationError::Newer { found: *format });
        }
        let (content, rest): (Content, _) =
            postcard::take_from_bytes(body).map_err(|_| malformed("it cannot be decoded"))?;
        if !rest.is_empty() || content.encode()? != begin {
            return Err(malformed("it is not in canonical form"));
        }
        if content.boxes.iter().any(|wrapped| wrapped.len() != BOX_BYTES) {
            return Err(malformed("a box has another size"));
        }
        Ok(Rotation { content, signed: signed.to_vec() })
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`RotationError::Broken`] when it cannot be written.
    pub fn encode(&self) -> Result<Vec<u8>, RotationError> {
        let mut bytes = self.content.encode()?;
        bytes.extend_from_slice(&self.signed);
        Ok(bytes)
    }

    /// The group.
    pub const fn group(&self) -> GroupId {
        self.content.group
    }

    /// How many rotations came before.
    pub const fn epoch(&self) -> u64 {
        self.content.epoch
    }

    /// By what the key is known.
    pub const fn id(&self) -> KeyId {
        self.content.id
    }

    /// The key and the device that made the rotation; `None` if this device is not among those for which it was wrapped.
    ///
    /// # Errors
    /// [`RotationError::Signature`] when it is not signed by whom it names, or by nobody.
    pub fn open(&self, device: &DeviceSecret) -> Result<Option<(GroupKey, DeviceKey)>, RotationError> {
        let Some(key) = self.unwrap(device) else { return Ok(None) };
        let inner = key.open(PLACE, &self.signed).map_err(|_| RotationError::Malformed { what: "it is not signed" })?;
        let (author, signature) =
            inner.split_first_chunk().ok_or(RotationError::Malformed { what: "it is not signed" })?;
        let author = DeviceKey::from_bytes(*author);
        if author.verifies(&[STATEMENT, &self.content.encode()?].concat(), signature) {
            return Ok(Some((key, author)));
        }
        Err(RotationError::Signature { author })
    }

    fn unwrap(&self, device: &DeviceSecret) -> Option<GroupKey> {
        let Content { group, epoch, id, ephemeral, .. } = &self.content;
        let shared = MontgomeryPoint(*ephemeral).mul_clamped(*scalar(device)).to_bytes();
        if shared == [0; 32] {
            return None;
        }
        let wrapping = wrapping_key(&shared, ephemeral, &device.key(), *group, *id);
        self.content.boxes.iter().find_map(|wrapped| {
            let mut bytes = Zeroizing::new(wrapped.clone());
            let opened = one_time_key(&wrapping).ok()?.open_in_place(nonce(), Aad::empty(), &mut bytes).ok()?;
            let key = GroupKey::from_secret(*epoch, <[u8; 32]>::try_from(&*opened).ok()?);
            (key.id() == *id).then_some(key)
        })
    }
}

fn wrapping_key(
    shared: &[u8; 32],
    ephemeral: &[u8; 32],
    device: &DeviceKey,
    group: GroupId,
    id: KeyId,
) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_derive_key(WRAP);
    hasher.update(shared).update(ephemeral).update(device.as_bytes()).update(group.as_bytes()).update(id.as_bytes());
    Zeroizing::new(*hasher.finalize().as_bytes())
}

/// A device's key on Curve25519; `None` for what is no key, or one that anybody could open for.
fn montgomery(key: &DeviceKey) -> Option<MontgomeryPoint> {
    let point = CompressedEdwardsY(*key.as_bytes()).decompress()?;
    (!point.is_small_order()).then(|| point.to_montgomery())
}

/// The secret scalar of an Ed25519 key (RFC 8032, 5.1.5), before clamping.
fn scalar(device: &DeviceSecret) -> Zeroizing<[u8; 32]> {
    let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(device.seed())));
    let mut scalar = Zeroizing::new([0; 32]);
    scalar.copy_from_slice(&hash[..32]);
    scalar
}
