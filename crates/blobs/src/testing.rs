//! A store that fails on purpose, for tests of this crate and of those above it.
//!
//! The same seed, plan and sequence of calls meet the same faults. Calls that run at the same time draw in the order in
//! which they begin.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use crate::http::StatusError;
use crate::options::RemoteOptions;
use crate::remote::Remote;

/// How often which fault happens, in thousandths of the calls that it may happen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultPlan {
    /// Any call fails and has no effect.
    pub error_before: u32,
    /// A put or delete takes effect and fails.
    pub error_after: u32,
    /// A put fails and has no effect, while everything may be read.
    pub put_before: u32,
    /// A put fails and leaves a part of the object, over what stood there.
    pub torn: u32,
    /// Any call is answered with 503 and has no effect.
    pub throttle: u32,
    /// A read ends early without an error.
    pub truncate: u32,
    /// One bit of what is read is flipped.
    pub bit_flip: u32,
    /// A read gives an older version of an object that was overwritten.
    pub rollback: u32,
    /// A listing lacks the objects that were put last.
    pub late_listing: u32,
    /// How many of the newest objects a late listing lacks.
    pub late_entries: usize,
    /// Times of objects are known to this many milliseconds only; exactly when 0.
    pub clock_tick_ms: u32,
    /// Any call takes up to so many milliseconds: half of it before its effect, half after.
    pub latency_ms: u32,
    /// No call reaches the store.
    pub offline: bool,
}

impl FaultPlan {
    /// Nothing fails.
    pub const NONE: FaultPlan = FaultPlan {
        error_before: 0,
        error_after: 0,
        put_before: 0,
        torn: 0,
        throttle: 0,
        truncate: 0,
        bit_flip: 0,
        rollback: 0,
        late_listing: 0,
        late_entries: 0,
        clock_tick_ms: 0,
        latency_ms: 0,
        offline: false,
    };

    /// Each fault that an honest but troubled store may show, with this probability in thousandths.
    pub const fn troubled(permille: u32) -> FaultPlan {
        FaultPlan {
            error_before: permille,
            error_after: permille,
            throttle: permille,
            truncate: permille,
            late_listing: permille,
            late_entries: 2,
            ..FaultPlan::NONE
        }
    }
}

/// The time as a file system with a coarse clock knows it.
fn coarse(mut meta: ObjectMeta, tick_ms: u32) -> ObjectMeta {
    if tick_ms > 0 {
        let beyond_us = meta.last_modified.timestamp_micros().rem_euclid(i64::from(tick_ms) * 1000);
        meta.last_modified -= Duration::from_micros(beyond_us.unsigned_abs());
    }
    meta
}

/// How often which fault happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCount {
    /// Failed without effect.
    pub errors_before: u64,
    /// Failed with effect.
    pub errors_after: u64,
    /// Failed with half of the effect.
    pub torn: u64,
    /// Answered with 503.
    pub throttled: u64,
    /// Reads cut short.
    pub truncated: u64,
    /// Reads with a flipped bit.
    pub bit_flips: u64,
    /// Reads of an older version.
    pub rollbacks: u64,
    /// Listings without the newest objects.
    pub late_listings: u64,
    /// Calls that did not reach the store.
    pub offline: u64,
}

/// Directs the faults of one remote and counts them.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

impl Faults {
    /// Changes the plan from the next call on.
    pub fn plan(&self, plan: FaultPlan) {
        self.state().plan = plan;
    }

    /// Shares with other views of the same store what was put into it.
    pub fn share(&self, history: &History) {
        self.state().history = history.clone();
    }

    /// How often which fault happened so far.
    pub fn count(&self) -> FaultCount {
        self.state().count
    }

    /// From now on each read of an object whose key ends like this gives the version before its latest overwrite, until
    /// it is put again or [`Faults::roll_forward`]. Returns whether such a version was seen.
    pub fn roll_back(&self, key_end: &str) -> bool {
        let mut state = self.state();
        let found = state.history.get().older.keys().find(|key| key.as_ref().ends_with(key_end)).cloned();
        match found {
            Some(key) => state.pinned.insert(key, ()).is_none(),
            None => false,
        }
    }

