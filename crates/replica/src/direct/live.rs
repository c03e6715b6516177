//! Staying connected: listening, dialing, and trying again.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use isle_clock::{SiteId, VersionVector};
use isle_identity::DeviceKey;
use isle_transport::{Arrival, CloseCode, Connection, DEFAULT_PORT, Discovery, Endpoint, own_addresses};
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;

use super::contents::{self, CONTENTS};
use super::credentials::{self, CREDENTIALS};
use super::hub::Hub;
use super::once::{self, Target};
use super::pairing::{self, PAIRING};
use super::peers::PeerState;
use super::session::{self, Ended, ONCE, Purpose, SESSION};
use super::{remotes, watch};
use crate::replica::{Inner, Replica};
use crate::sync::{SyncReport, blocking};
use crate::{Error, Pushed};

/// Callers that do not belong to the group and are heard out at once.
const STRANGERS_MAX: usize = 32;
/// How long one may take to say anything.
const STRANGER: Duration = Duration::from_secs(3);
/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause before a peer is dialed again, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// How often new peers and addresses are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How to stay connected.
#[derive(Debug, Clone, Default)]
pub struct LiveOptions {
    /// The address to listen at; port 0 takes any that is free. `None` only dials.
    pub listen: Option<SocketAddr>,
    /// Listens at all addresses of this machine, at this port; 0 takes any that is free. Without effect beside `listen`.
    pub port: Option<u16>,
    /// Where else this device can be reached, `host:port` each: a name, or the outside of a router.
    pub addresses: Vec<String>,
    /// Looks for devices of the group on the local network, and announces this one if it listens (multicast DNS). What is announced tells
    /// others only that some device with isle is there.
    pub discover: bool,
    /// Syncs with the remotes too: at once, soon after local changes, and this long after the last time; less often while one fails.
    pub remotes: Option<Duration>,
}

/// What happens while a replica is live.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LiveEvent {
    /// A session with a device has begun.
    Connected {
        /// Its key.
        key: DeviceKey,
        /// Its name.
        name: String,
        /// Where it is.
        address: String,
    },
    /// Each side has all that the other had.
    CaughtUp {
        /// Its key.
        key: DeviceKey,
        /// Its name.
        name: String,
    },
    /// Changesets went over the connection.
    Exchanged {
        /// Its key.
        key: DeviceKey,
        /// Its name.
        name: String,
        /// How many were merged here, from whomever.
        received: u64,
        /// How many of this replica's own were sent.
        sent: u64,
    },
    /// A session has ended.
    Disconnected {
        /// Its key.
        key: DeviceKey,
        /// Its name.
        name: String,
        /// Why, if something was wrong.
        reason: Option<String>,
    },
    /// A device was let into the group.
    Joined {
        /// Its key.
        key: DeviceKey,
        /// Its name.
        name: String,
    },
    /// A sync with a remote has ended.
    Synced {
        /// What it did.
        report: Box<SyncReport>,
    },
    /// Contents of the file library were put into a remote.
    FilesPushed {
        /// The remote's name.
        remote: String,
        /// What was put.
        pushed: Box<Pushed>,
    },
    /// A sync with a remote has failed; it is tried again.
    SyncFailed {
        /// The remote's name.
        remote: String,
        /// Why.
        reason: String,
    },
    /// The replica cannot sync by itself now; it is tried again. Of [`Builder::auto_sync`](crate::Builder::auto_sync).
    Offline {
        /// Why.
        reason: String,
    },
    /// Something that a device sent was refused: forged, altered, or too far in the future. Other devices are not affected.
    Refused {
        /// The key of the device that sent it.
        key: DeviceKey,
        /// Its name.
        name: String,
        /// What, and why.
        reason: String,
    },
    /// A site has two histories, of which one is here and the other there ([`Status::forks`](crate::Status::forks)).
    Forked {
        /// The site.
        site: SiteId,
        /// The first version that differs.
        version: u64,
        /// The device that has the other one.
        name: String,
    },
    /// A caller was turned away.
    TurnedAway {
        /// Where it called from.
        address: String,
        /// Why.
        reason: String,
    },
}

