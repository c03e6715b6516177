//! Values, parameters and rows of the public API. No type of the SQLite binding shows here.

use std::sync::Arc;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Serialize, forward_to_deserialize_any};

use crate::Error;

/// A SQLite value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float.
    Real(f64),
    /// Text. SQLite does not promise that it is UTF-8; bytes that are not are replaced when a row is read.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    pub(crate) fn from_sql(value: ValueRef<'_>) -> Value {
        match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(v) => Value::Integer(v),
            ValueRef::Real(v) => Value::Real(v),
            ValueRef::Text(v) => Value::Text(String::from_utf8_lossy(v).into_owned()),
            ValueRef::Blob(v) => Value::Blob(v.to_vec()),
        }
    }

    pub(crate) fn from_changeset(value: &isle_changeset::Value) -> Value {
        match value {
            isle_changeset::Value::Null => Value::Null,
            isle_changeset::Value::Integer(v) => Value::Integer(*v),
            isle_changeset::Value::Real(v) => Value::Real(*v),
            isle_changeset::Value::Text(v) => Value::Text(String::from_utf8_lossy(v).into_owned()),
            isle_changeset::Value::Blob(v) => Value::Blob(v.clone()),
        }
    }

    pub(crate) fn to_changeset(&self) -> isle_changeset::Value {
        match self {
            Value::Null => isle_changeset::Value::Null,
            Value::Integer(v) => isle_changeset::Value::Integer(*v),
            Value::Real(v) => isle_changeset::Value::Real(*v),
            Value::Text(v) => isle_changeset::Value::Text(v.clone().into_bytes()),
            Value::Blob(v) => isle_changeset::Value::Blob(v.clone()),
        }
    }

    /// The value in JSON. Bytes become `{"hex": …}`, so that no text is mistaken for them.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Real(number) if number.is_infinite() => {
                serde_json::json!(if *number > 0.0 { "Infinity" } else { "-Infinity" })
            }
            Value::Blob(bytes) => serde_json::json!({ "hex": data_encoding::HEXLOWER.encode(bytes) }),
            other => serde_json::json!(other),
        }
    }

    /// The value as a parameter.
    pub fn as_param(&self) -> Param<'_> {
        match self {
            Value::Null => Param::Null,
            Value::Integer(v) => Param::Integer(*v),
            Value::Real(v) => Param::Real(*v),
            Value::Text(v) => Param::Text(v),
            Value::Blob(v) => Param::Blob(v),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Null => f.write_str("NULL"),
            Value::Integer(v) => write!(f, "{v}"),
            Value::Real(v) => write!(f, "{v:?}"),
            Value::Text(v) => f.write_str(v),
            Value::Blob(v) => {
                f.write_str("x'")?;
                v.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_none(),
            Value::Integer(v) => serializer.serialize_i64(*v),
            Value::Real(v) => serializer.serialize_f64(*v),
            Value::Text(v) => serializer.serialize_str(v),
            Value::Blob(v) => serializer.serialize_bytes(v),
        }
    }
}

/// A parameter of a statement, borrowed where it can be. [`crate::params!`] makes lists of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Param<'a> {
    /// NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float.
    Real(f64),
    /// Text.
    Text(&'a str),
    /// Bytes.
    Blob(&'a [u8]),
}

impl ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Param::Null => ValueRef::Null,
            Param::Integer(v) => ValueRef::Integer(v),
            Param::Real(v) => ValueRef::Real(v),
            Param::Text(v) => ValueRef::Text(v.as_bytes()),
            Param::Blob(v) => ValueRef::Blob(v),
        }))
    }
}

macro_rules! integer_params {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Param<'_> {
            fn from(value: $kind) -> Self {
                Param::Integer(i64::from(value))
            }
        }
    )*};
}
integer_params!(i64, i32, i16, i8, u32, u16, u8, bool);

impl From<f64> for Param<'_> {
    fn from(value: f64) -> Self {
        Param::Real(value)
    }
}

impl<'a> From<&'a str> for Param<'a> {
    fn from(value: &'a str) -> Self {
        Param::Text(value)
    }
}

impl<'a> From<&'a String> for Param<'a> {
    fn from(value: &'a String) -> Self {
        Param::Text(value)
    }
}

impl<'a> From<&'a [u8]> for Param<'a> {
    fn from(value: &'a [u8]) -> Self {
        Param::Blob(value)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Param<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Param::Blob(value)
    }
}

impl<'a> From<&'a Vec<u8>> for Param<'a> {
    fn from(value: &'a Vec<u8>) -> Self {
        Param::Blob(value)
    }
}

impl<'a> From<&'a Value> for Param<'a> {
    fn from(value: &'a Value) -> Self {
        value.as_param()
    }
}

impl<'a, T: Into<Param<'a>>> From<Option<T>> for Param<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Param::Null, Into::into)
    }
}

