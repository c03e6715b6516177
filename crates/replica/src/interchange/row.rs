//! Values of rows between documents and SQLite.

use isle_changeset::{Value, ValueRef};
use rusqlite::types::{ToSqlOutput, ValueRef as SqlRef};

/// A value as a parameter.
pub(super) struct Bound<'v>(pub(super) &'v Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0.as_ref() {
            ValueRef::Null => SqlRef::Null,
            ValueRef::Integer(value) => SqlRef::Integer(value),
            ValueRef::Real(value) => SqlRef::Real(value),
            ValueRef::Text(value) => SqlRef::Text(value),
            ValueRef::Blob(value) => SqlRef::Blob(value),
        }))
    }
}

/// The values of a row.
pub(super) fn read(row: &rusqlite::Row<'_>, count: usize) -> rusqlite::Result<Vec<Value>> {
    let value = |at: usize| {
        Ok(match row.get_ref(at)? {
            SqlRef::Null => Value::Null,
            SqlRef::Integer(value) => Value::Integer(value),
            SqlRef::Real(value) => Value::Real(value),
            SqlRef::Text(value) => Value::Text(value.to_vec()),
            SqlRef::Blob(value) => Value::Blob(value.to_vec()),
        })
    };
    (0..count).map(value).collect()
}

/// A value for people.
pub(super) fn shown(value: &Value) -> String {
    crate::Value::from_changeset(value).to_string()
}

/// A key for people.
pub(super) fn shown_key<'v>(key: impl IntoIterator<Item = &'v Value>) -> String {
    key.into_iter().map(shown).collect::<Vec<_>>().join(", ")
}
