//! What the documents of the reference apps claim, measured: settings, look-ups, histories and searches through isle, beside the JSON and YAML files that the
//! apps had before.
//!
//! `cargo bench --workspace --bench apps -- [--dir FOLDER]`
//!
//! A change of a file is reading it, parsing it, changing it and writing it anew, without a sync to the disk; a change through isle is a transaction that is
//! captured and sealed, in WAL mode with synchronous = NORMAL. Medians.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use isle::{Definition, ImportOptions, Mapping, Replica, params};

fn main() -> Result<()> {
    // `cargo test` builds benches and runs them with --test: nothing to do then.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let base = std::env::args().skip_while(|arg| arg != "--dir").nth(1);
    let folder =
        tempfile::tempdir_in(base.map_or_else(std::env::temp_dir, Into::into)).context("a folder for the bench")?;
    println!("| measured | isle | beside it |");
    println!("|---|---:|---|");
    models(&folder.path().join("models"))?;
    history(&folder.path().join("history"))?;
    for count in [1_000, 10_000] {
        jobs(&folder.path().join(format!("jobs{count}")), count)?;
    }
    Ok(())
}

fn row(what: &str, took: Duration, beside: &str) {
    println!("| {what} | {:.3} ms | {beside} |", took.as_secs_f64() * 1e3);
}

