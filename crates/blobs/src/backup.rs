//! Copies of databases in a remote. What a database is is not known here: a backup is bytes, cut into parts, and what its maker says of them.
//!
//! The manifest is put last: without it there is no backup, and what a transfer that was cut off has left is removed with [`Remote::sweep_backups`]. It is
//! signed by the device that put it there, so that somebody who can write to the remote can put no other database in its place.
//!
//! ```text
//! manifest   the envelope, of kind 'c'; then a postcard encoding of [`BackupManifest`]'s fields in their order
//! part       a zstd frame of up to 4 MiB of the copy
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use isle_clock::GroupId;
use isle_identity::{DeviceKey, DeviceSecret};
use serde::{Deserialize, Serialize};

use crate::codec::{self, FormatError, Kind};
use crate::error::RemoteError;
use crate::group::within;
use crate::keys;
use crate::remote::Remote;
use crate::snapshot::PartRef;

/// A backup is cut into parts of this size; the last one may be shorter.
pub const BACKUP_PART_BYTES: usize = 4 << 20;
/// The largest manifest.
pub const BACKUP_MANIFEST_BYTES_MAX: usize = 8 << 20;

/// Of backups in one remote so many are listed.
const BACKUPS_MAX: usize = 100_000;
/// More than a frame can take beyond its content.
const FRAME_BYTES_EXTRA: usize = 64 << 10;
const COMPRESSION_LEVEL: i32 = 3;
const OBJECT: &str = "backup part";
const KIND: Kind = Kind { letter: b'c', name: "backup manifest", format: 1, flags: 0 };
const SIGNED_FOR: &[u8] = b"isle backup 1\0";

/// The name of a backup in a remote: when it was made, and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName {
    /// Milliseconds since 1970, by its maker's clock.
    pub created_ms: u64,
    /// Random.
    pub id: [u8; 16],
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:032x}", self.created_ms, u128::from_be_bytes(self.id))
    }
}

impl BackupName {
    fn parse(text: &str) -> Option<BackupName> {
        let (time, id) = text.split_once('-')?;
        let created_ms = u64::from_str_radix(time, 16).ok()?;
        let name = BackupName { created_ms, id: u128::from_str_radix(id, 16).ok()?.to_be_bytes() };
        // In no other spelling.
        (name.to_string() == text).then_some(name)
    }
}

/// What makes a backup one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// What its maker says of it.
    pub facts: Vec<u8>,
    /// Its parts, in their order.
    pub parts: Vec<PartRef>,
    /// Who made it.
    pub device: DeviceKey,
    /// That device's signature.
    signature: Vec<u8>,
}

/// A part of a backup that stands in a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Its name.
    pub name: String,
    /// Its size there.
    pub bytes: u64,
    /// When it was put, in milliseconds since 1970 by the remote's clock.
    pub modified_ms: u64,
}

impl BackupManifest {
    /// A manifest, signed.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] beyond [`BACKUP_MANIFEST_BYTES_MAX`].
    pub fn sign(
        group: GroupId,
        name: BackupName,
        facts: Vec<u8>,
        parts: Vec<PartRef>,
        secret: &DeviceSecret,
    ) -> Result<BackupManifest, FormatError> {
        let mut manifest = BackupManifest { facts, parts, device: secret.key(), signature: Vec::new() };
        manifest.signature = secret.sign(&manifest.message(group, name)?).to_vec();
        Ok(manifest)
    }

    /// Whether all parts that it names are among these.
    pub fn is_whole(&self, parts: &[StoredPart]) -> bool {
        let standing: BTreeMap<&str, u64> = parts.iter().map(|part| (part.name.as_str(), part.bytes)).collect();
        self.parts.iter().all(|part| standing.get(part.name.as_str()) == Some(&part.bytes))
    }

    /// Whether the device that it names made it, of this group and under this name. Whether that device is one of the group's is for the caller to look at.
    pub fn is_signed(&self, group: GroupId, name: BackupName) -> bool {
        self.message(group, name).is_ok_and(|message| self.device.verifies(&message, &self.signature))
    }

    fn message(&self, group: GroupId, name: BackupName) -> Result<Vec<u8>, FormatError> {
        let unsigned = (group, name.to_string(), &self.facts, &self.parts, &self.device);
        let malformed = |_| FormatError::Malformed { object: KIND.name, problem: "it cannot be encoded" };
        let mut message = SIGNED_FOR.to_vec();
        message.extend(postcard::to_stdvec(&unsigned).map_err(malformed)?);
        within(KIND.name, message.len(), BACKUP_MANIFEST_BYTES_MAX)?;
        Ok(message)
    }
}

