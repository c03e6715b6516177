//! One file of settings. What stands in it counts where neither an option nor an environment variable says otherwise.
//!
//! ```toml
//! db = "notes.db"           # --db, ISLE_DB
//! home = "~/.isle"          # ISLE_HOME: the folder that tells devices apart
//! backups = "backups"       # --folder, --backups, ISLE_BACKUPS
//! timeout = "20s"           # --timeout, ISLE_TIMEOUT
//! retries = 2               # --retries, ISLE_RETRIES
//! log = "isle=info"         # ISLE_LOG
//! cr-sqlite = "crsqlite.so" # ISLE_CR_SQLITE: the extension, for files that it keeps
//! ```
//! It is the one that `--config` or `ISLE_CONFIG` names, else `isle.toml` in the current folder, else `isle/config.toml` in the user's folder of settings. Paths
//! count from the folder that it lies in.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use toml::Value;

use crate::failure::{Failure, Kind};

/// What can stand in the file, the variable that says the same, and what it is.
const KEYS: [(&str, &str, Is); 7] = [
    ("db", "ISLE_DB", Is::Path),
    ("home", "ISLE_HOME", Is::Path),
    ("backups", "ISLE_BACKUPS", Is::Path),
    ("timeout", "ISLE_TIMEOUT", Is::Text),
    ("retries", "ISLE_RETRIES", Is::Number),
    ("log", "ISLE_LOG", Is::Text),
    ("cr-sqlite", "ISLE_CR_SQLITE", Is::Path),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Path,
    Text,
    Number,
}

static READ: OnceLock<PathBuf> = OnceLock::new();

/// The file that was read.
pub(crate) fn path() -> Option<&'static Path> {
    READ.get().map(PathBuf::as_path)
}

/// Reads the file, and makes it count. To be called while there is one thread.
///
/// # Errors
/// What is wrong with the file; or that it is not there, if it was named.
pub(crate) fn load(words: &[OsString]) -> Result<(), Failure> {
    let Some((path, text)) = find(words)? else { return Ok(()) };
    let shown = path.display();
    let wrong = |what: String| Failure::new(Kind::Invalid, format!("{shown}: {what}"));
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| wrong(error.to_string().trim_end().to_owned()))?;
    for (key, value) in &table {
        let known = KEYS.iter().find(|(name, ..)| name == key);
        let (_, variable, is) = known.ok_or_else(|| {
            let names: Vec<&str> = KEYS.iter().map(|(name, ..)| *name).collect();
            wrong(format!("there is no setting {key:?}")).hint(format!("there are {}", names.join(", ")))
        })?;
        let text: OsString = match (is, value) {
            (Is::Path, Value::String(text)) => beside(&path, text).into(),
            (Is::Text, Value::String(text)) => text.into(),
            (Is::Number, Value::Integer(number)) if *number >= 0 => number.to_string().into(),
            (Is::Number, _) => return Err(wrong(format!("{key} has to be a number of 0 or more"))),
            _ => return Err(wrong(format!("{key} has to be a text"))),
        };
        if std::env::var_os(variable).is_none_or(|set| set.is_empty()) {
            // SAFETY: there is one thread yet, so nobody reads the environment meanwhile.
            unsafe { std::env::set_var(variable, text) };
        }
    }
    let _ = READ.set(path);
    Ok(())
}

/// The file and what stands in it.
fn find(words: &[OsString]) -> Result<Option<(PathBuf, String)>, Failure> {
    let unreadable = |path: &Path, error: std::io::Error| {
        Failure::new(Kind::Invalid, format!("cannot read the settings in {}: {error}", path.display()))
    };
    let named = option(words).or_else(|| std::env::var_os("ISLE_CONFIG").filter(|path| !path.is_empty()));
    if let Some(path) = named.map(PathBuf::from) {
        let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        return Ok(Some((path, text)));
    }
    let user = etcetera::choose_base_strategy().ok();
    let user = user.map(|strategy| etcetera::BaseStrategy::config_dir(&strategy).join("isle").join("config.toml"));
    for path in [Some(PathBuf::from("isle.toml")), user].into_iter().flatten() {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Some((path, text))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(unreadable(&path, error)),
        }
    }
    Ok(None)
}

/// The word behind `--config`; the rest of the words is read when the settings are known.
fn option(words: &[OsString]) -> Option<OsString> {
    let mut words = words.iter().skip(1).take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().cloned();
        }
        if let Some(value) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(OsStr::new(value).to_owned());
        }
    }
    None
}

/// A path as it counts from the folder of the file.
fn beside(file: &Path, text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), etcetera::home_dir()) {
        (Some(rest), Ok(home)) => home.join(rest),
        _ => {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let path = folder.join(text);
            std::path::absolute(&path).unwrap_or(path)
        }
    }
}
