//! What goes for good, and what makes sure that nothing goes that is needed.
//!
//! Chunks in remotes go in two steps, because a device that was away may be about to need one: what no file of the library needs is marked by an object that says since when
//! ([`Remote::mark_chunk`](isle_blobs::Remote::mark_chunk)), and goes when it is still marked, and still not needed, after the grace period. Whoever puts a file, or relies on a chunk that stands there,
//! takes its mark away; rows are synced before anything is removed. A chunk that went too early all the same is put again by whoever has the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use isle_blobs::ChunkName;
use serde::Serialize;

use super::Library;
use super::sources::{CONTENT, Content, Source};
use super::work::Work;
use crate::sync::blocking;
use crate::{Error, SyncOptions, params};

/// Files whose chunks are worked out at once.
const WORKED_OUT: usize = 500;

/// What a prune may take away.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// How long a thing was out of the library before it goes for good.
    pub keep: Duration,
    /// For how long a chunk in a remote has been needed by no file before it goes.
    pub grace: Duration,
    /// Only this remote.
    pub remote: Option<String>,
}

impl Default for PruneOptions {
    fn default() -> PruneOptions {
        let day = Duration::from_secs(24 * 3600);
        PruneOptions { keep: 30 * day, grace: 7 * day, remote: None }
    }
}

/// What a prune would take away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PrunePlan {
    /// Copies on this device of files that were put into the trash elsewhere: they go into the trash here.
    pub set_aside: Vec<PathBuf>,
    /// What lies in the trash of this device for longer than it is kept, by where it lies.
    pub emptied: Vec<PathBuf>,
    /// Files that no device and no remote has any more: their rows go.
    pub gone: Vec<String>,
    /// Files that have been in the trash, or replaced, for longer than they are kept, and that no other device has: their rows go.
    pub expired: Vec<String>,
    /// Chunks in remotes that no file needs: marked now.
    pub marked_chunks: u64,
    /// Chunks that were marked before the grace period and are still not needed: removed now.
    pub removed_chunks: u64,
    /// Roots that are away, and why remotes keep chunks that nothing seems to need: nothing of them is touched.
    pub left_alone: Vec<String>,
    #[serde(skip)]
    ids: BTreeSet<String>,
    /// The same with their paths, and whether nobody has the file any more.
    #[serde(skip)]
    rows: Vec<(String, String, bool)>,
}

impl PrunePlan {
    /// Tells which rows go.
    fn name_rows(&mut self) {
        let paths = |of: bool| {
            let rows = self.rows.iter().filter(|(id, _, gone)| *gone == of && self.ids.contains(id));
            rows.map(|(_, path, _)| path.clone()).collect()
        };
        (self.gone, self.expired) = (paths(true), paths(false));
    }

    /// Whether there is nothing to take away.
    pub fn is_empty(&self) -> bool {
        let local = self.set_aside.len() + self.emptied.len() + self.gone.len() + self.expired.len();
        local as u64 + self.marked_chunks + self.removed_chunks == 0
    }
}

/// What a prune took away.
pub type Pruned = PrunePlan;

impl Library {
    /// What [`Library::prune`] would take away. Remotes are listed.
    ///
    /// # Errors
    /// A remote that cannot be listed, or SQLite's reason.
    pub async fn plan_prune(&self, options: &PruneOptions) -> Result<PrunePlan, Error> {
        self.run_prune(options, true).await
    }

    /// Takes away for good what is out of the library for long enough, and what nothing needs.
    ///
    /// # Errors
    /// As [`Library::plan_prune`]; what was taken away until then is.
    pub async fn prune(&self, options: &PruneOptions) -> Result<Pruned, Error> {
        self.run_prune(options, false).await
    }

