//! Declared tables, their stable ids, and the operations that carry them between replicas.
//!
//! # Promise
//! This crate is pure: it knows no database, no clock and no network. A schema may be given as data, which becomes SQL
//! ([`Document`]). A table is described by what SQLite
//! reports of it (`store` introspects); this crate never parses SQL.
//!
//! # Invariants
//! * A [`TableId`] or [`ColumnId`] is a function of the app, the lower-cased birth name, the birth count of that name
//!   and, for tables, of the key's columns. Two devices that declare the same table get the same id; two that
//!   disagree about its key do not. A rename keeps the id.
//! * A [`MigrationId`] is the hash of the operation's encoding, so one shipped migration is one operation,
//!   however many devices apply it. [`Migration::decode`] gives back only operations whose tables carry
//!   the ids that their content demands.
//!
//! * The schema of a group is [`Schema::fold`] of its set of operations: whoever has the same set has the same schema, in whatever
//!   order the operations came.
//!
//! # Format of an operation
//! ```text
//! 0   4  "ISLM"
//! 4   1  format, 1
//! 5   …  postcard encoding of `Migration`; enum variants are only ever appended
//! ```
//! The design page asked for canonical CBOR; no maintained CBOR crate offers a canonical form, and postcard has just one
//! encoding for each value.

mod class;
mod conflicts;
mod document;
mod fold;
mod id;
mod kind;
mod migration;
mod table;
mod version;

pub use class::Class;
pub use conflicts::SchemaConflict;
pub use document::{
    Document, DocumentCheck, DocumentColumn, DocumentDuplicates, DocumentForeignKey, DocumentIndex, DocumentObject,
    DocumentTable, DocumentUnique, DocumentVirtualTable,
};
pub use fold::{AddedColumn, Schema, TableState, is_reserved};
pub use id::{ColumnId, MigrationId, TableId};
pub use kind::Kind;
pub use migration::{
    IndexDefinition, LocalDefinition, Migration, MigrationError, Object, ObjectKind, Parent, STEPS_MAX, Shape, Step,
    TableDefinition,
};
pub use table::{Affinity, Collation, Column, KeyColumn, Table};
pub use version::Version;
