//! A session over a connection of the app's own.

use std::sync::Arc;

use isle_clock::SiteId;
use isle_identity::DeviceKey;
use isle_protocol::{Action, Answer, ByeCode, Config, Event, Session, SessionError};

use super::actions::Desk;
use super::hub::Hub;
use super::once;
use super::peers::PeerState;
use super::session::{goodbye, hello, may_talk};
use crate::replica::{Inner, Replica};
use crate::sync::SyncReport;
use crate::{Error, operations};

/// How often it is looked whether the snapshot of another peer is taken in by now, in milliseconds.
const AGAIN_MS: u64 = 500;

/// A session with another device of the group over any connection that keeps bytes whole and in order: WebRTC, Bluetooth, a serial line, a
/// pipe. What it hands out by [`PeerSession::poll_output`] is sent, what comes is handed to [`PeerSession::handle_input`], both ends alike. All methods
/// block while they read or write the file.
///
/// The connection has to prove who is at the other end, by the key of its device, or whoever calls may read everything. Devices are let
/// in by [`Replica::invite`] and [`Replica::join`].
///
/// ```
/// # use isle::{Error, PeerSession};
/// /// Moves bytes between two devices of one process until both have all that the other had.
/// fn exchange(a: &mut PeerSession, b: &mut PeerSession) -> Result<(), Error> {
///     while !(a.is_caught_up() && b.is_caught_up()) {
///         while let Some(bytes) = a.poll_output()? {
///             b.handle_input(&bytes)?;
///         }
///         while let Some(bytes) = b.poll_output()? {
///             a.handle_input(&bytes)?;
///         }
///     }
///     Ok(())
/// }
/// ```
pub struct PeerSession {
    hub: Arc<Hub>,
    desk: Arc<Desk>,
    session: Session,
    started_ms: u64,
    /// What waits until the snapshot of another peer is taken in.
    waiting: Option<Action>,
    /// How many operations the peer was offered, which keys it was given, and which retired sites it was told.
    offered: usize,
    given: Vec<[u8; 16]>,
    retired: Vec<(SiteId, u64)>,
    over: bool,
    failure: Option<String>,
}

impl std::fmt::Debug for PeerSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerSession").field("peer", &self.desk.name).field("over", &self.over).finish_non_exhaustive()
    }
}

impl Replica {
    /// Begins a session with a device of the group over a connection of the app's own. The other end does the same.
    ///
    /// # Errors
    /// [`Error::NotEnrolled`] and [`Error::NotMember`] where one of the devices does not belong to the group; SQLite's reason.
    pub fn peer_session(&self, peer: DeviceKey) -> Result<PeerSession, Error> {
        let hub = Hub::new(&self.inner, Vec::new())?;
        may_talk(&hub, &peer)?;
        let (hello, name) = hello(&hub, &peer)?;
        let started_ms = self.inner.runtime.now_ms();
        let desk = Arc::new(Desk::new(&hub, peer, name, hello.site));
        let session = Session::new(Config { hello }, started_ms);
        let offered = hub.operations.borrow().len();
        let retired = hub.retired.borrow().clone();
        Ok(PeerSession {
            hub,
            desk,
            session,
            started_ms,
            waiting: None,
            offered,
            given: Vec::new(),
            retired,
            over: false,
            failure: None,
        })
    }
}

impl PeerSession {
    fn now(&self) -> u64 {
        self.hub.inner.runtime.now_ms()
    }

