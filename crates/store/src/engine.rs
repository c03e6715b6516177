//! A connection of isle's own, with what it remembers of the file between transactions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isle_schema::TableId;
use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::Action;
use rusqlite::{Connection, OpenFlags};

use crate::capture::{Capture, FUNCTION, trigger_sql};
use crate::error::Doing as _;
use crate::guard::{Guard, Mode};
use crate::layout::{FORMAT, quoted};
use crate::own::Own;
use crate::plan::Plan;
use crate::seal::Stamping;
use crate::tracked::{self, LocalTable, Tracked, join};
use crate::{Options, StoreError, companion, layout};

/// The table and key of the row that a merge deletes itself, for the guard against deletes by triggers.
pub(crate) type Direct = Arc<Mutex<Vec<u8>>>;

/// What stands there for a row: the table's local number and the packed exact key.
pub(crate) fn direct_key(no: i64, exact: &[u8]) -> Vec<u8> {
    let mut key = isle_changeset::pack_key(&[isle_changeset::ValueRef::Integer(no)]);
    key.extend(exact);
    key
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs the app's transactions: foreign keys on, changes taken in passing.
    Write,
    /// Merges and manages: foreign keys and CHECKs off, nothing captured.
    Merge,
}

pub(crate) struct Engine {
    pub(crate) conn: Connection,
    pub(crate) guard: Guard,
    pub(crate) role: Role,
    pub(crate) tables: Vec<Arc<Tracked>>,
    pub(crate) by_id: HashMap<TableId, Arc<Tracked>>,
    pub(crate) own: Option<Own>,
    pub(crate) capture: Arc<Mutex<Capture>>,
    /// Nothing was written by other connections while this stays the same.
    data_version: i64,
    schema_version: i64,
    /// Rises whenever something was, or may have been, written past the plan.
    pub(crate) epoch: u64,
    /// What waits to be merged, and what for.
    pub(crate) plan: Option<Plan>,
    /// The queue was empty when this connection looked last, and nobody else has written since.
    pub(crate) queue_empty: bool,
    /// Rows of local tables expire.
    expires: bool,
    /// The app has triggers of its own in the file.
    app_triggers: bool,
    /// Whether triggers in the file have anything to do on this connection.
    pub(crate) triggers_needed: bool,
    /// The connection cannot follow a change of the schema; another one can.
    pub(crate) outdated: bool,
    /// The schema was changed through this connection.
    stale: AtomicBool,
    guarded: Vec<String>,
    direct: Direct,
    /// What operations declare, and how many there were when that was read.
    ahead: Mutex<Option<(i64, Arc<crate::ahead::Ahead>)>>,
    /// Tables in which the last transaction repaired rows that were owed.
    pub(crate) repaired: Vec<i64>,
    library: Option<isle_crsqlite::Library>,
    /// cr-sqlite is loaded into this connection.
    companion: bool,
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.companion {
            isle_crsqlite::release(&self.conn);
        }
    }
}

