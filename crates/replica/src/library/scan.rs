//! A scan: what lies in the roots, against what was there.
//!
//! One thread walks, compares with the index and reads what is new; another writes rows, some hundreds in one transaction. What is between them is
//! bounded, and so is what is held of the root: one bit per entry.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use isle_files::{Chunker, Folder, FolderError, Found, Kinds, Stat, Walk};
use serde::Serialize;

use super::index::{self, State};
use super::roots::Root;
use super::take_up::{Book, Change, Look, Looker};
use super::work::Work;
use super::{Library, LibraryError, Problem};
use crate::sync::blocking;
use crate::{Error, Transaction, params};

/// Paths that are compared with the index at once.
const COMPARED: usize = 1_000;
/// Looks that are written in one transaction.
const WRITTEN: usize = 500;
/// Bytes read beyond which a transaction is not waited for to fill.
const WRITTEN_BYTES: u64 = 64 << 20;
/// Entries that tell whether a folder is the root that it was.
const SAMPLED: usize = 64;
/// Problems that a report lists; all are counted, and in the index.
const PROBLEMS_MAX: usize = 100;

/// Is told a root, how many files were seen, and how many bytes were read.
pub type ScanProgress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// What to scan.
#[derive(Clone, Default)]
pub struct ScanOptions {
    /// Only the root of this name.
    pub root: Option<String>,
    /// Only files of this kind.
    pub kind: Option<String>,
    /// A root that is there and has lost all of its files: they were taken out knowingly.
    pub emptied: bool,
    /// Only these paths below the root, and what is below them.
    pub only: Option<BTreeSet<String>>,
    /// Files that were written within this time are left for later: somebody may still be at them. They are in [`ScanReport::growing`].
    pub settle: Option<Duration>,
    /// Is told the root, how many files were seen, and how many bytes were read.
    pub progress: Option<ScanProgress>,
}

impl std::fmt::Debug for ScanOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ScanOptions { root, kind, emptied, .. } = self;
        f.debug_struct("ScanOptions")
            .field("root", root)
            .field("kind", kind)
            .field("emptied", emptied)
            .finish_non_exhaustive()
    }
}

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScanReport {
    /// The operation's id; see [`Replica::operation`](crate::Replica::operation).
    pub operation: i64,
    /// Files that stand in the roots.
    pub seen: u64,
    /// Those that are what they were.
    pub unchanged: u64,
    /// Those that are new to the library on this device.
    pub added: u64,
    /// Those that have another content.
    pub modified: u64,
    /// Those that stand at another place.
    pub moved: u64,
    /// Those that were missing and are there again, as they were.
    pub back: u64,
    /// Those that are not there any more.
    pub missing: u64,
    /// Those that their kind's validator does not take.
    pub invalid: u64,
    /// Those that could not be read.
    pub unreadable: u64,
    /// Those that are of no kind that is looked for.
    pub other: u64,
    /// Files that were read.
    pub hashed: u64,
    /// Bytes that were read.
    pub hashed_bytes: u64,
    /// Files that were written a moment ago, as roots and paths below them; only if that was asked for.
    #[serde(skip)]
    pub growing: Vec<(String, String)>,
    /// Roots that are gone or lost all of their files at once: nothing was changed of them.
    pub flagged: Vec<String>,
    /// The first of what is invalid or unreadable, and why.
    pub problems: Vec<Problem>,
}

impl ScanReport {
    fn count(&mut self, look: &Look, change: Change) {
        match change {
            Change::Added => self.added += 1,
            Change::Modified => self.modified += 1,
            Change::Moved => self.moved += 1,
            Change::Back => self.back += 1,
            Change::Same => self.unchanged += 1,
            Change::Invalid => self.invalid += 1,
            Change::Unreadable => self.unreadable += 1,
            Change::Other => self.other += 1,
        }
        use super::take_up::Outcome;
        if let Outcome::Invalid(why) | Outcome::Unreadable(why) = &look.outcome {
            self.problem(&look.path, why);
        }
    }

    fn problem(&mut self, path: &str, why: &str) {
        tracing::warn!(path, why, "a file is not taken into the library");
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { path: path.to_owned(), why: why.to_owned() });
        }
    }
}

