//! How two database files differ, row by row. Either may be a replica or any other SQLite file.

use std::path::Path;

use isle_store::StoreError;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use crate::names::quoted;
use crate::{Error, Value};

/// How two files differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Tables that both have and whose rows differ, by name.
    pub tables: Vec<TableDiff>,
    /// Tables that the first file alone has.
    pub only_in_first: Vec<String>,
    /// Tables that the second file alone has.
    pub only_in_second: Vec<String>,
}

/// How the rows of a table differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableDiff {
    /// The table.
    pub table: String,
    /// Rows that the second file alone has.
    pub added: u64,
    /// Rows that both have and that differ.
    pub modified: u64,
    /// Rows that the first file alone has.
    pub deleted: u64,
    /// Columns that only one of them has; they are not compared.
    pub other_columns: Vec<String>,
    /// The rows that differ: as many as were asked for of each kind.
    pub rows: Vec<RowDiff>,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowDiff {
    /// `added`, `modified` or `deleted`.
    pub what: &'static str,
    /// Its key.
    #[serde(serialize_with = "serialize_pairs")]
    pub key: Vec<(String, Value)>,
    /// Its values: every column of a row that one file alone has, else those that differ.
    pub cells: Vec<CellDiff>,
}

/// A column of a row that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellDiff {
    /// The column.
    pub column: String,
    /// The first file's value.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_value")]
    pub old: Option<Value>,
    /// The second file's.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_value")]
    pub new: Option<Value>,
}

impl Diff {
    /// Whether both have the same tables with the same rows.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.only_in_first.is_empty() && self.only_in_second.is_empty()
    }
}

/// Compares two files: what it takes to get from the first to the second. Of each table at most `limit` rows of each kind are given; the
/// counts are of all. Neither file is changed. Tables without a key are compared by their rowids.
///
/// # Errors
/// SQLite's reason for a file that cannot be read.
pub fn diff(first: &Path, second: &Path, limit: u64) -> Result<Diff, Error> {
    let conn = Connection::open_in_memory().map_err(failed)?;
    for (path, name) in [(first, "a"), (second, "b")] {
        attach(&conn, path, name)?;
    }
    let (tables_a, tables_b) = (tables(&conn, "a")?, tables(&conn, "b")?);
    let has = |tables: &[String], name: &str| tables.iter().any(|other| other.eq_ignore_ascii_case(name));
    let only = |these: &[String], others: &[String]| these.iter().filter(|name| !has(others, name)).cloned().collect();
    let mut found = Vec::new();
    for table in tables_a.iter().filter(|name| has(&tables_b, name)) {
        found.extend(compare(&conn, table, limit)?);
    }
    Ok(Diff { tables: found, only_in_first: only(&tables_a, &tables_b), only_in_second: only(&tables_b, &tables_a) })
}

fn failed(source: rusqlite::Error) -> Error {
    StoreError::of_statement("compare the files", source).into()
}

fn attach(conn: &Connection, path: &Path, name: &str) -> Result<(), Error> {
    // A file that is not there would be made.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let opened =
        opened.and_then(|file| file.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)));
    if let Err(source) = opened {
        return Err(StoreError::CannotOpen { doing: format!("open {}", path.display()), source }.into());
    }
    conn.execute(&format!("ATTACH ?1 AS {name}"), [path.to_string_lossy()]).map(drop).map_err(failed)
}

fn tables(conn: &Connection, file: &str) -> Result<Vec<String>, Error> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = ?1 AND type = 'table' AND name NOT LIKE 'isle\\_%' ESCAPE '\\'
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
               AND name NOT IN ('crsql_master', 'crsql_site_id', 'crsql_tracked_peers', 'crsql_db_versions')
               AND name NOT LIKE '%\\_\\_crsql\\_clock' ESCAPE '\\' AND name NOT LIKE '%\\_\\_crsql\\_pks' ESCAPE '\\' ORDER BY name";
    let mut statement = conn.prepare(sql).map_err(failed)?;
    let names = statement.query_map([file], |row| row.get(0)).map_err(failed)?;
    names.collect::<Result<_, _>>().map_err(failed)
}

