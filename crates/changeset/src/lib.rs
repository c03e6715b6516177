//! The sealed changeset: what one local transaction changed, in bytes that never change again.
//!
//! # Promise
//! Pure: no clock, no randomness, no I/O. The same rows in the same order give the same bytes. Decoding trusts nothing:
//! every length is checked against what is there before memory is taken, and the limits below hold for any input.
//!
//! # Invariants
//! * A changeset is a header and its blocks. The header carries the BLAKE3 hash of each block, the next
//!   changeset of the site carries the hash of this header: a site's changesets form a chain.
//! * Tables and columns are named by stable ids only.
//! * Rows stand in table-id order and then in canonical key order (see [`Key`]), each row once.
//! * A block can be checked, decoded and applied on its own.
//!
//! # Header
//! Fixed-width integers are little-endian, `v` is an unsigned LEB128 varint.
//! ```text
//!   0   4  "ISLC"
//!   4   1  format, 1
//!   5   1  flags: bit 0 = baseline (cells are stamped with time 0); others must be 0
//!   6  16  group
//!  22  16  site
//!  38   8  version, from 1
//!  46   8  hlc
//!  54  32  hash of the site's previous header, zeros for version 1
//!  86   v  causes: count, then (site 16, version v, hlc 8) each, rising by site: what the author had seen
//!          since its previous changeset
//!   …   v  collection floor: the same, as far as it rose since the author's previous changeset
//!   …   v  schema heads: count, then 16 bytes each, rising
//!   …   v  blocks: count, then (stored bytes v, raw bytes v, rows v, BLAKE3 of the stored form 32) each
//! ```
//!
//! # Block
//! Stored as one byte (0 = raw, 1 = zstd) and the content: sections, one for each table with changes.
//! ```text
//!  16  table id
//!   v  columns: count, then 16 bytes each (a zero id is the exact key, see `Key`)
//!   v  key columns: count
//!   v  runs: count, then (length << 2 | kind v, mask of columns in ⌈columns/8⌉ bytes, rows v) each
//!      kind 0 = insert, 1 = update, 2 = delete (no mask); length = causal length after the change
//!   …  key columns and then columns, one stream each; a column's stream has a value for each row whose run has its bit
//! ```
//! A column of a kind has a second id for the writes of that kind ([`ColumnId::of_kind`](isle_schema::ColumnId::of_kind)): what a
//! counter's value grew by (an integer), a value for a maximum or minimum, what came into and went out of a set ([`SetChange`]),
//! what was changed in a text or a JSON value ([`DocumentChange`]).
//!
//! A stream of values:
//! ```text
//!   v  runs of types: count, then (type 1: 0 null 1 integer 2 real 3 text 4 blob, values v) each
//!   1  integers: 0 = zigzag varints, 1 = zigzag varints of differences, 2 = 8 bytes each
//!   v  bytes of the integers; the integers
//!   8  each real: its bits
//!   v  bytes of the lengths; the lengths of texts and blobs, varints
//!   …  texts and blobs
//! ```
//!
//! # Limits
//! A block holds at most [`BLOCK_BYTES`] before compression, or a single row of at most [`ROW_BYTES_MAX`]; at most
//! [`BLOCK_ROWS_MAX`] rows and [`BLOCK_VALUES_MAX`] values. A header has at most [`HEADER_BYTES_MAX`]. Decoding takes no more memory than the
//! larger of the block's real size and twice [`BLOCK_BYTES`], whatever the lengths in it claim.

mod block;
mod document;
mod encode;
mod header;
mod key;
mod set;
pub mod snapshot;
mod stream;
mod value;
mod wire;

pub use block::{Block, LENGTH_MAX, Row, RowKind, Section, Sections};
pub use document::DocumentChange;
pub use encode::{BodyWriter, SealedBlock};
pub use header::{BlockInfo, Cause, Hash, Header};
pub use key::{Key, canonical_key, canonical_value, has_forms, pack_key, unpack_key};
pub use set::{RemovedMember, SetChange};
pub use value::{Value, ValueRef};
pub use wire::DecodeError;

/// A block is closed when its content reaches this many bytes.
pub const BLOCK_BYTES: usize = 1 << 20;
/// The largest row that can be replicated, in bytes of its values.
pub const ROW_BYTES_MAX: usize = 32 << 20;
/// The largest number of rows in one block.
pub const BLOCK_ROWS_MAX: usize = 1 << 17;
/// The most values, keys included, in one block: a NULL takes no byte, and must not cost time for nothing either. A writer closes its block long before.
pub const BLOCK_VALUES_MAX: usize = BLOCK_BYTES / 4;
/// The largest encoded header.
pub const HEADER_BYTES_MAX: usize = 4 << 20;
/// The largest number of columns in a section; SQLite's own limit is lower.
pub const COLUMNS_MAX: usize = 1 << 15;
