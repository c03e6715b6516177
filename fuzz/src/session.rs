//! A session with a peer that says anything, and a store that answers as a store may, early or late.
//!
//! Input: form (whether hello has been said), then steps: a message (kind − 1, body as [`Script::piece`]), raw bytes, an answer to what the session
//! asks for, time that passes, news from here, output. What holds is what the crate promises: the window each way, one action of each kind at a time,
//! writes in the order in which the peer sent, no version twice, memory, and that an error ends it in good order.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use isle_changeset::Header;
use isle_clock::{SiteId, VersionVector};
use isle_protocol::{
    Action, Answer, Blocks, ByeCode, Changeset, Config, Decoder, Frame, Have, MESSAGE_BYTES_MAX, Message, OpKind,
    Operation, Session, SessionError, Started, WINDOW_BYTES,
};

use crate::frames::{as_piece, hello, messages};
use crate::script::{Script, piece};
use crate::{Seed, memory};

/// The kinds of messages come first among the steps.
const KINDS: u8 = 17;
const RAW: u8 = 17;
const ANSWER: u8 = 18;
const TIME: u8 = 19;
const LARGE: u8 = 20;
const LOCAL: u8 = 21;
const OPERATIONS: u8 = 22;
const RETIRED: u8 = 23;
const OUTPUT: u8 = 24;
const STEPS: u8 = 25;

/// The most bytes of large blocks in one input: some windows.
const LARGE_BYTES_MAX: usize = 32 << 20;

/// The largest large block.
const LARGE_BYTES_EACH: usize = 255 << 13;

/// Memory for a session: what waits for the store, once in the session and once with the peer of this target, in buffers that double; and for what was
/// said, a multiple, as in lists and maps.
const fn bound(bytes: usize) -> usize {
    4 * (WINDOW_BYTES as usize + LARGE_BYTES_EACH) + (4 << 20) + 256 * bytes
}

/// The target.
pub fn run(data: &[u8]) {
    memory::bounded("a session", bound(data.len()), || {
        let mut script = Script::new(data);
        let mut ends = Ends::new();
        if script.byte() & 1 == 1 {
            assert!(ends.say(&Message::Hello(Box::new(hello(2)))).is_ok(), "it fits");
        }
        while !script.is_over() {
            if let Err(error) = ends.step(&mut script) {
                ends.close(&error);
                return;
            }
            ends.check();
        }
    });
}

/// The session and both of its surroundings: its store, and the peer.
struct Ends {
    session: Session,
    now_ms: u64,
    /// Asked for and not answered.
    reading: Option<Action>,
    writing: Option<Action>,
    /// What the peer said that the store is to be given, in order, with the bytes that count.
    said: VecDeque<(Message, u64)>,
    /// As the session reads it.
    inwards: Decoder,
    /// Bytes that count: came, of these not taken in by the store yet, of these given to it, and the last message's.
    came: u64,
    waiting: u64,
    given: u64,
    last: u64,
    /// Sites of which the store refused something.
    refused: BTreeSet<SiteId>,
    /// Bytes that count: sent, the last message's, and acknowledged by the peer.
    sent: u64,
    last_sent: u64,
    acknowledged: u64,
    /// What the session said that it had taken in.
    told: u64,
    /// Versions that were sent.
    versions: BTreeSet<(SiteId, u64)>,
    large: usize,
}

impl Ends {
    fn new() -> Ends {
        Ends {
            session: Session::new(Config { hello: hello(1) }, 0),
            now_ms: 0,
            reading: None,
            writing: None,
            said: VecDeque::new(),
            inwards: Decoder::default(),
            came: 0,
            waiting: 0,
            given: 0,
            last: 0,
            refused: BTreeSet::new(),
            sent: 0,
            last_sent: 0,
            acknowledged: 0,
            told: 0,
            versions: BTreeSet::new(),
            large: 0,
        }
    }