/// What the walking thread tells the writing one.
enum Told {
    /// Files that stand there as they were, by their entries.
    Same(Vec<i64>),
    /// Files that were looked at.
    Looks(Vec<Look>),
    /// Something that cannot be looked into.
    Closed(String, String),
    /// A file that somebody may still be writing.
    Growing { path: String, entry: Option<i64> },
    /// How many files were seen and bytes read.
    Read { seen: u64, files: u64, bytes: u64 },
}

/// Entries that were seen, by their ids.
#[derive(Default)]
struct Seen {
    bits: Vec<u64>,
}

impl Seen {
    fn insert(&mut self, id: i64) {
        let Ok(id) = usize::try_from(id) else { return };
        if self.bits.len() <= id / 64 {
            self.bits.resize(id / 64 + 1, 0);
        }
        self.bits[id / 64] |= 1 << (id % 64);
    }

    fn has(&self, id: i64) -> bool {
        usize::try_from(id).is_ok_and(|id| self.bits.get(id / 64).is_some_and(|bits| bits >> (id % 64) & 1 == 1))
    }
}

impl Library {
    /// Compares the roots with the library: new and changed files become rows, what is away is marked so, for this device alone. Files whose size,
    /// times and number on the disk are what they were are not read again.
    ///
    /// # Errors
    /// [`LibraryError::Scan`] for a root that cannot be read at all; the others were scanned. A root that is gone is no error, but flagged.
    pub async fn scan(&self, options: &ScanOptions) -> Result<ScanReport, Error> {
        let (library, options) = (self.clone(), options.clone());
        blocking(self.inner(), move |_| library.scan_now(&options)).await
    }

