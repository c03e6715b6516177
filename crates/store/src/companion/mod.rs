//! Tables that are CRRs of cr-sqlite as well: its triggers record what is written to them, and it merges what comes.
//!
//! The row clocks stay what everything else goes by (state hash, journal, history, snapshots, the log), so that such a file does all that any
//! other does. cr-sqlite's own clocks say the same at the end of every transaction of isle's:
//! * what it recorded goes to the queue before a seal ([`collect`]) and gets the seal's time as its version ([`stamp`]);
//! * what a merge decides is given to cr-sqlite, which decides by itself ([`Shown`]); where it comes to something else, as with a tie of
//!   times, its clocks are settled by force.
//!
//! A fact `crsql <table>` says that a table is a CRR. The fact `engine` says that the file is for
//! cr-sqlite: then tables become CRRs where cr-sqlite can hold them, and those that it cannot hold (UNIQUE, FOREIGN KEY, columns of a kind, …) keep isle's
//! triggers, in the same file ([`review`]). A migration that changes a CRR makes it a plain table for as long as that takes: the clocks are
//! written anew afterwards, which costs what the rows cost. We tried nothing with `crsql_begin_alter`: it back-fills clocks that isle then replaces.
//!
//! On the merging connection cr-sqlite's triggers stand aside at all times, but for the moments in which it merges itself.

pub(crate) mod adopt;

use std::collections::HashMap;
use std::sync::Arc;

use isle_changeset::{Value, ValueRef, canonical_key};
use isle_crsqlite::{Cell, CrSqliteError, Crr, Library, Life, Site};
use rusqlite::Connection;

use crate::clocks::{ClockTable, LocalStamp, RowClock, from_sql};
use crate::engine::{Engine, Role};
use crate::error::Doing as _;
use crate::layout;
use crate::seal::bits;
use crate::tracked::{Tracked, WORD_BITS, join};
use crate::{Options, Store, StoreError, triggers};

const FACT: &str = "engine";
const CR_SQLITE: &str = "cr-sqlite";

/// The SQL condition that a trigger of this name is none of cr-sqlite's own, and that a table is none.
macro_rules! not_of_cr_sqlite {
    (trigger $name:literal) => {
        concat!($name, " NOT LIKE '%\\_\\_crsql\\__trig' ESCAPE '\\'")
    };
    (table $name:literal) => {
        concat!(
            $name,
            " NOT IN ('crsql_master', 'crsql_site_id', 'crsql_tracked_peers', 'crsql_db_versions') AND ",
            $name,
            " NOT LIKE '%\\_\\_crsql\\_clock' ESCAPE '\\' AND ",
            $name,
            " NOT LIKE '%\\_\\_crsql\\_pks' ESCAPE '\\'"
        )
    };
}
pub(crate) use not_of_cr_sqlite;

/// What records and merges the tables of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableEngine {
    /// isle's own triggers and merge.
    Native,
    /// cr-sqlite, for the tables that it can hold.
    CrSqlite,
}

/// A table, and what records and merges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEngineOf {
    /// Its name.
    pub table: String,
    /// What it is kept by.
    pub engine: TableEngine,
    /// Why not by the engine of the file.
    pub reason: Option<String>,
}

/// The engine that the file is for.
pub(crate) fn of_file(conn: &Connection) -> Result<TableEngine, StoreError> {
    match layout::meta::<String>(conn, FACT)?.as_deref() {
        None => Ok(TableEngine::Native),
        Some(CR_SQLITE) => Ok(TableEngine::CrSqlite),
        Some(other) => Err(StoreError::Internal { table: "isle_meta", detail: format!("engine {other:?}") }),
    }
}

/// Loads cr-sqlite into a connection that will write, if the file is for it; false if it is not.
pub(crate) fn attach(library: Option<&Library>, conn: &Connection) -> Result<bool, StoreError> {
    if of_file(conn)? == TableEngine::Native {
        return Ok(false);
    }
    let library = library.ok_or(StoreError::NeedsCrSqlite)?;
    match library.load(conn) {
        Ok(()) => Ok(true),
        Err(error) => {
            isle_crsqlite::release(conn);
            Err(error.into())
        }
    }
}

fn fact(no: i64) -> String {
    format!("crsql {no}")
}

/// Which tracked tables are CRRs as well.
pub(crate) struct Companions {
    file: TableEngine,
    crrs: Vec<String>,
    known: Vec<i64>,
}

