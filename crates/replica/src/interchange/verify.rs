//! Documents and tables compared, both ways, by value.

use std::collections::HashSet;
use std::path::Path;

use isle_changeset::Value;
use isle_interchange::{Mapping, is_same};
use serde::Serialize;

use super::import::Difference;
use super::row::{Bound, read, shown, shown_key};
use super::table::Fitted;
use super::{Found, InterchangeError, find};
use crate::names::quoted;
use crate::{Error, Replica};

/// Rows and differences that are listed for each source.
const LISTED_MAX: usize = 1_000;

/// How a document and its table differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedSource {
    /// Its name in the mapping.
    pub file: String,
    /// The table.
    pub table: String,
    /// Whether the document is there.
    pub present: bool,
    /// Its rows.
    pub rows: u64,
    /// How many of them are not in the table.
    pub missing: u64,
    /// How many of them are there with other values.
    pub differing: u64,
    /// How many rows the table has beside them.
    pub extra: u64,
    /// Keys of those that are missing, the first of them.
    pub missing_keys: Vec<String>,
    /// Where values differ, the first of them.
    pub differences: Vec<Difference>,
    /// Keys of those that are extra, the first of them.
    pub extra_keys: Vec<String>,
    /// Columns of the table that the mapping does not name: they are neither compared nor exported.
    pub unmapped: Vec<String>,
}

/// How documents and tables differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// The documents, in the order of the mapping.
    pub sources: Vec<VerifiedSource>,
}

impl Verification {
    /// Whether every document that is there says exactly what its table holds.
    pub fn is_equal(&self) -> bool {
        self.sources.iter().all(|source| source.missing + source.differing + source.extra == 0)
    }
}

impl Replica {
    /// Compares the documents of a mapping with the tables, value by value and both ways. Nothing is changed.
    ///
    /// # Errors
    /// As [`Replica::import`].
    pub fn verify_import(&self, mapping: &Mapping, from: &Path) -> Result<Verification, Error> {
        let mut found = Vec::new();
        for source in &mapping.sources {
            found.push(find(mapping, source, from, |_| true)?);
        }
        if found.iter().all(|found| found.hash.is_none()) {
            return Err(InterchangeError::Nothing { folder: from.to_owned() }.into());
        }
        self.inner.store.snapshot(|conn| {
            let mut compared = Vec::new();
            for found in &found {
                compared.push(Compared::of(conn, found)?);
            }
            let mut sources = Vec::new();
            for (n, one) in compared.iter().enumerate() {
                let alike =
                    |other: &&Compared<'_>| other.found.hash.is_some() && other.fitted.is_same_rows(&one.fitted);
                let mut report = one.report.clone();
                // What several documents say of one table is extra where none of them has it; the last of them tells.
                if one.found.hash.is_some() && compared[n + 1..].iter().all(|later| !alike(&later)) {
                    let known: HashSet<&Vec<u8>> =
                        compared.iter().filter(alike).flat_map(|other| &other.matched).collect();
                    one.extra(conn, &known, &mut report)?;
                }
                sources.push(report);
            }
            Ok(Verification { sources })
        })
    }
}

/// A document beside its table.
struct Compared<'a> {
    found: &'a Found<'a>,
    fitted: Fitted<'a>,
    report: VerifiedSource,
    /// The exact keys of its rows that the table has.
    matched: HashSet<Vec<u8>>,
}

impl<'a> Compared<'a> {
    fn of(conn: &rusqlite::Connection, found: &'a Found<'a>) -> Result<Compared<'a>, Error> {
        let failed = |error| isle_store::StoreError::of_statement("compare rows", error);
        let fitted = Fitted::of(conn, found.source)?;
        let mut report = VerifiedSource {
            file: found.source.file.clone(),
            table: found.source.table.clone(),
            present: found.hash.is_some(),
            rows: found.rows.len() as u64,
            missing: 0,
            differing: 0,
            extra: 0,
            missing_keys: Vec::new(),
            differences: Vec::new(),
            extra_keys: Vec::new(),
            unmapped: fitted.unmapped.clone(),
        };
        let table = quoted(&found.source.table);
        let sql = format!("SELECT {} FROM {table} WHERE {}", fitted.column_list(), fitted.key_match(1));
        let mut statement = conn.prepare(&sql).map_err(failed)?;
        let mut matched = HashSet::new();
        for row in &found.rows {
            let null = Value::Null;
            let key: Vec<&Value> = fitted.key.iter().map(|at| row.cells[*at].as_ref().unwrap_or(&null)).collect();
            let bound = rusqlite::params_from_iter(key.iter().map(|value| Bound(value)));
            let mut rows = statement.query(bound).map_err(failed)?;
            let stored = rows.next().map_err(failed)?.map(|row| read(row, fitted.columns.len()));
            let Some(stored) = stored.transpose().map_err(failed)? else {
                report.missing += 1;
                list(&mut report.missing_keys, || shown_key(key.iter().copied()));
                continue;
            };
            matched.insert(fitted.exact_key_of(&stored));
            let mut differs = false;
            for (at, cell) in row.cells.iter().enumerate() {
                // Where the document has nothing, the table holds what it holds without it.
                let cell = cell.as_ref().unwrap_or(&fitted.defaults[at]);
                if is_same(fitted.forms[at], cell, &stored[at]) {
                    continue;
                }
                differs = true;
                list(&mut report.differences, || Difference {
                    key: shown_key(key.iter().copied()),
                    column: fitted.columns[at].clone(),
                    document: shown(cell),
                    table: shown(&stored[at]),
                });
            }
            report.differing += u64::from(differs);
        }
        Ok(Compared { found, fitted, report, matched })
    }

    /// Counts the rows of the table that no document has.
    fn extra(
        &self,
        conn: &rusqlite::Connection,
        known: &HashSet<&Vec<u8>>,
        report: &mut VerifiedSource,
    ) -> Result<(), Error> {
        self.fitted.for_each(conn, |stored| {
            if !known.contains(&self.fitted.exact_key_of(&stored)) {
                report.extra += 1;
                list(&mut report.extra_keys, || self.fitted.shown_key_of(&stored));
            }
            Ok(())
        })
    }
}

/// Lists something, if there are not too many.
fn list<T>(list: &mut Vec<T>, item: impl FnOnce() -> T) {
    if list.len() < LISTED_MAX {
        list.push(item());
    }
}
