//! Row identity: the canonical form of a key.
//!
//! Two keys that SQLite's PRIMARY KEY takes for equal have one canonical form: NOCASE text in lower case (ASCII), RTRIM text
//! without spaces at its end, a number as an integer where an integer equals it. The exact bytes of a key are a
//! cell of the row ([`isle_schema::ColumnId::KEY`]), sent with every insert whose key has more than one form.

use isle_schema::{Affinity, Collation, KeyColumn};

use crate::wire::{DecodeError, Reader, put_varint};
use crate::{Value, ValueRef};

/// A canonical key, in key-column order.
pub type Key = Vec<Value>;

/// The canonical form of one value of a key column; `None` where it is the value itself.
pub fn canonical_value(value: ValueRef<'_>, column: &KeyColumn) -> Option<Value> {
    match value {
        ValueRef::Real(real) => integer_of(real).map(Value::Integer),
        ValueRef::Text(text) => match column.collation {
            Collation::Binary => None,
            Collation::NoCase => {
                // SQLite's NOCASE stops at the first NUL and then compares lengths.
                let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
                let folded =
                    text[..end].to_ascii_lowercase().into_iter().chain(std::iter::repeat_n(0, text.len() - end));
                let folded: Vec<u8> = folded.collect();
                (folded != text).then_some(Value::Text(folded))
            }
            Collation::RTrim => {
                let trimmed = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                (trimmed < text.len()).then(|| Value::Text(text[..trimmed].to_vec()))
            }
        },
        _ => None,
    }
}

/// Whether other exact keys share this value's canonical form. Only then does a row carry its exact key as a cell.
pub fn has_forms(value: ValueRef<'_>, column: &KeyColumn) -> bool {
    match value {
        ValueRef::Text(_) => column.collation != Collation::Binary,
        // Every other affinity stores a number that equals an integer in just one way.
        ValueRef::Integer(_) => column.affinity == Affinity::Blob,
        ValueRef::Real(real) => column.affinity == Affinity::Blob && integer_of(real).is_some(),
        ValueRef::Null | ValueRef::Blob(_) => false,
    }
}

/// The integer that equals a real, if there is one (−0.0 equals 0).
fn integer_of(real: f64) -> Option<i64> {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    let fits = real.trunc() == real && (-TWO_63..TWO_63).contains(&real);
    fits.then_some(real as i64)
}

/// The canonical form of a whole key and, if it has other exact forms, the exact key packed as one cell.
pub fn canonical_key(exact: &[ValueRef<'_>], columns: &[KeyColumn]) -> (Key, Option<Vec<u8>>) {
    let pairs = || exact.iter().zip(columns);
    let key = pairs().map(|(value, column)| canonical_value(*value, column).unwrap_or_else(|| value.to_value()));
    let packed = pairs().any(|(value, column)| has_forms(*value, column)).then(|| pack_key(exact));
    (key.collect(), packed)
}

/// Packs exact key values into the bytes of one blob.
pub fn pack_key(values: &[ValueRef<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        out.push(value.tag());
        match *value {
            ValueRef::Null => {}
            ValueRef::Integer(v) => out.extend(v.to_le_bytes()),
            ValueRef::Real(v) => out.extend(v.to_bits().to_le_bytes()),
            ValueRef::Text(v) | ValueRef::Blob(v) => {
                put_varint(&mut out, v.len() as u64);
                out.extend(v);
            }
        }
    }
    out
}

/// Reads what [`pack_key`] wrote.
///
/// # Errors
/// [`DecodeError`] when the bytes are not `count` packed values.
pub fn unpack_key(bytes: &[u8], count: usize) -> Result<Key, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut key = Vec::new();
    for _ in 0..count {
        key.push(match reader.byte()? {
            0 => Value::Null,
            1 => Value::Integer(i64::from_le_bytes(reader.array()?)),
            2 => Value::Real(f64::from_bits(u64::from_le_bytes(reader.array()?))),
            3 => Value::Text(reader.prefixed()?.to_vec()),
            4 => Value::Blob(reader.prefixed()?.to_vec()),
            tag => return Err(DecodeError::Tag { what: "value type", tag }),
        });
    }
    reader.end("exact key")?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(affinity: Affinity, collation: Collation) -> KeyColumn {
        KeyColumn { name: "k".into(), affinity, collation }
    }

    #[test]
    fn what_a_primary_key_takes_for_equal_has_one_canonical_form() {
        let nocase = [column(Affinity::Text, Collation::NoCase)];
        let (key, exact) = canonical_key(&[ValueRef::Text("StraßE".as_bytes())], &nocase);
        assert_eq!(key, [Value::Text("straße".into())]);
        assert_eq!(unpack_key(&exact.expect("differs"), 1).expect("reads"), [Value::Text("StraßE".into())]);

        let rtrim = [column(Affinity::Text, Collation::RTrim)];
        assert_eq!(
            canonical_key(&[ValueRef::Text(b"a  ")], &rtrim).0,
            canonical_key(&[ValueRef::Text(b"a")], &rtrim).0
        );

        let any = [column(Affinity::Blob, Collation::Binary)];
        let (key, exact) = canonical_key(&[ValueRef::Real(-0.0)], &any);
        assert_eq!((key, exact.is_some()), (vec![Value::Integer(0)], true));
        let (key, exact) = canonical_key(&[ValueRef::Real(0.5)], &any);
        assert_eq!((key, exact), (vec![Value::Real(0.5)], None));
        assert!(has_forms(ValueRef::Integer(1), &any[0]));
    }

    #[test]
    fn a_key_with_one_form_has_no_exact_cell() {
        let real = [column(Affinity::Real, Collation::Binary)];
        assert_eq!(canonical_key(&[ValueRef::Real(3.0)], &real), (vec![Value::Integer(3)], None));
        let uuid = [column(Affinity::Blob, Collation::Binary)];
        assert_eq!(canonical_key(&[ValueRef::Blob(b"u")], &uuid).1, None);
    }
}
