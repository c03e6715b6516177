//! What a CRR's clocks say of the time before its file became a replica.

use isle_changeset::Value;
use rusqlite::Connection;

use crate::clocks::{Crr, SENTINEL};
use crate::{CrSqliteError, Doing as _, quoted};

/// What was done to a row in one version.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// cr-sqlite's number of the row.
    pub number: i64,
    /// Its key.
    pub key: Vec<Value>,
    /// Its causal length today.
    pub length: u64,
    /// The columns that were written.
    pub columns: Vec<usize>,
}

impl Crr {
    /// The versions of its cells, each once. Rows that are deleted, or have no other clocks, count as of version 1.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn versions(&self, conn: &Connection) -> Result<Vec<i64>, CrSqliteError> {
        let sql = format!(
            "SELECT DISTINCT iif(col_name = '{SENTINEL}', 1, col_version) FROM {} WHERE col_version > 0",
            self.clock
        );
        let mut statement = conn.prepare(&sql).doing("read versions")?;
        let versions = statement.query_map([], |row| row.get(0)).doing("read versions")?;
        versions.collect::<Result<_, _>>().doing("read versions")
    }

    /// Sorts what the clocks say by version, in a temporary table, for [`Crr::past`].
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn open_past(&self, conn: &Connection) -> Result<(), CrSqliteError> {
        // The sentinel of a row that lives says nothing but its length, where it has other clocks. Version 0 is that of a column which was not
        // written in the life of today.
        let (past, clock) = (self.past_table(), &self.clock);
        let sql = format!(
            "CREATE TEMP TABLE {past}(version INT, key INT, name TEXT, PRIMARY KEY(version, key, name)) WITHOUT ROWID;
             INSERT INTO temp.{past} SELECT iif(col_name = '{SENTINEL}', 1, col_version), key, col_name FROM {clock} AS c
             WHERE col_version > 0 AND (col_name <> '{SENTINEL}' OR col_version % 2 = 0 OR NOT EXISTS
               (SELECT 1 FROM {clock} AS o WHERE o.key = c.key AND o.col_name <> '{SENTINEL}' AND o.col_version > 0))"
        );
        conn.execute_batch(&sql).doing("sort the past")
    }

    /// Drops that table.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn close_past(&self, conn: &Connection) -> Result<(), CrSqliteError> {
        conn.execute_batch(&format!("DROP TABLE temp.{}", self.past_table())).doing("sort the past")
    }

    fn past_table(&self) -> String {
        quoted(&format!("{}__past", self.table))
    }

    /// Gives what has this version, by row in the order of the keys.
    ///
    /// # Errors
    /// What `f` gives, and SQLite's reason.
    pub fn past<E: From<CrSqliteError>>(
        &self,
        conn: &Connection,
        version: i64,
        mut f: impl FnMut(Past) -> Result<(), E>,
    ) -> Result<(), E> {
        let doing = "read the past";
        let order = (0..self.keys).map(|n| (n + 4).to_string()).collect::<Vec<_>>().join(", ");
        let (of_key, past) = (&self.of_key, format!("temp.{}", self.past_table()));
        let length = format!(
            "coalesce((SELECT l.col_version FROM {} AS l WHERE l.key = c.key AND l.col_name = '{SENTINEL}'), 1)",
            self.clock
        );
        let rows = self.rows.replacen(&self.clock, &past, 1);
        let sql = format!(
            "SELECT c.key, c.name, {length}, {of_key} FROM {rows} WHERE c.version = ?1 ORDER BY {order}, c.key"
        );
        let mut statement = conn.prepare(&sql).doing(doing)?;
        let mut rows = statement.query([version]).doing(doing)?;
        let mut last: Option<Past> = None;
        while let Some(row) = rows.next().doing(doing)? {
            let (number, name): (i64, String) = (row.get(0).doing(doing)?, row.get(1).doing(doing)?);
            if last.as_ref().is_none_or(|last| last.number != number) {
                let length = row.get::<_, i64>(2).doing(doing)? as u64;
                let next = Past { number, key: self.key_of(row, 3)?, length, columns: Vec::new() };
                if let Some(last) = last.replace(next) {
                    f(last)?;
                }
            }
            if let (Some(last), Some(column)) = (&mut last, self.number_of(&name)) {
                last.columns.push(column);
            }
        }
        last.map_or(Ok(()), f)
    }
}
