//! What was done with this file and what came of it: syncs, and whatever else takes long. A local fact: it never leaves the file.
//!
//! A short operation is one row, written when it has ended. One that is like the last of its kind and target, a remote that is away again for the same
//! reason, is counted there instead of filling the file; so is nothing that did nothing. A long one is a row from its beginning, which tells how far it is.

use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;

use crate::error::Doing as _;
use crate::{Store, StoreError};

/// Operations that are kept; the oldest go first.
const KEPT: i64 = 1_000;

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// It is being done.
    Running,
    /// It is done.
    Completed,
    /// It failed.
    Failed,
    /// The program that did it ended before it did.
    Interrupted,
}

impl OperationState {
    /// As it is kept and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            OperationState::Running => "running",
            OperationState::Completed => "completed",
            OperationState::Failed => "failed",
            OperationState::Interrupted => "interrupted",
        }
    }

    fn parse(text: Option<&str>, failed: bool) -> OperationState {
        match text {
            Some("running") => OperationState::Running,
            Some("interrupted") => OperationState::Interrupted,
            _ if failed => OperationState::Failed,
            _ => OperationState::Completed,
        }
    }
}

/// Something that was done, or is being done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Its number in this file; 0 for one that is not noted yet.
    pub id: i64,
    /// What kind of thing: `sync`.
    pub kind: String,
    /// With whom: the name of a remote or device.
    pub target: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended; of one that runs, when it last said how far it is.
    pub ended_ms: u64,
    /// How it stands.
    pub state: OperationState,
    /// How much of it is done, in units of its own.
    pub done: u64,
    /// How much there is to do, as far as known.
    pub total: u64,
    /// What it is at.
    pub message: Option<String>,
    /// Why it failed; `None` if it did not.
    pub error: Option<String>,
    /// What it did, as a JSON object.
    pub facts: String,
    /// How often in a row it came to the same.
    pub times: u64,
}

impl Operation {
    /// One that ended now, with an error or without.
    pub fn ended(
        kind: &str,
        target: &str,
        (started_ms, ended_ms): (u64, u64),
        result: Result<String, String>,
    ) -> Operation {
        let state = if result.is_ok() { OperationState::Completed } else { OperationState::Failed };
        let (facts, error) = match result {
            Ok(facts) => (facts, None),
            Err(error) => ("{}".to_owned(), Some(error)),
        };
        let (kind, target) = (kind.to_owned(), target.to_owned());
        let (done, total, message) = (0, 0, None);
        Operation { id: 0, kind, target, started_ms, ended_ms, state, done, total, message, error, facts, times: 1 }
    }

    /// How far it is, from 0 to 100; `None` if nobody knows.
    pub fn percent(&self) -> Option<u8> {
        match (self.state, self.done, self.total) {
            (OperationState::Completed, ..) => Some(100),
            (_, _, 0) => None,
            (_, done, total) => u8::try_from(u128::from(done.min(total)) * 100 / u128::from(total)).ok(),
        }
    }
}

fn ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The columns that make an operation, in the order in which [`read`] takes them.
const COLUMNS: &str = "id, kind, target, started, ended, error, facts, times, state, done, total, message";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Operation> {
    let number = |n: usize| row.get::<_, i64>(n).map(|number| number as u64);
    let error: Option<String> = row.get(5)?;
    let state: Option<String> = row.get(8)?;
    Ok(Operation {
        id: row.get(0)?,
        kind: row.get(1)?,
        target: row.get(2)?,
        started_ms: number(3)?,
        ended_ms: number(4)?,
        state: OperationState::parse(state.as_deref(), error.is_some()),
        done: number(9)?,
        total: number(10)?,
        message: row.get(11)?,
        error,
        facts: row.get(6)?,
        times: number(7)?,
    })
}

