//! Ordinary SQLite files that sync.
//!
//! A [`Replica`] is one SQLite file on one device. Its tables stay plain tables that any SQLite client reads and writes; what
//! changes in tracked tables travels to the other replicas of its group through a *remote* (a folder or an S3-compatible
//! bucket), and every replica ends in the same state.
//!
//! ```
//! # fn main() -> Result<(), isle::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let home = folder.path().join("home");
//! let replica = isle::Replica::builder(folder.path().join("notes.db")).home(&home).init()?;
//! replica.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT)"))?;
//! replica.track(&["notes"])?;
//!
//! replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, ?2, ?3)", isle::params![1, "Dune", 5]))?;
//! let title: String = replica.read(|q| q.one("SELECT title FROM notes WHERE id = ?1", isle::params![1]))?.unwrap();
//! assert_eq!(title, "Dune");
//! # Ok(())
//! # }
//! ```
//!
//! The README's example, whole:
//!
//! ```standalone_crate
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), isle::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let work = folder.path().join("work");
//! # std::fs::create_dir(&work).unwrap();
//! # // One process, one current folder and one variable: nothing else runs in this example.
//! # std::env::set_current_dir(&work).unwrap();
//! # unsafe { std::env::set_var("ISLE_HOME", folder.path().join("home")) };
//! let replica = isle::Replica::builder("notes.db").init()?;
//! replica.write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, title TEXT)"))?;
//! replica.track(&["notes"])?;
//! replica.write(|tx| tx.execute("INSERT INTO notes VALUES(?1, ?2)", isle::params![1, "Dune"]))?;
//! replica.add_remote("home", "../bucket")?;
//! replica.sync().await?;
//! # Ok(())
//! # }
//! ```
//!
//! An app that shall sync by itself says so when it opens the replica:
//!
//! ```standalone_crate
//! # fn main() -> Result<(), isle::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let work = folder.path().join("work");
//! # std::fs::create_dir(&work).unwrap();
//! # // One process, one current folder and one variable: nothing else runs in this example.
//! # std::env::set_current_dir(&work).unwrap();
//! # unsafe { std::env::set_var("ISLE_HOME", folder.path().join("home")) };
//! let replica = isle::Replica::builder("notes.db")
//!     .remote("home", "../bucket")
//!     .peers(isle::Peers::nearby().listen_at_port(isle::Replica::DEFAULT_PORT))
//!     .auto_sync(isle::AutoSync::default())
//!     .init()?;
//! let mut events = replica.events().expect("it syncs by itself");
//! while !matches!(events.blocking_recv(), Ok(isle::LiveEvent::Synced { .. })) {}
//! # Ok(())
//! # }
//! ```
//!
//! Without that, syncing is asynchronous and needs a tokio runtime:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), isle::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let bucket = folder.path().join("bucket");
//! # let open = |name: &str| isle::Replica::builder(folder.path().join(name)).home(folder.path().join(format!("{name}.home"))).init();
//! let laptop = open("laptop.db")?;
//! laptop.write(|tx| tx.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT)"))?;
//! laptop.track(&["notes"])?;
//! laptop.write(|tx| tx.execute("INSERT INTO notes VALUES(1, 'Dune')", &[]))?;
//! laptop.add_remote("home", bucket.to_str().unwrap())?;
//! laptop.sync().await?;
//!
//! let phone = open("phone.db")?; // an empty file: the table comes with the first sync
//! # let phones_home = folder.path().join("phone.db.home");
//! isle::import_keys(Some(phones_home), &laptop.export_keys()?)?; // what is in the bucket is encrypted
//! phone.add_remote("home", bucket.to_str().unwrap())?;
//! phone.sync().await?;
//! assert_eq!(phone.state_hash()?, laptop.state_hash()?);
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//! * Nothing is handed over before it is durable here, and before the device's own records say that this file is still the
//!   one that last spoke under its site id; otherwise it takes a new id first.
//! * A head that goes back is noticed and not followed.
//! * `sync` may be cut off or cancelled at any point; the next one goes on from what arrived.
//!
//! # Isolation
//! A write transaction is serializable on its file, as SQLite's are. Between replicas it arrives whole and never before what its
//! author had seen; concurrent transactions of two replicas both happen, and cells that both wrote go to the later one.

mod auto;
mod backups;
mod builder;
mod bundle;
mod conflicts;
mod definition;
mod diff;
mod direct;
mod error;
mod group_keys;
mod history;
mod interchange;
mod keystore;
mod library;
mod listing;
mod names;
mod operations;
mod proofs;
mod remote_backups;
mod replica;
mod runtime;
mod schema;
mod search;
mod status;
mod steps;
mod sync;
mod transaction;
mod value;

pub use auto::{AutoSync, Peers};
pub use backups::{BackedUp, Backup, BackupError, Restored, backup_folder};
pub use builder::Builder;
pub use bundle::{BundleError, Have};
pub use conflicts::{Conflict, Repaired, Resolution};
pub use definition::Definition;
pub use diff::{CellDiff, Diff, RowDiff, TableDiff, diff};
pub use direct::{Connected, InviteOptions, Live, LiveEvent, LiveOptions, Peer, PeerSession};
pub use error::{Error, ErrorKind};
pub use group_keys::{KeyInfo, import_keys};
pub use history::{ConflictBase, HistoryCell, HistoryEntry};
pub use interchange::{
    Archive, Difference, ExportFollower, ExportOptions, Exported, ImportOptions, ImportReport, Imported,
    InterchangeError, SourceState, Verification, VerifiedSource,
};
pub use isle_blobs::{Credentials, RemoteError, RemoteOptions};
pub use isle_clock::{DeviceId, GroupId, Hlc, SiteId};
pub use isle_identity::{DeviceKey, InviteSecret, KeyFileError, KeyId, Ticket, TicketError};
pub use isle_interchange::{Dialect, DocumentError, Fault, Format as DocumentFormat, Mapping, MappingError};
pub use isle_schema::{Class, Document, Kind, MigrationId, SchemaConflict, Version};
pub use isle_store::{
    Applied, Changed, Finding, Fork, Hindrance, Info, Lint, LogEntry, Operation, OperationState, Parked,
    PendingOperation, Reason, Report, RowChangeKind, Runtime, SchemaChange, SchemaOperation, SchemaPlan, SchemaState,
    Site, StateHash, StoreError, TableEngine, TableEngineOf, TableInfo, Undone, Waiting, crrs_of,
};
pub use keystore::Device;
pub use library::{
    Availability, Facts, FileFilter, FileInfo, FileKind, GroupedBy, Identity, Invalid, Library, LibraryError,
    LibraryGroup, LibraryStatus, MoveOptions, Problem, PruneOptions, PrunePlan, Pruned, Pulled, Pushed, Root,
    ScanOptions, ScanProgress, ScanReport, Selection, Storage, Trashed, Validator, Validators, Verified, WatchEvent,
    WatchOptions,
};
pub use listing::{ColumnFacts, Comparison, Filter, Group, Grouping, Per};
pub use remote_backups::{BackupProgress, RemoteBackup, RemoteBackups};
pub use replica::{RemoteInfo, Replica};
pub use runtime::SystemRuntime;
pub use schema::{SchemaInfo, SchemaObject, SchemaReport, SchemaTable};
pub use search::SearchHit;
pub use status::Status;
pub use steps::Steps;
pub use sync::{
    CheckReport, CompactOptions, CompactReport, Direction, Outcome, Pending, Phase, Prefer, Progress, SyncOptions,
    SyncReport,
};
pub use transaction::{Queries, Statement, Transaction};
pub use value::{Param, Row, Value};
