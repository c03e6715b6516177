//! What is asked of rows: by words, by what their columns hold, and how many there are.

use clap::{Args as ClapArgs, ValueEnum};

use super::limit;

/// A search by words.
#[derive(Debug, ClapArgs)]
pub(crate) struct Search {
    /// The table, or its full-text table
    pub(crate) table: String,
    /// What to look for
    #[arg(allow_hyphen_values = true)]
    pub(crate) text: String,
    /// How many
    #[arg(short = 'n', long = "limit", default_value_t = 20, value_name = "N", value_parser = limit)]
    pub(crate) limit: usize,
    /// How many of the best to pass over
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) offset: usize,
}

/// Rows by what their columns hold.
#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    /// The table or view
    pub(crate) table: String,
    /// Only rows of which this holds, as `stars>=4`: = != < <= > >=, or ~ for a text that contains another; repeat for more
    #[arg(long = "where", short, value_name = "CONDITION")]
    pub(crate) conditions: Vec<String>,
    /// By this column, then by those named after it; at the end by the key
    #[arg(long, value_name = "COLUMN")]
    pub(crate) order: Vec<String>,
    /// The greatest first
    #[arg(long, requires = "order")]
    pub(crate) desc: bool,
    /// How many
    #[arg(short = 'n', long = "limit", default_value_t = 100, value_name = "N", value_parser = limit)]
    pub(crate) limit: usize,
    /// How many to pass over
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) offset: usize,
}

/// Counts of rows.
#[derive(Debug, ClapArgs)]
pub(crate) struct Stats {
    /// The table or view
    pub(crate) table: String,
    /// Count by what this column holds; without it: what each column holds
    #[arg(long, value_name = "COLUMN")]
    pub(crate) by: Option<String>,
    /// The column is a time (ISO 8601, or seconds since 1970): count by spans of it, in UTC
    #[arg(long, value_enum, requires = "by", value_name = "SPAN")]
    pub(crate) per: Option<PerBy>,
    /// Add up this column, too
    #[arg(long, requires = "by", value_name = "COLUMN")]
    pub(crate) sum: Option<String>,
    /// Only rows of which this holds, as in `isle list`
    #[arg(long = "where", short, value_name = "CONDITION")]
    pub(crate) conditions: Vec<String>,
    /// How many groups
    #[arg(short = 'n', long = "limit", default_value_t = 100, value_name = "N", value_parser = limit)]
    pub(crate) limit: usize,
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PerBy {
    /// An hour
    Hour,
    /// A day
    Day,
    /// A month
    Month,
    /// A year
    Year,
}
