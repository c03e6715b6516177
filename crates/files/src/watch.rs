//! What changes below roots, as the system tells it.
//!
//! Notices are hints: they may be late, doubled or missing, and a scan finds the truth. What is noticed is told once it has stood still for
//! [`Watch::new`]'s time; when the system lost notices, a whole root is told instead.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use notify::{EventKind, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};

use crate::logical::relative_of;
use crate::walk::PRIVATE_FOLDER;

/// Paths of one notice beyond which a scan is cheaper than looking at each.
const PATHS_MAX: usize = 10_000;

/// What was noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noticed {
    /// Files or folders changed, came or went: the root's place in the list, and paths below it.
    Paths(usize, BTreeSet<String>),
    /// Anything below a root may have changed.
    All(usize),
}

/// Why a root cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {}: {source}", path.display())]
pub struct WatchError {
    /// The root.
    pub path: PathBuf,
    /// The system's reason.
    pub source: notify::Error,
}

/// Watches roots until it is dropped.
pub struct Watch {
    roots: Vec<PathBuf>,
    events: Receiver<DebounceEventResult>,
    _debouncer: Debouncer<notify::RecommendedWatcher, RecommendedCache>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("roots", &self.roots).finish_non_exhaustive()
    }
}

impl Watch {
    /// Of folders, everything below them; `still` is for how long a path must have been quiet before it is told.
    ///
    /// # Errors
    /// The first root that cannot be watched: it is gone, or the system watches no more folders.
    pub fn new(roots: Vec<PathBuf>, still: Duration) -> Result<Watch, WatchError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WatchError { path: path.clone(), source }
        };
        let (send, events) = channel();
        let first = roots.first().cloned().unwrap_or_default();
        let mut debouncer = new_debouncer(still, None, send).map_err(failed(&first))?;
        for root in &roots {
            debouncer.watch(root, RecursiveMode::Recursive).map_err(failed(root))?;
        }
        Ok(Watch { roots, events, _debouncer: debouncer })
    }

    /// Waits for notices, at most for so long; none is an empty list.
    pub fn next(&self, at_most: Duration) -> Vec<Noticed> {
        match self.events.recv_timeout(at_most) {
            Ok(Ok(events)) => {
                let rescan = events.iter().any(|event| event.need_rescan());
                let touched = events.iter().filter(|event| !matches!(event.kind, EventKind::Access(_)));
                self.sort(rescan, touched.flat_map(|event| &event.paths))
            }
            Ok(Err(errors)) => {
                for error in &errors {
                    tracing::warn!(%error, "notices of the file system were lost");
                }
                self.sort(true, std::iter::empty())
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Vec::new(),
        }
    }

    fn sort<'a>(&self, rescan: bool, paths: impl Iterator<Item = &'a PathBuf>) -> Vec<Noticed> {
        if rescan {
            return (0..self.roots.len()).map(Noticed::All).collect();
        }
        let mut found = vec![BTreeSet::new(); self.roots.len()];
        let mut whole = vec![false; self.roots.len()];
        for path in paths {
            for (number, root) in self.roots.iter().enumerate() {
                let Ok(below) = path.strip_prefix(root) else { continue };
                if below.starts_with(PRIVATE_FOLDER) {
                    continue;
                }
                match relative_of(below) {
                    Ok(relative) => _ = found[number].insert(relative),
                    // The root itself, or a name that a scan reports.
                    Err(_) => whole[number] = true,
                }
            }
        }
        let told = |(number, paths): (usize, BTreeSet<String>)| match (whole[number], paths.len()) {
            (false, 0) => None,
            (false, 1..=PATHS_MAX) => Some(Noticed::Paths(number, paths)),
            _ => Some(Noticed::All(number)),
        };
        found.into_iter().enumerate().filter_map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    /// Notices until `wanted` holds.
    fn until(watch: &Watch, mut wanted: impl FnMut(&Noticed) -> bool) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            if watch.next(Duration::from_millis(200)).iter().any(&mut wanted) {
                return;
            }
        }
        panic!("it was not noticed");
    }

    #[test]
    fn what_comes_changes_and_goes_is_noticed_with_its_root() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(two.path().join("sub")).unwrap();
        let roots = vec![one.path().to_owned(), two.path().to_owned()];
        let watch = Watch::new(roots, Duration::from_millis(50)).unwrap();
        let is = |root: usize, path: &str| {
            let path = path.to_owned();
            move |noticed: &Noticed| match noticed {
                Noticed::Paths(number, paths) => *number == root && paths.contains(&path),
                Noticed::All(number) => *number == root,
            }
        };
        fs::write(two.path().join("sub/a.txt"), "1").unwrap();
        until(&watch, is(1, "sub/a.txt"));
        fs::rename(two.path().join("sub/a.txt"), one.path().join("b.txt")).unwrap();
        until(&watch, is(0, "b.txt"));
        fs::remove_file(one.path().join("b.txt")).unwrap();
        until(&watch, is(0, "b.txt"));
        fs::create_dir_all(one.path().join("new/deep")).unwrap();
        until(&watch, is(0, "new"));
    }

    #[test]
    fn isles_own_files_are_not_noticed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(".isle/partial")).unwrap();
        let watch = Watch::new(vec![root.path().to_owned()], Duration::from_millis(20)).unwrap();
        fs::write(root.path().join(".isle/partial/x"), "1").unwrap();
        fs::write(root.path().join("seen"), "1").unwrap();
        until(&watch, |noticed| {
            let Noticed::Paths(0, paths) = noticed else { panic!("{noticed:?}") };
            assert!(paths.iter().all(|path| path == "seen"), "{paths:?}");
            paths.contains("seen")
        });
    }

    #[test]
    fn a_root_that_is_gone_is_told_by_name() {
        let root = tempfile::tempdir().unwrap();
        let gone = root.path().join("gone");
        let error = Watch::new(vec![gone.clone()], Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn lost_notices_mean_every_root() {
        let root = tempfile::tempdir().unwrap();
        let roots = vec![root.path().to_owned(), root.path().to_owned()];
        let watch = Watch::new(roots, Duration::from_millis(20)).unwrap();
        assert_eq!(watch.sort(true, std::iter::empty()), [Noticed::All(0), Noticed::All(1)]);
        let many: Vec<PathBuf> = (0..=PATHS_MAX).map(|n| root.path().join(n.to_string())).collect();
        assert_eq!(watch.sort(false, many.iter()), [Noticed::All(0), Noticed::All(1)]);
    }
}
