//! Whole tables for other databases: as SQL, and as JSON lines.

use std::io::Write;
use std::path::Path;

use isle_changeset::Value;
use isle_interchange::{Datum, Dialect, Format, Held, Inserts, Kind, Mapping, Node, canonical_json};
use rusqlite::Connection;

use super::InterchangeError;
use super::export::{ExportOptions, Exported, write};
use super::row::{Bound, read, shown_key};
use crate::names::quoted;
use crate::{Error, Replica};

impl Replica {
    /// The mapping of one document that is a list of objects, with the columns of a table as their members.
    ///
    /// # Errors
    /// [`InterchangeError::Table`] if there is no such table.
    pub fn plain_mapping(&self, file: &str, format: Format, table: &str) -> Result<Mapping, Error> {
        let columns = self.inner.store.read(|conn| columns_of(conn, table))?;
        let names: Vec<String> = columns.into_iter().map(|held| held.name).collect();
        Ok(Mapping::plain(file, format, table, &names))
    }

    /// Writes statements that make tables and their rows in a database of another kind: of the tables that are named, or of all replicated ones. All is of one state of
    /// the file, rows in the order of their keys.
    ///
    /// # Errors
    /// A value that the other database has no form for, or what writing gives.
    pub fn export_sql(&self, tables: &[&str], dialect: Dialect, out: &mut impl Write) -> Result<(), Error> {
        let failed = |error| InterchangeError::file("write", Path::new("the statements"), error);
        self.inner.store.snapshot(|conn| {
            // What cannot be is found before anything is written.
            let names = names(conn, tables)?;
            let shapes: Vec<Vec<Held>> = names.iter().map(|table| columns_of(conn, table)).collect::<Result<_, _>>()?;
            out.write_all(dialect.begin().as_bytes()).map_err(failed)?;
            for (table, mut columns) in names.into_iter().zip(shapes) {
                for_each(conn, &table, &columns.clone(), |row| {
                    columns.iter_mut().zip(&row).for_each(|(held, value)| held.see(value));
                    Ok(())
                })?;
                out.write_all(dialect.create(&table, &columns).as_bytes()).map_err(failed)?;
                let mut inserts = Inserts::new(dialect, &table, &columns);
                for_each(conn, &table, &columns, |row| {
                    let statement = inserts.row(&row).map_err(|(at, reason)| InterchangeError::Value {
                        table: table.clone(),
                        column: columns[at].name.clone(),
                        key: key_of(&columns, &row),
                        reason,
                    })?;
                    statement.map_or(Ok(()), |statement| out.write_all(statement.as_bytes()).map_err(failed))
                })?;
                let rest = inserts.finish();
                rest.map_or(Ok(()), |statement| out.write_all(statement.as_bytes()).map_err(failed))?;
            }
            out.write_all(dialect.end().as_bytes()).map_err(failed)
        })
    }

    /// Writes a file `TABLE.jsonl` for each table that is named, or for all replicated ones, with one row a line as a JSON object. Bytes are texts in base64.
    ///
    /// # Errors
    /// A value that JSON has no form for, or what writing gives.
    pub fn export_jsonl(&self, tables: &[&str], folder: &Path) -> Result<Vec<Exported>, Error> {
        let mut documents = Vec::new();
        self.inner.store.snapshot(|conn| {
            for table in names(conn, tables)? {
                if table.contains(['/', '\\', '\0']) || table.starts_with('.') {
                    let reason = "its name cannot be a file's".to_owned();
                    return Err(InterchangeError::Table { file: format!("{table}.jsonl"), table, reason }.into());
                }
                let columns = columns_of(conn, &table)?;
                let (mut text, mut rows) = (String::new(), 0);
                for_each(conn, &table, &columns, |row| {
                    text.push_str(&line(&table, &columns, &row)?);
                    text.push('\n');
                    rows += 1;
                    Ok(())
                })?;
                documents.push((folder.join(format!("{table}.jsonl")), rows, text));
            }
            Ok::<_, Error>(())
        })?;
        let options = ExportOptions::default();
        documents.into_iter().map(|(path, rows, text)| write(path, rows, &text, &options)).collect()
    }
}

