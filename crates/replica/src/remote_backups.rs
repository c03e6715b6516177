//! Backups in remotes: put there from the catalogue of a folder, and brought back into one.
//!
//! # Promise
//! A backup stands in a remote whole or not at all, encrypted where the remote is, signed by the device that put it there. Every device of the group sees it, and
//! may bring it into its own folder, where it is what it was to the byte and is restored as any other. Nothing of a group's history rests on it: backups go
//! when somebody removes them, and no sync looks at them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isle_blobs::{BACKUP_PART_BYTES, BackupManifest, BackupName, Head, PartRef, Remote, RemoteError};
use isle_identity::DeviceKey;
use serde::{Deserialize, Serialize};

use crate::backups::{ID_LETTERS_MIN, compact_time, io, write_durably};
use crate::operations::note;
use crate::replica::Inner;
use crate::sync::{RemoteState, blocking, open_for_files};
use crate::{Backup, BackupError, Error, Replica, SyncOptions};

/// What a transfer that was cut off has left is not touched for so long after its last part was put: it may be under way.
const LEFT_MS: u64 = 7 * 24 * 3_600_000;

/// Is told how many bytes of a backup are done, and how many there are.
pub type BackupProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// A backup that stands in a remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemoteBackup {
    /// What the catalogue of its maker says of it; its path is the one that it had there.
    #[serde(flatten)]
    pub backup: Backup,
    /// The remote.
    pub remote: String,
    /// What the device that made it is called.
    pub device: String,
    /// Whether this device made it.
    pub own: bool,
    /// The beginning of that device's key.
    pub key: String,
    /// Whether all of its parts stand there.
    pub whole: bool,
    /// Its size there.
    pub stored_bytes: u64,
    #[serde(skip)]
    name: BackupName,
    #[serde(skip)]
    parts: Vec<PartRef>,
}

/// What stands in a remote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RemoteBackups {
    /// Backups, newest first.
    pub backups: Vec<RemoteBackup>,
    /// What is there and is none, by its id, and why.
    pub refused: Vec<(String, String)>,
}

/// What a manifest says beside the names of the parts.
#[derive(Serialize, Deserialize)]
struct Facts {
    device: String,
    backup: Backup,
}

impl Replica {
    /// Whether backups can be put into a remote.
    ///
    /// # Errors
    /// [`Error::NoSuchRemote`], [`Error::NeverSynced`].
    pub async fn can_push_backups(&self, remote: &str) -> Result<(), Error> {
        self.remote_for_backups(remote).await.map(drop)
    }

    /// Puts a backup of a folder into a remote, after it was verified, and after a sync, so that whoever takes it back knows which of its changes the group
    /// has. Gives how many bytes it takes there. One of this device's that stands there is put once more.
    ///
    /// # Errors
    /// [`BackupError::Damaged`], [`BackupError::OtherGroup`], [`BackupError::OfAnother`], [`BackupError::Incomplete`], [`Error::NoSuchRemote`],
    /// [`Error::NeverSynced`], [`Error::Remote`], and those of a sync. What was put until then is removed by [`Replica::sweep_remote_backups`] some time.
    pub async fn push_backup(
        &self,
        backup: &Backup,
        remote: &str,
        progress: Option<BackupProgress>,
    ) -> Result<u64, Error> {
        let (started_ms, wanted) = (self.inner.runtime.now_ms(), backup.clone());
        blocking(&self.inner, move |inner| {
            wanted.verify()?;
            wanted.must_be_of(&inner.store.facts_of(&wanted.path)?, &inner.store.group()?.to_string())
        })
        .await?;
        let result = self.put_parts(backup, remote, progress).await;
        let told = result.as_ref().map(|bytes| format!("{{\"id\":\"{}\",\"bytes\":{bytes}}}", backup.id));
        note(&self.inner, "backup push", remote, started_ms, told.map_err(ToString::to_string));
        result
    }

