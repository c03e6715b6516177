//! The files of the library, and where each is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::roots::Root;
use super::storage::{PLACES, SUMS};
use super::{Library, LibraryError, Storage};
use crate::{Error, Param, params};

/// Where the content of a file is, as seen from this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub enum Availability {
    /// On this device, and in no remote.
    LocalOnly,
    /// In a remote, and not on this device.
    CloudOnly,
    /// Both.
    Synchronized,
    /// Neither. Another device may have it.
    NotAvailable,
}

impl Availability {
    fn of(local: bool, stored: bool) -> Availability {
        match (local, stored) {
            (true, false) => Availability::LocalOnly,
            (false, true) => Availability::CloudOnly,
            (true, true) => Availability::Synchronized,
            (false, false) => Availability::NotAvailable,
        }
    }

    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Availability::LocalOnly => "LocalOnly",
            Availability::CloudOnly => "CloudOnly",
            Availability::Synchronized => "Synchronized",
            Availability::NotAvailable => "NotAvailable",
        }
    }
}

/// A file of the library.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileInfo {
    /// Its id.
    pub id: String,
    /// What it is called on every device: root, slash, path.
    pub path: String,
    /// Its kind.
    pub kind: String,
    /// What it calls itself, or its file name without the ending.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The BLAKE3 hash of its content, in hexadecimal.
    pub content: String,
    /// Where its content is.
    pub availability: Availability,
    /// Where it is on this device.
    pub here: Vec<PathBuf>,
    /// How many other devices say that they have it.
    pub elsewhere: u64,
    /// Whether it stays on this device.
    pub pinned: bool,
    /// What took its place at its path.
    pub replaced_by: Option<String>,
    /// When it was put into the trash, in milliseconds since 1970.
    pub trashed_ms: Option<u64>,
    /// Whether another file that nobody replaced has the same path: two devices changed it at once.
    pub conflict: bool,
}

/// Which files to list.
#[derive(Debug, Clone, Default)]
pub struct FileFilter {
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this set.
    pub set: Option<String>,
    /// Whose path begins so.
    pub below: Option<String>,
    /// Those that were replaced or are in the trash, too.
    pub all: bool,
    /// Those in the trash alone.
    pub trashed: bool,
    /// At most so many; 0 for all.
    pub limit: usize,
}

/// By what files are summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupedBy {
    /// Their kinds.
    Kind,
    /// The sets that they are in.
    Set,
    /// The roots in their paths.
    Root,
}

/// Files that have something in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LibraryGroup {
    /// What they have in common.
    pub name: String,
    /// How much they take, and where.
    #[serde(flatten)]
    pub storage: Storage,
}

/// How the library stands on this device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LibraryStatus {
    /// The roots of this device.
    pub roots: Vec<Root>,
    /// How much there is, and where.
    pub storage: Storage,
    /// What the last scan of each root changed: what happened, root and path.
    pub changes: Vec<(String, String)>,
    /// What is not taken, and why.
    pub problems: Vec<super::Problem>,
    /// Copies of this device whose files were put into the trash elsewhere: `isle files prune` takes them away.
    pub trashed_here: u64,
    /// Files that are here and that some remote lacks.
    pub to_push: u64,
    /// Files that share their path with another that nobody replaced: two devices changed it at once.
    pub conflicts: u64,
}

#[derive(Deserialize)]
struct FileRow {
    id: String,
    path: String,
    kind: String,
    name: String,
    bytes: u64,
    content: String,
    here: Option<String>,
    stored: bool,
    elsewhere: u64,
    pinned: bool,
    replaced_by: Option<String>,
    trashed_ms: Option<u64>,
    conflict: bool,
}

impl From<FileRow> for FileInfo {
    fn from(row: FileRow) -> FileInfo {
        let here: Vec<PathBuf> = row.here.iter().flat_map(|here| here.split('\n')).map(PathBuf::from).collect();
        let availability = Availability::of(!here.is_empty(), row.stored);
        let FileRow {
            id, path, kind, name, bytes, content, elsewhere, pinned, replaced_by, trashed_ms, conflict, ..
        } = row;
        FileInfo {
            id,
            path,
            kind,
            name,
            bytes,
            content,
            availability,
            here,
            elsewhere,
            pinned,
            replaced_by,
            trashed_ms,
            conflict,
        }
    }
}

/// With ?1 this device. A path has no line break in it.
const FILES: &str = "SELECT f.id, f.path, f.kind, f.name, f.bytes, f.content, f.replaced_by, f.trashed_ms,
    (SELECT group_concat(o.folder || '/' || s.path, char(10)) FROM library_scan AS s JOIN library_roots AS o ON o.id = s.root
        WHERE s.file = f.id AND s.state = 'ok' AND o.flag IS NULL) AS here,
    EXISTS (SELECT 1 FROM library_stored AS t WHERE t.file = f.id) AS stored,
    (SELECT count(DISTINCT p.device) FROM library_presence AS p WHERE p.file = f.id AND p.state = 'present' AND p.device <> ?1) AS elsewhere,
    EXISTS (SELECT 1 FROM library_pins AS x WHERE x.file = f.id) AS pinned,
    f.trashed_ms IS NULL AND f.replaced_by IS NULL AND EXISTS (SELECT 1 FROM library_sound AS g WHERE g.path = f.path AND g.id <> f.id
        AND g.content <> f.content AND g.trashed_ms IS NULL AND g.replaced_by IS NULL) AS conflict
    FROM library_sound AS f";

