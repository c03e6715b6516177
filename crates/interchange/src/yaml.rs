//! YAML documents.

use std::fmt;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::YAML_DEPTH_MAX;
use crate::error::Fault;
use crate::node::{Datum, Node};

/// What aliases may stand for in all, in events of the reader.
const ALIASED_MAX: usize = 1_000_000;

/// Reads a document: the first and only one of its stream.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    // A document has at least a byte for each event of its own; what aliases stand for comes on top.
    let events = text.len().max(1 << 10) + ALIASED_MAX;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: events,
            max_nodes: events,
            max_depth: YAML_DEPTH_MAX,
            max_total_scalar_bytes: 2 * text.len() + (64 << 20),
            max_aliases: ALIASED_MAX,
            max_anchors: ALIASED_MAX,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIASED_MAX },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        // Bytes are read by the columns that want them.
        ignore_binary_tag_for_string: true,
    };
    let read: Spanned<Read> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |place| place.line() as usize);
        let text = error.without_snippet().to_string();
        // The place stands before it already.
        let reason = text.split(" at line ").next().unwrap_or(&text);
        Fault::new(line, "$", reason)
    })?;
    node(text, read, 0)
}

fn node(text: &str, read: Spanned<Read>, depth: usize) -> Result<Node, Fault> {
    let line = read.referenced.line() as usize;
    if depth > YAML_DEPTH_MAX {
        return Err(Fault::new(line, "$", format!("more than {YAML_DEPTH_MAX} levels in one another")));
    }
    let datum = match read.value {
        // The reader takes an integer that fits nowhere for a float, of which the last digits would be gone.
        Read::Plain(Datum::Real(real)) if real.abs() >= i64::MAX as f64 && is_whole(text, &read.defined) => {
            let reason = "the number does not fit into the 64 bits of SQLite's integers; write it as a text";
            return Err(Fault::new(line, "$", reason));
        }
        Read::Plain(datum) => datum,
        Read::List(items) => {
            Datum::List(items.into_iter().map(|item| node(text, item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Read::Map(members) => {
            let members = members.into_iter().map(|(name, value)| Ok((name, node(text, value, depth + 1)?)));
            Datum::Map(members.collect::<Result<_, Fault>>()?)
        }
    };
    Ok(Node { line, datum })
}

/// Whether digits alone stand at a place.
fn is_whole(text: &str, place: &serde_saphyr::Location) -> bool {
    let at = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok());
    let (start, bytes) = (at(place.span().byte_offset()), at(place.span().byte_len()));
    let written = start.zip(bytes).and_then(|(start, bytes)| text.get(start..start.checked_add(bytes)?));
    written
        .is_some_and(|written| written.trim().bytes().all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'+'))
}

/// Writes a document. What readers of YAML 1.1 would take for something other than a text is quoted.
pub(crate) fn print(node: &Node) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(node, options).map_err(|error| error.to_string())
}

enum Read {
    Plain(Datum),
    List(Vec<Spanned<Read>>),
    Map(Vec<(String, Spanned<Read>)>),
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(V)
    }
}

struct V;

impl<'de> Visitor<'de> for V {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_unit<E>(self) -> Result<Read, E> {
        Ok(Read::Plain(Datum::Null))
    }

    fn visit_none<E>(self) -> Result<Read, E> {
        Ok(Read::Plain(Datum::Null))
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Read, D::Error> {
        Read::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Read, E> {
        Ok(Read::Plain(Datum::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Read, E> {
        Ok(Read::Plain(Datum::Integer(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Read, E> {
        let integer = i64::try_from(value).map_err(|_| too_large(value))?;
        Ok(Read::Plain(Datum::Integer(integer)))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Read, E> {
        let integer = i64::try_from(value).map_err(|_| too_large(value))?;
        Ok(Read::Plain(Datum::Integer(integer)))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Read, E> {
        let integer = i64::try_from(value).map_err(|_| too_large(value))?;
        Ok(Read::Plain(Datum::Integer(integer)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Read, E> {
        if value.is_finite() { Ok(Read::Plain(Datum::Real(value))) } else { Err(E::custom("JSON has no such number")) }
    }

    fn visit_str<E>(self, value: &str) -> Result<Read, E> {
        Ok(Read::Plain(Datum::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Read, E> {
        Ok(Read::Plain(Datum::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Read, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Read::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
        let mut members: Vec<(String, Spanned<Read>)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((name, value)) = map.next_entry::<String, Spanned<Read>>()? {
            // `1` and `"1"` are two keys of YAML and one name of JSON.
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("it has {name:?} twice")));
            }
            members.push((name, value));
        }
        Ok(Read::Map(members))
    }
}

fn too_large<E: serde::de::Error>(value: impl fmt::Display) -> E {
    E::custom(format!("{value} does not fit into the 64 bits of SQLite's integers; write it as a text"))
}
