//! Several replicas and a network that loses, doubles, reorders and tears what it carries.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use isle_changeset::Header;
use isle_clock::SiteId;
use isle_store::{Applied, Frame, StoreError, Transaction};
use proptest::prelude::*;

use super::companion::schema;
use super::random::{KEPT, Rng, Sql, Style, UNDONE, statements};
use super::reference::Sealed;
use super::{Device, START_MS};

/// How statements reach the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One transaction through isle.
    Isle,
    /// A plain connection, a transaction for each statement.
    Autocommit,
    /// A plain connection, one transaction.
    Transaction,
}

#[derive(Debug, Clone)]
pub enum Action {
    Write {
        device: usize,
        way: Way,
        statements: Vec<Sql>,
    },
    /// New rows that count as older than any write, or as early ones where that cannot be.
    Import {
        device: usize,
        statements: Vec<Sql>,
    },
    Clock {
        device: usize,
        ms: i64,
    },
    Send {
        from: usize,
        to: usize,
        seed: u64,
    },
    Apply(usize),
    Restart(usize),
    Seal(usize),
    /// Reads stamps, which the log alone may have until then.
    Hash(usize),
}

pub fn actions(style: Style, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Action>> {
    let way = prop_oneof![Just(Way::Isle), Just(Way::Autocommit), Just(Way::Transaction)];
    let device = || 0usize..5;
    let ms = prop_oneof![Just(0i64), 1i64..3, -60_000i64..60_000];
    prop::collection::vec(
        prop_oneof![
            10 => (device(), way, statements(style, 1..5)).prop_map(|(device, way, statements)| Action::Write { device, way, statements }),
            2 => (device(), statements(style, 1..5)).prop_map(|(device, statements)| Action::Import { device, statements }),
            2 => (device(), ms).prop_map(|(device, ms)| Action::Clock { device, ms }),
            6 => (device(), device(), any::<u64>().no_shrink()).prop_map(|(from, to, seed)| Action::Send { from, to, seed }),
            4 => device().prop_map(Action::Apply),
            1 => device().prop_map(Action::Restart),
            1 => device().prop_map(Action::Seal),
            1 => device().prop_map(Action::Hash),
        ],
        count,
    )
}

/// Runs statements one by one; those that violate a constraint change what SQLite lets them change.
pub fn write(device: &Device, way: Way, statements: &[Sql]) {
    if way == Way::Isle {
        let run = |tx: &Transaction<'_>| statements.iter().try_for_each(|Sql(sql)| write_one(tx, sql));
        return device.store.write(run).unwrap();
    }
    let conn = device.connection();
    conn.execute_batch(if way == Way::Transaction {
        "PRAGMA synchronous = OFF; BEGIN"
    } else {
        "PRAGMA synchronous = OFF"
    })
    .unwrap();
    for Sql(sql) in statements {
        let savepoint = sql.starts_with(UNDONE) || sql.starts_with(KEPT);
        let run = |sql: &str| conn.execute_batch(sql).unwrap();
        if savepoint {
            run("SAVEPOINT test");
        }
        if let Err(error) = conn.execute(sql, []) {
            assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::ConstraintViolation), "{sql}: {error}");
        }
        if savepoint {
            run(if sql.starts_with(UNDONE) { "ROLLBACK TO test; RELEASE test" } else { "RELEASE test" });
        }
    }
    if way == Way::Transaction {
        conn.execute_batch("COMMIT").unwrap();
    }
}

/// Runs statements as an import does.
pub fn import(device: &Device, statements: &[Sql]) {
    let run = |tx: &Transaction<'_>| statements.iter().try_for_each(|Sql(sql)| write_one(tx, sql));
    device.store.write_baseline(run).unwrap();
}

fn write_one(tx: &Transaction<'_>, sql: &str) -> Result<(), StoreError> {
    let run = |tx: &Transaction<'_>| match tx.execute(sql, []) {
        Err(error) if !error.is_constraint() => Err(error),
        _ => Ok(()),
    };
    if sql.starts_with(UNDONE) {
        let undone = tx.savepoint(|tx| run(tx).and(Err::<(), _>(StoreError::RolledBack)));
        return undone.or_else(|error| if matches!(error, StoreError::RolledBack) { Ok(()) } else { Err(error) });
    }
    if sql.starts_with(KEPT) { tx.savepoint(run) } else { run(tx) }
}

pub struct Fleet {
    pub devices: Vec<Device>,
}

impl Fleet {
    /// Replicas that adopt what the statements left in their files.
    pub fn new(adopted: &[Vec<Sql>]) -> Fleet {
        let device = |(n, statements): (usize, &Vec<Sql>)| {
            let device = Device::untracked(n as u64 + 1, &schema());
            write(&device, Way::Transaction, statements);
            device.store.track(&["ints", "names", "pairs", "tags", "loose"]).unwrap();
            device
        };
        Fleet { devices: adopted.iter().enumerate().map(device).collect() }
    }

