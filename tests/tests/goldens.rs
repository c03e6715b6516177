//! Stories of several devices in SQL, `goldens/*.sql`, and what every device shows in the end, `goldens/*.expected`.
//!
//! A line that begins with `--:` says what to do with the SQL below it, up to the next such line:
//! ```text
//! --: schema a         device a declares this
//! --: a                isle runs it on device a
//! --: other a          another client of SQLite does, with foreign keys on
//! --: sync             all devices sync with one folder until nothing is left
//! --: show             each query, on every device: they must agree
//! --: hidden           rows that do not show as they are merged, on every device
//! --: journal a        what lost, on device a
//! ```
//! Each part is a second later than the one before, and the devices' sites are in the order of their names. `ISLE_BLESS=1` writes the expected
//! files anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isle::{Replica, Runtime, Value};
use isle_tests::workspace;

/// 2026-06-01.
const START: u64 = 1_780_272_000_000;

#[derive(Debug)]
struct Clock {
    now: Arc<AtomicU64>,
    drawn: AtomicU64,
    device: u8,
}

impl Runtime for Clock {
    fn now_ms(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn random(&self) -> [u8; 16] {
        let mut bytes = [self.device; 16];
        bytes[8..].copy_from_slice(&self.drawn.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        bytes
    }
}

struct Story {
    folder: tempfile::TempDir,
    now: Arc<AtomicU64>,
    devices: BTreeMap<String, Replica>,
    told: String,
}

impl Story {
    fn new() -> Story {
        let now = Arc::new(AtomicU64::new(START));
        Story { folder: tempfile::tempdir().unwrap(), now, devices: BTreeMap::new(), told: String::new() }
    }

    fn path(&self, device: &str) -> PathBuf {
        self.folder.path().join(format!("{device}.db"))
    }

    /// Devices a, b and c, of one group.
    async fn begin(&mut self) {
        for name in ["a", "b", "c"] {
            let clock = Clock { now: Arc::clone(&self.now), drawn: AtomicU64::new(0), device: name.as_bytes()[0] };
            let builder = Replica::builder(self.path(name)).home(self.folder.path().join(format!("{name}.home")));
            let replica = builder.app("golden").runtime(Arc::new(clock)).init().unwrap();
            replica.add_plain_remote("all", self.folder.path().join("bucket").to_str().unwrap()).unwrap();
            replica.sync().await.unwrap();
            self.devices.insert(name.to_owned(), replica);
        }
    }

    fn device(&self, name: &str) -> &Replica {
        self.devices.get(name).unwrap_or_else(|| panic!("there is no device {name}"))
    }

    async fn part(&mut self, head: &str, sql: &str) {
        self.now.fetch_add(1_000, Ordering::SeqCst);
        let words: Vec<&str> = head.split_whitespace().collect();
        match words[..] {
            ["schema", name] => {
                self.device(name).apply_schema(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
            ["other", name] => {
                let conn = rusqlite::Connection::open(self.path(name)).unwrap();
                conn.execute_batch(&format!("PRAGMA foreign_keys = ON; {sql}"))
                    .unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
            ["sync"] => self.sync().await,
            ["show"] => self.show(sql),
            ["hidden"] => self.agree("hidden", |replica| {
                let row = |row: isle::Repaired| {
                    let what = if row.hidden { "is hidden" } else { "shows otherwise" };
                    let key: Vec<String> = row.key.iter().map(|(_, value)| text(value)).collect();
                    format!("{} {} {what}: {}", row.table, key.join(","), row.constraint)
                };
                replica.repaired(99).unwrap().into_iter().map(row).collect()
            }),
            ["journal", name] => {
                let lost = self.device(name).conflicts(true, 99).unwrap();
                let lost = lost.into_iter().map(|lost| {
                    let key: Vec<String> = lost.key.iter().map(|(_, value)| text(value)).collect();
                    format!(
                        "{} {} {}: {}",
                        lost.table,
                        key.join(","),
                        lost.column.unwrap_or_default(),
                        text(&lost.value)
                    )
                });
                let mut lost: Vec<String> = lost.collect();
                lost.sort();
                self.tell(&format!("journal of {name}"), &lost);
            }
            [name] if name.len() == 1 => {
                self.device(name).write(|tx| tx.execute_batch(sql)).unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
            _ => panic!("--: {head}: no such part"),
        }
    }

    async fn sync(&self) {
        for _ in 0..2 {
            for replica in self.devices.values() {
                replica.sync().await.unwrap();
            }
        }
        let hashes: Vec<_> = self.devices.values().map(|replica| replica.state_hash().unwrap()).collect();
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ after everything was exchanged");
    }

    fn show(&mut self, sql: &str) {
        for query in sql.split(';').map(str::trim).filter(|query| !query.is_empty()) {
            self.agree(query, |replica| {
                let rows =
                    replica.read(|conn| conn.query(query, &[])).unwrap_or_else(|error| panic!("{query}: {error}"));
                let row = |row: isle::Row| row.values().iter().map(text).collect::<Vec<_>>().join("|");
                rows.into_iter().map(row).collect()
            });
        }
    }

    /// Every device has to say the same.
    fn agree(&mut self, what: &str, ask: impl Fn(&Replica) -> Vec<String>) {
        let answers: Vec<(String, Vec<String>)> =
            self.devices.iter().map(|(name, replica)| (name.clone(), ask(replica))).collect();
        for (name, answer) in &answers[1..] {
            assert_eq!(*answer, answers[0].1, "{what}: {name} and {} differ", answers[0].0);
        }
        let answer = answers[0].1.clone();
        self.tell(what, &answer);
    }

    fn tell(&mut self, what: &str, lines: &[String]) {
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(self.told, "-- {what}").unwrap();
        lines.iter().for_each(|line| writeln!(self.told, "{line}").unwrap());
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

async fn run(file: &Path) -> String {
    let sql = std::fs::read_to_string(file).unwrap();
    let mut story = Story::new();
    story.begin().await;
    let (mut head, mut body) = (None, String::new());
    for line in sql.lines().chain(["--: sync"]) {
        let Some(next) = line.strip_prefix("--:") else {
            body += line;
            body.push('\n');
            continue;
        };
        if let Some(head) = head.replace(next.trim().to_owned()) {
            story.part(&head, &body).await;
        }
        body.clear();
    }
    story.sync().await;
    for replica in story.devices.values() {
        let report = replica.check().unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
    story.told
}

#[tokio::test]
async fn every_story_ends_as_expected() {
    let folder = workspace().join("tests/goldens");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    assert!(files.len() >= 8, "stories are missing: {files:?}");
    for file in files {
        let told = run(&file).await;
        let expected = file.with_extension("expected");
        if std::env::var_os("ISLE_BLESS").is_some() {
            std::fs::write(&expected, &told).unwrap();
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(told, wanted, "{}: if it is right, ISLE_BLESS=1 writes it", file.display());
    }
}
