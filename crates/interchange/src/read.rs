//! Rows out of a document.

use isle_changeset::Value;

use crate::error::Fault;
use crate::mapping::{Column, Form, From, Shape, Source, Unknown};
use crate::node::{Datum, Node, is_integer};

/// What a row holds in the columns that a source fills, in the order of [`Source::column_names`]; `None` where the document has nothing, so that the
/// column's own default counts.
pub type Cells = Vec<Option<Value>>;

/// A row, and where it stands.
#[derive(Debug, Clone)]
pub struct Row {
    /// The line where it begins.
    pub line: usize,
    /// The place, as `$.jobs[3]`.
    pub path: String,
    /// Its values.
    pub cells: Cells,
}

impl Row {
    /// What is wrong with it.
    pub fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault::new(self.line, self.path.clone(), reason)
    }
}

/// The rows of a document.
///
/// # Errors
/// What does not fit the source, and where it stands.
pub fn rows(source: &Source, document: &Node) -> Result<Vec<Row>, Fault> {
    let mut path = Vec::new();
    let mut holder = document;
    let frame = source.frame();
    for (n, name) in source.at.iter().enumerate() {
        let Datum::Map(members) = &holder.datum else {
            return Err(Fault::new(holder.line, path_text(&path), format!("{} instead of an object", holder.kind())));
        };
        for (beside, node) in members.iter().filter(|(known, _)| known != name && !source.is_others(n, known)) {
            let expected = frame.iter().find(|(known, _)| known == beside && n == 0).map(|(_, node)| node);
            if source.unknown == Unknown::Refuse && !expected.is_some_and(|expected| expected.is_same(node)) {
                let reason = format!(
                    "{beside:?} stands beside the rows and goes nowhere; name it in [source.frame], or set unknown = \"ignore\""
                );
                return Err(Fault::new(node.line, path_text(&path), reason));
            }
        }
        let Some(next) = holder.member(name) else {
            return Err(Fault::new(holder.line, path_text(&path), format!("it has no member {name:?}")));
        };
        path.push(format!(".{name}"));
        holder = next;
    }
    let mut rows = Vec::new();
    let place = Place { key: None, index: 0 };
    level(source, holder, &source.rows, &place, &mut path, &mut rows)?;
    Ok(rows)
}

/// Where a row stands among the others.
struct Place<'n> {
    key: Option<&'n str>,
    index: usize,
}

fn level<'n>(
    source: &Source,
    node: &'n Node,
    shapes: &[Shape],
    place: &Place<'n>,
    path: &mut Vec<String>,
    rows: &mut Vec<Row>,
) -> Result<(), Fault> {
    let Some((shape, below)) = shapes.split_first() else {
        rows.push(row(source, node, place, path)?);
        return Ok(());
    };
    match (shape, &node.datum) {
        (Shape::Record, _) => level(source, node, below, place, path, rows),
        (Shape::Items, Datum::List(items))
            if items.is_empty() && place.key.is_some() && source.unknown == Unknown::Refuse =>
        {
            let reason =
                "an empty list is no row, and nothing would keep its name; set unknown = \"ignore\" to leave it out";
            Err(Fault::new(node.line, path_text(path), reason))
        }
        (Shape::Items, Datum::List(items)) => {
            for (index, item) in items.iter().enumerate() {
                path.push(format!("[{index}]"));
                level(source, item, below, &Place { key: place.key, index }, path, rows)?;
                path.pop();
            }
            Ok(())
        }
        (Shape::Entries, Datum::Map(members)) => {
            for (index, (name, value)) in members.iter().enumerate() {
                path.push(format!(".{name}"));
                level(source, value, below, &Place { key: place.key.or(Some(name)), index }, path, rows)?;
                path.pop();
            }
            Ok(())
        }
        (Shape::Items, _) => Err(Fault::new(node.line, path_text(path), format!("{} instead of a list", node.kind()))),
        (Shape::Entries, _) => {
            Err(Fault::new(node.line, path_text(path), format!("{} instead of an object", node.kind())))
        }
    }
}