/// The columns of a table, and those of its key.
fn columns(conn: &Connection, file: &str, table: &str) -> Result<(Vec<String>, Vec<String>), Error> {
    let sql = "SELECT name, pk FROM pragma_table_xinfo(?1, ?2) WHERE hidden IN (0, 2, 3) ORDER BY cid";
    let mut statement = conn.prepare(sql).map_err(failed)?;
    let rows = statement.query_map([table, file], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
    let rows: Vec<(String, i64)> = rows.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    let mut key: Vec<&(String, i64)> = rows.iter().filter(|(_, pk)| *pk > 0).collect();
    key.sort_by_key(|(_, pk)| *pk);
    Ok((rows.iter().map(|(name, _)| name.clone()).collect(), key.into_iter().map(|(name, _)| name.clone()).collect()))
}

fn compare(conn: &Connection, table: &str, limit: u64) -> Result<Option<TableDiff>, Error> {
    let ((columns_a, mut key), (columns_b, key_b)) = (columns(conn, "a", table)?, columns(conn, "b", table)?);
    let in_both = |name: &&String| columns_b.iter().any(|other| other.eq_ignore_ascii_case(name));
    let same_key = key.len() == key_b.len() && key.iter().zip(&key_b).all(|(a, b)| a.eq_ignore_ascii_case(b));
    if key.is_empty() || !same_key {
        key = vec!["rowid".to_owned()];
    }
    let is_key = |name: &String| key.iter().any(|key| key.eq_ignore_ascii_case(name));
    let (both, only_a): (Vec<&String>, Vec<&String>) = columns_a.iter().partition(in_both);
    let values: Vec<String> = both.into_iter().filter(|name| !is_key(name)).cloned().collect();
    let only_b = columns_b.iter().filter(|name| !columns_a.iter().any(|other| other.eq_ignore_ascii_case(name)));
    let other_columns = only_a.into_iter().chain(only_b).cloned().collect();
    let name = quoted(table);
    let on: Vec<String> = key.iter().map(|key| format!("a.{0} = b.{0}", quoted(key))).collect();
    let differs: Vec<String> = values
        .iter()
        .map(|column| {
            let column = quoted(column);
            format!("(a.{column} IS NOT b.{column} COLLATE BINARY OR typeof(a.{column}) <> typeof(b.{column}))")
        })
        .collect();
    let differs = if differs.is_empty() { "0".to_owned() } else { differs.join(" OR ") };
    let list =
        |file: &str, columns: &[String]| columns.iter().map(|c| format!(", {file}.{}", quoted(c))).collect::<String>();
    let joined = on.join(" AND ");
    let lacking = |from: &str, other: &str| {
        format!(
            "FROM {from}.{name} AS {from} WHERE NOT EXISTS (SELECT 1 FROM {other}.{name} AS {other} WHERE {joined})"
        )
    };
    let changed = format!("FROM a.{name} AS a JOIN b.{name} AS b ON {joined} WHERE {differs}");
    let mut found =
        TableDiff { table: table.to_owned(), added: 0, modified: 0, deleted: 0, other_columns, rows: Vec::new() };
    let kinds = [
        ("deleted", lacking("a", "b"), list("a", &key) + &list("a", &values)),
        ("modified", changed, list("a", &key) + &list("a", &values) + &list("b", &values)),
        ("added", lacking("b", "a"), list("b", &key) + &list("b", &values)),
    ];
    for (what, from, columns) in kinds {
        let count =
            conn.query_row(&format!("SELECT count(*) {from}"), [], |row| row.get::<_, i64>(0)).map_err(failed)?;
        match what {
            "added" => found.added = count as u64,
            "modified" => found.modified = count as u64,
            _ => found.deleted = count as u64,
        }
        if count > 0 && limit > 0 {
            let columns = columns.trim_start_matches(", ");
            let sql = format!("SELECT {columns} {from} ORDER BY 1 LIMIT {limit}");
            let mut statement = conn.prepare(&sql).map_err(failed)?;
            let rows = statement.query_map([], |row| row_diff(what, row, &key, &values)).map_err(failed)?;
            found.rows.extend(rows.collect::<Result<Vec<_>, _>>().map_err(failed)?);
        }
    }
    let equal = found.added + found.modified + found.deleted == 0 && found.other_columns.is_empty();
    Ok((!equal).then_some(found))
}

fn row_diff(
    what: &'static str,
    row: &rusqlite::Row<'_>,
    key: &[String],
    columns: &[String],
) -> Result<RowDiff, rusqlite::Error> {
    let value = |at: usize| Ok::<_, rusqlite::Error>(Value::from_sql(row.get_ref(at)?));
    let pairs = key.iter().enumerate().map(|(n, name)| Ok((name.clone(), value(n)?)));
    let key_values = pairs.collect::<Result<_, rusqlite::Error>>()?;
    let mut cells = Vec::new();
    for (n, column) in columns.iter().enumerate() {
        let first = value(key.len() + n)?;
        let (old, new) = match what {
            "added" => (None, Some(first)),
            "deleted" => (Some(first), None),
            _ => {
                let second = value(key.len() + columns.len() + n)?;
                if first == second {
                    continue;
                }
                (Some(first), Some(second))
            }
        };
        cells.push(CellDiff { column: column.clone(), old, new });
    }
    Ok(RowDiff { what, key: key_values, cells })
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) => (*number).into(),
        Value::Real(number) if number.is_finite() => (*number).into(),
        Value::Real(number) => if *number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        Value::Text(text) => text.as_str().into(),
        Value::Blob(bytes) => {
            serde_json::json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
        }
    }
}

fn serialize_value<S: serde::Serializer>(value: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(json).serialize(serializer)
}

fn serialize_pairs<S: serde::Serializer>(pairs: &[(String, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, json(value))))
}
