//! How much room the library takes, here and elsewhere.

use serde::{Deserialize, Serialize};

use isle_files::Folder;

use super::Library;
use crate::{Error, params};

/// Bytes of the library by where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Files that are wanted.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of those that are on this device.
    pub local_bytes: u64,
    /// Bytes of those that a remote has whole.
    pub stored_bytes: u64,
    /// Bytes of those that are on this device and in no remote.
    pub local_only_bytes: u64,
    /// Bytes of those that are not on this device and can be had from a remote.
    pub missing_bytes: u64,
    /// Bytes of those that are neither here nor in a remote.
    pub unavailable_bytes: u64,
    /// Free bytes of the disk that fetched files go to; `None` if it does not say.
    #[serde(default)]
    pub free_bytes: Option<u64>,
}

/// The files that are wanted, with whether they are here (`l`) and in a remote (`r`).
pub(super) const PLACES: &str = "SELECT f.id, f.bytes, f.kind, f.path,
    EXISTS (SELECT 1 FROM library_scan AS s JOIN library_roots AS o ON o.id = s.root
        WHERE s.file = f.id AND s.state = 'ok' AND o.flag IS NULL) AS l,
    EXISTS (SELECT 1 FROM library_stored AS t WHERE t.file = f.id) AS r
    FROM library_sound AS f WHERE f.trashed_ms IS NULL AND f.replaced_by IS NULL";

pub(super) const SUMS: &str = "count(*) AS files, coalesce(sum(bytes), 0) AS bytes, coalesce(sum(bytes * l), 0) AS local_bytes,
    coalesce(sum(bytes * r), 0) AS stored_bytes, coalesce(sum(bytes * (l AND NOT r)), 0) AS local_only_bytes,
    coalesce(sum(bytes * (r AND NOT l)), 0) AS missing_bytes, coalesce(sum(bytes * (NOT r AND NOT l)), 0) AS unavailable_bytes";

impl Library {
    /// How much room the library takes.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn storage(&self) -> Result<Storage, Error> {
        self.must_exist()?;
        let sql = format!("SELECT {SUMS} FROM ({PLACES})");
        let storage = self.replica.read(|q| q.one::<Storage>(&sql, params![]))?.unwrap_or_default();
        let beside = self.replica.path().parent().map(std::path::Path::to_owned).unwrap_or_default();
        let free_bytes = Folder::open(&beside).and_then(|folder| folder.free_bytes()).ok();
        Ok(Storage { free_bytes, ..storage })
    }
}
