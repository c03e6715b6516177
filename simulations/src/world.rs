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
use crate::scenario::{Scenario, What, Way};
use crate::schemas;
use crate::trace::{Coverage, Trace, Violation};
use crate::workload::{Token, Writer};

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
    pub(crate) memory: Memory,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    pub(crate) device_ms: u64,
    /// Something happened after which sums may not be exact: a file was copied or went back.
    pub(crate) inexact: bool,
    /// A copy of the bucket was put back.
    pub(crate) rolled_back: bool,
}

pub(crate) type Checked<T> = Result<T, Violation>;

impl World {
    pub(crate) async fn new(scenario: &Scenario, root: PathBuf) -> Checked<World> {
        let time = WorldTime::begin();
        let mut world = World {
            scenario: scenario.clone(),
            time,
            root,
            bucket: Bucket::new(),
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
            memory: Memory::default(),
            trace: Trace::default(),
            coverage: Coverage::default(),
            device_ms: 0,
            inexact: false,
            rolled_back: false,
        };
        for n in 0..scenario.devices.clamp(1, 16) as usize {
            world.add_device(n)?;
        }
        let definition = schemas::definition(&scenario.schema, &BTreeSet::new());
        let definition = definition.ok_or_else(|| world.broken("setup", "no such schema".to_owned()))?;
        world.at(0, |device| device.replica.as_ref().map(|replica| replica.apply_schema(definition.as_str())));
        let founder = world.replica(0)?;
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
        let device = Device::new(&self.root, n, self.scenario.seed, self.time, &self.bucket);
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
    fn at<T>(&mut self, n: usize, f: impl FnOnce(&mut Device) -> T) -> T {
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
            let count = device.disk.count();
            let disk = &mut self.coverage.disk;
            disk.operations += count.operations;
            disk.crashes += count.crashes;
            disk.torn += count.torn;
            disk.lost += count.lost;
            disk.full += count.full;
            disk.failed += count.failed;
            disk.flipped += count.flipped;
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
                match fault {
                    Fault::Disk => {
                        self.devices[n].disk.set_full(false);
                        self.devices[n].disk.set_failing(0);
                    }
                    Fault::Bucket(fault) => {
                        self.devices[n].bucket_faults.remove(&fault);
                        self.devices[n].plan_faults();
                    }
                }
                Ok(())
            }
            Due::Link(id) => self.link(id),
        }
    }

    async fn step(&mut self, n: usize, what: &What) -> Checked<()> {
        let now = self.time.now();
        match what {
            What::Write { way, seed } => self.write(n, *way, *seed, None),
            What::Bulk { rows, seed } => self.write(n, Way::Isle, *seed, Some(*rows)),
            What::Sync => {
                self.sync(n);
                Ok(())
            }
            What::Talk { with, seed, cut_after, stay_ms } => {
                self.talk(n, *with as usize % self.devices.len(), *seed, *cut_after, now + stay_ms)
            }
            What::Part { with, one_way, for_ms } => {
                let with = *with as usize % self.devices.len();
                self.parted.insert((n, with), now + for_ms);
                if !one_way {
                    self.parted.insert((with, n), now + for_ms);
                }
                self.note(n, "parted", format!("is cut off from d{with} for {} s", for_ms / 1000));
                Ok(())
            }
            What::Bucket { fault, permille, for_ms } => {
                self.devices[n].bucket_faults.insert(*fault, *permille);
                self.devices[n].plan_faults();
                self.due(now + for_ms, Due::Heal(n, Fault::Bucket(*fault)));
                self.note(n, "bucket fault", format!("bucket is {fault:?} for {} s", for_ms / 1000));
                Ok(())
            }
            What::CopyBucket => {
                let contents = self.bucket.objects.contents().await.map_err(|error| self.broken("setup", error))?;
                self.note(n, "bucket copied", format!("somebody copies the bucket: {} objects", contents.len()));
                self.copy_of_bucket = Some(contents);
                Ok(())
            }
            What::RollBucketBack => {
                let Some(contents) = self.copy_of_bucket.clone() else { return Ok(()) };
                self.bucket.objects.put_back(&contents).await.map_err(|error| self.broken("setup", error))?;
                self.rolled_back = true;
                self.note(n, "bucket rolled back", "somebody puts the copy of the bucket back".to_owned());
                Ok(())
            }
            What::Crash { power, after, down_ms } => {
                if self.devices[n].off {
                    return Ok(());
                }
                self.devices[n].crash = (*power, *down_ms);
                self.devices[n].disk.crash_after(*after);
                let kind = if *power { "power cut" } else { "kill" };
                let when = after.map_or("now".to_owned(), |after| format!("after {after} operations of the disk"));
                self.note(n, if *power { "power cut" } else { "kill" }, format!("{kind} {when}"));
                Ok(())
            }
            What::Full { for_ms } => {
                self.devices[n].disk.set_full(true);
                self.due(now + for_ms, Due::Heal(n, Fault::Disk));
                self.note(n, "disk full", format!("disk is full for {} s", for_ms / 1000));
                Ok(())
            }
            What::Failing { permille, for_ms } => {
                self.devices[n].disk.set_failing(*permille);
                self.due(now + for_ms, Due::Heal(n, Fault::Disk));
                self.note(n, "disk failing", format!("disk fails for {} s", for_ms / 1000));
                Ok(())
            }
            What::Flipping { permille } => {
                let sound = self.alive().into_iter().filter(|of| *of != n && !self.devices[*of].damaged).count();
                if self.devices[n].up().is_none() || sound == 0 {
                    return Ok(());
                }
                self.devices[n].damaged = true;
                self.devices[n].disk.set_flipping(*permille);
                self.note(n, "disk flips bits", "disk reads wrong bits".to_owned());
                Ok(())
            }
            What::Lose => {
                // Somebody has to be left.
                let sound = self.alive().into_iter().filter(|of| *of != n && !self.devices[*of].damaged).count();
                if sound > 0 && self.devices[n].up().is_some() {
                    self.note(n, "lost", "is gone for good".to_owned());
                    self.lose(n).await?;
                }
                Ok(())
            }
            What::Tamper => self.tamper(n),
            What::Jump { ms } => {
                self.devices[n].runtime.jump(*ms);
                self.note(n, "clock set", format!("clock is set by {ms} ms"));
                Ok(())
            }
            What::CopyFile => self.copy_file(n),
            What::BackUp => self.back_up(n),
            What::Restore { by_hand } => self.restore(n, *by_hand),
            What::Retire { whom } => self.retire(n, *whom as usize % self.devices.len()),
            What::Migrate { change } => self.migrate(n, *change),
            What::App { version } => self.run_app(n, *version),
            What::Compact { keep_ms } => {
                self.compact(n, *keep_ms)
            }
            What::Quiet => self.quiet().await,
        }
    }

    /// Devices that are not gone.
    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.devices.len()).filter(|n| !self.devices[*n].gone).collect()
    }

    /// A device goes, with what nobody else has of it.
    async fn lose(&mut self, n: usize) -> Checked<()> {
        for (_, abort) in self.aborts.iter().filter(|(of, _)| *of == n) {
            abort.abort();
        }
        let linked: Vec<usize> =
            self.links.iter().filter(|(_, link)| link.devices.contains(&n)).map(|(id, _)| *id).collect();
        let now = self.time.now();
        for id in linked {
            if let Some(link) = self.links.get_mut(&id) {
                let side = usize::from(link.devices[1] == n);
                (link.ends[side], link.gone_at) = (None, Some(now + 1));
            }
            self.link_due(now + 1, id);
        }
        let device = &mut self.devices[n];
        (device.gone, device.off, device.replica) = (true, false, None);
        device.acks.clear();
        device.unsealed.clear();
        let site = device.seen.map(|(site, _)| site);
        // Nobody waits for it any more.
        for other in self.alive() {
            if let (Some(site), Some(replica)) = (site, self.devices[other].up().cloned())
                && replica.retire(&site.to_string()).is_ok()
            {
                self.log(Some(other), format!("retires d{n}, which is gone"));
                break;
            }
        }
        Ok(())
    }

    /// Notes something in the timeline and in the counts.
    pub(crate) fn note(&mut self, n: usize, event: &'static str, text: String) {
        self.coverage.note(event);
        self.log(Some(n), text);
    }

    /// Writes, and remembers what was acknowledged.
    fn write(&mut self, n: usize, way: Way, seed: u64, bulk: Option<u32>) -> Checked<()> {
        // What is written, published and dropped while somebody compacts, nobody could compare with anything.
        if self.devices[n].up().is_none() || self.devices[n].drops_at_once {
            return Ok(());
        }
        let mut next_token = self.next_token;
        let wrote = self.at(n, |device| write(device, way, seed, bulk, &mut next_token));
        self.next_token = next_token;
        match wrote {
            Ok(Wrote { statements, refused, shown, foreign }) => {
                self.coverage.note(if foreign { "foreign write" } else { "write" });
                self.log(Some(n), format!("{way:?}: {}", summary(&statements, &refused)));
                let device = &mut self.devices[n];
                if foreign {
                    device.unsealed.extend(shown);
                } else if !self.devices[n].disk.is_down() {
                    self.collect(n)?;
                    let device = &mut self.devices[n];
                    if let Some((site, version)) = device.seen {
                        device.acks.extend(shown.into_iter().map(|token| Ack { token, site, version }));
                    }
                }
            }
            Err(reason) => {
                self.coverage.note("write failed");
                self.log(Some(n), format!("{way:?}: {reason}"));
            }
        }
        self.wake_links(n);
        Ok(())
    }

    fn work(&mut self, n: usize, what: &'static str, work: impl Future<Output = Result<SyncReport, Error>> + 'static) {
        let (abort, registration) = AbortHandle::new_pair();
        let work = Abortable::new(work, registration);
        self.devices[n].running += 1;
        self.aborts.push((n, abort));
        self.running.push(Box::pin(async move { Done { device: n, what, result: work.await } }));
    }

    fn sync(&mut self, n: usize) {
        let Some(replica) = self.devices[n].up().cloned() else { return };
        self.log(Some(n), "begins to sync");
        self.work(n, "sync", async move { Ok(replica.sync().await?.pop().unwrap_or_default()) });
    }

    fn compact(&mut self, n: usize, keep_ms: u64) -> Checked<()> {
        let Some(replica) = self.devices[n].up().cloned() else { return Ok(()) };
        if replica.seal().is_err() {
            return Ok(());
        }
        self.remember(n)?;
        self.put_by(n)?;
        self.devices[n].drops_at_once |= keep_ms < 3_600_000;
        let options = CompactOptions { keep: Duration::from_millis(keep_ms), ..CompactOptions::default() };
        self.log(Some(n), format!("begins to compact, but for the last {} s", keep_ms / 1000));
        self.work(n, "compact", async move {
            replica.compact(&options).await?;
            Ok(SyncReport::default())
        });
        Ok(())
    }

    fn ended(&mut self, done: Done) -> Checked<()> {
        let Done { device: n, what, result } = done;
        self.devices[n].running -= 1;
        let mut ended = self.aborts.iter().position(|(of, abort)| *of == n && !abort.is_aborted());
        if result.is_err() {
            ended = self.aborts.iter().position(|(of, abort)| *of == n && abort.is_aborted());
        }
        if let Some(at) = ended {
            self.aborts.remove(at);
        }
        match result {
            Err(Aborted) => self.log(Some(n), format!("{what} dies")),
            Ok(Err(error)) => {
                self.coverage.note(if what == "sync" { "sync failed" } else { "compaction failed" });
                self.log(Some(n), format!("{what} fails: {}", chain(&error)));
            }
            Ok(Ok(report)) => {
                self.coverage.note(if what == "sync" { "sync" } else { "compaction" });
                if report.snapshot_joined {
                    self.coverage.note("snapshot joined");
                }
                if report.snapshot_published {
                    self.coverage.note("snapshot published");
                }
                if report.new_site.is_some() {
                    self.coverage.note("new site id");
                }
                self.log(Some(n), format!("{what}: {}", told(&report)));
            }
        }
        self.devices[n].drops_at_once &= self.devices[n].running > 0;
        self.collect_if_up(n)?;
        self.wake_links(n);
        Ok(())
    }

    /// Whether nothing comes from one device to another, and until when.
    fn blocked(&self, from: usize, to: usize) -> Option<u64> {
        self.parted.get(&(from, to)).copied().filter(|until| *until > self.time.now())
    }

    fn talk(&mut self, n: usize, with: usize, seed: u64, cut_after: Option<u64>, stay_until: u64) -> Checked<()> {
        let up = |world: &World, n: usize| world.devices[n].up().cloned();
        let (Some(a), Some(b)) = (up(self, n), up(self, with)) else { return Ok(()) };
        let linked = |link: &Link| link.devices == [n, with] || link.devices == [with, n];
        if n == with || self.links.values().any(linked) || self.blocked(n, with).or(self.blocked(with, n)).is_some() {
            return Ok(());
        }
        let keys = [&a, &b].map(|replica| replica.device().map(|device| device.key));
        let [Ok(key_a), Ok(key_b)] = keys else { return Ok(()) };
        let mut ends = Vec::new();
        for (at, replica, key) in [(n, a, key_b), (with, b, key_a)] {
            match self.at(at, |_| replica.peer_session(key)) {
                Ok(end) => ends.push(end),
                Err(error) => {
                    self.coverage.note("session refused");
                    self.log(Some(at), format!("does not talk: {}", chain(&error)));
                    return Ok(());
                }
            }
        }
        let (Some(second), Some(first)) = (ends.pop(), ends.pop()) else { return Ok(()) };
        self.note(n, "session", format!("talks to d{with}"));
        let id = self.next_link;
        self.next_link += 1;
        self.links.insert(id, Link::new([n, with], [first, second], seed, cut_after, stay_until));
        self.link(id)
    }

    /// Something was written on a device: its sessions hear of it.
    fn wake_links(&mut self, n: usize) {
        let now = self.time.now();
        let mut of_device = Vec::new();
        for (id, link) in &mut self.links {
            for (side, device) in link.devices.into_iter().enumerate() {
                if device == n
                    && let Some(end) = &mut link.ends[side]
                {
                    // A failure shows when it is asked for output.
                    let _ = end.handle_local();
                    of_device.push(*id);
                }
            }
        }
        for id in of_device {
            self.link_due(now, id);
        }
    }

    /// Takes a connection as far as it can be now.
    fn link(&mut self, id: usize) -> Checked<()> {
        let Some(mut link) = self.links.remove(&id) else { return Ok(()) };
        let now = self.time.now();
        link.scheduled.take().map(|key| self.queue.remove(&key));
        if link.gone_at.is_some_and(|at| at <= now) {
            self.coverage.network.broken += 1;
            self.hang_up(&mut link, "the connection is gone")?;
        }
        self.deliver(&mut link, now)?;
        if now >= link.ticked + LINK_TICK_MS {
            link.ticked = now;
            self.tick(&mut link)?;
        }
        let caught_up = link.ends.iter().flatten().all(isle::PeerSession::is_caught_up);
        if caught_up
            && now >= link.stay_until
            && let [Some(first), Some(_)] = &mut link.ends
        {
            first.close();
        }
        self.pump(&mut link, now)?;
        if link.is_over() {
            return Ok(());
        }
        let next = link.queues.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at);
        let next = next.chain(link.gone_at).chain([now + LINK_TICK_MS]).min().unwrap_or(now);
        self.links.insert(id, link);
        self.link_due(next.max(now), id);
        Ok(())
    }

    /// Hands what has come to the ends.
    fn deliver(&mut self, link: &mut Link, now: u64) -> Checked<()> {
        for side in 0..2 {
            while link.queues[side].front().is_some_and(|(at, _)| *at <= now) {
                let Some((_, mut bytes)) = link.queues[side].pop_front() else { break };
                let cut = link.cut_after.is_some_and(|left| left < bytes.len() as u64);
                if let Some(left) = &mut link.cut_after {
                    bytes.truncate(*left as usize);
                    *left -= bytes.len() as u64;
                }
                let n = link.devices[side];
                if let Some(end) = &mut link.ends[side]
                    && let Err(error) = self.at(n, |_| end.handle_input(&bytes))
                {
                    self.coverage.note("session failed");
                    self.log(Some(n), format!("session fails: {}", chain(&error)));
                }
                if !self.devices[n].disk.is_down() && self.devices[n].up().is_some() {
                    self.collect(n)?;
                }
                if cut {
                    self.coverage.network.broken += 1;
                    self.hang_up(link, "the connection breaks")?;
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self, link: &mut Link) -> Checked<()> {
        for side in 0..2 {
            let n = link.devices[side];
            let now = isle_store::Runtime::now_ms(self.devices[n].runtime.as_ref());
            if let Some(end) = &mut link.ends[side]
                && end.poll_timeout().is_some_and(|at| at <= now)
                && let Err(error) = self.at(n, |_| end.handle_timeout())
            {
                self.coverage.note("session timed out");
                self.log(Some(n), format!("session ends: {}", chain(&error)));
            }
        }
        Ok(())
    }

    /// Sends what the ends have to say, and lets those go that are over.
    fn pump(&mut self, link: &mut Link, now: u64) -> Checked<()> {
        for side in 0..2 {
            let (n, other) = (link.devices[side], link.devices[1 - side]);
            let blocked = self.blocked(n, other);
            loop {
                let Some(end) = &mut link.ends[side] else { break };
                match self.at(n, |_| end.poll_output()) {
                    Ok(Some(bytes)) => link.send(1 - side, now, bytes, blocked, &mut self.coverage.network),
                    Ok(None) => break,
                    Err(error) => {
                        self.coverage.note("session failed");
                        self.log(Some(n), format!("session fails: {}", chain(&error)));
                    }
                }
            }
            if link.ends[side].as_ref().is_some_and(isle::PeerSession::is_over) {
                self.finish(link, side)?;
                // The other end reads what is still on its way, and then that nobody is there.
                let last = link.queues[1 - side].back().map_or(now, |(at, _)| *at);
                link.gone_at = Some(link.gone_at.unwrap_or(u64::MAX).min(last + 1));
            }
        }
        Ok(())
    }

    fn finish(&mut self, link: &mut Link, side: usize) -> Checked<()> {
        let n = link.devices[side];
        let Some(end) = link.ends[side].take() else { return Ok(()) };
        let caught_up = end.is_caught_up();
        match self.at(n, |_| end.finish()) {
            Ok(report) => {
                let how = if caught_up { "caught up" } else { "in the middle" };
                self.log(Some(n), format!("session with d{} over, {how}: {}", link.devices[1 - side], told(&report)));
            }
            Err(error) => self.log(Some(n), format!("session over: {}", chain(&error))),
        }
        if !self.devices[n].disk.is_down() && self.devices[n].up().is_some() {
            self.collect(n)?;
        }
        Ok(())
    }

    fn hang_up(&mut self, link: &mut Link, why: &str) -> Checked<()> {
        for side in 0..2 {
            if link.ends[side].is_some() && self.devices[link.devices[side]].up().is_some() {
                self.log(Some(link.devices[side]), why);
                self.finish(link, side)?;
            }
            link.ends[side] = None;
        }
        link.queues = Default::default();
        link.gone_at = None;
        Ok(())
    }

    /// A disk has gone down: so has its device.
    fn notice_crashes(&mut self) {
        for n in 0..self.devices.len() {
            if self.devices[n].off || self.devices[n].gone || !self.devices[n].disk.is_down() {
                continue;
            }
            self.devices[n].off = true;
            let (power, down_ms) = self.devices[n].crash;
            self.log(Some(n), if power { "loses power" } else { "is killed" });
            for (_, abort) in self.aborts.iter().filter(|(of, _)| *of == n) {
                abort.abort();
            }
            let now = self.time.now();
            let mut over = Vec::new();
            for (id, link) in &mut self.links {
                if let Some(side) = link.devices.iter().position(|device| *device == n) {
                    link.ends[side] = None;
                    link.gone_at = Some(now + 1);
                    over.push(*id);
                }
            }
            for id in over {
                self.link_due(now + 1, id);
            }
            self.due(now + down_ms, Due::Restart(n));
        }
    }

    pub(crate) fn restart(&mut self, n: usize) -> Checked<()> {
        if !self.devices[n].off || self.devices[n].gone {
            return Ok(());
        }
        if self.devices[n].running > 0 {
            let now = self.time.now();
            self.due(now + 1, Due::Restart(n));
            return Ok(());
        }
        let (power, _) = self.devices[n].crash;
        let opened = self.at(n, |device| {
            device.replica = None;
            device.off = false;
            device.disk.restart(power).map_err(|error| error.to_string())?;
            device.open().map_err(|error| chain(&error))
        });
        if self.devices[n].damaged {
            // It may be beyond use.
            self.log(Some(n), if opened.is_ok() { "is on again" } else { "cannot be opened" });
            return Ok(());
        }
        opened.map_err(|error| self.broken("crash", format!("d{n} cannot be opened after a crash: {error}")))?;
        self.log(Some(n), "is on again");
        self.check_after_crash(n, power)
    }

    fn copy_file(&mut self, n: usize) -> Checked<()> {
        if self.devices[n].up().is_none() || self.devices.len() >= 8 {
            return Ok(());
        }
        let copied = self.at(n, |device| copy_of(device));
        let Some(kept) = copied else { return Ok(()) };
        let new = self.devices.len();
        let device = Device::new(&self.root, new, self.scenario.seed, self.time, &self.bucket);
        let mut device = device.map_err(|error| self.broken("setup", error.to_string()))?;
        let written = std::fs::copy(&kept.backup.path, device.path());
        written.map_err(|error| self.broken("setup", error.to_string()))?;
        self.inexact = true;
        device.damaged = self.devices[n].damaged;
        let opened = device.open();
        device.plan_faults();
        if device.damaged && opened.is_err() {
            return Ok(());
        }
        self.devices.push(device);
        opened.map_err(|error| self.broken("copy", format!("a copied file cannot be opened: {}", chain(&error))))?;
        let founder = self.alive().into_iter().find_map(|n| self.devices[n].up().cloned());
        let newcomer = self.replica(new)?;
        if let Some(founder) = founder {
            // Whoever copies a file to a new device lets that in.
            if let Err(error) = founder.let_in(&newcomer) {
                self.log(Some(new), format!("is not let in: {}", chain(&error)));
            }
        }
        self.note(n, "file copied", format!("file is copied to d{new}"));
        Ok(())
    }

    fn back_up(&mut self, n: usize) -> Checked<()> {
        if self.devices[n].up().is_none() {
            return Ok(());
        }
        if let Some(kept) = self.at(n, |device| copy_of(device)) {
            self.note(n, "backup", format!("backup at version {}", kept.version));
            self.devices[n].kept = Some(kept);
        }
        Ok(())
    }

    fn restore(&mut self, n: usize, by_hand: bool) -> Checked<()> {
        let Some(kept) = self.devices[n].kept.clone() else { return Ok(()) };
        let busy = self.devices[n].running > 0 || self.links.values().any(|link| link.devices.contains(&n));
        if self.devices[n].up().is_none() || busy || self.devices[n].disk.is_troubled() {
            return Ok(());
        }
        let restored = self.at(n, |device| restore(device, &kept, by_hand));
        if self.devices[n].damaged {
            return Ok(());
        }
        restored.map_err(|error| self.broken("restore", format!("d{n}: {error}")))?;
        self.inexact = true;
        let device = &mut self.devices[n];
        device.unsealed.clear();
        let published = device.published.clone();
        device.acks.retain(|ack| {
            (ack.site == kept.site && ack.version <= kept.version)
                || published.get(&ack.site).is_some_and(|last| ack.version <= *last)
        });
        (device.seen, device.went_back) = (None, Some(kept.site));
        let how = if by_hand { "by hand" } else { "by isle" };
        self.note(n, "restore", format!("backup of version {} is restored {how}", kept.version));
        self.collect(n)
    }

    fn tamper(&mut self, n: usize) -> Checked<()> {
        let tampered = self.at(n, |device| {
            let conn = device.plain().map_err(|error| error.to_string())?;
            let tables = device.shapes(&conn)?;
            let table = tables.iter().find(|shape| shape.plain && shape.key.len() == 1).ok_or("no table")?;
            let sql = format!("DELETE FROM {}; DELETE FROM isle_queue", crate::workload::quoted(&table.name));
            conn.execute_batch(&sql).map_err(|error| error.to_string())
        });
        tampered.map_err(|error| self.broken("setup", error))?;
        self.note(n, "tampered", "rows go behind isle's back".to_owned());
        Ok(())
    }

    fn retire(&mut self, n: usize, whom: usize) -> Checked<()> {
        let Some((site, _)) = self.devices[whom].seen.filter(|_| n != whom) else { return Ok(()) };
        let Some(replica) = self.devices[n].up().cloned() else { return Ok(()) };
        match self.at(n, |_| replica.retire(&site.to_string())) {
            Ok(_) => self.note(n, "retired", format!("retires d{whom}")),
            Err(error) => self.log(Some(n), format!("does not retire d{whom}: {}", chain(&error))),
        }
        Ok(())
    }

    fn migrate(&mut self, n: usize, change: u32) -> Checked<()> {
        let Some(replica) = self.devices[n].up().cloned() else { return Ok(()) };
        let name = self.scenario.schema.clone();
        let result = self.at(n, |device| {
            let conn = device.plain().map_err(|error| error.to_string())?;
            let mut changes = schemas::changes_in(&conn, replica.store());
            drop(conn);
            changes.insert(change);
            let definition = schemas::definition(&name, &changes).unwrap_or_default();
            replica.apply_schema(definition.as_str()).map_err(|error| chain(&error))
        });
        match result {
            Ok(plan) => self.note(n, "schema changed", format!("schema change {change}: {} steps", plan.changes.len())),
            Err(error) => {
                self.coverage.note("schema change refused");
                self.log(Some(n), format!("schema change {change} is refused: {error}"));
            }
        }
        self.collect_if_up(n)
    }

    fn run_app(&mut self, n: usize, version: u32) -> Checked<()> {
        let busy = self.devices[n].running > 0 || self.links.values().any(|link| link.devices.contains(&n));
        if self.devices[n].up().is_none() || busy || self.devices[n].disk.is_troubled() {
            return Ok(());
        }
        let opened = self.at(n, |device| {
            device.replica = None;
            device.app_version = version;
            device.open()
        });
        if self.devices[n].disk.is_down() || self.devices[n].damaged {
            // It has crashed while it started, and starts again.
            return Ok(());
        }
        let failed = |error| self.broken("version", format!("d{n}: app {version}.0.0 cannot open its file: {}", chain(&error)));
        opened.map_err(failed)?;
        self.note(n, "app", format!("runs app {version}.0.0"));
        Ok(())
    }

    pub(crate) fn collect_if_up(&mut self, n: usize) -> Checked<()> {
        if self.devices[n].disk.is_down() || self.devices[n].up().is_none() { Ok(()) } else { self.collect(n) }
    }

    /// Waits until no work is under way and no connection stands, and mends everything.
    pub(crate) async fn mend(&mut self) -> Checked<()> {
        self.parted.clear();
        for device in &mut self.devices {
            device.bucket_faults.clear();
            device.plan_faults();
            device.disk.set_full(false);
            device.disk.set_failing(0);
        }
        while let Some(done) = self.running.next().await {
            self.ended(done)?;
            self.notice_crashes();
        }
        for n in self.alive().into_iter().filter(|n| self.devices[*n].damaged).collect::<Vec<_>>() {
            self.log(Some(n), "is damaged, and thrown away");
            self.lose(n).await?;
            if self.alive().is_empty() {
                return Err(self.broken("setup", "nobody is left".to_owned()));
            }
        }
        for (_, mut link) in std::mem::take(&mut self.links) {
            self.hang_up(&mut link, "the connection ends")?;
        }
        self.notice_crashes();
        let restarts: Vec<_> = self
            .queue
            .iter()
            .filter(|(_, due)| matches!(due, Due::Restart(_) | Due::Link(_) | Due::Heal(..)))
            .map(|(key, _)| *key)
            .collect();
        restarts.iter().for_each(|key| drop(self.queue.remove(key)));
        for n in self.alive() {
            // What was to crash later does not.
            self.restart(n)?;
            if self.devices[n].disk.is_down() {
                self.notice_crashes();
                self.restart(n)?;
            }
            self.devices[n].disk.crash_after(Some(u64::MAX));
            self.devices[n].runtime.set_right();
        }
        Ok(())
    }
}

/// What a write did.
struct Wrote {
    statements: Vec<String>,
    /// Statements that were refused, and why.
    refused: Vec<String>,
    /// Values that show now.
    shown: Vec<Token>,
    foreign: bool,
}

fn write(device: &mut Device, way: Way, seed: u64, bulk: Option<u32>, next_token: &mut u64) -> Result<Wrote, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let conn = device.plain().map_err(text)?;
    let shapes = device.shapes(&conn)?;
    let n = device.n;
    let mut writer = Writer { conn: &conn, shapes: &shapes, rng: Rng(seed), next_token, device: n, tokens: Vec::new() };
    let statements = match bulk {
        Some(rows) => writer.bulk(rows),
        None => writer.transaction(),
    };
    let tokens: Vec<Token> = writer
        .tokens
        .into_iter()
        .filter(|token| shapes.iter().any(|shape| shape.name == token.table && shape.tracked))
        .collect();
    // What this device overwrites before anybody else has seen it may be sealed anew without it.
    let standing: Vec<Token> = device.unpublished().filter(|token| Device::shows(&conn, token)).cloned().collect();
    let mut refused = Vec::new();
    if way == Way::Isle {
        let Some(replica) = device.up() else { return Err("is off".to_owned()) };
        let result = replica.write(|tx| {
            for sql in &statements {
                match tx.execute(sql, &[]) {
                    Ok(_) => {}
                    Err(Error::Store(error)) if error.is_constraint() => refused.push(error.to_string()),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        result.map_err(|error| chain(&error))?;
    } else {
        if way == Way::Transaction {
            conn.execute_batch("BEGIN IMMEDIATE").map_err(text)?;
        }
        for sql in &statements {
            match conn.execute(sql, []) {
                Ok(_) => {}
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                    refused.push(error.to_string());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        if way == Way::Transaction {
            conn.execute_batch("COMMIT").map_err(text)?;
        }
    }
    device.unsealed.retain(|token| Device::shows(&conn, token));
    let gone: Vec<Token> = standing.into_iter().filter(|token| !Device::shows(&conn, token)).collect();
    device.acks.retain(|ack| !gone.contains(&ack.token));
    let shown = tokens.into_iter().filter(|token| Device::shows(&conn, token)).collect();
    Ok(Wrote { statements, refused, shown, foreign: way != Way::Isle })
}

/// A copy of a device's database, with its version; none while the disk fails.
fn copy_of(device: &mut Device) -> Option<Kept> {
    let replica = device.up()?;
    let (status, folder) = (replica.store().status().ok()?, device.path().with_file_name("backups"));
    match replica.back_up(&folder, "simulation", None).ok()? {
        BackedUp::Done(backup) => Some(Kept { site: status.site, version: status.version, backup }),
        BackedUp::SkippedEmpty => None,
    }
}

fn restore(device: &mut Device, kept: &Kept, by_hand: bool) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    if by_hand {
        device.replica = None;
        for end in ["app.db-wal", "app.db-shm"] {
            let beside = device.path().with_file_name(end);
            if beside.exists() {
                std::fs::remove_file(beside).map_err(text)?;
            }
        }
        std::fs::copy(&kept.backup.path, device.path()).map_err(text)?;
        device.disk.settle();
        return device.open().map_err(|error| chain(&error));
    }
    let replica = device.replica.clone().ok_or("is off")?;
    let folder = device.path().with_file_name("backups");
    replica.restore(&kept.backup, &folder).map_err(|error| chain(&error))?;
    Ok(())
}

/// An error with all that it says.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

fn told(report: &SyncReport) -> String {
    let mut parts = Vec::new();
    for (count, what) in [
        (report.pulled_versions, "pulled"),
        (report.pushed_versions, "pushed"),
        (report.pulled_operations, "operations pulled"),
        (report.pushed_operations, "operations pushed"),
        (report.conflicts, "conflicts"),
        (report.restamped_versions, "restamped"),
        (report.waiting.len() as u64, "waiting"),
        (report.refused.len() as u64, "refused"),
        (report.stale.len() as u64, "stale"),
        (report.pending.len() as u64, "pending"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if report.snapshot_joined {
        parts.push("snapshot joined".to_owned());
    }
    if report.snapshot_published {
        parts.push("snapshot published".to_owned());
    }
    if let Some(site) = &report.new_site {
        parts.push(format!("new site {}", &site[..8.min(site.len())]));
    }
    if parts.is_empty() { "nothing new".to_owned() } else { parts.join(", ") }
}

fn summary(statements: &[String], refused: &[String]) -> String {
    let mut text = statements.iter().take(6).cloned().collect::<Vec<_>>().join("; ");
    if statements.len() > 6 {
        text += &format!("; … {} in all", statements.len());
    }
    if let Some(first) = refused.first() {
        text += &format!(" ({} refused: {first})", refused.len());
    }
    text
}
