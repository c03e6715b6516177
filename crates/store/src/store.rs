//! A replica's file, shared by the threads of a process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isle_changeset::Hash;
use isle_clock::{Clock, ClockError, GroupId, Hlc, SiteId};
use isle_identity::DeviceKey;
use rusqlite::{Connection, OpenFlags};

use crate::engine::{Engine, Role, connect};
use crate::error::Doing as _;
use crate::guard::Mode;
use crate::seal::Stamping;
use crate::settle::Settled;
use crate::transaction::Transaction;
use crate::{Conflict, Repaired, StateHash, StoreError, hash, identity, journal, layout, own, peers, seal, track};

/// Idle read connections that are kept.
const READERS_MAX: usize = 16;

/// Where time and randomness come from.
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// Milliseconds since 1970 by the wall clock.
    fn now_ms(&self) -> u64;
    /// 16 random bytes, fit for ids.
    fn random(&self) -> [u8; 16];
    /// Whether what blocks is done where it is asked for, and not on a thread of its own. For simulations: then nothing depends on the order in
    /// which threads end.
    fn blocks_in_place(&self) -> bool {
        false
    }
}

/// How a file is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The SQLite file.
    pub path: PathBuf,
    /// How long to wait for another process's write lock. Default: 30 s.
    pub busy_timeout: Duration,
    /// How far ahead of this device's clock a changeset may be. Default: [`Clock::DRIFT`].
    pub drift: Duration,
    /// A wall clock before this counts as unset, and no drift bound applies. Milliseconds since 1970.
    pub unset_before_ms: u64,
    /// The page cache of each connection that writes; there are two at most. Default: 16 MiB, where SQLite's own is 2 MB.
    /// What a large transaction changes at random keys should fit: pages that do not are written and read again.
    pub page_cache_bytes: u64,
    /// Pages of the write-ahead log after which a commit writes it back into the file; 0 = never. Default: 4,000, where
    /// SQLite's own is 1,000: row clocks and the log double the pages that a small transaction touches.
    pub checkpoint_pages: u32,
    /// The built extension of cr-sqlite 0.17, for files that it keeps ([`crate::TableEngine::CrSqlite`]). Code that runs in this process.
    pub cr_sqlite: Option<PathBuf>,
}

impl Options {
    /// The defaults for a file.
    pub fn new(path: impl Into<PathBuf>) -> Options {
        // 2026-01-01: no isle was built before.
        let unset_before_ms = 1_767_225_600_000;
        Options {
            path: path.into(),
            busy_timeout: Duration::from_secs(30),
            drift: Clock::DRIFT,
            unset_before_ms,
            page_cache_bytes: 16 << 20,
            checkpoint_pages: 4_000,
            cr_sqlite: None,
        }
    }
}

/// What a new replica is told of itself.
#[derive(Debug, Clone)]
pub struct Init {
    /// The app whose schema the file holds: replicas of one group share it.
    pub app: String,
    /// The device that the file is on: the ids of its site and of its group become provably that device's.
    pub owner: Option<DeviceKey>,
}

/// What changed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Names of the tables.
    pub tables: Vec<String>,
    /// Whether the changes came from other replicas.
    pub remote: bool,
}

/// What a replica knows of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Its last version that has been applied here.
    pub version: u64,
    /// The time of that version.
    pub hlc: Hlc,
    /// Its device's name, if it said one.
    pub name: Option<String>,
    /// Whether it is this replica.
    pub own: bool,
    /// Whether it was retired: nobody waits for it.
    pub retired: bool,
}

