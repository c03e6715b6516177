//! isle itself.
//!
//! Writes and reads go through its public API, [`Replica`]. What is handed over are the sealed changesets of
//! its log, headers and blocks, as [`Store`] gives them out and takes them in: what `Replica::sync` does
//! without a remote in between. A file is copied without regard to the site id in it: only a sync looks
//! whether a file is a copy.
//!
//! Connections are opened before the clock starts, as those of the other engines are: isle opens its own when they
//! are first needed, so an empty transaction comes first.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use ::isle::{Builder, Param, Replica, SiteId, SystemRuntime, Transaction, params};
use anyhow::{Context, Result, ensure};
use isle_changeset::Header;
use isle_clock::Hlc;
use isle_identity::DeviceSecret;
use isle_store::{Frame, Init, Logged, Options, Store};

use crate::data::{Dataset, Digest, Key, Keys, Row, StockUpdate};
use crate::engine::{ChangeTable, Conflict, Counter, Cx, Engine, FileSize, ForeignInsert, OneRow, Scratch, median};
use crate::sql::{self, Tuning};
use crate::text::{self, TextEdit};
use crate::wire::{Reader, Writer};

const NAME: &str = "isle";
const DATABASE: &str = "isle.db";
const CHANGESETS: &str = "changesets";
const MIGRATION: &str = "migration";
const GROUP: &str = "group";
const APP: &str = "bench";
/// Read from the log at once.
const EXPORT_BYTES: usize = 1 << 20;
/// Between writes of two devices whose order matters: their times must differ.
const PAUSE: Duration = Duration::from_millis(20);

/// The library this repository is about.
#[derive(Debug)]
pub struct Isle;

/// Which side of a sync a database is.
#[derive(Clone, Copy)]
enum Side {
    /// The one that wrote the rows.
    Source,
    /// Another one, level with it.
    Peer,
}

impl Side {
    fn file(self) -> &'static str {
        match self {
            Self::Source => "source.db",
            Self::Peer => "peer.db",
        }
    }
}

/// A sealed changeset as it travels.
#[derive(Clone, Debug, Default, PartialEq)]
struct Changeset {
    header: Vec<u8>,
    blocks: Vec<Vec<u8>>,
    /// The device's signature under the versions up to this one; empty for most.
    proof: Vec<u8>,
}

impl Changeset {
    fn bytes(&self) -> u64 {
        [&self.header, &self.proof].into_iter().chain(&self.blocks).map(|part| part.len() as u64).sum()
    }
}

fn save(changesets: &[Changeset], path: &Path) -> Result<()> {
    let mut out = Writer::default();
    for changeset in changesets {
        out.bytes(&changeset.header);
        out.integer(changeset.blocks.len() as i64);
        changeset.blocks.iter().for_each(|block| out.bytes(block));
        out.bytes(&changeset.proof);
    }
    Ok(fs::write(path, out.finish())?)
}

fn load(path: &Path) -> Result<Vec<Changeset>> {
    let bytes = fs::read(path)?;
    let mut reader = Reader::new(&bytes);
    let mut changesets = Vec::new();
    while !reader.is_empty() {
        let header = reader.bytes()?.to_vec();
        let blocks = (0..reader.integer()?).map(|_| reader.bytes().map(<[u8]>::to_vec)).collect::<Result<_>>()?;
        let proof = reader.bytes()?.to_vec();
        changesets.push(Changeset { header, blocks, proof });
    }
    Ok(changesets)
}

fn rows_of(changesets: &[Changeset]) -> Result<u64> {
    changesets.iter().map(|it| Ok(Header::decode(&it.header)?.rows())).sum()
}

/// The device of all files of a run: it signs for each of them. Made once, as a replica reads its key once.
pub(crate) fn secret() -> Result<&'static DeviceSecret> {
    static SECRET: OnceLock<DeviceSecret> = OnceLock::new();
    if SECRET.get().is_none() {
        let _ = SECRET.set(DeviceSecret::from_seed([7; 32])?);
    }
    SECRET.get().context("the key is made")
}

/// A home that belongs to that device.
pub(crate) fn home(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path)?;
    fs::write(path.join("device.key"), "07".repeat(32))?;
    Ok(path)
}