impl Remote {
    /// Puts a part of a backup, of up to [`BACKUP_PART_BYTES`]. Repeating it is fine. Gives what the manifest names.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`], [`RemoteError::NoFolder`], and those of any request.
    pub async fn put_backup_part(&self, name: BackupName, index: u32, content: &[u8]) -> Result<PartRef, RemoteError> {
        let (place, start) = (part_place(name, index), format!("{index:08x}"));
        let folder = self.inner.prefix.key(&parts_of(name));
        self.check_size(&folder, content.len(), BACKUP_PART_BYTES)?;
        let failed = |_| FormatError::Malformed { object: OBJECT, problem: "it cannot be compressed" };
        let frame = zstd::bulk::compress(content, COMPRESSION_LEVEL).map_err(failed);
        let sealed = frame.and_then(|frame| self.sealed_bytes(OBJECT, &place, frame.into()));
        let sealed = sealed.map_err(|source| self.unwritable(&folder, source))?;
        let part = PartRef { name: keys::hashed_name(&start, &sealed), bytes: sealed.len() as u64 };
        let key = self.inner.prefix.key(&format!("{}/{}", parts_of(name), part.name));
        self.put_named(&key, &sealed, self.with_seal(BACKUP_PART_BYTES + FRAME_BYTES_EXTRA)).await?;
        Ok(part)
    }

    /// A part of a backup.
    ///
    /// # Errors
    /// [`RemoteError::Missing`], [`RemoteError::Corrupt`], [`RemoteError::TooLarge`], and those of any request.
    pub async fn get_backup_part(&self, name: BackupName, index: u32, part: &PartRef) -> Result<Bytes, RemoteError> {
        let key = self.inner.prefix.key(&format!("{}/{}", parts_of(name), part.name));
        let damaged = |problem| self.damaged(&key, FormatError::Malformed { object: OBJECT, problem });
        if !keys::is_name(&part.name) || keys::start_of(&part.name) != format!("{index:08x}") {
            return Err(damaged("its name is not that of a part"));
        }
        let max = self.with_seal(BACKUP_PART_BYTES + FRAME_BYTES_EXTRA);
        let frame = self.get_named(&key, &part_place(name, index), OBJECT, (&part.name, part.bytes), max).await?;
        // Never more than a part, whatever the frame says of itself.
        let content = zstd::bulk::decompress(&frame, BACKUP_PART_BYTES);
        content.map(Bytes::from).map_err(|_| damaged("it cannot be decompressed"))
    }

    /// Puts the manifest of a backup, after its parts: it makes the backup one.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`], and those of any request.
    pub async fn put_backup(&self, name: BackupName, manifest: &BackupManifest) -> Result<(), RemoteError> {
        let key = self.inner.prefix.key(&manifest_of(name));
        self.check_folder()?;
        let encoded =
            codec::encode(KIND, manifest).and_then(|bytes| self.sealed_bytes(KIND.name, &manifest_of(name), bytes));
        let bytes = encoded.map_err(|source| self.unwritable(&key, source))?;
        self.check_size(&key, bytes.len(), self.with_seal(BACKUP_MANIFEST_BYTES_MAX))?;
        self.inner.requests.put(&key, &bytes).await.map(drop).map_err(|failure| self.failed(failure, &key))
    }

    /// The manifest of a backup. Whether its device signed it is for the caller to check.
    ///
    /// # Errors
    /// [`RemoteError::Missing`], [`RemoteError::Corrupt`], [`RemoteError::NewerFormat`], [`RemoteError::KeyMissing`], and those of any request.
    pub async fn get_backup(&self, name: BackupName) -> Result<BackupManifest, RemoteError> {
        let key = self.inner.prefix.key(&manifest_of(name));
        let decode = |bytes: &[u8]| {
            let opened = self.opened(KIND.name, &manifest_of(name), bytes)?;
            codec::decode(KIND, &opened)
        };
        self.read(&key, self.with_seal(BACKUP_MANIFEST_BYTES_MAX), None, decode).await.map(|(manifest, _)| manifest)
    }

