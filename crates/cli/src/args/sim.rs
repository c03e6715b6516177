//! What can be typed after `isle sim`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SimAction {
    /// Run the scenarios of seeds, each with its own fleet, until something is not as it should be
    #[command(
        after_help = "Examples:\n  isle sim run\n  isle sim run --seed 7 --devices 5 --profile chaos --timeline\n  isle sim run --count 1000"
    )]
    Run(SimRun),
    /// Run a scenario of a file
    #[command(after_help = "Example:\n  isle sim replay failed-1234.json --timeline")]
    Replay {
        /// The scenario
        file: PathBuf,
        /// Show all that happens
        #[arg(long)]
        timeline: bool,
        /// Leave the devices' files in this folder
        #[arg(long, value_name = "FOLDER")]
        files: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SimRun {
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// How many devices there are at first, 2 to 16 [default: 2 to 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=16))]
    pub(crate) devices: Option<u32>,
    /// How much goes wrong
    #[arg(long, default_value = "default", value_parser = ["calm", "default", "chaos"])]
    pub(crate) profile: String,
    /// What keeps the files: isle alone, cr-sqlite (which ISLE_CR_SQLITE names), or each for some devices
    #[arg(long, default_value = "native", value_parser = ["native", "mixed", "cr-sqlite"])]
    pub(crate) engine: String,
    /// Show all that happens to one seed
    #[arg(long, conflicts_with = "count")]
    pub(crate) timeline: bool,
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) within: Option<u64>,
    /// How many run at once [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) jobs: Option<u32>,
    /// Where the scenario of a failure goes, made small
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) keep: PathBuf,
    /// Keep the scenario of a failure as it is
    #[arg(long)]
    pub(crate) no_shrink: bool,
}
