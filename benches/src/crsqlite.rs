//! cr-sqlite 0.17, a loadable extension. `scripts/fetch-cr-sqlite` installs it.
//!
//! Changes are read from and written to its virtual table `crsql_changes`. How they travel is left to
//! the application; here it is the encoding of [`crate::wire`], all changes one after the other.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, LoadExtensionGuard, params};

use crate::data::{Dataset, Digest, Keys};
use crate::engine::{Conflict, Cx, Engine, FileSize, ForeignInsert, OneRow, Scratch, median};
use crate::wire::{Reader, Writer};
use crate::{sql, wire};

const NAME: &str = "cr-sqlite";
const DATABASE: &str = "cr.db";
const CHANGES: &str = "changes";
/// Columns outside the primary key: each is one change of an inserted row.
const CHANGES_PER_ROW: usize = 3;

const SELECT_CHANGES: &str = r#"
    SELECT "table", "pk", "cid", "val", "col_version", "db_version", "site_id", "cl", "seq", "ts"
    FROM crsql_changes WHERE db_version > ?1 AND site_id = crsql_site_id()"#;
const INSERT_CHANGE: &str = r#"
    INSERT INTO crsql_changes
        ("table", "pk", "cid", "val", "col_version", "db_version", "site_id", "cl", "seq", "ts")
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"#;

/// The installed extension, if there is one.
#[must_use]
pub fn find_extension() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/cr-sqlite/crsqlite.so");
    path.canonicalize().ok()
}

/// cr-sqlite, loaded from a file.
#[derive(Debug)]
pub struct CrSqlite {
    extension: PathBuf,
}

/// A connection with the extension loaded.
struct Db(Connection);

impl Deref for Db {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        // The extension keeps statements open; without this the connection cannot be closed. A
        // failure shows as a write-ahead log that stays, which the templates check for.
        let _ = self.0.query_row("SELECT crsql_finalize()", [], |_| Ok(()));
    }
}

/// Which side of a sync a database is.
#[derive(Clone, Copy)]
enum Side {
    /// The one that wrote the rows.
    Source,
    /// Another one, level with it.
    Peer,
}

impl CrSqlite {
    /// An engine that loads the extension in this file.
    #[must_use]
    pub fn new(extension: PathBuf) -> Self {
        Self { extension }
    }

    #[allow(unsafe_code, reason = "loading native code is what this engine is")]
    fn open_db(&self, path: &Path) -> Result<Db> {
        let conn = sql::open(path)?;
        // SAFETY: the user installed this library to have it loaded, its checksum was verified then,
        // and no SQL runs while loading is enabled.
        let loaded = unsafe {
            LoadExtensionGuard::new(&conn)
                .and_then(|_guard| conn.load_extension(&self.extension, Some("sqlite3_crsqlite_init")))
        };
        loaded.with_context(|| format!("could not load {}", self.extension.display()))?;
        Ok(Db(conn))
    }

    fn create(&self, path: &Path, keys: Keys) -> Result<Db> {
        let db = self.open_db(path)?;
        db.execute_batch(sql::schema(keys))?;
        track(&db, "items")?;
        Ok(db)
    }

    /// The directory with the full databases of both sides and the source's changes.
    fn full_template(&self, cx: &Cx<'_>, keys: Keys) -> Result<PathBuf> {
        cx.template(NAME, &format!("full-{}", keys.name()), |dir| {
            let (path, peer_path) = (dir.join(Side::Source.file()), dir.join(Side::Peer.file()));
            let source = self.create(&path, keys)?;
            sql::insert(&source, cx.data.rows(keys))?;
            let changes = changes_since(&source, 0)?;
            ensure!(changes.count == cx.data.rows(keys).len() * CHANGES_PER_ROW, "extracted {} changes", changes.count);
            let peer = self.create(&peer_path, keys)?;
            apply(&peer, &changes.bytes)?;
            sql::check(&peer, Dataset::digest(cx.data.rows(keys)))?;
            fs::write(dir.join(CHANGES), changes.bytes)?;
            drop((source, peer));
            sql::check_closed(&path)?;
            sql::check_closed(&peer_path)
        })
    }

