//! isle itself.
//!
//! Not measured yet: every workload answers "not supported" until the replica crate can be opened
//! here. Each method says what belongs in it; [`crate::crsqlite`] is the model to follow, and
//! [`crate::sql`] has the reads, the digests and the statements. Databases to start from come from
//! [`Cx::template`] if a copied file may be opened as it is, and are built per sample otherwise.

use std::time::Duration;

use anyhow::Result;

use crate::data::Keys;
use crate::engine::{Conflict, Cx, Engine, FileSize, ForeignInsert, OneRow};

const NAME: &str = "isle";

/// The library this repository is about.
#[derive(Debug)]
pub struct Isle;

impl Engine for Isle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn describe(&self) -> Result<String> {
        Ok("isle (not measured yet)".to_owned())
    }

    /// `replica.write` with [`crate::sql::INSERT`] for each row.
    fn insert(&mut self, _cx: &Cx<'_>, _keys: Keys) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// [`crate::sql::insert`] on [`crate::sql::open`] of the closed replica's file; `capture` is what
    /// opening the replica and its first touch then take.
    fn foreign_insert(&mut self, _cx: &Cx<'_>) -> Result<Option<ForeignInsert>> {
        Ok(None)
    }

    /// `replica.write` with [`crate::sql::UPDATE`].
    fn update_column(&mut self, _cx: &Cx<'_>) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// `replica.write` with [`crate::sql::DELETE`].
    fn delete_half(&mut self, _cx: &Cx<'_>) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// One `replica.write` per transaction.
    fn small_transactions(&mut self, _cx: &Cx<'_>) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Export since the empty version vector, sealed.
    fn extract(&mut self, _cx: &Cx<'_>, _keys: Keys) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Apply of those sealed changesets, unsealing included.
    fn apply(&mut self, _cx: &Cx<'_>, _keys: Keys) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// As [`Isle::apply`], to a replica that wrote the same rows and had not seen the changesets.
    ///
    /// Where the later write wins, write half of `ours` before `theirs` and half after it. In cr-sqlite
    /// about half of the remote values win; if none did, only the cheap half would be measured.
    fn apply_conflicts(&mut self, _cx: &Cx<'_>, _kind: Conflict) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// The length of the sealed changesets: they are compressed already.
    fn bytes_sent(&mut self, _cx: &Cx<'_>, _keys: Keys) -> Result<Option<u64>> {
        Ok(None)
    }

    /// [`crate::sql::truncated_size`], before and after compaction.
    fn file_size(&mut self, _cx: &Cx<'_>) -> Result<Option<FileSize>> {
        Ok(None)
    }

    /// `replica.write`, export since the version vector before it, apply.
    fn one_row(&mut self, _cx: &Cx<'_>) -> Result<Option<OneRow>> {
        Ok(None)
    }

    /// `Replica::builder(path).open()` and [`crate::sql::first_read`].
    fn open(&mut self, _cx: &Cx<'_>) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// One `replica.read` with [`crate::sql::point_read`] per key. A single `replica.read` around all of
    /// them would save the locking that plain pays for each.
    fn point_reads(&mut self, _cx: &Cx<'_>) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// `replica.read` with [`crate::sql::full_scan`].
    fn full_scan(&mut self, _cx: &Cx<'_>) -> Result<Option<Duration>> {
        Ok(None)
    }
}
