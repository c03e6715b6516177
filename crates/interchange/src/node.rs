//! Values of a document.

use serde::Serialize;
use serde::ser::{SerializeMap as _, SerializeSeq as _, Serializer};

/// A value, and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    /// The line where it begins, from 1; 0 if it was not read.
    pub line: usize,
    /// The value.
    pub datum: Datum,
}

/// A value of JSON, numbers as SQLite has them.
#[derive(Debug, Clone)]
pub enum Datum {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number without fraction or exponent.
    Integer(i64),
    /// Any other number. Finite.
    Real(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Members in their order; each name comes once.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// A value that was not read.
    pub fn new(datum: Datum) -> Node {
        Node { line: 0, datum }
    }

    /// The member of this name, if it is an object that has it.
    pub fn member(&self, name: &str) -> Option<&Node> {
        match &self.datum {
            Datum::Map(members) => members.iter().find(|(known, _)| known == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self.datum {
            Datum::Null => "null",
            Datum::Bool(_) => "true or false",
            Datum::Integer(_) => "a whole number",
            Datum::Real(_) => "a number",
            Datum::Text(_) => "a text",
            Datum::List(_) => "a list",
            Datum::Map(_) => "an object",
        }
    }

    /// Whether two values are the same, whatever the order of members: `1` and `1.0` are.
    pub fn is_same(&self, other: &Node) -> bool {
        match (&self.datum, &other.datum) {
            (Datum::Null, Datum::Null) => true,
            (Datum::Bool(a), Datum::Bool(b)) => a == b,
            (Datum::Integer(a), Datum::Integer(b)) => a == b,
            (Datum::Real(a), Datum::Real(b)) => a == b,
            (Datum::Integer(a), Datum::Real(b)) | (Datum::Real(b), Datum::Integer(a)) => is_integer(*b, *a),
            (Datum::Text(a), Datum::Text(b)) => a == b,
            (Datum::List(a), Datum::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_same(b)),
            (Datum::Map(a), Datum::Map(_)) => {
                let Datum::Map(b) = &other.datum else { return false };
                a.len() == b.len() && a.iter().all(|(name, a)| other.member(name).is_some_and(|b| a.is_same(b)))
            }
            _ => false,
        }
    }
}

/// Whether a float is exactly this integer.
pub(crate) fn is_integer(real: f64, integer: i64) -> bool {
    // The bounds of i64 that a float can be: beyond them the conversion would stop at the nearest.
    real.fract() == 0.0
        && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&real)
        && real as i64 == integer
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.datum {
            Datum::Null => serializer.serialize_unit(),
            Datum::Bool(value) => serializer.serialize_bool(*value),
            Datum::Integer(value) => serializer.serialize_i64(*value),
            Datum::Real(value) => serializer.serialize_f64(*value),
            Datum::Text(value) => serializer.serialize_str(value),
            Datum::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Datum::Map(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}