/// Opens a connection with the pragmas that every one of isle's has.
pub(crate) fn connect(options: &Options, flags: OpenFlags) -> Result<Connection, StoreError> {
    let doing = format!("open {}", options.path.display());
    // An app may have made a shared cache of all its connections: then ours would wait for those that called us.
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let conn = Connection::open_with_flags(&options.path, flags).map_err(|e| StoreError::sqlite(&doing, e))?;
    conn.busy_timeout(options.busy_timeout).map_err(|e| StoreError::sqlite(&doing, e))?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

impl Engine {
    pub(crate) fn open(options: &Options, role: Role) -> Result<Engine, StoreError> {
        let mut conn = connect(options, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // A negative size is in KiB, and takes 32 bits.
        let (cache_kib, checkpoint) = (options.page_cache_bytes.div_ceil(1024).min(1 << 30), options.checkpoint_pages);
        conn.execute_batch(&format!(
            "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{cache_kib}; PRAGMA wal_autocheckpoint = {checkpoint};"
        ))
        .doing("open the database")?;
        // Without it SQLite looks at bound values when it plans, and then compiles a cached statement anew at each use.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).doing("open the database")?;
        let keys = if role == Role::Write { "ON" } else { "OFF" };
        conn.execute_batch(&format!("PRAGMA foreign_keys = {keys};")).doing("open the database")?;
        if role == Role::Merge {
            conn.execute_batch("PRAGMA ignore_check_constraints = ON;").doing("open the database")?;
        }
        check_format(&conn, options)?;
        let library = companion::library(options);
        let companion = companion::attach(library.as_ref(), &conn)?;
        if companion && role == Role::Merge {
            isle_crsqlite::quiet(&conn, true)?;
        }
        let guard = Guard::install(&mut conn, role == Role::Merge)?;
        let capture = Arc::new(Mutex::new(Capture::default()));
        let direct = Direct::default();
        install_functions(&mut conn, role, &capture, &direct)?;
        Ok(Engine {
            conn,
            guard,
            role,
            tables: Vec::new(),
            by_id: HashMap::new(),
            own: None,
            capture,
            data_version: -1,
            schema_version: -1,
            epoch: 0,
            plan: None,
            queue_empty: false,
            expires: false,
            app_triggers: true,
            triggers_needed: true,
            outdated: false,
            stale: AtomicBool::new(false),
            guarded: Vec::new(),
            direct,
            ahead: Mutex::new(None),
            repaired: Vec::new(),
            library,
            companion,
        })
    }

    /// Starts a write transaction and catches up with what other connections did.
    pub(crate) fn begin(&mut self) -> Result<(), StoreError> {
        let mut statement = self.conn.prepare_cached("BEGIN IMMEDIATE").doing("start a write transaction")?;
        statement.execute([]).doing("start a write transaction")?;
        drop(statement);
        let refreshed = self.refresh();
        if refreshed.is_err() {
            self.rollback();
        }
        refreshed
    }

    pub(crate) fn commit(&mut self) -> Result<(), StoreError> {
        let mut statement = self.conn.prepare_cached("COMMIT").doing("commit")?;
        let result = statement.execute([]).doing("commit");
        drop(statement);
        if result.is_err() {
            self.rollback();
        }
        result.map(|_| ())
    }

    /// What was captured in passing. Not to be held while a statement runs.
    pub(crate) fn captured(&self) -> MutexGuard<'_, Capture> {
        self.capture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rolls back and forgets what the transaction had made of it.
    pub(crate) fn rollback(&mut self) {
        self.own = None;
        self.data_version = -1;
        // The temporary triggers, if this transaction made them, went with it.
        self.schema_version = -1;
        self.guarded.clear();
        self.queue_empty = false;
        self.captured().clear();
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "rollback failed; the connection is replaced at its next use");
        }
    }

    /// What the operations that are here declare, applied or not.
    pub(crate) fn ahead(&self) -> Result<Arc<crate::ahead::Ahead>, StoreError> {
        let sql = "SELECT count(*) FROM isle_migration";
        let count = crate::clocks::one::<i64>(&self.conn, sql, [])?.unwrap_or(0);
        let mut known = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            // None ever goes.
            Some((of, ahead)) if *of == count => Ok(Arc::clone(ahead)),
            _ => {
                let ahead = Arc::new(crate::ahead::Ahead::of(&self.conn)?);
                *known = Some((count, Arc::clone(&ahead)));
                Ok(ahead)
            }
        }
    }

    /// Reads again what other connections may have changed. In a transaction only.
    fn refresh(&mut self) -> Result<(), StoreError> {
        let version = self.pragma("PRAGMA data_version")?;
        if version == self.data_version && self.own.is_some() && !self.stale.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.queue_empty = false;
        self.epoch += 1;
        let schema = self.pragma("PRAGMA main.schema_version")?;
        if schema != self.schema_version {
            self.load_tables()?;
            self.schema_version = schema;
        }
        self.own = Some(Own::load(&self.conn)?);
        self.data_version = version;
        Ok(())
    }

    fn pragma(&self, sql: &str) -> Result<i64, StoreError> {
        let mut statement = self.conn.prepare_cached(sql).doing("look for changes by others")?;
        statement.query_row([], |row| row.get(0)).doing("look for changes by others")
    }

    /// Loads cr-sqlite, whatever the file is for.
    pub(crate) fn load_companion(&mut self) -> Result<(), StoreError> {
        if !self.companion {
            let library = self.library.as_ref().ok_or(StoreError::NeedsCrSqlite)?;
            // Whatever comes of it, it has to be let go of.
            self.companion = true;
            library.load(&self.conn)?;
            isle_crsqlite::quiet(&self.conn, self.role == Role::Merge)?;
        }
        Ok(())
    }

    pub(crate) fn library(&self) -> Option<&isle_crsqlite::Library> {
        self.library.as_ref()
    }

    /// Loads the tracked tables, and puts the temporary triggers on those that are new.
    pub(crate) fn load_tables(&mut self) -> Result<(), StoreError> {
        // Another process may have given the file to cr-sqlite meanwhile.
        if !self.companion && companion::of_file(&self.conn)? == crate::TableEngine::CrSqlite {
            self.load_companion()?;
        }
        self.tables = load_tables(&self.conn)?;
        self.by_id = self.tables.iter().map(|tracked| (tracked.table.id, Arc::clone(tracked))).collect();
        self.guard.watch(&self.tables, still(&self.conn, &self.tables)?);
        if self.role == Role::Write {
            // SQLite cannot drop a temporary trigger whose table was renamed past it: a new connection has none.
            self.outdated = true;
            drop_temporary_triggers(&self.conn)?;
            self.outdated = false;
            let hookable = self.tables.iter().filter(|tracked| tracked.hookable());
            let sql: String = hookable.map(|tracked| trigger_sql(tracked)).collect();
            self.conn.execute_batch(&sql).doing("watch the tracked tables")?;
            self.captured().watch(&self.tables);
        } else {
            self.ready_constraints()?;
            self.guard_deletes()?;
        }
        self.expires = crate::local::any(&self.conn)?;
        self.app_triggers = app_triggers(&self.conn)?;
        let queues = self.role == Role::Write && self.tables.iter().any(|tracked| !tracked.hookable());
        self.triggers_needed = self.app_triggers || queues;
        self.enable_triggers(self.triggers_needed)
    }

    /// Makes shadows and triggers for constraints that are new here. The rows that they may concern are owed a look.
    fn ready_constraints(&mut self) -> Result<(), StoreError> {
        let writes = crate::clocks::one::<i64>(&self.conn, "SELECT 1 FROM isle_table LIMIT 1", [])?.is_some();
        for tracked in self.tables.clone().iter().filter(|_| writes) {
            let fact = format!("constraints {}", tracked.no);
            let required = if tracked.required.is_empty() { String::new() } else { format!(" {:?}", tracked.required) };
            let print = format!("{:?} {:?} {:?}{required}", tracked.unique, tracked.foreign, tracked.physical);
            let known: Option<String> = layout::meta(&self.conn, &fact)?;
            let none = tracked.unique.is_empty() && tracked.foreign.is_empty() && tracked.required.is_empty();
            if known.as_ref() == Some(&print) || (none && !tracked.constrained) {
                continue;
            }
            crate::shadow::make(&self.conn, tracked, tracked)?;
            let [.., replaced, moved] = crate::triggers::names(tracked.no);
            let clashes = crate::triggers::clash_sql(tracked);
            let sql = format!("DROP TRIGGER IF EXISTS {replaced}; DROP TRIGGER IF EXISTS {moved}; {clashes}");
            self.conn.execute_batch(&sql).doing("watch the constraints")?;
            crate::repair::constraints_changed(&self.conn, tracked, &self.tables)?;
            layout::set_meta(&self.conn, &fact, print)?;
        }
        Ok(())
    }

    /// Looks at the rows whose constraints may not hold as the table shows them; gives the tables that changed.
    pub(crate) fn repair(&mut self) -> Result<Vec<i64>, StoreError> {
        if !crate::repair::is_owed(&self.conn)? {
            return Ok(Vec::new());
        }
        let settled = self.settle()?;
        let owed = crate::repair::take_owed(&self.conn)?;
        Ok(crate::repair::run(self, &settled, owed)?.into_iter().collect())
    }

    /// Whether triggers in the file have anything to do on this connection: isle's own stand aside here, and a table with
    /// triggers costs a statement journal, a fifth of a bulk write.
    /// Whether triggers of the app may have changed something: there are some, or one may just have been made.
    pub(crate) fn app_triggers(&self) -> bool {
        self.app_triggers || self.is_stale()
    }

    /// Lets triggers in the file fire or not; temporary ones always do.
    fn enable_triggers(&self, enabled: bool) -> Result<(), StoreError> {
        let set = self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, enabled);
        set.doing("choose which triggers fire").map(|_| ())
    }

    /// Whether the schema was changed through this connection since the tables were read.
    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    /// The app has made a trigger or a table in the open transaction: it counts at once, and the tables are read again.
    pub(crate) fn schema_touched(&self) -> Result<(), StoreError> {
        self.stale.store(true, Ordering::Relaxed);
        self.enable_triggers(true)
    }

    /// The site's state; `begin` has loaded it.
    pub(crate) fn own(&self) -> Result<Own, StoreError> {
        self.own.clone().ok_or_else(|| StoreError::Internal { table: "isle_meta", detail: "no transaction".to_owned() })
    }

    /// Lets triggers of the app delete nothing from replicated tables while this connection merges: the authorizer can
    /// skip their inserts and updates, but not their deletes. Compiling one statement of each kind shows which tables need it.
    fn guard_deletes(&mut self) -> Result<(), StoreError> {
        let sql = "SELECT DISTINCT tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name NOT LIKE 'isle\\_%' ESCAPE '\\' AND "
            .to_owned()
            + companion::not_of_cr_sqlite!(trigger "name");
        let mut statement = self.conn.prepare(&sql).doing("look for triggers")?;
        let names = statement.query_map([], |row| row.get::<_, String>(0)).doing("look for triggers")?;
        let names: Vec<String> = names.collect::<Result<_, _>>().doing("look for triggers")?;
        drop(statement);
        let with_triggers = |tracked: &&Arc<Tracked>| names.iter().any(|n| n.eq_ignore_ascii_case(&tracked.table.name));
        for tracked in self.tables.iter().filter(with_triggers) {
            let table = quoted(&tracked.table.name);
            let assigned = format!("{}{}", tracked.key_list(""), tracked.column_list(""));
            let update = join(assigned.split(", ").map(|column| format!("{column} = {column}")), ", ");
            for sql in [
                format!("DELETE FROM {table} WHERE 0"),
                format!("INSERT INTO {table}({assigned}) SELECT {assigned} FROM {table} WHERE 0"),
                format!("UPDATE {table} SET {update} WHERE 0"),
            ] {
                if let Err(error) = self.conn.prepare(&sql) {
                    tracing::warn!(%error, table = tracked.table.name, "a trigger of this table does not compile");
                }
            }
        }
        for name in self.guard.deleted_by_triggers() {
            if self.guarded.contains(&name) {
                continue;
            }
            let found = self.tables.iter().find(|tracked| tracked.table.name.eq_ignore_ascii_case(&name));
            let Some(tracked) = found else { continue };
            let keys = join(tracked.table.key.iter().map(|column| format!("OLD.{}", quoted(&column.name))), ", ");
            let (no, on) = (tracked.no, quoted(&tracked.table.name));
            let sql = format!(
                "CREATE TEMP TRIGGER IF NOT EXISTS isle_guard{no} BEFORE DELETE ON main.{on} WHEN NOT isle_direct({no}, {keys})
                 BEGIN SELECT RAISE(IGNORE); END"
            );
            self.conn.execute_batch(&sql).doing("guard a table")?;
            self.guarded.push(name);
        }
        Ok(())
    }

    /// Tables whose deletes must be announced, and the place for the exact key.
    pub(crate) fn direct(&self) -> (Direct, Vec<i64>) {
        let guarded = |tracked: &&Arc<Tracked>| self.guarded.contains(&tracked.table.name.to_ascii_lowercase());
        (Arc::clone(&self.direct), self.tables.iter().filter(guarded).map(|tracked| tracked.no).collect())
    }

    /// Runs isle's own work in one write transaction. What foreign clients queued is sealed first.
    pub(crate) fn transaction<T>(
        &mut self,
        now_ms: u64,
        f: impl FnOnce(&mut Engine) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.begin()?;
        let result = self.seal_foreign(now_ms).and_then(|_| {
            self.expire(now_ms)?;
            self.catch_up(now_ms)?;
            if companion::is_due(&self.tables) {
                companion::review(self)?;
            }
            self.repaired = self.repair()?;
            f(self)
        });
        match result {
            Ok(value) => self.commit().map(|()| value),
            Err(error) => {
                self.rollback();
                Err(error)
            }
        }
    }

    /// Tables were made anew: their guards went with the old ones.
    pub(crate) fn forget_guards(&mut self) {
        self.guarded.clear();
    }

    /// Deletes the rows of local tables whose time has come.
    pub(crate) fn expire(&self, now_ms: u64) -> Result<(), StoreError> {
        if self.expires {
            self.guard.with(Mode::Engine, || crate::local::expire(&self.conn, now_ms))?;
        }
        Ok(())
    }

    /// Brings tables that stood still, and are what they were again, to today's schema, and merges what they missed.
    fn catch_up(&mut self, now_ms: u64) -> Result<(), StoreError> {
        let sql = "SELECT 1 FROM isle_meta WHERE k > 'missed ' AND k < 'missed!' LIMIT 1";
        if crate::clocks::one::<i64>(&self.conn, sql, [])?.is_none() {
            return Ok(());
        }
        let mut returned = Vec::new();
        for tracked in &self.tables {
            let fact = format!("missed {}", tracked.table.id);
            if layout::meta::<i64>(&self.conn, &fact)?.is_some() {
                returned.push(fact);
            }
        }
        if returned.is_empty() {
            return Ok(());
        }
        // What does not fit must not hold up everything else: it is tried again.
        self.conn.execute_batch("SAVEPOINT isle_return").doing("catch up")?;
        let followed = match self.own()?.heads.first().copied() {
            Some(head) => crate::alter::follow(self, head, now_ms, false),
            None => Ok(()),
        };
        match followed.and_then(|()| crate::parked::replay(self)) {
            Ok(()) => {
                for fact in returned {
                    self.conn.execute("DELETE FROM isle_meta WHERE k = ?1", [fact]).doing("catch up")?;
                }
                self.conn.execute_batch("RELEASE isle_return").doing("catch up")
            }
            Err(error) if error.is_local() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "a table that stood still cannot be brought to the schema of today");
                self.conn.execute_batch("ROLLBACK TO isle_return; RELEASE isle_return").doing("catch up")?;
                self.own = Some(Own::load(&self.conn)?);
                self.load_tables()
            }
        }
    }

    /// Seals what foreign clients queued as a version of its own; gives the tables that they changed.
    pub(crate) fn seal_foreign(&mut self, now_ms: u64) -> Result<Vec<i64>, StoreError> {
        if self.queue_empty || !crate::seal::queue_waits(&self.conn)? {
            self.queue_empty = true;
            return Ok(Vec::new());
        }
        let mut own = self.own()?;
        let sealed = self.guard.with(Mode::Engine, || {
            companion::collect(&self.conn, &self.tables, now_ms)?;
            crate::seal::seal_queue(&self.conn, &mut own, &self.tables, Stamping::now(now_ms))
        })?;
        self.own = Some(own);
        self.queue_empty = true;
        Ok(sealed.map(|sealed| sealed.tables).unwrap_or_default())
    }
}