    fn step(&mut self, script: &mut Script<'_>) -> Result<(), SessionError> {
        match script.byte() % STEPS {
            kind @ 0..KINDS => {
                let body = script.piece();
                let length = (body.len() as u32 + 1).to_be_bytes();
                self.input(&[length.as_slice(), &[kind + 1], body].concat())?;
            }
            RAW => self.input(script.piece())?,
            ANSWER => self.answer(script)?,
            TIME => self.pass(u64::from(u16::from_be_bytes(script.array())) * 16)?,
            LARGE => {
                let [n, size] = script.array();
                let bytes = usize::from(size) << 13;
                self.large += bytes;
                if self.large <= LARGE_BYTES_MAX {
                    let site = SiteId::from_bytes([n; 16]);
                    let block = Frame::Block { site, version: 1, index: 0, bytes: Bytes::from(vec![n; bytes]) };
                    self.say(&Message::Frame(block))?;
                }
            }
            LOCAL => self.session.handle_local(),
            OPERATIONS => {
                let (kind, bytes) = (script.byte(), Bytes::copy_from_slice(script.piece()));
                let kind = [OpKind::Schema, OpKind::Member][usize::from(kind % 2)];
                self.session.handle_operations(vec![(id(&bytes), Operation { kind, bytes })]);
            }
            RETIRED => self.session.handle_retired(vec![(SiteId::from_bytes([script.byte(); 16]), 3)]),
            OUTPUT.. => self.output(),
        }
        Ok(())
    }

    fn say(&mut self, message: &Message) -> Result<(), SessionError> {
        self.input(&message.encode())
    }

