//! The session: what is known of the peer, what is under way, and what is to be said next.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use bytes::Bytes;
use isle_changeset::Hash;
use isle_clock::{SiteId, VersionVector};

use crate::incoming::{Intake, Taking};
use crate::message::{ByeCode, Frame, Have, Hello, Message, MessageError, OpKind, Operation, Partial};
use crate::outgoing::{Pending, Serving};
use crate::{Decoder, OLDEST_VERSION, VERSION};

/// How much may be on its way to a peer, or wait for this side's store, in bytes.
pub const WINDOW_BYTES: u64 = 8 << 20;
/// How long a peer may stop within a message, in milliseconds.
pub const STALL_MS: u64 = 60_000;
/// How long it may take to say hello.
const HELLO_MS: u64 = 10_000;
/// How long it may take to take in what it was sent: it may have a large transaction to merge.
const TAKE_MS: u64 = 600_000;

/// What a session begins with.
#[derive(Debug, Clone)]
pub struct Config {
    /// What this side says first.
    pub hello: Hello,
}

/// What the driver is asked to do. One that reads and one that writes may be under way at once; each is answered by
/// [`Session::handle_answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Reads: what this side has to say to this peer. Answer: [`Answer::Started`].
    Begin(Box<Hello>),
    /// Reads: which of these sites have another version of that number here. Answer: [`Answer::Compared`].
    Compare(Vec<(SiteId, u64, Hash)>),
    /// Reads: whether this file wrote the version with this hash. Answer: [`Answer::Confirmed`].
    Confirm {
        /// The version of the own site.
        version: u64,
        /// The hash of its header.
        chain: Hash,
    },
    /// Reads: everything below `floor` is applied here now; what is unpublished and was written in ignorance of it has to be
    /// sealed anew. Answer: [`Answer::Knowing`].
    Restate {
        /// The peer's collection floor.
        floor: VersionVector,
    },
    /// Reads: changesets that are applied here and not in `have`, causes first. What is the own site's must be durable before
    /// it is given out. Answer: [`Answer::Changesets`].
    Read {
        /// What the peer has.
        have: VersionVector,
        /// Sites of which it wants nothing.
        declined: BTreeSet<SiteId>,
        /// How many bytes to give, about.
        bytes: usize,
    },
    /// Reads: blocks of a changeset from `first` on. Answer: [`Answer::Blocks`].
    ReadBlocks {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
        /// The first block.
        first: u32,
        /// One past the last.
        end: u32,
        /// How many bytes to give, about; one block at least.
        bytes: usize,
    },
    /// Reads: a snapshot, to be kept until the session ends. Answer: [`Answer::Exported`].
    Export,
    /// Reads: blocks of that snapshot. Answer: [`Answer::Parts`].
    ReadParts {
        /// The first block.
        first: u32,
        /// The last.
        last: u32,
        /// How many bytes to give, about; one block at least.
        bytes: usize,
    },
    /// Writes: operations, parents first. Answer: [`Answer::OperationsPut`].
    PutOperations(Vec<Operation>),
    /// Writes: pieces of changesets, and merges what is ready. Answer: [`Answer::Put`].
    Put(Vec<Frame>),
    /// Writes: sites that are retired. Answer: [`Answer::Retired`].
    Retire(Vec<(SiteId, u64)>),
    /// Writes: whether a snapshot of this vector is wanted; may take as long as another one is taken in. Answer: [`Answer::Considered`].
    Consider(VersionVector),
    /// Writes: begins to take in the snapshot of this header. Answer: [`Answer::Staged`].
    Stage(Bytes),
    /// Writes: blocks of that snapshot, each with its place. Answer: [`Answer::PartsStaged`].
    StageParts(Vec<(u32, Bytes)>),
    /// Writes: joins that snapshot. Answer: [`Answer::Joined`].
    Join,
}

/// What a session says first of what is here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Started {
    /// What is here, and of the peer's site.
    pub have: Have,
    /// Operations that the peer lacks, parents first, each with its id.
    pub operations: Vec<([u8; 16], Operation)>,
    /// Retired sites.
    pub retired: Vec<(SiteId, u64)>,
}