    async fn put_parts(&self, backup: &Backup, remote: &str, progress: Option<BackupProgress>) -> Result<u64, Error> {
        let opened = self.remote_for_backups(remote).await?;
        let failed = |source| Error::Remote { name: remote.to_owned(), source };
        let name = name_of(backup)?;
        if let Ok(standing) = opened.get_backup(name).await {
            let at = remote.to_owned();
            let standing = blocking(&self.inner, move |inner| inner.admit(&at, name, standing)).await?;
            if let Some(other) = standing.ok().filter(|standing| !standing.own) {
                let (id, remote, device) = (backup.id.clone(), remote.to_owned(), other.key);
                return Err(BackupError::OfAnother { id, remote, device }.into());
            }
        }
        self.sync_with(&SyncOptions { remote: Some(remote.to_owned()), ..SyncOptions::default() }).await?;
        let mut file = File::open(&backup.path).map_err(io("cannot read", &backup.path))?;
        let (mut parts, mut done, mut stored) = (Vec::new(), 0, 0);
        loop {
            let path = backup.path.clone();
            let (back, part) = blocking(&self.inner, move |_| {
                let mut part = Vec::new();
                (&mut file).take(BACKUP_PART_BYTES as u64).read_to_end(&mut part).map_err(io("cannot read", &path))?;
                Ok((file, part))
            })
            .await?;
            file = back;
            if part.is_empty() {
                break;
            }
            let put = opened.put_backup_part(name, parts.len() as u32, &part).await.map_err(failed)?;
            stored += put.bytes;
            parts.push(put);
            done += part.len() as u64;
            if let Some(progress) = &progress {
                progress(done, backup.bytes);
            }
        }
        let mut backup = backup.clone();
        let id = backup.id.clone();
        let manifest = blocking(&self.inner, move |inner| {
            let id = backup.id.clone();
            backup.handed_over = inner.handed_over_of(&backup)?;
            let facts = serde_json::to_vec(&Facts { device: inner.device()?.name, backup }).unwrap_or_default();
            let signed = BackupManifest::sign(inner.store.group()?, name, facts, parts, inner.secret()?);
            Ok(signed.map_err(|source| BackupError::Unfit { id, source })?)
        });
        let manifest = manifest.await?;
        opened.put_backup(name, &manifest).await.map_err(failed)?;
        match opened.tidy_backup(name, &manifest).await.map_err(failed)? {
            true => Ok(stored),
            false => Err(BackupError::Incomplete { id, remote: remote.to_owned() }.into()),
        }
    }

