//! The schema as it stands, for people and for other files: as SQL, as data, and as the operations that made it.

use std::collections::BTreeMap;

use isle_schema::{
    Document, DocumentColumn, DocumentDuplicates, DocumentForeignKey, DocumentIndex, DocumentObject, DocumentTable,
    DocumentUnique, DocumentVirtualTable, MigrationId, ObjectKind, Schema, Step, Version,
};
use rusqlite::Connection;

use crate::error::Doing as _;
use crate::layout::quoted;
use crate::tracked::{self, Tracked, contains_word, join};
use crate::{Store, StoreError};

/// One operation of a group's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaOperation {
    /// Its id.
    pub id: MigrationId,
    /// Those that it follows.
    pub parents: Vec<MigrationId>,
    /// What it does, step by step, for people.
    pub steps: Vec<String>,
    /// The version of the app that it brought.
    pub version: Option<Version>,
    /// When it was applied here, in milliseconds since 1970.
    pub applied_at_ms: u64,
}

impl Store {
    /// The tracked tables with their indexes, and the group's views, triggers and full-text tables, as SQL.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn dump_schema(&self) -> Result<String, StoreError> {
        self.snapshot(sql)
    }

    /// The same as data.
    ///
    /// # Errors
    /// [`StoreError::Undescribed`] for a table with CHECKs, and SQLite's reason.
    pub fn dump_schema_document(&self) -> Result<Document, StoreError> {
        self.snapshot(document)
    }
    /// The operations that are here, in canonical order.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn schema_history(&self) -> Result<Vec<SchemaOperation>, StoreError> {
        self.snapshot(|conn| {
            let operations = crate::alter::operations(conn)?;
            let pairs = || operations.iter().map(|(id, migration)| (*id, migration));
            let schema = Schema::fold(pairs());
            let operation = |id: MigrationId| {
                let migration = &operations[&id];
                let steps = migration.steps.iter().map(|step| describe(step, &schema)).collect();
                let version = migration.steps.iter().rev().find_map(|step| match step {
                    Step::SetVersion(version) => Some(version.clone()),
                    _ => None,
                });
                let at = "SELECT at FROM isle_migration WHERE id = ?1";
                let at = crate::clocks::one::<i64>(conn, at, [id.as_bytes()])?.unwrap_or(0);
                let parents = migration.parents.clone();
                Ok(SchemaOperation { id, parents, steps, version, applied_at_ms: at as u64 })
            };
            Schema::order(pairs()).into_iter().map(operation).collect()
        })
    }
}

/// The tracked tables as they stand in the file, with what else belongs to the schema.
pub(crate) fn sql(conn: &Connection) -> Result<String, StoreError> {
    let mut sql = String::new();
    let schema = crate::alter::schema(conn)?;
    if let Some(version) = schema.version() {
        sql += &format!("-- @version {version}\n");
    }
    if let Some(version) = &schema.requires {
        sql += &format!("-- @requires {version}\n");
    }
    for tracked in sorted(conn)? {
        let statement = "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL
                           AND type IN ('table', 'index') ORDER BY type DESC, name";
        let mut statement = conn.prepare_cached(statement).doing("read the schema")?;
        let texts = statement.query_map([&tracked.table.name], |row| row.get::<_, String>(0));
        for text in texts.doing("read the schema")? {
            // What its comments said may be otherwise now.
            sql += &format!("{};\n", crate::directives::without(&text.doing("read the schema")?));
        }
        let hidden = schema.tables.get(&tracked.table.id).map(|table| table.hidden.clone()).unwrap_or_default();
        for column in tracked.table.columns.iter().filter(|column| hidden.contains(&column.id)) {
            sql += &format!("-- @drop {}.{}\n", tracked.table.name, column.name);
        }
        for group in &tracked.groups {
            let names = group.iter().map(|cell| quoted(&tracked.table.columns[cell - 1].name));
            sql += &format!("-- @group {}({})\n", quoted(&tracked.table.name), join(names, ", "));
        }
        for column in tracked.table.columns.iter().filter(|column| tracked.renamed.contains(&column.id)) {
            let (table, column) = (quoted(&tracked.table.name), quoted(&column.name));
            sql += &format!("-- @duplicates {table}.{column} rename\n");
        }
        for kind in &tracked.kinds {
            let (table, column) = (&tracked.table.name, &tracked.table.columns[kind.cell - 1].name);
            sql += &format!("-- @merge {}.{} {}\n", quoted(table), quoted(column), kind.kind);
        }
    }
    for local in schema.locals.values() {
        for text in std::iter::once(&local.create_sql).chain(&local.index_sql) {
            sql += &format!("{text};\n");
        }
        sql += &format!("-- @scope {} local\n", quoted(&local.name));
        if let Some(column) = &local.expires {
            sql += &format!("-- @expires {}.{}\n", quoted(&local.name), quoted(column));
        }
    }
    for (_, object) in crate::objects::of_the_group(conn)? {
        sql += &format!("{};\n", object.sql);
    }
    Ok(sql)
}

