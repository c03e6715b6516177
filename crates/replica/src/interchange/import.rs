//! Documents into rows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use isle_changeset::Value;
use isle_interchange::{Duplicates, Mapping, Row, is_same};
use isle_store::{Life, StoreError, Transaction};
use serde::Serialize;

use super::archive::Record;
use super::row::{Bound, read, shown, shown_key};
use super::table::Fitted;
use super::{Found, InterchangeError, find};
use crate::names::quoted;
use crate::operations::note;
use crate::{BackedUp, Error, Replica};

/// Differences that a report lists for each source.
const DIFFERENCES_MAX: usize = 100;

/// How documents are imported.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Rows that are there become what the documents say, and deleted ones come back: as of now, after a backup. Otherwise they stay as they are.
    pub replace: bool,
    /// Documents that were imported before are imported again.
    pub again: bool,
    /// Documents are renamed to `….bak` once their rows are there.
    pub archive: bool,
    /// Nothing is changed: the report says what would be.
    pub dry_run: bool,
}

impl ImportOptions {
    /// Sets [`ImportOptions::replace`].
    #[must_use]
    pub fn replace(mut self, replace: bool) -> ImportOptions {
        self.replace = replace;
        self
    }

    /// Sets [`ImportOptions::again`].
    #[must_use]
    pub fn again(mut self, again: bool) -> ImportOptions {
        self.again = again;
        self
    }

    /// Sets [`ImportOptions::archive`].
    #[must_use]
    pub fn archive(mut self, archive: bool) -> ImportOptions {
        self.archive = archive;
        self
    }

    /// Sets [`ImportOptions::dry_run`].
    #[must_use]
    pub fn dry_run(mut self, dry_run: bool) -> ImportOptions {
        self.dry_run = dry_run;
        self
    }
}

/// How a document stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// It is not there.
    Absent,
    /// It is there, and was never imported as it is.
    New,
    /// It was imported before.
    Known,
    /// It has been imported just now.
    Imported,
}

/// A value of the table that is not what a document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The row's key.
    pub key: String,
    /// The column; empty if it is about the whole row.
    pub column: String,
    /// What the document says.
    pub document: String,
    /// What the table has, or why the row is not there.
    pub table: String,
}

/// What came of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Its name in the mapping.
    pub file: String,
    /// Where it is.
    pub path: PathBuf,
    /// The table.
    pub table: String,
    /// How it stands.
    pub state: SourceState,
    /// Its rows.
    pub rows: u64,
    /// Those that are new in the table.
    pub inserted: u64,
    /// Those that were there and say the same.
    pub same: u64,
    /// Those that were there, in the table or hidden by a constraint, and stay as they are.
    pub kept: u64,
    /// Those that were there and have become what the document says.
    pub replaced: u64,
    /// Those that were deleted here, and stay so.
    pub deleted: u64,
    /// Those whose key or UNIQUE value another row has, which counts instead, as the mapping's `duplicates` says.
    pub dropped: u64,
    /// Where rows differ from the document, the first of them.
    pub differences: Vec<Difference>,
    /// Whether its new rows count as older than any write anywhere; otherwise they count as written right after what this file had seen.
    pub oldest: bool,
    /// What the document is called now, if it was archived.
    pub archive: Option<PathBuf>,
    /// Why it could not be.
    pub archive_error: Option<String>,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Its documents, in the order of the mapping.
    pub sources: Vec<Imported>,
    /// The backup that was made before rows were replaced.
    pub backup: Option<String>,
}

