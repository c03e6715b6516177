//! The keys and values of a file, as JSON.

use std::io::{Read, Seek};

use serde_json::{Map, Value, json};

use super::cursor::{Cursor, Place, shortened};
use super::error::GgufError;

/// The most that the kept metadata of a file may take, as JSON text or in memory, whichever is more.
pub const METADATA_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Longer arrays, such as vocabularies, are not kept but summarised.
pub const ARRAY_ITEMS_KEPT_MAX: u64 = 1024;
/// The most levels of arrays in arrays. Real files have one.
pub const ARRAY_DEPTH_MAX: u32 = 4;
/// The most strings and nested arrays within all arrays of a file: five times what the largest vocabularies and their
/// merges need, and a fraction of a second of work.
pub const WALKED_ITEMS_MAX: u64 = 4 * 1024 * 1024;

/// The member of a summary that holds the number of items.
pub(super) const SUMMARY_LENGTH: &str = "length";

const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u64 = 32;
const ALIGNMENT_STEP: u32 = 8;

/// What a value costs besides the text of a string: its place in memory, or the digits of the longest number.
const VALUE_BYTES: u64 = if size_of::<Value>() > 32 { size_of::<Value>() as u64 } else { 32 };
/// What a key costs besides its text and value: its share of a map that is half empty.
const KEY_BYTES: u64 = 128;
/// What a summary costs: a small map.
const SUMMARY_BYTES: u64 = 768;
/// What precedes the items of an array.
const ARRAY_BYTES_MIN: u64 = 4 + 8;
/// The length of a string.
const STRING_BYTES_MIN: u64 = 8;

pub(super) struct Metadata {
    pub(super) values: Map<String, Value>,
    /// A multiple of 8 above 0.
    pub(super) alignment: u64,
}

pub(super) fn read<R: Read + Seek>(cursor: &mut Cursor<'_, R>, keys: u64) -> Result<Metadata, GgufError> {
    let mut values = Map::new();
    let mut alignment = ALIGNMENT_DEFAULT;
    let mut reader = Reader { cursor, bytes_left: METADATA_BYTES_MAX, walked_left: WALKED_ITEMS_MAX };
    for number in 0..keys {
        let offset = reader.cursor.position();
        let key = reader.cursor.name(Place::Key(number))?;
        if values.contains_key(&key) {
            return Err(GgufError::DuplicateKey { key: shortened(&key), offset });
        }
        let place = Place::Value(&key);
        reader.charge(KEY_BYTES + json_bytes(key.as_bytes()), offset, place)?;
        let kind = reader.kind(place)?;
        let offset = reader.cursor.position();
        let value = if key == ALIGNMENT_KEY {
            let found = reader.alignment(kind)?;
            alignment = u64::from(found);
            Value::from(found)
        } else {
            reader.charge(VALUE_BYTES, offset, place)?;
            reader.value(kind, 1, place)?
        };
        values.insert(key, value);
    }
    Ok(Metadata { values, alignment })
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_number(number: u32) -> Option<Kind> {
        Some(match number {
            0 => Kind::U8,
            1 => Kind::I8,
            2 => Kind::U16,
            3 => Kind::I16,
            4 => Kind::U32,
            5 => Kind::I32,
            6 => Kind::F32,
            7 => Kind::Bool,
            8 => Kind::String,
            9 => Kind::Array,
            10 => Kind::U64,
            11 => Kind::I64,
            12 => Kind::F64,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Kind::U8 => "uint8",
            Kind::I8 => "int8",
            Kind::U16 => "uint16",
            Kind::I16 => "int16",
            Kind::U32 => "uint32",
            Kind::I32 => "int32",
            Kind::F32 => "float32",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::U64 => "uint64",
            Kind::I64 => "int64",
            Kind::F64 => "float64",
        }
    }

    /// The fewest bytes a value takes, and all of them unless it [is walked](Kind::is_walked).
    fn bytes_min(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::String => STRING_BYTES_MIN,
            Kind::Array => ARRAY_BYTES_MIN,
        }
    }

    /// Whether the end of a value is found only by looking at it.
    fn is_walked(self) -> bool {
        matches!(self, Kind::String | Kind::Array)
    }
}

