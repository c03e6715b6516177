//! The schema that a set of operations amounts to.
//!
//! Operations are taken in canonical order: parents before children, and among those that could come next the smallest id. A
//! step that makes no sense any more is passed over, so any set gives a schema.
//!
//! | concurrent | result |
//! |---|---|
//! | the same column from two authors | one column; the first definition in canonical order |
//! | two renames of one object | the last in canonical order |
//! | a rename to a name that another object has | the other keeps it; this one keeps its old name |
//! | two indexes of one name | the last in canonical order |
//! | a column that is hidden, and returns or is written or renamed | the last in canonical order; its values merge all the while |
//! | two groups of columns | both; a column of both joins them |
//! | two definitions of one table | the last in canonical order; columns that it does not name stay |
//! | two kinds of one column | the last in canonical order; writes under the other count for nothing |
//! | two choices of what becomes of duplicates | the last in canonical order |
//! | two versions | the larger; one that is set and taken back the last in canonical order |
//! | two versions that apps must have | the larger |
//! | two local tables of one name | the last in canonical order |
//! | two views, triggers or full-text tables of one name | the last in canonical order |
//! | a rename of a table to `isle_…`, `sqlite_…` or nothing | passed over |

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Column, ColumnId, IndexDefinition, Kind, LocalDefinition, Migration, MigrationId, Object, Shape, Step, TableId,
    Version,
};

/// A table as the operations leave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    /// Its name today.
    pub name: String,
    /// Its columns that are not part of the key, with their names today.
    pub columns: Vec<Column>,
    /// Names of key columns today, in key order.
    pub key: Vec<String>,
    /// Columns that came after its birth.
    pub added: Vec<AddedColumn>,
    /// Indexes that came after its birth, by name; `None` for one that was dropped.
    pub indexes: BTreeMap<String, Option<IndexDefinition>>,
    /// Columns that are not part of the definition any more. Their values stay.
    pub hidden: BTreeSet<ColumnId>,
    /// Its definition, if it has another than it was born with.
    pub shape: Option<Shape>,
    /// Columns that are written together.
    pub groups: BTreeSet<BTreeSet<ColumnId>>,
    /// Columns of a kind.
    pub kinds: BTreeMap<ColumnId, Kind>,
    /// Columns whose values get a number where rows clash in a UNIQUE index.
    pub renamed: BTreeSet<ColumnId>,
    /// How often each name was born, in lower case.
    births: BTreeMap<String, u32>,
}

/// A column that came after its table's birth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedColumn {
    /// Its id.
    pub id: ColumnId,
    /// Its definition under its birth name.
    pub definition: String,
}

/// What a set of operations amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// The tables by id.
    pub tables: BTreeMap<TableId, TableState>,
    /// Views, triggers and full-text tables by name in lower case; `None` for one that was dropped.
    pub objects: BTreeMap<String, Option<Object>>,
    /// Tables whose rows do not travel, by name in lower case.
    pub locals: BTreeMap<String, LocalDefinition>,
    /// The versions of the app that declared it, and were not taken back.
    pub versions: BTreeSet<Version>,
    /// The earliest version of the app that can live with it, if some cannot.
    pub requires: Option<Version>,
}