    /// As [`Library::scan`], on the calling thread.
    ///
    /// # Errors
    /// As [`Library::scan`].
    pub fn scan_now(&self, options: &ScanOptions) -> Result<ScanReport, Error> {
        let mut roots = self.roots()?;
        if let Some(name) = &options.root {
            roots = vec![self.root(name)?];
        }
        let kinds = self.usable_kinds()?;
        let all: Vec<&isle_files::Kind> = kinds.iter().collect();
        let kinds_now = blake3::hash(serde_json::to_string(&all).unwrap_or_default().as_bytes()).to_hex().to_string();
        if let Some(kind) = options.kind.as_ref().filter(|kind| kinds.get(kind).is_none()) {
            return Err(LibraryError::NoSuchKind { name: kind.clone() }.into());
        }
        let _alone = self.lock_scans()?;
        let target = options.root.clone().or_else(|| options.kind.clone()).unwrap_or_default();
        let work = Work::begin(self, "scan", &target)?;
        let span = tracing::info_span!("scan", operation = work.id());
        let _within = span.enter();
        let mut report = ScanReport { operation: work.id(), ..ScanReport::default() };
        let (chunker, device) = (self.chunker()?, self.device()?);
        let expected = roots.iter().map(|root| self.expected(root)).sum();
        let scanner = Scanner { library: self, options, kinds, chunker, device, kinds_now, expected, work: &work };
        let mut failed = None;
        for root in &roots {
            if let Err(error) = scanner.scan(root, &mut report) {
                failed.get_or_insert(error);
            }
        }
        let facts = serde_json::to_string(&report).unwrap_or_default();
        work.end(failed.as_ref().map_or(Ok(facts), |error| Err(error.to_string())));
        match failed {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    /// How many files there will be, as far as the last scan tells.
    fn expected(&self, root: &Root) -> u64 {
        let sql = "SELECT count(*) FROM library_scan WHERE root = ?1 AND state <> 'missing'";
        let count = self.replica.read(|q| q.one::<u64>(sql, params![root.id]));
        count.ok().flatten().unwrap_or(0)
    }
}

struct Scanner<'a> {
    library: &'a Library,
    options: &'a ScanOptions,
    kinds: Kinds,
    chunker: Chunker,
    device: String,
    /// By what it is seen that kinds have changed.
    kinds_now: String,
    /// How many files there will be in all roots, as far as the last scans tell.
    expected: u64,
    work: &'a Work,
}

impl Scanner<'_> {
    fn scan(&self, root: &Root, report: &mut ScanReport) -> Result<(), Error> {
        let folder = match Folder::open(&root.folder) {
            Ok(folder) => folder,
            Err(FolderError::Gone { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return self.flag(root, "gone", report);
            }
            Err(error) => return Err(LibraryError::Scan { root: root.name.clone(), why: error.to_string() }.into()),
        };
        let failed = |error: FolderError| LibraryError::Scan { root: root.name.clone(), why: error.to_string() };
        let found = folder.mark().map_err(failed)?;
        if root.mark.is_some() && found != root.mark && !self.options.emptied {
            // Another folder stands at its place, or all in it was taken away, isle's own files with it.
            let flag = if Walk::new(folder.path(), None, Vec::new()).next().is_none() { "emptied" } else { "gone" };
            if !self.is_familiar(root, &folder)? {
                return self.flag(root, flag, report);
            }
        }
        let mark = self.library.mark(&folder)?;
        let looker =
            Looker { library: self.library, folder: &folder, root, kinds: &self.kinds, chunker: &self.chunker };
        let (op, now_ms) = (self.work.id(), self.library.now());
        let book = Book { root, folder: &folder, device: &self.device, op, now_ms };
        let mut sum = Sum { seen: Seen::default(), closed: Vec::new() };
        let (send, receive) = sync_channel(2);
        let any = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let walker = scope.spawn(|| self.walk(&looker, &folder, &any, send));
            let written = self.write(&book, &receive, &mut sum, report);
            // Without a reader the walk ends at its next word.
            drop(receive);
            let walked = walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and(walked)
        })?;
        if let Some((_, why)) = sum.closed.iter().find(|(path, _)| path.is_empty()) {
            return Err(LibraryError::Scan { root: root.name.clone(), why: why.clone() }.into());
        }
        if !any.load(Ordering::Relaxed)
            && !self.options.emptied
            && self.options.only.is_none()
            && self.had_files(root)?
        {
            return self.flag(root, "emptied", report);
        }
        self.mark_missing(&book, &sum, report)?;
        let (now, whole) = (self.library.now(), self.options.only.is_none() && self.options.kind.is_none());
        let sql =
            "UPDATE library_roots SET flag = NULL, mark = ?4, scanned_ms = CASE WHEN ?3 THEN ?2 ELSE scanned_ms END,
            kinds_seen = CASE WHEN ?3 THEN ?5 ELSE kinds_seen END WHERE id = ?1";
        self.library.replica.write(|tx| {
            tx.execute(sql, params![root.id, now, whole, mark.as_ref(), &self.kinds_now])?;
            if whole { self.assert_presence(tx, root, now) } else { Ok(()) }
        })
    }

    /// Says what this device has, whatever somebody wrote of it.
    fn assert_presence(&self, tx: &Transaction<'_>, root: &Root, now: i64) -> Result<(), Error> {
        let sql = "INSERT INTO library_presence(file, device, root, path, state, since_ms)
            SELECT s.file, ?2, ?3, s.path, 'present', ?4 FROM library_scan AS s
            WHERE s.root = ?1 AND s.state = 'ok' AND s.file IS NOT NULL AND NOT EXISTS (SELECT 1 FROM library_presence AS p
                WHERE p.file = s.file AND p.device = ?2 AND p.root = ?3 AND p.path = s.path AND p.state = 'present')
            ON CONFLICT(file, device, root, path) DO UPDATE SET state = 'present', since_ms = excluded.since_ms";
        tx.execute(sql, params![root.id, &self.device, &root.name, now]).map(|_| ())
    }

    /// Whether a folder without the root's mark has files of it as they were: only isle's own were removed.
    fn is_familiar(&self, root: &Root, folder: &Folder) -> Result<bool, Error> {
        let known = self.library.inner().store.read(|conn| index::sample(conn, root.id, SAMPLED))?;
        let same =
            |entry: &index::Entry| folder.stat(&entry.path).ok().flatten().is_some_and(|stat| stat == entry.stat);
        Ok(known.is_empty() || known.iter().any(same))
    }

    /// Walks, and looks at what is new or changed.
    fn walk(
        &self,
        looker: &Looker<'_>,
        folder: &Folder,
        any: &AtomicBool,
        send: SyncSender<Told>,
    ) -> Result<(), Error> {
        let mut found = Vec::with_capacity(COMPARED);
        let mut walk = Walk::new(folder.path(), self.options.only.clone(), self.skipped(looker.root));
        loop {
            let next = walk.next();
            let ended = next.is_none();
            match next {
                Some(Found::File { relative, stat }) => {
                    any.store(true, Ordering::Relaxed);
                    if self.is_of_kind(&relative) {
                        found.push((relative, stat));
                    }
                }
                Some(Found::Unreadable { relative, why }) => {
                    let told = send.send(Told::Closed(relative, why));
                    if told.is_err() {
                        return Ok(());
                    }
                }
                None => {}
            }
            if found.len() >= COMPARED || ended {
                let page = std::mem::take(&mut found);
                if self.compare(looker, page, &send)?.is_break() || ended {
                    return Ok(());
                }
            }
        }
    }

    /// The database, and the library's own folder where it lies in another root.
    fn skipped(&self, root: &Root) -> Vec<std::path::PathBuf> {
        self.library.own_files().into_iter().filter(|path| *path != root.folder).collect()
    }

    fn is_of_kind(&self, path: &str) -> bool {
        let Some(kind) = &self.options.kind else { return true };
        self.kinds.of(path).is_some_and(|found| found.name == *kind)
    }

    fn compare(
        &self,
        looker: &Looker<'_>,
        page: Vec<(String, Stat)>,
        send: &SyncSender<Told>,
    ) -> Result<ControlFlow<()>, Error> {
        let known = self.library.inner().store.read(|conn| {
            let entries = page.iter().map(|(path, _)| index::find(conn, looker.root.id, path));
            entries.collect::<Result<Vec<_>, Error>>()
        })?;
        let (mut same, mut looks, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut told = Told::Read { seen: page.len() as u64, files: 0, bytes: 0 };
        let tell = |told| if send.send(told).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        for ((path, stat), before) in page.into_iter().zip(known) {
            match &before {
                Some(entry) if entry.is_unchanged(&stat) && self.still_stands(entry.state, looker, &path) => {
                    same.push(entry.id);
                    continue;
                }
                _ => {}
            }
            if self.is_growing(&stat) {
                let entry = before.map(|entry| entry.id);
                if tell(Told::Growing { path, entry }).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                continue;
            }
            let mut read = 0;
            let look = looker.look(path, stat, before, &mut |more| {
                read += more;
                true
            })?;
            if let Told::Read { files, bytes, .. } = &mut told {
                *files += u64::from(read > 0);
                *bytes += read;
            }
            bytes += read;
            looks.push(look);
            if looks.len() >= WRITTEN || bytes >= WRITTEN_BYTES {
                let before = std::mem::replace(&mut told, Told::Read { seen: 0, files: 0, bytes: 0 });
                bytes = 0;
                if tell(before).is_break() || tell(Told::Looks(std::mem::take(&mut looks))).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        let done = tell(told).is_break() || tell(Told::Same(same)).is_break() || tell(Told::Looks(looks)).is_break();
        Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn is_growing(&self, stat: &Stat) -> bool {
        let Some(settle) = self.options.settle else { return false };
        let now_ns = self.library.now().saturating_mul(1_000_000);
        let since = now_ns.saturating_sub(stat.modified_ns.max(stat.changed_ns));
        // A time far ahead is somebody's clock, and not a write to come.
        (-1_000_000_000..i64::try_from(settle.as_nanos()).unwrap_or(i64::MAX)).contains(&since)
    }

    /// Whether what an entry says would be said again: kinds may have changed since.
    fn still_stands(&self, state: State, looker: &Looker<'_>, path: &str) -> bool {
        match state {
            State::Other => looker.kind_of(path).is_none(),
            State::Ok => looker.kind_of(path).is_some(),
            // A kind that allows more now may allow this.
            State::Invalid => {
                looker.root.kinds_seen.as_ref() == Some(&self.kinds_now) && looker.kind_of(path).is_some()
            }
            State::Unreadable | State::Missing => false,
        }
    }

    fn write(
        &self,
        book: &Book<'_>,
        told: &Receiver<Told>,
        sum: &mut Sum,
        report: &mut ScanReport,
    ) -> Result<(), Error> {
        for told in told {
            match told {
                Told::Same(ids) => {
                    report.unchanged += ids.len() as u64;
                    ids.into_iter().for_each(|id| sum.seen.insert(id));
                }
                Told::Looks(looks) if looks.is_empty() => {}
                Told::Looks(looks) => {
                    let changes = self
                        .library
                        .replica
                        .write(|tx| looks.iter().map(|look| book.write(tx, look)).collect::<Result<Vec<_>, Error>>())?;
                    for (look, (change, id)) in looks.iter().zip(changes) {
                        sum.seen.insert(id);
                        report.count(look, change);
                    }
                }
                Told::Closed(path, why) => {
                    report.unreadable += 1;
                    report.problem(&path, &why);
                    sum.closed.push((path, why));
                }
                Told::Growing { path, entry } => {
                    entry.into_iter().for_each(|id| sum.seen.insert(id));
                    report.growing.push((book.root.name.clone(), path));
                }
                Told::Read { seen, files, bytes } => {
                    report.seen += seen;
                    report.hashed += files;
                    report.hashed_bytes += bytes;
                }
            }
            // Nobody knows how many there are beyond those of the last time.
            let total = if self.expected > report.seen { self.expected } else { 0 };
            self.work.advance(report.seen, total, &format!("{}: {} files", book.root.name, report.seen));
            if let Some(progress) = &self.options.progress {
                progress(&book.root.name, report.seen, report.hashed_bytes);
            }
        }
        Ok(())
    }

    fn had_files(&self, root: &Root) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM library_scan WHERE root = ?1 AND state = 'ok' LIMIT 1";
        Ok(self.library.replica.read(|q| q.one::<i64>(sql, params![root.id]))?.is_some())
    }

    /// What was there and was not seen is missing, but for what lies in folders that could not be looked into.
    fn mark_missing(&self, book: &Book<'_>, sum: &Sum, report: &mut ScanReport) -> Result<(), Error> {
        let store = &self.library.inner().store;
        let mut after = 0;
        loop {
            let page = match &self.options.only {
                None => store.read(|conn| index::page(conn, book.root.id, after, COMPARED))?,
                Some(paths) => store.read(|conn| {
                    let found = paths.iter().map(|path| index::below(conn, book.root.id, path));
                    Ok::<_, Error>(found.collect::<Result<Vec<_>, Error>>()?.concat())
                })?,
            };
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            let lost: Vec<_> = page
                .iter()
                .filter(|entry| entry.state != State::Missing && !sum.seen.has(entry.id))
                .filter(|entry| !sum.hides(&entry.path) && self.is_of_kind(&entry.path))
                .collect();
            if !lost.is_empty() {
                self.library.replica.write(|tx| lost.iter().try_for_each(|entry| book.lose(tx, entry)))?;
                report.missing += lost.iter().filter(|entry| entry.file.is_some()).count() as u64;
            }
            if self.options.only.is_some() {
                return Ok(());
            }
        }
    }

    /// Leaves a root as it was, and says why.
    fn flag(&self, root: &Root, flag: &str, report: &mut ScanReport) -> Result<(), Error> {
        tracing::warn!(root = root.name, flag, "a root is away; its files keep their places in the library");
        report.flagged.push(root.name.clone());
        let sql = "UPDATE library_roots SET flag = ?2 WHERE id = ?1";
        self.library.replica.write(|tx| tx.execute(sql, params![root.id, flag]))?;
        Ok(())
    }
}

/// What a walk saw.
struct Sum {
    seen: Seen,
    /// What could not be looked into, and why.
    closed: Vec<(String, String)>,
}

impl Sum {
    /// Whether a path lies in a folder that could not be looked into.
    fn hides(&self, path: &str) -> bool {
        self.closed.iter().any(|(closed, _)| {
            path.strip_prefix(closed.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seen_entries_are_told_from_those_between() {
        let mut seen = Seen::default();
        for id in [1, 64, 65, 1000] {
            seen.insert(id);
        }
        let has: Vec<i64> = (0..=1100).filter(|id| seen.has(*id)).collect();
        assert_eq!(has, [1, 64, 65, 1000]);
        assert!(!seen.has(-1));
    }

    #[test]
    fn a_closed_folder_hides_what_is_below_it_alone() {
        let sum = Sum { seen: Seen::default(), closed: vec![("a/b".into(), String::new())] };
        let hidden = ["a/b", "a/b/c", "a/bc", "a", "b"].map(|path| sum.hides(path));
        assert_eq!(hidden, [true, true, false, false, false]);
    }
}
