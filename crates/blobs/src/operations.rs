//! Immutable operations that a group shares: of its schema, of its membership, and rotations of its key.

use bytes::Bytes;
use isle_identity::{KeyId, ROTATION_BYTES_MAX};
use object_store::path::Path;

use crate::codec::{self, FormatError, Kind};
use crate::error::RemoteError;
use crate::keys::SchemaId;
use crate::remote::Remote;
use crate::request::Placed;

/// The largest schema operation, without its envelope.
pub const SCHEMA_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest membership operation, without its envelope.
pub const MEMBER_BYTES_MAX: usize = isle_identity::OP_BYTES_MAX;
/// The most rotations that are looked at.
pub const ROTATIONS_MAX: usize = 4096;

const ROTATION_KIND: Kind = Kind { letter: b'k', name: "key rotation", format: 1, flags: 0 };

/// What an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// The schema.
    Schema,
    /// Who belongs to the group.
    Member,
}

impl OperationKind {
    fn kind(self) -> Kind {
        match self {
            OperationKind::Schema => Kind { letter: b'o', name: "schema operation", format: 1, flags: 0 },
            OperationKind::Member => Kind { letter: b'm', name: "membership operation", format: 1, flags: 0 },
        }
    }

    fn folder(self) -> &'static str {
        match self {
            OperationKind::Schema => "schema",
            OperationKind::Member => "member",
        }
    }

    fn bytes_max(self) -> usize {
        match self {
            OperationKind::Schema => SCHEMA_BYTES_MAX,
            OperationKind::Member => MEMBER_BYTES_MAX,
        }
    }
}

impl Remote {
    /// Puts an operation, unless one stands under this id. Returns what stands there: the same operation, though
    /// perhaps sealed by somebody else and so in other bytes.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`] beyond [`SCHEMA_BYTES_MAX`] or [`MEMBER_BYTES_MAX`], [`RemoteError::NewerFormat`] and [`RemoteError::KeyMissing`] for what
    /// stands there and cannot be read, and those of any request. What stands there damaged is replaced.
    pub async fn put_operation(&self, kind: OperationKind, id: SchemaId, bytes: &Bytes) -> Result<Bytes, RemoteError> {
        let (key, place) = self.operation_key(kind, id);
        self.check_size(&key, bytes.len(), kind.bytes_max())?;
        self.check_folder()?;
        let wrapped = codec::wrap(kind.kind(), 0, &[bytes]);
        let wrapped = self.sealed_bytes(kind.kind().name, &place, wrapped);
        let wrapped = wrapped.map_err(|source| self.unwritable(&key, source))?;
        let placed = self.inner.requests.put_new(&key, &wrapped, false).await;
        match placed.map_err(|failure| self.failed(failure, &key))? {
            Placed::Ours => Ok(bytes.clone()),
            Placed::Existed => match self.get_operation(kind, id).await {
                Err(RemoteError::Corrupt { .. }) => {
                    tracing::warn!(place = self.place(), %key, "a damaged operation is replaced");
                    let put = self.inner.requests.put(&key, &wrapped).await;
                    put.map(|_| bytes.clone()).map_err(|failure| self.failed(failure, &key))
                }
                other => other,
            },
        }
    }

    /// An operation. That it is the one of this id is for the caller to check.
    ///
    /// # Errors
    /// [`RemoteError::Missing`], [`RemoteError::Corrupt`], [`RemoteError::NewerFormat`], [`RemoteError::TooLarge`], and
    /// those of any request.
    pub async fn get_operation(&self, kind: OperationKind, id: SchemaId) -> Result<Bytes, RemoteError> {
        let (key, place) = self.operation_key(kind, id);
        let body = |bytes: &[u8]| {
            let opened = self.opened(kind.kind().name, &place, bytes)?;
            Ok(Bytes::copy_from_slice(codec::unwrap(kind.kind(), &opened)?.body))
        };
        let (bytes, _) = self.read(&key, self.with_seal(kind.bytes_max() + codec::ENVELOPE_BYTES), None, body).await?;
        Ok(bytes)
    }

