//! What the sessions of a process share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use isle_clock::SiteId;
use isle_identity::{DeviceKey, DeviceSecret, Membership};
use isle_protocol::{OpKind, Operation};
use isle_transport::{CloseCode, Connection};
use tokio::sync::{broadcast, watch};

use super::live::LiveEvent;
use super::{keys, peers};
use crate::Error;
use crate::replica::Inner;
use crate::sync::blocking;

/// How often the record outside the file follows what is handed over, in milliseconds.
pub(super) const RECORD_EVERY_MS: u64 = 1_000;
/// Sessions that one device may have: one that stays, single syncs beside it, and some that are about to end.
const SESSIONS_OF_ONE_MAX: usize = 6;
/// Retired sites that are told to a peer.
const RETIRED_MAX: usize = 1 << 15;
/// Events that a slow listener may fall behind by.
const EVENTS_MAX: usize = 1_024;

/// All operations of both sets, parents first, each with its id.
pub(super) type Operations = Arc<Vec<([u8; 16], Operation)>>;

/// What the sessions of a process share.
pub(crate) struct Hub {
    pub(super) inner: Arc<Inner>,
    pub(super) own: DeviceKey,
    /// Where this device listens, for the hello.
    pub(super) addresses: Vec<String>,
    /// Changes when something was applied or written here.
    pub(super) news: watch::Sender<u64>,
    /// The operations, whenever there are new ones.
    pub(super) operations: watch::Sender<Operations>,
    pub(super) events: broadcast::Sender<LiveEvent>,
    pub(super) stop: watch::Sender<bool>,
    /// Sites that are retired here, whenever there are others than before.
    pub(super) retired: watch::Sender<Vec<(SiteId, u64)>>,
    /// The keys of the group by what they are known by, whenever there are others than before.
    pub(super) keys: watch::Sender<Vec<[u8; 16]>>,
    membership: RwLock<Arc<Membership>>,
    /// Where devices were found on the local network; not remembered beyond this process.
    pub(super) found: Mutex<HashMap<DeviceKey, Vec<String>>>,
    published: Mutex<Published>,
    sessions: Mutex<HashMap<DeviceKey, Held>>,
    /// How many sessions each device has, of either purpose.
    seats: Mutex<HashMap<DeviceKey, usize>>,
}

/// A session's seat among those of its device; given back when it is dropped.
pub(super) struct Seat {
    hub: Arc<Hub>,
    key: DeviceKey,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.hub.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = seats.get_mut(&self.key) {
            *count -= 1;
        }
        seats.retain(|_, count| *count > 0);
    }
}

/// What was handed over of the own site.
#[derive(Debug, Default)]
struct Published {
    site: Option<SiteId>,
    /// On the disk, in the file.
    marked: u64,
    /// Outside the file.
    recorded: u64,
    recorded_ms: u64,
}

/// A session that stays, and who dialed.
#[derive(Debug)]
struct Held {
    connection: Connection,
    dialer: DeviceKey,
    id: u64,
}

impl Hub {
    pub(super) async fn start(inner: &Arc<Inner>, addresses: Vec<String>) -> Result<Arc<Hub>, Error> {
        let shared = Arc::clone(inner);
        blocking(inner, move |_| Hub::new(&shared, addresses)).await
    }

    /// The same. Blocks.
    pub(super) fn new(inner: &Arc<Inner>, addresses: Vec<String>) -> Result<Arc<Hub>, Error> {
        confirm_identity(inner)?;
        let membership = inner.store.membership()?;
        let (own, operations, retired, keys) =
            (inner.device()?.key, operations(inner)?, retired(inner)?, keys::ids(inner)?);
        Ok(Arc::new(Hub {
            inner: Arc::clone(inner),
            own,
            addresses,
            news: watch::Sender::new(0),
            operations: watch::Sender::new(operations),
            events: broadcast::Sender::new(EVENTS_MAX),
            stop: watch::Sender::new(false),
            retired: watch::Sender::new(retired),
            keys: watch::Sender::new(keys),
            membership: RwLock::new(Arc::new(membership)),
            found: Mutex::default(),
            published: Mutex::default(),
            sessions: Mutex::default(),
            seats: Mutex::default(),
        }))
    }

    pub(super) fn secret(inner: &Inner) -> Result<DeviceSecret, Error> {
        inner.key_store()?.secret(inner.runtime.as_ref())
    }

    /// Waits until the sessions are to end.
    pub(super) async fn stopped(&self) {
        // Without a sender there is nothing to wait for any more.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    pub(super) fn tell(&self, event: LiveEvent) {
        // Nobody listens: that is no error.
        let _ = self.events.send(event);
    }