    pub fn run(&mut self, action: &Action) {
        let count = self.devices.len();
        match action {
            Action::Write { device, way, statements } => write(&self.devices[device % count], *way, statements),
            Action::Import { device, statements } => import(&self.devices[device % count], statements),
            Action::Clock { device, ms } => {
                let clock = &self.devices[device % count].runtime.now_ms;
                clock.store(clock.load(Ordering::SeqCst).saturating_add_signed(*ms), Ordering::SeqCst);
            }
            Action::Send { from, to, seed } => self.send(from % count, to % count, &mut Rng(*seed)),
            Action::Apply(device) => drop(self.devices[device % count].store.apply().unwrap()),
            Action::Restart(device) => self.devices[device % count].restart(),
            Action::Seal(device) => self.devices[device % count].store.seal().unwrap(),
            Action::Hash(device) => drop(self.devices[device % count].store.state_hash().unwrap()),
        }
    }

    /// Some of what `from` holds, in any order, some of it twice.
    fn send(&self, from: usize, to: usize, rng: &mut Rng) {
        let held = held(&self.devices[from]);
        let mut frames = Vec::new();
        for (site, version, header, blocks) in &held {
            let (site, version) = (*site, *version);
            for _ in 0..[0, 1, 1, 1, 1, 2][rng.below(6)] {
                frames.push(Frame::Header(header));
            }
            for (index, bytes) in blocks {
                for _ in 0..[0, 1, 1, 1, 1, 2][rng.below(6)] {
                    frames.push(Frame::Block { site, version, index: *index, bytes });
                }
            }
        }
        if rng.chance(50) {
            rng.shuffle(&mut frames);
        }
        let store = &self.devices[to].store;
        match rng.below(3) {
            0 => frames.iter().for_each(|frame| assert!(store.put_frames(std::iter::once(*frame)).unwrap() <= 1)),
            _ => assert!(store.put_frames(frames.into_iter()).is_ok()),
        }
        if rng.chance(50) {
            store.apply().unwrap();
        }
    }

    /// Lets time pass until nothing is from the future and delivers everything to everybody; gives it all.
    pub fn settle(&self, rng: &mut Rng) -> Vec<Sealed> {
        for device in &self.devices {
            device.runtime.now_ms.store(START_MS + 86_400_000, Ordering::SeqCst);
            device.store.seal().unwrap();
        }
        let mut all = BTreeMap::new();
        for device in &self.devices {
            let site = device.site();
            for version in 1..=device.store.status().unwrap().version {
                all.insert((site, version), device.export(site, version).unwrap());
            }
        }
        let mut all: Vec<Sealed> = all.into_values().collect();
        for device in &self.devices {
            rng.shuffle(&mut all);
            self.deliver(device, &all);
            let applied = device.store.apply().unwrap();
            assert!(applied.waiting.is_empty(), "everything is there and something waits: {:?}", applied.waiting);
        }
        all
    }

    /// Gives new frames and merged versions.
    pub fn deliver(&self, device: &Device, all: &[Sealed]) -> u64 {
        all.iter().map(|(header, blocks)| device.receive(header, blocks)).sum()
    }

    /// Everything was delivered: nothing differs, nothing waits, and nothing changes any more.
    pub fn assert_settled(&self, all: &[Sealed]) {
        let expected = self.devices[0].hash();
        for device in &self.devices {
            assert_eq!(device.hash(), expected, "replicas differ after everything was exchanged");
            device.check();
            let before = device.store.status().unwrap();
            assert_eq!(before.queued, 0);
            assert_eq!(self.deliver(device, all), 0, "a known frame counts as new");
            let Applied { versions, waiting, .. } = device.store.apply().unwrap();
            assert_eq!((versions, waiting), (0, Vec::new()));
            assert_eq!(device.hash(), expected, "a second delivery changed something");
            let after = device.store.status().unwrap();
            assert_eq!((after.version, after.conflicts), (before.version, before.conflicts));
            assert_eq!(device.store.vector().unwrap(), self.devices[0].store.vector().unwrap());
        }
    }
}

type Held = (SiteId, u64, Vec<u8>, Vec<(usize, Vec<u8>)>);

/// What a device can hand on: its own versions and those of others, whole or not, merged or not.
fn held(device: &Device) -> Vec<Held> {
    let store = &device.store;
    let entries = store.log(usize::MAX).unwrap().into_iter().map(|entry| {
        let (site, version) = (entry.site, entry.version);
        let header = store.header(site, version).unwrap().unwrap();
        let count = Header::decode(&header).unwrap().blocks.len();
        let blocks = (0..count).filter_map(|n| Some((n, store.block(site, version, n).unwrap()?))).collect();
        (site, version, header, blocks)
    });
    entries.collect()
}
