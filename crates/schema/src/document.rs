//! A schema as data: tables, indexes and virtual tables as JSON objects rather than SQL.
//!
//! ```json
//! {
//!   "version": "1.0.0",
//!   "tables": { "notes": {
//!     "columns": [ { "name": "id", "type": "TEXT", "not_null": true, "primary_key": true },
//!                  { "name": "at", "type": "REAL", "default": "julianday('now')" },
//!                  { "name": "reads", "type": "INTEGER", "not_null": true, "default": "0", "merge": "counter" } ],
//!     "foreign_keys": [ { "columns": ["book"], "references_table": "books", "references_columns": ["id"], "on_delete": "CASCADE" } ],
//!     "unique_constraints": [ { "columns": ["book", "page"] } ],
//!     "check_constraints": [ { "expression": "page > 0" } ] } },
//!   "indexes": [ { "name": "by_at", "table": "notes", "columns": ["at"], "unique": false, "where_clause": "at > 0" } ],
//!   "virtual_tables": [ { "name": "notes_fts", "type": "fts5", "columns": ["body"], "options": { "content": "notes" } } ],
//!   "views": [ { "name": "recent", "sql": "CREATE VIEW …" } ], "triggers": [ { "name": "…", "sql": "CREATE TRIGGER …" } ]
//! }
//! ```
//! Expressions (`default`, `where_clause`, `expression`) are SQL. It becomes SQL ([`Document::to_sql`]), which SQLite parses: one
//! model for both forms.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Kind;

/// A schema as data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The app's own version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The earliest version of the app that can live with it: others keep the schema that they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<String>,
    /// The tables by name.
    #[serde(default)]
    pub tables: BTreeMap<String, DocumentTable>,
    /// Indexes.
    #[serde(default)]
    pub indexes: Vec<DocumentIndex>,
    /// Virtual tables.
    #[serde(default)]
    pub virtual_tables: Vec<DocumentVirtualTable>,
    /// Views.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<DocumentObject>,
    /// Triggers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<DocumentObject>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentTable {
    /// Its columns, in order.
    pub columns: Vec<DocumentColumn>,
    /// Its foreign keys.
    #[serde(default)]
    pub foreign_keys: Vec<DocumentForeignKey>,
    /// UNIQUE constraints over several columns.
    #[serde(default)]
    pub unique_constraints: Vec<DocumentUnique>,
    /// CHECK constraints.
    #[serde(default)]
    pub check_constraints: Vec<DocumentCheck>,
    /// Whether it is WITHOUT ROWID.
    #[serde(default, skip_serializing_if = "is_false")]
    pub without_rowid: bool,
    /// Whether it is STRICT.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict: bool,
    /// Columns that are written together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Vec<String>>,
    /// Whether its rows stay where they are written.
    #[serde(default, skip_serializing_if = "is_false")]
    pub local: bool,
    /// Of a local table, the column that says when a row expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentColumn {
    /// Its name.
    pub name: String,
    /// Its declared type; may be empty.
    #[serde(default, rename = "type")]
    pub declared: String,
    /// NOT NULL.
    #[serde(default)]
    pub not_null: bool,
    /// Part of the key, in the order of the columns.
    #[serde(default, skip_serializing_if = "is_false")]
    pub primary_key: bool,
    /// UNIQUE.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unique: bool,
    /// AUTOINCREMENT, which cannot be replicated.
    #[serde(default, skip_serializing_if = "is_false")]
    pub autoincrement: bool,
    /// A default, as an SQL expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// A collation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation: Option<String>,
    /// How concurrent writes merge, where the last one does not simply win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<Kind>,
    /// What becomes of rows that clash in a UNIQUE index of the column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<DocumentDuplicates>,
}

/// What becomes of rows that clash in a UNIQUE index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DocumentDuplicates {
    /// All but the first show with a number behind their value: `Music (2)`.
    Rename,
}

/// A foreign key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentForeignKey {
    /// The child's columns.
    pub columns: Vec<String>,
    /// The parent.
    pub references_table: String,
    /// Its columns; the key if there are none.
    #[serde(default)]
    pub references_columns: Vec<String>,
    /// What becomes of the child when the parent goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<String>,
    /// What becomes of it when the parent's columns change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_update: Option<String>,
}

/// A UNIQUE constraint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentUnique {
    /// Its columns.
    pub columns: Vec<String>,
}

/// A CHECK constraint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentCheck {
    /// What has to hold.
    pub expression: String,
}

/// An index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentIndex {
    /// Its name.
    pub name: String,
    /// Its table.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// UNIQUE.
    #[serde(default)]
    pub unique: bool,
    /// The condition of a partial index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub where_clause: Option<String>,
}

/// A virtual table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentVirtualTable {
    /// Its name.
    pub name: String,
    /// Its module: `fts5`.
    #[serde(rename = "type")]
    pub module: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// Its options.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A view or a trigger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentObject {
    /// Its name.
    pub name: String,
    /// The statement that makes it.
    pub sql: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

