//! A root that is open: what is read and written below it, and nowhere else.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt as _, OpenOptionsSyncExt as _};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

use crate::walk::PRIVATE_FOLDER;

/// Files of one id and name in the trash of a root.
const COPIES_MAX: usize = 10_000;

/// How a file stands on the disk. Two equal ones of one file mean that nobody wrote to it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stat {
    /// Its size.
    pub bytes: u64,
    /// When its content changed, in nanoseconds since 1970 by the disk's clock.
    pub modified_ns: i64,
    /// When anything of it changed, on systems that tell; a program can set the other time, and not this one.
    pub changed_ns: i64,
    /// Its number on the disk, on systems that have one.
    pub inode: u64,
}

impl Stat {
    /// Of an open file or an entry of a folder.
    #[cfg(unix)]
    pub fn of(metadata: &Metadata) -> Stat {
        use std::os::unix::fs::MetadataExt as _;
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Stat {
            bytes: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Of an open file or an entry of a folder.
    #[cfg(not(unix))]
    pub fn of(metadata: &Metadata) -> Stat {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let modified_ns = modified.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        Stat { bytes: metadata.len(), modified_ns, changed_ns: 0, inode: 0 }
    }

    /// Whether a change that comes now could leave it as it is, given what time it is now by the same clock: disks and kernels have clocks that tick.
    pub fn is_fresh(&self, now_ns: i64) -> bool {
        // Whole seconds everywhere mean a disk that keeps no more, such as FAT with its two.
        let whole = self.modified_ns % 1_000_000_000 == 0 && self.changed_ns % 1_000_000_000 == 0;
        let tick_ns = if whole { 2_000_000_000 } else { 20_000_000 };
        now_ns.saturating_sub(self.modified_ns.max(self.changed_ns)) < tick_ns
    }
}

/// Reads a part of a file, wherever it stands.
///
/// # Errors
/// The system's reason; that it is shorter is one.
pub fn read_at(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, at);
    #[cfg(windows)]
    {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let read = std::os::windows::fs::FileExt::seek_read(file, bytes, at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (at, bytes) = (at + read as u64, &mut bytes[read..]);
        }
        Ok(())
    }
}

/// Writes a part of a file, wherever it stands.
///
/// # Errors
/// The system's reason.
pub fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, at);
    #[cfg(windows)]
    {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
            (at, bytes) = (at + written as u64, &bytes[written..]);
        }
        Ok(())
    }
}

/// Why something below a root could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The root itself is not there.
    #[error("folder {} is not there: {source}", path.display())]
    Gone {
        /// The root.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file stands there already; nothing was written over it.
    #[error("a file stands at {} already", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// What stands there is no file.
    #[error("{} is not a file", path.display())]
    NotFile {
        /// Where.
        path: PathBuf,
    },
    /// The system's reason.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl FolderError {
    /// Whether there is nothing at that place.
    pub fn is_missing(&self) -> bool {
        matches!(self, FolderError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        let full =
            |source: &io::Error| matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, FolderError::Io { source, .. } if full(source))
    }
}

/// A file on its way: what of it is here already may be wrong or missing, so whoever goes on with it checks.
#[derive(Debug)]
pub struct Partial {
    file: File,
    name: String,
}

impl Partial {
    /// To read and write at any place.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// An open root. It stays the same folder when somebody puts another in its place.
#[derive(Debug)]
pub struct Folder {
    dir: Dir,
    path: PathBuf,
}

impl Folder {
    /// Opens a root.
    ///
    /// # Errors
    /// [`FolderError::Gone`].
    pub fn open(path: &Path) -> Result<Folder, FolderError> {
        match Dir::open_ambient_dir(path, ambient_authority()) {
            Ok(dir) => Ok(Folder { dir, path: path.to_owned() }),
            Err(source) => Err(FolderError::Gone { path: path.to_owned(), source }),
        }
    }