/// What triggers on isle's own connections call: who writes tells the capture, who merges asks whether a row goes by its own hand.
fn install_functions(
    conn: &mut Connection,
    role: Role,
    capture: &Arc<Mutex<Capture>>,
    direct: &Direct,
) -> Result<(), StoreError> {
    match role {
        Role::Write => {
            let inserts = Arc::clone(capture);
            let inserted_hook = move |action: Action, database: &str, table: &str, rowid: i64| {
                let own = table.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("isle_"));
                if action == Action::SQLITE_INSERT && !own && database == "main" {
                    inserts.lock().unwrap_or_else(PoisonError::into_inner).inserted(table, rowid);
                }
            };
            let capture = Arc::clone(capture);
            let function = move |context: &rusqlite::functions::Context<'_>| {
                capture.lock().unwrap_or_else(PoisonError::into_inner).row(context)?;
                Ok(rusqlite::types::Null)
            };
            conn.create_scalar_function(FUNCTION, -1, FunctionFlags::SQLITE_UTF8, function)
                .doing("open the database")?;
            conn.update_hook(Some(inserted_hook)).doing("open the database")?;
        }
        Role::Merge => {
            let direct = Arc::clone(direct);
            let function = move |context: &rusqlite::functions::Context<'_>| {
                let values: Vec<_> = (0..context.len()).map(|n| crate::clocks::from_sql(context.get_raw(n))).collect();
                let packed = isle_changeset::pack_key(&values);
                Ok(*direct.lock().unwrap_or_else(PoisonError::into_inner) == packed)
            };
            conn.create_scalar_function("isle_direct", -1, FunctionFlags::SQLITE_UTF8, function)
                .doing("open the database")?;
        }
    }
    Ok(())
}