    /// Takes bytes that came from the other end.
    ///
    /// # Errors
    /// [`Error::Session`] for what is no session of this group, and when the other end gives up; what arrived before stays. The session is over then, and
    /// [`PeerSession::poll_output`] gives what to tell the other end of it. After [`Error::SiteChanged`] another session goes on.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.over {
            return Ok(());
        }
        let result = self.session.handle_input(self.now(), bytes);
        let result = match result {
            // The other end has all, and goes.
            Err(SessionError::Closed { code: ByeCode::Done, .. }) if self.session.is_caught_up() => {
                self.over = true;
                return Ok(());
            }
            result => result.map_err(|source| self.session_error(source)).and_then(|()| self.work()),
        };
        self.ended_by(result)
    }

    /// Something was written to the file since the session began, by whatever client: what is new is sent.
    ///
    /// # Errors
    /// SQLite's reason, and [`Error::NotEnrolled`] if the peer was put out of the group meanwhile: the session is over then.
    pub fn handle_local(&mut self) -> Result<(), Error> {
        if self.over {
            return Ok(());
        }
        let result = self.look().and_then(|()| self.work());
        self.ended_by(result)
    }

    /// Looks what is new in the file.
    fn look(&mut self) -> Result<(), Error> {
        let inner = &self.hub.inner;
        inner.store.seal()?;
        self.hub.refresh_operations()?;
        self.session.handle_local();
        let mut known = self.given.clone();
        known.extend(self.session.peer().iter().flat_map(|hello| &hello.keys));
        let new = super::keys::wrapped(inner, self.desk.key, &known)?;
        if !new.is_empty() {
            // Who was put out goes first, so that the peer does not hand the new key to it.
            self.tell_operations();
            self.given.extend(new.iter().map(|(id, _)| *id));
            self.session.handle_operations(new);
        }
        Ok(())
    }

    /// When [`PeerSession::handle_timeout`] is to be called, in milliseconds since 1970 by this device's clock.
    pub fn poll_timeout(&self) -> Option<u64> {
        let again = self.waiting.is_some().then(|| self.now().saturating_add(AGAIN_MS));
        self.session.poll_timeout().into_iter().chain(again).min().filter(|_| !self.over)
    }

    /// Looks whether the other end takes too long.
    ///
    /// # Errors
    /// [`Error::Session`] if it does.
    pub fn handle_timeout(&mut self) -> Result<(), Error> {
        if self.over {
            return Ok(());
        }
        let result = self.session.handle_timeout(self.now()).map_err(|source| self.session_error(source));
        let result = result.and_then(|()| self.work());
        self.ended_by(result)
    }

    /// The next bytes for the other end, if there are any now.
    ///
    /// # Errors
    /// SQLite's reason, and [`Error::NotEnrolled`] if the peer was put out of the group meanwhile.
    pub fn poll_output(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if !self.over {
            let result = self.work();
            self.ended_by(result)?;
        }
        let now = self.now();
        let bytes = self.session.poll_output(now);
        if bytes.is_some() && !self.over {
            // There is room for more now.
            let result = self.work();
            self.ended_by(result)?;
        }
        Ok(bytes.map(Vec::from))
    }

    /// Whether each end had all that the other had at some moment of this session.
    pub fn is_caught_up(&self) -> bool {
        self.session.is_caught_up()
    }

    /// Whether it has ended. What [`PeerSession::poll_output`] still gives is to be sent.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Ends it; [`PeerSession::poll_output`] gives what to tell the other end.
    pub fn close(&mut self) {
        if !self.over {
            let (code, reason) = goodbye(&Ok(()));
            self.session.close(code, reason);
            self.over = true;
        }
    }

    /// What it did, which is noted in the file.
    ///
    /// # Errors
    /// SQLite's reason, or the key store's.
    pub fn finish(self) -> Result<SyncReport, Error> {
        let inner = &self.hub.inner;
        self.hub.flush()?;
        self.desk.stage_no_more();
        inner.discard_needless_snapshot()?;
        let mut report = self.desk.report();
        (report.uploaded_bytes, report.downloaded_bytes) = self.session.traffic();
        report.duration_ms = self.now().saturating_sub(self.started_ms);
        report.conflict_detected = report.conflicts > 0;
        let (has, greeted) = (self.session.peer_applied().clone(), self.session.peer().is_some());
        let failure = self.failure.clone();
        PeerState::update(&inner.store, self.desk.key, |state| {
            state.last_error = failure;
            if greeted {
                state.last_seen_ms = Some(inner.runtime.now_ms());
            }
            state.learn_versions(&has);
        })?;
        let status = inner.store.status()?;
        report.describe(status);
        let outcome = self.failure.map_or(Ok(&report), Err);
        operations::note_sync(inner, &self.desk.name, self.started_ms, outcome)?;
        Ok(report)
    }

    fn session_error(&self, source: SessionError) -> Error {
        Error::Session { name: self.desk.name.clone(), source }
    }

    /// The session is over after a failure, and the other end is told.
    fn ended_by(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = &result {
            self.failure = Some(error.to_string());
            let (code, reason) = goodbye(&result);
            self.session.close(code, reason);
            self.over = true;
        }
        result
    }

    /// Does what the session asks of the store.
    fn work(&mut self) -> Result<(), Error> {
        loop {
            if !self.hub.may_talk(&self.desk.key) {
                return Err(Error::NotEnrolled { key: self.desk.key.short() });
            }
            self.tell_operations();
            let Some(action) = self.waiting.take().or_else(|| self.session.poll_action()) else { break };
            if matches!(action, Action::Consider(_)) {
                // Another peer's snapshot may be on its way: then this one waits, and may not be needed after all.
                match Arc::clone(&self.hub.inner.staging).try_lock_owned() {
                    Ok(guard) => self.desk.stage_under(guard),
                    Err(_) => {
                        self.waiting = Some(action);
                        break;
                    }
                }
            }
            let answer: Answer = self.desk.act(action)?;
            // Before it leaves this device: a restored backup is known by it.
            self.hub.flush()?;
            if let Err(source) = self.session.handle_answer(answer) {
                let error = self.session_error(source);
                return Err(renewed(&self.hub.inner, error)?);
            }
        }
        while let Some(event) = self.session.poll_event() {
            if let Event::Declined(site) = event {
                tracing::warn!(peer = self.desk.name, %site, "the peer refuses what this site wrote");
            }
        }
        Ok(())
    }

    /// Operations that came up since the session began, and sites that were retired.
    fn tell_operations(&mut self) {
        let all = Arc::clone(&self.hub.operations.borrow());
        if all.len() != self.offered {
            self.offered = all.len();
            self.session.handle_operations(all.as_ref().clone());
        }
        let retired = self.hub.retired.borrow().clone();
        if retired != self.retired {
            self.session.handle_retired(retired.clone());
            self.retired = retired;
        }
    }
}

/// Takes a new site id where that is what a session failed for; gives the error to report.
fn renewed(inner: &Inner, error: Error) -> Result<Error, Error> {
    // A sync with a remote speaks as the old site: the next session looks again.
    let Ok(_one_at_a_time) = inner.syncing.try_lock() else { return Ok(error) };
    let site = match &error {
        Error::Session { source: SessionError::Fork { .. }, .. } => once::renew(inner)?,
        Error::Session { source: SessionError::Retired, .. } => inner.leave_retired_site()?,
        _ => None,
    };
    Ok(if site.is_some() { Error::SiteChanged } else { error })
}