    fn copy_full(&self, cx: &Cx<'_>, scratch: &Scratch, keys: Keys, side: Side) -> Result<PathBuf> {
        scratch.copy(&self.full_template(cx, keys)?.join(side.file()), side.file())
    }

    fn open_full(&self, cx: &Cx<'_>, scratch: &Scratch, side: Side) -> Result<Db> {
        self.open_db(&self.copy_full(cx, scratch, Keys::Int, side)?)
    }

    /// The directory with a local database that wrote the contended rows and the changes of a remote
    /// one that wrote them too. Both hold the same after they exchange their changes.
    fn conflict_template(&self, cx: &Cx<'_>, kind: Conflict) -> Result<PathBuf> {
        cx.template(NAME, &format!("conflict-{}", kind.name()), |dir| {
            let scratch = cx.scratch()?;
            let remote = self.open_full(cx, &scratch, Side::Source)?;
            let since = db_version(&remote)?;
            match kind {
                Conflict::Update => sql::update(&remote, &cx.data.theirs)?,
                Conflict::Delete => sql::delete(&remote, &cx.data.contended())?,
            };
            let theirs = changes_since(&remote, since)?;
            ensure!(theirs.count == cx.data.theirs.len(), "the remote side has {} changes", theirs.count);
            fs::write(dir.join(CHANGES), &theirs.bytes)?;

            let local = self.open_full(cx, &scratch, Side::Peer)?;
            let since = db_version(&local)?;
            sql::update(&local, &cx.data.ours)?;
            let ours = changes_since(&local, since)?;
            ensure!(ours.count == cx.data.ours.len(), "the local side has {} changes", ours.count);
            sql::truncated_size(&local, &scratch.path(Side::Peer.file()))?;
            fs::copy(scratch.path(Side::Peer.file()), dir.join(DATABASE))?;

            apply(&local, &theirs.bytes)?;
            apply(&remote, &ours.bytes)?;
            sql::check(&local, synced(cx.data, kind))?;
            sql::check(&remote, synced(cx.data, kind))
        })
    }
}

impl Side {
    fn file(self) -> &'static str {
        match self {
            Self::Source => "source.db",
            Self::Peer => "peer.db",
        }
    }
}

/// What both sides hold after a conflict: of two concurrent values the larger one wins, and a delete
/// wins over an update.
fn synced(data: &Dataset, kind: Conflict) -> Digest {
    match kind {
        Conflict::Update => {
            let largest = data.theirs.iter().zip(&data.ours).map(|(theirs, ours)| (theirs.0, theirs.1.max(ours.1)));
            data.digest_after(&largest.collect::<Vec<_>>(), &[])
        }
        Conflict::Delete => data.digest_after(&[], &data.contended()),
    }
}

fn track(conn: &Connection, table: &str) -> Result<()> {
    conn.query_row("SELECT crsql_as_crr(?1)", [table], |_| Ok(()))?;
    Ok(())
}

fn db_version(conn: &Connection) -> Result<i64> {
    Ok(conn.query_row("SELECT crsql_db_version()", [], |row| row.get(0))?)
}

struct Changes {
    bytes: Vec<u8>,
    count: usize,
}

/// The changes this database itself made after `version`, ready to be sent.
fn changes_since(conn: &Connection, version: i64) -> Result<Changes> {
    let mut statement = conn.prepare_cached(SELECT_CHANGES)?;
    let mut rows = statement.query([version])?;
    let mut out = Writer::default();
    let mut count = 0;
    while let Some(row) = rows.next()? {
        out.bytes(row.get_ref(0)?.as_bytes()?);
        out.bytes(row.get_ref(1)?.as_bytes()?);
        out.bytes(row.get_ref(2)?.as_bytes()?);
        out.any(row.get_ref(3)?);
        out.integer(row.get(4)?);
        out.integer(row.get(5)?);
        out.bytes(row.get_ref(6)?.as_bytes()?);
        out.integer(row.get(7)?);
        out.integer(row.get(8)?);
        out.bytes(row.get_ref(9)?.as_bytes()?);
        count += 1;
    }
    Ok(Changes { bytes: out.finish(), count })
}

