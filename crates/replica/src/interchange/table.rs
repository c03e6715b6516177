//! The table that a source belongs to.

use isle_changeset::Value;
use isle_interchange::{Form, Source};
use rusqlite::{Connection, OptionalExtension as _};

use super::InterchangeError;
use super::row::{Bound, read, shown_key};
use crate::Error;
use crate::names::quoted;

/// A source and its table, as SQL needs them.
pub(super) struct Fitted<'m> {
    pub(super) source: &'m Source,
    /// The columns of the source, in the order of its cells.
    pub(super) columns: Vec<String>,
    pub(super) forms: Vec<Form>,
    /// The places of the primary key's columns among them, in the key's order.
    pub(super) key: Vec<usize>,
    /// What each column holds where a document has nothing for it.
    pub(super) defaults: Vec<Value>,
    /// Columns of the table that the source does not fill.
    pub(super) unmapped: Vec<String>,
}

impl<'m> Fitted<'m> {
    /// Looks whether the table has what the source fills.
    pub(super) fn of(conn: &Connection, source: &'m Source) -> Result<Fitted<'m>, Error> {
        let refused =
            |reason: String| InterchangeError::Table { file: source.file.clone(), table: source.table.clone(), reason };
        let failed = |error| isle_store::StoreError::of_statement("look at the table", error);
        let sql =
            "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name = ?1 COLLATE NOCASE";
        if conn.query_row(sql, [&source.table], |_| Ok(())).optional().map_err(failed)?.is_none() {
            return Err(refused("there is no such table in the file".to_owned()).into());
        }
        let known = known_columns(conn, &source.table)?;
        let columns: Vec<String> = source.column_names().map(str::to_owned).collect();
        let of_table = |name: &str| known.iter().find(|known| known.name.eq_ignore_ascii_case(name));
        if let Some(odd) = columns.iter().find(|column| of_table(column).is_none()) {
            return Err(refused(format!("it has no column {odd:?} that can be written")).into());
        }
        if let Some(odd) = source.order.iter().find(|column| of_table(column).is_none()) {
            return Err(refused(format!("it has no column {odd:?} to put rows in order by")).into());
        }
        let mut parts: Vec<&Known> = known.iter().filter(|known| known.pk > 0).collect();
        parts.sort_by_key(|known| known.pk);
        if parts.is_empty() {
            return Err(refused("it has no primary key, and nothing tells which row is which".to_owned()).into());
        }
        let named = |name: &str| columns.iter().position(|column| column.eq_ignore_ascii_case(name));
        let mut key = Vec::new();
        for Known { name, .. } in parts {
            let reason = || {
                format!(
                    "nothing fills {name:?}, a column of its primary key: rows have to be the same on every device (from = \"$hash\" makes a key of a row's values)"
                )
            };
            key.push(named(name).ok_or_else(|| refused(reason()))?);
        }
        let mut forms: Vec<Form> = source.columns.0.iter().map(|(_, column)| column.form).collect();
        forms.resize(columns.len(), Form::Json);
        let defaults = columns.iter().map(|column| of_table(column).map_or(Value::Null, |known| known.default(conn)));
        let defaults = defaults.collect();
        let unmapped =
            known.iter().filter(|known| named(&known.name).is_none()).map(|known| known.name.clone()).collect();
        Ok(Fitted { source, columns, forms, key, defaults, unmapped })
    }

    /// Which columns hold something else than NULL where a document has nothing for them: of those a document has to say that they are NULL.
    pub(super) fn defaulted(&self) -> Vec<bool> {
        let of_mapping = self.source.columns.0.iter().map(|(_, column)| column.default.is_some()).chain([false]);
        self.defaults
            .iter()
            .zip(of_mapping)
            .map(|(default, of_mapping)| of_mapping || *default != Value::Null)
            .collect()
    }

    /// The condition that a row has the key that is bound from `?first` on.
    pub(super) fn key_match(&self, first: usize) -> String {
        let parts =
            self.key.iter().enumerate().map(|(n, at)| format!("{} = ?{}", quoted(&self.columns[*at]), first + n));
        parts.collect::<Vec<_>>().join(" AND ")
    }

    /// The columns as a list.
    pub(super) fn column_list(&self) -> String {
        self.columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
    }

    /// Whether both have the same rows of the same table.
    pub(super) fn is_same_rows(&self, other: &Fitted<'_>) -> bool {
        let constants = |fitted: &Fitted<'_>| -> Vec<(String, Option<Value>)> {
            let all = fitted.source.constants();
            all.map(|(_, name, column)| (name.to_ascii_lowercase(), isle_interchange::constant(column))).collect()
        };
        self.source.table.eq_ignore_ascii_case(&other.source.table) && constants(self) == constants(other)
    }

    /// The exact key of a stored row, so that no two rows have the same.
    pub(super) fn exact_key_of(&self, stored: &[Value]) -> Vec<u8> {
        let key: Vec<_> = self.key.iter().map(|at| stored[*at].as_ref()).collect();
        isle_changeset::pack_key(&key)
    }

    /// The key of a stored row, for people.
    pub(super) fn shown_key_of(&self, stored: &[Value]) -> String {
        shown_key(self.key.iter().map(|at| &stored[*at]))
    }

    /// Hands over all rows that are this source's, in the order in which they are exported.
    pub(super) fn for_each(
        &self,
        conn: &Connection,
        mut f: impl FnMut(Vec<Value>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = |error| isle_store::StoreError::of_statement("read the rows", error);
        let constants: Vec<Value> = self
            .source
            .constants()
            .map(|(_, _, column)| isle_interchange::constant(column).unwrap_or(Value::Null))
            .collect();
        let mut statement = conn.prepare(&self.select_all()).map_err(failed)?;
        let mut rows = statement.query(rusqlite::params_from_iter(constants.iter().map(Bound))).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            f(read(row, self.columns.len()).map_err(failed)?)?;
        }
        Ok(())
    }

    /// All rows that are this source's, in the order in which they are exported; the constants are bound from `?1` on.
    fn select_all(&self) -> String {
        let constants = self.source.constants().enumerate();
        let parts: Vec<String> = constants.map(|(n, (_, name, _))| format!("{} IS ?{}", quoted(name), n + 1)).collect();
        let only = if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) };
        let key = self.key.iter().map(|at| self.columns[*at].as_str());
        let order = self.source.order.iter().map(String::as_str).chain(key);
        let order: Vec<String> = order.map(|name| format!("{} COLLATE BINARY", quoted(name))).collect();
        format!("SELECT {} FROM {}{only} ORDER BY {}", self.column_list(), quoted(&self.source.table), order.join(", "))
    }
}

/// A column of a table that can be written.
struct Known {
    name: String,
    pk: i64,
    default_sql: Option<String>,
}

impl Known {
    /// Its default, if it is the same each time.
    fn default(&self, conn: &Connection) -> Value {
        let Some(sql) = &self.default_sql else { return Value::Null };
        let found = conn.query_row(&format!("SELECT {sql}"), [], |row| read(row, 1));
        found.ok().and_then(|mut values| values.pop()).unwrap_or(Value::Null)
    }
}

fn known_columns(conn: &Connection, table: &str) -> Result<Vec<Known>, Error> {
    let failed = |error| isle_store::StoreError::of_statement("look at the table", error);
    let mut statement = conn.prepare("SELECT name, pk, dflt_value FROM pragma_table_info(?1)").map_err(failed)?;
    let known =
        statement.query_map([table], |row| Ok(Known { name: row.get(0)?, pk: row.get(1)?, default_sql: row.get(2)? }));
    Ok(known.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?)
}
