//! Single requests on the store: bounded, timed, tried again, counted, and their failures told apart.

use std::fmt;
use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::time::Instant;

use crate::codec::FormatError;
use crate::error::{Cause, RemoteError};
use crate::http::StatusError;
use crate::options::{Credentials, RemoteOptions, Secret};

/// The slowest upload that is waited for: 64 KiB/s, so that the largest segment may take 17 minutes.
pub const SLOWEST_UPLOAD_BYTES_PER_S: u64 = 64 * 1024;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const CAUSE_CHARS_MAX: usize = 1000;
const REDACTED: &str = "(redacted)";

/// What went over the wire since the remote was opened, failed attempts included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Requests: of a bucket each HTTP request (also those for pages of a listing and for credentials), of a folder or
    /// memory each operation.
    pub requests: u64,
    /// Bytes of objects sent, without HTTP headers.
    pub uploaded_bytes: u64,
    /// Bytes of objects received, without HTTP headers and listings.
    pub downloaded_bytes: u64,
}

/// What a store calls an object that it has just taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutTags {
    /// Its ETag.
    pub etag: Option<String>,
    /// Its version, where the store keeps old ones.
    pub version_id: Option<String>,
}

/// Shared by all clones of a remote and its HTTP client; only ever added to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    uploaded_bytes: AtomicU64,
    downloaded_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            uploaded_bytes: self.uploaded_bytes.load(Ordering::Relaxed),
            downloaded_bytes: self.downloaded_bytes.load(Ordering::Relaxed),
        }
    }
}

/// What must not show in any message.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<Secret>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    pub(crate) fn of(credentials: &Credentials) -> Secrets {
        let token = credentials.session_token.clone();
        let all = [credentials.secret_key.clone(), credentials.access_key.clone()].into_iter().chain(token);
        Secrets(all.filter(|secret| !secret.expose().is_empty()).collect())
    }

    pub(crate) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret.expose(), REDACTED);
        }
        text
    }
}

/// What kind of failure an attempt met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FailureKind {
    NotFound,
    Exists,
    NotModified,
    Denied,
    Throttled,
    NoBucket,
    Rejected(u16),
    Timeout(Duration),
    Unreachable,
    Unsupported,
    Storage,
    TooLarge { bytes: u64, max: u64 },
    Cut { found: u64, expected: u64 },
}

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    text: String,
}

impl Failure {
    /// Whether the next attempt may fare better. After such a failure of a put it is unknown whether the object stands.
    fn is_transient(&self) -> bool {
        matches!(
            self.kind,
            FailureKind::Throttled | FailureKind::Timeout(_) | FailureKind::Unreachable | FailureKind::Cut { .. }
        )
    }

    /// The failure in words of the remote.
    pub(crate) fn into_error(self, place: &str, key: &Path) -> RemoteError {
        let (place, key, source) = (place.to_owned(), key.to_string(), Cause(self.text));
        match self.kind {
            FailureKind::NotFound => RemoteError::Missing { place, key },
            FailureKind::Denied => RemoteError::Denied { place, key, source },
            FailureKind::Throttled => RemoteError::Throttled { place, key, source },
            FailureKind::NoBucket => RemoteError::NoBucket { place, source },
            FailureKind::Rejected(status) => RemoteError::Rejected { place, key, status, source },
            FailureKind::Exists => RemoteError::Rejected { place, key, status: 412, source },
            FailureKind::NotModified => RemoteError::Rejected { place, key, status: 304, source },
            FailureKind::Unsupported => RemoteError::Rejected { place, key, status: 501, source },
            FailureKind::Timeout(limit) => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                RemoteError::Timeout { place, key, limit_ms, source }
            }
            FailureKind::Unreachable => RemoteError::Unreachable { place, key, source },
            FailureKind::Storage => RemoteError::Storage { place, key, source },
            FailureKind::TooLarge { bytes, max } => RemoteError::TooLarge { place, key, bytes, max },
            FailureKind::Cut { found, expected } => {
                let source = FormatError::Size { object: "object", found, expected };
                RemoteError::Corrupt { place, key, source }
            }
        }
    }
}

/// Where the objects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    Folder,
    Memory,
    Bucket,
}

/// An object that was read.
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) etag: Option<String>,
}

/// What came of putting an object that must not be there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// This put made it, or one of its attempts did: something of the same size stands after an unknown outcome.
    Ours,
    /// Something stood there before.
    Existed,
}

