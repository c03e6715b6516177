//! The world: what happens to whom and when.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use futures::future::{AbortHandle, Abortable, Aborted};
use futures::stream::{FuturesUnordered, StreamExt as _};
use isle::{BackedUp, CompactOptions, Error, Replica, SyncReport};
use tokio::time::{Duration, sleep_until};

use crate::check::Memory;
use crate::clock::WorldTime;
use crate::device::{Ack, Bucket, Device, Kept};
use crate::disk;
use crate::network::Link;
use crate::random::Rng;
use crate::scenario::{Scenario, Way, What};
use crate::schemas;
use crate::trace::{Coverage, Trace, Violation};
use crate::workload::{Token, Writer, hot};

mod connections;
mod deeds;
mod faults;
mod files;
mod power;

pub(crate) use deeds::chain;
use deeds::told;

/// What is due at a time.
#[derive(Debug, Clone, Copy)]
enum Due {
    Step(usize),
    Restart(usize),
    /// A fault is over.
    Heal(usize, Fault),
    Link(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Disk,
    Bucket(crate::scenario::BucketFault),
}

/// What came of work that takes time.
pub(crate) struct Done {
    device: usize,
    what: &'static str,
    result: Result<Result<SyncReport, Error>, Aborted>,
}

type Work = Pin<Box<dyn Future<Output = Done>>>;

/// How often a link looks whether somebody waits for too long, in milliseconds.
const LINK_TICK_MS: u64 = 5_000;

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) time: WorldTime,
    pub(crate) root: PathBuf,
    pub(crate) bucket: Bucket,
    pub(crate) devices: Vec<Device>,
    links: BTreeMap<usize, Link>,
    next_link: usize,
    queue: BTreeMap<(u64, u64), Due>,
    next_due: u64,
    running: FuturesUnordered<Work>,
    aborts: Vec<(usize, AbortHandle)>,
    /// From whom to whom nothing goes, and until when.
    parted: BTreeMap<(usize, usize), u64>,
    copy_of_bucket: Option<BTreeMap<String, Bytes>>,
    next_token: u64,
    files: files::Known,
    pub(crate) memory: Memory,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    pub(crate) device_ms: u64,
}

pub(crate) type Checked<T> = Result<T, Violation>;

impl World {
    pub(crate) async fn new(scenario: &Scenario, root: PathBuf) -> Checked<World> {
        let time = WorldTime::begin();
        disk::set_sql_time(Some(crate::clock::START_MS));
        let mut world = World {
            scenario: scenario.clone(),
            time,
            root,
            bucket: Bucket::new(time),
            devices: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            queue: BTreeMap::new(),
            next_due: 0,
            running: FuturesUnordered::new(),
            aborts: Vec::new(),
            parted: BTreeMap::new(),
            copy_of_bucket: None,
            next_token: 0,
            files: files::Known::default(),
            memory: Memory::default(),
            trace: Trace::default(),
            coverage: Coverage::default(),
            device_ms: 0,
        };
        for n in 0..scenario.devices.clamp(1, 16) as usize {
            world.add_device(n)?;
        }
        let definition = schemas::definition(&scenario.schema, &BTreeSet::new());
        let definition = definition.ok_or_else(|| world.broken("setup", "no such schema".to_owned()))?;
        world.at(0, |device| device.replica.as_ref().map(|replica| replica.apply_schema(definition.as_str())));
        let founder = world.replica(0)?;
        if crate::device::is_encrypted(scenario.seed) {
            founder.create_key().map_err(|error| world.broken("setup", error.to_string()))?;
        }
        for n in 1..world.devices.len() {
            let newcomer = world.replica(n)?;
            founder.let_in(&newcomer).map_err(|error| world.broken("setup", error.to_string()))?;
        }
        for n in 0..world.devices.len() {
            let replica = world.replica(n)?;
            replica.sync().await.map_err(|error| world.broken("setup", error.to_string()))?;
            world.collect(n)?;
        }
        for device in &mut world.devices {
            device.plan_faults();
        }
        for (n, step) in world.scenario.steps.clone().iter().enumerate() {
            world.due(step.at_ms, Due::Step(n));
        }
        Ok(world)
    }

    fn add_device(&mut self, n: usize) -> Checked<()> {
        let device = Device::new(&self.root, n, &self.scenario, self.time, &self.bucket);
        let mut device = device.map_err(|error| self.broken("setup", error.to_string()))?;
        device.open().map_err(|error| self.broken("setup", error.to_string()))?;
        self.devices.push(device);
        Ok(())
    }

    pub(crate) fn replica(&self, n: usize) -> Checked<Replica> {
        self.devices[n].replica.clone().ok_or_else(|| self.broken("setup", format!("device {n} is off")))
    }

    /// Something is not as it should be.
    pub(crate) fn broken(&self, promise: &'static str, text: String) -> Violation {
        Violation { promise, text: self.tame(&text), at_ms: self.time.now() }
    }

