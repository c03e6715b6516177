//! What can go wrong with a replica's file.

use std::path::PathBuf;

use isle_changeset::DecodeError;
use isle_clock::{ClockError, GroupId, SiteId};
use isle_schema::{MigrationError, Version};
use rusqlite::ffi::ErrorCode;

/// What a changeset names that does not follow the one before it.
pub(crate) const CHAIN: &str = "chain of the site's versions";

/// Why an operation on a replica's file failed. Nothing is applied halfway: the file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite refused.
    #[error("cannot {doing}: {source}")]
    Sqlite {
        /// What was tried.
        doing: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// Another process holds the write lock for longer than the busy timeout.
    #[error(
        "cannot {doing}: another connection, of this program or of another one, keeps a transaction open for longer than the busy timeout; end it, or try again"
    )]
    Busy {
        /// What was tried.
        doing: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The file is not there and cannot be made, or this user may not open it.
    #[error("cannot {doing}: check that its folder is there, and that you may read and write in it")]
    CannotOpen {
        /// What was tried.
        doing: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The disk is full.
    #[error("cannot {doing}: the disk is full, nothing was changed; free some space and try again")]
    DiskFull {
        /// What was tried.
        doing: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The file is kept by cr-sqlite, and nobody said where that is.
    #[error(
        "that takes cr-sqlite, and nobody said where it is: name the built extension of cr-sqlite 0.17 in ISLE_CR_SQLITE, or as `cr-sqlite` in isle.toml \
         (in Rust: `Builder::cr_sqlite`)"
    )]
    NeedsCrSqlite,
    /// cr-sqlite failed.
    #[error(transparent)]
    CrSqlite {
        /// Why.
        source: isle_crsqlite::CrSqliteError,
    },
    /// A table that cannot be given as data.
    #[error("table {table:?} has a CHECK, which SQLite gives as text only: dump the schema as SQL")]
    Undescribed {
        /// The table.
        table: String,
    },
    /// A temporary folder cannot be made.
    #[error("cannot make the temporary folder {}: {source}; TMPDIR names another place", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A backup cannot be made.
    #[error("cannot make the backup {}: {source}; nothing was changed", path.display())]
    Backup {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot {doing}: the database is read-only; check the permissions of the file and its folder")]
    ReadOnly {
        /// What was tried.
        doing: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// The file is no SQLite database, or is damaged.
    #[error(
        "cannot {doing}: the file is not a SQLite database or is damaged; restore a backup or start from the remote"
    )]
    Damaged {
        /// What was tried.
        doing: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// A text that is not one statement, or not with these parameters.
    #[error("{reason}")]
    Statement {
        /// What is wrong with it.
        reason: String,
    },
    /// A SQLite database without isle's tables.
    #[error("{path} is not an isle replica: run `isle init` on it first")]
    NotReplica {
        /// The file.
        path: String,
    },
    /// The file was written by a newer isle.
    #[error("{path} has format {found}, this isle reads up to {known}: update isle")]
    NewerFormat {
        /// The file.
        path: String,
        /// The file's format.
        found: i64,
        /// The largest format known.
        known: i64,
    },
    /// No such table.
    #[error("there is no table {table:?} in this database")]
    NoSuchTable {
        /// The name asked for.
        table: String,
    },
    /// The table is not tracked.
    #[error("table {table:?} is not tracked: `isle status` lists those that are")]
    NotTracked {
        /// The name asked for.
        table: String,
    },
    /// The table cannot be replicated as it is.
    #[error("table {table:?} cannot be tracked: {reason}")]
    Untrackable {
        /// The table.
        table: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A tracked table was altered past isle, and no longer is what its replicas agreed on.
    #[error(
        "table {table:?} was changed behind isle's back: {reason}; it stands still until the change is undone; then `isle schema apply` with the definition that is wanted makes it everywhere"
    )]
    Drifted {
        /// The table.
        table: String,
        /// What is different.
        reason: String,
    },
    /// An app statement touched what only isle may touch.
    #[error("the statement was refused: {reason}")]
    Refused {
        /// Why, and what to do instead.
        reason: String,
    },
    /// The transaction was rolled back by a statement in it.
    #[error(
        "the transaction was rolled back by one of its statements (ON CONFLICT ROLLBACK or RAISE(ROLLBACK)): start it again"
    )]
    RolledBack,
    /// A row is too large to be replicated.
    #[error("a row of table {table:?} cannot be replicated: {source}")]
    RowTooLarge {
        /// The table.
        table: String,
        /// The limit.
        source: DecodeError,
    },
    /// A changeset is not what it should be.
    #[error("changeset {version} of site {site} is refused: {source}")]
    BadChangeset {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// What is wrong.
        source: DecodeError,
    },
    /// What the log has of a version is not what was written to it.
    #[error(
        "version {version} of site {site} is damaged in this file's log ({what}) and is not handed over: run `isle doctor`, then restore a backup or start from the remote"
    )]
    LogDamaged {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// What does not match.
        what: String,
    },
    /// A header cannot be read.
    #[error("a changeset header is refused: {source}")]
    BadHeader {
        /// What is wrong.
        source: DecodeError,
    },
    /// A signature is not that of the site's device.
    #[error("version {version} of site {site} is refused: {source}")]
    BadProof {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// What is wrong.
        source: isle_identity::ProofError,
    },
    /// A changeset of another group.
    #[error("changeset {version} of site {site} belongs to group {found}, this replica to {group}: it is refused")]
    ForeignGroup {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// The changeset's group.
        found: GroupId,
        /// This replica's group.
        group: GroupId,
    },
    /// Two different changesets carry the same number.
    #[error(
        "site {site} has two different versions {version}: its file was copied or restored; the second is refused until that site takes a new id"
    )]
    Fork {
        /// The author.
        site: SiteId,
        /// The version that exists twice.
        version: u64,
    },
    /// A membership operation that does not hold.
    #[error("{source}; nothing of it was taken")]
    Member {
        /// Why.
        source: isle_identity::MemberError,
    },
    /// More of a site would wait than a file may hold back.
    #[error(
        "changeset {version} of site {site} is refused: {applied} is the last one that could be merged, and no more than {limit} may wait for what is missing; sync again once that is there",
        limit = crate::log::WAITING_MAX
    )]
    TooFarAhead {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// The author's last version that is merged.
        applied: u64,
    },
    /// The replica already belongs to another group and has handed over changesets there.
    #[error(
        "this replica belongs to group {group} and has published there: it cannot join {other}; start a new file for that"
    )]
    OtherGroup {
        /// This replica's group.
        group: GroupId,
        /// The group asked for.
        other: GroupId,
    },
    /// A definition of tables is no SQL that SQLite takes.
    #[error("the definition cannot be read: {source}")]
    Definition {
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// A file of a definition is no SQL that SQLite takes.
    #[error("{file} cannot be read: {source}")]
    DefinitionFile {
        /// Its name.
        file: String,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
    /// A definition asks for changes that cannot be made.
    #[error("the definition asks for what cannot be done, and nothing was changed: {}", reasons.join("; "))]
    DefinitionRefused {
        /// What, and what to do instead.
        reasons: Vec<String>,
    },
    /// A schema operation is broken or not for this app.
    #[error("a schema operation is refused")]
    Migration(#[from] MigrationError),
    /// A schema operation is not what one of isle's is, on any device.
    #[error("schema operation {id} is refused (table {table:?}: {reason}): it was made by another program")]
    OperationRefused {
        /// The operation.
        id: String,
        /// The table.
        table: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has a schema that the app here is too old for. Reads and syncs go on.
    #[error(
        "the schema of this file needs version {needs} of the app, and this is {app}: update the app; it can read until then"
    )]
    SchemaTooNew {
        /// The earliest version of the app that may write.
        needs: Version,
        /// The version of the app here.
        app: Version,
    },
    /// A schema operation does not fit what is in this file, say a table of the same name with another key.
    #[error("schema operation {id} does not fit table {table:?} here: {reason}")]
    SchemaConflict {
        /// The operation.
        id: String,
        /// The table.
        table: String,
        /// The difference.
        reason: String,
    },
    /// A snapshot is not what it should be.
    #[error("a snapshot is refused: {source}")]
    BadSnapshot {
        /// What is wrong.
        source: DecodeError,
    },
    /// A snapshot needs a schema operation that is not here.
    #[error(
        "a snapshot needs schema operation {id}, which is not applied here: `isle schema status` says why, if it is here at all"
    )]
    SnapshotSchema {
        /// The operation.
        id: String,
    },
    /// No complete snapshot is staged.
    #[error("no complete snapshot is staged: fetch the rest of it first")]
    NoSnapshot,
    /// Tables that were tracked are not: the log keeps what they miss, and a snapshot would lack them.
    #[error(
        "{count} tables of the group are untracked or altered here: the log keeps what they miss, so it cannot be compacted, and no snapshot can be made or taken in; `isle track` them again"
    )]
    TablesAway {
        /// How many.
        count: usize,
    },
    /// Changesets have something for tables or columns that no schema operation here has made yet.
    #[error(
        "{count} changesets need a schema operation that is not applied here: the log keeps what they bring, so it cannot be compacted, and no snapshot can be made or taken in; `isle schema status` says what stands in the way"
    )]
    Parked {
        /// How many.
        count: u64,
    },
    /// The log does not hold what a table would miss.
    #[error(
        "the log was compacted, or began with a snapshot: a table could not return from it with its history, so none can be untracked; `isle detach` makes a plain database of the file"
    )]
    LogCompacted,
    /// Rows that were merged could not be written here.
    #[error(
        "table {table:?} lacks rows that were merged into it (`isle doctor` lists them): another replica must make the snapshot"
    )]
    Incomplete {
        /// The table.
        table: String,
    },
    /// The clock is unusable.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// A row of isle's own tables is not what isle writes.
    #[error("isle's own table {table} is damaged ({detail}): run `isle doctor`")]
    Internal {
        /// The table.
        table: &'static str,
        /// What was found.
        detail: String,
    },
}

