//! Whether a column holds what a document says.

use isle_changeset::Value;

use crate::mapping::{Form, Format};
use crate::node::is_integer;

/// Whether two values of a column say the same: numbers by what they are, JSON by its values.
pub fn is_same(form: Form, a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Integer(a), Value::Real(b)) | (Value::Real(b), Value::Integer(a)) => is_integer(*b, *a),
        (Value::Text(x), Value::Text(y)) if form == Form::Json && x != y => {
            let parse = |text: &[u8]| crate::parse(Format::Json, text).ok();
            parse(x).zip(parse(y)).is_some_and(|(x, y)| x.is_same(&y))
        }
        _ => a == b,
    }
}