/// A changeset to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changeset {
    /// The author.
    pub site: SiteId,
    /// The author's version.
    pub version: u64,
    /// The encoded header.
    pub header: Bytes,
    /// What is in it.
    pub blocks: Blocks,
    /// The author's signature that is good for it, and the version that this is of: not before the changeset's own.
    pub proof: Option<(u64, Bytes)>,
}

/// The blocks of a changeset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocks {
    /// The only one.
    Only(Bytes),
    /// So many, to be read one by one.
    Many(u32),
}

/// What came of an [`Action`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Of [`Action::Begin`].
    Started(Box<Started>),
    /// Of [`Action::Compare`].
    Compared(Vec<SiteId>),
    /// Of [`Action::Confirm`].
    Confirmed(bool),
    /// Of [`Action::Restate`].
    Knowing,
    /// Of [`Action::Read`].
    Changesets {
        /// In an order in which causes come first.
        changesets: Vec<Changeset>,
        /// Whether there are more.
        more: bool,
        /// Whether the log does not reach back to what the peer lacks.
        gap: bool,
        /// What was applied here when they were read.
        applied: VersionVector,
    },
    /// Of [`Action::ReadBlocks`].
    Blocks(Vec<Bytes>),
    /// Of [`Action::Export`]: the encoded header and the number of blocks.
    Exported {
        /// The encoded header.
        header: Bytes,
        /// The number of blocks.
        blocks: u32,
    },
    /// Of [`Action::ReadParts`].
    Parts(Vec<Bytes>),
    /// Of [`Action::PutOperations`]: the ids of those that are known now.
    OperationsPut(Vec<(OpKind, [u8; 16])>),
    /// Of [`Action::Put`].
    Put {
        /// What is applied now.
        applied: VersionVector,
        /// Sites of which something was refused.
        declined: Vec<SiteId>,
    },
    /// Of [`Action::Retire`]: whether the own site is retired, so that this session is over.
    Retired(bool),
    /// Of [`Action::Consider`].
    Considered(bool),
    /// Of [`Action::Stage`]: blocks that are not here, as ranges of first and last.
    Staged(Vec<(u32, u32)>),
    /// Of [`Action::StageParts`].
    PartsStaged,
    /// Of [`Action::Join`]: what is applied now.
    Joined(VersionVector),
}

/// What the driver may want to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Each side has all that the other had.
    CaughtUp,
    /// The peer refuses what a site wrote.
    Declined(SiteId),
}

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// What came is no message.
    #[error("the peer does not keep to the protocol: {0}")]
    Message(#[from] MessageError),
    /// A message came that may not come now.
    #[error("the peer does not keep to the protocol: {what}")]
    OutOfTurn {
        /// What is wrong.
        what: &'static str,
    },
    /// More came than was asked for.
    #[error("the peer sends more than it may: {bytes} bytes are not taken in yet")]
    Flood {
        /// How many bytes wait.
        bytes: u64,
    },
    /// No protocol version is common.
    #[error("the peer speaks protocol {theirs}, this isle {VERSION}: update the older one")]
    Version {
        /// The newest that the peer speaks.
        theirs: u16,
    },
    /// The peer is of another group.
    #[error("the peer's data is of another group ({theirs})")]
    OtherGroup {
        /// The peer's.
        theirs: isle_clock::GroupId,
    },
    /// The peer's data is of another app.
    #[error("the peer's data is of the app {theirs:?}, this file's of {ours:?}")]
    OtherApp {
        /// The peer's.
        theirs: String,
        /// This side's.
        ours: String,
    },
    /// The peer has the same site id: one of the files is a copy.
    #[error("the peer has this file's site id: one of the two is a copy")]
    SameSite,
    /// The peer knows versions of this site that this file never wrote.
    #[error(
        "the peer knows version {version} of this site, which this file never wrote: it is a copy, or an older state"
    )]
    Fork {
        /// The version.
        version: u64,
    },
    /// The own site is retired.
    #[error("others have retired this replica; it goes on under a new site id")]
    Retired,
    /// A changeset left the log here while it was being sent: the next session offers a snapshot.
    #[error("version {version} of {} was compacted away while it was being sent; the next sync goes on", site.short())]
    Gone {
        /// The author.
        site: SiteId,
        /// The author's version.
        version: u64,
    },
    /// The peer does not go on.
    #[error("the peer has stopped in the middle of {what}")]
    Stalled {
        /// Of what.
        what: &'static str,
    },
    /// The peer ends the session.
    #[error("the peer ended the session: {reason}")]
    Closed {
        /// Why.
        code: ByeCode,
        /// For people.
        reason: String,
    },
}