impl Schema {
    /// Folds a set of operations. Those whose parents are not in the set count as if they had none.
    pub fn fold<'m>(operations: impl IntoIterator<Item = (MigrationId, &'m Migration)>) -> Schema {
        let operations: BTreeMap<MigrationId, &Migration> = operations.into_iter().collect();
        let mut schema = Schema::default();
        for id in canonical(&operations) {
            for step in &operations[&id].steps {
                schema.step(step);
            }
        }
        schema
    }

    /// The version of the app that it is the schema of: the largest that declared it.
    pub fn version(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// The ids of operations in canonical order.
    pub fn order<'m>(operations: impl IntoIterator<Item = (MigrationId, &'m Migration)>) -> Vec<MigrationId> {
        canonical(&operations.into_iter().collect())
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::CreateTable(definition) => self.create(definition),
            Step::AddColumn { table, column, birth, definition } => {
                let Some(table) = self.tables.get_mut(table) else { return };
                let births = table.births.entry(column.name.to_ascii_lowercase()).or_insert(0);
                *births = (*births).max(birth.saturating_add(1));
                if table.columns.iter().any(|known| known.id == column.id) {
                    return;
                }
                let name = table.free_name(&column.name, column.id);
                table.columns.push(Column { id: column.id, name });
                table.added.push(AddedColumn { id: column.id, definition: definition.clone() });
            }
            Step::RenameColumn { table, column, name } => {
                let Some(table) = self.tables.get_mut(table) else { return };
                let taken = table.key.iter().chain(table.columns.iter().filter(|c| c.id != *column).map(|c| &c.name));
                if taken.into_iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    return;
                }
                if let Some(column) = table.columns.iter_mut().find(|known| known.id == *column) {
                    column.name.clone_from(name);
                }
            }
            Step::RenameTable { table, name } => {
                let taken = self.tables.iter().any(|(id, t)| id != table && t.name.eq_ignore_ascii_case(name));
                if let Some(table) = self.tables.get_mut(table).filter(|_| !taken && !is_reserved(name)) {
                    table.name.clone_from(name);
                }
            }
            Step::CreateIndex { table, name, index } => {
                if let Some(table) = self.tables.get_mut(table) {
                    table.indexes.insert(name.clone(), Some(index.clone()));
                }
            }
            Step::HideColumn { table, column, hidden } => {
                let Some(table) = self.tables.get_mut(table) else { return };
                match hidden {
                    true if table.columns.iter().any(|known| known.id == *column) => table.hidden.insert(*column),
                    _ => table.hidden.remove(column),
                };
            }
            Step::SetKind { table, column, kind } => {
                let Some(table) = self.tables.get_mut(table) else { return };
                if table.columns.iter().any(|known| known.id == *column) {
                    table.kinds.insert(*column, *kind);
                }
            }
            Step::SetVersion(version) => drop(self.versions.insert(version.clone())),
            Step::DropVersion(version) => drop(self.versions.remove(version)),
            Step::Requires(version) => self.requires = self.requires.take().max(Some(version.clone())),
            Step::RenameDuplicates { table, column, renamed } => {
                let Some(table) = self.tables.get_mut(table) else { return };
                match renamed {
                    true if table.columns.iter().any(|known| known.id == *column) => table.renamed.insert(*column),
                    _ => table.renamed.remove(column),
                };
            }
            Step::SetGroup { table, columns } => {
                let Some(table) = self.tables.get_mut(table) else { return };
                let known = |id: &&ColumnId| table.columns.iter().any(|column| column.id == **id);
                let columns = columns.iter().filter(known).copied().collect();
                table.groups.insert(columns);
            }
            Step::Redefine { table, shape } => {
                if let Some(table) = self.tables.get_mut(table) {
                    table.shape = Some(shape.clone());
                }
            }
            Step::PutLocal(local) if is_reserved(&local.name) => {}
            Step::PutLocal(local) => {
                self.locals.insert(local.name.to_ascii_lowercase(), local.clone());
            }
            Step::PutObject(object) if is_reserved(&object.name) => {}
            Step::PutObject(object) => {
                self.objects.insert(object.name.to_ascii_lowercase(), Some(object.clone()));
            }
            Step::DropObject { name } => {
                self.objects.insert(name.to_ascii_lowercase(), None);
            }
            Step::DropIndex { table, name } => {
                if let Some(table) = self.tables.get_mut(table) {
                    table.indexes.insert(name.clone(), None);
                }
            }
        }
    }

    fn create(&mut self, definition: &crate::TableDefinition) {
        let model = &definition.table;
        let births = model.columns.iter().map(|column| (column.name.to_ascii_lowercase(), 1)).collect();
        let known = self.tables.entry(model.id).or_insert_with(|| TableState {
            name: model.name.clone(),
            columns: Vec::new(),
            key: model.key.iter().map(|column| column.name.clone()).collect(),
            added: Vec::new(),
            indexes: BTreeMap::new(),
            hidden: BTreeSet::new(),
            shape: None,
            groups: BTreeSet::new(),
            kinds: BTreeMap::new(),
            renamed: BTreeSet::new(),
            births,
        });
        for column in &model.columns {
            if !known.columns.iter().any(|other| other.id == column.id) {
                // Another one may have taken its name since the table's first birth.
                let name = known.free_name(&column.name, column.id);
                known.columns.push(Column { id: column.id, name });
            }
        }
    }
}

impl TableState {
    /// How often a column of this name was born.
    pub fn births(&self, name: &str) -> u32 {
        self.births.get(&name.to_ascii_lowercase()).copied().unwrap_or(0)
    }

