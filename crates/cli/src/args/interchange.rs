//! What is asked for of imports and exports.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args as ClapArgs, Subcommand, ValueEnum};

use super::span;

/// What to do with documents.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportAction {
    /// Rows out of JSON documents
    #[command(after_help = IMPORT_HELP)]
    Json(Import),
    /// Rows out of YAML documents
    #[command(after_help = IMPORT_HELP)]
    Yaml(Import),
    /// Which documents of a mapping are there, and which of them were imported as they are
    #[command(after_help = "Example:\n  isle import status ~/.app --map import.toml")]
    Status(Documents),
    /// Compare documents with the tables, value by value and both ways; nothing is changed
    #[command(
        after_help = "Exits with 1 if anything differs.\n\nExample:\n  isle import verify campaigns.yaml --map import.toml"
    )]
    Verify(Documents),
    /// Documents that imports have put aside
    #[command(after_help = "Example:\n  isle import archives")]
    Archives,
    /// Remove documents that imports put aside
    #[command(after_help = "Example:\n  isle import prune --older-than 60d --dry-run")]
    Prune {
        /// Only those put aside longer ago than this
        #[arg(long, value_name = "TIME", value_parser = span, default_value = "30d")]
        older_than: Duration,
        /// Say which, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}

const IMPORT_HELP: &str = "All documents are imported or none. Rows that are there stay as they are, and what is imported loses against whatever was written anywhere:\n\
    it is older. The same document again is nothing to do.\n\n\
    Examples:\n  isle import json ~/.app --map migrations/wmd/import.toml --archive\n  isle import json notes.json --table notes";

/// Where documents and rows are, and how they belong together.
#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("how").required(true).args(["map", "table"])))]
pub(crate) struct Documents {
    /// The folder of the documents, or the only one itself
    pub(crate) path: PathBuf,
    /// The mapping: a TOML file that says which member of which document is which column
    #[arg(long, value_name = "FILE", value_parser = crate::db::named())]
    pub(crate) map: Option<PathBuf>,
    /// Without a mapping: the document is a list of objects with the columns of this table as members
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
}

/// How documents are imported.
#[derive(Debug, ClapArgs)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) documents: Documents,
    /// Rename documents to ….bak once their rows are there
    #[arg(long)]
    pub(crate) archive: bool,
    /// Let rows that are there become what the documents say, as of now; a backup is made first
    #[arg(long)]
    pub(crate) replace: bool,
    /// Import documents again that were imported before
    #[arg(long)]
    pub(crate) again: bool,
    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do all that a careful move does: a backup before, the comparison after, and a look at the file
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) checklist: bool,
}

/// What to write out.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportAction {
    /// JSON documents
    #[command(after_help = EXPORT_HELP)]
    Json(Export),
    /// YAML documents
    #[command(after_help = EXPORT_HELP)]
    Yaml(Export),
    /// Statements that make the tables and their rows in another database
    #[command(
        after_help = "Columns get the type that fits what they hold. Primary keys and NOT NULL go along; other constraints, views and triggers do not.\n\n\
        Example:\n  isle export sql --dialect postgres | psql mydb"
    )]
    Sql {
        /// The tables; all replicated ones if none is named
        #[arg(value_name = "TABLE")]
        tables: Vec<String>,
        /// Whose SQL
        #[arg(long, value_enum, default_value_t)]
        dialect: DialectBy,
    },
    /// A file for each table with one row a line, as JSON
    #[command(after_help = "Example:\n  isle export jsonl out notes tags")]
    Jsonl {
        /// The folder of the files
        folder: PathBuf,
        /// The tables; all replicated ones if none is named
        #[arg(value_name = "TABLE")]
        tables: Vec<String>,
    },
}

const EXPORT_HELP: &str = "The same state gives the same bytes. A document that would not change is not touched.\n\n\
    Examples:\n  isle export json out --map migrations/wmd/import.toml\n  isle export json out --map import.toml --follow";

/// How documents are written.
#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) documents: Documents,
    /// Keep a document that is written over as ….bak
    #[arg(long)]
    pub(crate) keep: bool,
    /// Go on: write documents anew after each change, whoever makes it, until Ctrl-C
    #[arg(long)]
    pub(crate) follow: bool,
}

/// Whose SQL is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum DialectBy {
    /// SQLite
    #[default]
    Sqlite,
    /// PostgreSQL
    Postgres,
    /// MySQL and MariaDB
    Mysql,
}