/// A summary of a replica.
#[derive(Debug, Clone)]
pub struct Status {
    /// The replica's group.
    pub group: GroupId,
    /// Its app.
    pub app: String,
    /// Its site id.
    pub site: SiteId,
    /// Its last version.
    pub version: u64,
    /// Its last version that was handed to somebody.
    pub published: u64,
    /// Names of the tracked tables.
    pub tables: Vec<String>,
    /// Names of tables that are not tracked.
    pub untracked: Vec<String>,
    /// Names of tracked tables that were changed past isle and stand still ([`Store::schema_state`]).
    pub standing_still: Vec<String>,
    /// Changes of foreign clients that the next touch will seal.
    pub queued: u64,
    /// Changesets of others that are here and not merged: the report of a sync says what each waits for.
    pub waiting: u64,
    /// Schema operations that cannot be applied here yet ([`Store::pending_operations`]).
    pub pending_operations: u64,
    /// Open entries in the conflict journal.
    pub conflicts: u64,
    /// Rows that a constraint keeps from showing as they are merged ([`Store::repaired`]).
    pub repaired: u64,
    /// How far, in milliseconds, the largest time issued or seen here is ahead of this device's clock; 0 while that is within
    /// the drift bound. Beyond it other replicas hold back what is written here until that time comes.
    pub clock_ahead_ms: u64,
    /// The sites that were heard of.
    pub sites: Vec<Site>,
}

#[derive(Default)]
pub(crate) struct Engines {
    pub(crate) write: Option<Engine>,
    pub(crate) merge: Option<Engine>,
}

/// A replica's file. All methods may be called from any thread; writes of one process run one after the other.
pub struct Store {
    options: Options,
    pub(crate) runtime: Arc<dyn Runtime>,
    // Closed before the engines: the last connection to close writes the write-ahead log back, and a reader cannot.
    pub(crate) readers: Mutex<Vec<Connection>>,
    engines: Mutex<Engines>,
    #[expect(clippy::type_complexity, reason = "one callback, named by its field")]
    observer: Mutex<Option<Arc<dyn Fn(Changed) + Send + Sync>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.options.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Makes a replica of a new or an existing SQLite file. No table is tracked yet.
    ///
    /// # Errors
    /// When the file is no SQLite database, cannot be written, or is a replica of a newer format. A file that is a
    /// replica already is opened as it is.
    pub fn init(options: Options, runtime: Arc<dyn Runtime>, init: &Init) -> Result<Store, StoreError> {
        let conn = connect(&options, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        if layout::format(&conn)?.is_none() {
            let mode = write_ahead(&conn, options.busy_timeout)?;
            tracing::debug!(path = %options.path.display(), mode, "new replica");
            conn.execute_batch("BEGIN IMMEDIATE").doing("create the replica")?;
            // Another process may have been first while this one waited for the lock.
            if layout::format(&conn)?.is_none() {
                let (site, group) = (runtime.random(), runtime.random());
                let owner = init.owner.as_ref();
                let group_id = match owner {
                    Some(key) => isle_identity::group_id(key, &group),
                    None => GroupId::from_random(group),
                };
                layout::create(&conn, peers::site_of(owner, site), group_id, &init.app)?;
                peers::note_nonce(&conn, owner, site)?;
                if owner.is_some() {
                    layout::set_meta(&conn, layout::GROUP_NONCE, group)?;
                }
            }
            conn.execute_batch("COMMIT").doing("create the replica")?;
        }
        drop(conn);
        Store::open(options, runtime)
    }

    /// Opens a replica. Cheap: connections for writing are opened when the first write comes.
    ///
    /// # Errors
    /// [`StoreError::NotReplica`], [`StoreError::NewerFormat`], or SQLite's reason.
    pub fn open(options: Options, runtime: Arc<dyn Runtime>) -> Result<Store, StoreError> {
        let reader = open_reader(&options)?;
        crate::engine::check_format(&reader, &options)?;
        let readers = Mutex::new(vec![reader]);
        Ok(Store { options, runtime, engines: Mutex::default(), readers, observer: Mutex::new(None) })
    }

    /// How the file was opened.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Is told of every committed change of tracked tables, on the thread that made it.
    pub fn observe(&self, observer: impl Fn(Changed) + Send + Sync + 'static) {
        *self.observer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(observer));
    }

    pub(crate) fn notify(&self, tables: Vec<String>, remote: bool) {
        let observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(observer) = observer.filter(|_| !tables.is_empty()) {
            observer(Changed { tables, remote });
        }
    }

