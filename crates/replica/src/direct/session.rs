//! One session: bytes of a connection, a state machine, and the store.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use isle_clock::VersionVector;
use isle_identity::DeviceKey;
use isle_protocol::{Action, Answer, ByeCode, Config, Event, Hello, Session, SessionError};
use isle_transport::{CloseCode, Connection, Stream, TransportError};
use tokio::sync::mpsc;

use super::actions::Desk;
use super::hub::Hub;
use super::live::LiveEvent;
use super::peers::PeerState;
use crate::Error;
use crate::operations::note_operation;
use crate::replica::Inner;
use crate::sync::{SyncReport, blocking};

/// How a stream begins that carries a session which stays.
pub(super) const SESSION: u8 = b's';
/// How one begins that carries a session which ends when all is exchanged.
pub(super) const ONCE: u8 = b'o';
/// Bytes taken from the connection at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Messages that wait for the connection.
const OUTGOING_MAX: usize = 16;
/// How soon after news of what the peer has that is noted in the file, and how often that it is still there, in milliseconds.
const NOTE_AFTER_MS: u64 = 2_000;
const NOTE_EVERY_MS: u64 = 300_000;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

type Work = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

/// A session and what it needs.
pub(super) struct Driver {
    hub: Arc<Hub>,
    desk: Arc<Desk>,
    session: Session,
    connection: Connection,
    /// Whether it ends when all is exchanged.
    once: bool,
    /// Whether what comes up later is sent as well.
    pushes: bool,
    reading: Option<Work>,
    writing: Option<Work>,
    told: (u64, u64),
    /// Refusals that were told.
    refused: usize,
    /// When what the peer has is to be noted, if there are news of that.
    note_ms: Option<u64>,
    /// Bytes sent and received that are noted already.
    counted: (u64, u64),
    /// Changes of what the peer has that are noted, or will be.
    news: u64,
    /// Keys that it was given in this session.
    given: Vec<[u8; 16]>,
}

/// How a session ended, and what it did.
pub(super) struct Ended {
    pub(super) report: SyncReport,
    pub(super) result: Result<(), Error>,
}

/// What is left of a session.
struct Driven {
    result: Result<(), Error>,
    /// What the peer had applied.
    has: VersionVector,
    /// Bytes sent and received that are noted already.
    counted: (u64, u64),
    /// Whether it said hello: a device that turned this one away was not talked to.
    greeted: bool,
}

/// Numbers for sessions.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To push what comes up.
    Stay,
    /// To exchange what there is; the caller ends it.
    Once,
}

/// Runs a session over a stream that both ends have opened for it.
pub(super) async fn run(
    hub: &Arc<Hub>,
    connection: Connection,
    stream: Stream,
    dialed: bool,
    purpose: Purpose,
) -> Ended {
    let (started, key) = (hub.inner.runtime.now_ms(), connection.key());
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let refuse = |error: Error| {
        connection.close(CloseCode::Unknown, &error.to_string());
        Ended { report: SyncReport::default(), result: Err(error) }
    };
    if let Err(error) = may_talk(hub, &key) {
        return refuse(error);
    }
    let Some(_seat) = hub.take_seat(key) else { return refuse(Error::Busy) };
    let work = Arc::clone(hub);
    let (hello, name) = match blocking(&hub.inner, move |_| hello(&work, &key)).await {
        Ok(begun) => begun,
        Err(error) => return Ended { report: SyncReport::default(), result: Err(error) },
    };
    if purpose == Purpose::Stay && !hub.hold(&connection, dialed, id) {
        connection.close(CloseCode::Done, "these devices are connected already");
        let report = SyncReport { remote: name, ..SyncReport::default() };
        return Ended { report, result: Ok(()) };
    }
    hub.tell(LiveEvent::Connected { key, name: name.clone(), address: connection.address().to_string() });
    let desk = Arc::new(Desk::new(hub, key, name.clone(), hello.site));
    let driver = Driver {
        hub: Arc::clone(hub),
        desk: Arc::clone(&desk),
        session: Session::new(Config { hello }, started),
        connection: connection.clone(),
        once: purpose == Purpose::Once && dialed,
        pushes: purpose == Purpose::Stay,
        reading: None,
        writing: None,
        told: (0, 0),
        refused: 0,
        note_ms: None,
        counted: (0, 0),
        news: 0,
        given: Vec::new(),
    };
    let Driven { result, has, counted, greeted } = driver.drive(stream).await;
    // A sync with a remote may wait for it, and what follows for that.
    desk.stage_no_more();
    if desk.report().was_retired {
        let _nobody_else = hub.inner.syncing.lock().await;
        if let Err(error) = blocking(&hub.inner, Inner::leave_retired_site).await {
            tracing::warn!(%error, "this replica was retired, and cannot take a new site id yet");
        }
    }
    hub.release(&key, id);
    let mut report = desk.report();
    let traffic = connection.traffic();
    (report.uploaded_bytes, report.downloaded_bytes) = (traffic.sent_bytes, traffic.received_bytes);
    report.duration_ms = hub.inner.runtime.now_ms().saturating_sub(started);
    let failure = result.as_ref().err().map(ToString::to_string);
    let work = Arc::clone(hub);
    let remembered = failure.clone();
    let noted = blocking(&hub.inner, move |inner| {
        work.flush()?;
        inner.discard_needless_snapshot()?;
        PeerState::update(&inner.store, key, |state| {
            state.count(&traffic, counted);
            state.last_error = remembered;
            if greeted {
                state.last_seen_ms = Some(inner.runtime.now_ms());
            }
            state.learn_versions(&has);
        })?;
        Ok(inner.store.status()?)
    });
    match noted.await {
        Ok(status) => report.describe(status),
        Err(error) => tracing::warn!(%error, "what a session did cannot be noted"),
    }
    report.conflict_detected = report.conflicts > 0;
    if purpose == Purpose::Stay || !dialed {
        // Whoever asked for a single sync notes it.
        let outcome = match &failure {
            None => Ok(&report),
            Some(reason) => Err(reason.clone()),
        };
        note_operation(&hub.inner, &name, started, outcome).await;
    }
    hub.tell(LiveEvent::Disconnected { key, name, reason: failure });
    Ended { report, result }
}

