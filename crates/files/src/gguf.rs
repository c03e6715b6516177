//! Reads what a GGUF file says about the model in it, without reading the model.
//!
//! The parser is pure: it touches nothing but the input it is given, and no input makes it panic. Every count, length
//! and offset in the file is a claim that is compared with the file's size before anything follows from it.
//!
//! # Bounds
//! - Memory: [`METADATA_BYTES_MAX`] for the metadata that is kept, and less than 64 MiB in all while a string of that
//!   size is read. Nothing is reserved for bytes that have not been read.
//! - Time: one pass over the header. Tensor data is never read. Arrays of numbers that are not kept are jumped over;
//!   items that have to be walked one by one (strings, nested arrays) are at most [`WALKED_ITEMS_MAX`].
//! - [`KEYS_MAX`] metadata keys, [`TENSORS_MAX`] tensors, [`NAME_BYTES_MAX`] bytes in a name, [`ARRAY_DEPTH_MAX`]
//!   levels of arrays.
//!
//! # Layout
//! All numbers are little-endian; a string is its length (8 bytes) and then its bytes.
//!
//! ```text
//!  0  4  "GGUF"
//!  4  4  version: 2 or 3
//!  8  8  number of tensors
//! 16  8  number of metadata keys
//! 24  …  per key: name, type (4), value; an array is the type of its items (4), their number (8), the items
//!  …  …  per tensor: name, number of dimensions (4), dimensions (8 each), type (4), offset within the data (8)
//!  …  …  zeros up to a multiple of the alignment, then the data
//! ```

use std::io::{Read, Seek};

use serde_json::{Map, Value};

mod cursor;
mod error;
mod metadata;
mod tensor_types;
mod tensors;

pub use error::GgufError;
pub use metadata::{ARRAY_DEPTH_MAX, ARRAY_ITEMS_KEPT_MAX, METADATA_BYTES_MAX, WALKED_ITEMS_MAX};

use cursor::{Cursor, Place};

/// The most metadata keys of a file. Real models have about fifty.
pub const KEYS_MAX: u64 = 65_536;
/// The most tensors of a file. The largest real models have some thousands.
pub const TENSORS_MAX: u64 = 1_048_576;
/// The most bytes in a key or in the name of a tensor.
pub const NAME_BYTES_MAX: u64 = 65_535;

const MAGIC: [u8; 4] = *b"GGUF";
/// An empty name, the type and one byte as value.
const KEY_BYTES_MIN: u64 = 8 + 4 + 1;
/// An empty name, no dimensions, the type and the offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 4 + 8;

/// What a GGUF file says about its model.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// The version of the format, 2 or 3.
    pub version: u32,
    /// The name that the model gives itself, unless it is blank.
    pub name: Option<String>,
    /// The architecture, such as `llama`.
    pub architecture: String,
    /// How the weights are stored, such as `Q4_K_M`: what the file declares, else the type that most parameters have.
    pub quantization: Option<String>,
    /// The longest context the model was made for, in tokens.
    pub context_length: Option<u64>,
    /// The number of tokens in the vocabulary.
    pub vocabulary: Option<u64>,
    /// The number of weights in all tensors of this file.
    pub parameters: u64,
    /// The number of tensors in this file.
    pub tensors: u64,
    /// All metadata as one JSON object.
    ///
    /// An array of more than [`ARRAY_ITEMS_KEPT_MAX`] items is kept as `{"array": type, "length": items}`; nothing
    /// else becomes an object. Numbers without a JSON form are the strings `NaN`, `inf` and `-inf`. Bytes of a value
    /// that are no UTF-8 are replaced by U+FFFD, since models with such tokens run all the same.
    pub metadata: Value,
}

/// Reads the header of a GGUF file of `size` bytes and checks that the file is long enough for its tensors.
///
/// Reading begins at the start of the input, wherever it stands. Only the header is read: the input may lack the
/// tensor data, which counts as present when `size` covers it.
///
/// # Errors
/// [`GgufError`] for a file that is no GGUF file of version 2 or 3, breaks a rule of the format or exceeds a bound of
/// this module, and when the input cannot be read.
pub fn read<R: Read + Seek>(input: &mut R, size: u64) -> Result<Gguf, GgufError> {
    if size < MAGIC.len() as u64 {
        return Err(GgufError::Foreign);
    }
    let mut cursor = Cursor::new(input, size)?;
    let header = read_header(&mut cursor)?;
    let metadata = metadata::read(&mut cursor, header.keys)?;
    let architecture = architecture(&metadata.values)?;
    let tensors = tensors::read(&mut cursor, header.tensors, metadata.alignment)?;
    let values = metadata.values;
    let declared = number(&values, "general.file_type").and_then(tensor_types::file_type);
    let vocabulary =
        number(&values, &format!("{architecture}.vocab_size")).or_else(|| length(&values, "tokenizer.ggml.tokens"));
    Ok(Gguf {
        version: header.version,
        name: text(&values, "general.name").map(str::to_owned),
        quantization: declared.or(tensors.main_type).map(str::to_owned),
        context_length: number(&values, &format!("{architecture}.context_length")),
        vocabulary,
        parameters: tensors.parameters,
        tensors: header.tensors,
        architecture,
        metadata: Value::Object(values),
    })
}

struct Header {
    version: u32,
    tensors: u64,
    keys: u64,
}

fn read_header<R: Read + Seek>(cursor: &mut Cursor<'_, R>) -> Result<Header, GgufError> {
    if cursor.array::<4>(Place::Header("magic"))? != MAGIC {
        return Err(GgufError::Foreign);
    }
    let version = match cursor.u32(Place::Header("version"))? {
        version @ (2 | 3) => version,
        1 => return Err(GgufError::Outdated),
        // The magic reads the same in both byte orders, so only the version tells them apart.
        found if found != 0 && found.trailing_zeros() >= 16 => {
            return Err(GgufError::BigEndian { version: found.swap_bytes() });
        }
        found => return Err(GgufError::Version { found }),
    };
    let tensors = count(cursor, "tensors", TENSORS_MAX)?;
    let keys = count(cursor, "metadata keys", KEYS_MAX)?;
    cursor.require(tensors * TENSOR_BYTES_MIN + keys * KEY_BYTES_MIN, Place::Header("list of keys and tensors"))?;
    Ok(Header { version, tensors, keys })
}

fn count<R: Read + Seek>(cursor: &mut Cursor<'_, R>, what: &'static str, max: u64) -> Result<u64, GgufError> {
    let offset = cursor.position();
    let claimed = cursor.u64(Place::Count(what))?;
    if claimed > max {
        return Err(GgufError::TooMany { what, offset, claimed, max });
    }
    Ok(claimed)
}

fn architecture(values: &Map<String, Value>) -> Result<String, GgufError> {
    text(values, "general.architecture").map(str::to_owned).ok_or(GgufError::NoArchitecture)
}

/// A string that is not blank.
fn text<'a>(values: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    values.get(key)?.as_str().filter(|text| !text.trim().is_empty())
}

fn number(values: &Map<String, Value>, key: &str) -> Option<u64> {
    values.get(key)?.as_u64()
}

/// The number of items of an array, kept or not.
fn length(values: &Map<String, Value>, key: &str) -> Option<u64> {
    match values.get(key)? {
        Value::Array(items) => Some(items.len() as u64),
        Value::Object(summary) => number(summary, metadata::SUMMARY_LENGTH),
        _ => None,
    }
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;
