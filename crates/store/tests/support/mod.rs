//! A replica in a temporary folder, with time and randomness that the test owns.

#![allow(unreachable_pub, dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support")]

pub mod companion;
pub mod fleet;
pub mod forger;
pub mod oracle;
pub mod random;
pub mod reference;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isle_changeset::Header;
use isle_clock::SiteId;
use isle_identity::DeviceKey;
use isle_store::{Frame, Init, Runtime, Store};
use rusqlite::Connection;

/// 2026-06-01.
pub const START_MS: u64 = 1_780_272_000_000;

/// Time that stands still until the test moves it, and ids that count up.
#[derive(Debug)]
pub struct TestRuntime {
    pub now_ms: AtomicU64,
    seed: AtomicU64,
}

impl TestRuntime {
    pub fn new(n: u64) -> TestRuntime {
        TestRuntime { now_ms: AtomicU64::new(START_MS), seed: AtomicU64::new(n << 32 | 1) }
    }
}

impl Runtime for TestRuntime {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn random(&self) -> [u8; 16] {
        let n = self.seed.fetch_add(1, Ordering::SeqCst);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        bytes
    }
}

/// A replica and its folder.
pub struct Device {
    pub store: Store,
    pub runtime: Arc<TestRuntime>,
    pub folder: tempfile::TempDir,
    /// cr-sqlite keeps its tables.
    pub companion: bool,
}

