//! Kinds of files: which are of one, who looks into them, and what makes two of them the same.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

/// The most patterns of all kinds together.
const PATTERNS_MAX: usize = 4096;

/// What makes two finds one file of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The content: the same model under two names on two devices is one.
    Content,
    /// Content and path: a changed file is a new version of what is at its path.
    #[default]
    Path,
}

impl Identity {
    /// As it is kept.
    pub fn as_str(self) -> &'static str {
        match self {
            Identity::Content => "content",
            Identity::Path => "path",
        }
    }
}

/// A kind of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// Its name; also the readable part of where its contents go in a remote.
    pub name: String,
    /// Patterns of names (`*.gguf`), or of paths below the root if there is a slash in it (`docs/**/*.pdf`). Capital and small letters are the same.
    pub patterns: Vec<String>,
    /// Who looks into its files: `any`, `text`, `gguf`, `ppn`, or a validator of the app's.
    pub validator: String,
    /// The least size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_min: Option<u64>,
    /// The largest size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// What makes two finds one file.
    #[serde(default)]
    pub identity: Identity,
    /// The folder below the library's own where its files go that come from other devices and whose root is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Digests beside BLAKE3 that are wanted.
    #[serde(default)]
    pub sha1: bool,
    /// The same.
    #[serde(default)]
    pub sha256: bool,
    /// Of several kinds that fit, the one of the smallest rank counts; then the first by name.
    #[serde(default)]
    pub rank: i64,
}

impl Kind {
    /// The kinds that a new library has: `gguf` models, `ppn` wake words, and `file` for all else.
    pub fn built_in() -> Vec<Kind> {
        let kind = |name: &str, pattern: &str, validator: &str, identity, rank| Kind {
            name: name.to_owned(),
            patterns: vec![pattern.to_owned()],
            validator: validator.to_owned(),
            bytes_min: None,
            bytes_max: None,
            identity,
            destination: None,
            sha1: false,
            sha256: false,
            rank,
        };
        vec![
            kind("gguf", "*.gguf", "gguf", Identity::Content, 10),
            kind("ppn", "*.ppn", "ppn", Identity::Content, 10),
            kind("file", "*", "any", Identity::Path, 1000),
        ]
    }

    /// Why a size is none of this kind's.
    pub fn misfit(&self, bytes: u64) -> Option<String> {
        match (self.bytes_min, self.bytes_max) {
            (Some(least), _) if bytes < least => Some(format!("it has {bytes} bytes; {} needs {least}", self.name)),
            (_, Some(most)) if bytes > most => Some(format!("it has {bytes} bytes; {} allows {most}", self.name)),
            _ => None,
        }
    }
}

/// A kind that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KindError {
    /// A name that cannot be part of an object's key.
    #[error(
        "kind {0:?}: its name must be 1 to 32 small letters, digits, hyphens or underscores, and begin with a letter or a digit"
    )]
    Name(String),
    /// A pattern that is none.
    #[error("kind {kind}: pattern {pattern:?} cannot be read: {why}")]
    Pattern {
        /// Whose it is.
        kind: String,
        /// As it came.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// No pattern at all, or too many.
    #[error("kind {kind} has {patterns} patterns; it needs one, and all kinds together have at most {PATTERNS_MAX}")]
    Patterns {
        /// Whose.
        kind: String,
        /// How many.
        patterns: usize,
    },
    /// Least and largest size exclude each other.
    #[error("kind {0}: no size is at least its least and at most its largest")]
    Sizes(String),
    /// A destination that leads elsewhere.
    #[error("kind {kind}: destination {destination:?} is no path below the library's folder")]
    Destination {
        /// Whose.
        kind: String,
        /// As it came.
        destination: String,
    },
}

/// Kinds, ready to be asked.
#[derive(Debug)]
pub struct Kinds {
    kinds: Vec<Kind>,
    globs: GlobSet,
    /// To which kind each pattern belongs.
    owners: Vec<usize>,
}