    pub(crate) fn engines(&self) -> MutexGuard<'_, Engines> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the app's write transaction: what it changes in tracked tables becomes one changeset with its commit.
    ///
    /// # Errors
    /// What `f` gives, after everything was rolled back; or the reason why the commit failed.
    pub fn write<T, E: From<StoreError>>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T, E>) -> Result<T, E> {
        self.write_as(Stamping::now, f)
    }

    /// The same for what a program writes without a person: it comes after all that this file has seen, and before whatever else was or will be
    /// written elsewhere, as its time is the earliest that it can be.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_early<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.write_as(|_| Stamping::now(1), f)
    }

    /// The same for what came to be elsewhere and long ago. Tables with new rows alone become a version whose cells any real write beats, as it beats
    /// rows that were there before their table was tracked; a site has that once for a table. The others become a version after it, with the stamp of
    /// [`Store::write_early`].
    ///
    /// # Errors
    /// As [`Store::write`].
    pub fn write_baseline<T, E: From<StoreError>>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.write_as(|now_ms| Stamping { now_ms, baseline: true }, f)
    }

    /// With a stamp that follows from the time.
    fn write_as<T, E: From<StoreError>>(
        &self,
        stamp: impl FnOnce(u64) -> Stamping,
        f: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut engines = self.engines();
        let engine = match &mut engines.write {
            Some(engine) => engine,
            slot => slot.insert(Engine::open(&self.options, Role::Write)?),
        };
        if let Err(error) = engine.begin() {
            if !engine.outdated {
                return Err(error.into());
            }
            *engine = Engine::open(&self.options, Role::Write)?;
            engine.begin()?;
        }
        if crate::companion::is_due(&engine.tables) {
            // On this connection it cannot be seen to.
            engine.rollback();
            drop(engines);
            self.merge(|_, _| Ok(()))?;
            return self.write_as(stamp, f);
        }
        if let Some((needs, app)) = engine.own.as_ref().and_then(|own| own.too_new.clone()) {
            engine.rollback();
            return Err(StoreError::SchemaTooNew { needs, app }.into());
        }
        let now_ms = self.runtime.now_ms();
        let mut changed = match engine.seal_foreign(now_ms) {
            Ok(changed) => changed,
            Err(error) => {
                engine.rollback();
                return Err(error.into());
            }
        };
        if let Err(error) = engine.expire(now_ms) {
            engine.rollback();
            return Err(error.into());
        }
        let stamp = stamp(now_ms);
        let transaction = Transaction::new(engine, stamp.now_ms);
        let result = f(&transaction).and_then(|value| Ok((value, transaction.finish()?)));
        let sealed = result.and_then(|(value, queued)| Ok((value, seal(engine, queued, stamp)?)));
        match sealed {
            Ok((value, tables)) => {
                engine.commit()?;
                changed.extend(tables);
                let names = names_of(engine, &changed);
                let derived = |tracked: &Arc<crate::tracked::Tracked>| tracked.constrained || !tracked.kinds.is_empty();
                let owed = engine.tables.iter().any(derived) && crate::repair::is_owed(&engine.conn)?;
                drop(engines);
                self.notify(names, false);
                if owed {
                    // It is committed: what is repaired now or with the next merge is what shows, not what was written.
                    match self.merge(|engine, _| Ok(names_of(engine, &engine.repaired))) {
                        Ok(names) => self.notify(names, false),
                        Err(error) => tracing::warn!(%error, "constraints are looked at again later"),
                    }
                }
                Ok(value)
            }
            Err(error) => {
                engine.rollback();
                if !engine.conn.is_autocommit() {
                    engines.write = None;
                }
                Err(error)
            }
        }
    }

    /// Runs queries on a connection that cannot write. Each sees what was committed when it began.
    ///
    /// # Errors
    /// What `f` gives, or why no connection could be opened.
    pub fn read<T, E: From<StoreError>>(&self, f: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        let reader = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = match reader {
            Some(reader) => reader,
            None => open_reader(&self.options)?,
        };
        let result = f(&reader);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_MAX && reader.is_autocommit() {
            readers.push(reader);
        }
        result
    }

    /// Runs queries on a connection that cannot write, all on one state of the file.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn snapshot<T, E: From<StoreError>>(&self, f: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        self.read(|conn| {
            run_cached(conn, "BEGIN")?;
            let result = f(conn);
            let ended = run_cached(conn, "COMMIT");
            // An error that ended the transaction by itself tells more than that there is none to end.
            let value = result?;
            ended?;
            Ok(value)
        })
    }

    /// Runs isle's own work in a write transaction of the merging connection.
    pub(crate) fn merge<T>(&self, f: impl FnOnce(&mut Engine, u64) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let now_ms = self.runtime.now_ms();
        self.with_merge_engine(|engine| {
            // Whatever it does, a merge looks at everything that waits again.
            engine.epoch += 1;
            engine.transaction(now_ms, |engine| f(engine, now_ms))
        })
    }

    pub(crate) fn with_merge_engine<T>(
        &self,
        f: impl FnOnce(&mut Engine) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut engines = self.engines();
        let engine = match &mut engines.merge {
            Some(engine) => engine,
            slot => slot.insert(Engine::open(&self.options, Role::Merge)?),
        };
        let result = f(engine);
        if !engine.conn.is_autocommit() {
            engines.merge = None;
        }
        result
    }

    /// Tracks tables of the file. Rows that are there become a baseline that any real write beats.
    ///
    /// # Errors
    /// [`StoreError::Untrackable`] with the reason; then no table of the list is tracked.
    pub fn track(&self, names: &[&str]) -> Result<(), StoreError> {
        self.merge(|engine, now_ms| track::track(engine, names, now_ms)).map(|_| ())
    }

    /// Stops tracking a table; its rows stay. Changes of others are kept in the log and come when it is tracked again. What was
    /// edited here in the meantime stands as a baseline then: where it loses it is in the journal, and rows that were deleted
    /// come back.
    ///
    /// # Errors
    /// [`StoreError::NotTracked`].
    pub fn untrack(&self, name: &str) -> Result<(), StoreError> {
        self.merge(|engine, _| track::untrack(engine, name))
    }

    /// Makes a plain database of the replica again: every table, trigger and fact of isle's is removed.
    ///
    /// # Errors
    /// SQLite's reason; then nothing was removed.
    pub fn detach(self) -> Result<(), StoreError> {
        self.merge(|engine, _| track::detach(engine))
    }

    /// Tables that are not tracked.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn untracked(&self) -> Result<Vec<String>, StoreError> {
        self.snapshot(track::untracked)
    }

    /// Seals what foreign clients wrote since the last touch.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn seal(&self) -> Result<(), StoreError> {
        let waits = self.read(seal::queue_waits)?;
        if waits {
            let names = self.merge(|engine, _| Ok(engine.tables.iter().map(|t| t.table.name.clone()).collect()))?;
            self.notify(names, false);
        }
        Ok(())
    }

    /// Losing concurrent values, newest first; with `all` also those that somebody has dealt with.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn conflicts(&self, all: bool, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        self.snapshot(|conn| journal::list(conn, &crate::engine::load_tables(conn)?, all, limit, None))
    }

    /// Rows that do not show as they are merged because a constraint is against it: at most `limit`.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn repaired(&self, limit: usize) -> Result<Vec<Repaired>, StoreError> {
        self.snapshot(|conn| crate::repair::list_repaired(conn, &crate::engine::load_tables(conn)?, limit))
    }

    /// One entry of the journal.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn conflict(&self, id: i64) -> Result<Option<Conflict>, StoreError> {
        self.snapshot(|conn| Ok(journal::list(conn, &crate::engine::load_tables(conn)?, true, 1, Some(id))?.pop()))
    }

    /// How many entries [`Store::conflicts`] would give without a limit.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn count_conflicts(&self, all: bool) -> Result<u64, StoreError> {
        self.read(|conn| journal::count(conn, all))
    }

    /// Marks every open journal entry, or those of one table, as dealt with; gives how many there were.
    ///
    /// # Errors
    /// [`StoreError::NotTracked`] for a table that is not tracked.
    pub fn resolve_conflicts(&self, table: Option<&str>) -> Result<u64, StoreError> {
        self.note(|engine| journal::resolve(&engine.conn, table))
    }

    /// Marks a journal entry as dealt with; false if there is no such open entry.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn resolve_conflict(&self, id: i64) -> Result<bool, StoreError> {
        self.merge(|engine, _| {
            let sql = "UPDATE isle_conflict SET state = 'resolved' WHERE id = ?1 AND state = 'open'";
            Ok(engine.conn.execute(sql, [id]).doing("resolve a conflict")? == 1)
        })
    }

    /// Hashes the merged state and the visible rows. Foreign writes are sealed first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn state_hash(&self) -> Result<StateHash, StoreError> {
        match self.hash_in_place() {
            // What is queued or owed cannot be brought up to date here.
            Err(StoreError::ReadOnly { .. }) => self.hash_of_copy(),
            result => result,
        }
    }

    fn hash_of_copy(&self) -> Result<StateHash, StoreError> {
        let name: String = self.runtime.random().iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = TemporaryFolder::make(std::env::temp_dir().join(format!("isle-hash-{name}")))?;
        let path = folder.0.join("copy.db");
        self.read(|conn| {
            conn.backup("main", &path, None::<fn(rusqlite::backup::Progress)>)
                .doing("copy the read-only file to hash it")
        })?;
        let copy = Store::open(Options { path, ..self.options.clone() }, Arc::clone(&self.runtime))?;
        copy.hash_in_place()
    }

    fn hash_in_place(&self) -> Result<StateHash, StoreError> {
        self.seal()?;
        let hash = self.snapshot(|conn| match Settled::look(conn)? {
            Some(settled) => hash::state(conn, &crate::engine::load_tables(conn)?, &settled).map(Some),
            None => Ok::<_, StoreError>(None),
        })?;
        match hash {
            Some(hash) => Ok(hash),
            None => self.merge(|engine, _| hash::state(&engine.conn, &engine.tables, &engine.settle()?)),
        }
    }

    /// A summary of the replica. Changes nothing.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn status(&self) -> Result<Status, StoreError> {
        let now_ms = self.runtime.now_ms();
        self.snapshot(|conn| {
            let own = own::Own::load(conn)?;
            let count = |sql: &str| Ok::<_, StoreError>(crate::clocks::one::<i64>(conn, sql, [])?.unwrap_or(0) as u64);
            let mut statement = conn.prepare("SELECT name FROM isle_table ORDER BY name").doing("list the tables")?;
            let tables = statement.query_map([], |row| row.get(0)).doing("list the tables")?;
            Ok(Status {
                group: own.group,
                app: layout::require_meta(conn, "app")?,
                site: own.site,
                version: own.version,
                published: identity::published(conn)?,
                tables: tables.collect::<Result<_, _>>().doing("list the tables")?,
                untracked: track::untracked(conn)?,
                standing_still: crate::drift::standing_still(conn)?.into_iter().map(|(table, _)| table).collect(),
                queued: count("SELECT count(*) FROM isle_queue")? + crate::companion::waiting(conn)?,
                waiting: count(&format!(
                    "SELECT coalesce(sum((SELECT count(*) FROM isle_log AS l
                       WHERE l.id > (s.no << 44 | s.version) AND l.id < (s.no + 1) << 44)), 0)
                     FROM isle_site AS s WHERE s.no <> {} AND s.no NOT IN (SELECT site FROM isle_retired)",
                    own.no
                ))?,
                pending_operations: count(
                    "SELECT count(*) FROM isle_migration WHERE state NOT IN ('applied', 'forgotten')",
                )?,
                conflicts: count("SELECT count(*) FROM isle_conflict WHERE state = 'open'")?,
                repaired: crate::shadow::count(conn)?,
                clock_ahead_ms: clock_ahead_ms(own.clock.last(), now_ms, &self.options),
                sites: sites(conn, &own)?,
            })
        })
    }

    /// Joins a group: what was never published is sealed again under its id. A replica without any schema takes over the
    /// group's app; false if the apps differ.
    ///
    /// # Errors
    /// [`StoreError::OtherGroup`] when the replica has exchanged changesets in another group.
    pub fn join_group(&self, group: GroupId, app: Option<&str>) -> Result<bool, StoreError> {
        self.merge(|engine, _| identity::join_group(engine, group, app))
    }

    /// Takes a new site id: the file is a copy, or an older state of one. `published` is what is known, from elsewhere, to
    /// have been handed over under the old id; `owner` is the device that the file is on.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn new_site(&self, published: u64, owner: Option<DeviceKey>) -> Result<SiteId, StoreError> {
        let random = self.runtime.random();
        let site = peers::site_of(owner.as_ref(), random);
        self.merge(|engine, _| {
            identity::new_site(engine, site, published)?;
            peers::note_nonce(&engine.conn, owner.as_ref(), random)
        })?;
        Ok(site)
    }

    /// Records, durably, that versions up to `version` may be known to others from now on. Everything committed before
    /// is on the disk when this returns: nothing leaves a device that a power cut could make it forget.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn mark_published(&self, version: u64) -> Result<(), StoreError> {
        self.mark_signed(version, &[]).map(|_| ())
    }

    /// The same, with signatures of versions, each with the hash that it is of; see [`Store::unsigned`]. False if one is of no use any more, because its
    /// version was sealed anew meanwhile: ask once more.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn mark_signed(&self, version: u64, proofs: &[(u64, Hash, Vec<u8>)]) -> Result<bool, StoreError> {
        let now_ms = self.runtime.now_ms();
        self.with_merge_engine(|engine| {
            engine.conn.execute_batch("PRAGMA synchronous = FULL").doing("make changes durable")?;
            let result = engine.transaction(now_ms, |engine| {
                let all = crate::proofs::note_own(&engine.conn, proofs)?;
                let version = version.max(identity::published(&engine.conn)?);
                layout::set_meta(&engine.conn, "published", version as i64)?;
                Ok(all)
            });
            engine.conn.execute_batch("PRAGMA synchronous = NORMAL").doing("make changes durable")?;
            result
        })
    }

    /// Notes a device's name for a site.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn name_site(&self, site: SiteId, name: &str) -> Result<(), StoreError> {
        self.note(|engine| {
            let no = own::site_no(&engine.conn, site)?;
            let sql = "UPDATE isle_site SET name = ?2 WHERE no = ?1 AND name IS NOT ?2";
            engine.conn.execute(sql, rusqlite::params![no, name]).doing("name a site")?;
            Ok(())
        })
    }

    /// Brings isle's tables up to what stands in the user's: whoever reads stamps needs that.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        self.seal()?;
        match self.read(Settled::look)? {
            Some(_) => Ok(()),
            None => self.merge(|engine, _| engine.settle().map(|_| ())),
        }
    }

    /// Runs a reader while no other writer can be at work; what foreign clients queued is sealed first.
    pub(crate) fn exclusive<T, E: From<StoreError>>(&self, f: impl FnOnce(&Engine) -> Result<T, E>) -> Result<T, E> {
        let mut result = None;
        self.merge(|engine, _| {
            result = Some(f(engine));
            Ok(())
        })?;
        result.unwrap_or_else(|| Err(StoreError::NoSnapshot.into()))
    }

    /// A site id that nobody has.
    pub(crate) fn random(&self) -> [u8; 16] {
        self.runtime.random()
    }

    /// Milliseconds since 1970 by the runtime's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.runtime.now_ms()
    }

    /// Remotes and what was last seen there; see [`crate::RemoteRow`].
    pub(crate) fn internal<T>(&self, f: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.note(|engine| f(&engine.conn))
    }

    /// As `merge`, for what no changeset waits for.
    pub(crate) fn note<T>(&self, f: impl FnOnce(&mut Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let now_ms = self.runtime.now_ms();
        self.with_merge_engine(|engine| engine.transaction(now_ms, f))
    }

    /// Writes back the write-ahead log and closes every connection.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn close(self) -> Result<(), StoreError> {
        self.with_merge_engine(|engine| {
            engine.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).doing("write back the log")
        })
    }
}

