//! Which engine keeps which table, and from one to the other.

use std::sync::Arc;

use isle_crsqlite::Library;
use rusqlite::Connection;

use super::record::reconcile;
use super::shown::mirror;
use super::{CR_SQLITE, FACT, TableEngine, TableEngineOf, crr, fact, known, not_of_cr_sqlite, of_file};
use crate::engine::{Engine, Role};
use crate::error::Doing as _;
use crate::tracked::Tracked;
use crate::{Options, Store, StoreError, layout, triggers};

/// Why a table is not for cr-sqlite; `None` if it can be.
pub(super) fn cannot_hold(conn: &Connection, tracked: &Tracked) -> Result<Option<String>, StoreError> {
    if let Some(kind) = tracked.kinds.first() {
        let column = &tracked.table.columns[kind.cell - 1].name;
        return Ok(Some(format!("column {column:?} is merged as {}", kind.kind.as_str())));
    }
    if !tracked.groups.is_empty() {
        return Ok(Some("columns of it are written together".to_owned()));
    }
    Ok(isle_crsqlite::cannot_hold(conn, &tracked.table.name)?)
}

/// The fact that says why a table stays with isle in a file that is for cr-sqlite.
fn lowered(no: i64) -> String {
    format!("lowered {no}")
}

/// The fact that says that a table was a CRR before isle came.
fn found(no: i64) -> String {
    format!("found crr {no}")
}

/// Makes every table what the engine of the file says, where that can hold it.
pub(crate) fn review(engine: &mut Engine) -> Result<(), StoreError> {
    let file = of_file(&engine.conn)?;
    if file == TableEngine::Native && known(&engine.conn)?.is_empty() {
        return Ok(());
    }
    let mut changed = put_back(engine)?;
    for tracked in engine.tables.clone() {
        let reason = match file {
            TableEngine::CrSqlite => refusal(engine, &tracked)?,
            TableEngine::Native => Some(String::new()),
        };
        note_lowered(&engine.conn, tracked.no, reason.as_deref().filter(|reason| !reason.is_empty()))?;
        match (&tracked.crr, reason) {
            (None, None) => become_crr(engine, &tracked)?,
            (Some(crr), Some(_)) => become_native(&engine.conn, &tracked, crr.table())?,
            (None, Some(_)) => match isle_crsqlite::name_of(&engine.conn, &tracked.table.name)? {
                // It was one before, and never became one of isle's.
                Some(name) => become_native(&engine.conn, &tracked, &name)?,
                None => continue,
            },
            (Some(_), None) => continue,
        }
        changed = true;
    }
    if changed {
        engine.forget_guards();
        engine.load_tables()?;
    }
    Ok(())
}

/// Whether a table has become something that cr-sqlite cannot hold, past any migration, because an app has made a UNIQUE index, say; or has come to be kept
/// by both.
pub(crate) fn is_due(tables: &[Arc<Tracked>]) -> bool {
    let refused = |tracked: &Tracked| !(tracked.unique.is_empty() && tracked.references.is_empty());
    tables.iter().any(|tracked| tracked.is_both || (tracked.crr.is_some() && refused(tracked)))
}

/// Takes up the tables that cr-sqlite was taken off past isle: they stand still, and nobody recorded what was written to them.
fn put_back(engine: &mut Engine) -> Result<bool, StoreError> {
    let mut lost = Vec::new();
    for no in known(&engine.conn)? {
        if engine.tables.iter().all(|tracked| tracked.no != no) {
            forget(&engine.conn, &[fact(no)])?;
            lost.push(no);
        }
    }
    if lost.is_empty() {
        return Ok(false);
    }
    engine.load_tables()?;
    let now_ms = 1;
    for tracked in engine.tables.clone().iter().filter(|tracked| lost.contains(&tracked.no)) {
        triggers::remove(&engine.conn, tracked.no)?;
        triggers::install(&engine.conn, tracked)?;
        reconcile(&engine.conn, tracked, now_ms)?;
    }
    engine.queue_empty = false;
    engine.seal_foreign(now_ms)?;
    Ok(true)
}