fn row(source: &Source, node: &Node, place: &Place<'_>, path: &mut Vec<String>) -> Result<Row, Fault> {
    let by_members = source.rest.is_some() || source.columns.0.iter().any(|(_, c)| matches!(c.from, From::Members(_)));
    if by_members && !matches!(node.datum, Datum::Map(_)) {
        return Err(Fault::new(node.line, path_text(path), format!("{} instead of an object", node.kind())));
    }
    let mut rest = by_members.then(|| node.clone());
    let mut cells = Vec::with_capacity(source.columns.0.len() + 1);
    for (name, column) in &source.columns.0 {
        let taken;
        let found = match &column.from {
            From::Members(members) => {
                taken = rest.as_mut().and_then(|rest| take(rest, members));
                taken.as_ref()
            }
            From::Value => Some(node),
            From::Key => {
                taken = place.key.map(|key| Node::new(Datum::Text(key.to_owned())));
                taken.as_ref()
            }
            From::Index => {
                taken = Some(Node::new(Datum::Integer(place.index as i64)));
                taken.as_ref()
            }
            From::Hash => {
                let hash = blake3::hash(canonical_json(&sorted(node)).as_bytes());
                let short = data_encoding::HEXLOWER.encode(&hash.as_bytes()[..16]);
                taken = Some(Node::new(Datum::Text(short)));
                taken.as_ref()
            }
            From::Constant => column.default.as_ref(),
        };
        let cell = cell(column, found).map_err(|reason| {
            let below = match &column.from {
                From::Members(members) => members.iter().fold(path_text(path), |path, name| path + "." + name),
                _ => path_text(path),
            };
            let line = found.map_or(0, |found| found.line);
            Fault::new(if line > 0 { line } else { node.line }, below, format!("{reason} (column {name})"))
        })?;
        cells.push(cell);
    }
    match (&source.rest, rest) {
        (Some(_), rest) => {
            let rest = rest.unwrap_or_else(|| Node::new(Datum::Map(Vec::new())));
            cells.push(Some(Value::Text(canonical_json(&rest).into_bytes())));
        }
        (None, Some(Node { datum: Datum::Map(left), .. })) if source.unknown == Unknown::Refuse => {
            // An explicit null of a member with a column is NULL there.
            let odd = left.iter().find(|(name, node)| !is_told(source, name, node));
            if let Some((name, node)) = odd {
                path.push(format!(".{name}"));
                let reason = "it goes nowhere: give it a column, name a column for the rest (rest = …), or set unknown = \"ignore\"";
                let fault = Fault::new(node.line, path_text(path), reason);
                path.pop();
                return Err(fault);
            }
        }
        _ => {}
    }
    Ok(Row { line: node.line, path: path_text(path), cells })
}

/// Takes a value out of where members lead; a `null` stays there as well, so that it can be told from nothing.
fn take(node: &mut Node, members: &[String]) -> Option<Node> {
    let (first, below) = members.split_first()?;
    let Datum::Map(held) = &mut node.datum else { return None };
    let at = held.iter().position(|(name, _)| name == first)?;
    if !below.is_empty() {
        return take(&mut held[at].1, below);
    }
    if matches!(held[at].1.datum, Datum::Null) {
        return Some(held[at].1.clone());
    }
    Some(held.remove(at).1)
}