impl Companions {
    pub(crate) fn look(conn: &Connection) -> Result<Companions, StoreError> {
        // Cheaper than a look into the schema where it never was.
        let crrs = match conn.prepare("SELECT 1 FROM crsql_master") {
            Ok(_) => isle_crsqlite::crrs(conn)?,
            Err(_) => Vec::new(),
        };
        if crrs.is_empty() && of_file(conn)? == TableEngine::Native {
            return Ok(Companions { file: TableEngine::Native, crrs, known: Vec::new() });
        }
        Ok(Companions { file: of_file(conn)?, crrs, known: known(conn)? })
    }

    /// A table with what it is as a CRR; or why it cannot be worked with, if both engines record it or none does.
    pub(crate) fn join(&self, tracked: Tracked) -> Result<Tracked, StoreError> {
        let name = &tracked.table.name;
        let drift = |reason: &str| Err(StoreError::Drifted { table: name.clone(), reason: reason.to_owned() });
        let known_as = self.crrs.iter().find(|crr| crr.eq_ignore_ascii_case(name));
        match (self.known.contains(&tracked.no), known_as.is_some()) {
            (false, false) => Ok(tracked),
            (true, true) => {
                let known_as = known_as.cloned().unwrap_or_default();
                Ok(Tracked { crr: Some(crr(&tracked, &known_as)), ..tracked })
            }
            // It is about to be adopted.
            (false, true) if self.file == TableEngine::CrSqlite => Ok(tracked),
            (false, true) => drift(
                "cr-sqlite was put on it past isle, so that both record it: take it off again (`SELECT crsql_as_table(…)`), or let cr-sqlite keep the \
                 file (`isle engine cr-sqlite`)",
            ),
            (true, false) => drift(
                "cr-sqlite was taken off it past isle, so that nobody records it: `isle engine cr-sqlite` puts it on again, `isle engine native` lets isle keep it. \
                 Rows that came or went meanwhile count as written then, other changes are not known",
            ),
        }
    }
}

/// The numbers of the tables that are CRRs.
fn known(conn: &Connection) -> Result<Vec<i64>, StoreError> {
    let sql = "SELECT CAST(substr(k, 7) AS INTEGER) FROM isle_meta WHERE k > 'crsql ' AND k < 'crsql!'";
    let mut statement = conn.prepare_cached(sql).doing("list the CRRs")?;
    let known = statement.query_map([], |row| row.get(0)).doing("list the CRRs")?;
    known.collect::<Result<_, _>>().doing("list the CRRs")
}

/// The statements on the clocks that cr-sqlite keeps of a table, which it knows by this name.
pub(crate) fn crr(tracked: &Tracked, known_as: &str) -> Crr {
    // As the file spells them: cr-sqlite takes other letters for another name.
    let spelled = |name: &str| {
        let column = tracked.physical.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        column.map_or_else(|| name.to_owned(), |column| column.name.clone())
    };
    let key: Vec<String> = tracked.table.key.iter().map(|column| spelled(&column.name)).collect();
    let columns: Vec<String> = tracked.table.columns.iter().map(|column| spelled(&column.name)).collect();
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    Crr::new(known_as, &key, &columns)
}

/// Rows of CRRs that were written to and not sealed yet; no extension is needed to count them.
pub(crate) fn waiting(conn: &Connection) -> Result<u64, StoreError> {
    let mut rows = 0;
    for table in unsealed(conn)? {
        rows += isle_crsqlite::written_rows(conn, &table)?;
    }
    Ok(rows)
}

/// Whether there are any.
pub(crate) fn waits(conn: &Connection) -> Result<bool, StoreError> {
    Ok(!unsealed(conn)?.is_empty())
}

/// The CRRs that were written to since the last seal, as cr-sqlite knows them.
fn unsealed(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    for no in known(conn)? {
        let Some(name) = crate::clocks::one::<String>(conn, "SELECT name FROM isle_table WHERE no = ?1", [no])? else {
            continue;
        };
        // One that is no CRR any more stands still.
        if let Some(name) = isle_crsqlite::name_of(conn, &name)?
            && isle_crsqlite::is_written(conn, &name)?
        {
            found.push(name);
        }
    }
    Ok(found)
}

