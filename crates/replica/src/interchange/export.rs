//! Rows into documents.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use isle_interchange::{Format, Mapping, Node, document, merge, print};
use serde::Serialize;

use super::archive::keep_copy;
use super::table::Fitted;
use super::{InterchangeError, path_of};
use crate::{Error, Replica};

/// How documents are exported.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ExportOptions {
    /// A document that would be written over is kept as `….bak`.
    pub keep: bool,
}

impl ExportOptions {
    /// Sets [`ExportOptions::keep`].
    #[must_use]
    pub fn keep(mut self, keep: bool) -> ExportOptions {
        self.keep = keep;
        self
    }
}

/// A document that was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Where it is.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Whether it was written: what it is already is not.
    pub written: bool,
    /// What the one before it is called now, if that was asked for.
    pub kept: Option<PathBuf>,
}

impl Replica {
    /// Writes the documents of a mapping into a folder, or into the file itself if the mapping names one alone. All are of one state of the file.
    ///
    /// # Errors
    /// [`InterchangeError`] with the row that no document of this mapping can have; then nothing was written.
    pub fn export(&self, mapping: &Mapping, to: &Path, options: &ExportOptions) -> Result<Vec<Exported>, Error> {
        let mut documents: Vec<(PathBuf, u64, Node, Format)> = Vec::new();
        self.inner.store.snapshot(|conn| {
            for source in &mapping.sources {
                let path = path_of(mapping, source, to);
                let fitted = Fitted::of(conn, source)?;
                let mut rows = Vec::new();
                fitted.for_each(conn, |row| {
                    rows.push(row);
                    Ok(())
                })?;
                let fault = |(n, written): (usize, isle_interchange::Written)| InterchangeError::Value {
                    table: source.table.clone(),
                    column: written.column,
                    key: fitted.shown_key_of(&rows[n]),
                    reason: written.reason,
                };
                let node = document(source, &rows, &fitted.defaulted()).map_err(fault)?;
                match documents.iter_mut().find(|(known, ..)| *known == path) {
                    Some((_, count, known, _)) => {
                        *count += rows.len() as u64;
                        merge(known, node);
                    }
                    None => documents.push((path, rows.len() as u64, node, source.format())),
                }
            }
            Ok::<_, Error>(())
        })?;
        let mut texts = Vec::new();
        for (path, rows, node, format) in documents {
            let failed = |reason| InterchangeError::file("write", &path, std::io::Error::other(reason));
            texts.push((path.clone(), rows, print(format, &node).map_err(failed)?));
        }
        texts.into_iter().map(|(path, rows, text)| write(path, rows, &text, options)).collect()
    }
}

/// Writes a document, unless it is what it should be.
pub(super) fn write(path: PathBuf, rows: u64, text: &str, options: &ExportOptions) -> Result<Exported, Error> {
    let bytes = text.len() as u64;
    // What a link leads to is written, not the link.
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    let failed = |error| InterchangeError::file("write", &path, error);
    let before = match std::fs::read(&path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if before.as_deref() == Some(text.as_bytes()) {
        return Ok(Exported { path, rows, bytes, written: false, kept: None });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new().prefix(".isle-export-").tempfile_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    // A document is read by other programs, and maybe by other users: as files that a program makes are.
    let permissions = std::fs::metadata(&path).map(|metadata| metadata.permissions()).ok();
    if let Some(permissions) = permissions.or_else(readable) {
        file.as_file().set_permissions(permissions).map_err(failed)?;
    }
    // The old one has both names until the new one is there: at no moment there is none.
    let kept = if options.keep && before.is_some() { Some(keep_copy(&path)?) } else { None };
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(Exported { path, rows, bytes, written: true, kept })
}

#[cfg(unix)]
fn readable() -> Option<std::fs::Permissions> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable() -> Option<std::fs::Permissions> {
    None
}

/// Tells when there may be something new to export: after each write, whoever made it.
#[derive(Debug)]
pub struct ExportFollower {
    conn: rusqlite::Connection,
    version: Option<i64>,
}

impl ExportFollower {
    /// Follows a replica's file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn new(replica: &Replica) -> Result<ExportFollower, Error> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = rusqlite::Connection::open_with_flags(replica.path(), flags);
        let conn = conn.map_err(|error| isle_store::StoreError::of_statement("follow the file", error))?;
        Ok(ExportFollower { conn, version: None })
    }

    /// Whether anything was committed since this was last asked; true at first. Costs a few microseconds.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn has_news(&mut self) -> Result<bool, Error> {
        let version = self.conn.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0));
        let version = version.map_err(|error| isle_store::StoreError::of_statement("follow the file", error))?;
        Ok(self.version.replace(version) != Some(version))
    }
}
