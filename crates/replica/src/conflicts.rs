//! Concurrent values that lost, and rows that do not show as they are merged.

use isle_clock::{Hlc, SiteId};
use isle_store::Reason;

use crate::names::quoted;
use crate::{ConflictBase, Error, Replica, Value};

/// A row that a constraint keeps from showing as it is merged.
#[derive(Debug, Clone, PartialEq)]
pub struct Repaired {
    /// The table.
    pub table: String,
    /// The key of the row: column names and values.
    pub key: Vec<(String, Value)>,
    /// Whether the row does not show at all; else it shows without its reference.
    pub hidden: bool,
    /// `UNIQUE (columns)`, or `(columns) -> parent` of a foreign key.
    pub constraint: String,
    /// What the row has in the constraint's columns; text as it compares there.
    pub values: Vec<Value>,
    /// The key of the row that shows instead; `None` where a parent is missing.
    pub instead: Option<Vec<Value>>,
}

/// A concurrent value that lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// Its number in this file.
    pub id: i64,
    /// The table.
    pub table: String,
    /// The key of the row: column names and values.
    pub key: Vec<(String, Value)>,
    /// The column; `None` for the exact spelling of the key.
    pub column: Option<String>,
    /// The value that lost.
    pub value: Value,
    /// The value that stands there now; `None` if the row is gone.
    pub current: Option<Value>,
    /// When the losing value was written.
    pub hlc: Hlc,
    /// Who wrote it.
    pub site: Option<SiteId>,
    /// When the winning write was made.
    pub winner_hlc: Option<Hlc>,
    /// Who made it.
    pub winner: Option<SiteId>,
    /// Why it lost.
    pub reason: Reason,
    /// Whether somebody has dealt with it.
    pub resolved: bool,
}

/// What to do with a conflict.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolution {
    /// Leave the value that won.
    Keep,
    /// Write the value that lost, as a new change.
    PutBack,
    /// Write another value.
    Value(Value),
    /// Write what the cell held before either of the two values was written.
    Base,
    /// The value that this device wrote; where it wrote neither, the one that stands.
    Ours,
    /// The other one.
    Theirs,
}

impl Replica {
    /// Concurrent values that lost, newest first; with `all` also those that were dealt with.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn conflicts(&self, all: bool, limit: usize) -> Result<Vec<Conflict>, Error> {
        Ok(self.inner.store.conflicts(all, limit)?.into_iter().map(conflict).collect())
    }

    /// Rows that do not show as they are merged, at most `limit`: a UNIQUE index has room for one of several, or a parent is
    /// missing. They come back by themselves once nothing is against it.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn repaired(&self, limit: usize) -> Result<Vec<Repaired>, Error> {
        Ok(self.inner.store.repaired(limit)?.into_iter().map(repaired).collect())
    }

    /// How many entries [`Replica::conflicts`] would give without a limit.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn count_conflicts(&self, all: bool) -> Result<u64, Error> {
        Ok(self.inner.store.count_conflicts(all)?)
    }

    /// Deals with every open conflict, or those of one table: the values stay as they stand now. Gives how many there were.
    ///
    /// # Errors
    /// [`isle_store::StoreError::NotTracked`] for a table that is not tracked.
    pub fn resolve_conflicts(&self, table: Option<&str>) -> Result<u64, Error> {
        Ok(self.inner.store.resolve_conflicts(table)?)
    }

    /// One entry of the conflict journal.
    ///
    /// # Errors
    /// [`Error::NoSuchConflict`].
    pub fn conflict(&self, id: i64) -> Result<Conflict, Error> {
        self.inner.store.conflict(id)?.map(conflict).ok_or(Error::NoSuchConflict { id })
    }

    /// Deals with a conflict. A value that is written is an ordinary change and travels.
    ///
    /// # Errors
    /// [`Error::NoSuchConflict`], [`Error::ConflictRowGone`], [`Error::ConflictOfPart`].
    pub fn resolve(&self, id: i64, resolution: &Resolution) -> Result<(), Error> {
        let entry = self.conflict(id)?;
        if entry.resolved {
            return Err(Error::NoSuchConflict { id });
        }
        // Who wrote neither has the one that stands.
        let lost_is_ours = entry.site.is_some_and(|site| site == self.inner.store.status().map_or(site, |s| s.site));
        let resolution = &match resolution {
            Resolution::Ours if lost_is_ours => Resolution::PutBack,
            Resolution::Theirs if !lost_is_ours => Resolution::PutBack,
            Resolution::Ours | Resolution::Theirs => Resolution::Keep,
            Resolution::Base => match self.conflict_base(id)? {
                ConflictBase::Value(value) => Resolution::Value(value),
                ConflictBase::Absent | ConflictBase::Unknown => return Err(Error::ConflictWithoutBase { id }),
            },
            other => other.clone(),
        };
        let value = match resolution {
            Resolution::Base | Resolution::Ours | Resolution::Theirs | Resolution::Keep => None,
            Resolution::PutBack if entry.reason == Reason::Change => return Err(Error::ConflictOfPart { id }),
            Resolution::PutBack => Some(&entry.value),
            Resolution::Value(value) => Some(value),
        };
        if let (Some(value), Some(column)) = (value, &entry.column) {
            let keys = entry.key.iter().enumerate().map(|(n, (name, _))| format!("{} = ?{}", quoted(name), n + 2));
            let keys: Vec<String> = keys.collect();
            let sql =
                format!("UPDATE {} SET {} = ?1 WHERE {}", quoted(&entry.table), quoted(column), keys.join(" AND "));
            let mut params = vec![value.as_param()];
            params.extend(entry.key.iter().map(|(_, value)| value.as_param()));
            self.write(|tx| match tx.execute(&sql, &params)? {
                0 => Err(Error::ConflictRowGone { id, table: entry.table.clone() }),
                _ => Ok(()),
            })?;
        }
        if self.inner.store.resolve_conflict(id)? { Ok(()) } else { Err(Error::NoSuchConflict { id }) }
    }
}

fn conflict(entry: isle_store::Conflict) -> Conflict {
    let key = entry.key_columns.into_iter().zip(entry.key.iter().map(Value::from_changeset)).collect();
    Conflict {
        id: entry.id,
        table: entry.table,
        key,
        column: entry.column,
        value: Value::from_changeset(&entry.value),
        current: entry.current.as_ref().map(Value::from_changeset),
        hlc: entry.hlc,
        site: entry.site,
        winner_hlc: entry.winner_hlc,
        winner: entry.winner,
        reason: entry.reason,
        resolved: entry.resolved,
    }
}

fn repaired(row: isle_store::Repaired) -> Repaired {
    let value = |value: &isle_changeset::Value| Value::from_changeset(value);
    Repaired {
        table: row.table,
        key: row.key.iter().map(|(name, key)| (name.clone(), value(key))).collect(),
        hidden: row.hidden,
        constraint: row.constraint,
        values: row.values.iter().map(value).collect(),
        instead: row.instead_of.map(|key| key.iter().map(value).collect()),
    }
}
