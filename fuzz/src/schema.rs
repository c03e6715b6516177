//! Schemas: operations as peers and buckets bring them, versions, and definitions as JSON.
//!
//! Input: form, then the bytes. An operation's ids follow from its names; they are made to, so that more than the seeds' own names get through.

use std::collections::BTreeSet;

use isle_schema::{
    Affinity, Collation, Column, ColumnId, Document, DocumentTable, IndexDefinition, KeyColumn, Kind, LocalDefinition,
    Migration, MigrationId, Object, ObjectKind, Schema, Shape, Step, Table, TableDefinition, TableId, TableState,
    Version,
};

use crate::script::{Script, piece};
use crate::{Seed, memory};

/// The most operations of one input.
const OPERATIONS_MAX: usize = 12;
const MAGIC: &[u8] = b"ISLM\x01";

/// Memory for bytes: a step of two bytes is some 200 of memory in a list that grows by doubling.
const fn bound(bytes: usize) -> usize {
    (2 << 20) + 320 * bytes
}

/// The target.
pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    match script.byte() % 6 {
        0 => operation(script.rest()),
        1 => operation(&[MAGIC, script.rest()].concat()),
        2 => {
            if let Some(migration) = sound(script.rest(), &mut Known::default()) {
                operation(&migration.encode().expect("written").1);
            }
        }
        3 => fold(&mut script),
        4 => version(&String::from_utf8_lossy(script.rest())),
        _ => document(&String::from_utf8_lossy(script.rest())),
    }
}

/// One operation has one encoding and one id.
fn operation(bytes: &[u8]) {
    let decoded = memory::bounded("reading an operation", bound(bytes.len()), || Migration::decode(bytes));
    let Ok((id, migration)) = decoded else { return };
    let (again, written) = migration.encode().expect("written");
    assert_eq!((again, written.as_slice()), (id, bytes));
    let schema = Schema::fold([(id, &migration)]);
    assert_eq!(schema.tables.len(), migration.tables().map(|table| table.table.id).collect::<BTreeSet<_>>().len());
    // Steps of one operation on one thing are said to be in conflict with each other.
    assert!(Schema::conflicts([(id, &migration)]).iter().all(|of| (of.stands.0, of.lost.0) == (id, id)), "with nobody");
}

/// Tables and columns that operations may speak of.
#[derive(Default)]
struct Known {
    tables: Vec<TableId>,
    columns: Vec<ColumnId>,
}

/// The one that is meant, or one that there is.
fn meant<T: Copy + PartialEq>(id: &mut T, known: &[T], byte: u8) {
    if !known.contains(id) && !known.is_empty() {
        *id = known[usize::from(byte) % known.len()];
    }
}

/// An operation whose ids follow from its names, and whose steps are about tables and columns that there are.
fn sound(bytes: &[u8], known: &mut Known) -> Option<Migration> {
    let mut migration: Migration = postcard::from_bytes(bytes).ok()?;
    let app = migration.app.clone();
    let table_of = |id: &mut TableId, known: &Known| meant(id, &known.tables, id.as_bytes()[0]);
    let column_of = |id: &mut ColumnId, known: &Known| meant(id, &known.columns, id.as_bytes()[0]);
    for step in &mut migration.steps {
        match step {
            Step::CreateTable(definition) => {
                let table = &mut definition.table;
                if table.key.is_empty() {
                    return None;
                }
                table.id = TableId::derive(&app, &table.name, 0, &table.key);
                table.columns.iter_mut().for_each(|column| column.id = ColumnId::derive(table.id, &column.name, 0));
                known.tables.push(table.id);
                known.columns.extend(table.columns.iter().map(|column| column.id));
            }
            Step::AddColumn { table, column, birth, .. } => {
                table_of(table, known);
                column.id = ColumnId::derive(*table, &column.name, *birth);
                known.columns.push(column.id);
            }
            Step::RenameColumn { table, column, .. }
            | Step::HideColumn { table, column, .. }
            | Step::SetKind { table, column, .. }
            | Step::RenameDuplicates { table, column, .. } => {
                table_of(table, known);
                column_of(column, known);
            }
            Step::SetGroup { table, columns } => {
                table_of(table, known);
                columns.iter_mut().for_each(|column| column_of(column, known));
            }
            Step::RenameTable { table, .. }
            | Step::CreateIndex { table, .. }
            | Step::DropIndex { table, .. }
            | Step::Redefine { table, .. } => table_of(table, known),
            _ => {}
        }
    }
    Some(migration)
}