struct Reader<'c, 'a, R> {
    cursor: &'c mut Cursor<'a, R>,
    /// What is left of [`METADATA_BYTES_MAX`].
    bytes_left: u64,
    /// What is left of [`WALKED_ITEMS_MAX`].
    walked_left: u64,
}

impl<R: Read + Seek> Reader<'_, '_, R> {
    /// Takes from the budget before memory is used.
    fn charge(&mut self, bytes: u64, offset: u64, place: Place<'_>) -> Result<(), GgufError> {
        let left = self.bytes_left.checked_sub(bytes);
        let too_large = || GgufError::MetadataTooLarge { place: place.to_string(), offset, max: METADATA_BYTES_MAX };
        self.bytes_left = left.ok_or_else(too_large)?;
        Ok(())
    }

    fn kind(&mut self, place: Place<'_>) -> Result<Kind, GgufError> {
        let offset = self.cursor.position();
        let found = self.cursor.u32(place)?;
        Kind::from_number(found).ok_or_else(|| GgufError::ValueType { place: place.to_string(), offset, found })
    }

    fn alignment(&mut self, kind: Kind) -> Result<u32, GgufError> {
        let offset = self.cursor.position();
        if kind != Kind::U32 {
            return Err(GgufError::AlignmentType { offset, found: kind.name() });
        }
        let found = self.cursor.u32(Place::Value(ALIGNMENT_KEY))?;
        if found == 0 || !found.is_multiple_of(ALIGNMENT_STEP) {
            return Err(GgufError::Alignment { offset, found });
        }
        Ok(found)
    }

    /// A value at this depth of arrays; its [`VALUE_BYTES`] are charged already.
    fn value(&mut self, kind: Kind, depth: u32, place: Place<'_>) -> Result<Value, GgufError> {
        Ok(match kind {
            Kind::U8 => Value::from(u8::from_le_bytes(self.cursor.array(place)?)),
            Kind::I8 => Value::from(i8::from_le_bytes(self.cursor.array(place)?)),
            Kind::U16 => Value::from(u16::from_le_bytes(self.cursor.array(place)?)),
            Kind::I16 => Value::from(i16::from_le_bytes(self.cursor.array(place)?)),
            Kind::U32 => Value::from(u32::from_le_bytes(self.cursor.array(place)?)),
            Kind::I32 => Value::from(i32::from_le_bytes(self.cursor.array(place)?)),
            Kind::F32 => float(widened(f32::from_le_bytes(self.cursor.array(place)?))),
            Kind::Bool => self.truth(place)?,
            Kind::String => self.string(place)?,
            Kind::Array => self.array(depth, place)?,
            Kind::U64 => Value::from(u64::from_le_bytes(self.cursor.array(place)?)),
            Kind::I64 => Value::from(i64::from_le_bytes(self.cursor.array(place)?)),
            Kind::F64 => float(f64::from_le_bytes(self.cursor.array(place)?)),
        })
    }

    fn truth(&mut self, place: Place<'_>) -> Result<Value, GgufError> {
        let offset = self.cursor.position();
        match self.cursor.array(place)? {
            [0] => Ok(Value::Bool(false)),
            [1] => Ok(Value::Bool(true)),
            [found] => Err(GgufError::Bool { place: place.to_string(), offset, found }),
        }
    }

