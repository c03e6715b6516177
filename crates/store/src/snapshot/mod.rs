//! Snapshots: the merged state as it stands, for replicas that the log cannot serve any more.
//!
//! [`isle_changeset::snapshot`] draws the bytes. One is written from a single read transaction, block by block, so that
//! it costs a block of memory. One that was received is staged in `isle_snapshot`, so that a transfer goes on where it stopped, and
//! is joined with what is here in one transaction:
//! * Every cell goes to the larger stamp and every life to the larger length, as if the changesets had come.
//! * A row that one side lacks, although it has applied a write to it, was deleted and collected there: it goes here too.
//! * A value that loses is journaled unless the winner's side had it.
//! * What this replica has not handed over yet is sealed anew (see `restate`) if it was written in ignorance of what the group has
//!   collected since.

mod export;
mod join;
mod stage;

pub use export::Snapshot;
pub use stage::Staged;