/// Queues what cr-sqlite recorded since the last seal, as triggers would have.
pub(crate) fn collect(conn: &Connection, tables: &[Arc<Tracked>], now_ms: u64) -> Result<(), StoreError> {
    for tracked in tables {
        let Some(crr) = &tracked.crr else { continue };
        record_zeros(conn, tracked, crr)?;
        let any = format!("SELECT 1 FROM {} LIMIT 1", tracked.clock());
        if crr.is_foreign(conn)? && crate::clocks::one::<i64>(conn, &any, [])?.is_some() {
            // cr-sqlite was put on it anew past isle, and knows nothing of what went before.
            reconcile(conn, tracked, now_ms)?;
        }
        crr.written(conn, |key, columns| {
            let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
            // A REPLACE, of which cr-sqlite records the insert alone, may have given the key another form.
            let masks = columns.filter(|columns| columns.len() < tracked.table.columns.len()).map(|columns| {
                let mut masks = vec![0; tracked.queue_words()];
                columns
                    .iter()
                    .map(|column| column + 1)
                    .for_each(|cell| masks[cell / WORD_BITS] |= 1 << (cell % WORD_BITS));
                masks
            });
            crate::seal::enqueue(conn, tracked, masks.as_deref(), &key, now_ms)
        })?;
    }
    Ok(())
}

/// Queues rows that came or went while nobody recorded the table: those that are there without a clock, or the other way round.
fn reconcile(conn: &Connection, tracked: &Tracked, now_ms: u64) -> Result<(), StoreError> {
    let on = join(
        tracked.table.key.iter().enumerate().map(|(n, column)| format!("d.{} = c.k{n}", layout::quoted(&column.name))),
        " AND ",
    );
    let (clock, table, alive) = (tracked.clock(), layout::quoted(&tracked.table.name), crate::clocks::alive("c."));
    let clock_key = join(tracked.clock_key().into_iter().map(|key| format!("c.{key}")), ", ");
    let row_key = tracked.key_list("d.");
    for sql in [
        format!(
            "SELECT {clock_key} FROM {clock} AS c WHERE {alive} AND NOT EXISTS (SELECT 1 FROM {table} AS d WHERE {on})"
        ),
        format!(
            "SELECT {row_key} FROM {table} AS d WHERE NOT EXISTS (SELECT 1 FROM {clock} AS c WHERE {on} AND {alive})"
        ),
    ] {
        let mut statement = conn.prepare(&sql).doing("look for what was not recorded")?;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().doing("look for what was not recorded")? {
            let key = (0..tracked.table.key.len()).map(|n| row.get_ref(n).map(from_sql));
            let key: Vec<_> = key.collect::<Result<_, _>>().doing("look for what was not recorded")?;
            crate::seal::enqueue(conn, tracked, None, &key, now_ms)?;
        }
    }
    Ok(())
}

/// Lets cr-sqlite record what it takes for no change, a zero that changed its sign: the one trigger of isle's on a CRR queued it.
fn record_zeros(conn: &Connection, tracked: &Tracked, crr: &Crr) -> Result<(), StoreError> {
    let (words, keys) = (tracked.queue_words(), tracked.table.key.len());
    let columns = join((0..words).map(|n| format!("m{n}")).chain(tracked.clock_key()), ", ");
    let sql = format!("SELECT {columns} FROM isle_queue WHERE t = ?1");
    let mut statement = conn.prepare_cached(&sql).doing("read the queue")?;
    let mut rows = statement.query([tracked.no]).doing("read the queue")?;
    while let Some(row) = rows.next().doing("read the queue")? {
        let mut changed = Vec::new();
        for word in 0..words {
            let mask = row.get::<_, Option<i64>>(word).doing("read the queue")?.unwrap_or(0) as u64;
            changed
                .extend(bits(&[mask]).map(|bit| word * WORD_BITS + bit).filter(|cell| *cell > 0).map(|cell| cell - 1));
        }
        let key = (0..keys).map(|n| row.get_ref(words + n).map(from_sql));
        let key: Vec<_> = key.collect::<Result<_, _>>().doing("read the queue")?;
        crr.record(conn, &key, &changed)?;
    }
    Ok(())
}

/// Gives what was just sealed of these tables its stamp in cr-sqlite's clocks.
pub(crate) fn stamp(conn: &Connection, tables: &[Arc<Tracked>], stamp: LocalStamp) -> Result<(), StoreError> {
    for tracked in tables {
        let Some(crr) = &tracked.crr else { continue };
        if !isle_crsqlite::is_written(conn, crr.table())? {
            continue;
        }
        let site = *crate::own::site_id(conn, stamp.site)?.as_bytes();
        let mut clocks = ClockTable::open(conn, tracked);
        crr.stamp(conn, stamp.hlc as i64, site, |key| {
            let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
            let (key, _) = canonical_key(&key, &tracked.table.key);
            let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
            clocks.length(&key)
        })?;
    }
    Ok(())
}

