//! What of operations that were made at once does not stand.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{Migration, MigrationId, Schema, Step};

/// Two operations that knew nothing of each other and wanted different things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaConflict {
    /// The step that stands.
    pub stands: (MigrationId, Step),
    /// The step that does not.
    pub lost: (MigrationId, Step),
}

impl Schema {
    /// What of operations that were made at once does not stand, in canonical order of those that lost. An operation that came later and
    /// knew both has settled it.
    pub fn conflicts<'m>(operations: impl IntoIterator<Item = (MigrationId, &'m Migration)>) -> Vec<SchemaConflict> {
        let operations: BTreeMap<MigrationId, &Migration> = operations.into_iter().collect();
        let order = Schema::order(operations.iter().map(|(id, migration)| (*id, *migration)));
        let mut ancestors: HashMap<MigrationId, BTreeSet<MigrationId>> = HashMap::new();
        let mut standing: HashMap<Vec<u8>, (MigrationId, Step)> = HashMap::new();
        let mut conflicts: Vec<(Vec<u8>, SchemaConflict)> = Vec::new();
        for id in order {
            let mut known = BTreeSet::new();
            for parent in &operations[&id].parents {
                known.insert(*parent);
                known.extend(ancestors.get(parent).into_iter().flatten().copied());
            }
            for step in &operations[&id].steps {
                let (target, first_stands) = target(step);
                // Whoever knew both has chosen.
                conflicts.retain(|(of, conflict)| {
                    *of != target || !(known.contains(&conflict.stands.0) && known.contains(&conflict.lost.0))
                });
                let before = standing.get(&target).cloned();
                if !first_stands || before.is_none() {
                    standing.insert(target.clone(), (id, step.clone()));
                }
                let Some(before) = before.filter(|(other, was)| was != step && *other != id && !known.contains(other))
                else {
                    continue;
                };
                let this = (id, step.clone());
                let (stands, lost) = if first_stands { (before, this) } else { (this, before) };
                conflicts.push((target, SchemaConflict { stands, lost }));
            }
            ancestors.insert(id, known);
        }
        conflicts.into_iter().map(|(_, conflict)| conflict).collect()
    }
}

/// What a step decides, and whether of several the first counts.
fn target(step: &Step) -> (Vec<u8>, bool) {
    let name = |kind: u8, table: &crate::TableId, rest: &[u8]| [&[kind], table.as_bytes().as_slice(), rest].concat();
    match step {
        Step::CreateTable(definition) => (name(0, &definition.table.id, &[]), true),
        Step::AddColumn { table, column, .. } => (name(1, table, column.id.as_bytes()), true),
        Step::RenameColumn { table, column, .. } => (name(2, table, column.as_bytes()), false),
        Step::RenameTable { table, .. } => (name(3, table, &[]), false),
        Step::CreateIndex { table, name: index, .. } | Step::DropIndex { table, name: index } => {
            (name(4, table, index.as_bytes()), false)
        }
        Step::PutObject(object) => ([&[5], object.name.to_ascii_lowercase().as_bytes()].concat(), false),
        Step::DropObject { name } => ([&[5], name.to_ascii_lowercase().as_bytes()].concat(), false),
        Step::HideColumn { table, column, .. } => (name(6, table, column.as_bytes()), false),
        Step::SetKind { table, column, .. } => (name(7, table, column.as_bytes()), false),
        Step::Redefine { table, .. } => (name(8, table, &[]), false),
        // Groups join.
        Step::SetGroup { table, columns } => {
            (name(9, table, &columns.iter().flat_map(|id| id.as_bytes().to_vec()).collect::<Vec<_>>()), false)
        }
        Step::PutLocal(local) => ([&[10], local.name.to_ascii_lowercase().as_bytes()].concat(), false),
        // The larger stands, whoever it was.
        Step::SetVersion(version) | Step::DropVersion(version) => {
            ([&[12], version.to_string().as_bytes()].concat(), false)
        }
        Step::Requires(version) => ([&[13], version.to_string().as_bytes()].concat(), false),
        Step::RenameDuplicates { table, column, .. } => (name(11, table, column.as_bytes()), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnId, TableId};

    fn operation(parents: &[MigrationId], name: &str) -> (MigrationId, Migration) {
        let column = ColumnId::from_bytes([1; 16]);
        let step = Step::RenameColumn { table: TableId::from_bytes([2; 16]), column, name: name.into() };
        let migration = Migration { app: "app".into(), parents: parents.to_vec(), steps: vec![step] };
        (migration.encode().expect("encodes").0, migration)
    }

    #[test]
    fn what_two_authors_want_at_once_is_named_until_somebody_who_knows_both_chooses() {
        let (a, first) = operation(&[], "a");
        let (b, second) = operation(&[], "b");
        let (same, third) = operation(&[a], "a");
        let both = [(a, &first), (b, &second)];
        let found = Schema::conflicts(both);
        assert_eq!(found.len(), 1);
        assert_eq!([found[0].lost.0, found[0].stands.0], [a.min(b), a.max(b)]);
        assert!(Schema::conflicts([(a, &first), (same, &third)]).is_empty(), "one after the other");
        let (c, chosen) = operation(&[a, b], "c");
        assert!(Schema::conflicts([(a, &first), (b, &second), (c, &chosen)]).is_empty());
        // Twice in one operation, say by way of a name that nobody has.
        let steps = vec![first.steps[0].clone(), second.steps[0].clone()];
        let (id, twice) = (MigrationId::from_bytes([3; 16]), Migration { steps, ..first.clone() });
        assert!(Schema::conflicts([(id, &twice)]).is_empty());
    }
}
