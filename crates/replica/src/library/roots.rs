//! Folders of this device that belong to the library.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use isle_files::{Folder, LogicalPath};

use super::{Library, LibraryError};
use crate::{Error, params};

/// The root that is there without having been added: for what comes from devices whose roots are not here.
pub(super) const OWN_ROOT: &str = "library";

/// A folder of this device that belongs to the library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    #[serde(skip_serializing)]
    pub(super) id: i64,
    /// Its name, on every device.
    pub name: String,
    /// Where it is on this one.
    pub folder: PathBuf,
    /// The kinds of files that are looked for; all without any.
    pub kinds: Vec<String>,
    /// Why its files count as away although nobody took them out: `gone` when the folder is not there, `emptied` when all of its files are.
    pub flag: Option<String>,
    /// When it was last scanned, in milliseconds since 1970.
    pub scanned_ms: Option<u64>,
    #[serde(skip_serializing)]
    pub(super) mark: Option<String>,
    /// By what it is seen that kinds have changed since it was last scanned.
    #[serde(skip_serializing)]
    pub(super) kinds_seen: Option<String>,
}

impl Root {
    /// Opens the folder, if it is the one that was added.
    pub(super) fn open(&self) -> Result<Folder, LibraryError> {
        let away = |what: String| LibraryError::RootAway { name: self.name.clone(), folder: self.folder.clone(), what };
        let folder = Folder::open(&self.folder).map_err(|error| match error {
            isle_files::FolderError::Gone { source, .. } => away(format!("cannot be opened ({source})")),
            error => LibraryError::Folder(error),
        })?;
        match (&self.mark, folder.mark()?) {
            (Some(mark), Some(found)) if *mark == found => Ok(folder),
            (None, _) => Ok(folder),
            _ => Err(away("is another folder than was added".to_owned())),
        }
    }
}

#[derive(Deserialize)]
struct RootRow {
    id: i64,
    name: String,
    folder: String,
    kinds: Option<String>,
    flag: Option<String>,
    scanned_ms: Option<u64>,
    mark: Option<String>,
    kinds_seen: Option<String>,
}

