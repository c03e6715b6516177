//! Backups: copies of the file that are checked, catalogued and can be taken back.
//!
//! A backup is a file `database-<stem>-<time>-<uuid>.db` with a manifest of the same name and `.json` beside it, so that the catalogue
//! outlives the database. It is made by SQLite's backup interface while others write (see `store`), checked, and durable before it has
//! its name; the manifest comes last, and a copy without one is not listed.
//!
//! Restoring verifies first, keeps the file as it is as one more backup, and then copies the backup's pages into the live file as one
//! transaction: other connections and processes go on, and no file is ever replaced under them. The restored file goes on under a
//! new site id, with all that was handed over of it up to then left to the old one, so no version is ever issued twice. What the group has written
//! since comes with the next sync and is merged as always: a restore takes back this file, not the group.
//!
//! # Invariants
//! * Nothing is restored that does not have the hash of its manifest and pass `integrity_check`.
//! * Done, skipped (there is nothing to copy) and failed are three different results.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use isle_store::{Facts, StoreError};
use serde::{Deserialize, Serialize};

use crate::operations::note;
use crate::replica::Inner;
use crate::sync::RemoteState;
use crate::{Builder, Error, Replica};

/// Letters of an id that name a backup, at least.
pub(crate) const ID_LETTERS_MIN: usize = 4;
/// No manifest is longer.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// What the catalogue says of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Its id.
    pub id: String,
    /// The copy.
    pub path: PathBuf,
    /// Why it was made: `manual`, or before what: `schema`, `restore`, `sync`, `detach`.
    pub reason: String,
    /// What its maker said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Its size.
    pub bytes: u64,
    /// The BLAKE3 hash of the copy, in hexadecimal digits.
    pub blake3: String,
    /// The database that it is of.
    pub database: PathBuf,
    /// The app.
    pub app: String,
    /// The group.
    pub group: String,
    /// The site id that the file had.
    pub site: String,
    /// The file's last version.
    pub version: u64,
    /// Up to which version of its site others had what is in it when it was put into a remote; 0 for one that was not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub handed_over: u64,
    /// The version of the app that its schema is of, if one was declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<String>,
    /// The schema operations that no other follows.
    pub schema: Vec<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What came of making a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
pub enum BackedUp {
    /// It is there, whole and durable.
    Done(Backup),
    /// The database has no table: there is nothing to copy.
    SkippedEmpty,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// What the file has now.
    pub restored: Backup,
    /// The file as it was.
    pub kept: Option<Backup>,
    /// Where that is, if it could not be opened any more.
    pub aside: Option<PathBuf>,
    /// The site id under which it goes on.
    pub site: String,
}

/// Why a backup cannot be made or taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The folder cannot be found out.
    #[error("it cannot be said where backups of {} go: name a folder", database.display())]
    NoFolder {
        /// The database.
        database: PathBuf,
    },
    /// There is none, or several, of that name.
    #[error("there is no backup {id:?} in {}: `isle backup list` shows those there are", folder.display())]
    NoSuchBackup {
        /// What was asked for.
        id: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// Several begin with what was asked for.
    #[error("{count} backups in {} begin with {id:?}: say more of the id", folder.display())]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// Where it was looked for.
        folder: PathBuf,
        /// How many.
        count: usize,
    },
    /// There is none, or several, of that name in a remote.
    #[error(
        "{count} backups in remote {remote:?} begin with {id:?}: `isle backup list --remote {remote}` shows those there are"
    )]
    NotInRemote {
        /// What was asked for.
        id: String,
        /// The remote.
        remote: String,
        /// How many.
        count: usize,
    },
    /// The copy is not what was written.
    #[error("backup {id} is damaged ({reason}): take another one; nothing was changed")]
    Damaged {
        /// The backup.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// It is of another group.
    #[error("backup {id} is of group {found}, and this file belongs to {group}: restore it to a file of its own")]
    OtherGroup {
        /// The backup.
        id: String,
        /// The backup's group.
        found: String,
        /// The file's.
        group: String,
    },
    /// Another device has put it there.
    #[error("backup {id} stands in remote {remote:?} already: device {device} has put it there")]
    OfAnother {
        /// The backup.
        id: String,
        /// The remote.
        remote: String,
        /// The device's key, its beginning.
        device: String,
    },
    /// Parts of it went while it was put.
    #[error(
        "parts of backup {id} went from remote {remote:?} while it was put: `isle backup push {id} --remote {remote}` puts it once more"
    )]
    Incomplete {
        /// The backup.
        id: String,
        /// The remote.
        remote: String,
    },
    /// It cannot be put into a remote.
    #[error("backup {id} does not fit a remote: {source}")]
    Unfit {
        /// The backup.
        id: String,
        /// Why.
        source: isle_blobs::FormatError,
    },
    /// A sync is going on.
    #[error("this replica syncs right now: restore when that is over")]
    Syncing,
    /// A file cannot be read or written.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { what, path, source }
}

