//! The ledger of imports, and documents that were put aside.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use isle_interchange::{Mapping, Source};
use serde::{Deserialize, Serialize};

use super::{Imported, InterchangeError};
use crate::{Error, Replica};

/// Archives of one document that are told apart by a number.
const ARCHIVES_MAX: u32 = 10_000;

/// What the ledger says of a document that was imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) file: String,
    pub(super) table: String,
    pub(super) at_ms: u64,
    pub(super) rows: u64,
    pub(super) archive: Option<PathBuf>,
    pub(super) archived_ms: Option<u64>,
    /// The hash of the document that was put aside, in hexadecimal digits.
    pub(super) blake3: Option<String>,
}

/// A document that was put aside once its rows were there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Archive {
    /// What it is called now.
    pub path: PathBuf,
    /// What it was called.
    pub file: String,
    /// When it was put aside, in milliseconds since 1970.
    pub archived_ms: u64,
    /// Its size in bytes; `None` if it is gone.
    pub bytes: Option<u64>,
    /// The BLAKE3 hash that it had, in hexadecimal digits.
    pub blake3: Option<String>,
}

impl Archive {
    /// Whether the file of that name is still what was put aside.
    fn is_untouched(&self) -> bool {
        let hash = std::fs::read(&self.path).map(|bytes| blake3::hash(&bytes).to_hex().to_string());
        hash.is_ok_and(|hash| Some(hash) == self.blake3)
    }
}

impl Record {
    /// By what the ledger knows a document of a mapping.
    pub(super) fn id(mapping: &Mapping, source: &Source, hash: &[u8; 32]) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("isle 2026 import of a document");
        hasher.update(&mapping.hash);
        hasher.update(&(source.file.len() as u64).to_be_bytes());
        hasher.update(source.file.as_bytes());
        hasher.update(source.table.as_bytes());
        hasher.update(hash);
        hasher.finalize().to_hex()[..32].to_owned()
    }

    pub(super) fn of(report: &Imported, at_ms: u64) -> Record {
        let (file, table) = (report.file.clone(), report.table.clone());
        Record { file, table, at_ms, rows: report.rows, archive: None, archived_ms: None, blake3: None }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Replica {
    pub(super) fn ledger(&self) -> Result<BTreeMap<String, Record>, Error> {
        let entries = self.inner.store.imports()?;
        let read = |(id, record): (String, String)| Some((id, serde_json::from_str(&record).ok()?));
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// Puts a document aside that was imported, unless it was `moved` already; gives its new name.
    pub(super) fn archive(
        &self,
        id: &str,
        path: &Path,
        hash: &[u8; 32],
        moved: Option<&PathBuf>,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(mut record) = self.ledger()?.remove(id) else { return Ok(None) };
        let archive = match moved {
            Some(moved) => moved.clone(),
            None => match std::fs::read(path) {
                // Somebody wrote it anew meanwhile: that was not imported.
                Ok(bytes) if blake3::hash(&bytes).as_bytes() != hash => return Ok(None),
                Ok(_) => {
                    let archive = put_aside(path)?;
                    // Somebody may have written it anew between the two: that one goes back to its place.
                    let is_it = std::fs::read(&archive).is_ok_and(|bytes| blake3::hash(&bytes).as_bytes() == hash);
                    if !is_it {
                        rename_new(&archive, path).map_err(|error| InterchangeError::file("put back", path, error))?;
                        return Ok(None);
                    }
                    archive
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(InterchangeError::file("read", path, error)),
            },
        };
        record.archive = Some(archive.clone());
        record.archived_ms = Some(self.inner.runtime.now_ms());
        record.blake3 = Some(blake3::Hash::from_bytes(*hash).to_hex().to_string());
        self.inner.store.note_import(id, &record.to_json())?;
        Ok(Some(archive))
    }

    /// Documents that imports of this file have put aside.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn import_archives(&self) -> Result<Vec<Archive>, Error> {
        let mut archives: Vec<Archive> = Vec::new();
        for record in self.ledger()?.into_values() {
            let (Some(path), Some(archived_ms)) = (record.archive, record.archived_ms) else { continue };
            let bytes = std::fs::metadata(&path).ok().map(|metadata| metadata.len());
            let archive = Archive { path, file: record.file, archived_ms, bytes, blake3: record.blake3 };
            // A name that was free again has been taken again: the last one counts.
            match archives.iter_mut().find(|known| known.path == archive.path) {
                Some(known) if known.archived_ms < archive.archived_ms => *known = archive,
                Some(_) => {}
                None => archives.push(archive),
            }
        }
        archives.sort_by_key(|archive| archive.archived_ms);
        Ok(archives)
    }

    /// Removes documents that were put aside before a time, in milliseconds since 1970; gives those that were there. What is not what was put aside stays.
    ///
    /// # Errors
    /// One that cannot be removed; those before it are.
    pub fn prune_import_archives(&self, before_ms: u64, dry_run: bool) -> Result<Vec<Archive>, Error> {
        let mut old = self.import_archives()?;
        old.retain(|archive| archive.archived_ms < before_ms && archive.is_untouched());
        if !dry_run {
            for archive in &old {
                std::fs::remove_file(&archive.path)
                    .map_err(|error| InterchangeError::file("remove", &archive.path, error))?;
            }
        }
        Ok(old)
    }
}

/// Renames a document to `….bak`, or `….2.bak` and so on where that is taken; never over another file.
fn put_aside(path: &Path) -> Result<PathBuf, Error> {
    under_free_name(path, "put aside", |name| rename_new(path, name))
}

/// Keeps what a document holds as `….bak` as well, and leaves the document where it is.
pub(super) fn keep_copy(path: &Path) -> Result<PathBuf, Error> {
    under_free_name(path, "keep", |name| match std::fs::hard_link(path, name) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            // A file system without second names, as FAT is.
            let mut copy = std::fs::OpenOptions::new().write(true).create_new(true).open(name)?;
            std::io::copy(&mut std::fs::File::open(path)?, &mut copy)?;
            copy.sync_all()
        }
        done => done,
    })
}

fn under_free_name(
    path: &Path,
    doing: &'static str,
    name_it: impl Fn(&Path) -> std::io::Result<()>,
) -> Result<PathBuf, Error> {
    let failed = |error| InterchangeError::file(doing, path, error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    for n in 1..=ARCHIVES_MAX {
        let mut name = absolute.clone().into_os_string();
        name.push(if n == 1 { ".bak".to_owned() } else { format!(".{n}.bak") });
        let name = PathBuf::from(name);
        match name_it(&name) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(std::io::Error::other("too many archives of it are there")))
}

/// Renames a file unless another one has the name.
fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {}
            done => return Ok(done?),
        }
    }
    // Where the system cannot do both at once, somebody may come between.
    if to.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(from, to)
}