/// Why a table is not for cr-sqlite, which is tried where nothing speaks against it.
fn refusal(engine: &Engine, tracked: &Tracked) -> Result<Option<String>, StoreError> {
    let conn = &engine.conn;
    if let Some(reason) = cannot_hold(conn, tracked)? {
        return Ok(Some(reason));
    }
    let name = &tracked.table.name;
    if tracked.crr.is_some() || isle_crsqlite::name_of(conn, name)?.is_some() {
        return Ok(None);
    }
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    let create = crate::clocks::one::<String>(conn, sql, [name])?.unwrap_or_default();
    let library = engine.library().ok_or(StoreError::NeedsCrSqlite)?;
    Ok(isle_crsqlite::try_on(library, name, &create)?)
}

fn note_lowered(conn: &Connection, no: i64, reason: Option<&str>) -> Result<(), StoreError> {
    match reason {
        Some(reason) => layout::set_meta(conn, &lowered(no), reason),
        None => forget(conn, &[lowered(no)]),
    }
}

fn become_crr(engine: &Engine, tracked: &Tracked) -> Result<(), StoreError> {
    engine.settle()?;
    let conn = &engine.conn;
    triggers::remove(conn, tracked.no)?;
    let name = &tracked.table.name;
    let known_as = match isle_crsqlite::name_of(conn, name)? {
        Some(known_as) => {
            layout::set_meta(conn, &found(tracked.no), 1)?;
            known_as
        }
        None => {
            isle_crsqlite::make_crr(conn, name)?;
            name.clone()
        }
    };
    layout::set_meta(conn, &fact(tracked.no), 1)?;
    mirror(conn, tracked, &crr(tracked, &known_as))?;
    triggers::install_zero_sign(conn, tracked)?;
    tracing::debug!(table = name, "cr-sqlite keeps this table");
    Ok(())
}

fn become_native(conn: &Connection, tracked: &Tracked, known_as: &str) -> Result<(), StoreError> {
    isle_crsqlite::make_table(conn, known_as)?;
    forget(conn, &[fact(tracked.no), found(tracked.no)])?;
    triggers::remove(conn, tracked.no)?;
    triggers::install(conn, tracked)?;
    tracing::debug!(table = tracked.table.name, "isle's triggers keep this table");
    Ok(())
}

/// Makes a CRR a plain table, which nothing records any more, while it is changed; nothing happens to another one.
pub(crate) fn release(conn: &Connection, tracked: &Tracked) -> Result<(), StoreError> {
    if let Some(crr) = &tracked.crr {
        isle_crsqlite::make_table(conn, crr.table())?;
        forget(conn, &[fact(tracked.no)])?;
    }
    Ok(())
}

/// Lets go of a table that isle does not keep any longer: one that was a CRR before isle came stays one.
pub(crate) fn let_go(conn: &Connection, tracked: &Tracked) -> Result<(), StoreError> {
    if layout::meta::<i64>(conn, &found(tracked.no))?.is_none() {
        release(conn, tracked)?;
    }
    forget(conn, &[fact(tracked.no), found(tracked.no), lowered(tracked.no)])
}

fn forget(conn: &Connection, facts: &[String]) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached("DELETE FROM isle_meta WHERE k = ?1").doing("note the engine")?;
    facts.iter().try_for_each(|fact| statement.execute([fact]).doing("note the engine").map(|_| ()))
}

/// Triggers that a CRR has lost, without which cr-sqlite records nothing.
pub(crate) fn lost_triggers(conn: &Connection, tracked: &Tracked) -> Result<Vec<String>, StoreError> {
    let Some(crr) = &tracked.crr else { return Ok(Vec::new()) };
    let mut lost = Vec::new();
    for trigger in isle_crsqlite::TRIGGERS {
        let name = format!("{}__crsql_{trigger}", crr.table());
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ?1";
        if crate::clocks::one::<i64>(conn, sql, [&name])?.is_none() {
            lost.push(name);
        }
    }
    Ok(lost)
}

