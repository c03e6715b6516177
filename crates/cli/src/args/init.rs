//! How a file becomes a replica, and what keeps its tables.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

#[derive(Debug, ClapArgs)]
pub(crate) struct Init {
    /// The file; made if it is not there [default: --db]
    #[arg(value_parser = crate::db::named())]
    pub(crate) file: Option<PathBuf>,
    /// The app whose schema the file holds; replicas that sync have the same [default: default]
    #[arg(long)]
    pub(crate) app: Option<String>,
    /// Track all tables, also of a file that is a replica already
    #[arg(long, conflicts_with = "no_track")]
    pub(crate) track_all: bool,
    /// Track no table yet
    #[arg(long)]
    pub(crate) no_track: bool,
    /// Exit with 4 if a table could not be tracked
    #[arg(long)]
    pub(crate) strict: bool,
    /// What keeps the tables of a new replica: `native` (isle alone) or `cr-sqlite`, whose extension ISLE_CR_SQLITE names
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<Engine>,
}

/// What records and merges the tables of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// isle alone
    Native,
    /// cr-sqlite, where it can hold a table
    CrSqlite,
}
