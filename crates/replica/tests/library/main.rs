//! The file library: scans, movements of contents, what is kept and what goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod direct;
mod guards;
mod hostile;
mod moves;
mod removal;
mod scans;
mod watching;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isle::{FileFilter, FileInfo, Library, MoveOptions, Replica, ScanOptions, ScanReport, params};

/// A device: a database, a home and a folder `files` that is the root `docs`.
struct Device {
    replica: Replica,
    library: Library,
    root: PathBuf,
    /// When a file was last put there.
    put: Cell<Instant>,
}

impl Device {
    fn new(folder: &Path, name: &str) -> Device {
        let home = folder.join(format!("{name}.home"));
        let replica = Replica::builder(folder.join(format!("{name}.db"))).home(home).init().unwrap();
        let root = folder.join(format!("{name}.files"));
        fs::create_dir_all(&root).unwrap();
        let root = root.canonicalize().unwrap();
        let library = replica.library();
        Device { replica, library, root, put: Cell::new(Instant::now()) }
    }

    /// With the root in the library.
    fn with_root(folder: &Path, name: &str) -> Device {
        let device = Device::new(folder, name);
        device.library.add_root("docs", &device.root, &[]).unwrap();
        device
    }

    fn add_remote(&self, folder: &Path) {
        self.replica.add_plain_remote("shared", folder.join("bucket").to_str().unwrap()).unwrap();
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self.put.set(Instant::now());
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.root.join(path)).ok()
    }

    /// Scans once a write would have another time than the last one: what was written in the same tick is read again with the next scan.
    fn scan(&self) -> ScanReport {
        while self.put.get().elapsed() < Duration::from_millis(30) {
            std::thread::yield_now();
        }
        self.library.scan_now(&ScanOptions::default()).unwrap()
    }

    fn files(&self) -> Vec<FileInfo> {
        self.library.files(&FileFilter::default()).unwrap()
    }

    fn paths(&self) -> Vec<String> {
        self.files().into_iter().map(|file| file.path).collect()
    }

    fn file(&self, path: &str) -> FileInfo {
        self.library.file(path).unwrap()
    }

    /// Presences of a file as device, path and state.
    fn presences(&self, id: &str) -> Vec<(String, String, String)> {
        let sql = "SELECT device, path, state FROM library_presence WHERE file = ?1 ORDER BY device, path";
        self.replica.read(|q| q.all(sql, params![id])).unwrap()
    }

    /// Rows both ways, and contents out.
    async fn sync(&self) {
        self.replica.sync().await.unwrap();
        self.library.push(&MoveOptions { refresh: true, ..MoveOptions::default() }).await.unwrap();
    }

    fn one<T: serde::de::DeserializeOwned>(&self, sql: &str) -> T {
        self.replica.read(|q| q.one(sql, &[])).unwrap().unwrap()
    }
}

/// What of a scan is not nothing, in words.
fn news(report: &ScanReport) -> String {
    let parts = [
        (report.added, "added"),
        (report.modified, "modified"),
        (report.moved, "moved"),
        (report.back, "back"),
        (report.missing, "missing"),
        (report.invalid, "invalid"),
        (report.unreadable, "unreadable"),
        (report.unchanged, "unchanged"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    parts.join(", ")
}

/// Bytes that no compression makes smaller, and that repeat nowhere.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// A GGUF model of one tensor with a name and an architecture.
fn model(name: &str, architecture: &str, fill: u8) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let string = |key: &str, value: &str| [text(key), 8_u32.to_le_bytes().to_vec(), text(value)].concat();
    let mut bytes = [b"GGUF".to_vec(), 3_u32.to_le_bytes().to_vec()].concat();
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(2_u64.to_le_bytes());
    bytes.extend(string("general.architecture", architecture));
    bytes.extend(string("general.name", name));
    bytes.extend(text("weights"));
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(256_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.resize(bytes.len() + 1024, fill);
    bytes
}
