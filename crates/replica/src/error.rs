//! Errors of the public API.

use std::path::PathBuf;

use isle_blobs::RemoteError;
use isle_clock::{GroupId, SiteId};
use isle_identity::{KeyFileError, KeyId, TicketError};
use isle_protocol::SessionError;
use isle_store::StoreError;
use isle_transport::TransportError;

use crate::{BackupError, BundleError, InterchangeError, LibraryError, SyncReport};

/// What went wrong, in terms of what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something failed; trying again may help.
    Failed,
    /// The request makes no sense as it is.
    Invalid,
    /// A person must choose.
    Decision,
    /// A guard holds it back.
    Blocked,
}

/// Why an operation of a replica failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The replica's file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Changes carried by the app.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The file library.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// An import or an export.
    #[error(transparent)]
    Interchange(#[from] InterchangeError),
    /// A remote.
    #[error("remote {name:?}: {source}")]
    Remote {
        /// The remote's name.
        name: String,
        /// What it said.
        source: RemoteError,
    },
    /// A remote that holds nothing of the group yet.
    #[error("remote {name:?} was never synced with: `isle sync` first")]
    NeverSynced {
        /// Its name.
        name: String,
    },
    /// A definition is no schema document.
    #[error("the schema document cannot be read: {source}")]
    Document {
        /// Where, and why.
        source: serde_json::Error,
    },
    /// A file or folder of a definition cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No remote of that name.
    #[error("there is no remote {name:?}: `isle remote list` shows those there are")]
    NoSuchRemote {
        /// The name asked for.
        name: String,
    },
    /// No other replica, or more than one, has this id or name.
    #[error("{found} replicas are called {site:?} beside this one: give the id of one, as `isle devices` lists them")]
    NoSuchSite {
        /// What was asked for.
        site: String,
        /// How many fit.
        found: usize,
    },
    /// No remote at all.
    #[error(
        "this replica has no remote: add one with `isle remote add NAME URL`; or let a device in with `isle invite`, and sync with it directly"
    )]
    NoRemote,
    /// The thread that is to sync cannot be started.
    #[error("cannot start the thread that syncs: close what uses many threads or files, and open the replica again")]
    Thread {
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The name is taken.
    #[error("there is a remote {name:?} already ({url}): remove it first or choose another name")]
    RemoteExists {
        /// The name.
        name: String,
        /// Where it is.
        url: String,
    },
    /// The table cannot be searched.
    #[error(
        "no full-text table finds rows of {table:?}: make one, as CREATE VIRTUAL TABLE … USING fts5(…, content='{table}')"
    )]
    NotSearchable {
        /// The table.
        table: String,
    },
    /// A table has no column of that name.
    #[error("table {table:?} has no column {column:?}; its columns are {known}")]
    NoSuchColumn {
        /// The table.
        table: String,
        /// What was asked for.
        column: String,
        /// Those there are.
        known: String,
    },
    /// A name that somebody gave cannot be used.
    #[error("{what} {reason}")]
    InvalidName {
        /// What it is the name of.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Some of several remotes failed, or all of them.
    #[error("sync failed with {} of {} remotes: {}", failed.len(), failed.len() + reports.len(), listed(failed))]
    Remotes {
        /// What the others did.
        reports: Vec<SyncReport>,
        /// The remotes that failed, and why.
        failed: Vec<(String, Error)>,
    },
    /// The remote holds data of another app.
    #[error("remote {name:?} holds data of app {found:?}, this replica is of app {app:?}: choose another remote")]
    OtherApp {
        /// The remote's name.
        name: String,
        /// The remote's app.
        found: String,
        /// This replica's app.
        app: String,
    },
    /// The remote's group is not the one that this replica has exchanged changesets with.
    #[error(
        "remote {name:?} holds another group ({found}) than before ({group}): its bucket was replaced, or the address is wrong; nothing was exchanged"
    )]
    OtherGroup {
        /// The remote's name.
        name: String,
        /// The group that stands there.
        found: String,
        /// This replica's group.
        group: String,
    },
    /// The remote was synced with before and holds nothing any more.
    #[error(
        "remote {name:?} holds nothing any more: it was emptied, or is not mounted; if it should be filled again, remove it with `isle remote remove {name}` and add it again"
    )]
    RemoteEmptied {
        /// The remote's name.
        name: String,
    },
    /// The remote has heads but no group object.
    #[error(
        "remote {name:?} has lost its group object: sync a device that has synced with it before, after `isle remote remove {name}` and adding it again"
    )]
    GroupMissing {
        /// The remote's name.
        name: String,
    },
    /// The remote is encrypted and this device lacks the key.
    #[error(
        "remote {name:?} is encrypted, and this device does not have the key of its group: `isle key export FILE` on a device that has it, then `isle key import FILE` here"
    )]
    KeyMissing {
        /// The remote's name.
        name: String,
    },
    /// The remote is not encrypted and nobody allowed that.
    #[error(
        "remote {name:?} is not encrypted: whoever can read it can read the data, and whoever can write to it can add some; if that is wanted, `isle remote remove {name}` and add it again with `--plain`"
    )]
    RemotePlain {
        /// The remote's name.
        name: String,
    },
    /// The remote is not encrypted, and came with a file from another device.
    #[error(
        "remote {name:?} at {url} is not encrypted, and came with this file from elsewhere: whoever can read it can read the data; if that is wanted, `isle remote remove {name}` and add it again with `--plain`"
    )]
    RemoteNotOurs {
        /// The remote's name.
        name: String,
        /// Where it is.
        url: String,
    },
    /// The remote is encrypted and was added as one that is not.
    #[error("remote {name:?} is encrypted: `isle remote remove {name}` and add it again without `--plain`")]
    RemoteSealed {
        /// The remote's name.
        name: String,
    },
    /// The device has no key of the group.
    #[error(
        "this device has no key of the group yet: `isle key create` makes one, `isle key import FILE` takes over that of another device"
    )]
    NoKey,
    /// The device has a key of the group already.
    #[error("this device has a key of the group already ({id}): `isle key rotate` makes a new one")]
    KeyExists {
        /// The key that is used now.
        id: KeyId,
    },
    /// The text is no key file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The cryptography refuses.
    #[error("the group's key cannot be used: {reason}")]
    Key {
        /// Why.
        reason: String,
    },
    /// Something in the remote is not what its writer wrote.
    #[error("remote {name:?}: {what} of site {site} is refused: {reason}")]
    Refused {
        /// The remote's name.
        name: String,
        /// Head, segment or schema operation.
        what: &'static str,
        /// Whose it is.
        site: SiteId,
        /// What is wrong.
        reason: String,
    },
    /// A full-text table does not fit its rows any more.
    #[error(
        "full-text table {name} does not fit the rows that it is of: INSERT INTO {quoted}({quoted}) VALUES('rebuild') fills it again"
    )]
    SearchDamaged {
        /// The full-text table.
        name: String,
        /// As SQL has to name it.
        quoted: String,
        /// What SQLite says.
        source: Box<Error>,
    },
    /// The file is open with another folder that tells devices apart.
    #[error("{} is open in this process already, with another home folder: close it first, or open it with that one", path.display())]
    OtherHome {
        /// The file.
        path: PathBuf,
    },
    /// The device's key store cannot be used.
    #[error("the device's folder {path} cannot be used: {source}; set ISLE_HOME to a folder that you own")]
    KeyStore {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file of the key store is damaged.
    #[error("{path} is damaged: {reason}; delete it, the replica then takes a new identity")]
    KeyStoreDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A row does not fit the type asked for.
    #[error("the row does not fit: {reason}")]
    Row {
        /// What does not fit.
        reason: String,
    },
    /// No such entry in the conflict journal.
    #[error("there is no open conflict {id}: `isle conflicts list` shows them")]
    NoSuchConflict {
        /// The number asked for.
        id: i64,
    },
    /// The row of a conflict is gone, so the value has no place.
    #[error(
        "conflict {id}: its row is gone from {table:?}; insert it again with the value that you want, or take the change that deleted it back (`isle undo`)"
    )]
    ConflictRowGone {
        /// The entry.
        id: i64,
        /// The table.
        table: String,
    },
    /// Neither value had one before it that the log knows.
    #[error(
        "conflict {id} has no base: there was no such row before, or the log does not reach back so far; write a value"
    )]
    ConflictWithoutBase {
        /// The conflict.
        id: i64,
    },
    /// What lost is a part of a value, which cannot take the place of the whole.
    #[error(
        "conflict {id}: what lost is a change, and not a whole value: `isle conflicts resolve {id} --value V` writes what you want"
    )]
    ConflictOfPart {
        /// The entry.
        id: i64,
    },
    /// A peer cannot be reached, or the connection broke.
    #[error("peer {name}: {source}")]
    Peer {
        /// The peer's name.
        name: String,
        /// Why.
        source: TransportError,
    },
    /// A session with a peer ended.
    #[error("peer {name}: {source}")]
    Session {
        /// The peer's name.
        name: String,
        /// Why.
        source: SessionError,
    },
    /// Connections cannot be had at all.
    #[error(transparent)]
    Transport {
        /// Why.
        source: TransportError,
    },
    /// The text is no ticket.
    #[error(transparent)]
    Ticket(#[from] TicketError),
    /// A ticket was not taken.
    #[error("the invitation was refused: {reason}")]
    Invitation {
        /// Why.
        reason: String,
    },
    /// The file belongs to another group than the ticket's.
    #[error("this file has exchanged changes with another group already, and cannot join group {}: join with a new file", group.short())]
    JoinsOtherGroup {
        /// The ticket's group.
        group: GroupId,
    },
    /// This device does not belong to the group.
    #[error("{}", if *revoked { "this device was put out of the group: a member has to invite it again, and `isle join` lets it in" } else { "this device is not enrolled in the group: `isle invite` on a device that is prints a ticket, and `isle join TICKET` here uses it" })]
    NotMember {
        /// Whether it did once.
        revoked: bool,
    },
    /// A caller does not belong to the group.
    #[error("device {key} is not enrolled in this group: it needs a ticket of `isle invite`")]
    NotEnrolled {
        /// The beginning of its key.
        key: String,
    },
    /// No device of the group, or more than one, is called so.
    #[error("{found} devices of the group are called {name:?} beside this one: `isle peers` lists them")]
    NoSuchPeer {
        /// What was asked for.
        name: String,
        /// How many fit.
        found: usize,
    },
    /// Another process is connected on this file.
    #[error(
        "another process is connected with this file's peers already (`isle serve` or `isle sync --live`): end it first"
    )]
    AlreadyLive,
    /// Too many strangers call at once.
    #[error("too many callers at once; try again later")]
    Busy,
    /// The file has taken a new site id meanwhile.
    #[error("this replica has taken a new site id; the sync begins anew")]
    SiteChanged,
    /// A task of the runtime ended early.
    #[error("a background task of isle was cancelled: the runtime is shutting down")]
    Cancelled,
}