    /// Opens a root and makes it where it is not there.
    ///
    /// # Errors
    /// The system's reason.
    pub fn create(path: &Path) -> Result<Folder, FolderError> {
        let failed = |source| FolderError::Io { doing: "make", path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        Folder::open(path)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, doing: &'static str, relative: &str) -> impl Fn(io::Error) -> FolderError {
        let path = self.path.join(relative);
        move |source| FolderError::Io { doing, path: path.clone(), source }
    }

    /// Opens a file for reading; a link is none, and nothing waits for the other end of a pipe.
    ///
    /// # Errors
    /// [`FolderError::NotFile`], or the system's reason.
    pub fn open_file(&self, relative: &str) -> Result<(File, Stat), FolderError> {
        let mut options = OpenOptions::new();
        options.read(true).follow(FollowSymlinks::No).nonblock(true);
        let file = self.dir.open_with(relative, &options).map_err(self.failed("open", relative))?.into_std();
        let metadata = file.metadata().map_err(self.failed("look at", relative))?;
        if !metadata.is_file() {
            return Err(FolderError::NotFile { path: self.path.join(relative) });
        }
        Ok((file, Stat::of(&metadata)))
    }

    /// How a file stands; `None` if there is none.
    ///
    /// # Errors
    /// [`FolderError::NotFile`], or the system's reason.
    pub fn stat(&self, relative: &str) -> Result<Option<Stat>, FolderError> {
        match self.open_file(relative) {
            Ok((_, stat)) => Ok(Some(stat)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether anything at all stands at a place.
    pub fn is_taken(&self, relative: &str) -> bool {
        self.dir.symlink_metadata(relative).is_ok()
    }

    /// Opens the file on its way that has a name of its own, and makes it if there is none.
    ///
    /// # Errors
    /// The system's reason.
    pub fn partial(&self, id: &str) -> Result<Partial, FolderError> {
        let name = private("partial", id);
        self.make_folder_of(&name)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).follow(FollowSymlinks::No).nonblock(true);
        let file = self.dir.open_with(&name, &options).map_err(self.failed("open", &name))?.into_std();
        if !file.metadata().map_err(self.failed("look at", &name))?.is_file() {
            return Err(FolderError::NotFile { path: self.path.join(&name) });
        }
        Ok(Partial { file, name })
    }

    /// Throws away what is on its way under a name.
    ///
    /// # Errors
    /// The system's reason.
    pub fn discard_partial(&self, id: &str) -> Result<(), FolderError> {
        let name = private("partial", id);
        match self.dir.remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", &name)(error)),
            _ => Ok(()),
        }
    }

    /// Gives a whole file its place: flushed first, and never over another.
    ///
    /// # Errors
    /// [`FolderError::Exists`], or the system's reason; the file is still on its way then.
    pub fn place(&self, partial: &Partial, relative: &str) -> Result<Stat, FolderError> {
        partial.file.sync_all().map_err(self.failed("flush", &partial.name))?;
        self.move_to(&partial.name, relative)?;
        self.stat(relative)?.ok_or_else(|| FolderError::NotFile { path: self.path.join(relative) })
    }

    /// Moves a file to another place below the root, never over another.
    ///
    /// # Errors
    /// [`FolderError::Exists`], or the system's reason; it stands where it stood then.
    pub fn move_to(&self, from: &str, to: &str) -> Result<(), FolderError> {
        self.make_folder_of(to)?;
        let exists = || FolderError::Exists { path: self.path.join(to) };
        match self.dir.hard_link(from, &self.dir, to) {
            Ok(()) => self.dir.remove_file(from).map_err(self.failed("remove", from))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.failed("move", from)(error)),
            // A disk without hard links has no way to rename that refuses by itself.
            Err(_) if self.is_taken(to) => return Err(exists()),
            Err(_) => self.dir.rename(from, &self.dir, to).map_err(self.failed("move", from))?,
        }
        self.flush_folder_of(to)?;
        self.flush_folder_of(from)
    }

    /// Puts a file into the root's trash, under the id of what it is. Gives the name that it has there: a number goes before it if that name is taken.
    ///
    /// # Errors
    /// The system's reason.
    pub fn put_out(&self, relative: &str, id: &str) -> Result<String, FolderError> {
        let name = relative.rsplit('/').next().unwrap_or(relative);
        let mut taken = 0;
        loop {
            let name = if taken == 0 { name.to_owned() } else { format!("{taken} {name}") };
            match self.move_to(relative, &trashed(id, &name)) {
                Err(FolderError::Exists { .. }) if taken < COPIES_MAX => taken += 1,
                moved => return moved.map(|()| name),
            }
        }
    }

    /// Takes a file out of the trash again.
    ///
    /// # Errors
    /// [`FolderError::Exists`] if something stands at its old place, or the system's reason.
    pub fn take_back(&self, id: &str, name: &str, relative: &str) -> Result<(), FolderError> {
        self.move_to(&trashed(id, name), relative)
    }

    /// The names that lie in the trash under an id.
    ///
    /// # Errors
    /// The system's reason.
    pub fn in_trash(&self, id: &str) -> Result<Vec<String>, FolderError> {
        let folder = private("trash", id);
        let entries = match self.dir.read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("list", &folder)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.failed("list", &folder))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Removes for good what lies in the trash under an id.
    ///
    /// # Errors
    /// The system's reason.
    pub fn empty_trash(&self, id: &str) -> Result<(), FolderError> {
        let folder = private("trash", id);
        match self.dir.remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", &folder)(error)),
            _ => Ok(()),
        }
    }