    /// Ends all of [`Faults::roll_back`].
    pub fn roll_forward(&self) {
        self.state().pinned.clear();
    }

    fn times(&self) -> (History, u32) {
        let state = self.state();
        (state.history.clone(), state.plan.clock_tick_ms)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote {
    /// The same objects as this remote's, reached through a store that fails by plan. Options other than times and
    /// retries have no effect.
    pub fn with_faults(&self, seed: u64, plan: FaultPlan, options: Option<&RemoteOptions>) -> (Remote, Faults) {
        let faults = Faults { state: Arc::new(Mutex::new(State::new(seed, plan))) };
        let state = faults.clone();
        let remote = self.through(options, |store| Arc::new(FaultyStore { store, faults: state }));
        (remote, faults)
    }

    /// Writes any bytes under a key below the prefix: a bucket operator's hand.
    ///
    /// # Errors
    /// What the store says, as text.
    pub async fn plant(&self, key: &str, bytes: impl Into<Bytes>) -> Result<(), String> {
        let (store, path) = self.raw(key);
        store.put(&path, PutPayload::from_bytes(bytes.into())).await.map(drop).map_err(|error| error.to_string())
    }

    /// Removes what stands under a key below the prefix.
    ///
    /// # Errors
    /// What the store says, as text.
    pub async fn uproot(&self, key: &str) -> Result<(), String> {
        let (store, path) = self.raw(key);
        store.delete(&path).await.map_err(|error| error.to_string())
    }

    /// The bytes under a key below the prefix, unchecked.
    ///
    /// # Errors
    /// What the store says, as text.
    pub async fn dig(&self, key: &str) -> Result<Bytes, String> {
        let (store, path) = self.raw(key);
        let found = store.get(&path).await.map_err(|error| error.to_string())?;
        found.bytes().await.map_err(|error| error.to_string())
    }

    /// Everything that the store holds, by key.
    ///
    /// # Errors
    /// What the store says, as text.
    pub async fn contents(&self) -> Result<BTreeMap<String, Bytes>, String> {
        let (store, _) = self.raw("");
        let mut contents = BTreeMap::new();
        for key in self.keys().await? {
            let found = store.get(&Path::from(key.as_str())).await.map_err(|error| error.to_string())?;
            contents.insert(key, found.bytes().await.map_err(|error| error.to_string())?);
        }
        Ok(contents)
    }

    /// Makes the store hold this and nothing else: an operator puts a copy back. Objects that are the same stay untouched.
    ///
    /// # Errors
    /// What the store says, as text.
    pub async fn put_back(&self, contents: &BTreeMap<String, Bytes>) -> Result<(), String> {
        let (store, _) = self.raw("");
        let now = self.contents().await?;
        for key in now.keys().filter(|key| !contents.contains_key(*key)) {
            store.delete(&Path::from(key.as_str())).await.map_err(|error| error.to_string())?;
        }
        for (key, bytes) in contents.iter().filter(|(key, bytes)| now.get(*key) != Some(bytes)) {
            let put = store.put(&Path::from(key.as_str()), PutPayload::from_bytes(bytes.clone())).await;
            put.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// All keys of the store, sorted.
    ///
    /// # Errors
    /// What the store says, as text.
    pub async fn keys(&self) -> Result<Vec<String>, String> {
        let (store, _) = self.raw("");
        let listed: Vec<ObjectMeta> = store.list(None).try_collect().await.map_err(|error| error.to_string())?;
        let mut keys: Vec<String> = listed.into_iter().map(|meta| meta.location.to_string()).collect();
        keys.sort();
        Ok(keys)
    }
}

struct State {
    plan: FaultPlan,
    count: FaultCount,
    random: u64,
    history: History,
    pinned: BTreeMap<Path, ()>,
}

/// What was put into a store, for views of it that show what was there before. Views that share one see what others put, too.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Past>>);

#[derive(Default)]
struct Past {
    /// The version before the latest of each object that was overwritten.
    older: BTreeMap<Path, (ObjectMeta, Bytes)>,
    /// Keys in the order of their latest put.
    recent: Vec<Path>,
    /// When each was put, in milliseconds since 1970, if there is a clock.
    times: BTreeMap<Path, u64>,
    clock: Option<Clock>,
}

/// Milliseconds since 1970.
type Clock = Box<dyn Fn() -> u64 + Send>;

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

impl History {
    /// Times of objects are by this clock, in milliseconds since 1970, and not by the store's.
    pub fn set_clock(&self, clock: impl Fn() -> u64 + Send + 'static) {
        self.get().clock = Some(Box::new(clock));
    }

    /// An object's facts with the time that the clock says.
    fn timed(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let past = self.get();
        if past.clock.is_some() {
            let at = UNIX_EPOCH + Duration::from_millis(past.times.get(&meta.location).copied().unwrap_or(0));
            meta.last_modified = at.into();
        }
        meta
    }

    fn get(&self) -> MutexGuard<'_, Past> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("plan", &self.plan).field("count", &self.count).finish_non_exhaustive()
    }
}

impl State {
    fn new(seed: u64, plan: FaultPlan) -> State {
        State { plan, count: FaultCount::default(), random: seed, history: History::default(), pinned: BTreeMap::new() }
    }

    /// SplitMix64, after Steele, Lea and Flood (2014).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn happens(&mut self, permille: u32) -> bool {
        permille > 0 && self.draw() % 1000 < u64::from(permille)
    }

    /// How long half a call takes.
    fn pause(&mut self) -> Duration {
        match self.plan.latency_ms {
            0 => Duration::ZERO,
            most => Duration::from_millis(self.draw() % u64::from(most / 2 + 1)),
        }
    }

    /// The faults that any call may meet.
    fn before(&mut self) -> StoreResult<()> {
        let plan = self.plan;
        if plan.offline {
            self.count.offline += 1;
            return Err(injected("before it reached the store"));
        }
        if self.happens(plan.error_before) {
            self.count.errors_before += 1;
            return Err(injected("before any effect"));
        }
        if self.happens(plan.throttle) {
            self.count.throttled += 1;
            let source = StatusError { status: 503, body: "<Code>SlowDown</Code>".to_owned() };
            return Err(StoreError::Generic { store: "faulty", source: Box::new(source) });
        }
        Ok(())
    }

    /// Those that any put may meet.
    fn before_put(&mut self) -> StoreResult<()> {
        self.before()?;
        if self.happens(self.plan.put_before) {
            self.count.errors_before += 1;
            return Err(injected("before the put"));
        }
        Ok(())
    }

    fn tears(&mut self) -> bool {
        let torn = self.happens(self.plan.torn);
        self.count.torn += u64::from(torn);
        torn
    }

    fn after(&mut self) -> StoreResult<()> {
        let plan = self.plan;
        if self.happens(plan.error_after) {
            self.count.errors_after += 1;
            return Err(injected("after the effect"));
        }
        Ok(())
    }

    /// What a read really gives.
    fn spoil(&mut self, bytes: Bytes) -> Bytes {
        let plan = self.plan;
        if bytes.is_empty() {
            return bytes;
        }
        if self.happens(plan.truncate) {
            self.count.truncated += 1;
            let end = self.draw() as usize % bytes.len();
            return bytes.slice(..end);
        }
        if self.happens(plan.bit_flip) {
            self.count.bit_flips += 1;
            let mut bytes = bytes.to_vec();
            let (at, bit) = (self.draw() as usize % bytes.len(), self.draw() % 8);
            bytes[at] ^= 1 << bit;
            return bytes.into();
        }
        bytes
    }

    fn noted(&mut self, key: &Path) {
        let mut past = self.history.get();
        past.recent.retain(|other| other != key);
        past.recent.push(key.clone());
        if let Some(now) = past.clock.as_ref().map(|clock| clock()) {
            past.times.insert(key.clone(), now);
        }
        drop(past);
        self.pinned.remove(key);
    }
}

/// A fault that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("injected fault {0}")]
struct Injected(&'static str);

fn injected(when: &'static str) -> StoreError {
    StoreError::Generic { store: "faulty", source: Box::new(Injected(when)) }
}

#[derive(Debug)]
struct FaultyStore {
    store: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.store)
    }
}

impl FaultyStore {
    /// The version of an object that a read shall give instead of the current one.
    fn older(&self, key: &Path) -> Option<(ObjectMeta, Bytes)> {
        let mut state = self.faults.state();
        let older = state.history.get().older.get(key).cloned()?;
        let plan = state.plan;
        if !state.pinned.contains_key(key) && !state.happens(plan.rollback) {
            return None;
        }
        state.count.rollbacks += 1;
        Some(older)
    }

