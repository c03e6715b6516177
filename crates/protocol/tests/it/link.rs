//! Several replicas, links between them, and a clock that moves when nothing else can.

use std::collections::VecDeque;

use bytes::Bytes;
use isle_protocol::{Action, Answer, Event, Session, SessionError, WINDOW_BYTES};

use crate::model::Replica;

/// Numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// One end of a link.
#[derive(Debug)]
struct End {
    replica: usize,
    session: Session,
    /// Bytes on their way to it.
    wire: VecDeque<u8>,
    /// Answers that the store has not given yet.
    answers: Vec<Answer>,
    /// Actions that the store has not got to yet, of either lane.
    actions: Vec<Action>,
    exported: Vec<Bytes>,
    outcome: Option<SessionError>,
    caught_up: bool,
}

/// Replicas and links.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) replicas: Vec<Replica>,
    links: Vec<(usize, usize, Option<[End; 2]>)>,
    pub(crate) random: Random,
    pub(crate) now_ms: u64,
    /// Bytes that went over each link, both ways.
    pub(crate) bytes: Vec<u64>,
}

impl World {
    pub(crate) fn new(replicas: usize, links: &[(usize, usize)], seed: u64) -> World {
        World {
            replicas: (0..replicas).map(|n| Replica::new(n as u8 + 1)).collect(),
            links: links.iter().map(|(a, b)| (*a, *b, None)).collect(),
            random: Random(seed),
            now_ms: 1_000,
            bytes: vec![0; links.len()],
        }
    }

    pub(crate) fn connect(&mut self) {
        for (a, b, ends) in self.links.iter_mut().filter(|link| link.2.is_none()) {
            let end = |n: usize| End {
                replica: n,
                session: self.replicas[n].session(self.now_ms),
                wire: VecDeque::new(),
                answers: Vec::new(),
                actions: Vec::new(),
                exported: Vec::new(),
                outcome: None,
                caught_up: false,
            };
            *ends = Some([end(*a), end(*b)]);
        }
    }

    pub(crate) fn cut(&mut self, link: usize) {
        self.links[link].2 = None;
        for side in 0..2 {
            let replica = if side == 0 { self.links[link].0 } else { self.links[link].1 };
            self.replicas[replica].ended(2 * link + side);
        }
    }

    pub(crate) fn session(&mut self, link: usize, side: usize) -> &mut Session {
        &mut self.links[link].2.as_mut().expect("connected")[side].session
    }

    pub(crate) fn outcome(&self, link: usize, side: usize) -> Option<&SessionError> {
        self.links[link].2.as_ref().expect("connected")[side].outcome.as_ref()
    }

    pub(crate) fn outcomes(&self, link: usize) -> [Option<&SessionError>; 2] {
        [self.outcome(link, 0), self.outcome(link, 1)]
    }

    pub(crate) fn is_caught_up(&self, link: usize) -> bool {
        self.links[link].2.as_ref().is_some_and(|ends| ends.iter().all(|end| end.caught_up))
    }

    /// Both ends of a link, for a message.
    pub(crate) fn show(&self, link: usize) -> String {
        format!("{:#?}", self.links[link].2)
    }

    /// A replica has something new: its sessions look.
    pub(crate) fn tell(&mut self, replica: usize) {
        for end in self.links.iter_mut().filter_map(|link| link.2.as_mut()).flatten() {
            if end.replica == replica {
                end.session.handle_local();
            }
        }
    }

    pub(crate) fn write(&mut self, replica: usize, blocks: &[Bytes]) {
        self.replicas[replica].write(blocks);
        self.tell(replica);
    }

    /// Lets some end do something; false if none can.
    fn step(&mut self) -> bool {
        let start = self.random.below(2 * self.links.len() as u64) as usize;
        for n in 0..2 * self.links.len() {
            let n = (start + n) % (2 * self.links.len());
            if self.step_end(n / 2, n % 2) {
                return true;
            }
        }
        false
    }

    fn step_end(&mut self, link: usize, side: usize) -> bool {
        let Some(ends) = self.links[link].2.as_mut() else { return false };
        let (left, right) = ends.split_at_mut(1);
        let (end, other) = if side == 0 { (&mut left[0], &mut right[0]) } else { (&mut right[0], &mut left[0]) };
        if end.outcome.is_some() {
            return false;
        }
        let mut outcome = Ok(());
        let mut news = None;
        let replica = &mut self.replicas[end.replica];
        let before = (replica.applied.clone(), replica.operations.len());
        // What is asked for is done later, and what was read when it is answered may be old.
        end.actions.extend(std::iter::from_fn(|| end.session.poll_action()));
        let next = (self.random.below(3) > 0).then(|| self.random.below(end.actions.len().max(1) as u64) as usize);
        let answer = next.and_then(|next| {
            let action = end.actions.get(next)?;
            let answer = replica.act(2 * link + side, &mut end.exported, action)?;
            end.actions.remove(next);
            Some(answer)
        });
        let acted = if let Some(answer) = answer {
            // The store may take its time: the answer waits, and other things go on.
            end.answers.push(answer);
            if before.0 != replica.applied || before.1 != replica.operations.len() {
                news = Some(end.replica);
            }
            true
        } else if !end.answers.is_empty() && self.random.below(3) > 0 {
            let answer = end.answers.swap_remove(self.random.below(end.answers.len() as u64) as usize);
            outcome = end.session.handle_answer(answer);
            true
        } else if !end.wire.is_empty() && self.random.below(3) > 0 {
            let some = 1 + self.random.below(end.wire.len() as u64) as usize;
            let bytes: Vec<u8> = end.wire.drain(..some).collect();
            outcome = end.session.handle_input(self.now_ms, &bytes);
            true
        } else if let Some(bytes) = end.session.poll_output(self.now_ms) {
            self.bytes[link] += bytes.len() as u64;
            other.wire.extend(bytes);
            let waits = other.wire.len() as u64;
            assert!(waits <= 2 * WINDOW_BYTES, "{waits} bytes are on their way");
            true
        } else {
            let may_act = end.actions.iter().any(|action| replica.may_act(2 * link + side, action));
            may_act || !end.answers.is_empty() || !end.wire.is_empty()
        };
        // What is under way to a peer, or waits in its store, does not count as being there.
        let there = &self.replicas[other.replica].applied;
        assert!(there.includes(end.session.peer_applied()), "{:?} of {there:?}", end.session.peer_applied());
        while let Some(event) = end.session.poll_event() {
            end.caught_up |= event == Event::CaughtUp;
        }
        if let Err(error) = outcome {
            end.session.close(error.code(), error.to_string());
            while let Some(bytes) = end.session.poll_output(self.now_ms) {
                other.wire.extend(bytes);
            }
            end.outcome = Some(error);
        }
        if let Some(replica) = news {
            self.tell(replica);
        }
        acted
    }

    /// Runs until nothing can be done any more.
    pub(crate) fn settle(&mut self) {
        for _ in 0..2_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the sessions do not come to rest");
    }

    pub(crate) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
    }
}
