//! How a replica is opened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use isle_blobs::RemoteOptions;
use isle_schema::Version;
use isle_store::{Init, Options, Runtime, Store, StoreError, TableEngine};

use crate::keystore::{KeyStore, SiteRecord};
use crate::replica::{Inner, Replica};
use crate::{AutoSync, Error, Outcome, Peers, SyncOptions, SystemRuntime};

/// Replicas that are open in this process, by the real path of their file: one file, one handle.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Inner>>>> = LazyLock::new(Mutex::default);

/// Settings of a replica; made by [`Replica::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    path: PathBuf,
    app: String,
    home: Option<PathBuf>,
    app_version: Option<Version>,
    busy_timeout: Duration,
    drift: Option<Duration>,
    page_cache_bytes: Option<u64>,
    checkpoint_pages: Option<u32>,
    cr_sqlite: Option<PathBuf>,
    engine: TableEngine,
    remote_options: RemoteOptions,
    pub(crate) remotes: Vec<(String, String)>,
    pub(crate) peers: Option<Peers>,
    pub(crate) auto: Option<AutoSync>,
    runtime: Arc<dyn Runtime>,
}

impl Builder {
    pub(crate) fn new(path: &Path) -> Builder {
        Builder {
            path: expand_home(path),
            app: "default".to_owned(),
            home: None,
            app_version: None,
            busy_timeout: Duration::from_secs(30),
            drift: None,
            page_cache_bytes: None,
            checkpoint_pages: None,
            cr_sqlite: None,
            engine: TableEngine::Native,
            remote_options: RemoteOptions::default(),
            remotes: Vec::new(),
            peers: None,
            auto: None,
            runtime: Arc::new(SystemRuntime),
        }
    }

    /// The app whose schema the file holds. Replicas of one group have one app. Default: `default`. Only a new replica reads it.
    #[must_use]
    pub fn app(mut self, app: impl Into<String>) -> Builder {
        self.app = app.into();
        self
    }

    /// The version of the app. Changes of the schema that ask for a later one (`-- @requires 2.0.0`) wait until the file is opened with
    /// such a version: everything else is merged, and passed on. An app that is too old for what is in the file already can read
    /// it, and its writes fail with [`StoreError::SchemaTooNew`]. Remembered in the file, for other programs that sync it. Without it, nothing
    /// waits.
    #[must_use]
    pub fn app_version(mut self, version: Version) -> Builder {
        self.app_version = Some(version);
        self
    }

    /// The folder that tells devices apart. Default: `ISLE_HOME`, else `isle` in the user's data folder. Two replicas in
    /// one test on one machine want two.
    #[must_use]
    pub fn home(mut self, home: impl Into<PathBuf>) -> Builder {
        self.home = Some(home.into());
        self
    }

    /// How long a write waits for another process. Default: 30 s.
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Builder {
        self.busy_timeout = timeout;
        self
    }

    /// How far ahead of this device's clock a change may be before it is held back. Default: 5 min.
    #[must_use]
    pub fn drift(mut self, bound: Duration) -> Builder {
        self.drift = Some(bound);
        self
    }

    /// The page cache of each connection that writes; there are two at most. Default: 16 MiB.
    #[must_use]
    pub fn page_cache_bytes(mut self, bytes: u64) -> Builder {
        self.page_cache_bytes = Some(bytes);
        self
    }

    /// Pages of the write-ahead log after which a commit writes it back into the file; 0 = never. Default: 4,000.
    #[must_use]
    pub fn checkpoint_pages(mut self, pages: u32) -> Builder {
        self.checkpoint_pages = Some(pages);
        self
    }

    /// The built extension of cr-sqlite 0.17, for files that it keeps. Default: `ISLE_CR_SQLITE`; an empty path is none, whatever that names. It is
    /// native code that runs in this process. Needs the feature `cr-sqlite` of this crate.
    #[must_use]
    pub fn cr_sqlite(mut self, library: impl Into<PathBuf>) -> Builder {
        self.cr_sqlite = Some(library.into());
        self
    }

    /// What keeps the tables of a file that [`Builder::init`] makes a replica of; one that is a replica already stays as it is
    /// ([`Replica::set_engine`]). With [`TableEngine::CrSqlite`] tables that are CRRs already keep what cr-sqlite's clocks say of them.
    /// Default: [`TableEngine::Native`].
    #[must_use]
    pub fn engine(mut self, engine: TableEngine) -> Builder {
        self.engine = engine;
        self
    }

    /// Endpoint, credentials, timeouts and retries of remotes.
    #[must_use]
    pub fn remote_options(mut self, options: RemoteOptions) -> Builder {
        self.remote_options = options;
        self
    }

    /// Where time and randomness come from. Default: the operating system.
    #[must_use]
    pub fn runtime(mut self, runtime: Arc<dyn Runtime>) -> Builder {
        self.runtime = runtime;
        self
    }

    /// Opens a replica. In one process the same file gives the same handle.
    ///
    /// # Errors
    /// [`isle_store::StoreError::NotReplica`] when the file is none; [`Error::OtherHome`].
    pub fn open(self) -> Result<Replica, Error> {
        let replica = self.shared(|builder| Ok(Store::open(builder.options(), Arc::clone(&builder.runtime))?))?;
        self.begin(replica)
    }