/// Seals what the transaction changed; gives the tables.
fn seal(engine: &mut Engine, queued: bool, stamp: Stamping) -> Result<Vec<i64>, StoreError> {
    let mut own = engine.own()?;
    // Out of its place: statements of the seal may make an app's full-text table write what it had in memory, of which the hook is told.
    let mut capture = std::mem::take(&mut *engine.captured());
    if !queued && capture.is_empty() {
        *engine.captured() = capture;
        return Ok(Vec::new());
    }
    let sealed = engine.guard.with(Mode::Engine, || match (stamp.baseline, queued) {
        (true, true) => crate::imports::seal((&engine.conn, &mut own), &engine.tables, None, stamp),
        (true, false) => crate::imports::seal((&engine.conn, &mut own), &engine.tables, Some(&mut capture), stamp),
        (false, true) => seal::seal_queue(&engine.conn, &mut own, &engine.tables, stamp).map(|sealed| (sealed, true)),
        (false, false) => seal::seal_events(&engine.conn, &mut own, &mut capture, stamp, |_| true),
    });
    capture.clear();
    *engine.captured() = capture;
    let (sealed, complete) = sealed?;
    engine.own = Some(own);
    engine.queue_empty &= complete;
    if let Some(sealed) = &sealed {
        tracing::debug!(version = sealed.version, rows = sealed.rows, "sealed");
    }
    Ok(sealed.map(|sealed| sealed.tables).unwrap_or_default())
}

