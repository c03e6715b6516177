//! Syncing by itself: a thread that keeps a replica live for as long as somebody holds a handle on it.
//!
//! The app needs no runtime of its own. The thread ends with the last handle, and waits for the goodbyes then: peers learn that this
//! device has gone, and what was handed over is recorded. While another process of the device is live with the same file, this one waits
//! for its turn; what it writes meanwhile that process sends.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use isle_clock::VersionVector;
use tokio::sync::{broadcast, watch};

use crate::direct::{Live, LiveEvent, LiveOptions};
use crate::replica::{Inner, Replica};
use crate::{Builder, Error};

/// Events that a slow listener may fall behind by.
const EVENTS_MAX: usize = 1_024;
/// The first pause after a failure, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How often it is looked whether another process has let go of the file.
const TURN_EVERY: Duration = Duration::from_secs(2);
/// How long the goodbyes, and work on the disk that is under way at the end, are waited for.
const GOODBYE: Duration = Duration::from_secs(5);
/// Syncing more often than this does nothing but keep the machine busy; and a pause of more than this is one for ever.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const INTERVAL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// When a replica syncs by itself; see [`Builder::auto_sync`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AutoSync {
    /// Whether remotes are synced with as soon as the replica is open. Default: yes.
    pub at_start: bool,
    /// How long after the last sync with a remote the next one comes if nothing is written here; writes are sent half a second after the
    /// first. Longer after failures, up to ten minutes, and a little random. Default: 30 s.
    pub interval: Duration,
}

impl Default for AutoSync {
    fn default() -> AutoSync {
        AutoSync { at_start: true, interval: Duration::from_secs(30) }
    }
}

impl AutoSync {
    /// Sets [`AutoSync::at_start`].
    #[must_use]
    pub fn at_start(mut self, at_start: bool) -> AutoSync {
        self.at_start = at_start;
        self
    }

    /// Sets [`AutoSync::interval`].
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> AutoSync {
        self.interval = interval;
        self
    }
}

/// How the other devices of the group are reached without a remote; see [`Builder::peers`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Peers {
    /// Where others can call this device; `None` only calls.
    pub listen: Option<SocketAddr>,
    /// Where else it can be reached, `host:port` each.
    pub addresses: Vec<String>,
    /// Whether devices on the local network are looked for, by multicast DNS.
    pub discover: bool,
}

impl Peers {
    /// Calls the devices whose addresses are known, and those that are found on the local network.
    pub fn nearby() -> Peers {
        Peers { discover: true, ..Peers::default() }
    }

    /// Lets others call as well, at all addresses of this machine; port 0 takes any that is free.
    #[must_use]
    pub fn listen_at_port(self, port: u16) -> Peers {
        self.listen_at((Ipv6Addr::UNSPECIFIED, port).into())
    }

    /// Lets others call as well, at this address.
    #[must_use]
    pub fn listen_at(mut self, address: SocketAddr) -> Peers {
        self.listen = Some(address);
        self
    }

    /// Another place, `host:port`, where this device can be reached: a name, or the outside of a router.
    #[must_use]
    pub fn reachable_at(mut self, address: impl Into<String>) -> Peers {
        self.addresses.push(address.into());
        self
    }
}

/// The thread, seen from the handles.
#[derive(Debug)]
pub(crate) struct Auto {
    stop: watch::Sender<bool>,
    events: broadcast::Sender<LiveEvent>,
    /// Of the events since the start, until somebody asks.
    first: Mutex<Option<broadcast::Receiver<LiveEvent>>>,
    /// Where others can call, while they can.
    addresses: watch::Receiver<Vec<String>>,
    thread: Option<JoinHandle<()>>,
    /// Gives way when the thread is about to end.
    ended: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Drop for Auto {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return };
        // It may wait for what the thread that drops this holds, a write transaction say: then it ends when that is over.
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(GOODBYE) != Err(RecvTimeoutError::Timeout) {
            // It does not panic; if it has, the hook has told.
            let _ = thread.join();
        }
    }
}

