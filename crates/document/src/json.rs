//! JSON values as documents.

use std::collections::HashMap;

use automerge::transaction::Transactable;
use automerge::{AutoCommit, ChangeHash, ObjId, ObjType, Prop, ROOT, ReadDoc, ScalarValue, Value};
use imara_diff::{Algorithm, Diff, InternedInput};
use serde_json::{Map, Number, Value as Json};

use crate::{DocumentError, Lost, VALUE, refused};

/// How deep values nest at most. What a peer nests deeper shows as null.
const DEPTH_MAX: usize = 100;

/// The object or array that a text is; `None` for anything that would not come back as it is.
pub(crate) fn parse(text: &str) -> Option<Json> {
    let value: Json = serde_json::from_str(text).ok()?;
    let container = matches!(value, Json::Object(_) | Json::Array(_));
    (container && depth(&value) <= DEPTH_MAX && !has_large_integers(text)).then_some(value)
}

fn depth(value: &Json) -> usize {
    match value {
        Json::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Json::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Whether an integer in it takes more than 64 bits: read as a double it would lose digits.
fn has_large_integers(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[at..];
        if let Some(string) = rest.strip_prefix('"') {
            let mut escaped = false;
            let end = string.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = end.map_or("", |end| &string[end + 1..]);
            continue;
        }
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        rest = tail;
        let whole = !number.contains(['.', 'e', 'E']);
        if whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
            return true;
        }
    }
    false
}

/// The value of a document; that of one whose value somebody took away is null.
pub(crate) fn shown(doc: &AutoCommit) -> String {
    current(doc).to_string()
}

fn current(doc: &AutoCommit) -> Json {
    as_of(doc, None)
}

/// The value of a document as of some of its changes.
fn as_of(doc: &AutoCommit, at: Option<&[ChangeHash]>) -> Json {
    match get(doc, &ROOT, VALUE, at) {
        Some((value, object)) => read(doc, &value, &object, 0, at),
        None => Json::Null,
    }
}

fn get<'a>(doc: &'a AutoCommit, object: &ObjId, name: &str, at: Option<&[ChangeHash]>) -> Option<(Value<'a>, ObjId)> {
    match at {
        Some(at) => doc.get_at(object, name, at).ok().flatten(),
        None => doc.get(object, name).ok().flatten(),
    }
}

/// What of two sides, which began from `base`, does not show in the whole document.
pub(crate) fn lost(doc: &AutoCommit, base: &[ChangeHash], theirs: &[ChangeHash], ours: &[ChangeHash]) -> Lost {
    let (base, merged) = (leaves(&as_of(doc, Some(base))), leaves(&current(doc)));
    let side = |at: &[ChangeHash]| {
        let value = as_of(doc, Some(at));
        let missing = leaves(&value).into_iter().any(|(leaf, count)| {
            let in_base = base.get(&leaf).copied().unwrap_or(0);
            count > in_base && merged.get(&leaf).copied().unwrap_or(0) < count
        });
        missing.then(|| value.to_string())
    };
    Lost { theirs: side(theirs), ours: side(ours) }
}

/// How often each scalar, or empty container, stands at a path; places in arrays are all one, for they move.
fn leaves(value: &Json) -> HashMap<String, usize> {
    fn walk(value: &Json, path: &mut String, found: &mut HashMap<String, usize>) {
        let length = path.len();
        match value {
            Json::Object(members) if !members.is_empty() => {
                for (name, member) in members {
                    path.push('.');
                    path.push_str(&Json::String(name.clone()).to_string());
                    walk(member, path, found);
                    path.truncate(length);
                }
            }
            Json::Array(items) if !items.is_empty() => {
                path.push_str("[]");
                items.iter().for_each(|item| walk(item, path, found));
                path.truncate(length);
            }
            leaf => *found.entry(format!("{path}={leaf}")).or_default() += 1,
        }
    }
    let mut found = HashMap::new();
    walk(value, &mut String::new(), &mut found);
    found
}

fn read(doc: &AutoCommit, value: &Value<'_>, object: &ObjId, depth: usize, at: Option<&[ChangeHash]>) -> Json {
    let number = |float: f64| Number::from_f64(float).map_or(Json::Null, Json::Number);
    match value {
        Value::Object(_) if depth >= DEPTH_MAX => Json::Null,
        Value::Object(ObjType::Text) => {
            let text = at.map_or_else(|| doc.text(object), |at| doc.text_at(object, at));
            Json::String(text.unwrap_or_default())
        }
        Value::Object(ObjType::List) => {
            let items = at.map_or_else(|| doc.values(object), |at| doc.values_at(object, at));
            Json::Array(items.map(|(value, object)| read(doc, &value, &object, depth + 1, at)).collect())
        }
        Value::Object(_) => {
            let names: Vec<String> = at.map_or_else(|| doc.keys(object), |at| doc.keys_at(object, at)).collect();
            let member = |name: String| {
                let (value, inner) = get(doc, object, &name, at)?;
                let value = read(doc, &value, &inner, depth + 1, at);
                Some((name, value))
            };
            Json::Object(names.into_iter().filter_map(member).collect::<Map<_, _>>())
        }
        Value::Scalar(scalar) => match scalar.as_ref() {
            ScalarValue::Str(text) => Json::String(text.to_string()),
            ScalarValue::Int(number) | ScalarValue::Timestamp(number) => Json::Number((*number).into()),
            ScalarValue::Uint(number) => Json::Number((*number).into()),
            ScalarValue::F64(float) => number(*float),
            ScalarValue::Boolean(boolean) => Json::Bool(*boolean),
            ScalarValue::Counter(counter) => Json::Number(i64::from(counter).into()),
            _ => Json::Null,
        },
    }
}