/// What a set of operations comes to is a function of the set.
fn fold(script: &mut Script<'_>) {
    let mut operations: Vec<(MigrationId, Migration)> = Vec::new();
    let mut known = Known::default();
    while !script.is_over() && operations.len() < OPERATIONS_MAX {
        let (parents, bytes) = (script.byte(), script.piece());
        let Some(mut migration) = sound(bytes, &mut known) else { continue };
        let last = operations.iter().rev().take(8).enumerate();
        migration.parents = last.filter(|(n, _)| parents >> n & 1 == 1).map(|(_, (id, _))| *id).collect();
        let (id, written) = migration.encode().expect("written");
        assert_eq!(Migration::decode(&written).expect("its ids are right"), (id, migration.clone()));
        operations.push((id, migration));
    }
    let forth = || operations.iter().map(|(id, migration)| (*id, migration));
    let schema = Schema::fold(forth());
    assert_eq!(Schema::fold(forth().rev()), schema);
    assert_eq!(Schema::conflicts(forth().rev()), Schema::conflicts(forth()));
    let order = Schema::order(forth());
    let all: BTreeSet<MigrationId> = forth().map(|(id, _)| id).collect();
    assert_eq!((order.len(), order.iter().copied().collect::<BTreeSet<_>>()), (all.len(), all));
    for (id, migration) in &operations {
        let place = |id: &MigrationId| order.iter().position(|other| other == id);
        assert!(migration.parents.iter().all(|parent| place(parent) < place(id)), "parents come first");
    }
    let created: Vec<TableId> =
        operations.iter().flat_map(|(_, migration)| migration.tables()).map(|table| table.table.id).collect();
    // A table that is created twice may bring a name that one of its columns has been given meanwhile.
    let once = |id: &TableId| created.iter().filter(|other| *other == id).count() < 2;
    schema.tables.iter().filter(|(id, _)| once(id)).for_each(|(_, table)| names(table));
}

/// No two columns of a table share a name.
fn names(table: &TableState) {
    let mut names: Vec<String> = table.columns.iter().map(|column| column.name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    assert!(names.is_sorted_by(|a, b| a < b), "columns of one name: {names:?}");
}

/// A version is shown so that it is read as the same one.
fn version(text: &str) {
    if let Some(version) = Version::parse(text) {
        assert_eq!(Version::parse(&version.to_string()), Some(version.clone()));
        assert_eq!(Version::parse(&format!("v{version}")), Some(version));
    }
}

/// A definition reads back, and its names add no statement to its SQL.
fn document(json: &str) {
    let decoded = memory::bounded("reading a definition", bound(json.len()), || serde_json::from_str::<Document>(json));
    let Ok(mut document) = decoded else { return };
    let written = serde_json::to_string(&document).expect("written");
    assert_eq!(serde_json::from_str::<Document>(&written).expect("just written"), document);
    let sql = document.to_sql();
    assert!(sql.len() <= 1024 + 24 * written.len(), "{} bytes of SQL for {} of JSON", sql.len(), written.len());
    names_alone(&mut document);
    let sql = document.to_sql();
    // A name with a line break ends the comment in which it stands.
    if !written.contains("\\n") {
        let expected = document.tables.len() + document.indexes.len() + document.virtual_tables.len();
        assert_eq!(statements(&sql), Some(expected), "{sql}");
    }
}

/// Leaves out what is SQL by its nature: types, expressions, actions, views and triggers.
fn names_alone(document: &mut Document) {
    (document.version, document.views, document.triggers) = (None, Vec::new(), Vec::new());
    for table in document.tables.values_mut() {
        let DocumentTable { columns, foreign_keys, check_constraints, .. } = table;
        check_constraints.clear();
        columns.iter_mut().for_each(|column| (column.declared, column.default) = (String::new(), None));
        foreign_keys.iter_mut().for_each(|key| (key.on_delete, key.on_update) = (None, None));
    }
    document.indexes.iter_mut().for_each(|index| index.where_clause = None);
    document.virtual_tables.iter_mut().for_each(|table| {
        let values = std::mem::take(&mut table.options).into_values();
        table.options = values.enumerate().map(|(n, value)| (format!("option{n}"), value)).collect();
    });
}

/// How many statements a text in SQL has; `None` if a quote or a parenthesis stays open.
fn statements(sql: &str) -> Option<usize> {
    let (mut count, mut depth, mut rest) = (0, 0usize, sql);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            // A doubled quote ends one text and begins another.
            '"' | '\'' => rest[1..].find(first)? + 2,
            '-' if rest.starts_with("--") => rest.find('\n')?,
            _ => first.len_utf8(),
        };
        match first {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            ';' if depth == 0 => count += 1,
            _ => {}
        }
        rest = &rest[length..];
    }
    (depth == 0).then_some(count)
}