/// A list of parameters, for `?1, ?2, …` in order.
///
/// ```
/// let title = String::from("Dune");
/// let list: &[isle::Param<'_>] = isle::params![1, &title, None::<i64>, &[0u8, 1][..]];
/// assert_eq!(list.len(), 4);
/// ```
#[macro_export]
macro_rules! params {
    () => { &[] as &[$crate::Param<'_>] };
    ($($value:expr),+ $(,)?) => { &[$($crate::Param::from($value)),+] as &[$crate::Param<'_>] };
}

/// A row of a query's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn read(columns: &Arc<[String]>, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
        let values = (0..columns.len()).map(|n| row.get_ref(n).map(Value::from_sql)).collect::<Result<_, _>>()?;
        Ok(Row { columns: Arc::clone(columns), values })
    }

    /// The values of the first `n` columns, and the row of the others; `None` if there are fewer.
    pub(crate) fn split_at(mut self, n: usize) -> Option<(Vec<Value>, Row)> {
        if n > self.values.len() {
            return None;
        }
        let rest = self.values.split_off(n);
        Some((self.values, Row { columns: self.columns.get(n..)?.into(), values: rest }))
    }

    /// The columns' names, in order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The values, in column order.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value of the first column with this name, without regard to ASCII case.
    pub fn get(&self, column: &str) -> Option<&Value> {
        let at = self.columns.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.values.get(at)
    }

    /// The row as a value of a type with serde: a struct by column names, a tuple by position, or a single value.
    ///
    /// # Errors
    /// [`Error::Row`] when a column is missing or has another type.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(RowDeserializer(self)).map_err(|error| Error::Row { reason: error.to_string() })
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (name, value) in self.columns.iter().zip(&self.values) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

type ValueError = serde::de::value::Error;

/// A type that is a single value is read from the first column.
macro_rules! scalars {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
            self.first()?.$method(visitor)
        }
    )*};
}

struct RowDeserializer<'r>(&'r Row);

impl<'de> Deserializer<'de> for RowDeserializer<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        let pairs =
            self.0.columns.iter().zip(&self.0.values).map(|(name, value)| (name.as_str(), ValueDeserializer(value)));
        visitor.visit_map(MapDeserializer::new(pairs))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_seq(SeqDeserializer::new(self.0.values.iter().map(ValueDeserializer)))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, ValueError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0.values.first() {
            Some(value) => ValueDeserializer(value).deserialize_option(visitor),
            None => visitor.visit_none(),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        self.first()?.deserialize_enum(name, variants, visitor)
    }

    scalars! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf
    }

    forward_to_deserialize_any! {
        i128 u128 map struct unit unit_struct newtype_struct tuple_struct ignored_any identifier
    }
}

impl<'r> RowDeserializer<'r> {
    fn first(self) -> Result<ValueDeserializer<'r>, ValueError> {
        let value = self.0.values.first().ok_or_else(|| serde::de::Error::custom("the row has no column"))?;
        Ok(ValueDeserializer(value))
    }
}

struct ValueDeserializer<'r>(&'r Value);

impl<'de> Deserializer<'de> for ValueDeserializer<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Integer(v) => visitor.visit_i64(*v),
            Value::Real(v) => visitor.visit_f64(*v),
            Value::Text(v) => visitor.visit_str(v),
            Value::Blob(v) => visitor.visit_bytes(v),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    /// SQLite has no booleans; it writes 0 and 1.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0 {
            Value::Integer(v) => visitor.visit_bool(*v != 0),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match self.0 {
            Value::Text(v) => {
                IntoDeserializer::<ValueError>::into_deserializer(v.as_str()).deserialize_enum(name, variants, visitor)
            }
            _ => Err(serde::de::Error::custom("an enum is read from text")),
        }
    }

    /// A list of bytes.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.0 {
            Value::Blob(v) => visitor.visit_seq(SeqDeserializer::new(v.iter().copied())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, ValueError> for ValueDeserializer<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    fn row(columns: &[&str], values: Vec<Value>) -> Row {
        Row { columns: columns.iter().map(|name| (*name).to_owned()).collect(), values }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Note {
        id: i64,
        title: String,
        done: bool,
        stars: Option<f64>,
        raw: Vec<u8>,
    }

    #[test]
    fn rows_become_structs_tuples_and_single_values() {
        let values = vec![
            Value::Integer(7),
            Value::Text("Dune".into()),
            Value::Integer(1),
            Value::Null,
            Value::Blob(vec![1, 2]),
        ];
        let row = row(&["id", "title", "done", "stars", "raw"], values);
        let note = Note { id: 7, title: "Dune".into(), done: true, stars: None, raw: vec![1, 2] };
        assert_eq!(row.to::<Note>().expect("fits"), note);
        assert_eq!(row.to::<(i64, String, bool, Option<f64>, Vec<u8>)>().expect("fits").1, "Dune");
        assert_eq!(row.to::<i64>().expect("fits"), 7);
        assert_eq!(row.get("TITLE"), Some(&Value::Text("Dune".into())));
    }

    #[test]
    fn a_missing_column_is_named() {
        let error = row(&["id"], vec![Value::Integer(7)]).to::<Note>().expect_err("misses most");
        assert!(error.to_string().contains("title"), "{error}");
    }
}