    /// Puts a rotation of the group's key; several may hand on one key, each to other devices. It is not sealed, for it is how a device gets a key; whom it is for and who made it does not show.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`], and those of any request.
    pub async fn put_rotation(&self, epoch: u64, id: KeyId, bytes: &Bytes) -> Result<(), RemoteError> {
        let wrapped = codec::wrap(ROTATION_KIND, 0, &[bytes]);
        let rotation = RotationRef { epoch, id, hash: *blake3::hash(&wrapped).as_bytes() };
        let key = self.rotation_key(&rotation);
        self.check_size(&key, bytes.len(), ROTATION_BYTES_MAX)?;
        self.check_folder()?;
        let placed = self.inner.requests.put_new(&key, &wrapped, false).await;
        placed.map(|_| ()).map_err(|failure| self.failed(failure, &key))
    }

    /// The rotations that stand here: one LIST and its further pages.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn list_rotations(&self) -> Result<Vec<RotationRef>, RemoteError> {
        let folder = self.inner.prefix.key("key");
        let listed = self.inner.requests.list(&folder, ROTATIONS_MAX).await;
        let listed = listed.map_err(|failure| self.failed(failure, &folder))?;
        Ok(listed.iter().filter_map(|meta| rotation_of(meta.location.filename()?)).collect())
    }

    /// A rotation.
    ///
    /// # Errors
    /// [`RemoteError::Missing`], [`RemoteError::Corrupt`], [`RemoteError::NewerFormat`], [`RemoteError::TooLarge`], and
    /// those of any request.
    pub async fn get_rotation(&self, rotation: &RotationRef) -> Result<Bytes, RemoteError> {
        let key = self.rotation_key(rotation);
        let body = |bytes: &[u8]| {
            if *blake3::hash(bytes).as_bytes() != rotation.hash {
                return Err(FormatError::Checksum { object: ROTATION_KIND.name });
            }
            Ok(Bytes::copy_from_slice(codec::unwrap(ROTATION_KIND, bytes)?.body))
        };
        let (bytes, _) = self.read(&key, ROTATION_BYTES_MAX + codec::ENVELOPE_BYTES, None, body).await?;
        Ok(bytes)
    }

    /// The key of an operation's object, and what it is bound to when it is sealed.
    fn operation_key(&self, kind: OperationKind, id: SchemaId) -> (Path, String) {
        let name = self.sealing.as_ref().map_or(id, |sealing| sealing.base.name(kind.folder(), &id));
        let place = format!("{}/{:032x}", kind.folder(), u128::from_be_bytes(name));
        (self.inner.prefix.key(&place), place)
    }

    fn rotation_key(&self, rotation: &RotationRef) -> Path {
        self.inner.prefix.key(&format!("key/{}", rotation.name()))
    }
}

/// A rotation as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RotationRef {
    /// How many rotations came before the key.
    pub epoch: u64,
    /// The key.
    pub id: KeyId,
    /// Of the object.
    hash: [u8; 32],
}

impl RotationRef {
    fn name(&self) -> String {
        format!("{:016x}-{}-{}", self.epoch, self.id, blake3::Hash::from_bytes(self.hash).to_hex())
    }
}

/// What the name of a rotation says; `None` for a stranger in that folder.
fn rotation_of(name: &str) -> Option<RotationRef> {
    let mut parts = name.split('-');
    let (epoch, id, hash) = (parts.next()?, parts.next()?, parts.next()?);
    let id = KeyId::from_bytes(u128::from_str_radix(id, 16).ok()?.to_be_bytes());
    let hash = *blake3::Hash::from_hex(hash).ok()?.as_bytes();
    let rotation = RotationRef { epoch: u64::from_str_radix(epoch, 16).ok()?, id, hash };
    (rotation.name() == name).then_some(rotation)
}
