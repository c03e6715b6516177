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

/// How often a file is kept anew because somebody has written to it meanwhile.
const TRIES: usize = 8;
/// What belongs to a device rather than to its data. Heads of remotes are read again.
const CARRY_OVER: &str = "
DELETE FROM isle_remote; INSERT INTO isle_remote SELECT * FROM live.isle_remote;
DELETE FROM isle_remote_head;
DELETE FROM isle_peer; INSERT INTO isle_peer SELECT * FROM live.isle_peer;
INSERT OR IGNORE INTO isle_member SELECT * FROM live.isle_member;
INSERT OR IGNORE INTO isle_site(id, version, hlc) SELECT s.id, 0, 0 FROM live.isle_retired AS r JOIN live.isle_site AS s ON s.no = r.site
  WHERE s.id NOT IN (SELECT id FROM main.isle_site);
INSERT OR REPLACE INTO isle_retired(site, version) SELECT o.no, r.version FROM live.isle_retired AS r
  JOIN live.isle_site AS s ON s.no = r.site JOIN main.isle_site AS o ON o.id = s.id;
";
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

/// Removes what a restore of this database that was killed has left. The caller sees to it that no other one is going on.
fn remove_left(folder: &Path, prefix: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, folder = %entry.path().display(), "a temporary folder stays");
        }
    }
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
    /// first: what it does to it comes along. `keep` is called while nobody else can write, to keep the file as it is; if somebody has written
    /// before the pages could be taken, once more. What belongs to this device rather than to its data stays as it is here: the clock, the
    /// remotes, the peers, who belongs to the group.
    ///
    /// # Errors
    /// [`StoreError::Backup`] and SQLite's reasons, and what `prepare` and `keep` give; then nothing was changed.
    pub fn restore<T, E: From<StoreError>>(
        &self,
        copy: &Path,
        prepare: impl FnOnce(&Store) -> Result<T, E>,
        keep: impl FnMut() -> Result<(), E>,
    ) -> Result<T, E> {
        let name: String = self.random().iter().map(|byte| format!("{byte:02x}")).collect();
        let file = &self.options().path;
        let beside = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let prefix = format!(".isle-restore-{}-", file.file_name().unwrap_or_default().to_string_lossy());
        remove_left(beside, &prefix);
        let folder = TemporaryFolder::make(beside.join(format!("{prefix}{name}")))?;
        let path = folder.0.join("restored.db");
        std::fs::copy(copy, &path).map_err(|source| StoreError::Backup { path: copy.to_owned(), source })?;
        let prepared =
            Store::open(Options { path: path.clone(), ..self.options().clone() }, Arc::clone(&self.runtime))?;
        self.carry_over(&prepared)?;
        let result = prepare(&prepared)?;
        prepared.close()?;
        self.fit_pages(&path)?;
        self.take_pages(&open_copy(&path)?, keep)?;
        let tables = self.status()?.tables;
        self.notify(tables, true);
        Ok(result)
    }

    /// Gives a copy what stays as it is in this file.
    fn carry_over(&self, copy: &Store) -> Result<(), StoreError> {
        let last = self.read(Own::load)?.clock.last();
        let path = self.options().path.to_string_lossy().into_owned();
        copy.with_merge_engine(|engine| {
            engine.conn.execute("ATTACH ?1 AS live", [&path]).doing("restore the backup")?;
            let result = engine.transaction(0, |engine| {
                let floor = engine.own()?.clock.last().max(last);
                layout::set_meta(&engine.conn, "hlc", floor.bits() as i64)?;
                engine.conn.execute_batch(CARRY_OVER).doing("restore the backup")
            });
            engine.conn.execute("DETACH live", []).doing("restore the backup")?;
            result
        })
    }

    /// Gives a copy this file's page size, which pages of another could not be written into.
    fn fit_pages(&self, copy: &Path) -> Result<(), StoreError> {
        let size = |conn: &Connection| conn.query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0));
        let wanted = self.read(|conn| size(conn).doing("restore the backup"))?;
        let conn = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_WRITE).doing("restore the backup")?;
        if size(&conn).doing("restore the backup")? != wanted {
            let sql = format!(
                "PRAGMA journal_mode = DELETE; PRAGMA page_size = {wanted}; VACUUM; PRAGMA journal_mode = WAL;"
            );
            conn.execute_batch(&sql).doing("restore the backup")?;
            crate::objects::fill_by_rowid(&conn)?;
        }
        conn.close().map_err(|(_, error)| error).doing("restore the backup")
    }

    /// Copies another database's pages into this file, after it was kept as it is.
    fn take_pages<E: From<StoreError>>(
        &self,
        from: &Connection,
        mut keep: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let open = || crate::engine::connect(self.options(), OpenFlags::SQLITE_OPEN_READ_WRITE);
        let seen = |conn: &Connection| {
            conn.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).doing("restore the backup")
        };
        let failed = |why: &str| {
            let source = std::io::Error::new(std::io::ErrorKind::ResourceBusy, why.to_owned());
            StoreError::Backup { path: self.options().path.clone(), source }
        };
        let mut engines = self.engines();
        // What they know of the file, their triggers and their statements are of before.
        (engines.write, engines.merge) = (None, None);
        for _ in 0..TRIES {
            let (lock, watch, mut conn) = (open()?, open()?, open()?);
            lock.execute_batch("BEGIN IMMEDIATE").doing("restore the backup")?;
            let before = seen(&watch)?;
            keep()?;
            self.readers.lock().unwrap_or_else(PoisonError::into_inner).clear();
            lock.execute_batch("ROLLBACK").doing("restore the backup")?;
            let backup = Backup::new(from, &mut conn).doing("restore the backup")?;
            let begun = Instant::now();
            let step = |pages: i32| -> Result<StepResult, StoreError> {
                loop {
                    match backup.step(pages).doing("restore the backup")? {
                        StepResult::Busy | StepResult::Locked if begun.elapsed() < self.options().busy_timeout => {
                            std::thread::sleep(AGAIN);
                        }
                        StepResult::Busy | StepResult::Locked => return Err(failed("another connection holds it")),
                        other => return Ok(other),
                    }
                }
            };
            // The first page locks the file: what was written since it was kept shows by now, and would be lost.
            step(1)?;
            if seen(&watch)? == before {
                step(-1)?;
                return Ok(());
            }
        }
        Err(failed("others write to it all the time: stop them first").into())
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