fn drop_temporary_triggers(conn: &Connection) -> Result<(), StoreError> {
    let mut statement =
        conn.prepare("SELECT name FROM sqlite_temp_schema WHERE type = 'trigger'").doing("watch the tables")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0)).doing("watch the tables")?;
    let names: Vec<String> = names.collect::<Result<_, _>>().doing("watch the tables")?;
    for name in names.iter().filter(|name| name.starts_with("isle_t")) {
        conn.execute_batch(&format!("DROP TRIGGER temp.{}", quoted(name))).doing("watch the tables")?;
    }
    Ok(())
}

/// Refuses a file that is no replica or one of a newer format.
pub(crate) fn check_format(conn: &Connection, options: &Options) -> Result<(), StoreError> {
    let path = || options.path.display().to_string();
    match layout::format(conn)? {
        None => Err(StoreError::NotReplica { path: path() }),
        Some(found) if found > FORMAT => Err(StoreError::NewerFormat { path: path(), found, known: FORMAT }),
        Some(_) => Ok(()),
    }
}

/// The tracked tables of the file that are as they should be. One that was altered past isle stands still; `check` reports it.
pub(crate) fn load_tables(conn: &Connection) -> Result<Vec<Arc<Tracked>>, StoreError> {
    let mut tables = Vec::new();
    for loaded in load_each(conn)? {
        match loaded {
            Ok(tracked) => tables.push(tracked),
            Err(error @ StoreError::Drifted { .. }) => tracing::warn!(%error, "a tracked table stands still"),
            Err(error) => return Err(error),
        }
    }
    Ok(crate::constraints::connect(tables))
}

