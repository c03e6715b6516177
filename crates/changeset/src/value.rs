//! SQLite values, exact to the byte and the type.

use std::cmp::Ordering;

/// A value that is borrowed from a block or a row.
#[derive(Debug, Clone, Copy)]
pub enum ValueRef<'a> {
    /// SQL NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float, bits and all.
    Real(f64),
    /// Text in UTF-8, though SQLite does not promise that it is valid.
    Text(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
}

/// A value of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// A 64-bit float.
    Real(f64),
    /// Text, most often UTF-8.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Eq for Value {}

impl Value {
    /// Borrows the value.
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Value::Null => ValueRef::Null,
            Value::Integer(v) => ValueRef::Integer(*v),
            Value::Real(v) => ValueRef::Real(*v),
            Value::Text(v) => ValueRef::Text(v),
            Value::Blob(v) => ValueRef::Blob(v),
        }
    }
}

impl<'a> ValueRef<'a> {
    /// Copies the value.
    pub fn to_value(self) -> Value {
        match self {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(v) => Value::Integer(v),
            ValueRef::Real(v) => Value::Real(v),
            ValueRef::Text(v) => Value::Text(v.to_vec()),
            ValueRef::Blob(v) => Value::Blob(v.to_vec()),
        }
    }

    /// The type's code on the wire.
    pub(crate) fn tag(self) -> u8 {
        match self {
            ValueRef::Null => 0,
            ValueRef::Integer(_) => 1,
            ValueRef::Real(_) => 2,
            ValueRef::Text(_) => 3,
            ValueRef::Blob(_) => 4,
        }
    }

    /// About how many bytes the value takes on the wire, before compression.
    pub fn wire_len(self) -> usize {
        match self {
            ValueRef::Null => 0,
            ValueRef::Integer(_) | ValueRef::Real(_) => 8,
            ValueRef::Text(v) | ValueRef::Blob(v) => v.len() + 2,
        }
    }

    /// A total order: by type (null, numbers, text, blob), numbers by value and an integer before an equal real.
    /// Canonical keys sort by it just as SQLite sorts them.
    pub fn order(self, other: ValueRef<'_>) -> Ordering {
        use ValueRef::{Blob, Integer, Null, Real, Text};
        match (self, other) {
            (Null, Null) => Ordering::Equal,
            (Integer(a), Integer(b)) => a.cmp(&b),
            (Real(a), Real(b)) => a.total_cmp(&b),
            (Integer(a), Real(b)) => integer_to_real(a, b).then(Ordering::Less),
            (Real(a), Integer(b)) => integer_to_real(b, a).reverse().then(Ordering::Greater),
            (Text(a), Text(b)) | (Blob(a), Blob(b)) => a.cmp(b),
            _ => self.class().cmp(&other.class()),
        }
    }

    fn class(self) -> u8 {
        match self {
            ValueRef::Null => 0,
            ValueRef::Integer(_) | ValueRef::Real(_) => 1,
            ValueRef::Text(_) => 2,
            ValueRef::Blob(_) => 3,
        }
    }
}

/// Same type and same bytes.
impl PartialEq for ValueRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        use ValueRef::{Blob, Integer, Null, Real, Text};
        match (*self, *other) {
            (Null, Null) => true,
            (Integer(a), Integer(b)) => a == b,
            (Real(a), Real(b)) => a.to_bits() == b.to_bits(),
            (Text(a), Text(b)) | (Blob(a), Blob(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for ValueRef<'_> {}

/// Compares an integer with a real exactly, where a cast of either would round.
fn integer_to_real(integer: i64, real: f64) -> Ordering {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    if real.is_nan() || real >= TWO_63 {
        return Ordering::Less;
    }
    if real < -TWO_63 {
        return Ordering::Greater;
    }
    let whole = real.trunc();
    integer.cmp(&(whole as i64)).then_with(|| {
        let rest = real - whole;
        if rest > 0.0 {
            Ordering::Less
        } else if rest < 0.0 {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_reals_compare_exactly_where_a_cast_would_round() {
        let big = (1i64 << 53) + 1;
        assert_eq!(integer_to_real(big, (1i64 << 53) as f64), Ordering::Greater);
        assert_eq!(integer_to_real(i64::MAX, i64::MAX as f64), Ordering::Less);
        assert_eq!(integer_to_real(-1, -1.5), Ordering::Greater);
        assert_eq!(integer_to_real(1, 1.5), Ordering::Less);
        assert_eq!(integer_to_real(2, 2.0), Ordering::Equal);
    }

    #[test]
    fn equality_is_exact_to_the_type_and_the_bits() {
        assert_ne!(ValueRef::Integer(1), ValueRef::Real(1.0));
        assert_ne!(ValueRef::Real(0.0), ValueRef::Real(-0.0));
        assert_ne!(ValueRef::Text(b"a"), ValueRef::Blob(b"a"));
        assert_eq!(ValueRef::Real(f64::NAN), ValueRef::Real(f64::NAN));
    }
}