impl Replica {
    /// Where backups of this file go if nobody names a folder: `ISLE_BACKUPS`, else `backups` beside it, or beside its folder where that is called `data`.
    ///
    /// # Errors
    /// [`BackupError::NoFolder`].
    pub fn backup_folder(&self) -> Result<PathBuf, Error> {
        Ok(folder_of(&self.inner.path)?)
    }

    /// Copies the database into a folder while others use it; `reason` and `comment` go to the catalogue. Copies of what was written up to
    /// now, also of what still stands in the write-ahead log.
    ///
    /// # Errors
    /// [`Error::Backup`], [`StoreError::Backup`]; then there is no such copy.
    pub fn back_up(&self, folder: &Path, reason: &str, comment: Option<&str>) -> Result<BackedUp, Error> {
        let started_ms = self.inner.runtime.now_ms();
        let result = self.copy_into(folder, reason, comment);
        let told = match &result {
            Ok(BackedUp::SkippedEmpty) => return result,
            Ok(BackedUp::Done(backup)) => Ok(serde_json::to_string(backup).unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        };
        note(&self.inner, "backup", &folder.display().to_string(), started_ms, told);
        result
    }

    fn copy_into(&self, folder: &Path, reason: &str, comment: Option<&str>) -> Result<BackedUp, Error> {
        let status = self.inner.store.status()?;
        if status.tables.is_empty() && status.untracked.is_empty() {
            return Ok(BackedUp::SkippedEmpty);
        }
        fs::create_dir_all(folder).map_err(|source| StoreError::Backup { path: folder.to_owned(), source })?;
        let folder = crate::builder::real_path(folder);
        let created_ms = self.inner.runtime.now_ms();
        let id = uuid::Builder::from_random_bytes(self.inner.runtime.random()).into_uuid().to_string();
        let stem =
            self.inner.path.file_stem().map_or_else(|| "isle".into(), |stem| stem.to_string_lossy().into_owned());
        let path = folder.join(format!("database-{stem}-{}-{id}.db", compact_time(created_ms)));
        self.inner.store.back_up(&path)?;
        // Of the copy itself: the file may have moved on.
        let facts = self.inner.store.facts_of(&path)?;
        let (blake3, bytes) = hash(&path)?;
        let backup = Backup {
            id,
            path: path.clone(),
            reason: reason.to_owned(),
            comment: comment.map(str::to_owned),
            created_ms,
            bytes,
            blake3,
            database: self.inner.path.clone(),
            app: facts.app,
            group: facts.group.to_string(),
            site: facts.site.to_string(),
            version: facts.version,
            handed_over: 0,
            schema_version: self.schema_version()?.map(|version| version.to_string()),
            schema: self.inner.store.schema_heads()?.iter().map(ToString::to_string).collect(),
        };
        let manifest = path.with_extension("json");
        let text = serde_json::to_vec_pretty(&backup).unwrap_or_default();
        write_durably(&manifest, &text).map_err(io("cannot write", &manifest))?;
        tracing::info!(id = backup.id, file = %path.display(), reason, "backed up");
        Ok(BackedUp::Done(backup))
    }

    /// As [`Replica::back_up`] into the folder of its own; for what comes before something that cannot be taken back.
    ///
    /// # Errors
    /// Those of [`Replica::back_up`].
    pub fn back_up_before(&self, what: &str) -> Result<BackedUp, Error> {
        self.back_up(&self.backup_folder()?, what, None)
    }

    /// Makes the file what a backup has. The backup is verified first, and the file as it is becomes one more backup in `keep_in`. The file
    /// goes on under a new site id; the next sync brings what the group has written since, and what this file had handed over.
    /// Other connections and processes may stay open: they see the backup's rows from one moment to the next.
    ///
    /// # Errors
    /// [`BackupError::Damaged`], [`BackupError::OtherGroup`] and those of [`Replica::back_up`]: then nothing was changed.
    pub fn restore(&self, backup: &Backup, keep_in: &Path) -> Result<Restored, Error> {
        let started_ms = self.inner.runtime.now_ms();
        backup.verify()?;
        let _alone = self.inner.syncing.try_lock().map_err(|_| BackupError::Syncing)?;
        let key_store = self.inner.key_store()?;
        let _nobody_live = key_store.lock_live(&self.inner.path, &[])?.ok_or(Error::AlreadyLive)?;
        let status = self.inner.store.status()?;
        let _no_sync = key_store.lock(status.site)?;
        // The copy's own word: anybody may have written the manifest.
        let facts = self.inner.store.facts_of(&backup.path)?;
        backup.must_be_of(&facts, &status.group.to_string())?;
        let handed_over = self.inner.handed_over(&facts, backup, true)?;
        let mut kept: Option<Backup> = None;
        let keep = || -> Result<(), Error> {
            // Somebody has written since.
            if let Some(before) = kept.take() {
                before.remove()?;
            }
            if let BackedUp::Done(backup) = self.copy_into(keep_in, "restore", None)? {
                kept = Some(backup);
            }
            Ok(())
        };
        let prepare = |copy: &isle_store::Store| {
            RemoteState::forget_in(copy)?;
            self.inner.new_site_of(copy, handed_over, self.inner.vouches(&facts, copy)?)
        };
        let site = self.inner.store.restore(&backup.path, prepare, keep)?;
        self.inner.record_outside(site, 0)?;
        note(&self.inner, "restore", &backup.id, started_ms, Ok(serde_json::to_string(backup).unwrap_or_default()));
        tracing::warn!(id = backup.id, %site, "restored a backup; the file goes on under a new site id");
        Ok(Restored { restored: backup.clone(), kept, aside: None, site: site.to_string() })
    }
}

impl Inner {
    /// Up to which of a backup's own versions others may have them, as they stand in it. What they have must not be sent again under
    /// another id: a counter would count it twice.
    fn handed_over(&self, facts: &Facts, backup: &Backup, live: bool) -> Result<u64, Error> {
        // Where the file as it is knows that version, it knows whether it is the same.
        let known = if live { self.store.chain_at(facts.site, facts.version)? } else { None };
        if known.is_some_and(|chain| chain != facts.chain) {
            return Ok(facts.published);
        }
        let recorded = self.key_store()?.site(facts.site)?.map_or(0, |record| record.published).max(backup.handed_over);
        let status = self.store.status()?;
        let other = live && known.is_some() && status.site != facts.site;
        Ok(if other { facts.version } else { facts.version.min(recorded.max(facts.published)) })
    }
}

impl Inner {
    /// Whether this device knows that a copy has the versions of its site as they were written: then they can be signed once more.
    fn vouches(&self, facts: &Facts, copy: &isle_store::Store) -> Result<bool, Error> {
        if self.store.chain_at(facts.site, facts.version)? == Some(facts.chain) {
            return Ok(true);
        }
        match self.key_store()?.site(facts.site)?.filter(|record| (1..=facts.version).contains(&record.published)) {
            Some(record) => Ok(record.is_of(copy.own_chain(record.published)?)),
            None => Ok(false),
        }
    }
}

impl Builder {
    /// As [`Replica::restore`], also where the database is gone or cannot be opened any more: what stands there then steps aside, with what
    /// belongs to it.
    ///
    /// # Errors
    /// Those of [`Replica::restore`].
    pub fn restore(self, backup: &Backup, keep_in: &Path) -> Result<Restored, Error> {
        let database = self.path();
        let damaged = match self.clone().open() {
            Ok(replica) => match replica.restore(backup, keep_in) {
                // Found while it was copied.
                Err(Error::Store(StoreError::Damaged { .. })) => true,
                Err(Error::Store(StoreError::Backup { source, .. })) if source.kind() == ErrorKind::InvalidData => true,
                other => return other,
            },
            Err(Error::Store(StoreError::Damaged { .. } | StoreError::NotReplica { .. })) => true,
            Err(Error::Store(StoreError::CannotOpen { .. })) if !database.exists() => false,
            Err(error) => return Err(error),
        };
        backup.verify()?;
        // Also where the file is gone: a write-ahead log that stays would be replayed into the restored one.
        let aside = step_aside(database)?.filter(|_| damaged);
        put_copy(&backup.path, database)?;
        let replica = self.clone().open()?;
        let facts = replica.inner.store.facts_of(&backup.path)?;
        let site = replica.inner.new_site(replica.inner.handed_over(&facts, backup, false)?)?;
        let facts = serde_json::to_string(backup).unwrap_or_default();
        note(&replica.inner, "restore", &backup.id, replica.inner.runtime.now_ms(), Ok(facts));
        Ok(Restored { restored: backup.clone(), kept: None, aside, site: site.to_string() })
    }
}

impl Backup {
    /// The backups in a folder, newest first; of databases of this one's name, if one is named: folders move. One whose manifest cannot be
    /// read is passed over.
    ///
    /// # Errors
    /// [`BackupError::Io`]. A folder that is not there has none.
    pub fn list(folder: &Path, database: Option<&Path>) -> Result<Vec<Backup>, Error> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io("cannot list", folder))?,
        };
        let of = |path: &Path| path.file_name().map(std::ffi::OsStr::to_owned);
        let wanted = database.and_then(of);
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(io("cannot list", folder))?.path();
            let Some(mut backup) = manifest(&path) else { continue };
            // Folders move.
            backup.path = path.with_extension("db");
            if database.is_none() || of(&backup.database) == wanted {
                found.push(backup);
            }
        }
        found.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        Ok(found)
    }

    /// The backup of a folder whose id begins so, with four letters at least, or whose file has this name.
    ///
    /// # Errors
    /// [`BackupError::NoSuchBackup`], [`BackupError::Ambiguous`], [`BackupError::Io`].
    pub fn find(folder: &Path, id: &str) -> Result<Backup, Error> {
        let named = |backup: &Backup| backup.path.file_name().is_some_and(|name| *name == *id);
        let mut all = Backup::list(folder, None)?;
        all.retain(|backup| (id.len() >= ID_LETTERS_MIN && backup.id.starts_with(id)) || named(backup));
        let (id, folder) = (id.to_owned(), folder.to_owned());
        match all.len() {
            0 => Err(BackupError::NoSuchBackup { id, folder }.into()),
            1 => Ok(all.remove(0)),
            count => Err(BackupError::Ambiguous { id, folder, count }.into()),
        }
    }

    /// Whether the copy is of a group, and what its manifest says.
    pub(crate) fn must_be_of(&self, facts: &Facts, group: &str) -> Result<(), Error> {
        let found = facts.group.to_string();
        if found != group {
            return Err(BackupError::OtherGroup { id: self.id.clone(), found, group: group.to_owned() }.into());
        }
        if (&found, facts.site.to_string(), facts.version) != (&self.group, self.site.clone(), self.version) {
            let reason = "its manifest is of another one".to_owned();
            return Err(BackupError::Damaged { id: self.id.clone(), reason }.into());
        }
        Ok(())
    }

    /// Whether the copy is there with the size that it had; [`Backup::verify`] reads it.
    pub fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|file| file.len() == self.bytes)
    }

    /// Reads the whole copy: its hash, and SQLite's `integrity_check`.
    ///
    /// # Errors
    /// [`BackupError::Damaged`].
    pub fn verify(&self) -> Result<(), Error> {
        let damaged = |reason: String| BackupError::Damaged { id: self.id.clone(), reason };
        let (found, bytes) = hash(&self.path).map_err(|error| damaged(error.to_string()))?;
        if found != self.blake3 || bytes != self.bytes {
            return Err(damaged("it is not what was written".to_owned()).into());
        }
        match isle_store::verify_copy(&self.path) {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(damaged(reason).into()),
            Err(error) => Err(damaged(error.to_string()).into()),
        }
    }

    /// Removes the copy and its manifest.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    pub fn remove(&self) -> Result<(), Error> {
        // Without its manifest the copy is not listed any more, so that goes last.
        for path in [self.path.clone(), self.path.with_extension("json")] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(io("cannot remove", &path)(error).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Those of a list that need not be kept: all but the newest `keep` that are sound, as far as they are older than a time in milliseconds
    /// since 1970. Reads those that it keeps.
    pub fn expired(mut backups: Vec<Backup>, keep: usize, older_than_ms: Option<u64>) -> Vec<Backup> {
        backups.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        let old = |backup: &Backup| older_than_ms.is_none_or(|limit| backup.created_ms < limit);
        let mut kept = 0;
        // One that is damaged does not count as kept; nor does it go before somebody has looked at it, unless it is old.
        let mut goes = |backup: &Backup| {
            if kept < keep {
                kept += usize::from(backup.verify().is_ok());
                return false;
            }
            old(backup)
        };
        backups.retain(|backup| goes(backup));
        backups
    }
}

