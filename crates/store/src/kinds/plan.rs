//! What a definition asks for: kinds of columns, and groups of them.

use std::collections::BTreeSet;

use isle_schema::{Column, ColumnId, Kind, Step, TableDefinition, TableId, TableState};
use rusqlite::Connection;

use crate::StoreError;
use crate::define::SchemaPlan;
use crate::tracked::{self, LocalTable};

/// The steps to the groups of columns that a definition asks for in one table.
pub(crate) fn plan_groups(
    (table, id): (&str, TableId),
    groups: &[(String, Vec<String>)],
    columns: &[Column],
    known: Option<&TableState>,
    plan: &mut SchemaPlan,
) {
    let mut asked = BTreeSet::new();
    for (_, names) in groups.iter().filter(|(named, _)| named.eq_ignore_ascii_case(table)) {
        let mut ids = BTreeSet::new();
        for name in names {
            match columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) {
                Some(column) => drop(ids.insert(column.id)),
                None => plan
                    .refused
                    .push(format!("table {table}: {name:?} is no column outside the key, so it is in no group")),
            }
        }
        let of_kind = |step: &Step| matches!(step, Step::SetKind { column, .. } if ids.contains(column));
        if plan.steps.iter().any(of_kind) || known.is_some_and(|known| known.kinds.keys().any(|id| ids.contains(id))) {
            plan.refused.push(format!("table {table}: a column of a kind merges by itself, so it is in no group"));
        }
        if known.is_none_or(|known| !known.groups.contains(&ids)) && !asked.contains(&ids) {
            let step = Step::SetGroup { table: id, columns: ids.iter().copied().collect() };
            plan.add("set group", table, format!("{} are written together", names.join(", ")), step);
        }
        asked.insert(ids);
    }
    let left = plan.steps.iter().filter_map(|step| match step {
        Step::HideColumn { column, hidden: true, .. } => Some(*column),
        _ => None,
    });
    let left: BTreeSet<ColumnId> = left.chain(known.iter().flat_map(|known| known.hidden.iter().copied())).collect();
    let hidden = |group: &BTreeSet<ColumnId>| !left.is_disjoint(group);
    for group in known.iter().flat_map(|known| &known.groups).filter(|group| !asked.contains(*group) && !hidden(group))
    {
        let names = columns.iter().filter(|column| group.contains(&column.id)).map(|column| column.name.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        plan.refused.push(format!("table {table}: {names} are a group here; write `-- @group {table}({names})`"));
    }
}

/// The kinds that a definition asks for in one table.
pub(crate) struct Asked<'a> {
    table: String,
    kinds: Vec<(&'a str, Kind)>,
    refused: Vec<String>,
}

impl<'a> Asked<'a> {
    pub(crate) fn of(
        wanted: &Connection,
        definition: &TableDefinition,
        kinds: &'a [(String, String, Kind)],
    ) -> Result<Asked<'a>, StoreError> {
        let table = definition.table.name.clone();
        let mut asked = Asked { kinds: Vec::new(), refused: Vec::new(), table };
        let there = tracked::load(wanted, 0, LocalTable::of(definition.table.clone()))?;
        for (table, column, kind) in kinds {
            if !table.eq_ignore_ascii_case(&asked.table) {
                continue;
            }
            asked.refused.extend(super::refuse(&there, column, *kind));
            if asked.kinds.iter().any(|(known, other)| known.eq_ignore_ascii_case(column) && other != kind) {
                asked.refused.push(format!("column {column:?} has two kinds"));
            }
            asked.kinds.push((column, *kind));
        }
        Ok(asked)
    }

    /// The steps to them. `columns` are the table's as the other steps leave them.
    pub(crate) fn plan(self, id: TableId, columns: &[Column], known: Option<&TableState>, plan: &mut SchemaPlan) {
        let table = &self.table;
        plan.refused.extend(self.refused.iter().map(|reason| format!("table {table}: {reason}")));
        for column in columns {
            let asked = self.kinds.iter().find(|(name, _)| name.eq_ignore_ascii_case(&column.name));
            let asked = asked.map(|(_, kind)| *kind);
            let leaves =
                |step: &Step| matches!(step, Step::HideColumn { column: gone, hidden: true, .. } if *gone == column.id);
            let leaves = plan.steps.iter().any(leaves);
            let hidden = leaves || known.is_some_and(|known| known.hidden.contains(&column.id));
            let has = known.and_then(|known| known.kinds.get(&column.id)).copied();
            match (asked, has) {
                (Some(kind), None) => {
                    let step = Step::SetKind { table: id, column: column.id, kind };
                    plan.add("set kind", table, format!("{} merges as a {kind}", column.name), step);
                }
                (None, Some(_)) if hidden => {}
                (asked, Some(has)) if asked != Some(has) => plan.refused.push(format!(
                    "table {table}: column {:?} is a {has} here; a kind cannot be changed yet: write `-- @merge {has}` \
                     on its line",
                    column.name
                )),
                _ => {}
            }
        }
    }
}
