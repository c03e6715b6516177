//! What the last scan saw, row by row.

use isle_files::Stat;
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::Error;

/// A row of the index: a path below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) path: String,
    pub(super) stat: Stat,
    /// The file of the library that it is.
    pub(super) file: Option<String>,
    pub(super) state: State,
    /// Whether that file still has its row: another device may have pruned it.
    pub(super) known: bool,
}

/// How a path stood when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is a file of the library.
    Ok,
    /// Its validator does not take it.
    Invalid,
    /// It cannot be read.
    Unreadable,
    /// It is of no kind that is looked for.
    Other,
    /// It is not there any more.
    Missing,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Invalid => "invalid",
            State::Unreadable => "unreadable",
            State::Other => "other",
            State::Missing => "missing",
        }
    }

    fn parse(text: &str) -> State {
        match text {
            "ok" => State::Ok,
            "invalid" => State::Invalid,
            "other" => State::Other,
            "missing" => State::Missing,
            // Whatever it is, it is looked at again.
            _ => State::Unreadable,
        }
    }
}

impl Entry {
    /// Whether what stands there is what was looked at. Of what could not be read, nobody knows.
    pub(super) fn is_unchanged(&self, stat: &Stat) -> bool {
        self.stat == *stat && self.state != State::Unreadable && (self.known || self.file.is_none())
    }
}

const COLUMNS: &str = "id, path, bytes, modified_ns, changed_ns, inode, file, state,
    EXISTS (SELECT 1 FROM library_sound AS f WHERE f.id = library_scan.file)";

fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let stat = Stat {
        bytes: row.get::<_, i64>(2)? as u64,
        modified_ns: row.get(3)?,
        changed_ns: row.get(4)?,
        inode: row.get::<_, i64>(5)? as u64,
    };
    let state: String = row.get(7)?;
    let (id, path, file, known) = (row.get(0)?, row.get(1)?, row.get(6)?, row.get(8)?);
    Ok(Entry { id, path, stat, file, state: State::parse(&state), known })
}

pub(super) fn failed(source: rusqlite::Error) -> Error {
    isle_store::StoreError::of_statement("look into the index of files", source).into()
}

/// The entry of a path.
pub(super) fn find(conn: &Connection, root: i64, path: &str) -> Result<Option<Entry>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM library_scan WHERE root = ?1 AND path = ?2");
    let mut statement = conn.prepare_cached(&sql).map_err(failed)?;
    statement.query_row((root, path), read).optional().map_err(failed)
}

/// Entries of a root after an id, in the order of ids.
pub(super) fn page(conn: &Connection, root: i64, after: i64, most: usize) -> Result<Vec<Entry>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM library_scan WHERE +root = ?1 AND id > ?2 ORDER BY id LIMIT ?3");
    let mut statement = conn.prepare_cached(&sql).map_err(failed)?;
    let rows = statement.query_map((root, after, most as i64), read).map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

/// Some entries of a root that are there and whose times are known.
pub(super) fn sample(conn: &Connection, root: i64, most: usize) -> Result<Vec<Entry>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM library_scan WHERE root = ?1 AND state IN ('ok', 'other', 'invalid') AND modified_ns >= 0 LIMIT ?2"
    );
    let mut statement = conn.prepare_cached(&sql).map_err(failed)?;
    let rows = statement.query_map((root, most as i64), read).map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

/// Entries below a folder of a root, and that of the path itself.
pub(super) fn below(conn: &Connection, root: i64, path: &str) -> Result<Vec<Entry>, Error> {
    // `0` follows `/`.
    let sql = format!(
        "SELECT {COLUMNS} FROM library_scan WHERE root = ?1 AND (path = ?2 OR (path > ?2 || '/' AND path < ?2 || '0'))"
    );
    let mut statement = conn.prepare_cached(&sql).map_err(failed)?;
    let rows = statement.query_map((root, path), read).map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

/// Entries that are there, by the library's file that they are.
pub(super) fn places(conn: &Connection, file: &str) -> Result<Vec<(i64, Entry)>, Error> {
    let sql = format!("SELECT {COLUMNS}, root FROM library_scan WHERE file = ?1 AND state = 'ok' ORDER BY id");
    let mut statement = conn.prepare_cached(&sql).map_err(failed)?;
    let rows = statement.query_map([file], |row| Ok((row.get(9)?, read(row)?))).map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}

/// Entries of a root whose content is the same.
pub(super) fn with_content(conn: &Connection, root: i64, content: &str) -> Result<Vec<Entry>, Error> {
    // Of many that are alike, empty ones say, a few have to do.
    let sql = format!("SELECT {COLUMNS} FROM library_scan WHERE root = ?1 AND content = ?2 LIMIT 16");
    let mut statement = conn.prepare_cached(&sql).map_err(failed)?;
    let rows = statement.query_map((root, content), read).map_err(failed)?;
    rows.collect::<Result<_, _>>().map_err(failed)
}