/// Steps of every kind on one table.
fn steps() -> Vec<Step> {
    let key = vec![KeyColumn { name: "id".into(), affinity: Affinity::Integer, collation: Collation::NoCase }];
    let table = Table::new("app", "notes", key, &["title", "body"], true);
    let (id, title) = (table.id, table.columns[0].id);
    let stars = Column { id: ColumnId::derive(id, "stars", 0), name: "stars".into() };
    let text = |text: &str| text.to_owned();
    let index =
        IndexDefinition { sql: text("CREATE INDEX i"), table_name: text("notes"), columns: vec![stars.clone()] };
    let shape = Shape { create_sql: text("CREATE TABLE notes"), columns: table.columns.clone(), parents: Vec::new() };
    let local = LocalDefinition {
        name: text("cache"),
        create_sql: text("x"),
        index_sql: Vec::new(),
        expires: Some(text("at")),
    };
    let view = Object { kind: ObjectKind::View, name: text("recent"), sql: text("CREATE VIEW recent") };
    let version = Version::parse("1.2.0").expect("a version");
    vec![
        Step::CreateTable(TableDefinition { table, create_sql: text("CREATE TABLE"), index_sql: vec![text("i")] }),
        Step::AddColumn { table: id, column: stars, birth: 0, definition: text("\"stars\" INT") },
        Step::RenameColumn { table: id, column: title, name: text("subject") },
        Step::RenameTable { table: id, name: text("todo") },
        Step::CreateIndex { table: id, name: text("i"), index },
        Step::DropIndex { table: id, name: text("i") },
        Step::PutObject(view),
        Step::DropObject { name: text("recent") },
        Step::HideColumn { table: id, column: title, hidden: true },
        Step::SetKind { table: id, column: title, kind: Kind::Counter },
        Step::Redefine { table: id, shape },
        Step::SetGroup { table: id, columns: vec![title] },
        Step::PutLocal(local),
        Step::RenameDuplicates { table: id, column: title, renamed: true },
        Step::SetVersion(version.clone()),
        Step::DropVersion(version.clone()),
        Step::Requires(version),
    ]
}

const JSON: &str = r#"{"version":"1.0.0","tables":{"notes":{"columns":[
{"name":"id","type":"TEXT","not_null":true,"primary_key":true},{"name":"at","type":"REAL","default":"julianday('now')"},
{"name":"reads","not_null":true,"unique":true,"merge":"counter","duplicates":"rename","collation":"NOCASE"}],
"foreign_keys":[{"columns":["at"],"references_table":"books","references_columns":["id"],"on_delete":"CASCADE"}],
"unique_constraints":[{"columns":["at","reads"]}],"check_constraints":[{"expression":"reads > 0"}],
"groups":[["at","reads"]],"local":true,"expires":"at","without_rowid":true}},
"indexes":[{"name":"by_at","table":"notes","columns":["at"],"unique":true,"where_clause":"at > 0"}],
"virtual_tables":[{"name":"fts","type":"fts5","columns":["body"],"options":{"content":"notes"}}],
"views":[{"name":"v","sql":"CREATE VIEW v AS SELECT 1"}],"triggers":[]}"#;

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let migration = |steps: &[Step]| Migration { app: "app".into(), parents: Vec::new(), steps: steps.to_vec() };
    let written = |steps: &[Step]| migration(steps).encode().expect("written").1;
    let (steps, seed) = (steps(), |form: u8, bytes: &[u8]| [&[form], bytes].concat());
    let (first, rest) = steps.split_at(1);
    let operations = std::iter::once(first).chain(rest.chunks(3));
    let history: Vec<u8> =
        operations.flat_map(|steps| [vec![1], piece(&written(steps)[MAGIC.len()..])].concat()).collect();
    // The same without knowing of each other.
    let concurrent: Vec<u8> =
        steps.chunks(2).flat_map(|steps| [vec![0], piece(&written(steps)[5..])].concat()).collect();
    vec![
        ("operation", seed(0, &written(&steps))),
        ("operation-first", seed(1, &written(first)[MAGIC.len()..])),
        ("operation-repaired", seed(2, &written(&steps)[MAGIC.len()..])),
        ("history", seed(3, &history)),
        ("history-concurrent", seed(3, &concurrent)),
        ("version", seed(4, b"v1.10.0-rc.1")),
        ("document", seed(5, JSON.as_bytes())),
    ]
}
