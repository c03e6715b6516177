//! What goes, and what makes sure that nothing goes that is needed.
//!
//! *Evict* takes the copy of this device away when the content is known to be elsewhere. *Trash* takes a file out of the library on every device; copies go into
//! the trash of the root in which they are, here at once and elsewhere with `prune`. *Prune* is the only thing that removes for good, and says before what it would.
//!
//! Chunks in remotes go in two steps, because a device that was away may be about to need one: what no file of the library needs is marked by an object that says since when
//! ([`Remote::mark_chunk`](isle_blobs::Remote::mark_chunk)), and goes when it is still not needed after the grace period. Whoever has the file puts a chunk again that is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use isle_blobs::ChunkName;
use isle_files::{Folder, FolderError, LogicalPath};
use serde::{Deserialize, Serialize};

use super::fetch::hash_of;
use super::index::{self, Entry};
use super::push::MoveOptions;
use super::roots::Root;
use super::sources::{CONTENT, Content, Source};
use super::take_up::Book;
use super::work::Work;
use super::{FileInfo, Library, LibraryError, Problem};
use crate::sync::blocking;
use crate::{Error, params};

const PROBLEMS_MAX: usize = 100;
/// Files whose chunks are worked out at once.
const WORKED_OUT: usize = 500;

/// A file that is in a trash of this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trashed {
    /// The file's id.
    pub id: String,
    /// Its path in the library.
    pub path: String,
    /// Where it stood on this device.
    pub original_path: PathBuf,
    /// Where it is now.
    pub trash_path: PathBuf,
    /// Why: `trashed`, or `replaced` by a newer version.
    pub why: String,
    /// When it was put there, in milliseconds since 1970.
    pub since_ms: u64,
}

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
    /// What lies in the trash of this device for longer than it is kept.
    pub emptied: Vec<PathBuf>,
    /// Files that no device and no remote has any more: their rows go.
    pub gone: Vec<String>,
    /// Files that have been in the trash, or replaced, for longer than they are kept, and that no other device has: their rows go.
    pub expired: Vec<String>,
    /// Chunks in remotes that no file needs: marked now.
    pub marked_chunks: u64,
    /// Chunks that were marked before the grace period and are still not needed: removed now.
    pub removed_chunks: u64,
    #[serde(skip)]
    ids: BTreeSet<String>,
}

impl PrunePlan {
    /// Whether there is nothing to take away.
    pub fn is_empty(&self) -> bool {
        let local = self.set_aside.len() + self.emptied.len() + self.gone.len() + self.expired.len();
        local as u64 + self.marked_chunks + self.removed_chunks == 0
    }
}

/// What a prune took away.
pub type Pruned = PrunePlan;

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The operation's id.
    pub operation: i64,
    /// Files of this device that were read.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that are not what they were, although nothing says that they were written: the disk is failing, or somebody set their times.
    pub damaged: Vec<Problem>,
    /// Files that were changed or went since the last scan.
    pub changed: Vec<Problem>,
    /// Files that a remote was said to have whole and has not: a push puts them again.
    pub lost: Vec<Problem>,
}

/// A file in a trash.
#[derive(Deserialize)]
struct TrashRow {
    file: String,
    root: i64,
    name: String,
    path: String,
    since_ms: u64,
    why: String,
    logical: Option<String>,
}