fn listed(failed: &[(String, Error)]) -> String {
    failed.iter().map(|(_, error)| error.to_string()).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoSuchRemote { .. }
            | Error::NoSuchPeer { .. }
            | Error::Ticket(_)
            | Error::KeyFile(_)
            | Error::KeyExists { .. }
            | Error::NoKey
            | Error::NoRemote
            | Error::RemoteExists { .. }
            | Error::NoSuchSite { .. }
            | Error::InvalidName { .. }
            | Error::NotSearchable { .. }
            | Error::NoSuchColumn { .. }
            | Error::Remote { source: RemoteError::Address { .. }, .. }
            | Error::Document { .. }
            | Error::ConflictOfPart { .. }
            | Error::ConflictWithoutBase { .. }
            | Error::NoSuchConflict { .. }
            | Error::Backup(
                BackupError::NoFolder { .. }
                | BackupError::NoSuchBackup { .. }
                | BackupError::NotInRemote { .. }
                | BackupError::Ambiguous { .. },
            ) => ErrorKind::Invalid,
            Error::Bundle(BundleError::Format { .. } | BundleError::Have { .. }) => ErrorKind::Invalid,
            Error::Bundle(BundleError::OtherApp { .. }) => ErrorKind::Decision,
            Error::Bundle(
                BundleError::OtherGroup { .. }
                | BundleError::KeyedGroup { .. }
                | BundleError::KeyMissing { .. }
                | BundleError::Plain,
            ) => ErrorKind::Blocked,
            Error::Library(error) => error.kind(),
            Error::Interchange(error) => error.kind(),
            Error::Remotes { failed, .. } => {
                let first = failed.first().map_or(ErrorKind::Failed, |(_, error)| error.kind());
                if failed.iter().all(|(_, error)| error.kind() == first) { first } else { ErrorKind::Failed }
            }
            Error::Store(
                StoreError::NoSuchTable { .. }
                | StoreError::NotTracked { .. }
                | StoreError::NotReplica { .. }
                | StoreError::Definition { .. }
                | StoreError::DefinitionFile { .. }
                | StoreError::Statement { .. },
            ) => ErrorKind::Invalid,
            Error::OtherApp { .. }
            | Error::Backup(BackupError::OtherGroup { .. } | BackupError::OfAnother { .. })
            | Error::Store(
                StoreError::OtherGroup { .. }
                | StoreError::SchemaConflict { .. }
                | StoreError::TablesAway { .. }
                | StoreError::Parked { .. },
            ) => ErrorKind::Decision,
            Error::ConflictRowGone { .. } | Error::RemoteEmptied { .. } | Error::GroupMissing { .. } => {
                ErrorKind::Decision
            }
            Error::OtherGroup { .. }
            | Error::JoinsOtherGroup { .. }
            | Error::NotMember { .. }
            | Error::AlreadyLive
            | Error::OtherHome { .. }
            | Error::KeyMissing { .. }
            | Error::RemotePlain { .. }
            | Error::RemoteNotOurs { .. }
            | Error::RemoteSealed { .. }
            | Error::Store(
                StoreError::Untrackable { .. }
                | StoreError::Undescribed { .. }
                | StoreError::DefinitionRefused { .. }
                | StoreError::Refused { .. }
                | StoreError::SchemaTooNew { .. }
                | StoreError::NewerFormat { .. },
            )
            | Error::Remote { source: RemoteError::InsecureHttp { .. }, .. } => ErrorKind::Blocked,
            _ => ErrorKind::Failed,
        }
    }
}
