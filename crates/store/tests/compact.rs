//! Snapshots, pruned logs and collected tombstones: whatever is thrown away, every replica ends in one state.
//! `ISLE_CASES` sets the number of cases of each property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_changeset::Value;
use isle_clock::{Hlc, VersionVector};
use isle_store::{Applied, StoreError};
use proptest::prelude::*;
use support::fleet::{Way, write};
use support::random::{SCHEMA, Sql, Style, statements};
use support::{Device, START_MS};

fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("ISLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

const ALL_TIME: u64 = 1 << 40;

fn far() -> Hlc {
    Hlc::new(ALL_TIME, 0).unwrap()
}

/// Blocks and header of a device's present state.
fn export(device: &Device) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut blocks = Vec::new();
    let snapshot = device.store.export_snapshot(|block| {
        blocks.push(block.bytes);
        Ok::<_, StoreError>(())
    });
    (snapshot.unwrap().header, blocks)
}

/// Moves a device's state by a snapshot.
fn bootstrap(from: &Device, to: &Device) -> Applied {
    for operation in from.operations() {
        to.store.put_migration(&operation).unwrap();
    }
    let (header, blocks) = export(from);
    let staged = to.store.stage_snapshot(&header).unwrap();
    assert_eq!(staged.blocks, blocks.len());
    let missing = staged.missing.iter().map(|n| (*n, blocks[*n].as_slice()));
    to.store.stage_blocks(missing).unwrap();
    to.store.join_snapshot().unwrap()
}

/// A device without any table.
fn empty(n: u64) -> Device {
    Device::untracked(n, "")
}

#[derive(Debug, Clone)]
enum Step {
    Write { device: usize, way: Way, statements: Vec<Sql> },
    Publish(usize),
    Pull { from: usize, to: usize },
    Snapshot { from: usize, to: usize },
    Prune(usize),
    Collect(usize),
    Retire(usize),
    Return(usize),
    Restart(usize),
    Clock { device: usize, ms: u64 },
}

fn steps(style: Style, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let way = prop_oneof![Just(Way::Isle), Just(Way::Transaction)];
    let device = || 0usize..4;
    prop::collection::vec(
        prop_oneof![
            12 => (device(), way, statements(style, 1..5)).prop_map(|(device, way, statements)| Step::Write { device, way, statements }),
            5 => device().prop_map(Step::Publish),
            8 => (device(), device()).prop_map(|(from, to)| Step::Pull { from, to }),
            3 => (device(), device()).prop_map(|(from, to)| Step::Snapshot { from, to }),
            3 => device().prop_map(Step::Prune),
            4 => device().prop_map(Step::Collect),
            1 => device().prop_map(Step::Retire),
            2 => device().prop_map(Step::Return),
            1 => device().prop_map(Step::Restart),
            2 => (device(), 0u64..5000).prop_map(|(device, ms)| Step::Clock { device, ms }),
        ],
        count,
    )
}

/// Devices that keep to the rules of collection; what they say of themselves stands in `acks`.
struct Group {
    devices: Vec<Device>,
    /// What each had applied when it published last.
    acks: Vec<VersionVector>,
    retired: Vec<bool>,
}

impl Group {
    fn new(count: usize) -> Group {
        let device = |n| {
            let device = Device::untracked(n as u64 + 1, SCHEMA);
            device.store.track(&["ints", "names", "pairs", "tags", "loose"]).unwrap();
            device
        };
        let devices: Vec<Device> = (0..count).map(device).collect();
        let mut group = Group { devices, acks: vec![VersionVector::new(); count], retired: vec![false; count] };
        (0..count).for_each(|n| group.publish(n));
        group
    }

    fn run(&mut self, step: &Step) {
        let count = self.devices.len();
        match step {
            Step::Write { device, way, statements } => write(&self.devices[device % count], *way, statements),
            Step::Publish(n) => self.publish(n % count),
            Step::Pull { from, to } => self.pull(from % count, to % count),
            Step::Snapshot { from, to } => self.snapshot(from % count, to % count),
            Step::Prune(n) => drop(self.devices[n % count].store.prune_log(far()).unwrap()),
            Step::Collect(n) => self.collect(n % count),
            Step::Retire(n) => self.retire(n % count),
            Step::Return(n) => self.come_back(n % count),
            Step::Restart(n) => self.devices[n % count].restart(),
            Step::Clock { device, ms } => self.devices[device % count].pass(*ms),
        }
    }

    fn publish(&mut self, n: usize) {
        if self.retired[n] {
            return;
        }
        let store = &self.devices[n].store;
        store.seal().unwrap();
        if store.is_below_floor().unwrap() {
            store.restate().unwrap();
        }
        store.mark_published(store.status().unwrap().version).unwrap();
        self.acks[n] = store.vector().unwrap();
    }

    /// What `from` has published or relays reaches `to`: from the log, or in a snapshot where the log lacks it.
    fn pull(&mut self, from: usize, to: usize) {
        if from == to || self.retired[from] || self.retired[to] {
            return;
        }
        self.publish(from);
        self.fetch(from, to);
        self.publish(to);
    }