/// A device that is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Its key.
    pub key: DeviceKey,
    /// Where it is.
    pub address: String,
    /// Bytes sent, in UDP datagrams.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Datagrams, both ways.
    pub packets: u64,
}

/// A replica that stays connected with its peers. It ends with [`Live::stop`], or when it is dropped.
#[derive(Debug)]
pub struct Live {
    hub: Arc<Hub>,
    endpoint: Endpoint,
    tasks: JoinSet<()>,
    /// Two processes on one file would push each other's connections out.
    _lock: std::fs::File,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Replica {
    /// Connects with every peer whose address is known, listens for others if asked to, and pushes and takes what is new until it is stopped.
    /// Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`Error::Transport`] when the address to listen at cannot be had; [`Error::AlreadyLive`] when another process, or another [`Live`], is
    /// connected on this file; SQLite's reason, or the key store's.
    pub async fn go_live(&self, options: &LiveOptions) -> Result<Live, Error> {
        self.go_live_since(options, None).await
    }

    /// The same; with `since` remotes are not synced with before something else than that is here, or the interval is over.
    pub(crate) async fn go_live_since(
        &self,
        options: &LiveOptions,
        since: Option<VersionVector>,
    ) -> Result<Live, Error> {
        let inner = &self.inner;
        let secret = blocking(inner, Hub::secret).await?;
        let endpoint = match (options.listen, options.port) {
            (Some(address), _) => Endpoint::listen(&secret, address),
            (None, Some(port)) => Endpoint::listen_everywhere(&secret, port),
            (None, None) => Endpoint::dial_only(&secret),
        };
        let endpoint = endpoint.map_err(|source| Error::Transport { source })?;
        let mut addresses = options.addresses.clone();
        if options.listen.is_some() || options.port.is_some() {
            let local = endpoint.local_address().map_err(|source| Error::Transport { source })?;
            let own = match local.ip().is_unspecified() {
                true => own_addresses(local.port()),
                false => vec![local],
            };
            addresses.extend(own.iter().map(SocketAddr::to_string));
            addresses.truncate(isle_identity::ADDRESSES_MAX);
        }
        let hub = Hub::start(inner, addresses).await?;
        let held = Arc::clone(&hub);
        let lock = blocking(inner, move |inner| inner.key_store()?.lock_live(&inner.path, &held.addresses));
        let lock = lock.await?.ok_or(Error::AlreadyLive)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(watch::run(Arc::clone(&hub)));
        tasks.spawn(dial_all(Arc::clone(&hub), endpoint.clone()));
        let listens = options.listen.is_some() || options.port.is_some();
        if listens {
            tasks.spawn(listen(Arc::clone(&hub), endpoint.clone()));
        }
        if let Some(interval) = options.remotes {
            tasks.spawn(remotes::run(Arc::clone(&hub), interval, since));
        }
        if options.discover {
            let port = endpoint.local_address().map_err(|source| Error::Transport { source })?.port();
            tasks.spawn(discover(Arc::clone(&hub), endpoint.clone(), listens.then_some(port)));
        }
        Ok(Live { hub, endpoint, tasks, _lock: lock })
    }

    /// Where another process listens on this file, `host:port` each: it answers invitations that are made here.
    ///
    /// # Errors
    /// SQLite's reason, or the key store's.
    pub fn listening_elsewhere(&self) -> Result<Vec<String>, Error> {
        self.inner.key_store()?.live_addresses(&self.inner.path)
    }

    /// The port at which devices listen if nothing else is said.
    pub const DEFAULT_PORT: u16 = DEFAULT_PORT;
}

impl Live {
    /// Where this replica can be reached, `host:port` each; none if it does not listen.
    pub fn addresses(&self) -> &[String] {
        &self.hub.addresses
    }

