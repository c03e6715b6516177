//! The trash: files that are out of the library and can be taken back.
//!
//! The row comes before the move, so that nothing lies in a trash of which nobody knows; one whose file is still at its old place does no harm.

use std::path::PathBuf;

use isle_files::{Folder, FolderError};
use serde::{Deserialize, Serialize};

use super::index::{self, Entry};
use super::roots::Root;
use super::take_up::Book;
use super::{FileInfo, Library, LibraryError};
use crate::{Error, params};

/// Names that are tried beside what stands at the place of a file.
const BESIDE_MAX: usize = 1_000;

/// A file that is in a trash of this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trashed {
    /// The file's id.
    pub id: String,
    /// Its path in the library, if it still has a row there.
    pub path: String,
    /// Where it stood on this device.
    pub original_path: PathBuf,
    /// Where it is now.
    pub trash_path: PathBuf,
    /// Why: `trashed`, or `replaced` by a newer version.
    pub why: String,
    /// When it was put there, in milliseconds since 1970.
    pub since_ms: u64,
}

/// A row of the trash.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TrashRow {
    pub(super) file: String,
    pub(super) root: i64,
    pub(super) name: String,
    pub(super) path: String,
    pub(super) since_ms: i64,
    why: String,
    logical: Option<String>,
}

impl Library {
    /// Where a file is on this device, with its roots open; places in roots that are away are left out.
    pub(super) fn places_of(&self, id: &str) -> Result<Vec<(Root, Folder, Entry)>, Error> {
        let places = self.inner().store.read(|conn| index::places(conn, id))?;
        let roots = self.roots()?;
        let mut found = Vec::new();
        for (root, entry) in places {
            let Some(root) = roots.iter().find(|known| known.id == root) else { continue };
            match root.open() {
                Ok(folder) => found.push((root.clone(), folder, entry)),
                Err(error) => tracing::warn!(%error, path = entry.path, "a copy is left where it is"),
            }
        }
        Ok(found)
    }

    /// Takes a file out of the library, on every device. Its copies here go into the trash of their roots.
    ///
    /// # Errors
    /// [`LibraryError::RootAway`] if that is where its copies are; why a copy cannot be moved. The file stays in the library then.
    pub fn trash(&self, file: &FileInfo) -> Result<(), Error> {
        let _alone = self.lock_scans()?;
        let places = self.inner().store.read(|conn| index::places(conn, &file.id))?;
        let roots = self.roots()?;
        for root in places.iter().filter_map(|(root, _)| roots.iter().find(|known| known.id == *root)) {
            root.open()?;
        }
        for (root, folder, entry) in self.places_of(&file.id)? {
            self.put_aside(&root, &folder, &entry, "trashed")?;
        }
        let now = self.now();
        let sql = "UPDATE library_files SET trashed_ms = ?2 WHERE id = ?1 AND trashed_ms IS NULL";
        self.replica.write(|tx| tx.execute(sql, params![&file.id, now]))?;
        Ok(())
    }

    /// Moves a copy into the trash of its root; gives its name there, if there was one.
    pub(super) fn put_aside(
        &self,
        root: &Root,
        folder: &Folder,
        entry: &Entry,
        why: &str,
    ) -> Result<Option<String>, Error> {
        let Some(file) = &entry.file else { return Ok(None) };
        let (name, now, device) = (folder.free_in_trash(&entry.path, file), self.now(), self.device()?);
        self.replica.write(|tx| {
            let sql = "INSERT INTO library_trash(file, root, name, path, since_ms, why) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT(file, root, name) DO UPDATE SET path = excluded.path, since_ms = excluded.since_ms, why = excluded.why";
            tx.execute(sql, params![file, root.id, &name, &entry.path, now, why])
        })?;
        let moved = folder.put_out(&entry.path, file, &name);
        let book = Book { root, folder, device: &device, op: 0, now_ms: now };
        match moved {
            Ok(()) => {
                self.replica.write(|tx| book.forget(tx, entry))?;
                Ok(Some(name))
            }
            Err(error) => {
                self.forget_trashed(file, root.id, &name)?;
                if !error.is_missing() {
                    return Err(LibraryError::from(error).into());
                }
                self.replica.write(|tx| book.lose(tx, entry))?;
                Ok(None)
            }
        }
    }

    pub(super) fn forget_trashed(&self, file: &str, root: i64, name: &str) -> Result<(), Error> {
        let sql = "DELETE FROM library_trash WHERE file = ?1 AND root = ?2 AND name = ?3";
        self.replica.write(|tx| tx.execute(sql, params![file, root, name]))?;
        Ok(())
    }