    fn fetch(&self, from: usize, to: usize) {
        let (from, to) = (&self.devices[from], &self.devices[to]);
        for (site, last) in from.store.vector().unwrap().iter() {
            for version in to.store.vector().unwrap().get(site) + 1..=last {
                match from.export(site, version) {
                    Some((header, blocks)) => drop(to.receive(&header, &blocks)),
                    None => return drop(bootstrap(from, to)),
                }
            }
        }
        to.store.apply().unwrap();
    }

    fn snapshot(&mut self, from: usize, to: usize) {
        if from == to || self.retired[from] || self.retired[to] {
            return;
        }
        self.publish(from);
        bootstrap(&self.devices[from], &self.devices[to]);
        self.publish(to);
    }

    /// A device that knows all that the others wrote before they acknowledged may collect what all have acknowledged.
    fn collect(&mut self, n: usize) {
        if self.retired[n] {
            return;
        }
        self.publish(n);
        let vector = self.devices[n].store.vector().unwrap();
        let mut floor = vector.clone();
        for (other, ack) in self.acks.iter().enumerate().filter(|(other, _)| !self.retired[*other]) {
            let site = self.devices[other].site();
            if !vector.contains(site, ack.get(site)) {
                return;
            }
            floor = floor.meet(ack);
        }
        self.devices[n].store.collect(&floor).unwrap();
    }

    /// A device goes out of sight, once all others have what it had published.
    fn retire(&mut self, n: usize) {
        if self.retired.iter().filter(|retired| !**retired).count() < 3 {
            return;
        }
        let site = self.devices[n].site();
        let last = self.acks[n].get(site);
        if (0..self.devices.len()).all(|other| self.devices[other].store.vector().unwrap().contains(site, last)) {
            self.retired[n] = true;
        }
    }

    /// It catches up before it says anything.
    fn come_back(&mut self, n: usize) {
        if !self.retired[n] {
            return;
        }
        for from in (0..self.devices.len()).filter(|from| !self.retired[*from]).collect::<Vec<_>>() {
            self.publish(from);
            self.fetch(from, n);
            // The floor stands in the heads as well as in changesets.
            self.devices[n].store.collect(&self.devices[from].store.floor().unwrap()).unwrap();
        }
        self.retired[n] = false;
        self.publish(n);
    }

    fn finish(&mut self) {
        for n in 0..self.devices.len() {
            self.devices[n].runtime.now_ms.store(START_MS + 86_400_000, std::sync::atomic::Ordering::SeqCst);
        }
        (0..self.devices.len()).for_each(|n| self.come_back(n));
        for _ in 0..2 {
            for from in 0..self.devices.len() {
                (0..self.devices.len()).for_each(|to| self.pull(from, to));
            }
        }
        for device in &self.devices {
            let waiting = device.store.apply().unwrap().waiting;
            assert!(waiting.is_empty(), "something waits: {waiting:?}");
            device.check();
            assert_eq!(device.store.vector().unwrap(), self.devices[0].store.vector().unwrap());
            assert_eq!(device.hash(), self.devices[0].hash(), "replicas differ");
        }
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn whatever_is_pruned_collected_and_skipped_replicas_converge(
        count in 2usize..5, steps in steps(Style::All, 1..50)
    ) {
        let mut group = Group::new(count);
        for step in &steps {
            group.run(step);
        }
        group.finish();
        let fresh = empty(9);
        fresh.pass(86_400_000);
        bootstrap(&group.devices[0], &fresh);
        assert_eq!(fresh.hash(), group.devices[0].hash(), "a fresh device differs");
        fresh.check();
        group.devices.push(fresh);
        group.acks.push(VersionVector::new());
        group.retired.push(false);
        let last = group.devices.len() - 1;
        group.publish(last);
        // Everything that was deleted can go now, and life goes on.
        (0..=last).for_each(|n| group.publish(n));
        (0..=last).for_each(|n| group.collect(n));
        for (n, device) in group.devices.iter().enumerate() {
            device.run(&format!("INSERT OR REPLACE INTO ints VALUES({}, 'after', {n}, NULL)", n % 3 + 1));
        }
        group.finish();
    }
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn without_late_devices_nothing_shows_what_was_thrown_away(
        count in 2usize..4, steps in steps(Style::All, 1..40)
    ) {
        let (mut lean, mut full) = (Group::new(count), Group::new(count));
        for step in steps.iter().filter(|step| !matches!(step, Step::Retire(_) | Step::Return(_))) {
            lean.run(step);
            match step {
                Step::Prune(_) => {}
                // Collecting and sending a snapshot publish, too.
                Step::Collect(n) => full.publish(n % count),
                Step::Snapshot { from, to } => full.pull(from % count, to % count),
                other => full.run(other),
            }
        }
        lean.finish();
        full.finish();
        for g in [&lean, &full] { for d in &g.devices {
            eprintln!("{:?} {:?}", d.site(), d.rows("select * from isle_c1"));
            eprintln!("{:?}", d.rows("select id,hlc from isle_log"));
            eprintln!("{:?}", d.rows("select no,hex(id),version,hlc from isle_site"));
        } }
        assert_eq!(lean.devices[0].hash().1, full.devices[0].hash().1);
    }
}