fn sorted(conn: &Connection) -> Result<Vec<std::sync::Arc<Tracked>>, StoreError> {
    let mut tables = crate::engine::load_tables(conn)?;
    tables.sort_by(|a, b| a.table.name.cmp(&b.table.name));
    Ok(tables)
}

pub(crate) fn describe(step: &Step, schema: &Schema) -> String {
    let table = |id| schema.tables.get(id).map_or_else(|| "a table".to_owned(), |table| table.name.clone());
    let column = |id, column: &isle_schema::ColumnId| {
        let known = schema.tables.get(id).and_then(|table| table.columns.iter().find(|known| known.id == *column));
        let name = known.map_or_else(|| "a column".to_owned(), |known| known.name.clone());
        format!("{}.{name}", table(id))
    };
    match step {
        Step::CreateTable(definition) => format!("create table {}", definition.table.name),
        Step::AddColumn { table: id, column, .. } => format!("add column {}.{}", table(id), column.name),
        Step::RenameColumn { table, column: id, name } => format!("rename column {} to {name}", column(table, id)),
        Step::RenameTable { table: id, name } => format!("rename table {} to {name}", table(id)),
        Step::CreateIndex { table: id, name, .. } => format!("create index {name} on {}", table(id)),
        Step::DropIndex { table: id, name } => format!("drop index {name} on {}", table(id)),
        Step::PutObject(object) => format!("create {} {}", object.kind.as_str(), object.name),
        Step::DropObject { name } => format!("drop {name}"),
        Step::HideColumn { table, column: id, hidden: true } => format!("hide column {}", column(table, id)),
        Step::HideColumn { table, column: id, hidden: false } => format!("show column {}", column(table, id)),
        Step::SetGroup { table: id, columns } => {
            let names = columns.iter().map(|one| column(id, one));
            format!("write together {}", names.collect::<Vec<_>>().join(", "))
        }
        Step::PutLocal(local) => format!("local table {}", local.name),
        Step::Redefine { table: id, .. } => format!("change table {}", table(id)),
        Step::SetVersion(version) => format!("version {version}"),
        Step::DropVersion(version) => format!("not version {version}"),
        Step::Requires(version) => format!("apps before {version} keep the schema that they have"),
        Step::SetKind { table, column: id, kind } => format!("merge {} as a {kind}", column(table, id)),
        Step::RenameDuplicates { table, column: id, renamed: true } => {
            format!("number duplicates in {}", column(table, id))
        }
        Step::RenameDuplicates { table, column: id, renamed: false } => {
            format!("hide duplicates in {}", column(table, id))
        }
        _ => "a step of a newer version".to_owned(),
    }
}

fn document(conn: &Connection) -> Result<Document, StoreError> {
    let version = crate::alter::schema(conn)?.version().map(ToString::to_string);
    let requires = crate::alter::schema(conn)?.requires.map(|version| version.to_string());
    let mut document = Document { version, requires, ..Document::default() };
    for tracked in sorted(conn)? {
        let name = &tracked.table.name;
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let sql = crate::clocks::one::<String>(conn, sql, [name])?.unwrap_or_default();
        let generated = tracked::columns(conn, name)?.iter().any(|column| column.hidden != 0);
        if contains_word(&sql, "CHECK") || generated || has_ordered_indexes(conn, &tracked)? {
            return Err(StoreError::Undescribed { table: name.clone() });
        }
        let (mut table, indexes) = table(conn, name, &tracked.kinds, &tracked.table.columns)?;
        let names =
            |group: &Vec<usize>| group.iter().map(|cell| tracked.table.columns[cell - 1].name.clone()).collect();
        table.groups = tracked.groups.iter().map(names).collect();
        for column in tracked.table.columns.iter().filter(|column| tracked.renamed.contains(&column.id)) {
            let there = table.columns.iter_mut().filter(|known| known.name == column.name);
            there.for_each(|known| known.duplicates = Some(DocumentDuplicates::Rename));
        }
        document.tables.insert(name.clone(), table);
        document.indexes.extend(indexes);
    }
    for local in crate::alter::schema(conn)?.locals.into_values() {
        if contains_word(&local.create_sql, "CHECK") || contains_word(&local.create_sql, "AUTOINCREMENT") {
            return Err(StoreError::Undescribed { table: local.name });
        }
        let (table, indexes) = table(conn, &local.name, &[], &[])?;
        let table = DocumentTable { local: true, expires: local.expires, ..table };
        document.tables.insert(local.name, table);
        document.indexes.extend(indexes);
    }
    for (_, object) in crate::objects::of_the_group(conn)? {
        let as_it_is = DocumentObject { name: object.name.clone(), sql: object.sql.clone() };
        match object.kind {
            ObjectKind::View => document.views.push(as_it_is),
            ObjectKind::Trigger => document.triggers.push(as_it_is),
            _ => {
                let columns = tracked::columns(conn, &object.name)?;
                let columns = columns.into_iter().filter(|column| column.hidden == 0).map(|column| column.name);
                let options: BTreeMap<_, _> = crate::objects::options(&object.sql).into_iter().collect();
                document.virtual_tables.push(DocumentVirtualTable {
                    name: object.name,
                    module: "fts5".to_owned(),
                    columns: columns.collect(),
                    options,
                });
            }
        }
    }
    Ok(document)
}