/// Whether the app has triggers on a table: cr-sqlite would show them rows cell by cell.
pub(crate) fn has_app_triggers(conn: &Connection, table: &str) -> Result<bool, StoreError> {
    let sql = concat!(
        "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE
         AND name NOT LIKE 'isle\\_%' ESCAPE '\\' AND ",
        not_of_cr_sqlite!(trigger "name"),
        " LIMIT 1"
    );
    Ok(crate::clocks::one::<i64>(conn, sql, [table])?.is_some())
}

impl Store {
    /// Makes cr-sqlite keep the tables of this file, where it can hold them, or isle alone. What others see of them, and
    /// every stamp, stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NeedsCrSqlite`] when [`Options::cr_sqlite`] names no extension, [`StoreError::CrSqlite`] when it cannot be loaded.
    pub fn set_engine(&self, wanted: TableEngine) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let mut engines = self.engines();
        (engines.write, engines.merge) = (None, None);
        let mut engine = Engine::open(self.options(), Role::Merge)?;
        if wanted == TableEngine::CrSqlite {
            engine.load_companion()?;
        }
        let names = engine.transaction(now_ms, |engine| {
            match wanted {
                TableEngine::CrSqlite => layout::set_meta(&engine.conn, FACT, CR_SQLITE)?,
                TableEngine::Native => forget(&engine.conn, &[FACT.to_owned()])?,
            }
            review(engine)?;
            Ok(engine.tables.iter().map(|tracked| tracked.table.name.clone()).collect())
        })?;
        drop(engine);
        drop(engines);
        self.notify(names, false);
        Ok(())
    }

    /// The engine that the file is for.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn engine(&self) -> Result<TableEngine, StoreError> {
        self.read(of_file)
    }

    /// What keeps each table.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn table_engines(&self) -> Result<Vec<TableEngineOf>, StoreError> {
        self.snapshot(|conn| {
            let file = of_file(conn)?;
            let mut found = Vec::new();
            for loaded in crate::engine::load_each(conn)? {
                let tracked = match loaded {
                    Ok(tracked) => tracked,
                    Err(StoreError::Drifted { table, reason }) => {
                        found.push(TableEngineOf {
                            table,
                            engine: file,
                            reason: Some(format!("it stands still: {reason}")),
                        });
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let engine = if tracked.crr.is_some() { TableEngine::CrSqlite } else { TableEngine::Native };
                let reason = match file == engine {
                    true => None,
                    false => layout::meta(conn, &lowered(tracked.no))?,
                };
                found.push(TableEngineOf { table: tracked.table.name.clone(), engine, reason });
            }
            found.sort_by(|a, b| a.table.cmp(&b.table));
            Ok(found)
        })
    }
}

/// Whether the extension that the options name can be loaded, and knows the tables that cr-sqlite has in the file already.
///
/// # Errors
/// [`StoreError::NeedsCrSqlite`] when they name none, [`StoreError::CrSqlite`] when it cannot.
pub fn try_cr_sqlite(options: &Options) -> Result<(), StoreError> {
    let library = library(options).ok_or(StoreError::NeedsCrSqlite)?;
    let conn = Connection::open_in_memory().doing("try cr-sqlite")?;
    let loaded = library.load(&conn);
    isle_crsqlite::release(&conn);
    loaded?;
    if options.path.exists() {
        isle_crsqlite::check_version(&crate::store::open_reader(options)?)?;
    }
    Ok(())
}

/// The tables of a file that are CRRs of cr-sqlite; none where it is no database.
pub fn crrs_of(path: &std::path::Path) -> Vec<String> {
    let found = crate::store::open_reader(&Options::new(path)).and_then(|conn| Ok(isle_crsqlite::crrs(&conn)?));
    found.unwrap_or_default()
}

/// The extension that the options name.
pub(crate) fn library(options: &Options) -> Option<Library> {
    options.cr_sqlite.as_ref().map(Library::new)
}
