//! What the peer says, and what the store is given of it.

use bytes::Bytes;
use isle_changeset::Header;
use isle_clock::{SiteId, VersionVector};

use crate::message::{Frame, Hello, Message, OpKind, Operation};
use crate::outgoing::Serving;
use crate::session::{Action, Answer, Event, Session, SessionError, WINDOW_BYTES, by_version};
use crate::{OLDEST_VERSION, VERSION};

/// What came and was not given to the store yet, with the bytes that it counts for.
#[derive(Debug)]
pub(crate) enum Intake {
    Operation(Operation, u64),
    Frame(Frame, u64),
    Retired(Vec<(SiteId, u64)>),
    Offer(VersionVector),
    Snapshot(Bytes, u64),
    Part(u32, Bytes, u64),
    Join,
    Done,
}

/// Sites that a peer may speak of.
const SITES_MAX: usize = 1 << 16;

/// What is being written: the bytes that count as taken when it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taking {
    bytes: u64,
    parts: u64,
}

fn out_of_turn(what: &'static str) -> SessionError {
    SessionError::OutOfTurn { what }
}

impl Session {
    pub(crate) fn message(&mut self, now_ms: u64, message: Message, size: u64) -> Result<(), SessionError> {
        if let Message::Bye { code, reason } = message {
            return Err(SessionError::Closed { code, reason });
        }
        if let Message::Hello(hello) = message {
            return self.hello(*hello);
        }
        if self.peer.is_none() {
            return Err(out_of_turn("it does not begin with a hello"));
        }
        if message.counts() {
            let waits = self.came - self.taken;
            if waits > WINDOW_BYTES {
                return Err(SessionError::Flood { bytes: waits });
            }
            self.came += size;
        }
        match message {
            Message::Have(_) if self.have_came => return Err(out_of_turn("it says twice what it has")),
            Message::Have(have) => {
                self.have_came = true;
                self.peer_has.merge(&have.applied);
                self.peer_has.merge(&have.held);
                self.peer_applied.merge(&have.applied);
                self.peer_news += 1;
                self.partial = by_version(&have.partial);
                self.compare = Some(have.chains).filter(|chains| !chains.is_empty());
                self.confirm = have.yours;
                self.confirmed = have.yours.is_none();
                self.floor = Some(have.floor).filter(|floor| !floor.is_empty());
                self.look = true;
            }
            Message::Progress { taken, applied } => {
                if taken < self.acknowledged || taken > self.sent {
                    return Err(out_of_turn("it acknowledges what it was not sent"));
                }
                if taken > self.acknowledged {
                    (self.acknowledged, self.moved_ms) = (taken, now_ms);
                }
                self.peer_has.merge(&applied);
                self.peer_applied.merge(&applied);
                self.peer_news += u64::from(!applied.is_empty());
                if self.peer_has.len() > SITES_MAX {
                    return Err(out_of_turn("it names too many sites"));
                }
                if matches!(self.serving, Serving::Declined(_)) && !applied.is_empty() {
                    (self.serving, self.look) = (Serving::Nothing, true);
                }
            }
            Message::Frame(frame) => self.frame(frame, size)?,
            Message::Operation(operation) => self.intake.push_back(Intake::Operation(operation, size)),
            Message::Retired(sites) => self.queue(Intake::Retired(sites))?,
            Message::Done => self.queue(Intake::Done)?,
            Message::Decline(site) => {
                if self.declined.insert(site) {
                    self.events.push_back(Event::Declined(site));
                }
                if self.declined.len() > SITES_MAX {
                    return Err(out_of_turn("it names too many sites"));
                }
            }
            other => self.snapshot_message(now_ms, other, size)?,
        }
        Ok(())
    }