/// Whether an index says more of its columns than their names: a descending order, or a collation that is not theirs.
fn has_ordered_indexes(conn: &Connection, tracked: &Tracked) -> Result<bool, StoreError> {
    let columns = tracked::columns(conn, &tracked.table.name)?;
    let sql = "SELECT x.name, x.desc, x.coll FROM pragma_index_list(?1) AS l JOIN pragma_index_xinfo(l.name) AS x
               WHERE l.origin = 'c' AND x.key = 1";
    let mut statement = conn.prepare(sql).doing("read the indexes")?;
    let rows = statement.query_map([&tracked.table.name], |row| {
        Ok((row.get::<_, Option<String>>(0)?, row.get::<_, bool>(1)?, row.get::<_, String>(2)?))
    });
    for row in rows.doing("read the indexes")? {
        let (name, descends, collation) = row.doing("read the indexes")?;
        let column = columns.iter().find(|column| Some(&column.name) == name.as_ref());
        if descends || column.is_none_or(|column| !column.collation.eq_ignore_ascii_case(&collation)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn table(
    conn: &Connection,
    name: &str,
    kinds: &[crate::kinds::KindColumn],
    columns: &[isle_schema::Column],
) -> Result<(DocumentTable, Vec<DocumentIndex>), StoreError> {
    let kind = |what: &str| {
        let sql = format!("SELECT {what} FROM pragma_table_list(?1) WHERE schema = 'main'");
        Ok::<_, StoreError>(crate::clocks::one::<bool>(conn, &sql, [name])?.unwrap_or(false))
    };
    let mut table = DocumentTable { without_rowid: kind("wr")?, strict: kind("strict")?, ..DocumentTable::default() };
    for column in tracked::columns(conn, name)?.into_iter().filter(|column| column.hidden == 0) {
        let in_key = column.key_position > 0;
        let is = |kind: &&crate::kinds::KindColumn| columns[kind.cell - 1].name == column.name;
        let merge = kinds.iter().find(is).map(|kind| kind.kind);
        table.columns.push(DocumentColumn {
            name: column.name,
            declared: column.declared,
            not_null: column.not_null,
            primary_key: in_key,
            collation: (column.collation != "BINARY").then_some(column.collation),
            default: column.default,
            merge,
            ..DocumentColumn::default()
        });
    }
    for key in crate::define::foreign_keys(conn, name)? {
        let action = |action: &str| (action != "NO ACTION").then(|| action.to_owned());
        table.foreign_keys.push(DocumentForeignKey {
            on_delete: action(&key.on_delete),
            on_update: action(&key.on_update),
            columns: key.from,
            references_table: key.parent,
            references_columns: key.to,
        });
    }
    let sql = "SELECT name, \"unique\", origin FROM pragma_index_list(?1) WHERE origin <> 'pk' ORDER BY name";
    let mut statement = conn.prepare(sql).doing("read the indexes")?;
    let found =
        statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).doing("read the indexes")?;
    let found: Vec<(String, bool, String)> = found.collect::<Result<_, _>>().doing("read the indexes")?;
    let mut indexes = Vec::new();
    for (index, unique, origin) in found {
        let sql = "SELECT coalesce(name, '') FROM pragma_index_xinfo(?1) WHERE key = 1 ORDER BY seqno";
        let mut statement = conn.prepare_cached(sql).doing("read an index")?;
        let columns = statement.query_map([&index], |row| row.get(0)).doing("read an index")?;
        let columns: Vec<String> = columns.collect::<Result<_, _>>().doing("read an index")?;
        if origin == "u" {
            table.unique_constraints.push(DocumentUnique { columns });
            continue;
        }
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?1";
        let text = crate::clocks::one::<String>(conn, sql, [&index])?.unwrap_or_default();
        let where_clause = crate::constraints::predicate(&text);
        indexes.push(DocumentIndex { name: index, table: name.to_owned(), columns, unique, where_clause });
    }
    Ok((table, indexes))
}