impl Auto {
    /// Starts the thread, or takes the one that runs for this file already.
    pub(crate) fn start(inner: &Arc<Inner>, sync: &AutoSync, peers: Option<&Peers>) -> Result<Arc<Auto>, Error> {
        let mut running = inner.auto.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(auto) = running.upgrade() {
            return Ok(auto);
        }
        let Peers { listen, addresses, discover } = peers.cloned().unwrap_or_default();
        let options = LiveOptions {
            // Everywhere is more than one socket: `port` knows how.
            listen: listen.filter(|address| !address.ip().is_unspecified()),
            port: listen.filter(|address| address.ip().is_unspecified()).map(|address| address.port()),
            addresses,
            discover,
            remotes: Some(sync.interval.clamp(INTERVAL_MIN, INTERVAL_MAX)),
        };
        // Read here, so that what is written from now on counts.
        let since = (!sync.at_start).then(|| inner.store.vector()).transpose()?;
        let (events, first) = broadcast::channel(EVENTS_MAX);
        let (stop, stopped) = watch::channel(false);
        let (reachable, addresses) = watch::channel(Vec::new());
        let (work, told) = (Arc::clone(inner), events.clone());
        let (ending, ended) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Error::Thread { source })?;
        let thread = std::thread::Builder::new().name("isle-sync".to_owned()).spawn(move || {
            runtime.block_on(run(&work, options, since, &told, stopped, &reachable));
            runtime.shutdown_timeout(GOODBYE);
            drop(ending);
        });
        let thread = Some(thread.map_err(|source| Error::Thread { source })?);
        let auto = Arc::new(Auto {
            stop,
            events,
            first: Mutex::new(Some(first)),
            addresses,
            thread,
            ended: Mutex::new(ended),
        });
        *running = Arc::downgrade(&auto);
        Ok(auto)
    }
}

/// Stays live until told to stop, through failures and while others have the file.
async fn run(
    inner: &Arc<Inner>,
    options: LiveOptions,
    since: Option<VersionVector>,
    events: &broadcast::Sender<LiveEvent>,
    mut stopped: watch::Receiver<bool>,
    addresses: &watch::Sender<Vec<String>>,
) {
    let mut failures = 0u32;
    while !*stopped.borrow() {
        let replica = Replica { inner: Arc::clone(inner), auto: None };
        // Cut off in the middle it would leave tasks behind that nobody stops.
        let pause = match go_live(&replica, &options, since.clone()).await {
            Ok(live) => {
                addresses.send_replace(live.addresses().to_vec());
                forward(live, events, &mut stopped).await;
                return;
            }
            Err(Error::AlreadyLive) => TURN_EVERY,
            Err(error) => {
                tracing::warn!(path = %inner.path.display(), %error, "the replica does not sync by itself now");
                let _ = events.send(LiveEvent::Offline { reason: error.to_string() });
                failures = failures.saturating_add(1);
                (PAUSE_MIN * (1 << (failures - 1).min(9))).min(PAUSE_MAX)
            }
        };
        let jitter = f32::from(inner.runtime.random()[0]) / 1024.0;
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause.mul_f32(1.0 + jitter)) => {}
        }
    }
}

/// Where the port is taken any other will do: peers learn of it.
async fn go_live(replica: &Replica, options: &LiveOptions, since: Option<VersionVector>) -> Result<Live, Error> {
    match replica.go_live_since(options, since.clone()).await {
        Err(Error::Transport { .. }) if options.port.is_some_and(|port| port != 0) => {
            replica.go_live_since(&LiveOptions { port: Some(0), ..options.clone() }, since).await
        }
        other => other,
    }
}

