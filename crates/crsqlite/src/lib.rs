//! cr-sqlite 0.17 beside isle: the only room that knows that extension and its tables.
//!
//! A table that isle tracks may be a CRR of cr-sqlite at the same time. Then cr-sqlite's triggers record what is written to it,
//! and cr-sqlite merges what comes from others; isle seals, carries and orders the changes as it does for any table.
//!
//! # Promises
//! * What was written here is read from cr-sqlite's clocks ([`Crr::written`]): it has ordinal 0, or that of a site of cr-sqlite's own, from which a program
//!   brought it past isle. Once it is sealed it gets its time as `col_version` and `db_version`, and the ordinal of isle's site ([`Crr::stamp`]), as it has on
//!   every other device.
//! * What others wrote goes in through `crsql_changes` ([`Crr::merge`]), with the time (a hybrid logical clock as one number) as
//!   `col_version`, so that cr-sqlite's "larger version wins" is isle's "later time wins".
//! * cr-sqlite decides a tie of versions by values, isle by sites; and it counts lives that begin and end within one transaction, isle does not.
//!   The caller says what is to stand, and [`Crr::settle`] makes cr-sqlite's clocks say it where they do not.
//!
//! # What cr-sqlite has in the file
//! ```text
//! crsql_site_id(site_id, ordinal)     ordinal 0 is this file, by an id that cr-sqlite drew itself; isle's own is another one, with its own ordinal
//! crsql_master                        crsqlite_version: 170000 is 0.17.0
//! t__crsql_pks(__crsql_key, pk…)      a number for each key
//! t__crsql_clock(key, col_name, col_version, db_version, site_id, seq, ts)
//!                                     one row per cell; col_name '-1' is the sentinel, whose col_version is the causal length: odd = alive,
//!                                     even = deleted. Without one the length is 1. site_id is the ordinal
//! triggers t__crsql_itrig, _utrig, _dtrig, which call functions of the extension: a connection without it cannot write
//! ```
//!
//! # What cost something to find out
//! * A `crsql_as_crr` that fails rolls the whole transaction back, not just its own savepoint. So [`cannot_hold`] asks before, and [`try_on`] tries it elsewhere: names
//!   such as `order` or `my-t`, for example, end in "SQL logic error".
//! * From 63 columns on its triggers pass more arguments than SQLite takes as it is built by most: such a file could not even be read there.
//! * It merges a row cell by cell, so that an app's triggers see it half done. The caller writes rows of such tables itself.
//! * The extension keeps statements open: without [`release`] the connection cannot be closed.
//! * `crsql_changes` sets the bit that makes the triggers stand aside, and clears it again; who had set it before must set it again ([`quiet`]).
//! * `db_version` does not tell what is new: after a statement or savepoint that was undone in a transaction which was committed, cr-sqlite (0.17) gives the
//!   same version to the next transaction again, and within one transaction there is one. We lost writes by it in one of 40 random fleets. So what is
//!   sealed is told by its ordinal.
//! * It takes 0.0 and −0.0 for equal, and records no change between them.

mod clocks;
mod crr;
mod library;
mod past;

pub use clocks::{Cell, Crr, Life, Site, State};
pub use crr::{TRIGGERS, cannot_hold, crrs, is_internal, make_crr, make_table, name_of, try_on};
pub use library::{Library, check_version, is_written, quiet, release, written_rows};
pub use past::Past;

/// The ordinals of everybody who is none of isle's sites: of this file itself, and of sites of cr-sqlite's own that changes were taken from past isle.
pub(crate) const OUTSIDE: &str =
    "SELECT ordinal FROM crsql_site_id WHERE site_id NOT IN (SELECT id FROM isle_site WHERE id IS NOT NULL)";

/// The first version of cr-sqlite whose tables are known here, as it records it: 0.17.0.
pub const VERSION_MIN: i64 = 170_000;
/// The first version whose tables may be others.
pub const VERSION_END: i64 = 180_000;

/// Why cr-sqlite could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrSqliteError {
    /// There is no such file.
    #[error(
        "there is no file {path}, where cr-sqlite should be: ISLE_CR_SQLITE, or `cr-sqlite` in isle.toml, has to name the built extension of cr-sqlite 0.17"
    )]
    Missing {
        /// The file that was named.
        path: std::path::PathBuf,
    },
    /// The extension could not be loaded.
    #[error(
        "cannot load cr-sqlite from {path}: {source}; name the built extension of cr-sqlite 0.17 (`scripts/fetch-cr-sqlite` installs it), for example \
         in ISLE_CR_SQLITE"
    )]
    Load {
        /// The file that was named.
        path: std::path::PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// This build of isle is an extension itself.
    #[error("isle inside another SQLite cannot load cr-sqlite; use the `isle` command or the library for this file")]
    NoLoading,
    /// The file, or the extension, is of another version of cr-sqlite.
    #[error(
        "the file has tables of cr-sqlite {found}, and those of 0.17 are known here; open it with cr-sqlite 0.17 first, or make its tables plain ones (`crsql_as_table`)"
    )]
    Version {
        /// The version that the file records: 160300 is 0.16.3.
        found: i64,
    },
    /// cr-sqlite refused a table.
    #[error("cr-sqlite does not take table {table}: {source}")]
    Table {
        /// Its name.
        table: String,
        /// What cr-sqlite said.
        source: rusqlite::Error,
    },
    /// SQLite refused a statement.
    #[error("cannot {doing} in cr-sqlite's tables: {source}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// Says what a statement was for.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, CrSqliteError>;
}

impl<T> Doing<T> for Result<T, rusqlite::Error> {
    fn doing(self, doing: &'static str) -> Result<T, CrSqliteError> {
        self.map_err(|source| CrSqliteError::Sqlite { doing, source })
    }
}

/// An identifier quoted for SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