/// Copies a backup to where a database is to be; durable before it has that name.
fn put_copy(backup: &Path, database: &Path) -> Result<(), BackupError> {
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let copied = || -> std::io::Result<()> {
        let mut partial = tempfile::Builder::new().prefix(".isle-restore-").tempfile_in(folder)?;
        std::io::copy(&mut fs::File::open(backup)?, &mut partial)?;
        partial.as_file().sync_all()?;
        partial.persist_noclobber(database).map_err(|failed| failed.error)?;
        fs::File::open(folder)?.sync_all()
    };
    copied().map_err(io("cannot write", database))
}

/// Moves a file that cannot be opened, and what SQLite keeps beside it, out of the way; gives where it is, if anything was there.
fn step_aside(database: &Path) -> Result<Option<PathBuf>, BackupError> {
    let named = |suffix: &str| {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let free = |n: &u32| !named(&format!(".damaged-{n}")).exists();
    let aside = (1..u32::MAX).find(free).map_or_else(|| ".damaged".to_owned(), |n| format!(".damaged-{n}"));
    let mut moved = false;
    for beside in ["-wal", "-shm", "-journal", ""] {
        let (from, to) = (named(beside), named(&format!("{aside}{beside}")));
        match fs::rename(&from, &to) {
            Ok(()) => moved = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io("cannot move away", &from)(error)),
        }
    }
    Ok(moved.then(|| named(&aside)))
}