    /// Removes a file for good.
    ///
    /// # Errors
    /// The system's reason; that there is none is one.
    pub fn remove(&self, relative: &str) -> Result<(), FolderError> {
        self.dir.remove_file(relative).map_err(self.failed("remove", relative))?;
        self.flush_folder_of(relative)
    }

    /// How many bytes the disk still takes.
    ///
    /// # Errors
    /// The system's reason.
    pub fn free_bytes(&self) -> Result<u64, FolderError> {
        fs4::available_space(&self.path).map_err(self.failed("ask for the free space of", ""))
    }

    fn make_folder_of(&self, relative: &str) -> Result<(), FolderError> {
        let Some((folder, _)) = relative.rsplit_once('/') else { return Ok(()) };
        self.dir.create_dir_all(folder).map_err(self.failed("make", folder))
    }

    /// A rename is on the disk once its folder is.
    fn flush_folder_of(&self, relative: &str) -> Result<(), FolderError> {
        if cfg!(windows) {
            return Ok(());
        }
        let folder = relative.rsplit_once('/').map_or(".", |(folder, _)| folder);
        // The handles with which folders are gone through cannot be flushed.
        let dir = self.dir.open(folder).map_err(self.failed("open", folder))?;
        dir.sync_all().map_err(self.failed("flush", folder))
    }
}

/// A place in isle's own folder. Ids are hexadecimal, but come from other devices: whatever else is in one is left out.
fn private(part: &str, id: &str) -> String {
    let id: String = id.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    format!("{PRIVATE_FOLDER}/{part}/{id}")
}

fn trashed(id: &str, relative: &str) -> String {
    let name = relative.rsplit('/').next().unwrap_or(relative);
    format!("{}/{name}", private("trash", id))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};

    use super::*;

    fn root() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    fn partial(folder: &Folder, id: &str, content: &str) -> Partial {
        let partial = folder.partial(id).unwrap();
        partial.file().write_all(content.as_bytes()).unwrap();
        partial
    }

