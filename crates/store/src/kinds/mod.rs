//! Columns of a kind: counters, maxima, minima, sets, texts and JSON values.
//!
//! # What a value is
//! Of a cell in such a column three things are kept: its *base*, a plain value that the last writer wins, as of any other
//! column (inserts write it, and devices that do not know of the kind yet); what the writes of the kind amount to in the row's present
//! life (its *state*); and what the table shows, which is a function of the two ([`Row::shown`]):
//!
//! | kind | a local write travels as | state | shows |
//! |---|---|---|---|
//! | counter | its difference to what showed | a total for each site | the base and all totals |
//! | max, min | the value | the largest, the smallest | the larger, the smaller of base and state |
//! | set | members that came, and the additions whose members went | additions at hand; members of the base that went | the base's members without those, then the others by the time of their addition |
//! | text, json | what it changed, as an edit of a document whose root is the base | the documents of all bases, and when each site edited last | the document of the base |
//!
//! Differences of one site arrive in order, and each counts once: a total carries the time of the last. So every order of arrival gives the
//! same state. Sums wrap at 64 bits, as any other rule would depend on the order.
//!
//! # Invariants
//! * A local write is compared with what base and state showed, not with what a trigger says was there: the seal needs no old
//!   values. So every such cell's base and state are in the file at all times, in the row's clock (`isle_c<n>.s`); only a base
//!   that is the column's default is left out.
//! * What a local write leaves in the table and the merged value are two things where a smaller value is written to a maximum, a
//!   set is spelled otherwise, or a value is not of its kind (it goes to the journal). Such rows are owed a look (see `repair`) and show the
//!   merged value as soon as the transaction is committed.
//! * Ids of all kinds are known for a column that has one: two devices may have chosen different kinds. State that the kind of
//!   today does not use is kept.
//!
//! * An edited text is kept three times: as it shows, as the base, and as a document with its whole history. What is no JSON object or array, no
//!   UTF-8, or beyond 2 MiB is a plain value, and so is a text that is written over it, or that changes by more than 260,000 characters at once.
//! * A JSON value that was edited shows without blanks, its members in the order of their names.
//!
//! # Limits
//! * An insert is a base: of two devices that insert one row, the later one's number is what both count on from.
//! * NULL and text count as zero to a counter, and cannot be written to one that has counted.
//! * Columns of the key, of UNIQUE indexes and of foreign keys cannot have a kind. A kind cannot be taken back or changed.
//! * What a delete ends of a counter's totals is journaled as the value that showed, if the deleter had not seen all of it.
//!
//! # Format of a state
//! ```text
//! v cell   1 what (0 base, 1 counter, 2 max, 3 min, 4 member, 5 member of the base that went,
//!                                                 6 document, 7 who edited it last and when)
//! v site's local number + 1   8 time, big-endian      (not of 0, 5 and 6)
//! 1 = 1 and a zigzag varint for an integer, or 0 and v length, value as in an exact key
//! ```
//! each, rising by cell and what. A document is 1 form (1 text, 2 JSON), 16 root, and what `isle-document` saves.

mod change;
mod documents;
mod incoming;
mod local;
mod plan;
mod state;

use std::sync::Arc;

use isle_changeset::Value;
use isle_schema::{ColumnId, Kind};
use serde::{Deserialize, Serialize};

pub(crate) use change::{columns, follow, refuse};
pub(crate) use incoming::{Changing, Lost, check, check_value, is_change, readable, show, with_bases, write};
pub(crate) use local::{Unsent, unsent};
pub(crate) use plan::{Asked, plan_groups};
pub(crate) use state::{Row, What};

/// A column of a kind.
#[derive(Debug, Clone)]
pub(crate) struct KindColumn {
    /// Its cell.
    pub(crate) cell: usize,
    pub(crate) kind: Kind,
    /// What a row has that says nothing of it.
    pub(crate) default: Value,
    /// The ids under which the writes of each kind travel.
    ids: Vec<(Kind, ColumnId)>,
    /// Documents that were read or edited last.
    documents: Arc<documents::Memo>,
}

impl KindColumn {
    pub(crate) fn new(cell: usize, id: ColumnId, kind: Kind, default: Value) -> KindColumn {
        KindColumn {
            cell,
            kind,
            default,
            ids: Kind::ALL.map(|kind| (kind, id.of_kind(kind))).to_vec(),
            documents: Arc::default(),
        }
    }

    /// The id under which local writes travel.
    pub(crate) fn id(&self) -> ColumnId {
        self.ids.iter().find(|(kind, _)| *kind == self.kind).map_or(ColumnId::KEY, |(_, id)| *id)
    }

    /// The kind whose writes travel under this id.
    pub(crate) fn kind_of(&self, id: ColumnId) -> Option<Kind> {
        self.ids.iter().find(|(_, known)| *known == id).map(|(kind, _)| *kind)
    }
}

/// A column of a kind as `isle_table` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalKind {
    pub(crate) column: ColumnId,
    pub(crate) kind: Kind,
    /// The column's default, packed like an exact key.
    pub(crate) default: Vec<u8>,
}
