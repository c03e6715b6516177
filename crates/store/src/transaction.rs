//! The app's write transaction.

use std::cell::Cell;
use std::sync::MutexGuard;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Connection, Params, Row};

use crate::StoreError;
use crate::capture::{Capture, Event, EventKind, Mark};
use crate::clocks::from_sql;
use crate::engine::Engine;
use crate::error::Doing as _;
use crate::guard::Mode;
use crate::layout::quoted;
use crate::queue::Queue;
use crate::seal::bits;

/// An open write transaction. It is committed when the closure that got it returns `Ok`.
pub struct Transaction<'a> {
    engine: &'a Engine,
    now_ms: u64,
    /// Changes went to the queue table: the rest must follow.
    spilled: Cell<bool>,
    /// Open savepoints. Within one nothing goes to the queue table: its rollback would undo that for changes from before it.
    savepoints: Cell<u32>,
    /// Where the capture stood after the last statement.
    settled: Cell<Mark>,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(engine: &'a Engine, now_ms: u64) -> Transaction<'a> {
        Transaction {
            engine,
            now_ms,
            spilled: Cell::new(false),
            savepoints: Cell::new(0),
            settled: Cell::new(Mark::default()),
        }
    }

    /// Runs one statement; gives the number of rows changed.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for what only isle may do, SQLite's error otherwise. The transaction goes on after an error,
    /// without the failed statement's changes, unless the statement itself rolled everything back.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        self.prepare(sql)?.execute(params)
    }

    /// Runs several statements without parameters.
    ///
    /// # Errors
    /// As [`Transaction::execute`]; statements before the failed one stand.
    pub fn execute_batch(&self, sql: &str) -> Result<(), StoreError> {
        // One by one: what a statement makes must count for the next, and each failure undoes its own changes only.
        let mut batch = rusqlite::Batch::new(&self.engine.conn, sql);
        loop {
            let compiled = self.engine.guard.with(Mode::App, || batch.next());
            let Some(mut statement) = compiled.map_err(|error| self.explain(error))? else { return Ok(()) };
            self.guarded(|_| {
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
                Ok(())
            })?;
        }
    }

    /// Compiles a statement, or takes it from the cache, to run it several times.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn prepare(&self, sql: &str) -> Result<Prepared<'_>, StoreError> {
        let compiled = self.engine.guard.with(Mode::App, || self.engine.conn.prepare_cached(sql));
        match compiled {
            Ok(statement) => Ok(Prepared { transaction: self, statement }),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Runs a query and gives each row to `f`.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn query<T>(
        &self,
        sql: &str,
        params: impl Params,
        f: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.prepare(sql)?.query(params, f)
    }

    /// Runs `f` in a savepoint: when it fails, what it did is undone and the transaction goes on.
    ///
    /// # Errors
    /// What `f` gives.
    pub fn savepoint<T, E: From<StoreError>>(&self, f: impl FnOnce(&Transaction<'a>) -> Result<T, E>) -> Result<T, E> {
        let conn = &self.engine.conn;
        let run = |sql: &str| self.engine.guard.with(Mode::Engine, || conn.execute_batch(sql)).doing("use a savepoint");
        let mark = self.capture().mark();
        run("SAVEPOINT isle_savepoint")?;
        self.savepoints.set(self.savepoints.get() + 1);
        let result = f(self);
        self.savepoints.set(self.savepoints.get() - 1);
        match result {
            Ok(value) => {
                run("RELEASE isle_savepoint")?;
                Ok(value)
            }
            Err(error) => {
                run("ROLLBACK TO isle_savepoint; RELEASE isle_savepoint")?;
                self.capture().rewind(mark);
                self.settled.set(mark);
                Err(error)
            }
        }
    }

    /// Whether something of this name was noted as done in this file.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn is_done(&self, name: &str) -> Result<bool, StoreError> {
        let key = format!("done {name}");
        let conn = &self.engine.conn;
        Ok(self.engine.guard.with(Mode::Engine, || crate::layout::meta::<i64>(conn, &key))?.is_some())
    }

    /// Notes something as done, with the commit of this transaction.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_done(&self, name: &str) -> Result<(), StoreError> {
        let key = format!("done {name}");
        let conn = &self.engine.conn;
        self.engine.guard.with(Mode::Engine, || crate::layout::set_meta(conn, &key, 1))
    }

    /// The rowid of the last row inserted.
    pub fn last_insert_rowid(&self) -> i64 {
        self.engine.conn.last_insert_rowid()
    }

    /// The connection itself, for what isle's interface lacks. Changes of tracked rows through it are captured as others are; do not
    /// end the transaction.
    pub fn rusqlite(&self) -> &Connection {
        &self.engine.conn
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine
    }

    fn capture(&self) -> MutexGuard<'_, Capture> {
        self.engine.captured()
    }

    /// Runs a statement and settles what it left in the capture.
    fn guarded<T>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        if self.engine.conn.is_autocommit() {
            return Err(StoreError::RolledBack);
        }
        let result = self.engine.guard.with(Mode::App, || f(&self.engine.conn));
        let settled = match result {
            Ok(value) => {
                if self.engine.guard.take_schema_change() {
                    self.engine.schema_touched()?;
                }
                Ok(value)
            }
            Err(error) => {
                let error = self.explain(error);
                self.settle_failed(self.settled.get())?;
                Err(error)
            }
        };
        let full = {
            let capture = self.capture();
            self.settled.set(capture.mark());
            capture.is_full()
        };
        if full && self.savepoints.get() == 0 && settled.is_ok() {
            self.spill()?;
        }
        settled
    }

    fn explain(&self, error: rusqlite::Error) -> StoreError {
        match self.engine.guard.take_refusal() {
            Some(reason) => StoreError::Refused { reason },
            None => StoreError::of_statement("run the statement", error),
        }
    }

    /// A failed statement undoes its changes or, under ON CONFLICT FAIL, keeps some: what it noted stands only where the table
    /// shows it.
    fn settle_failed(&self, mark: Mark) -> Result<(), StoreError> {
        if self.engine.conn.is_autocommit() {
            self.capture().clear();
            return Err(StoreError::RolledBack);
        }
        if self.capture().mark() == mark {
            return Ok(());
        }
        // A row that is there says nothing of a new one that was to replace it. SQLite counts the rows that a failed statement
        // leaves changed, but not those that triggers of the app changed: where there are any, all counts as changed.
        let kept = self.engine.app_triggers() || self.engine.conn.changes() > 0;
        let noted = self.capture().split_off(mark);
        for (n, events) in noted {
            for event in events {
                if (kept || event.kind != EventKind::New) && self.stands(n, &event)? {
                    self.capture().tables[n].events.push(event);
                }
            }
        }
        Ok(())
    }

    /// Whether the table shows what the event says.
    fn stands(&self, n: usize, event: &Event) -> Result<bool, StoreError> {
        if event.kind == EventKind::Hint {
            return Ok(true);
        }
        let capture = self.capture();
        let tracked = &capture.tables[n].tracked;
        let keys = tracked.table.key.len();
        let mut key = Vec::new();
        let mut values = capture.key(event, keys, &mut key);
        let columns: String = tracked.column_list("");
        let sql = format!("SELECT 1{columns} FROM {} WHERE {}", quoted(&tracked.table.name), tracked.key_match(1));
        let found = self.engine.guard.with(Mode::Engine, || -> Result<bool, StoreError> {
            let mut statement = self.engine.conn.prepare_cached(&sql).doing("look at a row")?;
            crate::clocks::bind(&mut statement, &key, 1)?;
            let mut rows = statement.raw_query();
            let Some(row) = rows.next().doing("look at a row")? else { return Ok(event.kind == EventKind::Delete) };
            match event.kind {
                EventKind::Delete => return Ok(false),
                EventKind::New => return Ok(true),
                _ => {}
            }
            for cell in bits(&[event.mask]) {
                if from_sql(row.get_ref(cell).doing("look at a row")?) != values.take() {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Moves the changes in memory to the queue table.
    pub(crate) fn spill(&self) -> Result<(), StoreError> {
        self.spilled.set(true);
        // Out of its place while statements run, as in the seal.
        let mut capture = std::mem::take(&mut *self.capture());
        let spilled = self.enqueue_all(&capture);
        if spilled.is_ok() {
            capture.clear();
        }
        self.settled.set(capture.mark());
        *self.capture() = capture;
        spilled
    }

    fn enqueue_all(&self, capture: &Capture) -> Result<(), StoreError> {
        for n in 0..capture.tables.len() {
            let tracked = std::sync::Arc::clone(&capture.tables[n].tracked);
            let mut key = Vec::new();
            let mut queue = Queue::open(&self.engine.conn, &tracked)?;
            for event in &capture.tables[n].events {
                capture.key(event, tracked.table.key.len(), &mut key);
                let some = match event.kind {
                    EventKind::Update => true,
                    EventKind::Hint => event.mask != u64::MAX,
                    _ => false,
                };
                let masks = some.then(|| queue_words(event.mask));
                queue.add(masks.as_ref().map(|masks| &masks[..]), &key, self.now_ms)?;
            }
        }
        Ok(())
    }

    /// A UNIQUE index that a merge could not repair cannot join a tracked table later either.
    fn refuse_unique(&self) -> Result<(), StoreError> {
        for tracked in &self.engine.tables {
            let table = &tracked.table;
            if let Err(reason) = crate::tracked::unique(&self.engine.conn, table)? {
                return Err(StoreError::Refused { reason: format!("replicated table {}: {reason}", table.name) });
            }
        }
        Ok(())
    }

    /// Prepares the seal: whatever cannot be sealed from memory goes to the queue. True if the queue must be sealed.
    pub(crate) fn finish(self) -> Result<bool, StoreError> {
        if self.engine.conn.is_autocommit() {
            return Err(StoreError::RolledBack);
        }
        if self.engine.is_stale() {
            self.refuse_unique()?;
        }
        let needs_queue = self.spilled.get() || self.capture().tables.iter().any(|table| table.hints);
        // One changeset for one transaction: tables without triggers of their own in memory, or all through the queue.
        let queued = self.engine.tables.iter().any(|tracked| !tracked.hookable());
        if queued {
            crate::companion::collect(&self.engine.conn, &self.engine.tables, self.now_ms)?;
        }
        let queued = queued && crate::seal::queue_waits(&self.engine.conn)?;
        if needs_queue || queued {
            self.spill()?;
        }
        Ok(self.spilled.get())
    }
}

fn queue_words(mask: u64) -> [i64; 2] {
    let low = mask & ((1 << crate::tracked::WORD_BITS) - 1);
    [low as i64, (mask >> crate::tracked::WORD_BITS) as i64]
}

/// A compiled statement of a write transaction.
pub struct Prepared<'t> {
    transaction: &'t Transaction<'t>,
    statement: rusqlite::CachedStatement<'t>,
}

impl std::fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

impl Prepared<'_> {
    /// Runs the statement; gives the number of rows changed.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn execute(&mut self, params: impl Params) -> Result<usize, StoreError> {
        let statement = &mut self.statement;
        self.transaction.guarded(|_| {
            let changed = statement.execute(params);
            match changed {
                // A statement with a RETURNING clause or a pragma: its rows are not asked for.
                Err(rusqlite::Error::ExecuteReturnedResults) => Ok(0),
                other => other,
            }
        })
    }

    /// Runs a query and gives each row to `f`.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn query<T>(
        &mut self,
        params: impl Params,
        mut f: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let statement = &mut self.statement;
        self.transaction.guarded(|_| {
            let mut rows = statement.query(params)?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(f(row)?);
            }
            Ok(found)
        })
    }

    /// The names of the result columns.
    pub fn column_names(&self) -> Vec<String> {
        self.statement.column_names().map(str::to_owned).collect()
    }
}