    /// What happens from now on. A listener that falls far behind learns that it did.
    pub fn events(&self) -> broadcast::Receiver<LiveEvent> {
        self.hub.events.subscribe()
    }

    /// Devices that are connected now, and what went over each connection since it was made.
    pub fn connected(&self) -> Vec<Connected> {
        let connected = self.hub.connected().into_iter().map(|(key, connection)| {
            let traffic = connection.traffic();
            Connected {
                key,
                address: connection.address().to_string(),
                sent_bytes: traffic.sent_bytes,
                received_bytes: traffic.received_bytes,
                packets: traffic.sent_packets + traffic.received_packets,
            }
        });
        connected.collect()
    }

    /// Ends all sessions, tells the peers, and records what was handed over.
    ///
    /// # Errors
    /// SQLite's reason, or the key store's.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.hub.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        self.endpoint.close().await;
        let hub = Arc::clone(&self.hub);
        blocking(&self.hub.inner, move |_| hub.flush()).await
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.hub.stop.send_replace(true);
    }
}

/// Takes callers.
async fn listen(hub: Arc<Hub>, endpoint: Endpoint) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut callers = JoinSet::new();
    loop {
        tokio::select! {
            () = hub.stopped() => break,
            arrival = endpoint.accept() => match arrival {
                Some(arrival) => drop(callers.spawn(take_call(Arc::clone(&hub), arrival, Arc::clone(&strangers)))),
                None => break,
            },
            Some(_) = callers.join_next() => {}
        }
    }
    while callers.join_next().await.is_some() {}
}

async fn take_call(hub: Arc<Hub>, arrival: Arrival, strangers: Arc<Semaphore>) {
    let turned_away = |address: String, reason: String| {
        tracing::info!(address, reason, "a caller was turned away");
        hub.tell(LiveEvent::TurnedAway { address, reason });
    };
    let connection = match arrival.connection().await {
        Ok(connection) => connection,
        // It has proved no key: a caller that reached this device at another address already, or noise.
        Err(error) => return tracing::debug!(%error, "a caller has gone"),
    };
    let address = connection.address().to_string();
    if let Err(error) = answer(&hub, &connection, &strangers).await {
        // What went wrong here is nothing to a stranger.
        let told = matches!(error, Error::NotEnrolled { .. } | Error::Busy);
        let told = if told { error.to_string() } else { "something went wrong at the other end".to_owned() };
        connection.close(CloseCode::Unknown, &told);
        turned_away(address, error.to_string());
    }
}

/// What came of hearing a stranger.
enum Heard {
    HungUp,
    /// It asked to be let in; its name if it was.
    Asked(Option<String>),
    /// It showed that it belongs to the group.
    Known,
}

