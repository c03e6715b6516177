//! How concurrent writes of a column merge, where the last one does not simply win.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a column. Without one, the last write wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Whole numbers to which devices add: an update travels as its difference, and all differences count.
    Counter,
    /// The largest value that was ever written in the row's life.
    Max,
    /// The smallest value that was ever written in the row's life.
    Min,
    /// A JSON array whose members come and go one by one; a member that is added while it is removed elsewhere stays.
    Set,
    /// A text that devices edit at once: an update travels as what it inserts and deletes.
    Text,
    /// A JSON object or array that devices edit at once: an update travels as the members and elements that it changes.
    Json,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 6] = [Kind::Counter, Kind::Max, Kind::Min, Kind::Set, Kind::Text, Kind::Json];

    /// The word that names it in a definition.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Max => "max",
            Kind::Min => "min",
            Kind::Set => "set",
            Kind::Text => "text",
            Kind::Json => "json",
        }
    }

    /// The kind of that name, in letters of either case.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| word.eq_ignore_ascii_case(kind.as_str()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