impl Document {
    /// Every name in it of which a comment may tell something, and its versions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let tables = self.tables.iter().flat_map(|(name, table)| {
            let columns = table.columns.iter().map(|column| column.name.as_str());
            let grouped = table.groups.iter().flatten().map(String::as_str);
            std::iter::once(name.as_str()).chain(columns).chain(grouped).chain(table.expires.as_deref())
        });
        tables.chain(self.version.as_deref()).chain(self.requires.as_deref())
    }

    /// The same schema as CREATE statements.
    pub fn to_sql(&self) -> String {
        let mut sql = String::new();
        for (name, table) in &self.tables {
            sql += &table.to_sql(name);
        }
        for (name, table) in &self.tables {
            if table.local {
                sql += &format!("-- @scope {} local\n", quoted(name));
            }
            for group in &table.groups {
                sql += &format!("-- @group {}({})\n", quoted(name), list(group));
            }
            if let Some(column) = &table.expires {
                sql += &format!("-- @expires {}.{}\n", quoted(name), quoted(column));
            }
            for column in &table.columns {
                if let Some(kind) = column.merge {
                    sql += &format!("-- @merge {}.{} {kind}\n", quoted(name), quoted(&column.name));
                }
                if let Some(DocumentDuplicates::Rename) = column.duplicates {
                    sql += &format!("-- @duplicates {}.{} rename\n", quoted(name), quoted(&column.name));
                }
            }
        }
        if let Some(version) = &self.version {
            sql += &format!("-- @version {version}\n");
        }
        if let Some(version) = &self.requires {
            sql += &format!("-- @requires {version}\n");
        }
        for index in &self.indexes {
            let unique = if index.unique { "UNIQUE " } else { "" };
            let condition = index.where_clause.as_ref().map(|text| format!(" WHERE {text}\n")).unwrap_or_default();
            let (name, table, columns) = (quoted(&index.name), quoted(&index.table), list(&index.columns));
            sql += &format!("CREATE {unique}INDEX {name} ON {table}({columns}){condition};\n");
        }
        for table in &self.virtual_tables {
            let options = table.options.iter().map(|(name, value)| format!("{name}='{}'", value.replace('\'', "''")));
            let arguments: Vec<String> = table.columns.iter().map(|column| quoted(column)).chain(options).collect();
            let (name, module) = (quoted(&table.name), quoted(&table.module));
            sql += &format!("CREATE VIRTUAL TABLE {name} USING {module}({});\n", arguments.join(", "));
        }
        for object in self.views.iter().chain(&self.triggers) {
            sql += &format!("{}\n;\n", object.sql.trim().trim_end_matches(';'));
        }
        sql
    }
}

impl DocumentTable {
    fn to_sql(&self, name: &str) -> String {
        let key: Vec<String> =
            self.columns.iter().filter(|column| column.primary_key).map(|column| column.name.clone()).collect();
        let mut parts: Vec<String> = self.columns.iter().map(|column| column.to_sql(key.len() == 1)).collect();
        if key.len() > 1 {
            parts.push(format!("PRIMARY KEY({})", list(&key)));
        }
        for unique in &self.unique_constraints {
            // SQLite would make a second index for what a column says already.
            let said = |column: &DocumentColumn| column.unique && unique.columns == [column.name.clone()];
            if !self.columns.iter().any(said) {
                parts.push(format!("UNIQUE({})", list(&unique.columns)));
            }
        }
        parts.extend(self.check_constraints.iter().map(|check| format!("CHECK({}\n)", check.expression)));
        for key in &self.foreign_keys {
            let targets = list(&key.references_columns);
            let targets = if targets.is_empty() { targets } else { format!("({targets})") };
            let action = |on: &str, action: &Option<String>| {
                action.as_ref().map(|action| format!(" ON {on} {action}")).unwrap_or_default()
            };
            let (delete, update) = (action("DELETE", &key.on_delete), action("UPDATE", &key.on_update));
            let (columns, parent) = (list(&key.columns), quoted(&key.references_table));
            parts.push(format!("FOREIGN KEY({columns}) REFERENCES {parent}{targets}{delete}{update}"));
        }
        let options: Vec<&str> = [(self.without_rowid, "WITHOUT ROWID"), (self.strict, "STRICT")]
            .into_iter()
            .filter_map(|(wanted, option)| wanted.then_some(option))
            .collect();
        format!("CREATE TABLE {}(\n  {}\n) {};\n", quoted(name), parts.join(",\n  "), options.join(", "))
    }
}

impl DocumentColumn {
    fn to_sql(&self, alone: bool) -> String {
        let mut sql = quoted(&self.name);
        if !self.declared.is_empty() {
            sql += &format!(" {}", self.declared);
        }
        if self.primary_key && alone {
            sql += " PRIMARY KEY";
            if self.autoincrement {
                sql += " AUTOINCREMENT";
            }
        }
        if self.not_null {
            sql += " NOT NULL";
        }
        if self.unique {
            sql += " UNIQUE";
        }
        if let Some(default) = &self.default {
            sql += &format!(" DEFAULT ({default}\n)");
        }
        if let Some(collation) = &self.collation {
            sql += &format!(" COLLATE {}", quoted(collation));
        }
        sql
    }
}