    /// Bytes from the peer. What of them the store has to be given is remembered.
    fn input(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.session.handle_input(self.now_ms, bytes)?;
        self.inwards.push(bytes);
        while let Some((message, size)) = self.inwards.take().expect("the session read it") {
            if counts(&message) {
                self.came += size as u64;
            }
            // More of it is not wanted and passed over.
            if site_of(&message).is_some_and(|site| self.refused.contains(&site)) {
                continue;
            }
            if counts(&message) {
                self.waiting += size as u64;
                self.last = size as u64;
            }
            match message {
                Message::Progress { taken, .. } => self.acknowledged = taken,
                message @ (Message::Operation(_)
                | Message::Frame(_)
                | Message::Retired(_)
                | Message::Offer(_)
                | Message::Snapshot(_)
                | Message::Part { .. }) => {
                    let counted = if counts(&message) { size as u64 } else { 0 };
                    self.said.push_back((message, counted));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn pass(&mut self, ms: u64) -> Result<(), SessionError> {
        self.now_ms += ms;
        let due = self.session.poll_timeout().is_some_and(|at| at <= self.now_ms);
        let outcome = self.session.handle_timeout(self.now_ms);
        assert_eq!(matches!(outcome, Err(SessionError::Stalled { .. })), due, "{outcome:?}");
        outcome
    }

    /// Fetches what the session asks for, one reading and one writing thing at most.
    fn actions(&mut self) {
        while let Some(action) = self.session.poll_action() {
            let written = written(&action);
            let place = if written.is_some() { &mut self.writing } else { &mut self.reading };
            assert!(place.is_none(), "two at once: {place:?} and {action:?}");
            *place = Some(action);
            written.into_iter().flatten().for_each(|message| self.given(&message));
        }
    }

    /// What the store is given is what was said next.
    fn given(&mut self, message: &Message) {
        let next = self.said.pop_front();
        assert_eq!(next.as_ref().map(|(said, _)| said), Some(message), "something was left out");
        self.given += next.map_or(0, |(_, size)| size);
    }

    /// Answers one of the two things that are asked for.
    fn answer(&mut self, script: &mut Script<'_>) -> Result<(), SessionError> {
        self.actions();
        let [choice, more @ ..] = script.array::<4>();
        let reading = self.reading.is_some() && (choice & 1 == 0 || self.writing.is_none());
        let action = if reading { self.reading.take() } else { self.writing.take() };
        let Some(action) = action else { return Ok(()) };
        if !reading {
            self.waiting -= std::mem::take(&mut self.given);
        }
        let answer = answer(&action, choice, more);
        if let Answer::Put { declined, .. } | Answer::Compared(declined) = &answer {
            self.refused.extend(declined);
        }
        self.session.handle_answer(answer)
    }

    /// Takes all that is to be sent.
    fn output(&mut self) {
        // An answer or a message sets off a few messages, or as many as it holds things.
        for _ in 0..10_000 {
            let Some(bytes) = self.session.poll_output(self.now_ms) else { return };
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            let read = decoder.take();
            let Ok(Some((message, size))) = read else { panic!("it says what nobody reads: {read:?}") };
            assert!(!decoder.is_within() && size == bytes.len());
            if counts(&message) {
                self.sent += size as u64;
                self.last_sent = size as u64;
            }
            match message {
                Message::Progress { taken, .. } => {
                    assert!(self.told <= taken && taken <= self.came - self.waiting, "it took in {taken}");
                    self.told = taken;
                }
                Message::Frame(Frame::Header(bytes)) => {
                    let header = Header::decode(&bytes).expect("the store's");
                    assert!(self.versions.insert((header.site, header.version)), "a version is sent twice");
                }
                _ => {}
            }
        }
        panic!("it does not stop talking");
    }

    fn check(&mut self) {
        self.actions();
        assert!(self.waiting - self.last.min(self.waiting) <= WINDOW_BYTES, "{} bytes wait", self.waiting);
        let under_way = self.sent - self.acknowledged;
        assert!(under_way - self.last_sent.min(under_way) <= WINDOW_BYTES, "{under_way} bytes are under way");
        assert_eq!(self.session.traffic(), (self.sent, self.came));
        assert!(self.last as usize <= MESSAGE_BYTES_MAX + 5);
    }

    /// An ended session says why, and nothing more.
    fn close(&mut self, error: &SessionError) {
        self.session.close(error.code(), error.to_string());
        let bye = self.session.poll_output(self.now_ms).expect("a goodbye");
        let mut decoder = Decoder::default();
        decoder.push(&bye);
        assert!(matches!(decoder.take(), Ok(Some((Message::Bye { .. }, _)))));
        assert_eq!(self.session.poll_output(self.now_ms), None);
    }
}

fn counts(message: &Message) -> bool {
    matches!(message, Message::Operation(_) | Message::Frame(_) | Message::Snapshot(_) | Message::Part { .. })
}

fn site_of(message: &Message) -> Option<SiteId> {
    match message {
        Message::Frame(Frame::Header(bytes)) => Header::decode(bytes).ok().map(|header| header.site),
        Message::Frame(Frame::Block { site, .. } | Frame::Proof { site, .. }) => Some(*site),
        _ => None,
    }
}

fn id(bytes: &[u8]) -> [u8; 16] {
    *blake3::hash(bytes).as_bytes().first_chunk().expect("32 bytes")
}

/// What the peer said that a writing action hands on; `None` for one that reads.
fn written(action: &Action) -> Option<Vec<Message>> {
    Some(match action {
        Action::PutOperations(operations) => operations.iter().cloned().map(Message::Operation).collect(),
        Action::Put(frames) => frames.iter().cloned().map(Message::Frame).collect(),
        Action::Retire(sites) => vec![Message::Retired(sites.clone())],
        Action::Consider(vector) => vec![Message::Offer(vector.clone())],
        Action::Stage(header) => vec![Message::Snapshot(header.clone())],
        Action::StageParts(parts) => {
            parts.iter().map(|(index, bytes)| Message::Part { index: *index, bytes: bytes.clone() }).collect()
        }
        Action::Join => Vec::new(),
        _ => return None,
    })
}

/// An answer that a store may give.
fn answer(action: &Action, choice: u8, more: [u8; 3]) -> Answer {
    let bit = |n: u8| choice >> n & 1 == 1;
    let own = SiteId::from_bytes([1; 16]);
    match action {
        Action::Begin(peer) => {
            let applied: VersionVector = [(own, u64::from(choice % 8)), (peer.site, 3)].into_iter().collect();
            let yours = bit(3).then_some((3, [7; 32]));
            let have = Have { applied, yours, ..Have::default() };
            let operation = Operation { kind: OpKind::Schema, bytes: Bytes::from_static(b"operation") };
            let operations = if bit(4) { vec![([5; 16], operation)] } else { Vec::new() };
            let retired = if bit(5) { vec![(SiteId::from_bytes([6; 16]), 9)] } else { Vec::new() };
            Answer::Started(Box::new(Started { have, operations, retired }))
        }
        Action::Compare(chains) => Answer::Compared(chains.iter().map(|chain| chain.0).filter(|_| bit(1)).collect()),
        Action::Confirm { .. } => Answer::Confirmed(!bit(7)),
        Action::Restate { .. } => Answer::Knowing,
        Action::Read { have, declined, .. } => {
            let (mut changesets, mut applied) = (Vec::new(), have.clone());
            for n in 1..=(choice >> 1 & 3) {
                let site = SiteId::from_bytes([n; 16]);
                let version = have.get(site).saturating_add(1);
                if declined.contains(&site) || version > i64::MAX as u64 {
                    continue;
                }
                let [blocks, size, _] = more;
                let blocks = blocks.rotate_left(u32::from(n) - 1);
                let proof = (blocks >> 7 == 1).then(|| (version, Bytes::from_static(&[0; 144])));
                let blocks = match blocks & 7 {
                    0 => Blocks::Only(Bytes::from(vec![n; usize::from(size) << 8])),
                    many => Blocks::Many(u32::from(many)),
                };
                let header = crate::changeset::header(n, version).encode().into();
                changesets.push(Changeset { site, version, header, blocks, proof });
                applied.advance(site, version);
            }
            Answer::Changesets { changesets, more: bit(3), gap: bit(4), applied }
        }
        Action::ReadBlocks { first, end, .. } => {
            let most = (end - first).min(u32::from(choice >> 1 & 3));
            let size = usize::from(more[0]) << 8;
            Answer::Blocks((0..most).map(|n| Bytes::from(vec![n as u8; size])).collect())
        }
        Action::Export => Answer::Exported { header: Bytes::from_static(b"header"), blocks: u32::from(choice >> 1) },
        Action::ReadParts { first, last, .. } => {
            let most = (last - first).min(u32::from(choice >> 1 & 3));
            let size = usize::from(more[0]) << 8;
            Answer::Parts((0..=most).map(|n| Bytes::from(vec![n as u8; size])).collect())
        }
        Action::PutOperations(operations) => {
            Answer::OperationsPut(operations.iter().map(|operation| (operation.kind, id(&operation.bytes))).collect())
        }
        Action::Put(frames) => {
            let sites = frames.iter().filter_map(|frame| site_of(&Message::Frame(frame.clone())));
            let declined: BTreeSet<SiteId> =
                sites.filter(|site| bit(1) && site.as_bytes()[0] & 1 == choice >> 2 & 1).collect();
            let applied = [(SiteId::from_bytes([choice >> 4; 16]), u64::from(more[0]))].into_iter().collect();
            Answer::Put { applied, declined: declined.into_iter().collect() }
        }
        Action::Retire(sites) => Answer::Retired(sites.iter().any(|(site, _)| *site == own)),
        Action::Consider(_) => Answer::Considered(!bit(1)),
        Action::Stage(_) => {
            let [first, length, gap] = more.map(u32::from);
            let second = first + length + 1 + gap;
            Answer::Staged(if bit(1) { Vec::new() } else { vec![(first, first + length), (second + 1, second + 1)] })
        }
        Action::StageParts(_) => Answer::PartsStaged,
        Action::Join => Answer::Joined([(SiteId::from_bytes([3; 16]), u64::from(choice))].into_iter().collect()),
    }
}

/// Small inputs.
pub fn seeds() -> Vec<Seed> {
    let say = |message: &Message| {
        let mut step = as_piece(message);
        step[0] -= 1;
        step
    };
    let steps = |form: u8, steps: &[Vec<u8>]| [vec![form], steps.concat()].concat();
    let all = messages();
    // What may come at any time once hellos were said.
    let legal: Vec<Vec<u8>> = [1, 2, 3, 4, 8, 5, 6, 10, 9, 11, 8, 2].iter().map(|n| say(&all[*n])).collect();
    let answer_with = |choice, more: [u8; 3]| [vec![ANSWER, choice], more.to_vec()].concat();
    let (answer, output) = (|choice| answer_with(choice, [0; 3]), vec![OUTPUT]);
    let have = |have: Have| say(&Message::Have(Box::new(have)));
    let nothing = have(Have::default());
    let begun = [answer(1), answer(1)];
    let site = SiteId::from_bytes([77; 16]);
    let offer = say(&Message::Offer([(site, 5)].into_iter().collect()));
    let part = |index| say(&Message::Part { index, bytes: Bytes::from_static(b"part") });
    let header = say(&Message::Frame(Frame::Header(crate::changeset::header(2, 4).encode().into())));
    let block = say(&Message::Frame(Frame::Block {
        site: SiteId::from_bytes([2; 16]),
        version: 4,
        index: 0,
        bytes: Bytes::from_static(b"block"),
    }));
    let raw: Vec<u8> = all[1..6].iter().flat_map(|message| message.encode()).collect();
    let halves = raw.split_at(raw.len() / 2);
    let snapshot = [
        &begun[..],
        &[nothing.clone(), offer, answer(1), output.clone(), say(&Message::Snapshot(Bytes::from_static(b"header")))],
        &[answer_with(1, [0, 1, 0]), output.clone(), part(0), part(1), answer(1), part(3), answer(1), answer(1)],
        &[answer(1), output.clone(), answer(1)],
    ];
    let serving = [
        &begun[..],
        &[nothing.clone(), answer(0b1_0000), output.clone(), say(&Message::Answer(true)), answer(0b1010)],
        &[output.clone(), say(&Message::Want(vec![(0, 1), (3, 3)])), answer_with(2, [1; 3]), answer_with(2, [1; 3])],
        &[answer_with(2, [1; 3]), output.clone(), say(&Message::Joined), answer(0), output.clone()],
    ];
    let sending = [
        &begun[..],
        &[nothing.clone(), answer_with(0b110, [0x83, 4, 0]), answer_with(4, [1; 3]), answer_with(4, [1; 3])],
        &[output.clone(), answer_with(4, [1; 3]), answer_with(4, [1; 3]), answer(0), output.clone()],
        &[say(&Message::Progress { taken: 0, applied: VersionVector::new() }), vec![LOCAL]],
        &[answer_with(0b10, [0, 1, 0]), output.clone(), say(&Message::Done), answer(0), vec![TIME, 0xff, 0xff]],
    ];
    let receiving = [
        &begun[..],
        &[nothing, header.clone(), block.clone(), answer(1), output.clone(), header, block, output.clone()],
        &[vec![LARGE, 2, 200], vec![LARGE, 2, 255], answer(0b111), vec![LARGE, 2, 255], output.clone()],
        &[[vec![OPERATIONS, 1], piece(b"operation")].concat(), vec![RETIRED, 8], output.clone()],
    ];
    let bye = say(&Message::Bye { code: ByeCode::Done, reason: "done".to_owned() });
    vec![
        ("greeting", steps(0, &[say(&all[0]), answer(0x39), output.clone(), bye])),
        ("waiting", steps(1, &[legal.concat(), answer(1).repeat(12), output.clone()])),
        (
            "twice",
            steps(1, &[answer(1), legal.concat(), answer(1).repeat(6), legal[1..].concat(), answer(1).repeat(8)]),
        ),
        (
            "raw",
            steps(1, &[vec![RAW], piece(halves.0), answer(1), vec![RAW], piece(halves.1), answer(1), output.clone()]),
        ),
        ("snapshot", steps(1, &snapshot.concat())),
        ("serving", steps(1, &serving.concat())),
        ("sending", steps(1, &sending.concat())),
        ("receiving", steps(1, &receiving.concat())),
    ]
}
