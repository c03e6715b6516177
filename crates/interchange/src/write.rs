//! A document out of rows.

use isle_changeset::Value;

use crate::mapping::{Column, Form, Format, From, Shape, Source};
use crate::node::{Datum, Node};

/// What cannot be written, and of which column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The column.
    pub column: String,
    /// What is wrong with its value.
    pub reason: String,
}

/// The document that a source's rows are read from; they come in the order in which they are to stand. `defaulted` says of each column whether it holds something else than
/// NULL where a document has nothing for it.
///
/// # Errors
/// The first value that the mapping has no form for, with the number of its row.
pub fn document(source: &Source, rows: &[Vec<Value>], defaulted: &[bool]) -> Result<Node, (usize, Written)> {
    let mut nodes: Vec<(String, Node)> = Vec::with_capacity(rows.len());
    let mut seen = std::collections::HashSet::new();
    for (n, cells) in rows.iter().enumerate() {
        let key = key_of(source, cells).map_err(|written| (n, written))?;
        let refused = |reason: &str| Err((n, Written { column: String::new(), reason: reason.to_owned() }));
        if source.rows == [Shape::Record] && n > 0 {
            return refused("a second row, and the document is one record");
        }
        if source.rows == [Shape::Entries] && !seen.insert(key.clone()) {
            return refused("a second entry of the same name");
        }
        nodes.push((key, row(source, cells, defaulted).map_err(|written| (n, written))?));
    }
    let mut node = match source.rows.as_slice() {
        [Shape::Record] => nodes.pop().map_or_else(|| Node::new(Datum::Map(Vec::new())), |(_, node)| node),
        [Shape::Items] => Node::new(Datum::List(nodes.into_iter().map(|(_, node)| node).collect())),
        [Shape::Entries] => Node::new(Datum::Map(nodes)),
        [_, ..] => grouped(nodes),
        [] => Node::new(Datum::Null),
    };
    for (n, name) in source.at.iter().enumerate().rev() {
        let mut members = if n == 0 { source.frame() } else { Vec::new() };
        members.push((name.clone(), node));
        node = Node::new(Datum::Map(members));
    }
    Ok(node)
}

/// Rows of one key as one list each.
fn grouped(nodes: Vec<(String, Node)>) -> Node {
    let mut groups: Vec<(String, Vec<Node>)> = Vec::new();
    let mut at = std::collections::HashMap::new();
    for (key, node) in nodes {
        let n = *at.entry(key.clone()).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        groups[n].1.push(node);
    }
    let list = |nodes| Node::new(Datum::List(nodes));
    Node::new(Datum::Map(groups.into_iter().map(|(key, nodes)| (key, list(nodes))).collect()))
}

fn key_of(source: &Source, cells: &[Value]) -> Result<String, Written> {
    let keyed = source.columns.0.iter().zip(cells).find(|((_, column), _)| column.from == From::Key);
    let Some(((name, _), cell)) = keyed else { return Ok(String::new()) };
    match cell {
        Value::Text(text) => utf8(text).map_err(|reason| Written { column: name.clone(), reason }),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err(Written { column: name.clone(), reason: "the name of an entry has to be a text".to_owned() }),
    }
}

fn row(source: &Source, cells: &[Value], defaulted: &[bool]) -> Result<Node, Written> {
    let failed = |column: &str, reason| Written { column: column.to_owned(), reason };
    let mut rest = match (&source.rest, cells.get(source.columns.0.len())) {
        (Some(column), Some(Value::Text(text))) => {
            let text = utf8(text).map_err(|reason| failed(column, reason))?;
            crate::parse(Format::Json, text.as_bytes())
                .map_err(|fault| failed(column, format!("it is no JSON: {fault}")))?
        }
        (Some(column), Some(Value::Integer(_) | Value::Real(_) | Value::Blob(_))) => {
            return Err(failed(column, "no text of JSON".to_owned()));
        }
        _ => Node::new(Datum::Map(Vec::new())),
    };
    if let (Some(column), true) = (&source.rest, !matches!(rest.datum, Datum::Map(_))) {
        return Err(failed(column, format!("{} instead of an object", rest.kind())));
    }
    let mut first = Node::new(Datum::Map(Vec::new()));
    for (at, ((name, column), cell)) in source.columns.0.iter().zip(cells).enumerate() {
        let value = value(column, cell).map_err(|reason| failed(name, reason))?;
        let has_to_be_told = defaulted.get(at).copied().unwrap_or(false);
        match &column.from {
            From::Value if value.is_none() && column.form == Form::Json => {
                return Err(failed(name, "NULL, for which the value itself leaves no room".to_owned()));
            }
            From::Value => return Ok(value.unwrap_or_else(|| Node::new(Datum::Null))),
            From::Members(members) => {
                let told = take_null(&mut rest, members);
                let value = value.or_else(|| (told || has_to_be_told).then(|| Node::new(Datum::Null)));
                if let Some(value) = value {
                    put(&mut first, members, value);
                }
            }
            From::Key | From::Index | From::Hash | From::Constant => {}
        }
    }
    merge(&mut first, rest);
    Ok(first)
}