impl Store {
    /// Begins a long operation: it is there for others to see from now on. Gives its id.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn begin_operation(&self, kind: &str, target: &str, now_ms: u64) -> Result<i64, StoreError> {
        self.internal(|conn| {
            let sql = "INSERT INTO isle_ops(kind, target, started, ended, facts, state) VALUES(?1, ?2, ?3, ?3, '{}', 'running')";
            conn.execute(sql, params![kind, target, ms(now_ms)]).doing("begin an operation")?;
            let id = conn.last_insert_rowid();
            let sql = "DELETE FROM isle_ops WHERE id <= ?1 - ?2 AND state IS NOT 'running'";
            conn.execute(sql, params![id, KEPT]).doing("forget old operations").map(|_| id)
        })
    }

    /// Says how far one is.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn advance_operation(
        &self,
        id: i64,
        (done, total): (u64, u64),
        message: &str,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        self.internal(|conn| {
            let sql = "UPDATE isle_ops SET done = ?2, total = ?3, message = ?4, ended = ?5 WHERE id = ?1";
            conn.execute(sql, params![id, ms(done), ms(total), message, ms(now_ms)])
                .doing("note an operation")
                .map(|_| ())
        })
    }

    /// Ends one, with what it did as a JSON object, or why it failed.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn end_operation(&self, id: i64, now_ms: u64, result: &Result<String, String>) -> Result<(), StoreError> {
        self.internal(|conn| {
            let sql =
                "UPDATE isle_ops SET state = NULL, ended = ?2, facts = coalesce(?3, facts), error = ?4 WHERE id = ?1";
            let (facts, error) = (result.as_ref().ok(), result.as_ref().err());
            conn.execute(sql, params![id, ms(now_ms), facts, error]).doing("end an operation").map(|_| ())
        })
    }

    /// Marks those of a kind that run as interrupted, for whoever knows that nobody is at them any more. Gives how many there were.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn interrupt_operations(&self, kind: &str) -> Result<usize, StoreError> {
        self.internal(|conn| {
            let sql = "UPDATE isle_ops SET state = 'interrupted' WHERE state = 'running' AND kind = ?1";
            conn.execute(sql, [kind]).doing("mark interrupted operations")
        })
    }

    /// One operation; `None` if there is none of that id, or it is forgotten.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn operation(&self, id: i64) -> Result<Option<Operation>, StoreError> {
        self.read(|conn| {
            let sql = format!("SELECT {COLUMNS} FROM isle_ops WHERE id = ?1");
            conn.prepare_cached(&sql)
                .and_then(|mut found| found.query_row([id], read).optional())
                .doing("read an operation")
        })
    }

    /// Keeps what came of an operation.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        let Operation { kind, target, started_ms, ended_ms, error, facts, .. } = operation;
        self.internal(|conn| {
            let sql = "SELECT id, error FROM isle_ops WHERE kind = ?1 AND target = ?2 AND state IS NULL ORDER BY id DESC LIMIT 1";
            let last = conn.query_row(sql, params![kind, target], |row| Ok((row.get(0)?, row.get(1)?)));
            let last: Option<(i64, Option<String>)> = last.optional().doing("read the last operation")?;
            if let Some((id, _)) = last.filter(|(_, before)| error.is_some() && before == error) {
                let sql = "UPDATE isle_ops SET ended = ?2, facts = ?3, times = times + 1 WHERE id = ?1";
                conn.execute(sql, params![id, ms(*ended_ms), facts]).doing("note an operation")?;
                return Ok(());
            }
            let sql = "INSERT INTO isle_ops(kind, target, started, ended, error, facts) VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
            conn.execute(sql, params![kind, target, ms(*started_ms), ms(*ended_ms), error, facts])
                .doing("note an operation")?;
            let sql = "DELETE FROM isle_ops WHERE id <= (SELECT max(id) FROM isle_ops) - ?1 AND state IS NOT 'running'";
            conn.execute(sql, [KEPT]).doing("forget old operations").map(|_| ())
        })
    }

    /// The newest operations, newest first; of one kind if that is given.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn operations(&self, kind: Option<&str>, limit: usize) -> Result<Vec<Operation>, StoreError> {
        self.read(|conn| {
            let sql = format!("SELECT {COLUMNS} FROM isle_ops WHERE ?1 IS NULL OR kind = ?1 ORDER BY id DESC LIMIT ?2");
            let mut statement = conn.prepare_cached(&sql).doing("list operations")?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![kind, limit], read);
            rows.and_then(Iterator::collect).doing("list operations")
        })
    }
}