/// The store with its rules. All methods try transient failures again within the options' bounds.
pub(crate) struct Requests {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) medium: Medium,
    pub(crate) options: Limits,
    pub(crate) traffic: Arc<Counters>,
    pub(crate) secrets: Secrets,
}

/// The part of the options that concerns single requests.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    request_timeout: Duration,
    retries: u32,
    retry_elapsed_max: Duration,
    jitter: u64,
}

impl From<&RemoteOptions> for Limits {
    fn from(options: &RemoteOptions) -> Limits {
        Limits {
            request_timeout: options.request_timeout,
            retries: options.retries,
            retry_elapsed_max: options.retry_elapsed_max,
            jitter: options.jitter,
        }
    }
}

/// Counts attempts and says how long to wait before the next.
struct Attempts {
    began: Instant,
    made: u32,
}

impl Attempts {
    fn begin() -> Attempts {
        Attempts { began: Instant::now(), made: 0 }
    }

    /// The pause before the next attempt: doubling, between half and all of it; `None` when there shall be none.
    fn pause(&mut self, limits: &Limits) -> Option<Duration> {
        let pause = BACKOFF_FIRST.saturating_mul(1 << self.made.min(10)).min(BACKOFF_MAX);
        let pause = pause * (500 + self.jitter(limits) as u32) / 1000;
        let over = self.made >= limits.retries || self.began.elapsed() + pause > limits.retry_elapsed_max;
        self.made += 1;
        (!over).then_some(pause)
    }

    /// Below 500, and different on each device and for each attempt.
    fn jitter(&self, limits: &Limits) -> u64 {
        let mixed = (limits.jitter ^ u64::from(self.made)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)) % 500
    }
}

impl Requests {
    /// Reads a whole object of at most `max` bytes.
    pub(crate) async fn get(&self, key: &Path, max: u64, unless: Option<&str>) -> Result<Fetched, Failure> {
        let mut attempts = Attempts::begin();
        loop {
            let result = self.get_once(key, max, unless).await;
            if let ControlFlow::Break(result) = self.settle(&mut attempts, key, result).await {
                return result;
            }
        }
    }

    /// Writes an object, whatever stood there.
    pub(crate) async fn put(&self, key: &Path, bytes: &Bytes) -> Result<PutTags, Failure> {
        let mut attempts = Attempts::begin();
        loop {
            let result = self.put_once(key, bytes, PutMode::Overwrite).await;
            if let ControlFlow::Break(result) = self.settle(&mut attempts, key, result).await {
                return result;
            }
        }
    }

