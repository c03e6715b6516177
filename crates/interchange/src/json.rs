//! JSON documents.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::Fault;
use crate::node::{Datum, Node};
use crate::{DEPTH_MAX, read};

/// Reads a document.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| syntax(&error, 0))?;
    let mut cursor = Cursor { text, at: 0, line: 1 };
    cursor.node(raw, &mut Vec::new())
}

/// What serde_json says, without the place that it repeats at its end.
fn syntax(error: &serde_json::Error, above: usize) -> Fault {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
    Fault::new(above + error.line(), "$", format!("{reason} (column {})", error.column()))
}

/// Counts lines up to where it has come.
struct Cursor<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl<'t> Cursor<'t> {
    /// The line of a part of the text; parts come in their order.
    fn line_of(&mut self, part: &'t str) -> usize {
        let at = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize).min(self.text.len());
        if let Some(between) = self.text.as_bytes().get(self.at..at) {
            self.line += between.iter().filter(|byte| **byte == b'\n').count();
            self.at = at;
        }
        self.line
    }

    fn node(&mut self, raw: &'t RawValue, path: &mut Vec<String>) -> Result<Node, Fault> {
        let text = raw.get();
        let line = self.line_of(text);
        let fault = |path: &[String], reason: String| Fault::new(line, read::path_text(path), reason);
        let broken = |path: &[String], error: serde_json::Error| fault(path, syntax(&error, 0).reason);
        let is_deep = path.len() >= DEPTH_MAX && matches!(text.as_bytes().first(), Some(b'{' | b'['));
        if is_deep {
            return Err(fault(path, format!("more than {DEPTH_MAX} levels in one another")));
        }
        let datum = match text.as_bytes().first() {
            Some(b'{') => {
                let members: Members<'t> = serde_json::from_str(text).map_err(|error| broken(path, error))?;
                let mut seen = HashSet::new();
                let mut nodes = Vec::with_capacity(members.0.len());
                for (name, raw) in &members.0 {
                    if !seen.insert(name.as_ref()) {
                        let line = self.line_of(raw.get());
                        return Err(Fault::new(line, read::path_text(path), format!("it has {name:?} twice")));
                    }
                    path.push(format!(".{name}"));
                    nodes.push((name.as_ref().to_owned(), self.node(raw, path)?));
                    path.pop();
                }
                Datum::Map(nodes)
            }
            Some(b'[') => {
                let items: Items<'t> = serde_json::from_str(text).map_err(|error| broken(path, error))?;
                let mut nodes = Vec::with_capacity(items.0.len());
                for (n, raw) in items.0.iter().enumerate() {
                    path.push(format!("[{n}]"));
                    nodes.push(self.node(raw, path)?);
                    path.pop();
                }
                Datum::List(nodes)
            }
            Some(b'"') => Datum::Text(serde_json::from_str(text).map_err(|error| broken(path, error))?),
            Some(b't') => Datum::Bool(true),
            Some(b'f') => Datum::Bool(false),
            Some(b'n') => Datum::Null,
            _ => number(text).map_err(|reason| fault(path, reason))?,
        };
        Ok(Node { line, datum })
    }
}

/// A number, if SQLite can hold it.
fn number(text: &str) -> Result<Datum, String> {
    if let Ok(integer) = text.parse() {
        return Ok(Datum::Integer(integer));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return Err(format!("{text} does not fit into the 64 bits of SQLite's integers; write it as a text"));
    }
    match text.parse::<f64>() {
        Ok(real) if real.is_finite() => Ok(Datum::Real(real)),
        _ => Err(format!("{text} is larger than any floating-point number")),
    }
}

/// Writes a document, two spaces to a level.
pub(crate) fn print(node: &Node) -> Result<String, String> {
    let mut text = serde_json::to_string_pretty(node).map_err(|error| error.to_string())?;
    text.push('\n');
    Ok(text)
}

struct Members<'t>(Vec<(Cow<'t, str>, &'t RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Name(name), raw)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, raw));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(V)
    }
}

/// The name of a member: borrowed unless it has escapes.
#[derive(Deserialize)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

struct Items<'t>(Vec<&'t RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Items<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(raw) = list.next_element::<&'de RawValue>()? {
                    items.push(raw);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(V)
    }
}
