//! Tables that are CRRs of cr-sqlite as well: its triggers record what is written to them, and it merges what comes.
//!
//! The row clocks stay what everything else goes by (state hash, journal, history, snapshots, the log), so that such a file does all that any
//! other does. cr-sqlite's own clocks say the same at the end of every transaction of isle's:
//! * what it recorded goes to the queue before a seal ([`collect`]) and gets the seal's time as its version ([`stamp`]): `record`;
//! * what a merge decides is given to cr-sqlite, which decides by itself ([`Shown`]). Where it comes to something else, or where two times are
//!   one, or where triggers of the app are to see whole rows, the row is written by hand and its clocks are settled: `shown`.
//!
//! Facts in `isle_meta`: `engine` says that the file is for cr-sqlite; `crsql <table>` that a table is a CRR, `found crr <table>` that it was one before isle came,
//! and `lowered <table>` why it is none. In a file that is for cr-sqlite tables become CRRs where it can hold them, and those that it cannot hold (UNIQUE,
//! FOREIGN KEY, columns of a kind, …) keep isle's triggers ([`review`], in `switch`). A migration that changes a CRR makes it a plain table for as long as that
//! takes; the clocks are written anew afterwards, which costs what the rows cost. cr-sqlite's own way (`crsql_begin_alter`) would not spare that: it fills in
//! clocks of its own. What a file's clocks say of the time before it became a replica is kept: `adopt`.
//!
//! On the merging connection cr-sqlite's triggers stand aside at all times, but for the moments in which it merges itself.

pub(crate) mod adopt;
mod record;
mod shown;
mod switch;

use isle_crsqlite::{Crr, Library};
use rusqlite::Connection;

pub(crate) use record::{collect, stamp};
pub(crate) use shown::{Shown, differing, forget_collected, mirror_all, settle_rows};
pub use switch::{crrs_of, try_cr_sqlite};
pub(crate) use switch::{has_app_triggers, is_due, let_go, library, lost_triggers, release, review};

use crate::StoreError;
use crate::error::Doing as _;
use crate::layout;
use crate::tracked::Tracked;

const FACT: &str = "engine";
const CR_SQLITE: &str = "cr-sqlite";

/// The SQL condition that a trigger of this name is none of cr-sqlite's own, and that a table is none.
macro_rules! not_of_cr_sqlite {
    (trigger $name:literal) => {
        concat!($name, " NOT LIKE '%\\_\\_crsql\\__trig' ESCAPE '\\'")
    };
    (table $name:literal) => {
        concat!(
            $name,
            " NOT IN ('crsql_master', 'crsql_site_id', 'crsql_tracked_peers', 'crsql_db_versions') AND ",
            $name,
            " NOT LIKE '%\\_\\_crsql\\_clock' ESCAPE '\\' AND ",
            $name,
            " NOT LIKE '%\\_\\_crsql\\_pks' ESCAPE '\\'"
        )
    };
}
pub(crate) use not_of_cr_sqlite;

/// What records and merges the tables of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableEngine {
    /// isle's own triggers and merge.
    Native,
    /// cr-sqlite, for the tables that it can hold.
    CrSqlite,
}

/// A table, and what records and merges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableEngineOf {
    /// Its name.
    pub table: String,
    /// What it is kept by.
    pub engine: TableEngine,
    /// Why not by the engine of the file.
    pub reason: Option<String>,
}

/// The engine that the file is for.
pub(crate) fn of_file(conn: &Connection) -> Result<TableEngine, StoreError> {
    match layout::meta::<String>(conn, FACT)?.as_deref() {
        None => Ok(TableEngine::Native),
        Some(CR_SQLITE) => Ok(TableEngine::CrSqlite),
        Some(other) => Err(StoreError::Internal { table: "isle_meta", detail: format!("engine {other:?}") }),
    }
}

/// Loads cr-sqlite into a connection that will write, if the file is for it; false if it is not.
pub(crate) fn attach(library: Option<&Library>, conn: &Connection) -> Result<bool, StoreError> {
    if of_file(conn)? == TableEngine::Native {
        return Ok(false);
    }
    let library = library.ok_or(StoreError::NeedsCrSqlite)?;
    match library.load(conn) {
        Ok(()) => Ok(true),
        Err(error) => {
            isle_crsqlite::release(conn);
            Err(error.into())
        }
    }
}

fn fact(no: i64) -> String {
    format!("crsql {no}")
}

