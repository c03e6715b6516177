//! The JSON files of before, and which of the two the app goes by.

use std::path::{Path, PathBuf};

use isle::{Error, ImportOptions, InterchangeError, SourceState};
use serde_json::{Map, Value};

use super::Wmd;

/// What the app's endpoints are answered from.
#[derive(Debug)]
pub enum Backend {
    /// The database.
    Sqlite(Wmd),
    /// The files.
    Json(JsonFiles),
}

/// The JSON files that the app had before.
#[derive(Debug)]
pub struct JsonFiles {
    folder: PathBuf,
}

impl Backend {
    /// The name of the database in the app's folder.
    pub const DATABASE: &str = "wmd_data.db";

    /// What an app's folder goes by: the database, unless `use_json` is wanted, or there is none, or it does not have what the files hold yet: then the files, and
    /// never an empty database.
    ///
    /// # Errors
    /// Why the database cannot be opened.
    pub fn detect(folder: &Path, home: Option<&Path>, use_json: bool) -> Result<Backend, Error> {
        let (path, json) = (folder.join(Backend::DATABASE), JsonFiles { folder: folder.to_owned() });
        if use_json || !path.exists() {
            return Ok(Backend::Json(json));
        }
        let wmd = Wmd::open(&path, home)?;
        let waits = match wmd.replica().import_status(&Wmd::mapping()?, folder) {
            Ok(sources) => sources.iter().any(|source| source.state == SourceState::New),
            // A file that cannot be read was not imported either.
            Err(Error::Interchange(InterchangeError::Document(_))) => true,
            Err(error) => return Err(error),
        };
        Ok(if waits { Backend::Json(json) } else { Backend::Sqlite(wmd) })
    }

    /// Brings the files into the database, all or none, and goes by it from now on. With `archive` the files are renamed then.
    ///
    /// # Errors
    /// As [`isle::Replica::import`].
    pub fn migrate(folder: &Path, home: Option<&Path>, archive: bool) -> Result<Backend, Error> {
        let wmd = Wmd::open(&folder.join(Backend::DATABASE), home)?;
        wmd.replica().import(&Wmd::mapping()?, folder, &ImportOptions::default().archive(archive))?;
        Ok(Backend::Sqlite(wmd))
    }

    /// `GET /settings`.
    ///
    /// # Errors
    /// SQLite's reason, or the file's.
    pub fn settings(&self) -> Result<Value, Error> {
        match self {
            Backend::Sqlite(wmd) => Ok(Value::Object(wmd.settings().all()?.into_iter().collect())),
            Backend::Json(files) => files.read("settings.json"),
        }
    }

    /// `GET /history`: by time.
    ///
    /// # Errors
    /// SQLite's reason, or the file's.
    pub fn history(&self) -> Result<Vec<Value>, Error> {
        let mut entries = match self {
            Backend::Sqlite(wmd) => {
                let entries = wmd.history().recent(u32::MAX)?.into_iter();
                let entry = |download: super::Download| {
                    serde_json::json!({
                        "id": download.id, "filename": download.filename, "status": download.status, "error": download.error,
                        "total_size": download.total_size, "timestamp": download.downloaded_at,
                    })
                };
                entries.map(entry).collect()
            }
            Backend::Json(files) => {
                let Value::Array(entries) = files.read("download_history.json")? else { return Ok(Vec::new()) };
                entries.into_iter().map(shown).collect::<Vec<_>>()
            }
        };
        entries.sort_by_key(|entry| (entry["timestamp"].to_string(), entry["id"].to_string()));
        Ok(entries)
    }

    /// `GET /metadata/FILENAME`.
    ///
    /// # Errors
    /// SQLite's reason, or the file's.
    pub fn metadata(&self, filename: &str) -> Result<Option<Map<String, Value>>, Error> {
        let files = match self {
            Backend::Sqlite(wmd) => return wmd.metadata().get(filename),
            Backend::Json(files) => files,
        };
        let Some(Value::Object(object)) = files.read("model_metadata.json")?.get_mut(filename).map(Value::take) else {
            return Ok(None);
        };
        let mut object: Map<_, _> = object.into_iter().filter(|(_, value)| !value.is_null()).collect();
        // Some entries have it, some only stand under it.
        object.insert("filename".to_owned(), filename.into());
        Ok(Some(object))
    }
}

/// The members of an entry of the history that the endpoint shows.
fn shown(entry: Value) -> Value {
    let member = |name: &str| entry.get(name).cloned().unwrap_or(Value::Null);
    let names = ["id", "filename", "status", "error", "total_size", "timestamp"];
    Value::Object(names.into_iter().map(|name| (name.to_owned(), member(name))).collect())
}

impl JsonFiles {
    fn read(&self, name: &str) -> Result<Value, Error> {
        let path = self.folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|source| Error::Document { source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Object(Map::new())),
            Err(source) => Err(Error::Read { path, source }),
        }
    }
}
