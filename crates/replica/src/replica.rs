//! The handle on a replica.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use isle_blobs::{Remote, RemoteOptions};
use isle_clock::SiteId;
use isle_store::{Changed, LogEntry, RemoteRow, Report, Runtime, Site, StateHash, Store};
use tokio::sync::broadcast;

use crate::auto::Auto;
use crate::builder::{Builder, file_id, real_path};
use crate::keystore::{Device, KeyStore, SiteRecord};
use crate::sync::{self, CheckReport, CompactOptions, CompactReport, Outcome, SyncOptions, SyncReport};
use crate::{Error, Queries, Transaction};

/// Notifications that a slow subscriber may fall behind by.
const NOTIFICATIONS_MAX: usize = 256;

/// What the clones of a handle share.
pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    /// The file's real path.
    pub(crate) path: PathBuf,
    home: Option<PathBuf>,
    /// Which file it is, whatever its path, and the process that opened it.
    file: Option<(u64, u64)>,
    pid: u32,
    pub(crate) remote_options: RemoteOptions,
    pub(crate) runtime: Arc<dyn Runtime>,
    changes: broadcast::Sender<Changed>,
    /// One sync of this process at a time: a head has one writer.
    pub(crate) syncing: tokio::sync::Mutex<()>,
    /// One snapshot at a time is taken in.
    pub(crate) staging: Arc<tokio::sync::Mutex<()>>,
    /// When this file last took a new site id because of what a peer said.
    pub(crate) renewed_ms: std::sync::atomic::AtomicU64,
    /// Remotes that tests and apps bring along opened.
    pub(crate) opened: std::sync::Mutex<Vec<(String, Remote)>>,
    /// The thread that syncs, while there is one.
    pub(crate) auto: std::sync::Mutex<std::sync::Weak<Auto>>,
    /// The device's key pair, once it was needed.
    pub(crate) secret: std::sync::OnceLock<isle_identity::DeviceSecret>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn new(
        store: Store,
        path: PathBuf,
        home: Option<PathBuf>,
        remote_options: RemoteOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Inner {
        let (changes, _) = broadcast::channel(NOTIFICATIONS_MAX);
        let sender = changes.clone();
        store.observe(move |changed| {
            // Nobody listens: that is no error.
            let _ = sender.send(changed);
        });
        let syncing = tokio::sync::Mutex::new(());
        let staging = Arc::default();
        let opened = std::sync::Mutex::default();
        let renewed_ms = std::sync::atomic::AtomicU64::default();
        let secret = std::sync::OnceLock::new();
        let auto = std::sync::Mutex::default();
        let store = Arc::new(store);
        let (file, pid) = (file_id(&path), std::process::id());
        Inner {
            store,
            path,
            home,
            file,
            pid,
            remote_options,
            runtime,
            changes,
            syncing,
            staging,
            renewed_ms,
            opened,
            auto,
            secret,
        }
    }

    /// Whether this process opened it, and its path still leads to the file that was opened.
    pub(crate) fn is_current(&self) -> bool {
        !self.is_inherited() && self.file == file_id(&self.path)
    }

    /// Whether it came by a fork. SQLite's connections do not outlive that.
    pub(crate) fn is_inherited(&self) -> bool {
        self.pid != std::process::id()
    }

    /// Whether this is the folder that it goes by.
    pub(crate) fn is_at_home(&self, home: &Path) -> bool {
        let own = self.home.clone().map_or_else(KeyStore::default_home, Ok);
        own.is_ok_and(|own| real_path(&own) == real_path(home))
    }

    /// Is told of every committed change of tracked tables in this process.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    pub(crate) fn key_store(&self) -> Result<KeyStore, Error> {
        KeyStore::open(match &self.home {
            Some(home) => home.clone(),
            None => KeyStore::default_home()?,
        })
    }

    pub(crate) fn device(&self) -> Result<Device, Error> {
        self.key_store()?.device(self.runtime.as_ref())
    }

    /// Takes a new site id of this device's, and records it outside the file as this file's; see [`Store::new_site`].
    pub(crate) fn new_site(&self, published: u64) -> Result<SiteId, Error> {
        let site = self.new_site_of(&self.store, published, true)?;
        self.record_outside(site, 0)?;
        Ok(site)
    }

    /// The same for a file that is not this one yet, and is not recorded. Unless its versions are known to be those that this device wrote (`same`), they are
    /// not signed: anybody may have made it.
    pub(crate) fn new_site_of(&self, store: &Store, published: u64, same: bool) -> Result<SiteId, Error> {
        let status = store.status()?;
        let kept = published.min(status.version);
        // What stays with the old one nobody can sign later; a restored file may lack the signature under which it went out.
        if same && kept > 0 && self.speaks_for(store, status.site)? {
            self.mark_signed_in(store, kept)?;
        }
        Ok(store.new_site(published, Some(self.device()?.key))?)
    }

    /// The same if the present one is retired, but by a revocation: a device that was put out does not come in again so. Nobody may be speaking under
    /// the present one meanwhile: the caller holds `syncing`.
    pub(crate) fn leave_retired_site(&self) -> Result<Option<SiteId>, Error> {
        let own = self.store.own_site()?;
        if self.store.retired()?.iter().all(|(site, _)| *site != own) {
            return Ok(None);
        }
        let key = self.device()?.key;
        if self.store.membership()?.is_revoked(&key) {
            return Ok(None);
        }
        let site = self.store.leave_retired_site(Some(key))?;
        if let Some(site) = site {
            tracing::warn!(old = %own, new = %site, "this replica was retired; it goes on under a new site id");
            self.record_outside(site, 0)?;
        }
        Ok(site)
    }

    /// Why this file may not be the one that last spoke under its site id; it takes a new one then, before it hands anything over.
    pub(crate) fn doubt_identity(&self) -> Result<Option<&'static str>, Error> {
        let status = self.store.status()?;
        match self.key_store()?.site(status.site)? {
            None => Ok(Some("this device has no record of it: the file came from elsewhere")),
            Some(_) if !self.speaks_for(&self.store, status.site)? => {
                Ok(Some("the device has another key than the one its site id was made with"))
            }
            Some(record) => {
                let doubt = self.doubt(&record, status.version, status.site)?;
                // A copy from before its versions went out, put back by hand, must not take them for its own secret and seal them anew.
                if doubt.is_none() && status.published < record.published {
                    self.mark_signed(record.published)?;
                }
                Ok(doubt)
            }
        }
    }

    /// Whether this device can prove that a file's site is its own.
    fn speaks_for(&self, store: &Store, site: SiteId) -> Result<bool, Error> {
        let (key, nonce) = (self.device()?.key, store.site_nonce()?);
        Ok(nonce.is_some_and(|nonce| isle_identity::site_id(&key, &nonce) == site))
    }

    /// Forgets a snapshot that was begun to be taken in and is of no use by now, unless somebody is at it.
    pub(crate) fn discard_needless_snapshot(&self) -> Result<(), Error> {
        match self.staging.try_lock() {
            Ok(_nobody_else) => Ok(self.store.discard_needless_snapshot()?),
            Err(_) => Ok(()),
        }
    }

    /// 32 random bytes, fit for keys.
    pub(crate) fn random_32(&self) -> [u8; 32] {
        random_32(self.runtime.as_ref())
    }

    fn doubt(&self, record: &SiteRecord, version: u64, site: SiteId) -> Result<Option<&'static str>, Error> {
        if record.path != self.path && real_path(&record.path) != self.path && is_site(&record.path, site) {
            return Ok(Some("another file has the same site id: this one is a copy"));
        }
        if record.published > version {
            return Ok(Some("the file is older than what was published from it: it was restored or rolled back"));
        }
        if record.published > 0 {
            let mine = unhex(&record.chain).map(|chain| self.store.wrote(record.published, chain)).transpose()?;
            if mine != Some(true) {
                return Ok(Some("what was published from this file is not what stands in it"));
            }
        }
        Ok(None)
    }

    /// Records that versions up to `version` may be known to others from now on: in the file, durably, and then outside it.
    pub(crate) fn record_published(&self, site: SiteId, version: u64) -> Result<(), Error> {
        self.mark_signed(version)?;
        self.record_outside(site, version)
    }

    /// Records the same outside the file alone.
    pub(crate) fn record_outside(&self, site: SiteId, version: u64) -> Result<(), Error> {
        let chain = if version == 0 { None } else { self.store.own_chain(version)? };
        let chain = chain.map_or_else(String::new, |chain| hex(&chain));
        self.key_store()?.put_site(site, &SiteRecord { path: self.path.clone(), published: version, chain })
    }
}