    async fn run_prune(&self, options: &PruneOptions, dry: bool) -> Result<PrunePlan, Error> {
        self.must_exist()?;
        let _alone = self.lock_movements().await?;
        let (sources, failed) = self.sources(options.remote.as_deref()).await?;
        if let Some((_, error)) = failed.into_iter().next() {
            return Err(error);
        }
        for source in &sources {
            if !dry {
                // What others need is in rows that may not be here yet.
                self.replica
                    .sync_with(&SyncOptions { remote: Some(source.name.clone()), ..SyncOptions::default() })
                    .await?;
            }
            self.take_stock(source).await?;
        }
        let (library, wanted) = (self.clone(), options.clone());
        let mut plan = blocking(self.inner(), move |_| {
            // What is planned is what is done.
            let _alone = library.lock_scans()?;
            let plan = library.plan_local(&wanted)?;
            if dry { Ok(plan) } else { library.prune_local(&wanted, plan) }
        })
        .await?;
        for source in &sources {
            self.prune_remote(source, options, dry, &mut plan).await?;
        }
        if !dry && !plan.is_empty() {
            let (library, facts) = (self.clone(), serde_json::to_string(&plan).unwrap_or_default());
            blocking(self.inner(), move |_| {
                Work::begin(&library, "prune", "")?.end(Ok(facts));
                Ok(())
            })
            .await?;
        }
        Ok(plan)
    }

    fn plan_local(&self, options: &PruneOptions) -> Result<PrunePlan, Error> {
        let keep = i64::try_from(options.keep.as_millis()).unwrap_or(i64::MAX);
        let (before, device) = (self.now().saturating_sub(keep), self.device()?);
        // A device that was put out of the group has nothing for it any more.
        let cut = self.cut_devices()?;
        let mut plan = PrunePlan::default();
        for root in self.roots()? {
            plan.left_alone.extend(root.open().err().map(|error| error.to_string()));
        }
        self.replica.snapshot(|q| {
            let sql = "SELECT r.folder || '/' || s.path FROM library_scan AS s JOIN library_roots AS r ON r.id = s.root JOIN library_sound AS f ON f.id = s.file
                WHERE s.state = 'ok' AND f.trashed_ms IS NOT NULL ORDER BY 1";
            plan.set_aside = q.all::<PathBuf>(sql, &[])?;
            let sql = "SELECT r.folder || '/.isle/trash/' || t.file || '/' || t.name FROM library_trash AS t JOIN library_roots AS r ON r.id = t.root WHERE t.since_ms <= ?1 ORDER BY 1";
            plan.emptied = q.all::<PathBuf>(sql, params![before])?;
            let nowhere = "NOT EXISTS (SELECT 1 FROM library_presence AS p WHERE p.file = f.id AND p.state = 'present' AND instr(?1, p.device) = 0)
                AND NOT EXISTS (SELECT 1 FROM library_stored AS t WHERE t.file = f.id)
                AND NOT EXISTS (SELECT 1 FROM library_trash AS b WHERE b.file = f.id)";
            let sql = format!("SELECT f.id, f.path FROM library_sound AS f WHERE {nowhere} AND f.trashed_ms IS NULL AND f.replaced_by IS NULL ORDER BY f.path");
            let gone = q.all::<(String, String)>(&sql, params![&cut])?;
            // Since when a version is replaced is the time of what replaced it.
            let sql = "SELECT f.id, f.path FROM library_sound AS f LEFT JOIN library_sound AS n ON n.id = f.replaced_by
                WHERE (f.trashed_ms <= ?1 OR (f.trashed_ms IS NULL AND f.replaced_by IS NOT NULL AND max(f.added_ms, coalesce(n.added_ms, 0)) <= ?1))
                AND NOT EXISTS (SELECT 1 FROM library_presence AS p WHERE p.file = f.id AND p.state = 'present' AND instr(?3, p.device) = 0
                    AND (f.trashed_ms IS NULL OR p.device <> ?2)) ORDER BY f.path";
            let expired = q.all::<(String, String)>(sql, params![before, &device, &cut])?;
            plan.ids = gone.iter().chain(&expired).map(|(id, _)| id.clone()).collect();
            plan.rows = gone.into_iter().map(|(id, path)| (id, path, true)).collect();
            plan.rows.extend(expired.into_iter().map(|(id, path)| (id, path, false)));
            plan.name_rows();
            Ok(plan)
        })
    }

    /// Ids of devices that were put out of the group, one after the other.
    fn cut_devices(&self) -> Result<String, Error> {
        let membership = self.inner().store.membership()?;
        let cut = membership.members.iter().filter(|(_, member)| member.revoked);
        Ok(cut.map(|(key, _)| isle_identity::device_id(key).to_string()).collect::<Vec<_>>().join(" "))
    }