impl SessionError {
    /// What the peer is told.
    pub fn code(&self) -> ByeCode {
        match self {
            SessionError::Message(_) | SessionError::OutOfTurn { .. } | SessionError::Flood { .. } => ByeCode::Broken,
            SessionError::Version { .. }
            | SessionError::OtherGroup { .. }
            | SessionError::OtherApp { .. }
            | SessionError::SameSite => ByeCode::Unfit,
            SessionError::Fork { .. } | SessionError::Retired | SessionError::Gone { .. } => ByeCode::Restart,
            SessionError::Stalled { .. } => ByeCode::Broken,
            SessionError::Closed { .. } => ByeCode::Done,
        }
    }
}

/// A session with one peer. Feed it with `handle_*`, then drain [`Session::poll_action`], [`Session::poll_event`] and
/// [`Session::poll_output`] until each gives nothing, and call [`Session::handle_timeout`] when [`Session::poll_timeout`] says.
#[derive(Debug)]
pub struct Session {
    pub(crate) hello: Hello,
    pub(crate) peer: Option<Hello>,
    pub(crate) decoder: Decoder,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) events: VecDeque<Event>,
    /// Messages that do not count and go first.
    pub(crate) control: VecDeque<Message>,
    /// Whether an action of either lane is under way.
    pub(crate) reading: bool,
    pub(crate) writing: Option<Taking>,

    // What comes in.
    pub(crate) intake: VecDeque<Intake>,
    /// Bytes that count: come, and taken in by the store.
    pub(crate) came: u64,
    pub(crate) taken: u64,
    pub(crate) progress_due: bool,
    /// Blocks of the staged snapshot that are asked for and not here; `None` without one.
    pub(crate) parts_left: Option<u64>,
    /// Those that have not come yet.
    pub(crate) parts_wanted: VecDeque<(u32, u32)>,
    pub(crate) snapshot_wanted: bool,
    /// From the offer of a snapshot until it was declined or joined.
    pub(crate) taking_snapshot: bool,
    /// When something of it came last.
    pub(crate) snapshot_ms: u64,
    /// Sites of which the store here refused something.
    pub(crate) refused: BTreeSet<SiteId>,
    pub(crate) done_came: bool,

    // What goes out.
    /// Whether the peer has been told what is here.
    pub(crate) begun: bool,
    /// Operations that came up before that.
    pub(crate) early: Vec<([u8; 16], Operation)>,
    pub(crate) have_came: bool,
    pub(crate) confirmed: bool,
    pub(crate) confirm: Option<(u64, Hash)>,
    pub(crate) compare: Option<Vec<(SiteId, u64, Hash)>>,
    /// The peer's collection floor, until what is here is known to have been written in knowledge of it.
    pub(crate) floor: Option<VersionVector>,
    /// What is applied here.
    pub(crate) here: VersionVector,
    /// What the peer has, or will have once it has taken in what is on its way.
    pub(crate) peer_has: VersionVector,
    /// What it said that is applied there.
    pub(crate) peer_applied: VersionVector,
    /// How often that has changed.
    pub(crate) peer_news: u64,
    pub(crate) peer_ops: HashSet<(OpKind, [u8; 16])>,
    pub(crate) partial: BTreeMap<(SiteId, u64), u32>,
    /// Sites of which the peer refused something.
    pub(crate) declined: BTreeSet<SiteId>,
    /// What the peer was told that is applied here.
    pub(crate) told: VersionVector,
    /// Up to which version of each site a signature was sent.
    pub(crate) proved: VersionVector,
    /// What is applied here and may not have been told.
    pub(crate) unsaid: VersionVector,
    /// What is to be read and sent, and what has been read.
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) sending: VecDeque<Message>,
    pub(crate) queued_bytes: usize,
    pub(crate) serving: Serving,
    /// Whether there may be something to read that was not looked at.
    pub(crate) look: bool,
    pub(crate) done_sent: bool,
    /// Bytes that count: sent, and acknowledged.
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,

    pub(crate) caught_up: bool,
    closing: bool,
    begun_ms: u64,
    heard_ms: u64,
    /// When the peer last acknowledged, or was sent something while all was acknowledged.
    pub(crate) moved_ms: u64,
}

