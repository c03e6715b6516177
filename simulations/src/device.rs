//! A device: a file, a disk, a clock, and what it has promised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isle::{Error, Replica, SiteId, TableEngine, Version};
use isle_blobs::testing::{FaultPlan, Faults, History};
use isle_blobs::{Remote, RemoteOptions};
use isle_crsqlite::Library;
use rusqlite::Connection;

use crate::clock::{DeviceRuntime, WorldTime};
use crate::disk::Disk;
use crate::random::Rng;
use crate::scenario::{BucketFault, Scenario};
use crate::schemas::renamed;
use crate::workload::{Shape, Token, quoted, shapes};

/// What is remembered of a value that was written and acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) token: Token,
    /// The version that it was written in, or sealed in.
    pub(crate) site: SiteId,
    pub(crate) version: u64,
}

/// A version of a site, with what is in it.
pub(crate) type Logged = ((SiteId, u64), isle_test_reference::Sealed);

/// A copy of a database.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) site: SiteId,
    pub(crate) version: u64,
    pub(crate) backup: isle::Backup,
}

/// The bucket that all share.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) objects: Remote,
    history: History,
}

impl Bucket {
    pub(crate) fn new(time: WorldTime) -> Bucket {
        let history = History::default();
        history.set_clock(move || crate::clock::START_MS + time.now());
        Bucket { objects: Remote::in_memory(), history }
    }
}

pub(crate) struct Device {
    pub(crate) n: usize,
    folder: PathBuf,
    pub(crate) disk: Disk,
    pub(crate) runtime: Arc<DeviceRuntime>,
    pub(crate) replica: Option<Replica>,
    bucket: Remote,
    faults: Faults,
    /// Faults of the bucket, and until when.
    pub(crate) bucket_faults: BTreeMap<BucketFault, u32>,
    pub(crate) app_version: u32,
    /// It is off since a crash.
    pub(crate) off: bool,
    /// It will never come back.
    pub(crate) gone: bool,
    /// Nothing that it says can be relied upon.
    pub(crate) damaged: bool,
    /// Whether the power goes with the next crash, and how long it stays off then.
    pub(crate) crash: (bool, u64),
    /// Something was wrong with its disk or its bucket since the work that is under way began.
    pub(crate) was_troubled: bool,
    /// Syncs that are under way.
    pub(crate) running: usize,
    pub(crate) acks: Vec<Ack>,
    /// Values that a foreign client wrote and that are not sealed yet.
    pub(crate) unsealed: Vec<Token>,
    /// The site and version that were last seen.
    pub(crate) seen: Option<(SiteId, u64)>,
    /// By site: up to which version something was handed over.
    pub(crate) published: BTreeMap<SiteId, u64>,
    pub(crate) kept: Option<Kept>,
    /// What was not published when a compaction began, which may publish it and drop it from the log at once.
    pub(crate) put_by: Vec<Logged>,
    /// The site under which it went back to an older state.
    pub(crate) went_back: Option<SiteId>,
    /// A compaction is under way that keeps nothing.
    pub(crate) drops_at_once: bool,
    /// Contents of files are on their way: whoever else moves some waits, and a simulation cannot.
    pub(crate) moves: bool,
    /// What goes to the bucket is encrypted.
    encrypted: bool,
    /// Of a fleet with files that cr-sqlite keeps.
    library: Option<Library>,
    /// What is to keep a file that is made here.
    engine: TableEngine,
    shapes: Option<(i64, Vec<Shape>)>,
}

/// Whether the fleet of a seed has a key.
pub(crate) fn is_encrypted(seed: u64) -> bool {
    seed % 3 == 2
}

/// The bucket's name on every device.
pub(crate) const BUCKET: &str = "bucket";