impl Kinds {
    /// Of a list in any order.
    ///
    /// # Errors
    /// The first kind that cannot be used.
    pub fn new(mut kinds: Vec<Kind>) -> Result<Kinds, KindError> {
        kinds.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
        let (mut set, mut owners) = (GlobSetBuilder::new(), Vec::new());
        for (number, kind) in kinds.iter().enumerate() {
            check(kind)?;
            if kind.patterns.is_empty() || owners.len() + kind.patterns.len() > PATTERNS_MAX {
                return Err(KindError::Patterns { kind: kind.name.clone(), patterns: kind.patterns.len() });
            }
            for pattern in &kind.patterns {
                let failed = |error: globset::Error| KindError::Pattern {
                    kind: kind.name.clone(),
                    pattern: pattern.clone(),
                    why: error.kind().to_string(),
                };
                let anywhere = if pattern.contains('/') { pattern.clone() } else { format!("**/{pattern}") };
                let glob = GlobBuilder::new(&anywhere).case_insensitive(true).literal_separator(true).build();
                set.add(glob.map_err(failed)?);
                owners.push(number);
            }
        }
        let failed = |error: globset::Error| KindError::Pattern {
            kind: "all".to_owned(),
            pattern: String::new(),
            why: error.kind().to_string(),
        };
        Ok(Kinds { globs: set.build().map_err(failed)?, kinds, owners })
    }

    /// The kind of a path below a root; `None` if it is of none.
    pub fn of(&self, relative: &str) -> Option<&Kind> {
        let fit = self.globs.matches(relative);
        let first = fit.into_iter().filter_map(|pattern| self.owners.get(pattern)).min()?;
        self.kinds.get(*first)
    }

    /// The kind of a name.
    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.name == name)
    }

    /// All of them, the most particular first.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter()
    }
}

fn check(kind: &Kind) -> Result<(), KindError> {
    let name = &kind.name;
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let begins = name.starts_with(fits);
    if !begins || name.len() > 32 || !name.chars().all(|c| fits(c) || c == '-' || c == '_') {
        return Err(KindError::Name(name.clone()));
    }
    if kind.bytes_min.zip(kind.bytes_max).is_some_and(|(least, most)| least > most) {
        return Err(KindError::Sizes(name.clone()));
    }
    let misplaced = |folder: &&String| crate::LogicalPath::of(folder, "x").is_err();
    match kind.destination.as_ref().filter(misplaced) {
        Some(destination) => Err(KindError::Destination { kind: name.clone(), destination: destination.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, patterns: &[&str], rank: i64) -> Kind {
        let patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        let base = Kind::built_in().remove(2);
        Kind { name: name.to_owned(), patterns, rank, ..base }
    }

    #[test]
    fn the_most_particular_kind_counts_whatever_the_case_of_letters() {
        let mut all = Kind::built_in();
        all.push(kind("manual", &["docs/**/*.pdf", "*.man"], 0));
        let kinds = Kinds::new(all).unwrap();
        let of = |path| kinds.of(path).map(|kind| kind.name.as_str());
        assert_eq!(of("a/b/LLaMA.GGUF"), Some("gguf"));
        assert_eq!(of("hey.ppn"), Some("ppn"));
        assert_eq!(of("hey.ppn.txt"), Some("file"));
        assert_eq!(of("docs/a/b.pdf"), Some("manual"));
        assert_eq!(of("other/docs/b.pdf"), Some("file"));
        assert_eq!(of("deep/x.man"), Some("manual"));
        assert_eq!(of(".hidden"), Some("file"));
    }

    #[test]
    fn without_a_kind_for_all_else_some_files_are_of_none() {
        let kinds = Kinds::new(vec![kind("rom", &["*.{nes,sfc}"], 0)]).unwrap();
        assert_eq!(kinds.of("a/mario.NES").map(|kind| kind.name.as_str()), Some("rom"));
        assert!(kinds.of("a/mario.txt").is_none());
    }

    #[test]
    fn a_kind_that_cannot_be_used_is_told() {
        let refused = |kind| Kinds::new(vec![kind]).unwrap_err();
        assert_eq!(refused(kind("../x", &["*"], 0)), KindError::Name("../x".into()));
        assert_eq!(refused(kind("", &["*"], 0)), KindError::Name(String::new()));
        assert!(matches!(refused(kind("x", &["[a"], 0)), KindError::Pattern { .. }));
        assert_eq!(refused(kind("x", &[], 0)), KindError::Patterns { kind: "x".into(), patterns: 0 });
        let sizes = Kind { bytes_min: Some(2), bytes_max: Some(1), ..kind("x", &["*"], 0) };
        assert_eq!(refused(sizes), KindError::Sizes("x".into()));
        let away = Kind { destination: Some("../up".into()), ..kind("x", &["*"], 0) };
        assert!(matches!(refused(away), KindError::Destination { .. }));
    }

    #[test]
    fn sizes_are_bounds_that_are_allowed_themselves() {
        let kind = Kind { bytes_min: Some(10), bytes_max: Some(20), ..kind("x", &["*"], 0) };
        let fits = |bytes| kind.misfit(bytes).is_none();
        assert_eq!([fits(9), fits(10), fits(20), fits(21)], [false, true, true, false]);
    }
}
