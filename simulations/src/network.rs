//! Connections between devices: packets that come late, are lost and sent again, and do not come at all.
//!
//! A connection keeps bytes whole and in order, as QUIC does: a lost packet is one that comes later, and holds up those behind it; one that
//! comes twice is seen once, so none does. A connection over which nothing has come for [`IDLE_MS`] is gone, as is one that a step cuts.

use std::collections::VecDeque;

use isle::PeerSession;

use crate::random::Rng;

/// After so long without a packet a connection is gone, in milliseconds.
pub(crate) const IDLE_MS: u64 = 30_000;
/// How long it takes until a lost packet is sent again at first, in milliseconds.
const RESEND_MS: u64 = 300;

/// How often what happened to packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkCount {
    /// Packets that were sent.
    pub packets: u64,
    /// Packets that were lost, and sent again.
    pub lost: u64,
    /// Packets that overtook others.
    pub reordered: u64,
    /// Connections that broke.
    pub broken: u64,
}

pub(crate) struct Link {
    pub(crate) devices: [usize; 2],
    pub(crate) ends: [Option<PeerSession>; 2],
    /// What is on its way to each end, and when it comes.
    pub(crate) queues: [VecDeque<(u64, Vec<u8>)>; 2],
    rng: Rng,
    /// Bytes until it breaks.
    pub(crate) cut_after: Option<u64>,
    pub(crate) stay_until: u64,
    /// When it is gone because nothing comes through.
    pub(crate) gone_at: Option<u64>,
    /// When a packet of each direction comes that is not held up.
    last: [u64; 2],
    /// Its place in the queue of what is due.
    pub(crate) scheduled: Option<(u64, u64)>,
    /// When it was last looked whether somebody waits for too long.
    pub(crate) ticked: u64,
}

impl Link {
    pub(crate) fn new(
        devices: [usize; 2],
        ends: [PeerSession; 2],
        seed: u64,
        cut_after: Option<u64>,
        stay_until: u64,
    ) -> Link {
        let [a, b] = ends;
        Link {
            devices,
            ends: [Some(a), Some(b)],
            queues: Default::default(),
            rng: Rng(seed),
            cut_after,
            stay_until,
            gone_at: None,
            last: [0, 0],
            scheduled: None,
            ticked: 0,
        }
    }

    /// Puts bytes on their way to an end. `blocked` is until when nothing goes that way.
    pub(crate) fn send(&mut self, to: usize, now: u64, bytes: Vec<u8>, blocked: Option<u64>, count: &mut NetworkCount) {
        count.packets += 1;
        let mut takes = 1 + self.rng.below(if self.rng.0 & 64 == 0 { 20 } else { 300 });
        let mut resend = RESEND_MS;
        while self.rng.chance(6) {
            count.lost += 1;
            takes += resend;
            resend *= 2;
        }
        let mut comes = now + takes;
        if let Some(until) = blocked {
            comes = comes.max(until + takes);
            if until > now + IDLE_MS {
                self.gone_at = Some(self.gone_at.map_or(now + IDLE_MS, |at| at.min(now + IDLE_MS)));
            }
        }
        if comes < self.last[to] {
            count.reordered += 1;
            comes = self.last[to];
        }
        self.last[to] = comes;
        // Where one piece ends and the next begins says nothing.
        let at = self.rng.below(2 * bytes.len() as u64 + 1) as usize;
        if let Some((first, rest)) = bytes.split_at_checked(at).filter(|(_, rest)| !rest.is_empty()) {
            self.queues[to].push_back((comes, first.to_vec()));
            self.queues[to].push_back((comes, rest.to_vec()));
        } else {
            self.queues[to].push_back((comes, bytes));
        }
    }

    /// Whether both ends have gone.
    pub(crate) fn is_over(&self) -> bool {
        self.ends.iter().all(Option::is_none)
    }
}