    /// The backups that stand here, newest first: one LIST and its further pages.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn list_backups(&self) -> Result<Vec<BackupName>, RemoteError> {
        let folder = self.inner.prefix.key("backup");
        let listed = self.inner.requests.list(&folder, BACKUPS_MAX).await;
        let listed = listed.map_err(|failure| self.failed(failure, &folder))?;
        if listed.is_empty() {
            self.check_folder()?;
        }
        let mut names: Vec<BackupName> =
            listed.iter().filter_map(|meta| BackupName::parse(meta.location.filename()?)).collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup();
        Ok(names)
    }

    /// Whether a backup stands here: one HEAD of its manifest.
    async fn has_backup(&self, name: BackupName) -> Result<bool, RemoteError> {
        let key = self.inner.prefix.key(&manifest_of(name));
        match self.inner.requests.stat(&key).await.map_err(|failure| self.failed(failure, &key)) {
            Ok(_) => Ok(true),
            Err(RemoteError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a backup, its manifest first. One that is not there is fine.
    ///
    /// # Errors
    /// Those of any request; then parts may be left, for [`Remote::sweep_backups`].
    pub async fn delete_backup(&self, name: BackupName) -> Result<(), RemoteError> {
        let key = self.inner.prefix.key(&manifest_of(name));
        self.inner.requests.delete(&key).await.map_err(|failure| self.failed(failure, &key))?;
        let parts = self.list_backup_parts(Some(name)).await?;
        self.delete_parts(name, parts.get(&name).into_iter().flat_map(|parts| parts.iter())).await.map(drop)
    }

    /// Removes what stands beside the parts that a manifest names: of earlier tries. True if all that it names is there.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn tidy_backup(&self, name: BackupName, manifest: &BackupManifest) -> Result<bool, RemoteError> {
        let all = self.list_backup_parts(Some(name)).await?;
        let parts = all.get(&name).cloned().unwrap_or_default();
        let named: BTreeSet<&str> = manifest.parts.iter().map(|part| part.name.as_str()).collect();
        self.delete_parts(name, parts.iter().filter(|part| !named.contains(part.name.as_str()))).await?;
        Ok(manifest.is_whole(&parts))
    }

    /// Removes parts of backups that have no manifest and were put before a time, in milliseconds since 1970 by the remote's clock: of transfers that were cut
    /// off. Gives how many there were.
    ///
    /// # Errors
    /// Those of any request; what was removed before stays removed.
    pub async fn sweep_backups(&self, before_ms: u64) -> Result<u64, RemoteError> {
        let (whole, mut removed) = (self.list_backups().await?, 0);
        for (name, parts) in self.list_backup_parts(None).await? {
            let old = parts.iter().all(|part| part.modified_ms < before_ms);
            // It may have become one since they were listed.
            if old && !whole.contains(&name) && !self.has_backup(name).await? {
                removed += self.delete_parts(name, parts.iter()).await?;
            }
        }
        Ok(removed)
    }

    /// The parts that stand here, by backup, of one or of all: one LIST and its further pages.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn list_backup_parts(
        &self,
        of: Option<BackupName>,
    ) -> Result<BTreeMap<BackupName, Vec<StoredPart>>, RemoteError> {
        let folder = self.inner.prefix.key(&of.map_or_else(|| "backup-part".to_owned(), parts_of));
        let mut found: BTreeMap<BackupName, Vec<StoredPart>> = BTreeMap::new();
        let mut each = |meta: object_store::ObjectMeta| {
            let mut path = meta.location.as_ref().rsplit('/');
            if let (Some(name), Some(of)) = (path.next(), path.next().and_then(BackupName::parse)) {
                let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
                found.entry(of).or_default().push(StoredPart { name: name.to_owned(), bytes: meta.size, modified_ms });
            }
        };
        let listed = self.inner.requests.list_each(&folder, &mut each).await;
        listed.map_err(|failure| self.failed(failure, &folder))?;
        Ok(found)
    }

    async fn delete_parts(
        &self,
        name: BackupName,
        parts: impl Iterator<Item = &StoredPart> + Send,
    ) -> Result<u64, RemoteError> {
        let mut removed = 0;
        for part in parts {
            let key = self.inner.prefix.key(&format!("{}/{}", parts_of(name), part.name));
            self.inner.requests.delete(&key).await.map_err(|failure| self.failed(failure, &key))?;
            removed += 1;
        }
        Ok(removed)
    }
}

fn manifest_of(name: BackupName) -> String {
    format!("backup/{name}")
}

fn parts_of(name: BackupName) -> String {
    format!("backup-part/{name}")
}

fn part_place(name: BackupName, index: u32) -> String {
    format!("backup-part/{name}/{index:08x}")
}
