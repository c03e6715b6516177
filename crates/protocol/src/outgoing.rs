//! What the peer lacks, and how it is sent.

use std::collections::VecDeque;

use isle_clock::{SiteId, VersionVector};

use crate::message::{Frame, Message};
use crate::session::{Action, Answer, Blocks, Changeset, Session, SessionError, Started};

/// How much is read at once, and kept in memory beyond what is on its way.
const READ_BYTES: usize = 1 << 20;

/// What is to be sent and was not read yet, or is.
#[derive(Debug)]
pub(crate) enum Pending {
    Message(Message),
    Blocks { site: SiteId, version: u64, next: u32, end: u32 },
}

/// Where the sending of a snapshot is.
#[derive(Debug)]
pub(crate) enum Serving {
    Nothing,
    /// The peer is asked whether it wants one of this vector.
    Offered(VersionVector),
    /// It did not want one of this vector.
    Declined(VersionVector),
    Export,
    /// The header is on its way.
    Exported {
        blocks: u32,
    },
    Parts(VecDeque<(u32, u32)>),
    /// All that it wanted has been sent; it tells when it has taken it in.
    Served,
}

fn out_of_turn(what: &'static str) -> SessionError {
    SessionError::OutOfTurn { what }
}

impl Session {
    /// Asks for what is to be read next.
    pub(crate) fn read_on(&mut self) {
        while let Some(Pending::Message(_)) = self.pending.front()
            && let Some(Pending::Message(message)) = self.pending.pop_front()
        {
            self.sending.push_back(message);
        }
        if self.reading || !self.have_came || self.queued_bytes >= READ_BYTES {
            return;
        }
        let action = if let Some(chains) = self.compare.take() {
            Action::Compare(chains)
        } else if let Some((version, chain)) = self.confirm.take() {
            Action::Confirm { version, chain }
        } else if !self.confirmed {
            return;
        } else if let Some(floor) = &self.floor {
            // Until then it only listens.
            if !self.here.includes(floor) {
                return;
            }
            Action::Restate { floor: floor.clone() }
        } else if let Some(Pending::Blocks { site, version, next, end }) = self.pending.front() {
            Action::ReadBlocks { site: *site, version: *version, first: *next, end: *end, bytes: READ_BYTES }
        } else {
            match &self.serving {
                Serving::Export => Action::Export,
                Serving::Parts(ranges) => match ranges.front() {
                    Some((first, last)) => Action::ReadParts { first: *first, last: *last, bytes: READ_BYTES },
                    None => return,
                },
                Serving::Exported { .. } | Serving::Served | Serving::Offered(_) => return,
                Serving::Nothing | Serving::Declined(_) if self.look => {
                    self.look = false;
                    let (have, declined) = (self.peer_has.clone(), self.declined.clone());
                    Action::Read { have, declined, bytes: READ_BYTES }
                }
                Serving::Nothing | Serving::Declined(_) => return,
            }
        };
        self.reading = true;
        self.actions.push_back(action);
    }

    /// Takes what came of a reading action.
    pub(crate) fn was_read(&mut self, answer: Answer) -> Result<(), SessionError> {
        match answer {
            Answer::Started(started) => {
                let Started { have, operations, retired } = *started;
                self.told = have.applied.clone();
                self.here = have.applied.clone();
                if !retired.is_empty() {
                    self.control.push_back(Message::Retired(retired));
                }
                self.control.push_back(Message::Have(Box::new(have)));
                self.begun = true;
                let early = std::mem::take(&mut self.early);
                self.handle_operations(operations.into_iter().chain(early).collect());
            }
            Answer::Compared(forked) => {
                // Neither side can say which of the two histories is the right one: nothing more of it goes over this session.
                for site in forked {
                    self.declined.insert(site);
                    self.refused.insert(site);
                    self.control.push_back(Message::Decline(site));
                }
            }
            Answer::Confirmed(true) => self.confirmed = true,
            Answer::Knowing => self.floor = None,
            Answer::Confirmed(false) => {
                let site = self.hello.site;
                return Err(SessionError::Fork { version: self.peer_has.get(site) });
            }
            Answer::Changesets { changesets, more, gap, applied } => {
                self.look |= more;
                let nothing = changesets.is_empty() && !more;
                for changeset in changesets {
                    // The peer may have sent it itself while this was read.
                    if !self.peer_has.contains(changeset.site, changeset.version) {
                        self.queue_changeset(changeset);
                    }
                }
                self.unsaid.merge(&applied);
                // What is sent says by itself that it is here; of what the peer has from elsewhere it is told.
                self.progress_due |= !self.told.includes(&applied) && !more;
                let offers = match &self.serving {
                    Serving::Nothing => gap && !more,
                    Serving::Declined(before) => gap && !more && !before.includes(&applied),
                    _ => false,
                };
                if offers {
                    self.serving = Serving::Offered(applied.clone());
                    self.control.push_back(Message::Offer(applied));
                } else if nothing && !self.done_sent {
                    self.done_sent = true;
                    self.sending.push_back(Message::Done);
                } else if !more && !self.done_sent {
                    // Look once more: when nothing is left, all that was there has been sent.
                    self.look = true;
                }
            }
            Answer::Blocks(blocks) => self.queue_blocks(blocks)?,
            Answer::Exported { header, blocks } => {
                self.serving = Serving::Exported { blocks };
                self.queued_bytes += header.len();
                self.sending.push_back(Message::Snapshot(header));
            }
            Answer::Parts(parts) => self.queue_parts(parts),
            _ => {}
        }
        Ok(())
    }