impl Device {
    /// A device without a file yet.
    pub(crate) fn new(
        root: &Path,
        n: usize,
        scenario: &Scenario,
        time: WorldTime,
        bucket: &Bucket,
    ) -> std::io::Result<Device> {
        let seed = scenario.seed;
        let library = if scenario.cr_sqlite == 0 { None } else { Some(library()?) };
        let engine = if scenario.is_cr_sqlite(n) { TableEngine::CrSqlite } else { TableEngine::Native };
        let folder = root.join(format!("d{n}"));
        std::fs::create_dir_all(folder.join("home"))?;
        let folder = folder.canonicalize()?;
        let mut rng = Rng(seed ^ (n as u64 + 1).wrapping_mul(0x9e37_79b9));
        let disk = Disk::new(&folder, rng.next())?;
        let (mut skew, mut drift) = (rng.below(120_000) as i64 - 60_000, rng.below(200) as i64 - 100);
        if seed.is_multiple_of(2) {
            // Clocks that are right, and so alike.
            (skew, drift) = (0, 0);
        }
        let runtime = DeviceRuntime::new(time, rng.next(), skew, drift);
        let mut options = RemoteOptions::default();
        options.jitter = rng.next();
        let (view, faults) = bucket.objects.with_faults(rng.next(), FaultPlan::NONE, Some(&options));
        faults.share(&bucket.history);
        Ok(Device {
            n,
            folder,
            disk,
            runtime,
            replica: None,
            bucket: view,
            faults,
            bucket_faults: BTreeMap::new(),
            app_version: 1,
            off: false,
            gone: false,
            damaged: false,
            crash: (false, 1_000),
            was_troubled: false,
            running: 0,
            acks: Vec::new(),
            unsealed: Vec::new(),
            seen: None,
            published: BTreeMap::new(),
            kept: None,
            put_by: Vec::new(),
            drops_at_once: false,
            moves: false,
            went_back: None,
            encrypted: is_encrypted(seed),
            library,
            engine,
            shapes: None,
        })
    }

    /// Takes the key of the group, as somebody brings it who carries it by hand.
    pub(crate) fn take_key_of(&self, other: &Replica) -> Result<(), Error> {
        if self.encrypted {
            isle::import_keys(Some(self.folder.join("home")), &other.export_keys()?)?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("app.db")
    }

    /// The folder of the library.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    fn version(&self) -> Result<Version, Error> {
        Version::parse(&format!("{}.0.0", self.app_version)).ok_or(Error::Cancelled)
    }

    /// Starts the app. A file that is not there is made.
    pub(crate) fn open(&mut self) -> Result<(), Error> {
        let mut options = RemoteOptions::default();
        options.jitter = self.n as u64;
        let builder = Replica::builder(self.path())
            .home(self.folder.join("home"))
            .app("sim")
            .app_version(self.version()?)
            .runtime(Arc::clone(&self.runtime) as Arc<dyn isle_store::Runtime>)
            .page_cache_bytes(1 << 20)
            .checkpoint_pages(60)
            .remote_options(options)
            .engine(self.engine);
        let builder = match &self.library {
            Some(library) => builder.cr_sqlite(library.path()),
            None => builder,
        };
        let fresh = !self.path().exists();
        let replica = if fresh { builder.init()? } else { builder.open()? };
        if fresh {
            replica.rename_device(&format!("device {}", self.n))?;
        }
        replica.add_open_remote_of(BUCKET, self.bucket.clone(), !self.encrypted)?;
        self.replica = Some(replica);
        self.shapes = None;
        Ok(())
    }

    /// The replica, if the device is on.
    pub(crate) fn up(&self) -> Option<&Replica> {
        self.replica.as_ref().filter(|_| !self.off && !self.gone)
    }

    /// A connection that knows nothing of isle, but of cr-sqlite where that keeps the file.
    pub(crate) fn plain(&self) -> rusqlite::Result<Plain> {
        let conn = Plain(Connection::open(self.path())?);
        conn.busy_timeout(std::time::Duration::from_millis(1))?;
        conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA cache_size = -200")?;
        let kept = conn.query_row("SELECT 1 FROM isle_meta WHERE k = 'engine'", [], |_| Ok(())).is_ok();
        if let Some(library) = self.library.as_ref().filter(|_| kept) {
            library.load(&conn).map_err(|error| rusqlite::Error::UserFunctionError(Box::new(error)))?;
        }
        Ok(conn)
    }