    /// Messages by which a snapshot goes over.
    fn snapshot_message(&mut self, now_ms: u64, message: Message, size: u64) -> Result<(), SessionError> {
        match message {
            Message::Offer(_) if self.taking_snapshot => {
                return Err(out_of_turn("it offers a snapshot while one is taken in"));
            }
            Message::Offer(vector) => {
                (self.taking_snapshot, self.snapshot_ms) = (true, now_ms);
                self.queue(Intake::Offer(vector))?;
            }
            Message::Joined => {
                if !matches!(self.serving, Serving::Served) {
                    return Err(out_of_turn("it has joined what it was not sent"));
                }
                (self.serving, self.look) = (Serving::Nothing, true);
            }
            Message::Answer(wanted) => self.answered(wanted)?,
            Message::Want(ranges) => self.wanted(ranges)?,
            Message::Snapshot(header) => {
                if !std::mem::take(&mut self.snapshot_wanted) {
                    return Err(out_of_turn("it sends a snapshot that nobody asked for"));
                }
                self.snapshot_ms = now_ms;
                self.intake.push_back(Intake::Snapshot(header, size));
            }
            Message::Part { index, bytes } => {
                // In the order in which they were asked for: none comes twice in the place of another.
                let Some((first, last)) = self.parts_wanted.front_mut().filter(|(first, _)| *first == index) else {
                    return Err(out_of_turn("it sends parts of a snapshot that nobody asked for"));
                };
                if first == last {
                    self.parts_wanted.pop_front();
                } else {
                    *first += 1;
                }
                self.snapshot_ms = now_ms;
                self.intake.push_back(Intake::Part(index, bytes, size));
            }
            // The others have been dealt with.
            _ => {}
        }
        Ok(())
    }

    /// Queues what does not count; a peer that sends many of them is not heard out.
    fn queue(&mut self, intake: Intake) -> Result<(), SessionError> {
        const WAITING_MAX: usize = 16;
        let counts = |intake: &&Intake| matches!(intake, Intake::Retired(_) | Intake::Done | Intake::Offer(_));
        if self.intake.iter().filter(counts).count() >= WAITING_MAX {
            return Err(out_of_turn("it repeats itself"));
        }
        self.intake.push_back(intake);
        Ok(())
    }

    fn hello(&mut self, hello: Hello) -> Result<(), SessionError> {
        if self.peer.is_some() {
            return Err(out_of_turn("it says hello twice"));
        }
        if hello.oldest > VERSION || hello.version < OLDEST_VERSION {
            return Err(SessionError::Version { theirs: hello.version });
        }
        if hello.group != self.hello.group {
            return Err(SessionError::OtherGroup { theirs: hello.group });
        }
        if hello.app != self.hello.app {
            return Err(SessionError::OtherApp { theirs: hello.app, ours: self.hello.app.clone() });
        }
        if hello.site == self.hello.site {
            return Err(SessionError::SameSite);
        }
        let known = [(OpKind::Schema, &hello.schema), (OpKind::Member, &hello.members), (OpKind::Key, &hello.keys)];
        self.peer_ops = known.iter().flat_map(|(kind, ids)| ids.iter().map(|id| (*kind, *id))).collect();
        self.actions.push_back(Action::Begin(Box::new(hello.clone())));
        self.reading = true;
        self.peer = Some(hello);
        Ok(())
    }

    fn frame(&mut self, frame: Frame, size: u64) -> Result<(), SessionError> {
        let site = match &frame {
            Frame::Header(bytes) => {
                let header = Header::decode(bytes).map_err(|_| out_of_turn("a changeset's header is broken"))?;
                // Who sends it has it.
                if self.peer_has.get(header.site).checked_add(1) == Some(header.version) {
                    self.peer_has.advance(header.site, header.version);
                    self.peer_applied.advance(header.site, header.version);
                    self.peer_news += 1;
                }
                header.site
            }
            Frame::Block { site, .. } | Frame::Proof { site, .. } => *site,
        };
        if self.refused.contains(&site) {
            self.taken += size;
            self.progress_due = true;
        } else {
            self.intake.push_back(Intake::Frame(frame, size));
        }
        Ok(())
    }