/// The signatures of own versions that are not signed yet, as they are made when changesets are handed over.
pub(crate) fn sign(store: &Store, last: u64) -> Result<HashMap<u64, Vec<u8>>> {
    let (secret, group) = (secret()?, store.group()?);
    let nonce = store.site_nonce()?.context("the site is no device's")?;
    let proof = |(version, chain): (u64, _)| (version, isle_identity::prove(secret, &nonce, group, version, &chain));
    Ok(store.unsigned(last)?.into_iter().map(proof).collect())
}

/// The site's own sealed changesets after a version of it.
fn export(store: &Store, site: SiteId, since: u64) -> Result<Vec<Changeset>> {
    let mut proofs = sign(store, store.vector()?.get(site))?;
    let mut changesets = Vec::new();
    let (mut since, mut more) = (since, true);
    while more {
        let found;
        (found, more) = store.changesets(site, since, EXPORT_BYTES)?;
        for Logged { version, header, only, .. } in found {
            since = version;
            let proof = proofs.remove(&version).unwrap_or_default();
            if let Some(only) = only {
                changesets.push(Changeset { header, blocks: vec![only], proof });
                continue;
            }
            let count = Header::decode(&header)?.blocks.len();
            let block = |n| store.block(site, version, n)?.context("a block is not in the log");
            changesets.push(Changeset { header, blocks: (0..count).map(block).collect::<Result<_>>()?, proof });
        }
    }
    Ok(changesets)
}

/// Takes changesets into the log and merges them; gives the time, and how many values went to the conflict journal.
fn apply(store: &Store, changesets: &[Changeset]) -> Result<(Duration, u64)> {
    let start = Instant::now();
    let mut frames = Vec::new();
    for Changeset { header, blocks, proof } in changesets {
        let Header { site, version, .. } = Header::decode(header)?;
        if !proof.is_empty() {
            frames.push(Frame::Proof { site, version, bytes: proof });
        }
        frames.push(Frame::Header(header));
        frames.extend(blocks.iter().enumerate().map(|(index, bytes)| Frame::Block { site, version, index, bytes }));
    }
    let applied = store.receive(frames.into_iter())?;
    let elapsed = start.elapsed();
    ensure!(applied.waiting.is_empty(), "not applied: {:?}", applied.waiting);
    ensure!(applied.versions == changesets.len() as u64, "{} versions were applied", applied.versions);
    Ok((elapsed, applied.conflicts))
}

/// The settings that all engines share.
fn options(path: &Path) -> Options {
    let Tuning { page_cache_bytes, checkpoint_pages } = sql::tuning();
    Options { page_cache_bytes, checkpoint_pages, ..Options::new(path) }
}

fn builder(path: &Path) -> Builder {
    let Tuning { page_cache_bytes, checkpoint_pages } = sql::tuning();
    Replica::builder(path).page_cache_bytes(page_cache_bytes).checkpoint_pages(checkpoint_pages)
}

fn open_store(path: &Path) -> Result<Store> {
    let store = Store::open(options(path), Arc::new(SystemRuntime))?;
    Ok(store)
}

/// A store whose connection for merging is open.
fn open_merging(path: &Path) -> Result<Store> {
    let store = open_store(path)?;
    store.put_frames(std::iter::empty())?;
    Ok(store)
}

fn open_replica(path: &Path) -> Result<Replica> {
    Ok(builder(path).open()?)
}

/// A replica whose connection for writing is open.
fn open_writing(path: &Path) -> Result<Replica> {
    let replica = open_replica(path)?;
    replica.write(|_| Ok(()))?;
    Ok(replica)
}

/// A new replica; its home is beside its file.
fn init(path: &Path) -> Result<Replica> {
    Ok(builder(path).home(home(path.with_extension("home"))?).app(APP).init()?)
}

/// A new replica with the empty table, tracked.
fn create(path: &Path, keys: Keys) -> Result<Replica> {
    let replica = init(path)?;
    replica.write(|tx| tx.execute_batch(sql::schema(keys)))?;
    replica.track(&["items"])?;
    replica.write(|_| Ok(()))?;
    Ok(replica)
}

/// Writes everything back into the file, so that it may be copied.
fn close(path: &Path) -> Result<()> {
    open_store(path)?.close()?;
    sql::check_closed(path)
}

fn key_param(key: &Key) -> Param<'_> {
    match key {
        Key::Int(key) => Param::Integer(*key),
        Key::Uuid(key) => Param::Blob(key),
    }
}