/// Which tracked tables are CRRs as well.
pub(crate) struct Companions {
    file: TableEngine,
    crrs: Vec<String>,
    known: Vec<i64>,
}

impl Companions {
    pub(crate) fn look(conn: &Connection) -> Result<Companions, StoreError> {
        // Cheaper than a look into the schema where it never was.
        let crrs = match conn.prepare("SELECT 1 FROM crsql_master") {
            Ok(_) => isle_crsqlite::crrs(conn)?,
            Err(_) => Vec::new(),
        };
        if crrs.is_empty() && of_file(conn)? == TableEngine::Native {
            return Ok(Companions { file: TableEngine::Native, crrs, known: Vec::new() });
        }
        Ok(Companions { file: of_file(conn)?, crrs, known: known(conn)? })
    }

    /// A table with what it is as a CRR; or why it cannot be worked with, if both engines record it or none does.
    pub(crate) fn join(&self, tracked: Tracked) -> Result<Tracked, StoreError> {
        let name = &tracked.table.name;
        let drift = |reason: &str| Err(StoreError::Drifted { table: name.clone(), reason: reason.to_owned() });
        let known_as = self.crrs.iter().find(|crr| crr.eq_ignore_ascii_case(name));
        match (self.known.contains(&tracked.no), known_as.is_some()) {
            (false, false) => Ok(tracked),
            (true, true) => {
                let known_as = known_as.cloned().unwrap_or_default();
                Ok(Tracked { crr: Some(crr(&tracked, &known_as)), ..tracked })
            }
            // It is about to be adopted; or an app that makes its CRRs whenever it starts has put both engines' triggers on it.
            (false, true) if self.file == TableEngine::CrSqlite => Ok(Tracked { is_both: true, ..tracked }),
            (false, true) => drift(
                "cr-sqlite was put on it past isle, so that both record it: take it off again (`SELECT crsql_as_table(…)`), or let cr-sqlite keep the \
                 file (`isle engine cr-sqlite`)",
            ),
            (true, false) => drift(
                "cr-sqlite was taken off it past isle, so that nobody records it: `isle engine cr-sqlite` puts it on again, `isle engine native` lets isle keep it. \
                 Rows that came or went meanwhile count as written then, other changes are not known",
            ),
        }
    }
}

/// The numbers of the tables that are CRRs.
fn known(conn: &Connection) -> Result<Vec<i64>, StoreError> {
    let sql = "SELECT CAST(substr(k, 7) AS INTEGER) FROM isle_meta WHERE k > 'crsql ' AND k < 'crsql!'";
    let mut statement = conn.prepare_cached(sql).doing("list the CRRs")?;
    let known = statement.query_map([], |row| row.get(0)).doing("list the CRRs")?;
    known.collect::<Result<_, _>>().doing("list the CRRs")
}

/// The statements on the clocks that cr-sqlite keeps of a table, which it knows by this name.
pub(crate) fn crr(tracked: &Tracked, known_as: &str) -> Crr {
    // As the file spells them: cr-sqlite takes other letters for another name.
    let spelled = |name: &str| {
        let column = tracked.physical.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        column.map_or_else(|| name.to_owned(), |column| column.name.clone())
    };
    let key: Vec<String> = tracked.table.key.iter().map(|column| spelled(&column.name)).collect();
    let columns: Vec<String> = tracked.table.columns.iter().map(|column| spelled(&column.name)).collect();
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    Crr::new(known_as, &key, &columns)
}

/// Rows of CRRs that were written to and not sealed yet; no extension is needed to count them.
pub(crate) fn waiting(conn: &Connection) -> Result<u64, StoreError> {
    let mut rows = 0;
    for table in unsealed(conn)? {
        rows += isle_crsqlite::written_rows(conn, &table)?;
    }
    Ok(rows)
}

/// Whether there are any.
pub(crate) fn waits(conn: &Connection) -> Result<bool, StoreError> {
    Ok(!unsealed(conn)?.is_empty())
}

/// The CRRs that were written to since the last seal, as cr-sqlite knows them.
fn unsealed(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let mut found = Vec::new();
    for no in known(conn)? {
        let Some(name) = crate::clocks::one::<String>(conn, "SELECT name FROM isle_table WHERE no = ?1", [no])? else {
            continue;
        };
        // One that is no CRR any more stands still.
        if let Some(name) = isle_crsqlite::name_of(conn, &name)?
            && isle_crsqlite::is_written(conn, &name)?
        {
            found.push(name);
        }
    }
    Ok(found)
}
