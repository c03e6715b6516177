//! Roots are watched: what comes, changes and goes is taken up by itself.
//!
//! Three things lead to a scan: a notice of the system, of the paths that it names; the period, of everything; and somebody who asks for one, here or
//! in another program. All of them compare with the same index, one at a time, so none of them sees a thing twice. A file that was written a moment ago waits until it has
//! stood still.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use isle_files::{Noticed, Watch};

use super::roots::Root;
use super::{Library, ScanOptions, ScanReport};
use crate::Error;

/// How soon it is seen that roots were added or came back, and that it shall end.
const TICK: Duration = Duration::from_millis(500);

/// How roots are watched.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// For how long a file must not have been written before it is taken.
    pub settle: Duration,
    /// How often everything is compared, for what no notice came of.
    pub period: Duration,
    /// Whether to look at notices of the system; without them only the period counts.
    pub notices: bool,
    /// Ends the watch when it is set.
    pub stop: Arc<AtomicBool>,
}

impl Default for WatchOptions {
    /// One second; a quarter of an hour.
    fn default() -> WatchOptions {
        let (settle, period) = (Duration::from_secs(1), Duration::from_secs(15 * 60));
        WatchOptions { settle, period, notices: true, stop: Arc::default() }
    }
}

/// What a watch tells.
#[derive(Debug)]
pub enum WatchEvent {
    /// These roots are watched from now on.
    Watching(Vec<Root>),
    /// The system does not tell of changes, and why; everything is compared every period.
    NoNotices(String),
    /// A scan found something new.
    Scanned(ScanReport),
    /// A scan failed; the next one may not.
    Failed(Error),
}

impl Library {
    /// Keeps the library in step with its roots until it is told to stop. Blocks.
    ///
    /// # Errors
    /// [`super::LibraryError::None`]. What goes wrong with one scan is told and tried again.
    pub fn watch(&self, options: &WatchOptions, mut tell: impl FnMut(WatchEvent)) -> Result<(), Error> {
        let mut watched: Vec<Root> = Vec::new();
        let mut watch: Option<Watch> = None;
        let mut whole = Instant::now();
        let mut waiting: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut due: Option<Instant> = None;
        let mut told_once = false;
        while !options.stop.load(Ordering::Relaxed) {
            let roots: Vec<Root> = self.roots()?.into_iter().filter(|root| root.folder.is_dir()).collect();
            if roots.iter().map(place).ne(watched.iter().map(place)) || !told_once {
                watch = options.notices.then(|| watch_all(&roots, &mut tell)).flatten();
                watched.clone_from(&roots);
                told_once = true;
                tell(WatchEvent::Watching(roots));
                // What changed before there were notices.
                whole = Instant::now();
            }
            let now = Instant::now();
            if now >= whole {
                whole = now + options.period;
                self.take(
                    &ScanOptions { settle: Some(options.settle), ..ScanOptions::default() },
                    &mut waiting,
                    &mut tell,
                );
                due = due_of(&waiting, options);
            }
            if due.is_some_and(|due| Instant::now() >= due) {
                for (root, paths) in std::mem::take(&mut waiting) {
                    let only = ScanOptions {
                        root: Some(root),
                        only: Some(paths),
                        settle: Some(options.settle),
                        ..ScanOptions::default()
                    };
                    self.take(&only, &mut waiting, &mut tell);
                }
                due = due_of(&waiting, options);
            }
            let until = due.map_or(whole, |due| due.min(whole)).saturating_duration_since(Instant::now()).min(TICK);
            let Some(watch) = &watch else {
                std::thread::sleep(until);
                continue;
            };
            for noticed in watch.next(until) {
                match noticed {
                    Noticed::All(_) => whole = Instant::now(),
                    Noticed::Paths(root, paths) => {
                        let Some(root) = watched.get(root) else { continue };
                        waiting.entry(root.name.clone()).or_default().extend(paths);
                        due.get_or_insert_with(Instant::now);
                    }
                }
            }
        }
        Ok(())
    }

    /// Scans, and keeps what has not stood still yet for later.
    fn take(
        &self,
        options: &ScanOptions,
        waiting: &mut BTreeMap<String, BTreeSet<String>>,
        tell: &mut impl FnMut(WatchEvent),
    ) {
        match self.scan_now(options) {
            Ok(report) => {
                for (root, path) in &report.growing {
                    waiting.entry(root.clone()).or_default().insert(path.clone());
                }
                let news = report.added + report.modified + report.moved + report.back + report.missing;
                if news + report.invalid + report.unreadable > 0 || !report.flagged.is_empty() {
                    tell(WatchEvent::Scanned(report));
                }
            }
            Err(error) => tell(WatchEvent::Failed(error)),
        }
    }
}

fn place(root: &Root) -> (i64, &std::path::Path) {
    (root.id, &root.folder)
}

fn due_of(waiting: &BTreeMap<String, BTreeSet<String>>, options: &WatchOptions) -> Option<Instant> {
    (!waiting.is_empty()).then(|| Instant::now() + options.settle)
}

fn watch_all(roots: &[Root], tell: &mut impl FnMut(WatchEvent)) -> Option<Watch> {
    let folders = roots.iter().map(|root| root.folder.clone()).collect();
    // Notices are gathered for a moment, so that a move is one scan and not two.
    match Watch::new(folders, Duration::from_millis(200)) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tell(WatchEvent::NoNotices(error.to_string()));
            None
        }
    }
}