impl Library {
    /// The files of the library, by path.
    ///
    /// # Errors
    /// [`LibraryError::None`], or SQLite's reason.
    pub fn files(&self, filter: &FileFilter) -> Result<Vec<FileInfo>, Error> {
        self.must_exist()?;
        let device = self.device()?;
        let mut sql = format!("{FILES} WHERE 1");
        let mut list: Vec<Param<'_>> = vec![Param::from(&device)];
        let clauses = [
            (&filter.kind, " AND f.kind = ?2"),
            (&filter.set, " AND f.id IN (SELECT file FROM library_sets WHERE name = ?3)"),
            (&filter.below, " AND substr(f.path, 1, length(?4)) = ?4"),
        ];
        for (value, clause) in clauses {
            sql += if value.is_some() { clause } else { "" };
            list.push(Param::from(value.as_ref()));
        }
        sql += match (filter.trashed, filter.all) {
            (true, _) => " AND f.trashed_ms IS NOT NULL",
            (false, true) => "",
            (false, false) => " AND f.trashed_ms IS NULL AND f.replaced_by IS NULL",
        };
        sql += " ORDER BY f.path, f.added_ms, f.id LIMIT ?5";
        list.push(Param::Integer(if filter.limit == 0 { -1 } else { filter.limit as i64 }));
        let rows = self.replica.read(|q| q.all::<FileRow>(&sql, &list))?;
        Ok(rows.into_iter().map(FileInfo::from).collect())
    }

    /// The file that somebody means: by its id or the beginning of it, its path, a path on this device, or its name.
    ///
    /// # Errors
    /// [`LibraryError::NoSuchFile`], [`LibraryError::Ambiguous`].
    pub fn file(&self, wanted: &str) -> Result<FileInfo, Error> {
        self.must_exist()?;
        let device = self.device()?;
        let find = |clause: &str, value: &str| {
            let sql = format!(
                "{FILES} WHERE {clause} ORDER BY f.trashed_ms IS NOT NULL, f.replaced_by IS NOT NULL, f.path LIMIT 100"
            );
            self.replica.read(|q| q.all::<FileRow>(&sql, params![&device, value]))
        };
        let mut found = find("f.id = ?2", wanted)?;
        let live = "f.trashed_ms IS NULL AND f.replaced_by IS NULL AND";
        let is_id = wanted.len() >= 4 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
        if found.is_empty() {
            found = find(&format!("{live} f.path = ?2"), wanted)?;
        }
        if found.is_empty() {
            found = find(&format!("{live} (f.name = ?2 OR substr(f.path, -length('/' || ?2)) = '/' || ?2)"), wanted)?;
        }
        if found.is_empty() && is_id {
            found = find("substr(f.id, 1, length(?2)) = lower(?2)", wanted)?;
        }
        if found.is_empty() {
            let here = std::path::Path::new(wanted).canonicalize().or_else(|_| std::path::absolute(wanted)).ok();
            let here = here.and_then(|path| path.into_os_string().into_string().ok());
            let at = "f.id IN (SELECT s.file FROM library_scan AS s JOIN library_roots AS o ON o.id = s.root WHERE o.folder || '/' || s.path = ?2)";
            found = here.map_or(Ok(Vec::new()), |here| find(at, &here))?;
        }
        if found.is_empty() {
            found = find("f.path = ?2 OR f.name = ?2", wanted)?;
        }
        if found.len() > 1 {
            let ids: Vec<&str> = found.iter().take(4).map(|row| row.id.get(..12).unwrap_or(&row.id)).collect();
            let (found, ids) = (found.len(), ids.join(", "));
            return Err(LibraryError::Ambiguous { wanted: wanted.to_owned(), found, ids }.into());
        }
        let row = found.pop().ok_or_else(|| LibraryError::NoSuchFile { wanted: wanted.to_owned() })?;
        Ok(row.into())
    }

    /// Puts files into a set, which every device knows; a set is there as long as a file is in it.
    ///
    /// # Errors
    /// [`Error::InvalidName`], [`LibraryError::NoSuchFile`] for an id that is none.
    pub fn add_to_set(&self, set: &str, ids: &[String]) -> Result<(), Error> {
        self.must_exist()?;
        crate::names::check("a set's name", set)?;
        self.replica.write(|tx| {
            for id in ids {
                if tx.one::<i64>("SELECT 1 FROM library_sound WHERE id = ?1", params![id])?.is_none() {
                    return Err(LibraryError::NoSuchFile { wanted: id.clone() }.into());
                }
                tx.execute(
                    "INSERT INTO library_sets(name, file) VALUES(?1, ?2) ON CONFLICT DO NOTHING",
                    params![set, id],
                )?;
            }
            Ok(())
        })
    }