impl Library {
    /// Keeps a file on this device, or lets it go again. [`Selection::Pinned`](super::Selection::Pinned) brings what is not here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn pin(&self, id: &str, pinned: bool) -> Result<(), Error> {
        self.must_exist()?;
        let sql = match pinned {
            true => "INSERT INTO library_pins(file) VALUES(?1) ON CONFLICT DO NOTHING",
            false => "DELETE FROM library_pins WHERE file = ?1",
        };
        self.replica.write(|tx| tx.execute(sql, params![id]))?;
        Ok(())
    }

    /// Takes the copy of this device away, after a remote was asked for each of its chunks. Gives the bytes freed.
    ///
    /// # Errors
    /// [`LibraryError::OnlyCopy`], [`LibraryError::Pinned`], [`LibraryError::Changed`]; then nothing was removed.
    pub async fn evict(&self, file: &FileInfo, options: &MoveOptions) -> Result<u64, Error> {
        if file.pinned {
            return Err(LibraryError::Pinned { path: file.path.clone() }.into());
        }
        let _alone = self.lock_movements().await?;
        let (sources, _) = self.sources(options.remote.as_deref()).await?;
        let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id = ?1");
        let content = self.replica.read(|q| q.one::<Content>(&sql, params![&file.id]))?;
        let content = content.ok_or_else(|| LibraryError::NoSuchFile { wanted: file.id.clone() })?;
        let mut safe = false;
        for source in &sources {
            safe = safe || self.has_all(source, &content).await?;
        }
        if !safe {
            return Err(LibraryError::OnlyCopy { path: file.path.clone() }.into());
        }
        let library = self.clone();
        blocking(self.inner(), move |_| library.remove_copies(&content)).await
    }

    /// Whether every chunk of a file stands in a remote: one HEAD for each.
    async fn has_all(&self, source: &Source, content: &Content) -> Result<bool, Error> {
        for name in content.names(&source.remote)? {
            if !source.remote.has_chunk(&name).await.map_err(|error| source.failed(error))? {
                let (library, remote, id) = (self.clone(), source.name.clone(), content.id.clone());
                blocking(self.inner(), move |_| library.note_absent(&remote, &name, &id)).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn remove_copies(&self, content: &Content) -> Result<u64, Error> {
        let _alone = self.lock_scans()?;
        let places = self.places_of(&content.id)?;
        for (root, folder, entry) in &places {
            let path = root.folder.join(&entry.path);
            let changed = || LibraryError::Changed { path: path.clone() };
            let (file, _) = match folder.open_file(&entry.path) {
                Ok(opened) => opened,
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(LibraryError::from(error).into()),
            };
            // Its times may be the same and its content another: this is the last look at it.
            if hash_of(&file).ok() != content.hash() {
                return Err(changed().into());
            }
        }
        let (device, now, mut freed) = (self.device()?, self.now(), 0);
        for (root, folder, entry) in &places {
            match folder.remove(&entry.path) {
                Ok(()) => freed += content.bytes,
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(LibraryError::from(error).into()),
            }
            let book = Book { root, folder, device: &device, op: 0, now_ms: now };
            self.replica.write(|tx| book.forget(tx, entry))?;
        }
        Ok(freed)
    }

    /// Where a file is on this device, with its roots open.
    fn places_of(&self, id: &str) -> Result<Vec<(Root, Folder, Entry)>, Error> {
        let places = self.inner().store.read(|conn| index::places(conn, id))?;
        let roots = self.roots()?;
        let mut found = Vec::new();
        for (root, entry) in places {
            let Some(root) = roots.iter().find(|known| known.id == root) else { continue };
            found.push((root.clone(), Folder::open(&root.folder).map_err(LibraryError::from)?, entry));
        }
        Ok(found)
    }

    /// Takes a file out of the library, on every device. Its copies here go into the trash of their roots.
    ///
    /// # Errors
    /// Why a copy cannot be moved; then the file stays in the library.
    pub fn trash(&self, file: &FileInfo) -> Result<(), Error> {
        let _alone = self.lock_scans()?;
        for (root, folder, entry) in self.places_of(&file.id)? {
            self.put_aside(&root, &folder, &entry, "trashed")?;
        }
        let now = self.now();
        self.replica.write(|tx| {
            tx.execute(
                "UPDATE library_files SET trashed_ms = ?2 WHERE id = ?1 AND trashed_ms IS NULL",
                params![&file.id, now],
            )
        })?;
        Ok(())
    }

    /// Moves a copy into the trash of its root.
    pub(super) fn put_aside(&self, root: &Root, folder: &Folder, entry: &Entry, why: &str) -> Result<(), Error> {
        let Some(file) = &entry.file else { return Ok(()) };
        let name = match folder.put_out(&entry.path, file) {
            Err(error) if error.is_missing() => None,
            moved => Some(moved.map_err(LibraryError::from)?),
        };
        let (device, now) = (self.device()?, self.now());
        let book = Book { root, folder, device: &device, op: 0, now_ms: now };
        self.replica.write(|tx| {
            book.forget(tx, entry)?;
            let Some(name) = &name else { return Ok(0) };
            let sql = "INSERT INTO library_trash(file, root, name, path, since_ms, why) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT(file, root, name) DO UPDATE SET path = excluded.path, since_ms = excluded.since_ms, why = excluded.why";
            tx.execute(sql, params![file, root.id, name, &entry.path, now, why])
        })?;
        Ok(())
    }

    fn trash_rows(&self, clause: &str, value: Option<&str>) -> Result<Vec<TrashRow>, Error> {
        let sql = format!(
            "SELECT t.file, t.root, t.name, t.path, t.since_ms, t.why, f.path AS logical FROM library_trash AS t
            LEFT JOIN library_sound AS f ON f.id = t.file WHERE {clause} ORDER BY t.since_ms DESC, t.path"
        );
        self.replica.read(|q| match value {
            Some(value) => q.all(&sql, params![value]),
            None => q.all(&sql, &[]),
        })
    }

    /// What lies in the trash of this device, the newest first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn trash_list(&self) -> Result<Vec<Trashed>, Error> {
        let roots = self.roots()?;
        let list = |row: TrashRow| {
            let root = roots.iter().find(|root| root.id == row.root)?;
            let trash_path = root.folder.join(isle_files::PRIVATE_FOLDER).join("trash").join(&row.file).join(&row.name);
            let original_path = root.folder.join(&row.path);
            let path = row.logical.unwrap_or(row.path);
            Some(Trashed { id: row.file, path, original_path, trash_path, why: row.why, since_ms: row.since_ms })
        };
        Ok(self.trash_rows("1", None)?.into_iter().filter_map(list).collect())
    }

    /// Takes a file back into the library, and its copy here to where it was, or beside what stands there now. Gives its place if there is a copy here.
    ///
    /// # Errors
    /// [`LibraryError::NotInTrash`], or why it cannot be moved.
    pub fn restore(&self, file: &FileInfo) -> Result<Option<PathBuf>, Error> {
        let _alone = self.lock_scans()?;
        let rows = self.trash_rows("t.file = ?1", Some(&file.id))?;
        if rows.is_empty() && file.trashed_ms.is_none() {
            return Err(LibraryError::NotInTrash { path: file.path.clone() }.into());
        }
        let (roots, device, mut placed) = (self.roots()?, self.device()?, None);
        for row in rows {
            let Some(root) = roots.iter().find(|root| root.id == row.root) else { continue };
            let folder = Folder::open(&root.folder).map_err(LibraryError::from)?;
            let mut at = row.path.clone();
            let moved = match folder.take_back(&row.file, &row.name, &at) {
                Err(FolderError::Exists { .. }) => {
                    at = isle_files::conflict_name(&row.path, &row.file);
                    folder.take_back(&row.file, &row.name, &at)
                }
                moved => moved,
            };
            let book = Book { root, folder: &folder, device: &device, op: 0, now_ms: self.now() };
            match moved {
                Ok(()) => {
                    let mut stat = folder.stat(&at).map_err(LibraryError::from)?.unwrap_or_default();
                    // It may have been edited before it was put out: the next scan reads it.
                    stat.modified_ns = -1;
                    self.replica.write(|tx| {
                        // The index knew that place by another name only if something stands there, and then this is not it.
                        LogicalPath::of(&root.name, &at).map_err(LibraryError::from)?;
                        book.put_found(tx, &row.file, &at, stat)
                    })?;
                    placed = Some(root.folder.join(&at));
                }
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(LibraryError::from(error).into()),
            }
            let sql = "DELETE FROM library_trash WHERE file = ?1 AND root = ?2 AND name = ?3";
            self.replica.write(|tx| tx.execute(sql, params![&row.file, row.root, &row.name]))?;
        }
        self.replica
            .write(|tx| tx.execute("UPDATE library_files SET trashed_ms = NULL WHERE id = ?1", params![&file.id]))?;
        Ok(placed)
    }

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
            self.take_stock(source).await?;
        }
        let (library, wanted) = (self.clone(), options.clone());
        let mut plan = blocking(self.inner(), move |_| {
            let plan = library.plan_local(&wanted)?;
            if dry { Ok(plan) } else { library.prune_local(plan) }
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
        let mut plan = PrunePlan::default();
        self.replica.snapshot(|q| {
            let sql = "SELECT r.folder || '/' || s.path FROM library_scan AS s JOIN library_roots AS r ON r.id = s.root JOIN library_sound AS f ON f.id = s.file
                WHERE s.state = 'ok' AND f.trashed_ms IS NOT NULL ORDER BY 1";
            plan.set_aside = q.all::<PathBuf>(sql, &[])?;
            let sql = "SELECT r.folder || '/' || t.path FROM library_trash AS t JOIN library_roots AS r ON r.id = t.root WHERE t.since_ms <= ?1 ORDER BY 1";
            plan.emptied = q.all::<PathBuf>(sql, params![before])?;
            let nowhere = "NOT EXISTS (SELECT 1 FROM library_presence AS p WHERE p.file = f.id AND p.state = 'present')
                AND NOT EXISTS (SELECT 1 FROM library_stored AS t WHERE t.file = f.id)
                AND NOT EXISTS (SELECT 1 FROM library_trash AS b WHERE b.file = f.id)";
            let sql = format!("SELECT f.id, f.path FROM library_sound AS f WHERE {nowhere} AND f.trashed_ms IS NULL AND f.replaced_by IS NULL ORDER BY f.path");
            let gone = q.all::<(String, String)>(&sql, &[])?;
            // Since when a version is replaced is the time of what replaced it.
            let sql = "SELECT f.id, f.path FROM library_sound AS f LEFT JOIN library_sound AS n ON n.id = f.replaced_by
                WHERE (f.trashed_ms <= ?1 OR (f.trashed_ms IS NULL AND f.replaced_by IS NOT NULL AND coalesce(n.added_ms, f.added_ms) <= ?1))
                AND NOT EXISTS (SELECT 1 FROM library_presence AS p WHERE p.file = f.id AND p.state = 'present' AND p.device <> ?2) ORDER BY f.path";
            let expired = q.all::<(String, String)>(sql, params![before, &device])?;
            plan.ids = gone.iter().chain(&expired).map(|(id, _)| id.clone()).collect();
            plan.gone = gone.into_iter().map(|(_, path)| path).collect();
            plan.expired = expired.into_iter().map(|(_, path)| path).collect();
            Ok(plan)
        })
    }

    fn prune_local(&self, plan: PrunePlan) -> Result<PrunePlan, Error> {
        let _alone = self.lock_scans()?;
        let sql = "SELECT DISTINCT s.file FROM library_scan AS s JOIN library_sound AS f ON f.id = s.file
            WHERE s.state = 'ok' AND f.trashed_ms IS NOT NULL";
        let aside: Vec<String> = self.replica.read(|q| q.all(sql, &[]))?;
        for file in aside {
            for (root, folder, entry) in self.places_of(&file)? {
                self.put_aside(&root, &folder, &entry, "trashed")?;
            }
        }
        let roots = self.roots()?;
        let emptied: BTreeSet<&PathBuf> = plan.emptied.iter().collect();
        for row in self.trash_rows("1", None)? {
            let Some(root) = roots.iter().find(|root| root.id == row.root) else { continue };
            if !emptied.contains(&root.folder.join(&row.path)) {
                continue;
            }
            let folder = Folder::open(&root.folder).map_err(LibraryError::from)?;
            folder.empty_trash(&row.file).map_err(LibraryError::from)?;
            self.replica.write(|tx| {
                tx.execute("DELETE FROM library_trash WHERE file = ?1 AND root = ?2", params![&row.file, row.root])
            })?;
        }
        self.replica.write(|tx| {
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
        let unneeded = blocking(self.inner(), move |_| library.unneeded(&listed, &ids)).await?;
        let marks = source.remote.list_marks().await.map_err(failed)?;
        let marks: BTreeMap<ChunkName, u64> = marks.into_iter().map(|mark| (mark.name, mark.modified_ms)).collect();
        let grace = u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX);
        let now = self.inner().runtime.now_ms();
        for name in marks.keys().filter(|name| !unneeded.contains(*name) && !dry) {
            source.remote.unmark_chunk(name).await.map_err(failed)?;
        }
        for name in unneeded {
            match marks.get(&name) {
                None => {
                    plan.marked_chunks += 1;
                    if !dry {
                        source.remote.mark_chunk(&name).await.map_err(failed)?;
                    }
                }
                Some(since_ms) if now.saturating_sub(*since_ms) >= grace => {
                    plan.removed_chunks += 1;
                    if !dry {
                        source.remote.delete_chunk(&name).await.map_err(failed)?;
                        source.remote.unmark_chunk(&name).await.map_err(failed)?;
                        let (library, remote) = (self.clone(), source.name.clone());
                        blocking(self.inner(), move |_| library.note_absent(&remote, &name, "")).await?;
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Chunks of a remote that no file needs, those left out that are to go. Blocks.
    fn unneeded(&self, source: &Source, going: &BTreeSet<String>) -> Result<BTreeSet<ChunkName>, Error> {
        let sql = "SELECT name FROM library_chunks WHERE remote = ?1";
        let names: Vec<String> = self.replica.read(|q| q.all(sql, params![&source.name]))?;
        let mut left: BTreeSet<ChunkName> = names.iter().filter_map(|name| ChunkName::parse(name)).collect();
        let mut after = String::new();
        loop {
            let sql = format!("SELECT {CONTENT} FROM library_sound AS f WHERE f.id > ?1 ORDER BY f.id LIMIT ?2");
            let page: Vec<Content> = self.replica.read(|q| q.all(&sql, params![&after, WORKED_OUT as i64]))?;
            let Some(last) = page.last() else { return Ok(left) };
            after.clone_from(&last.id);
            for file in page.iter().filter(|file| !going.contains(&file.id)) {
                // A list that cannot be read names no chunk, and none of it is known here.
                for name in file.names(&source.remote).unwrap_or_default() {
                    left.remove(&name);
                }
            }
        }
    }

    /// Reads every file of the library that is on this device, and lists what the remotes have.
    ///
    /// # Errors
    /// A remote that cannot be listed, or SQLite's reason. Damage is no error, but reported.
    pub async fn verify(&self, options: &MoveOptions) -> Result<Verified, Error> {
        self.must_exist()?;
        let _alone = self.lock_movements().await?;
        let (sources, failed) = self.sources(options.remote.as_deref()).await?;
        let library = self.clone();
        let work = blocking(self.inner(), move |_| Work::begin(&library, "verify", "")).await?;
        let mut verified = Verified { operation: work.id(), ..Verified::default() };
        let result = async {
            for source in &sources {
                self.find_lost(source, &mut verified).await?;
            }
            let (library, options) = (self.clone(), options.clone());
            let mut found = verified.clone();
            let (work, found) = blocking(self.inner(), move |_| {
                library.read_all(&options, &work, &mut found)?;
                Ok((work, found))
            })
            .await?;
            verified = found;
            work.end(Ok(serde_json::to_string(&verified).unwrap_or_default()));
            Ok(verified)
        };
        let verified: Result<Verified, Error> = result.await;
        match failed.into_iter().next() {
            Some((_, error)) => Err(error),
            None => verified,
        }
    }

    /// Files that a remote was said to have whole and has not.
    async fn find_lost(&self, source: &Source, verified: &mut Verified) -> Result<(), Error> {
        let sql = "SELECT f.path, f.id FROM library_stored AS t JOIN library_sound AS f ON f.id = t.file WHERE t.remote = ?1 ORDER BY f.path";
        let before: Vec<(String, String)> = self.replica.read(|q| q.all(sql, params![&source.name]))?;
        self.take_stock(source).await?;
        let after: Vec<(String, String)> = self.replica.read(|q| q.all(sql, params![&source.name]))?;
        let after: BTreeSet<String> = after.into_iter().map(|(_, id)| id).collect();
        for (path, id) in before {
            if !after.contains(&id) && verified.lost.len() < PROBLEMS_MAX {
                let why = format!("remote {:?} lacks a part of it", source.name);
                verified.lost.push(Problem { path, why });
            }
        }
        Ok(())
    }

    fn read_all(&self, options: &MoveOptions, work: &Work, verified: &mut Verified) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Here {
            root: i64,
            path: String,
            content: String,
            bytes: u64,
        }
        let sql =
            "SELECT s.root, s.path, f.content, f.bytes FROM library_scan AS s JOIN library_sound AS f ON f.id = s.file
            JOIN library_roots AS r ON r.id = s.root WHERE s.state = 'ok' AND r.flag IS NULL ORDER BY s.root, s.path";
        let here: Vec<Here> = self.replica.read(|q| q.all(sql, &[]))?;
        let total = here.iter().map(|here| here.bytes).sum();
        for root in self.roots()? {
            let Ok(folder) = Folder::open(&root.folder) else { continue };
            for here in here.iter().filter(|here| here.root == root.id) {
                let entry = self.inner().store.read(|conn| index::find(conn, root.id, &here.path))?;
                let path = format!("{}/{}", root.name, here.path);
                let (file, stat) = match folder.open_file(&here.path) {
                    Ok(opened) => opened,
                    Err(error) => {
                        verified.changed.push(Problem { path, why: error.to_string() });
                        continue;
                    }
                };
                let hash = hash_of(&file);
                verified.files += 1;
                verified.bytes += here.bytes;
                let is_right = matches!(&hash, Ok(hash) if *blake3::Hash::from_bytes(*hash).to_hex() == *here.content);
                let untouched = entry.is_some_and(|entry| entry.stat == stat);
                match (is_right, untouched, hash) {
                    (true, ..) => {}
                    (_, _, Err(error)) => verified.damaged.push(Problem { path, why: error.to_string() }),
                    (_, true, _) => verified
                        .damaged
                        .push(Problem { path, why: "its content is another, and its times are not".to_owned() }),
                    (_, false, _) => {
                        verified.changed.push(Problem { path, why: "it was changed since the last scan".to_owned() })
                    }
                }
                work.advance(verified.bytes, total, &here.path);
                if let Some(progress) = &options.progress {
                    progress(verified.bytes, total);
                }
            }
        }
        Ok(())
    }
}
