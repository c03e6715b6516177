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
        Record { file, table, at_ms, rows: report.rows, archive: None, archived_ms: None }
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
                Ok(_) => put_aside(path)?,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(InterchangeError::file("read", path, error)),
            },
        };
        record.archive = Some(archive.clone());
        record.archived_ms = Some(self.inner.runtime.now_ms());
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
            if archives.iter().all(|known| known.path != path) {
                let bytes = std::fs::metadata(&path).ok().map(|metadata| metadata.len());
                archives.push(Archive { path, file: record.file, archived_ms, bytes });
            }
        }
        archives.sort_by_key(|archive| archive.archived_ms);
        Ok(archives)
    }

    /// Removes documents that were put aside before a time, in milliseconds since 1970; gives those that were there.
    ///
    /// # Errors
    /// One that cannot be removed; those before it are.
    pub fn prune_import_archives(&self, before_ms: u64, dry_run: bool) -> Result<Vec<Archive>, Error> {
        let mut old = self.import_archives()?;
        old.retain(|archive| archive.archived_ms < before_ms && archive.bytes.is_some());
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
pub(super) fn put_aside(path: &Path) -> Result<PathBuf, Error> {
    let failed = |error| InterchangeError::file("put aside", path, error);
    let absolute = std::path::absolute(path).map_err(failed)?;
    for n in 1..=ARCHIVES_MAX {
        let mut name = absolute.clone().into_os_string();
        name.push(if n == 1 { ".bak".to_owned() } else { format!(".{n}.bak") });
        let name = PathBuf::from(name);
        // A second name for the file, which fails where there is one; then the first name goes.
        match std::fs::hard_link(path, &name) {
            Ok(()) => {
                std::fs::remove_file(path).map_err(failed)?;
                return Ok(name);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // A file system without second names, as FAT is.
            Err(error) if error.kind() == ErrorKind::Unsupported || error.kind() == ErrorKind::PermissionDenied => {
                if !name.exists() {
                    std::fs::rename(path, &name).map_err(failed)?;
                    return Ok(name);
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Err(failed(std::io::Error::other("too many archives of it are there")))
}
