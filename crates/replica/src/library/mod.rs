//! The file library: files in folders of devices become rows that travel; their contents follow when they are wanted.
//!
//! # Words
//! *Root*: a folder of this device with a name that all devices share; where it lies is each device's own affair. *File*: a row of `library_files`,
//! which is one content with one path `root/folder/name`, or one content alone, as its kind says ([`Identity`]). *Presence*: that a device has a file, and where.
//! *Stored*: that a remote has all chunks of a file, as its listing and this device's own puts say.
//!
//! # Invariants
//! * What one device lacks changes nothing for another: a scan writes presences of its own device, and takes no file out of the library. Only
//!   [`Library::trash`] and [`Library::prune`] do.
//! * What is in a row came from a file that was whole and unchanged while it was read, and that its kind's validator took.
//! * A file comes to its place whole and verified, never over another (see `isle_files`).
//! * Local bytes go only where the same content is known to be elsewhere ([`Library::evict`]) or into the trash.
//!
//! # Who is at it
//! Scans of one database wait for each other, and so do movements of contents, whatever process they are in (locks in the home folder). One that finds the record
//! of a predecessor that still says "running" knows that its process is gone.
//!
//! # Tables
//! `schema.sql`: the library is a schema like any app's, made by the first [`Library::add_root`] or [`Library::create`] and known to every device of the group with its next sync. What belongs to this device
//! alone (roots, index of the last scan, listings of remotes) are local tables. Views (`views.sql`) each device makes for itself, so that an app's schema that does not name them takes none away. The view `fs_scan` is the last scan for SQL, `library_models` what GGUF files say of themselves.

mod evict;
mod fetch;
mod files;
mod index;
mod kinds;
mod problems;
mod prune;
mod push;
mod roots;
mod scan;
mod sources;
mod storage;
mod take_up;
mod trash;
mod verify;
mod watch;
mod work;

use std::sync::Arc;

use isle_files::{Chunker, Kind, Kinds};

pub use fetch::{Pulled, Selection};
pub use files::{Availability, FileFilter, FileInfo, GroupedBy, LibraryGroup, LibraryStatus};
pub use isle_files::{Facts, Identity, Invalid, Kind as FileKind, Validator, Validators};
pub use problems::{LibraryError, Problem};
pub use prune::{PruneOptions, PrunePlan, Pruned};
pub use push::{MoveOptions, Pushed};
pub use roots::Root;
pub use scan::{ScanOptions, ScanProgress, ScanReport};
pub use storage::Storage;
pub use trash::Trashed;
pub use verify::Verified;
pub use watch::{WatchEvent, WatchOptions};

use crate::replica::{Inner, Replica};
use crate::{Error, params};

const SCHEMA: &str = include_str!("schema.sql");
const VIEWS: &str = include_str!("views.sql");
/// How each of them begins.
const VIEW: &str = "CREATE VIEW ";
/// Its table without which there is no library.
const TABLE: &str = "library_files";
const SEED: &str = "chunker seed";

/// The file library of a replica. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Library {
    replica: Replica,
    validators: Arc<Validators>,
}

impl Replica {
    /// The library of files beside this replica's rows, with the validators that isle has.
    pub fn library(&self) -> Library {
        self.library_with(Validators::default())
    }

    /// As [`Replica::library`], with validators of the app's own beside them.
    pub fn library_with(&self, validators: Validators) -> Library {
        Library { replica: self.clone(), validators: Arc::new(validators) }
    }
}

impl Library {
    fn inner(&self) -> &Arc<Inner> {
        &self.replica.inner
    }