    /// Takes files out of a set.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn remove_from_set(&self, set: &str, ids: &[String]) -> Result<(), Error> {
        self.must_exist()?;
        self.replica.write(|tx| {
            let sql = "DELETE FROM library_sets WHERE name = ?1 AND file = ?2";
            ids.iter().try_for_each(|id| tx.execute(sql, params![set, id]).map(|_| ()))
        })
    }

    /// Sums files up by what they have in common.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn groups(&self, by: GroupedBy) -> Result<Vec<LibraryGroup>, Error> {
        self.must_exist()?;
        let sql = match by {
            GroupedBy::Kind => format!("SELECT kind AS name, {SUMS} FROM ({PLACES}) GROUP BY 1 ORDER BY 1"),
            GroupedBy::Root => {
                format!(
                    "SELECT substr(path, 1, instr(path, '/') - 1) AS name, {SUMS} FROM ({PLACES}) GROUP BY 1 ORDER BY 1"
                )
            }
            GroupedBy::Set => {
                format!(
                    "SELECT x.name AS name, {SUMS} FROM library_sets AS x JOIN ({PLACES}) AS f ON f.id = x.file WHERE typeof(x.name) = 'text' GROUP BY 1 ORDER BY 1"
                )
            }
        };
        #[derive(Deserialize)]
        struct GroupRow {
            name: String,
            files: u64,
            bytes: u64,
            local_bytes: u64,
            stored_bytes: u64,
            local_only_bytes: u64,
            missing_bytes: u64,
            unavailable_bytes: u64,
        }
        let rows = self.replica.read(|q| q.all::<GroupRow>(&sql, &[]))?;
        let group = |row: GroupRow| {
            let GroupRow {
                name,
                files,
                bytes,
                local_bytes,
                stored_bytes,
                local_only_bytes,
                missing_bytes,
                unavailable_bytes,
            } = row;
            let free_bytes = None;
            let storage = Storage {
                files,
                bytes,
                local_bytes,
                stored_bytes,
                local_only_bytes,
                missing_bytes,
                unavailable_bytes,
                free_bytes,
            };
            LibraryGroup { name, storage }
        };
        Ok(rows.into_iter().map(group).collect())
    }

    /// How the library stands here: roots, room, what the last scans changed (at most `changes`), and what is wrong.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn status(&self, changes: usize) -> Result<LibraryStatus, Error> {
        let (roots, storage) = (self.roots()?, self.storage()?);
        let most = i64::try_from(changes).unwrap_or(i64::MAX);
        self.replica.snapshot(|q| {
            // The last scan of a root is that which last wrote an entry of it, or none at all if nothing changed.
            let sql = "SELECT s.change, r.name || '/' || s.path FROM library_scan AS s JOIN library_roots AS r ON r.id = s.root
                WHERE s.change IS NOT NULL AND s.op = (SELECT max(id) FROM isle_ops WHERE kind = 'scan')
                ORDER BY s.change, r.name, s.path LIMIT ?1";
            let changes = q.all(sql, params![most])?;
            let sql = "SELECT r.name || '/' || s.path, s.why FROM library_scan AS s JOIN library_roots AS r ON r.id = s.root
                WHERE s.state IN ('invalid', 'unreadable') ORDER BY 1 LIMIT ?1";
            let problems = q.all::<(String, String)>(sql, params![most])?;
            let problems = problems.into_iter().map(|(path, why)| super::Problem { path, why }).collect();
            let sql = "SELECT count(*) FROM library_scan AS s JOIN library_sound AS f ON f.id = s.file
                WHERE s.state = 'ok' AND f.trashed_ms IS NOT NULL";
            let trashed_here = q.one(sql, &[])?.unwrap_or(0);
            let sql = format!("SELECT count(*) FROM ({PLACES}) WHERE l AND (SELECT count(*) FROM library_stored AS t WHERE t.file = id)
                < (SELECT count(*) FROM isle_remote)");
            let to_push = q.one(&sql, &[])?.unwrap_or(0);
            let sql = "SELECT count(*) FROM library_sound AS f WHERE f.trashed_ms IS NULL AND f.replaced_by IS NULL AND EXISTS (SELECT 1 FROM library_sound AS g
                WHERE g.path = f.path AND g.id <> f.id AND g.content <> f.content AND g.trashed_ms IS NULL AND g.replaced_by IS NULL)";
            let conflicts = q.one(sql, &[])?.unwrap_or(0);
            Ok(LibraryStatus { roots, storage, changes, problems, trashed_here, to_push, conflicts })
        })
    }
}
