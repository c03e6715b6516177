//! Statements of the public API.

use std::sync::Arc;

use isle_store::StoreError;
use rusqlite::Connection;
use serde::de::DeserializeOwned;

use crate::{Error, Param, Row};

/// An open write transaction: committed when the closure that got it returns `Ok`, rolled back otherwise.
#[derive(Debug)]
pub struct Transaction<'a> {
    inner: &'a isle_store::Transaction<'a>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(inner: &'a isle_store::Transaction<'a>) -> Transaction<'a> {
        Transaction { inner }
    }

    /// Runs one statement; gives the number of rows changed.
    ///
    /// # Errors
    /// SQLite's reason, or why isle refused. The transaction goes on without the failed statement's changes.
    pub fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<usize, Error> {
        Ok(self.inner.execute(sql, rusqlite::params_from_iter(params))?)
    }

    /// Runs a statement once for each list of parameters; gives the number of rows changed by all.
    ///
    /// # Errors
    /// As [`Transaction::execute`], at the first list that fails; the earlier ones stand.
    pub fn execute_many<'p>(
        &self,
        sql: &str,
        lists: impl IntoIterator<Item = &'p [Param<'p>]>,
    ) -> Result<usize, Error> {
        let mut statement = self.prepare(sql)?;
        lists.into_iter().try_fold(0, |changed, params| Ok(changed + statement.execute(params)?))
    }

    /// Runs several statements without parameters.
    ///
    /// # Errors
    /// As [`Transaction::execute`]; statements before the failed one stand.
    pub fn execute_batch(&self, sql: &str) -> Result<(), Error> {
        Ok(self.inner.execute_batch(sql)?)
    }

    /// Compiles a statement to run it several times.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn prepare(&self, sql: &str) -> Result<Statement<'_>, Error> {
        Ok(Statement { inner: self.inner.prepare(sql)? })
    }

    /// The rows of a query, inside the transaction.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.prepare(sql)?.query(params)
    }

    /// The first row of a query as a value of a type; `None` if there is no row.
    ///
    /// # Errors
    /// As [`Transaction::execute`], or when the row does not fit.
    pub fn one<T: DeserializeOwned>(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<T>, Error> {
        self.query(sql, params)?.first().map(Row::to).transpose()
    }

    /// Runs `f` in a savepoint: when it fails, what it did is undone and the transaction goes on.
    ///
    /// # Errors
    /// What `f` gives.
    pub fn savepoint<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.inner.savepoint(|inner| f(&Transaction { inner }))
    }

    /// The rowid of the last row inserted.
    pub fn last_insert_rowid(&self) -> i64 {
        self.inner.last_insert_rowid()
    }

    /// The escape hatch: the SQLite connection itself. Changes through it are recorded too; do not end the transaction.
    pub fn as_rusqlite(&self) -> &Connection {
        self.inner.rusqlite()
    }
}

/// A compiled statement of a write transaction.
#[derive(Debug)]
pub struct Statement<'t> {
    inner: isle_store::Prepared<'t>,
}

impl Statement<'_> {
    /// Runs the statement; gives the number of rows changed.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn execute(&mut self, params: &[Param<'_>]) -> Result<usize, Error> {
        Ok(self.inner.execute(rusqlite::params_from_iter(params))?)
    }

    /// The rows of the query.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub fn query(&mut self, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let columns: Arc<[String]> = self.inner.column_names().into();
        Ok(self.inner.query(rusqlite::params_from_iter(params), |row| Row::read(&columns, row))?)
    }
}

/// What SQLite said of a query.
fn failed(error: rusqlite::Error) -> Error {
    StoreError::of_statement("run the query", error).into()
}

/// Queries on a connection that cannot write.
#[derive(Debug)]
pub struct Queries<'a> {
    conn: &'a Connection,
}

impl<'a> Queries<'a> {
    pub(crate) fn new(conn: &'a Connection) -> Queries<'a> {
        Queries { conn }
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        self.for_each(sql, params, |row| {
            rows.push(row);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Hands each row to `f`, one at a time.
    ///
    /// # Errors
    /// SQLite's reason, or the first error of `f`.
    pub fn for_each(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut f: impl FnMut(Row) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let columns: Arc<[String]> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query(rusqlite::params_from_iter(params)).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            f(Row::read(&columns, row).map_err(failed)?)?;
        }
        Ok(())
    }

    /// The first row of a query as a value of a type; `None` if there is no row.
    ///
    /// # Errors
    /// SQLite's reason, or when the row does not fit.
    pub fn one<T: DeserializeOwned>(&self, sql: &str, params: &[Param<'_>]) -> Result<Option<T>, Error> {
        self.query(sql, params)?.first().map(Row::to).transpose()
    }

    /// All rows of a query as values of a type.
    ///
    /// # Errors
    /// SQLite's reason, or when a row does not fit.
    pub fn all<T: DeserializeOwned>(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<T>, Error> {
        self.query(sql, params)?.iter().map(Row::to).collect()
    }

    /// The columns that a query will give, without running it.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn columns(&self, sql: &str) -> Result<Vec<String>, Error> {
        let statement = self.conn.prepare_cached(sql).map_err(failed)?;
        Ok(statement.column_names().map(str::to_owned).collect())
    }

    /// The escape hatch: the read-only SQLite connection itself.
    pub fn as_rusqlite(&self) -> &Connection {
        self.conn
    }
}
