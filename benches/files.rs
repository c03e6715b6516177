//! What the file library costs.
//!
//! `cargo bench --workspace --bench files -- [--gb N] [--files N] [--dir FOLDER]`
//!
//! Ratios are against what the same run measures of the machine alone: hashing and cutting in memory, reading the disk.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use isle::{FileFilter, Library, MoveOptions, Replica, ScanOptions};

const MIB: usize = 1 << 20;

fn main() -> Result<()> {
    // `cargo test` builds benches and runs them with --test: nothing to do then.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let argument = |name: &str| std::env::args().skip_while(|arg| arg != name).nth(1);
    let number = |name: &str, default: u64| argument(name).map_or(Ok(default), |text| text.parse());
    let (gb, count) = (number("--gb", 4)?, number("--files", 100_000)?);
    let base = argument("--dir").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(base).context("a folder for the bench")?;
    println!("| measured | value | beside it |");
    println!("|---|---|---|");
    small_files(&folder.path().join("small"), count)?;
    large_file(&folder.path().join("large"), gb << 30)?;
    small_change(&folder.path().join("change"))?;
    println!("| peak memory | {} MB | target 200 MB |", peak_mb());
    Ok(())
}

fn row(what: &str, value: &str, beside: &str) {
    println!("| {what} | {value} | {beside} |");
}

fn library(folder: &Path) -> Result<(Replica, Library)> {
    fs::create_dir_all(folder.join("root"))?;
    let replica = Replica::builder(folder.join("a.db")).home(folder.join("home")).init()?;
    let library = replica.library();
    library.add_root("root", &folder.join("root"), &[])?;
    Ok((replica, library))
}

/// Bytes that no compression makes smaller.
fn noise(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for eight in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_le_bytes();
        eight.copy_from_slice(&word[..eight.len()]);
    }
}

fn write_noise(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut block = vec![0; 4 * MIB];
    for n in 0..bytes.div_ceil(block.len() as u64) {
        noise(&mut block, n + 1);
        let left = bytes - n * block.len() as u64;
        file.write_all(&block[..block.len().min(left as usize)])?;
    }
    Ok(file.sync_all()?)
}

fn small_files(folder: &Path, count: u64) -> Result<()> {
    let (replica, library) = library(folder)?;
    let root = folder.join("root");
    for n in 0..count {
        if n % 1000 == 0 {
            fs::create_dir(root.join(format!("{:04}", n / 1000)))?;
        }
        fs::write(root.join(format!("{:04}/{n}.txt", n / 1000)), format!("file number {n}\n").repeat(20))?;
    }
    std::thread::sleep(Duration::from_millis(100));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (replica, stop) = (replica.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut waits = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let found: Result<Option<u64>, isle::Error> =
                    replica.read(|q| q.one("SELECT rowid FROM library_files LIMIT 1", &[]));
                if found.is_ok() {
                    waits.push(began.elapsed());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            waits.sort_unstable();
            waits
        })
    };
    let began = Instant::now();
    let first = library.scan_now(&ScanOptions::default())?;
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let waits = reader.join().unwrap_or_default();
    let per_s = first.added as f64 / took.as_secs_f64();
    row(&format!("first scan of {count} small files"), &format!("{per_s:.0} files/s"), "target 5,000");
    if let Some(p99) = waits.get(waits.len() * 99 / 100) {
        let ms = p99.as_secs_f64() * 1e3;
        row("a reader meanwhile, p99", &format!("{ms:.2} ms"), "target 50 ms");
    }
    let began = Instant::now();
    let again = library.scan_now(&ScanOptions::default())?;
    let took = began.elapsed().as_secs_f64();
    row(
        &format!("scan of {count} unchanged files"),
        &format!("{took:.2} s, {} read", again.hashed),
        "target 5 s, 0 read",
    );
    let began = Instant::now();
    let files = library.files(&FileFilter::default())?;
    row("listing them", &format!("{:.2} s for {}", began.elapsed().as_secs_f64(), files.len()), "");
    let began = Instant::now();
    library.storage()?;
    row("summing them up", &format!("{:.2} s", began.elapsed().as_secs_f64()), "");
    row("database", &format!("{} MB", fs::metadata(replica.path())?.len() / 1_000_000), "");
    fs::remove_dir_all(root)?;
    Ok(())
}

fn large_file(folder: &Path, bytes: u64) -> Result<()> {
    let (_, library) = library(folder)?;
    let path = folder.join("root/large.bin");
    write_noise(&path, bytes)?;
    let rate = |took: Duration, bytes: u64| bytes as f64 / 1e9 / took.as_secs_f64();

    let began = Instant::now();
    let mut file = File::open(&path)?;
    let mut block = vec![0; MIB];
    while file.read(&mut block)? > 0 {}
    let disk = rate(began.elapsed(), bytes);

    let mut memory = vec![0; 64 * MIB];
    noise(&mut memory, 9);
    let (chunker, sizes) = (isle_files::Chunker::new(9), isle_files::chunk_sizes(bytes));
    let began = Instant::now();
    for _ in 0..4 {
        std::hint::black_box(blake3::hash(&memory));
        let mut at = 0;
        while at < memory.len() {
            at += chunker.cut(&memory[at..memory.len().min(at + sizes.2)], sizes);
        }
    }
    let hashing = rate(began.elapsed(), 4 * memory.len() as u64);
    drop(memory);

    let began = Instant::now();
    let report = library.scan_now(&ScanOptions::default())?;
    let ingest = rate(began.elapsed(), report.hashed_bytes);
    let slower = disk.min(hashing);
    row("reading the large file alone", &format!("{disk:.2} GB/s"), "");
    row("BLAKE3 and cutting in memory, one thread", &format!("{hashing:.2} GB/s"), "");
    let share = 100.0 * ingest / slower;
    row(
        "taking the large file into the library",
        &format!("{ingest:.2} GB/s"),
        &format!("{share:.0} % of the slower; target 70 %"),
    );
    fs::remove_file(path)?;
    Ok(())
}

fn small_change(folder: &Path) -> Result<()> {
    let (replica, library) = library(folder)?;
    let path = folder.join("root/file.bin");
    write_noise(&path, 1_000_000_000)?;
    let bucket = folder.join("bucket");
    replica.add_remote("b", bucket.to_str().context("a path that is text")?)?;
    let runtime = tokio::runtime::Runtime::new()?;
    library.scan_now(&ScanOptions::default())?;
    runtime.block_on(replica.sync())?;
    let began = Instant::now();
    let whole = runtime.block_on(library.push(&MoveOptions::default()))?;
    let rate = whole.sent_bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
    row("putting 1 GB into an encrypted folder", &format!("{rate:.0} MB/s in {} chunks", whole.chunks), "");
    let mut changed = vec![0; 1_000_000];
    noise(&mut changed, 77);
    let file = File::options().write(true).open(&path)?;
    isle_files::write_at(&file, 500_000_000, &changed)?;
    drop(file);
    library.scan_now(&ScanOptions::default())?;
    let sent = runtime.block_on(library.push(&MoveOptions::default()))?.sent_bytes;
    row(
        "putting it again after 1 MB changed in the middle",
        &format!("{:.2} MB sent", sent as f64 / 1e6),
        "target 4 MB",
    );
    Ok(())
}

/// The most memory that this process has held.
fn peak_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib * 1024 / 1_000_000)
}