impl Device {
    /// Device `n` of a fleet whose file starts with `schema`; tracks every table in it.
    pub fn new(n: u64, schema: &str) -> Device {
        let device = Device::untracked(n, schema);
        let tables = device.store.untracked().unwrap();
        device.store.track(&tables.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        device
    }

    pub fn untracked(n: u64, schema: &str) -> Device {
        Device::begin(n, schema, None)
    }

    /// As [`Device::new`], with a site id that is a device's: it asks for signatures.
    pub fn owned(n: u64, schema: &str, owner: DeviceKey) -> Device {
        let device = Device::begin(n, schema, Some(owner));
        let tables = device.store.untracked().unwrap();
        device.store.track(&tables.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        device
    }

    fn begin(n: u64, schema: &str, owner: Option<DeviceKey>) -> Device {
        let folder = folder();
        let path = folder.path().join("test.db");
        Connection::open(&path).unwrap().execute_batch(schema).unwrap();
        let runtime = Arc::new(TestRuntime::new(n));
        let init = Init { app: "test".into(), owner };
        let companion = companion::is_asked_for(n);
        let options = companion::options(&path);
        let store = Store::init(options, Arc::clone(&runtime) as Arc<dyn Runtime>, &init).unwrap();
        if companion {
            store.set_engine(isle_store::TableEngine::CrSqlite).unwrap();
        }
        let group = isle_clock::GroupId::from_bytes([7; 16]);
        store.join_group(group, None).unwrap();
        Device { store, runtime, folder, companion }
    }

    /// The process ends and starts again.
    pub fn restart(&mut self) {
        let runtime = Arc::clone(&self.runtime) as Arc<dyn Runtime>;
        let again = Store::open(companion::options(self.path()), runtime).unwrap();
        drop(std::mem::replace(&mut self.store, again));
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("test.db")
    }

    pub fn site(&self) -> SiteId {
        self.store.status().unwrap().site
    }

    pub fn pass(&self, ms: u64) {
        self.runtime.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// One statement through isle.
    pub fn run(&self, sql: &str) {
        self.store.write(|tx| tx.execute_batch(sql)).unwrap();
    }

    /// Statements of a client that knows nothing of isle.
    pub fn foreign(&self, sql: &str) {
        self.connection().execute_batch(sql).unwrap();
    }

    /// A connection of a client that knows nothing of isle; with cr-sqlite, where that keeps the tables.
    pub fn connection(&self) -> companion::Foreign {
        companion::Foreign::open(&self.path(), self.companion)
    }

    /// All rows of a query as text, exact to type and bytes.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let conn = Connection::open(self.path()).unwrap();
        rows(&conn, sql)
    }

    /// A sealed version: its header and blocks.
    pub fn export(&self, site: SiteId, version: u64) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
        let header = self.store.header(site, version).unwrap()?;
        let count = Header::decode(&header).unwrap().blocks.len();
        let block = |n| self.store.block(site, version, n).unwrap().unwrap();
        Some((header, (0..count).map(block).collect()))
    }

    /// Takes one version of another device into the log; gives how many frames were new.
    pub fn receive(&self, header: &[u8], blocks: &[Vec<u8>]) -> u64 {
        let parsed = Header::decode(header).unwrap();
        let (site, version) = (parsed.site, parsed.version);
        let blocks = blocks.iter().enumerate().map(|(index, bytes)| Frame::Block { site, version, index, bytes });
        self.store.put_frames(std::iter::once(Frame::Header(header)).chain(blocks)).unwrap()
    }

    /// Takes over the schema and everything that `other` has applied, and merges it.
    pub fn pull(&self, other: &Device) {
        for operation in other.operations() {
            self.store.put_migration(&operation).unwrap();
        }
        self.pull_rows(other);
    }

    /// As [`Device::pull`]; schema operations that do not fit here are kept until they do.
    pub fn pull_what_fits(&self, other: &Device) {
        for operation in other.operations() {
            self.store.take_migration(&operation).unwrap();
        }
        self.pull_rows(other);
    }

    fn pull_rows(&self, other: &Device) {
        other.store.seal().unwrap();
        for (site, last) in other.store.vector().unwrap().iter() {
            for version in self.store.vector().unwrap().get(site) + 1..=last {
                let (header, blocks) = other.export(site, version).unwrap();
                self.receive(&header, &blocks);
            }
        }
        self.store.apply().unwrap();
    }

    /// All schema operations, parents first.
    pub fn operations(&self) -> Vec<Vec<u8>> {
        let mut open = self.store.schema_heads().unwrap();
        let mut found = Vec::new();
        while let Some(id) = open.pop() {
            let body = self.store.migration(id).unwrap().unwrap();
            open.extend(isle_schema::Migration::decode(&body).unwrap().1.parents);
            found.retain(|known| *known != body);
            found.push(body);
        }
        found.reverse();
        found
    }

    /// Tries SQL, by isle or by another client, of which some look after foreign keys; what is refused is not done.
    pub fn attempt(&self, foreign: bool, sql: &str) {
        if foreign {
            let conn = self.connection();
            conn.execute_batch(&format!("PRAGMA foreign_keys = {}", sql.len() % 2)).unwrap();
            drop(conn.execute_batch(sql));
        } else {
            drop(self.store.write(|tx| tx.execute_batch(sql)));
        }
    }

    pub fn hash(&self) -> ([u8; 32], [u8; 32]) {
        let hash = self.store.state_hash().unwrap();
        (hash.merged, hash.visible)
    }

    pub fn check(&self) {
        let report = self.store.check().unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

/// A temporary folder, in memory where the system has a place for that.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.unwrap()
}

pub fn foreign(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

pub fn rows(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        Ok((0..columns).map(|n| format!("{:?}", row.get_ref(n).unwrap())).collect::<Vec<_>>().join("|"))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Exchanges everything between all devices until nothing moves.
pub fn settle(devices: &[&Device]) {
    for _ in 0..2 {
        for a in devices {
            for b in devices {
                if !std::ptr::eq(*a, *b) {
                    a.pull(b);
                }
            }
        }
    }
    for device in devices {
        assert_eq!(device.hash(), devices[0].hash(), "replicas differ after everything was exchanged");
        device.check();
    }
}

/// How many random fleets to run: `ISLE_CASES` of them, or as many as fit into every run of the tests.
pub fn cases(default: u32) -> proptest::test_runner::Config {
    let cases = std::env::var("ISLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default);
    proptest::test_runner::Config { cases, failure_persistence: None, ..proptest::test_runner::Config::default() }
}
