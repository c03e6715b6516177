//! What the schema will be once every operation that is here is applied: enough of it to hold changesets against that were written under it.
//!
//! What one device refuses every device has to refuse, whether it has applied an operation yet or not: else one would merge, and name
//! among its causes, what another refuses for ever.

use std::collections::{BTreeSet, HashMap};

use isle_changeset::{DecodeError, Row, Section};
use isle_schema::{ColumnId, Kind, Migration, Step, Table, TableId};
use rusqlite::Connection;

use crate::{StoreError, kinds, own};

/// A table that operations declare: as it was born, and the ids under which values of its columns travel.
struct Declared {
    table: Table,
    columns: HashMap<ColumnId, Option<Kind>>,
}

/// What operations declare, applied or not.
#[derive(Default)]
pub(crate) struct Ahead {
    tables: HashMap<TableId, Declared>,
    /// Some operation is of a newer isle: it may declare anything.
    unreadable: bool,
}

impl Ahead {
    pub(crate) fn of(conn: &Connection) -> Result<Ahead, StoreError> {
        let mut ahead = Ahead::default();
        for (_, body) in own::operations_beyond(conn, &BTreeSet::new())? {
            let Ok((_, migration)) = Migration::decode(&body) else {
                ahead.unreadable = true;
                continue;
            };
            for step in &migration.steps {
                match step {
                    Step::CreateTable(definition) => {
                        let table = &definition.table;
                        let declared = ahead.tables.entry(table.id).or_insert_with(|| Declared {
                            table: table.clone(),
                            columns: HashMap::from([(ColumnId::KEY, None)]),
                        });
                        declared.columns.extend(table.columns.iter().map(|column| (column.id, None)));
                    }
                    Step::AddColumn { table, column, .. } => {
                        if let Some(declared) = ahead.tables.get_mut(table) {
                            declared.columns.insert(column.id, None);
                        }
                    }
                    // Of a column of one kind, writes of any kind are known.
                    Step::SetKind { table, column, .. } => {
                        if let Some(declared) = ahead.tables.get_mut(table) {
                            let ids = Kind::ALL.into_iter().map(|kind| (column.of_kind(kind), Some(kind)));
                            declared.columns.extend(ids);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(ahead)
    }

    /// Whether an operation declares a column, or may.
    pub(crate) fn has_column(&self, table: TableId, column: ColumnId) -> bool {
        self.unreadable || self.tables.get(&table).is_some_and(|declared| declared.columns.contains_key(&column))
    }

    /// Checks what a row of a section holds for columns of kinds, as far as they are declared.
    pub(crate) fn check_kinds(&self, section: &Section<'_>, row: &Row<'_>) -> Result<(), DecodeError> {
        let Some(declared) = self.tables.get(&section.table()) else { return Ok(()) };
        for (column, value) in crate::seal::bits(&row.mask).zip(&row.values) {
            let id = section.columns().get(column);
            if let Some(Some(kind)) = id.and_then(|id| declared.columns.get(id)) {
                kinds::check_value(*kind, *value)?;
            }
        }
        Ok(())
    }

    /// Checks the rows of a table that is not here; gives how many there are.
    pub(crate) fn check(&self, section: &mut Section<'_>) -> Result<u64, DecodeError> {
        let declared = self.tables.get(&section.table());
        if declared.is_none() && !self.unreadable {
            return Err(DecodeError::Inconsistent { what: "table of a section" });
        }
        let known = |column: &ColumnId| self.has_column(section.table(), *column);
        if !section.columns().iter().all(known) {
            return Err(DecodeError::Inconsistent { what: "column of a section" });
        }
        if declared.is_some_and(|declared| section.key_columns() != declared.table.key.len()) {
            return Err(DecodeError::Inconsistent { what: "key of a section" });
        }
        let exact = section.columns().iter().position(|column| *column == ColumnId::KEY);
        let (mut rows, mut row) = (0, Row::default());
        while section.next(&mut row)? {
            rows += 1;
            let Some(declared) = declared else { continue };
            crate::log::check_key(&declared.table, &row, exact)?;
            self.check_kinds(section, &row)?;
        }
        Ok(rows)
    }
}