    fn prune_local(&self, options: &PruneOptions, mut plan: PrunePlan) -> Result<PrunePlan, Error> {
        let keep = i64::try_from(options.keep.as_millis()).unwrap_or(i64::MAX);
        let before = self.now().saturating_sub(keep);
        let sql = "SELECT DISTINCT s.file FROM library_scan AS s JOIN library_sound AS f ON f.id = s.file
            WHERE s.state = 'ok' AND f.trashed_ms IS NOT NULL";
        let old: Vec<_> = self.trash_rows()?.into_iter().filter(|row| row.since_ms <= before).collect();
        let aside: Vec<String> = self.replica.read(|q| q.all(sql, &[]))?;
        for file in aside {
            for (root, folder, entry) in self.places_of(&file)? {
                // One that cannot be moved stays, and so does its row.
                if let Err(error) = self.put_aside(&root, &folder, &entry, "trashed") {
                    plan.left_alone.push(error.to_string());
                }
            }
        }
        let here: BTreeSet<String> = {
            let sql = "SELECT DISTINCT file FROM library_scan WHERE state = 'ok' AND file IS NOT NULL";
            self.replica.read(|q| q.all::<String>(sql, &[]))?.into_iter().collect()
        };
        plan.ids.retain(|id| !here.contains(id));
        plan.name_rows();
        for root in self.roots()? {
            let Ok(folder) = root.open() else { continue };
            for row in old.iter().filter(|row| row.root == root.id) {
                match folder.remove_trashed(&row.file, &row.name) {
                    Ok(()) => self.forget_trashed(&row.file, row.root, &row.name)?,
                    Err(error) => plan.left_alone.push(error.to_string()),
                }
            }
            // Fetches that nobody went on with.
            let left = folder.partials_before(before).unwrap_or_default();
            for error in left.iter().filter_map(|left| folder.discard_partial(left).err()) {
                plan.left_alone.push(error.to_string());
            }
        }
        self.replica.write(|tx| {
            let sql =
                "DELETE FROM library_transfers WHERE what = 'delete' AND state = 'Completed' AND updated_ms <= ?1";
            tx.execute(sql, params![before])?;
            for id in &plan.ids {
                tx.execute("DELETE FROM library_files WHERE id = ?1", params![id])?;
                for sql in [
                    "DELETE FROM library_presence WHERE file = ?1 AND state <> 'present'",
                    "DELETE FROM library_sets WHERE file = ?1",
                    "DELETE FROM library_stored WHERE file = ?1",
                    "DELETE FROM library_transfers WHERE file = ?1",
                    "DELETE FROM library_pins WHERE file = ?1",
                ] {
                    tx.execute(sql, params![id])?;
                }
            }
            Ok::<(), Error>(())
        })?;
        Ok(plan)
    }

