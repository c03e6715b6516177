//! The handle on a remote.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isle_clock::SiteId;
use isle_identity::SealError;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;

use crate::address::{self, Address};
use crate::codec::FormatError;
use crate::error::RemoteError;
use crate::group::{GROUP_BYTES_MAX, GroupObject};
use crate::head::{HEAD_BYTES_READ_MAX, Head, SegmentRef};
use crate::keys::{self, Prefix};
use crate::options::RemoteOptions;
use crate::profile::Surroundings;
use crate::request::{
    Counters, Failure, FailureKind, Fetched, Limits, Medium, Placed, PutTags, Requests, Secrets, Traffic,
};
use crate::sealing::Sealing;
use crate::segment::{SEGMENT_BYTES_MAX, Segment};
use crate::snapshot::{PART_BYTES_MAX, PartRef, SnapshotName};

/// The most objects below `head/` that are listed.
pub const HEADS_MAX: usize = 65_536;
/// The most objects of one site that are looked through for what nobody names.
const SWEEP_MAX: usize = 1 << 20;
/// An object that fails its check is read once more before it is called damaged.
const READS_MAX: u32 = 2;
/// The pause after which a folder's file system should tell two writes apart; doubled up to 12 times (2 s, for FAT).
const TICK: Duration = Duration::from_millis(1);
const TICKS_MAX: u32 = 12;

/// A bucket, a folder or memory that holds a group's objects. Clones share one client and one count of traffic.
///
/// The methods want a tokio runtime with time (and for buckets I/O) enabled. Dropping a future gives up waiting; a put
/// that was under way may still take effect.
#[derive(Clone)]
pub struct Remote {
    pub(crate) inner: Arc<Inner>,
    pub(crate) sealing: Option<Arc<Sealing>>,
}

pub(crate) struct Inner {
    pub(crate) requests: Requests,
    pub(crate) prefix: Prefix,
    /// For people: no credentials in it.
    place: String,
    /// The folder of [`Medium::Folder`].
    folder: Option<std::path::PathBuf>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client shows an access key id.
        f.debug_struct("Remote").field("place", &self.inner.place).finish_non_exhaustive()
    }
}

/// A head as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadRef {
    /// Whose head it is.
    pub site: SiteId,
    /// Changes whenever the head does; absent when the store has none.
    pub etag: Option<String>,
    /// Its size in bytes.
    pub size: u64,
    /// When the store says it was put, in milliseconds since 1970. For people: nobody's clock decides anything.
    pub modified_ms: u64,
}

/// What a conditional read of a head found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadRead {
    /// The site has no head here.
    Absent,
    /// The head still has the ETag that was given.
    Unchanged,
    /// The head and its ETag.
    Changed(Box<Head>, Option<String>),
}

impl Remote {
    /// Opens a remote: a folder (a path or `file://`), `s3://bucket/prefix` (with `?endpoint=` and `?region=` if need be), or
    /// `memory:`, which begins empty. Nothing is sent and nothing is made: a folder that is not there may be a disk that is
    /// not mounted, and what went into its mount point would be lost to everybody.
    ///
    /// # Errors
    /// [`RemoteError::Address`], [`RemoteError::Config`], [`RemoteError::InsecureHttp`] and
    /// [`RemoteError::NoCredentials`] for what cannot be used; [`RemoteError::NoFolder`] for a folder that is not there.
    pub fn open(url: &str, options: &RemoteOptions) -> Result<Remote, RemoteError> {
        match Address::parse(url)? {
            Address::Memory => Ok(Remote::in_memory()),
            Address::Folder(path) => Remote::folder(&path, options),
            Address::Bucket { bucket, prefix, endpoint, region } => {
                let traffic = Arc::default();
                let around = Surroundings::of_process();
                let asked = (endpoint, region);
                let bucket = address::open_bucket(&bucket, &prefix, asked, options, &around, &traffic)?;
                let medium = Medium::Bucket;
                let (store, secrets, options) = (bucket.store, bucket.secrets, Limits::from(options));
                let requests = Requests { store, medium, options, traffic, secrets };
                let inner = Inner { requests, prefix, place: bucket.place, folder: None };
                Ok(Remote { inner: Arc::new(inner), sealing: None })
            }
        }
    }

