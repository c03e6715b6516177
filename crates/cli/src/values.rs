//! SQLite values as they are typed and shown.

use isle::{Row, Value};
use serde_json::Map;

/// Reads a value as it is typed: `7` and `0.5` are numbers, `NULL` is null, `x'00ff'` are bytes, `'7'` is a text that would
/// otherwise be something else, and all the rest is text.
pub(crate) fn parse(text: &str) -> Value {
    if text == "NULL" || text == "null" {
        return Value::Null;
    }
    if let Some(number) = text.parse::<i64>().ok().filter(|number| number.to_string() == text) {
        return Value::Integer(number);
    }
    let digits = text.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    let whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if let (true, false, Ok(number)) = (digits, whole, text.parse::<f64>()) {
        return Value::Real(number);
    }
    let quoted = |text: &str| {
        let inner = text.strip_prefix('\'')?.strip_suffix('\'')?;
        Some(inner.replace("''", "'"))
    };
    let hex = text.strip_prefix(['x', 'X']).and_then(quoted).and_then(|digits| from_hex(&digits));
    match (hex, quoted(text)) {
        (Some(bytes), _) => Value::Blob(bytes),
        (None, Some(inner)) if text.len() > 1 => Value::Text(inner),
        _ => Value::Text(text.to_owned()),
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// Two hexadecimal digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The value in JSON.
pub(crate) fn to_json(value: &Value) -> serde_json::Value {
    value.to_json()
}

/// Names that are all different: the second `id` becomes `id_2`.
pub(crate) fn distinct(columns: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for column in columns {
        let mut name = column.clone();
        let mut n = 2;
        while names.contains(&name) {
            name = format!("{column}_{n}");
            n += 1;
        }
        names.push(name);
    }
    names
}

/// A row as an object.
pub(crate) fn row_to_json(names: &[String], row: &Row) -> serde_json::Value {
    let fields = names.iter().zip(row.values()).map(|(name, value)| (name.clone(), to_json(value)));
    serde_json::Value::Object(fields.collect::<Map<_, _>>())
}

/// The value for people inside a sentence: text in quotes, shortened.
pub(crate) fn quote(value: &Value) -> String {
    const CHARS_MAX: usize = 48;
    let short = |text: String| match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    };
    match value {
        Value::Text(text) => short(format!("{text:?}")),
        other => short(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_typed() {
        let cases = [
            ("7", Value::Integer(7)),
            ("-3", Value::Integer(-3)),
            ("007", Value::Text("007".into())),
            ("0.5", Value::Real(0.5)),
            ("1e3", Value::Real(1000.0)),
            ("2026-11-20", Value::Text("2026-11-20".into())),
            ("inf", Value::Text("inf".into())),
            ("NULL", Value::Null),
            ("'NULL'", Value::Text("NULL".into())),
            ("'", Value::Text("'".into())),
            ("x'00fF'", Value::Blob(vec![0, 255])),
            ("x'0'", Value::Text("x'0'".into())),
            ("", Value::Text(String::new())),
            ("it's", Value::Text("it's".into())),
        ];
        for (text, value) in cases {
            assert_eq!(parse(text), value, "{text}");
        }
    }

    #[test]
    fn columns_of_one_name_are_kept_apart() {
        let names = ["id", "id", "name", "id"].map(String::from);
        assert_eq!(distinct(&names), ["id", "id_2", "name", "id_3"]);
    }
}