    #[test]
    fn a_file_is_placed_whole_and_never_over_another() {
        let (dir, folder) = root();
        let on_its_way = partial(&folder, "aa", "new");
        assert!(!dir.path().join("a").exists());
        folder.place(&on_its_way, "a/b/c.txt").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a/b/c.txt")).unwrap(), "new");
        let second = partial(&folder, "bb", "other");
        assert!(matches!(folder.place(&second, "a/b/c.txt"), Err(FolderError::Exists { .. })));
        assert_eq!(fs::read_to_string(dir.path().join("a/b/c.txt")).unwrap(), "new");
        // It is still there for another place.
        folder.place(&second, "a/b/d.txt").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a/b/d.txt")).unwrap(), "other");
        assert_eq!(fs::read_dir(dir.path().join(".isle/partial")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_on_its_way_is_found_again() {
        let (_dir, folder) = root();
        drop(partial(&folder, "aa", "half"));
        let mut text = String::new();
        folder.partial("aa").unwrap().file().read_to_string(&mut text).unwrap();
        assert_eq!(text, "half");
        folder.discard_partial("aa").unwrap();
        folder.discard_partial("aa").unwrap();
        assert_eq!(folder.partial("aa").unwrap().file().metadata().unwrap().len(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere() {
        use std::os::unix::fs::symlink;
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let (dir, folder) = root();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("leak")).unwrap();
        symlink("inside", dir.path().join("alias")).unwrap();
        fs::write(dir.path().join("inside"), "i").unwrap();
        for path in ["out/secret", "leak", "alias", "../x"] {
            assert!(folder.open_file(path).is_err(), "{path}");
        }
        let on_its_way = partial(&folder, "aa", "planted");
        for path in ["out/new", "out/deep/new", "../new", "leak"] {
            assert!(folder.place(&on_its_way, path).is_err(), "{path}");
        }
        assert!(folder.remove("out/secret").is_err());
        assert!(folder.put_out("out/secret", "aa").is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "s");
    }

    #[cfg(unix)]
    #[test]
    fn isles_own_folder_may_not_be_a_link_out_either() {
        let outside = tempfile::tempdir().unwrap();
        let (dir, folder) = root();
        std::os::unix::fs::symlink(outside.path(), dir.path().join(".isle")).unwrap();
        assert!(folder.partial("aa").is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_is_no_file() {
        let (dir, folder) = root();
        fs::create_dir(dir.path().join("sub")).unwrap();
        assert!(folder.open_file("sub").is_err());
        assert!(folder.is_taken("sub"));
        assert_eq!(folder.stat("none").unwrap(), None);
    }

    #[test]
    fn the_trash_gives_back_what_was_put_out() {
        let (dir, folder) = root();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/x.txt"), "kept").unwrap();
        assert_eq!(folder.put_out("a/x.txt", "0f").unwrap(), "x.txt");
        assert!(!dir.path().join("a/x.txt").exists());
        assert_eq!(folder.in_trash("0f").unwrap(), ["x.txt"]);
        fs::write(dir.path().join("a/x.txt"), "edited").unwrap();
        assert_eq!(folder.put_out("a/x.txt", "0f").unwrap(), "1 x.txt", "nothing in the trash is written over");
        assert_eq!(fs::read_to_string(dir.path().join(".isle/trash/0f/x.txt")).unwrap(), "kept");
        folder.take_back("0f", "1 x.txt", "a/edited.txt").unwrap();
        fs::write(dir.path().join("a/x.txt"), "newer").unwrap();
        assert!(matches!(folder.take_back("0f", "x.txt", "a/x.txt"), Err(FolderError::Exists { .. })));
        folder.take_back("0f", "x.txt", "a/y.txt").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a/y.txt")).unwrap(), "kept");
        folder.put_out("a/y.txt", "0f").unwrap();
        folder.empty_trash("0f").unwrap();
        assert_eq!(folder.in_trash("0f").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn ids_that_are_none_stay_in_their_folder() {
        assert_eq!(private("partial", "../../x"), ".isle/partial/x");
        assert_eq!(trashed("..", "a/b"), ".isle/trash//b");
    }

    #[test]
    fn a_file_that_was_written_a_moment_ago_may_change_unseen() {
        let second = 1_000_000_000;
        let stat = |modified_ns, changed_ns| Stat { bytes: 1, modified_ns, changed_ns, inode: 1 };
        assert!(stat(second + 1, 0).is_fresh(second + 5_000_000));
        assert!(!stat(second + 1, 0).is_fresh(second + 30_000_000));
        assert!(stat(second, 2 * second + 1).is_fresh(2 * second + 5_000_000), "moved there with an old time");
        assert!(
            !stat(second, 2 * second + 1).is_fresh(2 * second + 30_000_000),
            "unpacked with a time of whole seconds"
        );
        assert!(stat(second, 0).is_fresh(2 * second), "a disk that keeps whole seconds");
        assert!(!stat(second, 0).is_fresh(3 * second + 1));
    }
}