    async fn pause(&self) {
        let pause = self.faults.state().pause();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    async fn keep_older(&self, key: &Path) {
        if let Ok(found) = self.store.get(key).await {
            let meta = found.meta.clone();
            if let Ok(bytes) = found.bytes().await {
                self.faults.state().history.get().older.insert(key.clone(), (meta, bytes));
            }
        }
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.pause().await;
        self.faults.state().before_put()?;
        self.keep_older(key).await;
        if self.faults.state().tears() {
            let whole: Bytes = payload.into();
            let part = whole.slice(..whole.len() / 2);
            self.store.put_opts(key, PutPayload::from_bytes(part), options).await?;
            self.faults.state().noted(key);
            return Err(injected("in the middle of its effect"));
        }
        let result = self.store.put_opts(key, payload, options).await?;
        self.pause().await;
        let mut state = self.faults.state();
        state.noted(key);
        state.after()?;
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.pause().await;
        self.faults.state().before()?;
        if let Some((meta, bytes)) = self.older(key) {
            options.check_preconditions(&meta)?;
            let range = 0..bytes.len() as u64;
            let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
            let (attributes, extensions) = Default::default();
            return Ok(GetResult { payload, meta, range, attributes, extensions });
        }
        let is_head = options.head;
        let mut found = self.store.get_opts(key, options).await?;
        let (history, tick_ms) = self.faults.times();
        found.meta = coarse(history.timed(found.meta), tick_ms);
        if is_head {
            return Ok(found);
        }
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let (attributes, extensions) = (std::mem::take(&mut found.attributes), std::mem::take(&mut found.extensions));
        let bytes = found.bytes().await?;
        let bytes = self.faults.state().spoil(bytes);
        let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(&self, keys: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        let (store, faults) = (Arc::clone(&self.store), self.faults.clone());
        keys.then(move |key| {
            let (store, faults) = (Arc::clone(&store), faults.clone());
            async move {
                let key = key?;
                faults.state().before()?;
                store.delete(&key).await?;
                faults.state().after()?;
                Ok(key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let mut state = self.faults.state();
        if let Err(error) = state.before() {
            return futures::stream::iter([Err(error)]).boxed();
        }
        let (plan, pause) = (state.plan, state.pause());
        let mut hidden: Vec<Path> = Vec::new();
        if state.happens(plan.late_listing) {
            state.count.late_listings += 1;
            let below = |key: &&Path| prefix.is_none_or(|prefix| key.prefix_matches(prefix));
            hidden = state.history.get().recent.iter().rev().filter(below).take(plan.late_entries).cloned().collect();
        }
        let (history, listed) = (state.history.clone(), self.store.list(prefix));
        let listed =
            futures::stream::once(tokio::time::sleep(pause)).flat_map(move |()| futures::stream::empty()).chain(listed);
        listed
            .try_filter(move |meta| futures::future::ready(!hidden.contains(&meta.location)))
            .map_ok(move |meta| coarse(history.timed(meta), plan.clock_tick_ms))
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.store.copy_opts(from, to, options).await
    }
}