    /// The tables that a writer finds.
    pub(crate) fn shapes(&mut self, conn: &Connection) -> Result<Vec<Shape>, String> {
        let version: i64 =
            conn.query_row("PRAGMA schema_version", [], |row| row.get(0)).map_err(|error| error.to_string())?;
        if let Some((known, shapes)) = &self.shapes
            && *known == version
        {
            return Ok(shapes.clone());
        }
        let Some(replica) = &self.replica else { return Ok(Vec::new()) };
        let found = shapes(conn, replica.store())?;
        self.shapes = Some((version, found.clone()));
        Ok(found)
    }

    /// Tells the bucket's view of this device what to do.
    pub(crate) fn plan_faults(&self) {
        let of = |fault| self.bucket_faults.get(&fault).copied().unwrap_or(0);
        self.faults.plan(FaultPlan {
            offline: of(BucketFault::Offline) > 0,
            error_before: of(BucketFault::Lost),
            error_after: of(BucketFault::Unheard),
            torn: of(BucketFault::Torn),
            throttle: of(BucketFault::Throttled),
            truncate: of(BucketFault::Cut),
            bit_flip: of(BucketFault::Flipped),
            rollback: of(BucketFault::Old),
            late_listing: of(BucketFault::Late),
            late_entries: 2,
            latency_ms: if of(BucketFault::Slow) > 0 { 60_000 } else { 200 },
            ..FaultPlan::NONE
        });
    }

    /// How often which fault of the bucket happened.
    pub(crate) fn bucket_count(&self) -> isle_blobs::testing::FaultCount {
        self.faults.count()
    }

    /// The version to remember for what was written under a site. A file that went back by hand counts its versions anew until it is noticed at the
    /// next sync: that others have one of this number says nothing then.
    pub(crate) fn ack_version(&self, site: SiteId, version: u64) -> u64 {
        if self.went_back == Some(site) { u64::MAX } else { version }
    }

    /// Whether a value shows; `None` where that cannot be read.
    fn looks(conn: &Connection, token: &Token) -> Option<bool> {
        let names = std::iter::once(token.column.as_str()).chain(renamed(&token.table, &token.column));
        for column in names {
            // With its table, or SQLite takes the name of a column that is not there for a text.
            let sql = format!("SELECT 1 FROM {0} WHERE {0}.{1} = ?1", quoted(&token.table), quoted(column));
            let there = conn.prepare_cached(&sql).and_then(|mut statement| statement.exists([&token.text]));
            match there {
                Ok(there) => return Some(there),
                // It does not compile: there is no such table or column.
                Err(rusqlite::Error::SqlInputError { .. }) => {}
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) => {}
                Err(_) => return None,
            }
        }
        // A table or a column that is not there has no value.
        Some(false)
    }

    /// Whether a value is seen to show: nothing else was acknowledged.
    pub(crate) fn shows(conn: &Connection, token: &Token) -> bool {
        Device::looks(conn, token) == Some(true)
    }

    /// Whether a value is seen to be gone: nothing else is forgotten.
    pub(crate) fn is_gone(conn: &Connection, token: &Token) -> bool {
        Device::looks(conn, token) == Some(false)
    }
}

/// A connection that lets go of cr-sqlite before it is closed.
pub(crate) struct Plain(Connection);

impl std::ops::Deref for Plain {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        isle_crsqlite::release(&self.0);
    }
}

/// cr-sqlite, as `ISLE_CR_SQLITE` names it: which file that is changes nothing of what happens.
fn library() -> std::io::Result<Library> {
    let missing = || {
        std::io::Error::other(
            "ISLE_CR_SQLITE has to name the extension of cr-sqlite: `scripts/fetch-cr-sqlite` installs it and says where",
        )
    };
    std::env::var_os("ISLE_CR_SQLITE").filter(|path| !path.is_empty()).map(Library::new).ok_or_else(missing)
}