/// Runs statements in one transaction, each of which changes one row; the time includes the commit.
fn timed_write(
    replica: &Replica,
    statements: usize,
    f: impl FnOnce(&Transaction<'_>) -> Result<usize, ::isle::Error>,
) -> Result<Duration> {
    let start = Instant::now();
    let changed = replica.write(f)?;
    let elapsed = start.elapsed();
    ensure!(changed == statements, "{statements} statements changed {changed} rows");
    Ok(elapsed)
}

fn insert(replica: &Replica, rows: &[Row]) -> Result<Duration> {
    timed_write(replica, rows.len(), |tx| {
        let mut statement = tx.prepare(sql::INSERT)?;
        let mut changed = 0;
        for row in rows {
            changed += statement.execute(params![key_param(&row.key), &row.title, row.stock, row.score])?;
        }
        Ok(changed)
    })
}

fn update(replica: &Replica, updates: &[StockUpdate]) -> Result<Duration> {
    timed_write(replica, updates.len(), |tx| {
        let mut statement = tx.prepare(sql::UPDATE)?;
        let mut changed = 0;
        for &(key, stock) in updates {
            changed += statement.execute(params![key, stock])?;
        }
        Ok(changed)
    })
}

fn delete(replica: &Replica, keys: &[i64]) -> Result<Duration> {
    timed_write(replica, keys.len(), |tx| {
        let mut statement = tx.prepare(sql::DELETE)?;
        let mut changed = 0;
        for &key in keys {
            changed += statement.execute(params![key])?;
        }
        Ok(changed)
    })
}

/// Fails unless the table, seen by a connection that knows nothing of isle, holds exactly what is expected.
fn check(path: &Path, expected: Digest) -> Result<()> {
    sql::check(&sql::open(path)?, expected)
}

/// Fails unless nothing waits to be sealed and the site's log after `since` has this many rows.
fn check_log(path: &Path, since: u64, rows: usize) -> Result<()> {
    let store = open_store(path)?;
    let status = store.status()?;
    ensure!(status.queued == 0, "{} changes wait to be sealed", status.queued);
    let found = rows_of(&export(&store, status.site, since)?)?;
    ensure!(found == rows as u64, "the log has {found} rows, expected {rows}");
    Ok(())
}

impl Isle {
    /// The directory with the full databases of both sides, and what an empty replica needs to become level.
    fn full_template(cx: &Cx<'_>, keys: Keys) -> Result<PathBuf> {
        cx.template(NAME, &format!("full-{}", keys.name()), |dir| {
            let (path, peer_path) = (dir.join(Side::Source.file()), dir.join(Side::Peer.file()));
            let rows = cx.data.rows(keys);
            insert(&create(&path, keys)?, rows)?;
            let source = open_store(&path)?;
            let status = source.status()?;
            let changesets = export(&source, status.site, 0)?;
            ensure!(rows_of(&changesets)? == rows.len() as u64, "exported other rows than were written");
            save(&changesets, &dir.join(CHANGESETS))?;
            fs::write(dir.join(GROUP), status.group.as_bytes())?;
            let heads = source.schema_heads()?;
            ensure!(heads.len() == 1, "there are {} schema operations", heads.len());
            fs::write(dir.join(MIGRATION), source.migration(heads[0])?.context("the schema operation is gone")?)?;
            let peer = Self::empty_peer(dir, &peer_path)?;
            apply(&peer, &changesets)?;
            check(&peer_path, Dataset::digest(rows))?;
            ensure!(peer.state_hash()? == source.state_hash()?, "the two sides differ");
            drop((source, peer));
            close(&path)?;
            close(&peer_path)
        })
    }

    /// A second replica that has the schema and no rows.
    fn empty_peer(template: &Path, path: &Path) -> Result<Store> {
        let store = Store::init(
            options(path),
            Arc::new(SystemRuntime),
            &Init { app: APP.to_owned(), owner: Some(secret()?.key()) },
        )?;
        let group: [u8; 16] = fs::read(template.join(GROUP))?.as_slice().try_into()?;
        store.join_group(::isle::GroupId::from_bytes(group), None)?;
        store.put_migration(&fs::read(template.join(MIGRATION))?)?;
        store.put_frames(std::iter::empty())?;
        Ok(store)
    }

    fn copy_full(cx: &Cx<'_>, scratch: &Scratch, keys: Keys, side: Side) -> Result<PathBuf> {
        scratch.copy(&Self::full_template(cx, keys)?.join(side.file()), side.file())
    }

    /// The directory with a local database that wrote the contended rows and the changesets of a remote one that
    /// wrote them too: the first half of the local writes is older than the remote ones, the second half younger.
    fn conflict_template(cx: &Cx<'_>, kind: Conflict) -> Result<PathBuf> {
        cx.template(NAME, &format!("conflict-{}", kind.name()), |dir| {
            let scratch = cx.scratch()?;
            let remote_path = Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?;
            let local_path = Self::copy_full(cx, &scratch, Keys::Int, Side::Peer)?;
            let (older, younger) = cx.data.ours.split_at(cx.data.ours.len() / 2);
            let remote_store = open_store(&remote_path)?;
            let site = remote_store.status()?.site;
            let since = remote_store.vector()?.get(site);
            let (remote, local) = (open_writing(&remote_path)?, open_writing(&local_path)?);
            update(&local, older)?;
            thread::sleep(PAUSE);
            match kind {
                Conflict::Update => update(&remote, &cx.data.theirs)?,
                Conflict::Delete => delete(&remote, &cx.data.contended())?,
            };
            thread::sleep(PAUSE);
            update(&local, younger)?;
            drop((remote, local));
            let theirs = export(&remote_store, site, since)?;
            ensure!(rows_of(&theirs)? == cx.data.theirs.len() as u64, "exported other rows than were written");
            save(&theirs, &dir.join(CHANGESETS))?;
            close(&local_path)?;
            fs::copy(&local_path, dir.join(DATABASE))?;

            let local_store = open_store(&local_path)?;
            let ours = export(&local_store, local_store.status()?.site, 0)?;
            ensure!(rows_of(&ours)? == cx.data.ours.len() as u64, "exported other rows than were written");
            apply(&local_store, &theirs)?;
            apply(&remote_store, &ours)?;
            check(&local_path, synced(cx.data, kind))?;
            check(&remote_path, synced(cx.data, kind))?;
            ensure!(local_store.state_hash()? == remote_store.state_hash()?, "the two sides differ");
            Ok(())
        })
    }
}

/// What both sides hold after a conflict: the later of two concurrent values wins, and a delete wins over an update.
fn synced(data: &Dataset, kind: Conflict) -> Digest {
    match kind {
        Conflict::Update => {
            let half = data.ours.len() / 2;
            data.digest_after(data.theirs[..half].iter().chain(&data.ours[half..]), &[])
        }
        Conflict::Delete => data.digest_after(&[], &data.contended()),
    }
}

impl Engine for Isle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn describe(&self) -> Result<String> {
        Ok(format!("isle {}", env!("CARGO_PKG_VERSION")))
    }

    fn insert(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let path = scratch.path(DATABASE);
        let replica = create(&path, keys)?;
        let elapsed = insert(&replica, cx.data.rows(keys))?;
        check(&path, Dataset::digest(cx.data.rows(keys)))?;
        check_log(&path, 0, cx.data.rows(keys).len())?;
        Ok(Some(elapsed))
    }

    fn foreign_insert(&mut self, cx: &Cx<'_>) -> Result<Option<ForeignInsert>> {
        let scratch = cx.scratch()?;
        let path = scratch.path(DATABASE);
        drop(create(&path, Keys::Int)?);
        close(&path)?;
        let rows = cx.data.rows(Keys::Int);
        let conn = sql::open(&path)?;
        let write = sql::insert(&conn, rows)?;
        let start = Instant::now();
        let replica = open_replica(&path)?;
        replica.seal()?;
        let capture = start.elapsed();
        sql::check(&conn, Dataset::digest(rows))?;
        check_log(&path, 0, rows.len())?;
        Ok(Some(ForeignInsert { write, capture: Some(capture) }))
    }

    fn update_column(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let path = Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?;
        let elapsed = update(&open_writing(&path)?, &cx.data.updates)?;
        check(&path, cx.data.digest_after(&cx.data.updates, &[]))?;
        check_log(&path, 1, cx.data.updates.len())?;
        Ok(Some(elapsed))
    }

    fn counter(&mut self, cx: &Cx<'_>) -> Result<Option<Counter>> {
        let scratch = cx.scratch()?;
        let (path, peer) = (scratch.path(DATABASE), scratch.path("peer.db"));
        let replica = init(&path)?;
        replica.apply_schema(format!("{};\n-- @merge items.stock counter", sql::schema(Keys::Int)).as_str())?;
        replica.write(|_| Ok(()))?;
        let insert = insert(&replica, cx.data.rows(Keys::Int))?;
        let update = update(&replica, &cx.data.updates)?;
        check(&path, cx.data.digest_after(&cx.data.updates, &[]))?;
        let store = open_store(&path)?;
        let status = store.status()?;
        drop(init(&peer)?);
        let other = open_merging(&peer)?;
        other.join_group(status.group, None)?;
        for head in store.schema_heads()? {
            other.put_migration(&store.migration(head)?.context("a schema operation is missing")?)?;
        }
        let (apply, _) = apply(&other, &export(&store, status.site, 0)?)?;
        check(&peer, cx.data.digest_after(&cx.data.updates, &[]))?;
        Ok(Some(Counter { insert, update, apply }))
    }

    fn change_table(&mut self, cx: &Cx<'_>) -> Result<Option<ChangeTable>> {
        let scratch = cx.scratch()?;
        let path = Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?;
        let replica = open_writing(&path)?;
        replica.apply_schema(sql::schema(Keys::Int))?;
        let start = Instant::now();
        let added = replica.apply_schema(sql::changed_schema(false))?;
        let add = start.elapsed();
        let start = Instant::now();
        let rebuilt = replica.apply_schema(sql::changed_schema(true))?;
        let rebuild = start.elapsed();
        ensure!(added.changes.len() == 1 && rebuilt.rewrites(), "{added:?} {rebuilt:?}");
        check(&path, Dataset::digest(cx.data.rows(Keys::Int)))?;
        Ok(Some(ChangeTable { add, rebuild }))
    }

    fn edit_text(&mut self, cx: &Cx<'_>, length: usize) -> Result<Option<TextEdit>> {
        text::isle(&cx.scratch()?, length).map(Some)
    }

    fn delete_half(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let path = Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?;
        let elapsed = delete(&open_writing(&path)?, &cx.data.half)?;
        check(&path, cx.data.digest_after(&[], &cx.data.half))?;
        check_log(&path, 1, cx.data.half.len())?;
        Ok(Some(elapsed))
    }

    fn small_transactions(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let path = Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?;
        let replica = open_writing(&path)?;
        let start = Instant::now();
        for updates in &cx.data.small {
            update(&replica, updates)?;
        }
        let elapsed = start.elapsed();
        check(&path, cx.data.digest_after(cx.data.small.iter().flatten(), &[]))?;
        let store = open_store(&path)?;
        let versions = store.vector()?.get(store.status()?.site);
        ensure!(versions == 1 + cx.data.small.len() as u64, "the log has {versions} versions");
        Ok(Some(elapsed))
    }

    /// Export since the empty version vector, sealed.
    fn extract(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let store = open_store(&Self::copy_full(cx, &scratch, keys, Side::Source)?)?;
        let site = store.status()?.site;
        let start = Instant::now();
        let changesets = export(&store, site, 0)?;
        let elapsed = start.elapsed();
        let expected = load(&Self::full_template(cx, keys)?.join(CHANGESETS))?;
        ensure!(changesets == expected, "extracted other changesets than before");
        Ok(Some(elapsed))
    }

    /// Apply of those sealed changesets, unsealing included.
    fn apply(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<Duration>> {
        let template = Self::full_template(cx, keys)?;
        let changesets = load(&template.join(CHANGESETS))?;
        let scratch = cx.scratch()?;
        let path = scratch.path(DATABASE);
        let store = Self::empty_peer(&template, &path)?;
        let (elapsed, _) = apply(&store, &changesets)?;
        check(&path, Dataset::digest(cx.data.rows(keys)))?;
        Ok(Some(elapsed))
    }

    /// As [`Isle::apply`], to a replica that wrote the same rows and had not seen the changesets. Every losing value
    /// also goes to the conflict journal.
    fn apply_conflicts(&mut self, cx: &Cx<'_>, kind: Conflict) -> Result<Option<Duration>> {
        let template = Self::conflict_template(cx, kind)?;
        let changesets = load(&template.join(CHANGESETS))?;
        let scratch = cx.scratch()?;
        let path = scratch.copy(&template.join(DATABASE), DATABASE)?;
        let store = open_merging(&path)?;
        let (elapsed, conflicts) = apply(&store, &changesets)?;
        check(&path, synced(cx.data, kind))?;
        ensure!(conflicts == cx.data.theirs.len() as u64, "{conflicts} values went to the journal");
        Ok(Some(elapsed))
    }

    /// The length of the sealed changesets: they are compressed already.
    fn bytes_sent(&mut self, cx: &Cx<'_>, keys: Keys) -> Result<Option<u64>> {
        let changesets = load(&Self::full_template(cx, keys)?.join(CHANGESETS))?;
        Ok(Some(changesets.iter().map(Changeset::bytes).sum()))
    }

    fn file_size(&mut self, cx: &Cx<'_>) -> Result<Option<FileSize>> {
        let scratch = cx.scratch()?;
        let path = Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?;
        let with_log = sql::truncated_size(&sql::open(&path)?, &path)?;
        let store = open_store(&path)?;
        store.mark_published(store.status()?.version)?;
        let all = Hlc::new(1 << 46, 0).context("a time far ahead")?;
        let pruned = store.prune_log(all)?;
        ensure!(pruned.versions > 0, "nothing was pruned");
        store.vacuum()?;
        store.close()?;
        let compacted = sql::truncated_size(&sql::open(&path)?, &path)?;
        Ok(Some(FileSize { with_log, compacted: Some(compacted) }))
    }

    /// Export since the version vector before the write.
    fn one_row(&mut self, cx: &Cx<'_>) -> Result<Option<OneRow>> {
        let scratch = cx.scratch()?;
        let source_path = Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?;
        let target_path = Self::copy_full(cx, &scratch, Keys::Int, Side::Peer)?;
        let (source, target) = (open_writing(&source_path)?, open_merging(&target_path)?);
        // The replica does not hand out changesets by itself: another handle on the same file does.
        let log = open_store(&source_path)?;
        let site = log.status()?.site;
        let (mut write, mut extract, mut applied) = (Vec::new(), Vec::new(), Vec::new());
        for row in &cx.data.extra {
            let since = log.vector()?.get(site);
            write.push(insert(&source, std::slice::from_ref(row))?);
            let start = Instant::now();
            let changesets = export(&log, site, since)?;
            extract.push(start.elapsed());
            ensure!(rows_of(&changesets)? == 1, "extracted {} changesets of one row", changesets.len());
            applied.push(apply(&target, &changesets)?.0);
        }
        let expected = Dataset::digest(cx.data.rows(Keys::Int).iter().chain(&cx.data.extra));
        check(&source_path, expected)?;
        check(&target_path, expected)?;
        Ok(Some(OneRow { write: median(write), extract: median(extract), apply: median(applied) }))
    }

    fn open(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let template = cx.template(NAME, "many-tables", |dir| {
            let path = dir.join(DATABASE);
            let replica = init(&path)?;
            for number in sql::MANY_TABLES {
                let (create, fill) = sql::many_tables(number);
                replica.write(|tx| tx.execute_batch(&create))?;
                replica.track(&[&sql::many_tables_name(number)])?;
                replica.write(|tx| tx.execute_batch(&fill))?;
            }
            drop(replica);
            close(&path)
        })?;
        let scratch = cx.scratch()?;
        let path = scratch.copy(&template.join(DATABASE), DATABASE)?;
        let mut times = Vec::new();
        for _ in 0..sql::OPENINGS {
            let start = Instant::now();
            let replica = open_replica(&path)?;
            read(&replica, sql::first_read)?;
            times.push(start.elapsed());
        }
        Ok(Some(median(times)))
    }

    /// One `replica.read` with [`crate::sql::point_read`] per key. A single `replica.read` around all of
    /// them would save the locking that plain pays for each.
    fn point_reads(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let replica = open_replica(&Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?)?;
        let start = Instant::now();
        for &key in &cx.data.points {
            read(&replica, |conn| sql::point_read(conn, key))?;
        }
        Ok(Some(start.elapsed()))
    }

    fn full_scan(&mut self, cx: &Cx<'_>) -> Result<Option<Duration>> {
        let scratch = cx.scratch()?;
        let replica = open_replica(&Self::copy_full(cx, &scratch, Keys::Int, Side::Source)?)?;
        read(&replica, |conn| sql::full_scan(conn, cx.data.rows(Keys::Int).len())).map(Some)
    }
}

/// Runs a query of the bench in one `replica.read`.
fn read<T>(replica: &Replica, f: impl FnOnce(&rusqlite::Connection) -> Result<T>) -> Result<T> {
    replica.read(|queries| Ok(f(queries.as_rusqlite())))?
}