impl From<isle_crsqlite::CrSqliteError> for StoreError {
    fn from(error: isle_crsqlite::CrSqliteError) -> StoreError {
        match error {
            isle_crsqlite::CrSqliteError::Sqlite { doing, source } => StoreError::sqlite(doing, source),
            source => StoreError::CrSqlite { source },
        }
    }
}

impl StoreError {
    /// Sorts SQLite's errors by what the user can do about them.
    pub(crate) fn sqlite(doing: impl Into<String>, source: rusqlite::Error) -> StoreError {
        let doing = doing.into();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { doing, source },
            Some(ErrorCode::CannotOpen) => StoreError::CannotOpen { doing, source },
            Some(ErrorCode::DiskFull) => StoreError::DiskFull { doing, source },
            Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { doing, source },
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Damaged { doing, source },
            _ => StoreError::Sqlite { doing, source },
        }
    }

    /// What SQLite and its driver say of a statement that somebody wrote.
    pub fn of_statement(doing: &str, source: rusqlite::Error) -> StoreError {
        let reason = match &source {
            rusqlite::Error::InvalidParameterCount(given, wanted) => {
                format!("the statement takes {wanted} parameters, {given} were given")
            }
            rusqlite::Error::MultipleStatement => "there are several statements where one is expected".to_owned(),
            rusqlite::Error::SqliteFailure(failure, _) if failure.code == ErrorCode::ApiMisuse => {
                "there is no statement in the text".to_owned()
            }
            _ => return StoreError::sqlite(doing, source),
        };
        StoreError::Statement { reason }
    }

    /// Whether the table's own triggers, indexes or constraints refuse a row, rather than the disk or a lock.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, StoreError::Sqlite { source, .. } if matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::ConstraintViolation | ErrorCode::Unknown | ErrorCode::TypeMismatch | ErrorCode::TooBig)
        ))
    }

    /// Whether the error is a clash in a UNIQUE index.
    pub(crate) fn is_unique(&self) -> bool {
        matches!(self, StoreError::Sqlite { source, .. } if source.sqlite_extended_error_code()
            == Some(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE))
    }

    /// Whether the error is about this file or this device, rather than about what was handed in.
    pub fn is_local(&self) -> bool {
        match self {
            StoreError::Busy { .. }
            | StoreError::CannotOpen { .. }
            | StoreError::DiskFull { .. }
            | StoreError::ReadOnly { .. }
            | StoreError::Damaged { .. }
            | StoreError::LogDamaged { .. }
            | StoreError::Internal { .. } => true,
            StoreError::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted)
            ),
            _ => false,
        }
    }

    /// Whether what was handed in is broken in itself, so that nobody can take it. What only does not fit what is here may be whole: of a site with two
    /// histories others have the other one.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::BadHeader { .. } | StoreError::BadProof { .. } | StoreError::ForeignGroup { .. } => true,
            StoreError::BadChangeset { source, .. } => !matches!(source, DecodeError::Hash { what } if *what == CHAIN),
            _ => false,
        }
    }

    /// Whether the error is a violated constraint (UNIQUE, CHECK, NOT NULL, foreign key or a trigger's RAISE).
    pub fn is_constraint(&self) -> bool {
        matches!(self, StoreError::Sqlite { source, .. }
            if source.sqlite_error_code() == Some(ErrorCode::ConstraintViolation))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> StoreError {
        StoreError::sqlite("use the database", source)
    }
}

/// Adds what was being done to a SQLite error.
pub(crate) trait Doing<T> {
    /// Names the operation.
    fn doing(self, what: &str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, rusqlite::Error> {
    fn doing(self, what: &str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::sqlite(what, source))
    }
}