/// Whether this device may talk to another, and why not.
pub(super) fn may_talk(hub: &Hub, key: &DeviceKey) -> Result<(), Error> {
    if hub.may_talk(key) {
        return Ok(());
    }
    let revoked = hub.membership().is_revoked(&hub.own);
    let own = revoked || !hub.membership().is_member(&hub.own);
    Err(if own { Error::NotMember { revoked } } else { Error::NotEnrolled { key: key.short() } })
}

/// What a session with a device says first, and what that device is called. Blocks.
pub(super) fn hello(hub: &Hub, key: &DeviceKey) -> Result<(Hello, String), Error> {
    let inner = &hub.inner;
    let status = inner.store.status()?;
    let nonce = inner.store.site_nonce()?.unwrap_or_default();
    let device = inner.device()?;
    if isle_identity::site_id(&device.key, &nonce) != status.site {
        // It takes a new site id at this very moment.
        return Err(Error::SiteChanged);
    }
    let name = inner.store.membership()?.members.get(key).map_or_else(|| key.short(), |it| it.name.clone());
    let hello = Hello {
        version: 0,
        oldest: 0,
        group: status.group,
        site: status.site,
        nonce,
        app: status.app,
        device: device.name,
        addresses: hub.addresses.clone(),
        schema: inner.store.schema_ids()?,
        members: inner.store.member_ops()?.into_iter().map(|(id, _)| id).collect(),
        keys: super::keys::ids(inner)?,
        others: super::peers::others(inner, key)?,
    };
    Ok((hello, name))
}

/// What the peer is told of how a session ended here.
pub(super) fn goodbye(result: &Result<(), Error>) -> (ByeCode, String) {
    match result {
        Ok(()) => (ByeCode::Done, "all is exchanged".to_owned()),
        Err(Error::Session { source: SessionError::Closed { .. }, .. }) => (ByeCode::Done, String::new()),
        Err(Error::Session { source, .. }) => (source.code(), source.to_string()),
        Err(Error::SiteChanged) => (ByeCode::Restart, "this replica goes on under a new site id".to_owned()),
        // What went wrong here is nothing to a stranger.
        Err(Error::Refused { reason, .. }) => (ByeCode::Broken, reason.clone()),
        Err(error @ Error::NotEnrolled { .. }) => (ByeCode::Unknown, error.to_string()),
        Err(_) => (ByeCode::Failed, "something went wrong at the other end; its log says what".to_owned()),
    }
}

/// Whether the store is written to by what a session asks for.
pub(super) fn writes(action: &Action) -> bool {
    matches!(
        action,
        Action::PutOperations(_)
            | Action::Put(_)
            | Action::Retire(_)
            | Action::Consider(_)
            | Action::Stage(_)
            | Action::StageParts(_)
            | Action::Join
    )
}