impl Replica {
    /// Imports the documents that a mapping names, from a folder, or from the file itself if the mapping names one alone. Those that are not there are left out. See
    /// the module's rules on what counts as older than what.
    ///
    /// # Errors
    /// [`InterchangeError`] with the document, line and path of the first fault; then nothing is changed.
    pub fn import(&self, mapping: &Mapping, from: &Path, options: &ImportOptions) -> Result<ImportReport, Error> {
        let started_ms = self.inner.runtime.now_ms();
        let result = self.import_all(mapping, from, options);
        let is_news = |report: &ImportReport| report.sources.iter().any(|s| s.state == SourceState::Imported);
        let outcome = match &result {
            Ok(report) if options.dry_run || !is_news(report) => return result,
            Ok(report) => Ok(serde_json::to_string(report).unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        };
        note(&self.inner, "import", &from.display().to_string(), started_ms, outcome);
        result
    }

    /// How the documents of a mapping stand: whether they were imported as they are. Nothing is changed.
    ///
    /// # Errors
    /// A document that is there and cannot be read as the mapping says.
    pub fn import_status(&self, mapping: &Mapping, from: &Path) -> Result<Vec<Imported>, Error> {
        let known = self.ledger()?;
        let mut sources = Vec::new();
        for source in &mapping.sources {
            let found = find(mapping, source, from, |_| true)?;
            let mut report = Imported::of(&found);
            if let Some(record) = found.hash.and_then(|hash| known.get(&Record::id(mapping, source, &hash))) {
                report.state = SourceState::Known;
                report.archive.clone_from(&record.archive);
            }
            sources.push(report);
        }
        Ok(sources)
    }

    fn import_all(&self, mapping: &Mapping, from: &Path, options: &ImportOptions) -> Result<ImportReport, Error> {
        let known = self.ledger()?;
        let mut found = Vec::new();
        for source in &mapping.sources {
            let wanted = |hash: &[u8; 32]| options.again || !known.contains_key(&Record::id(mapping, source, hash));
            found.push(find(mapping, source, from, wanted)?);
        }
        if found.iter().all(|found| found.hash.is_none()) {
            return Err(InterchangeError::Nothing { folder: from.to_owned() }.into());
        }
        let is_new = |found: &Found<'_>| {
            let id = found.hash.map(|hash| Record::id(mapping, found.source, &hash));
            id.is_some_and(|id| options.again || !known.contains_key(&id))
        };
        let news = found.iter().any(is_new);
        let backup = match news && options.replace && !options.dry_run {
            true => self.back_up_before_import()?,
            false => None,
        };
        let now_ms = self.inner.runtime.now_ms();
        let mut younger = Vec::new();
        for found in found.iter().filter(|found| is_new(found)) {
            if options.replace || self.inner.store.has_baseline(&found.source.table)? {
                younger.push(found.source.table.as_str());
            }
        }
        let write = |inner: &Transaction<'_>| {
            inner.defer_foreign_keys()?;
            let orphans = Orphans::before(inner, &found)?;
            let mut reports = Vec::new();
            for found in &found {
                let mut report = Imported::of(found);
                let id = found.hash.map(|hash| Record::id(mapping, found.source, &hash));
                if let Some(id) = id {
                    if is_new(found) {
                        Writer::new(inner, found, options.replace)?.write(&mut report)?;
                        report.state = if options.dry_run { SourceState::New } else { SourceState::Imported };
                        report.oldest = !younger.contains(&found.source.table.as_str());
                        inner.note_import(&id, &Record::of(&report, now_ms).to_json())?;
                    } else {
                        report.state = SourceState::Known;
                    }
                }
                reports.push(report);
            }
            orphans.refuse_more(inner)?;
            match options.dry_run {
                true => Err(Stop::DryRun(reports)),
                false => Ok(reports),
            }
        };
        let mut sources = match self.commit(options, write) {
            Ok(reports) | Err(Stop::DryRun(reports)) => reports,
            Err(Stop::Failed(error)) => return Err(*error),
        };
        if options.archive && !options.dry_run {
            self.archive_all(mapping, &found, &mut sources);
        }
        Ok(ImportReport { sources, backup })
    }

    /// Puts the documents aside. The rows are there, whatever becomes of them: what fails is reported.
    fn archive_all(&self, mapping: &Mapping, found: &[Found<'_>], reports: &mut [Imported]) {
        let mut moved: HashMap<PathBuf, PathBuf> = HashMap::new();
        for (report, found) in reports.iter_mut().zip(found) {
            let Some(hash) = &found.hash else { continue };
            let id = Record::id(mapping, found.source, hash);
            // Two sources may have one document.
            match self.archive(&id, &found.path, hash, moved.get(&found.path)) {
                Ok(archive) => report.archive = archive,
                Err(error) => report.archive_error = Some(error.to_string()),
            }
            moved.extend(report.archive.clone().map(|archive| (found.path.clone(), archive)));
        }
    }

    /// Runs the transaction under the stamp that its rows are to have.
    fn commit<T>(
        &self,
        options: &ImportOptions,
        write: impl Fn(&Transaction<'_>) -> Result<T, Stop<T>>,
    ) -> Result<T, Stop<T>> {
        match options.replace {
            true => self.inner.store.write(write),
            false => self.inner.store.write_baseline(write),
        }
    }

    fn back_up_before_import(&self) -> Result<Option<String>, Error> {
        let folder = crate::backup_folder(self.path())?;
        Ok(match self.back_up(&folder, "import", None)? {
            BackedUp::Done(backup) => Some(backup.id),
            BackedUp::SkippedEmpty => None,
        })
    }
}

/// Why the transaction of an import is rolled back.
enum Stop<T> {
    /// It was to try alone.
    DryRun(T),
    Failed(Box<Error>),
}

impl<T> From<StoreError> for Stop<T> {
    fn from(error: StoreError) -> Stop<T> {
        Stop::Failed(Box::new(error.into()))
    }
}

impl<T> From<Error> for Stop<T> {
    fn from(error: Error) -> Stop<T> {
        Stop::Failed(Box::new(error))
    }
}

impl Imported {
    fn of(found: &Found<'_>) -> Imported {
        Imported {
            file: found.source.file.clone(),
            path: found.path.clone(),
            table: found.source.table.clone(),
            state: if found.hash.is_some() { SourceState::New } else { SourceState::Absent },
            rows: found.rows.len() as u64,
            inserted: 0,
            same: 0,
            kept: 0,
            replaced: 0,
            deleted: 0,
            dropped: 0,
            differences: Vec::new(),
            oldest: false,
            archive: None,
            archive_error: None,
        }
    }

    fn differs(&mut self, difference: Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        }
    }
}