/// Serves a caller until it goes; what is an error here is why it is turned away.
async fn answer(hub: &Arc<Hub>, connection: &Connection, strangers: &Semaphore) -> Result<(), Error> {
    let key = connection.key();
    let failed = |source| Error::Peer { name: key.short(), source };
    let mut _seat = None;
    if !hub.membership().is_member(&key) {
        // A stranger gets one of few seats, and not for long.
        let seat = strangers.try_acquire().map_err(|_| Error::Busy)?;
        let heard = tokio::time::timeout(4 * PATIENCE, async {
            let accepted = tokio::time::timeout(STRANGER, connection.accept()).await.unwrap_or(Ok(None));
            let Some(mut stream) = accepted.map_err(failed)? else { return Ok(Heard::HungUp) };
            match stream.receive_byte().await.map_err(failed)? {
                PAIRING => Ok(Heard::Asked(pairing::hear(hub, connection, stream).await?)),
                CREDENTIALS => {
                    let (_, mut receive) = stream.split();
                    let shown = credentials::read(&mut receive).await.map_err(failed)?;
                    let work = Arc::clone(hub);
                    let known = blocking(&hub.inner, move |inner| {
                        let known = credentials::take(inner, key, &shown)?;
                        work.refresh_operations()?;
                        Ok(known)
                    });
                    if known.await? { Ok(Heard::Known) } else { Err(Error::NotEnrolled { key: key.short() }) }
                }
                _ => Err(Error::NotEnrolled { key: key.short() }),
            }
        });
        let heard = tokio::select! {
            () = hub.stopped() => return Ok(()),
            heard = heard => heard,
        };
        match heard {
            Ok(Ok(Heard::HungUp)) => return Ok(()),
            Ok(Ok(Heard::Known)) => {}
            Ok(Ok(Heard::Asked(Some(name)))) => hub.tell(LiveEvent::Joined { key, name }),
            Ok(Ok(Heard::Asked(None))) => return Err(Error::NotEnrolled { key: key.short() }),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Error::NotEnrolled { key: key.short() }),
        }
        _seat = Some(seat);
    }
    let stream = tokio::time::timeout(PATIENCE, async {
        loop {
            let Some(mut stream) = connection.accept().await.map_err(failed)? else { return Ok(None) };
            match stream.receive_byte().await.map_err(failed)? {
                SESSION => return Ok(Some((stream, Some(Purpose::Stay)))),
                ONCE => return Ok(Some((stream, Some(Purpose::Once)))),
                CONTENTS => return Ok(Some((stream, None))),
                // It did not know that it is known here.
                CREDENTIALS => {}
                // A member with a ticket may join with another file of its device.
                PAIRING => {
                    if let Some(name) = pairing::hear(hub, connection, stream).await? {
                        hub.tell(LiveEvent::Joined { key, name });
                    }
                }
                _ => return Err(Error::NotEnrolled { key: key.short() }),
            }
        }
    });
    let Some((stream, purpose)) = stream.await.map_err(|_| Error::Cancelled)?? else { return Ok(()) };
    drop(_seat);
    let Some(purpose) = purpose else {
        contents::serve(hub, connection, stream).await;
        return Ok(());
    };
    let Ended { result, .. } = session::run(hub, connection.clone(), stream, false, purpose).await;
    if let Err(error) = &result {
        tracing::warn!(device = %key.short(), %error, "a session has ended");
        once::heal(&hub.inner, error).await?;
    }
    Ok(())
}

/// Looks for devices on the local network. A machine without multicast goes on without.
async fn discover(hub: Arc<Hub>, endpoint: Endpoint, port: Option<u16>) {
    let group = match blocking(&hub.inner, |inner| Ok(inner.store.status()?.group)).await {
        Ok(group) => group,
        Err(error) => return tracing::warn!(%error, "devices on the local network are not looked for"),
    };
    let own = isle_identity::beacon(group, &hub.own);
    let discovery = match Discovery::start(port.map(|port| (own.as_str(), port))) {
        Ok(discovery) => discovery,
        Err(error) => return tracing::warn!(%error, "devices on the local network are not looked for"),
    };
    let mut moves = JoinSet::new();
    loop {
        let found = tokio::select! {
            () = hub.stopped() => break,
            Some(_) = moves.join_next() => continue,
            found = discovery.next() => match found {
                Some(found) => found,
                None => break,
            },
        };
        let looked = blocking(&hub.inner, move |inner| Ok(inner.store.membership()?)).await;
        let Ok(membership) = looked else { continue };
        let mut members = membership.members.keys();
        let Some(key) = members.find(|key| isle_identity::beacon(group, key) == found.beacon) else { continue };
        if *key != hub.own {
            tracing::info!(device = %key.short(), addresses = ?found.addresses, "found on the local network");
            let addresses: Vec<String> = found.addresses.iter().map(SocketAddr::to_string).collect();
            let moved = hub.dialed_at(key).is_some_and(|address| !addresses.contains(&address));
            hub.found.lock().unwrap_or_else(PoisonError::into_inner).insert(*key, addresses.clone());
            if moved && !addresses.is_empty() {
                // A connection to where it was would not be missed before it has been silent for long.
                let target = Target { key: *key, name: key.short(), addresses };
                moves.spawn(follow(Arc::clone(&hub), endpoint.clone(), target));
            }
        }
    }
    while moves.join_next().await.is_some() {}
}