/// Merges changes in one transaction; the time includes decoding them and the commit.
fn apply(conn: &Connection, changes: &[u8]) -> Result<Duration> {
    let start = Instant::now();
    let mut changes = Reader::new(changes);
    let tx = conn.unchecked_transaction()?;
    {
        let mut statement = tx.prepare_cached(INSERT_CHANGE)?;
        while !changes.is_empty() {
            statement.execute(params![
                ToSqlOutput::Borrowed(ValueRef::Text(changes.bytes()?)),
                ToSqlOutput::Borrowed(ValueRef::Blob(changes.bytes()?)),
                ToSqlOutput::Borrowed(ValueRef::Text(changes.bytes()?)),
                ToSqlOutput::Borrowed(changes.any()?),
                changes.integer()?,
                changes.integer()?,
                ToSqlOutput::Borrowed(ValueRef::Blob(changes.bytes()?)),
                changes.integer()?,
                changes.integer()?,
                ToSqlOutput::Borrowed(ValueRef::Text(changes.bytes()?)),
            ])?;
        }
    }
    tx.commit()?;
    Ok(start.elapsed())
}

impl Engine for CrSqlite {
    fn name(&self) -> &'static str {
        NAME
    }

    fn describe(&self) -> Result<String> {
        let dir = tempfile::tempdir()?;
        let db = self.open_db(&dir.path().join(DATABASE))?;
        let sha: String = db.query_row("SELECT crsql_sha()", [], |row| row.get(0))?;
        // Six digits: 170000 is 0.17.0.
        let sql = "SELECT value FROM crsql_master WHERE key = 'crsqlite_version'";
        let version: i64 = db.query_row(sql, [], |row| row.get(0))?;
        let (minor, patch) = (version / 10_000, version / 100 % 100);
        Ok(format!("cr-sqlite 0.{minor}.{patch} (recorded as {version}, {sha})"))
    }

    fn insert(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let db = self.create(&scratch.path(DATABASE), keys)?;
        let elapsed = sql::insert(&db, cx.data.rows(keys))?;
        sql::check(&db, Dataset::digest(cx.data.rows(keys)))?;
        Ok(Some(elapsed))
    }

    /// Its triggers call functions of the extension: a connection without it cannot write.
    fn foreign_insert(&mut self, _cx: &Cx<'_>) -> Result<Option<ForeignInsert>> {
        Ok(None)
    }

    fn update_column(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let db = self.open_full(cx, &scratch, Side::Source)?;
        let elapsed = sql::update(&db, &cx.data.updates)?;
        sql::check(&db, cx.data.digest_after(&cx.data.updates, &[]))?;
        Ok(Some(elapsed))
    }

    fn delete_half(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let db = self.open_full(cx, &scratch, Side::Source)?;
        let elapsed = sql::delete(&db, &cx.data.half)?;
        sql::check(&db, cx.data.digest_after(&[], &cx.data.half))?;
        Ok(Some(elapsed))
    }

    fn small_transactions(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let db = self.open_full(cx, &scratch, Side::Source)?;
        let elapsed = sql::small_transactions(&db, &cx.data.small)?;
        sql::check(&db, cx.data.digest_after(cx.data.small.iter().flatten(), &[]))?;
        Ok(Some(elapsed))
    }

    fn extract(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let db = self.open_db(&self.copy_full(cx, &scratch, keys, Side::Source)?)?;
        let start = Instant::now();
        let changes = changes_since(&db, 0)?;
        let elapsed = start.elapsed();
        let expected = fs::read(self.full_template(cx, keys)?.join(CHANGES))?;
        ensure!(changes.bytes == expected, "extracted other changes than before");
        Ok(Some(elapsed))
    }

    fn apply(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        let changes = fs::read(self.full_template(cx, keys)?.join(CHANGES))?;
        let scratch = cx.scratch()?;
        let db = self.create(&scratch.path(DATABASE), keys)?;
        let elapsed = apply(&db, &changes)?;
        sql::check(&db, Dataset::digest(cx.data.rows(keys)))?;
        Ok(Some(elapsed))
    }

    fn apply_conflicts(&mut self, cx: &Cx<'_>, kind: Conflict) -> Result<Option<Duration>> {
        let template = self.conflict_template(cx, kind)?;
        let changes = fs::read(template.join(CHANGES))?;
        let scratch = cx.scratch()?;
        let db = self.open_db(&scratch.copy(&template.join(DATABASE), DATABASE)?)?;
        let elapsed = apply(&db, &changes)?;
        sql::check(&db, synced(cx.data, kind))?;
        Ok(Some(elapsed))
    }

    fn bytes_sent(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<u64>> {
        let changes = fs::read(self.full_template(cx, keys)?.join(CHANGES))?;
        wire::compressed_size(&changes).map(Some)
    }

    fn file_size(&mut self, cx: &Cx<'_>) -> Result<Option<FileSize>> {
        let scratch = cx.scratch()?;
        let path = self.copy_full(cx, &scratch, Keys::Int, Side::Source)?;
        let with_log = sql::truncated_size(&*self.open_db(&path)?, &path)?;
        Ok(Some(FileSize { with_log, compacted: None }))
    }

    fn one_row(&mut self, cx: &Cx<'_>) -> Result<Option<OneRow>> {
        let scratch = cx.scratch()?;
        let source = self.open_full(cx, &scratch, Side::Source)?;
        let target = self.open_full(cx, &scratch, Side::Peer)?;
        let (mut write, mut extract, mut applied) = (Vec::new(), Vec::new(), Vec::new());
        for row in &cx.data.extra {
            let since = db_version(&source)?;
            write.push(sql::insert(&source, std::slice::from_ref(row))?);
            let start = Instant::now();
            let changes = changes_since(&source, since)?;
            extract.push(start.elapsed());
            ensure!(changes.count == CHANGES_PER_ROW, "extracted {} changes of one row", changes.count);
            applied.push(apply(&target, &changes.bytes)?);
        }
        let expected = Dataset::digest(cx.data.rows(Keys::Int).iter().chain(&cx.data.extra));
        sql::check(&source, expected)?;
        sql::check(&target, expected)?;
        Ok(Some(OneRow { write: median(write), extract: median(extract), apply: median(applied) }))
    }

    fn open(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let template = cx.template(NAME, "many-tables", |dir| {
            let path = dir.join(DATABASE);
            let db = self.open_db(&path)?;
            for number in sql::MANY_TABLES {
                let (create, fill) = sql::many_tables(number);
                db.execute_batch(&create)?;
                track(&db, &sql::many_tables_name(number))?;
                db.execute_batch(&fill)?;
            }
            drop(db);
            sql::check_closed(&path)
        })?;
        let scratch = cx.scratch()?;
        let path = scratch.copy(&template.join(DATABASE), DATABASE)?;
        let mut times = Vec::new();
        for _ in 0..sql::OPENINGS {
            let start = Instant::now();
            let db = self.open_db(&path)?;
            sql::first_read(&db)?;
            times.push(start.elapsed());
        }
        Ok(Some(median(times)))
    }

    fn point_reads(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let db = self.open_full(cx, &scratch, Side::Source)?;
        sql::point_reads(&db, &cx.data.points).map(Some)
    }

    fn full_scan(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let db = self.open_full(cx, &scratch, Side::Source)?;
        sql::full_scan(&db, cx.data.rows(Keys::Int).len()).map(Some)
    }
}

#[cfg(all(test, feature = "cr-sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn foreign_clients_cannot_write() -> Result<()> {
        let extension = find_extension().expect("run scripts/fetch-cr-sqlite");
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(DATABASE);
        drop(CrSqlite::new(extension).create(&path, Keys::Int)?);
        let error = sql::insert(&sql::open(&path)?, Dataset::generate(100).rows(Keys::Int)).unwrap_err();
        assert!(error.to_string().contains("no such function: crsql_"), "{error}");
        Ok(())
    }
}