impl Session {
    /// A session that begins now; the first output is the hello.
    pub fn new(config: Config, now_ms: u64) -> Session {
        let hello = Hello { version: VERSION, oldest: OLDEST_VERSION, ..config.hello };
        Session {
            control: VecDeque::from([Message::Hello(Box::new(hello.clone()))]),
            hello,
            peer: None,
            decoder: Decoder::default(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            reading: false,
            writing: None,
            intake: VecDeque::new(),
            came: 0,
            taken: 0,
            progress_due: false,
            parts_left: None,
            parts_wanted: VecDeque::new(),
            snapshot_wanted: false,
            taking_snapshot: false,
            snapshot_ms: now_ms,
            refused: BTreeSet::new(),
            done_came: false,
            begun: false,
            early: Vec::new(),
            have_came: false,
            confirmed: false,
            confirm: None,
            compare: None,
            floor: None,
            here: VersionVector::new(),
            peer_has: VersionVector::new(),
            peer_applied: VersionVector::new(),
            peer_news: 0,
            peer_ops: HashSet::new(),
            partial: BTreeMap::new(),
            declined: BTreeSet::new(),
            told: VersionVector::new(),
            proved: VersionVector::new(),
            unsaid: VersionVector::new(),
            pending: VecDeque::new(),
            sending: VecDeque::new(),
            queued_bytes: 0,
            serving: Serving::Nothing,
            look: false,
            done_sent: false,
            sent: 0,
            acknowledged: 0,
            caught_up: false,
            closing: false,
            begun_ms: now_ms,
            heard_ms: now_ms,
            moved_ms: now_ms,
        }
    }

    /// Who the peer says to be, once it has.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// What the peer has applied, by its own word: what is on its way to it is not in it.
    pub fn peer_applied(&self) -> &VersionVector {
        &self.peer_applied
    }

    /// Grows whenever [`Session::peer_applied`] has become more.
    pub fn peer_news(&self) -> u64 {
        self.peer_news
    }

    /// Whether each side had all that the other had, at some moment of this session.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// Bytes of content that were sent and that came.
    pub fn traffic(&self) -> (u64, u64) {
        (self.sent, self.came)
    }

    /// Takes bytes from the peer.
    ///
    /// # Errors
    /// [`SessionError`]; the session is over, and [`Session::close`] tells the peer why.
    pub fn handle_input(&mut self, now_ms: u64, bytes: &[u8]) -> Result<(), SessionError> {
        self.heard_ms = now_ms;
        self.decoder.push(bytes);
        while let Some((message, size)) = self.decoder.take()? {
            self.message(now_ms, message, size as u64)?;
        }
        self.go_on();
        Ok(())
    }

    /// Takes what came of an action.
    ///
    /// # Errors
    /// [`SessionError::Fork`] and [`SessionError::Retired`]: this side has to go on under a new site id.
    pub fn handle_answer(&mut self, answer: Answer) -> Result<(), SessionError> {
        match answer {
            Answer::Started(_)
            | Answer::Compared(_)
            | Answer::Confirmed(_)
            | Answer::Knowing
            | Answer::Changesets { .. }
            | Answer::Blocks(_)
            | Answer::Exported { .. }
            | Answer::Parts(_) => {
                self.reading = false;
                self.was_read(answer)?;
            }
            _ => self.was_written(answer)?,
        }
        self.go_on();
        Ok(())
    }

    /// Something was applied or written here: it may be news to the peer.
    pub fn handle_local(&mut self) {
        self.look = true;
        self.go_on();
    }

    /// Operations that are new here, parents first, each with its id.
    pub fn handle_operations(&mut self, operations: Vec<([u8; 16], Operation)>) {
        if !self.begun {
            self.early.extend(operations);
            return;
        }
        for (id, operation) in operations {
            if self.peer_ops.insert((operation.kind, id)) {
                self.queued_bytes += operation.bytes.len();
                self.sending.push_back(Message::Operation(operation));
            }
        }
    }

    /// Sites that were retired here since the session began.
    pub fn handle_retired(&mut self, sites: Vec<(SiteId, u64)>) {
        if self.begun && !sites.is_empty() {
            self.control.push_back(Message::Retired(sites));
        }
    }

    /// When [`Session::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.deadline().map(|(at, _)| at)
    }