    /// The backups of the group in a remote, newest first: those of all devices.
    ///
    /// # Errors
    /// [`Error::NoSuchRemote`], [`Error::NeverSynced`], [`Error::Remote`]. One that is damaged, or that no device of the group has signed, is no error, but told.
    pub async fn remote_backups(&self, remote: &str) -> Result<RemoteBackups, Error> {
        let opened = self.remote_for_backups(remote).await?;
        let failed = |source| Error::Remote { name: remote.to_owned(), source };
        let mut found = RemoteBackups::default();
        let standing = opened.list_backup_parts(None).await.map_err(failed)?;
        for name in opened.list_backups().await.map_err(failed)? {
            let id = uuid::Uuid::from_bytes(name.id).to_string();
            let manifest = match opened.get_backup(name).await {
                Ok(manifest) => manifest,
                // It was removed meanwhile.
                Err(RemoteError::Missing { .. }) => continue,
                Err(
                    error @ (RemoteError::Corrupt { .. }
                    | RemoteError::NewerFormat { .. }
                    | RemoteError::KeyMissing { .. }
                    | RemoteError::TooLarge { .. }),
                ) => {
                    found.refused.push((id, error.to_string()));
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let whole = manifest.is_whole(standing.get(&name).map_or(&[], Vec::as_slice));
            let remote = remote.to_owned();
            match blocking(&self.inner, move |inner| inner.admit(&remote, name, manifest)).await? {
                Ok(backup) => found.backups.push(RemoteBackup { whole, ..backup }),
                Err(why) => found.refused.push((id, why)),
            }
        }
        Ok(found)
    }

    /// The backup in a remote whose id begins so, with four letters at least.
    ///
    /// # Errors
    /// [`BackupError::NotInRemote`], and those of [`Replica::remote_backups`].
    pub async fn remote_backup(&self, remote: &str, id: &str) -> Result<RemoteBackup, Error> {
        let mut found = self.remote_backups(remote).await?.backups;
        found.retain(|found| id.len() >= ID_LETTERS_MIN && found.backup.id.starts_with(id));
        match found.len() {
            1 => Ok(found.remove(0)),
            count => Err(BackupError::NotInRemote { id: id.to_owned(), remote: remote.to_owned(), count }.into()),
        }
    }

    /// Brings a backup from a remote into a folder, where it is listed, verified and restored as those that were made here. One that is there already, sound,
    /// is not brought again.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] for one that is not what its maker put; then there is nothing in the folder.
    pub async fn fetch_backup(
        &self,
        wanted: &RemoteBackup,
        folder: &Path,
        progress: Option<BackupProgress>,
    ) -> Result<Backup, Error> {
        if let Some(here) = already_here(folder, &wanted.backup) {
            return Ok(here);
        }
        let started_ms = self.inner.runtime.now_ms();
        let result = self.get_parts(wanted, folder, progress).await;
        let told = result.as_ref().map(|backup| serde_json::to_string(backup).unwrap_or_default());
        note(&self.inner, "backup fetch", &wanted.remote, started_ms, told.map_err(ToString::to_string));
        result
    }

    async fn get_parts(
        &self,
        wanted: &RemoteBackup,
        folder: &Path,
        progress: Option<BackupProgress>,
    ) -> Result<Backup, Error> {
        let opened = self.remote_for_backups(&wanted.remote).await?;
        std::fs::create_dir_all(folder).map_err(io("cannot make", folder))?;
        let path = self.place_in(&crate::builder::real_path(folder), &wanted.backup);
        let mut partial = tempfile::Builder::new()
            .prefix(".isle-fetch-")
            .tempfile_in(folder)
            .map_err(io("cannot write into", folder))?;
        let mut done = 0;
        for (index, part) in (0..).zip(&wanted.parts) {
            let got = opened.get_backup_part(wanted.name, index, part).await;
            let content = got.map_err(|source| Error::Remote { name: wanted.remote.clone(), source })?;
            done += content.len() as u64;
            if done > wanted.backup.bytes {
                break;
            }
            let place = path.clone();
            partial = blocking(&self.inner, move |_| {
                partial.write_all(&content).map_err(io("cannot write", &place))?;
                Ok(partial)
            })
            .await?;
            if let Some(progress) = &progress {
                progress(done, wanted.backup.bytes);
            }
        }
        // Here it is one of this database, whatever that is called where it was made.
        let backup = Backup { path: path.clone(), database: self.inner.path.clone(), ..wanted.backup.clone() };
        blocking(&self.inner, move |inner| {
            // Before it has its name, it is what was put, sound, and of this group.
            let at = Backup { path: partial.path().to_owned(), ..backup.clone() };
            at.verify()?;
            at.must_be_of(&inner.store.facts_of(&at.path)?, &inner.store.group()?.to_string())?;
            partial.as_file().sync_all().map_err(io("cannot write", &path))?;
            partial.persist(&path).map_err(|failed| failed.error).map_err(io("cannot write", &path))?;
            let manifest = path.with_extension("json");
            write_durably(&manifest, &serde_json::to_vec_pretty(&backup).unwrap_or_default())
                .map_err(io("cannot write", &manifest))?;
            tracing::info!(id = backup.id, file = %path.display(), "fetched a backup");
            Ok(backup)
        })
        .await
    }

    /// Removes a backup from its remote, for all devices.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn remove_remote_backup(&self, backup: &RemoteBackup) -> Result<(), Error> {
        let opened = self.remote_for_backups(&backup.remote).await?;
        let deleted = opened.delete_backup(backup.name).await;
        deleted.map_err(|source| Error::Remote { name: backup.remote.clone(), source })
    }

    /// Removes from a remote what pushes of backups have left that were cut off a week ago or earlier; gives how many objects that were.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn sweep_remote_backups(&self, remote: &str) -> Result<u64, Error> {
        let opened = self.remote_for_backups(remote).await?;
        let before = self.inner.runtime.now_ms().saturating_sub(LEFT_MS);
        let swept = opened.sweep_backups(before).await;
        swept.map_err(|source| Error::Remote { name: remote.to_owned(), source })
    }

