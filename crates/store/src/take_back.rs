//! Taking a changeset back by a new one, which travels like any other.
//!
//! Rows that it inserted are deleted, those that it deleted are inserted with what they held, columns get the values from before it, and a counter loses
//! what was added. What was changed since stays as it is, and is told; so does what others refer to by now. The statements run as the app's own would: its
//! triggers fire, and constraints bind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use isle_changeset::{Header, Key, Value};
use isle_clock::SiteId;
use isle_schema::{Kind, TableId};
use rusqlite::Connection;

use crate::clocks::to_sql;
use crate::error::Doing as _;
use crate::history::{RowChange, RowChangeKind, changeset, in_order, scan};
use crate::layout::{self, quoted, site_no_of};
use crate::tracked::{Tracked, join};
use crate::{Store, StoreError, Transaction};

/// What taking a changeset back did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undone {
    /// Rows that were written.
    pub written: u64,
    /// What was left as it is, and why.
    pub skipped: Vec<String>,
}

impl Store {
    /// Takes a changeset back by a new one: rows that it inserted are deleted, those that it deleted are inserted, and columns get the values
    /// from before it. What was changed since stays.
    ///
    /// # Errors
    /// [`StoreError::Statement`] for a version that the log does not have, or that holds rows from before their table was adopted; what a
    /// constraint has against it: then nothing was changed.
    pub fn undo_version(&self, site: SiteId, version: u64) -> Result<Undone, StoreError> {
        let plan = self.snapshot(|conn| Plan::of(conn, site, version))?;
        self.write(|tx| {
            // A counter does not tell that it was taken back.
            tx.note_done(&name_of(site, version))?;
            // Rows of a parent and of its children come in any order.
            tx.execute("PRAGMA defer_foreign_keys = ON", [])?;
            plan.run(tx)
        })
    }
}

/// By what it is noted that a changeset was taken back here.
fn name_of(site: SiteId, version: u64) -> String {
    format!("undo {site} {version}")
}

/// What is to be done to a row.
struct Step {
    /// The row, for people.
    row: String,
    sql: String,
    values: Vec<Value>,
    /// Of a delete: what finds rows that refer to this one, by its key.
    referring: Vec<String>,
}

impl Step {
    /// Runs it; false if no row was there for it.
    fn run(&self, tx: &Transaction<'_>) -> Result<bool, StoreError> {
        let values = self.values.iter().map(|value| to_sql(value.as_ref()));
        Ok(tx.execute(&self.sql, rusqlite::params_from_iter(values))? > 0)
    }