    /// Something was applied or written here: the sessions look.
    pub(super) fn bump(&self) {
        self.news.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Reads the operations again, and tells the sessions if there are others than before.
    pub(super) fn refresh_operations(&self) -> Result<(), Error> {
        let known = self.operations.borrow().len();
        let now = operations(&self.inner)?;
        if now.len() != known {
            let membership = Arc::new(self.inner.store.membership()?);
            *self.membership.write().unwrap_or_else(PoisonError::into_inner) = membership;
            // Each session looks whether its device still belongs.
            self.operations.send_replace(now);
        }
        update(&self.retired, retired(&self.inner)?);
        Ok(())
    }

    /// Reads the keys of the group again, and tells the sessions if there are others than before. Any file of this device may have got one.
    pub(super) fn refresh_keys(&self) -> Result<(), Error> {
        update(&self.keys, keys::ids(&self.inner)?);
        Ok(())
    }

    /// Whether a device may be given what is here: as the file says now, whoever changed it.
    pub(super) fn may_have(&self, key: &DeviceKey) -> Result<bool, Error> {
        let count = |all: &Operations| all.iter().filter(|(_, op)| op.kind == OpKind::Member).count();
        if self.inner.store.count_member_ops()? != count(&self.operations.borrow()) {
            self.refresh_operations()?;
        }
        Ok(self.may_talk(key))
    }

    /// Who belongs to the group, as of the last look.
    pub(super) fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this device and the other belong to the group.
    pub(super) fn may_talk(&self, key: &DeviceKey) -> bool {
        let membership = self.membership();
        membership.is_member(key) && membership.is_member(&self.own)
    }

    /// A seat for a session with a device, if it does not have too many.
    pub(super) fn take_seat(self: &Arc<Hub>, key: DeviceKey) -> Option<Seat> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seats.entry(key).or_insert(0);
        if *count >= SESSIONS_OF_ONE_MAX {
            return None;
        }
        *count += 1;
        Some(Seat { hub: Arc::clone(self), key })
    }

    /// Makes own versions up to this one durable, and sees to the record outside the file. Blocks.
    pub(super) fn publish(&self, site: SiteId, version: u64) -> Result<(), Error> {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if published.site != Some(site) {
            *published = Published { site: Some(site), ..Published::default() };
        }
        let now = self.inner.runtime.now_ms();
        if version > published.marked {
            self.inner.mark_signed(version)?;
            published.marked = version;
        }
        if published.recorded == 0 || now.saturating_sub(published.recorded_ms) >= RECORD_EVERY_MS {
            self.inner.record_outside(site, published.marked)?;
            (published.recorded, published.recorded_ms) = (published.marked, now);
        }
        Ok(())
    }

    /// Brings the record outside the file up to date. Blocks.
    pub(super) fn flush(&self) -> Result<(), Error> {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(site) = published.site.filter(|_| published.recorded < published.marked) else { return Ok(()) };
        self.inner.record_outside(site, published.marked)?;
        published.recorded = published.marked;
        Ok(())
    }

    /// Takes up a session that stays; of two that the same devices opened to each other at once, the one stays that the device with the larger key
    /// dialed. False if this one goes.
    pub(super) fn hold(&self, connection: &Connection, dialed: bool, id: u64) -> bool {
        let key = connection.key();
        let dialer = if dialed { self.own } else { key };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = sessions.get(&key) {
            if held.dialer != dialer && held.dialer > dialer {
                return false;
            }
            held.connection.close(CloseCode::Done, "another connection of these devices takes its place");
        }
        sessions.insert(key, Held { connection: connection.clone(), dialer, id });
        true
    }

    pub(super) fn release(&self, key: &DeviceKey, id: u64) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(key).is_some_and(|held| held.id == id) {
            sessions.remove(key);
        }
    }

    pub(super) fn is_connected(&self, key: &DeviceKey) -> bool {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Where a device is to which this one is connected because it dialed.
    pub(super) fn dialed_at(&self, key: &DeviceKey) -> Option<String> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let held = sessions.get(key).filter(|held| held.dialer == self.own);
        held.map(|held| held.connection.address().to_string())
    }

    pub(super) fn connected(&self) -> Vec<(DeviceKey, Connection)> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().map(|(key, held)| (*key, held.connection.clone())).collect()
    }
}

/// Tells of a value if it is another than before.
fn update<T: PartialEq>(told: &watch::Sender<T>, now: T) {
    told.send_if_modified(|known| {
        let news = *known != now;
        *known = now;
        news
    });
}

/// Records foreign writes, and sees that this file is the one that last spoke under its site id. Blocks.
pub(crate) fn confirm_identity(inner: &Inner) -> Result<(), Error> {
    inner.store.seal()?;
    // A sync with a remote that is under way has looked, and goes on speaking as the present site.
    if let Ok(_nobody_else) = inner.syncing.try_lock() {
        if let Some(reason) = inner.doubt_identity()? {
            tracing::warn!(path = %inner.path.display(), reason, "taking a new site id");
            inner.new_site(0)?;
        }
        inner.leave_retired_site()?;
        inner.store.bring_back_clock()?;
    }
    peers::membership(inner)?;
    peers::rename(inner, &inner.device()?)
}

/// Retired sites, as far as a peer is told of them.
pub(super) fn retired(inner: &Inner) -> Result<Vec<(SiteId, u64)>, Error> {
    Ok(inner.store.retired()?.into_iter().take(RETIRED_MAX).collect())
}

fn operations(inner: &Inner) -> Result<Operations, Error> {
    let schema = inner.store.schema_ops_beyond(&Default::default())?.into_iter();
    let schema = schema.map(|(id, op)| (OpKind::Schema, (*id.as_bytes(), op)));
    let members = inner.store.member_ops()?.into_iter().map(|op| (OpKind::Member, op));
    let all = schema.chain(members).map(|(kind, (id, bytes))| (id, Operation { kind, bytes: bytes.into() }));
    Ok(Arc::new(all.collect()))
}
