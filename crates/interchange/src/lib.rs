//! Rows of tables as JSON and YAML documents, by a mapping, both ways. Pure: bytes in, rows out, and back.
//!
//! # What it promises
//! * **Nothing is dropped silently.** A member of a document that no column takes is an error, unless the mapping names a column for the
//!   rest ([`Source::rest`]) or says that such members do not matter. So is a number that SQLite cannot hold, a name that comes twice in one object,
//!   a value of another type than its column is declared to hold.
//! * **There and back.** Rows that a document was read as are written as a document that is read as the same rows; members keep their values
//!   and types, and a `null` that was written out stays one where there is a column for the rest. What may differ is layout, the order of rows (theirs is that of
//!   their keys, or of the columns that the mapping names; so `$index` counts anew once rows are gone), whether a member is absent or `null` where there is no column for the rest, and how a number is spelled (`1e2` and `100.0`).
//! * **The same rows, the same bytes**, on every device.
//! * **Bounded.** Documents up to [`DOCUMENT_MAX`] bytes and [`DEPTH_MAX`] levels ([`YAML_DEPTH_MAX`] in YAML); aliases of YAML are limited in what they stand for, so that a document of a
//!   kilobyte cannot become gigabytes.
//! * **Errors tell where**: the line, and the path in the document, as `$.jobs[3].enabled`.
//!
//! # The mapping
//! A TOML file with one `[[source]]` for each document and table:
//!
//! ```toml
//! [[source]]
//! file = "campaigns.yaml"        # below the folder that is imported; .json, .yaml and .yml say the format
//! table = "jobs"
//! at = "jobs"                    # the member that holds the rows; a list of names goes deeper; none: the document itself
//! rows = "items"                 # a list of objects; "entries": an object whose members are the rows; "record": one row;
//!                                # ["entries", "items"]: an object of lists, an element a row
//! rest = "data"                  # the column that keeps, as a JSON object, the members without a column of their own
//! [source.columns]
//! id = "id"                                     # a member of the row
//! overlays = { from = ["settings", "overlays"], as = "json" }   # deeper; any value, as JSON text
//! enabled = { from = "enabled", as = "bool" }   # true and false, as 1 and 0
//! origin = { value = "campaigns" }              # the same in all rows; on export only rows that have it are this source's
//! ```
//!
//! `$key` is the name of an entry, `$index` the place in the list, `$value` the row's value itself, `$hash` a hash of it for rows that have no key of their own and are not edited: an edited one
//! that is exported and imported again has another hash, and is another row. Of the value forms `as` names one: without it numbers and
//! text stand as they are, `text`, `integer`, `real` take only these, `bool` and `json` as above, `base64` is a blob.
//!
//! JSON is read with a cursor of our own over serde_json's raw values, for the lines and for integers that do not fit; YAML is read by serde-saphyr, as YAML 1.2:
//! `yes` is a text there, and `1_000` too, as readers of YAML differ about them. On the way out texts that any reader would take for something else are quoted.

mod dialect;
mod error;
mod json;
mod mapping;
mod node;
mod read;
mod same;
mod write;
mod yaml;

pub use dialect::{Dialect, Held, Inserts, Kind};
pub use error::{DocumentError, Fault, MappingError};
pub use mapping::{Column, Duplicates, Form, Format, From, Mapping, Shape, Source, Unknown};
pub use node::{Datum, Node};
pub use read::{Cells, Row, canonical_json, constant, rows};
pub use same::is_same;
pub use write::{Written, document, merge};

/// The largest document that is read, in bytes.
pub const DOCUMENT_MAX: usize = 256 << 20;

/// The most levels of lists and objects in one another.
pub const DEPTH_MAX: usize = 100;

/// The same in YAML, whose reader takes tens of kilobytes of the stack for each in a build without optimisation; a thread may have 2 MB.
pub const YAML_DEPTH_MAX: usize = 32;

/// Reads a document.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn parse(format: Format, bytes: &[u8]) -> Result<Node, Fault> {
    if bytes.len() > DOCUMENT_MAX {
        return Err(Fault::new(
            0,
            "$",
            format!("{} bytes are more than the {DOCUMENT_MAX} that are read", bytes.len()),
        ));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Fault::new(1, "$", "it is UTF-16; save it as UTF-8".to_owned()));
    }
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        Fault::new(line, "$", "it is not UTF-8 from here on".to_owned())
    })?;
    match format {
        Format::Json => json::parse(text),
        Format::Yaml => yaml::parse(text),
    }
}

/// Writes a document, with a line end at its end.
///
/// # Errors
/// What the format has no form for.
pub fn print(format: Format, node: &Node) -> Result<String, String> {
    match format {
        Format::Json => json::print(node),
        Format::Yaml => yaml::print(node),
    }
}