/// Changes what differs. The new value has to fit.
pub(crate) fn edit(doc: &mut AutoCommit, new: &str) -> Result<(), DocumentError> {
    let new = parse(new).ok_or(DocumentError::Malformed { what: "JSON value" })?;
    let old = current(doc);
    reconcile(doc, &ROOT, VALUE.into(), &old, &new)
}

/// Writes a value where another stands, or inserts it into a list.
pub(crate) fn put(
    doc: &mut AutoCommit,
    parent: &ObjId,
    at: Prop,
    value: &Json,
    insert: bool,
) -> Result<(), DocumentError> {
    let scalar = match value {
        Json::Null => ScalarValue::Null,
        Json::Bool(boolean) => ScalarValue::Boolean(*boolean),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => ScalarValue::Int(number),
            (_, Some(number)) => ScalarValue::Uint(number),
            _ => ScalarValue::F64(number.as_f64().unwrap_or(0.0)),
        },
        Json::String(text) => ScalarValue::Str(text.as_str().into()),
        Json::Array(items) => {
            let list = container(doc, parent, at, ObjType::List, insert)?;
            for (n, item) in items.iter().enumerate() {
                put(doc, &list, n.into(), item, true)?;
            }
            return Ok(());
        }
        Json::Object(members) => {
            let map = container(doc, parent, at, ObjType::Map, insert)?;
            for (name, member) in members {
                put(doc, &map, name.as_str().into(), member, false)?;
            }
            return Ok(());
        }
    };
    match at {
        Prop::Seq(n) if insert => doc.insert(parent, n, scalar),
        at => doc.put(parent, at, scalar),
    }
    .map_err(refused)
}

fn container(
    doc: &mut AutoCommit,
    parent: &ObjId,
    at: Prop,
    kind: ObjType,
    insert: bool,
) -> Result<ObjId, DocumentError> {
    match at {
        Prop::Seq(n) if insert => doc.insert_object(parent, n, kind),
        at => doc.put_object(parent, at, kind),
    }
    .map_err(refused)
}

/// Changes the value at a place into another.
fn reconcile(doc: &mut AutoCommit, parent: &ObjId, at: Prop, old: &Json, new: &Json) -> Result<(), DocumentError> {
    if old == new {
        return Ok(());
    }
    let inner = match (old, new) {
        (Json::Object(_), Json::Object(_)) | (Json::Array(_), Json::Array(_)) => {
            doc.get(parent, at.clone()).map_err(refused)?.filter(|(value, _)| value.is_object())
        }
        _ => None,
    };
    match (inner, old, new) {
        (Some((_, map)), Json::Object(old), Json::Object(new)) => {
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                doc.delete(&map, name.as_str()).map_err(refused)?;
            }
            for (name, value) in new {
                match old.get(name) {
                    Some(known) => reconcile(doc, &map, name.as_str().into(), known, value)?,
                    None => put(doc, &map, name.as_str().into(), value, false)?,
                }
            }
            Ok(())
        }
        (Some((_, list)), Json::Array(old), Json::Array(new)) => reconcile_items(doc, &list, old, new),
        _ => put(doc, parent, at, new, false),
    }
}

fn reconcile_items(doc: &mut AutoCommit, list: &ObjId, old: &[Json], new: &[Json]) -> Result<(), DocumentError> {
    let mut diff = InternedInput::default();
    diff.update_before(old.iter().map(Json::to_string));
    diff.update_after(new.iter().map(Json::to_string));
    let hunks: Vec<_> = Diff::compute(Algorithm::Histogram, &diff).hunks().collect();
    // From the end, so that earlier places stay what they are.
    for hunk in hunks.into_iter().rev() {
        let from = hunk.before.start as usize;
        let gone = &old[from..hunk.before.end as usize];
        let came = &new[hunk.after.start as usize..hunk.after.end as usize];
        let kept = gone.len().min(came.len());
        for n in (kept..gone.len()).rev() {
            doc.delete(list, from + n).map_err(refused)?;
        }
        for (n, item) in came.iter().enumerate().skip(kept) {
            put(doc, list, (from + n).into(), item, true)?;
        }
        for (n, (old, new)) in gone.iter().zip(came).enumerate() {
            reconcile(doc, list, (from + n).into(), old, new)?;
        }
    }
    Ok(())
}