    /// Whether the group has a library, as far as it is known here.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn exists(&self) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";
        Ok(self.replica.read(|q| q.one::<i64>(sql, params![TABLE]))?.is_some())
    }

    /// Makes the library's tables, or brings them up to what this version of isle wants. Nothing is done where they are.
    ///
    /// # Errors
    /// As [`Replica::apply_schema`]: a table of the app's that is called like one of them, say.
    pub fn create(&self) -> Result<(), Error> {
        self.replica.apply_schema(SCHEMA)?;
        self.make_views()?;
        let seed = format!("{:016x}", u64::from_be_bytes(first_8(&self.inner().runtime.random())));
        let name = format!("{SEED} {}", self.device()?);
        let kinds = Kind::built_in();
        self.replica.write(|tx| {
            let begun = "SELECT 1 FROM library_settings WHERE substr(name, 1, length(?1)) = ?1";
            if tx.one::<i64>(begun, params![SEED])?.is_some() {
                // Kinds that somebody removed stay away.
                return Ok(());
            }
            // Devices that begin libraries at once each have one; the first by name counts.
            tx.execute("INSERT INTO library_settings(name, value) VALUES(?1, ?2)", params![&name, &seed])?;
            let sql = "INSERT INTO library_kinds(name, definition) SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM library_kinds WHERE name = ?1)";
            for kind in &kinds {
                tx.execute(sql, params![&kind.name, &kinds::encode(kind)])?;
            }
            Ok(())
        })
    }

    /// Refuses without a library; makes what each device has for itself of one that came from another, or with a file from elsewhere.
    fn must_exist(&self) -> Result<(), Error> {
        if !self.exists()? {
            return Err(LibraryError::None.into());
        }
        self.make_views()?;
        let device = self.device()?;
        let strangers = "SELECT 1 FROM library_roots WHERE device <> ?1 LIMIT 1";
        match self.replica.read(|q| q.one::<i64>(strangers, params![&device]))? {
            Some(_) => self.forget_strangers(),
            None => Ok(()),
        }
    }

    /// Makes the views that are missing, or those of another version of isle.
    fn make_views(&self) -> Result<(), Error> {
        let mut odd = Vec::new();
        for view in views() {
            let name = view[VIEW.len()..].split_whitespace().next().unwrap_or_default();
            let sql = "SELECT type, sql FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
            match self.replica.read(|q| q.one::<(String, String)>(sql, params![name]))? {
                Some((kind, _)) if kind != "view" => {
                    return Err(LibraryError::NameTaken { name: name.to_owned() }.into());
                }
                Some((_, sql)) if sql == view => {}
                found => odd.push((name, view, found.is_some())),
            }
        }
        if odd.is_empty() {
            return Ok(());
        }
        self.replica.write(|tx| {
            for (name, view, stands) in &odd {
                if *stands {
                    tx.execute_batch(&format!("DROP VIEW \"{name}\""))?;
                }
                tx.execute_batch(view)?;
            }
            Ok(())
        })
    }

    /// This device, as presences name it.
    fn device(&self) -> Result<String, Error> {
        Ok(self.inner().device()?.id.to_string())
    }

    fn chunker(&self) -> Result<Chunker, Error> {
        let sql = "SELECT value FROM library_settings WHERE substr(name, 1, length(?1)) = ?1 AND typeof(value) = 'text' ORDER BY name LIMIT 1";
        let seed: Option<String> = self.replica.read(|q| q.one(sql, params![SEED]))?;
        // Without one, or with one that is none, files are cut all the same.
        let seed = seed.and_then(|seed| u64::from_str_radix(&seed, 16).ok()).unwrap_or(0);
        Ok(Chunker::new(seed))
    }

    /// The kinds, those that can be used.
    fn usable_kinds(&self) -> Result<Kinds, Error> {
        let (mut usable, mut all) = (Kinds::new(Vec::new()).map_err(LibraryError::from)?, Vec::new());
        for kind in self.kinds()? {
            all.push(kind);
            match Kinds::new(all.clone()) {
                Ok(kinds) => usable = kinds,
                Err(error) => {
                    let left_out = all.pop().map(|kind| kind.name);
                    tracing::warn!(kind = left_out, %error, "a kind of files is left out");
                }
            }
        }
        Ok(usable)
    }
}

/// The statements of `views.sql`, as SQLite keeps them.
fn views() -> impl Iterator<Item = &'static str> {
    let statements = VIEWS.split(';').filter_map(|text| text.find(VIEW).map(|at| text[at..].trim_end()));
    statements.filter(|statement| !statement.is_empty())
}

fn first_8(bytes: &[u8; 16]) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&bytes[..8]);
    first
}
