//! Copies of the file, made while others write.
//!
//! By SQLite's backup interface, which reads the write-ahead log too and keeps implicit rowids, as VACUUM INTO does not promise. A copy
//! has its name only once it is whole, checked and on the disk. Whoever opens one is another device: it takes a site id of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use isle_changeset::Hash;
use isle_clock::{GroupId, SiteId};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::error::Doing as _;
use crate::own::Own;
use crate::store::TemporaryFolder;
use crate::{Options, Store, StoreError, identity, layout};

/// How long to wait before a page is tried again that another connection holds.
const AGAIN: Duration = Duration::from_millis(5);

/// Whose copy a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The app.
    pub app: String,
    /// The group.
    pub group: GroupId,
    /// The site.
    pub site: SiteId,
    /// Its last version.
    pub version: u64,
    /// The hash of that version's header.
    pub chain: Hash,
    /// Its last version that was handed to somebody.
    pub published: u64,
}

/// Looks through every page of a copy; gives what is wrong with it.
///
/// # Errors
/// SQLite's reason, where the file cannot even be read.
pub fn verify_copy(path: &Path) -> Result<Option<String>, StoreError> {
    let copy = open_copy(path)?;
    let found: String = copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).doing("check the backup")?;
    if found != "ok" {
        return Ok(Some(found));
    }
    Ok(layout::format(&copy)?.is_none().then(|| "it is no replica".to_owned()))
}

/// Opens a file that nobody writes, and leaves nothing beside it.
fn open_copy(path: &Path) -> Result<Connection, StoreError> {
    let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let doing = format!("open {}", path.display());
    Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)
        .map_err(|source| StoreError::sqlite(doing, source))
}

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

    /// Whose copy a file is.
    ///
    /// # Errors
    /// [`StoreError::NotReplica`] and those of opening.
    pub fn facts_of(&self, copy: &Path) -> Result<Facts, StoreError> {
        let conn = open_copy(copy)?;
        crate::engine::check_format(&conn, &Options::new(copy))?;
        let own = Own::load(&conn)?;
        let (app, published) = (layout::require_meta(&conn, "app")?, identity::published(&conn)?);
        Ok(Facts { app, group: own.group, site: own.site, version: own.version, chain: own.chain, published })
    }

    /// Makes the file what a copy of it has, as one transaction; other connections may stay open. `prepare` gets a replica of the copy's
    /// first: what it does to it comes along. Its clock goes on from this file's.
    ///
    /// # Errors
    /// [`StoreError::Backup`] and SQLite's reasons, and what `prepare` gives; then nothing was changed.
    pub fn restore<T>(
        &self,
        copy: &Path,
        prepare: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let last = self.read(Own::load)?.clock.last();
        let name: String = self.random().iter().map(|byte| format!("{byte:02x}")).collect();
        let file = &self.options().path;
        let beside = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = TemporaryFolder::make(beside.join(format!(".isle-restore-{name}")))?;
        let path = folder.0.join("restored.db");
        std::fs::copy(copy, &path).map_err(|source| StoreError::Backup { path: copy.to_owned(), source })?;
        let prepared =
            Store::open(Options { path: path.clone(), ..self.options().clone() }, Arc::clone(&self.runtime))?;
        prepared.merge(|engine, _| {
            let floor = engine.own()?.clock.last().max(last);
            layout::set_meta(&engine.conn, "hlc", floor.bits() as i64)
        })?;
        let result = prepare(&prepared)?;
        prepared.close()?;
        self.take_pages(&open_copy(&path)?)?;
        let tables = self.status()?.tables;
        self.notify(tables, true);
        Ok(result)
    }

    /// Copies another database's pages into this file.
    fn take_pages(&self, from: &Connection) -> Result<(), StoreError> {
        let mut engines = self.engines();
        // What they know of the file, their triggers and their statements are of before.
        (engines.write, engines.merge) = (None, None);
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut conn = crate::engine::connect(self.options(), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let begun = Instant::now();
        let backup = Backup::new(from, &mut conn).doing("restore the backup")?;
        loop {
            match backup.step(-1).doing("restore the backup")? {
                StepResult::Done => return Ok(()),
                StepResult::Busy | StepResult::Locked if begun.elapsed() < self.options().busy_timeout => {
                    std::thread::sleep(AGAIN);
                }
                _ => {
                    let path = self.options().path.clone();
                    return Err(StoreError::Backup { path, source: std::io::ErrorKind::ResourceBusy.into() });
                }
            }
        }
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