/// Whether what is left of a member says nothing that a column does not: a `null` that has one, or an object that was emptied.
fn is_told(source: &Source, name: &str, node: &Node) -> bool {
    fn told(prefix: &[&str], node: &Node, source: &Source) -> bool {
        let is_path = |members: &[String]| members.iter().map(String::as_str).eq(prefix.iter().copied());
        let above = |members: &[String]| {
            members.len() > prefix.len() && members.iter().map(String::as_str).zip(prefix).all(|(a, b)| a == *b)
        };
        let paths = || {
            source.columns.0.iter().filter_map(|(_, column)| match &column.from {
                From::Members(members) => Some(members.as_slice()),
                _ => None,
            })
        };
        match &node.datum {
            Datum::Null => paths().any(is_path),
            Datum::Map(members) => {
                paths().any(above)
                    && members.iter().all(|(name, node)| {
                        let deeper: Vec<&str> = prefix.iter().copied().chain([name.as_str()]).collect();
                        told(&deeper, node, source)
                    })
            }
            _ => false,
        }
    }
    told(&[name], node, source)
}

/// A value as its column holds it.
fn cell(column: &Column, found: Option<&Node>) -> Result<Option<Value>, String> {
    found.or(column.default.as_ref()).map(|node| value(column, node)).transpose()
}

/// What a column that is the same in all rows holds; `None` if the mapping gives it what its form does not have.
pub fn constant(column: &Column) -> Option<Value> {
    cell(column, None).ok().flatten()
}

fn value(column: &Column, node: &Node) -> Result<Value, String> {
    match (column.form, &node.datum) {
        (Form::Json, _) => Ok(Value::Text(canonical_json(node).into_bytes())),
        (_, Datum::Null) => Ok(Value::Null),
        (Form::Plain | Form::Text, Datum::Text(value)) => Ok(Value::Text(value.as_bytes().to_vec())),
        // The name of an entry is a text, whatever it stands for.
        (Form::Integer, Datum::Text(value)) if column.from == From::Key => {
            let number = value.parse::<i64>().ok().filter(|number| number.to_string() == *value);
            number.map(Value::Integer).ok_or_else(|| format!("{value:?} where a whole number is expected"))
        }
        (Form::Plain | Form::Integer, Datum::Integer(value)) => Ok(Value::Integer(*value)),
        (Form::Plain | Form::Real, Datum::Real(value)) => Ok(Value::Real(*value)),
        (Form::Real, Datum::Integer(value)) if is_integer(*value as f64, *value) => Ok(Value::Real(*value as f64)),
        (Form::Bool, Datum::Bool(value)) => Ok(Value::Integer(i64::from(*value))),
        (Form::Base64, Datum::Text(value)) => data_encoding::BASE64
            .decode(value.as_bytes())
            .map(Value::Blob)
            .map_err(|error| format!("it is no base64: {error}")),
        (Form::Plain, _) => {
            let form = if matches!(node.datum, Datum::Bool(_)) { "bool" } else { "json" };
            Err(format!("{}, which no plain column holds; say as = {form:?}", node.kind()))
        }
        (form, _) => Err(format!("{} where {} is expected", node.kind(), form.expected())),
    }
}

impl Form {
    /// What values of this form are in a document.
    fn expected(self) -> &'static str {
        match self {
            Form::Plain | Form::Json => "a value",
            Form::Text => "a text",
            Form::Integer => "a whole number",
            Form::Real => "a number",
            Form::Bool => "true or false",
            Form::Base64 => "a text in base64",
        }
    }
}

/// A value with its members in the order of their names.
fn sorted(node: &Node) -> Node {
    let datum = match &node.datum {
        Datum::List(items) => Datum::List(items.iter().map(sorted).collect()),
        Datum::Map(members) => {
            let mut members: Vec<_> = members.iter().map(|(name, node)| (name.clone(), sorted(node))).collect();
            members.sort_by(|a, b| a.0.cmp(&b.0));
            Datum::Map(members)
        }
        other => other.clone(),
    };
    Node { line: node.line, datum }
}

/// A value as JSON text without spaces, members in their order.
pub fn canonical_json(node: &Node) -> String {
    // A value of JSON, its floats finite: nothing of it can fail.
    serde_json::to_string(node).unwrap_or_default()
}

/// A place in a document, as text.
pub(crate) fn path_text(path: &[String]) -> String {
    path.iter().fold("$".to_owned(), |text, part| text + part)
}