    pub(super) fn trash_rows(&self) -> Result<Vec<TrashRow>, Error> {
        let sql = "SELECT t.file, t.root, t.name, t.path, t.since_ms, t.why, f.path AS logical FROM library_trash AS t
            LEFT JOIN library_sound AS f ON f.id = t.file ORDER BY t.since_ms DESC, t.path";
        self.replica.read(|q| q.all(sql, &[]))
    }

    /// What lies in the trash of this device, the newest first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn trash_list(&self) -> Result<Vec<Trashed>, Error> {
        let roots = self.roots()?;
        let list = |row: TrashRow| {
            let root = roots.iter().find(|root| root.id == row.root)?;
            let TrashRow { file: id, name, path, since_ms, why, logical, .. } = row;
            let trash_path = root.folder.join(isle_files::PRIVATE_FOLDER).join("trash").join(&id).join(&name);
            let original_path = root.folder.join(&path);
            let path = logical.unwrap_or_else(|| format!("{}/{path}", root.name));
            Some(Trashed { id, path, original_path, trash_path, why, since_ms: since_ms.unsigned_abs() })
        };
        Ok(self.trash_rows()?.into_iter().filter_map(list).collect())
    }

    /// Takes a file back into the library, and its copies here to where they were, or beside what stands there now. Gives the place of one if there is one
    /// here. `id` is that of a row, or of something in the trash whose row is gone: that is taken up anew by the next scan.
    ///
    /// # Errors
    /// [`LibraryError::NotInTrash`], [`LibraryError::RootAway`], or why it cannot be moved.
    pub fn restore(&self, id: &str) -> Result<Option<PathBuf>, Error> {
        self.must_exist()?;
        let _alone = self.lock_scans()?;
        let rows: Vec<TrashRow> = self.trash_rows()?.into_iter().filter(|row| row.file == id).collect();
        let trashed = "SELECT trashed_ms IS NOT NULL FROM library_sound WHERE id = ?1";
        let in_library: Option<bool> = self.replica.read(|q| q.one::<i64>(trashed, params![id]))?.map(|yes| yes == 1);
        if rows.is_empty() && in_library != Some(true) {
            return Err(LibraryError::NotInTrash { path: id.to_owned() }.into());
        }
        let roots = self.roots()?;
        let root_of = |row: &TrashRow| roots.iter().find(|root| root.id == row.root);
        for root in rows.iter().filter_map(root_of) {
            root.open()?;
        }
        // Wanted again first: what is placed then is no copy of something in the trash.
        self.replica.write(|tx| tx.execute("UPDATE library_files SET trashed_ms = NULL WHERE id = ?1", params![id]))?;
        let (mut placed, mut failed) = (None, None);
        for row in &rows {
            let Some(root) = root_of(row) else { continue };
            match self.bring_back(root, row, in_library.is_some()) {
                Ok(place) => placed = place.or(placed),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        failed.map_or(Ok(placed), Err)
    }

    fn bring_back(&self, root: &Root, row: &TrashRow, has_row: bool) -> Result<Option<PathBuf>, Error> {
        let folder = root.open()?;
        let (mut at, mut tried) = (row.path.clone(), 0);
        let moved = loop {
            match folder.take_back(&row.file, &row.name, &at) {
                Err(FolderError::Exists { .. }) if tried < BESIDE_MAX => {
                    tried += 1;
                    let (path, name) =
                        row.path.rsplit_once('/').map_or(("", row.path.as_str()), |(path, name)| (path, name));
                    let slash = if path.is_empty() { "" } else { "/" };
                    let numbered = if tried == 1 { row.path.clone() } else { format!("{path}{slash}{tried} {name}") };
                    at = isle_files::conflict_name(&numbered, &row.file);
                }
                moved => break moved,
            }
        };
        match moved {
            Ok(()) => {}
            // It never came there: the program ended before it moved it.
            Err(error) if error.is_missing() => {
                self.forget_trashed(&row.file, row.root, &row.name)?;
                return Ok(None);
            }
            Err(error) => return Err(LibraryError::from(error).into()),
        }
        let mut stat = folder.stat(&at).map_err(LibraryError::from)?.unwrap_or_default();
        // It may have been edited before it was put out: the next scan reads it.
        stat.modified_ns = -1;
        let device = self.device()?;
        let book = Book { root, folder: &folder, device: &device, op: 0, now_ms: self.now() };
        if has_row {
            self.replica.write(|tx| book.put_found(tx, &row.file, &at, stat))?;
        }
        self.forget_trashed(&row.file, row.root, &row.name)?;
        Ok(Some(root.folder.join(&at)))
    }
}
