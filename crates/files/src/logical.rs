//! Paths of the library: how a file is called on every device, and what of it can stand on this one.

use std::fmt;
use std::path::{Component, Path};

use crate::walk::PRIVATE_FOLDER;

/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 4096;
/// The longest part of one.
const PART_BYTES_MAX: usize = 255;
/// The longest ending of a name that is kept when something is put before it.
const ENDING_BYTES_MAX: usize = 64;
/// The deepest path.
const PARTS_MAX: usize = 128;

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It could lead out of its root, or nowhere.
    #[error("path {path:?} is refused: {why}")]
    Refused {
        /// As it came.
        path: String,
        /// The reason.
        why: &'static str,
    },
    /// It is a good path, and this system cannot have it.
    #[error("path {path:?} cannot stand on this system: {why}")]
    NotHere {
        /// As it came.
        path: String,
        /// The reason.
        why: &'static str,
    },
    /// A name on the disk that is no text.
    #[error("the name {0:?} is not Unicode; rename the file")]
    NotUnicode(String),
}

/// What names a system can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamingRules {
    /// Any name without a slash.
    Unix,
    /// No device's name, no name that ends with a dot or a space, none with a character that means something there.
    Windows,
}

impl NamingRules {
    /// This system's.
    pub const fn here() -> NamingRules {
        if cfg!(windows) { NamingRules::Windows } else { NamingRules::Unix }
    }

    fn against(self, part: &str) -> Option<&'static str> {
        if self == NamingRules::Unix {
            return None;
        }
        if part.contains(['\\', ':', '<', '>', '"', '|', '?', '*']) {
            return Some("one of \\ : < > \" | ? * is in it");
        }
        if part.ends_with(['.', ' ']) {
            return Some("a part ends with a dot or a space");
        }
        let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
        let numbered = |device: &str| {
            stem.strip_prefix(device).is_some_and(|rest| {
                let mut rest = rest.chars();
                matches!((rest.next(), rest.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
            })
        };
        let device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$");
        (device || numbered("COM") || numbered("LPT")).then_some("it is the name of a device")
    }
}

/// A path below a root, with its root's name before it: `models/llama/7b.gguf`. The same on every device; where the root lies is each device's own affair.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogicalPath {
    text: String,
    root: usize,
}

impl LogicalPath {
    /// Checks a path, wherever it came from.
    ///
    /// # Errors
    /// [`PathError::Refused`] if it has no root or could lead out of it.
    pub fn parse(text: &str) -> Result<LogicalPath, PathError> {
        let refused = |why| PathError::Refused { path: shown(text), why };
        check(text).map_err(refused)?;
        let root = text.find('/').ok_or_else(|| refused("it names no file below its root"))?;
        if text.split('/').any(|part| part.eq_ignore_ascii_case(PRIVATE_FOLDER)) {
            return Err(refused("that folder is isle's own"));
        }
        Ok(LogicalPath { text: text.to_owned(), root })
    }

    /// Of a root's name and a path below it.
    ///
    /// # Errors
    /// As [`LogicalPath::parse`].
    pub fn of(root: &str, relative: &str) -> Result<LogicalPath, PathError> {
        LogicalPath::parse(&format!("{root}/{relative}"))
    }

    /// The root's name.
    pub fn root(&self) -> &str {
        &self.text[..self.root]
    }