/// Where backups of a database go if nobody names a folder: `ISLE_BACKUPS`, else `backups` beside it, or beside its folder where that is called `data`.
///
/// # Errors
/// [`BackupError::NoFolder`].
pub fn backup_folder(database: &Path) -> Result<PathBuf, Error> {
    Ok(folder_of(&real_path_of_lost(database))?)
}

/// The path without links, also of a file that is gone.
fn real_path_of_lost(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (path.canonicalize(), folder.canonicalize(), path.file_name()) {
        (Ok(path), ..) => path,
        (_, Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Reads a manifest. Nothing else than what isle itself has named so is one: what is listed may be removed.
fn manifest(path: &Path) -> Option<Backup> {
    let name = path.file_name()?.to_str()?;
    let id = name.strip_prefix("database-")?.strip_suffix(".json")?;
    let id = id.get(id.len().checked_sub(36)?..)?;
    let file = fs::metadata(path).ok()?;
    if !file.is_file() || file.len() > MANIFEST_BYTES_MAX {
        return None;
    }
    let backup: Option<Backup> = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let backup = backup.filter(|backup| backup.id == id && uuid::Uuid::parse_str(id).is_ok());
    if backup.is_none() {
        tracing::warn!(file = %path.display(), "it is no manifest of a backup");
    }
    backup
}

/// The folder for backups of a database.
fn folder_of(database: &Path) -> Result<PathBuf, BackupError> {
    if let Some(folder) = std::env::var_os("ISLE_BACKUPS").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let no_folder = || BackupError::NoFolder { database: database.to_owned() };
    let folder = database.parent().filter(|folder| folder.is_dir()).ok_or_else(no_folder)?;
    let is_data = folder.file_name().is_some_and(|name| name == "data");
    let beside = if is_data { folder.parent().ok_or_else(no_folder)? } else { folder };
    Ok(beside.join("backups"))
}

/// `20261129T104228123Z`.
pub(crate) fn compact_time(ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX));
    time.map_or_else(|_| ms.to_string(), |time| time.strftime("%Y%m%dT%H%M%S%3fZ").to_string())
}

/// The hash and the size of a file.
fn hash(path: &Path) -> Result<(String, u64), BackupError> {
    let mut file = fs::File::open(path).map_err(io("cannot read", path))?;
    let (mut hasher, mut buffer, mut bytes) = (blake3::Hasher::new(), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer).map_err(io("cannot read", path))? {
            0 => return Ok((hasher.finalize().to_hex().to_string(), bytes)),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// Writes a small file under a passing name first, so that it is there whole or not at all.
pub(crate) fn write_durably(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::File::create(&partial)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_go_beside_the_file_or_beside_a_folder_of_data() {
        let place = tempfile::tempdir().expect("a folder");
        let data = place.path().join("data");
        fs::create_dir(&data).expect("a folder");
        assert_eq!(folder_of(&data.join("a.db")).expect("known"), place.path().join("backups"));
        assert_eq!(folder_of(&place.path().join("a.db")).expect("known"), place.path().join("backups"));
        assert_eq!(
            backup_folder(&data.join("gone.db")).expect("known"),
            place.path().canonicalize().expect("there").join("backups")
        );
        for unknown in [":memory:", ""] {
            assert!(matches!(folder_of(Path::new(unknown)), Err(BackupError::NoFolder { .. })), "{unknown:?}");
        }
        assert!(folder_of(&place.path().join("gone/a.db")).is_err());
    }
}