    /// Marks and removes chunks that no file of the library needs.
    async fn prune_remote(
        &self,
        source: &Source,
        options: &PruneOptions,
        dry: bool,
        plan: &mut PrunePlan,
    ) -> Result<(), Error> {
        let failed = |error| source.failed(error);
        let (library, listed, ids) = (self.clone(), source.clone(), plan.ids.clone());
        let unneeded = match blocking(self.inner(), move |_| library.unneeded(&listed, &ids)).await? {
            Ok(unneeded) => unneeded,
            Err(why) => {
                plan.left_alone.push(format!("remote {:?}: {why}", source.name));
                return Ok(());
            }
        };
        let marks = source.remote.list_marks().await.map_err(failed)?;
        let marks: BTreeMap<ChunkName, u64> = marks.into_iter().map(|mark| (mark.name, mark.modified_ms)).collect();
        let grace = u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX);
        let now = self.inner().runtime.now_ms();
        for name in marks.keys().filter(|name| !unneeded.contains(*name) && !dry) {
            source.remote.unmark_chunk(name).await.map_err(failed)?;
        }
        if !dry {
            // Those that somebody came to need are not to go any more, whoever took the mark away.
            let (library, remote) = (self.clone(), source.name.clone());
            let sql =
                "SELECT file FROM library_transfers WHERE remote = ?1 AND what = 'delete' AND state <> 'Completed'";
            let waiting =
                blocking(self.inner(), move |_| library.replica.read(|q| q.all::<String>(sql, params![&remote])));
            for name in waiting.await?.iter().filter_map(|name| ChunkName::parse(name)) {
                if !unneeded.contains(&name) {
                    self.note_deletion(source, &name, None, None).await?;
                }
            }
        }
        for name in unneeded {
            match marks.get(&name) {
                None => {
                    plan.marked_chunks += 1;
                    if !dry {
                        source.remote.mark_chunk(&name).await.map_err(failed)?;
                        self.note_deletion(source, &name, Some("Pending"), None).await?;
                    }
                }
                Some(since_ms) if now.saturating_sub(*since_ms) >= grace => {
                    // Somebody may have come to need it in this moment, and taken the mark away.
                    if !dry && !source.remote.is_marked(&name).await.map_err(failed)? {
                        continue;
                    }
                    plan.removed_chunks += 1;
                    if !dry {
                        self.delete_chunk(source, name).await?;
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn delete_chunk(&self, source: &Source, name: ChunkName) -> Result<(), Error> {
        self.note_deletion(source, &name, Some("InProgress"), None).await?;
        let deleted = async {
            source.remote.delete_chunk(&name).await?;
            source.remote.unmark_chunk(&name).await
        };
        if let Err(error) = deleted.await.map_err(|error| source.failed(error)) {
            self.note_deletion(source, &name, Some("Failed"), Some(error.to_string())).await?;
            return Err(error);
        }
        self.note_deletion(source, &name, Some("Completed"), None).await?;
        let (library, remote) = (self.clone(), source.name.clone());
        blocking(self.inner(), move |_| library.note_trust(&remote, &name, "", None)).await
    }

    /// Notes how the deletion of a chunk stands; nothing of it, if it is needed after all.
    async fn note_deletion(
        &self,
        source: &Source,
        name: &ChunkName,
        state: Option<&'static str>,
        error: Option<String>,
    ) -> Result<(), Error> {
        let (library, remote, name) = (self.clone(), source.name.clone(), name.as_str().to_owned());
        blocking(self.inner(), move |_| match state {
            Some(state) => library.note_transfer((&name, &remote, "delete"), state, (0, 0), error.as_deref()),
            None => {
                let sql = "DELETE FROM library_transfers WHERE file = ?1 AND remote = ?2 AND what = 'delete'";
                library.replica.write(|tx| tx.execute(sql, params![&name, &remote])).map(|_| ())
            }
        })
        .await
    }

    /// Chunks of a remote that no file needs, those left out that are to go; or why that cannot be said. Blocks.
    fn unneeded(
        &self,
        source: &Source,
        going: &BTreeSet<String>,
    ) -> Result<Result<BTreeSet<ChunkName>, String>, Error> {
        // A row that makes no sense may be one of a later version of isle, or one that somebody broke: what it needs is not known.
        let odd = "SELECT CAST(path AS TEXT) FROM library_files WHERE rowid NOT IN (SELECT f.rowid FROM library_files AS f WHERE f.id IN (SELECT id FROM library_sound)) LIMIT 1";
        if let Some(path) = self.replica.read(|q| q.one::<Option<String>>(odd, &[]))? {
            return Ok(Err(format!(
                "the row of {:?} makes no sense here; no chunk is removed before it does",
                path.unwrap_or_default()
            )));
        }
        let sql = "SELECT name FROM library_chunks WHERE remote = ?1";
        let names: Vec<String> = self.replica.read(|q| q.all(sql, params![&source.name]))?;
        let mut left: BTreeSet<ChunkName> = names.iter().filter_map(|name| ChunkName::parse(name)).collect();
        drop(names);
        let mut after = String::new();
        loop {
            let sql = "SELECT id FROM library_sound WHERE id > ?1 ORDER BY id LIMIT ?2";
            let page: Vec<String> = self.replica.read(|q| q.all(sql, params![&after, WORKED_OUT as i64]))?;
            let Some(last) = page.last() else { return Ok(Ok(left)) };
            after.clone_from(last);
            for id in page.iter().filter(|id| !going.contains(*id)) {
                // One at a time: a list may be large.
                let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id = ?1");
                let Some(file) = self.replica.read(|q| q.one::<Content>(&sql, params![id]))? else { continue };
                match file.names(&source.remote) {
                    Ok(names) => names.iter().for_each(|name| _ = left.remove(name)),
                    Err(error) => {
                        return Ok(Err(format!("{}: {error}; no chunk is removed before that is settled", file.path)));
                    }
                }
            }
        }
    }
}