/// A column's value as it stands in a document; `None` for NULL.
fn value(column: &Column, cell: &Value) -> Result<Option<Node>, String> {
    let datum = match (column.form, cell) {
        (_, Value::Null) => return Ok(None),
        (Form::Json, Value::Text(text)) => {
            let text = utf8(text)?;
            let node = crate::parse(Format::Json, text.as_bytes());
            return node.map(Some).map_err(|fault| format!("it is no JSON: {fault}"));
        }
        (Form::Bool, Value::Integer(0)) => Datum::Bool(false),
        (Form::Bool, Value::Integer(1)) => Datum::Bool(true),
        (Form::Base64, Value::Blob(bytes)) => Datum::Text(data_encoding::BASE64.encode(bytes)),
        (Form::Plain | Form::Integer, Value::Integer(value)) => Datum::Integer(*value),
        (Form::Real, Value::Integer(value)) => Datum::Integer(*value),
        (Form::Plain | Form::Real, Value::Real(value)) if value.is_finite() => Datum::Real(*value),
        (Form::Plain | Form::Text, Value::Text(text)) => Datum::Text(utf8(text)?),
        (Form::Plain, Value::Blob(_)) => return Err("bytes; say as = \"base64\"".to_owned()),
        (_, other) => {
            let what = match other {
                Value::Null => "NULL",
                Value::Integer(_) => "an integer",
                Value::Real(_) => "a float",
                Value::Text(_) => "a text",
                Value::Blob(_) => "bytes",
            };
            return Err(format!("{what}, which its form in the mapping does not have"));
        }
    };
    Ok(Some(Node::new(datum)))
}

fn utf8(text: &[u8]) -> Result<String, String> {
    String::from_utf8(text.to_vec()).map_err(|_| "a text that is not UTF-8".to_owned())
}

/// Whether there is a `null` where members lead, which is taken out.
fn take_null(node: &mut Node, members: &[String]) -> bool {
    let (Some((first, below)), Datum::Map(held)) = (members.split_first(), &mut node.datum) else { return false };
    let Some(at) = held.iter().position(|(name, _)| name == first) else { return false };
    if !below.is_empty() {
        return take_null(&mut held[at].1, below);
    }
    // What another program wrote there stays: it shows where the column has no value.
    let is_null = matches!(held[at].1.datum, Datum::Null);
    if is_null {
        held.remove(at);
    }
    is_null
}

/// Puts a value where members lead; objects on the way are made.
fn put(node: &mut Node, members: &[String], value: Node) {
    let (Some((first, below)), Datum::Map(held)) = (members.split_first(), &mut node.datum) else { return };
    if below.is_empty() {
        held.push((first.clone(), value));
        return;
    }
    let at = held.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
        held.push((first.clone(), Node::new(Datum::Map(Vec::new()))));
        held.len() - 1
    });
    put(&mut held[at].1, below, value);
}

/// Adds what stands in `rest` behind what is there, within objects that both have.
pub fn merge(node: &mut Node, rest: Node) {
    let (Datum::Map(held), Datum::Map(more)) = (&mut node.datum, rest.datum) else { return };
    for (name, value) in more {
        match held.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => merge(known, value),
            None => held.push((name, value)),
        }
    }
}
