//! What is wrong with a document, and where.

use std::fmt;
use std::path::PathBuf;

/// What is wrong at one place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1; 0 if it is about no line.
    pub line: usize,
    /// The place, as `$.jobs[3].enabled`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

impl Fault {
    /// Of parts.
    pub fn new(line: usize, path: impl Into<String>, reason: impl Into<String>) -> Fault {
        Fault { line, path: path.into(), reason: reason.into() }
    }

    /// With the document that it is in.
    pub fn of(self, file: impl Into<PathBuf>) -> DocumentError {
        DocumentError { file: file.into(), fault: self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.reason),
            line => write!(f, "line {line}, {}: {}", self.path, self.reason),
        }
    }
}

/// A document that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", file.display())]
pub struct DocumentError {
    /// The document.
    pub file: PathBuf,
    /// What is wrong, and where.
    pub fault: Fault,
}

/// A mapping that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// It is no TOML, or has something that no mapping has.
    #[error("the mapping cannot be read: {reason}")]
    Syntax {
        /// What the reader said.
        reason: String,
    },
    /// A source of it makes no sense.
    #[error("source {file} of the mapping: {reason}")]
    Source {
        /// The file that it names.
        file: String,
        /// What is wrong.
        reason: String,
    },
}
