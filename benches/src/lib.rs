//! Comparison benches: plain SQLite, cr-sqlite and isle do the same work in one run, and every figure
//! is a ratio against plain SQLite.
//!
//! # Method
//! * Each workload is measured N times; within a run the engines take turns (plain, cr-sqlite, isle,
//!   plain, …), so that noise of the machine hits all of them alike. A ratio is the median of the
//!   engine over the median of plain; its range is the smallest and largest ratio of one run.
//! * All engines use the same bundled SQLite, a file database, `journal_mode=WAL` and
//!   `synchronous=NORMAL`. Page cache and checkpoint interval are SQLite's stock values for all of them, or
//!   those of `--page-cache-mib` for all of them (isle by itself would take 16 MiB and 4,000 pages for writing). The
//!   head of the report says which. The data comes from a fixed seed.
//! * Setting up is not timed. A database that a workload starts from is built once, closed, and
//!   copied for every sample; the copy is synced to disk before the clock starts, so that a checkpoint
//!   inside the timed part does not pay for it.
//! * Every sample ends with a check of what the database then holds. A wrong result is an error and
//!   no table is printed.
//!
//! # Layout
//! [`engine::Engine`] is what an engine can do, [`workload`] lists what is measured, [`runner`]
//! measures it and [`report`] prints it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench reports by printing")]

pub mod args;
pub mod crsqlite;
pub mod data;
pub mod engine;
pub mod isle;
pub mod machine;
pub mod plain;
pub mod report;
pub mod runner;
pub mod sql;
pub mod text;
pub mod wire;
pub mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::args::Args;
use crate::crsqlite::CrSqlite;
use crate::data::Dataset;
use crate::engine::{Cx, Engine};
use crate::isle::Isle;
use crate::plain::Plain;

/// The whole bench: parses the command line, measures, prints.
///
/// # Errors
/// When a workload fails or leaves the wrong data behind.
pub fn main() -> Result<ExitCode> {
    // `cargo test --all-targets` starts bench targets too, without `--bench`. That must stay quick.
    if std::env::args_os().len() <= 1 {
        println!("nothing measured: start it with `cargo bench -p isle-benches`");
        return Ok(ExitCode::SUCCESS);
    }
    let args = Args::parse();
    sql::tune(args.page_cache_mib)?;
    let workloads = workload::select(&args.only)?;

    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Plain)];
    if !args.without_cr_sqlite {
        let Some(extension) = crsqlite::find_extension() else {
            eprintln!("cr-sqlite is not installed. Install it with");
            eprintln!("    scripts/fetch-cr-sqlite");
            eprintln!("or leave it out with --without-cr-sqlite.");
            return Ok(ExitCode::FAILURE);
        };
        engines.push(Box::new(CrSqlite::new(extension)));
    }
    engines.push(Box::new(Isle));

    let data = Dataset::generate(args.rows);
    let cx = Cx::new(&data, args.dir.as_deref())?;
    let facts = machine::facts(&args, &engines)?;
    if !args.json {
        report::print_facts(&facts);
    }
    let mut results = Vec::new();
    for workload in workloads {
        results.extend(runner::measure(workload, &mut engines, &cx, args.runs)?);
    }
    if args.json {
        report::print_json(&facts, &results)?
    } else {
        report::print_table(&results)
    }
    Ok(ExitCode::SUCCESS)
}