/// Rows without a parent that were there before the import.
struct Orphans<'m>(Vec<(&'m str, usize)>);

impl<'m> Orphans<'m> {
    fn before(tx: &Transaction<'_>, found: &[Found<'m>]) -> Result<Orphans<'m>, Error> {
        let mut tables: Vec<(&str, usize)> = Vec::new();
        for found in found.iter().filter(|found| !found.rows.is_empty()) {
            if tables.iter().all(|(table, _)| *table != found.source.table) {
                tables.push((&found.source.table, tx.orphans(&found.source.table)?.len()));
            }
        }
        Ok(Orphans(tables))
    }

    /// Refuses an import that adds some: the commit would fail without saying which.
    fn refuse_more(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        for (table, before) in &self.0 {
            let orphans = tx.orphans(table)?;
            if let Some((rowid, parent)) = orphans.last().filter(|_| orphans.len() > *before) {
                let row = rowid.map_or_else(String::new, |rowid| format!(" (one is at rowid {rowid})"));
                let reason =
                    format!("{} of its rows{row} refer to rows of {parent} that are not there", orphans.len() - before);
                return Err(InterchangeError::Table {
                    file: "the import".to_owned(),
                    table: (*table).to_owned(),
                    reason,
                }
                .into());
            }
        }
        Ok(())
    }
}

/// Writes the rows of one document.
struct Writer<'a> {
    tx: &'a Transaction<'a>,
    found: &'a Found<'a>,
    fitted: Fitted<'a>,
    replace: bool,
    /// The exact keys of this document's rows, which of its rows they are, and whether it has written them.
    written: HashMap<Vec<u8>, (usize, bool)>,
}