    /// Writes an object that must not stand yet. What an attempt left behind whose answer was lost (also an early 412
    /// that shows as a broken pipe) is found by a HEAD; a part of it is written over, unless somebody's may stand there.
    ///
    /// A store that refuses conditions while the body streams shows a broken pipe too. So once a HEAD found nothing, an
    /// object that anybody may overwrite with its like (`exclusive` is false) is written without a condition.
    pub(crate) async fn put_new(&self, key: &Path, bytes: &Bytes, exclusive: bool) -> Result<Placed, Failure> {
        let mut attempts = Attempts::begin();
        let mut mode = PutMode::Create;
        loop {
            let failure = match self.put_once(key, bytes, mode.clone()).await {
                Ok(_) => return Ok(Placed::Ours),
                Err(failure) => failure,
            };
            match failure.kind {
                FailureKind::Exists => return Ok(Placed::Existed),
                FailureKind::Unsupported => return self.put_unconditional(key, bytes).await,
                _ if !failure.is_transient() => return Err(failure),
                _ => {}
            }
            tracing::debug!(%key, failure = failure.text, "a put has an unknown outcome");
            match self.stat_once(key).await {
                Ok(meta) if meta.size == bytes.len() as u64 => return Ok(Placed::Ours),
                Ok(_) if exclusive => return Ok(Placed::Existed),
                // What stands there may be a part, which this attempt has left.
                Ok(_) => mode = PutMode::Overwrite,
                Err(failure) if failure.kind == FailureKind::NotFound && !exclusive => mode = PutMode::Overwrite,
                Err(_) => {}
            }
            match attempts.pause(&self.options) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failure),
            }
        }
    }

    /// For stores without conditional puts: look first, then write. A race is found by reading again.
    async fn put_unconditional(&self, key: &Path, bytes: &Bytes) -> Result<Placed, Failure> {
        match self.stat(key).await {
            Ok(_) => Ok(Placed::Existed),
            Err(failure) if failure.kind == FailureKind::NotFound => {
                self.put(key, bytes).await?;
                Ok(Placed::Ours)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Size, ETag and time of an object.
    pub(crate) async fn stat(&self, key: &Path) -> Result<ObjectMeta, Failure> {
        let mut attempts = Attempts::begin();
        loop {
            let result = self.stat_once(key).await;
            if let ControlFlow::Break(result) = self.settle(&mut attempts, key, result).await {
                return result;
            }
        }
    }

    /// All objects below `folder`: one LIST and its further pages. More than `most` are an error.
    pub(crate) async fn list(&self, folder: &Path, most: usize) -> Result<Vec<ObjectMeta>, Failure> {
        let mut attempts = Attempts::begin();
        loop {
            let result = self.list_once(folder, most).await;
            if let ControlFlow::Break(result) = self.settle(&mut attempts, folder, result).await {
                return result;
            }
        }
    }

    /// Tells of all objects below `folder`, some perhaps twice where a page had to be asked for again: one LIST and its further pages.
    pub(crate) async fn list_each(
        &self,
        folder: &Path,
        each: &mut (dyn FnMut(ObjectMeta) + Send),
    ) -> Result<(), Failure> {
        let mut attempts = Attempts::begin();
        loop {
            self.count();
            let mut entries = self.store.list(Some(folder));
            let result = loop {
                match self.limited(Duration::ZERO, entries.try_next()).await {
                    Ok(Some(entry)) => each(entry),
                    Ok(None) => break Ok(()),
                    Err(failure) => break Err(failure),
                }
            };
            drop(entries);
            if let ControlFlow::Break(result) = self.settle(&mut attempts, folder, result).await {
                return result;
            }
        }
    }

    /// Removes an object; one that is not there is fine.
    pub(crate) async fn delete(&self, key: &Path) -> Result<(), Failure> {
        let mut attempts = Attempts::begin();
        loop {
            self.count();
            let result = match self.limited(Duration::ZERO, self.store.delete(key)).await {
                Err(failure) if failure.kind == FailureKind::NotFound => Ok(()),
                result => result,
            };
            if let ControlFlow::Break(result) = self.settle(&mut attempts, key, result).await {
                return result;
            }
        }
    }

    async fn get_once(&self, key: &Path, max: u64, unless: Option<&str>) -> Result<Fetched, Failure> {
        let options = GetOptions { if_none_match: unless.map(str::to_owned), ..GetOptions::default() };
        self.count();
        let result = self.limited(Duration::ZERO, self.store.get_opts(key, options)).await?;
        let (size, etag) = (result.meta.size, result.meta.e_tag.clone());
        if size > max {
            return Err(self.failure(FailureKind::TooLarge { bytes: size, max }, "not read"));
        }
        let mut bytes = Vec::new();
        let mut pieces = result.into_stream();
        while let Some(piece) = self.limited(Duration::ZERO, pieces.try_next()).await? {
            self.traffic.downloaded_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > max {
                let bytes = bytes.len() as u64;
                return Err(self.failure(FailureKind::TooLarge { bytes, max }, "more than promised"));
            }
        }
        let found = bytes.len() as u64;
        if found != size {
            return Err(self.failure(FailureKind::Cut { found, expected: size }, "the answer was cut"));
        }
        Ok(Fetched { bytes: bytes.into(), etag })
    }

    async fn list_once(&self, folder: &Path, most: usize) -> Result<Vec<ObjectMeta>, Failure> {
        self.count();
        let mut found = Vec::new();
        let mut entries = self.store.list(Some(folder));
        while let Some(entry) = self.limited(Duration::ZERO, entries.try_next()).await? {
            found.push(entry);
            if found.len() > most {
                let kind = FailureKind::TooLarge { bytes: found.len() as u64, max: most as u64 };
                return Err(self.failure(kind, "too many objects"));
            }
        }
        Ok(found)
    }

    async fn put_once(&self, key: &Path, bytes: &Bytes, mode: PutMode) -> Result<PutTags, Failure> {
        self.count();
        self.traffic.uploaded_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let extra = Duration::from_millis(bytes.len() as u64 * 1000 / SLOWEST_UPLOAD_BYTES_PER_S);
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.store.put_opts(key, PutPayload::from_bytes(bytes.clone()), options);
        let put = self.limited(extra, put).await?;
        Ok(PutTags { etag: put.e_tag, version_id: put.version })
    }

    async fn stat_once(&self, key: &Path) -> Result<ObjectMeta, Failure> {
        self.count();
        self.limited(Duration::ZERO, self.store.head(key)).await
    }

    /// Requests to a bucket are counted where they go out.
    fn count(&self) {
        if self.medium != Medium::Bucket {
            self.traffic.count_request();
        }
    }

    /// Runs one step within the time that a bucket gets. A folder takes as long as it takes: giving up on a write that
    /// goes on in the background could let it land after a later one.
    async fn limited<T>(
        &self,
        extra: Duration,
        step: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        let result = if self.medium == Medium::Bucket {
            let limit = self.options.request_timeout + extra;
            match tokio::time::timeout(limit, step).await {
                Ok(result) => result,
                Err(_) => return Err(self.failure(FailureKind::Timeout(limit), "no answer")),
            }
        } else {
            step.await
        };
        result.map_err(|error| self.failure(classify(&error, &self.options), &chain(&error)))
    }

    fn failure(&self, kind: FailureKind, text: &str) -> Failure {
        // Redact first: a cut may leave half of a secret, which no longer matches.
        Failure { kind, text: self.secrets.redact(text).chars().take(CAUSE_CHARS_MAX).collect() }
    }

    /// Ends with the result of an attempt, or pauses before the next. (A closure per attempt would be shorter; the
    /// futures of async closures that borrow are not known to be `Send`.)
    async fn settle<T>(
        &self,
        attempts: &mut Attempts,
        key: &Path,
        result: Result<T, Failure>,
    ) -> ControlFlow<Result<T, Failure>> {
        let failure = match result {
            Err(failure) if failure.is_transient() => failure,
            result => return ControlFlow::Break(result),
        };
        let Some(pause) = attempts.pause(&self.options) else {
            return ControlFlow::Break(Err(failure));
        };
        tracing::debug!(%key, failure = failure.text, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        ControlFlow::Continue(())
    }
}

fn classify(error: &StoreError, limits: &Limits) -> FailureKind {
    match error {
        StoreError::NotFound { .. } => FailureKind::NotFound,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => FailureKind::Exists,
        StoreError::NotModified { .. } => FailureKind::NotModified,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => FailureKind::Denied,
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => FailureKind::Unsupported,
        other => classify_source(other, limits),
    }
}

/// Looks for the innermost thing that is known, from the outside in.
fn classify_source(error: &StoreError, limits: &Limits) -> FailureKind {
    let mut kind = FailureKind::Unreachable;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(status) = error.downcast_ref::<StatusError>() {
            return classify_status(status, limits);
        }
        if let Some(http) = error.downcast_ref::<HttpError>()
            && http.kind() == HttpErrorKind::Timeout
        {
            return FailureKind::Timeout(limits.request_timeout);
        }
        if let Some(http) = error.downcast_ref::<HttpError>()
            && http.kind() != HttpErrorKind::Unknown
        {
            return FailureKind::Unreachable;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            kind = match io.kind() {
                std::io::ErrorKind::PermissionDenied => FailureKind::Denied,
                std::io::ErrorKind::NotFound => FailureKind::NotFound,
                std::io::ErrorKind::ConnectionReset
                | std::io::ErrorKind::ConnectionRefused
                | std::io::ErrorKind::ConnectionAborted
                | std::io::ErrorKind::BrokenPipe
                | std::io::ErrorKind::UnexpectedEof
                | std::io::ErrorKind::Interrupted
                | std::io::ErrorKind::TimedOut => FailureKind::Unreachable,
                _ => FailureKind::Storage,
            };
        }
        next = error.source();
    }
    kind
}

fn classify_status(error: &StatusError, limits: &Limits) -> FailureKind {
    match error.status {
        _ if error.has_code("NoSuchBucket") => FailureKind::NoBucket,
        // A clock that is off is refused with 403 like a wrong key.
        401 | 403 => FailureKind::Denied,
        429 | 503 => FailureKind::Throttled,
        408 | 504 => FailureKind::Timeout(limits.request_timeout),
        _ if error.has_code("RequestTimeout") => FailureKind::Timeout(limits.request_timeout),
        501 => FailureKind::Unsupported,
        // A conflict of conditional puts at the same moment: neither need have won.
        409 | 500.. => FailureKind::Unreachable,
        status => FailureKind::Rejected(status),
    }
}

/// The texts of an error and its sources, each once.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = error.source();
    }
    text
}