    /// As [`Remote::open`], and makes the folder, durably, if it is not there.
    ///
    /// # Errors
    /// As [`Remote::open`]; [`RemoteError::Denied`] and [`RemoteError::Storage`] for a folder that cannot be made.
    pub fn create(url: &str, options: &RemoteOptions) -> Result<Remote, RemoteError> {
        if let Address::Folder(path) = Address::parse(url)? {
            address::create_folder(&path)?;
        }
        Remote::open(url, options)
    }

    /// An empty remote that lives as long as its clones.
    pub fn in_memory() -> Remote {
        let store = Arc::new(InMemory::new());
        Remote::over(store, Medium::Memory, &RemoteOptions::default(), "memory:".to_owned(), None)
    }

    fn folder(path: &std::path::Path, options: &RemoteOptions) -> Result<Remote, RemoteError> {
        let path = address::find_folder(path)?;
        let place = path.display().to_string();
        let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| RemoteError::Config {
            place: place.clone(),
            problem: format!("the folder cannot be opened: {error}"),
        })?;
        Ok(Remote::over(
            Arc::new(store.with_fsync(true).with_automatic_cleanup(true)),
            Medium::Folder,
            options,
            place,
            Some(path),
        ))
    }

    fn over(
        store: Arc<dyn ObjectStore>,
        medium: Medium,
        options: &RemoteOptions,
        place: String,
        folder: Option<std::path::PathBuf>,
    ) -> Remote {
        let (options, traffic, secrets) = (Limits::from(options), Arc::<Counters>::default(), Secrets::default());
        let requests = Requests { store, medium, options, traffic, secrets };
        Remote { inner: Arc::new(Inner { requests, prefix: Prefix::default(), place, folder }), sealing: None }
    }

    /// The same objects seen through another store, with counters of its own.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn through(
        &self,
        options: Option<&RemoteOptions>,
        wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Remote {
        let requests = &self.inner.requests;
        let requests = Requests {
            store: wrap(Arc::clone(&requests.store)),
            medium: requests.medium,
            options: options.map_or_else(|| requests.options.clone(), Limits::from),
            traffic: if requests.medium == Medium::Bucket { Arc::clone(&requests.traffic) } else { Arc::default() },
            secrets: requests.secrets.clone(),
        };
        let (prefix, place, folder) = (self.inner.prefix.clone(), self.inner.place.clone(), self.inner.folder.clone());
        Remote { inner: Arc::new(Inner { requests, prefix, place, folder }), sealing: self.sealing.clone() }
    }

    /// The store itself and a key below the prefix.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn raw(&self, key: &str) -> (&dyn ObjectStore, Path) {
        (self.inner.requests.store.as_ref(), self.inner.prefix.key(key))
    }

    /// The bucket with its endpoint, or the folder: for people.
    pub fn place(&self) -> &str {
        &self.inner.place
    }

    /// What went over the wire since this remote was opened.
    pub fn traffic(&self) -> Traffic {
        self.inner.requests.traffic.read()
    }

    /// The group of this remote; `None` for an empty prefix. What of it is sealed is left out where this remote was not given the keys.
    ///
    /// # Errors
    /// [`RemoteError::NotARemote`] when something else has this key, [`RemoteError::NewerFormat`] when a later release
    /// made the remote, and those of any request.
    pub async fn group(&self) -> Result<Option<GroupObject>, RemoteError> {
        let key = self.inner.prefix.group();
        let decode = |bytes: &[u8]| self.open_group(GroupObject::decode(bytes)?);
        let found = self.read(&key, GROUP_BYTES_MAX, None, decode).await;
        match found {
            Ok((group, _)) => Ok(Some(group)),
            Err(RemoteError::Missing { .. }) => {
                self.check_folder()?;
                Ok(None)
            }
            // Whatever is larger than any group object is none.
            Err(RemoteError::TooLarge { place, key, .. }) => Err(RemoteError::NotARemote { place, key }),
            Err(error) => Err(error),
        }
    }

    /// Makes this prefix a remote of the group, unless it is one already. Returns the group that stands there
    /// afterwards, which is that of whoever was first.
    ///
    /// On a store that ignores conditions two creators may each read their own object before the later put wins:
    /// compare the group again at the next session, as is needed anyway when a prefix was replaced.
    ///
    /// # Errors
    /// As [`Remote::group`], and [`RemoteError::Unwritable`] for a group object beyond its bounds.
    pub async fn create_group(&self, group: &GroupObject) -> Result<GroupObject, RemoteError> {
        let key = self.inner.prefix.group();
        let sealed = self.seal_group(group).map_err(|source| self.unwritable(&key, source))?;
        let bytes = sealed.encode().map_err(|source| self.unwritable(&key, source))?;
        if let Some(standing) = self.group().await? {
            return Ok(standing);
        }
        self.inner.requests.put_new(&key, &bytes, true).await.map_err(|failure| self.failed(failure, &key))?;
        self.group().await?.ok_or_else(|| RemoteError::Missing { place: self.place().to_owned(), key: key.to_string() })
    }

    /// All heads, in the order of their sites: one LIST and its further pages. Strangers below `head/` are skipped.
    ///
    /// # Errors
    /// [`RemoteError::NoFolder`] for a folder that is gone, and those of any request.
    pub async fn list_heads(&self) -> Result<Vec<HeadRef>, RemoteError> {
        let folder = self.inner.prefix.heads();
        let listed = self.inner.requests.list(&folder, HEADS_MAX).await;
        let listed = listed.map_err(|failure| self.failed(failure, &folder))?;
        if listed.is_empty() {
            self.check_folder()?;
        }
        let mut heads = Vec::with_capacity(listed.len());
        for meta in listed {
            let direct = meta.location.parts_count() == folder.parts_count() + 1;
            let site = meta.location.filename().filter(|_| direct).and_then(keys::site_of_head);
            let Some(site) = site else {
                tracing::warn!(place = self.place(), key = %meta.location, "an object that is no head is ignored");
                continue;
            };
            let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
            heads.push(HeadRef { site, etag: meta.e_tag, size: meta.size, modified_ms });
        }
        heads.sort_by_key(|head| head.site);
        heads.dedup_by_key(|head| head.site);
        Ok(heads)
    }

    /// The head of a site and its ETag; `None` when it has none here.
    ///
    /// # Errors
    /// [`RemoteError::Corrupt`], [`RemoteError::NewerFormat`], [`RemoteError::TooLarge`], and those of any request.
    pub async fn get_head(&self, site: SiteId) -> Result<Option<(Head, Option<String>)>, RemoteError> {
        match self.get_head_unless(site, None).await? {
            HeadRead::Changed(head, etag) => Ok(Some((*head, etag))),
            HeadRead::Absent | HeadRead::Unchanged => Ok(None),
        }
    }

    /// The head of a site, unless it still has this ETag: one conditional GET.
    ///
    /// # Errors
    /// As [`Remote::get_head`].
    pub async fn get_head_unless(&self, site: SiteId, etag: Option<&str>) -> Result<HeadRead, RemoteError> {
        let key = self.inner.prefix.head(site);
        let place = keys::head_place(site);
        let decode = |bytes: &[u8]| {
            let mut head = Head::decode(&self.opened("head", &place, bytes)?)?;
            head.sealed_with = self.key_of(bytes);
            if head.site == site {
                return Ok(head);
            }
            Err(FormatError::Malformed { object: "head", problem: "it is that of another site" })
        };
        match self.read_unless(&key, self.with_seal(HEAD_BYTES_READ_MAX), etag, decode).await {
            Ok(Some((head, etag))) => Ok(HeadRead::Changed(Box::new(head), etag)),
            Ok(None) => Ok(HeadRead::Unchanged),
            Err(RemoteError::Missing { .. }) => {
                self.check_folder()?;
                Ok(HeadRead::Absent)
            }
            Err(error) => Err(error),
        }
    }

    /// Publishes a head: only the site itself may. Returns the ETag under which listings show it and the version
    /// that the store gave it, where it has such.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`] for a head beyond [`HEAD_BYTES_MAX`](crate::HEAD_BYTES_MAX),
    /// [`RemoteError::Unwritable`] for one that breaks the format, and those of any request; after those the
    /// old or the new head stands.
    pub async fn put_head(&self, head: &Head) -> Result<PutTags, RemoteError> {
        let key = self.inner.prefix.head(head.site);
        let bytes = head.encode().and_then(|bytes| self.sealed_bytes("head", &keys::head_place(head.site), bytes));
        let bytes = bytes.map_err(|source| self.unwritable(&key, source))?;
        self.check_folder()?;
        let put = match self.inner.requests.medium {
            Medium::Folder => self.put_with_fresh_time(&key, &bytes).await,
            Medium::Memory | Medium::Bucket => self.inner.requests.put(&key, &bytes).await,
        };
        put.map_err(|failure| self.failed(failure, &key))
    }

    /// In a folder the ETag is made of inode, time and size. Two quick puts may share the time, and the inode of the one
    /// before the last is given out again; so a put that shares the time of its predecessor is repeated.
    async fn put_with_fresh_time(&self, key: &Path, bytes: &Bytes) -> Result<PutTags, Failure> {
        let requests = &self.inner.requests;
        let before = self.time(key).await?;
        let mut tags = requests.put(key, bytes).await?;
        for tick in 0..TICKS_MAX {
            if before.is_none() || self.time(key).await? != before {
                break;
            }
            tokio::time::sleep(TICK * (1 << tick)).await;
            tags = requests.put(key, bytes).await?;
        }
        Ok(tags)
    }

    /// The time of the latest put of an object, in microseconds, as it goes into the ETag.
    async fn time(&self, key: &Path) -> Result<Option<i64>, Failure> {
        match self.inner.requests.stat(key).await {
            Ok(meta) => Ok(Some(meta.last_modified.timestamp_micros())),
            Err(failure) if failure.kind == FailureKind::NotFound => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Puts a segment into the log of a site. Repeating it is fine; where it is sealed, it gets another name each time, and the name does
    /// not tell the version.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`], and those of any request.
    pub async fn put_segment(
        &self,
        site: SiteId,
        epoch: u64,
        last_version: u64,
        segment: &Segment,
    ) -> Result<SegmentRef, RemoteError> {
        let shown = if self.is_sealed() { 0 } else { last_version };
        let bytes = self.sealed_bytes("segment", &keys::segment_place(site, epoch), segment.bytes().clone());
        let bytes = bytes.map_err(|source| self.unwritable(&self.inner.prefix.log(site), source))?;
        let name = keys::hashed_name(&format!("{shown:016x}"), &bytes);
        let key = self.inner.prefix.segment(site, epoch, &name);
        self.put_named(&key, &bytes, SEGMENT_BYTES_MAX).await?;
        Ok(SegmentRef { epoch, name, bytes: bytes.len() as u64, contents: segment.contents().to_vec() })
    }

    /// The bytes of a segment in the log of `owner`, verified against size and hash.
    ///
    /// # Errors
    /// [`RemoteError::Missing`], [`RemoteError::Corrupt`], [`RemoteError::TooLarge`], and those of any request.
    pub async fn get_segment(&self, owner: SiteId, segment: &SegmentRef) -> Result<Bytes, RemoteError> {
        let key = self.segment_key(owner, segment)?;
        let place = keys::segment_place(owner, segment.epoch);
        self.get_named(&key, &place, "segment", (&segment.name, segment.bytes), SEGMENT_BYTES_MAX).await
    }

    /// Removes a segment from the log of `owner`, if it is there.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn delete_segment(&self, owner: SiteId, segment: &SegmentRef) -> Result<(), RemoteError> {
        let key = self.segment_key(owner, segment)?;
        self.inner.requests.delete(&key).await.map_err(|failure| self.failed(failure, &key))
    }

    /// Puts a part of a snapshot. Repeating it is fine.
    ///
    /// # Errors
    /// [`RemoteError::TooLarge`] beyond [`PART_BYTES_MAX`], and those of any request.
    pub async fn put_part(
        &self,
        site: SiteId,
        snapshot: &SnapshotName,
        index: u32,
        bytes: &Bytes,
    ) -> Result<PartRef, RemoteError> {
        self.put_part_named(site, snapshot, &format!("{index:08x}"), bytes).await
    }

    /// Puts the manifest of a snapshot: after all parts, for it makes the snapshot one.
    ///
    /// # Errors
    /// As [`Remote::put_part`].
    pub async fn put_manifest(
        &self,
        site: SiteId,
        snapshot: &SnapshotName,
        bytes: &Bytes,
    ) -> Result<PartRef, RemoteError> {
        self.put_part_named(site, snapshot, "manifest", bytes).await
    }

    /// A part or the manifest of a snapshot, verified against size and hash.
    ///
    /// # Errors
    /// [`RemoteError::Missing`], [`RemoteError::Corrupt`], [`RemoteError::TooLarge`], and those of any request.
    pub async fn get_part(&self, site: SiteId, snapshot: &SnapshotName, part: &PartRef) -> Result<Bytes, RemoteError> {
        let key = self.part_key(site, snapshot, part)?;
        let place = keys::part_place(site, snapshot, keys::start_of(&part.name));
        let max = self.with_seal(PART_BYTES_MAX);
        self.get_named(&key, &place, "snapshot part", (&part.name, part.bytes), max).await
    }

    /// Removes a part or the manifest of a snapshot, if it is there. Remove the manifest first.
    ///
    /// # Errors
    /// Those of any request.
    pub async fn delete_part(&self, site: SiteId, snapshot: &SnapshotName, part: &PartRef) -> Result<(), RemoteError> {
        let key = self.part_key(site, snapshot, part)?;
        self.inner.requests.delete(&key).await.map_err(|failure| self.failed(failure, &key))
    }

    async fn put_part_named(
        &self,
        site: SiteId,
        snapshot: &SnapshotName,
        start: &str,
        bytes: &Bytes,
    ) -> Result<PartRef, RemoteError> {
        self.check_size(&self.inner.prefix.snapshots(site), bytes.len(), PART_BYTES_MAX)?;
        let place = keys::part_place(site, snapshot, start);
        let bytes = self.sealed_bytes("snapshot part", &place, bytes.clone());
        let bytes = bytes.map_err(|source| self.unwritable(&self.inner.prefix.snapshots(site), source))?;
        let part = PartRef { name: keys::hashed_name(start, &bytes), bytes: bytes.len() as u64 };
        let key = self.part_key(site, snapshot, &part)?;
        self.put_named(&key, &bytes, self.with_seal(PART_BYTES_MAX)).await?;
        Ok(part)
    }

    /// Removes segments and snapshot parts of a site that neither its head nor `parts`, those of the head's snapshot, name: what
    /// transfers that were cut off have left. Gives how many there were. Only the site itself may, and not while it publishes.
    ///
    /// # Errors
    /// Those of any request; what was removed before stays removed.
    pub async fn sweep(&self, head: &Head, parts: &[PartRef]) -> Result<u64, RemoteError> {
        let prefix = &self.inner.prefix;
        let mut keep: Vec<Path> = Vec::new();
        for segment in &head.segments {
            keep.push(self.segment_key(head.site, segment)?);
        }
        if let Some(snapshot) = &head.snapshot {
            for part in parts.iter().chain(std::iter::once(&snapshot.manifest)) {
                keep.push(self.part_key(snapshot.site, &snapshot.name, part)?);
            }
        }
        let mut removed = 0;
        for folder in [prefix.log(head.site), prefix.snapshots(head.site)] {
            let listed = self.inner.requests.list(&folder, SWEEP_MAX).await;
            for meta in listed.map_err(|failure| self.failed(failure, &folder))? {
                if !keep.contains(&meta.location) {
                    let deleted = self.inner.requests.delete(&meta.location).await;
                    deleted.map_err(|failure| self.failed(failure, &meta.location))?;
                    removed += 1;
                }
            }
        }
        if let Some(root) = &self.inner.folder {
            for folder in ["log", "snap"] {
                removed += remove_staged(&root.join(folder).join(head.site.to_string()));
            }
        }
        Ok(removed)
    }

    /// Puts bytes under a name that holds their hash. Something else that stands there is damaged and is replaced.
    pub(crate) async fn put_named(&self, key: &Path, bytes: &Bytes, max: usize) -> Result<(), RemoteError> {
        self.check_size(key, bytes.len(), max)?;
        self.check_folder()?;
        let requests = &self.inner.requests;
        let placed = requests.put_new(key, bytes, false).await.map_err(|failure| self.failed(failure, key))?;
        if placed == Placed::Ours {
            return Ok(());
        }
        match requests.get(key, max as u64, None).await {
            Ok(standing) if standing.bytes == *bytes => return Ok(()),
            Ok(_) => tracing::warn!(place = self.place(), %key, "a damaged object is replaced"),
            Err(failure) => match failure.kind {
                FailureKind::NotFound | FailureKind::TooLarge { .. } | FailureKind::Cut { .. } => {}
                _ => return Err(self.failed(failure, key)),
            },
        }
        requests.put(key, bytes).await.map_err(|failure| self.failed(failure, key))?;
        Ok(())
    }

    pub(crate) async fn get_named(
        &self,
        key: &Path,
        place: &str,
        object: &'static str,
        (name, promised): (&str, u64),
        max: usize,
    ) -> Result<Bytes, RemoteError> {
        let most = usize::try_from(promised).unwrap_or(usize::MAX);
        self.check_size(key, most, max)?;
        let open = |bytes: Bytes| {
            keys::verify(object, name, promised, &bytes)?;
            self.opened_bytes(object, place, bytes)
        };
        let requests = &self.inner.requests;
        let mut reads = 0;
        loop {
            reads += 1;
            let fetched = requests.get(key, max as u64, None).await.map_err(|failure| self.failed(failure, key))?;
            match open(fetched.bytes) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if reads >= READS_MAX || error.is_lasting() => return Err(self.damaged(key, error)),
                Err(error) => tracing::warn!(place = self.place(), %key, %error, "reading once more"),
            }
        }
    }

    pub(crate) async fn read<T>(
        &self,
        key: &Path,
        max: usize,
        unless: Option<&str>,
        decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    ) -> Result<(T, Option<String>), RemoteError> {
        let read = self.read_unless(key, max, unless, decode).await?;
        read.ok_or_else(|| RemoteError::Missing { place: self.place().to_owned(), key: key.to_string() })
    }

    /// Reads and decodes an object, twice if it must; `None` when it still has the ETag.
    async fn read_unless<T>(
        &self,
        key: &Path,
        max: usize,
        unless: Option<&str>,
        decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    ) -> Result<Option<(T, Option<String>)>, RemoteError> {
        let mut reads = 0;
        loop {
            reads += 1;
            let Fetched { bytes, etag } = match self.inner.requests.get(key, max as u64, unless).await {
                Ok(fetched) => fetched,
                Err(failure) if failure.kind == FailureKind::NotModified => return Ok(None),
                Err(failure) => return Err(self.failed(failure, key)),
            };
            match decode(&bytes) {
                Ok(value) => return Ok(Some((value, etag))),
                Err(error) if reads >= READS_MAX || error.is_lasting() => return Err(self.damaged(key, error)),
                Err(error) => tracing::warn!(place = self.place(), %key, %error, "reading once more"),
            }
        }
    }

    fn segment_key(&self, owner: SiteId, segment: &SegmentRef) -> Result<Path, RemoteError> {
        let key = self.inner.prefix.segment(owner, segment.epoch, &segment.name);
        if keys::is_name(&segment.name) { Ok(key) } else { Err(self.misnamed(&key)) }
    }

    fn part_key(&self, site: SiteId, snapshot: &SnapshotName, part: &PartRef) -> Result<Path, RemoteError> {
        let key = self.inner.prefix.part(site, snapshot.as_str(), &part.name);
        if keys::is_name(snapshot.as_str()) && keys::is_name(&part.name) { Ok(key) } else { Err(self.misnamed(&key)) }
    }

    /// A listing of a folder that is not there looks like an empty one, and a put would make it again.
    pub(crate) fn check_folder(&self) -> Result<(), RemoteError> {
        match &self.inner.folder {
            Some(folder) => address::find_folder(folder).map(|_| ()),
            None => Ok(()),
        }
    }

    pub(crate) fn check_size(&self, key: &Path, bytes: usize, max: usize) -> Result<(), RemoteError> {
        if bytes <= max {
            return Ok(());
        }
        let (place, key) = (self.place().to_owned(), key.to_string());
        Err(RemoteError::TooLarge { place, key, bytes: bytes as u64, max: max as u64 })
    }

    pub(crate) fn failed(&self, failure: Failure, key: &Path) -> RemoteError {
        failure.into_error(self.place(), key)
    }

    fn misnamed(&self, key: &Path) -> RemoteError {
        let problem = "its name is not lower-case letters, digits and hyphens";
        self.damaged(key, FormatError::Malformed { object: "reference", problem })
    }

    pub(crate) fn unwritable(&self, key: &Path, source: FormatError) -> RemoteError {
        let (place, key) = (self.place().to_owned(), key.to_string());
        match source {
            FormatError::TooLarge { what: "head" | "group object", bytes, max } => {
                RemoteError::TooLarge { place, key, bytes, max }
            }
            source => RemoteError::Unwritable { place, key, source },
        }
    }

    pub(crate) fn damaged(&self, key: &Path, source: FormatError) -> RemoteError {
        let (place, is_group) = (self.place().to_owned(), *key == self.inner.prefix.group());
        let key = key.to_string();
        match source {
            FormatError::Newer { found, supported, .. } => RemoteError::NewerFormat { place, key, found, supported },
            FormatError::Sealed { source: SealError::UnknownKey { id }, .. } => {
                RemoteError::KeyMissing { place, key, id }
            }
            FormatError::Foreign { .. } if is_group => RemoteError::NotARemote { place, key },
            FormatError::TooLarge { bytes, max, .. } => RemoteError::TooLarge { place, key, bytes, max },
            source => RemoteError::Corrupt { place, key, source },
        }
    }
}

/// Removes what the store had staged under `name#number` when it was cut off; listings do not show it.
fn remove_staged(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let mut removed = 0;
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            removed += remove_staged(&path);
        } else if entry.file_name().to_str().is_some_and(|name| name.contains('#')) {
            removed += u64::from(std::fs::remove_file(&path).is_ok());
        }
    }
    removed
}