impl<'a> Writer<'a> {
    fn new(tx: &'a Transaction<'a>, found: &'a Found<'a>, replace: bool) -> Result<Writer<'a>, Error> {
        let fitted = Fitted::of(tx.rusqlite(), found.source)?;
        Ok(Writer { tx, found, fitted, replace, written: HashMap::new() })
    }

    fn write(mut self, report: &mut Imported) -> Result<(), Error> {
        for (n, row) in self.found.rows.iter().enumerate() {
            self.row(n, row, report)?;
        }
        Ok(())
    }

    fn fault(&self, row: &Row, reason: impl Into<String>) -> Error {
        InterchangeError::from(row.fault(reason).of(&self.found.path)).into()
    }

    fn refused(&self, row: &Row, source: StoreError) -> Error {
        if source.is_local() || matches!(source, StoreError::RolledBack) {
            return source.into();
        }
        let place = row.fault("the table does not take this row").of(&self.found.path);
        InterchangeError::Row { place, source: Box::new(source) }.into()
    }

    fn key<'r>(&self, row: &'r Row) -> Result<Vec<&'r Value>, Error> {
        let mut key = Vec::new();
        for at in &self.fitted.key {
            match row.cells[*at].as_ref() {
                None | Some(Value::Null) => {
                    return Err(
                        self.fault(row, format!("it has no value for {}, which is its key", self.fitted.columns[*at]))
                    );
                }
                Some(value) => key.push(value),
            }
        }
        Ok(key)
    }

    /// The row of the table with this key.
    fn stored(&self, key: &[&Value]) -> Result<Option<Vec<Value>>, Error> {
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            self.fitted.column_list(),
            quoted(&self.found.source.table),
            self.fitted.key_match(1)
        );
        let count = self.fitted.columns.len();
        let bound = key.iter().map(|value| Bound(value));
        let rows = self.tx.query(&sql, rusqlite::params_from_iter(bound), |row| read(row, count))?;
        Ok(rows.into_iter().next())
    }

    fn row(&mut self, n: usize, row: &Row, report: &mut Imported) -> Result<(), Error> {
        let key = self.key(row)?;
        if let Some(stored) = self.stored(&key)? {
            let exact = self.fitted.exact_key_of(&stored);
            if let Some((first, written)) = self.written.get(&exact).copied() {
                return self.twice(row, (first, written), &stored, report);
            }
            self.written.insert(exact, (n, self.replace));
            return self.meet(row, &key, &stored, report);
        }
        let references: Vec<_> = key.iter().map(|value| value.as_ref()).collect();
        match self.tx.life(&self.found.source.table, &references)? {
            Life::Alive => {
                report.kept += 1;
                report.differs(whole(&key, "a constraint hides it (`isle conflicts hidden`)"));
                return Ok(());
            }
            Life::Deleted if !self.replace => {
                report.deleted += 1;
                return Ok(());
            }
            _ => {}
        }
        if !self.insert(row)? {
            let why = "another row has a UNIQUE value of it, or a trigger keeps it out";
            if self.found.source.duplicates == Duplicates::Refuse {
                let reason = format!("{why}; duplicates = \"first\" in the mapping leaves such rows out");
                return Err(self.fault(row, reason));
            }
            report.dropped += 1;
            report.differs(whole(&key, why));
            return Ok(());
        }
        report.inserted += 1;
        let exact = self.check(row, &key)?;
        self.written.insert(exact, (n, true));
        Ok(())
    }

    /// A second row of one key in the document.
    fn twice(
        &self,
        row: &Row,
        (first, written): (usize, bool),
        stored: &[Value],
        report: &mut Imported,
    ) -> Result<(), Error> {
        let earlier = &self.found.rows[first];
        match self.found.source.duplicates {
            Duplicates::Refuse => {
                let reason = format!(
                    "it has the key of the row in line {} ({}); set duplicates = \"first\" or \"last\" in the mapping to let one count",
                    earlier.line, earlier.path
                );
                Err(self.fault(row, reason))
            }
            Duplicates::First => {
                report.dropped += 1;
                Ok(())
            }
            // What was there before the import stays whichever of the two counts.
            Duplicates::Last if !written => {
                report.dropped += 1;
                Ok(())
            }
            Duplicates::Last => {
                report.dropped += 1;
                self.update(row, &self.key(row)?, stored)?;
                self.check(row, &self.key(row)?).map(|_| ())
            }
        }
    }

    /// A row that is in the table.
    fn meet(&self, row: &Row, key: &[&Value], stored: &[Value], report: &mut Imported) -> Result<(), Error> {
        let differing = self.differing(row, stored);
        if differing.is_empty() {
            report.same += 1;
            return Ok(());
        }
        if self.replace {
            self.update(row, key, stored)?;
            report.replaced += 1;
            return self.check(row, key).map(|_| ());
        }
        report.kept += 1;
        for at in differing {
            report.differs(Difference {
                key: shown_key(key.iter().copied()),
                column: self.fitted.columns[at].clone(),
                document: row.cells[at].as_ref().map_or_else(String::new, shown),
                table: shown(&stored[at]),
            });
        }
        Ok(())
    }

    /// The columns in which a stored row is not what the document says.
    fn differing(&self, row: &Row, stored: &[Value]) -> Vec<usize> {
        let cells = row.cells.iter().enumerate();
        let told = cells.filter_map(|(at, cell)| cell.as_ref().map(|cell| (at, cell)));
        told.filter(|(at, cell)| !is_same(self.fitted.forms[*at], cell, &stored[*at])).map(|(at, _)| at).collect()
    }

    /// False if a UNIQUE value of it is another row's.
    fn insert(&self, row: &Row) -> Result<bool, Error> {
        let told = row.cells.iter().enumerate().filter_map(|(at, cell)| cell.as_ref().map(|cell| (at, cell)));
        let (columns, values): (Vec<usize>, Vec<&Value>) = told.unzip();
        let names: Vec<String> = columns.iter().map(|at| quoted(&self.fitted.columns[*at])).collect();
        let places: Vec<String> = (1..=values.len()).map(|n| format!("?{n}")).collect();
        let sql = format!(
            "INSERT INTO {}({}) VALUES({}) ON CONFLICT DO NOTHING",
            quoted(&self.found.source.table),
            names.join(", "),
            places.join(", ")
        );
        let bound = values.into_iter().map(Bound);
        let changed =
            self.tx.execute(&sql, rusqlite::params_from_iter(bound)).map_err(|error| self.refused(row, error))?;
        Ok(changed > 0)
    }

    fn update(&self, row: &Row, key: &[&Value], stored: &[Value]) -> Result<(), Error> {
        // A key may differ in how it is written: `a` for `A` in a NOCASE column.
        let differing = self.differing(row, stored);
        if differing.is_empty() {
            return Ok(());
        }
        let sets: Vec<String> = differing
            .iter()
            .enumerate()
            .map(|(n, at)| format!("{} = ?{}", quoted(&self.fitted.columns[*at]), n + 1))
            .collect();
        let sql = format!(
            "UPDATE {} SET {} WHERE {}",
            quoted(&self.found.source.table),
            sets.join(", "),
            self.fitted.key_match(differing.len() + 1)
        );
        let values = differing.iter().filter_map(|at| row.cells[*at].as_ref()).chain(key.iter().copied()).map(Bound);
        self.tx.execute(&sql, rusqlite::params_from_iter(values)).map_err(|error| self.refused(row, error))?;
        Ok(())
    }

    /// Reads back what was written; gives the row's exact key.
    fn check(&self, row: &Row, key: &[&Value]) -> Result<Vec<u8>, Error> {
        let Some(stored) = self.stored(key)? else {
            return Err(
                self.fault(row, "the table does not have the row that was just written; a trigger took it away")
            );
        };
        if let Some(at) = self.differing(row, &stored).first().copied() {
            let reason = format!(
                "column {} makes {} of {}: its type does, or a trigger; give it another type, or another form in the mapping",
                self.fitted.columns[at],
                debug(&stored[at]),
                row.cells[at].as_ref().map_or_else(String::new, debug)
            );
            return Err(self.fault(row, reason));
        }
        Ok(self.fitted.exact_key_of(&stored))
    }
}

/// A value with its type.
fn debug(value: &Value) -> String {
    match value {
        Value::Text(_) => format!("the text {:?}", shown(value)),
        other => shown(other),
    }
}

fn whole(key: &[&Value], why: &str) -> Difference {
    Difference {
        key: shown_key(key.iter().copied()),
        column: String::new(),
        document: String::new(),
        table: why.to_owned(),
    }
}