    /// Opens a replica and, if [`Replica::sync_at_open`] is on, syncs it once with every remote and every device whose address is known; beyond that see
    /// [`Builder::auto_sync`]. One that fails, because the
    /// device is offline say, does not keep the replica from being opened: the outcomes tell.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub async fn open_synced(self) -> Result<(Replica, Vec<Outcome>), Error> {
        let replica = self.open()?;
        if !replica.sync_at_open()? || (replica.remotes()?.is_empty() && !replica.has_peers()?) {
            return Ok((replica, Vec::new()));
        }
        let outcomes = replica.sync_each(&SyncOptions::default()).await?;
        Ok((replica, outcomes))
    }

    /// Makes a replica of a new or an existing SQLite file, or opens one that is a replica already. No table is tracked yet.
    ///
    /// # Errors
    /// When the file is no SQLite database or cannot be written; [`Error::InvalidName`] for the app's name.
    pub fn init(self) -> Result<Replica, Error> {
        crate::names::check("an app's name", &self.app)?;
        let replica = self.shared(|builder| {
            let owner = builder.key_store()?.secret(builder.runtime.as_ref())?.key();
            let init = Init { app: builder.app.clone(), owner: Some(owner) };
            let before = Store::open(builder.options(), Arc::clone(&builder.runtime));
            // One that is busy, say, is a replica all the same, and what is recorded of it stays.
            let fresh = !builder.path.exists() || matches!(before, Err(StoreError::NotReplica { .. }));
            drop(before);
            if fresh && builder.engine == TableEngine::CrSqlite {
                // Before the file is touched.
                isle_store::try_cr_sqlite(&builder.options())?;
            }
            let store = Store::init(builder.options(), Arc::clone(&builder.runtime), &init)?;
            if fresh {
                if builder.engine == TableEngine::CrSqlite {
                    store.set_engine(TableEngine::CrSqlite)?;
                }
                let site = store.status()?.site;
                let path = real_path(&builder.path);
                builder.key_store()?.put_site(site, &SiteRecord { path, published: 0, chain: String::new() })?;
            }
            Ok(store)
        })?;
        self.begin(replica)
    }

    /// The database's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn options(&self) -> Options {
        let mut options = Options::new(&self.path);
        options.busy_timeout = self.busy_timeout;
        options.drift = self.drift.unwrap_or(options.drift);
        options.page_cache_bytes = self.page_cache_bytes.unwrap_or(options.page_cache_bytes);
        options.checkpoint_pages = self.checkpoint_pages.unwrap_or(options.checkpoint_pages);
        let default = || std::env::var_os("ISLE_CR_SQLITE").map(PathBuf::from);
        options.cr_sqlite = self.cr_sqlite.clone().or_else(default).filter(|path| !path.as_os_str().is_empty());
        options
    }

    fn key_store(&self) -> Result<KeyStore, Error> {
        KeyStore::open(match &self.home {
            Some(home) => home.clone(),
            None => KeyStore::default_home()?,
        })
    }

    fn shared(&self, open: impl FnOnce(&Builder) -> Result<Store, Error>) -> Result<Replica, Error> {
        let mut replicas = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that is not there yet has no real path; it gets one by being made.
        if let Some(inner) = replicas.get(&real_path(&self.path)).and_then(Weak::upgrade) {
            match inner.is_current() {
                true if self.home.as_ref().is_some_and(|home| !inner.is_at_home(home)) => {
                    return Err(Error::OtherHome { path: inner.path.clone() });
                }
                true => return Ok(Replica { inner, auto: None }),
                // It belongs to the process that this one was forked from: not even its end is this one's to bring about.
                false if inner.is_inherited() => std::mem::forget(inner),
                // Another file stands there now.
                false => {}
            }
        }
        let store = open(self)?;
        if let Some(version) = &self.app_version {
            store.set_app_version(version)?;
        }
        let path = real_path(&self.path);
        let mut remote_options = self.remote_options.clone();
        let random = self.runtime.random();
        remote_options.jitter ^= random.iter().fold(0u64, |all, byte| all.rotate_left(8) ^ u64::from(*byte));
        let inner =
            Arc::new(Inner::new(store, path.clone(), self.home.clone(), remote_options, Arc::clone(&self.runtime)));
        replicas.retain(|_, inner| inner.strong_count() > 0);
        replicas.insert(path, Arc::downgrade(&inner));
        Ok(Replica { inner, auto: None })
    }
}

/// What tells a file from every other one that may come to have its path.
#[cfg(unix)]
pub(crate) fn file_id(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

/// Elsewhere a file that is open cannot be taken away.
#[cfg(not(unix))]
pub(crate) fn file_id(_: &Path) -> Option<(u64, u64)> {
    None
}

/// The path without links, if the file is there.
pub(crate) fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// `~/x` as the shell reads it.
fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), etcetera::home_dir()) {
        (Ok(rest), Ok(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}