    fn queue_changeset(&mut self, changeset: Changeset) {
        let Changeset { site, version, header, blocks, proof } = changeset;
        self.peer_has.advance(site, version);
        self.told.advance(site, version);
        let queue = |session: &mut Session, frame: Frame| {
            let bytes = match &frame {
                Frame::Header(bytes) | Frame::Block { bytes, .. } | Frame::Proof { bytes, .. } => bytes.len(),
            };
            session.queued_bytes += bytes;
            session.pending.push_back(Pending::Message(Message::Frame(frame)));
        };
        // First, so that it is there when all that it is good for is, wherever a cut comes.
        if let Some((last, bytes)) = proof.filter(|(last, _)| *last > self.proved.get(site)) {
            self.proved.advance(site, last);
            queue(self, Frame::Proof { site, version: last, bytes });
        }
        queue(self, Frame::Header(header));
        match blocks {
            Blocks::Only(bytes) => queue(self, Frame::Block { site, version, index: 0, bytes }),
            Blocks::Many(end) => {
                let next = self.partial.remove(&(site, version)).unwrap_or(0).min(end);
                self.pending.push_back(Pending::Blocks { site, version, next, end });
            }
        }
    }

    fn queue_blocks(&mut self, blocks: Vec<bytes::Bytes>) -> Result<(), SessionError> {
        let Some(Pending::Blocks { site, version, next, end }) = self.pending.front_mut() else { return Ok(()) };
        if blocks.is_empty() && *next < *end {
            return Err(SessionError::Gone { site: *site, version: *version });
        }
        for bytes in blocks {
            self.queued_bytes += bytes.len();
            let frame = Frame::Block { site: *site, version: *version, index: *next, bytes };
            self.sending.push_back(Message::Frame(frame));
            *next += 1;
        }
        if next >= end {
            self.pending.pop_front();
        }
        Ok(())
    }

    pub(crate) fn answered(&mut self, wanted: bool) -> Result<(), SessionError> {
        let Serving::Offered(vector) = std::mem::replace(&mut self.serving, Serving::Export) else {
            return Err(out_of_turn("it answers what it was not asked"));
        };
        if !wanted {
            self.serving = Serving::Declined(vector);
        }
        self.look = true;
        Ok(())
    }

    pub(crate) fn wanted(&mut self, ranges: Vec<(u32, u32)>) -> Result<(), SessionError> {
        let Serving::Exported { blocks } = &self.serving else {
            return Err(out_of_turn("it asks for parts of no snapshot"));
        };
        let rising = ranges.is_sorted_by(|a, b| a.1 < b.0);
        if !rising || ranges.last().is_some_and(|(_, last)| last >= blocks) {
            return Err(out_of_turn("it asks for parts that the snapshot does not have"));
        }
        self.serving = if ranges.is_empty() { Serving::Served } else { Serving::Parts(ranges.into()) };
        Ok(())
    }

    fn queue_parts(&mut self, parts: Vec<bytes::Bytes>) {
        let Serving::Parts(ranges) = &mut self.serving else { return };
        for bytes in parts {
            let Some((first, last)) = ranges.front_mut() else { break };
            self.queued_bytes += bytes.len();
            self.sending.push_back(Message::Part { index: *first, bytes });
            *first += 1;
            if *first > *last {
                ranges.pop_front();
            }
        }
        if ranges.is_empty() {
            self.serving = Serving::Served;
        }
    }
}
