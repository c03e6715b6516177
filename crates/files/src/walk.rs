//! What lies below a root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ignore::{DirEntry, WalkBuilder};

use crate::folder::Stat;
use crate::logical::relative_of;

/// The folder below a root that is isle's own; one deeper is that of another root.
pub const PRIVATE_FOLDER: &str = ".isle";
/// Files in a root that say what is left out, written like `.gitignore`.
const IGNORE_FILE: &str = ".isleignore";

/// Something below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file.
    File {
        /// Its path below the root.
        relative: String,
        /// How it stands there.
        stat: Stat,
    },
    /// Something that cannot be looked at. It was not looked into, so what lies below it may be there or not.
    Unreadable {
        /// Its path below the root, as far as it can be written.
        relative: String,
        /// The reason.
        why: String,
    },
}

/// Goes through a root, folder by folder. Links are not followed; folders, links and what is neither are passed over.
pub struct Walk {
    root: PathBuf,
    inner: ignore::Walk,
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Walk {
    /// Of a folder; `only` leaves out what is neither at or below one of these paths nor on the way to one.
    /// Of what `skip` names nothing is seen either, wherever it lies.
    pub fn new(root: &Path, only: Option<BTreeSet<String>>, skip: Vec<PathBuf>) -> Walk {
        let mut builder = WalkBuilder::new(root);
        builder.standard_filters(false).follow_links(false).add_custom_ignore_filename(IGNORE_FILE);
        let base = root.to_owned();
        builder.filter_entry(move |entry| {
            !skip.iter().any(|path| path == entry.path()) && is_wanted(entry, &base, only.as_ref())
        });
        Walk { root: root.to_owned(), inner: builder.build() }
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).map(Path::to_owned).ok()
    }

    fn unreadable(&self, error: &ignore::Error) -> Found {
        let mut error = error;
        let mut path = None;
        while let ignore::Error::WithPath { path: at, err } = error {
            (path, error) = (Some(at.as_path()), err);
        }
        while let ignore::Error::WithDepth { err, .. } = error {
            error = err;
            if let ignore::Error::WithPath { path: at, err } = error {
                (path, error) = (Some(at.as_path()), err);
            }
        }
        let relative = path.and_then(|path| self.relative(path)).unwrap_or_default();
        Found::Unreadable { relative: relative.display().to_string(), why: error.to_string() }
    }
}

fn is_wanted(entry: &DirEntry, root: &Path, only: Option<&BTreeSet<String>>) -> bool {
    if entry.depth() > 0 && entry.file_name() == PRIVATE_FOLDER {
        return false;
    }
    let Some(only) = only.filter(|_| entry.depth() > 0) else { return true };
    // What has no name in the library is reported by a whole walk.
    let Some(relative) = entry.path().strip_prefix(root).ok().and_then(|path| relative_of(path).ok()) else {
        return false;
    };
    let on_the_way = || {
        let below = format!("{relative}/");
        only.range(below.clone()..).next().is_some_and(|path| path.starts_with(&below))
    };
    let ends = relative.match_indices('/').map(|(end, _)| end).chain([relative.len()]);
    ends.into_iter().any(|end| only.contains(&relative[..end])) || on_the_way()
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            let entry = match self.inner.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(self.unreadable(&error)),
            };
            if let Some(error) = entry.error() {
                // A line of an ignore file that cannot be read leaves nothing out.
                tracing::warn!(%error, "an ignore file cannot be read whole");
            }
            if !entry.file_type().is_some_and(|kind| kind.is_file()) {
                continue;
            }
            let below = self.relative(entry.path()).unwrap_or_default();
            let relative = match relative_of(&below) {
                Ok(relative) => relative,
                Err(error) => {
                    let relative = below.display().to_string();
                    return Some(Found::Unreadable { relative, why: error.to_string() });
                }
            };
            return Some(match entry.metadata() {
                Ok(metadata) => Found::File { relative, stat: Stat::of(&metadata) },
                Err(error) => Found::Unreadable { relative, why: error.to_string() },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn files(root: &Path) -> Vec<String> {
        let mut found: Vec<String> = Walk::new(root, None, Vec::new())
            .map(|found| match found {
                Found::File { relative, .. } => relative,
                Found::Unreadable { relative, why } => format!("{relative}: {why}"),
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn files_are_found_at_any_depth_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("a/b/c/d/e")).unwrap();
        fs::create_dir_all(at(".isle/partial")).unwrap();
        fs::create_dir_all(at("a/.isle")).unwrap();
        for path in ["a/b/c/d/e/deep.bin", ".hidden", "ä€.txt", ".isle/partial/x", "a/.isle/another-roots"] {
            fs::write(at(path), path).unwrap();
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(outside.path(), at("out")).unwrap();
            std::os::unix::fs::symlink(outside.path().join("secret"), at("leak")).unwrap();
            std::os::unix::fs::symlink(at("a"), at("a/b/loop")).unwrap();
        }
        assert_eq!(files(root.path()), [".hidden", "a/b/c/d/e/deep.bin", "ä€.txt"]);
    }

    #[test]
    fn what_the_ignore_file_names_is_left_out_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("sub")).unwrap();
        fs::write(at(".isleignore"), "*.tmp\n!keep.tmp\n/sub/private\n").unwrap();
        fs::write(at(".gitignore"), "*.txt\n").unwrap();
        for path in ["a.tmp", "keep.tmp", "a.txt", "sub/b.tmp", "sub/private", "private"] {
            fs::write(at(path), path).unwrap();
        }
        assert_eq!(files(root.path()), [".gitignore", ".isleignore", "a.txt", "keep.tmp", "private"]);
    }

    #[test]
    fn a_walk_of_some_paths_sees_them_and_what_is_below_and_keeps_to_the_ignore_file() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("a/b/c")).unwrap();
        fs::create_dir_all(at("ab")).unwrap();
        fs::create_dir_all(at("skip/deep")).unwrap();
        fs::write(at(".isleignore"), "skip\n").unwrap();
        for path in ["a/1", "a/b/2", "a/b/c/3", "ab/4", "5", "skip/deep/6"] {
            fs::write(at(path), path).unwrap();
        }
        let only = |paths: &[&str]| {
            let paths = paths.iter().map(|&path| path.to_owned()).collect();
            let found = Walk::new(root.path(), Some(paths), Vec::new()).map(|found| match found {
                Found::File { relative, .. } => relative,
                Found::Unreadable { relative, why } => format!("{relative}: {why}"),
            });
            found.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(only(&["a/b"]), ["a/b/2", "a/b/c/3"]);
        assert_eq!(only(&["a/b/2", "5"]), ["5", "a/b/2"]);
        assert_eq!(only(&["gone/x", "a/1"]), ["a/1"]);
        assert_eq!(only(&["skip/deep/6", "skip"]), Vec::<String>::new());
        assert_eq!(only(&[]), Vec::<String>::new());
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_no_text_is_listed_and_the_rest_goes_on() {
        use std::os::unix::ffi::OsStrExt as _;
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
        fs::write(root.path().join("good"), "x").unwrap();
        let found = files(root.path());
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], "good");
        assert!(found[0].contains("is not Unicode"), "{}", found[0]);
    }

    #[test]
    fn a_root_that_is_gone_is_unreadable_itself() {
        let root = tempfile::tempdir().unwrap();
        let gone = root.path().join("gone");
        let found: Vec<Found> = Walk::new(&gone, None, Vec::new()).collect();
        assert!(matches!(&found[..], [Found::Unreadable { relative, .. }] if relative.is_empty()), "{found:?}");
    }
}