/// 32 random bytes, fit for keys.
pub(crate) fn random_32(runtime: &dyn Runtime) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&runtime.random());
    bytes[16..].copy_from_slice(&runtime.random());
    bytes
}

/// Whether the file at `path` is a replica with this site id.
fn is_site(path: &Path, site: SiteId) -> bool {
    if !path.exists() {
        return false;
    }
    let store = Store::open(isle_store::Options::new(path), Arc::new(crate::SystemRuntime));
    store.and_then(|store| store.status()).is_ok_and(|status| status.site == site)
}

impl SiteRecord {
    /// Whether its version has this hash.
    pub(crate) fn is_of(&self, chain: Option<isle_changeset::Hash>) -> bool {
        chain.is_some() && unhex(&self.chain) == chain
    }
}

/// The inverse of [`hex`] for a hash.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let digits = text.as_bytes().as_chunks::<2>();
    if digits.0.len() != hash.len() || !digits.1.is_empty() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(digits.0) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A replica: one SQLite file that syncs. Clones are cheap and share everything; all methods work from any thread.
#[derive(Debug, Clone)]
pub struct Replica {
    pub(crate) inner: Arc<Inner>,
    /// Keeps the thread that syncs, if this handle was asked for one.
    pub(crate) auto: Option<Arc<Auto>>,
}

