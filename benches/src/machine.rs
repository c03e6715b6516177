//! What the figures were measured on.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use crate::args::Args;
use crate::engine::Engine;
use crate::sql::{Tuning, tuning};

/// Facts that a figure means nothing without.
#[derive(Debug, Serialize)]
pub struct Facts {
    /// Model name of the processor.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Operating system and architecture.
    pub system: String,
    /// Version of the bundled SQLite.
    pub sqlite: &'static str,
    /// Settings of every connection of every engine.
    pub settings: String,
    /// Version of the compiler.
    pub rustc: String,
    /// Where the databases were.
    pub directory: PathBuf,
    /// The engines, plain first.
    pub engines: Vec<String>,
    /// Rows in the table.
    pub rows: usize,
    /// Samples per workload and engine.
    pub runs: usize,
}

/// Collects the facts.
///
/// # Errors
/// When an engine cannot be loaded.
pub fn facts(args: &Args, engines: &[Box<dyn Engine>]) -> Result<Facts> {
    let Tuning { page_cache_bytes, checkpoint_pages } = tuning();
    let stock = if args.page_cache_mib.is_none() { " (stock)" } else { "" };
    let kib = page_cache_bytes / 1_024;
    let settings = format!(
        "WAL, synchronous NORMAL, page cache {kib} KiB, checkpoint at {checkpoint_pages} pages{stock}, for all"
    );
    Ok(Facts {
        settings,
        cpu: cpu_model().unwrap_or_else(|| "unknown".to_owned()),
        cores: std::thread::available_parallelism()?.get(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        sqlite: rusqlite::version(),
        rustc: rustc_version().unwrap_or_else(|| "unknown".to_owned()),
        directory: args.dir.clone().unwrap_or_else(std::env::temp_dir),
        engines: engines.iter().map(|engine| engine.describe()).collect::<Result<_>>()?,
        rows: args.rows,
        runs: args.runs,
    })
}

fn cpu_model() -> Option<String> {
    if let Ok(info) = std::fs::read_to_string("/proc/cpuinfo") {
        let line = info.lines().find(|line| line.starts_with("model name"))?;
        return Some(line.split_once(':')?.1.trim().to_owned());
    }
    first_line("sysctl", &["-n", "machdep.cpu.brand_string"])
}

fn rustc_version() -> Option<String> {
    first_line("rustc", &["--version"])
}

fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}
