//! Who changed what and when, and how to take it back.

use isle_clock::{Hlc, SiteId};
use isle_schema::Kind;
use isle_store::{Base, RowChange, RowChangeKind, Undone};

use crate::{Error, Replica, Value};

/// A change of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryEntry {
    /// Its author.
    pub site: SiteId,
    /// The author's version.
    pub version: u64,
    /// When it was written.
    pub hlc: Hlc,
    /// The row was there when its table was adopted: it counts as earlier than what was written since.
    pub baseline: bool,
    /// What happened.
    pub kind: RowChangeKind,
    /// The row's key, in the form in which keys are compared.
    pub key: Vec<Value>,
    /// The columns that were written.
    pub cells: Vec<HistoryCell>,
}

/// A column that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryCell {
    /// Its name today; `None` for the exact form of the key.
    pub column: Option<String>,
    /// The value that counted before, if the log has it.
    pub before: Option<Value>,
    /// What was written; for a column of a kind what was added.
    pub after: Value,
    /// The kind of which this is a change, rather than a value.
    pub kind: Option<Kind>,
}

impl Replica {
    /// Every change of a row that the log has, oldest first, with the values before and after. Goes through the whole log; what `compact`
    /// has dropped is not there.
    ///
    /// # Errors
    /// [`isle_store::StoreError::NotTracked`]; [`isle_store::StoreError::Statement`] for a key that is not the table's.
    pub fn row_history(&self, table: &str, key: &[Value]) -> Result<Vec<HistoryEntry>, Error> {
        let key: Vec<_> = key.iter().map(Value::to_changeset).collect();
        self.inner.store.seal()?;
        Ok(self.inner.store.row_history(table, &key)?.into_iter().map(entry).collect())
    }

    /// The newest changes of a table's rows, newest first, without the values before.
    ///
    /// # Errors
    /// [`isle_store::StoreError::NotTracked`].
    pub fn table_history(&self, table: &str, limit: usize) -> Result<Vec<HistoryEntry>, Error> {
        self.inner.store.seal()?;
        Ok(self.inner.store.table_history(table, limit)?.into_iter().map(entry).collect())
    }

    /// Takes a changeset back by a new one, which travels: rows that it inserted are deleted, those that it deleted come again, and columns get
    /// the values from before it. What was changed since stays as it is, and is told.
    ///
    /// # Errors
    /// [`isle_store::StoreError::Statement`] for a version that the log does not have; what a constraint has against it: then nothing was changed.
    pub fn undo(&self, site: SiteId, version: u64) -> Result<Undone, Error> {
        self.inner.store.seal()?;
        Ok(self.inner.store.undo_version(site, version)?)
    }

    /// What the cell of a conflict held before either of the two values was written: the base of a merge by hand. Reads the log.
    ///
    /// # Errors
    /// [`Error::NoSuchConflict`].
    pub fn conflict_base(&self, id: i64) -> Result<ConflictBase, Error> {
        self.conflict(id)?;
        Ok(match self.inner.store.conflict_base(id)? {
            Base::Value(value) => ConflictBase::Value(Value::from_changeset(&value)),
            Base::Absent => ConflictBase::Absent,
            Base::Unknown => ConflictBase::Unknown,
        })
    }
}

/// What a cell held before two concurrent writes.
#[derive(Debug, Clone, PartialEq)]
pub enum ConflictBase {
    /// This value.
    Value(Value),
    /// There was no such row.
    Absent,
    /// The log does not reach back so far.
    Unknown,
}

fn entry(change: RowChange) -> HistoryEntry {
    let cell = |cell: isle_store::CellChange| HistoryCell {
        column: cell.column,
        before: cell.before.as_ref().map(Value::from_changeset),
        after: Value::from_changeset(&cell.after),
        kind: cell.kind,
    };
    HistoryEntry {
        site: change.site,
        version: change.version,
        hlc: change.hlc,
        baseline: change.baseline,
        kind: change.kind,
        key: change.key.iter().map(Value::from_changeset).collect(),
        cells: change.cells.into_iter().map(cell).collect(),
    }
}