/// A remote of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteInfo {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Whether what goes there is encrypted.
    pub encrypted: bool,
    /// When the last sync with it ended well, in milliseconds since 1970.
    pub last_sync_ms: Option<u64>,
    /// Why the last sync failed and when, in milliseconds since 1970; `None` if it did not.
    pub last_error: Option<(String, u64)>,
    /// What a bucket with versioning calls this replica's head there.
    pub head_version_id: Option<String>,
}

impl Replica {
    /// Settings for the replica in a file. `~/` is the user's home folder.
    pub fn builder(path: impl AsRef<Path>) -> Builder {
        Builder::new(path.as_ref())
    }

    /// Opens the replica in a file with the default settings.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Replica, Error> {
        Replica::builder(path).open()
    }

    /// Whether the path still leads to the file that was opened, and this process is the one that opened it; if not, open it again.
    pub fn is_current(&self) -> bool {
        self.inner.is_current()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Runs a write transaction: what it changes in tracked tables becomes one changeset with its commit. Blocks while another
    /// thread or process writes.
    ///
    /// # Errors
    /// What `f` gives, after everything was rolled back; or why the commit failed.
    pub fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.inner.store.write(|inner| f(&Transaction::new(inner)))
    }

    /// Runs queries. Each sees what was committed when it began, and never waits for a writer.
    ///
    /// # Errors
    /// What `f` gives.
    pub fn read<T>(&self, f: impl FnOnce(&Queries<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.inner.store.read(|conn| f(&Queries::new(conn)))
    }

    /// As [`Replica::read`], and all queries see one state of the file.
    ///
    /// # Errors
    /// What `f` gives.
    pub fn snapshot<T>(&self, f: impl FnOnce(&Queries<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.inner.store.snapshot(|conn| f(&Queries::new(conn)))
    }

    /// Tracks tables: from now on their changes travel. Rows that are there travel too, as a baseline that any real write beats.
    ///
    /// # Errors
    /// [`isle_store::StoreError::Untrackable`] with the reason; then no table of the list is tracked.
    pub fn track(&self, tables: &[&str]) -> Result<(), Error> {
        Ok(self.inner.store.track(tables)?)
    }

    /// Tracks every table that can be tracked; gives those that were, and the others with the reason why not.
    ///
    /// # Errors
    /// SQLite's reason.
    #[expect(clippy::type_complexity, reason = "two lists that their reader takes apart at once")]
    pub fn track_all(&self) -> Result<(Vec<String>, Vec<(String, Error)>), Error> {
        let (mut tracked, mut refused) = (self.inner.store.untracked()?, Vec::new());
        // Together, as one change of the schema: those that cannot be tracked step aside one by one.
        while !tracked.is_empty() {
            let names: Vec<&str> = tracked.iter().map(String::as_str).collect();
            match self.inner.store.track(&names) {
                Ok(()) => break,
                Err(error) => {
                    let at = match &error {
                        isle_store::StoreError::Untrackable { table, .. } => {
                            names.iter().position(|name| name == table)
                        }
                        _ => None,
                    };
                    let Some(at) = at else { return Err(error.into()) };
                    refused.push((tracked.remove(at), error.into()));
                }
            }
        }
        Ok((tracked, refused))
    }

    /// Stops tracking a table; its rows stay. Changes of others are kept and come when it is tracked again.
    ///
    /// # Errors
    /// [`isle_store::StoreError::NotTracked`].
    pub fn untrack(&self, table: &str) -> Result<(), Error> {
        Ok(self.inner.store.untrack(table)?)
    }

    /// Makes cr-sqlite keep the tables of this file, where it can hold them, or isle alone. What others see of them, and every stamp, stays as it
    /// is. Takes what the rows take.
    ///
    /// # Errors
    /// [`isle_store::StoreError::NeedsCrSqlite`] when [`Builder::cr_sqlite`](crate::Builder::cr_sqlite) names no extension,
    /// [`isle_store::StoreError::CrSqlite`] when it cannot be loaded.
    pub fn set_engine(&self, engine: isle_store::TableEngine) -> Result<(), Error> {
        Ok(self.inner.store.set_engine(engine)?)
    }

    /// The extension of cr-sqlite that this replica was opened with.
    pub fn cr_sqlite(&self) -> Option<&Path> {
        self.inner.store.options().cr_sqlite.as_deref()
    }

    /// What the file is for.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn engine(&self) -> Result<isle_store::TableEngine, Error> {
        Ok(self.inner.store.engine()?)
    }

    /// What keeps each tracked table, and why not cr-sqlite where the file is for that.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn table_engines(&self) -> Result<Vec<isle_store::TableEngineOf>, Error> {
        Ok(self.inner.store.table_engines()?)
    }

    /// Makes a plain database of the file again: every table, trigger and fact of isle's is removed. Other handles on the
    /// file fail from then on.
    ///
    /// # Errors
    /// SQLite's reason; then nothing was removed.
    pub fn detach(self) -> Result<(), Error> {
        let options = self.inner.store.options().clone();
        let store = Store::open(options, Arc::clone(&self.inner.runtime))?;
        drop(self);
        Ok(store.detach()?)
    }

    /// Closes the file if this is the last handle on it, after the thread that syncs it has ended: its write-ahead log is written back, and
    /// nothing is left beside it. False if other handles keep it open. Dropping does the same and cannot say what failed.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn close(self) -> Result<bool, Error> {
        drop(self.auto);
        let store = Arc::try_unwrap(self.inner).ok().and_then(|inner| Arc::try_unwrap(inner.store).ok());
        store.map_or(Ok(false), |store| Ok(store.close().map(|()| true)?))
    }

    /// Gives the device another name, for people.
    ///
    /// # Errors
    /// [`Error::InvalidName`], or the key store's reason.
    pub fn rename_device(&self, name: &str) -> Result<Device, Error> {
        crate::names::check("a device's name", name)?;
        let device = self.inner.key_store()?.rename_device(&self.inner.device()?, name)?;
        crate::direct::rename(&self.inner, &device)?;
        Ok(device)
    }

    /// Adds a remote: a folder, or `s3://bucket/prefix`. Checks the address, not whether it can be reached. A folder that is not
    /// there is made, and only here: when it is gone later, a sync says so and makes nothing.
    ///
    /// What goes there is encrypted with the group's key. The first sync with a remote that is empty makes that key if this device has none;
    /// the other devices get it with a ticket ([`Replica::invite`]) or by [`Replica::export_keys`] and [`import_keys`](crate::import_keys).
    ///
    /// # Errors
    /// [`Error::RemoteExists`], [`Error::InvalidName`], or why the address is refused.
    pub fn add_remote(&self, name: &str, url: &str) -> Result<(), Error> {
        self.add_remote_of(name, url, false)
    }

    /// As [`Replica::add_remote`], for a remote that is not encrypted: whoever can read it can read the data.
    ///
    /// # Errors
    /// As [`Replica::add_remote`].
    pub fn add_plain_remote(&self, name: &str, url: &str) -> Result<(), Error> {
        self.add_remote_of(name, url, true)
    }

    fn add_remote_of(&self, name: &str, url: &str, plain: bool) -> Result<(), Error> {
        crate::names::check("a remote's name", name)?;
        if let Some(known) = self.inner.store.remotes()?.into_iter().find(|remote| remote.name == name) {
            return Err(Error::RemoteExists { name: name.to_owned(), url: known.url });
        }
        Remote::create(url, &self.inner.remote_options)
            .map_err(|source| Error::Remote { name: name.to_owned(), source })?;
        self.library().forget_remote(name)?;
        if plain {
            self.inner.key_store()?.trust_plain(url)?;
        }
        Ok(self.inner.store.put_remote(&RemoteRow {
            name: name.to_owned(),
            url: url.to_owned(),
            plain,
            state: None,
        })?)
    }

    /// This device: its key, and what it is called.
    ///
    /// # Errors
    /// The key store's.
    pub fn device(&self) -> Result<Device, Error> {
        self.inner.device()
    }

    /// What lies below, for tests and simulations: none of its promises is this crate's.
    #[doc(hidden)]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Adds a remote that is open already, and not encrypted.
    #[doc(hidden)]
    pub fn add_open_remote(&self, name: &str, remote: Remote) -> Result<(), Error> {
        self.add_open_remote_of(name, remote, true)
    }

    /// Adds a remote that is open already.
    #[doc(hidden)]
    pub fn add_open_remote_of(&self, name: &str, remote: Remote, plain: bool) -> Result<(), Error> {
        let row = RemoteRow { name: name.to_owned(), url: remote.place().to_owned(), plain, state: None };
        let same = |known: &RemoteRow| known.name == row.name && known.url == row.url && known.plain == plain;
        if !self.inner.store.remotes()?.iter().any(same) {
            self.inner.store.put_remote(&row)?;
        }
        let mut opened = self.inner.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        opened.retain(|(known, _)| known != name);
        opened.push((name.to_owned(), remote));
        Ok(())
    }

    /// Removes a remote. What it holds stays there.
    ///
    /// # Errors
    /// [`Error::NoSuchRemote`].
    pub fn remove_remote(&self, name: &str) -> Result<(), Error> {
        if self.inner.store.remove_remote(name)? {
            return Ok(());
        }
        Err(Error::NoSuchRemote { name: name.to_owned() })
    }

    /// The remotes, by name.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn remotes(&self) -> Result<Vec<RemoteInfo>, Error> {
        let remotes = self.inner.store.remotes()?.into_iter().map(|row| {
            let sync::RemoteState { last_sync_ms, last_error, head_version_id, .. } = sync::RemoteState::read(&row);
            RemoteInfo {
                name: row.name,
                url: row.url,
                encrypted: !row.plain,
                last_sync_ms,
                last_error,
                head_version_id,
            }
        });
        Ok(remotes.collect())
    }

    /// Whether [`Builder::open_synced`](crate::Builder::open_synced) syncs. A setting of this device; off at first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn sync_at_open(&self) -> Result<bool, Error> {
        Ok(self.inner.store.sync_at_open()?)
    }

    /// Sets [`Replica::sync_at_open`].
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn set_sync_at_open(&self, on: bool) -> Result<(), Error> {
        Ok(self.inner.store.set_sync_at_open(on)?)
    }

    /// Exchanges changes with every remote, one after the other; gives a report for each. One that fails does not keep the others
    /// from it.
    ///
    /// # Errors
    /// [`Error::NoRemote`]; the failure of the only remote; [`Error::Remotes`] with what each did if one of several failed. What
    /// arrived stays.
    pub async fn sync(&self) -> Result<Vec<SyncReport>, Error> {
        self.sync_with(&SyncOptions::default()).await
    }

    /// As [`Replica::sync`], with options.
    ///
    /// # Errors
    /// As [`Replica::sync`].
    pub async fn sync_with(&self, options: &SyncOptions) -> Result<Vec<SyncReport>, Error> {
        let mut outcomes = self.sync_each(options).await?;
        if outcomes.len() == 1 {
            return outcomes.remove(0).result.map(|report| vec![report]);
        }
        let (mut reports, mut failed) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            match outcome.result {
                Ok(report) => reports.push(report),
                Err(error) => failed.push((outcome.remote, error)),
            }
        }
        if failed.is_empty() { Ok(reports) } else { Err(Error::Remotes { reports, failed }) }
    }

    /// As [`Replica::sync_with`]; tells for each remote what came of it.
    ///
    /// # Errors
    /// [`Error::NoRemote`], [`Error::NoSuchRemote`].
    pub async fn sync_each(&self, options: &SyncOptions) -> Result<Vec<Outcome>, Error> {
        let found = sync::run(&self.inner, options).await;
        let peers = crate::direct::sync_known(&self.inner, options.remote.as_deref());
        match found {
            Ok(mut outcomes) => {
                if options.direction == sync::Direction::Both && options.remote.is_none() {
                    match peers.await {
                        Ok(peers) => outcomes.extend(peers),
                        // Whoever was put out by the others may go on with a remote.
                        Err(error @ Error::NotMember { .. }) => tracing::warn!(%error, "peers are not synced with"),
                        Err(error) => return Err(error),
                    }
                }
                Ok(outcomes)
            }
            // There may be devices to sync with directly.
            Err(error @ (Error::NoRemote | Error::NoSuchRemote { .. }))
                if options.direction == sync::Direction::Both =>
            {
                let outcomes = peers.await?;
                if outcomes.is_empty() { Err(error) } else { Ok(outcomes) }
            }
            Err(error) => Err(error),
        }
    }

    /// Exchanges changes with every device of the group whose address is known, directly and at the same time; tells for each what came of
    /// it. A device that is off gives an [`Error::Peer`].
    ///
    /// # Errors
    /// [`Error::NotMember`] if this device was put out of the group; SQLite's reason, or the key store's.
    pub async fn sync_peers(&self) -> Result<Vec<Outcome>, Error> {
        crate::direct::sync_known(&self.inner, None).await
    }

    /// Whether there is a device to sync with directly: one whose address is known.
    ///
    /// # Errors
    /// SQLite's reason, or the key store's.
    pub fn has_peers(&self) -> Result<bool, Error> {
        Ok(self.peers()?.iter().any(|peer| !peer.own && !peer.addresses.is_empty()))
    }

    /// What a sync would do, without changing anything here or there.
    ///
    /// # Errors
    /// [`Error::NoRemote`], [`Error::NoSuchRemote`], or the first failure of a remote; ask for one at a time to hear of each.
    pub async fn check_remotes(&self, options: &SyncOptions) -> Result<Vec<CheckReport>, Error> {
        sync::check(&self.inner, options).await
    }

    /// Throws away what nobody needs any more: after a sync with every remote, a snapshot takes the place of this replica's
    /// segments there, old changesets leave the log here, and tombstones go that every replica has seen.
    ///
    /// # Errors
    /// As [`Replica::sync`], and [`isle_store::StoreError::TablesAway`].
    pub async fn compact(&self, options: &CompactOptions) -> Result<CompactReport, Error> {
        sync::compact(&self.inner, options).await
    }

    /// Declares that a replica does not come back: nobody waits any more for what it acknowledges, and what nobody has
    /// merged of it yet does not count. If it does come back, it goes on under a new site id and sends its unsent changes anew.
    ///
    /// # Errors
    /// [`Error::NoSuchSite`] when no replica but this one has this id or name, or more than one has.
    pub fn retire(&self, site: &str) -> Result<SiteId, Error> {
        let status = self.inner.store.status()?;
        let wanted = |known: &&Site| {
            let id = known.id.to_string();
            !known.own && (known.name.as_deref() == Some(site) || (site.len() >= 4 && id.starts_with(site)))
        };
        let found: Vec<&Site> = status.sites.iter().filter(wanted).collect();
        let [found] = found[..] else {
            return Err(Error::NoSuchSite { site: site.to_owned(), found: found.len() });
        };
        self.inner.store.retire(&[(found.id, found.version)])?;
        Ok(found.id)
    }

    /// Is told of every committed change of tracked tables in this process. A subscriber that falls more than 256 changes behind
    /// learns that it did.
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.inner.subscribe()
    }

    /// Records what other clients wrote since the last touch. Every write and sync does it first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn seal(&self) -> Result<(), Error> {
        Ok(self.inner.store.seal()?)
    }

    /// Hashes the state: equal on replicas that have merged the same changes.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn state_hash(&self) -> Result<StateHash, Error> {
        Ok(self.inner.store.state_hash()?)
    }

    /// The newest changesets, newest first.
    ///
    /// # Errors
    /// SQLite's reason.
    pub fn log(&self, limit: usize) -> Result<Vec<LogEntry>, Error> {
        Ok(self.inner.store.log(limit)?)
    }

    /// Looks for damage in the file and in isle's bookkeeping.
    ///
    /// # Errors
    /// SQLite's reason, where the file cannot even be read.
    pub fn check(&self) -> Result<Report, Error> {
        Ok(self.inner.store.check()?)
    }
}