    /// The name, or one made of it and the id where another column has it.
    fn free_name(&self, name: &str, id: ColumnId) -> String {
        let taken = |name: &str| {
            let mut known = self.key.iter().chain(self.columns.iter().map(|column| &column.name));
            known.any(|known| known.eq_ignore_ascii_case(name))
        };
        if taken(name) { format!("{name}_{}", &id.to_string()[..6]) } else { name.to_owned() }
    }
}

/// Whether no app's table can have the name: SQLite's own, isle's own, or none at all.
pub fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.is_empty() || name.starts_with("sqlite_") || name.starts_with("isle_")
}

/// Ids in canonical order.
fn canonical(operations: &BTreeMap<MigrationId, &Migration>) -> Vec<MigrationId> {
    let parents = |id: &MigrationId| operations[id].parents.iter().filter(|parent| operations.contains_key(*parent));
    let mut children: BTreeMap<MigrationId, Vec<MigrationId>> = BTreeMap::new();
    let mut missing: BTreeMap<MigrationId, usize> = BTreeMap::new();
    let mut open = BTreeSet::new();
    for id in operations.keys() {
        let unique: BTreeSet<MigrationId> = parents(id).copied().collect();
        for parent in &unique {
            children.entry(*parent).or_default().push(*id);
        }
        if unique.is_empty() {
            open.insert(*id);
        } else {
            missing.insert(*id, unique.len());
        }
    }
    let mut order = Vec::with_capacity(operations.len());
    while let Some(id) = open.pop_first() {
        order.push(id);
        for child in children.remove(&id).unwrap_or_default() {
            let left = missing.entry(child).or_insert(1);
            *left -= 1;
            if *left == 0 {
                open.insert(child);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Affinity, Collation, KeyColumn, Table, TableDefinition};
    use proptest::prelude::*;

    fn table() -> Table {
        let key = vec![KeyColumn { name: "id".into(), affinity: Affinity::Integer, collation: Collation::Binary }];
        Table::new("app", "notes", key, &["title"], true)
    }

    fn operation(parents: &[MigrationId], steps: Vec<Step>) -> (MigrationId, Migration) {
        let migration = Migration { app: "app".into(), parents: parents.to_vec(), steps };
        (migration.encode().expect("encodes").0, migration)
    }

    fn create() -> Step {
        Step::CreateTable(TableDefinition { table: table(), create_sql: String::new(), index_sql: vec![] })
    }

    fn add(name: &str, definition: &str) -> Step {
        let id = ColumnId::derive(table().id, name, 0);
        let column = Column { id, name: name.into() };
        Step::AddColumn { table: table().id, column, birth: 0, definition: definition.into() }
    }

    fn rename(column: &str, name: &str) -> Step {
        let column = ColumnId::derive(table().id, column, 0);
        Step::RenameColumn { table: table().id, column, name: name.into() }
    }

    fn names(schema: &Schema) -> Vec<&str> {
        schema.tables[&table().id].columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn a_new_column_under_an_old_name_is_another_column() {
        let (root, first) = operation(&[], vec![create()]);
        let (second, renamed) = operation(&[root], vec![rename("title", "subject")]);
        let schema = Schema::fold([(root, &first), (second, &renamed)]);
        assert_eq!(names(&schema), ["subject"]);
        assert_eq!(schema.tables[&table().id].births("TITLE"), 1);
    }

    #[test]
    fn one_of_two_names_stays_with_its_owner() {
        let (root, first) = operation(&[], vec![create()]);
        let (a, renamed) = operation(&[root], vec![rename("title", "stars")]);
        let (b, added) = operation(&[root], vec![add("stars", "\"stars\" INT")]);
        let schema = Schema::fold([(root, &first), (a, &renamed), (b, &added)]);
        let mut found = names(&schema);
        found.sort_unstable();
        assert_eq!(found.len(), 2);
        assert!(found.contains(&"stars"));
    }

    #[test]
    fn a_column_that_another_birth_of_the_table_brings_takes_no_name_that_is_taken() {
        let born = |columns: &[&str]| {
            let table = Table::new("app", "notes", table().key, columns, true);
            Step::CreateTable(TableDefinition { table, create_sql: String::new(), index_sql: vec![] })
        };
        let (root, first) = operation(&[], vec![born(&["title"])]);
        let (a, renamed) = operation(&[root], vec![rename("title", "stars")]);
        let (b, again) = operation(&[a], vec![born(&["title", "stars"])]);
        let schema = Schema::fold([(root, &first), (a, &renamed), (b, &again)]);
        let found = names(&schema);
        let stars = ColumnId::derive(table().id, "stars", 0);
        assert_eq!(found, ["stars", &format!("stars_{}", &stars.to_string()[..6])]);
    }

    #[test]
    fn no_table_takes_a_name_of_isle_or_sqlite_or_none() {
        let (root, first) = operation(&[], vec![create()]);
        for name in ["isle_log", "ISLE_own", "sqlite_sequence", ""] {
            let step = Step::RenameTable { table: table().id, name: name.into() };
            let (id, renamed) = operation(&[root], vec![step]);
            let schema = Schema::fold([(root, &first), (id, &renamed)]);
            assert_eq!(schema.tables[&table().id].name, "notes", "{name:?}");
        }
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let name = || prop_oneof![Just("a"), Just("b"), Just("c"), Just("title")];
        prop_oneof![
            (name(), 0..3u8).prop_map(|(name, kind)| add(name, &format!("\"{name}\" T{kind}"))),
            (name(), name()).prop_map(|(column, to)| rename(column, to)),
            name().prop_map(|name| Step::RenameTable { table: table().id, name: name.into() }),
            name().prop_map(|name| Step::DropIndex { table: table().id, name: name.into() }),
            name().prop_map(|name| Step::DropObject { name: name.to_uppercase() }),
            (name(), any::<bool>()).prop_map(|(name, hidden)| Step::HideColumn {
                table: table().id,
                column: ColumnId::derive(table().id, name, 0),
                hidden
            }),
            (0..3u8, any::<bool>()).prop_map(|(n, set)| {
                let version = Version::parse(&n.to_string()).expect("a version");
                if set { Step::SetVersion(version) } else { Step::DropVersion(version) }
            }),
            (name(), any::<bool>()).prop_map(|(name, renamed)| Step::RenameDuplicates {
                table: table().id,
                column: ColumnId::derive(table().id, name, 0),
                renamed
            }),
            (name(), name()).prop_map(|(a, b)| Step::SetGroup {
                table: table().id,
                columns: vec![ColumnId::derive(table().id, a, 0), ColumnId::derive(table().id, b, 0)]
            }),
            (name(), 0..3u8).prop_map(|(name, kind)| Step::PutLocal(LocalDefinition {
                name: name.to_uppercase(),
                create_sql: kind.to_string(),
                index_sql: vec![],
                expires: None
            })),
            (name(), 0..3u8).prop_map(|(name, kind)| Step::Redefine {
                table: table().id,
                shape: Shape { create_sql: format!("{name}{kind}"), columns: vec![], parents: vec![] }
            }),
            (name(), any::<prop::sample::Index>()).prop_map(|(name, kind)| Step::SetKind {
                table: table().id,
                column: ColumnId::derive(table().id, name, 0),
                kind: Kind::ALL[kind.index(Kind::ALL.len())]
            }),
            (name(), 0..3u8).prop_map(|(name, kind)| Step::PutObject(Object {
                kind: crate::ObjectKind::View,
                name: name.into(),
                sql: kind.to_string()
            })),
            (name(), 0..3u8).prop_map(|(name, kind)| Step::CreateIndex {
                table: table().id,
                name: name.into(),
                index: IndexDefinition { sql: kind.to_string(), table_name: name.into(), columns: vec![] }
            }),
        ]
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_changes_nothing(
            steps in prop::collection::vec((any_step(), any::<prop::sample::Index>(), any::<bool>()), 1..12),
            keys in prop::collection::vec(any::<u32>(), 12)
        ) {
            let mut operations = vec![operation(&[], vec![create()])];
            for (step, parent, two) in steps {
                let mut parents = vec![parent.get(&operations).0];
                if two {
                    parents.push(operations[operations.len() / 2].0);
                }
                operations.push(operation(&parents, vec![step]));
            }
            let fold = |operations: &[(MigrationId, Migration)]| Schema::fold(operations.iter().map(|(id, op)| (*id, op)));
            let expected = fold(&operations);
            // No two columns share a name, whatever came together.
            let mut all: Vec<String> = names(&expected).iter().map(|name| name.to_ascii_lowercase()).collect();
            all.sort_unstable();
            prop_assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
            let mut shuffled: Vec<_> = operations.iter().cloned().enumerate().collect();
            shuffled.sort_by_key(|(n, _)| keys[n % keys.len()]);
            let shuffled: Vec<_> = shuffled.into_iter().map(|(_, operation)| operation).collect();
            prop_assert_eq!(fold(&shuffled), expected);
        }
    }
}