    /// The path below the root.
    pub fn relative(&self) -> &str {
        &self.text[self.root + 1..]
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or(&self.text)
    }

    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a file can be called so on a system with these rules.
    ///
    /// # Errors
    /// [`PathError::NotHere`].
    pub fn stands_under(&self, rules: NamingRules) -> Result<(), PathError> {
        match self.text.split('/').find_map(|part| rules.against(part)) {
            Some(why) => Err(PathError::NotHere { path: shown(&self.text), why }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LogicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As it can be shown.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

fn check(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > PATH_BYTES_MAX {
        return Err("it is longer than 4,096 bytes");
    }
    if text.starts_with('/') {
        return Err("it is absolute");
    }
    if text.split('/').count() > PARTS_MAX {
        return Err("it is deeper than 128 folders");
    }
    for part in text.split('/') {
        match part {
            "" => return Err("a part of it is empty"),
            "." | ".." => return Err("it has a part . or .."),
            _ if part.len() > PART_BYTES_MAX => return Err("a part is longer than 255 bytes"),
            _ if part.chars().any(char::is_control) => return Err("it has a control character"),
            _ => {}
        }
    }
    Ok(())
}

/// A path below a root as the library writes it: its parts with slashes between, byte for byte as the system gives them.
///
/// # Errors
/// [`PathError::NotUnicode`], and [`PathError::Refused`] for what could not come back from another device.
pub fn relative_of(path: &Path) -> Result<String, PathError> {
    let mut text = String::new();
    for part in path.components() {
        let Component::Normal(part) = part else {
            let path = path.display().to_string();
            return Err(PathError::Refused { path, why: "it does not stay below its root" });
        };
        let part = part.to_str().ok_or_else(|| PathError::NotUnicode(path.display().to_string()))?;
        if !text.is_empty() {
            text.push('/');
        }
        text.push_str(part);
    }
    check(&text).map_err(|why| PathError::Refused { path: shown(&text), why })?;
    Ok(text)
}

/// What a file is called that has to stand beside another of its path: the first digits of its id before its ending.
pub fn conflict_name(relative: &str, id: &str) -> String {
    let (folder, name) = relative.rsplit_once('/').map_or(("", relative), |(folder, name)| (folder, name));
    let (stem, ending) = match name.rfind('.') {
        // What is longer is no ending, and leaves no room.
        Some(dot) if dot > 0 && name.len() - dot <= ENDING_BYTES_MAX => name.split_at(dot),
        _ => (name, ""),
    };
    let mark = format!(" (conflict {})", id.get(..8).unwrap_or(id));
    let mut room = PART_BYTES_MAX.saturating_sub(mark.len() + ending.len()).min(stem.len());
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    let slash = if folder.is_empty() { "" } else { "/" };
    format!("{folder}{slash}{}{mark}{ending}", &stem[..room])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn why(text: &str) -> &'static str {
        match LogicalPath::parse(text) {
            Err(PathError::Refused { why, .. }) => why,
            other => panic!("{text:?} gives {other:?}"),
        }
    }

    #[test]
    fn what_leads_out_of_a_root_is_refused() {
        for text in ["models/../../etc/passwd", "models/..", "..", "models/a/./b", "./models/a"] {
            assert_eq!(why(text), "it has a part . or ..");
        }
        assert_eq!(why("/etc/passwd"), "it is absolute");
        assert_eq!(why("models//x"), "a part of it is empty");
        assert_eq!(why("models/x/"), "a part of it is empty");
        assert_eq!(why("models"), "it names no file below its root");
        assert_eq!(why(""), "it is empty");
        assert_eq!(why("models/a\0b"), "it has a control character");
        assert_eq!(why("models/a\nb"), "it has a control character");
        assert_eq!(why("models/.isle/trash/x"), "that folder is isle's own");
        assert_eq!(why("models/.ISLE/x"), "that folder is isle's own");
        assert_eq!(why(".isle/trash/x"), "that folder is isle's own");
        assert_eq!(why("models/a/.isle/x"), "that folder is isle's own");
        assert_eq!(why(&format!("models/{}", "x".repeat(256))), "a part is longer than 255 bytes");
        assert_eq!(why(&"x/".repeat(200)), "it is deeper than 128 folders");
        assert_eq!(why(&"x".repeat(4097)), "it is longer than 4,096 bytes");
    }

    #[test]
    fn names_that_windows_reserves_stand_elsewhere() {
        for name in ["CON", "nul.txt", "com1", "LPT³.x", "aux .c", "a:b", "..\\..\\x", "x.", "y ", "what?"] {
            let path = LogicalPath::of("models", name).unwrap();
            assert_eq!(path.stands_under(NamingRules::Unix), Ok(()), "{name}");
            assert!(matches!(path.stands_under(NamingRules::Windows), Err(PathError::NotHere { .. })), "{name}");
        }
        for name in ["CONSOLE", "com10", "com", "nullable.txt", "a.b", "Ärger.gguf"] {
            let path = LogicalPath::of("models", name).unwrap();
            assert_eq!(path.stands_under(NamingRules::Windows), Ok(()), "{name}");
        }
    }

    #[test]
    fn unicode_is_kept_as_it_is() {
        let (composed, decomposed) = ("caf\u{e9}.txt", "cafe\u{301}.txt");
        assert_eq!(LogicalPath::of("r", composed).unwrap().relative(), composed);
        assert_eq!(LogicalPath::of("r", decomposed).unwrap().relative(), decomposed);
        assert_eq!(relative_of(Path::new("a/caf\u{e9}")).unwrap(), "a/caf\u{e9}");
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_no_text_is_told() {
        use std::os::unix::ffi::OsStrExt as _;
        let name = std::ffi::OsStr::from_bytes(b"a\xffb");
        assert!(matches!(relative_of(Path::new(name)), Err(PathError::NotUnicode(_))));
    }

    #[test]
    fn a_copy_of_a_conflict_keeps_folder_and_ending() {
        let id = "0123456789abcdef";
        assert_eq!(conflict_name("a/b/notes.txt", id), "a/b/notes (conflict 01234567).txt");
        assert_eq!(conflict_name(".hidden", id), ".hidden (conflict 01234567)");
        assert_eq!(conflict_name("a.b/c", id), "a.b/c (conflict 01234567)");
        let long = "ä".repeat(127);
        assert!(LogicalPath::of("r", &conflict_name(&format!("{long}.x"), id)).is_ok());
        assert!(LogicalPath::of("r", &conflict_name(&format!("x.{long}"), id)).is_ok());
    }

    proptest! {
        #[test]
        fn a_path_that_is_taken_joins_below_its_root(text in ".{0,40}") {
            if let Ok(path) = LogicalPath::parse(&text) {
                let joined = Path::new("/base").join(path.relative());
                prop_assert!(joined.components().all(|part| part != Component::ParentDir));
                prop_assert!(joined.starts_with("/base") && joined != Path::new("/base"));
                prop_assert_eq!(format!("{}/{}", path.root(), path.relative()), text);
            }
        }
    }
}
