//! Copies of the file, made while others write.
//!
//! By SQLite's backup interface, which reads the write-ahead log too and keeps implicit rowids, as VACUUM INTO does not promise. A copy
//! has its name only once it is whole, checked and on the disk. Whoever opens one is another device: it takes a site id of its own.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::error::Doing as _;
use crate::{Store, StoreError};

impl Store {
    /// Copies the database to a new file, checked and durable.
    ///
    /// # Errors
    /// [`StoreError::Backup`]; then there is no such file.
    pub fn back_up(&self, target: &Path) -> Result<(), StoreError> {
        let mut partial = target.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let result = self.copy_to(&partial, target);
        if result.is_err()
            && partial.exists()
            && let Err(error) = std::fs::remove_file(&partial)
        {
            tracing::warn!(%error, file = %partial.display(), "a part of a backup stays");
        }
        result
    }

    fn copy_to(&self, partial: &Path, target: &Path) -> Result<(), StoreError> {
        let failed = |source| StoreError::Backup { path: target.to_owned(), source };
        if target.exists() {
            return Err(failed(std::io::Error::from(std::io::ErrorKind::AlreadyExists)));
        }
        File::create(partial).map_err(failed)?;
        self.read(|conn| {
            conn.backup("main", partial, None::<fn(rusqlite::backup::Progress)>).doing("back up the database")
        })?;
        let copy = Connection::open_with_flags(partial, OpenFlags::SQLITE_OPEN_READ_WRITE).doing("check the backup")?;
        let found: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).doing("check the backup")?;
        if found != "ok" {
            return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, found)));
        }
        // A copy of a file in WAL mode is in WAL mode too: nothing may be left beside it.
        copy.close().map_err(|(_, error)| error).doing("check the backup")?;
        File::open(partial).and_then(|file| file.sync_all()).map_err(failed)?;
        std::fs::rename(partial, target).map_err(failed)?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}
