//! Import and export: documents of JSON and YAML into rows and back, by a mapping (crate `isle-interchange` has the mapping and the conversions).
//!
//! # Import
//! All documents of a mapping are read before anything is written, and are written in one transaction: everything or nothing. What cannot be taken is an
//! error with the document, the line and the path in it.
//!
//! * **Old data loses.** What is imported came to be before, perhaps on several devices at once: its rows count as older than any write, as rows do
//!   that were there before their table was tracked. So a setting that somebody changed on another device meanwhile stays, whatever the clocks say, and documents
//!   that two devices import, overlapping as they may, make no row twice and no conflict where they say the same. A table can have that once in a file: where this
//!   file has such rows already (of an earlier import, or from before the table was tracked), and where triggers change rows that are there, the new rows of that table count as
//!   written right after what this file has seen, which is the next best; [`Imported::oldest`] tells. Of two rows that claim one UNIQUE value the older claim
//!   shows, as always: that is the imported one.
//! * **What is there stays.** A row that is in the table is left as it is, and the report says where it differs; a row that was deleted here stays
//!   deleted. [`ImportOptions::replace`] is for documents that are newer than the table: what differs is written, as of now, after a backup.
//! * **Once.** The file keeps a ledger of the documents that it has imported, by their hashes and the mapping's, written in the transaction of the import.
//!   The same document again is nothing to do. The ledger does not travel: each device imports its own documents.
//! * **What was written is read back** before the commit, value by value: a column that turns a value into another one (the text `"07"` in an
//!   INTEGER column) is an error.
//! * Archived documents are renamed to `.bak` after the commit, never over a file that is there. A crash in between leaves the document where it was, and the
//!   next import only renames it.
//!
//! # Export
//! One state of the file, rows in the order of their keys: the same state gives the same bytes on every device. A document that would not change is not
//! written, others are written beside and renamed into place.

mod archive;
mod export;
mod import;
mod row;
mod table;
mod tables;
mod verify;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use isle_interchange::{DocumentError, Mapping, MappingError, Node, Row, Source};

pub use archive::Archive;
pub use export::{ExportFollower, ExportOptions, Exported};
pub use import::{Difference, ImportOptions, ImportReport, Imported, SourceState};
pub use verify::{Verification, VerifiedSource};

use crate::{Error, ErrorKind};

/// Why an import or an export failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterchangeError {
    /// The mapping.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// A document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A row that the table does not take.
    #[error("{place}: {source}")]
    Row {
        /// The document, and where the row stands in it.
        place: DocumentError,
        /// Why.
        source: Box<isle_store::StoreError>,
    },
    /// The mapping and the table do not belong together.
    #[error("{file}, table {table:?}: {reason}")]
    Table {
        /// The source.
        file: String,
        /// The table.
        table: String,
        /// What is wrong.
        reason: String,
    },
    /// A value that no document of this mapping can have.
    #[error("table {table:?}, column {column:?} of the row {key}: {reason}")]
    Value {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The row's key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing of what the mapping names.
    #[error("there is no document at {} of those that are meant", folder.display())]
    Nothing {
        /// Where they were looked for.
        folder: PathBuf,
    },
}

impl InterchangeError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            InterchangeError::File { .. } | InterchangeError::Value { .. } => ErrorKind::Failed,
            _ => ErrorKind::Invalid,
        }
    }

    pub(crate) fn file(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
        InterchangeError::File { doing, path: path.to_owned(), source }.into()
    }
}

/// A document of a mapping as it was found.
struct Found<'m> {
    source: &'m Source,
    path: PathBuf,
    /// The hash of its bytes; `None` if it is not there.
    hash: Option<[u8; 32]>,
    rows: Vec<Row>,
}

/// Where the document of a source is: below a folder, or the file itself that was named.
fn path_of(mapping: &Mapping, source: &Source, from: &Path) -> PathBuf {
    // Two sources may be one document.
    let one = mapping.sources.iter().all(|other| other.file == source.file);
    // What is not there yet is a document if it is called like one.
    let named = |path: &Path| path.to_str().is_some_and(|name| isle_interchange::Format::of_name(name).is_some());
    let is_document = from.is_file() || (!from.exists() && named(from));
    if one && is_document { from.to_owned() } else { from.join(&source.file) }
}

/// Reads a document of a mapping, and its rows if `wanted` says so of its hash.
fn find<'m>(
    mapping: &Mapping,
    source: &'m Source,
    from: &Path,
    wanted: impl FnOnce(&[u8; 32]) -> bool,
) -> Result<Found<'m>, Error> {
    let path = path_of(mapping, source, from);
    let reading = |error| InterchangeError::file("read", &path, error);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Found { source, path, hash: None, rows: Vec::new() });
        }
        Err(error) => return Err(reading(error)),
        Ok(metadata) if !metadata.is_file() => {
            let fault = isle_interchange::Fault::new(0, "$", "it is no file");
            return Err(InterchangeError::from(fault.of(path)).into());
        }
        Ok(_) => {}
    }
    // One more than is taken, so that the reader can tell; a file may grow while it is read.
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).map_err(reading)?;
    file.take(isle_interchange::DOCUMENT_MAX as u64 + 1).read_to_end(&mut bytes).map_err(reading)?;
    let hash = *blake3::hash(&bytes).as_bytes();
    let mut rows = Vec::new();
    if wanted(&hash) {
        let read = |node: Node| isle_interchange::rows(source, &node);
        let document = isle_interchange::parse(source.format(), &bytes).and_then(read);
        rows = document.map_err(|fault| InterchangeError::from(fault.of(&path)))?;
    }
    Ok(Found { source, path, hash: Some(hash), rows })
}