    fn is_referred_to(&self, tx: &Transaction<'_>) -> Result<bool, StoreError> {
        for sql in &self.referring {
            let values = self.values.iter().map(|value| to_sql(value.as_ref()));
            if !tx.query(sql, rusqlite::params_from_iter(values), |_| Ok(()))?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What takes a changeset back.
#[derive(Default)]
struct Plan {
    deletes: Vec<Step>,
    updates: Vec<Step>,
    inserts: Vec<Step>,
    skipped: Vec<String>,
}

impl Plan {
    fn of(conn: &Connection, site: SiteId, version: u64) -> Result<Plan, StoreError> {
        let refused = |reason: String| StoreError::Statement { reason };
        let (id, encoded) = crate::log::header(conn, site, version)?.ok_or_else(|| {
            refused(format!("the log has no version {version} of site {site}: `isle log` shows what it has"))
        })?;
        let header = Header::decode(&encoded).map_err(|source| StoreError::BadHeader { source })?;
        if header.baseline {
            return Err(refused(format!(
                "version {version} of site {site} holds rows that were there when their table was adopted: delete those that you do not want"
            )));
        }
        let tables: HashMap<TableId, Arc<Tracked>> =
            crate::engine::load_tables(conn)?.into_iter().map(|tracked| (tracked.table.id, tracked)).collect();
        let packed = |key: &Key| isle_changeset::pack_key(&key.iter().map(Value::as_ref).collect::<Vec<_>>());
        let mut rows: BTreeMap<(TableId, Vec<u8>), Vec<RowChange>> = BTreeMap::new();
        changeset(conn, (id, &header), &tables, &mut |table, change| {
            rows.entry((table, packed(&change.key))).or_default();
        })?;
        scan(conn, &tables, |table, change| {
            if let Some(changes) = rows.get_mut(&(table, packed(&change.key))) {
                changes.push(change);
            }
        })?;
        let whole = crate::track::refuse_short_log(conn).is_ok();
        let done = layout::meta::<i64>(conn, &format!("done {}", name_of(site, version)))?.is_some();
        let mut plan = Plan::default();
        let mut referring: HashMap<TableId, Vec<String>> = HashMap::new();
        for ((table, _), changes) in rows {
            let Some(tracked) = tables.get(&table) else { continue };
            let referring = match referring.entry(table) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(slot) => slot.insert(referring_sql(conn, tracked)?),
            };
            let changes = in_order(changes);
            let this = |change: &RowChange| (change.no, change.version) == (site_no_of(id), version);
            if let Some(at) = changes.iter().position(this) {
                plan.row(&Undoing { tracked, changes: &changes, at, whole, done }, referring);
            }
        }
        Ok(plan)
    }

    fn row(&mut self, undoing: &Undoing<'_>, referring: &[String]) {
        let row = undoing.shown();
        let skip = |why: String| format!("{row}: {why}");
        match undoing.this().kind {
            RowChangeKind::Inserted if undoing.later().is_empty() => {
                let (sql, values) = undoing.delete();
                self.deletes.push(Step { row, sql, values, referring: referring.to_vec() });
            }
            RowChangeKind::Inserted => self.skipped.push(skip("it was changed since".to_owned())),
            RowChangeKind::Deleted if !undoing.later().is_empty() => {
                self.skipped.push(skip("it was inserted again since".to_owned()));
            }
            RowChangeKind::Deleted => match undoing.insert() {
                Some((sql, values)) => self.inserts.push(Step { row, sql, values, referring: Vec::new() }),
                None => self.skipped.push(skip("the log does not say what it held".to_owned())),
            },
            RowChangeKind::Updated => {
                let (step, skipped) = undoing.update();
                self.skipped.extend(skipped.into_iter().map(skip));
                self.updates.extend(step.map(|(sql, values)| Step { row, sql, values, referring: Vec::new() }));
            }
        }
    }

    /// Deletes first, children before their parents, so that what comes back finds its unique values free; inserts last.
    fn run(mut self, tx: &Transaction<'_>) -> Result<Undone, StoreError> {
        let mut written = 0;
        let mut left = std::mem::take(&mut self.deletes);
        loop {
            let before = left.len();
            let mut kept = Vec::new();
            for step in left {
                match step.is_referred_to(tx)? {
                    true => kept.push(step),
                    false => self.count(&step, step.run(tx)?, &mut written),
                }
            }
            left = kept;
            if left.len() == before {
                break;
            }
        }
        self.skipped.extend(left.iter().map(|step| format!("{}: rows that are still there refer to it", step.row)));
        let steps: Vec<Step> = self.updates.drain(..).chain(self.inserts.drain(..)).collect();
        for step in steps {
            self.count(&step, step.run(tx)?, &mut written);
        }
        Ok(Undone { written, skipped: self.skipped })
    }

    fn count(&mut self, step: &Step, ran: bool, written: &mut u64) {
        match ran {
            true => *written += 1,
            false => self.skipped.push(format!("{}: a constraint hides it, or it is gone", step.row)),
        }
    }
}

/// One row, with all that the log has of it.
struct Undoing<'a> {
    tracked: &'a Tracked,
    /// In the order in which they count.
    changes: &'a [RowChange],
    /// The one that is taken back.
    at: usize,
    /// The log reaches back to the beginning.
    whole: bool,
    /// It was taken back here before.
    done: bool,
}

type Statement = (String, Vec<Value>);

impl Undoing<'_> {
    fn this(&self) -> &RowChange {
        &self.changes[self.at]
    }

    fn later(&self) -> &[RowChange] {
        &self.changes[self.at + 1..]
    }

    fn shown(&self) -> String {
        let key: Vec<String> = self.this().key.iter().map(shown).collect();
        format!("{} {}", self.tracked.table.name, key.join(", "))
    }

    fn delete(&self) -> Statement {
        let name = quoted(&self.tracked.table.name);
        (format!("DELETE FROM {name} WHERE {}", self.tracked.key_match(1)), self.this().key.clone())
    }

