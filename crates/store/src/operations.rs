//! What was done with this file and what came of it: syncs, and whatever else takes long. A local fact: it never leaves the file.
//!
//! An operation is one row, written when it has ended. One that is like the last of its kind and target, a remote that is away again for the same
//! reason, is counted there instead of filling the file; so is nothing that did nothing.

use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;

use crate::error::Doing as _;
use crate::{Store, StoreError};

/// Operations that are kept; the oldest go first.
const KEPT: i64 = 1_000;

/// Something that was done.
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
    /// When it ended.
    pub ended_ms: u64,
    /// Why it failed; `None` if it did not.
    pub error: Option<String>,
    /// What it did, as a JSON object.
    pub facts: String,
    /// How often in a row it came to the same.
    pub times: u64,
}

impl Store {
    /// Keeps what came of an operation.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn note_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        let Operation { kind, target, started_ms, ended_ms, error, facts, .. } = operation;
        let ms = |ms: &u64| i64::try_from(*ms).unwrap_or(i64::MAX);
        self.internal(|conn| {
            let sql = "SELECT id, error FROM isle_ops WHERE kind = ?1 AND target = ?2 ORDER BY id DESC LIMIT 1";
            let last = conn.query_row(sql, params![kind, target], |row| Ok((row.get(0)?, row.get(1)?)));
            let last: Option<(i64, Option<String>)> = last.optional().doing("read the last operation")?;
            if let Some((id, _)) = last.filter(|(_, before)| error.is_some() && before == error) {
                let sql = "UPDATE isle_ops SET ended = ?2, facts = ?3, times = times + 1 WHERE id = ?1";
                conn.execute(sql, params![id, ms(ended_ms), facts]).doing("note an operation")?;
                return Ok(());
            }
            let sql = "INSERT INTO isle_ops(kind, target, started, ended, error, facts) VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
            conn.execute(sql, params![kind, target, ms(started_ms), ms(ended_ms), error, facts])
                .doing("note an operation")?;
            let sql = "DELETE FROM isle_ops WHERE id <= (SELECT max(id) FROM isle_ops) - ?1";
            conn.execute(sql, [KEPT]).doing("forget old operations").map(|_| ())
        })
    }

    /// The newest operations, newest first; of one kind if that is given.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn operations(&self, kind: Option<&str>, limit: usize) -> Result<Vec<Operation>, StoreError> {
        self.read(|conn| {
            let sql = "SELECT id, kind, target, started, ended, error, facts, times FROM isle_ops
                WHERE ?1 IS NULL OR kind = ?1 ORDER BY id DESC LIMIT ?2";
            let mut statement = conn.prepare_cached(sql).doing("list operations")?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![kind, limit], |row| {
                let number = |n: usize| row.get::<_, i64>(n).map(|number| number as u64);
                Ok(Operation {
                    id: row.get(0)?,
                    kind: row.get(1)?,
                    target: row.get(2)?,
                    started_ms: number(3)?,
                    ended_ms: number(4)?,
                    error: row.get(5)?,
                    facts: row.get(6)?,
                    times: number(7)?,
                })
            });
            rows.and_then(Iterator::collect).doing("list operations")
        })
    }
}
