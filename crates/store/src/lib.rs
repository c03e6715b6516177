//! Capture, seal, log and merge on a SQLite file: the only room that knows SQLite.
//!
//! # Promises
//! * Tracked tables stay ordinary tables. Any client writes to them (SQLite 3.40 is tested, nothing newer than 3.23 is used);
//!   plain-SQL triggers note what it touched. Nothing of the file's schema needs isle to be opened, read or written.
//! * A transaction becomes one changeset, sealed in the same SQLite transaction when it came through [`Store::write`], at the next
//!   touch otherwise. What several foreign transactions did until then becomes one changeset: never split, possibly
//!   joined.
//! * The same set of changesets gives the same [`StateHash`], whatever the order, the duplicates and the path.
//! * Every step is one SQLite transaction. A crash leaves the file before it or after it.
//! * What the disk damaged in the log is not handed over to anybody (see `handover`), but for the header of the own last version, whose hash nothing
//!   else knows.
//! * A concurrent value that loses is in the journal ([`Store::conflicts`]).
//! * UNIQUE indexes and foreign keys hold in the table at all times. What a merge brings against them is kept, and shows once nothing is
//!   against it any more ([`Store::repaired`]).
//!
//! # Invariants
//! * Every live row of a tracked table has one clock row, and a dead or unknown one has no data row ([`Store::check`] looks). A
//!   live row is in the table, or in the shadow, or in both with different values.
//! * `isle_log` has the site's own versions without a gap, each naming the hash of the one before.
//! * The causal length of a clock is always true. The stamps of the site's own updates stand in the log alone until something reads or
//!   merges stamps, which takes a proof that they were settled (see `settle`). Nothing may leave the log, and no own version may
//!   change its number or its site, before that.
//! * A row clock names sites by their local number in `isle_site`; such numbers never leave the file.
//! * Connections lock in one order: this process's engine lock, then SQLite's write lock.
//!
//! # Tables in the user's file
//! ```text
//! isle_meta       facts: format, group, app, own site number, last published version, first version whose stamps are owed
//! isle_site       sites: local number, id, applied version, its time, hash of its header; up to which version what is in the log is signed
//! isle_proof      signatures of sites' devices, by site and version (see `proofs`)
//! isle_seen       per author and site: up to where the author had seen it
//! isle_migration  schema operations, applied or waiting (see `pending`)
//! isle_parked     what came for tables and columns that are not here yet (see `parked`)
//! isle_gone       rows whose tombstones were collected while something was parked for their table
//! isle_table      tracked tables: local number, id, name, model as JSON
//! isle_queue      what foreign clients touched since the last seal: table, wall time, masks (see `triggers`), key, key before
//! isle_log        changesets by site number << 44 | version: time, header, the block if there is just one
//! isle_block      blocks of larger changesets
//! isle_c<n>       row clocks of table n (see `clocks`), and what columns of kinds go by (see `kinds`)
//! isle_s<n>       merged rows of table n that differ from what it shows (see `shadow`)
//! isle_claim      what these claim and lack (see `repair`)
//! isle_owed       rows whose constraints have to be looked at
//! isle_conflict   the journal
//! isle_floor      the collection floor: what every device has, and so may be collected
//! isle_retired    sites that nobody waits for any more, and their last versions that count
//! isle_snapshot   blocks of a snapshot that is being taken in
//! isle_remote, isle_remote_head   remotes and the last head seen of each site
//! isle_member     signed operations that say who belongs to the group
//! isle_peer       devices that this replica syncs with directly
//! isle_fork       sites with two histories
//! isle_ops        what was done with the file, and what came of it
//! ```
//!
//! # cr-sqlite
//! A table may be a CRR of cr-sqlite as well, which then records and merges it beside the row clocks (see `companion`): for files that an app
//! opens with that extension. Everything else is as it is for any other table.
//!
//! # Limits
//! UNIQUE indexes on expressions, AUTOINCREMENT, NULL in keys and custom collations are refused when a table is tracked, as are rows
//! without the parent that a foreign key names. CHECKs bind local writes; a merge does not enforce them. SQLite's incremental blob writes fire no triggers and are not captured. A row may have 32 MiB.
//! Of a site at most 1,048,576 versions wait for what is missing; one further ahead is refused ([`StoreError::TooFarAhead`]).
//! Memory: 64 MiB of values of an open transaction, then the queue table; otherwise a few blocks of 1 MiB.

mod ahead;
mod alter;
mod apply;
mod backup;
mod capture;
mod check;
mod clocks;
mod compact;
mod companion;
mod constraints;
mod define;
mod directives;
mod drift;
mod dump;
mod duplicates;
mod engine;
mod error;
mod exchange;
mod forks;
mod guard;
mod handover;
mod hash;
mod history;
mod identity;
mod imports;
mod info;
mod journal;
mod kinds;
mod layout;
mod lint;
mod local;
mod log;
mod objects;
mod operations;
mod own;
mod parked;
mod peers;
mod pending;
mod plan;
mod proofs;
mod queue;
mod remotes;
mod repair;
mod required;
mod reshape;
mod restate;
mod seal;
mod search;
mod settle;
mod shadow;
mod snapshot;
mod standing;
mod store;
mod take_back;
mod track;
mod tracked;
mod transaction;
mod triggers;
mod undo;

pub use backup::{Facts, verify_copy};
pub use check::{Finding, Report};
pub use compact::Compacted;
pub use companion::{TableEngine, TableEngineOf, crrs_of, try_cr_sqlite};
pub use define::{Parts, SchemaChange, SchemaPlan, split_definition};
pub use drift::SchemaState;
pub use dump::SchemaOperation;
pub use error::StoreError;
pub use exchange::Frame;
pub use forks::Fork;
pub use handover::Logged;
pub use hash::StateHash;
pub use history::{Base, CellChange, RowChange, RowChangeKind};
pub use imports::Life;
pub use info::{Info, TableInfo};
pub use journal::{Conflict, Reason};
pub use lint::{Lint, lint_schema};
pub use log::{Applied, LogEntry, Merging, Waiting};
pub use operations::{Operation, OperationState};
pub use parked::Parked;
pub use peers::{CommitCounter, Held, Lacking, PartialChangeset, PeerRow};
pub use pending::{Hindrance, PendingOperation};
pub use remotes::{RemoteRow, SeenHead};
pub use repair::Repaired;
pub use search::{FullText, match_expression};
pub use snapshot::{Snapshot, Staged};
pub use store::{Changed, Init, Options, Runtime, Site, Status, Store};
pub use take_back::Undone;
pub use transaction::{Prepared, Transaction};
