//! What happened, for people and to be compared.

use std::collections::BTreeMap;
use std::fmt;

use crate::disk::DiskCount;
use crate::network::NetworkCount;

/// One line of the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// To whom; to the world for `None`.
    pub device: Option<usize>,
    /// What.
    pub text: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, ms) = (self.at_ms / 1000, self.at_ms % 1000);
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        write!(f, "{days}d {hours:02}:{minutes:02}:{:02}.{ms:03}  ", seconds % 60)?;
        match self.device {
            Some(device) => write!(f, "d{device}  ")?,
            None => write!(f, "--  ")?,
        }
        f.write_str(&self.text)
    }
}

/// Something that should not have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise it breaks, in a word: a shrunk scenario breaks the same one.
    pub promise: &'static str,
    /// What was seen.
    pub text: String,
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.text)
    }
}

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Steps, syncs and what came of them, by name.
    pub events: BTreeMap<&'static str, u64>,
    /// Faults of disks.
    pub disk: DiskCount,
    /// Packets.
    pub network: NetworkCount,
    /// Faults of buckets.
    pub bucket: isle_blobs::testing::FaultCount,
}

impl Coverage {
    pub(crate) fn note(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    /// Adds that of another run.
    pub fn add(&mut self, other: &Coverage) {
        for (event, count) in &other.events {
            *self.events.entry(event).or_default() += count;
        }
        self.disk.add(&other.disk);
        let (network, of) = (&mut self.network, &other.network);
        network.packets += of.packets;
        network.lost += of.lost;
        network.reordered += of.reordered;
        network.broken += of.broken;
        self.add_bucket(&other.bucket);
    }

    pub(crate) fn add_bucket(&mut self, of: &isle_blobs::testing::FaultCount) {
        let bucket = &mut self.bucket;
        bucket.errors_before += of.errors_before;
        bucket.errors_after += of.errors_after;
        bucket.torn += of.torn;
        bucket.throttled += of.throttled;
        bucket.truncated += of.truncated;
        bucket.bit_flips += of.bit_flips;
        bucket.rollbacks += of.rollbacks;
        bucket.late_listings += of.late_listings;
        bucket.offline += of.offline;
    }

    /// Every count by its name.
    pub fn counts(&self) -> Vec<(String, u64)> {
        let mut counts: Vec<(String, u64)> =
            self.events.iter().map(|(event, count)| ((*event).to_owned(), *count)).collect();
        let faults = [
            ("disk: operations", self.disk.operations),
            ("disk: crashed in the middle of one", self.disk.crashes),
            ("disk: torn writes", self.disk.torn),
            ("disk: writes lost in a power cut", self.disk.lost),
            ("disk: full", self.disk.full),
            ("disk: failed reads and writes", self.disk.failed),
            ("disk: flipped bits", self.disk.flipped),
            ("network: packets", self.network.packets),
            ("network: lost", self.network.lost),
            ("network: reordered", self.network.reordered),
            ("network: broken connections", self.network.broken),
            ("bucket: lost calls", self.bucket.errors_before),
            ("bucket: unheard calls", self.bucket.errors_after),
            ("bucket: torn puts", self.bucket.torn),
            ("bucket: throttled", self.bucket.throttled),
            ("bucket: reads cut short", self.bucket.truncated),
            ("bucket: flipped bits", self.bucket.bit_flips),
            ("bucket: older versions read", self.bucket.rollbacks),
            ("bucket: late listings", self.bucket.late_listings),
            ("bucket: offline", self.bucket.offline),
        ];
        counts.extend(faults.into_iter().map(|(name, count)| (name.to_owned(), count)));
        counts
    }
}

/// What came of a scenario.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What should not have happened, if anything did.
    pub violation: Option<Violation>,
    /// The timeline.
    pub events: Vec<Event>,
    /// A fingerprint of the timeline: the same on every machine.
    pub hash: String,
    /// How often what happened.
    pub coverage: Coverage,
    /// How much time has passed on the devices, in milliseconds, all together.
    pub device_ms: u64,
}

/// The timeline while it is written.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    hasher: blake3::Hasher,
}

impl Trace {
    pub(crate) fn add(&mut self, at_ms: u64, device: Option<usize>, text: String) {
        let event = Event { at_ms, device, text };
        self.hasher.update(event.to_string().as_bytes());
        self.hasher.update(b"\n");
        self.events.push(event);
    }

    pub(crate) fn hash(&self) -> String {
        self.hasher.finalize().to_hex()[..16].to_owned()
    }
}