    async fn remote_for_backups(&self, name: &str) -> Result<Remote, Error> {
        let row = self.inner.store.remotes()?.into_iter().find(|row| row.name == name);
        let row = row.ok_or_else(|| Error::NoSuchRemote { name: name.to_owned() })?;
        // Until then this file may be of another group, and knows none of its devices.
        if RemoteState::read(&row).last_sync_ms.is_none() {
            return Err(Error::NeverSynced { name: row.name });
        }
        open_for_files(&self.inner, &row).await
    }

    /// Where a backup of another folder, or another device, is to lie in this one: nothing of its path is taken over.
    fn place_in(&self, folder: &Path, backup: &Backup) -> PathBuf {
        let stem =
            self.inner.path.file_stem().map_or_else(|| "isle".into(), |stem| stem.to_string_lossy().into_owned());
        folder.join(format!("database-{stem}-{}-{}.db", compact_time(backup.created_ms), backup.id))
    }
}

impl Inner {
    /// What a manifest says, if a device of the group says it.
    fn admit(
        &self,
        remote: &str,
        name: BackupName,
        manifest: BackupManifest,
    ) -> Result<Result<RemoteBackup, String>, Error> {
        let (device, own): (DeviceKey, DeviceKey) = (manifest.device, self.device()?.key);
        let refused = |why: &str| Ok(Err(why.to_owned()));
        if !manifest.is_signed(self.store.group()?, name) {
            return refused("its signature is not of this group, or it was changed");
        }
        let membership = self.store.membership()?;
        if membership.is_revoked(&device) {
            return refused("a device has signed it that was put out of the group");
        }
        if device != own && !membership.is_member(&device) && !self.is_heard_in(remote, &device)? {
            return Ok(Err(format!(
                "device {} has signed it, of which nobody in the group has heard: `isle sync` first, in case it is new",
                device.short()
            )));
        }
        let Ok(Facts { device: called, backup }) = serde_json::from_slice::<Facts>(&manifest.facts) else {
            return refused("what it says of itself cannot be read");
        };
        if name_of(&backup).ok() != Some(name) || backup.group != self.store.group()?.to_string() {
            return refused("it says that it is another backup");
        }
        Ok(Ok(RemoteBackup {
            backup,
            remote: remote.to_owned(),
            device: called,
            own: device == own,
            key: device.short(),
            whole: false,
            stored_bytes: manifest.parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add),
            name,
            parts: manifest.parts,
        }))
    }
}

impl Inner {
    /// Whether a device has a head in a remote that was taken in.
    fn is_heard_in(&self, remote: &str, device: &DeviceKey) -> Result<bool, Error> {
        let heads = self.store.seen_heads(remote)?;
        let authors = heads.iter().filter_map(|seen| Head::decode(&seen.head).ok()?.author);
        Ok(authors.into_iter().any(|author| author.device == *device))
    }

    /// Up to which version of its site others have what is in a backup.
    fn handed_over_of(&self, backup: &Backup) -> Result<u64, Error> {
        let facts = self.store.facts_of(&backup.path)?;
        let status = self.store.status()?;
        let held = if facts.site == status.site { status.published } else { self.store.vector()?.get(facts.site) };
        Ok(facts.version.min(held))
    }
}

/// Under which name a backup stands in a remote.
fn name_of(backup: &Backup) -> Result<BackupName, BackupError> {
    let id = uuid::Uuid::parse_str(&backup.id)
        .map_err(|_| BackupError::Damaged { id: backup.id.clone(), reason: "its id is none".to_owned() })?;
    Ok(BackupName { created_ms: backup.created_ms, id: id.into_bytes() })
}

fn already_here(folder: &Path, wanted: &Backup) -> Option<Backup> {
    let here = Backup::find(folder, &wanted.id).ok()?;
    (here.blake3 == wanted.blake3 && here.verify().is_ok()).then_some(here)
}