impl Library {
    /// The roots of this device, by name.
    ///
    /// # Errors
    /// [`LibraryError::None`], or SQLite's reason.
    pub fn roots(&self) -> Result<Vec<Root>, Error> {
        self.must_exist()?;
        let device = self.device()?;
        let sql = "SELECT id, name, folder, kinds, flag, scanned_ms, mark, kinds_seen FROM library_roots WHERE device = ?1 ORDER BY name";
        let rows = self.replica.read(|q| q.all::<RootRow>(sql, params![&device]))?;
        let root = |row: RootRow| {
            let kinds = row.kinds.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
            let RootRow { id, name, folder, flag, scanned_ms, mark, kinds_seen, .. } = row;
            Root { id, name, folder: folder.into(), kinds, flag, scanned_ms, mark, kinds_seen }
        };
        Ok(rows.into_iter().map(root).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// [`LibraryError::NoSuchRoot`].
    pub fn root(&self, name: &str) -> Result<Root, Error> {
        let found = self.roots()?.into_iter().find(|root| root.name == name);
        found.ok_or_else(|| LibraryError::NoSuchRoot { name: name.to_owned() }.into())
    }

    /// Adds a folder of this device under a name that other devices may have elsewhere, for files of some kinds or of all. Begins the library if there is none.
    /// Nothing is read yet.
    ///
    /// # Errors
    /// [`LibraryError::RootExists`], [`LibraryError::RootsOverlap`], [`LibraryError::NoSuchKind`], [`LibraryError::Folder`] when it is not there.
    pub fn add_root(&self, name: &str, folder: &Path, kinds: &[String]) -> Result<Root, Error> {
        LogicalPath::of(name, "x").map_err(LibraryError::from)?;
        crate::names::check("a root's name", name)?;
        if name.contains('/') {
            return Err(LibraryError::Path(isle_files::PathError::Refused {
                path: name.to_owned(),
                why: "a root's name has no slash",
            })
            .into());
        }
        let opened = Folder::open(folder).map_err(LibraryError::from)?;
        let folder = folder.canonicalize().map_err(|source| Error::Read { path: folder.to_owned(), source })?;
        let is_own = self.own_files().last().is_some_and(|own| own.canonicalize().is_ok_and(|own| own == folder));
        if name == OWN_ROOT && !is_own {
            let why = "that name is for the library's own folder";
            return Err(LibraryError::Path(isle_files::PathError::Refused { path: name.to_owned(), why }).into());
        }
        self.is_free_of_isle(name, &folder)?;
        self.create()?;
        self.forget_strangers()?;
        let known = self.kinds()?;
        if let Some(none) = kinds.iter().find(|kind| known.iter().all(|known| known.name != **kind)) {
            return Err(LibraryError::NoSuchKind { name: none.clone() }.into());
        }
        for other in self.roots()? {
            if other.name == name && other.folder == folder {
                return Ok(other);
            }
            if other.name == name {
                return Err(LibraryError::RootExists { name: other.name, folder: other.folder }.into());
            }
            // The library's own folder lies beside the database, and is left out of whatever else is around it.
            let own = name == OWN_ROOT || other.name == OWN_ROOT;
            if !own && (other.folder.starts_with(&folder) || folder.starts_with(&other.folder)) {
                return Err(LibraryError::RootsOverlap { folder, other: other.name }.into());
            }
        }
        let place = folder.to_str().ok_or_else(|| LibraryError::FolderName { folder: folder.clone() })?;
        let (device, kinds) = (self.device()?, (!kinds.is_empty()).then(|| kinds.join(" ")));
        let mark = self.mark(&opened)?;
        self.replica.write(|tx| {
            let sql = "INSERT INTO library_roots(device, name, folder, kinds, mark) VALUES(?1, ?2, ?3, ?4, ?5)";
            tx.execute(sql, params![&device, name, place, kinds.as_ref(), mark.as_ref()])
        })?;
        self.root(name)
    }

    /// The mark of a root, made if it has none; `None` where nothing can be written.
    pub(super) fn mark(&self, folder: &Folder) -> Result<Option<String>, Error> {
        if let Some(mark) = folder.mark().map_err(LibraryError::from)? {
            return Ok(Some(mark));
        }
        let mark = data_encoding::HEXLOWER.encode(&self.inner().runtime.random());
        match folder.put_mark(&mark) {
            Ok(()) => Ok(Some(mark)),
            Err(error) => {
                tracing::info!(%error, "a root cannot be marked");
                Ok(None)
            }
        }
    }

    /// Refuses folders in which isle, or a remote, keeps its own.
    fn is_free_of_isle(&self, name: &str, folder: &Path) -> Result<(), Error> {
        let mut others =
            vec![("the folder in which isle keeps this device's key".to_owned(), self.inner().key_store()?.home)];
        for remote in self.replica.remotes()? {
            if let Ok(place) = Path::new(&remote.url).canonicalize() {
                others.push((format!("remote {:?}", remote.name), place));
            }
        }
        for (what, place) in others {
            let place = place.canonicalize().unwrap_or(place);
            if name != OWN_ROOT && (place.starts_with(folder) || folder.starts_with(&place)) {
                return Err(LibraryError::Entangled { folder: folder.to_owned(), what }.into());
            }
        }
        Ok(())
    }

    /// What of this file's own lies where: no walk sees it.
    pub(super) fn own_files(&self) -> Vec<PathBuf> {
        let path = self.replica.path();
        let with = |ending: &str| {
            let mut path = path.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        };
        let mut own: Vec<PathBuf> = ["", "-wal", "-shm", "-journal"].map(with).to_vec();
        own.push(with(".files"));
        own
    }

    /// Forgets a root of this device: its files stay where they are and in the library, and count as missing here. With `all`, also where this device alone has
    /// some of them.
    ///
    /// # Errors
    /// [`LibraryError::NoSuchRoot`], [`LibraryError::OnlyHere`], [`LibraryError::TrashLeft`].
    pub fn remove_root(&self, name: &str, all: bool) -> Result<(), Error> {
        let root = self.root(name)?;
        let _alone = self.lock_scans()?;
        let own = self.device()?;
        let trash: u64 = self.count("SELECT count(*) FROM library_trash WHERE root = ?1", params![root.id])?;
        if trash > 0 {
            return Err(LibraryError::TrashLeft { name: name.to_owned(), files: trash }.into());
        }
        let sql = "SELECT count(*) FROM library_scan AS s JOIN library_sound AS f ON f.id = s.file WHERE s.root = ?1 AND s.state = 'ok' AND f.trashed_ms IS NULL
            AND NOT EXISTS (SELECT 1 FROM library_stored AS t WHERE t.file = f.id)
            AND NOT EXISTS (SELECT 1 FROM library_presence AS p WHERE p.file = f.id AND p.state = 'present' AND (p.device <> ?2 OR p.root <> ?3))";
        let files = self.count(sql, params![root.id, &own, name])?;
        if files > 0 && !all {
            return Err(LibraryError::OnlyHere { name: name.to_owned(), files }.into());
        }
        let (device, now) = (self.device()?, self.now());
        self.replica.write(|tx| {
            let sql = "UPDATE library_presence SET state = 'missing', since_ms = ?3 WHERE device = ?1 AND root = ?2 AND state = 'present'";
            tx.execute(sql, params![&device, name, now])?;
            tx.execute("DELETE FROM library_scan WHERE root = ?1", params![root.id])?;
            tx.execute("DELETE FROM library_roots WHERE id = ?1", params![root.id])
        })?;
        Ok(())
    }

    /// The root for files whose own is not here, made when it is needed: a folder beside the database.
    pub(super) fn own_root(&self) -> Result<Root, Error> {
        if let Some(root) = self.roots()?.into_iter().find(|root| root.name == OWN_ROOT) {
            if root.folder.exists() {
                return Ok(root);
            }
            // Somebody made room by hand.
            let folder = Folder::create(&root.folder).map_err(LibraryError::from)?;
            let mark = self.mark(&folder)?;
            let sql = "UPDATE library_roots SET mark = ?2 WHERE id = ?1";
            self.replica.write(|tx| tx.execute(sql, params![root.id, mark.as_ref()]))?;
            return self.root(OWN_ROOT);
        }
        let mut folder = self.replica.path().as_os_str().to_owned();
        folder.push(".files");
        let folder = PathBuf::from(folder);
        Folder::create(&folder).map_err(LibraryError::from)?;
        self.add_root(OWN_ROOT, &folder, &[])
    }

    /// Roots that another device had when this file was its own: a copied or restored file knows them, and they are not here.
    pub(super) fn forget_strangers(&self) -> Result<(), Error> {
        let device = self.device()?;
        self.replica.write(|tx| {
            let sql = "DELETE FROM library_scan WHERE root IN (SELECT id FROM library_roots WHERE device <> ?1)";
            tx.execute(sql, params![&device])?;
            tx.execute("DELETE FROM library_roots WHERE device <> ?1", params![&device])
        })?;
        Ok(())
    }

    fn count(&self, sql: &str, list: &[crate::Param<'_>]) -> Result<u64, Error> {
        Ok(self.replica.read(|q| q.one(sql, list))?.unwrap_or(0))
    }

    pub(super) fn now(&self) -> i64 {
        i64::try_from(self.inner().runtime.now_ms()).unwrap_or(i64::MAX)
    }
}