    /// A text without what is different on each machine.
    fn tame(&self, text: &str) -> String {
        text.replace(&*self.root.to_string_lossy(), "~")
    }

    pub(crate) fn log(&mut self, device: Option<usize>, text: impl AsRef<str>) {
        let text = self.tame(text.as_ref());
        self.trace.add(self.time.now(), device, text);
    }

    fn due(&mut self, at_ms: u64, due: Due) -> (u64, u64) {
        self.next_due += 1;
        self.queue.insert((at_ms, self.next_due), due);
        (at_ms, self.next_due)
    }

    /// A connection is looked after at that time, or earlier.
    fn link_due(&mut self, at_ms: u64, id: usize) {
        let before = self.links.get(&id).and_then(|link| link.scheduled);
        if before.is_some_and(|(at, _)| at <= at_ms) {
            return;
        }
        before.map(|key| self.queue.remove(&key));
        let key = self.due(at_ms, Due::Link(id));
        if let Some(link) = self.links.get_mut(&id) {
            link.scheduled = Some(key);
        }
    }

    /// Does something on a device, at its time.
    pub(crate) fn at<T>(&mut self, n: usize, f: impl FnOnce(&mut Device) -> T) -> T {
        let device = &mut self.devices[n];
        disk::set_sql_time(Some(isle_store::Runtime::now_ms(device.runtime.as_ref())));
        f(device)
    }

    /// Runs until nothing is left to do.
    pub(crate) async fn run(&mut self) -> Checked<()> {
        loop {
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let wake = next.map(|at| sleep_until(self.time.at(at)));
            let done = tokio::select! {
                biased;
                Some(done) = self.running.next(), if !self.running.is_empty() => Some(done),
                () = async { match wake { Some(wake) => wake.await, None => std::future::pending().await } }, if next.is_some() => None,
                else => break,
            };
            match done {
                Some(done) => self.ended(done)?,
                None => {
                    while let Some((&(at, n), &due)) = self.queue.first_key_value() {
                        if at > self.time.now() {
                            break;
                        }
                        self.queue.remove(&(at, n));
                        self.happens(due).await?;
                        self.notice_crashes();
                    }
                }
            }
            self.notice_crashes();
        }
        self.device_ms = self.time.now() * self.devices.len() as u64;
        for device in &self.devices {
            self.coverage.disk.add(&device.disk.count());
            self.coverage.add_bucket(&device.bucket_count());
        }
        Ok(())
    }

    async fn happens(&mut self, due: Due) -> Checked<()> {
        match due {
            Due::Step(n) => {
                let step = self.scenario.steps[n].clone();
                let device = step.device as usize % self.devices.len();
                self.step(device, &step.what).await
            }
            Due::Restart(n) => self.restart(n),
            Due::Heal(n, fault) => {
                self.heal(n, fault);
                Ok(())
            }
            Due::Link(id) => self.link(id),
        }
    }

    async fn step(&mut self, n: usize, what: &What) -> Checked<()> {
        let other = |with: u32| with as usize % self.devices.len();
        match *what {
            What::Write { way, seed } => self.write(n, way, seed, None),
            What::Bulk { rows, seed, long } => self.write(n, Way::Isle, seed, Some((rows, long))),
            What::Sync => {
                self.sync(n);
                Ok(())
            }
            What::Talk { with, seed, cut_after, stay_ms } => {
                self.talk(n, other(with), seed, cut_after, self.time.now() + stay_ms)
            }
            What::CopyBucket => self.copy_bucket(n).await,
            What::RollBucketBack => self.roll_bucket_back(n).await,
            What::Lose => {
                if self.may_go(n) {
                    self.note(n, "lost", "is gone for good".to_owned());
                    self.lose(n);
                }
                Ok(())
            }
            What::Tamper => self.tamper(n),
            What::CopyFile => self.copy_file(n),
            What::BackUp => self.back_up(n),
            What::Restore { by_hand } => self.restore(n, by_hand),
            What::Retire { whom } => self.retire(n, other(whom)),
            What::Migrate { change } => self.migrate(n, change),
            What::App { version } => self.run_app(n, version),
            What::Compact { keep_ms } => self.compact(n, keep_ms),
            What::Files { seed } => self.change_files(n, seed),
            What::Contents { way, seed } => self.move_contents(n, way, seed),
            What::Quiet => self.quiet().await,
            What::Part { with, one_way, for_ms } => {
                self.part(n, other(with), one_way, for_ms);
                Ok(())
            }
            What::Bucket { .. }
            | What::Crash { .. }
            | What::Full { .. }
            | What::Failing { .. }
            | What::Flipping { .. }
            | What::Jump { .. } => {
                self.fault(n, what);
                Ok(())
            }
        }
    }

    /// Devices that are not gone.
    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.devices.len()).filter(|n| !self.devices[*n].gone).collect()
    }

    /// Notes something in the timeline and in the counts.
    pub(crate) fn note(&mut self, n: usize, event: &'static str, text: String) {
        self.coverage.note(event);
        self.log(Some(n), text);
    }
}
