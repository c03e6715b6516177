//! The command line.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::RangedU64ValueParser;

/// Compares plain SQLite, cr-sqlite and isle on the same workloads.
#[derive(Debug, Parser)]
#[command(name = "compare", bin_name = "cargo bench -p isle-benches --")]
pub struct Args {
    /// How many times each workload is measured
    #[arg(long, default_value_t = 11, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub runs: usize,

    /// Rows in the table
    #[arg(long, default_value_t = 200_000, value_parser = RangedU64ValueParser::<usize>::new().range(100..))]
    pub rows: usize,

    /// Measure only this workload; may be repeated or hold a comma-separated list
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Print JSON, with every sample, instead of the table
    #[arg(long)]
    pub json: bool,

    /// Leave cr-sqlite out instead of failing when it is not installed
    #[arg(long)]
    pub without_cr_sqlite: bool,

    /// Page cache of every connection of every engine, in MiB, and a checkpoint interval that goes with it
    /// [default: SQLite's stock settings]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub page_cache_mib: Option<u32>,

    /// Where the databases go; a temporary directory inside it is used and removed
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,

    /// Passed by cargo
    #[arg(long, hide = true)]
    pub bench: bool,
}
