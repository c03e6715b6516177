//! What can go wrong with the library's files.

use std::path::PathBuf;

use isle_files::{ChunkListError, FolderError, KindError, PathError, WatchError};
use serde::Serialize;

use crate::ErrorKind;

/// Why something could not be done with the library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// There is none.
    #[error(
        "this replica has no file library: `isle files add-root NAME FOLDER` begins one, or `isle sync` brings the group's"
    )]
    None,
    /// No root of that name.
    #[error("no root is called {name:?} on this device: `isle files roots` lists them")]
    NoSuchRoot {
        /// What was asked for.
        name: String,
    },
    /// A root of that name is elsewhere.
    #[error("root {name:?} is {} on this device: `isle files remove-root {name}` forgets it first", folder.display())]
    RootExists {
        /// Its name.
        name: String,
        /// Where it is.
        folder: PathBuf,
    },
    /// What stands at the place of a root is not what was added: its disk is not there, or its content was taken away.
    #[error("root {name:?} is away: {} {what}; nothing of it is touched", folder.display())]
    RootAway {
        /// Its name.
        name: String,
        /// Where it should be.
        folder: PathBuf,
        /// What is there instead.
        what: String,
    },
    /// What only this device has would leave the library.
    #[error(
        "{files} files of root {name:?} are on this device alone: `isle sync` puts them into a remote first, `--yes` forgets them all the same"
    )]
    OnlyHere {
        /// The root.
        name: String,
        /// How many.
        files: u64,
    },
    /// Its trash would be lost sight of.
    #[error(
        "root {name:?} has {files} files in its trash: `isle files trash restore` takes them back, `isle files prune` removes them"
    )]
    TrashLeft {
        /// The root.
        name: String,
        /// How many.
        files: u64,
    },
    /// isle's own files, or a remote's, would become files of the library.
    #[error("folder {} has to do with {what}, which cannot be in a library", folder.display())]
    Entangled {
        /// The folder.
        folder: PathBuf,
        /// What lies in it, or around it.
        what: String,
    },
    /// Something of the app's is called like a view of the library.
    #[error(
        "the database has something else that is called {name}: rename that, for the library needs a view of this name"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No set of that name.
    #[error("there is no set {name:?}: `isle files status --by set` lists them")]
    NoSuchSet {
        /// What was asked for.
        name: String,
    },
    /// Two roots of which one lies in the other would each have the same files.
    #[error("folder {} lies in that of root {other:?}, or that lies in it: one file would be in the library twice", folder.display())]
    RootsOverlap {
        /// The new one.
        folder: PathBuf,
        /// The other's name.
        other: String,
    },
    /// The name of a folder cannot be kept as text.
    #[error("folder {} has a name that is not Unicode", folder.display())]
    FolderName {
        /// The folder.
        folder: PathBuf,
    },
    /// No kind of that name.
    #[error("there is no kind {name:?}: `isle files kinds` lists them")]
    NoSuchKind {
        /// What was asked for.
        name: String,
    },
    /// A validator that this program does not have.
    #[error("kind {kind:?} is looked into by {validator:?}, which this program does not have; it has {known}")]
    NoSuchValidator {
        /// The kind.
        kind: String,
        /// Its validator.
        validator: String,
        /// Those that are there.
        known: String,
    },
    /// Nothing in the library is called so.
    #[error("no file of the library has the id, path or name {wanted:?}: `isle files list` shows them")]
    NoSuchFile {
        /// What was asked for.
        wanted: String,
    },
    /// Several files are called so.
    #[error("{found} files of the library fit {wanted:?}: name one by its id ({ids})")]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// How many fit.
        found: usize,
        /// Some of their ids.
        ids: String,
    },
    /// The file is not here, and may not be fetched.
    #[error("file {path} is not on this device: {bytes} bytes have to be fetched")]
    NeedsDownload {
        /// Its id.
        id: String,
        /// Its path.
        path: String,
        /// What has to be fetched, in bytes.
        bytes: u64,
    },
    /// Nobody that can be reached has the content.
    #[error("the content of {path} is not on this device, in no remote that was asked, and no device that has it could be reached: {}", if devices.is_empty() { "none says that it does; it may be lost, and `isle files prune` takes it off the list".to_owned() } else { format!("{devices} says that it does; `isle sync` there puts it into a remote, `isle serve` there lets this one ask") })]
    NotAvailable {
        /// Its id.
        id: String,
        /// Its path.
        path: String,
        /// The names of devices that say they have it.
        devices: String,
    },
    /// The content that came is another.
    #[error(
        "what came for {path} is not its content; it was thrown away: `isle files verify` on a device that has the file finds the damage"
    )]
    WrongContent {
        /// Its path.
        path: String,
    },
    /// The disk has not enough room.
    #[error("{needed} bytes are needed below {}, and {free} are free: `isle files evict` makes room", folder.display())]
    NoRoom {
        /// Where.
        folder: PathBuf,
        /// What has to be fetched, in bytes.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
    },
    /// It would be the last copy.
    #[error(
        "no remote has {path} whole and sound, and copies on other devices do not count: `isle sync` puts it into a remote first"
    )]
    OnlyCopy {
        /// Its path.
        path: String,
    },
    /// It was to stay.
    #[error("{path} is pinned on this device: `isle files unpin` first")]
    Pinned {
        /// Its path.
        path: String,
    },
    /// What stands on the disk is not what the last scan saw.
    #[error("{} was changed since the last scan: `isle files scan` takes it up first", path.display())]
    Changed {
        /// Where.
        path: PathBuf,
    },
    /// It is in the trash.
    #[error("{path} is in the trash: `isle files trash restore` takes it back")]
    InTrash {
        /// Its path.
        path: String,
    },
    /// It is not in the trash.
    #[error("{path} is not in the trash")]
    NotInTrash {
        /// Its path.
        path: String,
    },
    /// Some files could not be moved; the others were.
    #[error("{} of {all} files failed; the first, {}: {}", problems.len(), problems.first().map_or("", |p| p.path.as_str()), problems.first().map_or("", |p| p.why.as_str()))]
    Some {
        /// How many were to be moved.
        all: usize,
        /// What failed.
        problems: Vec<Problem>,
    },
    /// A root of which nothing can be read.
    #[error("root {root:?} cannot be scanned: {why}")]
    Scan {
        /// Its name.
        root: String,
        /// The reason.
        why: String,
    },
    /// A kind.
    #[error(transparent)]
    Kind(#[from] KindError),
    /// A path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A list of chunks.
    #[error(transparent)]
    Chunks(#[from] ChunkListError),
    /// A folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Watching.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// A file with which something was not done, and why; the rest went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Which one: its path in the library, or in its root.
    pub path: String,
    /// The reason.
    pub why: String,
}

impl LibraryError {
    /// What a caller can do about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            LibraryError::NoSuchRoot { .. }
            | LibraryError::RootExists { .. }
            | LibraryError::RootsOverlap { .. }
            | LibraryError::FolderName { .. }
            | LibraryError::NoSuchKind { .. }
            | LibraryError::NoSuchSet { .. }
            | LibraryError::NameTaken { .. }
            | LibraryError::NoSuchValidator { .. }
            | LibraryError::Entangled { .. }
            | LibraryError::NoSuchFile { .. }
            | LibraryError::NotInTrash { .. }
            | LibraryError::Kind(_)
            | LibraryError::Path(_)
            | LibraryError::None => ErrorKind::Invalid,
            LibraryError::Ambiguous { .. } | LibraryError::NeedsDownload { .. } => ErrorKind::Decision,
            LibraryError::RootAway { .. }
            | LibraryError::OnlyHere { .. }
            | LibraryError::TrashLeft { .. }
            | LibraryError::OnlyCopy { .. }
            | LibraryError::Pinned { .. }
            | LibraryError::Changed { .. }
            | LibraryError::InTrash { .. }
            | LibraryError::NoRoom { .. } => ErrorKind::Blocked,
            _ => ErrorKind::Failed,
        }
    }
}
