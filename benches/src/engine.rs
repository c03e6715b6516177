//! What an engine does for the bench, and the files it may use for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::data::{Dataset, Keys};
use crate::text::TextEdit;

/// An engine under test. Every method takes one sample of one workload: it sets up, measures, checks
/// what the database then holds and returns the measurement, or `None` if the engine cannot do that.
///
/// Setting up and checking are never part of the returned time; committing is.
pub trait Engine {
    /// The column heading, also the name of its template directory.
    fn name(&self) -> &'static str;

    /// Name and version, for the head of the report.
    ///
    /// # Errors
    /// When the engine cannot be loaded.
    fn describe(&self) -> Result<String>;

    /// Inserts all rows in one transaction into an empty, tracked table.
    ///
    /// # Errors
    /// As for every workload: when the engine fails, or the database does not hold what it should.
    fn insert(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>>;

    /// The integer-keyed insert, made by a plain SQLite connection on a file this engine tracks.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn foreign_insert(&mut self, cx: &Cx<'_>) -> Result<Option<ForeignInsert>>;

    /// Applies [`Dataset::updates`] in one transaction.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn update_column(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>>;

    /// [`Engine::insert`], [`Engine::update_column`] and [`Engine::apply`] of both, with a counter in the place of the column.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn counter(&mut self, _cx: &Cx<'_>) -> Result<Option<Counter>> {
        Ok(None)
    }

    /// Gives a full table another column, and then a CHECK: plain SQLite by making the table anew.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn change_table(&mut self, _cx: &Cx<'_>) -> Result<Option<ChangeTable>> {
        Ok(None)
    }

    /// Edits a text of so many bytes, whose concurrent edits merge.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn edit_text(&mut self, _cx: &Cx<'_>, _length: usize) -> Result<Option<TextEdit>> {
        Ok(None)
    }

    /// Deletes [`Dataset::half`] in one transaction.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn delete_half(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>>;

    /// Runs [`Dataset::small`], one transaction each.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn small_transactions(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>>;

    /// Turns a full table into the bytes to send to an empty replica. Plain reads all rows.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn extract(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>>;

    /// Applies the bytes of [`Engine::extract`] to an empty replica. Plain inserts the rows.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn apply(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>>;

    /// Applies a remote side's writes of rows that were also written locally.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn apply_conflicts(&mut self, cx: &Cx<'_>, kind: Conflict) -> Result<Option<Duration>>;

    /// Bytes that carry a full table to an empty replica, after zstd level 3. An engine whose bytes
    /// are compressed as they are handed over reports those.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn bytes_sent(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<u64>>;

    /// Size of the database file after the integer-keyed insert and `wal_checkpoint(TRUNCATE)`.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn file_size(&mut self, cx: &Cx<'_>) -> Result<Option<FileSize>>;

    /// One-row transactions in a full table: inserts each row of [`Dataset::extra`] on one replica,
    /// extracts it and applies it to another that was level with it before.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn one_row(&mut self, cx: &Cx<'_>) -> Result<Option<OneRow>>;

    /// Opens a file with 20 tracked tables ([`crate::sql::many_tables`]) and reads from one of them:
    /// the median over several openings.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn open(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>>;

    /// Reads [`Dataset::points`] by key from a full table.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn point_reads(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>>;

    /// Reads every row and every column of a full table once.
    ///
    /// # Errors
    /// See [`Engine::insert`].
    fn full_scan(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>>;
}

/// What the remote side did to rows the local side updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// It updated the same column: [`Dataset::theirs`] against [`Dataset::ours`].
    Update,
    /// It deleted the rows.
    Delete,
}

impl Conflict {
    /// A short name, for files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// An insert by a connection that knows nothing of the engine.
#[derive(Clone, Copy, Debug)]
pub struct ForeignInsert {
    /// The transaction itself.
    pub write: Duration,
    /// What the engine does about it when it is next used; nothing for plain.
    pub capture: Option<Duration>,
}

/// Size of a database file in bytes.
#[derive(Clone, Copy, Debug)]
pub struct FileSize {
    /// With everything the engine keeps in it.
    pub with_log: u64,
    /// After the engine dropped what it no longer needs, if it can.
    pub compacted: Option<u64>,
}

/// What it costs to change a table.
#[derive(Clone, Copy, Debug)]
pub struct ChangeTable {
    /// Add a column.
    pub add: Duration,
    /// Make it anew.
    pub rebuild: Duration,
}

/// What a counter costs.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// Insert all rows.
    pub insert: Duration,
    /// Update the counter of each row.
    pub update: Duration,
    /// Apply both elsewhere.
    pub apply: Duration,
}

/// One-row transactions: medians over those of one sample.
#[derive(Clone, Copy, Debug)]
pub struct OneRow {
    /// Insert and commit.
    pub write: Duration,
    /// Turn it into bytes. Plain selects the row.
    pub extract: Duration,
    /// Apply those bytes elsewhere. Plain inserts the row.
    pub apply: Duration,
}

/// The data and the files of a whole bench run.
#[derive(Debug)]
pub struct Cx<'a> {
    /// What to write and to ask for.
    pub data: &'a Dataset,
    root: TempDir,
}

impl<'a> Cx<'a> {
    /// Puts all files in a new directory inside `dir`, or inside the system's temporary directory.
    ///
    /// # Errors
    /// When that directory cannot be made.
    pub fn new(data: &'a Dataset, dir: Option<&Path>) -> Result<Self> {
        let parent = dir.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let root = tempfile::Builder::new().prefix("isle-benches-").tempdir_in(&parent);
        Ok(Self { data, root: root.with_context(|| format!("no directory for databases in {}", parent.display()))? })
    }

    /// A new, empty directory for one sample.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<Scratch> {
        Ok(Scratch { dir: tempfile::Builder::new().prefix("sample-").tempdir_in(self.root.path())? })
    }

    /// The directory of files that samples of `engine` start from. It is filled by `build` on first
    /// use; databases in it must be closed and their write-ahead logs gone.
    ///
    /// # Errors
    /// When `build` fails.
    pub fn template(&self, engine: &str, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.root.path().join("templates").join(engine).join(name);
        if !path.exists() {
            // Built beside its final name: a template that exists is complete.
            let unfinished = path.with_extension("unfinished");
            fs::create_dir_all(&unfinished)?;
            build(&unfinished).with_context(|| format!("could not prepare {name} for {engine}"))?;
            fs::rename(&unfinished, &path)?;
        }
        Ok(path)
    }
}

/// A directory that is deleted with everything in it when the sample is over.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// The path of a file in this directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Copies a file of a template into this directory and syncs the copy to disk.
    ///
    /// # Errors
    /// When copying fails.
    pub fn copy(&self, template: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::copy(template, &path).with_context(|| format!("could not copy {}", template.display()))?;
        File::options().write(true).open(&path)?.sync_all()?;
        Ok(path)
    }
}

/// The median of some times.
#[must_use]
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    match times.len() {
        0 => Duration::ZERO,
        n if n % 2 == 1 => times[n / 2],
        n => (times[n / 2 - 1] + times[n / 2]) / 2,
    }
}