fn names_of(engine: &Engine, numbers: &[i64]) -> Vec<String> {
    let changed = engine.tables.iter().filter(|tracked| numbers.contains(&tracked.no));
    changed.map(|tracked| tracked.table.name.clone()).collect()
}

fn clock_ahead_ms(last: Hlc, now_ms: u64, options: &Options) -> u64 {
    match Clock::check_drift(last, now_ms, options.unset_before_ms, options.drift) {
        Err(ClockError::Drift { ahead_ms, .. }) => ahead_ms,
        _ => 0,
    }
}

fn sites(conn: &Connection, own: &own::Own) -> Result<Vec<Site>, StoreError> {
    let mut statement = conn
        .prepare("SELECT id, version, hlc, name, no, no IN (SELECT site FROM isle_retired) FROM isle_site ORDER BY no")
        .doing("list sites")?;
    let rows = statement.query_map([], |row| {
        let mine = row.get::<_, i64>(4)? == own.no;
        let hlc = Hlc::from_bits(row.get::<_, i64>(2)? as u64).unwrap_or(Hlc::ZERO);
        Ok(Site {
            id: SiteId::from_bytes(row.get(0)?),
            version: if mine { own.version } else { row.get::<_, i64>(1)? as u64 },
            hlc: if mine { own.clock.last() } else { hlc },
            name: row.get(3)?,
            own: mine,
            retired: row.get(5)?,
        })
    });
    rows.doing("list sites")?.collect::<Result<_, _>>().doing("list sites")
}