/// Every tracked table, or why it cannot be worked with.
pub(crate) fn load_each(conn: &Connection) -> Result<Vec<Result<Tracked, StoreError>>, StoreError> {
    let mut statement = conn.prepare("SELECT no, def FROM isle_table ORDER BY no").doing("read the tracked tables")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
    let mut tables = Vec::new();
    let companions = companion::Companions::look(conn)?;
    for row in rows.doing("read the tracked tables")? {
        let (no, definition) = row.doing("read the tracked tables")?;
        let loaded = tracked::load(conn, no, LocalTable::of_json(&definition)?);
        tables.push(loaded.and_then(|tracked| companions.join(tracked)));
    }
    Ok(tables)
}

/// The numbers and ids of tracked tables that cannot be worked with.
fn still_listed(conn: &Connection, tables: &[Arc<Tracked>]) -> Result<Vec<(i64, TableId)>, StoreError> {
    let mut statement = conn.prepare("SELECT no, id FROM isle_table ORDER BY no").doing("read the tracked tables")?;
    let listed = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, TableId::from_bytes(row.get(1)?))));
    let listed: Vec<(i64, TableId)> =
        listed.doing("read the tracked tables")?.collect::<Result<_, _>>().doing("read the tracked tables")?;
    Ok(listed.into_iter().filter(|(no, _)| tables.iter().all(|tracked| tracked.no != *no)).collect())
}