fn median(runs: usize, mut f: impl FnMut(usize) -> Result<()>) -> Result<Duration> {
    let mut took = Vec::with_capacity(runs);
    for run in 0..runs {
        let began = Instant::now();
        f(run)?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(took[runs / 2])
}

fn app(folder: &Path, schema: &str) -> Result<Replica> {
    std::fs::create_dir_all(folder)?;
    let replica = Replica::builder(folder.join("a.db")).home(folder.join("home")).app(schema).init()?;
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(schema);
    replica.apply_schema(Definition::from_dir(&migrations)?)?;
    Ok(replica)
}

fn print(format: isle_interchange::Format, node: &isle_interchange::Node) -> Result<String> {
    isle_interchange::print(format, node).map_err(|reason| anyhow::anyhow!(reason))
}

/// Words that make names, so that searches find some and not all.
fn words(n: usize) -> String {
    const WORDS: [&str; 16] = [
        "flux", "lora", "sdxl", "depth", "canny", "video", "turbo", "refiner", "upscale", "anime", "photo", "control",
        "vae", "clip", "tile", "base",
    ];
    let word = |shift: usize| WORDS[(n.wrapping_mul(2_654_435_761) >> shift) % WORDS.len()];
    format!("{} {} {} {n}", word(3), word(9), word(15))
}

/// Settings, metadata by hash, and a search by words among 10,000 entries.
fn models(folder: &Path) -> Result<()> {
    let replica = app(folder, "wmd")?;
    replica.write(|tx| {
        for n in 0..50 {
            tx.execute("INSERT INTO settings(key, value) VALUES(?1, ?2)", params![&format!("key {n}"), n])?;
        }
        for n in 0..10_000 {
            let hash = format!("{:064x}", n * 7919);
            let sql = "INSERT INTO model_metadata(filename, model_name, sha256_hash, source) VALUES(?1, ?2, ?3, 'other')";
            tx.execute(sql, params![&format!("model-{n}.safetensors"), &words(n), &hash])?;
        }
        tx.execute_batch(
            "CREATE VIRTUAL TABLE found USING fts5(filename, model_name); INSERT INTO found SELECT filename, model_name FROM model_metadata",
        )
    })?;
    let took = median(501, |_| {
        let all: Vec<(String, String)> = replica.read(|q| q.all("SELECT key, value FROM settings", &[]))?;
        anyhow::ensure!(all.len() == 50);
        Ok(())
    })?;
    row("all of 50 settings", took, "target 2 ms");
    let took = median(501, |run| {
        let hash = format!("{:064x}", (run * 17 % 10_000) * 7919);
        let sql = "SELECT filename FROM model_metadata WHERE sha256_hash = ?1";
        anyhow::ensure!(replica.read(|q| q.one::<String>(sql, params![&hash]))?.is_some());
        Ok(())
    })?;
    row("a model by its hash, of 10,000", took, "target 5 ms");
    let took = median(101, |_| {
        anyhow::ensure!(!replica.search("found", "flux lora", 20, 0)?.is_empty());
        Ok(())
    })?;
    row("the best 20 for two words, of 10,000", took, "target 20 ms");
    Ok(())
}

/// A history that grows to 200,000 rows.
fn history(folder: &Path) -> Result<()> {
    let replica = app(folder, "wmd")?;
    let sql = "INSERT INTO download_history(id, filename, directory, status, downloaded_at) VALUES(?1, ?2, 'models', 'completed', '2026-01-01')";
    let mut count = 0;
    let mut add = |replica: &Replica| {
        count += 1;
        let (id, name) = (format!("{count:032x}"), format!("file {count}"));
        replica.write(|tx| tx.execute(sql, params![&id, &name])).map(|_| ())
    };
    let took = median(501, |_| Ok(add(&replica)?))?;
    row("a row added to a history, captured and sealed", took, "target 2 ms");
    replica.write(|tx| {
        for n in 1_000..201_000 {
            tx.execute(sql, params![&format!("{n:032x}-bulk"), &format!("bulk {n}")])?;
        }
        Ok(())
    })?;
    let took = median(501, |_| Ok(add(&replica)?))?;
    row("the same with 200,000 rows there", took, "target 5 ms");
    let took = median(501, |run| {
        let name = format!("bulk {}", 1_000 + run * 391);
        let sql = "SELECT id FROM download_history WHERE filename = ?1";
        anyhow::ensure!(replica.read(|q| q.one::<String>(sql, params![&name]))?.is_some());
        Ok(())
    })?;
    row("one of 200,000 rows by its file", took, "target 5 ms");
    Ok(())
}

/// One job read and changed, through isle and in the file that the app had before.
fn jobs(folder: &Path, count: usize) -> Result<()> {
    let replica = app(folder, "massugc")?;
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/massugc/import.toml"))?;
    let mapping = Mapping::from_toml(&text)?;
    let yaml = folder.join("campaigns.yaml");
    let job = |n: usize| {
        format!(
            "- id: '{n:032x}'\n  job_name: campaign {n}\n  product: product {}\n  persona: Student\n  emotion: calm\n  language: English\n  enabled: true\n  \
             created_at: '2026-01-01T09:00:{:02}'\n  enhanced_settings:\n    text_overlays:\n    - {{ enabled: true, text: Now what, fontSize: 58 }}\n",
            n % 9,
            n % 60
        )
    };
    std::fs::write(&yaml, format!("jobs:\n{}", (0..count).map(job).collect::<String>()))?;
    let began = Instant::now();
    let report = replica.import(&mapping, &yaml, &ImportOptions::default())?;
    let took = began.elapsed();
    anyhow::ensure!(report.sources[0].inserted == count as u64);
    row(&format!("{count} jobs imported from YAML"), took, if count == 1_000 { "target 1 s for 1,200" } else { "" });
    replica.export(&mapping, &yaml, &isle::ExportOptions::default())?;
    let json = folder.join("campaigns.json");
    let format = isle_interchange::Format::Yaml;
    let document = |path: &Path, format| -> Result<_> {
        isle_interchange::parse(format, &std::fs::read(path)?).map_err(|fault| anyhow::anyhow!("{fault}"))
    };
    std::fs::write(&json, print(isle_interchange::Format::Json, &document(&yaml, format)?)?)?;

    let id = |run: usize| format!("{:032x}", run * 37 % count);
    let got = median(501, |run| {
        let sql = "SELECT job_name FROM jobs WHERE id = ?1";
        anyhow::ensure!(replica.read(|q| q.one::<String>(sql, params![&id(run)]))?.is_some());
        Ok(())
    })?;
    let changed = median(501, |run| {
        let sql = "UPDATE jobs SET job_name = ?2 WHERE id = ?1";
        anyhow::ensure!(replica.write(|tx| tx.execute(sql, params![&id(run), &format!("changed {run}")]))? == 1);
        Ok(())
    })?;
    for (name, path, format) in [("JSON", &json, isle_interchange::Format::Json), ("YAML", &yaml, format)] {
        let find = |run: usize| -> Result<_> {
            let node = document(path, format)?;
            let jobs = node.member("jobs").context("jobs")?;
            let isle_interchange::Datum::List(items) = &jobs.datum else { anyhow::bail!("a list") };
            let wanted = id(run);
            let is_it = |job: &isle_interchange::Node| matches!(job.member("id").map(|id| &id.datum), Some(isle_interchange::Datum::Text(id)) if *id == wanted);
            anyhow::ensure!(items.iter().any(is_it));
            Ok(node)
        };
        let file_got = median(5, |run| find(run).map(|_| ()))?;
        let file_changed = median(5, |run| Ok(std::fs::write(path, print(format, &find(run)?)?)?))?;
        let times = |file: Duration, isle: Duration| {
            let ratio = file.as_secs_f64() / isle.as_secs_f64();
            format!("the {name} file: {:.2} ms, {ratio:.0} times", file.as_secs_f64() * 1e3)
        };
        row(&format!("one of {count} jobs read"), got, &times(file_got, got));
        row(&format!("one of {count} jobs changed"), changed, &times(file_changed, changed));
    }
    Ok(())
}