/// Switches to write-ahead logging; gives the mode. SQLite takes the lock for that without waiting where somebody else is about to
/// write, or to switch as well; for an exclusive transaction it waits.
fn write_ahead(conn: &Connection, patience: Duration) -> Result<String, StoreError> {
    let doing = "switch to write-ahead logging";
    let begun = Instant::now();
    loop {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).doing(doing) {
            Err(StoreError::Busy { .. }) if begun.elapsed() < patience => {
                conn.execute_batch("BEGIN EXCLUSIVE; ROLLBACK").doing(doing)?;
            }
            result => return result,
        }
    }
}

/// A folder that goes when this does.
pub(crate) struct TemporaryFolder(pub(crate) PathBuf);

impl TemporaryFolder {
    pub(crate) fn make(path: PathBuf) -> Result<TemporaryFolder, StoreError> {
        std::fs::create_dir(&path).map_err(|source| StoreError::Folder { path: path.clone(), source })?;
        Ok(TemporaryFolder(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a temporary folder stays");
        }
    }
}

fn run_cached(conn: &Connection, sql: &str) -> Result<(), StoreError> {
    conn.prepare_cached(sql).and_then(|mut statement| statement.execute([])).doing("read a snapshot").map(|_| ())
}

pub(crate) fn open_reader(options: &Options) -> Result<Connection, StoreError> {
    connect(options, OpenFlags::SQLITE_OPEN_READ_ONLY)
}