    /// Gives the store what came next.
    pub(crate) fn take_in(&mut self) {
        while self.writing.is_none() {
            let Some(first) = self.intake.pop_front() else { return };
            let (action, bytes, parts) = match first {
                Intake::Done => {
                    self.done_came = true;
                    continue;
                }
                Intake::Operation(first, mut bytes) => {
                    let mut operations = vec![first];
                    while let Some(Intake::Operation(..)) = self.intake.front()
                        && let Some(Intake::Operation(next, size)) = self.intake.pop_front()
                    {
                        operations.push(next);
                        bytes += size;
                    }
                    (Action::PutOperations(operations), bytes, 0)
                }
                Intake::Frame(first, mut bytes) => {
                    let mut frames = vec![first];
                    while let Some(Intake::Frame(..)) = self.intake.front()
                        && let Some(Intake::Frame(next, size)) = self.intake.pop_front()
                    {
                        frames.push(next);
                        bytes += size;
                    }
                    (Action::Put(frames), bytes, 0)
                }
                Intake::Part(index, first, mut bytes) => {
                    let mut parts = vec![(index, first)];
                    while let Some(Intake::Part(..)) = self.intake.front()
                        && let Some(Intake::Part(index, next, size)) = self.intake.pop_front()
                    {
                        parts.push((index, next));
                        bytes += size;
                    }
                    let count = parts.len() as u64;
                    (Action::StageParts(parts), bytes, count)
                }
                Intake::Retired(sites) => (Action::Retire(sites), 0, 0),
                Intake::Offer(vector) => (Action::Consider(vector), 0, 0),
                Intake::Snapshot(header, bytes) => (Action::Stage(header), bytes, 0),
                Intake::Join => (Action::Join, 0, 0),
            };
            self.writing = Some(Taking { bytes, parts });
            self.actions.push_back(action);
        }
    }

    /// Takes what came of a writing action.
    pub(crate) fn was_written(&mut self, answer: Answer) -> Result<(), SessionError> {
        let Some(Taking { bytes, parts }) = self.writing.take() else { return Ok(()) };
        if bytes > 0 {
            self.taken += bytes;
            self.progress_due = true;
        }
        match answer {
            Answer::OperationsPut(ids) => self.peer_ops.extend(ids),
            Answer::Put { applied, declined } => {
                self.applied(&applied);
                for site in declined {
                    if self.refused.insert(site) {
                        self.control.push_back(Message::Decline(site));
                    }
                }
            }
            Answer::Retired(true) => return Err(SessionError::Retired),
            Answer::Considered(wanted) => {
                (self.snapshot_wanted, self.taking_snapshot) = (wanted, wanted);
                self.control.push_back(Message::Answer(wanted));
            }
            Answer::Staged(missing) => {
                let left = missing.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
                self.parts_wanted = missing.iter().copied().collect();
                self.control.push_back(Message::Want(missing));
                self.parts_left = Some(left);
                self.join_if_whole();
            }
            Answer::PartsStaged => {
                let left = self.parts_left.and_then(|left| left.checked_sub(parts));
                self.parts_left = Some(left.ok_or(out_of_turn("it sends more of a snapshot than was asked for"))?);
                self.join_if_whole();
            }
            Answer::Joined(applied) => {
                self.taking_snapshot = false;
                self.applied(&applied);
                // It has to know what is here before it looks what else it has.
                let progress = self.progress();
                self.control.push_back(progress);
                self.control.push_back(Message::Joined);
                self.look = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn join_if_whole(&mut self) {
        if self.parts_left == Some(0) {
            self.parts_left = None;
            self.intake.push_front(Intake::Join);
        }
    }

    /// Something was applied: the peer is told what it does not know yet.
    fn applied(&mut self, applied: &VersionVector) {
        self.here.merge(applied);
        self.progress_due |= !self.told.includes(applied);
        self.look |= !self.peer_has.includes(applied);
        self.unsaid.merge(applied);
    }

    /// How much was taken in, and what is applied that the peer was not told of.
    pub(crate) fn progress(&mut self) -> Message {
        self.progress_due = false;
        let news = self.unsaid.iter().filter(|(site, version)| !self.told.contains(*site, *version));
        let applied: VersionVector = news.collect();
        self.told.merge(&applied);
        self.unsaid = VersionVector::new();
        Message::Progress { taken: self.taken, applied }
    }
}
