//! Helpers for columns of the kinds `text` and `json`: a small change of a long value.
//!
//! Such columns merge by what changed in them, whoever writes them and however; these only spare an app from reading a value to write it. They look at
//! nothing but their arguments, and so may stand in triggers, views and indexes.

use isle::Value;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, OptionalExtension as _, Result};
use serde_json::value::RawValue;

use crate::functions::{Answer, whole};
use crate::replica::Failure;

/// Makes them known to a connection.
pub(crate) fn register(conn: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    conn.create_scalar_function("isle_text_splice", 4, flags, |context| answer(splice(context)))?;
    conn.create_scalar_function("isle_json_insert", 3, flags, |context| answer(insert(context)))
}

fn answer(result: std::result::Result<Value, Failure>) -> Result<Answer> {
    result.map(Answer).map_err(Error::UserFunctionError)
}

fn text_of<'a>(context: &'a Context<'_>, n: usize, what: &str) -> std::result::Result<Option<&'a str>, Failure> {
    match context.get_raw(n) {
        ValueRef::Null => Ok(None),
        ValueRef::Text(text) => {
            Ok(Some(std::str::from_utf8(text).map_err(|_| format!("{what} has to be valid UTF-8"))?))
        }
        _ => Err(format!("{what} has to be a text").into()),
    }
}

/// `isle_text_splice(text, at, delete, insert)`.
fn splice(context: &Context<'_>) -> std::result::Result<Value, Failure> {
    let Some(text) = text_of(context, 0, "isle_text_splice: the text")? else { return Ok(Value::Null) };
    let insert = text_of(context, 3, "isle_text_splice: what is inserted")?.unwrap_or_default();
    let number = |n: usize, what: &str| match context.get_raw(n) {
        ValueRef::Integer(value) => {
            usize::try_from(value).map_err(|_| format!("isle_text_splice: {what} has to be 0 or more, and is {value}"))
        }
        ValueRef::Real(value) => whole(value)
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| format!("isle_text_splice: {what} has to be an integer of 0 or more, and is {value}")),
        _ => Err(format!("isle_text_splice: {what} has to be an integer")),
    };
    let (at, delete) = (number(1, "the place")?, number(2, "the number of characters to delete")?);
    // Where the characters begin, and the end.
    let place = |n: usize| text.char_indices().map(|(place, _)| place).chain([text.len()]).nth(n);
    let beyond = || {
        format!(
            "isle_text_splice: {delete} characters from {at} on go beyond the end, which is at {}",
            text.chars().count()
        )
    };
    let end = at.checked_add(delete).and_then(place).ok_or_else(beyond)?;
    let begin = place(at).ok_or_else(beyond)?;
    Ok(Value::Text([&text[..begin], insert, &text[end..]].concat()))
}

/// `isle_json_insert(json, path, value)`. SQLite's own functions find the array and put it back, so that all else stays as it is written.
fn insert(context: &Context<'_>) -> std::result::Result<Value, Failure> {
    let Some(json) = text_of(context, 0, "isle_json_insert: the JSON")? else { return Ok(Value::Null) };
    let path =
        text_of(context, 1, "isle_json_insert: the path")?.ok_or("isle_json_insert: the path has to be a text")?;
    let bad = || format!("isle_json_insert: {path:?} names no place in an array: end it with [N], [#] or [#-N]");
    let (array, place) = path.strip_suffix(']').and_then(|path| path.rsplit_once('[')).ok_or_else(bad)?;
    // SAFETY: it is used within this call alone, and not closed.
    let conn = unsafe { context.get_connection()? };
    let found: Option<(Option<String>, Option<String>, String)> = conn
        .query_row(
            "SELECT json_type(?1, ?2), json_extract(?1, ?2), CASE WHEN ?4 THEN json(?3) ELSE json_quote(?3) END",
            rusqlite::params![json, array, Answer(inserted(context.get_raw(2))), is_json(context)],
            |row| Ok((row.get(0)?, row.get(1).unwrap_or_default(), row.get(2)?)),
        )
        .optional()?;
    let Some((Some(kind), Some(elements), value)) = found.filter(|(kind, ..)| kind.as_deref() == Some("array")) else {
        return Err(format!("isle_json_insert: there is no array at {array:?}").into());
    };
    drop(kind);
    let mut elements: Vec<&RawValue> = serde_json::from_str(&elements)?;
    let place = match place.strip_prefix('#') {
        Some("") => Some(elements.len()),
        Some(back) => back.strip_prefix('-').and_then(|n| n.parse().ok()).and_then(|n| elements.len().checked_sub(n)),
        None => place.parse().ok(),
    };
    let place = place.ok_or_else(bad)?;
    if place > elements.len() {
        return Err(format!("isle_json_insert: {path:?} is beyond the end, which is at {}", elements.len()).into());
    }
    let value: Box<RawValue> = RawValue::from_string(value)?;
    elements.insert(place, &value);
    let elements = serde_json::to_string(&elements)?;
    let put = "SELECT json_replace(?1, ?2, json(?3))";
    Ok(Value::Text(conn.query_row(put, rusqlite::params![json, array, elements], |row| row.get(0))?))
}

/// What is inserted; 5.0 is 5, for Node.js knows no other numbers.
fn inserted(value: ValueRef<'_>) -> Value {
    match crate::functions::value_of(value) {
        Value::Real(number) => whole(number).map_or(Value::Real(number), Value::Integer),
        other => other,
    }
}

/// Whether SQLite says that the value came out of one of its JSON functions.
fn is_json(context: &Context<'_>) -> bool {
    context.get_subtype(2) == u32::from(b'J')
}
