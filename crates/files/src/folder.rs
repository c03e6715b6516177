//! A root that is open: what is read and written below it, and nowhere else.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt as _, OpenOptionsSyncExt as _};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

use crate::walk::PRIVATE_FOLDER;

/// Where a root is marked.
const MARK: &str = ".isle/root";
const MARK_BYTES_MAX: u64 = 256;
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
        // Programs set the other time to what they like; where the disk keeps this one it says more.
        let last_ns = if self.changed_ns > 0 { self.changed_ns } else { self.modified_ns };
        (0..tick_ns).contains(&now_ns.saturating_sub(last_ns))
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
        loop {
            let file = self.dir.open_with(&name, &options).map_err(self.failed("open", &name))?.into_std();
            let metadata = file.metadata().map_err(self.failed("look at", &name))?;
            if !metadata.is_file() {
                return Err(FolderError::NotFile { path: self.path.join(&name) });
            }
            if names_of(&metadata) < 2 {
                return Ok(Partial { file, name });
            }
            // It has its place already, under another name: to write to it would be to write to a file of the user's.
            self.dir.remove_file(&name).map_err(self.failed("remove", &name))?;
        }
    }

    /// Files on their way that were last written before a moment, in milliseconds since 1970.
    ///
    /// # Errors
    /// The system's reason.
    pub fn partials_before(&self, before_ms: i64) -> Result<Vec<String>, FolderError> {
        let folder = format!("{PRIVATE_FOLDER}/partial");
        let entries = match self.dir.read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("list", &folder)(error)),
        };
        let mut old = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.failed("list", &folder))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok((_, stat)) = self.open_file(&format!("{folder}/{name}")) else { continue };
            if stat.modified_ns / 1_000_000 < before_ms {
                old.push(name);
            }
        }
        Ok(old)
    }

    /// What a root has been marked with; `None` without a mark.
    ///
    /// # Errors
    /// The system's reason.
    pub fn mark(&self) -> Result<Option<String>, FolderError> {
        let mut text = String::new();
        match self.open_file(MARK) {
            Ok((file, _)) => {
                file.take(MARK_BYTES_MAX).read_to_string(&mut text).map_err(self.failed("read", MARK))?;
                Ok(Some(text.trim().to_owned()))
            }
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks a root, so that it can be told from whatever else stands at its place later, such as the folder below a disk that is not there.
    ///
    /// # Errors
    /// The system's reason.
    pub fn put_mark(&self, mark: &str) -> Result<(), FolderError> {
        self.make_folder_of(MARK)?;
        self.dir.write(MARK, mark).map_err(self.failed("write", MARK))?;
        self.flush_folder_of(MARK)
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
        match self.rename_new(from, to) {
            Ok(()) => {
                self.flush_folder_of(to)?;
                return self.flush_folder_of(from);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(exists()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.failed("move", from)(error)),
            // This disk or system cannot do both in one.
            Err(error) => tracing::debug!(%error, "moving by another way"),
        }
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

    /// Renames in one step that fails where something stands.
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        use rustix::fs::{RenameFlags, renameat_with};
        let parts = |path: &str| -> io::Result<(Dir, String)> {
            let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
            Ok((self.dir.open_dir(folder)?, name.to_owned()))
        };
        let ((from_dir, from), (to_dir, to)) = (parts(from)?, parts(to)?);
        Ok(renameat_with(&from_dir, &from, &to_dir, &to, RenameFlags::NOREPLACE)?)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    fn rename_new(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Puts a file into the root's trash, under the id of what it is and a name.
    ///
    /// # Errors
    /// [`FolderError::Exists`] if one of this id and name lies there, or the system's reason.
    pub fn put_out(&self, relative: &str, id: &str, name: &str) -> Result<(), FolderError> {
        self.move_to(relative, &trashed(id, name))
    }

    /// A name for a file in the trash that is free there: its own, or that behind a number.
    pub fn free_in_trash(&self, relative: &str, id: &str) -> String {
        let name = relative.rsplit('/').next().unwrap_or(relative);
        let numbered = |n: usize| if n == 0 { name.to_owned() } else { format!("{n} {name}") };
        let free = (0..COPIES_MAX).map(numbered).find(|name| !self.is_taken(&trashed(id, name)));
        free.unwrap_or_else(|| numbered(COPIES_MAX))
    }

    /// Takes a file out of the trash again.
    ///
    /// # Errors
    /// [`FolderError::Exists`] if something stands at its old place, or the system's reason.
    pub fn take_back(&self, id: &str, name: &str, relative: &str) -> Result<(), FolderError> {
        self.move_to(&trashed(id, name), relative)
    }

    /// Opens a file that lies in the trash.
    ///
    /// # Errors
    /// The system's reason.
    pub fn open_trashed(&self, id: &str, name: &str) -> Result<(File, Stat), FolderError> {
        self.open_file(&trashed(id, name))
    }

    /// Removes for good one file that lies in the trash under an id; one that is not there is fine.
    ///
    /// # Errors
    /// The system's reason.
    pub fn remove_trashed(&self, id: &str, name: &str) -> Result<(), FolderError> {
        let path = trashed(id, name);
        match self.dir.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.failed("remove", &path)(error)),
            _ => {}
        }
        // It stays while another file is in it.
        let _ = self.dir.remove_dir(private("trash", id));
        Ok(())
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

/// How many names a file has on its disk, on systems that tell.
fn names_of(metadata: &Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::nlink(metadata);
    #[cfg(not(unix))]
    {
        let _ = metadata;
        1
    }
}

/// A place in isle's own folder. Ids are hexadecimal, but come from other devices: one that is not is called by its hash.
fn private(part: &str, id: &str) -> String {
    let plain = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let id = if plain { id.to_owned() } else { blake3::hash(id.as_bytes()).to_hex().to_string() };
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

    fn in_trash(folder: &Folder, id: &str) -> Vec<String> {
        let entries = folder.dir.read_dir(private("trash", id)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
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

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_placed_in_the_moment_of_a_kill_is_not_written_to_any_more() {
        let (dir, folder) = root();
        drop(partial(&folder, "aa", "whole"));
        // Linked, and not unlinked any more.
        fs::hard_link(dir.path().join(".isle/partial/aa"), dir.path().join("placed")).unwrap();
        let again = folder.partial("aa").unwrap();
        again.file().write_all(b"anew!").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("placed")).unwrap(), "whole");
    }

    #[test]
    fn a_root_is_told_from_what_else_stands_at_its_place() {
        let (dir, folder) = root();
        assert_eq!(folder.mark().unwrap(), None);
        folder.put_mark("0123").unwrap();
        assert_eq!(Folder::open(dir.path()).unwrap().mark().unwrap().as_deref(), Some("0123"));
        assert_eq!(folder.partials_before(i64::MAX).unwrap(), Vec::<String>::new());
        drop(partial(&folder, "aa", "left"));
        assert_eq!(folder.partials_before(i64::MAX).unwrap(), ["aa"]);
        assert_eq!(folder.partials_before(1).unwrap(), Vec::<String>::new());
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
        assert!(folder.put_out("out/secret", "aa", "secret").is_err());
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
        assert_eq!(folder.free_in_trash("a/x.txt", "0f"), "x.txt");
        folder.put_out("a/x.txt", "0f", "x.txt").unwrap();
        assert!(!dir.path().join("a/x.txt").exists());
        assert_eq!(in_trash(&folder, "0f"), ["x.txt"]);
        fs::write(dir.path().join("a/x.txt"), "edited").unwrap();
        assert!(matches!(folder.put_out("a/x.txt", "0f", "x.txt"), Err(FolderError::Exists { .. })));
        assert_eq!(folder.free_in_trash("a/x.txt", "0f"), "1 x.txt");
        folder.put_out("a/x.txt", "0f", "1 x.txt").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(".isle/trash/0f/x.txt")).unwrap(), "kept");
        folder.take_back("0f", "1 x.txt", "a/edited.txt").unwrap();
        fs::write(dir.path().join("a/x.txt"), "newer").unwrap();
        assert!(matches!(folder.take_back("0f", "x.txt", "a/x.txt"), Err(FolderError::Exists { .. })));
        folder.take_back("0f", "x.txt", "a/y.txt").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a/y.txt")).unwrap(), "kept");
        folder.put_out("a/y.txt", "0f", "y.txt").unwrap();
        folder.put_out("a/edited.txt", "0f", "edited.txt").unwrap();
        folder.remove_trashed("0f", "y.txt").unwrap();
        folder.remove_trashed("0f", "y.txt").unwrap();
        assert_eq!(in_trash(&folder, "0f"), ["edited.txt"], "that one alone");
        folder.remove_trashed("0f", "edited.txt").unwrap();
        assert!(!dir.path().join(".isle/trash/0f").exists());
    }

    #[test]
    fn ids_that_are_none_stay_in_their_folder() {
        for id in ["", "-", "..", "../../x", "a/b", "."] {
            let place = private("partial", id);
            let name = place.strip_prefix(".isle/partial/").unwrap();
            assert!(name.len() == 64 && !name.contains(['/', '.']), "{id}: {place}");
        }
        assert_ne!(private("trash", "a-b"), private("trash", "ab"));
        assert_eq!(trashed("0f", "a/b"), ".isle/trash/0f/b");
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
        assert!(!stat(9 * second, second).is_fresh(5 * second), "a time that somebody set ahead");
        assert!(stat(second, 0).is_fresh(2 * second), "a disk that keeps whole seconds");
        assert!(!stat(second, 0).is_fresh(3 * second + 1));
    }
}