    /// # Errors
    /// [`SessionError::Stalled`] if the peer owes something for too long.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), SessionError> {
        match self.deadline() {
            Some((at, what)) if at <= now_ms => Err(SessionError::Stalled { what }),
            _ => Ok(()),
        }
    }

    fn deadline(&self) -> Option<(u64, &'static str)> {
        if self.peer.is_none() {
            return Some((self.begun_ms.saturating_add(HELLO_MS), "its hello"));
        }
        let within = self.decoder.is_within().then(|| (self.heard_ms.saturating_add(STALL_MS), "a message"));
        let owes = (self.sent > self.acknowledged)
            .then(|| (self.moved_ms.saturating_add(TAKE_MS), "taking in what it was sent"));
        // While it is taken in, no other peer's can be.
        let awaited = self.snapshot_wanted || self.parts_left.is_some_and(|left| left > 0);
        let idle = self.writing.is_none() && self.intake.is_empty();
        let snapshot = (awaited && idle).then(|| (self.snapshot_ms.saturating_add(STALL_MS), "a snapshot"));
        within.into_iter().chain(owes).chain(snapshot).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message to send, if the window allows one.
    pub fn poll_output(&mut self, now_ms: u64) -> Option<Bytes> {
        if let Some(message) = self.control.pop_front() {
            return Some(message.encode());
        }
        if self.closing {
            return None;
        }
        if self.progress_due {
            let progress = self.progress();
            self.go_on();
            return Some(progress.encode());
        }
        if self.sent - self.acknowledged >= WINDOW_BYTES {
            return None;
        }
        let message = self.sending.pop_front()?;
        let bytes = message.encode();
        if message.counts() {
            if self.sent == self.acknowledged {
                self.moved_ms = now_ms;
            }
            self.sent += bytes.len() as u64;
            self.queued_bytes = self.queued_bytes.saturating_sub(bytes.len());
        }
        self.go_on();
        Some(bytes)
    }

    /// Ends the session: what was to be sent is dropped, and the peer is told why.
    pub fn close(&mut self, code: ByeCode, reason: impl Into<String>) {
        self.closing = true;
        self.control = VecDeque::from([Message::Bye { code, reason: reason.into() }]);
    }

    /// Schedules what can be done now.
    fn go_on(&mut self) {
        self.take_in();
        self.read_on();
        let done = self.done_sent && self.done_came && self.intake.is_empty() && self.writing.is_none();
        let taken = self.sending.is_empty() && self.pending.is_empty() && self.sent == self.acknowledged;
        if done && taken && !self.progress_due && !self.caught_up {
            self.caught_up = true;
            self.events.push_back(Event::CaughtUp);
        }
    }
}

/// Partial changesets by site and version.
pub(crate) fn by_version(partial: &[Partial]) -> BTreeMap<(SiteId, u64), u32> {
    partial.iter().map(|partial| ((partial.site, partial.version), partial.blocks)).collect()
}