/// Connects with a device where it is now; the new session takes the place of the old one.
async fn follow(hub: Arc<Hub>, endpoint: Endpoint, target: Target) {
    match once::dial(&endpoint, &target).await {
        Ok(connection) => drop(once::converse(&hub, connection, Purpose::Stay).await),
        Err(error) => tracing::debug!(device = target.name, %error, "it is not where it says"),
    }
}

/// Keeps a task for each peer that can be dialed.
async fn dial_all(hub: Arc<Hub>, endpoint: Endpoint) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut tasks = JoinSet::new();
    let mut dialed: Vec<DeviceKey> = Vec::new();
    loop {
        tokio::select! {
            () = hub.stopped() => break,
            Some(ended) = tasks.join_next() => {
                if let Ok(key) = ended {
                    dialed.retain(|known| *known != key);
                }
            }
            _ = ticks.tick() => {
                let found = hub.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let targets = blocking(&hub.inner, move |inner| once::targets(inner, &found)).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot look for peers");
                    Vec::new()
                });
                for target in targets.into_iter().filter(|target| !hub.is_connected(&target.key)) {
                    if !dialed.contains(&target.key) {
                        dialed.push(target.key);
                        tasks.spawn(keep_up(Arc::clone(&hub), endpoint.clone(), target));
                    }
                }
            }
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// Dials a peer until it is connected and has gone again; pauses grow.
async fn keep_up(hub: Arc<Hub>, endpoint: Endpoint, mut target: Target) -> DeviceKey {
    let mut pause = PAUSE_MIN;
    while !hub.is_stopped() && !hub.is_connected(&target.key) {
        match look_up(&hub, &target).await {
            Some(now) if now.addresses == target.addresses => {}
            Some(now) => (target, pause) = (now, PAUSE_MIN),
            // It belongs to the group no more, or nothing is known of where it is.
            None => break,
        }
        let attempt = async {
            let connection = once::dial(&endpoint, &target).await?;
            let Ended { result, .. } = once::converse(&hub, connection, Purpose::Stay).await;
            match result {
                Err(error) if once::heal(&hub.inner, &error).await?.is_some() => Ok(()),
                other => other,
            }
        };
        let result = tokio::select! {
            () = hub.stopped(), if !hub.is_connected(&target.key) => break,
            result = attempt => result,
        };
        match result {
            // It was connected: addresses may be others now.
            Ok(()) => break,
            Err(error) => {
                tracing::debug!(peer = target.name, %error, "cannot be reached");
                note(&hub.inner, target.key, &error).await;
            }
        }
        let jitter = u32::from(hub.inner.runtime.random()[0]);
        let paused = async {
            // A new address is tried at once.
            let until = tokio::time::Instant::now() + pause.mul_f32(0.75 + jitter as f32 / 512.0);
            while tokio::time::Instant::now() < until {
                tokio::time::sleep(LOOK_EVERY.min(pause)).await;
                if look_up(&hub, &target).await.is_none_or(|now| now.addresses != target.addresses) {
                    return;
                }
            }
        };
        tokio::select! {
            () = hub.stopped() => break,
            () = paused => {}
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
    target.key
}

/// What is known of a peer now.
async fn look_up(hub: &Arc<Hub>, target: &Target) -> Option<Target> {
    let found = hub.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let targets = blocking(&hub.inner, move |inner| once::targets(inner, &found)).await;
    targets.ok()?.into_iter().find(|now| now.key == target.key)
}

async fn note(inner: &Arc<Inner>, key: DeviceKey, error: &Error) {
    let reason = error.to_string();
    let noted = blocking(inner, move |inner| PeerState::update(&inner.store, key, |state| state.failed(reason)));
    if let Err(error) = noted.await {
        tracing::warn!(%error, "what came of a call cannot be noted");
    }
}