/// Hands events on until told to stop.
async fn forward(live: Live, events: &broadcast::Sender<LiveEvent>, stopped: &mut watch::Receiver<bool>) {
    let mut all = live.events();
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => break,
            event = all.recv() => match event {
                // Nobody listens: that is no error.
                Ok(event) => drop(events.send(event)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            },
        }
    }
    if let Err(error) = live.stop().await {
        tracing::warn!(%error, "what was handed over cannot be recorded");
    }
}

impl Builder {
    /// A remote of the replica: added when it is opened, unless it is there; one of that name somewhere else gives way. See [`Replica::add_remote`].
    #[must_use]
    pub fn remote(mut self, name: impl Into<String>, url: impl Into<String>) -> Builder {
        self.remotes.push((name.into(), url.into()));
        self
    }

    /// Syncs with the devices of the group directly as well. Takes effect with [`Builder::auto_sync`].
    #[must_use]
    pub fn peers(mut self, peers: Peers) -> Builder {
        self.peers = Some(peers);
        self
    }

    /// Syncs by itself, on a thread of its own, for as long as a handle on the replica is held: with remotes at the start, soon after
    /// writes and periodically, with devices whenever they can be reached. [`Replica::events`] tells what happens. Dropping the last handle waits
    /// for the thread, five seconds at most. Of a file that syncs by itself in this process already,
    /// the settings that came first count.
    ///
    /// ```
    /// # fn main() -> Result<(), isle::Error> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let open = |name: &str| isle::Replica::builder(folder.path().join(name)).home(folder.path().join("home"));
    /// # let bucket = folder.path().join("bucket").to_str().unwrap().to_owned();
    /// let replica = open("notes.db")
    ///     .remote("home", bucket)
    ///     .peers(isle::Peers::default())
    ///     .auto_sync(isle::AutoSync::default())
    ///     .init()?;
    /// let mut events = replica.events().unwrap();
    /// loop {
    ///     if let Ok(isle::LiveEvent::Synced { report }) = events.blocking_recv() {
    ///         assert_eq!(report.remote, "home");
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn auto_sync(mut self, sync: AutoSync) -> Builder {
        self.auto = Some(sync);
        self
    }

    /// Does what was asked for beyond opening the file.
    pub(crate) fn begin(self, mut replica: Replica) -> Result<Replica, Error> {
        for (name, url) in &self.remotes {
            match replica.add_remote(name, url) {
                // The app says where its remote is: another place than before takes the place of that.
                Err(Error::RemoteExists { url: known, .. }) => {
                    let encrypted = replica.remotes()?.iter().any(|remote| remote.name == *name && remote.encrypted);
                    if !encrypted {
                        return Err(Error::RemotePlain { name: name.clone() });
                    }
                    if known.trim_end_matches('/') != url.trim_end_matches('/') {
                        tracing::info!(remote = name, from = known, to = url, "the remote is somewhere else now");
                        replica.remove_remote(name)?;
                        replica.add_remote(name, url)?;
                    }
                }
                other => other?,
            }
        }
        if let Some(sync) = &self.auto {
            replica.auto = Some(Auto::start(&replica.inner, sync, self.peers.as_ref())?);
        }
        Ok(replica)
    }
}

impl Replica {
    /// What happens while the replica syncs by itself ([`Builder::auto_sync`]); `None` if it does not. The first receiver has all
    /// since the start, others what comes from now on.
    pub fn events(&self) -> Option<broadcast::Receiver<LiveEvent>> {
        let auto = self.running()?;
        let first = auto.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(first.unwrap_or_else(|| auto.events.subscribe()))
    }

    /// Where others can call this device now, `host:port` each, while it syncs by itself ([`Builder::auto_sync`]).
    pub fn reachable_at(&self) -> Vec<String> {
        self.running().map_or_else(Vec::new, |auto| auto.addresses.borrow().clone())
    }

    fn running(&self) -> Option<Arc<Auto>> {
        let shared = || Weak::upgrade(&self.inner.auto.lock().unwrap_or_else(PoisonError::into_inner));
        self.auto.clone().or_else(shared)
    }
}