    /// The row as it was before it was deleted; `None` if the log does not tell.
    fn insert(&self) -> Option<Statement> {
        let mut values: BTreeMap<usize, Value> = BTreeMap::new();
        let mut knows_all = self.whole;
        for change in &self.changes[..self.at] {
            match change.kind {
                RowChangeKind::Updated => {}
                RowChangeKind::Inserted => (values, knows_all) = (BTreeMap::new(), true),
                RowChangeKind::Deleted => values.clear(),
            }
            for cell in &change.cells {
                let sum = match (cell.kind, values.get(&cell.cell), &cell.after) {
                    (None, ..) => Some(cell.after.clone()),
                    (Some(Kind::Counter), Some(Value::Integer(base)), Value::Integer(more)) => {
                        Some(Value::Integer(base.wrapping_add(*more)))
                    }
                    _ => None,
                };
                match sum {
                    Some(value) => drop(values.insert(cell.cell, value)),
                    None => knows_all = false,
                }
            }
        }
        if !knows_all {
            return None;
        }
        let key = self.this().key.clone();
        let exact = match values.remove(&0) {
            Some(Value::Blob(packed)) => isle_changeset::unpack_key(&packed, key.len()).unwrap_or(key),
            _ => key,
        };
        let table = &self.tracked.table;
        let columns = values.keys().filter_map(|cell| table.columns.get(cell - 1)).map(|column| quoted(&column.name));
        let names: Vec<String> = table.key.iter().map(|column| quoted(&column.name)).chain(columns).collect();
        let places = join((1..=names.len()).map(|n| format!("?{n}")), ", ");
        let sql = format!("INSERT INTO {}({}) VALUES({places})", quoted(&table.name), names.join(", "));
        Some((sql, exact.into_iter().chain(values.into_values()).collect()))
    }

    /// One statement for all columns that get their values back, and what does not.
    fn update(&self) -> (Option<Statement>, Vec<String>) {
        let begun_anew = self.later().iter().any(|change| change.kind != RowChangeKind::Updated);
        let (mut sets, mut values, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for cell in &self.this().cells {
            let Some(column) = cell.column.as_deref().map(quoted) else {
                skipped.push("the spelling of its key stays".to_owned());
                continue;
            };
            let written = self.later().iter().flat_map(|change| &change.cells).any(|other| other.cell == cell.cell);
            let place = values.len() + 1;
            let why = match (cell.kind, &cell.before) {
                _ if begun_anew => format!("it was deleted, or inserted again, since: {column} stays"),
                (Some(Kind::Counter), _) if self.done => format!("{column} was taken back before"),
                (Some(Kind::Counter), _) => {
                    sets.push(format!("{column} = {column} - ?{place}"));
                    values.push(cell.after.clone());
                    continue;
                }
                (Some(kind), _) => format!("{column} merges as a {kind}, and a change of it cannot be taken back"),
                (None, _) if written => format!("{column} was written since"),
                (None, Some(before)) => {
                    sets.push(format!("{column} = ?{place}"));
                    values.push(before.clone());
                    continue;
                }
                (None, None) => format!("the log does not say what {column} held before"),
            };
            skipped.push(why);
        }
        if sets.is_empty() {
            return (None, skipped);
        }
        let (name, matches) = (quoted(&self.tracked.table.name), self.tracked.key_match(values.len() + 1));
        values.extend(self.this().key.iter().cloned());
        (Some((format!("UPDATE {name} SET {} WHERE {matches}", sets.join(", ")), values)), skipped)
    }
}

/// The columns of a foreign key and those that they name, which are the key's where none are named.
type ForeignColumns = Vec<(String, Option<String>)>;

/// What finds rows that refer to a row of a table, by that row's key; in any table of the file.
fn referring_sql(conn: &Connection, tracked: &Tracked) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT l.name, f.id, f.\"from\", f.\"to\" FROM pragma_table_list AS l JOIN pragma_foreign_key_list(l.name) AS f
               WHERE l.schema = 'main' AND l.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE ORDER BY l.name, f.id, f.seq";
    let mut statement = conn.prepare(sql).doing("look for foreign keys")?;
    let rows = statement.query_map([&tracked.table.name], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, Option<String>>(3)?,
        ))
    });
    let mut keys: BTreeMap<(String, i64), ForeignColumns> = BTreeMap::new();
    for row in rows.doing("look for foreign keys")? {
        let (child, id, from, to) = row.doing("look for foreign keys")?;
        keys.entry((child, id)).or_default().push((from, to));
    }
    let one = |((child, _), columns): ((String, i64), ForeignColumns)| {
        let from = join(columns.iter().map(|(from, _)| quoted(from)), ", ");
        let primary = |n: usize| tracked.table.key.get(n).map(|column| column.name.clone()).unwrap_or_default();
        let to = columns.iter().enumerate().map(|(n, (_, to))| quoted(&to.clone().unwrap_or_else(|| primary(n))));
        format!(
            "SELECT 1 FROM {} WHERE ({from}) IN (SELECT {} FROM {} WHERE {}) LIMIT 1",
            quoted(&child),
            join(to, ", "),
            quoted(&tracked.table.name),
            tracked.key_match(1)
        )
    };
    Ok(keys.into_iter().map(one).collect())
}

/// A value as people read it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
        Value::Blob(bytes) => format!("x'{}'", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}
