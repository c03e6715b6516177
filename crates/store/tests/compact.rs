//! Snapshots, pruned logs and collected tombstones: whatever is thrown away, every replica ends in one state.
//! `ISLE_CASES` sets the number of cases of each property.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use isle_changeset::Value;
use isle_clock::{Hlc, VersionVector};
use isle_store::{Applied, StoreError};
use proptest::prelude::*;
use support::companion::schema;
use support::fleet::{Way, write};
use support::random::{Sql, Style, statements};
use support::{Device, START_MS};

fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("ISLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

const ALL_TIME: u64 = 1 << 42;

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
    let staged = to.store.stage_snapshot(&header, &VersionVector::new()).unwrap();
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
            let device = Device::untracked(n as u64 + 1, &schema());
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
        if store.is_below_floor(&VersionVector::new()).unwrap() {
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
        // As the driver of a newcomer does: what all others have acknowledged may have been collected.
        let alive = (0..self.devices.len()).filter(|other| !self.retired[*other]);
        let common = alive.map(|other| self.acks[other].clone()).reduce(|a, b| a.meet(&b)).unwrap_or_default();
        let store = &self.devices[n].store;
        if store.is_below_floor(&common).unwrap() {
            store.restate().unwrap();
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
    fn nothing_shows_which_logs_were_pruned_and_skipped(
        count in 2usize..4, steps in steps(Style::All, 1..40)
    ) {
        let (mut lean, mut full) = (Group::new(count), Group::new(count));
        // Once a key's tombstone was collected its lives are counted anew, and of concurrent ones another may win.
        let plain = |step: &&Step| !matches!(step, Step::Retire(_) | Step::Return(_) | Step::Collect(_));
        for step in steps.iter().filter(plain) {
            lean.run(step);
            match step {
                // Pruning seals what foreign clients wrote, and so sets its time.
                Step::Prune(n) => full.devices[n % count].store.seal().unwrap(),
                // Sending a snapshot publishes, too.
                Step::Snapshot { from, to } => full.pull(from % count, to % count),
                other => full.run(other),
            }
        }
        lean.finish();
        full.finish();
        assert_eq!(lean.devices[0].hash().1, full.devices[0].hash().1);
    }
}

const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, stars INT)";

/// A device with three notes, and a second that has them too; both have published.
fn pair() -> (Device, Device) {
    let (a, b) = (Device::new(1, NOTES), Device::new(2, ""));
    a.run("INSERT INTO notes VALUES(1, 'one', 1), (2, 'two', 2), (3, 'three', 3)");
    b.pull(&a);
    for device in [&a, &b] {
        device.store.mark_published(device.store.status().unwrap().version).unwrap();
    }
    (a, b)
}

fn titles(device: &Device) -> Vec<String> {
    device.rows("SELECT title, stars FROM notes ORDER BY id")
}

#[test]
fn a_value_that_loses_to_a_snapshot_is_journaled_and_one_that_was_seen_is_not() {
    let (a, b) = pair();
    b.run("UPDATE notes SET title = 'mine', stars = 9 WHERE id = 1");
    b.run("UPDATE notes SET stars = 8 WHERE id = 2");
    a.pass(10);
    a.run("UPDATE notes SET title = 'theirs' WHERE id = 1");
    a.run("DELETE FROM notes WHERE id = 2");
    bootstrap(&a, &b);
    assert_eq!(
        b.rows("SELECT * FROM notes ORDER BY id"),
        a.rows("SELECT 1, 'theirs', 9 UNION ALL SELECT 3, 'three', 3")
    );
    let lost: Vec<_> =
        b.store.conflicts(false, 10).unwrap().into_iter().map(|lost| (lost.column, lost.value)).collect();
    assert!(lost.contains(&(Some("title".into()), Value::Text("mine".into()))), "{lost:?}");
    assert!(lost.contains(&(Some("stars".into()), Value::Integer(8))), "{lost:?}");
    assert_eq!(lost.len(), 2, "{lost:?}");
    // What is not lost travels, and both end alike.
    a.pull(&b);
    assert_eq!(a.hash(), b.hash());
}

#[test]
fn a_late_devices_update_of_a_collected_row_is_journaled_and_brings_nothing_back() {
    let (a, b) = pair();
    b.run("UPDATE notes SET title = 'late' WHERE id = 2");
    b.run("INSERT INTO notes VALUES(4, 'new', 4)");
    a.pass(10);
    a.run("DELETE FROM notes WHERE id = 2");
    a.run("DELETE FROM notes WHERE id = 3");
    a.run("INSERT INTO notes VALUES(3, 'again', 30)");
    assert_eq!(a.store.collect(&a.store.vector().unwrap()).unwrap(), 1, "one tombstone");
    a.store.prune_log(far()).unwrap();
    bootstrap(&a, &b);
    assert_eq!(titles(&b).len(), 3);
    assert!(b.store.conflicts(false, 10).unwrap().iter().any(|lost| lost.value == Value::Text("late".into())));
    assert!(!b.store.is_below_floor(&VersionVector::new()).unwrap(), "what was written in ignorance was sealed anew");
    a.pull(&b);
    assert_eq!(a.hash(), b.hash());
    assert_eq!(titles(&a), titles(&b));
    a.check();
    b.check();
}

#[test]
fn a_row_made_again_after_its_tombstone_was_collected_lives_everywhere() {
    let (a, b) = pair();
    a.run("DELETE FROM notes WHERE id = 1");
    b.pull(&a);
    a.pull(&b);
    // Only one of the two collects; the other hears of it with the next changeset.
    a.store.collect(&b.store.vector().unwrap()).unwrap();
    a.run("INSERT INTO notes VALUES(1, 'second life', 5)");
    b.pull(&a);
    assert_eq!(titles(&b), titles(&a));
    assert_eq!(a.hash(), b.hash());
}

#[test]
fn a_changeset_written_in_ignorance_of_what_was_collected_waits() {
    let (a, b) = pair();
    b.run("INSERT INTO notes VALUES(7, 'seven', 7)");
    a.run("DELETE FROM notes WHERE id = 1");
    a.store.collect(&a.store.vector().unwrap()).unwrap();
    let (header, blocks) = b.export(b.site(), b.store.status().unwrap().version).unwrap();
    a.receive(&header, &blocks);
    let waiting = a.store.apply().unwrap().waiting;
    assert!(matches!(waiting[..], [(_, _, isle_store::Waiting::BelowFloor { .. })]), "{waiting:?}");
    assert_eq!((a.store.status().unwrap().waiting, b.store.status().unwrap().waiting), (1, 0));
    assert_eq!(titles(&a).len(), 2);
}

#[test]
fn ten_thousand_deletes_leave_nothing_once_all_have_seen_them() {
    let (a, b) = pair();
    a.run("WITH n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 10009) INSERT INTO notes SELECT i, 'x', i FROM n");
    b.pull(&a);
    a.run("DELETE FROM notes WHERE id >= 10");
    b.pull(&a);
    let clocks = |device: &Device| device.rows("SELECT count(*) FROM isle_c1");
    assert_eq!(clocks(&a), ["Integer(10003)"]);
    assert_eq!(a.store.collect(&b.store.vector().unwrap()).unwrap(), 10_000);
    assert_eq!(clocks(&a), ["Integer(3)"]);
    let pruned = a.store.prune_log(far()).unwrap();
    assert_eq!((pruned.versions, a.store.log(10).unwrap().len()), (1, 2), "only what was published goes");
    let fresh = empty(3);
    bootstrap(&a, &fresh);
    assert_eq!(fresh.hash(), a.hash());
    assert_eq!(clocks(&fresh), ["Integer(3)"]);
}

#[test]
fn a_broken_snapshot_changes_nothing_and_the_sound_one_still_joins() {
    let (a, _) = pair();
    let (header, blocks) = export(&a);
    let fresh = empty(3);
    assert!(matches!(
        fresh.store.stage_snapshot(&header, &VersionVector::new()),
        Err(StoreError::SnapshotSchema { .. })
    ));
    fresh.store.put_migration(&a.operations()[0]).unwrap();
    assert!(matches!(fresh.store.join_snapshot(), Err(StoreError::NoSnapshot)));
    // The name of its maker is for people.
    for at in (0..22).chain(38..header.len()) {
        let mut broken = header.clone();
        broken[at] ^= 1;
        // Some bytes may say anything: hashes of blocks, numbers of rows. Their blocks do not fit then.
        if fresh.store.stage_snapshot(&broken, &VersionVector::new()).is_ok() {
            let staged = fresh.store.stage_blocks(blocks.iter().map(Vec::as_slice).enumerate());
            assert!(staged.is_err() || fresh.store.join_snapshot().is_err(), "byte {at}");
        }
    }
    assert_eq!(fresh.rows("SELECT * FROM notes"), Vec::<String>::new());
    let staged = fresh.store.stage_snapshot(&header, &VersionVector::new()).unwrap();
    assert_eq!(staged.missing.len(), blocks.len());
    assert!(matches!(fresh.store.join_snapshot(), Err(StoreError::NoSnapshot)), "a block is missing");
    fresh.store.stage_blocks(blocks.iter().map(Vec::as_slice).enumerate()).unwrap();
    assert_eq!(
        fresh.store.stage_snapshot(&header, &VersionVector::new()).unwrap().missing,
        Vec::<usize>::new(),
        "a transfer goes on"
    );
    fresh.store.join_snapshot().unwrap();
    assert_eq!(fresh.hash(), a.hash());
    fresh.check();
}

#[test]
fn a_snapshot_that_holds_versions_this_file_never_wrote_is_a_fork() {
    let (a, b) = pair();
    let copy = Device::new(3, "");
    let bytes = |device: &Device| std::fs::read(device.path()).unwrap();
    a.store.seal().unwrap();
    drop(rusqlite::Connection::open(a.path()).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    let old = bytes(&a);
    a.run("INSERT INTO notes VALUES(8, 'eight', 8)");
    b.pull(&a);
    let Device { store, runtime, folder, companion } = copy;
    drop(store);
    std::fs::write(folder.path().join("test.db"), old).unwrap();
    for rest in ["test.db-wal", "test.db-shm"] {
        drop(std::fs::remove_file(folder.path().join(rest)));
    }
    let options = support::companion::options(folder.path().join("test.db"));
    let shared = std::sync::Arc::clone(&runtime) as std::sync::Arc<dyn isle_store::Runtime>;
    let restored = Device { store: isle_store::Store::open(options, shared).unwrap(), runtime, folder, companion };
    restored.run("INSERT INTO notes VALUES(9, 'nine', 9)");
    let (header, blocks) = export(&b);
    restored.store.stage_snapshot(&header, &VersionVector::new()).unwrap();
    restored.store.stage_blocks(blocks.iter().map(Vec::as_slice).enumerate()).unwrap();
    assert!(matches!(restored.store.join_snapshot(), Err(StoreError::Fork { .. })));
    restored.store.new_site(0, None).unwrap();
    restored.store.join_snapshot().unwrap();
    b.pull(&restored);
    assert_eq!(restored.hash(), b.hash());
    assert_eq!(titles(&b).len(), 5);
}

#[test]
fn a_floor_that_came_with_a_snapshot_is_named_to_those_who_do_not_know_it() {
    let (a, b) = pair();
    let late = Device::new(3, NOTES);
    late.run("INSERT INTO notes VALUES(1, 'made apart', 9)");
    b.run("DELETE FROM notes WHERE id = 1");
    a.pull(&b);
    // Only a collects; b still has the tombstone, and hears of the floor from neither of a's changesets.
    a.store.collect(&b.store.vector().unwrap()).unwrap();
    bootstrap(&a, &late);
    b.pull(&late);
    a.pull(&late);
    assert_eq!(titles(&late), titles(&a));
    assert_eq!((a.hash(), b.hash()), (late.hash(), late.hash()));
}

#[test]
fn a_log_that_began_with_a_snapshot_has_no_gap_and_gives_no_table_away() {
    let (a, b) = pair();
    a.run("INSERT INTO notes VALUES(4, 'four', 4)");
    a.run("INSERT INTO notes VALUES(5, 'five', 5)");
    bootstrap(&a, &b);
    assert_eq!(b.store.log_start(a.site()).unwrap(), 4, "nothing of it is left, not even what came before");
    a.run("INSERT INTO notes VALUES(6, 'six', 6)");
    b.pull(&a);
    assert_eq!(b.store.log_start(a.site()).unwrap(), 4);
    assert!(b.export(a.site(), 4).is_some() && b.export(a.site(), 1).is_none());
    assert!(matches!(b.store.untrack("notes"), Err(StoreError::LogCompacted)));
    a.store.prune_log(far()).unwrap();
    assert!(matches!(a.store.untrack("notes"), Err(StoreError::LogCompacted)));
}

#[test]
fn a_new_site_id_says_all_that_the_old_one_had_seen() {
    let (a, b) = pair();
    a.run("DELETE FROM notes WHERE id = 1");
    b.pull(&a);
    b.run("UPDATE notes SET stars = 7 WHERE id = 2");
    a.store.collect(&b.store.vector().unwrap()).unwrap();
    // Once with a version that moves, once with none.
    for (round, sql) in [(1, "UPDATE notes SET stars = 8 WHERE id = 3"), (2, "INSERT INTO notes VALUES(9, 'nine', 9)")]
    {
        b.store.new_site(0, None).unwrap();
        b.run(sql);
        let before = a.store.conflicts(true, 10).unwrap().len();
        a.pull(&b);
        assert!(a.store.apply().unwrap().waiting.is_empty(), "round {round}");
        assert_eq!(a.store.conflicts(true, 10).unwrap().len(), before, "nothing was concurrent in round {round}");
        assert_eq!(titles(&a), titles(&b));
        b.store.mark_published(b.store.status().unwrap().version).unwrap();
    }
}

/// Its snapshot came from one who had collected nothing, so that it cannot tell the time of what another has collected.
#[test]
fn a_device_that_returns_goes_by_what_the_others_have_acknowledged() {
    let write =
        |device, sql: &str| Step::Write { device, way: Way::Isle, statements: vec![support::random::Sql(sql.into())] };
    let mut group = Group::new(3);
    for step in [
        write(0, "INSERT OR REPLACE INTO ints(id, c) VALUES (1, 'A')"),
        Step::Pull { from: 0, to: 2 },
        Step::Prune(0),
        Step::Retire(1),
        Step::Collect(2),
        write(0, "INSERT INTO names(name, v, w) VALUES ('a', NULL, '1')"),
        write(1, "INSERT INTO loose(k, v, w) VALUES (5.0, '1', x'')"),
    ] {
        group.run(&step);
    }
    group.finish();
}

#[test]
fn what_is_staged_goes_once_all_of_it_has_come_by_other_ways() {
    let (a, _) = pair();
    a.run("INSERT INTO notes VALUES(8, 'eight', 8)");
    let fresh = empty(3);
    for operation in a.operations() {
        fresh.store.put_migration(&operation).unwrap();
    }
    let (header, blocks) = export(&a);
    let staged = || fresh.rows("SELECT count(*) FROM isle_snapshot") != ["Integer(0)"];
    fresh.store.stage_snapshot(&header, &a.store.vector().unwrap()).unwrap();
    fresh.store.stage_blocks(blocks.iter().map(Vec::as_slice).enumerate()).unwrap();
    fresh.store.discard_needless_snapshot().unwrap();
    assert!(staged(), "it is needed");
    fresh.pull(&a);
    fresh.store.discard_needless_snapshot().unwrap();
    assert!(!staged() && matches!(fresh.store.join_snapshot(), Err(StoreError::NoSnapshot)));
    assert_eq!(fresh.hash(), a.hash());
}