impl Driver {
    async fn drive(mut self, stream: Stream) -> Driven {
        let (mut send, mut receive) = stream.split();
        let (outgoing, mut queue) = mpsc::channel::<Bytes>(OUTGOING_MAX);
        let sending = tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if send.send(bytes).await.is_err() {
                    return;
                }
            }
            let _ = tokio::time::timeout(GOODBYE, send.finish()).await;
        });
        let result = match self.exchange(&mut receive, &outgoing).await {
            // The other end has all, and goes.
            Err(Error::Session { source: SessionError::Closed { code: ByeCode::Done, .. }, .. })
                if !self.once || self.session.is_caught_up() =>
            {
                Ok(())
            }
            other => other,
        };
        let (code, reason) = goodbye(&result);
        self.session.close(code, reason);
        while let Some(bytes) = self.session.poll_output(self.hub.inner.runtime.now_ms()) {
            if tokio::time::timeout(GOODBYE, outgoing.send(bytes)).await.is_err() {
                break;
            }
        }
        drop(outgoing);
        // The goodbye is delivered before the connection goes.
        let _ = tokio::time::timeout(GOODBYE, sending).await;
        self.connection.close(CloseCode::Done, "the session is over");
        Driven {
            result,
            has: self.session.peer_applied().clone(),
            counted: self.counted,
            greeted: self.session.peer().is_some(),
        }
    }

    fn failed(&self, source: SessionError) -> Error {
        Error::Session { name: self.desk.name.clone(), source }
    }

    async fn exchange(
        &mut self,
        receive: &mut isle_transport::Receiver,
        outgoing: &mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let mut news = self.hub.news.subscribe();
        let mut operations = self.hub.operations.subscribe();
        let mut retired = self.hub.retired.subscribe();
        let mut keys = self.hub.keys.subscribe();
        let hub = Arc::clone(&self.hub);
        if !hub.may_talk(&self.desk.key) {
            // It was put out between the first look and this one, from which on news are heard.
            return Err(Error::NotEnrolled { key: self.desk.key.short() });
        }
        let mut waiting: Option<Bytes> = None;
        loop {
            self.start_work();
            self.tell_events();
            let now = self.hub.inner.runtime.now_ms();
            while waiting.is_none()
                && let Some(bytes) = self.session.poll_output(now)
            {
                if let Err(mpsc::error::TrySendError::Full(bytes)) = outgoing.try_send(bytes) {
                    waiting = Some(bytes);
                }
                self.start_work();
            }
            self.tell_events();
            if self.once && waiting.is_none() && self.session.is_caught_up() {
                return Ok(());
            }
            self.note_if_due(now);
            let next = self.session.poll_timeout().into_iter().chain(self.note_ms).min();
            let pause = next.map(|at| Duration::from_millis(at.saturating_sub(now)));
            tokio::select! {
                chunk = receive.receive(CHUNK_BYTES) => self.take(chunk)?,
                answer = finished(&mut self.reading) => {
                    self.reading = None;
                    self.session.handle_answer(answer?).map_err(|source| self.failed(source))?;
                }
                answer = finished(&mut self.writing) => {
                    self.writing = None;
                    self.session.handle_answer(answer?).map_err(|source| self.failed(source))?;
                }
                permit = outgoing.reserve(), if waiting.is_some() => match (permit, waiting.take()) {
                    (Ok(permit), Some(bytes)) => permit.send(bytes),
                    _ => return Err(self.lost("the connection is gone")),
                },
                changed = news.changed(), if self.pushes => match changed {
                    Ok(()) => self.session.handle_local(),
                    Err(_) => return Ok(()),
                },
                changed = operations.changed() => match changed {
                    Ok(()) if !self.hub.may_talk(&self.desk.key) => {
                        let key = self.desk.key.short();
                        tracing::warn!(device = key, "a device was put out of the group and is cut off");
                        return Err(Error::NotEnrolled { key });
                    }
                    Ok(()) => {
                        let all = Arc::clone(&operations.borrow_and_update());
                        self.session.handle_operations(all.as_ref().clone());
                    }
                    Err(_) => return Ok(()),
                },
                changed = keys.changed() => match changed {
                    Ok(()) => {
                        let (key, work) = (self.desk.key, Arc::clone(&self.hub));
                        let mut known = self.given.clone();
                        known.extend(self.session.peer().iter().flat_map(|hello| &hello.keys));
                        let all = blocking(&self.hub.inner, move |inner| {
                            let all = super::keys::wrapped(inner, key, &known)?;
                            work.refresh_operations()?;
                            Ok(all)
                        });
                        let all = all.await?;
                        // Who was put out goes first, so that the peer does not hand the new key to it.
                        let known = Arc::clone(&self.hub.operations.borrow());
                        self.session.handle_operations(known.as_ref().clone());
                        self.given.extend(all.iter().map(|(id, _)| *id));
                        self.session.handle_operations(all);
                    }
                    Err(_) => return Ok(()),
                },
                changed = retired.changed() => match changed {
                    Ok(()) => self.session.handle_retired(retired.borrow_and_update().clone()),
                    Err(_) => return Ok(()),
                },
                () = hub.stopped() => return Ok(()),
                () = sleep(pause) => {
                    let now = self.hub.inner.runtime.now_ms();
                    self.session.handle_timeout(now).map_err(|source| self.failed(source))?;
                }
            }
        }
    }

    fn lost(&self, reason: &str) -> Error {
        Error::Peer { name: self.desk.name.clone(), source: TransportError::Closed { reason: reason.to_owned() } }
    }

    fn take(&mut self, chunk: Result<Option<Bytes>, TransportError>) -> Result<(), Error> {
        match chunk {
            Ok(Some(bytes)) => {
                let now = self.hub.inner.runtime.now_ms();
                self.session.handle_input(now, &bytes).map_err(|source| self.failed(source))
            }
            Ok(None) => Err(self.lost("the peer went away in the middle of a session")),
            Err(source) => Err(Error::Peer { name: self.desk.name.clone(), source }),
        }
    }

    /// Gives what the session asks for to threads that may block.
    fn start_work(&mut self) {
        while let Some(action) = self.session.poll_action() {
            let desk = Arc::clone(&self.desk);
            let hub = Arc::clone(&self.hub);
            let writes = writes(&action);
            let work: Work = Box::pin(async move {
                if matches!(action, Action::Consider(_)) {
                    // Another peer's snapshot may be on its way: then this one waits, and may not be needed after all.
                    desk.stage_under(Arc::clone(&hub.inner.staging).lock_owned().await);
                }
                blocking(&hub.inner, move |_| desk.act(action)).await
            });
            *(if writes { &mut self.writing } else { &mut self.reading }) = Some(work);
        }
    }

    fn note_soon(&mut self) {
        let at = self.hub.inner.runtime.now_ms().saturating_add(NOTE_AFTER_MS);
        self.note_ms = Some(self.note_ms.map_or(at, |before| before.min(at)));
    }

    /// Remembers what the peer has: a session may last for days, and other processes want to show how far its device is.
    fn note_if_due(&mut self, now: u64) {
        if self.note_ms.take_if(|at| *at <= now).is_none() {
            return;
        }
        self.note_ms = Some(now.saturating_add(NOTE_EVERY_MS));
        let (inner, key, has) = (Arc::clone(&self.hub.inner), self.desk.key, self.session.peer_applied().clone());
        let (traffic, counted) = (self.connection.traffic(), self.counted);
        self.counted = (traffic.sent_bytes, traffic.received_bytes);
        tokio::spawn(async move {
            let noted = blocking(&inner, move |inner| {
                PeerState::update(&inner.store, key, |state| {
                    state.last_seen_ms = Some(inner.runtime.now_ms());
                    state.count(&traffic, counted);
                    state.learn_versions(&has);
                })
            });
            if let Err(error) = noted.await {
                tracing::warn!(%error, "what a peer has cannot be noted");
            }
        });
    }

    fn tell_events(&mut self) {
        let (key, name) = (self.desk.key, self.desk.name.clone());
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::CaughtUp => {
                    self.hub.tell(LiveEvent::CaughtUp { key, name: name.clone() });
                    self.note_soon();
                }
                Event::Declined(site) => {
                    tracing::warn!(peer = name, %site, "the peer refuses what this site wrote");
                }
            }
        }
        let report = self.desk.report();
        for reason in report.refused.iter().skip(self.refused) {
            self.hub.tell(LiveEvent::Refused { key, name: name.clone(), reason: reason.clone() });
        }
        self.refused = report.refused.len();
        let (pulled, pushed) = (report.pulled_versions, report.pushed_versions);
        if (pulled, pushed) != self.told {
            let (received, sent) = (pulled - self.told.0, pushed - self.told.1);
            self.told = (pulled, pushed);
            self.hub.tell(LiveEvent::Exchanged { key, name, received, sent });
        }
        // What others wrote and this replica hands on is news of the peer too.
        let news = self.session.peer_news();
        if news != std::mem::replace(&mut self.news, news) {
            self.note_soon();
        }
    }
}

/// Waits for work, or for ever if there is none.
async fn finished(work: &mut Option<Work>) -> Result<Answer, Error> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