/// The ids of tracked tables that cannot be worked with.
pub(crate) fn still_ids(conn: &Connection, tables: &[Arc<Tracked>]) -> Result<Vec<TableId>, StoreError> {
    Ok(still_listed(conn, tables)?.into_iter().map(|(_, id)| id).collect())
}

/// The names, in lower case, under which they stand in the file: isle's triggers tell.
fn still(conn: &Connection, tables: &[Arc<Tracked>]) -> Result<std::collections::HashSet<String>, StoreError> {
    let mut still = std::collections::HashSet::new();
    for (no, _) in still_listed(conn, tables)? {
        let [inserts, ..] = crate::triggers::names(no);
        let sql = "SELECT lower(tbl_name) FROM sqlite_schema WHERE type = 'trigger' AND name = ?1
                   UNION ALL SELECT lower(name) FROM isle_table WHERE no = ?2 LIMIT 1";
        still.extend(crate::clocks::one::<String>(conn, sql, rusqlite::params![inserts, no])?);
    }
    Ok(still)
}

fn app_triggers(conn: &Connection) -> Result<bool, StoreError> {
    let sql = concat!(
        "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name NOT LIKE 'isle\\_%' ESCAPE '\\' AND ",
        companion::not_of_cr_sqlite!(trigger "name"),
        " LIMIT 1"
    );
    Ok(crate::clocks::one::<i64>(conn, sql, [])?.is_some())
}