/// What a merge needs to show its rows in a CRR.
pub(crate) struct Shown<'c> {
    conn: &'c Connection,
    sites: HashMap<i64, Site>,
}

impl<'c> Shown<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Shown<'c> {
        Shown { conn, sites: HashMap::new() }
    }

    /// A cell with a stamp in cr-sqlite's terms.
    fn cell<'v>(&mut self, cell: usize, stamp: LocalStamp, value: ValueRef<'v>) -> Result<Cell<'v>, StoreError> {
        Ok(Cell { column: cell - 1, value, version: stamp.hlc as i64, site: self.site(stamp.site)? })
    }

    fn life(&mut self, clock: &RowClock) -> Result<Life, StoreError> {
        Ok(Life { length: clock.length, version: clock.stamp.hlc as i64, site: self.site(clock.stamp.site)? })
    }

    fn site(&mut self, no: i64) -> Result<Site, StoreError> {
        if let Some(known) = self.sites.get(&no) {
            return Ok(*known);
        }
        let id = *crate::own::site_id(self.conn, no)?.as_bytes();
        self.sites.insert(no, id);
        Ok(id)
    }

    /// Lets cr-sqlite merge the masked cells of a row that lives by this clock, without regard to the exact form of its key; false if it came to something
    /// else, or could not: then [`Shown::settle`] is due once the row is written.
    pub(crate) fn merge(
        &mut self,
        crr: &Crr,
        key: &[ValueRef<'_>],
        clock: &RowClock,
        (mask, cells): (&[u64], &[ValueRef<'_>]),
    ) -> Result<bool, StoreError> {
        let mut merged = Vec::new();
        for cell in bits(mask).filter(|cell| *cell > 0) {
            let stamp = clock.cell(cell);
            if stamp == LocalStamp::NEVER {
                return Ok(false);
            }
            merged.push(self.cell(cell, stamp, cells[cell])?);
        }
        let life = self.life(clock)?;
        self.judged(crr.merge(self.conn, key, life, &merged))
    }

    /// Lets cr-sqlite delete a row that is dead by this clock.
    pub(crate) fn delete(&mut self, crr: &Crr, key: &[ValueRef<'_>], clock: &RowClock) -> Result<bool, StoreError> {
        let life = self.life(clock)?;
        self.judged(crr.delete(self.conn, key, life))
    }

    /// What cr-sqlite refuses, as a constraint does, is not the disk's fault: it is done by force.
    fn judged(&self, result: Result<bool, CrSqliteError>) -> Result<bool, StoreError> {
        let result = result.map_err(StoreError::from);
        isle_crsqlite::quiet(self.conn, true)?;
        match result {
            // Unless a trigger of the app has rolled everything back.
            Err(error) if error.is_refusal() && !self.conn.is_autocommit() => {
                tracing::debug!(%error, "cr-sqlite refused a merged row");
                Ok(false)
            }
            other => other,
        }
    }

    /// Makes cr-sqlite's clocks say what this clock says; without one, that the row was never heard of.
    pub(crate) fn settle(
        &mut self,
        crr: &Crr,
        key: &[ValueRef<'_>],
        clock: Option<&RowClock>,
        cells: usize,
    ) -> Result<(), StoreError> {
        let mut stamped = Vec::new();
        if let Some(clock) = clock.filter(|clock| clock.is_alive()) {
            for cell in (1..cells).filter(|cell| clock.cell(*cell) != LocalStamp::NEVER) {
                stamped.push(self.cell(cell, clock.cell(cell), ValueRef::Null)?);
            }
        }
        let life = match clock {
            Some(clock) => self.life(clock)?,
            None => Life { length: 0, version: 0, site: Site::default() },
        };
        Ok(crr.settle(self.conn, key, life, &stamped)?)
    }
}

/// Writes cr-sqlite's clocks of a table anew, from the row clocks, in which nothing may be owed.
fn mirror(conn: &Connection, tracked: &Tracked, crr: &Crr) -> Result<(), StoreError> {
    let keys = join(tracked.clock_key().into_iter(), ", ");
    let sql = format!("SELECT h, w, x, {keys} FROM {}", tracked.clock());
    let mut statement = conn.prepare(&sql).doing("write cr-sqlite's clocks")?;
    let mut rows = statement.raw_query();
    let mut shown = Shown::new(conn);
    while let Some(row) = rows.next().doing("write cr-sqlite's clocks")? {
        let clock = RowClock::read(row, 0, tracked)?;
        let key = (0..tracked.table.key.len()).map(|n| row.get_ref(crate::clocks::CLOCK_FIELDS + n).map(from_sql));
        let key: Vec<_> = key.collect::<Result<_, _>>().doing("write cr-sqlite's clocks")?;
        shown.settle(crr, &key, clock.as_ref(), tracked.cells())?;
    }
    Ok(())
}

/// The same of every CRR, where stamps changed past cr-sqlite.
pub(crate) fn mirror_all(engine: &Engine) -> Result<(), StoreError> {
    if engine.tables.iter().any(|tracked| tracked.crr.is_some()) {
        engine.settle()?;
    }
    for tracked in &engine.tables {
        if let Some(crr) = &tracked.crr {
            mirror(&engine.conn, tracked, crr)?;
            forget_collected(&engine.conn, tracked)?;
        }
    }
    Ok(())
}

/// Forgets deleted rows in cr-sqlite's clocks that the row clocks have forgotten.
pub(crate) fn forget_collected(conn: &Connection, tracked: &Arc<Tracked>) -> Result<(), StoreError> {
    let Some(crr) = &tracked.crr else { return Ok(()) };
    let mut clocks = ClockTable::open(conn, tracked);
    crr.collect(conn, |key| {
        let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        let (key, _) = canonical_key(&key, &tracked.table.key);
        let key: Vec<ValueRef<'_>> = key.iter().map(Value::as_ref).collect();
        Ok::<_, StoreError>(clocks.length(&key)? > 0)
    })
}

/// Why a table is not for cr-sqlite; `None` if it can be.
fn cannot_hold(conn: &Connection, tracked: &Tracked) -> Result<Option<String>, StoreError> {
    if let Some(kind) = tracked.kinds.first() {
        let column = &tracked.table.columns[kind.cell - 1].name;
        return Ok(Some(format!("column {column:?} is merged as {}", kind.kind.as_str())));
    }
    if !tracked.groups.is_empty() {
        return Ok(Some("columns of it are written together".to_owned()));
    }
    if !tracked.required.is_empty() || !tracked.defaults.is_empty() {
        return Ok(Some("columns of it show another value where nobody wrote one".to_owned()));
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

/// Whether a table has become something that cr-sqlite cannot hold, past any migration: an app has made a UNIQUE index, say.
pub(crate) fn is_due(tables: &[Arc<Tracked>]) -> bool {
    tables.iter().any(|tracked| tracked.crr.is_some() && !(tracked.unique.is_empty() && tracked.references.is_empty()))
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
        None => conn.execute("DELETE FROM isle_meta WHERE k = ?1", [lowered(no)]).doing("note the engine").map(|_| ()),
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

/// Rows of a CRR of which cr-sqlite's clocks say something else than the row clocks; `None` while stamps are owed, or writes wait to be sealed.
pub(crate) fn differing(conn: &Connection, tracked: &Tracked) -> Result<Option<u64>, StoreError> {
    let (Some(crr), true) = (&tracked.crr, crate::settle::unsettled(conn)?.is_none()) else { return Ok(None) };
    if isle_crsqlite::is_written(conn, crr.table())? {
        return Ok(None);
    }
    let keys = join(tracked.clock_key().into_iter(), ", ");
    let sql = format!("SELECT h, w, x, {keys} FROM {} WHERE {}", tracked.clock(), crate::clocks::alive(""));
    let mut statement = conn.prepare(&sql).doing("compare clocks")?;
    let mut rows = statement.raw_query();
    let mut differing = 0;
    while let Some(row) = rows.next().doing("compare clocks")? {
        let Some(clock) = RowClock::read(row, 0, tracked)? else { continue };
        let key = (0..tracked.table.key.len()).map(|n| row.get_ref(crate::clocks::CLOCK_FIELDS + n).map(from_sql));
        let key: Vec<_> = key.collect::<Result<_, _>>().doing("compare clocks")?;
        let state = crr.state(conn, &key)?;
        let same = state.is_some_and(|state| {
            let stands = |cell: usize| match clock.cell(cell) {
                LocalStamp::NEVER => true,
                stamp => state.cells.iter().any(|(column, at, _)| column + 1 == cell && *at == stamp.hlc as i64),
            };
            state.length as u64 == clock.length && (1..tracked.cells()).all(stands)
        });
        differing += u64::from(!same);
    }
    Ok(Some(differing))
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
            for tracked in crate::engine::load_tables(conn)? {
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

/// The extension that the options name.
pub(crate) fn library(options: &Options) -> Option<Library> {
    options.cr_sqlite.as_ref().map(Library::new)
}