fn line(table: &str, columns: &[Held], row: &[Value]) -> Result<String, InterchangeError> {
    let mut members = Vec::with_capacity(columns.len());
    for (held, value) in columns.iter().zip(row) {
        let refused = |reason: &str| InterchangeError::Value {
            table: table.to_owned(),
            column: held.name.clone(),
            key: key_of(columns, row),
            reason: reason.to_owned(),
        };
        let datum = match value {
            Value::Null => Datum::Null,
            Value::Integer(value) => Datum::Integer(*value),
            Value::Real(value) if value.is_finite() => Datum::Real(*value),
            Value::Real(_) => return Err(refused("infinity, which JSON does not have")),
            Value::Text(text) => {
                Datum::Text(String::from_utf8(text.clone()).map_err(|_| refused("a text that is not UTF-8"))?)
            }
            Value::Blob(bytes) => Datum::Text(data_encoding::BASE64.encode(bytes)),
        };
        members.push((held.name.clone(), Node::new(datum)));
    }
    Ok(canonical_json(&Node::new(Datum::Map(members))))
}

fn key_of(columns: &[Held], row: &[Value]) -> String {
    let key = columns.iter().zip(row).filter(|(held, _)| held.key.is_some()).map(|(_, value)| value);
    shown_key(key)
}

/// The tables that are meant.
fn names(conn: &Connection, wanted: &[&str]) -> Result<Vec<String>, Error> {
    let failed = |error| isle_store::StoreError::of_statement("list the tables", error);
    if !wanted.is_empty() {
        let mut names: Vec<String> = Vec::new();
        for name in wanted {
            if name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("isle_")) {
                let reason = "it is isle's own".to_owned();
                return Err(InterchangeError::Table {
                    file: "the export".to_owned(),
                    table: (*name).to_owned(),
                    reason,
                }
                .into());
            }
            if names.iter().all(|known| !known.eq_ignore_ascii_case(name)) {
                names.push((*name).to_owned());
            }
        }
        return Ok(names);
    }
    let mut statement = conn.prepare("SELECT name FROM isle_table ORDER BY name").map_err(failed)?;
    let names = statement.query_map([], |row| row.get(0)).map_err(failed)?;
    Ok(names.collect::<Result<_, _>>().map_err(failed)?)
}

/// The columns of a table, generated ones left out.
fn columns_of(conn: &Connection, table: &str) -> Result<Vec<Held>, Error> {
    let failed = |error| isle_store::StoreError::of_statement("look at the table", error);
    let mut statement =
        conn.prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_info(?1)").map_err(failed)?;
    let columns = statement.query_map([table], |row| {
        let key = usize::try_from(row.get::<_, i64>(3)?).ok().filter(|pk| *pk > 0);
        let empty = kind_of(&row.get::<_, String>(1)?);
        Ok(Held::new(row.get(0)?, key, row.get(2)?, empty))
    });
    let mut columns: Vec<Held> = columns.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    // Columns that two devices have added stand in another order on each.
    columns.sort_by(|a, b| {
        let of_key = |held: &Held| (held.key.is_none(), held.key);
        of_key(a).cmp(&of_key(b)).then_with(|| a.name.cmp(&b.name))
    });
    if columns.is_empty() {
        let reason = "there is no such table in the file".to_owned();
        return Err(InterchangeError::Table { file: "the export".to_owned(), table: table.to_owned(), reason }.into());
    }
    Ok(columns)
}

/// What a declared type stands for: SQLite's rules of affinity.
fn kind_of(declared: &str) -> Kind {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    match () {
        () if has(&["INT"]) => Kind::Integer,
        () if has(&["CHAR", "CLOB", "TEXT"]) => Kind::Text,
        () if has(&["BLOB"]) || declared.is_empty() => Kind::Blob,
        () if has(&["REAL", "FLOA", "DOUB"]) => Kind::Real,
        () => Kind::Text,
    }
}

fn for_each(
    conn: &Connection,
    table: &str,
    columns: &[Held],
    mut f: impl FnMut(Vec<Value>) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |error| isle_store::StoreError::of_statement("read the rows", error);
    let list = columns.iter().map(|held| quoted(&held.name)).collect::<Vec<_>>().join(", ");
    let mut key: Vec<&Held> = columns.iter().filter(|held| held.key.is_some()).collect();
    key.sort_by_key(|held| held.key);
    let order = match key.is_empty() {
        true => list.clone(),
        false => key.iter().map(|held| format!("{} COLLATE BINARY", quoted(&held.name))).collect::<Vec<_>>().join(", "),
    };
    let mut statement =
        conn.prepare(&format!("SELECT {list} FROM {} ORDER BY {order}", quoted(table))).map_err(failed)?;
    let mut rows = statement.query(rusqlite::params_from_iter(std::iter::empty::<Bound<'_>>())).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        f(read(row, columns.len()).map_err(failed)?)?;
    }
    Ok(())
}