    fn string(&mut self, place: Place<'_>) -> Result<Value, GgufError> {
        let offset = self.cursor.position();
        let length = self.cursor.u64(place)?;
        self.cursor.require(length, place)?;
        // As JSON it takes at least as much, so a longer one need not be read.
        if length > self.bytes_left {
            return Err(GgufError::MetadataTooLarge { place: place.to_string(), offset, max: METADATA_BYTES_MAX });
        }
        let bytes = self.cursor.bytes(length, place)?;
        let charged = json_bytes(&bytes);
        self.charge(charged, offset, place)?;
        Ok(Value::String(match String::from_utf8(bytes) {
            Ok(mut text) => {
                text.shrink_to_fit();
                text
            }
            Err(error) => replaced(error.as_bytes(), charged as usize),
        }))
    }

    fn array(&mut self, depth: u32, place: Place<'_>) -> Result<Value, GgufError> {
        let offset = self.cursor.position();
        let (kind, length) = self.array_head(depth, place)?;
        if length > ARRAY_ITEMS_KEPT_MAX {
            self.charge(SUMMARY_BYTES, offset, place)?;
            self.skip_items(kind, length, depth, place)?;
            return Ok(json!({ "array": kind.name(), SUMMARY_LENGTH: length }));
        }
        self.charge(length * VALUE_BYTES, offset, place)?;
        let mut items = Vec::with_capacity(length as usize);
        for _ in 0..length {
            items.push(self.value(kind, depth + 1, place)?);
        }
        Ok(Value::Array(items))
    }

    /// The type and the number of an array's items; the file has room for so many.
    fn array_head(&mut self, depth: u32, place: Place<'_>) -> Result<(Kind, u64), GgufError> {
        if depth > ARRAY_DEPTH_MAX {
            let offset = self.cursor.position();
            return Err(GgufError::TooDeep { place: place.to_string(), offset, max: ARRAY_DEPTH_MAX });
        }
        let kind = self.kind(place)?;
        let offset = self.cursor.position();
        let length = self.cursor.u64(place)?;
        self.cursor.require(length.saturating_mul(kind.bytes_min()), place)?;
        if kind.is_walked() {
            let max = WALKED_ITEMS_MAX;
            let claimed = (max - self.walked_left).saturating_add(length);
            let too_many = || GgufError::TooMany { what: "strings and arrays in arrays", offset, claimed, max };
            self.walked_left = self.walked_left.checked_sub(length).ok_or_else(too_many)?;
        }
        Ok((kind, length))
    }

    /// Moves past items that [`array_head`](Reader::array_head) announced.
    fn skip_items(&mut self, kind: Kind, length: u64, depth: u32, place: Place<'_>) -> Result<(), GgufError> {
        if !kind.is_walked() {
            return self.cursor.skip(length.saturating_mul(kind.bytes_min()), place);
        }
        for _ in 0..length {
            if kind == Kind::Array {
                let (kind, length) = self.array_head(depth + 1, place)?;
                self.skip_items(kind, length, depth + 1, place)?;
            } else {
                let length = self.cursor.u64(place)?;
                self.cursor.skip(length, place)?;
            }
        }
        Ok(())
    }
}

/// The number that is written with the digits of this one: 0.00001, not 0.000009999999747378752.
fn widened(value: f32) -> f64 {
    match value.to_string().parse::<f64>() {
        Ok(same) if same as f32 == value => same,
        _ => f64::from(value),
    }
}

fn float(value: f64) -> Value {
    match serde_json::Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None => Value::from(value.to_string()),
    }
}

/// The text with U+FFFD for what is no UTF-8. The memory for it is what was charged.
fn replaced(bytes: &[u8], charged: usize) -> String {
    let mut text = String::with_capacity(charged);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

/// The bytes that a string takes within the quotes of JSON, with U+FFFD for what is no UTF-8.
fn json_bytes(bytes: &[u8]) -> u64 {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 2,
        0..0x20 => 6,
        _ => 1,
    };
    let chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let replaced = if chunk.invalid().is_empty() { 0 } else { char::REPLACEMENT_CHARACTER.len_utf8() as u64 };
        replaced + chunk.valid().bytes().map(escaped).sum::<u64>()
    };
    bytes.utf8_chunks().map(chunk).sum()
}
